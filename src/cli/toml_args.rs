//! TOML tables parsed as command lines: a key is a flag without its dashes, and clap checks its value. A flag that is
//! added to a program is a key of its files, too.
//!
//! ```text
//! --delay 5ms --num-bytes 10          delay = "5ms"
//!                                     num-bytes = 10
//! ```

use std::any::TypeId;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgGroup, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Error, nearest, one_line, read_text};
use crate::poem::NamedPoem;

/// The clap group of one-shot flags (`--list`, `--rehearse`), which are not allowed in a file.
pub const ONE_SHOT: &str = "one-shot";

/// The clap group of flags that are for a command line only, and not allowed in a file either.
pub const COMMAND_LINE: &str = "command-line";

/// A TOML file, for errors that name its lines.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    text: String,
}

/// A TOML table and its position in the file.
#[derive(Debug, Clone, Copy)]
pub struct TomlTable<'a> {
    file: &'a File,
    /// Offset of its first byte.
    at: usize,
    entries: &'a DeTable<'a>,
}

impl File {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), text: read_text(path)? })
    }

    /// Parses the file, for [`table`](Self::table).
    ///
    /// # Errors
    /// The file is not TOML.
    pub fn parse(&self) -> Result<Spanned<DeTable<'_>>, Error> {
        DeTable::parse(&self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let what = match (error.message(), error.span().and_then(|span| self.text.get(span))) {
                ("duplicate key", Some(key)) => &format!("duplicate key '{key}'"),
                (what, _) => what,
            };
            self.wrong(at, what)
        })
    }

    /// The whole file as a table, once it is [parsed](Self::parse).
    pub fn table<'a>(&'a self, parsed: &'a Spanned<DeTable<'a>>) -> TomlTable<'a> {
        TomlTable { file: self, at: 0, entries: parsed.get_ref() }
    }

    /// The number of the line of the byte at this offset, from 1.
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
    }

    /// `FILE:LINE`.
    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(at))
    }

    /// An error `FILE:LINE: what is wrong`, in one line.
    fn wrong(&self, at: usize, what: &str) -> Error {
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        Error::usage(format!("{}: {what}", self.place(at)))
    }
}

impl<'a> TomlTable<'a> {
    /// The number of the line on which the table begins.
    pub fn line(&self) -> usize {
        self.file.line(self.at)
    }

    /// Whether the table has this key.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The position of this key, or of the table if there is no such key: `FILE:LINE`.
    pub fn place(&self, key: &str) -> String {
        self.file.place(self.start(key))
    }

    /// An error at this key, or at the table if there is no such key.
    pub fn wrong(&self, key: &str, what: &str) -> Error {
        self.file.wrong(self.start(key), what)
    }

    /// The offset of this key, or of the table if there is no such key.
    fn start(&self, key: &str) -> usize {
        self.entries.get_key_value(key).map_or(self.at, |(key, _)| key.span().start)
    }

    /// Checks that the table has no keys but these.
    ///
    /// # Errors
    /// The table has another one.
    pub fn only(&self, known: &[&str]) -> Result<(), Error> {
        match self.entries.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
            None => Ok(()),
            Some(key) => Err(self.unknown(key.get_ref(), known)),
        }
    }

    /// An error about a key that is none of the known ones.
    fn unknown(&self, key: &str, known: &[&str]) -> Error {
        let hint = nearest(key, known.iter().map(ToString::to_string));
        let hint = hint.map(|name| format!(" (a similar one is '{name}')"));
        let (hint, known) = (hint.unwrap_or_default(), known.join(", "));
        self.wrong(key, &format!("unknown key '{key}'{hint}; known are {known}"))
    }

    /// The inner table of this name, `[key]`, if there is one.
    ///
    /// # Errors
    /// The key is no table.
    pub fn table(&self, key: &str) -> Result<Option<TomlTable<'a>>, Error> {
        self.entries.get(key).map(|value| self.inner(key, value)).transpose()
    }

    /// The array of tables of this name, `[[key]]`; empty if there is none.
    ///
    /// # Errors
    /// The key is no array of tables.
    pub fn tables(&self, key: &str) -> Result<Vec<TomlTable<'a>>, Error> {
        match self.entries.get(key).map(Spanned::get_ref) {
            None => Ok(Vec::new()),
            Some(DeValue::Array(values)) => values.iter().map(|value| self.inner(key, value)).collect(),
            Some(_) => Err(self.wrong(key, &format!("'{key}' is not a list of tables: write [[{key}]]"))),
        }
    }

    fn inner(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Result<TomlTable<'a>, Error> {
        match value.get_ref() {
            DeValue::Table(entries) => Ok(TomlTable { file: self.file, at: value.span().start, entries }),
            _ => Err(self.wrong(key, &format!("'{key}' is not a table"))),
        }
    }

    /// Parses the table, without some of its keys, as the arguments `A`.
    ///
    /// # Errors
    /// A key is unknown or its value makes no sense, as on a command line.
    pub fn args<A: clap::Args>(&self, without: &[&str]) -> Result<A, Error> {
        let mut command = A::augment_args(Command::new("table").no_binary_name(true).disable_help_flag(true));
        command.build();
        let is_no_key = |arg: &Arg| {
            let groups =
                command.get_groups().filter(|group| [ONE_SHOT, COMMAND_LINE].contains(&group.get_id().as_str()));
            groups.flat_map(ArgGroup::get_args).any(|id| id == arg.get_id())
        };
        let keys = || command.get_arguments().filter(|arg| !is_no_key(arg));
        let (mut words, mut last_words) = (Vec::new(), vec!["--".to_owned()]);
        for (key, value) in self.entries.iter().filter(|(key, _)| !without.contains(&key.get_ref().as_ref())) {
            let key = key.get_ref().as_ref();
            let arg = keys().find(|arg| is_called(arg, key)).ok_or_else(|| {
                let mut known: Vec<&str> = keys().map(name).chain(without.iter().copied()).collect();
                known.sort_unstable();
                self.unknown(key, &known)
            })?;
            let values = match value.get_ref() {
                DeValue::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
                    values.iter().map(Spanned::get_ref).collect()
                }
                value => vec![value],
            };
            for value in values {
                let found = self.words(arg, value).map_err(|what| self.wrong(key, &format!("{key}: {what}")))?;
                if arg.is_positional() { last_words.extend(found) } else { words.extend(found) }
            }
        }
        words.append(&mut last_words);
        let matches = command.clone().try_get_matches_from(words);
        matches.and_then(|matches| A::from_arg_matches(&matches)).map_err(|error| self.explain(&command, &error))
    }

    /// The value of an argument as words of a command line: none for a switch that is off. A path is taken relative to
    /// the file's directory.
    fn words(&self, arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
        let flag = format!("--{}", name(arg));
        let text = match (arg.get_action(), value) {
            (ArgAction::SetTrue, DeValue::Boolean(on)) => return Ok(on.then_some(flag).into_iter().collect()),
            (ArgAction::SetTrue, _) => {
                return Err(format!("it must be true or false, but its type is {}", value.type_str()));
            }
            (ArgAction::Count, DeValue::Integer(number)) => {
                let times = number.as_str().parse::<u8>().map_err(|_| "it must be a small number".to_owned())?;
                return Ok(vec![flag; times.into()]);
            }
            (_, value) if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() => {
                let DeValue::String(text) = value else {
                    return Err(format!("it must be a string, but its type is {}", value.type_str()));
                };
                let path = self.file.path.parent().unwrap_or(Path::new("")).join(text.as_ref());
                // What a program takes without a flag is a poem, which may be one that is built in.
                let is_poem =
                    arg.is_positional() && !path.exists() && NamedPoem::find(Path::new(&**text)).file().is_none();
                if is_poem { text.to_string() } else { path.to_str().ok_or("the path is not UTF-8")?.to_owned() }
            }
            (_, DeValue::String(text)) => text.to_string(),
            (_, DeValue::Float(number)) => number.as_str().to_owned(),
            (_, DeValue::Integer(number)) => i128::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| "the number is too large".to_owned())?
                .to_string(),
            _ => return Err(format!("it must be a string or a number, but its type is {}", value.type_str())),
        };
        Ok(vec![if arg.is_positional() { text } else { format!("{flag}={text}") }])
    }

    /// An error of clap's with its flags replaced by keys, at the key that it is about.
    fn explain(&self, command: &Command, error: &clap::Error) -> Error {
        let mut text = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) => {
                format!("{} is missing", missing.join(" and "))
            }
            _ => one_line(&error.render().to_string()),
        };
        let culprit = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
        let mut found = "";
        for arg in command.get_arguments() {
            let flag = arg.to_string();
            text = text.replace(&flag, name(arg));
            if culprit == flag {
                found = name(arg);
            }
        }
        self.wrong(found, &text)
    }
}

/// The key of an argument: its long flag without dashes, or the name of a positional one.
fn name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_else(|| arg.get_id().as_str())
}

/// Whether this is the key of an argument, or what it was called before.
fn is_called(arg: &Arg, key: &str) -> bool {
    name(arg) == key || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, clap::Args)]
    struct Args {
        file: String,
        #[arg(long, alias = "number")]
        count: Option<u8>,
        #[arg(long, conflicts_with = "count")]
        rate: Option<f64>,
        #[arg(long, requires = "rate")]
        well_done: bool,
        #[arg(long)]
        names: Vec<String>,
        #[arg(long)]
        path: Option<PathBuf>,
        #[arg(long, action = ArgAction::Count)]
        loud: u8,
        #[arg(long, group = ONE_SHOT)]
        list: bool,
    }

    fn file(text: &str) -> File {
        File { path: "dir/x.toml".into(), text: text.to_owned() }
    }

    fn args(text: &str) -> Result<Args, String> {
        let file = file(text);
        let parsed = file.parse().map_err(|error| error.message)?;
        file.table(&parsed).args(&["ignored"]).map_err(|error| error.message)
    }

    #[test]
    fn keys_are_flags() {
        let parsed =
            args("file = '-x'\nrate = 0.5\nwell-done = true\nnames = ['a', 'b=c', '--d']\nignored = 1979-05-27");
        let names = ["a", "b=c", "--d"].map(str::to_owned).to_vec();
        let expected = Args {
            file: "-x".to_owned(),
            count: None,
            rate: Some(0.5),
            well_done: true,
            names,
            path: None,
            loud: 0,
            list: false,
        };
        assert_eq!(parsed, Ok(expected));
        assert_eq!(args("file = 'x'\ncount = 0x10\nwell-done = false").map(|args| args.count), Ok(Some(16)));
        assert_eq!(args("file = 'x'\nloud = 2").map(|args| args.loud), Ok(2));
    }

    #[test]
    fn paths_are_relative_to_the_directory_of_the_file() {
        for (path, expected) in [("poems/x", "dir/poems/x"), ("/poems/x", "/poems/x")] {
            assert_eq!(args(&format!("file = 'x'\npath = '{path}'")).map(|args| args.path), Ok(Some(expected.into())));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            (
                "file = 'x'\n\ncuont = 1",
                "dir/x.toml:3: unknown key 'cuont' (a similar one is 'count'); known are count, file, ignored, loud, names, path, rate, well-done",
            ),
            (
                "file = 'x'\ncount = 'ten'",
                "dir/x.toml:2: invalid value 'ten' for 'count': invalid digit found in string",
            ),
            ("file = 'x'\ncount = 256", "dir/x.toml:2: invalid value '256' for 'count': 256 is not in 0..=255"),
            (
                "file = 'x'\ncount = true",
                "dir/x.toml:2: count: it must be a string or a number, but its type is boolean",
            ),
            ("file = 'x'\nwell-done = 1", "dir/x.toml:2: well-done: it must be true or false, but its type is integer"),
            ("file = 'x'\ncount = 1\nrate = 2", "dir/x.toml:2: the argument 'count' cannot be used with 'rate'"),
            ("\nwell-done = true\nfile = 'x'", "dir/x.toml:1: rate is missing"),
            ("file = 'x'\ncount = [1]", "dir/x.toml:2: count: it must be a string or a number, but its type is array"),
            ("file = 'x'\nwell-done = []", "dir/x.toml:2: well-done: it must be true or false, but its type is array"),
            ("file = 'x'\nloud = 300", "dir/x.toml:2: loud: it must be a small number"),
            ("count = 1", "dir/x.toml:1: file is missing"),
            ("file = 'x'\ncount = 1\ncount = 2", "dir/x.toml:3: duplicate key 'count'"),
            ("file = \n", "dir/x.toml:1: string values must be quoted, expected literal string"),
        ] {
            assert_eq!(args(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn tables_within_tables_know_their_lines() {
        let file = file("[[a]]\nx = 1\n[[a]]\ny = 2\n[b]\nz = 3\n");
        let parsed = file.parse().expect("TOML");
        let whole = file.table(&parsed);
        let tables = whole.tables("a").expect("tables");
        assert_eq!(tables.len(), 2);
        assert_eq!(tables[1].only(&["x"]).expect_err("y").message, "dir/x.toml:4: unknown key 'y'; known are x");
        assert_eq!(tables[1].wrong("x", "no x").message, "dir/x.toml:3: no x");
        assert!(whole.table("b").expect("a table").is_some() && whole.table("c").expect("none").is_none());
        assert_eq!(whole.table("a").expect_err("a list").message, "dir/x.toml:1: 'a' is not a table");
        assert_eq!(
            whole.tables("b").expect_err("one").message,
            "dir/x.toml:5: 'b' is not a list of tables: write [[b]]"
        );
    }
}

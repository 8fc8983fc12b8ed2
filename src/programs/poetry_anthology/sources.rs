//! The sources of an anthology: words of a command line, or a file of tables.
//!
//! ```text
//! [[source]]
//! name = "science"
//! address = "10001"            # or "poems.example:10001", or "http://poems.example/science.txt"
//! timeout = "10s"
//! ```

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::duration;
use crate::cli::toml_args::{File, TomlTable};
use crate::cli::{Error, values};
use crate::client::{self, Target};
use crate::server::anthology::{Kind, Limits, Place, Source};

/// What a file has beside sources: nothing.
const SOURCE: &str = "source";

/// The keys of a source.
#[derive(Debug, clap::Args)]
struct SourceArgs {
    #[arg(long)]
    address: Target,
    #[arg(long)]
    name: Option<String>,
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
    #[arg(long, value_parser = duration)]
    idle_timeout: Option<Duration>,
    #[arg(long, value_parser = values::positive_size)]
    max_size: Option<NonZeroUsize>,
    #[arg(long, value_enum)]
    kind: Option<Word>,
}

/// A [`Kind`] as a word.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Word {
    Text,
    Title,
    Feed,
}

impl From<Word> for Kind {
    fn from(word: Word) -> Self {
        match word {
            Word::Text => Self::Text,
            Word::Title => Self::Title,
            Word::Feed => Self::Feed,
        }
    }
}

/// Sources of a command line, all with these limits.
pub(super) fn of_words(targets: &[Target], limits: Limits) -> Vec<Source> {
    targets.iter().map(|target| source(target, None, None, limits)).collect()
}

/// Reads a file of sources. What a table does not say is as in these limits.
///
/// # Errors
/// It cannot be read, or makes no sense.
pub(super) fn read(path: &Path, limits: Limits) -> Result<Vec<Source>, Error> {
    let file = File::read(path)?;
    let parsed = file.parse()?;
    let whole = file.table(&parsed);
    whole.only(&[SOURCE])?;
    let sources: Vec<Source> =
        whole.tables(SOURCE)?.iter().map(|table| of_table(table, limits)).collect::<Result<_, Error>>()?;
    if sources.is_empty() { Err(whole.wrong("", "there is no source: write [[source]]")) } else { Ok(sources) }
}

fn of_table(table: &TomlTable<'_>, limits: Limits) -> Result<Source, Error> {
    let args: SourceArgs = table.args(&[])?;
    // Both ways to write a name have one law.
    let name = match &args.name {
        None => None,
        Some(name) => {
            let named: Result<Target, _> = format!("{name}=1").parse();
            let named = named.ok().and_then(|target| target.name).filter(|its| its == name);
            let why = "it is up to 64 characters that can be seen, has no =, and looks like no host and no port";
            Some(named.ok_or_else(|| table.wrong("name", &format!("name: {why}")))?)
        }
    };
    let limits = Limits {
        timeout: args.timeout.unwrap_or(limits.timeout),
        idle_timeout: args.idle_timeout.unwrap_or(limits.idle_timeout),
        max_size: args.max_size.map_or(limits.max_size, NonZeroUsize::get),
    };
    Ok(source(&args.address, name, args.kind.map(Kind::from), limits))
}

fn source(target: &Target, name: Option<String>, kind: Option<Kind>, limits: Limits) -> Source {
    let place = match &target.source {
        client::Source::Poem(address) => Place::Poem(address.clone()),
        client::Source::Http(url) => Place::Http(url.clone()),
    };
    Source { name: name.or_else(|| target.name.clone()), place, kind, limits }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { timeout: Duration::from_secs(5), idle_timeout: Duration::from_secs(2), max_size: 1 << 20 };

    fn read_text(text: &str) -> Result<Vec<Source>, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s.toml");
        std::fs::write(&path, text).expect("written");
        let place = format!("{}:", path.display());
        read(&path, LIMITS).map_err(|error| error.message.replace(&place, ""))
    }

    #[test]
    fn a_source_has_its_own_limits_or_those_of_all() {
        let sources = read_text(
            "[[source]]\naddress = 10001\n\
             [[source]]\nname = 'news'\naddress = 'http://a.example/feed'\ntimeout = '10s'\nidle-timeout = 1\nmax-size = '64KiB'\nkind = 'feed'\n\
             [[source]]\naddress = 'donne=[::1]:7'\n",
        );
        let sources = sources.expect("three sources");
        assert_eq!((sources[0].place.to_string(), sources[0].limits), ("127.0.0.1:10001".to_owned(), LIMITS));
        let limits =
            Limits { timeout: Duration::from_secs(10), idle_timeout: Duration::from_secs(1), max_size: 64 << 10 };
        assert_eq!(
            (sources[1].name.as_deref(), sources[1].kind, sources[1].limits),
            (Some("news"), Some(Kind::Feed), limits)
        );
        assert_eq!((sources[2].name.as_deref(), sources[2].place.to_string()), (Some("donne"), "[::1]:7".to_owned()));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line() {
        for (text, expected) in [
            ("", "1: there is no source: write [[source]]"),
            ("sources = 1", "1: unknown key 'sources' (a similar one is 'source'); known are source"),
            ("[[source]]\nname = 'x'", "1: address is missing"),
            ("[[source]]\naddress = 1\ntimeout = 0", "3: invalid value '0' for 'timeout': it must be longer than 0"),
            ("[[source]]\naddress = 1\nname = 'a.b'", "3: name: it is up to 64 characters that can be seen"),
            (
                "[[source]]\naddress = 'https://a.example/'",
                "2: invalid value 'https://a.example/' for 'address': https is not",
            ),
            ("[[source]]\naddress = 1\nkind = 'x'", "3: invalid value 'x' for 'kind'"),
        ] {
            let why = read_text(text).expect_err("nonsense");
            assert!(why.starts_with(expected), "{text}: {why}");
        }
    }
}

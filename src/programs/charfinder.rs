//! charfinder as a program.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Error, FAILURE, SUCCESS, stdout, values};
use crate::unicode::{self, Answer, Index, Query, Ranges, Rows, Status};

/// Find Unicode characters by the words of their names
///
/// All words have to be in the name of a character, or in its aliases; cat* stands for every word that begins so. U+265C or
/// ♜ is that character, and several are any of them. The names are those of Unicode 17.0.0.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What to find: cat face, cat*, U+265C, ♜
    #[arg(value_name = "WORD", required_unless_present = "words")]
    query: Vec<String>,

    /// Print the most frequent words of all names, and how many characters have them; 0: all words
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10", conflicts_with_all = ["query", "json", "count"])]
    #[arg(value_parser = values::whole::<usize>(0, u64::MAX), allow_negative_numbers = true)]
    words: Option<usize>,

    /// Print the answer as one object of JSON
    #[arg(long, help_heading = "Answer", conflicts_with_all = ["count", "raw"])]
    json: bool,

    /// Print how many there are, and nothing else
    #[arg(long, help_heading = "Answer", conflicts_with_all = ["raw", "start", "limit"])]
    count: bool,

    /// Print every character as it is, even if it does something to the terminal
    #[arg(long, help_heading = "Answer")]
    raw: bool,

    /// Leave out the first N
    #[arg(long, help_heading = "Answer", value_name = "N", default_value = "0")]
    #[arg(value_parser = values::whole::<usize>(0, u64::MAX), allow_negative_numbers = true)]
    start: usize,

    /// Print N at most
    #[arg(long, help_heading = "Answer", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    limit: Option<NonZeroUsize>,

    /// Do not say how many there are
    #[arg(long, short, help_heading = "Answer")]
    quiet: bool,
}

const AFTER_HELP: &str = "\
A line has the code, a tab, the character, a tab, and the name. What cannot stand alone is shown as something else, unless \
--raw is given: a combining mark on a dotted circle, a control as its picture, and what cannot be seen, or turns the direction \
or ends the line, as U+FFFD. How many there are is said on stderr.

Examples:
  charfinder cat face
      All cats that are faces
  charfinder 'chess*' black
      Any word that begins with CHESS, and BLACK; the quotes are for the shell
  charfinder ♜ U+202E
      What is this?
  charfinder --count cjk
      How many? (Those whose names follow from a rule are counted, not looked at)
  charfinder --json --start 200 --limit 100 latin
      A page of an answer, as http-charfinder gives it

Exit status:
  0    found
  1    nothing found, or stdout cannot be written
  2    the command line makes no sense";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("charfinder", |args: Args| args.run())
}

impl Args {
    fn run(&self) -> Result<u8, Error> {
        if let Some(most) = self.words {
            return tell_frequent_words(most);
        }
        let text = self.query.join(" ");
        let query = Query::parse(&text).map_err(|malformed| Error::usage(malformed.to_string()))?;
        if query.is_empty() {
            return Err(Error::usage(format!("there is no word in {}", unicode::Quoted(&text))));
        }
        let found = unicode::find(&query);
        let total = found.total();
        match self.count {
            true => stdout::write_all(format!("{total}\n").as_bytes())?,
            false => stdout::write_with(|stdout| self.write(query.text(), found, stdout))?,
        }
        if !self.quiet && !self.count {
            let status = format!("({})\n", Status { total, query: query.text() });
            // Whoever has closed stderr does not want to know.
            let _ = io::stderr().write_all(status.as_bytes());
        }
        Ok(if total > 0 { SUCCESS } else { FAILURE })
    }

    fn write(&self, query: &str, found: Ranges, stdout: &mut dyn Write) -> io::Result<()> {
        let (total, start) = (found.total(), self.start);
        let rows = Rows::new(found.into_codes(start)).take(self.limit.map_or(usize::MAX, NonZeroUsize::get));
        if self.json {
            Answer { query, total, start, items: rows }.write_json(&mut *stdout)?;
            return stdout.write_all(b"\n");
        }
        let mut line = String::new();
        for found in rows {
            line.clear();
            found.push_line(&mut line, self.raw);
            line.push('\n');
            stdout.write_all(line.as_bytes())?;
        }
        Ok(())
    }
}

/// Lines of `103203 CJK`.
fn tell_frequent_words(most: usize) -> Result<u8, Error> {
    let frequencies = Index::new().frequencies();
    let most = if most == 0 { frequencies.len() } else { most };
    let mut lines = String::new();
    for (word, count) in frequencies.into_iter().take(most) {
        // Writing to a text cannot fail.
        let _ = writeln!(lines, "{count:6} {word}");
    }
    stdout::write_all(lines.as_bytes()).map(|()| SUCCESS)
}

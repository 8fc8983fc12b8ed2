//! The furniture of all programs: errors and exit statuses, arguments, logs, the terminal, signals.
//!
//! A program is a [`run`] of a function that takes parsed arguments. stdout is for poems, address lines and reports;
//! stderr is for messages about them.

pub mod command;
pub mod expectation;
mod files;
pub mod journal;
mod keeper;
pub mod listen;
pub mod logs;
pub mod open_files;
mod printable;
pub mod ready;
pub mod signals;
pub mod stdout;
pub mod stopping;
pub mod terminal;
pub mod toml_args;
pub mod values;

use std::fmt::Display;
use std::io;
use std::panic;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};

use crate::errors::reason;
pub(crate) use files::{is_same_file, read_text};
pub(crate) use printable::printable;

/// Exit status: all well.
pub const SUCCESS: u8 = 0;
/// Exit status: something failed: a poem did not arrive, a port was taken.
pub const FAILURE: u8 = 1;
/// Exit status: the command line makes no sense.
pub const USAGE: u8 = 2;

/// An error that ends a program: one line for stderr and an exit status.
#[derive(Debug)]
pub struct Error {
    status: u8,
    pub(crate) message: String,
}

impl Error {
    /// Exit status 1: the world is not as it should be.
    pub fn failure(message: impl Into<String>) -> Self {
        Self { status: FAILURE, message: message.into() }
    }

    /// Exit status 2: the command line or the environment makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: USAGE, message: message.into() }
    }

    /// Prefixes the message.
    #[must_use]
    pub fn prefixed(self, prefix: &str) -> Self {
        Self { message: format!("{prefix}{}", self.message), ..self }
    }

    /// The system gives no thread.
    pub fn no_thread(error: &io::Error) -> Self {
        Self::cannot("start", "a thread", error)
    }

    /// Exit status 1, and the message `cannot WHAT ON: REASON`.
    pub fn cannot(what: &str, on: impl Display, error: &io::Error) -> Self {
        Self::failure(format!("cannot {what} {on}: {}", reason(error)))
    }
}

/// The `main` of every program: parses the command line, runs `body`, and turns its end into an exit status. (Unless a
/// server has executed its program again as the keeper of a [command](mod@command).)
pub fn run<A: Parser>(program: &'static str, body: impl FnOnce(A) -> Result<u8, Error>) -> ExitCode {
    if let Some(status) = keeper::keep(program) {
        return ExitCode::from(status);
    }
    panic::set_hook(Box::new(move |panic| say(program, &internal_error(panic))));
    let status = parse(program).and_then(body).unwrap_or_else(|error| {
        if !error.message.is_empty() {
            say(program, &error.message);
        }
        error.status
    });
    journal::flush(signals::LAST_WORDS);
    ExitCode::from(status)
}

fn parse<A: Parser>(program: &'static str) -> Result<A, Error> {
    let matches = command::<A>(program).try_get_matches();
    matches.and_then(|mut matches| A::from_arg_matches_mut(&mut matches)).map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            // A closed pipe (`| head`) is no error.
            let _ = error.print();
            return Error { status: SUCCESS, message: String::new() };
        }
        Error::usage(one_line(&error.render().to_string()) + "; see --help")
    })
}

pub(crate) fn command<A: CommandFactory>(program: &'static str) -> Command {
    A::command().name(program).bin_name(program)
}

/// Makes one line of a clap error, which is paragraphs: what is wrong, tips, usage, where to find help.
fn one_line(error: &str) -> String {
    let mut paragraphs = error.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default();
    let mut line = what.strip_prefix("error: ").unwrap_or(&what).to_owned();
    for tip in paragraphs.filter(|text| text.starts_with("tip: ")) {
        line.push_str(&format!(" ({tip})"));
    }
    line
}

pub(crate) fn internal_error(panic: &panic::PanicHookInfo<'_>) -> String {
    let what = panic.payload_as_str().unwrap_or("unknown").replace('\n', " ");
    match panic.location() {
        Some(place) => format!("internal error: {what} ({}:{})", place.file(), place.line()),
        None => format!("internal error: {what}"),
    }
}

/// Writes one line to stderr.
fn say(program: &str, message: &str) {
    journal::say(&format!("{program}: {}\n", printable(message)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_in_paragraphs_becomes_one_line() {
        let text = "error: unexpected argument '--dely' found\n\n  tip: a similar argument exists: '--delay'\n\n\
                    Usage: slowpoetry --delay <DURATION> <FILE>\n\nFor more information, try '--help'.\n";
        assert_eq!(one_line(text), "unexpected argument '--dely' found (tip: a similar argument exists: '--delay')");
        let text = "error: the following required arguments were not provided:\n  <FILE>\n\nUsage: x\n";
        assert_eq!(one_line(text), "the following required arguments were not provided: <FILE>");
    }
}

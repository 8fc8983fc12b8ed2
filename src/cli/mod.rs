//! The furniture of all programs: errors and exit statuses, arguments, logs, the terminal, signals.
//!
//! A program is a [`run`] of a function that takes parsed arguments. stdout is for poems, address lines and reports;
//! stderr is for messages about them.

pub mod command;
mod environment;
pub mod expectation;
mod files;
pub mod journal;
mod keeper;
pub mod listen;
pub mod logs;
pub mod machine;
pub mod open_files;
mod printable;
pub mod ready;
pub mod signals;
pub mod stdout;
pub mod stopping;
pub mod terminal;
pub mod toml_args;
pub mod values;

use std::env;
use std::fmt::Display;
use std::io;
use std::panic;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, Parser};

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
    run_and_explain(program, |_| None, body)
}

/// [`run`], where `unknown` may know more about a word that the command line has no place for.
pub fn run_and_explain<A: Parser>(
    program: &'static str,
    unknown: impl FnOnce(&str) -> Option<Error>,
    body: impl FnOnce(A) -> Result<u8, Error>,
) -> ExitCode {
    if let Some(status) = keeper::keep(program) {
        return ExitCode::from(status);
    }
    panic::set_hook(Box::new(move |panic| say(program, &internal_error(panic))));
    let status = parse(program, unknown).and_then(body).unwrap_or_else(|error| {
        if !error.message.is_empty() {
            say(program, &error.message);
        }
        error.status
    });
    journal::flush(signals::LAST_WORDS);
    ExitCode::from(status)
}

fn parse<A: Parser>(program: &'static str, unknown: impl FnOnce(&str) -> Option<Error>) -> Result<A, Error> {
    let command = command::<A>(program);
    let matches = command.clone().try_get_matches();
    matches.and_then(|mut matches| A::from_arg_matches_mut(&mut matches)).map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            // A closed pipe (`| head`) is no error.
            let _ = error.print();
            return Error { status: SUCCESS, message: String::new() };
        }
        let word = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => unknown(word),
            _ => None,
        };
        word.unwrap_or_else(|| Error::usage(explain(&error, &command) + "; see --help"))
    })
}

/// A clap error in one line, with what a person who reads it can do.
fn explain(error: &clap::Error, command: &Command) -> String {
    let texts = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            let missing = texts(ContextKind::InvalidArg);
            format!("{} {} missing", missing.join(" and "), if missing.len() == 1 { "is" } else { "are" })
        }
        ErrorKind::UnknownArgument => {
            let unknown = texts(ContextKind::InvalidArg).concat();
            let flags = command.get_arguments().filter_map(Arg::get_long);
            let hint = match unknown.strip_prefix('-') {
                // Other programs have short forms that we have not.
                Some(letter) if letter.len() == 1 => flags
                    .filter(|flag| flag.starts_with(letter))
                    .min_by_key(|flag| flag.len())
                    .map(|flag| format!("--{flag}")),
                Some(long) if long.starts_with('-') => nearest(&unknown, flags.map(|flag| format!("--{flag}"))),
                _ => None,
            };
            let hint = hint.map_or_else(String::new, |flag| format!(" (a similar one is '{flag}')"));
            format!("unexpected argument '{unknown}'{hint}")
        }
        ErrorKind::ArgumentConflict => {
            let mut others = texts(ContextKind::PriorArg);
            let given: Vec<String> = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            let is_given = |other: &String| {
                let flag = other.split(' ').next().unwrap_or_default();
                given.iter().any(|word| word.split('=').next() == Some(flag))
            };
            // A group is told as a whole, and of its flags one is enough.
            if others.iter().any(is_given) {
                others.retain(is_given);
            }
            let this = texts(ContextKind::InvalidArg).concat();
            match others.contains(&this) {
                true => format!("{this} is given more than once"),
                false => format!("{this} cannot be used with {}", others.join(" and ")),
            }
        }
        ErrorKind::InvalidValue if texts(ContextKind::InvalidValue).concat().is_empty() => {
            format!("{} has no value", texts(ContextKind::InvalidArg).concat())
        }
        ErrorKind::InvalidValue => {
            let [value, arg] = [ContextKind::InvalidValue, ContextKind::InvalidArg].map(|kind| texts(kind).concat());
            let known = texts(ContextKind::ValidValue);
            let hint = nearest(&value, known.iter().cloned());
            let hint = hint.map_or_else(String::new, |known| format!(" (a similar one is '{known}')"));
            format!("invalid value '{value}' for '{arg}'{hint}: it must be {}", any_of(&known))
        }
        _ => one_line(&error.render().to_string()),
    }
}

/// These words as a choice: `one, two or three`.
pub(crate) fn any_of(words: &[String]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        words => words.concat(),
    }
}

/// The most similar of these words, if it is so similar that it may be meant.
pub(crate) fn nearest(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    /// Minimal Jaro-Winkler similarity (0 to 1).
    const SIMILAR: f64 = 0.8;
    let rated = known.map(|known| (strsim::jaro_winkler(word, &known), known));
    rated
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(rate, _)| *rate > SIMILAR)
        .map(|(_, known)| known)
}

pub(crate) fn command<A: CommandFactory>(program: &'static str) -> Command {
    described(A::command().name(program).bin_name(program))
}

/// The command with all that its help says.
pub(crate) fn described(command: Command) -> Command {
    environment::tell(command)
}

/// Makes one line of a clap error, which is paragraphs: what is wrong, tips, usage, where to find help.
fn one_line(error: &str) -> String {
    let mut paragraphs = error.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default();
    let mut line = what.strip_prefix("error: ").unwrap_or(&what).to_owned();
    // That a flag could be meant as a value helps nobody.
    for tip in paragraphs.filter(|text| text.starts_with("tip: ") && !text.contains(" as a value, use ")) {
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
pub(crate) fn say(program: &str, message: &str) {
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

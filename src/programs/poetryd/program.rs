//! The programs that poetryd can run, as its subcommands: those of [`SERVICES`], with the words that they take
//! themselves.

use std::env;
use std::fmt;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand};

use crate::cli::{self, Error};
use crate::programs::service::{Launch, ProcessArgs};
use crate::programs::{SERVICES, ServiceProgram};

/// What is to be run.
pub(super) enum Program {
    /// One of [`SERVICES`].
    Service(Box<dyn Launch>, ProcessArgs),
    /// None of them has this name.
    Other(String),
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(launch, _) => write!(f, "Service({})", launch.program()),
            Self::Other(name) => write!(f, "Other({name})"),
        }
    }
}

impl FromArgMatches for Program {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let (name, matches) = matches.subcommand().ok_or_else(|| clap::Error::new(ErrorKind::MissingSubcommand))?;
        match SERVICES.iter().find(|program| program.name == name) {
            Some(program) => (program.from_matches)(matches).map(|(launch, process)| Self::Service(launch, process)),
            None => Ok(Self::Other(name.to_owned())),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|program| *self = program)
    }
}

impl Subcommand for Program {
    fn augment_subcommands(command: Command) -> Command {
        let service = |program: &ServiceProgram| (program.augment)(Command::new(program.name));
        command.subcommands(SERVICES.iter().map(service)).allow_external_subcommands(true)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(_: &str) -> bool {
        true
    }
}

/// Why one of the servers is none of [`SERVICES`].
pub(super) const NO_SERVICE: &str = "slowpoetry serves one client at a time, and runs alone";

/// What is wrong with the name of a program that is none of [`SERVICES`].
pub(super) fn unknown(name: &str) -> Error {
    let hint = match name {
        "slowpoetry" => &format!("; {NO_SERVICE}"),
        file if file.ends_with(".toml") => "; a file comes after --config",
        _ => "",
    };
    let programs = any_of(|program| program.name.to_owned());
    Error::usage(format!("there is no PROGRAM '{name}': it is {programs}{hint}; see --help"))
}

/// What is wrong with a word that is in the place of a program.
pub(super) fn misspelt(word: &str) -> Option<Error> {
    let is_service = |word: String| SERVICES.iter().any(|program| program.name == word);
    (!word.starts_with('-') && !env::args().any(is_service)).then(|| unknown(word))
}

/// All of [`SERVICES`] in words of one's choice: `one, two or three`.
pub(super) fn any_of(word: impl Fn(&ServiceProgram) -> String) -> String {
    cli::any_of(&SERVICES.iter().map(word).collect::<Vec<_>>())
}

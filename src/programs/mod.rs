//! The programs: what each of them takes as arguments, says in its help, opens and runs.
//!
//! A program is a file or a folder of its name; the file in `src/bin` only calls its `main`.

pub mod fastpoetry;
pub mod faults;
pub mod get_poetry;
pub mod poetry_proxy;
pub mod poetry_race;
pub mod poetryd;
pub mod service;
pub mod slowpoetry;
pub mod transformedpoetry;

use clap::Command;

use crate::cli::command;
pub use crate::client::Model;

/// The command line of every program: what `--help` says, and manuals and completions are made from.
///
/// The text after the options has a line for each paragraph. One at the margin that ends with a colon begins a
/// section, in which every line is indented by two spaces; what explains such a line follows it after two spaces or
/// more, or stands below, indented by six. Paragraphs in no section belong to the description.
pub fn commands() -> Vec<Command> {
    let mut commands = vec![
        command::<slowpoetry::Args>("slowpoetry"),
        command::<fastpoetry::Args>("fastpoetry"),
        command::<poetry_proxy::Args>("poetry-proxy"),
        command::<transformedpoetry::Args>("transformedpoetry"),
        command::<poetry_race::Args>("poetry-race"),
        command::<poetryd::Args>("poetryd"),
    ];
    commands.extend(Model::ALL.map(|model| command::<get_poetry::Args>(model.program())));
    commands
}

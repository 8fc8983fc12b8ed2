//! The programs: what each of them takes as arguments, says in its help, opens and runs.
//!
//! A program is a file or a folder of its name; the file in `src/bin` only calls its `main`.

pub mod charfinder;
mod client_args;
pub mod fastpoetry;
pub mod faults;
pub mod get_poetry;
mod http_args;
pub mod http_charfinder;
mod limit_args;
mod message_args;
pub mod poetry_anthology;
pub mod poetry_broker;
pub mod poetry_chaos;
pub mod poetry_draw;
#[cfg(feature = "library")]
pub mod poetry_library;
pub mod poetry_listen;
pub mod poetry_monitor;
pub mod poetry_proxy;
pub mod poetry_race;
pub mod poetry_send;
pub mod poetry_sim;
pub mod poetryd;
pub mod reporter;
pub mod service;
pub mod slowpoetry;
pub mod tcp_charfinder;
pub mod transformedpoetry;
mod upstream;

use clap::{ArgMatches, Command, Parser};

use crate::cli::toml_args::TomlTable;
use crate::cli::{Error, command, described};
pub use crate::client::Model;
use service::{Launch, ProcessArgs};

/// The arguments of a server, and of its process.
pub type Parsed = (Box<dyn Launch>, ProcessArgs);

/// A program whose server can be one of several in a daemon.
#[derive(Debug, Clone, Copy)]
pub struct ServiceProgram {
    /// The name of the program, and of its tables in a file.
    pub name: &'static str,
    /// Gives a command its arguments and its help.
    pub augment: fn(Command) -> Command,
    /// Its arguments from a command line.
    pub from_matches: fn(&ArgMatches) -> Result<Parsed, clap::Error>,
    /// Its arguments from a table of a file.
    pub from_table: fn(&TomlTable<'_>) -> Result<Box<dyn Launch>, Error>,
}

impl ServiceProgram {
    /// The program with the arguments `A`, those of its server among them.
    const fn new<A, S>(name: &'static str) -> Self
    where
        A: Parser + clap::Args + Into<(S, ProcessArgs)>,
        S: clap::Args + Launch + 'static,
    {
        fn from_matches<A, S>(matches: &ArgMatches) -> Result<Parsed, clap::Error>
        where
            A: Parser + Into<(S, ProcessArgs)>,
            S: Launch + 'static,
        {
            let (server, process) = A::from_arg_matches(matches)?.into();
            Ok((Box::new(server), process))
        }
        fn from_table<S: clap::Args + Launch + 'static>(table: &TomlTable<'_>) -> Result<Box<dyn Launch>, Error> {
            Ok(Box::new(table.args::<S>(&[])?))
        }
        Self { name, augment: A::augment_args, from_matches: from_matches::<A, S>, from_table: from_table::<S> }
    }
}

/// The programs that can be services. One more line here makes one more of them: on the command line of poetryd, in its
/// file, and among the manuals.
pub const SERVICES: &[ServiceProgram] = &[
    ServiceProgram::new::<fastpoetry::Args, fastpoetry::FastArgs>("fastpoetry"),
    ServiceProgram::new::<transformedpoetry::Args, transformedpoetry::TransformArgs>("transformedpoetry"),
    ServiceProgram::new::<poetry_proxy::Args, poetry_proxy::ProxyArgs>("poetry-proxy"),
    ServiceProgram::new::<poetry_chaos::Args, poetry_chaos::ChaosArgs>("poetry-chaos"),
    ServiceProgram::new::<poetry_broker::Args, poetry_broker::BrokerArgs>("poetry-broker"),
    ServiceProgram::new::<tcp_charfinder::Args, tcp_charfinder::LineArgs>("tcp-charfinder"),
    ServiceProgram::new::<http_charfinder::Args, http_charfinder::PageArgs>("http-charfinder"),
    ServiceProgram::new::<poetry_monitor::Args, poetry_monitor::MonitorArgs>("poetry-monitor"),
    #[cfg(feature = "library")]
    ServiceProgram::new::<poetry_library::Args, poetry_library::LibraryArgs>("poetry-library"),
    ServiceProgram::new::<poetry_anthology::Args, poetry_anthology::AnthologyArgs>("poetry-anthology"),
];

/// The command line of every program: what `--help` says, and manuals and completions are made from.
///
/// The text after the options has a line for each paragraph. One at the margin that ends with a colon begins a
/// section, in which every line is indented by two spaces; what explains such a line follows it after two spaces or
/// more, or stands below, indented by six. Paragraphs in no section belong to the description.
pub fn commands() -> Vec<Command> {
    let mut commands = vec![command::<slowpoetry::Args>("slowpoetry")];
    let service =
        |program: &ServiceProgram| described((program.augment)(Command::new(program.name).bin_name(program.name)));
    commands.extend(SERVICES.iter().map(service));
    commands.push(command::<poetry_listen::Args>("poetry-listen"));
    commands.push(command::<poetry_send::Args>("poetry-send"));
    commands.push(command::<charfinder::Args>("charfinder"));
    commands.push(command::<poetry_race::Args>("poetry-race"));
    commands.push(command::<poetry_draw::Args>("poetry-draw"));
    commands.push(command::<poetry_sim::Args>("poetry-sim"));
    commands.push(command::<poetryd::Args>("poetryd"));
    commands.extend(Model::ALL.map(|model| command::<get_poetry::Args>(model.program())));
    commands
}

//! transformedpoetry as a program.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use super::bars::Screen;
use super::listen::announce;
use super::logs::Style;
use super::serving::{ServiceArgs, stop_on};
use super::signals::Signals;
use super::values::Limit;
use super::{Error, SUCCESS, open_files, values};
use crate::server::transform::{Limits, TransformServer};
use crate::transform;

/// Change poems: an async server that takes a poem and gives it back in lower case, upside down, or numbered
///
/// A request is one netstring, NAME.POEM, the reply another: 27:cummingsify.HERE IS MY POEM, is answered with
/// 15:here is my poem, and the connection is closed. A request that cannot be answered gets no reply.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// List the transforms, and exit
    #[arg(long)]
    list: bool,

    /// Refuse requests of more than so many bytes, name and poem together
    #[arg(long, help_heading = "Requests", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    max_length: NonZeroUsize,

    /// Answer any number of requests on a connection, in order, instead of one
    #[arg(long, help_heading = "Requests")]
    keep_alive: bool,

    /// Let go of a client that says nothing for so long; 0: never
    #[arg(long, help_heading = "Requests", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    idle_timeout: Limit,

    #[command(flatten)]
    service: ServiceArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  transformedpoetry --list
      What it can do to poems
  transformedpoetry --port 11000
      One request a connection, as in the original
  transformedpoetry --port 11000 --keep-alive --idle-timeout 5m --max-length 16MiB
      Any number of requests, and long poems
  get-poetry --transform shout --via 11000 10000
      A poem through it

Signals:
  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped, or listed
  1    the port is taken
  2    the command line makes no sense";

/// The `main` of the program.
pub fn main() -> ExitCode {
    super::run("transformedpoetry", |args| run(&args))
}

fn run(args: &Args) -> Result<u8, Error> {
    if args.list {
        return list().map(|()| SUCCESS);
    }
    args.service.logs.init(Style::Journal, &Screen::default())?;
    open_files::raise_limit();
    let listeners = args.service.listen.bind_shared()?;
    let signals = Signals::block(&[]);
    let stop = stop_on(signals, args.service.crowd.clients.grace, |_| {})?;
    announce("Serving transforms", &listeners[0])?;
    let server = TransformServer::new(Limits {
        max_length: args.max_length.get(),
        idle_timeout: args.idle_timeout.0,
        write_timeout: args.service.write_timeout(),
        keep_alive: args.keep_alive,
    });
    args.service.serve(listeners, Arc::new(server), &stop)
}

/// Every transform with what it does, a line each.
fn list() -> Result<(), Error> {
    let width = transform::ALL.iter().map(|transform| transform.name.len()).max().unwrap_or(0);
    let lines: String =
        transform::ALL.iter().map(|transform| format!("{:width$}  {}\n", transform.name, transform.about)).collect();
    match io::stdout().write_all(lines.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::cannot("write", "stdout", &error)),
        _ => Ok(()),
    }
}

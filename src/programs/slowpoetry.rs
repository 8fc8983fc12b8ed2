//! slowpoetry as a program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::slice;

use clap::{Arg, Parser};
use tracing::info;

use super::faults::{FaultArgs, Usual};
use super::service::ClientArgs;
use crate::cli::listen::{ListenArgs, address, announce};
use crate::cli::logs::{LogArgs, Style};
use crate::cli::stopping::{self, stop_on};
use crate::cli::terminal::{self, Screen};
use crate::cli::{Error, FAILURE, SUCCESS, open_files};
use crate::net::{Door, Stop, never_accept};
use crate::pace::Pace;
use crate::poem::Poem;
use crate::server::slow::{SlowServer, Stopper};
use crate::units::{count, human, micros};

/// One client is served at a time, so a long queue would only be a long wait.
const BACKLOG: u32 = 128;

/// Give out a poem slowly, to one client at a time: a deliberately blocking server
///
/// While a client is served, all others wait in the listen queue. The pace and the faults are part of the command
/// line; everything about a connection follows from them, its number, and a seed.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
#[command(mut_args(own_default))]
pub struct Args {
    /// The poem, opened afresh for every client
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    faults: FaultArgs,

    #[command(flatten)]
    listen: ListenArgs,

    /// Exit after so many clients
    #[arg(long, help_heading = "Clients", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    clients: Option<u64>,

    #[command(flatten)]
    patience: ClientArgs,

    #[command(flatten)]
    logs: LogArgs,
}

fn own_default(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "backlog" => {
            arg.help(format!("Length of the queue of connections that wait to be accepted [default: {BACKLOG}]"))
        }
        _ => arg,
    }
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  slowpoetry --port 10000 poetry/ecstasy.txt
      Ten bytes every tenth of a second
  slowpoetry --port 10001 --num-bytes 30 --delay 10ms poetry/science.txt
      Thirty bytes every hundredth
  slowpoetry --fail-first 2 --cut-at 100 --cut hang poetry/science.txt
      Two resets, and then a hundred bytes and silence for everybody
  slowpoetry --clients 1 poetry/sera.txt
      One client on any free port, then exit

Signals:
  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, the one being served is finished within the grace \
time or else reset. A second signal resets it at once.

Exit status:
  0    stopped, or all clients served
  1    the poem, a script or a recording cannot be read, the port is taken, or the recording cannot be written
  2    the command line makes no sense";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("slowpoetry", run)
}

fn run(args: Args) -> Result<u8, Error> {
    args.logs.init(Style::Journal, terminal::colour(), Screen::default())?;
    open_files::raise_limit();
    Poem::check(&args.file).map_err(|error| Error::cannot("serve", args.file.display(), &error))?;
    let faults = args.faults.resolve(Usual::Slow, &args.file).map_err(|(_, error)| error)?;
    if let Some(status) = faults.one_shot()? {
        return Ok(status);
    }
    let serving = format!("Serving {}", args.file.display());
    if faults.never_accept {
        return accept_nobody(&args, &serving);
    }
    let listener = args.listen.bind(BACKLOG)?;
    let fault_plan = faults.open()?;
    // Not sooner: a name that is slow to resolve can be interrupted.
    let signals = stopping::block(&[]);
    if let Some(pace) = &faults.steady {
        tell_pace(&args.file, pace);
    }
    let server =
        SlowServer { file: args.file, fault_plan, write_timeout: args.patience.write_timeout.0, clients: args.clients };
    server.fault_plan.start().map_err(|error| Error::cannot("begin", "the recording", &error))?;
    announce(&serving, address(slice::from_ref(&listener))?)?;
    let stopper = Stopper::new(listener);
    stop_on(signals, args.patience.grace, stopper.clone(), |_| {})?;
    server.run(&stopper);
    Ok(if server.fault_plan.is_recorded() { SUCCESS } else { FAILURE })
}

fn accept_nobody(args: &Args, serving: &str) -> Result<u8, Error> {
    let listener = args.listen.bind(0)?;
    let stop = Stop::default();
    stop_on(stopping::block(&[]), args.patience.grace, stop.clone(), |_| {})?;
    announce(serving, address(slice::from_ref(&listener))?)?;
    let door = Door { name: "poem", listeners: vec![listener] };
    never_accept(vec![door], &stop).map_err(|error| Error::cannot("start", "a runtime", &error))?;
    Ok(SUCCESS)
}

/// How long one client will need, as the poem is now.
fn tell_pace(file: &Path, pace: &Pace) {
    // Only a regular file has a length before it is read.
    let Ok(file) = file.metadata() else { return };
    let bytes = if file.is_file() { file.len() } else { return };
    let total = pace.total(bytes);
    info!(
        bytes,
        total_us = micros(total),
        "A client needs {} for {} in pieces of {}",
        human(total),
        count(bytes, "byte"),
        pace.num_bytes
    );
}

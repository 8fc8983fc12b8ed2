//! slowpoetry as a program.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::slice;
use std::sync::Arc;

use clap::{Arg, Parser};
use tracing::info;

use super::faults::{FaultArgs, Usual};
use super::http_args::HttpArgs;
use super::reporter::{ReportArgs, Reported, Reporter};
use super::service::{ClientArgs, ProcessArgs, addresses, announce, tell_nothing_to_reload, tell_totals};
use crate::cli::command::{Beside, Place};
use crate::cli::journal::Journal;
use crate::cli::listen::{ListenArgs, address};
use crate::cli::ready::Ready;
use crate::cli::stopping::{self, Request, stop_on};
use crate::cli::{Error, FAILURE, SUCCESS, open_files, values};
use crate::net::counts::Counts;
use crate::net::{Door, Stop, Stoppable, never_accept};
use crate::pace::Pace;
use crate::poem::NamedPoem;
use crate::server::slow::{SlowServer, Stopper};
use crate::units::{count, human, micros};

/// One client is served at a time, so a long queue would only be a long wait.
pub(super) const BACKLOG: u32 = 128;

/// Give out a poem slowly, to one client at a time: a deliberately blocking server
///
/// While a client is served, all others wait in the listen queue. The pace and the faults are part of the command
/// line; everything about a connection follows from them, its number, and a seed.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
#[command(mut_args(own_default))]
pub struct Args {
    /// The poem, opened afresh for every client; or the name of one that is built in, such as ecstasy
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    faults: FaultArgs,

    #[command(flatten)]
    http: HttpArgs,

    #[command(flatten)]
    listen: ListenArgs,

    /// Exit after so many clients
    #[arg(long, help_heading = "Clients", value_name = "N")]
    #[arg(value_parser = values::count::<u64>(), allow_negative_numbers = true)]
    clients: Option<u64>,

    #[command(flatten)]
    patience: ClientArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

fn own_default(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "backlog" => arg.help(format!("Length of the queue of connections not yet accepted [default: {BACKLOG}]")),
        _ => arg,
    }
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  slowpoetry --port 10000 ecstasy
      Ten bytes every tenth of a second
  slowpoetry --port 10001 --num-bytes 30 --delay 10ms science
      Thirty bytes every hundredth
  slowpoetry --fail-first 2 --cut-at 100 --cut hang science
      Two resets, and then a hundred bytes and silence for everybody
  slowpoetry --clients 1 sera
      One client on any free port, then exit
  slowpoetry --first-byte-delay 10s ecstasy --expect 'left < 4s' -- curl -sm 2 telnet://{}
      Does this client give up in time? The server ends with it

Scripts:
  A TOML file: seed = N, then [[connection]], once for each connection in the order of accept, and [others].
  delay, num-bytes, rate, jitter, first-byte-delay, cut-at, cut
      In each table: as the flags of these names. What is not there is as on the command line.
  times, fail
      In a [[connection]]: for so many connections; true: reset at once.

Signals:
  SIGHUP reloads nothing: the poem is opened afresh for every client. SIGUSR1 logs the totals. Neither ends it; but if the terminal that it was started on \
is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, the one being served is finished within the grace \
time or else reset. A second signal resets it at once.

Exit status:
  0    stopped, or all clients served
  1    the poem, a script or a recording cannot be read, the port is taken, or the recording cannot be written
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("slowpoetry", |args| run(&args))
}

fn run(args: &Args) -> Result<u8, Error> {
    stopping::hold_back();
    let journal = args.process.begin_log()?;
    let named = NamedPoem::find(&args.file);
    named.check().map_err(|error| Error::cannot("serve", &named, &error))?;
    let faults = args.faults.resolve(Usual::Slow, &named).map_err(|(_, error)| error)?;
    if let Some(status) = faults.one_shot()? {
        return Ok(status);
    }
    let place = Place { name: "slowpoetry".to_owned(), is_main: true };
    let mut beside = args.process.command.resolve("slowpoetry", &[place])?;
    // Before anything is opened that could be taken for the descriptor.
    let ready = args.process.ready.take()?;
    open_files::raise_limit();
    let trouble = args.faults.trouble();
    let listener = args.listen.bind(if faults.never_accept { 0 } else { BACKLOG }, trouble)?;
    let lines = [(args.http.serving(&named), address(slice::from_ref(&listener))?)];
    if faults.never_accept {
        let report = &args.process.report;
        return accept_nobody(&args.patience, listener, &journal, &lines, ready, beside, report);
    }
    let fault_plan = faults.open()?;
    // Not sooner: a name that is slow to resolve can be interrupted.
    let signals = stopping::block();
    if let Some(pace) = &faults.steady {
        tell_pace(&named, pace);
    }
    let server = Arc::new(SlowServer {
        poem: named,
        fault_plan,
        write_timeout: args.patience.write_timeout.0,
        clients: args.clients,
        listen_later: args.listen.later(BACKLOG, trouble),
        http: args.http.said_by(),
        never_read: trouble.never_read,
    });
    let stopper = Stopper::new(listener);
    let (told, faults) = (stopper.clone(), Arc::clone(&server));
    let stopping = stop_on(signals, args.patience.grace, stopper.clone(), move |request| {
        tell(request, told.counts());
        if request == Request::Report {
            faults.fault_plan.tell_faults();
        }
    })?;
    journal.start()?;
    server.fault_plan.start().map_err(|error| Error::cannot("begin", "the recording", &error))?;
    beside.watch(stopper.counts())?;
    // Everything that can fail, and then the word that it has not.
    let faulty = Arc::clone(&server);
    let figures = move || vec![("cuts", faulty.fault_plan.cuts())];
    let reporter = report(&args.process.report, &lines, stopper.counts(), figures)?;
    ready.tell(&lines, announce(&beside), &stopping)?;
    let companion = beside.start(&addresses(&lines), args.patience.grace, &stopping)?;
    let served = server.run(&stopper).map_err(|error| Error::cannot("listen on", lines[0].1, &error));
    // It may have served as many as it should, and have a companion that has not ended.
    stopper.close();
    server.fault_plan.tell_faults();
    if let Some(reporter) = reporter {
        reporter.end();
    }
    let status = if server.fault_plan.finish() { SUCCESS } else { FAILURE };
    companion.end(served.map(|()| status), &stopping, &[stopper.counts()])
}

/// Tells a monitor what it does, if that is asked for.
fn report(
    args: &ReportArgs,
    lines: &[(String, SocketAddr)],
    counts: &Arc<Counts>,
    figures: impl Fn() -> Vec<(&'static str, u64)> + Send + 'static,
) -> Result<Option<Reporter>, Error> {
    let address = lines.first().map(|(_, address)| address.to_string()).unwrap_or_default();
    let server = Reported { program: "slowpoetry", address, counts: Arc::clone(counts), figures: Box::new(figures) };
    Reporter::start(args, vec![server])
}

/// Listens, until it is stopped.
fn accept_nobody(
    patience: &ClientArgs,
    listener: TcpListener,
    journal: &Journal,
    lines: &[(String, SocketAddr)],
    ready: Ready,
    beside: Beside,
    args: &ReportArgs,
) -> Result<u8, Error> {
    let stop = Stop::default();
    let counts = Arc::<Counts>::default();
    let told_counts = Arc::clone(&counts);
    let told = move |request| tell(request, &told_counts);
    let stopping = stop_on(stopping::block(), patience.grace, stop.clone(), told)?;
    journal.start()?;
    let door = Door { name: "poem", listeners: vec![listener], listen_later: None };
    let nobody = never_accept(vec![door]).map_err(|error| Error::cannot("accept", "nobody", &error))?;
    let reporter = report(args, lines, &counts, Vec::new)?;
    ready.tell(lines, announce(&beside), &stopping)?;
    let companion = beside.start(&addresses(lines), patience.grace, &stopping)?;
    nobody.run(&stop);
    if let Some(reporter) = reporter {
        reporter.end();
    }
    companion.end(Ok(SUCCESS), &stopping, &[&counts])
}

/// Answers a signal that is no stop. The file is opened afresh for each client anyway.
fn tell(request: Request, counts: &Counts) {
    match request {
        Request::Stop => {}
        Request::Reload => tell_nothing_to_reload(),
        Request::Report => tell_totals(counts),
    }
}

/// How long one client will need, as the poem is now.
fn tell_pace(named: &NamedPoem, pace: &Pace) {
    let Some(bytes) = named.known_len() else { return };
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

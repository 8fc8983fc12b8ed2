//! From arguments to a server: what a program with an async server has to say of itself, and how it is run.
//!
//! ```text
//!   arguments ── Launch: one_shot? ── resolve ──▶ Open ── bind, open ──▶ Service ── prepare ──▶ Run ── serve ──▶ Ended
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::info;

use super::reporter::{Marks, ReportArgs, Reported, Reporter};
use crate::address::Address;
use crate::cli::command::{Beside, CommandArgs, Place};
use crate::cli::journal::Journal;
use crate::cli::listen::{BACKLOG, ListenArgs, Trouble};
use crate::cli::logs::{LogArgs, LogFormat, Style};
use crate::cli::ready::{Announce, ReadyArgs};
use crate::cli::stopping::{self, Request, stop_on};
use crate::cli::terminal;
use crate::cli::values::{self, Limit};
use crate::cli::{Error, SUCCESS, open_files};
use crate::metrics::{Metric, Page};
use crate::net::counts::Counts;
use crate::net::descriptors::Descriptors;
use crate::net::{self, Door, FastPath, ServerLimits, Stop};
use crate::units::count;

/// The flags of every server about its clients.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Clients")]
pub struct ClientArgs {
    /// Drop a client that takes nothing for so long; 0: never
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    pub write_timeout: Limit,

    /// When asked to stop, give who is being served so long to finish
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    pub grace: Duration,
}

/// The flags of every server as a process.
#[derive(Debug, Clone, clap::Args)]
pub struct ProcessArgs {
    /// How it says that it is ready.
    #[command(flatten)]
    pub ready: ReadyArgs,

    /// What it says.
    #[command(flatten)]
    pub logs: LogArgs,

    /// Who watches it.
    #[command(flatten)]
    pub report: ReportArgs,

    /// What runs beside it.
    #[command(flatten)]
    pub command: CommandArgs,
}

impl ProcessArgs {
    /// These flags, with those of `base` where they say nothing.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            ready: self.ready.over(base.ready),
            logs: self.logs.over(base.logs),
            report: self.report.over(base.report),
            command: self.command.over(base.command),
        }
    }

    /// Begins the log of a server to stderr. The journal has no thread yet.
    ///
    /// # Errors
    /// `RUST_LOG` makes no sense.
    pub fn begin_log(&self) -> Result<Journal, Error> {
        let journal = Journal::new(self.logs.format() == LogFormat::Json);
        self.logs.init(Style::Journal, terminal::colour(), journal.clone())?;
        Ok(journal)
    }
}

/// The flags of every async server.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArgs {
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// How it treats its clients.
    #[command(flatten)]
    pub crowd: CrowdArgs,
}

/// The flags of a server of many clients.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Clients")]
pub struct CrowdArgs {
    /// Serve at most N clients at once; more wait in the listen queue
    #[arg(long, value_name = "N", default_value = "10000")]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    pub max_clients: NonZeroUsize,

    /// The flags of every server.
    #[command(flatten)]
    pub clients: ClientArgs,
}

impl ServiceArgs {
    /// The limits of the server as a whole, if it is alone in its process.
    pub fn limits(&self) -> ServerLimits {
        let CrowdArgs { max_clients, clients: ClientArgs { write_timeout, grace } } = &self.crowd;
        ServerLimits {
            max_clients: max_clients.get(),
            descriptors: Descriptors::default(),
            write_timeout: write_timeout.0,
            grace: *grace,
        }
    }
}

/// The arguments of a program with an async server, and what becomes of them: the server alone, or one of several in a
/// daemon.
///
/// Its functions are called in this order. Each may fail, and none starts a thread.
pub trait Launch: fmt::Debug {
    /// The name of its program.
    fn program(&self) -> &'static str;

    /// The flags of every async server.
    fn common(&self) -> &ServiceArgs;

    /// What it is asked to do instead of serving, if that is so: its exit status.
    ///
    /// # Errors
    /// That failed.
    fn one_shot(&self) -> Result<Option<u8>, Error> {
        Ok(None)
    }

    /// Looks, before anything is opened, for what will be missing then; the error comes with the name of the argument. A
    /// daemon has to know before it goes into the background, and anybody before a port is open.
    ///
    /// # Errors
    /// A file is not there.
    fn check(&self) -> Result<(), (&'static str, Error)> {
        Ok(())
    }

    /// The server that it connects to itself, for its own clients.
    fn upstream(&self) -> Option<&Address> {
        None
    }

    /// Makes sense of the arguments, and of files that only add to them, which are read once; the error comes with the
    /// name of the argument.
    ///
    /// # Errors
    /// They make no sense, or cannot be read.
    fn resolve(&self) -> Result<Open, (&'static str, Error)>;

    /// Where it listens. Most servers have one door.
    fn doors(&self) -> Vec<DoorArgs<'_>>;
}

/// Reads what a server needs, and begins to write what it is to write.
pub type Open = Box<dyn FnOnce() -> Result<Arc<dyn Service>, Error>>;

/// A door that is not open yet.
#[derive(Debug)]
pub struct DoorArgs<'a> {
    /// As [`Door::name`] has it.
    pub name: &'static str,
    /// What the server does there, for the address line: `Serving FILE`.
    pub what: String,
    /// The address.
    pub listen: &'a ListenArgs,
    /// How many listeners it has.
    pub queue: Queue,
    /// What is special about them.
    pub trouble: Trouble,
}

/// The listeners of a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// One for each processor.
    Shared,
    /// One, with this backlog if none was asked for.
    Single(u32),
}

impl DoorArgs<'_> {
    /// How many listeners it has.
    pub fn listeners(&self) -> usize {
        match self.queue {
            Queue::Shared => crate::cli::listen::workers(),
            Queue::Single(_) => 1,
        }
    }

    /// Opens its sockets.
    ///
    /// # Errors
    /// The address is taken, or none of ours.
    pub fn bind(&self) -> Result<Door, Error> {
        let Self { name, listen, queue, trouble, .. } = *self;
        let (listeners, backlog) = match queue {
            Queue::Shared => (listen.bind_shared(trouble)?, BACKLOG),
            Queue::Single(backlog) => (vec![listen.bind(backlog, trouble)?], backlog),
        };
        Ok(Door { name, listeners, listen_later: listen.later(backlog, trouble) })
    }
}

/// The address at which a door is open.
///
/// # Errors
/// The system does not say, or it has no listener.
pub fn address(door: &Door) -> Result<SocketAddr, Error> {
    crate::cli::listen::address(&door.listeners)
}

/// An async server that only has to be started.
pub trait Service: Send + Sync {
    /// Gets everything that it needs to serve, as [`prepare`] does.
    ///
    /// # Errors
    /// The system does not give it.
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error>;

    /// Reads again what may have changed ([`Request::Reload`]), and logs what came of it. This may take as long as a disk
    /// does.
    fn reload(&self) -> Reload {
        Reload::Nothing
    }

    /// Logs its totals ([`Request::Report`]).
    fn report(&self, counts: &Counts) {
        tell_totals(counts);
    }

    /// What it has to tell a monitor beside what the engine counts, by names of lower-case letters and underscores.
    fn figures(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// What a reload is, on a chart.
    fn reload_mark(&self) -> &'static str {
        "reload"
    }

    /// Adds the metrics that it has beside those of the engine, all with these labels.
    fn metrics(&self, _: &mut Page, _: &[(&str, &str)]) {}

    /// Ends what it began, once nobody is served any more, and returns the exit status.
    fn end(&self) -> u8 {
        SUCCESS
    }
}

/// What came of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// There is nothing that could be reloaded.
    Nothing,
    /// It is as new.
    Done,
    /// It is as it was.
    Failed,
}

/// Logs what a server has counted since its start.
pub fn tell_totals(counts: &Counts) {
    let (accepted, served, lost, bytes) = (counts.accepted(), counts.served(), counts.lost(), counts.bytes());
    let (clients, sent) = (count(accepted, "client"), count(bytes, "byte"));
    info!(accepted, served, lost, bytes, "Totals: {clients} accepted, {served} served, {lost} lost; {sent} sent");
}

/// The figures of a server, for a reporter.
pub fn figures(service: &Arc<dyn Service>) -> Box<dyn Fn() -> Vec<(&'static str, u64)> + Send> {
    let service = Arc::clone(service);
    Box::new(move || service.figures())
}

/// Reloads a server that is a program of its own.
fn reload(service: &dyn Service, marks: Option<&Marks>) {
    match (service.reload(), marks) {
        (Reload::Nothing, _) => tell_nothing_to_reload(),
        (Reload::Done, Some(marks)) => marks.add(0, service.reload_mark()),
        (Reload::Done | Reload::Failed, _) => {}
    }
}

/// Logs the answer to SIGHUP of a server that reads nothing.
pub fn tell_nothing_to_reload() {
    info!("There is nothing to reload");
}

/// A server that is prepared to serve until it is stopped.
pub struct Run {
    counts: Arc<Counts>,
    serve: Serve,
}

/// Returns how many connections were reset at the end.
type Serve = Box<dyn FnOnce(&Stop) -> Result<u64, Error> + Send>;

impl Run {
    /// What it has done so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Serves, and returns what became of it.
    ///
    /// # Errors
    /// A part of it has failed. That it could not begin is none of them: see [`Service::prepare`].
    pub fn serve(self, stop: &Stop) -> Result<Ended, Error> {
        let reset = (self.serve)(stop)?;
        Ok(Ended { served: self.counts.served(), lost: self.counts.lost(), reset })
    }
}

/// What became of a server.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    served: u64,
    lost: u64,
    reset: u64,
}

impl Ended {
    /// A line for the log, after `what`.
    pub fn tell(&self, what: &str) {
        let Self { served, lost, reset } = self;
        let clients = count(*served, "client");
        info!(served, lost, reset, "{what}: {clients} served, {lost} lost, {reset} of them reset at the end");
    }
}

/// Prepares to serve, as [`Service::prepare`] has it.
///
/// # Errors
/// The system does not give what it needs.
pub fn prepare<H: FastPath>(doors: Vec<Door>, handler: &Arc<H>, limits: &ServerLimits) -> Result<Run, Error> {
    let prepared = net::prepare(doors, handler, limits).map_err(|error| Error::cannot("start", "a worker", &error))?;
    let counts = Arc::clone(prepared.counts());
    let ended = |error| Error::cannot("go on", "without a worker", &error);
    Ok(Run { counts, serve: Box::new(move |stop| prepared.run(stop).map_err(ended)) })
}

/// A server that listens and accepts nobody.
#[derive(Debug)]
pub struct Nobody;

impl Service for Nobody {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, _: &ServerLimits) -> Result<Run, Error> {
        let nobody = net::never_accept(doors).map_err(|error| Error::cannot("accept", "nobody", &error))?;
        let serve = |stop: &Stop| {
            nobody.run(stop);
            Ok(0)
        };
        Ok(Run { counts: Arc::default(), serve: Box::new(serve) })
    }
}

/// The names of all places where these services will listen: a service is called by its program, with a number if there
/// are several of that; a door that is not its first has a name of its own.
pub fn places(launches: &[&dyn Launch]) -> Vec<Place> {
    let mut places = Vec::new();
    for (index, launch) in launches.iter().enumerate() {
        let program = launch.program();
        let of_it = |launches: &[&dyn Launch]| launches.iter().filter(|other| other.program() == program).count();
        let number = of_it(&launches[..=index]);
        let service = if of_it(launches) == 1 { program.to_owned() } else { format!("{program}-{number}") };
        for (index, door) in launch.doors().iter().enumerate() {
            let name = if index == 0 { service.clone() } else { format!("{service}-{}", door.name) };
            places.push(Place { name, is_main: index == 0 });
        }
    }
    places
}

/// Where people are told the addresses of a server.
pub fn announce(beside: &Beside) -> Announce {
    if beside.is_command() { Announce::InLog } else { Announce::OnStdout }
}

/// Adds the metrics of a server: those that the engine has of each, and its own.
pub fn add_metrics(page: &mut Page, labels: &[(&str, &str)], counts: &Counts, service: &dyn Service) {
    const CLIENTS: Metric = Metric::gauge("poetry_clients", "Clients connected now.");
    const ACCEPTED: Metric = Metric::counter("poetry_clients_accepted_total", "Clients accepted.");
    const ENDED: Metric =
        Metric::counter("poetry_clients_ended_total", "Clients by outcome: served as planned, or lost.");
    const BYTES: Metric = Metric::counter("poetry_sent_bytes_total", "Bytes sent to clients.");
    page.add(CLIENTS, labels, counts.connected());
    page.add(ACCEPTED, labels, counts.accepted());
    for (outcome, count) in [("served", counts.served()), ("lost", counts.lost())] {
        page.add(ENDED, &[labels, &[("outcome", outcome)]].concat(), count);
    }
    page.add(BYTES, labels, counts.bytes());
    service.metrics(page, labels);
}

/// A server as a program of its own: opens it, says where it listens, and serves until a signal stops it.
///
/// # Errors
/// It cannot be opened or started.
pub fn run(launch: &impl Launch, process: &ProcessArgs) -> Result<u8, Error> {
    let journal = process.begin_log()?;
    if let Some(status) = launch.one_shot()? {
        return Ok(status);
    }
    let mut beside = process.command.resolve(launch.program(), &places(&[launch]))?;
    // Before anything is opened that could be taken for the descriptor.
    let ready = process.ready.take()?;
    open_files::raise_limit();
    let (limits, stop) = (launch.common().limits(), Stop::default());
    // Filled during the start. A reload that is asked for before anything was read has nothing to do.
    let opened = Arc::new(OnceLock::<Arc<dyn Service>>::new());
    let started = Arc::new(OnceLock::<Arc<Counts>>::new());
    let marks = Arc::new(OnceLock::<Marks>::new());
    let (told, counted, noted) = (Arc::clone(&opened), Arc::clone(&started), Arc::clone(&marks));
    let stopping = stop_on(stopping::block(), limits.grace, stop.clone(), move |request| {
        match (request, told.get(), counted.get()) {
            (Request::Reload, Some(service), _) => reload(service.as_ref(), noted.get()),
            (Request::Report, Some(service), Some(counts)) => service.report(counts),
            (Request::Stop | Request::Reload | Request::Report, ..) => {}
        }
    })?;
    journal.start()?;

    launch.check().map_err(|(_, error)| error)?;
    let open = launch.resolve().map_err(|(_, error)| error)?;
    let (mut doors, mut lines) = (Vec::new(), Vec::new());
    for args in launch.doors() {
        let door = args.bind()?;
        lines.push((args.what, address(&door)?));
        doors.push(door);
    }
    let service = open()?;
    let _ = opened.set(Arc::clone(&service));
    let run = Arc::clone(&service).prepare(doors, &limits)?;
    let _ = started.set(Arc::clone(run.counts()));
    let counts = Arc::clone(run.counts());
    beside.watch(&counts)?;
    let reported = Reported {
        program: launch.program(),
        address: lines.first().map(|(_, address)| address.to_string()).unwrap_or_default(),
        counts: Arc::clone(&counts),
        figures: figures(&service),
    };
    let reporter = Reporter::start(&process.report, vec![reported])?;
    if let Some(reporter) = &reporter {
        let _ = marks.set(reporter.marks());
    }
    // Everything that can fail, and then the word that it has not.
    ready.tell(&lines, announce(&beside), &stopping)?;
    let companion = beside.start(&addresses(&lines), limits.grace, &stopping)?;
    let served = run.serve(&stop).map(|ended| {
        ended.tell("Stopped");
        service.end()
    });
    if let Some(reporter) = reporter {
        reporter.end();
    }
    companion.end(served, &stopping, &[&counts])
}

/// The addresses in address lines.
pub fn addresses(lines: &[(String, SocketAddr)]) -> Vec<SocketAddr> {
    lines.iter().map(|(_, address)| *address).collect()
}

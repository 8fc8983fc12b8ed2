//! poetryd as a program: the async servers as one service.

mod config;
mod daemon;
mod pages;
mod program;
mod requests;
mod running;

use std::net::TcpListener;
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;
use std::slice;
use std::time::Duration;

use clap::Parser;
use nix::unistd::geteuid;
use tracing::error;

use crate::cli::command::{Beside, Place};
use crate::cli::listen::{ListenArgs, Trouble};
use crate::cli::logs::{LogFormat, Style};
use crate::cli::stopping;
use crate::cli::{Error, SUCCESS, internal_error, is_same_file, open_files, values};
use crate::daemon::detach::{self, Detached, detach};
use crate::daemon::log_file::LogFile;
use crate::daemon::pid_file::PidFile;
use crate::daemon::privileges::Identity;
use crate::daemon::systemd::{Notifier, inherited_listeners};
use crate::net::Door;
use crate::programs::service::{DoorArgs, Launch, Open, ProcessArgs, Queue, places};
use daemon::{Daemon, Opened, PageDoor, Words};
use program::Program;
use requests::Log;

/// Run poetry servers as a service: in the background, as another user, under systemd, watched
///
/// Either one program with its own arguments, or with --config any number of services in one process.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP, disable_help_subcommand = true)]
#[command(subcommand_value_name = "PROGRAM", subcommand_help_heading = "Programs")]
#[command(
    override_usage = "poetryd [OPTIONS] PROGRAM ARGS... [-- CMD ARGS...]\n       poetryd [OPTIONS] --config FILE [-- CMD ARGS...]"
)]
pub struct Args {
    /// Start the services described in a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Only check the words, the file, and the poems, scripts and port file that are named there, and exit
    #[arg(long)]
    check: bool,

    /// Go on in the background when every socket listens
    #[arg(long)]
    daemon: bool,

    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    program: Option<Program>,
}

/// What a file can say of the service as a whole, too.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Service")]
struct Options {
    /// Write the number of the process into FILE, and lock it
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Write messages into FILE instead of stderr
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Begin a new log file before this one gets longer; 0: never [default: 10MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size, allow_hyphen_values = true)]
    log_size: Option<u64>,

    /// Keep so many older log files [default: 5]
    #[arg(long, value_name = "N", value_parser = values::whole::<usize>(0, u64::MAX), allow_negative_numbers = true)]
    log_keep: Option<usize>,

    /// Be this user, by name or number, when every socket listens; for root only
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// And this group [default: the user's own]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    #[arg(long, value_name = "ADDR", value_parser = ListenArgs::parse)]
    #[arg(help = "Serve /metrics and /healthz on this address: PORT (on this machine), HOST:PORT or [IPv6]:PORT")]
    metrics: Option<ListenArgs>,

    /// A name by which browsers may call that address, beside localhost and IP addresses
    ///
    /// Any other name is refused (403): a page of somebody else could have a name that leads here. May be given more than
    /// once.
    #[arg(long, value_name = "NAME", value_parser = values::host_name)]
    host_name: Vec<String>,

    #[command(flatten)]
    process: ProcessArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

A file has poetryd's options as keys at its top (log-file = \"/var/log/poetryd.log\"), and a table for each service, \
[[fastpoetry]], [[transformedpoetry]], [[poetry-proxy]], [[poetry-chaos]], [[poetry-broker]], \
[[tcp-charfinder]], [[http-charfinder]], [[poetry-monitor]], [[poetry-library]] or \
[[poetry-anthology]], with the program's options as keys \
(port = 10000); FILE, UPSTREAM and SOURCE are the keys file, upstream and source. Paths in it are relative to its directory. The command line wins over it.

Sockets that systemd has opened (socket activation) are used instead of new ones: all of them by a single program, and \
in a file by the service that has the address.

Examples:
  poetryd fastpoetry --port 10000 ecstasy
      A program as a service, in the foreground
  poetryd --daemon --pid-file poetryd.pid --log-file poetryd.log --config docs/poetry.toml
      Several, in the background
  poetryd --check --config docs/poetry.toml
      What is wrong with the file
  poetryd --user nobody --metrics 9100 fastpoetry --port 79 ecstasy
      A low port without being root for longer than that takes
  poetryd --config docs/poetry.toml -- get-poetry --transform shout --via {transformedpoetry} {fastpoetry-1}
      Several services, for as long as one command

Signals:
  SIGHUP           opens the log file again, reads the poems again, makes proxies forget theirs
  SIGUSR1          logs the totals of each service
  SIGINT, SIGTERM  stop it: new clients are refused, others have their grace time; a second one does not wait

  Neither of the first two ends it; but if the terminal that it was started on is gone, SIGHUP stops it, unless nohup \
started it.

Exit status:
  0    stopped; with --daemon, every socket listens
  1    a service cannot be started: a poem cannot be read, a port is taken, the pid file is locked
  2    the command line or the file makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    // First: it decides whose child this process is.
    let detached = Detached::find();
    crate::cli::run_and_explain("poetryd", program::misspelt, |args| {
        run(args, detached.map_err(|error| Error::failure(error.to_string()))?)
    })
}

/// For a service in the background to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

fn run(args: Args, detached: Option<Detached>) -> Result<u8, Error> {
    let (is_daemon, only_check) = (args.daemon, args.check);
    if let (Some(Program::Service(launch, _)), None) = (&args.program, &args.config) {
        args.options.identity()?;
        if let Some(status) = launch.one_shot()? {
            return Ok(status);
        }
    }
    let startup = Startup::read(args)?;
    if startup.beside.is_command() {
        for (flag, is_given) in [("--check", only_check), ("--daemon", is_daemon)] {
            if is_given {
                return Err(Error::usage(format!("{flag} runs no command: there is nothing to write after --")));
            }
        }
    }
    if only_check {
        startup.options.process.ready.check_file()?;
        return Ok(SUCCESS);
    }
    if is_daemon && detached.is_none() {
        return match detach(PATIENCE, startup.options.process.ready.ready_fd) {
            Ok(_) => Ok(SUCCESS),
            // It has said why.
            Err(detach::Error::Ended(status)) => Ok(status),
            Err(error) => Err(Error::failure(format!("the service in the background: {error}"))),
        };
    }
    startup.start(detached)
}

/// What is to be run.
struct Startup {
    options: Options,
    services: Vec<Resolved>,
    /// All inherited sockets are for the only service.
    is_single: bool,
    identity: Option<Identity>,
    beside: Beside,
}

/// A service that can be opened.
struct Resolved {
    /// Prefix for its error messages.
    prefix: String,
    launch: Box<dyn Launch>,
    open: Open,
}

impl Startup {
    fn read(args: Args) -> Result<Self, Error> {
        let only_check = args.check;
        // A descriptor that a file names is that of another process, which will be started with it.
        let check = |process: &ProcessArgs| if only_check { process.ready.check_descriptor() } else { Ok(()) };
        let (options, services, is_single) = match (args.program, args.config) {
            (Some(Program::Service(launch, process)), None) => {
                launch.check().map_err(|(_, error)| error)?;
                let open = launch.resolve().map_err(|(_, error)| error)?;
                let process = process.over(args.options.process);
                check(&process)?;
                (Options { process, ..args.options }, vec![Resolved { prefix: String::new(), launch, open }], true)
            }
            (Some(Program::Other(name)), None) => return Err(program::unknown(&name)),
            (None, Some(path)) => {
                check(&args.options.process)?;
                let (options, services) = config::read(&path)?;
                (args.options.over(options), services, false)
            }
            (Some(_), Some(_)) => return Err(Error::usage("either a PROGRAM or --config, not both; see --help")),
            (None, None) => return Err(Error::usage("there is no PROGRAM and no --config; see --help")),
        };
        let files = [
            (&options.pid_file, "pid file"),
            (&options.log_file, "log file"),
            (&options.process.ready.port_file, "port file"),
        ];
        for (index, (file, what)) in files.iter().enumerate() {
            for (other, what_else) in &files[index + 1..] {
                if let (Some(file), Some(other)) = (file, other)
                    && is_same_file(file, other)
                {
                    return Err(Error::usage(format!("{} cannot be {what} and {what_else}", file.display())));
                }
            }
        }
        let identity = options.identity()?;
        let mut places = places(&services.iter().map(|service| service.launch.as_ref()).collect::<Vec<_>>());
        places.extend(options.metrics.as_ref().map(|_| Place { name: "metrics".to_owned(), is_main: false }));
        let beside = options.process.command.resolve("poetryd", &places)?;
        Ok(Self { options, services, is_single, identity, beside })
    }

    /// Opens everything, in the order that [`crate::daemon`] explains, and serves.
    fn start(self, detached: Option<Detached>) -> Result<u8, Error> {
        let inherited = inherited_listeners().map_err(|error| Error::failure(error.to_string()))?;
        let inherited = Inherited(inherited.into_iter().map(|(_, listener)| listener).collect());
        let ready = self.options.process.ready.take()?;
        if self.identity.is_some() && !geteuid().is_root() {
            return Err(Error::failure("cannot become another user: only root can"));
        }
        open_files::raise_limit();
        // From now on signals are kept back until there is somebody to hear them.
        let signals = stopping::block();
        let pid_file = self.options.pid_file.as_ref().map(|path| {
            PidFile::create(path).map_err(|error| Error::failure(format!("pid file {}: {error}", path.display())))
        });
        let pid_file = pid_file.transpose()?;
        // Not before: as long as another process has the pid file, its log is not ours.
        let log = self.open_log()?;
        let opened = self.open(inherited, log.clone());
        let served =
            opened.and_then(|(daemon, beside)| daemon.serve(signals, Words { ready, pid_file, detached, beside }));
        served.inspect_err(|_| {
            if let Log::File(log) = log {
                log.take_back();
            }
        })
    }

    /// Opens every service, and becomes who it is to be: from then on there may be threads.
    fn open(self, mut inherited: Inherited, log: Log) -> Result<(Daemon, Beside), Error> {
        // Each step for all of them: what one of them writes must not be begun if another one cannot be started.
        let mut bound = Vec::new();
        for Resolved { prefix, launch, .. } in &self.services {
            let doors = launch.doors();
            let doors: Result<Vec<Door>, Error> = match self.is_single {
                true => doors.iter().map(|door| inherited.bind_to_all(door)).collect(),
                false => doors.iter().map(|door| inherited.bind(door)).collect(),
            };
            bound.push(doors.map_err(|error| error.prefixed(prefix))?);
        }
        let page_door = |listen: &ListenArgs| {
            let names = [&self.options.host_name[..], slice::from_ref(&listen.iface)].concat();
            inherited.bind(&metrics_door(listen)).map(|door| PageDoor { door, names })
        };
        let metrics = self.options.metrics.as_ref().map(page_door).transpose()?;
        inherited.finish()?;
        let mut opened = Vec::new();
        for (Resolved { prefix, launch, open }, doors) in self.services.into_iter().zip(bound) {
            opened.push(Opened::new(launch.as_ref(), open, doors).map_err(|error| error.prefixed(&prefix))?);
        }
        if let Some(identity) = &self.identity {
            identity.assume().map_err(|error| privileges(&error))?;
        }
        let report = self.options.process.report;
        Ok((Daemon { services: opened, metrics, log, notifier: Notifier::from_env(), report }, self.beside))
    }

    fn open_log(&self) -> Result<Log, Error> {
        const SIZE: u64 = 10 << 20;
        const KEEP: usize = 5;
        let Options { log_file, log_size, log_keep, process: ProcessArgs { logs, .. }, .. } = &self.options;
        let Some(path) = log_file else { return self.options.process.begin_log().map(Log::Stderr) };
        let open = || {
            let size = Some(log_size.unwrap_or(SIZE)).filter(|&size| size > 0);
            let keep = log_keep.unwrap_or(KEEP);
            let log = match &self.identity {
                Some(identity) => LogFile::open_for(path, size, keep, identity.uid(), identity.gid())?,
                None => LogFile::open(path, size, keep)?,
            };
            log.set_json(logs.format() == LogFormat::Json);
            Ok(log)
        };
        let log = open().map_err(|error| Error::cannot("write", path.display(), &error))?;
        logs.init(Style::Journal, false, log.clone())?;
        panic::set_hook(Box::new(|panic| error!("{}", internal_error(panic))));
        Ok(Log::File(log))
    }
}

/// The door of the page of metrics. Its queue is short: few ask, and now and then.
fn metrics_door(listen: &ListenArgs) -> DoorArgs<'_> {
    DoorArgs {
        name: "metrics",
        what: "Metrics".to_owned(),
        listen,
        queue: Queue::Single(128),
        trouble: Trouble::default(),
    }
}

/// Sockets that systemd has opened, and that are nobody's yet.
struct Inherited(Vec<TcpListener>);

impl Inherited {
    /// A door with the inherited socket of its address, or with new ones.
    fn bind(&mut self, door: &DoorArgs<'_>) -> Result<Door, Error> {
        if self.0.is_empty() {
            return door.bind();
        }
        let address = door.listen.address()?;
        match self.0.iter().position(|listener| listener.local_addr().is_ok_and(|local| local == address)) {
            Some(found) => {
                let listeners = ListenArgs::adopt(&self.0.remove(found), door.listeners(), door.trouble)?;
                Ok(Door { name: door.name, listeners, listen_later: None })
            }
            None => door.bind(),
        }
    }

    /// A door with all inherited sockets, whatever their address, or with new ones.
    fn bind_to_all(&mut self, door: &DoorArgs<'_>) -> Result<Door, Error> {
        if self.0.is_empty() {
            return door.bind();
        }
        let mut listeners = Vec::new();
        for listener in self.0.drain(..) {
            listeners.extend(ListenArgs::adopt(&listener, door.listeners(), door.trouble)?);
        }
        Ok(Door { name: door.name, listeners, listen_later: None })
    }

    /// None may be left over.
    fn finish(self) -> Result<(), Error> {
        match self.0.first().and_then(|listener| listener.local_addr().ok()) {
            Some(address) => Err(Error::failure(format!("the inherited socket {address} is for none of the services"))),
            None => Ok(()),
        }
    }
}

fn privileges(error: &crate::daemon::privileges::Error) -> Error {
    Error::failure(format!("cannot become another user: {error}"))
}

impl Options {
    /// Who the service is to be, if not who started it.
    fn identity(&self) -> Result<Option<Identity>, Error> {
        if self.user.is_none() && self.group.is_none() {
            return Ok(None);
        }
        let found = Identity::find(self.user.as_deref(), self.group.as_deref());
        found.map(Some).map_err(|error| privileges(&error))
    }

    /// The same where they say something, and as `base` has it where they do not.
    fn over(self, base: Self) -> Self {
        Self {
            pid_file: self.pid_file.or(base.pid_file),
            log_file: self.log_file.or(base.log_file),
            log_size: self.log_size.or(base.log_size),
            log_keep: self.log_keep.or(base.log_keep),
            user: self.user.or(base.user),
            group: self.group.or(base.group),
            metrics: self.metrics.or(base.metrics),
            host_name: if self.host_name.is_empty() { base.host_name } else { self.host_name },
            process: self.process.over(base.process),
        }
    }
}

//! poetryd as a program: the async servers as one service.

mod config;
mod running;

use std::ffi::OsString;
use std::net::TcpListener;
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tracing::error;

use crate::cli::listen::{ListenArgs, workers};
use crate::cli::logs::{LogArgs, LogFormat, Style};
use crate::cli::signals::Signals;
use crate::cli::terminal::{self, Screen};
use crate::cli::{Error, SUCCESS, internal_error, is_same_file, open_files, values};
use crate::daemon::detach::{self, Detached, detach};
use crate::daemon::log_file::LogFile;
use crate::daemon::pid_file::PidFile;
use crate::daemon::privileges::Identity;
use crate::daemon::systemd::{Notifier, inherited_listeners};
use crate::programs::fastpoetry;
use crate::programs::poetry_proxy;
use crate::programs::service::Launch;
use crate::programs::transformedpoetry;
use running::{Daemon, METRICS_BACKLOG, Running};

/// Run poetry servers as a service: in the background, as another user, under systemd, watched
///
/// Either one program with its own arguments, or with --config any number of services in one process.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP, disable_help_subcommand = true)]
#[command(subcommand_value_name = "PROGRAM", subcommand_help_heading = "Programs")]
#[command(override_usage = "poetryd [OPTIONS] PROGRAM ARGS...\n       poetryd [OPTIONS] --config FILE")]
pub struct Args {
    /// Start the services described in a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Only check the words, the file, and the poems and scripts that are named there, and exit
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
    #[arg(long, value_name = "N")]
    log_keep: Option<usize>,

    /// Be this user, by name or number, when every socket listens; for root only
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// And this group [default: the user's own]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    #[arg(long, value_name = "ADDR", value_parser = ListenArgs::parse)]
    #[arg(help = "Serve metrics on this address: PORT (on this machine), HOST:PORT or [IPv6]:PORT")]
    metrics: Option<ListenArgs>,

    #[command(flatten)]
    logs: LogArgs,
}

/// The programs that can be services, with the words that they take themselves.
#[derive(Debug, Subcommand)]
enum Program {
    #[command(name = "fastpoetry")]
    Fast(fastpoetry::Args),
    #[command(name = "transformedpoetry")]
    Transform(transformedpoetry::Args),
    #[command(name = "poetry-proxy")]
    Proxy(poetry_proxy::Args),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

A file has poetryd's options as keys at its top (log-file = \"/var/log/poetryd.log\"), and a table for each service, \
[[fastpoetry]], [[transformedpoetry]] or [[poetry-proxy]], with the program's options as keys (port = 10000); FILE and \
UPSTREAM are the keys file and upstream. Paths in it are relative to its directory. The command line wins over it.

Sockets that systemd has opened (socket activation) are used instead of new ones: all of them by a single program, and \
in a file by the service that has the address.

Examples:
  poetryd fastpoetry --port 10000 poetry/ecstasy.txt
      A program as a service, in the foreground
  poetryd --daemon --pid-file poetryd.pid --log-file poetryd.log --config docs/poetry.toml
      Several, in the background
  poetryd --check --config docs/poetry.toml
      What is wrong with the file
  poetryd --user nobody --metrics 9100 fastpoetry --port 79 poetry/ecstasy.txt
      A low port without being root for longer than that takes

Signals:
  SIGHUP           opens the log file again, reads the poems again, makes proxies forget theirs
  SIGUSR1          logs the totals of proxies
  SIGINT, SIGTERM  stop it: new clients are refused, others have their grace time; a second one does not wait

Exit status:
  0    stopped; with --daemon, every socket listens
  1    a service cannot be started: a poem cannot be read, a port is taken, the pid file is locked
  2    the command line or the file makes no sense";

/// The `main` of the program.
pub fn main() -> ExitCode {
    // First: it decides whose child this process is.
    let detached = Detached::find();
    crate::cli::run("poetryd", |args| run(args, detached.map_err(|error| Error::failure(error.to_string()))?))
}

/// For a service in the background to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

fn run(args: Args, detached: Option<Detached>) -> Result<u8, Error> {
    let is_daemon = args.daemon;
    let check = args.check;
    let startup = Startup::read(args)?;
    if let [(_, service)] = &startup.services[..]
        && let Some(status) = service.one_shot()?
    {
        return Ok(status);
    }
    if check {
        return Ok(SUCCESS);
    }
    if is_daemon && detached.is_none() {
        return match detach(PATIENCE) {
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
    /// With what errors about them begin.
    services: Vec<(String, Box<dyn Launch>)>,
    /// All inherited sockets are for the only service.
    is_single: bool,
    identity: Option<Identity>,
}

impl Startup {
    fn read(args: Args) -> Result<Self, Error> {
        let (options, services, is_single) = match (args.program, args.config) {
            (Some(program), None) => {
                let (service, logs): (Box<dyn Launch>, LogArgs) = match program {
                    Program::Fast(args) => (Box::new(args.service), args.logs),
                    Program::Transform(args) => (Box::new(args.service), args.logs),
                    Program::Proxy(args) => (Box::new(args.service), args.logs),
                    Program::Other(words) => return Err(no_such_program(&words)),
                };
                service.check().map_err(|(_, error)| error)?;
                let logs = logs.over(args.options.logs);
                (Options { logs, ..args.options }, vec![(String::new(), service)], true)
            }
            (None, Some(path)) => {
                let (options, services) = config::read(&path)?;
                let name = |(place, service): config::Found| (format!("{place}: {}: ", service.program()), service);
                (args.options.over(options), services.into_iter().map(name).collect(), false)
            }
            (Some(_), Some(_)) => return Err(Error::usage("either a PROGRAM or --config, not both; see --help")),
            (None, None) => return Err(Error::usage("there is no PROGRAM and no --config; see --help")),
        };
        if let (Some(pid_file), Some(log_file)) = (&options.pid_file, &options.log_file)
            && is_same_file(pid_file, log_file)
        {
            return Err(Error::usage(format!("{} cannot be pid file and log file", pid_file.display())));
        }
        let identity = options.identity()?;
        Ok(Self { options, services, is_single, identity })
    }

    /// Opens everything, in the order that [`crate::daemon`] explains, and serves.
    fn start(self, detached: Option<Detached>) -> Result<u8, Error> {
        let inherited = inherited_listeners().map_err(|error| Error::failure(error.to_string()))?;
        let mut inherited: Vec<TcpListener> = inherited.into_iter().map(|(_, listener)| listener).collect();
        if self.identity.is_some() && !geteuid().is_root() {
            return Err(Error::failure("cannot become another user: only root can"));
        }
        open_files::raise_limit();
        // From now on signals are kept back until there is somebody to hear them.
        let signals = Signals::block(&[Signal::SIGHUP, Signal::SIGUSR1]);
        let pid_file = self.options.pid_file.as_ref().map(|path| {
            PidFile::create(path).map_err(|error| Error::failure(format!("pid file {}: {error}", path.display())))
        });
        let _pid_file = pid_file.transpose()?;
        // Not before: as long as another process has the pid file, its log is not ours.
        let log = self.open_log()?;
        self.serve(signals, &mut inherited, log.clone(), detached).inspect_err(|_| {
            if let Some(log) = log {
                log.take_back();
            }
        })
    }

    fn serve(
        self,
        signals: Signals,
        inherited: &mut Vec<TcpListener>,
        log: Option<LogFile>,
        detached: Option<Detached>,
    ) -> Result<u8, Error> {
        // Each step for all of them: what one of them writes must not be begun if another one cannot be started.
        let mut bound = Vec::new();
        for (place, service) in &self.services {
            bound.push(self.bind(service.as_ref(), inherited).map_err(|error| error.after(place))?);
        }
        let metrics =
            self.options.metrics.as_ref().map(|listen| {
                bind(listen, 1, inherited, || listen.bind(METRICS_BACKLOG).map(|listener| vec![listener]))
            });
        let metrics = metrics.transpose()?;
        if let Some(address) = inherited.first().and_then(|listener| listener.local_addr().ok()) {
            return Err(Error::failure(format!("the inherited socket {address} is for none of the services")));
        }
        let mut running = Vec::new();
        for ((place, service), listeners) in self.services.iter().zip(bound) {
            running.push(Running::open(service.as_ref(), listeners).map_err(|error| error.after(place))?);
        }
        if let Some(identity) = &self.identity {
            identity.assume().map_err(|error| privileges(&error))?;
        }
        // From here on there are threads.
        let service = Daemon { running, metrics, log, notifier: Notifier::from_env() };
        service.serve(signals, detached)
    }

    fn open_log(&self) -> Result<Option<LogFile>, Error> {
        const SIZE: u64 = 10 << 20;
        const KEEP: usize = 5;
        let Options { log_file, log_size, log_keep, logs, .. } = &self.options;
        let Some(path) = log_file else {
            logs.init(Style::Journal, terminal::colour(), Screen::default())?;
            return Ok(None);
        };
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
        Ok(Some(log))
    }

    fn bind(&self, service: &dyn Launch, inherited: &mut Vec<TcpListener>) -> Result<Vec<TcpListener>, Error> {
        if !self.is_single {
            return bind(&service.common().listen, workers(), inherited, || service.bind());
        }
        let adopted = inherited.drain(..).map(|listener| ListenArgs::adopt(&listener, workers()));
        let adopted: Vec<TcpListener> = adopted.collect::<Result<Vec<_>, Error>>()?.into_iter().flatten().collect();
        if adopted.is_empty() { service.bind() } else { Ok(adopted) }
    }
}

/// Why one of the servers is none of the programs that can be services.
const NO_SERVICE: &str = "slowpoetry serves one client at a time, and runs alone";

fn no_such_program(words: &[OsString]) -> Error {
    let name = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    let hint = match &*name {
        "slowpoetry" => &format!("; {NO_SERVICE}"),
        file if file.ends_with(".toml") => "; a file comes after --config",
        _ => "",
    };
    let programs = "fastpoetry, transformedpoetry or poetry-proxy";
    Error::usage(format!("there is no PROGRAM '{name}': it is {programs}{hint}; see --help"))
}

/// The inherited socket of this address, or new ones.
fn bind(
    listen: &ListenArgs,
    workers: usize,
    inherited: &mut Vec<TcpListener>,
    new: impl FnOnce() -> Result<Vec<TcpListener>, Error>,
) -> Result<Vec<TcpListener>, Error> {
    if inherited.is_empty() {
        return new();
    }
    let address = listen.address()?;
    match inherited.iter().position(|listener| listener.local_addr().is_ok_and(|local| local == address)) {
        Some(found) => ListenArgs::adopt(&inherited.remove(found), workers),
        None => new(),
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
            logs: self.logs.over(base.logs),
        }
    }
}

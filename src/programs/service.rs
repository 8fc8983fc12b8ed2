//! What the servers share: flags about clients, the way from arguments to a service, and how signals stop it.

use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tracing::{error, info};

use crate::cli::listen::{ListenArgs, address, announce};
use crate::cli::logs::{LogArgs, Style};
use crate::cli::signals::{self, Signals};
use crate::cli::terminal::{self, Screen};
use crate::cli::values::{self, Limit};
use crate::cli::{Error, SUCCESS, open_files};
use crate::errors::reason;
use crate::metrics::{Kind, Metric, Page};
use crate::net::counts::Counts;
use crate::net::{self, Handler, ServerLimits, Stop};

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

impl ServiceArgs {
    /// A client that takes nothing for so long is dropped.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.crowd.clients.write_timeout.0
    }

    /// The limits of the server as a whole.
    pub fn limits(&self) -> ServerLimits {
        ServerLimits { max_clients: self.crowd.max_clients.get(), grace: self.crowd.clients.grace }
    }
}

/// The arguments of an async server, and what becomes of them: a program, or one of the services of a daemon.
///
/// It is opened in the order of these functions, each of which may fail, and none of which starts a thread.
pub trait Launch {
    /// The name of its program.
    fn program(&self) -> &'static str;

    /// The signals that mean something to it, beside those that stop it.
    fn signals(&self) -> &'static [Signal] {
        &[]
    }

    /// What all async servers are told.
    fn common(&self) -> &ServiceArgs;

    /// What it does, for the address line: `Serving FILE`.
    fn what(&self) -> String;

    /// Looks for what can be wrong before anything is opened; what is wrong comes with the name of the argument.
    ///
    /// # Errors
    /// A file is not there, or makes no sense.
    fn check(&self) -> Result<(), (&'static str, Error)> {
        Ok(())
    }

    /// What it is to do instead of serving, if that is so: its exit status.
    ///
    /// # Errors
    /// It failed.
    fn one_shot(&self) -> Result<Option<u8>, Error> {
        Ok(None)
    }

    /// Opens its sockets.
    ///
    /// # Errors
    /// The address is taken, or none of ours.
    fn bind(&self) -> Result<Vec<TcpListener>, Error> {
        self.common().listen.bind_shared()
    }

    /// Reads what it needs, and begins to write what it is to write.
    ///
    /// # Errors
    /// A file cannot be read or written, or makes no sense.
    fn open(&self) -> Result<Arc<dyn Service>, Error>;
}

/// An async server that only has to be started.
pub trait Service: Send + Sync {
    /// Gets everything that it needs to serve.
    ///
    /// # Errors
    /// The system does not give it.
    fn prepare(self: Arc<Self>, listeners: Vec<TcpListener>, limits: &ServerLimits) -> Result<Run, Error>;

    /// Does what a signal means to it, if it means anything. This may take as long as a disk does.
    fn on_signal(&self, _: Signal) {}

    /// Adds its metrics, all with these labels.
    fn metrics(&self, _: &mut Page, _: &[(&str, &str)]) {}
}

/// Serves until it is stopped, and returns what became of it.
pub type Run = Box<dyn FnOnce(&Stop) -> Result<Ended, Error> + Send>;

/// What became of a server.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its exit status.
    pub status: u8,
    served: u64,
    lost: u64,
    reset: u64,
}

impl Ended {
    /// A line for the log, after `what`.
    pub fn tell(&self, what: &str) {
        let Self { served, lost, reset, .. } = self;
        info!(served, lost, reset, "{what}: {served} clients served, {lost} lost, {reset} of them reset at the end");
    }
}

/// Prepares to serve, as [`Service::prepare`] has it.
///
/// # Errors
/// The system does not give what it needs.
pub fn prepare<H: Handler>(listeners: Vec<TcpListener>, server: Arc<H>, limits: &ServerLimits) -> Result<Run, Error> {
    let cannot = |error| Error::cannot("start", "a worker", &error);
    let prepared = net::prepare(listeners, Arc::clone(&server), limits).map_err(cannot)?;
    Ok(Box::new(move |stop| {
        let reset = prepared.run(stop).map_err(cannot)?;
        Ok(Ended { status: SUCCESS, served: server.counts().served(), lost: server.counts().lost(), reset })
    }))
}

/// The metrics that all servers have.
pub fn add_counts(page: &mut Page, labels: &[(&str, &str)], counts: &Counts) {
    const CLIENTS: Metric = gauge("poetry_clients", "Clients connected now.");
    const ACCEPTED: Metric = counter("poetry_clients_accepted_total", "Clients accepted.");
    const ENDED: Metric = counter("poetry_clients_ended_total", "Clients by outcome: served as planned, or lost.");
    const BYTES: Metric = counter("poetry_sent_bytes_total", "Bytes sent to clients.");
    page.add(CLIENTS, labels, counts.connected());
    page.add(ACCEPTED, labels, counts.accepted());
    for (outcome, count) in [("served", counts.served()), ("lost", counts.lost())] {
        page.add(ENDED, &[labels, &[("outcome", outcome)]].concat(), count);
    }
    page.add(BYTES, labels, counts.bytes());
}

/// A metric that only grows.
pub const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, help }
}

/// A metric that goes up and down.
pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help }
}

/// A server as a program of its own: opens it, says where it listens, and serves until a signal stops it.
///
/// # Errors
/// It cannot be opened or started.
pub fn run(service: &impl Launch, logs: &LogArgs) -> Result<u8, Error> {
    logs.init(Style::Journal, terminal::colour(), Screen::default())?;
    if let Some(status) = service.one_shot()? {
        return Ok(status);
    }
    open_files::raise_limit();
    let limits = service.common().limits();
    let opened = Arc::new(OnceLock::<Arc<dyn Service>>::new());
    let told = Arc::clone(&opened);
    let stop = stop_on(Signals::block(service.signals()), limits.grace, move |signal| {
        if let Some(server) = told.get() {
            server.on_signal(signal);
        }
    })?;
    service.check().map_err(|(_, error)| error)?;
    let listeners = service.bind()?;
    let server = service.open()?;
    let _ = opened.set(Arc::clone(&server));
    let address = address(&listeners)?;
    let run = server.prepare(listeners, &limits)?;
    announce(&service.what(), address)?;
    let ended = run(&stop)?;
    ended.tell("Stopped");
    Ok(ended.status)
}

/// A server that listens and accepts nobody.
#[derive(Debug)]
pub struct Nobody;

impl Service for Nobody {
    fn prepare(self: Arc<Self>, listeners: Vec<TcpListener>, _: &ServerLimits) -> Result<Run, Error> {
        Ok(Box::new(move |stop| {
            net::never_accept(listeners, stop).map_err(|error| Error::cannot("start", "a runtime", &error))?;
            Ok(Ended { status: SUCCESS, served: 0, lost: 0, reset: 0 })
        }))
    }
}

/// The flags of a server of many clients.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Clients")]
pub struct CrowdArgs {
    /// Serve at most N clients at once; more wait in the listen queue
    #[arg(long, value_name = "N", default_value = "10000")]
    pub max_clients: NonZeroUsize,

    /// The flags of every server.
    #[command(flatten)]
    pub clients: ClientArgs,
}

/// What SIGINT and SIGTERM stop; `told` hears of these and of all other signals.
///
/// The first one closes the door, the second one resets who is left. If the server does not end then, because a file
/// or a pipe does not answer, the process does.
///
/// # Errors
/// The system gives no thread.
pub fn stop_on(
    signals: Signals,
    grace: Duration,
    told: impl Fn(Signal) + Send + Sync + 'static,
) -> Result<Stop, Error> {
    let stop = Stop::default();
    let stopped = stop.clone();
    let told: Told = Arc::new(told);
    let mut asides = Asides::default();
    let on_signal = move |signal| match signal {
        Signal::SIGINT | Signal::SIGTERM => {
            if stopped.is_closing() {
                stopped.abort();
                signals::exit_at_the_latest(signals::LAST_WORDS, SUCCESS);
            } else {
                stopped.close();
                signals::exit_at_the_latest(grace.saturating_add(signals::LAST_WORDS), SUCCESS);
            }
            told(signal);
        }
        signal => asides.tell(signal, &told),
    };
    signals.watch(on_signal).map_err(|error| Error::cannot("start", "a thread", &error))?;
    Ok(stop)
}

type Told = Arc<dyn Fn(Signal) + Send + Sync>;

/// A thread for each signal that takes its time, so that the next one, which may be to stop, is heard meanwhile.
#[derive(Default)]
struct Asides(Vec<(Signal, mpsc::SyncSender<()>)>);

impl Asides {
    fn tell(&mut self, signal: Signal, told: &Told) {
        if let Some((_, aside)) = self.0.iter().find(|(known, _)| *known == signal) {
            // If it is full, once more is noted already, and more than that is not needed.
            let _ = aside.try_send(());
            return;
        }
        let (aside, signals) = mpsc::sync_channel(1);
        let told = Arc::clone(told);
        let body = move || signals.into_iter().for_each(|()| told(signal));
        match thread::Builder::new().name(signal.as_str().to_lowercase()).spawn(body) {
            Ok(_) => {
                let _ = aside.try_send(());
                self.0.push((signal, aside));
            }
            Err(error) => error!("Cannot start a thread: {}; {signal} is ignored", reason(&error)),
        }
    }
}

//! Services that are open, from there to their end.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use tracing::{error, info, warn};

use crate::cli::listen::{address, announce};
use crate::cli::signals::Signals;
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::daemon::detach::Detached;
use crate::daemon::log_file::LogFile;
use crate::daemon::systemd::{Notifier, State, Watchdog, watchdog_interval};
use crate::errors::reason;
use crate::metrics::{CONTENT_TYPE, Metric, Page};
use crate::net::{ServerLimits, Stop};
use crate::programs::service::{Launch, Run, Service, counter, gauge, prepare, stop_on};
use crate::server::page::WebServer;
use crate::sync::lock;

/// A service that listens.
pub(super) struct Running {
    program: &'static str,
    what: String,
    address: SocketAddr,
    limits: ServerLimits,
    server: Arc<dyn Service>,
    listeners: Vec<TcpListener>,
}

/// The queue of the page of metrics.
pub(super) const METRICS_BACKLOG: u32 = 128;

/// Of the page of metrics: it is for a few that ask now and then.
const METRICS_LIMITS: ServerLimits = ServerLimits { max_clients: 100, grace: Duration::from_secs(1) };

/// Everything that listens, before it serves.
pub(super) struct Daemon {
    pub(super) running: Vec<Running>,
    pub(super) metrics: Option<Vec<TcpListener>>,
    pub(super) log: Option<LogFile>,
    pub(super) notifier: Notifier,
}

impl Daemon {
    /// Serves until a signal stops it, and returns its exit status.
    ///
    /// # Errors
    /// One of the services cannot be started: then none is.
    pub(super) fn serve(self, signals: Signals, detached: Option<Detached>) -> Result<u8, Error> {
        let Self { running, metrics, log, notifier } = self;
        let page = page(&running);
        let servers: Vec<Arc<dyn Service>> = running.iter().map(|service| Arc::clone(&service.server)).collect();
        let graces = running.iter().map(|service| service.limits.grace);
        let grace = graces.chain(metrics.as_ref().map(|_| METRICS_LIMITS.grace)).max().unwrap_or_default();
        let manager = Arc::new(Manager { notifier: notifier.clone(), phase: Mutex::new(Phase::Starting) });
        let stop = stop_on(signals, grace, on_signal(servers, log, Arc::clone(&manager)))?;

        // Everything that can fail, and then the word that it has not.
        let (mut lines, mut runs) = (Vec::new(), Vec::new());
        for Running { program, what, address, limits, server, listeners } in running {
            let run = server.prepare(listeners, &limits);
            runs.push((program, address, run.map_err(|error| error.after(&format!("{program} on {address}: ")))?));
            lines.push((what, address));
        }
        if let Some(listeners) = metrics {
            let address = address(&listeners)?;
            let web = Arc::new(WebServer::new("/metrics", CONTENT_TYPE, page));
            runs.push(("metrics", address, prepare(listeners, web, &METRICS_LIMITS)?));
            lines.push(("Metrics".to_owned(), address));
        }
        lines.into_iter().try_for_each(|(what, address)| announce(&what, address))?;
        let threads = runs.into_iter().map(|run| start(run, &stop)).collect::<Result<Vec<_>, Error>>()?;
        let _watchdog = watchdog(&notifier, &stop)?;
        if let Some(detached) = detached {
            let told = detached.settle().and_then(|()| detached.ready());
            told.map_err(|error| Error::failure(error.to_string()))?;
        }
        manager.ready();

        let status = |thread: thread::JoinHandle<u8>| thread.join().unwrap_or(FAILURE);
        Ok(threads.into_iter().map(status).max().unwrap_or(SUCCESS))
    }
}

impl Running {
    /// Opens what a service needs, beside its sockets.
    ///
    /// # Errors
    /// As for [`Launch::open`].
    pub(super) fn open(service: &dyn Launch, listeners: Vec<TcpListener>) -> Result<Self, Error> {
        Ok(Self {
            program: service.program(),
            what: service.what(),
            address: address(&listeners)?,
            limits: service.common().limits(),
            server: service.open()?,
            listeners,
        })
    }
}

/// Starts what is prepared. All of them serve, or none.
fn start(
    (program, address, run): (&'static str, SocketAddr, Run),
    stop: &Stop,
) -> Result<thread::JoinHandle<u8>, Error> {
    let stop = stop.clone();
    let body = move || {
        let _together = StopAtTheEnd(&stop);
        match run(&stop) {
            Ok(ended) => {
                ended.tell(&format!("Stopped {program} on {address}"));
                ended.status
            }
            Err(error) => {
                error!("{program} on {address}: {}", error.message);
                FAILURE
            }
        }
    };
    let started = thread::Builder::new().name(program.to_owned()).spawn(body);
    started.map_err(|error| Error::cannot("start", "a thread", &error))
}

struct StopAtTheEnd<'a>(&'a Stop);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn watchdog(notifier: &Notifier, stop: &Stop) -> Result<Option<Watchdog>, Error> {
    let Some(interval) = watchdog_interval() else { return Ok(None) };
    let pulse = stop.pulse().clone();
    let watchdog = Watchdog::start(notifier.clone(), interval, move || pulse.is_felt());
    watchdog.map(Some).map_err(|error| Error::cannot("start", "a thread", &error))
}

fn on_signal(
    servers: Vec<Arc<dyn Service>>,
    log: Option<LogFile>,
    manager: Arc<Manager>,
) -> impl Fn(Signal) + Send + Sync + 'static {
    move |signal| match signal {
        Signal::SIGINT | Signal::SIGTERM => manager.stopping(),
        Signal::SIGHUP | Signal::SIGUSR1 => {
            let is_reload = signal == Signal::SIGHUP;
            let is_told = is_reload && manager.tell_in_between(State::Reloading);
            if is_reload
                && let Some(log) = &log
                && let Err(error) = log.reopen()
            {
                error!("Cannot open the log file again: {}; going on in the old one", reason(&error));
            }
            for server in &servers {
                server.on_signal(signal);
            }
            if is_reload {
                info!("Reloaded");
            }
            if is_told {
                manager.tell_in_between(State::Ready);
            }
        }
        _ => {}
    }
}

/// The service manager, which must hear of reloads only between the start and the stop.
struct Manager {
    notifier: Notifier,
    /// Locked until it is told, so that it hears all in order.
    phase: Mutex<Phase>,
}

#[derive(PartialEq)]
enum Phase {
    Starting,
    Ready,
    Stopping,
}

impl Manager {
    /// The service is ready, unless it stops already.
    fn ready(&self) {
        let mut phase = lock(&self.phase);
        if *phase == Phase::Starting {
            *phase = Phase::Ready;
            self.tell(State::Ready);
        }
    }

    fn stopping(&self) {
        *lock(&self.phase) = Phase::Stopping;
        self.tell(State::Stopping);
    }

    /// Tells it after the start and before the stop, and says if that is so.
    fn tell_in_between(&self, state: State<'_>) -> bool {
        let phase = lock(&self.phase);
        let is_ready = *phase == Phase::Ready;
        if is_ready {
            self.tell(state);
        }
        is_ready
    }

    /// A service can do without a manager that hears it.
    fn tell(&self, state: State<'_>) {
        if let Err(error) = self.notifier.notify(state) {
            warn!("Cannot tell the service manager: {}", reason(&error));
        }
    }
}

/// Makes the page of metrics.
fn page(running: &[Running]) -> impl Fn() -> String + Send + Sync + 'static {
    const BUILD: Metric = gauge("poetry_build_info", "Always 1; the label is the version.");
    const STARTED: Metric = gauge("poetry_start_time_seconds", "When the process was started, in seconds since 1970.");
    const SCRAPES: Metric = counter("poetry_scrapes_total", "Times this page was made.");
    let services: Vec<_> =
        running.iter().map(|it| (it.program, it.address.to_string(), Arc::clone(&it.server))).collect();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let scrapes = AtomicU64::new(0);
    move || {
        let mut page = Page::default();
        page.add(BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.add(STARTED, &[], started);
        page.add(SCRAPES, &[], scrapes.fetch_add(1, Relaxed) + 1);
        for (program, address, server) in &services {
            server.metrics(&mut page, &[("service", program), ("address", address)]);
        }
        page.text()
    }
}

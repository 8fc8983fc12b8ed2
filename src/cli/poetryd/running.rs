//! Services that are open, from there to their end.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use tracing::{error, info, warn};

use crate::cli::listen::announce;
use crate::cli::serving::{Server, Service, counter, gauge, stop_on};
use crate::cli::signals::Signals;
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::daemon::detach::Detached;
use crate::daemon::log_file::LogFile;
use crate::daemon::systemd::{Notifier, State, Watchdog, watchdog_interval};
use crate::metrics::{CONTENT_TYPE, Metric, Page};
use crate::reason::reason;
use crate::server::web::WebServer;
use crate::server::{self, Limits, Stop};

/// A service that listens.
pub(super) struct Running {
    program: &'static str,
    what: String,
    address: String,
    limits: Limits,
    server: Arc<dyn Server>,
    listeners: Vec<TcpListener>,
}

/// The queue of the page of metrics.
pub(super) const METRICS_BACKLOG: u32 = 128;

/// Of the page of metrics: it is for a few that ask now and then.
const METRICS_LIMITS: Limits = Limits { max_clients: 100, grace: Duration::from_secs(1) };

/// Everything that listens, before it serves.
pub(super) struct Daemon {
    pub(super) running: Vec<Running>,
    pub(super) metrics: Option<Vec<TcpListener>>,
    pub(super) log: Option<LogFile>,
    pub(super) notifier: Notifier,
}

impl Daemon {
    pub(super) fn serve(self, detached: Option<Detached>) -> Result<u8, Error> {
        let Self { running, metrics, log, notifier } = self;
        let grace = running.iter().map(|service| service.limits.grace).max().unwrap_or_default();
        // A limit of file sizes must cost lines of the log, not the service.
        let signals = Signals::block(&[Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGXFSZ]);
        let servers: Vec<Arc<dyn Server>> = running.iter().map(|service| Arc::clone(&service.server)).collect();
        let stop = stop_on(signals, grace, on_signal(servers, log, notifier.clone()))?;

        for service in &running {
            announce(&service.what, &service.listeners[0])?;
        }
        if let Some(listeners) = &metrics {
            announce("Metrics", &listeners[0])?;
        }
        let page = page(&running);
        let mut threads = Vec::new();
        for service in running {
            threads.push(service.start(&stop)?);
        }
        if let Some(listeners) = metrics {
            let web = Arc::new(WebServer::new("/metrics", CONTENT_TYPE, page));
            let stop = stop.clone();
            let serve = move || {
                if let Err(error) = server::serve(listeners, web, &METRICS_LIMITS, &stop) {
                    error!("Cannot serve metrics: {}", reason(&error));
                }
            };
            spawn("metrics", serve)?;
        }
        let pulse = stop.pulse().clone();
        let watchdog = watchdog_interval().map(|interval| {
            Watchdog::start(notifier.clone(), interval, move || pulse.is_felt())
                .map_err(|error| Error::cannot("start", "a thread", &error))
        });
        let _watchdog = watchdog.transpose()?;
        if let Some(detached) = detached {
            let told = detached.settle().and_then(|()| detached.ready());
            told.map_err(|error| Error::failure(error.to_string()))?;
        }
        tell(&notifier, State::Ready);

        let status = |thread: thread::JoinHandle<u8>| thread.join().unwrap_or(FAILURE);
        Ok(threads.into_iter().map(status).max().unwrap_or(SUCCESS))
    }
}

impl Running {
    pub(super) fn open(service: &dyn Service, listeners: Vec<TcpListener>) -> Result<Self, Error> {
        let address = listeners[0].local_addr().map_err(|error| Error::cannot("find", "the port", &error))?;
        Ok(Self {
            program: service.program(),
            what: service.what(),
            address: address.to_string(),
            limits: service.service().limits(),
            server: service.open()?,
            listeners,
        })
    }

    fn start(self, stop: &Stop) -> Result<thread::JoinHandle<u8>, Error> {
        let Self { program, address, limits, server, listeners, .. } = self;
        let stop = stop.clone();
        spawn(program, move || {
            // All of them serve, or none.
            let _together = StopAtTheEnd(&stop);
            match server.serve(listeners, &limits, &stop) {
                Ok(ended) => {
                    ended.tell(&format!("Stopped {program} on {address}"));
                    ended.status
                }
                Err(error) => {
                    error!("{program} on {address}: {}", error.message);
                    FAILURE
                }
            }
        })
    }
}

struct StopAtTheEnd<'a>(&'a Stop);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, Error> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map_err(|error| Error::cannot("start", "a thread", &error))
}

fn on_signal(
    servers: Vec<Arc<dyn Server>>,
    log: Option<LogFile>,
    notifier: Notifier,
) -> impl Fn(Signal) + Send + Sync + 'static {
    move |signal| match signal {
        Signal::SIGINT | Signal::SIGTERM => tell(&notifier, State::Stopping),
        Signal::SIGHUP | Signal::SIGUSR1 => {
            let is_reload = signal == Signal::SIGHUP;
            if is_reload {
                tell(&notifier, State::Reloading);
                if let Some(log) = &log
                    && let Err(error) = log.reopen()
                {
                    error!("Cannot open the log file again: {}; going on in the old one", reason(&error));
                }
            }
            for server in &servers {
                server.on_signal(signal);
            }
            if is_reload {
                info!("Reloaded");
                tell(&notifier, State::Ready);
            }
        }
        _ => {}
    }
}

/// A service can do without a manager that hears it.
fn tell(notifier: &Notifier, state: State<'_>) {
    if let Err(error) = notifier.notify(state) {
        warn!("Cannot tell the service manager: {}", reason(&error));
    }
}

/// Makes the page of metrics.
fn page(running: &[Running]) -> impl Fn() -> String + Send + Sync + 'static {
    const BUILD: Metric = gauge("poetry_build_info", "Always 1; the label is the version.");
    const STARTED: Metric = gauge("poetry_start_time_seconds", "When the process was started, in seconds since 1970.");
    const SCRAPES: Metric = counter("poetry_scrapes_total", "Times this page was made.");
    let services: Vec<_> = running.iter().map(|it| (it.program, it.address.clone(), Arc::clone(&it.server))).collect();
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

//! Services that are open, from there to their end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{error, info, warn};

use crate::cli::listen::announce;
use crate::cli::signals::Signals;
use crate::cli::stopping::{Request, stop_on};
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::daemon::detach::Detached;
use crate::daemon::log_file::LogFile;
use crate::daemon::systemd::{Notifier, State, Watchdog, watchdog_interval};
use crate::errors::reason;
use crate::metrics::{CONTENT_TYPE, Metric, Page};
use crate::net::counts::Counts;
use crate::net::descriptors::Descriptors;
use crate::net::{Door, ServerLimits, Stop, Stoppable};
use crate::programs::service::{Launch, Open, Run, Service, add_metrics, address, prepare};
use crate::server::page::PageServer;
use crate::sync::lock;

/// A service that listens, and has not begun.
pub(super) struct Opened {
    program: &'static str,
    /// The lines that say where it listens.
    lines: Vec<(String, SocketAddr)>,
    limits: ServerLimits,
    service: Arc<dyn Service>,
    doors: Vec<Door>,
}

/// Of the page of metrics: it is for a few that ask now and then.
const METRICS_GRACE: Duration = Duration::from_secs(1);

fn metrics_limits(descriptors: Descriptors) -> ServerLimits {
    let write_timeout = Some(Duration::from_secs(5));
    ServerLimits { max_clients: 100, descriptors, write_timeout, grace: METRICS_GRACE }
}

/// Everything that listens, before it serves.
pub(super) struct Daemon {
    pub(super) services: Vec<Opened>,
    pub(super) metrics: Option<Door>,
    pub(super) log: Option<LogFile>,
    pub(super) notifier: Notifier,
}

impl Opened {
    /// Opens what a service needs, beside its doors.
    ///
    /// # Errors
    /// As for [`Open`].
    pub(super) fn new(launch: &dyn Launch, open: Open, doors: Vec<Door>) -> Result<Self, Error> {
        let mut lines = Vec::new();
        for (args, door) in launch.doors().into_iter().zip(&doors) {
            lines.push((args.what, address(door)?));
        }
        Ok(Self { program: launch.program(), lines, limits: launch.common().limits(), service: open()?, doors })
    }

    /// Where it listens, for the log and for labels: its first address.
    fn address(&self) -> String {
        self.lines.first().map(|(_, address)| address.to_string()).unwrap_or_default()
    }
}

/// A service that is prepared to serve.
struct Ready {
    program: &'static str,
    address: String,
    service: Arc<dyn Service>,
    run: Run,
}

/// A service that serves, as others see it.
struct Running {
    program: &'static str,
    address: String,
    service: Arc<dyn Service>,
    counts: Arc<Counts>,
}

impl Daemon {
    /// Serves until a signal stops it, and returns its exit status.
    ///
    /// # Errors
    /// One of the services cannot be started: then none is.
    pub(super) fn serve(self, signals: Signals, detached: Option<Detached>) -> Result<u8, Error> {
        let Self { services, metrics, log, notifier } = self;
        let graces = services.iter().map(|service| service.limits.grace);
        let grace = graces.chain(metrics.as_ref().map(|_| METRICS_GRACE)).max().unwrap_or_default();
        let manager = Arc::new(Manager { notifier: notifier.clone(), phase: Mutex::new(Phase::Starting) });
        let running = Arc::new(OnceLock::new());
        let stop = Stop::default();
        stop_on(signals, grace, stop.clone(), on_request(Arc::clone(&running), log, Arc::clone(&manager)))?;

        // Everything that can fail, and then the word that it has not.
        let (mut lines, mut ready) = (Vec::new(), Vec::new());
        let descriptors = Descriptors::default();
        for opened in services {
            let (program, address) = (opened.program, opened.address());
            let limits = ServerLimits { descriptors: descriptors.clone(), ..opened.limits };
            let run = Arc::clone(&opened.service).prepare(opened.doors, &limits);
            let run = run.map_err(|error| error.prefixed(&format!("{program} on {address}: ")))?;
            lines.extend(opened.lines);
            ready.push(Ready { program, address, service: opened.service, run });
        }
        let services: Vec<Running> = ready.iter().map(Running::new).collect();
        let services = Arc::clone(running.get_or_init(|| Arc::new(services)));
        if let Some(door) = metrics {
            let address = address(&door)?;
            lines.push(("Metrics".to_owned(), address));
            let service = Arc::new(PageService(PageServer::new("/metrics", CONTENT_TYPE, page(services)).into()));
            let run = Arc::clone(&service).prepare(vec![door], &metrics_limits(descriptors))?;
            ready.push(Ready { program: "metrics", address: address.to_string(), service, run });
        }
        lines.into_iter().try_for_each(|(what, address)| announce(&what, address))?;
        let threads = ready.into_iter().map(|ready| start(ready, &stop)).collect::<Result<Vec<_>, Error>>()?;
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
    fn new(ready: &Ready) -> Self {
        let Ready { program, address, service, run } = ready;
        Self { program, address: address.clone(), service: Arc::clone(service), counts: Arc::clone(run.counts()) }
    }
}

/// The page of metrics.
struct PageService(Arc<PageServer>);

impl Service for PageService {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        prepare(doors, Arc::clone(&self.0), limits)
    }
}

/// Starts what is prepared. All of them serve, or none.
fn start(Ready { program, address, service, run }: Ready, stop: &Stop) -> Result<thread::JoinHandle<u8>, Error> {
    let stop = stop.clone();
    let body = move || {
        let _together = StopAtTheEnd(&stop);
        match run.serve(&stop) {
            Ok(ended) => {
                ended.tell(&format!("Stopped {program} on {address}"));
                service.status()
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
    let watchdog = Watchdog::start(notifier.clone(), interval, move || pulse.check());
    watchdog.map(Some).map_err(|error| Error::cannot("start", "a thread", &error))
}

fn on_request(
    running: Arc<OnceLock<Arc<Vec<Running>>>>,
    log: Option<LogFile>,
    manager: Arc<Manager>,
) -> impl Fn(Request) + Send + Sync + 'static {
    let each = move |tell: fn(&Running)| running.get().into_iter().flat_map(|services| services.iter()).for_each(tell);
    move |request| match request {
        Request::Stop => manager.stopping(),
        Request::Report => each(|it| it.service.report(&it.counts)),
        Request::Reload => {
            let is_told = manager.tell_in_between(State::Reloading);
            if let Some(log) = &log
                && let Err(error) = log.reopen()
            {
                error!("Cannot open the log file again: {}; going on in the old one", reason(&error));
            }
            each(|it| it.service.reload());
            info!("Reloaded");
            if is_told {
                manager.tell_in_between(State::Ready);
            }
        }
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
    fn tell_in_between(&self, state: State) -> bool {
        let phase = lock(&self.phase);
        let is_ready = *phase == Phase::Ready;
        if is_ready {
            self.tell(state);
        }
        is_ready
    }

    /// A service can do without a manager that hears it.
    fn tell(&self, state: State) {
        if let Err(error) = self.notifier.notify(state) {
            warn!("Cannot tell the service manager: {}", reason(&error));
        }
    }
}

/// Makes the page of metrics.
fn page(services: Arc<Vec<Running>>) -> impl Fn() -> String + Send + Sync + 'static {
    const BUILD: Metric = Metric::gauge("poetry_build_info", "Always 1; the label is the version.");
    const STARTED: Metric =
        Metric::gauge("poetry_start_time_seconds", "When the process was started, in seconds since 1970.");
    const SCRAPES: Metric = Metric::counter("poetry_scrapes_total", "Times this page was made.");
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let scrapes = AtomicU64::new(0);
    move || {
        let mut page = Page::default();
        page.add(BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.add(STARTED, &[], started);
        page.add(SCRAPES, &[], scrapes.fetch_add(1, Relaxed) + 1);
        for Running { program, address, service, counts } in services.iter() {
            add_metrics(&mut page, &[("service", program), ("address", address)], counts, service.as_ref());
        }
        page.text()
    }
}

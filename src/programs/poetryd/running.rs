//! Services that are open, from there to their end.

use std::future::{self, Future};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout_at};
use tracing::{Span, error, info, warn};

use crate::cli::journal::{self, Journal};
use crate::cli::logs::service_span;
use crate::cli::ready::Ready;
use crate::cli::signals::LAST_WORDS;
use crate::cli::stopping::{Blocked, Request, stop_on};
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::daemon::detach::{self, Detached};
use crate::daemon::log_file::LogFile;
use crate::daemon::pid_file::PidFile;
use crate::daemon::systemd::{Notifier, State, Watchdog, watchdog_interval};
use crate::errors::reason;
use crate::metrics::{CONTENT_TYPE, Metric, Page};
use crate::net::counts::Counts;
use crate::net::descriptors::Descriptors;
use crate::net::pulse::{Pulse, Question};
use crate::net::{Door, ServerLimits, Stop, Stoppable};
use crate::programs::service::{Launch, Open, Reload, Run, Service, add_metrics, address, prepare};
use crate::server::page::{Made, PageServer};
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
    pub(super) log: Log,
    pub(super) notifier: Notifier,
}

/// Where the log is.
#[derive(Clone)]
pub(super) enum Log {
    File(LogFile),
    Stderr(Journal),
}

/// Who is told that the daemon is ready, and that it is no more.
pub(super) struct Words {
    pub(super) ready: Ready,
    pub(super) pid_file: Option<PidFile>,
    pub(super) detached: Option<Detached>,
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
struct Prepared {
    program: &'static str,
    address: String,
    service: Arc<dyn Service>,
    run: Run,
    stop: Stop,
    /// Of all services: none goes on without another.
    together: Stop,
}

/// A service that serves, as others see it.
struct Running {
    program: &'static str,
    address: String,
    service: Arc<dyn Service>,
    counts: Arc<Counts>,
    pulse: Pulse,
    /// What it logs is in this.
    span: Span,
}

/// All services together, and the pages about them, which stay until the services have ended.
struct Whole {
    services: Stop,
    pages: Stop,
}

impl Stoppable for Whole {
    fn close(&self) {
        self.services.close();
    }

    fn abort(&self) {
        self.services.abort();
        self.pages.abort();
    }

    fn is_closing(&self) -> bool {
        self.services.is_closing()
    }
}

impl Daemon {
    /// Serves until a signal stops it, and returns its exit status.
    ///
    /// # Errors
    /// One of the services cannot be started: then none is, and nobody was told that they are.
    pub(super) fn serve(self, signals: Blocked, words: Words) -> Result<u8, Error> {
        let Self { services, metrics, log, notifier } = self;
        let Words { ready, pid_file, detached } = words;
        let graces = services.iter().map(|service| service.limits.grace);
        let grace = graces.chain(metrics.as_ref().map(|_| METRICS_GRACE)).max().unwrap_or_default();
        let manager = Arc::new(Manager { notifier: notifier.clone(), phase: Mutex::new(Phase::Starting) });
        let (stop, pages) = (Stop::default(), Stop::default());

        // Everything that can fail, and then the word that it has not.
        let (mut lines, mut prepared, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        let are_several = services.len() + usize::from(metrics.is_some()) > 1;
        let descriptors = Descriptors::default();
        for opened in services {
            let (program, address) = (opened.program, opened.address());
            let span = if are_several { service_span(program, &address) } else { Span::none() };
            let limits = ServerLimits { descriptors: descriptors.clone(), ..opened.limits };
            let run = span.in_scope(|| Arc::clone(&opened.service).prepare(opened.doors, &limits));
            let run = run.map_err(|error| error.prefixed(&format!("{program} on {address}: ")))?;
            lines.extend(opened.lines);
            let (service, own) = (opened.service, stop.with_own_pulse());
            let (counts, pulse) = (Arc::clone(run.counts()), own.pulse().clone());
            seen.push(Running {
                program,
                address: address.clone(),
                service: Arc::clone(&service),
                counts,
                pulse,
                span,
            });
            prepared.push(Prepared { program, address, service, run, stop: own, together: stop.clone() });
        }
        let seen = Arc::new(seen);
        // Signals were kept back until there is somebody to reload and to report.
        let journal = match &log {
            Log::Stderr(journal) => Some(journal.clone()),
            Log::File(_) => None,
        };
        let told = on_request(Arc::clone(&seen), log, Arc::clone(&manager));
        let stopping = stop_on(signals, grace, Whole { services: stop.clone(), pages: pages.clone() }, told)?;
        stopping.at_the_end(move || drop(pid_file));
        journal.map_or(Ok(()), |journal| journal.start())?;

        let mut pulses: Vec<Pulse> = seen.iter().map(|service| service.pulse.clone()).collect();
        let mut page_thread = None;
        if let Some(door) = metrics {
            const PROGRAM: &str = "metrics";
            let address = address(&door)?;
            lines.push(("Metrics".to_owned(), address));
            let server = PageServer::default().with("/metrics", CONTENT_TYPE, metrics_page(Arc::clone(&seen))).with(
                "/healthz",
                "text/plain; charset=utf-8",
                health_page(seen, stop.clone()),
            );
            let service = Arc::new(server);
            let prepare = || Arc::clone(&service).prepare(vec![door], &metrics_limits(descriptors));
            let run = service_span(PROGRAM, address).in_scope(prepare)?;
            pulses.push(pages.pulse().clone());
            let address = address.to_string();
            let (stop, together) = (pages.clone(), stop.clone());
            page_thread = Some(start(Prepared { program: PROGRAM, address, service, run, stop, together })?);
        }
        let threads = prepared.into_iter().map(start).collect::<Result<Vec<_>, Error>>()?;
        let _watchdog = watchdog(&notifier, pulses)?;
        let in_background = |error: detach::Error| Error::failure(error.to_string());
        detached.as_ref().map_or(Ok(()), Detached::settle).map_err(in_background)?;

        ready.tell(&lines, &stopping)?;
        if let Some(detached) = detached {
            // There is no other stderr for what was said until now.
            journal::flush(LAST_WORDS);
            detached.ready().map_err(in_background)?;
        }
        manager.ready();

        let page_thread = page_thread.map(Parked::go);
        let threads: Vec<JoinHandle<u8>> = threads.into_iter().map(Parked::go).collect();
        let status = |thread: JoinHandle<u8>| thread.join().unwrap_or(FAILURE);
        let worst = threads.into_iter().map(status).max().unwrap_or(SUCCESS);
        // It may not have been a signal that has ended them.
        manager.stopping();
        pages.close();
        Ok(worst.max(page_thread.map_or(SUCCESS, status)))
    }
}

/// The pages about the services.
impl Service for PageServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        prepare(doors, &self, limits)
    }
}

/// A thread that waits for the word to begin, and ends without it if this is dropped.
struct Parked {
    begin: mpsc::SyncSender<()>,
    thread: JoinHandle<u8>,
}

impl Parked {
    fn go(self) -> JoinHandle<u8> {
        // It waits for nothing else.
        let _ = self.begin.send(());
        self.thread
    }
}

/// Starts the thread of a service. All of them serve, or none.
fn start(Prepared { program, address, service, run, stop, together }: Prepared) -> Result<Parked, Error> {
    let (begin, begun) = mpsc::sync_channel(1);
    let body = move || {
        if begun.recv().is_err() {
            return FAILURE;
        }
        let _together = StopAtTheEnd(&together);
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
    let thread =
        thread::Builder::new().name(program.to_owned()).spawn(body).map_err(|error| Error::no_thread(&error))?;
    Ok(Parked { begin, thread })
}

struct StopAtTheEnd<'a>(&'a Stop);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn watchdog(notifier: &Notifier, pulses: Vec<Pulse>) -> Result<Option<Watchdog>, Error> {
    let Some(interval) = watchdog_interval() else { return Ok(None) };
    let mut asked: Vec<(Pulse, Question)> = pulses.into_iter().map(|pulse| (pulse.clone(), pulse.ask())).collect();
    let is_alive = move || {
        let is_alive = asked.iter().all(|(pulse, question)| pulse.is_answered(*question));
        asked.iter_mut().for_each(|(pulse, question)| *question = pulse.ask());
        is_alive
    };
    Watchdog::start(notifier.clone(), interval, is_alive).map(Some).map_err(|error| Error::no_thread(&error))
}

fn on_request(
    services: Arc<Vec<Running>>,
    log: Log,
    manager: Arc<Manager>,
) -> impl Fn(Request) + Send + Sync + 'static {
    move |request| match request {
        Request::Stop => manager.stopping(),
        Request::Report => services.iter().for_each(|it| it.span.in_scope(|| it.service.report(&it.counts))),
        Request::Reload => {
            let is_told = manager.tell_in_between(State::Reloading);
            let mut outcomes = vec![reopen(&log)];
            outcomes.extend(services.iter().map(|it| it.span.in_scope(|| it.service.reload())));
            match reloaded(&outcomes) {
                Ok(all) => info!("{all}"),
                Err(not_all) => warn!("{not_all}"),
            }
            if is_told {
                manager.tell_in_between(State::Ready);
            }
        }
    }
}

fn reopen(log: &Log) -> Reload {
    let Log::File(log) = log else { return Reload::Nothing };
    match log.reopen() {
        Ok(()) => Reload::Done,
        Err(error) => {
            error!("Cannot open the log file again: {}; going on in the old one", reason(&error));
            Reload::Failed
        }
    }
}

/// What is to be said of a reload as a whole, after what each has said of itself.
fn reloaded(outcomes: &[Reload]) -> Result<&'static str, &'static str> {
    let has = |outcome| outcomes.contains(&outcome);
    match (has(Reload::Done), has(Reload::Failed)) {
        (_, false) => Ok("Reloaded"),
        (true, true) => Err("Reloaded in part: the rest stays as it was"),
        (false, true) => Err("Nothing is reloaded: all stays as it was"),
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

    /// The service stops; that is told once.
    fn stopping(&self) {
        let mut phase = lock(&self.phase);
        if *phase != Phase::Stopping {
            *phase = Phase::Stopping;
            self.tell(State::Stopping);
        }
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

/// For an answer to the question whether a service is alive.
const HEALTH: Duration = Duration::from_secs(2);

/// Says whether every service does its work.
fn health_page(
    services: Arc<Vec<Running>>,
    stop: Stop,
) -> impl Fn() -> Pin<Box<dyn Future<Output = Made> + Send>> + Send + Sync + 'static {
    move || {
        let (services, stop) = (Arc::clone(&services), stop.clone());
        Box::pin(async move {
            if stop.is_closing() {
                return Made::Unavailable("stopping\n".to_owned());
            }
            let until = Instant::now() + HEALTH;
            // All are asked before one is waited for.
            let asked: Vec<Question> = services.iter().map(|service| service.pulse.ask()).collect();
            let mut silent = Vec::new();
            for (service, question) in services.iter().zip(asked) {
                if timeout_at(until, service.pulse.answered(question)).await.is_err() {
                    silent.push(format!("{} on {}", service.program, service.address));
                }
            }
            match silent.len() {
                0 => Made::Well("ok\n".to_owned()),
                1 => Made::Unavailable(format!("{} does not answer\n", silent[0])),
                _ => Made::Unavailable(format!("{} do not answer\n", silent.join(", "))),
            }
        })
    }
}

/// Makes the page of metrics.
fn metrics_page(services: Arc<Vec<Running>>) -> impl Fn() -> future::Ready<Made> + Send + Sync + 'static {
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
        for Running { program, address, service, counts, .. } in services.iter() {
            add_metrics(&mut page, &[("service", program), ("address", address)], counts, service.as_ref());
        }
        future::ready(Made::Well(page.text()))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{TcpListener, TcpStream};

    use tokio::runtime::Builder;

    use super::*;
    use crate::net::{self, Connection, FastPath, Progress, Unregistered};
    use crate::pace::Ending;
    use crate::programs::service::Nobody;

    #[test]
    fn only_what_is_reloaded_is_said_to_be() {
        use Reload::{Done, Failed, Nothing};
        for (outcomes, said) in [
            (vec![Nothing, Nothing], Ok("Reloaded")),
            (vec![Nothing, Done], Ok("Reloaded")),
            (vec![Done, Failed, Nothing], Err("Reloaded in part: the rest stays as it was")),
            (vec![Nothing, Failed], Err("Nothing is reloaded: all stays as it was")),
        ] {
            assert_eq!(reloaded(&outcomes), said, "{outcomes:?}");
        }
    }
    /// Holds up its worker with each connection, until the channel is dropped.
    struct Stuck {
        begin: Mutex<mpsc::Sender<()>>,
        end: Mutex<mpsc::Receiver<()>>,
    }

    impl FastPath for Stuck {
        const EOF_ENDS_MESSAGE: bool = true;

        type State = ();

        fn try_serve(&self, _: &Unregistered<'_>) -> io::Result<Progress<()>> {
            lock(&self.begin).send(()).expect("heard");
            let _ = lock(&self.end).recv();
            Ok(Progress::End(Ending::Fin))
        }

        async fn finish(&self, _: &mut Connection, (): ()) -> io::Result<Ending> {
            Ok(Ending::Fin)
        }
    }

    #[test]
    fn a_service_whose_worker_does_not_get_round_to_it_is_named() {
        let (stop, nobody) = (Stop::default(), Stop::default());
        let (begin, begun) = mpsc::channel();
        let (release, end) = mpsc::channel();
        let stuck = Stuck { begin: Mutex::new(begin), end: Mutex::new(end) };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let door = Door { name: "only", listeners: vec![listener] };
        let limits = ServerLimits {
            max_clients: 1,
            descriptors: Descriptors::default(),
            write_timeout: None,
            grace: Duration::ZERO,
        };
        let run = prepare(vec![door], &Arc::new(stuck), &limits).expect("prepared");
        let running = |address: &str, pulse: &Pulse| Running {
            program: "fastpoetry",
            address: address.to_owned(),
            service: Arc::new(Nobody),
            counts: Arc::default(),
            pulse: pulse.clone(),
            span: Span::none(),
        };
        let services = vec![running("one", nobody.pulse()), running("other", stop.pulse())];
        let page = health_page(Arc::new(services), stop.clone());
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        thread::scope(|scope| {
            scope.spawn(|| run.serve(&stop).expect("served"));
            scope.spawn(|| net::never_accept(Vec::new()).expect("prepared").run(&nobody));
            assert_eq!(runtime.block_on(page()), Made::Well("ok\n".to_owned()));
            let _client = TcpStream::connect(address).expect("a server");
            begun.recv().expect("stuck");
            let named = Made::Unavailable("fastpoetry on other does not answer\n".to_owned());
            assert_eq!(runtime.block_on(page()), named);
            drop(release);
            assert_eq!(runtime.block_on(page()), Made::Well("ok\n".to_owned()));
            nobody.close();
            stop.close();
            assert_eq!(runtime.block_on(page()), Made::Unavailable("stopping\n".to_owned()));
        });
    }
}

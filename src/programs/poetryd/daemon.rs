//! Services that are open, from there to their end.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{Span, error};

use super::pages;
use super::requests::{Log, Manager, on_request};
use super::running::Running;
use crate::cli::command::Beside;
use crate::cli::journal;
use crate::cli::logs::service_span;
use crate::cli::ready::Ready;
use crate::cli::signals::LAST_WORDS;
use crate::cli::stopping::{Blocked, stop_on};
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::daemon::detach::{self, Detached};
use crate::daemon::pid_file::PidFile;
use crate::daemon::systemd::{Notifier, Watchdog, watchdog_interval};
use crate::net::counts::Counts;
use crate::net::descriptors::Descriptors;
use crate::net::pulse::{Pulse, Question};
use crate::net::{Door, ServerLimits, Stop, Stoppable};
use crate::programs::reporter::{ReportArgs, Reported, Reporter};
use crate::programs::service::{Launch, Open, Run, Service, address, addresses, announce, figures, prepare};
use crate::server::page::PageServer;

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
    pub(super) metrics: Option<PageDoor>,
    pub(super) log: Log,
    pub(super) notifier: Notifier,
    pub(super) report: ReportArgs,
}

/// Where there are pages, and the names by which they may be called.
pub(super) struct PageDoor {
    pub(super) door: Door,
    pub(super) names: Vec<String>,
}

/// Who is told that the daemon is ready, and that it is no more.
pub(super) struct Words {
    pub(super) ready: Ready,
    pub(super) pid_file: Option<PidFile>,
    pub(super) detached: Option<Detached>,
    pub(super) beside: Beside,
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
        let Self { services, metrics, log, notifier, report } = self;
        let Words { ready, pid_file, detached, mut beside } = words;
        let graces = services.iter().map(|service| service.limits.grace);
        let grace = graces.chain(metrics.as_ref().map(|_| METRICS_GRACE)).max().unwrap_or_default();
        let manager = Arc::new(Manager::new(notifier.clone()));
        let (stop, page_stop) = (Stop::default(), Stop::default());

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
            beside.watch(run.counts())?;
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
        let marks = Arc::new(OnceLock::new());
        let told = on_request(Arc::clone(&seen), log, Arc::clone(&manager), Arc::clone(&marks));
        let stopping = stop_on(signals, grace, Whole { services: stop.clone(), pages: page_stop.clone() }, told)?;
        stopping.at_the_end(move || drop(pid_file));
        journal.map_or(Ok(()), |journal| journal.start())?;

        let mut pulses: Vec<Pulse> = seen.iter().map(|service| service.pulse.clone()).collect();
        let mut page_thread = None;
        if let Some(PageDoor { door, names }) = metrics {
            const PROGRAM: &str = "metrics";
            let address = address(&door)?;
            lines.push(("Metrics".to_owned(), address));
            let service = Arc::new(pages::pages(&seen, &stop, names));
            let prepare = || Arc::clone(&service).prepare(vec![door], &metrics_limits(descriptors));
            let run = service_span(PROGRAM, address).in_scope(prepare)?;
            pulses.push(page_stop.pulse().clone());
            let address = address.to_string();
            let (stop, together) = (page_stop.clone(), stop.clone());
            page_thread = Some(start(Prepared { program: PROGRAM, address, service, run, stop, together })?);
        }
        let reported = |it: &Running| Reported {
            program: it.program,
            address: it.address.clone(),
            counts: Arc::clone(&it.counts),
            figures: figures(&it.service),
        };
        let reporter = Reporter::start(&report, seen.iter().map(reported).collect())?;
        if let Some(reporter) = &reporter {
            let _ = marks.set(reporter.marks());
        }
        let threads = prepared.into_iter().map(start).collect::<Result<Vec<_>, Error>>()?;
        let _watchdog = watchdog(&notifier, pulses)?;
        let in_background = |error: detach::Error| Error::failure(error.to_string());
        detached.as_ref().map_or(Ok(()), Detached::settle).map_err(in_background)?;

        ready.tell(&lines, announce(&beside), &stopping)?;
        if let Some(detached) = detached {
            // There is no other stderr for what was said until now.
            journal::flush(LAST_WORDS);
            detached.ready().map_err(in_background)?;
        }
        manager.ready();
        let companion = beside.start(&addresses(&lines), grace, &stopping)?;

        let page_thread = page_thread.map(Parked::go);
        let threads: Vec<JoinHandle<u8>> = threads.into_iter().map(Parked::go).collect();
        let status = |thread: JoinHandle<u8>| thread.join().unwrap_or(FAILURE);
        let worst = threads.into_iter().map(status).max().unwrap_or(SUCCESS);
        if let Some(reporter) = reporter {
            reporter.end();
        }
        // It may not have been a signal that has ended them.
        manager.stopping();
        page_stop.close();
        let worst = worst.max(page_thread.map_or(SUCCESS, status));
        let counts: Vec<&Counts> = seen.iter().map(|service| service.counts.as_ref()).collect();
        companion.end(Ok(worst), &stopping, &counts)
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
                service.end()
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

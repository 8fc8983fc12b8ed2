//! Runs of real clients beside servers in this process, again and again.

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::listen::{ListenArgs, Trouble};
use crate::cli::{Error, terminal};
use crate::client::Model;
use crate::net::descriptors::Descriptors;
use crate::net::{self, Door, ServerLimits, Stop, Stoppable};
use crate::race::child::{self, Client};
use crate::race::statistics::median;
use crate::report::Report;
use crate::server::fast::FastServer;
use crate::server::fault_plan::FaultPlan;
use crate::sim::Scenario;
use crate::units::Micros;

/// A poem that flows: so many pieces of a byte, and the pause between two of them.
const FLOWING: (u32, Duration) = (2_500, Duration::from_micros(200));

/// Rounds, in each of which every client runs; the median counts.
const ROUNDS: usize = 5;

/// A run that is as short as this is made twice, and the second one counts: the first finds the caches as
/// others have left them, and a server that has never served.
const SHORT: Duration = Duration::from_millis(250);

/// What a run came to.
pub(super) struct Taken {
    pub(super) report: Report,
    pub(super) cpu_us: Micros,
}

/// One kind of run, and what it took each time.
pub(super) struct Sample<'a> {
    model: Model,
    scenario: Option<&'a Scenario>,
    flows: bool,
    taken: Vec<Taken>,
}

impl<'a> Sample<'a> {
    /// Of a client that fetches these poems, and perhaps one that flows.
    pub(super) fn new(model: Model, scenario: Option<&'a Scenario>, flows: bool) -> Self {
        Self { model, scenario, flows, taken: Vec::new() }
    }

    /// The median of a part of what it took.
    pub(super) fn middle(&self, part: impl Fn(&Taken) -> u64) -> u64 {
        median(self.taken.iter().map(part)).unwrap_or_default()
    }

    /// Runs the client with its servers, until it is warm.
    fn take(&self, programs: &Path) -> Result<Taken, Error> {
        let server = self.scenario.map(Server::start).transpose()?;
        let clock = Instant::now();
        let taken = self.take_once(programs, server.as_ref())?;
        if clock.elapsed() > SHORT { Ok(taken) } else { self.take_once(programs, server.as_ref()) }
    }

    /// Runs the client, as a process of its own, with its servers in this one.
    fn take_once(&self, programs: &Path, server: Option<&Server>) -> Result<Taken, Error> {
        let flow = self.flows.then(flow).transpose()?;
        let poems = server.zip(self.scenario);
        let poems = poems.map(|(server, scenario)| format!("{}*{}", server.address, scenario.sources.len()));
        // The one that flows is the first that poll(2) looks at: it enters no wait queue then.
        let args: Vec<String> = flow.map(|address| address.to_string()).into_iter().chain(poems).collect();
        let program = programs.join(self.model.program());
        let client = Client { model: self.model, programs, args: &args };
        let ended = child::run(client, Command::spawn, || {});
        let ended = ended.map_err(|error| Error::cannot("run", program.display(), &error))?;
        let whole = ended.report.filter(|report| report.failed == 0);
        let taken = whole.zip(ended.cost.cpu_us).map(|(report, cpu_us)| Taken { report, cpu_us });
        taken.ok_or_else(|| {
            let why = ended.failure.unwrap_or_else(|| "did not get all poems".to_owned());
            Error::failure(format!("cannot measure this machine: {} {why}", self.model.program()))
        })
    }
}

/// Makes all runs in rounds: what disturbs the machine for a while disturbs no kind of run each time.
pub(super) fn take_all(samples: &mut [Sample<'_>]) -> Result<(), Error> {
    let programs = child::programs().map_err(|error| Error::cannot("find", "the clients", &error))?;
    let progress = progress((ROUNDS * samples.len()) as u64);
    for _ in 0..ROUNDS {
        for sample in &mut *samples {
            sample.taken.push(sample.take(&programs)?);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// A server of one client, which says a byte now and then, on a thread that ends with it.
fn flow() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| Error::cannot("start", "a server", &error))?;
    let address = listener.local_addr().map_err(|error| Error::cannot("start", "a server", &error))?;
    let serve = move || -> io::Result<()> {
        let (mut client, _) = listener.accept()?;
        let (bytes, pause) = FLOWING;
        (0..bytes).try_for_each(|_| {
            thread::sleep(pause);
            client.write_all(b".")
        })
    };
    // A client that leaves too early has failed, and says so.
    thread::Builder::new().spawn(move || drop(serve())).map_err(|error| Error::no_thread(&error))?;
    Ok(address)
}

/// A fast server in this process, as long as it is there.
struct Server {
    address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(scenario: &Scenario) -> Result<Self, Error> {
        let faults = FaultPlan::new(scenario.servers.plan.clone(), None);
        let server = Arc::new(FastServer::new(scenario.servers.poem.clone(), faults, false));
        let anywhere = ListenArgs { port: 0, iface: "127.0.0.1".to_owned(), backlog: None };
        let listeners = anywhere.bind_shared(Trouble::default())?;
        let cannot = |error| Error::cannot("start", "a server", &error);
        let address = listeners[0].local_addr().map_err(cannot)?;
        let limits = ServerLimits {
            max_clients: scenario.sources.len() + 1,
            descriptors: Descriptors::default(),
            write_timeout: None,
            grace: Duration::ZERO,
        };
        let door = Door { name: "poem", listeners, listen_later: None };
        let prepared = net::prepare(vec![door], &server, &limits).map_err(cannot)?;
        let stop = Stop::default();
        let its = stop.clone();
        // It fails only without its workers, and then the client does not get its poems.
        let serve = move || drop(prepared.run(&its));
        let thread = thread::Builder::new().spawn(serve).map_err(|error| Error::no_thread(&error))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.abort();
        // If it has panicked, it has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Shown on a terminal: it takes a while.
fn progress(runs: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { terminal::draw_target() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("measuring: run {pos} of {len}").expect("a valid template");
    ProgressBar::with_draw_target(Some(runs), target).with_style(style)
}

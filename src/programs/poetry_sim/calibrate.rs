//! `--calibrate`: real clients beside a real server, from which the costs are learned.

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Args;
use super::outcome::{say, size};
use crate::cli::listen::{ListenArgs, Trouble};
use crate::cli::{Error, open_files, terminal};
use crate::client::Model;
use crate::net::descriptors::Descriptors;
use crate::net::{self, Door, ServerLimits, Stop, Stoppable};
use crate::programs::client_args::MOST_POEMS;
use crate::race::child::{self, Client};
use crate::race::statistics::median;
use crate::report::table::Table;
use crate::server::fast::FastServer;
use crate::server::fault_plan::FaultPlan;
use crate::sim::fit::{Measure, Probe, fit};
use crate::sim::{Costs, Field, Scenario, calibration};
use crate::units::in_one_unit;

/// A run of a client, in the words of a command line, and the costs that it tells: one of time, one of memory.
struct Run {
    model: Model,
    words: &'static str,
    time: Option<Field>,
    memory: Option<Field>,
}

/// Hardly more than the process.
const ONE: &str = "--poem=science --poems=1";

/// Poems that are there at once.
const MANY: &str = "--poem=science --poems=1000";

/// Poems that all wait for the server at the same time.
const HELD: &str = "--poem=science --poems=500 --first-byte-delay=500ms";

/// Poems that come piece by piece now and then: the client sleeps before most of them.
const SPARSE: &str = "--poem=science --poems=1000 --num-bytes=200 --delay=200ms --jitter=180ms";

/// The same so fast that a wake-up is for many of them.
const DENSE: &str = "--poem=science --poems=2000 --num-bytes=200 --delay=50ms --jitter=45ms";

/// Poems that say nothing while another one flows: a readiness loop looks at all of them for each of its pieces.
const SILENT: &str = "--poem=science --poems=4000 --first-byte-delay=1200ms";

/// The other one: so many pieces of a byte, and the pause between two of them, in which nobody looks at all of the others.
const FLOWING: (u32, Duration) = (2_500, Duration::from_micros(200));

/// Each needs costs that are told by those before it, as a rule.
const RUNS: [Run; 8] = [
    run(Model::Blocking, ONE, Some(|costs| &mut costs.process), Some(|costs| &mut costs.process_bytes)),
    run(Model::Blocking, MANY, None, Some(|costs| &mut costs.poem_bytes)),
    run(Model::Select, MANY, Some(|costs| &mut costs.poem), Some(|costs| &mut costs.entry_bytes)),
    run(Model::Async, MANY, Some(|costs| &mut costs.task), Some(|costs| &mut costs.task_bytes)),
    run(Model::Threads, HELD, Some(|costs| &mut costs.thread), Some(|costs| &mut costs.thread_bytes)),
    run(Model::Async, SPARSE, Some(|costs| &mut costs.idle), None),
    run(Model::Async, DENSE, Some(|costs| &mut costs.step), None),
    run(Model::Select, SPARSE, Some(|costs| &mut costs.enqueue), None),
];

const fn run(model: Model, words: &'static str, time: Option<Field>, memory: Option<Field>) -> Run {
    Run { model, words, time, memory }
}

/// Rounds, in each of which every client runs; the median counts.
const ROUNDS: usize = 5;

/// A run that is as short as this is made twice, and the second one counts: the first finds the caches as
/// others have left them, and a server that has never served.
const SHORT: Duration = Duration::from_millis(250);

/// Descriptors that a client or a server has besides those of its connections.
const OTHERS: u64 = 64;

/// Measures this machine: the costs, and what they were fitted to. Takes about half a minute. No run has more poems than so
/// many descriptors allow.
///
/// # Errors
/// The clients are not beside this program, or cannot be run.
pub(super) fn calibrate(open_files: Option<u64>) -> Result<(Costs, Table), Error> {
    let limit = open_files::raise_limit().min(open_files.unwrap_or(u64::MAX));
    let most = limit.saturating_sub(OTHERS).clamp(1, MOST_POEMS as u64);
    let scenarios = RUNS.iter().map(|run| scenario(run.words, most)).collect::<Result<Vec<_>, _>>()?;
    let silent = scenario(SILENT, most)?;
    if silent.sources.len() as u64 == most {
        say(&format!("At most {most} poems at once, which tells less: the limit of open files is {limit}\n"));
    }
    let mut costs = Costs::default();
    calibration::measure(&mut costs).map_err(|error| Error::cannot("measure", "this machine", &error))?;
    let looking = [(Some(&silent), true), (Some(&silent), false), (None, true)];
    let looking = looking.map(|(scenario, flows)| Sample::new(Model::Select, scenario, flows));
    let fitted = RUNS.iter().zip(&scenarios).map(|(run, scenario)| Sample::new(run.model, Some(scenario), false));
    let mut samples: Vec<Sample<'_>> = looking.into_iter().chain(fitted).collect();
    take_all(&mut samples)?;
    costs.descriptor = descriptor(&samples[..3], silent.sources.len());
    let mut probes = Vec::new();
    for ((run, scenario), taken) in RUNS.iter().zip(&scenarios).zip(samples[3..].iter().map(Sample::middle)) {
        let probe =
            |cost: Field, of, measured| Probe { model: run.model, scenario: scenario.clone(), of, measured, cost };
        probes.extend(run.time.map(|cost| probe(cost, Measure::Time, 1_000 * taken.cpu_us)));
        probes.extend(run.memory.map(|cost| probe(cost, Measure::Memory, 1_024 * taken.rss_kb)));
    }
    fit(&mut costs, &probes);
    Ok((costs.clone(), table(&costs, &probes)))
}

/// The scenario of these words, with so many poems at most: one fast server on this machine.
fn scenario(words: &str, most: u64) -> Result<Scenario, Error> {
    let all = ["poetry-sim", "--server=fast", "--servers=1"].into_iter().chain(words.split(' '));
    let args = Args::try_parse_from(all).map_err(|error| Error::failure(error.to_string()))?;
    let (servers, poems) = args.numbers()[0];
    let poems = u32::try_from(most).ok().and_then(NonZeroU32::new).map_or(poems, |most| poems.min(most));
    args.scenario((servers, poems), &Costs::default()).map(|(scenario, _)| scenario)
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    cpu_us: u64,
    rss_kb: u64,
    waits: u64,
}

/// One kind of run, and what it took each time.
struct Sample<'a> {
    model: Model,
    scenario: Option<&'a Scenario>,
    flows: bool,
    taken: Vec<Taken>,
}

impl<'a> Sample<'a> {
    /// Of a client that fetches these poems, and perhaps one that flows.
    fn new(model: Model, scenario: Option<&'a Scenario>, flows: bool) -> Self {
        Self { model, scenario, flows, taken: Vec::new() }
    }

    /// The median of each part of what it took.
    fn middle(&self) -> Taken {
        let middle = |part: fn(&Taken) -> u64| median(self.taken.iter().map(part)).unwrap_or_default();
        let (cpu_us, rss_kb) = (middle(|taken| taken.cpu_us), middle(|taken| taken.rss_kb));
        Taken { cpu_us, rss_kb, waits: middle(|taken| taken.waits) }
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
        let whole = ended.report.is_some_and(|report| report.failed == 0);
        let cost = Some(ended.cost).filter(|_| whole);
        let taken = cost.and_then(|cost| {
            let waits = cost.waits.unwrap_or_default();
            Some(Taken { cpu_us: cost.cpu_us?, rss_kb: cost.peak_rss_kb?, waits })
        });
        taken.ok_or_else(|| {
            let why = ended.failure.unwrap_or_else(|| "did not get all poems".to_owned());
            Error::failure(format!("cannot measure this machine: {} {why}", self.model.program()))
        })
    }
}

/// Makes all runs in rounds: what disturbs the machine for a while disturbs no kind of run each time.
fn take_all(samples: &mut [Sample<'_>]) -> Result<(), Error> {
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

/// What a round of the readiness loop that does not sleep takes for each descriptor, in nanoseconds: what so many silent poems
/// and one that flows take together, and not apart.
fn descriptor(samples: &[Sample<'_>], silent: usize) -> u64 {
    let [together, silence, flow] = [0, 1, 2].map(|index| samples[index].middle());
    let looks = together.waits.saturating_sub(silence.waits);
    // A look at nothing but the poem that flows has its cost as well.
    let of_flow_us = flow.cpu_us * looks / flow.waits.max(1);
    let more_us = together.cpu_us.saturating_sub(silence.cpu_us + of_flow_us);
    1_000 * more_us / (looks * silent as u64).max(1)
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

/// What the fitted runs took, and what they take with these costs.
fn table(costs: &Costs, probes: &[Probe]) -> Table {
    let mut table = Table::new(["run", "poems", "tells", "measured", "simulated"]);
    for probe in probes {
        let form = |value: u64| match probe.of {
            Measure::Time => in_one_unit(&[value / 1_000]).concat(),
            Measure::Memory => size(value / 1_024),
        };
        table.push(vec![
            probe.model.to_string(),
            probe.scenario.sources.len().to_string(),
            Costs::name_of(probe.cost).to_owned(),
            form(probe.measured),
            form(probe.simulated(costs)),
        ]);
    }
    table
}

/// Shown on a terminal: it takes a while.
fn progress(runs: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { terminal::draw_target() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("measuring: run {pos} of {len}").expect("a valid template");
    ProgressBar::with_draw_target(Some(runs), target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_a_scenario_and_each_cost_is_told_once() {
        let mut costs = Costs::default();
        let mut told = Vec::new();
        for run in RUNS {
            let all = scenario(run.words, u64::MAX).expect(run.words);
            let few = scenario(run.words, 10).expect(run.words);
            assert_eq!(few.sources.len(), all.sources.len().min(10));
            told.extend([run.time, run.memory].into_iter().flatten().map(|cost| Costs::name_of(cost)));
        }
        let all = told.len();
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), all);
        *(RUNS[0].time.expect("of time"))(&mut costs) = 1;
        assert_eq!(costs.process, 1);
    }
}

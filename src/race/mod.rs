//! A race of the four clients against the same servers: child processes, in turns, and the cost of each.
//!
//! The children measure time themselves, in their reports; other costs are read from getrusage(2) and /proc.
//! [`Summary`] is one row of the result, made of plain data; [`assertion`] judges it.

pub mod assertion;

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

use crate::client::Model;
use crate::report::Report;
use crate::units::{Micros, micros};

/// One run of one client.
#[derive(Debug, Clone)]
pub struct Run {
    /// The report of the client.
    pub report: Report,
    /// The cost of the process.
    pub cost: Cost,
}

/// The cost of a run besides its time. Threads and memory are sampled from /proc while the client runs: peaks of less
/// than some milliseconds may be missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The time from the start of the process to its end, less the time of its report.
    pub start_up_us: Micros,
    /// Processor time in user mode.
    pub user_us: Micros,
    /// Processor time in the kernel.
    pub system_us: Micros,
    /// Voluntary context switches: the process waited.
    pub voluntary_switches: u64,
    /// Involuntary context switches: the process was preempted.
    pub involuntary_switches: u64,
    /// Peak number of threads.
    pub peak_threads: u64,
    /// Peak resident set size, in kilobytes of 1,024 bytes.
    pub peak_rss_kb: u64,
    /// Calls of recv(2).
    pub reads: u64,
    /// Calls that wait for many sockets.
    pub waits: u64,
}

/// The summary of one model: one row of the result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The model of waiting.
    pub model: &'static str,
    /// Runs that counted.
    pub runs: usize,
    /// The median time.
    pub time_us: Micros,
    /// The shortest and the longest time.
    pub spread_us: (Micros, Micros),
    /// The least time that is possible in this model: the sum over the poems for the blocking one, the slowest poem for
    /// the others.
    pub bound_us: Micros,
    /// The median of each cost.
    pub cost: Cost,
}

impl Summary {
    /// The median time in units of the bound.
    pub fn ratio(&self) -> f64 {
        quotient(self.time_us, self.bound_us)
    }

    /// The speed-up over another model.
    pub fn speed_up(&self, other: &Self) -> f64 {
        quotient(other.time_us, self.time_us)
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people, who read three digits")]
fn quotient(this: Micros, that: Micros) -> f64 {
    this as f64 / that.max(1) as f64
}

/// Runs the program of a model once, with these arguments and its report in `directory`; `start` starts it.
///
/// # Errors
/// It cannot be started, or leaves no report.
pub fn run(
    model: Model,
    programs: &Path,
    args: &[String],
    directory: &Path,
    start: impl FnOnce(&mut Command) -> io::Result<Child>,
) -> io::Result<Run> {
    let path = directory.join("report.json");
    let _ = fs::remove_file(&path);
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let clock = Instant::now();
    let mut command = Command::new(programs.join(model.program()));
    command.args(["--quiet", "--discard", "--report"]).arg(&path).args(args);
    let mut child = start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
    let watch = Watch::start(child.id())?;
    let waited = child.wait();
    let elapsed = clock.elapsed();
    let (peak_threads, peak_rss_kb) = watch.end();
    waited?;
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let report: Report = serde_json::from_slice(&fs::read(&path)?)?;
    let switches = |count: fn(&Usage) -> i64| u64::try_from(count(&after) - count(&before)).unwrap_or(0);
    let time = |time: fn(&Usage) -> i64| u64::try_from(time(&after) - time(&before)).unwrap_or(0);
    let cost = Cost {
        start_up_us: micros(elapsed).saturating_sub(report.elapsed_us),
        user_us: time(|usage| usage.user_time().num_microseconds()),
        system_us: time(|usage| usage.system_time().num_microseconds()),
        voluntary_switches: switches(Usage::voluntary_context_switches),
        involuntary_switches: switches(Usage::involuntary_context_switches),
        peak_threads,
        peak_rss_kb,
        reads: report.calls.reads,
        waits: report.calls.waits,
    };
    Ok(Run { report, cost })
}

/// A thread that samples /proc of a process while it runs: often in the beginning, when most happens, and then less
/// and less.
struct Watch {
    over: mpsc::Sender<()>,
    thread: thread::JoinHandle<(u64, u64)>,
}

impl Watch {
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(50);

    fn start(pid: u32) -> io::Result<Self> {
        let (over, told) = mpsc::channel();
        let body = move || {
            let (mut threads, mut memory) = (0, 0);
            let mut pause = Self::FIRST;
            loop {
                // ENOENT: the process is gone.
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                threads = threads.max(field(&status, "Threads:"));
                memory = memory.max(field(&status, "VmHWM:"));
                if told.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return (threads, memory);
                }
                pause = (pause * 5 / 4).min(Self::LONGEST);
            }
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(body)?;
        Ok(Self { over, thread })
    }

    fn end(self) -> (u64, u64) {
        drop(self.over);
        self.thread.join().unwrap_or_default()
    }
}

/// A number in proc_pid_status(5).
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The summaries of these runs, in the order of the models.
pub fn summaries(models: &[Model], runs: &[(Model, Run)]) -> Vec<Summary> {
    let poems = server_times(runs);
    models
        .iter()
        .filter_map(|&model| {
            let of: Vec<&Run> = runs.iter().filter(|(one, _)| *one == model).map(|(_, run)| run).collect();
            let times: Vec<Micros> = of.iter().map(|run| run.report.elapsed_us).collect();
            let cost = |part: fn(&Cost) -> u64| median(of.iter().map(|run| part(&run.cost)).collect());
            Some(Summary {
                model: model.name(),
                runs: of.len(),
                spread_us: (*times.iter().min()?, *times.iter().max()?),
                time_us: median(times),
                bound_us: match model {
                    Model::Blocking => poems.iter().sum(),
                    Model::Async | Model::Select | Model::Threads => poems.iter().copied().max().unwrap_or(0),
                },
                cost: Cost {
                    start_up_us: cost(|cost| cost.start_up_us),
                    user_us: cost(|cost| cost.user_us),
                    system_us: cost(|cost| cost.system_us),
                    voluntary_switches: cost(|cost| cost.voluntary_switches),
                    involuntary_switches: cost(|cost| cost.involuntary_switches),
                    peak_threads: cost(|cost| cost.peak_threads),
                    peak_rss_kb: cost(|cost| cost.peak_rss_kb),
                    reads: cost(|cost| cost.reads),
                    waits: cost(|cost| cost.waits),
                },
            })
        })
        .collect()
}

/// The time that each server takes for its poem, from the poem's turn to its end: the median of the fastest model. (In
/// another model a server that is asked twice may have had to serve its other client first.)
fn server_times(runs: &[(Model, Run)]) -> Vec<Micros> {
    let poems = runs.first().map_or(0, |(_, run)| run.report.tasks.len());
    let took = |run: &Run, poem: usize| {
        let task = run.report.tasks.get(poem)?;
        Some(task.end_us? - task.start_us?)
    };
    let in_model = |model: Model, poem: usize| {
        let of_it = runs.iter().filter(|(one, _)| *one == model);
        let times: Vec<Micros> = of_it.filter_map(|(_, run)| took(run, poem)).collect();
        (!times.is_empty()).then(|| median(times))
    };
    let soonest = |poem| Model::ALL.into_iter().filter_map(|model| in_model(model, poem)).min();
    (0..poems).map(|poem| soonest(poem).unwrap_or(0)).collect()
}

/// The median; of an even number of values the lower one of the two in the middle.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::{report, task};

    fn run(model: Model, ends: &[(Micros, Micros)]) -> (Model, Run) {
        let tasks = ends.iter().enumerate().map(|(index, (start, end))| task(index + 1, *start, *end)).collect();
        (model, Run { report: report(model.name(), tasks), cost: Cost::default() })
    }

    #[test]
    fn the_bound_is_the_sum_or_the_slowest() {
        let runs = [
            run(Model::Blocking, &[(0, 300), (300, 900)]),
            run(Model::Async, &[(0, 310), (0, 600)]),
            run(Model::Blocking, &[(0, 300), (300, 990)]),
            run(Model::Async, &[(0, 300), (0, 600)]),
        ];
        let summaries = summaries(&[Model::Async, Model::Blocking], &runs);
        let [asynchronous, blocking] = &summaries[..] else { panic!("two models") };
        assert_eq!((asynchronous.time_us, asynchronous.bound_us), (600, 600));
        assert_eq!((blocking.time_us, blocking.spread_us, blocking.bound_us), (900, (900, 990), 900));
        assert_eq!((blocking.ratio(), asynchronous.speed_up(blocking)), (1.0, 1.5));
    }

    #[test]
    fn a_server_that_serves_one_at_a_time_is_no_better_than_its_word() {
        // The same server twice: asked at once, the second poem waits for the first.
        let runs = [run(Model::Blocking, &[(0, 300), (300, 600)]), run(Model::Async, &[(0, 300), (0, 600)])];
        let summaries = summaries(&[Model::Blocking, Model::Async], &runs);
        assert_eq!((summaries[0].bound_us, summaries[1].bound_us), (600, 300));
        assert_eq!((summaries[0].ratio(), summaries[1].ratio()), (1.0, 2.0));
    }

    #[test]
    fn a_median_is_one_of_the_values() {
        assert_eq!((median(vec![]), median(vec![7]), median(vec![1, 9]), median(vec![9, 1, 5])), (0, 7, 1, 5));
    }

    #[test]
    fn fields_of_a_status_are_found() {
        let status = "Name:\tget-poetry\nVmHWM:\t    3176 kB\nThreads:\t3\n";
        assert_eq!((field(status, "VmHWM:"), field(status, "Threads:"), field(status, "VmRSS:")), (3176, 3, 0));
    }
}

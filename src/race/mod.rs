//! A race of the four clients against the same servers: child processes, in turns, and the cost of each.
//!
//! The children measure time themselves, in their reports; other costs are read from getrusage(2), a clock and /proc.
//! [`Summary`] is one row of the result, made of plain data; [`assertion`] judges it.

pub mod assertion;
pub mod estimate;

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::client::{Concurrency, Model, Source};
use crate::report::Report;
use crate::units::{Micros, micros};

/// The variable that tells a client that it runs in a race: the race's process, which it ends with.
pub const VARIABLE: &str = "POETRY_RACE";

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
    /// Processor time, in user mode and in the kernel.
    pub cpu_us: Micros,
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
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The model of waiting.
    pub model: &'static str,
    /// Runs that counted: those in which all poems arrived.
    pub runs: usize,
    /// Poems that did not arrive, of all runs.
    pub missing: usize,
    /// The times and costs of the runs that counted; `None`: there was none.
    pub standing: Option<Standing>,
}

/// The times and costs of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The median time.
    pub time_us: Micros,
    /// The shortest and the longest time.
    pub spread_us: (Micros, Micros),
    /// The least time that is possible in this model: the sum over the poems for the blocking one; the slowest poem for
    /// the others, or more if not all may be under way at once.
    pub bound_us: Micros,
    /// The median of each cost.
    pub cost: Cost,
}

/// One object; what no run counted for is null.
impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let standing = self.standing.as_ref();
        let mut row = serializer.serialize_struct("Summary", 7)?;
        row.serialize_field("model", self.model)?;
        row.serialize_field("runs", &self.runs)?;
        row.serialize_field("missing", &self.missing)?;
        row.serialize_field("time_us", &standing.map(|it| it.time_us))?;
        row.serialize_field("spread_us", &standing.map(|it| it.spread_us))?;
        row.serialize_field("bound_us", &standing.map(|it| it.bound_us))?;
        row.serialize_field("cost", &standing.map(|it| it.cost))?;
        row.end()
    }
}

impl Standing {
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

/// Runs the program of a model once, with these arguments. `start` starts it, and `meanwhile` is called now and then
/// while it runs.
///
/// # Errors
/// It cannot be started or watched, or leaves no report.
pub fn run(
    model: Model,
    programs: &Path,
    args: &[String],
    start: impl FnOnce(&mut Command) -> io::Result<Child>,
    meanwhile: impl Fn(),
) -> io::Result<Run> {
    // In memory: nothing of it is left, however the race ends.
    let mut report = File::from(memfd_create("report", MFdFlags::MFD_CLOEXEC)?);
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let clock = Instant::now();
    let mut command = Command::new(programs.join(model.program()));
    command.args(["--quiet", "--json"]).args(args).env(VARIABLE, process::id().to_string());
    let mut child = start(command.stdin(Stdio::null()).stdout(report.try_clone()?))?;
    let watched = watch(&child, meanwhile);
    let elapsed = clock.elapsed();
    if watched.is_err() {
        child.kill()?;
    }
    let cpu = processor_time(&child);
    let status = child.wait()?;
    let (peak_threads, peak_rss_kb) = watched?;
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let mut json = Vec::new();
    report.rewind()?;
    report.read_to_end(&mut json)?;
    let no_report = |_| io::Error::other(format!("it left no report ({status})"));
    let report: Report = serde_json::from_slice(&json).map_err(no_report)?;
    let switches = |count: fn(&Usage) -> i64| u64::try_from(count(&after) - count(&before)).unwrap_or(0);
    let in_ticks = |usage: &Usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let cost = Cost {
        start_up_us: micros(elapsed).saturating_sub(report.elapsed_us),
        cpu_us: cpu.map_or_else(|_| u64::try_from(in_ticks(&after) - in_ticks(&before)).unwrap_or(0), micros),
        voluntary_switches: switches(Usage::voluntary_context_switches),
        involuntary_switches: switches(Usage::involuntary_context_switches),
        peak_threads,
        peak_rss_kb,
        reads: report.calls.reads,
        waits: report.calls.waits,
    };
    Ok(Run { report, cost })
}

/// The processor time of a child that has ended and is not waited for yet: what the scheduler counted, in nanoseconds,
/// see clock_getcpuclockid(3). What wait4(2) tells may be rounded to ticks of some milliseconds.
fn processor_time(child: &Child) -> io::Result<Duration> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?.now()?.into())
}

/// The first pause between two looks at a client, and the longest: most happens in the beginning.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Waits for the end of a child, and samples its /proc meanwhile. Returns its most threads and its most memory, in kB.
///
/// Without a thread of its own, which the system may not have.
fn watch(child: &Child, meanwhile: impl Fn()) -> io::Result<(u64, u64)> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let end = pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?;
    let (mut threads, mut memory) = (0, 0);
    let (mut pause, longest) = PAUSES;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        threads = threads.max(field(&status, "Threads:"));
        memory = memory.max(field(&status, "VmHWM:"));
        let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => meanwhile(),
            Ok(_) => return Ok((threads, memory)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        pause = (pause * 5 / 4).min(longest);
    }
}

/// A number in proc_pid_status(5).
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The summaries of these runs, in the order of the models. A run counts for times and costs if all its poems arrived:
/// a poem that fails may do so very fast. The poems come from these sources, so many at once.
pub fn summaries(
    models: &[Model],
    runs: &[(Model, Run)],
    sources: &[Source],
    concurrency: Concurrency,
) -> Vec<Summary> {
    let counting: Vec<&(Model, Run)> = runs.iter().filter(|(_, run)| run.report.failed == 0).collect();
    let poems = server_times(&counting);
    let summary = |&model: &Model| Summary {
        model: model.name(),
        runs: counting.iter().filter(|(one, _)| *one == model).count(),
        missing: runs.iter().filter(|(one, _)| *one == model).map(|(_, run)| run.report.failed).sum(),
        standing: standing(model, &counting, || {
            model.concurrency(concurrency).bound(sources.iter().zip(poems.iter().copied()))
        }),
    };
    models.iter().map(summary).collect()
}

/// The standing of one model; `None` if none of these runs is its own.
fn standing(model: Model, runs: &[&(Model, Run)], bound: impl Fn() -> Micros) -> Option<Standing> {
    let of: Vec<&Run> = runs.iter().filter(|(one, _)| *one == model).map(|(_, run)| run).collect();
    let times: Vec<Micros> = of.iter().map(|run| run.report.elapsed_us).collect();
    let cost = |part: fn(&Cost) -> u64| median(of.iter().map(|run| part(&run.cost)).collect());
    Some(Standing {
        spread_us: (*times.iter().min()?, *times.iter().max()?),
        time_us: median(times),
        bound_us: bound(),
        cost: Cost {
            start_up_us: cost(|cost| cost.start_up_us),
            cpu_us: cost(|cost| cost.cpu_us),
            voluntary_switches: cost(|cost| cost.voluntary_switches),
            involuntary_switches: cost(|cost| cost.involuntary_switches),
            peak_threads: cost(|cost| cost.peak_threads),
            peak_rss_kb: cost(|cost| cost.peak_rss_kb),
            reads: cost(|cost| cost.reads),
            waits: cost(|cost| cost.waits),
        },
    })
}

/// The time that each server takes for its poem, from the poem's turn to its end: the median of the fastest model. (In
/// another model a server that is asked twice may have had to serve its other client first.)
fn server_times(runs: &[&(Model, Run)]) -> Vec<Micros> {
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

    /// The summaries of runs with two poems, both at once.
    fn of_all(models: &[Model], runs: &[(Model, Run)]) -> Vec<Summary> {
        let sources = ["1", "2"].map(|port| port.parse().expect("a source"));
        summaries(models, runs, &sources, Concurrency::wanted(None))
    }

    #[test]
    fn the_bound_is_the_sum_or_the_slowest() {
        let runs = [
            run(Model::Blocking, &[(0, 300), (300, 900)]),
            run(Model::Async, &[(0, 310), (0, 600)]),
            run(Model::Blocking, &[(0, 300), (300, 990)]),
            run(Model::Async, &[(0, 300), (0, 600)]),
        ];
        let summaries = of_all(&[Model::Async, Model::Blocking], &runs);
        let standings: Vec<&Standing> = summaries.iter().filter_map(|summary| summary.standing.as_ref()).collect();
        let [asynchronous, blocking] = standings[..] else { panic!("two models") };
        assert_eq!((asynchronous.time_us, asynchronous.bound_us), (600, 600));
        assert_eq!((blocking.time_us, blocking.spread_us, blocking.bound_us), (900, (900, 990), 900));
        assert_eq!((blocking.ratio(), asynchronous.speed_up(blocking)), (1.0, 1.5));
    }

    #[test]
    fn a_server_that_serves_one_at_a_time_is_no_better_than_its_word() {
        // The same server twice: asked at once, the second poem waits for the first.
        let runs = [run(Model::Blocking, &[(0, 300), (300, 600)]), run(Model::Async, &[(0, 300), (0, 600)])];
        let summaries = of_all(&[Model::Blocking, Model::Async], &runs);
        let standings: Vec<&Standing> = summaries.iter().filter_map(|summary| summary.standing.as_ref()).collect();
        assert_eq!((standings[0].bound_us, standings[1].bound_us), (600, 300));
        assert_eq!((standings[0].ratio(), standings[1].ratio()), (1.0, 2.0));
    }

    #[test]
    fn a_run_that_lost_a_poem_counts_for_nothing_but_what_is_missing() {
        let failed = |model, end, cpu_us| {
            let (model, mut run) = run(model, &[(0, end), (0, end)]);
            (run.report.ok, run.report.failed, run.cost.cpu_us) = (1, 1, cpu_us);
            (model, run)
        };
        let counted = |cpu_us| {
            let (model, mut run) = run(Model::Async, &[(0, 300), (0, 600)]);
            run.cost.cpu_us = cpu_us;
            (model, run)
        };
        let runs = [
            failed(Model::Async, 5, 1),
            failed(Model::Async, 7, 1),
            counted(40),
            failed(Model::Select, 5, 1),
            failed(Model::Async, 6, 1),
            counted(60),
        ];
        let [asynchronous, select] = &of_all(&[Model::Async, Model::Select], &runs)[..] else { panic!("two") };
        assert_eq!((asynchronous.runs, asynchronous.missing), (2, 3));
        let standing = asynchronous.standing.as_ref().expect("two runs");
        assert_eq!((standing.time_us, standing.spread_us, standing.bound_us), (600, (600, 600), 600));
        assert_eq!(standing.cost.cpu_us, 40);
        assert_eq!((select.runs, select.missing, &select.standing), (0, 1, &None));
        let json = serde_json::to_string(select).expect("JSON");
        let nulls = r#""time_us":null,"spread_us":null,"bound_us":null,"cost":null"#;
        assert_eq!(json, format!(r#"{{"model":"select","runs":0,"missing":1,{nulls}}}"#));
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

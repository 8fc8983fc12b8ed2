//! The course of a race: the clients in turns, what is shown of them meanwhile, and what is cleared away by a signal.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Args, Heat, Repeated, Rounds, say, write};
use crate::cli::signals::{self, Signals};
use crate::cli::{Error, terminal};
use crate::client::{Model, Source};
use crate::race::child::{self, Client};
use crate::race::estimate::Estimate;
use crate::race::{Cost, Run, rotated};
use crate::report::Report;
use crate::sync::lock;
use crate::units::count;

/// The time that a client gets to end after a signal.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Of rounds that go on until the times are known: how well, the least and the most of them.
const KNOWN: f64 = 0.02;
const LEAST: usize = 6;
const MOST: usize = 100;

/// The parts of a race that have to be cleared away when a signal ends it: the bar, the client that runs.
pub(super) struct Stage {
    progress: ProgressBar,
    child: Mutex<Option<u32>>,
}

/// What runs in one heat, and what is known of it.
struct Course<'a> {
    args: &'a Args,
    models: &'a [Model],
    /// The directory of the programs.
    programs: PathBuf,
    /// The arguments of each client.
    words: Vec<String>,
    poems: usize,
    estimate: Estimate,
    /// Runs that have begun.
    begun: usize,
}

impl Stage {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { progress: progress(), child: Mutex::new(None) })
    }

    /// Has the process end on each of these signals.
    pub(super) fn leave_on(signals: Signals, stage: &Arc<Self>) -> Result<(), Error> {
        let stage = Arc::clone(stage);
        let on_signal = move |signal| stage.leave(signal);
        signals.watch(on_signal).map_err(|error| Error::cannot("start", "a thread", &error))
    }

    /// Takes away what was shown.
    pub(super) fn clear(&self) {
        self.progress.finish_and_clear();
    }

    /// Runs every model in rounds, for these targets.
    pub(super) fn all_runs(&self, args: &Args, targets: &[Repeated], models: &[Model]) -> Result<Vec<Run>, Error> {
        let mut course = Course::new(args, targets, models)?;
        let most = course.rounds().map(|rounds| args.warm_up + rounds * models.len());
        self.progress.set_style(style(most.is_some()));
        self.progress.set_length(most.unwrap_or(0) as u64);
        for _ in 0..args.warm_up {
            let later = course.later(1, 0);
            self.run(&mut course, Model::Async, &later)?;
        }
        let mut runs = Vec::new();
        for round in 1.. {
            for (index, model) in rotated(models, round).into_iter().enumerate() {
                let later = course.later(round, index + 1);
                let (report, cost) = self.run(&mut course, model, &later)?;
                let run = Run { round, position: index + 1, model, report, cost };
                course.keep(&run)?;
                runs.push(run);
            }
            if course.is_over(round, &runs, targets) {
                break;
            }
        }
        Ok(runs)
    }

    /// Runs one client; `later` are those that will follow, if that is known.
    fn run(&self, course: &mut Course<'_>, model: Model, later: &[Model]) -> Result<(Report, Cost), Error> {
        let clock = Instant::now();
        let left = |elapsed| course.rounds().and_then(|_| course.estimate.left(model, elapsed, later));
        let meanwhile = || self.tell(model, clock.elapsed(), left(clock.elapsed()));
        self.progress.set_position(course.begun as u64 + 1);
        meanwhile();
        let client = Client { model, programs: &course.programs, args: &course.words };
        let run = child::run(client, |command| self.start(command), meanwhile);
        *lock(&self.child) = None;
        let program = course.programs.join(model.program());
        let (report, cost) = run.map_err(|error| Error::cannot("run", program.display(), &error))?;
        course.begun += 1;
        course.estimate.learn(&report);
        if course.args.progress && self.progress.is_hidden() {
            say(&course.ended(model, &report, later, self.progress.length()));
        }
        Ok((report, cost))
    }

    /// Shows for how long a run has been under way, and what is left: something moves ten times a second.
    fn tell(&self, model: Model, elapsed: Duration, left: Option<Duration>) {
        self.progress.set_message(format!("{model} {:.1} s{}", elapsed.as_secs_f64(), about(left)));
    }

    fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut running = lock(&self.child);
        let child = command.spawn()?;
        *running = Some(child.id());
        Ok(child)
    }

    /// Ends the client that runs, and the process. Holds the lock to the end, so that no other client is started.
    fn leave(&self, signal: Signal) -> ! {
        let child = lock(&self.child);
        // Ctrl-C on a terminal has reached it already.
        if let Some(pid) = child.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) {
            let _ = kill(pid, signal);
            let until = Instant::now() + LAST_WORDS;
            while kill(pid, None).is_ok() && Instant::now() < until {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
        self.progress.finish_and_clear();
        process::exit(signals::exit_status(signal).into());
    }
}

impl<'a> Course<'a> {
    fn new(args: &'a Args, targets: &[Repeated], models: &'a [Model]) -> Result<Self, Error> {
        let programs = std::env::current_exe().map_err(|error| Error::cannot("find", "the clients", &error))?;
        let source = |one: &Repeated| std::iter::repeat_n(one.target.source.clone(), one.times);
        let sources: Vec<Source> = targets.iter().flat_map(source).collect();
        Ok(Self {
            args,
            models,
            programs: programs.parent().unwrap_or(Path::new("")).to_owned(),
            words: args.words(targets),
            poems: sources.len(),
            estimate: Estimate::new(&sources, args.concurrency()),
            begun: 0,
        })
    }

    /// The number of rounds, if that is known.
    fn rounds(&self) -> Option<usize> {
        if let Rounds::Exactly(rounds) = self.args.runs { Some(rounds.get()) } else { None }
    }

    /// The models that run after the first ones of a round, to the end of the last one.
    fn later(&self, round: usize, done: usize) -> Vec<Model> {
        let rounds = round..=self.rounds().unwrap_or(round);
        rounds.flat_map(|round| rotated(self.models, round)).skip(done).collect()
    }

    /// Whether no other round is needed.
    fn is_over(&self, round: usize, runs: &[Run], targets: &[Repeated]) -> bool {
        if let Some(rounds) = self.rounds() {
            return round >= rounds;
        }
        if round < LEAST {
            return false;
        }
        let heat = Heat::new(self.models, runs.to_vec(), targets, self.args.concurrency());
        let widths = heat.summaries.iter().filter_map(|summary| summary.standing.as_ref()?.width());
        let widest = widths.fold(0.0, f64::max);
        if widest >= KNOWN && round >= MOST {
            say(&format!("poetry-race: after {round} rounds some time is known to {:.1} % only\n", 100.0 * widest));
        }
        widest < KNOWN || round >= MOST
    }

    /// Writes the report of a run, if it is wanted.
    fn keep(&self, run: &Run) -> Result<(), Error> {
        let Some(directory) = &self.args.report else { return Ok(()) };
        let Run { round, position, model, .. } = run;
        let name = format!("{}-{round:03}-{position}-{model}.json", self.poems);
        write("write", &directory.join(name), &run.report.to_json())
    }

    /// How a run ended, and what is left: `run 3 of 12: async got 3 poems in 2.0 s, about 9 s left`.
    fn ended(&self, model: Model, report: &Report, later: &[Model], all: Option<u64>) -> String {
        let next = later.split_first().filter(|_| self.rounds().is_some());
        let left = next.and_then(|(next, later)| self.estimate.left(*next, Duration::ZERO, later));
        let Report { ok, failed, elapsed_us, .. } = report;
        let poems = match failed {
            0 => count(*ok as u64, "poem"),
            failed => format!("{ok} of {}", count((ok + failed) as u64, "poem")),
        };
        let of = all.filter(|&all| all > 0).map_or_else(String::new, |all| format!(" of {all}"));
        let time = Duration::from_micros(*elapsed_us).as_secs_f64();
        format!("run {}{of}: {model} got {poems} in {time:.1} s{}\n", self.begun, about(left))
    }
}

/// `, about 9 s left`, if that is known.
fn about(left: Option<Duration>) -> String {
    left.map_or_else(String::new, |left| format!(", about {:.0} s left", left.as_secs_f64().ceil()))
}

/// A progress bar if stderr is a terminal, and a hidden one elsewhere.
fn progress() -> ProgressBar {
    let target = if io::stderr().is_terminal() { terminal::draw_target() } else { ProgressDrawTarget::hidden() };
    ProgressBar::with_draw_target(None, target)
}

/// What is shown of a run, among so many if that is known.
fn style(is_known: bool) -> ProgressStyle {
    let template = if is_known { "run {pos} of {len}: {msg}" } else { "run {pos}: {msg}" };
    ProgressStyle::with_template(template).expect("a valid template")
}

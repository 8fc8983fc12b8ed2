//! The course of a race: the clients in turns, what is shown of them meanwhile, and what is cleared away by a signal.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::{self, Child};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Args, Repeated, Rounds, Through, say, write};
use crate::cli::open_files::{self, SoftLimit};
use crate::cli::signals::{self, Signals};
use crate::cli::{Error, terminal};
use crate::client::{Model, ReportBuilder, Source, Target};
use crate::descendants::Descendants;
use crate::race::child::{self, Client, Ended};
use crate::race::estimate::Estimate;
use crate::race::foreign::Foreign;
use crate::race::theirs::Start;
use crate::race::{Cost, Racer, Run, Summary, rotated, summaries, theirs, tree};
use crate::report::{Calls, Report, Status};
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
    child: Mutex<Option<Pid>>,
    /// Whatever is started from the beginning on.
    descendants: Mutex<Descendants>,
}

/// What runs in one heat, and what is known of it.
struct Course<'a> {
    args: &'a Args,
    models: &'a [Racer],
    relays: Option<&'a Through>,
    /// The directory of the programs.
    programs: PathBuf,
    /// The arguments of each client of ours.
    words: Vec<String>,
    /// The limit of open files of each other client.
    limit: SoftLimit,
    targets: &'a [Repeated],
    sources: Vec<Source>,
    estimate: Estimate,
    /// Runs that have begun.
    begun: usize,
}

/// The runs of a heat.
pub(super) struct Ledger {
    pub(super) runs: Vec<Run>,
    /// Why the report of a run could not be written: of several, the first reason.
    pub(super) unwritten: Option<Error>,
}

/// What came of one run.
struct Ran {
    /// What the client tells, or what was seen of it.
    report: Report,
    /// What it tells itself, if the report is what was seen.
    own: Option<Report>,
    cost: Cost,
    failure: Option<String>,
    left_behind: usize,
}

impl Stage {
    pub(super) fn new() -> Arc<Self> {
        let descendants = Mutex::new(Descendants::from_now_on());
        Arc::new(Self { progress: progress(), child: Mutex::new(None), descendants })
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
    pub(super) fn all_runs(
        &self,
        args: &Args,
        targets: &[Repeated],
        models: &[Racer],
        relays: Option<&Through>,
    ) -> Result<Ledger, Error> {
        let mut course = Course::new(args, targets, models, relays)?;
        let most = course.rounds().map(|rounds| args.warm_up + rounds * models.len());
        self.progress.set_style(style(most.is_some()));
        self.progress.set_length(most.unwrap_or(0) as u64);
        for _ in 0..args.warm_up {
            let later = course.later(1, 0);
            self.run(&mut course, Model::Async.into(), &later)?;
        }
        let (mut runs, mut unwritten) = (Vec::new(), None);
        for round in 1.. {
            for (index, model) in rotated(models, round).into_iter().enumerate() {
                let later = course.later(round, index + 1);
                let Ran { report, own, cost, failure, left_behind } = self.run(&mut course, model, &later)?;
                let (position, poems) = (index + 1, course.sources.len());
                let run = Run { round, position, model, poems, report, cost, failure, left_behind };
                // What a race has come to is worth more than the disk has room for.
                unwritten = unwritten.or(course.keep(&run, own.as_ref()).err());
                runs.push(run);
            }
            if course.rounds().map_or_else(|| self.is_known(&course, round, &runs), |rounds| round >= rounds) {
                break;
            }
        }
        Ok(Ledger { runs, unwritten })
    }

    /// Runs one client; `later` are those that will follow, if that is known.
    fn run(&self, course: &mut Course<'_>, model: Racer, later: &[Racer]) -> Result<Ran, Error> {
        let clock = Instant::now();
        let left = |elapsed| course.rounds().and_then(|_| course.estimate.left(model, elapsed, later));
        let meanwhile = || self.tell(model, clock.elapsed(), left(clock.elapsed()));
        self.progress.set_position(course.begun as u64 + 1);
        meanwhile();
        let ran = match model {
            Racer::Ours(model) => self.run_ours(course, model, meanwhile),
            Racer::Theirs(_) => self.run_theirs(course, model, meanwhile),
        };
        *lock(&self.child) = None;
        let ran = ran?;
        course.begun += 1;
        course.estimate.learn(&ran.report);
        if course.args.progress && self.progress.is_hidden() {
            say(&course.ended(model, &ran, later, self.progress.length()));
        }
        Ok(ran)
    }

    fn run_ours(&self, course: &Course<'_>, model: Model, meanwhile: impl Fn()) -> Result<Ran, Error> {
        let client = Client { model, programs: &course.programs, args: &course.words };
        let (clock, started) = (Instant::now(), SystemTime::now());
        let relays = course.relays.filter(|_| course.args.through);
        relays.inspect(|relays| relays.begin());
        let run = child::run(client, |command| self.start(|| command.spawn(), pid_of), meanwhile);
        let program = course.programs.join(model.program());
        let ended = run.map_err(|error| Error::cannot("run", program.display(), &error))?;
        let Ended { report, cost, failure } = ended;
        let (report, own) = match relays {
            None => (report.unwrap_or_else(|| course.nothing(model, started, clock)), None),
            Some(relays) => (relays.report(model.name()), report),
        };
        Ok(Ran { report, own, cost, failure, left_behind: 0 })
    }

    fn run_theirs(&self, course: &Course<'_>, name: Racer, meanwhile: impl Fn()) -> Result<Ran, Error> {
        let of_it = |client: &&Foreign| Racer::Theirs(client.name()) == name;
        let client = course.args.clients.iter().find(of_it);
        let (Some(client), Some(relays)) = (client, course.relays) else {
            return Err(Error::failure(format!("nobody knows {name}")));
        };
        relays.begin();
        let start = |start: Start<'_>| {
            // It may call select(2), which fails beyond a thousand.
            course.limit.restore();
            let started = self.start(start, |pid| Some(*pid));
            open_files::raise_limit();
            started
        };
        let sources: Vec<Source> = relays.targets().iter().map(|target| target.source.clone()).collect();
        let ended = theirs::run(client, &sources, course.args.limits.timeout.0, start, meanwhile);
        let ended = ended.map_err(|error| Error::cannot("watch", name, &error))?;
        let report = relays.report(name.name());
        let cost = ended.ledger.map_or_else(Cost::default, |ledger| theirs::cost(&ledger, &report));
        let left_behind = ended.ledger.map_or(0, |ledger| ledger.left_behind);
        Ok(Ran { report, own: None, cost, failure: ended.failure, left_behind })
    }

    /// Whether each time is known, or never will be, which is said.
    fn is_known(&self, course: &Course<'_>, round: usize, runs: &[Run]) -> bool {
        if round < LEAST {
            return false;
        }
        let Some(unknown) = course.unknown(runs) else { return true };
        if round >= MOST {
            self.progress.suspend(|| say(&format!("poetry-race: after {round} rounds {unknown}\n")));
        }
        round >= MOST
    }

    /// Shows for how long a run has been under way, and what is left: something moves ten times a second.
    fn tell(&self, model: Racer, elapsed: Duration, left: Option<Duration>) {
        self.progress.set_message(format!("{model} {:.1} s{}", elapsed.as_secs_f64(), about(left)));
    }

    fn start<T>(&self, start: impl FnOnce() -> io::Result<T>, pid: impl FnOnce(&T) -> Option<Pid>) -> io::Result<T> {
        let mut running = lock(&self.child);
        let started = start()?;
        *running = pid(&started);
        Ok(started)
    }

    /// Ends the client that runs, and the process. Holds the lock to the end, so that no other client is started.
    fn leave(&self, signal: Signal) -> ! {
        let child = lock(&self.child);
        // Ctrl-C on a terminal has reached it already.
        if let Some(pid) = *child {
            let _ = kill(pid, signal);
            let until = Instant::now() + LAST_WORDS;
            while kill(pid, None).is_ok() && Instant::now() < until {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
        tree::end_all(&mut lock(&self.descendants));
        self.progress.finish_and_clear();
        process::exit(signals::exit_status(signal).into());
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().map(Pid::from_raw)
}

impl<'a> Course<'a> {
    fn new(
        args: &'a Args,
        targets: &'a [Repeated],
        models: &'a [Racer],
        relays: Option<&'a Through>,
    ) -> Result<Self, Error> {
        let programs = child::programs().map_err(|error| Error::cannot("find", "the clients", &error))?;
        let source = |one: &Repeated| std::iter::repeat_n(one.target.source.clone(), one.times);
        let sources: Vec<Source> = targets.iter().flat_map(source).collect();
        let relayed = relays.filter(|_| args.through).map(|relays| {
            let once = |target: &Target| Repeated { target: target.clone(), times: 1 };
            relays.targets().iter().map(once).collect::<Vec<_>>()
        });
        let words = args.words(relayed.as_deref().unwrap_or(targets));
        Ok(Self {
            args,
            models,
            relays,
            limit: relays.map_or_else(SoftLimit::now, Through::limit),
            programs,
            words,
            targets,
            estimate: Estimate::new(&sources, args.concurrency()),
            sources,
            begun: 0,
        })
    }

    /// The number of rounds, if that is known.
    fn rounds(&self) -> Option<usize> {
        if let Rounds::Exactly(rounds) = self.args.runs { Some(rounds.get()) } else { None }
    }

    /// The models that run after the first ones of a round, to the end of the last one.
    fn later(&self, round: usize, done: usize) -> Vec<Racer> {
        let rounds = round..=self.rounds().unwrap_or(round);
        rounds.flat_map(|round| rotated(self.models, round)).skip(done).collect()
    }

    /// What is not known yet of a model that has a time at all, in words: of several, what is known worst.
    fn unknown(&self, runs: &[Run]) -> Option<String> {
        let summaries = summaries(self.models, runs, &self.sources, self.args.concurrency());
        // A few runs that count have no interval.
        let width =
            |summary: &Summary| Some((summary.model, summary.standing.as_ref()?.width().unwrap_or(f64::INFINITY)));
        let widest = summaries.iter().filter_map(width).max_by(|(_, this), (_, that)| this.total_cmp(that));
        let (model, width) = widest.filter(|(_, width)| *width >= KNOWN)?;
        Some(match width.is_finite() {
            true => format!("the time of {model} is known to {:.1} % only", 100.0 * width),
            false => format!("too few runs of {model} count for its time to be known"),
        })
    }

    /// The report of a client that could not make one: nothing is known of its poems.
    fn nothing(&self, model: Model, started: SystemTime, clock: Instant) -> Report {
        let names = self.targets.iter().flat_map(|one| std::iter::repeat_n(one.target.name.clone(), one.times));
        let builder = ReportBuilder::new(model, &self.sources[..], self.args.concurrency(), clock, false).named(names);
        let mut report = Report { started, ..builder.report(Calls::default()) };
        // Why is told of the client.
        report.tasks.iter_mut().for_each(|task| task.error = None);
        report
    }

    /// Writes the report of a run, if it is wanted; and what the client says of it itself, if it was seen from between.
    fn keep(&self, run: &Run, own: Option<&Report>) -> Result<(), Error> {
        let Some(directory) = &self.args.report else { return Ok(()) };
        let Run { round, position, model, .. } = run;
        let name = format!("{}-{round:03}-{position}-{model}", self.sources.len());
        if let Some(own) = own {
            write("write", &directory.join(format!("{name}-own.json")), &own.to_json())?;
        }
        write("write", &directory.join(format!("{name}.json")), &run.report.to_json())
    }

    /// How a run ended, and what is left: `run 3 of 12: async got 3 poems in 2.0 s, about 9 s left`.
    fn ended(&self, model: Racer, ran: &Ran, later: &[Racer], all: Option<u64>) -> String {
        let next = later.split_first().filter(|_| self.rounds().is_some());
        let left = next.and_then(|(next, later)| self.estimate.left(*next, Duration::ZERO, later));
        let Report { tasks, elapsed_us, .. } = &ran.report;
        let ok = tasks.iter().take(self.sources.len()).filter(|task| task.status == Status::Ok).count();
        let poems = match self.sources.len() - ok {
            0 => count(ok as u64, "poem"),
            _ => format!("{ok} of {}", count(self.sources.len() as u64, "poem")),
        };
        let failure = ran.failure.as_ref().map_or_else(String::new, |failure| format!(" and {failure}"));
        let of = all.filter(|&all| all > 0).map_or_else(String::new, |all| format!(" of {all}"));
        let time = Duration::from_micros(*elapsed_us).as_secs_f64();
        format!("run {}{of}: {model} got {poems} in {time:.1} s{failure}{}\n", self.begun, about(left))
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

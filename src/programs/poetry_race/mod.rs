//! poetry-race as a program.

mod demo;

use std::io::{self, IsTerminal, Write};
use std::iter::repeat_n;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Arg, Parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use self::demo::Demo;
use super::client_args::{self, DrawingArgs, TargetArgs, check_picture};
use crate::address::Address;
use crate::cli::signals::{self, Signals};
use crate::cli::values::Known;
use crate::cli::{Error, FAILURE, SUCCESS, stdout, terminal, values};
use crate::client::{Concurrency, Model, Source, Target};
use crate::race::assertion::Assertion;
use crate::race::estimate::Estimate;
use crate::race::{self, Run, Standing, Summary};
use crate::report::Report;
use crate::report::table::Table;
use crate::report::waterfall::text;
use crate::sync::lock;
use crate::units::{Micros, count, in_one_unit};
use crate::whole_file;

/// Race the four clients against each other, and see what each model of waiting costs
///
/// get-poetry-blocking, -threads, -select and get-poetry fetch the same poems in turns, as child processes. Each
/// measures its own time; what else it costs is read from the system.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
#[command(mut_args(or_a_demo))]
pub struct Args {
    #[command(flatten)]
    targets: TargetArgs,

    /// Race once with three poems of its own: some ten seconds
    ///
    /// The servers are slow ones in this process. --runs and --warm-up are 1 and 0 if nothing else is said.
    #[arg(long, help_heading = "Runs", conflicts_with = "targets")]
    demo: bool,

    /// Rounds, in each of which every client runs once
    #[arg(long, help_heading = "Runs", value_name = "N", default_value = "3", default_value_if("demo", "true", "1"))]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    runs: NonZeroUsize,

    /// Runs of get-poetry before, which do not count
    #[arg(long, help_heading = "Runs", value_name = "N", default_value = "1", default_value_if("demo", "true", "0"))]
    #[arg(value_parser = values::whole::<usize>(0, u64::MAX), allow_negative_numbers = true)]
    warm_up: usize,

    /// Only these models: blocking, threads, select, async
    #[arg(long, help_heading = "Runs", value_name = "MODEL", value_delimiter = ',')]
    #[arg(value_parser = Known { known: models, parse: model }, hide_possible_values = true)]
    models: Vec<Model>,

    /// Let each client fetch at most N poems at once [default: 50 over HTTP, and all others]
    #[arg(short = 'j', visible_short_alias = 'm', long, help_heading = "Runs", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    max_concurrency: Option<NonZeroUsize>,

    /// Let each client try again up to N times if a poem fails
    #[arg(long, help_heading = "Runs", value_name = "N", default_value_t = 0)]
    #[arg(value_parser = values::whole::<u32>(0, u32::MAX.into()), allow_negative_numbers = true)]
    retries: u32,

    /// Let clients send requests through this HTTP proxy
    #[arg(short = 'x', long, help_heading = "Runs", value_name = "ADDR", value_parser = client_args::proxy)]
    proxy: Option<Address>,

    /// Give up a poem that is not complete after so long; 0: never
    #[arg(long, help_heading = "Runs", value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    timeout: Duration,

    /// Print the result as JSON
    #[arg(long, help_heading = "Result", group = "form")]
    json: bool,

    /// Print the result as CSV
    #[arg(long, help_heading = "Result", group = "form")]
    csv: bool,

    /// Print the result as a Markdown table
    #[arg(long, help_heading = "Result", group = "form")]
    markdown: bool,

    /// Draw what each poem was doing when, of the median run of each model, as a picture in FILE (SVG)
    #[arg(long, help_heading = "Result", value_name = "FILE")]
    timeline: Option<PathBuf>,

    /// Draw the same on stderr, in characters
    #[arg(long, help_heading = "Result")]
    waterfall: bool,

    /// Say on stderr how each run ended, and what is left, also where it is no terminal
    #[arg(long, help_heading = "Result")]
    progress: bool,

    #[command(flatten, next_help_heading = "Result")]
    drawing: DrawingArgs,

    /// Exit with 1 unless this holds, as in 'async <= 1.1 * bound'; may be given more than once
    #[arg(long = "assert", help_heading = "Result", value_name = "EXPR", value_parser = assertion)]
    assertions: Vec<Assertion>,
}

/// Servers have to be named, unless it brings its own.
fn or_a_demo(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "targets" => arg.required_unless_present_any(["demo", "input"]),
        _ => arg,
    }
}

const AFTER_HELP: &str = "\
A run counts for times and costs if all its poems arrived; missing says how many did not.

The bound is what a client of that model would need that loses no time: the sum over the poems for the blocking one, \
the slowest poem for the others, or more where not all may be under way at once. A server counts with the time that it took in the model that got it soonest.

An assertion compares two sums of products with <, <=, =, >= or >. Their values are numbers (of seconds, or with us, \
ms, s or m), models (their median time), costs of models (async.cpu, .memory in bytes, .threads, .switches, .reads, \
.waits), and bound, that of the model named first.

Columns:
  time, fastest, slowest
      of a client, from its first connect to the end of its last poem; time is the median of the runs
  bound, ratio
      see above, and the time in units of it
  speed-up
      how many times as fast as the blocking client
  missing
      poems that did not arrive, of all runs
  start-up
      what the process needed besides the client's own time
  cpu
      processor time of a run, in user mode and in the kernel
  waited, preempted
      voluntary and involuntary context switches
  threads, memory
      the most of a run, at one time
  reads, waits
      the client's own counts of recv(2), and of poll(2) or its runtime's epoll_wait(2)

Examples:
  poetry-race --demo --waterfall
      What it is about, in some ten seconds
  poetry-race 10000 10001 10002
      Three rounds, and two tables
  poetry-race --runs 5 --timeline race.svg --waterfall 10000 10001 10002
      With two pictures
  poetry-race --models blocking,async --compact --animate --timeline race.svg 10000 10001
      With a picture that moves, of two models
  poetry-race --assert 'async <= 1.1 * bound' --assert 'blocking / async > 2' 10000 10001 10002
      For a test

Exit status:
  0    all poems arrived in all runs, and every assertion holds
  1    some did not, or something failed
  2    the command line makes no sense
  130  interrupted by Ctrl-C";

/// The names of all models.
fn models() -> Vec<&'static str> {
    Model::ALL.map(Model::name).to_vec()
}

fn model(text: &str) -> Result<Model, String> {
    let known = Model::ALL.into_iter().find(|model| model.name() == text);
    known.ok_or_else(|| "a model is blocking, threads, select or async".to_owned())
}

fn assertion(text: &str) -> Result<Assertion, String> {
    Assertion::parse(text).map_err(|error| error.to_string())
}

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-race", |args| run(&args))
}

fn run(args: &Args) -> Result<u8, Error> {
    let models = args.models()?;
    check_picture(args.timeline.as_deref())?;
    args.drawing.check(args.timeline.is_some(), args.waterfall)?;
    let signals = Signals::block_with_hangup();
    let stage = Stage::new();
    Stage::leave_on(signals, &stage)?;
    let demo = if args.demo { Some(Demo::start()?) } else { None };
    let targets = match &demo {
        Some(demo) => demo.targets().to_vec(),
        None => args.targets.resolve()?,
    };
    let sources: Vec<Source> = targets.iter().map(|target| target.source.clone()).collect();
    let concurrency = Concurrency::wanted(args.max_concurrency);
    let runs = all_runs(args, &targets, Estimate::new(&sources, concurrency), &models, &stage)?;
    stage.progress.finish_and_clear();
    let summaries = race::summaries(&models, &runs, &sources, concurrency);
    stdout::write_all(args.result(&targets, &summaries).as_bytes())?;
    draw(args, &summaries, &runs)?;
    Ok(judge(args, &summaries, &runs))
}

impl Args {
    /// The models that take part, among them all that an assertion is about.
    fn models(&self) -> Result<Vec<Model>, Error> {
        let models = if self.models.is_empty() { Model::ALL.to_vec() } else { self.models.clone() };
        for assertion in &self.assertions {
            if let Some(absent) = assertion.models().into_iter().find(|model| !models.contains(model)) {
                return Err(Error::usage(format!("the assertion speaks of {absent}, which does not take part")));
            }
        }
        Ok(models)
    }

    /// The result in the form that is asked for.
    fn result(&self, targets: &[Target], summaries: &[Summary]) -> String {
        match (self.json, self.csv, self.markdown) {
            (true, _, _) => json(targets, summaries),
            (_, true, _) => csv(summaries).to_csv(),
            (_, _, true) => tables(summaries).map(|table| table.to_markdown()).join("\n"),
            _ => tables(summaries).map(|table| table.to_text()).join("\n"),
        }
    }
}

/// Draws the pictures that are asked for.
fn draw(args: &Args, summaries: &[Summary], runs: &[(Model, Run)]) -> Result<(), Error> {
    if args.timeline.is_none() && !args.waterfall {
        return Ok(());
    }
    let chart = args.drawing.chart(&median_runs(summaries, runs));
    if let Some(path) = &args.timeline {
        let written = whole_file::write(path, args.drawing.svg(&chart).as_bytes());
        written.map_err(|error| Error::cannot("write the picture to", path.display(), &error))?;
    }
    if args.waterfall {
        say(&format!("\n{}", text::draw(&chart, terminal::canvas())));
    }
    Ok(())
}

/// Says what did not arrive and what does not hold. Returns the exit status.
fn judge(args: &Args, summaries: &[Summary], runs: &[(Model, Run)]) -> u8 {
    let mut status = SUCCESS;
    let failed: usize = runs.iter().map(|(_, run)| run.report.failed).sum();
    if failed > 0 {
        say(&format!("poetry-race: {} did not arrive\n", count(failed as u64, "poem")));
        status = FAILURE;
    }
    for assertion in &args.assertions {
        let verdict = assertion.judge(summaries);
        if !verdict.holds {
            say(&format!("poetry-race: {}\n", verdict.text));
            status = FAILURE;
        }
    }
    status
}

/// The time that a client gets to end after a signal.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The parts of a race that have to be cleared away when a signal ends it: the bar, the client that runs.
struct Stage {
    progress: ProgressBar,
    child: Mutex<Option<u32>>,
}

impl Stage {
    fn new() -> Arc<Self> {
        Arc::new(Self { progress: progress(), child: Mutex::new(None) })
    }

    /// Has the process end on each of these signals.
    fn leave_on(signals: Signals, stage: &Arc<Self>) -> Result<(), Error> {
        let stage = Arc::clone(stage);
        let on_signal = move |signal| stage.leave(signal);
        signals.watch(on_signal).map_err(|error| Error::cannot("start", "a thread", &error))
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

/// Every run of every model, in turns. The blocking client is the last one in each: once another has run, it is known
/// how long it will take.
fn all_runs(
    args: &Args,
    targets: &[Target],
    mut estimate: Estimate,
    models: &[Model],
    stage: &Stage,
) -> Result<Vec<(Model, Run)>, Error> {
    let programs = std::env::current_exe().map_err(|error| Error::cannot("find", "the clients", &error))?;
    let programs = programs.parent().unwrap_or(Path::new("")).to_owned();
    let mut words: Vec<String> = Vec::new();
    if let Some(most) = args.max_concurrency {
        words.push(format!("--max-concurrency={most}"));
    }
    words.push(format!("--timeout={}", humantime::format_duration(args.timeout)));
    words.push(format!("--retries={}", args.retries));
    words.extend(args.proxy.as_ref().map(|proxy| format!("--proxy={proxy}")));
    words.extend(targets.iter().map(ToString::to_string));

    let mut round = models.to_vec();
    round.sort_by_key(|model| *model == Model::Blocking);
    let all = [vec![Model::Async; args.warm_up], round.repeat(args.runs.get())].concat();
    stage.progress.set_length(all.len() as u64);
    let mut runs = Vec::with_capacity(all.len());
    for (index, &model) in all.iter().enumerate() {
        let (later, clock) = (&all[index + 1..], Instant::now());
        let meanwhile = || stage.tell(model, clock.elapsed(), estimate.left(model, clock.elapsed(), later));
        stage.progress.set_position(index as u64 + 1);
        meanwhile();
        let run = race::run(model, &programs, &words, |command| stage.start(command), meanwhile);
        *lock(&stage.child) = None;
        let run = run.map_err(|error| Error::cannot("run", programs.join(model.program()).display(), &error))?;
        estimate.learn(&run.report);
        if args.progress && stage.progress.is_hidden() {
            let left = later.split_first().and_then(|(next, later)| estimate.left(*next, Duration::ZERO, later));
            say(&format!("run {} of {}: {}\n", index + 1, all.len(), ended(model, &run.report, left)));
        }
        if index >= args.warm_up {
            runs.push((model, run));
        }
    }
    Ok(runs)
}

/// How a run ended, and what is left: `async got 3 poems in 2.0 s, about 9 s left`.
fn ended(model: Model, report: &Report, left: Option<Duration>) -> String {
    let Report { ok, failed, elapsed_us, .. } = report;
    let poems = match failed {
        0 => count(*ok as u64, "poem"),
        failed => format!("{ok} of {}", count((ok + failed) as u64, "poem")),
    };
    let time = Duration::from_micros(*elapsed_us).as_secs_f64();
    format!("{model} got {poems} in {time:.1} s{}", about(left))
}

/// `, about 9 s left`, if that is known.
fn about(left: Option<Duration>) -> String {
    left.map_or_else(String::new, |left| format!(", about {:.0} s left", left.as_secs_f64().ceil()))
}

/// A progress bar if stderr is a terminal, and a hidden one elsewhere.
fn progress() -> ProgressBar {
    let target = if io::stderr().is_terminal() { terminal::draw_target() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("run {pos} of {len}: {msg}").expect("a valid template");
    ProgressBar::with_draw_target(None, target).with_style(style)
}

/// The result for people: a table of times, and a table of costs. A column has one unit, and so have all times that are
/// to be compared.
fn tables(summaries: &[Summary]) -> [Table; 2] {
    let mut times = Table::new(["model", "time", "fastest", "slowest", "bound", "ratio", "speed-up", "missing"]);
    let mut costs =
        Table::new(["cost", "start-up", "cpu", "waited", "preempted", "threads", "memory", "reads", "waits"]);
    let blocking = summaries.iter().find(|summary| summary.model == Model::Blocking.name());
    let blocking = blocking.and_then(|blocking| blocking.standing.as_ref());
    let counted = || summaries.iter().filter_map(|summary| summary.standing.as_ref());
    let compared: Vec<Micros> = counted().flat_map(compared).collect();
    let mut compared = in_one_unit(&compared).into_iter();
    let mut start_up = in_one_unit(&counted().map(|it| it.cost.start_up_us).collect::<Vec<_>>()).into_iter();
    let mut cpu = in_one_unit(&counted().map(|it| it.cost.cpu_us).collect::<Vec<_>>()).into_iter();
    for summary in summaries {
        let (model, missing) = (summary.model.to_owned(), summary.missing.to_string());
        let Some(standing) = &summary.standing else {
            times.push(without_a_run(model.clone(), 6).chain([missing]).collect());
            costs.push(without_a_run(model, 8).collect());
            continue;
        };
        let speed_up =
            blocking.map_or_else(|| "-".to_owned(), |blocking| format!("{:.2}x", standing.speed_up(blocking)));
        let row = [model.clone()].into_iter().chain(compared.by_ref().take(4));
        times.push(row.chain([format!("{:.3}", standing.ratio()), speed_up, missing]).collect());
        let cost = &standing.cost;
        let row = [model].into_iter().chain(start_up.next()).chain(cpu.next());
        let row = row.chain([
            cost.voluntary_switches.to_string(),
            cost.involuntary_switches.to_string(),
            cost.peak_threads.to_string(),
            format!("{} kB", cost.peak_rss_kb),
            cost.reads.to_string(),
            cost.waits.to_string(),
        ]);
        costs.push(row.collect());
    }
    [times, costs]
}

/// The times of a model that stand in one row: median, fastest, slowest, and the bound.
fn compared(standing: &Standing) -> [Micros; 4] {
    let Standing { time_us, spread_us: (fastest, slowest), bound_us, .. } = *standing;
    [time_us, fastest, slowest, bound_us]
}

/// The cells of a model of which no run counted.
fn without_a_run(model: String, cells: usize) -> impl Iterator<Item = String> {
    [model, "no run".to_owned()].into_iter().chain(repeat_n("-".to_owned(), cells - 1))
}

/// The result for programs: one table, in plain units. Cells of a model of which no run counted are empty.
fn csv(summaries: &[Summary]) -> Table {
    let mut table = Table::new([
        "model",
        "runs",
        "time_us",
        "fastest_us",
        "slowest_us",
        "bound_us",
        "ratio",
        "start_up_us",
        "cpu_us",
        "voluntary_switches",
        "involuntary_switches",
        "peak_threads",
        "peak_rss_kb",
        "reads",
        "waits",
        "missing",
    ]);
    for Summary { model, runs, missing, standing } in summaries {
        let mut row = vec![(*model).to_owned(), runs.to_string()];
        let Some(standing) = standing else {
            row.extend(repeat_n(String::new(), 13));
            row.push(missing.to_string());
            table.push(row);
            continue;
        };
        let Standing { time_us, spread_us: (fastest, slowest), bound_us, cost } = standing;
        row.extend([time_us, fastest, slowest, bound_us].map(ToString::to_string));
        row.push(format!("{:.4}", standing.ratio()));
        row.extend(
            [
                cost.start_up_us,
                cost.cpu_us,
                cost.voluntary_switches,
                cost.involuntary_switches,
                cost.peak_threads,
                cost.peak_rss_kb,
                cost.reads,
                cost.waits,
            ]
            .map(|value| value.to_string()),
        );
        row.push(missing.to_string());
        table.push(row);
    }
    table
}

fn json(targets: &[Target], summaries: &[Summary]) -> String {
    #[derive(Serialize)]
    struct Result<'a> {
        schema: u32,
        addresses: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        names: Option<Vec<Option<String>>>,
        models: &'a [Summary],
    }
    let addresses = targets.iter().map(|target| target.source.to_string()).collect();
    let names: Vec<Option<String>> = targets.iter().map(|target| target.name.clone()).collect();
    let names = Some(names).filter(|names| names.iter().any(Option::is_some));
    let result = Result { schema: 2, addresses, names, models: summaries };
    serde_json::to_string(&result).expect("plain data has a JSON form") + "\n"
}

/// The reports of the runs that took the median time, one for each model; of a model of which no run counted, the first.
fn median_runs(summaries: &[Summary], runs: &[(Model, Run)]) -> Vec<Report> {
    let median = |summary: &Summary| {
        let mut of_it = runs.iter().filter(|(model, _)| model.name() == summary.model).map(|(_, run)| &run.report);
        let is_it = |report: &&Report| match &summary.standing {
            Some(standing) => report.failed == 0 && report.elapsed_us == standing.time_us,
            None => true,
        };
        of_it.find(is_it).cloned()
    };
    summaries.iter().filter_map(median).collect()
}

/// Writes to stderr. An error there has nobody who could be told of it.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

//! poetry-race as a program.

mod demo;
mod outcome;
mod stage;
mod tables;
mod through;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Arg, Parser};

use self::demo::Demo;
use self::outcome::{Heat, Outcome, Verdict};
use self::stage::{Ledger, Stage};
use self::through::Through;
use super::client_args::{self, DrawingArgs, Repeated, TargetArgs, check_file, check_picture};
use super::limit_args::{LimitArgs, TransformArgs};
use crate::address::Address;
use crate::cli::signals::Signals;
use crate::cli::values::Known;
use crate::cli::{Error, FAILURE, SUCCESS, machine, stdout, terminal, values};
use crate::client::{Concurrency, Model, Target};
use crate::race::assertion::Assertion;
use crate::race::foreign::Foreign;
use crate::race::{self, Racer};
use crate::report::curves;
use crate::report::waterfall::text;
use crate::units::count;
use crate::whole_file;

/// Race the four clients against each other, or one of your own, and see what each model of waiting costs
///
/// get-poetry-blocking, -threads, -select and get-poetry fetch the same poems in turns, as child processes. Each
/// measures its own time; what else it costs is read from the system. Any other program can take part: see --client.
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

    /// Rounds, in each of which every client runs once; auto: until the times are known to 2 %
    ///
    /// The clients take turns to be the first of a round. auto goes on until the 95 % interval of each median time is
    /// narrower than 2 % of it, for 6 rounds at least and 100 at most.
    #[arg(long, help_heading = "Runs", value_name = "N", default_value = "3", default_value_if("demo", "true", "1"))]
    #[arg(value_parser = rounds, allow_negative_numbers = true)]
    runs: Rounds,

    /// Runs of get-poetry before, which do not count
    #[arg(long, help_heading = "Runs", value_name = "N", default_value = "1", default_value_if("demo", "true", "0"))]
    #[arg(value_parser = values::whole::<usize>(0, u64::MAX), allow_negative_numbers = true)]
    warm_up: usize,

    /// Only these models: blocking, threads, select, async
    #[arg(long, help_heading = "Runs", value_name = "MODEL", value_delimiter = ',')]
    #[arg(value_parser = Known { known: client_args::models, parse: client_args::model }, hide_possible_values = true)]
    models: Vec<Model>,

    /// Race this client: NAME=COMMAND, in which a word {} becomes the addresses; may be given more than once
    ///
    /// It takes the place of our own, or with --models races beside them. The command is split as a shell splits words, and no
    /// shell is involved. {ports} becomes the ports alone, {urls} URLs (of a server that sends unasked, telnet://HOST:PORT).
    /// What it does is seen by a relay before each address, and the whole of its processes is what it costs. The limits
    /// below are ours; but --timeout is for its whole run, too.
    #[arg(long = "client", help_heading = "Runs", value_name = "NAME=COMMAND", value_parser = foreign)]
    clients: Vec<Foreign>,

    /// Put a relay before each address for our own clients, too, and tell what that sees
    #[arg(long, help_heading = "Runs", conflicts_with = "proxy")]
    through: bool,

    /// Race with each of these numbers of poems, as in 1,10,100,1000
    ///
    /// The addresses are repeated, or the first ones taken, until there are so many.
    #[arg(long, help_heading = "Runs", value_name = "N", value_delimiter = ',')]
    #[arg(value_parser = values::whole::<usize>(1, client_args::MOST_POEMS as u64), allow_negative_numbers = true)]
    sweep: Vec<usize>,

    /// Let clients send requests through this HTTP proxy
    #[arg(short = 'x', long, help_heading = "Runs", value_name = "ADDR", value_parser = client_args::proxy)]
    proxy: Option<Address>,

    #[command(flatten, next_help_heading = "Limits of each client")]
    limits: LimitArgs,

    #[command(flatten, next_help_heading = "Limits of each client")]
    transform: TransformArgs,

    /// Print the result as JSON, every run with it
    #[arg(long, help_heading = "Result", group = "form")]
    json: bool,

    /// Print the result as CSV, one row a model
    #[arg(long, help_heading = "Result", group = "form")]
    csv: bool,

    /// Print every run as CSV, one row a run
    #[arg(long, help_heading = "Result", group = "form")]
    csv_runs: bool,

    /// Print the result as a Markdown table
    #[arg(long, help_heading = "Result", group = "form")]
    markdown: bool,

    /// Write into DIR: race.json, models.csv, runs.csv, and the report of each run
    ///
    /// It is made if it is not there. The report of a run is there when the run has ended, as POEMS-ROUND-PLACE-MODEL.json.
    #[arg(long, help_heading = "Result", value_name = "DIR")]
    report: Option<PathBuf>,

    /// Write the verdicts as JUnit XML to FILE: all poems arrived, and each --assert
    #[arg(long, help_heading = "Result", value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Draw what each poem was doing when, of the median run of each model, as a picture in FILE (SVG)
    ///
    /// With --sweep, of the last number of poems.
    #[arg(long, help_heading = "Result", value_name = "FILE")]
    timeline: Option<PathBuf>,

    /// Draw the same on stderr, in characters
    #[arg(long, help_heading = "Result")]
    waterfall: bool,

    /// Draw time, processor time and memory over the numbers of poems of --sweep, as a picture in FILE (SVG)
    #[arg(long, help_heading = "Result", value_name = "FILE", requires = "sweep")]
    chart: Option<PathBuf>,

    /// Say on stderr how each run ended, and what is left, also where it is no terminal
    #[arg(long, help_heading = "Result")]
    progress: bool,

    #[command(flatten, next_help_heading = "Result")]
    drawing: DrawingArgs,

    /// Exit with 1 unless this holds, as in 'async <= 1.1 * bound'; may be given more than once
    #[arg(long = "assert", help_heading = "Result", value_name = "EXPR", value_parser = assertion)]
    assertions: Vec<Assertion>,
}

/// How many rounds there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounds {
    Exactly(NonZeroUsize),
    /// Until the times are known.
    Auto,
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

The sentence below the tables says which models differ: with a confidence of 95 % for all of them together, of what \
the rounds can show. Runs of one round are compared with each other, and what disturbs a round disturbs both.

A client that is not ours (--client) is known by its connections: a relay before each address sees when they are made, when bytes pass, and which side ends them. A run counts if, besides, it ends with status 0. What a relay adds to a first byte is measured before the first run and said.

An assertion compares two sums of products with <, <=, =, >= or >. Their values are numbers (of seconds, or with us, \
ms, s or m), models and clients (their median time), their costs (async.cpu, .memory in bytes, .threads, .switches, .reads, \
.waits), and bound, that of the model named first. With --sweep it has to hold for each number of poems.

Columns:
  time, known to
      of a client, from its first connect to the end of its last poem: the median of the runs, and how wide its 95 % \
interval is (from six runs on)
  fastest, slowest
      the shortest and the longest time
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
      the most of a run, at one time, by the client's own account; the thread that waits for signals is not counted. Of a client that is not ours, what all of its processes had, seen from time to time
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
  poetry-race --runs auto --report results 10000*300
      Three hundred poems of one server, until the times are known, with everything to look at later
  poetry-race --sweep 1,10,100,1000 --chart sweep.svg 10000
      What a model costs, over the number of poems
  poetry-race --client 'python=python3 fetch.py {}' --models blocking,async --waterfall 10000 10001 10002
      A client of your own beside two of ours
  poetry-race --assert 'async <= 1.1 * bound' --assert 'blocking / async > 2' --junit race.xml 10000 10001 10002
      For a test

Exit status:
  0    all poems arrived in all runs, no client failed, and every assertion holds
  1    some did not, or something failed
  2    the command line makes no sense
  130  interrupted by Ctrl-C";

fn foreign(text: &str) -> Result<Foreign, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn rounds(text: &str) -> Result<Rounds, String> {
    match text {
        "auto" => Ok(Rounds::Auto),
        _ => values::count::<NonZeroUsize>()(text).map(Rounds::Exactly).map_err(|why| format!("{why}, or auto")),
    }
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
    args.check_sweep()?;
    args.check_files()?;
    let signals = Signals::block_with_hangup();
    let (clock, environment) = (Instant::now(), machine::environment());
    let stage = Stage::new();
    Stage::leave_on(signals, &stage)?;
    let demo = if args.demo { Some(Demo::start()?) } else { None };
    let targets = match &demo {
        Some(demo) => demo.targets().to_vec(),
        None => args.targets.resolve()?,
    };
    let mut heats = Vec::new();
    let mut unwritten = None;
    let mut relay_us = None;
    for targets in args.fields(&targets) {
        let relays = if args.needs_relays() { Some(Through::start(&Repeated::all(&targets)?)?) } else { None };
        if let Some(relays) = &relays {
            relay_us = Some(relays.toll()?);
        }
        let Ledger { runs, unwritten: error } = stage.all_runs(args, &targets, &models, relays.as_ref())?;
        unwritten = unwritten.or(error);
        heats.push(Heat::new(&models, runs, &targets, args.concurrency()));
    }
    stage.clear();
    let verdicts = args.verdicts(&heats);
    let outcome = Outcome { environment, targets, heats, verdicts, relay_us, elapsed: clock.elapsed() };
    // What can be written is, whatever becomes of the rest.
    let written = [
        unwritten.map_or(Ok(()), Err),
        stdout::write_all(args.form(&outcome).as_bytes()),
        args.draw(&outcome),
        args.chart(&outcome),
        args.write_report(&outcome),
        args.write_junit(&outcome),
    ];
    let status = judge(&outcome);
    written.into_iter().collect::<Result<(), Error>>().map(|()| status)
}

impl Args {
    /// Who takes part, among them all that an assertion is about.
    fn models(&self) -> Result<Vec<Racer>, Error> {
        let ours = match self.models.is_empty() && self.clients.is_empty() {
            true => Model::ALL.to_vec(),
            false => self.models.clone(),
        };
        if let Some(twice) = named_twice(&ours) {
            return Err(Error::usage(format!("--models names {} twice", twice.name())));
        }
        let mut models: Vec<Racer> = ours.into_iter().map(Racer::Ours).collect();
        for theirs in self.clients.iter().map(|client| Racer::Theirs(client.name())) {
            if models.contains(&theirs) {
                return Err(Error::usage(format!("two clients are called {theirs}")));
            }
            models.push(theirs);
        }
        for assertion in &self.assertions {
            if let Some(absent) = assertion.models().into_iter().find(|model| !models.contains(model)) {
                return Err(Error::usage(format!("the assertion speaks of {absent}, which does not take part")));
            }
        }
        Ok(models)
    }

    /// Checks that no number of poems is there twice: what it came to would be under one name.
    fn check_sweep(&self) -> Result<(), Error> {
        let twice = named_twice(&self.sweep);
        twice.map_or(Ok(()), |number| Err(Error::usage(format!("--sweep names {number} twice"))))
    }

    /// Checks whatever is to be written at the end, and makes the directory.
    fn check_files(&self) -> Result<(), Error> {
        check_picture(self.timeline.as_deref())?;
        check_picture(self.chart.as_deref())?;
        check_file(self.junit.as_deref())?;
        self.drawing.check(self.timeline.is_some(), self.waterfall).map_err(|(_, error)| error)?;
        let Some(directory) = &self.report else { return Ok(()) };
        let made = if directory.is_dir() { Ok(()) } else { std::fs::create_dir(directory) };
        made.map_err(|error| Error::cannot("make", directory.display(), &error))?;
        check_file(Some(&directory.join(outcome::RESULT)))
    }

    /// Whether somebody is to be seen from between.
    fn needs_relays(&self) -> bool {
        self.through || !self.clients.is_empty()
    }

    /// How many poems a client may have under way at once.
    fn concurrency(&self) -> Concurrency {
        Concurrency::wanted(self.limits.max_concurrency)
    }

    /// What is raced for: once all targets, or as many of them as each number of the sweep says.
    fn fields(&self, targets: &[Target]) -> Vec<Vec<Repeated>> {
        if self.sweep.is_empty() {
            return vec![targets.iter().map(|target| Repeated { target: target.clone(), times: 1 }).collect()];
        }
        self.sweep.iter().map(|number| Repeated::spread(targets, *number)).collect()
    }

    /// The arguments of every client.
    fn words(&self, targets: &[Repeated]) -> Vec<String> {
        let mut words = [self.limits.words(), self.transform.words()].concat();
        words.extend(self.proxy.as_ref().map(|proxy| format!("--proxy={proxy}")));
        words.extend(targets.iter().map(ToString::to_string));
        words
    }

    /// Judges each heat.
    fn verdicts(&self, heats: &[Heat]) -> Vec<Verdict> {
        let of = |heat: &Heat| -> Vec<Verdict> {
            let judge = |assertion: &Assertion| Verdict {
                poems: (heats.len() > 1).then_some(heat.poems()),
                expression: assertion.text().to_owned(),
                verdict: assertion.judge(&heat.summaries),
            };
            self.assertions.iter().map(judge).collect()
        };
        heats.iter().flat_map(of).collect()
    }

    /// The outcome in the form that is asked for.
    fn form(&self, outcome: &Outcome) -> String {
        if self.json {
            outcome.to_json()
        } else if self.csv {
            tables::models(&outcome.heats).to_csv()
        } else if self.csv_runs {
            tables::runs(&outcome.heats).to_csv()
        } else {
            tables::for_people(&outcome.heats, outcome.relay_us, self.markdown)
        }
    }

    /// Draws what each poem was doing when.
    fn draw(&self, outcome: &Outcome) -> Result<(), Error> {
        if self.timeline.is_none() && !self.waterfall {
            return Ok(());
        }
        let chart = self.drawing.chart(&outcome.median_runs());
        if self.waterfall {
            say(&format!("\n{}", text::draw(&chart, terminal::canvas())));
        }
        let Some(path) = &self.timeline else { return Ok(()) };
        write("write the picture to", path, &self.drawing.svg(&chart))
    }

    /// Draws what the models cost over the number of poems.
    fn chart(&self, outcome: &Outcome) -> Result<(), Error> {
        let Some(path) = &self.chart else { return Ok(()) };
        write("write the picture to", path, &curves::draw(&outcome.curves()))
    }

    /// Writes what the directory of the report has beside the reports of the runs.
    fn write_report(&self, outcome: &Outcome) -> Result<(), Error> {
        let Some(directory) = &self.report else { return Ok(()) };
        write("write", &directory.join(outcome::RESULT), &outcome.to_json())?;
        write("write", &directory.join("models.csv"), &tables::models(&outcome.heats).to_csv())?;
        write("write", &directory.join("runs.csv"), &tables::runs(&outcome.heats).to_csv())
    }

    fn write_junit(&self, outcome: &Outcome) -> Result<(), Error> {
        let Some(path) = &self.junit else { return Ok(()) };
        write("write", path, &outcome.to_junit())
    }
}

/// The first of these that is there a second time.
fn named_twice<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter().enumerate().find(|(index, one)| list[..*index].contains(one)).map(|(_, one)| one)
}

/// Writes a file, or says what it cannot do with which.
fn write(what: &str, path: &Path, text: &str) -> Result<(), Error> {
    whole_file::write(path, text.as_bytes()).map_err(|error| Error::cannot(what, path.display(), &error))
}

/// Writes to stderr. An error there has nobody who could be told of it.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Says what did not arrive and what does not hold. Returns the exit status.
fn judge(outcome: &Outcome) -> u8 {
    let mut status = SUCCESS;
    for heat in outcome.heats.iter().filter(|heat| heat.missing() > 0 || heat.failed() > 0) {
        say(&format!("poetry-race: {}\n", heat.loss()));
        for line in race::folded(&heat.runs) {
            say(&format!("poetry-race: {line}\n"));
        }
        status = FAILURE;
    }
    for run in outcome.heats.iter().flat_map(|heat| &heat.runs).filter(|run| run.left_behind > 0) {
        let left = count(run.left_behind as u64, "process");
        say(&format!("poetry-race: {} left {left} behind in round {}\n", run.model, run.round));
    }
    for verdict in outcome.verdicts.iter().filter(|verdict| !verdict.verdict.holds) {
        say(&format!("poetry-race: {}\n", verdict.text()));
        status = FAILURE;
    }
    status
}

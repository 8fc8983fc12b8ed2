//! The four clients as programs: one command line, four models.
//!
//! The arguments and the run are here; what a run shows is in `bars` and `messages`, how it ends in `finish`.

mod bars;
mod finish;
mod messages;

use std::env;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tracing::warn;

use super::client_args::{self, DrawingArgs, TargetArgs, check_file, check_picture};
use super::limit_args::{LimitArgs, TransformArgs};
use crate::address::Address;
use crate::cli::logs::{LogArgs, Style};
use crate::cli::signals::Signals;
use crate::cli::stdout::Stdout;
use crate::cli::terminal::Screen;
use crate::cli::terminal::is_same_stream;
use crate::cli::values;
use crate::cli::{Error, open_files, terminal};
use crate::client::{FetchLimits, HttpOptions, Job, Model, Observer, Order, ReportBuilder, Sink, Source, Template};
use crate::race;
use bars::Bars;
use finish::{Cause, FailEarly, Finish, Reports};
use messages::Messages;

/// Fetch poems from servers that give them out, and measure how long it takes
///
/// A server sends its poem as soon as it is connected to, and the end of the stream is the end of the poem; or it is
/// asked for it over HTTP. Each poem is written to stdout whole, as soon as it is complete.
///
/// get-poetry (async), get-poetry-blocking, get-poetry-threads and get-poetry-select do the same in four models
/// of waiting.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    targets: TargetArgs,

    /// Write poems in the order of the command line, the first unfinished one live
    #[arg(long, help_heading = "Poems", conflicts_with_all = ["output", "discard", "json"])]
    ordered: bool,

    /// Write each poem into a file in DIR instead of to stdout
    ///
    /// It is named TASK-HOST-PORT.txt, over HTTP as the last part of the URL; TASK- stands before a name that two would
    /// have. It is there only when it is whole.
    #[arg(short, long, help_heading = "Poems", value_name = "DIR", conflicts_with = "discard")]
    output: Option<PathBuf>,

    /// Name files of poems over HTTP so, as in '{task}-{stem}.{ext}'
    ///
    /// {stem} and {ext} are the last part of the URL before and after its last dot, {STEM} is in capitals, {host} is the
    /// server, {task} the number of the poem, and {json.KEY} a string of what --beside brings. Spaces in them become _, and
    /// so does whatever would lead out of DIR.
    #[arg(long, help_heading = "Poems", value_name = "TEMPLATE", requires = "output")]
    name: Option<Template>,

    /// Fetch REF after each poem, relative to its URL: JSON, for {json.KEY} of --name
    ///
    /// It is a JSON object of at most 64 KiB. A poem beside which there is none is lost, and so is one whose name another
    /// one has already.
    #[arg(long, help_heading = "Poems", value_name = "REF", requires = "name")]
    beside: Option<String>,

    /// Write poems nowhere, only measure
    #[arg(long, help_heading = "Poems")]
    discard: bool,

    #[command(flatten, next_help_heading = "Transform")]
    transform: TransformArgs,

    /// Write the report as JSON to stdout instead of the poems
    #[arg(long, help_heading = "Report")]
    json: bool,

    /// Write the report as JSON to FILE
    #[arg(long, help_heading = "Report", value_name = "FILE")]
    report: Option<PathBuf>,

    /// Draw what each poem was doing when, as a picture in FILE (SVG)
    #[arg(long, help_heading = "Report", value_name = "FILE")]
    timeline: Option<PathBuf>,

    /// Draw the same on stderr, in characters
    #[arg(long, help_heading = "Report")]
    waterfall: bool,

    #[command(flatten, next_help_heading = "Report")]
    drawing: DrawingArgs,

    #[command(flatten, next_help_heading = "Limits")]
    limits: LimitArgs,

    /// Give up a poem that is longer than SIZE; 0: never
    #[arg(long, help_heading = "Limits", value_name = "SIZE", default_value = "0")]
    #[arg(value_parser = values::size, allow_hyphen_values = true)]
    max_size: u64,

    /// Wait for a server that says Retry-After for at most so long, or give the poem up
    #[arg(long, help_heading = "HTTP", value_name = "DURATION", default_value = "60s")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    retry_after_max: Duration,

    /// Send requests through this HTTP proxy: an address, or http:// and an address
    ///
    /// No variable of the environment is read for that.
    #[arg(short = 'x', long, help_heading = "HTTP", value_name = "ADDR", value_parser = client_args::proxy)]
    proxy: Option<Address>,

    /// Follow at most N redirects; 0: none
    #[arg(long, help_heading = "HTTP", value_name = "N", default_value_t = 10)]
    #[arg(value_parser = values::whole::<u32>(0, u32::MAX.into()), allow_negative_numbers = true)]
    redirects: u32,

    /// End the run when the first poem has failed; those under way are interrupted
    #[arg(long, help_heading = "Limits")]
    fail_early: bool,

    #[command(flatten)]
    logs: LogArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes are like 10, 10k, 64KiB or 1M bytes.

What has to wait for its turn on stdout is in memory up to 64 MiB, and beyond that in a temporary file in TMPDIR.

Examples:
  get-poetry 10000 10001 10002
      Three poems from this machine, on stdout, at once
  get-poetry-blocking 10000 10001 10002 > poems.txt
      The same, one after another
  get-poetry -o poems --retries 3 poems.example:10000
      One poem into the directory poems, in spite of failures
  get-poetry --transform cummingsify --via 11000 10000
      A poem in lower case
  get-poetry --fail-early --timeout 10s -o poems 10000 10001 10002
      All poems, or an end as soon as one of them is lost
  get-poetry -o flags --beside metadata.json --name '{json.country}.{ext}' http://localhost:8001/flags/{ad,ae}/{ad,ae}.gif
      Over HTTP: pictures, and what stands beside them for their names
  get-poetry --json --timeout 10s 10000 | jq .tasks
      Only the measurements
  get-poetry --discard --waterfall --timeline poems.svg donne=10000 keats=10001
      What each poem was doing when, as two pictures

Exit status:
  0    all poems arrived (or nobody read them any more)
  1    some poem did not arrive, or could not be written
  2    the command line makes no sense
  130  interrupted by Ctrl-C (129: by SIGHUP, 143: by SIGTERM)";

/// The `main` of the program for `model`.
pub fn main(model: Model) -> ExitCode {
    crate::cli::run(model.program(), |args| run(model, &args))
}

fn run(model: Model, args: &Args) -> Result<u8, Error> {
    args.drawing.check(args.timeline.is_some(), args.waterfall).map_err(|(_, error)| error)?;
    check_picture(args.timeline.as_deref())?;
    check_file(args.report.as_deref())?;
    if let Some(directory) = &args.output {
        Sink::check_directory(directory).map_err(|error| Error::cannot("write into", directory.display(), &error))?;
    }
    let signals = Signals::block_with_hangup();
    end_with_the_race()?;
    let targets = args.targets.resolve()?;
    let (names, sources): (Vec<Option<String>>, Vec<Source>) =
        targets.into_iter().map(|target| (target.name, target.source)).unzip();
    let sources: Arc<[Source]> = sources.into();
    args.check_http(&sources)?;
    let screen = args.screen();
    args.logs.init(Style::Talk, terminal::colour(), screen.clone())?;
    let clock = Instant::now();
    let limits = args.limits(model, &sources, open_files::raise_limit());

    let bars = Bars::new(&screen, &sources, clock).map(Arc::new);
    let messages = Arc::new(Messages::new(bars.is_none()));
    let reports = args.reports();
    let builder = ReportBuilder::new(model, Arc::clone(&sources), limits.concurrency, clock, reports.have_reads());
    let builder = Arc::new(builder.named(names));
    let mut observers: Vec<Arc<dyn Observer>> = vec![builder.clone(), messages.clone()];
    observers.extend(bars.clone().map(|bars| bars as Arc<dyn Observer>));

    let finish = Arc::new(Finish::new(builder, messages, bars, reports));
    let sink = args.sink(screen, &finish, &sources);
    if args.fail_early {
        // After the others: they have heard of the failure when it ends the run.
        observers.push(Arc::new(FailEarly(Arc::clone(&finish))));
    }
    let via = args.transform.via();
    let job = Job::new(sources, limits, sink, observers, clock, fastrand::u64(..));
    let job = Arc::new(job.over_http(args.http()).through(via));
    finish.watch(&job, signals)?;
    let result = model.run(&job);
    let status = finish.end(Cause::Complete);
    result.map_err(|error| Error::cannot("wait", "for poems", &error))?;
    Ok(status)
}

/// Has the kernel kill this client, if a race runs it, when that ends: PR_SET_PDEATHSIG.
fn end_with_the_race() -> Result<(), Error> {
    let Some(race) = env::var(race::VARIABLE).ok().and_then(|pid| pid.parse().ok()) else { return Ok(()) };
    // Cannot fail for a valid signal, see prctl(2).
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid() == Pid::from_raw(race) { Ok(()) } else { Err(Error::failure("the race is over")) }
}

/// What the flags come to.
impl Args {
    /// stderr, with bars if it is a terminal. Bars take the place of messages: not if other messages are asked for,
    /// nor if the terminal shows a poem live.
    fn screen(&self) -> Screen {
        let usable = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let live = self.ordered && io::stdout().is_terminal();
        if usable && self.logs.is_plain() && !live { Screen::with_bars() } else { Screen::default() }
    }

    /// The limits of each fetch, with no more poems at once than there may be open files.
    fn limits(&self, model: Model, sources: &[Source], open_files: u64) -> FetchLimits {
        let via = self.transform.via();
        // A name may take another socket while one of its addresses does not answer.
        let is_name = |address: &Address| address.literal().is_none();
        let mut addresses =
            sources.iter().map(Source::address).chain(via.as_ref().map(|via| &via.address)).chain(&self.proxy);
        let has_two_sockets = matches!(model, Model::Select | Model::Async) && addresses.any(is_name);
        let files_per_poem = 1 + u64::from(self.output.is_some()) + u64::from(has_two_sockets);
        let (concurrency, warning) = self.limits.concurrency(sources, open_files, files_per_poem);
        if let Some(warning) = warning {
            warn!("{warning}");
        }
        FetchLimits {
            max_size: Some(self.max_size).filter(|&size| size > 0),
            retry_after_max: self.retry_after_max,
            ..self.limits.of_each(concurrency)
        }
    }

    /// Checks what is only about HTTP.
    ///
    /// # Errors
    /// There is no poem over HTTP, or a flag lacks another one.
    fn check_http(&self, sources: &[Source]) -> Result<(), Error> {
        let given = [("--name", self.name.is_some()), ("--proxy", self.proxy.is_some())];
        if let Some((flag, _)) = given.into_iter().find(|(_, is_given)| *is_given)
            && sources.iter().all(|source| source.url().is_none())
        {
            return Err(Error::usage(format!("{flag} is about poems over HTTP, and no address begins with http://")));
        }
        let needs = self.name.as_ref().is_some_and(Template::needs_json);
        match (needs, &self.beside) {
            (true, None) => Err(Error::usage("{json.KEY} in --name is what --beside brings, which is not given")),
            (false, Some(_)) => Err(Error::usage("--beside is for {json.KEY} in --name, and there is none")),
            _ => Ok(()),
        }
    }

    /// How poems are fetched over HTTP.
    fn http(&self) -> HttpOptions {
        HttpOptions { proxy: self.proxy.clone(), redirects: self.redirects, beside: self.beside.clone() }
    }

    /// The forms of the report.
    fn reports(&self) -> Reports {
        Reports {
            json: self.json,
            file: self.report.clone(),
            timeline: self.timeline.clone(),
            waterfall: self.waterfall,
            drawing: self.drawing,
        }
    }

    /// The place of the poems. A stdout that turns out to be closed ends the run.
    fn sink(&self, screen: Screen, finish: &Arc<Finish>, sources: &[Source]) -> Sink {
        if let Some(directory) = &self.output {
            return Sink::files(directory, sources, self.name.as_ref());
        }
        if self.discard || self.json {
            return Sink::discard();
        }
        let order = match self.ordered {
            // Where poems and messages meet, a message stands between two verses.
            true => {
                Order::Request { retries: self.limits.retries > 0, by_line: is_same_stream(io::stdout(), io::stderr()) }
            }
            false => Order::Completion,
        };
        let finish = Arc::clone(finish);
        let stdout = Stdout::new(screen, move || finish.exit(Cause::NobodyReads));
        Sink::stream(Box::new(stdout), order, sources.len())
    }
}

//! The four clients as programs: what they are asked, what they say, how they end.

mod bars;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::Signal;
use tracing::{debug, error, info, warn};

use crate::address::Address;
use crate::cli::logs::{LogArgs, Style};
use crate::cli::signals::{self, Signals};
use crate::cli::stdout::Stdout;
use crate::cli::terminal::Screen;
use crate::cli::values::{self, Limit};
use crate::cli::{Error, FAILURE, SUCCESS, open_files, stdout, terminal};
use crate::client::{Event, FetchLimits, Job, Model, Observer, Order, ReportBuilder, Sink, Task, Via};
use crate::errors::reason;
use crate::report::waterfall::{Chart, svg, text};
use crate::sync::lock;
use crate::units::{human, micros};
use bars::Bars;

/// Open files that are not poems: the standard streams, a runtime's own, a library's.
const OTHER_FILES: u64 = 32;

/// Fetch poems from servers that give them out, and measure how long it takes
///
/// A server sends its poem as soon as it is connected to, and the end of the stream is the end of the poem. Each
/// poem is written to stdout whole, as soon as it is complete.
///
/// get-poetry (async), get-poetry-blocking, get-poetry-threads and get-poetry-select do the same in four models
/// of waiting.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    #[arg(required = true, value_name = "ADDR", help = "Servers: PORT (on this machine), HOST:PORT or [IPv6]:PORT")]
    addresses: Vec<Address>,

    /// Write poems in the order of the command line, the first unfinished one live
    #[arg(long, help_heading = "Poems", conflicts_with_all = ["output", "discard", "json"])]
    ordered: bool,

    /// Write each poem into a file in DIR instead of to stdout
    ///
    /// It is named TASK-HOST-PORT.txt, and is there only when it is whole.
    #[arg(short, long, help_heading = "Poems", value_name = "DIR", conflicts_with = "discard")]
    output: Option<PathBuf>,

    /// Write poems nowhere, only measure
    #[arg(long, help_heading = "Poems")]
    discard: bool,

    /// Send each poem through this transform; if that fails, keep it as it was
    #[arg(long, help_heading = "Transform", value_name = "NAME", requires = "via", value_parser = values::transform)]
    transform: Option<String>,

    /// The transform server
    #[arg(long, help_heading = "Transform", value_name = "ADDR", requires = "transform")]
    via: Option<Address>,

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

    /// Fetch at most N poems at once [default: all]
    #[arg(short = 'j', long, help_heading = "Limits", value_name = "N")]
    max_concurrency: Option<NonZeroUsize>,

    /// Give up an address that does not accept the connection for so long; 0: never
    ///
    /// To look up a name counts too, but in the blocking and the threads client nothing can cut a look-up short.
    #[arg(long, help_heading = "Limits", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    connect_timeout: Limit,

    /// Give up a poem of which nothing comes for so long, the first byte included; 0: never
    #[arg(long, help_heading = "Limits", value_name = "DURATION", default_value = "5m")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    idle_timeout: Limit,

    /// Give up a poem that is not complete after so long, all attempts included; 0: never
    #[arg(long, help_heading = "Limits", value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    timeout: Limit,

    /// Try again up to N times if a poem fails, after pauses that double
    #[arg(long, help_heading = "Limits", value_name = "N", default_value_t = 0)]
    retries: u32,

    #[command(flatten)]
    logs: LogArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds.

Examples:
  get-poetry 10000 10001 10002
      Three poems from this machine, on stdout, at once
  get-poetry-blocking 10000 10001 10002 > poems.txt
      The same, one after another
  get-poetry -o poems --retries 3 poems.example:10000
      One poem into the directory poems, in spite of failures
  get-poetry --transform cummingsify --via 11000 10000
      A poem in lower case
  get-poetry --json --timeout 10s 10000 | jq .tasks
      Only the measurements
  get-poetry --discard --waterfall --timeline poems.svg 10000 10001 10002
      What each poem was doing when, as two pictures

Exit status:
  0    all poems arrived (or nobody read them any more)
  1    some poem did not arrive, or could not be written
  2    the command line makes no sense
  130  interrupted by Ctrl-C (129: by SIGHUP, 143: by SIGTERM)";

/// For clearing bars, a report and the tally after a signal: a terminal or pipe that takes nothing must not hold up
/// the end.
const LAST_WORDS: Duration = Duration::from_millis(80);

/// The `main` of the program for `model`.
pub fn main(model: Model) -> ExitCode {
    crate::cli::run(model.program(), |args| run(model, args))
}

fn run(model: Model, args: Args) -> Result<u8, Error> {
    let signals = Signals::block_with_hangup();
    let screen = args.screen();
    args.logs.init(Style::Talk, terminal::colour(), screen.clone())?;
    let clock = Instant::now();
    let limits = args.limits(open_files::raise_limit());

    let bars = Bars::new(&screen, &args.addresses, clock).map(Arc::new);
    let with_events = args.json || args.report.is_some() || args.timeline.is_some();
    let builder = Arc::new(ReportBuilder::new(model, &args.addresses, clock, with_events));
    let log = Arc::new(Log { running: bars.is_none(), voice: Mutex::default() });
    let mut observers: Vec<Arc<dyn Observer>> = vec![builder.clone(), log.clone()];
    observers.extend(bars.clone().map(|bars| bars as Arc<dyn Observer>));

    let via = args.transform.clone().zip(args.via.clone()).map(|(transform, address)| Via { transform, address });
    let finish = Arc::new_cyclic(|finish| {
        let sink = args.sink(&screen, finish);
        let job = Job::new(args.addresses, limits, sink, observers, clock, fastrand::u64(..));
        let job = Arc::new(job.through(via));
        let ended = AtomicBool::new(false);
        let wanted =
            Wanted { json: args.json, report: args.report, timeline: args.timeline, waterfall: args.waterfall };
        Finish { job, builder, bars, log, wanted, ended }
    });

    let at_signal = Arc::clone(&finish);
    let on_signal = move |signal| {
        signals::exit_at_the_latest(LAST_WORDS, signals::exit_status(signal));
        process::exit(at_signal.end(Cause::Signal(signal)).into());
    };
    signals.watch(on_signal).map_err(|error| Error::cannot("start", "a thread", &error))?;
    let result = model.run(&finish.job);
    let status = finish.end(Cause::Complete);
    result.map_err(|error| Error::cannot("wait", "for poems", &error))?;
    Ok(status)
}

impl Args {
    /// Bars take the place of messages on a terminal, unless somebody asked for other messages, or the terminal
    /// shows a poem live.
    fn screen(&self) -> Screen {
        let usable = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let live = self.ordered && io::stdout().is_terminal();
        if usable && self.logs.is_plain() && !live { Screen::with_bars() } else { Screen::default() }
    }

    fn limits(&self, open_files: u64) -> FetchLimits {
        let files_per_poem = if self.output.is_some() { 2 } else { 1 };
        let possible = open_files.saturating_sub(OTHER_FILES) / files_per_poem;
        let possible = NonZeroUsize::new(usize::try_from(possible).unwrap_or(usize::MAX)).unwrap_or(NonZeroUsize::MIN);
        let wanted = self.max_concurrency.unwrap_or(NonZeroUsize::MAX);
        if possible.get() < wanted.get().min(self.addresses.len()) {
            warn!("At most {possible} poems at once: the limit of open files is {open_files}");
        }
        FetchLimits {
            connect_timeout: self.connect_timeout.0,
            idle_timeout: self.idle_timeout.0,
            timeout: self.timeout.0,
            retries: self.retries,
            max_concurrency: wanted.min(possible),
        }
    }

    fn sink(&self, screen: &Screen, finish: &Weak<Finish>) -> Sink {
        if let Some(directory) = &self.output {
            return Sink::files(directory, &self.addresses);
        }
        if self.discard || self.json {
            return Sink::discard();
        }
        let order = if self.ordered { Order::Request { retries: self.retries > 0 } } else { Order::Completion };
        let finish = Weak::clone(finish);
        let stdout = Stdout::new(screen.clone(), move || {
            if let Some(finish) = finish.upgrade() {
                process::exit(finish.end(Cause::NobodyReads).into());
            }
        });
        Sink::stream(Box::new(stdout), order, self.addresses.len())
    }
}

/// Why a run is over.
#[derive(Clone, Copy)]
enum Cause {
    Complete,
    Signal(Signal),
    NobodyReads,
}

/// Where a run ends, from whatever thread: bars off, report out, tally said, status found.
struct Finish {
    job: Arc<Job>,
    builder: Arc<ReportBuilder>,
    bars: Option<Arc<Bars>>,
    log: Arc<Log>,
    wanted: Wanted,
    ended: AtomicBool,
}

/// The forms in which the report is asked for.
struct Wanted {
    json: bool,
    report: Option<PathBuf>,
    timeline: Option<PathBuf>,
    waterfall: bool,
}

impl Finish {
    /// Returns the exit status to whoever ends the run first. Anybody else waits here for the process to end, but
    /// for a signal: it ends the process even if its end has begun, and is stuck.
    fn end(&self, end: Cause) -> u8 {
        if self.ended.swap(true, Ordering::AcqRel) {
            match end {
                Cause::Signal(signal) => return signals::exit_status(signal),
                Cause::Complete | Cause::NobodyReads => wait_for_ever(),
            }
        }
        if !matches!(end, Cause::Complete) {
            self.job.sink().clean_up();
        }
        self.log.fall_silent();
        if let Some(bars) = &self.bars {
            bars.clear();
        }
        let report = self.builder.report(self.job.calls());
        let mut written = true;
        if let Some(path) = &self.wanted.report {
            written &= told(&write_file(path, &report.to_json()), path);
        }
        if self.wanted.json {
            written &= told(&stdout::try_write_all(report.to_json().as_bytes()), Path::new("stdout"));
        }
        if !matches!(end, Cause::NobodyReads) {
            info!(elapsed_us = report.elapsed_us, "{}", report.tally());
        }
        if self.wanted.timeline.is_some() || self.wanted.waterfall {
            let chart = Chart::of(slice::from_ref(&report));
            if let Some(path) = &self.wanted.timeline {
                written &= told(&write_file(path, &svg::draw(&chart)), path);
            }
            if self.wanted.waterfall && !matches!(end, Cause::NobodyReads) {
                // Whoever does not hear it does not want it.
                let _ = io::stderr().write_all(text::draw(&chart, terminal::canvas()).as_bytes());
            }
        }
        match end {
            Cause::Signal(signal) => signals::exit_status(signal),
            _ if !written => FAILURE,
            Cause::Complete if report.failed > 0 => FAILURE,
            Cause::Complete | Cause::NobodyReads => SUCCESS,
        }
    }
}

fn told(result: &io::Result<()>, place: &Path) -> bool {
    if let Err(error) = result {
        error!("Cannot write the report to {}: {}", place.display(), reason(error));
    }
    result.is_ok()
}

fn wait_for_ever() -> ! {
    loop {
        thread::park();
    }
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    File::create(path)?.write_all(text.as_bytes())
}

/// The observer that writes messages.
struct Log {
    /// Also those that bars take the place of.
    running: bool,
    /// Held while a message is written.
    voice: Mutex<()>,
}

impl Log {
    /// Nothing is said about poems after the tally: tasks that still want to wait from now on for ever.
    fn fall_silent(&self) {
        mem::forget(lock(&self.voice));
    }
}

impl Observer for Log {
    fn observe(&self, task: Task<'_>, _: Duration, event: &Event<'_>) {
        if matches!(event, Event::Received(_)) && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Task { number, address } = task;
        let _voice = lock(&self.voice);
        match event {
            Event::Started if !self.running => {}
            Event::Started => info!(task = number, %address, "Task {number}: get poetry from: {address}"),
            Event::Attempt(1) => {}
            Event::Attempt(attempt) => debug!(task = number, %address, attempt, "Task {number}: attempt {attempt}"),
            Event::Connected => debug!(task = number, %address, "Task {number}: connected to {address}"),
            Event::Received(bytes) => {
                debug!(task = number, %address, bytes, "Task {number}: got {bytes} bytes of poetry from {address}");
            }
            Event::Asking(via) => {
                debug!(task = number, "Task {number}: asking {} for {}", via.address, via.transform);
            }
            Event::ConnectedVia => debug!(task = number, "Task {number}: connected for the transform"),
            Event::Changed(bytes) => debug!(task = number, bytes, "Task {number}: transformed into {bytes} bytes"),
            Event::Unchanged { via, failure } => {
                let (transform, status) = (&via.transform, failure.status());
                error!(
                    task = number, %address, transform, ?status,
                    "Task {number}: {transform} failed: {}: {failure}; keeping the poem as it was", via.address
                );
            }
            Event::Retry { failure, pause } => {
                let pause = human(*pause);
                warn!(task = number, %address, "Task {number}: {address}: {failure}; trying again in {pause}");
            }
            Event::Done { bytes, elapsed } => {
                let (elapsed_us, time) = (micros(*elapsed), human(*elapsed));
                info!(
                    task = number, %address, bytes, elapsed_us,
                    "Task {number}: got {bytes} bytes of poetry from {address} in {time}"
                );
            }
            Event::Failed(failure) => {
                let status = failure.status();
                error!(task = number, %address, ?status, "Task {number}: failed: {address}: {failure}");
            }
        }
    }
}

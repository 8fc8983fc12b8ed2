//! The end of a run: bars off, report out, tally said, exit status found.
//!
//! # Who may end the process
//!
//! - the main thread, when every poem is settled ([`Cause::Complete`]): it returns the status from `main`
//! - the signal thread ([`Cause::Signal`]): exit(3), whatever the other threads do at that moment
//! - a thread that writes a poem to stdout and gets EPIPE ([`Cause::NobodyReads`]): exit(3), out of that write
//! - a thread whose poem has failed, with `--fail-early` ([`Cause::Failed`]): exit(3), out of telling so
//!
//! No other code in a client exits. All of them call [`Finish::end`] first.
//!
//! # In which order things are done
//!
//! The thread that is first does everything, while fetches may go on on other threads:
//!
//! 1. temporary files are removed and no more are made, unless the run is complete: [`Sink::clean_up`]
//! 2. messages about poems stop, so that the tally is the last word: [`Messages::fall_silent`]
//! 3. bars are taken off the screen: [`Bars::clear`]
//! 4. the report is taken, with poems that are not settled as interrupted, and written: to its file, then to stdout
//! 5. the tally is said, unless nobody reads
//! 6. pictures are drawn: into their file, then on stderr
//! 7. the exit status is found
//!
//! # Who waits for ever, and why
//!
//! A thread that is not the first parks until the exit of the process takes it away. The main thread must: to return
//! from `main` would end the process in the middle of the report. A thread with EPIPE must: its write cannot go on. So
//! must a thread whose poem has failed: it would tell more.
//!
//! A fetch that wants to make a file or say something after steps 1 and 2 waits as well: for a lock whose guard is
//! leaked ([`mem::forget`](std::mem::forget)), which is never released. A flag would not do: a thread that has just
//! looked at it would still act. The lock lets a thread finish what it has begun, and no thread begin anew.
//!
//! # Signals
//!
//! Each step may be stuck: behind a full pipe, a report that is a FIFO without a reader, a dead disk, or a lock whose
//! holder is stuck there. Therefore the signal thread starts a watch before all else: when no step has come to its end
//! for [`LAST_WORDS`], the process ends, however far it has come. (A fixed time from the signal would cut off the tally on
//! a machine that is merely busy.) A signal after the end has begun in another thread ends the process at once. A second
//! signal changes nothing more: it comes to a thread that is busy with the first one, and the watch is running.
//!
//! [`Sink::clean_up`]: crate::client::Sink::clean_up

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tracing::{error, info};

use super::super::client_args::DrawingArgs;
use super::bars::Bars;
use super::messages::Messages;
use crate::cli::signals::{self, Signals};
use crate::cli::{Error, FAILURE, SUCCESS, machine, stdout, terminal};
use crate::client::{Event, Job, Observer, ReportBuilder, Task};
use crate::errors::reason;
use crate::report::waterfall::text;
use crate::report::{Peak, Report};
use crate::whole_file;

/// The time for each of the steps above, once a signal has come.
const LAST_WORDS: Duration = Duration::from_millis(150);

/// Why a run is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Complete,
    Signal(Signal),
    NobodyReads,
    /// A poem has failed, and no other one is wanted then.
    Failed,
}

/// The observer that ends the run with the first poem that fails.
pub(super) struct FailEarly(pub(super) Arc<Finish>);

impl Observer for FailEarly {
    fn observe(&self, _: Task<'_>, _: Duration, event: &Event<'_>) {
        if matches!(event, Event::Failed(_)) {
            if let Some(job) = self.0.job.get() {
                job.deliver_whole();
            }
            self.0.exit(Cause::Failed);
        }
    }
}

/// The end of a run, for each thread that may have to bring it about.
pub(super) struct Finish {
    builder: Arc<ReportBuilder>,
    messages: Arc<Messages>,
    bars: Option<Arc<Bars>>,
    reports: Reports,
    /// Set before the first poem is fetched. Not sooner: the job owns the sink, the sink owns stdout, and stdout ends
    /// the run when it is closed.
    job: OnceLock<Arc<Job>>,
    has_begun: AtomicBool,
    /// Steps that have come to their end since that was last asked.
    steps: AtomicUsize,
}

impl Finish {
    pub(super) fn new(
        builder: Arc<ReportBuilder>,
        messages: Arc<Messages>,
        bars: Option<Arc<Bars>>,
        reports: Reports,
    ) -> Self {
        Self {
            builder,
            messages,
            bars,
            reports,
            job: OnceLock::new(),
            has_begun: AtomicBool::new(false),
            steps: AtomicUsize::new(0),
        }
    }

    /// Takes the job, and ends its run on each of these signals from now on.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn watch(self: &Arc<Self>, job: &Arc<Job>, signals: Signals) -> Result<(), Error> {
        let _ = self.job.set(Arc::clone(job));
        let finish = Arc::clone(self);
        let on_signal = move |signal| {
            finish.exit_when_stuck(signals::exit_status(signal));
            finish.exit(Cause::Signal(signal));
        };
        signals.watch(on_signal).map_err(|error| Error::cannot("start", "a thread", &error))
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// The report as things stand now, with what only the process knows of itself.
    fn report(&self) -> Report {
        let job = self.job.get();
        let mut report = self.builder.report(job.map(|job| job.calls()).unwrap_or_default());
        if self.reports.have_reads() {
            report.peak = job.map(|job| Peak { threads: job.peak_threads(), rss_kb: machine::peak_rss_kb() });
            report.environment = Some(machine::environment());
        }
        report
    }

    /// Ends the process when no step has come to its end for a while.
    fn exit_when_stuck(self: &Arc<Self>, status: u8) {
        let finish = Arc::clone(self);
        let body = move || {
            loop {
                thread::sleep(LAST_WORDS);
                if finish.steps.swap(0, Ordering::Relaxed) == 0 {
                    process::exit(status.into());
                }
            }
        };
        // Without a thread the end has to come by itself.
        let _ = thread::Builder::new().name("deadline".to_owned()).spawn(body);
    }

    /// Ends the run and the process.
    pub(super) fn exit(&self, cause: Cause) -> ! {
        process::exit(self.end(cause).into())
    }

    /// Ends the run. Returns the exit status to the thread that is first, and to the signal thread. Others wait for
    /// ever.
    pub(super) fn end(&self, cause: Cause) -> u8 {
        if self.has_begun.swap(true, Ordering::AcqRel) {
            match cause {
                Cause::Signal(signal) => return signals::exit_status(signal),
                Cause::Complete | Cause::NobodyReads | Cause::Failed => wait_for_ever(),
            }
        }
        let job = self.job.get();
        if let Some(job) = job
            && cause != Cause::Complete
        {
            job.sink().clean_up();
        }
        self.step();
        self.messages.fall_silent();
        self.step();
        if let Some(bars) = &self.bars {
            bars.clear();
        }
        self.step();
        let report = self.report();
        let mut written = self.reports.write(&report);
        self.step();
        if cause != Cause::NobodyReads {
            let why = if cause == Cause::Failed { "; the first failure ended it" } else { "" };
            info!(elapsed_us = report.elapsed_us, "{}{why}", report.tally());
        }
        self.step();
        written &= self.reports.draw(&report, cause);
        match cause {
            Cause::Signal(signal) => signals::exit_status(signal),
            _ if !written => FAILURE,
            Cause::Failed => FAILURE,
            Cause::Complete if report.failed > 0 => FAILURE,
            Cause::Complete | Cause::NobodyReads => SUCCESS,
        }
    }
}

fn wait_for_ever() -> ! {
    loop {
        thread::park();
    }
}

/// The forms in which the report is asked for.
pub(super) struct Reports {
    /// As JSON on stdout.
    pub(super) json: bool,
    /// As JSON in this file.
    pub(super) file: Option<PathBuf>,
    /// As a picture in this file.
    pub(super) timeline: Option<PathBuf>,
    /// As a picture on stderr.
    pub(super) waterfall: bool,
    /// The manner of both.
    pub(super) drawing: DrawingArgs,
}

impl Reports {
    /// Whether one of these forms has an entry for each read.
    pub(super) fn have_reads(&self) -> bool {
        self.json || self.file.is_some() || self.timeline.is_some()
    }

    /// Writes the report itself. Returns whether all of it could be written.
    fn write(&self, report: &Report) -> bool {
        let mut written = true;
        if let Some(path) = &self.file {
            written &= told("report", path.display(), whole_file::write(path, report.to_json().as_bytes()));
        }
        if self.json {
            written &= told("report", "stdout", stdout::try_write_all(report.to_json().as_bytes()));
        }
        written
    }

    /// Draws the pictures. Returns whether all of them that are files could be written.
    fn draw(&self, report: &Report, cause: Cause) -> bool {
        if self.timeline.is_none() && !self.waterfall {
            return true;
        }
        let chart = self.drawing.chart(slice::from_ref(report));
        let mut written = true;
        if let Some(path) = &self.timeline {
            written &= told("picture", path.display(), whole_file::write(path, self.drawing.svg(&chart).as_bytes()));
        }
        if self.waterfall && cause != Cause::NobodyReads {
            // An error of stderr has nobody who could be told of it.
            let _ = io::stderr().write_all(text::draw(&chart, terminal::canvas()).as_bytes());
        }
        written
    }
}

/// Says that a `what` could not be written to its place. Returns whether it could.
fn told(what: &str, place: impl Display, result: io::Result<()>) -> bool {
    result.inspect_err(|error| error!("Cannot write the {what} to {place}: {}", reason(error))).is_ok()
}

//! The clients: one contract (fetch these poems, tell the observers, put the bytes there), four models of waiting.
//!
//! Each model is a file. Each is given a [`Job`], and leads every poem through one state machine without I/O
//! (`fetch.rs`); only the waiting differs:
//!
//! | model | file | who waits |
//! |---|---|---|
//! | [`Model::Blocking`] | `blocking.rs` | the program, in each call |
//! | [`Model::Threads`] | `threads.rs` | one thread a poem, in each call |
//! | [`Model::Select`] | `select.rs` | the program, in one place, for all poems |
//! | [`Model::Async`] | `tasks.rs` | nobody: a runtime wakes one task a poem |

mod bell;
mod blocking;
mod failure;
mod fetch;
mod files;
mod held;
mod http;
mod idle;
mod naming;
mod observer;
mod ordered;
mod report_builder;
mod resolver;
mod scribe;
mod select;
mod sink;
mod source;
mod target;
mod tasks;
#[cfg(test)]
mod tests;
mod threads;
mod transform;
mod turns;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crate::address::Address;
use crate::report::Calls;
pub use failure::Failure;
pub(crate) use fetch::{Fetch, Flow, For, Next, Patience};
pub(crate) use held::IN_MEMORY;
pub use http::HttpOptions;
pub use naming::{Template, TemplateError};
pub use observer::{Event, Observer, Task};
pub use ordered::Order;
pub use report_builder::ReportBuilder;
pub use sink::Sink;
pub use source::{Source, SourceError};
pub use target::{Target, TargetError};
pub use turns::Concurrency;
pub(crate) use turns::Turns;

/// The buffer of one recv(2), in bytes. A large one makes large poems cheap, and costs small ones nothing.
pub(crate) const READ_SIZE: usize = 256 * 1024;

/// A way of waiting for many poems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// One task of a runtime a poem.
    Async,
    /// One poem after another.
    Blocking,
    /// One thread a poem.
    Threads,
    /// One thread, one readiness loop.
    Select,
}

impl Model {
    /// All models, in the order in which a text would explain them.
    pub const ALL: [Self; 4] = [Self::Blocking, Self::Threads, Self::Select, Self::Async];

    /// The name of the model in reports and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Blocking => "blocking",
            Self::Threads => "threads",
            Self::Select => "select",
        }
    }

    /// The file name of the client program of this model.
    pub fn program(self) -> &'static str {
        match self {
            Self::Async => "get-poetry",
            Self::Blocking => "get-poetry-blocking",
            Self::Threads => "get-poetry-threads",
            Self::Select => "get-poetry-select",
        }
    }

    /// How many poems it can have under way at once, if so many may be.
    pub fn concurrency(self, allowed: Concurrency) -> Concurrency {
        match self {
            Self::Blocking => Concurrency::Together(NonZeroUsize::MIN),
            Self::Async | Self::Threads | Self::Select => allowed,
        }
    }

    /// Fetches every poem of the job; returns when each is delivered or has failed.
    ///
    /// # Errors
    /// The model itself cannot work (no descriptor for a runtime, say). The failures of single poems are told to the
    /// observers.
    pub fn run(self, job: &Arc<Job>) -> io::Result<()> {
        job.counts.add_thread();
        match self {
            Self::Async => tasks::run(job),
            Self::Blocking => {
                blocking::run(job);
                Ok(())
            }
            Self::Threads => {
                threads::run(job);
                Ok(())
            }
            Self::Select => select::run(job),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The limits of each fetch: timeouts, retries, concurrency. A timeout of `None` means without limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchLimits {
    /// Timeout of the connection to each address of a name, from when that is tried. `None`: as long as the kernel tries.
    pub connect_timeout: Option<Duration>,
    /// Timeout of the next byte, the first included.
    pub idle_timeout: Option<Duration>,
    /// Timeout of the whole poem, all attempts included.
    pub timeout: Option<Duration>,
    /// The most bytes of a poem, before any transform. A longer one fails.
    pub max_size: Option<u64>,
    /// Attempts after the first. The poem fails with the last one's failure.
    pub retries: u32,
    /// The longest wait for an HTTP server that asks to be left alone for a while.
    pub retry_after_max: Duration,
    /// Poems under way at once. More wait until one of these is settled.
    pub concurrency: Concurrency,
}

/// A transform for every poem, and the server that does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The name of the transform, without a `.`.
    pub transform: String,
    /// The transform server.
    pub address: Address,
}

/// The job of one run of a client: sources, limits, the sink of the poems, the observers; and its time and chance.
pub struct Job {
    sources: Arc<[Source]>,
    limits: FetchLimits,
    http: HttpOptions,
    via: Option<Via>,
    sink: Sink,
    observers: Vec<Arc<dyn Observer>>,
    clock: Instant,
    /// The date at `clock`.
    started: SystemTime,
    seed: u64,
    pub(crate) counts: CallCounts,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("sources", &self.sources).field("limits", &self.limits).finish()
    }
}

impl Job {
    /// A job whose times count from `clock`, and whose random numbers (the jitter of retries) follow from `seed`.
    pub fn new(
        sources: impl Into<Arc<[Source]>>,
        limits: FetchLimits,
        sink: Sink,
        observers: Vec<Arc<dyn Observer>>,
        clock: Instant,
        seed: u64,
    ) -> Self {
        let started = SystemTime::now() - clock.elapsed();
        let (http, counts) = (HttpOptions::default(), CallCounts::default());
        Self { sources: sources.into(), limits, http, via: None, sink, observers, clock, started, seed, counts }
    }

    /// Has poems fetched over HTTP in this way.
    #[must_use]
    pub fn over_http(self, http: HttpOptions) -> Self {
        Self { http, ..self }
    }

    /// Has each poem sent through a transform server. If that fails, the poem is delivered as it came.
    #[must_use]
    pub fn through(self, via: Option<Via>) -> Self {
        Self { via, ..self }
    }

    /// The sink of the poems.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Delivers the whole poems that only wait for others, for a run that ends before all are settled.
    pub fn deliver_whole(&self) {
        for (index, failure) in self.sink.end() {
            self.observe(index, Instant::now(), &Event::Failed(&failure));
        }
    }

    /// Has files written by a scribe, which calls `tell`, if poems go into files at all.
    fn with_scribe(&self, tell: impl Fn(scribe::Word) + Send + 'static) {
        if self.sink.with_scribe(self.sources.len(), tell) {
            self.counts.add_thread();
        }
    }

    /// The calls made so far.
    pub fn calls(&self) -> Calls {
        self.counts.read()
    }

    /// The most threads that fetched, looked up names or wrote files at one time so far.
    pub fn peak_threads(&self) -> u64 {
        self.counts.peak_threads.load(Relaxed) + self.counts.look_ups.load(Relaxed)
    }

    /// The date at the moment `now`.
    fn date(&self, now: Instant) -> SystemTime {
        self.started + now.saturating_duration_since(self.clock)
    }

    /// Tells the observers what happened at the moment `now`.
    fn observe(&self, index: usize, now: Instant, event: &Event<'_>) {
        let at = now.saturating_duration_since(self.clock);
        let task = Task { number: index + 1, source: &self.sources[index] };
        for observer in &self.observers {
            observer.observe(task, at, event);
        }
    }
}

/// The counters behind [`Calls`], and those of threads; shared by all threads of a run.
#[derive(Debug, Default)]
pub(crate) struct CallCounts {
    reads: AtomicU64,
    waits: AtomicU64,
    wakeups: AtomicU64,
    threads: AtomicU64,
    peak_threads: AtomicU64,
    /// The most threads that looked up names for a runtime.
    look_ups: AtomicU64,
}

impl CallCounts {
    fn read(&self) -> Calls {
        Calls { reads: self.reads.load(Relaxed), waits: self.waits.load(Relaxed), wakeups: self.wakeups.load(Relaxed) }
    }

    pub(crate) fn add_read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_wait(&self) {
        self.waits.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_wakeup(&self) {
        self.wakeups.fetch_add(1, Relaxed);
    }

    fn set_waits(&self, waits: u64) {
        self.waits.store(waits, Relaxed);
    }

    /// A thread begins to work for the run.
    pub(crate) fn add_thread(&self) {
        let threads = self.threads.fetch_add(1, Relaxed) + 1;
        self.peak_threads.fetch_max(threads, Relaxed);
    }

    pub(crate) fn end_thread(&self) {
        self.threads.fetch_sub(1, Relaxed);
    }

    /// Besides, so many threads have looked up names at one time.
    fn set_look_ups(&self, threads: usize) {
        self.look_ups.fetch_max(threads as u64, Relaxed);
    }
}

//! A monitor: servers say once a second what they do and what it costs (ZMTP), and browsers show it as it comes
//! (server-sent events).
//!
//! ```text
//!   PUB ──▶ collector ── Sample, or rejected ──▶ sources ──▶ ring ──▶ feed ══▶ browsers
//!                                                              └────▶ record
//! ```
//!
//! | file | |
//! |---|---|
//! | `collector.rs` | a SUB to which servers connect |
//! | `sample.rs` | what they say |
//! | `ring.rs` | the history, as browsers get it |
//! | `feed.rs` | who reads it, and how far |
//! | `pages.rs` | the page, and what is for programs |
//! | `replay.rs` | a record, played again |

mod collector;
mod feed;
mod pages;
mod replay;
mod ring;
mod sample;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::bytes::BytesMut;
use tracing::{Span, warn};

use crate::errors::reason;
use crate::metrics::{Metric, Page as Metrics};
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::sync::lock;
use crate::units::count;
use feed::Feed;
use pages::Pages;
use replay::Replay;
use ring::{Kind, Ring};
use sample::{Rejected, Sample};

pub use replay::BadRecord;

/// The name of the door for browsers.
pub const PAGES: &str = "pages";
/// The name of the door for servers.
pub const COLLECTOR: &str = "collector";

/// How often is looked which sources are gone.
const LOOK: Duration = Duration::from_secs(1);

/// Whoever reads the feed hears something as often as that.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How a monitor is to be.
#[derive(Debug)]
pub struct Config {
    /// For so long samples are kept, and a silent source is one.
    pub keep: Duration,
    /// The most bytes of samples that are kept.
    pub history: usize,
    /// The most sources.
    pub max_sources: usize,
    /// The longest message, in bytes.
    pub max_message: usize,
    /// Names by which it may be called, beside `localhost` and IP addresses.
    pub host_names: Vec<String>,
    /// What its page is called.
    pub title: String,
    /// Where all samples are written to, as lines of JSON.
    pub record: Option<File>,
    /// What is played again: a record, and how fast.
    pub replay: Option<(File, f64)>,
}

/// Collects samples, and shows them.
#[derive(Debug)]
pub struct MonitorServer {
    shared: Arc<Shared>,
    pages: Pages,
    max_message: usize,
    /// Until it is played.
    replay: Mutex<Option<Replay>>,
    threads: Mutex<Option<Threads>>,
}

/// What its threads have, too.
#[derive(Debug)]
struct Shared {
    feed: Feed,
    /// Whoever has samples holds it until everybody has them: they come in one order.
    table: Mutex<Table>,
    clock: Clock,
    keep: Duration,
    max_sources: usize,
    samples: AtomicU64,
    rejected: [AtomicU64; Rejected::ALL.len()],
}

#[derive(Debug)]
struct Table {
    /// By colour.
    sources: BTreeMap<String, Source>,
    record: Option<BufWriter<File>>,
}

#[derive(Debug)]
struct Source {
    at: i64,
    last: String,
}

/// The time as browsers are told it.
#[derive(Debug, Clone, Copy)]
enum Clock {
    System,
    /// That of a record, from when it began here.
    Replay {
        began: Instant,
        from: i64,
        speed: f64,
    },
}

impl Clock {
    /// Milliseconds since 1970.
    fn now(self) -> i64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            #[expect(clippy::cast_possible_truncation, reason = "times of a day, faster")]
            Self::Replay { began, from, speed } => from + (began.elapsed().as_secs_f64() * 1000.0 * speed) as i64,
        }
    }
}

/// The threads of a monitor, until they are told to stop.
#[derive(Debug)]
struct Threads {
    stop: Sender<()>,
    keeper: JoinHandle<()>,
    replay: Option<(Sender<()>, JoinHandle<()>)>,
}

impl MonitorServer {
    /// A monitor that has heard of nobody yet.
    ///
    /// # Errors
    /// The record that it is to play cannot be read, or is none.
    pub fn new(config: Config) -> Result<Self, BadRecord> {
        let replay = config.replay.map(|(file, speed)| Replay::open(file, speed)).transpose()?;
        let clock = match &replay {
            None => Clock::System,
            Some(replay) => Clock::Replay { began: Instant::now(), from: replay.from(), speed: replay.speed() },
        };
        let ring = Ring::new(fastrand::u32(..), config.history, config.keep);
        let shared = Shared {
            feed: Feed::new(ring),
            table: Mutex::new(Table { sources: BTreeMap::new(), record: config.record.map(BufWriter::new) }),
            clock,
            keep: config.keep,
            max_sources: config.max_sources,
            samples: AtomicU64::new(0),
            rejected: Default::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            pages: Pages::new(config.host_names, &config.title),
            max_message: config.max_message,
            replay: Mutex::new(replay),
            threads: Mutex::default(),
        })
    }

    /// Starts the threads that notice who is silent, and play a record.
    fn start_threads(&self) -> io::Result<()> {
        let (stop, stopped) = channel();
        let (shared, span) = (Arc::clone(&self.shared), Span::current());
        let keeps = move || {
            let _in_span = span.enter();
            let mut told = Instant::now();
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
                shared.forget_silent();
                if told.elapsed() >= KEEP_ALIVE {
                    shared.feed.keep_alive();
                    told = Instant::now();
                }
            }
        };
        let keeper = thread::Builder::new().name("keeper".to_owned()).spawn(keeps)?;
        let replay = lock(&self.replay).take().map(|replay| replay.start(&self.shared)).transpose()?;
        *lock(&self.threads) = Some(Threads { stop, keeper, replay });
        Ok(())
    }

    /// Ends its threads, and its record.
    pub fn end(&self) {
        if let Some(Threads { stop, keeper, replay }) = lock(&self.threads).take() {
            // Those that panicked have said so.
            drop(stop);
            let _ = keeper.join();
            if let Some((stop, replay)) = replay {
                drop(stop);
                let _ = replay.join();
            }
        }
        self.shared.flush(&mut lock(&self.shared.table));
    }

    /// All that has been done so far, in a line.
    pub fn totals(&self) -> String {
        let shared = &self.shared;
        let rejected: u64 = shared.rejected.iter().map(|count| count.load(Relaxed)).sum();
        let sources = lock(&shared.table).sources.len();
        format!(
            "{}, {rejected} rejected; {} now, {} kept, {} for {}",
            count(shared.samples.load(Relaxed), "sample"),
            count(sources as u64, "source"),
            count(shared.feed.ring().bytes() as u64, "byte"),
            count(shared.feed.missed(), "missed event"),
            count(shared.feed.readers() as u64, "reader"),
        )
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Metrics, labels: &[(&str, &str)]) {
        self.shared.add_metrics(page, labels);
    }
}

impl Shared {
    fn add_metrics(&self, page: &mut Metrics, labels: &[(&str, &str)]) {
        const SAMPLES: Metric = Metric::counter("poetry_monitor_samples_total", "Samples that sources have sent.");
        const REJECTED: Metric =
            Metric::counter("poetry_monitor_rejected_total", "Messages that are no samples, by why.");
        const SOURCES: Metric = Metric::gauge("poetry_monitor_sources", "Sources that are not silent.");
        const READERS: Metric = Metric::gauge("poetry_monitor_readers", "Browsers that read the feed now.");
        const HISTORY: Metric = Metric::gauge("poetry_monitor_history_bytes", "Bytes of samples that are kept.");
        const MISSED: Metric =
            Metric::counter("poetry_monitor_missed_total", "Events that browsers were too slow for.");
        page.add(SAMPLES, labels, self.samples.load(Relaxed));
        for why in Rejected::ALL {
            page.add(REJECTED, &[labels, &[("why", why.word())]].concat(), self.rejected[why as usize].load(Relaxed));
        }
        page.add(SOURCES, labels, lock(&self.table).sources.len() as u64);
        page.add(READERS, labels, self.feed.readers() as u64);
        page.add(HISTORY, labels, self.feed.ring().bytes() as u64);
        page.add(MISSED, labels, self.feed.missed());
    }

    fn reject(&self, why: Rejected) {
        self.rejected[why as usize].fetch_add(1, Relaxed);
    }

    /// Takes samples that have come just now, and hands them on to everybody. Returns why the last one of those was not
    /// taken that were not.
    fn take(&self, samples: &[Sample], at: i64) -> Option<Rejected> {
        let table = &mut *lock(&self.table);
        let mut rejected = None;
        let mut lines = Vec::new();
        for sample in samples {
            if !table.sources.contains_key(&sample.color) && table.sources.len() >= self.max_sources {
                self.reject(Rejected::Sources);
                rejected = Some(Rejected::Sources);
                continue;
            }
            self.samples.fetch_add(1, Relaxed);
            let json = sample.json(at);
            lines.push((Kind::Sample, json.clone()));
            lines.extend(sample.events.iter().map(|event| (Kind::Mark, sample.mark(at, event))));
            table.sources.insert(sample.color.clone(), Source { at, last: json });
        }
        for (kind, line) in &lines {
            // Marks are recorded as they were said, with their samples.
            if let (Kind::Sample, Some(record)) = (kind, &mut table.record)
                && let Err(error) = writeln!(record, "{line}")
            {
                warn!("Recording no more: {}", reason(&error));
                table.record = None;
            }
        }
        self.publish(at, &lines);
        rejected
    }

    /// Forgets sources that have been silent for too long, and says so.
    fn forget_silent(&self) {
        let table = &mut *lock(&self.table);
        let now = self.clock.now();
        let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        let mut lines = Vec::new();
        table.sources.retain(|color, source| {
            let is_here = now.saturating_sub(source.at) <= keep;
            if !is_here {
                lines.push((Kind::Gone, serde_json::json!({ "color": color }).to_string()));
            }
            is_here
        });
        self.publish(now, &lines);
        self.feed.ring_mut().forget(now);
        self.flush(table);
    }

    /// Adds events to the ring, and gives them to all who wait for them. Whoever calls it holds the table.
    fn publish(&self, at: i64, events: &[(Kind, String)]) {
        if events.is_empty() {
            return;
        }
        let mut ring = self.feed.ring_mut();
        let start = ring.end();
        let mut chunks = BytesMut::new();
        for (kind, json) in events {
            chunks.extend_from_slice(&ring.push(at, *kind, json));
        }
        let end = ring.end();
        drop(ring);
        self.feed.offer(&chunks.freeze(), start, end);
    }

    fn flush(&self, table: &mut Table) {
        if let Some(Err(error)) = table.record.as_mut().map(BufWriter::flush) {
            warn!("Recording no more: {}", reason(&error));
            table.record = None;
        }
    }

    /// The last samples of all sources, as a list.
    fn now(&self) -> String {
        let table = lock(&self.table);
        let all: Vec<&str> = table.sources.values().map(|source| &*source.last).collect();
        format!("[{}]\n", all.join(",\n "))
    }

    /// What a reader gets first, and where it goes on.
    fn greet(&self, last: Option<&str>) -> (String, u64) {
        let sources = lock(&self.table).sources.len();
        let ring = self.feed.ring();
        let (next, missed) = ring.resume(last);
        let hello = serde_json::json!({
            "boot": ring.boot, "now": self.clock.now(), "keep_s": self.keep.as_secs(), "sources": sources,
        });
        let mut text = format!("retry: 1000\n\nevent: hello\ndata: {hello}\n\n");
        if missed > 0 {
            text.push_str(&feed::missed(missed));
        }
        (text, next)
    }
}

impl Handler for MonitorServer {
    /// Chunks have a last one, and a reader without chunks waits for no end.
    const EOF_ENDS_MESSAGE: bool = false;

    fn start(&self) -> io::Result<()> {
        self.start_threads()
    }

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        match connection.door() {
            COLLECTOR => Box::pin(collector::collect(&self.shared, self.max_message, connection)).await,
            _ => self.pages.serve(&self.shared, connection).await,
        }
    }
}

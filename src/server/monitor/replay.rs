//! A record, played again: the same page in class, in a test, in a report of something that went wrong.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Lines};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{Span, info, warn};

use super::Shared;
use super::sample::{Sample, recorded_at};
use crate::errors::reason;
use crate::units::count;

/// Why a file is no record.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// It cannot be read.
    #[error("{}", reason(.0))]
    Read(#[from] io::Error),
    /// It has no lines.
    #[error("there is no sample in it")]
    Empty,
    /// Its first line is no sample with a time.
    #[error("its first line is no sample: {0}")]
    First(String),
}

/// A record that is to be played.
#[derive(Debug)]
pub(super) struct Replay {
    lines: Lines<BufReader<File>>,
    first: String,
    from: i64,
    speed: f64,
}

impl Replay {
    /// Reads the beginning of a record.
    pub(super) fn open(file: File, speed: f64) -> Result<Self, BadRecord> {
        let mut lines = BufReader::new(file).lines();
        let first = lines.next().ok_or(BadRecord::Empty)??;
        if let Err(why) = Sample::parse(first.as_bytes()) {
            return Err(BadRecord::First(why.to_string()));
        }
        let from = recorded_at(&first).ok_or_else(|| BadRecord::First("it has no time (at)".to_owned()))?;
        Ok(Self { lines, first, from, speed })
    }

    /// When it begins, in milliseconds since 1970.
    pub(super) fn from(&self) -> i64 {
        self.from
    }

    pub(super) fn speed(&self) -> f64 {
        self.speed
    }

    /// Plays it on a thread, until it ends or the sender is dropped.
    pub(super) fn start(self, shared: &Arc<Shared>) -> io::Result<(Sender<()>, JoinHandle<()>)> {
        let (stop, stopped) = channel::<()>();
        let (shared, span) = (Arc::clone(shared), Span::current());
        let plays = move || {
            let _in_span = span.enter();
            let (mut played, mut skipped) = (0, 0);
            for line in [Ok(self.first)].into_iter().chain(self.lines) {
                let line = match line {
                    Ok(line) => line,
                    Err(error) => {
                        warn!("The record cannot be read on: {}", reason(&error));
                        break;
                    }
                };
                let (Ok(sample), Some(at)) = (Sample::parse(line.as_bytes()), recorded_at(&line)) else {
                    skipped += 1;
                    continue;
                };
                let early = at.saturating_sub(shared.clock.now());
                #[expect(clippy::cast_precision_loss, reason = "times of a day")]
                let wait = Duration::try_from_secs_f64(early as f64 / 1000.0 / self.speed).unwrap_or_default();
                if !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
                    return;
                }
                shared.take(&[sample], at);
                played += 1;
            }
            let (played, skipped) = (count(played, "sample"), count(skipped, "line"));
            info!("Played all: {played}; {skipped} that are none");
        };
        Ok((stop, thread::Builder::new().name("replay".to_owned()).spawn(plays)?))
    }
}

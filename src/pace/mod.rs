//! When to send how much, and how it ends: plain values, computed without I/O.
//!
//! A [`Plan`] is what a person asks of a server: how each connection is treated. A [`Treatment`] is that of one of
//! them; its [`Schedule`] is everything that will happen, as a list of [`Step`]s with their times. A server only
//! takes a [`Cursor`] through it, blocking or async:
//!
//! ```text
//! num_bytes = 10, delay = 100ms, a poem of 25 bytes
//!
//!   0ms          100ms        200ms
//!   |  0..10     |  10..20    |  20..25, end: fin
//!
//! the same, with first_byte_delay = 1s and cut = rst at 15 bytes
//!
//!   1000ms       1100ms
//!   |  0..10     |  10..15, end: rst
//! ```
//!
//! Chance (jitter) is drawn from the plan's seed and the connection's number, so that the same plan gives every
//! connection the same schedule, in every server and on every machine.

mod cursor;
mod plan;
mod prng;
pub mod recording;
mod schedule;

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cursor::{Cursor, Next};
pub use plan::Plan;
pub use schedule::Schedule;

/// How fast a poem is given out, and how it ends.
///
/// The default is the whole poem at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// From accept to the first byte.
    pub first_byte_delay: Duration,
    /// Bytes in a piece; the last one may be shorter.
    pub num_bytes: NonZeroUsize,
    /// The pause between one piece and the next.
    pub tempo: Tempo,
    /// Each pause, and the delay of the first byte if there is one, is so much shorter or longer at most; each length
    /// between is as likely as the others. No pause is shorter than nothing.
    pub jitter: Duration,
    /// An end before the end, or in place of it.
    pub cut: Option<Cut>,
}

/// What decides how long a pause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tempo {
    /// So long, from the start of one piece to the start of the next. The end follows the last piece at once.
    Delay(Duration),
    /// As long as a piece takes at so many bytes a second. The last piece takes its time, too: a poem of `n` bytes
    /// takes `n / rate`.
    Rate(NonZeroU64),
}

/// An end that does not wait for the end of the poem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// When.
    pub at: CutAt,
    /// How.
    pub how: Ending,
}

/// When a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutAt {
    /// When so many bytes are sent. A shorter poem ends well.
    Bytes(usize),
    /// So long after accept, whatever the client has taken till then.
    Time(Duration),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// The end of the stream: to the client, what it has is the poem.
    Fin,
    /// A reset: what the client has is no poem.
    Rst,
    /// None: silence for ever.
    Hang,
}

/// How one connection is treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treatment {
    /// As a pace has it.
    Paced(Pace),
    /// As it was once before.
    Replayed(Replay),
}

/// What was sent on a connection. Of a shorter poem what is there is sent; the rest of a longer one is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// When and how many bytes, in order of time, which is counted from accept.
    pub pieces: Vec<(Duration, usize)>,
    /// When and how it ended.
    pub end: (Duration, Ending),
}

/// One thing to do on a connection, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Counted from the moment the connection was accepted.
    pub at: Duration,
    /// What to do then.
    pub action: Action,
}

/// What a server does at one moment of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes of the poem.
    Send(Range<usize>),
    /// End the connection. Always the last step.
    End(Ending),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_byte_delay: Duration::ZERO,
            num_bytes: NonZeroUsize::MAX,
            tempo: Tempo::Delay(Duration::ZERO),
            jitter: Duration::ZERO,
            cut: None,
        }
    }
}

impl Pace {
    /// A reset as soon as the connection is accepted.
    pub fn failure() -> Self {
        Self { cut: Some(Cut { at: CutAt::Time(Duration::ZERO), how: Ending::Rst }), ..Self::default() }
    }

    /// How long a poem of `len` bytes takes, from accept to its end, if nothing varies, nobody dawdles and nothing is
    /// cut.
    pub fn total(&self, len: usize) -> Duration {
        let body = match self.tempo {
            Tempo::Delay(delay) => {
                let pauses = len.div_ceil(self.num_bytes.get()).saturating_sub(1);
                to_nanos(delay).saturating_mul(pauses as u64)
            }
            Tempo::Rate(rate) => time_of(len, rate),
        };
        self.first_byte_delay.saturating_add(Duration::from_nanos(body))
    }

    /// How many bytes of a poem of `len` are sent at most, and how the connection ends when they are.
    fn goal(&self, len: usize) -> (usize, Ending) {
        match self.cut {
            Some(Cut { at: CutAt::Bytes(bytes), how }) if bytes <= len => (bytes, how),
            _ => (len, Ending::Fin),
        }
    }

    /// The pause after the piece that ends at the byte `end`.
    fn pause(&self, end: usize) -> u64 {
        match self.tempo {
            Tempo::Delay(delay) => to_nanos(delay),
            // From exact times, so that what is rounded off does not add up.
            Tempo::Rate(rate) => {
                let start = end - (end - 1) % self.num_bytes - 1;
                time_of(end, rate) - time_of(start, rate)
            }
        }
    }
}

impl Treatment {
    /// When the connection is cut, whatever else happens, and how.
    fn deadline(&self) -> Option<(Duration, Ending)> {
        match self {
            Self::Paced(Pace { cut: Some(Cut { at: CutAt::Time(time), how }), .. }) => Some((*time, *how)),
            _ => None,
        }
    }
}

/// The time `bytes` take at so many a second, in nanoseconds.
fn time_of(bytes: usize, rate: NonZeroU64) -> u64 {
    let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate.get());
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Enough for five centuries; what is longer is as long.
fn to_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

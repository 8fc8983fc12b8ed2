//! Traffic shaping as plain values: when to send how much, and how a connection ends. No I/O, and no clock of its own.
//!
//! A [`Plan`] maps connection numbers to profiles: a [`Pace`], or the [`Replay`] of a recording. From a profile follows
//! the [`Schedule`] of one connection, its [`Step`]s and their times; a [`Cursor`] takes a sender through it, blocking
//! or async, and says at each moment what to do [`Next`]:
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
//! The length of what is sent need not be known from the start. A sender says how many bytes are *available*, counted
//! from the first, and whether these are *all*; a poem in memory is all available at once, a stream that is passed on
//! becomes available bit by bit. Pieces keep their offsets and times however the bytes arrive:
//!
//! ```text
//! num_bytes = 10, delay = 100ms, a stream of 25 bytes: 4 are there at 0ms, 12 at 30ms, all at 130ms
//!
//!   0ms    30ms     100ms    130ms     200ms
//!   | 0..4 | 4..10  | 10..12 | 12..20  | 20..25, end: fin
//! ```
//!
//! Jitter is drawn from the plan's seed and the connection's number: the same plan gives a connection the same
//! schedule, in every server and on every machine.

mod cursor;
mod deck;
mod line;
mod plan;
mod prng;
pub mod recording;
mod schedule;

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cursor::{Cursor, Next};
pub use deck::{Corruption, Deck};
pub use line::Line;
pub(crate) use line::late;
pub use plan::Plan;
pub(crate) use prng::Draws;
pub use schedule::Schedule;

/// The longest time of a schedule, five centuries: longer ones are as long, and a wait without a limit is this one.
pub const FOREVER: Duration = Duration::from_nanos(u64::MAX);

/// A traffic profile: how fast a stream is sent, and how it ends.
///
/// The default sends everything at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Time from accept(2) to the first byte.
    pub first_byte_delay: Duration,
    /// Bytes in a piece; the last one may be shorter.
    pub num_bytes: NonZeroU64,
    /// The pause between one piece and the next.
    pub tempo: Tempo,
    /// Amplitude of the jitter of each pause, and of the delay of the first byte if there is one: uniformly
    /// distributed, and cut off at zero.
    pub jitter: Duration,
    /// An end before the end of the stream, or in place of it.
    pub cut: Option<Cut>,
}

/// What decides how long a pause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tempo {
    /// A fixed time from the start of one piece to the start of the next. The end follows the last piece at once.
    Delay(Duration),
    /// Bytes a second: a pause is as long as its piece takes. The last piece takes its time, too: a poem of `n` bytes
    /// takes `n / rate`.
    Rate(NonZeroU64),
}

/// An end that does not wait for the end of the stream.
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
    /// As soon as this many bytes are sent. A shorter stream ends well.
    Bytes(u64),
    /// This long after accept(2), whatever the peer has taken till then.
    Time(Duration),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// FIN, the end of the stream: to the client, what it has is the poem.
    Fin,
    /// RST, a reset: what the client has is no poem.
    Rst,
    /// None: silence for ever.
    Hang,
}

/// How a peer leaves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Departure {
    /// FIN: it has closed its side, or all of the connection.
    Close,
    /// RST: it has reset the connection, or is gone altogether.
    Reset,
}

/// Where the schedule of one connection comes from.
#[derive(Debug)]
enum Profile {
    /// Computed from a pace.
    Paced(Pace),
    /// Replayed from a recording.
    Replayed(Replay),
}

/// The recorded sends and the end of one connection, to be repeated. Of a shorter stream what is there is sent; the
/// rest of a longer one is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Time since accept(2) and number of bytes of each send, in order of time.
    pub pieces: Vec<(Duration, NonZeroUsize)>,
    /// When and how it ended.
    pub end: (Duration, Ending),
}

/// One action on a connection, and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Time since accept(2), if the sender loses none.
    pub at: Duration,
    /// What to do then.
    pub action: Action,
}

/// What a sender does at one moment of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send the bytes of the stream at these offsets. Empty while none of the piece are available.
    Send(Range<u64>),
    /// End the connection. Always the last step.
    End(Ending),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_byte_delay: Duration::ZERO,
            num_bytes: NonZeroU64::MAX,
            tempo: Tempo::Delay(Duration::ZERO),
            jitter: Duration::ZERO,
            cut: None,
        }
    }
}

impl Pace {
    /// A reset right after accept(2).
    pub fn failure() -> Self {
        Self { cut: Some(Cut { at: CutAt::Time(Duration::ZERO), how: Ending::Rst }), ..Self::default() }
    }

    /// The duration of a poem of `len` bytes, from accept(2) to its end, without jitter, cut, or a client that dawdles.
    pub fn total(&self, len: u64) -> Duration {
        let body = match self.tempo {
            Tempo::Delay(delay) => {
                let pauses = len.div_ceil(self.num_bytes.get()).saturating_sub(1);
                to_nanos(delay).saturating_mul(pauses)
            }
            Tempo::Rate(rate) => time_of(len, rate),
        };
        self.first_byte_delay.saturating_add(Duration::from_nanos(body))
    }

    /// The pause after the piece that ends at offset `end`, in nanoseconds.
    fn pause(&self, end: u64) -> u64 {
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

impl Profile {
    /// Time since accept(2) and kind of a cut by time, which comes whatever else happens.
    fn deadline(&self) -> Option<(Duration, Ending)> {
        match self {
            Self::Paced(Pace { cut: Some(Cut { at: CutAt::Time(time), how }), .. }) => Some((*time, *how)),
            _ => None,
        }
    }
}

/// The time that `bytes` take at this rate, in nanoseconds.
fn time_of(bytes: u64, rate: NonZeroU64) -> u64 {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// A duration in nanoseconds, at most [`FOREVER`].
fn to_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

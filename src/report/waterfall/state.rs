//! What a poem is doing, and what may become of it, in a waterfall.

use crate::report::Status;
use crate::units::Micros;

/// The state of a poem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The turn of the poem has not come.
    NotStarted,
    /// An attempt has failed, and the next one has not begun.
    Pausing,
    /// From the turn of the poem, or the beginning of another attempt, to the connection: name look-ups included.
    Connecting,
    /// Connected, and no byte has come.
    Waiting,
    /// From the first byte on.
    Receiving,
    /// The poem is whole, and at the transform server.
    Transforming,
    /// The poem is whole, and waits for the disk, or for whoever reads.
    Delivering,
}

/// A phase: a stretch of time in which a poem was in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// The state of the poem.
    pub state: State,
    /// The beginning, from the start of the run.
    pub start: Micros,
    /// The end, not before `start`.
    pub end: Micros,
}

/// How a poem ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The poem is whole.
    Done,
    /// The connection broke.
    Cut,
    /// A timeout passed.
    TimedOut,
    /// The client was stopped.
    Interrupted,
    /// Anything else: refused, unreachable, not found, truncated, not to be written.
    Failed,
}

impl State {
    /// All states, from where nothing has come of a poem to where it is nearly there.
    pub const ALL: [Self; 7] = [
        Self::NotStarted,
        Self::Pausing,
        Self::Connecting,
        Self::Waiting,
        Self::Receiving,
        Self::Transforming,
        Self::Delivering,
    ];

    /// The name of the state in legends.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotStarted => "not started",
            Self::Pausing => "pausing",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Receiving => "receiving",
            Self::Transforming => "transforming",
            Self::Delivering => "delivering",
        }
    }
}

impl Outcome {
    /// All outcomes, as legends list them.
    pub const ALL: [Self; 5] = [Self::Done, Self::Cut, Self::TimedOut, Self::Interrupted, Self::Failed];

    /// The name of the outcome in legends.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cut => "reset",
            Self::TimedOut => "timed out",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }

    pub(super) fn of(status: Status) -> Self {
        match status {
            Status::Ok => Self::Done,
            Status::Reset => Self::Cut,
            Status::Timeout => Self::TimedOut,
            Status::Interrupted => Self::Interrupted,
            Status::NotFound | Status::Truncated | Status::Refused | Status::Unreachable | Status::Error => {
                Self::Failed
            }
        }
    }
}

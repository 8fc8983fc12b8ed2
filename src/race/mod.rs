//! A race of the four clients, and of others, against the same servers: child processes, in turns, and the cost of each.
//!
//! The children measure their time, their calls and their memory themselves, in their reports; other costs are read from
//! getrusage(2) and the clocks of processes ([`child`]). Of clients that are not ours ([`foreign`], [`theirs`]) the tree of
//! processes is watched, and the report is made by whoever saw their connections. Everything else is made of plain data: a [`Run`] is one row of the
//! ledger, a [`Summary`] what the runs of one model come to, a [`Difference`] what two models have shown beside each
//! other; [`assertion`] judges them.

pub mod assertion;
pub mod child;
mod cost;
mod difference;
pub mod estimate;
mod failures;
#[cfg(test)]
mod fixtures;
pub mod foreign;
pub mod junit;
mod racer;
mod rotation;
mod spawn;
pub mod statistics;
mod summary;
pub mod theirs;
pub mod tree;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::report::{Report, Status};

pub use self::cost::Cost;
pub use self::difference::{Difference, differences, sentence};
pub use self::failures::folded;
pub use self::racer::{Name, Racer};
pub use self::rotation::rotated;
pub use self::summary::{CONFIDENCE, Standing, Summary, median_runs, summaries};

/// The variable that tells a client that it runs in a race: the race's process, which it ends with.
pub const VARIABLE: &str = "POETRY_RACE";

/// One run of one client: one row of the ledger.
#[derive(Debug, Clone)]
pub struct Run {
    /// The round, from 1.
    pub round: usize,
    /// The place in its round, from 1.
    pub position: usize,
    /// Who ran.
    pub model: Racer,
    /// How many poems it was to get.
    pub poems: usize,
    /// The report of the client; or of its connections, which may be more than there are poems.
    pub report: Report,
    /// The cost of its processes.
    pub cost: Cost,
    /// Why it does not count, if it does not and that is no poem: the client itself failed.
    pub failure: Option<String>,
    /// Processes that a client which is not ours has left behind, and that were ended.
    pub left_behind: usize,
}

impl Run {
    /// Whether it counts for times and costs: all its poems arrived, and the client has said that all is well.
    pub fn counts(&self) -> bool {
        self.missing() == 0 && self.failure.is_none()
    }

    /// The poems that did not arrive.
    pub fn missing(&self) -> usize {
        let arrived = self.report.tasks.iter().take(self.poems).filter(|task| task.status == Status::Ok).count();
        self.poems - arrived
    }
}

/// One object, without the poems.
impl Serialize for Run {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("Run", 12)?;
        row.serialize_field("poems", &self.poems)?;
        row.serialize_field("round", &self.round)?;
        row.serialize_field("position", &self.position)?;
        row.serialize_field("model", &self.model)?;
        row.serialize_field("started", &humantime::format_rfc3339_micros(self.report.started).to_string())?;
        row.serialize_field("counted", &self.counts())?;
        row.serialize_field("ok", &(self.poems - self.missing()))?;
        row.serialize_field("failed", &self.missing())?;
        row.serialize_field("failure", &self.failure)?;
        row.serialize_field("left_behind", &self.left_behind)?;
        row.serialize_field("time_us", &self.report.elapsed_us)?;
        row.serialize_field("cost", &self.cost)?;
        row.end()
    }
}

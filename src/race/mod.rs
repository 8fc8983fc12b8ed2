//! A race of the four clients against the same servers: child processes, in turns, and the cost of each.
//!
//! The children measure their time, their calls and their memory themselves, in their reports; other costs are read from
//! getrusage(2) and the clocks of processes ([`child`]). Everything else is made of plain data: a [`Run`] is one row of the
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
pub mod junit;
mod rotation;
pub mod statistics;
mod summary;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::client::Model;
use crate::report::Report;

pub use self::cost::Cost;
pub use self::difference::{Difference, differences, sentence};
pub use self::failures::folded;
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
    /// The model of waiting.
    pub model: Model,
    /// The report of the client.
    pub report: Report,
    /// The cost of the process.
    pub cost: Cost,
}

impl Run {
    /// Whether it counts for times and costs: all its poems arrived.
    pub fn counts(&self) -> bool {
        self.report.failed == 0
    }
}

/// One object, without the poems.
impl Serialize for Run {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("Run", 10)?;
        row.serialize_field("poems", &self.report.tasks.len())?;
        row.serialize_field("round", &self.round)?;
        row.serialize_field("position", &self.position)?;
        row.serialize_field("model", self.model.name())?;
        row.serialize_field("started", &humantime::format_rfc3339_micros(self.report.started).to_string())?;
        row.serialize_field("counted", &self.counts())?;
        row.serialize_field("ok", &self.report.ok)?;
        row.serialize_field("failed", &self.report.failed)?;
        row.serialize_field("time_us", &self.report.elapsed_us)?;
        row.serialize_field("cost", &self.cost)?;
        row.end()
    }
}

//! What a lane of a waterfall is: a poem that a client wants, or a connection that a server has.

use crate::report::{Report, TaskReport};
use crate::units::count;

/// What a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A poem, in the report of a client.
    Poem,
    /// A connection of any client, as its server has recorded it. Its `error` says in a few words how it ended, if not
    /// well.
    Connection,
}

impl Subject {
    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Poem => "poem",
            Self::Connection => "connection",
        }
    }

    /// What a lane is called in sentences.
    pub(super) fn called(self, task: &TaskReport) -> String {
        match (self, &task.name) {
            (Self::Connection, _) => format!("Connection {}, of {},", task.task, task.address),
            (Self::Poem, Some(name)) => format!("Poem {}, {name} from {},", task.task, task.address),
            (Self::Poem, None) => format!("Poem {}, from {},", task.task, task.address),
        }
    }

    /// How it ended, if that is more than a status can say.
    pub(super) fn why(self, task: &TaskReport) -> Option<&str> {
        task.error.as_deref().filter(|_| self == Self::Connection)
    }

    /// The tally, with the time written as `elapsed`.
    pub(super) fn tally(self, report: &Report, elapsed: &str) -> String {
        let all = count(report.tasks.len() as u64, "connection");
        match self {
            Self::Poem => report.tally_in(elapsed),
            Self::Connection if report.ok == report.tasks.len() => format!("Served {all} in {elapsed}"),
            Self::Connection => format!("Served {} of {all} in {elapsed}", report.ok),
        }
    }
}

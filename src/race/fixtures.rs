//! Runs for tests.

use super::{Cost, Racer, Run};
use crate::report::fixtures::{report, task};
use crate::units::Micros;

/// A run of which all poems arrived, each from when to when.
pub(super) fn run(round: usize, model: impl Into<Racer>, ends: &[(Micros, Micros)]) -> Run {
    let tasks: Vec<_> = ends.iter().enumerate().map(|(index, (start, end))| task(index + 1, *start, *end)).collect();
    let (model, poems) = (model.into(), ends.len());
    let mut report = report("", tasks);
    report.model = model.to_string().into();
    Run { round, position: 1, model, poems, report, cost: Cost::default(), failure: None, left_behind: 0 }
}

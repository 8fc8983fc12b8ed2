//! Runs for tests.

use super::{Cost, Run};
use crate::client::Model;
use crate::report::fixtures::{report, task};
use crate::units::Micros;

/// A run of which all poems arrived, each from when to when.
pub(super) fn run(round: usize, model: Model, ends: &[(Micros, Micros)]) -> Run {
    let tasks = ends.iter().enumerate().map(|(index, (start, end))| task(index + 1, *start, *end)).collect();
    Run { round, position: 1, model, report: report(model.name(), tasks), cost: Cost::default() }
}

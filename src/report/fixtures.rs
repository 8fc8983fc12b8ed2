//! Reports as fixtures for tests, in this room and in those that summarize reports.

use std::time::SystemTime;

use super::{Calls, Events, Report, Status, TaskReport};
use crate::units::Micros;

/// A poem that was done in equal thirds of connecting, waiting and receiving.
pub(crate) fn task(number: usize, start: Micros, end: Micros) -> TaskReport {
    let mut events = Events::default();
    let third = (end - start) / 3;
    events.push(start + 2 * third, 10);
    events.push(end, 20);
    TaskReport {
        task: number,
        address: format!("127.0.0.1:{}", 9_999 + number),
        name: None,
        status: Status::Ok,
        error: None,
        limit: None,
        bytes: 30,
        attempts: 1,
        start_us: Some(start),
        connected_us: Some(start + third),
        first_byte_us: Some(start + 2 * third),
        whole_us: None,
        end_us: Some(end),
        events,
        transform: None,
        http: None,
    }
}

pub(crate) fn report(model: &'static str, tasks: Vec<TaskReport>) -> Report {
    let ok = tasks.iter().filter(|task| task.status == Status::Ok).count();
    Report {
        schema: Report::SCHEMA,
        model: model.into(),
        started: SystemTime::UNIX_EPOCH,
        elapsed_us: tasks.iter().filter_map(|task| task.end_us).max().unwrap_or(0),
        bound_us: None,
        ok,
        failed: tasks.len() - ok,
        calls: Calls::default(),
        peak: None,
        environment: None,
        tasks,
    }
}

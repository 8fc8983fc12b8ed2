//! Reports as fixtures for tests, in this room and in those that summarize reports.

use std::time::SystemTime;

use super::{Attempt, Attempts, Calls, Events, Report, Status, TaskReport};
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
        attempt_us: Some(start),
        connected_us: Some(start + third),
        first_byte_us: Some(start + 2 * third),
        whole_us: None,
        end_us: Some(end),
        events,
        earlier: Attempts::default(),
        transform: None,
        http: None,
    }
}

/// An attempt that was reset, in equal thirds of connecting, waiting and receiving.
pub(crate) fn attempt(number: u32, start: Micros, end: Micros) -> Attempt {
    let third = (end - start) / 3;
    let mut events = Events::default();
    events.push(start + 2 * third, 30);
    Attempt {
        attempt: number,
        start_us: start,
        connected_us: Some(start + third),
        first_byte_us: Some(start + 2 * third),
        end_us: end,
        status: Status::Reset,
        error: Some("connection reset".to_owned()),
        limit: None,
        bytes: 30,
        events,
    }
}

/// A poem that was got with its last attempt, in equal thirds of that; each of the others had as much time, and a pause
/// before the next one that is a third as long.
pub(crate) fn retried(number: usize, attempts: u32, third: Micros) -> TaskReport {
    let (mut earlier, mut start) = (Attempts::default(), 0);
    for number in 1..attempts {
        earlier.push(attempt(number, start, start + 3 * third));
        start += 4 * third;
    }
    TaskReport { start_us: Some(0), attempts, earlier, ..task(number, start, start + 3 * third) }
}

pub(crate) fn report(model: &'static str, tasks: Vec<TaskReport>) -> Report {
    let ok = tasks.iter().filter(|task| task.status == Status::Ok).count();
    Report {
        schema: Report::SCHEMA,
        model: model.into(),
        simulated: None,
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

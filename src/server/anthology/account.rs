//! The account of a view: the report of its fetches, as clients have it, and its picture.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::record::{Change, Record};
use super::standing::Standing;
use super::store::Store;
use super::view::{Seen, View};
use crate::report::waterfall::{Chart, svg};
use crate::report::{Calls, Events, Report, Status, TaskReport, TransformReport};
use crate::units::{Micros, micros};

/// What a lane says of a source that was not fetched.
const FROM_MEMORY: &str = "from memory";
/// And of one for which nobody waits any longer.
pub(super) const LATE: &str = "still on its way";

/// So many fetches there are at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtOnce {
    pub(super) in_all: usize,
    pub(super) per_host: usize,
}

/// The report of a view, with so many fetches at once.
pub(super) fn report(view: &View, at_once: AtOnce) -> Report {
    let elapsed = view.over().saturating_duration_since(view.begun);
    let clock = Clock { begun: view.begun, elapsed_us: micros(elapsed) };
    let tasks: Vec<TaskReport> = view.seen().iter().map(|seen| clock.task(seen)).collect();
    let ok = tasks.iter().filter(|task| task.status == Status::Ok).count();
    Report {
        schema: Report::SCHEMA,
        model: "async".into(),
        simulated: None,
        started: view.started,
        elapsed_us: clock.elapsed_us,
        bound_us: bound(view.seen(), &tasks, at_once),
        ok,
        failed: tasks.len() - ok,
        calls: Calls::default(),
        peak: None,
        environment: None,
        tasks,
    }
}

/// The picture of a report of a view, as a part of a page.
pub(super) fn picture(view: &View, report: &Report) -> String {
    let mut chart = Chart::of(std::slice::from_ref(report));
    for panel in &mut chart.panels {
        "this page".clone_into(&mut panel.title);
        for (lane, seen) in panel.lanes.iter_mut().zip(view.seen()) {
            match seen.standing {
                Some(Standing::Fresh(_) | Standing::Aged(..)) => FROM_MEMORY.clone_into(&mut lane.note),
                Some(Standing::Late(_)) => LATE.clone_into(&mut lane.note),
                Some(Standing::Come(_) | Standing::Failed(..)) | None => {}
            }
        }
    }
    svg::draw_in_page(&chart)
}

/// The time of a view.
struct Clock {
    begun: Instant,
    elapsed_us: Micros,
}

impl Clock {
    /// A moment in the time of the view. What was before it began is its beginning.
    fn at(&self, moment: Instant) -> Micros {
        micros(moment.saturating_duration_since(self.begun)).min(self.elapsed_us)
    }

    fn task(&self, seen: &Seen) -> TaskReport {
        let standing = seen.standing.as_ref();
        let task = match standing {
            Some(Standing::Fresh(edition) | Standing::Aged(edition, _)) => TaskReport {
                bytes: edition.bytes.len() as u64,
                start_us: Some(0),
                whole_us: Some(0),
                end_us: Some(0),
                ..empty(&seen.store)
            },
            Some(Standing::Come(edition)) => {
                let task = self.of(&edition.record, &seen.store);
                TaskReport { whole_us: task.end_us, ..task }
            }
            Some(Standing::Failed(trouble, record)) => TaskReport {
                status: trouble.status(),
                error: Some(trouble.to_string()),
                limit: trouble.limit(),
                ..self.of(record, &seen.store)
            },
            Some(Standing::Late(record)) => {
                let task = self.of(record, &seen.store);
                let end_us = task.start_us.and(Some(self.elapsed_us));
                TaskReport { status: Status::Interrupted, error: Some(LATE.to_owned()), end_us, ..task }
            }
            None => TaskReport { status: Status::Interrupted, ..empty(&seen.store) },
        };
        TaskReport { name: seen.store.source.name.clone(), ..task }
    }

    fn of(&self, record: &Record, store: &Store) -> TaskReport {
        let at = |moment: Option<Instant>| moment.map(|moment| self.at(moment));
        let mut events = Events::default();
        for &(since, bytes) in record.reads.entries() {
            events.push(self.at(record.begun + Duration::from_micros(since)), bytes);
        }
        TaskReport {
            bytes: record.bytes,
            attempts: record.turn.is_some().into(),
            start_us: at(record.turn),
            attempt_us: at(record.turn),
            connected_us: at(record.connected),
            first_byte_us: at(record.first_byte),
            end_us: at(record.ended),
            events,
            transform: record.change.as_ref().map(|change| Box::new(self.change(change))),
            ..empty(store)
        }
    }

    fn change(&self, change: &Change) -> TransformReport {
        let (status, error, limit) = match &change.failure {
            None => (Status::Ok, None, None),
            Some((status, error, limit)) => (*status, Some(error.clone()), *limit),
        };
        TransformReport {
            name: change.transform.name.clone(),
            address: change.transform.via.to_string(),
            status,
            error,
            limit,
            bytes: change.bytes,
            start_us: self.at(change.begun),
            connected_us: change.connected.map(|moment| self.at(moment)),
            end_us: change.ended.map(|moment| self.at(moment)),
        }
    }
}

fn empty(store: &Store) -> TaskReport {
    TaskReport { name: None, status: Status::Ok, ..TaskReport::unbegun(store.number, store.source.place.to_string()) }
}

/// The least time in which these could have come, each taking as long as it did, and so many at once.
fn bound(seen: &[Seen], tasks: &[TaskReport], at_once: AtOnce) -> Option<Micros> {
    let (mut hosts, mut longest, mut sum) = (HashMap::new(), 0, 0);
    for (seen, task) in seen.iter().zip(tasks) {
        let took = task.end_us? - task.start_us?.min(task.end_us?);
        longest = longest.max(took);
        sum += took;
        *hosts.entry(seen.store.source.host()).or_insert(0) += took;
    }
    let by_host = hosts.into_values().map(|all: Micros| all / (at_once.per_host.max(1) as u64)).max();
    Some(longest.max(by_host.unwrap_or(0)).max(sum / (at_once.in_all.max(1) as u64)))
}

//! The observer that makes a [`Report`] of the events of a run.

use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::source::Source;
use super::turns::Concurrency;
use super::{Event, Failure, Model, Observer, Task, Via};
use crate::report::{Attempt, Calls, HttpReport, Report, Simulated, Status, TaskReport, TransformReport};
use crate::sync::lock;
use crate::units::{Micros, micros};

/// The observer that makes the [`Report`].
#[derive(Debug)]
pub struct ReportBuilder {
    model: Model,
    started: SystemTime,
    clock: Instant,
    with_events: bool,
    sources: Arc<[Source]>,
    concurrency: Concurrency,
    /// One entry a poem, with the status `interrupted` until it is settled.
    tasks: Mutex<Vec<TaskReport>>,
}

impl ReportBuilder {
    /// A builder for one run that begins now, at `clock`. Without `with_events` single reads are not kept.
    pub fn new(
        model: Model,
        sources: impl Into<Arc<[Source]>>,
        concurrency: Concurrency,
        clock: Instant,
        with_events: bool,
    ) -> Self {
        let sources = sources.into();
        let unheard_of = |(index, source): (usize, &Source)| TaskReport {
            http: source.url().map(|_| HttpReport::default()),
            ..TaskReport::unbegun(index + 1, source.to_string())
        };
        Self {
            model,
            started: SystemTime::now(),
            clock,
            with_events,
            concurrency: model.concurrency(concurrency),
            tasks: Mutex::new(sources.iter().enumerate().map(unheard_of).collect()),
            sources,
        }
    }

    /// Has the report call the poems by their names, in the same order.
    #[must_use]
    pub fn named(self, names: impl IntoIterator<Item = Option<String>>) -> Self {
        for (task, name) in lock(&self.tasks).iter_mut().zip(names) {
            task.name = name;
        }
        self
    }

    /// The report as things stand now. A poem that is not settled counts as interrupted.
    pub fn report(&self, calls: Calls) -> Report {
        self.of(lock(&self.tasks).clone(), calls, micros(self.clock.elapsed()))
    }

    /// The report of a run in virtual time that is over `now`, so long after its beginning. It has no date.
    pub(crate) fn into_simulated(self, calls: Calls, now: Duration, simulated: Simulated) -> Report {
        let tasks = mem::take(&mut *lock(&self.tasks));
        Report { simulated: Some(simulated), started: SystemTime::UNIX_EPOCH, ..self.of(tasks, calls, micros(now)) }
    }

    fn of(&self, mut tasks: Vec<TaskReport>, calls: Calls, now: Micros) -> Report {
        let mut elapsed_us = 0;
        for task in &mut tasks {
            if task.status == Status::Interrupted {
                task.error = Some("interrupted".to_owned());
                task.end_us = task.start_us.map(|_| now);
                elapsed_us = now;
                if let Some(transform) = task.transform.as_mut().filter(|it| it.status == Status::Interrupted) {
                    transform.error = Some("interrupted".to_owned());
                    transform.end_us = Some(now);
                }
            }
            elapsed_us = elapsed_us.max(task.end_us.unwrap_or(0));
        }
        let ok = tasks.iter().filter(|task| task.status == Status::Ok).count();
        let took: Option<Vec<Micros>> = tasks.iter().map(|task| Some(task.end_us? - task.start_us?)).collect();
        let bound_us = took.map(|took| self.concurrency.bound(self.sources.iter().zip(took)));
        Report {
            schema: Report::SCHEMA,
            model: self.model.name().into(),
            simulated: None,
            started: self.started,
            elapsed_us,
            bound_us,
            ok,
            failed: tasks.len() - ok,
            calls,
            peak: None,
            environment: None,
            tasks,
        }
    }
}

impl Observer for ReportBuilder {
    fn observe(&self, task: Task<'_>, at: Duration, event: &Event<'_>) {
        let at = micros(at);
        let record = &mut lock(&self.tasks)[task.number - 1];
        match event {
            Event::Started => record.start_us = Some(at),
            Event::Attempt(number) => {
                record.attempts = *number;
                record.attempt_us = Some(at);
            }
            Event::Connected { reused } => {
                record.connected_us.get_or_insert(at);
                if let Some(http) = &mut record.http {
                    http.reused += u32::from(*reused);
                }
            }
            Event::Requested(_) => {
                if let Some(http) = &mut record.http {
                    http.requests += 1;
                }
            }
            Event::Replied { status, .. } => {
                if let Some(http) = &mut record.http {
                    http.http_status = Some(*status);
                }
            }
            Event::Redirected(_) => {
                if let Some(http) = &mut record.http {
                    http.redirects += 1;
                }
            }
            Event::Whole => record.whole_us = Some(at),
            Event::Received(bytes) => {
                record.bytes += *bytes as u64;
                record.first_byte_us.get_or_insert(at);
                if self.with_events {
                    record.events.push(at, *bytes as u64);
                }
            }
            Event::Asking(via) => {
                record.transform = Some(Box::new(begun(via, at)));
            }
            Event::ConnectedVia => {
                if let Some(transform) = &mut record.transform {
                    transform.connected_us = Some(at);
                }
            }
            Event::Changed(bytes) => {
                if let Some(transform) = &mut record.transform {
                    transform.status = Status::Ok;
                    transform.bytes = *bytes as u64;
                    transform.end_us = Some(at);
                }
            }
            Event::Unchanged { via, failure } => {
                let transform = record.transform.get_or_insert_with(|| Box::new(begun(via, at)));
                transform.status = failure.status();
                transform.error = Some(failure.to_string());
                transform.limit = failure.limit();
                transform.end_us = Some(at);
            }
            Event::Retry { failure, .. } => begin_anew(record, failure, at),
            Event::Done { .. } => {
                record.status = Status::Ok;
                record.end_us = Some(at);
            }
            Event::Failed(failure) => {
                record.status = failure.status();
                record.error = Some(failure.to_string());
                record.limit = failure.limit();
                record.end_us.get_or_insert(at);
            }
        }
    }
}

/// Puts the attempt, which has failed, to the earlier ones. What it was is void for the next one.
fn begin_anew(record: &mut TaskReport, failure: &Failure, at: Micros) {
    let attempt = Attempt {
        attempt: record.attempts,
        start_us: record.attempt_us.take().unwrap_or(at),
        connected_us: record.connected_us.take(),
        first_byte_us: record.first_byte_us.take(),
        end_us: at,
        status: failure.status(),
        error: Some(failure.to_string()),
        limit: failure.limit(),
        bytes: mem::take(&mut record.bytes),
        events: mem::take(&mut record.events),
    };
    record.earlier.push(attempt);
    record.whole_us = None;
    record.transform = None;
    record.http = record.http.map(|_| HttpReport::default());
}

/// An exchange with a transform server that has begun.
fn begun(via: &Via, at: Micros) -> TransformReport {
    TransformReport {
        name: via.transform.clone(),
        address: via.address.to_string(),
        status: Status::Interrupted,
        error: None,
        limit: None,
        bytes: 0,
        start_us: at,
        connected_us: None,
        end_us: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Failure;
    use std::io;

    const MS: Duration = Duration::from_millis(1);

    const ALL: Concurrency = Concurrency::Together(std::num::NonZeroUsize::MAX);

    fn sources() -> Vec<Source> {
        ["10000", "10001", "10002"].map(|text| text.parse().expect("valid")).to_vec()
    }

    fn tell(builder: &ReportBuilder, number: usize, at: u32, event: &Event<'_>) {
        let source = &sources()[number - 1];
        builder.observe(Task { number, source }, at * MS, event);
    }

    #[test]
    fn a_run_is_written_down_as_it_was_told() {
        let names = [Some("donne".to_owned()), None];
        let builder = ReportBuilder::new(Model::Select, sources(), ALL, Instant::now(), true).named(names);
        for (at, event) in [
            (1, Event::Started),
            (1, Event::Attempt(1)),
            (2, Event::Connected { reused: false }),
            (5, Event::Received(10)),
            (9, Event::Received(7)),
            (9, Event::Done { bytes: 17, elapsed: 8 * MS }),
        ] {
            tell(&builder, 1, at, &event);
        }
        let report = builder.report(Calls::default());
        let poem = &report.tasks[0];
        assert_eq!((&*report.model, report.ok, report.failed), ("select", 1, 2));
        assert_eq!((poem.status, poem.bytes, poem.attempts), (Status::Ok, 17, 1));
        assert_eq!((poem.start_us, poem.connected_us), (Some(1_000), Some(2_000)));
        assert_eq!((poem.first_byte_us, poem.end_us), (Some(5_000), Some(9_000)));
        assert_eq!(poem.events.entries(), [(5_000, 10), (9_000, 7)]);
        assert_eq!((poem.name.as_deref(), &report.tasks[1].name), (Some("donne"), &None));
    }

    /// A poem whose first attempt is reset after ten bytes.
    fn retried(events: &[(u32, Event<'_>)]) -> TaskReport {
        let builder = ReportBuilder::new(Model::Async, sources(), ALL, Instant::now(), true);
        let failure = Failure::Broken(io::ErrorKind::ConnectionReset.into());
        for (at, event) in [
            (1, Event::Started),
            (1, Event::Attempt(1)),
            (2, Event::Connected { reused: false }),
            (3, Event::Received(10)),
            (4, Event::Retry { failure: &failure, pause: MS }),
        ] {
            tell(&builder, 2, at, &event);
        }
        for (at, event) in events {
            tell(&builder, 2, *at, event);
        }
        builder.report(Calls::default()).tasks.swap_remove(1)
    }

    #[test]
    fn a_retry_starts_the_record_anew_but_for_its_beginning() {
        let failure = Failure::Broken(io::ErrorKind::ConnectionReset.into());
        let poem = retried(&[(5, Event::Attempt(2)), (6, Event::Failed(&failure))]);
        assert_eq!((poem.status, poem.bytes, poem.attempts), (Status::Reset, 0, 2));
        assert_eq!((poem.start_us, poem.attempt_us), (Some(1_000), Some(5_000)));
        assert_eq!((poem.connected_us, poem.end_us), (None, Some(6_000)));
        assert!(poem.events.entries().is_empty());
    }

    #[test]
    fn an_attempt_that_failed_is_kept_as_it_was() {
        let poem = retried(&[
            (5, Event::Attempt(2)),
            (6, Event::Connected { reused: false }),
            (7, Event::Received(20)),
            (8, Event::Done { bytes: 20, elapsed: 7 * MS }),
        ]);
        assert_eq!((poem.status, poem.bytes, poem.attempts, poem.first_byte_us), (Status::Ok, 20, 2, Some(7_000)));
        let [first] = poem.earlier.known() else { panic!("{:?}", poem.earlier) };
        assert_eq!((first.attempt, first.start_us, first.connected_us), (1, 1_000, Some(2_000)));
        assert_eq!((first.first_byte_us, first.end_us, first.bytes), (Some(3_000), 4_000, 10));
        assert_eq!((first.status, first.limit), (Status::Reset, None));
        assert_eq!((first.events.entries(), first.error.is_some()), (&[(3_000, 10)][..], true));
    }

    #[test]
    fn in_a_pause_there_is_no_attempt() {
        let poem = retried(&[]);
        assert_eq!((poem.status, poem.attempts, poem.earlier.known().len()), (Status::Interrupted, 1, 1));
        assert_eq!((poem.start_us, poem.attempt_us, poem.connected_us), (Some(1_000), None, None));
        assert_eq!((poem.bytes, poem.end_us.is_some()), (0, true));
    }

    #[test]
    fn what_is_not_settled_is_interrupted() {
        let builder = ReportBuilder::new(Model::Async, sources(), ALL, Instant::now(), false);
        tell(&builder, 1, 0, &Event::Started);
        let report = builder.report(Calls::default());
        assert!(report.tasks.iter().all(|task| task.status == Status::Interrupted));
        assert!(report.tasks[0].end_us.is_some() && report.tasks[1].end_us.is_none());
        assert_eq!(report.tasks[0].error.as_deref(), Some("interrupted"));
    }

    #[test]
    fn a_poem_that_could_not_be_written_after_all_is_no_longer_ok() {
        let builder = ReportBuilder::new(Model::Async, sources(), ALL, Instant::now(), false);
        tell(&builder, 3, 0, &Event::Started);
        tell(&builder, 3, 5, &Event::Done { bytes: 0, elapsed: 5 * MS });
        let failure = Failure::Deliver { place: "stdout".to_owned(), error: io::ErrorKind::StorageFull.into() };
        tell(&builder, 3, 9, &Event::Failed(&failure));
        let report = builder.report(Calls::default());
        assert_eq!((report.tasks[2].status, report.tasks[2].end_us), (Status::Error, Some(5_000)));
    }
}

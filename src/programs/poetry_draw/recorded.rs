//! What a server did, as a report: a poem for each connection, as its client met it.

use std::time::{Duration, SystemTime};

use crate::pace::recording::History;
use crate::pace::{Departure, Ending};
use crate::report::{Attempts, Calls, Events, Report, Status, TaskReport};
use crate::units::micros;

/// What the run of a server is called.
pub(super) const TITLE: &str = "server";

/// How a connection ended that did not end well.
const RESET: &str = "reset";
const SILENT: &str = "silence";
const CLOSED: &str = "its client closed it";
const CLIENT_RESET: &str = "its client reset it";
const GONE: &str = "its client was gone";
const NO_END: &str = "no end is recorded";

/// The connections of a recording. Without a time of day, as a rehearsal has none, each begins at the start, and that is
/// the beginning of 1970.
pub(super) fn report(histories: &[History]) -> Report {
    let accepted = |history: &History| humantime::parse_rfc3339(history.accepted.as_deref()?).ok();
    let times: Option<Vec<SystemTime>> = histories.iter().map(accepted).collect();
    let times = times.unwrap_or_else(|| vec![SystemTime::UNIX_EPOCH; histories.len()]);
    let first = times.iter().min().copied().unwrap_or(SystemTime::UNIX_EPOCH);
    let starts = times.iter().map(|time| time.duration_since(first).unwrap_or_default());
    let starts: Vec<Duration> = starts.collect();
    let over = histories.iter().zip(&starts).map(|(history, start)| start.saturating_add(last(history)));
    let over = over.max().unwrap_or_default();
    let tasks: Vec<TaskReport> =
        histories.iter().zip(&starts).map(|(history, &start)| task(history, start, over)).collect();
    let ok = tasks.iter().filter(|task| task.status == Status::Ok).count();
    Report {
        schema: Report::SCHEMA,
        model: TITLE.into(),
        simulated: None,
        started: first,
        elapsed_us: micros(over),
        bound_us: None,
        ok,
        failed: tasks.len() - ok,
        calls: Calls::default(),
        environment: None,
        peak: None,
        tasks,
    }
}

/// The last that is known of a connection, from its accept.
fn last(history: &History) -> Duration {
    let sent = history.sent.last().map(|sent| sent.0);
    [sent, history.end.map(|end| end.0), history.left.map(|left| left.0)]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or_default()
}

/// A connection that was accepted at `start`, in a recording that was over at `over`.
fn task(history: &History, start: Duration, over: Duration) -> TaskReport {
    let at = |moment: Duration| micros(start.saturating_add(moment));
    let mut events = Events::default();
    for (moment, bytes) in &history.sent {
        events.push(at(*moment), bytes.get() as u64);
    }
    let (status, why, end) = end(history);
    TaskReport {
        task: usize::try_from(history.number).unwrap_or(usize::MAX),
        address: history.peer.clone().unwrap_or_else(|| "anybody".to_owned()),
        name: None,
        status,
        error: why.map(str::to_owned),
        limit: None,
        bytes: history.sent.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(bytes.get() as u64)),
        attempts: 1,
        start_us: Some(at(Duration::ZERO)),
        attempt_us: Some(at(Duration::ZERO)),
        connected_us: Some(at(Duration::ZERO)),
        first_byte_us: history.sent.first().map(|sent| at(sent.0)),
        whole_us: None,
        end_us: Some(end.map_or(micros(over), at)),
        events,
        earlier: Attempts::default(),
        transform: None,
        http: None,
    }
}

/// How a connection ended, why not well, and when; a silence that nobody ended lasts until all is over.
fn end(history: &History) -> (Status, Option<&'static str>, Option<Duration>) {
    let left = history.left.map(|(at, by)| {
        let how = if by == Departure::Close { CLOSED } else { CLIENT_RESET };
        (Status::Interrupted, Some(how), Some(at))
    });
    match history.end {
        Some((at, Ending::Fin)) => (Status::Ok, None, Some(at)),
        Some((at, Ending::Rst)) => (Status::Reset, Some(RESET), Some(at)),
        Some((at, Ending::Hang)) if history.is_given_up => left.unwrap_or((Status::Interrupted, Some(GONE), Some(at))),
        Some((_, Ending::Hang)) => (Status::Timeout, Some(SILENT), history.left.map(|left| left.0)),
        None => left.unwrap_or((Status::Interrupted, Some(NO_END), Some(last(history)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::recording::histories;
    use crate::report::waterfall::{Chart, Outcome, Run, Subject};

    const RECORDING: &str = r#"
{"connection":1,"at_us":0,"event":"accept","peer":"127.0.0.1:40000","time":"2026-11-21T09:00:01.000000Z"}
{"connection":2,"at_us":0,"event":"accept","peer":"127.0.0.1:40001","time":"2026-11-21T09:00:00.000000Z"}
{"connection":1,"at_us":500000,"event":"send","bytes":100}
{"connection":1,"at_us":1500000,"event":"send","bytes":53}
{"connection":1,"at_us":1500000,"event":"fin"}
{"connection":2,"at_us":100000,"event":"send","bytes":10}
{"connection":2,"at_us":200000,"event":"rst"}
"#;

    /// The first lane of these lines, behind an accept, and of another one that lasts for nine seconds.
    fn ended(lines: &str) -> (Status, Option<String>, Option<u64>) {
        let accept = r#"{"connection":1,"at_us":0,"event":"accept"}"#;
        let other = "{\"connection\":2,\"at_us\":0,\"event\":\"accept\"}\n{\"connection\":2,\"at_us\":9000000,\"event\":\"fin\"}";
        let report = report(&histories(&format!("{accept}\n{lines}\n{other}")).expect("a recording"));
        let task = &report.tasks[0];
        (task.status, task.error.clone(), task.end_us)
    }

    #[test]
    fn a_connection_is_drawn_from_its_accept_to_its_end() {
        let report = report(&histories(RECORDING).expect("a recording"));
        assert_eq!((report.elapsed_us, report.ok, report.failed), (2_500_000, 1, 1));
        let first = &report.tasks[0];
        assert_eq!(
            (first.start_us, first.first_byte_us, first.end_us),
            (Some(1_000_000), Some(1_500_000), Some(2_500_000))
        );
        assert_eq!((first.bytes, first.events.entries()), (153, &[(1_500_000, 100), (2_500_000, 53)][..]));
        let run = Run { title: TITLE.to_owned(), subject: Subject::Connection, report };
        let panel = Chart::of_runs(&[run]).panels.remove(0);
        assert_eq!(panel.tally, "Served 1 of 2 connections in 2.50 s");
        assert_eq!(panel.lanes[1].end, Some((Outcome::Cut, 200_000)));
        assert_eq!(panel.lanes[1].note, "reset");
        assert_eq!(
            panel.lanes[0].sentence,
            "Connection 1, of 127.0.0.1:40000, was not started for 1.00 s, waiting for 0.50 s, receiving for 1.00 s, and \
             done at 2.50 s."
        );
    }

    #[test]
    fn each_end_has_its_words() {
        let line = |at: u32, event: &str| format!("{{\"connection\":1,\"at_us\":{at},\"event\":{event}}}\n");
        let (hang, gone) = (line(5, "\"hang\""), line(7, "\"gone\""));
        let (close, reset) = (line(6, "\"left\",\"by\":\"close\""), line(6, "\"left\",\"by\":\"reset\""));
        for (lines, status, why, end) in [
            (hang.clone(), Status::Timeout, SILENT, 9_000_000),
            (hang + &close, Status::Timeout, SILENT, 6),
            (gone.clone(), Status::Interrupted, GONE, 7),
            (close.clone() + &gone, Status::Interrupted, CLOSED, 6),
            (reset, Status::Interrupted, CLIENT_RESET, 6),
            (line(4, "\"send\",\"bytes\":9"), Status::Interrupted, NO_END, 4),
            (line(4, "\"rst\""), Status::Reset, RESET, 4),
        ] {
            assert_eq!(ended(&lines), (status, Some(why.to_owned()), Some(end)), "{lines}");
        }
        assert_eq!(ended(&(close + &line(8, "\"fin\""))), (Status::Ok, None, Some(8)));
    }
}

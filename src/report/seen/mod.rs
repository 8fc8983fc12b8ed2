//! Connections, as whoever passes them on sees them, and the [`Report`] that this makes.
//!
//! A client that says nothing of itself is known by its connections: when they were made, when bytes came, and which side
//! ended them, and how.
//!
//! ```text
//!   begin ── Connected ── Passed ── Passed ── ServerEnded      whole
//!     │          │           ╰── ServerBroke                   reset
//!     │          ╰── ClientEnded, ClientBroke before that      the client left: interrupted
//!     ╰── Unreached                                            refused, unreachable, out of time
//! ```

mod connection;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use self::connection::{Connection, Verdict};
use super::{Attempt, Calls, Events, Report, Status, TaskReport};
use crate::units::Micros;

/// What happens on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// It has a name of its own in its lane.
    Called(String),
    /// The connection to the server stands.
    Connected,
    /// There is none: this status, for this reason.
    Unreached(Status, String),
    /// So many bytes went on to the client.
    Passed(u64),
    /// Something is there for the client, which takes nothing now.
    Stalled,
    /// The server's end of the stream went on to the client.
    ServerEnded,
    /// The server's side broke, with this status and for this reason; the client's was reset thereupon.
    ServerBroke(Status, String),
    /// The client's end of the stream: it has closed its side, or both.
    ClientEnded,
    /// The client has reset the connection.
    ClientBroke,
}

/// A server, as lanes name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `HOST:PORT`, or a URL.
    pub address: String,
    /// The name of its poem, if it has one.
    pub name: Option<String>,
}

/// Which connections are kept, if there are more than can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The first ones.
    First,
    /// Those that are open, and the latest of those that have ended; of too many open ones, the latest.
    Latest,
}

/// Connections that were seen, in bounded memory: so many of them, with at most [`Events::LIMIT`] reads each.
#[derive(Debug)]
pub struct Seen {
    most: usize,
    keep: Keep,
    /// By their numbers, from 1.
    connections: BTreeMap<u64, Connection>,
    /// The numbers of those that have ended, in the order of their ends.
    ended: VecDeque<u64>,
    begun: u64,
}

impl Seen {
    /// Nothing is seen yet. So many connections are kept, at least one.
    pub fn new(most: usize, keep: Keep) -> Self {
        Self { most: most.max(1), keep, connections: BTreeMap::new(), ended: VecDeque::new(), begun: 0 }
    }

    /// How many connections there were.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// How many of them are not kept.
    pub fn forgotten(&self) -> u64 {
        self.begun - self.connections.len() as u64
    }

    /// A client has connected to get to this place (from 0). Returns the number of its connection, from 1.
    pub fn begin(&mut self, place: usize, at: Micros) -> u64 {
        self.begin_as(self.begun + 1, place, at);
        self.begun
    }

    /// The same for a connection that has this number already, and no other one has.
    pub fn begin_as(&mut self, number: u64, place: usize, at: Micros) {
        self.begun += 1;
        if self.connections.len() == self.most {
            if self.keep == Keep::First {
                return;
            }
            let oldest = self.ended.pop_front().or_else(|| self.connections.keys().next().copied());
            oldest.map(|number| self.connections.remove(&number));
        }
        self.connections.insert(number, Connection::new(place, at));
    }

    /// Something has happened on a connection, not before what is known of it.
    pub fn note(&mut self, number: u64, at: Micros, sight: Sight) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let was_open = !connection.has_ended();
        connection.note(at, sight);
        if was_open && connection.has_ended() {
            self.ended.push_back(number);
        }
    }

    /// The report of a client of this name, which was to get one poem from each of these places. Time counts from its first
    /// connection on, and has come to `now`.
    ///
    /// A connection to a place of which all earlier connections have failed is another attempt at its poem. What is
    /// connected to a second time for no such reason has another lane, after all others.
    pub fn by_place(&self, name: &str, places: &[Place], started: SystemTime, now: Micros) -> Report {
        let mut lanes: Vec<(usize, Vec<&Connection>)> = (0..places.len()).map(|place| (place, Vec::new())).collect();
        for connection in self.connections.values().filter(|connection| connection.place < places.len()) {
            let is_free = |(place, attempts): &&mut (usize, Vec<&Connection>)| {
                *place == connection.place
                    && attempts.last().is_none_or(|last| last.has_failed_by(connection.begin, now))
            };
            match lanes.iter_mut().find(is_free) {
                Some((_, attempts)) => attempts.push(connection),
                None => lanes.push((connection.place, vec![connection])),
            }
        }
        let zero = self.zero();
        let task = |(index, (place, attempts)): (usize, (usize, Vec<&Connection>))| {
            lane(index + 1, &places[place], &attempts, zero, now)
        };
        let tasks = lanes.into_iter().enumerate().map(task).collect();
        self.report(name, tasks, started)
    }

    /// The report of all connections that are kept, a lane for each, under their numbers. Time counts from the first of
    /// them on, and has come to `now`.
    pub fn by_connection(&self, name: &str, places: &[Place], started: SystemTime, now: Micros) -> Report {
        let zero = self.zero();
        let task = |(number, connection): (&u64, &Connection)| {
            let place = places.get(connection.place)?;
            Some(lane(usize::try_from(*number).unwrap_or(usize::MAX), place, &[connection], zero, now))
        };
        let tasks = self.connections.iter().filter_map(task).collect();
        self.report(name, tasks, started)
    }

    /// The time from which a report counts.
    fn zero(&self) -> Micros {
        self.connections.values().map(|connection| connection.begin).min().unwrap_or(0)
    }

    fn report(&self, name: &str, tasks: Vec<TaskReport>, started: SystemTime) -> Report {
        let ok = tasks.iter().filter(|task| task.status == Status::Ok).count();
        let took: Option<Vec<Micros>> = tasks.iter().map(|task| Some(task.end_us? - task.start_us?)).collect();
        Report {
            schema: Report::SCHEMA,
            model: Cow::Owned(name.to_owned()),
            simulated: None,
            started: started + Duration::from_micros(self.zero()),
            elapsed_us: tasks.iter().filter_map(|task| task.end_us).max().unwrap_or(0),
            bound_us: took.and_then(|took| took.into_iter().max()),
            ok,
            failed: tasks.len() - ok,
            calls: Calls::default(),
            peak: None,
            environment: None,
            tasks,
        }
    }
}

/// The lane of connections to a place of which each but the last has failed. Time counts from `zero` on.
fn lane(task: usize, place: &Place, attempts: &[&Connection], zero: Micros, now: Micros) -> TaskReport {
    let since = |at: Micros| at - zero.min(at);
    let shifted = |reads: &Events| {
        let mut shifted = Events::default();
        reads.entries().iter().for_each(|(at, bytes)| shifted.push(since(*at), *bytes));
        shifted
    };
    let mut report = TaskReport {
        name: attempts.iter().find_map(|attempt| attempt.name.clone()).or_else(|| place.name.clone()),
        error: Some("never connected to".to_owned()),
        attempts: u32::try_from(attempts.len()).unwrap_or(u32::MAX),
        start_us: attempts.first().map(|first| since(first.begin)),
        ..TaskReport::unbegun(task, place.address.clone())
    };
    for (number, connection) in (1..).zip(attempts) {
        let mut verdict = connection.verdict(now);
        if let Some(next) = attempts.get(number) {
            verdict.end = verdict.end.min(next.begin);
        }
        let Verdict { status, error, end, bytes } = &verdict;
        let (begin, first) = (since(connection.begin), connection.first.filter(|_| *bytes > 0));
        let (connected, first) = (connection.connected.map(since), first.map(since));
        let events = shifted(&connection.reads(&verdict));
        if number < attempts.len() {
            report.earlier.push(Attempt {
                attempt: u32::try_from(number).unwrap_or(u32::MAX),
                start_us: begin,
                connected_us: connected,
                first_byte_us: first,
                end_us: since(*end),
                status: *status,
                error: error.clone(),
                limit: None,
                bytes: *bytes,
                events,
            });
            continue;
        }
        report.attempt_us = Some(begin);
        (report.status, report.error, report.bytes) = (*status, error.clone(), *bytes);
        (report.connected_us, report.first_byte_us, report.end_us) = (connected, first, Some(since(*end)));
        report.events = events;
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STARTED: SystemTime = SystemTime::UNIX_EPOCH;

    fn places() -> [Place; 2] {
        ["1", "2"].map(|port| Place { address: format!("127.0.0.1:{port}"), name: None })
    }

    fn reset() -> Sight {
        Sight::ServerBroke(Status::Reset, "connection reset by peer".to_owned())
    }

    /// A connection to a place, or what has happened on one.
    type Happened = Result<usize, (u64, Sight)>;

    /// What was seen: connections with their places, and then what happened on them (by number, from 1), all in order.
    fn seen(events: &[(Micros, Happened)]) -> Seen {
        let mut seen = Seen::new(10, Keep::First);
        for (at, event) in events {
            match event {
                Ok(place) => drop(seen.begin(*place, *at)),
                Err((number, sight)) => seen.note(*number, *at, sight.clone()),
            }
        }
        seen
    }

    fn tasks(seen: &Seen, now: Micros) -> Vec<TaskReport> {
        seen.by_place("python", &places(), STARTED, now).tasks
    }

    #[test]
    fn a_poem_is_told_as_its_client_would_tell_it() {
        let seen = seen(&[
            (1_000, Ok(1)),
            (1_010, Err((1, Sight::Connected))),
            (1_200, Err((1, Sight::Passed(10)))),
            (1_400, Err((1, Sight::Passed(5)))),
            (1_400, Err((1, Sight::ServerEnded))),
            (1_500, Err((1, Sight::ClientEnded))),
        ]);
        let report = seen.by_place("python", &places(), STARTED, 9_000);
        assert_eq!((&*report.model, report.ok, report.failed, report.elapsed_us), ("python", 1, 1, 400));
        assert_eq!((report.started, report.bound_us), (STARTED + Duration::from_millis(1), None));
        let [never, poem] = &report.tasks[..] else { panic!("two places") };
        assert_eq!((never.task, never.start_us, never.attempts), (1, None, 0));
        assert_eq!((never.status, never.error.as_deref()), (Status::Interrupted, Some("never connected to")));
        assert_eq!((poem.task, poem.address.as_str(), poem.status), (2, "127.0.0.1:2", Status::Ok));
        assert_eq!((poem.start_us, poem.attempt_us, poem.connected_us), (Some(0), Some(0), Some(10)));
        assert_eq!((poem.first_byte_us, poem.end_us, poem.bytes), (Some(200), Some(400), 15));
        assert_eq!((poem.events.entries(), poem.attempts, &poem.error), (&[(200, 10), (400, 5)][..], 1, &None));
    }

    #[test]
    fn who_ended_a_connection_and_how_is_told() {
        let early = "closed early by the client";
        let unread = "reset by the client, which may not have read all";
        let stalled = "reset by the client, which took nothing any more";
        let open = "still open with the client";
        let refused = || Sight::Unreached(Status::Refused, "connection refused".to_owned());
        for (events, status, error, end, bytes) in [
            (vec![(9, Sight::ServerEnded)], Status::Ok, None, 9, 4),
            // It has closed its direction, and gets all the rest.
            (vec![(5, Sight::ClientEnded), (8, Sight::Passed(2)), (9, Sight::ServerEnded)], Status::Ok, None, 9, 6),
            (vec![(5, Sight::ClientEnded), (8, Sight::Passed(2))], Status::Interrupted, Some(open), 20, 6),
            (vec![(5, Sight::ClientEnded)], Status::Interrupted, Some(early), 5, 4),
            // It has closed both, and what is sent to it since is lost.
            (
                vec![(5, Sight::ClientEnded), (8, Sight::Passed(2)), (9, Sight::ClientBroke)],
                Status::Interrupted,
                Some(early),
                5,
                4,
            ),
            (vec![(9, Sight::ClientBroke)], Status::Interrupted, Some("reset by the client"), 9, 4),
            (vec![(5, Sight::Stalled), (9, Sight::ClientBroke)], Status::Interrupted, Some(stalled), 9, 4),
            (vec![(5, Sight::ServerEnded), (9, Sight::ClientBroke)], Status::Interrupted, Some(unread), 9, 4),
            // All was read, and its own end said before.
            (vec![(4, Sight::ClientEnded), (5, Sight::ServerEnded), (9, Sight::ClientBroke)], Status::Ok, None, 5, 4),
            (vec![(9, reset()), (10, Sight::ClientBroke)], Status::Reset, Some("connection reset by peer"), 9, 4),
            (vec![(9, refused())], Status::Refused, Some("connection refused"), 9, 4),
            (vec![], Status::Interrupted, Some(open), 20, 4),
        ] {
            let mut all = vec![(0, Ok(0)), (1, Err((1, Sight::Connected))), (3, Err((1, Sight::Passed(4))))];
            all.extend(events.iter().map(|(at, sight)| (*at, Err((1, sight.clone())))));
            let poem = &tasks(&seen(&all), 20)[0];
            let told = (poem.status, poem.error.as_deref(), poem.end_us, poem.bytes);
            assert_eq!(told, (status, error, Some(end), bytes), "{events:?}");
            assert_eq!(poem.events.entries().iter().map(|(_, bytes)| bytes).sum::<u64>(), bytes, "{events:?}");
        }
    }

    #[test]
    fn what_follows_a_failure_is_another_attempt_and_all_else_another_lane() {
        let seen = seen(&[
            (0, Ok(0)),
            (1, Err((1, Sight::Passed(3)))),
            (2, Err((1, reset()))),
            (10, Ok(0)), // 2: after the failure
            (11, Ok(1)), // 3
            (12, Ok(0)), // 4: beside the second
            (13, Err((2, Sight::Passed(7)))),
            (14, Err((2, Sight::ServerEnded))),
            (15, Ok(0)), // 5: after all has come
            (16, Err((3, Sight::ServerEnded))),
        ]);
        let tasks = tasks(&seen, 30);
        let lanes: Vec<_> =
            tasks.iter().map(|task| (task.task, &*task.address, task.attempts, task.start_us)).collect();
        let (one, two) = ("127.0.0.1:1", "127.0.0.1:2");
        assert_eq!(lanes, [(1, one, 2, Some(0)), (2, two, 1, Some(11)), (3, one, 1, Some(12)), (4, one, 1, Some(15))]);
        let (poem, [first]) = (&tasks[0], tasks[0].earlier.known()) else { panic!("one earlier attempt") };
        assert_eq!((poem.attempt_us, poem.status, poem.bytes, poem.end_us), (Some(10), Status::Ok, 7, Some(14)));
        assert_eq!((first.attempt, first.start_us, first.end_us, first.bytes), (1, 0, 2, 3));
        assert_eq!((first.status, first.events.entries()), (Status::Reset, &[(1, 3)][..]));
    }

    #[test]
    fn a_client_that_resets_and_connects_anew_at_once_has_made_another_attempt() {
        let again = |end, sight| {
            let seen = seen(&[(0, Ok(0)), (5, Err((1, Sight::Passed(3)))), (10, Ok(0)), (end, Err((1, sight)))]);
            let tasks = tasks(&seen, 30_000);
            let ends = tasks[0].earlier.known().iter().map(|earlier| earlier.end_us).collect::<Vec<_>>();
            (tasks[0].attempts, ends)
        };
        assert_eq!(again(14, Sight::ClientBroke), (2, vec![10]));
        assert_eq!(again(14_000, Sight::ClientBroke), (1, vec![]));
        assert_eq!(again(14, reset()), (1, vec![]));
    }

    #[test]
    fn by_their_numbers_all_connections_have_lanes_of_their_own() {
        let seen = seen(&[(100, Ok(0)), (101, Err((1, reset()))), (110, Ok(0)), (120, Err((2, Sight::ServerEnded)))]);
        let report = seen.by_connection("poetry-chaos", &places(), STARTED, 130);
        let lanes: Vec<_> = report.tasks.iter().map(|task| (task.task, task.start_us, task.status)).collect();
        assert_eq!(lanes, [(1, Some(0), Status::Reset), (2, Some(10), Status::Ok)]);
        assert_eq!((report.elapsed_us, report.bound_us, report.ok), (20, Some(10), 1));
    }

    #[test]
    fn of_too_many_the_first_are_kept_or_those_that_matter_now() {
        let mut first = Seen::new(2, Keep::First);
        let mut latest = Seen::new(2, Keep::Latest);
        for seen in [&mut first, &mut latest] {
            for number in 1..=3 {
                assert_eq!(seen.begin(0, number), number);
                if number == 2 {
                    seen.note(2, 2, Sight::ServerEnded);
                }
            }
            seen.note(3, 4, Sight::ServerEnded);
            assert_eq!((seen.begun(), seen.forgotten()), (3, 1));
        }
        let numbers = |seen: &Seen| -> Vec<usize> {
            seen.by_connection("x", &places(), STARTED, 9).tasks.iter().map(|task| task.task).collect()
        };
        // The first one is open still.
        assert_eq!((numbers(&first), numbers(&latest)), (vec![1, 2], vec![1, 3]));
        assert!(latest.begin(0, 5) == 4 && latest.begin(0, 6) == 5);
        assert_eq!(numbers(&latest), [4, 5]);
    }

    fn any_sight() -> impl Strategy<Value = Sight> {
        prop_oneof![
            Just(Sight::Connected),
            (1..100_000u64).prop_map(Sight::Passed),
            Just(Sight::Stalled),
            Just(Sight::ServerEnded),
            Just(reset()),
            Just(Sight::ClientEnded),
            Just(Sight::ClientBroke),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: a lane has its times in order, no more bytes than went on, and bytes as in
        /// its reads; every connection that is kept is in one lane; and never more than may be are kept.
        #[test]
        fn no_order_of_events_makes_a_lane_that_cannot_be(
            events in proptest::collection::vec((0..50u64, 0..2usize, 1..12u64, any_sight(), 0..4u8), 0..200),
            keep in prop_oneof![Just(Keep::First), Just(Keep::Latest)],
            most in 1..12usize,
            // The client is gone before its connections are all seen.
            early in prop_oneof![Just(0), 0..10_000u64],
        ) {
            let (mut seen, mut now, mut passed) = (Seen::new(most, keep), 0, 0);
            for (pause, place, number, sight, which) in events {
                now += pause;
                if which == 0 {
                    seen.begin(place, now);
                } else {
                    if let Sight::Passed(bytes) = sight { passed += bytes; }
                    seen.note(number, now, sight);
                }
                prop_assert!(seen.connections.len() <= most && seen.ended.len() <= most);
            }
            let now = now.saturating_sub(early);
            let by_place = seen.by_place("x", &places(), STARTED, now);
            let by_connection = seen.by_connection("x", &places(), STARTED, now);
            let attempts: u32 = by_place.tasks.iter().map(|task| task.attempts).sum();
            prop_assert_eq!(attempts as usize, seen.connections.len());
            prop_assert_eq!(by_connection.tasks.len(), seen.connections.len());
            prop_assert!(by_place.tasks.len() >= 2);
            for report in [by_place, by_connection] {
                prop_assert_eq!(report.ok + report.failed, report.tasks.len());
                prop_assert!(report.tasks.iter().map(|task| task.bytes).sum::<u64>() <= passed);
                for task in &report.tasks {
                    let Some(start) = task.start_us else { continue };
                    let end = task.end_us.expect("begun");
                    let attempt = task.attempt_us.expect("begun");
                    prop_assert!(start <= attempt && attempt <= end && end <= report.elapsed_us);
                    let mut last = attempt;
                    for at in [task.first_byte_us].into_iter().flatten().chain(task.events.entries().iter().map(|e| e.0)) {
                        prop_assert!(last <= at && at <= end, "{:?}", task);
                        last = at;
                    }
                    prop_assert_eq!(task.events.entries().iter().map(|e| e.1).sum::<u64>(), task.bytes);
                    let mut before = start;
                    for earlier in task.earlier.known() {
                        prop_assert!(before <= earlier.start_us && earlier.start_us <= earlier.end_us);
                        prop_assert!(earlier.status != Status::Ok && earlier.end_us <= attempt);
                        before = earlier.end_us;
                    }
                }
            }
        }
    }
}

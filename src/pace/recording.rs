//! Recordings: the events of each connection of a server, one JSON object a line (JSON Lines), to be analysed or
//! replayed.
//!
//! ```text
//! {"connection":1,"at_us":0,"event":"accept","peer":"127.0.0.1:40000","time":"2026-11-21T09:00:00.000000Z"}
//! {"connection":1,"at_us":12,"event":"send","bytes":10}
//! {"connection":1,"at_us":100031,"event":"send","bytes":10}
//! {"connection":1,"at_us":100040,"event":"hang"}
//! {"connection":1,"at_us":2000120,"event":"left","by":"close"}
//! ```
//!
//! `docs/recording.schema.json` describes a line. [`Entry`] writes lines, and [`parse`] reads them with types of its
//! own, because a reader is strict where a writer cannot be wrong: about unknown keys, and keys in the wrong event.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pace::{Action, Departure, Ending, Replay, Schedule};
use crate::units::micros;

/// A line of a recording: an event of a connection, and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Number of the connection, from 1, in the order of accept(2).
    pub connection: u64,
    /// Microseconds since accept(2) of this connection.
    pub at_us: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Happening,
}

/// An event of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Happening {
    /// The connection was accepted (accept(2)).
    Accept {
        /// Address of the client.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// Time of day (RFC 3339).
        #[serde(skip_serializing_if = "Option::is_none")]
        time: Option<String>,
    },
    /// A write: the kernel took bytes for the client.
    Send {
        /// Number of bytes.
        bytes: u64,
    },
    /// The server ended the stream (FIN).
    Fin,
    /// The server reset the connection (RST).
    Rst,
    /// The server fell silent for ever.
    Hang,
    /// The client left before the end, or in the silence that is none. It may only have closed its side: then more can
    /// follow.
    Left {
        /// How.
        by: Departure,
    },
    /// The server gave up, because the client had left.
    Gone,
}

impl From<Ending> for Happening {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Fin => Self::Fin,
            Ending::Rst => Self::Rst,
            Ending::Hang => Self::Hang,
        }
    }
}

impl Entry {
    /// The entry as a line of JSON, with its line feed.
    pub fn line(&self) -> String {
        // Numbers and strings only: nothing that could fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// The recording of a connection with a poem of `len` bytes, as it would be if the machine and the client lost no time.
pub fn rehearse(connection: u64, schedule: Schedule, len: u64) -> impl Iterator<Item = Entry> {
    let accept = Entry { connection, at_us: 0, event: Happening::Accept { peer: None, time: None } };
    let steps = schedule.steps(len).map(move |step| {
        let event = match step.action {
            Action::Send(bytes) => Happening::Send { bytes: bytes.end - bytes.start },
            Action::End(how) => how.into(),
        };
        Entry { connection, at_us: micros(step.at), event }
    });
    std::iter::once(accept).chain(steps)
}

/// An [`Entry`] as it is read. Unknown keys are mistakes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    connection: NonZeroU64,
    at_us: u64,
    event: Name,
    peer: Option<String>,
    time: Option<String>,
    bytes: Option<NonZeroUsize>,
    by: Option<Departure>,
}

/// The word for a [`Happening`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Accept,
    Send,
    Fin,
    Rst,
    Hang,
    Left,
    Gone,
}

/// Why a recording cannot be replayed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Error {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// A connection as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The number of the connection.
    pub number: u64,
    /// The address of the client, if it was written down.
    pub peer: Option<String>,
    /// The time of day at which it was accepted, RFC 3339, if it was written down.
    pub accepted: Option<String>,
    /// What was sent, and when, from accept(2) on.
    pub sent: Vec<(Duration, NonZeroUsize)>,
    /// When and how the client left, if that was seen.
    pub left: Option<(Duration, Departure)>,
    /// When and how the server ended it; `None`: its server was killed, or had not come to that yet.
    pub end: Option<(Duration, Ending)>,
    /// Whether the server gave up, because the client had left. The end is a silence then.
    pub is_given_up: bool,
}

/// Reads a recording: its connections as they were, in order of their numbers.
///
/// # Errors
/// As [`parse`].
pub fn histories(text: &str) -> Result<Vec<History>, Error> {
    let history = |(number, connection): (NonZeroU64, Unfinished)| History {
        number: number.get(),
        peer: connection.peer,
        accepted: connection.accepted,
        sent: connection.pieces,
        left: connection.left,
        end: connection.end,
        is_given_up: connection.is_given_up,
    };
    Ok(connections(text)?.into_iter().map(history).collect())
}

/// Parses a recording into its connections, in order of their numbers, to be replayed.
///
/// A replay hangs where the recorded server gave up its client, because nothing was recorded after that. A connection
/// without an end is replayed with a reset: its server was killed. When and how clients left is not replayed: it was not
/// the server's doing.
///
/// # Errors
/// A line is no entry, or contradicts the lines before it.
pub fn parse(text: &str) -> Result<Vec<Replay>, Error> {
    Ok(connections(text)?.into_values().map(Unfinished::finish).collect())
}

fn connections(text: &str) -> Result<BTreeMap<NonZeroU64, Unfinished>, Error> {
    let mut connections: BTreeMap<NonZeroU64, Unfinished> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: String| Error { line: number, why };
        if !line.trim_start().starts_with('{') {
            return Err(wrong("not an object".to_owned()));
        }
        let line: Line = serde_json::from_str(line).map_err(|error| wrong(in_words(&error)))?;
        let connection = line.connection;
        let known = connections.get_mut(&connection);
        let added = match (line.event, known) {
            (Name::Accept, Some(_)) => Err("is accepted a second time"),
            (Name::Accept, None) if line.at_us > 0 => Err("is accepted later than at 0"),
            (Name::Accept, None) if line.bytes.is_some() => Err("has bytes that are not sent"),
            (Name::Accept, None) if line.by.is_some() => Err("has a way to leave without leaving"),
            (Name::Accept, None) => {
                let (peer, accepted) = (line.peer, line.time);
                connections.insert(connection, Unfinished { peer, accepted, ..Unfinished::default() });
                Ok(())
            }
            (_, None) => Err("is not accepted yet"),
            (_, Some(known)) => known.add(&line),
        };
        added.map_err(|why| wrong(format!("connection {connection} {why}")))?;
    }
    Ok(connections)
}

/// A connection of which more lines may follow.
#[derive(Default)]
struct Unfinished {
    peer: Option<String>,
    accepted: Option<String>,
    pieces: Vec<(Duration, NonZeroUsize)>,
    left: Option<(Duration, Departure)>,
    end: Option<(Duration, Ending)>,
    is_given_up: bool,
    last: Duration,
}

impl Unfinished {
    fn add(&mut self, line: &Line) -> Result<(), &'static str> {
        let at = Duration::from_micros(line.at_us);
        match (line.event, line.by) {
            (Name::Left, None) => return Err("has left in no way"),
            (Name::Left, Some(by)) => return self.leave(line, by),
            (_, Some(_)) => return Err("has a way to leave without leaving"),
            (_, None) => {}
        }
        if self.end.is_some() {
            return Err("has ended already");
        }
        if at < self.last {
            return Err("goes back in time");
        }
        if line.peer.is_some() || line.time.is_some() {
            return Err("has a peer or a time that is not its accept's");
        }
        self.last = at;
        self.is_given_up = line.event == Name::Gone;
        self.end = match (line.event, line.bytes) {
            (Name::Send, Some(bytes)) => {
                self.pieces.push((at, bytes));
                None
            }
            (Name::Send, None) => return Err("sends no number of bytes"),
            (_, Some(_)) => return Err("has bytes that are not sent"),
            (Name::Rst, None) => Some((at, Ending::Rst)),
            (Name::Hang | Name::Gone, None) => Some((at, Ending::Hang)),
            (Name::Fin | Name::Accept | Name::Left, None) => Some((at, Ending::Fin)),
        };
        Ok(())
    }

    /// The client leaves, which another thread has seen: the line may stand before one that is a moment older.
    fn leave(&mut self, line: &Line, by: Departure) -> Result<(), &'static str> {
        if line.peer.is_some() || line.time.is_some() || line.bytes.is_some() {
            return Err("leaves with a peer, a time or bytes");
        }
        if self.left.replace((Duration::from_micros(line.at_us), by)).is_some() {
            return Err("has left already");
        }
        match self.end {
            Some((_, Ending::Fin | Ending::Rst)) => Err("has ended already"),
            _ => Ok(()),
        }
    }

    fn finish(self) -> Replay {
        Replay { pieces: self.pieces, end: self.end.unwrap_or((self.last, Ending::Rst)) }
    }
}

/// The message of a JSON error without its position: the line is named already.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pace::{Pace, Plan};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_entry_is_a_line_of_json() {
        let send = Entry { connection: 7, at_us: 100_031, event: Happening::Send { bytes: 10 } };
        assert_eq!(send.line(), "{\"connection\":7,\"at_us\":100031,\"event\":\"send\",\"bytes\":10}\n");
        let end = Entry { connection: 7, at_us: 100_040, event: Ending::Hang.into() };
        assert_eq!(end.line(), "{\"connection\":7,\"at_us\":100040,\"event\":\"hang\"}\n");
    }

    #[test]
    fn connections_are_told_apart_however_their_lines_mix() {
        let text = r#"
            {"connection":2,"at_us":0,"event":"accept","peer":"[::1]:1","time":"2026-11-21T09:00:00Z"}
            {"connection":1,"at_us":0,"event":"accept"}
            {"connection":1,"at_us":5000,"event":"send","bytes":10}
            {"connection":2,"at_us":1000,"event":"send","bytes":3}
            {"connection":1,"at_us":9000,"event":"gone"}
            {"connection":2,"at_us":2000,"event":"fin"}
            {"connection":5,"at_us":0,"event":"accept"}
            {"connection":5,"at_us":7000,"event":"send","bytes":1}
        "#;
        let bytes = |bytes| NonZeroUsize::new(bytes).expect("not zero");
        let expected = [
            Replay { pieces: vec![(5 * MS, bytes(10))], end: (9 * MS, Ending::Hang) },
            Replay { pieces: vec![(MS, bytes(3))], end: (2 * MS, Ending::Fin) },
            Replay { pieces: vec![(7 * MS, bytes(1))], end: (7 * MS, Ending::Rst) },
        ];
        assert_eq!(parse(text), Ok(expected.to_vec()));
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn what_cannot_have_been_is_refused_by_its_line() {
        let accept = r#"{"connection":1,"at_us":0,"event":"accept"}"#;
        let send = r#"{"connection":1,"at_us":5,"event":"send","bytes":1}"#;
        let fin = r#"{"connection":1,"at_us":5,"event":"fin"}"#;
        let left = r#"{"connection":1,"at_us":4,"event":"left","by":"reset"}"#;
        for (lines, line, why) in [
            (vec!["poetry"], 1, "not an object"),
            (vec![accept, r#"{"connection":1,"at_us":0,"event":"sing"}"#], 2, "unknown variant `sing`"),
            (vec![accept, r#"{"connection":1,"at_us":-1,"event":"fin"}"#], 2, "invalid value"),
            (vec![accept, r#"{"connection":1,"event":"fin"}"#], 2, "missing field `at_us`"),
            (vec![accept, accept], 2, "connection 1 is accepted a second time"),
            (vec![send], 1, "connection 1 is not accepted yet"),
            (vec![accept, fin, send], 3, "connection 1 has ended already"),
            (vec![accept, send, r#"{"connection":1,"at_us":4,"event":"fin"}"#], 3, "connection 1 goes back in time"),
            (vec![accept, r#"{"connection":1,"at_us":4,"event":"send","bytes":0}"#], 2, "invalid value: integer `0`"),
            (vec![accept, r#"{"connection":1,"at_us":4,"event":"send"}"#], 2, "connection 1 sends no number of bytes"),
            (
                vec![accept, r#"{"connection":1,"at_us":4,"event":"fin","bytes":1}"#],
                2,
                "connection 1 has bytes that are",
            ),
            (
                vec![accept, r#"{"connection":1,"at_us":4,"event":"fin","peer":""}"#],
                2,
                "connection 1 has a peer or a time",
            ),
            (vec![accept, r#"{"connection":1,"at_us":4,"event":"fin","foo":1}"#], 2, "unknown field `foo`"),
            (vec![r#"{"connection":1,"at_us":0,"event":"accept","bytes":1}"#], 1, "connection 1 has bytes that are"),
            (vec![accept, r#"{"connection":1,"at_us":4,"event":"left"}"#], 2, "connection 1 has left in no way"),
            (vec![accept, left, left], 3, "connection 1 has left already"),
            (vec![accept, fin, left], 3, "connection 1 has ended already"),
            (
                vec![accept, r#"{"connection":1,"at_us":4,"event":"left","by":"close","bytes":1}"#],
                2,
                "connection 1 leaves with a peer, a time or bytes",
            ),
            (vec![accept, r#"{"connection":1,"at_us":4,"event":"left","by":"taxi"}"#], 2, "unknown variant `taxi`"),
            (
                vec![accept, r#"{"connection":1,"at_us":4,"event":"fin","by":"close"}"#],
                2,
                "connection 1 has a way to leave without leaving",
            ),
            (
                vec![r#"{"connection":1,"at_us":0,"event":"accept","by":"close"}"#],
                1,
                "connection 1 has a way to leave without leaving",
            ),
            (vec![r#"[1,0,"accept",null,null,null]"#], 1, "not an object"),
            (vec![r#"{"connection":1,"at_us":9,"event":"accept"}"#], 1, "connection 1 is accepted later than at 0"),
            (vec![r#"{"connection":0,"at_us":0,"event":"accept"}"#], 1, "invalid value: integer `0`"),
        ] {
            let error = parse(&lines.join("\n")).expect_err(why);
            assert_eq!(error.line, line, "{lines:?}");
            assert!(error.why.starts_with(why) && !error.why.contains(" line "), "{why}: {error}");
        }
    }

    #[test]
    fn when_clients_left_is_read_and_changes_no_replay() {
        let line = |at_us, event: &str| format!("{{\"connection\":1,\"at_us\":{at_us},\"event\":{event}}}\n");
        let accept = line(0, "\"accept\"");
        let left = line(9, "\"left\",\"by\":\"close\"");
        for end in ["hang", "gone", "rst", "fin"] {
            let end = line(9, &format!("\"{end}\""));
            let plain = parse(&format!("{accept}{end}")).expect("a recording");
            assert_eq!(parse(&format!("{accept}{left}{end}")).expect("it left before"), plain);
            // Another thread has written it, a moment too soon.
            let early = format!("{accept}{left}{}{end}", line(8, "\"send\",\"bytes\":1"));
            assert_eq!(parse(&early).expect("a recording")[0].end, plain[0].end);
        }
        let hang = line(5, "\"hang\"");
        assert_eq!(parse(&format!("{accept}{hang}{left}")).expect("it left the silence").len(), 1);
    }

    proptest! {
        #[test]
        fn a_rehearsal_replays_as_it_was(seed: u64, len in 0_u64..500, jitter in 0_u64..50) {
            let pace = Pace { jitter: Duration::from_millis(jitter), first_byte_delay: 90 * MS, ..Pace::default() };
            let plan = Plan::uniform(seed, pace);
            let text: String =
                (1..=3).flat_map(|n| rehearse(n, plan.schedule(n), len)).map(|entry| entry.line()).collect();
            let replay = Plan::replay(parse(&text).expect("a recording"));
            for connection in 1..=3 {
                let again: Vec<Entry> = rehearse(connection, replay.schedule(connection), len).collect();
                let first: Vec<Entry> = rehearse(connection, plan.schedule(connection), len).collect();
                prop_assert_eq!(first, again);
            }
        }
    }
}

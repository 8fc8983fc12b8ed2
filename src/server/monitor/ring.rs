//! The history of a monitor: a ring of events as they are sent to browsers, bounded in bytes and in time. Whoever reads it
//! has a cursor, and whoever is too slow for it is told what it has missed: there is no queue for each.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_util::bytes::{Bytes, BytesMut};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sample,
    /// Something was done with a source.
    Mark,
    /// A source is silent.
    Gone,
}

impl Kind {
    /// Its name, if it has one: the book's page knows samples, which have none.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Sample => None,
            Self::Mark => Some("mark"),
            Self::Gone => Some("gone"),
        }
    }
}

/// An event as a chunk of HTTP (RFC 9112, section 7.1): the same bytes for all who read it.
#[derive(Debug, Clone)]
struct Event {
    /// When, in milliseconds since 1970.
    at: i64,
    chunk: Bytes,
}

/// A chunk with this text in it.
pub(super) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// What is in a chunk: for those who know no chunks.
pub(super) fn unchunked(chunk: &Bytes) -> Bytes {
    let head = chunk.windows(2).position(|end| end == b"\r\n").map_or(0, |at| at + 2);
    chunk.slice(head..chunk.len() - 2)
}

/// Events in their order, each with a number.
#[derive(Debug)]
pub(super) struct Ring {
    /// The number of this run, as people see it: numbers of another one mean nothing here.
    pub(super) boot: String,
    events: VecDeque<Event>,
    /// The number of the first event that is kept.
    first: u64,
    bytes: usize,
    most_bytes: usize,
    keep: Duration,
}

/// What comes next for a reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Nothing,
    /// These chunks; the number is that of the event after them.
    Chunks(Bytes, u64),
    /// So many are gone that it has not read; the number is that of the newest one.
    Missed(u64, u64),
}

impl Ring {
    /// One without events, for so many bytes of them, and none older than that.
    pub(super) fn new(boot: u32, most_bytes: usize, keep: Duration) -> Self {
        let boot = format!("{boot:08x}");
        Self { boot, events: VecDeque::new(), first: 1, bytes: 0, most_bytes, keep }
    }

    /// The number of the event that comes next.
    pub(super) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Bytes of all events.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an event, and returns its chunk. Whoever has a sample or a mark can go on from there.
    pub(super) fn push(&mut self, at: i64, kind: Kind, json: &str) -> Bytes {
        let id = if kind == Kind::Gone { String::new() } else { format!("id: {}-{}\n", self.boot, self.end()) };
        let name = kind.name().map_or_else(String::new, |name| format!("event: {name}\n"));
        let chunk = Bytes::from(chunk(&format!("{id}{name}data: {json}\n\n")));
        self.bytes += chunk.len();
        self.events.push_back(Event { at, chunk: chunk.clone() });
        // The newest one is kept, however long it is.
        while self.bytes > self.most_bytes && self.events.len() > 1 {
            self.drop_first();
        }
        chunk
    }

    /// Forgets what is too old at this time.
    pub(super) fn forget(&mut self, now: i64) {
        let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        while self.events.front().is_some_and(|event| now.saturating_sub(event.at) > keep) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= event.chunk.len();
            self.first += 1;
        }
    }

    /// What a reader gets that has read everything before the event with this number: `most` bytes of it, and one event at
    /// least.
    pub(super) fn next(&self, number: u64, most: usize) -> Next {
        if number >= self.end() {
            return Next::Nothing;
        }
        let Some(skipped) = number.checked_sub(self.first) else {
            let newest = self.end() - 1;
            return Next::Missed(newest - number, newest);
        };
        let mut chunks = BytesMut::new();
        let mut next = number;
        for event in self.events.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)) {
            if next > number && chunks.len() + event.chunk.len() > most {
                break;
            }
            chunks.extend_from_slice(&event.chunk);
            next += 1;
        }
        Next::Chunks(chunks.freeze(), next)
    }

    /// Where a reader begins who has read up to an event with this identifier, and how many it has missed since then.
    /// Whoever has read nothing, or something of another run, gets everything.
    pub(super) fn resume(&self, last: Option<&str>) -> (u64, u64) {
        let number = last
            .and_then(|last| last.strip_prefix(&self.boot)?.strip_prefix('-')?.parse::<u64>().ok())
            .filter(|&number| number < self.end());
        match number {
            None => (self.first, 0),
            Some(number) => ((number + 1).max(self.first), self.first.saturating_sub(number + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(most_bytes: usize) -> Ring {
        Ring::new(0xb007, most_bytes, Duration::from_secs(10))
    }

    fn text(next: Next) -> String {
        match next {
            Next::Chunks(chunks, _) => String::from_utf8(chunks.to_vec()).expect("text"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_are_chunks_with_numbers() {
        let mut ring = ring(1000);
        assert_eq!((ring.next(1, 9), ring.end()), (Next::Nothing, 1));
        ring.push(0, Kind::Sample, "{}");
        ring.push(0, Kind::Gone, "[]");
        assert_eq!(text(ring.next(1, 1)), "19\r\nid: 0000b007-1\ndata: {}\n\n\r\n");
        assert_eq!(text(ring.next(2, 1)), "16\r\nevent: gone\ndata: []\n\n\r\n");
        assert!(matches!(ring.next(1, 1000), Next::Chunks(all, 3) if all.len() == ring.bytes()));
        assert_eq!(unchunked(&Bytes::from(chunk("a\r\nb"))), "a\r\nb");
    }

    #[test]
    fn it_is_bounded_in_bytes_and_in_time_and_the_slow_are_told() {
        let mut ring = ring(100);
        for at in 0..10 {
            ring.push(at * 1000, Kind::Sample, "{}");
        }
        let kept = ring.end() - ring.first;
        assert!(kept < 10 && ring.bytes() <= 100, "{kept}");
        assert_eq!(ring.next(1, 9), Next::Missed(9, 10));
        assert!(matches!(ring.next(10, 9), Next::Chunks(_, 11)));
        ring.forget(18_500);
        assert_eq!((ring.first, ring.end()), (10, 11));
        ring.forget(99_999);
        assert_eq!((ring.first, ring.end(), ring.bytes()), (11, 11, 0));
        ring.push(0, Kind::Sample, &"x".repeat(200));
        assert_eq!((ring.first, ring.end()), (11, 12));
    }

    #[test]
    fn whoever_comes_again_goes_on() {
        let mut ring = ring(100);
        assert_eq!(ring.resume(None), (1, 0));
        for _ in 0..10 {
            ring.push(0, Kind::Sample, "{}");
        }
        let first = ring.first;
        assert_eq!(ring.resume(None), (first, 0));
        assert_eq!(ring.resume(Some("0000b007-10")), (11, 0));
        assert_eq!(ring.resume(Some("0000b007-9")), (10, 0));
        assert_eq!(ring.resume(Some("0000b007-1")), (first, first - 2));
        for other in ["0000b008-9", "0000b007-11", "0000b007-", "0000b007-x", "-1", ""] {
            assert_eq!(ring.resume(Some(other)), (first, 0), "{other}");
        }
    }
}

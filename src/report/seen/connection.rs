//! One connection, and what it has come to.

use super::Sight;
use crate::report::{Events, Status};
use crate::units::Micros;

/// One connection. Times are those of whoever sees it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) place: usize,
    pub(super) name: Option<String>,
    pub(super) begin: Micros,
    pub(super) connected: Option<Micros>,
    pub(super) first: Option<Micros>,
    bytes: u64,
    reads: Events,
    /// The client takes nothing.
    is_stalled: bool,
    /// The client's end of the stream, and the bytes that had gone on to it by then.
    client_end: Option<(Micros, u64)>,
    end: Option<(End, Micros)>,
}

/// How a connection ends: what is seen first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    ByServer,
    Broken(Status, String),
    ByClient { after_server: bool },
}

/// What happens at the same time may be seen in any order.
const AT_ONCE: Micros = 10_000;

/// What a connection comes to.
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) error: Option<String>,
    pub(super) end: Micros,
    pub(super) bytes: u64,
}

impl Connection {
    /// A client has connected to get to this place.
    pub(super) fn new(place: usize, at: Micros) -> Self {
        Self {
            place,
            name: None,
            begin: at,
            connected: None,
            first: None,
            bytes: 0,
            reads: Events::default(),
            is_stalled: false,
            client_end: None,
            end: None,
        }
    }

    /// Whether it has ended, however.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn note(&mut self, at: Micros, sight: Sight) {
        // To have all and then to reset is to have left some of it unread.
        if self.end.as_ref().is_some_and(|(end, _)| *end == End::ByServer) && sight == Sight::ClientBroke {
            if self.client_end.is_none() {
                self.end = Some((End::ByClient { after_server: true }, at));
            }
            return;
        }
        if self.end.is_some() {
            return;
        }
        match sight {
            Sight::Called(name) => self.name = Some(name),
            Sight::Connected => drop(self.connected.get_or_insert(at)),
            Sight::Passed(bytes) => {
                self.first.get_or_insert(at);
                self.bytes += bytes;
                self.reads.push(at, bytes);
                self.is_stalled = false;
            }
            Sight::Stalled => self.is_stalled = true,
            Sight::ClientEnded => drop(self.client_end.get_or_insert((at, self.bytes))),
            Sight::ServerEnded => self.end = Some((End::ByServer, at)),
            Sight::Unreached(status, why) | Sight::ServerBroke(status, why) => {
                self.end = Some((End::Broken(status, why), at));
            }
            Sight::ClientBroke => self.end = Some((End::ByClient { after_server: false }, at)),
        }
    }

    /// What it has come to by `now`.
    pub(super) fn verdict(&self, now: Micros) -> Verdict {
        // It may have begun, and gone on, after its client was gone: whoever passes it on was late.
        let now = self.latest().max(now);
        let left = |error: &str, (end, bytes): (Micros, u64)| {
            let stalled = if self.is_stalled { ", which took nothing any more" } else { "" };
            Verdict { status: Status::Interrupted, error: Some(format!("{error}{stalled}")), end, bytes }
        };
        match (&self.end, self.client_end) {
            (Some((End::ByServer, end)), _) => {
                Verdict { status: Status::Ok, error: None, end: *end, bytes: self.bytes }
            }
            (Some((End::Broken(status, why), end)), _) => {
                Verdict { status: *status, error: Some(why.clone()), end: *end, bytes: self.bytes }
            }
            (Some((End::ByClient { after_server: true }, end)), _) => {
                left("reset by the client, which may not have read all", (*end, self.bytes))
            }
            // What was sent to it since was for nobody.
            (Some((End::ByClient { after_server: false }, _)), Some(client_end)) => {
                left("closed early by the client", client_end)
            }
            (Some((End::ByClient { after_server: false }, end)), None) => {
                left("reset by the client", (*end, self.bytes))
            }
            // It waits for the rest, or is gone: that shows when something is sent to it.
            (None, Some((end, bytes))) if bytes == self.bytes => left("closed early by the client", (end, bytes)),
            (None, _) => left("still open with the client", (now, self.bytes)),
        }
    }

    /// The latest that is known of it, as long as it has no end.
    fn latest(&self) -> Micros {
        let read = self.reads.entries().last().map(|(at, _)| *at);
        [Some(self.begin), self.connected, self.first, read].into_iter().flatten().max().unwrap_or(self.begin)
    }

    /// Whether it had failed before `begin`, as far as is known `now`. Of a client that leaves and connects anew at once,
    /// the new connection may be seen first.
    pub(super) fn has_failed_by(&self, begin: Micros, now: Micros) -> bool {
        let Verdict { status, end, .. } = self.verdict(now);
        let is_left = matches!(self.end, Some((End::ByClient { .. }, _)));
        status != Status::Ok && end <= begin + if is_left { AT_ONCE } else { 0 }
    }

    /// Its reads up to that end.
    pub(super) fn reads(&self, Verdict { end, bytes, .. }: &Verdict) -> Events {
        let (mut reads, mut left) = (Events::default(), *bytes);
        for (at, bytes) in self.reads.entries() {
            let bytes = (*bytes).min(left);
            left -= bytes;
            if bytes > 0 {
                reads.push((*at).min(*end), bytes);
            }
        }
        reads
    }
}

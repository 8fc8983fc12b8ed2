//! A connection of a simulation, and all that are there at one time.

use super::listen_queue::Handshake;
use super::queue::Nanos;
use crate::pace::{Cursor, Draws};

/// A connection, as both ends see it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) poem: u32,
    pub(super) server: u32,
    /// Events of it that have not come.
    pub(super) under_way: u32,
    pub(super) draws: Draws,
    /// How far the server is in the handshake.
    pub(super) handshake: Handshake,
    /// When it has answered the SYN.
    pub(super) asked: Nanos,
    /// When the latest segment to the client arrives.
    pub(super) last_arrival: Nanos,
    /// Bytes that the client has not read.
    pub(super) inbox: u64,
    /// Bytes that it has read.
    pub(super) read: u64,
    /// What comes after them.
    pub(super) end: Option<End>,
    /// What has become of the client's connect(2).
    pub(super) answer: Option<Answer>,
    /// The client has closed it.
    pub(super) has_left: bool,
    /// The server knows that.
    pub(super) peer_left: bool,
    /// The server has nothing more to say, and waits for the client to leave.
    pub(super) lingers: bool,
    /// Where the server is in its schedule, while it serves this connection.
    pub(super) cursor: Option<Box<Cursor>>,
}

/// What comes after the bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

/// What becomes of a connect(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    /// ECONNREFUSED
    Refused,
    /// ETIMEDOUT
    TimedOut,
}

/// An event of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// It is time to send the SYN of this number.
    NextSyn(u32),
    /// The SYN of this number is at the server.
    Syn(u32),
    /// The answer to it is at the client, or its wait is over.
    Answer(Answer),
    /// The last segment of the handshake is at the server.
    Established,
    /// It is time to send the SYN-ACK again, for this time, to a client whose last segment was dropped.
    NextSynAck(u32),
    /// It is time for the server's next step.
    Serve,
    /// Bytes, and the end of the stream, are at the client.
    Arrival { bytes: u32, end: Option<End> },
    /// The server hears that the client has closed the connection, and whether that left something unread.
    Left { reset: bool },
    /// The server is rid of the connection: it was reset, or has lingered long enough.
    Reset,
}

impl Connection {
    pub(super) fn new(poem: u32, server: u32, seed: u64, draws_of: u64) -> Self {
        Self {
            poem,
            server,
            under_way: 0,
            draws: Draws::new(seed, draws_of),
            handshake: Handshake::Unknown,
            asked: 0,
            last_arrival: 0,
            inbox: 0,
            read: 0,
            end: None,
            answer: None,
            has_left: false,
            peer_left: false,
            lingers: false,
            cursor: None,
        }
    }

    /// Whether the server has not come to its end with it.
    pub(super) fn is_served(&self) -> bool {
        self.cursor.is_some() || self.lingers || self.handshake == Handshake::Waiting
    }

    /// Whether a call of the client's would not wait.
    pub(super) fn is_readable(&self) -> bool {
        self.inbox > 0 || self.end.is_some()
    }
}

/// All connections that are not over, by number. Numbers are used again.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: Vec<Connection>,
    free: Vec<u32>,
}

impl Connections {
    pub(super) fn add(&mut self, connection: Connection) -> u32 {
        if let Some(id) = self.free.pop() {
            self.all[id as usize] = connection;
            return id;
        }
        self.all.push(connection);
        u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&mut self, id: u32) -> &mut Connection {
        &mut self.all[id as usize]
    }

    /// Gives back the number of a connection that neither end knows any more, and of which no event is to come.
    pub(super) fn free_if_over(&mut self, id: u32) {
        let connection = self.get(id);
        if connection.has_left && connection.under_way == 0 && !connection.is_served() {
            // Once: nobody asks for it any more.
            self.free.push(id);
        }
    }
}

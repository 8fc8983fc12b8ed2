//! The async server: the whole poem at once to any number of clients, or a trickle to as many.

use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Instant;

use tracing::debug;

use super::fault_plan::{FaultPlan, Transfer};
use super::sending::{Halt, advance, give};
use super::wire::Body;
use crate::net::{Connection, FastPath, Peer, Progress, Unregistered};
use crate::pace::Ending;
use crate::poem::Poem;
use crate::sync::lock;
use crate::units::micros;

/// The async poem server: one copy of the poem in memory, however many connections it is sent to.
#[derive(Debug)]
pub struct FastServer {
    poem: Mutex<Poem>,
    fault_plan: FaultPlan,
    never_read: bool,
}

impl FastServer {
    /// A server of this poem that treats its connections as planned. If it is to read nothing of what clients say,
    /// their connections end only when they leave.
    pub fn new(poem: Poem, fault_plan: FaultPlan, never_read: bool) -> Self {
        Self { poem: Mutex::new(poem), fault_plan, never_read }
    }

    /// Serves another poem from now on. Connections under way keep the one they began with.
    pub fn set_poem(&self, poem: Poem) {
        *lock(&self.poem) = poem;
    }

    /// How it treats its connections.
    pub fn fault_plan(&self) -> &FaultPlan {
        &self.fault_plan
    }
}

impl FastPath for FastServer {
    const EOF_ENDS_MESSAGE: bool = true;

    /// Boxed: an async fn stores its arguments in the future, and again in each nested one.
    type State = Box<Transfer>;

    fn start(&self) -> io::Result<()> {
        self.fault_plan.start()
    }

    fn try_serve(&self, socket: &Unregistered<'_>) -> io::Result<Progress<Self::State>> {
        let (peer, now) = (socket.peer(), Instant::now());
        debug!(%peer, "Somebody at {peer} wants poetry!");
        let poem = lock(&self.poem).clone();
        let mut transfer = self.fault_plan.begin(&peer, Body::Plain(poem), now, socket.as_fd());
        Ok(match self.advance(socket, &mut transfer, now)? {
            Halt::End(how) => Progress::End(how),
            Halt::Later(due) => Progress::Until(due, Box::new(transfer)),
            Halt::Blocked => Progress::Blocked(Box::new(transfer)),
        })
    }

    fn on_timer(&self, socket: &Unregistered<'_>, mut transfer: Self::State) -> io::Result<Progress<Self::State>> {
        Ok(match self.advance(socket, &mut transfer, Instant::now())? {
            Halt::End(how) => Progress::End(how),
            Halt::Later(due) => Progress::Until(due, transfer),
            Halt::Blocked => Progress::Blocked(transfer),
        })
    }

    async fn finish(&self, connection: &mut Connection, mut transfer: Self::State) -> io::Result<Ending> {
        let result = give(connection, &mut transfer).await;
        let now = Instant::now();
        match &result {
            Ok(how) => self.end(&connection.peer(), &mut transfer, *how, now),
            // Given up: it is the server that resets the connection.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => transfer.give_up(now),
            Err(error) => transfer.lose(error, now),
        }
        match result {
            // The polite close reads, to see the client leave and to let nothing be lost by a reset.
            Ok(Ending::Fin) if self.never_read => {
                connection.shut_down_and_ignore().await;
                Ok(Ending::Rst)
            }
            result => result,
        }
    }

    fn before_close(&self) {
        self.fault_plan.catch_up();
    }
}

impl FastServer {
    /// Sends what is due at the moment `now`, without waiting for the client.
    fn advance(&self, socket: &Unregistered<'_>, transfer: &mut Transfer, now: Instant) -> io::Result<Halt> {
        match advance(socket, transfer, now) {
            Ok(Halt::End(Ending::Fin)) if self.never_read => Ok(Halt::Blocked),
            Ok(Halt::End(how)) => {
                self.end(&socket.peer(), transfer, how, now);
                Ok(Halt::End(how))
            }
            Ok(halt) => Ok(halt),
            Err(error) => {
                transfer.lose(&error, now);
                Err(error)
            }
        }
    }

    /// Ends a transfer as planned.
    fn end(&self, peer: &Peer, transfer: &mut Transfer, how: Ending, now: Instant) {
        self.fault_plan.end(transfer, how, now);
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(cut) = transfer.cut(peer, how, transfer.elapsed(now))
        {
            debug!(%peer, bytes = transfer.bytes_sent(), elapsed_us = micros(transfer.elapsed(now)), "{cut}");
        }
    }
}

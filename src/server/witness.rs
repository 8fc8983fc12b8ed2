//! A transparent relay in front of other servers, which sees what passes through: a door for each of them.
//!
//! Bytes go on as they come, the end of the stream as the end of the stream in each direction by itself, and a reset as a
//! reset. What cannot be passed on is that nobody listens: the connection stands before that is known, and is reset.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::address::Address;
use crate::net::descriptors::{LOOK_UP, Opens};
use crate::net::dial::{Route, dial_by};
use crate::net::relay::{RelayEnd, Treatment, Upstream, relay};
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::report::seen::Sight;
use crate::server::watcher::{FromClient, Watched, Watcher};

/// The relay. The number of a door is that of its upstream, and of the place in the report.
#[derive(Debug)]
pub struct Witness {
    upstreams: Vec<Address>,
    /// Where it listens itself: no connection is passed on to there.
    doors: Vec<SocketAddr>,
    watcher: Arc<Watcher>,
}

impl Witness {
    /// A relay to these servers, in the order of its doors.
    pub fn new(upstreams: Vec<Address>, doors: Vec<SocketAddr>, watcher: Arc<Watcher>) -> Self {
        Self { upstreams, doors, watcher }
    }

    async fn pass_on(&self, connection: &Connection, place: usize, watched: &Arc<Watched>) -> io::Result<Ending> {
        let upstream = self.upstreams.get(place).ok_or(io::ErrorKind::NotFound)?;
        let route = Route { doors: &self.doors, ..Route::default() };
        let dialed = tokio::select! {
            dialed = Box::pin(dial_by(upstream, None, route)) => dialed,
            error = connection.broken() => {
                watched.note(Sight::ClientBroke);
                return Err(error);
            }
        };
        let upstream = match dialed {
            Ok((stream, _)) => Upstream::new(stream),
            Err(error) => {
                watched.is_unreached(&error);
                return Ok(Ending::Rst);
            }
        };
        watched.note(Sight::Connected);
        // Nothing of what a client is made to wait for is ours.
        upstream.set_nodelay(true)?;
        connection.stream().set_nodelay(true)?;
        let down = Treatment { witness: Some(Arc::clone(watched) as Arc<_>), ..Treatment::default() };
        let from_client = Arc::new(FromClient(Arc::clone(watched)));
        let up = Treatment { witness: Some(from_client as Arc<_>), ..Treatment::default() };
        let end = relay(connection, &upstream, up, down).await.end;
        watched.has_ended(&end);
        match end {
            RelayEnd::Both => {
                upstream.close();
                Ok(Ending::Fin)
            }
            RelayEnd::ClientBroke(error) => Err(error),
            _ => Ok(Ending::Rst),
        }
    }
}

impl Handler for Witness {
    /// Nobody knows what is passed on, so it may be.
    const EOF_ENDS_MESSAGE: bool = true;

    const OPENS: Opens = Opens { each: 1, beside: LOOK_UP };

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let place = connection.door_number();
        let watched = Arc::new(self.watcher.begin(place));
        tokio::select! {
            ending = self.pass_on(connection, place, &watched) => ending,
            () = watched.over() => Ok(Ending::Rst),
        }
    }
}

//! The async poem server over HTTP: any number of requests on a connection, one after another, each with a transfer of its
//! own.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tokio::task::coop::consume_budget;
use tokio_util::bytes::{Buf, BytesMut};
use tracing::debug;

use super::fault_plan::{FaultPlan, Transfer};
use super::origin::{Answer, HEAD_TIME, Origin};
use super::sending::{Halt, advance, give};
use crate::errors::is_for_later;
use crate::net::descriptors::Opens;
use crate::net::{Connection, FastPath, Peer, Progress, Unregistered};
use crate::pace::Ending;
use crate::proto::http::SERVER_HEAD;
use crate::proto::http::head::{Room, request};
use crate::units::micros;

/// A connection on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

thread_local! {
    /// For the first read of each connection.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SERVER_HEAD]);
}

/// The async poem server over HTTP.
#[derive(Debug)]
pub struct HttpServer {
    origin: Origin,
    fault_plan: FaultPlan,
    never_read: bool,
}

/// What has been said on a connection.
#[derive(Debug)]
pub struct Exchange {
    /// When nothing had been asked yet.
    since: Instant,
    /// Of requests that are not answered yet.
    arrived: BytesMut,
    /// When the first bytes of a head that is not whole yet have arrived.
    begun: Option<Instant>,
    /// Boxed: few of all connections are given something just now.
    reply: Option<Box<Reply>>,
}

/// A reply under way.
#[derive(Debug)]
struct Reply {
    transfer: Transfer,
    /// Whether the connection ends with it.
    is_last: bool,
    /// Whether the plan knows of it.
    is_planned: bool,
}

impl Exchange {
    fn new() -> Self {
        Self { since: Instant::now(), arrived: BytesMut::new(), begun: None, reply: None }
    }

    /// When a request has to be here, or what has come of it is refused.
    fn due(&self) -> Instant {
        self.begun.map_or(self.since + IDLE, |begun| begun + HEAD_TIME)
    }
}

impl HttpServer {
    /// A server of these resources that treats its replies as planned: what a plan says of connections, it says of replies
    /// here. If it is to read nothing more once it was asked, connections end only when their clients leave.
    pub fn new(origin: Origin, fault_plan: FaultPlan, never_read: bool) -> Self {
        Self { origin, fault_plan, never_read }
    }

    /// What it has.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How it treats its replies.
    pub fn fault_plan(&self) -> &FaultPlan {
        &self.fault_plan
    }

    /// The reply to the next request, if all of its head has arrived.
    fn reply(&self, peer: Peer, exchange: &mut Exchange, is_stopping: bool, socket: impl AsFd) -> Option<Box<Reply>> {
        let mut room = Room::default();
        let (answer, len) = match request(&exchange.arrived, &mut room) {
            Ok(None) => return None,
            Ok(Some(request)) => {
                let answer = self.origin.answer(&request, is_stopping);
                let (method, target, status) = (request.method, request.target, answer.status);
                debug!(%peer, status, "{peer}: {method} {target}: {status}");
                (answer, request.len)
            }
            Err(bad) => {
                let answer = Origin::refuse(bad);
                debug!(%peer, status = answer.status, "{peer}: {}: {bad}", answer.status);
                (answer, exchange.arrived.len())
            }
        };
        exchange.arrived.advance(len);
        exchange.begun = None;
        Some(self.begin(peer, answer, socket))
    }

    fn begin(&self, peer: Peer, answer: Answer, socket: impl AsFd) -> Box<Reply> {
        let Answer { body, is_last, is_planned, .. } = answer;
        let now = Instant::now();
        let transfer = match is_planned {
            true => self.fault_plan.begin(&peer, body, now, socket),
            false => Transfer::unplanned(body, now),
        };
        Box::new(Reply { transfer, is_last, is_planned })
    }

    /// Ends a reply as planned. Returns how the connection is to end, if it is to.
    fn end(&self, peer: Peer, reply: &mut Reply, how: Ending) -> Option<Ending> {
        let Reply { transfer, is_last, is_planned } = reply;
        let now = Instant::now();
        if *is_planned {
            self.fault_plan.end(transfer, how, now);
        }
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(cut) = transfer.cut(&peer, how, transfer.elapsed(now))
        {
            debug!(%peer, bytes = transfer.bytes_sent(), elapsed_us = micros(transfer.elapsed(now)), "{cut}");
        }
        (how != Ending::Fin || *is_last || !transfer.is_whole()).then_some(how)
    }

    /// Reads what has come of a request, and goes on with it.
    fn hear(&self, socket: &Unregistered<'_>, mut exchange: Box<Exchange>) -> io::Result<Progress<Box<Exchange>>> {
        let heard = BUFFER.with_borrow_mut(|buffer| {
            socket.read(buffer).inspect(|&read| exchange.arrived.extend_from_slice(&buffer[..read]))
        });
        match heard {
            Ok(0) => Ok(Progress::End(Ending::Fin)),
            Ok(_) => self.go_on(socket, exchange),
            Err(error) if !is_for_later(&error) => Err(error),
            Err(_) if Instant::now() < exchange.due() => Ok(Progress::Readable(exchange.due(), exchange)),
            // Nobody waits for anything.
            Err(_) if exchange.arrived.is_empty() => Ok(Progress::End(Ending::Fin)),
            Err(_) => {
                exchange.reply = Some(self.begin(socket.peer(), Origin::time_out(), socket.as_fd()));
                self.go_on(socket, exchange)
            }
        }
    }

    /// Goes on with what can be done without waiting.
    fn go_on(&self, socket: &Unregistered<'_>, mut exchange: Box<Exchange>) -> io::Result<Progress<Box<Exchange>>> {
        let peer = socket.peer();
        let Some(mut reply) = exchange.reply.take().or_else(|| self.reply(peer, &mut exchange, false, socket.as_fd()))
        else {
            exchange.begun.get_or_insert_with(Instant::now);
            return Ok(Progress::Readable(exchange.due(), exchange));
        };
        match advance(socket, &mut reply.transfer, Instant::now()) {
            Ok(Halt::End(how)) => {
                if self.never_read && how == Ending::Fin {
                    exchange.reply = Some(reply);
                    return Ok(Progress::Blocked(exchange));
                }
                Ok(self.end(peer, &mut reply, how).map_or(Progress::Blocked(exchange), Progress::End))
            }
            Ok(Halt::Later(due)) => {
                exchange.reply = Some(reply);
                Ok(Progress::Until(due, exchange))
            }
            Ok(Halt::Blocked) => {
                exchange.reply = Some(reply);
                Ok(Progress::Blocked(exchange))
            }
            Err(error) => {
                reply.transfer.lose(&error, Instant::now());
                Err(error)
            }
        }
    }

    /// Gives a reply, and returns how the connection is to end, if it is to.
    async fn give_reply(&self, connection: &Connection, mut reply: Box<Reply>) -> io::Result<Option<Ending>> {
        let peer = connection.peer();
        match give(connection, &mut reply.transfer).await {
            Ok(Ending::Fin) if self.never_read => {
                self.end(peer, &mut reply, Ending::Fin);
                connection.shut_down_and_ignore().await;
                Ok(Some(Ending::Rst))
            }
            Ok(how) => Ok(self.end(peer, &mut reply, how)),
            Err(error) => {
                match error.kind() {
                    // Given up: it is the server that resets the connection.
                    io::ErrorKind::TimedOut => reply.transfer.give_up(Instant::now()),
                    _ => reply.transfer.lose(&error, Instant::now()),
                }
                Err(error)
            }
        }
    }

    /// The next reply; `None` if no more requests come, or the server is asked to stop before one does.
    async fn next_reply(&self, connection: &mut Connection, exchange: &mut Exchange) -> io::Result<Option<Box<Reply>>> {
        loop {
            let (peer, is_stopping) = (connection.peer(), connection.is_closing());
            if let Some(reply) = self.reply(peer, exchange, is_stopping, connection.stream().as_fd()) {
                return Ok(Some(reply));
            }
            // What a client that may take its time has said takes no more room than it needs.
            exchange.arrived = BytesMut::from(&exchange.arrived[..]);
            let read = if exchange.arrived.is_empty() {
                // Boxed: a head that trickles must not cost as much as an idle connection.
                match Box::pin(connection.read_request(&mut exchange.arrived, Some(IDLE))).await {
                    Ok(None) => return Ok(None),
                    Ok(Some(read)) => Ok(read),
                    // Nobody waits for anything.
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                    Err(error) => Err(error),
                }
            } else {
                let begun = *exchange.begun.get_or_insert_with(Instant::now);
                let left = HEAD_TIME.saturating_sub(begun.elapsed());
                let read = match left.is_zero() {
                    true => Err(io::ErrorKind::TimedOut.into()),
                    false => connection.read_some(&mut exchange.arrived, Some(left)).await,
                };
                match read {
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        return Ok(Some(self.begin(peer, Origin::time_out(), connection.stream().as_fd())));
                    }
                    read => read,
                }
            };
            if read? == 0 {
                return Ok(None);
            }
        }
    }
}

impl FastPath for HttpServer {
    /// With a length or chunks, half a reply is known to be half. Without them it is not, and then a reset has to tell.
    const EOF_ENDS_MESSAGE: bool = true;

    /// A file of a directory is open as long as it is sent.
    const OPENS: Opens = Opens { each: 1, beside: 0 };

    type State = Box<Exchange>;

    fn start(&self) -> io::Result<()> {
        self.fault_plan.start()
    }

    /// A request that comes with the connection is answered at once.
    fn try_serve(&self, socket: &Unregistered<'_>) -> io::Result<Progress<Self::State>> {
        self.hear(socket, Box::new(Exchange::new()))
    }

    fn on_timer(&self, socket: &Unregistered<'_>, exchange: Self::State) -> io::Result<Progress<Self::State>> {
        if exchange.reply.is_some() { self.go_on(socket, exchange) } else { self.hear(socket, exchange) }
    }

    async fn finish(&self, connection: &mut Connection, mut exchange: Self::State) -> io::Result<Ending> {
        loop {
            if let Some(reply) = exchange.reply.take() {
                // Boxed: most connections are not given anything just now.
                if let Some(how) = Box::pin(self.give_reply(connection, reply)).await? {
                    return Ok(how);
                }
                // A client that has asked for much at once must not keep others waiting.
                consume_budget().await;
            }
            match self.next_reply(connection, &mut exchange).await? {
                Some(reply) => exchange.reply = Some(reply),
                None => return Ok(Ending::Fin),
            }
        }
    }

    fn before_close(&self) {
        self.fault_plan.catch_up();
    }
}

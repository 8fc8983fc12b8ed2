//! The deliberately blocking server: one thread, one client at a time, the others wait in the listen queue.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rustix::net::SendFlags;
use socket2::SockRef;
use tracing::{debug, error, info, warn};

use super::fault_plan::{FaultPlan, Transfer, Watched};
use super::origin::{HEAD_TIME, Origin, SaidBy};
use super::wire::Body;
use crate::address::canonical;
use crate::errors::{is_for_later, reason};
use crate::net::counts::Counts;
use crate::net::{ACCEPT_PAUSE, Complaint, ListenLater, Stoppable, close, waiting};
use crate::pace::{Ending, Next};
use crate::poem::NamedPoem;
use crate::proto::http::head::{Room, request};
use crate::sync::lock;
use crate::units::{count, human, micros};

/// The shortest time limit a socket can have: zero would be none, see socket(7).
const SHORTEST: Duration = Duration::from_micros(1);

/// A server that gives out one file at a set pace.
#[derive(Debug)]
pub struct SlowServer {
    /// A file is opened afresh for every client.
    pub poem: NamedPoem,
    /// When to send how much, and with which faults.
    pub fault_plan: FaultPlan,
    /// A client that takes nothing for so long is dropped; it may take up to twice as long if it took something
    /// in between. `None`: never.
    pub write_timeout: Option<Duration>,
    /// Serve so many clients, then stop. `None`: any number.
    pub clients: Option<u64>,
    /// If its socket is bound, and does not listen yet.
    pub listen_later: Option<ListenLater>,
    /// Over HTTP, one reply a connection, and who says where that ends; or else as the bare poem.
    pub http: Option<SaidBy>,
    /// Read nothing of what clients send, and let their connections end only when they leave.
    pub never_read: bool,
}

/// Stops a [`SlowServer`] from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    listener: TcpListener,
    counts: Arc<Counts>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closing: bool,
    aborting: bool,
    /// The client being served.
    client: Option<Arc<TcpStream>>,
    /// The same, if it is recorded when it leaves.
    watched: Option<Watched>,
    /// Nothing will be sent to it any more, although it waits.
    hanging: bool,
}

impl State {
    fn reset_client(&mut self) {
        if let Some(watched) = self.watched.take() {
            watched.forget();
        }
        if let Some(client) = self.client.take() {
            close::reset_now(&client);
        }
    }
}

/// Why a transfer did not end as planned.
enum Lost {
    Gone(io::Error),
    Stalled(Duration),
    Aborted,
}

impl Stopper {
    /// A stop for a server that will run on `listener`.
    pub fn new(listener: TcpListener) -> Self {
        // Whatever happens before the whole poem is sent, and be it the end of the process, it is a reset. Sockets inherit
        // that from now on; to those that wait in the queue already it is said when they are accepted.
        close::abruptly(&SockRef::from(&listener));
        let counts = Arc::default();
        Self(Arc::new(Shared { listener, counts, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// What the server has done so far. Of a client under way, the bytes are counted already.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.0.counts
    }
}

impl Stoppable for Stopper {
    /// Closes the door: clients that come now, or wait in the queue, are refused. The client being served is served to
    /// the end.
    fn close(&self) {
        let mut state = self.0.lock();
        state.closing = true;
        if state.hanging {
            state.reset_client();
        }
        drop(state);
        // On a listening socket this ends the listening, and an accept(2) that waits.
        let _ = SockRef::from(&self.0.listener).shutdown(Shutdown::Both);
        self.0.changed.notify_all();
    }

    /// Resets the client being served, whatever its thread waits for.
    fn abort(&self) {
        self.close();
        let mut state = self.0.lock();
        state.aborting = true;
        state.reset_client();
        drop(state);
        self.0.changed.notify_all();
    }

    fn is_closing(&self) -> bool {
        self.0.lock().closing
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Makes this the client that [`abort`](Stoppable::abort) resets; false if the server was aborted already.
    fn admit(&self, client: &Arc<TcpStream>) -> bool {
        let mut state = self.lock();
        state.client = Some(Arc::clone(client));
        !state.aborting
    }

    /// Notes that it is to be recorded when the client being served leaves; but not what [`abort`](Stoppable::abort)
    /// does to it.
    fn watch(&self, watched: Option<Watched>) {
        let mut state = self.lock();
        match &watched {
            Some(watched) if state.aborting => watched.forget(),
            _ => state.watched = watched,
        }
    }

    /// Forgets the client being served.
    fn leave(&self) {
        let mut state = self.lock();
        (state.client, state.watched, state.hanging) = (None, None, false);
    }

    /// Sends nothing to a client until it leaves or the server stops. Returns whether it has only half-closed, and may
    /// still be there.
    fn hang(&self, mut client: &TcpStream, never_read: bool) -> bool {
        close::silently(&SockRef::from(client));
        {
            let mut state = self.lock();
            if state.closing {
                return false;
            }
            state.hanging = true;
        }
        if never_read {
            return until_left(client).is_ok() && !self.lock().closing;
        }
        let mut buffer = [0; 4 * 1024];
        loop {
            match client.read(&mut buffer) {
                Ok(0) => return !self.lock().closing,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return false,
                _ => {}
            }
        }
    }

    /// Sleeps, unless `over` is or becomes true.
    fn sleep(&self, duration: Duration, over: impl Fn(&State) -> bool) {
        let wait = self.changed.wait_timeout_while(self.lock(), duration, |state| !over(state));
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl SlowServer {
    /// Serves one client after the other until it is stopped or has served as many as it should.
    ///
    /// # Errors
    /// It could not listen when it was time for that.
    pub fn run(&self, stopper: &Stopper) -> io::Result<()> {
        let shared = &stopper.0;
        if let Some(later) = self.listen_later {
            shared.sleep(later.after, |state| state.closing);
            if !shared.lock().closing {
                later.listen(&shared.listener)?;
            }
        }
        let mut served = 0;
        let mut silent = Silent::default();
        let complaint = Complaint::default();
        while self.clients.is_none_or(|clients| served < clients) && !shared.lock().closing {
            match shared.listener.accept() {
                Ok((stream, peer)) => {
                    served += 1;
                    shared.counts.accept();
                    match self.serve(stream, canonical(peer), shared, &mut silent) {
                        true => shared.counts.serve(),
                        false => shared.counts.lose(),
                    }
                }
                Err(_) if shared.lock().closing => {}
                Err(error) => {
                    complaint.say(&error);
                    shared.sleep(ACCEPT_PAUSE, |state| state.closing);
                }
            }
        }
        Ok(())
    }

    /// Serves one client, and returns whether all was sent, as planned.
    fn serve(&self, stream: TcpStream, peer: SocketAddr, shared: &Shared, silent: &mut Silent) -> bool {
        if tracing::enabled!(tracing::Level::INFO) {
            match waiting(&shared.listener).unwrap_or_default() {
                0 => info!(%peer, "Somebody at {peer} wants poetry!"),
                1 => info!(%peer, waiting = 1, "Somebody at {peer} wants poetry! One more waits"),
                more => info!(%peer, waiting = more, "Somebody at {peer} wants poetry! {more} more wait"),
            }
        }
        let start = Instant::now();
        close::abruptly(&SockRef::from(&stream));
        let stream = Arc::new(stream);
        let _stay = shared.counts.begin_stay(&stream);
        if !shared.admit(&stream) {
            return false;
        }
        let Some((mut transfer, start)) = self.begin(&stream, peer, start) else {
            shared.leave();
            return false;
        };
        shared.watch(transfer.watched());
        let result = self.send(&stream, &mut transfer, shared);
        match &result {
            Ok(how) => self.fault_plan.end(&mut transfer, *how, Instant::now()),
            Err(Lost::Gone(error)) => transfer.lose(error, Instant::now()),
            Err(Lost::Stalled(_) | Lost::Aborted) => transfer.give_up(Instant::now()),
        }
        tell(peer, &transfer, start.elapsed(), &result);
        let is_served = result.is_ok();
        match result {
            // The polite close reads.
            Ok(Ending::Fin) if self.never_read => {
                if stream.shutdown(Shutdown::Write).is_ok() && shared.hang(&stream, true) {
                    silent.keep(Arc::clone(&stream));
                }
            }
            Ok(Ending::Fin) => {
                if let Err(error) = close::politely(&stream) {
                    debug!(%peer, "Closing the connection to {peer}: {}", reason(&error));
                }
            }
            Ok(Ending::Hang) => {
                if shared.hang(&stream, self.never_read) {
                    silent.keep(Arc::clone(&stream));
                }
            }
            Ok(Ending::Rst) | Err(_) => {}
        }
        // Once the socket is closed, nobody sees a client leave.
        self.fault_plan.catch_up();
        shared.leave();
        is_served
    }

    /// Begins the transfer to a client that was accepted at the moment `start`, and returns it with the moment from which its
    /// times count. `None`: there is none, or nobody for it.
    fn begin(&self, stream: &TcpStream, peer: SocketAddr, start: Instant) -> Option<(Transfer, Instant)> {
        let load = || {
            let loaded = self.poem.load();
            loaded.inspect_err(|error| error!(%peer, "Cannot read {}: {}; resetting {peer}", self.poem, reason(error)))
        };
        let Some(said_by) = self.http else {
            let Ok(poem) = load() else {
                self.fault_plan.refuse(&peer, start, stream);
                return None;
            };
            return Some((self.fault_plan.begin(&peer, Body::Plain(poem), start, stream), start));
        };
        let mut arrived = Vec::new();
        let answer = match hear(stream, &mut arrived, start) {
            Ok(()) => {
                let mut room = Room::default();
                match request(&arrived, &mut room) {
                    Ok(Some(request)) => {
                        Origin::of_poem(load().ok()?, self.poem.path(), said_by).answer(&request, true)
                    }
                    Ok(None) => return None,
                    Err(bad) => Origin::refuse(bad),
                }
            }
            Err(error) if is_for_later(&error) => Origin::time_out(),
            Err(error) => {
                debug!(%peer, "Lost {peer}: {}", reason(&error));
                return None;
            }
        };
        let now = Instant::now();
        info!(%peer, status = answer.status, "Answering {peer} with {}", answer.status);
        let transfer = match answer.is_planned {
            true => self.fault_plan.begin(&peer, answer.body, now, stream),
            false => Transfer::unplanned(answer.body, now),
        };
        Some((transfer, now))
    }

    /// Walks the schedule of a transfer, and returns how the connection is to end.
    fn send(&self, stream: &TcpStream, transfer: &mut Transfer, shared: &Shared) -> Result<Ending, Lost> {
        let lost = |error: io::Error| match error.kind() {
            _ if shared.lock().aborting => Lost::Aborted,
            io::ErrorKind::WouldBlock => Lost::Stalled(self.write_timeout.unwrap_or_default()),
            _ => Lost::Gone(error),
        };
        stream.set_nodelay(true).map_err(lost)?;
        let mut timeout = None;
        // Since when the client takes nothing.
        let mut stuck = None;
        loop {
            if shared.lock().aborting {
                return Err(Lost::Aborted);
            }
            let now = Instant::now();
            let left = transfer.time_left(now);
            match transfer.next(now) {
                Next::Wait(time) => pause(stream, time).map_err(lost)?,
                Next::Send { bytes, .. } => {
                    let len = bytes.end - bytes.start;
                    if len > 0 {
                        debug!("Sending {}", count(len, "byte"));
                    }
                    let waited = now.saturating_duration_since(*stuck.get_or_insert(now));
                    let patience = self.write_timeout.map(|limit| limit.saturating_sub(waited).max(SHORTEST));
                    let limit = patience.into_iter().chain(left).min();
                    // Constant for a client that takes every piece at once, unless there is a cut by time.
                    if limit != timeout {
                        stream.set_write_timeout(limit).map_err(lost)?;
                        timeout = limit;
                    }
                    let socket = stream.as_fd();
                    let taken = match transfer.send(socket, bytes.clone(), SendFlags::empty(), Instant::now) {
                        // A blocked send(2) waits for a good part of the buffer to be free; less is progress, too.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            let first = bytes.start..bytes.end.min(bytes.start + 1);
                            transfer.send(socket, first, SendFlags::DONTWAIT, Instant::now).map_err(|_| error)
                        }
                        taken => taken,
                    };
                    let cut = || left.is_some_and(|left| now.elapsed() >= left);
                    match taken {
                        Ok(n) => {
                            shared.counts.send(n);
                            stuck = None;
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock && cut() => {}
                        Err(error) => return Err(lost(error)),
                    }
                }
                Next::Flush => {
                    close::await_departure(stream, self.write_timeout).map_err(lost)?;
                    transfer.flushed();
                }
                Next::End(how) => return Ok(how),
            }
        }
    }
}

/// Reads the head of a request, or as much as there is before the end of the stream.
///
/// # Errors
/// The connection broke; or the head is not whole in time (`WouldBlock`).
fn hear(mut stream: &TcpStream, arrived: &mut Vec<u8>, since: Instant) -> io::Result<()> {
    let mut buffer = [0; 4 * 1024];
    while let Ok(None) = request(arrived, &mut Room::default()) {
        let left = HEAD_TIME.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => arrived.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.set_read_timeout(None)
}

/// Sleeps, unless the connection is reset by the client, or [`abort`](Stoppable::abort).
fn pause(stream: &TcpStream, time: Duration) -> io::Result<()> {
    // With no events asked for, there are errors to be told of and nothing else, see poll(2).
    let mut socket = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    match ppoll(&mut socket, Some(TimeSpec::from_duration(time)), None) {
        Ok(0) | Err(Errno::EINTR) => Ok(()),
        Ok(_) => Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the peer of a connection closes its side or resets it, and reads nothing.
///
/// # Errors
/// It was reset.
fn until_left(stream: &TcpStream) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], None))?;
    stream.take_error()?.map_or(Ok(()), Err)
}

/// Hanging connections whose clients have half-closed, and may be there still: they are kept open while others are served.
#[derive(Default)]
struct Silent(VecDeque<Arc<TcpStream>>);

impl Silent {
    /// More would cost descriptors that clients need.
    const MOST: usize = 100;

    fn keep(&mut self, stream: Arc<TcpStream>) {
        self.0.retain(|stream| matches!(stream.take_error(), Ok(None)));
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(stream);
    }
}

/// The summary of one transfer.
fn tell(peer: SocketAddr, transfer: &Transfer, elapsed: Duration, result: &Result<Ending, Lost>) {
    let time = human(elapsed);
    let (bytes, elapsed_us) = (transfer.bytes_sent(), micros(elapsed));
    let whole = || count(transfer.len(), "byte");
    match result {
        Ok(how) => match transfer.cut(&peer, *how, elapsed) {
            Some(cut) => info!(%peer, bytes, elapsed_us, "{cut}"),
            None => info!(%peer, bytes, elapsed_us, "Sent {} to {peer} in {time}", whole()),
        },
        Err(Lost::Gone(error)) => {
            let why = reason(error);
            info!(%peer, bytes, elapsed_us, "{peer} went away after {bytes} of {} in {time}: {why}", whole());
        }
        Err(Lost::Stalled(limit)) => {
            let limit = humantime::format_duration(*limit);
            warn!(%peer, bytes, elapsed_us, "Dropped {peer} after {bytes} of {}: it took none for {limit}", whole());
        }
        Err(Lost::Aborted) => {
            warn!(%peer, bytes, elapsed_us, "Reset {peer} after {bytes} of {}: stopping", whole());
        }
    }
}

//! The polite close of `close.rs`, for very many connections.
//!
//! Most peers close a moment after they have seen the end of the stream. A task that waits for each of them would cost
//! more than serving them: a socket whose writing side is shut down is put into a queue instead, and a little later read
//! once without waiting (a *look*). Only a connection that is still open after a second look gets a task.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;
use socket2::SockRef;
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::close::{self, Drain};
use super::counts::Permit;
use crate::errors::is_for_later;

/// Bounds of the time from the end of the stream to the first look.
const SOONEST: Duration = Duration::from_millis(2);
const LATEST: Duration = Duration::from_millis(250);

/// The second look, if there is one, comes so many times later.
const SECOND: u32 = 4;

/// A look reads no more than this from a peer that talks; more is for its task.
const LOOK_BYTES: usize = 4 * 1024;

/// The connections of one worker whose writing side is shut down.
#[derive(Debug)]
pub(super) struct Lingering {
    /// Not looked at yet, and looked at once; each in order of time.
    queues: [VecDeque<Parting>; 2],
    /// The time to the first look. It adapts to the peers: about one look in sixteen is too early. A look too early costs
    /// a second one, a look too late holds sockets that nobody needs.
    patience: Duration,
    /// Set once for many looks: to set it costs as much as a few of them.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Default for Lingering {
    fn default() -> Self {
        Self { queues: Default::default(), patience: SOONEST, timer: None }
    }
}

#[derive(Debug)]
struct Parting {
    socket: TcpStream,
    drain: Drain,
    due: Instant,
    permit: Permit,
}

impl Lingering {
    /// Shuts down the writing side of a socket, and lingers.
    pub(super) fn add(&mut self, socket: TcpStream, permit: Permit) {
        if socket.shutdown(Shutdown::Write).is_err() {
            return; // The peer is gone.
        }
        let due = Instant::now() + self.patience;
        self.queues[0].push_back(Parting { socket, drain: Drain::start(), due, permit });
    }

    /// Closes those whose peers are gone, among those that are due.
    pub(super) fn look(&mut self, tasks: &TaskTracker) {
        if self.queues.iter().all(VecDeque::is_empty) {
            return;
        }
        let now = Instant::now();
        while let Some(mut parting) = pop_due(&mut self.queues[0], now) {
            if parting.is_over() {
                self.patience = (self.patience - self.patience / 256).max(SOONEST);
            } else {
                self.patience = (self.patience + self.patience / 16).min(LATEST);
                parting.due = now + self.patience * SECOND;
                self.queues[1].push_back(parting);
            }
        }
        while let Some(mut parting) = pop_due(&mut self.queues[1], now) {
            if !parting.is_over() {
                parting.into_task(tasks);
            }
        }
    }

    /// Looks at all of them, because others need their places.
    pub(super) fn look_now(&mut self, tasks: &TaskTracker) {
        self.patience = SOONEST;
        let now = Instant::now();
        for parting in self.queues.iter_mut().flatten() {
            parting.due = now;
        }
        self.timer = None;
        self.look(tasks);
    }

    /// Waits until the next look is due.
    pub(super) async fn next_look(&mut self) {
        let Some(due) = self.queues.iter().filter_map(|queue| queue.front()).map(|parting| parting.due).min() else {
            return pending().await;
        };
        if self.timer.as_ref().is_some_and(|timer| timer.deadline() > due.into()) {
            self.timer = None;
        }
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(due.into()))).await;
        self.timer = None;
    }

    /// Gives each that is left a task.
    pub(super) fn into_tasks(self, tasks: &TaskTracker) {
        for parting in self.queues.into_iter().flatten() {
            parting.into_task(tasks);
        }
    }
}

fn pop_due(queue: &mut VecDeque<Parting>, now: Instant) -> Option<Parting> {
    if queue.front()?.due <= now { queue.pop_front() } else { None }
}

impl Parting {
    /// One look: whether the peer has closed, or is gone.
    fn is_over(&mut self) -> bool {
        let mut buffer = [0; LOOK_BYTES];
        match self.socket.read(&mut buffer) {
            Ok(0) => true,
            Ok(n) => {
                self.drain.discard(n);
                false
            }
            Err(error) => !is_for_later(&error),
        }
    }

    fn into_task(self, tasks: &TaskTracker) {
        tasks.spawn(async move {
            if let Ok(stream) = tokio::net::TcpStream::from_std(self.socket) {
                drain(&stream, self.drain).await;
            }
            drop(self.permit);
        });
    }
}

/// The polite close ([`super::close::politely`]) of a connection that has a task already.
pub(super) async fn close_politely(stream: &tokio::net::TcpStream) {
    if SockRef::from(stream).shutdown(Shutdown::Write).is_ok() {
        drain(stream, Drain::start()).await;
    }
}

/// The polite close of an idle connection: FIN, without waiting for the peer, if everything that was sent has left for it
/// and it is silent. Else it could still lose something by RST, and is waited for as any other.
pub(super) async fn close_idle(stream: &tokio::net::TcpStream) {
    let socket = SockRef::from(stream);
    // Asked first: a socket that is shut down is always writable.
    let has_all = close::call_when_unsent(&socket, 1).is_ok()
        && close::has_departed(stream, PollTimeout::ZERO).is_ok_and(|it| it);
    let is_silent = || matches!(socket.peek(&mut [MaybeUninit::uninit()]), Err(error) if is_for_later(&error));
    if socket.shutdown(Shutdown::Write).is_ok() && !(has_all && is_silent()) {
        drain(stream, Drain::start()).await;
    }
}

/// Reads and discards until the peer closes, or it is enough.
async fn drain(stream: &tokio::net::TcpStream, mut drain: Drain) {
    while let left = drain.left()
        && !left.is_zero()
    {
        let readable = poll_fn(|context| stream.poll_read_ready(context));
        if !matches!(timeout(left, readable).await, Ok(Ok(()))) {
            return;
        }
        let mut buffer = [0; LOOK_BYTES];
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => drain.discard(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

//! A subscriber, as those see it who send to it: they put messages into its socket themselves, and into its outbox only
//! what the socket does not take.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Instant;

use tokio_util::bytes::Bytes;
use tracing::{info, warn};

use super::frames::Frames;
use super::line::Taker;
use super::losses::{Losses, Tale};
use super::outbox::{Outbox, WhenFull};
use super::tally::{Loss, Tally};
use crate::errors::is_for_later;
use crate::net::{Outlet, Peer};
use crate::server::printable;
use crate::sync::lock;
use crate::units::{count, human};

/// Parts of one sendmsg(2).
const PARTS: usize = 64;

/// Whoever listens to a channel.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) peer: Peer,
    pub(super) channel: Bytes,
    when_full: WhenFull,
    tally: Arc<Tally>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` as soon as nothing more can be sent.
    outlet: Option<Outlet>,
    outbox: Outbox,
    /// Its socket takes nothing now; its task waits until that is over, and nobody else tries.
    is_blocked: bool,
    /// Why its connection is to be reset.
    fate: Option<Fate>,
    /// Its task, if it waits for something to do.
    task: Option<Waker>,
    delivered: u64,
    dropped: u64,
    full_since: Option<Instant>,
    losses: Losses,
}

/// Why a subscriber's connection is to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It broke.
    Broken(io::ErrorKind),
    /// Its outbox was full.
    Disconnected,
}

/// A subscriber for the table of all.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) peer: Peer,
    pub(super) channel: Bytes,
    pub(super) queued: usize,
    pub(super) weight: usize,
    pub(super) delivered: u64,
    pub(super) dropped: u64,
    pub(super) full_since: Option<Instant>,
}

impl Subscriber {
    pub(super) fn new(
        peer: Peer,
        channel: Bytes,
        outlet: Outlet,
        (limit, when_full): (usize, WhenFull),
        tally: &Arc<Tally>,
    ) -> Self {
        let state = State {
            outlet: Some(outlet),
            outbox: Outbox::new(limit),
            is_blocked: false,
            fate: None,
            task: None,
            delivered: 0,
            dropped: 0,
            full_since: None,
            losses: Losses::default(),
        };
        Self { peer, channel, when_full, tally: Arc::clone(tally), state: Mutex::new(state) }
    }

    /// Delivers messages of a topic, as far as the socket and the outbox take them, and does with the others what the
    /// policy says. Returns those for which the sender has to wait.
    pub(super) fn deliver(&self, frames: &Frames) -> Option<Frames> {
        let state = &mut *lock(&self.state);
        let Some(outlet) = &state.outlet else {
            self.tally.lose(Loss::Gone, frames.count() as u64);
            return None;
        };
        let (mut whole, mut begun) = (0, 0);
        if state.outbox.is_empty() {
            match outlet.send(frames.bytes()) {
                Ok(sent) => (whole, begun) = frames.within_bytes(sent),
                Err(error) if is_for_later(&error) => {}
                Err(error) => {
                    state.condemn(Fate::Broken(error.kind()));
                    self.tally.lose(Loss::Gone, frames.count() as u64);
                    return None;
                }
            }
            state.delivered += whole as u64;
            self.tally.deliver(whole as u64);
        }
        let rest = frames.after(whole)?;
        if !state.is_blocked {
            state.block();
        }
        let admission = state.outbox.admit(rest, begun, self.when_full);
        let loss = Loss::of(self.when_full);
        if admission.dropped > 0 {
            self.lose(state, loss, admission.dropped);
        }
        let left = admission.left?;
        if self.when_full == WhenFull::Disconnect {
            let lost = state.outbox.count() + left.count();
            let queued = state.outbox.weight();
            warn!(
                peer = %self.peer,
                "Disconnected {} from {}: it has not taken {} that wait for it ({})",
                self.peer, printable(&self.channel), count(queued as u64, "byte"), self.when_full
            );
            drop(state.outbox.take_all());
            state.condemn(Fate::Disconnected);
            state.dropped += lost as u64;
            self.tally.lose(loss, lost as u64);
            return None;
        }
        self.lose(state, loss, 0);
        Some(left)
    }

    /// Tells, now and then, that messages are lost, or wait.
    fn lose(&self, state: &mut State, loss: Loss, lost: u64) {
        let now = Instant::now();
        state.full_since.get_or_insert(now);
        state.dropped += lost;
        self.tally.lose(loss, lost);
        if let Some(tale) = state.losses.lose(lost, now) {
            self.tell(tale, state.outbox.weight());
        }
    }

    fn tell(&self, tale: Tale, queued: usize) {
        let Self { peer, channel, when_full, .. } = self;
        let (channel, queued) = (printable(channel), count(queued as u64, "byte"));
        if *when_full == WhenFull::Wait {
            return match tale {
                Tale::Ended(_, time) => {
                    info!(%peer, "{peer} holds up nobody on {channel} any more, after {}", human(time));
                }
                Tale::Begins | Tale::GoesOn(..) => {
                    warn!(%peer, "{peer} holds up who sends to {channel}: {queued} wait for it ({when_full})");
                }
            };
        }
        match tale {
            Tale::Begins => {
                warn!(%peer, "Dropping messages for {peer} on {channel}: {queued} wait for it ({when_full})");
            }
            Tale::GoesOn(lost, time) => {
                let (messages, time) = (count(lost, "message"), human(time));
                warn!(%peer, lost, "Still dropping messages for {peer} on {channel}: {messages} in {time} ({when_full})");
            }
            Tale::Ended(lost, time) => {
                let (messages, time) = (count(lost, "message"), human(time));
                warn!(%peer, lost, "Dropped {messages} for {peer} on {channel} in {time} ({when_full})");
            }
        }
    }

    /// Waits until its socket takes nothing, and something is to be sent.
    ///
    /// # Errors
    /// Its connection is to be reset.
    pub(super) async fn blocked(&self) -> Result<(), Fate> {
        self.becomes(|state| match state.fate {
            Some(fate) => Some(Err(fate)),
            None => state.is_blocked.then_some(Ok(())),
        })
        .await
    }

    /// Waits until its connection is to be reset.
    pub(super) async fn doomed(&self) -> Fate {
        self.becomes(|state| state.fate).await
    }

    async fn becomes<T>(&self, what: impl Fn(&State) -> Option<T>) -> T {
        poll_fn(|context| {
            let state = &mut *lock(&self.state);
            if let Some(found) = what(state) {
                return Poll::Ready(found);
            }
            match &mut state.task {
                Some(task) => task.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// Sends what it is to get as far as its socket takes that. The outlet counts it.
    ///
    /// # Errors
    /// `WouldBlock`: the socket takes nothing now. Else the connection broke.
    pub(super) fn unblock(&self) -> io::Result<usize> {
        let state = &mut *lock(&self.state);
        let before = state.outbox.weight();
        self.send(state);
        match state.fate {
            Some(Fate::Broken(kind)) => Err(kind.into()),
            Some(Fate::Disconnected) => Err(io::ErrorKind::ConnectionReset.into()),
            None if state.is_blocked && state.outbox.weight() == before => Err(io::ErrorKind::WouldBlock.into()),
            None => Ok(0),
        }
    }

    fn send(&self, state: &mut State) {
        while !state.outbox.is_empty()
            && let Some(outlet) = &state.outlet
        {
            let mut parts = [IoSlice::new(&[]); PARTS];
            match outlet.send_parts(state.outbox.unsent(&mut parts)) {
                Ok(sent) => {
                    let whole = state.outbox.sent(sent);
                    state.delivered += whole;
                    self.tally.deliver(whole);
                }
                Err(error) if is_for_later(&error) => return state.block(),
                Err(error) => return state.condemn(Fate::Broken(error.kind())),
            }
        }
        state.is_blocked = false;
        if state.full_since.take().is_some()
            && let Some(tale) = state.losses.recover(Instant::now())
        {
            self.tell(tale, 0);
        }
    }

    /// Whether everything that it was to get is sent.
    pub(super) fn has_all(&self) -> bool {
        lock(&self.state).outbox.is_empty()
    }

    /// Ends all sending to it, lets go of its socket, and returns what it did not get.
    pub(super) fn end(&self) -> Vec<Frames> {
        let state = &mut *lock(&self.state);
        state.outlet = None;
        if let Some(tale) = state.losses.end(Instant::now()) {
            self.tell(tale, state.outbox.weight());
        }
        state.outbox.take_all().into()
    }

    /// It is lost to these messages.
    pub(super) fn lose_gone(&self, frames: &[Frames]) {
        self.tally.lose(Loss::Gone, frames.iter().map(|run| run.count() as u64).sum());
    }

    pub(super) fn row(&self) -> Row {
        let state = lock(&self.state);
        Row {
            peer: self.peer,
            channel: self.channel.clone(),
            queued: state.outbox.count(),
            weight: state.outbox.weight(),
            delivered: state.delivered,
            dropped: state.dropped,
            full_since: state.full_since,
        }
    }
}

impl Taker for Arc<Subscriber> {
    fn take(&self, frame: &Frames) -> bool {
        let state = &mut *lock(&self.state);
        if state.outbox.room_for(frame) == 0 && !state.is_blocked {
            self.send(state);
        }
        if state.outlet.is_none() {
            return false;
        }
        if state.outbox.room_for(frame) == 0 {
            state.full_since.get_or_insert_with(Instant::now);
            return false;
        }
        state.outbox.admit(frame.clone(), 0, WhenFull::Wait);
        true
    }

    fn send_taken(&self) {
        let state = &mut *lock(&self.state);
        if !state.is_blocked {
            self.send(state);
        }
    }
}

impl State {
    fn block(&mut self) {
        self.is_blocked = true;
        self.wake();
    }

    fn condemn(&mut self, fate: Fate) {
        self.outlet = None;
        self.fate.get_or_insert(fate);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

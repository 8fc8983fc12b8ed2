//! A subscriber, as those see it who send to it: they put messages into its socket themselves, and into its outbox only
//! what the socket does not take.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
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

/// Whoever listens to a channel. Most take everything at once: what is only for the others is apart, and made for them.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) peer: Peer,
    pub(super) terms: Arc<Terms>,
    state: Mutex<State>,
}

/// What is the same for all subscribers of a channel. There may be very many: it is in memory once.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) channel: Bytes,
    /// The limit of an outbox, in bytes.
    pub(super) queue: usize,
    pub(super) when_full: WhenFull,
    pub(super) tally: Arc<Tally>,
}

/// As small as it can be: a thousand who wait hold a thousand of it.
#[derive(Debug)]
struct State {
    /// `None` as soon as nothing more can be sent.
    outlet: Option<Outlet>,
    /// Its task, if it waits for something to do.
    task: Option<Waker>,
    delivered: u64,
    backlog: Option<Box<Backlog>>,
}

/// What has not been taken at once.
#[derive(Debug)]
struct Backlog {
    outbox: Outbox,
    /// Its socket takes nothing now; its task waits until that is over, and nobody else tries.
    is_blocked: bool,
    /// Why its connection is to be reset.
    fate: Option<Fate>,
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
    pub(super) fn new(peer: Peer, terms: Arc<Terms>, outlet: Outlet) -> Self {
        let state = State { outlet: Some(outlet), task: None, delivered: 0, backlog: None };
        Self { peer, terms, state: Mutex::new(state) }
    }

    pub(super) fn channel(&self) -> &Bytes {
        &self.terms.channel
    }

    /// Delivers messages of a topic, as far as the socket and the outbox take them, and does with the others what the
    /// policy says. Returns those for which the sender has to wait.
    pub(super) fn deliver(&self, frames: &Frames) -> Option<Frames> {
        let state = &mut *lock(&self.state);
        let Some(outlet) = &state.outlet else {
            self.terms.tally.lose(Loss::Gone, frames.count() as u64);
            return None;
        };
        let (mut whole, mut begun) = (0, 0);
        if state.has_all() {
            match outlet.send(frames.bytes()) {
                Ok(sent) => (whole, begun) = frames.within_bytes(sent),
                Err(error) if is_for_later(&error) => {}
                Err(error) => {
                    state.condemn(Fate::Broken(error.kind()), self.terms.queue);
                    self.terms.tally.lose(Loss::Gone, frames.count() as u64);
                    return None;
                }
            }
            state.delivered += whole as u64;
            self.terms.tally.deliver(whole as u64);
        }
        let rest = frames.after(whole)?;
        if !state.is_blocked() {
            state.block(self.terms.queue);
        }
        let backlog = state.backlog(self.terms.queue);
        let admission = backlog.outbox.admit(rest, begun, self.terms.when_full);
        if admission.dropped > 0 {
            self.lose(backlog, admission.dropped);
        }
        let left = admission.left?;
        if self.terms.when_full != WhenFull::Disconnect {
            self.lose(backlog, 0);
            return Some(left);
        }
        let lost = (backlog.outbox.count() + left.count()) as u64;
        let queued = count(backlog.outbox.weight() as u64, "byte");
        let (peer, Terms { channel, when_full, .. }) = (self.peer, &*self.terms);
        let channel = printable(channel);
        warn!(%peer, "Disconnected {peer} from {channel}: it has not taken {queued} that wait for it ({when_full})");
        drop(backlog.outbox.take_all());
        backlog.dropped += lost;
        self.terms.tally.lose(Loss::Disconnect, lost);
        state.condemn(Fate::Disconnected, self.terms.queue);
        None
    }

    /// Notes that messages are lost, or wait, and tells so now and then.
    fn lose(&self, backlog: &mut Backlog, lost: u64) {
        let now = Instant::now();
        backlog.full_since.get_or_insert(now);
        backlog.dropped += lost;
        self.terms.tally.lose(Loss::of(self.terms.when_full), lost);
        if let Some(tale) = backlog.losses.lose(lost, now) {
            self.tell(tale, backlog.outbox.weight());
        }
    }

    fn tell(&self, tale: Tale, queued: usize) {
        let (peer, Terms { channel, when_full, .. }) = (self.peer, &*self.terms);
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
        self.becomes(|state| match state.fate() {
            Some(fate) => Some(Err(fate)),
            None => state.is_blocked().then_some(Ok(())),
        })
        .await
    }

    /// Waits until its connection is to be reset.
    pub(super) async fn doomed(&self) -> Fate {
        self.becomes(State::fate).await
    }

    async fn becomes<T>(&self, what: impl Fn(&State) -> Option<T>) -> T {
        poll_fn(|context| self.poll(context, &what)).await
    }

    fn poll<T>(&self, context: &Context<'_>, what: impl Fn(&State) -> Option<T>) -> Poll<T> {
        let state = &mut *lock(&self.state);
        if let Some(found) = what(state) {
            return Poll::Ready(found);
        }
        match &mut state.task {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether there is nothing for its task to do.
    pub(super) fn is_calm(&self) -> bool {
        let state = lock(&self.state);
        state.fate().is_none() && !state.is_blocked()
    }

    /// Ready when there is something for its task to do.
    pub(super) fn poll_busy(&self, context: &Context<'_>) -> Poll<()> {
        self.poll(context, |state| (state.fate().is_some() || state.is_blocked()).then_some(()))
    }

    /// Sends what it is to get as far as its socket takes that. The outlet counts it.
    ///
    /// # Errors
    /// `WouldBlock`: the socket takes nothing now. Else the connection broke.
    pub(super) fn unblock(&self) -> io::Result<usize> {
        let state = &mut *lock(&self.state);
        let weight = |state: &State| state.backlog.as_ref().map_or(0, |backlog| backlog.outbox.weight());
        let before = weight(state);
        self.send(state);
        match state.fate() {
            Some(Fate::Broken(kind)) => Err(kind.into()),
            Some(Fate::Disconnected) => Err(io::ErrorKind::ConnectionReset.into()),
            None if state.is_blocked() && weight(state) == before => Err(io::ErrorKind::WouldBlock.into()),
            None => Ok(0),
        }
    }

    fn send(&self, state: &mut State) {
        while let (Some(outlet), Some(backlog)) = (&state.outlet, &mut state.backlog)
            && !backlog.outbox.is_empty()
        {
            let mut parts = [IoSlice::new(&[]); PARTS];
            match outlet.send_parts(backlog.outbox.unsent(&mut parts)) {
                Ok(sent) => {
                    let whole = backlog.outbox.sent(sent);
                    state.delivered += whole;
                    self.terms.tally.deliver(whole);
                }
                Err(error) if is_for_later(&error) => return state.block(self.terms.queue),
                Err(error) => return state.condemn(Fate::Broken(error.kind()), self.terms.queue),
            }
        }
        let Some(backlog) = &mut state.backlog else { return };
        backlog.is_blocked = false;
        if backlog.full_since.take().is_some()
            && let Some(tale) = backlog.losses.recover(Instant::now())
        {
            self.tell(tale, 0);
        }
    }

    /// Whether everything that it was to get is sent.
    pub(super) fn has_all(&self) -> bool {
        lock(&self.state).has_all()
    }

    /// Ends all sending to it, lets go of its socket, and returns what it did not get.
    pub(super) fn end(&self) -> Vec<Frames> {
        let state = &mut *lock(&self.state);
        state.outlet = None;
        let Some(backlog) = &mut state.backlog else { return Vec::new() };
        if let Some(tale) = backlog.losses.end(Instant::now()) {
            self.tell(tale, backlog.outbox.weight());
        }
        backlog.outbox.take_all().into()
    }

    /// It is lost to these messages.
    pub(super) fn lose_gone(&self, frames: &[Frames]) {
        self.terms.tally.lose(Loss::Gone, frames.iter().map(|run| run.count() as u64).sum());
    }

    pub(super) fn row(&self) -> Row {
        let state = lock(&self.state);
        let backlog = state.backlog.as_deref();
        Row {
            peer: self.peer,
            channel: self.channel().clone(),
            queued: backlog.map_or(0, |backlog| backlog.outbox.count()),
            weight: backlog.map_or(0, |backlog| backlog.outbox.weight()),
            delivered: state.delivered,
            dropped: backlog.map_or(0, |backlog| backlog.dropped),
            full_since: backlog.and_then(|backlog| backlog.full_since),
        }
    }
}

impl Taker for Arc<Subscriber> {
    fn take(&self, frame: &Frames) -> bool {
        let state = &mut *lock(&self.state);
        let has_room = |state: &mut State| state.backlog(self.terms.queue).outbox.room_for(frame) > 0;
        if !has_room(state) && !state.is_blocked() {
            self.send(state);
        }
        if state.outlet.is_none() {
            return false;
        }
        let fits = has_room(state);
        let backlog = state.backlog(self.terms.queue);
        if fits {
            backlog.outbox.admit(frame.clone(), 0, WhenFull::Wait);
        } else {
            backlog.full_since.get_or_insert_with(Instant::now);
        }
        fits
    }

    fn send_taken(&self) {
        let state = &mut *lock(&self.state);
        if !state.is_blocked() {
            self.send(state);
        }
    }
}

impl State {
    fn has_all(&self) -> bool {
        self.backlog.as_ref().is_none_or(|backlog| backlog.outbox.is_empty())
    }

    fn backlog(&mut self, queue: usize) -> &mut Backlog {
        self.backlog.get_or_insert_with(|| {
            let (is_blocked, fate, dropped, full_since, losses) = Default::default();
            Box::new(Backlog { outbox: Outbox::new(queue), is_blocked, fate, dropped, full_since, losses })
        })
    }

    fn is_blocked(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.is_blocked)
    }

    fn fate(&self) -> Option<Fate> {
        self.backlog.as_ref()?.fate
    }

    fn block(&mut self, queue: usize) {
        self.backlog(queue).is_blocked = true;
        self.wake();
    }

    fn condemn(&mut self, fate: Fate, queue: usize) {
        self.outlet = None;
        self.backlog(queue).fate.get_or_insert(fate);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

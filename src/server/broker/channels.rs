//! The channels of a broker: who listens to which, and who of them gets what.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::bytes::Bytes;

use super::frames::Frames;
use super::line::Line;
use super::outbox::WhenFull;
use super::subscriber::{Row, Subscriber, Terms};
use super::tally::{Kind, Loss, Tally};
use crate::net::{Stop, Stoppable};
use crate::sync::lock;

/// What the hold counts for a channel that exists only because messages are held for it.
const CHANNEL_OVERHEAD: usize = 512;

#[derive(Debug)]
enum Channel {
    Topic(Vec<Arc<Subscriber>>),
    Queue(Mutex<Line<Arc<Subscriber>>>),
}

impl Channel {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Queue => Self::Queue(Mutex::default()),
            Kind::Topic | Kind::Null => Self::Topic(Vec::new()),
        }
    }
}

/// A channel, and those who wait until there is room for their messages.
#[derive(Debug)]
struct Entry {
    channel: Channel,
    terms: Arc<Terms>,
    room: Arc<Notify>,
}

/// All channels of a broker. One lives while it has subscribers or held messages.
#[derive(Debug)]
pub(super) struct Channels {
    /// Whoever publishes only reads; whoever comes or goes writes.
    entries: RwLock<HashMap<Bytes, Entry>>,
    held: AtomicUsize,
    hold: usize,
    /// The hold has room, or somebody has come to a queue.
    room: Notify,
    /// Nobody comes any more: what waits for somebody is held.
    is_closing: AtomicBool,
    /// The limit of an outbox, in bytes, and what becomes of messages beyond it.
    outbox: (usize, WhenFull),
    tally: Arc<Tally>,
}

/// Messages that are not delivered yet.
#[derive(Debug)]
enum Waiting {
    /// Each subscriber without room has its own.
    Topic(Vec<(Arc<Subscriber>, Frames)>),
    Queue(Frames),
}

impl Waiting {
    fn count(&self) -> u64 {
        match self {
            Self::Topic(subscribers) => subscribers.iter().map(|(_, frames)| frames.count() as u64).sum(),
            Self::Queue(frames) => frames.count() as u64,
        }
    }
}

impl Channels {
    /// None yet. So many bytes of messages for queues are held while nobody is there to take them.
    pub(super) fn new(hold: usize, outbox: (usize, WhenFull), tally: &Arc<Tally>) -> Self {
        Self {
            entries: RwLock::default(),
            held: AtomicUsize::new(0),
            hold,
            room: Notify::new(),
            is_closing: AtomicBool::new(false),
            outbox,
            tally: Arc::clone(tally),
        }
    }

    /// Delivers messages, and waits until there is room for the last of them, if that is how the channel is; but no longer
    /// than `is_gone`, which tells that their sender is gone, and after a stop that takes `patience` at most.
    pub(super) async fn publish(
        &self,
        channel: &Bytes,
        frames: Frames,
        is_gone: impl Future,
        stop: &Stop,
        patience: Duration,
    ) {
        if let Some(waiting) = self.begin(channel, frames) {
            // Boxed: few wait.
            Box::pin(self.wait_for_room(channel, waiting, is_gone, stop, patience)).await;
        }
    }

    async fn wait_for_room(
        &self,
        channel: &Bytes,
        mut waiting: Waiting,
        is_gone: impl Future,
        stop: &Stop,
        patience: Duration,
    ) {
        let mut is_gone = pin!(is_gone);
        let mut is_over = pin!(async {
            stop.closing().await;
            sleep(patience).await;
        });
        loop {
            let nowhere = Arc::new(Notify::new());
            let its_room = self.read().get(channel).map_or(nowhere, |entry| Arc::clone(&entry.room));
            let (mut its_room, mut room) = (pin!(its_room.notified()), pin!(self.room.notified()));
            // Before the look: room that appears in between is noticed.
            its_room.as_mut().enable();
            room.as_mut().enable();
            match self.go_on(channel, waiting) {
                None => return,
                Some(left) => waiting = left,
            }
            tokio::select! {
                () = its_room => {}
                () = room => {}
                () = stop.closing(), if !self.is_closing.swap(stop.is_closing(), Relaxed) => {}
                // Nobody has told it that they are handed on; and it would keep its place until somebody makes room.
                _ = is_gone.as_mut() => return self.tally.lose(Loss::Unsent, waiting.count()),
                () = is_over.as_mut() => return self.tally.lose(Loss::Stop, waiting.count()),
            }
        }
    }

    fn begin(&self, channel: &Bytes, frames: Frames) -> Option<Waiting> {
        let (kind, count) = (Kind::of(channel), frames.count());
        let waiting = match kind {
            Kind::Queue => self.give_out(channel, frames).map(Waiting::Queue),
            Kind::Topic | Kind::Null => self.deliver(channel, &frames),
        };
        // Now, and not before: whoever sees that it was received sees what became of it.
        self.tally.receive(kind, count);
        waiting
    }

    /// Delivers messages of a topic to all its subscribers.
    fn deliver(&self, channel: &Bytes, frames: &Frames) -> Option<Waiting> {
        let entries = self.read();
        let Some(Entry { channel: Channel::Topic(subscribers), .. }) = entries.get(channel) else {
            self.tally.pass_over(frames.count());
            return None;
        };
        let waiting: Vec<_> = subscribers
            .iter()
            .filter_map(|subscriber| Some((Arc::clone(subscriber), subscriber.deliver(frames)?)))
            .collect();
        (!waiting.is_empty()).then_some(Waiting::Topic(waiting))
    }

    fn go_on(&self, channel: &Bytes, waiting: Waiting) -> Option<Waiting> {
        match waiting {
            Waiting::Queue(frames) => self.give_out(channel, frames).map(Waiting::Queue),
            Waiting::Topic(subscribers) => {
                let left = |(subscriber, frames): (Arc<Subscriber>, Frames)| {
                    let left = subscriber.deliver(&frames)?;
                    Some((subscriber, left))
                };
                let left: Vec<_> = subscribers.into_iter().filter_map(left).collect();
                (!left.is_empty()).then_some(Waiting::Topic(left))
            }
        }
    }

    /// Gives out messages of a queue, or holds them if nobody is there; returns those that have to wait.
    fn give_out(&self, channel: &Bytes, frames: Frames) -> Option<Frames> {
        self.with_line(channel, |line| {
            self.give_out_held(line, channel);
            match line.takers.is_empty() {
                true => self.hold(line, channel, &frames),
                // What is held is older.
                false if line.held.is_empty() => line.give_out(frames),
                false => Some(frames),
            }
        })
    }

    /// Holds messages as far as there is room.
    fn hold(&self, line: &mut Line<Arc<Subscriber>>, channel: &Bytes, frames: &Frames) -> Option<Frames> {
        let extra = if line.held.is_empty() { channel.len() + CHANNEL_OVERHEAD } else { 0 };
        let hold = if self.is_closing.load(Relaxed) { usize::MAX } else { self.hold };
        let room = hold.saturating_sub(self.held.load(Relaxed)).saturating_sub(extra);
        let fitting = frames.within_weight(room);
        if let Some(mut now) = frames.first(fitting) {
            now.compact();
            // Others may do so at the same time: then it is a little more than the limit, once.
            self.held.fetch_add(now.weight() + extra, Relaxed);
            line.held.push_back(now);
        }
        frames.after(fitting)
    }

    fn release(&self, weight: usize) {
        if weight > 0 {
            self.held.fetch_sub(weight, Relaxed);
            self.room.notify_waiters();
        }
    }

    /// Calls this with the line of a queue, which is made if there is none, and removed if nobody needs it afterwards.
    fn with_line<R>(&self, channel: &Bytes, call: impl FnOnce(&mut Line<Arc<Subscriber>>) -> R) -> R {
        let entries = self.read();
        if let Some(Entry { channel: Channel::Queue(line), .. }) = entries.get(channel) {
            return call(&mut lock(line));
        }
        drop(entries);
        let mut entries = self.write();
        let entry = entries.entry(channel.clone()).or_insert_with(|| Entry::of(Kind::Queue, self.new_terms(channel)));
        let Channel::Queue(line) = &mut entry.channel else { unreachable!("the name says what it is") };
        let line = line.get_mut().unwrap_or_else(PoisonError::into_inner);
        let result = call(line);
        if line.takers.is_empty() && line.held.is_empty() {
            entries.remove(channel);
        }
        result
    }

    /// The terms of a channel: those of whoever listens to it already, or new ones.
    pub(super) fn terms(&self, channel: &Bytes) -> Arc<Terms> {
        let known = self.read().get(channel).map(|entry| Arc::clone(&entry.terms));
        known.unwrap_or_else(|| self.new_terms(channel))
    }

    fn new_terms(&self, channel: &Bytes) -> Arc<Terms> {
        let (queue, when_full) = self.outbox;
        Arc::new(Terms { channel: channel.clone(), queue, when_full, tally: Arc::clone(&self.tally) })
    }

    /// Somebody subscribes.
    pub(super) fn join(&self, subscriber: &Arc<Subscriber>) {
        let kind = Kind::of(subscriber.channel());
        if kind == Kind::Null {
            return;
        }
        let mut entries = self.write();
        let entry = entries
            .entry(subscriber.channel().clone())
            .or_insert_with(|| Entry::of(kind, Arc::clone(&subscriber.terms)));
        match &mut entry.channel {
            Channel::Topic(subscribers) => subscribers.push(Arc::clone(subscriber)),
            Channel::Queue(line) => {
                let line = line.get_mut().unwrap_or_else(PoisonError::into_inner);
                line.join(Arc::clone(subscriber));
                self.give_out_held(line, subscriber.channel());
                self.room.notify_waiters();
            }
        }
    }

    fn give_out_held(&self, line: &mut Line<Arc<Subscriber>>, channel: &Bytes) {
        let was_held = !line.held.is_empty();
        let freed = line.give_out_held();
        let extra = if was_held && line.held.is_empty() { channel.len() + CHANNEL_OVERHEAD } else { 0 };
        self.release(freed + extra);
    }

    /// Somebody gets no more messages of its channel. What it has not got yet is still for it.
    pub(super) fn leave(&self, subscriber: &Arc<Subscriber>) {
        if Kind::of(subscriber.channel()) == Kind::Null {
            return;
        }
        let mut entries = self.write();
        let Some(entry) = entries.get_mut(subscriber.channel()) else { return };
        let is_needed = match &mut entry.channel {
            Channel::Topic(subscribers) => {
                subscribers.retain(|other| !Arc::ptr_eq(other, subscriber));
                !subscribers.is_empty()
            }
            Channel::Queue(line) => {
                let line = line.get_mut().unwrap_or_else(PoisonError::into_inner);
                line.leave(|other| Arc::ptr_eq(other, subscriber));
                !line.takers.is_empty() || !line.held.is_empty()
            }
        };
        entry.room.notify_waiters();
        if !is_needed {
            entries.remove(subscriber.channel());
        }
    }

    /// Messages of a queue that a subscriber did not get, and others shall.
    pub(super) fn give_back(&self, channel: &Bytes, frames: Vec<Frames>) {
        if frames.is_empty() {
            return;
        }
        self.with_line(channel, |line| {
            let extra = if line.held.is_empty() { channel.len() + CHANNEL_OVERHEAD } else { 0 };
            self.held.fetch_add(frames.iter().map(Frames::weight).sum::<usize>() + extra, Relaxed);
            for run in frames.into_iter().rev() {
                line.held.push_front(run);
            }
            self.give_out_held(line, channel);
        });
    }

    /// A subscriber has room again.
    pub(super) fn has_room(&self, channel: &Bytes) {
        let entries = self.read();
        let Some(entry) = entries.get(channel) else { return };
        if let Channel::Queue(line) = &entry.channel {
            self.give_out_held(&mut lock(line), channel);
        }
        entry.room.notify_waiters();
    }

    /// Bytes of messages that are held.
    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Messages that are held, by channel.
    pub(super) fn held_messages(&self) -> Vec<(Bytes, usize)> {
        let held = |(name, entry): (&Bytes, &Entry)| match &entry.channel {
            Channel::Queue(line) => Some((name.clone(), lock(line).held.iter().map(Frames::count).sum())),
            Channel::Topic(_) => None,
        };
        let mut all: Vec<_> = self.read().iter().filter_map(held).filter(|(_, count)| *count > 0).collect();
        all.sort();
        all
    }

    /// All subscribers.
    pub(super) fn rows(&self) -> Vec<Row> {
        let entries = self.read();
        let of = |entry: &Entry| -> Vec<Row> {
            match &entry.channel {
                Channel::Topic(subscribers) => subscribers.iter().map(|it| it.row()).collect(),
                Channel::Queue(line) => lock(line).takers.iter().map(|it| it.row()).collect(),
            }
        };
        entries.values().flat_map(of).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Bytes, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Bytes, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn of(kind: Kind, terms: Arc<Terms>) -> Self {
        Self { channel: Channel::of(kind), terms, room: Arc::default() }
    }
}

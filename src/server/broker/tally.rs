//! What a broker has done with messages so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::outbox::WhenFull;

/// Messages by what became of them. Every message for a subscriber is delivered, dropped, or queued still.
#[derive(Debug, Default)]
pub(super) struct Tally {
    received: [AtomicU64; Kind::ALL.len()],
    delivered: AtomicU64,
    dropped: [AtomicU64; Loss::ALL.len()],
    unheard: AtomicU64,
}

/// What a channel is for, which its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Each subscriber gets each message.
    Topic,
    /// One subscriber gets each message.
    Queue,
    /// Nobody gets any.
    Null,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Topic, Self::Queue, Self::Null];

    /// The kind of a channel, by the first bytes of its name.
    pub(super) fn of(channel: &[u8]) -> Self {
        match channel {
            super::pairs::NOWHERE => Self::Null,
            _ if channel.starts_with(b"/queue") => Self::Queue,
            _ => Self::Topic,
        }
    }

    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Queue => "queue",
            Self::Null => "null",
        }
    }
}

/// Why a message did not get to a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The subscriber's outbox was full, and the message was the new one.
    DropNew,
    /// The same, and it was the oldest one.
    DropOld,
    /// The same, and the subscriber was reset.
    Disconnect,
    /// The subscriber was gone before it took the message.
    Gone,
    /// Its sender was gone before there was room for it.
    Unsent,
    /// The broker stopped before anybody took it.
    Stop,
}

impl Loss {
    const ALL: [Self; 6] = [Self::DropNew, Self::DropOld, Self::Disconnect, Self::Gone, Self::Unsent, Self::Stop];

    /// The loss for a full outbox.
    pub(super) fn of(when_full: WhenFull) -> Self {
        match when_full {
            WhenFull::DropNew => Self::DropNew,
            WhenFull::DropOld => Self::DropOld,
            WhenFull::Disconnect => Self::Disconnect,
            // Who waits loses nothing before the end.
            WhenFull::Wait => Self::Stop,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::DropNew => "drop-new",
            Self::DropOld => "drop-old",
            Self::Disconnect => "disconnect",
            Self::Gone => "gone",
            Self::Unsent => "unsent",
            Self::Stop => "stop",
        }
    }
}

impl Tally {
    pub(super) fn receive(&self, kind: Kind, count: usize) {
        self.received[kind as usize].fetch_add(count as u64, Relaxed);
    }

    pub(super) fn deliver(&self, count: u64) {
        self.delivered.fetch_add(count, Relaxed);
    }

    pub(super) fn lose(&self, loss: Loss, count: u64) {
        self.dropped[loss as usize].fetch_add(count, Relaxed);
    }

    /// Nobody has subscribed to their channel.
    pub(super) fn pass_over(&self, count: usize) {
        self.unheard.fetch_add(count as u64, Relaxed);
    }

    /// Messages that were received, by the word for their channel's kind.
    pub(super) fn received(&self) -> [(&'static str, u64); 3] {
        Kind::ALL.map(|kind| (kind.word(), self.received[kind as usize].load(Relaxed)))
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Messages that were dropped, by the word for why.
    pub(super) fn dropped(&self) -> [(&'static str, u64); Loss::ALL.len()] {
        Loss::ALL.map(|loss| (loss.word(), self.dropped[loss as usize].load(Relaxed)))
    }

    pub(super) fn unheard(&self) -> u64 {
        self.unheard.load(Relaxed)
    }
}

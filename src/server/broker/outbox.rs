//! An outbox: the bounded queue of frames that one subscriber has not taken yet.
//!
//! It is a value: it has no socket and does not wait. Somebody sends what is [`unsent`](Outbox::unsent), and says how much
//! of it was [`sent`](Outbox::sent).

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;

use super::frames::Frames;

/// What becomes of a message for a subscriber whose outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The message is dropped.
    DropNew,
    /// The oldest in the outbox are dropped, and it has room.
    DropOld,
    /// The subscriber is: it is reset.
    Disconnect,
    /// Its sender waits, and with it all whom it sends to.
    Wait,
}

impl WhenFull {
    /// All, in the order of the help.
    pub const ALL: [Self; 4] = [Self::DropNew, Self::DropOld, Self::Disconnect, Self::Wait];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::DropNew => "drop-new",
            Self::DropOld => "drop-old",
            Self::Disconnect => "disconnect",
            Self::Wait => "wait",
        }
    }
}

impl fmt::Display for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Frames in the order in which they are to be sent.
#[derive(Debug)]
pub(super) struct Outbox {
    runs: VecDeque<Frames>,
    /// Bytes of the first run that are sent; less than its first frame has.
    begun: usize,
    count: usize,
    weight: usize,
    limit: usize,
}

/// What became of frames for an outbox.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// How many were dropped: new ones, or old ones for them.
    pub(super) dropped: u64,
    /// There is no room for these, and their sender has to wait, or their subscriber to go.
    pub(super) left: Option<Frames>,
}

impl Outbox {
    /// An empty one for frames of `limit` bytes, each counted with [`OVERHEAD`](super::OVERHEAD) more.
    pub(super) fn new(limit: usize) -> Self {
        Self { runs: VecDeque::new(), begun: 0, count: 0, weight: 0, limit }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Frames in it.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What it counts now, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// How many of the first of these frames it has room for: if it is empty for one at least, whatever the limit.
    pub(super) fn room_for(&self, frames: &Frames) -> usize {
        let fitting = frames.within_weight(self.limit.saturating_sub(self.weight));
        if self.is_empty() { fitting.max(1) } else { fitting }
    }

    /// Takes frames, of which the first bytes may be sent already if nothing is before them, as far as there is room.
    pub(super) fn admit(&mut self, frames: Frames, begun: usize, when_full: WhenFull) -> Admission {
        debug_assert!(begun == 0 || self.is_empty());
        let before = self.runs.len();
        let mut admission = Admission::default();
        let mut left = Some(frames);
        while let Some(frames) = left {
            let room = self.room_for(&frames);
            if let Some(fitting) = frames.first(room) {
                if self.is_empty() {
                    self.begun = begun;
                }
                self.push(fitting);
            }
            left = frames.after(room);
            let Some(next) = &left else { break };
            match when_full {
                WhenFull::Wait | WhenFull::Disconnect => break,
                WhenFull::DropOld if self.drop_oldest() => {}
                // What it is too full for goes; a shorter one may fit.
                WhenFull::DropNew | WhenFull::DropOld => left = next.after(1),
            }
            admission.dropped += 1;
        }
        for run in self.runs.range_mut(before.min(self.runs.len())..) {
            run.compact();
        }
        Admission { left, ..admission }
    }

    fn push(&mut self, frames: Frames) {
        self.weight += frames.weight();
        self.count += frames.count();
        let apart = match self.runs.back_mut() {
            Some(last) => last.join(frames),
            None => Some(frames),
        };
        self.runs.extend(apart);
    }

    /// Drops the oldest frame that has not begun: of one that has, the peer has to get the rest, or could make nothing of
    /// the stream. False: there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(first) = self.runs.pop_front() else { return false };
        let keep = usize::from(self.begun > 0);
        let (begun, rest) = (first.first(keep), first.after(keep));
        let Some(rest) = rest.or_else(|| self.runs.pop_front()) else {
            self.runs.extend(begun);
            return false;
        };
        let dropped = rest.first(1).map_or(0, |frame| frame.weight());
        (self.weight, self.count) = (self.weight - dropped, self.count - 1);
        for run in [rest.after(1), begun].into_iter().flatten() {
            self.runs.push_front(run);
        }
        true
    }

    /// The next bytes to send, in up to `parts.len()` parts, for sendmsg(2).
    pub(super) fn unsent<'a, 'b>(&'a self, parts: &'b mut [IoSlice<'a>]) -> &'b [IoSlice<'a>] {
        let mut skip = self.begun;
        let mut filled = 0;
        for (part, run) in parts.iter_mut().zip(&self.runs) {
            *part = IoSlice::new(&run.bytes()[skip..]);
            skip = 0;
            filled += 1;
        }
        &parts[..filled]
    }

    /// So many bytes of what was unsent are sent now. Returns how many frames that completed.
    pub(super) fn sent(&mut self, bytes: usize) -> u64 {
        self.begun += bytes;
        let mut completed = 0;
        while let Some(run) = self.runs.pop_front() {
            let length = run.bytes().len();
            let (whole, begun) = run.within_bytes(self.begun.min(length));
            completed += whole;
            self.weight -= run.first(whole).map_or(0, |sent| sent.weight());
            if let Some(rest) = run.after(whole) {
                self.runs.push_front(rest);
                self.begun = begun;
                break;
            }
            self.begun -= length;
        }
        self.count -= completed;
        if self.is_empty() {
            // A queue that was long once costs nothing later.
            self.runs = VecDeque::new();
        }
        completed as u64
    }

    /// Takes all frames of which the last byte is not sent: their peer has seen none of them whole.
    pub(super) fn take_all(&mut self) -> VecDeque<Frames> {
        (self.begun, self.count, self.weight) = (0, 0, 0);
        std::mem::take(&mut self.runs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::OVERHEAD;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What a frame of one byte counts.
    const ONE: usize = OVERHEAD + 5;

    fn queued(outbox: &Outbox) -> Vec<u8> {
        outbox.runs.iter().flat_map(Frames::payloads).flatten().collect()
    }

    fn letters(text: &str) -> Frames {
        let payloads: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        Frames::of(&payloads)
    }

    #[test]
    fn each_policy_does_what_it_says() {
        for (when_full, kept, dropped, left) in [
            (WhenFull::DropNew, "abc", 2, 0),
            (WhenFull::DropOld, "cde", 2, 0),
            (WhenFull::Disconnect, "abc", 0, 2),
            (WhenFull::Wait, "abc", 0, 2),
        ] {
            for pieces in [&["abcde"][..], &["ab", "cde"], &["abc", "de"], &["a", "bcde"]] {
                let mut outbox = Outbox::new(3 * ONE);
                let (mut its_dropped, mut its_left) = (0, 0);
                for piece in pieces {
                    let admission = outbox.admit(letters(piece), 0, when_full);
                    its_dropped += admission.dropped;
                    its_left += admission.left.map_or(0, |left| left.count());
                }
                assert_eq!(queued(&outbox), kept.as_bytes(), "{when_full} {pieces:?}");
                assert_eq!((its_dropped, its_left), (dropped, left), "{when_full} {pieces:?}");
                assert_eq!((outbox.weight(), outbox.count()), (3 * ONE, 3));
            }
        }
    }

    #[test]
    fn an_empty_outbox_takes_anything_and_any_other_what_fits() {
        let mut outbox = Outbox::new(200);
        assert!(outbox.admit(Frames::of(&[&[7; 1_000]]), 0, WhenFull::Wait).left.is_none());
        assert!(outbox.admit(letters("a"), 0, WhenFull::Wait).left.is_some());
        assert_eq!(outbox.sent(1_004), 1);
        assert!(outbox.admit(letters("a"), 0, WhenFull::DropNew).left.is_none());
        // Too long for what is left, and a shorter one that fits.
        assert_eq!(outbox.admit(Frames::of(&[&[7; 100], b"b"]), 0, WhenFull::DropNew).dropped, 1);
        assert_eq!(queued(&outbox), b"ab");
    }

    #[test]
    fn of_a_frame_that_has_begun_the_rest_is_sent_whatever_is_dropped() {
        let mut outbox = Outbox::new(3 * ONE);
        outbox.admit(letters("abc"), 2, WhenFull::DropOld);
        assert_eq!(outbox.admit(letters("d"), 0, WhenFull::DropOld).dropped, 1);
        assert_eq!(queued(&outbox), b"acd");
        assert_eq!(outbox.admit(letters("efg"), 0, WhenFull::DropOld).dropped, 3);
        assert_eq!(queued(&outbox), b"afg");
        let mut parts = [IoSlice::new(&[]); 8];
        let bytes: Vec<u8> = outbox.unsent(&mut parts).iter().flat_map(|part| part.to_vec()).collect();
        assert_eq!(bytes, b"\0\x01a\0\0\0\x01f\0\0\0\x01g");
        assert_eq!(outbox.sent(3), 1);
        // One that has begun and is as large as all leaves no room.
        let mut outbox = Outbox::new(100);
        outbox.admit(Frames::of(&[&[7; 200]]), 1, WhenFull::DropOld);
        assert_eq!(outbox.admit(letters("ab"), 0, WhenFull::DropOld).dropped, 2);
        assert_eq!(outbox.count(), 1);
        assert_eq!(outbox.take_all().len(), 1);
        assert!(outbox.is_empty() && outbox.weight() == 0);
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_was_kept_however_little_is_taken_at_a_time(
            steps in vec((vec(0_usize..20, 1..6), 0_usize..60), 1..30),
            policy in 0_usize..4,
            limit in 100_usize..800,
        ) {
            let when_full = WhenFull::ALL[policy];
            let mut outbox = Outbox::new(limit);
            let (mut sent, mut name) = (Vec::new(), 0_u8);
            let (mut offered, mut dropped, mut completed, mut refused) = (0, 0, 0, 0);
            let mut take = |outbox: &mut Outbox, most: usize, completed: &mut u64| {
                let mut parts = [IoSlice::new(&[]); 3];
                let next: Vec<u8> = outbox.unsent(&mut parts).iter().flat_map(|part| part.to_vec()).collect();
                let taken = most.min(next.len());
                sent.extend_from_slice(&next[..taken]);
                *completed += outbox.sent(taken);
            };
            for (lengths, taken) in steps {
                let payloads: Vec<Vec<u8>> = lengths.iter().map(|&length| {
                    name = name.wrapping_add(1);
                    vec![name; length + 1]
                }).collect();
                let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
                offered += lengths.len() as u64;
                let admission = outbox.admit(Frames::of(&slices), 0, when_full);
                dropped += admission.dropped;
                refused += admission.left.map_or(0, |left| left.count() as u64);
                let (weight, count) = outbox.runs.iter().fold((0, 0), |(w, c), run| (w + run.weight(), c + run.count()));
                prop_assert_eq!((outbox.weight(), outbox.count()), (weight, count));
                prop_assert!(weight <= limit || count == 1);
                take(&mut outbox, taken, &mut completed);
            }
            prop_assert_eq!(offered, dropped + refused + completed + outbox.count() as u64);
            while !outbox.is_empty() {
                take(&mut outbox, 7, &mut completed);
            }
            prop_assert_eq!(offered, dropped + refused + completed);
            // Whole frames, in their order.
            let mut rest = &sent[..];
            let mut names = Vec::new();
            while let Some(payload) = crate::proto::frame::decode(&mut rest, 100).expect("frames") {
                names.push(payload[0]);
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(names.len() as u64, completed);
            let unwrapped: Vec<u8> = names.iter().map(|it| it.wrapping_sub(names[0])).collect();
            prop_assert!(unwrapped.is_sorted() || offered > 255);
        }
    }
}

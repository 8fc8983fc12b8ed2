//! The position of a sender in its schedule.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Action, Ending, FOREVER, Schedule};

/// A wait for the peer or for the source that is no longer than this is made up for: a buffer was full, or empty, for a
/// moment.
const SLACK: Duration = Duration::from_millis(100);

/// A state machine that takes one sender through the schedule of one stream: a poem, or one direction of a connection
/// that is passed on. It owns no socket and reads no clock.
///
/// # Order of calls
///
/// [`next`](Self::next) says what to do. It takes the time, the number of bytes that are *available* so far, counted
/// from the first byte of the stream, and whether these are *all* (the source has ended). The number never falls, and
/// is final once it is all. After each answer:
///
/// 1. [`Wait`](Next::Wait): sleep for so long, or until more bytes are available or the source ends; then `next`.
/// 2. [`Send`](Next::Send): write as many of these bytes as the peer takes, within [`time_left`](Self::time_left). If
///    it took any, [`sent`](Self::sent); then `next`.
/// 3. [`Flush`](Next::Flush): wait until the kernel has sent all that was written; [`flushed`](Self::flushed), then
///    `next`.
/// 4. [`End`](Next::End): end the connection. `next` gives this answer for ever after.
///
/// `next` may be called at any time, more often than needed, and late: deadlines are absolute, and a machine that is
/// late makes up for it.
///
/// # Bytes that become available bit by bit
///
/// A piece that is due is sent as far as it is available, and its rest as soon as that is: what a peer waits for is
/// never held back for a piece to be full. Pieces keep their offsets, times and jitter, as if everything had been
/// available from the start, so that no more than `num_bytes` are sent in a pause and the rate is kept. A cut at a
/// number of bytes comes with the last of them, without waiting for the end of the source. (A cut with FIN after
/// exactly the last byte of the stream is its natural end if that is known in time; with a rate, a natural end comes a
/// pause later.)
///
/// # Waiting for the peer or the source
///
/// If a piece that is due has to wait for more than its pause (and 100 ms), because the peer takes nothing or nothing
/// is available, everything after it moves by as much: what was missed is not sent in one burst. A cut by time stays
/// where it is.
#[derive(Debug)]
pub struct Cursor {
    schedule: Schedule,
    accepted: Instant,
    /// Reference point of the times of the schedule.
    origin: Instant,
    /// Since when a piece that is due waits for the peer or the source.
    waiting: Option<Instant>,
    /// As said in the last call of `next`.
    available: u64,
    is_all: bool,
    is_flushed: bool,
}

/// What a sender has to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing for so long, unless more bytes become available or the source ends: [`FOREVER`] if only they matter.
    Wait(Duration),
    /// Send these bytes of the stream, or as many of the first of them as the peer takes.
    Send {
        /// Their offsets; never empty.
        bytes: Range<u64>,
        /// Whether FIN follows right after them, so that it can travel with them (MSG_MORE, see send(2)).
        is_last: bool,
    },
    /// Wait until everything that was written has left the socket's buffer, because the reset that comes next would
    /// discard the rest.
    Flush,
    /// End the connection.
    End(Ending),
}

impl Cursor {
    /// The cursor of a connection for which accept(2) returned at `now`.
    pub fn new(schedule: Schedule, now: Instant) -> Self {
        Self { schedule, accepted: now, origin: now, waiting: None, available: 0, is_all: false, is_flushed: false }
    }

    /// What to do at the moment `now`, when so many bytes of the stream are available, and these are all of it or not.
    pub fn next(&mut self, now: Instant, available: u64, is_all: bool) -> Next {
        (self.available, self.is_all) = (available, is_all);
        let cut = self.schedule.deadline();
        let left = cut.map_or(FOREVER, |(at, _)| time_to(at, self.accepted, now));
        if let Some((_, how)) = cut.filter(|_| left.is_zero()) {
            return Next::End(how);
        }
        let step = self.schedule.step(available, is_all);
        let early = time_to(step.at, self.origin, now);
        if !early.is_zero() {
            return Next::Wait(early.min(left));
        }
        match step.action {
            Action::Send(bytes) => {
                self.waiting.get_or_insert(now);
                if bytes.is_empty() {
                    return Next::Wait(left);
                }
                let is_last = self.schedule.is_last(bytes.end, available, is_all);
                Next::Send { bytes, is_last }
            }
            Action::End(Ending::Rst) if cut.is_none() && !self.is_flushed => Next::Flush,
            Action::End(how) => Next::End(how),
        }
    }

    /// Counts so many bytes as sent: the peer took them, the first ones of what was to be sent, and that is known at
    /// the moment `now`.
    pub fn sent(&mut self, bytes: u64, now: Instant) {
        let due = self.schedule.step(self.available, self.is_all).at;
        let is_full = self.schedule.sent(bytes);
        let next = self.schedule.step(self.available, self.is_all);
        if !is_full && !matches!(next.action, Action::End(_)) {
            return;
        }
        let waited = self.waiting.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if waited > next.at.saturating_sub(due).max(SLACK) {
            self.origin += waited;
        }
    }

    /// Notes that everything that was written has left the socket's buffer.
    pub fn flushed(&mut self) {
        self.is_flushed = true;
    }

    /// Time left until a cut by time, if one is scheduled. A send or a wait for the peer ends then.
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        self.schedule.deadline().map(|(at, _)| time_to(at, self.accepted, now))
    }

    /// Offset of the first byte that is not sent.
    pub fn position(&self) -> u64 {
        self.schedule.position()
    }

    /// Time since accept(2).
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.accepted)
    }
}

/// Time from `now` to `at`, which is counted from `origin`; zero if that is past.
fn time_to(at: Duration, origin: Instant, now: Instant) -> Duration {
    at.saturating_sub(now.saturating_duration_since(origin))
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};

    use proptest::prelude::*;

    use super::*;
    use crate::pace::schedule::tests::any_pace;
    use crate::pace::{Cut, CutAt, Pace, Plan, Replay, Step, Tempo};

    const MS: Duration = Duration::from_millis(1);

    fn pieces(num_bytes: u64) -> Pace {
        Pace {
            num_bytes: NonZeroU64::new(num_bytes).expect("not zero"),
            tempo: Tempo::Delay(200 * MS),
            ..Pace::default()
        }
    }

    fn rate(num_bytes: u64, rate: u64) -> Pace {
        Pace { tempo: Tempo::Rate(NonZeroU64::new(rate).expect("not zero")), ..pieces(num_bytes) }
    }

    fn cut(pace: &Pace, at: CutAt, how: Ending) -> Pace {
        Pace { cut: Some(Cut { at, how }), ..pace.clone() }
    }

    fn send(bytes: Range<u64>) -> Next {
        Next::Send { bytes, is_last: false }
    }

    fn last(bytes: Range<u64>) -> Next {
        Next::Send { bytes, is_last: true }
    }

    /// A sender on a clock that is put forward by hand.
    struct Sender {
        cursor: Cursor,
        start: Instant,
        now: Instant,
        available: u64,
        is_all: bool,
    }

    impl Sender {
        fn new(plan: &Plan, available: u64, is_all: bool) -> Self {
            let start = Instant::now();
            Self { cursor: Cursor::new(plan.schedule(1), start), start, now: start, available, is_all }
        }

        /// With a poem of which everything is there.
        fn whole(pace: Pace, len: u64) -> Self {
            Self::new(&Plan::uniform(1, pace), len, true)
        }

        /// With a stream of which nothing is there yet.
        fn live(pace: Pace) -> Self {
            Self::new(&Plan::uniform(1, pace), 0, false)
        }

        fn at(&mut self, time: Duration) -> &mut Self {
            self.now = self.start + time;
            self
        }

        /// So many bytes are there now, in all.
        fn has(&mut self, available: u64) -> &mut Self {
            self.available = available;
            self
        }

        fn is_all(&mut self) -> &mut Self {
            self.is_all = true;
            self
        }

        fn next(&mut self) -> Next {
            self.cursor.next(self.now, self.available, self.is_all)
        }

        fn sent(&mut self, bytes: u64) -> &mut Self {
            self.cursor.sent(bytes, self.now);
            self
        }

        /// Sends what is to be sent now.
        fn sends(&mut self, expected: Range<u64>) -> &mut Self {
            let next = self.next();
            let Next::Send { bytes, .. } = next else { panic!("{next:?}") };
            assert_eq!(bytes, expected);
            self.sent(bytes.end - bytes.start)
        }
    }

    #[test]
    fn a_walk_waits_sends_what_is_left_and_ends() {
        let mut it = Sender::whole(pieces(10), 15);
        assert_eq!(it.next(), send(0..10));
        assert_eq!(it.sent(4).next(), send(4..10));
        assert_eq!(it.at(MS).sent(6).next(), Next::Wait(199 * MS));
        assert_eq!(it.at(200 * MS).next(), last(10..15));
        assert_eq!(it.sent(5).next(), Next::End(Ending::Fin));
        assert_eq!(it.next(), Next::End(Ending::Fin));
        assert_eq!(it.cursor.position(), 15);
    }

    #[test]
    fn a_little_late_is_made_up_for() {
        let mut it = Sender::whole(pieces(1), 9);
        assert_eq!(it.next(), send(0..1));
        assert_eq!(it.at(170 * MS).sent(1).next(), Next::Wait(30 * MS));
        assert_eq!(it.at(230 * MS).next(), send(1..2));
        assert_eq!(it.sent(1).next(), Next::Wait(170 * MS));
    }

    #[test]
    fn a_sender_that_was_held_up_by_nobody_makes_up_for_it() {
        let mut it = Sender::whole(pieces(1), 9);
        it.at(1_050 * MS);
        for byte in 0..6 {
            it.sends(byte..byte + 1);
        }
        assert_eq!(it.next(), Next::Wait(150 * MS));
    }

    #[test]
    fn after_a_long_stall_the_pace_goes_on_without_a_burst() {
        let mut it = Sender::whole(pieces(1), 9);
        assert_eq!(it.next(), send(0..1));
        assert_eq!(it.at(5_000 * MS).sent(1).next(), Next::Wait(200 * MS));
        assert_eq!(it.at(5_200 * MS).sends(1..2).next(), Next::Wait(200 * MS));
    }

    #[test]
    fn the_end_of_a_rate_moves_with_a_last_piece_that_was_held_up() {
        let mut it = Sender::whole(rate(10, 100), 10);
        assert_eq!(it.next(), send(0..10));
        assert_eq!(it.at(5_000 * MS).sent(10).next(), Next::Wait(100 * MS));
    }

    #[test]
    fn a_cut_at_a_time_waits_for_nobody() {
        let pace = || cut(&pieces(1), CutAt::Time(1_000 * MS), Ending::Hang);
        let mut it = Sender::whole(pace(), 90);
        assert_eq!(it.cursor.time_left(it.start + 300 * MS), Some(700 * MS));
        // The peer takes nothing until then.
        assert_eq!(it.next(), send(0..1));
        assert_eq!(it.at(999 * MS).next(), send(0..1));
        assert_eq!(it.at(1_000 * MS).next(), Next::End(Ending::Hang));
        // It took something before, but late, so that what is to come was moved.
        assert_eq!(it.at(900 * MS).sent(1).next(), Next::Wait(100 * MS));
        assert_eq!(it.at(1_000 * MS).next(), Next::End(Ending::Hang));
        // Nothing is available until then.
        let mut it = Sender::live(pace());
        assert_eq!(it.next(), Next::Wait(1_000 * MS));
        assert_eq!(it.at(999 * MS).next(), Next::Wait(MS));
        assert_eq!(it.at(1_000 * MS).next(), Next::End(Ending::Hang));
    }

    #[test]
    fn what_was_written_leaves_before_a_reset_that_is_not_by_time() {
        let mut it = Sender::whole(cut(&pieces(10), CutAt::Bytes(4), Ending::Rst), 15);
        assert_eq!(it.sends(0..4).next(), Next::Flush);
        assert_eq!(it.at(900 * MS).next(), Next::Flush);
        it.cursor.flushed();
        assert_eq!(it.next(), Next::End(Ending::Rst));
        assert_eq!(Sender::whole(cut(&pieces(10), CutAt::Bytes(0), Ending::Rst), 15).next(), Next::Flush);
        for how in [Ending::Fin, Ending::Hang] {
            let mut it = Sender::whole(cut(&pieces(10), CutAt::Bytes(4), how), 15);
            assert_eq!(it.sends(0..4).next(), Next::End(how));
        }
        let mut it = Sender::whole(cut(&pieces(10), CutAt::Time(50 * MS), Ending::Rst), 15);
        assert_eq!(it.sends(0..10).next(), Next::Wait(50 * MS));
        assert_eq!(it.at(50 * MS).next(), Next::End(Ending::Rst));
        let replay = Replay { pieces: vec![(Duration::ZERO, NonZeroUsize::MIN)], end: (MS, Ending::Rst) };
        let mut it = Sender::new(&Plan::replay(vec![replay]), 9, true);
        assert_eq!(it.sends(0..1).next(), Next::Wait(MS));
        assert_eq!(it.at(MS).next(), Next::Flush);
    }

    #[test]
    fn a_stream_that_is_empty_ends_when_that_is_known() {
        let mut it = Sender::live(Pace { first_byte_delay: 50 * MS, ..pieces(10) });
        assert_eq!(it.next(), Next::Wait(50 * MS));
        assert_eq!(it.at(50 * MS).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(900 * MS).is_all().next(), Next::End(Ending::Fin));
    }

    #[test]
    fn a_part_of_a_piece_is_not_held_back_and_its_rest_belongs_to_the_piece() {
        let mut it = Sender::live(pieces(10));
        assert_eq!(it.has(4).sends(0..4).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(30 * MS).has(12).sends(4..10).next(), Next::Wait(170 * MS));
        assert_eq!(it.at(200 * MS).sends(10..12).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(260 * MS).has(25).sends(12..20).next(), Next::Wait(140 * MS));
        assert_eq!(it.at(400 * MS).sends(20..25).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(410 * MS).is_all().next(), Next::End(Ending::Fin));
    }

    #[test]
    fn a_source_that_paused_is_not_followed_by_a_burst() {
        let mut it = Sender::live(rate(10, 100));
        // Within a piece: what is missing of it goes at once, what follows is later.
        assert_eq!(it.has(4).sends(0..4).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(5_000 * MS).has(90).sends(4..10).next(), Next::Wait(100 * MS));
        assert_eq!(it.at(5_100 * MS).sends(10..20).next(), Next::Wait(100 * MS));
        // Between two: no time is lost before the next one is due.
        assert_eq!(it.has(20).next(), Next::Wait(100 * MS));
        assert_eq!(it.at(5_200 * MS).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(9_000 * MS).has(90).sends(20..30).next(), Next::Wait(100 * MS));
        // A short pause is made up for, so that the rate is kept.
        assert_eq!(it.at(9_100 * MS).has(30).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(9_180 * MS).has(90).sends(30..40).next(), Next::Wait(20 * MS));
    }

    #[test]
    fn the_end_of_a_stream_follows_its_last_piece_even_if_it_is_known_late() {
        let mut it = Sender::live(rate(10, 100));
        assert_eq!(it.has(14).sends(0..10).at(100 * MS).sends(10..14).next(), Next::Wait(FOREVER));
        assert_eq!(it.at(110 * MS).is_all().next(), Next::Wait(30 * MS));
        assert_eq!(it.at(140 * MS).next(), Next::End(Ending::Fin));
        let mut it = Sender::live(pieces(10));
        assert_eq!(it.has(10).sends(0..10).next(), Next::Wait(200 * MS));
        assert_eq!(it.at(20 * MS).is_all().next(), Next::End(Ending::Fin));
    }

    #[test]
    fn a_cut_at_bytes_does_not_wait_for_the_end_of_the_source() {
        let mut it = Sender::live(cut(&rate(10, 100), CutAt::Bytes(15), Ending::Hang));
        assert_eq!(it.has(15).sends(0..10).next(), Next::Wait(100 * MS));
        assert_eq!(it.at(100 * MS).sends(10..15).next(), Next::End(Ending::Hang));
        // A shorter stream ends well.
        let mut it = Sender::live(cut(&pieces(10), CutAt::Bytes(15), Ending::Rst));
        assert_eq!(it.has(9).sends(0..9).is_all().next(), Next::End(Ending::Fin));
        // With FIN at the end of the stream it is the end of the stream, if that is known.
        let mut it = Sender::live(cut(&rate(10, 100), CutAt::Bytes(10), Ending::Fin));
        assert_eq!(it.has(10).sends(0..10).next(), Next::End(Ending::Fin));
        assert_eq!(it.is_all().next(), Next::Wait(100 * MS));
    }

    #[test]
    fn the_last_send_is_known_as_such_if_the_end_follows_at_once() {
        assert_eq!(Sender::live(pieces(10)).has(10).next(), send(0..10));
        assert_eq!(Sender::live(pieces(10)).has(10).is_all().next(), last(0..10));
        assert_eq!(Sender::whole(rate(10, 100), 10).next(), send(0..10));
        for (how, expected) in [(Ending::Fin, last(0..10)), (Ending::Rst, send(0..10)), (Ending::Hang, send(0..10))] {
            for len in [10, 99] {
                assert_eq!(Sender::whole(cut(&pieces(10), CutAt::Bytes(10), how), len).next(), expected);
            }
        }
    }

    #[test]
    fn a_replay_follows_a_stream_of_any_length() {
        let bytes = |bytes| NonZeroUsize::new(bytes).expect("not zero");
        let pieces = vec![(Duration::ZERO, bytes(10)), (7 * MS, bytes(20))];
        let plan = Plan::replay(vec![Replay { pieces, end: (9 * MS, Ending::Fin) }]);
        // Longer: the rest is not sent.
        let mut it = Sender::new(&plan, 4, false);
        assert_eq!(it.sends(0..4).next(), Next::Wait(FOREVER));
        assert_eq!(it.has(99).sends(4..10).next(), Next::Wait(7 * MS));
        assert_eq!(it.at(7 * MS).sends(10..30).next(), Next::Wait(2 * MS));
        assert_eq!(it.at(9 * MS).next(), Next::End(Ending::Fin));
        // Shorter: it ends when it ended.
        let mut it = Sender::new(&plan, 12, false);
        assert_eq!(it.sends(0..10).at(7 * MS).sends(10..12).next(), Next::Wait(FOREVER));
        assert_eq!(it.is_all().next(), Next::Wait(2 * MS));
        assert_eq!(it.at(9 * MS).next(), Next::End(Ending::Fin));
    }

    /// What a sender does that loses no time. Of the stream more becomes available while it is idle, and the rest when
    /// it starves; `coins` decide which of its waits it is idle in, and how much that is.
    fn walk(plan: &Plan, len: u64, coins: &[u8]) -> (Vec<Step>, bool) {
        let mut coins = coins.iter().copied().chain(std::iter::repeat(1));
        let mut it = Sender::new(plan, 0, false);
        let (mut steps, mut is_flushed) = (Vec::new(), false);
        loop {
            let action = match it.next() {
                Next::Wait(time) => {
                    let coin = coins.next().unwrap_or(1);
                    if !it.is_all && (coin % 2 == 1 || it.available == it.cursor.position()) {
                        it.is_all = it.available == len;
                        it.available = len.min(it.available + u64::from(coin));
                    } else {
                        it.now += time;
                    }
                    continue;
                }
                Next::Send { bytes, .. } => {
                    it.sent(bytes.end - bytes.start);
                    Action::Send(bytes)
                }
                Next::Flush => {
                    it.cursor.flushed();
                    is_flushed = true;
                    continue;
                }
                Next::End(how) => Action::End(how),
            };
            let is_over = matches!(action, Action::End(_));
            steps.push(Step { at: it.now - it.start, action });
            if is_over {
                return (steps, is_flushed);
            }
        }
    }

    proptest! {
        #[test]
        fn a_schedule_is_the_same_however_the_bytes_become_available(
            pace in any_pace(), len in 0_u64..2_000, seed: u64, coins in proptest::collection::vec(0_u8.., 0..60),
        ) {
            let at_its_end = Some(Cut { at: CutAt::Bytes(len), how: Ending::Fin });
            prop_assume!(pace.cut != at_its_end || matches!(pace.tempo, Tempo::Delay(_)));
            let is_by_bytes = pace.cut.is_some_and(|cut| matches!(cut.at, CutAt::Bytes(_)));
            let plan = Plan::uniform(seed, pace);
            let expected: Vec<Step> = plan.schedule(1).steps(len).collect();
            let (steps, is_flushed) = walk(&plan, len, &coins);
            let mut parts = steps.into_iter().peekable();
            for step in expected {
                // Each piece in one part or more, at one time.
                let mut found = parts.next().expect("a step");
                while let (Action::Send(bytes), Action::Send(whole)) = (&mut found.action, &step.action)
                    && bytes.end < whole.end
                {
                    let part = parts.next().expect("the rest of the piece");
                    let Action::Send(more) = &part.action else { panic!("{part:?} and not {step:?}") };
                    prop_assert_eq!((part.at, more.start), (found.at, bytes.end));
                    bytes.end = more.end;
                }
                let is_reset = found.action == Action::End(Ending::Rst);
                prop_assert_eq!(found, step);
                prop_assert!(!is_reset || is_flushed == is_by_bytes);
            }
            prop_assert_eq!(parts.next(), None);
        }
    }
}

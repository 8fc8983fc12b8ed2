//! The sequence of sends on a connection, and its end.

use std::sync::Arc;
use std::time::Duration;

use super::prng::Draws;
use super::{Action, Cut, CutAt, Ending, Pace, Profile, Step, Tempo, to_nanos};

/// The steps of one connection, in order of time: sends, and an end as the last one.
///
/// A schedule knows neither a clock nor the length of its stream: what is to be done is asked step by step, with what
/// is available by then. Chance is drawn once a piece, however many sends the piece takes.
#[derive(Debug, Clone)]
pub struct Schedule {
    profile: Arc<Profile>,
    draws: Draws,
    /// Index of the current piece.
    piece: usize,
    /// Offset of the first byte that is not sent.
    sent: u64,
    /// Offset of the end of the current piece, if the stream is that long.
    end: u64,
    /// When the current piece of a [`Pace`] is due, in nanoseconds.
    due: u64,
    /// When the last piece of which a byte is sent was due, in nanoseconds; `due` before the first byte.
    last: u64,
}

impl Schedule {
    /// The schedule of the connection of this number.
    pub(super) fn new(profile: &Arc<Profile>, seed: u64, connection: u64) -> Self {
        let mut draws = Draws::new(seed, connection);
        let due = match &**profile {
            Profile::Paced(pace) => jittered(to_nanos(pace.first_byte_delay), pace, &mut draws),
            Profile::Replayed(_) => 0,
        };
        let new = Self { profile: Arc::clone(profile), draws, piece: 0, sent: 0, end: 0, due, last: due };
        Self { end: new.piece_end(), ..new }
    }

    /// Whether everything is sent as it comes, to its own end.
    pub fn is_at_once(&self) -> bool {
        matches!(&*self.profile, Profile::Paced(pace) if *pace == Pace::default())
    }

    /// Every step for a stream of `len` bytes of which all is available from the start.
    pub fn steps(mut self, len: u64) -> impl Iterator<Item = Step> {
        let mut is_over = false;
        std::iter::from_fn(move || {
            if is_over {
                return None;
            }
            let step = match (self.step(len, true), self.deadline()) {
                (step, Some((at, how))) if at <= step.at => Step { at, action: Action::End(how) },
                (step, _) => step,
            };
            match &step.action {
                Action::Send(bytes) => {
                    self.sent(bytes.end - bytes.start);
                }
                Action::End(_) => is_over = true,
            }
            Some(step)
        })
    }

    /// Time since accept(2) and kind of a cut by time. Steps do not know of it.
    pub(super) fn deadline(&self) -> Option<(Duration, Ending)> {
        self.profile.deadline()
    }

    /// Offset of the first byte that is not sent.
    pub(super) fn position(&self) -> u64 {
        self.sent
    }

    /// The current step, as far as it is known when so many bytes of the stream are available, all of it or not.
    ///
    /// A send with no bytes in it is a piece that begins with the next byte, if there is one.
    pub(super) fn step(&self, available: u64, is_all: bool) -> Step {
        let is_whole = is_all && self.sent >= available;
        let send = |at| Step { at, action: Action::Send(self.sent..self.end.min(available).max(self.sent)) };
        match &*self.profile {
            Profile::Paced(pace) => {
                let how = match pace.cut {
                    Some(Cut { at: CutAt::Bytes(bytes), how }) if self.sent >= bytes => how,
                    _ if is_whole => Ending::Fin,
                    _ => return send(Duration::from_nanos(self.due)),
                };
                let pause = match pace.tempo {
                    Tempo::Rate(_) if is_whole && how == Ending::Fin && self.sent > 0 => pace.pause(self.sent),
                    _ => 0,
                };
                Step { at: Duration::from_nanos(self.last.saturating_add(pause)), action: Action::End(how) }
            }
            Profile::Replayed(replay) => match replay.pieces.get(self.piece) {
                Some((at, _)) if !is_whole => send(*at),
                _ => Step { at: replay.end.0, action: Action::End(replay.end.1) },
            },
        }
    }

    /// Counts so many bytes of the current piece as sent; true if they were its last ones.
    pub(super) fn sent(&mut self, bytes: u64) -> bool {
        if bytes == 0 {
            return false;
        }
        self.sent += bytes;
        self.last = self.due;
        let is_complete = self.sent >= self.end;
        if is_complete {
            self.piece += 1;
            self.end = self.piece_end();
            if let Profile::Paced(pace) = &*self.profile {
                let pause = jittered(pace.pause(self.sent), pace, &mut self.draws);
                self.due = self.last.saturating_add(pause);
            }
        }
        is_complete
    }

    /// Whether the send that ends at offset `end` is the last one, with the end of the stream right after it.
    pub(super) fn is_last(&self, end: u64, available: u64, is_all: bool) -> bool {
        match &*self.profile {
            Profile::Paced(Pace { tempo: Tempo::Delay(_), cut, .. }) => match cut {
                Some(Cut { at: CutAt::Bytes(bytes), how }) if *bytes == end => *how == Ending::Fin,
                _ => is_all && end == available,
            },
            _ => false,
        }
    }

    /// Offset of the end of the piece that begins at the first byte that is not sent.
    fn piece_end(&self) -> u64 {
        match &*self.profile {
            Profile::Paced(pace) => {
                let end = self.sent.saturating_add(pace.num_bytes.get());
                match pace.cut {
                    Some(Cut { at: CutAt::Bytes(bytes), .. }) => end.min(bytes),
                    _ => end,
                }
            }
            Profile::Replayed(replay) => match replay.pieces.get(self.piece) {
                Some((_, bytes)) => self.sent.saturating_add(bytes.get() as u64),
                None => self.sent,
            },
        }
    }
}

/// A pause with its jitter, in nanoseconds. Draws only if there is something to vary.
fn jittered(pause: u64, pace: &Pace, draws: &mut Draws) -> u64 {
    let jitter = to_nanos(pace.jitter);
    if jitter == 0 || pause == 0 {
        return pause;
    }
    let shortest = pause.saturating_sub(jitter);
    shortest + draws.up_to(pause.saturating_add(jitter) - shortest)
}

#[cfg(test)]
pub(super) mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;
    use crate::pace::{Plan, Replay};

    const MS: Duration = Duration::from_millis(1);

    fn pieces(num_bytes: u64) -> Pace {
        Pace {
            num_bytes: NonZeroU64::new(num_bytes).expect("not zero"),
            tempo: Tempo::Delay(100 * MS),
            ..Pace::default()
        }
    }

    fn rate(num_bytes: u64, rate: u64) -> Pace {
        Pace { tempo: Tempo::Rate(NonZeroU64::new(rate).expect("not zero")), ..pieces(num_bytes) }
    }

    fn steps(pace: Pace, len: u64) -> Vec<Step> {
        Plan::uniform(1, pace).schedule(1).steps(len).collect()
    }

    fn send(at: u32, bytes: Range<u64>) -> Step {
        Step { at: at * MS, action: Action::Send(bytes) }
    }

    fn end(at: u32, how: Ending) -> Step {
        Step { at: at * MS, action: Action::End(how) }
    }

    #[test]
    fn pieces_are_a_delay_apart_and_the_end_follows_the_last() {
        let expected = [send(0, 0..10), send(100, 10..20), send(200, 20..25), end(200, Ending::Fin)];
        assert_eq!(steps(pieces(10), 25), expected);
        assert_eq!(pieces(10).total(25), 200 * MS);
    }

    #[test]
    fn an_empty_poem_is_an_end() {
        assert_eq!(steps(pieces(10), 0), [end(0, Ending::Fin)]);
        assert_eq!(steps(rate(10, 1), 0), [end(0, Ending::Fin)]);
    }

    #[test]
    fn a_piece_larger_than_the_poem_is_the_poem() {
        assert_eq!(steps(pieces(u64::MAX), 3), [send(0, 0..3), end(0, Ending::Fin)]);
        assert_eq!(steps(Pace::default(), 3), [send(0, 0..3), end(0, Ending::Fin)]);
    }

    #[test]
    fn the_longest_delay_does_not_overflow() {
        let pace = Pace {
            tempo: Tempo::Delay(Duration::MAX),
            jitter: Duration::MAX,
            first_byte_delay: Duration::MAX,
            ..pieces(1)
        };
        assert_eq!(steps(pace, 3).last().expect("an end").at, Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn a_rate_is_exact_to_the_end_of_the_last_piece() {
        let expected =
            [send(0, 0..10), send(100, 10..20), Step { at: 200 * MS, ..send(0, 20..25) }, end(250, Ending::Fin)];
        assert_eq!(steps(rate(10, 100), 25), expected);
        assert_eq!(rate(10, 100).total(25), 250 * MS);
        // A third of a second each, however many.
        let thirds = steps(rate(1, 3), 3_000);
        assert_eq!(thirds[1_500].at, Duration::from_secs(500));
        assert_eq!(thirds.last().expect("an end").at, Duration::from_secs(1_000));
    }

    #[test]
    fn the_first_byte_can_be_late() {
        let pace = Pace { first_byte_delay: 1_000 * MS, ..pieces(10) };
        assert_eq!(pace.total(15), 1_100 * MS);
        assert_eq!(steps(pace, 15), [send(1_000, 0..10), send(1_100, 10..15), end(1_100, Ending::Fin)]);
    }

    #[test]
    fn a_cut_at_bytes_is_exact_whatever_the_pieces_are() {
        for how in [Ending::Fin, Ending::Rst, Ending::Hang] {
            let cut = |bytes| Pace { cut: Some(Cut { at: CutAt::Bytes(bytes), how }), ..pieces(10) };
            assert_eq!(steps(cut(15), 25), [send(0, 0..10), send(100, 10..15), end(100, how)]);
            assert_eq!(steps(cut(20), 25), [send(0, 0..10), send(100, 10..20), end(100, how)]);
            assert_eq!(steps(cut(0), 25), [end(0, how)]);
            // After the last byte, in place of the end of the stream.
            assert_eq!(steps(cut(5), 5), [send(0, 0..5), end(0, how)]);
            assert_eq!(steps(cut(6), 5), [send(0, 0..5), end(0, Ending::Fin)]);
        }
    }

    #[test]
    fn a_cut_after_a_time_comes_between_the_pieces_or_not_at_all() {
        let cut = |time| Pace { cut: Some(Cut { at: CutAt::Time(time * MS), how: Ending::Rst }), ..pieces(10) };
        assert_eq!(steps(cut(150), 25), [send(0, 0..10), send(100, 10..20), end(150, Ending::Rst)]);
        assert_eq!(steps(cut(250), 25).last(), Some(&end(200, Ending::Fin)));
        assert_eq!(steps(Pace::failure(), 25), [end(0, Ending::Rst)]);
    }

    #[test]
    fn only_a_poem_that_ends_well_closes_with_its_last_byte() {
        let closes = |pace: Pace| Plan::uniform(1, pace).schedule(1).is_last(25, 25, true);
        assert!(closes(pieces(10)));
        assert!(!closes(rate(10, 100)));
        assert!(!closes(Pace { cut: Some(Cut { at: CutAt::Bytes(25), how: Ending::Hang }), ..pieces(10) }));
        assert!(!Plan::uniform(1, pieces(10)).schedule(1).is_last(20, 25, true));
    }

    #[test]
    fn a_replay_fits_poems_of_any_length() {
        let bytes = |bytes| NonZeroUsize::new(bytes).expect("not zero");
        let pieces = vec![(Duration::ZERO, bytes(10)), (7 * MS, bytes(20))];
        let replay = Replay { pieces, end: (9 * MS, Ending::Rst) };
        let plan = Plan::replay(vec![replay]);
        let steps = |len| plan.schedule(1).steps(len).collect::<Vec<_>>();
        assert_eq!(steps(30), [send(0, 0..10), send(7, 10..30), end(9, Ending::Rst)]);
        assert_eq!(steps(99), [send(0, 0..10), send(7, 10..30), end(9, Ending::Rst)]);
        assert_eq!(steps(12), [send(0, 0..10), send(7, 10..12), end(9, Ending::Rst)]);
        assert_eq!(steps(10), [send(0, 0..10), end(9, Ending::Rst)]);
        assert_eq!(steps(0), [end(9, Ending::Rst)]);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_fills_them() {
        let pace = Pace { jitter: 30 * MS, ..pieces(1) };
        let steps = steps(pace, 1_000);
        assert_eq!(steps[0].at, Duration::ZERO);
        let pauses: Vec<Duration> = steps[..1_000].windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        let (shortest, longest) = (pauses.iter().min().expect("some"), pauses.iter().max().expect("some"));
        assert!((70 * MS..72 * MS).contains(shortest) && (128 * MS..=130 * MS).contains(longest), "{pauses:?}");
    }

    #[test]
    fn a_seed_is_a_schedule_and_connections_differ() {
        let schedule = |seed, connection| {
            let pace = Pace { jitter: 30 * MS, first_byte_delay: 50 * MS, ..pieces(10) };
            Plan::uniform(seed, pace).schedule(connection).steps(300).collect::<Vec<_>>()
        };
        for _ in 0..100 {
            assert_eq!(schedule(7, 1), schedule(7, 1));
        }
        assert_ne!(schedule(7, 1), schedule(7, 2));
        assert_ne!(schedule(7, 1), schedule(8, 1));
        // Written down once: it must be the same on every machine and in every version.
        let first: Vec<u128> = schedule(7, 1).iter().take(4).map(|step| step.at.as_nanos()).collect();
        assert_eq!(first, [43_612_741, 173_414_510, 278_460_509, 373_328_449]);
    }

    pub(in crate::pace) fn any_pace() -> impl Strategy<Value = Pace> {
        let tempo = prop_oneof![
            (0_u64..1_000).prop_map(|millis| Tempo::Delay(Duration::from_millis(millis))),
            (1_u64..1_000_000).prop_map(|rate| Tempo::Rate(NonZeroU64::new(rate).expect("not zero"))),
        ];
        let how = prop_oneof![Just(Ending::Fin), Just(Ending::Rst), Just(Ending::Hang)];
        let at = prop_oneof![
            (0_u64..6_000).prop_map(CutAt::Bytes),
            (0_u64..100_000).prop_map(|millis| CutAt::Time(Duration::from_millis(millis))),
        ];
        let cut = proptest::option::of((at, how).prop_map(|(at, how)| Cut { at, how }));
        (1_u64..600, tempo, 0_u64..500, 0_u64..500, cut).prop_map(|(num_bytes, tempo, jitter, first, cut)| Pace {
            first_byte_delay: Duration::from_millis(first),
            num_bytes: NonZeroU64::new(num_bytes).expect("not zero"),
            tempo,
            jitter: Duration::from_millis(jitter),
            cut,
        })
    }

    proptest! {
        #[test]
        fn bytes_are_sent_once_and_in_order_and_then_it_ends(
            pace in any_pace(), len in 0_u64..5_000, seed: u64, connection in 1_u64..9,
        ) {
            let steps: Vec<Step> = Plan::uniform(seed, pace.clone()).schedule(connection).steps(len).collect();
            let (last, sends) = steps.split_last().expect("an end");
            let mut next = 0;
            let mut time = Duration::ZERO;
            for step in sends {
                prop_assert!(step.at >= time);
                time = step.at;
                let Action::Send(piece) = &step.action else { panic!("an end that is not the last: {steps:?}") };
                prop_assert_eq!(piece.start, next);
                prop_assert!(piece.end - piece.start <= pace.num_bytes.get() && !piece.is_empty());
                next = piece.end;
            }
            prop_assert!(last.at >= time);
            match (&last.action, pace.cut) {
                (Action::End(Ending::Fin), None) => prop_assert_eq!(next, len),
                (Action::End(how), Some(Cut { at: CutAt::Bytes(bytes), how: asked })) if bytes <= len => {
                    prop_assert_eq!(next, bytes);
                    prop_assert_eq!(*how, asked);
                }
                (Action::End(how), Some(Cut { at: CutAt::Time(at), how: asked })) if last.at == at => {
                    prop_assert_eq!(*how, asked);
                }
                (Action::End(Ending::Fin), Some(_)) => prop_assert_eq!(next, len),
                _ => panic!("{steps:?}"),
            }
            if pace.jitter.is_zero() && pace.cut.is_none() {
                prop_assert_eq!(last.at, pace.total(len));
            }
        }
    }
}

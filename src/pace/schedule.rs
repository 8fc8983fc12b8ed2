//! What will happen on a connection, step by step.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::prng::Draws;
use super::{Action, Ending, Pace, Replay, Step, Tempo, Treatment, to_nanos};

/// The steps of one connection in order of time; the last one, and no other, is an [`Action::End`].
#[derive(Debug, Clone)]
pub struct Schedule {
    treatment: Arc<Treatment>,
    draws: Draws,
    len: usize,
    /// Bytes in the steps so far.
    sent: usize,
    /// The time of the last step, in nanoseconds.
    now: u64,
    /// Steps so far.
    steps: usize,
    over: bool,
}

impl Schedule {
    /// The schedule of the connection of this number, for a poem of `len` bytes.
    pub(super) fn new(treatment: &Arc<Treatment>, seed: u64, connection: u64, len: usize) -> Self {
        let draws = Draws::new(seed, connection);
        Self { treatment: Arc::clone(treatment), draws, len, sent: 0, now: 0, steps: 0, over: false }
    }

    /// When the connection is cut, whatever else happens, and how.
    pub(super) fn deadline(&self) -> Option<(Duration, Ending)> {
        self.treatment.deadline()
    }

    /// Whether the poem is complete with the byte before `end`, and the end of the stream follows at once.
    pub(super) fn closes_at(&self, end: usize) -> bool {
        match &*self.treatment {
            Treatment::Paced(pace @ Pace { tempo: Tempo::Delay(_), .. }) => pace.goal(self.len) == (end, Ending::Fin),
            _ => false,
        }
    }

    /// The next step. Not to be asked for after the last one.
    pub(super) fn step(&mut self) -> Step {
        let treatment = Arc::clone(&self.treatment);
        let step = match &*treatment {
            Treatment::Paced(pace) => self.paced(pace),
            Treatment::Replayed(replay) => self.replayed(replay),
        };
        self.steps += 1;
        let step = match self.deadline() {
            Some((at, how)) if at <= step.at => Step { at, action: Action::End(how) },
            _ => step,
        };
        self.over = matches!(step.action, Action::End(_));
        step
    }

    fn paced(&mut self, pace: &Pace) -> Step {
        let (goal, ending) = pace.goal(self.len);
        let is_end = self.sent == goal;
        let pause = match pace.tempo {
            _ if self.steps == 0 => self.jittered(to_nanos(pace.first_byte_delay), pace),
            _ if !is_end => self.jittered(pace.pause(self.sent), pace),
            Tempo::Rate(_) if ending == Ending::Fin && goal == self.len => pace.pause(self.sent),
            _ => 0,
        };
        self.now = self.now.saturating_add(pause);
        let at = Duration::from_nanos(self.now);
        if is_end {
            return Step { at, action: Action::End(ending) };
        }
        let end = goal.min(self.sent.saturating_add(pace.num_bytes.get()));
        Step { at, action: Action::Send(self.piece(end)) }
    }

    /// A pause, shorter or longer by chance.
    fn jittered(&mut self, pause: u64, pace: &Pace) -> u64 {
        let jitter = to_nanos(pace.jitter);
        if jitter == 0 || pause == 0 {
            return pause;
        }
        let shortest = pause.saturating_sub(jitter);
        shortest + self.draws.up_to(pause.saturating_add(jitter) - shortest)
    }

    fn replayed(&mut self, replay: &Replay) -> Step {
        match replay.pieces.get(self.steps) {
            Some((at, bytes)) if self.sent < self.len => {
                let end = self.len.min(self.sent.saturating_add(*bytes));
                Step { at: *at, action: Action::Send(self.piece(end)) }
            }
            _ => Step { at: replay.end.0, action: Action::End(replay.end.1) },
        }
    }

    fn piece(&mut self, end: usize) -> Range<usize> {
        let start = self.sent;
        self.sent = end;
        start..end
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.over { None } else { Some(self.step()) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};

    use proptest::prelude::*;

    use super::*;
    use crate::pace::{Cut, CutAt, Plan};

    const MS: Duration = Duration::from_millis(1);

    fn pieces(num_bytes: usize) -> Pace {
        Pace {
            num_bytes: NonZeroUsize::new(num_bytes).expect("not zero"),
            tempo: Tempo::Delay(100 * MS),
            ..Pace::default()
        }
    }

    fn rate(num_bytes: usize, rate: u64) -> Pace {
        Pace { tempo: Tempo::Rate(NonZeroU64::new(rate).expect("not zero")), ..pieces(num_bytes) }
    }

    fn steps(pace: Pace, len: usize) -> Vec<Step> {
        Plan::uniform(1, pace).schedule(1, len).collect()
    }

    fn send(at: u32, bytes: Range<usize>) -> Step {
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
        assert_eq!(steps(pieces(usize::MAX), 3), [send(0, 0..3), end(0, Ending::Fin)]);
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
        let closes = |pace: Pace| Plan::uniform(1, pace).schedule(1, 25).closes_at(25);
        assert!(closes(pieces(10)));
        assert!(!closes(rate(10, 100)));
        assert!(!closes(Pace { cut: Some(Cut { at: CutAt::Bytes(25), how: Ending::Hang }), ..pieces(10) }));
        assert!(!Plan::uniform(1, pieces(10)).schedule(1, 25).closes_at(20));
    }

    #[test]
    fn a_replay_fits_poems_of_any_length() {
        let replay = Replay { pieces: vec![(Duration::ZERO, 10), (7 * MS, 20)], end: (9 * MS, Ending::Rst) };
        let plan = Plan::replay(vec![replay]);
        let steps = |len| plan.schedule(1, len).collect::<Vec<_>>();
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
            Plan::uniform(seed, pace).schedule(connection, 300).collect::<Vec<_>>()
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

    fn any_pace() -> impl Strategy<Value = Pace> {
        let tempo = prop_oneof![
            (0_u64..1_000).prop_map(|millis| Tempo::Delay(Duration::from_millis(millis))),
            (1_u64..1_000_000).prop_map(|rate| Tempo::Rate(NonZeroU64::new(rate).expect("not zero"))),
        ];
        let how = prop_oneof![Just(Ending::Fin), Just(Ending::Rst), Just(Ending::Hang)];
        let at = prop_oneof![
            (0_usize..6_000).prop_map(CutAt::Bytes),
            (0_u64..100_000).prop_map(|millis| CutAt::Time(Duration::from_millis(millis))),
        ];
        let cut = proptest::option::of((at, how).prop_map(|(at, how)| Cut { at, how }));
        (1_usize..600, tempo, 0_u64..500, 0_u64..500, cut).prop_map(|(num_bytes, tempo, jitter, first, cut)| Pace {
            first_byte_delay: Duration::from_millis(first),
            num_bytes: NonZeroUsize::new(num_bytes).expect("not zero"),
            tempo,
            jitter: Duration::from_millis(jitter),
            cut,
        })
    }

    proptest! {
        #[test]
        fn bytes_are_sent_once_and_in_order_and_then_it_ends(
            pace in any_pace(), len in 0_usize..5_000, seed: u64, connection in 1_u64..9,
        ) {
            let steps: Vec<Step> = Plan::uniform(seed, pace.clone()).schedule(connection, len).collect();
            let (last, sends) = steps.split_last().expect("an end");
            let mut next = 0;
            let mut time = Duration::ZERO;
            for step in sends {
                prop_assert!(step.at >= time);
                time = step.at;
                let Action::Send(piece) = &step.action else { panic!("an end that is not the last: {steps:?}") };
                prop_assert_eq!(piece.start, next);
                prop_assert!(piece.len() <= pace.num_bytes.get() && !piece.is_empty());
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

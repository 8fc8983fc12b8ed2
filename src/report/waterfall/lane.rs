//! A poem as a lane: what it was doing when.

use super::Unit;
use super::state::{Outcome, Phase, State};
use super::subject::Subject;
use super::words;
use crate::report::{Events, TaskReport};
use crate::units::Micros;

/// A lane: one poem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The number of the poem, and its name or else its server.
    pub label: String,
    /// Phases in order of time, without gaps, from 0 to the end of the poem; those of no length are left out, and in a
    /// compact chart those that are not started.
    pub phases: Vec<Phase>,
    /// The moments at which bytes arrived.
    pub reads: Vec<Micros>,
    /// How the attempts failed that were followed by others, and when; those that are known.
    pub failures: Vec<(Outcome, Micros)>,
    /// How the poem ended, and when; `None` if it was never begun.
    pub end: Option<(Outcome, Micros)>,
    /// A note about the end: the time it took, or the failure.
    pub note: String,
    /// All of this as a sentence, for those who do not see the picture.
    pub sentence: String,
}

impl Lane {
    pub(super) fn of(task: &TaskReport, subject: Subject, digits: usize, unit: Unit) -> Self {
        let label = words::label(task, digits);
        let (Some(start), Some(end)) = (task.start_us, task.end_us) else {
            return Self {
                label,
                phases: Vec::new(),
                reads: Vec::new(),
                failures: Vec::new(),
                end: None,
                note: State::NotStarted.word().to_owned(),
                sentence: words::not_started(task, subject),
            };
        };
        let mut phases = phases(task, start, end, unit);
        let sentence = words::sentence(task, subject, &phases, end, unit);
        phases.retain(|phase| phase.end > phase.start);
        let earlier = task.earlier.known();
        let reads = earlier.iter().map(|attempt| &attempt.events).chain([&task.events]).flat_map(Events::entries);
        Self {
            label,
            sentence,
            phases,
            reads: reads.map(|(at, _)| *at).collect(),
            failures: earlier.iter().map(|failed| (Outcome::of(failed.status), failed.end_us.min(end))).collect(),
            end: Some((Outcome::of(task.status), end)),
            note: words::note(task, subject, &unit.write(end - start.min(end))),
        }
    }

    /// Moves it so much to the right.
    pub(super) fn later(&mut self, by: Micros) {
        for phase in &mut self.phases {
            (phase.start, phase.end) = (phase.start.saturating_add(by), phase.end.saturating_add(by));
        }
        let ends = self.failures.iter_mut().chain(&mut self.end).map(|(_, at)| at);
        for at in self.reads.iter_mut().chain(ends) {
            *at = at.saturating_add(by);
        }
    }

    /// How it ended and when, if it did not arrive.
    pub(super) fn bad_end(&self) -> Option<(Outcome, Micros)> {
        self.end.filter(|(outcome, _)| *outcome != Outcome::Done)
    }

    /// The state of the poem for most of the time between these moments.
    pub(super) fn state_in(&self, start: Micros, end: Micros) -> Option<State> {
        let overlap = |phase: &Phase| phase.end.min(end).saturating_sub(phase.start.max(start));
        let longest = self.phases.iter().max_by_key(|phase| overlap(phase))?;
        (overlap(longest) > 0).then_some(longest.state)
    }
}

/// The phases of a poem, with those of no length, so that there is one for each pause.
fn phases(task: &TaskReport, start: Micros, end: Micros, unit: Unit) -> Vec<Phase> {
    use State::{Connecting, Delivering, NotStarted, Pausing, Receiving, Transforming, Waiting};
    let mut begins = vec![(NotStarted, Some(0)), (Connecting, Some(start))];
    for failed in task.earlier.known() {
        begins.extend([
            (Connecting, Some(failed.start_us)),
            (Waiting, failed.connected_us),
            (Receiving, failed.first_byte_us),
            (Pausing, Some(failed.end_us)),
        ]);
    }
    let transform = task.transform.as_ref().map(|transform| transform.start_us);
    // One that cannot be measured in the unit of the chart is none.
    let delivery = task.whole_us.filter(|whole| unit.write(end - end.min(*whole)) != unit.write(0));
    begins.extend([
        (Connecting, task.attempt_us),
        (Waiting, task.connected_us),
        (Receiving, task.first_byte_us),
        (Transforming, transform),
        (Delivering, delivery),
    ]);
    // Each state lasts until the beginning of the next state that was reached.
    let mut phases: Vec<Phase> = Vec::new();
    for (state, begin) in begins.into_iter().filter_map(|(state, begin)| Some((state, begin?))) {
        let mut start = begin.min(end);
        if let Some(last) = phases.last_mut() {
            if last.state == state {
                continue;
            }
            start = start.max(last.start);
            last.end = start;
        }
        phases.push(Phase { state, start, end });
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::super::Chart;
    use super::*;
    use crate::report::fixtures::{report, retried, task};
    use crate::report::{Status, TransformReport};

    fn lane(task: TaskReport) -> Lane {
        Chart::of(&[report("async", vec![task])]).panels.remove(0).lanes.remove(0)
    }

    fn phases(lane: &Lane) -> Vec<(State, Micros, Micros)> {
        lane.phases.iter().map(|phase| (phase.state, phase.start, phase.end)).collect()
    }

    #[test]
    fn a_lane_has_a_phase_for_each_state_and_no_gap() {
        use State::{Connecting, NotStarted, Receiving, Transforming, Waiting};
        let mut poem = task(1, 300, 900);
        assert_eq!(
            phases(&lane(poem.clone())),
            [(NotStarted, 0, 300), (Connecting, 300, 500), (Waiting, 500, 700), (Receiving, 700, 900)]
        );
        poem.transform = Some(Box::new(TransformReport {
            name: "shout".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            status: Status::Refused,
            error: None,
            limit: None,
            bytes: 0,
            start_us: 800,
            connected_us: None,
            end_us: Some(900),
        }));
        let lane = lane(poem);
        assert_eq!(phases(&lane)[3..], [(Receiving, 700, 800), (Transforming, 800, 900)]);
        assert_eq!(lane.note, "600 us, not transformed");
    }

    #[test]
    fn a_poem_that_fails_ends_in_the_state_in_which_it_failed() {
        for (status, outcome) in [
            (Status::Refused, Outcome::Failed),
            (Status::Reset, Outcome::Cut),
            (Status::Timeout, Outcome::TimedOut),
            (Status::Interrupted, Outcome::Interrupted),
        ] {
            let poem = TaskReport { status, first_byte_us: None, attempts: 3, ..task(1, 0, 900) };
            let lane = lane(poem);
            assert_eq!(phases(&lane), [(State::Connecting, 0, 300), (State::Waiting, 300, 900)]);
            assert_eq!(lane.end, Some((outcome, 900)));
            assert_eq!(lane.note, format!("{}, 3 attempts", status.word()));
        }
    }

    #[test]
    fn what_was_never_begun_is_an_empty_lane() {
        let poem = TaskReport { status: Status::Interrupted, start_us: None, end_us: None, ..task(1, 0, 900) };
        let lane = lane(poem);
        assert_eq!((lane.phases.len(), lane.end, lane.note.as_str()), (0, None, "not started"));
    }

    #[test]
    fn each_attempt_has_phases_of_its_own_with_a_pause_between() {
        use State::{Connecting, Pausing, Receiving, Waiting};
        let poem = retried(1, 3, 100);
        let drawn = lane(poem.clone());
        let attempt = |start| [(Connecting, start), (Waiting, start + 100), (Receiving, start + 200)];
        let states: Vec<(State, Micros)> = drawn.phases.iter().map(|phase| (phase.state, phase.start)).collect();
        let expected = [&attempt(0)[..], &[(Pausing, 300)], &attempt(400), &[(Pausing, 700)], &attempt(800)].concat();
        assert_eq!(states, expected);
        assert!(drawn.phases.windows(2).all(|two| two[0].end == two[1].start));
        assert_eq!(drawn.failures, [(Outcome::Cut, 300), (Outcome::Cut, 700)]);
        assert_eq!((drawn.end, drawn.reads), (Some((Outcome::Done, 1_100)), vec![200, 600, 1_000, 1_100]));
        assert_eq!(drawn.note, "1.10 ms, 3 attempts");

        let in_the_pause = TaskReport {
            status: Status::Interrupted,
            attempts: 2,
            attempt_us: None,
            connected_us: None,
            first_byte_us: None,
            end_us: Some(790),
            ..poem
        };
        let drawn = lane(in_the_pause);
        assert_eq!(phases(&drawn).last(), Some(&(Pausing, 700, 790)));
        assert_eq!((drawn.end, drawn.failures.len()), (Some((Outcome::Interrupted, 790)), 2));
    }

    #[test]
    fn of_an_old_report_the_last_attempt_is_known_alone() {
        let poem = TaskReport { attempts: 3, attempt_us: None, ..task(1, 0, 900) };
        assert_eq!(
            phases(&lane(poem)),
            [(State::Connecting, 0, 300), (State::Waiting, 300, 600), (State::Receiving, 600, 900)]
        );
    }

    #[test]
    fn times_that_run_backwards_make_no_phase_of_their_own() {
        let mut poem = retried(1, 2, 100);
        (poem.start_us, poem.connected_us, poem.end_us) = (Some(900), Some(3), Some(500));
        let drawn = lane(poem);
        assert!(drawn.phases.iter().all(|phase| phase.start < phase.end && phase.end <= 500), "{drawn:?}");
        assert!(drawn.phases.windows(2).all(|two| two[0].end <= two[1].start), "{drawn:?}");
        assert!(drawn.failures.iter().all(|(_, at)| *at <= 500));
    }
}

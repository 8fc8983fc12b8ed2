//! A lane in words: its label, its note, and its sentence.

use super::Unit;
use super::state::{Outcome, Phase, State};
use super::subject::Subject;
use crate::report::{Attempt, Status, TaskReport};
use crate::units::{Micros, count};

/// What stands before a lane: the number of the poem, in so many digits, and what it is called.
pub(super) fn label(task: &TaskReport, digits: usize) -> String {
    format!("{:digits$}  {}", task.task, name(task))
}

/// What a poem is called in its lane: its name, or its server, or the end of its URL, which says more than the beginning.
fn name(task: &TaskReport) -> &str {
    match &task.name {
        Some(name) => name,
        None => task.address.trim_end_matches('/').rsplit('/').next().unwrap_or(&task.address),
    }
}

/// What stands behind a lane.
pub(super) fn note(task: &TaskReport, subject: Subject, took: &str) -> String {
    if let Some(why) = subject.why(task) {
        return why.to_owned();
    }
    match task.status {
        Status::Ok => format!("{took}{}", remarks(task)),
        status => format!("{}{}", status.word().replace('_', " "), remarks(task)),
    }
}

/// What else there is to say of the end of a poem.
fn remarks(task: &TaskReport) -> String {
    let attempts = if task.attempts > 1 { format!(", {} attempts", task.attempts) } else { String::new() };
    let kept = match &task.transform {
        Some(transform) if task.status == Status::Ok && transform.status != Status::Ok => ", not transformed",
        _ => "",
    };
    attempts + kept
}

/// The sentence of a poem that was never begun.
pub(super) fn not_started(task: &TaskReport, subject: Subject) -> String {
    format!("{} was not started.", subject.called(task))
}

/// So many failed attempts are told one by one; others that failed are counted.
const MOST_TOLD: usize = 5;

/// `Poem 1, donne from 127.0.0.1:10000, was waiting for 0.1 s, receiving for 9.8 s, and done at 9.9 s.` Phases too short
/// for the unit are left out. Of the phases there is one for each pause, of whatever length.
pub(super) fn sentence(task: &TaskReport, subject: Subject, phases: &[Phase], end: Micros, unit: Unit) -> String {
    let mut sentence = subject.called(task) + " was ";
    let failed = task.earlier.known();
    for (index, attempt) in phases.split_inclusive(|phase| phase.state == State::Pausing).enumerate() {
        let failed = failed.get(index);
        if failed.is_some() && index >= MOST_TOLD {
            continue;
        }
        if index > MOST_TOLD {
            sentence += &untold(task);
        }
        sentence += &told(attempt, index, failed, task, unit);
    }
    if task.attempt_us.is_none() && failed.len() > MOST_TOLD {
        sentence += &untold(task);
    }
    let and = if sentence.ends_with(", ") { "and " } else { "" };
    let outcome = match (subject.why(task), Outcome::of(task.status)) {
        (Some(why), _) => why.to_owned(),
        (None, Outcome::Failed) => format!("lost ({})", task.status.word().replace('_', " ")),
        (None, outcome) => outcome.word().to_owned(),
    };
    sentence + and + &format!("{outcome} at {}{}.", unit.write(end), remarks(task))
}

/// The phases of an attempt, with the pause after it if it failed.
fn told(phases: &[Phase], index: usize, failed: Option<&Attempt>, task: &TaskReport, unit: Unit) -> String {
    let mut words = String::new();
    if let (1.., Some(first)) = (index, phases.first()) {
        let number = failed.map_or(task.attempts, |failed| failed.attempt);
        words += &format!("attempt {number} at {}, ", unit.write(first.start));
    }
    for phase in phases {
        if let (State::Pausing, Some(failed)) = (phase.state, failed) {
            words += &failure(failed, unit);
        }
        let time = unit.write(phase.end - phase.start);
        if time != unit.write(0) {
            words += &format!("{} for {time}, ", phase.state.word());
        }
    }
    words
}

/// `reset after 30 bytes at 0.2 s, `
fn failure(attempt: &Attempt, unit: Unit) -> String {
    let how = match Outcome::of(attempt.status) {
        Outcome::Failed => attempt.status.word().replace('_', " "),
        outcome => outcome.word().to_owned(),
    };
    let after = match attempt.bytes {
        0 => String::new(),
        bytes => format!(" after {}", count(bytes, "byte")),
    };
    format!("{how}{after} at {}, ", unit.write(attempt.end_us))
}

/// How many failed attempts are not told.
fn untold(task: &TaskReport) -> String {
    let last = u64::from(task.attempt_us.is_some());
    let untold = u64::from(task.attempts).saturating_sub(MOST_TOLD as u64 + last);
    format!("{} that failed, ", count(untold, "more attempt"))
}

#[cfg(test)]
mod tests {
    use super::super::Chart;
    use super::*;
    use crate::report::fixtures::{report, retried, task};

    #[test]
    fn a_lane_is_a_sentence_too() {
        let second = 1_000_000;
        let sentence = |poem: TaskReport| {
            let last = task(9, 0, 20 * second);
            Chart::of(&[report("async", vec![poem, last])]).panels[0].lanes[0].sentence.clone()
        };
        let poem = task(1, 3 * second, 9 * second);
        let named = TaskReport { name: Some("donne".to_owned()), ..poem.clone() };
        assert_eq!(
            sentence(named),
            "Poem 1, donne from 127.0.0.1:10000, was not started for 3.0 s, connecting for 2.0 s, waiting for 2.0 s, \
             receiving for 2.0 s, and done at 9.0 s."
        );
        let retried =
            TaskReport { status: Status::Timeout, first_byte_us: None, attempts: 3, ..task(1, 0, 3 * second) };
        assert_eq!(
            sentence(retried),
            "Poem 1, from 127.0.0.1:10000, was connecting for 1.0 s, waiting for 2.0 s, and timed out at 3.0 s, \
             3 attempts."
        );
        let refused = TaskReport { status: Status::Refused, ..task(1, 0, 90) };
        assert_eq!(sentence(refused), "Poem 1, from 127.0.0.1:10000, was lost (refused) at 0.0 s.");
        let never = TaskReport { status: Status::Interrupted, start_us: None, end_us: None, ..poem };
        assert_eq!(sentence(never), "Poem 1, from 127.0.0.1:10000, was not started.");
    }

    #[test]
    fn failed_attempts_are_told_and_of_many_the_first_ones() {
        let tenth = 100_000;
        let sentence = |poem: TaskReport| Chart::of(&[report("async", vec![poem])]).panels[0].lanes[0].sentence.clone();
        assert_eq!(
            sentence(retried(1, 2, tenth)),
            "Poem 1, from 127.0.0.1:10000, was connecting for 100.0 ms, waiting for 100.0 ms, receiving for 100.0 ms, \
             reset after 30 bytes at 300.0 ms, pausing for 100.0 ms, attempt 2 at 400.0 ms, connecting for 100.0 ms, \
             waiting for 100.0 ms, receiving for 100.0 ms, and done at 700.0 ms, 2 attempts."
        );
        let in_the_pause = |attempts| {
            let poem = TaskReport { status: Status::Interrupted, connected_us: None, ..retried(1, attempts, tenth) };
            TaskReport { attempts: attempts - 1, attempt_us: None, first_byte_us: None, ..poem }
        };
        let two = sentence(in_the_pause(3));
        assert!(
            two.ends_with("reset after 30 bytes at 0.70 s, pausing for 0.40 s, and interrupted at 1.10 s, 2 attempts."),
            "{two}"
        );
        let many = sentence(retried(1, 20, tenth));
        assert_eq!(many.matches("reset after").count(), MOST_TOLD, "{many}");
        assert!(many.contains("attempt 5 at 1.60 s, ") && !many.contains("attempt 6 at"), "{many}");
        assert!(many.contains(", 14 more attempts that failed, attempt 20 at 7.60 s, connecting for"), "{many}");
        let many = sentence(in_the_pause(20));
        assert!(many.contains(", 14 more attempts that failed, and interrupted at 7.90 s, 19 attempts."), "{many}");
    }
}

//! Waterfall charts of reports: one lane a poem, time to the right, models below each other on one time axis.
//!
//! ```text
//!  1  ├ connecting ┼ waiting ┼──── receiving ────┤ done
//!  2  (not started)          ├ connecting ┼ waiting ┼ receiving ┤ failed
//!     0 s               2 s               4 s               6 s
//! ```
//!
//! This file turns [`Report`]s into a [`Chart`], which is plain data: lanes made of phases. [`svg`] and [`text`] draw
//! charts, and know nothing of reports.

mod ink;
pub mod svg;
pub mod text;

use super::{Report, Status, TaskReport};
use crate::units::Micros;

/// A chart: everything that is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// The panels, one for each report.
    pub panels: Vec<Panel>,
    /// The length of the time axis that all panels share; at least 1.
    pub span_us: Micros,
    /// Whether lanes are thin and without labels, for many of them.
    pub compact: bool,
}

/// A panel: one run of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// The model of waiting.
    pub title: String,
    /// The tally of the run.
    pub tally: String,
    /// The end of the run, from its start.
    pub end_us: Micros,
    /// The poems, in order.
    pub lanes: Vec<Lane>,
}

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
    /// How the poem ended, and when; `None` if it was never begun.
    pub end: Option<(Outcome, Micros)>,
    /// A note about the end: the time it took, or the failure.
    pub note: String,
    /// All of this as a sentence, for those who do not see the picture.
    pub sentence: String,
}

/// A phase: a stretch of time in which a poem was in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// The state of the poem.
    pub state: State,
    /// The beginning, from the start of the run.
    pub start: Micros,
    /// The end, not before `start`.
    pub end: Micros,
}

/// The state of a poem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The turn of the poem has not come.
    NotStarted,
    /// From the turn of the poem to the connection of the last attempt: name look-ups, earlier attempts and pauses
    /// included.
    Connecting,
    /// Connected, and no byte has come.
    Waiting,
    /// From the first byte on.
    Receiving,
    /// The poem is whole, and at the transform server.
    Transforming,
    /// The poem is whole, and waits for the disk, or for whoever reads.
    Delivering,
}

/// How a poem ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The poem is whole.
    Done,
    /// The connection broke.
    Cut,
    /// A timeout passed.
    TimedOut,
    /// The client was stopped.
    Interrupted,
    /// Anything else: refused, unreachable, not found, truncated, not to be written.
    Failed,
}

impl State {
    /// All states, in the order in which a poem goes through them.
    pub const ALL: [Self; 6] =
        [Self::NotStarted, Self::Connecting, Self::Waiting, Self::Receiving, Self::Transforming, Self::Delivering];

    /// The name of the state in legends.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotStarted => "not started",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Receiving => "receiving",
            Self::Transforming => "transforming",
            Self::Delivering => "delivering",
        }
    }
}

impl Chart {
    /// A chart of these runs, in this order.
    pub fn of(reports: &[Report]) -> Self {
        let span = reports.iter().map(|report| report.elapsed_us).max().unwrap_or(0).max(1);
        let unit = Unit::of(span);
        let panels = reports.iter().map(|report| Panel::of(report, unit)).collect();
        Self { panels, span_us: span, compact: false }
    }

    /// The chart with thin lanes. What is not started is blank in them: hundreds of dotted lines would be a pattern of
    /// their own.
    #[must_use]
    pub fn compacted(mut self) -> Self {
        for lane in self.panels.iter_mut().flat_map(|panel| &mut panel.lanes) {
            lane.phases.retain(|phase| phase.state != State::NotStarted);
        }
        Self { compact: true, ..self }
    }

    /// The states that occur in this chart.
    fn states(&self) -> Vec<State> {
        let mut states: Vec<State> = self.lanes().flat_map(|lane| &lane.phases).map(|phase| phase.state).collect();
        states.sort_unstable();
        states.dedup();
        states
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.panels.iter().flat_map(|panel| &panel.lanes)
    }
}

impl Panel {
    fn of(report: &Report, unit: Unit) -> Self {
        let digits = report.tasks.len().to_string().len();
        Self {
            title: report.model.to_string(),
            tally: report.tally_in(&unit.write(report.elapsed_us)),
            end_us: report.elapsed_us,
            lanes: report.tasks.iter().map(|task| Lane::of(task, digits, unit)).collect(),
        }
    }

    /// The lanes that are shown if there is room for `most`, and a note about the others.
    fn folded(&self, most: usize) -> (&[Lane], Option<String>) {
        if self.lanes.len() <= most {
            return (&self.lanes, None);
        }
        let (shown, folded) = self.lanes.split_at(most.saturating_sub(1));
        let done = folded.iter().filter(|lane| matches!(lane.end, Some((Outcome::Done, _)))).count();
        let failed = match folded.len() - done {
            0 => String::new(),
            failed => format!(", {failed} not"),
        };
        (shown, Some(format!("and {} more: {done} done{failed}", folded.len())))
    }
}

impl Lane {
    fn of(task: &TaskReport, digits: usize, unit: Unit) -> Self {
        let label = format!("{:digits$}  {}", task.task, name(task));
        let (Some(start), Some(end)) = (task.start_us, task.end_us) else {
            let sentence = format!("{} was not started.", subject(task));
            let note = State::NotStarted.word().to_owned();
            return Self { label, phases: Vec::new(), reads: Vec::new(), end: None, note, sentence };
        };
        // Each state lasts until the beginning of the next state that was reached.
        let transform = task.transform.as_ref().map(|transform| transform.start_us);
        // One that cannot be measured in the unit of the chart is none.
        let delivery = task.whole_us.filter(|whole| unit.write(end - end.min(*whole)) != unit.write(0));
        let begins = [
            (State::NotStarted, Some(0)),
            (State::Connecting, Some(start)),
            (State::Waiting, task.connected_us),
            (State::Receiving, task.first_byte_us),
            (State::Transforming, transform),
            (State::Delivering, delivery),
        ];
        let mut phases: Vec<Phase> = Vec::new();
        for (state, begin) in begins.into_iter().filter_map(|(state, begin)| Some((state, begin?.min(end)))) {
            if let Some(last) = phases.last_mut() {
                last.end = begin.max(last.start);
            }
            phases.push(Phase { state, start: begin, end });
        }
        phases.retain(|phase| phase.end > phase.start);
        Self {
            label,
            sentence: sentence(task, &phases, end, unit),
            phases,
            reads: task.events.entries().iter().map(|(at, _)| *at).collect(),
            end: Some((Outcome::of(task.status), end)),
            note: note(task, &unit.write(end - start.min(end))),
        }
    }

    /// The state of the poem for most of the time between these moments.
    fn state_in(&self, start: Micros, end: Micros) -> Option<State> {
        let overlap = |phase: &Phase| phase.end.min(end).saturating_sub(phase.start.max(start));
        let longest = self.phases.iter().max_by_key(|phase| overlap(phase))?;
        (overlap(longest) > 0).then_some(longest.state)
    }
}

/// What a poem is called in its lane: its name, or its server, or the end of its URL, which says more than the beginning.
fn name(task: &TaskReport) -> &str {
    match &task.name {
        Some(name) => name,
        None => task.address.trim_end_matches('/').rsplit('/').next().unwrap_or(&task.address),
    }
}

fn note(task: &TaskReport, took: &str) -> String {
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

/// What a poem is called in sentences.
fn subject(task: &TaskReport) -> String {
    match &task.name {
        Some(name) => format!("Poem {}, {name} from {},", task.task, task.address),
        None => format!("Poem {}, from {},", task.task, task.address),
    }
}

/// `Poem 1, donne from 127.0.0.1:10000, was waiting for 0.1 s, receiving for 9.8 s, and done at 9.9 s.` Phases too short
/// for the unit are left out.
fn sentence(task: &TaskReport, phases: &[Phase], end: Micros, unit: Unit) -> String {
    let mut sentence = subject(task) + " was ";
    for phase in phases {
        let time = unit.write(phase.end - phase.start);
        if time != unit.write(0) {
            sentence += &format!("{} for {time}, ", phase.state.word());
        }
    }
    let and = if sentence.ends_with(", ") { "and " } else { "" };
    let outcome = match Outcome::of(task.status) {
        Outcome::Failed => format!("lost ({})", task.status.word().replace('_', " ")),
        outcome => outcome.word().to_owned(),
    };
    sentence + and + &format!("{outcome} at {}{}.", unit.write(end), remarks(task))
}

impl Outcome {
    /// All outcomes, as legends list them.
    pub const ALL: [Self; 5] = [Self::Done, Self::Cut, Self::TimedOut, Self::Interrupted, Self::Failed];

    /// The name of the outcome in legends.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cut => "reset",
            Self::TimedOut => "timed out",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }

    fn of(status: Status) -> Self {
        match status {
            Status::Ok => Self::Done,
            Status::Reset => Self::Cut,
            Status::Timeout => Self::TimedOut,
            Status::Interrupted => Self::Interrupted,
            Status::NotFound | Status::Truncated | Status::Refused | Status::Unreachable | Status::Error => {
                Self::Failed
            }
        }
    }
}

/// The distance between two ticks of a time axis: 1, 2 or 5 times a power of ten, for at most `most` ticks.
fn tick(span: Micros, most: u64) -> Micros {
    let mut decade: Micros = 1;
    loop {
        for step in [decade, decade.saturating_mul(2), decade.saturating_mul(5)] {
            if span / step < most.max(1) {
                return step;
            }
        }
        decade = decade.saturating_mul(10);
    }
}

/// The one unit of all times of a chart.
#[derive(Debug, Clone, Copy)]
struct Unit {
    word: &'static str,
    micros: Micros,
    /// The decimals of a time that was measured.
    decimals: usize,
}

impl Unit {
    /// The largest unit that is not longer than the time axis, with three digits of that.
    fn of(span: Micros) -> Self {
        let (word, micros) = match span {
            1_000_000.. => ("s", 1_000_000),
            1_000.. => ("ms", 1_000),
            _ => ("us", 1),
        };
        let decimals = match span / micros {
            _ if micros == 1 => 0,
            0..10 => 2,
            _ => 1,
        };
        Self { word, micros, decimals }
    }

    fn write(self, time: Micros) -> String {
        self.with_decimals(time, self.decimals)
    }

    /// The label of a moment on the axis, with the decimals that its ticks have.
    fn tick_label(self, at: Micros, tick: Micros) -> String {
        let mut decimals = 0;
        let mut step = tick;
        while at > 0 && !step.is_multiple_of(self.micros) {
            decimals += 1;
            step = step.saturating_mul(10);
        }
        self.with_decimals(at, decimals)
    }

    #[expect(clippy::cast_precision_loss, reason = "for people, who read three digits")]
    fn with_decimals(self, time: Micros, decimals: usize) -> String {
        format!("{:.decimals$} {}", time as f64 / self.micros as f64, self.word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::TransformReport;
    use crate::report::fixtures::{report, task};

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
        poem.transform = Some(TransformReport {
            name: "shout".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            status: Status::Refused,
            error: None,
            limit: None,
            bytes: 0,
            start_us: 800,
            connected_us: None,
            end_us: Some(900),
        });
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
    fn what_does_not_fit_is_folded_with_a_note() {
        let mut tasks: Vec<TaskReport> = (1..=10).map(|number| task(number, 0, 900)).collect();
        tasks[8].status = Status::Reset;
        let chart = Chart::of(&[report("select", tasks)]);
        assert_eq!(chart.panels[0].folded(10).1, None);
        let (shown, note) = chart.panels[0].folded(5);
        assert_eq!((shown.len(), note.as_deref()), (4, Some("and 6 more: 5 done, 1 not")));
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (span, step) in
            [(1, 1), (9, 1), (10, 2), (22_504_000, 5_000_000), (9_900_000, 1_000_000), (120_000, 20_000)]
        {
            assert_eq!(tick(span, 10), step, "{span}");
            assert!(span / tick(span, 10) < 10);
        }
    }

    #[test]
    fn a_chart_has_one_unit() {
        for (span, tick, written) in [
            (22_504_000, 5_000_000, "0 s|5 s|9.9 s|0.0 s"),
            (9_904_000, 500_000, "0 s|0.5 s|9.90 s|0.00 s"),
            (1_200_000, 200_000, "0 s|0.2 s|9.90 s|0.00 s"),
            (3_600_000_000, 500_000_000, "0 s|500 s|9.9 s|0.0 s"),
            (120_000, 20_000, "0 ms|20 ms|9904.0 ms|0.3 ms"),
            (9_000, 500, "0 ms|0.5 ms|9904.00 ms|0.30 ms"),
            (900, 200, "0 us|200 us|9904000 us|300 us"),
        ] {
            let unit = Unit::of(span);
            let times = [unit.tick_label(0, tick), unit.tick_label(tick, tick), unit.write(9_904_000), unit.write(300)];
            assert_eq!(times.join("|"), written, "{span}");
        }
    }

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
}

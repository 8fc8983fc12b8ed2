//! Waterfall charts of reports: one lane a poem, time to the right, models below each other on one time axis.
//!
//! ```text
//!  1  ├ connecting ┼ waiting ┼──── receiving ────┤ done
//!  2  (not started)          ├ connecting ┼ waiting ┼ receiving ┤ failed
//!     0 s               2 s               4 s               6 s
//! ```
//!
//! A poem that was tried again has these for each attempt, with the end of the one that failed and a pause between. This
//! file turns [`Report`]s into a [`Chart`], which is plain data: lanes made of phases. [`svg`], [`text`] and [`page`] draw
//! charts.

mod ink;
mod lane;
pub mod page;
mod state;
mod subject;
pub mod svg;
pub mod text;
mod words;

pub use self::lane::Lane;
pub use self::state::{Outcome, Phase, State};
pub use self::subject::Subject;
use super::Report;
use crate::units::{Micros, micros};

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

/// What is drawn as a panel: a report, and what it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What the panel is called.
    pub title: String,
    /// What a lane is.
    pub subject: Subject,
    /// What was measured.
    pub report: Report,
}

/// A panel: one run of a client, or what a server did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// The model of waiting, as a rule.
    pub title: String,
    /// The tally of the run.
    pub tally: String,
    /// The start of the run on the time axis.
    pub start_us: Micros,
    /// The end of the run on the time axis.
    pub end_us: Micros,
    /// The poems, in order.
    pub lanes: Vec<Lane>,
}

impl Chart {
    /// A chart of these runs, in this order.
    pub fn of(reports: &[Report]) -> Self {
        Self::made_of(reports.iter().map(|report| (&*report.model, Subject::Poem, report)), |_| 0)
    }

    /// A chart of these runs, each from its own start.
    pub fn of_runs(runs: &[Run]) -> Self {
        Self::made_of(runs.iter().map(|run| (&*run.title, run.subject, &run.report)), |_| 0)
    }

    /// A chart of these runs by the time of day: each from when it started after the first of them.
    pub fn by_the_clock(runs: &[Run]) -> Self {
        let first = runs.iter().map(|run| run.report.started).min();
        let after = |report: &Report| {
            let after = first.and_then(|first| report.started.duration_since(first).ok());
            micros(after.unwrap_or_default())
        };
        Self::made_of(runs.iter().map(|run| (&*run.title, run.subject, &run.report)), after)
    }

    fn made_of<'a>(
        runs: impl Iterator<Item = (&'a str, Subject, &'a Report)> + Clone,
        after: impl Fn(&Report) -> Micros,
    ) -> Self {
        let ends = runs.clone().map(|(_, _, report)| report.elapsed_us.saturating_add(after(report)));
        let span = ends.max().unwrap_or(0).max(1);
        let unit = Unit::of(span);
        let panel = |(title, subject, report)| Panel::of(title, subject, report, unit).later(after(report));
        Self { panels: runs.map(panel).collect(), span_us: span, compact: false }
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

    /// The outcomes that occur in this chart, of attempts, too.
    fn outcomes(&self) -> Vec<Outcome> {
        let occurs =
            |outcome| self.lanes().any(|lane| lane.end.iter().chain(&lane.failures).any(|end| end.0 == outcome));
        Outcome::ALL.into_iter().filter(|&outcome| occurs(outcome)).collect()
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.panels.iter().flat_map(|panel| &panel.lanes)
    }
}

impl Panel {
    fn of(title: &str, subject: Subject, report: &Report, unit: Unit) -> Self {
        let digits = report.tasks.iter().map(|task| task.task).max().unwrap_or_default().to_string().len();
        Self {
            title: title.to_owned(),
            tally: subject.tally(report, &unit.write(report.elapsed_us)),
            start_us: 0,
            end_us: report.elapsed_us,
            lanes: report.tasks.iter().map(|task| Lane::of(task, subject, digits, unit)).collect(),
        }
    }

    /// The panel so much later on the time axis. What it says in words counts from its own start.
    fn later(mut self, by: Micros) -> Self {
        self.start_us = by;
        self.end_us = self.end_us.saturating_add(by);
        for lane in &mut self.lanes {
            lane.later(by);
        }
        self
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
    use std::time::Duration;

    use super::*;
    use crate::report::fixtures::{report, task};
    use crate::report::{Status, TaskReport};

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
    fn by_the_clock_each_run_begins_when_it_began() {
        let at = |seconds, title: &str| {
            let mut report = report("async", vec![task(1, 0, 3_000_000)]);
            report.started += Duration::from_secs(seconds);
            Run { title: title.to_owned(), subject: Subject::Poem, report }
        };
        let runs = [at(12, "second"), at(10, "first")];
        let chart = Chart::of_runs(&runs);
        assert_eq!((chart.span_us, chart.panels[0].lanes[0].phases[0].start), (3_000_000, 0));
        let chart = Chart::by_the_clock(&runs);
        let starts: Vec<Micros> = chart.panels.iter().map(|panel| panel.lanes[0].phases[0].start).collect();
        assert_eq!((chart.span_us, &starts[..]), (5_000_000, &[2_000_000, 0][..]));
        let late = &chart.panels[0];
        assert_eq!((late.start_us, late.end_us), (2_000_000, 5_000_000));
        assert_eq!((late.lanes[0].end, late.lanes[0].reads[0]), (Some((Outcome::Done, 5_000_000)), 4_000_000));
        assert_eq!(late.lanes[0].note, "3.00 s");
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
}

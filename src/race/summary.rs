//! What the runs of a race come to: for each model, its times, its bound and its costs.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::Run;
use super::cost::Cost;
use super::racer::Racer;
use super::statistics::{interval, median};
use crate::client::{Concurrency, Source};
use crate::report::Report;
use crate::units::Micros;

/// The confidence of every interval of a race.
pub const CONFIDENCE: f64 = 0.95;

/// The summary of one model: one row of the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Who it is.
    pub model: Racer,
    /// The poems of each run.
    pub poems: usize,
    /// Runs that counted: those in which all poems arrived.
    pub runs: usize,
    /// Poems that did not arrive, of all runs.
    pub missing: usize,
    /// The times and costs of the runs that counted; `None`: there was none.
    pub standing: Option<Standing>,
}

/// The times and costs of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The median time.
    pub time_us: Micros,
    /// The confidence interval of the median; `None`: there are too few runs.
    pub interval_us: Option<(Micros, Micros)>,
    /// The shortest and the longest time.
    pub spread_us: (Micros, Micros),
    /// The least time that is possible in this model: the sum over the poems for the blocking one; the slowest poem for
    /// the others, or more if not all may be under way at once.
    pub bound_us: Micros,
    /// The median of each cost.
    pub cost: Cost,
}

/// One object; what no run counted for is null.
impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let standing = self.standing.as_ref();
        let mut row = serializer.serialize_struct("Summary", 9)?;
        row.serialize_field("model", &self.model)?;
        row.serialize_field("poems", &self.poems)?;
        row.serialize_field("runs", &self.runs)?;
        row.serialize_field("missing", &self.missing)?;
        row.serialize_field("time_us", &standing.map(|it| it.time_us))?;
        row.serialize_field("interval_us", &standing.and_then(|it| it.interval_us))?;
        row.serialize_field("spread_us", &standing.map(|it| it.spread_us))?;
        row.serialize_field("bound_us", &standing.map(|it| it.bound_us))?;
        row.serialize_field("cost", &standing.map(|it| it.cost))?;
        row.end()
    }
}

impl Standing {
    /// The median time in units of the bound.
    pub fn ratio(&self) -> f64 {
        quotient(self.time_us, self.bound_us)
    }

    /// The speed-up over another model.
    pub fn speed_up(&self, other: &Self) -> f64 {
        quotient(other.time_us, self.time_us)
    }

    /// The width of the interval of the median time, as a part of it.
    pub fn width(&self) -> Option<f64> {
        self.interval_us.map(|(low, high)| quotient(high - low, self.time_us))
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people, who read three digits")]
fn quotient(this: Micros, that: Micros) -> f64 {
    this as f64 / that.max(1) as f64
}

/// The summaries of these runs, in the order of the models. A run counts for times and costs if all its poems arrived:
/// a poem that fails may do so very fast. The poems come from these sources, so many at once.
pub fn summaries(models: &[Racer], runs: &[Run], sources: &[Source], concurrency: Concurrency) -> Vec<Summary> {
    let counting: Vec<&Run> = runs.iter().filter(|run| run.counts()).collect();
    let poems = server_times(&counting);
    let summary = |&model: &Racer| Summary {
        model,
        poems: sources.len(),
        runs: counting.iter().filter(|run| run.model == model).count(),
        missing: runs.iter().filter(|run| run.model == model).map(Run::missing).sum(),
        standing: standing(model, &counting, || {
            model.concurrency(concurrency).bound(sources.iter().zip(poems.iter().copied()))
        }),
    };
    models.iter().map(summary).collect()
}

/// The standing of one model; `None` if none of these runs is its own.
fn standing(model: Racer, runs: &[&Run], bound: impl Fn() -> Micros) -> Option<Standing> {
    let of: Vec<&Run> = runs.iter().filter(|run| run.model == model).copied().collect();
    let times: Vec<Micros> = of.iter().map(|run| run.report.elapsed_us).collect();
    let costs: Vec<Cost> = of.iter().map(|run| run.cost).collect();
    Some(Standing {
        spread_us: (*times.iter().min()?, *times.iter().max()?),
        interval_us: interval(&times, CONFIDENCE),
        time_us: median(times)?,
        bound_us: bound(),
        cost: Cost::median(&costs),
    })
}

/// The time that each server takes for its poem, from the poem's turn to its end: the median of the fastest model. (In
/// another model a server that is asked twice may have had to serve its other client first.)
fn server_times(runs: &[&Run]) -> Vec<Micros> {
    let poems = runs.first().map_or(0, |run| run.poems);
    let mut models: Vec<Racer> = Vec::new();
    for run in runs {
        if !models.contains(&run.model) {
            models.push(run.model);
        }
    }
    let took = |run: &Run, poem: usize| {
        let task = run.report.tasks.get(poem)?;
        Some(task.end_us? - task.start_us?)
    };
    let in_model = |model: Racer, poem: usize| {
        let of_it = runs.iter().filter(|run| run.model == model);
        median(of_it.filter_map(|run| took(run, poem)))
    };
    let soonest = |poem| models.iter().filter_map(|&model| in_model(model, poem)).min();
    (0..poems).map(|poem| soonest(poem).unwrap_or(0)).collect()
}

/// The reports of the runs that are nearest to the median time, one for each model; of a model of which no run counted,
/// the first.
pub fn median_runs(summaries: &[Summary], runs: &[Run]) -> Vec<Report> {
    let median = |summary: &Summary| {
        let of_it = || runs.iter().filter(|run| run.model == summary.model);
        match &summary.standing {
            Some(standing) => {
                of_it().filter(|run| run.counts()).min_by_key(|run| run.report.elapsed_us.abs_diff(standing.time_us))
            }
            None => of_it().next(),
        }
    };
    summaries.iter().filter_map(median).map(|run| run.report.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Model;
    use crate::race::fixtures::run;
    use crate::report::Status;

    /// The summaries of runs with two poems, both at once.
    fn of_all(models: &[Model], runs: &[Run]) -> Vec<Summary> {
        let sources = ["1", "2"].map(|port| port.parse().expect("a source"));
        summaries(
            &models.iter().copied().map(Racer::from).collect::<Vec<_>>(),
            runs,
            &sources,
            Concurrency::wanted(None),
        )
    }

    #[test]
    fn the_bound_is_the_sum_or_the_slowest() {
        let runs = [
            run(1, Model::Blocking, &[(0, 300), (300, 900)]),
            run(1, Model::Async, &[(0, 310), (0, 600)]),
            run(2, Model::Blocking, &[(0, 300), (300, 990)]),
            run(2, Model::Async, &[(0, 300), (0, 600)]),
            run(3, Model::Blocking, &[(0, 300), (300, 900)]),
            run(3, Model::Async, &[(0, 300), (0, 600)]),
        ];
        let summaries = of_all(&[Model::Async, Model::Blocking], &runs);
        let standings: Vec<&Standing> = summaries.iter().filter_map(|summary| summary.standing.as_ref()).collect();
        let [asynchronous, blocking] = standings[..] else { panic!("two models") };
        assert_eq!((asynchronous.time_us, asynchronous.bound_us), (600, 600));
        assert_eq!((blocking.time_us, blocking.spread_us, blocking.bound_us), (900, (900, 990), 900));
        assert_eq!((blocking.ratio(), asynchronous.speed_up(blocking)), (1.0, 1.5));
        let drawn = median_runs(&summaries, &runs);
        assert_eq!(drawn.iter().map(|report| report.elapsed_us).collect::<Vec<_>>(), [600, 900]);
    }

    #[test]
    fn a_server_that_serves_one_at_a_time_is_no_better_than_its_word() {
        // The same server twice: asked at once, the second poem waits for the first.
        let runs = [run(1, Model::Blocking, &[(0, 300), (300, 600)]), run(1, Model::Async, &[(0, 300), (0, 600)])];
        let summaries = of_all(&[Model::Blocking, Model::Async], &runs);
        let standings: Vec<&Standing> = summaries.iter().filter_map(|summary| summary.standing.as_ref()).collect();
        assert_eq!((standings[0].bound_us, standings[1].bound_us), (600, 300));
        assert_eq!((standings[0].ratio(), standings[1].ratio()), (1.0, 2.0));
    }

    #[test]
    fn a_run_that_lost_a_poem_counts_for_nothing_but_what_is_missing() {
        let failed = |model, end, cpu_us| {
            let mut run = run(1, model, &[(0, end), (0, end)]);
            run.report.tasks[1].status = Status::Reset;
            run.cost.cpu_us = Some(cpu_us);
            run
        };
        let counted = |cpu_us| {
            let mut run = run(1, Model::Async, &[(0, 300), (0, 600)]);
            run.cost.cpu_us = Some(cpu_us);
            run
        };
        let runs = [
            failed(Model::Async, 5, 1),
            failed(Model::Async, 7, 1),
            counted(40),
            failed(Model::Select, 5, 1),
            failed(Model::Async, 6, 1),
            counted(60),
        ];
        let [asynchronous, select] = &of_all(&[Model::Async, Model::Select], &runs)[..] else { panic!("two") };
        assert_eq!((asynchronous.runs, asynchronous.missing), (2, 3));
        let standing = asynchronous.standing.as_ref().expect("two runs");
        assert_eq!((standing.time_us, standing.spread_us, standing.bound_us), (600, (600, 600), 600));
        assert_eq!((standing.cost.cpu_us, standing.interval_us), (Some(50), None));
        assert_eq!((select.runs, select.missing, &select.standing), (0, 1, &None));
        let json = serde_json::to_string(select).expect("JSON");
        let nulls = r#""time_us":null,"interval_us":null,"spread_us":null,"bound_us":null,"cost":null"#;
        assert_eq!(json, format!(r#"{{"model":"select","poems":2,"runs":0,"missing":1,{nulls}}}"#));
    }
}

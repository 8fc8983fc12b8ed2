//! The outcome of a race as data, and its forms for programs: JSON, JUnit XML, curves.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::client::{Concurrency, Source, Target};
use crate::comparison::float;
use crate::programs::client_args::Repeated;
use crate::race::junit::{self, Case};
use crate::race::{
    Cost, Difference, Racer, Run, Standing, Summary, assertion, differences, median_runs, sentence, summaries,
};
use crate::report::curves::{Curves, Panel, Scale, Series};
use crate::report::{Environment, Report};
use crate::units::{Micros, count};

/// The file of the JSON in a directory of reports.
pub(super) const RESULT: &str = "race.json";

/// All of a race: what was raced for, where, and what came of it.
pub(super) struct Outcome {
    pub(super) environment: Environment,
    pub(super) targets: Vec<Target>,
    /// One, or one for each number of poems of a sweep.
    pub(super) heats: Vec<Heat>,
    pub(super) verdicts: Vec<Verdict>,
    /// How much later a first byte came through a relay, if there were any.
    pub(super) relay_us: Option<Micros>,
    pub(super) elapsed: Duration,
}

/// The runs with one number of poems, and what they come to.
pub(super) struct Heat {
    pub(super) runs: Vec<Run>,
    pub(super) summaries: Vec<Summary>,
    pub(super) differences: Vec<Difference>,
}

/// The verdict on one assertion.
pub(super) struct Verdict {
    /// The number of poems, if there are several.
    pub(super) poems: Option<usize>,
    pub(super) expression: String,
    pub(super) verdict: assertion::Verdict,
}

impl Heat {
    pub(super) fn new(models: &[Racer], runs: Vec<Run>, targets: &[Repeated], concurrency: Concurrency) -> Self {
        let source = |one: &Repeated| std::iter::repeat_n(one.target.source.clone(), one.times);
        let sources: Vec<Source> = targets.iter().flat_map(source).collect();
        let summaries = summaries(models, &runs, &sources, concurrency);
        let differences = differences(&summaries, &runs);
        Self { runs, summaries, differences }
    }

    /// The poems of each run.
    pub(super) fn poems(&self) -> usize {
        self.summaries.first().map_or(0, |summary| summary.poems)
    }

    /// Poems that did not arrive, of all runs.
    pub(super) fn missing(&self) -> usize {
        self.summaries.iter().map(|summary| summary.missing).sum()
    }

    /// Runs in which a client failed itself.
    pub(super) fn failed(&self) -> usize {
        self.runs.iter().filter(|run| run.failure.is_some()).count()
    }

    /// What of all that did not come out, in words.
    pub(super) fn loss(&self) -> String {
        let poems = || format!("{} did not arrive", count(self.missing() as u64, "poem"));
        let runs = || format!("{} failed", count(self.failed() as u64, "run"));
        match (self.missing(), self.failed()) {
            (_, 0) => poems(),
            (0, _) => runs(),
            _ => format!("{}, and {}", poems(), runs()),
        }
    }

    /// What the rounds show, in a sentence.
    pub(super) fn sentence(&self) -> Option<String> {
        sentence(&self.differences)
    }
}

impl Verdict {
    /// The assertion with the values of both sides, and for how many poems.
    pub(super) fn text(&self) -> String {
        let poems = self.poems.map(|poems| format!("{}: ", count(poems as u64, "poem")));
        poems.unwrap_or_default() + &self.verdict.text
    }
}

/// One object; sides without values are null.
impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            poems: Option<usize>,
            expression: &'a str,
            holds: bool,
            left: Option<f64>,
            right: Option<f64>,
            text: &'a str,
        }
        let assertion::Verdict { holds, text, sides } = &self.verdict;
        let (left, right) = (sides.map(|sides| sides.0), sides.map(|sides| sides.1));
        Row { poems: self.poems, expression: &self.expression, holds: *holds, left, right, text }.serialize(serializer)
    }
}

impl Outcome {
    /// The version of the format of [`to_json`](Self::to_json).
    const SCHEMA: u32 = 3;

    /// The reports of the median runs, of the last number of poems.
    pub(super) fn median_runs(&self) -> Vec<Report> {
        self.heats.last().map_or_else(Vec::new, |heat| median_runs(&heat.summaries, &heat.runs))
    }

    /// All of it as one line of JSON.
    pub(super) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Result<'a> {
            schema: u32,
            environment: &'a Environment,
            relay_us: Option<Micros>,
            addresses: Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            names: Option<Vec<Option<String>>>,
            models: Vec<&'a Summary>,
            differences: Vec<&'a Difference>,
            sentences: Vec<Option<String>>,
            assertions: &'a [Verdict],
            runs: Vec<&'a Run>,
        }
        let names: Vec<Option<String>> = self.targets.iter().map(|target| target.name.clone()).collect();
        let result = Result {
            schema: Self::SCHEMA,
            environment: &self.environment,
            relay_us: self.relay_us,
            addresses: self.targets.iter().map(|target| target.source.to_string()).collect(),
            names: Some(names).filter(|names| names.iter().any(Option::is_some)),
            models: self.heats.iter().flat_map(|heat| &heat.summaries).collect(),
            differences: self.heats.iter().flat_map(|heat| &heat.differences).collect(),
            sentences: self.heats.iter().map(Heat::sentence).collect(),
            assertions: &self.verdicts,
            runs: self.heats.iter().flat_map(|heat| &heat.runs).collect(),
        };
        serde_json::to_string(&result).expect("plain data has a JSON form") + "\n"
    }

    /// The verdicts as JUnit XML.
    pub(super) fn to_junit(&self) -> String {
        let lost = self.heats.iter().filter(|heat| heat.missing() + heat.failed() > 0);
        let lost: Vec<String> = lost.map(Heat::loss).collect();
        let failure = Some(lost.join("; ")).filter(|_| !lost.is_empty());
        let arrived = Case { name: "all poems arrived".to_owned(), failure };
        let case = |verdict: &Verdict| Case {
            name: match verdict.poems {
                Some(poems) => format!("{}: {}", count(poems as u64, "poem"), verdict.expression),
                None => verdict.expression.clone(),
            },
            failure: (!verdict.verdict.holds).then(|| verdict.text()),
        };
        let cases: Vec<Case> = [arrived].into_iter().chain(self.verdicts.iter().map(case)).collect();
        junit::document(&cases, self.elapsed.as_secs_f64())
    }

    /// Time, processor time and memory of each model over the number of poems.
    pub(super) fn curves(&self) -> Curves {
        let seconds = |micros: u64| float(micros) / 1e6;
        let time = |standing: &Standing| Some(seconds(standing.time_us));
        let bound = |standing: &Standing| Some(seconds(standing.bound_us));
        let cost = |cost: fn(&Cost) -> Option<u64>| move |standing: &Standing| cost(&standing.cost);
        let (cpu, memory) = (cost(|cost| cost.cpu_us), cost(|cost| cost.peak_rss_kb));
        let mut times = self.series(&time, false);
        times.extend(self.series(&bound, true));
        let panel = |title: &str, scale, series| Panel { title: title.to_owned(), scale, series };
        let of_cpu = |standing: &Standing| cpu(standing).map(seconds);
        let of_memory = |standing: &Standing| memory(standing).map(|kb| float(kb * 1024));
        Curves {
            title: "What each model of waiting costs over the number of poems".to_owned(),
            axis: "poems".to_owned(),
            panels: vec![
                panel("time", Scale::Seconds, times),
                panel("processor time", Scale::Seconds, self.series(&of_cpu, false)),
                panel("memory", Scale::Bytes, self.series(&of_memory, false)),
            ],
        }
    }

    /// One measure of each model.
    fn series(&self, value: &dyn Fn(&Standing) -> Option<f64>, is_bound: bool) -> Vec<Series> {
        let models = self.heats.first().map_or(&[][..], |heat| &heat.summaries[..]);
        let series = |(index, model): (usize, &Summary)| {
            let point = |heat: &Heat| Some((heat.poems() as u64, value(heat.summaries[index].standing.as_ref()?)?));
            let mut points: Vec<(u64, f64)> = self.heats.iter().filter_map(point).collect();
            points.sort_by_key(|(poems, _)| *poems);
            Series { name: model.model.to_string(), index, is_bound, points }
        };
        models.iter().enumerate().map(series).collect()
    }
}

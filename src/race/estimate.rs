//! How long the rest of a race will take, from what its poems took so far.

use std::time::Duration;

use super::Racer;
use crate::client::{Concurrency, Source};
use crate::report::Report;
use crate::units::Micros;

/// An estimate of runs that are still to come. It is a bound, not a forecast: what a client loses is not in it.
#[derive(Debug, Clone)]
pub struct Estimate {
    sources: Vec<Source>,
    /// Poems that a client fetches at once, at most.
    concurrency: Concurrency,
    /// The shortest time that each poem took, in a run in which it came to an end.
    poems: Vec<Option<Micros>>,
}

impl Estimate {
    /// Nothing is known yet of the poems from these sources.
    pub fn new(sources: &[Source], concurrency: Concurrency) -> Self {
        Self { sources: sources.to_vec(), concurrency, poems: vec![None; sources.len()] }
    }

    /// Takes note of a run.
    pub fn learn(&mut self, report: &Report) {
        for (known, task) in self.poems.iter_mut().zip(&report.tasks) {
            if let (Some(start), Some(end)) = (task.start_us, task.end_us) {
                let took = end.saturating_sub(start);
                *known = Some(known.map_or(took, |known| known.min(took)));
            }
        }
    }

    /// The time that a run of this model takes; `None` while a poem is unknown.
    pub fn of(&self, model: impl Into<Racer>) -> Option<Duration> {
        let poems: Vec<Micros> = self.poems.iter().copied().collect::<Option<_>>()?;
        Some(Duration::from_micros(model.into().concurrency(self.concurrency).bound(self.sources.iter().zip(poems))))
    }

    /// The time that is left of a run that has begun so long ago, and of all of the later ones.
    pub fn left(&self, model: impl Into<Racer>, elapsed: Duration, later: &[Racer]) -> Option<Duration> {
        let later: Duration = later.iter().map(|model| self.of(*model)).sum::<Option<_>>()?;
        Some(self.of(model)?.saturating_sub(elapsed) + later)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::client::Model;
    use crate::report::fixtures::{report, task};

    const SECOND: Micros = 1_000_000;

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    fn learnt(at_once: Option<usize>, runs: &[&[(Micros, Micros)]]) -> Estimate {
        let sources = ["1", "2", "3"].map(|port| port.parse().expect("a source"));
        let mut estimate = Estimate::new(&sources, Concurrency::wanted(at_once.and_then(NonZeroUsize::new)));
        for ends in runs {
            let tasks = ends.iter().enumerate();
            let tasks = tasks.map(|(index, (start, end))| task(index + 1, start * SECOND, end * SECOND)).collect();
            estimate.learn(&report("async", tasks));
        }
        estimate
    }

    #[test]
    fn one_run_tells_how_long_each_model_takes() {
        let estimate = learnt(None, &[&[(0, 4), (0, 2), (0, 3)]]);
        assert_eq!((estimate.of(Model::Async), estimate.of(Model::Blocking)), (seconds(4), seconds(9)));
        let later = [Model::Threads, Model::Blocking].map(Racer::from);
        assert_eq!(estimate.left(Model::Select, Duration::from_secs(1), &later), seconds(3 + 4 + 9));
        assert_eq!(estimate.left(Model::Select, Duration::from_secs(99), &later), seconds(4 + 9), "never below zero");
    }

    #[test]
    fn with_few_at_once_the_rest_has_to_wait() {
        let estimate = learnt(Some(2), &[&[(0, 4), (0, 4), (4, 8)]]);
        assert_eq!((estimate.of(Model::Async), estimate.of(Model::Blocking)), (seconds(8), seconds(12)));
    }

    #[test]
    fn the_shortest_time_of_a_poem_is_its_own() {
        // The same server twice, one client at a time: the second poem had to wait.
        let estimate = learnt(None, &[&[(0, 2), (0, 4), (0, 1)], &[(0, 2), (2, 4), (4, 5)]]);
        assert_eq!(estimate.of(Model::Blocking), seconds(2 + 2 + 1));
    }

    #[test]
    fn nothing_is_said_of_what_is_not_known() {
        let estimate = learnt(None, &[]);
        assert_eq!(estimate.of(Model::Async), None);
        let estimate = learnt(None, &[&[(0, 4), (0, 2)]]);
        assert_eq!(estimate.left(Model::Async, Duration::ZERO, &[]), None);
    }
}

//! Costs fitted to runs of real clients: what is left of a run's processor time, or of its memory, when all that is known
//! is taken away, is the cost in question.
//!
//! Each [`Probe`] is a run that was measured, and tells one cost: the simulation of the same run, with this cost unknown,
//! comes to the same with one value of it. Since each probe needs the costs that others tell, they are solved in turns
//! until none changes (the method of Gauss and Seidel).

use super::costs::Field;
use super::{Costs, Scenario, run};
use crate::client::Model;
use crate::report::Report;
use crate::units::Micros;

/// A run of a real client.
#[derive(Debug)]
pub struct Probe {
    /// Its model.
    pub model: Model,
    /// What was to be fetched.
    pub scenario: Scenario,
    /// What was measured of it.
    pub of: Measure,
    /// And how much that was.
    pub measured: u64,
    /// The cost that it tells.
    pub cost: Field,
}

/// What is measured of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Processor time, in nanoseconds.
    Time,
    /// The resident set at its peak, in bytes.
    Memory,
    /// The time until the turn of the last poem has come, in nanoseconds.
    LastTurn,
}

impl Measure {
    /// What it comes to in the report of a run, simulated or real, of which the processor time is known.
    pub fn of(self, report: &Report, cpu_us: Micros) -> u64 {
        match self {
            Self::Time => 1_000 * cpu_us,
            Self::Memory => 1_024 * report.peak.and_then(|peak| peak.rss_kb).unwrap_or(0),
            Self::LastTurn => 1_000 * report.tasks.iter().filter_map(|task| task.start_us).max().unwrap_or(0),
        }
    }
}

/// Turns at most.
const TURNS: usize = 12;

/// Steps towards one cost in one turn: almost always the first one is enough.
const STEPS: usize = 10;

/// No cost is higher, in nanoseconds or in bytes.
const HIGHEST: u64 = 1 << 34;

/// The costs are known if each probe comes to what was measured, but for one in so many.
const KNOWN: u64 = 1_000;

impl Probe {
    /// What it would come to with these costs.
    pub fn simulated(&self, costs: &Costs) -> u64 {
        let mut scenario = self.scenario.clone();
        scenario.machine.costs = costs.clone();
        let report = run(self.model, &scenario, None);
        self.of.of(&report, report.simulated.map_or(0, |simulated| simulated.cpu_us))
    }

    fn is_known(&self, simulated: u64) -> bool {
        simulated.abs_diff(self.measured) <= self.measured / KNOWN
    }

    /// Changes its cost until the simulation comes to what was measured, with all others as they are. A cost cannot be less
    /// than nothing.
    fn solve(&self, costs: &mut Costs) {
        let first = (*(self.cost)(costs)).max(1);
        let mut at = |cost: u64| {
            *(self.cost)(costs) = cost;
            (cost, self.simulated(costs))
        };
        let mut low = at(0);
        if low.1 >= self.measured {
            return;
        }
        let mut high = at(first);
        while high.1 < self.measured && high.0 < HIGHEST {
            (low, high) = (high, at(2 * high.0));
        }
        if high.1 < self.measured {
            // It makes no difference here.
            at(first);
            return;
        }
        // What a run comes to is almost linear in each cost, but for small steps up and down: a client sleeps once more or less.
        // So what is sought stays between two that are known, half of the way at least every other time.
        for step in 0..STEPS {
            if self.is_known(high.1) {
                low = high;
            }
            if self.is_known(low.1) || high.0 - low.0 <= 1 {
                break;
            }
            let half = low.0.midpoint(high.0);
            let next = at(if step % 2 == 0 { intersection(low, high, self.measured) } else { half });
            if next.1 < self.measured { low = next } else { high = next }
        }
        let apart = |(_, value): &(u64, u64)| value.abs_diff(self.measured);
        let (nearest, _) = if apart(&low) <= apart(&high) { low } else { high };
        *(self.cost)(costs) = nearest;
    }
}

/// Where the line through two points, each a cost and what the run comes to with it, reaches what was measured; always between
/// both.
fn intersection((low, below): (u64, u64), (high, above): (u64, u64), measured: u64) -> u64 {
    let [rise, run, missing] = [above - below, high - low, measured - below].map(u128::from);
    let along = u64::try_from(missing * run / rise.max(1)).unwrap_or(u64::MAX);
    low.saturating_add(along).clamp(low + 1, high)
}

/// Fits the costs that these probes tell; the others are as they are.
pub fn fit(costs: &mut Costs, probes: &[Probe]) {
    for _ in 0..TURNS {
        probes.iter().for_each(|probe| probe.solve(costs));
        if probes.iter().all(|probe| probe.is_known(probe.simulated(costs))) {
            return;
        }
    }
}

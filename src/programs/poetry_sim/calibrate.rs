//! `--calibrate`: real clients beside a real server, from which the costs are learned.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use clap::Parser;

use super::Args;
use super::cost_file::usual_place;
use super::outcome::{say, size};
use super::samples::{Sample, take_all};
use crate::cli::{Error, SUCCESS, open_files, stdout};
use crate::client::Model;
use crate::programs::client_args::MOST_POEMS;
use crate::report::table::Table;
use crate::sim::fit::Measure::{self, LastTurn, Memory, Time};
use crate::sim::fit::{Probe, fit};
use crate::sim::{Costs, Field, Scenario, calibration};
use crate::units::{count, in_one_unit};
use crate::whole_file;

/// A run of a client, in the words of a command line, and the costs that it tells.
struct Run {
    model: Model,
    words: &'static str,
    tells: &'static [(Measure, Field)],
}

/// Hardly more than the process.
const ONE: &str = "--poem=science --poems=1";

/// Poems that are there at once.
const MANY: &str = "--poem=science --poems=1000";

/// Poems that all wait for the server at the same time.
const HELD: &str = "--poem=science --poems=4000 --first-byte-delay=800ms";

/// Poems that come piece by piece now and then: the client sleeps before most of them.
const SPARSE: &str = "--poem=science --poems=1000 --num-bytes=200 --delay=200ms --jitter=180ms";

/// The same so fast that a wake-up is for many of them.
const DENSE: &str = "--poem=science --poems=2000 --num-bytes=200 --delay=50ms --jitter=45ms";

/// Poems that say nothing while another one flows: a readiness loop looks at all of them for each of its pieces.
const SILENT: &str = "--poem=science --poems=4000 --first-byte-delay=1200ms";

/// Each needs costs that are told by those before it, as a rule.
const RUNS: [Run; 8] = [
    Run::new(Model::Blocking, ONE, &[(Time, |costs| &mut costs.process), (Memory, |costs| &mut costs.process_bytes)]),
    Run::new(Model::Blocking, MANY, &[(Memory, |costs| &mut costs.poem_bytes)]),
    Run::new(Model::Select, MANY, &[(Time, |costs| &mut costs.poem), (Memory, |costs| &mut costs.entry_bytes)]),
    Run::new(Model::Async, MANY, &[(Time, |costs| &mut costs.task), (Memory, |costs| &mut costs.task_bytes)]),
    Run::new(
        Model::Threads,
        HELD,
        &[
            (LastTurn, |costs| &mut costs.thread),
            (Time, |costs| &mut costs.thread_end),
            (Memory, |costs| &mut costs.thread_bytes),
        ],
    ),
    Run::new(Model::Async, SPARSE, &[(Time, |costs| &mut costs.idle)]),
    Run::new(Model::Async, DENSE, &[(Time, |costs| &mut costs.step)]),
    Run::new(Model::Select, SPARSE, &[(Time, |costs| &mut costs.enqueue)]),
];

impl Run {
    const fn new(model: Model, words: &'static str, tells: &'static [(Measure, Field)]) -> Self {
        Self { model, words, tells }
    }
}

/// Descriptors that a client or a server has besides those of its connections.
const OTHERS: u64 = 64;

/// Measures this machine, with so many descriptors at most, writes the costs into a file and prints them.
pub(super) fn run(file: &Path, open_files: Option<u64>) -> Result<u8, Error> {
    let path = match file.as_os_str().is_empty() {
        true => usual_place().ok_or_else(|| {
            Error::usage("neither XDG_CACHE_HOME nor HOME is a directory: name a file for --calibrate".to_owned())
        })?,
        false => file.to_owned(),
    };
    if let Some(directory) = path.parent().filter(|_| file.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(|error| Error::cannot("make", directory.display(), &error))?;
    }
    whole_file::check(&path).map_err(|error| Error::cannot("write", path.display(), &error))?;
    let (costs, fitted) = calibrate(open_files)?;
    let text = serde_json::to_string_pretty(&costs).expect("numbers have a JSON form") + "\n";
    whole_file::write(&path, text.as_bytes()).map_err(|error| Error::cannot("write", path.display(), &error))?;
    stdout::write_all(
        format!("{}\n{}\nWritten into {}\n", costs.table().to_text(), fitted.to_text(), path.display()).as_bytes(),
    )?;
    Ok(SUCCESS)
}

/// Measures this machine: the costs, and what they were fitted to. Takes the best part of a minute. No run has more poems than so
/// many descriptors allow.
///
/// # Errors
/// The clients are not beside this program, or cannot be run.
fn calibrate(open_files: Option<u64>) -> Result<(Costs, Table), Error> {
    let possible = open_files::raise_limit();
    let limit = possible.min(open_files.unwrap_or(u64::MAX));
    let most = limit.saturating_sub(OTHERS).clamp(1, MOST_POEMS as u64);
    let scenarios = RUNS.iter().map(|run| scenario(run.words, most)).collect::<Result<Vec<_>, _>>()?;
    let silent = scenario(SILENT, most)?;
    if silent.sources.len() as u64 == most {
        let most = count(most, "poem");
        say(&format!("At most {most} at once, which tells less: the limit of open files is {limit}\n"));
    }
    let mut costs = Costs::default();
    let sockets = usize::try_from(possible.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    calibration::measure(&mut costs, sockets).map_err(|error| Error::cannot("measure", "this machine", &error))?;
    let looking = [(Some(&silent), true), (Some(&silent), false), (None, true)];
    let looking = looking.map(|(scenario, flows)| Sample::new(Model::Select, scenario, flows));
    let fitted = RUNS.iter().zip(&scenarios).map(|(run, scenario)| Sample::new(run.model, Some(scenario), false));
    let mut samples: Vec<Sample<'_>> = looking.into_iter().chain(fitted).collect();
    take_all(&mut samples)?;
    costs.descriptor = descriptor(&samples[..3], silent.sources.len());
    let mut probes = Vec::new();
    for ((run, scenario), sample) in RUNS.iter().zip(&scenarios).zip(&samples[3..]) {
        probes.extend(run.tells.iter().map(|&(of, cost)| {
            let measured = sample.middle(|taken| of.of(&taken.report, taken.cpu_us));
            Probe { model: run.model, scenario: scenario.clone(), of, measured, cost }
        }));
    }
    fit(&mut costs, &probes);
    Ok((costs.clone(), table(&costs, &probes)))
}

/// The scenario of these words, with so many poems at most: one fast server on this machine.
fn scenario(words: &str, most: u64) -> Result<Scenario, Error> {
    let all = ["poetry-sim", "--server=fast", "--servers=1"].into_iter().chain(words.split(' '));
    let args = Args::try_parse_from(all).map_err(|error| Error::failure(error.to_string()))?;
    let (servers, poems) = args.numbers()[0];
    let poems = u32::try_from(most).ok().and_then(NonZeroU32::new).map_or(poems, |most| poems.min(most));
    args.scenario((servers, poems), &Costs::default()).map(|(scenario, _)| scenario)
}

/// What a round of the readiness loop that does not sleep takes for each descriptor, in nanoseconds: what so many silent poems
/// and one that flows take together, and not apart.
fn descriptor(samples: &[Sample<'_>], silent: usize) -> u64 {
    let cpu_us = |index: usize| samples[index].middle(|taken| taken.cpu_us);
    let waits = |index: usize| samples[index].middle(|taken| taken.report.calls.waits);
    let [together, silence, flow] = [0, 1, 2];
    let looks = waits(together).saturating_sub(waits(silence));
    // A look at nothing but the poem that flows has its cost as well.
    let of_flow_us = cpu_us(flow) * looks / waits(flow).max(1);
    let more_us = cpu_us(together).saturating_sub(cpu_us(silence) + of_flow_us);
    1_000 * more_us / (looks * silent as u64).max(1)
}

/// What the fitted runs took, and what they take with these costs.
fn table(costs: &Costs, probes: &[Probe]) -> Table {
    let mut table = Table::new(["run", "poems", "tells", "measured", "simulated"]);
    for probe in probes {
        let form = |value: u64| match probe.of {
            Time | LastTurn => in_one_unit(&[value / 1_000]).concat(),
            Memory => size(value / 1_024),
        };
        table.push(vec![
            probe.model.to_string(),
            probe.scenario.sources.len().to_string(),
            Costs::name_of(probe.cost).to_owned(),
            form(probe.measured),
            form(probe.simulated(costs)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_a_scenario_and_each_cost_is_told_once() {
        let mut costs = Costs::default();
        let mut told = Vec::new();
        for run in RUNS {
            let all = scenario(run.words, u64::MAX).expect(run.words);
            let few = scenario(run.words, 10).expect(run.words);
            assert_eq!(few.sources.len(), all.sources.len().min(10));
            told.extend(run.tells.iter().map(|(_, cost)| Costs::name_of(*cost)));
        }
        let all = told.len();
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), all);
        *(RUNS[0].tells[0].1)(&mut costs) = 1;
        assert_eq!(costs.process, 1);
    }
}

//! The outcome of a race as tables: for people, and as CSV for programs.

use std::iter::{once, repeat_n};

use super::outcome::Heat;
use crate::client::Model;
use crate::race::{Cost, Standing, Summary};
use crate::report::table::Table;
use crate::units::{Micros, count, in_one_unit};

/// What stands where nothing was seen.
const UNSEEN: &str = "-";

/// The tables for people and the sentence of each heat: of one, its times and its costs; of a sweep, one table.
pub(super) fn for_people(heats: &[Heat], relay_us: Option<Micros>, is_markdown: bool) -> String {
    let write = |table: Table| if is_markdown { table.to_markdown() } else { table.to_text() };
    let mut parts = match heats {
        [heat] => vec![write(times(&heat.summaries)), write(costs(&heat.summaries))],
        _ => vec![write(over_poems(heats))],
    };
    let relay = relay_us.map(|time| format!("A relay adds {time} us to a first byte\n")).unwrap_or_default();
    parts.extend(Some(sentences(heats) + &relay).filter(|sentences| !sentences.is_empty()));
    parts.join("\n")
}

/// A line for each heat, or one if they all say the same: that there are too few rounds.
fn sentences(heats: &[Heat]) -> String {
    let lines: Vec<(usize, String)> = heats.iter().filter_map(|heat| Some((heat.poems(), heat.sentence()?))).collect();
    let is_one = lines.iter().all(|(_, line)| *line == lines[0].1);
    match &lines[..] {
        [(_, line), ..] if is_one => format!("{line}\n"),
        lines => lines.iter().map(|(poems, line)| format!("{}: {line}\n", count(*poems as u64, "poem"))).collect(),
    }
}

/// The times for people. All that are to be compared have one unit.
fn times(summaries: &[Summary]) -> Table {
    let header = ["model", "time", "known to", "fastest", "slowest", "bound", "ratio", "speed-up", "missing"];
    let mut table = Table::new(header);
    let blocking = summaries.iter().find(|summary| summary.model == Model::Blocking);
    let blocking = blocking.and_then(|blocking| blocking.standing.as_ref());
    let compared: Vec<Micros> = counted(summaries).flat_map(compared).collect();
    let mut compared = in_one_unit(&compared).into_iter();
    for summary in summaries {
        let (model, missing) = (summary.model.to_string(), summary.missing.to_string());
        let Some(standing) = &summary.standing else {
            table.push(without_a_run(model, 7).chain([missing]).collect());
            continue;
        };
        let mut next = || compared.next().unwrap_or_default();
        let speed_up = blocking.map(|blocking| format!("{:.2}x", standing.speed_up(blocking)));
        table.push(vec![
            model,
            next(),
            known_to(standing),
            next(),
            next(),
            next(),
            format!("{:.3}", standing.ratio()),
            or_unseen(speed_up),
            missing,
        ]);
    }
    table
}

/// The costs for people. A column has one unit.
fn costs(summaries: &[Summary]) -> Table {
    let header = ["cost", "start-up", "cpu", "waited", "preempted", "threads", "memory", "reads", "waits"];
    let mut table = Table::new(header);
    let mut start_up = column(summaries, |cost| cost.start_up_us);
    let mut cpu = column(summaries, |cost| cost.cpu_us);
    for summary in summaries {
        let model = summary.model.to_string();
        let Some(Standing { cost, .. }) = &summary.standing else {
            table.push(without_a_run(model, 8).collect());
            continue;
        };
        let times = [start_up.next(), cpu.next()].map(Option::unwrap_or_default);
        let rest = [
            number(cost.voluntary_switches),
            number(cost.involuntary_switches),
            number(cost.peak_threads),
            memory(cost),
            number(cost.reads),
            number(cost.waits),
        ];
        table.push(once(model).chain(times).chain(rest).collect());
    }
    table
}

/// A sweep for people: what changes with the number of poems.
fn over_poems(heats: &[Heat]) -> Table {
    let mut table =
        Table::new(["model", "poems", "time", "bound", "ratio", "cpu", "threads", "memory", "waits", "missing"]);
    let all: Vec<&Summary> = heats.iter().flat_map(|heat| &heat.summaries).collect();
    let standings = || all.iter().filter_map(|summary| summary.standing.as_ref());
    let times: Vec<Micros> = standings().flat_map(|standing| [standing.time_us, standing.bound_us]).collect();
    let mut times = in_one_unit(&times).into_iter();
    let mut cpu = column(all.iter().copied(), |cost| cost.cpu_us);
    for summary in &all {
        let (model, poems, missing) =
            (summary.model.to_string(), summary.poems.to_string(), summary.missing.to_string());
        let Some(standing) = &summary.standing else {
            let cells = [model, poems, "no run".to_owned()].into_iter().chain(repeat_n(UNSEEN.to_owned(), 6));
            table.push(cells.chain([missing]).collect());
            continue;
        };
        let mut next = || times.next().unwrap_or_default();
        table.push(vec![
            model,
            poems,
            next(),
            next(),
            format!("{:.3}", standing.ratio()),
            cpu.next().unwrap_or_default(),
            number(standing.cost.peak_threads),
            memory(&standing.cost),
            number(standing.cost.waits),
            missing,
        ]);
    }
    table
}

/// The models for programs: one row each, in plain units. Cells of a model of which no run counted are empty.
pub(super) fn models(heats: &[Heat]) -> Table {
    let times = ["time_us", "low_us", "high_us", "fastest_us", "slowest_us", "bound_us", "ratio"];
    let header = ["model", "poems", "runs"].into_iter().chain(times).chain(Cost::names()).chain(["missing"]);
    let mut table = Table::new(header);
    for Summary { model, poems, runs, missing, standing } in heats.iter().flat_map(|heat| &heat.summaries) {
        let mut row = vec![model.to_string(), poems.to_string(), runs.to_string()];
        if let Some(standing) = standing {
            let Standing { time_us, interval_us, spread_us: (fastest, slowest), bound_us, cost } = standing;
            row.push(time_us.to_string());
            row.extend([interval_us.map(|it| it.0), interval_us.map(|it| it.1)].map(plain));
            row.extend([fastest, slowest, bound_us].map(ToString::to_string));
            row.push(format!("{:.4}", standing.ratio()));
            row.extend(cost.values().map(plain));
        } else {
            row.extend(repeat_n(String::new(), times.len() + Cost::names().count()));
        }
        row.push(missing.to_string());
        table.push(row);
    }
    table
}

/// The runs for programs: one row each, in plain units.
pub(super) fn runs(heats: &[Heat]) -> Table {
    let header = ["poems", "round", "position", "model", "started", "counted", "ok", "failed", "failure", "time_us"];
    let mut table = Table::new(header.into_iter().chain(Cost::names()));
    for run in heats.iter().flat_map(|heat| &heat.runs) {
        let report = &run.report;
        let mut row = vec![
            run.poems.to_string(),
            run.round.to_string(),
            run.position.to_string(),
            run.model.to_string(),
            humantime::format_rfc3339_micros(report.started).to_string(),
            run.counts().to_string(),
            (run.poems - run.missing()).to_string(),
            run.missing().to_string(),
            run.failure.clone().unwrap_or_default(),
            report.elapsed_us.to_string(),
        ];
        row.extend(run.cost.values().map(plain));
        table.push(row);
    }
    table
}

/// The standings of the models of which a run counted.
fn counted(summaries: &[Summary]) -> impl Iterator<Item = &Standing> {
    summaries.iter().filter_map(|summary| summary.standing.as_ref())
}

/// The times of a model that stand in one row: median, fastest, slowest, and the bound.
fn compared(standing: &Standing) -> [Micros; 4] {
    let Standing { time_us, spread_us: (fastest, slowest), bound_us, .. } = *standing;
    [time_us, fastest, slowest, bound_us]
}

/// The width of the interval of the median time, in percent of it.
fn known_to(standing: &Standing) -> String {
    or_unseen(standing.width().map(|width| format!("{:.1} %", 100.0 * width)))
}

/// A column of times of the models of which a run counted, in one unit.
fn column<'a>(
    summaries: impl IntoIterator<Item = &'a Summary>,
    time: impl Fn(&Cost) -> Option<Micros>,
) -> impl Iterator<Item = String> {
    let standings = summaries.into_iter().filter_map(|summary| summary.standing.as_ref());
    let times: Vec<Option<Micros>> = standings.map(|standing| time(&standing.cost)).collect();
    let seen: Vec<Micros> = times.iter().flatten().copied().collect();
    let mut written = in_one_unit(&seen).into_iter();
    let cells: Vec<String> = times.iter().map(|time| or_unseen(time.and_then(|_| written.next()))).collect();
    cells.into_iter()
}

fn memory(cost: &Cost) -> String {
    or_unseen(cost.peak_rss_kb.map(|kb| format!("{kb} kB")))
}

fn number(value: Option<u64>) -> String {
    or_unseen(value.map(|value| value.to_string()))
}

fn or_unseen(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| UNSEEN.to_owned())
}

/// A value for programs: an empty cell if it was not seen.
fn plain(value: Option<u64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The cells of a model of which no run counted.
fn without_a_run(model: String, cells: usize) -> impl Iterator<Item = String> {
    [model, "no run".to_owned()].into_iter().chain(repeat_n(UNSEEN.to_owned(), cells - 1))
}

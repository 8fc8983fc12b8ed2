//! What runs come to: a row each, as a table, as JSON, as a picture.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use super::cost_file::CostPlace;
use crate::cli::{Error, stdout, terminal};
use crate::client::Model;
use crate::report::Report;
use crate::report::curves::{self, Curves, Panel, Scale, Series};
use crate::report::table::Table;
use crate::report::waterfall::{Chart, text};
use crate::units::{Micros, in_one_unit};
use crate::whole_file;

/// One run, without its poems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) model: Model,
    pub(super) poems: u64,
    pub(super) missing: usize,
    time_us: Micros,
    bound_us: Option<Micros>,
    cpu_us: Micros,
    threads: u64,
    memory_kb: u64,
    kernel_kb: u64,
    stacks_kb: u64,
    held_kb: u64,
    reads: u64,
    waits: u64,
    wakeups: u64,
}

impl Row {
    pub(super) fn of(report: &Report, model: Model) -> Self {
        let (simulated, peak) = (report.simulated.unwrap_or_default(), report.peak.unwrap_or_default());
        Self {
            model,
            poems: report.tasks.len() as u64,
            missing: report.failed,
            time_us: report.elapsed_us,
            bound_us: report.bound_us,
            cpu_us: simulated.cpu_us,
            threads: peak.threads,
            memory_kb: peak.rss_kb.unwrap_or_default(),
            kernel_kb: simulated.kernel_kb,
            stacks_kb: simulated.stacks_kb,
            held_kb: simulated.held_kb,
            reads: report.calls.reads,
            waits: report.calls.waits,
            wakeups: report.calls.wakeups,
        }
    }

    /// The time in units of the bound.
    #[expect(clippy::cast_precision_loss, reason = "for people, who read three digits")]
    fn ratio(&self) -> Option<f64> {
        self.bound_us.map(|bound| self.time_us as f64 / bound.max(1) as f64)
    }
}

/// A cell of something that is not there.
const NONE: &str = "-";

/// The tables for people: one of times, one of costs, for all numbers of poems.
pub(super) fn for_people(rows: &[Row], markdown: bool, place: &CostPlace) -> String {
    let form = |table: &Table| if markdown { table.to_markdown() } else { table.to_text() };
    format!("{}\n{}\nSimulated. Costs: {place}\n", form(&times(rows)), form(&costs(rows)))
}

fn times(rows: &[Row]) -> Table {
    let mut table = Table::new(["model", "poems", "time", "bound", "ratio", "missing"]);
    for row in rows {
        let compared: Vec<Micros> = [row.time_us].into_iter().chain(row.bound_us).collect();
        let mut in_unit = in_one_unit(&compared).into_iter();
        table.push(vec![
            row.model.to_string(),
            row.poems.to_string(),
            in_unit.next().unwrap_or_default(),
            in_unit.next().unwrap_or_else(|| NONE.to_owned()),
            row.ratio().map_or_else(|| NONE.to_owned(), |ratio| format!("{ratio:.3}")),
            row.missing.to_string(),
        ]);
    }
    table
}

fn costs(rows: &[Row]) -> Table {
    const COLUMNS: [&str; 11] =
        ["model", "poems", "cpu", "threads", "memory", "held", "kernel", "stacks", "reads", "waits", "wake-ups"];
    // Where nothing is written, nothing waits for that.
    let is_held = rows.iter().any(|row| row.held_kb > 0);
    let shown = |column: &str| is_held || column != "held";
    let mut table = Table::new(COLUMNS.into_iter().filter(|column| shown(column)));
    for row in rows {
        let cells = [
            row.model.to_string(),
            row.poems.to_string(),
            in_one_unit(&[row.cpu_us]).concat(),
            row.threads.to_string(),
            size(row.memory_kb),
            size(row.held_kb),
            size(row.kernel_kb),
            size(row.stacks_kb),
            row.reads.to_string(),
            row.waits.to_string(),
            row.wakeups.to_string(),
        ];
        let cells = COLUMNS.into_iter().zip(cells).filter(|(column, _)| shown(column));
        table.push(cells.map(|(_, cell)| cell).collect());
    }
    table
}

/// A size in kB of 1,024 bytes for people.
pub(super) fn size(kb: u64) -> String {
    match kb {
        ..10_000 => format!("{kb} KiB"),
        10_000..10_240_000 => format!("{} MiB", kb >> 10),
        _ => format!("{} GiB", kb >> 20),
    }
}

/// The rows for programs.
pub(super) fn csv(rows: &[Row]) -> String {
    let mut table = Table::new([
        "model",
        "poems",
        "missing",
        "time_us",
        "bound_us",
        "cpu_us",
        "threads",
        "memory_kb",
        "held_kb",
        "kernel_kb",
        "stacks_kb",
        "reads",
        "waits",
        "wakeups",
    ]);
    for row in rows {
        let numbers = [row.cpu_us, row.threads, row.memory_kb, row.held_kb, row.kernel_kb, row.stacks_kb];
        let mut cells = vec![row.model.to_string(), row.poems.to_string(), row.missing.to_string()];
        cells.extend([row.time_us.to_string(), row.bound_us.map_or_else(String::new, |bound| bound.to_string())]);
        cells.extend(numbers.into_iter().chain([row.reads, row.waits, row.wakeups]).map(|number| number.to_string()));
        table.push(cells);
    }
    table.to_csv()
}

/// The picture of all rows over their numbers of poems.
pub(super) fn chart(rows: &[Row]) -> String {
    let panel = |title: &str, scale, series| Panel { title: title.to_owned(), scale, series };
    let seconds = |micros: u64| float(micros) / 1e6;
    let mut times = series(rows, false, |row| Some(seconds(row.time_us)));
    times.extend(series(rows, true, |row| row.bound_us.map(seconds)));
    curves::draw(&Curves {
        title: "What each model of waiting would cost over the number of poems (simulated)".to_owned(),
        axis: "poems".to_owned(),
        panels: vec![
            panel("time", Scale::Seconds, times),
            panel("processor time", Scale::Seconds, series(rows, false, |row| Some(seconds(row.cpu_us)))),
            panel(
                "memory, in the kernel too",
                Scale::Bytes,
                series(rows, false, |row| Some(float((row.memory_kb + row.kernel_kb) * 1_024))),
            ),
        ],
    })
}

/// One measure of each model.
fn series(rows: &[Row], is_bound: bool, value: impl Fn(&Row) -> Option<f64>) -> Vec<Series> {
    let mut models: Vec<Model> = Vec::new();
    for row in rows {
        if !models.contains(&row.model) {
            models.push(row.model);
        }
    }
    let of = |(index, model): (usize, &Model)| {
        let own = rows.iter().filter(|row| row.model == *model);
        let mut points: Vec<(u64, f64)> = own.filter_map(|row| Some((row.poems, value(row)?))).collect();
        points.sort_by_key(|(poems, _)| *poems);
        Series { name: model.to_string(), index, is_bound, points }
    };
    models.iter().enumerate().map(of).collect()
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Reports on stdout as JSON, each as soon as it is there: a line, or a list of several.
pub(super) struct Json {
    runs: usize,
    written: usize,
}

impl Json {
    pub(super) fn begin(runs: usize) -> Self {
        Self { runs, written: 0 }
    }

    /// Writes one report.
    pub(super) fn add(&mut self, report: &Report) -> Result<(), Error> {
        let before = match (self.runs, self.written) {
            (1, _) => "",
            (_, 0) => "[",
            _ => ",\n",
        };
        self.written += 1;
        stdout::write_with(|stdout| {
            stdout.write_all(before.as_bytes())?;
            serde_json::to_writer(&mut *stdout, report).map_err(io::Error::from)
        })
    }

    /// Writes the end.
    pub(super) fn end(self) -> Result<(), Error> {
        print(if self.runs == 1 { "\n" } else { "]\n" })
    }
}

pub(super) fn print(text: &str) -> Result<(), Error> {
    stdout::write_all(text.as_bytes())
}

/// Says something on stderr, which has nobody who could be told of its errors.
pub(super) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A chart in characters, as wide as the terminal.
pub(super) fn in_characters(chart: &Chart) -> impl Display {
    text::draw(chart, terminal::canvas())
}

pub(super) fn write_picture(path: &Path, picture: &str) -> Result<(), Error> {
    whole_file::write(path, picture.as_bytes())
        .map_err(|error| Error::cannot("write the picture to", path.display(), &error))
}

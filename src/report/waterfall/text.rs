//! The chart as characters, for a terminal, in as many columns as there are.

use std::slice;

use console::{Alignment, Style, measure_text_width, pad_str, truncate_str};

use super::{Chart, Lane, State, Unit, tick};
use crate::units::Micros;

/// A terminal to draw on: its size and its abilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canvas {
    /// Columns of the terminal.
    pub width: usize,
    /// The most lanes of a panel.
    pub lanes: usize,
    /// Whether the terminal shows more than ASCII.
    pub unicode: bool,
    /// Whether the terminal shows colours.
    pub colour: bool,
}

/// The fewest columns of a bar. A narrower one could not be read.
const NARROWEST: usize = 20;
const LONGEST_LABEL: usize = 28;
/// The most lines of a panel of a compact chart.
const MOST_LINES: usize = 20;

impl Canvas {
    fn sign(self, state: State) -> char {
        match (state, self.unicode) {
            (State::NotStarted, true) => '·',
            (State::Pausing, true) => '▁',
            (State::Connecting, true) => '╌',
            (State::Waiting, true) => '░',
            (State::Receiving, true) => '█',
            (State::Transforming, true) => '▓',
            (State::Delivering, true) => '▒',
            (State::NotStarted, false) => '.',
            (State::Pausing, false) => '_',
            (State::Connecting, false) => '-',
            (State::Waiting, false) => '~',
            (State::Receiving, false) => '#',
            (State::Transforming, false) => '%',
            (State::Delivering, false) => '+',
        }
    }

    fn end(self) -> char {
        if self.unicode { '✗' } else { 'X' }
    }

    /// The end of an attempt that was followed by another one.
    fn failure(self) -> char {
        if self.unicode { '×' } else { 'x' }
    }

    fn painted(self, text: &str, style: Style) -> String {
        if self.colour { style.force_styling(true).apply_to(text).to_string() } else { text.to_owned() }
    }

    fn style(state: State) -> Style {
        match state {
            State::NotStarted | State::Waiting => Style::new().dim(),
            State::Connecting => Style::new().yellow(),
            State::Receiving => Style::new().blue(),
            State::Pausing => Style::new().cyan(),
            State::Transforming => Style::new().magenta(),
            State::Delivering => Style::new().green(),
        }
    }
}

/// Draws a chart: a line each for every lane that fits, or for some lanes together if it is compact.
pub fn draw(chart: &Chart, canvas: Canvas) -> String {
    if chart.compact { draw_compact(chart, canvas) } else { draw_lanes(chart, canvas) }
}

fn draw_lanes(chart: &Chart, canvas: Canvas) -> String {
    let longest = canvas.width.saturating_sub(NARROWEST + 2).min(LONGEST_LABEL);
    let shown = |label: &str| truncate_str(label, longest, "").into_owned();
    let labels = chart.lanes().map(|lane| measure_text_width(&shown(&lane.label))).max().unwrap_or(0);
    let notes = chart.lanes().map(|lane| measure_text_width(&lane.note)).max().unwrap_or(0);
    // Notes give way before the picture does.
    let notes = if labels + notes + 4 + NARROWEST > canvas.width { 0 } else { notes + 2 };
    let columns = canvas.width.saturating_sub(labels + notes + 2).max(NARROWEST);

    let mut text = String::new();
    for panel in &chart.panels {
        text += &header(&panel.title, &panel.tally, canvas);
        let (lanes, folded) = panel.folded(canvas.lanes);
        for lane in lanes {
            let note = if notes == 0 { "" } else { &lane.note };
            let label = shown(&lane.label);
            let label = pad_str(&label, labels, Alignment::Left, None);
            let line = format!("{label}  {}  {note}", bar(slice::from_ref(lane), chart, columns, canvas));
            text += line.trim_end();
            text.push('\n');
        }
        if let Some(note) = folded {
            text += &format!("{:labels$}  {note}\n", "");
        }
    }
    text + &axis_and_legend(chart, canvas, labels + 2, columns)
}

fn draw_compact(chart: &Chart, canvas: Canvas) -> String {
    let columns = canvas.width.max(NARROWEST);
    let mut text = String::new();
    for panel in &chart.panels {
        let lanes_a_line = panel.lanes.len().div_ceil(MOST_LINES.min(canvas.lanes)).max(1);
        let scale = if lanes_a_line > 1 { format!(", {lanes_a_line} a line") } else { String::new() };
        text += &header(&panel.title, &format!("{}{scale}", panel.tally), canvas);
        for lanes in panel.lanes.chunks(lanes_a_line) {
            text += bar(lanes, chart, columns, canvas).trim_end();
            text.push('\n');
        }
    }
    text + &axis_and_legend(chart, canvas, 0, columns)
}

/// The line above a panel.
fn header(title: &str, tally: &str, canvas: Canvas) -> String {
    let room = canvas.width.saturating_sub(measure_text_width(title) + 2);
    format!("{}  {}\n", canvas.painted(title, Style::new().bold()), truncate_str(tally, room, ""))
}

/// The lines below all panels, `indent` columns from the left.
fn axis_and_legend(chart: &Chart, canvas: Canvas, indent: usize, columns: usize) -> String {
    let mut text = format!("{:indent$}{}\n", "", axis(chart.span_us, columns));
    let mut entries: Vec<(String, Style, &str)> = Vec::new();
    for state in chart.states() {
        entries.push((canvas.sign(state).to_string().repeat(2), Canvas::style(state), state.word()));
    }
    if chart.lanes().any(|lane| !lane.failures.is_empty()) {
        entries.push((canvas.failure().to_string(), Style::new().red(), "attempt failed"));
    }
    if chart.lanes().any(|lane| lane.bad_end().is_some()) {
        entries.push((canvas.end().to_string(), Style::new().red(), "not arrived"));
    }
    let mut column = 0;
    for (sign, style, word) in entries {
        let width = measure_text_width(&sign) + 1 + measure_text_width(word);
        if column > 0 && column + 3 + width > canvas.width {
            text.push('\n');
            column = 0;
        }
        let gap = if column == 0 { indent } else { 3 };
        text += &format!("{:gap$}{} {word}", "", canvas.painted(&sign, style));
        column += gap + width;
    }
    text.push('\n');
    text
}

/// The bar of a poem, one character a column: the state of the poem for most of that time. Of several poems the state
/// of the one that is furthest, and any that did not arrive.
fn bar(lanes: &[Lane], chart: &Chart, columns: usize, canvas: Canvas) -> String {
    let span = chart.span_us;
    let moment = |column: usize| Micros::try_from(u128::from(span) * column as u128 / columns as u128).unwrap_or(span);
    let column_of = |at: Micros| {
        let column = u128::from(at) * columns as u128 / u128::from(span);
        usize::try_from(column).unwrap_or(columns).min(columns - 1)
    };
    let mut marks = vec![None; columns];
    for (_, at) in lanes.iter().flat_map(|lane| &lane.failures) {
        marks[column_of(*at)] = Some(canvas.failure());
    }
    for (_, at) in lanes.iter().filter_map(Lane::bad_end) {
        marks[column_of(at)] = Some(canvas.end());
    }
    let mut bar = String::new();
    for (column, mark) in marks.into_iter().enumerate() {
        if let Some(mark) = mark {
            bar += &canvas.painted(&mark.to_string(), Style::new().red());
            continue;
        }
        let (start, end) = (moment(column), moment(column + 1).max(moment(column) + 1));
        match lanes.iter().filter_map(|lane| lane.state_in(start, end)).max() {
            Some(state) => bar += &canvas.painted(&canvas.sign(state).to_string(), Canvas::style(state)),
            None => bar.push(' '),
        }
    }
    bar
}

/// The time axis: labels under the ticks, as many as fit.
fn axis(span: Micros, columns: usize) -> String {
    let step = tick(span, (columns / 12).max(1) as u64);
    let unit = Unit::of(span);
    let mut axis = String::new();
    let mut length = 0;
    for at in (0..=span / step).map(|n| n * step) {
        let column = usize::try_from(u128::from(at) * columns as u128 / u128::from(span)).unwrap_or(columns);
        let label = unit.tick_label(at, step);
        if (column >= length || at == 0) && column + label.chars().count() <= columns {
            axis += &" ".repeat(column - length.min(column));
            axis += &label;
            length = column + label.chars().count() + 1;
            axis.push(' ');
        }
    }
    axis.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::{report, retried, task};
    use crate::report::{Report, Status, TaskReport};

    const PLAIN: Canvas = Canvas { width: 60, lanes: 10, unicode: false, colour: false };

    fn drawn(reports: &[Report], canvas: Canvas) -> Vec<String> {
        draw(&Chart::of(reports), canvas).lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_run_is_drawn_to_scale() {
        let cut = TaskReport { status: Status::Reset, ..task(2, 3_000_000, 6_000_000) };
        let reports = [report("blocking", vec![task(1, 0, 3_000_000), cut])];
        assert_eq!(
            drawn(&reports, PLAIN),
            [
                "blocking  Got 1 of 2 poems in 6.00 s",
                "1  127.0.0.1:10000  -----~~~~~~#####                  3.00 s",
                "2  127.0.0.1:10001  ................-----~~~~~~####X  reset",
                "                    0 s                       5 s",
                "                    .. not started   -- connecting",
                "                    ~~ waiting   ## receiving",
                "                    X not arrived",
            ]
        );
    }

    #[test]
    fn a_retry_is_drawn_with_its_end_and_the_pause() {
        let reports = [report("async", vec![retried(1, 3, 10_000)])];
        let lines = drawn(&reports, Canvas { width: 75, ..PLAIN });
        assert_eq!(lines[1], "1  127.0.0.1:10000  ---~~~###x__---~~~###x__---~~~###  110.0 ms, 3 attempts");
        assert!(lines[3..].concat().contains("__ pausing") && lines[3..].concat().contains("x attempt failed"));
        let compact = draw(&Chart::of(&reports).compacted(), Canvas { width: 33, ..PLAIN });
        assert_eq!(compact.lines().nth(1), Some("---~~~###x__---~~~###x__---~~~###"));
        let usual = drawn(&[report("async", vec![task(1, 0, 900)])], PLAIN).concat();
        assert!(!usual.contains("pausing") && !usual.contains("attempt"), "{usual}");
    }

    #[test]
    fn every_line_keeps_to_the_width() {
        let reports = [report("async", (1..=30).map(|number| task(number, 0, 900 * number as u64)).collect())];
        for width in [40, 60, 80, 100, 200] {
            let lines = drawn(&reports, Canvas { width, ..PLAIN });
            for line in &lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            assert!(lines[10].ends_with("and 21 more: 21 done"), "folded: {}", lines[10]);
            let compact = draw(&Chart::of(&reports).compacted(), Canvas { width, ..PLAIN });
            assert!(compact.lines().all(|line| line.chars().count() <= width), "{width}: {compact}");
        }
    }

    #[test]
    fn names_are_as_wide_as_they_are_on_a_screen() {
        let poem = |number, name: &str| TaskReport { name: Some(name.to_owned()), ..task(number, 0, 3_000_000) };
        let names = ["donne", "春望", "e\u{301}tude", "詩詩詩詩詩詩詩詩詩詩詩詩詩詩詩詩詩詩詩詩"];
        let tasks = names.iter().zip(1..).map(|(name, number)| poem(number, name)).collect();
        let reports = [report("async", tasks)];
        for width in [40, 80] {
            let lines = drawn(&reports, Canvas { width, ..PLAIN });
            for line in &lines[1..5] {
                let before = &line[..line.find("  -").expect("a bar")];
                assert!(measure_text_width(line) <= width, "{width}: {line}");
                let labels = width.min(50) - NARROWEST - 2;
                assert!((labels - 1..=labels).contains(&measure_text_width(before)), "{width}: {line}");
            }
        }
    }

    #[test]
    fn a_compact_chart_shows_a_staircase_in_few_lines_and_what_was_lost() {
        let turn = |number: u64| task(usize::try_from(number).expect("few"), (number - 1) * 900, number * 900);
        let mut poems: Vec<TaskReport> = (1..=40).map(turn).collect();
        poems[39].status = Status::Reset;
        let strip = (1..=40).map(|number| task(number, 0, 1_800)).collect();
        let reports = [report("blocking", poems), report("async", strip)];
        let canvas = Canvas { width: 40, ..PLAIN };
        let text = draw(&Chart::of(&reports).compacted(), canvas);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "blocking  Got 39 of 40 poems in 36.0 ms,");
        for (step, line) in lines[1..11].iter().enumerate() {
            let (indent, length) = (line.len() - line.trim_start().len(), line.trim().len());
            assert_eq!((indent, length), (4 * step, 4), "{text}");
        }
        assert!(lines[10].ends_with('X'), "{text}");
        assert_eq!(lines[11], "async  Got 40 poems in 1.8 ms, 4 a line");
        assert!(lines[12..22].iter().all(|line| line.len() == 2), "{text}");
        assert!(!text.contains("127.0.0.1") && !text.contains("not started"), "{text}");
    }

    #[test]
    fn colour_and_blocks_are_for_terminals_that_have_them() {
        let reports = [report("async", vec![task(1, 0, 900)])];
        let plain = drawn(&reports, PLAIN).concat();
        assert!(plain.is_ascii());
        let blocks = drawn(&reports, Canvas { unicode: true, ..PLAIN }).concat();
        assert!(blocks.contains('█') && !blocks.contains('\x1b'));
        let coloured = drawn(&reports, Canvas { colour: true, ..PLAIN }).concat();
        assert!(coloured.contains("\x1b[34m#"));
    }
}

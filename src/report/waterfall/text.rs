//! The chart as characters, for a terminal, in as many columns as there are.

use console::{Style, truncate_str};

use super::{Chart, Lane, Outcome, State, tick, tick_label};
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

impl Canvas {
    fn sign(self, state: State) -> char {
        match (state, self.unicode) {
            (State::NotStarted, true) => '·',
            (State::Connecting, true) => '╌',
            (State::Waiting, true) => '░',
            (State::Receiving, true) => '█',
            (State::Transforming, true) => '▓',
            (State::NotStarted, false) => '.',
            (State::Connecting, false) => '-',
            (State::Waiting, false) => '~',
            (State::Receiving, false) => '#',
            (State::Transforming, false) => '%',
        }
    }

    fn end(self) -> char {
        if self.unicode { '✗' } else { 'X' }
    }

    fn painted(self, text: &str, style: Style) -> String {
        if self.colour { style.force_styling(true).apply_to(text).to_string() } else { text.to_owned() }
    }

    fn style(state: State) -> Style {
        match state {
            State::NotStarted | State::Waiting => Style::new().dim(),
            State::Connecting => Style::new().yellow(),
            State::Receiving => Style::new().blue(),
            State::Transforming => Style::new().magenta(),
        }
    }
}

/// Draws a chart, a line each for every lane that fits.
pub fn draw(chart: &Chart, canvas: Canvas) -> String {
    let shown = |label: &str| truncate_str(label, LONGEST_LABEL, "").into_owned();
    let labels = chart.lanes().map(|lane| shown(&lane.label).chars().count()).max().unwrap_or(0);
    let notes = chart.lanes().map(|lane| lane.note.chars().count()).max().unwrap_or(0);
    // Labels and notes give way before the picture does.
    let notes = if labels + notes + 4 + NARROWEST > canvas.width { 0 } else { notes };
    let columns = canvas.width.saturating_sub(labels + notes + 4).max(NARROWEST);

    let mut text = String::new();
    for panel in &chart.panels {
        text += &format!("{}  {}\n", canvas.painted(&panel.title, Style::new().bold()), panel.tally);
        let (lanes, folded) = panel.folded(canvas.lanes);
        for lane in lanes {
            let note = if notes == 0 { "" } else { &lane.note };
            let line = format!("{:labels$}  {}  {note}", shown(&lane.label), bar(lane, chart.span_us, columns, canvas));
            text += line.trim_end();
            text.push('\n');
        }
        if let Some(note) = folded {
            text += &format!("{:labels$}  {note}\n", "");
        }
    }
    text += &format!("{:labels$}  {}\n", "", axis(chart.span_us, columns));
    let legend = chart.states().into_iter().map(|state| {
        let sign = canvas.painted(&canvas.sign(state).to_string().repeat(2), Canvas::style(state));
        format!("{sign} {}", state.word())
    });
    let bad = chart.lanes().any(|lane| lane.end.is_some_and(|(outcome, _)| outcome != Outcome::Done));
    let failed = bad.then(|| format!("{} not arrived", canvas.painted(&canvas.end().to_string(), Style::new().red())));
    text += &format!("{:labels$}  {}\n", "", legend.chain(failed).collect::<Vec<_>>().join("   "));
    text
}

/// The bar of a poem, one character a column: the state of the poem for most of that time.
fn bar(lane: &Lane, span: Micros, columns: usize, canvas: Canvas) -> String {
    let moment = |column: usize| Micros::try_from(u128::from(span) * column as u128 / columns as u128).unwrap_or(span);
    let end = lane.end.filter(|(outcome, _)| *outcome != Outcome::Done).map(|(_, at)| {
        let column = u128::from(at) * columns as u128 / u128::from(span);
        usize::try_from(column).unwrap_or(columns).min(columns - 1)
    });
    let mut bar = String::new();
    for column in 0..columns {
        if end == Some(column) {
            bar += &canvas.painted(&canvas.end().to_string(), Style::new().red());
            continue;
        }
        match lane.state_in(moment(column), moment(column + 1).max(moment(column) + 1)) {
            Some(state) => bar += &canvas.painted(&canvas.sign(state).to_string(), Canvas::style(state)),
            None => bar.push(' '),
        }
    }
    bar
}

/// The time axis: labels under the ticks, as many as fit.
fn axis(span: Micros, columns: usize) -> String {
    let step = tick(span, (columns / 12).max(1) as u64);
    let mut axis = String::new();
    let mut length = 0;
    for at in (0..=span / step).map(|n| n * step) {
        let column = usize::try_from(u128::from(at) * columns as u128 / u128::from(span)).unwrap_or(columns);
        let label = tick_label(at, step);
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
    use crate::report::fixtures::{report, task};
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
                "blocking  Got 1 of 2 poems in 6s",
                "1  127.0.0.1:10000  ------~~~~~######                  3s",
                "2  127.0.0.1:10001  .................-----~~~~~~####X  reset",
                "                    0 s                        5 s",
                "                    .. not started   -- connecting   ~~ waiting   ## receiving   X not arrived",
            ]
        );
    }

    #[test]
    fn every_line_keeps_to_the_width() {
        let reports = [report("async", (1..=30).map(|number| task(number, 0, 900 * number as u64)).collect())];
        for width in [40, 60, 100, 200] {
            let lines = drawn(&reports, Canvas { width, ..PLAIN });
            for line in &lines[..lines.len() - 1] {
                assert!(line.chars().count() <= width.max(42), "{width}: {line}");
            }
            assert_eq!(lines.len(), 1 + 9 + 1 + 2, "folded");
            assert!(lines[10].ends_with("and 21 more: 21 done"), "{}", lines[10]);
        }
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

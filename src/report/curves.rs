//! Curves: what something costs over how much of it there is, as one self-contained SVG. Both axes are logarithmic.
//!
//! Series differ in their marks as well as in colour; a bound is a dashed line without marks. Light and dark follow the
//! reader's preference.

use svg::Document;
use svg::node::Node;
use svg::node::element::{Description, Group, Line, Path, Rectangle, Style, Text, Title};

/// Panels of curves that share an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// What it is about.
    pub title: String,
    /// What the horizontal axis counts.
    pub axis: String,
    /// The panels, from left to right.
    pub panels: Vec<Panel>,
}

/// A panel: some curves of one measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// The measure.
    pub title: String,
    /// Its unit.
    pub scale: Scale,
    /// The curves.
    pub series: Vec<Series>,
}

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Whose curve it is.
    pub name: String,
    /// Which of the marks and colours it has; the bound of a series has the same.
    pub index: usize,
    /// Whether it is a bound: dashed, without marks.
    pub is_bound: bool,
    /// How much of it there is, and what it costs, in order. What costs nothing is not shown: it has no logarithm.
    pub points: Vec<(u64, f64)>,
}

/// The unit of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Seconds: labels from nanoseconds on.
    Seconds,
    /// Bytes, by thousands.
    Bytes,
}

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 16.0;
/// Room for the labels of a vertical axis.
const LABELS: f64 = 62.0;
const HEIGHT: f64 = 220.0;
const TOP: f64 = 64.0;
/// The size of a mark, from its middle.
const MARK: f64 = 4.0;

/// Colours of text, rules and series, on a light page and a dark one.
const PAGE: (&str, &str) = ("#ffffff", "#0d1117");
const INK: (&str, &str) = ("#1f2328", "#e6edf3");
const FAINT: (&str, &str) = ("#59636e", "#9198a1");
const RULE: (&str, &str) = ("#d8dee4", "#30363d");
const SERIES: [(&str, &str); 6] = [
    ("#9a6700", "#d29922"),
    ("#8250df", "#a371f7"),
    ("#1a7f37", "#3fb950"),
    ("#0969da", "#4493f8"),
    ("#cf222e", "#f85149"),
    ("#59636e", "#9198a1"),
];

/// Draws curves.
pub fn draw(curves: &Curves) -> String {
    let bottom = TOP + HEIGHT;
    let height = bottom + 74.0;
    let title = text(MARGIN, 26.0, "ink", &curves.title).set("font-weight", "bold").set("font-size", 13);
    let mut body = Group::new()
        .set("font-family", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace")
        .set("font-size", 12)
        .add(title);
    let counts = range(all(curves).map(|(count, _)| count));
    let count = float(curves.panels.len().max(1));
    let width = (WIDTH - 2.0 * MARGIN) / count;
    for (number, panel) in curves.panels.iter().enumerate() {
        let left = MARGIN + LABELS + width * float(number);
        let frame = Frame { left, right: left + width - LABELS - 20.0, counts, costs: decades(panel) };
        body = body.add(draw_panel(panel, &frame, &curves.axis));
    }
    body = body.add(legend(curves, bottom + 56.0));
    Document::new()
        .set("viewBox", format!("0 0 {WIDTH} {}", short(height)))
        .set("width", WIDTH)
        .set("height", short(height))
        .set("role", "graphics-document")
        .set("aria-labelledby", "title")
        .set("aria-describedby", "desc")
        .add(Title::new(curves.title.as_str()).set("id", "title"))
        .add(Description::new().set("id", "desc").add(svg::node::Text::new(described(curves))))
        .add(Style::new(style()))
        .add(painted(Rectangle::new().set("width", "100%").set("height", "100%"), "page", "fill", PAGE))
        .add(body)
        .to_string()
        + "\n"
}

/// The place of a panel, and what its axes span.
struct Frame {
    left: f64,
    right: f64,
    counts: (f64, f64),
    costs: (i32, i32),
}

impl Frame {
    fn x(&self, count: u64) -> f64 {
        let (low, high) = self.counts;
        let share = if high > low { (logarithm(count) - low) / (high - low) } else { 0.5 };
        self.left + 8.0 + (self.right - self.left - 16.0) * share
    }

    fn y(&self, cost: f64) -> f64 {
        let (low, high) = self.costs;
        TOP + HEIGHT * (f64::from(high) - cost.log10()) / f64::from((high - low).max(1))
    }
}

fn draw_panel(panel: &Panel, frame: &Frame, axis: &str) -> Group {
    let mut group = Group::new().add(text(frame.left, TOP - 14.0, "ink", &panel.title).set("font-weight", "bold"));
    for decade in frame.costs.0..=frame.costs.1 {
        let y = frame.y(10_f64.powi(decade));
        let rule = Line::new().set("x1", short(frame.left)).set("x2", short(frame.right));
        group = group
            .add(painted(rule.set("y1", short(y)).set("y2", short(y)), "rule", "stroke", RULE))
            .add(text(frame.left - 6.0, y + 4.0, "faint", &panel.scale.label(decade)).set("text-anchor", "end"));
    }
    let mut end = f64::NEG_INFINITY;
    for count in counts_of(panel) {
        let (x, label) = (frame.x(count), count.to_string());
        let half = float(label.len()) * 7.3 / 2.0;
        if x - half > end + 4.0 {
            group = group.add(text(x, TOP + HEIGHT + 18.0, "faint", &label).set("text-anchor", "middle"));
            end = x + half;
        }
    }
    let middle = f64::midpoint(frame.left, frame.right);
    group = group.add(text(middle, TOP + HEIGHT + 34.0, "faint", axis).set("text-anchor", "middle"));
    for series in &panel.series {
        group = group.add(draw_series(series, frame, panel.scale));
    }
    group
}

fn draw_series(series: &Series, frame: &Frame, scale: Scale) -> Group {
    let shown = || series.points.iter().filter(|(_, cost)| *cost > 0.0);
    let places: Vec<(f64, f64)> = shown().map(|(count, cost)| (frame.x(*count), frame.y(*cost))).collect();
    let mut group = Group::new();
    if places.len() > 1 {
        let steps: Vec<String> = places.iter().map(|(x, y)| format!("{} {}", short(*x), short(*y))).collect();
        let line = Path::new().set("d", format!("M{}", steps.join("L"))).set("fill", "none").set("stroke-width", 1.5);
        let line = if series.is_bound { line.set("stroke-dasharray", "4 4") } else { line };
        group = group.add(coloured(line, series.index, "stroke"));
    }
    if series.is_bound {
        return group;
    }
    for ((x, y), (count, cost)) in places.into_iter().zip(shown()) {
        let told = format!("{}, {count}: {}", series.name, scale.write(*cost));
        group = group.add(Group::new().add(Title::new(told)).add(mark(series.index, x, y)));
    }
    group
}

/// The mark of a series: a circle, a square, a triangle, a rhombus, a triangle on its point, a cross.
fn mark(index: usize, x: f64, y: f64) -> Path {
    let (l, r, t, b) = (short(x - MARK), short(x + MARK), short(y - MARK), short(y + MARK));
    let (x, y, size) = (short(x), short(y), short(MARK));
    let shape = match index % SERIES.len() {
        0 => format!("M{l} {y}a{size} {size} 0 1 0 {d} 0a{size} {size} 0 1 0 -{d} 0Z", d = short(2.0 * MARK)),
        1 => format!("M{l} {t}H{r}V{b}H{l}Z"),
        2 => format!("M{x} {t}L{r} {b}H{l}Z"),
        3 => format!("M{x} {t}L{r} {y}L{x} {b}L{l} {y}Z"),
        4 => format!("M{l} {t}H{r}L{x} {b}Z"),
        _ => format!("M{l} {t}L{r} {b}M{r} {t}L{l} {b}"),
    };
    let path = coloured(Path::new().set("d", shape), index, "fill");
    if index % SERIES.len() == 5 { coloured(path.set("stroke-width", 2), index, "stroke") } else { path }
}

fn legend(curves: &Curves, y: f64) -> Group {
    let mut group = Group::new();
    let mut x = MARGIN;
    let mut told: Vec<&str> = Vec::new();
    for series in curves.panels.iter().flat_map(|panel| &panel.series).filter(|series| !series.is_bound) {
        if !told.contains(&series.name.as_str()) {
            told.push(&series.name);
            group = group.add(mark(series.index, x + 6.0, y - 4.0)).add(text(x + 18.0, y, "faint", &series.name));
            x += 36.0 + float(series.name.chars().count()) * 7.3;
        }
    }
    if curves.panels.iter().flat_map(|panel| &panel.series).any(|series| series.is_bound) {
        let dashes = Path::new().set("d", format!("M{} {}h24", short(x), short(y - 4.0))).set("stroke-width", 1.5);
        let dashes = painted(dashes.set("stroke-dasharray", "4 4"), "dashes", "stroke", FAINT);
        group = group.add(dashes).add(text(x + 32.0, y, "faint", "bound"));
    }
    group
}

/// The picture in words: a sentence for each curve.
fn described(curves: &Curves) -> String {
    let mut sentences = Vec::new();
    for panel in &curves.panels {
        for series in &panel.series {
            let point = |(count, cost): &(u64, f64)| format!("{} at {count}", panel.scale.write(*cost));
            let points: Vec<String> = series.points.iter().map(point).collect();
            let of = if series.is_bound { "bound of " } else { "" };
            sentences.push(format!("{}, {of}{}: {}.", panel.title, series.name, points.join(", ")));
        }
    }
    sentences.join("\n")
}

fn all(curves: &Curves) -> impl Iterator<Item = (u64, f64)> {
    curves.panels.iter().flat_map(|panel| &panel.series).flat_map(|series| series.points.iter().copied())
}

/// All counts of a panel, in order.
fn counts_of(panel: &Panel) -> Vec<u64> {
    let mut counts: Vec<u64> = panel.series.iter().flat_map(|series| &series.points).map(|(count, _)| *count).collect();
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// The logarithms of the least and the most.
fn range(counts: impl Iterator<Item = u64>) -> (f64, f64) {
    let wider = |(low, high): (f64, f64), count| (low.min(logarithm(count)), high.max(logarithm(count)));
    let (low, high) = counts.fold((f64::INFINITY, f64::NEG_INFINITY), wider);
    if low <= high { (low, high) } else { (0.0, 0.0) }
}

/// The powers of ten between which the costs of a panel are.
#[expect(clippy::cast_possible_truncation, reason = "a logarithm is small")]
fn decades(panel: &Panel) -> (i32, i32) {
    let costs = panel.series.iter().flat_map(|series| &series.points).map(|(_, cost)| *cost).filter(|cost| *cost > 0.0);
    let (low, high) = costs.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), cost| (low.min(cost), high.max(cost)));
    if high <= 0.0 {
        return (0, 1);
    }
    let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (low, high.max(low + 1))
}

impl Scale {
    /// The label of a power of ten.
    fn label(self, decade: i32) -> String {
        self.write(10_f64.powi(decade))
    }

    /// A value with its unit and three digits.
    fn write(self, value: f64) -> String {
        let units: &[(f64, &str)] = match self {
            Self::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")],
            Self::Bytes => &[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")],
        };
        let fits = |(size, _): &&(f64, &str)| value >= size * 0.9995;
        let (size, unit) = units.iter().find(fits).or(units.last()).copied().unwrap_or((1.0, ""));
        let value = value / size;
        let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        let text = format!("{value:.decimals$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text} {unit}")
    }
}

fn style() -> String {
    let rule = |class: &str, property: &str, dark: &str| format!("  [class={class}] {{ {property}: {dark}; }}\n");
    let texts = [("ink", INK.1), ("faint", FAINT.1), ("page", PAGE.1)].map(|(class, dark)| rule(class, "fill", dark));
    let lines = [("rule", RULE.1), ("dashes", FAINT.1)].map(|(class, dark)| rule(class, "stroke", dark));
    let series = SERIES.iter().enumerate().map(|(index, (_, dark))| {
        rule(&format!("fill-{index}"), "fill", dark) + &rule(&format!("stroke-{index}"), "stroke", dark)
    });
    let rules: String = texts.into_iter().chain(lines).chain(series).collect();
    format!("\n@media (prefers-color-scheme: dark) {{\n{rules}}}\n")
}

/// Paints an element, on a light page by an attribute and on a dark one by a rule of the style.
fn painted<N: Node>(mut node: N, class: &str, property: &str, (light, _): (&str, &str)) -> N {
    node.assign("class", class);
    node.assign(property, light);
    node
}

fn coloured<N: Node>(node: N, index: usize, property: &str) -> N {
    let index = index % SERIES.len();
    painted(node, &format!("{property}-{index}"), property, SERIES[index])
}

fn text(x: f64, y: f64, class: &str, content: &str) -> Text {
    let colour = if class == "ink" { INK } else { FAINT };
    painted(Text::new(content).set("x", short(x)).set("y", short(y)), class, "fill", colour)
}

/// A coordinate, to a hundredth of a point.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "few things in a picture")]
fn float(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "a logarithm")]
fn logarithm(count: u64) -> f64 {
    (count.max(1) as f64).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves() -> Curves {
        let series = |name: &str, index, is_bound, points: &[(u64, f64)]| Series {
            name: name.to_owned(),
            index,
            is_bound,
            points: points.to_vec(),
        };
        let time = vec![
            series("blocking", 0, false, &[(1, 0.03), (10, 0.3), (100, 3.0)]),
            series("a <b>", 1, false, &[(1, 0.03), (10, 0.031), (100, 0.0)]),
            series("blocking", 0, true, &[(1, 0.03), (10, 0.3), (100, 3.0)]),
        ];
        let panels = vec![
            Panel { title: "time".to_owned(), scale: Scale::Seconds, series: time },
            Panel { title: "memory".to_owned(), scale: Scale::Bytes, series: Vec::new() },
        ];
        Curves { title: "costs".to_owned(), axis: "poems".to_owned(), panels }
    }

    #[test]
    fn a_picture_is_well_formed_and_within_itself() {
        let svg = draw(&curves());
        let document = roxmltree::Document::parse(&svg).expect("well-formed XML");
        let number = |node: roxmltree::Node<'_, '_>, name| node.attribute(name).and_then(|it| it.parse::<f64>().ok());
        let height = number(document.root_element(), "height").expect("a height");
        for node in document.descendants().filter(|node| node.has_tag_name("text")) {
            let (x, y) = (number(node, "x").expect("x"), number(node, "y").expect("y"));
            assert!((0.0..WIDTH).contains(&x) && (0.0..height).contains(&y), "{node:?}");
        }
        let paths = document.descendants().filter(|node| node.has_tag_name("path"));
        assert_eq!(paths.filter(|node| node.attribute("stroke-dasharray").is_some()).count(), 1 + 1, "and the legend");
        let words = document.descendants().find(|node| node.has_tag_name("desc")).and_then(|node| node.text());
        let words = words.expect("a description");
        assert!(words.contains("time, blocking: 30 ms at 1, 300 ms at 10, 3 s at 100."), "{words}");
        assert!(words.contains("time, bound of blocking: ") && words.contains("a <b>"), "{words}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_straight_line_of_logarithms_is_one() {
        let frame = Frame { left: 0.0, right: 116.0, counts: (0.0, 2.0), costs: (-2, 0) };
        let xs = [1, 10, 100].map(|count| frame.x(count));
        let ys = [0.01, 0.1, 1.0].map(|cost| frame.y(cost));
        for (value, expected) in xs.into_iter().chain(ys).zip([8.0, 58.0, 108.0, TOP + HEIGHT, TOP + HEIGHT / 2.0, TOP])
        {
            assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
        }
    }

    #[test]
    fn values_have_a_unit_and_three_digits() {
        let seconds = [3.0, 0.0301, 0.000_999_9, 1e-9, 123.4].map(|value| Scale::Seconds.write(value));
        assert_eq!(seconds, ["3 s", "30.1 ms", "1 ms", "1 ns", "123 s"]);
        assert_eq!(
            [1e6, 2_500.0, 100.0, 12.0].map(|value| Scale::Bytes.write(value)),
            ["1 MB", "2.5 kB", "100 B", "12 B"]
        );
    }

    #[test]
    fn nothing_to_show_is_shown_as_nothing() {
        let empty = Curves { title: String::new(), axis: String::new(), panels: Vec::new() };
        assert!(roxmltree::Document::parse(&draw(&empty)).is_ok());
    }
}

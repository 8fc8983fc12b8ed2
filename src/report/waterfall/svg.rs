//! The chart as a picture for browsers and documents: one self-contained SVG, with equal bytes for equal charts.
//!
//! States differ in pattern and height as well as in colour; light and dark follow the reader's preference.

use console::{measure_text_width, truncate_str};
use svg::Document;
use svg::node::element::{Circle, Definitions, Description, Group, Line, Path, Pattern, Rectangle, Style, Text, Title};

use super::ink::{
    BAD, CONNECTING, CROSS, DELIVERING, DONE, END, FAINT, HATCH, Ink, LABEL, NOT_STARTED, PAGE, PAUSING, PLAYHEAD,
    READ, RECEIVING, RULE, TITLE, TRANSFORMING, WAITING, style,
};
use super::{Chart, Lane, Outcome, Panel, Phase, State, Unit, tick};
use crate::units::Micros;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 16.0;
/// Lanes thinner than this have no text.
const READABLE: f64 = 11.0;
const THINNEST_LINE: f64 = 4.0;
const HEADER: f64 = 26.0;
/// Room for the name of a model, at least.
const TITLE_ROOM: f64 = 80.0;
const LONGEST_TITLE: usize = 60;
/// The width of a character of a title.
const TITLE_ADVANCE: f64 = 8.0;
/// The width of a character of the labels.
const ADVANCE: f64 = 7.3;
const LONGEST_LABEL: usize = 30;
const MOST_TICKS: u64 = 12;

/// The sizes that make a chart compact or not.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// The height of a lane, with the gap to the next one.
    lane: f64,
    /// The greatest height of a panel. With more lanes than fit, all get thinner.
    most_height: f64,
    /// The most lanes of a panel. More are folded into a note.
    most_lanes: usize,
    /// Room behind the time axis, for the notes of lanes or half a label of the axis.
    behind: f64,
}

/// The most lanes of all panels together.
const MOST_IN_ALL: usize = 20_000;

const USUAL: Sizes = Sizes { lane: 20.0, most_height: 600.0, most_lanes: 300, behind: 166.0 };
const COMPACT: Sizes = Sizes { lane: 8.0, most_height: 220.0, most_lanes: 1_000, behind: 36.0 };

/// Draws a chart.
pub fn draw(chart: &Chart) -> String {
    picture(chart, Some(style()), None)
}

/// Draws a chart as a part of a page that may have no style sheet within: its own has the [`rules`].
pub fn draw_in_page(chart: &Chart) -> String {
    picture(chart, None, None)
}

/// The rules of a style sheet by which a chart that is drawn in a page follows the reader's preference.
pub fn rules() -> String {
    style()
}

/// Draws a chart that plays the run once, where motion is welcome: what is still to come is behind a curtain. Elsewhere
/// it is the same picture as that of [`draw`].
pub fn draw_moving(chart: &Chart) -> String {
    picture(chart, Some(style()), Some(Motion::of(chart.span_us)))
}

fn picture(chart: &Chart, style: Option<String>, motion: Option<Motion>) -> String {
    let sizes = if chart.compact { COMPACT } else { USUAL };
    let most_lanes = sizes.most_lanes.min(MOST_IN_ALL / chart.panels.len().max(1)).max(1);
    let sizes = Sizes { most_lanes, ..sizes };
    let left = if chart.compact { MARGIN } else { MARGIN + label_width(chart) + 10.0 };
    let axis = Axis { left, width: WIDTH - left - sizes.behind, span: chart.span_us };

    let mut y = MARGIN;
    let font = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
    let mut body = Group::new().set("font-family", font).set("font-size", 12);
    for panel in &chart.panels {
        body = body.add(draw_panel(panel, &axis, sizes, motion, &mut y));
    }
    body = body.add(draw_legend(chart, y + 4.0));
    y += 30.0;
    let mut document = Document::new()
        .set("viewBox", format!("0 0 {WIDTH} {}", number(y)))
        .set("width", WIDTH)
        .set("height", number(y))
        // WAI-ARIA Graphics Module: a document whose parts can be read, while `img` would hide them.
        .set("role", "graphics-document")
        .set("aria-labelledby", "title")
        .set("aria-describedby", "desc")
        .add(Title::new("A waterfall of poems: one lane each, time to the right").set("id", "title"))
        .add(Description::new().set("id", "desc").add(svg::node::Text::new(described(chart, sizes))));
    if let Some(style) = style {
        let motion = motion.map(|motion| motion.style(&axis)).unwrap_or_default();
        document = document.add(Style::new(style + &motion));
    }
    document
        .add(definitions())
        .add(PAGE.paint(Rectangle::new().set("width", "100%").set("height", "100%")))
        .add(body)
        .to_string()
        + "\n"
}

/// The picture in words: a sentence for each panel, lane and note.
fn described(chart: &Chart, sizes: Sizes) -> String {
    let mut sentences = Vec::new();
    for panel in &chart.panels {
        let (lanes, folded) = panel.folded(sizes.most_lanes);
        sentences.push(format!("{}: {}.", panel.title, panel.tally));
        sentences.extend(lanes.iter().map(|lane| lane.sentence.clone()));
        sentences.extend(folded.map(|note| note + "."));
    }
    sentences.join("\n")
}

#[expect(clippy::cast_precision_loss, reason = "few characters")]
fn label_width(chart: &Chart) -> f64 {
    let longest = chart.lanes().map(|lane| measure_text_width(&lane.label)).max().unwrap_or(0);
    longest.min(LONGEST_LABEL) as f64 * ADVANCE
}

/// The motion of a picture, by CSS animation alone, so that it moves as an image of a page, too.
///
/// What moves is hidden by an attribute and shown by the animation: it is nowhere to be seen before, after and without.
#[derive(Debug, Clone, Copy)]
struct Motion {
    /// The time that the whole time axis takes, in seconds.
    seconds: f64,
    span: Micros,
}

impl Motion {
    /// As fast as it was, but for what could not be seen, and for what would move for more than the 5 s after which a
    /// reader must be able to stop it (WCAG 2.2, 2.2.2).
    #[expect(clippy::cast_precision_loss, reason = "a run of years is not played as fast as it was")]
    fn of(span: Micros) -> Self {
        Self { seconds: (span as f64 / 1e6).clamp(2.0, 5.0), span }
    }

    fn style(self, axis: &Axis) -> String {
        let (seconds, width) = (number(self.seconds), number(axis.width));
        format!(
            "@media screen and (prefers-reduced-motion: no-preference) {{\n  \
             .curtain {{ animation: play {seconds}s linear; }}\n  \
             .outcome {{ animation-name: untold; }}\n}}\n\
             @keyframes play {{\n  \
             from {{ visibility: visible; transform: translateX(0); }}\n  \
             to {{ visibility: visible; transform: translateX({width}px); }}\n}}\n\
             @keyframes untold {{ from, to {{ visibility: hidden; }} }}\n"
        )
    }

    /// A curtain before what is still to come, with the playhead as its edge.
    fn curtain(axis: &Axis, top: f64, bottom: f64) -> Group {
        let (left, top, height) = (number(axis.left), number(top), number(bottom - top));
        let cloth = PAGE.paint(Rectangle::new()).set("x", left.clone()).set("y", top.clone());
        let cloth = cloth.set("width", number(WIDTH - axis.left)).set("height", height.clone());
        let edge = PLAYHEAD.paint(Path::new()).set("d", format!("M{left} {top}v{height}"));
        Group::new().set("class", "curtain").set("visibility", "hidden").add(cloth).add(edge)
    }

    /// Has a text appear at a moment of the run.
    #[expect(clippy::cast_precision_loss, reason = "a picture has fewer points than a second has microseconds")]
    fn appear(self, text: Text, at: Micros) -> Group {
        let delay = number(self.seconds * (at.min(self.span) as f64 / self.span as f64));
        Group::new().set("class", "outcome").set("style", format!("animation-duration: {delay}s")).add(text)
    }
}

/// The time axis: the place of each moment.
pub(super) struct Axis {
    pub(super) left: f64,
    pub(super) width: f64,
    pub(super) span: Micros,
}

impl Axis {
    #[expect(clippy::cast_precision_loss, reason = "a picture has fewer points than a second has microseconds")]
    pub(super) fn x(&self, at: Micros) -> f64 {
        self.left + self.width * (at.min(self.span) as f64 / self.span as f64)
    }
}

/// A coordinate, to a hundredth of a point.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(super) fn definitions() -> Definitions {
    let pattern = |id: &str, size: u32| {
        Pattern::new().set("id", id).set("width", size).set("height", size).set("patternUnits", "userSpaceOnUse")
    };
    Definitions::new()
        .add(pattern("connecting", 5).add(HATCH.paint(Path::new().set("d", "M-1 6L6 -1M4 6L6 4M-1 1L1 -1"))))
        .add(pattern("transforming", 6).add(CROSS.paint(Path::new().set("d", "M0 0L6 6M6 0L0 6"))))
}

fn write(x: f64, y: f64, ink: Ink, content: &str) -> Text {
    ink.paint(Text::new(content).set("x", number(x)).set("y", number(y)))
}

/// Draws one run from `y` on, and moves `y` below it.
fn draw_panel(panel: &Panel, axis: &Axis, sizes: Sizes, motion: Option<Motion>, y: &mut f64) -> Group {
    let (lanes, folded) = panel.folded(sizes.most_lanes);
    #[expect(clippy::cast_precision_loss, reason = "few lanes")]
    let count = lanes.len() as f64;
    let pitch = (sizes.most_height / count.max(1.0)).min(sizes.lane);
    let (top, bottom) = (*y + HEADER, *y + HEADER + pitch * count);

    let name = truncate_str(&panel.title, LONGEST_TITLE, "…");
    let title = write(MARGIN, *y + 13.0, TITLE, &name).set("font-weight", "bold").set("font-size", 13);
    #[expect(clippy::cast_precision_loss, reason = "few characters")]
    let room = TITLE_ROOM.max(measure_text_width(&name) as f64 * TITLE_ADVANCE + 12.0);
    let tally = write(axis.left.max(MARGIN + room), *y + 13.0, FAINT, &panel.tally);
    let mut group = Group::new().add(title);
    group = match motion {
        Some(motion) => group.add(motion.appear(tally, panel.end_us)),
        None => group.add(tally),
    };
    let (step, unit) = (tick(axis.span, MOST_TICKS), Unit::of(axis.span));
    for at in (0..=axis.span / step).map(|n| n * step) {
        let x = number(axis.x(at));
        let rule = RULE.paint(Line::new()).set("x1", x.clone()).set("x2", x.clone());
        group = group
            .add(rule.set("y1", number(top)).set("y2", number(bottom + 4.0)))
            .add(write(axis.x(at), bottom + 16.0, FAINT, &unit.tick_label(at, step)).set("text-anchor", "middle"));
    }
    let mut lane_top = top;
    for lane in lanes {
        group = group.add(draw_lane(lane, axis, lane_top, pitch));
        lane_top += pitch;
    }
    if motion.is_some() {
        group = group.add(Motion::curtain(axis, top, bottom));
    }
    *y = bottom + 16.0;
    if let Some(note) = folded {
        *y += 16.0;
        group = group.add(write(axis.left, *y, FAINT, &note));
    }
    *y += 18.0;
    group
}

fn draw_lane(lane: &Lane, axis: &Axis, top: f64, pitch: f64) -> Group {
    // Thin lanes have no gap between them.
    let height = if pitch > 4.0 { pitch * 0.7 } else { pitch };
    let mut title = format!("{}: {}", lane.label, lane.note);
    if !lane.failures.is_empty() {
        title += &format!("\n{}", lane.sentence);
    }
    let mut group = Group::new().add(Title::new(title));
    for phase in &lane.phases {
        group = draw_phase(group, phase, axis, top, height);
    }
    if height >= THINNEST_LINE {
        group = draw_reads(group, lane, axis, top, height);
    }
    let (middle, size) = (top + height / 2.0, (height / 2.0).min(5.0));
    let mut last = f64::NEG_INFINITY;
    for &(outcome, at) in &lane.failures {
        // Those that fall on one point are one.
        if axis.x(at) - last >= 1.0 {
            last = axis.x(at);
            group = draw_end(group, outcome, last, middle, size);
        }
    }
    if let Some((outcome, at)) = lane.end {
        group = draw_end(group, outcome, axis.x(at), middle, size);
    }
    if pitch >= READABLE {
        let ink = if matches!(lane.end, Some((Outcome::Done, _))) { FAINT } else { BAD };
        let baseline = top + height / 2.0 + 4.0;
        let end = lane.end.map_or(0, |(_, at)| at);
        group = group.add(write(MARGIN, baseline, LABEL, &truncate_str(&lane.label, LONGEST_LABEL, "…"))).add(write(
            axis.x(end) + 10.0,
            baseline,
            ink,
            &lane.note,
        ));
    }
    group
}

/// How a state looks: a line, or a block with its share of the height of the lane.
fn look(state: State) -> (Ink, Option<f64>) {
    match state {
        State::NotStarted => (NOT_STARTED, None),
        State::Pausing => (PAUSING, None),
        State::Connecting => (CONNECTING, Some(0.6)),
        State::Waiting => (WAITING, Some(0.4)),
        State::Receiving => (RECEIVING, Some(1.0)),
        State::Transforming => (TRANSFORMING, Some(0.8)),
        State::Delivering => (DELIVERING, Some(0.6)),
    }
}

pub(super) fn draw_phase(group: Group, phase: &Phase, axis: &Axis, top: f64, height: f64) -> Group {
    let (start, end) = (axis.x(phase.start), axis.x(phase.end));
    let Some(share) = look(phase.state).1 else {
        // In thin lanes the dots of a thousand lines would make a pattern of their own.
        if phase.state == State::NotStarted && height < THINNEST_LINE {
            return group;
        }
        let y = number(top + height / 2.0);
        let line = look(phase.state).0.paint(Line::new()).set("x1", number(start)).set("x2", number(end));
        return group.add(line.set("y1", y.clone()).set("y2", y));
    };
    let share = if height < THINNEST_LINE { 1.0 } else { share };
    let block = look(phase.state).0.paint(Rectangle::new()).set("x", number(start));
    let block = block.set("y", number(top + height * (1.0 - share) / 2.0));
    group.add(block.set("width", number((end - start).max(0.5))).set("height", number(height * share)))
}

/// Draws a stroke for each read, or for all reads that fall on one point.
pub(super) fn draw_reads(group: Group, lane: &Lane, axis: &Axis, top: f64, height: f64) -> Group {
    let mut strokes = String::new();
    let mut last = f64::NEG_INFINITY;
    for &at in &lane.reads {
        let x = axis.x(at);
        if x - last >= 1.0 {
            last = x;
            strokes += &format!("M{} {}v{}", number(x), number(top), number(height));
        }
    }
    if strokes.is_empty() { group } else { group.add(READ.paint(Path::new().set("d", strokes))) }
}

/// Draws the outcome: a dot, a cross, an hourglass, a bar or a square.
pub(super) fn draw_end(group: Group, outcome: Outcome, x: f64, y: f64, size: f64) -> Group {
    let (l, r, t, b) = (number(x - size), number(x + size), number(y - size), number(y + size));
    let shape = match outcome {
        Outcome::Done => {
            let dot = DONE.paint(Circle::new()).set("cx", number(x)).set("cy", number(y));
            return group.add(dot.set("r", number((size * 0.7).max(0.5))));
        }
        Outcome::Cut => format!("M{l} {t}L{r} {b}M{r} {t}L{l} {b}"),
        Outcome::TimedOut => format!("M{l} {t}H{r}L{l} {b}H{r}Z"),
        Outcome::Interrupted => format!("M{} {t}V{b}", number(x)),
        Outcome::Failed => format!("M{l} {t}H{r}V{b}H{l}Z"),
    };
    group.add(END.paint(Path::new().set("d", shape)))
}

fn draw_legend(chart: &Chart, top: f64) -> Group {
    let mut group = Group::new();
    let mut x = MARGIN;
    let mut entry = |group: Group, sample: &dyn Fn(Group, f64) -> Group, word: &str| {
        let group = sample(group, x).add(write(x + 30.0, top + 11.0, FAINT, word));
        #[expect(clippy::cast_precision_loss, reason = "few characters")]
        let length = word.len() as f64;
        x += 30.0 + length * ADVANCE + 18.0;
        group
    };
    for state in chart.states() {
        let sample = |group: Group, x: f64| {
            let axis = Axis { left: x, width: 24.0, span: 1 };
            draw_phase(group, &Phase { state, start: 0, end: 1 }, &axis, top, 14.0)
        };
        group = entry(group, &sample, state.word());
    }
    for outcome in chart.outcomes() {
        group = entry(group, &|group, x| draw_end(group, outcome, x + 18.0, top + 7.0, 5.0), outcome.word());
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::{report, retried, task};
    use crate::report::{Status, TaskReport};

    fn picture(tasks: Vec<TaskReport>) -> String {
        draw(&Chart::of(&[report("async", tasks)]))
    }

    fn count(picture: &str, part: &str) -> usize {
        picture.matches(part).count()
    }

    #[test]
    fn the_same_chart_is_the_same_bytes() {
        let tasks: Vec<TaskReport> = (1..=20).map(|number| task(number, 0, 900 * number as u64)).collect();
        assert_eq!(picture(tasks.clone()), picture(tasks));
    }

    #[test]
    fn lanes_lie_on_one_axis_and_models_below_each_other() {
        let chart = Chart::of(&[
            report("blocking", vec![task(1, 0, 3_000_000), task(2, 3_000_000, 6_000_000)]),
            report("async", vec![task(1, 0, 3_000_000), task(2, 0, 3_000_000)]),
        ]);
        let picture = draw(&chart);
        assert_eq!(count(&picture, r#"class="receiving""#), 4 + 1, "four lanes and the legend");
        assert_eq!(count(&picture, r#"class="not-started""#), 1 + 1);
        assert_eq!(count(&picture, "\n6 s\n"), 2, "both panels are six seconds wide");
        let (blocking, asynchronous) = (picture.find("\nblocking\n"), picture.find("\nasync\n"));
        assert!(blocking < asynchronous && blocking.is_some());
    }

    #[test]
    fn a_long_title_and_the_tally_stand_beside_each_other() {
        let tally_of = |title: &str| {
            let mut chart = Chart::of(&[report("async", vec![task(1, 0, 900)])]);
            title.clone_into(&mut chart.panels[0].title);
            let picture = draw(&chart);
            let parsed = roxmltree::Document::parse(&picture).expect("well-formed XML");
            let tally = parsed.descendants().find(|node| node.text().is_some_and(|text| text.contains("\nGot 1 poem")));
            tally.and_then(|node| node.attribute("x")).and_then(|x| x.parse().ok()).expect("a place")
        };
        let (short, long, longest): (f64, f64, f64) =
            (tally_of("async"), tally_of(&"x".repeat(50)), tally_of(&"x".repeat(500)));
        assert!(short < 200.0 && long > MARGIN + 50.0 * 7.8 && longest < WIDTH - 400.0, "{short} {long} {longest}");
    }

    #[test]
    fn every_way_to_end_has_its_own_shape() {
        let statuses = [Status::Ok, Status::Reset, Status::Timeout, Status::Interrupted, Status::Refused];
        let tasks = statuses.iter().map(|&status| TaskReport { status, ..task(1, 0, 900) }).collect();
        let picture = picture(tasks);
        for word in ["done", "reset", "timed out", "interrupted", "failed"] {
            assert!(picture.contains(&format!("\n{word}\n")), "{word} is in the legend");
        }
        assert_eq!(count(&picture, r#"class="end""#), 2 * 4);
    }

    #[test]
    fn a_retry_is_drawn_with_its_end_and_the_pause() {
        let chart = Chart::of(&[report("async", vec![retried(1, 3, 100_000)])]);
        for picture in [draw(&chart), draw_moving(&chart), draw_in_page(&chart), draw(&chart.clone().compacted())] {
            for (class, times) in [("connecting", 3), ("waiting", 3), ("receiving", 3), ("pausing", 2), ("end", 2)] {
                assert_eq!(count(&picture, &format!("class=\"{class}\"")), times + 1, "{class}, and in the legend");
            }
            assert!(picture.contains("\npausing\n") && picture.contains("\nreset\n"));
            // In words, for the whole picture and for who points at the lane.
            assert_eq!(count(&picture, "reset after 30 bytes at 0.30 s, pausing for 0.10 s, attempt 2 at"), 2);
        }
        let usual = picture(vec![task(1, 0, 900)]);
        assert!(!usual.contains("\npausing\n") && count(&usual, "receiving for") == 1, "{usual}");
    }

    #[test]
    fn attempts_that_fall_on_one_point_are_one() {
        let ends = |poem| count(&picture(vec![poem, task(2, 0, 900_000_000)]), r#"class="end""#);
        assert_eq!((ends(retried(1, 90, 10)), ends(retried(1, 90, 2_000_000))), (1 + 1, 89 + 1));
    }

    #[test]
    fn names_are_escaped() {
        let mut poem = task(1, 0, 900);
        poem.address = "<b>&\"'.example:1".to_owned();
        let picture = picture(vec![poem]);
        assert!(picture.contains("&lt;b&gt;&amp;") && !picture.contains("<b>"));
        let parsed = roxmltree::Document::parse(&picture).expect("well-formed XML");
        assert!(parsed.descendants().any(|node| node.text().is_some_and(|text| text.contains("<b>&\"'.example:1"))));
    }

    #[test]
    fn a_thousand_lanes_are_thin_and_folded() {
        let picture = picture((1..=1_000).map(|number| task(number, 0, 900)).collect());
        assert!(picture.contains("\nand 701 more: 701 done\n"));
        assert_eq!(count(&picture, r#"class="label""#), 0);
        assert!(picture.len() < 1_000_000, "{} bytes", picture.len());
    }

    #[test]
    fn colours_are_literal_and_a_dark_page_is_left_to_a_style_sheet() {
        let statuses = [Status::Ok, Status::Reset];
        let picture = picture(statuses.iter().map(|&status| TaskReport { status, ..task(1, 5, 900) }).collect());
        assert!(!picture.contains("var("), "custom properties are unknown to many programs");
        let parsed = roxmltree::Document::parse(&picture).expect("well-formed XML");
        let shapes = ["rect", "line", "path", "circle", "text"];
        for shape in parsed.descendants().filter(|node| shapes.contains(&node.tag_name().name())) {
            let paints =
                |name| shape.attribute(name).is_some_and(|value| value.starts_with('#') || value.starts_with("url"));
            assert!(paints("fill") || paints("stroke"), "{shape:?} would be black");
            let class = shape.attribute("class").expect("a class");
            assert!(picture.contains(&format!("  [class={class}] {{ ")), "{class} has its dark colour");
        }
    }

    #[test]
    fn every_lane_is_told_in_words_that_no_role_hides() {
        let named = TaskReport { name: Some("donne".to_owned()), ..task(1, 0, 3_000_000) };
        let picture = picture(vec![named, task(2, 0, 6_000_000)]);
        let parsed = roxmltree::Document::parse(&picture).expect("well-formed XML");
        let root = parsed.root_element();
        assert_eq!(root.attribute("role"), Some("graphics-document"));
        for (reference, element) in [("aria-labelledby", "title"), ("aria-describedby", "desc")] {
            let id = root.attribute(reference).expect(reference);
            let told = root.children().find(|node| node.attribute("id") == Some(id)).expect(id);
            assert!(told.has_tag_name(("http://www.w3.org/2000/svg", element)), "{told:?}");
        }
        let desc = root.children().find(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "desc")));
        let sentences: Vec<&str> = desc.and_then(|desc| desc.text()).expect("words").trim().lines().collect();
        assert_eq!(sentences.len(), 3, "{sentences:?}");
        assert_eq!(sentences[0], "async: Got 2 poems in 6.00 s.");
        assert!(sentences[1].starts_with("Poem 1, donne from 127.0.0.1:10000, was connecting for 1.00 s, "));
        assert!(picture.contains("\n1  donne\n") && picture.contains("\n6.00 s\n"));
    }

    #[test]
    fn in_a_page_nothing_is_styled_within() {
        let chart = Chart::of(&[report("async", vec![task(1, 0, 3_000_000)])]);
        let (whole, part) = (draw(&chart), draw_in_page(&chart));
        assert!(!part.contains("<style") && !part.contains("style=") && !part.contains("<?xml"));
        let (before, rest) = whole.split_once("<style>").expect("a style sheet");
        let (style, after) = rest.split_once("</style>").expect("its end");
        assert_eq!(style.trim(), rules().trim());
        assert_eq!(format!("{}{}", before.trim_end(), after), part);
    }

    #[test]
    fn hundreds_of_thin_lanes_are_a_picture_of_normal_size() {
        for lanes in [1, 40, 400] {
            let turn = |number: u64| task(usize::try_from(number).expect("few"), (number - 1) * 900, number * 900);
            let reports = [report("blocking", (1..=lanes).map(turn).collect()), report("async", vec![task(1, 0, 900)])];
            let picture = draw(&Chart::of(&reports).compacted());
            let parsed = roxmltree::Document::parse(&picture).expect("well-formed XML");
            let height: f64 = parsed.root_element().attribute("height").and_then(|it| it.parse().ok()).expect("height");
            assert!(height < 600.0, "{lanes}: {height}");
            assert_eq!((count(&picture, r#"class="label""#), count(&picture, "not-started\"")), (0, 0));
            // Each begins where the last one ended: a diagonal from the first corner to the last.
            let is_blue = |node: &roxmltree::Node<'_, '_>| node.attribute("class") == Some("receiving");
            let corner = |node: roxmltree::Node<'_, '_>, name| node.attribute(name).and_then(|it| it.parse().ok());
            let corners: Vec<(f64, f64)> = parsed
                .descendants()
                .filter(is_blue)
                .filter_map(|node| Some((corner(node, "x")?, corner(node, "y")?)))
                .take(usize::try_from(lanes).expect("few"))
                .collect();
            assert!(corners.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{corners:?}");
        }
    }

    #[test]
    fn a_picture_moves_only_where_that_is_welcome_and_is_whole_elsewhere() {
        let reports = [report("blocking", vec![task(1, 0, 30_000_000)]), report("async", vec![task(1, 0, 3_000_000)])];
        let chart = Chart::of(&reports);
        let (still, moving) = (draw(&chart), draw_moving(&chart));
        assert_eq!(moving, draw_moving(&chart));
        assert!(!still.contains("animation") && !still.contains("curtain"));
        let welcome = moving.split_once("(prefers-reduced-motion: no-preference) {").expect("a condition").1;
        let welcome = welcome.split_once("\n}").expect("its end").0;
        assert_eq!((count(welcome, "animation"), count(&moving, "animation")), (2, 2 + 2), "two tallies have a time");
        assert!(moving.contains("play 5s linear") && moving.contains("animation-duration: 0.5s"));
        assert!(!["<script", "infinite", "href", "@import", "var("].iter().any(|part| moving.contains(part)));
        let parsed = roxmltree::Document::parse(&moving).expect("well-formed XML");
        let class = |node: roxmltree::Node<'_, '_>| node.attribute("class").unwrap_or_default().to_owned();
        let curtains: Vec<_> = parsed.descendants().filter(|&node| class(node) == "curtain").collect();
        assert_eq!(curtains.len(), 2);
        assert!(curtains.iter().all(|curtain| curtain.attribute("visibility") == Some("hidden")));
        assert!(!parsed.descendants().any(|n| class(n) == "outcome" && n.attribute("visibility").is_some()));
        for (span, seconds) in [(1, 2.0), (3_000_000, 3.0), (86_400_000_000, 5.0)] {
            assert!((Motion::of(span).seconds - seconds).abs() < 1e-9);
        }
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!(
            (number(1.0), number(0.5), number(10.0), number(1.239)),
            ("1".into(), "0.5".into(), "10".into(), "1.24".into())
        );
    }
}

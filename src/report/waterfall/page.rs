//! The chart as one HTML page that stands alone: lanes that a pointer or the keyboard can ask, a table, and the reports.
//!
//! It fetches nothing, and a policy within forbids that it does. Whatever its lanes are called is text and nothing else.
//! Without its script it is a picture with a table.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use svg::Document;
use svg::node::Node;
use svg::node::element::{Group, SVG, Text};

use super::svg::{Axis, definitions, draw_end, draw_phase, draw_reads, number, rules};
use super::{Chart, Lane, Outcome, Panel, Phase, Run, State, Unit, tick};
use crate::report::{Attempt, Report, Status, TaskReport};
use crate::units::{Micros, count};

const SCRIPT: &str = include_str!("../../../assets/draw/app.js");
const STYLE: &str = include_str!("../../../assets/draw/style.css");

/// What the page may do: nothing but run this script and look like this. The hashes (CSP 3, "hash-source") are those of
/// the two elements; a test says what they have to be.
const SCRIPT_HASH: &str = "sha256-76rI2NPBcWEjbVZ/2YGMkG+0XGqq2Du5pFdxq+ENDdY=";
const STYLE_HASH: &str = "sha256-ffkItE6ioOL9AXY7NnInMoY82X9omr3SjplkS/3cR30=";

/// The most lanes of a panel, and of all of them together. More are folded into a note.
const MOST_LANES: usize = 300;
const MOST_IN_ALL: usize = 10_000;
/// The coordinates of a bar, which is stretched to whatever width there is.
const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 20.0;
/// So few that they do not touch on a narrow screen.
const MOST_TICKS: u64 = 6;

/// Draws the chart of these runs.
pub fn draw(chart: &Chart, runs: &[Run]) -> String {
    let title = "A waterfall of poems";
    let most = MOST_LANES.min(MOST_IN_ALL / chart.panels.len().max(1)).max(1);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(style())) }
            }
            body {
                h1 { (title) }
                p.help {
                    "Point at a lane, or go to one with Tab and the up and down arrows; the left and right arrows go from one "
                    "event to the next."
                }
                svg.defs aria-hidden="true" { (PreEscaped(definitions().to_string())) }
                main {
                    @for (index, panel) in chart.panels.iter().enumerate() {
                        (draw_panel(index, panel, chart, most))
                    }
                    (legend(chart))
                    (tables(chart, runs, most))
                }
                p #detail role="status" hidden {}
                script #data type="application/json" { (PreEscaped(embedded(&data(chart, runs, most)))) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string() + "\n"
}

fn policy() -> String {
    format!(
        "default-src 'none'; script-src '{SCRIPT_HASH}'; style-src '{STYLE_HASH}'; img-src data:; base-uri 'none'; \
         form-action 'none'"
    )
}

fn style() -> String {
    STYLE.to_owned() + &rules()
}

fn draw_panel(index: usize, panel: &Panel, chart: &Chart, most: usize) -> Markup {
    let (lanes, folded) = panel.folded(most);
    html! {
        section {
            h2 { (panel.title) }
            p.tally { (panel.tally) }
            div role="list" {
                @for (number, lane) in lanes.iter().enumerate() { (draw_lane(index, number, lane, chart.span_us)) }
            }
            @if let Some(note) = folded { p.more { (note) } }
            div.axis aria-hidden="true" { div.ticks { (PreEscaped(axis(chart.span_us).to_string())) } }
        }
    }
}

fn draw_lane(panel: usize, number: usize, lane: &Lane, span: Micros) -> Markup {
    let tab = if (panel, number) == (0, 0) { 0 } else { -1 };
    html! {
        div.lane.lost[lane.bad_end().is_some()] role="listitem" tabindex=(tab) data-panel=(panel) data-lane=(number)
            aria-label=(lane.sentence) {
            span.name { (lane.label) }
            div.bar { (PreEscaped(bar(lane, span).to_string())) span.cursor hidden {} }
            span.note { (lane.note) }
        }
    }
}

/// A picture as wide as there is room, that nobody reads aloud.
fn canvas(height: f64) -> SVG {
    SVG::new().set("width", "100%").set("height", number(height)).set("aria-hidden", "true")
}

fn percent(at: Micros, span: Micros) -> String {
    number(Axis { left: 0.0, width: 100.0, span }.x(at)) + "%"
}

/// The phases and reads of a lane, stretched, and its marks, which are not.
fn bar(lane: &Lane, span: Micros) -> SVG {
    let axis = Axis { left: 0.0, width: WIDTH, span };
    let mut group = Group::new();
    for phase in &lane.phases {
        group = draw_phase(group, phase, &axis, 0.0, HEIGHT);
    }
    let stretched = Document::new().set("viewBox", format!("0 0 {WIDTH} {HEIGHT}")).set("preserveAspectRatio", "none");
    let stretched = stretched.set("width", "100%").set("height", "100%");
    let mut bar = canvas(HEIGHT).add(stretched.add(draw_reads(group, lane, &axis, 0.0, HEIGHT)));
    let mut last = f64::NEG_INFINITY;
    for &(outcome, at) in &lane.failures {
        if axis.x(at) - last >= 2.0 {
            last = axis.x(at);
            bar.append(mark(outcome, at, span));
        }
    }
    lane.end.into_iter().fold(bar, |bar, (outcome, at)| bar.add(mark(outcome, at, span)))
}

fn mark(outcome: Outcome, at: Micros, span: Micros) -> SVG {
    let mark = draw_end(Group::new(), outcome, 0.0, HEIGHT / 2.0, 5.0);
    SVG::new().set("x", percent(at, span)).set("overflow", "visible").add(mark)
}

fn axis(span: Micros) -> SVG {
    let (step, unit) = (tick(span, MOST_TICKS), Unit::of(span));
    let mut axis = canvas(16.0);
    for at in (0..=span / step).map(|n| n * step) {
        // The first and the last label stay within the picture.
        let anchor = match at {
            0 => "start",
            _ if span - at < span / 12 => "end",
            _ => "middle",
        };
        let label = Text::new(unit.tick_label(at, step)).set("x", percent(at, span)).set("y", 12);
        axis.append(super::ink::FAINT.paint(label).set("text-anchor", anchor));
    }
    axis
}

fn legend(chart: &Chart) -> Markup {
    let sample = || SVG::new().set("width", 24).set("height", 14).set("aria-hidden", "true");
    let state = |state: State| {
        let axis = Axis { left: 0.0, width: 24.0, span: 1 };
        sample().add(draw_phase(Group::new(), &Phase { state, start: 0, end: 1 }, &axis, 0.0, 14.0)).to_string()
    };
    let outcome = |outcome| sample().add(draw_end(Group::new(), outcome, 12.0, 7.0, 5.0)).to_string();
    html! {
        ul.legend aria-label="Legend" {
            @for occurs in chart.states() { li { (PreEscaped(state(occurs))) (occurs.word()) } }
            @for occurs in chart.outcomes() { li { (PreEscaped(outcome(occurs))) (occurs.word()) } }
        }
    }
}

fn tables(chart: &Chart, runs: &[Run], most: usize) -> Markup {
    let unit = Unit::of(chart.span_us);
    html! {
        details open[runs.iter().map(|run| run.report.tasks.len()).sum::<usize>() <= 50] {
            summary { "The same as a table" }
            @for (run, panel) in runs.iter().zip(&chart.panels) {
                div.wide tabindex="0" role="region" aria-label=(panel.title) { (table(run, panel.folded(most).0.len(), unit)) }
            }
        }
    }
}

/// A row for each poem, after one for each attempt that failed before.
fn table(run: &Run, rows: usize, unit: Unit) -> Markup {
    html! {
        table {
            caption { (run.title) ": " (count(run.report.tasks.len() as u64, run.subject.word())) }
            thead {
                tr {
                    th scope="col" { "#" }
                    @for text in ["name", "from", "status"] { th.text scope="col" { (text) } }
                    @for number in ["attempt", "start", "connected", "first byte", "end", "bytes"] { th scope="col" { (number) } }
                    th.text scope="col" { "why" }
                }
            }
            tbody {
                @for task in run.report.tasks.iter().take(rows) {
                    @for attempt in task.earlier.known() { (failed(task, attempt, unit)) }
                    (settled(task, unit))
                }
                @if let Some(more @ 1..) = run.report.tasks.len().checked_sub(rows) {
                    tr { td.text colspan="11" { "and " (more) " more: the data of this page has them" } }
                }
            }
        }
    }
}

fn cell(time: Option<Micros>, unit: Unit) -> Markup {
    html! { td { (time.map(|time| unit.write(time)).unwrap_or_default()) } }
}

fn failed(task: &TaskReport, attempt: &Attempt, unit: Unit) -> Markup {
    let times = [Some(attempt.start_us), attempt.connected_us, attempt.first_byte_us, Some(attempt.end_us)];
    html! {
        tr.attempt {
            td { (task.task) }
            td.text { (task.name.as_deref().unwrap_or_default()) }
            td.text { (task.address) }
            td.text { (word(attempt.status)) }
            td { (attempt.attempt) }
            @for time in times { (cell(time, unit)) }
            td { (attempt.bytes) }
            td.text { (attempt.error.as_deref().unwrap_or_default()) }
        }
    }
}

fn settled(task: &TaskReport, unit: Unit) -> Markup {
    let start = task.attempt_us.or(task.start_us);
    html! {
        tr {
            td { (task.task) }
            td.text { (task.name.as_deref().unwrap_or_default()) }
            td.text { (task.address) }
            td.text { (word(task.status)) }
            td { (task.attempts) }
            @for time in [start, task.connected_us, task.first_byte_us, task.end_us] { (cell(time, unit)) }
            td { (task.bytes) }
            td.text { (task.error.as_deref().unwrap_or_default()) }
        }
    }
}

fn word(status: Status) -> String {
    status.word().replace('_', " ")
}

/// The reports as they are, and what the script says of the lanes that are drawn.
#[derive(Serialize)]
struct Data<'a> {
    runs: Vec<RunData<'a>>,
    unit: UnitData,
    chart: ChartData<'a>,
}

#[derive(Serialize)]
struct RunData<'a> {
    title: &'a str,
    report: &'a Report,
}

#[derive(Serialize)]
struct UnitData {
    word: &'static str,
    us: Micros,
    decimals: usize,
}

#[derive(Serialize)]
struct ChartData<'a> {
    span_us: Micros,
    panels: Vec<PanelData<'a>>,
}

#[derive(Serialize)]
struct PanelData<'a> {
    start_us: Micros,
    lanes: Vec<LaneData<'a>>,
}

#[derive(Serialize)]
struct LaneData<'a> {
    label: &'a str,
    note: &'a str,
    phases: Vec<(&'static str, Micros, Micros)>,
    failures: Vec<(&'static str, Micros)>,
    end: Option<(&'static str, Micros)>,
}

fn data<'a>(chart: &'a Chart, runs: &'a [Run], most: usize) -> Data<'a> {
    let end = |&(outcome, at): &(Outcome, Micros)| (outcome.word(), at);
    let lane = |lane: &'a Lane| LaneData {
        label: &lane.label,
        note: &lane.note,
        phases: lane.phases.iter().map(|phase| (phase.state.word(), phase.start, phase.end)).collect(),
        failures: lane.failures.iter().map(end).collect(),
        end: lane.end.as_ref().map(end),
    };
    let panel = |panel: &'a Panel| PanelData {
        start_us: panel.start_us,
        lanes: panel.folded(most).0.iter().map(lane).collect(),
    };
    let unit = Unit::of(chart.span_us);
    Data {
        runs: runs.iter().map(|run| RunData { title: &run.title, report: &run.report }).collect(),
        unit: UnitData { word: unit.word, us: unit.micros, decimals: unit.decimals },
        chart: ChartData { span_us: chart.span_us, panels: chart.panels.iter().map(panel).collect() },
    }
}

/// JSON in an element of a page: nothing in it ends the element, or begins another one (HTML, 4.12.1.3).
fn embedded(data: &Data<'_>) -> String {
    // Plain data: nothing that could fail.
    let json = serde_json::to_string(data).unwrap_or_default();
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use serde_json::{Value, json};

    use super::super::Subject;
    use super::*;
    use crate::report::fixtures::{report, retried, task};

    fn page(tasks: Vec<TaskReport>) -> String {
        let runs = [Run { title: "async".to_owned(), subject: Subject::Poem, report: report("async", tasks) }];
        draw(&Chart::of_runs(&runs), &runs)
    }

    /// The data that a page has with it.
    fn data_of(page: &str) -> Value {
        let rest = page.split_once("type=\"application/json\">").expect("data").1;
        serde_json::from_str(rest.split_once("</script>").expect("an end").0).expect("JSON")
    }

    #[test]
    fn a_page_has_lanes_a_table_and_the_report_itself() {
        let tasks = vec![retried(1, 3, 100_000), task(2, 0, 900_000)];
        let page = page(tasks.clone());
        assert_eq!(page.matches("role=\"listitem\"").count(), 2);
        assert_eq!(
            (page.matches("tabindex=\"0\" data-panel").count(), page.matches("tabindex=\"-1\"").count()),
            (1, 1)
        );
        assert_eq!(page.matches("<tr class=\"attempt\">").count(), 2);
        assert!(page.contains("reset after 30 bytes at 0.30 s") && page.contains("pausing"));
        let data = data_of(&page);
        let read: Report = serde_json::from_value(data["runs"][0]["report"].clone()).expect("a report");
        assert_eq!(read.to_json(), report("async", tasks).to_json());
        assert_eq!(data["chart"]["panels"][0]["lanes"][0]["phases"][3], json!(["pausing", 300_000, 400_000]));
    }

    #[test]
    fn names_are_text_wherever_they_stand() {
        let name = "</script><script>alert(1)</script><!--\"'&<b onclick=x>]]>";
        let poem = TaskReport { name: Some(name.to_owned()), error: Some(name.to_owned()), ..task(1, 0, 900) };
        let page = page(vec![poem]);
        assert_eq!(page.matches("<script").count(), 2, "the data and the script");
        assert!(!page.contains("<b ") && !page.contains("<!--") && !page.contains("alert(1)</script>"));
        assert_eq!(data_of(&page)["runs"][0]["report"]["tasks"][0]["name"], name);
    }

    #[test]
    fn nothing_is_fetched_from_anywhere() {
        let page = page(vec![task(1, 0, 900)]);
        let addresses = ["src=", "@import", "http://", "https://", "fetch(", "url(h", "style="];
        let without = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert_eq!(addresses.iter().filter(|part| without.contains(**part)).count(), 0, "{page}");
        assert_eq!(page.matches("href=").count(), page.matches("href=\"data:,\"").count());
    }

    #[test]
    fn of_very_many_lanes_the_first_ones_are_drawn_and_all_are_in_the_data() {
        let page = page((1..=1_000).map(|number| task(number, 0, 900)).collect());
        assert_eq!(page.matches("role=\"listitem\"").count(), MOST_LANES - 1);
        assert!(page.contains("and 701 more: 701 done"));
        assert_eq!(data_of(&page)["runs"][0]["report"]["tasks"].as_array().map(Vec::len), Some(1_000));
    }

    /// What a shell makes of a text; `None`, and a line that says so: it cannot.
    fn piped(command: &str, text: &str) -> Option<String> {
        let mut shell = Command::new("sh");
        let mut shell = shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        shell.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("taken");
        let ended = shell.wait_with_output().expect("an end");
        let said = String::from_utf8(ended.stdout).expect("text").trim().to_owned();
        if said.is_empty() {
            writeln!(std::io::stderr(), "skipped: there is no openssl").expect("told");
        }
        (!said.is_empty()).then_some(said)
    }

    #[test]
    fn the_policy_knows_the_script_and_the_style() {
        for (text, hash) in [(SCRIPT.to_owned(), SCRIPT_HASH), (style(), STYLE_HASH)] {
            let Some(digest) = piped("openssl dgst -sha256 -binary 2>/dev/null | base64", &text) else { return };
            assert_eq!(hash, format!("sha256-{digest}"));
        }
    }
}

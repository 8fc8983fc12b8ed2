//! The page, in pieces: its head, a section for each source, and its end. Whatever a source has sent, or is called, is
//! text here.

use std::time::{Duration, Instant};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use tokio_util::bytes::Bytes;

use super::standing::Standing;
use super::store::Store;
use super::view::{Next, View};
use crate::report::Report;
use crate::units::{count, human};

/// So many names of sources that are waited for are told.
const MOST_NAMES: usize = 40;

/// What is the same on every page.
#[derive(Debug)]
pub(super) struct Frame {
    /// From the first byte to the heading, with that.
    head: String,
}

/// A picture of how sources came, and how long ago that was.
#[derive(Debug, Clone)]
pub(super) struct Drawing {
    pub(super) picture: Bytes,
    pub(super) tally: String,
    pub(super) age: Option<Duration>,
}

/// The end of every page.
const END: &str = "</body>\n</html>\n";

impl Frame {
    /// Of pages with this title and style sheet.
    pub(super) fn new(title: &str, style: &str) -> Self {
        let head = html! {
            (DOCTYPE)
            (PreEscaped("<html lang=\"en\">\n"))
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href=(style);
            }
            (PreEscaped("\n<body>\n"))
            header { h1 { (title) } }
        };
        Self { head: head.into_string() + "\n" }
    }

    /// The beginning of a page, as far as what comes at once.
    pub(super) fn head(&self, view: &View) -> String {
        let awaited = view.awaited();
        let mut head = self.head.clone();
        if awaited > 0 {
            let names = view.seen().iter().filter(|seen| seen.standing.is_none()).take(MOST_NAMES);
            let asked = html! {
                p.asked role="status" {
                    "Asked for " (count(awaited as u64, "source")) ":"
                    @for seen in names { " " bdi { (seen.store.source.title()) } }
                    @if awaited > MOST_NAMES { " and " (awaited - MOST_NAMES) " more" }
                }
            };
            head += &(asked.into_string() + "\n");
        }
        head
    }

    /// The end of a page. A picture stands under the heading, wherever it is in the stream.
    pub(super) fn end(view: &View, drawing: Option<&Drawing>, how: Next) -> String {
        let nothing = html! {
            @if !view.shows_something() && view.awaited() == 0 {
                p.nothing role="alert" { "Nothing came: each source says why." }
            }
            @if how == Next::Stopping {
                p.nothing role="alert" { "This server stops: what is not here was not waited for." }
            }
        };
        let drawing = drawing.map(Drawing::markup).unwrap_or_default();
        let foot = html! {
            footer {
                p {
                    "The same " a href="?wait" { "all at once, in order" } ", and "
                    a href="/anthology.json" { "for programs" } "; " a href="/metrics" { "what it took" } "."
                }
            }
        };
        format!("{}{}{}\n{END}", nothing.into_string(), drawing.into_string(), foot.into_string())
    }
}

impl Drawing {
    fn markup(&self) -> Markup {
        html! {
            figure.waterfall {
                div { (PreEscaped(String::from_utf8_lossy(&self.picture))) }
                figcaption {
                    (self.tally)
                    @match self.age {
                        None => { "." }
                        Some(age) => { ", " (ago(age)) ". Nothing had to be fetched for this page." }
                    }
                }
            }
            (PreEscaped("\n"))
        }
    }

    /// What is said of a view that has been drawn just now.
    pub(super) fn new(picture: String, report: &Report) -> Self {
        let tally = match report.bound_us {
            None => report.tally(),
            Some(bound) => {
                let bound = human(Duration::from_micros(bound));
                format!("{}; no page of these could have been whole before {bound}", report.tally())
            }
        };
        Self { picture: picture.into(), tally, age: None }
    }
}

/// The section of a source, in a view that was begun and was over at these times, in three parts: what is in the middle is
/// there already.
pub(super) fn section(store: &Store, standing: &Standing, begun: Instant, over: Instant) -> [Bytes; 3] {
    let source = &store.source;
    let after = |moment: Instant| human(moment.saturating_duration_since(begun));
    let told = match standing {
        Standing::Fresh(edition) => {
            html! { p.how { (from(store, edition.bytes.len())) ", " (ago(edition.age())) "." } }
        }
        Standing::Come(edition) => html! {
            p.how { (from(store, edition.bytes.len())) ", after " (after(edition.record.ended.unwrap_or(over))) "." }
        },
        Standing::Aged(edition, None) => html! {
            p.how {
                (from(store, edition.bytes.len())) ", " (ago(edition.age())) "; what it has now is for the next view."
            }
        },
        Standing::Aged(edition, Some(trouble)) => html! {
            p.why { (trouble) }
            p.how { "What it had: " (from(store, edition.bytes.len())) ", " (ago(edition.age())) "." }
        },
        Standing::Failed(trouble, _) => html! { p.why { (trouble) } p.how { "From " bdi { (source.place) } "." } },
        Standing::Late(_) => html! {
            p.why { "Still on its way after " (after(over)) ": this page waits no longer for it." }
            p.how { "From " bdi { (source.place) } "." }
        },
    };
    let unchanged = standing.edition().and_then(|edition| edition.record.change.as_ref()?.failure.as_ref());
    let told = html! {
        (told)
        @if let Some((_, why, _)) = unchanged { p.how { "It is as it came, and was to be changed: " (why) } }
    };
    let is_named = source.name.is_some();
    let class = if standing.trouble().is_some() || !standing.is_shown() { "source troubled" } else { "source" };
    let begin = html! {
        (PreEscaped(format!("<section id=\"source-{}\" class=\"{class}\">\n", store.number)))
        h2 {
            span.number { (store.number) } " "
            @if is_named { bdi { (source.title()) } } @else { bdi.address { (source.title()) } }
        }
        (told)
    };
    let content = standing.edition().map(|edition| edition.html.clone()).unwrap_or_default();
    [Bytes::from(begin.into_string() + "\n"), content, Bytes::from_static(b"</section>\n")]
}

fn from(store: &Store, bytes: usize) -> Markup {
    html! {
        a href={ "/source/" (store.number) } { (count(bytes as u64, "byte")) }
        " from " bdi { (store.source.place) }
    }
}

/// `12s ago`.
fn ago(age: Duration) -> String {
    match age.as_secs() {
        0 => "just now".to_owned(),
        seconds => format!("{} ago", humantime::format_duration(Duration::from_secs(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_seconds() {
        assert_eq!(ago(Duration::from_millis(999)), "just now");
        assert_eq!(ago(Duration::from_millis(61_900)), "1m 1s ago");
    }
}

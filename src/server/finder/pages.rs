//! The finder for browsers and programs: a page with a form, which does without a script and is better with one; its answers
//! as JSON, a page at a time; and all of an answer as text, in pieces.

use std::hash::Hash;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use tokio_util::bytes::Bytes;

use super::{Finder, LONGEST_QUERY};
use crate::metrics::Page as Metrics;
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::proto::http::form;
use crate::server::web::{Content, HTML, Site, TEXT, entity_tag, has_it, hash, not_modified, streamed, whole};
use crate::unicode::{self, Answer, Found, Query, Status};

/// Rows of a page.
const ROWS: usize = 200;
/// The most that a program may ask for at once.
const MOST_ROWS: usize = 1_000;

const SCRIPT: &str = include_str!("../../../assets/charfinder/app.js");
const STYLE: &str = include_str!("../../../assets/charfinder/style.css");
const JSON: &str = "application/json";

/// Answers are what they are until there is another Unicode; an hour is enough to be asked less often.
const CACHED: HeaderValue = HeaderValue::from_static("max-age=3600");

/// Something to begin with.
const SAMPLES: [&str; 12] =
    ["cat", "chess", "face", "sun", "arrow", "braille", "hexagram", "music*", "roman numeral", "line feed", "♜", "cjk"];

/// Answers queries with pages.
#[derive(Debug)]
pub struct PageFinder {
    finder: Arc<Finder>,
    site: Site,
    /// A number that changes with anything that pages are made of.
    edition: u64,
}

/// What somebody wants to see.
struct Asked {
    query: Query,
    /// How many characters come before those that are wanted.
    start: usize,
}

/// Why there is no answer, in a sentence: 400.
type Refusal = String;

impl PageFinder {
    /// A server of this program's pages.
    pub fn new(program: &'static str) -> Self {
        let finder = Arc::new(Finder::new());
        let sample = Asked { query: Query::parse("♜").unwrap_or_default(), start: 0 };
        let rows: Vec<Found> = finder.index.rows(finder.index.find(&sample.query).into_codes(0)).collect();
        let page = document(program, "", &answer(&sample, rows.len(), &rows));
        let edition = (env!("CARGO_PKG_VERSION"), unicode::VERSION, page, SCRIPT, STYLE);
        Self { finder, site: Site::public(program), edition: hash(&edition) }
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Metrics, labels: &[(&str, &str)]) {
        self.finder.add_metrics(page, labels);
    }

    fn answer(&self, request: &Parts) -> Response<Content> {
        let form = request.uri.query().unwrap_or_default();
        let made = match request.uri.path() {
            "/" => return self.page(request, form),
            "/api" => self.api(request, form),
            "/all" => self.all(request, form),
            "/app.js" => Ok(self.asset(request, "text/javascript; charset=utf-8", SCRIPT)),
            "/style.css" => Ok(self.asset(request, "text/css; charset=utf-8", STYLE)),
            _ => Ok(whole(StatusCode::NOT_FOUND, TEXT, "There are /, /api and /all, each with ?query=WORDS\n")),
        };
        made.unwrap_or_else(|why| whole(StatusCode::BAD_REQUEST, TEXT, why + "\n"))
    }

    /// What `make` makes of a request, unless whoever asks has it already. It is the same for the same `what`.
    fn cached(&self, request: &Parts, what: &impl Hash, make: impl FnOnce() -> Response<Content>) -> Response<Content> {
        let tag = entity_tag(hash(&(self.edition, request.uri.path(), what)));
        let mut response = if has_it(&request.headers, &tag) { not_modified() } else { make() };
        response.headers_mut().extend([(header::ETAG, tag), (header::CACHE_CONTROL, CACHED)]);
        response
    }

    fn asset(&self, request: &Parts, content_type: &'static str, text: &'static str) -> Response<Content> {
        self.cached(request, &(), || whole(StatusCode::OK, content_type, text))
    }

    /// Rows of an answer, and how many there are in all.
    fn rows(&self, asked: &Asked, most: usize) -> (usize, Vec<Found>) {
        let found = self.finder.find(&asked.query);
        let total = found.total();
        let rows: Vec<Found> = self.finder.index.rows(found.into_codes(asked.start)).take(most).collect();
        self.finder.rows.fetch_add(rows.len() as u64, Relaxed);
        (total, rows)
    }

    fn page(&self, request: &Parts, form: &str) -> Response<Content> {
        let program = self.site.program;
        let asked = match Asked::read(form) {
            Ok(asked) => asked,
            Err(why) => {
                let query = form::value(form, "query").ok().flatten().unwrap_or_default();
                let page = document(program, &query, &html! { p.refusal { (why) } });
                return whole(StatusCode::BAD_REQUEST, HTML, page);
            }
        };
        let query = asked.query.text();
        self.cached(request, &(query, asked.start), || {
            let below = match query {
                "" => Markup::default(),
                _ => {
                    let (total, rows) = self.rows(&asked, ROWS);
                    answer(&asked, total, &rows)
                }
            };
            whole(StatusCode::OK, HTML, document(program, query, &below))
        })
    }

    fn api(&self, request: &Parts, form: &str) -> Result<Response<Content>, Refusal> {
        let asked = Asked::read_some(form)?;
        let limit = number(form, "limit")?.unwrap_or(ROWS);
        if !(1..=MOST_ROWS).contains(&limit) {
            return Err(format!("limit: it must be from 1 to {MOST_ROWS}"));
        }
        let (query, start) = (asked.query.text(), asked.start);
        Ok(self.cached(request, &(query, start, limit), || {
            let (total, rows) = self.rows(&asked, limit);
            let mut json = Vec::new();
            match (Answer { query, total, start, items: rows.into_iter() }.write_json(&mut json)) {
                Ok(()) => json.push(b'\n'),
                Err(error) => unreachable!("memory takes all: {error}"),
            }
            whole(StatusCode::OK, JSON, json)
        }))
    }

    /// All of an answer, as lines, made as fast as they are taken.
    fn all(&self, request: &Parts, form: &str) -> Result<Response<Content>, Refusal> {
        let Asked { query, start } = Asked::read_some(form)?;
        Ok(self.cached(request, &(query.text(), start), || {
            let found = self.finder.find(&query);
            let total = found.total();
            let (finder, mut rows) = (Arc::clone(&self.finder), self.finder.index.rows(found.into_codes(start)));
            let pieces = std::iter::from_fn(move || {
                let mut lines = String::new();
                finder.add_lines(&mut rows, "\n", &mut lines);
                Some(Bytes::from(lines)).filter(|lines| !lines.is_empty())
            });
            let mut response = streamed(TEXT, pieces);
            response.headers_mut().insert("x-total", total.into());
            response
        }))
    }
}

impl Asked {
    /// Reads a form, of which all may be missing.
    fn read(form: &str) -> Result<Self, Refusal> {
        let text = value(form, "query")?.unwrap_or_default();
        if text.len() > LONGEST_QUERY {
            return Err(format!("query: it is longer than {LONGEST_QUERY} bytes"));
        }
        let query = Query::parse(&text).map_err(|malformed| format!("query: {malformed}"))?;
        Ok(Self { query, start: number(form, "start")?.unwrap_or(0) })
    }

    /// Reads a form with a query.
    fn read_some(form: &str) -> Result<Self, Refusal> {
        match value(form, "query")? {
            Some(_) => Self::read(form),
            None => Err("query: it is missing".to_owned()),
        }
    }
}

fn value(form: &str, name: &str) -> Result<Option<String>, Refusal> {
    form::value(form, name).map_err(|why| format!("{name}: {why}"))
}

/// The number in a field; `None`: it is missing or empty.
fn number(form: &str, name: &str) -> Result<Option<usize>, Refusal> {
    let text = value(form, name)?.filter(|text| !text.is_empty());
    let parse = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    text.as_ref().map(|text| parse(text).ok_or_else(|| format!("{name}: it must be a whole number"))).transpose()
}

/// A page with the form, and what is below it.
fn document(program: &str, query: &str, below: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { @if !query.is_empty() { (unicode::harmless(query)) " - " } (program) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/style.css";
                script src="/app.js" defer {}
            }
            body {
                header {
                    h1 { a href="/" { (program) } }
                    form action="/" role="search" {
                        label for="query" { "Find Unicode characters by the words of their names" }
                        input #query name="query" type="search" value=(query) maxlength=(LONGEST_QUERY) autocomplete="off"
                            autofocus;
                        button { "Find" }
                    }
                    p.samples {
                        "Try"
                        @for sample in SAMPLES { " " a href={ "/?query=" (form::encoded(sample)) } { (sample) } }
                    }
                }
                main { (below) }
            }
        }
    };
    page.into_string() + "\n"
}

/// A page of an answer.
fn answer(Asked { query, start }: &Asked, total: usize, rows: &[Found]) -> Markup {
    let link = |start: usize| format!("/?query={}&start={start}", form::encoded(query.text()));
    let after = start + rows.len();
    html! {
        div.told {
            p #status role="status" { (Status { total, query: query.text() }) }
            progress hidden max=(total.max(1)) value=(after.min(total)) data-start=(start) aria-labelledby="status" {}
        }
        @if !rows.is_empty() {
            table {
                thead { tr { th scope="col" { "Code" } th scope="col" { "Character" } th scope="col" { "Name" } } }
                tbody { (table_rows(rows)) }
            }
        }
        p.pages {
            @if *start > 0 { a rel="prev" href=(link(start.saturating_sub(ROWS).min(total.saturating_sub(1)))) { "Before these" } " " }
            @if !rows.is_empty() && (*start > 0 || after < total) { (start + 1) " to " (after) " of " (total) " " }
            @if after < total { a rel="next" href=(link(after)) { "After these" } }
        }
    }
}

/// Rows are most of a page, so they are written without templates. Names have nothing to escape.
fn table_rows(rows: &[Found]) -> PreEscaped<String> {
    let mut html = String::with_capacity(rows.len() * 96);
    for found in rows {
        html.push_str("<tr><td>");
        found.push_code(&mut html);
        html.push_str("</td><td>");
        match char::from_u32(found.code()) {
            Some('"') => html.push_str("&quot;"),
            Some('&') => html.push_str("&amp;"),
            Some('<') => html.push_str("&lt;"),
            Some('>') => html.push_str("&gt;"),
            _ => found.push_shown(&mut html),
        }
        html.push_str("</td><td>");
        found.push_name(&mut html);
        html.push_str("</td></tr>");
    }
    PreEscaped(html)
}

impl Handler for PageFinder {
    /// It does for clients of HTTP/1.0 that want all of an answer: they know no chunks.
    const EOF_ENDS_MESSAGE: bool = true;

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        self.site.serve(connection, async |request| self.answer(&request)).await
    }
}

//! The finder for browsers and programs: a page with a form, which does without a script and is better with one; its answers
//! as JSON, a page at a time; and all of an answer as text, in pieces.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use maud::{DOCTYPE, Markup, html};
use tokio_util::bytes::Bytes;

use super::{Finder, LONGEST_QUERY};
use crate::metrics::Page;
use crate::net::{Connection, Handler};
use crate::pace::Ending;
use crate::proto::http::form;
use crate::server::web::{Content, HTML, Site, TEXT, entity_tag, has_it, whole};
use crate::unicode::{Answer, Code, Found, Query, Rows, Shown, Status};

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
        Self { finder: Arc::new(Finder::new()), site: Site::public(program) }
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.finder.add_metrics(page, labels);
    }

    /// A page of an answer, as rows, how many there are in all.
    fn rows(&self, asked: &Asked, most: usize) -> (usize, Vec<Found>) {
        let found = self.finder.find(&asked.query);
        let total = found.total();
        let rows: Vec<Found> = Rows::new(found.into_codes(asked.start)).take(most).collect();
        self.finder.rows.fetch_add(rows.len() as u64, Relaxed);
        (total, rows)
    }

    fn page(&self, form: &str) -> Response<Content> {
        let program = self.site.program;
        match Asked::read(form) {
            Ok(asked) if asked.query.is_empty() && asked.query.text().is_empty() => {
                cacheable(HTML, document(program, "", &html! {}))
            }
            Ok(asked) => {
                let (total, rows) = self.rows(&asked, ROWS);
                cacheable(HTML, document(program, asked.query.text(), &answer(&asked, total, &rows)))
            }
            Err(why) => {
                let query = form::value(form, "query").ok().flatten().unwrap_or_default();
                whole(StatusCode::BAD_REQUEST, HTML, document(program, &query, &html! { p.refusal { (why) } }))
            }
        }
    }

    fn api(&self, form: &str) -> Result<Response<Content>, Refusal> {
        let asked = Asked::read_some(form)?;
        let limit = number(form, "limit")?.unwrap_or(ROWS);
        if !(1..=MOST_ROWS).contains(&limit) {
            return Err(format!("limit: it must be from 1 to {MOST_ROWS}"));
        }
        let (total, rows) = self.rows(&asked, limit);
        let mut json = Vec::new();
        let answer = Answer { query: asked.query.text(), total, start: asked.start, items: rows.into_iter() };
        answer.write_json(&mut json).map_err(|error| error.to_string())?;
        json.push(b'\n');
        Ok(cacheable(JSON, json))
    }

    /// All of an answer, as lines, made as fast as they are taken.
    fn all(&self, form: &str) -> Result<Response<Content>, Refusal> {
        let Asked { query, start } = Asked::read_some(form)?;
        let found = self.finder.find(&query);
        let total = found.total();
        let (finder, mut rows, mut has_more) = (Arc::clone(&self.finder), Rows::new(found.into_codes(start)), true);
        let pieces = std::iter::from_fn(move || {
            let mut lines = String::new();
            has_more = has_more && finder.add_lines(&mut rows, "\n", &mut lines);
            Some(Bytes::from(lines)).filter(|lines| !lines.is_empty())
        });
        let mut response = Response::new(Content::pieces(pieces));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
        headers.insert("x-total", total.into());
        // All that it depends on.
        headers.insert(header::ETAG, entity_tag(&(env!("CARGO_PKG_VERSION"), query.text(), start, total)));
        Ok(response)
    }

    fn answer(&self, request: &Parts) -> Response<Content> {
        let form = request.uri.query().unwrap_or_default();
        let made = match request.uri.path() {
            "/" => Ok(self.page(form)),
            "/api" => self.api(form),
            "/all" => self.all(form),
            "/app.js" => Ok(cacheable("text/javascript; charset=utf-8", SCRIPT)),
            "/style.css" => Ok(cacheable("text/css; charset=utf-8", STYLE)),
            _ => Ok(whole(StatusCode::NOT_FOUND, TEXT, "There are /, /api and /all, each with ?query=WORDS\n")),
        };
        let mut response = made.unwrap_or_else(|why| whole(StatusCode::BAD_REQUEST, TEXT, why + "\n"));
        let Some(tag) = response.headers().get(header::ETAG) else { return response };
        if has_it(&request.headers, tag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Content::Whole(None);
        }
        response.headers_mut().insert(header::CACHE_CONTROL, CACHED);
        response
    }
}

fn cacheable(content_type: &'static str, body: impl Into<Bytes>) -> Response<Content> {
    let body = body.into();
    let tag = entity_tag(&body);
    let mut response = whole(StatusCode::OK, content_type, body);
    response.headers_mut().insert(header::ETAG, tag);
    response
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
                title { @if !query.is_empty() { (query) " - " } (program) }
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
                tbody { @for found in rows { (row(found)) } }
            }
        }
        p.pages {
            @if *start > 0 { a rel="prev" href=(link(start.saturating_sub(ROWS).min(total.saturating_sub(1)))) { "Before these" } " " }
            @if !rows.is_empty() && (*start > 0 || after < total) { (start + 1) " to " (after) " of " (total) " " }
            @if after < total { a rel="next" href=(link(after)) { "After these" } }
        }
    }
}

fn row(Found { code, title }: &Found) -> Markup {
    html! { tr { td { (Code(*code)) } td { (Shown(*code)) } td { (title) } } }
}

impl Handler for PageFinder {
    /// It does for clients of HTTP/1.0 that want all of an answer: they know no chunks.
    const EOF_ENDS_MESSAGE: bool = true;

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        self.site.serve(connection, async |request| self.answer(&request)).await
    }
}

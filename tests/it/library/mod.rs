//! poetry-library over a real PostgreSQL, as its clients and its database meet it.

mod start;
mod truth;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Service, eventually, program};
use crate::postgres::Postgres;

/// A database for one test, on a server for many.
struct Database {
    postgres: Arc<Postgres>,
    name: &'static str,
}

impl Database {
    /// `None`: there is no PostgreSQL, which has been said.
    fn new(name: &'static str) -> Option<Self> {
        let postgres = Postgres::shared()?;
        postgres.create(name);
        Some(Self { postgres, name })
    }

    fn url(&self) -> String {
        self.postgres.url("postgres", self.name)
    }

    fn sql(&self, statements: &str) -> String {
        self.postgres.sql(self.name, statements)
    }

    fn library(&self, flags: &[&str]) -> Service {
        library(&self.url(), flags)
    }
}

/// The program, with nothing in its environment that it could take for something to do with it.
fn command() -> Command {
    let mut command = program("poetry-library");
    command.env_remove("DATABASE_URL").env_remove("PGPASSWORD");
    command
}

fn library(url: &str, flags: &[&str]) -> Service {
    Service::start(command().args(["-v", "--database", url]).args(flags))
}

/// A reply.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn how(&self) -> &str {
        self.field("X-Cache").unwrap_or_else(|| panic!("no X-Cache in {} {}", self.head, self.body))
    }

    fn dish(&self) -> String {
        self.json()["fav_dish"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a server");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// A request whose reply may take its time.
struct Asked(TcpStream);

impl Asked {
    fn new(address: SocketAddr, request: &[u8]) -> Self {
        let mut stream = connect(address);
        stream.write_all(request).expect("sent");
        Self(stream)
    }

    fn get(library: &Service, id: u64) -> Self {
        let request = format!("GET /patron/{id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        Self::new(library.address, request.as_bytes())
    }

    /// The whole of what comes back.
    fn reply(mut self) -> Reply {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).expect("a reply");
        Reply::read(&all)
    }

    fn dish(self) -> String {
        self.reply().dish()
    }
}

fn say(address: SocketAddr, request: &[u8]) -> Reply {
    Asked::new(address, request).reply()
}

fn ask(library: &Service, method: &str, path: &str, fields: &str, body: &str) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}");
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    say(library.address, format!("{head}{length}\r\n{body}").as_bytes())
}

fn get(library: &Service, id: u64) -> Reply {
    ask(library, "GET", &format!("/patron/{id}"), "", "")
}

/// The dish of a patron, as somebody who asks is told.
fn dish(library: &Service, id: u64) -> String {
    get(library, id).dish()
}

fn send(library: &Service, method: &str, path: &str, name: &str, fav_dish: &str) -> Reply {
    let body = json!({ "name": name, "fav_dish": fav_dish }).to_string();
    ask(library, method, path, "Content-Type: application/json\r\n", &body)
}

/// A new patron.
fn make(library: &Service, name: &str, fav_dish: &str) -> u64 {
    let reply = send(library, "POST", "/patron", name, fav_dish);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["id"].as_u64().expect("a number")
}

fn put(library: &Service, id: u64, fav_dish: &str) -> Reply {
    send(library, "PUT", &format!("/patron/{id}"), "Carol", fav_dish)
}

/// The value of a metric.
fn metric(library: &Service, name: &str) -> u64 {
    let page = ask(library, "GET", "/metrics", "", "").body;
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

#[test]
fn patrons_are_made_read_changed_and_deleted_through_any_instance() {
    let Some(database) = Database::new("session") else { return };
    let (one, other) = (database.library(&[]), database.library(&[]));
    assert!(one.line.starts_with("Lending on 127.0.0.1:"), "{}", one.line);
    let reply = send(&one, "POST", "/patron", "Carol", "SPAM Bruschetta");
    assert_eq!((reply.status, &*reply.body), (200, r#"{"msg":"ok","id":1}"#));
    assert_eq!((reply.field("Location"), reply.field("Content-Type")), (Some("/patron/1"), Some("application/json")));
    let carol = r#"{"id":1,"name":"Carol","fav_dish":"SPAM Bruschetta"}"#;
    // The other one has heard of it, and has it before anybody asks.
    eventually("it is in memory", || metric(&other, "poetry_library_rows") == 1);
    let reply = get(&other, 1);
    assert_eq!((reply.status, &*reply.body, reply.how()), (200, carol, "HIT"));
    assert_eq!((reply.field("Server-Timing"), reply.field("Cache-Control")), (None, Some("no-store")));
    let reply = ask(&other, "GET", "/patron/1", "Cache-Control: no-cache\r\n", "");
    assert_eq!((&*reply.body, reply.how()), (carol, "BYPASS"));
    assert!(reply.field("Server-Timing").is_some_and(|timing| timing.starts_with("db;dur=")));
    let head = ask(&other, "HEAD", "/patron/1", "", "");
    assert_eq!((head.status, &*head.body, head.field("Content-Length")), (200, "", Some("52")));
    let reply = put(&other, 1, "eggs");
    assert_eq!((reply.status, &*reply.body), (200, r#"{"msg":"ok"}"#));
    assert_eq!(dish(&other, 1), "eggs");
    eventually("it is announced", || dish(&one, 1) == "eggs");
    assert_eq!(ask(&one, "DELETE", "/patron/1", "", "").body, r#"{"msg":"ok"}"#);
    let gone = get(&one, 1);
    assert_eq!((gone.status, &*gone.body), (404, "null"));
    eventually("it is announced", || get(&other, 1).status == 404);
    let again = get(&other, 1);
    assert_eq!((again.status, again.how()), (404, "HIT"));
    for reply in [put(&one, 1, "eggs"), ask(&one, "DELETE", "/patron/1", "", "")] {
        assert_eq!((reply.status, &*reply.body), (404, r#"{"msg":"bad"}"#));
    }
    one.signal(Signal::SIGHUP);
    one.hear("All rows are forgotten");
    assert_eq!(get(&one, 1).how(), "MISS");
    one.signal(Signal::SIGUSR1);
    one.hear("Library: ");
    assert_eq!(one.stop().code(), 0);
    assert_eq!(other.stop().code(), 0);
}

#[test]
fn a_list_says_where_it_goes_on() {
    let Some(database) = Database::new("list") else { return };
    let library = database.library(&[]);
    assert_eq!(ask(&library, "GET", "/patron", "", "").body, "[]");
    database.sql("INSERT INTO patron (name, fav_dish) SELECT n, NULL FROM generate_series(1, 1200) AS n");
    let page = |query: &str| ask(&library, "GET", &format!("/patron{query}"), "", "");
    let (mut path, mut ids) = ("?limit=500".to_owned(), Vec::new());
    loop {
        let reply = page(&path);
        let patrons = reply.json();
        ids.extend(patrons.as_array().expect("a list").iter().map(|patron| patron["id"].as_u64().expect("a number")));
        let Some(link) = reply.field("Link") else { break };
        path = link
            .strip_prefix("</patron")
            .and_then(|link| link.strip_suffix(">; rel=\"next\""))
            .expect("a link")
            .to_owned();
    }
    assert_eq!(ids, (1..=1200).collect::<Vec<u64>>());
    assert_eq!(page("?after=1199").body, r#"[{"id":1200,"name":"1200","fav_dish":null}]"#);
    assert_eq!(page("").json().as_array().map(Vec::len), Some(100));
    for query in ["?limit=1001", "?limit=-1", "?limit=x", "?after=2147483648", "?after=%00", "?limit=%zz"] {
        assert_eq!(page(query).status, 422, "{query}");
    }
    // However long they are, there is an end to it.
    database.sql("UPDATE patron SET fav_dish = repeat('x', 60000)");
    let reply = page("?limit=1000");
    let patrons = reply.json().as_array().map(Vec::len).expect("a list");
    assert!((10..30).contains(&patrons) && reply.body.len() < 2 << 20);
    assert_eq!(reply.field("Link"), Some(&*format!("</patron?after={patrons}&limit=1000>; rel=\"next\"")));
}

#[test]
fn what_makes_no_sense_is_told_so_and_nothing_is_stored() {
    let Some(database) = Database::new("nonsense") else { return };
    let library = database.library(&[]);
    let json = "Content-Type: application/json\r\n";
    let long = json!({ "name": "x".repeat((64 << 10) + 1), "fav_dish": "" }).to_string();
    let huge = "x".repeat((256 << 10) + 1);
    let ours = r#"{"name": "a", "fav_dish": "b"}"#;
    for (method, path, fields, body, status, part) in [
        ("POST", "/patron", json, "", 400, "EOF"),
        ("POST", "/patron", json, "[1]", 400, "an object"),
        ("POST", "/patron", json, "{\"name\": \"a\", \"name\": \"b\", \"fav_dish\": \"c\"}", 400, "twice"),
        ("POST", "/patron", json, r#"{"name": "a"}"#, 422, "fav_dish is missing"),
        ("PUT", "/patron/1", json, r#"{"name": "a", "fav_dish": 1}"#, 422, "fav_dish is not a string"),
        ("POST", "/patron", json, r#"{"name": "a", "fav_dish": "b", "id": 7}"#, 422, "id"),
        ("POST", "/patron", json, r#"{"name": "\u0000", "fav_dish": "b"}"#, 422, "NUL"),
        ("POST", "/patron", json, &long, 422, "name is longer"),
        ("POST", "/patron", json, &huge, 413, "256 KiB"),
        ("POST", "/patron", "", ours, 415, "application/json"),
        ("POST", "/patron", "Content-Type: text/plain\r\n", ours, 415, "application/json"),
        ("POST", "/patron", "Content-Type: application/x-www-form-urlencoded\r\n", ours, 415, "application/json"),
        ("DELETE", "/patron", "", "", 405, "GET, HEAD, POST, OPTIONS"),
        ("POST", "/patron/1", json, ours, 405, "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("TRACE", "/patron/1", "", "", 405, "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("PUT", "/patron/01", json, ours, 404, "bad"),
        ("PUT", "/patron/2147483648", json, ours, 404, "bad"),
        ("DELETE", "/patron/x", "", "", 404, "bad"),
        ("GET", "/patron/1%20OR%201=1", "", "", 404, "null"),
        ("GET", "/patron/-1", "", "", 404, "null"),
        ("GET", "/elsewhere", "", "", 404, "there are /patron"),
        (
            "POST",
            "/patron",
            "Content-Type: application/json\r\nOrigin: http://evil.example\r\n",
            ours,
            403,
            "another site",
        ),
        ("DELETE", "/patron/1", "Sec-Fetch-Site: cross-site\r\n", "", 403, "another site"),
    ] {
        let reply = ask(&library, method, path, fields, body);
        assert_eq!(reply.status, status, "{method} {path} {fields}{}", reply.body);
        assert!(reply.body.contains(part) || reply.head.contains(part), "{part}: {} {}", reply.head, reply.body);
        assert!(reply.body == "null" || reply.json()["msg"] == "bad", "{}", reply.body);
        assert_eq!(reply.field("X-Content-Type-Options"), Some("nosniff"));
        assert!(reply.field("Server").is_none() && reply.field("Access-Control-Allow-Origin").is_none());
    }
    let options = ask(&library, "OPTIONS", "/patron/1", "", "");
    assert_eq!((options.status, options.field("Allow")), (204, Some("GET, HEAD, PUT, DELETE, OPTIONS")));
    for host in ["Host: evil.example\r\n", "Host: localhost\r\nHost: localhost\r\n", ""] {
        let request = format!("GET /patron HTTP/1.1\r\nConnection: close\r\n{host}\r\n");
        let reply = say(library.address, request.as_bytes());
        assert_eq!(reply.status, if host.contains("evil") { 403 } else { 400 }, "{host}");
    }
    // Chunks are bodies, too, with the same limits; and charsets are said.
    let chunks = |size: usize| {
        let body = "x".repeat(size);
        format!(
            "POST /patron HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nContent-Type: \
             application/json;charset=utf-8\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
        )
    };
    assert_eq!(say(library.address, chunks(300 << 10).as_bytes()).status, 413);
    assert_eq!(say(library.address, chunks(10).as_bytes()).status, 400);
    assert_eq!(database.sql("SELECT count(*) FROM patron"), "0");
}

#[test]
fn whatever_is_in_a_field_is_stored_as_it_is() {
    let Some(database) = Database::new("fields") else { return };
    let (one, other) = (database.library(&[]), database.library(&[]));
    let eight = "é".repeat(3_990);
    for text in [
        "'; DROP TABLE patron; --",
        "\"); DELETE FROM patron WHERE (\"\" = \"",
        "$1 $2 $$ \\ \\' %s {} \u{202e}",
        "<script>alert(1)</script>\r\nX-Injected: 1",
        "{\"id\":1}",
        "",
        &"x".repeat(60_000),
        &"\u{1f35d}".repeat(2_000),
        &"\u{1f35d}".repeat(1_975),
        &eight,
        &"\u{1}".repeat(1_000),
    ] {
        let id = make(&one, text, "eggs");
        for library in [&one, &other] {
            let reply = get(library, id);
            assert_eq!((reply.json()["name"].as_str(), reply.status), (Some(text), 200));
            assert!(reply.field("X-Injected").is_none());
        }
        assert_eq!(send(&other, "PUT", &format!("/patron/{id}"), "Carol", text).status, 200);
        eventually("it is announced", || dish(&one, id) == text);
    }
    let rows = database.sql("SELECT count(*) FROM patron");
    assert_eq!(rows, "11");
}

#[test]
fn a_body_that_does_not_come_has_ten_seconds_and_a_kept_connection_many_requests() {
    let Some(database) = Database::new("bodies") else { return };
    let library = database.library(&[]);
    let head =
        "POST /patron HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{";
    let slow = Asked::new(library.address, head.as_bytes());
    // Requests one after another, and two at once, with a mistake between them that ends nothing.
    let mut stream = connect(library.address);
    let body = r#"{"name": "a", "fav_dish": "b"}"#;
    let post = format!(
        "POST /patron HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let wrong = post.replace("\"a\"", "123");
    let all = format!("{post}{wrong}{post}GET /patron/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(all.as_bytes()).expect("sent");
    let mut replies = String::new();
    stream.read_to_string(&mut replies).expect("replies");
    let statuses: Vec<&str> = replies.matches("HTTP/1.1 200").chain(replies.matches("HTTP/1.1 422")).collect();
    assert_eq!(statuses.len(), 4, "{replies}");
    assert!(replies.ends_with(r#"{"id":1,"name":"a","fav_dish":"b"}"#), "{replies}");
    let late = slow.reply();
    assert_eq!((late.status, late.json()["error"].as_str()), (408, Some("the body is not whole after 10 s")));
    assert_eq!(database.sql("SELECT count(*) FROM patron"), "2");
}

#[test]
fn it_is_a_service_among_others() {
    let Some(database) = Database::new("service") else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("poetry.toml");
    let text = format!(
        "metrics = 0\n[[poetry-library]]\nport = 0\ndatabase = \"{}\"\n[[transformedpoetry]]\nport = 0\n",
        database.url()
    );
    std::fs::write(&file, text).expect("written");
    let poetryd = Service::start_several(program("poetryd").arg("--config").arg(&file), 3);
    let id = make(&poetryd, "Carol", "eggs");
    assert_eq!(dish(&poetryd, id), "eggs");
    let page = say(poetryd.addresses[2], b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").body;
    let service = format!("service=\"poetry-library\",address=\"{}\"", poetryd.address);
    for line in [
        format!("poetry_library_changes_total{{{service}}} 1"),
        format!("poetry_library_lag_seconds_count{{{service}}} 1"),
        format!("poetry_library_listening{{{service}}} 1"),
    ] {
        assert!(page.lines().any(|its| its == line), "{line}: {page}");
    }
    let finished = poetryd.stop();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
}

#[test]
fn a_stop_answers_what_is_under_way() {
    let Some(database) = Database::new("stop") else { return };
    let library = database.library(&["--grace", "30s"]);
    let id = make(&library, "Carol", "eggs");
    let mut holder = database.postgres.session(database.name);
    holder.say(&format!("BEGIN; UPDATE patron SET fav_dish = 'ham' WHERE id = {id}"));
    let body = r#"{"name": "Carol", "fav_dish": "spam"}"#;
    let request = format!(
        "PUT /patron/{id} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let asked = Asked::new(library.address, request.as_bytes());
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually("it waits for the lock", || database.sql(waits) == "1");
    library.signal(Signal::SIGTERM);
    eventually("the door is closed", || TcpStream::connect_timeout(&library.address, Duration::from_secs(1)).is_err());
    holder.say("COMMIT");
    let reply = asked.reply();
    assert_eq!((reply.status, reply.field("Connection")), (200, Some("close")));
    let finished = library.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(database.sql("SELECT fav_dish FROM patron"), "spam");
}

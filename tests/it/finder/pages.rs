//! http-charfinder: pages, JSON and streams, as programs get them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{PATIENCE, Service, eventually, program, read_out};

fn server(flags: &[&str]) -> Service {
    Service::start(program("http-charfinder").args(flags))
}

/// A reply, with the names of its fields in lower case.
#[derive(Debug)]
struct Reply {
    status: u16,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn of(bytes: &[u8]) -> Self {
        let text = str::from_utf8(bytes).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Self { status: status.expect("a status"), fields: lines.filter_map(field).collect(), body: body.to_owned() }
    }
}

/// Asks for a page with a request of its own, in HTTP/1.0, so that its end is the end of the stream.
fn ask(server: &Service, method: &str, target: &str, fields: &str) -> Reply {
    let mut stream = server.connect();
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    write!(stream, "{method} {target} HTTP/1.0\r\n{fields}\r\n").expect("sent");
    Reply::of(&read_out(stream).expect("a reply"))
}

fn get(server: &Service, target: &str) -> Reply {
    ask(server, "GET", target, "")
}

/// How a stream ends, whatever comes before.
fn end(stream: TcpStream) -> Result<(), io::ErrorKind> {
    read_out(stream).map(drop).map_err(|error| error.kind())
}

fn json(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|_| panic!("{reply:?}"))
}

#[test]
fn a_page_has_two_hundred_rows_and_leads_to_the_next() {
    let server = server(&[]);
    assert!(server.line.starts_with("Finding characters on 127.0.0.1:"), "{}", server.line);
    let rows = |reply: &Reply| reply.body.matches("<tr><td>").count();
    let first = get(&server, "/?query=cjk");
    assert_eq!((first.status, rows(&first)), (200, 200));
    assert!(first.body.contains(">103203 matches for 'cjk'<"));
    assert!(first.body.contains("1 to 200 of 103203 <a rel=\"next\" href=\"/?query=cjk&amp;start=200\">"));
    assert!(!first.body.contains("rel=\"prev\""));
    let second = get(&server, "/?query=cjk&start=200");
    assert!(second.body.contains("<a rel=\"prev\" href=\"/?query=cjk&amp;start=0\">"));
    assert!(second.body.contains("start=400"));
    let last = get(&server, "/?query=cjk&start=103200");
    assert_eq!(rows(&last), 3);
    assert!(last.body.contains("<td>U+33479</td><td>𳑹</td><td>CJK UNIFIED IDEOGRAPH-33479</td>"));
    assert!(!last.body.contains("rel=\"next\""));
    let beyond = get(&server, "/?query=cat+face&start=1000");
    assert_eq!((beyond.status, rows(&beyond)), (200, 0));
    assert!(
        beyond.body.contains("10 matches for &#39;cat face&#39;") || beyond.body.contains("10 matches for 'cat face'")
    );
    assert!(beyond.body.contains("<a rel=\"prev\" href=\"/?query=cat+face&amp;start=9\">"));
    // Without a query there is the form, and something to begin with.
    for target in ["/", "/?query=", "/?query=+"] {
        let front = get(&server, target);
        assert_eq!((front.status, rows(&front)), (200, 0), "{target}");
        assert!(front.body.contains("<a href=\"/?query=roman+numeral\">") && !front.body.contains("match"), "{target}");
    }
    for asset in ["/app.js", "/style.css"] {
        assert!(first.body.contains(asset));
        assert_eq!(get(&server, asset).status, 200);
    }
}

#[test]
fn what_somebody_asks_for_does_nothing_to_the_page() {
    let server = server(&[]);
    let nasty = "%3Cscript%3Ealert(1)%3C/script%3E%22%27%7B%7D%E2%80%AE";
    for target in [format!("/?query={nasty}"), format!("/?query=U%2B110000+{nasty}")] {
        let reply = get(&server, &target);
        assert!(!reply.body.contains("<script>alert") && !reply.body.contains("\"\"'"), "{}", reply.body);
        let policy = &reply.fields["content-security-policy"];
        assert!(policy.contains("default-src 'none'; script-src 'self'") && policy.contains("form-action 'self'"));
        assert!(!reply.body.contains(" onclick") && !reply.body.contains(" style="));
    }
    // A field shows a text by itself; a title does not.
    let title = get(&server, "/?query=%E2%80%AEa").body;
    assert!(title.contains("<title>\u{fffd}a - http-charfinder</title>"), "{title}");
    // What is found does nothing, either.
    let found = get(&server, "/?query=U%2B202E+U%2B1B+U%2B3C").body;
    assert!(found.contains("<td>&lt;</td>") && !found.contains("<td>\u{202e}</td>") && !found.contains('\u{1b}'));
}

#[test]
fn a_query_is_decoded_as_browsers_encode_it() {
    let server = server(&[]);
    for (query, text, total) in [
        ("cat+face", "cat face", 10),
        ("cat%20face", "cat face", 10),
        ("%E2%99%9C", "♜", 1),
        ("chess*&start=", "chess*", 124),
        ("cat%26face", "cat&face", 10),
        ("", "", 0),
    ] {
        let answer = json(&get(&server, &format!("/api?query={query}")));
        assert_eq!((&answer["query"], &answer["total"]), (&text.into(), &total.into()), "{query}");
    }
    for (target, why) in [
        ("/api?query=%zz", "query: a % is not followed by two hexadecimal digits\n"),
        ("/api?query=%ff", "query: it is not UTF-8\n"),
        ("/api?query=%E2%99", "query: it is not UTF-8\n"),
        ("/api?query=U%2B110000", "query: U+110000 is no code point: the last one is U+10FFFF\n"),
        ("/api?start=1", "query: it is missing\n"),
        ("/api?query=a&start=-1", "start: it must be a whole number\n"),
        ("/api?query=a&start=x", "start: it must be a whole number\n"),
        ("/api?query=a&start=99999999999999999999", "start: it must be a whole number\n"),
        ("/api?query=a&limit=0", "limit: it must be from 1 to 1000\n"),
        ("/api?query=a&limit=1001", "limit: it must be from 1 to 1000\n"),
        ("/api?query=a&limit=-1", "limit: it must be a whole number\n"),
        ("/all?query=%zz", "query: a % is not followed by two hexadecimal digits\n"),
        ("/all", "query: it is missing\n"),
    ] {
        let reply = get(&server, target);
        assert_eq!((reply.status, &*reply.body), (400, why), "{target}");
        assert!(!reply.fields.contains_key("etag"), "{target}");
    }
    let page = get(&server, "/?query=U%2B110000");
    assert_eq!(page.status, 400);
    assert!(page.body.contains("query: U+110000 is no code point") && page.body.contains("value=\"U+110000\""));
    let long = "x".repeat(1_025);
    assert_eq!(get(&server, &format!("/?query={long}")).status, 400);
    assert_eq!(get(&server, &format!("/?query={}", &long[1..])).status, 200);
}

#[test]
fn programs_get_pages_of_json() {
    let server = server(&[]);
    let reply = get(&server, "/api?query=U%2B202E+rook&limit=1");
    assert_eq!((reply.status, &*reply.fields["content-type"]), (200, "application/json"));
    let reply = get(&server, "/api?query=%E2%80%AE");
    assert_eq!(
        reply.body,
        "{\"query\":\"\\u202e\",\"total\":1,\"start\":0,\"items\":[{\"code\":\"U+202E\",\"char\":\"\\u202e\",\"name\":\"RIGHT-TO-LEFT OVERRIDE\"}]}\n"
    );
    let items = |target: &str| json(&get(&server, target))["items"].as_array().expect("a list").len();
    assert_eq!(items("/api?query=cjk"), 200);
    assert_eq!(items("/api?query=cjk&limit=1000&start=102500"), 703);
    assert_eq!(items("/api?query=cjk&start=103203"), 0);
    let whole: Vec<Value> = (0..104)
        .flat_map(|page| {
            match json(&get(&server, &format!("/api?query=cjk&limit=1000&start={}", page * 1_000)))["items"].take() {
                Value::Array(items) => items,
                other => panic!("{other}"),
            }
        })
        .collect();
    assert_eq!(whole.len(), 103_203);
    assert!(whole.is_sorted_by_key(|item| u32::from_str_radix(&item["code"].as_str().expect("text")[2..], 16).ok()));
}

#[test]
fn all_of_an_answer_comes_in_pieces_as_it_is_read() {
    let server = server(&[]);
    let all = get(&server, "/all?query=cjk");
    assert_eq!((all.status, &*all.fields["x-total"]), (200, "103203"));
    assert_eq!(all.body.lines().count(), 103_203);
    assert!(all.body.starts_with("U+2E80 \t⺀\tCJK RADICAL REPEAT\n"));
    assert_eq!(get(&server, "/all?query=cat+face&start=9").body, "U+1F640\t🙀\tWEARY CAT FACE\n");
    assert_eq!(get(&server, "/all?query=jabberwocky").body, "");
    // To others in chunks, and the connection goes on.
    let mut stream = server.connect();
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut reader = BufReader::new(stream.try_clone().expect("another"));
    for _ in 0..2 {
        stream.write_all(b"GET /all?query=cat+face&start=9 HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("a line") > 0, "{head}");
        }
        assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head}");
        let mut body = vec![0; "1c\r\n".len() + "U+1F640\t🙀\tWEARY CAT FACE\n".len() + "\r\n0\r\n\r\n".len()];
        reader.read_exact(&mut body).expect("chunks");
        assert_eq!(String::from_utf8_lossy(&body), "1C\r\nU+1F640\t🙀\tWEARY CAT FACE\n\r\n0\r\n\r\n");
    }
}

#[test]
fn whoever_streams_everything_and_reads_nothing_costs_little_and_is_dropped() {
    let server = server(&["--write-timeout", "1s"]);
    get(&server, "/?query=sun");
    let before = server.memory();
    let silent: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = server.connect();
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            // Nobody's buffer takes the whole.
            let requests = "GET /all?query=cjk HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10);
            stream.write_all(requests.as_bytes()).expect("sent");
            stream.read_exact(&mut [0; 9]).expect("a part of a reply");
            stream
        })
        .collect();
    for _ in 0..50 {
        assert!(get(&server, "/?query=sun").body.contains("17 matches"));
    }
    let each = server.memory().saturating_sub(before) / 20;
    assert!(each < 300_000, "{each}");
    eventually("they are dropped", || {
        server.signal(Signal::SIGUSR1);
        server.hear("Totals: ").contains("20 lost")
    });
    for stream in silent {
        assert_eq!(end(stream), Err(io::ErrorKind::ConnectionReset));
    }
}

#[test]
fn answers_can_be_kept_and_asked_for_again() {
    let server = server(&[]);
    for target in ["/", "/?query=cat", "/api?query=cat", "/all?query=cat", "/app.js", "/style.css"] {
        let reply = get(&server, target);
        let tag = &reply.fields["etag"];
        assert_eq!(reply.fields["cache-control"], "max-age=3600", "{target}");
        for again in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let reply = ask(&server, "GET", target, &format!("If-None-Match: {again}\r\n"));
            assert_eq!((reply.status, &*reply.body, &reply.fields["etag"]), (304, "", tag), "{target} {again}");
        }
        assert_eq!(ask(&server, "GET", target, "If-None-Match: \"x\"\r\n").status, 200);
        let head = ask(&server, "HEAD", target, "");
        assert_eq!((head.status, &*head.body, &head.fields["etag"]), (200, "", tag), "{target}");
    }
    let tags =
        ["cat", "cats", "cat&start=1"].map(|query| get(&server, &format!("/all?query={query}")).fields["etag"].clone());
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2]);
}

#[test]
fn there_is_nothing_else() {
    let server = server(&[]);
    let elsewhere = get(&server, "/index.html");
    assert_eq!((elsewhere.status, &*elsewhere.body), (404, "There are /, /api and /all, each with ?query=WORDS\n"));
    for method in ["POST", "PUT", "DELETE"] {
        let reply = ask(&server, method, "/", "");
        assert_eq!((reply.status, &*reply.fields["allow"]), (405, "GET, HEAD, OPTIONS"), "{method}");
    }
    assert_eq!(ask(&server, "GET", "/api?query=sun", "Host: anybody.example\r\n").status, 200);
}

#[test]
fn a_stop_finishes_replies_and_an_early_end_is_a_reset() {
    for (grace, is_whole) in [("10s", true), ("100ms", false)] {
        let server = server(&["--grace", grace]);
        let mut stream = server.connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(b"GET /all?query=cjk HTTP/1.0\r\n\r\n").expect("sent");
        let mut begin = [0; 9];
        stream.read_exact(&mut begin).expect("a part of a reply");
        server.signal(Signal::SIGTERM);
        if is_whole {
            let rest = read_out(stream).expect("FIN");
            assert!(rest.ends_with(b"CJK UNIFIED IDEOGRAPH-33479\n"));
            assert_eq!(server.finish().code(), 0);
        } else {
            assert_eq!(server.finish().code(), 0);
            assert_eq!(end(stream), Err(io::ErrorKind::ConnectionReset));
        }
    }
}

//! Poems over HTTP, as all four clients get them: what an origin may say, whatever it says instead, and what is on disk
//! afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    CLIENTS, CONCURRENT, Finished, Server, Service, Theirs, contents, finish, free_port, path_of, program, read_some,
    reset, run, send_whole, with_every_client,
};
use crate::schema::violations;

/// The target of the next request on a connection; `None`: it has ended.
fn request(stream: &TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match read_some(stream, &mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(head).expect("ASCII");
    let mut words = head.split(' ');
    assert_eq!(words.next(), Some("GET"), "{head}");
    words.next().map(str::to_owned)
}

/// A reply with a length.
fn reply(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn ok(body: &str) -> Vec<u8> {
    reply("200 OK", "", body)
}

/// An origin: what it says to the request with this target, the how manieth it is of all, and whether it then closes.
fn origin(answer: impl Fn(&str, usize) -> (Vec<u8>, bool) + Send + Sync + 'static) -> Server {
    let requests = AtomicUsize::new(0);
    Server::start(move |_, mut stream| {
        while let Some(target) = request(&stream) {
            let (reply, closes) = answer(&target, requests.fetch_add(1, Ordering::AcqRel));
            if closes {
                return send_whole(stream, &reply);
            }
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    })
}

/// A target, and the reply to it.
type Page = (&'static str, fn() -> Vec<u8>);

/// An origin that keeps its connections and has these replies, by target.
fn site<const N: usize>(replies: [Page; N]) -> Server {
    origin(move |target, _| {
        let found = replies.iter().find(|(path, _)| *path == target);
        (found.map_or_else(|| reply("404 Not Found", "", "nothing here\n"), |(_, reply)| reply()), false)
    })
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.name())
}

/// A run with a report, of which the tasks are returned.
fn fetch(client: &str, args: &[&str]) -> (Finished, Vec<Value>) {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("report.json");
    let finished = finish(program(client).arg("--report").arg(&path).args(args));
    let report: Value = serde_json::from_str(&fs::read_to_string(path).expect("a report")).expect("JSON");
    assert_eq!(violations("report.schema.json", &report), [""; 0], "{client}");
    let tasks = report["tasks"].as_array().expect("tasks").clone();
    (finished, tasks)
}

/// One poem that fails: its status and its error.
fn failure(client: &str, args: &[&str]) -> (String, String, u64) {
    let (finished, tasks) = fetch(client, args);
    assert_eq!((finished.code(), &finished.stdout[..]), (1, &b""[..]), "{client}: {finished:?}");
    let text = |key: &str| tasks[0][key].as_str().expect("a text").to_owned();
    let word = if text("status") == "not_found" { "not found" } else { "failed" };
    let line = format!("Task 1: {word}: {}: {}", text("address"), text("error"));
    assert!(finished.has_line(&line), "{client}: {line:?} in {}", finished.stderr);
    (text("status"), text("error"), tasks[0]["attempts"].as_u64().expect("a number"))
}

#[test]
fn poems_over_http_and_others_come_in_one_run() {
    let (over_http, raw) = (site([("/a?b=c", || ok("over HTTP\n"))]), Server::poem("a poem\n"));
    for client in CLIENTS {
        let target = format!("name={}", url(&over_http, "/a?b=c#d"));
        let (finished, tasks) = fetch(client, &["--ordered", "-v", &target, &raw.port()]);
        assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"over HTTP\na poem\n"[..]), "{finished:?}");
        let address = url(&over_http, "/a?b=c");
        assert!(finished.has_line(&format!("Task 1: get poetry from: {address}")), "{finished:?}");
        assert!(finished.has_timed_line(&format!("Task 1: asking for {address}")), "{finished:?}");
        assert!(finished.has_timed_line("Task 1: HTTP 200, 10 bytes of poetry"), "{finished:?}");
        assert!(finished.stderr.lines().last().is_some_and(|line| line.starts_with("Got 2 poems in ")), "{finished:?}");
        let http = ["address", "http_status", "requests", "redirects", "reused"].map(|key| tasks[0][key].to_string());
        assert_eq!(http, [format!("\"{address}\"").as_str(), "200", "1", "0", "0"]);
        assert!(tasks[1].get("http_status").is_none() && tasks[1].get("requests").is_none(), "{}", tasks[1]);
    }
}

#[test]
fn a_failure_is_not_forgotten_when_a_later_poem_succeeds() {
    let server = site([("/good", || ok("a poem\n"))]);
    for client in CLIENTS {
        let (finished, tasks) = fetch(client, &[&url(&server, "/missing"), &url(&server, "/good")]);
        assert_eq!((finished.code(), &finished.stdout[..]), (1, &b"a poem\n"[..]), "{finished:?}");
        let last = finished.stderr.lines().last().expect("a tally");
        assert!(last.starts_with("Got 1 of 2 poems in ") && last.ends_with(": 1 not found"), "{last}");
        assert_eq!(tasks[0]["status"], "not_found");
    }
}

#[test]
fn what_is_not_there_is_told_apart_never_saved_and_not_asked_for_again() {
    let server = site([("/gone", || reply("410 Gone", "", "it is gone"))]);
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().to_str().expect("UTF-8");
        for (path, why) in [("/no", "HTTP 404 Not Found"), ("/gone", "HTTP 410 Gone")] {
            let told = failure(client, &["--retries", "5", "-o", directory, &url(&server, path)]);
            assert_eq!(told, ("not_found".to_owned(), why.to_owned(), 1), "{client}");
        }
        assert_eq!(contents(place.path()), []);
    }
}

/// A directory of so many files of 13 kB, each different.
fn many_files(count: usize) -> TempDir {
    let place = tempfile::tempdir().expect("a directory");
    for number in 0..count {
        let bytes: Vec<u8> =
            (0..13_000u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[number % 4]).collect();
        let file = [number.to_string().as_bytes(), &bytes].concat();
        fs::write(place.path().join(format!("{number}.bin")), file).expect("written");
    }
    place
}

#[test]
fn a_thousand_files_arrive_byte_for_byte_few_at_once_and_many() {
    let files = many_files(1_000);
    let server = Service::start(program("fastpoetry").arg("--http").arg(files.path()));
    let list: String = (0..1_000).map(|number| format!("http://{}/{number}.bin\n", server.address)).collect();
    let input = files.path().join("list");
    fs::write(&input, list).expect("written");
    let expected: Vec<(String, Vec<u8>)> =
        contents(files.path()).into_iter().filter(|(name, _)| name.ends_with(".bin")).collect();
    for client in CLIENTS {
        for at_once in ["3", "300"] {
            let place = tempfile::tempdir().expect("a directory");
            let mut command = program(client);
            command.args(["-q", "-m", at_once, "-o"]).arg(place.path()).arg("--input").arg(&input);
            let finished = finish(&mut command);
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{client}");
            assert!(contents(place.path()) == expected, "{client} -m {at_once}");
        }
    }
}

#[test]
fn one_url_five_hundred_times_at_once_is_never_cut_short() {
    let files = many_files(1);
    let server = Service::start(program("fastpoetry").arg("--http").arg(files.path()));
    let url = format!("http://{}/0.bin", server.address);
    for client in CONCURRENT {
        let mut args = vec!["-q", "--discard", "-j", "500"];
        args.extend(vec![url.as_str(); 500]);
        let (finished, tasks) = fetch(client, &args);
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert!(tasks.iter().all(|task| task["bytes"] == 13_001), "{client}");
    }
}

#[test]
fn what_breaks_off_is_no_poem_and_leaves_no_file() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n";
    let head = "HTTP/1.1 200 OK\r\nContent-Le";
    for (bytes, why) in [
        (length, "truncated: 10 of 100 bytes"),
        (chunks, "truncated: 10 bytes, and no last chunk"),
        (head, "truncated: the head of the reply breaks off"),
    ] {
        let server = origin(|_, _| (bytes.into(), true));
        for client in CLIENTS {
            let place = tempfile::tempdir().expect("a directory");
            let directory = place.path().to_str().expect("UTF-8");
            let told = failure(client, &["--retries", "1", "-o", directory, &url(&server, "/")]);
            assert_eq!(told, ("truncated".to_owned(), why.to_owned(), 2), "{client}");
            assert_eq!(contents(place.path()), []);
            assert_eq!(failure(client, &[&url(&server, "/")]).0, "truncated", "on stdout");
        }
    }
    // Until the end of the stream: nobody can know.
    let server = origin(|_, _| ("HTTP/1.1 200 OK\r\n\r\n0123456789".into(), true));
    for client in CLIENTS {
        assert_eq!(run(client, [url(&server, "/")]).stdout, b"0123456789");
    }
    // A reset is no end.
    let server = Server::start(|_, mut stream| {
        request(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n0123456789");
        reset(stream);
    });
    for client in CLIENTS {
        assert_eq!(failure(client, &[&url(&server, "/")]).0, "reset");
    }
}

#[test]
fn a_reply_that_says_twice_where_it_ends_is_the_last_of_its_connection_or_none() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na poem\r\n0\r\n\r\n";
    let server = Server::start(move |_, mut stream| {
        counted.fetch_add(1, Ordering::AcqRel);
        while request(&stream).is_some() && stream.write_all(both.as_bytes()).is_ok() {}
    });
    for client in CLIENTS {
        connections.store(0, Ordering::Release);
        let (finished, tasks) = fetch(client, &["-j", "1", &url(&server, "/1"), &url(&server, "/2")]);
        assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poema poem"[..]), "{finished:?}");
        assert_eq!((connections.load(Ordering::Acquire), &tasks[1]["reused"]), (2, &0.into()), "{client}");
    }
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde";
    let server = origin(|_, _| (two.into(), false));
    for client in CLIENTS {
        assert_eq!(failure(client, &[&url(&server, "/")]).1, "two lengths: 3 and 5", "{client}");
    }
}

#[test]
fn connections_are_kept_one_for_each_poem_under_way() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let server = Server::start(move |_, mut stream| {
        counted.fetch_add(1, Ordering::AcqRel);
        while request(&stream).is_some() && stream.write_all(&ok("a poem\n")).is_ok() {}
    });
    let urls: Vec<String> = (0..40).map(|number| url(&server, &format!("/{number}"))).collect();
    for client in CLIENTS {
        connections.store(0, Ordering::Release);
        let mut args = vec!["-q", "-j", "4"];
        args.extend(urls.iter().map(String::as_str));
        let (finished, tasks) = fetch(client, &args);
        assert_eq!(finished.stdout, b"a poem\n".repeat(40));
        let reused: u64 = tasks.iter().map(|task| task["reused"].as_u64().expect("a number")).sum();
        let most = if client == "get-poetry-blocking" { 1 } else { 4 };
        let made = connections.load(Ordering::Acquire);
        assert!((1..=most).contains(&made) && reused == 40 - made as u64, "{client}: {made} and {reused}");
    }
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced_and_that_is_no_attempt() {
    // It ends when the second request is here, or before; politely, or not.
    for (how, waits) in [("fin", true), ("rst", true), ("fin", false), ("rst", false)] {
        let server = Server::start(move |_, mut stream| {
            if request(&stream).is_none() || stream.write_all(&ok("a poem\n")).is_err() {
                return;
            }
            if waits && request(&stream).is_none() {
                return;
            }
            if how == "fin" { send_whole(stream, b"") } else { reset(stream) }
        });
        for client in CLIENTS {
            let urls = ["/1", "/2", "/3"].map(|path| url(&server, path));
            let (finished, tasks) = fetch(client, &["-j", "1", &urls[0], &urls[1], &urls[2]]);
            assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poem\n".repeat(3)[..]), "{how}: {finished:?}");
            assert!(tasks.iter().all(|task| task["attempts"] == 1), "{client} {how}: {tasks:?}");
        }
    }
}

#[test]
fn a_server_that_speaks_unasked_on_a_kept_connection_is_not_believed() {
    let server = Server::start(|number, mut stream| {
        request(&stream);
        let forged = if number == 0 { reply("200 OK", "", "forged\n") } else { Vec::new() };
        let _ = stream.write_all(&[ok("a poem\n"), forged].concat());
        while request(&stream).is_some() && stream.write_all(&ok("a poem\n")).is_ok() {}
    });
    for client in CLIENTS {
        let finished = run(client, ["-j", "1", &url(&server, "/1"), &url(&server, "/2")]);
        assert_eq!(finished.stdout, b"a poem\na poem\n", "{client}");
    }
}

#[test]
fn a_poem_without_http_is_told_from_a_reply() {
    let server = Server::start(|_, stream| send_whole(stream, b"Sonnet - To Science\n"));
    for client in CLIENTS {
        let (status, error, _) = failure(client, &[&url(&server, "/")]);
        assert_eq!(status, "error");
        assert_eq!(error, "this is no HTTP reply (a poem without it? write HOST:PORT)", "{client}");
    }
}

#[test]
fn interim_replies_are_read_over_but_not_for_ever() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
    for (number, poem) in [(2, Some("a poem\n")), (11, None)] {
        let server = origin(move |_, _| ([hints.repeat(number).into_bytes(), ok("a poem\n")].concat(), false));
        for client in CLIENTS {
            match poem {
                Some(poem) => assert_eq!(run(client, [url(&server, "/")]).stdout, poem.as_bytes()),
                None => assert_eq!(failure(client, &[&url(&server, "/")]).1, "more than 10 interim replies"),
            }
        }
    }
}

#[test]
fn redirects_are_followed_to_where_they_lead_if_it_is_http() {
    let other = site([("/there", || ok("a poem\n"))]);
    let there = url(&other, "/there");
    let server = origin(move |target, _| {
        let location = match target {
            "/other" => there.clone(),
            "/a/relative" => "../b#fragment".to_owned(),
            "/b" => return (ok("below\n"), false),
            "/loop" => "/loop".to_owned(),
            "/safe" => "https://poems.example/".to_owned(),
            "/nasty" => "http://poems.example/\u{1b}[2J".to_owned(),
            _ => return (reply("404 Not Found", "", ""), false),
        };
        (reply("302 Found", &format!("Location: {location}\r\n"), "elsewhere"), false)
    });
    for client in CLIENTS {
        let (finished, tasks) = fetch(client, &["--ordered", &url(&server, "/other"), &url(&server, "/a/relative")]);
        assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poem\nbelow\n"[..]), "{finished:?}");
        assert_eq!((&tasks[0]["redirects"], &tasks[0]["requests"]), (&1.into(), &2.into()));
        assert_eq!(tasks[0]["address"], url(&server, "/other"));
        for (path, flags, why) in [
            ("/loop", &[][..], "more than 10 redirects"),
            ("/loop", &["--redirects", "3"], "more than 3 redirects"),
            ("/loop", &["--redirects", "0"], "HTTP 302 Found"),
            (
                "/safe",
                &[],
                "redirected to https://poems.example/: https is not spoken here; put socat or stunnel in front",
            ),
        ] {
            let mut args = flags.to_vec();
            let url = url(&server, path);
            args.push(&url);
            assert_eq!(failure(client, &args).1, why, "{client}");
        }
        let finished = run(client, [url(&server, "/nasty")]);
        assert!(finished.code() == 1 && !finished.stderr.contains('\u{1b}'), "{finished:?}");
    }
}

#[test]
fn what_may_pass_is_tried_again_and_begins_anew() {
    for status in ["408 Request Timeout", "429 Too Many Requests", "500 Oops", "502 Bad", "503 Busy", "504 Slow"] {
        let server = origin(move |_, number| match number % 2 {
            0 => (reply(status, "", "not now"), false),
            _ => (ok("a poem\n"), false),
        });
        for client in CLIENTS {
            let (finished, tasks) = fetch(client, &["--retries", "1", &url(&server, "/")]);
            assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poem\n"[..]), "{finished:?}");
            assert_eq!(
                (&tasks[0]["attempts"], &tasks[0]["http_status"]),
                (&2.into(), &200.into()),
                "{client} {status}"
            );
        }
    }
    // What is not going to be better is asked for once.
    for status in ["400 Bad Request", "403 Forbidden", "501 Not Implemented", "204 No Content", "304 Not Modified"] {
        let server = origin(move |_, _| (format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into(), false));
        for client in CLIENTS {
            let told = failure(client, &["--retries", "3", &url(&server, "/")]);
            assert_eq!(told, ("error".to_owned(), format!("HTTP {status}"), 1), "{client}");
        }
    }
    // Half a poem, and then another one: nothing of the first is left.
    let server = origin(|_, number| match number % 2 {
        0 => ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthe first".into(), true),
        _ => (ok("another\n"), false),
    });
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        let mut command = program(client);
        let finished = finish(command.args(["--retries", "1", "-o"]).arg(place.path()).arg(url(&server, "/x")));
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert_eq!(contents(place.path()), [("x".to_owned(), b"another\n".to_vec())]);
    }
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it_up_to_a_limit() {
    let server = origin(|_, number| match number % 2 {
        0 => (reply("503 Busy", "Retry-After: 1\r\n", ""), false),
        _ => (ok("a poem\n"), false),
    });
    with_every_client(|client| {
        // Each has a server of its own turn: the number of requests is even whenever one begins.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (finished, tasks) = fetch(client, &["--retries", "1", &url(&server, "/")]);
        assert_eq!(finished.code(), 0, "{finished:?}");
        let took = tasks[0]["end_us"].as_u64().expect("an end");
        assert!(took >= 1_000_000, "{client}: {took}");
    });
    let later = origin(|_, _| (reply("429 Slow Down", "Retry-After: 3600\r\n", ""), false));
    for client in CLIENTS {
        let told = failure(client, &["--retries", "9", &url(&later, "/")]);
        let why = "HTTP 429 Slow Down, and asks to come back in 1h, which is longer than --retry-after-max";
        assert_eq!(told, ("error".to_owned(), why.to_owned(), 1), "{client}");
    }
}

#[test]
fn files_are_called_as_their_urls_and_the_server_has_no_say() {
    let server = origin(|_, _| {
        (reply("200 OK", "Content-Disposition: attachment; filename=\"../evil\"\r\n", "a poem\n"), false)
    });
    let paths =
        ["/flags/ad.gif", "/x/metadata.json", "/y/metadata.json", "/", "/a%2f..%2f..%2fb", "/%2e%2e", "/%1b%5b2J"];
    let urls = paths.map(|path| url(&server, path));
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("deep");
        let mut command = program(client);
        command.arg("-o").arg(&directory).args(&urls);
        let finished = finish(&mut command);
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert!(!finished.stderr.contains('\u{1b}'), "{finished:?}");
        let names: Vec<String> = contents(&directory).into_iter().map(|(name, _)| name).collect();
        let clash = ["2-metadata.json", "3-metadata.json"];
        let expected = BTreeSet::from([clash[0], clash[1], "_[2J", "__", "ad.gif", "index"]);
        let others: BTreeSet<&str> = names.iter().map(String::as_str).filter(|name| !name.starts_with("5-")).collect();
        assert!(others.is_superset(&BTreeSet::from([clash[0], clash[1], "_[2J", "__", "ad.gif"])), "{names:?}");
        assert!(expected.len() <= names.len() && names.len() == 7, "{names:?}");
        assert_eq!(fs::read_dir(place.path()).expect("a directory").count(), 1, "{client}: something is outside");
    }
}

/// A site of flags, as `{json.country}` says, and a run that wants them.
fn flags(client: &str, country: &str, directory: &Path) -> Finished {
    let json = serde_json::json!({ "country": country }).to_string();
    let server = origin(move |target, _| match target {
        "/flags/ad/ad.gif" => (ok("GIF"), false),
        "/flags/ad/metadata.json" => (ok(&json), false),
        _ => (reply("404 Not Found", "", ""), false),
    });
    let mut command = program(client);
    command.arg("-o").arg(directory);
    command.args(["--beside", "metadata.json", "--name", "{json.country}-{STEM}.{ext}"]);
    finish(command.arg(url(&server, "/flags/ad/ad.gif")))
}

#[test]
fn a_file_has_its_name_from_what_stands_beside_it() {
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        let finished = flags(client, "Antigua and Barbuda", place.path());
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert_eq!(contents(place.path()), [("Antigua_and_Barbuda-AD.gif".to_owned(), b"GIF".to_vec())]);
    }
}

#[test]
fn nothing_that_a_server_calls_a_country_leads_out_of_the_directory() {
    for country in ["../../x", "/etc/x", "a\0b", "..", "", "C:\\x", "\u{1b}[2J\u{7}", "\u{202e}", &"é".repeat(300)] {
        for client in CLIENTS {
            let place = tempfile::tempdir().expect("a directory");
            let directory = place.path().join("a/b");
            let finished = flags(client, country, &directory);
            assert!(!finished.stderr.contains('\u{1b}'), "{finished:?}");
            assert_eq!(finished.code(), 0, "{country:?}: {finished:?}");
            let found = contents(&directory);
            assert_eq!(found.len(), 1, "{country:?}: {found:?}");
            assert_eq!(found[0].1, b"GIF");
            assert!(!found[0].0.starts_with('.') && !found[0].0.contains('\u{1b}'), "{found:?}");
            assert_eq!(fs::read_dir(place.path()).expect("a directory").count(), 1, "{country:?}");
            assert_eq!(fs::read_dir(place.path().join("a")).expect("a directory").count(), 1, "{country:?}");
        }
    }
}

#[test]
fn a_name_that_is_a_link_or_another_file_is_replaced_and_not_followed() {
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("poems");
        fs::create_dir(&directory).expect("made");
        fs::write(place.path().join("precious"), "precious").expect("written");
        symlink("../precious", directory.join("Andorra-AD.gif")).expect("a link");
        assert_eq!(flags(client, "Andorra", &directory).code(), 0);
        assert_eq!(contents(&directory), [("Andorra-AD.gif".to_owned(), b"GIF".to_vec())]);
        assert_eq!(fs::read(place.path().join("precious")).expect("there"), b"precious");
    }
}

#[test]
fn without_what_should_stand_beside_it_a_poem_is_lost() {
    let server = origin(|target, _| match target {
        "/no/a.gif" | "/bad/a.gif" | "/list/a.gif" | "/other/a.gif" | "/large/a.gif" | "/short/a.gif" => {
            (ok("GIF"), false)
        }
        "/bad/m.json" => (reply("500 Oops", "", ""), false),
        "/list/m.json" => (ok("[1]"), false),
        "/other/m.json" => (ok(r#"{"code": 1}"#), false),
        "/large/m.json" => (ok(&" ".repeat(70_000)), false),
        "/short/m.json" => ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".into(), true),
        _ => (reply("404 Not Found", "", ""), false),
    });
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().to_str().expect("UTF-8");
        for (path, status, why) in [
            ("no", "not_found", "HTTP 404 Not Found"),
            ("bad", "error", "HTTP 500 Oops"),
            ("list", "error", "no name for its file: the JSON is no object"),
            ("other", "error", "no name for its file: there is no \"country\""),
            ("large", "error", "longer than 65536 bytes"),
            ("short", "truncated", "truncated: 1 of 9 bytes"),
        ] {
            let url = url(&server, &format!("/{path}/a.gif"));
            let args = ["-o", directory, "--beside", "m.json", "--name", "{json.country}", &url];
            let told = failure(client, &args);
            assert_eq!(told.0, status, "{client}: {path}");
            assert!(told.1.ends_with(why), "{client}: {told:?}");
        }
        assert_eq!(contents(place.path()), []);
    }
}

#[test]
fn two_poems_of_one_name_are_one_file_and_one_failure() {
    let server = origin(|target, _| match target {
        "/1/m.json" | "/2/m.json" => (ok(r#"{"country": "Andorra"}"#), false),
        _ => (ok("GIF"), false),
    });
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        fs::write(place.path().join("Andorra"), "of an earlier run").expect("written");
        let mut command = program(client);
        command.arg("-o").arg(place.path()).args(["--beside", "m.json", "--name", "{json.country}"]);
        let finished = finish(command.args([url(&server, "/1/a"), url(&server, "/2/a")]));
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(finished.stderr.contains("no name for its file: poem "), "{finished:?}");
        assert_eq!(contents(place.path()), [("Andorra".to_owned(), b"GIF".to_vec())]);
    }
}

#[test]
fn a_disk_that_does_not_take_a_poem_fails_it_and_no_other() {
    let server = origin(|target, _| match target {
        "/long" => (reply("200 OK", "", &"x".repeat(3_000_000)), false),
        _ => (ok("a poem\n"), false),
    });
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        // There is a directory of that name already.
        fs::create_dir(place.path().join("taken")).expect("made");
        fs::write(place.path().join("taken/file"), "").expect("written");
        // A file may have 1 MB (EFBIG): that is a disk that is full.
        let mut command = Command::new("prlimit");
        command.arg("--fsize=1000000").arg("--").arg(path_of(client)).arg("-o").arg(place.path());
        let finished = finish(command.args(["/long", "/taken", "/1", "/2"].map(|path| url(&server, path))));
        assert_eq!(finished.code(), 1, "{finished:?}");
        let place_of = |name: &str| place.path().join(name).display().to_string();
        for line in [
            format!("Task 1: failed: {}: cannot write {}: file too large", url(&server, "/long"), place_of("long")),
            format!("Task 2: failed: {}: cannot write {}: is a directory", url(&server, "/taken"), place_of("taken")),
        ] {
            assert!(finished.has_line(&line), "{client}: {line} in {}", finished.stderr);
        }
        assert!(finished.stderr.contains("Got 2 of 4 poems in "), "{finished:?}");
        let mut names: Vec<String> = fs::read_dir(place.path())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["1", "2", "taken"], "{client}");
    }
}

#[test]
fn a_very_long_poem_takes_no_memory() {
    const LENGTH: usize = 400_000_000;
    let server = Server::start(|_, mut stream| {
        request(&stream);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        let mut left = LENGTH;
        while left > 0 && stream.write_all(&piece[..left.min(piece.len())]).is_ok() {
            left -= left.min(piece.len());
        }
        send_whole(stream, b"");
    });
    for client in CLIENTS {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().to_str().expect("UTF-8");
        for args in [&["--discard"][..], &["-o", directory]] {
            // Memory of its own: the poem has ten times as much.
            let mut command = Command::new("prlimit");
            command.arg("--data=40000000").arg("--").arg(path_of(client)).arg("-q").args(args);
            let finished = finish(command.arg(url(&server, "/x")));
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{client} {args:?}");
        }
        assert_eq!(fs::metadata(place.path().join("x")).expect("a file").len(), LENGTH as u64);
        fs::remove_file(place.path().join("x")).expect("removed");
    }
}

#[test]
fn over_http_fifty_come_at_once_if_nobody_says_otherwise_and_all_others() {
    const AT_ONCE: usize = 50;
    /// How many are there, and the most that have been; and whether there were enough.
    #[derive(Default)]
    struct Crowd(Mutex<(usize, usize)>, Condvar);
    impl Crowd {
        fn join(&self, until: usize) {
            let mut count = self.0.lock().expect("lock");
            count.0 += 1;
            count.1 = count.1.max(count.0);
            self.1.notify_all();
            drop(self.1.wait_while(count, |(_, most)| *most < until).expect("lock"));
            self.0.lock().expect("lock").0 -= 1;
        }
        fn most(&self) -> usize {
            self.0.lock().expect("lock").1
        }
    }
    const OTHERS: usize = 70;
    for client in CONCURRENT {
        let (http, raw) = (Arc::new(Crowd::default()), Arc::new(Crowd::default()));
        let (its, others) = (Arc::clone(&http), Arc::clone(&raw));
        let server = Server::start(move |_, mut stream| {
            while request(&stream).is_some() {
                its.join(AT_ONCE);
                if stream.write_all(&ok("a poem\n")).is_err() {
                    return;
                }
            }
        });
        let poems = Server::start(move |_, stream| {
            others.join(OTHERS);
            send_whole(stream, b"a poem\n");
        });
        let mut args = vec!["-q".to_owned(), "--discard".to_owned()];
        args.extend((0..120).map(|number| url(&server, &format!("/{number}"))));
        args.extend(vec![poems.port(); OTHERS]);
        let finished = run(client, args);
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{client}");
        assert_eq!((http.most(), raw.most()), (AT_ONCE, OTHERS), "{client}");
    }
}

#[test]
fn through_a_proxy_requests_have_the_whole_url() {
    let targets = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&targets);
    let proxy = origin(move |target, _| {
        seen.lock().expect("lock").push(target.to_owned());
        (ok("a poem\n"), false)
    });
    let raw = Server::poem("direct\n");
    for client in CLIENTS {
        for form in [proxy.port(), format!("http://{}/", proxy.name())] {
            let mut command = program(client);
            command.args(["--ordered", "-x", &form, "http://poems.example:8001/a?b", &raw.port()]);
            // No variable detours it.
            let finished = finish(command.env("http_proxy", "http://127.0.0.1:1"));
            assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poem\ndirect\n"[..]), "{finished:?}");
            assert_eq!(targets.lock().expect("lock").pop().as_deref(), Some("http://poems.example:8001/a?b"));
        }
    }
}

#[test]
fn addresses_come_from_a_file_too() {
    let (server, raw) = (site([("/a", || ok("over HTTP\n"))]), Server::poem("a poem\n"));
    let place = tempfile::tempdir().expect("a directory");
    let list = place.path().join("list");
    let text = format!("# poems\n\n  x={}  # a comment\n{}\r\n", url(&server, "/a#fragment"), raw.port());
    fs::write(&list, &text).expect("written");
    for client in CLIENTS {
        let finished = finish(program(client).args(["--ordered", &raw.port(), "--input"]).arg(&list));
        assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poem\nover HTTP\na poem\n"[..]), "{finished:?}");
        let stdin = fs::File::open(&list).expect("there");
        let finished = finish(program(client).args(["--ordered", "--input", "-"]).stdin(stdin));
        assert_eq!(finished.stdout, b"over HTTP\na poem\n", "{finished:?}");

        for (text, complaint) in [
            (&b"10000\n  nowhere # x\n"[..], "line 2: 'nowhere': no port; an address is PORT"),
            (b"https://poems.example/\n", "line 1: 'https://poems.example/': https is not spoken here; put socat"),
            (b"caf\xe9:80/\n", "line 1: 'caf\u{fffd}:80/': the host is not a name"),
            (b"10000\0\n", "line 1: '10000\\x00': the port is not a number"),
            (b"# nothing\n", "there is no address in "),
        ] {
            fs::write(place.path().join("bad"), text).expect("written");
            let finished = finish(program(client).arg("--input").arg(place.path().join("bad")));
            assert_eq!(finished.code(), 2, "{finished:?}");
            assert!(finished.complaint().contains(complaint), "{finished:?}");
        }
        let finished = finish(program(client).args(["--input", "/nowhere/list"]));
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert_eq!(finished.complaint(), format!("{client}: cannot read /nowhere/list: no such file or directory"));
    }
}

#[test]
fn what_makes_no_sense_is_said_before_anything_is_fetched() {
    for client in CLIENTS {
        for (args, complaint) in [
            (&["https://poems.example/"][..], "https is not spoken here; put socat or stunnel in front"),
            (&["ftp://poems.example/"], "a URL begins with http://"),
            (&["http://me@poems.example/"], "a URL has no user here"),
            (&["http:///a"], "no host"),
            (&["http://poems.example/a b"], "a URL has no spaces and no control characters"),
            (&["--name", "{stem}", "http://a/"], "--output <DIR> is missing"),
            (&["-o", "x", "--name", "{Stem}", "http://a/"], "there is no {Stem}; there are {task}, {stem}"),
            (&["-o", "x", "--name", "{json.a}", "http://a/"], "{json.KEY} in --name is what --beside brings"),
            (&["-o", "x", "--beside", "b", "--name", "{stem}", "http://a/"], "--beside is for {json.KEY} in --name"),
            (&["-o", "x", "--beside", "b", "http://a/"], "--name <TEMPLATE> is missing"),
            (&["-x", "1", "10000"], "--proxy is about poems over HTTP, and no address begins with http://"),
            (&["-x", "nowhere", "http://a/"], "no port"),
            (&["--redirects", "-1", "http://a/"], "--redirects"),
        ] {
            let finished = run(client, args);
            assert_eq!(finished.code(), 2, "{args:?}: {finished:?}");
            assert!(finished.complaint().contains(complaint), "{args:?}: {finished:?}");
        }
    }
    assert!(!Path::new("x").exists());
}

/// An origin that fails a quarter and delays half of the rest, by number.
#[test]
fn an_origin_that_fails_a_quarter_costs_a_quarter_and_nothing_else() {
    let server = origin(|target, _| {
        let number: usize = target[1..].parse().expect("a number");
        match number % 8 {
            0 => (reply("500 Oops", "", ""), false),
            1 => (reply("404 Not Found", "", ""), false),
            2..=4 => {
                std::thread::park_timeout(Duration::from_millis(50));
                (ok(target), false)
            }
            _ => (ok(target), false),
        }
    });
    for client in CLIENTS {
        let urls: Vec<String> = (0..80).map(|number| url(&server, &format!("/{number}"))).collect();
        let finished = run(client, [vec!["--json".to_owned()], urls].concat());
        let report: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
        let last = finished.stderr.lines().last().expect("a tally");
        assert!(last.starts_with("Got 60 of 80 poems in ") && last.ends_with(": 10 not found, 10 errors"), "{last}");
        let (bound, elapsed) = (report["bound_us"].as_u64().expect("a bound"), report["elapsed_us"].as_u64());
        // The slowest, or all of them.
        let least = if client == "get-poetry-blocking" { 30 * 50_000 } else { 50_000 };
        assert!((least..=elapsed.expect("a time")).contains(&bound), "{client}: {bound} of {elapsed:?}");
    }
}

#[test]
fn a_race_is_run_over_urls_too() {
    let files = many_files(5);
    let server = Service::start(program("fastpoetry").arg("--http").arg(files.path()));
    let urls: Vec<String> = (0..5).map(|number| format!("http://{}/{number}.bin", server.address)).collect();
    let list = files.path().join("list");
    fs::write(&list, urls.join("\n")).expect("written");
    let mut command = program("poetry-race");
    let finished =
        finish(command.args(["--runs", "1", "--warm-up", "0", "--json", "--waterfall", "--input"]).arg(&list));
    assert_eq!(finished.code(), 0, "{finished:?}");
    let result: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(violations("race.schema.json", &result), [""; 0]);
    assert_eq!(result["addresses"][4], urls[4]);
    assert!(finished.stderr.contains("5  4.bin"), "{}", finished.stderr);
}

#[test]
fn servers_of_others_give_all_clients_the_same_files() {
    const AIOHTTP: &str = "\
import sys
from aiohttp import web
app = web.Application()
app.router.add_static('/', sys.argv[2])
web.run_app(app, host='127.0.0.1', port=int(sys.argv[1]), print=None)
";
    let files = many_files(40);
    let root = files.path().to_str().expect("UTF-8");
    let work = tempfile::tempdir().expect("a directory");
    let nginx = |port: u16| {
        let at = |name: &str| work.path().join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", at(name)))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {}; error_log stderr crit;\nevents {{ }}\n\
             http {{ access_log off;\n{temporary}server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n",
            at("pid")
        );
        fs::write(work.path().join("nginx.conf"), text).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(work.path()).arg("-c").arg(work.path().join("nginx.conf")).args(["-e", "stderr"]);
        command
    };
    let python = |port: u16| {
        let mut command = Command::new("python3");
        command.args(["-m", "http.server", "--bind", "127.0.0.1", "-d", root, &port.to_string()]);
        command
    };
    // The python3 of the PATH may be another one than that of the system, whose packages have it.
    let has_it = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import aiohttp"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let with_aiohttp = ["python3", "/usr/bin/python3"].into_iter().find(has_it).unwrap_or("python3");
    let aiohttp = |port: u16| {
        let mut command = Command::new(with_aiohttp);
        command.args(["-c", AIOHTTP, &port.to_string(), root]);
        command
    };
    let servers: [(&str, &dyn Fn(u16) -> Command); 3] =
        [("nginx", &nginx), ("http.server", &python), ("aiohttp", &aiohttp)];
    let expected = contents(files.path());
    for (name, command) in servers {
        let port = free_port();
        let Some(_server) = Theirs::start(port, &mut command(port)) else {
            writeln!(io::stderr(), "skipped: there is no {name}").expect("told");
            continue;
        };
        for client in CLIENTS {
            let place = tempfile::tempdir().expect("a directory");
            let url = |file: &str| format!("http://127.0.0.1:{port}/{file}");
            let urls: Vec<String> = expected.iter().map(|(file, _)| url(file)).collect();
            let mut command = program(client);
            let finished = finish(command.args(["-q", "-j", "5", "-o"]).arg(place.path()).args(&urls));
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{client} from {name}");
            assert!(contents(place.path()) == expected, "{client} from {name}");
            let missing = run(client, [url("missing")]);
            assert!(missing.code() == 1 && missing.stderr.contains("HTTP 404"), "{client} from {name}: {missing:?}");
        }
    }
}

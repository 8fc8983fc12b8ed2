//! poetry-monitor as servers, programs and browsers meet it, and servers that report themselves to it.

mod browser;
mod reporter;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use poetry_suite::proto::zmtp::{GREETING, Role, add_message, ready, subscribe};
use serde_json::Value;

use crate::harness::{PATIENCE, Service, eventually, finish, program, read_some};

/// A monitor; its pages are at its first address, and its collector at its second one.
fn monitor(flags: &[&str]) -> Service {
    Service::start_several(program("poetry-monitor").args(["-v", "--collect", "0"]).args(flags), 2)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a server");
    stream.set_nodelay(true).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn sample(color: &str, more: &str) -> String {
    format!(r#"{{"color": "{color}", "timestamp": "2026-11-27T21:50:22+00:00", "cpu": 1.5, "mem": 12{more}}}"#)
}

/// A server that reports, as plain as the protocol.
struct Source(TcpStream);

impl Source {
    fn new(monitor: &Service) -> Self {
        let mut stream = connect(monitor.addresses[1]);
        stream.write_all(&[&GREETING[..], &ready(Role::Pub)].concat()).expect("sent");
        let expected = [&GREETING[..], &ready(Role::Sub), &subscribe(b"")].concat();
        let mut said = vec![0; expected.len()];
        stream.read_exact(&mut said).expect("an answer");
        assert_eq!(said, expected);
        Self(stream)
    }

    fn say(&mut self, message: impl AsRef<[u8]>) {
        let mut bytes = Vec::new();
        add_message(&mut bytes, &[message.as_ref()]);
        self.0.write_all(&bytes).expect("sent");
    }
}

/// Somebody who reads the feed.
struct Reader {
    stream: TcpStream,
    head: String,
    /// What has come, without the chunks that it came in.
    text: String,
    raw: Vec<u8>,
    is_chunked: bool,
    has_last: bool,
}

impl Reader {
    fn new(monitor: &Service, path: &str, fields: &str) -> Self {
        Self::of_version(monitor, path, fields, "1.1")
    }

    fn of_version(monitor: &Service, path: &str, fields: &str, version: &str) -> Self {
        let mut stream = connect(monitor.address);
        write!(stream, "GET {path} HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n").expect("sent");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(read_some(&stream, &mut byte), Ok(1), "{head}");
            head.push(byte[0].into());
        }
        let is_chunked = head.contains("Transfer-Encoding: chunked");
        Self { stream, head, text: String::new(), raw: Vec::new(), is_chunked, has_last: false }
    }

    /// Reads a little; false: that is the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = read_some(&self.stream, &mut buffer).expect("it is there");
        self.raw.extend_from_slice(&buffer[..read]);
        if !self.is_chunked {
            self.text.push_str(&String::from_utf8(std::mem::take(&mut self.raw)).expect("text"));
            return read > 0;
        }
        while let Some(end) = self.raw.windows(2).position(|end| end == b"\r\n") {
            let length = str::from_utf8(&self.raw[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            let length = length.expect("a length");
            if self.raw.len() < end + 2 + length + 2 {
                break;
            }
            assert_eq!(self.raw[end + 2 + length..][..2], *b"\r\n");
            self.text.push_str(str::from_utf8(&self.raw[end + 2..][..length]).expect("text"));
            self.has_last |= length == 0;
            self.raw.drain(..end + 2 + length + 2);
        }
        read > 0
    }

    /// Reads until this has come.
    fn until(&mut self, text: &str) -> &str {
        while !self.text.contains(text) {
            assert!(self.read(), "the end before {text:?}: {}", self.text);
        }
        &self.text
    }

    /// The events that have come, as their fields.
    fn events(&self) -> Vec<(String, String, Value)> {
        let field = |block: &str, name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        let whole = self.text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        let blocks = whole.split("\n\n").filter(|block| block.contains("data: "));
        let parsed = |block: &str| serde_json::from_str(&field(block, "data")).expect("JSON");
        blocks.map(|block| (field(block, "event"), field(block, "id"), parsed(block))).collect()
    }
}

/// The whole answer to a request.
fn say(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("sent");
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("an answer");
    all
}

fn get(monitor: &Service, path: &str) -> String {
    say(monitor.address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

/// The value of a metric.
fn metric(monitor: &Service, name: &str) -> u64 {
    let page = get(monitor, "/metrics");
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

#[test]
fn a_sample_is_an_event_for_everybody_and_whoever_comes_again_goes_on() {
    let monitor = monitor(&[]);
    let mut lines = monitor.line.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("Monitor on 127.0.0.1:")));
    assert!(lines.next().is_some_and(|line| line.starts_with("Collecting on 127.0.0.1:")));
    let mut source = Source::new(&monitor);
    let (mut early, mut old) = (Reader::new(&monitor, "/feed", ""), Reader::of_version(&monitor, "/feed", "", "1.0"));
    for field in ["Content-Type: text/event-stream", "cache-control: no-cache, no-transform", "x-accel-buffering: no"] {
        assert!(early.head.contains(field), "{field}: {}", early.head);
    }
    assert!(!early.head.to_lowercase().contains("access-control") && !old.is_chunked);
    source.say(sample("red", r#", "clients": 3, "events": ["reload"]"#));
    for reader in [&mut early, &mut old] {
        reader.until("reload");
        reader.until("\n\n");
        let events = reader.events();
        let (names, boot) = (events.iter().map(|event| &*event.0).collect::<Vec<_>>(), &events[0].2["boot"]);
        assert_eq!(names, ["hello", "", "mark"]);
        let boot = boot.as_str().expect("a text");
        assert_eq!((events[1].1.as_str(), events[2].1.as_str()), (&*format!("{boot}-1"), &*format!("{boot}-2")));
        let sample = &events[1].2;
        assert_eq!((&sample["color"], &sample["cpu"], &sample["clients"]), (&"red".into(), &1.5.into(), &3.into()));
        let (at, now) = (sample["at"].as_i64().expect("a time"), events[0].2["now"].as_i64().expect("a time"));
        assert!((0..60_000).contains(&(at - now)), "{at} {now}");
        // Its clock is not ours.
        assert!(sample["skew"].is_i64());
        assert_eq!(events[2].2, serde_json::json!({"color": "red", "at": at, "what": "reload"}));
    }
    let boot = early.events()[0].2["boot"].as_str().expect("a text").to_owned();
    source.say(sample("blue", ""));
    // From the beginning, from where it was, and from where nobody knows; the browser's own word counts more.
    for (path, fields, expected) in [
        ("/feed", String::new(), 3),
        ("/feed?since=x-9", String::new(), 3),
        (&*format!("/feed?since={boot}-1"), String::new(), 2),
        ("/feed", format!("Last-Event-ID: {boot}-2\r\n"), 1),
        (&*format!("/feed?since={boot}-1"), format!("Last-Event-ID: {boot}-2\r\n"), 1),
    ] {
        let mut reader = Reader::new(&monitor, path, &fields);
        reader.until("\"blue\"");
        reader.until("}\n\n");
        let samples = reader.events().into_iter().filter(|event| !event.1.is_empty()).count();
        assert_eq!(samples, expected, "{path} {fields}");
    }
    let now: Value =
        serde_json::from_str(get(&monitor, "/now").split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    assert_eq!((&now[0]["color"], &now[1]["color"]), (&"blue".into(), &"red".into()));
    assert_eq!((metric(&monitor, "poetry_monitor_samples_total"), metric(&monitor, "poetry_monitor_sources")), (2, 2));
    monitor.signal(Signal::SIGUSR1);
    monitor.hear("Monitor: 2 samples, 0 rejected; 2 sources now");
}

#[test]
fn what_is_no_sample_is_counted_and_told_once_and_disturbs_nobody() {
    let monitor = monitor(&["--max-sources", "2"]);
    let (mut bad, mut good) = (Source::new(&monitor), Source::new(&monitor));
    let mut reader = Reader::new(&monitor, "/feed", "");
    for message in ["", "{", "[]", r#"{"color": 5}"#, "\0\u{ff}"] {
        bad.say(message);
    }
    bad.say(sample("late", ""));
    good.say(sample("good", ""));
    reader.until("\"late\"");
    reader.until("\"good\"");
    bad.say(sample("third", ""));
    eventually("it is counted", || metric(&monitor, "poetry_monitor_rejected_total{why=\"sources\"}") == 1);
    assert_eq!(metric(&monitor, "poetry_monitor_rejected_total{why=\"json\"}"), 3);
    let finished = monitor.stop();
    let told = finished.stderr.matches("Ignored 1 message of ").count();
    assert_eq!((finished.code(), told), (0, 1), "{}", finished.stderr);
}

#[test]
fn who_does_not_speak_its_protocol_is_let_go_with_a_reason() {
    let monitor = monitor(&["--max-message", "1k"]);
    let mut two = GREETING;
    two[10] = 1;
    let hello = |role| [&GREETING[..], &ready(role)].concat();
    let announced = |length: u64| [&hello(Role::Pub)[..], &[2], &length.to_be_bytes()].concat();
    for (said, why) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "it speaks no ZMTP"),
        (two.to_vec(), "it speaks ZMTP 2"),
        (hello(Role::Push), "it is a PUSH, with which a SUB cannot speak"),
        ([&GREETING[..], &[0, 0]].concat(), "its greeting is not followed by READY"),
        (announced(1001), "1001 bytes of a message are over the limit of 1000"),
        (announced(1 << 63), "bytes of a message are over the limit of 1000"),
        ([&hello(Role::Pub)[..], &[8]].concat(), "a frame has the flags 0x08"),
    ] {
        // Wherever it is cut, whoever is cut off says nothing wrong.
        let mut stream = connect(monitor.addresses[1]);
        stream.write_all(&said).expect("sent");
        let told = monitor.hear(&format!("Closed {}: ", stream.local_addr().expect("bound")));
        assert!(told.contains(why), "{told}");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    // Who ends in the middle is no trouble, and is told.
    let mut half = Source::new(&monitor);
    half.0.write_all(&[0, 200, b'{']).expect("sent");
    half.0.shutdown(Shutdown::Write).expect("connected");
    monitor.hear(&format!("{} has left: ", half.0.local_addr().expect("bound")));
    // Five seconds for a handshake.
    let silent = connect(monitor.addresses[1]);
    monitor.hear(&format!("Closed {}: it has not shaken hands within 5s", silent.local_addr().expect("bound")));
    let mut source = Source::new(&monitor);
    source.say(sample("red", ""));
    Reader::new(&monitor, "/feed", "").until("\"red\"");
}

#[test]
fn at_a_stop_everybody_who_reads_gets_the_last_chunk_and_the_end() {
    let monitor = monitor(&[]);
    let mut source = Source::new(&monitor);
    let mut readers: Vec<Reader> = (0..100).map(|_| Reader::new(&monitor, "/feed", "")).collect();
    source.say(sample("red", ""));
    for reader in &mut readers {
        reader.until("\"red\"");
    }
    let start = Instant::now();
    monitor.signal(Signal::SIGTERM);
    for reader in &mut readers {
        while reader.read() {}
        assert!(reader.has_last && reader.raw.is_empty());
    }
    assert_eq!(monitor.finish().code(), 0);
    // Far less than the grace time.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn who_reads_too_slowly_is_told_what_it_has_missed_and_holds_up_nobody() {
    let monitor = monitor(&["--history", "64k", "--max-message", "64k", "--write-timeout", "1m"]);
    let mut source = Source::new(&monitor);
    let (mut slow, mut quick) = (Reader::new(&monitor, "/feed", ""), Reader::new(&monitor, "/feed", ""));
    // A long name for each number: some kilobytes a sample, and megabytes in all.
    let events: Vec<String> = (0..8).map(|n| format!("\"{}{n}\"", "e".repeat(60))).collect();
    let count: usize = 4_000;
    for number in 0..count {
        source.say(sample("red", &format!(r#", "number": {number}, "events": [{}]"#, events.join(","))));
        if number % 100 == 99 {
            quick.until(&format!("\"number\":{number},"));
            quick.text.clear();
        }
    }
    quick.text.clear();
    source.say(sample("last", ""));
    slow.until("event: missed");
    slow.until("\"last\"");
    let missed: u64 =
        slow.events().iter().filter(|event| event.0 == "missed").filter_map(|event| event.2["count"].as_u64()).sum();
    let got = slow.events().iter().filter(|event| !event.1.is_empty()).count() as u64;
    assert_eq!(missed + got, 9 * count as u64 + 1, "every event was missed or came");
    assert_eq!(metric(&monitor, "poetry_monitor_missed_total"), missed);
    quick.until("\"last\"");
    assert!(!quick.text.contains("missed"));
}

#[test]
fn who_reads_nothing_is_dropped() {
    let monitor = monitor(&["--write-timeout", "200ms", "--max-message", "64k"]);
    let mut source = Source::new(&monitor);
    let reader = Reader::new(&monitor, "/feed", "");
    let name = reader.stream.local_addr().expect("bound");
    let events: Vec<String> = (0..8).map(|n| format!("\"{}{n}\"", "e".repeat(60))).collect();
    while metric(&monitor, "poetry_monitor_readers") > 0 {
        for _ in 0..100 {
            source.say(sample("red", &format!(r#", "events": [{}]"#, events.join(","))));
        }
    }
    monitor.hear(&format!("Dropped {name}: it took nothing for 200ms"));
}

#[test]
fn whoever_waits_hears_something_now_and_then() {
    let monitor = monitor(&[]);
    let (mut new, mut old) = (Reader::new(&monitor, "/feed", ""), Reader::of_version(&monitor, "/feed", "", "1.0"));
    // Fifteen seconds.
    new.until("}\n\n:\n\n");
    old.until("}\n\n:\n\n");
}

#[test]
fn a_silent_source_is_gone() {
    let monitor = monitor(&["--keep", "1s"]);
    let mut source = Source::new(&monitor);
    let mut reader = Reader::new(&monitor, "/feed", "");
    source.say(sample("red", ""));
    reader.until("event: gone\ndata: {\"color\":\"red\"}\n\n");
    assert_eq!(metric(&monitor, "poetry_monitor_sources"), 0);
    eventually("its samples are forgotten", || metric(&monitor, "poetry_monitor_history_bytes") == 0);
}

#[test]
fn its_pages_are_for_whoever_calls_it_by_its_name() {
    let monitor = monitor(&["--host-name", "poems.example", "--title", "<Poems> & more"]);
    let ask = |request: &str| say(monitor.address, request);
    for path in ["/", "/feed", "/now", "/metrics"] {
        let reply = ask(&format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n"));
        assert!(reply.starts_with("HTTP/1.1 403 ") && reply.contains("or a --host-name\n"), "{path}: {reply}");
        let reply = ask(&format!("HEAD {path} HTTP/1.1\r\nHost: poems.example\r\n\r\n"));
        assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("\r\n\r\n"), "{path}: {reply}");
        let reply = ask(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"));
        assert!(reply.starts_with("HTTP/1.1 405 ") && reply.contains("Allow: GET, HEAD"), "{path}: {reply}");
    }
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /feed HTTP/1.1\r\n\r\n", 400),
        ("GET /feed HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /feed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
    ] {
        assert!(ask(request).starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}");
    }
    let page = get(&monitor, "/");
    assert!(page.contains("<title>&lt;Poems&gt; &amp; more</title>") && !page.contains("{assets}"), "{page}");
    let field = |reply: &str, name: &str| {
        let line = reply.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name}: {reply}")).to_owned()
    };
    for file in page.split('"').filter(|part| part.starts_with("assets/")) {
        let reply = get(&monitor, &format!("/{file}"));
        assert!(field(&reply, "Cache-Control").contains("immutable"), "{file}");
        let again =
            format!("GET /{file} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {}\r\n\r\n", field(&reply, "Etag"));
        assert!(ask(&again).starts_with("HTTP/1.1 304 "), "{file}");
    }
}

#[test]
fn a_record_is_played_again() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("lesson.jsonl");
    let file = path.to_str().expect("text");
    let recorder = monitor(&["--record", file]);
    let mut source = Source::new(&recorder);
    let mut reader = Reader::new(&recorder, "/feed", "");
    for number in 0..5 {
        source.say(sample("red", &format!(r#", "number": {number}"#)));
    }
    reader.until("\"number\":4");
    assert_eq!(recorder.stop().code(), 0);
    let record = fs::read_to_string(&path).expect("a record");
    assert_eq!(record.lines().count(), 5);
    // With a line that is none, and one that is an hour later.
    let first: Value = serde_json::from_str(record.lines().next().expect("a line")).expect("JSON");
    let at = first["at"].as_i64().expect("a time");
    let later = sample("blue", &format!(r#", "at": {}"#, at + 3_600_000));
    fs::write(&path, format!("{record}nonsense\n{later}\n")).expect("written");
    let flags = ["-v", "--replay", file, "--speed", "1000000"];
    let player = Service::start(program("poetry-monitor").args(flags));
    let mut reader = Reader::new(&player, "/feed", "");
    reader.until("\"blue\"");
    let events: Vec<_> = reader.events().into_iter().filter(|event| !event.1.is_empty()).collect();
    assert_eq!((&events[0].2["at"], &events[0].2["number"]), (&at.into(), &0.into()));
    player.hear("Played all: 6 samples; 1 line that are none");
    for (text, why) in [("", "there is no sample in it"), ("x\n", "its first line is no sample: it is no JSON")] {
        fs::write(&path, text).expect("written");
        let finished = finish(program("poetry-monitor").args(["--replay", file]));
        assert_eq!((finished.code(), finished.stderr), (1, format!("poetry-monitor: cannot replay {file}: {why}\n")));
    }
}

#[test]
fn senders_of_the_book_are_heard_with_heartbeats_too() {
    const SENDER: &str = "\
import sys, time, zmq, datetime as dt
socket = zmq.Context().socket(zmq.PUB)
if sys.argv[3] == 'heartbeats':
    socket.setsockopt(zmq.HEARTBEAT_IVL, 50)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
socket.connect('tcp://localhost:' + sys.argv[1])
while True:
    socket.send_json(dict(color=sys.argv[2], timestamp=dt.datetime.now(tz=dt.timezone.utc).isoformat(), cpu=1.5, mem=12))
    time.sleep(0.05)
";
    let has_it = Command::new("python3").args(["-c", "import zmq"]).stderr(Stdio::null()).status();
    if !has_it.is_ok_and(|status| status.success()) {
        let _ = writeln!(io::stderr(), "skipped: there is no pyzmq");
        return;
    }
    let mut monitor = monitor(&[]);
    let port = monitor.addresses[1].port().to_string();
    let start = |color: &str, how: &str| {
        let child = Command::new("python3").args(["-c", SENDER, &port, color, how]).spawn();
        crate::harness::Theirs(child.expect("python3"))
    };
    let senders = [start("plain", "-"), start("beating", "heartbeats")];
    for _ in 0..3 {
        let mut reader = Reader::new(&monitor, "/feed", "");
        reader.until("\"plain\"");
        reader.until("\"beating\"");
        // The collector is killed, and comes again.
        monitor.signal(Signal::SIGKILL);
        let _ = monitor.finish();
        monitor = Service::start_several(program("poetry-monitor").args(["-v", "--collect", &port]), 2);
    }
    // And a sender.
    drop(senders);
    let mut reader = Reader::new(&monitor, "/feed", "");
    let _again = start("again", "-");
    reader.until("\"again\"");
}

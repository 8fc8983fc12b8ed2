//! Metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use regex_lite::Regex;

use super::{Place, ask, poem, poetryd, status, tasks, text};
use crate::harness::{Server, Service, eventually, fetch, read_some, reset};

/// The answer to a request on a connection of its own.
fn page(address: SocketAddr, request: &str) -> String {
    ask(address, &format!("{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

/// The samples of a page of metrics, which is in the Prometheus text format, version 0.0.4.
fn samples(address: SocketAddr) -> BTreeMap<String, u64> {
    let reply = page(address, "GET /metrics");
    let (head, page) = reply.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", page.len())), "{head}");
    assert!(page.ends_with('\n'));
    let sample = Regex::new(r#"^([a-z_]+)(?:\{[a-z_]+="[^"\\]*"(?:,[a-z_]+="[^"\\]*")*\})? ([0-9]+)$"#);
    let sample = sample.expect("a pattern");
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let (mut help, mut kind) = ("", ("", ""));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a sentence").0;
            assert!(families.insert(help), "{help} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.split_once(' ').expect("a type");
            assert_eq!(kind.0, help);
            assert_eq!(kind.1, if kind.0.ends_with("_total") { "counter" } else { "gauge" }, "{help}");
        } else {
            let found = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
            assert_eq!([help, kind.0], [&found[1]; 2], "{line}");
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let value = value.parse().expect("a number");
            assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    samples
}

#[test]
fn metrics_are_what_has_happened() {
    let place = Place::new();
    place.write(
        "script.toml",
        "[[connection]]\ntimes = 2\n[[connection]]\nfirst-byte-delay = \"1h\"\n[others]\ncut-at = 0\n",
    );
    let upstream = Server::poem("upstream's\n");
    let text = format!(
        "metrics = \"0\"\n[[fastpoetry]]\nfile = \"{}\"\nscript = \"script.toml\"\n\
        [[transformedpoetry]]\n[[poetry-proxy]]\nupstream = {}\n",
        poem(),
        upstream.port()
    );
    let config = place.write("poetry.toml", &text);
    let service = Service::start_several(&mut poetryd(&["--config", &config]), 4);
    assert!(service.line.lines().last().is_some_and(|line| line.starts_with("Metrics on 127.0.0.1:")));
    let [fast, transform, proxy, metrics] = service.addresses[..] else { panic!("four addresses") };
    let fast_labels = format!("service=\"fastpoetry\",address=\"{fast}\"");
    let now = |name: &str| samples(metrics)[name];

    for _ in 0..2 {
        assert_eq!(fetch(fast).expect("a poem"), self::text());
    }
    let silent = TcpStream::connect(fast).expect("a server");
    eventually("a third client", || now(&format!("poetry_clients_accepted_total{{{fast_labels}}}")) == 3);
    reset(silent);
    fetch(fast).expect_err("it is reset");
    for (request, reply) in [("9:shout.abc,", "3:ABC,"), ("09:shout.abc,", ""), ("8:sing.abc,", "")] {
        assert_eq!(ask(transform, request), reply);
    }
    for _ in 0..2 {
        assert_eq!(fetch(proxy).expect("a poem"), b"upstream's\n");
    }

    let mut expected = BTreeMap::new();
    let mut expect = |labels: &str, rest: &[(&str, &str, u64)]| {
        for (name, more, value) in rest {
            expected.insert(format!("poetry_{name}{{{labels}{more}}}"), *value);
        }
    };
    let poem = self::text().len() as u64;
    expect(
        &fast_labels,
        &[
            ("clients", "", 0),
            ("clients_accepted_total", "", 4),
            ("clients_ended_total", ",outcome=\"served\"", 3),
            ("clients_ended_total", ",outcome=\"lost\"", 1),
            ("cuts_total", ",how=\"fin\"", 0),
            ("cuts_total", ",how=\"rst\"", 1),
            ("cuts_total", ",how=\"hang\"", 0),
            ("sent_bytes_total", "", 2 * poem),
        ],
    );
    expect(
        &format!("service=\"transformedpoetry\",address=\"{transform}\""),
        &[
            ("clients", "", 0),
            ("clients_accepted_total", "", 3),
            ("clients_ended_total", ",outcome=\"served\"", 3),
            ("clients_ended_total", ",outcome=\"lost\"", 0),
            ("sent_bytes_total", "", 6),
            ("transform_requests_total", ",outcome=\"answered\"", 1),
            ("transform_requests_total", ",outcome=\"malformed\"", 1),
            ("transform_requests_total", ",outcome=\"no_name\"", 0),
            ("transform_requests_total", ",outcome=\"unknown\"", 1),
            ("transform_requests_total", ",outcome=\"refused\"", 0),
            ("transform_requests_total", ",outcome=\"silent\"", 0),
            ("transform_requests_total", ",outcome=\"slow\"", 0),
            ("transform_requests_total", ",outcome=\"failed\"", 0),
        ],
    );
    expect(
        &format!("service=\"poetry-proxy\",address=\"{proxy}\""),
        &[
            ("clients", "", 0),
            ("clients_accepted_total", "", 2),
            ("clients_ended_total", ",outcome=\"served\"", 2),
            ("clients_ended_total", ",outcome=\"lost\"", 0),
            ("sent_bytes_total", "", 22),
            ("proxy_answers_total", ",answer=\"hit\"", 1),
            ("proxy_answers_total", ",answer=\"miss\"", 1),
            ("proxy_answers_total", ",answer=\"join\"", 0),
            ("proxy_answers_total", ",answer=\"stale\"", 0),
            ("proxy_answers_total", ",answer=\"abort\"", 0),
            ("proxy_fetches_total", "", 1),
            ("proxy_fetches_ended_total", ",outcome=\"complete\"", 1),
            ("proxy_fetches_ended_total", ",outcome=\"failed\"", 0),
            ("proxy_fetches_ended_total", ",outcome=\"canceled\"", 0),
            ("proxy_let_go_total", "", 0),
            ("proxy_buffered_bytes", "", 11),
            ("proxy_cached_bytes", "", 11),
        ],
    );
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    expect(&version, &[("build_info", "", 1)]);
    // Who has left is counted before its place is free.
    eventually("no client that is left", || {
        samples(metrics).iter().all(|(name, value)| !name.starts_with("poetry_clients{") || *value == 0)
    });
    let mut found = samples(metrics);
    let started = found.remove("poetry_start_time_seconds").expect("a start");
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    assert!((seconds - 600..=seconds).contains(&started), "{started}");
    let scrapes = found.remove("poetry_scrapes_total").expect("a count");
    assert_eq!(now("poetry_scrapes_total"), scrapes + 1);
    assert_eq!(found, expected);
}

/// A request for the metrics with these fields, and what could be a body.
fn framed(fields: &str) -> String {
    format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

#[test]
fn an_idle_connection_to_a_page_does_not_hold_up_a_stop_and_a_name_is_ours_if_it_is_said() {
    let options = ["--metrics", "0", "--host-name", "poems.example", "transformedpoetry"];
    let service = Service::start_several(&mut poetryd(&options), 2);
    let metrics = service.addresses[1];
    let named =
        |name: &str| ask(metrics, &format!("GET /healthz HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"));
    assert!(named("poems.example:80").starts_with("HTTP/1.1 200 "));
    assert!(named("other.example").ends_with("call it by localhost, an IP address, or a --host-name\n"));
    let mut idle = TcpStream::connect(metrics).expect("a server");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut reply = [0; 1000];
    let read = crate::harness::read_some(&idle, &mut reply).expect("a reply");
    assert!(reply[..read].ends_with(b"ok\n"));
    let stop = Instant::now();
    assert_eq!(service.stop().code(), 0);
    assert!(stop.elapsed() < Duration::from_secs(2), "{:?}", stop.elapsed());
    assert_eq!(crate::harness::read_some(&idle, &mut reply), Ok(0), "the end of the stream");
}

#[test]
fn whoever_asks_for_metrics_in_another_way_disturbs_nobody() {
    let service = Service::start_several(&mut poetryd(&["--metrics", "0", "transformedpoetry"]), 2);
    let metrics = service.addresses[1];
    // They stay all the time.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(metrics).expect("a server")).collect();
    let head = page(metrics, "HEAD /metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, start) in [
        ("GET /metrics/x HTTP/1.0\r\n\r\n", "HTTP/1.0 404 "),
        ("GET /metrics HTTP/1.0\n\n", "HTTP/1.0 200 "),
        ("GET /metrics HTTP/1.1\nHost: localhost\nConnection: close\n\n", "HTTP/1.1 200 "),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 "),
        ("GET /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
        ("GET /metrics HTTP/2\r\n\r\n", "HTTP/1.1 400 "),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", "HTTP/1.1 403 "),
        ("9:shout.abc,\r\n\r\n", "HTTP/1.1 400 "),
        ("\0\u{7f}\n\n", "HTTP/1.1 400 "),
        (&"GET /metrics HTTP/1.1\r\nA: b\r\n".replace("A: b\r\n", &"A: b\r\n".repeat(101)), "HTTP/1.1 431 "),
        (&framed(&format!("A: {}\r\n", "b".repeat(70_000))), "HTTP/1.1 431 "),
        // What two programs could read in two ways.
        (&framed("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), "HTTP/1.1 400 "),
        (&framed("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), "HTTP/1.1 400 "),
        (&framed("Content-Length: 3\r\nContent-Length: 5\r\n"), "HTTP/1.1 400 "),
        (&framed("A: b\rc\r\n"), "HTTP/1.1 400 "),
        (&framed("A: b\r\n folded\r\n"), "HTTP/1.1 400 "),
        (&framed("A : b\r\n"), "HTTP/1.1 400 "),
    ] {
        let reply = ask(metrics, request);
        assert!(reply.starts_with(start) && reply.matches("HTTP/1.").count() == 1, "{request}: {reply}");
    }
    let index = page(metrics, "GET /");
    assert!(index.contains("<a href=\"/metrics\">") && index.contains("<a href=\"/healthz\">"), "{index}");
    // A connection is kept, and its requests are answered in order.
    let two = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n{}", framed("Connection: close\r\n"));
    let replies = ask(metrics, &two);
    assert_eq!(replies.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{replies}");
    let mut half = TcpStream::connect(metrics).expect("a server");
    half.write_all(b"GET /metr").expect("sent");
    reset(half);
    // HEAD, two forms of GET, and the second one of two.
    assert_eq!(samples(metrics)["poetry_scrapes_total"], 5);
    assert_eq!(ask(service.address, "9:shout.abc,"), "3:ABC,");
    drop(silent);
    assert_eq!(service.stop().code(), 0);
}

#[test]
fn health_is_asked_for_and_at_a_stop_it_is_over_while_clients_are_served() {
    let place = Place::new();
    let poem = place.write("poem", "a poem");
    let args = ["--metrics", "0", "fastpoetry", "--num-bytes", "1", "--delay", "1h", "--grace", "1h", &poem];
    let mut command = poetryd(&args);
    // The watchdog asks, too.
    command.env("NOTIFY_SOCKET", "/nowhere").env("WATCHDOG_USEC", "1000").env_remove("WATCHDOG_PID");
    let service = Service::start_several(command.arg("-q"), 2);
    let address = service.addresses[1];
    for _ in 0..20 {
        let reply = page(address, "GET /healthz");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\nok\n"), "{reply}");
        assert!(reply.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{reply}");
    }
    let head = page(address, "HEAD /healthz");
    assert!(head.contains("\r\nContent-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let other = page(address, "GET /health");
    assert!(other.starts_with("HTTP/1.1 404 ") && other.contains("/metrics") && other.contains("/healthz"), "{other}");
    let mut client = service.connect();
    client.read_exact(&mut [0]).expect("it is served");
    service.signal(Signal::SIGTERM);
    eventually("a stop", || page(address, "GET /healthz").starts_with("HTTP/1.1 503 "));
    assert!(page(address, "GET /healthz").ends_with("\r\n\r\nstopping\n"));
    service.signal(Signal::SIGTERM);
    assert_eq!(service.finish().code(), 0);
}

#[test]
fn the_page_of_metrics_has_its_time_to_stop_even_if_no_service_has() {
    let service = Service::start_several(&mut poetryd(&["--metrics", "0", "transformedpoetry", "--grace", "0"]), 2);
    let metrics = service.addresses[1];
    let mut half = TcpStream::connect(metrics).expect("a server");
    half.write_all(b"GET /metr").expect("sent");
    // When the second one is answered, the first one has been accepted.
    samples(metrics);
    let finished = service.stop();
    assert!(finished.stderr.contains(&format!("Stopped metrics on {metrics}: ")), "{finished:?}");
}

#[test]
fn idle_it_is_small_and_asleep() {
    let place = Place::new();
    let text = format!(
        "metrics = \"0\"\n[[fastpoetry]]\nfile = \"{}\"\n[[transformedpoetry]]\n[[poetry-proxy]]\nupstream = 1\n",
        poem()
    );
    let service = Service::start_several(&mut poetryd(&["--config", &place.write("poetry.toml", &text)]), 4);
    let [fast, transform, ..] = service.addresses[..] else { panic!("addresses") };
    assert_eq!(fetch(fast).expect("a poem"), self::text());
    assert_eq!(ask(transform, "9:shout.abc,"), "3:ABC,");
    let wakes = || -> u64 {
        let count = |task: &PathBuf| status(task, "voluntary_ctxt_switches")[0].parse::<u64>().expect("a number");
        tasks(service.pid()).iter().map(count).sum()
    };
    eventually("two seconds of peace", || {
        let (before, start) = (wakes(), Instant::now());
        while start.elapsed() < Duration::from_secs(2) {
            thread::park_timeout(Duration::from_secs(2));
        }
        wakes() == before
    });
    let process = PathBuf::from(format!("/proc/{}", service.pid()));
    // Of the pages of the program itself as many are resident as the kernel likes.
    let own: u64 = status(&process, "RssAnon")[0].parse().expect("kB");
    assert!(own < 3000, "{own} kB");
}

#[test]
fn a_head_of_a_request_for_a_page_has_ten_seconds() {
    let service = Service::start_several(&mut poetryd(&["--metrics", "0", "transformedpoetry"]), 2);
    let (mut trickle, start) = (TcpStream::connect(service.addresses[1]).expect("a server"), Instant::now());
    trickle.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    trickle.write_all(b"GET /").expect("sent");
    let mut byte = [0];
    while start.elapsed() < crate::harness::PATIENCE {
        match read_some(&trickle, &mut byte) {
            Err(std::io::ErrorKind::WouldBlock) => {}
            ended => {
                assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
                // It is told, unless the bytes that come after it reset the connection before.
                let mut rest = String::new();
                if ended == Ok(1) && trickle.read_to_string(&mut rest).is_ok() {
                    assert!(rest.starts_with("TTP/1.1 408 "), "{rest}");
                }
                return;
            }
        }
        let _ = trickle.write_all(b"a");
    }
    panic!("it goes on");
}

/// What was sent, times those who listened, is what was delivered and what was dropped, to the message.
#[test]
fn the_metrics_of_a_broker_add_up() {
    let frame = |payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[..], payload].concat()
    };
    let args = ["-v", "--metrics", "0", "poetry-broker", "--max-length", "10k", "--queue", "20k"];
    let service = Service::start_several(&mut poetryd(&args), 2);
    let metrics = service.addresses[1];
    let sum = |name: &str| {
        let name = format!("poetry_broker_{name}");
        let samples = samples(metrics);
        let of_it: Vec<u64> =
            samples.iter().filter(|(sample, _)| sample.starts_with(&name)).map(|(_, value)| *value).collect();
        assert!(!of_it.is_empty(), "{name}");
        of_it.into_iter().sum::<u64>()
    };
    // Two who do not read, and a queue that nobody takes from.
    let stalled = [(); 2].map(|()| {
        let mut stream = service.connect();
        stream.write_all(&frame(b"/topic/a")).expect("sent");
        service.hear("listens to /topic/a!");
        stream
    });
    let mut sender = service.connect();
    sender.write_all(&frame(b"/null")).expect("sent");
    for number in 0..1_000 {
        let channel: &[u8] = if number < 990 { b"/topic/a" } else { b"/queue/a" };
        sender.write_all(&[frame(channel), frame(&[0; 9_000])].concat()).expect("sent");
    }
    sender.write_all(&[frame(b"/topic/nobody"), frame(b"x")].concat()).expect("sent");
    sender.shutdown(std::net::Shutdown::Write).expect("connected");
    assert_eq!(read_some(&sender, &mut [0]), Ok(0));
    assert_eq!((sum("messages_total"), sum("unheard_total")), (1_001, 1));
    assert_eq!((sum("subscribers{"), sum("full_subscribers")), (2, 2));
    assert!(sum("held_bytes") >= 10 * 9_000);
    let dropped = sum("dropped_total");
    assert!(dropped > 1_000, "{dropped}");
    drop(stalled);
    eventually("they have left", || sum("subscribers{") == 0);
    assert_eq!(sum("delivered_total") + sum("dropped_total"), 2 * 990);
    assert_eq!(sum("full_subscribers"), 0);
}

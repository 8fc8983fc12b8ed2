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
use crate::harness::{Server, Service, eventually, fetch, reset};

/// The samples of a page of metrics, which is in the Prometheus text format, version 0.0.4.
fn samples(address: SocketAddr) -> BTreeMap<String, u64> {
    let reply = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
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

#[test]
fn whoever_asks_for_metrics_in_another_way_disturbs_nobody() {
    let service = Service::start_several(&mut poetryd(&["--metrics", "0", "transformedpoetry"]), 2);
    let metrics = service.addresses[1];
    // They stay all the time.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(metrics).expect("a server")).collect();
    let head = ask(metrics, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, start) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        ("GET /metrics/x HTTP/1.0\r\n\r\n", "HTTP/1.1 404 "),
        ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        ("9:shout.abc,\r\n\r\n", "HTTP/1.1 400 "),
        ("\0\u{7f}\n\n", "HTTP/1.1 400 "),
        (&"x".repeat(8 * 1024), "HTTP/1.1 400 "),
    ] {
        assert!(ask(metrics, request).starts_with(start), "{request}");
    }
    let mut half = TcpStream::connect(metrics).expect("a server");
    half.write_all(b"GET /metr").expect("sent");
    reset(half);
    assert_eq!(samples(metrics)["poetry_scrapes_total"], 2);
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
    let page = service.addresses[1];
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
    for _ in 0..20 {
        assert_eq!(ask(page, "GET /healthz HTTP/1.1\r\n\r\n"), format!("{head}ok\n"));
    }
    assert_eq!(ask(page, "HEAD /healthz HTTP/1.1\r\n\r\n"), head);
    let other = ask(page, "GET /health HTTP/1.1\r\n\r\n");
    assert!(other.starts_with("HTTP/1.1 404 ") && other.contains("/metrics") && other.contains("/healthz"), "{other}");
    let mut client = service.connect();
    client.read_exact(&mut [0]).expect("it is served");
    service.signal(Signal::SIGTERM);
    eventually("a stop", || ask(page, "GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503 "));
    assert!(ask(page, "GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nstopping\n"));
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

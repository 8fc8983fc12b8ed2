//! poetry-chaos as its users meet it: in front of servers of all kinds, with all that it does to connections.

mod ends;
mod http;
mod report;
mod script;
mod theirs;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::schema::violations;

use crate::harness::{
    PATIENCE, Running, Server, Service, fetch, finish, follow, poem_file, program, read_out, read_some, refusing_port,
    reset, run, send_whole,
};

/// A chaos proxy with these flags.
fn chaos(args: &[&str], upstream: &str) -> Service {
    Service::start(program("poetry-chaos").args(args).arg(upstream))
}

/// A server that says back what it is told, when it has been told all.
fn echo() -> Server {
    Server::start(|_, mut stream| {
        let mut said = Vec::new();
        if stream.read_to_end(&mut said).is_ok() {
            send_whole(stream, &said);
        }
    })
}

/// Says something to a server, and all of it, and returns what comes back.
fn ask(address: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = stream.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(move || said.write_all(request).and_then(|()| said.shutdown(Shutdown::Write)));
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply)?;
        Ok(reply)
    })
}

/// What becomes of a connection to this server.
fn outcome(address: SocketAddr, poem: &[u8]) -> &'static str {
    match fetch(address) {
        Ok(bytes) if bytes == poem => "whole",
        Ok(bytes) if bytes.len() == 1_000 => "garbage",
        Ok(_) => "something else",
        Err(_) => "reset",
    }
}

#[test]
fn what_is_not_disturbed_is_what_it_is_without_the_proxy() {
    let large: Vec<u8> = (0..20_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for poem in [&b""[..], b"\n", b"caf\xe9 \xff\xfe\0", &large] {
        let server = Server::poem(poem);
        for args in [&[][..], &["--behavior", "0:error,0:blackout"]] {
            let proxy = chaos(args, &server.port());
            assert!(fetch(proxy.address).expect("a poem") == poem, "{args:?}");
        }
    }
    // A reply that comes when the request is over, and as much up as down.
    let server = echo();
    let proxy = chaos(&[], &server.port());
    for request in [&b"q"[..], &large] {
        assert!(ask(proxy.address, request).expect("a reply") == request);
    }
}

#[test]
fn the_address_line_names_both_ends() {
    let server = echo();
    let proxy = chaos(&[], &server.port());
    let line = format!("Disturbing 127.0.0.1:{} on {}.\n", server.port(), proxy.address);
    assert_eq!(proxy.line, line);
}

#[test]
fn a_reset_of_upstream_comes_after_what_it_has_said() {
    for args in [&[][..], &["--rate", "10k"]] {
        let server = Server::start(|_, mut stream| {
            stream.write_all(&[b'x'; 100]).expect("sent");
            // When it is read, so that nothing is lost on the way to the proxy.
            let mut byte = [0];
            let _ = read_some(&stream, &mut byte);
            reset(stream);
        });
        let proxy = chaos(args, &server.port());
        let mut stream = proxy.connect();
        let mut bytes = [0; 100];
        stream.read_exact(&mut bytes).expect("a hundred bytes");
        stream.write_all(b"q").expect("sent");
        assert_eq!(read_some(&stream, &mut bytes), Err(io::ErrorKind::ConnectionReset), "{args:?}");
    }
}

#[test]
fn a_reset_right_after_the_last_word_is_no_end() {
    for args in [&[][..], &["--latency", "1ms"]] {
        let server = Server::start(|_, mut stream| {
            stream.write_all(&[b'x'; 100]).expect("sent");
            reset(stream);
        });
        let proxy = chaos(args, &server.port());
        for _ in 0..300 {
            let end = fetch(proxy.address).expect_err("a reset");
            assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "{args:?}");
        }
    }
}

#[test]
fn a_reset_of_the_client_is_one_for_upstream() {
    let ((has_it, it_has), (tell, told)) = (mpsc::channel(), mpsc::channel());
    let server = Server::start(move |_, stream| {
        assert_eq!(read_some(&stream, &mut [0]), Ok(1));
        has_it.send(()).expect("a test");
        tell.send(read_out(stream).map_err(|error| error.kind())).expect("a test");
    });
    let proxy = chaos(&[], &server.port());
    let mut stream = proxy.connect();
    stream.write_all(b"q").expect("sent");
    // So that the reset does not overtake it.
    it_has.recv_timeout(PATIENCE).expect("the byte is passed on");
    reset(stream);
    let end = told.recv_timeout(PATIENCE).expect("an end");
    assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn an_upstream_that_is_not_there_resets_its_clients_and_holds_up_nobody() {
    let (_held, port) = refusing_port();
    let proxy = chaos(&[], &port);
    for _ in 0..2 {
        assert_eq!(fetch(proxy.address).expect_err("no poem").kind(), io::ErrorKind::ConnectionReset);
    }
    proxy.hear(&format!("127.0.0.1:{port}: connection refused"));

    // One that does not answer: each waits for itself.
    let full = crate::harness::FullQueue::new();
    let proxy = chaos(&["--connect-timeout", "300ms", "--behavior", "50:error", "--seed", "1"], &full.port);
    let began = Instant::now();
    let outcomes: Vec<&str> = thread::scope(|scope| {
        let all: Vec<_> = (0..100).map(|_| scope.spawn(|| outcome(proxy.address, b""))).collect();
        all.into_iter().map(|one| one.join().expect("an outcome")).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "garbage").count(), 50);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "reset").count(), 50);
    assert!(began.elapsed() < 50 * Duration::from_millis(300), "side by side");
    proxy.hear("no connection for 300ms");
}

#[test]
fn of_every_hundred_exactly_as_many_are_disturbed_and_the_same_ones_again() {
    const CONNECTIONS: usize = 300;
    let server = Server::poem("a poem\n");
    let outcomes = |seed: &str| -> Vec<&'static str> {
        let proxy = chaos(&["-v", "--behavior", "25:error,50:blackout", "--seed", seed], &server.port());
        let outcomes = (0..CONNECTIONS).map(|_| outcome(proxy.address, b"a poem\n")).collect();
        proxy.signal(Signal::SIGUSR1);
        proxy.hear("Of 300 connections: 75 dummy, 75 error, 150 blackout");
        outcomes
    };
    let first = outcomes("7");
    for hundred in first.chunks(100) {
        let mut counts = BTreeMap::new();
        hundred.iter().for_each(|outcome| *counts.entry(*outcome).or_insert(0) += 1);
        assert_eq!(counts, BTreeMap::from([("garbage", 25), ("reset", 50), ("whole", 25)]));
    }
    assert_eq!(outcomes("7"), first);
    assert_ne!(outcomes("8"), first);
    let rehearsed =
        run("poetry-chaos", ["--rehearse", "300", "--behavior", "25:error,50:blackout", "--seed", "7", &server.port()]);
    let foretold: Vec<&str> = std::str::from_utf8(&rehearsed.stdout)
        .expect("text")
        .lines()
        .map(|line| match line.split(' ').nth(1) {
            Some("error") => "garbage",
            Some("blackout") => "reset",
            _ => "whole",
        })
        .collect();
    assert_eq!(foretold, first);
}

#[test]
fn each_behaviour_does_what_it_says() {
    let server = Server::poem("a poem\n");
    let timed = |args: &[&str]| {
        let proxy = chaos(args, &server.port());
        let began = Instant::now();
        (outcome(proxy.address, b"a poem\n"), began.elapsed())
    };
    for (flags, is_late) in [(&["--delay", "300ms"][..], true), (&["--delay", "300ms", "--delay-after"], true)] {
        let (outcome, took) = timed(&[&["--behavior", "100:delay"], flags].concat());
        assert_eq!((outcome, took >= Duration::from_millis(300)), ("whole", is_late), "{flags:?}: {took:?}");
    }
    assert_eq!(timed(&["--behaviour", "100:error"]).0, "garbage");
    assert_eq!(timed(&["--behavior", "100:blackout"]).0, "reset");
    assert_eq!(timed(&["--fail-first", "1"]).0, "reset");

    // The same bytes for the same seed, in the place of a poem, and in the middle of one.
    let garbage = |seed: &str, args: &[&str]| {
        let proxy = chaos(&[&["--behavior", "100:error", "--seed", seed], args].concat(), &server.port());
        fetch(proxy.address).expect("an end")
    };
    assert!(garbage("1", &[]) == garbage("1", &[]) && garbage("1", &[]) != garbage("2", &[]));
    let injected = garbage("1", &["--inject"]);
    assert_eq!((injected.len(), &injected[..7]), (107, &b"a poem\n"[..]));

    let proxy = chaos(&["--behavior", "100:transient", "--transient", "2"], &server.port());
    let outcomes: Vec<&str> = (0..4).map(|_| outcome(proxy.address, b"a poem\n")).collect();
    assert_eq!(outcomes, ["garbage", "garbage", "whole", "whole"]);

    // Nothing is ever said, whatever the client says, and a stop ends it.
    let proxy = chaos(&["--behavior", "100:hang"], &server.port());
    let mut stream = proxy.connect();
    stream.write_all(&vec![b'x'; 5_000_000]).expect("it is read");
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    assert!(matches!(read_some(&stream, &mut [0]), Err(io::ErrorKind::WouldBlock)));
    proxy.signal(Signal::SIGTERM);
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    assert_eq!(read_some(&stream, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(proxy.finish().code(), 0);
}

#[test]
fn an_abort_reaches_upstream_and_then_both_are_reset() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |_, mut stream| {
        let mut request = [0; 7];
        let read = stream.read_exact(&mut request).map(|()| request);
        let end = read_some(&stream, &mut [0]);
        tell.send((read.expect("a request"), end)).expect("a test");
    });
    let proxy = chaos(&["--behavior", "100:abort"], &server.port());
    let mut stream = proxy.connect();
    stream.write_all(b"request").expect("sent");
    assert_eq!(read_some(&stream, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    let (request, end) = told.recv_timeout(PATIENCE).expect("an end");
    assert_eq!((&request, end), (b"request", Err(io::ErrorKind::ConnectionReset)));
}

#[test]
fn a_pace_and_a_cut_are_for_the_direction_that_was_said() {
    let poem = vec![b'x'; 3_000];
    let server = Server::poem(poem.clone());
    let took = |args: &[&str]| {
        let proxy = chaos(args, &server.port());
        let began = Instant::now();
        let fetched = fetch(proxy.address);
        (fetched.map(|bytes| bytes.len()).map_err(|error| error.kind()), began.elapsed())
    };
    // A rate has its pause before the end, too.
    let (fetched, time) = took(&["--rate", "10k"]);
    assert!(fetched == Ok(3_000) && time >= Duration::from_millis(300), "{fetched:?} {time:?}");
    let (fetched, time) = took(&["--num-bytes", "1k", "--pace", "150ms"]);
    assert!(fetched == Ok(3_000) && time >= Duration::from_millis(300), "{fetched:?} {time:?}");
    let (fetched, time) = took(&["--first-byte-delay", "300ms"]);
    assert!(fetched == Ok(3_000) && time >= Duration::from_millis(300), "{fetched:?} {time:?}");
    assert_eq!(took(&["--cut-at", "100", "--cut", "fin"]).0, Ok(100));
    assert_eq!(took(&["--cut-at", "100"]).0, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(took(&["--cut-at", "100ms", "--pace", "1s", "--num-bytes", "1"]).0, Err(io::ErrorKind::ConnectionReset));

    // Up: what upstream gets is counted, and what it says is not touched.
    let server = echo();
    let proxy = chaos(&["--rate", "10k", "--direction", "up"], &server.port());
    let began = Instant::now();
    assert_eq!(ask(proxy.address, &poem).expect("a reply"), poem);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let proxy = chaos(&["--cut-at", "100", "--direction", "up"], &server.port());
    assert_eq!(ask(proxy.address, &poem).expect_err("cut").kind(), io::ErrorKind::ConnectionReset);
    // What looks like all to upstream is answered.
    let proxy = chaos(&["--cut-at", "100", "--cut", "fin", "--direction", "up"], &server.port());
    let mut stream = proxy.connect();
    stream.write_all(&poem[..100]).expect("sent");
    assert_eq!(read_out(stream).expect("a reply"), poem[..100]);
}

#[test]
fn the_time_of_a_cut_counts_from_when_a_late_one_is_passed_on() {
    const TIME: Duration = Duration::from_millis(300);
    let server = Server::start(|_, stream| drop(read_out(stream)));
    let flags = ["--behavior", "100:delay", "--delay", "300ms", "--cut-at", "300ms"];
    for (protocol, said) in [("tcp", "x"), ("http", "GET / HTTP/1.1\r\nHost: h\r\n\r\n")] {
        let proxy = chaos(&[&flags[..], &["--protocol", protocol]].concat(), &server.port());
        let (began, mut stream) = (Instant::now(), proxy.connect());
        stream.write_all(said.as_bytes()).expect("sent");
        assert_eq!(read_some(&stream, &mut [0]), Err(io::ErrorKind::ConnectionReset), "{protocol}");
        assert!(began.elapsed() >= 2 * TIME, "{protocol}: {:?}", began.elapsed());
    }
}

#[test]
fn a_reader_that_leaves_ends_a_rehearsal_quietly() {
    let (reader, writer) = UnixStream::pair().expect("a pair");
    let mut command = program("poetry-chaos");
    command.args(["--rehearse", &u64::MAX.to_string(), "--behavior", "50:error", "--seed", "1", "1"]);
    command.stdout(OwnedFd::from(writer)).stderr(Stdio::piped());
    let running = Running::start_as_is(&mut command);
    // What holds the other end here would read all that is ever said.
    drop(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).expect("a line");
    assert!(line.starts_with("1 "), "{line}");
    let finished = running.finish();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
}

#[test]
fn latency_makes_everything_late_and_nothing_slow() {
    const LATE: Duration = Duration::from_millis(300);
    let poem: Vec<u8> = (0..40_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let server = Server::poem(poem.clone());
    for args in [&["--latency", "300ms"][..], &["--latency", "300ms", "--jitter", "100ms", "--seed", "1"]] {
        let proxy = chaos(args, &server.port());
        let began = Instant::now();
        assert!(fetch(proxy.address).expect("a poem") == poem, "{args:?}: in order");
        let took = began.elapsed();
        // If what can be under way were one piece, it would be hundreds of times that.
        assert!(took >= LATE - Duration::from_millis(100) && took < 20 * LATE, "{args:?}: {took:?}");
    }
    // Both ways, and without more than its own buffer.
    let server = echo();
    let proxy = chaos(&["--latency", "100ms", "--direction", "both", "--buffer", "0"], &server.port());
    let began = Instant::now();
    assert!(ask(proxy.address, &poem[..1_000_000]).expect("a reply") == poem[..1_000_000]);
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[test]
fn one_bit_in_so_many_bytes_is_another_one_and_the_same_again() {
    let zeros = vec![0; 10_000];
    let server = Server::poem(zeros);
    let corrupted = |seed: &str| {
        let proxy = chaos(&["--corrupt", "100", "--seed", seed], &server.port());
        fetch(proxy.address).expect("all of it")
    };
    let first = corrupted("1");
    assert_eq!(first.iter().map(|byte| byte.count_ones()).sum::<u32>(), 100);
    assert!(first == corrupted("1") && first != corrupted("2"));
}

#[test]
fn a_client_that_takes_nothing_is_let_go_and_upstream_is_reset() {
    let server = Server::start(|_, mut stream| {
        let piece = vec![b'x'; 1 << 20];
        while stream.write_all(&piece).is_ok() {}
    });
    let proxy = chaos(&["--write-timeout", "500ms"], &server.port());
    let _stream = proxy.connect();
    proxy.hear("it took nothing for 500ms");
}

#[test]
fn every_connection_has_a_line_and_metrics_count_behaviours() {
    let server = Server::poem("a poem\n");
    let proxy = chaos(&["-v", "--behavior", "100:delay", "--delay", "10ms"], &server.port());
    fetch(proxy.address).expect("a poem");
    let line = proxy.hear("Connection 1, ");
    assert!(line.contains(": delay, 0 bytes up, 7 down in ") && line.ends_with(", FIN"), "{line}");
    assert_eq!(proxy.stop().code(), 0);
}

#[test]
fn what_a_real_server_did_is_recorded_and_can_be_had_again() {
    let place = tempfile::tempdir().expect("a directory");
    let (file, poem) = (place.path().join("real.jsonl"), place.path().join("poem"));
    std::fs::write(&poem, b"0123456789").expect("written");
    let server = Server::start(|number, mut stream| {
        stream.write_all(b"0123").expect("sent");
        thread::park_timeout(Duration::from_millis(200));
        match number {
            0 => send_whole(stream, b"456789"),
            _ => reset(stream),
        }
    });
    let proxy = chaos(&["--record", file.to_str().expect("UTF-8")], &server.port());
    assert_eq!(fetch(proxy.address).expect("a poem"), b"0123456789");
    assert_eq!(fetch(proxy.address).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(proxy.stop().code(), 0);
    let text = std::fs::read_to_string(&file).expect("a recording");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(events.iter().all(|event| violations("recording.schema.json", event).is_empty()), "{text}");
    let of = |number: u64| -> Vec<String> {
        let of_it = events.iter().filter(|event| event["connection"] == number && event["event"] != "left");
        of_it.map(|event| format!("{} {}", event["event"].as_str().expect("a word"), event["bytes"])).collect()
    };
    assert_eq!(of(1), ["accept null", "send 4", "send 6", "fin null"]);
    assert_eq!(of(2), ["accept null", "send 4", "rst null"]);
    let again = Service::fast(&poem, ["--replay", file.to_str().expect("UTF-8")]);
    let began = Instant::now();
    assert_eq!(again.fetch().expect("a poem"), b"0123456789");
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert!(again.fetch().is_err());
}

#[test]
fn bad_words_are_explained() {
    for (args, complaint) in [
        (&["--behavior", "25", "1"][..], "'25' is no SHARE:BEHAVIOUR, as in 25:error"),
        (&["--behavior", "25:eror", "1"], "there is no behaviour 'eror'; a similar one is 'error'"),
        (&["--behavior", "51:error,50:delay", "1"], "the shares come to 101, and there are a hundred"),
        (&["--behavior", "-5:error", "1"], "'-5:error': a share is a whole number from 0 to 100"),
        (&["--behavior", "1:error,2:error", "1"], "'error' is there twice"),
        (&["--direction", "up", "1"], "--direction is about pace, latency, cuts and corruption, and none is given"),
        (&["--error-status", "200", "1"], "'200' is no status of an error: a number from 400 to 599"),
        (&["--error-status", "500", "1"], "--error-status is for --protocol http"),
        (&["--protocol", "http", "--inject", "1"], "--inject is for --protocol tcp"),
        (&["--rewrite-host", "1"], "--rewrite-host is for --protocol http"),
        (&["--never-accept", "--behavior", "1:error", "1"], "cannot be used with"),
        (&["--port", "10000", "10000"], "127.0.0.1:10000 is this proxy itself, and no upstream"),
        (&["--jitter", "1s", "1"], "there is no delay that jitter could vary"),
        (&[], "<UPSTREAM> is missing"),
    ] {
        let finished = run("poetry-chaos", args);
        assert_eq!(finished.code(), 2, "{args:?}: {finished:?}");
        assert!(finished.complaint().contains(complaint), "{args:?}: {finished:?}");
    }
}

#[test]
fn nobody_is_accepted_if_that_was_asked_for() {
    let proxy = chaos(&["--never-accept"], "1");
    let error = TcpStream::connect_timeout(&proxy.address, Duration::from_millis(300)).expect_err("no answer");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(proxy.stop().code(), 0);
}

#[test]
fn killed_it_leaves_nothing_behind() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |_, mut stream| {
        stream.write_all(b"word").expect("sent");
        tell.send(read_some(&stream, &mut [0])).expect("a test");
    });
    let proxy = chaos(&["--behavior", "0:error", "--latency", "1ms"], &server.port());
    let mut stream = proxy.connect();
    stream.read_exact(&mut [0; 4]).expect("a word");
    let address = proxy.address;
    proxy.signal(Signal::SIGKILL);
    // The kernel ends what it had: never as if all had been said.
    assert_eq!(read_some(&stream, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    assert!(told.recv_timeout(PATIENCE).expect("an end").map_or(true, |bytes| bytes == 0));
    proxy.finish();
    drop(TcpListener::bind(address).expect("the port is free"));
    let again = chaos(&["--port", &address.port().to_string()], &server.port());
    again.connect().read_exact(&mut [0; 4]).expect("a word");
}

/// What a client has got, and how that ended.
fn talk(address: SocketAddr, kind: u8) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut stream = TcpStream::connect(address).expect("a server");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream.write_all(&[kind]).expect("sent");
    let mut heard = vec![0; 100];
    let mut end = stream.read_exact(&mut heard).map_err(|error| error.kind());
    if end.is_ok() {
        // It is told that all has arrived; one kind waits for the end, too.
        stream.write_all(b"!").expect("sent");
        if kind == 2 {
            stream.shutdown(Shutdown::Write).expect("half-closed");
        }
        end = stream.read_to_end(&mut heard).map(drop).map_err(|error| error.kind());
    }
    (heard, end)
}

#[test]
fn ten_thousand_connections_that_are_not_disturbed_end_as_without_a_proxy() {
    const CONNECTIONS: usize = 10_000;
    let server = Server::start(|_, mut stream| {
        let mut kind = [0];
        stream.read_exact(&mut kind).expect("a kind");
        stream.write_all(&[kind[0]; 100]).expect("sent");
        stream.read_exact(&mut [0]).expect("it has arrived");
        match kind[0] % 3 {
            0 => drop(stream),
            1 => reset(stream),
            // All that is said comes first.
            _ => {
                let _ = read_out(stream.try_clone().expect("a socket"));
                send_whole(stream, &[kind[0]; 1_000]);
            }
        }
    });
    let proxy = chaos(&["--behavior", "0:error,0:blackout,0:hang"], &server.port());
    let direct: Vec<_> = (0..3).map(|kind| talk(server.address, kind)).collect();
    assert_eq!(direct[1].1, Err(io::ErrorKind::ConnectionReset));
    thread::scope(|scope| {
        for worker in 0..8 {
            let (direct, address) = (&direct, proxy.address);
            scope.spawn(move || {
                for number in (worker..CONNECTIONS).step_by(8) {
                    let kind = u8::try_from(number % 3).expect("small");
                    assert!(talk(address, kind) == direct[usize::from(kind)], "connection {number}");
                }
            });
        }
    });
}

#[test]
fn all_clients_see_their_poems_through_it_and_how_they_end() {
    let server = Service::fast(&poem_file("ecstasy.txt"), ["-q"]);
    let poem = std::fs::read(poem_file("ecstasy.txt")).expect("the poem");
    let proxy = chaos(&["--behavior", "50:blackout", "--seed", "3"], &server.port());
    for client in crate::harness::CLIENTS {
        let mut command = program(client);
        let finished = finish(command.args(["-q", "--retries", "20", &proxy.port(), &proxy.port()]));
        assert!(finished.code() == 0 && finished.stdout == poem.repeat(2), "{client}: {}", finished.stderr);
    }
}

#[test]
fn the_page_about_it_shows_what_is_seen() {
    follow("chaos.md", 14);
}

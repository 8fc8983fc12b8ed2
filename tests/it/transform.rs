//! transformedpoetry, and the clients that send poems through it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use poetry_suite::cli::open_files;
use poetry_suite::proto::netstring::Outgoing;
use poetry_suite::transforms;
use serde_json::Value;

use crate::harness::{
    CLIENTS, LIMIT, PATIENCE, Server, Service, contents, finish, program, read_out, read_some, refusing_port, reset,
    run, send_whole, with_every_client,
};

const NO_ARGS: [&str; 0] = [];

fn netstring(payload: impl AsRef<[u8]>) -> Vec<u8> {
    Outgoing::new(payload).unsent().map(|part| part.to_vec()).concat()
}

/// A request for a transform of a poem.
fn request(name: &str, poem: impl AsRef<[u8]>) -> Vec<u8> {
    netstring([name.as_bytes(), b".", poem.as_ref()].concat())
}

/// Everything a server replies to these bytes.
fn ask(server: &Service, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut client = server.connect();
    client.write_all(bytes)?;
    read_out(client)
}

#[test]
fn the_request_of_the_tutorial_has_the_reply_of_the_tutorial() {
    let server = Service::transform(NO_ARGS);
    assert!(server.line.starts_with("Serving transforms on 127.0.0.1:"), "{}", server.line);
    assert_eq!(ask(&server, b"27:cummingsify.HERE IS MY POEM,").expect("a reply"), b"15:here is my poem,");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/transform-test.sh");
    let finished = finish(Command::new(script).arg(server.port()));
    assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"15:here is my poem,\n"[..]), "{finished:?}");
    let finished = finish(Command::new(script).args([&server.port(), "gibberish"]));
    assert_eq!(finished.code(), 1, "{finished:?}");
}

#[test]
fn every_transform_is_listed_and_served() {
    let listed = String::from_utf8(run("transformedpoetry", ["--list"]).stdout).expect("UTF-8");
    assert_eq!(listed.lines().count(), transforms::ALL.len());
    let server = Service::transform(NO_ARGS);
    for (line, transform) in listed.lines().zip(transforms::ALL) {
        assert!(line.starts_with(transform.name) && line.ends_with(transform.about), "{line}");
        let expected = transform.apply(b"A poem\n").map(netstring).unwrap_or_default();
        assert_eq!(ask(&server, &request(transform.name, "A poem\n")).expect("a reply, or none"), expected);
    }
}

#[test]
fn poems_of_any_bytes_are_changed() {
    let server = Service::transform(["--max-size", "2MiB"]);
    let every: Vec<u8> = (0..=255).collect();
    let long = "É, Д и ещё. ".repeat(1 << 16);
    let poems: [&[u8]; 6] = [b"", b".", b"a.b..c,:5:", &every, long.as_bytes(), &vec![b'A'; 1 << 20]];
    for name in ["cummingsify", "rot13", "reverse-lines"] {
        let transform = transforms::find(name.as_bytes()).expect(name);
        for poem in poems {
            let reply = ask(&server, &request(name, poem)).expect("a reply");
            assert!(reply == netstring(transform.apply(poem).expect("not refused")), "{name} of {} bytes", poem.len());
        }
    }
    assert_eq!(ask(&server, &request("cummingsify", "ÉД")).expect("a reply"), netstring("éд"));
}

#[test]
fn what_cannot_be_answered_is_not_and_the_log_says_why() {
    let server = Service::transform(["--max-length", "100"]);
    let too_long = netstring([b'x'; 101]);
    let half = b"9:shout.ab";
    for (bytes, why) in [
        (&b"010:shout.abcd,"[..], "byte 1: a zero before the length"),
        (b"-1:", "byte 0: '-' in the length"),
        (b" 7:shout.a,", "byte 0: ' ' in the length"),
        (b"shout.a", "byte 0: 's' in the length"),
        (b"7:shout.ab", "byte 9: 'b' where the payload should end with ','"),
        (b"99999999999:", "byte 2: longer than 100 bytes"),
        (b"123456789012345678901234567890:", "byte 2: longer than 100 bytes"),
        (&too_long, "byte 2: longer than 100 bytes"),
        (b"5:shout,", "no '.' after the name of a transform"),
        (b"2:.a,", "no transform is called ''"),
        (b"6:sing.a,", "no transform is called 'sing'"),
        (b"11:gibberish.a,", "gibberish refuses the poem: it is gibberish"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "byte 0: 'G' in the length"),
        (half, "byte 10: the stream ends within a netstring"),
    ] {
        let mut client = server.connect();
        client.write_all(bytes).expect("sent");
        client.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!(read_out(client).expect("closed, not reset"), b"", "{}", bytes.escape_ascii());
        server.hear(why);
    }
    let whole = netstring([b"shout.".to_vec(), vec![b'x'; 94]].concat());
    assert_eq!(ask(&server, &whole).expect("a reply").len(), 94 + 4, "the limit itself is allowed");
}

#[test]
fn a_half_closed_client_still_gets_its_reply() {
    for options in [&[][..], &["--keep-alive"]] {
        let server = Service::transform(options);
        for length in [6, 500_000] {
            let mut client = server.connect();
            client.write_all(&request("shout", vec![b'a'; length])).expect("sent");
            client.shutdown(Shutdown::Write).expect("half closed");
            assert!(read_out(client).expect("a reply") == netstring(vec![b'A'; length]), "{length}");
        }
    }
}

#[test]
fn a_request_may_take_its_time_and_others_do_not_wait_for_it() {
    open_files::raise_limit();
    let server = Service::transform(NO_ARGS);
    let mut slow = server.connect();
    slow.set_nodelay(true).expect("no delay");
    let bytes = request("shout", "slowly");
    let crowd: Vec<TcpStream> = (0..500).map(|_| server.connect()).collect();
    let mut crowd = crowd.into_iter();
    for byte in &bytes {
        slow.write_all(&[*byte]).expect("sent");
        for mut client in crowd.by_ref().take(500usize.div_ceil(bytes.len())) {
            client.write_all(&request("rot13", "uryyb")).expect("sent");
            assert_eq!(read_out(client).expect("a reply"), b"5:hello,");
        }
    }
    assert_eq!(crowd.len(), 0);
    assert_eq!(read_out(slow).expect("a reply"), b"6:SLOWLY,");
}

#[test]
fn a_long_transform_delays_no_short_one() {
    let server = Service::transform(["--max-size", "16MiB"]);
    let long = request("number-lines", vec![b'\n'; 4 << 20]);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut long_ones: Vec<TcpStream> = (0..processors + 2).map(|_| server.connect()).collect();
    for client in &mut long_ones {
        client.write_all(&long).expect("sent");
    }
    for _ in 0..20 {
        assert_eq!(ask(&server, &request("shout", "quick")).expect("a reply"), b"5:QUICK,");
    }
    let last = long_ones.last().expect("a client");
    last.set_nonblocking(true).expect("non-blocking");
    let early = (&mut { last }).read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(io::ErrorKind::WouldBlock), "the long ones are still at work");
    last.set_nonblocking(false).expect("blocking");
    for client in long_ones {
        assert_eq!(read_out(client).expect("a reply").last(), Some(&b','));
    }
}

#[test]
fn at_a_stop_idle_clients_get_the_end_of_the_stream_and_requests_under_way_their_reply() {
    for options in [&[][..], &["--keep-alive"]] {
        let server = Service::transform([options, &["-v", "--grace", "1h"]].concat());
        let idle: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
        let mut asking = server.connect();
        let address = |client: &TcpStream| format!("Somebody at {} wants", client.local_addr().expect("an address"));
        let known: Vec<String> = idle.iter().chain([&asking]).map(address).collect();
        server.hear_all(&known.iter().map(String::as_str).collect::<Vec<_>>());
        let asked = if options.is_empty() { 0 } else { 50 };
        for mut client in &idle[..asked] {
            client.write_all(&request("shout", "a poem")).expect("sent");
            let mut reply = [0; 9];
            client.read_exact(&mut reply).expect("a reply");
            assert_eq!(&reply, b"6:A POEM,");
        }
        asking.write_all(b"12:shout.").expect("sent");
        server.signal(Signal::SIGTERM);
        // They do not close their side before the server has.
        for client in &idle {
            assert_eq!(read_out(client.try_clone().expect("a socket")).expect("no reset"), b"");
        }
        asking.write_all(b"a poem,").expect("sent");
        assert_eq!(read_out(asking).expect("no reset"), netstring("A POEM"));
        let finished = server.finish();
        assert_eq!(finished.code(), 0, "{finished:?}");
        let stopped = "Stopped: 101 clients served, 0 lost, 0 of them reset at the end";
        assert!(finished.stderr.contains(stopped), "{finished:?}");
    }
}

#[test]
fn without_keep_alive_there_is_one_reply() {
    let server = Service::transform(NO_ARGS);
    let two = [request("shout", "one"), request("shout", "two")].concat();
    assert_eq!(ask(&server, &two).expect("a reply"), b"3:ONE,");
}

#[test]
fn kept_alive_a_connection_has_a_reply_for_each_request_in_order() {
    let server = Service::transform(["--keep-alive"]);
    let mut client = server.connect();
    for poem in ["one", "", "three"] {
        client.write_all(&request("shout", poem)).expect("sent");
        let expected = netstring(poem.to_uppercase());
        let mut reply = vec![0; expected.len()];
        client.read_exact(&mut reply).expect("a reply");
        assert_eq!(reply, expected);
    }
    // Many at once, a long one among them, and cut where it suits nobody.
    let poems: Vec<String> = (0..300).map(|n| format!("poem {n}").repeat(if n == 150 { 30_000 } else { 1 })).collect();
    let requests: Vec<u8> = poems.iter().flat_map(|poem| request("shout", poem)).collect();
    let expected: Vec<u8> = poems.iter().flat_map(|poem| netstring(poem.to_uppercase())).collect();
    thread::scope(|scope| {
        let mut sending = client.try_clone().expect("a socket");
        scope.spawn(move || {
            for piece in requests.chunks(997) {
                sending.write_all(piece).expect("sent");
            }
            sending.shutdown(Shutdown::Write).expect("half closed");
        });
        assert!(read_out(client).expect("replies") == expected);
    });
}

#[test]
fn a_silent_client_is_let_go() {
    let server = Service::transform(["--idle-timeout", LIMIT, "--keep-alive"]);
    let cases: [(&[u8], &[u8]); 3] =
        [(b"", b""), (&request("shout", "a poem"), b"6:A POEM,"), (b"1000:announced, and nothing", b"")];
    let clients = cases.map(|(said, reply)| {
        let mut client = server.connect();
        client.write_all(said).expect("sent");
        (client, reply)
    });
    for (client, reply) in clients {
        assert_eq!(read_out(client).expect("closed"), reply);
    }
    server.hear("silent for 2s within a request");
}

#[test]
fn a_byte_now_and_then_does_not_make_a_request_last_for_ever() {
    let server = Service::transform(["--keep-alive", "--idle-timeout", "0", "--request-timeout", "200ms"]);
    for first in [netstring("shout.a poem"), Vec::new()] {
        let mut client = server.connect();
        client.write_all(&first).expect("sent");
        if !first.is_empty() {
            client.read_exact(&mut [0; 9]).expect("a reply");
        }
        client.write_all(b"900000:shout.").expect("sent");
        client.set_read_timeout(Some(Duration::from_millis(10))).expect("set");
        let start = Instant::now();
        let end = loop {
            assert!(start.elapsed() < PATIENCE, "it goes on and on");
            match read_some(&client, &mut [0]) {
                // Until its end is seen, the server reads.
                Err(io::ErrorKind::WouldBlock) => drop(client.write_all(b"x")),
                end => break end,
            }
        };
        assert!(matches!(end, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{end:?}");
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
        server.hear(": not whole 200ms after its first byte");
    }
    assert_eq!(server.stop().code(), 0);
}

#[test]
fn a_client_that_never_reads_its_reply_is_dropped() {
    let server = Service::transform(["--write-timeout", "200ms", "--max-size", "64MiB"]);
    let mut client = server.connect();
    client.write_all(&request("shout", vec![b'x'; 32 << 20])).expect("sent");
    server.hear("it took nothing for 200ms");
    assert_eq!(read_out(client).expect_err("cut").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(ask(&server, &request("shout", "others")).expect("a reply"), b"6:OTHERS,");
}

/// What a client makes of a poem with this transform at this address.
fn through(client: &str, options: &[&str], name: &str, via: &str, poem: &str) -> crate::harness::Finished {
    run(client, [options, &["--transform", name, "--via", via, poem]].concat())
}

#[test]
fn every_client_sends_poems_through_a_transform() {
    let via = Service::transform(["--max-size", "8MiB"]);
    let every: Vec<u8> = (0..=255).collect();
    let long = "LONG\r\n".repeat(1_000_000);
    for poem in [&b""[..], b"A POEM.\n", &every, long.as_bytes()] {
        let server = Server::poem(poem);
        let expected = transforms::find(b"cummingsify").expect("found").apply(poem).expect("not refused");
        for client in CLIENTS {
            for options in [&[][..], &["--ordered"]] {
                let finished = through(client, options, "cummingsify", &via.port(), &server.port());
                assert_eq!(finished.code(), 0, "{finished:?}");
                assert!(finished.stdout == expected, "{client}: {} bytes", poem.len());
            }
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().to_str().expect("UTF-8");
            assert_eq!(through(client, &["-o", path], "cummingsify", &via.port(), &server.port()).code(), 0);
            assert!(contents(directory.path())[0].1 == expected, "{client}: {} bytes", poem.len());
        }
    }
}

#[test]
fn a_server_that_keeps_alive_has_said_enough_with_its_reply() {
    let via = Service::transform(["--keep-alive", "--idle-timeout", "0"]);
    let server = Server::poem("A POEM\n");
    for client in CLIENTS {
        let finished = through(client, &["-q"], "cummingsify", &format!("localhost:{}", via.port()), &server.port());
        assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poem\n"[..]), "{finished:?}");
    }
}

#[test]
fn a_transform_that_fails_in_any_way_leaves_the_poem_as_it_was() {
    let poem = "The Poem\n".repeat(100_000);
    let server = Server::poem(&poem[..]);
    let (_held, refusing) = refusing_port();
    let hears = |stream: &mut TcpStream| stream.read_exact(&mut vec![0; 900_000]).expect("a request");
    let silent = Server::start(|_, stream| drop(read_out(stream)));
    let resets = Server::start(|_, stream| reset(stream));
    let closes = Server::start(move |_, mut stream| {
        hears(&mut stream);
        send_whole(stream, b"");
    });
    let breaks_off = Server::start(move |_, mut stream| {
        hears(&mut stream);
        send_whole(stream, b"900000:the poem\n");
    });
    let babbles = Server::start(move |_, mut stream| {
        hears(&mut stream);
        send_whole(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let boasts = Server::start(move |_, mut stream| {
        hears(&mut stream);
        send_whole(stream, b"99999999999999999999999:");
    });
    let cases = [
        (refusing, "connection refused", "refused"),
        (silent.port(), "no byte for 2s", "timeout"),
        (resets.port(), "", "reset"),
        (closes.port(), "no reply", "error"),
        (breaks_off.port(), "the reply breaks off", "error"),
        (babbles.port(), "malformed reply: byte 0: 'H' in the length", "error"),
        (boasts.port(), "malformed reply: byte 7: longer than 67108864 bytes", "error"),
        ("name.invalid:1".to_owned(), "cannot resolve the name", "unreachable"),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    with_every_client(|client| {
        let report = directory.path().join(client);
        for (via, why, status) in &cases {
            let options = ["-q", "--idle-timeout", LIMIT, "--report", report.to_str().expect("UTF-8")];
            let finished = through(client, &options, "shout", via, &server.port());
            assert_eq!(finished.code(), 0, "{finished:?}");
            assert!(finished.stdout == poem.as_bytes(), "{client} {why}");
            let line = finished.complaint();
            assert!(line.starts_with("Task 1: shout failed: ") && line.contains(why), "{client}: {line}");
            assert!(line.ends_with("; keeping the poem as it was"), "{line}");
            let report: Value = serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("JSON");
            assert_eq!(crate::schema::violations("report.schema.json", &report), [""; 0]);
            let task = &report["tasks"][0];
            assert_eq!((&task["status"], &task["bytes"]), (&"ok".into(), &poem.len().into()), "{client} {why}");
            let told = task["transform"]["status"].as_str().expect("a status");
            // Where it is reset decides whether it is noticed in sending or in reading.
            assert!(told == *status || (*status == "reset" && told == "error"), "{client} {why}: {task}");
        }
    });
}

#[test]
fn a_transform_server_that_does_not_listen_is_not_waited_for() {
    // More than the sockets' buffers hold.
    let poem = vec![b'x'; 20 << 20];
    let server = Server::poem(&poem[..]);
    let held = Mutex::new(Vec::new());
    let deaf = Server::start(move |_, stream| held.lock().expect("lock").push(stream));
    let (via, from, poem) = (deaf.port(), server.port(), &poem);
    let expect = |client, limit, why| {
        let finished = through(client, &["-q", limit], "shout", &via, &from);
        assert!(finished.complaint().contains(why), "{client}: {}", finished.stderr);
        assert!(finished.code() == 0 && finished.stdout == *poem, "{client}");
    };
    thread::scope(|scope| {
        scope.spawn(|| with_every_client(|client| expect(client, "--idle-timeout=2s", "no byte for 2s")));
        // The poem itself has to arrive within the whole time, while seven others are on their way.
        with_every_client(|client| expect(client, "--timeout=5s", "not complete after 5s"));
    });
}

#[test]
fn the_report_has_the_transform_as_a_phase_of_its_own() {
    let via = Service::transform(NO_ARGS);
    let server = Server::poem("a poem\n");
    for client in CLIENTS {
        let finished = through(client, &["--json"], "number-lines", &via.port(), &server.port());
        let report: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
        assert_eq!(crate::schema::violations("report.schema.json", &report), [""; 0]);
        let task = &report["tasks"][0];
        let transform = &task["transform"];
        assert_eq!((&transform["name"], &transform["bytes"]), (&"number-lines".into(), &13.into()), "{client}");
        assert_eq!((&task["status"], &transform["status"]), (&"ok".into(), &"ok".into()), "{client}");
        let times = [&task["first_byte_us"], &transform["start_us"], &transform["connected_us"], &transform["end_us"]];
        let times: Vec<u64> = times.iter().map(|time| time.as_u64().expect("a time")).collect();
        assert!(times.is_sorted() && times[3] <= task["end_us"].as_u64().expect("a time"), "{client}: {task}");
    }
}

#[test]
fn a_transform_without_a_server_makes_no_sense() {
    for client in CLIENTS {
        for (args, part) in [
            (&["--transform", "shout", "1"][..], "--via"),
            (&["--via", "1", "1"], "--transform"),
            (&["--transform", "a.b", "--via", "1", "1"], "the name of a transform has no '.'"),
            (&["--transform", "shout", "--via", "nowhere", "1"], "'nowhere' for '--via"),
        ] {
            let finished = run(client, args);
            assert_eq!(finished.code(), 2, "{finished:?}");
            assert!(finished.complaint().contains(part), "{finished:?}");
        }
    }
}

#[test]
fn a_taken_port_is_one_line() {
    let taken = Service::transform(NO_ARGS);
    let finished = finish(program("transformedpoetry").args(["--port", &taken.port()]));
    let expected = format!("transformedpoetry: cannot listen on {}: address already in use", taken.address);
    assert_eq!((finished.code(), finished.complaint()), (1, &expected[..]));
    assert_eq!(taken.stop().code(), 0);
}

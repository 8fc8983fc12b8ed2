//! Misbehaviour on demand: what is asked for happens, exactly and again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use regex_lite::Regex;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    CLIENTS, PATIENCE, Running, Service, contents, eventually, large_poem, path_of, poem_file, program, read_out,
    read_some, read_steadily, run,
};
use crate::schema::violations;

/// Both take the same flags.
const SERVERS: [&str; 2] = ["slowpoetry", "fastpoetry"];

fn serve(server: &str, args: &[&str], file: &Path) -> Service {
    Service::start(program(server).args(args).arg(file))
}

fn science() -> std::path::PathBuf {
    poem_file("science.txt")
}

/// A trouble of the cookbook: what is typed, and what is seen.
struct Recipe {
    server: Vec<String>,
    client: Vec<String>,
    seen: Vec<String>,
}

/// The recipe under this heading of docs/faults.md.
fn recipe(heading: &str) -> Recipe {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/faults.md")).expect("the page");
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("no heading '{heading}'"));
    let block = section.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let (typed, seen): (Vec<&str>, Vec<&str>) = block.lines().partition(|line| line.starts_with("$ "));
    let words = |program: &str| {
        let line = typed.iter().find_map(|line| line.strip_prefix(&format!("$ {program} ")));
        let words = line.unwrap_or_else(|| panic!("no {program} under '{heading}'")).split(' ');
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    Recipe {
        server: words("slowpoetry"),
        client: words("get-poetry"),
        seen: seen.into_iter().map(str::to_owned).collect(),
    }
}

/// A message without what differs from run to run.
fn in_general(line: &str, port: &str) -> String {
    let took = Regex::new(r" in \d+(s|ms|us)( \d+(ms|us|s))*$").expect("a pattern");
    took.replace(&line.replace(port, "10000"), " in TIME").into_owned()
}

/// Does as the cookbook says, with both servers and all clients; what is seen must be what the page shows.
fn cook(heading: &str) {
    let recipe = &recipe(heading);
    let expected: Vec<String> = recipe.seen.iter().map(|line| in_general(line, "10000")).collect();
    let succeeds = recipe.seen.last().expect("a tally").starts_with("Got 1 poem");
    thread::scope(|scope| {
        for (server, client) in SERVERS.into_iter().flat_map(|server| CLIENTS.map(|client| (server, client))) {
            let expected = &expected;
            scope.spawn(move || {
                let args = recipe.server.iter().map(|word| if word == "10000" { "0" } else { word });
                let directory = env!("CARGO_MANIFEST_DIR");
                let service = Service::start(program(server).args(args).current_dir(directory));
                let port = service.port();
                let finished = run(client, recipe.client.iter().map(|word| if word == "10000" { &port } else { word }));
                let seen: Vec<String> = finished.stderr.lines().map(|line| in_general(line, &port)).collect();
                assert_eq!(&seen, expected, "{client} with {server}");
                assert_eq!(finished.code(), i32::from(!succeeds), "{client} with {server}");
            });
        }
    });
}

#[test]
fn a_slow_first_byte() {
    cook("1. A slow first byte");
}

#[test]
fn a_slow_body() {
    cook("2. A slow body");
}

#[test]
fn a_stall() {
    cook("3. A stall");
}

#[test]
fn a_reset_in_the_middle() {
    cook("4. A reset in the middle");
}

#[test]
fn truncated_but_polite() {
    cook("5. Truncated, but polite");
}

#[test]
fn hung_up_on_twice_then_fine() {
    cook("6. Hung up on twice, then fine");
}

#[test]
fn no_answer() {
    cook("7. No answer");
}

#[test]
fn one_byte_a_second() {
    cook("8. One byte a second");
}

#[test]
fn bursts() {
    cook("9. Bursts");
}

#[test]
fn jitter() {
    const HEADING: &str = "10. Jitter";
    cook(HEADING);
    // A page that promises the same on every machine has to show it.
    let recipe = recipe(HEADING);
    let args: Vec<&str> = recipe.server[2..recipe.server.len() - 1].iter().map(String::as_str).collect();
    let (plan, _) = rehearse("slowpoetry", &[&args[..], &["--rehearse", "1"]].concat());
    let end: Value = serde_json::from_str(plan.lines().last().expect("an end")).expect("JSON");
    let millis = end["at_us"].as_u64().expect("a number").div_ceil(1_000);
    assert!(recipe.seen.last().expect("a tally").ends_with(&format!(" in {millis}ms")), "{millis}: {:?}", recipe.seen);
}

#[test]
fn a_script_is_followed_connection_by_connection() {
    cook("One after the other: scripts");
}

#[test]
fn one_retry_too_few_is_a_failure_and_attempts_are_counted() {
    for client in CLIENTS {
        for (retries, attempts, status) in [("2", 3, "ok"), ("1", 2, "reset")] {
            let service = serve("fastpoetry", &["--fail-first", "2"], &science());
            let finished = run(client, ["--json", "--retries", retries, &service.port()]);
            let report: Value = serde_json::from_slice(&finished.stdout).expect("a report");
            let task = &report["tasks"][0];
            assert_eq!((&task["attempts"], &task["status"]), (&attempts.into(), &status.into()), "{client}: {report}");
        }
    }
}

/// What the first connections would get.
fn rehearse(server: &str, args: &[&str]) -> (String, String) {
    let mut all = args.to_vec();
    let science = science();
    all.push(science.to_str().expect("UTF-8"));
    let finished = run(server, all);
    assert_eq!(finished.code(), 0, "{finished:?}");
    (String::from_utf8(finished.stdout).expect("UTF-8"), finished.stderr)
}

const JITTERED: [&str; 6] = ["--delay", "20ms", "--num-bytes", "50", "--jitter", "15ms"];

#[test]
fn a_seed_is_the_same_in_every_run_of_both_servers() {
    let args = [&JITTERED[..], &["--rehearse", "3", "--seed", "7"]].concat();
    let (first, _) = rehearse("slowpoetry", &args);
    for _ in 0..50 {
        for server in SERVERS {
            assert_eq!(rehearse(server, &args).0, first);
        }
    }
    let connection = |number: u32| {
        let prefix = format!("{{\"connection\":{number},");
        first.lines().filter_map(|line| line.strip_prefix(&prefix)).collect::<Vec<_>>()
    };
    assert!(connection(1).len() > 10);
    assert_ne!(connection(1), connection(2));
    assert_ne!(connection(2), connection(3));
}

#[test]
fn a_seed_chosen_by_itself_is_logged_and_draws_the_same_again() {
    let args = [&JITTERED[..], &["--rehearse", "2"]].concat();
    for server in SERVERS {
        let (first, log) = rehearse(server, &args);
        let seed = log.trim_end().rsplit("--seed ").next().expect("a seed").to_owned();
        let (again, _) = rehearse(server, &[&args[..], &["--seed", &seed]].concat());
        assert_eq!(first, again, "{log}");
    }
}

/// The pieces of each connection of a recording (microseconds, bytes), and how it ended.
fn recorded(path: &Path) -> BTreeMap<u64, (Vec<(u64, u64)>, String)> {
    let mut connections = BTreeMap::<u64, (Vec<(u64, u64)>, String)>::new();
    for line in fs::read_to_string(path).expect("a recording").lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(violations("recording.schema.json", &entry), [""; 0], "{line}");
        let number = |key: &str| entry[key].as_u64().expect("a number");
        let known = connections.entry(number("connection")).or_default();
        match entry["event"].as_str().expect("a word") {
            "accept" => assert_eq!(number("at_us"), 0),
            "send" => known.0.push((number("at_us"), number("bytes"))),
            "left" => {}
            end => known.1 = end.to_owned(),
        }
    }
    connections
}

#[test]
fn what_is_recorded_is_what_was_sent_and_is_sent_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (first, second) = (directory.path().join("1.jsonl"), directory.path().join("2.jsonl"));
    let (first_name, second_name) = (first.to_str().expect("UTF-8"), second.to_str().expect("UTF-8"));
    let poem = fs::read(science()).expect("the poem");
    for (recording, replaying) in [SERVERS, [SERVERS[1], SERVERS[0]]].map(|[one, other]| (one, other)) {
        let service = serve(recording, &[&JITTERED[..], &["--record", first_name]].concat(), &science());
        for _ in 0..2 {
            assert_eq!(service.fetch().expect("a poem"), poem);
        }
        assert_eq!(service.stop().code(), 0);
        let service = serve(replaying, &["--replay", first_name, "--record", second_name], &science());
        for _ in 0..3 {
            assert_eq!(service.fetch().expect("a poem"), poem);
        }
        assert_eq!(service.stop().code(), 0);
        let (first, second) = (recorded(&first), recorded(&second));
        assert_eq!((first.len(), second.len()), (2, 3));
        // The third is the first once more.
        for (number, original) in [(1, 1), (2, 2), (3, 1)] {
            let ((was, was_end), (is, is_end)) = (&first[&original], &second[&number]);
            assert_eq!((was_end.as_str(), is_end.as_str()), ("fin", "fin"));
            let bytes = |pieces: &[(u64, u64)]| pieces.iter().map(|piece| piece.1).collect::<Vec<_>>();
            assert_eq!(bytes(is), bytes(was));
            // Never early; and how late is a matter of the machine, but some pause is as long as it was.
            let late: Vec<u64> = is.iter().zip(was).map(|(is, was)| is.0.checked_sub(was.0).expect("early")).collect();
            assert!(late.windows(2).any(|two| two[1].abs_diff(two[0]) < 5_000), "{late:?}");
        }
    }
}

#[test]
fn a_recording_names_the_client_and_every_end() {
    let directory = tempfile::tempdir().expect("a directory");
    for server in SERVERS {
        let path = directory.path().join(server);
        let script = directory.path().join("script.toml");
        fs::write(
            &script,
            "[[connection]]\nfail = true\n[[connection]]\ncut-at = 9\ncut = 'fin'\n\
            [[connection]]\ncut-at = 9\ncut = 'hang'\n[[connection]]\ncut-at = 99\n[others]\ndelay = '1h'\n",
        )
        .expect("written");
        let args = ["--script", script.to_str().expect("UTF-8"), "--record", path.to_str().expect("UTF-8")];
        let service = serve(server, &args, &science());
        assert_eq!(service.fetch().expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(service.fetch().expect("a short poem").len(), 9);
        for bytes in [9, 99, 10] {
            let mut stream = service.connect();
            stream.read_exact(&mut vec![0; bytes]).expect("bytes");
            // The last one is slow enough to be left, and hard enough to be told.
            let address = stream.local_addr().expect("an address").to_string();
            if bytes == 10 {
                crate::harness::reset(stream);
            }
            eventually("the client is named", || fs::read_to_string(&path).expect("a recording").contains(&address));
        }
        eventually("all have ended", || {
            let connections = recorded(&path);
            connections.len() == 5 && connections.values().all(|(_, end)| !end.is_empty())
        });
        let ends: Vec<String> = recorded(&path).into_values().map(|(_, end)| end).collect();
        assert_eq!(ends, ["rst", "fin", "hang", "rst", "gone"], "{server}");
    }
}

#[test]
fn a_file_that_is_no_recording_is_left_as_it_is() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("notes");
    let name = path.to_str().expect("UTF-8");
    for program in ["slowpoetry", "fastpoetry", "poetry-chaos"] {
        fs::write(&path, "notes").expect("written");
        let poem =
            if program == "poetry-chaos" { "1".to_owned() } else { science().to_str().expect("UTF-8").to_owned() };
        let finished = crate::harness::finish(crate::harness::program(program).args(["--record", name, &poem]));
        assert_eq!(finished.code(), 1, "{finished:?}");
        let why = format!("{program}: cannot write {name}: it is there, and is no recording");
        assert_eq!(finished.complaint(), why);
        assert_eq!(fs::read_to_string(&path).expect("there"), "notes");
    }
}

#[test]
fn a_disk_that_is_full_ends_the_recording_and_not_the_server() {
    for server in SERVERS {
        let service = serve(server, &["--num-bytes", "1k", "--record", "/dev/full"], &science());
        for _ in 0..2 {
            assert_eq!(service.fetch().expect("a poem").len(), 653);
        }
        let finished = service.stop();
        assert_eq!(finished.code(), 1, "{finished:?}");
        let complaints = finished.stderr.matches("Cannot write /dev/full: no space left on device").count();
        assert_eq!(complaints, 1, "{finished:?}");
    }
}

#[test]
fn a_cut_at_bytes_delivers_them_all_and_no_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let poem = large_poem(directory.path());
    for server in SERVERS {
        for cut in ["rst", "fin", "hang"] {
            let args = ["--cut-at", "3000001", "--cut", cut, "--num-bytes", "1M", "--delay", "0"];
            let service = serve(server, &args, &poem);
            let mut stream = service.connect();
            let mut buffer = vec![0; 3_000_001];
            stream.read_exact(&mut buffer).expect("so many bytes");
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("an option");
            let end = read_some(&stream, &mut buffer);
            let expected = match cut {
                "rst" => Err(io::ErrorKind::ConnectionReset),
                "fin" => Ok(0),
                _ => Err(io::ErrorKind::WouldBlock),
            };
            if cut == "hang" {
                assert_eq!(end, expected, "{server}");
            } else {
                // The end may be a moment later than the bytes.
                stream.set_read_timeout(Some(PATIENCE)).expect("an option");
                let end = end.or_else(|kind| match kind {
                    io::ErrorKind::WouldBlock => read_some(&stream, &mut buffer),
                    kind => Err(kind),
                });
                assert_eq!(end, expected, "{server}");
            }
        }
    }
}

#[test]
fn a_client_that_reads_slowly_but_reads_gets_all_before_a_reset() {
    let directory = tempfile::tempdir().expect("a directory");
    let poem = large_poem(directory.path());
    let pace = ["--num-bytes", "64M", "--delay", "0", "--cut-at", "1M", "--write-timeout", "1s"];
    for server in SERVERS {
        let service = serve(server, &pace, &poem);
        // Twice as slow as the patience would be for all of it at once.
        let pause = |_| Duration::from_millis(40);
        let read = read_steadily(|| service.connect(), 20_000, pause, Duration::from_millis(500));
        assert_eq!(read, (1_000_000, Err(io::ErrorKind::ConnectionReset)), "{server}");
    }
}

#[test]
fn what_the_kernel_holds_for_a_slow_client_leaves_before_a_reset() {
    let directory = tempfile::tempdir().expect("a directory");
    let poem = large_poem(directory.path());
    let pace = ["--num-bytes", "64M", "--delay", "0", "--cut-at", "60000", "--write-timeout", "4s"];
    thread::scope(|scope| {
        for server in SERVERS {
            let service = serve(server, &pace, &poem);
            let address = service.address;
            let connect = move || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_recv_buffer_size(4096).expect("a buffer");
                socket.connect(&address.into()).expect("a server");
                TcpStream::from(socket)
            };
            scope.spawn(move || {
                // All of it takes longer than the server waits for any of it.
                let read = read_steadily(connect, 1_000, |_| Duration::from_millis(100), Duration::from_secs(1));
                assert_eq!(read, (60_000, Err(io::ErrorKind::ConnectionReset)), "{server}");
                drop(service);
            });
        }
    });
}

#[test]
fn a_cut_at_a_time_does_not_wait_for_a_client_that_takes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let poem = large_poem(directory.path());
    for server in SERVERS {
        let record = directory.path().join(server);
        let pace = ["--num-bytes", "100M", "--delay", "0", "--cut-at", "300ms"];
        let service = serve(server, &[&pace[..], &["--record", record.to_str().expect("UTF-8")]].concat(), &poem);
        let stream = service.connect();
        eventually("the cut", || recorded(&record).get(&1).is_some_and(|(_, end)| end == "rst"));
        let text = fs::read_to_string(&record).expect("a recording");
        let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        let at = last["at_us"].as_u64().expect("a number");
        // Before the write timeout, by far.
        assert!((300_000..20_000_000).contains(&at), "{last}");
        assert_eq!(read_out(stream).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn silence_is_for_ever_even_for_a_client_that_has_closed_its_side_and_holds_up_nothing() {
    for server in SERVERS {
        let args = ["--cut-at", "9", "--cut", "hang", "--num-bytes", "9", "--grace", "1h"];
        let service = serve(server, &args, &science());
        let hung: Vec<TcpStream> = (0..3)
            .map(|_| {
                let mut stream = service.connect();
                // Without this, slowpoetry has no time for the next one.
                stream.shutdown(Shutdown::Write).expect("half-closed");
                stream.read_exact(&mut [0; 9]).expect("nine bytes");
                stream
            })
            .collect();
        let mut waiting = service.connect();
        waiting.read_exact(&mut [0; 9]).expect("nine bytes");
        for stream in hung {
            stream.set_read_timeout(Some(Duration::from_millis(20))).expect("an option");
            assert_eq!(read_some(&stream, &mut [0; 9]), Err(io::ErrorKind::WouldBlock), "{server}");
        }
        let start = Instant::now();
        service.signal(Signal::SIGTERM);
        assert_eq!(service.finish().code(), 0);
        assert!(start.elapsed() < Duration::from_secs(30), "{server}");
        assert_eq!(read_some(&waiting, &mut [0; 9]), Err(io::ErrorKind::ConnectionReset), "{server}");
    }
}

#[test]
fn nobody_is_accepted_and_a_signal_ends_that() {
    for server in SERVERS {
        let service = serve(server, &["--never-accept"], &science());
        assert!(service.line.starts_with("Serving "), "{}", service.line);
        // The very first one, and all others.
        for _ in 0..3 {
            let finished = run("get-poetry", ["--connect-timeout", "300ms", "--json", &service.port()]);
            let report: Value = serde_json::from_slice(&finished.stdout).expect("a report");
            assert_eq!(report["tasks"][0]["status"], "timeout", "{report}");
            assert_eq!(report["tasks"][0]["limit"], "connect", "{report}");
        }
        assert_eq!(service.stop().code(), 0);
    }
}

/// The line of a recording that says when and how a client left.
fn departure(path: &Path) -> Option<Value> {
    let text = fs::read_to_string(path).expect("a recording");
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut entries = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    entries.find(|entry| entry["event"] == "left")
}

#[test]
fn when_and_how_a_client_leaves_is_recorded_in_every_silence() {
    /// How long the client stays at least.
    const STAY: Duration = Duration::from_millis(20);
    let directory = tempfile::tempdir().expect("a directory");
    let silences: [(&[&str], usize); 5] = [
        (&["--first-byte-delay", "1h"], 0),
        (&["--delay", "1h"], 10),
        (&["--delay", "30s"], 10),
        (&["--cut-at", "20", "--cut", "hang", "--delay", "0"], 20),
        (&["--cut-at", "20", "--cut", "hang", "--delay", "0", "--never-read"], 20),
    ];
    for (server, (flags, bytes)) in SERVERS.into_iter().flat_map(|server| silences.map(|silence| (server, silence))) {
        for by in ["close", "reset"] {
            let path = directory.path().join("recording");
            let record = ["--grace", "0", "--record", path.to_str().expect("UTF-8")];
            let service = serve(server, &[flags, &record].concat(), &science());
            let connecting = Instant::now();
            let mut stream = service.connect();
            stream.read_exact(&mut vec![0; bytes]).expect("bytes");
            eventually("it is served", || !fs::read_to_string(&path).expect("a recording").is_empty());
            thread::sleep(STAY);
            match by {
                "close" => drop(stream),
                _ => crate::harness::reset(stream),
            }
            eventually(&format!("{server} {flags:?} {by}: it has left"), || departure(&path).is_some());
            let left = departure(&path).expect("a line");
            assert_eq!((&left["connection"], &left["by"]), (&1.into(), &by.into()), "{server} {flags:?}: {left}");
            let at = Duration::from_micros(left["at_us"].as_u64().expect("a time"));
            assert!(at >= STAY && at < connecting.elapsed(), "{server} {flags:?}: {left}");
            service.stop();
            recorded(&path);
        }
    }
}

#[test]
fn a_client_of_a_command_that_left_is_recorded_before_the_server_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("recording");
    for server in SERVERS {
        let mut command = program(server);
        command.args(["-q", "--cut-at", "20", "--cut", "hang", "--record"]).arg(&path).arg(science()).arg("--");
        command.arg(path_of("get-poetry")).args(["-q", "--idle-timeout", "200ms", "{}"]);
        assert_eq!(crate::harness::finish(&mut command).code(), 1);
        let left = departure(&path).expect("a line");
        let at = Duration::from_micros(left["at_us"].as_u64().expect("a time"));
        assert!(at >= Duration::from_millis(200), "{server}: {left}");
    }
}

#[test]
fn what_the_server_does_is_no_departure() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("recording");
    for server in SERVERS {
        for flags in [&["--cut-at", "20", "--cut", "hang", "--delay", "0"][..], &["--delay", "1h"], &["--delay", "30s"]]
        {
            let flags = [flags, &["--grace", "0", "--record", path.to_str().expect("UTF-8")]].concat();
            let service = serve(server, &flags, &science());
            let mut stream = service.connect();
            stream.read_exact(&mut [0; 10]).expect("bytes");
            service.stop();
            assert_eq!(
                read_some(&stream, &mut [0; 99]).map_or_else(Err, |_| read_some(&stream, &mut [0; 99])),
                Err(io::ErrorKind::ConnectionReset)
            );
            assert_eq!(departure(&path), None, "{server} {flags:?}");
        }
    }
}

#[test]
fn a_server_that_listens_later_refuses_until_then() {
    for server in SERVERS {
        let service = serve(server, &["--listen-after", "500ms", "--num-bytes", "1k"], &science());
        assert_eq!(TcpStream::connect(service.address).expect_err("refused").kind(), io::ErrorKind::ConnectionRefused);
        let finished = run("get-poetry", ["-q", "--discard", "--json", "--retries", "99", &service.port()]);
        let report: Value = serde_json::from_slice(&finished.stdout).expect("a report");
        assert_eq!((&report["ok"], finished.code()), (&1.into(), 0), "{server}: {report}");
        assert_eq!(service.fetch().expect("a poem").len(), 653);
        let finished = service.stop();
        assert_eq!(finished.code(), 0);
        assert!(finished.stderr.contains("Connections are refused for 500ms"), "{finished:?}");
        // Stopped before it listens.
        assert_eq!(serve(server, &["--listen-after", "1h"], &science()).stop().code(), 0);
    }
}

#[test]
fn a_port_that_somebody_else_has_by_then_ends_it() {
    for server in SERVERS {
        let service = serve(server, &["--listen-after", "200ms"], &science());
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        other.set_reuse_address(true).expect("set");
        other.bind(&service.address.into()).expect("nobody listens");
        other.listen(1).expect("nobody listens");
        let finished = service.finish();
        assert!(finished.stderr.contains("address already in use"), "{server}: {finished:?}");
        assert_eq!(finished.code(), 1);
    }
}

#[test]
fn what_clients_send_is_never_read() {
    /// More than the buffers of a connection hold together.
    const MUCH: usize = 64 << 20;
    for server in SERVERS {
        let service = serve(server, &["--never-read", "--delay", "0"], &science());
        for _ in 0..2 {
            let stream = service.connect();
            stream.set_nonblocking(true).expect("set");
            let (mut sent, mut stuck) = (0, Instant::now());
            while stuck.elapsed() < Duration::from_millis(200) {
                match (&stream).write(&[b'x'; 64 << 10]) {
                    Ok(bytes) => (sent, stuck) = (sent + bytes, Instant::now()),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                assert!(sent < MUCH, "{server} reads");
                thread::yield_now();
            }
            stream.set_nonblocking(false).expect("set");
            assert_eq!(read_out(stream.try_clone().expect("a clone")).expect("a whole poem").len(), 653, "{server}");
            // A close would wait until all of it is read.
            crate::harness::reset(stream);
        }
        // It waits for none of the two, and has a place for the next one.
        assert_eq!(service.fetch().expect("a poem").len(), 653);
        assert_eq!(service.stop().code(), 0);
    }
}

#[test]
fn a_cycle_begins_again_with_its_draws_and_faults() {
    let flags = ["--jitter", "50ms", "--seed", "7", "--num-bytes", "300", "--fail-first", "1", "--cycle", "3"];
    for server in SERVERS {
        let (plan, _) = rehearse(server, &[&flags[..], &["--delay", "100ms", "--rehearse", "4"]].concat());
        let of = |connection: u64| {
            let prefix = format!("{{\"connection\":{connection},");
            plan.lines().filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect::<Vec<_>>()
        };
        assert!(of(1) != of(2) && of(2) != of(3), "{plan}");
        assert_eq!(of(1), of(4), "{plan}");
    }
    // And in a server: every second connection fails.
    for server in SERVERS {
        let service = serve(server, &["--num-bytes", "1k", "--fail-first", "1", "--cycle", "2"], &science());
        for _ in 0..3 {
            assert_eq!(service.fetch().expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(service.fetch().expect("a poem").len(), 653);
        }
    }
}

#[test]
fn planned_faults_are_told_one_by_one_and_counted_by_kind() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script.toml");
    let text = "[[connection]]\nfail = true\ntimes = 2\n[[connection]]\ncut-at = 9\ncut = 'fin'\n\
        [[connection]]\ncut-at = 9\ncut = 'hang'\n[others]\ndelay = 0\n";
    fs::write(&script, text).expect("written");
    for server in SERVERS {
        let service = serve(server, &["-v", "--script", script.to_str().expect("UTF-8")], &science());
        for _ in 0..2 {
            assert_eq!(service.fetch().expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(service.fetch().expect("a short poem").len(), 9);
        let mut silent = service.connect();
        silent.read_exact(&mut [0; 9]).expect("bytes");
        drop(silent);
        assert_eq!(service.fetch().expect("a poem").len(), 653);
        service.signal(Signal::SIGUSR1);
        service.hear("Cut 4 connections as planned: 2 by a reset, 1 by silence, 1 by the end of the stream");
        let finished = service.stop();
        let told = |what: &str| finished.stderr.lines().filter(|line| line.contains(what)).count();
        assert_eq!(told("Cut 4 connections as planned"), 2, "{finished:?}");
        assert_eq!(told("Reset 127.0.0.1:"), 2, "{finished:?}");
        assert_eq!(told("after 9 of 653 bytes in "), 2, "{finished:?}");
        assert_eq!(told(", as planned"), 4, "{finished:?}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let recording = directory.path().join("r.jsonl");
    fs::write(&recording, "{\"connection\":1,\"at_us\":0,\"event\":\"accept\"}\n").expect("written");
    let recording = recording.to_str().expect("UTF-8");
    let poem = science();
    let poem = poem.to_str().expect("UTF-8");
    for server in SERVERS {
        for (args, parts) in [
            (vec!["--rate", "1k", "--delay", "1s"], vec!["--rate", "--delay"]),
            (vec!["--rate", "0"], vec!["--rate", "at least 1"]),
            (vec!["--cut", "rst"], vec!["--cut-at"]),
            (vec!["--cut-at", "9", "--cut", "scissors"], vec!["scissors", "--cut"]),
            (vec!["--cut-at", "soon"], vec!["soon", "--cut-at"]),
            (vec!["--fail-first", "0"], vec!["--fail-first"]),
            (vec!["--fail-first", "1", "--script", "x"], vec!["--fail-first", "--script"]),
            (vec!["--cut-at", "1", "--script", "x"], vec!["--cut-at", "--script"]),
            (vec!["--cut", "hang", "--script", "x"], vec!["--cut", "--script"]),
            (vec!["--replay", "x", "--delay", "1s"], vec!["--replay", "--delay"]),
            (vec!["--replay", "x", "--script", "x"], vec!["--replay", "--script"]),
            (vec!["--replay", "x", "--seed", "1"], vec!["--replay", "--seed"]),
            (vec!["--replay", recording, "--record", recording], vec!["cannot record into", "which is replayed"]),
            (vec!["--never-accept", "--rate", "1"], vec!["--never-accept", "--rate"]),
            (vec!["--never-accept", "--record", "x"], vec!["--never-accept", "--record"]),
            (vec!["--never-accept", "--backlog", "5"], vec!["--never-accept", "--backlog"]),
            (vec!["--never-accept", "--listen-after", "1s"], vec!["--never-accept", "--listen-after"]),
            (vec!["--never-accept", "--never-read"], vec!["--never-accept", "--never-read"]),
            (vec!["--replay", "x", "--cycle", "3"], vec!["--replay", "--cycle"]),
            (vec!["--cycle", "0"], vec!["--cycle", "at least 1"]),
            (vec!["--seed", "1"], vec!["--jitter"]),
            (vec!["--seed", "x", "--jitter", "1ms"], vec!["--seed", "x"]),
            (vec!["--jitter", "1ms", "--delay", "0"], vec!["no delay that jitter could vary"]),
            (vec!["--rehearse", "1", "--record", "x"], vec!["--rehearse", "--record"]),
        ] {
            let finished = run(server, [&args[..], &[poem]].concat());
            let complaint = finished.complaint();
            for part in parts {
                assert!(complaint.contains(part), "{args:?}: no '{part}' in: {complaint}");
            }
            assert_eq!((finished.code(), finished.stdout.len()), (2, 0), "{server} {args:?}: {complaint}");
        }
        let jitter_of_nothing = run(server, ["--jitter", "1ms", poem, "--rehearse", "1"]);
        assert_eq!(jitter_of_nothing.code(), if server == "slowpoetry" { 0 } else { 2 }, "{jitter_of_nothing:?}");
    }
    assert_eq!(contents(directory.path()).len(), 1, "nothing was written");
}

#[test]
fn a_script_may_be_a_pipe() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for server in SERVERS {
        let service = thread::scope(|scope| {
            scope.spawn(|| fs::write(&pipe, "[[connection]]\nfail = true\n").expect("a reader"));
            serve(server, &["--script", pipe.to_str().expect("UTF-8")], &science())
        });
        assert_eq!(service.fetch().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset, "{server}");
    }
    // To be read once, whatever else is done with it.
    let poem = science();
    let words = ["--script".as_ref(), pipe.as_os_str(), poem.as_os_str()];
    for (program, more, lines) in [
        ("slowpoetry", &["--rehearse", "1"][..], 2),
        ("fastpoetry", &["--rehearse", "1"], 2),
        ("poetryd", &["fastpoetry", "--rehearse", "1"], 2),
        ("poetryd", &["--check", "fastpoetry"], 0),
    ] {
        let finished = thread::scope(|scope| {
            scope.spawn(|| fs::write(&pipe, "[[connection]]\nfail = true\n").expect("a reader"));
            run(program, more.iter().map(AsRef::as_ref).chain(words))
        });
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{program} {more:?}");
        assert_eq!(finished.stdout.iter().filter(|&&byte| byte == b'\n').count(), lines, "{program} {more:?}");
    }
}

#[test]
fn a_recording_that_may_not_grow_ends_with_a_whole_line_and_nobody_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    for server in SERVERS {
        let path = directory.path().join(server);
        let (name, poem) = (path_of(server), science());
        let script = format!(
            "ulimit -f 1; exec '{}' --num-bytes 1 --delay 1ms --record '{}' '{}'",
            name.display(),
            path.display(),
            poem.display()
        );
        let service = Service::start(Command::new("sh").args(["-c", &script]));
        assert_eq!(service.fetch().expect("a poem").len(), 653, "{server}");
        service.hear("file too large; the recording ends here");
        assert_eq!(service.stop().code(), 1, "{server}");
        assert!(fs::read_to_string(&path).expect("a recording").ends_with("}\n"), "{server}");
        assert!(recorded(&path)[&1].0.len() > 5, "{server}");
    }
}

#[test]
fn nothing_that_is_used_is_recorded_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let (poem, link, script, recording) = (path("poem"), path("link"), path("script"), path("recording"));
    fs::write(&poem, "a poem").expect("written");
    fs::hard_link(&poem, &link).expect("linked");
    fs::write(&script, "[[connection]]\nfail = true\n").expect("written");
    fs::write(&recording, "precious").expect("written");
    for server in SERVERS {
        for (args, what) in [
            (vec!["--record", &link], "which is served"),
            (vec!["--record", &script, "--script", &script], "which is the script"),
        ] {
            let finished = run(server, [&args[..], &[&poem]].concat());
            assert!(finished.complaint().ends_with(what), "{finished:?}");
            assert_eq!(finished.code(), 2);
        }
        // Nor is anything if the server cannot start.
        let taken = serve(server, &["--record", "/dev/null"], &science());
        let missing = path("missing");
        for args in [
            ["--port", &taken.port(), "--record", &recording, &poem],
            ["--port", "0", "--record", &recording, &missing],
        ] {
            assert_eq!(run(server, args).code(), 1, "{server} {args:?}");
        }
    }
    assert_eq!(fs::read(&poem).expect("read"), b"a poem");
    assert_eq!(fs::read(&recording).expect("read"), b"precious");
}

#[test]
fn a_client_reset_by_the_stop_is_recorded() {
    let directory = tempfile::tempdir().expect("a directory");
    for server in SERVERS {
        let record = directory.path().join(server);
        let args = ["--delay", "1h", "--num-bytes", "9", "--grace", "0", "--record", record.to_str().expect("UTF-8")];
        let service = serve(server, &args, &science());
        let mut stream = service.connect();
        stream.read_exact(&mut [0; 9]).expect("nine bytes");
        assert_eq!(service.stop().code(), 0);
        assert_eq!(recorded(&record)[&1].1, "rst", "{server}");
    }
}

#[test]
fn the_longest_patience_is_no_trouble() {
    for server in SERVERS {
        let service = serve(server, &["--write-timeout", "18446744073709549568", "--cut-at", "10"], &science());
        for _ in 0..2 {
            assert_eq!(service.fetch().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset, "{server}");
        }
    }
}

#[test]
fn a_rehearsal_can_be_interrupted() {
    for server in SERVERS {
        let (mut rehearsal, its_stdout) = io::pipe().expect("a pipe");
        let mut command = program(server);
        command.args(["--rehearse", "1000000000"]).arg(science()).stdout(its_stdout);
        let running = Running::start_as_is(&mut command);
        drop(command);
        rehearsal.read_exact(&mut [0; 100]).expect("its beginning");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().status.signal(), Some(Signal::SIGTERM as i32), "{server}");
    }
}

#[test]
fn what_is_wrong_with_a_script_is_named_by_file_line_and_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("script.toml");
    let poem = science();
    for (text, complaint) in [
        ("[[connection]]\nrate = '1k'\ndelay = '1s'", ":3: the argument 'delay' cannot be used with 'rate'"),
        ("[[connection]]\n\ncut = 'rst'", ":1: cut-at is missing"),
        (
            "[[connection]]\ncut-at = 5\ncut = 'axe'",
            ":3: invalid value 'axe' for 'cut' [possible values: fin, rst, hang]",
        ),
        ("[others]\ntimes = 2", ":2: unknown key 'times'; known are cut, cut-at, delay,"),
        ("[[connection]]\nfail = 'yes'", ":2: fail: it must be true or false, but its type is string"),
        ("[[connection]]\ntimes = 0", ":2: invalid value '0' for 'times'"),
        ("[[connection]]\nfail = true\ndelay = 1", ":2: the argument 'fail' cannot be used with: delay"),
        (
            "conection = 1",
            ":1: unknown key 'conection' (a similar one is 'connection'); known are connection, others, seed",
        ),
        ("[connection]\nfail = true", ":1: 'connection' is not a list of tables: write [[connection]]"),
        ("others = 3", ":1: 'others' is not a table"),
        ("seed = 1", ":1: seed: there is no jitter whose draws it could fix"),
        ("\n\n[[connection", ":3: "),
    ] {
        fs::write(&path, text).expect("written");
        for server in SERVERS {
            let finished = run(server, ["--script".as_ref(), path.as_os_str(), poem.as_os_str()]);
            let expected = format!("{server}: {}{complaint}", path.display());
            assert!(finished.complaint().starts_with(&expected), "{}\n{expected}", finished.complaint());
            assert_eq!((finished.code(), finished.stdout.len()), (2, 0), "{finished:?}");
        }
    }
}

#[test]
fn files_that_are_not_there_or_are_no_recordings_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let poem = science();
    let poem = poem.to_str().expect("UTF-8");
    let missing = directory.path().join("missing/file");
    let missing = missing.to_str().expect("UTF-8");
    let odd = directory.path().join("odd.jsonl");
    fs::write(&odd, "{\"connection\":1,\"at_us\":0,\"event\":\"accept\"}\npoetry\n").expect("written");
    let odd = odd.to_str().expect("UTF-8");
    let empty = directory.path().join("empty.jsonl");
    fs::write(&empty, "").expect("written");
    let empty = empty.to_str().expect("UTF-8");
    for server in SERVERS {
        for (args, code, complaint) in [
            (["--script", missing], 1, format!("cannot read {missing}: no such file or directory")),
            (["--replay", missing], 1, format!("cannot read {missing}: no such file or directory")),
            (["--record", missing], 1, format!("cannot write {missing}: no such file or directory")),
            (["--replay", odd], 2, format!("{odd}:2: not an object")),
            (["--replay", empty], 2, format!("{empty}: there is no connection to replay")),
        ] {
            let finished = run(server, [&args[..], &[poem]].concat());
            assert_eq!(finished.complaint(), format!("{server}: {complaint}"));
            assert_eq!((finished.code(), finished.stdout.len()), (code, 0), "{finished:?}");
        }
    }
}

#[test]
fn the_script_of_the_page_is_what_the_page_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.toml");
    let (text, _) = rehearse("fastpoetry", &["--rehearse", "5", "--script", script.to_str().expect("UTF-8")]);
    let ends: Vec<&str> = text.lines().filter(|line| !line.contains("accept") && !line.contains("send")).collect();
    assert_eq!(
        ends,
        [
            r#"{"connection":1,"at_us":0,"event":"rst"}"#,
            r#"{"connection":2,"at_us":0,"event":"hang"}"#,
            r#"{"connection":3,"at_us":206530,"event":"fin"}"#,
            r#"{"connection":4,"at_us":206530,"event":"fin"}"#,
            r#"{"connection":5,"at_us":0,"event":"fin"}"#,
        ]
    );
}

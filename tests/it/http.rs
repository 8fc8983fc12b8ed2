//! Poems over HTTP: requests of all kinds, replies in three framings, and every fault on them.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Uid;
use serde_json::Value;

use crate::harness::{Service, eventually, finish, follow, path_of, poem_file, program, read_out, read_some, reset};
use crate::schema::violations;

const SERVERS: [&str; 2] = ["slowpoetry", "fastpoetry"];

fn serve(server: &str, args: &[&str], file: &Path) -> Service {
    let usual = if args.contains(&"--num-bytes") { &[][..] } else { &["--num-bytes", "1k"] };
    Service::start(program(server).arg("--http").args(usual).args(args).arg(file))
}

fn science() -> PathBuf {
    poem_file("science.txt")
}

fn poem() -> Vec<u8> {
    fs::read(science()).expect("the poem")
}

const GET: &str = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";

/// A reply as it came: head and body.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        Self { head: String::from_utf8(bytes[..end].to_vec()).expect("ASCII"), body: bytes[end..].to_vec() }
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status")
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Everything that comes after these bytes, up to the end of the stream.
fn ask(service: &Service, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = service.connect();
    stream.write_all(request)?;
    read_out(stream)
}

/// The reply to a request, after which nothing more is asked.
fn get(service: &Service, target: &str) -> Reply {
    let request = format!("GET {target} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    Reply::of(&ask(service, request.as_bytes()).expect("a reply"))
}

/// A body of chunks, put together; the error is that it breaks off.
fn unchunked(mut bytes: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else { return Err(body) };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).expect("digits"), 16).expect("a size");
        bytes = &bytes[end + 2..];
        if size == 0 {
            assert_eq!(bytes, b"\r\n");
            return Ok(body);
        }
        body.extend_from_slice(&bytes[..size.min(bytes.len())]);
        if bytes.len() < size + 2 {
            return Err(body);
        }
        assert_eq!(&bytes[size..size + 2], b"\r\n");
        bytes = &bytes[size + 2..];
    }
}

#[test]
fn a_poem_arrives_whole_in_every_framing() {
    for server in SERVERS {
        for framing in ["length", "chunked", "close"] {
            let service = serve(server, &["--framing", framing, "--num-bytes", "100", "--delay", "1ms"], &science());
            assert!(service.line.contains("over HTTP on "), "{}", service.line);
            for target in ["/", "/science.txt", "/?x=/../y", "http://there/science.txt"] {
                let reply = get(&service, target);
                assert_eq!(reply.status(), 200, "{reply:?}");
                assert_eq!(reply.field("Content-Type"), Some("text/plain; charset=utf-8"));
                assert!(reply.field("Date").is_some_and(|date| date.ends_with(" GMT")), "{reply:?}");
                let length = (framing == "length").then_some("653");
                assert_eq!(reply.field("Content-Length"), length, "{reply:?}");
                match framing {
                    "chunked" => assert_eq!(unchunked(&reply.body), Ok(poem())),
                    _ => assert_eq!(reply.body, poem()),
                }
            }
            assert_eq!(get(&service, "/sera.txt").status(), 404);
            // HTTP/1.0 has no chunks.
            let old = Reply::of(&ask(&service, b"GET / HTTP/1.0\r\n\r\n").expect("a reply"));
            assert_eq!((old.body, old.head.contains("chunked")), (poem(), false), "{server} {framing}");
        }
    }
}

#[test]
fn half_a_poem_is_half_a_poem_unless_the_stream_ends_it() {
    for server in SERVERS {
        for framing in ["length", "chunked", "close"] {
            for how in ["fin", "rst"] {
                let args =
                    ["--framing", framing, "--delay", "20ms", "--num-bytes", "50", "--cut-at", "100", "--cut", how];
                let service = serve(server, &args, &science());
                let mut stream = service.connect();
                stream.write_all(GET.as_bytes()).expect("sent");
                let mut bytes = Vec::new();
                let ended = stream.read_to_end(&mut bytes);
                let reply = Reply::of(&bytes);
                assert_eq!(ended.is_ok(), how == "fin", "{server} {framing} {how}: {ended:?}");
                let body = match framing {
                    "chunked" => unchunked(&reply.body).expect_err("half a body"),
                    _ => reply.body,
                };
                // Of what is not read yet when a reset comes, some may be lost.
                assert!(poem().starts_with(&body) && (body.len() == 100 || how == "rst"), "{server} {framing} {how}");
            }
        }
        let service = serve(server, &["--cut-at", "0", "--cut", "hang"], &science());
        let mut stream = service.connect();
        stream.write_all(GET.as_bytes()).expect("sent");
        let mut head = [0; 400];
        let read = read_some(&stream, &mut head).expect("a head");
        assert_eq!(Reply::of(&head[..read]).body, b"", "cuts are counted in bytes of the body");
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        assert_eq!(read_some(&stream, &mut head), Err(io::ErrorKind::WouldBlock), "{server}");
    }
}

#[test]
fn faults_are_of_replies() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("recording");
    let path = path.to_str().expect("UTF-8");
    for server in SERVERS {
        let service = serve(server, &["--fail-first", "2", "--record", path], &science());
        for _ in 0..2 {
            assert_eq!(ask(&service, GET.as_bytes()).expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(get(&service, "/nothing").status(), 404, "what is no poem is not counted");
        assert_eq!(get(&service, "/").body, poem());
        let finished = service.stop();
        assert!(finished.stderr.contains("Cut 2 connections as planned: 2 by a reset"), "{finished:?}");
        let recording = fs::read_to_string(path).expect("a recording");
        let entries: Vec<Value> = recording.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(entries.iter().all(|entry| violations("recording.schema.json", entry).is_empty()), "{recording}");
        let sent: u64 = entries.iter().filter_map(|entry| entry["bytes"].as_u64()).sum();
        let ends: Vec<&str> = entries.iter().filter_map(|entry| entry["event"].as_str()).collect();
        assert_eq!(ends.iter().filter(|event| **event == "rst").count(), 2, "{recording}");
        assert_eq!((sent, ends.last()), (653, Some(&"fin")), "bytes of the body: {recording}");

        let service = Service::start(program(server).args(["--http", "--replay", path]).arg(science()));
        for _ in 0..2 {
            ask(&service, GET.as_bytes()).expect_err("reset, once more");
        }
        assert_eq!(get(&service, "/").body, poem());
    }
}

#[test]
fn before_the_first_byte_there_is_not_even_a_head() {
    for server in SERVERS {
        let service = serve(server, &["--first-byte-delay", "300ms"], &science());
        let (mut stream, start) = (service.connect(), Instant::now());
        stream.write_all(GET.as_bytes()).expect("sent");
        read_some(&stream, &mut [0; 1]).expect("a byte");
        assert!(start.elapsed() >= Duration::from_millis(300), "{server}");
    }
}

#[test]
fn a_kept_connection_has_a_reply_for_each_request_in_order() {
    for framing in ["length", "chunked"] {
        let service = serve("fastpoetry", &["--framing", framing], &science());
        let requests = [
            GET,
            "HEAD / HTTP/1.1\r\nHost: here\r\n\r\n",
            "GET /no HTTP/1.1\r\nHost: here\r\n\r\n",
            "\r\nGET /science.txt HTTP/1.1\nHost: here\nConnection: close\n\n",
        ];
        // All at once, and byte by byte.
        for at_once in [true, false] {
            let mut stream = service.connect();
            stream.set_nodelay(true).expect("set");
            let all = requests.concat();
            if at_once {
                stream.write_all(all.as_bytes()).expect("sent");
            } else {
                for byte in all.as_bytes() {
                    stream.write_all(&[*byte]).expect("sent");
                }
            }
            let bytes = read_out(stream).expect("replies");
            let text = String::from_utf8_lossy(&bytes);
            let statuses: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
            assert_eq!(statuses, ["200 OK", "200 OK", "404 Not Found", "200 OK"], "{framing} {at_once}: {text}");
            assert_eq!(text.matches("Sonnet - To Science").count(), 2, "HEAD has no body: {text}");
            assert_eq!(text.matches("Connection: close").count(), 1, "{text}");
        }
    }
    // The blocking server has a connection for each.
    let service = serve("slowpoetry", &[], &science());
    let replies = ask(&service, [GET, GET].concat().as_bytes()).expect("a reply");
    assert_eq!(Reply::of(&replies).field("Connection"), Some("close"));
    assert_eq!(Reply::of(&replies).body, poem());
}

#[test]
fn a_half_closed_client_gets_its_reply() {
    for server in SERVERS {
        let service = serve(server, &[], &science());
        let mut stream = service.connect();
        stream.write_all(GET.as_bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(Reply::of(&read_out(stream).expect("a reply")).body, poem(), "{server}");
    }
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_ends_well() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: here\r\n{fields}\r\n");
    let many = "A: b\r\n".repeat(100);
    let long = format!("A: {}\r\n", "b".repeat(17_000));
    for server in SERVERS {
        let service = serve(server, &[], &science());
        for (request, status) in [
            (get("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400),
            (get("Content-Length: 3\r\nContent-Length: 5\r\n"), 400),
            (get("Transfer-Encoding: gzip, chunked\r\n"), 400),
            (get("A: b\rc\r\n"), 400),
            (get("A: b\r\n folded\r\n"), 400),
            (get("A : b\r\n"), 400),
            (get("Host: there\r\n"), 400),
            ("GET / HTTP/1.1\r\nHost: he re\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET /%zz HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(), 400),
            ("GET *\r\n\r\n".to_owned(), 400),
            ("12:hello world!,".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 405),
            ("BREW / HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(), 501),
            ("GET / HTTP/2.0\r\nHost: here\r\n\r\n".to_owned(), 505),
            (format!("GET /{} HTTP/1.1\r\nHost: here\r\n\r\n", "a".repeat(8_000)), 414),
            (get(&many), 431),
            (get(&long), 431),
        ] {
            let mut stream = service.connect();
            stream.write_all(request.as_bytes()).expect("sent");
            if !matches!(status, 405 | 501) {
                // Nothing more is understood, and it does not hurt.
                stream.write_all(GET.as_bytes()).expect("sent");
            } else {
                stream.shutdown(Shutdown::Write).expect("shut down");
            }
            let bytes = read_out(stream).unwrap_or_else(|error| panic!("{server} {status} {request:?}: {error}"));
            let reply = Reply::of(&bytes);
            let shown = &request[..request.len().min(80)];
            assert_eq!(reply.status(), status, "{server} {shown:?}: {reply:?}");
            assert_eq!(bytes.windows(9).filter(|window| window == b"HTTP/1.1 ").count(), 1, "{server} {shown:?}");
            assert_eq!(reply.field("Allow"), (status == 405).then_some("GET, HEAD"));
            let length = reply.field("Content-Length").expect("a length").parse();
            assert_eq!(Ok(reply.body.len()), length, "{reply:?}");
        }
        assert_eq!(self::get(&service, "/").body, poem(), "and others are served");
    }
}

#[test]
fn a_head_that_trickles_is_ended_and_an_idle_connection_costs_nobody_anything() {
    thread::scope(|scope| {
        for server in SERVERS {
            scope.spawn(move || {
                let service = serve(server, &[], &science());
                let (stream, start) = (service.connect(), Instant::now());
                let mut talking = stream.try_clone().expect("a clone");
                let talk = scope.spawn(move || {
                    for byte in b"GET /".iter().chain(std::iter::repeat_n(&b'a', 200)) {
                        if talking.write_all(&[*byte]).is_err() {
                            return;
                        }
                        thread::park_timeout(Duration::from_millis(200));
                    }
                });
                let reply = Reply::of(&read_out(stream).expect("a reply"));
                assert_eq!(reply.status(), 408, "{server}: {reply:?}");
                assert!(start.elapsed() >= Duration::from_secs(10), "{server}: {:?}", start.elapsed());
                talk.join().expect("it has ended");
                assert_eq!(get(&service, "/").body, poem());
            });
        }
    });
}

#[test]
fn all_plain_files_below_a_directory_are_served_and_no_others() {
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("secret.txt"), "secret").expect("written");
    let place = tempfile::tempdir().expect("a directory");
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("a/b")).expect("made");
    fs::write(at("a/b/poem.txt"), "a poem\n").expect("written");
    fs::write(at("with blank.json"), "{}").expect("written");
    fs::write(at("empty"), "").expect("written");
    fs::write(at(".hidden"), "secret").expect("written");
    symlink("a/b/poem.txt", at("inside")).expect("a link");
    symlink(outside.path().join("secret.txt"), at("outside")).expect("a link");
    symlink(outside.path(), at("door")).expect("a link");
    finish(Command::new("mkfifo").arg(at("fifo")));
    let service = Service::start(program("fastpoetry").arg("--http").arg(place.path()));
    for (target, status, body) in [
        ("/a/b/poem.txt", 200, "a poem\n"),
        ("//a//b/poem.txt", 200, "a poem\n"),
        ("/%61/b/poem%2etxt", 200, "a poem\n"),
        ("/inside", 200, "a poem\n"),
        ("/with%20blank.json", 200, "{}"),
        ("/empty", 200, ""),
        ("/", 404, ""),
        ("/a", 404, ""),
        ("/a/", 404, ""),
        ("/a/b/poem.txt/", 404, ""),
        ("/nothing", 404, ""),
        ("/.hidden", 404, ""),
        ("/a/../inside", 404, ""),
        ("/%2e%2e/secret.txt", 404, ""),
        ("/..%2fsecret.txt", 400, ""),
        ("/outside", 404, ""),
        ("/door/secret.txt", 404, ""),
        ("/fifo", 404, ""),
    ] {
        let reply = get(&service, target);
        assert_eq!(reply.status(), status, "{target}: {reply:?}");
        assert!(!String::from_utf8_lossy(&reply.body).contains("secret"), "{target}: {reply:?}");
        if status == 200 {
            assert_eq!(String::from_utf8_lossy(&reply.body), body, "{target}");
        }
    }
    assert_eq!(get(&service, "/with%20blank.json").field("Content-Type"), Some("application/json"));
    // What is there when it is asked for counts.
    fs::write(at("new.txt"), "new").expect("written");
    assert_eq!(get(&service, "/new.txt").body, b"new");
    assert_eq!(service.stop().code(), 0);
    let refused = finish(program("slowpoetry").arg("--http").arg(place.path()));
    assert_eq!(refused.code(), 1, "one file is enough for it: {refused:?}");
}

#[test]
fn a_file_larger_than_memory_is_no_trouble_for_it_or_for_others() {
    const LENGTH: u64 = 4 << 30;
    let place = tempfile::tempdir().expect("a directory");
    let sparse = fs::File::create(place.path().join("sparse")).expect("a file");
    sparse.set_len(LENGTH).expect("a hole");
    fs::write(place.path().join("small"), "small").expect("written");
    let service = Service::start(program("fastpoetry").args(["-q", "--grace", "0", "--http"]).arg(place.path()));
    // Four who read steadily, and one who does not.
    let mut large: Vec<TcpStream> = (0..5).map(|_| service.connect()).collect();
    for stream in &mut large {
        stream.write_all(b"GET /sparse HTTP/1.1\r\nHost: here\r\n\r\n").expect("sent");
    }
    let mut head = [0; 100];
    for stream in &large {
        read_some(stream, &mut head).expect("a head");
        assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..50 {
        for stream in &mut large[..4] {
            stream.read_exact(&mut buffer).expect("holes");
        }
        assert_eq!(get(&service, "/small").body, b"small");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("a status");
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a size").trim();
    let own: u64 = own.trim_end_matches(" kB").parse().expect("a number");
    assert!(own < 8_000, "{own} kB");
    large.drain(..).for_each(reset);
    // One that becomes shorter is reset: with a length, the client would wait for ever.
    let mut stream = service.connect();
    stream.write_all(b"GET /sparse HTTP/1.1\r\nHost: here\r\n\r\n").expect("sent");
    stream.read_exact(&mut buffer).expect("holes");
    sparse.set_len(0).expect("shorter");
    let mut all = Vec::new();
    assert_eq!(stream.read_to_end(&mut all).map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn at_a_stop_idle_connections_end_at_once_and_replies_are_finished() {
    let service = serve("fastpoetry", &["--num-bytes", "300", "--delay", "300ms"], &science());
    let mut idle = service.connect();
    idle.write_all(b"GET /no HTTP/1.1\r\nHost: here\r\n\r\n").expect("sent");
    let mut head = [0; 400];
    read_some(&idle, &mut head).expect("a reply");
    let mut busy = service.connect();
    busy.write_all(GET.as_bytes()).expect("sent");
    read_some(&busy, &mut head).expect("the first piece");
    service.signal(Signal::SIGTERM);
    assert_eq!(read_out(idle).expect("an end"), b"", "nothing more");
    let mut rest = Vec::new();
    busy.read_to_end(&mut rest).expect("a whole poem");
    assert!(poem().ends_with(&rest[rest.len() - 53..]));
    assert_eq!(service.finish().code(), 0);
}

#[test]
fn a_poem_that_is_read_again_is_another_one_from_then_on() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("poem");
    fs::write(&path, "old\n").expect("written");
    let service = serve("fastpoetry", &[], &path);
    assert_eq!(get(&service, "/").body, b"old\n");
    fs::write(&path, "newer\n").expect("written");
    service.signal(Signal::SIGHUP);
    eventually("the new one", || get(&service, "/poem").body == b"newer\n");
}

#[test]
fn curl_says_what_each_framing_is_worth() {
    if Command::new("curl").arg("--version").output().is_err() {
        writeln!(io::stderr(), "skipped: there is no curl").expect("told");
        return;
    }
    for server in SERVERS {
        for (framing, status) in [("length", 18), ("chunked", 18), ("close", 0)] {
            let mut command = program(server);
            command.args([
                "-q",
                "--http",
                "--framing",
                framing,
                "--num-bytes",
                "1k",
                "--cut-at",
                "100",
                "--cut",
                "fin",
            ]);
            command.arg(science()).args(["--", "curl", "-s", "-o", "/dev/null", "http://{}/"]);
            assert_eq!(finish(&mut command).code(), status, "{server} {framing}");
        }
    }
}

#[test]
fn flags_that_make_no_sense() {
    for (args, complaint) in [
        (&["fastpoetry", "--framing", "close", "sera"][..], "--http is missing; see --help"),
        (&["slowpoetry", "--http", "--framing", "chunks", "sera"], "invalid value 'chunks' for '--framing <HOW>'"),
        (&["fastpoetry", "--http", "--never-accept", "sera"], "--http cannot be used with --never-accept; see --help"),
        (&["fastpoetry", "/tmp"], "cannot serve /tmp: is a directory"),
    ] {
        let finished = finish(program(args[0]).args(&args[1..]));
        assert!(finished.complaint().starts_with(&format!("{}: {complaint}", args[0])), "{finished:?}");
        assert_ne!(finished.code(), 0);
    }
}

#[test]
fn the_page_about_ends_shows_what_is_seen() {
    follow("framing.md", 8);
}

#[test]
fn the_flags_are_pictures_with_names() {
    let flags = Path::new(env!("CARGO_MANIFEST_DIR")).join("flags");
    let service = Service::start(program("fastpoetry").arg("--http").arg(&flags));
    let entries = fs::read_dir(&flags).expect("a directory").map(|entry| entry.expect("an entry"));
    let countries: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("a name"))
        .collect();
    assert!(countries.len() >= 20, "{countries:?}");
    for code in countries {
        let picture = get(&service, &format!("/{code}/{code}.gif"));
        assert_eq!(picture.field("Content-Type"), Some("image/gif"));
        assert!(picture.body.starts_with(b"GIF89a") && picture.body.ends_with(b";"), "{code}");
        let data = get(&service, &format!("/{code}/metadata.json"));
        assert_eq!(data.field("Content-Type"), Some("application/json"));
        let data: Value = serde_json::from_slice(&data.body).expect("JSON");
        assert!(data["country"].as_str().is_some_and(|name| !name.is_empty()), "{data}");
        assert_eq!(data["code"], code.to_uppercase());
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_not_called_missing() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("set");
    let at = |name: &str| place.path().join(name);
    fs::write(at("open"), "open").expect("written");
    fs::write(at("shut"), "shut").expect("written");
    fs::set_permissions(at("shut"), Permissions::from_mode(0o000)).expect("set");
    let mut command = program("fastpoetry");
    if Uid::effective().is_root() {
        // Root may open everything.
        let mut other = Command::new(path_of("fastpoetry"));
        if !other.arg("--version").uid(65_534).stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
            writeln!(io::stderr(), "skipped: the programs are where only root can run them").expect("told");
            return;
        }
        command.uid(65_534);
    }
    let service = Service::start(command.arg("--http").arg(place.path()));
    assert_eq!(get(&service, "/shut").status(), 403);
    assert_eq!(get(&service, "/open").body, b"open");
}

#[test]
fn without_descriptors_a_file_is_not_missing_either() {
    let service = Service::start(program("fastpoetry").arg("--http").arg(science().parent().expect("a directory")));
    // No more of them from now on, for a connection that is there already.
    let stream = service.connect();
    let mut reply = [0; 1000];
    let mut ask = |target: &str| {
        write!(&stream, "GET {target} HTTP/1.1\r\nHost: here\r\n\r\n").expect("sent");
        let read = read_some(&stream, &mut reply).expect("a reply");
        Reply::of(&reply[..read]).status()
    };
    assert_eq!(ask("/nothing"), 404);
    let limited = finish(Command::new("prlimit").args(["--nofile=3:3", "--pid"]).arg(service.pid().to_string()));
    assert_eq!(limited.code(), 0, "{limited:?}");
    assert_eq!(ask("/science.txt"), 503);
}

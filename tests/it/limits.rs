//! Little memory, no thread, a full disk: what the clients do without.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::Value;

use crate::harness::{
    CLIENTS, PATIENCE, Running, Server, Service, contents, eventually, finish, path_of, poem_file, program, read_out,
    send_whole, with_every_client,
};

const POEM: &[u8] = b"a whole poem\n";

/// A program of this package that has less of something than others have: a limit of prlimit(1).
fn with_limit(limit: &str, name: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(path_of(name)).stdin(Stdio::null());
    command
}

/// Sends so many megabytes.
fn send_megabytes(number: usize, mut stream: TcpStream) {
    let megabyte = vec![b'x'; 1_000_000];
    for _ in 0..number {
        if stream.write_all(&megabyte).is_err() {
            return;
        }
    }
    send_whole(stream, b"");
}

/// A server that sends for as long as anybody listens.
fn endless() -> Server {
    Server::start(|_, stream| send_megabytes(usize::MAX, stream))
}

/// The address space of a client in these tests: less than what a poem of 200 MB needs in memory, twice over.
const ADDRESS_SPACE: &str = "--as=330000000";

#[test]
fn poems_that_do_not_fit_into_memory_arrive_all_the_same() {
    let long = Server::start(|_, stream| send_megabytes(200, stream));
    let short = Server::poem(POEM);
    let temporary = tempfile::tempdir().expect("a directory");
    for order in [&[][..], &["--ordered"]] {
        with_every_client(|client| {
            let (mut reader, writer) = UnixStream::pair().expect("a pair");
            let mut command = with_limit(ADDRESS_SPACE, client);
            command.env("TMPDIR", temporary.path()).arg("-q").args(order);
            command.args([short.port(), long.port(), long.port()]).stdout(OwnedFd::from(writer));
            let running = Running::start_as_is(command.stderr(Stdio::piped()));
            drop(command);
            let (mut buffer, mut length, mut others) = (vec![0; 1 << 20], 0, Vec::new());
            let long = vec![b'x'; buffer.len()];
            while let n @ 1.. = reader.read(&mut buffer).expect("poems") {
                length += n;
                if buffer[..n] != long[..n] {
                    others.extend(buffer[..n].iter().copied().filter(|&byte| byte != b'x'));
                }
            }
            assert_eq!((length, &others[..]), (400_000_000 + POEM.len(), POEM), "{client} {order:?}");
            let finished = running.finish();
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{client} {order:?}");
        });
    }
    assert_eq!(contents(temporary.path()), []);
}

#[test]
fn an_endless_poem_meets_its_limit_and_the_others_arrive() {
    let (endless, good) = (endless(), Server::poem(POEM));
    for client in CLIENTS {
        for options in [&["--json"][..], &["--ordered"]] {
            let mut command = program(client);
            command.args(options).args(["--max-size", "3M", "--retries", "2", &endless.port(), &good.port()]);
            let finished = finish(&mut command);
            assert_eq!(finished.code(), 1, "{finished:?}");
            let line = format!("Task 1: failed: {}: longer than 3000000 bytes", endless.name());
            assert!(finished.has_line(&line), "{client}: {}", finished.stderr);
            if options == ["--ordered"] {
                assert!(finished.stdout.len() <= 3_000_000 + POEM.len(), "no more than is allowed");
                assert!(finished.stdout.ends_with(POEM), "{client}");
                continue;
            }
            let report: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
            assert_eq!(crate::schema::violations("report.schema.json", &report), [""; 0]);
            let failed = &report["tasks"][0];
            assert_eq!((&failed["status"], &failed["attempts"]), (&"error".into(), &1.into()), "{failed}");
            assert_eq!(report["tasks"][1]["status"], "ok");
        }
        // A poem of just that length is not too long.
        let exactly = finish(program(client).args(["-q", "--max-size", "13", &good.port()]));
        assert_eq!((exactly.code(), &exactly.stdout[..]), (0, POEM), "{client}");
    }
}

#[test]
fn a_full_disk_fails_the_poem_that_needs_it_and_no_other() {
    let (endless, good) = (endless(), Server::poem(POEM));
    let temporary = tempfile::tempdir().expect("a directory");
    with_every_client(|client| {
        // A file may have a megabyte (EFBIG): that is a disk that is soon full.
        let mut command = with_limit("--fsize=1000000", client);
        let finished = finish(command.env("TMPDIR", temporary.path()).args([endless.port(), good.port()]));
        assert_eq!((finished.code(), &finished.stdout[..]), (1, POEM), "{finished:?}");
        let place = temporary.path().display();
        let why = format!("cannot write a temporary file in {place}: file too large");
        assert!(finished.has_line(&format!("Task 1: failed: {}: {why}", endless.name())), "{}", finished.stderr);
    });
    assert_eq!(contents(temporary.path()), []);
}

#[test]
fn a_poem_too_long_for_a_transform_is_kept_as_it_was() {
    let long = Server::start(|_, stream| send_megabytes(200, stream));
    let transform = Service::transform(["-q"]);
    let (port, address) = (transform.port(), transform.address);
    let directory = tempfile::tempdir().expect("a directory");
    with_every_client(|client| {
        let (output, report) = (directory.path().join(client), directory.path().join(format!("{client}.json")));
        let mut command = with_limit(ADDRESS_SPACE, client);
        command.args(["--transform", "shout", "--via", &port, "--report"]).arg(&report);
        let finished = finish(command.arg("-o").arg(&output).arg(long.port()));
        assert_eq!(finished.code(), 0, "{finished:?}");
        let why = "the poem is longer than 67108864 bytes";
        let line = format!("Task 1: shout failed: {}: {why}; keeping the poem as it was", address);
        assert!(finished.has_line(&line), "{}", finished.stderr);
        let poem = output.join(format!("1-127.0.0.1-{}.txt", long.port()));
        assert_eq!(fs::metadata(poem).expect("the poem").len(), 200_000_000, "{client}");
        let report: Value = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
        assert_eq!(crate::schema::violations("report.schema.json", &report), [""; 0]);
        let transform = &report["tasks"][0]["transform"];
        assert_eq!((&transform["status"], &transform["error"]), (&"error".into(), &why.into()));
    });
}

/// Runs a command as a user who has nothing else to run, with so many threads at most; `None` unless root does so.
fn with_threads(number: u32, user: u32, name: &str, directory: &Path) -> Option<Command> {
    if !geteuid().is_root() {
        return None;
    }
    // To where everybody can start it; by a process that nobody inherits the open file from.
    let copy = directory.join(name);
    if !copy.exists() {
        finish(Command::new("cp").arg(path_of(name)).arg(&copy));
        finish(Command::new("chmod").arg("a+rx").arg(directory));
    }
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={number}:{number}")).arg(copy).uid(user).gid(user).stdin(Stdio::null());
    Some(command)
}

/// Lets a server have so many threads at most, of a hundred, when it has those with which it begins.
fn limit_threads(server: &Service, number: u32, user: u32) {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    eventually("a worker for each processor", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("a process");
        let names = tasks.map(|task| fs::read_to_string(task.expect("a task").path().join("comm")).unwrap_or_default());
        names.filter(|name| name == "worker\n").count() == workers
    });
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={number}:100")).arg(format!("--pid={}", server.pid()));
    let limited = finish(command.uid(user).gid(user));
    assert_eq!(limited.code(), 0, "{limited:?}");
}

#[test]
fn without_a_thread_for_a_name_there_is_a_plain_line() {
    let server = Server::poem(POEM);
    let name = format!("localhost:{}", server.port());
    let directory = tempfile::tempdir().expect("a directory");
    for (user, client, what) in [
        (61_001, "get-poetry", "a thread"),
        (61_002, "get-poetry-select", "the resolver"),
        (61_003, "get-poetry-threads", "a thread"),
    ] {
        // The main thread, and the one for signals.
        let Some(mut command) = with_threads(2, user, client, directory.path()) else { return };
        let finished = finish(command.args([&name, &name]));
        assert_eq!(finished.code(), 1, "{finished:?}");
        for task in [1, 2] {
            let why = format!("cannot start {what}: resource temporarily unavailable");
            assert!(finished.has_line(&format!("Task {task}: failed: {name}: {why}")), "{finished:?}");
        }
        assert!(!finished.stderr.contains("internal error"), "{finished:?}");
    }
}

#[test]
fn one_more_thread_is_enough_for_any_number_of_poems() {
    let server = Server::poem(POEM);
    let name = format!("localhost:{}", server.port());
    let directory = tempfile::tempdir().expect("a directory");
    for (user, client) in (61_011..).zip(CLIENTS) {
        let Some(mut command) = with_threads(3, user, client, directory.path()) else { return };
        let finished = finish(command.args(vec![name.as_str(); 40]));
        assert_eq!((finished.code(), finished.stdout.len()), (0, 40 * POEM.len()), "{client}: {}", finished.stderr);
    }
}

#[test]
fn a_proxy_without_a_thread_for_a_name_says_so_and_goes_on() {
    let server = Server::poem(POEM);
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut command) = with_threads(100, 61_021, "poetry-proxy", directory.path()) else { return };
    let proxy = Service::start(command.arg(format!("localhost:{}", server.port())));
    limit_threads(&proxy, 1, 61_021);
    assert!(proxy.fetch().is_err(), "reset");
    proxy.hear("upstream: cannot start a thread: resource temporarily unavailable");
    limit_threads(&proxy, 100, 61_021);
    assert_eq!(proxy.fetch().expect("a poem"), POEM);
    assert_eq!(proxy.stop().code(), 0);
}

#[test]
fn a_long_poem_without_a_thread_of_its_own_gets_its_reply_all_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut command) = with_threads(100, 61_031, "transformedpoetry", directory.path()) else { return };
    let server = Service::start(&mut command);
    limit_threads(&server, 1, 61_031);
    let ask = |length: usize| {
        let mut stream = server.connect();
        let request = format!("shout.{}", "x".repeat(length));
        write!(stream, "{}:{request},", request.len()).expect("a server");
        read_out(stream).expect("an end")
    };
    assert_eq!(ask(200_000), format!("200000:{},", "X".repeat(200_000)).as_bytes());
    assert_eq!(ask(3), b"3:XXX,");
    let finished = server.stop();
    assert!(!finished.stderr.contains("internal error"), "{finished:?}");
}

#[test]
fn a_report_or_a_picture_that_does_not_fit_leaves_no_file_and_says_what_it_is() {
    let poem = Service::fast(&poem_file("sera.txt"), ["-q"]);
    let directory = tempfile::tempdir().expect("a directory");
    for (client, (option, what)) in
        CLIENTS.into_iter().zip([("--report", "report"), ("--timeline", "picture")].repeat(2))
    {
        let path = directory.path().join("out.svg");
        let complaint = |place: &str, why: &str| format!("Cannot write the {what} to {place}: {why}");
        let spoilt = |path: &Path, why: &str| {
            let mut command = with_limit("--fsize=100", client);
            let finished = finish(command.args(["-q", "--discard", option]).arg(path).arg(poem.port()));
            let complaint = complaint(&path.display().to_string(), why);
            assert_eq!((finished.code(), finished.complaint()), (1, complaint.as_str()), "{finished:?}");
        };
        spoilt(&path, "file too large");
        assert_eq!(contents(directory.path()), [], "{client}");
        fs::write(&path, "the report before").expect("written");
        spoilt(&path, "file too large");
        assert_eq!(contents(directory.path()), [("out.svg".to_owned(), b"the report before".to_vec())], "{client}");
        spoilt(Path::new("/dev/full"), "no space left on device");
        fs::remove_file(&path).expect("removed");
    }
    let mut race = with_limit("--fsize=2000", "poetry-race");
    let path = directory.path().join("race.svg");
    race.args(["--runs", "1", "--warm-up", "0", "--models", "async", "--timeline"]).arg(&path).arg(poem.port());
    let finished = finish(&mut race);
    let complaint = format!("poetry-race: cannot write the picture to {}: file too large", path.display());
    assert_eq!((finished.code(), finished.complaint()), (1, complaint.as_str()));
    assert_eq!(contents(directory.path()), []);
}

#[test]
fn a_report_goes_where_it_is_sent_whatever_is_there() {
    let poem = Service::fast(&poem_file("sera.txt"), ["-q"]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let fifo = path("fifo");
    finish(Command::new("mkfifo").arg(&fifo));
    let running = Running::start(program("get-poetry").args(["-q", "--report"]).arg(&fifo).arg(poem.port()));
    assert!(fs::read_to_string(&fifo).expect("a report").ends_with("]}\n"));
    assert_eq!(running.finish().code(), 0);
    // Into the same file as the poems: it is written into that file, not put in its place.
    let all = path("all");
    let script = format!(
        "exec '{}' -q --report /dev/stdout {} >> '{}'",
        path_of("get-poetry").display(),
        poem.port(),
        all.display()
    );
    fs::write(&all, "").expect("written");
    let open = fs::File::open(&all).expect("a file");
    assert_eq!(finish(Command::new("sh").args(["-c", &script])).code(), 0);
    let mut text = String::new();
    (&open).read_to_string(&mut text).expect("text");
    assert!(text.ends_with("]}\n"), "{text}");
}

#[test]
fn a_client_that_is_killed_leaves_no_half_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut unnamed = OpenOptions::new();
    if unnamed.write(true).custom_flags(OFlag::O_TMPFILE.bits()).open(directory.path()).is_err() {
        return; // Here files have names from the beginning.
    }
    let server = Server::start(|_, mut stream| {
        let _ = stream.write_all(b"half a poem");
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = read_out(stream);
    });
    for client in CLIENTS {
        let mut command = program(client);
        let running = Running::start(command.args(["-v", "-o"]).arg(directory.path()).arg(server.port()));
        running.hear("got 11 bytes");
        running.signal(Signal::SIGKILL);
        drop(running);
        assert_eq!(contents(directory.path()), [], "{client}");
    }
}

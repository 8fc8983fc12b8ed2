//! Ctrl-C, at any moment of a poem's life.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::harness::{
    CLIENTS, FullQueue, Running, Server, contents, eventually, path_of, program, program_with_hangup, read_out,
    refusing_port, send_whole, with_every_client,
};

/// Interrupts a client when it has said all of `moments`, and returns what it left.
fn interrupt(client: &str, args: &[&str], moments: &[&str], signal: Signal) -> crate::harness::Finished {
    let running = Running::start(program_with_hangup(client).args(args));
    running.hear_all(moments);
    running.signal(signal);
    running.finish()
}

fn expect_interrupted(client: &str, args: &[&str], moment: &str) {
    let finished = interrupt(client, args, &[moment], Signal::SIGINT);
    assert_eq!(finished.code(), 130, "{finished:?}");
    let last = finished.stderr.lines().last().expect("a line");
    assert!(last.starts_with("Got 0 of 1 poem in "), "{finished:?}");
    assert!(!finished.stderr.contains("failed"), "{finished:?}");
}

#[test]
fn in_the_middle_of_a_connect() {
    let full = FullQueue::new();
    for client in CLIENTS {
        expect_interrupted(client, &[&full.port], "get poetry from");
    }
}

#[test]
fn in_the_middle_of_a_wait() {
    let server = Server::start(|_, stream| drop(read_out(stream)));
    for client in CLIENTS {
        expect_interrupted(client, &["-v", &server.port()], "connected to");
    }
}

#[test]
fn in_the_middle_of_a_read() {
    let server = Server::start(|_, mut stream| while stream.write_all(b"and so on\n").is_ok() {});
    for client in CLIENTS {
        expect_interrupted(client, &["-v", "--discard", &server.port()], "bytes of poetry");
    }
}

#[test]
fn in_the_middle_of_a_pause() {
    let (_held, port) = refusing_port();
    for client in CLIENTS {
        expect_interrupted(client, &["--retries", "1000000", &port], "trying again in");
    }
}

#[test]
fn while_nobody_reads_its_stdout() {
    let server = Server::poem(vec![b'x'; 4_000_000]);
    for client in CLIENTS {
        let (_reader, writer) = UnixStream::pair().expect("a pair");
        let mut command = program(client);
        command.args(["-v", "--ordered", &server.port()]);
        command.stdout(OwnedFd::from(writer)).stderr(Stdio::piped());
        let running = Running::start_as_is(&mut command);
        running.hear("bytes of poetry");
        running.signal(Signal::SIGINT);
        assert_eq!(running.finish().code(), 130, "{client}");
    }
}

#[test]
fn what_is_complete_is_kept_and_the_report_tells_the_rest() {
    let good = Server::poem("a poem\n");
    let stuck = Server::start(|_, mut stream| {
        stream.write_all(b"half a poem").expect("a client");
        drop(read_out(stream));
    });
    for client in CLIENTS {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("UTF-8");
        let args = ["-v", "--json", "-o", path, &good.port(), &stuck.port(), &stuck.port()];
        let moments = [&format!("from {} in ", good.name()), "Task 2: got 11 bytes"];
        let finished = interrupt(client, &args, &moments, Signal::SIGINT);
        assert_eq!(finished.code(), 130, "{finished:?}");
        let files = contents(directory.path());
        assert_eq!(files, [(format!("1-127.0.0.1-{}.txt", good.port()), b"a poem\n".to_vec())], "{client}");
        let report: serde_json::Value = serde_json::from_slice(&finished.stdout).expect("JSON");
        assert_eq!(crate::schema::violations("report.schema.json", &report), [""; 0]);
        let statuses: Vec<&str> =
            report["tasks"].as_array().expect("tasks").iter().filter_map(|task| task["status"].as_str()).collect();
        assert_eq!(statuses, ["ok", "interrupted", "interrupted"], "{client}");
        assert_eq!(report["tasks"][1]["bytes"], 11, "{client}");
        assert_eq!((&report["ok"], &report["failed"]), (&1.into(), &2.into()), "{client}");
    }
}

#[test]
fn sigterm_is_an_interruption_too() {
    let server = Server::start(|_, stream| drop(read_out(stream)));
    for client in CLIENTS {
        let finished = interrupt(client, &["-v", &server.port()], &["connected to"], Signal::SIGTERM);
        assert_eq!(finished.code(), 143, "{finished:?}");
    }
}

#[test]
fn the_end_of_its_terminal_leaves_no_half_file() {
    let server = Server::start(|_, mut stream| {
        stream.write_all(b"half a poem").expect("a client");
        drop(read_out(stream));
    });
    for client in CLIENTS {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("UTF-8");
        let finished = interrupt(client, &["-v", "-o", path, &server.port()], &["got 11 bytes"], Signal::SIGHUP);
        assert_eq!(finished.code(), 129, "{finished:?}");
        assert_eq!(contents(directory.path()), [], "{client}");
    }
}

/// A server that sends its poem when told.
fn when_told() -> (Server, mpsc::Sender<()>) {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = Server::start(move |_, stream| {
        wait.lock().expect("lock").recv().expect("a test");
        send_whole(stream, b"a poem\n");
    });
    (server, go_on)
}

#[test]
fn what_nohup_started_outlives_its_terminal() {
    for client in CLIENTS {
        let (server, go_on) = when_told();
        let running = Running::start(Command::new("nohup").arg(path_of(client)).args(["-v", &server.port()]));
        running.hear("connected to");
        running.signal(Signal::SIGHUP);
        go_on.send(()).expect("the server");
        assert_eq!(running.finish().code(), 0, "{client}");
    }
}

#[test]
fn stopped_and_continued_it_goes_on() {
    // SIGSTOP and SIGCONT make blocking calls with a timeout fail with EINTR, see signal(7).
    for client in CLIENTS {
        let (server, go_on) = when_told();
        let running = Running::start(program(client).args(["-v", &server.port()]));
        running.hear("connected to");
        running.signal(Signal::SIGSTOP);
        running.signal(Signal::SIGCONT);
        go_on.send(()).expect("the server");
        let finished = running.finish();
        assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"a poem\n"[..]), "{finished:?}");
    }
}

#[test]
fn while_nobody_reads_its_stderr() {
    let server = Server::start(|_, mut stream| while stream.write_all(b"and so on\n").is_ok() {});
    for client in CLIENTS {
        let (mut reader, writer) = UnixStream::pair().expect("a pair");
        let mut command = program(client);
        command.args(["-v", "--discard", &server.port(), &server.port()]);
        command.stdout(Stdio::null()).stderr(OwnedFd::from(writer));
        let running = Running::start_as_is(&mut command);
        drop(command);
        // It has begun to talk, and will not stop before the socket is full.
        reader.read_exact(&mut [0; 1_000]).expect("messages");
        running.signal(Signal::SIGINT);
        assert_eq!(running.finish().code(), 130, "{client}");
    }
}

#[test]
fn while_its_report_waits_for_a_reader() {
    let server = Server::poem("a poem\n");
    for client in CLIENTS {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
        let mut command = program(client);
        let running = Running::start(command.arg("--report").arg(&pipe).arg(server.port()));
        running.hear("got 7 bytes");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().code(), 143, "{client}");
    }
}

#[test]
fn stopped_and_continued_again_and_again_a_wait_still_has_its_limit() {
    let full = FullQueue::new();
    let silent = Server::start(|_, stream| drop(read_out(stream)));
    let phases = [(&full.port, "--connect-timeout", "connection"), (&silent.port(), "--idle-timeout", "byte")];
    for (port, limit, phase) in phases {
        with_every_client(|client| {
            let running = Running::start(program(client).args([limit, "400ms", port]));
            running.hear("get poetry from");
            eventually("its end", || {
                running.signal(Signal::SIGSTOP);
                running.signal(Signal::SIGCONT);
                thread::park_timeout(Duration::from_millis(50));
                running.has_ended()
            });
            let line = format!("Task 1: failed: 127.0.0.1:{port}: no {phase} for 400ms");
            assert!(running.finish().has_line(&line), "{client}");
        });
    }
}

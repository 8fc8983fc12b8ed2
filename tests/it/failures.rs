//! What goes wrong, and what of it the clients' users are told. Nothing that arrived whole is lost.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, Barrier};

use serde_json::Value;

use crate::harness::{
    CLIENTS, Finished, FullQueue, LIMIT, Running, Server, finish, program, read_out, refusing_port, reset, run,
    send_whole, with_every_client,
};

const POEM: &[u8] = b"a whole poem\n";

/// Runs a client against a bad address and a good server; the good poem has to arrive.
fn beside_a_good_one(client: &str, bad: &str, options: &[&str]) -> (Finished, Value) {
    let good = Server::poem(POEM);
    let report = tempfile::NamedTempFile::new().expect("a file");
    let path = report.path().to_str().expect("UTF-8");
    let good_port = good.port();
    let mut args = vec!["--report", path, bad, &good_port];
    args.extend(options);
    let finished = run(client, args);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert_eq!(finished.stdout, POEM, "{finished:?}");
    assert!(finished.stderr.lines().last().expect("a line").starts_with("Got 1 of 2 poems in "), "{finished:?}");
    let report: Value = serde_json::from_slice(&std::fs::read(report.path()).expect("a report")).expect("JSON");
    assert_eq!((&report["ok"], &report["failed"]), (&1.into(), &1.into()));
    assert_eq!(report["tasks"][1]["status"], "ok");
    let failed = report["tasks"][0].clone();
    (finished, failed)
}

/// The one line about a failed poem, and its status in the report.
fn expect_failure(client: &str, bad: &str, options: &[&str], address: &str, why: &str, status: &str) {
    let (finished, failed) = beside_a_good_one(client, bad, options);
    assert!(finished.has_line(&format!("Task 1: failed: {address}: {why}")), "{finished:?}");
    assert_eq!(finished.stderr.matches("failed").count(), 1, "{finished:?}");
    assert_eq!(failed["status"], status, "{failed}");
    assert_eq!(failed["error"], why, "{failed}");
}

#[test]
fn refused() {
    let (_held, port) = refusing_port();
    for client in CLIENTS {
        expect_failure(client, &port, &[], &format!("127.0.0.1:{port}"), "connection refused", "refused");
    }
}

#[test]
fn reset_in_the_middle() {
    let server = Server::start(|_, mut stream| {
        stream.write_all(b"half a poem").expect("a client");
        reset(stream);
    });
    for client in CLIENTS {
        expect_failure(client, &server.port(), &[], &server.name(), "connection reset by peer", "reset");
    }
}

#[test]
fn silent_from_the_beginning_and_silent_in_the_middle() {
    for said in [&b""[..], b"half a poem"] {
        let server = Server::start(move |_, mut stream| {
            stream.write_all(said).expect("a client");
            let _ = read_out(stream);
        });
        with_every_client(|client| {
            let options = ["--idle-timeout", LIMIT];
            expect_failure(client, &server.port(), &options, &server.name(), "no byte for 2s", "timeout");
        });
    }
}

#[test]
fn a_poem_that_never_ends() {
    let server = Server::start(|_, mut stream| while stream.write_all(b"and so on\n").is_ok() {});
    with_every_client(|client| {
        let options = ["--timeout", LIMIT];
        expect_failure(client, &server.port(), &options, &server.name(), "not complete after 2s", "timeout");
    });
}

#[test]
fn many_poems_that_never_end() {
    let server = Server::start(|_, mut stream| while stream.write_all(&[b'x'; 65_536]).is_ok() {});
    for client in CLIENTS {
        let mut args = vec![server.port(); 4];
        args.extend(["--timeout", "200ms", "--discard"].map(str::to_owned));
        let finished = run(client, args);
        assert_eq!(finished.stderr.matches("not complete after 200ms").count(), 4, "{finished:?}");
    }
}

#[test]
fn a_queue_that_is_full() {
    let full = FullQueue::new();
    with_every_client(|client| {
        let (options, address) = (["--connect-timeout", LIMIT], format!("127.0.0.1:{}", full.port));
        expect_failure(client, &full.port, &options, &address, "no connection for 2s", "timeout");
    });
}

#[test]
fn a_name_that_does_not_resolve() {
    for client in CLIENTS {
        let (finished, failed) = beside_a_good_one(client, "no-such-host.invalid:10000", &[]);
        let line = "Task 1: failed: no-such-host.invalid:10000: cannot resolve the name: ";
        assert!(finished.stderr.contains(line), "{finished:?}");
        assert_eq!(failed["status"], "unreachable", "{failed}");
    }
}

#[test]
fn with_fail_early_the_first_failure_ends_the_run() {
    let (_held, refuses) = refusing_port();
    let silent = Server::start(|_, stream| drop(read_out(stream)));
    for client in CLIENTS {
        let report = tempfile::NamedTempFile::new().expect("a file");
        let path = report.path().to_str().expect("UTF-8");
        let finished = run(client, ["--fail-early", "--report", path, &refuses, &silent.port(), &silent.port()]);
        assert_eq!(finished.code(), 1, "{finished:?}");
        let why = format!("Task 1: failed: 127.0.0.1:{refuses}: connection refused");
        assert!(finished.has_line(&why), "{finished:?}");
        assert_eq!(finished.stderr.matches("failed").count(), 1, "{finished:?}");
        let last = finished.stderr.lines().last().expect("a line");
        assert!(last.starts_with("Got 0 of 3 poems in ") && last.ends_with("; the first failure ended it"), "{last}");
        let report: Value = serde_json::from_slice(&std::fs::read(report.path()).expect("a report")).expect("JSON");
        let statuses = [0, 1, 2].map(|task| report["tasks"][task]["status"].as_str().expect("a status").to_owned());
        assert_eq!(statuses, ["refused", "interrupted", "interrupted"], "{client}");
    }
}

#[test]
fn with_fail_early_a_retry_is_no_failure() {
    for client in CLIENTS {
        let server = Server::start(|number, stream| match number {
            0 => reset(stream),
            _ => send_whole(stream, POEM),
        });
        let finished = run(client, ["--fail-early", "--retries", "1", &server.port(), &server.port()]);
        assert_eq!((finished.code(), finished.stdout), (0, POEM.repeat(2)), "{}", finished.stderr);
        assert!(finished.stderr.contains("; trying again in "), "{}", finished.stderr);
    }
}

#[test]
fn with_fail_early_what_was_whole_before_is_delivered() {
    // The last server waits until the good poem is over. (With a thread for each poem, its end may be told later.)
    for client in ["get-poetry-select", "get-poetry"] {
        let over = Arc::new(Barrier::new(2));
        let silent = Server::start(|_, stream| drop(read_out(stream)));
        let told = Arc::clone(&over);
        let good = Server::start(move |_, stream| {
            send_whole(stream, POEM);
            told.wait();
        });
        let bad = Server::start(move |_, stream| {
            over.wait();
            reset(stream);
        });
        let finished = run(client, ["--fail-early", "--ordered", &silent.port(), &good.port(), &bad.port()]);
        assert_eq!((finished.code(), &finished.stdout[..]), (1, POEM), "{}", finished.stderr);
        assert!(finished.stderr.contains("Got 1 of 3 poems in "), "{}", finished.stderr);
    }
}

#[test]
fn a_timeout_ends_the_retries() {
    let (_held, port) = refusing_port();
    for client in CLIENTS {
        let finished = run(client, ["--retries", "1000000", "--timeout", "300ms", &port]);
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert_eq!(finished.stderr.matches(": failed: ").count(), 1, "{finished:?}");
    }
}

#[test]
fn an_output_directory_that_cannot_be() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let below = file.path().join("poems");
    let server = Server::poem(POEM);
    for client in CLIENTS {
        for directory in [file.path(), &below] {
            let directory = directory.to_str().expect("UTF-8");
            let finished = run(client, ["-o", directory, &server.port()]);
            let complaint = format!("{client}: cannot write into {directory}: not a directory");
            assert_eq!((finished.complaint(), finished.code()), (&*complaint, 1));
        }
    }
}

#[test]
fn a_full_disk_under_stdout() {
    let (first, second) = (Server::poem(POEM), Server::poem(POEM));
    for client in CLIENTS {
        for options in [&[][..], &["--ordered"]] {
            let report = tempfile::NamedTempFile::new().expect("a file");
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
            let mut command = program(client);
            command.args(options).arg("--report").arg(report.path()).args([first.port(), second.port()]);
            command.stdout(full).stderr(Stdio::piped());
            let finished = Running::start_as_is(&mut command).finish();
            for (task, server) in [(1, &first), (2, &second)] {
                let why = "cannot write stdout: no space left on device";
                let line = format!("Task {task}: failed: {}: {why}", server.name());
                assert!(finished.has_line(&line), "{finished:?}");
            }
            assert!(finished.stderr.contains("Got 0 of 2 poems in "), "{finished:?}");
            assert_eq!(finished.code(), 1);
            let report = std::fs::read_to_string(report.path()).expect("a report");
            assert_eq!(report.matches(r#""status":"error""#).count(), 2, "{report}");
        }
    }
}

#[test]
fn a_report_that_cannot_be_written() {
    let server = Server::poem(POEM);
    for client in CLIENTS {
        let finished = run(client, ["-q", "--report", "/dev/full", &server.port()]);
        assert_eq!(finished.complaint(), "Cannot write the report to /dev/full: no space left on device");
        assert_eq!((finished.code(), &finished.stdout[..]), (1, POEM));

        let finished = run(client, ["-q", "--report", "/no/such/report", &server.port()]);
        let complaint = format!("{client}: cannot write /no/such/report: no such file or directory");
        assert_eq!((finished.complaint(), finished.code()), (&*complaint, 1));
        assert!(finished.stdout.is_empty(), "nothing is fetched: {finished:?}");
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let good = Server::poem(POEM);
    // The second poem never comes: the end of the run is the closed pipe.
    let silent = Server::start(|_, stream| drop(read_out(stream)));
    for client in CLIENTS {
        for options in [&[][..], &["--ordered"]] {
            let (reader, writer) = UnixStream::pair().expect("a pair");
            drop(reader);
            let mut command = program(client);
            command.args(options).args(["-q", &good.port(), &silent.port()]);
            command.stdout(OwnedFd::from(writer)).stderr(Stdio::piped());
            let finished = Running::start_as_is(&mut command).finish();
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{client}");
        }
    }
}

#[test]
fn help_and_version_survive_a_reader_that_leaves() {
    for name in CLIENTS.into_iter().chain(["slowpoetry"]) {
        for option in ["--help", "-h", "--version"] {
            let (reader, writer) = UnixStream::pair().expect("a pair");
            drop(reader);
            let mut command = program(name);
            command.arg(option).stdout(OwnedFd::from(writer)).stderr(Stdio::piped());
            let finished = Running::start_as_is(&mut command).finish();
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{name} {option}");
        }
    }
}

#[test]
fn standard_streams_that_are_closed_are_no_reason_to_fail() {
    let server = Server::poem(POEM);
    for client in CLIENTS {
        let path = crate::harness::path_of(client);
        let script = format!("exec '{}' {} <&- 2>&-", path.display(), server.port());
        let finished = finish(std::process::Command::new("sh").args(["-c", &script]));
        assert_eq!((finished.code(), &finished.stdout[..]), (0, POEM), "{client}");
    }
}

//! Where the clients put poems.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

use crate::harness::{
    CLIENTS, CONCURRENT, LIMIT, Running, Server, contents, finish, path_of, program, reset, run, send_whole,
    with_every_client,
};

#[test]
fn poems_come_out_whole_in_order_of_completion() {
    for client in CONCURRENT {
        // Both have sent a half before either goes on; then the second is told of before the first goes on.
        let half = Arc::new(Barrier::new(2));
        let at_half = Arc::clone(&half);
        let (go_on, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let first = Server::start(move |_, mut stream| {
            stream.write_all(b"one, ").expect("a client");
            at_half.wait();
            wait.lock().expect("lock").recv().expect("the test");
            send_whole(stream, b"still one\n");
        });
        let second = Server::start(move |_, mut stream| {
            stream.write_all(b"two, ").expect("a client");
            half.wait();
            send_whole(stream, b"still two\n");
        });
        let running = Running::start(program(client).args([first.port(), second.port()]));
        running.hear("Task 2: got 15 bytes");
        go_on.send(()).expect("the first");
        let finished = running.finish();
        assert_eq!(finished.stdout, b"two, still two\none, still one\n", "{finished:?}");
    }
}

#[test]
fn ordered_keeps_the_order_and_shows_the_first_poem_live() {
    for client in CLIENTS {
        let (go_on, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let first = Server::start(move |_, mut stream| {
            stream.write_all(b"live, ").expect("a client");
            wait.lock().expect("lock").recv().expect("the reader");
            send_whole(stream, b"then more\n");
        });
        let second = Server::poem("second\n");
        let (mut reader, writer) = UnixStream::pair().expect("a pair");
        let mut command = program(client);
        command.args(["-q", "--ordered", &first.port(), &second.port()]);
        let running = Running::start_as_is(command.stdout(OwnedFd::from(writer)));
        drop(command);
        let mut live = [0; 6];
        reader.read_exact(&mut live).expect("live bytes");
        assert_eq!(&live, b"live, ");
        go_on.send(()).expect("the server");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("the rest");
        assert_eq!(rest, b"then more\nsecond\n", "{client}");
        assert_eq!(running.finish().code(), 0);
    }
}

#[test]
fn a_live_poem_that_is_retried_goes_on_where_it_broke_off() {
    for client in CLIENTS {
        let (tell, told) = mpsc::channel::<()>();
        let told = Mutex::new(told);
        let server = Server::start(move |number, mut stream| {
            if number == 0 {
                stream.write_all(b"to be ").expect("a client");
                told.lock().expect("lock").recv().expect("the reader");
                reset(stream);
            } else {
                send_whole(stream, b"to be or not to be\n");
            }
        });
        let (mut reader, writer) = UnixStream::pair().expect("a pair");
        let mut command = program(client);
        command.args(["-q", "--ordered", "--retries", "3", &server.port()]);
        let running = Running::start_as_is(command.stdout(OwnedFd::from(writer)));
        drop(command);
        let mut text = vec![0; 6];
        reader.read_exact(&mut text).expect("live bytes");
        tell.send(()).expect("the server");
        reader.read_to_end(&mut text).expect("the rest");
        assert_eq!(text, b"to be or not to be\n", "{client}");
        assert_eq!(running.finish().code(), 0);
    }
}

#[test]
fn a_failed_poem_leaves_the_order_to_the_others() {
    let bad = Server::start(|_, stream| reset(stream));
    let (first, last) = (Server::poem("first\n"), Server::poem("last\n"));
    for client in CLIENTS {
        let finished = run(client, ["--ordered", &first.port(), &bad.port(), &last.port()]);
        assert_eq!((finished.code(), &finished.stdout[..]), (1, &b"first\nlast\n"[..]), "{finished:?}");
    }
}

#[test]
fn each_poem_has_a_file_and_a_failed_one_has_none() {
    let (good, empty) = (Server::poem("a poem\n"), Server::poem(""));
    let bad = Server::start(|_, mut stream| {
        let _ = stream.write_all(b"half");
        reset(stream);
    });
    for client in CLIENTS {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("made/on/demand");
        let mut command = program(client);
        command.arg("-o").arg(&directory).args([good.port(), bad.port(), empty.port()]);
        let finished = finish(&mut command);
        assert_eq!((finished.code(), finished.stdout.len()), (1, 0), "{finished:?}");
        let expected = [
            (format!("1-127.0.0.1-{}.txt", good.port()), b"a poem\n".to_vec()),
            (format!("3-127.0.0.1-{}.txt", empty.port()), Vec::new()),
        ];
        assert_eq!(contents(&directory), expected, "{client}");
    }
}

#[test]
fn files_obey_the_umask_and_replace_older_ones() {
    let server = Server::poem("new\n");
    for client in CLIENTS {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(format!("1-127.0.0.1-{}.txt", server.port()));
        fs::write(&path, "old").expect("written");
        let program = path_of(client);
        let script =
            format!("umask 027; exec '{}' -o '{}' {}", program.display(), directory.path().display(), server.port());
        let finished = finish(Command::new("sh").args(["-c", &script]));
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert_eq!(fs::read(&path).expect("the poem"), b"new\n");
        assert_eq!(fs::metadata(&path).expect("the poem").permissions().mode() & 0o777, 0o640);
    }
}

#[test]
fn a_stdout_that_somebody_made_non_blocking_gets_every_byte() {
    let server = Server::poem(vec![b'x'; 1_000_000]);
    for client in CLIENTS {
        for option in ["--ordered", "--json"] {
            let (mut reader, writer) = UnixStream::pair().expect("a pair");
            writer.set_nonblocking(true).expect("non-blocking");
            let mut command = program(client);
            command.arg("-q").args(vec![server.port(); 20]).args(["-j", "1", option]);
            let running = Running::start_as_is(command.stdout(OwnedFd::from(writer)));
            drop(command);
            let mut bytes = Vec::new();
            if option == "--ordered" {
                // More than the socket holds has been written before it is read.
                reader.read_exact(&mut [0; 1]).expect("a byte");
                std::thread::park_timeout(Duration::from_millis(50));
                bytes.push(b'x');
            }
            reader.read_to_end(&mut bytes).expect("the rest");
            assert_eq!(running.finish().code(), 0, "{client} {option}");
            let whole = if option == "--ordered" { bytes.len() == 20_000_000 } else { bytes.ends_with(b"]}\n") };
            assert!(whole, "{client} {option}: {} bytes", bytes.len());
        }
    }
}

#[test]
fn discard_writes_nothing() {
    let server = Server::poem("a poem\n");
    for client in CLIENTS {
        let finished = run(client, ["--discard", &server.port()]);
        assert_eq!((finished.code(), finished.stdout.len()), (0, 0), "{finished:?}");
        assert!(finished.stderr.contains("got 7 bytes"), "{finished:?}");
    }
}

/// Reads what a client writes only after longer than the client has patience with its servers.
fn dawdle(order: &[&str]) {
    let poem = vec![b'x'; 1_000_000];
    let large = Server::poem(poem.clone());
    let quick = Server::poem("quick\n");
    with_every_client(|client| {
        let (mut reader, writer) = UnixStream::pair().expect("a pair");
        let mut command = program(client);
        command.args(order).args(["-q", "--idle-timeout", LIMIT, &large.port(), &quick.port()]);
        let running = Running::start_as_is(command.stdout(OwnedFd::from(writer)));
        drop(command);
        let mut first = [0];
        reader.read_exact(&mut first).expect("a byte");
        std::thread::park_timeout(Duration::from_secs(3));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("the rest");
        assert_eq!(rest.len() + 1, poem.len() + 6, "{client}");
        assert_eq!(running.finish().code(), 0, "{client}");
    });
}

#[test]
fn a_stalled_stdout_holds_up_poems_but_loses_none() {
    dawdle(&[]);
}

#[test]
fn a_stalled_stdout_in_order_holds_up_poems_but_loses_none() {
    dawdle(&["--ordered"]);
}

//! What all four clients promise, whatever their model of waiting.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};

use crate::harness::{CLIENTS, CONCURRENT, Server, Service, poem_file, read_out, run, send_whole};

/// Poems that a careless client would spoil.
fn awkward_poems() -> Vec<(&'static str, Vec<u8>)> {
    let large = (0..5_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    vec![
        ("empty", Vec::new()),
        ("one byte", b"\n".to_vec()),
        ("every byte value", (0..=255).collect()),
        ("CRLF", b"one\r\ntwo\r\n\r\n".to_vec()),
        ("not UTF-8", b"caf\xe9 \xff\xfe\0".to_vec()),
        ("no newline at the end", "fin".into()),
        ("5 MB", large),
    ]
}

#[test]
fn poems_arrive_byte_for_byte() {
    for (name, poem) in awkward_poems() {
        let server = Server::poem(poem.clone());
        for client in CLIENTS {
            let finished = run(client, [server.port()]);
            assert!(finished.stdout == poem, "{client}: {name}");
            assert_eq!(finished.code(), 0, "{client}: {name}");
        }
    }
}

#[test]
fn every_way_to_cut_a_poem_gives_the_same_poem() {
    let poem = fs::read(poem_file("jingyesi.txt")).expect("the poem");
    let pieces = poem.clone();
    // The size of the pieces grows from connection to connection; the first cuts inside every character.
    let server = Server::start(move |number, mut stream| {
        stream.set_nodelay(true).expect("nodelay");
        for piece in pieces.chunks(number / 4 + 1) {
            let _ = stream.write_all(piece);
        }
        send_whole(stream, b"");
    });
    for _ in 0..8 {
        for client in CLIENTS {
            assert!(run(client, [server.port()]).stdout == poem, "{client}");
        }
    }
}

#[test]
fn poems_arrive_from_slowpoetry() {
    for name in ["ecstasy.txt", "sera.txt", "lyubil.txt"] {
        let poem = fs::read(poem_file(name)).expect("the poem");
        for num_bytes in ["1", "7", "64KiB"] {
            let server = Service::slow(&poem_file(name), ["--delay", "0", "--num-bytes", num_bytes]);
            for client in CLIENTS {
                let finished = run(client, [server.port()]);
                assert!(finished.stdout == poem, "{client}: {name} in pieces of {num_bytes}");
            }
        }
    }
}

#[test]
fn the_messages_are_those_of_the_specification() {
    let (first, second) = (Server::poem("a poem\n"), Server::poem("another\n"));
    for client in CLIENTS {
        let finished = run(client, ["-v", &first.port(), &second.port()]);
        let (one, two) = (first.name(), second.name());
        assert!(finished.has_line(&format!("Task 1: get poetry from: {one}")), "{finished:?}");
        assert!(finished.has_timed_line(&format!("Task 2: got 8 bytes of poetry from {two}")), "{finished:?}");
        let done = format!("Task 1: got 7 bytes of poetry from {one} in ");
        assert!(finished.stderr.lines().any(|line| line.starts_with(&done)), "{finished:?}");
        let last = finished.stderr.lines().last().expect("a line");
        assert!(last.starts_with("Got 2 poems in "), "{last}");
        assert_eq!(finished.code(), 0);
    }
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    let server = Server::poem("a poem\n");
    for client in CLIENTS {
        assert_eq!(run(client, ["-q", &server.port()]).stderr, "", "{client}");
    }
}

#[test]
fn a_name_is_looked_up_and_each_of_its_addresses_tried() {
    // `localhost` may be ::1 as well, where nobody listens.
    let server = Server::poem("a poem\n");
    for client in CLIENTS {
        let finished = run(client, [format!("localhost:{}", server.port())]);
        assert_eq!(finished.stdout, b"a poem\n", "{finished:?}");
    }
}

#[test]
fn ipv6_addresses_stand_in_brackets() {
    let server = Service::slow(&poem_file("science.txt"), ["--delay", "0", "--iface", "::1"]);
    for client in CLIENTS {
        let finished = run(client, [format!("[::1]:{}", server.port())]);
        assert_eq!(finished.stdout.len(), 653, "{finished:?}");
    }
}

#[test]
fn blocking_fetches_one_poem_after_another_and_the_others_all_at_once() {
    const POEMS: usize = 6;
    for client in CONCURRENT {
        // Nobody gets a poem before everybody is connected.
        let together = Barrier::new(POEMS);
        let server = Server::start(move |_, stream| {
            together.wait();
            send_whole(stream, b"a poem\n");
        });
        let finished = run(client, vec![server.port(); POEMS]);
        assert_eq!(finished.stdout, b"a poem\n".repeat(POEMS), "{finished:?}");
    }

    let (most, server) = counting_server(None);
    run("get-poetry-blocking", vec![server.port(); POEMS]);
    assert_eq!(most.load(Ordering::Acquire), 1);
}

#[test]
fn max_concurrency_bounds_the_poems_under_way() {
    for client in CONCURRENT {
        let (most, server) = counting_server(Some(2));
        let mut args = vec![server.port(); 6];
        args.extend(["-j".to_owned(), "2".to_owned()]);
        let finished = run(client, args);
        assert_eq!(finished.stdout.len(), 6 * 7, "{finished:?}");
        assert_eq!(most.load(Ordering::Acquire), 2, "{client}");
    }
}

/// A server that counts how many clients it has at most. If told so, it waits until it has had so many.
fn counting_server(until: Option<usize>) -> (Arc<AtomicUsize>, Server) {
    let most = Arc::new(AtomicUsize::new(0));
    let noted = Arc::clone(&most);
    let (present, changed) = (Mutex::new(0usize), Condvar::new());
    let server = Server::start(move |_, mut stream: TcpStream| {
        let mut count = present.lock().expect("lock");
        *count += 1;
        noted.fetch_max(*count, Ordering::AcqRel);
        changed.notify_all();
        if let Some(until) = until {
            count = changed.wait_while(count, |_| noted.load(Ordering::Acquire) < until).expect("lock");
        }
        drop(count);
        stream.write_all(b"a poem\n").expect("a client");
        // The client is there until it has seen the end of the poem and so the count is taken down before.
        *present.lock().expect("lock") -= 1;
        send_whole(stream, b"");
    });
    (most, server)
}

#[test]
fn a_failed_poem_is_tried_again_as_often_as_asked() {
    for client in CLIENTS {
        for (retries, code, attempts) in [("2", 0, 3), ("1", 1, 2)] {
            let server = Server::start(|number, mut stream| match number {
                0 => crate::harness::reset(stream),
                1 => {
                    stream.write_all(b"half a ").expect("a client");
                    let _ = stream.set_nodelay(true);
                    crate::harness::reset(stream);
                }
                _ => send_whole(stream, b"a whole poem\n"),
            });
            let finished = run(client, ["--retries", retries, "--report", "/dev/stderr", &server.port()]);
            assert_eq!(finished.code(), code, "{finished:?}");
            assert_eq!(finished.stdout, if code == 0 { &b"a whole poem\n"[..] } else { b"" }, "{finished:?}");
            assert!(finished.stderr.contains(&format!("\"attempts\":{attempts},")), "{finished:?}");
            assert_eq!(finished.stderr.matches("; trying again in ").count(), attempts - 1, "{finished:?}");
        }
    }
}

#[test]
fn a_client_says_nothing_and_closes_when_the_poem_is_over() {
    for client in CLIENTS {
        let (tell, told) = std::sync::mpsc::channel();
        let server = Server::start(move |_, mut stream| {
            stream.write_all(b"a poem\n").expect("a client");
            stream.shutdown(std::net::Shutdown::Write).expect("a client");
            tell.send(read_out(stream)).expect("a test");
        });
        assert_eq!(run(client, [server.port()]).code(), 0);
        assert_eq!(told.recv().expect("a connection").expect("no reset"), b"", "{client}");
    }
}

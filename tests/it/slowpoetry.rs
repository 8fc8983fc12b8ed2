//! The slow server among clients of every kind.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use socket2::SockRef;

use crate::harness::{
    LIMIT, Running, Service, eventually, large_poem, poem_file, program, read_out, read_some, reset, run,
};

fn science() -> PathBuf {
    poem_file("science.txt")
}

const QUICK: [&str; 4] = ["--delay", "0", "--num-bytes", "64KiB"];

#[test]
fn the_address_line_names_the_file_and_the_real_port() {
    let server = Service::slow(&science(), QUICK);
    assert_eq!(server.line, format!("Serving {} on 127.0.0.1:{}.\n", science().display(), server.port()));
    assert_ne!(server.address.port(), 0);
}

#[test]
fn clients_are_served_one_after_another() {
    let server = Service::slow(&science(), ["--delay", "1h"]);
    let mut first = server.connect();
    let mut piece = [0; 10];
    first.read_exact(&mut piece).expect("the first piece");
    assert_eq!(&piece, b"Sonnet - T");
    let second = server.connect();
    // The second one waits in the queue until the first has left; it gets nothing before.
    second.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    assert_eq!(read_some(&second, &mut piece), Err(io::ErrorKind::WouldBlock), "nothing yet");
}

#[test]
fn the_pieces_and_the_summary_are_logged() {
    let server = Service::slow(&science(), ["-v", "--delay", "0", "--num-bytes", "500"]);
    assert_eq!(server.fetch().expect("a poem").len(), 653);
    server.hear("Sent 653 bytes to 127.0.0.1:");
    let finished = server.stop();
    for part in [" wants poetry!", "Somebody at 127.0.0.1:", "Sending 500 bytes", "Sending 153 bytes"] {
        assert!(finished.stderr.contains(part), "{part}: {finished:?}");
    }
}

#[test]
fn a_client_that_disappears_does_not_keep_the_next_one_waiting() {
    // Slow enough that a busy machine does not keep a client from leaving before the end.
    let server = Service::slow(&science(), ["--delay", "40ms"]);
    for _ in 0..3 {
        let mut client = server.connect();
        client.read_exact(&mut [0; 10]).expect("the first piece");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
        drop(client);
        server.hear("went away after");
    }
    assert_eq!(server.fetch().expect("a poem"), fs::read(science()).expect("the poem"));
}

#[test]
fn a_client_that_closes_in_the_middle_is_noticed() {
    // Slow enough that a busy machine does not keep the client from leaving before the end.
    let server = Service::slow(&science(), ["--delay", "40ms"]);
    let mut client = server.connect();
    client.read_exact(&mut [0; 10]).expect("the first piece");
    drop(client);
    server.hear("went away after");
    assert_eq!(server.fetch().expect("a poem").len(), 653);
}

#[test]
fn a_client_that_talks_still_gets_every_byte() {
    let server = Service::slow(&science(), QUICK);
    for talk in [b"GET / HTTP/1.0\r\n\r\n".to_vec(), vec![b'?'; 1 << 20]] {
        let client = server.connect();
        let mut writer = client.try_clone().expect("a clone");
        // The request is longer than the buffers: it goes on while the poem is sent and after.
        let talking = std::thread::spawn(move || writer.write_all(&talk));
        let poem = read_out(client).expect("no reset");
        assert_eq!(poem, fs::read(science()).expect("the poem"));
        talking.join().expect("talker").expect("heard to the end");
    }
}

#[test]
fn a_client_that_half_closes_at_once_gets_the_poem() {
    let server = Service::slow(&science(), QUICK);
    let client = server.connect();
    client.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(read_out(client).expect("a poem").len(), 653);
}

#[test]
fn a_client_that_never_closes_is_let_go() {
    let server = Service::slow(&science(), QUICK);
    let mut lingering = server.connect();
    let mut poem = Vec::new();
    lingering.read_to_end(&mut poem).expect("a poem");
    // It is still open on this side; the next client is served all the same.
    assert_eq!(server.fetch().expect("a poem"), poem);
}

#[test]
fn a_client_that_never_reads_is_dropped_with_a_reset() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = ["--write-timeout", LIMIT, "--delay", "0", "--num-bytes", "64M"];
    let server = Service::slow(&large_poem(directory.path()), options);
    let stalled = server.connect();
    eventually("the end of its patience", || {
        // Stopped and continued in the middle of its call, it has waited all the same.
        server.signal(Signal::SIGSTOP);
        server.signal(Signal::SIGCONT);
        thread::park_timeout(Duration::from_millis(500));
        server.has_said("it took none for 2s")
    });
    let read = read_out(stalled).map(|poem| poem.len());
    assert_eq!(read.expect_err("half a poem").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(server.fetch().expect("a poem").len(), 64 << 20);
}

#[test]
fn the_file_is_opened_afresh_for_every_client() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("poem.txt");
    fs::write(&path, "one\n").expect("written");
    let server = Service::slow(&path, QUICK);
    assert_eq!(server.fetch().expect("a poem"), b"one\n");
    fs::write(&path, "").expect("written");
    assert_eq!(server.fetch().expect("an empty poem"), b"");
    fs::remove_file(&path).expect("removed");
    // No poem is not an empty poem.
    assert_eq!(server.fetch().expect_err("no poem").kind(), io::ErrorKind::ConnectionReset);
    fs::write(&path, "two\n").expect("written");
    assert_eq!(server.fetch().expect("a poem"), b"two\n");
    let finished = server.stop();
    assert!(finished.stderr.contains("poem.txt: no such file or directory"), "{finished:?}");
}

#[test]
fn it_ends_after_as_many_clients_as_asked() {
    let server = Service::slow(&science(), QUICK.into_iter().chain(["--clients", "2"]));
    for _ in 0..2 {
        assert_eq!(server.fetch().expect("a poem").len(), 653);
    }
    assert_eq!(server.finish().code(), 0);
}

#[test]
fn the_length_of_the_queue_is_in_the_log() {
    let service = Service::slow(&science(), ["--delay", "1h", "--grace", "0"]);
    let first = service.connect();
    read_some(&first, &mut [0; 10]).expect("the first piece");
    let others = [service.connect(), service.connect(), service.connect()];
    reset(first);
    let mut others = others.into_iter();
    for waiting in ["2 more wait", "One more waits"] {
        service.hear(&format!(" wants poetry! {waiting}"));
        reset(others.next().expect("a client"));
    }
    let last = others.next().expect("a client").local_addr().expect("an address");
    service.hear(&format!("Somebody at {last} wants poetry!"));
}

#[test]
fn a_taken_port_is_one_line_and_exit_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("bound");
    let finished = run("slowpoetry", ["-q", "--port", &address.port().to_string(), science().to_str().expect("UTF-8")]);
    assert_eq!(finished.complaint(), format!("slowpoetry: cannot listen on {address}: address already in use"));
    assert_eq!((finished.code(), finished.stdout.len()), (1, 0));
}

#[test]
fn an_interface_that_does_not_resolve_is_one_line_and_exit_status_1() {
    let finished = run("slowpoetry", ["--iface", "no-such-host.invalid", science().to_str().expect("UTF-8")]);
    assert!(
        finished.complaint().starts_with("slowpoetry: cannot resolve no-such-host.invalid, which is no IP address: "),
        "{finished:?}"
    );
    assert_eq!(finished.code(), 1);
}

#[test]
fn a_name_with_several_addresses_is_bound_at_its_ipv4_one() {
    let server = Service::slow(&science(), ["--iface", "localhost"]);
    assert!(server.address.is_ipv4());
}

#[test]
fn nobody_has_to_read_the_address_line() {
    let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
    drop(reader);
    let mut command = program("slowpoetry");
    command.args(["-v", "--clients", "1"]).arg(science()).stderr(Stdio::piped());
    let running = Running::start_as_is(command.stdout(std::os::fd::OwnedFd::from(writer)));
    drop(command);
    running.hear("A client needs");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code(), 0);
}

#[test]
fn idle_it_stops_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Service::slow(&science(), ["--grace", "1h"]);
        server.signal(signal);
        assert_eq!(server.finish().code(), 0);
    }
}

#[test]
fn while_stopping_it_finishes_its_client_and_refuses_others() {
    let server = Service::slow(&science(), ["--grace", "1h", "--delay", "10ms"]);
    let mut client = server.connect();
    client.read_exact(&mut [0; 10]).expect("the first piece");
    let queued = server.connect();
    server.signal(Signal::SIGTERM);
    // Whoever waits in the queue is reset, and then the door is closed.
    assert!(read_out(queued).is_err());
    assert_eq!(TcpStream::connect(server.address).expect_err("closed").kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(read_out(client).expect("the rest").len(), 643);
    let finished = server.finish();
    assert_eq!(finished.code(), 0);
    assert!(finished.stderr.contains("Sent 653 bytes"), "{finished:?}");
}

#[test]
fn the_end_of_the_grace_time_resets_the_client() {
    let server = Service::slow(&science(), ["--grace", "50ms", "--delay", "1h"]);
    let mut client = server.connect();
    client.read_exact(&mut [0; 10]).expect("the first piece");
    server.signal(Signal::SIGTERM);
    assert_eq!(read_out(client).expect_err("half a poem").kind(), io::ErrorKind::ConnectionReset);
    let finished = server.finish();
    assert_eq!(finished.code(), 0);
    assert!(finished.stderr.contains("after 10 of 653 bytes: stopping"), "{finished:?}");
}

#[test]
fn a_second_signal_skips_the_grace_time() {
    let server = Service::slow(&science(), ["--grace", "1h", "--delay", "1h"]);
    let mut client = server.connect();
    client.read_exact(&mut [0; 10]).expect("the first piece");
    server.signal(Signal::SIGTERM);
    // The first signal has done its work when the door is closed.
    eventually("a closed door", || TcpStream::connect(server.address).is_err());
    server.signal(Signal::SIGINT);
    assert_eq!(read_out(client).expect_err("half a poem").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(server.finish().code(), 0);
}

#[test]
fn a_client_that_never_reads_does_not_hold_up_the_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = ["--grace", "50ms", "--write-timeout", "0", "--delay", "0", "--num-bytes", "64M"];
    let server = Service::slow(&large_poem(directory.path()), options);
    let stalled = server.connect();
    server.hear("wants poetry");
    // Some bytes have come: it is in the middle of its one large write.
    eventually("a byte", || stalled.peek(&mut [0]).is_ok());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.finish().code(), 0);
    let read = read_out(stalled).map(|poem| poem.len());
    assert_eq!(read.expect_err("half a poem").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_pipe_that_nobody_fills_does_not_hold_up_the_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let port_file = directory.path().join("port");
    let server = Service::slow(&pipe, ["--grace", "1h", "--port-file", port_file.to_str().expect("UTF-8")]);
    let client = server.connect();
    server.hear("wants poetry");
    assert!(port_file.exists());
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGINT);
    assert_eq!(server.finish().code(), 0);
    assert!(!port_file.exists(), "whichever thread ends the process");
    // No poem is not an empty poem.
    assert_eq!(read_out(client).expect_err("no poem").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_pipe_can_be_served_once() {
    let path = crate::harness::path_of("slowpoetry");
    let script = format!("exec '{}' --delay 0 --clients 1 <(echo a pipe)", path.display());
    let mut command = std::process::Command::new("bash");
    let server = Service::start(command.args(["-c", &script]));
    assert_eq!(server.fetch().expect("a poem"), b"a pipe\n");
    assert_eq!(server.finish().code(), 0);
}

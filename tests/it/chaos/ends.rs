//! Ends are passed on as what they are, whenever they come: a reset as a reset, and never as a clean end.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::chaos;
use crate::harness::{PATIENCE, Server, Service, eventually, read_out, reset};

/// An upstream whose connections are the test's.
fn upstream() -> (Server, Receiver<TcpStream>) {
    let (tell, told): (Sender<TcpStream>, _) = mpsc::channel();
    let server = Server::start(move |_, stream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        // A test that is over wants no more of them.
        let _ = tell.send(stream);
    });
    (server, told)
}

fn client(proxy: &Service) -> TcpStream {
    let stream = proxy.connect();
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// How a stream ends, and what came before.
fn end(mut stream: &TcpStream) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
    (bytes, error)
}

/// Has a proxy stand still, until SIGCONT.
fn stop(proxy: &Service) {
    proxy.signal(Signal::SIGSTOP);
    let stat = format!("/proc/{}/stat", proxy.pid());
    eventually("it stands still", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
}

const RESET: Option<io::ErrorKind> = Some(io::ErrorKind::ConnectionReset);

#[test]
fn a_reset_of_upstream_is_one_whatever_the_client_says_meanwhile() {
    const POST: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    for (args, first) in
        [(&[][..], "a"), (&["--latency", "1ms", "--direction", "both"], "a"), (&["--protocol", "http"], POST)]
    {
        let (server, told) = upstream();
        let proxy = chaos(args, &server.port());
        for _ in 0..20 {
            let mut stream = client(&proxy);
            stream.write_all(first.as_bytes()).expect("sent");
            let mut its = told.recv_timeout(PATIENCE).expect("a connection");
            its.read_exact(&mut vec![0; first.len()]).expect("passed on");
            // Both at once, to the proxy.
            stop(&proxy);
            reset(its);
            stream.write_all(b"b").expect("sent");
            proxy.signal(Signal::SIGCONT);
            assert_eq!(end(&stream), (vec![], RESET), "{args:?}");
        }
    }
}

#[test]
fn a_reset_of_a_kept_upstream_is_one_before_and_after_a_reply() {
    const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (server, told) = upstream();
    let proxy = chaos(&["--protocol", "http"], &server.port());
    for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"]
    {
        for is_at_once in [true, false] {
            let mut stream = client(&proxy);
            stream.write_all(request.as_bytes()).expect("sent");
            let mut its = told.recv_timeout(PATIENCE).expect("a connection");
            its.read_exact(&mut vec![0; request.len()]).expect("passed on");
            its.write_all(REPLY).expect("sent");
            if is_at_once {
                reset(its);
            } else {
                let mut reply = vec![0; REPLY.len()];
                stream.read_exact(&mut reply).expect("a reply");
                reset(its);
            }
            assert_eq!(end(&stream).1, RESET, "{request} {is_at_once}");
        }
    }
}

#[test]
fn a_client_that_resets_between_requests_is_a_reset_for_upstream() {
    for args in [&["--protocol", "http"][..], &["--protocol", "http", "--behavior", "100:delay", "--delay-after"]] {
        let (server, told) = upstream();
        let proxy = chaos(args, &server.port());
        let mut stream = client(&proxy);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut its = told.recv_timeout(PATIENCE).expect("a connection");
        its.read_exact(&mut [0; 27]).expect("passed on");
        its.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("sent");
        stream.read_exact(&mut [0; 27]).expect("a reply");
        reset(stream);
        assert_eq!(end(&its), (vec![], RESET), "{args:?}");
    }
}

#[test]
fn an_upstream_that_takes_nothing_is_reset_and_the_client_is_told() {
    let (server, told) = upstream();
    let proxy = chaos(&["--write-timeout", "300ms"], &server.port());
    let mut stream = client(&proxy);
    // More than all buffers hold.
    let sent = stream.write_all(&vec![7; 50 << 20]);
    let its = told.recv_timeout(PATIENCE).expect("a connection");
    assert!(sent.is_err(), "it is not taken");
    proxy.hear("upstream took nothing for 300ms");
    assert_eq!(end(&its).1, RESET);
}

#[test]
fn a_stop_resets_what_is_cut_short_on_both_sides() {
    let (server, told) = upstream();
    let proxy = chaos(&["--grace", "100ms"], &server.port());
    let mut stream = client(&proxy);
    stream.write_all(b"half a message").expect("sent");
    let mut its = told.recv_timeout(PATIENCE).expect("a connection");
    its.read_exact(&mut [0; 14]).expect("passed on");
    assert_eq!(proxy.stop().code(), 0);
    assert_eq!((end(&stream), end(&its)), ((vec![], RESET), (vec![], RESET)));
}

#[test]
fn a_reset_after_a_half_close_ends_the_connection() {
    for args in [&["-v"][..], &["-v", "--protocol", "http"]] {
        for is_client in [true, false] {
            let (server, told) = upstream();
            let proxy = chaos(args, &server.port());
            let mut stream = client(&proxy);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
            let mut its = told.recv_timeout(PATIENCE).expect("a connection");
            its.read_exact(&mut [0; 27]).expect("passed on");
            let (from, to) = if is_client { (stream, its) } else { (its, stream) };
            from.shutdown(Shutdown::Write).expect("connected");
            assert_eq!(end(&to), (vec![], None));
            reset(from);
            // Nobody says anything any more, and yet it ends.
            proxy.hear(if args.len() == 1 { "Connection 1, " } else { "Request 1, " });
        }
    }
}

#[test]
fn a_client_that_resets_is_noticed_though_upstream_is_gone() {
    let (server, told) = upstream();
    // What upstream has said is under way for longer than anybody waits.
    let proxy = chaos(&["-v", "--num-bytes", "10", "--pace", "1h"], &server.port());
    let mut stream = client(&proxy);
    let mut its = told.recv_timeout(PATIENCE).expect("a connection");
    its.write_all(&[b'x'; 100]).expect("sent");
    stream.read_exact(&mut [0; 10]).expect("passed on");
    its.shutdown(Shutdown::Write).expect("connected");
    reset(its);
    stream.write_all(b"a").expect("sent");
    reset(stream);
    let line = proxy.hear("Connection 1, ");
    assert!(line.ends_with(", RST, it broke"), "{line}");
}

#[test]
fn a_reset_of_upstream_after_its_end_is_one_whatever_the_client_says_meanwhile() {
    let (server, told) = upstream();
    let proxy = chaos(&["-v"], &server.port());
    for number in 1..=20 {
        let mut stream = client(&proxy);
        let its = told.recv_timeout(PATIENCE).expect("a connection");
        its.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(end(&stream), (vec![], None));
        // Both at once, to the proxy.
        stop(&proxy);
        reset(its);
        stream.write_all(b"b").expect("sent");
        proxy.signal(Signal::SIGCONT);
        let line = proxy.hear(&format!("Connection {number}, "));
        assert!(line.ends_with(", RST"), "{line}");
    }
}

#[test]
fn a_body_that_nobody_understands_is_passed_on_as_bytes() {
    let (server, told) = upstream();
    let proxy = chaos(&["--protocol", "http"], &server.port());
    let mut stream = client(&proxy);
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut its = told.recv_timeout(PATIENCE).expect("a connection");
    its.read_exact(&mut vec![0; head.len()]).expect("passed on");
    proxy.hear("says is passed on as bytes: a line between chunks does not end with CR LF");
    stream.write_all(b"0\n\n").expect("sent");
    let mut rest = [0; 3];
    its.read_exact(&mut rest).expect("passed on");
    assert_eq!(&rest, b"0\n\n");
    its.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("sent");
    drop(its);
    assert_eq!(end(&stream), (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), None));
}

#[test]
fn what_is_no_http_is_passed_on_at_once() {
    // PostgreSQL asks for TLS; a hello of TLS; a letter that no method begins with.
    for said in [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], b"\x16\x03\x01\x02\0\x01", b"("] {
        let (server, told) = upstream();
        let proxy = chaos(&["--protocol", "http"], &server.port());
        let mut stream = client(&proxy);
        stream.write_all(said).expect("sent");
        let mut its = told.recv_timeout(PATIENCE).expect("a connection");
        let mut heard = vec![0; said.len()];
        its.read_exact(&mut heard).expect("passed on");
        assert_eq!(heard, said);
        proxy.hear("is passed on as bytes: ");
    }
}

#[test]
fn what_begins_as_http_and_goes_on_as_something_else_is_passed_on_at_once() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const REPLY: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
    // AMQP has a word before its bytes; and a word of another kind.
    for rest in [&b"\0\0\x09\x01"[..], b" /\x7f", b"\n"] {
        let (server, told) = upstream();
        let proxy = chaos(&["--protocol", "http"], &server.port());
        let mut stream = client(&proxy);
        // With the request before it, so that it is known when the first part has been read.
        stream.write_all(&[GET, b"AMQP"].concat()).expect("sent");
        let mut its = told.recv_timeout(PATIENCE).expect("a connection");
        its.read_exact(&mut [0; GET.len()]).expect("passed on");
        its.write_all(REPLY).expect("sent");
        stream.read_exact(&mut [0; REPLY.len()]).expect("a reply");
        stream.write_all(rest).expect("sent");
        let mut heard = vec![0; 4 + rest.len()];
        its.read_exact(&mut heard).expect("passed on");
        assert_eq!(heard, [b"AMQP", rest].concat());
        proxy.hear("is passed on as bytes: ");
    }
}

#[test]
fn an_abort_goes_as_far_as_upstream_speaks() {
    for (args, said) in [
        (&["--behavior", "100:abort"][..], ""),
        (
            &["--protocol", "http", "--behavior", "100:abort"],
            "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        ),
    ] {
        let (server, told) = upstream();
        let proxy = chaos(args, &server.port());
        let mut stream = client(&proxy);
        stream.write_all(said.as_bytes()).expect("sent");
        let mut its = told.recv_timeout(PATIENCE).expect("a connection");
        its.read_exact(&mut vec![0; said.len()]).expect("passed on");
        its.write_all(b"220 hello\r\n").expect("sent");
        assert_eq!(end(&stream), (vec![], RESET), "{args:?}");
    }
}

#[test]
fn half_a_request_does_not_hide_that_upstream_ends() {
    let (server, told) = upstream();
    let proxy = chaos(&["--protocol", "http"], &server.port());
    let mut stream = client(&proxy);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut its = told.recv_timeout(PATIENCE).expect("a connection");
    its.read_exact(&mut [0; 27]).expect("passed on");
    its.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("sent");
    stream.read_exact(&mut [0; 27]).expect("a reply");
    stream.write_all(b"GET /").expect("sent");
    its.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(end(&stream), (vec![], None));
}

#[test]
fn a_direction_that_is_not_meant_is_as_it_is() {
    let server = Server::start(|_, mut stream| {
        let _ = stream.write_all(&[b'x'; 1_000]);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = read_out(stream);
    });
    let delay = ["--behavior", "100:delay", "--delay-after", "--delay", "50ms", "--direction", "up"];
    let proxy = chaos(&[&delay[..], &["--cut-at", "100"]].concat(), &server.port());
    assert_eq!(end(&client(&proxy)), (vec![b'x'; 1_000], None));
}

#[test]
fn a_cut_by_time_does_not_wait_for_a_client_that_takes_nothing() {
    let server = Server::start(|_, mut stream| while stream.write_all(&[b'x'; 65_536]).is_ok() {});
    let proxy = chaos(&["-v", "--cut-at", "300ms", "--write-timeout", "0"], &server.port());
    let stream = client(&proxy);
    proxy.hear("Connection 1, ");
    assert_eq!(end(&stream).1, RESET);
}

#[test]
fn silence_that_is_asked_for_is_silence_for_upstream_too() {
    let (server, told) = upstream();
    let proxy = chaos(&["--cut-at", "3", "--cut", "hang", "--direction", "up"], &server.port());
    let mut stream = client(&proxy);
    stream.write_all(b"abcdef").expect("sent");
    let its = told.recv_timeout(PATIENCE).expect("a connection");
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || tell.send(end(&its)));
    assert_eq!(ended.recv_timeout(Duration::from_millis(200)), Err(RecvTimeoutError::Timeout));
    reset(stream);
    assert_eq!(ended.recv_timeout(PATIENCE), Ok((b"abc".to_vec(), RESET)));
}

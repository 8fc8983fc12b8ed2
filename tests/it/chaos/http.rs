//! Over HTTP: a draw for each request, and messages that are passed on as they are.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{chaos, echo};
use crate::harness::{
    PATIENCE, Server, Service, poem_file, read_out, read_some, refusing_port, reset, run, send_whole,
};

/// A chaos proxy that draws for requests.
fn over_http(args: &[&str], upstream: &str) -> Service {
    chaos(&[&["--protocol", "http"], args].concat(), upstream)
}

/// A connection to a server.
struct Client(TcpStream);

/// A reply: its status, and its body.
type Reply = (u16, Vec<u8>);

impl Client {
    fn new(server: &Service) -> Self {
        let stream = server.connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        Self(stream)
    }

    fn say(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.write_all(bytes.as_ref()).expect("sent");
        self
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8(line).expect("text").trim_end().to_owned())
    }

    /// The head of a reply: its status, and the length of its body.
    fn head(&mut self) -> io::Result<(u16, usize)> {
        let status = self.line()?.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        let mut length = 0;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                return Ok((status, length));
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            }
        }
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let (status, length) = self.head()?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, body))
    }

    fn get(&mut self) -> io::Result<Reply> {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")?;
        self.reply()
    }

    fn end(&self) -> Result<usize, io::ErrorKind> {
        read_some(&self.0, &mut [0])
    }
}

/// A server that says this on each connection, when it has heard this much, and waits for the client to end.
fn says(length: usize, reply: &'static [u8]) -> (Server, mpsc::Receiver<Vec<u8>>) {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |_, mut stream| {
        let mut request = vec![0; length];
        if stream.read_exact(&mut request).is_ok() {
            let _ = tell.send(request);
            if stream.write_all(reply).is_ok() {
                let _ = read_out(stream);
            }
        }
    });
    (server, told)
}

fn poems() -> Service {
    Service::fast(&poem_file("science.txt"), ["-q", "--http"])
}

#[test]
fn of_a_thousand_requests_on_one_connection_exactly_as_many_are_disturbed_and_the_same_ones_again() {
    let upstream = poems();
    let flags = ["--behavior", "25:error,50:delay", "--delay", "1ms", "--seed", "7"];
    let statuses = || -> Vec<u16> {
        let proxy = over_http(&flags, &upstream.port());
        let mut client = Client::new(&proxy);
        let statuses = (0..1_000).map(|_| client.get().expect("a reply").0).collect();
        proxy.signal(Signal::SIGUSR1);
        proxy.hear("Of 1000 requests: 250 dummy, 500 delay, 250 error");
        statuses
    };
    let first = statuses();
    assert_eq!(first.iter().filter(|status| **status != 200).count(), 250);
    assert_eq!(statuses(), first);
    let foretold = run("poetry-chaos", [&["--protocol", "http", "--rehearse", "1000"], &flags[..], &["1"]].concat());
    let foretold: Vec<u16> = std::str::from_utf8(&foretold.stdout)
        .expect("text")
        .lines()
        .map(|line| line.split_once(" error ").map_or(200, |(_, status)| status.parse().expect("a status")))
        .collect();
    assert_eq!(foretold, first);
}

#[test]
fn an_error_is_a_whole_reply_and_the_connection_is_kept() {
    // Nobody is there to be asked.
    let (_held, port) = refusing_port();
    let proxy = over_http(&["--behavior", "100:error", "--error-status", "503"], &port);
    let mut client = Client::new(&proxy);
    let error = (503, b"503 Service Unavailable, by poetry-chaos\n".to_vec());
    assert_eq!(client.get().expect("a reply"), error);
    // A body is read, whoever says where it ends; two requests at once are answered in turn.
    client.say("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.reply().expect("a reply"), error);
    client.say("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHEAD / HTTP/1.1\r\n\r\n");
    assert_eq!(client.reply().expect("a reply"), error);
    assert_eq!(client.head().expect("a head"), (503, error.1.len()));
    // One that waits for leave gets it.
    client.say("PUT / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().expect("leave"), (100, 0));
    client.say("abc");
    assert_eq!(client.reply().expect("a reply"), error);
    client.say("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!((client.reply().expect("a reply"), client.end()), (error.clone(), Ok(0)));
    let mut client = Client::new(&proxy);
    client.say("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((client.reply().expect("a reply"), client.end()), (error, Ok(0)));
}

#[test]
fn what_is_not_disturbed_is_passed_on_as_it_is() {
    // No two servers write alike, and none of it is ours to change.
    for reply in [
        &b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nkeep-alive: 5\r\ncontent-length:5\r\n\r\nhello"[..],
        b"HTTP/1.0 200 fine\nX:\xff\n\nno length",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"220 this is no HTTP\r\n",
    ] {
        let request = "POST /p?q HTTP/1.1\r\nhost: a\r\nContent-Length: 3\r\nTE: x\r\n\r\nabc";
        let (server, told) = says(request.len(), reply);
        let proxy = over_http(&[], &server.port());
        let mut client = Client::new(&proxy);
        for piece in request.as_bytes().chunks(7) {
            client.say(piece);
        }
        let mut heard = vec![0; reply.len()];
        client.0.read_exact(&mut heard).expect("all of it");
        assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(reply));
        assert_eq!(told.recv_timeout(PATIENCE).expect("a request"), request.as_bytes());
        // The end of the client's stream, and then of upstream's.
        client.0.shutdown(Shutdown::Write).expect("half-closed");
        assert_eq!(client.end(), Ok(0));
    }
}

#[test]
fn requests_in_one_go_and_a_half_close_have_all_their_replies() {
    let upstream = poems();
    let proxy = over_http(&[], &upstream.port());
    let mut client = Client::new(&proxy);
    client
        .say("GET / HTTP/1.1\r\nHost: h\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\n\r\nGET /no HTTP/1.1\r\nHost: h\r\n\r\n");
    client.0.shutdown(Shutdown::Write).expect("half-closed");
    let poem = std::fs::read(poem_file("science.txt")).expect("the poem");
    assert_eq!(client.reply().expect("a reply"), (200, poem.clone()));
    assert_eq!(client.head().expect("a head"), (200, poem.len()));
    assert_eq!(client.reply().expect("a reply").0, 404);
    assert_eq!(client.end(), Ok(0));
}

#[test]
fn what_is_no_http_or_is_none_any_more_is_passed_on_as_bytes() {
    // From the beginning, with a word about it.
    let server = echo();
    for said in
        ["hello\n", "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "PRI * HTTP/2.0\r\n\r\n"]
    {
        let proxy = over_http(&[], &server.port());
        assert_eq!(super::ask(proxy.address, said.as_bytes()).expect("an echo"), said.as_bytes());
        proxy.hear("is passed on as bytes: ");
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    let proxy = over_http(&[], &server.port());
    assert!(super::ask(proxy.address, long.as_bytes()).expect("an echo") == long.as_bytes());
    proxy.hear("the head is longer than 16384 bytes");

    // And half a head is upstream's, too.
    let proxy = over_http(&[], &server.port());
    assert_eq!(super::ask(proxy.address, b"GET /").expect("an echo"), b"GET /");

    for (request, reply) in [
        ("GET / HTTP/1.1\r\nUpgrade: echo\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ("CONNECT a:1 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n"),
    ] {
        let server = Server::start(move |_, mut stream| {
            stream.read_exact(&mut vec![0; request.len()]).expect("a request");
            stream.write_all(reply.as_bytes()).expect("sent");
            let mut said = [0; 4];
            stream.read_exact(&mut said).expect("bytes");
            send_whole(stream, &said);
        });
        let proxy = over_http(&[], &server.port());
        let mut client = Client::new(&proxy);
        client.say(request).head().expect("a head");
        let mut said = [0; 4];
        client.say([0, 255, 10, 0]).0.read_exact(&mut said).expect("an echo");
        assert_eq!((said, client.end()), ([0, 255, 10, 0], Ok(0)));
    }
}

#[test]
fn what_upstream_says_unasked_is_passed_on() {
    // It ends a connection on which nothing is asked, with a word or without.
    for last in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"] {
        let (tell, told) = mpsc::channel();
        let server = Server::start(move |_, mut stream| {
            stream.read_exact(&mut [0; 27]).expect("a request");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("sent");
            told_to_end(&tell).expect("a test");
            send_whole(stream, last);
        });
        let proxy = over_http(&[], &server.port());
        let mut client = Client::new(&proxy);
        assert_eq!(client.get().expect("a reply"), (200, b"hi".to_vec()));
        let go: mpsc::Sender<()> = told.recv_timeout(PATIENCE).expect("a server");
        go.send(()).expect("a server");
        let mut heard = Vec::new();
        client.0.read_to_end(&mut heard).expect("an end");
        assert_eq!(heard, last);
    }
    // A reply before the request is over, and the end.
    let (server, _) = says(60, b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n");
    let proxy = over_http(&[], &server.port());
    let mut client = Client::new(&proxy);
    client.say("PUT / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n").say([b'x'; 100]);
    assert_eq!(client.reply().expect("a reply"), (413, b"no\n".to_vec()));
    client.0.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(client.end(), Ok(0));
}

/// Waits for a word of the test.
fn told_to_end(tell: &mpsc::Sender<mpsc::Sender<()>>) -> Result<(), mpsc::RecvTimeoutError> {
    let (go, may_go) = mpsc::channel();
    tell.send(go).map_err(|_| mpsc::RecvTimeoutError::Disconnected)?;
    may_go.recv_timeout(PATIENCE)
}

#[test]
fn a_client_that_leaves_or_resets_while_it_waits_does_so_for_upstream() {
    for is_reset in [false, true] {
        let ((has_it, it_has), (tell, told)) = (mpsc::channel(), mpsc::channel());
        let server = Server::start(move |_, mut stream| {
            stream.read_exact(&mut [0; 27]).expect("a request");
            has_it.send(()).expect("a test");
            tell.send(read_some(&stream, &mut [0])).expect("a test");
        });
        let proxy = over_http(&[], &server.port());
        let mut client = Client::new(&proxy);
        client.say("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        it_has.recv_timeout(PATIENCE).expect("it is passed on");
        let expected = if is_reset { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) };
        if is_reset {
            reset(client.0);
        } else {
            drop(client.0);
        }
        assert_eq!(told.recv_timeout(PATIENCE).expect("an end"), expected);
    }
}

#[test]
fn each_behaviour_is_about_one_request() {
    let upstream = poems();
    let poem = std::fs::read(poem_file("science.txt")).expect("the poem");
    let whole = (200, poem);
    for flags in [&["--delay", "200ms"][..], &["--delay", "200ms", "--delay-after"]] {
        let proxy = over_http(&[&["--behavior", "100:delay"], flags].concat(), &upstream.port());
        let mut client = Client::new(&proxy);
        for _ in 0..2 {
            let began = Instant::now();
            assert_eq!(client.get().expect("a reply"), whole);
            assert!(began.elapsed() >= Duration::from_millis(200), "{flags:?}");
        }
    }
    let proxy = over_http(&["--behavior", "100:transient", "--transient", "2"], &upstream.port());
    let mut client = Client::new(&proxy);
    let statuses: Vec<u16> = (0..4).map(|_| client.get().expect("a reply").0).collect();
    assert!(statuses[..2].iter().all(|status| *status >= 500) && statuses[2..] == [200, 200], "{statuses:?}");

    let proxy = over_http(&["--fail-first", "1"], &upstream.port());
    let first = Client::new(&proxy).get().map_err(|error| error.kind());
    assert_eq!((first, Client::new(&proxy).get().expect("a reply")), (Err(io::ErrorKind::ConnectionReset), whole));

    let proxy = over_http(&["--behavior", "100:hang"], &upstream.port());
    let mut client = Client::new(&proxy);
    client
        .say("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .0
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a limit");
    assert_eq!(client.end(), Err(io::ErrorKind::WouldBlock));
    proxy.signal(Signal::SIGTERM);
    client.0.set_read_timeout(Some(PATIENCE)).expect("a limit");
    assert_eq!((client.end(), proxy.finish().code()), (Err(io::ErrorKind::ConnectionReset), 0));

    // Upstream has all of the request, and no more.
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |_, mut stream| {
        let mut request = [0; 40];
        stream.read_exact(&mut request).expect("a request");
        tell.send((request, read_some(&stream, &mut [0]))).expect("a test");
    });
    let proxy = over_http(&["--behavior", "100:abort"], &server.port());
    let mut client = Client::new(&proxy);
    client.say("PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\n").say("abc");
    assert_eq!(client.end(), Err(io::ErrorKind::ConnectionReset));
    let (request, end) = told.recv_timeout(PATIENCE).expect("an end");
    assert_eq!(
        (&request[..], end),
        (&b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"[..], Err(io::ErrorKind::ConnectionReset))
    );
}

#[test]
fn a_kept_upstream_that_ends_while_a_request_waits_is_connected_to_anew() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |number, mut stream| {
        stream.read_exact(&mut [0; 27]).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("sent");
        tell.send(number).expect("a test");
        send_whole(stream, b"");
    });
    let proxy = over_http(&["--behavior", "100:delay", "--delay", "300ms"], &server.port());
    let mut client = Client::new(&proxy);
    // At once, so that the second one waits before upstream ends.
    client.say("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2));
    for number in 0..2 {
        assert_eq!(client.reply().expect("a reply"), (200, vec![]));
        assert_eq!(told.recv_timeout(PATIENCE), Ok(number));
    }
    assert_eq!(client.end(), Ok(0));
}

#[test]
fn an_upstream_that_refuses_resets_the_client() {
    let (_held, port) = refusing_port();
    let proxy = over_http(&[], &port);
    assert_eq!(Client::new(&proxy).get().expect_err("no reply").kind(), io::ErrorKind::ConnectionReset);
    proxy.hear(&format!("127.0.0.1:{port}: connection refused"));
}

#[test]
fn a_pace_and_a_cut_begin_anew_with_each_reply() {
    let upstream = poems();
    // Twice as many bytes as a reply has, and fewer than two have.
    let proxy = over_http(&["--cut-at", "1k", "--first-byte-delay", "100ms"], &upstream.port());
    let mut client = Client::new(&proxy);
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(client.get().expect("a whole reply").0, 200);
        assert!(began.elapsed() >= Duration::from_millis(100));
    }
    for (how, kind) in [("rst", io::ErrorKind::ConnectionReset), ("fin", io::ErrorKind::UnexpectedEof)] {
        let proxy = over_http(&["--cut-at", "500", "--cut", how], &upstream.port());
        assert_eq!(Client::new(&proxy).get().expect_err("cut").kind(), kind);
    }
    let corrupted = over_http(&["--corrupt", "700", "--seed", "4"], &upstream.port());
    let mut client = Client::new(&corrupted);
    client.say("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut heard = Vec::new();
    client.0.read_to_end(&mut heard).expect("an end");
    assert!(!heard.is_empty());
}

#[test]
fn upstream_may_be_told_its_own_name() {
    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let request = "POST / HTTP/1.1\r\nA: b\r\nHOST:  other.example:80 \r\nContent-Length: 1\r\n\r\nx";
    let name = "127.0.0.1:12345";
    let rewritten = |port: &str| request.replace("other.example:80", &format!("127.0.0.1:{port}"));
    let (server, told) = says(rewritten(&name[10..]).len(), reply);
    let proxy = over_http(&["--rewrite-host"], &server.port());
    let mut client = Client::new(&proxy);
    client.say(request).head().expect("a head");
    let heard = told.recv_timeout(PATIENCE).expect("a request");
    assert_eq!(String::from_utf8_lossy(&heard), rewritten(&server.port()));
}

#[test]
fn at_a_stop_a_reply_is_finished_and_a_kept_connection_ends() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |number, mut stream| {
        stream.read_exact(&mut [0; 27]).expect("a request");
        if number == 1 {
            told_to_end(&tell).expect("a test");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("sent");
        let _ = read_out(stream);
    });
    let proxy = over_http(&[], &server.port());
    let mut idle = Client::new(&proxy);
    idle.get().expect("a reply");
    let mut busy = Client::new(&proxy);
    busy.say("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let go = told.recv_timeout(PATIENCE).expect("a request");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(idle.end(), Ok(0));
    go.send(()).expect("a server");
    assert_eq!(busy.reply().expect("a reply").0, 200);
    assert_eq!((busy.end(), proxy.finish().code()), (Ok(0), 0));
}

#[test]
fn each_request_has_a_line() {
    let upstream = poems();
    let proxy = over_http(&["-v", "--behavior", "100:error", "--error-status", "429"], &upstream.port());
    Client::new(&proxy).get().expect("a reply");
    let line = proxy.hear("Request 1, ");
    assert!(line.contains(", GET /: error, 0 bytes up, ") && line.ends_with(", 429"), "{line}");
}

//! poetry-proxy --http as clients and servers meet it: what is forwarded, shared and kept, and the truth about bad upstreams.

mod attacks;
mod theirs;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::sys::signal::Signal;

use crate::harness::{PATIENCE, Server, Service, eventually, program, read_out, read_some, reset};

fn proxy(flags: &[&str]) -> Service {
    Service::start(program("poetry-proxy").args(["--http", "-v"]).args(flags))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a proxy");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// What comes back for these bytes, and how it ends.
fn say(proxy: &Service, bytes: impl AsRef<[u8]>) -> (String, Result<(), io::ErrorKind>) {
    let mut stream = connect(proxy.address);
    stream.write_all(bytes.as_ref()).expect("sent");
    hear(stream)
}

fn hear(mut stream: TcpStream) -> (String, Result<(), io::ErrorKind>) {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all).map(drop).map_err(|error| error.kind());
    (String::from_utf8_lossy(&all).into_owned(), end)
}

/// A request for a path of a server, in this version of HTTP.
fn request(server: &Server, path: &str, version: &str, fields: &str) -> String {
    format!("GET http://{}{path} HTTP/{version}\r\nHost: whatever\r\nConnection: close\r\n{fields}\r\n", server.address)
}

/// Asks for the root, and waits for nothing.
fn ask(proxy: &Service, server: &Server, fields: &str) -> TcpStream {
    let mut stream = connect(proxy.address);
    stream.write_all(request(server, "/", "1.1", fields).as_bytes()).expect("sent");
    stream
}

fn get(proxy: &Service, server: &Server, path: &str, fields: &str) -> String {
    say(proxy, request(server, path, "1.1", fields)).0
}

/// The head of a request, as a server gets it.
fn head(stream: &TcpStream) -> String {
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match read_some(stream, &mut byte) {
            Ok(1) => all.push(byte[0]),
            _ => return String::new(),
        }
    }
    String::from_utf8(all).expect("UTF-8")
}

/// A server that gives this reply to everybody, and counts them.
fn origin(reply: impl Into<String>) -> (Server, Arc<AtomicUsize>) {
    let (reply, count) = (reply.into(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    let server = Server::start(move |_, mut stream| {
        head(&stream);
        counted.fetch_add(1, SeqCst);
        let _ = stream.write_all(reply.as_bytes());
    });
    (server, count)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n";

fn status(reply: &str) -> u16 {
    reply.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

fn body(reply: &str) -> &str {
    reply.split_once("\r\n\r\n").expect("a head").1
}

fn field<'a>(reply: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = reply.split_once("\r\n\r\n").expect("a head");
    head.lines().skip(1).find_map(|line| {
        let (its, value) = line.split_once(": ")?;
        its.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[test]
fn a_request_goes_up_with_the_name_of_its_server_and_without_what_is_for_one_connection() {
    let (heard, heads) = channel();
    let server = Server::start(move |_, mut stream| {
        heard.send(head(&stream)).expect("heard");
        let reply = "HTTP/1.1 203 Fine\r\nContent-Length: 5\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
            X-Folded: a\r\n  b\r\nX-End: 2\r\n\r\nhello";
        stream.write_all(reply.as_bytes()).expect("sent");
    });
    let proxy = proxy(&[]);
    assert!(proxy.line.starts_with("Proxying HTTP on 127.0.0.1:"), "{}", proxy.line);
    let fields = "Connection: X-Mine, te\r\nX-Mine: 1\r\nTE: trailers\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\n\
        User-Agent: me\r\nX-Two: 1\r\nX-Two: 2\r\nVia: 1.0 other\r\n";
    let reply = get(&proxy, &server, "/a?b=c", fields);
    assert_eq!(body(&reply), "hello");
    assert!(status(&reply) == 203, "{reply}");
    assert_eq!((field(&reply, "x-hop"), field(&reply, "keep-alive")), (None, None));
    assert_eq!((field(&reply, "x-folded"), field(&reply, "x-end")), (Some("a b"), Some("2")));
    let status = field(&reply, "cache-status").expect("a status");
    assert_eq!(status, "poetry-proxy; fwd=uri-miss");
    assert!(field(&reply, "via").is_some_and(|via| via.starts_with("1.1 poetry-proxy-")));
    let asked = heads.recv_timeout(PATIENCE).expect("a request");
    let lines: Vec<&str> = asked.trim_end().lines().collect();
    assert_eq!(lines[..2], ["GET /a?b=c HTTP/1.1", &format!("Host: {}", server.address)]);
    for expected in ["user-agent: me", "x-two: 1", "x-two: 2", "via: 1.0 other"] {
        assert!(lines.contains(&expected), "{expected}: {asked}");
    }
    for gone in ["x-mine", "te:", "connection:", "proxy-authorization", "whatever"] {
        assert!(!lines.iter().any(|line| line.to_lowercase().contains(gone)), "{gone}: {asked}");
    }
    proxy.hear_all(&[&format!("GET http://{}/a?b=c: 203, 5 bytes in ", server.address)]);
}

#[test]
fn what_is_no_request_for_a_proxy_is_refused_in_a_line() {
    let (server, count) = origin(format!("{OK}\r\nhello"));
    let proxy = proxy(&[]);
    let at = server.address;
    let long = "x".repeat(8_001);
    let fields: String = (0..101).map(|n| format!("a{n}: b\r\n")).collect();
    let url = format!("http://{at}/");
    for (request, status) in [
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked,\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"), 400),
        (format!("GET {url} HTTP/1.1\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost : a\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"), 400),
        (format!("POST {url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), 501),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400),
        (format!("GET https://{at}/ HTTP/1.1\r\nHost: x\r\n\r\n"), 400),
        (format!("GET {url}{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"), 431),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(16 << 10)), 431),
        (format!("GET {url} HTTP/2.0\r\nHost: x\r\n\r\n"), 505),
        ("what is this\r\n\r\n".to_owned(), 400),
        (format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", proxy.address), 508),
        ("GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 403),
        (format!("GET {url} HTTP/1.1\r\nHost: x\r\nCache-Control: only-if-cached\r\n\r\n"), 504),
    ] {
        let mut stream = connect(proxy.address);
        // It may refuse before all is sent.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let (reply, _) = hear(stream);
        assert_eq!(self::status(&reply), status, "{request:?}: {reply:?}");
    }
    assert_eq!(count.load(SeqCst), 0, "none of that went up");
    let (hint, _) = say(&proxy, "GET /poem HTTP/1.0\r\n\r\n");
    assert!(body(&hint).contains("as curl -x does"), "{hint}");
}

#[test]
fn many_requests_on_a_connection_are_answered_in_order() {
    let server = Server::start(|_, mut stream| {
        let path = head(&stream).split(' ').nth(1).expect("a path").to_owned();
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        stream.write_all(reply.as_bytes()).expect("sent");
    });
    let proxy = proxy(&[]);
    let requests: String =
        (0..3).map(|n| format!("GET http://{}/{n} HTTP/1.1\r\nHost: x\r\n\r\n", server.address)).collect();
    // In one packet, and byte by byte; and whoever has said all gets all.
    let mut at_once = connect(proxy.address);
    at_once.write_all(requests.as_bytes()).expect("sent");
    at_once.shutdown(Shutdown::Write).expect("connected");
    let mut slowly = connect(proxy.address);
    slowly.set_nodelay(true).expect("set");
    for byte in requests.as_bytes() {
        slowly.write_all(&[*byte]).expect("sent");
    }
    slowly.shutdown(Shutdown::Write).expect("connected");
    for stream in [at_once, slowly] {
        let (replies, end) = hear(stream);
        let at = |path: &str| replies.find(&format!("\r\n\r\n{path}")).unwrap_or_else(|| panic!("{replies}"));
        assert!(at("/0") < at("/1") && at("/1") < at("/2") && end == Ok(()), "{replies}");
    }
}

/// What upstream says, how it ends it, and what clients of HTTP/1.1 and 1.0 may take it for.
#[test]
fn half_a_reply_never_looks_whole_and_is_never_kept() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Seen {
        Whole,
        Broken,
        BadGateway,
    }
    let fresh = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n";
    for (said, is_reset, seen) in [
        (format!("{fresh}\r\nhel"), true, Seen::Broken),
        (format!("{fresh}Content-Length: 5\r\n\r\nhel"), false, Seen::Broken),
        (format!("{fresh}Content-Length: 5\r\n\r\nhel"), true, Seen::Broken),
        (format!("{fresh}Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"), false, Seen::Broken),
        (format!("{fresh}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"), false, Seen::Broken),
        (format!("{fresh}Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"), false, Seen::Broken),
        (
            format!("{fresh}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            false,
            Seen::Whole,
        ),
        (format!("{fresh}Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello"), false, Seen::BadGateway),
        (format!("{fresh}Content-Length: x\r\n\r\nhello"), false, Seen::BadGateway),
        (format!("{fresh}Transfer-Encoding: gzip\r\n\r\nhello"), false, Seen::BadGateway),
        (format!("{fresh}X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello"), false, Seen::Whole),
        (format!("{fresh}\r\nhello"), false, Seen::Whole),
        ("HTTP/1.1 200 O".to_owned(), false, Seen::BadGateway),
        (String::new(), true, Seen::BadGateway),
        ("SSH-2.0-x\r\n\r\n".to_owned(), false, Seen::BadGateway),
    ] {
        let (server_said, count) = (said.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        let server = Server::start(move |_, mut stream| {
            head(&stream);
            counted.fetch_add(1, SeqCst);
            stream.write_all(server_said.as_bytes()).expect("sent");
            if is_reset {
                reset(stream);
            }
        });
        let proxy = proxy(&[]);
        for (asked, version) in ["1.1", "1.0"].into_iter().enumerate() {
            let (reply, end) = say(&proxy, request(&server, "/", version, ""));
            let is_chunked = field_or_none(&reply, "transfer-encoding").is_some();
            assert!(!is_chunked || version == "1.1", "{reply:?}");
            let length: Option<usize> =
                field_or_none(&reply, "content-length").map(|length| length.parse().expect("one"));
            let text = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let looks_whole = match (is_chunked, length) {
                (true, _) => text.ends_with("0\r\n\r\n"),
                (false, Some(length)) => text.len() == length,
                (false, None) => end == Ok(()) && !reply.is_empty(),
            };
            let is_error = status(&reply) == 502;
            let found = match (is_error, looks_whole) {
                (true, _) => Seen::BadGateway,
                (false, true) => Seen::Whole,
                (false, false) => Seen::Broken,
            };
            assert_eq!(found, seen, "HTTP/{version} {said:?}: {reply:?} {end:?}");
            if seen == Seen::Whole {
                assert!(text.contains("hello"), "{reply:?}");
            } else {
                assert_eq!(count.load(SeqCst), asked + 1, "{said:?} is not kept");
            }
        }
    }
}

fn field_or_none<'a>(reply: &'a str, name: &str) -> Option<&'a str> {
    reply.contains("\r\n\r\n").then(|| field(reply, name)).flatten()
}

#[test]
fn what_may_be_kept_is_kept_for_as_long_as_it_says() {
    let proxy = proxy(&["--cache-size", "1MiB"]);
    for (fields, is_kept) in [
        ("Cache-Control: max-age=60\r\n", true),
        ("Cache-Control: max-age=60\r\nVary: Accept\r\n", true),
        ("", false),
        ("Cache-Control: max-age=0\r\n", false),
        ("Cache-Control: private, max-age=60\r\n", false),
        ("Cache-Control: no-store\r\n", false),
        ("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", false),
        ("Cache-Control: max-age=60\r\nAge: 60\r\n", false),
    ] {
        let (server, count) = origin(format!("{OK}{fields}\r\nhello"));
        let first = get(&proxy, &server, "/", "Accept: a\r\n");
        let second = get(&proxy, &server, "/", "Accept: a\r\n");
        assert_eq!((body(&first), body(&second)), ("hello", "hello"));
        assert_eq!(count.load(SeqCst), if is_kept { 1 } else { 2 }, "{fields}");
        let status = field(&second, "cache-status").expect("a status");
        assert_eq!(status.starts_with("poetry-proxy; hit; ttl="), is_kept, "{fields}: {status}");
        assert_eq!(field(&second, "age").is_some(), is_kept || fields.contains("Age"), "{fields}");
        if is_kept {
            // HEAD is answered from it, other methods and wishes are not.
            let head = say(&proxy, request(&server, "/", "1.1", "Accept: a\r\n").replace("GET", "HEAD")).0;
            assert_eq!((field(&head, "content-length"), body(&head), count.load(SeqCst)), (Some("5"), "", 1));
            for wish in
                ["Cache-Control: no-cache\r\n", "Authorization: x\r\n", "Cookie: a=b\r\n", "Range: bytes=0-\r\n"]
            {
                let before = count.load(SeqCst);
                get(&proxy, &server, "/", &format!("Accept: a\r\n{wish}"));
                assert_eq!(count.load(SeqCst), before + 1, "{wish}");
            }
        }
        let before = count.load(SeqCst);
        get(&proxy, &server, "/", "Accept: b\r\n");
        let is_other = !is_kept || fields.contains("Vary");
        assert_eq!(count.load(SeqCst), before + usize::from(is_other), "{fields}");
    }
    // Without a word, for as long as the proxy is told.
    let proxy = self::proxy(&["--ttl", "1m"]);
    let (server, count) = origin(format!("{OK}\r\nhello"));
    for _ in 0..3 {
        get(&proxy, &server, "/", "");
    }
    assert_eq!(count.load(SeqCst), 1);
    proxy.signal(Signal::SIGHUP);
    proxy.hear("Forgot all replies");
    get(&proxy, &server, "/", "");
    assert_eq!(count.load(SeqCst), 2);
}

#[test]
fn what_is_too_old_stays_if_upstream_says_that_it_is_still_good() {
    for (validator, condition) in [
        ("ETag: \"one\"", "if-none-match: \"one\""),
        ("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let (conditions, count) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, counted) = (Arc::clone(&conditions), Arc::clone(&count));
        let server = Server::start(move |_, mut stream| {
            let head = head(&stream);
            let reply = match (head.contains(condition), counted.fetch_add(1, SeqCst)) {
                // Still good, and for a minute.
                (true, 1) => {
                    seen.fetch_add(1, SeqCst);
                    "HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nX-New: yes\r\n\r\n".to_owned()
                }
                (false, 0) => {
                    format!("{OK}Cache-Control: max-age=60\r\nAge: 30\r\nX-New: no\r\n{validator}\r\n\r\nhello")
                }
                (_, number) => format!("{OK}Cache-Control: max-age=60\r\n\r\nnew {number}"),
            };
            stream.write_all(reply.as_bytes()).expect("sent");
        });
        let proxy = proxy(&[]);
        assert_eq!(body(&get(&proxy, &server, "/", "")), "hello");
        // Older than whoever asks likes.
        let renewed = get(&proxy, &server, "/", "Cache-Control: max-age=5\r\n");
        assert_eq!((status(&renewed), body(&renewed)), (200, "hello"), "{validator}");
        assert_eq!((field(&renewed, "x-new"), field(&renewed, "age")), (Some("yes"), None));
        assert_eq!(field(&renewed, "cache-status"), Some("poetry-proxy; fwd=stale; fwd-status=304"));
        assert_eq!((conditions.load(SeqCst), count.load(SeqCst)), (1, 2));
        let hit = get(&proxy, &server, "/", "");
        assert_eq!((body(&hit), field(&hit, "x-new"), count.load(SeqCst)), ("hello", Some("yes"), 2));
        // Or it is another one now.
        assert_eq!(body(&get(&proxy, &server, "/", "Cache-Control: no-cache\r\n")), "new 2");
        assert_eq!(body(&get(&proxy, &server, "/", "")), "new 2");
        assert!(metrics(&proxy).contains("2 hits, 2 misses, 0 joins, 1 stale"));
    }
}

#[test]
fn an_old_reply_is_served_while_upstream_is_asked_again_and_instead_of_an_error() {
    // Of no age at all, and good for nothing but that.
    let old = |control: &str| format!("{OK}Connection: close\r\nCache-Control: max-age=0, {control}\r\n\r\nhello");
    let error = "HTTP/1.1 503 Busy\r\nCache-Control: no-store\r\nContent-Length: 4\r\n\r\nbusy";
    let heard = |client: TcpStream| {
        let reply = hear(client).0;
        let cache_status = field(&reply, "cache-status").unwrap_or_default().trim_start_matches("poetry-proxy; ");
        // For how many seconds it has been too old is the clock's affair.
        let how = cache_status.split("; ttl=-").next().unwrap_or_default().to_owned();
        (status(&reply), body(&reply).to_owned(), how)
    };
    let next = |connections: &Receiver<(String, TcpStream)>, reply: &str| {
        let (_, mut stream) = connections.recv_timeout(PATIENCE).expect("a request");
        stream.write_all(reply.as_bytes()).expect("sent");
    };
    for (flags, control) in [(&["--stale-while-revalidate", "1h"][..], "x"), (&[], "stale-while-revalidate=3600")] {
        let (server, connections) = by_hand();
        let proxy = proxy(flags);
        let first = ask(&proxy, &server, "");
        next(&connections, &old(control));
        assert_eq!(heard(first).1, "hello");
        // Nobody waits, and upstream is asked once.
        for _ in 0..3 {
            let (status, body, cache_status) = heard(ask(&proxy, &server, ""));
            assert_eq!((status, &*body, &*cache_status), (200, "hello", "hit"));
        }
        next(&connections, &format!("{OK}Connection: close\r\nCache-Control: max-age=60\r\n\r\nworld"));
        eventually("the new one is there", || heard(ask(&proxy, &server, "")).1 == "world");
        assert!(connections.try_recv().is_err());
        assert!(metrics(&proxy).contains("2 fetches, 0 failed"));
    }
    for (flags, control) in [(&["--stale-if-error"][..], "x"), (&[], "stale-if-error=3600")] {
        let (server, connections) = by_hand();
        let proxy = proxy(&[&["--retry-after", "0"], flags].concat());
        // As it comes, an error, one that breaks off, and silence; then it has another one.
        for (reply, expected) in [
            (Some(old(control)), (200, "hello", "fwd=uri-miss")),
            (Some(error.to_owned()), (200, "hello", "fwd=stale; fwd-status=503")),
            (Some("HTTP/1.1 200 O".to_owned()), (200, "hello", "fwd=stale")),
            (None, (200, "hello", "fwd=stale")),
        ] {
            let client = ask(&proxy, &server, "");
            let (_, mut stream) = connections.recv_timeout(PATIENCE).expect("a request");
            if let Some(reply) = &reply {
                stream.write_all(reply.as_bytes()).expect("sent");
                stream.shutdown(Shutdown::Write).expect("connected");
            }
            let (status, body, cache_status) = heard(client);
            assert_eq!((status, &*body, &*cache_status), expected, "{reply:?}");
        }
        // Nothing of that is worth an old one to who wants none.
        let client = ask(&proxy, &server, "Cache-Control: no-cache\r\n");
        next(&connections, error);
        assert_eq!(heard(client).0, 503);
    }
    // What has to be asked about is never old.
    let (server, connections) = by_hand();
    let proxy = proxy(&["--stale-if-error", "--stale-while-revalidate", "1h"]);
    for (reply, expected) in [(&*old("must-revalidate, stale-if-error=60"), 200), (error, 503)] {
        let client = ask(&proxy, &server, "");
        next(&connections, reply);
        assert_eq!(heard(client).0, expected);
    }
}

#[test]
fn a_connection_to_upstream_serves_one_request_after_another_if_both_want_that() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    // Each path is what is said beside the length; /leave closes the connection after its reply without saying so.
    let server = Server::start(move |_, mut stream| {
        counted.fetch_add(1, SeqCst);
        loop {
            let head = head(&stream);
            let Some(path) = head.split(' ').nth(1) else { return };
            let (version, fields, after) = match path {
                "/close" => ("1.1", "Connection: close\r\n", ""),
                "/old" => ("1.0", "", ""),
                "/more" => ("1.1", "", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
                _ => ("1.1", "", ""),
            };
            let length = path.len();
            let reply = format!("HTTP/{version} 200 OK\r\nContent-Length: {length}\r\n{fields}\r\n{path}{after}");
            if stream.write_all(reply.as_bytes()).is_err() || path == "/leave" {
                return;
            }
        }
    });
    let proxy = proxy(&[]);
    let mut expected = 1;
    for (path, fields, is_kept) in [
        ("/", "", true),
        ("/", "Cookie: a=b\r\n", true),
        ("/close", "", false),
        ("/old", "", false),
        ("/more", "", false),
        ("/", "", true),
        ("/", "Authorization: Basic eDp5\r\n", true),
        // From then on it is theirs.
        ("/", "Authorization: NTLM x\r\n", false),
        ("/leave", "", false),
        ("/", "", true),
    ] {
        let reply = get(&proxy, &server, path, fields);
        assert_eq!((body(&reply), connections.load(SeqCst)), (path, expected), "{path} {fields}");
        expected += usize::from(!is_kept);
    }
}

#[test]
fn a_kept_connection_that_ends_when_it_is_used_costs_nobody_their_reply() {
    let (server, connections) = by_hand();
    let proxy = proxy(&[]);
    let first = ask(&proxy, &server, "");
    let (_, mut kept) = connections.recv_timeout(PATIENCE).expect("a request");
    kept.write_all(format!("{OK}\r\nhello").as_bytes()).expect("sent");
    assert_eq!(body(&hear(first).0), "hello");
    // It reads the next request, and says nothing.
    let second = ask(&proxy, &server, "");
    assert!(head(&kept).starts_with("GET / "));
    drop(kept);
    let (_, mut another) = connections.recv_timeout(PATIENCE).expect("asked again");
    another.write_all(format!("{OK}\r\nworld").as_bytes()).expect("sent");
    assert_eq!(body(&hear(second).0), "world");
    // And once more, where the new one has nothing to say, either: it is not asked for ever.
    let third = ask(&proxy, &server, "");
    assert!(head(&another).starts_with("GET / "));
    drop(another);
    drop(connections.recv_timeout(PATIENCE).expect("asked again"));
    let reply = hear(third).0;
    assert!(status(&reply) == 502 && body(&reply).contains("no reply before the end of the stream"), "{reply}");
    assert!(connections.try_recv().is_err());
}

#[test]
fn a_reply_with_chunks_is_kept_and_has_one_end() {
    let proxy = proxy(&[]);
    let chunks =
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (server, count) = origin(chunks);
    get(&proxy, &server, "/", "");
    let twice = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", server.address).repeat(2);
    let mut stream = connect(proxy.address);
    stream.write_all(twice.as_bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("connected");
    let (replies, end) = hear(stream);
    assert_eq!(
        (replies.matches("\r\n\r\nhello").count(), replies.matches("HTTP/1.1 200 OK").count()),
        (2, 2),
        "{replies}"
    );
    assert!(replies.ends_with("\r\n\r\nhello") && end == Ok(()) && count.load(SeqCst) == 1, "{replies}");
}

/// A server whose replies a test writes: each connection, with its head.
fn by_hand() -> (Server, Receiver<(String, TcpStream)>) {
    let (sender, receiver): (Sender<(String, TcpStream)>, _) = channel();
    let server = Server::start(move |_, stream| {
        let _ = sender.send((head(&stream), stream));
    });
    (server, receiver)
}

const JOINERS: usize = 30;

/// Many who ask the same, of whom all are there before there is an answer.
fn ask_together(proxy: &Service, server: &Server) -> Vec<TcpStream> {
    (0..JOINERS).map(|_| ask(proxy, server, "")).collect()
}

fn metrics(proxy: &Service) -> String {
    proxy.signal(Signal::SIGUSR1);
    proxy.hear("Totals: ")
}

#[test]
fn those_who_wait_share_one_fetch_and_get_what_is_there_at_once() {
    let (server, connections) = by_hand();
    let proxy = proxy(&[]);
    let clients = ask_together(&proxy, &server);
    let (_, mut upstream) = connections.recv_timeout(PATIENCE).expect("a request");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").expect("sent");
    // What is there comes at once, to all; and to one who comes now.
    let mut late = connect(proxy.address);
    late.write_all(request(&server, "/", "1.1", "").as_bytes()).expect("sent");
    let mut collapsed = 0;
    let mut all: Vec<TcpStream> = clients;
    all.push(late);
    for stream in &all {
        let head = head(stream);
        collapsed += usize::from(head.contains("collapsed"));
        let mut bytes = [0; 5];
        (&mut &*stream).read_exact(&mut bytes).expect("what is there");
        assert_eq!(&bytes, b"hello");
    }
    assert_eq!(collapsed, JOINERS);
    upstream.write_all(b"world").expect("sent");
    for stream in all {
        assert_eq!(read_out(stream).expect("the end"), b"world");
    }
    assert!(connections.try_recv().is_err(), "one fetch");
    assert!(metrics(&proxy).contains(&format!("1 miss, {JOINERS} joins")));
}

#[test]
fn a_reply_that_turns_out_to_be_for_one_is_for_nobody_else() {
    let served = Arc::new(AtomicUsize::new(0));
    let (counted, (release, released)) = (Arc::clone(&served), channel::<()>());
    let released = std::sync::Mutex::new(Some(released));
    let server = Server::start(move |_, mut stream| {
        head(&stream);
        let number = counted.fetch_add(1, SeqCst);
        // The first one waits until all have asked.
        if let Some(released) = released.lock().expect("whole").take() {
            let _ = released.recv_timeout(PATIENCE);
        }
        let fields = "Cache-Control: private\r\nConnection: close\r\nContent-Length: 3";
        let reply = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{number:03}");
        let _ = stream.write_all(reply.as_bytes());
    });
    let proxy = proxy(&[]);
    let clients = ask_together(&proxy, &server);
    eventually("the first has come", || served.load(SeqCst) == 1);
    release.send(()).expect("released");
    let mut bodies: Vec<String> = clients.into_iter().map(|client| body(&hear(client).0).to_owned()).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len(), served.load(SeqCst)), (JOINERS, JOINERS), "everybody has their own");
    // From now on nobody waits for anybody.
    let (slow, connections) = by_hand();
    let own = b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1";
    for _ in 0..2 {
        let clients = ask_together(&proxy, &slow);
        let (_, mut first) = connections.recv_timeout(PATIENCE).expect("a request");
        first.write_all(own).expect("sent");
        let others: Vec<_> =
            (1..JOINERS).map(|_| connections.recv_timeout(PATIENCE).expect("a request of its own")).collect();
        for (_, mut stream) in others {
            stream.write_all(own).expect("sent");
        }
        assert!(clients.into_iter().all(|client| body(&hear(client).0) == "1"));
    }
}

#[test]
fn when_the_last_one_leaves_upstream_is_reset() {
    let (server, connections) = by_hand();
    let proxy = proxy(&[]);
    let clients = ask_together(&proxy, &server);
    let (_, mut upstream) = connections.recv_timeout(PATIENCE).expect("a request");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello").expect("sent");
    for stream in &clients {
        head(stream);
    }
    clients.into_iter().for_each(reset);
    assert_eq!(read_some(&upstream, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    proxy.hear("nobody wants it any more");
    assert!(metrics(&proxy).contains("1 fetch, 0 failed, 1 canceled"));
}

#[test]
fn a_stop_finishes_replies_and_breaks_off_visibly_what_takes_too_long() {
    for (grace, is_whole) in [("10s", true), ("100ms", false)] {
        let (server, connections) = by_hand();
        let proxy = proxy(&["--grace", grace]);
        let mut clients = Vec::new();
        let mut upstreams = Vec::new();
        for number in 0..10 {
            let mut stream = connect(proxy.address);
            let version = if number % 2 == 0 { "1.1" } else { "1.0" };
            stream.write_all(request(&server, &format!("/{number}"), version, "").as_bytes()).expect("sent");
            let (_, mut upstream) = connections.recv_timeout(PATIENCE).expect("a request");
            upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").expect("sent");
            head(&stream);
            clients.push(stream);
            upstreams.push(upstream);
        }
        proxy.signal(Signal::SIGTERM);
        if is_whole {
            eventually("the door is closed", || TcpStream::connect(proxy.address).is_err());
            drop(upstreams);
            for client in clients {
                assert!(read_out(client).is_ok());
            }
        } else {
            for client in clients {
                assert_eq!(
                    read_out(client).map(drop).map_err(|error| error.kind()),
                    Err(io::ErrorKind::ConnectionReset)
                );
            }
        }
        assert_eq!(proxy.finish().code(), 0);
    }
}

#[test]
fn much_passes_through_little_memory() {
    let server = Server::start(|_, mut stream| {
        head(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n");
        for _ in 0..200 {
            let _ = stream.write_all(&vec![b'x'; 1_000_000]);
        }
    });
    let proxy = proxy(&[]);
    get(&proxy, &origin(format!("{OK}\r\nhello")).0, "/", "");
    let before = proxy.memory();
    let mut stream = connect(proxy.address);
    stream.write_all(request(&server, "/", "1.1", "").as_bytes()).expect("sent");
    head(&stream);
    let (mut buffer, mut bytes, mut most) = (vec![0; 1 << 20], 0, 0);
    while let Ok(n @ 1..) = read_some(&stream, &mut buffer) {
        bytes += n;
        most = most.max(proxy.memory());
    }
    assert_eq!(bytes, 200_000_000);
    assert!(most < before + 11_000_000, "{before} {most}");
}

#[test]
fn a_silent_upstream_is_a_timeout_and_a_silent_client_is_told() {
    let (server, connections) = by_hand();
    let proxy = proxy(&["--upstream-timeout", "200ms"]);
    let reply = get(&proxy, &server, "/", "");
    assert!(status(&reply) == 504 && body(&reply).contains("no byte for 200ms"), "{reply}");
    drop(connections);
    let (_socket, port) = crate::harness::refusing_port();
    let (reply, _) = say(&proxy, format!("GET http://127.0.0.1:{port}/ HTTP/1.0\r\n\r\n"));
    assert!(status(&reply) == 502 && body(&reply).contains("connection refused"), "{reply}");
    // Ten seconds for a head, wherever it stops; also for that of a second request, which may begin later than that.
    let (server, _) = origin(format!("{OK}\r\nhello"));
    let whole = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", server.address);
    let mut idle = connect(proxy.address);
    idle.write_all(whole.as_bytes()).expect("sent");
    let mut pair = connect(proxy.address);
    pair.write_all(whole.as_bytes()).expect("sent");
    let pair = thread::spawn(move || {
        let mut first = String::new();
        while !first.ends_with("\r\n\r\nhello") {
            let mut byte = [0];
            assert_eq!(read_some(&pair, &mut byte), Ok(1), "{first}");
            first.push(byte[0].into());
        }
        pair.write_all(b"GET http").expect("sent");
        hear(pair).0
    });
    let late: Vec<_> = ["GET http", "GET http://127.0.0.1/ HTTP/1.1\r\nHo"]
        .map(|said| {
            let mut stream = connect(proxy.address);
            stream.write_all(said.as_bytes()).expect("sent");
            thread::spawn(move || hear(stream).0)
        })
        .into();
    for client in late {
        assert_eq!(status(&client.join().expect("heard")), 408);
    }
    assert_eq!(status(&pair.join().expect("heard")), 408);
    idle.write_all(whole.replace("Host: x", "Host: x\r\nConnection: close").as_bytes()).expect("it is kept");
    assert_eq!(hear(idle).0.matches("\r\n\r\nhello").count(), 2);
}

#[test]
fn a_tunnel_leads_to_ports_that_are_allowed_and_carries_everything() {
    let server = Server::start(|_, mut stream| {
        // It speaks first, and says what it hears.
        stream.write_all(b"welcome ").expect("sent");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("the end");
        stream.write_all(&all).expect("sent");
    });
    let closed = proxy(&[]);
    let target = format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\n", server.address);
    let (reply, _) = say(&closed, &target);
    assert!(status(&reply) == 403 && body(&reply).contains("see --connect"), "{reply}");
    let proxy = proxy(&["--connect", &format!("443,{}", server.port())]);
    // What comes with the head goes up, wherever it is cut; what upstream says at once comes down.
    let said = format!("{target}early");
    for cut in 0..said.len() {
        let mut stream = connect(proxy.address);
        stream.set_nodelay(true).expect("set");
        stream.write_all(&said.as_bytes()[..cut]).expect("sent");
        stream.write_all(&said.as_bytes()[cut..]).expect("sent");
        stream.write_all(b" and late").expect("sent");
        stream.shutdown(Shutdown::Write).expect("connected");
        let (heard, end) = hear(stream);
        let expected = "HTTP/1.1 200 Connection established\r\n\r\nwelcome early and late";
        assert_eq!((&*heard, end), (expected, Ok(())), "{cut}");
    }
    for (target, status) in [
        ("CONNECT 169.254.169.254:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 403),
        (format!("CONNECT {} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", server.address), 400),
        ("CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400),
        ("CONNECT 443 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400),
    ] {
        let (reply, _) = say(&proxy, &target);
        assert_eq!(self::status(&reply), status, "{target:?}: {reply:?}");
    }
    // A reset is passed on, in both directions.
    let resetting = Server::start(|_, stream| {
        let mut byte = [0];
        let _ = read_some(&stream, &mut byte);
        reset(stream);
    });
    let open = self::proxy(&["--connect", "any"]);
    let mut stream = connect(open.address);
    stream.write_all(format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\nx", resetting.address).as_bytes()).expect("sent");
    assert_eq!(hear(stream).1, Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn whoever_listens_for_others_reaches_public_addresses_only() {
    let (server, count) = origin(format!("{OK}\r\nhello"));
    let everywhere = proxy(&["--iface", "0.0.0.0"]);
    let at = SocketAddr::from(([127, 0, 0, 1], everywhere.address.port()));
    let ask = || {
        let mut stream = connect(at);
        stream.write_all(request(&server, "/", "1.0", "").as_bytes()).expect("sent");
        hear(stream).0
    };
    assert!(status(&ask()) == 403, "{}", ask());
    assert_eq!(count.load(SeqCst), 0);
    let open = proxy(&["--iface", "0.0.0.0", "--targets", "any"]);
    let at = SocketAddr::from(([127, 0, 0, 1], open.address.port()));
    let mut stream = connect(at);
    stream.write_all(request(&server, "/", "1.0", "").as_bytes()).expect("sent");
    assert!(hear(stream).0.ends_with("hello"));
}

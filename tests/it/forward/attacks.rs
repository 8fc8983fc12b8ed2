//! What hostile clients and servers try with a forward proxy, and what comes of it.

use super::*;

/// Replies with these fields and the number of the request, for each path its own.
fn numbered(fields: &'static [u8]) -> Server {
    let count = Arc::new(AtomicUsize::new(0));
    Server::start(move |_, mut stream| {
        head(&stream);
        let number = count.fetch_add(1, SeqCst);
        let head = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n", fields, b"\r\n"].concat();
        stream.write_all(&[&head[..], number.to_string().as_bytes()].concat()).expect("sent");
    })
}

#[test]
fn what_is_private_is_so_however_it_is_written() {
    let proxy = proxy(&["--ttl", "1m"]);
    for fields in [
        &b"Cache-Control: private, x=\"\xe9\"\r\nExpires: Thu, 01 Jan 2099 00:00:00 GMT\r\n"[..],
        b"Cache-Control: x=\"a\\\"\", private\r\n",
        b"Cache-Control: x=\"a, private\r\n",
        b"Vary: \xe9, *\r\n",
        b"Cache-Control: private\r\nConnection: cache-control\r\n",
        b"Set-Cookie: a=b\r\nConnection: set-cookie\r\n",
    ] {
        let server = numbered(fields);
        let bodies = ["0", "1"].map(|_| body(&get(&proxy, &server, "/", "")).to_owned());
        assert_eq!(bodies, ["0", "1"], "{}", fields.escape_ascii());
    }
}

#[test]
fn what_a_client_keeps_from_upstream_is_nothing_that_a_reply_varies_by() {
    let server = Server::start(|_, mut stream| {
        let head = head(&stream);
        let is_german = head.contains("x-lang: de");
        let said = if is_german { "de" } else { "en" };
        let fields = "Cache-Control: max-age=60\r\nVary: X-Lang, TE\r\nConnection: close\r\nContent-Length: 2\r\n";
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{said}").as_bytes()).expect("sent");
    });
    let proxy = proxy(&[]);
    assert_eq!(body(&get(&proxy, &server, "/", "X-Lang: de\r\nConnection: x-lang\r\n")), "en");
    assert_eq!(body(&get(&proxy, &server, "/", "X-Lang: de\r\n")), "de");
    let hit = get(&proxy, &server, "/", "TE: trailers\r\n");
    let is_hit =
        |reply: &str| field(reply, "cache-status").is_some_and(|status| status.starts_with("poetry-proxy; hit"));
    assert!(is_hit(&hit) && body(&hit) == "en", "{hit}");
}

#[test]
fn fields_of_requests_are_not_kept_unless_a_reply_varies_by_them_and_then_they_count() {
    let server = Server::start(|_, mut stream| {
        let head = head(&stream);
        let vary = if head.starts_with("GET /vary") { "Vary: X-1, X-1\r\n" } else { "" };
        let fields = format!("Cache-Control: max-age=60\r\nConnection: close\r\nContent-Length: 0\r\n{vary}");
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).expect("sent");
    });
    let proxy = proxy(&[]);
    let kept = || -> u64 {
        let totals = metrics(&proxy);
        let kept = totals.split(" sent, ").nth(1).and_then(|rest| rest.split(' ').next()).expect("bytes");
        kept.parse().expect("a number")
    };
    let long: String = (0..50).map(|n| format!("X-{n}: {}\r\n", "x".repeat(150))).collect();
    get(&proxy, &server, "/plain", &long);
    let plain = kept();
    assert!(plain < 2_000, "{plain}");
    get(&proxy, &server, "/vary", &long);
    assert!((plain + 150..plain + 2_500).contains(&kept()), "{plain} {}", kept());
}

#[test]
fn a_target_goes_up_as_it_came() {
    let server = Server::start(|_, mut stream| {
        let path = head(&stream).split(' ').nth(1).unwrap_or_default().to_owned();
        let length = path.len();
        let reply = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{path}");
        stream.write_all(reply.as_bytes()).expect("sent");
    });
    let proxy = proxy(&[]);
    for path in ["/a/../../b/./c", "/s?f={a}^`\\|", "/100%", "/?q=50%&x=%zz", "/%7Ea", "//x//y"] {
        assert_eq!(body(&get(&proxy, &server, path, "")), path);
    }
    let asked = format!("GET http://{}?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", server.address);
    assert_eq!(body(&say(&proxy, asked).0), "/?a=b");
}

#[test]
fn a_304_for_which_nobody_asked_is_for_one_and_one_about_another_reply_about_none() {
    let (not_asked, count) =
        origin("HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nConnection: close\r\n\r\n");
    let proxy = proxy(&[]);
    for asked in 1..3 {
        assert_eq!((status(&get(&proxy, &not_asked, "/", "")), count.load(SeqCst)), (304, asked));
    }
    let (server, connections) = by_hand();
    let next = |reply: &str| {
        let (head, mut stream) = connections.recv_timeout(PATIENCE).expect("a request");
        stream.write_all(reply.as_bytes()).expect("sent");
        head
    };
    let whole = |tag: &str, body: &str| {
        format!("{OK}Connection: close\r\nCache-Control: max-age=60\r\nETag: \"{tag}\"\r\n\r\n{body}")
    };
    let first = ask(&proxy, &server, "");
    next(&whole("old", "hello"));
    assert_eq!(body(&hear(first).0), "hello");
    let second = ask(&proxy, &server, "Cache-Control: max-age=0\r\n");
    let conditional = next("HTTP/1.1 304 Not Modified\r\nETag: \"new\"\r\nConnection: close\r\n\r\n");
    assert!(conditional.contains("if-none-match: \"old\""), "{conditional}");
    let again = next(&whole("new", "world"));
    assert!(!again.contains("if-none-match"), "{again}");
    assert_eq!(body(&hear(second).0), "world");
    assert_eq!(body(&get(&proxy, &server, "/", "")), "world");
}

#[test]
fn the_length_that_head_tells_makes_sense_or_there_is_none() {
    let proxy = proxy(&[]);
    for (lengths, expected) in [
        ("Content-Length: 5\r\n", (200, Some("5"))),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", (200, Some("5"))),
        ("Content-Length: 5, 5\r\n", (200, Some("5"))),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", (200, None)),
        ("", (200, None)),
    ] {
        let (server, _) = origin(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{lengths}\r\n"));
        let (reply, end) = say(&proxy, request(&server, "/", "1.1", "").replace("GET", "HEAD"));
        assert_eq!(
            (status(&reply), field(&reply, "content-length"), end),
            (expected.0, expected.1, Ok(())),
            "{lengths}"
        );
    }
    for lengths in ["Content-Length: 3\r\nContent-Length: 5\r\n", "Content-Length: abc\r\n"] {
        let (server, _) = origin(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{lengths}\r\n"));
        let (reply, _) = say(&proxy, request(&server, "/", "1.1", "").replace("GET", "HEAD"));
        assert_eq!(status(&reply), 502, "{lengths}: {reply}");
    }
}

#[test]
fn a_host_that_is_none_and_a_tunnel_that_comes_too_late_are_refused() {
    let (server, count) = origin(format!("{OK}\r\nhello"));
    let proxy = proxy(&["--connect", "any"]);
    let at = server.address;
    for request in [
        format!("CONNECT {at} HTTP/1.1\r\n\r\n"),
        format!("CONNECT {at} HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        format!("CONNECT {at} HTTP/1.1\r\nHost: a b\r\n\r\n"),
        format!("GET http://{at}/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ] {
        let (reply, end) = say(&proxy, &request);
        assert_eq!((status(&reply), end), (400, Ok(())), "{request:?}: {reply}");
    }
    assert_eq!(count.load(SeqCst), 0);
    let get = format!("GET http://{at}/ HTTP/1.1\r\nHost: x\r\n\r\n");
    let (both, _) = say(&proxy, format!("{get}CONNECT {at} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(both.contains("hello") && both.contains("A tunnel begins a connection"), "{both}");
    // An empty line before the first request is none.
    let (first, _) = say(&proxy, format!("\r\nCONNECT {at} HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n"));
    assert!(first.contains("200 Connection established") && first.ends_with("hello"), "{first}");
}

#[test]
fn who_says_a_head_a_byte_at_a_time_has_ten_seconds_for_all_of_it() {
    let proxy = proxy(&["--connect", "any"]);
    let drips: Vec<_> = ["GET http://a/", "CONNECT a:1 HTTP/1.1\r\nX:", "GET http://a/ HTTP/1.1\r\nX:"]
        .map(|begun| {
            let stream = connect(proxy.address);
            thread::spawn(move || {
                let since = std::time::Instant::now();
                (&stream).write_all(begun.as_bytes()).expect("sent");
                stream.set_read_timeout(Some(std::time::Duration::from_secs(1))).expect("set");
                while since.elapsed() < PATIENCE {
                    let mut byte = [0];
                    match read_some(&stream, &mut byte) {
                        Err(io::ErrorKind::WouldBlock) => {}
                        _ => return since.elapsed(),
                    }
                    let _ = (&stream).write_all(b"x");
                }
                panic!("it goes on for ever: {begun}");
            })
        })
        .into();
    for drip in drips {
        let took = drip.join().expect("an end");
        assert!(took.as_secs() >= 9, "{took:?}");
    }
}

#[test]
fn upstream_is_left_alone_for_a_while_when_it_has_failed() {
    let (server, connections) = by_hand();
    let proxy = proxy(&["--stale-while-revalidate", "1h", "--stale-if-error", "--retry-after", "1h"]);
    let first = ask(&proxy, &server, "");
    let (_, mut stream) = connections.recv_timeout(PATIENCE).expect("a request");
    stream
        .write_all(format!("{OK}Connection: close\r\nCache-Control: max-age=0\r\n\r\nhello").as_bytes())
        .expect("sent");
    assert_eq!(body(&hear(first).0), "hello");
    // That somebody leaves who wanted a new one is no failure of upstream's.
    let leaves = ask(&proxy, &server, "Cache-Control: no-cache\r\n");
    let (_, unwanted) = connections.recv_timeout(PATIENCE).expect("asked for a new one");
    reset(leaves);
    eventually("it is canceled", || metrics(&proxy).contains("1 canceled"));
    drop(unwanted);
    assert_eq!(body(&get(&proxy, &server, "/", "")), "hello");
    let (_, stream) = connections.recv_timeout(PATIENCE).expect("asked again");
    reset(stream);
    eventually("it has failed", || metrics(&proxy).contains("1 failed"));
    for _ in 0..5 {
        assert_eq!(body(&get(&proxy, &server, "/", "")), "hello");
    }
    assert!(connections.try_recv().is_err(), "it is asked no more");
}

#[test]
fn those_who_wait_for_another_kind_share_that_one() {
    let (server, connections) = by_hand();
    let proxy = proxy(&[]);
    // The first one decides for itself alone; the other ones agree with each other.
    let first = ask(&proxy, &server, "Accept-Language: de\r\n");
    let (_, mut german) = connections.recv_timeout(PATIENCE).expect("a request");
    let others: Vec<_> = (0..JOINERS).map(|_| ask(&proxy, &server, "Accept-Language: en\r\n")).collect();
    let vary = format!("{OK}Connection: close\r\nCache-Control: max-age=60\r\nVary: Accept-Language\r\n\r\n");
    german.write_all(format!("{vary}hallo").as_bytes()).expect("sent");
    assert_eq!(body(&hear(first).0), "hallo");
    let (_, mut english) = connections.recv_timeout(PATIENCE).expect("a request");
    english.write_all(format!("{vary}hello").as_bytes()).expect("sent");
    for other in others {
        assert_eq!(body(&hear(other).0), "hello");
    }
    assert!(connections.try_recv().is_err(), "two kinds, two fetches");
    let said = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
    let (server, _) = origin(said);
    let reply = get(&proxy, &server, "/", "");
    assert!(status(&reply) == 502 && body(&reply).contains("changes to another protocol"), "{reply}");
}

#[test]
fn a_reply_without_a_date_gets_one_and_keeps_it() {
    let (server, _) = origin(format!("{OK}Connection: close\r\nCache-Control: max-age=60\r\n\r\nhello"));
    let proxy = proxy(&[]);
    let first = get(&proxy, &server, "/", "");
    let date = field(&first, "date").expect("a date").to_owned();
    eventually("a second has passed", || {
        let hit = get(&proxy, &server, "/", "");
        assert_eq!(field(&hit, "date"), Some(&*date));
        field(&hit, "age") != Some("0")
    });
}

//! Sources that fail, each in its own way: the page is there, the others are complete, and each says why.

use std::time::Duration;

use super::*;
use crate::harness::{FullQueue, LIMIT, eventually, poem_file, refusing_port, reset};

#[test]
fn each_failure_has_its_own_sentence_and_takes_nothing_from_the_others() {
    let (_socket, refused) = refusing_port();
    let reset_after = Server::start(|_, mut stream| {
        stream.write_all(&[b'x'; 100]).expect("sent");
        // A reset throws away what is not read yet.
        let mut rest = Vec::new();
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let _ = stream.read_to_end(&mut rest);
        reset(stream);
    });
    let silent = Held::new("");
    let queue = FullQueue::new();
    let plain = replying("a poem, and no HTTP\n");
    let unavailable = replying("HTTP/1.1 503 Out of <b>order</b>\r\nContent-Length: 2\r\n\r\nno");
    let long = replying(reply("", vec![b'x'; 2000]));
    let zipped = replying(reply("Content-Encoding: gzip\r\nContent-Type: text/plain\r\n", "zipped"));
    let picture = replying(reply("Content-Type: image/png\r\n", "\u{89}PNG"));
    let binary = Server::poem(&b"\xff\xfe\0\x01"[..]);
    let half = replying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    let twice = replying("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhalf");
    let nothing = Server::start(|_, stream| send_whole(stream, b""));
    let untitled = replying(reply("Content-Type: text/html\r\n", "<p>no title"));
    let dtd = replying(reply("Content-Type: text/xml\r\n", "<!DOCTYPE a [<!ENTITY b 'bbbb'>]><rss>&b;</rss>"));
    let good = [Server::poem("first good"), Server::poem("second good")];
    let cases: Vec<(String, &str)> = vec![
        (good[0].port(), "first good"),
        (refused, "Nobody listens there: connection refused."),
        (reset_after.port(), "Its connection was reset, "),
        (silent.server.port(), "It was silent for 2s, before its first byte."),
        (queue.port.clone(), "There was no connection for 2s."),
        (url(&plain), "What it says is not HTTP."),
        (url(&unavailable), "It answers HTTP 503 Out of &lt;b&gt;order&lt;/b&gt;, and has no text."),
        (url(&long), "It is longer than 1 KiB."),
        ("nowhere.invalid:1".to_owned(), "Its name is unknown: "),
        (url(&zipped), "It is compressed (gzip), which nobody asked for."),
        (url(&picture), "It is not text, but image/png."),
        (binary.port(), "It is not text: it has a NUL."),
        (url(&half), "It breaks off: 4 of 10 bytes."),
        (url(&twice), "Nobody can say where its reply ends: two lengths: 4 and 5."),
        (url(&nothing), "It ended before there was a reply."),
        (url(&untitled), "It has no title."),
        (url(&dtd), "It is no feed: it has a document type declaration, which is refused."),
        (good[1].port(), "second good"),
    ];
    let flags = ["--max-size", "1KiB", "--idle-timeout", LIMIT].map(str::to_owned);
    let server = anthology(flags.into_iter().chain(cases.iter().map(|(source, _)| source.clone())));
    let page = page(&server);
    let mut sentences: Vec<String> = Vec::new();
    for (number, (source, sentence)) in (1..).zip(&cases) {
        let told = section(&page, number);
        assert!(told.contains(sentence), "{source}: {told}");
        assert_eq!(told.contains("good"), sentence.contains("good"), "{told}");
        sentences.push((*sentence).to_owned());
    }
    sentences.sort();
    sentences.dedup();
    assert_eq!(sentences.len(), cases.len());
    assert!(page.contains("Got 2 of 18 poems in "), "{page}");
    // Whoever is not held up has read them before.
    eventually("it is reset after they are read", || {
        get(&server, "/source/3") == (502, "Its connection was reset, after 100 bytes.\n".to_owned())
    });
}

#[test]
fn redirects_stay_on_their_host_and_are_few() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let elsewhere = Server::start(move |_, stream| {
        counted.fetch_add(1, SeqCst);
        send_whole(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    });
    let redirecting =
        |to: String| replying(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"));
    let away = redirecting(url(&elsewhere));
    let around = redirecting("/".to_owned());
    let encrypted = redirecting("https://127.0.0.1/".to_owned());
    let steps = Server::start(|_, mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let Ok(1) = read_some(&stream, &mut byte) else { return };
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let step: u32 = head.split(['/', ' ']).nth(2).and_then(|step| step.parse().ok()).unwrap_or(0);
        let next = format!("HTTP/1.1 307 Go on\r\nLocation: /{}\r\nContent-Length: 0\r\n\r\n", step + 1);
        let said = if step < 3 { next } else { String::from_utf8(reply("", "at last")).expect("text") };
        let _ = stream.write_all(said.as_bytes());
        send_whole(stream, b"");
    });
    let server = anthology([url(&away), url(&around), url(&encrypted), url(&steps)]);
    let page = page(&server);
    let to = url(&elsewhere);
    assert!(
        section(&page, 1).contains(&format!("It redirects to {to}, which is another host: not followed.")),
        "{page}"
    );
    assert!(section(&page, 2).contains("It redirects more than 3 times."), "{page}");
    assert!(section(&page, 3).contains("It redirects to https://127.0.0.1/, which leads nowhere: https"), "{page}");
    assert!(section(&page, 4).contains("at last"), "{page}");
    // No request names a source.
    for path in [
        format!("/?url={to}&source={to}&wait"),
        format!("/news?{to}"),
        format!("/source/{to}"),
        format!("/source/1?url={to}"),
        format!("/anthology.json?source={to}"),
    ] {
        let (_, body) = get(&server, &path);
        assert!(!body.contains("secret"), "{path}: {body}");
    }
    assert_eq!(seen.load(SeqCst), 0);
}

#[test]
fn an_anthology_is_no_source_of_its_own() {
    let port = crate::harness::free_port().to_string();
    let server = anthology(["--port", &port, &format!("http://localhost:{port}/"), &port]);
    let page = page(&server);
    for number in [1, 2] {
        assert!(section(&page, number).contains("That is this server itself."), "{page}");
    }
}

#[test]
fn every_trouble_of_the_cookbook_is_a_paragraph_or_a_poem() {
    const POEM: &str = "-- Edgar Allan Poe";
    // The flags of docs/faults.md, in its order; what is short there is shorter here.
    let troubles: [(&[&str], &str); 12] = [
        (&["--first-byte-delay", "5m"], "It was silent for 2s, before its first byte."),
        (&["--rate", "20"], "It was not complete after 5s: "),
        (&["--num-bytes", "50", "--cut-at", "100", "--cut", "hang"], "It was silent for 2s, after 100 bytes."),
        (&["--num-bytes", "50", "--delay", "200ms", "--cut-at", "100", "--cut", "rst"], "Its connection was reset, "),
        (&["--num-bytes", "50", "--cut-at", "100", "--cut", "fin"], "Science! true daughter"),
        (&["--num-bytes", "1k", "--fail-first", "1"], "Its connection was reset, before its first byte."),
        (&["--never-accept"], "There was no connection for 2s."),
        (&["--num-bytes", "1", "--delay", "500ms"], "It was not complete after 5s: "),
        (&["--num-bytes", "300", "--delay", "5m"], "It was silent for 2s, after 300 bytes."),
        (&["--num-bytes", "100", "--delay", "10ms", "--jitter", "9ms", "--seed", "7"], POEM),
        (&["--num-bytes", "1k", "--listen-after", "1h"], "Nobody listens there: connection refused."),
        (&["--never-read", "--delay", "0"], POEM),
    ];
    let science = poem_file("science.txt");
    let servers: Vec<Service> =
        troubles.iter().map(|(flags, _)| Service::start(program("fastpoetry").args(*flags).arg(&science))).collect();
    let flags = ["--timeout", "5s", "--idle-timeout", LIMIT].map(str::to_owned);
    let server = anthology(flags.into_iter().chain(servers.iter().map(Service::port)));
    let told = page(&server);
    for (number, (flags, expected)) in (1..).zip(&troubles) {
        let section = section(&told, number);
        assert!(section.contains(expected), "{flags:?}: {section}");
    }
    // Whoever was reset once is served the next time.
    assert!(section(&page(&server), 6).contains(POEM));
}

#[test]
fn texts_of_others_are_read_as_they_were_declared() {
    let latin = replying(reply("Content-Type: text/plain; charset=ISO-8859-1\r\n", b"caf\xe9"));
    let page_of = replying(reply("Content-Type: text/html; charset=utf-8\r\n", "<title>P&amp;P &lt;i&gt;</title>"));
    let atom = "<feed xmlns='http://www.w3.org/2005/Atom'><entry><title>One &lt;two></title><link href='https://a.example/'/></entry></feed>";
    let atom = replying(reply("Content-Type: application/atom+xml\r\n", atom));
    let koi = replying(reply("Content-Type: text/plain; charset=koi8-r\r\n", "x"));
    let sources = Sources::new(&format!(
        "[[source]]\naddress = '{}'\n[[source]]\naddress = '{}'\n[[source]]\naddress = '{}'\n[[source]]\naddress = '{}'\n\
         [[source]]\naddress = '{}'\nkind = 'text'\n",
        url(&latin),
        url(&page_of),
        url(&atom),
        url(&koi),
        url(&page_of)
    ));
    let server = anthology(["--sources", &sources.word()]);
    let page = page(&server);
    assert!(section(&page, 1).contains("café"), "{page}");
    assert!(section(&page, 2).contains("P&amp;P &lt;i&gt;"), "{page}");
    assert!(
        section(&page, 3).contains("One &lt;two&gt;") && page.contains("<a href=\"https://a.example/\" rel="),
        "{page}"
    );
    assert!(section(&page, 4).contains("its encoding is koi8-r, and neither UTF-8 nor Latin-1"), "{page}");
    assert!(section(&page, 5).contains("&lt;title&gt;P&amp;amp;P"), "{page}");
    eventually("all have ended", || metric(&server, "poetry_anthology_viewers") == 0);
}

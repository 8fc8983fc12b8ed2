//! What a source may cost, each for itself, and how many are asked at a time.

use std::sync::Condvar;

use super::*;
use crate::harness::eventually;

#[test]
fn each_source_has_its_own_time() {
    let (patient, hasty) = (Held::new("poem"), Held::new(""));
    let sources = Sources::new(&format!(
        "[[source]]\naddress = {}\n[[source]]\naddress = {}\ntimeout = '200ms'\n",
        patient.server.port(),
        hasty.server.port()
    ));
    let server = anthology(["--sources", &sources.word()]);
    let mut viewer = Viewer::new(&server, "/");
    viewer.until("It was not complete after 200ms: 0 bytes had come.");
    assert_eq!(order(&viewer.text), [2], "the other one has its time");
    patient.release();
    let page = viewer.whole();
    assert!(order(&page) == [2, 1] && page.contains("poem</pre>"), "{page}");
}

#[test]
fn each_source_has_its_own_size() {
    let servers = [Server::poem("x".repeat(100)), Server::poem("y".repeat(100)), Server::poem("z".repeat(101))];
    let [one, two, three] = servers.each_ref().map(Server::port);
    let sources = Sources::new(&format!(
        "[[source]]\naddress = {one}\n[[source]]\naddress = {two}\nmax-size = 99\n[[source]]\naddress = {three}\n"
    ));
    let server = anthology(["--max-size", "100", "--sources", &sources.word()]);
    let page = page(&server);
    assert!(section(&page, 1).contains(&"x".repeat(100)), "{page}");
    assert!(section(&page, 2).contains("It is longer than 99 bytes.") && !page.contains("yyy"), "{page}");
    assert!(section(&page, 3).contains("It is longer than 100 bytes."), "{page}");
}

/// A server that holds all of its clients until it is opened, and knows how many there are.
struct Crowd {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    held: usize,
    most: usize,
    is_open: bool,
}

impl Crowd {
    fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let server = Server::start(move |_, stream| {
            {
                let mut state = its.state.lock().expect("unpoisoned");
                state.held += 1;
                state.most = state.most.max(state.held);
                its.opened.wait_while(state, |state| !state.is_open).expect("unpoisoned").held -= 1;
            }
            // Nobody comes in its place before it has got its poem.
            send_whole(stream, b"poem");
        });
        Self { server, shared }
    }

    /// How many are held.
    fn held(&self) -> usize {
        self.shared.state.lock().expect("unpoisoned").held
    }

    /// How many were held at most.
    fn most(&self) -> usize {
        self.shared.state.lock().expect("unpoisoned").most
    }

    fn open(&self) {
        self.shared.state.lock().expect("unpoisoned").is_open = true;
        self.shared.opened.notify_all();
    }
}

#[test]
fn a_host_has_two_connections_and_others_do_not_wait_for_it() {
    let (crowd, other) = (Crowd::new(), Server::poem("other"));
    let mut words = vec![crowd.server.port(); 20];
    words.push(other.port());
    let server = anthology(words);
    let mut viewer = Viewer::new(&server, "/");
    viewer.until("other</pre>");
    eventually("two are there", || crowd.held() == 2);
    assert_eq!(order(&viewer.text), [21]);
    crowd.open();
    let page = viewer.whole();
    assert_eq!((order(&page).len(), page.matches("poem</pre>").count()), (21, 20));
    assert_eq!((crowd.held(), crowd.most()), (0, 2));
    assert_eq!(metric(&server, "poetry_anthology_fetches_total"), 21);
}

#[test]
fn no_flag_makes_it_wait_for_one_after_another() {
    for flags in [
        &[][..],
        &["--ttl", "0"],
        &["--ttl", "0", "--stale", "0"],
        &["-j", "8"],
        &["--per-host", "100", "-j", "100"],
        &["--timeout", "2m", "--idle-timeout", "1m", "--max-size", "100"],
        &["--title", "x", "--max-clients", "9"],
    ] {
        for path in ["/", "/?wait", "/anthology.json"] {
            // Nobody is served before all have come.
            let crowds: Vec<Crowd> = (0..8).map(|_| Crowd::new()).collect();
            let words = flags.iter().map(|&flag| flag.to_owned()).chain(crowds.iter().map(|crowd| crowd.server.port()));
            let server = anthology(words);
            let asked = ask(server.address, &request(path));
            eventually("all are asked", || crowds.iter().all(|crowd| crowd.held() == 1));
            crowds.iter().for_each(Crowd::open);
            let viewer = Viewer::of(asked);
            assert_eq!((viewer.status(), viewer.whole().matches("poem").count() >= 8), (200, true), "{flags:?} {path}");
        }
    }
}

#[test]
fn so_many_are_fetched_at_once_as_are_allowed() {
    let crowds: Vec<Crowd> = (0..6).map(|_| Crowd::new()).collect();
    let server = anthology(["-j", "3"].map(str::to_owned).into_iter().chain(crowds.iter().map(|c| c.server.port())));
    let viewer = Viewer::new(&server, "/");
    let there = || crowds.iter().map(Crowd::held).sum::<usize>();
    eventually("three are asked", || there() == 3);
    crowds.iter().for_each(Crowd::open);
    assert_eq!(viewer.whole().matches("poem</pre>").count(), 6);
}

#[test]
fn a_body_without_an_end_is_cut_and_costs_no_memory() {
    let endless = Server::start(|_, mut stream| {
        let piece = vec![b'x'; 64 * 1024];
        while stream.write_all(&piece).is_ok() {}
    });
    let chunks = Server::start(|_, mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"4000\r\n").and_then(|()| stream.write_all(&[b'x'; 0x4000])).is_ok() {
            if stream.write_all(b"\r\n").is_err() {
                break;
            }
        }
    });
    let trickle = Server::start(|_, mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"X-Field: of a head without an end\r\n").is_ok() {}
    });
    let server = anthology(["--ttl", "0", "--max-size", "256KiB", &endless.port(), &url(&chunks), &url(&trickle)]);
    let look = || {
        let page = page(&server);
        for number in [1, 2] {
            assert!(section(&page, number).contains("It is longer than 256 KiB."), "{page}");
        }
        assert!(section(&page, 3).contains("Its reply cannot be understood: "), "{page}");
    };
    look();
    let before = server.memory();
    for _ in 0..30 {
        look();
    }
    let after = server.memory();
    assert!(after < before + (8 << 20), "{before} {after}");
}

#[test]
fn who_looks_and_reads_nothing_costs_little_however_much_there_is() {
    const LONG: usize = 1_000_000;
    let (servers, slow) = ([(); 4].map(|()| Server::poem("x".repeat(LONG))), Held::new("poem"));
    let [one, two, three, four] = servers.each_ref().map(Server::port);
    let server = anthology([&*one, &two, &three, &four, &slow.server.port()]);
    // All but one are in memory then.
    let mut first = Viewer::new(&server, "/");
    for number in 1..=4 {
        first.until(&format!("<section id=\"source-{number}\""));
    }
    let before = server.memory();
    // Readers of the beginning alone: all that follows is there for them.
    let viewers: Vec<Viewer> = (0..50).map(|_| Viewer::new(&server, "/")).collect();
    let more = server.memory().saturating_sub(before);
    assert!(more < 50 * LONG as u64, "{more} bytes for {} who read nothing", viewers.len());
    slow.release();
    let json = get(&server, "/anthology.json").1;
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(parsed["sources"].as_array().map(Vec::len), Some(5));
    assert_eq!(parsed["sources"][0]["text"].as_str().map(str::len), Some(LONG));
}

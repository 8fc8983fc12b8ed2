//! poetry-proxy: one fetch for everyone, live, and never half a poem.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::sys::signal::Signal;
use poetry_suite::cli::open_files;

use crate::harness::{
    CLIENTS, LIMIT, Server, Service, eventually, path_of, program, read_out, refusing_port, replace, reset, run,
    send_whole,
};

const NO_ARGS: [&str; 0] = [];

const HALF: &[u8] = b"one half of the poem, ";
const WHOLE: &[u8] = b"one half of the poem, and the other\n";

fn proxy(upstream: &str, args: &[&str]) -> Service {
    Service::start(program("poetry-proxy").args(args).arg(upstream))
}

/// An upstream that sends half a poem, and then does with each connection what it is told to.
struct Upstream {
    server: Server,
    connections: Arc<AtomicUsize>,
    gate: Arc<(Mutex<Option<Then>>, Condvar)>,
}

/// What follows half a poem.
#[derive(Clone, Copy)]
enum Then {
    TheRest,
    Reset,
    Leave,
}

impl Upstream {
    fn start() -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new((Mutex::new(None), Condvar::new()));
        let (count, wait) = (Arc::clone(&connections), Arc::clone(&gate));
        let server = Server::start(move |_, mut stream| {
            count.fetch_add(1, Ordering::AcqRel);
            let _ = stream.write_all(HALF);
            let (lock, changed) = &*wait;
            let then = changed.wait_while(lock.lock().expect("lock"), |then| then.is_none()).expect("lock");
            let then = *then;
            match then.expect("told") {
                Then::TheRest => send_whole(stream, &WHOLE[HALF.len()..]),
                Then::Reset => reset(stream),
                Then::Leave => {
                    let _ = read_out(stream);
                }
            }
        });
        Self { server, connections, gate }
    }

    fn then(&self, then: Then) {
        *self.gate.0.lock().expect("lock") = Some(then);
        self.gate.1.notify_all();
    }

    fn wait(&self) {
        *self.gate.0.lock().expect("lock") = None;
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }
}

/// A client that has got half of the poem.
fn half_way(proxy: &Service) -> TcpStream {
    let mut client = proxy.connect();
    let mut half = [0; HALF.len()];
    client.read_exact(&mut half).expect("half a poem, live");
    assert_eq!(half, HALF);
    client
}

fn is_reset(result: &io::Result<Vec<u8>>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn a_thousand_clients_share_one_fetch_and_get_it_live() {
    open_files::raise_limit();
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &["-q"]);
    assert_eq!(proxy.line, format!("Proxying {} on {}.\n", upstream.server.name(), proxy.address));
    let clients: Vec<TcpStream> = (0..1_000).map(|_| proxy.connect()).collect();
    for mut client in &clients {
        let mut half = [0; HALF.len()];
        client.read_exact(&mut half).expect("half a poem, live");
        assert_eq!(half, HALF);
    }
    upstream.then(Then::TheRest);
    for client in clients {
        assert_eq!(read_out(client).expect("the rest"), &WHOLE[HALF.len()..]);
    }
    assert_eq!(proxy.fetch().expect("from memory"), WHOLE);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn poems_of_all_kinds_pass_and_are_served_again_from_memory() {
    let binary: Vec<u8> = (0..=255u8).cycle().take(3 << 20).collect();
    for poem in [&b""[..], b"a poem\r\n", &binary] {
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, text) = (Arc::clone(&connections), poem.to_vec());
        let upstream = Server::start(move |_, stream| {
            count.fetch_add(1, Ordering::AcqRel);
            send_whole(stream, &text);
        });
        let proxy = proxy(&upstream.port(), &[]);
        for client in CLIENTS {
            let finished = run(client, ["-q", &proxy.port(), &proxy.port()]);
            assert!(finished.code() == 0 && finished.stdout == [poem, poem].concat(), "{client}");
        }
        let mut half_closed = proxy.connect();
        half_closed.shutdown(Shutdown::Write).expect("half closed");
        let mut bytes = Vec::new();
        half_closed.read_to_end(&mut bytes).expect("a poem");
        assert!(bytes == poem);
        assert_eq!(connections.load(Ordering::Acquire), 1);
        let finished = proxy.stop();
        assert_eq!(finished.code(), 0);
        assert!(finished.stderr.contains("MISS 127.0.0.1:") && finished.stderr.contains("HIT 127.0.0.1:"));
    }
}

#[test]
fn whoever_leaves_the_others_keep_theirs() {
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &[]);
    let (first, second) = (half_way(&proxy), half_way(&proxy));
    reset(first);
    proxy.hear("ABORT");
    upstream.then(Then::TheRest);
    assert_eq!(read_out(second).expect("the rest"), &WHOLE[HALF.len()..]);
    proxy.hear("JOIN");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn when_the_last_one_leaves_the_fetch_is_canceled_and_the_next_one_begins_anew() {
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &[]);
    for fetches in 1..4 {
        let clients = [half_way(&proxy), half_way(&proxy)];
        assert_eq!(upstream.connections(), fetches);
        clients.into_iter().for_each(reset);
        proxy.hear("Canceling poem download");
    }
    upstream.then(Then::TheRest);
    assert_eq!(proxy.fetch().expect("a poem"), WHOLE);
    assert_eq!(upstream.connections(), 4);
}

#[test]
fn a_canceled_fetch_closes_its_connection_at_once() {
    let (told, closed) = std::sync::mpsc::channel();
    let upstream = Server::start(move |_, mut stream| {
        stream.write_all(HALF).expect("a proxy");
        told.send(read_out(stream).map_err(|error| error.kind())).expect("a test");
    });
    let proxy = proxy(&upstream.port(), &[]);
    reset(half_way(&proxy));
    let end = closed.recv_timeout(std::time::Duration::from_secs(30)).expect("closed");
    assert_eq!(end, Err(io::ErrorKind::ConnectionReset), "so that a proxy in its place does not go on either");
}

#[test]
fn clients_that_come_and_go_in_a_hurry_never_get_half_a_poem() {
    let upstream =
        Service::slow(&crate::harness::poem_file("science.txt"), ["-q", "--delay", "1ms", "--num-bytes", "50"]);
    let poem = fs::read(crate::harness::poem_file("science.txt")).expect("a poem");
    let proxy = proxy(&upstream.port(), &["-q", "--ttl", "0"]);
    thread::scope(|scope| {
        for seed in 0..4 {
            let (address, poem) = (proxy.address, &poem);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..40 {
                    let mut client = TcpStream::connect(address).expect("a proxy");
                    if random.bool() {
                        let mut some = vec![0; random.usize(1..100)];
                        client.read_exact(&mut some).expect("some");
                        assert_eq!(some, poem[..some.len()]);
                        reset(client);
                    } else {
                        assert!(read_out(client).expect("a poem") == *poem);
                    }
                }
            });
        }
    });
}

#[test]
fn kept_filling_the_cache_needs_nobody() {
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &["--keep-filling"]);
    reset(half_way(&proxy));
    proxy.hear("ABORT");
    upstream.then(Then::TheRest);
    proxy.hear("Fetched the poem");
    assert_eq!(proxy.fetch().expect("from memory"), WHOLE);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_poem_that_breaks_off_is_nobodys_and_is_not_cached() {
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &["--ttl", "1h", "--stale-if-error"]);
    let clients = [half_way(&proxy), half_way(&proxy), half_way(&proxy)];
    upstream.then(Then::Reset);
    for client in clients {
        assert!(is_reset(&read_out(client)), "not the end of a poem");
    }
    proxy.hear("upstream: connection reset by peer");
    assert!(is_reset(&proxy.fetch()));
    upstream.then(Then::TheRest);
    assert_eq!(proxy.fetch().expect("the next one succeeds"), WHOLE);
}

#[test]
fn an_upstream_that_is_not_there_resets_its_clients_until_it_is() {
    let (held, port) = refusing_port();
    let proxy = proxy(&port, &[]);
    for _ in 0..3 {
        assert!(is_reset(&proxy.fetch()));
        proxy.hear("upstream: connection refused");
    }
    held.listen(10).expect("listening");
    let upstream = thread::spawn(move || send_whole(held.accept().expect("accepted").0.into(), WHOLE));
    assert_eq!(proxy.fetch().expect("a poem"), WHOLE);
    upstream.join().expect("upstream");
    let nowhere = self::proxy("name.invalid:1", &[]);
    assert!(is_reset(&nowhere.fetch()));
    nowhere.hear("cannot resolve the name");
    assert_eq!(nowhere.stop().code(), 0);
}

#[test]
fn a_silent_upstream_is_given_up() {
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &["--upstream-timeout", LIMIT]);
    assert!(is_reset(&read_out(half_way(&proxy))));
    proxy.hear(&format!("upstream: no byte for {LIMIT}"));
    let full = crate::harness::FullQueue::new();
    let proxy = self::proxy(&full.port, &["--upstream-timeout", "200ms"]);
    assert!(is_reset(&proxy.fetch()));
    proxy.hear("upstream: no connection for 200ms");
}

#[test]
fn an_aged_poem_is_better_than_none() {
    let upstream = Upstream::start();
    upstream.then(Then::TheRest);
    let proxy = proxy(&upstream.server.port(), &["--ttl", "0", "--stale-if-error"]);
    assert_eq!(proxy.fetch().expect("a poem"), WHOLE);
    assert_eq!(proxy.fetch().expect("fetched again"), WHOLE);
    assert_eq!(upstream.connections(), 2);
    // With half of the new poem sent, the old one can no longer take its place.
    upstream.wait();
    let client = half_way(&proxy);
    upstream.then(Then::Reset);
    assert!(is_reset(&read_out(client)));
    drop(upstream);
    assert_eq!(proxy.fetch().expect("the old one"), WHOLE);
    proxy.hear("STALE");
}

#[test]
fn an_aged_poem_is_served_while_it_is_fetched_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("poem.txt");
    fs::write(&path, "old").expect("written");
    let upstream = Service::slow(&path, ["--delay", "0"]);
    let proxy = proxy(&upstream.port(), &["--ttl", "0", "--stale-while-revalidate", "1h"]);
    assert_eq!(proxy.fetch().expect("a poem"), b"old");
    replace(&path, b"new");
    assert_eq!(proxy.fetch().expect("the aged one"), b"old");
    proxy.hear("STALE");
    eventually("the new one", || proxy.fetch().expect("a poem") == b"new");
    drop(upstream);
    eventually("a fetch that fails", || {
        assert_eq!(proxy.fetch().expect("the aged one"), b"new");
        proxy.signal(Signal::SIGUSR1);
        !proxy.hear("Totals").contains(" 0 failed")
    });
    assert_eq!(proxy.fetch().expect("the aged one still"), b"new");
}

/// An upstream that sends a poem once, then does with each connection what it is told to, and counts them.
fn once_and_then(then: impl Fn(TcpStream) + Send + Sync + 'static) -> (Server, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let server = Server::start(move |number, stream| {
        count.fetch_add(1, Ordering::AcqRel);
        if number == 0 { send_whole(stream, WHOLE) } else { then(stream) }
    });
    (server, connections)
}

#[test]
fn an_aged_poem_is_served_behind_an_upstream_that_hangs() {
    const NEW: &[u8] = b"the new poem\n";
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let wait = Arc::clone(&gate);
    let (upstream, connections) = once_and_then(move |stream| {
        drop(wait.1.wait_while(wait.0.lock().expect("lock"), |open| !*open).expect("lock"));
        send_whole(stream, NEW);
    });
    let proxy = proxy(&upstream.port(), &["--ttl", "0", "--stale-if-error", "--upstream-timeout", "0"]);
    assert_eq!(proxy.fetch().expect("a poem"), WHOLE);
    // Nobody waits for long, and those who come later do not wait at all.
    assert_eq!(proxy.fetch().expect("the aged one"), WHOLE);
    proxy.hear("STALE");
    for _ in 0..20 {
        assert_eq!(proxy.fetch().expect("the aged one"), WHOLE);
    }
    // The fetch for all of them is still under way, though each of them has left.
    assert_eq!(connections.load(Ordering::Acquire), 2);
    *gate.0.lock().expect("lock") = true;
    gate.1.notify_all();
    eventually("the new one", || proxy.fetch().expect("a poem") == NEW);
    assert!(!proxy.stop().stderr.contains("Canceling"));
}

#[test]
fn a_client_that_leaves_does_not_cancel_what_others_wait_for() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let wait = Arc::clone(&gate);
    let (upstream, connections) = once_and_then(move |mut stream| {
        let _ = stream.write_all(HALF);
        drop(wait.1.wait_while(wait.0.lock().expect("lock"), |open| !*open).expect("lock"));
        send_whole(stream, &WHOLE[HALF.len()..]);
    });
    let proxy = proxy(&upstream.port(), &["--ttl", "0", "--stale-if-error"]);
    assert_eq!(proxy.fetch().expect("a poem"), WHOLE);
    reset(half_way(&proxy));
    proxy.hear("ABORT");
    *gate.0.lock().expect("lock") = true;
    gate.1.notify_all();
    proxy.hear("Fetched the poem from");
    assert_eq!(connections.load(Ordering::Acquire), 2);
    assert!(!proxy.stop().stderr.contains("Canceling"));
}

#[test]
fn an_upstream_that_fails_is_left_alone_for_a_while() {
    for stale in ["--stale-while-revalidate=1h", "--stale-if-error"] {
        let (upstream, connections) = once_and_then(reset);
        let proxy = proxy(&upstream.port(), &["--ttl", "0", "--retry-after", "1h", stale]);
        assert_eq!(proxy.fetch().expect("a poem"), WHOLE);
        assert_eq!(proxy.fetch().expect("the aged one"), WHOLE);
        proxy.hear("Cannot fetch the poem");
        for _ in 0..300 {
            assert_eq!(proxy.fetch().expect("the aged one"), WHOLE);
        }
        assert_eq!(connections.load(Ordering::Acquire), 2, "{stale}");
        let said = proxy.stop().stderr;
        assert_eq!(said.matches("WARN").count(), 1, "{said}");
    }
}

#[test]
fn an_upstream_that_is_well_again_is_noticed() {
    for stale in ["--stale-while-revalidate=1h", "--stale-if-error"] {
        const NEW: &[u8] = b"the new poem\n";
        let attempts = AtomicUsize::new(0);
        let (upstream, _) = once_and_then(move |stream| match attempts.fetch_add(1, Ordering::AcqRel) {
            0..3 => reset(stream),
            _ => send_whole(stream, NEW),
        });
        let proxy = proxy(&upstream.port(), &["--ttl", "0", "--retry-after", "1ms", stale]);
        assert_eq!(proxy.fetch().expect("a poem"), WHOLE);
        eventually("the new one", || proxy.fetch().expect("a poem") == NEW);
    }
}

#[test]
fn forgotten_is_forgotten_even_under_way() {
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &[]);
    let first = half_way(&proxy);
    proxy.signal(Signal::SIGHUP);
    proxy.hear("Forgot the poem");
    let second = half_way(&proxy);
    assert_eq!(upstream.connections(), 2, "nobody joins what was to be forgotten");
    upstream.then(Then::TheRest);
    for client in [first, second] {
        assert_eq!(read_out(client).expect("the rest"), &WHOLE[HALF.len()..]);
    }
    proxy.hear("Fetched the poem");
    proxy.hear("Fetched the poem");
    assert_eq!(proxy.fetch().expect("from memory"), WHOLE);
    assert_eq!(upstream.connections(), 2);
    proxy.signal(Signal::SIGHUP);
    proxy.hear("Forgot the poem");
    assert_eq!(proxy.fetch().expect("fetched"), WHOLE);
    assert_eq!(upstream.connections(), 3);
    proxy.signal(Signal::SIGUSR1);
    let sent = 4 * WHOLE.len();
    let cached = WHOLE.len();
    proxy.hear(&format!(
        "Totals: 1 hit, 3 misses, 0 joins, 0 stale, 0 aborts, 0 of them let go; 3 fetches, 0 failed; {sent} bytes sent, \
         {cached} bytes cached"
    ));
}

/// The most memory a server has ever had, in bytes; proc_pid_status(5).
fn peak_memory(service: &Service) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[test]
fn a_large_poem_is_in_memory_once_and_who_never_reads_is_dropped() {
    const LARGE: usize = 48 << 20;
    let poem = vec![b'x'; LARGE];
    let upstream = Server::poem(&poem[..]);
    let proxy = proxy(&upstream.port(), &["--write-timeout", LIMIT]);
    let never_reads = proxy.connect();
    let readers: Vec<TcpStream> = (0..4).map(|_| proxy.connect()).collect();
    thread::scope(|scope| {
        for reader in readers {
            scope.spawn(|| assert!(read_out(reader).expect("a poem") == poem));
        }
    });
    proxy.hear("it took nothing for 2s");
    assert!(read_out(never_reads).is_err(), "not the end of a poem");
    assert!(proxy.fetch().expect("from memory") == poem);
    assert!(peak_memory(&proxy) < LARGE + (16 << 20), "{} bytes", peak_memory(&proxy));
}

#[test]
fn a_poem_too_long_to_keep_passes_through_in_little_memory() {
    const LONG: usize = 48 << 20;
    let poem: Vec<u8> = (0..=250u8).cycle().take(LONG).collect();
    let text = poem.clone();
    let (connections, go) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
    let (count, wait) = (Arc::clone(&connections), Arc::clone(&go));
    let upstream = Server::start(move |_, stream| {
        count.fetch_add(1, Ordering::AcqRel);
        drop(wait.1.wait_while(wait.0.lock().expect("lock"), |go| !*go).expect("lock"));
        send_whole(stream, &text);
    });
    let proxy = proxy(&upstream.port(), &["--max-size", "1M", "--write-timeout", LIMIT]);
    let never_reads = proxy.connect();
    let readers: Vec<TcpStream> = (0..4).map(|_| proxy.connect()).collect();
    // They are in the same flight when each has been admitted.
    eventually("five readers", || {
        proxy.signal(Signal::SIGUSR1);
        proxy.hear("Totals");
        connections.load(Ordering::Acquire) == 1 && open_sockets(&proxy) >= 6
    });
    *go.0.lock().expect("lock") = true;
    go.1.notify_all();
    thread::scope(|scope| {
        for reader in readers {
            scope.spawn(|| assert!(read_out(reader).expect("a poem") == poem));
        }
    });
    drop(never_reads);
    assert_eq!(connections.load(Ordering::Acquire), 1);
    proxy.hear("too long to be kept");
    assert!(proxy.fetch().expect("fetched again") == poem);
    assert_eq!(connections.load(Ordering::Acquire), 2);
    assert!(peak_memory(&proxy) < 24 << 20, "{} bytes", peak_memory(&proxy));
}

#[test]
fn one_slow_client_does_not_hold_up_the_others_who_share_its_fetch() {
    const LONG: usize = 40_000_000;
    let poem = vec![b'x'; LONG];
    let text = poem.clone();
    let go = Arc::new((Mutex::new(false), Condvar::new()));
    let wait = Arc::clone(&go);
    let upstream = Server::start(move |_, stream| {
        drop(wait.1.wait_while(wait.0.lock().expect("lock"), |go| !*go).expect("lock"));
        send_whole(stream, &text);
    });
    // Nobody is dropped for being slow.
    let proxy = proxy(&upstream.port(), &["--max-size", "1M", "--write-timeout", "0"]);
    let slow = proxy.connect();
    let fast: Vec<TcpStream> = (0..4).map(|_| proxy.connect()).collect();
    eventually("five readers", || open_sockets(&proxy) >= 6);
    *go.0.lock().expect("lock") = true;
    go.1.notify_all();
    thread::scope(|scope| {
        for client in fast {
            scope.spawn(|| assert!(read_out(client).expect("a poem") == poem));
        }
    });
    proxy.hear("too slow: others had to wait for it for 1s");
    assert!(read_out(slow).is_err(), "not the end of a poem");
    proxy.signal(Signal::SIGUSR1);
    proxy.hear("1 abort, 1 of them let go");
}

#[test]
fn all_poems_too_long_to_keep_have_one_bound_for_their_memory() {
    const MAX_SIZE: usize = 4_000_000;
    const READ: usize = 6_000_000;
    let upstream = Server::poem(vec![b'x'; 20_000_000]);
    let proxy = proxy(&upstream.port(), &["-q", "--max-size", &MAX_SIZE.to_string(), "--write-timeout", "0"]);
    let mut buffer = vec![0; READ];
    let clients: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut client = proxy.connect();
            client.read_exact(&mut buffer).expect("a part of the poem");
            client
        })
        .collect();
    assert!(peak_memory(&proxy) < 4 * MAX_SIZE + (16 << 20), "{} bytes", peak_memory(&proxy));
    // All of them are still being served.
    for mut client in clients {
        client.read_exact(&mut buffer).expect("more of the poem");
    }
}

#[test]
fn aged_poems_that_are_still_being_read_are_within_the_bound() {
    const LONG: usize = 12_000_000;
    const MAX_MEMORY: usize = 48_000_000;
    let upstream = Server::poem(vec![b'x'; LONG]);
    let memory = MAX_MEMORY.to_string();
    let proxy = proxy(&upstream.port(), &["-q", "--ttl", "0", "--max-memory", &memory, "--write-timeout", "0"]);
    // Each gets a poem of its own, and stops.
    let clients: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut client = proxy.connect();
            client.read_exact(&mut [0]).expect("a part of the poem");
            client
        })
        .collect();
    assert!(peak_memory(&proxy) < MAX_MEMORY + (16 << 20), "{} bytes", peak_memory(&proxy));
    for client in clients {
        assert_eq!(read_out(client).expect("the rest").len(), LONG - 1);
    }
}

#[test]
fn who_finds_no_memory_waits_until_there_is_some() {
    let upstream = Server::poem(vec![b'x'; 20_000_000]);
    // There is always enough for one.
    let proxy = proxy(&upstream.port(), &["--max-memory", "1", "--write-timeout", "0"]);
    let mut first = proxy.connect();
    first.read_exact(&mut [0; 300_000]).expect("more than is held");
    let others: Vec<TcpStream> = (0..3).map(|_| proxy.connect()).collect();
    eventually("three that wait", || open_sockets(&proxy) >= 5);
    reset(first);
    thread::scope(|scope| {
        for client in others {
            scope.spawn(|| assert_eq!(read_out(client).expect("a poem").len(), 20_000_000));
        }
    });
    proxy.hear("JOIN");
}

#[test]
fn however_few_descriptors_there_are_nobody_is_reset() {
    let upstream = Server::poem(WHOLE);
    let limits =
        ["--nofile=24:24", path_of("poetry-proxy").to_str().expect("UTF-8"), "-q", "--ttl", "1ms"].map(String::from);
    let proxy = Service::start(std::process::Command::new("prlimit").args(limits).arg(upstream.port()));
    for _ in 0..5 {
        let clients: Vec<TcpStream> = (0..60).map(|_| proxy.connect()).collect();
        thread::scope(|scope| {
            for client in clients {
                scope.spawn(|| assert_eq!(read_out(client).expect("a poem"), WHOLE));
            }
        });
    }
    assert_eq!(proxy.stop().stderr, "", "and nothing is short");
}

/// Connected sockets of a process, listeners and its own pairs included.
fn open_sockets(service: &Service) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", service.pid())).expect("a process");
    let targets = descriptors.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
        - thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn a_chain_of_proxies_is_live_and_cancels_through() {
    let upstream = Upstream::start();
    let near = proxy(&upstream.server.port(), &[]);
    let far = proxy(&near.port(), &[]);
    reset(half_way(&far));
    far.hear("Canceling poem download");
    near.hear("Canceling poem download");
    let clients = [half_way(&far), half_way(&far)];
    upstream.then(Then::TheRest);
    for client in clients {
        assert_eq!(read_out(client).expect("the rest"), &WHOLE[HALF.len()..]);
    }
    assert_eq!(upstream.connections(), 2);
    drop(upstream);
    assert_eq!(far.fetch().expect("from memory"), WHOLE);
    let other = proxy(&near.port(), &[]);
    assert_eq!(other.fetch().expect("from memory"), WHOLE);
}

#[test]
fn half_a_poem_is_half_a_poem_through_all_of_a_chain() {
    let upstream = Upstream::start();
    let near = proxy(&upstream.server.port(), &[]);
    let far = proxy(&near.port(), &[]);
    let client = half_way(&far);
    upstream.then(Then::Reset);
    assert!(is_reset(&read_out(client)));
}

#[test]
fn stopping_it_finishes_its_clients_or_resets_them() {
    let upstream = Upstream::start();
    let proxy = proxy(&upstream.server.port(), &["--grace", "1h"]);
    let client = half_way(&proxy);
    proxy.signal(Signal::SIGTERM);
    eventually("a closed door", || TcpStream::connect(proxy.address).is_err());
    upstream.then(Then::TheRest);
    assert_eq!(read_out(client).expect("the rest"), &WHOLE[HALF.len()..]);
    assert_eq!(proxy.finish().code(), 0);

    let upstream = Upstream::start();
    let proxy = self::proxy(&upstream.server.port(), &["--grace", "50ms"]);
    let client = half_way(&proxy);
    proxy.signal(Signal::SIGTERM);
    assert!(is_reset(&read_out(client)));
    let finished = proxy.finish();
    assert_eq!(finished.code(), 0);
    // The last words of its fetches are its own.
    assert!(finished.stderr.contains("Canceling poem download"), "{finished:?}");
    upstream.then(Then::Leave);
}

#[test]
fn usage_is_checked() {
    for (args, part) in [
        (&NO_ARGS[..], "<UPSTREAM>"),
        (&["nowhere"], "'nowhere' for '[UPSTREAM]'"),
        (&["--max-size", "0", "1"], "--max-size"),
        (&["--max-memory", "0", "1"], "--max-memory"),
        (&["--stale-if-error", "1"], "--ttl"),
        (&["--retry-after", "1s", "1"], "--ttl"),
    ] {
        let finished = run("poetry-proxy", args);
        assert_eq!(finished.code(), 2, "{finished:?}");
        assert!(finished.complaint().contains(part), "{finished:?}");
    }
}

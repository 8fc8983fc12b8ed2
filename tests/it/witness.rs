//! The relay that sees what passes through: what it passes on, and what it tells of that.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use poetry_suite::address::Address;
use poetry_suite::net::descriptors::Descriptors;
use poetry_suite::net::{self, Door, ServerLimits, Stop, Stoppable};
use poetry_suite::report::seen::{Keep, Place};
use poetry_suite::report::{Report, Status, TaskReport};
use poetry_suite::server::watcher::Watcher;
use poetry_suite::server::witness::Witness;

use crate::harness::{PATIENCE, Server, read_out, read_some, refusing_port, reset, send_whole};

/// Relays in front of these servers, in this process.
struct Relays {
    addresses: Vec<SocketAddr>,
    watcher: Arc<Watcher>,
    places: Vec<Place>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Relays {
    fn start(upstreams: &[String]) -> Self {
        let listeners: Vec<_> = upstreams.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
        let watcher = Watcher::new(10_000, Keep::First);
        let parsed: Vec<Address> = upstreams.iter().map(|upstream| upstream.parse().expect("an address")).collect();
        let places = parsed.iter().map(|address| Place { address: address.to_string(), name: None }).collect();
        let witness = Arc::new(Witness::new(parsed, addresses.clone(), Arc::clone(&watcher)));
        let limits = ServerLimits {
            max_clients: 10_000,
            descriptors: Descriptors::default(),
            write_timeout: None,
            grace: Duration::ZERO,
        };
        let door = |listener| Door { name: "relay", listeners: vec![listener], listen_later: None };
        let prepared = net::prepare(listeners.into_iter().map(door).collect(), &witness, &limits).expect("a relay");
        let stop = Stop::default();
        let its = stop.clone();
        let thread = Some(thread::spawn(move || {
            prepared.run(&its).expect("it runs");
        }));
        Self { addresses, watcher, places, stop, thread }
    }

    fn connect(&self, place: usize) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[place]).expect("a relay");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    /// What is seen, when all clients are gone.
    fn report(&self) -> Report {
        let sighted = self.watcher.next_round(PATIENCE);
        sighted.seen.by_place("theirs", &self.places, sighted.started, sighted.elapsed_us)
    }

    /// What is seen now, as soon as it is so.
    fn report_when(&self, is_so: impl Fn(&Report) -> bool) -> Report {
        let until = SystemTime::now() + PATIENCE;
        loop {
            let look = |seen: &poetry_suite::report::seen::Seen, started, now| {
                seen.by_place("theirs", &self.places, started, now)
            };
            let report = self.watcher.look(look);
            if is_so(&report) {
                return report;
            }
            assert!(SystemTime::now() < until, "{report:?}");
            thread::yield_now();
        }
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.stop.close();
        self.stop.abort();
        self.thread.take().expect("it runs").join().expect("it ends");
    }
}

fn told(task: &TaskReport) -> (Status, Option<&str>, u64) {
    (task.status, task.error.as_deref(), task.bytes)
}

/// A server that hands each connection over to the test.
fn handed_over() -> (Server, mpsc::Receiver<TcpStream>) {
    let (sender, receiver) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    (Server::start(move |_, stream| drop(sender.lock().expect("a test").send(stream))), receiver)
}

#[test]
fn bytes_and_both_ends_of_the_stream_go_through() {
    let (server, connections) = handed_over();
    let relays = Relays::start(&[server.port()]);
    let mut client = relays.connect(0);
    let mut served = connections.recv_timeout(PATIENCE).expect("a connection");
    client.write_all(b"which?").expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    let mut asked = Vec::new();
    served.read_to_end(&mut asked).expect("the end of the stream");
    assert_eq!(asked, b"which?");
    let poem: Vec<u8> = (0..3_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let expected = poem.clone();
    let sends = thread::spawn(move || send_whole(served, &poem));
    assert!(read_out(client).expect("a poem") == expected);
    sends.join().expect("sent");
    let report = relays.report();
    assert_eq!(told(&report.tasks[0]), (Status::Ok, None, 3_000_000), "half-closed, and whole");
    assert!(report.tasks[0].events.entries().len() > 1, "it was read in pieces");
}

#[test]
fn a_reset_is_passed_on_after_what_came_before_it() {
    let (server, connections) = handed_over();
    let (_free, refusing) = refusing_port();
    let relays = Relays::start(&[server.port(), refusing]);
    let mut client = relays.connect(0);
    let mut served = connections.recv_timeout(PATIENCE).expect("a connection");
    served.write_all(b"half a po").expect("sent");
    let mut bytes = [0; 9];
    client.read_exact(&mut bytes).expect("nine bytes");
    reset(served);
    assert_eq!(read_some(&client, &mut bytes), Err(io::ErrorKind::ConnectionReset));
    // Where nobody listens, the connection stands for a moment.
    assert_eq!(read_some(&relays.connect(1), &mut bytes), Err(io::ErrorKind::ConnectionReset));
    drop(client);
    let report = relays.report();
    assert_eq!(told(&report.tasks[0]), (Status::Reset, Some("connection reset by peer"), 9));
    assert_eq!(told(&report.tasks[1]), (Status::Refused, Some("connection refused"), 0));
    assert_eq!((report.tasks[1].connected_us, report.tasks[1].attempts), (None, 1));
}

#[test]
fn a_client_that_leaves_is_told_from_one_that_is_left() {
    let (server, connections) = handed_over();
    let relays = Relays::start(&[server.port()]);
    let began = |bytes: &[u8]| {
        let client = relays.connect(0);
        let mut served = connections.recv_timeout(PATIENCE).expect("a connection");
        served.write_all(bytes).expect("sent");
        let mut first = vec![0; bytes.len().min(1)];
        (&client).read_exact(&mut first).expect("a byte");
        (client, served)
    };
    // It closes, and the server finds out when it goes on.
    let (client, mut served) = began(b"a");
    drop(client);
    assert_eq!(read_some(&served, &mut [0]), Ok(0));
    while served.write_all(b"b").is_ok() {}
    assert_eq!(told(&relays.report().tasks[0]), (Status::Interrupted, Some("closed early by the client"), 1));

    // It resets.
    let (client, served) = began(b"a");
    reset(client);
    assert_eq!(read_some(&served, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(told(&relays.report().tasks[0]), (Status::Interrupted, Some("reset by the client"), 1));

    // It leaves something unread, and all had been said.
    let (client, served) = began(b"ab");
    served.shutdown(Shutdown::Write).expect("half-closed");
    relays.report_when(|report| report.tasks[0].status == Status::Ok);
    drop(client);
    let unread = "reset by the client, which may not have read all";
    let report = relays.report_when(|report| report.tasks[0].status != Status::Ok);
    assert_eq!(told(&report.tasks[0]), (Status::Interrupted, Some(unread), 2));
    drop(served);
    relays.report();

    // It waits for ever.
    let (client, served) = began(b"a");
    let report = relays.report_when(|report| report.tasks[0].bytes == 1);
    assert_eq!(told(&report.tasks[0]), (Status::Interrupted, Some("still open with the client"), 1));
    drop((client, served));
}

#[test]
fn who_does_not_read_stops_the_server_and_nothing_grows() {
    let (server, connections) = handed_over();
    let relays = Relays::start(&[server.port()]);
    let client = relays.connect(0);
    let mut served = connections.recv_timeout(PATIENCE).expect("a connection");
    served.set_nonblocking(true).expect("set");
    let mut sent = 0;
    let stalled = "which took nothing any more";
    // Until the relay says so, and takes no more itself.
    loop {
        match served.write(&[b'x'; 64 << 10]) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        let report = relays.report_when(|_| true);
        let is_stalled = report.tasks[0].error.as_ref().is_some_and(|error| error.contains(stalled));
        if is_stalled && served.write(b"x").is_err() {
            break;
        }
        // A limit on what may be on its way: the buffers of the kernel, at its largest.
        assert!(sent < 100 << 20, "{sent} bytes, and nothing stops");
    }
    drop(client);
    let report = relays.report();
    let (status, error, bytes) = told(&report.tasks[0]);
    assert_eq!((status, error), (Status::Interrupted, Some("reset by the client, which took nothing any more")));
    assert!(bytes > 0 && bytes < sent, "{bytes} of {sent}");
}

#[test]
fn more_connections_than_addresses_and_second_attempts_have_their_places() {
    let first = Server::start(|number, stream| match number {
        0 => reset(stream),
        _ => send_whole(stream, b"a poem\n"),
    });
    let second = Server::poem("another\n");
    let unused = Server::poem("never\n");
    let relays = Relays::start(&[first.port(), second.port(), unused.port()]);
    assert!(read_out(relays.connect(0)).is_err());
    for place in [0, 1, 1] {
        read_out(relays.connect(place)).expect("a poem");
    }
    let report = relays.report();
    let lanes: Vec<_> = report.tasks.iter().map(|task| (task.status, task.attempts, task.bytes)).collect();
    let (ok, never) = (Status::Ok, Status::Interrupted);
    assert_eq!(lanes, [(ok, 2, 7), (ok, 1, 8), (never, 0, 0), (ok, 1, 8)]);
    assert_eq!(report.tasks[0].earlier.known()[0].status, Status::Reset);
    assert_eq!((report.ok, report.failed, report.bound_us), (3, 1, None));
}

#[test]
fn a_round_ends_with_its_connections() {
    let (server, connections) = handed_over();
    let relays = Relays::start(&[server.port()]);
    let client = relays.connect(0);
    let served = connections.recv_timeout(PATIENCE).expect("a connection");
    let sighted = relays.watcher.next_round(Duration::from_millis(1));
    assert_eq!(sighted.seen.begun(), 1);
    // Both are reset, and the next round knows nothing of them.
    assert_eq!(read_some(&client, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(read_some(&served, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(relays.report().tasks[0].attempts, 0);
}

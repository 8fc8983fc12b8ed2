//! What models promise about a name with several addresses, and about a disk that does not answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::{Concurrency, Event, FetchLimits, Job, Model, Observer, ReportBuilder, Sink, Source, Task};
use crate::address::{Address, made_up};
use crate::report::{Status, TaskReport};
use crate::sync::lock;

const MS: Duration = Duration::from_millis(1);

/// Longer than any of this takes, and shorter than the kernel tries to connect.
const PATIENCE: Duration = Duration::from_secs(60);

const LIMITS: FetchLimits = FetchLimits {
    max_size: None,
    connect_timeout: None,
    idle_timeout: Some(PATIENCE),
    timeout: None,
    retries: 0,
    retry_after_max: Duration::ZERO,
    concurrency: Concurrency::Together(NonZeroUsize::MIN),
};

/// Fetches a poem, and returns what became of it.
fn fetch(model: Model, address: &Address, limits: &FetchLimits) -> TaskReport {
    let (clock, sources) = (Instant::now(), vec![Source::Poem(address.clone())]);
    let builder = Arc::new(ReportBuilder::new(model, &sources[..], limits.concurrency, clock, false));
    let job = Arc::new(Job::new(sources, limits.clone(), Sink::discard(), vec![builder.clone()], clock, 7));
    model.run(&job).expect("it runs");
    builder.report(job.calls()).tasks.remove(0)
}

/// Whether a server of a test sends a poem, or resets whoever comes.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Good,
    Resets,
}

/// A server for so many clients.
fn server(manners: Manners, clients: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().take(clients) {
            let mut stream = stream.expect("accepted");
            if manners == Manners::Resets {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
                continue;
            }
            let _ = stream.write_all(b"a poem\n").and_then(|()| stream.shutdown(Shutdown::Write));
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    address
}

/// An address that does not answer, as long as the sockets are held: a queue that is full.
fn dead() -> (SocketAddr, [Socket; 2]) {
    let [listener, first] = [(); 2].map(|()| Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket"));
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    listener.listen(0).expect("listening");
    let address = listener.local_addr().expect("an address");
    first.connect(&address).expect("the queue has one place");
    (address.as_socket().expect("IPv4"), [listener, first])
}

/// An address that nobody listens on, as long as the socket is held.
fn refusing() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    (socket.local_addr().expect("bound").as_socket().expect("IPv4"), socket)
}

#[test]
fn an_address_that_does_not_answer_costs_a_moment_where_a_model_can_wait_for_two() {
    let (dead, _held) = dead();
    let name = made_up::name(&[dead, server(Manners::Good, 2)]);
    for model in [Model::Select, Model::Async] {
        let start = Instant::now();
        // Without a limit: only another address can end this.
        let poem = fetch(model, &name, &LIMITS);
        assert_eq!((poem.status, poem.bytes, poem.attempts), (Status::Ok, 7, 1), "{model}: {poem:?}");
        assert!(start.elapsed() < PATIENCE, "{model}");
        let [start, connected, end] = [poem.start_us, poem.connected_us, poem.end_us].map(|us| us.expect("a time"));
        assert!(start + 250_000 <= connected && connected <= end, "{model}: when the winner was connected: {poem:?}");
    }
}

#[test]
fn the_others_try_the_addresses_in_turn_each_within_the_limit() {
    let (dead, _held) = dead();
    let name = made_up::name(&[dead, server(Manners::Good, 2)]);
    let limits = FetchLimits { connect_timeout: Some(300 * MS), ..LIMITS };
    for model in [Model::Blocking, Model::Threads] {
        let poem = fetch(model, &name, &limits);
        assert_eq!((poem.status, poem.attempts), (Status::Ok, 1), "{model}: {poem:?}");
        assert!(poem.connected_us >= Some(300_000), "{model}: {poem:?}");
    }
}

#[test]
fn a_failure_is_that_of_the_last_address_in_order() {
    let ((dead, _full), (refuses, _bound)) = (dead(), refusing());
    let limits = FetchLimits { connect_timeout: Some(400 * MS), ..LIMITS };
    for model in Model::ALL {
        for (addresses, status) in [([dead, refuses], Status::Refused), ([refuses, dead], Status::Timeout)] {
            let poem = fetch(model, &made_up::name(&addresses), &limits);
            assert_eq!(poem.status, status, "{model}: {poem:?}");
        }
    }
}

#[test]
fn the_time_for_the_whole_poem_ends_all_connections_under_way() {
    let [(one, _one), (two, _two)] = [dead(), dead()];
    let limits = FetchLimits { timeout: Some(400 * MS), ..LIMITS };
    for model in Model::ALL {
        let poem = fetch(model, &made_up::name(&[one, two]), &limits);
        assert_eq!(poem.error.as_deref(), Some("not complete after 400ms"), "{model}: {poem:?}");
    }
}

#[test]
fn a_retry_begins_with_the_address_after_the_one_that_failed() {
    let bad = [(); 2].map(|()| server(Manners::Resets, usize::MAX));
    let name = made_up::name(&[bad[0], bad[1], server(Manners::Good, 4)]);
    for model in Model::ALL {
        let poem = fetch(model, &name, &FetchLimits { retries: 2, ..LIMITS });
        assert_eq!((poem.status, poem.bytes), (Status::Ok, 7), "{model}: {poem:?}");
    }
}

/// How many bytes of each poem have come, and how many poems are done.
#[derive(Default)]
struct Progress {
    state: Mutex<([u64; 3], usize)>,
    changed: Condvar,
}

impl Progress {
    fn wait_until(&self, is_so: impl Fn(&[u64; 3], usize) -> bool) {
        let state = lock(&self.state);
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |(bytes, done)| !is_so(bytes, *done));
        let (state, waited) = waited.expect("a lock");
        assert!(!waited.timed_out(), "never: {:?}", *state);
    }
}

impl Observer for Progress {
    fn observe(&self, task: Task<'_>, _: Duration, event: &Event<'_>) {
        let mut state = lock(&self.state);
        match event {
            Event::Received(bytes) => state.0[task.number - 1] += *bytes as u64,
            Event::Done { .. } => state.1 += 1,
            _ => return,
        }
        self.changed.notify_all();
    }
}

/// A server of poems that are so long.
fn long(length: usize) -> Source {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let piece = vec![b'x'; length.min(1 << 20)];
        let (mut stream, _) = listener.accept().expect("a client");
        let mut left = length;
        while left > 0 && stream.write_all(&piece[..left.min(piece.len())]).is_ok() {
            left -= left.min(piece.len());
        }
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    port.to_string().parse().expect("a source")
}

#[test]
fn while_a_disk_does_not_answer_the_bytes_of_all_go_on_arriving_up_to_a_bound() {
    // More than the scribe takes, and than the socket buffers of its poem.
    const LONG: usize = 60 << 20;
    for model in [Model::Select, Model::Async] {
        let place = tempfile::tempdir().expect("a directory");
        let sources = vec![long(LONG), long(100_000), long(1_000)];
        let sink = Sink::files(place.path(), &sources, None);
        let files = Arc::clone(sink.files_of().expect("files"));
        let progress = Arc::new(Progress::default());
        let limits = FetchLimits { concurrency: Concurrency::Together(NonZeroUsize::MAX), ..LIMITS };
        let job = Arc::new(Job::new(sources, limits, sink, vec![progress.clone()], Instant::now(), 7));
        let held = files.hold(0);
        let running = thread::spawn(move || model.run(&job).expect("it runs"));
        progress.wait_until(|bytes, _| bytes[1] == 100_000 && bytes[2] == 1_000);
        // Its share of the scribe's queue is full, and nobody reads more of it.
        progress.wait_until(|bytes, _| bytes[0] >= 1 << 20);
        let (bytes, done) = *lock(&progress.state);
        assert!(bytes[0] < 4 << 20 && done <= 2, "{model}: {bytes:?}, {done} done");
        drop(held);
        progress.wait_until(|_, done| done == 3);
        running.join().expect("it ends");
        let length = |name: usize| {
            let entries = std::fs::read_dir(place.path()).expect("a directory");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
            names.sort();
            std::fs::metadata(&names[name]).expect("a file").len()
        };
        assert_eq!([length(0), length(1), length(2)], [LONG as u64, 100_000, 1_000], "{model}");
    }
}

#[test]
fn who_waits_for_the_disk_waits_no_longer_than_the_poem_may_take_and_is_not_called_idle() {
    let run = |model: Model| {
        let place = tempfile::tempdir().expect("a directory");
        let sources = vec![long(60 << 20)];
        let sink = Sink::files(place.path(), &sources, None);
        let files = Arc::clone(sink.files_of().expect("files"));
        let clock = Instant::now();
        let limits = FetchLimits { idle_timeout: Some(1_000 * MS), timeout: Some(3_000 * MS), ..LIMITS };
        let builder = Arc::new(ReportBuilder::new(model, &sources[..], limits.concurrency, clock, false));
        let job = Arc::new(Job::new(sources, limits, sink, vec![builder.clone()], clock, 7));
        let held = files.hold(0);
        model.run(&job).expect("it runs");
        drop(held);
        let poem = builder.report(job.calls()).tasks.remove(0);
        assert_eq!(poem.error.as_deref(), Some("not complete after 3s"), "{model}");
    };
    thread::scope(|scope| {
        for model in [Model::Select, Model::Async] {
            let run = &run;
            scope.spawn(move || run(model));
        }
    });
}

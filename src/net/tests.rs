//! The engine with handlers made for the purpose, in this process and over real sockets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio_util::bytes::BytesMut;

use super::counts::Counts;
use super::descriptors::Descriptors;
use super::{Connection, Door, FastPath, Handler, Progress, ServerLimits, Stop, Stoppable, Unregistered, prepare};
use crate::pace::Ending;
use crate::test_process::alone;

/// For what has to happen.
const LIMIT: Duration = Duration::from_secs(20);
/// Longer than any test: what has to wait for it never comes.
const NEVER: Duration = Duration::from_secs(600);

/// A server on a thread of its own, stopped at the latest when it is dropped.
struct Server {
    address: SocketAddr,
    counts: Arc<Counts>,
    stop: Stop,
    run: Option<JoinHandle<u64>>,
}

fn limits() -> ServerLimits {
    ServerLimits { max_clients: 100, descriptors: Descriptors::default(), write_timeout: None, grace: NEVER }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

impl Server {
    fn start<H: FastPath>(handler: H, limits: &ServerLimits) -> Self {
        let listener = listener();
        let address = listener.local_addr().expect("an address");
        Self::at(address, vec![Door { name: "only", listeners: vec![listener], listen_later: None }], handler, limits)
    }

    fn at<H: FastPath>(address: SocketAddr, doors: Vec<Door>, handler: H, limits: &ServerLimits) -> Self {
        let prepared = prepare(doors, &Arc::new(handler), limits).expect("prepared");
        let (counts, stop) = (Arc::clone(prepared.counts()), Stop::default());
        let told = stop.clone();
        let run = thread::spawn(move || prepared.run(&told).expect("workers"));
        Self { address, counts, stop, run: Some(run) }
    }

    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Waits for the end, and returns how many connections were reset then.
    fn join(&mut self) -> u64 {
        self.run.take().expect("not joined yet").join().expect("no panic")
    }

    /// Waits until a count is as it should be.
    fn eventually(&self, what: &str, holds: impl Fn(&Counts) -> bool) {
        let start = Instant::now();
        while !holds(&self.counts) {
            assert!(start.elapsed() < LIMIT, "never: {what}: {:?}", self.counts);
            thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.abort();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    stream
}

fn rest(mut stream: &TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.kind())
}

fn expect(mut stream: &TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).expect("bytes");
    assert_eq!(bytes, expected);
}

/// Answers each request with itself, and ends at a stop.
struct Echo;

impl Handler for Echo {
    const EOF_ENDS_MESSAGE: bool = false;

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let mut request = BytesMut::new();
        while connection.read_request(&mut request, None).await?.is_some_and(|read| read > 0) {
            let reply = request.split();
            let mut sent = 0;
            while sent < reply.len() {
                sent += connection.send_some(|stream| stream.try_write(&reply[sent..])).await?;
            }
        }
        Ok(Ending::Fin)
    }
}

/// Sends the name of the door, waits until it is told to go on by a byte, and ends.
struct Held {
    how: Ending,
    eof_ends_message: bool,
}

impl Handler for Held {
    const EOF_ENDS_MESSAGE: bool = true;

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let door = connection.door();
        connection.send_some(|stream| stream.try_write(door.as_bytes())).await?;
        let mut byte = BytesMut::new();
        connection.read_some(&mut byte, None).await?;
        assert!(self.eof_ends_message);
        Ok(self.how)
    }
}

fn held() -> Held {
    Held { how: Ending::Fin, eof_ends_message: true }
}

#[test]
fn a_request_gets_its_reply_and_both_are_counted() {
    let mut server = Server::start(Echo, &limits());
    let mut client = server.connect();
    for request in [&b"one"[..], b"two"] {
        client.write_all(request).expect("sent");
        expect(&client, request);
    }
    drop(client);
    server.eventually("served", |counts| counts.served() == 1);
    assert_eq!((server.counts.accepted(), server.counts.lost(), server.counts.bytes()), (1, 0, 6));
    server.stop.close();
    assert_eq!(server.join(), 0);
}

#[test]
fn idle_connections_end_with_a_fin_at_a_stop_and_nobody_waits_for_their_peers() {
    let mut server = Server::start(Echo, &limits());
    let clients: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    for mut client in &clients {
        client.write_all(b"x").expect("sent");
        expect(client, b"x");
    }
    let start = Instant::now();
    server.stop.close();
    // None of them has closed, and the grace time is endless.
    assert_eq!(server.join(), 0);
    let took = start.elapsed();
    for client in &clients {
        assert_eq!(rest(client), Ok(Vec::new()));
    }
    assert_eq!((server.counts.served(), server.counts.lost()), (100, 0));
    assert!(took < Duration::from_secs(2), "as long as a polite close waits: {took:?}");
}

/// A peer that takes its reply late, and what it is to get.
fn late_reader(server: &Server) -> (TcpStream, Vec<u8>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    socket.connect(&server.address.into()).expect("connected");
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(LIMIT)).expect("set");
    let request: Vec<u8> = (0..=255).cycle().take(40_000).collect();
    client.write_all(&request).expect("sent");
    server.eventually("all is sent", |counts| counts.bytes() == 40_000);
    (client, request)
}

#[test]
fn a_stop_loses_nothing_of_a_reply_that_its_peer_has_yet_to_read() {
    let mut server = Server::start(Echo, &limits());
    let (mut client, reply) = late_reader(&server);
    server.stop.close();
    // It has not read its reply yet, and asks again: to close now would destroy the reply.
    client.write_all(b"and then?").expect("sent");
    let got = rest(&client).expect("no reset");
    assert!(got == reply || got == [&reply[..], b"and then?"].concat(), "{} bytes", got.len());
    drop(client);
    assert_eq!(server.join(), 0);
    assert_eq!(server.counts.lost(), 0);
}

#[test]
fn even_an_abort_resets_no_reply_that_is_complete() {
    let mut server = Server::start(Echo, &limits());
    let (client, reply) = late_reader(&server);
    server.stop.abort();
    server.join();
    assert!(rest(&client) == Ok(reply));
}

#[test]
fn the_first_request_of_a_connection_may_be_on_its_way_at_a_stop() {
    let mut server = Server::start(Echo, &limits());
    let (mut asking, silent) = (server.connect(), server.connect());
    server.eventually("accepted", |counts| counts.accepted() == 2);
    server.stop.close();
    asking.write_all(b"x").expect("sent");
    assert_eq!((rest(&asking), rest(&silent)), (Ok(b"x".to_vec()), Ok(Vec::new())));
    drop((asking, silent));
    assert_eq!(server.join(), 0);
    assert_eq!(server.counts.served(), 2);
}

#[test]
fn at_a_stop_new_connections_are_refused_and_those_under_way_may_finish() {
    let mut server = Server::start(held(), &limits());
    let mut client = server.connect();
    expect(&client, b"only");
    server.stop.close();
    let start = Instant::now();
    // A SYN that comes while a listener is being closed may be dropped, and would be sent again a second later.
    let knock = || TcpStream::connect_timeout(&server.address, Duration::from_millis(20));
    while !matches!(knock(), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused) {
        assert!(start.elapsed() < LIMIT, "the door stays open");
    }
    client.write_all(b".").expect("sent");
    assert_eq!(rest(&client), Ok(Vec::new()));
    drop(client);
    assert_eq!(server.join(), 0);
    assert_eq!((server.counts.served(), server.counts.lost()), (1, 0));
}

#[test]
fn what_is_left_after_the_grace_time_is_reset_and_lost() {
    let mut server = Server::start(held(), &ServerLimits { grace: Duration::from_millis(10), ..limits() });
    let clients = [server.connect(), server.connect()];
    clients.iter().for_each(|client| expect(client, b"only"));
    server.stop.close();
    assert_eq!(server.join(), 2);
    for client in &clients {
        assert_eq!(rest(client), Err(io::ErrorKind::ConnectionReset));
    }
    assert_eq!((server.counts.served(), server.counts.lost()), (0, 2));
}

#[test]
fn a_reply_under_way_is_reset_even_where_its_end_could_be_told() {
    struct Announced;
    impl Handler for Announced {
        const EOF_ENDS_MESSAGE: bool = false;

        async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
            connection.send_some(|stream| stream.try_write(b"100:")).await?;
            Err(connection.broken().await)
        }
    }
    let mut server = Server::start(Announced, &limits());
    let client = server.connect();
    expect(&client, b"100:");
    server.stop.abort();
    assert_eq!(server.join(), 1);
    assert_eq!(rest(&client), Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn an_abort_waits_for_nobody() {
    let mut server = Server::start(held(), &limits());
    let client = server.connect();
    expect(&client, b"only");
    server.stop.abort();
    assert_eq!(server.join(), 1);
    assert_eq!(rest(&client), Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn a_stop_without_connections_ends_at_once() {
    let mut server = Server::start(held(), &limits());
    server.stop.close();
    assert_eq!(server.join(), 0);
    assert_eq!(server.counts.accepted(), 0);
}

#[test]
fn connections_beyond_the_limit_wait_in_the_queue() {
    let mut server = Server::start(held(), &ServerLimits { max_clients: 2, ..limits() });
    let mut first = [server.connect(), server.connect()];
    first.iter().for_each(|client| expect(client, b"only"));
    let third = server.connect();
    assert_eq!((server.counts.accepted(), server.counts.connected()), (2, 2));
    first[1].write_all(b".").expect("sent");
    assert_eq!(rest(&first[1]), Ok(Vec::new()));
    // A connection that is being closed politely holds its permit until its peer has closed, too.
    let [first, second] = first;
    drop(second);
    expect(&third, b"only");
    assert_eq!((server.counts.accepted(), server.counts.connected()), (3, 2));

    // With no permit left the stop is heard all the same.
    server.stop.abort();
    assert_eq!(server.join(), 2);
    assert_eq!(
        (rest(&first), rest(&third)),
        (Err(io::ErrorKind::ConnectionReset), Err(io::ErrorKind::ConnectionReset))
    );
}

#[test]
fn a_handler_knows_the_door_and_a_crowd_at_one_does_not_close_the_other() {
    let listeners = [listener(), listener()];
    let [one, two] = [0, 1].map(|door: usize| listeners[door].local_addr().expect("an address"));
    // More than a batch wait at the first door before the server begins.
    let crowd: Vec<TcpStream> = (0..100).map(|_| connect(one)).collect();
    let alone = connect(two);
    let mut names = ["front", "back"].into_iter();
    let doors = listeners.map(|listener| Door {
        name: names.next().expect("two"),
        listeners: vec![listener],
        listen_later: None,
    });
    let server = Server::at(one, doors.into(), held(), &ServerLimits { max_clients: 1_000, ..limits() });
    crowd.iter().for_each(|client| expect(client, b"front"));
    expect(&alone, b"back");
    assert_eq!(server.counts.accepted(), 101);
}

#[test]
fn at_the_limit_doors_take_turns() {
    let listeners = [listener(), listener()];
    let [one, two] = [0, 1].map(|door: usize| listeners[door].local_addr().expect("an address"));
    let crowd: Vec<TcpStream> = (0..50).map(|_| connect(one)).collect();
    let mut alone = connect(two);
    let mut names = ["front", "back"].into_iter();
    let doors = listeners.map(|listener| Door {
        name: names.next().expect("two"),
        listeners: vec![listener],
        listen_later: None,
    });
    let server = Server::at(one, doors.into(), held(), &ServerLimits { max_clients: 1, ..limits() });
    for (number, mut client) in crowd.into_iter().enumerate() {
        expect(&client, b"front");
        client.write_all(b".").expect("sent");
        drop(client);
        if number == 0 {
            // One of the crowd had the only permit; now it is the other door's turn.
            expect(&alone, b"back");
            assert_eq!(server.counts.accepted(), 2);
            alone.write_all(b".").expect("sent");
            alone.shutdown(std::net::Shutdown::Both).expect("closed");
        }
    }
}

#[test]
fn a_reset_is_a_reset_and_silence_lasts_until_the_stop() {
    let server = Server::start(Held { how: Ending::Rst, ..held() }, &limits());
    let mut client = server.connect();
    client.write_all(b".").expect("sent");
    let (mut bytes, result) = ([0; 8], &mut client);
    while matches!(result.read(&mut bytes), Ok(read) if read > 0) {}
    server.eventually("served as planned", |counts| counts.served() == 1 && counts.connected() == 0);

    let mut server = Server::start(Held { how: Ending::Hang, ..held() }, &limits());
    let mut client = server.connect();
    expect(&client, b"only");
    client.write_all(b".").expect("sent");
    server.eventually("served as planned", |counts| counts.served() == 1);
    assert_eq!(server.counts.connected(), 1);
    server.stop.close();
    assert_eq!(server.join(), 0);
    assert_eq!(rest(&client), Err(io::ErrorKind::ConnectionReset));
}

/// Waits on the timer first, then on its socket.
struct Slow {
    pause: Duration,
    resumed: AtomicUsize,
}

impl FastPath for Slow {
    const EOF_ENDS_MESSAGE: bool = true;

    type State = &'static str;

    fn try_serve(&self, socket: &Unregistered<'_>) -> io::Result<Progress<Self::State>> {
        socket.send(b"1", false)?;
        Ok(Progress::Until(Instant::now() + self.pause, "paused"))
    }

    fn on_timer(&self, socket: &Unregistered<'_>, state: Self::State) -> io::Result<Progress<Self::State>> {
        assert_eq!(state, "paused");
        socket.send(b"2", false)?;
        Ok(match self.resumed.fetch_add(1, SeqCst) {
            0 => Progress::Until(Instant::now() + self.pause, "paused"),
            1 => Progress::Blocked("resumed"),
            _ => Progress::End(Ending::Fin),
        })
    }

    async fn finish(&self, connection: &mut Connection, state: Self::State) -> io::Result<Ending> {
        connection.send_some(|stream| stream.try_write(state.as_bytes())).await?;
        Ok(Ending::Fin)
    }
}

#[test]
fn a_pause_is_resumed_again_and_again_then_a_task_and_an_end() {
    let server = Server::start(Slow { pause: Duration::from_millis(1), resumed: AtomicUsize::new(0) }, &limits());
    assert_eq!(rest(&server.connect()), Ok(b"122resumed".to_vec()));
    assert_eq!(rest(&server.connect()), Ok(b"12".to_vec()));
    assert_eq!(server.counts.bytes(), 12);
}

#[test]
fn a_stop_ends_every_pause() {
    let mut server = Server::start(Slow { pause: NEVER, resumed: AtomicUsize::new(0) }, &limits());
    let clients: Vec<TcpStream> = (0..10).map(|_| server.connect()).collect();
    clients.iter().for_each(|client| expect(client, b"1"));
    server.stop.close();
    for client in clients {
        assert_eq!(rest(&client), Ok(b"paused".to_vec()));
    }
    assert_eq!(server.join(), 0);
    assert_eq!(server.counts.served(), 10);
}

#[test]
fn a_peer_that_takes_nothing_is_dropped_after_the_write_timeout() {
    struct Endless;
    impl Handler for Endless {
        const EOF_ENDS_MESSAGE: bool = true;

        async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
            loop {
                connection.send_some(|stream| stream.try_write(&[0; 4096])).await?;
            }
        }
    }
    let write_timeout = Some(Duration::from_millis(20));
    let server = Server::start(Endless, &ServerLimits { write_timeout, ..limits() });
    let client = server.connect();
    server.eventually("given up", |counts| counts.lost() == 1 && counts.connected() == 0);
    assert_eq!(rest(&client), Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn a_panic_in_a_task_costs_one_connection() {
    let mut server = Server::start(Held { eof_ends_message: false, ..held() }, &limits());
    let mut client = server.connect();
    expect(&client, b"only");
    client.write_all(b".").expect("sent");
    assert_eq!(rest(&client), Err(io::ErrorKind::ConnectionReset));
    expect(&server.connect(), b"only");
    server.stop.abort();
    assert_eq!(server.join(), 2, "one of them by the panic");
}

/// Takes every descriptor that the limit of the process leaves.
fn all_descriptors() -> Vec<File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).expect("lowered");
    let files: Vec<File> = iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn without_descriptors_connections_wait_until_there_is_one() {
    alone("net::tests::without_descriptors_connections_wait_until_there_is_one", || {
        let server = Server::start(held(), &limits());
        // If it left, its descriptor would be free at any time.
        let first = server.connect();
        expect(&first, b"only");
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let mut files = all_descriptors();
        client.connect(&server.address.into()).expect("in the queue");
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(Duration::from_millis(30))).expect("set");
        assert_eq!(rest(&client), Err(io::ErrorKind::WouldBlock), "there is no descriptor for it");
        assert_eq!(server.counts.accepted(), 1);
        drop(files.pop());
        client.set_read_timeout(Some(LIMIT)).expect("set");
        expect(&client, b"only");
        assert_eq!(server.counts.accepted(), 2);
    });
}

#[test]
fn without_descriptors_the_stop_is_heard() {
    alone("net::tests::without_descriptors_the_stop_is_heard", || {
        let mut server = Server::start(held(), &limits());
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let _files = all_descriptors();
        client.connect(&server.address.into()).expect("in the queue");
        server.stop.close();
        assert_eq!(server.join(), 0);
        assert_eq!(server.counts.accepted(), 0);
    });
}

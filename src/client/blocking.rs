//! The blocking model: one poem after another, and every call waits until it has something to say.
//!
//! While a call waits, the program does nothing else; the times of all poems add up. In return the code is
//! the plainest there is: what happens is what stands on the page, from top to bottom.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::fetch::{Fetch, Flow, For, Next, Patience};
use super::idle::Idle;
use super::{Failure, Job, READ_SIZE};
use crate::candidates::refuse_itself;
use crate::sync::lock;

/// Connections that are kept, for all threads that have poems.
pub(super) type Kept = Mutex<Idle<Connection>>;

pub(super) fn run(job: &Arc<Job>) {
    let (kept, mut buffer) = (Kept::default(), vec![0; READ_SIZE]);
    for index in 0..job.sources.len() {
        fetch(job, index, &kept, &mut buffer);
    }
}

/// Fetches one poem, from its first attempt to its end.
pub(super) fn fetch(job: &Arc<Job>, index: usize, kept: &Kept, buffer: &mut [u8]) {
    // A panic is one poem's bug: the poem has failed by the time the panic gets here, and others go on.
    let _ = catch_unwind(AssertUnwindSafe(|| attempts(Fetch::begin(job, index, Instant::now()), kept, buffer)));
}

fn attempts(mut fetch: Fetch, kept: &Kept, buffer: &mut [u8]) {
    loop {
        let result = attempt(&mut fetch, kept, buffer);
        match fetch.ended(result, Instant::now()) {
            Next::Retry(pause) => thread::sleep(pause),
            // Without a scribe, poems are delivered at once.
            Next::Delivery | Next::Settled => return,
        }
    }
}

fn attempt(fetch: &mut Fetch, kept: &Kept, buffer: &mut [u8]) -> Result<(), Failure> {
    fetch.attempt(Instant::now())?;
    loop {
        let result = leg(fetch, kept, buffer);
        if !fetch.leg_ended(result, Instant::now())? {
            return Ok(());
        }
    }
}

/// One exchange, on a connection that is new or has been kept.
fn leg(fetch: &mut Fetch, kept: &Kept, buffer: &mut [u8]) -> Result<(), Failure> {
    let mut connection = match fetch.takes_kept().and_then(|server| lock(kept).take(server)) {
        Some(connection) => {
            fetch.reused(Instant::now());
            connection
        }
        None => {
            let stream = connect(fetch)?;
            fetch.connected(Instant::now());
            Connection { stream, send_limit: None, receive_limit: None }
        }
    };
    send(fetch, &mut connection)?;
    receive(fetch, &mut connection, buffer)?;
    if let Some(server) = fetch.keeps() {
        lock(kept).put(server.clone(), connection);
    }
    Ok(())
}

/// A connection, and the time limits that its socket has. Not to set them again spares a setsockopt(2) before most calls.
pub(super) struct Connection {
    stream: TcpStream,
    send_limit: Option<Option<Duration>>,
    receive_limit: Option<Option<Duration>>,
}

impl Connection {
    fn send_within(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        if self.send_limit != Some(limit) {
            self.stream.set_write_timeout(limit).map_err(Failure::Broken)?;
            self.send_limit = Some(limit);
        }
        Ok(())
    }

    fn receive_within(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        if self.receive_limit != Some(limit) {
            self.stream.set_read_timeout(limit).map_err(Failure::Broken)?;
            self.receive_limit = Some(limit);
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn send(fetch: &mut Fetch, connection: &mut Connection) -> Result<(), Failure> {
    let mut patience = fetch.patience(For::Bytes, Instant::now());
    while let Some(parts) = fetch.unsent() {
        connection.send_within(patience.left()?)?;
        let result = connection.stream.write_vectored(&parts);
        fetch.job().counts.add_wakeup();
        match result {
            Ok(n) => {
                fetch.sent(n);
                patience = fetch.patience(For::Bytes, Instant::now());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => patience.go_on(Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(patience.lost()),
            Err(error) => return Err(Failure::Broken(error)),
        }
    }
    Ok(())
}

fn receive(fetch: &mut Fetch, connection: &mut Connection, buffer: &mut [u8]) -> Result<(), Failure> {
    let mut patience = fetch.patience(For::Bytes, Instant::now());
    loop {
        connection.receive_within(patience.left()?)?;
        let result = connection.stream.read(buffer);
        fetch.job().counts.add_read();
        fetch.job().counts.add_wakeup();
        match result {
            Ok(0) => return Ok(()),
            Ok(n) => {
                if fetch.received(&buffer[..n], Instant::now())? == Flow::Enough {
                    return Ok(());
                }
                patience = fetch.patience(For::Bytes, Instant::now());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => patience.go_on(Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(patience.lost()),
            Err(error) => return Err(Failure::Broken(error)),
        }
    }
}

/// Connects to the first address of the name that answers. One after another: whoever sits in a connect(2) to an address
/// that does not answer cannot begin another one meanwhile.
fn connect(fetch: &mut Fetch) -> Result<TcpStream, Failure> {
    let addresses = fetch.address().resolve().map_err(Failure::Resolve)?;
    let mut failure = None;
    for address in fetch.candidates(&addresses) {
        let connected = connect_to(address, fetch.patience(For::Connection, Instant::now()));
        fetch.job().counts.add_wakeup();
        match connected {
            Ok(socket) => {
                fetch.reached(address);
                return Ok(socket.into());
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or(Failure::Bug))
}

/// One connect(2) that blocks. Its time limit is SO_SNDTIMEO, see socket(7).
fn connect_to(address: SocketAddr, mut patience: Patience) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).map_err(Failure::no_socket)?;
    loop {
        socket.set_write_timeout(patience.left()?).map_err(Failure::Connect)?;
        let Err(error) = socket.connect(&address.into()) else {
            refuse_itself(&socket, address).map_err(Failure::Connect)?;
            return Ok(socket);
        };
        match error.raw_os_error().map(Errno::from_raw) {
            // Stopped and continued: another connect(2) goes on waiting for the connection under way.
            Some(Errno::EINTR) => patience.go_on(Instant::now()),
            Some(Errno::EINPROGRESS | Errno::EALREADY) => return Err(patience.lost()),
            _ => return Err(Failure::Connect(error)),
        }
    }
}

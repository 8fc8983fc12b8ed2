//! The blocking model: one poem after another, and every call waits until it has something to say.
//!
//! While a call waits, the program does nothing else; the times of all poems add up. In return the code is
//! the plainest there is: what happens is what stands on the page, from top to bottom.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::fetch::{Fetch, Flow, For, Patience};
use super::{Failure, Job, READ_SIZE};
use crate::candidates::refuse_itself;

pub(super) fn run(job: &Arc<Job>) {
    for index in 0..job.addresses.len() {
        fetch(job, index);
    }
}

/// Fetches one poem, from its first attempt to its end.
pub(super) fn fetch(job: &Arc<Job>, index: usize) {
    // A panic is one poem's bug: the poem has failed by the time the panic gets here, and others go on.
    let _ = catch_unwind(AssertUnwindSafe(|| attempts(Fetch::begin(job, index, Instant::now()))));
}

fn attempts(mut fetch: Fetch) {
    loop {
        let result = attempt(&mut fetch);
        match fetch.ended(result, Instant::now()) {
            Some(pause) => thread::sleep(pause),
            None => return,
        }
    }
}

fn attempt(fetch: &mut Fetch) -> Result<(), Failure> {
    fetch.attempt(Instant::now())?;
    loop {
        let result = leg(fetch);
        if !fetch.leg_ended(result, Instant::now())? {
            return Ok(());
        }
    }
}

/// One connection, from its beginning to its end.
fn leg(fetch: &mut Fetch) -> Result<(), Failure> {
    let stream = connect(fetch)?;
    fetch.connected(Instant::now());
    send(fetch, &stream)?;
    receive(fetch, &stream)
}

fn send(fetch: &mut Fetch, mut stream: &TcpStream) -> Result<(), Failure> {
    let mut patience = fetch.patience(For::Bytes, Instant::now());
    while let Some(parts) = fetch.unsent() {
        stream.set_write_timeout(patience.left()?).map_err(Failure::Broken)?;
        let result = stream.write_vectored(&parts);
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

fn receive(fetch: &mut Fetch, mut stream: &TcpStream) -> Result<(), Failure> {
    let mut buffer = vec![0; READ_SIZE];
    let mut timeout = None;
    let mut patience = fetch.patience(For::Bytes, Instant::now());
    loop {
        let left = patience.left()?;
        // Spares a setsockopt(2) before every read but the first, unless the deadline of the whole poem is the sooner.
        if left != timeout {
            stream.set_read_timeout(left).map_err(Failure::Broken)?;
            timeout = left;
        }
        let result = stream.read(&mut buffer);
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

//! The one who publishes: a blocking socket, on a thread of its own while messages are measured.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::protocol::Protocol;

/// Bytes of one write(2) in a burst, at most.
const CHUNK: usize = 64 * 1024;

pub(crate) struct Publisher {
    stream: TcpStream,
    protocol: Protocol,
}

/// What is published.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    /// Bytes of each.
    pub(crate) size: usize,
    /// None: as fast as they are taken.
    pub(crate) pace: Option<Pace>,
}

/// When messages are sent.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Messages a second.
    pub(crate) rate: u32,
    /// So many in one write(2), when the first of them is due.
    pub(crate) bunch: usize,
    /// The time since this is in the first bytes of each.
    pub(crate) epoch: Instant,
}

/// The data of a message.
pub(crate) fn data(size: usize, stamp: u64) -> Vec<u8> {
    let mut data = vec![b'.'; size];
    data[..size_of::<u64>()].copy_from_slice(&stamp.to_be_bytes());
    data
}

impl Publisher {
    pub(crate) fn connect(address: SocketAddr, protocol: Protocol, patience: Duration) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&protocol.greeting())?;
        let mut heard = Vec::new();
        while !protocol.is_greeted(&heard) {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the broker does not want a publisher")),
                Ok(n) => heard.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::other("the broker does not answer the publisher"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self { stream, protocol })
    }

    /// Publishes one message.
    pub(crate) fn publish(&mut self, data: &[u8]) -> io::Result<()> {
        self.write(&self.protocol.publication(data))
    }

    /// Publishes all messages.
    pub(crate) fn publish_all(&mut self, load: Load) -> io::Result<()> {
        match load.pace {
            Some(pace) => self.pace(load, pace),
            None => self.burst(load),
        }
    }

    fn pace(&mut self, load: Load, pace: Pace) -> io::Result<()> {
        let start = Instant::now();
        for number in (0..load.messages).step_by(pace.bunch) {
            let due = start + Duration::from_secs_f64(number as f64 / f64::from(pace.rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let message = self.protocol.publication(&data(load.size, pace.epoch.elapsed().as_nanos() as u64));
            self.write(&message.repeat(pace.bunch.min(load.messages - number)))?;
        }
        Ok(())
    }

    fn burst(&mut self, load: Load) -> io::Result<()> {
        let message = self.protocol.publication(&data(load.size, 0));
        let at_once = (CHUNK / message.len()).max(1);
        let chunk = message.repeat(at_once);
        for _ in 0..load.messages / at_once {
            self.write(&chunk)?;
        }
        self.write(&chunk[..load.messages % at_once * message.len()])
    }

    /// Writes, and throws away what the broker has answered: Redis counts, NATS asks whether anybody is there.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        loop {
            match recv(&self.stream, &mut [0; 16 * 1024], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::Error::other("the broker closed the publisher's connection")),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says that this was all, and waits for the broker's end.
    pub(crate) fn end(mut self) {
        // Everything has arrived: how a broker takes its leave does not matter any more.
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = io::copy(&mut self.stream, &mut io::sink());
    }
}

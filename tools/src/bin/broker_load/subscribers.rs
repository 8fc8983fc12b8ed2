//! Those who subscribe: non-blocking sockets in one epoll(7) loop, each of which counts what it gets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use poetry_suite::candidates::refuse_itself;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt};

use crate::protocol::{Protocol, is_within};
use crate::publisher::{Publisher, data};

/// How many subscribe before the first of them is waited for: the listen queues of some brokers are short.
const AT_ONCE: usize = 50;

/// How long a message for those who may not be subscribers yet is given, before another one is sent.
const PROBE: Duration = Duration::from_millis(10);

/// The stamp of the message after the last one.
pub(crate) const END: u64 = u64::MAX;

pub(crate) struct Subscribers {
    address: SocketAddr,
    protocol: Protocol,
    patience: Duration,
    epoll: OwnedFd,
    all: Vec<Subscriber>,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
}

struct Subscriber {
    stream: TcpStream,
    /// What came before messages were counted.
    heard: Vec<u8>,
    is_subscribed: bool,
    /// Bytes of messages.
    received: u64,
    /// Bytes of an interjection that is not complete.
    interjected: usize,
    /// What came behind all messages.
    behind: Vec<u8>,
}

/// What each subscriber has to get.
pub(crate) struct Expected {
    pub(crate) messages: usize,
    pub(crate) size: usize,
    /// Stamps are times since this.
    pub(crate) stamped: Option<Instant>,
}

impl Subscribers {
    pub(crate) fn new(address: SocketAddr, protocol: Protocol, patience: Duration) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (all, events, buffer) = (Vec::new(), Vec::with_capacity(1024), vec![0; 256 * 1024]);
        Ok(Self { address, protocol, patience, epoll, all, events, buffer })
    }

    /// Adds so many, and returns when all are subscribers.
    pub(crate) fn add(
        &mut self,
        count: usize,
        receive_buffer: Option<usize>,
        publisher: &mut Publisher,
    ) -> io::Result<()> {
        let until = self.all.len() + count;
        while self.all.len() < until {
            for _ in 0..AT_ONCE.min(until - self.all.len()) {
                self.connect(receive_buffer)?;
            }
            self.wait_for_subscriptions(publisher)?;
        }
        Ok(())
    }

    fn connect(&mut self, receive_buffer: Option<usize>) -> io::Result<()> {
        let family = if self.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        if let Some(size) = receive_buffer {
            sockopt::set_socket_recv_buffer_size(&socket, size)?;
        }
        connect(&socket, &self.address)?;
        refuse_itself(&socket, self.address)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(&self.protocol.subscription(self.all.len()))?;
        stream.set_nonblocking(true)?;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(self.all.len() as u64), epoll::EventFlags::IN)?;
        let (heard, behind) = (Vec::new(), Vec::new());
        self.all.push(Subscriber { stream, heard, is_subscribed: false, received: 0, interjected: 0, behind });
        Ok(())
    }

    fn wait_for_subscriptions(&mut self, publisher: &mut Publisher) -> io::Result<()> {
        let protocol = self.protocol;
        let deadline = Instant::now() + self.patience;
        while !self.are_subscribed() {
            if Instant::now() > deadline {
                return Err(io::Error::other("not everybody could subscribe"));
            }
            if protocol == Protocol::Poetry {
                publisher.publish(b"probe")?;
            }
            let hear = |subscriber: &mut Subscriber, chunk: &[u8]| {
                subscriber.heard.extend_from_slice(chunk);
                subscriber.is_subscribed = subscriber.is_subscribed || protocol.is_subscribed(&subscriber.heard);
                Ok(())
            };
            while !self.are_subscribed() && self.turn(PROBE, hear)? {}
        }
        Ok(())
    }

    fn are_subscribed(&self) -> bool {
        self.all.iter().all(|subscriber| subscriber.is_subscribed)
    }

    /// Has everybody read up to one message that all of them get: what comes now is counted.
    pub(crate) fn line_up(&mut self, publisher: &mut Publisher) -> io::Result<()> {
        const LINE: &[u8] = b"This is the line.";
        publisher.publish(LINE)?;
        let line = self.protocol.delivery(LINE);
        let mut missing = self.all.len();
        let result = self.read_until(&mut missing, |subscriber, chunk| {
            subscriber.heard.extend_from_slice(chunk);
            Ok(is_within(&subscriber.heard, &line))
        });
        result.map_err(|error| io::Error::other(format!("a first message did not reach everybody: {error}")))
    }

    /// Adds such that never read again.
    pub(crate) fn add_stalled(&mut self, count: usize, publisher: &mut Publisher) -> io::Result<Vec<TcpStream>> {
        let readers = self.all.len();
        // The less fits in here, the sooner it is the broker's trouble.
        self.add(count, Some(4096), publisher)?;
        let stalled = self.all.drain(readers..).map(|subscriber| subscriber.stream).collect::<Vec<_>>();
        for stream in &stalled {
            epoll::delete(&self.epoll, stream)?;
        }
        Ok(stalled)
    }

    /// Reads until everybody has all messages. Returns when the last one was there, and how long each took, in µs.
    pub(crate) fn receive(&mut self, expected: &Expected) -> io::Result<(Instant, Vec<u32>)> {
        let protocol = self.protocol;
        let message = protocol.delivery(&data(expected.size, 0));
        let all = (message.len() * expected.messages) as u64;
        let stamp_at = message.len() - protocol.trailer() - expected.size;
        let frame = Frame { length: message.len(), first: message[0], stamp_at, stamped: expected.stamped };
        let capacity = expected.stamped.map_or(0, |_| self.all.len() * expected.messages);
        let mut latencies = Vec::with_capacity(capacity);
        let mut missing = self.all.len();
        self.read_until(&mut missing, |subscriber, chunk| {
            let was_complete = subscriber.received >= all;
            subscriber.take(chunk, all, &frame, protocol.interjection(), &mut latencies)?;
            Ok(!was_complete && subscriber.received >= all)
        })
        .map_err(|error| self.explain(error, all))?;
        Ok((Instant::now(), latencies))
    }

    /// Reads the message after the last one; there must not be anything before it.
    pub(crate) fn receive_end(&mut self, expected: &Expected) -> io::Result<()> {
        let protocol = self.protocol;
        let end = protocol.delivery(&data(expected.size, END));
        let frame = Frame { length: end.len(), first: end[0], stamp_at: 0, stamped: None };
        let all = (end.len() * expected.messages) as u64;
        let mut missing = self.all.iter().filter(|subscriber| subscriber.behind.len() < end.len()).count();
        self.read_until(&mut missing, |subscriber, chunk| {
            let was_complete = subscriber.behind.len() >= end.len();
            subscriber.take(chunk, all, &frame, protocol.interjection(), &mut Vec::new())?;
            Ok(!was_complete && subscriber.behind.len() >= end.len())
        })
        .map_err(|error| self.explain(error, all + end.len() as u64))?;
        match self.all.iter().position(|subscriber| subscriber.behind != end) {
            Some(number) => Err(io::Error::other(format!("subscriber {number} got more than it should"))),
            None => Ok(()),
        }
    }

    fn explain(&self, error: io::Error, all: u64) -> io::Error {
        match self.all.iter().enumerate().find(|(_, subscriber)| subscriber.received < all) {
            Some((number, Subscriber { received, .. })) => {
                io::Error::other(format!("subscriber {number} got {received} of {all} bytes: {error}"))
            }
            None => error,
        }
    }

    /// Reads until `take` has said so many times that it has enough.
    fn read_until(
        &mut self,
        missing: &mut usize,
        mut take: impl FnMut(&mut Subscriber, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        while *missing > 0 {
            let more = self.turn(self.patience, |subscriber, chunk| {
                *missing -= usize::from(take(subscriber, chunk)?);
                Ok(())
            })?;
            if !more {
                return Err(io::Error::other("nothing more came"));
            }
        }
        Ok(())
    }

    /// Waits so long at most, and reads once from whoever has something. False: nobody has.
    fn turn(
        &mut self,
        wait: Duration,
        mut take: impl FnMut(&mut Subscriber, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), wait.try_into().ok().as_ref())
        {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            let number = event.data.u64() as usize;
            let subscriber = &mut self.all[number];
            match subscriber.stream.read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::other(format!("subscriber {number} was closed"))),
                Ok(n) => take(subscriber, &self.buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(!self.events.is_empty())
    }
}

/// A message as it arrives.
struct Frame {
    length: usize,
    first: u8,
    stamp_at: usize,
    stamped: Option<Instant>,
}

impl Subscriber {
    /// Counts what has arrived, frame by frame: each has to begin as one does.
    fn take(
        &mut self,
        mut chunk: &[u8],
        all: u64,
        frame: &Frame,
        interjection: &[u8],
        latencies: &mut Vec<u32>,
    ) -> io::Result<()> {
        let now = frame.stamped.map(|epoch| epoch.elapsed().as_nanos() as u64);
        while let Some(&first) = chunk.first() {
            let at = (self.received % frame.length as u64) as usize;
            if at == 0 && first != frame.first || self.interjected > 0 {
                let rest = &interjection[self.interjected.min(interjection.len())..];
                let n = rest.len().min(chunk.len());
                if n == 0 || rest[..n] != chunk[..n] {
                    return Err(io::Error::other("something came that is no message"));
                }
                self.interjected = (self.interjected + n) % interjection.len();
                chunk = &chunk[n..];
                continue;
            }
            let n = (frame.length - at).min(chunk.len());
            let piece = &chunk[..n];
            if self.received >= all {
                self.behind.extend_from_slice(piece);
            } else if let Some(now) = now
                && let Some(stamp) = frame.stamp_at.checked_sub(at).and_then(|at| piece.get(at..)?.first_chunk())
            {
                // One that was cut into two is not a sample.
                let nanos = now.checked_sub(u64::from_be_bytes(*stamp));
                let nanos = nanos.ok_or_else(|| io::Error::other("a message came that nobody sent"))?;
                latencies.push((nanos / 1000).try_into().unwrap_or(u32::MAX));
            }
            self.received += n as u64;
            chunk = &chunk[n..];
        }
        Ok(())
    }
}

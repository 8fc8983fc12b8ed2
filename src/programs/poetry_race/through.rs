//! The relays of a race: one in front of each address, which sees what its client does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};

use super::say;
use crate::address::Address;
use crate::cli::Error;
use crate::cli::open_files::{self, SoftLimit};
use crate::client::{Source, Target};
use crate::net::descriptors::Descriptors;
use crate::net::{self, Door, ServerLimits, Stop, Stoppable};
use crate::race::statistics::median;
use crate::report::Report;
use crate::report::seen::{Keep, Place};
use crate::server::watcher::{Sighted, Watcher};
use crate::server::witness::Witness;
use crate::units::{Micros, count, micros};

/// The most poems, each with a relay of its own: there are some 28,000 ports for them, and as many for connections.
const MOST: usize = 5_000;

/// Connections that are kept of a run, beside one for each address.
const MORE: usize = 1_000;

/// When a client is gone, what it has said may still be under way for so long.
const PATIENCE: Duration = Duration::from_millis(100);

/// For the listen queue: as many clients as may come at once.
const BACKLOG: i32 = 4_096;

/// How often a first byte is waited for to know what a relay costs, with it and without.
const SAMPLES: usize = 101;

/// A first byte that takes longer than this does not come.
const LONGEST_SAMPLE: Duration = Duration::from_secs(10);

/// The relays, on one thread of this process.
pub(super) struct Through {
    watcher: Arc<Watcher>,
    places: Vec<Place>,
    /// As a client gets them.
    targets: Vec<Target>,
    /// The relay in front of a server of our own, and the server.
    toll: (SocketAddr, TcpListener),
    /// The limit of open files before there were relays.
    limit: SoftLimit,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Through {
    /// Starts a relay in front of each of these servers, on any free port.
    ///
    /// # Errors
    /// The system gives no port or no thread.
    pub(super) fn start(targets: &[Target]) -> Result<Self, Error> {
        if targets.len() > MOST {
            return Err(Error::usage(format!("relays are for {MOST} poems at most, and these are {}", targets.len())));
        }
        let limit = SoftLimit::now();
        open_files::raise_limit();
        let toll = listen()?;
        let toll_address = address(&toll)?;
        let mut upstreams: Vec<Address> = targets.iter().map(|target| target.source.address().clone()).collect();
        upstreams.push(parsed(&toll_address)?);
        let listeners = upstreams.iter().map(|_| listen()).collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        let relayed = targets.iter().zip(&addresses).map(|(target, at)| relayed(target, *at));
        let relayed = relayed.collect::<Result<Vec<_>, _>>()?;
        let watcher = Watcher::new(targets.len() + MORE, Keep::First);
        let witness = Arc::new(Witness::new(upstreams, addresses.clone(), Arc::clone(&watcher)));
        let door = |listener| Door { name: "relay", listeners: vec![listener], listen_later: None };
        let limits = ServerLimits {
            max_clients: usize::from(u16::MAX),
            descriptors: Descriptors::default(),
            write_timeout: None,
            grace: Duration::ZERO,
        };
        let prepared = net::prepare(listeners.into_iter().map(door).collect(), &witness, &limits);
        let prepared = prepared.map_err(|error| Error::cannot("start", "a relay", &error))?;
        let stop = Stop::default();
        let its = stop.clone();
        let run = move || {
            // Only a panic ends it before it is stopped, and that is told.
            let _ = prepared.run(&its);
        };
        let thread = thread::Builder::new().name("relay".to_owned()).spawn(run);
        let thread = Some(thread.map_err(|error| Error::no_thread(&error))?);
        let place = |target: &Target| Place { address: target.source.to_string(), name: target.name.clone() };
        let toll_relay = addresses.last().copied().unwrap_or(toll_address);
        Ok(Self {
            watcher,
            places: targets.iter().map(place).collect(),
            targets: relayed,
            toll: (toll_relay, toll),
            limit,
            stop,
            thread,
        })
    }

    /// What a client is to be given in place of the servers, with the same names.
    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// A client is about to start: what was seen until now is of another one.
    pub(super) fn begin(&self) {
        self.watcher.next_round(Duration::ZERO);
    }

    /// What was seen of the client that has ended, as its report.
    pub(super) fn report(&self, name: &str) -> Report {
        let Sighted { seen, started, elapsed_us } = self.watcher.next_round(PATIENCE);
        if seen.forgotten() > 0 {
            let more = count(seen.forgotten(), "connection");
            say(&format!("poetry-race: {more} of {name} more than there is room for: they are in no picture\n"));
        }
        seen.by_place(name, &self.places, started, elapsed_us)
    }

    /// The limit of open files for clients that may count on it.
    pub(super) fn limit(&self) -> SoftLimit {
        self.limit
    }

    /// How much later a first byte comes through a relay: the difference of the medians, asked for in turns, from the start
    /// of the connection on.
    ///
    /// # Errors
    /// A connection on this machine fails. To be asked once: its server is gone then.
    pub(super) fn toll(&self) -> Result<Micros, Error> {
        let (relay, server) = &self.toll;
        let direct = address(server)?;
        let cannot = |error: io::Error| Error::cannot("measure", "the relay", &error);
        let (mut with, mut without) = (Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES));
        thread::scope(|scope| {
            let serve = || {
                while let Ok((mut client, _)) = server.accept() {
                    let _ = client.write_all(b".");
                }
            };
            thread::Builder::new().spawn_scoped(scope, serve).map_err(|error| Error::no_thread(&error))?;
            let mut ask = || {
                for _ in 0..SAMPLES {
                    without.push(first_byte(direct)?);
                    with.push(first_byte(*relay)?);
                }
                Ok(())
            };
            let asked = ask().map_err(cannot);
            // It waits for somebody: there may be no descriptor left to connect to it.
            let ended = shutdown(server, Shutdown::Both).map_err(|errno| cannot(errno.into()));
            asked.and(ended)
        })?;
        let [with, without] = [with, without].map(|times| median(times).unwrap_or(0));
        Ok(with.saturating_sub(without))
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        self.stop.close();
        self.stop.abort();
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The time from connect(2) to the first byte.
fn first_byte(address: SocketAddr) -> io::Result<Micros> {
    let clock = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    // Nobody may be able to accept it.
    stream.set_read_timeout(Some(LONGEST_SAMPLE))?;
    stream.read_exact(&mut [0]).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    Ok(micros(clock.elapsed()))
}

fn listen() -> Result<TcpListener, Error> {
    let listener = TcpListener::bind("127.0.0.1:0");
    let listener = listener.map_err(|error| Error::cannot("listen on", "127.0.0.1", &error))?;
    rustix::net::listen(&listener, BACKLOG).map_err(|error| Error::cannot("listen on", "127.0.0.1", &error.into()))?;
    Ok(listener)
}

fn address(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|error| Error::cannot("find", "a port", &error))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &impl ToString) -> Result<T, Error> {
    text.to_string().parse().map_err(|error| Error::failure(format!("{error}")))
}

/// The same target, by way of the relay at this address.
fn relayed(target: &Target, at: SocketAddr) -> Result<Target, Error> {
    let source: Source = match &target.source {
        Source::Poem(_) => parsed(&at)?,
        Source::Http(url) => parsed(&format!("http://{at}{}", url.path()))?,
    };
    Ok(Target { name: target.name.clone(), source })
}

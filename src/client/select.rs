//! The select model: one thread, non-blocking sockets, one readiness loop.
//!
//! No call here waits but one: poll(2), which waits for all sockets at once and says which of them can go on.
//! Each poem is a small state machine that takes one step when its turn comes:
//!
//! ```text
//!   Resolving ──▶ Connecting ──▶ Receiving ──▶ Settled
//!       ▲  ╲           │              │           ▲
//!       │   ╲──────────┴───┬──────────╯           │
//!       │               failed ───────────────────╯
//!       ╰──── Pausing ◀────╯  (if it may try again)
//! ```
//!
//! (A poem that is to be transformed goes a second time from left to right, and so does one over HTTP that is elsewhere, with
//! something to be sent between Connecting and Receiving. While it is Connecting, it may have several sockets, one for each
//! address that has not answered yet. A file is written by a scribe: a poem that has to wait for it is Full, or Delivering.)
//!
//! The kernel looks at every descriptor in each call: with many poems that is what the model costs. (The
//! namesake, select(2), is kept out: it cannot see descriptors above 1023.)

use std::io::{self, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::bell::Bell;
use super::fetch::{Fetch, Flow, For, Next, Patience};
use super::idle::Idle;
use super::resolver::{Resolver, Ticket};
use super::turns::Turns;
use super::{Failure, Job, READ_SIZE};
use crate::candidates::{Candidate, Candidates, refuse_itself};
use crate::errors::is_for_later;

pub(super) fn run(job: &Arc<Job>) -> io::Result<()> {
    let mut tools = Tools { resolver: Resolver::new()?, kept: Idle::default(), buffer: vec![0; READ_SIZE] };
    let scribe = Bell::new()?;
    let rope = scribe.rope();
    job.with_scribe(move |_| rope.ring());
    let mut turns = Turns::new(&job.sources, job.limits.concurrency);
    let mut poems: Vec<Poem> = Vec::new();
    loop {
        // Begin as many poems as may be under way at once.
        for settled in poems.extract_if(.., |poem| poem.is_settled()) {
            turns.settled(settled.fetch.source());
        }
        while let Some(index) = turns.next() {
            let mut poem = Poem::begin(job, index);
            poem.step(Wakeup::Time, &mut tools);
            match poem.is_settled() {
                true => turns.settled(poem.fetch.source()),
                false => poems.push(poem),
            }
        }
        if poems.is_empty() {
            job.sink.dismiss_scribe();
            return Ok(());
        }

        // Wait until one of them can go on, or has waited long enough.
        let Ready { poems: ready, resolver: answered, scribe: written } = wait(&poems, &tools.resolver, &scribe, job)?;

        // Let those go on. One step each: whoever sends fastest must not get all the time.
        let now = Instant::now();
        for (poem, ready) in poems.iter_mut().zip(ready) {
            if ready {
                job.counts.add_wakeup();
                poem.step(Wakeup::Ready, &mut tools);
            } else if poem.deadline().is_some_and(|deadline| deadline <= now) {
                poem.step(Wakeup::Time, &mut tools);
            }
        }
        if answered {
            for answer in tools.resolver.answers() {
                // No match if that fetch has timed out meanwhile.
                if let Some(poem) = poems.iter_mut().find(|poem| poem.waits_for(answer.ticket)) {
                    poem.step(Wakeup::Resolved(answer.addresses), &mut tools);
                }
            }
        }
        if written {
            scribe.silence();
            poems.iter_mut().for_each(|poem| poem.step(Wakeup::Written, &mut tools));
        }
    }
}

/// What all poems share.
struct Tools {
    resolver: Resolver,
    kept: Idle<TcpStream>,
    buffer: Vec<u8>,
}

/// What poll(2) called ready.
struct Ready {
    /// For each poem, whether its socket is ready.
    poems: Vec<bool>,
    /// Whether the resolver has answers.
    resolver: bool,
    /// Whether the scribe has written something.
    scribe: bool,
}

/// The one call that waits.
fn wait(poems: &[Poem], resolver: &Resolver, scribe: &Bell, job: &Job) -> io::Result<Ready> {
    let mut ready = Ready { poems: vec![false; poems.len()], resolver: false, scribe: false };
    let mut whose = Vec::with_capacity(poems.len());
    let mut sockets = Vec::with_capacity(poems.len() + 2);
    for (number, poem) in poems.iter().enumerate() {
        poem.interests(|socket, readiness| {
            whose.push(number);
            sockets.push(PollFd::new(socket, readiness));
        });
    }
    sockets.push(PollFd::new(resolver.as_fd(), PollFlags::POLLIN));
    sockets.push(PollFd::new(scribe.as_fd(), PollFlags::POLLIN));

    let first_deadline = poems.iter().filter_map(Poem::deadline).min();
    job.counts.add_wait();
    match poll(&mut sockets, timeout_until(first_deadline)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(ready), // stopped and continued, for instance
        Err(errno) => return Err(errno.into()),
    }
    // POLLERR and POLLHUP count too: the next call on the socket says what is the matter.
    let mut is_ready = sockets.iter().map(|socket| socket.any().unwrap_or(true));
    for (number, is_ready) in whose.into_iter().zip(&mut is_ready) {
        ready.poems[number] |= is_ready;
    }
    ready.resolver = is_ready.next().unwrap_or(true);
    ready.scribe = is_ready.next().unwrap_or(true);
    Ok(ready)
}

/// The timeout of poll(2), in milliseconds: rounded up, so that the deadline has passed when it returns.
fn timeout_until(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// One poem and its state.
struct Poem {
    fetch: Fetch,
    state: State,
}

/// What a poem waits for.
enum State {
    /// The next attempt is due at this time.
    Pausing { until: Instant },
    /// The resolver has been asked.
    Resolving { ticket: Ticket, patience: Patience },
    /// Connections are under way, each to an address of the name; more could be tried.
    Connecting { under_way: Vec<Connecting>, candidates: Candidates<Failure> },
    /// There is something to send when the socket takes it.
    Sending { stream: TcpStream, patience: Patience },
    /// Bytes may come.
    Receiving { stream: TcpStream, patience: Patience },
    /// Bytes may come, but the disk has to take those that are here first.
    Full { stream: TcpStream, patience: Patience },
    /// Everything on this connection is said.
    Complete,
    /// The poem is whole, and the scribe is not done with its file.
    Delivering,
    /// Delivered or failed.
    Settled,
}

/// A connect(2) that has not come to an end.
struct Connecting {
    candidate: Candidate,
    socket: Socket,
    patience: Patience,
}

/// Why a poem takes a step.
enum Wakeup {
    /// Its socket is ready, or one of its sockets.
    Ready,
    /// Its deadline has passed, or its pause is over.
    Time,
    /// The resolver has answered.
    Resolved(io::Result<Vec<SocketAddr>>),
    /// The scribe has written something.
    Written,
}

impl Poem {
    fn begin(job: &Arc<Job>, index: usize) -> Self {
        let now = Instant::now();
        Self { fetch: Fetch::begin(job, index, now), state: State::Pausing { until: now } }
    }

    fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled)
    }

    fn waits_for(&self, answer: Ticket) -> bool {
        matches!(self.state, State::Resolving { ticket, .. } if ticket == answer)
    }

    /// Tells the sockets and the readiness that this poem waits for; none while it waits for time to pass or for the
    /// resolver.
    fn interests<'a>(&'a self, mut tell: impl FnMut(BorrowedFd<'a>, PollFlags)) {
        match &self.state {
            // A connection that stands, or has failed, makes its socket writable: connect(2), EINPROGRESS.
            State::Connecting { under_way, .. } => {
                under_way.iter().for_each(|connecting| tell(connecting.socket.as_fd(), PollFlags::POLLOUT));
            }
            State::Sending { stream, .. } => tell(stream.as_fd(), PollFlags::POLLOUT),
            State::Receiving { stream, .. } => tell(stream.as_fd(), PollFlags::POLLIN),
            _ => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Pausing { until } => Some(*until),
            State::Connecting { under_way, candidates } => {
                let limits = under_way.iter().filter_map(|connecting| connecting.patience.until());
                limits.chain(candidates.due()).min()
            }
            State::Resolving { patience, .. }
            | State::Sending { patience, .. }
            | State::Receiving { patience, .. }
            | State::Full { patience, .. } => patience.until(),
            State::Complete | State::Delivering | State::Settled => None,
        }
    }

    /// Goes on as far as is possible without waiting. A panic is the failure of this poem, and of no other.
    fn step(&mut self, wakeup: Wakeup, tools: &mut Tools) {
        let step = AssertUnwindSafe(|| {
            let state = mem::replace(&mut self.state, State::Settled);
            let mut next = self.next(state, wakeup, tools);
            let result = loop {
                let leg = match next {
                    Ok(State::Complete) => Ok(()),
                    Ok(state) => {
                        self.state = state;
                        return;
                    }
                    Err(failure) => Err(failure),
                };
                match self.fetch.leg_ended(leg, Instant::now()) {
                    Ok(true) => next = self.set_out(tools),
                    Ok(false) => break Ok(()),
                    Err(failure) => break Err(failure),
                }
            };
            let now = Instant::now();
            self.state = match self.fetch.ended(result, now) {
                Next::Retry(pause) => State::Pausing { until: now + pause },
                Next::Delivery => State::Delivering,
                Next::Settled => State::Settled,
            };
        });
        if catch_unwind(step).is_err() {
            self.fetch.give_up();
        }
    }

    /// The state that follows this one; an error ends the attempt.
    fn next(&mut self, state: State, wakeup: Wakeup, tools: &mut Tools) -> Result<State, Failure> {
        match (state, wakeup) {
            (State::Pausing { .. }, Wakeup::Time) => {
                self.fetch.attempt(Instant::now())?;
                self.set_out(tools)
            }
            (State::Resolving { .. }, Wakeup::Resolved(answer)) => {
                let addresses = answer.map_err(Failure::Resolve)?;
                self.connect(&addresses)
            }
            (State::Connecting { under_way, candidates }, Wakeup::Ready) => self.ready(under_way, candidates),
            (State::Connecting { under_way, candidates }, Wakeup::Time) => self.late(under_way, candidates),
            (State::Sending { stream, patience }, Wakeup::Ready) => self.write(stream, patience),
            (State::Receiving { stream, patience }, Wakeup::Ready) => self.read(stream, patience, tools),
            (State::Full { stream, .. }, Wakeup::Written) => self.talk(stream),
            (State::Delivering, Wakeup::Written) if self.fetch.delivered() => Ok(State::Settled),
            (
                State::Resolving { patience, .. }
                | State::Sending { patience, .. }
                | State::Receiving { patience, .. }
                | State::Full { patience, .. },
                Wakeup::Time,
            ) => Err(patience.lost()),
            // A wakeup that this state does not wait for.
            (state, Wakeup::Ready | Wakeup::Time | Wakeup::Resolved(_) | Wakeup::Written) => Ok(state),
        }
    }

    /// Begins a leg: on a connection that has been kept, or with making one.
    fn set_out(&mut self, tools: &mut Tools) -> Result<State, Failure> {
        if let Some(stream) = self.fetch.takes_kept().and_then(|server| tools.kept.take(server)) {
            self.fetch.reused(Instant::now());
            return self.talk(stream);
        }
        match self.fetch.address().literal() {
            Some(address) => self.connect(&[address]),
            None => self.resolve(&mut tools.resolver),
        }
    }

    fn resolve(&mut self, resolver: &mut Resolver) -> Result<State, Failure> {
        let patience = self.fetch.patience(For::Connection, Instant::now());
        let asked = resolver.ask(self.fetch.address().clone());
        self.fetch.job().counts.set_look_ups(resolver.threads());
        match asked {
            Ok(ticket) => Ok(State::Resolving { ticket, patience }),
            Err(error) => Err(Failure::Local { what: "start the resolver", error }),
        }
    }

    /// Begins to connect to these addresses.
    fn connect(&mut self, addresses: &[SocketAddr]) -> Result<State, Failure> {
        let candidates = Candidates::new(self.fetch.candidates(addresses));
        self.try_more(Vec::new(), candidates)
    }

    /// Starts to connect to the addresses that are due, and waits for all that are under way.
    fn try_more(
        &mut self,
        mut under_way: Vec<Connecting>,
        mut candidates: Candidates<Failure>,
    ) -> Result<State, Failure> {
        while let Some(candidate) = candidates.next(Instant::now()) {
            let Candidate { number, address } = candidate;
            let patience = self.fetch.patience(For::Connection, Instant::now());
            match start_to_connect(address) {
                Ok((socket, true)) => match self.connected(socket, address) {
                    Ok(state) => return Ok(state),
                    Err(failure) => candidates.failed(number, failure),
                },
                Ok((socket, false)) => under_way.push(Connecting { candidate, socket, patience }),
                Err(Failure::Local { .. }) if !under_way.is_empty() => candidates.put_off(),
                Err(failure) => candidates.failed(number, failure),
            }
        }
        match under_way.is_empty() {
            true => Err(candidates.failure().unwrap_or(Failure::Bug)),
            false => Ok(State::Connecting { under_way, candidates }),
        }
    }

    /// One of the connections under way has come to an end, at least. The first that stands wins; to drop the others is
    /// to give them up.
    fn ready(&mut self, under_way: Vec<Connecting>, mut candidates: Candidates<Failure>) -> Result<State, Failure> {
        let mut left = Vec::new();
        let is_alone = under_way.len() == 1;
        for Connecting { candidate, socket, patience } in under_way {
            let Candidate { number, address } = candidate;
            match end_of_connect(&socket, is_alone) {
                None => left.push(Connecting { candidate, socket, patience }),
                Some(Ok(())) => match self.connected(socket, address) {
                    Ok(state) => return Ok(state),
                    Err(failure) => candidates.failed(number, failure),
                },
                Some(Err(error)) => candidates.failed(number, Failure::Connect(error)),
            }
        }
        self.try_more(left, candidates)
    }

    /// A deadline has passed: that of a connection under way, or the next address is due.
    fn late(&mut self, mut under_way: Vec<Connecting>, mut candidates: Candidates<Failure>) -> Result<State, Failure> {
        let now = Instant::now();
        let is_late = |connecting: &mut Connecting| connecting.patience.until().is_some_and(|until| until <= now);
        for Connecting { candidate, patience, .. } in under_way.extract_if(.., is_late) {
            match patience.lost() {
                // There is no time for another address.
                failure @ Failure::Timeout(_) => return Err(failure),
                failure => candidates.failed(candidate.number, failure),
            }
        }
        self.try_more(under_way, candidates)
    }

    /// The connection to this address stands.
    fn connected(&mut self, socket: Socket, address: SocketAddr) -> Result<State, Failure> {
        refuse_itself(&socket, address).map_err(Failure::Connect)?;
        self.fetch.reached(address);
        self.fetch.connected(Instant::now());
        self.talk(socket.into())
    }

    /// Goes on with a connection that stands, without waiting: what is to be sent comes first, and as a rule the socket
    /// takes it.
    fn talk(&mut self, stream: TcpStream) -> Result<State, Failure> {
        let patience = self.fetch.patience(For::Bytes, Instant::now());
        match self.fetch.unsent() {
            Some(_) => self.write(stream, patience),
            None => Ok(State::Receiving { stream, patience }),
        }
    }

    fn write(&mut self, mut stream: TcpStream, patience: Patience) -> Result<State, Failure> {
        let Some(parts) = self.fetch.unsent() else { return self.talk(stream) };
        match stream.write_vectored(&parts) {
            Ok(n) => {
                self.fetch.sent(n);
                self.talk(stream)
            }
            Err(error) if is_for_later(&error) => Ok(State::Sending { stream, patience }),
            Err(error) => Err(Failure::Broken(error)),
        }
    }

    fn read(&mut self, mut stream: TcpStream, patience: Patience, tools: &mut Tools) -> Result<State, Failure> {
        if !self.fetch.has_room() {
            return Ok(State::Full { stream, patience: self.fetch.patience(For::Room, Instant::now()) });
        }
        self.fetch.job().counts.add_read();
        match stream.read(&mut tools.buffer) {
            Ok(0) => Ok(State::Complete),
            Ok(n) => match self.fetch.received(&tools.buffer[..n], Instant::now())? {
                Flow::More => {
                    Ok(State::Receiving { stream, patience: self.fetch.patience(For::Bytes, Instant::now()) })
                }
                Flow::Enough => {
                    if let Some(server) = self.fetch.keeps() {
                        tools.kept.put(server.clone(), stream);
                    }
                    Ok(State::Complete)
                }
            },
            Err(error) if is_for_later(&error) => Ok(State::Receiving { stream, patience }),
            Err(error) => Err(Failure::Broken(error)),
        }
    }
}

/// A connect(2) that does not wait. The second value tells whether the connection stands already (no EINPROGRESS).
fn start_to_connect(address: SocketAddr) -> Result<(Socket, bool), Failure> {
    let made = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None);
    let socket = made.map_err(Failure::no_socket)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok((socket, true)),
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Ok((socket, false)),
        Err(error) => Err(Failure::Connect(error)),
    }
}

/// What has become of a connect(2) under way; `None`: nothing yet. The only one that poll(2) can have meant has come to
/// its end.
fn end_of_connect(socket: &Socket, is_the_only_one: bool) -> Option<io::Result<()>> {
    match socket.take_error() {
        Ok(None) if is_the_only_one => return Some(Ok(())),
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Some(Err(error)),
    }
    match socket.peer_addr() {
        Ok(_) => Some(Ok(())),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
        Err(error) => Some(Err(error)),
    }
}

//! The client's half of a simulation: a poem on its way through [`Fetch`], step by step as a live client takes it.

use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use super::connection::{Answer, End};
use super::costs::Costs;
use super::link::nanos;
use super::queue::Nanos;
use super::server::Net;
use super::stream::Stream;
use super::{Clock, Event, TICK, server_of};
use crate::client::{Failure, Fetch, Flow, For, Job, Model, Next, Patience, READ_SIZE};

/// A poem that has begun and is not settled.
pub(super) struct Lane {
    fetch: Fetch,
    poem: u32,
    state: State,
    /// When its earliest timer will go off; the end of time, if there is none.
    timer: Nanos,
    attempts: u32,
    /// The end of its last stretch of work.
    worked: Nanos,
}

/// What a poem waits for.
enum State {
    /// The next attempt is due.
    Pausing {
        until: Nanos,
    },
    /// A connection is under way.
    Connecting {
        connection: u32,
        patience: Patience,
    },
    /// Bytes may come.
    Receiving {
        connection: u32,
        patience: Patience,
    },
    Settled,
}

/// What all poems of a run have in common.
pub(super) struct Manner<'a> {
    pub(super) model: Model,
    pub(super) costs: &'a Costs,
    /// Where poems are written.
    pub(super) stream: &'a Stream,
    pub(super) servers: u32,
    pub(super) poems: u32,
}

impl Lane {
    pub(super) fn begin(job: &Arc<Job>, poem: u32, net: &Net<'_>, clock: &Clock) -> Box<Self> {
        let fetch = Fetch::begin(job, poem as usize, net.instant(clock.now()));
        let state = State::Pausing { until: clock.now() };
        Box::new(Self { fetch, poem, state, timer: Nanos::MAX, attempts: 0, worked: 0 })
    }

    /// The run is over, and this poem is not.
    pub(super) fn interrupt(&mut self) {
        self.fetch.interrupt();
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled)
    }

    /// Whether it has a socket that is waited for.
    pub(super) fn has_socket(&self) -> bool {
        matches!(self.state, State::Connecting { .. } | State::Receiving { .. })
    }

    /// Whether its socket is ready, as poll(2) would say again and again.
    pub(super) fn is_ready(&self, net: &mut Net<'_>) -> bool {
        match self.state {
            State::Connecting { connection, .. } => net.connections.get(connection).answer.is_some(),
            State::Receiving { connection, .. } => net.connections.get(connection).is_readable(),
            State::Pausing { .. } | State::Settled => false,
        }
    }

    /// Notes that the timer of this time has gone off. Returns whether something is due; if not, sets another one.
    pub(super) fn timer_is_over(&mut self, net: &mut Net<'_>, now: Nanos) -> bool {
        if self.timer != now {
            return false;
        }
        self.timer = Nanos::MAX;
        let is_due = self.deadline(net).is_some_and(|deadline| deadline <= now);
        if !is_due {
            self.set_timer(net);
        }
        is_due
    }

    fn deadline(&self, net: &Net<'_>) -> Option<Nanos> {
        match &self.state {
            State::Pausing { until } => Some(*until),
            State::Connecting { patience, .. } | State::Receiving { patience, .. } => {
                patience.until().map(|until| nanos(until.saturating_duration_since(net.instant(0))))
            }
            State::Settled => None,
        }
    }

    /// One timer at a time is enough: one that comes too soon is followed by another.
    fn set_timer(&mut self, net: &mut Net<'_>) {
        let Some(deadline) = self.deadline(net) else { return };
        let at = deadline.div_ceil(TICK).saturating_mul(TICK);
        if at < self.timer {
            self.timer = at;
            net.queue.push(at, Event::Timer(self.poem));
        }
    }

    /// Goes on as far as the model does without waiting. What it takes is added to the clock.
    pub(super) fn go_on(&mut self, manner: &Manner<'_>, net: &mut Net<'_>, clock: &mut Clock) {
        // A readiness loop lets each poem take one step; the others go on until they would have to wait.
        let one_step = manner.model == Model::Select;
        // On another processor it would be the same thread that is not done yet.
        clock.wait_until(self.worked);
        while self.step(manner, net, clock) && !one_step {}
        self.worked = clock.now();
        self.set_timer(net);
    }

    /// Takes one step, if there is one to be taken. Returns whether there may be another one.
    fn step(&mut self, manner: &Manner<'_>, net: &mut Net<'_>, clock: &mut Clock) -> bool {
        let now = clock.now();
        let result = match self.state {
            State::Settled => return false,
            State::Pausing { until } if until > now => return false,
            State::Pausing { .. } => self.connect(manner, net, clock),
            State::Connecting { connection, patience } => {
                let answer = net.connections.get(connection).answer;
                match answer {
                    Some(answer) => self.connected(connection, answer, manner, net, clock),
                    None if is_late(patience, net, now) => {
                        self.count_wakeup(manner);
                        Err(patience.lost())
                    }
                    None => return false,
                }
            }
            State::Receiving { connection, patience } if net.connections.get(connection).is_readable() => {
                self.read(connection, patience, manner, net, clock)
            }
            State::Receiving { patience, .. } if is_late(patience, net, now) => {
                self.count_late_read(manner);
                Err(patience.lost())
            }
            State::Receiving { .. } => return false,
        };
        match result {
            Ok(true) => self.leg_is_over(Ok(()), manner, net, clock),
            Ok(false) => true,
            Err(failure) => self.leg_is_over(Err(failure), manner, net, clock),
        }
    }

    /// Begins an attempt. As everywhere here, false is: the leg goes on.
    fn connect(&mut self, manner: &Manner<'_>, net: &mut Net<'_>, clock: &mut Clock) -> Result<bool, Failure> {
        self.fetch.attempt(net.instant(clock.now()))?;
        self.attempts += 1;
        let patience = self.fetch.patience(For::Connection, net.instant(clock.now()));
        clock.spend(manner.costs.connect);
        let server = server_of(self.poem, manner.servers, manner.poems);
        let connection = net.connect(self.poem, server, self.attempts, clock.now());
        self.state = State::Connecting { connection, patience };
        Ok(false)
    }

    fn connected(
        &mut self,
        connection: u32,
        answer: Answer,
        manner: &Manner<'_>,
        net: &mut Net<'_>,
        clock: &mut Clock,
    ) -> Result<bool, Failure> {
        self.count_wakeup(manner);
        clock.spend(manner.costs.step);
        let failed = |errno: Errno| Failure::Connect(io::Error::from_raw_os_error(errno as i32));
        match answer {
            Answer::Refused => return Err(failed(Errno::ECONNREFUSED)),
            Answer::TimedOut => return Err(failed(Errno::ETIMEDOUT)),
            Answer::Accepted => {}
        }
        if let Some(address) = self.fetch.address().literal() {
            self.fetch.reached(address);
        }
        let now = net.instant(clock.now());
        self.fetch.connected(now);
        self.state = State::Receiving { connection, patience: self.fetch.patience(For::Bytes, now) };
        Ok(false)
    }

    fn read(
        &mut self,
        id: u32,
        patience: Patience,
        manner: &Manner<'_>,
        net: &mut Net<'_>,
        clock: &mut Clock,
    ) -> Result<bool, Failure> {
        let counts = &self.fetch.job().counts;
        counts.add_read();
        if manner.model != Model::Select {
            counts.add_wakeup();
        }
        let connection = net.connections.get(id);
        let bytes = connection.inbox.min(READ_SIZE as u64);
        clock.spend((bytes.saturating_mul(manner.costs.copy_kib) / 1_024).saturating_add(manner.costs.read));
        if bytes == 0 {
            return match connection.end {
                Some(End::Reset) => Err(Failure::Broken(io::Error::from_raw_os_error(Errno::ECONNRESET as i32))),
                Some(End::Fin) | None => Ok(true),
            };
        }
        connection.inbox -= bytes;
        clock.spend(manner.costs.step);
        let (from, now) = (connection.read, net.instant(clock.now()));
        net.connections.get(id).read += bytes;
        let range = usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(from + bytes).unwrap_or(usize::MAX);
        let flow = self.fetch.received(net.poem().get(range).unwrap_or_default(), now);
        manner.stream.spend(clock);
        let (flow, now) = (flow?, net.instant(clock.now()));
        let patience = if flow == Flow::More { self.fetch.patience(For::Bytes, now) } else { patience };
        self.state = State::Receiving { connection: id, patience };
        Ok(flow == Flow::Enough)
    }

    /// A leg came to its end, and with it the attempt: a poem that no transform changes has one leg.
    fn leg_is_over(
        &mut self,
        result: Result<(), Failure>,
        manner: &Manner<'_>,
        net: &mut Net<'_>,
        clock: &mut Clock,
    ) -> bool {
        let now = net.instant(clock.now());
        let result = match self.fetch.leg_ended(result, now) {
            Ok(true) => Err(Failure::Bug),
            Ok(false) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let State::Connecting { connection, .. } | State::Receiving { connection, .. } = self.state {
            net.leave(connection, clock.now());
        }
        self.state = match self.fetch.ended(result, now) {
            Next::Retry(pause) => State::Pausing { until: clock.now().saturating_add(nanos(pause)) },
            // There is no scribe: nothing is delivered elsewhere.
            Next::Delivery | Next::Settled => State::Settled,
        };
        manner.stream.spend(clock);
        !self.is_settled()
    }

    /// A wake-up, where the model counts it here; the readiness loop counts the sockets that are ready.
    fn count_wakeup(&self, manner: &Manner<'_>) {
        if manner.model != Model::Select {
            self.fetch.job().counts.add_wakeup();
        }
    }

    /// A recv(2) that returns because its limit is over, where it is the one that waits.
    fn count_late_read(&self, manner: &Manner<'_>) {
        if matches!(manner.model, Model::Blocking | Model::Threads) {
            let counts = &self.fetch.job().counts;
            counts.add_read();
            counts.add_wakeup();
        }
    }
}

fn is_late(patience: Patience, net: &Net<'_>, now: Nanos) -> bool {
    patience.until().is_some_and(|until| until <= net.instant(now))
}

//! The life of one poem, the same in every model: attempts, limits, bytes, an end.
//!
//! Nothing here waits or touches a socket. A model asks how long it may wait, waits in its own way, and tells
//! what came of it.
//!
//! An attempt has one leg, to the server of the poem, or a second one, to a transform server. They are alike to a
//! model: connect to [`address`](Fetch::address), send what is [`unsent`](Fetch::unsent) (to the poem's server,
//! nothing), and read until it is enough.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::transform::Exchange;
use super::{Event, Failure, Job, Undelivered};
use crate::address::Address;

/// The first pause before a retry; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One poem on its way.
#[derive(Debug)]
pub(super) struct Fetch {
    job: Arc<Job>,
    index: usize,
    started: Instant,
    attempts: u32,
    bytes: u64,
    settled: bool,
    /// If it is to be transformed.
    exchange: Option<Box<Exchange>>,
}

/// Whether to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Enough,
}

/// What a model is about to wait for.
#[derive(Debug, Clone, Copy)]
pub(super) enum For {
    Connection,
    Bytes,
}

/// How long a wait may last that begins now, and how it fails if it lasts longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    left: Option<Duration>,
    until: Option<Instant>,
    or: fn(Duration) -> Failure,
    limit: Duration,
}

impl Patience {
    /// A `limit` on what began `elapsed` ago.
    fn new(limit: Option<Duration>, elapsed: Duration, or: fn(Duration) -> Failure) -> Self {
        let left = limit.map(|limit| limit.saturating_sub(elapsed));
        // What ends after the end of time never ends.
        let until = left.and_then(|left| Instant::now().checked_add(left));
        Self { left: left.filter(|_| until.is_some()), until, or, limit: limit.unwrap_or(Duration::MAX) }
    }

    fn or_shorter(self, other: Self) -> Self {
        match (self.left, other.left) {
            (Some(this), Some(that)) if this <= that => self,
            (Some(_), None) => self,
            _ => other,
        }
    }

    /// The moment at which it is over.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// How long it lasts; `None`: no limit.
    ///
    /// # Errors
    /// It is over already.
    pub(super) fn left(&self) -> Result<Option<Duration>, Failure> {
        if self.left == Some(Duration::ZERO) { Err(self.lost()) } else { Ok(self.left) }
    }

    /// The wait was interrupted (stopped and continued, for instance) and goes on for what is left of it.
    pub(super) fn go_on(&mut self) {
        self.left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
    }

    /// The failure to report when it is over.
    pub(super) fn lost(&self) -> Failure {
        (self.or)(self.limit)
    }
}

impl Fetch {
    /// The poem's turn has come.
    pub(super) fn begin(job: &Arc<Job>, index: usize) -> Self {
        job.observe(index, &Event::Started);
        Self {
            job: Arc::clone(job),
            index,
            started: Instant::now(),
            attempts: 0,
            bytes: 0,
            settled: false,
            exchange: None,
        }
    }

    /// The server of this leg.
    pub(super) fn address(&self) -> &Address {
        match &self.job.via {
            Some(via) if self.is_asking() => &via.address,
            _ => &self.job.addresses[self.index],
        }
    }

    fn is_asking(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.is_asking())
    }

    pub(super) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// An attempt begins: a connection has to be made.
    pub(super) fn attempt(&mut self) -> Result<(), Failure> {
        self.attempts += 1;
        self.bytes = 0;
        self.exchange = self.job.via.as_ref().map(|via| Box::new(Exchange::new(&via.transform)));
        self.job.observe(self.index, &Event::Attempt(self.attempts));
        self.job.sink.open(self.index)
    }

    /// How long to wait from now.
    pub(super) fn patience(&self, what: For) -> Patience {
        let limits = &self.job.limits;
        let whole = Patience::new(limits.timeout, self.started.elapsed(), Failure::Timeout);
        let phase = match what {
            For::Connection => Patience::new(limits.connect_timeout, Duration::ZERO, Failure::ConnectTimeout),
            For::Bytes => Patience::new(limits.idle_timeout, Duration::ZERO, Failure::IdleTimeout),
        };
        phase.or_shorter(whole)
    }

    /// The connection stands.
    pub(super) fn connected(&self) {
        let event = if self.is_asking() { Event::ConnectedVia } else { Event::Connected };
        self.job.observe(self.index, &event);
    }

    /// What is to be sent before anything can be read; `None`: nothing any more.
    pub(super) fn unsent(&self) -> Option<[IoSlice<'_>; 3]> {
        self.exchange.as_ref()?.unsent()
    }

    /// The first `bytes` of that were taken.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.sent(bytes);
        }
    }

    /// A read brought these bytes.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Result<Flow, Failure> {
        let asking = self.is_asking();
        if !asking {
            self.bytes += bytes.len() as u64;
            self.job.observe(self.index, &Event::Received(bytes.len()));
        }
        if let Some(limit) = self.job.limits.timeout
            && self.started.elapsed() >= limit
        {
            // A poem that flows without end never has to be waited for.
            return Err(Failure::Timeout(limit));
        }
        match &mut self.exchange {
            None => self.job.sink.write(self.index, bytes)?,
            Some(exchange) if asking => {
                if exchange.hear(bytes).map_err(Failure::Reply)? {
                    return Ok(Flow::Enough);
                }
            }
            Some(exchange) => exchange.grow(bytes),
        }
        Ok(Flow::More)
    }

    /// A leg came to an end. Returns whether there is another one.
    pub(super) fn leg_ended(&mut self, result: Result<(), Failure>) -> Result<bool, Failure> {
        let Some((exchange, via)) = self.exchange.as_mut().zip(self.job.via.as_ref()) else {
            return result.map(|()| false);
        };
        if !exchange.is_asking() {
            result?;
            exchange.ask();
            self.job.observe(self.index, &Event::Asking(via));
            return Ok(true);
        }
        // Whatever has become of the transform, the poem is here.
        let reply = match (result, exchange.reply()) {
            (Ok(()), Some(reply)) => Ok(reply),
            (Ok(()), None) if exchange.has_no_reply() => Err(Failure::NoReply),
            (Ok(()), None) => Err(Failure::HalfReply),
            (Err(failure), _) => Err(failure),
        };
        let poem = match &reply {
            Ok(reply) => {
                self.job.observe(self.index, &Event::Changed(reply.len()));
                reply
            }
            Err(failure) => {
                self.job.observe(self.index, &Event::Unchanged { via, failure });
                exchange.poem()
            }
        };
        self.job.sink.write(self.index, poem).map(|()| false)
    }

    /// The attempt came to an end. Returns the pause before the next one, if there is to be one.
    pub(super) fn ended(&mut self, result: Result<(), Failure>) -> Option<Duration> {
        let failure = match result {
            Ok(()) => {
                self.finish();
                return None;
            }
            Err(failure) => failure,
        };
        self.job.sink.void(self.index);
        match self.pause_after(&failure) {
            Some(pause) => {
                self.job.observe(self.index, &Event::Retry { failure: &failure, pause });
                Some(pause)
            }
            None => {
                self.fail(&failure);
                None
            }
        }
    }

    fn pause_after(&self, failure: &Failure) -> Option<Duration> {
        let limits = &self.job.limits;
        if self.attempts > limits.retries || !failure.is_retryable() {
            return None;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.attempts - 1).min(16));
        let pause = doubled.mul_f64(0.5 + fastrand::f64()).min(LONGEST_PAUSE);
        let too_late = limits.timeout.is_some_and(|limit| self.started.elapsed() + pause >= limit);
        (!too_late).then_some(pause)
    }

    fn finish(&mut self) {
        self.settled = true;
        self.exchange = None;
        let lost = self.job.sink.finish(self.index);
        if !lost.iter().any(|(index, _)| *index == self.index) {
            let done = Event::Done { bytes: self.bytes, elapsed: self.started.elapsed() };
            self.job.observe(self.index, &done);
        }
        self.tell_lost(lost);
    }

    fn fail(&mut self, failure: &Failure) {
        self.settled = true;
        self.job.observe(self.index, &Event::Failed(failure));
        self.tell_lost(self.job.sink.abandon(self.index));
    }

    /// Something went wrong in the program: the poem fails, if it has not ended; the others go on.
    pub(super) fn give_up(&mut self) {
        if !self.settled {
            self.fail(&Failure::Bug);
        }
    }

    fn tell_lost(&self, lost: Vec<Undelivered>) {
        for (index, failure) in lost {
            self.job.observe(index, &Event::Failed(&failure));
        }
    }
}

/// A model that lets go of a poem without an end has a bug (a panic, as a rule).
impl Drop for Fetch {
    fn drop(&mut self) {
        self.give_up();
    }
}

//! The life of one poem, common to all models: attempts, limits, bytes, an end.
//!
//! Sans-I/O: nothing here waits, touches a socket, reads a clock or draws a random number of its own. A model asks
//! how long it may wait, waits in its own way, and tells what came of it, and when.
//!
//! An attempt has one leg, to the server of the poem, or several: a poem over HTTP may be elsewhere, and any poem may have to
//! go to a transform server. They are alike to a model: connect to [`address`](Fetch::address), send what is
//! [`unsent`](Fetch::unsent) (to a server that speaks first, nothing), and read until it is enough.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::http::{Download, Heard, Then};
use super::sink::Delivery;
use super::source::Source;
use super::transform::Exchange;
use super::{Event, Failure, Job};
use crate::address::Address;
use crate::candidates::in_order;

/// The first pause before a retry; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The state machine of one poem: what has happened to it, what is to be done next, and for how long to wait.
///
/// Each method belongs to one of two kinds.
///
/// **Steps** tell what has happened, most of them with the moment `now`, which never goes back from one call to the
/// next. They are called in this order, those with a `*` any number of times:
///
/// ```text
///   begin ──▶ attempt ──▶ connected ──▶ sent* ──▶ received* ──▶ leg_ended ──▶ ended ──▶ delivered*
///                ▲        or reused                               │             │
///                │            ▲                                   │             │
///                │            ╰──────── true: another leg ────────╯             │
///                ╰───────────── Retry: another attempt, after this pause ───────╯
/// ```
///
/// Whatever fails goes to the next step that takes a `Result`: a connection that cannot be made, a wait that lasts
/// too long, a broken read or an error of [`received`](Self::received) to [`leg_ended`](Self::leg_ended); an error of
/// [`attempt`](Self::attempt) or of `leg_ended` to [`ended`](Self::ended). [`Flow::Enough`] ends the leg as the end
/// of the stream does.
///
/// **Questions** change nothing, and are asked before each wait: [`address`](Self::address) (whom to connect to),
/// [`takes_kept`](Self::takes_kept) (may it be an old connection), [`candidates`](Self::candidates) (at which of its
/// addresses first), [`unsent`](Self::unsent) (what to write), [`has_room`](Self::has_room) (may more be read) and
/// [`patience`](Self::patience) (how long to wait); and [`keeps`](Self::keeps) before `leg_ended` (may the connection be
/// kept).
///
/// The observers of the job hear of a step within its call. A fetch that is dropped before it is settled has failed
/// with [`Failure::Bug`], at the last moment that it was told of.
#[derive(Debug)]
pub(crate) struct Fetch {
    job: Arc<Job>,
    index: usize,
    started: Instant,
    /// The latest moment that a step has told of.
    now: Instant,
    /// The jitter of the pauses.
    chance: Rng,
    attempts: u32,
    bytes: u64,
    settled: bool,
    /// The requests for the poem, if it comes over HTTP.
    download: Option<Box<Download>>,
    /// The last leg, if the poem is to be transformed.
    exchange: Option<Box<Exchange>>,
    /// The address to which the connection of the latest attempt stood: if there is another attempt, that one failed.
    reached: Option<SocketAddr>,
    /// Why there is no second leg although one was asked for: the poem is too long for it. (Boxed: a million fetches may be
    /// under way, and hardly one has this.)
    unchanged: Option<Box<Failure>>,
}

/// Whether to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    More,
    Enough,
}

/// What a model is about to wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum For {
    Connection,
    Bytes,
    /// For our own disk.
    Room,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another one, after this pause.
    Retry(Duration),
    /// The poem is whole, and delivered elsewhere: [`Fetch::delivered`] will tell when.
    Delivery,
    /// Nothing: it is delivered, or has failed.
    Settled,
}

/// The deadline of one wait, and the failure of a wait that lasts longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    left: Option<Duration>,
    until: Option<Instant>,
    or: fn(Duration) -> Failure,
    limit: Duration,
}

impl Patience {
    /// A `limit` on what `began` before `now`.
    fn new(limit: Option<Duration>, began: Instant, now: Instant, or: fn(Duration) -> Failure) -> Self {
        // What ends after the end of time never ends.
        let until = limit.and_then(|limit| began.checked_add(limit));
        let left = until.map(|until| until.saturating_duration_since(now));
        Self { left, until, or, limit: limit.unwrap_or(Duration::MAX) }
    }

    fn or_shorter(self, other: Self) -> Self {
        match (self.left, other.left) {
            (Some(this), Some(that)) if this <= that => self,
            (Some(_), None) => self,
            _ => other,
        }
    }

    /// The deadline; `None`: no limit.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The time left until the deadline; `None`: no limit.
    ///
    /// # Errors
    /// The deadline has passed.
    pub(crate) fn left(&self) -> Result<Option<Duration>, Failure> {
        if self.left == Some(Duration::ZERO) { Err(self.lost()) } else { Ok(self.left) }
    }

    /// After EINTR (the process was stopped and continued, for instance): the wait goes on for the time that is left
    /// of it `now`.
    pub(crate) fn go_on(&mut self, now: Instant) {
        self.left = self.until.map(|until| until.saturating_duration_since(now));
    }

    /// The failure of a wait whose deadline has passed.
    pub(crate) fn lost(&self) -> Failure {
        (self.or)(self.limit)
    }
}

/// The steps, in their order.
impl Fetch {
    /// The turn of this poem has come.
    pub(crate) fn begin(job: &Arc<Job>, index: usize, now: Instant) -> Self {
        job.observe(index, now, &Event::Started);
        Self {
            job: Arc::clone(job),
            index,
            started: now,
            now,
            chance: chance(job.seed, index),
            attempts: 0,
            bytes: 0,
            settled: false,
            download: None,
            exchange: None,
            reached: None,
            unchanged: None,
        }
    }

    /// An attempt begins. A connection is to be made next.
    ///
    /// # Errors
    /// The sink cannot take the poem.
    pub(crate) fn attempt(&mut self, now: Instant) -> Result<(), Failure> {
        self.attempts += 1;
        self.bytes = 0;
        self.exchange = self.job.via.as_ref().map(|via| Box::new(Exchange::new(&via.transform)));
        self.download = self.source().url().map(|url| Box::new(Download::new(url, &self.job.http)));
        self.unchanged = None;
        self.observe(now, &Event::Attempt(self.attempts));
        self.job.sink.open(self.index)
    }

    /// The connection that is about to be [`connected`](Self::connected) is to this address, of the name's.
    pub(crate) fn reached(&mut self, address: SocketAddr) {
        // A transform that failed is not tried again.
        if !self.is_asking() {
            self.reached = Some(address);
        }
    }

    /// The connection of this leg stands.
    pub(crate) fn connected(&mut self, now: Instant) {
        match self.is_asking() {
            true => self.observe(now, &Event::ConnectedVia),
            false => self.is_connected(false, now),
        }
    }

    /// The connection of this leg is one that was kept.
    pub(crate) fn reused(&mut self, now: Instant) {
        if let Some(download) = &mut self.download {
            download.reused();
        }
        self.is_connected(true, now);
    }

    fn is_connected(&mut self, reused: bool, now: Instant) {
        self.observe(now, &Event::Connected { reused });
        if let Some(download) = &self.download {
            self.job.observe(self.index, now, &Event::Requested(download.url()));
        }
    }

    /// A write took the first `bytes` of what was unsent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        match (&mut self.exchange, &mut self.download) {
            (Some(exchange), _) if exchange.is_asking() => exchange.sent(bytes),
            (_, Some(download)) => download.sent(bytes),
            _ => {}
        }
    }

    /// A read brought these bytes. Takes as long as the sink takes to write them.
    ///
    /// # Errors
    /// The time for the whole poem is up, it is too long, the sink fails, or the reply is malformed. The leg ends with this error.
    pub(crate) fn received(&mut self, bytes: &[u8], now: Instant) -> Result<Flow, Failure> {
        if let Some(limit) = self.job.limits.timeout
            && now.saturating_duration_since(self.started) >= limit
        {
            // A poem that flows without end never has to be waited for.
            return Err(Failure::Timeout(limit));
        }
        if let Some(exchange) = self.exchange.as_mut().filter(|exchange| exchange.is_asking()) {
            return Ok(if exchange.hear(bytes)? { Flow::Enough } else { Flow::More });
        }
        let Some(mut download) = self.download.take() else {
            return self.poem(bytes, now).map(|()| Flow::More);
        };
        let flow = self.reply(&mut download, bytes, now);
        self.download = Some(download);
        flow
    }

    /// Takes a part of an HTTP reply.
    fn reply(&mut self, download: &mut Download, mut bytes: &[u8], now: Instant) -> Result<Flow, Failure> {
        loop {
            match download.hear(&mut bytes, &self.job.http)? {
                Heard::Head { status, length } => {
                    self.observe(now, &Event::Replied { status, length });
                    self.check_size(length.unwrap_or(0))?;
                }
                Heard::Poem(part) => self.poem(part, now)?,
                Heard::More => return Ok(Flow::More),
                Heard::End => return Ok(Flow::Enough),
            }
        }
    }

    /// Takes a part of the poem.
    fn poem(&mut self, bytes: &[u8], now: Instant) -> Result<(), Failure> {
        self.bytes += bytes.len() as u64;
        self.observe(now, &Event::Received(bytes.len()));
        self.check_size(self.bytes)?;
        let Some(mut exchange) = self.exchange.take() else { return self.job.sink.write(self.index, bytes) };
        match exchange.grow(bytes) {
            Ok(()) => self.exchange = Some(exchange),
            Err(failure) => {
                // It goes where it would have gone without a transform.
                self.unchanged = Some(Box::new(failure));
                let (buffer, range) = exchange.into_result();
                self.job.sink.write_all(self.index, buffer, range)?;
                self.job.sink.write(self.index, bytes)?;
            }
        }
        Ok(())
    }

    fn check_size(&self, bytes: u64) -> Result<(), Failure> {
        match self.job.limits.max_size {
            Some(limit) if bytes > limit => Err(Failure::TooLong(limit)),
            _ => Ok(()),
        }
    }

    /// A leg came to an end: of its stream, of its reply, or by a failure. Returns whether there is another leg.
    ///
    /// # Errors
    /// The attempt has failed. (A failed transform is no failure of the attempt.)
    pub(crate) fn leg_ended(&mut self, mut result: Result<(), Failure>, now: Instant) -> Result<bool, Failure> {
        self.now = now;
        if let Some(download) = &mut self.download
            && !self.exchange.as_ref().is_some_and(|exchange| exchange.is_asking())
        {
            match download.end(result, &self.job.http)? {
                Then::Done => result = self.job.sink.learn_name(self.index, download.json()),
                Then::Again | Then::Beside => return Ok(true),
                Then::Redirect => {
                    self.job.observe(self.index, now, &Event::Redirected(download.url()));
                    return Ok(true);
                }
            }
        }
        let Some((exchange, via)) = self.exchange.as_mut().zip(self.job.via.as_ref()) else {
            result?;
            if let Some((failure, via)) = self.unchanged.take().zip(self.job.via.as_ref()) {
                self.job.observe(self.index, now, &Event::Unchanged { via, failure: &failure });
            }
            return Ok(false);
        };
        if !exchange.is_asking() {
            result?;
            exchange.ask();
            self.job.observe(self.index, now, &Event::Asking(via));
            return Ok(true);
        }
        // Whatever has become of the transform, the poem is here.
        let reply = match (result, exchange.reply_len()) {
            (Ok(()), Some(reply)) => Ok(reply),
            (Ok(()), None) if exchange.has_no_reply() => Err(Failure::NoReply),
            (Ok(()), None) => Err(Failure::HalfReply),
            (Err(failure), _) => Err(failure),
        };
        match reply {
            Ok(length) => self.job.observe(self.index, now, &Event::Changed(length)),
            Err(failure) => {
                self.job.observe(self.index, now, &Event::Unchanged { via, failure: &failure });
                exchange.without_reply();
            }
        }
        let Some(exchange) = self.exchange.take() else { return Err(Failure::Bug) };
        let (buffer, range) = exchange.into_result();
        self.job.sink.write_all(self.index, buffer, range).map(|()| false)
    }

    /// The attempt came to an end.
    pub(crate) fn ended(&mut self, result: Result<(), Failure>, now: Instant) -> Next {
        let failure = match result {
            Ok(()) => return self.deliver(now),
            Err(failure) => failure,
        };
        self.job.sink.void(self.index);
        match self.pause_after(failure, now) {
            Ok((failure, pause)) => {
                self.observe(now, &Event::Retry { failure: &failure, pause });
                Next::Retry(pause)
            }
            Err(failure) => {
                self.fail(&failure, now);
                Next::Settled
            }
        }
    }

    /// Something has become of what is delivered elsewhere. Returns whether this poem is settled with that.
    pub(crate) fn delivered(&mut self) -> bool {
        match self.job.sink.delivery(self.index) {
            Some(delivery) => self.settle(delivery),
            None => return false,
        }
        true
    }

    /// After a panic: the poem fails with [`Failure::Bug`] if it is not settled. The other poems go on.
    pub(crate) fn give_up(&mut self) {
        if !self.settled {
            self.fail(&Failure::Bug, self.now);
        }
    }

    /// The run is over before this poem is, which is interrupted: nobody hears of it any more.
    pub(crate) fn interrupt(&mut self) {
        self.settled = true;
    }
}

/// The questions.
impl Fetch {
    pub(crate) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// Where the poem comes from.
    pub(crate) fn source(&self) -> &Source {
        &self.job.sources[self.index]
    }

    /// The server of this leg.
    pub(crate) fn address(&self) -> &Address {
        match (&self.job.via, &self.download) {
            (Some(via), _) if self.is_asking() => &via.address,
            (_, Some(download)) => download.address(&self.job.http),
            _ => self.source().address(),
        }
    }

    /// The server to which a connection will do that has been kept; `None`: it has to be a new one.
    pub(crate) fn takes_kept(&self) -> Option<&Address> {
        let takes = self.download.as_ref().is_some_and(|download| download.takes_kept());
        (takes && !self.is_asking()).then(|| self.address())
    }

    /// The server whose connection may be kept after this leg; `None`: it is to be closed.
    pub(crate) fn keeps(&self) -> Option<&Address> {
        let keeps = self.download.as_ref().is_some_and(|download| download.is_kept());
        (keeps && !self.is_asking()).then(|| self.address())
    }

    /// Whether more may be read. If not, whoever delivers the poems will tell when.
    pub(crate) fn has_room(&self) -> bool {
        self.job.sink.has_room(self.index)
    }

    /// The addresses that were `found` for this leg, in the order in which they are to be tried. They begin after the one
    /// that has failed an earlier attempt: it may be the only one that does.
    pub(crate) fn candidates(&self, found: &[SocketAddr]) -> Vec<SocketAddr> {
        in_order(found, self.reached.filter(|_| !self.is_asking()))
    }

    /// What is to be sent before anything can be read; `None`: nothing, or nothing any more.
    pub(crate) fn unsent(&self) -> Option<[IoSlice<'_>; 3]> {
        match (&self.exchange, &self.download) {
            (Some(exchange), _) if exchange.is_asking() => exchange.unsent(),
            (_, Some(download)) => download.unsent().map(|rest| [rest, &[], &[]].map(IoSlice::new)),
            _ => None,
        }
    }

    /// The deadline of a wait that begins `now`: that of this wait, or that of the whole poem if it is sooner.
    pub(crate) fn patience(&self, what: For, now: Instant) -> Patience {
        let limits = &self.job.limits;
        let whole = Patience::new(limits.timeout, self.started, now, Failure::Timeout);
        let phase = match what {
            For::Connection => Patience::new(limits.connect_timeout, now, now, Failure::ConnectTimeout),
            For::Bytes => Patience::new(limits.idle_timeout, now, now, Failure::IdleTimeout),
            For::Room => whole,
        };
        phase.or_shorter(whole)
    }

    fn is_asking(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.is_asking())
    }
}

impl Fetch {
    fn observe(&mut self, now: Instant, event: &Event<'_>) {
        self.now = now;
        self.job.observe(self.index, now, event);
    }

    /// Exponential backoff with jitter: between half and one and a half times the doubled pause, or as long as the server
    /// has asked for.
    ///
    /// # Errors
    /// There is no retry.
    fn pause_after(&mut self, failure: Failure, now: Instant) -> Result<(Failure, Duration), Failure> {
        let limits = &self.job.limits;
        if self.attempts > limits.retries || !failure.is_retryable() {
            return Err(failure);
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.attempts - 1).min(16));
        let mut pause = doubled.mul_f64(0.5 + self.chance.f64()).min(LONGEST_PAUSE);
        let left = limits.timeout.map(|limit| limit.saturating_sub(now.saturating_duration_since(self.started)));
        if let Some(asked) = failure.retry_after().map(|after| after.from(self.job.date(now))) {
            let than = match left {
                Some(left) if asked >= left => Some("which is longer than --timeout leaves"),
                _ => (asked > limits.retry_after_max).then_some("which is longer than --retry-after-max"),
            };
            if let Some(than) = than {
                let wait = Duration::from_secs(asked.as_secs());
                return Err(Failure::TooFarOff { failure: Box::new(failure), wait, than });
            }
            pause = pause.max(asked);
        }
        if left.is_some_and(|left| pause >= left) { Err(failure) } else { Ok((failure, pause)) }
    }

    /// Delivers the poem.
    fn deliver(&mut self, now: Instant) -> Next {
        self.exchange = None;
        self.download = None;
        self.observe(now, &Event::Whole);
        match self.job.sink.finish(self.index) {
            Some(delivery) => {
                self.settle(delivery);
                Next::Settled
            }
            None => Next::Delivery,
        }
    }

    /// The poem is delivered, if it is not lost. The observers hear of it when the sink has taken it, however long that
    /// took.
    fn settle(&mut self, delivery: Delivery) {
        self.settled = true;
        let whole = self.now;
        if !delivery.lost.iter().any(|(index, _)| *index == self.index) {
            let now = whole + delivery.took;
            let elapsed = now.saturating_duration_since(self.started);
            self.observe(now, &Event::Done { bytes: self.bytes, elapsed });
        }
        self.tell_lost(whole, delivery);
    }

    fn fail(&mut self, failure: &Failure, now: Instant) {
        self.settled = true;
        self.observe(now, &Event::Failed(failure));
        self.tell_lost(now, self.job.sink.abandon(self.index));
    }

    /// Poems of other fetches may be among those that could not be delivered.
    fn tell_lost(&self, now: Instant, Delivery { took, lost }: Delivery) {
        for (index, failure) in lost {
            self.job.observe(index, now + took, &Event::Failed(&failure));
        }
    }
}

/// A model that lets go of a poem without an end has a bug (a panic, as a rule).
impl Drop for Fetch {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The random numbers of one poem: the same for the same seed and index, others for each index.
fn chance(seed: u64, index: usize) -> Rng {
    // Multiples of 2^64 divided by the golden ratio: no two indices have one seed, nor seeds that are alike.
    Rng::with_seed(seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Concurrency, FetchLimits, HttpOptions, Observer, Order, Sink, Task, Via};
    use crate::sync::lock;
    use std::io::{self, Write};
    use std::num::NonZeroUsize;
    use std::path::Path;
    use std::sync::Mutex;

    const MS: Duration = Duration::from_millis(1);

    const UNLIMITED: FetchLimits = FetchLimits {
        connect_timeout: None,
        idle_timeout: None,
        timeout: None,
        max_size: None,
        retries: 0,
        retry_after_max: Duration::from_secs(60),
        concurrency: Concurrency::Together(NonZeroUsize::MIN),
    };

    /// The observer that collects the events of a run, one line each: `TASK EVENT`, or `TASK @MS EVENT`.
    #[derive(Default)]
    struct Told(Mutex<Vec<(usize, Duration, String)>>);

    impl Observer for Told {
        fn observe(&self, task: Task<'_>, at: Duration, event: &Event<'_>) {
            let event = match event {
                Event::Started => "started".to_owned(),
                Event::Attempt(number) => format!("attempt {number}"),
                Event::Connected { reused: false } => "connected".to_owned(),
                Event::Connected { reused: true } => "connected again".to_owned(),
                Event::Requested(url) => format!("requested {url}"),
                Event::Replied { status, length: None } => format!("replied {status}"),
                Event::Replied { status, length: Some(length) } => format!("replied {status}, {length} bytes"),
                Event::Redirected(url) => format!("redirected {url}"),
                // After all else but its end.
                Event::Whole => return,
                Event::Received(bytes) => format!("received {bytes}"),
                Event::Asking(via) => format!("asking {}", via.transform),
                Event::ConnectedVia => "connected via".to_owned(),
                Event::Changed(bytes) => format!("changed {bytes}"),
                Event::Unchanged { failure, .. } => format!("unchanged: {failure}"),
                Event::Retry { failure, .. } => format!("retry: {failure}"),
                Event::Done { bytes, .. } => format!("done {bytes}"),
                Event::Failed(failure) => format!("failed: {failure}"),
            };
            lock(&self.0).push((task.number, at, event));
        }
    }

    /// A run of which nothing is real: not its time, not its sockets, not its stdout.
    struct Run {
        job: Arc<Job>,
        clock: Instant,
        told: Arc<Told>,
        page: Page,
    }

    /// A stdout that refuses what has a `!` in it.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.contains(&b'!') {
                return Err(full());
            }
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Run {
        fn into(limits: FetchLimits, seed: u64, via: bool, sink: impl FnOnce(Page) -> Sink) -> Self {
            Self::of(&["10000", "10001", "10002"], limits, HttpOptions::default(), seed, via, sink)
        }

        /// Two poems over HTTP, on stdout.
        fn over_http(limits: FetchLimits, http: HttpOptions, via: bool) -> Self {
            let sink = |page| Sink::stream(Box::new(page), Order::Completion, 2);
            Self::of(&["http://poems:1/a", "http://poems:1/b"], limits, http, 7, via, sink)
        }

        fn of(
            sources: &[&str],
            limits: FetchLimits,
            http: HttpOptions,
            seed: u64,
            via: bool,
            sink: impl FnOnce(Page) -> Sink,
        ) -> Self {
            let sources: Vec<Source> = sources.iter().map(|text| text.parse().expect("valid")).collect();
            let (told, page, clock) = (Arc::new(Told::default()), Page::default(), Instant::now());
            let via = via.then(|| Via { transform: "shout".to_owned(), address: "11000".parse().expect("valid") });
            let job = Job::new(sources, limits, sink(page.clone()), vec![told.clone()], clock, seed);
            Self { job: Arc::new(job.over_http(http).through(via)), clock, told, page }
        }

        fn new(limits: FetchLimits) -> Self {
            Self::into(limits, 7, false, |_| Sink::discard())
        }

        fn with_seed(limits: FetchLimits, seed: u64) -> Self {
            Self::into(limits, seed, false, |_| Sink::discard())
        }

        fn with_transform(limits: FetchLimits) -> Self {
            Self::into(limits, 7, true, |page| Sink::stream(Box::new(page), Order::Completion, 3))
        }

        fn on_stdout(order: Order) -> Self {
            Self::into(UNLIMITED, 7, false, |page| Sink::stream(Box::new(page), order, 3))
        }

        fn at(&self, ms: u32) -> Instant {
            self.clock + ms * MS
        }

        fn events(&self) -> Vec<String> {
            lock(&self.told.0).iter().map(|(task, _, event)| format!("{task} {event}")).collect()
        }

        fn timed_events(&self) -> Vec<String> {
            lock(&self.told.0).iter().map(|(task, at, event)| format!("{task} @{} {event}", at.as_millis())).collect()
        }

        fn page(&self) -> String {
            String::from_utf8(lock(&self.page.0).clone()).expect("UTF-8")
        }
    }

    fn reset() -> Failure {
        Failure::Broken(io::Error::from_raw_os_error(104))
    }

    fn full() -> io::Error {
        io::Error::from_raw_os_error(28)
    }

    /// The pause, if there is to be another attempt.
    fn pause(next: Next) -> Option<Duration> {
        if let Next::Retry(pause) = next { Some(pause) } else { None }
    }

    /// The pauses of a poem of which every attempt fails, at no cost of time.
    fn pauses(seed: u64, index: usize, retries: u32) -> Vec<Duration> {
        let run = Run::with_seed(FetchLimits { retries, ..UNLIMITED }, seed);
        let mut fetch = Fetch::begin(&run.job, index, run.clock);
        let mut pauses = Vec::new();
        loop {
            fetch.attempt(run.clock).expect("nothing to open");
            match fetch.ended(Err(reset()), run.clock) {
                Next::Retry(pause) => pauses.push(pause),
                Next::Delivery | Next::Settled => return pauses,
            }
        }
    }

    #[test]
    fn events_come_in_their_order_with_the_moments_that_were_told() {
        let run = Run::new(FetchLimits { retries: 1, ..UNLIMITED });
        let mut fetch = Fetch::begin(&run.job, 1, run.at(1));
        fetch.attempt(run.at(2)).expect("nothing to open");
        fetch.connected(run.at(3));
        assert_eq!(fetch.received(b"half a", run.at(4)).expect("nothing wrong"), Flow::More);
        let broken = fetch.leg_ended(Err(reset()), run.at(5)).expect_err("no poem");
        let pause = pause(fetch.ended(Err(broken), run.at(6))).expect("a retry");
        assert!(pause >= 50 * MS && pause < 150 * MS, "{pause:?}");
        fetch.attempt(run.at(200)).expect("nothing to open");
        fetch.connected(run.at(201));
        fetch.received(b"a ", run.at(202)).expect("nothing wrong");
        fetch.received(b"poem", run.at(203)).expect("nothing wrong");
        assert!(!fetch.leg_ended(Ok(()), run.at(204)).expect("a poem"));
        assert_eq!(fetch.ended(Ok(()), run.at(205)), Next::Settled);
        drop(fetch);
        assert_eq!(
            run.timed_events(),
            [
                "2 @1 started",
                "2 @2 attempt 1",
                "2 @3 connected",
                "2 @4 received 6",
                "2 @6 retry: connection reset by peer",
                "2 @200 attempt 2",
                "2 @201 connected",
                "2 @202 received 2",
                "2 @203 received 4",
                "2 @205 done 6",
            ]
        );
    }

    #[test]
    fn an_attempt_begins_after_the_address_that_failed_the_one_before() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let [a, b, c] = ["[::1]:9", "127.0.0.1:9", "[::2]:9"].map(address);
        let found = [a, c, b];
        let run = Run::new(FetchLimits { retries: 9, ..UNLIMITED });
        let mut fetch = Fetch::begin(&run.job, 0, run.clock);
        let refused = || Failure::Connect(io::Error::from_raw_os_error(111));
        // Accepted and reset: the next one. None accepts: the order stays, for it is a circle.
        for (order, reached, failure) in [
            ([a, b, c], Some(a), reset()),
            ([b, c, a], Some(b), Failure::IdleTimeout(MS)),
            ([c, a, b], None, refused()),
            ([c, a, b], Some(a), reset()),
            ([b, c, a], Some(c), reset()),
            ([a, b, c], Some(c), reset()),
            ([a, b, c], None, refused()),
        ] {
            fetch.attempt(run.clock).expect("nothing to open");
            assert_eq!(fetch.candidates(&found), order);
            if let Some(address) = reached {
                fetch.reached(address);
                fetch.connected(run.clock);
            }
            let failure = fetch.leg_ended(Err(failure), run.clock).expect_err("no poem");
            assert!(pause(fetch.ended(Err(failure), run.clock)).is_some());
        }
        assert_eq!(fetch.candidates(&[b]), [b], "there may be others by now");
    }

    #[test]
    fn the_order_of_a_transform_servers_addresses_is_its_own() {
        let run = Run::with_transform(FetchLimits { retries: 1, ..UNLIMITED });
        let both = ["127.0.0.1:9", "127.0.0.2:9"].map(|text| text.parse::<SocketAddr>().expect("an address"));
        let mut fetch = Fetch::begin(&run.job, 0, run.clock);
        fetch.attempt(run.clock).expect("nothing to open");
        fetch.reached(both[0]);
        fetch.connected(run.clock);
        assert!(fetch.leg_ended(Ok(()), run.clock).expect("a poem"));
        assert_eq!(fetch.candidates(&both), both);
    }

    #[test]
    fn pauses_double_within_their_jitter_up_to_ten_seconds() {
        for seed in 0..100 {
            let pauses = pauses(seed, 0, 40);
            assert_eq!(pauses.len(), 40);
            for (pause, doubled) in pauses.iter().zip([100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800]) {
                let (least, most) = (doubled * MS / 2, (doubled * MS * 3 / 2).min(LONGEST_PAUSE));
                assert!((least..=most).contains(pause), "{pause:?} for {doubled} ms");
            }
            assert!(pauses[8..].iter().all(|&pause| pause == LONGEST_PAUSE), "{pauses:?}");
        }
    }

    #[test]
    fn pauses_follow_from_the_seed_and_the_number_of_the_poem() {
        assert_eq!(pauses(7, 1, 5), pauses(7, 1, 5));
        assert_ne!(pauses(7, 1, 5), pauses(8, 1, 5));
        assert_ne!(pauses(7, 1, 5), pauses(7, 2, 5));
        assert_eq!(pauses(7, 1, 0), []);
    }

    #[test]
    fn no_retry_begins_when_the_time_for_the_poem_is_up() {
        let pause = pauses(7, 0, 1)[0];
        let elapsed = 30 * MS;
        for (timeout, is_retried) in [(elapsed + pause, false), (elapsed + pause + Duration::from_nanos(1), true)] {
            let run = Run::new(FetchLimits { retries: 1, timeout: Some(timeout), ..UNLIMITED });
            let mut fetch = Fetch::begin(&run.job, 0, run.clock);
            fetch.attempt(run.clock).expect("nothing to open");
            assert_eq!(
                self::pause(fetch.ended(Err(reset()), run.clock + elapsed)),
                is_retried.then_some(pause),
                "{timeout:?}"
            );
            let last = if is_retried { "1 retry: " } else { "1 failed: " };
            assert_eq!(run.events().last(), Some(&format!("{last}connection reset by peer")));
        }
    }

    #[test]
    fn the_sooner_deadline_ends_a_wait() {
        let limits = |connect: u32, idle: u32, whole: u32| {
            let limit = |ms| (ms > 0).then_some(ms * MS);
            FetchLimits {
                connect_timeout: limit(connect),
                idle_timeout: limit(idle),
                timeout: limit(whole),
                ..UNLIMITED
            }
        };
        let connect = "no connection for 10ms";
        let (idle, whole) = ("no byte for 20ms", "not complete after 100ms");
        for (limits, what, now, until, failure) in [
            (limits(10, 20, 0), For::Connection, 5, Some(15), connect),
            (limits(10, 20, 0), For::Bytes, 5, Some(25), idle),
            (limits(10, 20, 0), For::Bytes, 5_000, Some(5_020), idle),
            (limits(10, 20, 100), For::Connection, 89, Some(99), connect),
            (limits(10, 20, 100), For::Connection, 90, Some(100), connect),
            (limits(10, 20, 100), For::Connection, 91, Some(100), whole),
            (limits(10, 20, 100), For::Bytes, 81, Some(100), whole),
            (limits(0, 0, 100), For::Connection, 60, Some(100), whole),
            (limits(0, 0, 100), For::Bytes, 0, Some(100), whole),
            (limits(0, 20, 0), For::Connection, 60, None, ""),
            (limits(10, 0, 0), For::Bytes, 60, None, ""),
        ] {
            let run = Run::new(limits);
            let fetch = Fetch::begin(&run.job, 0, run.clock);
            let patience = fetch.patience(what, run.at(now));
            assert_eq!(patience.until(), until.map(|ms| run.at(ms)), "{what:?} at {now}");
            let left = patience.left().expect("it has just begun");
            assert_eq!(left, until.map(|ms| (ms - now) * MS), "{what:?} at {now}");
            if until.is_some() {
                assert_eq!(patience.lost().to_string(), failure, "{what:?} at {now}");
            }
        }
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_no_time() {
        let run = Run::new(FetchLimits { idle_timeout: Some(20 * MS), timeout: Some(100 * MS), ..UNLIMITED });
        let fetch = Fetch::begin(&run.job, 0, run.clock);
        for now in [100, 101, 1_000] {
            let failure = fetch.patience(For::Bytes, run.at(now)).left().expect_err("it is over");
            assert_eq!(failure.to_string(), "not complete after 100ms");
        }
        // Stopped and continued.
        let mut patience = fetch.patience(For::Bytes, run.at(10));
        patience.go_on(run.at(29));
        assert_eq!((patience.left().expect("not over"), patience.until()), (Some(MS), Some(run.at(30))));
        patience.go_on(run.at(31));
        assert_eq!(patience.left().expect_err("over").to_string(), "no byte for 20ms");
    }

    #[test]
    fn a_limit_beyond_the_end_of_time_is_none() {
        let forever = Some(Duration::MAX);
        let run = Run::new(FetchLimits { connect_timeout: forever, timeout: forever, ..UNLIMITED });
        let fetch = Fetch::begin(&run.job, 0, run.clock);
        let patience = fetch.patience(For::Connection, run.at(1));
        assert_eq!((patience.until(), patience.left().expect("no limit")), (None, None));
    }

    #[test]
    fn a_poem_that_flows_for_ever_meets_the_timeout() {
        let limits = FetchLimits { idle_timeout: Some(5 * MS), timeout: Some(100 * MS), retries: 9, ..UNLIMITED };
        let run = Run::new(limits);
        let mut fetch = Fetch::begin(&run.job, 0, run.at(1));
        fetch.attempt(run.at(1)).expect("nothing to open");
        fetch.connected(run.at(1));
        for ms in 2..=100 {
            assert_eq!(fetch.received(b"and so on", run.at(ms)).expect("in time"), Flow::More);
        }
        let failure = fetch.received(b"and so on", run.at(101)).expect_err("too late");
        let failure = fetch.leg_ended(Err(failure), run.at(101)).expect_err("no poem");
        assert_eq!(fetch.ended(Err(failure), run.at(101)), Next::Settled);
        assert_eq!(run.timed_events().last().expect("events"), "1 @101 failed: not complete after 100ms");
    }

    #[test]
    fn a_poem_that_is_too_long_fails_at_the_byte_that_is_too_many_and_is_not_tried_again() {
        let run = Run::new(FetchLimits { max_size: Some(10), retries: 9, ..UNLIMITED });
        for (index, pieces, end) in [
            (0, &["0123456789"][..], "1 done 10"),
            (1, &["01234", "56789", "x"], "2 failed: longer than 10 bytes"),
            (2, &["0123456789x"], "3 failed: longer than 10 bytes"),
        ] {
            let mut fetch = Fetch::begin(&run.job, index, run.at(1));
            fetch.attempt(run.at(1)).expect("nothing to open");
            fetch.connected(run.at(1));
            let received = pieces.iter().try_for_each(|piece| fetch.received(piece.as_bytes(), run.at(2)).map(drop));
            let result = fetch.leg_ended(received, run.at(3)).map(drop);
            assert!(matches!(result, Ok(()) | Err(Failure::TooLong(10))));
            assert_eq!(fetch.ended(result, run.at(4)), Next::Settled);
            assert_eq!(run.events().last().expect("an end"), end);
        }
    }

    #[test]
    fn a_poem_that_is_too_long_for_a_transform_is_delivered_as_it_came() {
        const PIECE: usize = 1 << 20;
        for (pieces, unchanged) in [(64, false), (65, true), (70, true)] {
            let run = Run::with_transform(FetchLimits { retries: 3, ..UNLIMITED });
            let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
            fetch.attempt(run.at(1)).expect("nothing to open");
            fetch.connected(run.at(2));
            for number in 0..pieces {
                let piece = vec![b'a' + number % 26; PIECE];
                assert_eq!(fetch.received(&piece, run.at(3)).expect("nothing wrong"), Flow::More);
            }
            let is_asked = fetch.leg_ended(Ok(()), run.at(4)).expect("a poem");
            assert_eq!(is_asked, !unchanged, "{pieces}");
            assert_eq!(fetch.unsent().is_some(), !unchanged);
            if unchanged {
                assert_eq!(fetch.ended(Ok(()), run.at(5)), Next::Settled);
                let last = &run.events()[3 + usize::from(pieces)..];
                let done = format!("1 done {}", usize::from(pieces) * PIECE);
                assert_eq!(last, ["1 unchanged: the poem is longer than 67108864 bytes", &done]);
                let page = run.page();
                assert_eq!(page.len(), usize::from(pieces) * PIECE);
                assert!(page.bytes().step_by(PIECE).zip(0..).all(|(byte, number)| byte == b'a' + number % 26));
            }
        }
    }

    /// A fetch that is connected to the transform server, with all of its request unsent.
    fn asking(run: &Run) -> Fetch {
        let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
        fetch.attempt(run.at(1)).expect("nothing to open");
        assert_eq!((fetch.address().port(), fetch.unsent().is_some()), (10_000, false));
        fetch.connected(run.at(2));
        fetch.received(b"a po", run.at(3)).expect("nothing wrong");
        fetch.received(b"em", run.at(4)).expect("nothing wrong");
        assert!(fetch.leg_ended(Ok(()), run.at(5)).expect("a poem"));
        assert_eq!(fetch.address().port(), 11_000);
        fetch.connected(run.at(6));
        fetch
    }

    /// Sends all of the request, so many bytes at a time.
    fn send(fetch: &mut Fetch, at_a_time: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(parts) = fetch.unsent() {
            let unsent = parts.iter().flat_map(|part| part.iter().copied());
            let taken: Vec<u8> = unsent.take(at_a_time).collect();
            fetch.sent(taken.len());
            sent.extend(taken);
        }
        sent
    }

    const ASKED: [&str; 7] = [
        "1 started",
        "1 attempt 1",
        "1 connected",
        "1 received 4",
        "1 received 2",
        "1 asking shout",
        "1 connected via",
    ];

    #[test]
    fn a_transform_is_a_second_leg_however_its_bytes_are_cut() {
        const REPLY: &[u8] = b"7:A POEM.,";
        for cut in 1..REPLY.len() {
            let run = Run::with_transform(UNLIMITED);
            let mut fetch = asking(&run);
            assert_eq!(send(&mut fetch, cut), b"12:shout.a poem,");
            let (first, rest) = REPLY.split_at(cut);
            assert_eq!(fetch.received(first, run.at(7)).expect("so far so good"), Flow::More, "{cut}");
            assert_eq!(fetch.received(rest, run.at(8)).expect("a reply"), Flow::Enough, "{cut}");
            assert!(!fetch.leg_ended(Ok(()), run.at(9)).expect("the last leg"));
            assert_eq!(fetch.ended(Ok(()), run.at(10)), Next::Settled);
            assert_eq!(run.events(), [&ASKED[..], &["1 changed 7", "1 done 6"]].concat());
            assert_eq!(run.page(), "A POEM.");
        }
    }

    #[test]
    fn whatever_becomes_of_the_transform_the_poem_is_kept() {
        type Reply = (&'static [u8], Option<fn() -> Failure>);
        let refused = || Failure::Connect(io::Error::from_raw_os_error(111));
        let silent = || Failure::IdleTimeout(20 * MS);
        let cases: [(Reply, &str); 6] = [
            ((b"", None), "no reply"),
            ((b"7:A PO", None), "the reply breaks off"),
            ((b"7", None), "the reply breaks off"),
            ((b"7:A PO", Some(reset)), "connection reset by peer"),
            ((b"", Some(refused)), "connection refused"),
            ((b"", Some(silent)), "no byte for 20ms"),
        ];
        for ((bytes, failure), why) in cases {
            let run = Run::with_transform(FetchLimits { retries: 3, ..UNLIMITED });
            let mut fetch = asking(&run);
            send(&mut fetch, 100);
            if !bytes.is_empty() {
                assert_eq!(fetch.received(bytes, run.at(7)).expect("so far so good"), Flow::More);
            }
            let result = failure.map_or(Ok(()), |failure| Err(failure()));
            assert!(!fetch.leg_ended(result, run.at(8)).expect("the poem is here"));
            assert_eq!(fetch.ended(Ok(()), run.at(9)), Next::Settled, "{why}");
            let unchanged = format!("1 unchanged: {why}");
            assert_eq!(run.events(), [&ASKED[..], &[&unchanged, "1 done 6"]].concat());
            assert_eq!(run.page(), "a poem");
        }
    }

    #[test]
    fn a_malformed_reply_ends_its_leg_and_keeps_the_poem() {
        let run = Run::with_transform(UNLIMITED);
        let mut fetch = asking(&run);
        send(&mut fetch, 100);
        let failure = fetch.received(b"07:A POEM,", run.at(7)).expect_err("no netstring");
        assert!(matches!(failure, Failure::Reply(_)), "{failure}");
        assert!(!fetch.leg_ended(Err(failure), run.at(8)).expect("the poem is here"));
        fetch.ended(Ok(()), run.at(9));
        let events = run.events();
        assert!(events[7].starts_with("1 unchanged: malformed reply: "), "{events:?}");
        assert_eq!((events[8].as_str(), run.page().as_str()), ("1 done 6", "a poem"));
    }

    #[test]
    fn a_poem_that_breaks_off_is_not_transformed_and_its_retry_begins_anew() {
        let run = Run::with_transform(FetchLimits { retries: 1, ..UNLIMITED });
        let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
        fetch.attempt(run.at(0)).expect("nothing to open");
        fetch.connected(run.at(0));
        fetch.received(b"half", run.at(0)).expect("nothing wrong");
        let failure = fetch.leg_ended(Err(reset()), run.at(0)).expect_err("no poem");
        assert!(pause(fetch.ended(Err(failure), run.at(0))).is_some());
        fetch.attempt(run.at(200)).expect("nothing to open");
        fetch.received(b"whole", run.at(201)).expect("nothing wrong");
        assert!(fetch.leg_ended(Ok(()), run.at(202)).expect("a poem"));
        assert_eq!(send(&mut fetch, 100), b"11:shout.whole,");
    }

    /// Sends the request that is due, and takes a reply in pieces of so many bytes. Returns what `leg_ended` says.
    fn exchange(fetch: &mut Fetch, run: &Run, reply: &[u8], size: usize) -> Result<bool, Failure> {
        fetch.connected(run.at(1));
        send(fetch, 1_000);
        let mut result = Ok(());
        for piece in reply.chunks(size) {
            match fetch.received(piece, run.at(2)) {
                Ok(Flow::More) => {}
                Ok(Flow::Enough) => break,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            }
        }
        fetch.leg_ended(result, run.at(3))
    }

    const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na poem";

    #[test]
    fn a_poem_over_http_is_asked_for_and_a_redirect_is_another_leg() {
        let moved = b"HTTP/1.1 302 Found\r\nLocation: //others/c?d\r\nContent-Length: 4\r\n\r\ngone";
        for size in 1..=moved.len() {
            let run = Run::over_http(UNLIMITED, HttpOptions::default(), false);
            let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
            fetch.attempt(run.at(0)).expect("nothing to open");
            assert_eq!((fetch.address().to_string(), fetch.keeps()), ("poems:1".to_owned(), None));
            assert!(exchange(&mut fetch, &run, moved, size).expect("another leg"));
            assert_eq!(fetch.address().to_string(), "others:80");
            assert!(!exchange(&mut fetch, &run, REPLY, size).expect("a poem"));
            assert_eq!(fetch.ended(Ok(()), run.at(4)), Next::Settled);
            let received: Vec<String> = REPLY[REPLY.len() - 6..].iter().map(|_| "1 received 1".to_owned()).collect();
            let told = run.events();
            let before = [
                "1 started",
                "1 attempt 1",
                "1 connected",
                "1 requested http://poems:1/a",
                "1 replied 302",
                "1 redirected http://others/c?d",
                "1 connected",
                "1 requested http://others/c?d",
                "1 replied 200, 6 bytes",
            ];
            assert_eq!(told[..before.len()], before, "{size}");
            assert!(size > 1 || told[before.len()..told.len() - 1] == received, "{told:?}");
            assert_eq!((told.last().map(String::as_str), run.page().as_str()), (Some("1 done 6"), "a poem"));
        }
    }

    #[test]
    fn a_connection_that_was_closed_meanwhile_is_replaced_and_that_counts_as_no_attempt() {
        let endings: [fn() -> Result<(), Failure>; 2] = [|| Ok(()), || Err(reset())];
        for end in endings {
            let run = Run::over_http(UNLIMITED, HttpOptions::default(), false);
            let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
            fetch.attempt(run.at(0)).expect("nothing to open");
            assert_eq!(fetch.takes_kept().map(ToString::to_string).as_deref(), Some("poems:1"));
            fetch.reused(run.at(1));
            send(&mut fetch, 10);
            assert!(fetch.leg_ended(end(), run.at(2)).expect("once more"));
            assert_eq!((fetch.takes_kept(), fetch.unsent().is_some()), (None, true));
            assert!(!exchange(&mut fetch, &run, REPLY, 100).expect("a poem"));
            assert_eq!(fetch.ended(Ok(()), run.at(4)), Next::Settled);
            let told = run.events();
            assert_eq!(told[1..3], ["1 attempt 1", "1 connected again"]);
            assert_eq!(told.last().map(String::as_str), Some("1 done 6"));

            // On a new one it is a failure; and so it is when a byte has come.
            for (is_reused, heard) in [(false, &b""[..]), (true, b"H")] {
                let mut fetch = Fetch::begin(&run.job, 1, run.at(0));
                fetch.attempt(run.at(0)).expect("nothing to open");
                if is_reused {
                    fetch.reused(run.at(1));
                } else {
                    fetch.connected(run.at(1));
                }
                send(&mut fetch, 10);
                if !heard.is_empty() {
                    assert_eq!(fetch.received(heard, run.at(1)).expect("part of a head"), Flow::More);
                }
                let failure = fetch.leg_ended(end(), run.at(2)).expect_err("no poem");
                assert!(failure.is_retryable(), "{failure}");
            }
        }
    }

    #[test]
    fn a_server_that_asks_to_be_left_alone_is_unless_that_is_too_long() {
        let hour = 3_600;
        for (retry_after, timeout, expected) in [
            ("1", None, "retry 1000"),
            ("60", None, "retry 60000"),
            ("0", None, "retry"),
            ("nonsense", None, "retry"),
            ("61", None, "in 1m 1s, which is longer than --retry-after-max"),
            ("99999999999999999999", None, "which is longer than --retry-after-max"),
            ("20", Some(hour), "retry 20000"),
            ("20", Some(20), "in 20s, which is longer than --timeout leaves"),
            ("Sun, 06 Nov 1994 08:49:47 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", None, "retry 10000"),
            ("Sun, 06 Nov 1994 08:49:47 GMT", None, "retry"),
        ] {
            let limits = FetchLimits { retries: 1, timeout: timeout.map(Duration::from_secs), ..UNLIMITED };
            let run = Run::over_http(limits, HttpOptions::default(), false);
            let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
            fetch.attempt(run.at(0)).expect("nothing to open");
            let reply = format!("HTTP/1.1 503 Busy\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n");
            let failure = exchange(&mut fetch, &run, reply.as_bytes(), 7).expect_err("no poem");
            match fetch.ended(Err(failure), run.at(3)) {
                Next::Retry(pause) if expected == "retry" => assert!(pause < 150 * MS, "{retry_after}: {pause:?}"),
                Next::Retry(pause) => assert_eq!(format!("retry {}", pause.as_millis()), expected, "{retry_after}"),
                Next::Settled => {
                    let last = run.events().pop().expect("an event");
                    assert!(last.starts_with("1 failed: HTTP 503 Busy, and asks to come back in "), "{last}");
                    assert!(last.ends_with(expected), "{last}");
                }
                Next::Delivery => panic!("it has failed"),
            }
        }
    }

    #[test]
    fn a_poem_over_http_that_is_too_long_fails_before_its_first_byte_if_it_says_so() {
        let limits = FetchLimits { max_size: Some(5), ..UNLIMITED };
        for (head, events) in [("Content-Length: 6", 5), ("Transfer-Encoding: chunked", 6)] {
            let run = Run::over_http(limits.clone(), HttpOptions::default(), false);
            let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
            fetch.attempt(run.at(0)).expect("nothing to open");
            let reply = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n6\r\na poem\r\n0\r\n\r\n");
            let failure = exchange(&mut fetch, &run, reply.as_bytes(), 1_000).expect_err("too long");
            assert!(matches!(failure, Failure::TooLong(5)), "{failure}");
            assert_eq!(run.events().len(), events, "{:?}", run.events());
        }
    }

    #[test]
    fn a_poem_over_http_is_transformed_as_others_are() {
        let run = Run::over_http(UNLIMITED, HttpOptions::default(), true);
        let mut fetch = Fetch::begin(&run.job, 0, run.at(0));
        fetch.attempt(run.at(0)).expect("nothing to open");
        assert!(exchange(&mut fetch, &run, REPLY, 5).expect("a poem"));
        assert_eq!((fetch.address().port(), fetch.takes_kept(), fetch.keeps()), (11_000, None, None));
        assert!(!exchange(&mut fetch, &run, b"7:A POEM.,", 3).expect("a reply"));
        assert_eq!((fetch.ended(Ok(()), run.at(5)), run.page().as_str()), (Next::Settled, "A POEM."));
    }

    #[test]
    fn only_what_lies_with_the_other_side_is_tried_again() {
        let error = || io::Error::from_raw_os_error(111);
        for (failure, is_retried) in [
            (Failure::Resolve(error()), true),
            (Failure::Connect(error()), true),
            (reset(), true),
            (Failure::ConnectTimeout(MS), true),
            (Failure::IdleTimeout(MS), true),
            (Failure::Timeout(MS), false),
            (Failure::TooLong(10), false),
            (Failure::Deliver { place: "stdout".to_owned(), error: full() }, false),
            (Failure::no_socket(error()), false),
            (Failure::no_thread(error()), false),
            (Failure::NoReply, true),
            (Failure::Bug, false),
        ] {
            let run = Run::new(FetchLimits { retries: 1, ..UNLIMITED });
            let mut fetch = Fetch::begin(&run.job, 0, run.clock);
            fetch.attempt(run.clock).expect("nothing to open");
            let word = if is_retried { "retry" } else { "failed" };
            let line = format!("1 {word}: {failure}");
            assert_eq!(pause(fetch.ended(Err(failure), run.clock)).is_some(), is_retried, "{line}");
            assert_eq!(run.events().last(), Some(&line));
        }
    }

    #[test]
    fn a_poem_that_cannot_be_put_anywhere_fails_at_once() {
        let run = Run::into(FetchLimits { retries: 3, ..UNLIMITED }, 7, false, |_| {
            let addresses = ["1", "2", "3"].map(|text| text.parse().expect("valid"));
            Sink::files(Path::new("/dev/null/poems"), &addresses, None)
        });
        let mut fetch = Fetch::begin(&run.job, 0, run.clock);
        let failure = fetch.attempt(run.clock).expect_err("no directory");
        assert_eq!(fetch.ended(Err(failure), run.clock), Next::Settled);
        let lines = ["1 started", "1 attempt 1", "1 failed: cannot write /dev/null/poems: not a directory"];
        assert_eq!(run.events(), lines);
    }

    #[test]
    fn a_poem_that_cannot_be_delivered_fails_and_the_others_go_on() {
        const FULL: &str = "cannot write stdout: no space left on device";
        let fetch = |run: &Run, index: usize, poem: &[u8]| {
            let mut fetch = Fetch::begin(&run.job, index, run.clock);
            fetch.attempt(run.clock).expect("nothing to open");
            let result = fetch.received(poem, run.clock).map(|_| ());
            let result = fetch.leg_ended(result, run.clock).map(|_| ());
            fetch.ended(result, run.clock);
        };
        let run = Run::on_stdout(Order::Completion);
        fetch(&run, 0, b"first!");
        assert_eq!(run.events()[2..], ["1 received 6", &format!("1 failed: {FULL}")]);

        let run = Run::on_stdout(Order::Request { retries: false, by_line: false });
        for (index, poem) in [(1, &b"second!"[..]), (2, b"third"), (0, b"first ")] {
            fetch(&run, index, poem);
        }
        let is_end = |event: &String| event.contains(" done ") || event.contains(" failed: ");
        let ends: Vec<String> = run.events().into_iter().filter(is_end).collect();
        assert_eq!(ends, ["2 done 7", "3 done 5", "1 done 6", &format!("2 failed: {FULL}")]);
        assert_eq!(run.page(), "first third");
    }

    #[test]
    fn a_fetch_that_is_dropped_without_an_end_fails_once_as_a_bug() {
        let run = Run::new(FetchLimits { retries: 3, ..UNLIMITED });
        let mut fetch = Fetch::begin(&run.job, 0, run.at(1));
        fetch.attempt(run.at(2)).expect("nothing to open");
        fetch.connected(run.at(3));
        drop(fetch);
        let bug = "failed: internal error; the other poems are not affected";
        assert_eq!(run.timed_events(), ["1 @1 started", "1 @2 attempt 1", "1 @3 connected", &format!("1 @3 {bug}")]);

        let mut fetch = Fetch::begin(&run.job, 1, run.at(4));
        fetch.give_up();
        fetch.give_up();
        drop(fetch);
        let mut fetch = Fetch::begin(&run.job, 2, run.at(5));
        fetch.attempt(run.at(6)).expect("nothing to open");
        assert_eq!(fetch.ended(Ok(()), run.at(7)), Next::Settled);
        drop(fetch);
        assert_eq!(
            run.timed_events()[4..],
            ["2 @4 started", &format!("2 @4 {bug}"), "3 @5 started", "3 @6 attempt 1", "3 @7 done 0"]
        );
    }
}

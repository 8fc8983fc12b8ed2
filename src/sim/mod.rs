//! Simulation: a run of a client in virtual time, without a socket, a thread or a sleep.
//!
//! What decides is what decides in a live run: on one side `Fetch`, the life of a poem, with its
//! limits and retries, and `Turns`; on the other side the servers' [`Plan`] and the cursor in its
//! schedule. Between them is a [`Link`], and around the client a machine: [`Costs`] says what each call takes, and there are so
//! many processors. An event scheduler takes all of them from one event to the next.
//!
//! | file | |
//! |---|---|
//! | `queue.rs` | the events to come, in order of time |
//! | `link.rs` | latency, jitter, loss |
//! | `server.rs`, `handshake.rs`, `connection.rs`, `listen_queue.rs` | the servers' half |
//! | `lane.rs` | the client's half: one poem |
//! | `stream.rs` | where poems are written, if they are |
//! | `run.rs` | the models of waiting, and the processors |
//! | `costs.rs`, [`calibration`], [`fit`] | what each call costs, and how that is measured |
//!
//! Chance follows from the seed, order from the queue: the same scenario gives the same report, to the byte. A run ends after
//! 292 years of virtual time at the latest; poems that are under way then are interrupted.

pub mod calibration;
mod connection;
mod costs;
pub mod fit;
mod handshake;
mod lane;
mod link;
mod listen_queue;
#[cfg(test)]
mod properties;
mod queue;
mod run;
mod server;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use self::costs::{Costs, Field};
pub use self::link::Link;
use self::queue::Nanos;
pub use self::run::run;
use crate::client::{FetchLimits, Order, Source};
use crate::pace::Plan;
use crate::poem::Poem;
use crate::sync::lock;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The servers.
    pub servers: Servers,
    /// The link to each of them.
    pub link: Link,
    /// The poems: where each comes from. The first ones come from the first server, and so on.
    pub sources: Arc<[Source]>,
    /// The limits of each fetch.
    pub limits: FetchLimits,
    /// The order in which poems are written to a stream; `None`: they are thrown away as they come.
    pub order: Option<Order>,
    /// The machine of the client.
    pub machine: Machine,
    /// The seed of the link's chance and of the pauses before retries.
    pub seed: u64,
    /// Whether the report has an entry for each read.
    pub with_events: bool,
}

/// Servers that are all alike but for their seeds.
#[derive(Debug, Clone)]
pub struct Servers {
    /// How many there are.
    pub number: NonZeroU32,
    /// How they serve.
    pub kind: Kind,
    /// When they send how much, and with which faults.
    pub plan: Plan,
    /// What they send.
    pub poem: Poem,
    /// The length of the listen queue.
    pub backlog: u32,
    /// Listen with a queue that is full.
    pub never_accept: bool,
    /// Refuse connections for so long.
    pub listen_after: Duration,
    /// Read nothing of what clients send: wait for them to leave.
    pub never_read: bool,
}

/// How a server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One client at a time, the others wait in the listen queue: `slowpoetry`.
    Slow,
    /// All side by side: `fastpoetry`.
    Fast,
}

/// The machine of a client.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What each call takes.
    pub costs: Costs,
    /// Processors.
    pub processors: NonZeroU32,
    /// The most threads at one time.
    pub threads: NonZeroU32,
    /// Address space of a thread's stack, in bytes.
    pub stack: u64,
}

/// Who hears of each event, in order of time.
pub struct Narrator {
    tell: Box<Narrate>,
    /// What has not been told: a stretch of work is known to its end when it begins, and others happen meanwhile.
    untold: Mutex<BTreeMap<(Duration, usize), String>>,
}

/// What a narrator calls with the moment of an event and its sentence.
type Narrate = dyn Fn(Duration, &str) + Send + Sync;

impl Narrator {
    /// Calls `tell` for each event, with its virtual time.
    pub fn new(tell: impl Fn(Duration, &str) + Send + Sync + 'static) -> Self {
        Self { tell: Box::new(tell), untold: Mutex::default() }
    }

    /// Keeps an event until it is time to tell it.
    fn note(&self, at: Duration, text: String) {
        let mut untold = lock(&self.untold);
        // Of those at the same time, the first one stays the first one.
        let number = untold.range((at, 0)..=(at, usize::MAX)).next_back().map_or(0, |((_, last), _)| last + 1);
        untold.insert((at, number), text);
    }

    /// Tells what has happened until then: nothing that is sooner will be noted any more.
    fn tell_until(&self, now: Duration) {
        let mut untold = lock(&self.untold);
        while let Some(first) = untold.first_entry().filter(|first| first.key().0 <= now) {
            (self.tell)(first.key().0, first.get());
            first.remove();
        }
    }
}

impl fmt::Debug for Narrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Narrator")
    }
}

/// The server of a poem, if so many poems come from so many servers: the first ones come from the first one. All are
/// counted from 0.
pub fn server_of(poem: u32, servers: u32, poems: u32) -> u32 {
    let server = u64::from(poem) * u64::from(servers) / u64::from(poems.max(1));
    u32::try_from(server).unwrap_or(u32::MAX)
}

/// The clocks of timers: poll(2) counts milliseconds, and so do the runtime's timers and the kernel's for a socket's limit.
const TICK: Nanos = 1_000_000;

/// An event of a run.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// Something of a connection.
    Net(u32, connection::At),
    /// A timer of a poem goes off.
    Timer(u32),
    /// A thread has been started for a poem.
    Begun(u32),
    /// It is at its end.
    Settled(u32),
    /// A processor begins with a thread.
    Run(u32, After),
    /// It is done with it for now.
    Pause(u32),
}

/// What a processor was about before it begins with a thread.
#[derive(Debug, Clone, Copy)]
enum After {
    /// The same thread.
    Itself,
    /// Another one.
    Others,
    /// Nothing: it was idle.
    Idle,
}

/// The time within one stretch of work: when it began, and what it has taken so far.
#[derive(Debug)]
struct Clock {
    began: Nanos,
    spent: Nanos,
    waited: Nanos,
}

impl Clock {
    fn new(began: Nanos) -> Self {
        Self { began, spent: 0, waited: 0 }
    }

    fn now(&self) -> Nanos {
        self.began.saturating_add(self.spent).saturating_add(self.waited)
    }

    /// Lets time pass that is not worked, until that moment if it is not past.
    fn wait_until(&mut self, then: Nanos) {
        self.waited = self.waited.saturating_add(then.saturating_sub(self.now()));
    }

    fn spend(&mut self, time: Nanos) {
        self.spent = self.spent.saturating_add(time);
    }
}

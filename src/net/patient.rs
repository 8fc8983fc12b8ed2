//! Connections that wait for their peers to say something, without a task: one epoll(7) set a worker.
//!
//! A task, and an entry in the runtime's reactor, cost more than a kilobyte; an entry here costs a fifth of that. It is for
//! peers that may keep a server waiting on purpose: those whose request comes byte by byte, or not at all.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

use super::connections::{Connections, Waiting};
use super::handler::FastPath;

/// Events taken from the kernel at once, and connections resumed before other tasks get their turn.
const BATCH: usize = 64;

/// The connections of one worker whose peers are waited for.
pub(super) struct Patient<H: FastPath> {
    connections: Connections<H>,
    /// From the first of them on.
    set: Option<AsyncFd<OwnedFd>>,
    waiting: HashMap<u64, Waiting<H::State>>,
    /// When each is resumed at the latest.
    due: BTreeSet<(Instant, u64)>,
    /// The number of the last one.
    last: u64,
    /// Of the first that is due.
    sleep: Pin<Box<Sleep>>,
}

impl<H: FastPath> Patient<H> {
    /// No connection waits yet. To be called on the worker's runtime.
    pub(super) fn new(connections: Connections<H>) -> Self {
        Self {
            connections,
            set: None,
            waiting: HashMap::new(),
            due: BTreeSet::new(),
            last: 0,
            sleep: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// Resumes each when its peer has said something, or when it is due, until the server is asked to stop; then all that
    /// are left get tasks.
    pub(super) async fn run(mut self, mut new: UnboundedReceiver<Waiting<H::State>>) {
        let stop = self.connections.engine().stop.clone();
        loop {
            if let Some((first, _)) = self.due.first()
                && self.sleep.deadline() != (*first).into()
            {
                self.sleep.as_mut().reset((*first).into());
            }
            tokio::select! {
                biased;
                () = stop.closing() => break,
                Some(waiting) = new.recv() => self.add(waiting),
                () = readable(self.set.as_ref()) => self.resume_ready().await,
                () = &mut self.sleep, if !self.due.is_empty() => self.resume_due().await,
            }
        }
        new.close();
        while let Some(waiting) = new.recv().await {
            self.connections.finish(waiting);
        }
        let left: Vec<u64> = self.waiting.keys().copied().collect();
        for number in left {
            if let Some(waiting) = self.remove(number) {
                self.connections.finish(waiting);
            }
        }
    }

    /// Waits for one more. If the system has no room for that, it gets a task.
    fn add(&mut self, waiting: Waiting<H::State>) {
        let number = self.last + 1;
        let added = self.set().and_then(|set| {
            let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
            Ok(epoll::add(set, &waiting.accepted.socket, epoll::EventData::new_u64(number), events)?)
        });
        if added.is_err() {
            return self.connections.finish(waiting);
        }
        self.last = number;
        self.due.insert((waiting.due, number));
        self.waiting.insert(number, waiting);
    }

    /// The set, which is made when it is needed.
    fn set(&mut self) -> io::Result<&OwnedFd> {
        if self.set.is_none() {
            let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            // Deprecated for types that might close their descriptor early; a descriptor keeps itself.
            #[expect(deprecated, reason = "the replacement is unsafe, and needed only for other types")]
            let set = AsyncFd::with_interest(set, Interest::READABLE)?;
            self.set = Some(set);
        }
        self.set.as_ref().map(AsyncFd::get_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Takes one out of the set.
    fn remove(&mut self, number: u64) -> Option<Waiting<H::State>> {
        let waiting = self.waiting.remove(&number)?;
        self.due.remove(&(waiting.due, number));
        if let Some(set) = &self.set {
            // It has been added.
            let _ = epoll::delete(set.get_ref(), &waiting.accepted.socket);
        }
        Some(waiting)
    }

    async fn resume_ready(&mut self) {
        loop {
            let ready = self.ready();
            if ready.is_empty() {
                return;
            }
            ready.into_iter().for_each(|number| self.resume(number));
            yield_now().await;
        }
    }

    /// Those whose peers have said something, or are gone; not all of them at once.
    fn ready(&self) -> Vec<u64> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(BATCH);
        if let Some(set) = &self.set {
            // What fails now is tried again when they are due.
            let _ = epoll::wait(set.get_ref(), spare_capacity(&mut events), Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        }
        events.iter().map(|event| event.data.u64()).collect()
    }

    async fn resume_due(&mut self) {
        let now = Instant::now();
        let mut resumed = 0;
        while let Some(&(due, number)) = self.due.first()
            && due <= now
        {
            self.resume(number);
            resumed += 1;
            if resumed % BATCH == 0 {
                yield_now().await;
            }
        }
    }

    fn resume(&mut self, number: u64) {
        if let Some(Waiting { accepted, state, .. }) = self.remove(number)
            && let Some(waiting) = self.connections.resume(accepted, state)
        {
            self.connections.wait(waiting);
        }
    }
}

/// Waits until something is ready in this set, if there is one.
async fn readable(set: Option<&AsyncFd<OwnedFd>>) {
    match set {
        Some(set) => match set.readable().await {
            // What is ready is asked for until there is no more.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

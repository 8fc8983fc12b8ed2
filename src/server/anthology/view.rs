//! One look at the sources: what was there at once, and what comes while somebody looks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep_until;

use super::standing::Standing;
use super::store::{Admission, Arrival, Shared, Store};
use super::together::Together;
use crate::net::Stop;

/// A look at some sources. To drop it is to leave.
pub(super) struct View {
    shared: Arc<Shared>,
    pub(super) started: SystemTime,
    pub(super) begun: Instant,
    seen: Vec<Seen>,
    coming: Together<Standing>,
    /// Whether something of it was fetched for it.
    pub(super) is_fetched: bool,
    /// When nobody was waited for any longer, though not all had come.
    gave_up: Option<Instant>,
}

/// A source, and what it is in this view.
pub(super) struct Seen {
    pub(super) store: Arc<Store>,
    /// `None`: it is waited for.
    pub(super) standing: Option<Standing>,
    arrival: Option<Arc<Arrival>>,
}

/// What a view goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This one is known now.
    Come(usize),
    /// All are known.
    All,
    /// Nobody waits any longer: the others are late.
    Late,
    /// The server stops: the others are late.
    Stopping,
}

impl View {
    /// Looks at these sources, and asks for all that has to be fetched.
    pub(super) fn open(stores: &[Arc<Store>], shared: &Arc<Shared>) -> Self {
        shared.totals.pages.fetch_add(1, Relaxed);
        shared.totals.viewers.fetch_add(1, Relaxed);
        let (started, begun) = (SystemTime::now(), Instant::now());
        let (mut coming, mut fetches) = (Together::new(), Vec::new());
        let look = |(index, store): (usize, &Arc<Store>)| {
            let (standing, arrival) = match store.admit(shared, &mut fetches) {
                Admission::Here(standing) => (Some(standing), None),
                Admission::Coming(arrival) => (None, Some(Arc::new(arrival))),
            };
            if let Some(arrival) = arrival.clone() {
                coming.add(index, async move { arrival.standing().await });
            }
            Seen { store: Arc::clone(store), standing, arrival }
        };
        let seen = stores.iter().enumerate().map(look).collect();
        shared.spawn(fetches);
        let is_fetched = coming.len() > 0;
        Self { shared: Arc::clone(shared), started, begun, seen, coming, is_fetched, gave_up: None }
    }

    /// All sources, in their order.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// How many are waited for.
    pub(super) fn awaited(&self) -> usize {
        self.coming.len()
    }

    /// Whether something of all can be shown.
    pub(super) fn shows_something(&self) -> bool {
        self.seen.iter().any(|seen| seen.standing.as_ref().is_some_and(Standing::is_shown))
    }

    /// When it was over: when the last one had come, or nobody waited any longer. Whoever looks may take the page much later.
    pub(super) fn over(&self) -> Instant {
        let ended = self.seen.iter().filter_map(|seen| match seen.standing.as_ref()? {
            Standing::Come(edition) => edition.record.ended,
            Standing::Failed(_, record) => record.ended,
            Standing::Fresh(_) | Standing::Aged(..) | Standing::Late(_) => None,
        });
        ended.chain(self.gave_up).max().unwrap_or(self.begun).max(self.begun)
    }

    /// Waits for the next source, but not for longer than so long after the beginning, nor longer than the server goes
    /// on.
    pub(super) async fn next(&mut self, limit: Duration, stop: &Stop) -> Next {
        let until = self.begun.checked_add(limit).unwrap_or_else(|| self.begun + FOR_EVER);
        tokio::select! {
            biased;
            next = self.coming.next() => match next {
                None => Next::All,
                Some((index, standing)) => {
                    self.seen[index].standing = Some(standing);
                    self.seen[index].arrival = None;
                    Next::Come(index)
                }
            },
            () = stop.closed() => {
                self.give_up(Instant::now());
                Next::Stopping
            }
            () = sleep_until(until.into()) => {
                let mut coming = self.give_up(until);
                // They are for the next view.
                self.shared.fetches.spawn(async move { while coming.next().await.is_some() {} });
                Next::Late
            }
        }
    }

    /// Waits for all of them, within the same limits.
    pub(super) async fn wait(&mut self, limit: Duration, stop: &Stop) -> Next {
        loop {
            match self.next(limit, stop).await {
                Next::Come(_) => {}
                end => return end,
            }
        }
    }

    /// Waits for nobody any more. Returns those who were waited for.
    fn give_up(&mut self, at: Instant) -> Together<Standing> {
        self.gave_up = Some(at);
        for seen in &mut self.seen {
            if let Some(arrival) = seen.arrival.take() {
                seen.standing = Some(Standing::Late(arrival.record()));
            }
        }
        std::mem::replace(&mut self.coming, Together::new())
    }
}

/// A day, to which no limit has to be known exactly.
const FOR_EVER: Duration = Duration::from_secs(86_400);

impl Drop for View {
    fn drop(&mut self) {
        self.shared.totals.viewers.fetch_sub(1, Relaxed);
    }
}

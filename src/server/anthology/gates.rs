//! How many fetches there may be at a time: so many together, and so many on each host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::address::Address;
use crate::sync::lock;

/// All gates.
#[derive(Debug)]
pub(super) struct Gates {
    all: Arc<Semaphore>,
    per_host: usize,
    hosts: Mutex<HashMap<Address, Arc<Semaphore>>>,
}

/// The way to one host. Who waits here longest is the next.
#[derive(Debug)]
pub(super) struct Gate {
    host: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// The right to have a connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _host: SemaphorePermit<'a>,
    _all: SemaphorePermit<'a>,
}

impl Gates {
    pub(super) fn new(all: usize, per_host: usize) -> Self {
        let most = Semaphore::MAX_PERMITS;
        Self { all: Arc::new(Semaphore::new(all.min(most))), per_host: per_host.min(most), hosts: Mutex::default() }
    }

    /// The gates to these hosts, one for each. Those that are there stay the same; those to no host of these are
    /// forgotten, but by who has them.
    pub(super) fn to<'h>(&self, hosts: impl Iterator<Item = &'h Address>) -> Vec<Gate> {
        let known = &mut *lock(&self.hosts);
        let mut now = HashMap::new();
        let gates = hosts.map(|host| {
            let before = || known.get(host).cloned().unwrap_or_else(|| Arc::new(Semaphore::new(self.per_host)));
            let host = now.entry(host.clone()).or_insert_with(before);
            Gate { host: Arc::clone(host), all: Arc::clone(&self.all) }
        });
        let gates = gates.collect();
        *known = now;
        gates
    }
}

impl Gate {
    /// Waits until there is a way: first on this host, so that who waits for that takes nobody else's place.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let closed = "the semaphore is never closed";
        let host = self.host.acquire().await.expect(closed);
        Turn { _host: host, _all: self.all.acquire().await.expect(closed) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn turn(gate: &Gate) -> Option<Turn<'_>> {
        match Box::pin(gate.turn()).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_host_has_so_many_connections_and_all_have_so_many() {
        let gates = Gates::new(3, 2);
        let hosts: Vec<Address> = ["1", "1", "2"].iter().map(|host| host.parse().expect("an address")).collect();
        let [first, same, other] = &gates.to(hosts.iter())[..] else { panic!("three gates") };
        let two = (turn(first).expect("free"), turn(same).expect("free"));
        assert!(turn(first).is_none() && turn(same).is_none());
        let third = turn(other).expect("free");
        assert!(turn(other).is_none(), "three are under way");
        drop(third);
        assert!(turn(other).is_some());
        // After a reload it is the same host.
        let again = &gates.to(hosts.iter())[0];
        assert!(turn(again).is_none());
        drop(two);
        assert!(turn(again).is_some());
    }
}

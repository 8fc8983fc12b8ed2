//! RLIMIT_NOFILE, shared out: descriptors for connections, and those that are kept free for what serves all of them.
//!
//! accept(2) takes a descriptor for a client, and then the handler may need another one to serve it: to connect to
//! upstream, to look up its name, to read a file again. If clients may take the last one, none of them is served. So the
//! servers of a process ask, before they begin, for what they will need ([`Opens`]), and together accept no more than the
//! limit has room for; the other connections wait in the listen queue.
//!
//! Mostly the limit is far higher than all that they could need, and then nothing is counted.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::info;

use crate::sync::lock;
use crate::units::count;

/// What getaddrinfo(3) has open at most: a file, and sockets to two name servers.
pub const LOOK_UP: u32 = 3;

/// A limit that is certainly enough for a connection.
const AMPLE: u64 = 1_024;

/// Kept free for what the process opens now and then: a log file, a socket to the service manager.
const SPARE: u64 = 2;

/// Descriptors that a handler opens, beside those of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opens {
    /// For each connection, at most.
    pub each: u32,
    /// For all of them, at most.
    pub beside: u32,
}

/// The descriptors of a process, for those of its servers that have clones of this.
#[derive(Debug, Clone, Default)]
pub struct Descriptors(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Asked>,
    /// What is left for connections, once the first server begins. `None`: more than they can use.
    left: OnceLock<Option<Semaphore>>,
}

/// What all servers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Asked {
    /// With as many connections as they may have.
    by_connections: u64,
    beside: u64,
    /// The most that one connection needs.
    largest: u64,
}

impl Asked {
    fn add(&mut self, opens: Opens, max_clients: usize) {
        let by_one = u64::from(opens.each) + 1;
        let by_all = u64::try_from(max_clients).unwrap_or(u64::MAX).saturating_mul(by_one);
        self.by_connections = self.by_connections.saturating_add(by_all);
        self.beside += u64::from(opens.beside);
        self.largest = self.largest.max(by_one);
    }

    fn left(&self, limit: u64, in_use: u64) -> u64 {
        limit.saturating_sub(in_use).saturating_sub(self.beside).saturating_sub(SPARE)
    }

    /// How many connections may use, of so many of which some are in use already. `None`: more than they can.
    fn share(&self, limit: u64, in_use: u64) -> Option<usize> {
        // One connection is always tried.
        let left = self.left(limit, in_use).max(self.largest).min(Semaphore::MAX_PERMITS as u64);
        (left < self.by_connections).then(|| usize::try_from(left).unwrap_or(usize::MAX))
    }
}

impl Descriptors {
    /// A server will need these. To be called by all of them before the first one begins, when they have all that they
    /// need before their first connection.
    ///
    /// # Errors
    /// There is none for a single connection.
    pub(super) fn ask(&self, opens: Opens, max_clients: usize) -> io::Result<()> {
        let mut asked = lock(&self.0.asked);
        asked.add(opens, max_clients);
        let limit = limit();
        // To count those in use is for limits that may be too low.
        if limit < AMPLE && asked.left(limit, in_use()) < asked.largest {
            return Err(io::Error::other(format!(
                "the limit of open files is {limit}, which leaves none for a client"
            )));
        }
        Ok(())
    }

    /// All that is not for connections is open now. Says so if there are too few.
    pub(super) fn settle(&self, opens: Opens, max_clients: usize) {
        let asked = *lock(&self.0.asked);
        let limit = limit();
        let left = self.0.left.get_or_init(|| asked.share(limit, in_use()).map(Semaphore::new));
        let Some(left) = left else { return };
        let clients = left.available_permits() / by_one(opens) as usize;
        // A few less of very many are not worth a word.
        if clients < max_clients - max_clients / 10 {
            let room = count(clients as u64, "client");
            info!(clients, limit, "Room for {room} at once, not {max_clients}: the limit of open files is {limit}");
        }
    }

    /// Those for one connection, if there are any; `None` within: they are not counted.
    pub(super) fn try_take(&self, opens: Opens) -> Option<Option<SemaphorePermit<'_>>> {
        match self.left() {
            None => Some(None),
            Some(left) => left.try_acquire_many(by_one(opens)).ok().map(Some),
        }
    }

    /// Those for one connection, when there are any; `None`: they are not counted.
    pub(super) async fn take(&self, opens: Opens) -> Option<SemaphorePermit<'_>> {
        Some(self.left()?.acquire_many(by_one(opens)).await.expect("the semaphore is never closed"))
    }

    /// Gives back those of a connection.
    pub(super) fn give(&self, opens: Opens) {
        if let Some(left) = self.left() {
            left.add_permits(by_one(opens) as usize);
        }
    }

    fn left(&self) -> Option<&Semaphore> {
        self.0.left.get()?.as_ref()
    }
}

fn by_one(opens: Opens) -> u32 {
    opens.each.saturating_add(1)
}

/// RLIMIT_NOFILE.
fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// How many descriptors are in use; proc_pid_fd(5).
fn in_use() -> u64 {
    // The directory itself is open meanwhile. Where there is no /proc, a server of ours has hardly more than this.
    fs::read_dir("/proc/self/fd").map_or(64, |entries| entries.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_server_without_a_descriptor_for_a_client_is_told_so() {
        for (opens, limit, in_use, has_room) in [
            (PLAIN, 17, 14, true),
            (PLAIN, 16, 14, false),
            (DIALS, 22, 14, true),
            (DIALS, 21, 14, false),
            (PLAIN, 3, 14, false),
        ] {
            let mut asked = Asked::default();
            asked.add(opens, 10);
            assert_eq!(asked.left(limit, in_use) >= asked.largest, has_room, "{opens:?} {limit}");
        }
    }

    const PLAIN: Opens = Opens { each: 0, beside: 0 };
    const DIALS: Opens = Opens { each: 1, beside: 4 };

    #[test]
    fn connections_get_what_is_left_when_all_else_is_there() {
        for (servers, limit, in_use, expected) in [
            (&[(PLAIN, 10_000)][..], 1 << 20, 14, None),
            (&[(PLAIN, 10_000)], 10_016, 14, None),
            (&[(PLAIN, 10_000)], 10_015, 14, Some(9_999)),
            (&[(PLAIN, 10_000)], 24, 14, Some(8)),
            (&[(DIALS, 10_000)], 24, 14, Some(4)),
            (&[(DIALS, 2)], 24, 14, None),
            (&[(PLAIN, 3), (DIALS, 2)], 24, 14, Some(4)),
            (&[(PLAIN, 10), (DIALS, 10), (DIALS, 10)], 64, 24, Some(30)),
            (&[(PLAIN, 10)], 4, 14, Some(1)),
            (&[(DIALS, 10)], 16, 14, Some(2)),
            (&[(DIALS, usize::MAX), (PLAIN, usize::MAX)], 1_024, 24, Some(994)),
        ] {
            let mut asked = Asked::default();
            for (opens, max_clients) in servers {
                asked.add(*opens, *max_clients);
            }
            assert_eq!(asked.share(limit, in_use), expected, "{servers:?} of {limit}");
        }
    }

    #[test]
    fn those_of_a_connection_come_back() {
        let descriptors = Descriptors::default();
        descriptors.0.left.set(Some(Semaphore::new(5))).expect("not settled yet");
        let taken = [DIALS, DIALS].map(|opens| descriptors.try_take(opens).flatten().map(SemaphorePermit::forget));
        assert_eq!(taken, [Some(()), Some(())]);
        assert!(descriptors.try_take(DIALS).is_none() && descriptors.try_take(PLAIN).is_some());
        descriptors.give(DIALS);
        assert!(descriptors.try_take(DIALS).is_some());
    }

    #[test]
    fn what_is_open_is_counted() {
        crate::test_process::alone("net::descriptors::tests::what_is_open_is_counted", || {
            let before = in_use();
            let files = [(); 3].map(|()| File::open("/dev/null").expect("a file"));
            assert_eq!(in_use(), before + 3);
            drop(files);
            assert_eq!(in_use(), before);
        });
    }
}

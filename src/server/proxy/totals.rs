//! What a proxy has done so far.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a client was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Served from memory.
    Hit,
    /// Began a fetch.
    Miss,
    /// Joined a fetch.
    Join,
    /// Served an aged poem from memory.
    Stale,
}

/// Clients by how they were answered, and the fetches that took.
#[derive(Debug, Default)]
pub(super) struct Totals {
    by_role: [AtomicU64; 4],
    pub(super) aborts: AtomicU64,
    /// Of the aborts: clients that held up others.
    pub(super) let_go: AtomicU64,
    pub(super) fetches: AtomicU64,
    pub(super) complete: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) canceled: AtomicU64,
}

impl Totals {
    pub(super) fn of(&self, role: Role) -> &AtomicU64 {
        &self.by_role[role as usize]
    }

    /// Clients by how they were answered, by name.
    pub(super) fn answers(&self) -> [(&'static str, u64); 5] {
        let of = |role| self.of(role).load(Relaxed);
        [
            ("hit", of(Role::Hit)),
            ("miss", of(Role::Miss)),
            ("join", of(Role::Join)),
            ("stale", of(Role::Stale)),
            ("abort", self.aborts.load(Relaxed)),
        ]
    }

    /// Fetches by outcome, by name.
    pub(super) fn ended_fetches(&self) -> [(&'static str, u64); 3] {
        let Self { complete, failed, canceled, .. } = self;
        [("complete", complete), ("failed", failed), ("canceled", canceled)]
            .map(|(outcome, count)| (outcome, count.load(Relaxed)))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Join => "JOIN",
            Self::Stale => "STALE",
        })
    }
}

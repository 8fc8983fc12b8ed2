//! RLIMIT_NOFILE, the limit of open files: what many sockets run into first.

use std::fmt;
use std::str::FromStr;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, and returns the limit that holds now.
///
/// The soft limit is low (1024, as a rule) for the sake of programs that call select(2), which fails beyond FD_SETSIZE.
/// No program of ours does.
pub fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// A soft limit of open files, for another program that may call select(2).
#[derive(Debug, Clone, Copy)]
pub struct SoftLimit(u64);

impl SoftLimit {
    /// The one that holds now; without one that can be known, the usual one.
    pub fn now() -> Self {
        Self(getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft))
    }

    /// Makes it that of this process.
    pub fn restore(self) {
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            // Cannot fail: it is not beyond the hard one.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, self.0.min(hard), hard);
        }
    }
}

impl fmt::Display for SoftLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SoftLimit {
    type Err = <u64 as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

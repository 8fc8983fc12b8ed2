//! RLIMIT_NOFILE, the limit of open files: what many sockets run into first.

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

//! What makes a program a service: the parts, each of use alone.
//!
//! - [`detach`]: daemonizing: a new session in the background, once everything listens
//! - [`pid_file`]: the lock that keeps a second process out, and names the first
//! - [`log_file`]: a log that outlives rotation and full disks
//! - [`privileges`]: root until the ports are bound, and never again
//! - [`systemd`]: readiness, watchdog, sockets that are open already
//!
//! In a program they come in this order, each before something that it could not do or would undo later:
//!
//! 1. [`Detached::find`](detach::Detached::find): before anything is opened that a new session changes
//! 2. [`inherited_listeners`](systemd::inherited_listeners): before other descriptors could be taken for theirs
//! 3. [`PidFile::create`](pid_file::PidFile::create), [`LogFile::open`](log_file::LogFile::open), bind: as root, with
//!    relative paths; the log only of a service that does not run already
//! 4. [`Identity::assume`](privileges::Identity::assume): before threads are started
//! 5. [`settle`](detach::Detached::settle): when all paths are absolute
//! 6. [`ready`](detach::Detached::ready), [`State::Ready`](systemd::State::Ready): when every socket listens

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub mod detach;
pub mod log_file;
pub mod pid_file;
pub mod privileges;
pub mod systemd;

/// Whether `path` names this open file: stat(2) and fstat(2) give the same device and inode.
fn names(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

//! The writer of a recording.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use tracing::error;

use crate::errors::reason;
use crate::pace::recording::Entry;
use crate::sync::lock;

/// A file to which a [recording](crate::pace::recording) is written, a line for each event as it happens.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// None after a failed write(2): a recording with a hole would be a lie.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Bytes written, up to the end of the last whole line.
    size: u64,
}

impl Recorder {
    /// Opens and locks a file for a new recording. Its old content stays until the recording [starts](Self::start): a
    /// server that cannot start for another reason destroys nothing.
    ///
    /// # Errors
    /// The file cannot be opened for writing, or another server has locked it (flock(2)).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        if file.metadata()?.is_file() {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(io::Error::other("another server records into it")),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(Self { path: path.to_owned(), open: Mutex::new(Some(Open { file, size: 0 })) })
    }

    /// Empties the file (ftruncate(2)).
    ///
    /// # Errors
    /// The file cannot be emptied.
    pub fn start(&self) -> io::Result<()> {
        match lock(&self.open).as_ref() {
            Some(Open { file, .. }) if file.metadata()?.is_file() => file.set_len(0),
            _ => Ok(()),
        }
    }

    /// The time of day of a moment in the past, for an entry.
    pub(super) fn time(moment: Instant) -> String {
        let now = SystemTime::now();
        humantime::format_rfc3339_micros(now.checked_sub(moment.elapsed()).unwrap_or(now)).to_string()
    }

    /// Appends an entry. A failure ends the recording, after its last whole line, but not the server.
    pub(super) fn write(&self, entry: &Entry) {
        let mut open = lock(&self.open);
        let Some(Open { file, size }) = open.as_mut() else { return };
        let line = entry.line();
        match file.write_all(line.as_bytes()) {
            Ok(()) => *size += line.len() as u64,
            Err(error) => {
                error!("Cannot write {}: {}; the recording ends here", self.path.display(), reason(&error));
                // Fails for a pipe or a device, which have no length.
                let _ = file.set_len(*size);
                *open = None;
            }
        }
    }

    /// Whether every entry so far has been written.
    pub fn is_whole(&self) -> bool {
        lock(&self.open).is_some()
    }
}

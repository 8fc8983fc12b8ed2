//! Writes down what a server really did.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use tracing::error;

use crate::reason::{lock, reason};
use crate::recording::Entry;

/// A [recording](crate::recording) in the making, a line for each event as it happens.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// None when the file could not be written: a recording with a hole would be a lie.
    file: Mutex<Option<File>>,
}

impl Recorder {
    /// Begins a new recording in this file.
    ///
    /// # Errors
    /// It cannot be written, or another server writes it (flock(2)).
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        if file.metadata()?.is_file() {
            match file.try_lock() {
                Ok(()) => file.set_len(0)?,
                Err(TryLockError::WouldBlock) => return Err(io::Error::other("another server records into it")),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(Self { path: path.to_owned(), file: Mutex::new(Some(file)) })
    }

    /// The time of day for an entry.
    pub(super) fn time() -> String {
        humantime::format_rfc3339_micros(SystemTime::now()).to_string()
    }

    /// Adds an entry. A failure ends the recording, not the server.
    pub(super) fn write(&self, entry: &Entry) {
        let mut file = lock(&self.file);
        let Some(open) = file.as_mut() else { return };
        if let Err(error) = open.write_all(entry.line().as_bytes()) {
            error!("Cannot write {}: {}; the recording ends here", self.path.display(), reason(&error));
            *file = None;
        }
    }

    /// Whether everything has been written so far.
    pub fn is_whole(&self) -> bool {
        lock(&self.file).is_some()
    }
}

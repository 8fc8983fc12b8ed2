//! The writer of a recording.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime};

use tracing::error;

use crate::errors::reason;
use crate::net::Departures;
use crate::pace::Departure;
use crate::pace::recording::{Entry, Happening};
use crate::sync::lock;
use crate::units::micros;

/// A file to which a [recording](crate::pace::recording) is written, a line for each event as it happens.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// None after a failed write(2): a recording with a hole would be a lie.
    open: Mutex<Option<Open>>,
    /// From the start of the recording.
    departures: OnceLock<Arc<Departures>>,
    /// The clients that may still leave, by the number of the connection, and since when they are there.
    present: Mutex<HashMap<u64, Instant>>,
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
        Ok(Self {
            path: path.to_owned(),
            open: Mutex::new(Some(Open { file, size: 0 })),
            departures: OnceLock::new(),
            present: Mutex::default(),
        })
    }

    /// Empties the file (ftruncate(2)), and watches clients from now on.
    ///
    /// # Errors
    /// The file cannot be emptied; or the system gives no thread or no descriptor.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        match lock(&self.open).as_ref() {
            Some(Open { file, .. }) if file.metadata()?.is_file() => file.set_len(0)?,
            _ => {}
        }
        let recorder = Arc::downgrade(self);
        let departures = Departures::watch("recorder", move |connection, by| {
            if let Some(recorder) = recorder.upgrade() {
                recorder.leave(connection, by, Instant::now());
            }
        })?;
        // Two doors have one recording.
        let _ = self.departures.set(departures);
        Ok(())
    }

    /// Records when this client leaves, whose connection was accepted at the moment `since`.
    pub(super) fn watch(&self, connection: u64, since: Instant, socket: impl AsFd) {
        let Some(departures) = self.departures.get() else { return };
        lock(&self.present).insert(connection, since);
        if let Err(error) = departures.add(socket, connection) {
            error!("Cannot watch connection {connection}: {}; when its client leaves is not recorded", reason(&error));
        }
    }

    /// Watches this client no longer.
    pub(super) fn forget(&self, connection: u64) {
        lock(&self.present).remove(&connection);
    }

    /// Records who has left by now.
    pub(super) fn catch_up(&self) {
        if let Some(departures) = self.departures.get() {
            departures.catch_up();
        }
    }

    /// Records that this client has left, if it was there still.
    pub(super) fn leave(&self, connection: u64, by: Departure, now: Instant) {
        // Held: the connection's end is not recorded in between.
        let mut present = lock(&self.present);
        if let Some(since) = present.remove(&connection) {
            let at_us = micros(now.saturating_duration_since(since));
            self.write(&Entry { connection, at_us, event: Happening::Left { by } });
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

    /// Writes what has happened by now, and returns whether all of it could be written.
    pub fn finish(&self) -> bool {
        self.catch_up();
        lock(&self.open).is_some()
    }
}

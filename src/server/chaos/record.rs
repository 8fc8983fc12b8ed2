//! What clients get, written down.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crate::net::Connection;
use crate::net::relay::Witness;
use crate::pace::Ending;
use crate::pace::recording::{Entry, Happening};
use crate::server::recorder::Recorder;
use crate::units::micros;

/// What a client gets, for the recording. The end is written once.
pub(super) struct Record {
    recorder: Arc<Recorder>,
    connection: u64,
    accepted: Instant,
    has_ended: AtomicBool,
}

impl Record {
    /// A connection that was accepted at the moment `now`.
    pub(super) fn begin(recorder: &Arc<Recorder>, number: u64, connection: &Connection, now: Instant) -> Self {
        let (recorder, has_ended) = (Arc::clone(recorder), AtomicBool::new(false));
        let record = Self { recorder, connection: number, accepted: now, has_ended };
        record.write(Happening::Accept { peer: Some(connection.peer().to_string()), time: Some(Recorder::time(now)) });
        record.recorder.watch(number, now, connection.stream());
        record
    }

    fn write(&self, event: Happening) {
        let at_us = match event {
            Happening::Accept { .. } => 0,
            _ => micros(self.accepted.elapsed()),
        };
        self.recorder.write(&Entry { connection: self.connection, at_us, event });
    }

    /// How the server ends it, unless that is written.
    pub(super) fn end(&self, ending: &io::Result<Ending>) {
        if self.has_ended.swap(true, Relaxed) {
            return;
        }
        if !matches!(ending, Ok(Ending::Hang)) {
            self.recorder.forget(self.connection);
        }
        self.write(match ending {
            Ok(how) => (*how).into(),
            Err(error) if error.kind() == io::ErrorKind::Other || error.kind() == io::ErrorKind::TimedOut => {
                Happening::Rst
            }
            Err(_) => Happening::Gone,
        });
    }
}

impl Witness for Record {
    fn sent(&self, bytes: u64) {
        self.write(Happening::Send { bytes });
    }

    fn ended(&self) {
        self.end(&Ok(Ending::Fin));
    }
}

impl Drop for Record {
    /// A connection that is dropped is reset.
    fn drop(&mut self) {
        self.end(&Ok(Ending::Rst));
    }
}

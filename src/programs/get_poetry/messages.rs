//! The messages of a run: each event as a line of the log.

use std::mem;
use std::sync::Mutex;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::cli::nearest;
use crate::client::{Event, Failure, Observer, Task};
use crate::report::{Limit, Status};
use crate::sync::lock;
use crate::transforms;
use crate::units::{count, human, micros};

/// The observer that writes the log.
pub(super) struct Messages {
    /// Whether the start of each poem is told, too. Bars take the place of that.
    tell_starts: bool,
    /// Held while a message is written.
    voice: Mutex<()>,
}

impl Messages {
    pub(super) fn new(tell_starts: bool) -> Self {
        Self { tell_starts, voice: Mutex::default() }
    }

    /// Waits for the message that is being written, and lets no other one begin.
    ///
    /// Nobody may say a word after this: the lock is never released (its guard is leaked), and a fetch that wants to
    /// say something waits for the process to end.
    pub(super) fn fall_silent(&self) {
        mem::forget(lock(&self.voice));
    }
}

impl Observer for Messages {
    fn observe(&self, task: Task<'_>, at: Duration, event: &Event<'_>) {
        if matches!(event, Event::Received(_)) && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Task { number, source: address } = task;
        let at_us = micros(at);
        let _voice = lock(&self.voice);
        match event {
            Event::Started if !self.tell_starts => {}
            Event::Started => info!(task = number, at_us, %address, "Task {number}: get poetry from: {address}"),
            Event::Attempt(1) => {}
            Event::Attempt(attempt) => {
                debug!(task = number, at_us, %address, attempt, "Task {number}: attempt {attempt}");
            }
            Event::Connected { reused: false } => {
                debug!(task = number, at_us, %address, "Task {number}: connected to {}", address.address());
            }
            Event::Connected { reused: true } => {
                debug!(task = number, at_us, %address, "Task {number}: has a kept connection");
            }
            Event::Requested(url) => debug!(task = number, at_us, %address, "Task {number}: asking for {url}"),
            Event::Replied { status, length: None } => {
                debug!(task = number, at_us, %address, http_status = status, "Task {number}: HTTP {status}");
            }
            Event::Replied { status, length: Some(length) } => {
                let all = count(*length, "byte");
                debug!(task = number, at_us, %address, http_status = status, length, "Task {number}: HTTP {status}, {all} of poetry");
            }
            Event::Redirected(url) => debug!(task = number, at_us, %address, "Task {number}: redirected to {url}"),
            Event::Whole => {}
            Event::Received(bytes) => {
                let got = count(*bytes as u64, "byte");
                debug!(task = number, at_us, %address, bytes, "Task {number}: got {got} of poetry from {address}");
            }
            Event::Asking(via) => {
                debug!(task = number, at_us, "Task {number}: asking {} for {}", via.address, via.transform);
            }
            Event::ConnectedVia => debug!(task = number, at_us, "Task {number}: connected for the transform"),
            Event::Changed(bytes) => {
                let reply = count(*bytes as u64, "byte");
                debug!(task = number, at_us, bytes, "Task {number}: transformed into {reply}");
            }
            Event::Unchanged { via, failure } => {
                let (transform, status, limit) = (&via.transform, failure.status().word(), limit(failure));
                error!(
                    task = number, at_us, %address, transform, status, limit,
                    "Task {number}: {transform} failed: {}: {failure}{}; keeping the poem as it was",
                    via.address, hint(failure, transform)
                );
            }
            Event::Retry { failure, pause } => {
                let (pause, status, limit) = (human(*pause), failure.status().word(), limit(failure));
                warn!(task = number, at_us, %address, status, limit, "Task {number}: {address}: {failure}; trying again in {pause}");
            }
            Event::Done { bytes, elapsed } => {
                let (elapsed_us, time, got) = (micros(*elapsed), human(*elapsed), count(*bytes, "byte"));
                info!(
                    task = number, at_us, %address, bytes, elapsed_us,
                    "Task {number}: got {got} of poetry from {address} in {time}"
                );
            }
            // Nothing is wrong with anybody.
            Event::Failed(failure) if failure.status() == Status::NotFound => {
                let status = failure.status().word();
                info!(task = number, at_us, %address, status, "Task {number}: not found: {address}: {failure}");
            }
            Event::Failed(failure) => {
                let (status, limit) = (failure.status().word(), limit(failure));
                error!(task = number, at_us, %address, status, limit, "Task {number}: failed: {address}: {failure}");
            }
        }
    }
}

/// What may be wrong with the name of a transform: a server says nothing to one that it does not know.
fn hint(failure: &Failure, transform: &str) -> String {
    let known = || transforms::ALL.iter().map(|known| known.name.to_owned());
    match (failure, nearest(transform, known())) {
        (Failure::NoReply, _) if known().any(|known| known == transform) => String::new(),
        (Failure::NoReply, Some(known)) => format!(" (no transform that it knows? A similar one is '{known}')"),
        (Failure::NoReply, None) => {
            format!(
                " (no transform that it knows? Those of transformedpoetry are {})",
                known().collect::<Vec<_>>().join(", ")
            )
        }
        _ => String::new(),
    }
}

/// The limit that ran out, as a field, if one did.
fn limit(failure: &Failure) -> Option<&'static str> {
    failure.limit().map(Limit::word)
}

//! What signals ask of a daemon, and what its service manager hears of it.

use std::sync::{Arc, Mutex, OnceLock};

use tracing::{error, info, warn};

use super::running::Running;
use crate::cli::journal::Journal;
use crate::cli::stopping::Request;
use crate::daemon::log_file::LogFile;
use crate::daemon::systemd::{Notifier, State};
use crate::errors::reason;
use crate::programs::reporter::Marks;
use crate::programs::service::Reload;
use crate::sync::lock;

/// Where the log is.
#[derive(Clone)]
pub(super) enum Log {
    File(LogFile),
    Stderr(Journal),
}

/// Does what signals ask of a daemon.
pub(super) fn on_request(
    services: Arc<Vec<Running>>,
    log: Log,
    manager: Arc<Manager>,
    marks: Arc<OnceLock<Marks>>,
) -> impl Fn(Request) + Send + Sync + 'static {
    move |request| match request {
        Request::Stop => manager.stopping(),
        Request::Report => services.iter().for_each(|it| it.span.in_scope(|| it.service.report(&it.counts))),
        Request::Reload => {
            let is_told = manager.tell_in_between(State::Reloading);
            let mut outcomes = vec![reopen(&log)];
            for (number, it) in services.iter().enumerate() {
                let outcome = it.span.in_scope(|| it.service.reload());
                if let (Reload::Done, Some(marks)) = (outcome, marks.get()) {
                    marks.add(number, it.service.reload_mark());
                }
                outcomes.push(outcome);
            }
            match reloaded(&outcomes) {
                Ok(all) => info!("{all}"),
                Err(not_all) => warn!("{not_all}"),
            }
            if is_told {
                manager.tell_in_between(State::Ready);
            }
        }
    }
}

fn reopen(log: &Log) -> Reload {
    let Log::File(log) = log else { return Reload::Nothing };
    match log.reopen() {
        Ok(()) => Reload::Done,
        Err(error) => {
            error!("Cannot open the log file again: {}; going on in the old one", reason(&error));
            Reload::Failed
        }
    }
}

/// What is to be said of a reload as a whole, after what each has said of itself.
fn reloaded(outcomes: &[Reload]) -> Result<&'static str, &'static str> {
    let has = |outcome| outcomes.contains(&outcome);
    match (has(Reload::Done), has(Reload::Failed)) {
        (_, false) => Ok("Reloaded"),
        (true, true) => Err("Reloaded in part: the rest stays as it was"),
        (false, true) => Err("Nothing is reloaded: all stays as it was"),
    }
}

/// The service manager, which must hear of reloads only between the start and the stop.
pub(super) struct Manager {
    notifier: Notifier,
    /// Locked until it is told, so that it hears all in order.
    phase: Mutex<Phase>,
}

#[derive(PartialEq)]
enum Phase {
    Starting,
    Ready,
    Stopping,
}

impl Manager {
    /// A manager that has heard nothing yet.
    pub(super) fn new(notifier: Notifier) -> Self {
        Self { notifier, phase: Mutex::new(Phase::Starting) }
    }

    /// The service is ready, unless it stops already.
    pub(super) fn ready(&self) {
        let mut phase = lock(&self.phase);
        if *phase == Phase::Starting {
            *phase = Phase::Ready;
            self.tell(State::Ready);
        }
    }

    /// The service stops; that is told once.
    pub(super) fn stopping(&self) {
        let mut phase = lock(&self.phase);
        if *phase != Phase::Stopping {
            *phase = Phase::Stopping;
            self.tell(State::Stopping);
        }
    }

    /// Tells it after the start and before the stop, and says if that is so.
    fn tell_in_between(&self, state: State) -> bool {
        let phase = lock(&self.phase);
        let is_ready = *phase == Phase::Ready;
        if is_ready {
            self.tell(state);
        }
        is_ready
    }

    /// A service can do without a manager that hears it.
    fn tell(&self, state: State) {
        if let Err(error) = self.notifier.notify(state) {
            warn!("Cannot tell the service manager: {}", reason(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_reloaded_is_said_to_be() {
        use Reload::{Done, Failed, Nothing};
        for (outcomes, said) in [
            (vec![Nothing, Nothing], Ok("Reloaded")),
            (vec![Nothing, Done], Ok("Reloaded")),
            (vec![Done, Failed, Nothing], Err("Reloaded in part: the rest stays as it was")),
            (vec![Nothing, Failed], Err("Nothing is reloaded: all stays as it was")),
        ] {
            assert_eq!(reloaded(&outcomes), said, "{outcomes:?}");
        }
    }
}

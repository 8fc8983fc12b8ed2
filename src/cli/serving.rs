//! What the servers share: flags about clients, and how signals stop them.

use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::listen::{ListenArgs, announce};
use super::logs::LogArgs;
use super::signals::{self, Signals};
use super::values::{self, Limit};
use super::{Error, SUCCESS};
use crate::server::{self, Handler, Limits, Stop};

/// The flags of every server about its clients.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Clients")]
pub struct ClientArgs {
    /// Drop a client that takes nothing for so long; 0: never
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    pub write_timeout: Limit,

    /// When asked to stop, give who is being served so long to finish
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    pub grace: Duration,
}

/// The flags of every async server.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArgs {
    /// Where it listens.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// How it treats its clients.
    #[command(flatten)]
    pub crowd: CrowdArgs,

    /// What it says.
    #[command(flatten)]
    pub logs: LogArgs,
}

impl ServiceArgs {
    /// A client that takes nothing for so long is dropped.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.crowd.clients.write_timeout.0
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// A worker cannot be started.
    pub fn serve<H: Handler>(&self, listeners: Vec<TcpListener>, server: Arc<H>, stop: &Stop) -> Result<u8, Error> {
        let limits = Limits { max_clients: self.crowd.max_clients.get(), grace: self.crowd.clients.grace };
        server::serve(listeners, server, &limits, stop).map_err(|error| Error::cannot("start", "a worker", &error))?;
        Ok(SUCCESS)
    }
}

/// The flags of a server of many clients.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Clients")]
pub struct CrowdArgs {
    /// Serve at most N clients at once; more wait in the listen queue
    #[arg(long, value_name = "N", default_value = "10000")]
    pub max_clients: NonZeroUsize,

    /// The flags of every server.
    #[command(flatten)]
    pub clients: ClientArgs,
}

/// Instead of serving: listens with the shortest queue there is, and accepts nobody, until a signal comes. The queue
/// takes one connection; all others time out while they connect.
///
/// # Errors
/// As for [`ListenArgs::bind`].
pub fn never_accept(listen: &ListenArgs, what: &str) -> Result<u8, Error> {
    let signals = Signals::block(&[]);
    let listener = listen.bind(0)?;
    announce(what, &listener)?;
    signals.wait();
    Ok(SUCCESS)
}

/// For the end of the workers when everybody has been reset.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What SIGINT and SIGTERM stop; other signals are for `other`.
///
/// The first one closes the door, the second one resets who is left. If the server does not end then, because a file
/// or a pipe does not answer, the process does.
///
/// # Errors
/// The system gives no thread.
pub fn stop_on(
    signals: Signals,
    grace: Duration,
    mut other: impl FnMut(Signal) + Send + 'static,
) -> Result<Stop, Error> {
    let stop = Stop::default();
    let stopped = stop.clone();
    let on_signal = move |signal| match signal {
        Signal::SIGINT | Signal::SIGTERM if stopped.is_closing() => {
            stopped.abort();
            signals::exit_at_the_latest(LAST_WORDS, SUCCESS);
        }
        Signal::SIGINT | Signal::SIGTERM => {
            stopped.close();
            signals::exit_at_the_latest(grace.saturating_add(LAST_WORDS), SUCCESS);
        }
        signal => other(signal),
    };
    signals.watch(on_signal).map_err(|error| Error::cannot("start", "a thread", &error))?;
    Ok(stop)
}

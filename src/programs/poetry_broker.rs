//! poetry-broker as a program.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Run, Service, ServiceArgs};
use crate::cli::listen::Trouble;
use crate::cli::values::Limit;
use crate::cli::{Error, values};
use crate::metrics::Page;
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::proto::frame;
use crate::server::broker::{BrokerLimits, BrokerServer, WhenFull};

/// Carry messages: an async broker that gives what is sent to a channel to those who listen to it
///
/// A client says which channel it listens to, and may then send messages, each to a channel. A channel that begins with
/// /queue gives each message to one of its listeners, in turn; any other one, as /topic/poems, gives it to all; /null
/// gives nothing to anybody. A listener that does not keep up is its own trouble, and nobody else's.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it carries, and how.
    #[command(flatten)]
    pub service: BrokerArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct BrokerArgs {
    /// What to do with a message of a topic for a listener whose queue is full
    #[arg(long, help_heading = "Channels", value_name = "POLICY", value_enum, default_value = "drop-new")]
    when_full: Policy,

    /// Queue so much for a listener that does not keep up, 64 bytes more for each message
    #[arg(long, help_heading = "Channels", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = values::size, allow_hyphen_values = true)]
    queue: u64,

    /// Hold so much of all /queue messages together while nobody listens; beyond, their senders wait
    #[arg(long, help_heading = "Channels", value_name = "SIZE", default_value = "16MiB")]
    #[arg(value_parser = values::size, allow_hyphen_values = true)]
    hold: u64,

    /// Reset whoever sends a longer message; 256MiB at most
    #[arg(long, help_heading = "Channels", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = values::size, allow_hyphen_values = true)]
    max_length: u64,

    /// Reset a client that has not named its channel within so long; 0: never
    #[arg(long, help_heading = "Channels", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    hello_timeout: Limit,

    /// Reset a client that says nothing for so long within a message; 0: never
    #[arg(long, help_heading = "Channels", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    message_timeout: Limit,

    #[command(flatten)]
    service: ServiceArgs,
}

/// A [`WhenFull`] as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// The message is dropped
    DropNew,
    /// The oldest ones in the queue are dropped
    DropOld,
    /// The listener is reset
    Disconnect,
    /// The sender waits, and with it all to whom it sends
    Wait,
}

impl From<Policy> for WhenFull {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::DropNew => Self::DropNew,
            Policy::DropOld => Self::DropOld,
            Policy::Disconnect => Self::Disconnect,
            Policy::Wait => Self::Wait,
        }
    }
}

/// The most that `--max-length` may be.
const LONGEST_MESSAGE: u64 = 256 << 20;

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Every message that was received is delivered, dropped, held or unheard, and the metrics and SIGUSR1 say how many are \
which; what is dropped is told in the log, too: when it begins, when it ends, and every ten seconds between. Whoever reaches \
the port may read and write everything.

Examples:
  poetry-broker --port 25000
      A broker; then, in two other terminals:
  poetry-listen 25000 /topic/poems
      Whoever listens gets each message
  poetry-send 25000 /topic/poems 'Had I the heavens embroidered cloths'
      A message to all of them
  poetry-broker --port 25000 --when-full wait
      One listener that stalls stops everybody: to see why one does not want that

Signals:
  SIGHUP reloads nothing, for there is nothing to reload. SIGUSR1 logs the totals, and a line for each listener: what it got, \
what was dropped, what is queued. Neither ends it; but if the terminal that it was started on is gone, SIGHUP stops it, \
unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, senders are read no further, and what was read is delivered \
within the grace time; then listeners get the end of the stream, and senders that had more to say are reset. A second signal \
resets all at once.

Exit status:
  0    stopped
  1    the port is taken
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-broker", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (BrokerArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl Launch for BrokerArgs {
    fn program(&self) -> &'static str {
        "poetry-broker"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        vec![DoorArgs {
            name: "clients",
            what: "Carrying messages".to_owned(),
            listen: &self.service.listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        }]
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let max_length = match self.max_length {
            1..=LONGEST_MESSAGE => self.max_length,
            _ => return Err(("max-length", Error::usage("--max-length has to be from 1 byte to 256MiB"))),
        };
        if self.queue < max_length {
            let why = format!("--queue has to be {max_length} bytes at least: one message of --max-length");
            return Err(("queue", Error::usage(why)));
        }
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let limits = BrokerLimits {
            max_length: bytes(max_length).min(frame::LONGEST),
            queue: bytes(self.queue),
            when_full: self.when_full.into(),
            hold: bytes(self.hold),
            hello_timeout: self.hello_timeout.0,
            message_timeout: self.message_timeout.0,
            patience: self.service.limits().grace / 2,
        };
        Ok(Box::new(|| Ok(Arc::new(BrokerServer::new(limits)))))
    }
}

impl Service for BrokerServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        service::prepare(doors, &self, limits)
    }

    fn report(&self, counts: &Counts) {
        service::tell_totals(counts);
        self.tell();
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        BrokerServer::figures(self)
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.add_metrics(page, labels);
    }

    fn end(&self) -> u8 {
        self.tell_lost();
        crate::cli::SUCCESS
    }
}

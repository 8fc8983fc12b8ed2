//! tcp-charfinder as a program.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Run, Service, ServiceArgs};
use crate::cli::Error;
use crate::cli::listen::Trouble;
use crate::cli::values::{self, Limit};
use crate::metrics::Page;
use crate::net::{Door, ServerLimits};
use crate::server::finder::LineFinder;

/// Find Unicode characters for people with telnet or nc: an async server that answers lines with lines
///
/// It says ?> and waits for a line with words, as charfinder takes them. The answer is a line for each character whose names
/// have all of them, a line that says how many there are, and another ?>. Ctrl-C ends it.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it serves, and how.
    #[command(flatten)]
    pub service: LineArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct LineArgs {
    /// Let go of a client that says nothing for so long; 0: never
    #[arg(long, help_heading = "Queries", value_name = "DURATION", default_value = "5m")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    idle_timeout: Limit,

    #[command(flatten)]
    service: ServiceArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds.

Examples:
  tcp-charfinder --port 2323
      A server; then, in another terminal:
  telnet localhost 2323
      Questions and answers, until Ctrl-C
  echo cat face | nc -N localhost 2323
      One question
  tcp-charfinder --expect 'clients = 1' -- sh -c 'echo sun | nc -N localhost {port}'
      A server for as long as one command

Signals:
  SIGHUP reloads nothing, for there is nothing to reload. SIGUSR1 logs the totals. Neither ends it; but if the terminal that it was started on \
is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped
  1    the port is taken
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("tcp-charfinder", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (LineArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl Launch for LineArgs {
    fn program(&self) -> &'static str {
        "tcp-charfinder"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        vec![DoorArgs {
            name: "queries",
            what: "Finding characters".to_owned(),
            listen: &self.service.listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        }]
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let idle_timeout = self.idle_timeout.0;
        Ok(Box::new(move || Ok(Arc::new(LineFinder::new(idle_timeout)))))
    }
}

impl Service for LineFinder {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        service::prepare(doors, &self, limits)
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.add_metrics(page, labels);
    }
}

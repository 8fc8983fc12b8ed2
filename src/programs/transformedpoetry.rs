//! transformedpoetry as a program.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Run, Service, ServiceArgs};
use crate::cli::listen::Trouble;
use crate::cli::toml_args::ONE_SHOT;
use crate::cli::values::Limit;
use crate::cli::{Error, SUCCESS, stdout, values};
use crate::metrics::{Metric, Page};
use crate::net::{Door, ServerLimits};
use crate::server::transform::{RequestLimits, TransformServer};
use crate::transforms::ALL;

/// Change poems: an async server that takes a poem and gives it back in lower case, upside down, or numbered
///
/// A request is one netstring, NAME.POEM, the reply another: 27:cummingsify.HERE IS MY POEM, is answered with
/// 15:here is my poem, and the connection is closed. A request that cannot be answered gets no reply.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it serves, and how.
    #[command(flatten)]
    pub service: TransformArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct TransformArgs {
    /// List the transforms, and exit
    #[arg(long, group = ONE_SHOT)]
    list: bool,

    /// Refuse requests of more than so many bytes, name and poem together
    #[arg(long, alias = "max-length", help_heading = "Requests", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    max_size: NonZeroUsize,

    /// Answer any number of requests on a connection, in order, instead of one
    #[arg(long, help_heading = "Requests")]
    keep_alive: bool,

    /// Let go of a client that says nothing for so long; 0: never
    #[arg(long, help_heading = "Requests", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    idle_timeout: Limit,

    /// Refuse a request that is not whole so long after its first byte; 0: never
    #[arg(long, help_heading = "Requests", value_name = "DURATION", default_value = "1m")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    request_timeout: Limit,

    #[command(flatten)]
    service: ServiceArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  transformedpoetry --list
      What it can do to poems
  transformedpoetry --port 11000
      One request a connection
  transformedpoetry --port 11000 --keep-alive --idle-timeout 5m --max-size 16MiB
      Any number of requests, and long poems
  get-poetry --transform shout --via 11000 10000
      A poem through it
  transformedpoetry --expect 'clients = 1' -- get-poetry --transform shout --via {} 10000
      A server for as long as one command

Signals:
  SIGHUP reloads nothing, for there is nothing to reload. SIGUSR1 logs the totals. Neither ends it; but if the terminal that it was started on \
is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped, or listed
  1    the port is taken
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("transformedpoetry", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (TransformArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl Launch for TransformArgs {
    fn program(&self) -> &'static str {
        "transformedpoetry"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn one_shot(&self) -> Result<Option<u8>, Error> {
        self.list.then(list).transpose()
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        let what = "Serving transforms".to_owned();
        vec![DoorArgs {
            name: "requests",
            what,
            listen: &self.service.listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        }]
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let limits = RequestLimits {
            max_size: self.max_size.get(),
            idle_timeout: self.idle_timeout.0,
            request_timeout: self.request_timeout.0,
            keep_alive: self.keep_alive,
        };
        Ok(Box::new(|| Ok(Arc::new(TransformServer::new(limits)))))
    }
}

impl Service for TransformServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        service::prepare(doors, &self, limits)
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const REQUESTS: Metric = Metric::counter("poetry_transform_requests_total", "Requests by what became of them.");
        for (outcome, count) in self.outcomes() {
            page.add(REQUESTS, &[labels, &[("outcome", outcome)]].concat(), count);
        }
    }
}

/// Every transform with what it does, a line each.
fn list() -> Result<u8, Error> {
    let width = ALL.iter().map(|transform| transform.name.len()).max().unwrap_or(0);
    let lines: String =
        ALL.iter().map(|transform| format!("{:width$}  {}\n", transform.name, transform.about)).collect();
    stdout::write_all(lines.as_bytes()).map(|()| SUCCESS)
}

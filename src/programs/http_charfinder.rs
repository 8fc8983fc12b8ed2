//! http-charfinder as a program.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Run, Service, ServiceArgs};
use crate::cli::Error;
use crate::cli::listen::Trouble;
use crate::metrics::Page;
use crate::net::{Door, ServerLimits};
use crate::server::finder::PageFinder;

/// Find Unicode characters in a browser: an async server of a page, of JSON, and of answers as streams of text
///
/// / is a page with a form, for words as charfinder takes them; /api?query=WORDS&start=N&limit=N is a page of an answer as
/// JSON, and /all?query=WORDS all of it, a line for each character, as fast as it is read.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it serves, and how.
    #[command(flatten)]
    pub service: PageArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct PageArgs {
    #[command(flatten)]
    service: ServiceArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds.

Examples:
  http-charfinder --port 8888
      A page; then, in a browser: http://localhost:8888
  curl 'http://localhost:8888/api?query=cat+face&limit=3'
      The first three of an answer, for a program
  curl -N 'http://localhost:8888/all?query=cjk' | head -3
      No more of a long answer is made than is read
  poetry-chaos --rate 20k 8888
      The same page over a slow line, on another port

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
    crate::cli::run("http-charfinder", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (PageArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl Launch for PageArgs {
    fn program(&self) -> &'static str {
        "http-charfinder"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        vec![DoorArgs {
            name: "pages",
            what: "Finding characters".to_owned(),
            listen: &self.service.listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        }]
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        Ok(Box::new(|| Ok(Arc::new(PageFinder::new("http-charfinder")))))
    }
}

impl Service for PageFinder {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        service::prepare(doors, &self, limits)
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.add_metrics(page, labels);
    }
}

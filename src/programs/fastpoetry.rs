//! fastpoetry as a program.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::{Arg, Parser};
use nix::sys::signal::Signal;
use tracing::{error, info};

use super::faults::{FaultArgs, Faults, Usual};
use super::service::{self, Launch, Nobody, Run, Service, ServiceArgs};
use crate::cli::logs::LogArgs;
use crate::cli::{Error, FAILURE};
use crate::errors::reason;
use crate::metrics::Page;
use crate::net::{Handler, ServerLimits};
use crate::poem::Poem;
use crate::server::fast::FastServer;

/// Give out a poem to any number of clients at once: an async server
///
/// The poem is read once and shared by all clients. With --delay or --num-bytes it trickles, like slowpoetry, but
/// to thousands of clients at once. The faults are those of slowpoetry, too.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it serves, and how.
    #[command(flatten)]
    pub service: FastArgs,

    /// What it says.
    #[command(flatten)]
    pub logs: LogArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_args(own_default))]
pub struct FastArgs {
    /// The poem; read at start, and again on SIGHUP
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    faults: FaultArgs,

    #[command(flatten)]
    service: ServiceArgs,

    #[arg(skip)]
    resolved: OnceLock<Box<Faults>>,
}

impl FastArgs {
    /// The faults, resolved by the first call.
    fn faults(&self) -> Result<&Faults, (&'static str, Error)> {
        if let Some(faults) = self.resolved.get() {
            return Ok(faults);
        }
        let faults = self.faults.resolve(Usual::AtOnce, &self.file)?;
        Ok(self.resolved.get_or_init(|| Box::new(faults)))
    }
}

/// The pace's own defaults are those of slowpoetry.
fn own_default(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "delay" => arg.help("Time from one piece to the next [default: 0, or 100ms with --num-bytes]"),
        "num_bytes" => arg.help("Bytes in a piece [default: all, or 10 with --delay; with --rate 25 pieces a second]"),
        _ => arg,
    }
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  fastpoetry --port 10000 poetry/ecstasy.txt
      The whole poem at once to everybody
  fastpoetry --port 10000 --delay 100ms --num-bytes 30 poetry/ecstasy.txt
      The async twin of a slow server
  fastpoetry --port 2222 --delay 1s --num-bytes 1 poetry/science.txt
      A tarpit

Signals:
  SIGHUP reads the poem again; clients under way keep the one they began with.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped
  1    the poem, a script or a recording cannot be read, the port is taken, or the recording cannot be written
  2    the command line makes no sense";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("fastpoetry", |args: Args| service::run(&args.service, &args.logs))
}

impl Launch for FastArgs {
    fn program(&self) -> &'static str {
        "fastpoetry"
    }

    fn signals(&self) -> &'static [Signal] {
        &[Signal::SIGHUP]
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn what(&self) -> String {
        format!("Serving {}", self.file.display())
    }

    fn check(&self) -> Result<(), (&'static str, Error)> {
        Poem::check(&self.file).map_err(|error| ("file", Error::cannot("serve", self.file.display(), &error)))?;
        self.faults().map(|_| ())
    }

    fn one_shot(&self) -> Result<Option<u8>, Error> {
        if !self.faults.is_rehearsal() {
            return Ok(None);
        }
        self.check().and_then(|()| self.faults()).map_err(|(_, error)| error)?.one_shot()
    }

    fn open(&self) -> Result<Arc<dyn Service>, Error> {
        if self.faults.never_accept() {
            return Ok(Arc::new(Nobody));
        }
        let cannot_serve = |error| Error::cannot("serve", self.file.display(), &error);
        let poem = Poem::load(&self.file).map_err(cannot_serve)?;
        let fault_plan = self.faults().map_err(|(_, error)| error)?.open()?;
        let server =
            FastServer::new(&self.file, poem, fault_plan, self.service.write_timeout()).map_err(cannot_serve)?;
        Ok(Arc::new(server))
    }

    fn bind(&self) -> Result<Vec<TcpListener>, Error> {
        match self.faults.never_accept() {
            true => Ok(vec![self.service.listen.bind(0)?]),
            false => self.service.listen.bind_shared(),
        }
    }
}

impl Service for FastServer {
    fn prepare(self: Arc<Self>, listeners: Vec<TcpListener>, limits: &ServerLimits) -> Result<Run, Error> {
        let run = service::prepare(listeners, Arc::clone(&self), limits)?;
        Ok(Box::new(move |stop| {
            let mut ended = run(stop)?;
            if !self.fault_plan().is_recorded() {
                ended.status = FAILURE;
            }
            Ok(ended)
        }))
    }

    /// SIGHUP reads the poem again.
    fn on_signal(&self, signal: Signal) {
        if signal != Signal::SIGHUP {
            return;
        }
        let file = self.file().display();
        match self.reload() {
            Ok(bytes) => info!(bytes, "Read {file} again: {bytes} bytes"),
            Err(error) => error!("Cannot read {file} again: {}; keeping the poem as it was", reason(&error)),
        }
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        service::add_counts(page, labels, self.counts());
    }
}

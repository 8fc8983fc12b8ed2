//! fastpoetry as a program.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::{Arg, Parser};
use tracing::{error, info};

use super::faults::{FaultArgs, Usual};
use super::http_args::HttpArgs;
use super::service::{
    self, DoorArgs, Launch, Nobody, Open, ProcessArgs, Queue, Reload, Run, Service, ServiceArgs, tell_totals,
};
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::errors::reason;
use crate::metrics::Page;
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::poem::{NamedPoem, Poem};
use crate::server::fast::FastServer;
use crate::server::fault_plan::FaultPlan;
use crate::server::http::HttpServer;
use crate::server::origin::Origin;
use crate::sync::lock;
use crate::units::count;

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

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_args(own_default))]
pub struct FastArgs {
    /// The poem; read at start, and again on SIGHUP; or the name of one that is built in, such as ecstasy
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    faults: FaultArgs,

    #[command(flatten)]
    http: HttpArgs,

    #[command(flatten)]
    service: ServiceArgs,
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
  fastpoetry --port 10000 ecstasy
      The whole poem at once to everybody
  fastpoetry --port 10000 --delay 100ms --num-bytes 30 ecstasy
      The async twin of a slow server
  fastpoetry --port 2222 --delay 1s --num-bytes 1 science
      A tarpit
  fastpoetry --cut-at 100 --cut hang science --expect 'left < 4s' -- curl -sm 2 telnet://{}
      Does this client give up in time? The server ends with it

Scripts:
  A TOML file: seed = N, then [[connection]], once for each connection in the order of accept, and [others].
  delay, num-bytes, rate, jitter, first-byte-delay, cut-at, cut
      In each table: as the flags of these names. What is not there is as on the command line.
  times, fail
      In a [[connection]]: for so many connections; true: reset at once.

Signals:
  SIGHUP reads the poem again; clients under way keep the one they began with. SIGUSR1 logs the totals. Neither ends it; but if the terminal that it was started on \
is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped
  1    the poem, a script or a recording cannot be read, the port is taken, or the recording cannot be written
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("fastpoetry", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (FastArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl Launch for FastArgs {
    fn program(&self) -> &'static str {
        "fastpoetry"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn one_shot(&self) -> Result<Option<u8>, Error> {
        if !self.faults.is_rehearsal() {
            return Ok(None);
        }
        self.faults.resolve(Usual::AtOnce, &self.named()).map_err(|(_, error)| error)?.one_shot()
    }

    fn check(&self) -> Result<(), (&'static str, Error)> {
        let named = self.named();
        if self.is_directory() {
            return Ok(());
        }
        named.check().map_err(|error| ("file", cannot_serve(&named, &error)))
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        let what = self.http.serving(self.file.display());
        let trouble = self.faults.trouble();
        let queue = if self.faults.never_accept() { Queue::Single(0) } else { Queue::Shared };
        vec![DoorArgs { name: "poem", what, listen: &self.service.listen, queue, trouble }]
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let named = self.named();
        let faults = self.faults.resolve(Usual::AtOnce, &named)?;
        let (said_by, is_directory) = (self.http.said_by(), self.is_directory());
        Ok(Box::new(move || {
            if faults.never_accept {
                return Ok(Arc::new(Nobody));
            }
            let cannot = |error| cannot_serve(&named, &error);
            let never_read = faults.trouble.never_read;
            let server = match said_by {
                Some(said_by) if is_directory => {
                    let origin = Origin::of_directory(named.path(), said_by).map_err(cannot)?;
                    Server::Http(Arc::new(HttpServer::new(origin, faults.open()?, never_read)))
                }
                Some(said_by) => {
                    let origin = Origin::of_poem(named.load().map_err(cannot)?, named.path(), said_by);
                    Server::Http(Arc::new(HttpServer::new(origin, faults.open()?, never_read)))
                }
                None => {
                    let poem = named.load().map_err(cannot)?;
                    Server::Bare(Arc::new(FastServer::new(poem, faults.open()?, never_read)))
                }
            };
            // Absolute, so that a reload works after chdir("/").
            let lasting = named.absolute().map_err(|error| cannot_serve(&named, &error))?;
            Ok(Arc::new(FastService { server, named, lasting, is_directory, reloading: Mutex::new(()) }))
        }))
    }
}

impl FastArgs {
    fn named(&self) -> NamedPoem {
        NamedPoem::find(&self.file)
    }

    /// Whether all files below a directory are served, which only HTTP can tell apart.
    fn is_directory(&self) -> bool {
        self.http.http && self.file.is_dir()
    }
}

fn cannot_serve(named: &NamedPoem, error: &io::Error) -> Error {
    Error::cannot("serve", named, error)
}

/// The server of a poem as it is, or of poems over HTTP.
enum Server {
    Bare(Arc<FastServer>),
    Http(Arc<HttpServer>),
}

impl Server {
    fn fault_plan(&self) -> &FaultPlan {
        match self {
            Self::Bare(server) => server.fault_plan(),
            Self::Http(server) => server.fault_plan(),
        }
    }

    fn set_poem(&self, poem: Poem) {
        match self {
            Self::Bare(server) => server.set_poem(poem),
            Self::Http(server) => server.origin().set_poem(poem),
        }
    }
}

/// A server of one poem, or of a directory.
struct FastService {
    server: Server,
    /// As it was named.
    named: NamedPoem,
    /// The same after chdir(2).
    lasting: NamedPoem,
    /// Files of a directory are opened afresh.
    is_directory: bool,
    /// Held while the poem is read again: the last one to be asked for is read last.
    reloading: Mutex<()>,
}

impl Service for FastService {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        match &self.server {
            Server::Bare(server) => service::prepare(doors, server, limits),
            Server::Http(server) => service::prepare(doors, server, limits),
        }
    }

    fn reload(&self) -> Reload {
        let Some(file) = self.named.file().filter(|_| !self.is_directory).map(Path::display) else {
            return Reload::Nothing;
        };
        let _in_turn = lock(&self.reloading);
        match self.lasting.load() {
            Ok(poem) => {
                let bytes = poem.bytes().len();
                self.server.set_poem(poem);
                info!(bytes, "Read {file} again: {}", count(bytes as u64, "byte"));
                Reload::Done
            }
            Err(error) => {
                error!("Cannot read {file} again: {}; keeping the poem as it was", reason(&error));
                Reload::Failed
            }
        }
    }

    fn end(&self) -> u8 {
        self.server.fault_plan().tell_faults();
        if self.server.fault_plan().finish() { SUCCESS } else { FAILURE }
    }

    fn report(&self, counts: &Counts) {
        tell_totals(counts);
        self.server.fault_plan().tell_faults();
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        vec![("cuts", self.server.fault_plan().cuts())]
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.server.fault_plan().add_metrics(page, labels);
    }
}

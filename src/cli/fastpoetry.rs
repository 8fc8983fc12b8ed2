//! fastpoetry as a program.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::Signal;
use tracing::{error, info};

use super::bars::Screen;
use super::listen::announce;
use super::logs::Style;
use super::serving::{ServiceArgs, stop_on};
use super::signals::Signals;
use super::{Error, open_files, values};
use crate::pace::Pace;
use crate::reason::reason;
use crate::server::fast::FastServer;

/// Give out a poem to any number of clients at once: an async server
///
/// The poem is read once and shared by all clients. With --delay or --num-bytes it trickles, like slowpoetry, but
/// to thousands of clients at once.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// The poem; read at start, and again on SIGHUP
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Trickle: time from one piece to the next [default: 0, or 100ms with --num-bytes]
    #[arg(long, help_heading = "Pace", value_name = "DURATION")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    delay: Option<Duration>,

    /// Trickle: bytes in a piece [default: all, or 10 with --delay]
    #[arg(long, help_heading = "Pace", value_name = "SIZE")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    num_bytes: Option<NonZeroUsize>,

    #[command(flatten)]
    service: ServiceArgs,
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
  1    the poem cannot be read, or the port is taken
  2    the command line makes no sense";

/// The `main` of the program.
pub fn main() -> ExitCode {
    super::run("fastpoetry", |args| run(&args))
}

fn run(args: &Args) -> Result<u8, Error> {
    let signals = Signals::block(&[Signal::SIGHUP]);
    args.service.logs.init(Style::Journal, &Screen::default())?;
    open_files::raise_limit();
    let (reload, reloads) = mpsc::channel();
    let stop = stop_on(signals, args.service.crowd.clients.grace, move |_| {
        let _ = reload.send(());
    })?;

    let cannot_serve = |error| Error::cannot("serve", args.file.display(), &error);
    let server = FastServer::new(&args.file, args.pace(), args.service.write_timeout()).map_err(cannot_serve)?;
    let server = Arc::new(server);
    let listeners = args.service.listen.bind_shared()?;
    reload_on(reloads, Arc::clone(&server))?;
    announce(&format!("Serving {}", args.file.display()), &listeners[0])?;
    args.service.serve(listeners, server, &stop)
}

fn reload_on(reloads: mpsc::Receiver<()>, server: Arc<FastServer>) -> Result<(), Error> {
    let body = move || {
        for () in reloads {
            reload(&server);
        }
    };
    let started = thread::Builder::new().name("reload".to_owned()).spawn(body);
    started.map(|_| ()).map_err(|error| Error::cannot("start", "a thread", &error))
}

impl Args {
    /// At once, unless one of the flags asks for a trickle.
    fn pace(&self) -> Pace {
        const PIECE: NonZeroUsize = NonZeroUsize::new(10).expect("not zero");
        const DELAY: Duration = Duration::from_millis(100);
        match (self.num_bytes, self.delay) {
            (None, None) => Pace { num_bytes: NonZeroUsize::MAX, delay: Duration::ZERO },
            (num_bytes, delay) => Pace { num_bytes: num_bytes.unwrap_or(PIECE), delay: delay.unwrap_or(DELAY) },
        }
    }
}

fn reload(server: &FastServer) {
    let file = server.file().display();
    match server.reload() {
        Ok(bytes) => info!(bytes, "Read {file} again: {bytes} bytes"),
        Err(error) => error!("Cannot read {file} again: {}; keeping the poem as it was", reason(&error)),
    }
}

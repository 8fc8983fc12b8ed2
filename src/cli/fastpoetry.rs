//! fastpoetry as a program.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;

use clap::Parser;
use nix::sys::signal::Signal;
use tracing::{error, info};

use super::bars::Screen;
use super::faults::{FaultArgs, Usual};
use super::listen::announce;
use super::logs::Style;
use super::serving::{self, ServiceArgs, stop_on};
use super::signals::Signals;
use super::{Error, FAILURE, open_files};
use crate::reason::reason;
use crate::server::fast::FastServer;

/// Give out a poem to any number of clients at once: an async server
///
/// The poem is read once and shared by all clients. With --delay or --num-bytes it trickles, like slowpoetry, but
/// to thousands of clients at once. The faults are those of slowpoetry, too.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// The poem; read at start, and again on SIGHUP
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    faults: FaultArgs,

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
    if let Some(status) = args.faults.rehearse(Usual::AtOnce, &args.file)? {
        return Ok(status);
    }
    let serving = format!("Serving {}", args.file.display());
    if args.faults.never_accept() {
        return serving::never_accept(&args.service.listen, &serving);
    }
    let (reload, reloads) = mpsc::channel();
    let stop = stop_on(signals, args.service.crowd.clients.grace, move |_| {
        let _ = reload.send(());
    })?;

    let cannot_serve = |error| Error::cannot("serve", args.file.display(), &error);
    let conduct = args.faults.conduct(Usual::AtOnce)?;
    let server = FastServer::new(&args.file, conduct, args.service.write_timeout()).map_err(cannot_serve)?;
    let server = Arc::new(server);
    let listeners = args.service.listen.bind_shared()?;
    reload_on(reloads, Arc::clone(&server))?;
    announce(&serving, &listeners[0])?;
    let status = args.service.serve(listeners, Arc::clone(&server), &stop)?;
    Ok(if server.conduct().is_recorded() { status } else { FAILURE })
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

fn reload(server: &FastServer) {
    let file = server.file().display();
    match server.reload() {
        Ok(bytes) => info!(bytes, "Read {file} again: {bytes} bytes"),
        Err(error) => error!("Cannot read {file} again: {}; keeping the poem as it was", reason(&error)),
    }
}

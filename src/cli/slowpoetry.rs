//! slowpoetry as a program.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clap::Parser;
use tracing::info;

use super::bars::Screen;
use super::listen::{ListenArgs, announce};
use super::logs::{LogArgs, Style};
use super::serving::ClientArgs;
use super::signals::{self, Signals};
use super::{Error, SUCCESS, open_files, values};
use crate::pace::Pace;
use crate::poem::Poem;
use crate::server::slow::{SlowServer, Stopper};
use crate::timing::{human, micros};

/// One client is served at a time, so a long queue would only be a long wait.
const BACKLOG: u32 = 128;

/// Give out a poem slowly, to one client at a time: a deliberately blocking server
///
/// While a client is served, all others wait in the listen queue.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// The poem, opened afresh for every client
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Time from one piece to the next
    #[arg(long, help_heading = "Pace", value_name = "DURATION", default_value = "100ms")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    delay: Duration,

    /// Bytes in a piece
    #[arg(long, help_heading = "Pace", value_name = "SIZE", default_value = "10")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    num_bytes: NonZeroUsize,

    #[command(flatten)]
    listen: ListenArgs,

    /// Exit after so many clients
    #[arg(long, help_heading = "Clients", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    clients: Option<u64>,

    #[command(flatten)]
    patience: ClientArgs,

    #[command(flatten)]
    logs: LogArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  slowpoetry --port 10000 poetry/ecstasy.txt
      Ten bytes every tenth of a second
  slowpoetry --port 10001 --num-bytes 30 --delay 10ms poetry/science.txt
      Thirty bytes every hundredth
  slowpoetry --clients 1 poetry/sera.txt
      One client on any free port, then exit

Signals:
  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, the one being served is finished within the grace \
time or else reset. A second signal resets it at once.

Exit status:
  0    stopped, or all clients served
  1    the poem cannot be read, or the port is taken
  2    the command line makes no sense";

/// For the summary of a client that was reset: a file or pipe that does not answer must not hold up the end.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The `main` of the program.
pub fn main() -> ExitCode {
    super::run("slowpoetry", run)
}

fn run(args: Args) -> Result<u8, Error> {
    args.logs.init(Style::Journal, &Screen::default())?;
    open_files::raise_limit();
    Poem::check(&args.file).map_err(|error| Error::cannot("serve", args.file.display(), &error))?;
    let listener = args.listen.bind(BACKLOG)?;
    let serving = format!("Serving {}", args.file.display());
    let server = SlowServer {
        file: args.file,
        pace: Arc::new(Pace { num_bytes: args.num_bytes, delay: args.delay }),
        write_timeout: args.patience.write_timeout.0,
        clients: args.clients,
    };
    tell_pace(&server);
    // Not sooner: a name that is slow to resolve can be interrupted.
    let signals = Signals::block(&[]);
    announce(&serving, &listener)?;
    let stopper = Stopper::new(listener);
    stop_on(signals, args.patience.grace, stopper.clone())
        .map_err(|error| Error::cannot("start", "a thread", &error))?;
    server.run(&stopper);
    Ok(SUCCESS)
}

/// How long one client will need, as the poem is now.
fn tell_pace(server: &SlowServer) {
    // Only a regular file has a length before it is read.
    let Ok(file) = server.file.metadata() else { return };
    let bytes = if file.is_file() { usize::try_from(file.len()).unwrap_or(usize::MAX) } else { return };
    let total = server.pace.total(bytes);
    info!(
        bytes,
        total_us = micros(total),
        "A client needs {} for {bytes} bytes in pieces of {}",
        human(total),
        server.pace.num_bytes
    );
}

/// The first signal closes the door; the second one, or the end of the grace time, ends the transfer.
fn stop_on(signals: Signals, grace: Duration, stopper: Stopper) -> std::io::Result<()> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new().name("stop".to_owned()).spawn(move || {
        if told.recv().is_ok() {
            stopper.close();
            // A second signal, or the end of the time: both mean now.
            let _ = told.recv_timeout(grace);
            stopper.abort();
            signals::exit_at_the_latest(LAST_WORDS, SUCCESS);
        }
    })?;
    signals.watch(move |_| {
        let _ = tell.send(());
    })
}

//! What poetry-listen and poetry-send share: a broker, a channel, signals, and a bar for a number that is known.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::Signal;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cli::logs::{LogArgs, Style};
use crate::cli::signals::{LAST_WORDS, Signals, exit_at_the_latest, exit_status};
use crate::cli::terminal::{self, Screen};
use crate::cli::{Error, printable};
use crate::messages::{self, Place};

const FORMS: &str = "The broker: PORT (on this machine), HOST:PORT, [IPv6]:PORT, or nats://[USER:PASSWORD@]HOST[:PORT]";

/// A broker, and one of its channels.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ChannelArgs {
    #[arg(value_name = "ADDR", help = FORMS)]
    pub(super) place: Place,

    /// The channel: /topic/... for all who listen, /queue/... for one of them
    #[arg(value_name = "CHANNEL")]
    channel: OsString,
}

impl ChannelArgs {
    /// The name of the channel.
    ///
    /// # Errors
    /// There is no such channel, or no such broker for this program.
    pub(super) fn resolve(&self) -> Result<Vec<u8>, Error> {
        let name = self.channel.as_bytes();
        messages::check(&self.place, name).map_err(|why| Error::usage(format!("{}: {why}", self.place)))?;
        Ok(name.to_vec())
    }

    /// The name of the channel, for people.
    pub(super) fn shown(&self) -> String {
        printable(&self.channel.to_string_lossy()).into_owned()
    }
}

/// Signals that ask for the end.
pub(super) type Stops = UnboundedReceiver<Signal>;

/// Runs a conversation with a broker on this thread; signals reach it as messages.
///
/// # Errors
/// Its own; or the system has no thread.
pub(super) fn converse<F: Future<Output = Result<u8, Error>>>(
    logs: &LogArgs,
    screen: &Screen,
    conversation: impl FnOnce(Stops) -> F,
) -> Result<u8, Error> {
    let signals = Signals::block_with_hangup();
    logs.init(Style::Talk, terminal::colour(), screen.clone())?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::cannot("start", "a runtime", &error))?;
    let (tell, stops) = unbounded_channel();
    let told = move |signal| {
        // A thread that waits for a full pipe hears nothing.
        exit_at_the_latest(LAST_WORDS, exit_status(signal));
        let _ = tell.send(signal);
    };
    signals.watch(told).map_err(|error| Error::no_thread(&error))?;
    let status = runtime.block_on(conversation(stops));
    // A thread that reads stdin is not waited for.
    runtime.shutdown_background();
    status
}

/// Waits for a signal.
pub(super) async fn stopped(stops: &mut Stops) -> Signal {
    match stops.recv().await {
        Some(signal) => signal,
        // The thread that tells has ended: nothing comes any more.
        None => std::future::pending().await,
    }
}

/// stderr, with a bar if it is a terminal that stdout does not share, and messages have their defaults.
pub(super) fn screen(logs: &LogArgs, has_stdout: bool) -> Screen {
    let usable = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let shares = has_stdout && io::stdout().is_terminal();
    if usable && logs.is_plain() && !shares { Screen::with_bars() } else { Screen::default() }
}

/// How far something has come whose end is known.
#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar up to `total`, if the screen has bars and it is known.
    pub(super) fn new(screen: &Screen, total: Option<u64>) -> Self {
        let style = "{human_pos} of {human_len} {wide_bar} {per_sec}, {eta} left";
        // One is there before anybody looks.
        let bar = screen.bars().zip(total.filter(|&total| total > 1)).map(|(bars, total)| {
            let style = ProgressStyle::with_template(style).expect("a valid template");
            bars.add(ProgressBar::new(total).with_style(style))
        });
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    pub(super) fn advance(&self, to: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(to);
        }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

//! poetry-send as a program.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Read};
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info};

use super::message_args::{self, ChannelArgs, Progress, Stops, stopped};
use crate::cli::logs::LogArgs;
use crate::cli::signals::exit_status;
use crate::cli::values::{self, Limit};
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::errors::reason;
use crate::messages::stamp::{self, Stamp};
use crate::messages::{self, Sender};
use crate::units::{count, human};

/// Send messages to a channel of a message broker
///
/// Each MESSAGE is one, or else each line of stdin; on a terminal, without either, one a second that says its number. It
/// ends when the broker has heard all of it: what is sent then is lost only where the broker says so.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    channel: ChannelArgs,

    /// The messages
    #[arg(value_name = "MESSAGE")]
    messages: Vec<OsString>,

    /// Send the contents of FILE, as one message
    #[arg(long, help_heading = "Messages", value_name = "FILE", conflicts_with_all = ["messages", "size", "null"])]
    file: Option<PathBuf>,

    /// Messages on stdin end with NUL, and not with a newline
    #[arg(short = '0', long, help_heading = "Messages", conflicts_with_all = ["messages", "size"])]
    null: bool,

    /// Send messages of N times X; of 0: Msg 0 from ab12cd34, and so on
    #[arg(long, help_heading = "Messages", value_name = "N", conflicts_with = "messages")]
    #[arg(value_parser = values::size, allow_hyphen_values = true)]
    size: Option<u64>,

    /// Send N messages in all, over and over again if need be
    #[arg(short = 'n', long, help_heading = "Messages", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    count: Option<NonZeroU64>,

    /// Begin each message with its number, its sender and its time, for poetry-listen --check
    #[arg(long, help_heading = "Messages")]
    stamp: bool,

    /// Wait so long from one message to the next
    #[arg(long, help_heading = "Pace", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true, conflicts_with = "rate")]
    interval: Option<Duration>,

    /// Send N messages a second
    #[arg(long, help_heading = "Pace", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    rate: Option<NonZeroU64>,

    /// Send each message up to so long later than it is due
    #[arg(long, help_heading = "Pace", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    jitter: Option<Duration>,

    /// Draw jitter, and the sender's name, from this number
    #[arg(long, help_heading = "Pace", value_name = "N", value_parser = values::whole::<u64>(0, u64::MAX))]
    #[arg(allow_negative_numbers = true)]
    seed: Option<u64>,

    /// Give up a broker that takes nothing for so long, or does not accept the connection; 0: never
    #[arg(long, help_heading = "Pace", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    timeout: Limit,

    #[command(flatten)]
    logs: LogArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  poetry-send 25000 /topic/poems 'Had I the heavens embroidered cloths'
      One message
  poetry-send 25000 /topic/poems < poetry/ecstasy.txt
      A poem, line by line
  poetry-send --file poetry/ecstasy.txt 25000 /topic/poems
      A poem, as one message
  poetry-send --size 128 --count 5000 --rate 1000 --stamp 25000 /topic/poems
      5000 messages in five seconds, for poetry-listen --check
  seq 100 | poetry-send 25000 /queue/jobs
      A hundred jobs, for whoever takes them

Exit status:
  0    the broker has heard every message
  1    no connection, or a lost one; or the broker took nothing for too long
  2    the command line makes no sense
  130  interrupted by Ctrl-C (129: by SIGHUP, 143: by SIGTERM)";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-send", |args: Args| run(&args))
}

fn run(args: &Args) -> Result<u8, Error> {
    let name = args.channel.resolve()?;
    let mut random = args.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
    let sender = format!("{:08x}", random.u32(..));
    let (source, total) = args.source(&sender)?;
    let screen = message_args::screen(&args.logs, false);
    let progress = Progress::new(&screen, total);
    let sending = Sending { args, name: &name, sender, source, random, progress, sent: 0, longest: 0 };
    message_args::converse(&args.logs, &screen, |stops| sending.run(stops))
}

impl Args {
    /// Where messages come from, and how many there will be, if that is known.
    fn source(&self, sender: &str) -> Result<(Source, Option<u64>), Error> {
        let total = self.count.map(NonZeroU64::get);
        if !self.messages.is_empty() || self.file.is_some() {
            let mut messages: Vec<Vec<u8>> = self.messages.iter().map(|it| it.clone().into_vec()).collect();
            if let Some(path) = &self.file {
                messages.push(fs::read(path).map_err(|error| Error::cannot("read", path.display(), &error))?);
            }
            let total = total.or(Some(messages.len() as u64));
            return Ok((Source::List(messages), total));
        }
        let is_bare = !self.null && io::stdin().is_terminal();
        Ok(match self.size {
            Some(0) => (Source::Numbers(sender.to_owned()), total),
            Some(size) => (Source::List(vec![vec![b'X'; usize::try_from(size).unwrap_or(usize::MAX)]]), total),
            None if is_bare => (Source::Numbers(sender.to_owned()), total),
            None => (Source::stdin(if self.null { 0 } else { b'\n' })?, total),
        })
    }

    /// The time from one message to the next.
    fn step(&self) -> Option<Duration> {
        let of_rate = |rate: NonZeroU64| Duration::from_secs(1).div_f64(crate::comparison::float(rate.get()));
        let is_bare = self.messages.is_empty() && self.file.is_none() && self.size.is_none() && !self.null;
        let usual = (is_bare && io::stdin().is_terminal()).then_some(Duration::from_secs(1));
        self.interval.or(self.rate.map(of_rate)).or(usual)
    }
}

/// Where messages come from.
enum Source {
    /// These, over and over again.
    List(Vec<Vec<u8>>),
    /// Their numbers, from this sender.
    Numbers(String),
    /// A thread that reads.
    Stdin(Receiver<io::Result<Vec<u8>>>),
}

impl Source {
    /// A thread reads stdin, for that blocks.
    fn stdin(end: u8) -> Result<Self, Error> {
        /// Messages that are read before they are sent.
        const AHEAD: usize = 64;
        /// No broker takes a longer one.
        const LONGEST: u64 = 256 << 20;
        let (tell, messages) = channel(AHEAD);
        let read = move || {
            let mut stdin = io::stdin().lock();
            loop {
                let mut message = Vec::new();
                let read = match stdin.by_ref().take(LONGEST + 1).read_until(end, &mut message) {
                    Ok(0) => return,
                    Ok(_) if message.len() as u64 > LONGEST => Err(io::Error::other("a message of more than 256 MiB")),
                    read => read,
                };
                if message.last() == Some(&end) {
                    message.pop();
                }
                let is_error = read.is_err();
                if tell.blocking_send(read.map(|_| message)).is_err() || is_error {
                    return;
                }
            }
        };
        thread::Builder::new().name("stdin".to_owned()).spawn(read).map_err(|error| Error::no_thread(&error))?;
        Ok(Self::Stdin(messages))
    }
}

/// What is sent, and how far it has come.
struct Sending<'a> {
    args: &'a Args,
    name: &'a [u8],
    sender: String,
    source: Source,
    random: fastrand::Rng,
    progress: Progress,
    sent: u64,
    longest: usize,
}

/// Why sending is over before its end.
enum Trouble {
    Lost(messages::Error),
    Unread(io::Error),
    Signal(Signal),
}

impl From<messages::Error> for Trouble {
    fn from(error: messages::Error) -> Self {
        Self::Lost(error)
    }
}

impl Sending<'_> {
    async fn run(mut self, mut stops: Stops) -> Result<u8, Error> {
        let (args, begun) = (self.args, Instant::now());
        let place = &args.channel.place;
        let connected = tokio::select! {
            biased;
            signal = stopped(&mut stops) => return Ok(exit_status(signal)),
            connected = Sender::connect(place, args.timeout.0) => connected,
        };
        let mut connection = connected.map_err(|error| Error::failure(format!("{place}: {error}")))?;
        let ends =
            connection.ends().map_or_else(|| place.to_string(), |ends| format!("{} as {}", ends.broker, ends.own));
        info!("Sending to {} on {ends}", args.channel.shown());
        let sent = self.send(&mut connection, &mut stops).await;
        let finished = match sent {
            Ok(()) => tokio::select! {
                biased;
                signal = stopped(&mut stops) => Err(Trouble::Signal(signal)),
                finished = connection.finish() => finished.map_err(Trouble::Lost),
            },
            // What was sent is not lost for that.
            Err(trouble @ (Trouble::Signal(_) | Trouble::Unread(_))) => {
                let _ = timeout(LAST_WORD, connection.finish()).await;
                Err(trouble)
            }
            Err(trouble) => Err(trouble),
        };
        self.progress.clear();
        let messages = count(self.sent, "message");
        match finished {
            Ok(()) => {
                info!("Sent {messages} in {}", human(begun.elapsed()));
                Ok(SUCCESS)
            }
            Err(Trouble::Signal(signal)) => {
                info!("Interrupted after {messages}");
                Ok(exit_status(signal))
            }
            Err(Trouble::Unread(why)) => {
                error!("cannot read stdin: {} (after {messages})", reason(&why));
                Ok(FAILURE)
            }
            Err(Trouble::Lost(why)) => {
                let longest = count(self.longest as u64, "byte");
                error!("{place}: {why} (after {messages}, the longest of {longest})");
                Ok(FAILURE)
            }
        }
    }

    async fn send(&mut self, connection: &mut Sender, stops: &mut Stops) -> Result<(), Trouble> {
        let (begun, step) = (Instant::now(), self.args.step());
        let total = self.args.count.map(NonZeroU64::get);
        while total.is_none_or(|total| self.sent < total) {
            let jitter = self.args.jitter.map(|jitter| jitter.mul_f64(self.random.f64()));
            let due = match (step, jitter) {
                (None, None) => None,
                (None, Some(jitter)) => Some(Instant::now() + jitter),
                (Some(step), jitter) => {
                    Some(begun + step.mul_f64(crate::comparison::float(self.sent)) + jitter.unwrap_or_default())
                }
            };
            if let Some(due) = due.filter(|&due| due > Instant::now()) {
                connection.flush().await?;
                tokio::select! {
                    biased;
                    signal = stopped(stops) => return Err(Trouble::Signal(signal)),
                    () = sleep_until(due) => {}
                    error = connection.ended() => return Err(error.into()),
                }
            }
            let Some(message) = self.next(connection, stops).await? else { return Ok(()) };
            let message = self.stamped(message);
            self.longest = self.longest.max(message.len());
            tokio::select! {
                biased;
                signal = stopped(stops) => return Err(Trouble::Signal(signal)),
                sent = connection.send(self.name, &message) => sent?,
            }
            self.sent += 1;
            self.progress.advance(self.sent);
        }
        Ok(())
    }

    /// The next message; `None`: there is none.
    async fn next(&mut self, connection: &mut Sender, stops: &mut Stops) -> Result<Option<Vec<u8>>, Trouble> {
        let number = usize::try_from(self.sent).unwrap_or(usize::MAX);
        match &mut self.source {
            Source::List(messages) if self.args.count.is_none() && self.args.size.is_none() => {
                Ok(messages.get(number).cloned())
            }
            Source::List(messages) => {
                let length = NonZeroUsize::new(messages.len());
                Ok(length.and_then(|length| messages.get(number % length)).cloned())
            }
            Source::Numbers(sender) => Ok(Some(format!("Msg {number} from {sender}").into_bytes())),
            Source::Stdin(messages) => {
                let message = match messages.try_recv() {
                    Ok(message) => Some(message),
                    Err(_) => {
                        connection.flush().await?;
                        tokio::select! {
                            biased;
                            signal = stopped(stops) => return Err(Trouble::Signal(signal)),
                            message = messages.recv() => message,
                            error = connection.ended() => return Err(error.into()),
                        }
                    }
                };
                message.transpose().map_err(Trouble::Unread)
            }
        }
    }

    fn stamped(&self, message: Vec<u8>) -> Vec<u8> {
        if !self.args.stamp {
            return message;
        }
        let stamp = Stamp { number: self.sent + 1, sender: &self.sender, sent: stamp::now() };
        [stamp.text().into_bytes(), message].concat()
    }
}

/// How long an interrupted sender waits for the broker to hear what it has sent.
const LAST_WORD: Duration = Duration::from_millis(500);

//! poetry-listen as a program.

use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::bytes::Bytes;
use tracing::{error, info, warn};

use super::client_args::check_file;
use super::message_args::{self, ChannelArgs, Progress, Stops, stopped};
use crate::cli::logs::LogArgs;
use crate::cli::signals::exit_status;
use crate::cli::stdout::{self, Stdout};
use crate::cli::terminal::Screen;
use crate::cli::values::{self, Limit};
use crate::cli::{Error, FAILURE, SUCCESS};
use crate::messages::audit::{Assertion, Audit, Findings};
use crate::messages::{self, Listener, Options, Sender, stamp};
use crate::units::{count, human, micros};
use crate::whole_file;

/// Listen to a channel of a message broker, and write what comes to stdout
///
/// Each message is written as a line. The broker is poetry-broker, another one with its protocol, or a server of NATS.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    channel: ChannelArgs,

    /// End after N messages
    #[arg(short = 'n', long, help_heading = "End", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    count: Option<NonZeroU64>,

    /// End after so long
    #[arg(long = "for", help_heading = "End", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    time: Option<Duration>,

    /// Give up if nothing comes for so long
    #[arg(long, help_heading = "End", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    idle_timeout: Option<Duration>,

    /// Come back if the connection ends, after pauses that double from 100ms to 5s
    #[arg(long, help_heading = "End")]
    reconnect: bool,

    /// Give up a broker that does not accept the connection for so long; 0: never
    #[arg(long, help_heading = "End", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    connect_timeout: Limit,

    /// Listen to a /queue of NATS as one of this queue group
    #[arg(long, help_heading = "End", value_name = "NAME", default_value = "poetry", hide_short_help = true)]
    group: String,

    /// Give up if a message is longer
    #[arg(long, help_heading = "End", value_name = "SIZE", default_value = "256MiB", hide_short_help = true)]
    #[arg(value_parser = values::size, allow_hyphen_values = true)]
    max_length: u64,

    /// End messages with NUL instead of a newline
    #[arg(short = '0', long, help_heading = "Output", conflicts_with_all = ["raw", "json", "output", "check", "asserts"])]
    null: bool,

    /// Write messages as they are, with nothing between them
    #[arg(long, help_heading = "Output", conflicts_with_all = ["json", "output", "check", "asserts"])]
    raw: bool,

    /// Write each message as a line of JSON; with --check, the report
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Write each message into a file of its own in DIR, numbered
    #[arg(short, long, help_heading = "Output", value_name = "DIR")]
    output: Option<PathBuf>,

    /// Take messages slowly: wait so long after each
    #[arg(long, help_heading = "Output", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    slow: Option<Duration>,

    /// Judge messages of poetry-send --stamp instead of writing them: lost, duplicated, reordered, how late
    #[arg(long, help_heading = "Check")]
    check: bool,

    /// Fail if EXPR does not hold, as in 'lost = 0' or 'p99 < 5ms'; implies --check
    ///
    /// It compares sums of received, lost, duplicated, reordered, unstamped, senders, p50, p99 and max; the last three are
    /// times. May be given several times.
    #[arg(long = "assert", help_heading = "Check", value_name = "EXPR", value_parser = Assertion::parse)]
    asserts: Vec<Assertion>,

    /// Write the report as JSON to FILE
    #[arg(long, help_heading = "Check", value_name = "FILE")]
    report: Option<PathBuf>,

    #[command(flatten)]
    logs: LogArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  poetry-listen 25000 /topic/poems
      Whatever is sent to a topic
  poetry-listen -n 1 25000 /queue/jobs
      One job of a queue
  poetry-listen --json 25000 /topic/poems | jq .data
      With channel, size and time
  poetry-listen --for 10s --assert 'lost = 0' --assert 'p99 < 5ms' 25000 /topic/poems
      Was anything lost of what poetry-send --stamp sent, or late?
  poetry-listen --slow 1s 25000 /topic/poems
      The slow listener that every broker fears

Exit status:
  0    N messages came, the time is over, or the broker ended the conversation (or nobody reads any more)
  1    no connection, a lost one, nothing for too long, fewer than N messages, or an EXPR that does not hold
  2    the command line makes no sense
  130  interrupted by Ctrl-C (129: by SIGHUP, 143: by SIGTERM)";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-listen", |args: Args| run(&args))
}

fn run(args: &Args) -> Result<u8, Error> {
    let channel = args.channel.resolve()?;
    if args.report.is_some() && !args.is_checking() {
        return Err(Error::usage("--report is about --check, which is not given"));
    }
    check_file(args.report.as_deref())?;
    let output = args.output()?;
    let writes = !matches!(output, Output::Nowhere | Output::Files { .. });
    let screen = message_args::screen(&args.logs, writes);
    let session = Session::new(args, &channel, output, &screen);
    message_args::converse(&args.logs, &screen, |stops| session.run(stops))
}

impl Args {
    fn is_checking(&self) -> bool {
        self.check || !self.asserts.is_empty()
    }

    fn output(&self) -> Result<Output, Error> {
        if let Some(directory) = &self.output {
            return Output::files(directory);
        }
        Ok(match self {
            _ if self.is_checking() => Output::Nowhere,
            Self { json: true, .. } => Output::Json,
            Self { raw: true, .. } => Output::Between(""),
            Self { null: true, .. } => Output::Between("\0"),
            _ => Output::Between("\n"),
        })
    }
}

/// Where messages go.
#[derive(Debug)]
enum Output {
    /// To stdout, with this after each.
    Between(&'static str),
    /// To stdout, as JSON.
    Json,
    /// Into files of a directory, of which the last has this number.
    Files {
        directory: PathBuf,
        last: u64,
    },
    Nowhere,
}

impl Output {
    /// Files are numbered after those that are there.
    fn files(directory: &Path) -> Result<Self, Error> {
        let cannot = |error: io::Error| Error::cannot("write into", directory.display(), &error);
        fs::create_dir_all(directory).map_err(cannot)?;
        let mut last = 0;
        for entry in fs::read_dir(directory).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            last = name.to_str().and_then(|name| name.parse().ok()).map_or(last, |number| last.max(number));
        }
        Ok(Self::Files { directory: directory.to_owned(), last })
    }
}

/// A message as JSON.
#[derive(Serialize)]
struct Message<'a> {
    channel: &'a str,
    bytes: usize,
    /// Since the beginning, in microseconds.
    at_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// Why listening is over.
enum End {
    /// All messages have come, or the time is over.
    Done,
    /// The broker has ended it.
    Ended,
    Silent(Duration),
    Lost(messages::Error),
    Signal(Signal),
    NobodyReads,
    Unwritten(Error),
}

/// Who listens, and what has come so far.
struct Session<'a> {
    args: &'a Args,
    name: &'a [u8],
    output: Output,
    stdout: Stdout,
    /// What is to be written next.
    unwritten: Vec<u8>,
    /// The messages that this is, if somebody else could take them.
    in_hand: Vec<Bytes>,
    audit: Option<Audit>,
    listener: Option<Listener>,
    received: u64,
    begun: Instant,
    progress: Progress,
}

impl<'a> Session<'a> {
    fn new(args: &'a Args, name: &'a [u8], output: Output, screen: &Screen) -> Self {
        Self {
            args,
            name,
            output,
            stdout: Stdout::new(screen.clone(), || {}),
            unwritten: Vec::new(),
            in_hand: Vec::new(),
            audit: args.is_checking().then(Audit::default),
            listener: None,
            received: 0,
            begun: Instant::now(),
            progress: Progress::new(screen, args.count.map(NonZeroU64::get)),
        }
    }

    async fn run(mut self, mut stops: Stops) -> Result<u8, Error> {
        let deadline = self.args.time.map(|time| self.begun + time);
        let end = tokio::select! {
            biased;
            signal = stopped(&mut stops) => End::Signal(signal),
            () = until(deadline) => End::Done,
            end = self.listen() => end,
        };
        if let Some(listener) = self.listener.take()
            && !matches!(end, End::Ended | End::Lost(_))
        {
            self.give_back(listener).await;
        }
        self.finish(&end)
    }

    /// Gives back the messages of a queue that have come and were not taken: they are somebody else's.
    async fn give_back(&mut self, listener: Listener) {
        if !self.is_queue() {
            return;
        }
        let mut rest = std::mem::take(&mut self.in_hand);
        let give = async {
            rest.extend(listener.leave(Some(LAST_WORD)).await?);
            if rest.is_empty() {
                return Ok(0);
            }
            let mut sender = Sender::connect(&self.args.channel.place, Some(LAST_WORD)).await?;
            for message in &rest {
                sender.send(self.name, message).await?;
            }
            sender.finish().await.map(|()| rest.len() as u64)
        };
        match give.await {
            Ok(0) => {}
            Ok(given) => info!("Gave back {} that had come already", count(given, "message")),
            Err(why) => warn!("{}: what had come already is lost: {why}", self.args.channel.place),
        }
    }

    /// Listens until there is a reason not to.
    async fn listen(&mut self) -> End {
        let mut deaf_since = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let end = match self.connect(deaf_since).await {
                Ok(listener) => {
                    pause = FIRST_PAUSE;
                    deaf_since = None;
                    self.listener = Some(listener);
                    match self.hear().await {
                        Ok(end) | Err(end) => end,
                    }
                }
                Err(error) => End::Lost(error),
            };
            let why = match &end {
                End::Lost(error) if self.args.reconnect => error.to_string(),
                End::Ended if self.args.reconnect => "it has ended the conversation".to_owned(),
                _ => return end,
            };
            if deaf_since.is_none() {
                warn!("{}: {why}; trying again", self.args.channel.place);
                deaf_since = Some(Instant::now());
            }
            // Not all who were cut off at once come back at once.
            sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.75))).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn connect(&self, deaf_since: Option<Instant>) -> Result<Listener, messages::Error> {
        let Args { channel, connect_timeout, max_length, reconnect, group, .. } = self.args;
        let options = Options {
            limit: connect_timeout.0,
            max_length: usize::try_from(*max_length).unwrap_or(usize::MAX),
            reconnects: *reconnect,
            group: group.clone(),
        };
        let listener = Listener::connect(&channel.place, self.name, &options).await?;
        let mut place = channel.place.to_string();
        if let Some(ends) = listener.ends() {
            place = format!("{} as {}", ends.broker, ends.own);
        }
        let shown = channel.shown();
        match deaf_since {
            None => info!("Listening to {shown} on {place}"),
            Some(since) => info!("Listening to {shown} on {place} again, deaf for {}", human(since.elapsed())),
        }
        Ok(listener)
    }

    /// Takes what comes on one connection.
    async fn hear(&mut self) -> Result<End, End> {
        loop {
            let Some(listener) = &mut self.listener else { return Ok(End::Ended) };
            let message = match listener.next_now().map_err(End::Lost)? {
                Some(message) => message,
                None => {
                    Self::write(&mut self.stdout, &mut self.unwritten, &mut self.in_hand)?;
                    let silence = self.args.idle_timeout.map(|limit| (limit, Instant::now() + limit));
                    let next = tokio::select! {
                        biased;
                        message = listener.next() => message.map_err(End::Lost)?,
                        () = until(silence.map(|(_, until)| until)) => {
                            return Ok(silence.map_or(End::Done, |(limit, _)| End::Silent(limit)));
                        }
                    };
                    let Some(message) = next else { return Ok(End::Ended) };
                    message
                }
            };
            self.take(&message)?;
            if self.args.count.is_some_and(|count| self.received >= count.get()) {
                Self::write(&mut self.stdout, &mut self.unwritten, &mut self.in_hand)?;
                return Ok(End::Done);
            }
            if let Some(slow) = self.args.slow {
                Self::write(&mut self.stdout, &mut self.unwritten, &mut self.in_hand)?;
                sleep(slow).await;
            }
        }
    }

    /// Whether what comes is for one of those who listen.
    fn is_queue(&self) -> bool {
        self.name.starts_with(b"/queue")
    }

    fn take(&mut self, message: &Bytes) -> Result<(), End> {
        /// Written at once, even if more is there.
        const ENOUGH: usize = 64 * 1024;
        self.received += 1;
        self.progress.advance(self.received);
        if self.is_queue() {
            self.in_hand.push(message.clone());
        }
        if let Some(audit) = &mut self.audit {
            audit.hear(message, stamp::now());
        }
        match &mut self.output {
            Output::Between(end) => {
                self.unwritten.extend_from_slice(message);
                self.unwritten.extend_from_slice(end.as_bytes());
            }
            Output::Json => {
                let text = str::from_utf8(message);
                let message = Message {
                    channel: &String::from_utf8_lossy(self.name),
                    bytes: message.len(),
                    at_us: micros(self.begun.elapsed()),
                    data: text.ok(),
                    base64: text.is_err().then(|| base64(message)),
                };
                // A value of such a type always has a form.
                self.unwritten.extend(serde_json::to_vec(&message).unwrap_or_default());
                self.unwritten.push(b'\n');
            }
            Output::Files { directory, last } => {
                *last += 1;
                let path = directory.join(format!("{last:08}"));
                let written = whole_file::write(&path, message);
                written.map_err(|error| End::Unwritten(Error::cannot("write", path.display(), &error)))?;
                self.in_hand.clear();
            }
            Output::Nowhere => self.in_hand.clear(),
        }
        if self.unwritten.len() >= ENOUGH {
            Self::write(&mut self.stdout, &mut self.unwritten, &mut self.in_hand)
        } else {
            Ok(())
        }
    }

    fn write(stdout: &mut Stdout, unwritten: &mut Vec<u8>, in_hand: &mut Vec<Bytes>) -> Result<(), End> {
        let written = stdout.write_all(unwritten);
        unwritten.clear();
        if written.is_ok() {
            in_hand.clear();
        }
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => End::NobodyReads,
            _ => End::Unwritten(Error::cannot("write", "stdout", &error)),
        })
    }

    /// Says what has come of it, and finds the exit status.
    fn finish(mut self, end: &End) -> Result<u8, Error> {
        self.progress.clear();
        let place = &self.args.channel.place;
        let received = count(self.received, "message");
        let mut status = match end {
            End::Done | End::NobodyReads => SUCCESS,
            End::Ended => match self.args.count {
                None => {
                    info!("{place} has ended the conversation after {received}");
                    SUCCESS
                }
                Some(wanted) => {
                    error!("{place} has ended the conversation after {received} of {wanted}");
                    FAILURE
                }
            },
            End::Silent(limit) => {
                error!("{place}: nothing for {} after {received}", humantime::format_duration(*limit));
                FAILURE
            }
            End::Lost(why) => {
                error!("{place}: {why} (after {received})");
                FAILURE
            }
            End::Signal(signal) => exit_status(*signal),
            End::Unwritten(error) => {
                error!("{}", error.message);
                FAILURE
            }
        };
        // What came whole is written, whatever else failed.
        if matches!(end, End::Signal(_) | End::Done)
            && let Err(End::Unwritten(error)) = Self::write(&mut self.stdout, &mut self.unwritten, &mut self.in_hand)
        {
            return Err(error);
        }
        let Some(audit) = self.audit.take() else { return Ok(status) };
        let findings = audit.findings();
        self.tell(&findings)?;
        for assertion in &self.args.asserts {
            if let Some(disappointment) = assertion.disappointment(&findings) {
                error!("{disappointment}");
                status = if status == SUCCESS { FAILURE } else { status };
            }
        }
        Ok(status)
    }

    fn tell(&self, findings: &Findings) -> Result<(), Error> {
        let mut json = serde_json::to_string(findings).unwrap_or_default();
        json.push('\n');
        if let Some(path) = &self.args.report {
            let written = whole_file::write(path, json.as_bytes());
            written.map_err(|error| Error::cannot("write", path.display(), &error))?;
        }
        let text = if self.args.json { json } else { format!("{findings}\n") };
        stdout::write_all(text.as_bytes())
    }
}

/// The time for each step of leaving a broker.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Pauses before a connection is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Base64 with padding: RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}

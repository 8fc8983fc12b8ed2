//! Logs: how much of them, and in which form. Where they go is the caller's affair.

use std::fmt::{self, Display, Write as _};
use std::io;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Span, Subscriber, error_span};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Error, printable};
use crate::units::{Micros, human};

/// The flags about logs.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Messages")]
pub struct LogArgs {
    /// Say more (-vv: still more)
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Say only what went wrong
    #[arg(short, long)]
    pub quiet: bool,

    /// Form of the messages [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line for people
    Text,
    /// One JSON object a line, with fields
    Json,
}

/// The look of a line of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The message alone: a program talks to the person who started it.
    Talk,
    /// Time, level, message: a server keeps a journal.
    Journal,
}

impl LogArgs {
    /// Whether the log has its defaults: the usual messages, as text.
    pub fn is_plain(&self) -> bool {
        self.verbose == 0 && !self.quiet && self.format() == LogFormat::Text && rust_log().is_none()
    }

    /// The form of the messages.
    pub fn format(&self) -> LogFormat {
        self.log_format.unwrap_or(LogFormat::Text)
    }

    /// These flags, with those of `base` where they say nothing.
    pub fn over(self, base: Self) -> Self {
        let is_silent = self.verbose == 0 && !self.quiet;
        Self {
            verbose: if is_silent { base.verbose } else { self.verbose },
            quiet: if is_silent { base.quiet } else { self.quiet },
            log_format: self.log_format.or(base.log_format),
        }
    }

    /// Begins the log of this process: sends it to `writer`, one whole message a write. `colour` is for text alone.
    ///
    /// # Errors
    /// `RUST_LOG` makes no sense.
    pub fn init<W>(&self, style: Style, colour: bool, writer: W) -> Result<(), Error>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let filter = match rust_log() {
            Some(text) => text.parse::<Targets>().map_err(|error| Error::usage(format!("RUST_LOG={text}: {error}")))?,
            None => Targets::new().with_target(env!("CARGO_CRATE_NAME"), self.level()),
        };
        let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
        let registry = tracing_subscriber::registry().with(filter);
        match self.format() {
            LogFormat::Json => registry.with(layer.json().map_writer(NoC1)).init(),
            LogFormat::Text => {
                // Of a span a line shows the values.
                let fields = debug_fn(|to, _, value| write!(to, "{value:?}")).delimited(" ");
                registry.with(layer.event_format(Line { style, colour }).fmt_fields(fields)).init();
            }
        }
        Ok(())
    }

    fn level(&self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::ERROR,
            (false, 0) => Level::INFO,
            (false, 1) => Level::DEBUG,
            (false, _) => Level::TRACE,
        }
    }
}

fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty())
}

/// The name of the span of a service.
const SERVICE: &str = "service";

/// A span for a service that is one of several in a process: lines that are logged in it name the service.
pub fn service_span(program: &str, address: impl Display) -> Span {
    // Of the highest level: whatever is logged has it.
    error_span!(SERVICE, service = %program, %address)
}

/// The field of an event that has its time, in microseconds from the start of the run. In text the messages have it that
/// are for finding out what happens, at their end; the others are as short as they can be.
const AT: &str = "at_us";

/// The format of an event as a line of text: its message without its fields, which repeat it for programs. Names of
/// files and whatever else comes from people and peers cannot make two lines of it, nor steer a terminal.
struct Line {
    style: Style,
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        let (on, off) = match level {
            _ if !self.colour => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("", ""),
            _ => ("\x1b[2m", "\x1b[0m"),
        };
        to.write_str(on)?;
        if self.style == Style::Journal {
            write!(to, "{} {level:5} ", humantime::format_rfc3339_millis(SystemTime::now()))?;
        }
        for span in context.event_scope().into_iter().flatten().filter(|span| span.name() == SERVICE) {
            if let Some(service) = span.extensions().get::<FormattedFields<N>>() {
                write!(to, "{service}: ")?;
            }
        }
        let mut message = Message::default();
        event.record(&mut message);
        write!(to, "{}", printable(&message.text))?;
        if let Some(at) = message.at
            && level >= Level::DEBUG
        {
            write!(to, ", at {}", human(Duration::from_micros(at)))?;
        }
        writeln!(to, "{off}")
    }
}

#[derive(Default)]
struct Message {
    text: String,
    at: Option<Micros>,
}

impl Visit for Message {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == AT {
            self.at = Some(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{value:?}");
        }
    }
}

/// A writer of JSON that escapes C1 control characters (U+0080 to U+009F) as well: JSON lets them through, and a terminal
/// that shows the log obeys them.
struct NoC1<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for NoC1<W> {
    type Writer = NoC1<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        NoC1(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for NoC1<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match str::from_utf8(bytes) {
            Ok(text) if text.contains(is_c1) => {
                let escape = |c: char| if is_c1(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
                let escaped: String = text.chars().map(escape).collect();
                self.0.write_all(escaped.as_bytes()).map(|()| bytes.len())
            }
            _ => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn is_c1(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}')
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn json_has_no_control_characters_of_its_own() {
        let mut json = NoC1(Vec::new());
        json.write_all("{\"a\":\"\u{9b}31m é\u{85}\"}\n".as_bytes()).expect("written");
        assert_eq!(str::from_utf8(&json.0), Ok("{\"a\":\"\\u009b31m é\\u0085\"}\n"));
    }
}

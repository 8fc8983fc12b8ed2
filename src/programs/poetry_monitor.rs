//! poetry-monitor as a program.

use std::fs::{File, OpenOptions};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Run, Service, ServiceArgs};
use crate::cli::listen::{ListenArgs, Trouble};
use crate::cli::{Error, SUCCESS, values};
use crate::metrics::Page;
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::server::monitor::{COLLECTOR, Config, MonitorServer, PAGES};

/// Show what servers do and what it costs, live, in a web page: an async collector of samples, and a feed for browsers
///
/// Servers connect to it and publish a sample once a second, over ZeroMQ's protocol: ours with --monitor, and any program
/// with a PUB socket that sends {"color": ..., "timestamp": ..., "cpu": ..., "mem": ...}. The page draws them as they come;
/// /feed is what it reads (server-sent events), /now the last sample of each source, and /metrics are the monitor's own.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it shows, and how.
    #[command(flatten)]
    pub service: MonitorArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct MonitorArgs {
    #[arg(long, help_heading = "Samples", value_name = "ADDR", default_value = "5555", value_parser = ListenArgs::parse)]
    #[arg(allow_hyphen_values = true)]
    #[arg(help = "Where servers report: PORT (on this machine), HOST:PORT or [IPv6]:PORT; 0 is any free port")]
    collect: ListenArgs,

    /// Keep samples for so long; a source that is silent for so long is gone
    #[arg(long, help_heading = "Samples", value_name = "DURATION", default_value = "10m")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    keep: Duration,

    /// Keep no more than so much of all samples together; the oldest go first
    #[arg(long, help_heading = "Samples", value_name = "SIZE", default_value = "4MiB")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    history: NonZeroUsize,

    /// Ignore what more sources than N say
    #[arg(long, help_heading = "Samples", value_name = "N", default_value = "64")]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    max_sources: NonZeroUsize,

    /// Close the connection of whoever sends a longer message
    #[arg(long, help_heading = "Samples", value_name = "SIZE", default_value = "64KiB")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    max_message: NonZeroUsize,

    /// Write all samples to a file, as lines of JSON, for --replay
    #[arg(long, help_heading = "Samples", value_name = "FILE", conflicts_with = "replay")]
    record: Option<PathBuf>,

    /// Play a record again instead of collecting anything
    #[arg(long, help_heading = "Samples", value_name = "FILE")]
    replay: Option<PathBuf>,

    /// With --replay: so many times as fast
    #[arg(long, help_heading = "Samples", value_name = "N", default_value = "1")]
    #[arg(value_parser = values::count::<NonZeroU32>(), allow_negative_numbers = true)]
    speed: NonZeroU32,

    /// What the page is called
    #[arg(long, help_heading = "Page", value_name = "TEXT", default_value = "poetry-monitor")]
    #[arg(value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    title: String,

    /// A name by which it may be called, beside localhost and IP addresses (several times: several names)
    #[arg(long = "host-name", help_heading = "Page", value_name = "NAME")]
    #[arg(value_parser = values::host_name)]
    host_name: Vec<String>,

    #[command(flatten)]
    service: ServiceArgs,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Whoever reaches the port of --collect may say anything in anybody's name, and whoever reaches --port may read it: keep both \
on this machine, or in a network of friends.

Examples:
  poetry-monitor --port 8088
      A monitor; then, in another terminal, and in a browser:
  fastpoetry --monitor 5555 science
  http://localhost:8088
      What it does and what that costs, once a second
  poetry-monitor --port 8088 --record lesson.jsonl
      The same, and all of it is written down
  poetry-monitor --port 8088 --replay lesson.jsonl --speed 10
      An hour again, in six minutes

Signals:
  SIGHUP reloads nothing, for there is nothing to reload. SIGUSR1 logs the totals. Neither ends it; but if the terminal that \
it was started on is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, and those who read the feed get its end. A second signal \
resets them at once.

Exit status:
  0    stopped
  1    a port is taken, or a record cannot be read or written
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-monitor", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (MonitorArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl Launch for MonitorArgs {
    fn program(&self) -> &'static str {
        "poetry-monitor"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        let door = |name, what: &str, listen| DoorArgs {
            name,
            what: what.to_owned(),
            listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        };
        let pages = door(PAGES, "Monitor", &self.service.listen);
        match self.replay {
            None => vec![pages, door(COLLECTOR, "Collecting", &self.collect)],
            Some(_) => vec![pages],
        }
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let args = self.clone();
        if self.speed.get() > 1 && self.replay.is_none() {
            return Err(("speed", Error::usage("--speed is about --replay, which is not given")));
        }
        let open = |path: &PathBuf| File::open(path).map_err(|error| Error::cannot("read", path.display(), &error));
        let replay = match &self.replay {
            None => None,
            Some(path) => {
                let file = open(path).map_err(|error| ("replay", error))?;
                Some((file, f64::from(self.speed.get()), path.clone()))
            }
        };
        Ok(Box::new(move || {
            let record = |path: &PathBuf| {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                opened.map_err(|error| Error::cannot("write", path.display(), &error))
            };
            let path = replay.as_ref().map(|(_, _, path)| path.display().to_string()).unwrap_or_default();
            let config = Config {
                keep: args.keep,
                history: args.history.get(),
                max_sources: args.max_sources.get(),
                max_message: args.max_message.get(),
                host_names: args.host_name,
                title: args.title,
                record: args.record.as_ref().map(record).transpose()?,
                replay: replay.map(|(file, speed, _)| (file, speed)),
            };
            let server =
                MonitorServer::new(config).map_err(|why| Error::failure(format!("cannot replay {path}: {why}")))?;
            Ok(Arc::new(server))
        }))
    }
}

impl Service for MonitorServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        service::prepare(doors, &self, limits)
    }

    fn report(&self, counts: &Counts) {
        service::tell_totals(counts);
        tracing::info!("Monitor: {}", self.totals());
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.add_metrics(page, labels);
    }

    fn end(&self) -> u8 {
        MonitorServer::end(self);
        SUCCESS
    }
}

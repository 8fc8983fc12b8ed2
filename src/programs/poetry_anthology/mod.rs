//! poetry-anthology as a program.

mod sources;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;
use tracing::{error, info};

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Reload, Run, Service, ServiceArgs};
use crate::address::Address;
use crate::cli::listen::Trouble;
use crate::cli::values::Known;
use crate::cli::{Error, SUCCESS, values};
use crate::client::Target;
use crate::metrics::Page;
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::server::anthology::{AnthologyServer, Config, Limits, Source, Transform};
use crate::sync::lock;
use crate::transforms;
use crate::units::count;

/// One page from many sources, as they come: an async server that fetches them at once, each with its own limits
///
/// A source is a poem server, a text over HTTP, a page (its title is shown) or a feed (its headlines are). Each stands on
/// the page as soon as it is there, and one that fails says why. / and /news are the page as it comes, /?wait all of it at once,
/// /anthology.json the same for programs, /source/NUMBER what one source has sent, and /metrics what it took.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it serves, and how.
    #[command(flatten)]
    pub service: AnthologyArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct AnthologyArgs {
    #[arg(value_name = "SOURCE", required_unless_present = "sources")]
    #[arg(help = "The sources: PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=")]
    source: Vec<Target>,

    /// Read more of them, and what is special about each, from FILE
    #[arg(long, help_heading = "Sources", value_name = "FILE")]
    sources: Option<PathBuf>,

    /// Give up a source that is not complete after so long
    #[arg(long, help_heading = "Sources", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = duration, allow_hyphen_values = true)]
    timeout: Duration,

    /// Give up a source that gives no connection, or no byte, for so long
    #[arg(long, help_heading = "Sources", value_name = "DURATION", default_value = "2s")]
    #[arg(value_parser = duration, allow_hyphen_values = true)]
    idle_timeout: Duration,

    /// Give up a source that is longer
    #[arg(long, help_heading = "Sources", value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    max_size: NonZeroUsize,

    /// Fetch at most N sources at once
    #[arg(short = 'j', long, help_heading = "Sources", value_name = "N", default_value = "1024")]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    max_concurrency: NonZeroUsize,

    /// And at most N from one HOST:PORT
    #[arg(long, help_heading = "Sources", value_name = "N", default_value = "2")]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    per_host: NonZeroUsize,

    /// Send each text through this transform; if that fails, show it as it was
    #[arg(long, help_heading = "Transform", value_name = "NAME", requires = "via")]
    #[arg(value_parser = Known { known: transforms, parse: values::transform }, hide_possible_values = true)]
    transform: Option<String>,

    /// The transform server
    #[arg(long, help_heading = "Transform", value_name = "ADDR", requires = "transform")]
    via: Option<Address>,

    /// Do not fetch again what is not older; 0: whatever it is
    #[arg(long, help_heading = "Page", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    ttl: Duration,

    /// For so long after that, show it with its age at once, and fetch it again for the next view; 0: wait for it
    #[arg(long, help_heading = "Page", value_name = "DURATION", default_value = "1h")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    stale: Duration,

    /// End a page after so long; what is still on its way is for the next view
    #[arg(long, help_heading = "Page", value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration, allow_hyphen_values = true)]
    page_timeout: Duration,

    /// What the page is called
    #[arg(long, help_heading = "Page", value_name = "TEXT", default_value = "An anthology")]
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

Each SOURCE has its limits, whatever the others do: a FILE has tables [[source]] with address and, if they are not to be as above, name, \
timeout, idle-timeout, max-size and kind (text, title or feed; else it is what the server says). Redirects are followed on their \
host only, and no more than 3. https:// is not spoken here; put socat or stunnel in front.

Examples:
  slowpoetry --port 10001 --rate 1k ecstasy
  slowpoetry --port 10002 --rate 500 science
  poetry-anthology --port 8080 donne=10001 poe=10002 10003
      Two servers, and one that is not there; then, in a browser: http://localhost:8080
  curl -N http://localhost:8080/
      The same as it comes
  poetry-anthology --ttl 0 --stale 0 10001 http://localhost:8000/feed.xml
      Everything anew for each view
  transformedpoetry --port 10100
  poetry-anthology --transform shout --via 10100 10001 10002
      All texts changed before they are shown
  poetry-anthology --sources news.toml
      Sources with limits of their own

Signals:
  SIGHUP forgets all that was fetched, and reads the FILE of --sources again. SIGUSR1 logs the totals. Neither ends it; but if \
the terminal that it was started on is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, and pages under way end without what has not come yet. A second \
signal resets them at once.

Exit status:
  0    stopped
  1    the port is taken, or the FILE cannot be read
  2    the command line or the FILE makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

fn transforms() -> Vec<&'static str> {
    transforms::ALL.iter().map(|transform| transform.name).collect()
}

/// Parses a duration that is no instant.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = values::duration(text)?;
    if duration.is_zero() { Err("it must be longer than 0".to_owned()) } else { Ok(duration) }
}

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-anthology", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (AnthologyArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl AnthologyArgs {
    fn limits(&self) -> Limits {
        Limits { timeout: self.timeout, idle_timeout: self.idle_timeout, max_size: self.max_size.get() }
    }

    fn read(&self) -> Result<Vec<Source>, Error> {
        let mut all = sources::of_words(&self.source, self.limits());
        if let Some(path) = &self.sources {
            all.extend(sources::read(path, self.limits())?);
        }
        Ok(all)
    }
}

impl Launch for AnthologyArgs {
    fn program(&self) -> &'static str {
        "poetry-anthology"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        vec![DoorArgs {
            name: "pages",
            what: "Anthology".to_owned(),
            listen: &self.service.listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        }]
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let sources = self.read().map_err(|error| ("sources", error))?;
        let mut args = self.clone();
        Ok(Box::new(move || {
            // Absolute, so that a reload works after chdir("/").
            if let Some(path) = &mut args.sources {
                *path = std::path::absolute(&*path).map_err(|error| Error::cannot("read", path.display(), &error))?;
            }
            let config = Config {
                title: args.title.clone(),
                host_names: args.host_name.clone(),
                page_timeout: args.page_timeout,
                ttl: args.ttl,
                stale: args.stale,
                jobs: args.max_concurrency.get(),
                per_host: args.per_host.get(),
                transform: args.transform.clone().zip(args.via.clone()).map(|(name, via)| Transform { name, via }),
            };
            let server = AnthologyServer::new(config, sources);
            let server = server.map_err(|error| Error::cannot("start", "the fetches", &error))?;
            Ok(Arc::new(AnthologyService { server: Arc::new(server), args, reloading: Mutex::new(()) }))
        }))
    }
}

/// An anthology, and where its sources are written down.
struct AnthologyService {
    server: Arc<AnthologyServer>,
    args: AnthologyArgs,
    /// Held while they are read again: the last one to be asked for is read last.
    reloading: Mutex<()>,
}

impl Service for AnthologyService {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        self.server.listens_at(doors.iter().map(service::address).collect::<Result<Vec<_>, _>>()?);
        service::prepare(doors, &self.server, limits)
    }

    fn reload(&self) -> Reload {
        let _in_turn = lock(&self.reloading);
        match self.args.read() {
            Ok(sources) => {
                let all = count(sources.len() as u64, "source");
                self.server.set_sources(sources);
                info!("Forgot all that was fetched; the page has {all} now");
                Reload::Done
            }
            Err(error) => {
                error!("Keeping the sources as they were: {}", error.message);
                Reload::Failed
            }
        }
    }

    fn report(&self, counts: &Counts) {
        service::tell_totals(counts);
        info!("Anthology: {}", self.server.totals());
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        self.server.figures().to_vec()
    }

    fn reload_mark(&self) -> &'static str {
        "cache cleared"
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.server.add_metrics(page, labels);
    }

    fn end(&self) -> u8 {
        self.server.end_fetches();
        SUCCESS
    }
}

//! poetry-proxy as a program.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tracing::{info, warn};

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Reload, Run, Service, ServiceArgs};
use super::upstream::not_itself;
use crate::address::Address;
use crate::cache::freshness::Policy;
use crate::cli::listen::Trouble;
use crate::cli::values::Limit;
use crate::cli::{Error, SUCCESS, values};
use crate::metrics::{Metric, Page};
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::proto::http::fresh::{Habits, Stale};
use crate::server::forward::{self, ForwardServer, Ports, Reach};
use crate::server::proxy::{Config, ProxyServer};
use crate::units::count;

/// Serve another server's poem from memory: an async caching proxy
///
/// The first client starts one fetch; everyone who comes while it runs shares it, and gets each byte as it arrives.
/// Later clients are served from memory. When the last client leaves before the end, the fetch is canceled. Only a
/// whole poem is ever cached; if upstream fails, the clients who wait are reset.
///
/// A poem too long to keep passes through at the pace of the slowest of those who share it. Who is behind by more than
/// the buffer and holds up others for a second is reset; whoever holds up nobody may be as slow as they like.
///
/// With --http it is a forward proxy: clients ask it for any URL (curl -x), replies are shared and kept as far as RFC 9111
/// lets a shared cache, and half a reply never looks whole. The Host of a request becomes that of its URL.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it serves, and how.
    #[command(flatten)]
    pub service: ProxyArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct ProxyArgs {
    #[arg(
        value_name = "UPSTREAM",
        required_unless_present = "http",
        conflicts_with = "http",
        help = "Where the poem comes from: PORT (on this machine), HOST:PORT or [IPv6]:PORT"
    )]
    upstream: Option<Address>,

    /// Forward GET and HEAD to whatever server a client asks for, instead of serving one poem
    #[arg(long)]
    http: bool,

    /// Fetch the poem again when it is so old [default: never]; with --http keep replies for so long that do not say
    #[arg(long, help_heading = "Cache", value_name = "DURATION")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    ttl: Option<Duration>,

    /// Serve an aged poem, or reply, for so long while it is fetched again in the background
    #[arg(long, help_heading = "Cache", value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    stale_while_revalidate: Duration,

    /// Serve an aged poem, or reply, however old, if it cannot be fetched again, or nothing comes for a second
    #[arg(long, help_heading = "Cache")]
    stale_if_error: bool,

    /// After a fetch that failed, serve an aged poem, or reply, for so long before upstream is asked again [default: 10s]
    #[arg(long, help_heading = "Cache", value_name = "DURATION", hide_short_help = true)]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    retry_after: Option<Duration>,

    /// Keep no poem, and no reply, that is longer; it passes through [default: 64MiB; with --http 1MiB]
    #[arg(long, help_heading = "Cache", value_name = "SIZE")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    max_size: Option<NonZeroUsize>,

    /// Hold no more than this of all poems together, kept or passing through; beyond it poems are not kept, and then
    /// fetches wait; a poem is kept if it is no longer than a third of it [default: 4 times --max-size]
    #[arg(long, help_heading = "Cache", value_name = "SIZE", conflicts_with = "http", hide_short_help = true)]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    max_memory: Option<NonZeroUsize>,

    /// Go on with a fetch when its last client has left
    #[arg(long, help_heading = "Cache")]
    keep_filling: bool,

    /// Give up an upstream that does not accept the connection, or sends nothing, for so long; 0: never
    #[arg(long, help_heading = "Cache", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    upstream_timeout: Limit,

    /// With --http: keep so many bytes of replies; those not asked for for longest go first [default: 64MiB]
    #[arg(long, help_heading = "Forwarding", value_name = "SIZE")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    cache_size: Option<NonZeroUsize>,

    /// With --http: whom clients may reach [default: any if it listens for this machine only, else public]
    #[arg(long, help_heading = "Forwarding", value_name = "WHOM", value_enum)]
    targets: Option<Targets>,

    /// With --http: the ports that CONNECT may lead to, as 443,8000-8999, or any [default: 443]
    #[arg(long, help_heading = "Forwarding", value_name = "PORTS")]
    connect: Option<Ports>,

    #[command(flatten)]
    service: ServiceArgs,
}

/// A [`Reach`] as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Targets {
    /// Anybody, but never link-local addresses and others that tell a machine in a cloud its secrets
    Any,
    /// Addresses of the public network only
    Public,
}

impl From<Targets> for Reach {
    fn from(targets: Targets) -> Self {
        match targets {
            Targets::Any => Self::Any,
            Targets::Public => Self::Public,
        }
    }
}

/// `--max-size` for poems, and for replies over HTTP.
const DEFAULT_SIZE: NonZeroUsize = NonZeroUsize::new(64 << 20).expect("not zero");
const DEFAULT_REPLY: NonZeroUsize = NonZeroUsize::new(1 << 20).expect("not zero");
/// `--retry-after`.
const DEFAULT_RETRY: Duration = Duration::from_secs(10);
/// `--cache-size`.
const DEFAULT_CACHE: NonZeroUsize = NonZeroUsize::new(64 << 20).expect("not zero");

/// `--max-memory`, in poems of `--max-size`: the one in the cache, the next one, and as much for what passes through.
const DEFAULT_MEMORY: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Examples:
  poetry-proxy --port 10100 10000
      One fetch from port 10000 for everybody
  poetry-proxy --port 10100 --ttl 1m --stale-if-error poems.example:10000
      A fresh poem every minute, or an old one if there is none
  poetry-proxy --ttl 10s --stale-while-revalidate 1m 10000
      Nobody waits but the first
  poetry-proxy 10000 --expect 'clients = 3' -- get-poetry --discard {} {} {}
      A proxy for as long as one command
  poetry-proxy --http --port 8000
      A forward proxy for this machine; then, in another terminal:
  curl -x localhost:8000 http://localhost:8001/
      Whatever is there, asked for once for all who ask at a time

Log:
  A line for each client: HIT (from memory), MISS (began a fetch), JOIN (shared one), STALE (an aged poem) or ABORT \
(left, or was reset), with bytes, time, and how many shared the fetch. -q keeps it short. With --http a line for each request: \
HIT, MISS, JOIN, STALE (too old, but still good, or better than none), BYPASS (for one client alone) or ERROR, with its status.

Signals:
  SIGHUP forgets the poem, or all replies. SIGUSR1 logs the totals. Neither ends it; but if the terminal that it was started on \
is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped
  1    the port is taken
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-proxy", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (ProxyArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl Launch for ProxyArgs {
    fn program(&self) -> &'static str {
        "poetry-proxy"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        let what = match &self.upstream {
            Some(upstream) => format!("Proxying {upstream}"),
            None => "Proxying HTTP".to_owned(),
        };
        vec![DoorArgs {
            name: "poem",
            what,
            listen: &self.service.listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        }]
    }

    fn upstream(&self) -> Option<&Address> {
        self.upstream.as_ref()
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let Some(upstream) = &self.upstream else { return Ok(self.resolve_forward()) };
        let forwarding = [
            ("cache-size", self.cache_size.is_some()),
            ("targets", self.targets.is_some()),
            ("connect", self.connect.is_some()),
        ];
        if let Some((flag, _)) = forwarding.into_iter().find(|(_, is_given)| *is_given) {
            return Err((flag, Error::usage(format!("--{flag} is about --http, which is not given"))));
        }
        let aged = [
            ("stale-while-revalidate", !self.stale_while_revalidate.is_zero()),
            ("stale-if-error", self.stale_if_error),
            ("retry-after", self.retry_after.is_some()),
        ];
        if let Some((flag, _)) = aged.into_iter().find(|(_, is_given)| *is_given && self.ttl.is_none()) {
            return Err((flag, Error::usage(format!("--{flag} is about poems that age: --ttl is missing"))));
        }
        if let Some(door) = self.service.listen.fixed() {
            not_itself(upstream, door).map_err(|why| ("upstream", Error::usage(why)))?;
        }
        let max_size = self.max_size.unwrap_or(DEFAULT_SIZE);
        let config = Config {
            upstream: upstream.clone(),
            policy: Policy {
                ttl: self.ttl,
                stale_while_revalidate: self.stale_while_revalidate,
                stale_if_error: self.stale_if_error,
                retry_after: self.retry_after.unwrap_or(DEFAULT_RETRY),
            },
            max_size: max_size.get(),
            max_memory: self.max_memory.unwrap_or(max_size.saturating_mul(DEFAULT_MEMORY)).get(),
            upstream_timeout: self.upstream_timeout.0,
            keep_filling: self.keep_filling,
        };
        let kept = (config.max_memory / 3) as u64;
        let keeps_less = self.max_memory.is_some() && kept < config.max_size as u64;
        Ok(Box::new(move || {
            if keeps_less {
                warn!(
                    kept,
                    "--max-memory keeps no poem of more than {}: longer ones pass through",
                    count(kept, "byte")
                );
            }
            let server = ProxyServer::new(config).map_err(|error| Error::cannot("start", "the fetches", &error))?;
            Ok(Arc::new(server))
        }))
    }
}

impl ProxyArgs {
    fn resolve_forward(&self) -> Open {
        let config = forward::Config {
            reach: self.targets.map(Reach::from),
            habits: Habits {
                ttl: self.ttl,
                stale: Stale {
                    while_revalidate: self.stale_while_revalidate,
                    if_error: if self.stale_if_error { Duration::MAX } else { Duration::ZERO },
                },
            },
            max_size: self.max_size.unwrap_or(DEFAULT_REPLY).get(),
            cache_size: self.cache_size.unwrap_or(DEFAULT_CACHE).get(),
            upstream_timeout: self.upstream_timeout.0,
            keep_filling: self.keep_filling,
            retry_after: self.retry_after.unwrap_or(DEFAULT_RETRY),
            connect: self.connect.clone().unwrap_or_default(),
        };
        Box::new(move || {
            let server = ForwardServer::new(&config).map_err(|error| Error::cannot("start", "the fetches", &error))?;
            Ok(Arc::new(server))
        })
    }
}

impl Service for ForwardServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        self.listens_at(doors.iter().map(service::address).collect::<Result<Vec<_>, _>>()?);
        service::prepare(doors, &self, limits)
    }

    fn reload(&self) -> Reload {
        self.forget();
        info!("Forgot all replies");
        Reload::Done
    }

    fn report(&self, counts: &Counts) {
        info!("Totals: {}", self.totals(counts.bytes()));
    }

    fn reload_mark(&self) -> &'static str {
        "cache cleared"
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        let [hits, misses, ..] = self.answers();
        vec![("hits", hits), ("misses", misses), ("kept", self.kept())]
    }

    fn end(&self) -> u8 {
        self.end_fetches();
        SUCCESS
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.add_metrics(page, labels);
    }
}

impl Service for ProxyServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        // A free port or an inherited socket is known only now.
        let addresses = doors.iter().map(service::address).collect::<Result<Vec<_>, _>>()?;
        for door in &addresses {
            not_itself(self.upstream(), *door).map_err(Error::failure)?;
        }
        self.listens_at(addresses);
        service::prepare(doors, &self, limits)
    }

    fn reload(&self) -> Reload {
        self.forget();
        info!("Forgot the poem");
        Reload::Done
    }

    fn report(&self, counts: &Counts) {
        info!("Totals: {}", self.totals(counts.bytes()));
    }

    fn reload_mark(&self) -> &'static str {
        "cache cleared"
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        let count = |words: &[&str]| {
            self.answers().into_iter().filter(|(word, _)| words.contains(word)).map(|(_, count)| count).sum()
        };
        vec![("hits", count(&["hit"])), ("misses", count(&["miss"])), ("buffered", self.buffered_bytes() as u64)]
    }

    fn end(&self) -> u8 {
        self.end_fetches();
        SUCCESS
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        const ANSWERS: Metric = Metric::counter("poetry_proxy_answers_total", "Clients by how they were answered.");
        const FETCHES: Metric = Metric::counter("poetry_proxy_fetches_total", "Fetches from upstream that were begun.");
        const ENDED: Metric = Metric::counter("poetry_proxy_fetches_ended_total", "Fetches from upstream by outcome.");
        const LET_GO: Metric =
            Metric::counter("poetry_proxy_let_go_total", "Clients that were reset because they held up others.");
        const BUFFERED: Metric = Metric::gauge(
            "poetry_proxy_buffered_bytes",
            "Memory in use for poems: under way, in the cache, and aged ones that are still being sent.",
        );
        const CACHED: Metric = Metric::gauge("poetry_proxy_cached_bytes", "Bytes in the cache.");
        for (answer, count) in self.answers() {
            page.add(ANSWERS, &[labels, &[("answer", answer)]].concat(), count);
        }
        page.add(FETCHES, labels, self.fetches());
        for (outcome, count) in self.ended_fetches() {
            page.add(ENDED, &[labels, &[("outcome", outcome)]].concat(), count);
        }
        page.add(LET_GO, labels, self.let_go());
        page.add(BUFFERED, labels, self.buffered_bytes() as u64);
        page.add(CACHED, labels, self.cached_bytes() as u64);
    }
}

//! poetry-library as a program.

mod proof;
mod prove;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, ValueEnum};
use tracing::warn;

use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Reload, Run, Service, ServiceArgs};
use crate::cache::coherent::Trust;
use crate::cli::listen::Trouble;
use crate::cli::{Error, FAILURE, SUCCESS, stdout, values};
use crate::metrics::Page;
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::proto::http::target::Url;
use crate::server::library::{self, Config, LibraryServer, MOST_CONNECTIONS, Target};
use proof::Assertion;

/// Lend out what is in a table of PostgreSQL: a JSON service over HTTP whose cache stays true
///
/// Patrons are made, read, changed and deleted at /patron; /metrics is for monitoring systems. Rows are kept in memory, and
/// the database tells each instance when one has changed, whoever changed it (LISTEN and NOTIFY); while it does not tell,
/// nothing is served from memory. --prove sees whether that is so.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it serves, and how.
    #[command(flatten)]
    pub service: LibraryArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct LibraryArgs {
    /// The database, like postgres://USER@HOST:PORT/NAME; without it DATABASE_URL says which one. Its password is PGPASSWORD
    #[arg(long, help_heading = "Database", value_name = "URL")]
    #[arg(value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    database: Option<String>,

    /// Have so many connections for statements, half of them for changes; one more is for announcements
    #[arg(long, help_heading = "Database", value_name = "N", default_value = "4")]
    #[arg(value_parser = values::whole::<usize>(2, MOST_CONNECTIONS.into()), allow_negative_numbers = true)]
    connections: usize,

    /// Give connecting so long
    #[arg(long, help_heading = "Database", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = limit, allow_hyphen_values = true)]
    connect_timeout: Duration,

    /// Give a statement so long
    #[arg(long, help_heading = "Database", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = limit, allow_hyphen_values = true)]
    statement_timeout: Duration,

    /// Make the table and its triggers, and exit; otherwise that is done at the start, if it is allowed
    #[arg(long, help_heading = "Database", conflicts_with = "prove")]
    init: bool,

    /// Keep so much of all rows together; 0: none
    #[arg(long, help_heading = "Cache", value_name = "SIZE", default_value = "64MiB")]
    #[arg(value_parser = values::size, allow_hyphen_values = true)]
    cache: u64,

    /// What is made of announcements: naive is for lessons, and serves old rows
    #[arg(long, help_heading = "Cache", value_name = "MODE", value_enum, default_value_t = CacheMode::True)]
    cache_mode: CacheMode,

    /// What becomes of a row in memory when it changes
    #[arg(long, help_heading = "Cache", value_name = "WHAT", value_enum, default_value_t = OnChange::Refetch)]
    on_change: OnChange,

    /// While the database is away, serve what was in memory before
    #[arg(long, help_heading = "Cache")]
    stale_if_error: bool,

    /// A name by which it may be called, beside localhost and IP addresses (several times: several names)
    #[arg(long = "host-name", help_heading = "Listening", value_name = "NAME")]
    #[arg(value_parser = values::host_name)]
    host_name: Vec<String>,

    /// For so long, write through the first of these URLs, read through all, and say for how long anybody saw an old row
    #[arg(long, help_heading = "Proof", value_name = "DURATION", requires = "urls")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    prove: Option<Duration>,

    /// With --prove: exit with 1 unless this holds, like 'stale < 50ms' (several times: several)
    #[arg(long = "assert", help_heading = "Proof", value_name = "EXPR", value_parser = Assertion::parse, requires = "prove")]
    asserts: Vec<Assertion>,

    /// With --prove: instances, like http://localhost:8000
    #[arg(value_name = "URL", requires = "prove")]
    urls: Vec<Url>,

    #[command(flatten)]
    service: ServiceArgs,
}

/// A time that is not too short to do anything in, and not too long for PostgreSQL.
fn limit(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let limit = values::duration(text)?;
    match (Duration::from_millis(1)..=LONGEST).contains(&limit) {
        true => Ok(limit),
        false => Err("it has to be from 1ms to 1day".to_owned()),
    }
}

/// What is made of announcements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CacheMode {
    /// Nothing that was announced to have changed is served from memory, and nothing at all while nobody listens
    True,
    /// A row that was read before it changed is kept, and the end of announcements is not noticed
    Naive,
}

/// What becomes of a row that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnChange {
    /// It is fetched again before anybody asks, if it was in memory or is new
    Refetch,
    /// It is fetched when somebody asks
    Forget,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

  POST /patron {\"name\": ..., \"fav_dish\": ...}    a new patron: {\"msg\":\"ok\",\"id\":37}
  GET /patron/37                               it, or 404 and null
  PUT /patron/37 {\"name\": ..., \"fav_dish\": ...}  another name and dish
  DELETE /patron/37                            no more
  GET /patron?after=0&limit=100                a list; Link says where it goes on

X-Cache says where a patron comes from: HIT (memory), MISS (the database), JOIN (the database, for somebody who asked just \
before), BYPASS (the database, because nobody listens or Cache-Control: no-cache asks for it), STALE (memory, because the \
database is away).

A connection to the database that is silently cut is noticed after 10s at most; until then an instance does not hear of \
changes. Any other end of it is noticed at once. What is done to the table itself (ALTER, a dump that is restored, triggers \
that are dropped) is noticed after 5s, and triggers that are missing are made again.

The database has to be there (createdb poems). A role other than its owner needs --init to be run by the owner before, and \
then SELECT, INSERT, UPDATE and DELETE on patron, and USAGE on patron_id_seq.

There are no accounts: whoever reaches the port may read and change everything. Keep it on this machine, or behind a server \
that knows its users. The password of the database is best in PGPASSWORD or DATABASE_URL, for ps(1) shows arguments.

Examples:
  poetry-library --database postgres://me@localhost/poems --port 8000
      An instance; then, in another terminal:
  curl -H 'Content-Type: application/json' -d '{\"name\": \"Carol\", \"fav_dish\": \"SPAM Bruschetta\"}' localhost:8000/patron
      A patron
  poetry-library --prove 30s --assert 'stale < 50ms' http://localhost:8000 http://localhost:8001
      Does anybody see an old row?

Signals:
  SIGHUP forgets what is in memory. SIGUSR1 logs the totals. Neither ends it; but if the terminal that it was started on is \
gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, requests under way are answered. A second signal resets \
them at once.

Exit status:
  0    stopped, or all is proved
  1    the port is taken, the database cannot be used, or an EXPR does not hold
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-library", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (LibraryArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

impl LibraryArgs {
    /// The database, and who knows its password.
    fn target(&self) -> Result<Target, Error> {
        let from_environment = env::var("DATABASE_URL").ok().filter(|url| !url.is_empty());
        let (Some(url), name) = (match &self.database {
            Some(url) => (Some(url.clone()), "--database"),
            None => (from_environment, "DATABASE_URL"),
        }) else {
            return Err(Error::usage(
                "which database? --database or DATABASE_URL has to say postgres://USER@HOST:PORT/NAME",
            ));
        };
        let target = Target::parse(&url, self.connect_timeout, self.statement_timeout)
            .map_err(|why| Error::usage(format!("{name} makes no sense: {why}")))?;
        if self.database.is_some() && target.has_password() {
            warn!("ps(1) shows the password in --database to everybody on this machine; PGPASSWORD is not shown");
        }
        Ok(target.with_password(env::var("PGPASSWORD").ok().as_deref()))
    }

    fn prove(&self, duration: Duration) -> Result<u8, Error> {
        let proof = prove::prove(duration, &self.urls)?;
        stdout::write_all(proof.to_string().as_bytes())?;
        let mut status = SUCCESS;
        for disappointment in self.asserts.iter().filter_map(|assertion| assertion.disappointment(&proof)) {
            tracing::error!("{disappointment}");
            status = FAILURE;
        }
        Ok(status)
    }
}

impl Launch for LibraryArgs {
    fn program(&self) -> &'static str {
        "poetry-library"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn one_shot(&self) -> Result<Option<u8>, Error> {
        if let Some(duration) = self.prove {
            return self.prove(duration).map(Some);
        }
        if !self.init {
            return Ok(None);
        }
        let is_made = library::create(&self.target()?).map_err(Error::failure)?;
        let said = if is_made { "The table patron and its triggers are made.\n" } else { "All is there already.\n" };
        stdout::write_all(said.as_bytes())?;
        Ok(Some(SUCCESS))
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        vec![DoorArgs {
            name: "pages",
            what: "Lending".to_owned(),
            listen: &self.service.listen,
            queue: Queue::Shared,
            trouble: Trouble::default(),
        }]
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        let target = self.target().map_err(|error| ("database", error))?;
        let config = Config {
            target,
            cache: usize::try_from(self.cache).unwrap_or(usize::MAX),
            trust: if self.cache_mode == CacheMode::Naive { Trust::Blind } else { Trust::Earned },
            refetches: self.on_change == OnChange::Refetch,
            serves_stale: self.stale_if_error,
            connections: self.connections,
            host_names: self.host_name.clone(),
        };
        Ok(Box::new(move || Ok(Arc::new(LibraryServer::new(config)))))
    }
}

impl Service for LibraryServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        self.open().map_err(Error::failure)?;
        service::prepare(doors, &self, limits)
    }

    fn reload(&self) -> Reload {
        self.forget();
        tracing::info!("All rows are forgotten");
        Reload::Done
    }

    fn report(&self, counts: &Counts) {
        service::tell_totals(counts);
        tracing::info!("Library: {}", self.totals());
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        LibraryServer::figures(self)
    }

    fn reload_mark(&self) -> &'static str {
        "cache cleared"
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.add_metrics(page, labels);
    }

    fn end(&self) -> u8 {
        LibraryServer::end(self);
        SUCCESS
    }
}

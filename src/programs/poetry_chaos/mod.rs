//! poetry-chaos as a program.

mod picture;
mod script;
mod trouble;

use std::io::{self, BufWriter};
use std::num::NonZeroU64;
use std::path::{self, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use tracing::{error, info};

use self::picture::{Painter, PictureArgs};
use self::script::Script;
use self::trouble::{Shared, TroubleArgs};
use super::faults::{check_record, in_flags, open_record};
use super::service::{
    self, DoorArgs, Launch, Nobody, Open, ProcessArgs, Queue, Reload, Run, Service, ServiceArgs, tell_totals,
};
use super::upstream::not_itself;
use crate::address::Address;
use crate::cli::listen::Trouble;
use crate::cli::stdout::Stdout;
use crate::cli::terminal::Screen;
use crate::cli::toml_args::ONE_SHOT;
use crate::cli::values::Limit;
use crate::cli::{Error, FAILURE, SUCCESS, values};
use crate::metrics::Page;
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::server::chaos::{Behaviour, ChaosServer, Conduct, Protocol, Scenario};
use crate::sync::lock;
use crate::units::{count, human};

/// Put trouble in front of any TCP or HTTP server, on demand, and the same trouble again
///
/// A proxy that passes connections on to UPSTREAM and disturbs some of them: of every hundred exactly as many as were
/// asked for. With --protocol http it is requests that are disturbed, be they on one connection or on many; what is no HTTP
/// is passed on as it is, with a word in the log. The end of a stream is passed on as the end of a stream, in each direction by itself, and a reset as a
/// reset. If upstream cannot be reached, its client is reset.
///
/// It runs in user space, needs no rights, and nothing of it is left when it ends, however that is. What the network does
/// to packets (loss, order) it cannot do: that is netem's, see tc-netem(8). To an application, loss looks like --jitter.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// What it disturbs, and how.
    #[command(flatten)]
    pub service: ChaosArgs,

    /// How it says that it is ready, and all else.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The service alone.
#[derive(Debug, Clone, clap::Args)]
pub struct ChaosArgs {
    #[arg(value_name = "UPSTREAM", help = "The server behind it: PORT (on this machine), HOST:PORT or [IPv6]:PORT")]
    upstream: Address,

    /// What is drawn for: each connection (tcp), or each request (http)
    #[arg(long, help_heading = "Behaviours", value_name = "WHICH", value_enum, default_value_t = ProtocolArg::Tcp)]
    #[arg(hide_possible_values = true)]
    protocol: ProtocolArg,

    #[command(flatten)]
    trouble: TroubleArgs,

    /// Draw each behaviour by itself: shares are what one may expect, and no more
    #[arg(long, help_heading = "Behaviours", hide_short_help = true)]
    chance: bool,

    /// Fix all draws [default: by chance, and logged]
    #[arg(long, help_heading = "Behaviours", value_name = "N")]
    #[arg(value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    seed: Option<u64>,

    /// Print what connections 1 to N will get, and exit
    #[arg(long, help_heading = "Behaviours", value_name = "N", group = ONE_SHOT)]
    #[arg(value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    rehearse: Option<u64>,

    /// Hold at most SIZE for the latency of all connections, beyond 256 KiB each
    #[arg(long, help_heading = "Pace", value_name = "SIZE", default_value = "256MiB")]
    #[arg(value_parser = values::size, allow_hyphen_values = true, hide_short_help = true)]
    buffer: u64,

    /// Write down what clients get and when, as fastpoetry --replay has it once more
    ///
    /// A line of JSON for each event, among them when and how clients leave.
    #[arg(long, help_heading = "Faults", value_name = "FILE", hide_short_help = true)]
    record: Option<PathBuf>,

    /// Reset the first N connections, or requests, at once
    #[arg(long, help_heading = "Faults", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    fail_first: Option<NonZeroU64>,

    /// Listen with a queue that is full: all connects time out
    #[arg(long, help_heading = "Faults", hide_short_help = true, conflicts_with_all = ["PaceArgs", "behavior", "latency", "corrupt", "fail_first", "script", "record", "rehearse", "backlog", "report", "timeline", "waterfall"])]
    never_accept: bool,

    /// What happens to connection 1, 2, 3, ..., and when (TOML); SIGHUP reads it again
    ///
    /// A table for each connection, for each time that is special, and one for all others, with the names of the flags as
    /// keys.
    #[arg(long, help_heading = "Faults", value_name = "FILE", conflicts_with_all = ["fail_first", "cut_at", "cut"])]
    script: Option<PathBuf>,

    /// Give up an upstream that does not accept the connection for so long; 0: never
    #[arg(long, help_heading = "Limits", value_name = "DURATION", default_value = "30s", hide_short_help = true)]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    connect_timeout: Limit,

    /// http: put the address of upstream into the field Host
    #[arg(long, help_heading = "Behaviours", hide_short_help = true)]
    rewrite_host: bool,

    #[command(flatten)]
    picture: PictureArgs,

    #[command(flatten)]
    service: ServiceArgs,
}

/// What is drawn for, as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProtocolArg {
    /// Connections
    Tcp,
    /// Requests
    Http,
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Behaviours:
  dummy      everything is passed on as it comes
  delay      upstream is asked --delay later; with --delay-after, its first byte is late
  error      upstream is not asked. tcp: a thousand bytes that follow from the seed, and the end of the stream; with --inject \
a hundred such bytes in the middle of what upstream says. http: a reply with one of the statuses of --error-status, whose \
body says that it was made here, and the connection goes on
  hang       what the client says is read, and nothing is said, until it leaves
  blackout   a reset at once; http: when the request is here
  transient  an error for the first --transient ones that draw it, and then nothing unusual
  abort      the first bytes of the client go up, or the whole request, and then both sides are reset

With --protocol http, --rate, --cut-at and what else is about bytes count each reply by itself, its head included.

In a script, each [[connection]] (its times: 1) is the next one, [[during]] is from and to a time since the start and wins \
over it, [others] are all others; seed may stand before them. What a table does not say is as on the command line.

Examples:
  poetry-chaos --port 8003 --behavior 25:error,50:delay --delay 500ms 8001
      Of every hundred connections 25 errors, 50 late, and 25 as they are
  poetry-chaos --behavior 5:hang,5:blackout --rate 1M --seed 7 db.example:5432
      A bad day for a database, which can be had again
  poetry-chaos --port 8002 --protocol http --behavior 100:delay --delay 1s 8001
      Each request is a second late, on kept connections, too
  poetry-chaos --script outage.toml 8001
      An outage at a certain time: [[during]] with from = '10s', to = '15s' and behavior = '100:blackout'
  poetry-chaos --cut-at 100 --direction up 8001
      Upstream gets a hundred bytes, and then both are reset
  poetry-chaos --rehearse 20 --behavior 25:error,50:delay --seed 7 8001
      What will happen to the first twenty
  poetry-chaos --record real.jsonl 8001
      What a real server did, for fastpoetry --replay
  poetry-chaos --timeline client.svg --waterfall 8001
      Who was connected when, and what came: of any client, at the end or on SIGUSR1
  poetry-chaos 10000 --behavior 100:blackout --expect 'clients = 3' -- get-poetry --retries 2 {}
      How often does a client try?

Signals:
  SIGUSR1 logs the totals, and writes and draws what --report, --timeline and --waterfall say; SIGHUP reads the script again, for all that come from then on. They do not end it; but if \
the terminal that it was started on is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped
  1    the script cannot be read, the port is taken, or the recording, report or picture cannot be written
  2    the command line makes no sense

  With a CMD it is that of CMD, if it is not 0 (127: there is none, 126: it cannot be executed); else 1 if an EXPR does \
not hold, or 130 after Ctrl-C";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-chaos", |args: Args| service::run(&args.service, &args.process))
}

impl From<Args> for (ChaosArgs, ProcessArgs) {
    fn from(args: Args) -> Self {
        (args.service, args.process)
    }
}

/// What happens, and what that is made of.
struct Resolved {
    scenario: Scenario,
    /// The seed of all draws.
    seed: u64,
    /// That it was drawn, and has to be told.
    is_drawn: bool,
}

impl ChaosArgs {
    fn is_http(&self) -> bool {
        self.protocol == ProtocolArg::Http
    }

    /// What happens. The seed `drawn` holds if nobody has given one.
    fn scenario(&self, drawn: u64) -> Result<Resolved, (&'static str, Error)> {
        let seed = self.seed.unwrap_or(drawn);
        let shared = Shared { seed, by_chance: self.chance, is_http: self.is_http() };
        if let Some(path) = &self.script {
            let Script { scenario, seed: own, has_chance } =
                script::read(path, &self.trouble, self.seed, shared).map_err(|error| ("script", error))?;
            let is_drawn = self.seed.is_none() && own.is_none() && has_chance;
            return Ok(Resolved { scenario, seed: self.seed.or(own).unwrap_or(drawn), is_drawn });
        }
        let disturbance = |args: &TroubleArgs| args.disturbance(shared).map_err(|(key, why)| (key, in_flags(why)));
        let failures = self.fail_first.map(|first| Ok((first, disturbance(&TroubleArgs::blackout())?))).transpose()?;
        let scenario = Scenario::new(failures, [], disturbance(&self.trouble)?);
        Ok(Resolved { scenario, seed, is_drawn: self.seed.is_none() && self.trouble.has_chance() })
    }
}

/// Logs a seed that nobody has given, so that it can be.
fn tell_seed(upstream: &Address, Resolved { seed, is_drawn, .. }: &Resolved) {
    if *is_drawn {
        info!(seed, "What happens to {upstream} is that of --seed {seed}");
    }
}

/// What the first connections get, or requests: a line each.
fn rehearse(scenario: &Scenario, last: u64, is_http: bool, to: &mut impl io::Write) -> io::Result<()> {
    let mut transients = 0;
    for number in 1..=last {
        let disturbance = scenario.at(number, None);
        let behaviour = disturbance.draw(number);
        let error = match is_http {
            true => format!("{} {}", Behaviour::Error.word(), disturbance.status(number)),
            false => Behaviour::Error.word().to_owned(),
        };
        let detail = match behaviour {
            Behaviour::Delay if disturbance.delay_after => format!("delay {} after", human(disturbance.delay)),
            Behaviour::Delay => format!("delay {}", human(disturbance.delay)),
            Behaviour::Error => error,
            Behaviour::Transient => {
                transients += 1;
                let is_error = transients <= disturbance.transient;
                format!("transient {}", if is_error { &error } else { Behaviour::Dummy.word() })
            }
            _ => behaviour.word().to_owned(),
        };
        writeln!(to, "{number} {detail}")?;
    }
    to.flush()
}

impl Launch for ChaosArgs {
    fn program(&self) -> &'static str {
        "poetry-chaos"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn one_shot(&self) -> Result<Option<u8>, Error> {
        let Some(last) = self.rehearse else { return Ok(None) };
        let resolved = self.scenario(fastrand::u32(..).into()).map_err(|(_, error)| error)?;
        tell_seed(&self.upstream, &resolved);
        if resolved.scenario.has_times() {
            info!("A rehearsal knows no times: this is what happens outside of all [[during]]");
        }
        let mut stdout = BufWriter::new(Stdout::new(Screen::default(), || {}));
        match rehearse(&resolved.scenario, last, self.is_http(), &mut stdout) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Error::cannot("write", "stdout", &error));
            }
            _ => {}
        }
        Ok(Some(SUCCESS))
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        let what = format!("Disturbing {}", self.upstream);
        vec![DoorArgs {
            name: "disturbed",
            what,
            listen: &self.service.listen,
            queue: if self.never_accept { Queue::Single(0) } else { Queue::Shared },
            trouble: Trouble::default(),
        }]
    }

    fn upstream(&self) -> Option<&Address> {
        Some(&self.upstream)
    }

    fn resolve(&self) -> Result<Open, (&'static str, Error)> {
        if let Some(door) = self.service.listen.fixed() {
            not_itself(&self.upstream, door).map_err(|why| ("upstream", Error::usage(why)))?;
        }
        if self.rewrite_host && !self.is_http() {
            return Err(("rewrite-host", in_flags("--rewrite-host is for --protocol http".to_owned())));
        }
        self.picture.check()?;
        check_record(self.record.as_deref(), &[(self.script.as_deref(), "the script")])?;
        let resolved = self.scenario(fastrand::u32(..).into())?;
        let protocol = match self.protocol {
            ProtocolArg::Tcp => Protocol::Tcp,
            ProtocolArg::Http => Protocol::Http { rewrite_host: self.rewrite_host },
        };
        let conduct = Conduct {
            upstream: self.upstream.clone(),
            protocol,
            connect_timeout: self.connect_timeout.0,
            buffer: usize::try_from(self.buffer).unwrap_or(usize::MAX),
        };
        let (never_accept, record, mut args) = (self.never_accept, self.record.clone(), self.clone());
        Ok(Box::new(move || {
            if never_accept {
                return Ok(Arc::new(Nobody));
            }
            tell_seed(&conduct.upstream, &resolved);
            let recorder = open_record(record.as_deref())?;
            // Absolute, so that a reload works after chdir("/").
            if let Some(script) = &mut args.script {
                *script = path::absolute(&script).map_err(|error| Error::cannot("read", script.display(), &error))?;
            }
            let painter = args.picture.painter(&conduct.upstream)?;
            let watcher = painter.as_ref().map(Painter::watcher);
            let server = Arc::new(ChaosServer::new(conduct, resolved.scenario, recorder, watcher));
            Ok(Arc::new(ChaosService { server, args, seed: resolved.seed, painter, reloading: Mutex::new(()) }))
        }))
    }
}

/// A chaos proxy that can read its script again.
struct ChaosService {
    server: Arc<ChaosServer>,
    args: ChaosArgs,
    seed: u64,
    /// Who draws what passes through, if somebody is to.
    painter: Option<Painter>,
    /// Held while the script is read again: the last one to be asked for is read last.
    reloading: Mutex<()>,
}

impl ChaosService {
    /// Draws what has passed through, if that is asked for; whether that could be done.
    fn paint(&self) -> bool {
        self.painter.as_ref().is_none_or(Painter::paint)
    }
}

impl Service for ChaosService {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        // A free port or an inherited socket is known only now.
        let addresses = doors.iter().map(service::address).collect::<Result<Vec<_>, _>>()?;
        for door in &addresses {
            not_itself(self.server.upstream(), *door).map_err(Error::failure)?;
        }
        self.server.listens_at(addresses);
        service::prepare(doors, &self.server, limits)
    }

    fn reload(&self) -> Reload {
        let Some(script) = self.args.script.as_ref().map(|path| path.display()) else { return Reload::Nothing };
        let _in_turn = lock(&self.reloading);
        match self.args.scenario(self.seed) {
            Ok(Resolved { scenario, .. }) => {
                self.server.set_scenario(scenario);
                info!("Read {script} again, for all that come from now on");
                Reload::Done
            }
            Err((_, error)) => {
                error!("{}; keeping the script as it was", error.message);
                Reload::Failed
            }
        }
    }

    fn report(&self, counts: &Counts) {
        tell_totals(counts);
        let drawn: Vec<String> = self
            .server
            .drawn()
            .filter(|(_, connections)| *connections > 0)
            .map(|(behaviour, connections)| format!("{connections} {}", behaviour.word()))
            .collect();
        if !drawn.is_empty() {
            let all = self.server.drawn().map(|(_, connections)| connections).sum();
            let what = if self.server.protocol() == Protocol::Tcp { "connection" } else { "request" };
            info!("Of {}: {}", count(all, what), drawn.join(", "));
        }
        self.paint();
    }

    fn end(&self) -> u8 {
        let (is_recorded, is_painted) = (self.server.finish(), self.paint());
        if is_recorded && is_painted { SUCCESS } else { FAILURE }
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        let disturbed = self.server.drawn().filter(|(behaviour, _)| *behaviour != Behaviour::Dummy);
        vec![("disturbed", disturbed.map(|(_, count)| count).sum())]
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.server.add_metrics(page, labels);
    }
}

//! poetry-chaos as a program.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, Parser};
use tracing::info;

use super::faults::{PaceArgs, Usual};
use super::service::{self, DoorArgs, Launch, Open, ProcessArgs, Queue, Run, Service, ServiceArgs, tell_totals};
use super::upstream::not_itself;
use crate::address::Address;
use crate::cli::listen::Trouble;
use crate::cli::toml_args::ONE_SHOT;
use crate::cli::values::Limit;
use crate::cli::{Error, FAILURE, SUCCESS, nearest, stdout, values};
use crate::metrics::Page;
use crate::net::counts::Counts;
use crate::net::{Door, ServerLimits};
use crate::pace::{Deck, Pace, Plan};
use crate::server::chaos::{Behaviour, ChaosServer, Directions, Disturbance};
use crate::server::recorder::Recorder;
use crate::units::{count, human};

/// Put trouble in front of any TCP server, on demand, and the same trouble again
///
/// A proxy that passes connections on to UPSTREAM and disturbs some of them: of every hundred exactly as many as were
/// asked for. The end of a stream is passed on as the end of a stream, in each direction by itself, and a reset as a
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
#[command(mut_args(own_names))]
pub struct ChaosArgs {
    #[arg(value_name = "UPSTREAM", help = "The server behind it: PORT (on this machine), HOST:PORT or [IPv6]:PORT")]
    upstream: Address,

    /// Behaviours, and of a hundred connections how many each, as in 25:error,50:delay; all others are passed on
    #[arg(long, alias = "behaviour", help_heading = "Behaviours", value_name = "LIST", value_parser = behaviours)]
    #[arg(allow_hyphen_values = true)]
    behavior: Option<Behaviours>,

    /// delay: the wait before the connection to upstream
    #[arg(id = "wait", long = "delay", help_heading = "Behaviours", value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    wait: Duration,

    /// delay: wait before upstream's first byte instead
    #[arg(long, help_heading = "Behaviours", hide_short_help = true)]
    delay_after: bool,

    /// error: put a hundred bytes after the first of upstream's, instead of a thousand in their place
    #[arg(long, help_heading = "Behaviours", hide_short_help = true)]
    inject: bool,

    /// transient: the first N that draw it are errors
    #[arg(long, help_heading = "Behaviours", value_name = "N", default_value_t = 1, hide_short_help = true)]
    #[arg(value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    transient: u64,

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

    #[command(flatten)]
    pace: PaceArgs,

    /// Have everything come so much later, in order, and not slower; --jitter varies it
    ///
    /// As from far away: what is under way is held here, 256 KiB of each connection at least.
    #[arg(long, help_heading = "Pace", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    latency: Option<Duration>,

    /// Hold at most SIZE for the latency of all connections, beyond 256 KiB each
    #[arg(long, help_heading = "Pace", value_name = "SIZE", default_value = "256MiB")]
    #[arg(value_parser = values::size, allow_hyphen_values = true, hide_short_help = true)]
    buffer: u64,

    /// Write down what clients get and when, as fastpoetry --replay has it once more
    ///
    /// A line of JSON for each event, among them when and how clients leave.
    #[arg(long, help_heading = "Faults", value_name = "FILE", hide_short_help = true)]
    record: Option<PathBuf>,

    /// Flip a bit in every SIZE bytes, at a place that follows from the seed
    #[arg(long, help_heading = "Faults", value_name = "SIZE", value_parser = values::rate, hide_short_help = true)]
    #[arg(allow_hyphen_values = true)]
    corrupt: Option<NonZeroU64>,

    /// Reset the first N connections at once
    #[arg(long, help_heading = "Faults", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    fail_first: Option<NonZeroU64>,

    /// The direction of pace, latency, cuts and corruption: down to the client, up to upstream, or both
    #[arg(long, help_heading = "Faults", value_name = "WHICH", value_enum, default_value_t = Direction::Down, hide_possible_values = true)]
    direction: Direction,

    /// Give up an upstream that does not accept the connection for so long; 0: never
    #[arg(long, help_heading = "Limits", value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    connect_timeout: Limit,

    #[command(flatten)]
    service: ServiceArgs,
}

/// `--delay` is a behaviour's here; the pause between two pieces is another word.
fn own_names(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "delay" => arg.long("pace").help("Time from one piece to the next [default: 0, or 100ms with --num-bytes]"),
        "num_bytes" => arg.help("Bytes in a piece [default: all, or 10 with --pace; with --rate 25 pieces a second]"),
        "first_byte_delay" => arg.help("Hold back the first byte for so long"),
        _ => arg,
    }
}

/// A direction, as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Direction {
    /// To the client
    Down,
    /// To upstream
    Up,
    /// Both
    Both,
}

/// A list of behaviours with their shares.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Behaviours(Vec<(Behaviour, u8)>);

fn behaviours(text: &str) -> Result<Behaviours, String> {
    let mut list: Vec<(Behaviour, u8)> = Vec::new();
    for part in text.split(',') {
        let (share, word) = part.split_once(':').ok_or(format!("'{part}' is no SHARE:BEHAVIOUR, as in 25:error"))?;
        let share = match share.parse::<u8>() {
            // Neither +5 nor 007.
            Ok(number) if number <= 100 && number.to_string() == share => number,
            _ => return Err(format!("'{part}': a share is a whole number from 0 to 100")),
        };
        let Some(behaviour) = Behaviour::ALL.into_iter().find(|behaviour| behaviour.word() == word) else {
            let known = || Behaviour::ALL.map(|behaviour| behaviour.word().to_owned()).into_iter();
            return Err(match nearest(word, known()) {
                Some(similar) => format!("there is no behaviour '{word}'; a similar one is '{similar}'"),
                None => {
                    format!("there is no behaviour '{word}'; there are {}", known().collect::<Vec<_>>().join(", "))
                }
            });
        };
        if list.iter().any(|(known, _)| *known == behaviour) {
            return Err(format!("'{word}' is there twice"));
        }
        list.push((behaviour, share));
    }
    match list.iter().map(|(_, share)| u32::from(*share)).sum::<u32>() {
        0..=100 => Ok(Behaviours(list)),
        sum => Err(format!("the shares come to {sum}, and there are a hundred")),
    }
}

const AFTER_HELP: &str = "\
Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes like 10, 10k, 64KiB or 1M.

Behaviours:
  dummy      everything is passed on as it comes
  delay      the connection to upstream is made --delay later; with --delay-after, upstream's first byte is late
  error      upstream is not asked: a thousand bytes that follow from the seed, and the end of the stream; with --inject a \
hundred such bytes in the middle of what upstream says
  hang       what the client says is read, and nothing is said, until it leaves
  blackout   a reset at once
  transient  an error for the first --transient connections that draw it, and then nothing unusual
  abort      the first bytes of the client go up, and then both sides are reset

Examples:
  poetry-chaos --port 8003 --behavior 25:error,50:delay --delay 500ms 8001
      Of every hundred connections 25 errors, 50 late, and 25 as they are
  poetry-chaos --behavior 5:hang,5:blackout --rate 1M --seed 7 db.example:5432
      A bad day for a database, which can be had again
  poetry-chaos --cut-at 100 --direction up 8001
      Upstream gets a hundred bytes, and then both are reset
  poetry-chaos --rehearse 20 --behavior 25:error,50:delay --seed 7 8001
      What will happen to the first twenty
  poetry-chaos --record real.jsonl 8001
      What a real server did, for fastpoetry --replay
  poetry-chaos 10000 --behavior 100:blackout --expect 'clients = 3' -- get-poetry --retries 2 {}
      How often does a client try?

Signals:
  SIGUSR1 logs the totals. It does not end it, and neither does SIGHUP; but if the terminal that it was started on \
is gone, SIGHUP stops it, unless nohup started it.

  SIGINT (Ctrl-C) and SIGTERM stop it: new clients are refused, those being served finish within the grace time \
or are reset. A second signal resets them at once.

Exit status:
  0    stopped
  1    the port is taken, or the recording cannot be written
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

impl ChaosArgs {
    /// What is done to connections, and the seed if it was drawn.
    fn disturbance(&self) -> Result<(Disturbance, Option<u64>), (&'static str, Error)> {
        let mut pace = self.pace.clone();
        let jitter = if self.latency.is_some() { pace.take_jitter() } else { None };
        let latency = self.latency.map(|latency| (latency, jitter.unwrap_or_default()));
        let pace = pace.pace(Usual::AtOnce).map_err(|why| ("jitter", Error::usage(why + "; see --help")))?;
        let behaviours = self.behavior.clone().map(|list| list.0).unwrap_or_default();
        let needs_chance =
            !behaviours.is_empty() || self.corrupt.is_some() || !pace.jitter.is_zero() || jitter.is_some();
        let drawn = (self.seed.is_none() && needs_chance).then(|| fastrand::u32(..).into());
        let seed = self.seed.or(drawn).unwrap_or_default();
        if self.direction != Direction::Down && pace == Pace::default() && self.corrupt.is_none() && latency.is_none() {
            let why = "--direction is about pace, latency, cuts and corruption, and none is given; see --help";
            return Err(("direction", Error::usage(why)));
        }
        let shares = behaviours.iter().map(|(_, share)| *share).collect();
        let disturbance = Disturbance {
            deck: Deck::new(seed, shares, self.chance),
            behaviours,
            delay: self.wait,
            delay_after: self.delay_after,
            inject: self.inject,
            transient: self.transient,
            fail_first: self.fail_first.map_or(0, NonZeroU64::get),
            plan: Plan::uniform(seed, pace),
            latency,
            directions: Directions { up: self.direction != Direction::Down, down: self.direction != Direction::Up },
            corrupt: self.corrupt,
            seed,
            connect_timeout: self.connect_timeout.0,
        };
        Ok((disturbance, drawn))
    }
}

/// Logs a seed that nobody has given, so that it can be.
fn tell_seed(upstream: &Address, drawn: Option<u64>) {
    if let Some(seed) = drawn {
        info!(seed, "What happens to {upstream} is that of --seed {seed}");
    }
}

/// What the first connections get: a line each.
fn rehearsal(disturbance: &Disturbance, connections: u64) -> String {
    let (mut lines, mut transients) = (String::new(), 0);
    for number in 1..=connections {
        let behaviour = disturbance.draw(number);
        let detail = match behaviour {
            Behaviour::Delay if disturbance.delay_after => format!(" {} after", human(disturbance.delay)),
            Behaviour::Delay => format!(" {}", human(disturbance.delay)),
            Behaviour::Transient => {
                transients += 1;
                let is_error = transients <= disturbance.transient;
                format!(" {}", if is_error { Behaviour::Error.word() } else { Behaviour::Dummy.word() })
            }
            _ => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{number} {}{detail}", behaviour.word());
    }
    lines
}

impl Launch for ChaosArgs {
    fn program(&self) -> &'static str {
        "poetry-chaos"
    }

    fn common(&self) -> &ServiceArgs {
        &self.service
    }

    fn one_shot(&self) -> Result<Option<u8>, Error> {
        let Some(connections) = self.rehearse else { return Ok(None) };
        let (disturbance, drawn) = self.disturbance().map_err(|(_, error)| error)?;
        tell_seed(&self.upstream, drawn);
        stdout::write_all(rehearsal(&disturbance, connections).as_bytes())?;
        Ok(Some(SUCCESS))
    }

    fn doors(&self) -> Vec<DoorArgs<'_>> {
        let what = format!("Disturbing {}", self.upstream);
        vec![DoorArgs {
            name: "disturbed",
            what,
            listen: &self.service.listen,
            queue: Queue::Shared,
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
        let (disturbance, drawn) = self.disturbance()?;
        let (upstream, buffer) = (self.upstream.clone(), usize::try_from(self.buffer).unwrap_or(usize::MAX));
        let record = self.record.clone();
        Ok(Box::new(move || {
            tell_seed(&upstream, drawn);
            let open =
                |path: &PathBuf| Recorder::open(path).map_err(|error| Error::cannot("write", path.display(), &error));
            let recorder = record.as_ref().map(open).transpose()?;
            Ok(Arc::new(ChaosServer::new(upstream, disturbance, buffer, recorder)))
        }))
    }
}

impl Service for ChaosServer {
    fn prepare(self: Arc<Self>, doors: Vec<Door>, limits: &ServerLimits) -> Result<Run, Error> {
        // A free port or an inherited socket is known only now.
        let addresses = doors.iter().map(service::address).collect::<Result<Vec<_>, _>>()?;
        for door in &addresses {
            not_itself(self.upstream(), *door).map_err(Error::failure)?;
        }
        self.listens_at(addresses);
        service::prepare(doors, &self, limits)
    }

    fn report(&self, counts: &Counts) {
        tell_totals(counts);
        let drawn: Vec<String> = self
            .drawn()
            .filter(|(_, connections)| *connections > 0)
            .map(|(behaviour, connections)| format!("{connections} {}", behaviour.word()))
            .collect();
        if !drawn.is_empty() {
            let all = self.drawn().map(|(_, connections)| connections).sum();
            info!("Of {}: {}", count(all, "connection"), drawn.join(", "));
        }
    }

    fn end(&self) -> u8 {
        if self.finish() { SUCCESS } else { FAILURE }
    }

    fn metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.add_metrics(page, labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_shares_and_words() {
        let list = |text: &str| behaviours(text).map(|list| list.0);
        assert_eq!(list("25:error,50:delay"), Ok(vec![(Behaviour::Error, 25), (Behaviour::Delay, 50)]));
        assert_eq!(list("20:delay,10:dummy"), Ok(vec![(Behaviour::Delay, 20), (Behaviour::Dummy, 10)]));
        assert_eq!(list("0:error"), Ok(vec![(Behaviour::Error, 0)]));
        for (text, why) in [
            ("25", "'25' is no SHARE:BEHAVIOUR, as in 25:error"),
            ("", "'' is no SHARE:BEHAVIOUR, as in 25:error"),
            ("25:error,", "'' is no SHARE:BEHAVIOUR, as in 25:error"),
            ("-5:error", "'-5:error': a share is a whole number from 0 to 100"),
            ("+5:error", "'+5:error': a share is a whole number from 0 to 100"),
            ("101:error", "'101:error': a share is a whole number from 0 to 100"),
            ("25:eror", "there is no behaviour 'eror'; a similar one is 'error'"),
            ("25:x", "there is no behaviour 'x'; there are dummy, delay, error, hang, blackout, transient, abort"),
            ("10:error,20:error", "'error' is there twice"),
            ("51:error,50:delay", "the shares come to 101, and there are a hundred"),
        ] {
            assert_eq!(list(text), Err(why.to_owned()), "{text}");
        }
    }
}

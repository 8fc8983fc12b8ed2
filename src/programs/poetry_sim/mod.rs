//! poetry-sim as a program.

mod calibrate;
mod cost_file;
mod outcome;
mod samples;
mod step;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::StyledStr;
use clap::{Arg, Parser};

use self::cost_file::CostPlace;
use self::outcome::Row;
use super::client_args::{self, DrawingArgs, MOST_POEMS, check_picture};
use super::faults::{FaultArgs, Usual};
use super::limit_args::LimitArgs;
use crate::cli::values::Known;
use crate::cli::{Error, FAILURE, SUCCESS, values};
use crate::client::{Model, Order, Source};
use crate::poem::{NamedPoem, Poem};
use crate::report::Report;
use crate::sim::{self, Costs, Kind, Link, Machine, Scenario, Servers};

/// Run the clients in virtual time: with as many poems, as far away, on as small a machine as you like
///
/// The life of each poem and the pace of each server are those of the real programs; sockets, processors and time are not
/// there. What each call takes is a cost model's, which is measured on this machine with --calibrate. The same command line gives
/// the same report, to the byte.
#[derive(Debug, Parser)]
#[command(version, after_long_help = after_help())]
#[command(mut_args(own_words))]
pub struct Args {
    /// Only these models: blocking, threads, select, async; all: each of them
    #[arg(long, help_heading = "Runs", value_name = "MODEL", value_delimiter = ',', default_value = "all")]
    #[arg(value_parser = Known { known: models, parse: models_of }, hide_possible_values = true)]
    model: Vec<Models>,

    /// Servers, all alike but for their seeds
    #[arg(long, help_heading = "Runs", value_name = "N", default_value = "3")]
    #[arg(value_parser = values::whole::<NonZeroU32>(1, MOST_POEMS as u64), allow_negative_numbers = true)]
    servers: NonZeroU32,

    /// Poems in all [default: one from each server]
    ///
    /// The first ones come from the first server, and so on.
    #[arg(long, help_heading = "Runs", value_name = "N")]
    #[arg(value_parser = values::whole::<NonZeroU32>(1, MOST_POEMS as u64), allow_negative_numbers = true)]
    poems: Option<NonZeroU32>,

    /// Simulate each of these numbers of poems, as in 1,1000,1000000, each from its own server
    #[arg(long, help_heading = "Runs", value_name = "N", value_delimiter = ',', conflicts_with_all = ["servers", "poems"])]
    #[arg(value_parser = values::whole::<NonZeroU32>(1, MOST_POEMS as u64), allow_negative_numbers = true)]
    sweep: Vec<NonZeroU32>,

    /// What each server is: slow, one client at a time, as slowpoetry; or fast, as fastpoetry
    #[arg(long, help_heading = "Servers", value_name = "KIND", value_enum, default_value = "slow")]
    server: ServerKind,

    /// The poem: a file, or one that is built in [default: ecstasy]
    #[arg(long, help_heading = "Servers", value_name = "FILE", conflicts_with = "size")]
    #[arg(help = "The poem: a file, or one that is built in [default: ecstasy]")]
    poem: Option<PathBuf>,

    /// A poem of so many bytes
    #[arg(long, help_heading = "Servers", value_name = "SIZE", value_parser = sizes, allow_hyphen_values = true)]
    size: Option<usize>,

    #[command(flatten)]
    faults: FaultArgs,

    /// Length of the queue of connections not yet accepted
    #[arg(long, help_heading = "Servers", value_name = "N")]
    #[arg(help = "Length of the queue of connections not yet accepted [default: 128; of fast ones 4096]")]
    #[arg(value_parser = values::whole::<u32>(0, u32::MAX.into()), allow_negative_numbers = true)]
    backlog: Option<u32>,

    /// The time from a server and back; --jitter varies it then, and no longer the pace
    #[arg(long, help_heading = "Link", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    rtt: Option<Duration>,

    /// Lose so many of a hundred segments, up to 50: TCP sends them again
    #[arg(long, help_heading = "Link", value_name = "PERCENT", value_parser = percent, default_value = "0")]
    #[arg(allow_negative_numbers = true)]
    loss: f64,

    #[command(flatten, next_help_heading = "Limits of each client")]
    limits: LimitArgs,

    /// Write the poems, too, to a stream that takes its time, and say how much waits for its turn: in the order of completion, or
    /// of request, the first unfinished poem live
    #[arg(long, help_heading = "Limits of each client", value_name = "ORDER", value_enum)]
    #[arg(help = "Write the poems, too, in the order of completion or request, and say how much waits for its turn")]
    order: Option<WriteOrder>,

    /// Descriptors that a client may have [default: any number]
    #[arg(long, help_heading = "Machine", value_name = "N")]
    #[arg(value_parser = values::count::<u64>(), allow_negative_numbers = true)]
    open_files: Option<u64>,

    /// Processors of the client's machine
    #[arg(long, help_heading = "Machine", value_name = "N", default_value = "2")]
    #[arg(value_parser = values::whole::<NonZeroU32>(1, 100_000), allow_negative_numbers = true)]
    processors: NonZeroU32,

    /// Threads that the system gives a client at most
    #[arg(long, help_heading = "Machine", value_name = "N", default_value = "32000")]
    #[arg(value_parser = values::whole::<NonZeroU32>(1, u64::from(u32::MAX) - 1), allow_negative_numbers = true)]
    threads: NonZeroU32,

    /// Address space of the stack of a thread
    #[arg(long, help_heading = "Machine", value_name = "SIZE", default_value = "2MiB")]
    #[arg(value_parser = values::positive_size, allow_hyphen_values = true)]
    stack: NonZeroUsize,

    /// Take what each call costs from FILE, as --calibrate writes it; default: from the table below
    ///
    /// The word default stands for that table, whatever has been measured on this machine.
    #[arg(long, help_heading = "Costs", value_name = "FILE")]
    costs: Option<PathBuf>,

    /// Measure what each call costs on this machine, and write it into FILE [default: where runs look for it]
    ///
    /// Real clients run beside a real server for the best part of a minute, which wants a machine with nothing else to do. Runs
    /// look for it in XDG_CACHE_HOME or ~/.cache, as poetry-sim.json.
    #[arg(long, help_heading = "Costs", value_name = "FILE", num_args = 0..=1, default_missing_value = "")]
    #[arg(conflicts_with_all = NOT_TO_CALIBRATE)]
    #[arg(
        help = "Measure what each call costs on this machine, and write it into FILE [default: where runs look for it]"
    )]
    calibrate: Option<PathBuf>,

    /// Print the report of each model as JSON: a line, or a list of several
    #[arg(long, help_heading = "Result", group = "form", conflicts_with = "step")]
    json: bool,

    /// Print the result as CSV, one row a run
    #[arg(long, help_heading = "Result", group = "form", conflicts_with = "step")]
    csv: bool,

    /// Print the result as a Markdown table
    #[arg(long, help_heading = "Result", group = "form")]
    markdown: bool,

    /// Tell each event before the result, one line each; on a terminal Enter leads to the next one
    #[arg(long, help_heading = "Result", conflicts_with = "sweep")]
    step: bool,

    /// Draw what each poem was doing when, as a picture in FILE (SVG)
    #[arg(long, help_heading = "Result", value_name = "FILE", conflicts_with = "sweep")]
    timeline: Option<PathBuf>,

    /// Draw the same on stderr, in characters
    #[arg(long, help_heading = "Result", conflicts_with = "sweep")]
    waterfall: bool,

    /// Draw time, processor time and memory over the numbers of poems of --sweep, as a picture in FILE (SVG)
    #[arg(long, help_heading = "Result", value_name = "FILE", requires = "sweep")]
    chart: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Result")]
    drawing: DrawingArgs,
}

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
enum ServerKind {
    Slow,
    Fast,
}

/// The order in which poems are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
enum WriteOrder {
    Completion,
    Request,
}

/// One word of `--model`.
#[derive(Debug, Clone, Copy)]
enum Models {
    All,
    One(Model),
}

fn models() -> Vec<&'static str> {
    let mut models = client_args::models();
    models.push("all");
    models
}

fn models_of(text: &str) -> Result<Models, String> {
    if text == "all" { Ok(Models::All) } else { client_args::model(text).map(Models::One) }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>();
    let share = number.ok().filter(|percent| (0.0..=50.0).contains(percent));
    share.map(|percent| percent / 100.0).ok_or_else(|| "it must be a number from 0 to 50".to_owned())
}

/// The longest poem of `--size`: it is in memory.
const LONGEST_POEM: usize = 1 << 30;

fn sizes(text: &str) -> Result<usize, String> {
    let size = usize::try_from(values::size(text)?).ok().filter(|size| *size <= LONGEST_POEM);
    size.ok_or_else(|| "it must be 1 GiB at most".to_owned())
}

/// The flags of the servers mean the same here, with other defaults; some need a server that is there.
fn own_words(arg: Arg) -> Arg {
    let arg = if IN_LONG_HELP.contains(&arg.get_id().as_str()) { arg.hide_short_help(true) } else { arg };
    match arg.get_id().as_str() {
        "seed" => arg.help("Fix all chance [default: 0]").long_help(StyledStr::from(SEED)).help_heading("Runs"),
        "delay" => arg.help("Time from one piece to the next [default: 100ms, or 0 of fast servers]"),
        "num_bytes" => {
            arg.help("Bytes in a piece [default: 10, or all of fast servers; with --rate 25 pieces a second]")
        }
        "jitter" => {
            arg.help("Make each delay, or with --rtt each way, shorter or longer by chance, by so much at most")
        }
        "record" | "rehearse" => arg.hide(true),
        _ => arg,
    }
}

/// What is less often asked for.
const IN_LONG_HELP: [&str; 21] = [
    "poems",
    "chart",
    "backlog",
    "first_byte_delay",
    "cycle",
    "never_accept",
    "listen_after",
    "never_read",
    "script",
    "replay",
    "connect_timeout",
    "idle_timeout",
    "order",
    "processors",
    "threads",
    "stack",
    "csv",
    "markdown",
    "compact",
    "animate",
    "size",
];

/// What says which runs are simulated, and what is to be told of them: a calibration has its own.
const NOT_TO_CALIBRATE: [&str; 14] = [
    "model",
    "servers",
    "poems",
    "sweep",
    "server",
    "costs",
    "json",
    "csv",
    "markdown",
    "step",
    "timeline",
    "waterfall",
    "chart",
    "order",
];

const SEED: &str = "\
Fix all chance [default: 0]

The first server's jitter is that of a slowpoetry with this seed, the second one's has the next number, and so on.";

const EXAMPLES: &str = "\
Examples:
  poetry-sim --servers 3 --waterfall
      Three slow poems, in no time
  poetry-sim --step --servers 1 --model select --num-bytes 1000
      One event at a time, for somebody who wants to follow
  poetry-sim --server fast --servers 1000000 --rtt 200ms --open-files 20000
      A million poems from far away, 20,000 descriptors
  poetry-sim --model threads --server fast --servers 100000 --rtt 1s --threads 100000 --stack 8MiB
      What a hundred thousand stacks take
  poetry-sim --sweep 1,10,100,1000,10000,100000 --server fast --num-bytes 100 --rtt 100ms --jitter 20ms --chart sweep.svg
      A picture, over the number of poems
  poetry-sim --servers 20 --fail-first 1 --retries 3 --rtt 80ms --loss 2 --seed 7 --timeline run.svg
      Faults, retries, and segments that get lost

Exit status:
  0    all poems arrived
  1    some did not, or something failed
  2    the command line makes no sense";

/// What the help says at its end, with the table of what each call costs.
fn after_help() -> String {
    let costs = Costs::default();
    let rows: Vec<[String; 3]> = costs.rows().collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (names, values) = (width(0), width(1));
    let line = |[name, value, what]: &[String; 3]| format!("  {name:names$} {value:>values$}  {what}\n");
    let table: String = rows.iter().map(line).collect();
    format!(
        "Durations are like 100ms, '1m 30s' or a bare number of seconds; sizes are like 10, 10k, 64KiB or 1M bytes.\n\n\
         What each model is taken to do stands in docs/what-waiting-costs-at-a-million.md, and so does what is left out: \
         bandwidth, full buffers, and the processor time of servers.\n\n\
         Costs:\n{table}\n{EXAMPLES}"
    )
}

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run("poetry-sim", |args| run(&args))
}

fn run(args: &Args) -> Result<u8, Error> {
    if let Some(file) = &args.calibrate {
        return calibrate::run(file, args.open_files);
    }
    check_picture(args.timeline.as_deref())?;
    check_picture(args.chart.as_deref())?;
    args.drawing.check(args.timeline.is_some(), args.waterfall).map_err(|(_, error)| error)?;
    let (costs, place) = cost_file::costs(args.costs.as_deref())?;
    let narrator = args.step.then(step::narrator);
    let (mut rows, mut kept) = (Vec::new(), Vec::new());
    let mut json = args.json.then(|| outcome::Json::begin(args.runs()));
    for number in args.numbers() {
        let (scenario, warning) = args.scenario(number, &costs)?;
        if let Some(warning) = warning {
            outcome::say(&format!("{warning}\n"));
        }
        for model in args.models() {
            if args.step && args.models().len() > 1 {
                step::begin(model);
            }
            let report = sim::run(model, &scenario, narrator.as_ref());
            rows.push(Row::of(&report, model));
            match &mut json {
                Some(json) => json.add(&report)?,
                None if args.timeline.is_some() || args.waterfall => kept.push(report),
                None => {}
            }
        }
    }
    args.tell(&rows, json, &place)?;
    args.draw(&rows, &kept)?;
    Ok(if rows.iter().all(|row| row.missing == 0) { SUCCESS } else { FAILURE })
}

impl Args {
    /// The models, each once, in the order in which they are named.
    fn models(&self) -> Vec<Model> {
        let mut models = Vec::new();
        for word in &self.model {
            let named = match word {
                Models::All => Model::ALL.to_vec(),
                Models::One(model) => vec![*model],
            };
            for model in named {
                if !models.contains(&model) {
                    models.push(model);
                }
            }
        }
        models
    }

    /// The numbers of servers and of poems of each scenario.
    fn numbers(&self) -> Vec<(NonZeroU32, NonZeroU32)> {
        if self.sweep.is_empty() {
            return vec![(self.servers, self.poems.unwrap_or(self.servers))];
        }
        self.sweep.iter().map(|number| (*number, *number)).collect()
    }

    fn runs(&self) -> usize {
        self.numbers().len() * self.models().len()
    }

    /// The scenario of so many servers and poems, and a warning about it.
    fn scenario(
        &self,
        (servers, poems): (NonZeroU32, NonZeroU32),
        costs: &Costs,
    ) -> Result<(Scenario, Option<String>), Error> {
        if poems < servers {
            return Err(Error::usage(format!("{servers} servers have more than {poems} poems; see --help")));
        }
        let mut faults = self.faults.clone();
        let jitter = if self.rtt.is_some() { faults.take_jitter() } else { None };
        let seed = self.faults.seed().unwrap_or_default();
        let (kind, usual, backlog) = match self.server {
            ServerKind::Slow => (Kind::Slow, Usual::Slow, super::slowpoetry::BACKLOG),
            ServerKind::Fast => (Kind::Fast, Usual::AtOnce, crate::cli::listen::BACKLOG),
        };
        let named = NamedPoem::find(self.poem.as_deref().unwrap_or("ecstasy".as_ref()));
        let poem = match self.size {
            Some(size) => Poem::from(vec![b'.'; size]),
            None => named.load().map_err(|error| Error::cannot("serve", &named, &error))?,
        };
        let faults = faults.simulate(usual, &named, seed)?;
        let sources = sources(servers, poems);
        let open_files = self.open_files.unwrap_or(u64::MAX);
        let (concurrency, warning) = self.limits.concurrency(&sources, open_files, 1);
        let scenario = Scenario {
            servers: Servers {
                number: servers,
                kind,
                plan: faults.plan,
                poem,
                backlog: self.backlog.unwrap_or(backlog),
                never_accept: faults.never_accept,
                listen_after: faults.trouble.listen_after.unwrap_or_default(),
                never_read: faults.trouble.never_read,
            },
            link: Link { rtt: self.rtt.unwrap_or_default(), jitter: jitter.unwrap_or_default(), loss: self.loss },
            sources,
            limits: self.limits.of_each(concurrency),
            order: self.order.map(|order| match order {
                WriteOrder::Completion => Order::Completion,
                WriteOrder::Request => Order::Request { retries: self.limits.retries > 0, by_line: false },
            }),
            machine: Machine {
                costs: costs.clone(),
                processors: self.processors,
                threads: self.threads,
                stack: self.stack.get() as u64,
            },
            seed,
            with_events: self.json || self.timeline.is_some(),
        };
        Ok((scenario, warning))
    }

    /// Prints the result.
    fn tell(&self, rows: &[Row], json: Option<outcome::Json>, place: &CostPlace) -> Result<(), Error> {
        match json {
            Some(json) => json.end(),
            None if self.csv => outcome::print(&outcome::csv(rows)),
            None => outcome::print(&outcome::for_people(rows, self.markdown, place)),
        }
    }

    /// Draws the pictures.
    fn draw(&self, rows: &[Row], kept: &[Report]) -> Result<(), Error> {
        if let Some(path) = &self.chart {
            outcome::write_picture(path, &outcome::chart(rows))?;
        }
        if kept.is_empty() {
            return Ok(());
        }
        let chart = self.drawing.chart(kept);
        if self.waterfall {
            outcome::say(&format!("\n{}", outcome::in_characters(&chart)));
        }
        self.timeline.as_ref().map_or(Ok(()), |path| outcome::write_picture(path, &self.drawing.svg(&chart)))
    }
}

/// Where so many poems come from: addresses in 10.0.0.0/8 (RFC 1918), one for each server.
fn sources(servers: NonZeroU32, poems: NonZeroU32) -> Arc<[Source]> {
    const FIRST: u32 = 0x0a00_0001;
    let server = |poem: u32| sim::server_of(poem, servers.get(), poems.get());
    let address = |poem| SocketAddr::from((Ipv4Addr::from(FIRST + server(poem)), 10_000)).into();
    (0..poems.get()).map(|poem| Source::Poem(address(poem))).collect()
}

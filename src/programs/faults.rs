//! Pace and faults: the flags of both poem servers, and the files that say the same of each connection.

use std::io::{self, BufWriter, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::info;

use crate::cli::toml_args::{File, ONE_SHOT, TomlTable};
use crate::cli::{Error, SUCCESS, is_same_file, read_text, values};
use crate::pace::recording::{self, rehearse};
use crate::pace::{Cut, CutAt, Ending, Pace, Plan, Tempo};
use crate::poem::Poem;
use crate::server::fault_plan::FaultPlan;
use crate::server::recorder::Recorder;

/// The flags about how a poem is given out on a connection; the keys of a table in a script, too.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Pace")]
pub struct PaceArgs {
    /// Time from one piece to the next
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    #[arg(conflicts_with = "rate")]
    #[arg(help = "Time from one piece to the next [default: 100ms]")]
    delay: Option<Duration>,

    /// Bytes in a piece
    #[arg(long, value_name = "SIZE", value_parser = values::positive_size, allow_hyphen_values = true)]
    #[arg(help = "Bytes in a piece [default: 10; with --rate 25 pieces a second]")]
    num_bytes: Option<NonZeroUsize>,

    /// Bytes a second, instead of a delay
    #[arg(long, value_name = "SIZE", value_parser = values::rate, allow_hyphen_values = true)]
    rate: Option<NonZeroU64>,

    /// Make each delay shorter or longer by chance, by so much at most
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    jitter: Option<Duration>,

    /// Accept, and then be silent for so long
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    first_byte_delay: Option<Duration>,

    /// End early: after so many bytes (100, 64KiB), or so long after accept (3s, 1m)
    #[arg(long, help_heading = "Faults", value_name = "BYTES|DURATION", value_parser = values::cut_at)]
    #[arg(allow_hyphen_values = true)]
    cut_at: Option<CutAt>,

    /// How it ends then
    #[arg(long, help_heading = "Faults", value_name = "HOW", value_enum, requires = "cut_at")]
    #[arg(help = "How it ends then: like a whole poem, with a reset, or in silence for ever [default: rst]")]
    cut: Option<How>,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// As if the poem were complete
    Fin,
    /// With a reset
    Rst,
    /// By silence for ever
    Hang,
}

/// The flags about misbehaviour.
#[derive(Debug, Clone, clap::Args)]
pub struct FaultArgs {
    #[command(flatten)]
    pace: PaceArgs,

    /// Fix the draws of the jitter: the same seed, the same schedules [default: by chance, and logged]
    #[arg(long, help_heading = "Faults", value_name = "N")]
    seed: Option<u64>,

    /// Reset the first N connections at once
    #[arg(long, help_heading = "Faults", value_name = "N")]
    fail_first: Option<NonZeroU64>,

    /// Listen with the shortest queue, and accept nobody: further connects time out
    #[arg(long, help_heading = "Faults", conflicts_with_all = ["PaceArgs", "seed", "fail_first", "script", "record", "replay", "rehearse"])]
    #[arg(conflicts_with = "backlog")]
    never_accept: bool,

    /// What happens to connection 1, 2, 3, ... and to all others, as a TOML file has it
    #[arg(long, help_heading = "Faults", value_name = "FILE", conflicts_with_all = ["fail_first", "cut_at", "cut"])]
    script: Option<PathBuf>,

    /// Write down what is really sent to whom and when, a line of JSON for each event
    #[arg(long, help_heading = "Faults", value_name = "FILE")]
    record: Option<PathBuf>,

    /// Treat each connection as it was once recorded, and begin again after the last
    #[arg(long, help_heading = "Faults", value_name = "FILE", conflicts_with_all = ["PaceArgs", "seed", "fail_first", "script"])]
    replay: Option<PathBuf>,

    /// Print what the first N connections would get, as a recording, and exit
    #[arg(long, help_heading = "Faults", value_name = "N", conflicts_with = "record", group = ONE_SHOT)]
    rehearse: Option<u64>,

    #[arg(skip)]
    asked: OnceLock<Box<Asked>>,
}

/// What a server does of which nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usual {
    /// Ten bytes every tenth of a second.
    Slow,
    /// The whole poem at once.
    AtOnce,
}

/// The keys of one connection's table in a script.
#[derive(Debug, clap::Args)]
struct ConnectionArgs {
    #[command(flatten)]
    pace: PaceArgs,
    /// Reset at once.
    #[arg(long, conflicts_with = "PaceArgs")]
    fail: bool,
    /// For so many connections.
    #[arg(long)]
    times: Option<NonZeroU64>,
}

impl PaceArgs {
    const NUM_BYTES: u64 = 10;
    const DELAY: Duration = Duration::from_millis(100);
    /// With a rate and nothing else: few enough to cost little, enough to look steady.
    const PIECES_A_SECOND: u64 = 25;

    /// What these flags ask for; where they say nothing, the usual.
    fn pace(&self, usual: Usual) -> Result<Pace, String> {
        let first_byte_delay = self.first_byte_delay.unwrap_or_default();
        let at_once = usual == Usual::AtOnce && self.delay.is_none() && self.num_bytes.is_none();
        let (usual_bytes, tempo) = match self.rate {
            Some(rate) => (rate.get() / Self::PIECES_A_SECOND, Tempo::Rate(rate)),
            None if at_once => (u64::MAX, Tempo::Delay(Duration::ZERO)),
            None => (Self::NUM_BYTES, Tempo::Delay(self.delay.unwrap_or(Self::DELAY))),
        };
        let num_bytes = self.num_bytes.map_or(usual_bytes, |bytes| bytes.get() as u64);
        if self.jitter.is_some() && first_byte_delay.is_zero() && tempo == Tempo::Delay(Duration::ZERO) {
            return Err("there is no delay that jitter could vary".to_owned());
        }
        Ok(Pace {
            first_byte_delay,
            num_bytes: NonZeroU64::new(num_bytes).unwrap_or(NonZeroU64::MIN),
            tempo,
            jitter: self.jitter.unwrap_or_default(),
            cut: self.cut_at.map(|at| Cut { at, how: self.cut.unwrap_or(How::Rst).into() }),
        })
    }

    /// The same where they say something, and as `base` has it where they do not.
    fn over(self, base: &Self) -> Self {
        let (delay, rate) = match (self.delay, self.rate) {
            (None, None) => (base.delay, base.rate),
            own => own,
        };
        Self {
            delay,
            rate,
            num_bytes: self.num_bytes.or(base.num_bytes),
            jitter: self.jitter.or(base.jitter),
            first_byte_delay: self.first_byte_delay.or(base.first_byte_delay),
            ..self
        }
    }
}

impl From<How> for Ending {
    fn from(how: How) -> Self {
        match how {
            How::Fin => Self::Fin,
            How::Rst => Self::Rst,
            How::Hang => Self::Hang,
        }
    }
}

impl FaultArgs {
    /// Whether nobody is to be accepted.
    pub fn never_accept(&self) -> bool {
        self.never_accept
    }

    /// The pace of all connections, if they are all alike to the end.
    pub fn steady_pace(&self, usual: Usual) -> Option<Pace> {
        let pace = self.pace.pace(usual).ok()?;
        let is_steady = pace.jitter.is_zero() && pace.cut.is_none();
        let is_alone = self.script.is_none() && self.replay.is_none() && self.fail_first.is_none();
        (is_steady && is_alone).then_some(pace)
    }

    /// Looks for what can be wrong with a server of this poem; what is wrong comes with the name of the flag.
    ///
    /// # Errors
    /// The flags, the script or the recording make no sense, or cannot be read.
    pub fn check(&self, usual: Usual, poem: &Path) -> Result<(), (&'static str, Error)> {
        self.asked(usual)?;
        let Some(path) = &self.record else { return Ok(()) };
        let used =
            [(Some(poem), "served"), (self.replay.as_deref(), "replayed"), (self.script.as_deref(), "the script")];
        match used.iter().find(|(used, _)| used.is_some_and(|used| is_same_file(path, used))) {
            Some((_, what)) => {
                Err(("record", Error::usage(format!("cannot record into {}, which is {what}", path.display()))))
            }
            None => Ok(()),
        }
    }

    /// How a server of this poem is to treat its clients. Opens the recording, if there is to be one.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), or the recording cannot be written.
    pub fn fault_plan(&self, usual: Usual, poem: &Path) -> Result<FaultPlan, Error> {
        self.check(usual, poem).map_err(|(_, error)| error)?;
        let plan = self.plan(usual, poem)?;
        let recorder = self
            .record
            .as_ref()
            .map(|path| Recorder::open(path).map_err(|error| Error::cannot("write", path.display(), &error)));
        Ok(FaultPlan::new(plan, recorder.transpose()?))
    }

    /// Instead of serving: prints what would be sent to the first connections, if that is asked for.
    ///
    /// # Errors
    /// As for [`fault_plan`](Self::fault_plan); the poem cannot be read, or stdout cannot be written.
    pub fn rehearse(&self, usual: Usual, file: &Path) -> Result<Option<u8>, Error> {
        let Some(connections) = self.rehearse else { return Ok(None) };
        let poem = Poem::load(file).map_err(|error| Error::cannot("serve", file.display(), &error))?;
        let plan = self.plan(usual, file)?;
        let mut stdout = BufWriter::new(io::stdout().lock());
        let len = poem.bytes().len() as u64;
        let mut entries = (1..=connections).flat_map(|number| rehearse(number, plan.schedule(number), len));
        let written = entries.try_for_each(|entry| stdout.write_all(entry.line().as_bytes()));
        match written.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::cannot("write", "stdout", &error)),
            _ => Ok(Some(SUCCESS)),
        }
    }

    /// The plan for a server of this poem. A seed that is drawn for it is logged.
    fn plan(&self, usual: Usual, poem: &Path) -> Result<Plan, Error> {
        let script = match self.asked(usual).map_err(|(_, error)| error)? {
            Asked::Replay(plan) => return Ok(plan.clone()),
            Asked::Script(script) => script.clone(),
        };
        let seed = script.seed.unwrap_or_else(|| {
            let seed = fastrand::u32(..).into();
            if script.has_jitter() {
                info!(seed, "The jitter of {} is that of --seed {seed}", poem.display());
            }
            seed
        });
        Ok(Plan::script(seed, script.first, script.others))
    }

    /// What the flags, and the file that they name, ask for. The file is read once: it may be a pipe.
    fn asked(&self, usual: Usual) -> Result<&Asked, (&'static str, Error)> {
        if self.asked.get().is_none() {
            let _ = self.asked.set(Box::new(self.ask(usual)?));
        }
        Ok(self.asked.get().expect("just set"))
    }

    fn ask(&self, usual: Usual) -> Result<Asked, (&'static str, Error)> {
        if let Some(path) = &self.replay {
            return replay(path).map(Asked::Replay).map_err(|error| ("replay", error));
        }
        let mut script = match &self.script {
            Some(path) => Script::read(path, &self.pace, usual).map_err(|error| ("script", error))?,
            None => Script::new(self.pace.pace(usual).map_err(|why| ("jitter", in_flags(why)))?),
        };
        if let Some(times) = self.fail_first {
            script.first.push((times, Pace::failure()));
        }
        if self.seed.is_some() && !script.has_jitter() {
            return Err(("seed", in_flags("there is no --jitter whose draws a seed could fix".to_owned())));
        }
        script.seed = self.seed.or(script.seed);
        Ok(Asked::Script(script))
    }
}

/// What a server is asked to do.
#[derive(Debug, Clone)]
enum Asked {
    Replay(Plan),
    Script(Script),
}

/// What a script says.
#[derive(Debug, Clone)]
struct Script {
    seed: Option<u64>,
    first: Vec<(NonZeroU64, Pace)>,
    others: Pace,
}

#[derive(clap::Args)]
struct ScriptArgs {
    #[arg(long)]
    seed: Option<u64>,
}

impl Script {
    const CONNECTION: &str = "connection";
    const OTHERS: &str = "others";

    fn new(others: Pace) -> Self {
        Self { seed: None, first: Vec::new(), others }
    }

    fn read(path: &Path, base: &PaceArgs, usual: Usual) -> Result<Self, Error> {
        let file = File::read(path)?;
        let parsed = file.parse()?;
        let whole = file.table(&parsed);
        let seed = whole.args::<ScriptArgs>(&[Self::CONNECTION, Self::OTHERS])?.seed;
        let connection = |table: &TomlTable<'_>| {
            let args: ConnectionArgs = table.args(&[])?;
            let pace = if args.fail { Ok(Pace::failure()) } else { args.pace.over(base).pace(usual) };
            Ok((args.times.unwrap_or(NonZeroU64::MIN), pace.map_err(|why| table.wrong("jitter", &why))?))
        };
        let first = whole.tables(Self::CONNECTION)?.iter().map(connection).collect::<Result<_, Error>>()?;
        let others = match whole.table(Self::OTHERS)? {
            Some(table) => {
                let args: PaceArgs = table.args(&[])?;
                args.over(base).pace(usual).map_err(|why| table.wrong("jitter", &why))?
            }
            None => base.pace(usual).map_err(in_flags)?,
        };
        let script = Self { seed, first, others };
        if seed.is_some() && !script.has_jitter() {
            return Err(whole.wrong("seed", "seed: there is no jitter whose draws it could fix"));
        }
        Ok(script)
    }

    fn has_jitter(&self) -> bool {
        self.first.iter().map(|(_, pace)| pace).chain([&self.others]).any(|pace| !pace.jitter.is_zero())
    }
}

fn in_flags(why: String) -> Error {
    Error::usage(why + "; see --help")
}

fn replay(path: &Path) -> Result<Plan, Error> {
    let text = read_text(path)?;
    let connections = recording::parse(&text)
        .map_err(|error| Error::usage(format!("{}:{}: {}", path.display(), error.line, error.why)))?;
    if connections.is_empty() {
        return Err(Error::usage(format!("{}: there is no connection to replay", path.display())));
    }
    Ok(Plan::replay(connections))
}

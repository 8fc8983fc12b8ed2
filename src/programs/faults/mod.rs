//! Pace and faults: the flags of both poem servers, and what they come to.
//!
//! [`FaultArgs`] is what was typed. [`FaultArgs::resolve`] turns it, once, into [`Faults`], which is what a server
//! works with; the script or the recording that a flag names is read there and nowhere else, because it may be a pipe.

mod pace_args;
mod script;

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::info;

use self::script::Script;
use crate::cli::listen::Trouble;
use crate::cli::toml_args::ONE_SHOT;
use crate::cli::{Error, SUCCESS, is_same_file, read_text, values};
use crate::pace::recording::{self, rehearse};
use crate::pace::{Pace, Plan};
use crate::poem::NamedPoem;
use crate::server::fault_plan::FaultPlan;
use crate::server::recorder::Recorder;
use crate::units::human;

pub use self::pace_args::{PaceArgs, Usual};

/// The flags about pace and faults, as typed.
#[derive(Debug, Clone, clap::Args)]
pub struct FaultArgs {
    #[command(flatten)]
    pace: PaceArgs,

    /// Fix the draws of the jitter [default: by chance, and logged]
    ///
    /// The same seed gives the same schedules, on every machine.
    #[arg(long, help_heading = "Faults", value_name = "N")]
    #[arg(value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    seed: Option<u64>,

    /// Reset the first N connections at once
    #[arg(long, help_heading = "Faults", value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    fail_first: Option<NonZeroU64>,

    /// Treat connection N + 1 as the first one again, and so on
    ///
    /// Its faults are the same, and so are the draws of its jitter: where every client of a race gets N poems from this
    /// server, each has the same luck.
    #[arg(long, help_heading = "Faults", value_name = "N", conflicts_with = "replay")]
    #[arg(value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    cycle: Option<NonZeroU64>,

    /// Listen with a queue that is full: all connects time out
    #[arg(long, help_heading = "Faults", conflicts_with_all = ["PaceArgs", "seed", "fail_first", "cycle", "script", "record", "replay", "rehearse"])]
    #[arg(conflicts_with_all = ["backlog", "never_read", "listen_after"])]
    never_accept: bool,

    /// Refuse connections for so long after the start
    ///
    /// Like a server that is being restarted. The port is taken, and nobody listens there yet.
    #[arg(long, help_heading = "Faults", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    listen_after: Option<Duration>,

    /// Read nothing of what clients send
    ///
    /// Those who send much are stuck with it. The poem is sent all the same; the connection ends when the client
    /// leaves.
    #[arg(long, help_heading = "Faults")]
    never_read: bool,

    /// What happens to connection 1, 2, 3, ... (TOML)
    ///
    /// A table for each connection and one for all others, with the names of the flags as keys.
    #[arg(long, help_heading = "Faults", value_name = "FILE", conflicts_with_all = ["fail_first", "cut_at", "cut"])]
    script: Option<PathBuf>,

    /// Write down what is really sent to whom and when
    ///
    /// A line of JSON for each event, among them when and how clients leave.
    #[arg(long, help_heading = "Faults", value_name = "FILE")]
    record: Option<PathBuf>,

    /// Treat each connection as it was once recorded
    ///
    /// After the last one the first one comes again.
    #[arg(long, help_heading = "Faults", value_name = "FILE", conflicts_with_all = ["PaceArgs", "seed", "fail_first", "script"])]
    replay: Option<PathBuf>,

    /// Print what the first N connections would get, and exit
    ///
    /// As a recording: a line of JSON for each event.
    #[arg(long, help_heading = "Faults", value_name = "N", conflicts_with = "record", group = ONE_SHOT)]
    #[arg(value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    rehearse: Option<u64>,
}

/// The faults of a server, resolved: everything is read and checked, nothing is opened, and nothing is logged yet.
#[derive(Debug, Clone)]
pub struct Faults {
    /// What happens on which connection.
    pub plan: Plan,
    /// The file of the recording, if there is to be one.
    pub record: Option<PathBuf>,
    /// Print what so many connections would get, instead of serving.
    pub rehearse: Option<u64>,
    /// Listen and accept nobody.
    pub never_accept: bool,
    /// What is special about the listeners.
    pub trouble: Trouble,
    /// The pace of all connections, if all of them get the whole poem at a pace without chance.
    pub steady: Option<Pace>,
    /// The poem that is served.
    poem: NamedPoem,
    /// The seed of the jitter, if it was not given.
    drawn: Option<u64>,
}

impl FaultArgs {
    /// What is special about the listeners. The flags alone, without a look at any file.
    pub fn trouble(&self) -> Trouble {
        Trouble { never_read: self.never_read, listen_after: self.listen_after }
    }

    /// Whether nobody is to be accepted. The flag alone, for the listener, whose queue has to be short then.
    pub fn never_accept(&self) -> bool {
        self.never_accept
    }

    /// Whether a rehearsal is asked for. The flag alone, without a look at any file.
    pub fn is_rehearsal(&self) -> bool {
        self.rehearse.is_some()
    }

    /// Resolves the flags for a server of this poem, which need not exist. To be called once: it reads the
    /// script or the recording to be replayed, which may be a pipe, and draws a seed if none is given. An error comes
    /// with the name of its flag.
    ///
    /// # Errors
    /// The flags, the script or the recording make no sense together, or cannot be read; the new recording would be
    /// written into a file that is read.
    pub fn resolve(&self, usual: Usual, poem: &NamedPoem) -> Result<Faults, (&'static str, Error)> {
        self.resolve_with(usual, poem, None)
    }

    /// The same for servers that are simulated: their seed is this one if none is given, and may be another one's, too.
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve); or something is asked for that only a real server can do.
    pub(super) fn simulate(&self, usual: Usual, poem: &NamedPoem, seed: u64) -> Result<Faults, Error> {
        let needs_a_server = [("--record", self.record.is_some()), ("--rehearse", self.rehearse.is_some())];
        if let Some((flag, _)) = needs_a_server.into_iter().find(|(_, is_given)| *is_given) {
            return Err(Error::usage(format!("{flag} is for a server that is there, and these are simulated")));
        }
        self.resolve_with(usual, poem, Some(seed)).map_err(|(_, error)| error)
    }

    /// The jitter of the pace, which is taken away from it, for whatever else is to jitter.
    pub(super) fn take_jitter(&mut self) -> Option<Duration> {
        self.pace.take_jitter()
    }

    /// The seed that was given.
    pub(super) fn seed(&self) -> Option<u64> {
        self.seed
    }

    fn resolve_with(
        &self,
        usual: Usual,
        poem: &NamedPoem,
        other_seed: Option<u64>,
    ) -> Result<Faults, (&'static str, Error)> {
        let (plan, steady, drawn) = match &self.replay {
            Some(path) => (replay(path).map_err(|error| ("replay", error))?, None, None),
            None => {
                let script = self.script(usual, other_seed)?;
                let drawn = (script.seed.is_none() && script.has_jitter()).then(|| fastrand::u32(..).into());
                let steady = script.steady().filter(|_| self.script.is_none());
                // Without jitter nothing is drawn, whatever the seed is.
                let seed = script.seed.or(drawn).unwrap_or_default();
                (Plan::script(seed, script.first, script.others).cycle(self.cycle), steady, drawn)
            }
        };
        let (replay, script) = (self.replay.as_deref(), self.script.as_deref());
        let read = [(poem.file(), "served"), (replay, "replayed"), (script, "the script")];
        check_record(self.record.as_deref(), &read)?;
        Ok(Faults {
            plan,
            record: self.record.clone(),
            rehearse: self.rehearse,
            never_accept: self.never_accept,
            trouble: self.trouble(),
            steady,
            poem: poem.clone(),
            drawn,
        })
    }

    /// The script of the file, or of the flags alone. A seed on the command line wins over the file's.
    fn script(&self, usual: Usual, other_seed: Option<u64>) -> Result<Script, (&'static str, Error)> {
        let mut script = match &self.script {
            Some(path) => Script::read(path, &self.pace, usual).map_err(|error| ("script", error))?,
            None => Script::new(self.pace.pace(usual).map_err(|why| ("jitter", in_flags(why)))?),
        };
        if let Some(times) = self.fail_first {
            script.first.push((times, Pace::failure()));
        }
        if self.seed.is_some() && other_seed.is_none() && !script.has_jitter() {
            return Err(("seed", in_flags("there is no --jitter whose draws a seed could fix".to_owned())));
        }
        script.seed = self.seed.or(script.seed).or(other_seed);
        Ok(script)
    }
}

/// Whether the recording, if there is one, may be written: into none of the files that are read, each with what it is.
pub(super) fn check_record(record: Option<&Path>, read: &[(Option<&Path>, &str)]) -> Result<(), (&'static str, Error)> {
    let Some(path) = record else { return Ok(()) };
    match read.iter().find(|(used, _)| used.is_some_and(|used| is_same_file(path, used))) {
        Some((_, what)) => {
            Err(("record", Error::usage(format!("cannot record into {}, which is {what}", path.display()))))
        }
        None => Ok(()),
    }
}

/// Opens the recording, if there is to be one. A file that is there is written anew, if it is a recording.
pub(super) fn open_record(record: Option<&Path>) -> Result<Option<Recorder>, Error> {
    if let Some(path) = record.filter(|path| is_something_else(path)) {
        let why = "it is there, and is no recording";
        return Err(Error::failure(format!("cannot write {}: {why}", path.display())));
    }
    let open = |path: &Path| Recorder::open(path).map_err(|error| Error::cannot("write", path.display(), &error));
    record.map(open).transpose()
}

/// Whether there is an ordinary file with something in it that does not begin as a recording does. (What cannot be read is
/// told when it is to be written.)
fn is_something_else(path: &Path) -> bool {
    const START: &[u8] = b"{\"connection\":";
    let mut start = Vec::new();
    let mut read = || File::open(path)?.take(START.len() as u64).read_to_end(&mut start);
    path.is_file() && read().is_ok() && !start.is_empty() && start != START
}

impl Faults {
    /// The plan at work, for a server that is going to serve. Logs the seed if it was drawn, and opens the recording.
    ///
    /// # Errors
    /// The recording cannot be written.
    pub fn open(&self) -> Result<FaultPlan, Error> {
        self.tell_seed();
        if let Some(after) = self.trouble.listen_after {
            info!("Connections are refused for {}", human(after));
        }
        Ok(FaultPlan::new(self.plan.clone(), open_record(self.record.as_deref())?))
    }

    /// Prints the rehearsal instead of serving, if one is asked for, and returns the exit status. Logs the seed if it
    /// was drawn.
    ///
    /// # Errors
    /// The poem cannot be read, or stdout cannot be written.
    pub fn one_shot(&self) -> Result<Option<u8>, Error> {
        let Some(connections) = self.rehearse else { return Ok(None) };
        let poem = self.poem.load().map_err(|error| Error::cannot("serve", &self.poem, &error))?;
        self.tell_seed();
        let mut stdout = BufWriter::new(io::stdout().lock());
        let len = poem.bytes().len() as u64;
        let mut entries = (1..=connections).flat_map(|number| rehearse(number, self.plan.schedule(number), len));
        let written = entries.try_for_each(|entry| stdout.write_all(entry.line().as_bytes()));
        match written.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::cannot("write", "stdout", &error)),
            _ => Ok(Some(SUCCESS)),
        }
    }

    /// Logs a seed that nobody has given, so that it can be.
    fn tell_seed(&self) {
        if let Some(seed) = self.drawn {
            info!(seed, "The jitter of {} is that of --seed {seed}", self.poem);
        }
    }
}

/// An error about flags that make no sense together.
pub(super) fn in_flags(why: String) -> Error {
    Error::usage(why + "; see --help")
}

/// The plan that repeats a recording.
fn replay(path: &Path) -> Result<Plan, Error> {
    let text = read_text(path)?;
    let connections = recording::parse(&text)
        .map_err(|error| Error::usage(format!("{}:{}: {}", path.display(), error.line, error.why)))?;
    if connections.is_empty() {
        return Err(Error::usage(format!("{}: there is no connection to replay", path.display())));
    }
    Ok(Plan::replay(connections))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::pace::{Step, Tempo};

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Words {
        #[command(flatten)]
        faults: FaultArgs,
        #[arg(long)]
        backlog: Option<u32>,
    }

    fn resolve(words: &[&str]) -> Result<Faults, (&'static str, String)> {
        let faults = Words::try_parse_from(words).expect("flags").faults;
        faults.resolve(Usual::Slow, &NamedPoem::find(Path::new("poem"))).map_err(|(flag, error)| (flag, error.message))
    }

    fn steps(faults: &Faults) -> Vec<Step> {
        faults.plan.schedule(1).steps(100).collect()
    }

    #[test]
    fn a_seed_is_drawn_only_where_there_is_jitter_and_no_seed() {
        assert!(resolve(&[]).expect("faults").drawn.is_none());
        assert!(resolve(&["--jitter", "9ms", "--seed", "7"]).expect("faults").drawn.is_none());
        let faults = resolve(&["--jitter", "9ms"]).expect("faults");
        let seed = faults.drawn.expect("a seed").to_string();
        assert_eq!(steps(&faults), steps(&resolve(&["--jitter", "9ms", "--seed", &seed]).expect("faults")));
        let error = ("seed", "there is no --jitter whose draws a seed could fix; see --help".to_owned());
        assert_eq!(resolve(&["--seed", "7"]).expect_err("no jitter"), error);
    }

    #[test]
    fn only_a_pace_for_all_without_chance_and_cut_is_steady() {
        let steady = resolve(&["--delay", "5ms"]).expect("faults").steady.expect("a pace");
        assert_eq!((steady.tempo, steady.num_bytes.get()), (Tempo::Delay(Duration::from_millis(5)), 10));
        for words in [["--jitter", "9ms"], ["--cut-at", "9"], ["--fail-first", "1"]] {
            assert!(resolve(&words).expect("faults").steady.is_none(), "{words:?}");
        }
    }

    #[test]
    fn a_recording_is_not_written_into_a_file_that_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x");
        fs::write(&path, "{\"connection\":1,\"at_us\":0,\"event\":\"accept\"}\n").expect("written");
        let file = path.to_str().expect("UTF-8");
        let error = ("record", format!("cannot record into {file}, which is replayed"));
        assert_eq!(resolve(&["--replay", file, "--record", file]).expect_err("replayed"), error);
        assert_eq!(resolve(&["--record", "poem"]).expect_err("served").0, "record");
        assert_eq!(resolve(&["--replay", file, "--record", "other"]).expect("faults").record, Some("other".into()));
    }
}

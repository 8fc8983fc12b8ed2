//! Scripts: TOML files with a pace for connection 1, 2, 3, ... and for all others.

use std::num::NonZeroU64;
use std::path::Path;

use super::pace_args::{PaceArgs, Usual};
use crate::cli::toml_args::{File, TomlTable};
use crate::cli::{Error, values};
use crate::pace::Pace;

/// A pace for the first connections and for all others, from a file or from flags.
#[derive(Debug)]
pub(super) struct Script {
    /// Seed of the jitter, if one is given.
    pub(super) seed: Option<u64>,
    /// For so many connections each.
    pub(super) first: Vec<(NonZeroU64, Pace)>,
    pub(super) others: Pace,
}

/// The keys of a script as a whole.
#[derive(clap::Args)]
struct ScriptArgs {
    #[arg(long, value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    seed: Option<u64>,
}

/// The keys of one connection's table.
#[derive(Debug, clap::Args)]
struct ConnectionArgs {
    #[command(flatten)]
    pace: PaceArgs,
    /// Reset at once.
    #[arg(long, conflicts_with = "PaceArgs")]
    fail: bool,
    /// For so many connections.
    #[arg(long, value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    times: Option<NonZeroU64>,
}

impl Script {
    const CONNECTION: &str = "connection";
    const OTHERS: &str = "others";

    /// A pace for all connections.
    pub(super) fn new(others: Pace) -> Self {
        Self { seed: None, first: Vec::new(), others }
    }

    /// Reads a script. Keys that a table does not have are taken from the flags `base`.
    ///
    /// # Errors
    /// The file cannot be read, or makes no sense.
    pub(super) fn read(path: &Path, base: &PaceArgs, usual: Usual) -> Result<Self, Error> {
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
            None => base.pace(usual).map_err(super::in_flags)?,
        };
        let script = Self { seed, first, others };
        if seed.is_some() && !script.has_jitter() {
            return Err(whole.wrong("seed", "seed: there is no jitter whose draws it could fix"));
        }
        Ok(script)
    }

    /// The pace of all connections, if it is one pace without chance and without a cut.
    pub(super) fn steady(&self) -> Option<Pace> {
        let is_steady = self.first.is_empty() && !self.has_jitter() && self.others.cut.is_none();
        is_steady.then(|| self.others.clone())
    }

    /// Whether a seed matters.
    pub(super) fn has_jitter(&self) -> bool {
        self.first.iter().map(|(_, pace)| pace).chain([&self.others]).any(|pace| !pace.jitter.is_zero())
    }
}

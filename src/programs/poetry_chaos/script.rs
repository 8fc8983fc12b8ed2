//! Scripts: TOML files with the trouble of connection 1, 2, 3, ..., of certain times, and of all others.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use super::super::faults::in_flags;
use super::trouble::{Shared, TroubleArgs};
use crate::cli::toml_args::{File, TomlTable};
use crate::cli::{Error, values};
use crate::server::chaos::{Disturbance, Scenario};

/// The keys of a script as a whole.
#[derive(clap::Args)]
struct WholeArgs {
    #[arg(long, value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    seed: Option<u64>,
}

/// The keys of the table of some connections.
#[derive(clap::Args)]
struct ConnectionArgs {
    #[command(flatten)]
    trouble: TroubleArgs,
    /// For so many connections.
    #[arg(long, value_parser = values::count::<NonZeroU64>(), allow_negative_numbers = true)]
    times: Option<NonZeroU64>,
}

/// The keys of the table of a time.
#[derive(clap::Args)]
struct DuringArgs {
    #[command(flatten)]
    trouble: TroubleArgs,
    /// From so long after the server listens.
    #[arg(long, value_parser = values::duration, allow_hyphen_values = true)]
    from: Option<Duration>,
    /// To so long after.
    #[arg(long, value_parser = values::duration, allow_hyphen_values = true)]
    to: Option<Duration>,
}

const CONNECTION: &str = "connection";
const DURING: &str = "during";
const OTHERS: &str = "others";

/// A script as it was read.
pub(super) struct Script {
    pub(super) scenario: Scenario,
    /// The seed of the file, if it has one.
    pub(super) seed: Option<u64>,
    /// Whether a seed matters.
    pub(super) has_chance: bool,
}

/// Reads a script. What a table does not say is as the flags `base` have it. A `seed` on the command line wins over that of
/// the file; without either, `shared` has one that was drawn.
///
/// # Errors
/// The file cannot be read, or makes no sense.
pub(super) fn read(path: &Path, base: &TroubleArgs, seed: Option<u64>, shared: Shared) -> Result<Script, Error> {
    let file = File::read(path)?;
    let parsed = file.parse()?;
    let whole = file.table(&parsed);
    let own_seed = whole.args::<WholeArgs>(&[CONNECTION, DURING, OTHERS])?.seed;
    let shared = Shared { seed: seed.or(own_seed).unwrap_or(shared.seed), ..shared };
    let mut has_chance = base.has_chance();
    let mut disturbance = |table: &TomlTable<'_>, args: TroubleArgs| -> Result<Disturbance, Error> {
        let args = args.over(base);
        has_chance |= args.has_chance();
        args.disturbance(shared).map_err(|(key, why)| table.wrong(key, &why))
    };
    let mut connections = Vec::new();
    for table in whole.tables(CONNECTION)? {
        let ConnectionArgs { trouble, times } = table.args(&[])?;
        connections.push((times.unwrap_or(NonZeroU64::MIN), disturbance(&table, trouble)?));
    }
    let mut during = Vec::new();
    for table in whole.tables(DURING)? {
        let DuringArgs { trouble, from, to } = table.args(&[])?;
        let time = from.unwrap_or_default()..to.unwrap_or(Duration::MAX);
        if time.is_empty() {
            return Err(table.wrong("to", "to: it is over before it begins"));
        }
        during.push((time, disturbance(&table, trouble)?));
    }
    let others = match whole.table(OTHERS)? {
        Some(table) => disturbance(&table, table.args(&[])?)?,
        None => base.disturbance(shared).map_err(|(_, why)| in_flags(why))?,
    };
    Ok(Script { scenario: Scenario::new(connections, during, others), seed: own_seed, has_chance })
}

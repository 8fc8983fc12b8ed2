//! Where the costs of calls come from, and where they are kept.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::cli::{Error, read_text};
use crate::sim::Costs;

/// Where the costs of a run come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CostPlace {
    /// A file: this machine's, or one that was named.
    File(PathBuf),
    /// The program.
    Default,
}

impl fmt::Display for CostPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "as measured: {}", path.display()),
            Self::Default => f.write_str("not measured on this machine, see --calibrate"),
        }
    }
}

/// The name of the file in the directory of caches.
const NAME: &str = "poetry-sim.json";

/// Where runs look for the costs of this machine: the XDG Base Directory Specification. `None`: there is no such place.
pub(super) fn usual_place() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join(NAME))
}

/// The costs of a file, of this machine if no file is named, or the default ones if it was never measured.
///
/// # Errors
/// The file cannot be read, or makes no sense.
pub(super) fn costs(file: Option<&Path>) -> Result<(Costs, CostPlace), Error> {
    let path = match file {
        Some(word) if word.as_os_str() == "default" => None,
        Some(path) => Some(path.to_owned()),
        None => usual_place().filter(|path| path.exists()),
    };
    let Some(path) = path else { return Ok((Costs::default(), CostPlace::Default)) };
    let text = read_text(&path)?;
    // Nobody has written that one by hand: it is of a version with other costs.
    let advice = if file.is_none() { "; --calibrate writes them anew" } else { "" };
    let why = |why| Error::usage(format!("{}: these are no costs: {why}{advice}", path.display()));
    let costs = parse(&text).map_err(why)?;
    Ok((costs, CostPlace::File(path)))
}

/// The most that anything costs: a thousand seconds, or a terabyte.
const MOST: u64 = 1_000_000_000_000;

fn parse(text: &str) -> Result<Costs, String> {
    let all: BTreeMap<String, u64> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some((name, cost)) = all.iter().find(|(_, cost)| **cost > MOST) {
        return Err(format!("{name} is {cost}, and the most is {MOST}"));
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_has_a_limit_and_a_list_is_no_costs() {
        assert_eq!(parse(r#"{"read": 1000000000000}"#).expect("costs").read, MOST);
        let why = |text| parse(text).expect_err(text);
        assert_eq!(why(r#"{"read": 1000000000001}"#), "read is 1000000000001, and the most is 1000000000000");
        assert_eq!(why("[1]"), "invalid type: sequence, expected a map at line 1 column 0");
        assert!(why(r#"{"reed": 1}"#).starts_with("unknown field `reed`"));
        assert!(why(r#"{"read": 1, "read": 2}"#).starts_with("duplicate field"));
        assert!(why(r#"{"read": -1}"#).starts_with("invalid value"));
    }
}

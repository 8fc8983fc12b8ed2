//! Where the costs of calls come from, and where they are kept.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::calibrate;
use crate::cli::{Error, SUCCESS, read_text, stdout};
use crate::sim::Costs;
use crate::whole_file;

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
fn usual_place() -> Option<PathBuf> {
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
    let costs = serde_json::from_str(&text)
        .map_err(|error| Error::usage(format!("{}: these are no costs: {error}", path.display())))?;
    Ok((costs, CostPlace::File(path)))
}

/// Measures this machine, with so many descriptors at most, writes the costs into a file and prints them.
pub(super) fn calibrate(file: &Path, open_files: Option<u64>) -> Result<u8, Error> {
    let path = match file.as_os_str().is_empty() {
        true => usual_place().ok_or_else(|| {
            Error::usage("neither XDG_CACHE_HOME nor HOME is a directory: name a file for --calibrate".to_owned())
        })?,
        false => file.to_owned(),
    };
    if let Some(directory) = path.parent().filter(|_| file.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(|error| Error::cannot("make", directory.display(), &error))?;
    }
    whole_file::check(&path).map_err(|error| Error::cannot("write", path.display(), &error))?;
    let (costs, fitted) = calibrate::calibrate(open_files)?;
    let text = serde_json::to_string_pretty(&costs).expect("numbers have a JSON form") + "\n";
    whole_file::write(&path, text.as_bytes()).map_err(|error| Error::cannot("write", path.display(), &error))?;
    stdout::write_all(
        format!("{}\n{}\nWritten into {}\n", costs.table().to_text(), fitted.to_text(), path.display()).as_bytes(),
    )?;
    Ok(SUCCESS)
}

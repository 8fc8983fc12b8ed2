//! The environment of a run: what its figures depend on, and nobody could tell from them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{from_rfc3339, to_rfc3339};

/// The environment of a run: program, command line, machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The version of the suite.
    pub version: String,
    /// The words of the command line without the program's name: the first [`Environment::MOST_ARGUMENTS`].
    pub arguments: Vec<String>,
    /// Name, release and machine of the kernel, see uname(2).
    pub kernel: String,
    /// The name of the processor; `None`: the system does not say.
    pub processor: Option<String>,
    /// Processors that the program may use.
    pub processors: usize,
    /// The governor of the frequency of the first processor; `None`: the system does not say.
    pub governor: Option<String>,
    /// The load averages over 1, 5 and 15 minutes, see proc_loadavg(5); `None`: the system does not say.
    pub load: Option<[f64; 3]>,
    /// When this was so; RFC 3339 in JSON.
    #[serde(serialize_with = "to_rfc3339", deserialize_with = "from_rfc3339")]
    pub time: SystemTime,
}

impl Environment {
    /// The most words of a command line that are kept.
    pub const MOST_ARGUMENTS: usize = 100;
}

/// The most that a client had of something at one time, by its own account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// Threads that fetched, looked up names or wrote files. Not those that every program has, for its signals.
    pub threads: u64,
    /// The resident set, in kB of 1,024 bytes: `VmHWM` in proc_pid_status(5); `None`: the system does not say.
    pub rss_kb: Option<u64>,
}

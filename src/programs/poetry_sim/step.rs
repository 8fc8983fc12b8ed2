//! `--step`: one event at a time, for somebody who wants to follow.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::cli::stdout;
use crate::client::Model;
use crate::sim::Narrator;

/// A narrator on stdout. On a terminal it waits for Enter after each line; at the end of input it goes on without.
pub(super) fn narrator() -> Arc<Narrator> {
    let waits = AtomicBool::new(io::stdin().is_terminal() && io::stdout().is_terminal());
    Arc::new(Narrator::new(move |at, text| {
        // What cannot be written will be told at the end, when the result cannot either.
        let _ = stdout::write_all(line(at, text, waits.load(Relaxed)).as_bytes());
        if waits.load(Relaxed) && io::stdin().read_line(&mut String::new()).unwrap_or(0) == 0 {
            waits.store(false, Relaxed);
            // Nobody else has ended this line.
            let _ = stdout::write_all(b"\n");
        }
    }))
}

/// Says whose events follow.
pub(super) fn begin(model: Model) {
    // As above.
    let _ = stdout::write_all(format!("{model}:\n").as_bytes());
}

/// The line of an event; Enter ends it where that is waited for.
fn line(at: Duration, text: &str, waits: bool) -> String {
    let micros = at.subsec_micros();
    format!("{:>6}.{micros:06} s  {text}{}", at.as_secs(), if waits { "" } else { "\n" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_below_each_other() {
        let lines = [(7, "a"), (61_000_001, "b")].map(|(at, text)| line(Duration::from_micros(at), text, false));
        assert_eq!(lines.concat(), "     0.000007 s  a\n    61.000001 s  b\n");
        assert!(!line(Duration::ZERO, "a", true).ends_with('\n'));
    }
}

//! A client that is not ours, run once: all that is known of it is what its processes cost, and what it said last.

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;

use super::cost::Cost;
use super::foreign::Foreign;
use super::spawn::spawn;
use super::tree::{self, Ledger};
use crate::client::Source;
use crate::report::Report;

/// What is kept of what it says on stderr, in bytes: the end.
const KEPT: usize = 4 << 10;

/// The longest last line that is told, in characters.
const LONGEST_LINE: usize = 200;

/// What became of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it cost; `None`: it could not be started.
    pub ledger: Option<Ledger>,
    /// Why it is no time, if it is none: `ended with status 1: no such module`.
    pub failure: Option<String>,
}

/// What starts a client.
pub type Start<'a> = &'a dyn Fn() -> io::Result<Pid>;

/// Runs a client once, to fetch the poems from these sources, for at most the time `limit`. `start` has it started, and
/// `meanwhile` is called now and then. What it says on stdout is nobody's, and it has no stdin.
///
/// # Errors
/// It cannot be watched, or something of it cannot be ended. (That it cannot be started is its failure.)
pub fn run(
    client: &Foreign,
    sources: &[Source],
    limit: Option<Duration>,
    start: impl FnOnce(Start<'_>) -> io::Result<Pid>,
    meanwhile: impl Fn(),
) -> io::Result<Ended> {
    let words = [vec![client.program().to_owned()], client.arguments(sources)].concat();
    let (stderr, its) = io::pipe()?;
    let said = thread::Builder::new().name("stderr".to_owned()).spawn(|| last_line(stderr))?;
    let mut is_started = false;
    let started = || {
        let command = start(&|| spawn(&words, &its))?;
        is_started = true;
        Ok(command)
    };
    let ran = tree::run(limit, started, meanwhile);
    drop(its);
    match ran {
        Err(error) if !is_started => {
            let failure = format!("cannot run {}: {}", client.program(), crate::errors::reason(&error));
            Ok(Ended { ledger: None, failure: Some(failure) })
        }
        ran => {
            let ledger = ran?;
            // Nothing is left that could hold it open.
            let last = said.join().ok().flatten();
            let because = last.map_or_else(String::new, |line| format!(": {line}"));
            let failure = (!ledger.end.is_success()).then(|| format!("{}{because}", ledger.end));
            Ok(Ended { ledger: Some(ledger), failure })
        }
    }
}

/// The cost of a run, of which this report was seen. What nobody counts for it is `None`.
pub fn cost(ledger: &Ledger, report: &Report) -> Cost {
    Cost {
        start_up_us: Some(ledger.wall_us.saturating_sub(report.elapsed_us)),
        cpu_us: Some(ledger.user_us + ledger.system_us),
        user_us: Some(ledger.user_us),
        system_us: Some(ledger.system_us),
        voluntary_switches: Some(ledger.voluntary_switches),
        involuntary_switches: Some(ledger.involuntary_switches),
        peak_threads: Some(ledger.peak_threads),
        peak_rss_kb: Some(ledger.peak_rss_kb),
        reads: None,
        waits: None,
    }
}

/// The last line that is not empty, of all that comes.
fn last_line(mut stderr: PipeReader) -> Option<String> {
    let (mut kept, mut buffer) = (VecDeque::new(), [0; KEPT]);
    while let Ok(bytes @ 1..) = stderr.read(&mut buffer) {
        kept.extend(&buffer[..bytes]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    line(kept.make_contiguous())
}

fn line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    // What steers a terminal is not for ours.
    let plain = line.chars().map(|c| if c.is_control() { '?' } else { c });
    Some(plain.take(LONGEST_LINE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_process::alone;

    fn ended(client: &str, limit: Option<Duration>) -> Ended {
        let sources = [1, 2].map(|port| format!("127.0.0.1:{port}").parse().expect("a source"));
        run(&client.parse().expect("a client"), &sources, limit, |start| start(), || {}).expect("it is watched")
    }

    #[test]
    fn what_became_of_a_client_is_told() {
        alone("race::theirs::tests::what_became_of_a_client_is_told", || {
            for (client, failure) in [
                ("a=sh -c 'test $# = 2' sh {}", None),
                (
                    "a=sh -c 'echo one >&2; echo \"two\t$1\" >&2; echo >&2; exit 3' sh {}",
                    Some("ended with status 3: two?127.0.0.1:1"),
                ),
                ("a=sh -c 'kill $$' sh {}", Some("was ended by SIGTERM")),
                ("a=sh -c 'sleep 999' sh {}", Some("did not end within 50ms")),
                ("a=/no/such/program {}", Some("cannot run /no/such/program: no such file or directory")),
                // More than anybody keeps, and a child that would hold it open.
                (
                    "a=sh -c 'sleep 999 & yes no 2>/dev/null | head -n 99999 >&2; exit 1' sh {}",
                    Some("ended with status 1: no"),
                ),
            ] {
                let ended = ended(client, client.contains("'sleep 999'").then_some(Duration::from_millis(50)));
                assert_eq!(ended.failure.as_deref(), failure, "{client}");
                assert_eq!(ended.ledger.is_none(), client.contains("/no/such"), "{client}");
            }
        });
    }

    #[test]
    fn a_last_line_is_short_and_steers_nothing() {
        assert_eq!(line(b"a\n\n  b\xff \x1b[2J \n\n").as_deref(), Some("b\u{fffd} ?[2J"));
        assert_eq!(line(b"\n \n"), None);
        assert_eq!(line(&[b'x'; 1000]).map(|line| line.len()), Some(LONGEST_LINE));
    }
}

//! A program that is started with no signal blocked, whatever this process does with its own.
//!
//! A process hands on the signals that it blocks, and [`Command`](std::process::Command) does not change that: a client for
//! which SIGTERM is blocked would end nothing of its own with it, and could not be asked to end.

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

/// Starts the program that is the first of these words, with the others as its arguments: with no stdin, with stdout for
/// nobody, and with this stderr. See posix_spawnp(3).
///
/// # Errors
/// There is no such program, or it cannot be executed; a word has a byte 0; no descriptor is left.
pub(super) fn spawn(words: &[String], stderr: &impl AsFd) -> io::Result<Pid> {
    let words = words.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>()?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    let mut files = PosixSpawnFileActions::init()?;
    files.add_dup2(nothing.as_raw_fd(), 0)?;
    files.add_dup2(nothing.as_raw_fd(), 1)?;
    files.add_dup2(stderr.as_fd().as_raw_fd(), 2)?;
    let mut signals = PosixSpawnAttr::init()?;
    signals.set_sigmask(&SigSet::empty())?;
    // A program of Rust ignores it, and others count on it.
    signals.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    signals.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    Ok(posix_spawnp(program, &files, &signals, &words, &variables())?)
}

/// The variables of this process, `NAME=VALUE` each.
fn variables() -> Vec<CString> {
    let whole = env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
    // None has a byte 0: that is its end.
    whole.filter_map(|variable| CString::new(variable).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::test_process::alone;

    /// What a command says on stderr.
    fn said(words: &[&str]) -> String {
        let (mut end, its) = io::pipe().expect("a pipe");
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        spawn(&words, &its).expect("it is there");
        drop(its);
        let mut said = String::new();
        end.read_to_string(&mut said).expect("text");
        said
    }

    #[test]
    fn no_signal_is_blocked_for_a_program() {
        alone("race::spawn::tests::no_signal_is_blocked_for_a_program", || {
            SigSet::all().thread_block().expect("blocked");
            // No shell: it may take the mask away by itself.
            let status = said(&["dd", "if=/proc/self/status", "of=/dev/stderr", "status=none"]);
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            assert_eq!(blocked.map(str::trim), Some("0000000000000000"), "{status}");
        });
    }

    #[test]
    fn a_program_has_no_stdin_and_the_variables_of_this_one() {
        let path = env::var("PATH").expect("a path");
        assert_eq!(said(&["sh", "-c", "cat >&2; echo for nobody; echo \"$PATH\" >&2"]), path + "\n");
    }

    #[test]
    fn what_cannot_be_started_says_why() {
        for (word, kind) in [
            ("/no/such/program", io::ErrorKind::NotFound),
            ("/", io::ErrorKind::PermissionDenied),
            ("a\0b", io::ErrorKind::InvalidInput),
        ] {
            let error = spawn(&[word.to_owned()], &io::stderr()).expect_err(word);
            assert_eq!(error.kind(), kind, "{word:?}");
        }
    }
}

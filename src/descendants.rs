//! The descendants of this process: its children, their children, and so on, as /proc has them.
//!
//! Those whose parent has ended are among them only if this process is the one to whom orphans fall
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

/// Looks for descendants, again and again: of processes that are none only what is new is asked for.
#[derive(Debug, Default)]
pub(crate) struct Descendants {
    /// Processes that are none, or are not looked for. They do not become any, as long as they live.
    strangers: BTreeSet<i32>,
}

/// What a process is to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kin {
    Descendant,
    Stranger,
    /// Its parent came or went during the look.
    Unknown,
}

impl Descendants {
    /// Looks for those that begin from now on. A process that was there before this program (a shell that executes another
    /// program leaves its jobs to it), and all that such a one starts, is somebody else's.
    pub(crate) fn from_now_on() -> Self {
        let mut descendants = Self::default();
        let there: Vec<i32> = descendants.look().into_iter().map(Pid::as_raw).collect();
        descendants.strangers.extend(there);
        descendants
    }

    /// All that there are now, those that have ended and are not waited for included; in order of their numbers.
    pub(crate) fn look(&mut self) -> Vec<Pid> {
        let here = getpid().as_raw();
        let alive: BTreeSet<i32> = processes().collect();
        self.strangers.retain(|pid| alive.contains(pid));
        let unknown = alive.difference(&self.strangers);
        let parents: BTreeMap<i32, i32> = unknown.filter_map(|&pid| Some((pid, parent(pid)?))).collect();
        let mut found = Vec::new();
        for &pid in parents.keys().filter(|&&pid| pid != here) {
            match kin(pid, here, &parents, &self.strangers) {
                Kin::Descendant => found.push(Pid::from_raw(pid)),
                Kin::Stranger => drop(self.strangers.insert(pid)),
                Kin::Unknown => {}
            }
        }
        found
    }
}

/// Sends a signal to processes. They may have ended, or be somebody else's.
pub(crate) fn send(signal: Signal, processes: impl IntoIterator<Item = Pid>) {
    for process in processes {
        let _ = kill(process, signal);
    }
}

/// SIGTERM, also for those that are stopped.
pub(crate) fn ask_to_end(processes: impl IntoIterator<Item = Pid> + Clone) {
    send(Signal::SIGTERM, processes.clone());
    send(Signal::SIGCONT, processes);
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The number of the parent: proc_pid_stat(5). 0: it has none here.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of a program may have brackets and blanks.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn kin(pid: i32, here: i32, parents: &BTreeMap<i32, i32>, strangers: &BTreeSet<i32>) -> Kin {
    let mut ancestor = pid;
    // Numbers are used again: what was read one after another could be a circle.
    for _ in 0..=parents.len() {
        match parents.get(&ancestor) {
            Some(&parent) if parent == here => return Kin::Descendant,
            Some(0) => return Kin::Stranger,
            Some(parent) if strangers.contains(parent) => return Kin::Stranger,
            Some(&parent) => ancestor = parent,
            None => return Kin::Unknown,
        }
    }
    Kin::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_and_its_child_are_found_and_nobody_else() {
        // Both end when their stdin does.
        let script = "sh -c 'echo $$; read line'; exit 0";
        let mut command = Command::new("sh");
        let mut shell =
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut said = String::new();
        let read = BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut said);
        read.expect("it says its number");
        let pid = |number: &str| Pid::from_raw(number.trim().parse().expect("a number"));
        let ours = [pid(&shell.id().to_string()), pid(&said)];
        let mut descendants = Descendants::default();
        for found in [descendants.look(), descendants.look()] {
            assert!(ours.iter().all(|pid| found.contains(pid)), "{ours:?} in {found:?}");
            assert!(!found.contains(&getpid()) && !found.contains(&Pid::from_raw(1)), "{found:?}");
        }
        assert!(descendants.strangers.contains(&1));
        let found = Descendants::from_now_on().look();
        assert!(!ours.iter().any(|pid| found.contains(pid)), "they were there before: {ours:?} in {found:?}");
        drop(shell.stdin.take());
        assert!(shell.wait().expect("ours").success());
    }

    #[test]
    fn kin_is_who_leads_here() {
        let parents = BTreeMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 3), (9, 4), (20, 21), (21, 20)]);
        let strangers = BTreeSet::from([3]);
        for (pid, expected) in [
            (7, Kin::Descendant),
            (6, Kin::Descendant),
            (1, Kin::Stranger),
            (8, Kin::Stranger),
            (9, Kin::Unknown),
            (20, Kin::Unknown),
        ] {
            assert_eq!(kin(pid, 5, &parents, &strangers), expected, "{pid}");
        }
    }
}

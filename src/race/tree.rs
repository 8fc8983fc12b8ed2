//! A command as a tree of processes: what all of them cost, how the command ended, and that nothing of it is left.
//!
//! ```text
//!   start ──▶ the command ──▶ its children ──▶ ...        looked at from time to time: threads, memory
//!     │           ╰── ends, or is out of time ──▶ the rest is asked to end, killed, and waited for
//!     ╰── wall ───╯                                       waited for: processor time, switches
//! ```
//!
//! To this process fall the orphans of the command (`PR_SET_CHILD_SUBREAPER`, prctl(2)), so that each of its processes is
//! waited for and has its cost counted. It must have no other children meanwhile.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, WaitOptions, WaitStatus, pidfd_open, waitpid};

use crate::descendants::{Descendants, ask_to_end, send};
use crate::units::{Micros, micros};

/// What one run of a command cost, all of its processes together.
///
/// Threads and memory are sampled from /proc while it runs: peaks of less than some milliseconds may be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// The time from the start of the command to its end.
    pub wall_us: Micros,
    /// Processor time in user mode. Of both the sum is exact, and its parts may be those of the clock's ticks.
    pub user_us: Micros,
    /// Processor time in the kernel.
    pub system_us: Micros,
    /// Voluntary context switches: a thread waited.
    pub voluntary_switches: u64,
    /// Involuntary context switches: a thread was preempted.
    pub involuntary_switches: u64,
    /// Peak number of threads.
    pub peak_threads: u64,
    /// Peak resident set size, in kilobytes of 1,024 bytes. Pages that several processes share count for each.
    pub peak_rss_kb: u64,
    /// Processes that were there still a moment after the command had ended by itself, and were ended.
    pub left_behind: usize,
    /// How it ended.
    pub end: End,
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit status.
    Exited(i32),
    /// By a signal of this number.
    Signaled(i32),
    /// It was out of time, and was ended.
    TimedOut(Duration),
}

impl End {
    /// Whether the command says itself that all is well.
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }
}

/// To follow the name of the command: `ended with status 3`.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "ended with status {status}"),
            Self::Signaled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by {signal}"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
            Self::TimedOut(limit) => write!(f, "did not end within {}", humantime::format_duration(*limit)),
        }
    }
}

/// The first pause between two looks at the processes, and the longest: most happens in the beginning.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// A pause is so many times as long as the look before it took of the processor: to measure must not cost what is measured.
const QUIET: u32 = 20;

/// What is left after the end of the command has so long to end by itself, then so long to end when it is asked to, and is
/// given up so long after it was killed.
const PARTING: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_millis(300);
const LAST: Duration = Duration::from_secs(2);

/// Runs a command until it has ended, for at most the time `limit`, and ends what it leaves behind. `start` starts it, and
/// `meanwhile` is called now and then.
///
/// # Errors
/// It cannot be started or watched, or something of it cannot be ended; or nobody knows how it has ended, as this process was
/// started with SIGCHLD ignored.
pub fn run(
    limit: Option<Duration>,
    start: impl FnOnce() -> io::Result<Pid>,
    meanwhile: impl Fn(),
) -> io::Result<Ledger> {
    prctl::set_child_subreaper(true)?;
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let clock = Instant::now();
    let until = limit.and_then(|limit| clock.checked_add(limit));
    let descendants = Descendants::from_now_on();
    let mut tree = Tree::new(start()?, descendants)?;
    let watched = tree.watch(until, meanwhile);
    let wall_us = micros(clock.elapsed());
    let left_behind = match watched {
        Ok(true) => tree.bury_command().and_then(|()| tree.wait_for(PARTING)),
        // All of it is in the way.
        _ => Ok(0),
    };
    // Whatever has failed, nothing is left.
    tree.end()?;
    let (has_ended, left_behind) = (watched?, left_behind?);
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let switches = |count: fn(&Usage) -> i64| u64::try_from(count(&after) - count(&before)).unwrap_or(0);
    let time = |part: fn(&Usage) -> TimeVal| {
        u64::try_from(part(&after).num_microseconds() - part(&before).num_microseconds()).unwrap_or(0)
    };
    // Of all that this process has ever waited for: news only if it has grown.
    let largest = if after.max_rss() > before.max_rss() { u64::try_from(after.max_rss()).unwrap_or(0) } else { 0 };
    let (user_us, system_us) = (time(Usage::user_time), time(Usage::system_time));
    // Where wait4(2) only knows ticks, the scheduler knows more of the command itself.
    let more = tree.processor_us.saturating_sub(user_us + system_us);
    Ok(Ledger {
        wall_us,
        user_us: user_us + more,
        system_us,
        voluntary_switches: switches(Usage::voluntary_context_switches),
        involuntary_switches: switches(Usage::involuntary_context_switches),
        // It may have been over before the first look.
        peak_threads: tree.peak_threads.max(1),
        peak_rss_kb: tree.peak_rss_kb.max(largest),
        left_behind,
        end: if has_ended { tree.end } else { End::TimedOut(limit.unwrap_or_default()) },
    })
}

/// A command and its processes.
struct Tree {
    command: Pid,
    /// Readable when the command has ended.
    ended: OwnedFd,
    descendants: Descendants,
    peak_threads: u64,
    peak_rss_kb: u64,
    /// Of the command alone.
    processor_us: Micros,
    end: End,
}

impl Tree {
    fn new(command: Pid, descendants: Descendants) -> io::Result<Self> {
        // Without a descriptor for it, it must not stay either.
        let ended = pidfd(command).inspect_err(|_| send(Signal::SIGKILL, [command]))?;
        Ok(Self { command, ended, descendants, peak_threads: 0, peak_rss_kb: 0, processor_us: 0, end: End::Exited(0) })
    }

    /// Looks at the processes until the command has ended; false: it has not, and its time is over.
    fn watch(&mut self, until: Option<Instant>, meanwhile: impl Fn()) -> io::Result<bool> {
        let (mut pause, longest) = PAUSES;
        loop {
            let before = processor_time();
            self.look();
            let took = processor_time().saturating_sub(before);
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = pause.max(took * QUIET);
            if wait_for_any(&[self.ended.as_fd()], left.map_or(wait, |left| left.min(wait)))? {
                return Ok(true);
            }
            if left.is_some_and(|left| left <= wait) {
                return Ok(false);
            }
            meanwhile();
            pause = (pause * 5 / 4).min(longest);
        }
    }

    /// Looks at all processes once. Returns those that are alive; orphans that have ended are waited for.
    fn look(&mut self) -> Vec<Pid> {
        let (mut threads, mut memory) = (0, 0);
        let mut alive = Vec::new();
        for pid in self.descendants.look() {
            let status = status(pid);
            if !is_alive(&status) {
                if pid != self.command {
                    bury(pid);
                }
                continue;
            }
            alive.push(pid);
            threads += number(&status, "Threads:");
            memory += number(&status, "VmRSS:");
            self.peak_rss_kb = self.peak_rss_kb.max(number(&status, "VmHWM:"));
        }
        self.peak_threads = self.peak_threads.max(threads);
        self.peak_rss_kb = self.peak_rss_kb.max(memory);
        alive
    }

    /// The command has ended: asks what it cost and how that was.
    fn bury_command(&mut self) -> io::Result<()> {
        // In nanoseconds, see clock_getcpuclockid(3), as long as nobody has waited for it.
        let time = ClockId::pid_cpu_clock_id(self.command).and_then(ClockId::now);
        self.processor_us = time.map_or(0, |time| micros(time.into()));
        let status =
            bury(self.command).ok_or_else(|| io::Error::other("nobody knows how it ended: is SIGCHLD ignored?"))?;
        let signal = status.terminating_signal().map(End::Signaled);
        self.end = status.exit_status().map(End::Exited).or(signal).unwrap_or(self.end);
        Ok(())
    }

    /// Waits until no process is left, for at most so long. Returns how many are.
    fn wait_for(&mut self, time: Duration) -> io::Result<usize> {
        let until = Instant::now() + time;
        loop {
            let alive = self.look();
            let left = until.saturating_duration_since(Instant::now());
            if alive.is_empty() || left.is_zero() {
                return Ok(alive.len());
            }
            // One that has ended since is none to wait for.
            let ends: Vec<OwnedFd> = alive.iter().filter_map(|&pid| pidfd(pid).ok()).collect();
            let ends: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
            wait_for_any(&ends, if ends.len() < alive.len() { Duration::ZERO } else { left })?;
        }
    }

    /// Ends all processes that are left: they are asked to, and killed if they do not.
    fn end(&mut self) -> io::Result<()> {
        ask_to_end(self.look());
        let mut left = self.wait_for(GRACE)?;
        let until = Instant::now() + LAST;
        while left > 0 {
            if Instant::now() > until {
                return Err(io::Error::other("a process of it does not end"));
            }
            // Again each time that one of them has ended: it may have started another one just before.
            send(Signal::SIGKILL, self.look());
            left = self.wait_for(PAUSES.0)?;
        }
        bury(self.command);
        Ok(())
    }
}

/// Ends all these descendants of this process when nobody will ask what became of them: a signal ends this process.
pub(crate) fn end_all(descendants: &mut Descendants) {
    ask_to_end(descendants.look());
    let asked = Instant::now();
    loop {
        let left: Vec<Pid> = descendants.look().into_iter().filter(|&pid| is_alive(&status(pid))).collect();
        if left.is_empty() || asked.elapsed() > GRACE + LAST {
            return;
        }
        let time = GRACE.saturating_sub(asked.elapsed());
        if time.is_zero() {
            // Again and again: one may have started another one just before.
            send(Signal::SIGKILL, left.clone());
        }
        let ends: Vec<OwnedFd> = left.iter().filter_map(|&pid| pidfd(pid).ok()).collect();
        let ends: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
        // One that has ended since is none to wait for. Without descriptors there is only time.
        let _ = wait_for_any(&ends, time.max(PAUSES.0));
    }
}

/// proc_pid_status(5); empty if there is no such process.
fn status(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// Whether a process has not ended, all of its threads: the first one may have, and is a zombie as long as others are there.
fn is_alive(status: &str) -> bool {
    field(status, "State:").is_some_and(|state| !state.starts_with(['Z', 'X'])) || number(status, "Threads:") > 1
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map_or(Duration::ZERO, Duration::from)
}

fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits for a child that has ended, if it is one of ours: else its parent does.
fn bury(pid: Pid) -> Option<WaitStatus> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    waitpid(pid, WaitOptions::NOHANG).ok().flatten().map(|(_, status)| status)
}

/// Waits until one of these processes has ended, for at most so long; whether one has.
fn wait_for_any(ends: &[BorrowedFd<'_>], time: Duration) -> io::Result<bool> {
    // Rounded up: to wake early would be a busy loop.
    let timeout = if time.is_zero() { time } else { time + Duration::from_millis(1) };
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut watched: Vec<PollFd<'_>> = ends.iter().map(|&end| PollFd::new(end, PollFlags::POLLIN)).collect();
    match poll(&mut watched, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A field of proc_pid_status(5).
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// A number in proc_pid_status(5); 0 if there is none.
fn number(status: &str, name: &str) -> u64 {
    field(status, name).and_then(|text| text.split_whitespace().next()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::test_process;

    const NAME: &str = "race::tree::tests::";

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn started(command: &mut Command) -> io::Result<Pid> {
        command.spawn().map(|child| pid(&child))
    }

    fn pid(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed())
    }

    fn ledger(script: &str, limit: Option<Duration>) -> Ledger {
        let ledger = run(limit, || started(&mut shell(script)), || {}).expect("a ledger");
        assert!(Descendants::default().look().is_empty(), "{script}: something is left");
        ledger
    }

    /// A process of its own: all of its children are the command's.
    fn alone(test: &str, body: impl FnOnce()) {
        test_process::alone(&format!("{NAME}{test}"), body);
    }

    #[test]
    fn how_a_command_ends_is_told() {
        alone("how_a_command_ends_is_told", || {
            for (script, end, words) in [
                ("exit 0", End::Exited(0), "ended with status 0"),
                ("exit 3", End::Exited(3), "ended with status 3"),
                ("kill -9 $$", End::Signaled(9), "was ended by SIGKILL"),
            ] {
                let ledger = ledger(script, None);
                assert_eq!((ledger.end, ledger.left_behind), (end, 0), "{script}");
                assert_eq!((ledger.end.to_string().as_str(), end.is_success()), (words, script == "exit 0"));
                assert!(ledger.peak_threads == 1, "{ledger:?}");
            }
            let none = run(None, || started(&mut Command::new("/no/such/program")), || {});
            assert_eq!(none.expect_err("no program").kind(), io::ErrorKind::NotFound);
        });
    }

    #[test]
    fn what_a_command_leaves_behind_is_ended_and_told() {
        alone("what_a_command_leaves_behind_is_ended_and_told", || {
            let stubborn = r#"sh -c 'trap "" TERM; echo >&3; while :; do sleep 999; done'"#;
            for (script, left) in [
                ("sleep 999 & exit 0", 1),
                // Its parent is gone before it ends.
                ("(sleep 999 & sleep 999 &); exit 0", 2),
                // It takes no advice, and its child takes it: then it has another one.
                (&format!("mkfifo $0; {stubborn} 3>$0 & read line <$0; exit 0"), 2),
            ] {
                let place = tempfile::tempdir().expect("a folder");
                let mut command = shell(script);
                command.arg(place.path().join("fifo"));
                let ledger = run(None, || started(&mut command), || {}).expect("a ledger");
                assert_eq!(ledger.end, End::Exited(0), "{script}");
                assert!((1..=left).contains(&ledger.left_behind), "{script}: {ledger:?}");
                assert!(Descendants::default().look().is_empty(), "{script}: something is left");
            }
        });
    }

    #[test]
    fn a_process_that_was_there_before_is_nobody_of_the_command() {
        alone("a_process_that_was_there_before_is_nobody_of_the_command", || {
            // As a shell leaves its jobs to a program that it executes.
            let mut bystander = shell("read line; exit 7").stdin(Stdio::piped()).spawn().expect("a shell");
            let ledger = run(None, || started(&mut shell("exit 0")), || {}).expect("a ledger");
            assert_eq!((ledger.left_behind, ledger.peak_threads, ledger.end), (0, 1, End::Exited(0)), "{ledger:?}");
            end_all(&mut Descendants::from_now_on());
            drop(bystander.stdin.take());
            assert_eq!(bystander.wait().expect("ours").code(), Some(7), "it goes on");
        });
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_alive() {
        let status = |state: &str, threads: u64| format!("Name:\tx\nState:\t{state}\nThreads:\t{threads}\n");
        for (text, expected) in [
            (status("S (sleeping)", 1), true),
            (status("Z (zombie)", 1), false),
            (status("Z (zombie)", 2), true),
            (status("X (dead)", 1), false),
            (String::new(), false),
        ] {
            assert_eq!(is_alive(&text), expected, "{text}");
        }
    }

    #[test]
    fn all_are_ended_also_one_that_does_not_want_to_and_begins_another() {
        alone("all_are_ended_also_one_that_does_not_want_to_and_begins_another", || {
            prctl::set_child_subreaper(true).expect("it may");
            let mut descendants = Descendants::from_now_on();
            let script = "trap '' TERM; echo; while :; do sh -c 'trap - TERM; sleep 999'; done";
            let mut stubborn = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell");
            io::Read::read_exact(&mut stubborn.stdout.take().expect("piped"), &mut [0]).expect("it runs");
            end_all(&mut descendants);
            assert!(!descendants.look().into_iter().any(|pid| is_alive(&status(pid))));
            assert!(!stubborn.wait().expect("ours").success());
        });
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_all_that_it_has_started() {
        alone("a_command_that_hangs_is_ended_with_all_that_it_has_started", || {
            let limit = Duration::from_millis(200);
            let ledger = ledger("sleep 999 & wait; exit 0", Some(limit));
            assert_eq!((ledger.end, ledger.end.is_success()), (End::TimedOut(limit), false));
            assert_eq!(ledger.end.to_string(), "did not end within 200ms");
            assert!(ledger.wall_us >= 200_000, "{ledger:?}");
        });
    }

    #[test]
    fn what_a_child_costs_is_a_cost_of_its_command() {
        alone("what_a_child_costs_is_a_cost_of_its_command", || {
            let work = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
            let idle = ledger("exit 0", None);
            // A child, and an orphan that nobody waits for but this process.
            for script in [format!("sh -c '{work}'; exit 0"), format!("(sh -c '{work}' &) ; sleep 0.01; exit 0")] {
                let busy = ledger(&script, None);
                let time = |ledger: Ledger| ledger.user_us + ledger.system_us;
                assert!(time(busy) > time(idle) + 5_000, "{script}: {idle:?} and {busy:?}");
            }
        });
    }

    #[test]
    fn threads_and_memory_are_those_of_all_processes() {
        alone("threads_and_memory_are_those_of_all_processes", || {
            let stdin = RefCell::new(None);
            let start = |mut command: Command| {
                let mut child = command.stdin(Stdio::piped()).spawn()?;
                *stdin.borrow_mut() = child.stdin.take();
                Ok(pid(&child))
            };
            let looks = Cell::new(0);
            // Lets the shells go when all of them have been there for two looks.
            let meanwhile = || {
                looks.set(if Descendants::default().look().len() == 4 { looks.get() + 1 } else { 0 });
                if looks.get() > 2
                    && let Some(mut stdin) = stdin.borrow_mut().take()
                {
                    stdin.write_all(b"1\n2\n3\n4\n").expect("they read");
                }
            };
            // A shell takes stdin away from what it runs beside itself.
            let reader = "sh -c 'read line; exit 0' <&3";
            let script = format!("exec 3<&0; {reader} & {reader} & {reader} & wait; exit 0");
            let ledger = run(None, || start(shell(&script)), meanwhile).expect("a ledger");
            assert_eq!((ledger.peak_threads, ledger.end, ledger.left_behind), (4, End::Exited(0), 0), "{ledger:?}");
            assert!(ledger.peak_rss_kb > 4 * 100, "{ledger:?}");
        });
    }
}

//! A client as a child process: started, watched, and its cost read when it has ended.

use std::env;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::VARIABLE;
use super::cost::Cost;
use super::tree::End;
use crate::client::Model;
use crate::report::{Peak, Report};
use crate::units::{Micros, micros};

/// A client that is to run: its program, and what it is told.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The model of waiting.
    pub model: Model,
    /// The directory of the four programs.
    pub programs: &'a Path,
    /// Arguments, besides those for a report.
    pub args: &'a [String],
}

/// What became of one run.
#[derive(Debug)]
pub struct Ended {
    /// What the client tells; `None`: it was ended before it could.
    pub report: Option<Report>,
    /// What it cost.
    pub cost: Cost,
    /// Why it is no time, if there is no report: `was ended by SIGKILL without a report`.
    pub failure: Option<String>,
}

/// The directory of the four programs: that of this one.
///
/// # Errors
/// The system does not tell.
pub fn programs() -> io::Result<PathBuf> {
    let mut path = env::current_exe()?;
    path.pop();
    Ok(path)
}

/// The exit status of a client whose command line makes no sense: no other run would be better.
const USAGE: i32 = 2;

/// Runs a client once. `start` starts it, and `meanwhile` is called now and then while it runs.
///
/// # Errors
/// It cannot be started or watched, or makes nothing of its command line.
pub fn run(
    client: Client<'_>,
    start: impl FnOnce(&mut Command) -> io::Result<Child>,
    meanwhile: impl Fn(),
) -> io::Result<Ended> {
    // In memory: nothing of it is left, however the race ends.
    let mut report = File::from(memfd_create("report", MFdFlags::MFD_CLOEXEC)?);
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let clock = Instant::now();
    let mut command = Command::new(client.programs.join(client.model.program()));
    command.args(["--quiet", "--json"]).args(client.args).env(VARIABLE, process::id().to_string());
    // What became of its poems is in its report, and told of all runs together.
    command.env("RUST_LOG", "off");
    let mut child = start(command.stdin(Stdio::null()).stdout(report.try_clone()?))?;
    let watched = watch(&child, meanwhile);
    let elapsed = clock.elapsed();
    if watched.is_err() {
        child.kill()?;
    }
    let cpu = processor_time(&child);
    let status = child.wait()?;
    watched?;
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let mut json = Vec::new();
    report.rewind()?;
    report.read_to_end(&mut json)?;
    let Ok(report) = serde_json::from_slice::<Report>(&json) else { return broken(status, cpu) };
    let cost = cost(&report, elapsed, cpu, &before, &after);
    Ok(Ended { report: Some(report), cost, failure: None })
}

/// What became of a run that left no report: somebody has killed the client, or memory ran out, or it has panicked.
fn broken(status: ExitStatus, cpu: io::Result<Duration>) -> io::Result<Ended> {
    let end = match (status.code(), status.signal()) {
        (Some(USAGE), _) => return Err(io::Error::other(format!("it left no report ({status})"))),
        (_, Some(signal)) => End::Signaled(signal),
        (code, None) => End::Exited(code.unwrap_or_default()),
    };
    let cost = Cost { cpu_us: cpu.ok().map(micros), ..Cost::default() };
    Ok(Ended { report: None, cost, failure: Some(format!("{end} without a report")) })
}

fn cost(report: &Report, elapsed: Duration, cpu: io::Result<Duration>, before: &Usage, after: &Usage) -> Cost {
    let switches = |count: fn(&Usage) -> i64| u64::try_from(count(after) - count(before)).ok();
    let counted = |time: fn(&Usage) -> TimeVal| -> Micros {
        u64::try_from(time(after).num_microseconds() - time(before).num_microseconds()).unwrap_or(0)
    };
    let (user, system) = (counted(Usage::user_time), counted(Usage::system_time));
    let Peak { threads, rss_kb } = report.peak.unwrap_or_default();
    let cost = Cost {
        start_up_us: Some(micros(elapsed).saturating_sub(report.elapsed_us)),
        cpu_us: Some(cpu.map_or(user + system, micros)).filter(|&cpu| cpu > 0),
        voluntary_switches: switches(Usage::voluntary_context_switches),
        involuntary_switches: switches(Usage::involuntary_context_switches),
        peak_threads: Some(threads).filter(|&threads| threads > 0),
        peak_rss_kb: rss_kb,
        reads: Some(report.calls.reads),
        waits: Some(report.calls.waits),
        ..Cost::default()
    };
    cost.split(user, system)
}

/// The processor time of a child that has ended and is not waited for yet: what the scheduler counted, in nanoseconds,
/// see clock_getcpuclockid(3). What wait4(2) tells may be rounded to ticks of some milliseconds.
fn processor_time(child: &Child) -> io::Result<Duration> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?.now()?.into())
}

/// The pause between two looks at a client: for whoever is told how long it has been running.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits for the end of a child. Without a thread of its own, which the system may not have.
fn watch(child: &Child, meanwhile: impl Fn()) -> io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let end = pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?;
    let pause = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], pause) {
            Ok(0) => meanwhile(),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

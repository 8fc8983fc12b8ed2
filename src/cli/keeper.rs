//! The keeper: the process between a server and the command that it runs.
//!
//! ```text
//!   server ── starts ──▶ keeper ── starts ──▶ command ──▶ its children
//!     │                   │ ▲
//!     │                   │ ╰─ signals, a byte each; 0, or the end of the pipe: the server is over ── server
//!     ◀── status, a byte; the end of the pipe: nothing of the command is left
//! ```
//!
//! It lives as long as there is a server or a process of the command. To it fall the command's orphans
//! (PR_SET_CHILD_SUBREAPER), and it hears of the end of the server, kill -9 included, by the end of a pipe: so nothing of
//! a command outlives its server. All of them are in one process group, that of the terminal if there is one.
//!
//! It is this program, executed again, and so is the command for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, getppid};
use rustix::process::{WaitOptions, wait};

use super::open_files::SoftLimit;
use super::signals::exit_status;
use super::{FAILURE, SUCCESS};
use crate::descendants::{Descendants, ask_to_end, send};
use crate::errors::reason;
use crate::units::micros;

/// The variable that makes this program a keeper: its two descriptors, the grace time in microseconds, and the
/// command's limit of open files. Or that makes it the command, of a keeper with this number.
const ORDER: &str = "POETRY_KEEPER";

/// This program. Not by its name, which may be that of another file by now, or none that this user may look up.
const EXECUTABLE: &str = "/proc/self/exe";

/// Exit status: the command is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit status: there is no such command.
const NOT_FOUND: u8 = 127;

/// What kill(2) could not end so long after SIGKILL is left behind.
const LAST: Duration = Duration::from_secs(1);

/// The byte that says that the server is over.
const OVER: u8 = 0;

/// A keeper at work, as its server sees it.
#[derive(Debug)]
pub(super) struct Keeper {
    process: Child,
    control: PipeWriter,
    status: PipeReader,
}

/// The server's way to tell its keeper something.
#[derive(Debug)]
pub(super) struct Control(PipeWriter);

/// The server's way to learn how the command ended, and whether anything of it is left.
#[derive(Debug)]
pub(super) struct Status(PipeReader);

impl Keeper {
    /// Starts a keeper, and with it a command with these words and variables. Processes that are to end have `grace` for
    /// that.
    ///
    /// # Errors
    /// The system gives no process. That there is no such command is its exit status.
    pub(super) fn start(
        words: &[OsString],
        variables: &BTreeMap<String, Option<String>>,
        grace: Duration,
        limit: SoftLimit,
    ) -> io::Result<Self> {
        let ((status, its_status), (its_control, control)) = (io::pipe()?, io::pipe()?);
        // Nothing else is started meanwhile that could inherit them.
        for descriptor in [its_status.as_fd(), its_control.as_fd()] {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let [its_status_number, its_control_number] = [its_status.as_raw_fd(), its_control.as_raw_fd()];
        let order = format!("{its_status_number}:{its_control_number}:{}:{limit}", micros(grace));
        let mut keeper = Command::new(EXECUTABLE);
        keeper.arg0("keeper").args(words).env(ORDER, order);
        for (name, value) in variables {
            match value {
                Some(value) => keeper.env(name, value),
                None => keeper.env_remove(name),
            };
        }
        Ok(Self { process: keeper.spawn()?, control, status })
    }

    /// Takes it apart: for who tells it something, for who waits for the command, and for who waits for the keeper.
    pub(super) fn split(self) -> (Control, Status, Child) {
        (Control(self.control), Status(self.status), self.process)
    }
}

impl Control {
    /// A signal has asked the server to stop. The command is asked to end (SIGTERM) unless the signal has reached it, too,
    /// and killed after the grace time; the second time all is killed at once.
    pub(super) fn tell(&self, signal: Signal) {
        self.say(u8::try_from(signal as i32).unwrap_or(OVER));
    }

    /// The server has ended: what is left of the command is to end.
    pub(super) fn tell_over(&self) {
        self.say(OVER);
    }

    fn say(&self, byte: u8) {
        // A keeper that is gone needs to know nothing.
        let _ = (&self.0).write_all(&[byte]);
    }
}

impl Status {
    /// Waits for the end of the command, and returns its exit status, as shells have it (and never 0 after Ctrl-C).
    pub(super) fn wait(&mut self) -> u8 {
        let mut status = [0];
        match self.0.read_exact(&mut status) {
            Ok(()) => status[0],
            // The keeper was killed.
            Err(_) => exit_status(Signal::SIGKILL),
        }
    }

    /// Waits until no process of the command is left.
    pub(super) fn wait_for_the_rest(mut self) {
        // Nothing more is said.
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

/// Keeps a command, or becomes it, if this process was started for that; its exit status then. To be called first of all
/// in a program.
pub(super) fn keep(program: &str) -> Option<u8> {
    let order = env::var(ORDER).ok()?;
    if let Ok(keeper) = order.parse() {
        return Some(execute(program, keeper));
    }
    // Its server is gone already: this process must not become another one.
    let Some(order) = Order::parse(&order) else { return Some(FAILURE) };
    // Nobody waits for this status, but a person who looks at processes.
    Some(match order.keep() {
        Ok(()) => SUCCESS,
        Err(error) => {
            super::say(program, &format!("cannot keep the command: {}", reason(&error)));
            FAILURE
        }
    })
}

/// Becomes the command; returns its exit status if that cannot be.
///
/// A process of its own, as all signals are blocked in its keeper, and a command would inherit that.
fn execute(program: &str, keeper: i32) -> u8 {
    // Cannot fail for valid signals. The keeper has one thread, and ends with it.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let _ = SigSet::empty().thread_set_mask();
    if getppid().as_raw() != keeper {
        return FAILURE;
    }
    let mut words = env::args_os().skip(1);
    let name = words.next().unwrap_or_default();
    let error = Command::new(&name).args(words).env_remove(ORDER).exec();
    super::say(program, &format!("cannot run {}: {}", name.display(), reason(&error)));
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// What a keeper is asked to do.
struct Order {
    status: File,
    control: File,
    grace: Duration,
    limit: SoftLimit,
}

impl Order {
    fn parse(order: &str) -> Option<Self> {
        let mut parts = order.split(':');
        let (status, control) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let grace = Duration::from_micros(parts.next()?.parse().ok()?);
        let limit = parts.next()?.parse().ok()?;
        // Fails where there is no reader or writer any more, and does not wait for one.
        let mut options = OpenOptions::new();
        options.custom_flags(OFlag::O_NONBLOCK.bits());
        let its = |number: i32| format!("/proc/self/fd/{number}");
        let status_pipe = options.clone().write(true).open(its(status)).ok()?;
        let control_pipe = options.read(true).open(its(control)).ok()?;
        // The command must not inherit them.
        nix::unistd::close(status).ok()?;
        nix::unistd::close(control).ok()?;
        Some(Self { status: status_pipe, control: control_pipe, grace, limit })
    }

    fn keep(self) -> io::Result<()> {
        // Whatever is sent to the process group must not end its keeper.
        SigSet::all().thread_block()?;
        let heard = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let signals =
            SignalFd::with_flags(&heard.into_iter().collect(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        prctl::set_child_subreaper(true)?;
        // As ps(1) has it.
        let _ = prctl::set_name(c"keeper");
        self.limit.restore();
        let mut kept = Kept {
            status: Some(self.status),
            control: Some(self.control),
            grace: self.grace,
            signals,
            heard: BTreeSet::new(),
            command: None,
            deadline: None,
            is_ending: false,
            is_killing: false,
        };
        if kept.hear_server() {
            // It is gone already.
            return Ok(());
        }
        let mut command = Command::new(EXECUTABLE);
        command.args(env::args_os().skip(1)).env(ORDER, getpid().to_string());
        kept.command = i32::try_from(command.spawn()?.id()).ok().map(Pid::from_raw);
        kept.watch()
    }
}

/// A command, and all that it has started.
struct Kept {
    /// `None`: nothing of the command is left.
    status: Option<File>,
    /// `None`: the server is over.
    control: Option<File>,
    grace: Duration,
    signals: SignalFd,
    /// Signals that were sent to this process, too: to all of its group.
    heard: BTreeSet<i32>,
    /// The command, until it has ended.
    command: Option<Pid>,
    /// When those who were asked to end are killed, and then when those are given up.
    deadline: Option<Instant>,
    is_ending: bool,
    is_killing: bool,
}

impl Kept {
    /// Watches over the command until nothing of it is left, and the server is over.
    fn watch(mut self) -> io::Result<()> {
        loop {
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Rounded up: to wake early would be a busy loop.
            let timeout = left.map(|left| PollTimeout::try_from(left + Duration::from_millis(1)));
            let timeout = timeout.map_or(PollTimeout::NONE, |timeout| timeout.unwrap_or(PollTimeout::MAX));
            let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            watched.extend(self.control.as_ref().map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            while let Ok(Some(signal)) = self.signals.read_signal() {
                self.heard.extend(i32::try_from(signal.ssi_signo));
            }
            let is_anybody_left = self.reap();
            if !is_anybody_left {
                self.status = None;
            }
            let is_over = self.control.is_none() || self.hear_server();
            if is_over && !is_anybody_left {
                return Ok(());
            }
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                if self.is_killing && is_over {
                    return Ok(());
                }
                self.begin_killing();
            }
            if self.is_killing {
                // Again each time that one of them has ended: it may have started another one just before.
                send(Signal::SIGKILL, Descendants::default().look());
            }
        }
    }

    /// Waits for all children that have ended; whether there are others.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if self.command == Some(Pid::from_raw(pid.as_raw_pid())) => {
                    self.command = None;
                    let signaled = status.terminating_signal().map(|signal| 128 + signal);
                    let status = status.exit_status().or(signaled);
                    let status = status.and_then(|status| u8::try_from(status).ok()).unwrap_or(FAILURE);
                    self.report(interrupted(status, self.stop_heard()));
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// The signal that was sent to the whole group and asks for a stop, if there was one. The command may have ended upon it
    /// before the server has heard it.
    fn stop_heard(&self) -> Option<Signal> {
        [Signal::SIGINT, Signal::SIGTERM].into_iter().find(|&signal| self.heard.contains(&(signal as i32)))
    }

    /// Says how the command has ended. A server that is gone needs to know nothing.
    fn report(&mut self, status: u8) {
        let _ = self.status.as_ref().map(|mut pipe| pipe.write_all(&[status]));
    }

    /// Does what the server says; whether it is over.
    fn hear_server(&mut self) -> bool {
        let mut byte = [0];
        loop {
            let Some(control) = &mut self.control else { return true };
            match control.read(&mut byte) {
                Ok(1) if byte[0] != OVER => self.end(byte[0].into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // The pipe is kept no longer: all that could be said is said, or nobody is left to say it.
                Ok(_) | Err(_) => {
                    self.control = None;
                    self.end_rest();
                }
            }
        }
    }

    /// The server was asked to stop.
    fn end(&mut self, signal: i32) {
        if self.is_ending {
            return self.begin_killing();
        }
        self.begin_ending();
        if !self.heard.contains(&signal) {
            ask_to_end(self.command);
        }
    }

    /// The server is over.
    fn end_rest(&mut self) {
        if !self.is_ending {
            self.begin_ending();
        }
        ask_to_end(Descendants::default().look());
    }

    fn begin_ending(&mut self) {
        self.is_ending = true;
        self.deadline = Instant::now().checked_add(self.grace);
    }

    fn begin_killing(&mut self) {
        self.is_killing = true;
        self.deadline = Instant::now().checked_add(LAST);
    }
}

/// The exit status of a command whose run was stopped by a signal, if one was: then it is no success.
pub(super) fn interrupted(status: u8, signal: Option<Signal>) -> u8 {
    match signal {
        Some(signal) if status == SUCCESS => exit_status(signal),
        _ => status,
    }
}

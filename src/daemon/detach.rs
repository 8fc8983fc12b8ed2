//! Daemonizing: the program is executed again in a new session, and the command returns when the service is ready.
//!
//! fork(2) keeps only the calling thread, so the starter executes the program anew, and the two processes talk:
//!
//! ```text
//!  in the foreground                                in the background
//!
//!  detach: starts the same program ───────────────▶ Detached::find: a session of its own
//!                                                   binds, opens, drops privileges
//!  copies what it says ◀───────── stdout, stderr ── says where it listens, or what went wrong
//!                                                   settle: to another directory
//!  returns ◀───────────────────── a zero byte ───── ready: stdout and stderr to /dev/null
//! ```
//!
//! Neither process outlives a failed start: a service that does not become ready is killed, and a service whose starter
//! is gone ends, at the latest when it reports that it is ready.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::errors::reason;

/// Environment variable of the service: device and inode of the pipe that is its stdout, as in `JOURNAL_STREAM`. A
/// child process that inherits the variable has another stdout, and does not take itself for the service.
const MARK: &str = "POETRY_SUITE_DETACHED";

/// Variables of socket activation, removed for the service: the sockets were passed to the starter, by its pid.
const ACTIVATION: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The byte on stdout that reports readiness: NUL, which is in no text.
const READY: u8 = 0;

/// umask(2) of the service: files are for their owner and group.
const UMASK: u32 = 0o027;

/// Why there is no service in the background.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be executed again.
    #[error("cannot start {program} again: {}", reason(.error))]
    Start {
        /// Its file.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The service ended with this exit status, never 0. Its error message was copied to stderr.
    #[error("it ended before it was ready")]
    Ended(u8),
    /// The service was ended by a signal.
    #[error("it was ended by {0} before it was ready")]
    Killed(String),
    /// The service was not ready in time, and was killed.
    #[error("it was not ready after {}", humantime::format_duration(*.0))]
    TooLong(Duration),
    /// What the service said could not be copied to stdout, so it was ended.
    #[error("what it says cannot be written to stdout: {}", reason(.0))]
    Unheard(io::Error),
    /// In the service: the starter is gone.
    #[error("nobody waits for this service to be ready")]
    Abandoned,
    /// A system call failed, named as in its man page.
    #[error("{call} failed: {}", reason(.error))]
    System {
        /// Such as `setsid(2)`.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
}

fn call<T>(call: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, Error> {
    result.map_err(|error| Error::System { call, error: error.into() })
}

/// Executes this program again with the same arguments, in the background, where [`Detached::find`] recognizes that.
/// Copies the stdout and stderr of the service to those of this process until it is ready, then returns its pid.
///
/// The service inherits three descriptors: /dev/null as stdin, and pipes to this process as stdout and stderr; and `keep`,
/// if that was inherited by this one.
///
/// Call it from a thread that lives as long as the process: until the service is ready it is killed when that thread
/// ends (PR_SET_PDEATHSIG).
///
/// # Errors
/// The service was not started, or did not become ready within `patience`; then it has been killed.
pub fn detach(patience: Duration, keep: Option<RawFd>) -> Result<u32, Error> {
    let mut again = Command::new(call("readlink(2)", env::current_exe())?);
    let mut args = env::args_os();
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    again.args(args);
    start(again, patience, keep)
}

fn start(mut program: Command, patience: Duration, keep: Option<RawFd>) -> Result<u32, Error> {
    let (stdout, its_stdout) = call("pipe(2)", io::pipe())?;
    let (stderr, its_stderr) = call("pipe(2)", io::pipe())?;
    let its_stdout = OwnedFd::from(its_stdout);
    program.env(MARK, call("fstat(2)", identity(&its_stdout))?);
    for name in ACTIVATION {
        program.env_remove(name);
    }
    program.stdin(Stdio::null()).stdout(its_stdout).stderr(its_stderr);
    // Descriptors that this process opened are close-on-exec; those that it inherited may not be.
    close_fds::set_fds_cloexec_threadsafe(3, keep.as_slice());
    let child = program.spawn();
    let child = child.map_err(|error| Error::Start { program: program.get_program().into(), error })?;
    // `Command` holds the write ends, too: with them open, the end of the service would not be the end of the pipes.
    drop(program);
    Starting(Some(child)).wait([stdout, stderr], patience)
}

/// A service that is not yet ready. Dropping this kills the process.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Fails if the process has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Starting {
    fn wait(mut self, pipes: [PipeReader; 2], patience: Duration) -> Result<u32, Error> {
        let child = self.0.as_mut().expect("it is taken at the end only");
        let pid = child.id();
        let process = call("pidfd_open(2)", pidfd_open(Pid::from_child(child), PidfdFlags::empty()))?;
        for pipe in &pipes {
            call("fcntl(2)", fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)))?;
        }
        let [mut stdout, mut stderr] = pipes.map(Some);
        let start = Instant::now();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            let ended = call("poll(2)", ended(&process, [&stdout, &stderr], left))?;
            // Read after poll(2): everything written before the process ended is in the pipes.
            let mut text = available(&mut stdout);
            let ready = text.iter().position(|&byte| byte == READY);
            text.truncate(ready.unwrap_or(text.len()));
            let _ = pass_on(io::stderr(), &available(&mut stderr));
            if let Err(error) = pass_on(io::stdout(), &text) {
                end_politely(child, &process, patience.saturating_sub(start.elapsed()));
                return Err(Error::Unheard(error));
            }
            if ready.is_some() {
                self.0 = None;
                return Ok(pid);
            }
            if ended {
                return Err(end(call("waitpid(2)", child.wait())?));
            }
            if start.elapsed() >= patience {
                return Err(Error::TooLong(patience));
            }
        }
    }
}

/// poll(2) on both pipes and the pidfd; true if the process has ended.
fn ended(process: &OwnedFd, pipes: [&Option<PipeReader>; 2], patience: Duration) -> nix::Result<bool> {
    let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
    let mut descriptors = vec![readable(process.as_fd())];
    descriptors.extend(pipes.into_iter().flatten().map(|pipe| readable(pipe.as_fd())));
    // Rounded up: to wake early would be a busy loop.
    let patience = PollTimeout::try_from(patience.saturating_add(Duration::from_millis(1)));
    match poll(&mut descriptors, patience.unwrap_or(PollTimeout::MAX)) {
        Ok(_) => Ok(descriptors[0].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads all bytes that are in a pipe now (`O_NONBLOCK`); closes the pipe at its end.
fn available(pipe: &mut Option<PipeReader>) -> Vec<u8> {
    let Some(open) = pipe else { return Vec::new() };
    let capacity = fcntl(&*open, FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| usize::try_from(size).ok());
    let mut bytes = vec![0; capacity.unwrap_or(64 * 1024)];
    let length = match open.read(&mut bytes) {
        Err(error) if crate::errors::is_for_later(&error) => 0,
        Ok(0) | Err(_) => {
            *pipe = None;
            0
        }
        Ok(length) => length,
    };
    bytes.truncate(length);
    bytes
}

/// Copies text; a closed stdout or stderr of the starter does not fail the service.
fn pass_on(mut to: impl Write, text: &[u8]) -> io::Result<()> {
    match to.write_all(text).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Asks a service to end (SIGTERM), and waits for that, so that it takes its files with it.
fn end_politely(service: &Child, process: &OwnedFd, patience: Duration) {
    let pid = i32::try_from(service.id()).map(nix::unistd::Pid::from_raw);
    if pid.is_ok_and(|pid| kill(pid, Signal::SIGTERM).is_ok()) {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        // If it does not end, it is killed.
        let _ = poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

fn end(status: ExitStatus) -> Error {
    match (status.code(), status.signal()) {
        (Some(code), _) => Error::Ended(u8::try_from(code).unwrap_or(1).max(1)),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map(Signal::as_str);
            Error::Killed(name.map_or_else(|_| format!("signal {signal}"), str::to_owned))
        }
        (None, None) => Error::Killed("a signal".to_owned()),
    }
}

/// Device and inode of a pipe: unique as long as the pipe exists.
fn identity(pipe: impl AsFd) -> io::Result<String> {
    let metadata = File::from(pipe.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// The background side of [`detach`]: the starter waits for readiness.
#[derive(Debug)]
pub struct Detached {
    /// Not `Send`: PR_SET_PDEATHSIG(2const) belongs to the thread that called it.
    _of_one_thread: PhantomData<*const ()>,
}

impl Detached {
    /// Finds out whether this process was started by [`detach`]. If so, calls setsid(2), which leaves the terminal, and
    /// asks for SIGKILL at the end of the starter. Call it once, before anything else.
    ///
    /// # Errors
    /// The starter is gone already, or the system refuses.
    pub fn find() -> Result<Option<Self>, Error> {
        let Some(mark) = env::var_os(MARK) else { return Ok(None) };
        if call("fstat(2)", identity(io::stdout()))?.as_str() != mark {
            return Ok(None);
        }
        call("setsid(2)", setsid())?;
        call("prctl(2)", prctl::set_pdeathsig(Signal::SIGKILL))?;
        // The starter may have ended before prctl(2): then its end of the pipe is closed.
        let stdout = io::stdout();
        let mut pipe = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        call("poll(2)", poll(&mut pipe, PollTimeout::ZERO))?;
        if pipe[0].any().unwrap_or(false) {
            return Err(Error::Abandoned);
        }
        Ok(Some(Self { _of_one_thread: PhantomData }))
    }

    /// chdir(2) to `/`, so that no file system is kept from being unmounted, and umask 027. Call it when no relative
    /// path will be used any more.
    ///
    /// # Errors
    /// The system refuses.
    pub fn settle(&self) -> Result<(), Error> {
        call("chdir(2)", env::set_current_dir("/"))?;
        umask(Mode::from_bits_truncate(UMASK));
        Ok(())
    }

    /// Reports readiness, whereupon the starter returns. From now on stdout and stderr are /dev/null, and the service
    /// outlives its starter.
    ///
    /// # Errors
    /// The starter was killed, or the system refuses; the service should end then.
    pub fn ready(self) -> Result<(), Error> {
        let null = call("open(2)", OpenOptions::new().read(true).write(true).open("/dev/null"))?;
        let mut stdout = io::stdout().lock();
        // stderr is closed first: the starter stops reading both at the byte on stdout.
        call("dup2(2)", dup2_stderr(&null))?;
        call("prctl(2)", prctl::set_pdeathsig(None))?;
        match stdout.write_all(&[READY]).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(Error::Abandoned),
            result => call("write(2)", result)?,
        }
        call("dup2(2)", dup2_stdout(&null))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::process::{self, Output};
    use std::thread;

    use nix::unistd::{getpid, getsid};
    use tempfile::TempDir;

    use super::*;
    use crate::test_process::{DONE, again, alone, part};

    /// Nothing here takes so long.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// More than is in a pipe.
    const MUCH: usize = 2 << 20;

    /// Where a service, whoever its parent is, talks with the test.
    struct Stage {
        directory: TempDir,
        listener: UnixListener,
    }

    impl Stage {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let listener = UnixListener::bind(directory.path().join("stage")).expect("bound");
            Self { directory, listener }
        }

        /// A process that starts a service which behaves like this.
        fn starter(&self, test: &str, patience: Duration, behaviour: &str) -> Command {
            let stage = self.directory.path().join("stage");
            let mut starter = again(test, &format!("{} {behaviour} {}", patience.as_millis(), stage.display()));
            starter.stdout(Stdio::null()).stderr(Stdio::piped());
            starter
        }

        /// The service, when it has come.
        fn service(&self) -> BufReader<UnixStream> {
            let patience = PollTimeout::try_from(PATIENCE).expect("short");
            let come = poll(&mut [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)], patience);
            assert_eq!(come, Ok(1), "no service has come");
            let (stream, _) = self.listener.accept().expect("a service");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            BufReader::new(stream)
        }
    }

    /// The next thing that a service says; nothing when it has ended.
    fn next(service: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        service.read_line(&mut line).expect("a line, or its end");
        line.trim_end().to_owned()
    }

    fn say(mut to: impl Write, line: &str) {
        to.write_all(format!("{line}\n").as_bytes()).expect("said");
    }

    /// Does what this process is there for, if it is not the test proper.
    fn play(test: &str) {
        let Some(part) = part(test) else { return };
        let words: Vec<_> = part.split(' ').collect();
        let [patience, behaviour, stage] = words[..] else { panic!("patience, behaviour, stage") };
        if let Some(detached) = Detached::find().expect("a starter that waits") {
            let stage = UnixStream::connect(stage).expect("a test that listens");
            serve(behaviour, detached, &stage);
            process::exit(0);
        }
        let status = match detach(Duration::from_millis(patience.parse().expect("a number")), None) {
            Ok(pid) => {
                say(io::stdout(), &format!("ready: {pid}"));
                DONE
            }
            Err(Error::Ended(status)) => status.into(),
            Err(error) => {
                say(io::stderr(), &error.to_string());
                1
            }
        };
        process::exit(status);
    }

    fn serve(behaviour: &str, detached: Detached, stage: &UnixStream) {
        let null = || OpenOptions::new().write(true).open("/dev/null").expect("opened");
        // As a change of user makes it.
        let unaware = || prctl::set_pdeathsig(None).expect("set");
        // Or for the end of the test.
        let wait = || BufReader::new(stage).read_line(&mut String::new()).expect("told");
        say(stage, &process::id().to_string());
        match behaviour {
            "serves" => {
                say(io::stdout(), "Serving on 127.0.0.1:10000.");
                say(io::stderr(), "a warning");
                detached.settle().expect("settled");
                detached.ready().expect("heard");
                say(io::stdout(), "never heard");
                say(io::stderr(), "never heard");
                wait();
                let is_leader = getsid(None) == Ok(getpid());
                say(stage, &format!("leader: {is_leader}"));
                say(stage, &format!("sockets: {}", ACTIVATION.into_iter().any(|name| env::var_os(name).is_some())));
                say(stage, &format!("directory: {}", env::current_dir().expect("a directory").display()));
                say(stage, &format!("umask: {:o}", umask(Mode::empty())));
                for descriptor in fs::read_dir("/proc/self/fd").expect("readable") {
                    // That of the directory is gone with it.
                    if let Ok(target) = fs::read_link(descriptor.expect("an entry").path()) {
                        say(stage, &format!("open: {}", target.display()));
                    }
                }
                say(stage, "end");
                wait();
            }
            "talks" => {
                say(io::stdout(), &"x".repeat(MUCH));
                say(io::stderr(), &"y".repeat(MUCH));
                detached.ready().expect("heard");
            }
            "fails" => {
                say(io::stderr(), "cannot listen on 127.0.0.1:1: permission denied");
                process::exit(3);
            }
            "ends" => {}
            "dies" => nix::sys::signal::raise(Signal::SIGABRT).expect("raised"),
            "hangs" => {
                wait();
            }
            "hangs-without-a-word" => {
                unaware();
                dup2_stdout(null()).expect("closed");
                dup2_stderr(null()).expect("closed");
                wait();
            }
            "notices-nothing" => {
                unaware();
                say(stage, "unaware");
                wait();
                let end = detached.ready().expect_err("nobody hears");
                say(stage, &end.to_string());
            }
            _ => panic!("unknown behaviour"),
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn run(test: &str, behaviour: &str, patience: Duration) -> (Output, BufReader<UnixStream>) {
        let stage = Stage::new();
        let output = stage.starter(test, patience, behaviour).stdout(Stdio::piped()).output().expect("a starter");
        let mut service = stage.service();
        assert_ne!(next(&mut service), "");
        (output, service)
    }

    #[test]
    fn a_service_that_is_ready_goes_on_when_its_starter_has_returned() {
        const TEST: &str = "daemon::detach::tests::a_service_that_is_ready_goes_on_when_its_starter_has_returned";
        play(TEST);
        let stage = Stage::new();
        let inner = stage.starter(TEST, PATIENCE, "serves");
        let mut starter = Command::new("sh");
        let foreign = stage.directory.path().join("foreign");
        starter.args(["-c", "exec 7>\"$1\"; shift; exec \"$@\"", "sh"]).arg(&foreign);
        starter.arg(inner.get_program()).args(inner.get_args());
        starter.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        starter.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "foreign");
        // Returns at the end of stdout and stderr, so nobody else has them.
        let output = starter.output().expect("a starter");
        let mut service = stage.service();
        let pid = next(&mut service);

        assert_eq!(output.status.code(), Some(DONE));
        let stdout = text(&output.stdout);
        assert!(stdout.contains(&format!("Serving on 127.0.0.1:10000.\nready: {pid}\n")), "{stdout:?}");
        assert_eq!(text(&output.stderr), "a warning\n");
        assert!(foreign.exists());

        say(service.get_ref(), "go on");
        assert_eq!(next(&mut service), "leader: true");
        assert_eq!(next(&mut service), "sockets: false");
        assert_eq!(next(&mut service), "directory: /");
        assert_eq!(next(&mut service), "umask: 27");
        let mut open: Vec<_> = (0..).map(|_| next(&mut service)).take_while(|line| line != "end").collect();
        open.sort();
        assert_eq!(open[..3], ["open: /dev/null"; 3]);
        assert!(open[3..].iter().all(|line| line.starts_with("open: socket:") || line.starts_with("open: /proc/")));
        say(service.get_ref(), "end");
        assert_eq!(next(&mut service), "");
    }

    #[test]
    fn all_that_is_said_is_passed_on() {
        const TEST: &str = "daemon::detach::tests::all_that_is_said_is_passed_on";
        play(TEST);
        let (output, _) = run(TEST, "talks", PATIENCE);
        assert_eq!(output.status.code(), Some(DONE));
        let count = |bytes: &[u8], letter| bytes.iter().filter(|&&byte| byte == letter).count();
        assert!(count(&output.stdout, b'x') >= MUCH);
        assert_eq!(count(&output.stderr, b'y'), MUCH);
        assert_eq!(count(&output.stdout, READY), 0);
    }

    #[test]
    fn a_service_that_fails_says_why_through_its_starter() {
        const TEST: &str = "daemon::detach::tests::a_service_that_fails_says_why_through_its_starter";
        play(TEST);
        let (output, mut service) = run(TEST, "fails", PATIENCE);
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(text(&output.stderr), "cannot listen on 127.0.0.1:1: permission denied\n");
        assert_eq!(next(&mut service), "");
    }

    #[test]
    fn a_service_that_ends_well_was_never_ready() {
        const TEST: &str = "daemon::detach::tests::a_service_that_ends_well_was_never_ready";
        play(TEST);
        assert_eq!(run(TEST, "ends", PATIENCE).0.status.code(), Some(1));
    }

    #[test]
    fn a_service_that_dies_is_told_of() {
        const TEST: &str = "daemon::detach::tests::a_service_that_dies_is_told_of";
        play(TEST);
        let (output, _) = run(TEST, "dies", PATIENCE);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr), "it was ended by SIGABRT before it was ready\n");
    }

    #[test]
    fn a_service_that_does_not_become_ready_is_killed() {
        const TEST: &str = "daemon::detach::tests::a_service_that_does_not_become_ready_is_killed";
        play(TEST);
        thread::scope(|scope| {
            for behaviour in ["hangs", "hangs-without-a-word"] {
                scope.spawn(move || {
                    let stage = Stage::new();
                    // Time enough to begin, or this would be a test of a service that has not.
                    let starter = stage.starter(TEST, Duration::from_secs(3), behaviour).spawn().expect("a starter");
                    let mut service = stage.service();
                    assert_ne!(next(&mut service), "");
                    assert_eq!(next(&mut service), "");
                    let output = starter.wait_with_output().expect("it ends");
                    assert_eq!(output.status.code(), Some(1));
                    assert_eq!(text(&output.stderr), "it was not ready after 3s\n");
                });
            }
        });
    }

    #[test]
    fn a_service_ends_with_a_starter_that_is_killed() {
        const TEST: &str = "daemon::detach::tests::a_service_ends_with_a_starter_that_is_killed";
        play(TEST);
        let stage = Stage::new();
        let mut starter = stage.starter(TEST, PATIENCE, "hangs").spawn().expect("a starter");
        let mut service = stage.service();
        assert_ne!(next(&mut service), "");
        starter.kill().expect("killed");
        starter.wait().expect("reaped");
        assert_eq!(next(&mut service), "");
    }

    #[test]
    fn a_service_whose_starter_is_gone_does_not_become_ready() {
        const TEST: &str = "daemon::detach::tests::a_service_whose_starter_is_gone_does_not_become_ready";
        play(TEST);
        let stage = Stage::new();
        let mut starter = stage.starter(TEST, PATIENCE, "notices-nothing").spawn().expect("a starter");
        let mut service = stage.service();
        assert_ne!(next(&mut service), "");
        assert_eq!(next(&mut service), "unaware");
        starter.kill().expect("killed");
        starter.wait().expect("reaped");
        say(service.get_ref(), "go on");
        assert_eq!(next(&mut service), "nobody waits for this service to be ready");
        assert_eq!(next(&mut service), "");
    }

    #[test]
    fn a_starter_that_was_gone_from_the_beginning_is_noticed() {
        const TEST: &str = "daemon::detach::tests::a_starter_that_was_gone_from_the_beginning_is_noticed";
        if part(TEST).as_deref() == Some("late") {
            io::stdin().read_line(&mut String::new()).expect("told");
            assert!(matches!(Detached::find(), Err(Error::Abandoned)));
            process::exit(DONE);
        }
        // Where nobody else starts a process, which would have the pipe for a moment.
        alone(TEST, || {
            let (reader, writer) = io::pipe().expect("a pipe");
            let writer = OwnedFd::from(writer);
            let mut service = again(TEST, "late");
            service.env(MARK, identity(&writer).expect("a pipe")).stdout(writer).stdin(Stdio::piped());
            let mut running = service.spawn().expect("a service");
            drop(service);
            // The harness has to get its word out first.
            let mut reader = BufReader::new(reader);
            let mut line = String::new();
            while !line.contains("running 1 test") {
                assert_ne!(reader.read_line(&mut line).expect("a line"), 0);
            }
            drop(reader);
            say(running.stdin.take().expect("a pipe"), "go on");
            assert_eq!(running.wait().expect("it ends").code(), Some(DONE));
        });
    }

    #[test]
    fn what_a_service_starts_is_not_detached() {
        const TEST: &str = "daemon::detach::tests::what_a_service_starts_is_not_detached";
        if part(TEST).as_deref() == Some("inherits") {
            assert!(Detached::find().expect("no error").is_none());
            assert_ne!(getsid(None), Ok(getpid()));
            process::exit(DONE);
        }
        let (_reader, writer) = io::pipe().expect("a pipe");
        let mut program = again(TEST, "inherits");
        program.env(MARK, identity(writer).expect("a pipe")).stdout(Stdio::null());
        assert_eq!(program.status().expect("run").code(), Some(DONE));
    }

    #[test]
    fn a_program_that_is_not_there_cannot_be_started() {
        alone("daemon::detach::tests::a_program_that_is_not_there_cannot_be_started", || {
            let error = start(Command::new("/no/such/program"), PATIENCE, None).expect_err("not there");
            assert_eq!(error.to_string(), "cannot start /no/such/program again: no such file or directory");
            assert!(!Path::new("/no/such/program").exists());
        });
    }
}

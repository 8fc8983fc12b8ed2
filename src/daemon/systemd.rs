//! What systemd and its services say to each other: sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
//!
//! The protocol is environment variables, which are read here and not changed, and datagrams. Without the variables
//! nothing is sent and nothing is found, so a program need not know whether systemd started it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockRef, Type};
use tracing::warn;

use crate::errors::reason;

/// A state of a service, as sd_notify(3) sends it.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// `READY=1`: started, or reloaded.
    Ready,
    /// `RELOADING=1`; [`Ready`](Self::Ready) has to follow.
    Reloading,
    /// `STOPPING=1`.
    Stopping,
    /// `WATCHDOG=1`: alive, see [`watchdog_interval`].
    Watchdog,
}

impl State {
    fn message(self) -> String {
        match self {
            Self::Ready => "READY=1\n".to_owned(),
            Self::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                format!("RELOADING=1\nMONOTONIC_USEC={}\n", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)
            }
            Self::Stopping => "STOPPING=1\n".to_owned(),
            Self::Watchdog => "WATCHDOG=1\n".to_owned(),
        }
    }
}

/// Sends states of the service to the service manager, if `NOTIFY_SOCKET` names one.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    socket: Option<OsString>,
}

/// Send timeout of the datagram socket. A manager whose queue is full makes room within moments, unless it hangs; then
/// the service must not hang with it.
const PATIENCE: Duration = Duration::from_secs(3);

impl Notifier {
    /// The service manager that `NOTIFY_SOCKET` names.
    pub fn from_env() -> Self {
        Self { socket: env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) }
    }

    /// Sends a state; waits up to 3 seconds while the manager's queue is full.
    ///
    /// # Errors
    /// Nobody is at the socket, nobody reads from it in time, or its name is neither a path nor an abstract one. A
    /// service can go on without.
    pub fn notify(&self, state: State) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let ours = UnixDatagram::unbound()?;
        ours.set_write_timeout(Some(PATIENCE))?;
        ours.send_to_addr(state.message().as_bytes(), &address(socket)?).map(|_| ())
    }
}

/// Parses `NOTIFY_SOCKET`: a path, or an abstract name (unix(7)) after `@`.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// `WATCHDOG_USEC`: the longest time between two [`State::Watchdog`], if the service manager asks for them.
pub fn watchdog_interval() -> Option<Duration> {
    interval(variable("WATCHDOG_USEC").ok()??, variable("WATCHDOG_PID").ok()?)
}

fn interval(usec: u64, pid: Option<u32>) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid == process::id());
    Some(Duration::from_micros(usec)).filter(|interval| meant && !interval.is_zero())
}

/// A thread that sends [`State::Watchdog`] twice in each interval, until this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    _stop: mpsc::Sender<()>,
}

impl Watchdog {
    /// Starts the thread; it sends as long as `is_alive` returns true. Ask the service itself: a thread that only
    /// proves that threads run would not notice a service that is stuck.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        notifier: Notifier,
        interval: Duration,
        mut is_alive: impl FnMut() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let body = move || {
            loop {
                if is_alive()
                    && let Err(error) = notifier.notify(State::Watchdog)
                {
                    warn!("Cannot tell the service manager that this service is alive: {}", reason(&error));
                }
                if stopped.recv_timeout(interval / 2) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        thread::Builder::new().name("watchdog".to_owned()).spawn(body)?;
        Ok(Self { _stop: stop })
    }
}

/// Why inherited sockets (sd_listen_fds(3)) cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable makes no sense.
    #[error("{name}={value}: not a number")]
    NotANumber {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// There are more or fewer names than sockets.
    #[error("LISTEN_FDNAMES={0}: not a name for each of LISTEN_FDS")]
    Names(String),
    /// Fewer descriptors are open than should be.
    #[error("LISTEN_FDS={count}: descriptor {descriptor} is not open")]
    NotOpen {
        /// How many there should be.
        count: u32,
        /// The first that is missing.
        descriptor: u32,
    },
    /// A descriptor is no listening TCP socket.
    #[error("{0} is not a listening TCP socket")]
    NotAListener(String),
    /// The sockets were taken before; each descriptor can have one owner only.
    #[error("the inherited sockets have been taken already")]
    Taken,
}

/// The first inherited descriptor, `SD_LISTEN_FDS_START`.
const FIRST: u32 = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the listening sockets that were passed to this process (`LISTEN_PID`, `LISTEN_FDS`), with their names
/// (`FileDescriptorName=`), and makes them close-on-exec.
///
/// Call it once, before anything else is opened: a descriptor with a number in that range is taken for a socket.
///
/// # Errors
/// The variables make no sense, or a descriptor is not what they promise.
pub fn inherited_listeners() -> Result<Vec<(Option<String>, TcpListener)>, Error> {
    let Some(count) = inherited()? else { return Ok(Vec::new()) };
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(Error::Taken);
    }
    // Cannot fail: everything that could be wrong with the variables was checked above.
    let descriptors = sd_listen_fds::get().unwrap_or_default();
    debug_assert_eq!(descriptors.len(), count as usize);
    let named = (FIRST..).zip(descriptors).map(|(number, (name, descriptor))| {
        let name = name.filter(|name| !name.is_empty());
        let listener = listener(descriptor.into_std());
        let what = || match &name {
            Some(name) => format!("descriptor {number} ({name})"),
            None => format!("descriptor {number}"),
        };
        let listener = listener.ok_or_else(|| Error::NotAListener(what()))?;
        Ok((name, listener))
    });
    named.collect()
}

/// How many descriptors the environment promises to this process. Each is looked up in /proc/self/fd: a descriptor that
/// is not open must not become an `OwnedFd`.
fn inherited() -> Result<Option<u32>, Error> {
    if variable("LISTEN_PID")? != Some(process::id()) {
        return Ok(None);
    }
    let Some(count) = variable::<u32>("LISTEN_FDS")? else { return Ok(None) };
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    if !names.is_empty() && names.split(':').count() != count as usize {
        return Err(Error::Names(names));
    }
    for descriptor in (FIRST..).take(count as usize) {
        if fs::symlink_metadata(format!("/proc/self/fd/{descriptor}")).is_err() {
            return Err(Error::NotOpen { count, descriptor });
        }
    }
    Ok(Some(count))
}

fn listener(descriptor: OwnedFd) -> Option<TcpListener> {
    let socket = SockRef::from(&descriptor);
    let is_tcp = socket.r#type().ok()? == Type::STREAM && [Domain::IPV4, Domain::IPV6].contains(&socket.domain().ok()?);
    let listens = socket.is_listener().ok()?;
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).ok()?;
    (is_tcp && listens).then(|| descriptor.into())
}

/// Parses a number in the environment.
fn variable<T: FromStr>(name: &'static str) -> Result<Option<T>, Error> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy();
    value.parse().map(Some).map_err(|_| Error::NotANumber { name, value: value.to_string() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::iter;
    use std::net::{Shutdown, TcpStream};
    use std::os::fd::AsFd;
    use std::process::{Command, Output, Stdio};

    use rustix::io::fcntl_getfd;
    use tempfile::TempDir;

    use super::*;
    use crate::test_process::{DONE, again, part};

    /// Nothing here takes so long.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn manager() -> (TempDir, UnixDatagram, Notifier) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        (directory, socket, Notifier { socket: Some(path.into()) })
    }

    fn hear(socket: &UnixDatagram) -> String {
        let mut message = [0; 1000];
        let length = socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    #[test]
    fn the_manager_hears_how_the_service_is() {
        let (_directory, socket, notifier) = manager();
        for (state, message) in
            [(State::Ready, "READY=1\n"), (State::Stopping, "STOPPING=1\n"), (State::Watchdog, "WATCHDOG=1\n")]
        {
            notifier.notify(state).expect("told");
            assert_eq!(hear(&socket), message);
        }
    }

    #[test]
    fn a_reload_begins_at_a_time_of_the_monotonic_clock() {
        let (_directory, socket, notifier) = manager();
        let micros = || {
            let now = clock_gettime(ClockId::Monotonic);
            Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("a part")).as_micros()
        };
        let before = micros();
        notifier.notify(State::Reloading).expect("told");
        let message = hear(&socket);
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a time").trim_end();
        assert!((before..=micros()).contains(&time.parse().expect("a number")));
    }

    #[test]
    fn a_manager_may_have_an_abstract_name() {
        let name = format!("poetry-suite-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let notifier = Notifier { socket: Some(format!("@{name}").into()) };
        notifier.notify(State::Ready).expect("told");
        assert_eq!(hear(&socket), "READY=1\n");
    }

    #[test]
    fn a_manager_that_is_busy_hears_it_later() {
        let (_directory, socket, notifier) = manager();
        let filler = UnixDatagram::unbound().expect("a socket");
        filler.set_nonblocking(true).expect("set");
        let address = address(notifier.socket.as_deref().expect("a path")).expect("an address");
        let queued = iter::repeat_with(|| filler.send_to_addr(b"x", &address)).take_while(Result::is_ok).count();
        let (begin, begun) = mpsc::channel();
        let telling = thread::spawn(move || {
            begin.send(rustix::thread::gettid().as_raw_nonzero()).expect("told");
            notifier.notify(State::Ready)
        });
        // Asleep, it waits for room.
        let stat = format!("/proc/self/task/{}/stat", begun.recv().expect("begun"));
        let sleeps = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S "));
        while !telling.is_finished() && !sleeps() {
            thread::yield_now();
        }
        for _ in 0..queued {
            assert_eq!(hear(&socket), "x");
        }
        assert_eq!(hear(&socket), "READY=1\n");
        telling.join().expect("no panic").expect("told");
    }

    #[test]
    fn a_manager_that_is_not_there_is_an_error_and_none_is_not() {
        Notifier::default().notify(State::Ready).expect("nobody to tell");
        let (directory, _, notifier) = manager();
        drop(directory);
        notifier.notify(State::Ready).expect_err("gone");
        let error = Notifier { socket: Some("vsock:2:1".into()) }.notify(State::Ready).expect_err("unknown");
        assert_eq!(error.to_string(), "neither a path nor an abstract name");
    }

    #[test]
    fn the_environment_names_the_manager_and_its_patience() {
        const TEST: &str = "daemon::systemd::tests::the_environment_names_the_manager_and_its_patience";
        match part(TEST).as_deref() {
            None => {}
            Some("nothing") => {
                assert_eq!(Notifier::from_env().socket, None);
                assert_eq!(watchdog_interval(), None);
                assert!(inherited_listeners().expect("none").is_empty());
                process::exit(DONE);
            }
            Some(_) => {
                assert_eq!(watchdog_interval(), Some(Duration::from_secs(20)));
                Notifier::from_env().notify(State::Ready).expect("told");
                process::exit(DONE);
            }
        }
        let (_directory, socket, notifier) = manager();
        let ended = |command: &mut Command| command.output().expect("run again").status.code();
        let mut nothing = again(TEST, "nothing");
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID"] {
            nothing.env_remove(name);
        }
        assert_eq!(ended(&mut nothing), Some(DONE));
        assert_eq!(
            ended(nothing.env("NOTIFY_SOCKET", "").env("WATCHDOG_USEC", "0").env("LISTEN_PID", "1")),
            Some(DONE)
        );
        let mut all = again(TEST, "all");
        all.env("NOTIFY_SOCKET", notifier.socket.expect("a path")).env_remove("WATCHDOG_PID");
        assert_eq!(ended(all.env("WATCHDOG_USEC", "20000000")), Some(DONE));
        assert_eq!(hear(&socket), "READY=1\n");
    }

    #[test]
    fn a_watchdog_for_another_process_is_none_for_this() {
        assert_eq!(interval(5_000_000, None), Some(Duration::from_secs(5)));
        assert_eq!(interval(5_000_000, Some(process::id())), Some(Duration::from_secs(5)));
        assert_eq!(interval(5_000_000, Some(1)), None);
        assert_eq!(interval(0, None), None);
    }

    #[test]
    fn the_watchdog_tells_while_the_service_is_alive() {
        let (_directory, socket, notifier) = manager();
        let (ask, asked) = mpsc::channel();
        let mut answers = [true, false, true].into_iter();
        let is_alive = move || {
            let answer = answers.next().unwrap_or(false);
            // Nobody may be asking any more.
            let _ = ask.send(answer);
            answer
        };
        let watchdog = Watchdog::start(notifier, Duration::from_millis(2), is_alive).expect("started");
        for answer in [true, false, true, false] {
            assert_eq!(asked.recv_timeout(PATIENCE), Ok(answer));
        }
        assert_eq!([hear(&socket), hear(&socket)], ["WATCHDOG=1\n", "WATCHDOG=1\n"]);
        socket.set_nonblocking(true).expect("set");
        assert_eq!(socket.recv(&mut [0]).expect_err("dead").kind(), io::ErrorKind::WouldBlock);
        drop(watchdog);
        while asked.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Disconnected) {}
    }

    /// Runs `test` again with descriptors 3 and 4, and this in its environment.
    fn activated(test: &str, descriptors: [OwnedFd; 2], variables: &[(&str, &str)]) -> Output {
        let inner = again(test, "service");
        let [third, fourth] = descriptors;
        let script = "export LISTEN_PID=$$; exec \"$@\" 3<&0 4<&2 </dev/null 2>&1";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.envs(variables.iter().copied()).stdin(third).stderr(fourth).stdout(Stdio::piped());
        command.output().expect("run again")
    }

    fn said(output: &Output) -> String {
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn listening(interface: &str) -> (std::net::SocketAddr, OwnedFd) {
        let listener = TcpListener::bind((interface, 0)).expect("a port");
        (listener.local_addr().expect("bound"), listener.into())
    }

    #[test]
    fn sockets_that_were_open_already_are_served_under_their_names() {
        const TEST: &str = "daemon::systemd::tests::sockets_that_were_open_already_are_served_under_their_names";
        if part(TEST).is_some() {
            let listeners = inherited_listeners().expect("two");
            for (name, listener) in &listeners {
                assert!(fcntl_getfd(listener.as_fd()).expect("open").contains(FdFlags::CLOEXEC));
                let (mut client, _) = listener.accept().expect("a client");
                client.write_all(name.as_deref().unwrap_or("nameless").as_bytes()).expect("written");
            }
            assert!(matches!(inherited_listeners(), Err(Error::Taken)));
            process::exit(DONE);
        }
        for (names, answers) in [("poems:", ["poems", "nameless"]), ("", ["nameless", "nameless"])] {
            let (first, third) = listening("127.0.0.1");
            let (second, fourth) = listening("127.0.0.1");
            let clients = [first, second].map(|address| TcpStream::connect(address).expect("queued"));
            let output = activated(TEST, [third, fourth], &[("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", names)]);
            assert_eq!(output.status.code(), Some(DONE), "{}", said(&output));
            for (mut client, answer) in clients.into_iter().zip(answers) {
                client.shutdown(Shutdown::Write).expect("shut down");
                let mut text = String::new();
                client.read_to_string(&mut text).expect("an answer");
                assert_eq!(text, answer);
            }
        }
    }

    #[test]
    fn what_is_no_listener_is_named() {
        const TEST: &str = "daemon::systemd::tests::what_is_no_listener_is_named";
        if part(TEST).is_some() {
            let error = inherited_listeners().expect_err("no listener");
            io::stdout().write_all(format!("<{error}>").as_bytes()).expect("told");
            process::exit(DONE);
        }
        let file = || OwnedFd::from(fs::File::open("/dev/null").expect("opened"));
        let datagrams = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let client = || {
            let (address, _listener) = listening("127.0.0.1");
            // It is in the queue of a listener that is about to go.
            OwnedFd::from(TcpStream::connect(address).expect("connected"))
        };
        let local = || {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("socket");
            OwnedFd::from(std::os::unix::net::UnixListener::bind(path).expect("bound"))
        };
        let refused = |fourth, variables: &[(&str, &str)], error: &str| {
            let output = activated(TEST, [listening("127.0.0.1").1, fourth], variables);
            assert_eq!(output.status.code(), Some(DONE), "{}", said(&output));
            assert!(said(&output).contains(&format!("<{error}")), "{}", said(&output));
        };
        let two = ("LISTEN_FDS", "2");
        for other in [file(), datagrams(), client()] {
            refused(other, &[two], "descriptor 4 is not a listening TCP socket>");
        }
        refused(local(), &[two, ("LISTEN_FDNAMES", "a:b")], "descriptor 4 (b) is not a listening TCP socket>");
        refused(file(), &[two, ("LISTEN_FDNAMES", "a")], "LISTEN_FDNAMES=a: not a name for each of LISTEN_FDS>");
        refused(file(), &[("LISTEN_FDS", "two")], "LISTEN_FDS=two: not a number>");
        refused(file(), &[("LISTEN_FDS", "-1")], "LISTEN_FDS=-1: not a number>");
        refused(file(), &[("LISTEN_FDS", "4294967295")], "LISTEN_FDS=4294967295: descriptor ");
    }
}

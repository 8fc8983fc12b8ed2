//! Programs and servers for tests. Whatever is started here is stopped and reaped when its value is dropped.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regex_lite::Regex;
use socket2::{Domain, SockRef, Socket, Type};

/// The four clients. What holds for one holds for all.
pub(crate) const CLIENTS: [&str; 4] = ["get-poetry-blocking", "get-poetry-threads", "get-poetry-select", "get-poetry"];

/// Those that wait for several poems at once.
pub(crate) const CONCURRENT: [&str; 3] = ["get-poetry-threads", "get-poetry-select", "get-poetry"];

/// Nothing a test does takes so long on any machine; a program that is still there then hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What something healthy gets beside something that has to time out: longer than a busy machine stops for.
pub(crate) const LIMIT: &str = "2s";

/// The same with each client, all at once: for what has to wait.
pub(crate) fn with_every_client(test: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for client in CLIENTS {
            let test = &test;
            scope.spawn(move || test(client));
        }
    });
}

/// A poem of the repository.
pub(crate) fn poem_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("poetry").join(name)
}

/// Waits for something that nobody tells of.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        // What takes its time is asked for less often: others need the processor.
        thread::park_timeout((began.elapsed() / 20).clamp(Duration::from_millis(1), Duration::from_millis(50)));
    }
}

/// A poem that no socket buffer holds.
pub(crate) fn large_poem(directory: &Path) -> PathBuf {
    let path = directory.join("large.txt");
    fs::write(&path, vec![b'x'; 64 << 20]).expect("written");
    path
}

/// Puts another poem in the place of the first one, as careful programs do.
pub(crate) fn replace(path: &Path, poem: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, poem).expect("written");
    fs::rename(&new, path).expect("renamed");
}

/// A program of this package, in an environment that does not meddle.
pub(crate) fn program(name: &str) -> Command {
    in_peace(Command::new(path_of(name)))
}

/// A program that takes no notice of whether the one who started the tests ignores SIGHUP (nohup(1)), as processes
/// inherit it.
pub(crate) fn program_with_hangup(name: &str) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(path_of(name));
    in_peace(command)
}

fn in_peace(mut command: Command) -> Command {
    for name in ["RUST_LOG", "NO_COLOR", "RUST_BACKTRACE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_PID"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

pub(crate) fn path_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_get-poetry")).with_file_name(name)
}

/// Runs a program to its end.
pub(crate) fn run<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Finished {
    let mut command = program(name);
    command.args(args);
    finish(&mut command)
}

/// Runs a command to its end, keeping what it writes.
pub(crate) fn finish(command: &mut Command) -> Finished {
    Running::start(command).finish()
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("killed: {self:?}"))
    }

    /// The only line on stderr.
    pub(crate) fn complaint(&self) -> &str {
        let mut lines = self.stderr.lines();
        match (lines.next(), lines.next()) {
            (Some(line), None) => line,
            _ => panic!("not one line: {:?}", self.stderr),
        }
    }

    pub(crate) fn has_line(&self, wanted: &str) -> bool {
        self.stderr.lines().any(|line| line == wanted)
    }

    /// Whether a line of a client's `-v` says this, and when it was.
    pub(crate) fn has_timed_line(&self, wanted: &str) -> bool {
        let time = |line: &str| line.strip_prefix(wanted)?.strip_prefix(", at ").map(|time| time.ends_with('s'));
        self.stderr.lines().any(|line| time(line) == Some(true))
    }
}

/// A program under way, with its stdout and stderr read as they come.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<String>>,
    lines: mpsc::Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stderr(Stdio::piped());
        Self::start_as_is(command.stdout(Stdio::piped()))
    }

    /// Leaves stdout and stderr where the caller put them.
    pub(crate) fn start_as_is(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().map(|mut stdout| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stdout.read_to_end(&mut bytes).expect("stdout");
                bytes
            })
        });
        Self::read(child, stdout)
    }

    fn read(mut child: Child, stdout: Option<JoinHandle<Vec<u8>>>) -> Self {
        let (tell, lines) = mpsc::channel();
        let stderr = child.stderr.take().map(|stderr| {
            thread::spawn(move || {
                let mut text = String::new();
                for line in BufReader::new(stderr).lines() {
                    let line = line.expect("stderr is UTF-8");
                    text.push_str(&line);
                    text.push('\n');
                    let _ = tell.send(line);
                }
                text
            })
        });
        Self { child, stdout, stderr, lines }
    }

    /// Waits for lines on stderr that contain these parts, in any order.
    pub(crate) fn hear_all(&self, parts: &[&str]) {
        let mut missing = parts.to_vec();
        while !missing.is_empty() {
            let line = self.hear("");
            missing.retain(|part| !line.contains(part));
        }
    }

    /// Waits for a line on stderr that contains `part`.
    pub(crate) fn hear(&self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(_) => {}
                Err(error) => panic!("no '{part}' on stderr: {error}"),
            }
        }
    }

    /// Whether a line on stderr that nobody has heard yet contains `part`.
    pub(crate) fn has_said(&self, part: &str) -> bool {
        self.lines.try_iter().any(|line| line.contains(part))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().expect("a pid")), signal).expect("the program is there");
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a child, or a zombie");
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn finish(mut self) -> Finished {
        let status = wait(&mut self.child);
        let stdout = self.stdout.take().map(|reader| reader.join().expect("reader")).unwrap_or_default();
        let stderr = self.stderr.take().map(|reader| reader.join().expect("reader")).unwrap_or_default();
        Finished { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a child; kills it and fails if it hangs.
fn wait(child: &mut Child) -> ExitStatus {
    let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
    let (ended, end) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let hangs = end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        if hangs {
            let _ = kill(pid, Signal::SIGKILL);
        }
        hangs
    });
    let status = child.wait().expect("a child");
    drop(ended);
    assert!(!watchdog.join().expect("watchdog"), "the program hangs");
    status
}

/// A server of this package, found by its address lines.
pub(crate) struct Service {
    running: Running,
    /// All of its address lines.
    pub(crate) line: String,
    /// The first of its addresses.
    pub(crate) address: SocketAddr,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Service {
    pub(crate) fn slow<A: AsRef<OsStr>>(file: &Path, args: impl IntoIterator<Item = A>) -> Self {
        Self::start(program("slowpoetry").args(args).arg(file))
    }

    pub(crate) fn fast<A: AsRef<OsStr>>(file: &Path, args: impl IntoIterator<Item = A>) -> Self {
        Self::start(program("fastpoetry").args(args).arg(file))
    }

    pub(crate) fn transform<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::start(program("transformedpoetry").args(args))
    }

    /// Starts whatever prints an address line.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_several(command, 1)
    }

    /// Starts whatever prints so many address lines.
    pub(crate) fn start_several(command: &mut Command, count: usize) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let running = Running::read(child, None);
        let mut line = String::new();
        let mut next = || {
            let start = line.len();
            stdout.read_line(&mut line).expect("stdout");
            address(&line[start..])
        };
        let addresses: Vec<SocketAddr> = (0..count).map(|_| next()).collect();
        Self { running, line, address: addresses[0], addresses }
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address).expect("a server")
    }

    /// Fetches the poem as the plainest of clients does.
    pub(crate) fn fetch(&self) -> io::Result<Vec<u8>> {
        fetch(self.address)
    }

    pub(crate) fn hear(&self, part: &str) -> String {
        self.running.hear(part)
    }

    pub(crate) fn hear_all(&self, parts: &[&str]) {
        self.running.hear_all(parts);
    }

    pub(crate) fn has_said(&self, part: &str) -> bool {
        self.running.has_said(part)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.running.has_ended()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).expect("it runs");
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
        pages * 4_096
    }

    pub(crate) fn finish(self) -> Finished {
        self.running.finish()
    }

    pub(crate) fn stop(self) -> Finished {
        self.signal(Signal::SIGTERM);
        self.finish()
    }
}

/// The address in an address line.
pub(crate) fn address(line: &str) -> SocketAddr {
    let address = line.trim_end().trim_end_matches('.').rsplit(' ').next().expect("an address");
    address.parse().unwrap_or_else(|_| panic!("no address line: {line:?}"))
}

/// Connects, with a limit to each read.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Fetches a poem as the plainest of clients does.
pub(crate) fn fetch(address: SocketAddr) -> io::Result<Vec<u8>> {
    read_out(connect(address)?)
}

/// A server inside the test, which does with each connection what the test says.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    closing: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// `handle` is called on a thread of its own for each connection, with its number from 0.
    pub(crate) fn start(handle: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = listener(4096);
        let address = listener.local_addr().expect("bound");
        let closing = Arc::new(AtomicBool::new(false));
        let (closed, handle) = (Arc::clone(&closing), Arc::new(handle));
        let accepting = thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if closed.load(Ordering::Acquire) {
                    return;
                }
                let (handle, stream) = (Arc::clone(&handle), stream.expect("accepted"));
                thread::spawn(move || handle(number, stream));
            }
        });
        Self { address, closing, accepting: Some(accepting) }
    }

    /// Sends the whole poem to everybody.
    pub(crate) fn poem(poem: impl Into<Vec<u8>>) -> Self {
        let poem = poem.into();
        Self::start(move |_, stream| send_whole(stream, &poem))
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// How messages and reports name it.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// A listener on a free port of this machine.
pub(crate) fn listener(backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bound");
    socket.listen(backlog).expect("listening");
    socket.into()
}

/// Sends a poem and closes as a good server does.
pub(crate) fn send_whole(mut stream: TcpStream, poem: &[u8]) {
    // A client that has gone is the test's business, not the server's.
    let _ = stream.write_all(poem).and_then(|()| stream.shutdown(Shutdown::Write));
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Drops a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(stream);
}

/// Waits until the other side of a connection is gone, and returns what it said.
pub(crate) fn read_out(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A port nobody listens on. (It is bound, so that nobody will.)
pub(crate) fn refusing_port() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bound");
    let port = socket.local_addr().expect("bound").as_socket().expect("an IP socket").port();
    (socket, port.to_string())
}

/// One read. A machine that stops for a while interrupts one with a time limit (EINTR, see signal(7)): that goes on.
pub(crate) fn read_some(mut stream: &TcpStream, buffer: &mut [u8]) -> Result<usize, io::ErrorKind> {
    loop {
        match stream.read(buffer).map_err(|error| error.kind()) {
            Err(io::ErrorKind::Interrupted) => {}
            result => return result,
        }
    }
}

/// Reads to the end, so many bytes at a time and with a pause after them; how much that was, and how it ended.
///
/// A reader that was held up itself for longer than the `limit` shows nothing: it begins anew.
pub(crate) fn read_steadily(
    connect: impl Fn() -> TcpStream,
    bytes: usize,
    pause: impl Fn(usize) -> Duration,
    limit: Duration,
) -> (usize, Result<usize, io::ErrorKind>) {
    let mut buffer = vec![0; bytes];
    for _ in 0..20 {
        let stream = connect();
        let (mut received, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
        let end = loop {
            let read = read_some(&stream, &mut buffer);
            longest = longest.max(last.elapsed());
            last = Instant::now();
            match read {
                Ok(n @ 1..) => received += n,
                end => break end,
            }
            thread::park_timeout(pause(received));
        };
        if longest < limit {
            return (received, end);
        }
    }
    panic!("a machine too busy for a steady reader");
}

/// A port whose queue is full: whoever connects now waits.
pub(crate) struct FullQueue {
    pub(crate) port: String,
    _listener: TcpListener,
    _queue: Vec<Socket>,
}

impl FullQueue {
    pub(crate) fn new() -> Self {
        let listener = listener(0);
        let address = listener.local_addr().expect("bound");
        let mut queue = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let full = socket.connect_timeout(&address.into(), Duration::from_millis(300)).is_err();
            queue.push(socket);
            if full {
                break;
            }
        }
        Self { port: address.port().to_string(), _listener: listener, _queue: queue }
    }
}

/// A directory with its entries' names and contents, sorted.
pub(crate) fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
            (name, fs::read(&path).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

/// Runs every command of a page of the documentation, of which there are so many, and compares what is seen.
pub(crate) fn follow(page: &str, commands: usize) {
    for tool in ["curl", "nc"] {
        if Command::new(tool).arg("--help").output().is_err() {
            writeln!(io::stderr(), "skipped: there is no {tool}").expect("told");
            return;
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs").join(page)).expect("the page");
    let path = format!("{}:{}", path_of("").display(), std::env::var("PATH").expect("a path"));
    let address = Regex::new(r"127\.0\.0\.1:\d+").expect("a pattern");
    let blocks = text.split("```console\n").skip(1).map(|block| block.split("```").next().expect("an end"));
    let all: Vec<&str> = blocks.flat_map(|block| block.strip_prefix("$ ").expect("a command").split("\n$ ")).collect();
    assert_eq!(all.len(), commands);
    for command in all {
        let (line, seen) = command.split_once('\n').unwrap_or((command, ""));
        let mut shell = Command::new("bash");
        // As on a terminal.
        shell.args(["-c", &format!("{{ {line}\n}} 2>&1")]).env("PATH", &path).current_dir(root);
        let finished = finish(shell.stdin(Stdio::null()));
        // A page has no CR, which a terminal does not show, either.
        let said = String::from_utf8_lossy(&finished.stdout).replace("\r\n", "\n");
        assert_eq!(address.replace_all(&said, "ADDRESS").trim_end(), seen.trim_end(), "{line}");
    }
}

/// A server of others, stopped when it is dropped.
pub(crate) struct Theirs(pub(crate) Child);

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Theirs {
    /// Starts a server that takes a port as it is told, and waits until it listens; `None`: it is not there.
    pub(crate) fn start(port: u16, command: &mut Command) -> Option<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let mut theirs = Self(child);
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < until, "it does not listen");
            if matches!(theirs.0.try_wait(), Ok(Some(_))) {
                return None;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        Some(theirs)
    }
}

/// A port that nobody has now.
pub(crate) fn free_port() -> u16 {
    listener(1).local_addr().expect("bound").port()
}

//! What holds for every server: when it is ready, what signals ask of it, what it says in the end, and what its log is.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Finished, Running, Service, address, eventually, fetch, finish, path_of, poem_file, program, refusing_port, run,
};

/// A directory that all may read, with a poem.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("set");
        fs::copy(poem_file("sera.txt"), directory.path().join("poem")).expect("copied");
        // An hour, so that it is not over before anything else.
        let sample =
            |at: u32| format!("{{\"at\": {at}, \"color\": \"red\", \"timestamp\": \"2026-01-01T00:00:00Z\"}}\n");
        fs::write(directory.path().join("samples"), sample(0) + &sample(3_600_000)).expect("written");
        Self(directory)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn word(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Every server, with the words that it needs at least.
    pub(crate) fn servers(&self) -> [Vec<String>; 11] {
        let (poem, record) = (self.word("poem"), self.word("samples"));
        [
            vec!["slowpoetry", "--delay", "0", &poem],
            vec!["fastpoetry", &poem],
            vec!["transformedpoetry"],
            vec!["poetry-proxy", "1"],
            vec!["poetry-chaos", "1"],
            vec!["poetry-broker"],
            vec!["tcp-charfinder"],
            vec!["http-charfinder"],
            vec!["poetry-monitor", "--replay", &record],
            vec!["poetry-anthology", "1"],
            vec!["poetryd", "fastpoetry", &poem],
        ]
        .map(|words| words.into_iter().map(str::to_owned).collect())
    }
}

/// The command of a server with more words.
pub(crate) fn command(server: &[String], more: &[&str]) -> Command {
    let mut command = program(&server[0]);
    command.args(more_first(server, more));
    command
}

/// The words of a program, with more flags: those of poetryd come before its PROGRAM.
fn more_first<'a>(server: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    more.iter().copied().chain(server[1..].iter().map(String::as_str)).collect()
}

/// Whether somebody listens, be it with a queue that is full.
pub(crate) fn listens(address: SocketAddr) -> bool {
    let connected = TcpStream::connect_timeout(&address, Duration::from_millis(200));
    !connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn skip(why: &str) {
    writeln!(io::stderr(), "skipped: {why}").expect("told");
}

#[test]
fn a_server_says_where_it_is_only_when_no_thread_is_missing() {
    if !geteuid().is_root() {
        return skip("not root, who can be somebody with no other process");
    }
    // Somebody whose processes are all of this test.
    let uid = 1_000_000 + process::id() * 16;
    let mut can_run = Command::new(path_of("fastpoetry"));
    if !can_run.arg("--version").uid(uid).stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip("the programs are where only root can run them");
    }
    let place = Place::new();
    fs::create_dir(place.path("ours")).expect("a directory");
    fs::set_permissions(place.path("ours"), Permissions::from_mode(0o777)).expect("set");
    let config = "metrics = 0\n[[fastpoetry]]\nfile = 'poem'\n[[transformedpoetry]]\n";
    fs::write(place.path("config.toml"), config).expect("written");
    let poem = place.word("poem");
    let config = ["poetryd", "--config", &place.word("config.toml")].map(str::to_owned).to_vec();
    let never = ["slowpoetry", "--never-accept", &poem].map(str::to_owned).to_vec();
    let mut servers = place.servers().to_vec();
    servers.extend([config, never]);
    for (number, server) in (0..).zip(&servers) {
        let start = |threads: u32| short_of_threads(&place, server, threads, uid + number);
        served_or_refused(server, start);
        if server[0] == "poetryd" {
            served_or_refused(server, |threads| {
                short_of_threads_in_the_background(&place, server, threads, uid + number)
            });
        }
    }
}

/// With one thread more each time, until there are enough: before that it is refused, or else it serves.
fn served_or_refused(server: &[String], start: impl Fn(u32) -> Result<(), Finished>) {
    let (mut refused, mut served) = (0, 0);
    for threads in 1.. {
        match start(threads) {
            Ok(()) => served += 1,
            Err(finished) => {
                let last = finished.stderr.lines().last().expect("a line");
                assert!(last.ends_with(": resource temporarily unavailable"), "{server:?}: {finished:?}");
                assert_eq!((finished.code(), &finished.stdout[..]), (1, &b""[..]), "{server:?} with {threads}");
                refused += 1;
            }
        }
        if served == 2 {
            break;
        }
    }
    assert!(refused > 0, "{server:?}");
}

/// A server of somebody who may have so many threads.
fn limited(place: &Place, server: &[String], threads: u32, uid: u32, more: &[&str]) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={threads}:{threads}")).arg(path_of(&server[0]));
    command.args(more_first(server, &[&["--port-file", &place.word("ours/port")], more].concat()));
    command.uid(uid).stdin(Stdio::null());
    command
}

/// The port in the file, whose server has to be there.
fn expect_there(place: &Place) {
    let ports = fs::read_to_string(place.path("ours/port")).expect("a file");
    let port = ports.lines().next().expect("a port").parse().expect("a number");
    assert!(listens(([127, 0, 0, 1], port).into()), "{ports}");
}

/// Starts it, and stops it if it is there; the error is that it is not.
fn short_of_threads(place: &Place, server: &[String], threads: u32, uid: u32) -> Result<(), Finished> {
    let running = Running::start(&mut limited(place, server, threads, uid, &[]));
    eventually("a port, or an end", || place.path("ours/port").exists() || running.has_ended());
    if running.has_ended() {
        assert!(!place.path("ours/port").exists(), "{server:?} with {threads}");
        return Err(running.finish());
    }
    expect_there(place);
    running.signal(Signal::SIGTERM);
    let finished = running.finish();
    assert_eq!(finished.code(), 0, "{server:?} with {threads}: {finished:?}");
    assert!(!finished.stdout.is_empty());
    Ok(())
}

/// The same in the background.
fn short_of_threads_in_the_background(
    place: &Place,
    server: &[String],
    threads: u32,
    uid: u32,
) -> Result<(), Finished> {
    let pid_file = place.word("ours/pid");
    let finished = finish(&mut limited(place, server, threads, uid, &["--daemon", "--pid-file", &pid_file]));
    if finished.code() != 0 {
        assert!(!place.path("ours/port").exists() && !place.path("ours/pid").exists(), "{server:?} with {threads}");
        return Err(finished);
    }
    expect_there(place);
    let pid = fs::read_to_string(&pid_file).expect("a file").trim_end().parse().expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is there");
    eventually("an end", || !Path::new(&pid_file).exists() && !place.path("ours/port").exists());
    Ok(())
}

/// A server that has descriptor 3 for its address, which is our pipe, and what it said there to the end.
fn ready(server: &[String], more: &[&str]) -> (Running, String) {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let inner = command(server, more);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 3>&1 >/dev/null"]).arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::null()).stdout(OwnedFd::from(writer)).stderr(Stdio::piped());
    let running = Running::start_as_is(&mut command);
    drop(command);
    let mut said = String::new();
    reader.read_to_string(&mut said).expect("text");
    (running, said)
}

#[test]
fn a_descriptor_and_a_file_say_that_a_server_is_ready() {
    let place = Place::new();
    let port_file = place.word("port");
    for server in place.servers() {
        let (running, said) = ready(&server, &["--ready-fd", "3", "--port-file", &port_file]);
        // The end of the pipe was seen, and the server is there.
        let address: SocketAddr = said.strip_suffix('\n').expect("a line").parse().expect("an address");
        assert!(!running.has_ended() && listens(address), "{server:?}");
        assert_eq!(fs::read_to_string(&port_file).expect("a file"), format!("{}\n", address.port()));
        let mode = fs::metadata(&port_file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o600, 0o600, "{mode:o}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().code(), 0);
        assert!(!Path::new(&port_file).exists(), "{server:?}");
    }
    assert_eq!(fs::read_dir(place.0.path()).expect("a directory").count(), 2, "nothing is left but what was there");
}

#[test]
fn of_several_services_each_address_is_told_also_from_the_background() {
    let place = Place::new();
    let config =
        "port-file = 'port'\npid-file = 'pid'\nmetrics = 0\n[[transformedpoetry]]\n[[fastpoetry]]\nfile = 'poem'\n";
    fs::write(place.path("c.toml"), config).expect("written");
    let server = ["poetryd", "--config", &place.word("c.toml")].map(str::to_owned);
    for more in [&["--ready-fd", "3"][..], &["--daemon", "--ready-fd", "3"]] {
        let (running, said) = ready(&server, more);
        let addresses = said.strip_suffix('\n').expect("a line").split(' ');
        let addresses: Vec<SocketAddr> = addresses.map(|address| address.parse().expect("an address")).collect();
        assert!(addresses.iter().all(|&address| listens(address)) && addresses.len() == 3, "{said}");
        assert_eq!(fetch(addresses[1]).expect("a poem"), fs::read(place.path("poem")).expect("a poem"));
        let ports: String = addresses.iter().map(|address| format!("{}\n", address.port())).collect();
        assert_eq!(fs::read_to_string(place.path("port")).expect("a file"), ports);
        let pid = fs::read_to_string(place.path("pid")).expect("a file").trim_end().parse().expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is there");
        assert_eq!(running.finish().code(), 0);
        eventually("an end", || !place.path("pid").exists());
        assert!(!place.path("port").exists());
    }
}

#[test]
fn a_descriptor_that_cannot_be_written_is_a_usage_error() {
    let place = Place::new();
    for server in place.servers() {
        for number in ["0", "2", "-1", "x"] {
            let finished = finish(&mut command(&server, &["--ready-fd", number]));
            assert_eq!((finished.code(), &finished.stdout[..]), (2, &b""[..]), "{finished:?}");
            assert!(finished.complaint().contains("'--ready-fd <N>'"), "{finished:?}");
        }
        for (redirect, why) in [("3>&-", "it is not open"), ("3</dev/null", "it is not open for writing")] {
            let mut shell = Command::new("sh");
            let inner = command(&server, &["--ready-fd", "3"]);
            shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirect}")]).arg(inner.get_program());
            let finished = finish(shell.args(inner.get_args()).stdin(Stdio::null()));
            assert_eq!((finished.code(), &finished.stdout[..]), (2, &b""[..]), "{finished:?}");
            assert_eq!(finished.complaint(), format!("{}: cannot use descriptor 3: {why}", server[0]));
        }
        let nowhere = place.word("no/port");
        let finished = finish(&mut command(&server, &["--port-file", &nowhere]));
        let last = finished.stderr.lines().last().expect("a line");
        assert_eq!(last, format!("{}: cannot write {nowhere}: no such file or directory", server[0]));
        assert_eq!((finished.code(), &finished.stdout[..]), (1, &b""[..]), "{finished:?}");
    }
}

#[test]
fn totals_that_were_asked_for_just_before_the_stop_are_said() {
    let place = Place::new();
    for server in place.servers() {
        for signal in [Signal::SIGINT, Signal::SIGTERM].repeat(5) {
            let service = Service::start(&mut command(&server, &[]));
            service.signal(Signal::SIGUSR1);
            service.signal(signal);
            let finished = service.finish();
            assert_eq!(finished.code(), 0, "{finished:?}");
            assert!(finished.stderr.contains(" INFO  Totals: "), "{server:?}, {signal}: {finished:?}");
        }
    }
}

/// What a server says when it has reloaded what it can.
fn reloaded(server: &[String]) -> &'static str {
    match server[0].as_str() {
        "fastpoetry" => " again: ",
        "poetry-proxy" => "Forgot the poem",
        "poetry-anthology" => "Forgot all that was fetched",
        "poetryd" => "Reloaded",
        _ => "There is nothing to reload",
    }
}

#[test]
fn neither_a_reload_nor_a_report_ends_a_server() {
    let place = Place::new();
    for server in place.servers() {
        for more in [&[][..], &["--log-format", "json"]] {
            let service = Service::start(&mut command(&server, more));
            for _ in 0..2 {
                service.signal(Signal::SIGHUP);
                service.hear(reloaded(&server));
                service.signal(Signal::SIGUSR1);
                service.hear("Totals: ");
            }
            assert!(listens(service.address), "{server:?}");
            assert_eq!(service.stop().code(), 0, "{server:?}");
        }
    }
    // Nobody comes in, and the rule is the same.
    let service = Service::start(program("slowpoetry").args(["--never-accept", &place.word("poem")]));
    for (signal, said) in [(Signal::SIGHUP, "There is nothing to reload"), (Signal::SIGUSR1, "Totals: 0 clients")] {
        service.signal(signal);
        service.hear(said);
    }
    assert_eq!(service.stop().code(), 0);
}

#[test]
fn totals_are_what_was_done() {
    let place = Place::new();
    let bytes = fs::read(place.path("poem")).expect("a poem").len();
    for server in ["slowpoetry", "fastpoetry"] {
        let args = ["--delay", "0", "--num-bytes", "1M", "--fail-first", "1", &place.word("poem")];
        let service = Service::start(program(server).args(args));
        service.fetch().expect_err("it is reset");
        for _ in 0..2 {
            assert_eq!(service.fetch().expect("a poem").len(), bytes);
        }
        let expected = format!("Totals: 3 clients accepted, 3 served, 0 lost; {} bytes sent", 2 * bytes);
        // A client has all before it is counted.
        eventually(&expected, || {
            service.signal(Signal::SIGUSR1);
            service.hear("Totals: ").ends_with(&expected)
        });
        assert_eq!(service.stop().code(), 0);
    }
}

/// A terminal: the side of the one who types, which no other process inherits, and the side of the program.
pub(crate) fn terminal() -> (File, File) {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname_r(&master).expect("a name");
    let slave = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name);
    (File::from(OwnedFd::from(master)), slave.expect("the other side"))
}

/// A server on a terminal of its own, with its messages in a pipe.
fn on_terminal(before: &[&str], server: &[String], port_file: &str) -> (File, Running, SocketAddr) {
    let (master, slave) = terminal();
    let inner = command(server, &["--port-file", port_file]);
    let mut command = Command::new("setsid");
    command.arg("--ctty").args(before).arg(inner.get_program()).args(inner.get_args());
    command.stdin(slave).stdout(Stdio::piped());
    let running = Running::start(&mut command);
    command.stdin(Stdio::null());
    eventually("a port", || Path::new(port_file).exists());
    let port = fs::read_to_string(port_file).expect("a file").trim_end().parse().expect("a port");
    (master, running, ([127, 0, 0, 1], port).into())
}

#[test]
fn a_server_ends_with_its_terminal_and_a_hangup_by_hand_is_a_reload() {
    let place = Place::new();
    let port_file = place.word("port");
    for server in place.servers() {
        let (master, running, address) = on_terminal(&[], &server, &port_file);
        running.signal(Signal::SIGHUP);
        running.hear(reloaded(&server));
        assert!(listens(address), "{server:?}");
        drop(master);
        let finished = running.finish();
        assert_eq!(finished.code(), 0, "{server:?}: {finished:?}");
        assert!(finished.stderr.contains("The terminal is gone: stopping"), "{server:?}: {finished:?}");
        assert!(!Path::new(&port_file).exists());
    }
}

#[test]
fn under_nohup_a_server_outlives_its_terminal() {
    let place = Place::new();
    let port_file = place.word("port");
    for server in place.servers() {
        let (master, running, address) = on_terminal(&["nohup"], &server, &port_file);
        drop(master);
        // It hears of that all the same.
        running.hear(reloaded(&server));
        assert!(listens(address), "{server:?}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().code(), 0, "{server:?}");
    }
}

#[test]
fn a_name_is_no_line_and_no_escape_sequence() {
    const NAME: &str = "a\nforged \u{1b}[31mred, Gedicht für 詩";
    const SHOWN: &str = r"a\nforged \x1b[31mred, Gedicht für 詩";
    let place = Place::new();
    let poem = place.word(NAME);
    for (server, and) in
        [(&["slowpoetry"][..], "resetting"), (&["fastpoetry"], "keeping"), (&["poetryd", "fastpoetry"], "keeping")]
    {
        for more in [&[][..], &["--log-format", "json"]] {
            fs::copy(place.path("poem"), &poem).expect("copied");
            let words: Vec<String> = [server, &[&*poem]].concat().into_iter().map(str::to_owned).collect();
            let service = Service::start(&mut command(&words, more));
            let line = format!("Serving {}/{SHOWN} on {}.\n", place.0.path().display(), service.address);
            assert_eq!(service.line, line);
            fs::remove_file(&poem).expect("removed");
            service.signal(Signal::SIGHUP);
            if server[0] == "slowpoetry" {
                service.fetch().expect_err("there is none");
            }
            let said = service.hear(and);
            match serde_json::from_str::<Value>(&said) {
                Ok(said) => {
                    assert!(said["fields"]["message"].as_str().is_some_and(|said| said.contains(NAME)), "{said}");
                }
                Err(_) => assert!(said.contains(SHOWN), "{said}"),
            }
            let finished = service.stop();
            assert!(!finished.stderr.lines().any(|line| line.starts_with("forged")), "{finished:?}");
            assert!(!finished.stderr.contains('\u{1b}'), "{finished:?}");
            let gone = finish(&mut command(&words, &[]));
            assert!(gone.complaint().contains(&format!("{SHOWN}: no such file")), "{gone:?}");
        }
    }
    let config = place.word("c\u{1b}[31m.toml");
    fs::write(&config, "[[fastpoetry]]\nfile = \"no\\u001b[31m\"\n[[nothing\u{9b}]]\n").expect("written");
    let finished = run("poetryd", ["--config", &config]);
    assert!(!finished.complaint().contains(['\u{1b}', '\u{9b}']), "{finished:?}");
    let (_held, port) = refusing_port();
    let finished = run("get-poetry", ["--transform", "sing\n\u{1b}[31m", "--via", &port, &port]);
    assert!(
        !finished.stderr.contains('\u{1b}') && finished.stderr.lines().all(|line| !line.is_empty()),
        "{finished:?}"
    );
}

#[test]
fn ipv4_clients_of_any_interface_are_shown_as_ipv4() {
    if TcpListener::bind("[::]:0").is_err() {
        return skip("no IPv6");
    }
    let place = Place::new();
    for server in ["slowpoetry", "fastpoetry"] {
        let record = place.word("record");
        let args = ["-v", "--iface", "::", "--record", &record, "--fail-first", "1", &place.word("poem")];
        let service = Service::start(program(server).args(args));
        assert!(service.address.ip().is_unspecified() && service.address.is_ipv6(), "{}", service.line);
        let client = TcpStream::connect(("127.0.0.1", service.address.port())).expect("a server");
        let name = client.local_addr().expect("bound").to_string();
        service.hear(&format!("Somebody at {name} wants poetry!"));
        drop(client);
        let finished = service.stop();
        assert!(!finished.stderr.contains("ffff"), "{finished:?}");
        let recorded = fs::read_to_string(&record).expect("a recording");
        assert!(recorded.contains(&format!("\"peer\":\"{name}\"")), "{recorded}");
        fs::remove_file(&record).expect("removed");
    }
    let service = Service::transform(["-v", "--iface", "::"]);
    let mut client = TcpStream::connect(("127.0.0.1", service.address.port())).expect("a server");
    client.write_all(b"8:sing.abc,").expect("sent");
    service.hear(&format!("No reply to {}: ", client.local_addr().expect("bound")));
    assert_eq!(service.stop().code(), 0);
}

/// What slowpoetry says on a stderr that is read, or is not while it serves one client a poem of so many pieces, which is
/// a line for each. The poem has to arrive either way.
fn talk(place: &Place, pieces: usize, is_read: bool) -> String {
    fs::write(place.path("long"), vec![b'x'; pieces]).expect("written");
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let mut command = program("slowpoetry");
    command.args(["-v", "--num-bytes", "1", "--delay", "0"]).arg(place.path("long"));
    let (mut stdout, its_stdout) = io::pipe().expect("a pipe");
    let running = Running::start_as_is(command.stdout(OwnedFd::from(its_stdout)).stderr(OwnedFd::from(writer)));
    drop(command);
    let mut line = [0; 1000];
    let length = stdout.read(&mut line).expect("an address line");
    let address = address(str::from_utf8(&line[..length]).expect("text"));
    let mut text = String::new();
    thread::scope(|scope| {
        let mut read = || reader.read_to_string(&mut text).expect("text");
        let fetched = || assert_eq!(fetch(address).expect("a poem").len(), pieces);
        if is_read {
            scope.spawn(read);
            fetched();
            running.signal(Signal::SIGTERM);
        } else {
            fetched();
            running.signal(Signal::SIGTERM);
            read();
        }
    });
    assert_eq!(running.finish().code(), 0);
    text
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_nobody_and_says_what_was_lost() {
    // More lines than the pipe and the backlog hold.
    const PIECES: usize = 60_000;
    let place = Place::new();
    // The client wants poetry, so many pieces, all sent; and how long a client needs, before that.
    let all = PIECES + 3;
    let text = talk(&place, PIECES, true);
    assert_eq!((text.lines().count(), text.contains("Lost ")), (all, false));
    let text = talk(&place, PIECES, false);
    let lost: Vec<usize> = text
        .lines()
        .filter_map(|line| line.split_once("  WARN Lost ")?.1.strip_suffix(" lines of this log: nobody read stderr"))
        .map(|lost| lost.parse().expect("a number"))
        .collect();
    assert!(!lost.is_empty());
    assert_eq!(text.lines().count() - lost.len() + lost.iter().sum::<usize>(), all);
}

#[test]
fn a_stderr_that_is_never_read_does_not_hold_up_the_end() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    let place = Place::new();
    fs::write(place.path("long"), vec![b'x'; 60_000]).expect("written");
    let mut command = program("slowpoetry");
    command
        .args(["-v", "--num-bytes", "1", "--delay", "0", "--clients", "1", "--ready-fd", "3"])
        .arg(place.path("long"));
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 3>&1 >/dev/null"]).arg(command.get_program()).args(command.get_args());
    let (mut ready, its_ready) = io::pipe().expect("a pipe");
    let running = Running::start_as_is(shell.stdout(OwnedFd::from(its_ready)).stderr(OwnedFd::from(writer)));
    drop(shell);
    let mut said = String::new();
    ready.read_to_string(&mut said).expect("text");
    assert_eq!(fetch(said.trim_end().parse().expect("an address")).expect("a poem").len(), 60_000);
    assert_eq!(running.finish().code(), 0);
}

#[test]
fn out_of_descriptors_the_blocking_server_says_so_now_and_then() {
    let place = Place::new();
    let mut command = Command::new("prlimit");
    // stdin, stdout, stderr, the listener.
    command.arg("--nofile=4:4").arg(path_of("slowpoetry")).arg(place.path("poem")).stdin(Stdio::null());
    let service = Service::start(&mut command);
    let start = Instant::now();
    let _client = service.connect();
    let first = service.hear("Cannot accept clients: too many open files; trying again");
    assert!(!first.contains("times"), "{first}");
    // It goes on trying all the time.
    let tries = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("a process");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
        count.trim().parse().expect("a number")
    };
    let before = tries();
    eventually("ten more tries", || tries() > before + 10);
    let said = service.stop();
    let complaints = said.stderr.matches("Cannot accept").count() as u64;
    assert!(complaints <= 1 + start.elapsed().as_secs() / 10, "{said:?}");
}

#[test]
fn a_poem_that_is_built_in_is_served_by_its_name() {
    let place = Place::new();
    fs::write(place.path("science"), "a file of this name").expect("written");
    fs::write(place.path("poetry.toml"), "[[fastpoetry]]\nfile = 'sera'\n[[fastpoetry]]\nfile = 'science'\n")
        .expect("written");
    for words in [&["slowpoetry", "--delay", "0"][..], &["fastpoetry"], &["poetryd", "fastpoetry"]] {
        let serve = |poem: &str| {
            let mut command = program(words[0]);
            command.args(&words[1..]).arg(poem).current_dir(place.0.path());
            Service::start(&mut command)
        };
        let built_in = serve("sera");
        assert_eq!(built_in.fetch().expect("a poem"), fs::read(poem_file("sera.txt")).expect("a poem"), "{words:?}");
        built_in.signal(Signal::SIGHUP);
        built_in.hear(if words[0] == "poetryd" { "Reloaded" } else { "nothing to reload" });
        let file = serve("science");
        assert_eq!(file.fetch().expect("a poem"), b"a file of this name", "{words:?}");
        assert_eq!((built_in.stop().code(), file.stop().code()), (0, 0));

        let mut command = program(words[0]);
        let refused = finish(command.args(&words[1..]).arg("serra").current_dir(place.0.path()));
        let names = "built in are ecstasy, fascination, jingyesi, lyubil, science, sera";
        let complaint = format!("{}: cannot serve serra: no such file or directory; {names}", words[0]);
        assert_eq!((refused.code(), refused.complaint()), (1, &*complaint));
    }
    let mut command = program("poetryd");
    let several = Service::start_several(command.arg("--config").arg(place.path("poetry.toml")), 2);
    assert_eq!(several.fetch().expect("a poem"), fs::read(poem_file("sera.txt")).expect("a poem"));
}

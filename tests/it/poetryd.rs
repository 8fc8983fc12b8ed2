//! poetryd: the async servers as one service, in the foreground and in the background, by hand and under systemd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use poetry_suite::cli::open_files;
use regex_lite::Regex;
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Finished, Running, Server, Service, address, eventually, fetch, finish, listener, path_of, poem_file, program,
    read_out, refusing_port, replace, reset, run,
};

/// The programs that can be services.
const PROGRAMS: [&str; 3] = ["fastpoetry", "transformedpoetry", "poetry-proxy"];

/// A directory that no process of its test outlives: a service in the background is nobody's child here.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // Services that become other users read their poems here.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("set");
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same, as a word of a command line.
    fn word(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("written");
        self.word(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The processes with this place in their command lines. Those that have ended have none.
    fn processes(&self) -> Vec<i32> {
        let place = self.0.path().as_os_str().as_bytes();
        let is_here = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline"));
            words.is_ok_and(|words| words.windows(place.len()).any(|part| part == place))
        };
        let entries = fs::read_dir("/proc").expect("mounted");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_here).collect()
    }

    /// Starts a service in the background, with a pid file and a log file here.
    fn start(&self, args: &[&str]) -> (Finished, Background<'_>) {
        let files = ["--pid-file", &self.word("pid"), "--log-file", &self.word("log")];
        let finished = run("poetryd", [&["--daemon"], &files[..], args].concat());
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{finished:?}");
        let pid = self.read("pid").trim_end().parse().expect("a pid");
        assert_eq!(self.processes(), [pid]);
        (finished, Background { place: self, pid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.processes() {
            end(pid, Signal::SIGKILL);
        }
    }
}

/// Ends a process that is nobody's child here, and waits until all that it had is free.
fn end(pid: i32, signal: Signal) {
    let Ok(process) = pidfd_open(rustix::process::Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()) else {
        return;
    };
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), signal);
    let ended = poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], 60_000u16);
    assert_eq!(ended, Ok(1), "process {pid} goes on");
}

/// A service in the background.
struct Background<'a> {
    place: &'a Place,
    pid: i32,
}

impl Background<'_> {
    fn end(self, signal: Signal) {
        assert_eq!(self.place.processes(), [self.pid]);
        end(self.pid, signal);
    }

    fn stop(self) {
        self.end(Signal::SIGTERM);
    }
}

fn poetryd(args: &[&str]) -> Command {
    let mut command = program("poetryd");
    command.args(args);
    command
}

fn poem() -> String {
    poem_file("science.txt").to_str().expect("UTF-8").to_owned()
}

fn text() -> Vec<u8> {
    fs::read(poem()).expect("the poem")
}

/// An address of this machine where no other test has ports.
fn own_interface() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = process::id() % (1 << 14) * 256 + NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() + number).into()
}

/// The values of a field in proc_pid_status(5).
fn status(task: &Path, field: &str) -> Vec<String> {
    let status = fs::read_to_string(task.join("status")).expect("a task");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("a field").split_whitespace().map(str::to_owned).collect()
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    tasks.map(|task| task.expect("a task").path()).collect()
}

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        writeln!(io::stderr(), "skipped: not root").expect("told");
    }
    root
}

/// Expects one line on stderr, nothing on stdout, and this exit status.
fn refused(finished: &Finished, code: i32, complaint: &str) {
    assert_eq!(finished.complaint(), format!("poetryd: {complaint}"));
    assert_eq!((finished.code(), &finished.stdout[..]), (code, &b""[..]), "{finished:?}");
}

// In the background.

#[test]
fn a_service_in_the_background_is_on_its_own_and_tidies_up() {
    let place = Place::new();
    let (started, service) = place.start(&["fastpoetry", &poem()]);
    let line = String::from_utf8(started.stdout).expect("UTF-8");
    let address = address(&line);
    assert_eq!(line, format!("Serving {} on {address}.\n", poem()));
    assert_eq!(fetch(address).expect("a poem"), text());

    let process = PathBuf::from(format!("/proc/{}", service.pid));
    let stat = fs::read_to_string(process.join("stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    assert_eq!((fields[3], fields[4]), (&*service.pid.to_string(), "0"), "its session and its terminal: {stat}");
    assert_eq!(fs::read_link(process.join("cwd")).expect("a directory"), Path::new("/"));
    for descriptor in 0..3 {
        let target = fs::read_link(process.join(format!("fd/{descriptor}"))).expect("open");
        assert_eq!(target, Path::new("/dev/null"));
    }

    service.stop();
    assert!(!place.path("pid").exists());
    let stopped = format!("Stopped fastpoetry on {address}: 1 clients served, 0 lost, 0 of them reset at the end\n");
    assert!(place.read("log").ends_with(&stopped), "{}", place.read("log"));
}

#[test]
fn in_the_background_relative_paths_are_those_of_its_start() {
    let place = Place::new();
    place.write("poem.txt", "old\n");
    let args = ["--daemon", "--pid-file", "pid", "--log-file", "log", "fastpoetry", "poem.txt", "--record"];
    // An absolute one, by which its place knows the service.
    let started = finish(poetryd(&args).arg(place.path("record")).current_dir(place.path("")));
    assert_eq!((started.code(), started.stderr.as_str()), (0, ""));
    let address = address(&String::from_utf8_lossy(&started.stdout));
    let service = Background { place: &place, pid: place.read("pid").trim_end().parse().expect("a pid") };
    assert_eq!(fetch(address).expect("a poem"), b"old\n");
    fs::rename(place.path("log"), place.path("moved")).expect("moved");
    place.write("poem.txt", "newer\n");
    kill(Pid::from_raw(service.pid), Signal::SIGHUP).expect("it is there");
    eventually("the poem again", || place.read("log").contains("Read poem.txt again: 6 bytes"));
    assert_eq!(fetch(address).expect("a poem"), b"newer\n");
    service.stop();
    assert!(!place.path("pid").exists());
}

#[test]
fn what_cannot_start_in_the_background_says_why_and_leaves_nothing() {
    let place = Place::new();
    let (_held, port) = refusing_port();
    let (pid, log, none) = (place.word("pid"), place.word("log"), place.word("none"));
    let nowhere = place.word("no/log");
    for (args, complaint) in [
        (
            ["--log-file", &log, "fastpoetry", "--port", &port, &poem()],
            format!("cannot listen on 127.0.0.1:{port}: address already in use"),
        ),
        (
            ["--log-file", &log, "fastpoetry", "--port", "0", &none],
            format!("cannot serve {none}: no such file or directory"),
        ),
        (
            ["--log-file", &nowhere, "fastpoetry", "--port", "0", &poem()],
            format!("cannot write {nowhere}: no such file or directory"),
        ),
        (
            ["--metrics", &port, "fastpoetry", "--port", "0", &poem()],
            format!("cannot listen on 127.0.0.1:{port}: address already in use"),
        ),
    ] {
        let finished = finish(poetryd(&["--daemon", "--pid-file", &pid]).args(args));
        refused(&finished, 1, &complaint);
        assert_eq!(place.processes(), [0; 0], "{complaint}");
        assert!(!place.path("pid").exists() && !place.path("log").exists(), "{complaint}");
    }
}

#[test]
fn a_second_service_in_the_background_is_told_who_has_the_pid_file() {
    let place = Place::new();
    let (started, service) = place.start(&["fastpoetry", &poem()]);
    let word = |name| place.word(name);
    let log = fs::metadata(word("log")).expect("a log");
    // Of root's, a second start could even change the owner.
    let user = if is_root() { &["--user", "nobody"][..] } else { &[] };
    let args = ["--daemon", "--pid-file", &word("pid"), "--log-file", &word("log")];
    let finished = finish(poetryd(&args).args(user).args(["fastpoetry", &poem()]));
    refused(&finished, 1, &format!("pid file {}: locked by process {}", place.word("pid"), service.pid));
    assert_eq!(place.processes(), [service.pid]);
    assert_eq!(place.read("pid"), format!("{}\n", service.pid));
    let now = fs::metadata(word("log")).expect("still there");
    assert_eq!((now.ino(), now.len(), now.uid()), (log.ino(), log.len(), log.uid()));
    let others = ["--daemon", "--pid-file", &word("pid"), "--log-file", &word("other"), "fastpoetry", &poem()];
    assert_eq!(run("poetryd", others).code(), 1);
    assert!(!place.path("other").exists());
    let address = address(&String::from_utf8_lossy(&started.stdout));
    assert_eq!(fetch(address).expect("the first one goes on"), text());
    service.stop();
}

#[test]
fn a_stale_pid_file_is_no_obstacle() {
    let place = Place::new();
    place.write("pid", &format!("{}\n", process::id()));
    let (_, service) = place.start(&["transformedpoetry"]);
    let left = format!("{}\n", service.pid);
    service.end(Signal::SIGKILL);
    assert_eq!(place.read("pid"), left);
    let (_, second) = place.start(&["transformedpoetry"]);
    second.stop();
    assert!(!place.path("pid").exists());
}

// As another user.

#[test]
fn a_low_port_is_all_that_is_left_of_root() {
    if !is_root() {
        return;
    }
    let nobody = User::from_name("nobody").expect("users").expect("nobody");
    let place = Place::new();
    let poem = place.write("poem.txt", "old\n");
    let readable = |mode| fs::set_permissions(&poem, Permissions::from_mode(mode)).expect("set");
    readable(0o644);
    let interface = own_interface().to_string();
    let args = ["--user", "nobody", "--pid-file", &place.word("pid"), "fastpoetry", "--port", "79", "--iface"];
    let service = Service::start(poetryd(&args).args([&interface, &poem]));
    assert_eq!(service.address.to_string(), format!("{interface}:79"));
    assert_eq!(service.fetch().expect("a poem"), b"old\n");
    let tasks = tasks(service.pid());
    assert!(tasks.len() > 1);
    for task in &tasks {
        assert_eq!(status(task, "Uid"), vec![nobody.uid.to_string(); 4]);
        assert_eq!(status(task, "Gid"), vec![nobody.gid.to_string(); 4]);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(task, set), ["0000000000000000"], "{set}");
        }
        assert_eq!(status(task, "NoNewPrivs"), ["1"]);
    }

    fs::write(&poem, "for root\n").expect("written");
    readable(0o600);
    service.signal(Signal::SIGHUP);
    service.hear(&format!("Cannot read {poem} again: permission denied; keeping the poem as it was"));
    assert_eq!(service.fetch().expect("a poem"), b"old\n");
    fs::write(&poem, "new\n").expect("written");
    readable(0o644);
    service.signal(Signal::SIGHUP);
    service.hear(&format!("Read {poem} again: 4 bytes"));
    assert_eq!(service.fetch().expect("a poem"), b"new\n");
    assert_eq!(service.stop().code(), 0);
    assert_eq!(place.read("pid"), "", "it cannot be removed any more");
}

#[test]
fn a_log_file_of_a_service_that_was_root_is_its_user_s() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let log = place.word("log");
    let service = Service::start(&mut poetryd(&["--user", "nobody", "--log-file", &log, "transformedpoetry"]));
    // The name is gone, and the directory is root's: it can write, but not begin a new file.
    fs::rename(&log, place.path("moved")).expect("moved");
    service.signal(Signal::SIGHUP);
    eventually("a complaint", || {
        place.read("moved").contains("Cannot open the log file again: permission denied; going on in the old one")
    });
    fs::rename(place.path("moved"), &log).expect("moved back");
    service.signal(Signal::SIGHUP);
    eventually("two reloads", || place.read("log").matches("Reloaded").count() == 2);
    assert_eq!(place.read("log").matches("Cannot").count(), 1);
    assert_eq!(service.stop().stderr, "");
}

#[test]
fn a_service_in_the_background_can_be_another_user_s() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (started, service) = place.start(&["--user", "nobody", "fastpoetry", &poem()]);
    assert_eq!(fetch(address(&String::from_utf8_lossy(&started.stdout))).expect("a poem"), text());
    let process = PathBuf::from(format!("/proc/{}", service.pid));
    assert!(status(&process, "Uid").iter().all(|uid| uid != "0"));
    service.stop();
    assert_eq!(place.read("pid"), "");
    assert!(place.read("log").contains("Stopped fastpoetry on "), "{}", place.read("log"));
}

#[test]
fn users_that_nobody_can_become_are_refused() {
    let wrong = "cannot become another user: ";
    for (args, why) in [
        (&["--user", "root"][..], "user 'root': that is root"),
        (&["--user", "0"], "user '0': that is root"),
        (&["--user", "no-such-user"], "there is no user named 'no-such-user'"),
        (&["--user", "nobody", "--group", "no-such-group"], "there is no group named 'no-such-group'"),
        (&["--group", "nogroup"], "a group alone is not enough: name a user, too"),
    ] {
        refused(&finish(poetryd(args).arg("transformedpoetry")), 1, &format!("{wrong}{why}"));
        let in_background = finish(poetryd(&["--daemon"]).args(args).arg("transformedpoetry"));
        refused(&in_background, 1, &format!("{wrong}{why}"));
    }
}

#[test]
fn only_root_can_become_another_user() {
    let place = Place::new();
    let mut command = poetryd(&["--user", "nobody", "transformedpoetry"]);
    if geteuid().is_root() {
        // To where everybody can start it; by a process that nobody inherits the open file from.
        finish(Command::new("cp").arg(path_of("poetryd")).arg(place.path("poetryd")));
        command = Command::new(place.path("poetryd"));
        command.args(["--user", "nobody", "transformedpoetry"]).uid(65534).gid(65534).stdin(Stdio::null());
    }
    refused(&finish(&mut command), 1, "cannot become another user: only root can");
}

// Nothing is lost.

/// What get-poetry has to report, to which nothing has happened.
fn report(place: &Place, finished: &Finished) -> Value {
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{finished:?}");
    serde_json::from_str(&place.read("report")).expect("JSON")
}

/// Fetches a poem a thousand times, so many of them at once.
fn a_thousand_clients(place: &Place, at_once: &str, port: String) -> Running {
    open_files::raise_limit();
    let mut command = program("get-poetry");
    command.args(["-q", "--discard", "-j", at_once, "--report", &place.word("report")]).args(vec![port; 1_000]);
    Running::start(&mut command)
}

#[test]
fn a_thousand_clients_lose_nothing_to_reloads_and_rotations() {
    const SIZE: u64 = 20_000;
    let place = Place::new();
    let poem = place.write("poem.txt", &"a".repeat(300));
    let log = place.word("log");
    let args = ["-vv", "--log-file", &log, "--log-size", "20k", "--log-keep", "3", "fastpoetry"];
    let service = Service::start(poetryd(&args).args(["--num-bytes", "30", "--delay", "30ms", &poem]));
    let clients = a_thousand_clients(&place, "200", service.port());
    for letter in *b"bc" {
        let log = || fs::metadata(place.path("log")).map(|file| file.ino()).ok();
        let before = log();
        eventually("a rotation", || log() != before);
        replace(Path::new(&poem), &[letter; 300]);
        service.signal(Signal::SIGHUP);
        eventually("the new poem", || {
            let mut first = [0];
            service.connect().read_exact(&mut first).expect("a poem");
            first == [letter]
        });
    }
    assert!(!clients.has_ended(), "the reloads came too late");
    let report = report(&place, &clients.finish());
    assert_eq!((&report["ok"], &report["failed"]), (&1_000.into(), &0.into()));
    let tasks = report["tasks"].as_array().expect("tasks");
    assert!(tasks.iter().all(|task| task["bytes"] == 300));
    assert_eq!(service.stop().stderr, "");

    let line = Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (ERROR|WARN |INFO |DEBUG|TRACE) [A-Z].+$");
    let line = line.expect("a pattern");
    for name in ["log", "log.1", "log.2", "log.3"] {
        let file = fs::read_to_string(place.path(name)).expect(name);
        assert!(file.len() as u64 <= SIZE && file.ends_with('\n'), "{name}: {} bytes", file.len());
        for text in file.lines() {
            assert!(line.is_match(text), "{name}: {text}");
        }
    }
    assert!(!place.path("log.4").exists());
    assert!(place.read("log").lines().last().is_some_and(|line| line.contains("Stopped fastpoetry on ")));
}

/// poetryd with this listening socket, as systemd passes it.
fn activated(listener: &TcpListener, args: &[&str]) -> Command {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\" 3<&0 </dev/null";
    let service = poetryd(args);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(service.get_program()).args(args).env_remove("LISTEN_FDNAMES");
    for (name, value) in service.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(OwnedFd::from(listener.try_clone().expect("a descriptor")));
    command
}

#[test]
fn an_upgrade_by_socket_activation_loses_no_client() {
    let (place, late_place) = (Place::new(), Place::new());
    let poem = place.write("poem.txt", &"a".repeat(100));
    let listener = listener(4096);
    let address = listener.local_addr().expect("bound");
    let args = ["-v", "fastpoetry", "--num-bytes", "10", "--delay", "10ms", &poem];
    let old = Service::start(&mut activated(&listener, &args));
    assert_eq!(old.address, address);
    let clients = a_thousand_clients(&place, "100", address.port().to_string());
    old.hear("wants poetry!");
    let new = Service::start(&mut activated(&listener, &args));
    assert_eq!(new.line, old.line);
    old.signal(Signal::SIGTERM);
    let late_clients = a_thousand_clients(&late_place, "100", address.port().to_string());
    let old = old.finish();
    for (place, clients) in [(&place, clients), (&late_place, late_clients)] {
        let report = report(place, &clients.finish());
        assert_eq!((&report["ok"], &report["failed"]), (&1_000.into(), &0.into()));
    }
    let served = |finished: Finished| -> u32 {
        assert_eq!(finished.code(), 0);
        let stopped = finished.stderr.lines().last().expect("a line");
        let (_, counts) = stopped.split_once(&format!("Stopped fastpoetry on {address}: ")).expect(stopped);
        let (served, rest) = counts.split_once(' ').expect(counts);
        assert_eq!(rest, "clients served, 0 lost, 0 of them reset at the end");
        served.parse().expect("a number")
    };
    let (old, new) = (served(old), served(new.stop()));
    assert!(old > 0 && new > 0, "{old} and {new}");
    assert_eq!(old + new, 2_000);
}

// A file of services.

#[test]
fn every_option_is_a_key_of_the_example_and_every_key_an_option() {
    const NO_KEYS: [&str; 7] = ["help", "version", "config", "check", "daemon", "list", "rehearse"];
    const LOG: [&str; 3] = ["verbose", "quiet", "log-format"];
    let option = Regex::new(r"(?m)^ +(?:(?:-\w, )?--([a-z-]+)|<([A-Z]+)>)").expect("a pattern");
    let mut options = BTreeMap::new();
    for name in [&["poetryd"], &PROGRAMS[..]].concat() {
        let help = String::from_utf8(run(name, ["--help"]).stdout).expect("UTF-8");
        let (help, _) = help.split_once("Durations are").expect("a rest");
        let found = option.captures_iter(help).filter_map(|found| found.get(1).or(found.get(2)));
        let mut names: BTreeSet<String> = found.map(|found| found.as_str().to_lowercase()).collect();
        assert!(LOG.iter().all(|flag| names.contains(*flag)), "{names:?}");
        names.retain(|flag| !NO_KEYS.contains(&flag.as_str()));
        names.retain(|flag| name == "poetryd" || !LOG.contains(&flag.as_str()));
        options.insert(name, names);
    }

    let example = fs::read_to_string(example()).expect("readable");
    let key = Regex::new("^(?:# )?([a-z-]+) = ").expect("a pattern");
    let mut keys: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut table = "poetryd";
    for line in example.lines() {
        if let Some((name, _)) = line.strip_prefix("[[").and_then(|line| line.split_once("]]")) {
            table = name;
        } else if let Some(found) = key.captures(line) {
            keys.entry(table).or_default().insert(found[1].to_owned());
        } else if let Some(names) = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" as above")) {
            let names = names.replace(" and ", ", ");
            keys.entry(table).or_default().extend(names.split(", ").map(str::to_owned));
        }
    }
    assert_eq!(keys, options);
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/poetry.toml")
}

#[test]
fn the_example_makes_sense_and_so_does_each_line_that_is_commented_out() {
    let check = |file: &Path| {
        let finished = finish(poetryd(&["--check", "--config"]).arg(file));
        assert_eq!((finished.code(), finished.stdout, finished.stderr), (0, vec![], String::new()), "{file:?}");
    };
    check(&example());
    // Those that are not on every machine.
    let elsewhere = ["user", "group", "replay"];
    let place = Place::new();
    fs::copy(example().with_file_name("faults.toml"), place.path("faults.toml")).expect("copied");
    let root = env!("CARGO_MANIFEST_DIR");
    let example = fs::read_to_string(example()).expect("readable").replace("\"../", &format!("\"{root}/"));
    let lines: Vec<&str> = example.lines().collect();
    let key = Regex::new("^# ([a-z-]+) = ").expect("a pattern");
    let mut tried = 0;
    for (number, line) in lines.iter().enumerate() {
        let Some(name) = key.captures(line).and_then(|found| found.get(1)).map(|found| found.as_str()) else {
            continue;
        };
        if elsewhere.contains(&name) {
            continue;
        }
        let needed: &[&str] = match name {
            "cut" => &["# cut-at"],
            "jitter" => &["# rate"],
            "seed" => &["# rate", "# jitter"],
            "stale-while-revalidate" | "stale-if-error" => &["# ttl"],
            _ => &[],
        };
        let uncomment =
            |(at, line): (usize, &&str)| match at == number || needed.iter().any(|needed| line.starts_with(needed)) {
                true => line[2..].to_owned(),
                false => (*line).to_owned(),
            };
        let lines: Vec<String> = lines.iter().enumerate().map(uncomment).collect();
        let path = place.path(&format!("{name}.toml"));
        fs::write(&path, lines.join("\n")).expect("written");
        check(&path);
        tried += 1;
    }
    assert!(tried > 30, "{tried} lines");
}

#[test]
fn a_program_has_the_same_options_under_poetryd() {
    for name in PROGRAMS {
        let help = |finished: Finished| {
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
            String::from_utf8(finished.stdout).expect("UTF-8")
        };
        let alone = help(run(name, ["--help"]));
        let usage = format!("Usage: {name} ");
        assert!(alone.contains(&usage), "{alone}");
        assert_eq!(help(run("poetryd", [name, "--help"])), alone.replace(&usage, &format!("Usage: poetryd {name} ")));
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let place = Place::new();
    let file = place.word("poetry.toml");
    let (poem, none) = (poem(), place.word("none.txt"));
    place.write("script.toml", "[[connection]]\nfial = true\n");
    let fast = format!("[[fastpoetry]]\nfile = \"{poem}\"\n");
    for (text, code, complaint) in [
        ("\nlog-kepe = 5\n".to_owned(), 2, "2: unknown key 'log-kepe' (a similar one is 'log-keep'); known are "),
        (format!("{fast}delya = 5\n"), 2, "3: unknown key 'delya' (a similar one is 'delay'); known are backlog, "),
        ("[[slowpoetry]]\n".to_owned(), 2, "1: slowpoetry serves one client at a time, and runs alone"),
        ("log-keep = \"five\"\n".to_owned(), 2, "1: invalid value 'five' for 'log-keep': invalid digit"),
        (format!("{fast}port = true\n"), 2, "3: port: it must be a string or a number, but its type is boolean"),
        (format!("{fast}never-accept = 1\n"), 2, "3: never-accept: it must be true or false, but its type is integer"),
        ("[fastpoetry]\n".to_owned(), 2, "1: 'fastpoetry' is not a list of tables: write [[fastpoetry]]"),
        ("\n[[fastpoetry]]\nport = 1\n".to_owned(), 2, "2: the following required arguments were not provided: file"),
        (
            format!("{fast}port = 7\n[[transformedpoetry]]\nport = 7\n"),
            2,
            "5: port: 7 is that of the service in line 1, too",
        ),
        (
            format!("{fast}port = 7\n[[transformedpoetry]]\niface = '127.0.0.1'\nport = 7\n"),
            2,
            "6: port: 7 is that of the service in line 1, too",
        ),
        (
            format!("{fast}port = 7\niface = '::'\n[[poetry-proxy]]\nupstream = 1\nport = 7\niface = '[::1]'\n"),
            2,
            "7: port: 7 is that of the service in line 1, too",
        ),
        (format!("metrics = '0.0.0.0:7'\n{fast}port = 7\n"), 2, "1: metrics: 7 is that of the service in line 2, too"),
        (
            "[[fastpoetry]]\nfile = \"none.txt\"\n".to_owned(),
            1,
            &format!("2: file: cannot serve {none}: no such file or directory"),
        ),
        (
            format!("{fast}script = \"script.toml\"\n"),
            2,
            &format!(
                "3: script: {}:2: unknown key 'fial' (a similar one is 'fail'); known are ",
                place.word("script.toml")
            ),
        ),
        (
            format!("{fast}script = \"none.txt\"\n"),
            1,
            &format!("3: script: cannot read {none}: no such file or directory"),
        ),
        (
            "verbose = 1\n".to_owned(),
            2,
            "1: there is no service: write [[fastpoetry]], [[transformedpoetry]] or [[poetry-proxy]]",
        ),
        ("[[fastpoetry]\n".to_owned(), 2, "1: "),
        (
            format!("\nuser = 'no-such-user'\n{fast}"),
            1,
            "2: cannot become another user: there is no user named 'no-such-user'",
        ),
        ("[[transformedpoetry]]\nlist = true\n".to_owned(), 2, "2: unknown key 'list'; known are "),
        (format!("{fast}rehearse = 1\n"), 2, "3: unknown key 'rehearse'; known are "),
    ] {
        place.write("poetry.toml", &text);
        for options in [&["--check"][..], &["--daemon"], &[]] {
            let finished = finish(poetryd(options).args(["--config", &file]));
            let said = finished.complaint();
            assert!(said.starts_with(&format!("poetryd: {file}:{complaint}")), "{text}: {said}");
            assert_eq!((finished.code(), finished.stdout.len()), (code, 0), "{text}: {said}");
        }
    }
    for text in [
        format!("metrics = 8\n{fast}port = 7\n[[transformedpoetry]]\nport = 7\niface = '127.0.0.2'\n"),
        format!("{fast}port = 7\niface = '0.0.0.0'\n[[transformedpoetry]]\nport = 7\niface = '::1'\n"),
        format!("metrics = 0\n{fast}port = 0\n[[transformedpoetry]]\nport = 0\n"),
    ] {
        place.write("poetry.toml", &text);
        let finished = run("poetryd", ["--check", "--config", &file]);
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{text}");
    }
    let missing = run("poetryd", ["--config", &none]);
    refused(&missing, 1, &format!("cannot read {none}: no such file or directory"));
    fs::write(&file, b"verbose = 1\nuser = '\xff'\n").expect("written");
    refused(&run("poetryd", ["--config", &file]), 2, &format!("{file}:2: not UTF-8"));
}

#[test]
fn either_a_program_or_a_file() {
    let both = "either a PROGRAM or --config, not both; see --help";
    refused(&run("poetryd", ["--config", "x.toml", "transformedpoetry"]), 2, both);
    let neither = "there is no PROGRAM and no --config; see --help";
    refused(&run("poetryd", [""; 0]), 2, neither);
    refused(&run("poetryd", ["--check"]), 2, neither);
    refused(&run("poetryd", ["--daemon"]), 2, neither);
}

#[test]
fn the_command_line_wins_over_the_file_and_paths_are_beside_it() {
    let place = Place::new();
    place.write("poem.txt", "beside\n");
    let text = "log-file = \"of-file\"\npid-file = \"pid\"\nverbose = 1\n\
        [[fastpoetry]]\nfile = \"poem.txt\"\n[[fastpoetry]]\nfile = \"poem.txt\"\n";
    let config = place.write("poetry.toml", text);
    let service = Service::start_several(&mut poetryd(&["--log-file", &place.word("of-line"), "--config", &config]), 2);
    for address in &service.addresses {
        assert_eq!(fetch(*address).expect("a poem"), b"beside\n");
    }
    assert_eq!(place.read("pid"), format!("{}\n", service.pid()));
    let finished = service.stop();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    assert!(place.read("of-line").contains("wants poetry!"), "{}", place.read("of-line"));
    assert!(!place.path("of-file").exists() && !place.path("pid").exists());
}

#[test]
fn one_service_that_cannot_start_stops_all() {
    let place = Place::new();
    let (_held, taken) = refusing_port();
    let first = SocketAddr::new(own_interface(), 10_000);
    let poem = poem();
    let text = format!(
        "pid-file = \"pid\"\n[[fastpoetry]]\nfile = \"{poem}\"\nport = {}\niface = \"{}\"\n\n\
        [[transformedpoetry]]\nport = {taken}\n",
        first.port(),
        first.ip()
    );
    let config = place.write("poetry.toml", &text);
    for options in [&[][..], &["--daemon"]] {
        let finished = finish(poetryd(options).args(["--config", &config]));
        let complaint =
            format!("{config}:7: transformedpoetry: cannot listen on 127.0.0.1:{taken}: address already in use");
        refused(&finished, 1, &complaint);
        TcpListener::bind(first).expect("the first port is free");
        assert!(!place.path("pid").exists());
        assert_eq!(place.processes(), [0; 0]);
    }
}

// Metrics.

/// What a server replies to a request.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(address).expect("a server");
    client.write_all(request.as_bytes()).expect("sent");
    String::from_utf8(read_out(client).expect("a reply")).expect("UTF-8")
}

/// The samples of a page of metrics, which is in the Prometheus text format, version 0.0.4.
fn samples(address: SocketAddr) -> BTreeMap<String, u64> {
    let reply = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, page) = reply.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", page.len())), "{head}");
    assert!(page.ends_with('\n'));
    let sample = Regex::new(r#"^([a-z_]+)(?:\{[a-z_]+="[^"\\]*"(?:,[a-z_]+="[^"\\]*")*\})? ([0-9]+)$"#);
    let sample = sample.expect("a pattern");
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let (mut help, mut kind) = ("", ("", ""));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a sentence").0;
            assert!(families.insert(help), "{help} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.split_once(' ').expect("a type");
            assert_eq!(kind.0, help);
            assert_eq!(kind.1, if kind.0.ends_with("_total") { "counter" } else { "gauge" }, "{help}");
        } else {
            let found = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
            assert_eq!([help, kind.0], [&found[1]; 2], "{line}");
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let value = value.parse().expect("a number");
            assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    samples
}

#[test]
fn metrics_are_what_has_happened() {
    let place = Place::new();
    place.write("script.toml", "[[connection]]\ntimes = 2\n[[connection]]\nfirst-byte-delay = \"1h\"\n");
    let upstream = Server::poem("upstream's\n");
    let text = format!(
        "metrics = \"0\"\n[[fastpoetry]]\nfile = \"{}\"\nscript = \"script.toml\"\n\
        [[transformedpoetry]]\n[[poetry-proxy]]\nupstream = {}\n",
        poem(),
        upstream.port()
    );
    let config = place.write("poetry.toml", &text);
    let service = Service::start_several(&mut poetryd(&["--config", &config]), 4);
    assert!(service.line.lines().last().is_some_and(|line| line.starts_with("Metrics on 127.0.0.1:")));
    let [fast, transform, proxy, metrics] = service.addresses[..] else { panic!("four addresses") };
    let fast_labels = format!("service=\"fastpoetry\",address=\"{fast}\"");
    let now = |name: &str| samples(metrics)[name];

    for _ in 0..2 {
        assert_eq!(fetch(fast).expect("a poem"), self::text());
    }
    let silent = TcpStream::connect(fast).expect("a server");
    eventually("a third client", || now(&format!("poetry_clients_accepted_total{{{fast_labels}}}")) == 3);
    reset(silent);
    for (request, reply) in [("9:shout.abc,", "3:ABC,"), ("09:shout.abc,", ""), ("8:sing.abc,", "")] {
        assert_eq!(ask(transform, request), reply);
    }
    for _ in 0..2 {
        assert_eq!(fetch(proxy).expect("a poem"), b"upstream's\n");
    }

    let mut expected = BTreeMap::new();
    let mut expect = |labels: &str, rest: &[(&str, &str, u64)]| {
        for (name, more, value) in rest {
            expected.insert(format!("poetry_{name}{{{labels}{more}}}"), *value);
        }
    };
    let poem = self::text().len() as u64;
    expect(
        &fast_labels,
        &[
            ("clients", "", 0),
            ("clients_accepted_total", "", 3),
            ("clients_ended_total", ",outcome=\"served\"", 2),
            ("clients_ended_total", ",outcome=\"lost\"", 1),
            ("sent_bytes_total", "", 2 * poem),
        ],
    );
    expect(
        &format!("service=\"transformedpoetry\",address=\"{transform}\""),
        &[
            ("clients", "", 0),
            ("clients_accepted_total", "", 3),
            ("clients_ended_total", ",outcome=\"served\"", 3),
            ("clients_ended_total", ",outcome=\"lost\"", 0),
            ("sent_bytes_total", "", 6),
            ("transform_requests_total", ",outcome=\"answered\"", 1),
            ("transform_requests_total", ",outcome=\"malformed\"", 1),
            ("transform_requests_total", ",outcome=\"no_name\"", 0),
            ("transform_requests_total", ",outcome=\"unknown\"", 1),
            ("transform_requests_total", ",outcome=\"refused\"", 0),
            ("transform_requests_total", ",outcome=\"silent\"", 0),
            ("transform_requests_total", ",outcome=\"failed\"", 0),
        ],
    );
    expect(
        &format!("service=\"poetry-proxy\",address=\"{proxy}\""),
        &[
            ("clients", "", 0),
            ("clients_accepted_total", "", 2),
            ("clients_ended_total", ",outcome=\"served\"", 2),
            ("clients_ended_total", ",outcome=\"lost\"", 0),
            ("sent_bytes_total", "", 22),
            ("proxy_answers_total", ",answer=\"hit\"", 1),
            ("proxy_answers_total", ",answer=\"miss\"", 1),
            ("proxy_answers_total", ",answer=\"join\"", 0),
            ("proxy_answers_total", ",answer=\"stale\"", 0),
            ("proxy_answers_total", ",answer=\"abort\"", 0),
            ("proxy_fetches_total", "", 1),
            ("proxy_fetches_ended_total", ",outcome=\"complete\"", 1),
            ("proxy_fetches_ended_total", ",outcome=\"failed\"", 0),
            ("proxy_fetches_ended_total", ",outcome=\"canceled\"", 0),
            ("proxy_cached_bytes", "", 11),
        ],
    );
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    expect(&version, &[("build_info", "", 1)]);
    // Who has left is counted before its place is free.
    eventually("no client that is left", || {
        samples(metrics).iter().all(|(name, value)| !name.starts_with("poetry_clients{") || *value == 0)
    });
    let mut found = samples(metrics);
    let started = found.remove("poetry_start_time_seconds").expect("a start");
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    assert!((seconds - 600..=seconds).contains(&started), "{started}");
    let scrapes = found.remove("poetry_scrapes_total").expect("a count");
    assert_eq!(now("poetry_scrapes_total"), scrapes + 1);
    assert_eq!(found, expected);
}

#[test]
fn whoever_asks_for_metrics_in_another_way_disturbs_nobody() {
    let service = Service::start_several(&mut poetryd(&["--metrics", "0", "transformedpoetry"]), 2);
    let metrics = service.addresses[1];
    // They stay all the time.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(metrics).expect("a server")).collect();
    let head = ask(metrics, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, start) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        ("GET /metrics/x HTTP/1.0\r\n\r\n", "HTTP/1.1 404 "),
        ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        ("9:shout.abc,\r\n\r\n", "HTTP/1.1 400 "),
        ("\0\u{7f}\n\n", "HTTP/1.1 400 "),
        (&"x".repeat(8 * 1024), "HTTP/1.1 400 "),
    ] {
        assert!(ask(metrics, request).starts_with(start), "{request}");
    }
    let mut half = TcpStream::connect(metrics).expect("a server");
    half.write_all(b"GET /metr").expect("sent");
    reset(half);
    assert_eq!(samples(metrics)["poetry_scrapes_total"], 2);
    assert_eq!(ask(service.address, "9:shout.abc,"), "3:ABC,");
    drop(silent);
    assert_eq!(service.stop().code(), 0);
}

#[test]
fn the_page_of_metrics_has_its_time_to_stop_even_if_no_service_has() {
    let service = Service::start_several(&mut poetryd(&["--metrics", "0", "transformedpoetry", "--grace", "0"]), 2);
    let metrics = service.addresses[1];
    let mut half = TcpStream::connect(metrics).expect("a server");
    half.write_all(b"GET /metr").expect("sent");
    // When the second one is answered, the first one has been accepted.
    samples(metrics);
    let finished = service.stop();
    assert!(finished.stderr.contains(&format!("Stopped metrics on {metrics}: ")), "{finished:?}");
}

#[test]
fn idle_it_is_small_and_asleep() {
    let place = Place::new();
    let text = format!(
        "metrics = \"0\"\n[[fastpoetry]]\nfile = \"{}\"\n[[transformedpoetry]]\n[[poetry-proxy]]\nupstream = 1\n",
        poem()
    );
    let service = Service::start_several(&mut poetryd(&["--config", &place.write("poetry.toml", &text)]), 4);
    let [fast, transform, ..] = service.addresses[..] else { panic!("addresses") };
    assert_eq!(fetch(fast).expect("a poem"), self::text());
    assert_eq!(ask(transform, "9:shout.abc,"), "3:ABC,");
    let wakes = || -> u64 {
        let count = |task: &PathBuf| status(task, "voluntary_ctxt_switches")[0].parse::<u64>().expect("a number");
        tasks(service.pid()).iter().map(count).sum()
    };
    eventually("two seconds of peace", || {
        let (before, start) = (wakes(), Instant::now());
        while start.elapsed() < Duration::from_secs(2) {
            thread::park_timeout(Duration::from_secs(2));
        }
        wakes() == before
    });
    let process = PathBuf::from(format!("/proc/{}", service.pid()));
    let resident: u64 = status(&process, "VmRSS")[0].parse().expect("kB");
    assert!(resident * 1024 < 10_000_000, "{resident} kB");
}

// Under systemd.

/// A service manager that listens.
struct Manager {
    place: Place,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let place = Place::new();
        let socket = UnixDatagram::bind(place.path("notify")).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        Self { place, socket }
    }

    fn hear(&self) -> String {
        let mut message = [0; 1000];
        let length = loop {
            match self.socket.recv(&mut message) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.expect("a message"),
            }
        };
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    /// That it has heard no more than it was asked for.
    fn has_heard_all(&self) {
        self.socket.set_nonblocking(true).expect("set");
        assert_eq!(self.socket.recv(&mut [0]).expect_err("no more").kind(), io::ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).expect("set");
    }
}

#[test]
fn the_service_manager_hears_of_start_reload_and_stop() {
    let manager = Manager::new();
    let mut command = poetryd(&["fastpoetry", &poem()]);
    let service = Service::start(command.env("NOTIFY_SOCKET", manager.place.path("notify")));
    assert_eq!(manager.hear(), "READY=1\n");
    assert_eq!(service.fetch().expect("it is ready"), text());
    for _ in 0..2 {
        service.signal(Signal::SIGHUP);
        let reloading = manager.hear();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload").trim_end();
        assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
        assert_eq!(manager.hear(), "READY=1\n");
    }
    service.signal(Signal::SIGTERM);
    assert_eq!(manager.hear(), "STOPPING=1\n");
    assert_eq!(service.finish().code(), 0);
    manager.has_heard_all();
}

#[test]
fn a_reload_during_the_start_is_nothing_to_the_service_manager() {
    let manager = Manager::new();
    // Where it cannot say that it listens, it does not get ready.
    let (mut reader, mut full) = io::pipe().expect("a pipe");
    let capacity = fcntl(&full, FcntlArg::F_GETPIPE_SZ).expect("a pipe");
    let mut stuffing = vec![b'x'; usize::try_from(capacity).expect("a size")];
    full.write_all(&stuffing).expect("written");
    let mut command = poetryd(&["--pid-file", &manager.place.word("pid"), "transformedpoetry"]);
    command.env("NOTIFY_SOCKET", manager.place.path("notify")).stdout(full).stderr(Stdio::piped());
    let service = Running::start_as_is(&mut command);
    eventually("the pid", || manager.place.read("pid").ends_with('\n'));
    for _ in 0..2 {
        service.signal(Signal::SIGHUP);
        service.hear("Reloaded");
    }
    manager.has_heard_all();
    reader.read_exact(&mut stuffing).expect("read");
    assert_eq!(manager.hear(), "READY=1\n");
    service.signal(Signal::SIGTERM);
    assert_eq!(manager.hear(), "STOPPING=1\n");
    assert_eq!(service.finish().code(), 0);
    manager.has_heard_all();
}

#[test]
fn a_reload_that_ends_after_the_stop_is_nothing_to_the_service_manager() {
    let manager = Manager::new();
    let poem = manager.place.write("poem", "a poem");
    let mut command = poetryd(&["fastpoetry", "--num-bytes", "1", "--delay", "1h", "--grace", "1h", &poem]);
    let service = Service::start(command.env("NOTIFY_SOCKET", manager.place.path("notify")));
    assert_eq!(manager.hear(), "READY=1\n");
    // It holds up the end.
    let mut client = service.connect();
    client.read_exact(&mut [0]).expect("a poem");
    fs::remove_file(&poem).expect("removed");
    nix::unistd::mkfifo(Path::new(&poem), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    service.signal(Signal::SIGHUP);
    assert!(manager.hear().starts_with("RELOADING=1\n"));
    service.signal(Signal::SIGTERM);
    assert_eq!(manager.hear(), "STOPPING=1\n");
    fs::write(&poem, "another poem").expect("written");
    service.hear("Reloaded");
    // When this one is heard of, all of the first one is over.
    service.signal(Signal::SIGHUP);
    fs::write(&poem, "another poem").expect("written");
    service.hear("Reloaded");
    manager.has_heard_all();
    reset(client);
    assert_eq!(service.finish().code(), 0);
}

#[test]
fn what_cannot_say_where_it_listens_is_not_ready() {
    let manager = Manager::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("opened");
    let mut command = poetryd(&["transformedpoetry"]);
    command.env("NOTIFY_SOCKET", manager.place.path("notify")).stdout(full).stderr(Stdio::piped());
    refused(&Running::start_as_is(&mut command).finish(), 1, "cannot write stdout: no space left on device");
    manager.has_heard_all();
}

#[test]
fn the_watchdog_hears_again_and_again_that_it_is_alive() {
    let manager = Manager::new();
    let mut command = poetryd(&["transformedpoetry"]);
    command.env("NOTIFY_SOCKET", manager.place.path("notify")).env("WATCHDOG_USEC", "200000");
    let service = Service::start(command.env_remove("WATCHDOG_PID"));
    let (mut ready, mut alive) = (0, 0);
    while ready == 0 || alive < 3 {
        match manager.hear().as_str() {
            "READY=1\n" => ready += 1,
            "WATCHDOG=1\n" => alive += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(ready, 1);
    assert_eq!(service.stop().code(), 0);
}

#[test]
fn an_inherited_socket_goes_to_the_service_with_its_address() {
    let place = Place::new();
    let listener = listener(128);
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).expect("queued");
    let services = |port: u16| {
        let poem = place.write("poem.txt", "a poem\n");
        let text = format!("[[transformedpoetry]]\n[[fastpoetry]]\nfile = \"{poem}\"\nport = {port}\n");
        place.write("poetry.toml", &text)
    };
    let service = Service::start_several(&mut activated(&listener, &["--config", &services(address.port())]), 2);
    assert_eq!(service.addresses[1], address);
    assert_ne!(service.address, address);
    assert_eq!(read_out(client).expect("it came before the service"), b"a poem\n");
    assert_eq!(ask(service.address, "9:shout.abc,"), "3:ABC,");
    assert_eq!(service.stop().code(), 0);

    let for_nobody = finish(&mut activated(&listener, &["--config", &services(0)]));
    refused(&for_nobody, 1, &format!("the inherited socket {address} is for none of the services"));
}

#[test]
fn the_units_for_systemd_pass_its_own_check() {
    const TOOL: &str = "systemd-analyze";
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|directory| directory.join(TOOL).exists()) {
        writeln!(io::stderr(), "skipped: no {TOOL}").expect("told");
        return;
    }
    let place = Place::new();
    let docs = example();
    let mut command = Command::new(TOOL);
    command.args(["verify", "--man=no"]);
    for name in ["poetryd.service", "poetryd.socket"] {
        let unit = fs::read_to_string(docs.with_file_name(name)).expect("a unit");
        let program = path_of("poetryd");
        command.arg(place.write(name, &unit.replace("/usr/local/bin/poetryd", program.to_str().expect("UTF-8"))));
    }
    let finished = finish(&mut command);
    assert_eq!((finished.code(), finished.stderr.contains("poetryd")), (0, false), "{}", finished.stderr);
}

// The log.

#[test]
fn a_log_that_was_moved_away_is_begun_anew() {
    let place = Place::new();
    let service = Service::start(&mut poetryd(&["-v", "--log-file", &place.word("log"), "fastpoetry", &poem()]));
    assert_eq!(service.fetch().expect("a poem"), text());
    eventually("a line", || place.read("log").contains("wants poetry!"));
    fs::rename(place.path("log"), place.path("moved")).expect("moved");
    service.signal(Signal::SIGHUP);
    eventually("a new log", || place.read("log").contains("Reloaded"));
    eventually("the poem again", || place.read("log").contains(" again: "));
    assert_eq!(place.read("moved").lines().count(), 1);
    let finished = service.stop();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    assert!(place.read("log").lines().last().is_some_and(|line| line.contains("Stopped fastpoetry on ")));
    let mode = fs::metadata(place.path("log")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
}

#[test]
fn a_full_disk_under_the_log_stops_nothing() {
    let args = ["-vv", "--log-file", "/dev/full", "fastpoetry", &poem()];
    let service = Service::start(&mut poetryd(&args));
    for _ in 0..3 {
        assert_eq!(service.fetch().expect("a poem"), text());
        service.signal(Signal::SIGHUP);
    }
    let finished = service.stop();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
}

#[test]
fn without_a_log_file_messages_go_to_stderr() {
    let service = Service::start(&mut poetryd(&["transformedpoetry"]));
    service.signal(Signal::SIGHUP);
    service.hear(" INFO  Reloaded");
    let finished = service.stop();
    assert!(finished.stderr.contains(" INFO  Stopped transformedpoetry on 127.0.0.1:"), "{finished:?}");
}

#[test]
fn a_log_for_programs_has_an_object_in_each_line() {
    let place = Place::new();
    let args = ["-vv", "--log-format", "json", "--log-file", &place.word("log"), "fastpoetry", &poem()];
    let service = Service::start(&mut poetryd(&args));
    assert_eq!(service.fetch().expect("a poem"), text());
    service.signal(Signal::SIGHUP);
    eventually("the poem again", || place.read("log").contains(" again: "));
    assert_eq!(service.stop().code(), 0);
    let log = place.read("log");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let messages: Vec<&str> = lines.iter().filter_map(|line| line["fields"]["message"].as_str()).collect();
    assert_eq!(messages.len(), lines.len(), "{log}");
    assert!(messages.contains(&"Reloaded") && messages.iter().any(|message| message.starts_with("Stopped ")), "{log}");
    assert_eq!(lines.last().expect("a line")["fields"]["served"], 1);
}

// One program.

#[test]
fn a_program_serves_the_same_under_poetryd() {
    let poem = poem();
    for args in [&["fastpoetry", &poem][..], &["fastpoetry", "--num-bytes", "100", "--delay", "1ms", &poem]] {
        let alone = Service::start(program(args[0]).args(&args[1..]));
        let under = Service::start(&mut poetryd(args));
        assert_eq!(under.line, alone.line.replace(&alone.port(), &under.port()));
        assert_eq!(under.fetch().expect("a poem"), alone.fetch().expect("a poem"));
        assert_eq!(under.stop().code(), 0);
    }
    let under = Service::start(&mut poetryd(&["transformedpoetry"]));
    assert!(under.line.starts_with("Serving transforms on 127.0.0.1:"), "{}", under.line);
    assert_eq!(ask(under.address, "27:cummingsify.HERE IS MY POEM,"), "15:here is my poem,");
}

#[test]
fn an_errand_of_a_program_is_done_instead_of_serving() {
    for (name, args) in [("transformedpoetry", &["--list"][..]), ("fastpoetry", &["--rehearse", "2", &poem()])] {
        let alone = run(name, args);
        let under = finish(poetryd(&[name]).args(args));
        assert_eq!((under.code(), under.stderr.as_str()), (0, ""), "{under:?}");
        assert!(!under.stdout.is_empty() && under.stdout == alone.stdout, "{under:?}");
    }
}

#[test]
fn a_program_can_be_checked() {
    let (_held, taken) = refusing_port();
    let checked = run("poetryd", ["--check", "fastpoetry", "--port", &taken, &poem()]);
    assert_eq!((checked.code(), checked.stdout, checked.stderr), (0, vec![], String::new()), "it binds nothing");
    let place = Place::new();
    let none = place.word("none");
    let complaint = format!("cannot serve {none}: no such file or directory");
    refused(&run("poetryd", ["--check", "fastpoetry", &none]), 1, &complaint);
    let script = place.write("script.toml", "[[connection]]\nfial = true\n");
    let finished = run("poetryd", ["--check", "fastpoetry", "--script", &script, &poem()]);
    assert_eq!(finished.code(), 2);
    assert!(finished.complaint().starts_with(&format!("poetryd: {script}:2: unknown key 'fial'")), "{finished:?}");
}

// What it may not have, and what comes too early.

#[test]
fn with_too_few_descriptors_it_says_so_or_serves() {
    let place = Place::new();
    let config = place.write("c.toml", &format!("[[fastpoetry]]\nfile = '{}'\n", poem()).repeat(3));
    let mut outcomes = BTreeSet::new();
    // Each service needs some for each of its workers.
    let plenty = 36 + 12 * thread::available_parallelism().map_or(1, usize::from);
    for descriptors in (0..=12).map(|part| 12 + (plenty - 12) * part / 12) {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $0; exec \"$@\"", &descriptors.to_string()]).arg(path_of("poetryd"));
        command.args(["--daemon", "--pid-file", &place.word("pid"), "--log-file", &place.word("log")]);
        let finished = finish(command.args(["--metrics", "0", "--config", &config]));
        outcomes.insert(finished.code());
        if finished.code() == 0 {
            let pid = place.read("pid").trim_end().parse().expect("a pid");
            let lines = String::from_utf8(finished.stdout).expect("text");
            assert_eq!(lines.lines().count(), 4, "{lines}");
            for line in lines.lines().take(3) {
                assert_eq!(fetch(address(line)).expect("a poem"), text(), "{descriptors}");
            }
            Background { place: &place, pid }.stop();
        } else {
            assert!(finished.complaint().contains("too many open files"), "{finished:?}");
            assert_eq!(place.processes(), [0; 0], "{descriptors}");
        }
    }
    assert_eq!(outcomes, BTreeSet::from([0, 1]), "both ends of the range");
}

#[test]
fn a_signal_that_comes_as_soon_as_there_is_a_pid_is_not_lost() {
    let place = Place::new();
    for signal in [Signal::SIGTERM, Signal::SIGHUP].repeat(5) {
        let running = Running::start(&mut poetryd(&["--pid-file", &place.word("pid"), "fastpoetry", &poem()]));
        eventually("the pid", || place.read("pid").ends_with('\n'));
        running.signal(signal);
        if signal == Signal::SIGHUP {
            running.hear("Reloaded");
            running.signal(Signal::SIGTERM);
        }
        assert_eq!(running.finish().code(), 0, "{signal}");
        assert!(!place.path("pid").exists(), "{signal}");
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let place = Place::new();
    let log = place.path("log");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let args = ["-vv", "--log-file", &place.word("log"), "fastpoetry", &poem()];
    let refusal = finish(&mut poetryd(&args));
    assert!(refusal.complaint().starts_with(&format!("poetryd: cannot write {}: ", log.display())), "{refusal:?}");

    let reader = fs::OpenOptions::new().read(true).write(true).open(&log).expect("a reader that does not read");
    let service = Service::start(&mut poetryd(&args));
    // Each has a line, and together they are more than a pipe holds.
    for _ in 0..2_000 {
        assert_eq!(service.fetch().expect("a poem"), text());
    }
    assert_eq!(service.stop().code(), 0);
    drop(reader);
}

#[test]
fn reloads_that_hang_do_not_pile_up() {
    let place = Place::new();
    let poem = place.write("poem", "a poem");
    let service = Service::start(&mut poetryd(&["fastpoetry", &poem]));
    fs::remove_file(&poem).expect("removed");
    nix::unistd::mkfifo(place.0.path().join("poem").as_path(), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    service.signal(Signal::SIGHUP);
    let reloads = || tasks(service.pid()).iter().filter(|task| name(task) == "sighup").count();
    eventually("a reload", || reloads() == 1);
    for _ in 0..200 {
        service.signal(Signal::SIGHUP);
    }
    assert_eq!(service.fetch().expect("the old poem"), b"a poem");
    assert_eq!(reloads(), 1);
    assert_eq!(service.stop().code(), 0);
}

/// The name of a task; none if it has ended.
fn name(task: &Path) -> String {
    fs::read_to_string(task.join("comm")).unwrap_or_default().trim_end().to_owned()
}

#[test]
fn a_start_that_fails_leaves_recordings_as_they_are() {
    let place = Place::new();
    let record = place.write("record", "precious");
    let table = |record: &str| format!("[[fastpoetry]]\nfile = '{}'\nrecord = '{record}'\n", poem());
    let config = place.write("c.toml", &(table(&record) + &table(&place.word("missing/record"))));
    assert_eq!(finish(&mut poetryd(&["--config", &config])).code(), 1);
    assert_eq!(fs::read(&record).expect("read"), b"precious");
}

#[test]
fn one_recording_is_for_one_server() {
    let place = Place::new();
    let table = format!("[[fastpoetry]]\nfile = '{}'\nrecord = '{}'\n", poem(), place.word("record"));
    let config = place.write("c.toml", &table.repeat(2));
    let finished = finish(&mut poetryd(&["--config", &config]));
    let why = format!("{config}:4: fastpoetry: cannot write {}: another server records into it", place.word("record"));
    refused_at_the_end(&finished, &why);
}

#[test]
fn the_pid_file_is_not_the_log_file_however_it_is_spelled() {
    let place = Place::new();
    place.write("there", "");
    symlink("there", place.path("link")).expect("a link");
    for (pid_file, log_file) in [("x", "x"), ("x", "./x"), ("x", &place.word("x")), ("there", "link")] {
        let args = ["--pid-file", pid_file, "--log-file", log_file, "transformedpoetry"];
        let finished = finish(poetryd(&args).current_dir(place.path("")));
        refused(&finished, 2, &format!("{pid_file} cannot be pid file and log file"));
    }
    let args = ["--check", "--pid-file", "there", "--log-file", "x", "transformedpoetry"];
    assert_eq!(finish(poetryd(&args).current_dir(place.path(""))).code(), 0);
}

/// As [`refused`], among what the log says.
fn refused_at_the_end(finished: &Finished, complaint: &str) {
    let last = finished.stderr.lines().last().expect("a line");
    assert_eq!((finished.code(), last), (1, &*format!("poetryd: {complaint}")), "{finished:?}");
}

#[test]
fn the_form_of_the_log_on_the_command_line_wins() {
    let place = Place::new();
    let config = place.write("c.toml", &format!("log-format = 'json'\n[[fastpoetry]]\nfile = '{}'\n", poem()));
    for (args, is_json) in [(vec!["--log-format", "text"], false), (vec![], true)] {
        let service = Service::start(&mut poetryd(&[&args[..], &["--config", &config]].concat()));
        let finished = service.stop();
        assert_eq!(finished.stderr.starts_with('{'), is_json, "{finished:?}");
    }
}

//! In the background.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Background, Place, is_root, poem, poetryd, refused, text};
use crate::harness::{address, eventually, fetch, finish, refusing_port, run};

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
    let stopped = format!("Stopped fastpoetry on {address}: 1 client served, 0 lost, 0 of them reset at the end\n");
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

//! What a start may not have, and what comes too early.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;

use super::{Background, Place, poem, poetryd, refused, tasks, text};
use crate::harness::{Finished, Running, Service, address, eventually, fetch, finish, path_of};

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
            let too_few = ["too many open files", "which leaves none for a client"];
            assert!(too_few.iter().any(|why| finished.complaint().contains(why)), "{finished:?}");
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

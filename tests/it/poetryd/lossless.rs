//! Nothing is lost: to reloads, to rotations, to an upgrade.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use poetry_suite::cli::open_files;
use regex_lite::Regex;
use serde_json::Value;

use super::{Place, activated, poetryd};
use crate::harness::{Finished, Running, Service, eventually, listener, program, replace};

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

//! The log.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Place, poem, poetryd, text};
use crate::harness::{Service, eventually};

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

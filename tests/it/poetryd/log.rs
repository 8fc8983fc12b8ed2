//! The log.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Place, poem, poetryd, text};
use crate::harness::{Service, eventually, fetch};

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
fn what_is_not_reloaded_is_not_said_to_be() {
    let place = Place::new();
    let poem = place.write("poem", "a poem");
    let service = Service::start(&mut poetryd(&["fastpoetry", &poem]));
    fs::remove_file(&poem).expect("removed");
    service.signal(Signal::SIGHUP);
    service.hear("keeping the poem as it was");
    service.hear(" WARN  Nothing is reloaded: all stays as it was");
    assert!(!service.stop().stderr.contains("Reloaded"));
}

#[test]
fn among_several_services_a_line_about_a_client_names_its_service() {
    let place = Place::new();
    place.write("poem", "a poem");
    let fast = "[[fastpoetry]]\nfile = 'poem'\n";
    let config = place.write("c.toml", &format!("{fast}{fast}[[poetry-proxy]]\nupstream = 1\n"));
    let service = Service::start_several(&mut poetryd(&["-v", "--config", &config]), 3);
    let [first, second, proxy] = service.addresses[..] else { panic!("addresses") };
    for address in [second, first] {
        assert_eq!(fetch(address).expect("a poem"), b"a poem");
        service.hear(&format!(" DEBUG fastpoetry {address}: Somebody at 127.0.0.1:"));
    }
    fetch(proxy).expect_err("there is none");
    // Of the thread of fetches, and of a task of a client.
    service.hear_all(&[
        &format!(" WARN  poetry-proxy {proxy}: Cannot "),
        &format!("  poetry-proxy {proxy}: ABORT 127.0.0.1:"),
    ]);
    service.signal(Signal::SIGUSR1);
    service.hear_all(&[
        &format!(" INFO  fastpoetry {first}: Totals: "),
        &format!(" INFO  poetry-proxy {proxy}: Totals: "),
    ]);
    service.signal(Signal::SIGHUP);
    service.hear(&format!(" INFO  fastpoetry {first}: Read "));
    assert_eq!(service.stop().code(), 0);

    let service = Service::start_several(&mut poetryd(&["-v", "--log-format", "json", "--config", &config]), 3);
    let second = service.addresses[1];
    assert_eq!(fetch(second).expect("a poem"), b"a poem");
    let line: Value = serde_json::from_str(&service.hear("wants poetry!")).expect("JSON");
    let expected = serde_json::json!([{"name": "service", "service": "fastpoetry", "address": second.to_string()}]);
    assert_eq!(line["spans"], expected, "{line}");
    assert_eq!(service.stop().code(), 0);

    let alone = Service::start(&mut poetryd(&["-v", "fastpoetry", &place.word("poem")]));
    assert_eq!(alone.fetch().expect("a poem"), b"a poem");
    alone.hear(" DEBUG Somebody at 127.0.0.1:");
    assert_eq!(alone.stop().code(), 0);
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

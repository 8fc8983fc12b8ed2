//! What passed through a proxy, as a report and as pictures.

use std::fs;

use nix::sys::signal::Signal;
use poetry_suite::report::{Report, Status};
use tempfile::TempDir;

use super::*;
use crate::harness::eventually;

fn read(place: &TempDir) -> Report {
    let text = fs::read_to_string(place.path().join("report.json")).expect("a report");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(violations("report.schema.json", &json), Vec::<String>::new());
    serde_json::from_str(&text).expect("a report")
}

/// A proxy that writes its report and its picture into a folder.
fn watched(place: &TempDir, args: &[&str], upstream: &str) -> Service {
    let report = format!("--report={}", place.path().join("report.json").display());
    let picture = format!("--timeline={}", place.path().join("picture.svg").display());
    chaos(&[&[report.as_str(), &picture, "--waterfall"], args].concat(), upstream)
}

#[test]
fn every_connection_has_a_lane_with_what_was_done_to_it() {
    let place = tempfile::tempdir().expect("a folder");
    let server = Server::poem("a poem\n");
    let proxy = watched(&place, &["--fail-first", "1"], &server.port());
    assert_eq!(outcome(proxy.address, b"a poem\n"), "reset");
    assert_eq!(outcome(proxy.address, b"a poem\n"), "whole");
    let stopped = proxy.stop();
    assert_eq!(stopped.code(), 0, "{}", stopped.stderr);
    let report = read(&place);
    let lanes: Vec<_> =
        report.tasks.iter().map(|task| (task.task, task.name.as_deref(), task.status, task.bytes)).collect();
    assert_eq!(lanes, [(1, Some("blackout"), Status::Reset, 0), (2, None, Status::Ok, 7)]);
    assert_eq!(&*report.model, "poetry-chaos");
    let picture = fs::read_to_string(place.path().join("picture.svg")).expect("a picture");
    assert!(picture.contains("blackout") && picture.contains("Got 1 of 2 poems"), "{picture}");
    assert!(stopped.stderr.contains("poetry-chaos  Got 1 of 2 poems"), "{}", stopped.stderr);
}

#[test]
fn a_signal_shows_what_is_under_way() {
    let place = tempfile::tempdir().expect("a folder");
    let (hold, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = Server::start(move |_, mut stream| {
        stream.write_all(b"half").expect("sent");
        // The server does not end it, whatever the client does.
        let _ = held.lock().expect("a test").recv();
    });
    let proxy = watched(&place, &["--grace", "0"], &server.port());
    let mut client = proxy.connect();
    client.read_exact(&mut [0; 4]).expect("half a poem");
    // The proxy may note what it has sent after that is here.
    eventually("what came is told", || {
        proxy.signal(Signal::SIGUSR1);
        place.path().join("picture.svg").exists() && read(&place).tasks.first().is_some_and(|task| task.bytes == 4)
    });
    let report = read(&place);
    let task = &report.tasks[0];
    let told = (report.tasks.len(), task.status, task.error.as_deref());
    assert_eq!(told, (1, Status::Interrupted, Some("still open with the client")));
    drop(client);
    // Without a grace, a stop would be faster than the news of that.
    eventually("who left is told", || {
        proxy.signal(Signal::SIGUSR1);
        read(&place).tasks[0].error.as_deref() == Some("closed early by the client")
    });
    proxy.stop();
    assert_eq!(read(&place).tasks[0].error.as_deref(), Some("closed early by the client"));
    drop(hold);
}

#[test]
fn over_http_it_is_connections_that_have_lanes() {
    let place = tempfile::tempdir().expect("a folder");
    let origin = Service::start(program("fastpoetry").arg("--http").arg(poem_file("science.txt")));
    let proxy = watched(&place, &["--protocol", "http"], &origin.port());
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("a head");
            reply.extend(byte);
        }
    }
    drop(client);
    proxy.stop();
    let report = read(&place);
    assert_eq!((report.tasks.len(), report.tasks[0].status), (1, Status::Ok));
    assert!(report.tasks[0].events.entries().len() >= 2, "{report:?}");
}

#[test]
fn of_very_many_connections_the_latest_are_told() {
    let place = tempfile::tempdir().expect("a folder");
    let server = Server::poem("a poem\n");
    let proxy = watched(&place, &["-v", "--compact"], &server.port());
    for _ in 0..1_006 {
        fetch(proxy.address).expect("a poem");
    }
    let stopped = proxy.stop();
    let report = read(&place);
    assert_eq!(report.tasks.len(), 1_000);
    assert!(stopped.stderr.contains("The report has room for 1000: 6 connections left out"), "{}", stopped.stderr);
    let numbers = [report.tasks.first(), report.tasks.last()].map(|task| task.map(|task| task.task));
    assert_eq!(numbers, [Some(7), Some(1_006)]);
}

#[test]
fn what_can_be_written_is_whatever_becomes_of_the_rest() {
    let place = tempfile::tempdir().expect("a folder");
    let server = Server::poem("a poem\n");
    let proxy = watched(&place, &[], &server.port());
    fs::create_dir(place.path().join("report.json")).expect("in the way");
    fetch(proxy.address).expect("a poem");
    let stopped = proxy.stop();
    assert_eq!(stopped.code(), 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("cannot write the report to "), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("poetry-chaos  Got 1 poem in "), "{}", stopped.stderr);
    assert!(place.path().join("picture.svg").exists());
}

#[test]
fn what_cannot_be_written_is_told_before_anything_passes() {
    for (args, complaint) in [
        (&["--report=/no/such/place.json"][..], "cannot write /no/such/place.json: no such file or directory"),
        (&["--timeline=picture.png"], "a picture is SVG, and picture.png does not end in .svg"),
        (&["--compact"], "--compact is about --timeline and --waterfall, and neither is given"),
    ] {
        let refused = run("poetry-chaos", [args, &["1"]].concat());
        assert!(refused.complaint().contains(complaint), "{}", refused.stderr);
        assert_ne!(refused.code(), 0);
    }
}

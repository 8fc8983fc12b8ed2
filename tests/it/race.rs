//! poetry-race, the pictures, and whether what is drawn and counted is so.

use std::fs;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    CONCURRENT, Finished, LIMIT, Running, Server, Service, finish, path_of, poem_file, program, read_out,
    refusing_port, reset, run, send_whole, with_every_client,
};

/// Servers that all take equally long.
fn equal_servers(number: usize) -> Vec<Service> {
    (0..number).map(|_| Service::fast(&poem_file("science.txt"), ["-q", "--delay", "3ms"])).collect()
}

fn ports(servers: &[Service]) -> Vec<String> {
    servers.iter().map(Service::port).collect()
}

fn race(options: &[&str], ports: &[String]) -> Finished {
    let mut command = program("poetry-race");
    finish(command.args(["--runs", "1", "--warm-up", "0"]).args(options).args(ports))
}

#[test]
fn every_model_has_its_row() {
    let servers = equal_servers(3);
    let ports = ports(&servers);
    let finished = race(&[], &ports);
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let text = String::from_utf8(finished.stdout).expect("UTF-8");
    let models: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected = |first| [first, "blocking", "threads", "select", "async"];
    assert_eq!(models, [expected("model"), expected("cost")].concat(), "{text}");
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    let csv = String::from_utf8(race(&["--csv", "--models", "async"], &ports).stdout).expect("UTF-8");
    assert!(csv.starts_with("model,runs,time_us,") && csv.contains("\nasync,1,"), "{csv}");
    assert_eq!(csv.lines().map(|line| line.split(',').count()).collect::<Vec<_>>(), [16, 16]);
    let markdown = String::from_utf8(race(&["--markdown", "--models", "async"], &ports).stdout).expect("UTF-8");
    assert!(markdown.lines().nth(1).expect("a rule").starts_with("| -----"), "{markdown}");
}

#[test]
fn the_result_as_json_is_as_its_schema_says() {
    let servers = equal_servers(2);
    let mut command = program("poetry-race");
    let finished = finish(command.args(["--runs", "2", "--json"]).args(ports(&servers)));
    let result: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(crate::schema::violations("race.schema.json", &result), [""; 0]);
    let models = result["models"].as_array().expect("models");
    assert_eq!(models.len(), 4);
    for model in models {
        let number = |name: &str| model[name].as_u64().expect(name);
        assert_eq!(number("runs"), 2);
        assert!(number("time_us") > 0 && number("bound_us") > 0, "{model}");
        let cost = |name: &str| model["cost"][name].as_u64().expect(name);
        assert!(cost("peak_threads") >= 1 && cost("peak_rss_kb") > 100, "{model}");
        assert!(cost("reads") >= 2, "{model}");
    }
}

#[test]
fn assertions_are_checked_and_show_both_sides() {
    let servers = equal_servers(2);
    let ports = ports(&servers);
    let finished = race(&["--assert", "blocking > 0 * async", "--assert", "async.reads >= 2"], &ports);
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let finished = race(&["--assert", "async < 1us", "--assert", "async < 60m"], &ports);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.complaint().starts_with("poetry-race: async < 1us does not hold: 0."), "{finished:?}");
    assert!(finished.complaint().ends_with(" and 0.000001"), "{finished:?}");
    for (expression, why) in
        [("async <", "a number, a model or 'bound' was expected"), ("async < 1h", "an unknown unit")]
    {
        let finished = race(&["--assert", expression], &ports);
        assert_eq!(finished.code(), 2, "{finished:?}");
        assert!(finished.complaint().contains(why), "{finished:?}");
    }
    let finished = race(&["--models", "async", "--assert", "blocking > async"], &ports);
    assert_eq!(finished.code(), 2);
    assert!(finished.complaint().contains("blocking, which does not take part"), "{finished:?}");
}

#[test]
fn a_server_that_slows_down_in_the_middle_breaks_the_assertion() {
    let steady = equal_servers(1);
    let ports = ports(&steady);
    // Quick to the first who asks, which is the blocking client, and to nobody after that.
    let slows_down = Server::start(|number, stream| {
        if number > 0 {
            thread::park_timeout(Duration::from_secs(1));
        }
        send_whole(stream, b"a poem\n");
    });
    let all = [ports.clone(), vec![slows_down.port()]].concat();
    let options = ["--models", "blocking,async", "--assert", "async <= 1.5 * blocking"];
    let finished = race(&options, &all);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.complaint().contains("async <= 1.5 * blocking does not hold: "), "{finished:?}");
}

#[test]
fn poems_that_do_not_arrive_are_no_result() {
    let (_held, refusing) = refusing_port();
    let finished = race(&["--models", "async"], &[refusing]);
    assert_eq!(finished.code(), 1);
    assert!(finished.has_line("poetry-race: 1 poems did not arrive"), "{finished:?}");
}

#[test]
fn without_its_clients_it_says_what_is_missing() {
    let directory = tempfile::tempdir().expect("a directory");
    let alone = directory.path().join("poetry-race");
    fs::copy(path_of("poetry-race"), &alone).expect("copied");
    let finished = finish(Command::new(&alone).arg("1"));
    let expected =
        format!("poetry-race: cannot run {}/get-poetry: no such file or directory", directory.path().display());
    assert_eq!((finished.code(), finished.complaint()), (1, &expected[..]));
}

#[test]
fn interrupted_it_takes_its_clients_with_it() {
    let (told, heard) = mpsc::channel();
    let told = Mutex::new(told);
    let server = Server::start(move |_, stream| {
        let told = told.lock().expect("lock").clone();
        told.send("here").expect("a test");
        let _ = read_out(stream);
        told.send("gone").expect("a test");
    });
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let racing = Running::start(program("poetry-race").arg(server.port()));
        assert_eq!(heard.recv(), Ok("here"));
        racing.signal(signal);
        assert_eq!(racing.finish().code(), code);
        assert_eq!(heard.recv(), Ok("gone"));
    }
}

/// From when to when each poem was fetched.
fn lanes(client: &str, ports: &[String]) -> Vec<(u64, u64)> {
    let finished = finish(program(client).args(["-q", "--json"]).args(ports));
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    let time = |task: &Value, name: &str| task[name].as_u64().expect(name);
    let tasks = report["tasks"].as_array().expect("tasks");
    tasks.iter().map(|task| (time(task, "start_us"), time(task, "end_us"))).collect()
}

#[test]
fn blocking_lanes_never_overlap_and_the_others_all_do() {
    let servers = equal_servers(5);
    let ports = ports(&servers);
    assert!(lanes("get-poetry-blocking", &ports).windows(2).all(|pair| pair[0].1 <= pair[1].0));
    for client in CONCURRENT {
        let lanes = lanes(client, &ports);
        let (last_start, first_end) = (lanes.iter().map(|lane| lane.0).max(), lanes.iter().map(|lane| lane.1).min());
        assert!(last_start < first_end, "{client}: {lanes:?}");
    }
}

#[test]
fn the_counts_of_calls_are_those_of_the_system() {
    if Command::new("strace").arg("-V").output().is_err() {
        return; // Nobody to ask.
    }
    let servers = equal_servers(3);
    let directory = tempfile::tempdir().expect("a directory");
    let (trace, json) = (directory.path().join("trace"), directory.path().join("report.json"));
    for client in ["get-poetry-blocking", "get-poetry-select"] {
        let mut command = Command::new("strace");
        command.args(["-f", "-e", "trace=recvfrom,poll", "-o"]).arg(&trace).arg(path_of(client));
        let finished = finish(command.args(["-q", "--discard", "--report"]).arg(&json).args(ports(&servers)));
        assert_eq!(finished.code(), 0, "{finished:?}");
        let trace = fs::read_to_string(&trace).expect("a trace");
        let calls = |name: &str| trace.lines().filter(|line| line.contains(&format!(" {name}("))).count();
        let report: Value = serde_json::from_slice(&fs::read(&json).expect("a report")).expect("JSON");
        assert_eq!(report["calls"]["reads"], calls("recvfrom"), "{client}");
        // Before main, the standard library looks whether the standard streams are open. That is not waiting.
        let at_start = trace.lines().filter(|line| line.contains("poll([{fd=0, events=0}")).count();
        assert_eq!(report["calls"]["waits"], calls("poll") - at_start, "{client}");
    }
}

#[test]
fn pictures_are_drawn_of_good_and_bad_poems() {
    let good = Server::poem("a poem\n");
    let cut = Server::start(|_, stream| reset(stream));
    let silent = Server::start(|_, stream| drop(read_out(stream)));
    let (_held, refusing) = refusing_port();
    let directory = tempfile::tempdir().expect("a directory");
    with_every_client(|client| {
        let path = directory.path().join(client);
        let mut command = program(client);
        command.env("LC_ALL", "C").args(["-q", "--discard", "--waterfall", "--idle-timeout", LIMIT, "--timeline"]);
        let finished = finish(command.arg(&path).args([good.port(), cut.port(), silent.port(), refusing.clone()]));
        assert_eq!(finished.code(), 1);
        let picture = fs::read_to_string(&path).expect("a picture");
        assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"));
        for word in ["done", "reset", "timed out", "failed", "refused", "timeout"] {
            assert!(picture.contains(&format!("\n{word}\n")), "{client}: no {word}");
        }
        let drawn = finished.stderr;
        assert!(
            drawn.is_ascii() && drawn.contains("X  timeout") && drawn.contains("X not arrived"),
            "{client}: {drawn}"
        );
        assert!(drawn.lines().filter(|line| line.contains("127.0.0.1")).all(|line| line.len() <= 100), "{drawn}");
    });
    let finished = run("get-poetry", ["-q", "--discard", "--timeline", "/dev/null/x", &good.port()]);
    assert_eq!(finished.code(), 1);
    assert!(finished.complaint().starts_with("Cannot write the report to /dev/null/x"), "{finished:?}");
}

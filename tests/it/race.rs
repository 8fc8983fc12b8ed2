//! poetry-race, the pictures, and whether what is drawn and counted is so.

use std::fs;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use regex_lite::Regex;
use serde_json::Value;

use crate::harness::{
    CONCURRENT, Finished, LIMIT, PATIENCE, Running, Server, Service, contents, finish, path_of, poem_file, program,
    read_out, refusing_port, reset, run, send_whole, with_every_client,
};
use crate::schema::violations;

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
    assert_eq!(models, [&expected("model")[..], &expected("cost"), &["1"]].concat(), "{text}");
    assert!(text.ends_with("\n\n1 round can show no difference: it takes 3, and ten are better\n"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    let csv = String::from_utf8(race(&["--csv", "--models", "async"], &ports).stdout).expect("UTF-8");
    assert!(csv.starts_with("model,poems,runs,time_us,") && csv.contains("\nasync,3,1,"), "{csv}");
    assert_eq!(csv.lines().map(|line| line.split(',').count()).collect::<Vec<_>>(), [21, 21]);
    let markdown = String::from_utf8(race(&["--markdown", "--models", "async"], &ports).stdout).expect("UTF-8");
    assert!(markdown.lines().nth(1).expect("a rule").starts_with("| -----"), "{markdown}");
}

#[test]
fn times_that_are_to_be_compared_have_one_unit() {
    let servers = equal_servers(1);
    let finished = race(&["--models", "async,threads"], &ports(&servers));
    let text = String::from_utf8(finished.stdout).expect("UTF-8");
    let (times, rest) = text.split_once("\n\n").expect("two tables");
    let costs = rest.split_once("\n\n").expect("a sentence").0;
    let cells = |table: &str| -> Vec<Vec<String>> {
        let rows = table.lines().skip(1).map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
        rows.map(|row| row.map(str::to_owned).collect()).collect()
    };
    let unit = |cell: &String| cell.split_once(' ').expect("a unit").1.to_owned();
    let times_of = |row: Vec<String>| [vec![row[1].clone()], row[3..6].to_vec()].concat();
    let units: Vec<String> = cells(times).into_iter().flat_map(times_of).map(|cell| unit(&cell)).collect();
    assert!(units.len() == 8 && units.iter().all(|unit| *unit == units[0]), "{times}");
    for column in [1, 2] {
        let units: Vec<String> = cells(costs).iter().map(|row| unit(&row[column])).collect();
        assert_eq!(units[0], units[1], "{costs}");
    }
}

#[test]
fn a_demonstration_has_servers_of_its_own() {
    let finished = race(&["--demo", "--models", "async", "--json"], &[]);
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let result: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(violations("race.schema.json", &result), [""; 0]);
    assert_eq!(result["names"], serde_json::json!(["ecstasy", "fascination", "science"]));
    // A hundred pieces of the longest, 20 ms apart.
    assert!(result["models"][0]["time_us"].as_u64() >= Some(1_900_000), "{result}");
}

#[test]
fn progress_off_a_terminal_is_a_line_for_each_run() {
    let mut servers = equal_servers(2);
    let ports = ports(&servers);
    let finished = race(&["--progress", "--models", "blocking,async"], &ports);
    let lines: Vec<&str> = finished.stderr.lines().collect();
    let [first, last] = lines[..] else { panic!("{finished:?}") };
    let line = Regex::new(r"^run 1 of 2: async got 2 poems in \d\.\d s, about \d s left$").expect("a pattern");
    assert!(line.is_match(first), "{first}");
    let line = Regex::new(r"^run 2 of 2: blocking got 2 poems in \d\.\d s$").expect("a pattern");
    assert!(line.is_match(last), "{last}");

    servers.pop();
    let finished = race(&["--progress", "--models", "async"], &ports);
    assert!(finished.stderr.starts_with("run 1 of 1: async got 1 of 2 poems in "), "{finished:?}");
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
    // Quick to the second who asks, which is the blocking client, and to nobody else.
    let slows_down = Server::start(|number, stream| {
        if number != 1 {
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
    assert!(finished.has_line("poetry-race: 1 poem did not arrive"), "{finished:?}");
}

#[test]
fn without_its_clients_it_says_what_is_missing() {
    let directory = tempfile::tempdir().expect("a directory");
    let alone = directory.path().join("poetry-race");
    // Not by this process: what another test starts meanwhile would have the file open for writing (ETXTBSY).
    assert_eq!(finish(Command::new("cp").arg(path_of("poetry-race")).arg(&alone)).code(), 0);
    let finished = finish(Command::new(&alone).arg("1"));
    let expected =
        format!("poetry-race: cannot run {}/get-poetry: no such file or directory", directory.path().display());
    assert_eq!((finished.code(), finished.complaint()), (1, &expected[..]));
}

/// A server that sends nothing, and says when a client is here and when it is gone.
fn doorman() -> (Server, mpsc::Receiver<&'static str>) {
    let (told, heard) = mpsc::channel();
    let told = Mutex::new(told);
    let server = Server::start(move |_, stream| {
        let told = told.lock().expect("lock").clone();
        told.send("here").expect("a test");
        let _ = read_out(stream);
        told.send("gone").expect("a test");
    });
    (server, heard)
}

#[test]
fn interrupted_it_takes_its_clients_with_it() {
    let (server, heard) = doorman();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let racing = Running::start(program("poetry-race").arg(server.port()));
        assert_eq!(heard.recv(), Ok("here"));
        racing.signal(signal);
        assert_eq!(racing.finish().code(), code);
        assert_eq!(heard.recv(), Ok("gone"));
    }
}

#[test]
fn killed_it_takes_its_clients_with_it_and_leaves_nothing_behind() {
    let (server, heard) = doorman();
    let temporary = tempfile::tempdir().expect("a directory");
    for model in ["blocking", "threads", "select", "async"] {
        let mut command = program("poetry-race");
        command.env("TMPDIR", temporary.path()).args(["--warm-up", "0", "--models", model]);
        let racing = Running::start(command.arg(server.port()));
        assert_eq!(heard.recv_timeout(PATIENCE), Ok("here"));
        racing.signal(Signal::SIGKILL);
        assert_eq!(heard.recv_timeout(PATIENCE), Ok("gone"), "{model}");
        drop(racing);
        assert_eq!(contents(temporary.path()), [], "{model}");
    }
}

#[test]
fn a_client_whose_race_is_over_does_not_begin() {
    let server = Server::poem("a poem\n");
    // A process that is nobody's parent, as a race that has been killed.
    let finished = finish(program("get-poetry").env("POETRY_RACE", "1999999999").arg(server.port()));
    assert_eq!((finished.code(), finished.complaint()), (1, "get-poetry: the race is over"));
}

#[test]
fn runs_that_lose_a_poem_do_not_count() {
    // Twice a reset at once, and then a poem that takes its time.
    let flaky = || {
        Server::start(|number, stream| {
            if number < 2 {
                return reset(stream);
            }
            thread::park_timeout(Duration::from_millis(100));
            send_whole(stream, b"a poem\n");
        })
    };
    let race = |options: &[&str]| {
        let flaky = flaky();
        let mut command = program("poetry-race");
        command.args(["--runs", "3", "--warm-up", "0", "--models", "async"]).args(options);
        finish(command.arg(flaky.port()))
    };
    let finished = race(&["--json"]);
    assert_eq!(finished.code(), 1);
    assert!(finished.has_line("poetry-race: 2 poems did not arrive"), "{finished:?}");
    let result: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(crate::schema::violations("race.schema.json", &result), [""; 0]);
    let model = &result["models"][0];
    assert_eq!((&model["runs"], &model["missing"]), (&1.into(), &2.into()), "{model}");
    for time in [&model["time_us"], &model["spread_us"][0], &model["bound_us"]] {
        assert!(time.as_u64().expect("a time") >= 100_000, "{model}");
    }
    let text = |options| String::from_utf8(race(options).stdout).expect("UTF-8");
    let csv = text(&["--csv"]);
    let row: Vec<&str> = csv.lines().nth(1).expect("a row").split(',').collect();
    assert!(csv.lines().next().expect("a header").ends_with(",missing"), "{csv}");
    assert_eq!((row[0], row[2], row[20]), ("async", "1", "2"), "{csv}");
    for (options, end) in [(&[][..], " 2"), (&["--markdown"], " 2 |")] {
        let text = text(options);
        assert!(text.lines().next().expect("a header").contains(" missing"), "{text}");
        let row = text.lines().find(|line| line.contains("async")).expect("a row");
        assert!(row.ends_with(end), "{text}");
    }
}

#[test]
fn a_model_without_a_run_that_counts_has_no_figures() {
    let (_held, refusing) = refusing_port();
    let race =
        |options: &[&str]| race(&[&["--models", "select,async"], options].concat(), std::slice::from_ref(&refusing));
    let finished = race(&["--json", "--assert", "async < 60m", "--assert", "0 * select <= 0"]);
    assert_eq!(finished.code(), 1);
    for line in [
        "poetry-race: 2 poems did not arrive",
        "poetry-race: async < 60m does not hold: async got all poems in no run",
        "poetry-race: 0 * select <= 0 does not hold: select got all poems in no run",
    ] {
        assert!(finished.has_line(line), "{finished:?}");
    }
    let result: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(crate::schema::violations("race.schema.json", &result), [""; 0]);
    assert_eq!((&result["models"][1]["time_us"], &result["models"][1]["runs"]), (&Value::Null, &0.into()));
    let text = String::from_utf8(race(&[]).stdout).expect("UTF-8");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("async")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    assert!(rows.iter().all(|row| row.contains("no run")), "{text}");
    let csv = String::from_utf8(race(&["--csv"]).stdout).expect("UTF-8");
    assert!(csv.ends_with(&format!("\nasync,1,0{}1\n", ",".repeat(18))), "{csv}");
}

#[test]
fn every_run_takes_some_processor_time() {
    let server = Server::poem("a poem\n");
    let mut command = program("poetry-race");
    let finished = finish(command.args(["--runs", "6", "--json", "--assert", "async.cpu >= 1us"]).arg(server.port()));
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let result: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    let times: Vec<u64> = result["models"]
        .as_array()
        .expect("models")
        .iter()
        .map(|model| model["cost"]["cpu_us"].as_u64().expect("a time"))
        .collect();
    assert!(times.iter().all(|&time| time > 0), "{times:?}");
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
        let path = directory.path().join(format!("{client}.svg"));
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
    let finished = run("get-poetry", ["-q", "--discard", "--timeline", "/dev/null/x.svg", &good.port()]);
    assert_eq!(finished.code(), 1);
    assert!(finished.complaint().starts_with("get-poetry: cannot write /dev/null/x.svg: "), "{finished:?}");
}

//! The simulation as its users meet it: it ends as a live run does, and is the same every time.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{CLIENTS, Finished, Service, finish, program};
use crate::schema::violations;

/// A run of poetry-sim with these costs, whatever was measured on this machine.
fn sim(costs: &str, args: &[&str]) -> Finished {
    finish(program("poetry-sim").args(["--costs", costs]).args(args))
}

fn text(finished: Finished) -> String {
    String::from_utf8(finished.stdout).expect("UTF-8")
}

fn report(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout).expect("JSON")
}

/// What became of each poem.
fn outcome(report: &Value) -> Vec<[&Value; 5]> {
    let tasks = report["tasks"].as_array().expect("tasks");
    tasks.iter().map(|task| ["status", "limit", "attempts", "bytes", "error"].map(|field| &task[field])).collect()
}

/// Live and simulated, with two servers of their own: the same becomes of every poem, and nobody is faster than the
/// pace and the limits allow.
fn agree(server_flags: &[&str], client_flags: &[&str]) {
    let poem = tempfile::NamedTempFile::new().expect("a file");
    fs::write(poem.path(), "so many words\n".repeat(40)).expect("written");
    let path = poem.path().to_str().expect("UTF-8");
    let free = tempfile::NamedTempFile::new().expect("a file");
    let calls = ["connect", "read", "copy_kib", "write", "wait", "descriptor", "enqueue", "ready", "switch", "idle"];
    let work = ["process", "poem", "step", "task", "poll", "thread", "thread_end"];
    let nothing: serde_json::Map<String, Value> =
        calls.into_iter().chain(work).map(|name| (name.to_owned(), 0.into())).collect();
    fs::write(free.path(), Value::from(nothing).to_string()).expect("written");
    let free = free.path().to_str().expect("UTF-8");
    for client in CLIENTS {
        let servers = [0; 2].map(|_| Service::slow(poem.path(), server_flags));
        let ports: Vec<String> = servers.iter().map(Service::port).collect();
        let live = finish(program(client).args(["-q", "--json"]).args(client_flags).args(&ports));
        let model = client.strip_prefix("get-poetry-").unwrap_or("async");
        let flags =
            [&["--json", "--servers", "2", "--model", model, "--poem", path][..], server_flags, client_flags].concat();
        let simulated = sim(free, &flags);
        let (live_report, simulated_report) = (report(&live), report(&simulated));
        // The kernel's words for the server's end are the same; who it is is not.
        assert_eq!(outcome(&live_report), outcome(&simulated_report), "{model} {server_flags:?}");
        assert_eq!(live.code(), simulated.code());
        let time = |report: &Value| report["elapsed_us"].as_u64().expect("a time");
        // A retry's pause is by chance: from half to one and a half times of a tenth of a second.
        let chance = if client_flags.contains(&"--retries") { 300_000 } else { 2_000 };
        assert!(time(&live_report) + chance >= time(&simulated_report), "{model} {server_flags:?}");
    }
}

#[test]
fn a_poem_in_pieces_is_the_same_live_and_simulated() {
    agree(&["--num-bytes", "100", "--delay", "40ms"], &[]);
}

#[test]
fn cuts_are_the_same_live_and_simulated() {
    agree(&["--num-bytes", "100", "--delay", "20ms", "--cut-at", "250", "--cut", "rst"], &[]);
    agree(&["--num-bytes", "100", "--delay", "20ms", "--cut-at", "250", "--cut", "fin"], &["-j", "2"]);
}

/// A server that falls silent in the middle. The limits leave it the time that it may need on a busy machine.
const SILENCE: [&str; 8] = ["--num-bytes", "100", "--delay", "20ms", "--cut-at", "250", "--cut", "hang"];

#[test]
fn a_limit_on_silence_is_the_same_live_and_simulated() {
    agree(&SILENCE, &["--idle-timeout", "2s"]);
}

#[test]
fn a_limit_on_the_whole_is_the_same_live_and_simulated() {
    agree(&SILENCE, &["--timeout", "2s"]);
}

#[test]
fn a_limit_on_connecting_is_the_same_live_and_simulated() {
    agree(&["--never-accept"], &["--connect-timeout", "500ms"]);
}

#[test]
fn retries_are_the_same_live_and_simulated() {
    agree(&["--num-bytes", "200", "--delay", "10ms", "--fail-first", "1"], &["--retries", "2"]);
    agree(&["--num-bytes", "200", "--delay", "10ms", "--fail-first", "2"], &["--retries", "1"]);
}

#[test]
fn the_same_command_line_gives_the_same_bytes() {
    let args = ["--json", "--servers", "30", "--num-bytes", "500", "--rtt", "80ms", "--jitter", "30ms", "--loss", "3"];
    let faults = ["--seed", "7", "--fail-first", "1", "--retries", "3", "-j", "9"];
    let run = || sim("default", &[&args[..], &faults].concat()).stdout;
    let first = run();
    assert!(first.len() > 10_000);
    for _ in 0..5 {
        assert!(run() == first);
    }
    let other = sim("default", &[&args[..], &["--seed", "8"], &faults[2..]].concat()).stdout;
    assert!(other != first);
}

#[test]
fn a_report_says_that_it_is_simulated_and_fits_its_schema() {
    let all = sim("default", &["--json", "--servers", "2", "--num-bytes", "1000"]);
    let all = report(&all);
    let reports = all.as_array().expect("a list");
    let models: Vec<&Value> = reports.iter().map(|report| &report["model"]).collect();
    assert_eq!(models, ["blocking", "threads", "select", "async"]);
    for report in reports {
        assert_eq!(violations("report.schema.json", report), [""; 0]);
        assert!(report["simulated"]["cpu_us"].as_u64() > Some(0));
        assert_eq!(report["tasks"][0]["events"].as_array().expect("reads").len(), 3);
    }
}

#[test]
fn a_limit_of_descriptors_or_threads_is_kept() {
    let args = ["--server", "fast", "--size", "10", "--rtt", "50ms", "--servers", "500"];
    let few = sim("default", &[&args[..], &["--json", "--model", "select", "--open-files", "132"]].concat());
    assert_eq!(few.stderr, "At most 100 poems at once: the limit of open files is 132\n");
    assert_eq!(report(&few)["simulated"]["at_once"], 100);
    let few = sim("default", &[&args[..], &["--json", "--model", "threads", "--threads", "70"]].concat());
    assert_eq!((&report(&few)["peak"]["threads"], &report(&few)["ok"]), (&71.into(), &500.into()));
    assert_eq!(report(&few)["simulated"]["stacks_kb"], 70 * 2_048);
}

#[test]
fn what_waits_for_ever_is_interrupted_and_told() {
    let args = ["--model", "async", "--json", "--cut-at", "100", "--cut", "hang", "--idle-timeout", "0"];
    let finished = sim("default", &args);
    let report = report(&finished);
    assert_eq!((finished.code(), &report["ok"]), (1, &0.into()));
    assert!(outcome(&report).iter().all(|task| task[0] == "interrupted"));
}

#[test]
fn one_event_at_a_time_is_a_line_each() {
    let args = ["--step", "--servers", "1", "--model", "select", "--size", "20", "--rtt", "100ms"];
    let told = text(sim("default", &args));
    let events: Vec<&str> = told.lines().take_while(|line| !line.is_empty() && !line.starts_with("model")).collect();
    let whats: Vec<&str> = events.iter().filter_map(|line| line.split(" s  ").nth(1)).collect();
    assert_eq!(
        whats,
        [
            "poem 1: connects",
            "poem 1: is connected",
            "server 1: accepts its connection 1",
            "server 1: sends 10 bytes",
            "poem 1: reads 10 bytes",
            "server 1: sends 10 bytes, and ends the stream",
            "poem 1: reads 10 bytes",
            "poem 1: is whole, with 20 bytes",
        ],
        "{told}"
    );
    assert!(told.contains("Simulated. Costs: not measured on this machine, see --calibrate"), "{told}");
}

#[test]
fn a_sweep_is_a_picture() {
    let place = tempfile::tempdir().expect("a directory");
    let picture = place.path().join("sweep.svg");
    let chart = picture.to_str().expect("UTF-8");
    let args = ["--sweep", "1,10,100", "--server", "fast", "--rtt", "10ms", "--csv", "--chart", chart];
    let rows = text(sim("default", &args));
    assert_eq!(rows.lines().count(), 1 + 3 * 4, "{rows}");
    let drawn = fs::read_to_string(picture).expect("a picture");
    assert!(drawn.starts_with("<svg") && drawn.contains("simulated"));
}

#[test]
fn what_polling_costs_shows_over_the_number_of_poems() {
    let cpu = |model, poems| {
        let args = ["--server", "fast", "--num-bytes", "400", "--delay", "10s", "--jitter", "9s", "--poem", "science"];
        let run = sim("default", &[&args[..], &["--json", "--model", model, "--servers", poems]].concat());
        report(&run)["simulated"]["cpu_us"].as_f64().expect("a time")
    };
    let more = |model| cpu(model, "3000") / cpu(model, "300");
    assert!(more("select") > 1.5 * more("async"), "select {}, async {}", more("select"), more("async"));
}

/// Few poems, and so not what it costs on this machine; but by real clients and a real server.
#[test]
fn a_calibration_is_written_and_used() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("costs.json");
    let costs = file.to_str().expect("UTF-8");
    // A limit that holds for all that is measured, and one that is only for the clients.
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"ulimit -n 110 && exec "$@""#, "sh"]).arg(program("poetry-sim").get_program());
    let calibrated = finish(limited.env_remove("RUST_LOG").args(["--open-files", "104", "--calibrate", costs]));
    assert_eq!(calibrated.code(), 0, "{}", calibrated.stderr);
    assert_eq!(calibrated.stderr, "At most 40 poems at once, which tells less: the limit of open files is 104\n");
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).expect("written")).expect("JSON");
    // What a process and a task take is told by runs of their own.
    for name in ["process", "process_bytes", "connect", "thread_bytes"] {
        assert!(written[name].as_u64() > Some(100), "{name}: {written}");
    }
    let told = text(calibrated);
    let fitted = told.lines().skip_while(|line| !line.starts_with("run ")).skip(1).take_while(|line| !line.is_empty());
    assert_eq!(fitted.count(), 13, "{told}");
    assert!(told.ends_with(&format!("Written into {costs}\n")), "{told}");
    let used = text(sim(costs, &["--model", "select"]));
    assert!(used.ends_with(&format!("Simulated. Costs: as measured: {costs}\n")), "{used}");
}

#[test]
fn a_calibration_without_the_clients_says_so_and_writes_nothing() {
    let own = program("poetry-sim");
    let own = Path::new(own.get_program());
    let place = tempfile::tempdir_in(own.parent().expect("its directory")).expect("a directory");
    let alone = place.path().join("poetry-sim");
    // No copy: who is written to cannot be run (ETXTBSY) as long as a child that another test starts has the descriptor.
    fs::hard_link(own, &alone).expect("linked");
    let file = place.path().join("costs.json");
    let finished = finish(Command::new(&alone).arg("--calibrate").arg(&file));
    let client = place.path().join("get-poetry-select");
    let why = format!("poetry-sim: cannot run {}: no such file or directory\n", client.display());
    assert_eq!((finished.code(), finished.stderr.as_str()), (1, why.as_str()));
    assert!(!file.exists());
}

#[test]
fn what_waits_for_its_turn_is_told() {
    let held = |order: &[&str]| {
        let args = [
            "--json",
            "--model",
            "async",
            "--servers",
            "50",
            "--server",
            "fast",
            "--size",
            "20k",
            "--num-bytes",
            "10k",
        ];
        report(&sim("default", &[&args[..], order].concat()))["simulated"]["held_kb"].as_u64().expect("a number")
    };
    assert_eq!(held(&[]), 0);
    // All have the first half before one is whole, and only a live one is not held.
    for order in ["completion", "request"] {
        let held = held(&["--order", order]);
        assert!((49 * 10_000 / 1_024..=50 * 20_000 / 1_024).contains(&held), "{order}: {held}");
    }
}

#[test]
fn the_page_about_a_million_is_true() {
    crate::harness::follow("what-waiting-costs-at-a-million.md", 1);
}

#[test]
fn events_of_several_models_are_told_apart_and_in_order() {
    let told = text(sim("default", &["--step", "--servers", "3", "--model", "select,threads", "--size", "20"]));
    let [select, threads] = ["select:\n", "threads:\n"].map(|heading| told.find(heading).expect(heading));
    let times = |part: &str| -> Vec<f64> {
        part.lines().filter_map(|line| line.split_once(" s  ")?.0.trim().parse().ok()).collect()
    };
    let (of_select, of_threads) = (times(&told[select..threads]), times(&told[threads..]));
    assert!(of_select.is_sorted() && of_threads.is_sorted(), "{told}");
    assert!(of_select.len() >= 3 * 6 && of_threads.len() >= 3 * 6, "{told}");
    let one = text(sim("default", &["--step", "--servers", "1", "--model", "select", "--size", "20"]));
    assert!(!one.contains("select:"), "{one}");
}

#[test]
fn what_a_calibration_would_not_heed_is_refused() {
    for flags in [&["--json"][..], &["--csv"], &["--servers", "3"], &["--costs", "default"], &["--sweep", "1,2"]] {
        let finished = finish(program("poetry-sim").args(["--calibrate", "/nonexistent/costs"]).args(flags));
        assert_eq!(finished.code(), 2, "{}", finished.stderr);
        assert!(finished.stderr.contains("cannot be used with"), "{}", finished.stderr);
    }
}

#[test]
fn a_run_ends_after_292_years() {
    let args = ["--csv", "--model", "async", "--server", "fast", "--rtt", "1000y", "--connect-timeout", "0"];
    let rows = text(sim("default", &args));
    let row: Vec<&str> = rows.lines().nth(1).expect("a row").split(',').collect();
    assert_eq!(row[..4], ["async", "3", "3", "9223372036854775"], "{rows}");
}

//! The figures of a race, for those who publish them: every run out, in forms that other programs read as they are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{
    CLIENTS, Finished, Running, Server, Service, eventually, finish, poem_file, program, read_out, refusing_port,
    reset, send_whole,
};
use crate::schema::violations;

fn race(options: &[&str], addresses: &[&str]) -> Finished {
    finish(program("poetry-race").args(["--warm-up", "0"]).args(options).args(addresses))
}

fn text(finished: Finished) -> String {
    String::from_utf8(finished.stdout).expect("UTF-8")
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// What a directory has, by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    crate::harness::contents(directory).into_iter().collect()
}

#[test]
fn a_directory_has_the_result_every_run_and_every_report() {
    let server = Server::poem("a poem\n");
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("results");
    let wanted = directory.to_str().expect("UTF-8");
    let finished = race(
        &["--runs", "2", "--models", "select,async", "--json", "--report", wanted],
        &[&format!("{}*3", server.port())],
    );
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let files = files(&directory);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    // In the second round, the other one is the first.
    let reports = ["3-001-1-select.json", "3-001-2-async.json", "3-002-1-async.json", "3-002-2-select.json"];
    assert_eq!(names, [&reports[..], &["models.csv", "race.json", "runs.csv"]].concat());
    assert_eq!(files["race.json"], finished.stdout);
    let result = json(&files["race.json"]);
    assert_eq!(violations("race.schema.json", &result), [""; 0]);
    for (name, run) in reports.iter().zip(result["runs"].as_array().expect("runs")) {
        let report = json(&files[*name]);
        assert_eq!(violations("report.schema.json", &report), [""; 0]);
        assert_eq!((&report["elapsed_us"], &report["model"]), (&run["time_us"], &run["model"]), "{name}");
        assert_eq!(report["peak"]["threads"], run["cost"]["peak_threads"]);
        assert_eq!((&run["poems"], &run["counted"]), (&3.into(), &true.into()));
    }
    let environment = &result["environment"];
    assert_eq!(environment["arguments"][3], "2", "{environment}");
    assert!(environment["kernel"].as_str().expect("a kernel").starts_with("Linux "), "{environment}");
    let rows = |name: &str| files[name].iter().filter(|byte| **byte == b'\n').count();
    assert_eq!((rows("models.csv"), rows("runs.csv")), (1 + 2, 1 + 4));

    let finished = race(&["--report", "/dev/null/results"], &[&server.port()]);
    assert_eq!(finished.code(), 1);
    assert_eq!(finished.complaint(), "poetry-race: cannot make /dev/null/results: not a directory");
}

#[test]
fn the_ledger_adds_up() {
    let server = Server::poem("a poem\n");
    let finished = race(&["--runs", "3", "--json"], &[&server.port()]);
    let result = json(&finished.stdout);
    let runs = result["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 12);
    for run in runs {
        let cost = |name: &str| run["cost"][name].as_u64();
        let cpu = cost("cpu_us").expect("processor time");
        // The split is as fine as the system's ticks, and may be missing; the sum never is.
        assert!(cpu > 0 && cost("user_us").is_none_or(|user| user + cost("system_us").expect("both") == cpu), "{run}");
        assert!(cost("peak_rss_kb") > Some(1_000), "{run}");
        let threads = if run["model"] == "threads" { 2 } else { 1 };
        assert_eq!(cost("peak_threads"), Some(threads), "{run}");
    }
    for model in result["models"].as_array().expect("models") {
        let mut times: Vec<u64> = runs
            .iter()
            .filter(|run| run["model"] == model["model"])
            .map(|run| run["cost"]["cpu_us"].as_u64().expect("a time"))
            .collect();
        times.sort_unstable();
        assert_eq!(model["cost"]["cpu_us"], times[1], "{model}");
    }
}

/// A server that holds its clients until they are let go.
struct Hold {
    here: Mutex<usize>,
    gone: Mutex<bool>,
    go: Condvar,
}

#[test]
fn a_clients_own_threads_are_those_of_the_system_without_the_one_for_signals() {
    static HOLD: Hold = Hold { here: Mutex::new(0), gone: Mutex::new(false), go: Condvar::new() };
    let server = Server::start(|_, stream| {
        *HOLD.here.lock().expect("lock") += 1;
        let mut gone = HOLD.gone.lock().expect("lock");
        while !*gone {
            gone = HOLD.go.wait(gone).expect("lock");
        }
        send_whole(stream, b"a poem\n");
    });
    let poems = format!("{}*5", server.port());
    // The blocking one connects once, each of the others five times.
    let clients: Vec<(&str, Running)> = CLIENTS
        .iter()
        .map(|client| (*client, Running::start(program(client).args(["-q", "--json", &poems]))))
        .collect();
    eventually("all are connected", || *HOLD.here.lock().expect("lock") == 1 + 3 * 5);
    let threads = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("Threads:")).expect("a number");
        line.trim().parse::<u64>().expect("a number")
    };
    let seen: Vec<u64> = clients.iter().map(|(_, running)| threads(running.pid())).collect();
    *HOLD.gone.lock().expect("lock") = true;
    HOLD.go.notify_all();
    for ((client, running), seen) in clients.into_iter().zip(seen) {
        let finished = running.finish();
        let report = json(&finished.stdout);
        assert_eq!(report["peak"]["threads"], seen - 1, "{client}");
    }
}

#[test]
fn verdicts_are_test_cases_for_those_who_read_junit() {
    let server = Server::poem("a poem\n");
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("race.xml");
    let junit = path.to_str().expect("UTF-8");
    let asserted = ["--assert", "async < 60m", "--assert", "async < 1us"];
    let options = [&["--runs", "1", "--models", "async", "--json", "--junit", junit], &asserted[..]].concat();
    let finished = race(&options, &[&server.port()]);
    assert_eq!(finished.code(), 1);
    let xml = fs::read_to_string(&path).expect("a file");
    let document = roxmltree::Document::parse(&xml).expect("well-formed XML");
    let cases: Vec<_> = document.descendants().filter(|node| node.has_tag_name("testcase")).collect();
    let name = |case: &roxmltree::Node<'_, '_>| case.attribute("name").expect("a name").to_owned();
    assert_eq!(cases.iter().map(name).collect::<Vec<_>>(), ["all poems arrived", "async < 60m", "async < 1us"]);
    let failed: Vec<bool> = cases.iter().map(|case| case.children().any(|node| node.has_tag_name("failure"))).collect();
    assert_eq!(failed, [false, false, true]);
    let verdicts = json(&finished.stdout)["assertions"].clone();
    assert_eq!((&verdicts[0]["holds"], &verdicts[1]["holds"]), (&true.into(), &false.into()));
    assert_eq!((&verdicts[1]["expression"], &verdicts[1]["right"]), (&"async < 1us".into(), &1e-6.into()));
}

#[test]
fn what_does_not_arrive_is_told_by_address_and_round() {
    let (_held, refusing) = refusing_port();
    let broken = Server::start(|_, stream| reset(stream));
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("race.xml");
    let options = ["--runs", "2", "--models", "select,async", "--junit", path.to_str().expect("UTF-8")];
    let finished = race(&options, &[&refusing, &broken.port(), &broken.port()]);
    assert_eq!(finished.code(), 1);
    assert_eq!(finished.stderr.lines().count(), 1 + 2, "{finished:?}");
    assert!(finished.has_line("poetry-race: 12 poems did not arrive"), "{finished:?}");
    let (select, both) = ("rounds 1 to 2, select, async", format!("127.0.0.1:{}", broken.port()));
    assert!(finished.has_line(&format!("poetry-race: 127.0.0.1:{refusing}: connection refused (4 times: {select})")));
    assert!(
        finished.has_line(&format!("poetry-race: {both}: connection reset by peer (8 times: {select})")),
        "{finished:?}"
    );
    let xml = fs::read_to_string(path).expect("a file");
    assert!(xml.contains("12 poems did not arrive"), "{xml}");
}

#[test]
fn the_limits_of_the_clients_are_passed_on() {
    let silent = Server::start(|_, stream| drop(read_out(stream)));
    let finished = race(&["--runs", "1", "--models", "async", "--idle-timeout", "30ms"], &[&silent.port()]);
    assert_eq!(finished.code(), 1);
    let told = format!("poetry-race: 127.0.0.1:{}: no byte for 30ms (1 time: round 1, async)", silent.port());
    assert!(finished.has_line(&told), "{finished:?}");

    let (poem, transformer) = (Server::poem("A Poem\n"), Service::transform(["-q"]));
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().to_str().expect("UTF-8");
    let via = ["--transform", "cummingsify", "--via", &transformer.port(), "--connect-timeout", "20s", "-j", "7"];
    let options =
        [&["--runs", "1", "--models", "blocking", "--retries", "2", "--report", directory], &via[..]].concat();
    let finished = race(&options, &[&poem.port()]);
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let report = json(&files(place.path())["1-001-1-blocking.json"]);
    assert_eq!(report["tasks"][0]["transform"]["name"], "cummingsify");
    let words = report["environment"]["arguments"].as_array().expect("arguments").clone();
    for word in ["--connect-timeout=20s", "--idle-timeout=5m", "--timeout=0s", "--retries=2", "--max-concurrency=7"] {
        assert!(words.contains(&word.into()), "{word} is not in {words:?}");
    }
}

#[test]
fn rounds_go_on_until_the_times_are_known() {
    // A poem takes 30 ms, give or take what the machine does: a hundred rounds at most.
    let server = Service::fast(&poem_file("science.txt"), ["-q", "--delay", "1ms"]);
    let finished = race(&["--runs", "auto", "--models", "async", "--json", "--progress"], &[&server.port()]);
    let result = json(&finished.stdout);
    let model = &result["models"][0];
    let (rounds, time) = (model["runs"].as_u64().expect("a number"), model["time_us"].as_f64().expect("a time"));
    let bound = |index: usize| model["interval_us"][index].as_f64().expect("an interval");
    let width = (bound(1) - bound(0)) / time;
    assert!((6..=100).contains(&rounds) && bound(0) <= time && time <= bound(1), "{model}");
    assert!(width < 0.02 || rounds == 100, "{width} after {rounds} rounds");
    let unknown = finished.stderr.contains("poetry-race: after 100 rounds the time of async is known to ");
    assert_eq!(unknown, width >= 0.02, "{finished:?}");
    assert!(finished.stderr.contains("run 1: async got 1 poem in "), "{finished:?}");
}

#[test]
fn rounds_go_on_for_one_that_lost_a_poem_in_the_first_ones() {
    // Five of the first six rounds would have no interval.
    let server = Server::start(|number, stream| match number {
        0 => reset(stream),
        _ => send_whole(stream, b"a poem\n"),
    });
    let finished = race(&["--runs", "auto", "--models", "select", "--json"], &[&server.port()]);
    let model = json(&finished.stdout)["models"][0].clone();
    assert_eq!((finished.code(), &model["missing"]), (1, &1.into()), "{finished:?}");
    assert!(model["runs"].as_u64() >= Some(6) && model["interval_us"].is_array(), "{model}");
}

#[test]
fn a_client_that_is_killed_loses_its_run_and_no_other() {
    static IS_HERE: AtomicBool = AtomicBool::new(false);
    let server = Server::start(|number, stream| match number {
        // The client of the second run is held until it is gone.
        1 => {
            IS_HERE.store(true, Ordering::Release);
            drop(read_out(stream));
        }
        _ => send_whole(stream, b"a poem\n"),
    });
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().to_str().expect("UTF-8");
    let options = ["--warm-up", "0", "--runs", "2", "--models", "select,async", "--json", "--report", directory];
    let racing = Running::start(program("poetry-race").args(options).arg(server.port()));
    eventually("the second client is there", || IS_HERE.load(Ordering::Acquire));
    kill(child_of(racing.pid()), Signal::SIGKILL).expect("it is there");
    let finished = racing.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.has_line("poetry-race: 1 poem did not arrive, and 1 run failed"), "{finished:?}");
    let told = "poetry-race: was ended by SIGKILL without a report (1 time: round 1, async)";
    assert!(finished.has_line(told), "{finished:?}");
    let result = json(&finished.stdout);
    assert_eq!(violations("race.schema.json", &result), [""; 0]);
    let counted: Vec<&Value> = result["runs"].as_array().expect("runs").iter().map(|run| &run["counted"]).collect();
    assert_eq!(counted, [true, false, true, true]);
    let report = json(&files(place.path())["1-001-2-async.json"]);
    assert_eq!(violations("report.schema.json", &report), [""; 0]);
    assert_eq!(report["tasks"][0]["status"], "interrupted");
}

/// The only child of a process.
fn child_of(parent: u32) -> Pid {
    let parent = format!("PPid:\t{parent}\n");
    let numbers =
        fs::read_dir("/proc").expect("processes").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_child = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|it| it.contains(&parent));
    let children: Vec<i32> = numbers.filter_map(|name| name.parse().ok()).filter(is_child).collect();
    let [child] = children[..] else { panic!("one child, and not {children:?}") };
    Pid::from_raw(child)
}

#[test]
fn what_cannot_be_written_costs_nothing_that_can() {
    let server = Server::poem("a poem\n");
    let place = tempfile::tempdir().expect("a directory");
    let (directory, junit) = (place.path().join("results"), place.path().join("race.xml"));
    fs::create_dir_all(directory.join("1-001-1-select.json")).expect("a directory");
    let [wanted, xml] = [&directory, &junit].map(|path| path.to_str().expect("UTF-8"));
    let full = fs::File::options().write(true).open("/dev/full").expect("a full disk");
    let options = ["--warm-up", "0", "--runs", "1", "--models", "select,async", "--report", wanted, "--junit", xml];
    let mut command = program("poetry-race");
    let finished =
        Running::start_as_is(command.args(options).arg(server.port()).stdout(full).stderr(Stdio::piped())).finish();
    assert_eq!(finished.code(), 1);
    assert_eq!(finished.complaint(), format!("poetry-race: cannot write {wanted}/1-001-1-select.json: is a directory"));
    let result = json(&fs::read(directory.join("race.json")).expect("the result"));
    assert_eq!(result["runs"].as_array().map(Vec::len), Some(2));
    let written = ["1-001-2-async.json", "models.csv", "runs.csv"].map(|name| directory.join(name).is_file());
    assert_eq!((written, junit.is_file()), ([true; 3], true));
}

#[test]
fn what_is_named_twice_makes_no_sense() {
    for (options, why) in [
        (["--sweep", "1,10,1"], "--sweep names 1 twice"),
        (["--models", "async,select,async"], "--models names async twice"),
    ] {
        let finished = race(&options, &["1"]);
        assert_eq!((finished.code(), finished.complaint()), (2, format!("poetry-race: {why}").as_str()));
    }
}

#[test]
fn a_sweep_is_a_race_for_each_number_of_poems() {
    let servers = [Server::poem("a poem\n"), Server::poem("another\n")];
    let [one, other] = [servers[0].port(), servers[1].port()];
    let place = tempfile::tempdir().expect("a directory");
    let chart = place.path().join("sweep.svg");
    let directory = place.path().join("results");
    let options = ["--runs", "1", "--models", "blocking,async", "--sweep", "1,5,20"];
    let files_too = ["--chart", chart.to_str().expect("UTF-8"), "--report", directory.to_str().expect("UTF-8")];
    let finished = race(&[&options[..], &files_too, &["--assert", "async < 60m"]].concat(), &[&one, &other]);
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    let told = text(finished);
    let rows: Vec<Vec<&str>> = told.lines().take(7).map(|line| line.split_whitespace().collect()).collect();
    let of = |row: usize| (rows[row][0], rows[row][1]);
    let expected =
        [("blocking", "1"), ("async", "1"), ("blocking", "5"), ("async", "5"), ("blocking", "20"), ("async", "20")];
    assert_eq!([1, 2, 3, 4, 5, 6].map(of), expected, "{told}");
    assert!(told.ends_with("\n\n1 round can show no difference: it takes 3, and ten are better\n"), "{told}");
    let files = files(&directory);
    let result = json(&files["race.json"]);
    assert_eq!(violations("race.schema.json", &result), [""; 0]);
    assert_eq!(
        (result["models"].as_array().map(Vec::len), result["runs"].as_array().map(Vec::len)),
        (Some(6), Some(6))
    );
    assert_eq!(result["assertions"].as_array().map(Vec::len), Some(3), "one for each number");
    let report = json(&files["5-001-1-async.json"]);
    let addresses: Vec<&str> =
        report["tasks"].as_array().expect("tasks").iter().filter_map(|task| task["address"].as_str()).collect();
    let [one, other] = [one, other].map(|port| format!("127.0.0.1:{port}"));
    assert_eq!(addresses, [&one, &one, &one, &other, &other]);
    let picture = fs::read_to_string(chart).expect("a picture");
    roxmltree::Document::parse(&picture).expect("well-formed XML");
    for word in ["processor time", "memory", "bound of blocking", "at 20"] {
        assert!(picture.contains(word), "{word}");
    }
    let finished = race(&["--chart", "x.svg"], &["1"]);
    assert_eq!(finished.code(), 2, "{finished:?}");
}

/// What a program says of a file, if it is installed; it is told on stderr if it is not.
fn asked(program: &str, args: &[&str], file: &Path) -> Option<String> {
    let Ok(output) = Command::new(program).args(args).arg(file).output() else {
        writeln!(io::stderr(), "skipped: there is no {program}").expect("told");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("No module named") {
        writeln!(io::stderr(), "skipped: {program} has no pandas").expect("told");
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn other_programs_read_the_figures_without_a_cleaning_step() {
    let server = Server::poem("a poem\n");
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().to_str().expect("UTF-8");
    let finished = race(&["--runs", "3", "--report", directory], &[&format!("{}*2", server.port())]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let result = json(&files(place.path())["race.json"]);
    let median = result["models"][3]["time_us"].as_u64().expect("a time");

    let query = r#".runs | map(select(.model == "async").time_us) | sort | .[1]"#;
    if let Some(found) = asked("jq", &[query], &place.path().join("race.json")) {
        assert_eq!(found.trim(), median.to_string());
    }
    let script = "
import sys, pandas
runs = pandas.read_csv(sys.argv[1], parse_dates=['started'])
assert runs['counted'].dtype == bool and (runs['cpu_us'] > 0).all(), runs.dtypes
assert str(runs['started'].dtype).startswith('datetime64'), runs.dtypes
print(int(runs.groupby('model')['time_us'].median()['async']))
";
    if let Some(found) = asked("python3", &["-c", script], &place.path().join("runs.csv")) {
        assert_eq!(found.trim(), median.to_string());
    }
}

//! The report, checked against its schema and against what happened.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};

use regex_lite::Regex;
use serde_json::{Value, json};

use crate::harness::{
    CLIENTS, Running, Server, Service, finish, poem_file, program, refusing_port, reset, run, send_whole,
    with_every_client,
};
use crate::schema::violations;

const SCHEMA: &str = "report.schema.json";

fn report<'a>(client: &str, args: impl IntoIterator<Item = &'a str>) -> Value {
    let finished = run(client, ["--json"].into_iter().chain(args));
    assert_eq!(finished.stdout.iter().filter(|&&byte| byte == b'\n').count(), 1, "{finished:?}");
    let report: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(violations(SCHEMA, &report), [""; 0], "{client}");
    report
}

#[test]
fn every_client_keeps_to_the_schema_in_good_and_bad_times() {
    let good = Server::poem("a poem\n");
    let empty = Server::poem("");
    let broken = Server::start(|_, mut stream| {
        let _ = stream.write_all(b"half");
        reset(stream);
    });
    let (_held, refusing) = refusing_port();
    for client in CLIENTS {
        let model = client.strip_prefix("get-poetry-").unwrap_or("async");
        let ports = [good.port(), empty.port(), broken.port(), refusing.clone()];
        let report = report(client, ports.iter().map(String::as_str).chain(["--retries", "1"]));
        assert_eq!(report["model"], model);
        let tasks = report["tasks"].as_array().expect("tasks");
        let statuses: Vec<&str> = tasks.iter().filter_map(|task| task["status"].as_str()).collect();
        assert_eq!(statuses, ["ok", "ok", "reset", "refused"], "{client}");
        for (task, port) in tasks.iter().zip(&ports) {
            assert_eq!(task["address"], format!("127.0.0.1:{port}"));
        }
        assert_eq!(
            (&tasks[0]["bytes"], &tasks[0]["attempts"], &tasks[0]["error"]),
            (&json!(7), &json!(1), &Value::Null)
        );
        assert_eq!((&tasks[1]["bytes"], &tasks[1]["first_byte_us"]), (&json!(0), &Value::Null));
        assert_eq!((&tasks[2]["attempts"], &tasks[3]["attempts"]), (&json!(2), &json!(2)));
        assert_eq!(tasks[3]["connected_us"], Value::Null);
        assert_eq!(report["ok"].as_u64().expect("ok") + report["failed"].as_u64().expect("failed"), 4);
    }
}

#[test]
fn times_are_in_order_and_events_add_up() {
    let server = Server::start(|_, mut stream| {
        stream.set_nodelay(true).expect("nodelay");
        for _ in 0..50 {
            stream.write_all(b"piece ").expect("a client");
        }
        send_whole(stream, b"");
    });
    for client in CLIENTS {
        let report = report(client, [server.port().as_str(), &server.port()]);
        for task in report["tasks"].as_array().expect("tasks") {
            let time = |name: &str| task[name].as_u64().expect(name);
            assert!(time("start_us") <= time("connected_us"));
            assert!(time("connected_us") <= time("first_byte_us"));
            assert!(time("first_byte_us") <= time("end_us"));
            assert!(time("end_us") <= report["elapsed_us"].as_u64().expect("elapsed"));
            let events: Vec<(u64, u64)> = serde_json::from_value(task["events"].clone()).expect("pairs");
            assert_eq!(events.iter().map(|event| event.1).sum::<u64>(), 300, "{client}");
            assert_eq!(events[0].0, time("first_byte_us"));
            assert!(events.is_sorted_by_key(|event| event.0));
        }
        let starts: Vec<u64> =
            report["tasks"].as_array().expect("tasks").iter().filter_map(|t| t["start_us"].as_u64()).collect();
        let end = report["tasks"][0]["end_us"].as_u64().expect("an end");
        assert!(client != "get-poetry-blocking" || starts[1] >= end, "blocking poems do not overlap");
    }
}

#[test]
fn more_than_a_thousand_reads_are_merged() {
    const READS: usize = 1_100;
    for client in CLIENTS {
        // The next byte is sent when the client has said that it got this one: so each has a read of its own.
        let (go_on, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let server = Server::start(move |_, mut stream| {
            stream.set_nodelay(true).expect("nodelay");
            for _ in wait.lock().expect("lock").iter() {
                stream.write_all(b"x").expect("a client");
            }
            send_whole(stream, b"");
        });
        let running = Running::start(program(client).args(["--json", "-v", &server.port()]));
        for _ in 0..READS {
            go_on.send(()).expect("the server");
            running.hear("got 1 byte of poetry");
        }
        drop(go_on);
        let report: Value = serde_json::from_slice(&running.finish().stdout).expect("JSON");
        assert_eq!(violations(SCHEMA, &report), [""; 0], "{client}");
        let events = report["tasks"][0]["events"].as_array().expect("events");
        assert_eq!(events.len(), READS / 2, "{client}");
        assert_eq!(events.iter().filter(|event| event[1] == 2).count(), READS / 2, "{client}");
    }
}

/// A script that resets the first two connections after 25 bytes.
pub(crate) fn resetting(directory: &Path) -> PathBuf {
    let script = directory.join("script.toml");
    fs::write(&script, "[[connection]]\ntimes = 2\nnum-bytes = 10\ncut-at = \"25\"\n").expect("a script");
    script
}

/// A fastpoetry that sends a poem in pieces by this script, whose third client is followed by another first one.
pub(crate) fn trickle(script: &Path) -> Service {
    let mut server = program("fastpoetry");
    server.args(["--cycle", "3", "--delay", "40ms", "--num-bytes", "100", "--script"]).arg(script);
    Service::start(server.arg(poem_file("science.txt")))
}

#[test]
fn every_attempt_is_reported_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = trickle(&resetting(directory.path()));
    let (_held, refusing) = refusing_port();
    for client in CLIENTS {
        let report = report(client, [&server.port(), &refusing, "--retries", "2"]);
        let task = &report["tasks"][0];
        assert_eq!((&task["status"], &task["attempts"], &task["bytes"]), (&json!("ok"), &json!(3), &json!(653)));
        let earlier = task["earlier"].as_array().expect("attempts");
        let numbers: Vec<&Value> = earlier.iter().map(|attempt| &attempt["attempt"]).collect();
        assert_eq!(numbers, [&json!(1), &json!(2)], "{client}");
        let mut last = task["start_us"].as_u64().expect("a start");
        for attempt in earlier {
            assert_eq!((&attempt["status"], &attempt["bytes"]), (&json!("reset"), &json!(25)), "{client}: {attempt}");
            assert_eq!(attempt["events"][0][1], 10);
            for moment in ["start_us", "connected_us", "first_byte_us", "end_us"] {
                let at = attempt[moment].as_u64().expect(moment);
                assert!(at >= last, "{client}: {moment} of {attempt}");
                last = at;
            }
        }
        for moment in ["attempt_us", "connected_us", "first_byte_us", "end_us"] {
            let at = task[moment].as_u64().expect(moment);
            assert!(at >= last, "{client}: {moment} of {task}");
            last = at;
        }
        // The pause: 100 ms, half of that at least.
        let pause = earlier[1]["start_us"].as_u64().expect("a start") - earlier[0]["end_us"].as_u64().expect("an end");
        assert!(pause >= 50_000, "{client}: {pause}");
        let refused = &report["tasks"][1];
        assert_eq!((&refused["attempts"], refused["earlier"].as_array().map(Vec::len)), (&json!(3), Some(2)));
        assert_eq!(
            (&refused["earlier"][1]["status"], &refused["earlier"][1]["connected_us"]),
            (&json!("refused"), &Value::Null)
        );
    }
}

/// Received, reset, a pause, and connected again, twice; and received.
const RETRIED: &str = "receiving for [^,]*, reset after 25 bytes at [^,]*, pausing for [^,]*, attempt 2 at .*\
                       receiving for [^,]*, reset after 25 bytes at [^,]*, pausing for [^,]*, attempt 3 at .*\
                       receiving for [^,]*, and done at ";

#[test]
fn a_retry_is_drawn_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = resetting(directory.path());
    let told = Regex::new(RETRIED).expect("valid");
    with_every_client(|client| {
        let server = trickle(&script);
        let at_once = Service::fast(&poem_file("science.txt"), ["--fail-first", "2", "--cycle", "3"]);
        for option in ["--animate", "--compact"] {
            let picture = directory.path().join(format!("{client}{option}.svg"));
            let mut command = program(client);
            command.args(["--discard", "--retries", "2", "--waterfall", option, "--timeline"]).arg(&picture);
            let finished = finish(command.env("LC_ALL", "C.UTF-8").args([server.port(), at_once.port()]));
            assert_eq!(finished.code(), 0, "{finished:?}");
            let (text, svg) = (&finished.stderr, fs::read_to_string(&picture).expect("a picture"));
            for word in ["connecting", "receiving", "pausing"] {
                assert!(text.contains(&format!(" {word}")) && svg.contains(&format!("\n{word}\n")), "{client}: {text}");
            }
            assert!(text.contains("× attempt failed") && !text.contains("not arrived"), "{client}: {text}");
            if option != "--compact" {
                let lane = text.lines().find(|line| line.starts_with("1  ")).expect("a lane");
                let signs: Vec<char> = lane.chars().filter(|sign| "█×▁".contains(*sign)).collect();
                let runs: String = signs.chunk_by(|one, next| one == next).map(|run| run[0]).collect();
                assert_eq!(runs, "█×▁█×▁█", "{client}: {lane}");
            }
            let classes = svg.split("class=\"").skip(1).filter_map(|part| part.split('"').next());
            let lane: Vec<&str> =
                classes.filter(|class| ["connecting", "receiving", "pausing", "end", "done"].contains(class)).collect();
            let attempt = ["connecting", "receiving", "pausing"];
            let expected = [&attempt[..], &attempt, &attempt[..2], &["end", "end", "done"]].concat();
            assert_eq!(lane[..expected.len()], expected, "{client}");
            assert!(
                svg.lines().any(|line| line.starts_with("Poem 1, from ") && told.is_match(line)),
                "{client}: {svg}"
            );
        }
    });
}

#[test]
fn the_log_says_when_for_people_and_for_programs() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = resetting(directory.path());
    with_every_client(|client| {
        let server = trickle(&script);
        let spoken = run(client, ["-v", "--discard", "--retries", "2", &server.port()]);
        for line in [format!("Task 1: connected to 127.0.0.1:{}", server.port()), "Task 1: attempt 3".to_owned()] {
            assert!(spoken.has_timed_line(&line), "{client}: {line}: {spoken:?}");
        }
        let logged = run(client, ["-v", "--log-format", "json", "--discard", "--retries", "2", &server.port()]);
        let lines = logged.stderr.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let times: Vec<u64> = lines.filter_map(|line| line["fields"]["at_us"].as_u64()).collect();
        // The start, three connections, two attempts that fail, two that follow, the poem and its end, at least.
        assert!(times.len() >= 10 && times.is_sorted() && times.last() > Some(&100_000), "{client}: {times:?}");
        assert!(!logged.stderr.contains(", at "), "the field has it: {logged:?}");
    });
}

#[test]
fn the_model_shows_in_the_calls() {
    let server = Server::poem("a poem\n");
    for client in CLIENTS {
        let calls = report(client, [server.port().as_str()])["calls"].clone();
        let count = |name: &str| calls[name].as_u64().expect(name);
        assert!(count("reads") >= 2, "{client}: a poem and its end: {calls}");
        assert!(count("wakeups") >= 2, "{client}: {calls}");
        let waits_in_reads = ["get-poetry-blocking", "get-poetry-threads"].contains(&client);
        assert_eq!(count("waits") == 0, waits_in_reads, "{client}: {calls}");
    }
}

#[test]
fn the_validator_sees_what_is_wrong() {
    let server = Server::poem("a poem\n");
    let good = report("get-poetry", [server.port().as_str()]);
    type Spoil = fn(&mut Value);
    let spoilers: [Spoil; 9] = [
        |report| report["schema"] = json!(1),
        |report| report["model"] = json!("two words"),
        |report| report["started"] = json!("yesterday"),
        |report| report["elapsed_us"] = json!(-1),
        |report| report["tasks"] = json!([]),
        |report| report["tasks"][0]["status"] = json!("fine"),
        |report| report["tasks"][0]["events"] = json!([[1]]),
        |report| report["surprise"] = json!(true),
        |report| drop(report.as_object_mut().expect("an object").remove("calls")),
    ];
    for spoil in spoilers {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(violations(SCHEMA, &bad).len(), 1, "{bad}");
    }
}

#[test]
fn names_are_labels_and_messages_keep_the_address() {
    let server = Server::poem("a poem\n");
    let directory = tempfile::tempdir().expect("a directory");
    let port = server.port();
    for client in CLIENTS {
        let report = report(client, [format!("John Donne={port}").as_str(), &port, &format!("詩={port}")]);
        let names: Vec<Option<&str>> =
            report["tasks"].as_array().expect("tasks").iter().map(|task| task["name"].as_str()).collect();
        assert_eq!(names, [Some("John Donne"), None, Some("詩")], "{client}");
        assert!(report["tasks"][1].get("name").is_none(), "schema 1 of old: {report}");

        let picture = directory.path().join(format!("{client}.svg"));
        let mut command = program(client);
        command.args(["--waterfall", "--output"]).arg(directory.path()).arg("--timeline").arg(&picture);
        let finished = finish(command.arg(format!("donne={port}")));
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert!(finished.stderr.contains(&format!("Task 1: get poetry from: 127.0.0.1:{port}")), "{finished:?}");
        assert!(finished.stderr.lines().any(|line| line.starts_with("1  donne  ")), "{finished:?}");
        assert!(fs::read_to_string(&picture).expect("a picture").contains("\n1  donne\n"));
        assert!(directory.path().join(format!("1-127.0.0.1-{port}.txt")).exists(), "named after where it is from");
    }
    let finished = run("poetry-race", ["--runs", "1", "--json", "--models", "async", &format!("donne={port}"), &port]);
    let result: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!(violations("race.schema.json", &result), [""; 0]);
    assert_eq!(result["names"], json!(["donne", null]));
    let mut race = program("poetry-race");
    race.args(["--runs", "1", "--warm-up", "0", "--waterfall", "--models", "blocking", &format!("詩={port}")]);
    let drawn = finish(race.arg(format!("donne={port}"))).stderr;
    assert!(drawn.contains("\n1  詩     ") && drawn.contains("\n2  donne  "), "{drawn}");
}

/// The colours of an SVG as rsvg-convert paints it, `None` where that is not installed.
fn colours(svg: &[u8]) -> Option<BTreeSet<[u8; 3]>> {
    let mut command = Command::new("rsvg-convert");
    let mut renderer = match command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            writeln!(io::stderr(), "skipped: rsvg-convert is not installed").expect("told");
            return None;
        }
        started => started.expect("rsvg-convert"),
    };
    renderer.stdin.take().expect("a pipe").write_all(svg).expect("it reads all");
    let rendered = renderer.wait_with_output().expect("a picture");
    assert!(rendered.status.success());
    let mut decoder = png::Decoder::new(Cursor::new(rendered.stdout));
    decoder.set_transformations(png::Transformations::normalize_to_color8() | png::Transformations::ALPHA);
    let mut reader = decoder.read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a small picture")];
    reader.next_frame(&mut pixels).expect("pixels");
    assert!(pixels.chunks_exact(4).all(|pixel| pixel[3] == 255), "the page is opaque");
    Some(pixels.chunks_exact(4).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect())
}

/// The page, a block of what is received, and text: inks that every picture of a good run has.
const INKS: [[u8; 3]; 3] = [[0xff, 0xff, 0xff], [0x21, 0x8b, 0xff], [0x1f, 0x23, 0x28]];

#[test]
fn a_program_that_knows_no_style_sheets_shows_every_colour() {
    let server = Server::poem("a poem\n");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("race.svg");
    let picture = |options: &[&str]| {
        let mut race = program("poetry-race");
        race.args(["--runs", "1", "--warm-up", "0", "--models", "blocking,async", "--timeline"]).arg(&path);
        assert_eq!(finish(race.args(options).args(vec![server.port(); 40])).code(), 0);
        fs::read(&path).expect("a picture")
    };
    let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/race.svg");
    for svg in
        [picture(&[]), picture(&["--compact"]), picture(&["--animate"]), fs::read(documented).expect("a picture")]
    {
        let text = String::from_utf8_lossy(&svg);
        assert!(!text.contains("var(") && !text.contains("<script"));
        let Some(colours) = colours(&svg) else { return };
        assert!(colours.len() > 10, "{colours:?}");
        for ink in INKS {
            assert!(colours.contains(&ink), "{ink:?} is not among {}", colours.len());
        }
    }
}

#[test]
fn a_picture_that_moves_is_the_same_one_where_nothing_moves() {
    let server = Server::poem("a poem\n");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("moving.svg");
    for client in CLIENTS {
        let mut command = program(client);
        let finished =
            finish(command.args(["-q", "--discard", "--animate", "--timeline"]).arg(&path).arg(server.port()));
        assert_eq!(finished.code(), 0, "{finished:?}");
        let moving = fs::read_to_string(&path).expect("a picture");
        // Without its style sheet it is what a program shows that knows no animation.
        let (before, rest) = moving.split_once("<style>").expect("a style");
        let still = [before, rest.split_once("</style>").expect("its end").1].concat();
        let [Some(moving), Some(still)] = [&moving, &still].map(|svg| colours(svg.as_bytes())) else { return };
        assert_eq!(moving, still);
    }
}

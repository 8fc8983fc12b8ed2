//! poetry-draw: reports and recordings as pictures.

mod browser;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{CLIENTS, Finished, Server, Service, finish, poem_file, program, run, send_whole};
use crate::report::{resetting, trickle};
use crate::schema::violations;

/// A report of schema 1, as it was written before there were attempts in it.
const OLD: &str = r#"{"schema":1,"model":"select","started":"2026-11-21T09:00:00.000000Z","elapsed_us":3000000,"bound_us":null,"ok":1,"failed":0,"calls":{"reads":2,"waits":2,"wakeups":2},"tasks":[{"task":1,"address":"127.0.0.1:10000","status":"ok","error":null,"limit":null,"bytes":30,"attempts":2,"start_us":0,"connected_us":1000000,"first_byte_us":2000000,"whole_us":3000000,"end_us":3000000,"events":[[2000000,10],[3000000,20]],"transform":null}]}"#;

fn draw(args: &[&str]) -> Finished {
    run("poetry-draw", args)
}

fn name(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn written(directory: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).expect("written");
    path
}

/// The report of a run of this client: a poem, and one that is reset twice after 25 bytes and comes then.
fn report(client: &str, directory: &Path) -> PathBuf {
    let (good, bad) = (Server::poem("a poem\n"), trickle(&resetting(directory)));
    let (good, bad) = (format!("good={}", good.port()), format!("bad={}", bad.port()));
    let finished = run(client, ["--json", "--retries", "2", &good, &bad]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    written(directory, &format!("{client}.json"), finished.stdout)
}

/// The data that a page has with it.
fn data_of(page: &str) -> Value {
    let rest = page.split_once("type=\"application/json\">").expect("data").1;
    serde_json::from_str(rest.split_once("</script>").expect("an end").0).expect("JSON")
}

#[test]
fn reports_of_all_clients_are_drawn_below_each_other_in_every_form() {
    let directory = tempfile::tempdir().expect("a directory");
    let reports = CLIENTS.map(|client| report(client, directory.path()));
    let files: Vec<&str> = reports.iter().map(|path| name(path)).collect();
    let text = draw(&files);
    assert_eq!((text.code(), text.stderr.as_str()), (0, ""), "{text:?}");
    let text = String::from_utf8(text.stdout).expect("text");
    let models: Vec<&str> =
        text.lines().filter(|line| line.contains("Got ")).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(models, ["blocking", "threads", "select", "async"], "{text}");
    assert_eq!(text.matches("  good  ").count(), 4, "{text}");
    assert!(text.contains("attempt failed") && text.lines().all(|line| line.chars().count() <= 80), "{text}");

    let svg = draw(&[&["--svg"], &files[..]].concat()).stdout;
    let svg = String::from_utf8(svg).expect("text");
    roxmltree::Document::parse(&svg).expect("well-formed XML");
    assert_eq!(svg.matches("reset after 25 bytes at").count(), 2 * 2 * 4, "described, and for who points at it: {svg}");

    let page = directory.path().join("all.html");
    let made = draw(&[&["-o", name(&page)], &files[..]].concat());
    assert_eq!((made.code(), &made.stdout[..], made.stderr.as_str()), (0, &b""[..], ""));
    let data = data_of(&fs::read_to_string(&page).expect("a page"));
    let inside = data["runs"].as_array().expect("runs");
    assert_eq!(inside.len(), 4);
    for (run, path) in inside.iter().zip(&reports) {
        assert_eq!(violations("report.schema.json", &run["report"]), [""; 0]);
        let report: Value = serde_json::from_slice(&fs::read(path).expect("a report")).expect("JSON");
        assert_eq!(run["report"], report);
    }
}

#[test]
fn stdin_is_a_file_too_and_the_ending_of_a_name_says_the_form() {
    let directory = tempfile::tempdir().expect("a directory");
    let old = written(directory.path(), "old.json", OLD);
    let from_file = draw(&[name(&old)]);
    let from_stdin = finish(program("poetry-draw").arg("-").stdin(File::open(&old).expect("a report")));
    assert_eq!(from_file.stdout, from_stdin.stdout);
    // What schema 1 knows, and no more: the last attempt.
    let text = String::from_utf8(from_file.stdout).expect("text");
    assert!(text.starts_with("select  Got 1 poem in 3.00 s\n") && text.contains("3.00 s, 2 attempts"), "{text}");
    assert!(!text.contains("pausing"), "{text}");
    for (file, begins) in [("a.svg", "<svg"), ("a.HTML", "<!DOCTYPE html>"), ("a.txt", "select  Got 1 poem")] {
        let output = directory.path().join(file);
        assert_eq!(draw(&["-o", name(&output), name(&old)]).code(), 0);
        assert!(fs::read_to_string(&output).expect("a picture").starts_with(begins), "{file}");
    }
    for (flag, begins) in [("--svg", "<svg"), ("--html", "<!DOCTYPE html>")] {
        assert!(draw(&[flag, name(&old)]).stdout.starts_with(begins.as_bytes()), "{flag}");
    }
    let moving = draw(&["--svg", "--animate", "--compact", name(&old)]).stdout;
    assert!(String::from_utf8(moving).expect("text").contains("@keyframes"));
}

#[test]
fn a_recording_draws_any_client() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sent.jsonl");
    let server = Service::fast(
        &poem_file("science.txt"),
        ["--fail-first", "1", "--record", name(&path), "--delay", "5ms", "--num-bytes", "100"],
    );
    // None of ours.
    assert!(server.fetch().is_err());
    assert_eq!(server.fetch().expect("a poem").len(), 653);
    let report = run("get-poetry", ["--json", &format!("science={}", server.port())]);
    let report = written(directory.path(), "report.json", report.stdout);
    assert_eq!(server.stop().code(), 0);
    let text = String::from_utf8(draw(&[name(&path)]).stdout).expect("text");
    assert!(text.starts_with("server  Served 2 of 3 connections in "), "{text}");
    let lanes: Vec<&str> = text.lines().filter(|line| line.contains("  127.0.0.1:")).collect();
    assert!(lanes.len() == 3 && lanes[0].ends_with("  reset") && lanes[1].ends_with("ms"), "{text}");
    // By the clock, the client's poem is where the third connection is.
    let clock =
        String::from_utf8(draw(&["--wall-clock", "--html", name(&path), name(&report)]).stdout).expect("a page");
    let panels = &data_of(&clock)["chart"]["panels"];
    let sent = panels[0]["lanes"][2]["end"][1].as_i64().expect("a time");
    let got = panels[1]["lanes"][0]["end"][1].as_i64().expect("a time");
    assert!(
        (got - sent).abs() < 1_000_000 && got > panels[0]["lanes"][1]["end"][1].as_i64().expect("a time"),
        "{panels}"
    );
    let rehearsed = run("fastpoetry", ["--rehearse", "2", "--delay", "1s", name(&poem_file("science.txt"))]);
    let rehearsed = written(directory.path(), "plan.jsonl", rehearsed.stdout);
    assert!(String::from_utf8(draw(&[name(&rehearsed)]).stdout).expect("text").contains("  anybody  "));
    let refused = draw(&["--wall-clock", name(&rehearsed)]);
    assert_eq!(refused.complaint(), "poetry-draw: server has no time of day, which --wall-clock needs");
    assert!(clock.contains("aria-label=\"Connection 3, of 127.0.0.1:"));
}

#[test]
fn a_broken_file_is_told_and_the_good_ones_are_drawn() {
    let directory = tempfile::tempdir().expect("a directory");
    let good = written(directory.path(), "good.json", OLD);
    let half = written(directory.path(), "half.json", &OLD[..OLD.len() / 2]);
    let poem = poem_file("science.txt");
    for bad in [&half, &poem, &directory.path().join("nothing"), &directory.path().to_owned()] {
        let both = draw(&[name(bad), name(&good)]);
        assert_eq!(both.code(), 1, "{both:?}");
        assert!(both.complaint().contains(name(bad)), "{both:?}");
        assert!(both.stdout.starts_with(b"select (") && both.stdout.ends_with(b"\n"), "{both:?}");
        let alone = draw(&["--html", name(bad)]);
        assert_eq!((alone.code(), &alone.stdout[..], alone.complaint()), (1, &b""[..], both.complaint()));
    }
    assert!(draw(&[name(&poem)]).complaint().ends_with(": neither a report of a client nor a recording of a server"));
}

#[test]
fn what_is_too_much_is_refused_and_what_is_much_is_folded() {
    let directory = tempfile::tempdir().expect("a directory");
    let huge = directory.path().join("huge.json");
    File::create(&huge).and_then(|file| file.set_len(1 << 30)).expect("a hole");
    assert!(draw(&[name(&huge)]).complaint().ends_with("huge.json is longer than 64 MiB"));
    assert!(draw(&["/dev/zero"]).complaint().ends_with("/dev/zero is longer than 64 MiB"));

    let many = written(directory.path(), "many.json", (OLD.to_owned() + "\n").repeat(1_001));
    assert!(draw(&[name(&many)]).complaint().ends_with("1001 runs are more than a picture can have, which is 1000"));

    let mut report: Value = serde_json::from_str(OLD).expect("JSON");
    let task = report["tasks"][0].take();
    report["tasks"] = (1..=50_000)
        .map(|number| {
            let mut task = task.clone();
            task["task"] = json!(number);
            task
        })
        .collect();
    let lanes = written(directory.path(), "lanes.json", report.to_string());
    let text = draw(&[name(&lanes)]);
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("more: ") && text.lines().count() < 70, "{text}");
    for (form, most) in [("--svg", 1_000_000), ("--html", 40_000_000)] {
        let picture = draw(&[form, name(&lanes)]);
        assert!(picture.code() == 0 && picture.stdout.len() < most, "{form}: {}", picture.stdout.len());
    }
}

#[test]
fn hostile_names_stay_text() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut report: Value = serde_json::from_str(OLD).expect("JSON");
    let name_of = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u{1b}[2J\u{202e}\u{1}";
    report["tasks"][0]["name"] = json!(name_of);
    report["model"] = json!("\u{1b}]0;owned\u{7}<b>");
    let path = written(directory.path(), "a.json", report.to_string());
    let text = String::from_utf8(draw(&[name(&path)]).stdout).expect("text");
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{202e}') && text.starts_with(r"\x1b]0;owned\x07<b>"),
        "{text}"
    );
    let svg = String::from_utf8(draw(&["--svg", name(&path)]).stdout).expect("text");
    roxmltree::Document::parse(&svg).expect("well-formed XML");
    let page = String::from_utf8(draw(&["--html", name(&path)]).stdout).expect("text");
    assert_eq!((page.matches("<script").count(), page.matches("<img").count(), page.matches("<b>").count()), (2, 0, 0));
}

//! charfinder and its servers as their users meet them.

mod browser;
mod lines;
mod pages;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Finished, Running, finish, follow, program, run};

/// What charfinder says to these words.
fn find(args: &[&str]) -> Finished {
    run("charfinder", args)
}

fn stdout(finished: &Finished) -> &str {
    str::from_utf8(&finished.stdout).expect("UTF-8")
}

#[test]
fn what_is_found_is_on_stdout_and_how_much_on_stderr() {
    let found = find(&["Black", "rook", "kni*"]);
    assert_eq!((found.code(), stdout(&found)), (0, "U+1FA52\t🩒\tBLACK CHESS KNIGHT-ROOK\n"));
    assert_eq!(found.stderr, "(1 match for 'Black rook kni*')\n");
    let found = find(&["sun"]);
    assert_eq!((found.stdout.split(|&byte| byte == b'\n').count(), &*found.stderr), (18, "(17 matches for 'sun')\n"));
    assert!(stdout(&found).contains("\nU+C21C \t순\tHANGUL SYLLABLE SUN\n"));
    let none = find(&["jabberwocky's vest"]);
    assert_eq!((none.code(), stdout(&none)), (1, ""));
    assert_eq!(none.stderr, "(No match for \"jabberwocky's vest\")\n");
    let quiet = find(&["-q", "--start", "1", "--limit", "2", "cat", "face"]);
    assert_eq!(stdout(&quiet).lines().map(|line| &line[..7]).collect::<Vec<_>>(), ["U+1F638", "U+1F639"]);
    assert_eq!((quiet.code(), &*quiet.stderr), (0, ""));
    let beyond = find(&["--start", "10", "cat", "face"]);
    assert_eq!((beyond.code(), stdout(&beyond), &*beyond.stderr), (0, "", "(10 matches for 'cat face')\n"));
}

#[test]
fn an_answer_has_other_forms() {
    let json: Value = serde_json::from_slice(&find(&["--json", "--limit", "1", "cjk"]).stdout).expect("JSON");
    assert_eq!((&json["query"], &json["total"], &json["start"]), (&"cjk".into(), &103_203.into(), &0.into()));
    assert_eq!(json["items"], serde_json::json!([{ "code": "U+2E80", "char": "⺀", "name": "CJK RADICAL REPEAT" }]));
    for (word, count, code) in [("cjk", "103203\n", 0), ("jabberwocky", "0\n", 1)] {
        let counted = find(&["--count", word]);
        assert_eq!((stdout(&counted), counted.code(), &*counted.stderr), (count, code, ""));
    }
    let words = find(&["--words", "3"]);
    assert_eq!(stdout(&words), "109316 IDEOGRAPH\n103203 CJK\n102036 UNIFIED\n");
    assert_eq!(stdout(&find(&["--words"])).lines().count(), 10);
    assert!(stdout(&find(&["--words", "0"])).lines().count() > 17_000);
}

#[test]
fn nothing_happens_to_a_terminal_unless_that_is_asked_for() {
    let query = ["U+1B", "U+202E", "U+200B", "U+FEFF", "U+2028", "U+301", "\u{9b}"];
    let safe = find(&query);
    let is_harmless =
        |c: char| !c.is_control() && !"\u{202e}\u{200b}\u{feff}\u{2028}".contains(c) || "\t\n".contains(c);
    assert!(stdout(&safe).chars().all(is_harmless), "{safe:?}");
    assert!(stdout(&safe).contains("\t\u{25cc}\u{301}\t"));
    assert_eq!(safe.stderr, "(7 matches for 'U+1B U+202E U+200B U+FEFF U+2028 U+301 \\x9b')\n");
    let raw = find(&[&["--raw"], &query[..]].concat());
    for dangerous in ["\t\u{1b}\t", "\t\u{202e}\t", "\t\u{200b}\t", "\t\u{feff}\t", "\t\u{2028}\t", "\t\u{301}\t"] {
        assert!(stdout(&raw).contains(dangerous), "{dangerous:?}");
    }
}

#[test]
fn words_have_to_be_utf_8() {
    let finished = finish(program("charfinder").arg(OsStr::from_bytes(b"caf\xe9")));
    assert_eq!(
        (finished.code(), finished.complaint()),
        (2, "charfinder: invalid UTF-8 was detected in one or more arguments; see --help")
    );
}

#[test]
fn a_reader_that_has_read_enough_is_a_quiet_end() {
    let mut child = program("charfinder")
        .args(["-q", "cjk"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "U+2E80 \t⺀\tCJK RADICAL REPEAT\n");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!((ended.status.code(), &*String::from_utf8_lossy(&ended.stderr)), (Some(0), ""));
}

#[test]
fn a_full_disk_is_told() {
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let finished = Running::start_as_is(program("charfinder").arg("cjk").stdout(full).stderr(Stdio::piped())).finish();
    assert_eq!(
        (finished.code(), finished.complaint()),
        (1, "charfinder: cannot write stdout: no space left on device")
    );
}

#[test]
fn the_page_about_characters_shows_what_there_is_to_see() {
    follow("charfinder.md", 8);
}

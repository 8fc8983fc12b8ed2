//! What every program says about itself, word for word: a change of an option is a decision, and shows here.
//!
//! After one, `UPDATE_HELP=1 cargo test help::` writes the pages in `tests/it/help` anew.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use poetry_suite::programs;

use crate::harness::{CLIENTS, finish, program};

/// Every program that there is.
fn programs() -> Vec<String> {
    programs::commands().iter().map(|command| command.get_name().to_owned()).collect()
}

/// What a program says of itself, 100 columns wide, without the spaces that nobody sees.
fn said(name: &str, flag: &str) -> String {
    let said = finish(program(name).env("COLUMNS", "100").arg(flag));
    assert_eq!((said.code(), said.stderr.as_str()), (0, ""), "{name} {flag}");
    let text = String::from_utf8(said.stdout).expect("UTF-8");
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn pages(name: &str) -> String {
    ["-h", "--help"].map(|flag| format!("$ {name} {flag}\n{}", said(name, flag))).join("\n")
}

/// The lines that are not the same, between the first and the last difference.
fn difference(old: &str, new: &str) -> String {
    let (mut old, mut new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    (old, new) = (old.split_off(same), new.split_off(same));
    while old.last().is_some_and(|line| new.last() == Some(line)) {
        old.pop();
        new.pop();
    }
    let mut text = format!("from line {}:\n", same + 1);
    for (sign, lines) in [('-', old), ('+', new)] {
        for line in lines {
            writeln!(text, "{sign} {line}").expect("a string takes everything");
        }
    }
    text
}

#[test]
fn the_difference_of_two_pages_is_what_changed() {
    assert_eq!(difference("a\nb\nc\nd\n", "a\nx\nc\nd\n"), "from line 2:\n- b\n+ x\n");
    assert_eq!(difference("a\nb\n", "a\nb\nb\n"), "from line 3:\n+ b\n");
}

#[test]
fn every_program_says_what_was_agreed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/help");
    let mut differences = String::new();
    // What the clients say is in one file.
    for name in programs().iter().filter(|name| *name == "get-poetry" || !CLIENTS.contains(&name.as_str())) {
        let path = directory.join(format!("{name}.txt"));
        let says = pages(name);
        if env::var_os("UPDATE_HELP").is_some() {
            fs::write(&path, says).expect("written");
            continue;
        }
        let agreed = fs::read_to_string(&path).unwrap_or_default();
        if says != agreed {
            differences += &format!("{name}.txt, {}", difference(&agreed, &says));
        }
    }
    assert!(differences.is_empty(), "\n{differences}To accept this: UPDATE_HELP=1 cargo test help::\n");
}

#[test]
fn the_clients_say_the_same() {
    for name in CLIENTS {
        for flag in ["-h", "--help"] {
            let usage = |name: &str| format!("Usage: {name} [");
            assert_eq!(said(name, flag).replace(&usage(name), &usage("get-poetry")), said("get-poetry", flag));
        }
    }
}

#[test]
fn a_summary_is_short_and_an_explanation_complete() {
    for name in programs() {
        let (short, long) = (said(&name, "-h"), said(&name, "--help"));
        let (lines, of) = (short.lines().count(), long.lines().count());
        assert!(lines < 66 && 2 * lines < of && !short.contains("Examples:"), "{name} -h: {short}");
        let sections: Vec<&str> = long.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
        assert!(sections.contains(&"Examples:") && sections.ends_with(&["Exit status:"]), "{name}: {sections:?}");
        let statuses = long.split("Exit status:\n").nth(1).expect("a section");
        for status in ["  0  ", "  1  ", "  2  "] {
            assert!(statuses.lines().any(|line| line.starts_with(status)), "{name}: no {status} in {statuses}");
        }
    }
}

#[test]
fn every_program_names_itself_and_its_version() {
    for name in programs() {
        assert_eq!(said(&name, "--version"), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn no_program_is_without_a_manual() {
    let sources = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin")).expect("a directory");
    let name = |path: &Path| path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
    let mut built: Vec<String> = sources.map(|entry| name(&entry.expect("an entry").path())).collect();
    let mut described = programs();
    built.sort();
    described.sort();
    assert_eq!(built, described, "programs in src/bin, and those of programs::commands");
}

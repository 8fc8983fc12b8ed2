//! A file of services.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use regex_lite::Regex;

use super::{PROGRAMS, Place, example, own_interface, poem, poetryd, refused};
use crate::harness::{Finished, Service, fetch, finish, refusing_port, run};

#[test]
fn every_option_is_a_key_of_the_example_and_every_key_an_option() {
    const NO_KEYS: [&str; 13] = [
        "help",
        "version",
        "config",
        "check",
        "daemon",
        "expect",
        "list",
        "rehearse",
        "init",
        "prove",
        "assert",
        "url",
        "waterfall",
    ];
    // Of the process, not of a service in it.
    const PROCESS: [&str; 7] = ["verbose", "quiet", "log-format", "ready-fd", "port-file", "monitor", "monitor-as"];
    let option = Regex::new(r"(?m)^ +(?:(?:-\w, )?--([a-z-]+)|<([A-Z]+)>|\[(UPSTREAM|SOURCE)\])").expect("a pattern");
    let mut options = BTreeMap::new();
    for name in [&["poetryd"], &PROGRAMS[..]].concat() {
        let help = String::from_utf8(run(name, ["--help"]).stdout).expect("UTF-8");
        let (help, _) = help.split_once("Durations are").expect("a rest");
        let found = option.captures_iter(help).filter_map(|found| found.get(1).or(found.get(2)).or(found.get(3)));
        let mut names: BTreeSet<String> = found.map(|found| found.as_str().to_lowercase()).collect();
        assert!(PROCESS.iter().all(|flag| names.contains(*flag)), "{names:?}");
        names.retain(|flag| !NO_KEYS.contains(&flag.as_str()));
        names.retain(|flag| name == "poetryd" || !PROCESS.contains(&flag.as_str()));
        options.insert(name, names);
    }

    let example = fs::read_to_string(example()).expect("readable");
    let key = Regex::new("^(?:# )?([a-z-]+) = ").expect("a pattern");
    let mut keys: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut table = "poetryd";
    for line in example.lines() {
        if let Some((name, _)) = line.trim_start_matches("# ").strip_prefix("[[").and_then(|line| line.split_once("]]"))
        {
            table = name;
        } else if let Some(found) = key.captures(line) {
            keys.entry(table).or_default().insert(found[1].to_owned());
        } else if let Some(names) = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" as above")) {
            let names = names.replace(" and ", ", ");
            keys.entry(table).or_default().extend(names.split(", ").map(str::to_owned));
        }
    }
    assert_eq!(keys, options);
}

#[test]
fn the_example_makes_sense_and_so_does_each_line_that_is_commented_out() {
    let check = |file: &Path| {
        let finished = finish(poetryd(&["--check", "--config"]).arg(file));
        assert_eq!((finished.code(), finished.stdout, finished.stderr), (0, vec![], String::new()), "{file:?}");
    };
    check(&example());
    // Those that are not on every machine.
    let elsewhere = ["user", "group", "replay", "speed"];
    let place = Place::new();
    for script in ["faults.toml", "outage.toml", "anthology.toml"] {
        fs::copy(example().with_file_name(script), place.path(script)).expect("copied");
    }
    let root = env!("CARGO_MANIFEST_DIR");
    let example = fs::read_to_string(example()).expect("readable").replace("\"../", &format!("\"{root}/"));
    let lines: Vec<&str> = example.lines().collect();
    let key = Regex::new("^# ([a-z-]+) = ").expect("a pattern");
    let (mut tried, mut table) = (0, 0);
    for (number, line) in lines.iter().enumerate() {
        if line.contains("[[") {
            table = number;
        }
        let Some(name) = key.captures(line).and_then(|found| found.get(1)).map(|found| found.as_str()) else {
            continue;
        };
        if elsewhere.contains(&name) {
            continue;
        }
        let needed: &[&str] = match name {
            "cut" => &["# cut-at"],
            "framing" => &["# http"],
            "error-status" | "rewrite-host" => &["# protocol"],
            "compact" | "animate" => &["# timeline"],
            "jitter" => &["# rate"],
            "monitor-as" => &["# monitor "],
            "transform" => &["# via"],
            "via" => &["# transform"],
            "seed" => &["# rate", "# jitter"],
            "stale-while-revalidate" | "stale-if-error" | "retry-after" => &["# ttl"],
            _ => &[],
        };
        let uncomment = |(at, line): (usize, &&str)| {
            // A service that is commented out is that as a whole.
            let is_needed = at == number
                || needed.iter().any(|needed| line.starts_with(needed))
                || at == table && line.starts_with("# [[")
                || lines[table].starts_with("# [[poetry-library") && line.starts_with("# database");
            if is_needed { line[2..].to_owned() } else { (*line).to_owned() }
        };
        let lines: Vec<String> = lines.iter().enumerate().map(uncomment).collect();
        let path = place.path(&format!("{name}.toml"));
        fs::write(&path, lines.join("\n")).expect("written");
        check(&path);
        tried += 1;
    }
    assert!(tried > 30, "{tried} lines");
}

#[test]
fn a_program_has_the_same_options_under_poetryd() {
    for name in PROGRAMS {
        let help = |finished: Finished| {
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
            String::from_utf8(finished.stdout).expect("UTF-8")
        };
        let alone = help(run(name, ["--help"]));
        let usage = format!("Usage: {name} ");
        assert!(alone.contains(&usage), "{alone}");
        assert_eq!(help(run("poetryd", [name, "--help"])), alone.replace(&usage, &format!("Usage: poetryd {name} ")));
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let place = Place::new();
    let file = place.word("poetry.toml");
    let (poem, none) = (poem(), place.word("none.txt"));
    place.write("script.toml", "[[connection]]\nfial = true\n");
    let fast = format!("[[fastpoetry]]\nfile = \"{poem}\"\n");
    for (text, code, complaint) in [
        ("\nlog-kepe = 5\n".to_owned(), 2, "2: unknown key 'log-kepe' (a similar one is 'log-keep'); known are "),
        (format!("{fast}delya = 5\n"), 2, "3: unknown key 'delya' (a similar one is 'delay'); known are backlog, "),
        ("[[slowpoetry]]\n".to_owned(), 2, "1: slowpoetry serves one client at a time, and runs alone"),
        ("log-keep = \"five\"\n".to_owned(), 2, "1: invalid value 'five' for 'log-keep': it must be a whole number"),
        (format!("{fast}port = true\n"), 2, "3: port: it must be a string or a number, but its type is boolean"),
        (format!("{fast}never-accept = 1\n"), 2, "3: never-accept: it must be true or false, but its type is integer"),
        ("[fastpoetry]\n".to_owned(), 2, "1: 'fastpoetry' is not a list of tables: write [[fastpoetry]]"),
        ("\n[[fastpoetry]]\nport = 1\n".to_owned(), 2, "2: file is missing"),
        (
            format!("{fast}port = 7\n[[transformedpoetry]]\nport = 7\n"),
            2,
            "5: port: 7 is that of the service in line 1, too",
        ),
        (
            format!("{fast}port = 7\n[[transformedpoetry]]\niface = '127.0.0.1'\nport = 7\n"),
            2,
            "6: port: 7 is that of the service in line 1, too",
        ),
        (
            format!("{fast}port = 7\niface = '::'\n[[poetry-proxy]]\nupstream = 1\nport = 7\niface = '[::1]'\n"),
            2,
            "7: port: 7 is that of the service in line 1, too",
        ),
        (format!("metrics = '0.0.0.0:7'\n{fast}port = 7\n"), 2, "1: metrics: 7 is that of the service in line 2, too"),
        (
            "[[fastpoetry]]\nfile = \"none.txt\"\n".to_owned(),
            1,
            &format!("2: file: cannot serve {none}: no such file or directory"),
        ),
        (
            format!("{fast}script = \"script.toml\"\n"),
            2,
            &format!(
                "3: script: {}:2: unknown key 'fial' (a similar one is 'fail'); known are ",
                place.word("script.toml")
            ),
        ),
        (
            format!("{fast}script = \"none.txt\"\n"),
            1,
            &format!("3: script: cannot read {none}: no such file or directory"),
        ),
        (
            "verbose = 1\n".to_owned(),
            2,
            "1: there is no service: write [[fastpoetry]], [[transformedpoetry]], [[poetry-proxy]], [[poetry-chaos]], [[poetry-broker]], [[tcp-charfinder]], [[http-charfinder]], [[poetry-monitor]], [[poetry-library]] or [[poetry-anthology]]",
        ),
        ("[[fastpoetry]\n".to_owned(), 2, "1: "),
        (
            format!("\nuser = 'no-such-user'\n{fast}"),
            1,
            "2: cannot become another user: there is no user named 'no-such-user'",
        ),
        ("[[transformedpoetry]]\nlist = true\n".to_owned(), 2, "2: unknown key 'list'; known are "),
        (format!("{fast}rehearse = 1\n"), 2, "3: unknown key 'rehearse'; known are "),
    ] {
        place.write("poetry.toml", &text);
        for options in [&["--check"][..], &["--daemon"], &[]] {
            let finished = finish(poetryd(options).args(["--config", &file]));
            let said = finished.complaint();
            assert!(said.starts_with(&format!("poetryd: {file}:{complaint}")), "{text}: {said}");
            assert_eq!((finished.code(), finished.stdout.len()), (code, 0), "{text}: {said}");
        }
    }
    for text in [
        format!("metrics = 8\n{fast}port = 7\n[[transformedpoetry]]\nport = 7\niface = '127.0.0.2'\n"),
        format!("{fast}port = 7\niface = '0.0.0.0'\n[[transformedpoetry]]\nport = 7\niface = '::1'\n"),
        format!("metrics = 0\n{fast}port = 0\n[[transformedpoetry]]\nport = 0\n"),
    ] {
        place.write("poetry.toml", &text);
        let finished = run("poetryd", ["--check", "--config", &file]);
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{text}");
    }
    let missing = run("poetryd", ["--config", &none]);
    refused(&missing, 1, &format!("cannot read {none}: no such file or directory"));
    fs::write(&file, b"verbose = 1\nuser = '\xff'\n").expect("written");
    refused(&run("poetryd", ["--config", &file]), 2, &format!("{file}:2: not UTF-8"));
}

#[test]
fn either_a_program_or_a_file() {
    let both = "either a PROGRAM or --config, not both; see --help";
    refused(&run("poetryd", ["--config", "x.toml", "transformedpoetry"]), 2, both);
    let neither = "there is no PROGRAM and no --config; see --help";
    refused(&run("poetryd", [""; 0]), 2, neither);
    refused(&run("poetryd", ["--check"]), 2, neither);
    refused(&run("poetryd", ["--daemon"]), 2, neither);
}

#[test]
fn the_command_line_wins_over_the_file_and_paths_are_beside_it() {
    let place = Place::new();
    place.write("poem.txt", "beside\n");
    let text = "log-file = \"of-file\"\npid-file = \"pid\"\nverbose = 1\n\
        [[fastpoetry]]\nfile = \"poem.txt\"\n[[fastpoetry]]\nfile = \"poem.txt\"\n";
    let config = place.write("poetry.toml", text);
    let service = Service::start_several(&mut poetryd(&["--log-file", &place.word("of-line"), "--config", &config]), 2);
    for address in &service.addresses {
        assert_eq!(fetch(*address).expect("a poem"), b"beside\n");
    }
    assert_eq!(place.read("pid"), format!("{}\n", service.pid()));
    let finished = service.stop();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
    assert!(place.read("of-line").contains("wants poetry!"), "{}", place.read("of-line"));
    assert!(!place.path("of-file").exists() && !place.path("pid").exists());
}

#[test]
fn one_service_that_cannot_start_stops_all() {
    let place = Place::new();
    let (_held, taken) = refusing_port();
    let first = SocketAddr::new(own_interface(), 10_000);
    let poem = poem();
    let text = format!(
        "pid-file = \"pid\"\n[[fastpoetry]]\nfile = \"{poem}\"\nport = {}\niface = \"{}\"\n\n\
        [[transformedpoetry]]\nport = {taken}\n",
        first.port(),
        first.ip()
    );
    let config = place.write("poetry.toml", &text);
    for options in [&[][..], &["--daemon"]] {
        let finished = finish(poetryd(options).args(["--config", &config]));
        let complaint =
            format!("{config}:7: transformedpoetry: cannot listen on 127.0.0.1:{taken}: address already in use");
        refused(&finished, 1, &complaint);
        TcpListener::bind(first).expect("the first port is free");
        assert!(!place.path("pid").exists());
        assert_eq!(place.processes(), [0; 0]);
    }
}

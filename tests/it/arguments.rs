//! Command lines that make no sense: one clear line that names the argument, and the right exit status.

use std::fs;

use crate::harness::{CLIENTS, poem_file, program, run};

fn refuse(name: &str, args: &[&str], code: i32, parts: &[&str]) {
    let finished = run(name, args);
    let complaint = finished.complaint();
    assert!(complaint.starts_with(&format!("{name}: ")), "{complaint}");
    for part in parts {
        assert!(complaint.contains(part), "{name} {args:?}: no '{part}' in: {complaint}");
    }
    assert_eq!((finished.code(), finished.stdout.len()), (code, 0), "{name} {args:?}: {complaint}");
}

#[test]
fn addresses_of_no_known_form() {
    let forms = "an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH";
    for client in CLIENTS.into_iter().chain(["poetry-race"]) {
        refuse(client, &["poems.example=10000"], 2, &["'poems.example=10000'", "the name could be a host", forms]);
        for target in ["donne=", "=10000", "10001=10000", "donne=keats=10000", "don\u{7}ne=1"] {
            refuse(client, &["10000", target], 2, &[forms, ", or one of these after NAME="]);
        }
        refuse(client, &["--compact", "10000"], 2, &["--compact is about --timeline and --waterfall"]);
        refuse(client, &["--animate", "--waterfall", "10000"], 2, &["--animate is about --timeline"]);
        for address in ["foo", "99999", "0", "host:", ":::", "::1:80", "[::1]", "host:http", ":80", "a b:1"] {
            refuse(client, &["10000", address], 2, &[&format!("'{address}'"), forms]);
        }
        refuse(client, &[], 2, &["<ADDR>"]);
    }
}

#[test]
fn options_of_the_clients_that_make_no_sense() {
    for client in CLIENTS {
        refuse(client, &["--timeout", "10x", "1"], 2, &["10x", "--timeout", "no unit 'x'"]);
        refuse(client, &["--idle-timeout", "-1", "1"], 2, &["-1", "--idle-timeout", "negative"]);
        refuse(client, &["--connect-timeout", "", "1"], 2, &["--connect-timeout"]);
        refuse(client, &["-j", "0", "1"], 2, &["--max-concurrency", "0"]);
        refuse(client, &["--retries", "-1", "1"], 2, &["-1"]);
        refuse(client, &["--max-size", "-1", "1"], 2, &["-1", "--max-size"]);
        refuse(client, &["--ordered", "--discard", "1"], 2, &["--ordered", "--discard"]);
        refuse(client, &["--ordered", "-o", "x", "1"], 2, &["--ordered", "--output"]);
        refuse(client, &["--discard", "-o", "x", "1"], 2, &["--discard", "--output"]);
        refuse(client, &["--ordered", "--json", "1"], 2, &["--ordered", "--json"]);
        refuse(client, &["-q", "-v", "1"], 2, &["--quiet", "--verbose"]);
        refuse(client, &["--log-format", "xml", "1"], 2, &["xml", "--log-format"]);
        refuse(client, &["--dicard", "1"], 2, &["--dicard", "a similar one is '--discard'"]);
    }
}

#[test]
fn options_of_slowpoetry_that_make_no_sense() {
    let poem = poem_file("science.txt");
    let poem = poem.to_str().expect("UTF-8");
    for (args, parts) in [
        (["--delay", "-1"], ["-1", "--delay"]),
        (["--delay", "10x"], ["10x", "--delay"]),
        (["--num-bytes", "0"], ["--num-bytes", "at least 1"]),
        (["--num-bytes", "-5"], ["-5", "--num-bytes"]),
        (["--num-bytes", "ten"], ["ten", "--num-bytes"]),
        (["--port", "65536"], ["65536", "--port"]),
        (["--clients", "0"], ["0", "--clients"]),
        (["--backlog", "0"], ["0", "--backlog"]),
        (["--write-timeout", "soon"], ["soon", "--write-timeout"]),
        (["--grace", "-1s"], ["-1s", "--grace"]),
    ] {
        refuse("slowpoetry", &[&args[..], &[poem]].concat(), 2, &parts);
    }
    refuse("slowpoetry", &[], 2, &["<FILE>"]);
    refuse("slowpoetry", &[poem, poem], 2, &["unexpected argument"]);
}

#[test]
fn sizes_that_are_no_whole_number_of_bytes() {
    let poem = poem_file("science.txt");
    let poem = poem.to_str().expect("UTF-8");
    let flags = [
        ("slowpoetry", "--num-bytes", poem),
        ("slowpoetry", "--rate", poem),
        ("fastpoetry", "--num-bytes", poem),
        ("fastpoetry", "--rate", poem),
        ("poetry-proxy", "--max-size", "1"),
        ("transformedpoetry", "--max-size", "-q"),
        ("poetryd", "--log-size", "transformedpoetry"),
    ];
    let clients = CLIENTS.map(|client| (client, "--max-size", "1"));
    for (name, flag, rest) in flags.into_iter().chain(clients) {
        for size in ["1.5", "0.3KiB", "1.5B"] {
            refuse(name, &[flag, size, rest], 2, &[&format!("'{size}'"), flag, "no whole number of bytes"]);
        }
    }
    for name in ["slowpoetry", "fastpoetry"] {
        for cut in ["1.5", "1.5B", "0.3KiB"] {
            refuse(name, &["--cut-at", cut, poem], 2, &[cut, "--cut-at", "a whole number of bytes"]);
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("poetry.toml");
    let path = file.to_str().expect("UTF-8");
    for value in ["1.5", "'1.5'"] {
        fs::write(&file, format!("[[fastpoetry]]\nfile = \"{poem}\"\nnum-bytes = {value}\n")).expect("written");
        refuse("poetryd", &["--check", "--config", path], 2, &["poetry.toml:3: ", "num-bytes", "no whole number"]);
        fs::write(&file, format!("[[connection]]\nnum-bytes = {value}\n")).expect("written");
        refuse("slowpoetry", &["--script", path, poem], 2, &["poetry.toml:2: ", "num-bytes", "no whole number"]);
    }
}

#[test]
fn a_poem_that_cannot_be_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    let missing = format!("{path}/missing.txt");
    refuse("slowpoetry", &[path], 1, &["cannot serve", path, "is a directory"]);
    refuse("slowpoetry", &[&missing], 1, &["cannot serve", &missing, "no such file or directory"]);
    fs::write(&missing, "").expect("written");
    refuse("slowpoetry", &[&format!("{missing}/below")], 1, &["not a directory"]);
}

#[test]
fn a_log_filter_that_makes_no_sense() {
    for name in CLIENTS.into_iter().chain(["slowpoetry"]) {
        let mut command = program(name);
        command.env("RUST_LOG", "poetry_suite=louder").arg("1");
        let finished = crate::harness::finish(&mut command);
        assert!(finished.complaint().contains("RUST_LOG=poetry_suite=louder"), "{finished:?}");
        assert_eq!(finished.code(), 2);
    }
}

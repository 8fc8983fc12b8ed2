//! Scripts: trouble by number and by time, which can be read again.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{chaos, outcome};
use crate::harness::{Server, Service, run};

const POEM: &str = "a poem\n";

/// A file with a script.
struct Script {
    _place: TempDir,
    path: PathBuf,
}

impl Script {
    fn new(text: &str) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("trouble.toml");
        fs::write(&path, text).expect("written");
        Self { _place: place, path }
    }

    fn set(&self, text: &str) {
        fs::write(&self.path, text).expect("written");
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }
}

fn outcomes(proxy: &Service, connections: usize) -> Vec<&'static str> {
    (0..connections).map(|_| outcome(proxy.address, POEM.as_bytes())).collect()
}

#[test]
fn the_first_ones_have_their_own_trouble_and_all_others_theirs() {
    let server = Server::poem(POEM);
    let script = Script::new(
        "seed = 1\n[[connection]]\nbehavior = '100:blackout'\ntimes = 2\n[[connection]]\n[[connection]]\ncut-at = '3'\ncut = 'rst'\nbehavior = '0:error'\n[others]\nbehavior = '100:error'\n",
    );
    let proxy = chaos(&["--script", script.path()], &server.port());
    assert_eq!(outcomes(&proxy, 6), ["reset", "reset", "whole", "reset", "garbage", "garbage"]);
    // What a table does not say is said by the flags.
    let proxy = chaos(&["--script", script.path(), "--behavior", "100:error"], &server.port());
    assert_eq!(outcomes(&proxy, 4), ["reset", "reset", "garbage", "reset"]);
    let foretold = run("poetry-chaos", ["--rehearse", "5", "--script", script.path(), &server.port()]);
    let foretold = String::from_utf8_lossy(&foretold.stdout).into_owned();
    assert_eq!(foretold, "1 blackout\n2 blackout\n3 dummy\n4 dummy\n5 error\n");
}

#[test]
fn an_outage_begins_and_ends_by_itself() {
    const LASTS: Duration = Duration::from_secs(1);
    let server = Server::poem(POEM);
    let script = Script::new(
        "[[during]]\nto = '1s'\nbehavior = '100:blackout'\n[[during]]\nfrom = '1h'\nbehavior = '100:error'",
    );
    let began = Instant::now();
    let proxy = chaos(&["--script", script.path()], &server.port());
    loop {
        match outcomes(&proxy, 1)[0] {
            "whole" => break,
            trouble => assert_eq!(trouble, "reset"),
        }
        assert!(began.elapsed() < LASTS * 60, "it does not end");
    }
    // It listens later than it was started.
    assert!(began.elapsed() >= LASTS, "{:?}", began.elapsed());
    assert_eq!(outcomes(&proxy, 5), ["whole"; 5]);
}

#[test]
fn a_script_is_read_again_for_all_that_come_then() {
    let server = Server::poem(POEM);
    let script = Script::new("[others]\nbehavior = '100:error'");
    let proxy = chaos(&["--script", script.path()], &server.port());
    assert_eq!(outcomes(&proxy, 1), ["garbage"]);
    script.set("[[during]]\nbehavior = '100:blackout'");
    proxy.signal(Signal::SIGHUP);
    proxy.hear("trouble.toml again, for all that come from now on");
    assert_eq!(outcomes(&proxy, 2), ["reset"; 2]);
    script.set("[[during]]\nbehavior = '100:blackuot'");
    proxy.signal(Signal::SIGHUP);
    let line = proxy.hear("keeping the script as it was");
    assert!(line.contains("trouble.toml:2: ") && line.contains("a similar one is 'blackout'"), "{line}");
    assert_eq!(outcomes(&proxy, 1), ["reset"]);
    // The numbers go on: the fifth connection is none of the first four.
    script.set("[[connection]]\ntimes = 4\nbehavior = '100:error'");
    proxy.signal(Signal::SIGHUP);
    proxy.hear("again, for all");
    assert_eq!(outcomes(&proxy, 1), ["whole"]);
}

#[test]
fn what_is_wrong_with_a_script_is_said_with_its_line() {
    for (text, complaint) in [
        ("[[connection]]\nbehaviro = 'x'", "trouble.toml:2: unknown key 'behaviro' (a similar one is 'behavior')"),
        ("[[during]]\nfrom = '5s'\nto = '5s'", "trouble.toml:3: to: it is over before it begins"),
        ("[others]\n\nerror-status = '500'", "trouble.toml:3: --error-status is for --protocol http"),
        ("[others]\njitter = '1s'", "trouble.toml:2: there is no delay that jitter could vary"),
        ("[[others]]", "'others' is not a table"),
        ("seed = -1", "trouble.toml:1: "),
    ] {
        let script = Script::new(text);
        let finished = run("poetry-chaos", ["--script", script.path(), "1"]);
        assert_eq!(finished.code(), 2, "{text}: {finished:?}");
        assert!(finished.complaint().contains(complaint), "{text}: {finished:?}");
    }
    let script = Script::new("");
    let finished = run("poetry-chaos", ["--script", script.path(), "--record", script.path(), "1"]);
    assert!(finished.code() == 2 && finished.complaint().contains("which is the script"), "{finished:?}");
    assert_eq!(fs::read_to_string(script.path()).expect("it is still there"), "");
    let finished = run("poetry-chaos", ["--script", "/no/such.toml", "1"]);
    assert!(finished.code() == 1 && finished.complaint().contains("/no/such.toml"), "{finished:?}");
}

//! A command that a server runs: its address, its status, what is expected of it, and that nothing of it is left.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Finished, PATIENCE, Running, eventually, finish, path_of, program};
use crate::servers::{Place, command, listens, terminal};

/// The two servers that misbehave, each with its poem.
const FAULTY: [&str; 2] = ["slowpoetry", "fastpoetry"];

/// A program of ours as a word.
fn ours(name: &str) -> String {
    path_of(name).to_str().expect("UTF-8").to_owned()
}

/// A server with more words, and a command.
fn beside(server: &[String], more: &[&str], run: &[&str]) -> Command {
    let mut command = command(server, more);
    command.arg("--").args(run);
    command
}

/// A server of a poem with more words, and a shell that does this.
fn shell(server: &str, place: &Place, more: &[&str], script: &str) -> Command {
    let server = [server, &place.word("poem")].map(str::to_owned);
    beside(&server, more, &["sh", "-c", script])
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A server whose command says something, with the first line of that.
fn start(command: &mut Command) -> (Child, String, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("stdout");
    (child, line, stdout)
}

/// The status of a server that is to end now, and what its command said until then.
fn end(mut child: Child, stdout: BufReader<std::process::ChildStdout>) -> (Option<i32>, Vec<String>) {
    let until = Instant::now() + PATIENCE;
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > until {
            child.kill().expect("killed");
            panic!("the program hangs");
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let said = stdout.lines().map(|line| line.expect("text")).collect();
    (child.wait().expect("a child").code(), said)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().expect("a pid")), signal).expect("it is there");
}

#[test]
fn every_server_runs_a_command_that_has_its_address_and_stdout_to_itself() {
    let place = Place::new();
    for server in place.servers() {
        let script = "echo {} {host}:{port} $POETRY_ADDR $POETRY_HOST:$POETRY_PORT";
        let finished = finish(&mut beside(&server, &[], &["sh", "-c", script]));
        assert_eq!(finished.code(), 0, "{server:?}: {finished:?}");
        let text = String::from_utf8(finished.stdout).expect("text");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(text.lines().count() == 1 && words.len() == 4 && words.iter().all(|&word| word == words[0]), "{text}");
        let address: SocketAddr = words[0].parse().expect("an address");
        assert!(finished.stderr.contains(&format!(" on {address}\n")), "it is in the log: {}", finished.stderr);
        assert!(!listens(address));
    }
    // As a client would type it.
    for server in FAULTY {
        let finished = finish(&mut shell(server, &place, &["--iface", "0.0.0.0"], "echo x{}"));
        assert!(finished.stdout.starts_with(b"x127.0.0.1:"), "{finished:?}");
    }
}

#[test]
fn the_command_is_served() {
    let place = Place::new();
    let poem = fs::read(place.path("poem")).expect("a poem");
    let fetch = ours("get-poetry");
    for server in place.servers() {
        let words: &[&str] = match server[0].as_str() {
            "slowpoetry" | "fastpoetry" | "poetryd" => &[&fetch, "-q", "{}"],
            _ => continue,
        };
        let finished = finish(&mut beside(&server, &["-q"], words));
        assert_eq!((finished.code(), &finished.stdout, &*finished.stderr), (0, &poem, ""), "{server:?}");
    }
    // A server around a server around a client.
    let server = ["fastpoetry", &place.word("poem")].map(str::to_owned);
    let proxy = ours("poetry-proxy");
    let inner = format!("{fetch} -q $POETRY_ADDR");
    let mut nested = beside(&server, &["-q"], &[&proxy, "-q", "{}", "--", "sh", "-c", &inner]);
    let finished = finish(&mut nested);
    assert_eq!((finished.code(), &finished.stdout, &*finished.stderr), (0, &poem, ""));
}

#[test]
fn the_status_is_that_of_the_command() {
    let place = Place::new();
    for server in place.servers() {
        for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143), ("kill -40 $$", 168)] {
            let finished = finish(&mut beside(&server, &["-q"], &["sh", "-c", script]));
            assert_eq!((finished.code(), &*finished.stderr), (code, ""), "{server:?}: {script}");
        }
        for (word, code, why) in [
            ("no-such-command", 127, "no such file or directory"),
            ("/no/such/command", 127, "no such file or directory"),
            (&*place.word("poem"), 126, "permission denied"),
            ("/", 126, "permission denied"),
        ] {
            let finished = finish(&mut beside(&server, &["-q"], &[word]));
            assert_eq!((finished.code(), finished.stdout.len()), (code, 0), "{server:?}: {finished:?}");
            assert_eq!(finished.complaint(), format!("{}: cannot run {word}: {why}", server[0]));
        }
    }
    // The server has something to say of itself when the command has not.
    for (script, code) in [("exit 0", 1), ("exit 3", 3)] {
        let finished = finish(&mut shell(
            "fastpoetry",
            &place,
            &["--record", "/dev/full"],
            &format!("{} -q {{}} >/dev/null; {script}", ours("get-poetry")),
        ));
        assert_eq!(finished.code(), code, "{finished:?}");
    }
}

#[test]
fn how_long_a_client_stays_is_seen_in_every_silence_and_who_has_left_gets_no_grace() {
    let place = Place::new();
    // The time of a client may begin before the server has accepted it, on a busy machine.
    let give_up = format!("{} -q --idle-timeout 1s {{}}; exit 0", ours("get-poetry"));
    for silence in [
        &["--first-byte-delay", "1h"][..],
        &["--num-bytes", "10", "--delay", "1h"],
        &["--num-bytes", "50", "--cut-at", "100", "--cut", "hang"],
    ] {
        for server in FAULTY {
            let more =
                [silence, &["-q", "--grace", "1h", "--expect", "left > 100ms", "--expect", "left < 20s"]].concat();
            let finished = finish(&mut shell(server, &place, &more, &give_up));
            assert_eq!(finished.code(), 0, "{server} {silence:?}: {finished:?}");
            let more = [silence, &["-q", "--grace", "1h", "--expect", "left < 0.1"]].concat();
            let finished = finish(&mut shell(server, &place, &more, &give_up));
            let line = finished.stderr.lines().last().expect("a line");
            let start = format!("{server}: --expect 'left < 0.1' does not hold: left is ");
            let left = line.strip_prefix(&start).and_then(|left| left.strip_suffix(" s")).expect(line);
            assert!((0.1..20.0).contains(&left.parse::<f64>().expect("a number")), "{line}");
            assert_eq!(finished.code(), 1);
        }
    }
}

#[test]
fn what_is_expected_holds_or_is_said_not_to() {
    let place = Place::new();
    let bytes = fs::metadata(place.path("poem")).expect("a poem").len();
    let client = ours("get-poetry");
    let fetch = format!("{client} -q {{}} {{}} >/dev/null; exit 0");
    let fast = ["-q", "--num-bytes", "1M", "--delay", "0"];
    for server in FAULTY {
        for (expected, script, said) in [
            ("clients = 2".to_owned(), &*fetch, None),
            ("clients == 1".to_owned(), &fetch, Some("clients is 2".to_owned())),
            (format!("bytes = {}", 2 * bytes), &fetch, None),
            (format!("bytes < {bytes} + 1"), &fetch, Some(format!("bytes is {}", 2 * bytes))),
            ("served + lost = clients".to_owned(), &fetch, None),
            ("left < 20s".to_owned(), &fetch, None),
            ("left < 20s".to_owned(), "exit 0", Some("left has no value, for nobody came".to_owned())),
            ("clients = 0".to_owned(), "exit 0", None),
        ] {
            let more = [&fast[..], &["--expect", &expected]].concat();
            let finished = finish(&mut shell(server, &place, &more, script));
            let line = said.as_ref().map(|said| format!("{server}: --expect '{expected}' does not hold: {said}\n"));
            assert_eq!(finished.stderr, line.unwrap_or_default(), "{server}");
            assert_eq!(finished.code(), i32::from(said.is_some()), "{server}: {expected}");
        }
        // All of them, and the command's own status first.
        let more =
            [&fast[..], &["--expect", "clients = 1", "--expect", "clients = 0", "--expect", "bytes = 1"]].concat();
        let finished = finish(&mut shell(server, &place, &more, "exit 5"));
        assert_eq!((finished.code(), finished.stderr.lines().count()), (5, 2), "{finished:?}");
        let finished =
            finish(&mut shell(server, &place, &["-q", "--never-accept", "--expect", "clients = 0"], "exit 0"));
        assert_eq!((finished.code(), &*finished.stderr), (0, ""), "{server}");
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let place = Place::new();
    let config = place.word("c.toml");
    fs::write(&config, "metrics = 0\n[[fastpoetry]]\nfile = 'poem'\n[[fastpoetry]]\nfile = 'poem'\n").expect("written");
    let poem = place.word("poem");
    let about = "--rehearse <N> cannot be used with [CMD]...; see --help";
    let names = "write one of {fastpoetry-1}, {fastpoetry-2}, {metrics}";
    let expected = "a number, or one of left, bytes, clients, served and lost was expected";
    let like = "an expectation is like 'left < 4s' or 'clients = 3'; see --help";
    for (words, complaint) in [
        (
            &["slowpoetry", "--expect", "left < 1", &poem][..],
            "--expect is about a command: write it at the end, after --",
        ),
        (
            &["poetryd", "--expect", "left < 1", "transformedpoetry"],
            "--expect is about a command: write it at the end, after --",
        ),
        (&["slowpoetry", "--rehearse", "1", &poem, "--", "true"], about),
        (&["fastpoetry", "--rehearse", "1", &poem, "--", "true"], about),
        (&["transformedpoetry", "--list", "--", "true"], "--list cannot be used with [CMD]...; see --help"),
        (
            &["poetryd", "--check", "transformedpoetry", "--", "true"],
            "--check runs no command: there is nothing to write after --",
        ),
        (
            &["poetryd", "--daemon", "transformedpoetry", "--", "true"],
            "--daemon runs no command: there is nothing to write after --",
        ),
        (&["poetryd", "--config", &config, "--", "echo", "{}"], &*format!("{{}} could be any service: {names}")),
        (
            &["poetryd", "--config", &config, "--", "echo", "{port}"],
            &*format!("{{port}} could be any service: {names}"),
        ),
        (
            &["fastpoetry", "--expect", "gone < 1", &poem, "--", "true"],
            &*format!("invalid value 'gone < 1' for '--expect <EXPR>': {expected} at 'gone < 1'; {like}"),
        ),
    ] {
        let finished = finish(program(words[0]).args(&words[1..]));
        assert_eq!(finished.complaint(), format!("{}: {complaint}", words[0]));
        assert_eq!((finished.code(), finished.stdout.len()), (2, 0), "{finished:?}");
    }
}

#[test]
fn of_several_services_each_is_named() {
    let place = Place::new();
    let config = place.word("c.toml");
    let services = "metrics = 0\n[[fastpoetry]]\nfile = 'poem'\n[[transformedpoetry]]\n[[fastpoetry]]\nfile = 'poem'\n";
    fs::write(&config, services).expect("written");
    let script = "echo {fastpoetry-1} {transformedpoetry} {fastpoetry-2} {metrics}
        echo $POETRY_ADDR_FASTPOETRY_1 $POETRY_ADDR_TRANSFORMEDPOETRY $POETRY_ADDR_FASTPOETRY_2 $POETRY_ADDR_METRICS
        echo \"${POETRY_ADDR-none}\" '{ }' '{print $1}'";
    let server = ["poetryd", "--config", &config].map(str::to_owned);
    let finished =
        finish(beside(&server, &["-q"], &["sh", "-c", script]).env("POETRY_ADDR", "that of an outer server"));
    assert_eq!((finished.code(), &*finished.stderr), (0, ""));
    let text = String::from_utf8(finished.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2]), (lines[1], "none { } {print $1}"), "{text}");
    let mut addresses: Vec<SocketAddr> = lines[0].split(' ').map(|word| word.parse().expect("an address")).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "{text}");
    // All clients of all services count, and those of the page do not.
    let fetch = format!("{} -q {{fastpoetry-1}} {{fastpoetry-2}} >/dev/null", ours("get-poetry"));
    let finished = finish(&mut beside(&server, &["-q", "--expect", "clients = 2"], &["sh", "-c", &fetch]));
    assert_eq!((finished.code(), &*finished.stderr), (0, ""));
}

#[test]
fn a_server_that_is_stopped_tells_its_command() {
    let place = Place::new();
    for server in place.servers() {
        for (how, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
            // It says that it was told, and ends well: the run does not.
            let script = "trap 'echo told; exit 0' TERM; echo started; while :; do sleep 0.01; done";
            let (child, line, stdout) = start(&mut beside(&server, &[], &["sh", "-c", script]));
            assert_eq!(line, "started\n");
            signal(&child, how);
            assert_eq!(end(child, stdout), (Some(code), vec!["told".to_owned()]), "{server:?}");
        }
    }
    // It does not hear, so it is killed: after the grace time, or at the second signal.
    let deaf = "trap '' TERM; echo started; while :; do sleep 0.01; done";
    for server in FAULTY {
        let (child, _, stdout) = start(&mut shell(server, &place, &["--grace", "50ms"], deaf));
        signal(&child, Signal::SIGTERM);
        assert_eq!(end(child, stdout).0, Some(137), "{server}");
        let running = Running::start(&mut shell(
            server,
            &place,
            &["--grace", "1h", "-q"],
            "trap '' TERM; echo up >&2; while :; do sleep 0.01; done",
        ));
        running.hear("up");
        eventually("an end", || {
            running.signal(Signal::SIGTERM);
            std::thread::park_timeout(Duration::from_millis(20));
            running.has_ended()
        });
        assert_eq!(running.finish().code(), 137, "{server}");
    }
}

#[test]
fn a_typed_interrupt_reaches_both_and_the_command_once() {
    let place = Place::new();
    for server in place.servers() {
        let (mut master, slave) = terminal();
        let script = "trap 'echo interrupted; exit 0' INT; trap 'echo ended; exit 0' TERM
            sleep 1000 & echo started; wait";
        // Shells lose a typed signal now and then while they start a process (dash), or when one ends just then (bash);
        // in `wait` bash does not.
        let inner = beside(&server, &[], &["bash", "-c", script]);
        // Where the tests run in the background, SIGINT is ignored, and no shell can change that.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=INT", "setsid", "--ctty", "--wait"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(slave);
        let (child, line, stdout) = start(&mut command);
        command.stdin(Stdio::null());
        assert_eq!(line, "started\n");
        master.write_all(b"\x03").expect("a key");
        assert_eq!(end(child, stdout), (Some(130), vec!["interrupted".to_owned()]), "{server:?}");
    }
}

#[test]
fn nothing_of_a_command_outlives_its_server() {
    let place = Place::new();
    for server in place.servers() {
        // One that goes on when the shell has ended, and one that does not hear of the end, either.
        for sleep in ["sleep 1000", "(trap '' TERM; exec sleep 1000)"] {
            let grace = if server[0] == "poetryd" { &[][..] } else { &["--grace", "50ms"] };
            let script = format!("{sleep} & echo $!; exit 4");
            let (child, line, stdout) = start(&mut beside(&server, grace, &["sh", "-c", &script]));
            let sleeper: i32 = line.trim_end().parse().expect("a pid");
            assert_eq!(end(child, stdout).0, Some(4), "{server:?}");
            assert!(!exists(sleeper), "{server:?}: {script}");
        }
        // The server is killed: the command, what it has started, and what keeps them all go with it.
        let (mut child, line, _stdout) =
            start(&mut beside(&server, &["-q"], &["sh", "-c", "sleep 1000 & echo $$ $! $PPID; wait"]));
        let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
        assert!(pids.len() == 3 && pids.iter().all(|&pid| exists(pid)), "{line}");
        child.kill().expect("it is there");
        child.wait().expect("a child");
        eventually("nothing left", || !pids.iter().any(|&pid| exists(pid)));
    }
}

#[test]
fn a_keeper_that_is_killed_takes_the_command_and_the_server_with_it() {
    let place = Place::new();
    let (child, line, stdout) = start(&mut shell("fastpoetry", &place, &["-q"], "echo $$ $PPID; exec sleep 1000"));
    let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
    kill(Pid::from_raw(pids[1]), Signal::SIGKILL).expect("it is there");
    assert_eq!(end(child, stdout).0, Some(137));
    eventually("nothing left", || !pids.iter().any(|&pid| exists(pid)));
}

#[test]
fn a_keeper_without_its_server_does_nothing() {
    // Descriptors that are no pipes any more, or never were.
    for order in ["77:78:0:1024", "nonsense", ""] {
        let finished = finish(program("fastpoetry").arg("/dev/null").env("POETRY_KEEPER", order));
        assert_eq!((finished.code(), &finished.stdout[..], &*finished.stderr), (1, &b""[..], ""), "{order}");
    }
}

#[test]
fn the_command_inherits_no_descriptor_no_signal_and_no_limit() {
    let place = Place::new();
    let script = "for fd in /proc/self/fd/*; do echo $fd; done; grep SigBlk /proc/self/status; ulimit -n";
    let limited = |inner: &Command| {
        let mut limited = Command::new("prlimit");
        limited.arg("--nofile=300:1000").arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        String::from_utf8(finish(&mut limited).stdout).expect("text")
    };
    let alone = limited(Command::new("sh").args(["-c", script]));
    assert!(alone.ends_with("SigBlk:\t0000000000000000\n300\n"), "{alone}");
    for server in place.servers() {
        assert_eq!(limited(&beside(&server, &["-q"], &["sh", "-c", script])), alone, "{server:?}");
    }
}

#[test]
fn who_is_still_being_served_when_the_command_ends_is_served_to_the_end() {
    let place = Place::new();
    let poem = fs::read(place.path("poem")).expect("a poem");
    let file = place.word("fetched");
    // It has begun to receive when the command ends.
    let script =
        format!("{} -q --ordered {{}} > {file} & until [ -s {file} ]; do sleep 0.01; done", ours("get-poetry"));
    for server in FAULTY {
        let pace = ["-q", "--num-bytes", "100", "--delay", "50ms", "--grace", "1m", "--expect", "served = 1"];
        let finished = finish(&mut shell(server, &place, &pace, &script));
        assert_eq!((finished.code(), &*finished.stderr), (0, ""), "{server}");
        assert_eq!(fs::read(&file).expect("a file"), poem, "{server}");
        fs::remove_file(&file).expect("removed");
    }
}

#[test]
fn a_server_that_has_served_enough_waits_for_its_command() {
    let place = Place::new();
    let client = ours("get-poetry");
    let script = format!("{client} -q {{}} >/dev/null && {client} -q {{}}; exit 9");
    let finished = finish(&mut shell("slowpoetry", &place, &["-q", "--clients", "1", "--delay", "0"], &script));
    assert_eq!((finished.code(), finished.stdout.len()), (9, 0), "{finished:?}");
    assert!(finished.stderr.contains("refused"), "{finished:?}");
}

#[test]
fn a_server_that_hangs_does_not_keep_its_command_from_ending_it() {
    let place = Place::new();
    let pipe = place.word("pipe");
    nix::unistd::mkfifo(Path::new(&pipe), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let connect = format!("{} -q --idle-timeout 200ms {{}}; exit 6", ours("get-poetry"));
    let server = ["slowpoetry", &pipe].map(str::to_owned);
    let finished = finish(&mut beside(&server, &["-q", "--grace", "50ms"], &["sh", "-c", &connect]));
    assert_eq!(finished.code(), 6, "{finished:?}");
}

#[test]
fn scripts_that_wait_for_a_server_hear_of_it_all_the_same() {
    let place = Place::new();
    let port_file = place.word("port");
    for server in place.servers() {
        let finished = finish(&mut beside(
            &server,
            &["--port-file", &port_file],
            &["sh", "-c", &format!("cat {port_file}; echo {{port}}")],
        ));
        let text = String::from_utf8(finished.stdout).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0] == lines[1], "{server:?}: {text}");
        assert!(!Path::new(&port_file).exists());
    }
}

/// A server with its descriptor 3, or 1, on a device that is full.
fn on_full(server: &[String], more: &[&str], redirect: &str) -> Finished {
    let inner = command(server, more);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirect}")]).arg(inner.get_program()).args(inner.get_args());
    finish(shell.stdin(Stdio::null()))
}

#[test]
fn a_server_that_cannot_say_that_it_is_ready_says_it_to_nobody() {
    let place = Place::new();
    for server in place.servers() {
        let finished = on_full(&server, &["-q", "--ready-fd", "3"], "3>/dev/full");
        assert_eq!((finished.code(), finished.stdout.len()), (1, 0), "{server:?}: {finished:?}");
        assert_eq!(finished.complaint(), format!("{}: cannot write descriptor 3: no space left on device", server[0]));
        let ready = place.word("ready");
        let finished = on_full(&server, &["-q", "--ready-fd", "3"], &format!("3>{ready} >/dev/full"));
        assert_eq!(finished.complaint(), format!("{}: cannot write stdout: no space left on device", server[0]));
        assert_eq!((finished.code(), fs::read(ready).expect("a file")), (1, vec![]), "{server:?}");
    }
    let (pid, port) = (place.word("pid"), place.word("port"));
    let server = ["poetryd", "transformedpoetry"].map(str::to_owned);
    let finished = on_full(&server, &["-q", "--daemon", "--pid-file", &pid, "--port-file", &port], ">/dev/full");
    let why = "what it says cannot be written to stdout: no space left on device";
    assert_eq!(finished.complaint(), format!("poetryd: the service in the background: {why}"));
    assert_eq!(finished.code(), 1);
    assert!(!Path::new(&pid).exists() && !Path::new(&port).exists(), "it has ended, and left nothing");
}

#[test]
fn a_file_of_somebody_else_is_no_port_file() {
    let place = Place::new();
    let foreign = place.word("foreign");
    fs::write(&foreign, "a poem\n").expect("written");
    let why = format!("cannot write {foreign}: it is there, and no file of ports");
    for server in place.servers() {
        let finished = finish(&mut command(&server, &["-q", "--port-file", &foreign]));
        assert_eq!((finished.code(), finished.stdout.len()), (1, 0), "{server:?}: {finished:?}");
        assert_eq!(finished.complaint(), format!("{}: {why}", server[0]));
        assert_eq!(fs::read_to_string(&foreign).expect("a file"), "a poem\n");
    }
    // Also to who only looks.
    let (config, nowhere) = (place.word("c.toml"), place.word("no/port"));
    for (text, code, complaint) in [
        ("port-file = 'foreign'\n[[transformedpoetry]]\n", 1, why.clone()),
        (
            "port-file = 'no/port'\n[[transformedpoetry]]\n",
            1,
            format!("cannot write {nowhere}: no such file or directory"),
        ),
        (
            "port-file = 5\n[[transformedpoetry]]\n",
            2,
            format!("{config}:1: port-file: it must be a string, but its type is integer"),
        ),
    ] {
        fs::write(&config, text).expect("written");
        let finished = finish(program("poetryd").args(["--check", "--config", &config]));
        assert_eq!((finished.code(), finished.complaint()), (code, &*format!("poetryd: {complaint}")));
    }
    for words in [&["--ready-fd", "77", "transformedpoetry"][..], &["transformedpoetry", "--ready-fd", "77"]] {
        let finished = finish(program("poetryd").arg("--check").args(words));
        assert_eq!((finished.code(), finished.complaint()), (2, "poetryd: cannot use descriptor 77: it is not open"));
    }
}

#[test]
fn the_lines_of_the_documentation_do_what_they_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/faults.md")).expect("the page");
    let sections = page.split("\n## ").filter(|section| {
        ["11. ", "12. ", "Your own client, in", "Your HTTP client, in"].iter().any(|start| section.starts_with(start))
    });
    let blocks: Vec<&str> = sections.flat_map(|section| section.split("```sh\n").skip(1)).collect();
    assert_eq!(blocks.len(), 6);
    let path = format!("{}:{}", path_of("").display(), std::env::var("PATH").expect("a path"));
    for block in blocks {
        let line = block.split("```").next().expect("an end");
        let is_missing = |tool: &&&str| {
            line.contains(**tool) && Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err()
        };
        if let Some(tool) = ["curl", "python3"].iter().find(is_missing) {
            writeln!(std::io::stderr(), "skipped: there is no {tool}").expect("told");
            continue;
        }
        for server in FAULTY {
            let line = FAULTY.iter().fold(line.to_owned(), |line, other| line.replace(other, server));
            let run = |line: &str| {
                let mut shell = Command::new("sh");
                shell.args(["-c", line]).env("PATH", &path).current_dir(root).stdin(Stdio::null());
                finish(&mut shell)
            };
            let finished = run(&line);
            assert_eq!((finished.code(), finished.stdout.len()), (0, 0), "{line}: {finished:?}");
            if !line.contains("left < 4s") {
                continue;
            }
            let finished = run(&line.replace("left < 4s", "left < 1s"));
            // Two seconds by the client's clock, which began before it was accepted.
            assert!(finished.stderr.contains("--expect 'left < 1s' does not hold: left is "), "{line}: {finished:?}");
        }
    }
}

#[test]
fn curl_and_python_get_over_seven_troubles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/faults.md")).expect("the page");
    let text = fs::read_to_string(root.join("scripts/troubles.sh")).expect("the script");
    let troubles: Vec<&str> = text.lines().filter(|line| line.starts_with("trouble \"")).collect();
    assert_eq!(troubles.len(), 7);
    assert!(page.contains(&troubles.join("\n")), "the page shows them");
    let is_missing = |tool: &&str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err();
    if let Some(tool) = ["curl", "python3"].into_iter().find(is_missing) {
        writeln!(std::io::stderr(), "skipped: there is no {tool}").expect("told");
        return;
    }
    let path = format!("{}:{}", path_of("").display(), std::env::var("PATH").expect("a path"));
    std::thread::scope(|scope| {
        for server in FAULTY {
            let path = &path;
            scope.spawn(move || {
                let mut script = Command::new(root.join("scripts/troubles.sh"));
                let finished = finish(script.arg(server).env("PATH", path).stdin(Stdio::null()));
                let done = String::from_utf8_lossy(&finished.stdout).matches("as it should").count();
                assert_eq!((finished.code(), done), (0, 14), "{finished:?}");
            });
        }
    });
}

//! The small programs of `examples`: each prints what its head says, and is where the list of them says.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use regex_lite::Regex;

use crate::harness::{Theirs, finish, path_of};

/// How often each is run: more often by hand.
const RUNS: usize = 3;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// Their names, in order, with their text.
fn examples() -> Vec<(String, String)> {
    let paths = fs::read_dir(directory()).expect("a directory").map(|entry| entry.expect("an entry").path());
    let sources = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let name = |path: &Path| path.file_stem().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
    let mut examples: Vec<_> = sources.map(|path| (name(&path), fs::read_to_string(&path).expect("UTF-8"))).collect();
    examples.sort();
    examples
}

/// Where cargo puts them. `cargo test` has built them, `cargo test --test it` has not.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let profile = path_of("get-poetry").parent().expect("a directory").to_owned();
    let built = profile.join("examples");
    let changed = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let is_fresh = |(name, _): &(String, String)| {
        changed(built.join(name)).is_some_and(|at| Some(at) >= changed(directory().join(format!("{name}.rs"))))
    };
    if !examples().iter().all(is_fresh) {
        let name = profile.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--examples"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["--profile", if name == "debug" { "dev" } else { name }]);
        cargo.arg("--target-dir").arg(profile.parent().expect("a directory"));
        let built = finish(&mut cargo);
        assert_eq!(built.code(), 0, "{}", built.stderr);
    }
    built
});

/// What the head of an example says: commands of a shell, and what each prints.
#[derive(Clone)]
struct Session {
    name: String,
    args: String,
    is_beside: bool,
    output: String,
}

impl Session {
    fn all(text: &str) -> Vec<Self> {
        let run = Regex::new(r"^\$ cargo run --example (\S+)(?: -- (.+?))?( &)?$").expect("valid");
        let head: Vec<_> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let blocks = head.split(|line| line.trim_start().starts_with("```"));
        let mut sessions = Vec::<Self>::new();
        for line in blocks.skip(1).step_by(2).flatten().map(|line| line.strip_prefix(' ').unwrap_or(line)) {
            if let Some(found) = run.captures(line) {
                let args = found.get(2).map_or("", |args| args.as_str()).to_owned();
                let (name, output) = (found[1].to_owned(), String::new());
                sessions.push(Self { name, args, is_beside: found.get(3).is_some(), output });
            } else {
                let session = sessions.last_mut().unwrap_or_else(|| panic!("no command before: {line}"));
                session.output += &format!("{line}\n");
            }
        }
        sessions
    }

    /// As a shell would.
    fn command(&self) -> Command {
        let mut shell = Command::new("sh");
        let program = BUILT.join(&self.name);
        shell.args(["-c", &format!("exec \"$0\" {}", self.args)]).arg(program).stdin(Stdio::null());
        shell.env_remove("RUST_BACKTRACE");
        shell
    }
}

#[test]
fn each_prints_what_its_head_says_each_time() {
    for (name, text) in examples() {
        let sessions = Session::all(&text);
        assert!(!sessions.is_empty(), "{name}: its head does not say how to run it");
        assert!(
            sessions.iter().all(|session| session.name == name || session.is_beside),
            "{name}: it runs another one"
        );
        // Those who need a server have a test of their own.
        if sessions.iter().any(|session| session.is_beside) {
            continue;
        }
        for session in sessions {
            for _ in 0..RUNS {
                let finished = finish(&mut session.command());
                let printed = String::from_utf8(finished.stdout).expect("UTF-8");
                assert_eq!(
                    (printed, finished.stderr.as_str()),
                    (session.output.clone(), ""),
                    "{name} {}",
                    session.args
                );
                assert!(finished.status.success(), "{name}: {}", finished.status);
            }
        }
    }
}

/// The sessions for which a server has to be there, and that of the server.
fn beside_a_server() -> (Session, Vec<Session>) {
    let all = examples().into_iter().flat_map(|(_, text)| Session::all(&text));
    let (servers, others): (Vec<_>, Vec<_>) = all.partition(|session| session.is_beside);
    let server = servers.into_iter().find(|server| !server.output.is_empty()).expect("it says where it listens");
    let pollers = others.into_iter().filter(|session| session.args == server.args).collect();
    (server, pollers)
}

/// Starts a server that says in its first line where it listens, and returns the rest of what it will say.
fn start(server: &mut Command) -> (Theirs, String, BufReader<ChildStdout>) {
    let mut child = server.stdout(Stdio::piped()).spawn().expect("the server starts");
    let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
    let (theirs, mut line) = (Theirs(child), String::new());
    said.read_line(&mut line).expect("UTF-8");
    (theirs, line, said)
}

#[test]
fn those_that_need_a_server_print_what_their_heads_say_beside_ours() {
    let (server, pollers) = beside_a_server();
    assert!(!pollers.is_empty());
    for poller in pollers {
        for _ in 0..RUNS {
            let (mut listening, line, _) = start(&mut Session { args: "0 0".to_owned(), ..server.clone() }.command());
            let ports: Vec<_> = line.split(|c: char| !c.is_ascii_digit()).filter(|port| !port.is_empty()).collect();
            assert_eq!(line.replace(ports[0], "5557").replace(ports[1], "5556"), server.output);
            let finished = finish(&mut Session { args: ports.join(" "), ..poller.clone() }.command());
            let printed = String::from_utf8(finished.stdout).expect("UTF-8");
            assert_eq!((&printed, finished.stderr.as_str()), (&poller.output, ""), "{}", poller.name);
            assert!(listening.0.wait().expect("it ends").success());
        }
    }
}

#[test]
fn those_that_need_a_server_hear_one_that_others_wrote() {
    /// Goes on until its stdin ends. The first message waits for who pulls; what is published before somebody has
    /// subscribed goes nowhere.
    const SERVER: &str = "\
import itertools, sys, threading, time, zmq
context = zmq.Context()
push, pub = context.socket(zmq.PUSH), context.socket(zmq.PUB)
ports = [socket.bind_to_random_port('tcp://127.0.0.1') for socket in (push, pub)]
print(*ports, flush=True)
end = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), end.set())).start()
for number in itertools.count():
    for socket in (push, pub):
        socket.send_string(str(number))
    if end.wait(0.005):
        break
context.destroy(linger=10000)
";
    let has_it = |python: &&str| {
        let status = Command::new(python).args(["-c", "import zmq"]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_it) else {
        writeln!(io::stderr(), "skipped: there is no pyzmq").expect("told");
        return;
    };
    for poller in beside_a_server().1 {
        let (mut server, ports, _) = start(Command::new(python).args(["-c", SERVER]).stdin(Stdio::piped()));
        let mut command = Session { args: ports.trim().to_owned(), ..poller.clone() }.command();
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut child = Theirs(child);
        let mut heard: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
        let mut hear = |heard: &mut [Vec<usize>; 2]| {
            let line = lines.next()?.expect("UTF-8");
            let (from, number) = line.split_once(": ").expect("from whom, and what");
            let from = ["Via PULL", "Via SUB"].iter().position(|&name| name == from).expect("one of two");
            heard[from].push(number.parse().expect("a number"));
            Some(())
        };
        while heard.iter().any(|numbers| numbers.len() < 3) {
            hear(&mut heard).unwrap_or_else(|| panic!("{} has ended after {heard:?}", poller.name));
        }
        drop(server.0.stdin.take());
        while hear(&mut heard).is_some() {}
        assert!(child.0.wait().expect("it ends").success(), "{}", poller.name);
        assert!(server.0.wait().expect("it ends").success());
        // All that was pushed, and from the subscription on all that was published.
        let [pushed, published] = heard;
        assert!(pushed.iter().copied().eq(0..pushed.len()), "{pushed:?}");
        assert!(published.iter().copied().eq(published[0]..pushed.len()), "{pushed:?}, {published:?}");
    }
}

#[test]
fn each_has_a_row_in_the_list_in_its_order() {
    let list = fs::read_to_string(directory().join("README.md")).expect("a list");
    let row = Regex::new(r"(?m)^\|[^|]+\|[^|]+\| \[([^\]]+)\]\(([^)]+)\.rs\) \|[^|]+\|$").expect("valid");
    let rows: Vec<_> = row.captures_iter(&list).map(|found| found[1].to_owned()).collect();
    assert!(row.captures_iter(&list).all(|found| found[1] == found[2]));
    let names: Vec<_> = examples().into_iter().map(|(name, _)| name).collect();
    assert_eq!(rows, names);
    for (number, name) in (1..).zip(&names) {
        assert!(name.starts_with(&format!("{number:02}-")), "{name} should be number {number}");
    }
}

#[test]
fn each_is_short_waits_for_what_it_starts_and_leads_to_the_suite() {
    let detached = Regex::new(r"(?m)^\s*(tokio|thread)::spawn\(|^\s*tokio::task::spawn\w*\(").expect("valid");
    let grown_up = Regex::new(r"`(src/[\w/]+\.rs)`").expect("valid");
    for (name, text) in examples() {
        assert!(text.lines().count() <= 80, "{name} has {} lines", text.lines().count());
        assert!(!detached.is_match(&text), "{name}: nobody waits for what is spawned there");
        let files: Vec<_> = grown_up.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        assert!(!files.is_empty() && text.contains("Grown up: "), "{name}: where is its grown-up version?");
        for file in files {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).exists(), "{name}: there is no {file}");
        }
    }
}

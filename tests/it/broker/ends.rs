//! poetry-listen and poetry-send.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Client, broker};
use crate::harness::{Finished, PATIENCE, Running, Service, eventually, finish, program, refusing_port};

/// A listener that listens, as the broker says.
fn listen(broker: &Service, channel: &str, flags: &[&str]) -> Running {
    let running = Running::start(program("poetry-listen").args(flags).args([&broker.port(), channel]));
    let line = running.hear(&format!("Listening to {channel} on {} as ", broker.address));
    let (_, own) = line.rsplit_once(" as ").expect("its address");
    let own = own.split(',').next().expect("one");
    broker.hear(&format!("Somebody at {own} listens to "));
    running
}

fn send(broker: &Service, args: &[&str]) -> Finished {
    let mut command = program("poetry-send");
    finish(command.args(args.iter().map(|arg| arg.replace("ADDR", &broker.port()))))
}

fn send_lines(broker: &Service, args: &[&str], text: &str) -> Finished {
    let mut command = program("poetry-send");
    command.args(args.iter().map(|arg| arg.replace("ADDR", &broker.port())));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    Finished { status: output.status, stdout: output.stdout, stderr: String::new() }
}

#[test]
fn what_is_sent_is_written_in_the_form_that_is_asked_for() {
    let broker = broker(&[]);
    for (flags, expected) in [
        (&["-n", "3"][..], "one\n\ntwo\nlines\n"),
        (&["-n", "3", "-0"], "one\0\0two\nlines\0"),
        (&["-n", "3", "--raw"], "onetwo\nlines"),
    ] {
        let listener = listen(&broker, "/topic/a", flags);
        let sent = send(&broker, &["ADDR", "/topic/a", "one", "", "two\nlines"]);
        assert_eq!(sent.code(), 0, "{sent:?}");
        assert!(sent.stderr.contains("Sent 3 messages in "), "{sent:?}");
        let finished = listener.finish();
        assert_eq!((finished.code(), &*finished.stdout), (0, expected.as_bytes()), "{flags:?}");
    }
    let listener = listen(&broker, "/topic/a", &["-n", "2", "--json"]);
    send_lines(&broker, &["-0", "ADDR", "/topic/a"], "caf\u{e9}\0\"x\"");
    let finished = listener.finish();
    let lines: Vec<Value> = str::from_utf8(&finished.stdout)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [first, second] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&first["channel"], &first["data"], &first["bytes"]),
        (&"/topic/a".into(), &"caf\u{e9}".into(), &5.into())
    );
    assert!(
        second["at_us"].as_u64() >= first["at_us"].as_u64()
            && second["data"] == "\"x\""
            && second.get("base64").is_none()
    );
    // What is no text.
    let listener = listen(&broker, "/topic/a", &["-n", "1", "--json"]);
    let sender = Client::sender(&broker);
    sender.send("/topic/a", b"\xff\xfe\xfd");
    let finished = listener.finish();
    let line: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert_eq!((&line["base64"], line.get("data")), (&"//79".into(), None));
}

#[test]
fn messages_come_from_words_lines_a_file_or_nowhere() {
    let broker = broker(&[]);
    let place = tempfile::tempdir().expect("a directory");
    let poem = place.path().join("poem");
    fs::write(&poem, "two\nlines\n").expect("written");
    let poem = poem.to_str().expect("UTF-8");
    for (args, stdin, count, expected) in [
        (&["ADDR", "/topic/a", "x", "y"][..], "", "2", "x|y|"),
        (&["-n", "5", "ADDR", "/topic/a", "x", "y"], "", "5", "x|y|x|y|x|"),
        (&["ADDR", "/topic/a"], "a\n\nlast", "3", "a||last|"),
        (&["-n", "2", "ADDR", "/topic/a"], "a\nb\nc\n", "2", "a|b|"),
        (&["--file", poem, "ADDR", "/topic/a"], "", "1", "two\nlines\n|"),
        (&["--size", "3", "--count", "2", "ADDR", "/topic/a"], "", "2", "XXX|XXX|"),
        (
            &["--seed", "1", "--size", "0", "--count", "2", "ADDR", "/topic/a"],
            "",
            "2",
            "Msg 0 from SENDER|Msg 1 from SENDER|",
        ),
    ] {
        let listener = listen(&broker, "/topic/a", &["-0", "-n", count]);
        assert_eq!(send_lines(&broker, args, stdin).code(), 0, "{args:?}");
        let finished = listener.finish();
        let mut got = String::from_utf8(finished.stdout).expect("UTF-8").replace('\0', "|");
        if let Some(at) = got.find("from ") {
            let sender = got[at + 5..at + 13].to_owned();
            assert!(sender.bytes().all(|byte| byte.is_ascii_hexdigit()), "{sender}");
            got = got.replace(&sender, "SENDER");
        }
        assert_eq!(got, expected, "{args:?}");
    }
}

#[test]
fn what_is_stamped_is_judged() {
    let broker = broker(&[]);
    let place = tempfile::tempdir().expect("a directory");
    let report = place.path().join("report.json");
    let flags =
        ["-n", "500", "--report", report.to_str().expect("UTF-8"), "--assert", "lost = 0", "--assert", "p50 < 30s"];
    let listener = listen(&broker, "/topic/a", &flags);
    let sent = send(&broker, &["--stamp", "--size", "50", "--count", "500", "--rate", "5000", "ADDR", "/topic/a"]);
    assert_eq!(sent.code(), 0, "{sent:?}");
    let finished = listener.finish();
    assert_eq!(finished.code(), 0, "{finished:?}");
    let text = String::from_utf8(finished.stdout).expect("UTF-8");
    assert!(text.starts_with("500 messages from 1 sender: 0 lost, 0 duplicated, 0 reordered\nlate by "), "{text}");
    let report: Value = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
    for (name, value) in [("received", 500), ("lost", 0), ("duplicated", 0), ("reordered", 0), ("unstamped", 0)] {
        assert_eq!(report[name], value, "{name}");
    }
    let latency = |name: &str| report["latency_us"][name].as_u64().expect("a number");
    assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"));

    // A gap, a message again, one that is late, and one without a stamp.
    let listener =
        listen(&broker, "/topic/b", &["-n", "6", "--json", "--assert", "lost = 0", "--assert", "senders = 1"]);
    let sender = Client::sender(&broker);
    for number in ["1", "4", "2", "4"] {
        sender.send("/topic/b", format!("{number} keats 1700000000000000000 an ode"));
    }
    sender.send("/topic/b", "no stamp");
    sender.send("/topic/b", "5 keats 1700000000000000000 ");
    let finished = listener.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.has_line("--assert 'lost = 0' does not hold: lost is 1"), "{finished:?}");
    let report: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    for (name, value) in [("received", 6), ("lost", 1), ("duplicated", 1), ("reordered", 1), ("unstamped", 1)] {
        assert_eq!(report[name], value, "{name}");
    }
}

/// What the broker says that it delivered is what listeners got, and what it dropped is what they miss.
#[test]
fn what_a_broker_drops_is_what_listeners_miss() {
    let broker = broker(&["--max-length", "10k", "--queue", "20k"]);
    let flags = [
        &["--check", "--json", "--idle-timeout", "2s"][..],
        &["--check", "--json", "--slow", "2ms", "--idle-timeout", "2s"],
    ];
    let listeners = flags.map(|flags| listen(&broker, "/topic/a", flags));
    let sent = send(&broker, &["--stamp", "--size", "5000", "--count", "2000", "ADDR", "/topic/a"]);
    assert_eq!(sent.code(), 0, "{sent:?}");
    let [mut received, mut lost] = [0; 2];
    for listener in listeners {
        let finished = listener.finish();
        assert_eq!(finished.code(), 1, "nothing for so long: {finished:?}");
        let report: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
        let of = |name: &str| report[name].as_u64().expect("a number");
        assert_eq!((of("duplicated"), of("reordered"), of("unstamped")), (0, 0, 0));
        received += of("received");
        lost += of("lost");
    }
    let [sent, delivered, dropped, unheard] = super::totals(&broker);
    assert_eq!((sent, unheard, delivered, delivered + dropped), (2_000, 0, received, 4_000));
    // Those after the last one that somebody got are not proved.
    assert!(lost <= dropped && lost > 0, "{lost} of {dropped}");
}

#[test]
fn files_are_whole_and_numbered_after_those_that_are_there() {
    let broker = broker(&[]);
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("new");
    for (messages, names) in [(["a", "b"], ["00000001", "00000002"]), (["c", "d"], ["00000003", "00000004"])] {
        let listener = listen(&broker, "/queue/a", &["-n", "2", "-o", directory.to_str().expect("UTF-8")]);
        send(&broker, &["ADDR", "/queue/a", messages[0], messages[1]]);
        assert_eq!(listener.finish().code(), 0);
        for (name, message) in names.iter().zip(messages) {
            assert_eq!(fs::read_to_string(directory.join(name)).expect("there"), message);
        }
    }
    assert_eq!(directory.read_dir().expect("there").count(), 4);
}

#[test]
fn an_end_is_told_by_the_exit_status() {
    let broker = broker(&[]);
    let port = broker.port();
    let timed = finish(program("poetry-listen").args(["--for", "100ms", &port, "/topic/a"]));
    assert_eq!(timed.code(), 0, "{timed:?}");
    let idle = finish(program("poetry-listen").args(["--idle-timeout", "100ms", &port, "/topic/a"]));
    assert_eq!(idle.code(), 1);
    assert!(idle.has_line(&format!("{}: nothing for 100ms after 0 messages", broker.address)), "{idle:?}");
    let (_held, nobody) = refusing_port();
    for name in ["poetry-listen", "poetry-send"] {
        let refused = finish(program(name).args([&nobody, "/topic/a"]).stdin(Stdio::null()));
        assert_eq!(refused.code(), 1);
        assert!(refused.stderr.contains(&format!("127.0.0.1:{nobody}: connection refused")), "{refused:?}");
    }
    let listeners = [&[][..], &["-n", "5"]].map(|flags| listen(&broker, "/topic/a", flags));
    let place = tempfile::tempdir().expect("a directory");
    let interrupted = listen(&broker, "/topic/a", &["-o", place.path().to_str().expect("UTF-8")]);
    send(&broker, &["ADDR", "/topic/a", "one"]);
    eventually("it has it", || place.path().join("00000001").exists());
    interrupted.signal(Signal::SIGINT);
    assert_eq!(interrupted.finish().code(), 130);
    let endless =
        Running::start(program("poetry-send").args(["--size", "10", "--interval", "10ms", &port, "/topic/a"]));
    endless.hear("Sending to /topic/a on ");
    let name = broker.address.to_string();
    broker.stop();
    let [any, five] = listeners.map(Running::finish);
    assert_eq!((any.code(), five.code()), (0, 1));
    assert!(any.stderr.contains(&format!("{name} has ended the conversation after ")), "{any:?}");
    let endless = endless.finish();
    assert_eq!(endless.code(), 1);
    assert!(endless.stderr.contains("the broker ended the connection before it had everything"), "{endless:?}");
}

#[test]
fn a_message_that_the_broker_refuses_is_not_sent_as_far_as_one_knows() {
    let broker = broker(&["--max-length", "100"]);
    let sent = send(&broker, &["--size", "101", "--count", "1", "ADDR", "/topic/a"]);
    assert_eq!(sent.code(), 1, "{sent:?}");
    let why = "the broker ended the connection before it had everything (after 1 message, the longest of 101 bytes)";
    assert!(sent.stderr.contains(why), "{sent:?}");
}

#[test]
fn a_listener_comes_back_and_says_how_long_it_was_deaf() {
    let first = broker(&[]);
    let port = first.port();
    let listener = listen(&first, "/topic/a", &["--reconnect", "-n", "2"]);
    send(&first, &["ADDR", "/topic/a", "before"]);
    first.stop();
    listener.hear("it has ended the conversation; trying again");
    let second = broker(&["--port", &port]);
    let line = listener.hear("Listening to /topic/a on ");
    assert!(line.contains(" again, deaf for "), "{line}");
    second.hear("listens to /topic/a!");
    send(&second, &["ADDR", "/topic/a", "after"]);
    let finished = listener.finish();
    assert_eq!((finished.code(), &*finished.stdout), (0, &b"before\nafter\n"[..]));
}

#[test]
fn a_listener_takes_no_more_jobs_than_it_is_asked_for() {
    let broker = broker(&[]);
    let words: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let jobs: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(send(&broker, &[&["ADDR", "/queue/jobs"], &jobs[..]].concat()).code(), 0);
    let mut taken = Vec::new();
    for (flags, most) in [(["-n", "1"], 1), (["-n", "30"], 30), (["--for", "500ms"], 100)] {
        let finished = finish(program("poetry-listen").args(flags).args([&broker.port(), "/queue/jobs"]));
        assert_eq!(finished.code(), 0, "{finished:?}");
        let text = String::from_utf8(finished.stdout).expect("UTF-8");
        assert!(text.lines().count() <= most, "{flags:?}: {text}");
        taken.extend(text.lines().map(str::to_owned));
    }
    taken.sort_by_key(|job| job.parse::<u32>().expect("a number"));
    assert_eq!(taken, words, "each of them, and once");
}

/// A directory where nothing can be written any more: it is a file by now.
#[test]
fn a_job_that_cannot_be_written_is_somebody_elses() {
    let broker = broker(&[]);
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("jobs");
    let listener = listen(&broker, "/queue/jobs", &["-o", directory.to_str().expect("UTF-8")]);
    let sender = Client::sender(&broker);
    sender.send("/queue/jobs", "one");
    eventually("it is there", || directory.join("00000001").exists());
    fs::remove_dir_all(&directory).expect("removed");
    fs::write(&directory, "no directory").expect("written");
    for job in ["two", "three"] {
        sender.send("/queue/jobs", job);
    }
    let finished = listener.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("cannot write ") && finished.stderr.contains("Gave back "), "{finished:?}");
    let other = finish(program("poetry-listen").args(["-q", "-n", "2", &broker.port(), "/queue/jobs"]));
    let mut jobs: Vec<&str> = str::from_utf8(&other.stdout).expect("UTF-8").lines().collect();
    jobs.sort_unstable();
    assert_eq!(jobs, ["three", "two"]);
}

#[test]
fn a_sender_keeps_its_pace() {
    let broker = broker(&[]);
    let client = Client::listening(&broker, "/topic/a");
    let sender = Running::start(program("poetry-send").args([
        "--size",
        "5",
        "--count",
        "5",
        "--interval",
        "100ms",
        "--jitter",
        "20ms",
        "--seed",
        "3",
        &broker.port(),
        "/topic/a",
    ]));
    client.message();
    let begun = std::time::Instant::now();
    for _ in 0..4 {
        client.message();
    }
    // Never too early; how late is the machine's affair.
    assert!(begun.elapsed() >= Duration::from_millis(360), "{:?}", begun.elapsed());
    assert_eq!(sender.finish().code(), 0);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn stdout_that_nobody_reads_is_a_quiet_end() {
    let broker = broker(&[]);
    let mut command = Command::new("sh");
    let listen = crate::harness::path_of("poetry-listen");
    let script = format!("{} -q {} /queue/a | head -n 1", listen.display(), broker.port());
    send(&broker, &["ADDR", "/queue/a", "one", "two", "three"]);
    let running = Running::start(command.args(["-c", &script]));
    // It learns of it with the next message.
    while !running.has_ended() {
        send(&broker, &["ADDR", "/queue/a", "more"]);
    }
    let finished = running.finish();
    assert_eq!((finished.code(), &*finished.stdout, &*finished.stderr), (0, &b"one\n"[..], ""));
}

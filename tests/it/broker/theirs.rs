//! Clients that others could write, in Python, and brokers that others wrote: servers of NATS.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::{Client, broker};
use crate::harness::{Running, Service, finish, program};
#[cfg(feature = "nats")]
use crate::harness::{Theirs, free_port};

fn skip(what: &str) {
    writeln!(io::stderr(), "skipped: there is no {what}").expect("told");
}

/// Both ends of the protocol on asyncio's streams: a message is four bytes of length and so many bytes; who listens says
/// first where, and who sends is on /null and says before each message where it goes.
const PYTHON: &str = r#"
import asyncio, sys

async def read_message(stream):
    length = int.from_bytes(await stream.readexactly(4), 'big')
    return await stream.readexactly(length)

async def send_message(stream, data):
    stream.write(len(data).to_bytes(4, 'big') + data)
    await stream.drain()

async def listen(port, channel, count):
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    await send_message(writer, channel.encode())
    print('at', '%s:%d' % writer.get_extra_info('sockname')[:2], file=sys.stderr, flush=True)
    try:
        while True:
            print('Received by listener:', await read_message(reader), flush=True)
    except asyncio.IncompleteReadError:
        print('Server closed.', flush=True)

async def send(port, channel, count):
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    await send_message(writer, b'/null')
    try:
        for number in range(count):
            await send_message(writer, channel.encode())
            await send_message(writer, b'' if number == 1 else b'Msg %d' % number)
            if number == 3:
                print('four', file=sys.stderr, flush=True)
            await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()
    except OSError:
        print('Connection ended.', flush=True)

role, port, channel, count = sys.argv[1:]
asyncio.run({'listen': listen, 'send': send}[role](int(port), channel, int(count)))
"#;

/// A client of its own, if there is Python.
fn python(role: &str, broker: &Service, channel: &str, count: &str) -> Option<Running> {
    Command::new("python3").arg("--version").output().ok()?;
    let mut python = Command::new("python3");
    Some(Running::start(python.args(["-c", PYTHON, role, &broker.port(), channel, count])))
}

#[test]
fn clients_in_python_work_in_both_roles() {
    let broker = broker(&[]);
    let Some(listener) = python("listen", &broker, "/topic/foo", "0") else { return skip("python3") };
    let line = listener.hear("at ");
    broker.hear(&format!("Somebody at {} listens to /topic/foo!", line.trim_start_matches("at ")));
    let ours = Client::listening(&broker, "/topic/foo");
    let sender = python("send", &broker, "/topic/foo", "3").expect("there is Python").finish();
    assert_eq!((sender.code(), &*sender.stdout, &*sender.stderr), (0, &b""[..], ""));
    for message in ["Msg 0", "", "Msg 2"] {
        assert_eq!(ours.text(), message);
    }
    ours.send("/topic/foo", "from here");
    // An endless one learns that the broker stops, and so does who listens.
    let endless = python("send", &broker, "/topic/bar", "1000000").expect("there is Python");
    endless.hear("four");
    broker.stop();
    let listener = listener.finish();
    let lines: Vec<&str> = str::from_utf8(&listener.stdout).expect("UTF-8").lines().collect();
    let expected = ["b'Msg 0'", "b''", "b'Msg 2'", "b'from here'"].map(|it| format!("Received by listener: {it}"));
    assert_eq!(lines[..4], expected);
    assert_eq!((lines[4..].to_vec(), listener.code()), (vec!["Server closed."], 0));
    let endless = endless.finish();
    assert_eq!((&*endless.stdout, endless.code()), (&b"Connection ended.\n"[..], 0));
}

#[test]
fn nats_is_a_feature_and_its_absence_is_named() {
    if cfg!(feature = "nats") {
        return;
    }
    for name in ["poetry-listen", "poetry-send"] {
        let finished = finish(program(name).args(["nats://localhost", "/topic/a"]).stdin(Stdio::null()));
        assert_eq!(finished.code(), 2);
        let why = "nats://localhost:4222: this program was built without NATS: build it with --features nats";
        assert_eq!(finished.complaint(), format!("{name}: {why}"));
    }
}

/// A server of NATS, if there is one.
#[cfg(feature = "nats")]
fn nats(flags: &[&str]) -> Option<(Theirs, String)> {
    let port = free_port();
    let mut command = Command::new("nats-server");
    command.args(["-a", "127.0.0.1", "-p", &port.to_string()]).args(flags);
    let server = Theirs::start(port, &mut command)?;
    Some((server, format!("127.0.0.1:{port}")))
}

#[cfg(feature = "nats")]
fn listen(place: &str, channel: &str, flags: &[&str]) -> Running {
    let running = Running::start(program("poetry-listen").args(flags).args([place, channel]));
    // Not before the server has heard of it.
    running.hear("Listening to ");
    running
}

#[cfg(feature = "nats")]
#[test]
fn nats_carries_the_same_words() {
    let Some((_server, address)) = nats(&[]) else { return skip("nats-server") };
    let place = format!("nats://{address}");
    let judge = listen(&place, "/topic/a/b", &["-n", "1000", "--assert", "lost = 0", "--json"]);
    let sent = finish(program("poetry-send").args(["--stamp", "--size", "100", "-n", "1000", &place, "/topic/a/b"]));
    assert_eq!(sent.code(), 0, "{sent:?}");
    let judged = judge.finish();
    assert_eq!(judged.code(), 0, "{judged:?}");
    let workers = [(); 2].map(|()| listen(&place, "/queue/jobs", &["--idle-timeout", "1s"]));
    let words: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(finish(program("poetry-send").args([&place, "/queue/jobs"]).args(&words)).code(), 0);
    let mut jobs: Vec<String> = Vec::new();
    for worker in workers {
        let finished = worker.finish();
        jobs.extend(str::from_utf8(&finished.stdout).expect("UTF-8").lines().map(str::to_owned));
    }
    jobs.sort_by_key(|job| job.parse::<u32>().expect("a number"));
    assert_eq!(jobs, words, "each of them once");
    // An empty message, one that is too long, a name that is none.
    let empty = listen(&place, "/topic/e", &["-n", "1"]);
    assert_eq!(finish(program("poetry-send").args([&place, "/topic/e", ""])).code(), 0);
    assert_eq!(empty.finish().stdout, b"\n");
    let long = finish(program("poetry-send").args(["--size", "2M", "-n", "1", &place, "/topic/a"]));
    assert_eq!(long.code(), 1);
    assert!(long.stderr.contains("a message: 2000000 bytes are over the limit of 1048576"), "{long:?}");
    let name = finish(program("poetry-send").args([&place, "/topic/a.b", "x"]));
    assert_eq!(name.code(), 2);
    assert!(name.complaint().contains("'/topic/a.b' has a character that means something else to NATS"), "{name:?}");
}

#[cfg(feature = "nats")]
#[test]
fn nats_says_who_may_not() {
    let place = tempfile::tempdir().expect("a directory");
    let config = place.path().join("nats.conf");
    let text = "authorization { users = [ { user: keats, password: ode, permissions: { subscribe: { allow: [\"_INBOX.>\", \"topic.a\"] } } } ] }";
    std::fs::write(&config, text).expect("written");
    let Some((_server, address)) = nats(&["-c", config.to_str().expect("UTF-8")]) else { return skip("nats-server") };
    let stranger = finish(program("poetry-send").args([&format!("nats://{address}"), "/topic/a", "x"]));
    assert_eq!(stranger.code(), 1);
    assert!(stranger.stderr.contains("authorization violation"), "{stranger:?}");
    let keats = format!("nats://keats:ode@{address}");
    let listener = listen(&keats, "/topic/a", &["-n", "1"]);
    assert_eq!(finish(program("poetry-send").args([&keats, "/topic/a", "x"])).code(), 0);
    assert_eq!(listener.finish().stdout, b"x\n");
    let forbidden = finish(program("poetry-listen").args([&keats, "/topic/b"]));
    assert_eq!(forbidden.code(), 1);
    let lower = forbidden.stderr.to_lowercase();
    assert!(lower.contains("permissions violation") && !lower.contains("ode@"), "{forbidden:?}");
}

/// Three servers, of which one is killed under load: who listens goes on at another one, and says how long it was deaf.
#[cfg(feature = "nats")]
#[test]
fn nats_is_a_cluster_and_listening_survives_a_member() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let mut members = Vec::new();
    for (number, port) in ports.iter().enumerate() {
        let name = format!("member-{number}");
        let cluster = format!("nats://127.0.0.1:{port}");
        let flags =
            ["--server_name", &name, "--cluster_name", "poets", "--cluster", &cluster, "--routes", &routes.join(",")];
        let Some(member) = nats(&flags) else { return skip("nats-server") };
        members.push(member);
    }
    let places: Vec<String> = members.iter().map(|(_, address)| format!("nats://{address}")).collect();
    // What is sent to one member comes out of another one, as soon as they know each other.
    let probe = listen(&places[0], "/topic/probe", &["-n", "1"]);
    while !probe.has_ended() {
        assert_eq!(finish(program("poetry-send").args([&places[2], "/topic/probe", "there?"])).code(), 0);
    }
    let listener = listen(&places[0], "/topic/a", &["--reconnect", "--check", "--json"]);
    let sender = Running::start(
        program("poetry-send").args(["--stamp", "--size", "50", "--rate", "500", &places[2], "/topic/a"]),
    );
    sender.hear("Sending to ");
    let (killed, _) = members.remove(0);
    drop(killed);
    listener.hear("The connection has ended; trying again");
    let again = listener.hear("Listening again, on 127.0.0.1:");
    assert!(again.contains(", deaf for "), "{again}");
    // It hears the sender again, at another member.
    let probe = listen(&places[1], "/topic/a", &["-n", "200"]);
    assert_eq!(probe.finish().code(), 0);
    sender.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(sender.finish().code(), 130);
    listener.signal(nix::sys::signal::Signal::SIGINT);
    let finished = listener.finish();
    assert_eq!(finished.code(), 130);
    let report: serde_json::Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    assert!(report["received"].as_u64() > Some(100), "{report}");
    assert_eq!((&report["duplicated"], &report["reordered"]), (&0.into(), &0.into()));
}

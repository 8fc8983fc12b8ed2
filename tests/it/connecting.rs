//! Connecting: to oneself, to names with several addresses, in a circle of proxies.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;

use nix::sys::signal::Signal;

use crate::harness::{CLIENTS, Finished, Service, finish, path_of, poem_file, read_out, reset, run, send_whole};

const POEM: &[u8] = b"a whole poem\n";
const HALF: &[u8] = b"half a ";

/// A shell in namespaces of its own, as root there. `None`, and a word on stderr, where nobody may have them.
fn shell(namespaces: &[&str], setup: &str) -> Option<Command> {
    for user in [&["--user", "--map-root-user"][..], &[]] {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(user).args(namespaces).stdin(Stdio::null()).env_remove("RUST_LOG");
            command
        };
        let probe = unshare().args(["sh", "-c", setup]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if probe.is_ok_and(|status| status.success()) {
            let mut command = unshare();
            command.args(["sh", "-c"]);
            return Some(command);
        }
    }
    writeln!(io::stderr(), "skipped: namespaces are for root only here, or unshare(1) or ip(8) is missing")
        .expect("told");
    None
}

/// Runs a script where the only ephemeral port is 40000: to connect to it is to connect to oneself. (The processes of
/// the script end with it.)
fn among_oneself(script: &str, args: &[&str]) -> Option<Finished> {
    const SETUP: &str = "ip link set lo up && echo '40000 40000' >/proc/sys/net/ipv4/ip_local_port_range";
    let mut command = shell(&["--net", "--pid", "--fork", "--kill-child"], SETUP)?;
    Some(finish(command.arg(format!("{SETUP} && {script}")).arg("sh").args(args)))
}

/// The path of a program as an argument.
fn path(name: &str) -> String {
    path_of(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_connection_to_oneself_is_refused_and_leaves_no_trace() {
    for client in CLIENTS {
        for address in ["40000", "localhost:40000", "[::1]:40000"] {
            // More than once: nothing that is left of the first may be in the way of the next.
            let script = r#"exec "$1" --idle-timeout 2s --retries 2 --report /dev/stdout "$2""#;
            let Some(finished) = among_oneself(script, &[&path(client), address]) else { return };
            assert_eq!(finished.code(), 1, "{client} {address}: {finished:?}");
            assert_eq!(finished.stderr.matches(": connection refused").count(), 3, "{client} {address}: {finished:?}");
            let report = String::from_utf8_lossy(&finished.stdout);
            assert!(report.contains(r#""status":"refused""#), "{client} {address}: {report}");
        }
    }
}

#[test]
fn a_request_to_oneself_is_no_reply() {
    for client in CLIENTS {
        let script = r#""$1" -q --port 30000 --delay 0 --clients 1 "$2" | { read -r line; "$3" --transform shout --via 40000 30000; }"#;
        let file = poem_file("sera.txt");
        let args = [path("slowpoetry"), file.to_str().expect("UTF-8").to_owned(), path(client)];
        let Some(finished) = among_oneself(script, &args.each_ref().map(String::as_str)) else { return };
        assert_eq!(finished.code(), 0, "{client}: {finished:?}");
        assert!(finished.stdout == fs::read(&file).expect("a poem"), "{client}: the poem as it was");
        let why = "shout failed: 127.0.0.1:40000: connection refused; keeping the poem as it was";
        assert!(finished.stderr.contains(why), "{client}: {finished:?}");
    }
}

#[test]
fn a_proxy_takes_no_poem_from_its_own_socket() {
    let script = r#""$1" --upstream-timeout 0 --port 30000 40000 | { read -r line; "$2" -q 30000; kill -TERM -1; }"#;
    let Some(finished) = among_oneself(script, &[&path("poetry-proxy"), &path("get-poetry")]) else { return };
    let why = "Cannot fetch the poem from 127.0.0.1:40000: connection refused";
    assert!(finished.stderr.contains(why), "{finished:?}");
    assert!(finished.stderr.contains("Task 1: failed: 127.0.0.1:30000: connection reset by peer"), "{finished:?}");
}

/// Two servers on one port of two addresses. Whichever is asked first breaks off when `go` returns, then and always.
fn two_servers(go: impl Fn() + Send + Sync + 'static) -> u16 {
    let (one, other) = loop {
        let one = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = one.local_addr().expect("an address").port();
        if let Ok(other) = TcpListener::bind(("127.0.0.2", port)) {
            break (one, other);
        }
    };
    let port = one.local_addr().expect("an address").port();
    let (bad, go) = (Arc::new(OnceLock::<SocketAddr>::new()), Arc::new(go));
    for listener in [one, other] {
        let (address, bad) = (listener.local_addr().expect("an address"), Arc::clone(&bad));
        let go = Arc::clone(&go);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream?;
                if *bad.get_or_init(|| address) == address {
                    stream.write_all(HALF)?;
                    go();
                    reset(stream);
                } else {
                    send_whole(stream, POEM);
                }
            }
            io::Result::Ok(())
        });
    }
    port
}

/// Whatever runs there knows `poems.made-up`, which has the addresses of [`two_servers`].
fn with_a_name(directory: &std::path::Path) -> Option<Command> {
    let hosts = directory.join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost poems.made-up\n127.0.0.2 poems.made-up\n").expect("written");
    let mount = format!("mount --bind '{}' /etc/hosts", hosts.display());
    let known = format!("{mount} && test \"$(getent ahostsv4 poems.made-up | grep -c STREAM)\" = 2");
    let mut command = shell(&["--mount"], &known)?;
    command.arg(format!("{mount} && exec \"$@\"")).arg("sh");
    Some(command)
}

#[test]
fn a_retry_begins_with_the_address_after_the_one_that_failed() {
    let directory = tempfile::tempdir().expect("a directory");
    for client in CLIENTS {
        let Some(mut command) = with_a_name(directory.path()) else { return };
        let address = format!("poems.made-up:{}", two_servers(|| {}));
        let finished = finish(command.arg(path_of(client)).args(["--retries", "1", &address]));
        assert_eq!((finished.code(), &finished.stdout[..]), (0, POEM), "{client}: {finished:?}");
    }
}

#[test]
fn a_proxys_next_fetch_begins_with_the_address_after_the_one_that_failed() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut command) = with_a_name(directory.path()) else { return };
    let half_way = Arc::new(Barrier::new(2));
    let go = Arc::clone(&half_way);
    let upstream = format!(
        "poems.made-up:{}",
        two_servers(move || {
            go.wait();
        })
    );
    let proxy = Service::start(command.arg(path_of("poetry-proxy")).arg(upstream));
    let mut client = proxy.connect();
    client.read_exact(&mut [0; HALF.len()]).expect("half a poem, live");
    half_way.wait();
    assert!(read_out(client).is_err(), "and no more");
    for _ in 0..3 {
        assert_eq!(proxy.fetch().expect("the other one"), POEM);
        proxy.signal(Signal::SIGHUP);
        proxy.hear("Forgot the poem");
    }
}

#[test]
fn a_proxy_before_itself_is_a_usage_error() {
    for (iface, upstream) in [
        ("localhost", "9"),
        ("localhost", "localhost:9"),
        ("localhost", "LOCALHOST.:9"),
        ("localhost", "0.0.0.0:9"),
        ("127.0.0.1", "127.0.0.1:9"),
        ("::1", "[::1]:9"),
        ("::1", "[::]:9"),
        ("::1", "localhost:9"),
        ("0.0.0.0", "127.0.0.7:9"),
        ("::", "[::1]:9"),
    ] {
        let finished = run("poetry-proxy", ["--iface", iface, "--port", "9", upstream]);
        assert_eq!((finished.code(), &finished.stdout[..]), (2, &b""[..]), "{iface}, {upstream}: {finished:?}");
        let why = finished.complaint();
        assert!(why.ends_with(":9 is this proxy itself, and no upstream"), "{iface}, {upstream}: {why}");
        let finished = run("poetryd", ["--check", "poetry-proxy", "--iface", iface, "--port", "9", upstream]);
        assert_eq!(finished.code(), 2, "{iface}, {upstream}: {finished:?}");
    }
}

#[test]
fn a_name_that_leads_back_to_a_proxy_fails_its_fetches_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 poems.made-up\n127.0.0.2 poems.made-up\n").expect("written");
    let setup = format!("ip link set lo up && mount --bind '{}' /etc/hosts", hosts.display());
    let namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child"];
    let Some(mut command) = shell(&namespaces, &setup) else { return };
    // Neither a client nor the stop may have to wait: all the limits are off.
    let script = r#""$1" --iface 0.0.0.0 --upstream-timeout 0 --grace 1h --port 30000 poems.made-up:30000 |
        { read -r line; "$2" -q --idle-timeout 0 30000 30000; kill -TERM -1; }"#;
    command.arg(format!("{setup} && {script}")).arg("sh").args([path_of("poetry-proxy"), path_of("get-poetry")]);
    let finished = finish(&mut command);
    let why = "Cannot fetch the poem from poems.made-up:30000: upstream is this proxy itself";
    assert!(finished.stderr.contains(why), "{finished:?}");
    assert_eq!(finished.stderr.matches("failed: 127.0.0.1:30000: connection reset by peer").count(), 2, "{finished:?}");
    assert!(finished.stderr.contains("0 clients served, 2 lost, 0 of them reset"), "it is no client of its own");
}

#[test]
fn proxies_of_one_file_that_form_a_circle_are_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("poetry.toml");
    let proxy = |port: u16, upstream: &str| format!("[[poetry-proxy]]\nport = {port}\nupstream = \"{upstream}\"\n");
    for (proxies, why) in [
        (proxy(9, "9"), ":3: upstream: 127.0.0.1:9 is this proxy itself, and no upstream"),
        (proxy(9, "10") + &proxy(10, "localhost:9"), ":6: upstream: a circle of proxies, in lines 4 to 1 to 4"),
        (
            proxy(9, "10") + &proxy(10, "11") + &proxy(12, "9") + &proxy(11, "0.0.0.0:9"),
            ":12: upstream: a circle of proxies, in lines 10 to 1 to 4 to 10",
        ),
        (proxy(9, "10") + &proxy(10, "11"), ""),
    ] {
        fs::write(&file, &proxies).expect("written");
        let finished = run("poetryd", ["--check", "--config", file.to_str().expect("UTF-8")]);
        if why.is_empty() {
            assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{proxies}");
        } else {
            assert_eq!(finished.code(), 2, "{finished:?}");
            assert!(finished.complaint().ends_with(why), "{finished:?}");
        }
    }
}

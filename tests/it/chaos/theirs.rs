//! In front of servers that others wrote, met by their own clients: what `docs/chaos.md` says that they say.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::chaos;
use crate::harness::{Theirs, free_port, refusing_port};
use crate::postgres::Postgres;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/chaos.md")).expect("the page")
}

fn skip(what: &str) {
    writeln!(io::stderr(), "skipped: there is no {what}").expect("told");
}

/// What a client says, and its exit status.
fn said(client: &mut Command) -> (String, i32) {
    // Not only text: some show the garbage that they were told.
    let told = client.stdin(Stdio::null()).output().expect("it is there");
    let said = [told.stdout, told.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), told.status.code().expect("it exits"))
}

#[test]
fn redis_cli_says_what_the_page_says() {
    let place = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let mut redis = Command::new("redis-server");
    redis.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    let Some(_server) = Theirs::start(port, redis.arg(place.path())) else {
        return skip("redis-server");
    };
    let page = page();
    for (flags, words) in [
        (&[][..], "hello-hello-hello-hello-hello"),
        (&["--behavior", "100:error", "--seed", "1"], "Protocol error, got "),
        (&["--behavior", "100:blackout"], "Connection reset by peer"),
        (&["--behavior", "100:abort"], "Connection reset by peer"),
        (&["--cut-at", "20"], "Connection reset by peer"),
        (&["--cut-at", "20", "--cut", "fin"], "Server closed the connection"),
        (&["--corrupt", "10", "--seed", "1"], "Bad bulk string length"),
        (&["--latency", "200ms", "--direction", "both"], "hello-hello-hello-hello-hello"),
    ] {
        assert!(page.contains(words), "{words}");
        let proxy = chaos(flags, &port.to_string());
        let mut client = Command::new("redis-cli");
        client.args(["-h", "127.0.0.1", "-p", &proxy.port(), "echo", "hello-hello-hello-hello-hello"]);
        let (all, _) = said(&mut client);
        assert!(all.contains(words), "{flags:?}: {all}");
    }
}

#[test]
fn psql_says_what_the_page_says() {
    if Command::new("psql").arg("--version").output().is_err() {
        return skip("psql");
    }
    let Some(server) = Postgres::start() else { return };
    let page = page();
    for (flags, words) in [
        (&[][..], "42"),
        (&["--behavior", "100:delay", "--delay", "1s"], "42"),
        (&["--behavior", "100:error", "--seed", "1"], "received invalid response to SSL negotiation"),
        (&["--behavior", "100:hang"], "timeout expired"),
        // A race between the reset and the first word of the client.
        (&["--behavior", "100:blackout"], "Connection reset by peer|server closed the connection unexpectedly"),
        (&["--behavior", "100:abort"], "server closed the connection unexpectedly"),
        (&["--cut-at", "20"], "server closed the connection unexpectedly"),
        (&["--cut-at", "400"], "server closed the connection unexpectedly"),
        (&["--cut-at", "400", "--cut", "fin"], "server closed the connection unexpectedly"),
        (&["--cut-at", "20", "--cut", "hang"], "timeout expired"),
        (&["--latency", "50ms", "--direction", "both"], "42"),
    ] {
        assert!(words.split('|').all(|words| page.contains(words)), "{words}");
        let proxy = chaos(flags, &server.port().to_string());
        let mut client = Command::new("psql");
        client.args(["-h", "127.0.0.1", "-p", &proxy.port(), "-U", "postgres", "-XAtc", "select 6*7"]);
        // Who is not to time out must not do so on a machine that is busy either.
        let limit = if words == "timeout expired" { "3" } else { "60" };
        let (all, _) = said(client.env("PGCONNECT_TIMEOUT", limit).env("LC_ALL", "C"));
        assert!(words.split('|').any(|words| all.contains(words)), "{flags:?}: {all}");
    }
}

#[test]
fn curl_says_what_the_page_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl");
    }
    let (place, port) = (tempfile::tempdir().expect("a directory"), free_port());
    let (root, config) = (place.path().display(), place.path().join("nginx.conf"));
    let text = format!(
        "daemon off; master_process off; pid {root}/pid; error_log stderr crit; events {{}}
        http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
            uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
            server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{}'; }} }} }}",
        "x".repeat(1_000)
    );
    fs::write(&config, text).expect("written");
    let mut nginx = Command::new("nginx");
    nginx.args(["-e", "stderr", "-p"]).arg(place.path()).arg("-c").arg(&config);
    let Some(_server) = Theirs::start(port, &mut nginx) else { return skip("nginx") };
    let (_held, nobody) = refusing_port();
    let upstream = port.to_string();
    for (flags, upstream, expected) in [
        (&[][..], &upstream, 0),
        (&["--behavior", "100:delay", "--delay", "1s"], &upstream, 0),
        (&["--behavior", "100:error"], &upstream, 22),
        (&["--behavior", "100:hang"], &upstream, 28),
        (&["--behavior", "100:blackout"], &upstream, 56),
        (&["--behavior", "100:abort"], &upstream, 56),
        (&["--cut-at", "500"], &upstream, 56),
        (&["--cut-at", "500", "--cut", "fin"], &upstream, 18),
        (&["--cut-at", "500", "--cut", "hang"], &upstream, 28),
        (&[], &nobody, 56),
    ] {
        let proxy = chaos(&[&["--protocol", "http"], flags].concat(), upstream);
        let mut client = Command::new("curl");
        let limit = if expected == 28 { "2" } else { "60" };
        client.args(["-sf", "-m", limit, "-o", "/dev/null", &format!("http://{}/", proxy.address)]);
        let (_, status) = said(&mut client);
        assert_eq!(status, expected, "{flags:?}");
    }
}

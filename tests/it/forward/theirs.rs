//! poetry-proxy --http between clients and servers of others.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Service, Theirs, finish, free_port, poem_file, program};
use crate::webdriver::Browser;

fn proxy(flags: &[&str]) -> Service {
    Service::start(program("poetry-proxy").args(["--http", "-v"]).args(flags))
}

fn skip(what: &str) {
    writeln!(io::stderr(), "skipped: there is no {what}").expect("told");
}

fn is_there(tool: &str) -> bool {
    let is_there = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        skip(tool);
    }
    is_there
}

/// Runs a command, and returns its exit status and what it wrote to stdout.
fn seen(command: &mut Command) -> (i32, Vec<u8>) {
    let finished = finish(command);
    (finished.code(), finished.stdout)
}

#[test]
fn every_framing_and_every_cut_of_fastpoetry_is_what_it_is_to_curl() {
    if !is_there("curl") {
        return;
    }
    let poem = fs::read(poem_file("science.txt")).expect("a poem");
    let proxy = proxy(&[]);
    for framing in ["length", "chunked", "close"] {
        for cut in ["", "fin", "rst"] {
            let mut flags = vec!["--http", "--framing", framing];
            if !cut.is_empty() {
                flags.extend(["--cut-at", "100", "--cut", cut]);
            }
            let server = Service::fast(&poem_file("science.txt"), flags);
            let url = format!("http://{}/", server.address);
            for version in ["--http1.1", "--http1.0"] {
                let mut curl = Command::new("curl");
                curl.args(["-s", "-x", &proxy.address.to_string(), version, &url]);
                let (code, body) = seen(&mut curl);
                match (cut, framing) {
                    ("", _) => assert_eq!((code, &body), (0, &poem), "{framing} {version}"),
                    // Nobody can tell: that is what a length is for.
                    ("fin", "close") => assert_eq!((code, &body[..]), (0, &poem[..100]), "{version}"),
                    _ => {
                        assert!([18, 56].contains(&code), "{framing} {cut} {version}: {code}");
                        assert!(poem.starts_with(&body), "{framing} {cut} {version}");
                    }
                }
            }
        }
    }
}

#[test]
fn poems_come_through_it_in_all_four_models() {
    let server = Service::fast(&poem_file("science.txt"), ["--http"]);
    let proxy = proxy(&[]);
    let (proxy, url) = (proxy.address.to_string(), format!("http://{}/", server.address));
    crate::harness::with_every_client(|client| {
        let got = finish(program(client).args(["-q", "--proxy", &proxy, &url, &url, &url]));
        let poem = fs::read(poem_file("science.txt")).expect("a poem").repeat(3);
        assert_eq!((got.code(), got.stdout), (0, poem), "{client}");
    });
}

/// Servers in Python: one of HTTP/1.0 that ends each reply with its connection, and one with chunks.
const AIOHTTP: &str = "
import sys
from aiohttp import web

async def chunks(request):
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for number in range(3):
        await response.write(b'line %d\\n' % number)
    return response

app = web.Application()
app.add_routes([web.get('/', chunks)])
web.run_app(app, host='127.0.0.1', port=int(sys.argv[1]), print=None)
";

#[test]
fn servers_of_others_are_forwarded() {
    if !is_there("curl") || !Path::new("/usr/bin/python3").exists() {
        return;
    }
    let proxy = proxy(&[]);
    let through = |url: &str, more: &[&str]| {
        let proxy = proxy.address.to_string();
        seen(Command::new("curl").args(["-s", "-x", &proxy, url]).args(more))
    };
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("hello.txt"), "hello\n").expect("written");
    let port = free_port();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"]).current_dir(directory.path());
    let _server = Theirs::start(port, &mut python).expect("it listens");
    let url = format!("http://127.0.0.1:{port}/hello.txt");
    assert_eq!(through(&url, &[]), (0, b"hello\n".to_vec()));
    assert_eq!(
        through(&format!("http://127.0.0.1:{port}/absent"), &["-o", "/dev/null", "-w", "%{http_code}"]),
        (0, b"404".to_vec())
    );
    let port = free_port();
    match Theirs::start(port, Command::new("/usr/bin/python3").args(["-c", AIOHTTP, &port.to_string()])) {
        Some(_server) => {
            let lines = b"line 0\nline 1\nline 2\n".to_vec();
            assert_eq!(through(&format!("http://127.0.0.1:{port}/"), &[]), (0, lines));
        }
        None => skip("aiohttp"),
    }
    let port = free_port();
    let root = directory.path().to_str().expect("UTF-8");
    let configuration = format!(
        "daemon off; master_process off; pid {root}/pid; error_log stderr crit; events {{}} http {{ access_log off; \
        client_body_temp_path {root}/1; proxy_temp_path {root}/2; fastcgi_temp_path {root}/3; uwsgi_temp_path {root}/4; \
        scgi_temp_path {root}/5; server {{ listen 127.0.0.1:{port}; root {root}; expires 1h; etag on; }} }}"
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, configuration).expect("written");
    match Theirs::start(port, Command::new("nginx").arg("-p").arg(root).arg("-c").arg(&file)) {
        Some(server) => {
            let url = format!("http://127.0.0.1:{port}/hello.txt");
            assert_eq!(through(&url, &[]), (0, b"hello\n".to_vec()));
            // It has said for how long that is good: nobody has to be there.
            drop(server);
            assert_eq!(through(&url, &[]), (0, b"hello\n".to_vec()));
            assert_eq!(through(&format!("{url}?other"), &["-f"]).0, 22);
        }
        None => skip("nginx"),
    }
}

/// https by way of CONNECT, with a certificate that nobody else has signed.
#[test]
fn https_goes_through_a_tunnel() {
    const SERVER: &str = "
import http.server, ssl, sys
server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert.pem', 'key.pem')
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";
    if !is_there("curl") || !is_there("openssl") || !Path::new("/usr/bin/python3").exists() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("hello.txt"), "hello\n").expect("written");
    let made = finish(Command::new("openssl").current_dir(directory.path()).args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]));
    assert_eq!(made.code(), 0, "{made:?}");
    let port = free_port().to_string();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SERVER, &port]).current_dir(directory.path());
    let _server = Theirs::start(port.parse().expect("a port"), &mut python).expect("it listens");
    let proxy = proxy(&["--connect", &port]);
    let mut curl = Command::new("curl");
    curl.args(["-s", "--cacert"]).arg(directory.path().join("cert.pem")).args(["-x", &proxy.address.to_string()]);
    assert_eq!(seen(curl.arg(format!("https://localhost:{port}/hello.txt"))), (0, b"hello\n".to_vec()));
    proxy.hear(&format!("localhost:{port}: "));
}

/// A package manager, with a repository that is a file of fastpoetry's.
#[test]
fn apt_gets_its_lists_through_it() {
    if !is_there("apt-get") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let root = place.path();
    for directory in ["repository", "state/lists/partial", "cache/archives/partial", "etc/parts"] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
    fs::write(root.join("repository/Packages"), "").expect("written");
    let server = Service::start(program("fastpoetry").arg("--http").arg(root.join("repository")));
    fs::write(root.join("etc/sources.list"), format!("deb [trusted=yes] http://{}/ ./\n", server.address))
        .expect("written");
    fs::write(root.join("state/status"), "").expect("written");
    let proxy = proxy(&[]);
    let mut apt = Command::new("apt-get");
    for option in [
        format!("Dir::Etc={}/etc", root.display()),
        format!("Dir::State={}/state", root.display()),
        format!("Dir::State::status={}/state/status", root.display()),
        format!("Dir::Cache={}/cache", root.display()),
        format!("Acquire::http::Proxy=http://{}", proxy.address),
        "APT::Sandbox::User=root".to_owned(),
        "Debug::NoLocking=true".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "APT::Update::Post-Invoke-Success::=".to_owned(),
    ] {
        apt.args(["-o", &option]);
    }
    let finished = finish(apt.args(["update", "-q"]));
    assert_eq!(finished.code(), 0, "{finished:?}");
    proxy.hear(&format!("GET http://{}/./Packages: 200", server.address));
}

#[test]
fn a_browser_is_at_home_behind_it() {
    let proxy = proxy(&[]);
    let address = format!("--proxy-server={}", proxy.address);
    // This machine, too, by way of the proxy.
    let Some(browser) = Browser::start_with(&[&address, "--proxy-bypass-list=<-loopback>"]) else { return };
    let server = Service::start(&mut program("http-charfinder"));
    browser.go(&format!("http://{}/", server.address));
    browser.type_into("#query", "black knight rook\n");
    browser.until("document.querySelectorAll('tbody > tr').length === 1");
    assert!(browser.text("tbody").contains("BLACK CHESS KNIGHT-ROOK"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    proxy.hear_all(&[&format!("GET http://{}/style.css: 200", server.address)]);
}

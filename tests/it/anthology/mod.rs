//! poetry-anthology as viewers and sources meet it: what comes when, what is fetched how often, and what each failure says.

mod browser;
mod failures;
mod limits;
mod views;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::harness::{PATIENCE, Server, Service, program, read_some, send_whole};

/// An anthology of which no limit is felt, but for those that are given.
fn anthology<A: AsRef<str>>(words: impl IntoIterator<Item = A>) -> Service {
    let ample = ["-v", "--timeout", "5m", "--idle-timeout", "5m", "--page-timeout", "5m"].map(str::to_owned);
    let words: Vec<String> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
    // What is said last does not count twice: clap would refuse it.
    let is_said = |flag: &str| words.iter().any(|word| word == flag);
    let ample = ample[1..].chunks(2).filter(|pair| !is_said(&pair[0])).flatten();
    Service::start(program("poetry-anthology").arg("-v").args(ample).args(&words))
}

/// A file of sources.
struct Sources(TempDir);

impl Sources {
    fn new(text: &str) -> Self {
        let sources = Self(tempfile::tempdir().expect("a directory"));
        sources.write(text);
        sources
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("sources.toml")
    }

    fn word(&self) -> String {
        self.path().to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("written");
    }
}

/// A poem server that sends its poem to one client for each time that it is let.
struct Held {
    server: Server,
    release: Sender<()>,
    /// Clients that have come.
    clients: Arc<AtomicUsize>,
}

impl Held {
    fn new(poem: &str) -> Self {
        let (release, released) = channel();
        let (released, clients) = (Mutex::new(released), Arc::new(AtomicUsize::new(0)));
        let (poem, counted) = (poem.as_bytes().to_vec(), Arc::clone(&clients));
        let server = Server::start(move |_, stream| {
            counted.fetch_add(1, SeqCst);
            if released.lock().expect("unpoisoned").recv().is_ok() {
                send_whole(stream, &poem);
            }
        });
        Self { server, release, clients }
    }

    fn release(&self) {
        self.release.send(()).expect("a server");
    }

    fn clients(&self) -> usize {
        self.clients.load(SeqCst)
    }
}

/// A server that gives these bytes to whoever asks over HTTP, and closes.
fn replying(reply: impl Into<Vec<u8>>) -> Server {
    let reply = reply.into();
    Server::start(move |_, mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match read_some(&stream, &mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        // It may have been told enough before the end.
        let _ = stream.write_all(&reply);
        send_whole(stream, b"");
    })
}

/// A reply with a body of this type.
fn reply(fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn url(server: &Server) -> String {
    format!("http://{}/", server.address)
}

/// Somebody who looks at a page.
struct Viewer {
    stream: TcpStream,
    head: String,
    /// What has come, without the chunks that it came in.
    text: String,
    raw: Vec<u8>,
    is_chunked: bool,
    has_last: bool,
}

/// Sends a request, and waits for nothing.
fn ask(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("an anthology");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// The request for a path.
fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

impl Viewer {
    fn new(anthology: &Service, path: &str) -> Self {
        Self::of(ask(anthology.address, &request(path)))
    }

    /// Reads the head of what was asked for.
    fn of(stream: TcpStream) -> Self {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(read_some(&stream, &mut byte), Ok(1), "{head}");
            head.push(byte[0].into());
        }
        let is_chunked = head.contains("Transfer-Encoding: chunked");
        Self { stream, head, text: String::new(), raw: Vec::new(), is_chunked, has_last: false }
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).expect("a status").parse().expect("a number")
    }

    /// Reads a little; false: that is the end.
    fn read(&mut self) -> bool {
        let mut buffer = vec![0; 256 * 1024];
        let read = read_some(&self.stream, &mut buffer).expect("it is there");
        self.raw.extend_from_slice(&buffer[..read]);
        if !self.is_chunked {
            self.text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.raw)));
            return read > 0;
        }
        while let Some(end) = self.raw.windows(2).position(|end| end == b"\r\n") {
            let length = str::from_utf8(&self.raw[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            let length = length.expect("a length");
            if self.raw.len() < end + 2 + length + 2 {
                break;
            }
            self.text.push_str(str::from_utf8(&self.raw[end + 2..][..length]).expect("text"));
            self.has_last |= length == 0;
            self.raw.drain(..end + 2 + length + 2);
        }
        read > 0
    }

    /// Reads until this has come.
    fn until(&mut self, text: &str) -> &str {
        while !self.text.contains(text) {
            assert!(self.read(), "the end before {text:?}: {}", self.text);
        }
        &self.text
    }

    /// All of it.
    fn whole(mut self) -> String {
        while self.read() {}
        assert!(!self.is_chunked || self.has_last, "it breaks off: {}", self.text);
        self.text
    }
}

/// The status and the body of an answer.
fn get(anthology: &Service, path: &str) -> (u16, String) {
    let viewer = Viewer::new(anthology, path);
    (viewer.status(), viewer.whole())
}

/// The whole page.
fn page(anthology: &Service) -> String {
    let (status, page) = get(anthology, "/");
    assert_eq!(status, 200);
    assert!(page.ends_with("</body>\n</html>\n"), "{page}");
    page
}

/// The section of a source, as text without tags.
fn section(page: &str, number: usize) -> String {
    let begin = format!("<section id=\"source-{number}\"");
    let (_, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no source {number}: {page}"));
    let (_, rest) = rest.split_once('>').expect("the end of the tag");
    let inside = rest.split_once("</section>").expect("the end of the section").0;
    let mut text = String::new();
    let mut is_tag = false;
    for character in inside.chars() {
        match character {
            '<' => is_tag = true,
            '>' => is_tag = false,
            character if !is_tag => text.push(character),
            _ => {}
        }
    }
    text
}

/// The numbers of the sources of a page, in the order in which they stand there.
fn order(page: &str) -> Vec<usize> {
    let parts = page.split("<section id=\"source-").skip(1);
    parts.map(|part| part.split('"').next().expect("a number").parse().expect("a number")).collect()
}

/// The value of a metric, with its labels.
fn metric(anthology: &Service, name: &str) -> u64 {
    let page = get(anthology, "/metrics").1;
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

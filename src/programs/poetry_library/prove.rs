//! Writes through one instance and reads through all, and sees who sees an old row.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::proof::{Proof, Reads, Writes};
use crate::cli::Error;
use crate::errors::reason;
use crate::proto::http::framing::{Decoder, Piece, of_response};
use crate::proto::http::head::{self, Room};
use crate::proto::http::target::Url;
use crate::sync::lock;

/// Who the patron is whose dish changes all the time.
const NAME: &str = "poetry-library --prove";
/// The longest pause between two writes; some follow each other at once.
const PAUSE: Duration = Duration::from_millis(10);
/// What does not answer for so long does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two reads: who asks all the time leaves the instances no processor, and measures that.
const PACE: Duration = Duration::from_micros(200);
/// After a failure.
const REST: Duration = Duration::from_millis(10);
/// More is no patron.
const LONGEST_REPLY: usize = 1 << 20;

/// Writes for so long through the first of these, and reads through all.
///
/// # Errors
/// The first one does not take a patron, or one of the others does not know it.
pub(super) fn prove(duration: Duration, urls: &[Url]) -> Result<Proof, Error> {
    let begun = Instant::now();
    let failure = |url: &Url, why: String| Error::failure(format!("{}: {why}", name(url)));
    let Some(first) = urls.first() else { return Err(Error::usage("--prove needs the URLs of instances")) };
    let mut writer = Caller::new(first);
    let path = writer.make().map_err(|why| failure(first, why))?;
    let (writes, is_over) = (Mutex::new(Writes::default()), AtomicBool::new(false));
    lock(&writes).confirm(1, Instant::now());
    let reads = thread::scope(|scope| {
        let read = |url| {
            let (path, writes, is_over) = (&path, &writes, &is_over);
            scope.spawn(move || read(Caller::new(url), path, writes, is_over))
        };
        let readers: Vec<_> = urls.iter().map(read).collect();
        write(&mut writer, &path, begun + duration, &writes);
        is_over.store(true, Relaxed);
        let reads = readers.into_iter().map(|reader| reader.join().unwrap_or_default());
        urls.iter().map(name).zip(reads).collect()
    });
    let took = Duration::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    writer.remove(&path);
    Ok(Proof { writes: writes.into_inner().unwrap_or_default(), reads, took })
}

/// Gives the patron one dish after another.
fn write(writer: &mut Caller, path: &str, until: Instant, writes: &Mutex<Writes>) {
    let mut version = 1;
    while Instant::now() < until {
        version += 1;
        let answer = writer.call("PUT", path, &patron(version));
        let answered = Instant::now();
        match answer {
            Ok((200, _)) => lock(writes).confirm(version, answered),
            _ => {
                lock(writes).doubt(version);
                thread::sleep(REST);
            }
        }
        if fastrand::u8(..4) > 0 {
            thread::sleep(PAUSE.mul_f64(fastrand::f64()));
        }
    }
}

fn read(mut reader: Caller, path: &str, writes: &Mutex<Writes>, is_over: &AtomicBool) -> Reads {
    let mut reads = Reads::default();
    while !is_over.load(Relaxed) {
        let asked = Instant::now();
        let answer = reader.call("GET", path, "");
        let answered = Instant::now();
        let version = answer.ok().filter(|(status, _)| *status == 200).and_then(|(_, body)| version(&body));
        reads.see(version, asked, answered, &lock(writes));
        thread::sleep(if version.is_none() { REST } else { PACE });
    }
    reads
}

fn patron(version: u64) -> String {
    serde_json::json!({ "name": NAME, "fav_dish": version.to_string() }).to_string()
}

fn version(body: &[u8]) -> Option<u64> {
    let patron: Value = serde_json::from_slice(body).ok()?;
    patron["fav_dish"].as_str()?.parse().ok()
}

fn name(url: &Url) -> String {
    format!("http://{}", url.authority())
}

/// Somebody with one connection, which is made anew when it breaks.
struct Caller {
    host: String,
    port: u16,
    authority: String,
    stream: Option<TcpStream>,
}

impl Caller {
    fn new(url: &Url) -> Self {
        let address = url.address();
        Self { host: address.host(), port: address.port(), authority: url.authority(), stream: None }
    }

    /// Adds a patron, and returns its path.
    fn make(&mut self) -> Result<String, String> {
        let (status, body) = self.call("POST", "/patron", &patron(1)).map_err(|error| reason(&error).to_string())?;
        let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        match said["id"].as_u64() {
            Some(id) if status == 200 => Ok(format!("/patron/{id}")),
            _ => {
                let why = said["error"].as_str().unwrap_or("it has no patron");
                Err(format!("a new patron got status {status}: {why}"))
            }
        }
    }

    /// Takes a patron away, unless that cannot be done for long: everything may be away for a while here.
    fn remove(&mut self, path: &str) {
        let until = Instant::now() + PATIENCE;
        while !matches!(self.call("DELETE", path, ""), Ok((200 | 404, _))) && Instant::now() < until {
            thread::sleep(REST);
        }
    }

    /// The answer to a request: its status, and its body.
    fn call(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        let answer = self.try_call(method, path, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn try_call(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect((&*self.host, self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream
            }
        };
        let content = match body {
            "" => String::new(),
            body => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
        };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{content}\r\n{body}", self.authority);
        stream.write_all(request.as_bytes())?;
        let (status, body, is_kept) = reply(&mut stream, method)?;
        self.stream = is_kept.then_some(stream);
        Ok((status, body))
    }
}

/// Reads a reply: its status, its body, and whether there may be another one.
fn reply(stream: &mut impl Read, method: &str) -> io::Result<(u16, Vec<u8>, bool)> {
    let broken = |error: &dyn ToString| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut arrived = Vec::new();
    let mut more = |arrived: &mut Vec<u8>| {
        let mut buffer = [0; 8 * 1024];
        let read = stream.read(&mut buffer)?;
        arrived.extend_from_slice(&buffer[..read]);
        match read {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ if arrived.len() > LONGEST_REPLY => Err(broken(&"the reply is too long")),
            _ => Ok(()),
        }
    };
    let (status, framing, length, is_kept) = loop {
        let mut room = Room::default();
        let head = head::response(&arrived, &mut room).map_err(|error| broken(&error))?;
        if let Some(head) = head {
            let framing =
                of_response(method, head.status, head.version, &head.fields).map_err(|fault| broken(&fault))?;
            break (head.status, framing, head.len, head.keeps_connection());
        }
        more(&mut arrived)?;
    };
    let (mut decoder, mut body) = (Decoder::new(framing), Vec::new());
    arrived.drain(..length);
    loop {
        let mut rest = &arrived[..];
        loop {
            match decoder.next(&mut rest).map_err(|fault| broken(&fault))? {
                Piece::Body(piece) => body.extend_from_slice(piece),
                Piece::More => break,
                Piece::End => return Ok((status, body, is_kept)),
            }
        }
        arrived.clear();
        more(&mut arrived)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn a_reply_is_read_however_it_comes() {
        let body = patron(17);
        let length = body.len();
        for (reply_text, is_kept) in [
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"), true),
            (format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"), false),
            (format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"), true),
        ] {
            let (status, found, kept) = reply(&mut Drip(reply_text.as_bytes()), "GET").expect("a reply");
            assert_eq!((status, version(&found), kept), (200, Some(17), is_kept), "{reply_text}");
            for end in 0..reply_text.len() {
                assert!(reply(&mut Drip(&reply_text.as_bytes()[..end]), "GET").is_err(), "{end}");
            }
        }
    }
}

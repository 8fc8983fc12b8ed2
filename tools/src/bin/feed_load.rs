//! Many who read the feed of a monitor, and one who reports to it at a pace: every event is looked for in every stream, and
//! how late it came. Writes one line of `name=value` pairs, times in microseconds, memory in bytes.

#![expect(clippy::cast_possible_truncation, reason = "slots and samples are counted in a machine word")]
#![expect(clippy::cast_precision_loss, reason = "what is measured has fewer digits")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use poetry_suite::cli::open_files;
use poetry_suite::proto::zmtp::{GREETING, Role, add_message, ready, subscribe};
use poetry_tools::usage::Usage;
use rustix::event::epoll::{self, EventData, EventFlags};

/// An event that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "Load for the feed of a monitor")]
struct Args {
    /// Where its pages are
    pages: SocketAddr,
    /// Where it collects
    collector: SocketAddr,
    /// Its process
    #[arg(long)]
    pid: u32,
    /// Readers at once
    #[arg(long, default_value_t = 1000)]
    readers: usize,
    /// Samples a second
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Samples in all
    #[arg(long, default_value_t = 100)]
    samples: u32,
}

/// A reader, and the number of the sample that it waits for.
struct Reader {
    stream: TcpStream,
    next: u32,
    rest: Vec<u8>,
}

fn main() -> ExitCode {
    open_files::raise_limit();
    poetry_tools::tell("feed_load", run(&Args::parse()))
}

fn run(args: &Args) -> io::Result<String> {
    let mut source = TcpStream::connect(args.collector)?;
    source.set_nodelay(true)?;
    source.write_all(&[&GREETING[..], &ready(Role::Pub)].concat())?;
    source.read_exact(&mut vec![0; GREETING.len() + ready(Role::Sub).len() + subscribe(b"").len()])?;
    let alone = Usage::of(args.pid);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut readers = Vec::with_capacity(args.readers);
    for slot in 0..args.readers {
        let mut stream = TcpStream::connect(args.pages)?;
        stream.write_all(b"GET /feed HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        // It is there when it has heard hello.
        let mut hello = Vec::new();
        while !hello.windows(5).any(|end| end == b"}\n\n\r\n") {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => hello.extend_from_slice(&buffer[..read]),
            }
        }
        stream.set_nonblocking(true)?;
        epoll::add(&epoll, &stream, EventData::new_u64(slot as u64), EventFlags::IN)?;
        readers.push(Reader { stream, next: 0, rest: Vec::new() });
    }
    let before = Usage::of(args.pid);
    let (start, total) = (Instant::now(), args.samples);
    let interval = Duration::from_secs(1) / args.rate;
    let sends = thread::spawn(move || -> io::Result<Vec<Instant>> {
        let mut sent = Vec::with_capacity(total as usize);
        for number in 0..total {
            thread::sleep((start + interval * number).saturating_duration_since(Instant::now()));
            let sample = format!(
                r#"{{"color":"red","timestamp":"2026-11-27T21:50:22.123456+00:00","cpu":12.5,"mem":34.5,"number":{number}}}"#
            );
            let mut bytes = Vec::new();
            add_message(&mut bytes, &[sample.as_bytes()]);
            sent.push(Instant::now());
            source.write_all(&bytes)?;
        }
        // It stays until everybody has the last one.
        thread::sleep(Duration::from_millis(200));
        Ok(sent)
    });
    let mut came: Vec<(u32, Instant)> = Vec::with_capacity(args.readers * total as usize);
    let mut events = Vec::with_capacity(256);
    let limit = rustix::time::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    while came.len() < args.readers * total as usize {
        events.clear();
        if epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit))? == 0 {
            return Err(io::Error::other(format!("{} of {} events came", came.len(), args.readers * total as usize)));
        }
        for event in &events {
            readers[event.data.u64() as usize].read(&mut came)?;
        }
    }
    let used = Usage::of(args.pid).since(before);
    let sent = sends.join().map_err(|_| io::Error::other("a thread panicked"))??;
    let late = |(number, at): &(u32, Instant)| at.saturating_duration_since(sent[*number as usize]).as_micros();
    let mut late: Vec<u128> = came.iter().map(late).collect();
    late.sort_unstable();
    let [p50, p99, last] = [late.len() / 2, late.len() * 99 / 100, late.len() - 1].map(|at| late[at]);
    let each = before.rss_kb.saturating_sub(alone.rss_kb) as f64 * 1024.0 / args.readers as f64;
    let cpu = used.cpu.as_secs_f64() * 1e6 / came.len() as f64;
    Ok(format!("events={} cpu_per_million={cpu:.3} bytes_each={each:.0} p50={p50} p99={p99} last={last}", came.len()))
}

impl Reader {
    /// Reads what is there, and notes which samples have come: all of them, one after another.
    fn read(&mut self, came: &mut Vec<(u32, Instant)>) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.rest.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        while let Some(end) = self.rest.windows(4).position(|end| end == b"\n\n\r\n") {
            let event = String::from_utf8_lossy(&self.rest[..end]);
            if let Some((_, number)) = event.split_once("\"number\":") {
                let number: u32 =
                    number.split([',', '}']).next().and_then(|number| number.parse().ok()).unwrap_or(u32::MAX);
                if number != self.next {
                    return Err(io::Error::other(format!("{number} came instead of {}", self.next)));
                }
                came.push((number, now));
                self.next += 1;
            }
            self.rest.drain(..end + 4);
        }
        Ok(())
    }
}

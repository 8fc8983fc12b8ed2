//! A load generator for poem servers: so many clients at once, each byte checked, every error counted by kind.
//!
//! One epoll(7) loop a thread. Writes one line of `name=value` pairs, times in microseconds, for scripts to read.
//! With `--pid`, the server's CPU time and memory are read from /proc before, during and after.

#![expect(clippy::cast_possible_truncation, reason = "slots and samples are counted in a machine word")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use poetry_suite::candidates::refuse_itself;
use poetry_suite::cli::{open_files, values};
use poetry_tools::usage::Usage;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, connect, ipproto, socket_with};

/// A fetch that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser, Clone)]
#[command(about = "Load for poem servers")]
struct Args {
    /// The server
    address: SocketAddr,
    /// The poem it should give out
    #[arg(long)]
    poem: PathBuf,
    /// What the server says first on each connection
    #[arg(long)]
    greeting: Option<PathBuf>,
    /// What each client sends first
    #[arg(long)]
    request: Option<PathBuf>,
    /// Send the request again on the same connection when the poem is there
    #[arg(long, requires = "request")]
    keep_alive: bool,
    /// What the clients do
    #[arg(long, value_enum, default_value_t = Mode::Fetch)]
    mode: Mode,
    /// With --mode stall: where the others fetch, if not at the server where clients stall
    #[arg(long)]
    others: Option<SocketAddr>,
    /// Clients at once
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long
    #[arg(long, default_value = "3s", value_parser = values::duration)]
    time: Duration,
    /// Threads that play the clients
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The server's process
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Fetch poems, one after another
    Fetch,
    /// Connect and never read; then see whether others are served
    Stall,
    /// Connect and read what trickles in
    Hold,
}

fn main() -> ExitCode {
    let args = Args::parse();
    open_files::raise_limit();
    poetry_tools::tell("load", run(&args))
}

fn run(args: &Args) -> io::Result<String> {
    let poem: Arc<[u8]> = fs::read(&args.poem)?.into();
    let before = args.pid.map(Usage::of).unwrap_or_default();
    match args.mode {
        Mode::Fetch => {
            let result = fetch_all(args, &poem)?;
            Ok(result.line(args.pid.map(Usage::of).unwrap_or_default().since(before), poem.len()))
        }
        Mode::Stall | Mode::Hold => hold(args, &poem, before),
    }
}

fn fetch_all(args: &Args, poem: &Arc<[u8]>) -> io::Result<Result> {
    let start = Instant::now();
    let threads: Vec<_> = (0..args.threads)
        .map(|thread| {
            let (args, poem) = (args.clone(), Arc::clone(poem));
            let clients = args.clients / args.threads + usize::from(thread < args.clients % args.threads);
            thread::spawn(move || Clients::new(&args, poem, clients)?.run(start + args.time))
        })
        .collect();
    let mut all = Result::default();
    for thread in threads {
        all.add(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
    }
    all.elapsed = start.elapsed();
    Ok(all)
}

#[derive(Default)]
struct Result {
    latencies: Vec<u32>,
    errors: BTreeMap<String, u64>,
    elapsed: Duration,
}

impl Result {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
    }

    fn line(mut self, usage: Usage, bytes: usize) -> String {
        self.latencies.sort_unstable();
        let fetches = self.latencies.len();
        let at = |share: f64| self.latencies.get(((fetches as f64 * share) as usize).min(fetches.saturating_sub(1)));
        let quantile = |share| at(share).copied().unwrap_or(0);
        let seconds = self.elapsed.as_secs_f64();
        let errors: u64 = self.errors.values().sum();
        let kinds: Vec<String> = self.errors.iter().map(|(kind, count)| format!("{kind}:{count}")).collect();
        format!(
            "fetches={fetches} rate={:.0} mb_per_s={:.0} p50={} p99={} max={} cpu_per_100k={:.2} peak_kb={} errors={errors} kinds={}",
            fetches as f64 / seconds,
            fetches as f64 * bytes as f64 / seconds / 1e6,
            quantile(0.5),
            quantile(0.99),
            quantile(1.0),
            usage.cpu.as_secs_f64() / fetches as f64 * 1e5,
            usage.peak_kb,
            if kinds.is_empty() { "none".to_owned() } else { kinds.join(",") },
        )
    }
}

/// The clients of one thread.
struct Clients {
    address: SocketAddr,
    poem: Arc<[u8]>,
    /// The poem of a new connection, the greeting before it.
    first: Vec<u8>,
    request: Vec<u8>,
    keep_alive: bool,
    epoll: rustix::fd::OwnedFd,
    slots: Vec<Option<Fetch>>,
    result: Result,
}

struct Fetch {
    stream: TcpStream,
    start: Instant,
    sent: usize,
    received: usize,
    is_first: bool,
}

impl Clients {
    fn new(args: &Args, poem: Arc<[u8]>, clients: usize) -> io::Result<Self> {
        let slots = (0..clients).map(|_| None).collect();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let request = args.request.as_ref().map(fs::read).transpose()?.unwrap_or_default();
        let greeting = args.greeting.as_ref().map(fs::read).transpose()?.unwrap_or_default();
        let first = [&greeting[..], &poem].concat();
        let keep_alive = args.keep_alive;
        Ok(Self { address: args.address, poem, first, request, keep_alive, epoll, slots, result: Result::default() })
    }

    fn run(mut self, until: Instant) -> io::Result<Result> {
        for slot in 0..self.slots.len() {
            self.start(slot);
        }
        let mut buffer = vec![0; 256 * 1024];
        let mut events = Vec::with_capacity(256);
        let mut sweep = Instant::now() + Duration::from_secs(1);
        let tick = Duration::from_millis(100).try_into().ok();
        while self.slots.iter().any(Option::is_some) || Instant::now() < until {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), tick.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            for event in &events {
                let slot = event.data.u64() as usize;
                if self.proceed(slot, &mut buffer, now < until) && now < until {
                    self.start(slot);
                }
            }
            if now >= sweep {
                sweep = now + Duration::from_secs(1);
                self.sweep(now, until);
            }
        }
        Ok(self.result)
    }

    /// Fetches that hang are given up, and free slots used again.
    fn sweep(&mut self, now: Instant, until: Instant) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|fetch| now - fetch.start > PATIENCE) {
                self.fail(slot, "timeout");
            }
            if self.slots[slot].is_none() && now < until {
                self.start(slot);
            }
        }
    }

    fn start(&mut self, slot: usize) {
        let start = Instant::now();
        match begin(self.address).and_then(|mut stream| {
            // The connection may stand already, and most requests are short.
            let sent = if self.request.is_empty() { 0 } else { stream.write(&self.request).unwrap_or(0) };
            epoll::add(&self.epoll, &stream, data(slot), self.interest(sent))?;
            Ok(Fetch { stream, start, sent, received: 0, is_first: true })
        }) {
            Ok(fetch) => self.slots[slot] = Some(fetch),
            Err(error) => self.count(&error),
        }
    }

    fn interest(&self, sent: usize) -> epoll::EventFlags {
        if sent < self.request.len() { epoll::EventFlags::OUT } else { epoll::EventFlags::IN }
    }

    /// Writes or reads once; true if the connection is over.
    fn proceed(&mut self, slot: usize, buffer: &mut [u8], again: bool) -> bool {
        match self.step(slot, buffer, again) {
            Ok(over) => {
                if over {
                    self.slots[slot] = None;
                }
                over
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                self.count(&error);
                self.slots[slot] = None;
                true
            }
        }
    }

    fn step(&mut self, slot: usize, buffer: &mut [u8], again: bool) -> io::Result<bool> {
        let Some(fetch) = &mut self.slots[slot] else { return Ok(false) };
        if fetch.sent < self.request.len() {
            fetch.sent += fetch.stream.write(&self.request[fetch.sent..])?;
            if fetch.sent == self.request.len() {
                epoll::modify(&self.epoll, &fetch.stream, data(slot), epoll::EventFlags::IN)?;
            }
            return Ok(false);
        }
        let n = fetch.stream.read(buffer)?;
        let poem = if fetch.is_first { &self.first[..] } else { &self.poem };
        if poem.get(fetch.received..fetch.received + n) != Some(&buffer[..n]) {
            return Ok(self.fail(slot, "wrong"));
        }
        fetch.received += n;
        let complete = fetch.received == poem.len();
        if n == 0 && !complete {
            return Ok(self.fail(slot, "truncated"));
        }
        if !complete || (n > 0 && !self.keep_alive) {
            return Ok(false);
        }
        let micros = fetch.start.elapsed().as_micros();
        self.result.latencies.push(micros.try_into().unwrap_or(u32::MAX));
        if !self.keep_alive || !again {
            return Ok(true);
        }
        (fetch.start, fetch.received, fetch.is_first) = (Instant::now(), 0, false);
        fetch.sent = fetch.stream.write(&self.request)?;
        if fetch.sent < self.request.len() {
            epoll::modify(&self.epoll, &fetch.stream, data(slot), epoll::EventFlags::OUT)?;
        }
        Ok(false)
    }

    fn fail(&mut self, slot: usize, kind: &str) -> bool {
        *self.result.errors.entry(kind.to_owned()).or_default() += 1;
        self.slots[slot] = None;
        true
    }

    fn count(&mut self, error: &io::Error) {
        *self.result.errors.entry(format!("{:?}", error.kind())).or_default() += 1;
    }
}

fn data(slot: usize) -> epoll::EventData {
    epoll::EventData::new_u64(slot as u64)
}

/// A connection under way.
fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {
            refuse_itself(&socket, address)?;
            Ok(socket.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Many clients that stay.
fn hold(args: &Args, poem: &Arc<[u8]>, before: Usage) -> io::Result<String> {
    let start = Instant::now();
    let mut streams = Vec::with_capacity(args.clients);
    let mut refused = 0;
    for number in 0..args.clients {
        let connected = TcpStream::connect(args.address);
        match connected.and_then(|stream| refuse_itself(&stream, args.address).map(|()| stream)) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                streams.push(stream);
            }
            Err(_) => refused += 1,
        }
        if number % 500 == 499 {
            // The server should serve them, not only queue them.
            thread::sleep(Duration::from_millis(20));
        }
    }
    let connected = start.elapsed();
    thread::sleep(Duration::from_secs(1));
    let settled = args.pid.map(Usage::of).unwrap_or_default();
    let busy = Instant::now();
    let others = if args.mode == Mode::Stall {
        let few = Args { clients: 8, address: args.others.unwrap_or(args.address), ..args.clone() };
        Some(fetch_all(&few, poem)?)
    } else {
        thread::sleep(args.time);
        None
    };
    let after = args.pid.map(Usage::of).unwrap_or_default();
    let elapsed = busy.elapsed();
    let mut buffer = [0; 4096];
    let (mut served, mut bytes) = (0, 0);
    for stream in &mut streams {
        match stream.read(&mut buffer) {
            Ok(0) => {}
            Ok(n) => {
                served += 1;
                bytes += n;
            }
            Err(_) => {}
        }
    }
    let per_client = settled.rss_kb.saturating_sub(before.rss_kb) as f64 / streams.len() as f64;
    let mut line = format!(
        "clients={} refused={refused} served={served} bytes={bytes} connect_ms={} rss_per_client_kb={per_client:.2} rss_kb={} cpu_percent={:.1}",
        streams.len(),
        connected.as_millis(),
        settled.rss_kb,
        after.since(settled).cpu.as_secs_f64() / elapsed.as_secs_f64() * 100.0,
    );
    if let Some(others) = others {
        line.push(' ');
        line.push_str(&others.line(after.since(settled), poem.len()));
    }
    Ok(line)
}

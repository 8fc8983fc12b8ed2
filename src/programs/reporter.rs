//! The reporter of a process: once a second it publishes, to a monitor, what its servers do and what that costs.
//!
//! It is a PUB that connects, as the senders in *Using Asyncio in Python* do, with one connection for the process and a
//! source for each server. A sample is worth its second: none waits for a monitor that is not there, or is slow, and no
//! server waits for one. It is a thread of its own with a blocking socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::builder::NonEmptyStringValueParser;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Map, Value};
use tracing::{debug, info};

use crate::address::Address;
use crate::cli::Error;
use crate::errors::{is_for_later, reason};
use crate::net::counts::Counts;
use crate::proto::zmtp::{Decoder, Event, GREETING, Role, add_message};
use crate::sync::lock;

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time for a connection, and for a sample to be taken.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before the second try to connect; then twice as long each time, with jitter.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// The longest subscription, in bytes.
const LONGEST_TOPIC: usize = 1024;
/// The most subscriptions.
const MOST_TOPICS: usize = 64;
/// At the end, for the last sample to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Figures that are marked when they begin to grow, and how.
const TROUBLES: [(&str, &str); 3] =
    [("dropped", "drops begin"), ("cuts", "cuts begin"), ("disturbed", "trouble begins")];

/// The flags of every server about who watches it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Messages")]
pub struct ReportArgs {
    /// The monitor, if there is one.
    #[arg(
        long,
        value_name = "ADDR",
        hide_short_help = true,
        help = "Report once a second to a poetry-monitor: PORT (on this machine), HOST:PORT or [IPv6]:PORT",
        long_help = "Report once a second to a poetry-monitor: PORT (on this machine), HOST:PORT or [IPv6]:PORT\n\n\
            What is said: processor time, memory, clients, bytes, and what was done with it. Whether anybody listens makes no \
            difference to the server."
    )]
    pub monitor: Option<Address>,

    /// What it is called there [default: its program and address]
    #[arg(long, value_name = "NAME", requires = "monitor", hide_short_help = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub monitor_as: Option<String>,
}

impl ReportArgs {
    /// These flags, with those of `base` where they say nothing.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self { monitor: self.monitor.or(base.monitor), monitor_as: self.monitor_as.or(base.monitor_as) }
    }
}

/// A server that is reported.
pub struct Reported {
    /// The name of its program.
    pub program: &'static str,
    /// Where it listens.
    pub address: String,
    /// What it counts.
    pub counts: Arc<Counts>,
    /// What else it has, by names of lower-case letters and underscores.
    pub figures: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send>,
}

/// A reporter at work. If it is dropped, it ends without a last word.
#[derive(Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
    /// It ends when this is dropped.
    going: Mutex<Option<Sender<()>>>,
    ended: Receiver<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What was done since the last sample, by the number of the server.
    marks: Mutex<Vec<(usize, &'static str)>>,
    /// The connection, if there is one.
    stream: Mutex<Option<TcpStream>>,
}

/// Notes that something was done with a server; [`Reporter::marks`] gives it out.
#[derive(Debug, Clone)]
pub struct Marks(Arc<Shared>);

impl Marks {
    /// Notes it for the server with this number.
    pub fn add(&self, server: usize, what: &'static str) {
        self.0.mark(server, what);
    }
}

impl Shared {
    fn mark(&self, server: usize, what: &'static str) {
        lock(&self.marks).push((server, what));
    }
}

impl Reporter {
    /// Reports these servers, if that is asked for.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(args: &ReportArgs, servers: Vec<Reported>) -> Result<Option<Self>, Error> {
        let Some(to) = args.monitor.clone() else { return Ok(None) };
        let (going, stopped) = channel();
        let (has_ended, ended) = channel();
        let shared = Arc::new(Shared::default());
        let names = servers.iter().map(|server| match (&args.monitor_as, servers.len()) {
            (Some(name), 1) => name.clone(),
            (Some(name), _) => format!("{name} {} {}", server.program, server.address),
            (None, _) => format!("{} {}", server.program, server.address),
        });
        let sources = names.zip(&servers).map(|(name, _)| cut(&name)).collect();
        let work = Work {
            to,
            sources,
            troubles: vec![[(0, false); TROUBLES.len()]; servers.len()],
            servers,
            shared: Arc::clone(&shared),
            cost: Cost::new(),
        };
        let body = move || {
            work.run(&stopped);
            let _ = has_ended.send(());
        };
        thread::Builder::new().name("reporter".to_owned()).spawn(body).map_err(|error| Error::no_thread(&error))?;
        Ok(Some(Self { shared, going: Mutex::new(Some(going)), ended }))
    }

    /// Where things are noted that were done.
    pub fn marks(&self) -> Marks {
        Marks(Arc::clone(&self.shared))
    }

    /// Says that all is over, and ends; nobody waits long for that.
    pub fn end(self) {
        drop(lock(&self.going).take());
        if let Some(stream) = &*lock(&self.shared.stream) {
            // It reads its end, and has a last word.
            let _ = stream.shutdown(Shutdown::Read);
        }
        let _ = self.ended.recv_timeout(LAST_WORDS);
    }
}

/// No longer than a source may be called.
fn cut(name: &str) -> String {
    const LONGEST: usize = 64;
    let end = (0..=name.len().min(LONGEST)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or_default();
    name[..end].chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What the thread of a reporter does.
struct Work {
    to: Address,
    /// What the servers are called.
    sources: Vec<String>,
    /// How often each had each trouble, and whether that was just now.
    troubles: Vec<[(u64, bool); TROUBLES.len()]>,
    servers: Vec<Reported>,
    shared: Arc<Shared>,
    cost: Cost,
}

/// The monitor at the other end of a connection: what it has said, and what it wants to hear.
struct Subscriber {
    decoder: Decoder,
    arrived: Vec<u8>,
    /// It has shaken hands. It may subscribe much later: libzmq tells that when its program next looks at the socket.
    is_ready: bool,
    topics: Vec<Vec<u8>>,
}

impl Subscriber {
    fn new() -> Self {
        let (arrived, topics) = Default::default();
        Self { decoder: Decoder::new(Role::Pub, LONGEST_TOPIC), arrived, is_ready: false, topics }
    }

    /// Takes bytes that have come, and returns those to be sent thereupon; or why that is no monitor.
    fn hear(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        self.arrived.extend_from_slice(bytes);
        let (mut answers, mut rest) = (Vec::new(), &self.arrived[..]);
        while let Some(event) = self.decoder.decode(&mut rest).map_err(|error| error.to_string())? {
            match event {
                Event::Answer(bytes) => answers.extend_from_slice(&bytes),
                Event::Subscribed(_) if self.topics.len() == MOST_TOPICS => {
                    return Err(format!("it wants more than {MOST_TOPICS} topics"));
                }
                Event::Subscribed(topic) => self.topics.push(topic.to_vec()),
                Event::Cancelled(topic) => {
                    if let Some(found) = self.topics.iter().position(|its| its == topic) {
                        self.topics.swap_remove(found);
                    }
                }
                Event::Ready => self.is_ready = true,
                Event::Message(_) => {}
            }
        }
        let taken = self.arrived.len() - rest.len();
        self.arrived.drain(..taken);
        Ok(answers)
    }
}

/// Why a connection is over.
enum Over {
    Stopped,
    Broken(String),
}

impl Work {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut wait = Duration::ZERO;
        let mut was_there = true;
        loop {
            match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
            let (why, was_heard) = match self.connect() {
                Err(error) => (reason(&error), false),
                Ok(stream) => {
                    let mut was_heard = false;
                    let over = self.report(stream, stopped, &mut was_heard);
                    *lock(&self.shared.stream) = None;
                    match over {
                        Over::Stopped => return,
                        Over::Broken(why) => (why, was_heard),
                    }
                }
            };
            if was_there || was_heard {
                info!("No monitor on {}: {why}; trying again", self.to);
            } else {
                debug!("No monitor on {}: {why}", self.to);
            }
            was_there = false;
            wait = if was_heard { RETRY } else { (wait * 2).clamp(RETRY, LONGEST_RETRY) };
            wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in self.to.resolve()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Publishes on a connection until it breaks, or the process ends.
    fn report(&mut self, mut stream: TcpStream, stopped: &Receiver<()>, was_heard: &mut bool) -> Over {
        let broken = |error: &io::Error| Over::Broken(reason(error));
        match stream.try_clone() {
            Ok(clone) => *lock(&self.shared.stream) = Some(clone),
            Err(error) => return broken(&error),
        }
        if let Err(error) = stream.write_all(&GREETING) {
            return broken(&error);
        }
        let mut monitor = Subscriber::new();
        let mut due = Instant::now() + 5 * PATIENCE;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if !monitor.is_ready {
                    return Over::Broken("it has not shaken hands".to_owned());
                }
                if let Err(error) = self.publish(&mut stream, &monitor.topics) {
                    return broken(&error);
                }
                // However long that took: a sample that is late is none.
                due = (due + INTERVAL).max(Instant::now());
                continue;
            }
            let mut buffer = [0; 1024];
            match stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut buffer)) {
                Ok(0) => {
                    if matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
                        return Over::Broken("it has left".to_owned());
                    }
                    for server in 0..self.servers.len() {
                        self.shared.mark(server, "stop");
                    }
                    let _ = self.publish(&mut stream, &monitor.topics);
                    return Over::Stopped;
                }
                Ok(read) => {
                    let had_none = monitor.topics.is_empty();
                    let answers = match monitor.hear(&buffer[..read]) {
                        Ok(answers) => answers,
                        Err(why) => return Over::Broken(why),
                    };
                    if let Err(error) = stream.write_all(&answers) {
                        return broken(&error);
                    }
                    if had_none && !monitor.topics.is_empty() {
                        // Somebody listens, and gets the first sample at once.
                        if !std::mem::replace(was_heard, true) {
                            info!("Reporting to the monitor on {}", self.to);
                        }
                        due = Instant::now();
                    }
                }
                Err(error) if is_for_later(&error) || error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return broken(&error),
            }
        }
    }

    /// Sends a sample of each server, as far as that is wanted.
    fn publish(&mut self, stream: &mut TcpStream, topics: &[Vec<u8>]) -> io::Result<()> {
        let (cpu, mem) = self.cost.now();
        let marks = std::mem::take(&mut *lock(&self.shared.marks));
        let mut bytes = Vec::new();
        for (number, (name, server)) in self.sources.iter().zip(&self.servers).enumerate() {
            let its = marks.iter().filter(|(of, _)| *of == number).map(|(_, what)| *what);
            let mut events: Vec<&str> = its.collect();
            let figures = (server.figures)();
            for ((figure, mark), state) in TROUBLES.iter().zip(&mut self.troubles[number]) {
                let count = figures.iter().find(|(name, _)| name == figure).map_or(0, |(_, count)| *count);
                let (before, was_on) = *state;
                if count > before && !was_on {
                    events.push(mark);
                }
                *state = (count, count > before);
            }
            let counted = [
                ("clients", server.counts.connected()),
                ("accepted", server.counts.accepted()),
                ("lost", server.counts.lost()),
                ("sent_bytes", server.counts.bytes()),
            ];
            let mut sample = Map::new();
            sample.insert("color".to_owned(), name.clone().into());
            sample.insert("timestamp".to_owned(), timestamp().into());
            sample.insert("cpu".to_owned(), cpu.into());
            sample.insert("mem".to_owned(), mem.into());
            let numbers = counted.into_iter().chain(figures);
            sample.extend(numbers.map(|(name, number)| (name.to_owned(), Value::from(number))));
            events.truncate(8);
            if !events.is_empty() {
                sample.insert("events".to_owned(), events.into());
            }
            let sample = Value::Object(sample).to_string();
            if topics.iter().any(|topic| sample.as_bytes().starts_with(topic)) {
                add_message(&mut bytes, &[sample.as_bytes()]);
            }
        }
        stream.write_all(&bytes)
    }
}

fn timestamp() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// What the process costs: getrusage(2) and proc_pid_status(5).
struct Cost {
    since: Instant,
    used: Duration,
}

impl Cost {
    fn new() -> Self {
        Self { since: Instant::now(), used: used() }
    }

    /// Percent of one processor since the last call, and megabytes of memory, both with two decimals.
    fn now(&mut self) -> (f64, f64) {
        let (now, used) = (Instant::now(), used());
        // A first look comes early, and what it took to start is no load.
        let elapsed = now.duration_since(self.since).max(INTERVAL).as_secs_f64();
        let percent = used.saturating_sub(self.used).as_secs_f64() / elapsed * 100.0;
        (self.since, self.used) = (now, used);
        let round = |number: f64| (number * 100.0).round() / 100.0;
        (round(percent), round(resident() / 1e6))
    }
}

/// Processor time of this process.
fn used() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(microseconds).unwrap_or_default())
}

/// Resident memory of this process, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() * 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::zmtp::{ready, subscribe};

    #[test]
    fn a_name_is_no_longer_than_a_source_may_be_called() {
        assert_eq!(cut("fastpoetry 127.0.0.1:10000"), "fastpoetry 127.0.0.1:10000");
        assert_eq!(cut(&"é".repeat(40)), "é".repeat(32));
        assert_eq!(cut(&format!("x{}", "é".repeat(40))).len(), 63);
        assert_eq!(cut("a\nb"), "a?b");
    }

    #[test]
    fn a_monitor_subscribes_so_often_and_no_more_wherever_its_words_are_cut() {
        let said = [&GREETING[..], &ready(Role::Sub)].concat();
        let mut monitor = Subscriber::new();
        let answers: Vec<u8> = said.iter().flat_map(|byte| monitor.hear(&[*byte]).expect("it is one")).collect();
        assert_eq!((answers, monitor.is_ready, monitor.topics.len()), (ready(Role::Pub), true, 0));
        for topic in 0..MOST_TOPICS {
            monitor.hear(&subscribe(&topic.to_be_bytes())).expect("not too many");
        }
        // One that is over makes room for another one; one that was never there does not.
        for topic in [&1_usize.to_be_bytes()[..], b"x"] {
            let mut cancel = subscribe(topic);
            cancel[2] = 0;
            monitor.hear(&cancel).expect("fewer");
        }
        monitor.hear(&subscribe(b"")).expect("as many as before");
        assert_eq!(monitor.hear(&subscribe(b"")), Err("it wants more than 64 topics".to_owned()));
        assert!(Subscriber::new().hear(b"HTTP").is_err());
    }

    #[test]
    fn what_a_process_costs_is_measured() {
        let mut cost = Cost::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(used());
        }
        let (cpu, mem) = cost.now();
        assert!(cpu > 1.0 && mem > 1.0, "{cpu} {mem}");
    }
}

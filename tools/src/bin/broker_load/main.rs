//! A load generator for message brokers: one publisher, many subscribers of one topic, each byte at each of them counted.
//!
//! The publisher has a thread, and all subscribers have another one, an epoll(7) loop. Writes one line of `name=value`
//! pairs, times in microseconds, for scripts to read. With `--pid`, the broker's CPU time between the first message and
//! the last delivery and its memory are read from the system. Exits with 1 if a message is missing, or one too many.

#![expect(clippy::cast_possible_truncation, reason = "messages and times are counted in a machine word")]

mod protocol;
mod publisher;
mod subscribers;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use poetry_suite::cli::{open_files, values};
use poetry_tools::usage::Usage;

use protocol::Protocol;
use publisher::{Load, Pace, Publisher, data};
use subscribers::{END, Expected, Subscribers};

#[derive(Parser)]
#[command(about = "Load for message brokers")]
struct Args {
    /// The broker
    address: SocketAddr,
    /// What it speaks
    #[arg(long, value_enum, default_value_t = Protocol::Poetry)]
    protocol: Protocol,
    /// Subscribers, all of the same topic
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Messages, each for every subscriber
    #[arg(long, default_value_t = 50_000, value_parser = values::whole::<usize>(1, u64::MAX))]
    messages: usize,
    /// Bytes of each message
    #[arg(long, default_value_t = 128, value_parser = values::whole::<usize>(8, 1 << 20))]
    size: usize,
    /// Messages a second, with times of delivery; without it they are sent as fast as the broker takes them
    #[arg(long, value_parser = values::whole::<u32>(1, u32::MAX.into()))]
    rate: Option<u32>,
    /// With --rate: send so many messages at once, and the next ones that much later
    #[arg(long, default_value_t = 1, value_parser = values::whole::<usize>(1, u64::MAX))]
    bunch: usize,
    /// So many of the subscribers never read
    #[arg(long, default_value_t = 0)]
    stalled: usize,
    /// Send nothing: what does a subscriber cost?
    #[arg(long, conflicts_with_all = ["messages", "rate", "stalled"])]
    idle: bool,
    /// The broker's process
    #[arg(long, required_if_eq("idle", "true"))]
    pid: Option<u32>,
    /// Give up when nothing came for so long
    #[arg(long, default_value = "10s", value_parser = values::duration)]
    patience: Duration,
}

fn main() -> ExitCode {
    let args = Args::parse();
    open_files::raise_limit();
    poetry_tools::tell("broker_load", if args.idle { idle(&args) } else { run(&args) })
}

fn run(args: &Args) -> io::Result<String> {
    let readers = args.subscribers.checked_sub(args.stalled).filter(|readers| *readers > 0);
    let readers = readers.ok_or_else(|| io::Error::other("nobody reads"))?;
    let mut publisher = Publisher::connect(args.address, args.protocol, args.patience)?;
    let mut subscribers = Subscribers::new(args.address, args.protocol, args.patience)?;
    subscribers.add(readers, None, &mut publisher)?;
    let stalled = subscribers.add_stalled(args.stalled, &mut publisher)?;
    subscribers.line_up(&mut publisher)?;

    let before = usage(args);
    let start = Instant::now();
    let pace = args.rate.map(|rate| Pace { rate, bunch: args.bunch, epoch: start });
    let load = Load { messages: args.messages, size: args.size, pace };
    let expected = Expected { messages: args.messages, size: args.size, stamped: args.rate.map(|_| start) };
    let publishing = thread::spawn(move || publisher.publish_all(load).map(|()| publisher));
    let received = subscribers.receive(&expected);
    let used = usage(args).since(before);
    if received.is_err() && !publishing.is_finished() {
        // The broker takes nothing from the publisher any more, which may wait for ever.
        return received.map(|_| String::new());
    }
    let mut publisher = publishing.join().map_err(|_| io::Error::other("the publisher panicked"))??;
    let (end, mut latencies) = received?;
    publisher.publish(&data(args.size, END))?;
    subscribers.receive_end(&expected)?;
    drop(stalled);
    publisher.end();

    let (seconds, deliveries) = ((end - start).as_secs_f64(), readers * args.messages);
    let mut line = format!(
        "subscribers={readers} stalled={} messages={} size={} seconds={seconds:.3} deliveries={deliveries} \
         deliveries_per_s={:.0} cpu_ms={:.1} cpu_per_million={:.3} rss_kb={} peak_kb={}",
        args.stalled,
        args.messages,
        args.size,
        deliveries as f64 / seconds,
        used.cpu.as_secs_f64() * 1e3,
        used.cpu.as_secs_f64() / deliveries as f64 * 1e6,
        used.rss_kb,
        used.peak_kb,
    );
    latencies.sort_unstable();
    if let Some(last) = latencies.len().checked_sub(1) {
        let quantile = |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(last)];
        line.push_str(&format!(" p50={} p99={} max={}", quantile(0.5), quantile(0.99), quantile(1.0)));
    }
    Ok(line)
}

/// Many subscribers that get nothing.
fn idle(args: &Args) -> io::Result<String> {
    let mut publisher = Publisher::connect(args.address, args.protocol, args.patience)?;
    let mut subscribers = Subscribers::new(args.address, args.protocol, args.patience)?;
    // What a broker needs for the first one is not what one costs.
    subscribers.add(1, None, &mut publisher)?;
    let before = usage(args);
    subscribers.add(args.subscribers, None, &mut publisher)?;
    let after = usage(args);
    let grown = after.rss_kb.saturating_sub(before.rss_kb) * 1024;
    Ok(format!(
        "subscribers={} rss_per_subscriber={:.0} rss_kb={} peak_kb={}",
        args.subscribers,
        grown as f64 / args.subscribers as f64,
        after.rss_kb,
        after.peak_kb
    ))
}

fn usage(args: &Args) -> Usage {
    args.pid.map(Usage::of).unwrap_or_default()
}

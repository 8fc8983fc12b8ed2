//! Calibration: what single calls of a client cost on this machine, each measured by itself, many of them between two
//! readings of the clock or of the kernel's counts.
//!
//! What a client does around its calls is not measured here: that is [`fit`](super::fit)ted to runs of real clients.

use std::fs;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::ClockId;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Builder;

use super::Costs;
use crate::sync::lock;

/// Connections of one measurement, two sockets each: the usual limit of descriptors has room for them.
const PAIRS: usize = 400;

/// Threads of one measurement.
const THREADS: usize = 400;

/// Calls of one measurement, where they need nothing.
const CALLS: u64 = 2_000;

/// Measurements of which the median counts.
const TIMES: usize = 5;

/// Measures the costs of single calls, with no more open sockets at once than so many; the others are as they were. Takes a
/// second.
///
/// # Errors
/// The system refuses what is measured.
pub fn measure(costs: &mut Costs, most: usize) -> io::Result<()> {
    let pairs = (most / 2).clamp(1, PAIRS);
    costs.wait = median(wait)?;
    costs.read = median(|| read_of(10, pairs))?;
    costs.copy_kib = median(|| read_of(64 << 10, pairs))?.saturating_sub(costs.read) / 64;
    costs.write = median(write)?;
    costs.connect = median(connect)?;
    costs.ready = median(|| ready(pairs))?;
    costs.poll = median(poll_a_task)?;
    costs.switch = median(switch)?;
    costs.socket_bytes = median(|| socket_bytes(pairs))?;
    costs.kernel_thread_bytes = median(kernel_thread_bytes)?;
    Ok(())
}

/// The median of some measurements.
fn median(mut measure: impl FnMut() -> io::Result<u64>) -> io::Result<u64> {
    let mut all = (0..TIMES).map(|_| measure()).collect::<io::Result<Vec<u64>>>()?;
    all.sort_unstable();
    Ok(all[TIMES / 2])
}

/// The processor time of a clock, in nanoseconds.
fn cpu(clock: ClockId) -> io::Result<u64> {
    Ok(u64::try_from(Duration::from(clock.now()?).as_nanos()).unwrap_or(u64::MAX))
}

/// The processor time of this thread that some work takes, in nanoseconds.
fn thread_time(work: impl FnOnce() -> io::Result<()>) -> io::Result<u64> {
    let before = cpu(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    work()?;
    Ok(cpu(ClockId::CLOCK_THREAD_CPUTIME_ID)? - before)
}

/// A poll(2) of nothing.
fn wait() -> io::Result<u64> {
    let call = |_| poll(&mut [] as &mut [PollFd<'_>], PollTimeout::ZERO).map(drop).map_err(io::Error::from);
    Ok(thread_time(|| (0..CALLS).try_for_each(call))? / CALLS)
}

/// A listener whose queue has room for all: a SYN that is dropped would be a second's wait.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(i32::try_from(PAIRS).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Pairs of connected TCP sockets: those of a client, and of a server.
fn connections(number: usize) -> io::Result<Vec<(TcpStream, TcpStream)>> {
    let listener = listen()?;
    let address = listener.local_addr()?;
    let connect = |_| {
        let client = TcpStream::connect(address)?;
        Ok((client, listener.accept()?.0))
    };
    (0..number).map(connect).collect()
}

/// A recv(2) of so many bytes.
fn read_of(bytes: usize, number: usize) -> io::Result<u64> {
    let mut pairs = connections(number)?;
    let mut buffer = vec![1; bytes];
    for (_, server) in &mut pairs {
        server.write_all(&buffer)?;
    }
    let time = thread_time(|| pairs.iter_mut().try_for_each(|(client, _)| client.read_exact(&mut buffer)))?;
    Ok(time / number as u64)
}

/// A write(2) of few bytes to a pipe.
fn write() -> io::Result<u64> {
    let (mut reader, mut writer) = io::pipe()?;
    let (line, mut buffer) = ([b'.'; 10], [0; 1_000]);
    let mut time = 0;
    for _ in 0..CALLS / 100 {
        time += thread_time(|| (0..100).try_for_each(|_| writer.write_all(&line)))?;
        reader.read_exact(&mut buffer)?;
    }
    Ok(time / CALLS)
}

/// A socket, its connect(2), and its close(2) when the other end is closed.
fn connect() -> io::Result<u64> {
    let listener = listen()?;
    let address = listener.local_addr()?;
    let mut time = 0;
    for _ in 0..PAIRS {
        let mut client = None;
        time += thread_time(|| {
            client = Some(TcpStream::connect(address)?);
            Ok(())
        })?;
        drop(listener.accept()?);
        time += thread_time(|| {
            drop(client.take());
            Ok(())
        })?;
    }
    Ok((time / PAIRS as u64).saturating_sub(2 * thread_time(|| Ok(()))?))
}

/// What epoll_wait(2) takes for each socket that is ready.
fn ready(number: usize) -> io::Result<u64> {
    const CALLS: u64 = 20;
    let mut pairs = (0..number).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (number, (client, server)) in pairs.iter_mut().enumerate() {
        epoll.add(&*client, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        server.write_all(b".")?;
    }
    let mut events = vec![EpollEvent::empty(); number];
    let time = thread_time(|| {
        for _ in 0..CALLS {
            epoll.wait(&mut events, EpollTimeout::ZERO)?;
        }
        Ok(())
    })?;
    Ok(time / CALLS / number as u64)
}

/// A poll of a task that a runtime has woken.
fn poll_a_task() -> io::Result<u64> {
    let runtime = Builder::new_current_thread().build()?;
    let mut left = CALLS;
    let task = poll_fn(move |context| {
        left -= 1;
        context.waker().wake_by_ref();
        if left > 0 { Poll::Pending } else { Poll::Ready(()) }
    });
    let time = thread_time(|| runtime.block_on(async { tokio::spawn(task).await }).map_err(io::Error::other))?;
    Ok(time / CALLS)
}

/// What it costs that a thread falls asleep in a read, and another goes on, on the same processor.
fn switch() -> io::Result<u64> {
    // On a thread of its own: what this one may run on stays as it is, and the next one's is inherited.
    let on_one_processor = thread::Builder::new().spawn(|| {
        let mut processors = CpuSet::new();
        processors.set(sched_getcpu());
        sched_setaffinity(None, &processors)?;
        ping_pong()
    })?;
    on_one_processor.join().map_err(|_| io::Error::other("a thread has panicked"))?
}

/// Two threads wake each other. Returns the processor time of each time that one falls asleep.
fn ping_pong() -> io::Result<u64> {
    let (mut here, mut there) = UnixStream::pair()?;
    let before = cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    let echo = thread::Builder::new().spawn(move || {
        let mut byte = [0];
        while there.read_exact(&mut byte).is_ok() && there.write_all(&byte).is_ok() {}
    })?;
    let mut byte = [0];
    for _ in 0..CALLS {
        here.write_all(&byte)?;
        here.read_exact(&mut byte)?;
    }
    drop(here);
    let _ = echo.join();
    // Two sleepers a turn, each of which writes and reads as well; a socket pair takes less for that than TCP.
    Ok((cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - before) / (2 * CALLS))
}

/// The memory of all of the kernel that is counted under one of these names, see proc_meminfo(5).
fn kernel_bytes(names: &[&str]) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = |line: &str| {
        let (name, size) = line.split_once(':')?;
        names.contains(&name).then(|| size.split_whitespace().next()?.parse::<u64>().ok())?
    };
    Ok(1_024 * text.lines().filter_map(kilobytes).sum::<u64>())
}

/// Memory of the kernel for one end of a connection.
fn socket_bytes(number: usize) -> io::Result<u64> {
    const COUNTED: [&str; 1] = ["Slab"];
    let before = kernel_bytes(&COUNTED)?;
    let pairs = connections(number)?;
    let bytes = kernel_bytes(&COUNTED)?.saturating_sub(before);
    Ok(bytes / (2 * pairs.len() as u64))
}

/// Threads that sleep until this is dropped.
struct Sleepers {
    /// Each of them waits for this to be gone.
    end: Option<mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Sleepers {
    fn start() -> io::Result<Self> {
        let (end, ends) = mpsc::channel();
        let ends = Arc::new(Mutex::new(ends));
        let mut sleepers = Self { end: Some(end), threads: Vec::with_capacity(THREADS) };
        for _ in 0..THREADS {
            let ends = Arc::clone(&ends);
            // Nothing is ever sent: each hears of the end when the one before it has.
            let sleep = move || {
                let _ = lock(&ends).recv();
            };
            sleepers.threads.push(thread::Builder::new().spawn(sleep)?);
        }
        Ok(sleepers)
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        self.end = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Memory of the kernel for a thread that sleeps.
fn kernel_thread_bytes() -> io::Result<u64> {
    const COUNTED: [&str; 3] = ["Slab", "KernelStack", "PageTables"];
    let before = kernel_bytes(&COUNTED)?;
    let sleepers = Sleepers::start()?;
    let bytes = kernel_bytes(&COUNTED)?.saturating_sub(before);
    Ok(bytes / sleepers.threads.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measurement_finds_that_something_costs_something() {
        let mut costs = Costs::default();
        measure(&mut costs, usize::MAX).expect("measured");
        let times = [costs.wait, costs.read, costs.copy_kib, costs.write, costs.connect, costs.ready, costs.poll];
        assert!(times.into_iter().chain([costs.switch]).all(|time| time > 0 && time < 10_000_000), "{costs:?}");
    }

    #[test]
    fn counts_of_the_kernel_are_read() {
        let stacks = kernel_bytes(&["KernelStack"]).expect("read");
        let all = kernel_bytes(&["KernelStack", "Slab", "PageTables"]).expect("read");
        assert!(stacks > 0 && all > stacks, "{stacks} of {all}");
        assert_eq!(kernel_bytes(&["Nothing"]).expect("read"), 0);
    }
}

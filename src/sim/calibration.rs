//! Calibration: what the calls of a client cost on this machine.
//!
//! Single calls are measured by themselves, many of them between two readings of the clock. What the client does around them
//! is measured in runs of the real models against a server that sends a byte now and then; what is left of a run's time, when
//! all that is known is taken away, is the cost in question.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::time::ClockId;
use socket2::{Domain, Socket, Type};

use super::Costs;
use crate::client::{Concurrency, FetchLimits, Job, Model, ReportBuilder, Sink, Source};

/// Sockets of one measurement, two ends each: the usual limit of descriptors has room for them.
const SOCKETS: usize = 400;

/// Measurements of which the median counts.
const TIMES: usize = 5;

/// Bytes that a server sends one by one while all connections of a run wait.
const POKES: u32 = 200;

/// Bytes that a server sends to all of them at once.
const BURSTS: u32 = 20;

/// The pause between two of them: the client is asleep again by then.
const PAUSE: Duration = Duration::from_millis(2);

/// Measures the costs of time; those of memory are as they were. Takes some seconds.
///
/// # Errors
/// The system refuses what is measured.
pub fn measure(memory: Costs) -> io::Result<Costs> {
    let mut costs = memory;
    costs.wait = median(|| poll_of(0))?;
    costs.read = median(|| read_of(10))?;
    costs.copy_kib = median(|| read_of(64 << 10))?.saturating_sub(costs.read) / 64;
    costs.connect = median(connect)?;
    costs.ready = median(ready)?;
    costs.switch = median(switch)?;
    costs.thread = median(thread)?.saturating_sub(costs.switch);
    let alone = |model, sockets, pokes| move || client(model, sockets, pokes, false);
    let rounds = |sockets| -> io::Result<u64> {
        let quiet = median(alone(Model::Select, sockets, 0))?;
        Ok(median(alone(Model::Select, sockets, POKES))?.saturating_sub(quiet) / u64::from(POKES))
    };
    // Between few sockets and many: what a thread that was asleep has to fetch into its caches is in both.
    costs.descriptor = rounds(SOCKETS)?.saturating_sub(rounds(SOCKETS / 4)?) / (SOCKETS - SOCKETS / 4) as u64;
    let hot = |model| -> io::Result<[u64; 2]> {
        let quiet = median(alone(model, SOCKETS, 0))?;
        let all = median(|| client(model, SOCKETS, BURSTS, true))?;
        let events = u64::from(BURSTS) * SOCKETS as u64;
        Ok([quiet / SOCKETS as u64, all.saturating_sub(quiet) / events])
    };
    // Of each poem: it is connected to, the poem comes, and then its end.
    let [poem, event] = hot(Model::Select)?;
    costs.step = event.saturating_sub(costs.read + costs.descriptor);
    let known = costs.connect + 2 * costs.read + 2 * costs.step;
    costs.poem = poem.saturating_sub(known + 3 * costs.descriptor);
    let [task, event] = hot(Model::Async)?;
    costs.poll = event.saturating_sub(costs.ready + costs.read + costs.step);
    costs.task = task.saturating_sub(known + costs.poem + 2 * (costs.ready + costs.poll));
    Ok(costs)
}

/// The median of some measurements, in nanoseconds.
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

/// A poll(2) of so many descriptors of which none is ready.
fn poll_of(descriptors: usize) -> io::Result<u64> {
    const CALLS: u64 = 1_000;
    let pairs = (0..descriptors).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
    let mut sockets: Vec<PollFd<'_>> =
        pairs.iter().map(|(end, _)| PollFd::new(end.as_fd(), PollFlags::POLLIN)).collect();
    let time = thread_time(|| {
        for _ in 0..CALLS {
            poll(&mut sockets, PollTimeout::ZERO)?;
        }
        Ok(())
    })?;
    Ok(time / CALLS)
}

/// A listener whose queue has room for all: a SYN that is dropped would be a second's wait.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // Whoever waits for longer than that for the next one has lost it.
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.listen(4 * i32::try_from(SOCKETS).unwrap_or(i32::MAX))?;
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
fn read_of(bytes: usize) -> io::Result<u64> {
    let mut pairs = connections(SOCKETS)?;
    let mut buffer = vec![1; bytes];
    for (_, server) in &mut pairs {
        server.write_all(&buffer)?;
    }
    let time = thread_time(|| pairs.iter_mut().try_for_each(|(client, _)| client.read_exact(&mut buffer)))?;
    Ok(time / SOCKETS as u64)
}

/// A socket, its connect(2), and its close(2) when the other end is closed.
fn connect() -> io::Result<u64> {
    let listener = listen()?;
    let address = listener.local_addr()?;
    let mut time = 0;
    for _ in 0..SOCKETS {
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
    Ok((time / SOCKETS as u64).saturating_sub(2 * thread_time(|| Ok(()))?))
}

/// What epoll_wait(2) takes for each socket that is ready.
fn ready() -> io::Result<u64> {
    const CALLS: u64 = 20;
    let mut pairs = (0..SOCKETS).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (number, (client, server)) in pairs.iter_mut().enumerate() {
        epoll.add(&*client, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        server.write_all(b".")?;
    }
    let mut events = vec![EpollEvent::empty(); SOCKETS];
    let time = thread_time(|| {
        for _ in 0..CALLS {
            epoll.wait(&mut events, EpollTimeout::ZERO)?;
        }
        Ok(())
    })?;
    Ok(time / CALLS / SOCKETS as u64)
}

/// What it costs that a thread falls asleep in a read, and is woken.
fn switch() -> io::Result<u64> {
    const TURNS: u64 = 2_000;
    let (mut here, mut there) = UnixStream::pair()?;
    let before = cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    let echo = thread::Builder::new().spawn(move || {
        let mut byte = [0];
        while there.read_exact(&mut byte).is_ok() && there.write_all(&byte).is_ok() {}
    })?;
    let mut byte = [0];
    for _ in 0..TURNS {
        here.write_all(&byte)?;
        here.read_exact(&mut byte)?;
    }
    drop(here);
    let _ = echo.join();
    // Two sleepers a turn, each of which writes and reads as well; a socket pair takes less for that than TCP.
    Ok((cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - before) / (2 * TURNS))
}

/// The start and the end of a thread.
fn thread() -> io::Result<u64> {
    const THREADS: u64 = 200;
    let before = cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    for _ in 0..THREADS {
        let body = || drop(std::hint::black_box(vec![0_u8; crate::client::READ_SIZE]));
        let _ = thread::Builder::new().spawn(body)?.join();
    }
    Ok((cpu(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - before) / THREADS)
}

/// The processor time of a client of this model with so many poems, and its report, while a server sends so many bytes: each
/// to one poem, or one to each.
fn client(model: Model, sockets: usize, pokes: u32, to_all: bool) -> io::Result<u64> {
    let listener = listen()?;
    let address: SocketAddr = listener.local_addr()?;
    let server = thread::Builder::new().spawn(move || serve(&listener, sockets, pokes, to_all))?;
    let sources: Arc<[Source]> = (0..sockets).map(|_| Source::Poem(address.into())).collect();
    let limits = FetchLimits {
        connect_timeout: Some(Duration::from_secs(30)),
        idle_timeout: Some(Duration::from_secs(10)),
        timeout: None,
        max_size: None,
        retries: 0,
        retry_after_max: Duration::ZERO,
        concurrency: Concurrency::Together(NonZeroUsize::MAX),
    };
    let time = thread_time(|| {
        let clock = Instant::now();
        let builder = Arc::new(ReportBuilder::new(model, Arc::clone(&sources), limits.concurrency, clock, true));
        let job = Arc::new(Job::new(Arc::clone(&sources), limits, Sink::discard(), vec![builder.clone()], clock, 0));
        model.run(&job)?;
        drop(builder.report(job.calls()).to_json());
        Ok(())
    })?;
    match server.join() {
        Ok(Ok(())) => Ok(time),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the server has panicked")),
    }
}

/// Accepts all, sends bytes to one after another or to all at once, and then a short poem to each.
fn serve(listener: &TcpListener, sockets: usize, pokes: u32, to_all: bool) -> io::Result<()> {
    let mut clients = (0..sockets).map(|_| Ok(listener.accept()?.0)).collect::<io::Result<Vec<_>>>()?;
    for (_, number) in (0..pokes).zip((0..sockets).cycle()) {
        thread::sleep(PAUSE);
        match to_all {
            true => clients.iter_mut().try_for_each(|client| client.write_all(b"."))?,
            false => clients[number].write_all(b".")?,
        }
    }
    clients.into_iter().try_for_each(|mut client| client.write_all(b"poetry\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measurement_finds_that_something_costs_something() {
        for (what, measured) in [
            ("poll", poll_of(100)),
            ("read", read_of(10)),
            ("connect", connect()),
            ("ready", ready()),
            ("switch", switch()),
            ("thread", thread()),
            ("select", client(Model::Select, 50, 1, false)),
            ("async", client(Model::Async, 50, 1, true)),
        ] {
            let nanos = measured.expect(what);
            assert!(nanos > 0 && nanos < 10_000_000_000, "{what}: {nanos} ns");
        }
    }
}

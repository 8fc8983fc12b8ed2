//! The async model: one task a poem, and a runtime that wakes the ones that can go on.
//!
//! The code of a task reads like the blocking one, but every `.await` is a place where it may be put aside. All
//! tasks share one thread and one read buffer: between two awaits nobody else runs.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Handle, RuntimeMetrics};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout_at};

use super::fetch::{Fetch, Flow, For, Next, Patience};
use super::idle::Idle;
use super::scribe::Word;
use super::turns::Turns;
use super::{Failure, Job, READ_SIZE};
use crate::candidates::{Candidate, Candidates, first_to_end, refuse_itself};
use crate::pool::{NotCalled, Pool};

/// Threads for names: as many as the runtime would have for what blocks.
static LOOK_UPS: Pool = Pool::new(512);

/// What all tasks share: the read buffer, connections that are kept, the scribe's words, whose turn it is, and the metrics of
/// the runtime.
struct Shared {
    buffer: RefCell<Vec<u8>>,
    kept: RefCell<Idle<TcpStream>>,
    words: Arc<Words>,
    turns: RefCell<Turns>,
    metrics: RuntimeMetrics,
}

/// The scribe's words, for the tasks that wait for them.
struct Words {
    room: Notify,
    /// One for each poem.
    settled: Vec<Notify>,
}

pub(super) fn run(job: &Arc<Job>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, fetch_all(job));
    job.sink.dismiss_scribe();
    Ok(())
}

async fn fetch_all(job: &Arc<Job>) {
    let words = Arc::new(Words { room: Notify::new(), settled: job.sources.iter().map(|_| Notify::new()).collect() });
    let heard = Arc::clone(&words);
    job.with_scribe(move |word| match word {
        Word::Room => heard.room.notify_waiters(),
        Word::Settled(index) => heard.settled[index].notify_one(),
    });
    let shared = Rc::new(Shared {
        buffer: RefCell::new(vec![0; READ_SIZE]),
        kept: RefCell::default(),
        words,
        turns: RefCell::new(Turns::new(&job.sources, job.limits.concurrency)),
        metrics: Handle::current().metrics(),
    });
    let mut running = JoinSet::new();
    loop {
        while let Some(index) = take_turn(&shared) {
            running.spawn_local(fetch(Arc::clone(job), index, Rc::clone(&shared)));
        }
        // After a panic, too: the fetch has failed when it was dropped.
        if running.join_next().await.is_none() {
            return;
        }
    }
}

fn take_turn(shared: &Shared) -> Option<usize> {
    shared.turns.borrow_mut().next()
}

async fn fetch(job: Arc<Job>, index: usize, shared: Rc<Shared>) {
    let _turn = Turn { job: &job, index, shared: &shared };
    let mut fetch = Fetch::begin(&job, index, Instant::now());
    loop {
        let result = attempt(&mut fetch, &shared).await;
        match fetch.ended(result, Instant::now()) {
            Next::Retry(pause) => sleep(pause).await,
            Next::Delivery => {
                while !fetch.delivered() {
                    shared.words.settled[index].notified().await;
                }
                return;
            }
            Next::Settled => return,
        }
    }
}

/// The turn of one poem. When it is dropped, in a panic too, it is another one's.
struct Turn<'a> {
    job: &'a Job,
    index: usize,
    shared: &'a Shared,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.turns.borrow_mut().settled(&self.job.sources[self.index]);
    }
}

async fn attempt(fetch: &mut Fetch, shared: &Shared) -> Result<(), Failure> {
    fetch.attempt(Instant::now())?;
    loop {
        let result = leg(fetch, shared).await;
        if !fetch.leg_ended(result, Instant::now())? {
            return Ok(());
        }
    }
}

/// One exchange, on a connection that is new or has been kept.
async fn leg(fetch: &mut Fetch, shared: &Shared) -> Result<(), Failure> {
    let kept = fetch.takes_kept().and_then(|server| shared.kept.borrow_mut().take(server));
    let mut stream = match kept {
        Some(stream) => {
            fetch.reused(Instant::now());
            stream
        }
        None => {
            let stream = connect(fetch).await?;
            fetch.connected(Instant::now());
            stream
        }
    };
    send(fetch, &mut stream).await?;
    receive(fetch, &mut stream, shared).await?;
    if let Some(server) = fetch.keeps() {
        shared.kept.borrow_mut().put(server.clone(), stream);
    }
    Ok(())
}

async fn send(fetch: &mut Fetch, stream: &mut TcpStream) -> Result<(), Failure> {
    while let Some(parts) = fetch.unsent() {
        let write = poll_fn(|context| Pin::new(&mut *stream).poll_write_vectored(context, &parts));
        let result = within(fetch.patience(For::Bytes, Instant::now()), write).await?;
        fetch.job().counts.add_wakeup();
        fetch.sent(result.map_err(Failure::Broken)?);
    }
    Ok(())
}

async fn receive(fetch: &mut Fetch, stream: &mut TcpStream, shared: &Shared) -> Result<(), Failure> {
    loop {
        wait_for_room(fetch, shared).await?;
        let read = poll_fn(|context| read_into(stream, &shared.buffer, context));
        let result = within(fetch.patience(For::Bytes, Instant::now()), read).await?;
        let counts = &fetch.job().counts;
        counts.set_waits(shared.metrics.worker_park_count(0));
        counts.add_wakeup();
        counts.add_read();
        match result.map_err(Failure::Broken)? {
            0 => return Ok(()),
            n => {
                if fetch.received(&shared.buffer.borrow()[..n], Instant::now())? == Flow::Enough {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits for the disk, if it has to write what is here already.
async fn wait_for_room(fetch: &Fetch, shared: &Shared) -> Result<(), Failure> {
    while !fetch.has_room() {
        let room = shared.words.room.notified();
        if !fetch.has_room() {
            within(fetch.patience(For::Room, Instant::now()), room).await?;
        }
    }
    Ok(())
}

/// Reads into the shared buffer, which is this task's until its next await.
fn read_into(stream: &mut TcpStream, buffer: &RefCell<Vec<u8>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buffer = buffer.borrow_mut();
    let mut read = ReadBuf::new(&mut buffer);
    ready!(Pin::new(stream).poll_read(context, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

/// Connects to the address of the name that answers first. One that does not is joined by the next one after a while; to
/// drop a connection under way is to give it up.
async fn connect(fetch: &mut Fetch) -> Result<TcpStream, Failure> {
    let mut candidates = Candidates::new(fetch.candidates(&resolve(fetch).await?));
    let mut under_way: Vec<(Candidate, Connecting)> = Vec::new();
    loop {
        while let Some(candidate) = candidates.next(Instant::now()) {
            let Candidate { number, address } = candidate;
            let patience = fetch.patience(For::Connection, Instant::now());
            let made = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            match made {
                Ok(socket) => under_way.push((candidate, Box::pin(connect_to(socket, address, patience)))),
                Err(_) if !under_way.is_empty() => candidates.put_off(),
                Err(error) => candidates.failed(number, Failure::no_socket(error)),
            }
        }
        if under_way.is_empty() {
            return Err(candidates.failure().unwrap_or(Failure::Bug));
        }
        let ended = match candidates.due() {
            None => Some(first_to_end(&mut under_way).await),
            Some(due) => timeout_at(due.into(), first_to_end(&mut under_way)).await.ok(),
        };
        fetch.job().counts.add_wakeup();
        match ended {
            None => {} // the next one is due
            Some((Candidate { address, .. }, Ok(stream))) => {
                fetch.reached(address);
                return Ok(stream);
            }
            // There is no time for another address.
            Some((_, Err(failure @ Failure::Timeout(_)))) => return Err(failure),
            Some((Candidate { number, .. }, Err(failure))) => candidates.failed(number, failure),
        }
    }
}

/// A connection under way.
type Connecting = Pin<Box<dyn Future<Output = Result<TcpStream, Failure>>>>;

async fn connect_to(socket: TcpSocket, address: SocketAddr, patience: Patience) -> Result<TcpStream, Failure> {
    let stream = within(patience, socket.connect(address)).await?.map_err(Failure::Connect)?;
    refuse_itself(&stream, address).map_err(Failure::Connect)?;
    Ok(stream)
}

/// Looks up the address: getaddrinfo(3) on a thread for what blocks, unless it is a literal.
async fn resolve(fetch: &Fetch) -> Result<Vec<SocketAddr>, Failure> {
    if let Some(address) = fetch.address().literal() {
        return Ok(vec![address]);
    }
    let address = fetch.address().clone();
    let look_up = LOOK_UPS.run(move || address.resolve());
    let found = within(fetch.patience(For::Connection, Instant::now()), look_up).await;
    fetch.job().counts.set_look_ups(LOOK_UPS.threads());
    match found? {
        Ok(found) => found.map_err(Failure::Resolve),
        Err(NotCalled::NoThread(error)) => Err(Failure::no_thread(error)),
        Err(NotCalled::Panicked) => Err(Failure::Bug),
    }
}

/// Waits for `future` as long as the patience lasts.
async fn within<F: Future>(patience: Patience, future: F) -> Result<F::Output, Failure> {
    match patience.until() {
        None => Ok(future.await),
        Some(until) => timeout_at(until.into(), future).await.map_err(|_| patience.lost()),
    }
}

//! HTTP/1.1 on the engine's connections, by way of hyper: for pages and whatever else is made anew for each request.
//!
//! The engine accepts, counts, stops and closes; hyper reads heads and writes replies. (Where a poem is sent byte for byte
//! as planned, or a client wants to see how it is done, it is our own [`crate::proto::http`].)

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Frame, Incoming};
use hyper::rt::{self, ReadBufCursor};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::bytes::BytesMut;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::connection::{Connection, is_drained};
use super::counts::Counts;
use super::stop::Stop;
use crate::pace::Ending;

/// The time for a head: for the first one from when the client has connected, for others from their first byte.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// The time for the first byte of another request for a page.
pub const IDLE_TIME: Duration = Duration::from_secs(30);
/// What whoever takes longer gets.
const LATE: &str = "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 48\r\n\
    Connection: close\r\n\r\nThe head of the request is not whole after 10 s\n";
/// The longest head, in bytes.
const HEAD: usize = 64 << 10;
/// The most fields in a head.
const FIELDS: usize = 100;

/// Answers the requests of a connection, one after another, until its peer or the server wants no more. A reply under way
/// is finished when the server is asked to stop. `ahead`: what has been read of the connection already; `idle`: the time for
/// the first byte of another request.
///
/// # Errors
/// The connection broke, or its peer took nothing for the server's write timeout.
pub async fn serve<F, B>(
    connection: &mut Connection,
    ahead: BytesMut,
    idle: Duration,
    answer: impl Fn(Request<Incoming>) -> F,
) -> io::Result<Ending>
where
    F: Future<Output = Response<B>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let under_way = AtomicU64::new(0);
    let head = AwaitedHead { is_due: true.into(), has_begun: (!ahead.is_empty()).into(), is_late: false.into() };
    let result = {
        let (answer, under_way, head) = (&answer, &under_way, &head);
        let service = service_fn(move |request| async move {
            under_way.fetch_add(1, Relaxed);
            head.is_due.store(false, Relaxed);
            head.has_begun.store(false, Relaxed);
            let response = answer(request).await;
            under_way.fetch_sub(1, Relaxed);
            Ok::<_, Infallible>(response)
        });
        let mut builder = http1::Builder::new();
        builder.timer(Timer).header_read_timeout(idle).max_buf_size(HEAD).max_headers(FIELDS).half_close(true);
        // As people write them.
        builder.title_case_headers(true);
        let mut served = pin!(builder.serve_connection(Wire::new(connection, ahead, head), service));
        // Made once: each wake-up of a connection asks all three.
        let (mut broken, mut closing) = (pin!(connection.broken()), pin!(connection.closing()));
        let mut is_asked = false;
        loop {
            tokio::select! {
                biased;
                result = &mut served => break result,
                // With a half-close allowed, hyper reads nothing while it waits for a reply, and does not see that nobody
                // wants it any more.
                error = &mut broken => return Err(error),
                () = &mut closing, if !is_asked => {
                    served.as_mut().graceful_shutdown();
                    is_asked = true;
                }
            }
        }
    };
    match result {
        Ok(()) => {
            if connection.is_closing() && under_way.load(Relaxed) == 0 {
                connection.set_idle(true);
            }
            Ok(Ending::Fin)
        }
        // hyper says nothing about half a head.
        Err(_) if head.is_late.load(Relaxed) => {
            if head.has_begun.load(Relaxed) {
                connection.send_all(LATE.as_bytes()).await?;
            }
            Ok(Ending::Fin)
        }
        // What was no request has been told so; and nobody waits for a reply to half a head.
        Err(error) if error.is_parse() || error.is_timeout() || error.is_incomplete_message() => Ok(Ending::Fin),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// A body that goes on for ever, until the server is asked to stop: then it ends as it would by itself, with its last
/// chunk. To anybody who reads it, that is an end and no failure.
pub struct UntilStop<B> {
    body: B,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<B> UntilStop<B> {
    /// This body, as long as the server of this stop goes on.
    pub fn new(body: B, stop: &Stop) -> Self {
        Self { body, closed: Box::pin(stop.closed()) }
    }
}

impl<B: Body + Unpin> Body for UntilStop<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.closed.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => Pin::new(&mut self.body).poll_frame(context),
        }
    }
}

/// What is known of the head that a connection waits for.
struct AwaitedHead {
    /// Whether its time runs.
    is_due: AtomicBool,
    /// Whether something of it has been read.
    has_begun: AtomicBool,
    /// Whether its time is over.
    is_late: AtomicBool,
}

/// A connection as hyper sees it. It is not closed here: the engine does that, politely.
struct Wire<'c> {
    /// Bytes that have been read before.
    ahead: BytesMut,
    head: &'c AwaitedHead,
    /// Set while a head is due, and does not come.
    due: Option<Pin<Box<Sleep>>>,
    stream: &'c TcpStream,
    counts: &'c Counts,
    write_timeout: Option<Duration>,
    /// Set while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<'c> Wire<'c> {
    fn new(connection: &'c Connection, ahead: BytesMut, head: &'c AwaitedHead) -> Self {
        Self {
            ahead,
            head,
            due: None,
            stream: connection.stream(),
            counts: connection.counts(),
            write_timeout: connection.write_timeout(),
            stalled: None,
        }
    }
}

impl rt::Read for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let now = self.ahead.len().min(into.remaining());
            into.put_slice(&self.ahead.split_to(now));
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.stream.poll_read_ready(context)?.is_pending() {
                if !self.head.is_due.load(Relaxed) {
                    return Poll::Pending;
                }
                ready!(self.due.get_or_insert_with(|| Box::pin(sleep(HEAD_TIME))).as_mut().poll(context));
                self.head.is_late.store(true, Relaxed);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let mut buffer = [0; 4 * 1024];
            let most = buffer.len().min(into.remaining());
            match self.stream.try_read(&mut buffer[..most]) {
                Ok(read) => {
                    if read > 0 {
                        self.head.has_begun.store(true, Relaxed);
                        if !self.head.is_due.swap(true, Relaxed) {
                            self.due = None;
                        }
                    }
                    if (1..most).contains(&read) {
                        is_drained(self.stream);
                    }
                    into.put_slice(&buffer[..read]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl rt::Write for Wire<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.stream.poll_write_ready(context)?.is_pending() {
                let Some(limit) = self.write_timeout else { return Poll::Pending };
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(stalled.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match self.stream.try_write(bytes) {
                Ok(sent) => {
                    self.stalled = None;
                    self.counts.send(sent);
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The runtime's timer, as hyper asks for it.
#[derive(Debug, Clone, Copy)]
struct Timer;

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Wait(Box::pin(sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Wait(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }
}

struct Wait(Pin<Box<Sleep>>);

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

impl rt::Sleep for Wait {}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;

    use http_body_util::{BodyExt, Full};
    use tokio_util::bytes::Bytes;

    use super::*;
    use crate::net::descriptors::Descriptors;
    use crate::net::{Door, Handler, ServerLimits, Stoppable, prepare};

    /// Nothing here takes so long.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Says `tick`, and then nothing any more.
    struct Ticks(bool);

    impl Body for Ticks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match std::mem::replace(&mut self.0, true) {
                false => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"tick"))))),
                true => Poll::Pending,
            }
        }
    }

    struct Server;

    impl Handler for Server {
        const EOF_ENDS_MESSAGE: bool = false;

        async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
            let stop = connection.stop();
            let answer = |request: Request<Incoming>| {
                let body = match request.uri().path() {
                    "/ticks" => UntilStop::new(Ticks(false), &stop).boxed_unsync(),
                    _ => Full::new(Bytes::from(vec![b'x'; 64 << 20])).boxed_unsync(),
                };
                async move { Response::new(body) }
            };
            super::serve(connection, BytesMut::new(), IDLE_TIME, answer).await
        }
    }

    struct AbortAtTheEnd<'a>(&'a Stop);

    impl Drop for AbortAtTheEnd<'_> {
        fn drop(&mut self) {
            self.0.abort();
        }
    }

    /// Asks a server for this path, and does something with the connection and the stop; returns how many connections
    /// were lost.
    fn with_server(
        path: &str,
        write_timeout: Option<Duration>,
        then: impl FnOnce(std::net::TcpStream, &Stop, &Counts),
    ) -> u64 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let door = Door { name: "pages", listeners: vec![listener], listen_later: None };
        let descriptors = Descriptors::default();
        let limits = ServerLimits { max_clients: 9, descriptors, write_timeout, grace: PATIENCE };
        let prepared = prepare(vec![door], &Arc::new(Server), &limits).expect("a worker");
        let (counts, stop) = (Arc::clone(prepared.counts()), Stop::default());
        thread::scope(|scope| {
            scope.spawn(|| prepared.run(&stop).expect("it goes on"));
            // Also if what follows panics.
            let _at_the_end = AbortAtTheEnd(&stop);
            let mut client = std::net::TcpStream::connect(address).expect("a server");
            client.set_read_timeout(Some(PATIENCE)).expect("set");
            write!(client, "GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").expect("sent");
            then(client, &stop, &counts);
        });
        counts.lost()
    }

    #[test]
    fn at_a_stop_an_endless_body_ends_with_its_last_chunk() {
        let lost = with_server("/ticks", None, |mut client, stop, _| {
            let mut text = String::new();
            while !text.ends_with("\r\n4\r\ntick\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("a byte");
                text.push(byte[0].into());
            }
            stop.close();
            let mut rest = String::new();
            client.read_to_string(&mut rest).expect("an end");
            assert_eq!(rest, "0\r\n\r\n");
        });
        assert_eq!(lost, 0);
    }

    #[test]
    fn a_peer_that_takes_nothing_is_dropped() {
        with_server("/much", Some(Duration::from_millis(100)), |mut client, _, counts| {
            let start = Instant::now();
            while counts.lost() == 0 {
                assert!(start.elapsed() < PATIENCE, "it is kept");
                thread::yield_now();
            }
            // What was on its way is thrown away by the reset, or is not.
            let mut buffer = vec![0; 1 << 20];
            let error = loop {
                match client.read(&mut buffer) {
                    Ok(0) => panic!("an end"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }
}

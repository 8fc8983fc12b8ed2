//! Bare hyper, as a yardstick: each request gets the same few bytes of JSON, on as many threads as there are processors.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll, ready};
use std::thread;

use clap::Parser;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::rt::{self, ReadBufCursor};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use poetry_suite::cli::Error;
use poetry_suite::cli::listen::{ListenArgs, Trouble, address, announce};
use tokio::net::TcpStream;

/// Answer each request with the same bytes: bare hyper on tokio
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    listen: ListenArgs,

    /// What is answered
    #[arg(long, default_value = "{\"id\":1,\"name\":\"Carol\",\"fav_dish\":\"SPAM Bruschetta\"}")]
    body: String,

    /// Fields of the answer, beside those that hyper has itself: 'X-Cache: HIT'
    #[arg(long = "field", value_parser = field)]
    fields: Vec<(HeaderName, HeaderValue)>,
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(": ").ok_or("a field is like 'Name: value'")?;
    let name = name.parse().map_err(|_| "this is no name of a field")?;
    Ok((name, value.parse().map_err(|_| "this is no value of a field")?))
}

fn main() -> ExitCode {
    poetry_suite::cli::run("hello", |args: Args| {
        let listeners = args.listen.bind_shared(Trouble::default())?;
        announce("Hello", address(&listeners)?)?;
        thread::scope(|scope| {
            for listener in listeners {
                scope.spawn(|| serve(listener, &args.body, &args.fields));
            }
        });
        // They end with the process only.
        Err(Error::failure("no worker is left"))
    })
}

fn serve(listener: TcpListener, body: &str, fields: &[(HeaderName, HeaderValue)]) -> io::Result<()> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (body, fields) = (body.clone(), fields.to_vec());
            tokio::task::spawn_local(async move {
                let answer = service_fn(|_: Request<Incoming>| {
                    let mut response = Response::new(Whole(Some(body.clone())));
                    let headers = response.headers_mut();
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                    headers.extend(fields.iter().cloned());
                    async move { Ok::<_, Infallible>(response) }
                });
                // Whoever leaves has left.
                let _ = http1::Builder::new().serve_connection(Wire(stream), answer).await;
            });
        }
    })
}

/// A body that is there as a whole.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |body| body.len() as u64))
    }
}

/// A connection as hyper wants it.
struct Wire(TcpStream);

impl rt::Read for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut buffer = [0; 8 * 1024];
        let most = buffer.len().min(into.remaining());
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(&mut buffer[..most]) {
                Ok(read) => {
                    into.put_slice(&buffer[..read]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl rt::Write for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
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

//! The two ends of the protocol of poetry-broker: frames, as [`proto::frame`](crate::proto::frame) has them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::bytes::{Buf, Bytes, BytesMut};

use super::{Ends, Error, Options};
use crate::address::Address;
use crate::net::dial::dial;
use crate::proto::frame::{PREFIX, announced, prefix};

/// Bytes that a read asks for, and a write is made of.
const PIECE: usize = 64 * 1024;

/// Somebody who gets the messages of a channel.
#[derive(Debug)]
pub(super) struct Framed {
    stream: TcpStream,
    arrived: BytesMut,
    max_length: usize,
}

async fn connect(address: &Address, limit: Option<Duration>) -> Result<TcpStream, Error> {
    let stream = dial(address, limit).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ends(stream: &TcpStream) -> io::Result<Ends> {
    Ok(Ends { broker: stream.peer_addr()?, own: stream.local_addr()? })
}

/// A frame with its length.
fn add_frame(to: &mut BytesMut, payload: &[u8]) {
    to.extend_from_slice(&prefix(payload.len()));
    to.extend_from_slice(payload);
}

impl Framed {
    pub(super) async fn connect(address: &Address, channel: &[u8], options: &Options) -> Result<Self, Error> {
        let mut stream = connect(address, options.limit).await?;
        let mut hello = BytesMut::new();
        add_frame(&mut hello, channel);
        stream.write_all(&hello).await?;
        Ok(Self { stream, arrived: BytesMut::new(), max_length: options.max_length })
    }

    pub(super) fn ends(&self) -> io::Result<Ends> {
        ends(&self.stream)
    }

    /// The next message, if all of it is there.
    pub(super) fn next_now(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(length) = announced(&self.arrived, self.max_length)? else { return Ok(None) };
        if self.arrived.len() < PREFIX + length {
            return Ok(None);
        }
        self.arrived.advance(PREFIX);
        Ok(Some(self.arrived.split_to(length).freeze()))
    }

    /// Says goodbye, and returns what comes until the broker has heard of it.
    pub(super) async fn leave(mut self, limit: Option<Duration>) -> Result<Vec<Bytes>, Error> {
        self.stream.write_all(&prefix(0)).await?;
        let mut rest = Vec::new();
        while let Some(message) = within(limit, self.next()).await?? {
            rest.push(message);
        }
        Ok(rest)
    }

    /// The next message; `None`: the broker has ended the conversation. To drop the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(message) = self.next_now()? {
                return Ok(Some(message));
            }
            // Not what was announced: what has arrived.
            self.arrived.reserve(PIECE);
            if self.stream.read_buf(&mut self.arrived).await? == 0 {
                return if self.arrived.is_empty() { Ok(None) } else { Err(Error::Truncated) };
            }
        }
    }
}

/// Somebody who sends messages, to any channel.
#[derive(Debug)]
pub(super) struct FramedSender {
    stream: TcpStream,
    unsent: BytesMut,
    limit: Option<Duration>,
}

impl FramedSender {
    pub(super) async fn connect(address: &Address, limit: Option<Duration>) -> Result<Self, Error> {
        let stream = connect(address, limit).await?;
        let mut unsent = BytesMut::new();
        add_frame(&mut unsent, b"/null");
        Ok(Self { stream, unsent, limit })
    }

    pub(super) fn ends(&self) -> io::Result<Ends> {
        ends(&self.stream)
    }

    /// Sends a message, at the latest with the next [`flush`](Self::flush).
    pub(super) async fn send(&mut self, channel: &[u8], message: &[u8]) -> Result<(), Error> {
        add_frame(&mut self.unsent, channel);
        add_frame(&mut self.unsent, message);
        if self.unsent.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    /// Sends all of it. To drop the future loses nothing.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        let (mut reader, mut writer) = self.stream.split();
        let mut said = [0; 64];
        while !self.unsent.is_empty() {
            let step = async {
                tokio::select! {
                    biased;
                    read = reader.read(&mut said) => Ok::<_, io::Error>((read?, 0)),
                    written = writer.write(&self.unsent) => Ok((1, written?)),
                }
            };
            let (read, written) = within(self.limit, step).await?.map_err(|error| heard(&error))?;
            if read == 0 {
                return Err(Error::Unheard);
            }
            self.unsent.advance(written);
        }
        Ok(())
    }

    /// Resolves when the broker ends the conversation, which it is not to do now.
    pub(super) async fn ended(&mut self) -> Error {
        let mut said = [0; 64];
        loop {
            match self.stream.read(&mut said).await {
                Ok(0) => return Error::Unheard,
                Ok(_) => {}
                Err(error) => return heard(&error),
            }
        }
    }

    /// Ends the conversation, and waits until the broker has heard all of it: it ends its side then.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.flush().await?;
        self.stream.shutdown().await?;
        let mut said = [0; 64];
        loop {
            match within(self.limit, self.stream.read(&mut said)).await? {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(heard(&error)),
            }
        }
    }
}

/// The error of a sender whose broker has reset the connection.
fn heard(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Error::Unheard,
        kind => Error::Broke(kind.into()),
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, Error> {
    match limit {
        None => Ok(work.await),
        Some(limit) => timeout(limit, work).await.map_err(|_| Error::Silent(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn messages_are_what_they_were_wherever_the_stream_is_cut(
            messages in vec(vec(any::<u8>(), 0..20), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stream = BytesMut::new();
            messages.iter().for_each(|it| add_frame(&mut stream, it));
            let cut = cut.index(stream.len() + 1);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (heard, end) = runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let address = listener.local_addr().expect("bound").to_string().parse().expect("an address");
                let says = async {
                    let (mut peer, _) = listener.accept().await.expect("a client");
                    peer.write_all(&stream[..cut]).await.expect("it listens");
                    let mut hello = vec![0; PREFIX + 2];
                    peer.read_exact(&mut hello).await.expect("it says where");
                    assert_eq!(hello, b"\0\0\0\x02/a");
                };
                let options = Options { limit: None, max_length: 100, reconnects: false, group: String::new() };
                let hears = async {
                    let mut framed = Framed::connect(&address, b"/a", &options).await.expect("it is there");
                    let mut heard = Vec::new();
                    loop {
                        match framed.next().await {
                            Ok(Some(message)) => heard.push(message.to_vec()),
                            Ok(None) => return (heard, None),
                            Err(error) => return (heard, Some(error.to_string())),
                        }
                    }
                };
                tokio::join!(says, hears).1
            });
            let ends = messages.iter().scan(0, |end, it| { *end += PREFIX + it.len(); Some(*end) });
            let whole = ends.clone().take_while(|&end| end <= cut).count();
            prop_assert_eq!(&heard[..], &messages[..whole]);
            let is_boundary = cut == 0 || ends.clone().any(|end| end == cut);
            prop_assert_eq!(end.is_none(), is_boundary);
        }
    }
}

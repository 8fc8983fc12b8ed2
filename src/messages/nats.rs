//! The two ends of a conversation with a server of NATS, by way of its own client.
//!
//! `/topic/a/b` is the subject `topic.a.b` there, as NATS maps the names of MQTT; those who listen to `/queue/a` are a queue
//! group. What NATS says of itself holds: it holds nothing for those who come later, deals out queues by chance, and
//! disconnects who is slow.
//!
//! That client's `flush` hands messages to the system, and does not wait for the server. Here a message to oneself does: a
//! server handles what a client says in its order, so that with it all before it has been heard.

use std::error::Error as _;
use std::io;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::bytes::Bytes;
use tracing::{info, warn};

use super::{Error, NatsPlace, Options};
use crate::units::human;

/// Whether this program speaks NATS.
pub(super) const IS_THERE: bool = true;

/// Messages that have come and are not taken yet. What comes for more is lost, and told.
const AHEAD: usize = 16 * 1024;

/// Somebody who gets the messages of a subject.
#[derive(Debug)]
pub(super) struct NatsListener {
    client: Client,
    subscriber: Subscriber,
    events: UnboundedReceiver<Event>,
    reconnects: bool,
    deaf_since: Option<Instant>,
    overrun: u64,
}

/// Somebody who sends messages.
#[derive(Debug)]
pub(super) struct NatsSender {
    client: Client,
    events: UnboundedReceiver<Event>,
    limit: Option<Duration>,
}

/// The subject of a channel.
fn subject(channel: &[u8]) -> Result<String, String> {
    let name = str::from_utf8(channel).map_err(|_| "a subject of NATS is UTF-8")?;
    let parts = name.strip_prefix('/').unwrap_or(name);
    if parts.contains(|c: char| matches!(c, '.' | '*' | '>') || c.is_whitespace() || c.is_control()) {
        return Err(format!("'{name}' has a character that means something else to NATS: a dot, a space, * or >"));
    }
    if parts.split('/').any(str::is_empty) {
        return Err(format!("'{name}' has an empty part, which no subject of NATS has"));
    }
    Ok(parts.replace('/', "."))
}

/// Checks that a channel has a subject.
pub(super) fn check_channel(channel: &[u8]) -> Result<(), String> {
    subject(channel).map(drop)
}

async fn connect(
    place: &NatsPlace,
    limit: Option<Duration>,
    name: &str,
) -> Result<(Client, UnboundedReceiver<Event>), Error> {
    let (tell, events) = unbounded_channel();
    let mut options = ConnectOptions::new()
        .name(name)
        .subscription_capacity(AHEAD)
        .reconnect_delay_callback(|attempts| {
            // 100 ms, doubling to 5 s.
            let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
            (Duration::from_millis(100) * (1 << doublings)).min(Duration::from_secs(5))
        })
        .event_callback(move |event| {
            let _ = tell.send(event);
            async {}
        });
    options = match place.identity.as_deref().map(|identity| identity.split_once(':')) {
        None => options,
        Some(Some((user, password))) => options.user_and_password(user.to_owned(), password.to_owned()),
        Some(None) => options.token(place.identity.clone().unwrap_or_default()),
    };
    if let Some(limit) = limit {
        options = options.connection_timeout(limit);
    }
    let client = options.connect(format!("nats://{}", place.address)).await;
    Ok((client.map_err(|error| not_connected(&error, limit))?, events))
}

fn not_connected(error: &ConnectError, limit: Option<Duration>) -> Error {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match (error.kind(), io, limit) {
        (ConnectErrorKind::TimedOut, _, Some(limit)) => Error::Silent(limit),
        (_, Some(error), _) => Error::Broke(io::Error::new(error.kind(), error.to_string())),
        _ => Error::Refused(error.kind().to_string()),
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Refused(error.to_string())
}

/// Waits until the server has handled everything that this client has said.
async fn heard(client: &Client) -> Result<(), Error> {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.map_err(refused)?;
    client.publish(inbox, Bytes::new()).await.map_err(refused)?;
    client.flush().await.map_err(refused)?;
    match echo.next().await {
        Some(_) => Ok(()),
        None => Err(Error::Unheard),
    }
}

/// What an event means to somebody who does not reconnect; `None`: nothing.
fn trouble(event: Option<Event>) -> Option<Error> {
    match event? {
        Event::Disconnected | Event::Closed => Some(Error::Unheard),
        Event::ServerError(ServerError::Other(text)) => Some(Error::Refused(text)),
        Event::ServerError(error) => Some(refused(error)),
        Event::ClientError(error) => Some(refused(error)),
        Event::Connected | Event::LameDuckMode | Event::Draining | Event::SlowConsumer(_) => None,
    }
}

/// The first trouble of which these events tell.
async fn next_trouble(events: &mut UnboundedReceiver<Event>) -> Error {
    loop {
        match events.recv().await {
            None => return Error::Unheard,
            event => {
                if let Some(error) = trouble(event) {
                    return error;
                }
            }
        }
    }
}

/// Does this within the limit, unless there is trouble before.
async fn unless_trouble<T>(
    work: impl Future<Output = Result<T, Error>>,
    events: &mut UnboundedReceiver<Event>,
    limit: Option<Duration>,
) -> Result<T, Error> {
    let work = async {
        tokio::select! {
            biased;
            error = next_trouble(events) => Err(error),
            done = work => done,
        }
    };
    match limit {
        None => work.await,
        Some(limit) => timeout(limit, work).await.unwrap_or(Err(Error::Silent(limit))),
    }
}

impl NatsListener {
    pub(super) async fn connect(place: &NatsPlace, channel: &[u8], options: &Options) -> Result<Self, Error> {
        let (client, mut events) = connect(place, options.limit, "poetry-listen").await?;
        let subject = subject(channel).map_err(Error::Refused)?;
        let subscriber = match channel.starts_with(b"/queue") {
            true => client.queue_subscribe(subject, options.group.clone()).await.map_err(refused)?,
            false => client.subscribe(subject).await.map_err(refused)?,
        };
        unless_trouble(heard(&client), &mut events, options.limit).await?;
        Ok(Self { client, subscriber, events, reconnects: options.reconnects, deaf_since: None, overrun: 0 })
    }

    pub(super) fn next_now(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.subscriber.next().now_or_never().flatten().map(|message| message.payload))
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            tokio::select! {
                biased;
                message = self.subscriber.next() => return Ok(message.map(|message| message.payload)),
                event = self.events.recv() => self.note(event)?,
            }
        }
    }

    pub(super) async fn leave(mut self, limit: Option<Duration>) -> Result<Vec<Bytes>, Error> {
        self.subscriber.unsubscribe().await.map_err(refused)?;
        unless_trouble(heard(&self.client), &mut self.events, limit).await?;
        let mut rest = Vec::new();
        while let Some(message) = self.next_now()? {
            rest.push(message);
        }
        Ok(rest)
    }

    fn note(&mut self, event: Option<Event>) -> Result<(), Error> {
        match event {
            Some(Event::Disconnected) if self.reconnects => {
                if self.deaf_since.is_none() {
                    warn!("The connection has ended; trying again");
                    self.deaf_since = Some(Instant::now());
                }
            }
            Some(Event::Connected) => {
                if let Some(since) = self.deaf_since.take() {
                    let server = self.client.server_info();
                    info!("Listening again, on {}:{}, deaf for {}", server.host, server.port, human(since.elapsed()));
                }
            }
            Some(Event::SlowConsumer(_)) => {
                self.overrun += 1;
                if self.overrun.is_power_of_two() {
                    warn!("Too slow: {} lost on this side", crate::units::count(self.overrun, "message"));
                }
            }
            Some(Event::ClientError(_)) if self.reconnects => {}
            event => {
                if let Some(error) = trouble(event) {
                    return Err(match error {
                        Error::Unheard => Error::Broke(io::ErrorKind::ConnectionReset.into()),
                        error => error,
                    });
                }
            }
        }
        Ok(())
    }
}

impl NatsSender {
    pub(super) async fn connect(place: &NatsPlace, limit: Option<Duration>) -> Result<Self, Error> {
        let (client, events) = connect(place, limit, "poetry-send").await?;
        Ok(Self { client, events, limit })
    }

    pub(super) async fn send(&mut self, channel: &[u8], message: &[u8]) -> Result<(), Error> {
        let most = self.client.max_payload();
        if message.len() > most {
            let text = format!("a message: {} bytes are over the limit of {most}", message.len());
            return Err(Error::Refused(text));
        }
        let subject = subject(channel).map_err(Error::Refused)?;
        let client = &self.client;
        let send = async { client.publish(subject, Bytes::copy_from_slice(message)).await.map_err(refused) };
        unless_trouble(send, &mut self.events, self.limit).await
    }

    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        let client = &self.client;
        let flush = async { client.flush().await.map_err(refused) };
        unless_trouble(flush, &mut self.events, self.limit).await
    }

    pub(super) async fn ended(&mut self) -> Error {
        next_trouble(&mut self.events).await
    }

    pub(super) async fn finish(mut self) -> Result<(), Error> {
        unless_trouble(heard(&self.client), &mut self.events, self.limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_a_subject_if_it_can_be_one() {
        for (channel, expected) in [("/topic/a/b", "topic.a.b"), ("plain", "plain"), ("/queue/jobs", "queue.jobs")] {
            assert_eq!(subject(channel.as_bytes()).as_deref(), Ok(expected));
        }
        for channel in ["/topic/a.b", "/topic/a b", "/topic/*", "/topic/>", "/topic//a", "/topic/", "/", "a\n"] {
            assert!(
                subject(channel.as_bytes()).is_err_and(|why| why.contains(&format!("'{channel}' has "))),
                "{channel:?}"
            );
        }
        assert_eq!(subject(b"/\xff"), Err("a subject of NATS is UTF-8".to_owned()));
    }
}

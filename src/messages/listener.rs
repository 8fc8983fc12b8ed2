//! Somebody who gets the messages of a channel, whichever broker it is.

use std::time::Duration;

use tokio_util::bytes::Bytes;

use super::framed::Framed;
use super::nats::NatsListener;
use super::{Ends, Error, Options, Place};

/// A subscription to one channel of one broker.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Framed(Framed),
    Nats(NatsListener),
}

impl Listener {
    /// Connects to a broker, and subscribes to a channel.
    ///
    /// # Errors
    /// There is no connection in time, or the broker refuses.
    pub async fn connect(place: &Place, channel: &[u8], options: &Options) -> Result<Self, Error> {
        Ok(Self(match place {
            Place::Broker(address) => Kind::Framed(Framed::connect(address, channel, options).await?),
            Place::Nats(nats) => Kind::Nats(NatsListener::connect(nats, channel, options).await?),
        }))
    }

    /// The addresses of its connection, if there is one that is known.
    pub fn ends(&self) -> Option<Ends> {
        match &self.0 {
            Kind::Framed(framed) => framed.ends().ok(),
            Kind::Nats(_) => None,
        }
    }

    /// The next message, if it has come already.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub fn next_now(&mut self) -> Result<Option<Bytes>, Error> {
        match &mut self.0 {
            Kind::Framed(framed) => framed.next_now(),
            Kind::Nats(nats) => nats.next_now(),
        }
    }

    /// Takes its leave, and returns what had come already, or comes until the broker has heard of it.
    ///
    /// # Errors
    /// The broker does not hear of it within `limit`.
    pub async fn leave(self, limit: Option<Duration>) -> Result<Vec<Bytes>, Error> {
        match self.0 {
            Kind::Framed(framed) => framed.leave(limit).await,
            Kind::Nats(nats) => nats.leave(limit).await,
        }
    }

    /// The next message; `None`: the broker has ended the conversation. To drop the future loses nothing.
    ///
    /// # Errors
    /// The connection broke, or ended within a message; or a message is too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match &mut self.0 {
            Kind::Framed(framed) => framed.next().await,
            Kind::Nats(nats) => nats.next().await,
        }
    }
}

//! Somebody who sends messages, whichever broker it is.

use std::time::Duration;

use super::framed::FramedSender;
use super::nats::NatsSender;
use super::{Ends, Error, Place};

/// A connection to a broker on which messages are sent.
#[derive(Debug)]
pub struct Sender(Kind);

#[derive(Debug)]
enum Kind {
    Framed(FramedSender),
    Nats(NatsSender),
}

impl Sender {
    /// Connects to a broker. What is sent has to be taken within `limit`, each time.
    ///
    /// # Errors
    /// There is no connection within `limit`, or the broker refuses.
    pub async fn connect(place: &Place, limit: Option<Duration>) -> Result<Self, Error> {
        Ok(Self(match place {
            Place::Broker(address) => Kind::Framed(FramedSender::connect(address, limit).await?),
            Place::Nats(nats) => Kind::Nats(NatsSender::connect(nats, limit).await?),
        }))
    }

    /// The addresses of its connection, if there is one that is known.
    pub fn ends(&self) -> Option<Ends> {
        match &self.0 {
            Kind::Framed(framed) => framed.ends().ok(),
            Kind::Nats(_) => None,
        }
    }

    /// Sends a message, at the latest with the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// As for [`flush`](Self::flush).
    pub async fn send(&mut self, channel: &[u8], message: &[u8]) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Framed(framed) => framed.send(channel, message).await,
            Kind::Nats(nats) => nats.send(channel, message).await,
        }
    }

    /// Hands all that was sent to the system.
    ///
    /// # Errors
    /// The broker ended the conversation, or took nothing in time.
    pub async fn flush(&mut self) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Framed(framed) => framed.flush().await,
            Kind::Nats(nats) => nats.flush().await,
        }
    }

    /// Resolves when the broker ends the conversation, which it is not to do now.
    pub async fn ended(&mut self) -> Error {
        match &mut self.0 {
            Kind::Framed(framed) => framed.ended().await,
            Kind::Nats(nats) => nats.ended().await,
        }
    }

    /// Ends the conversation, and waits until the broker has heard all of it.
    ///
    /// # Errors
    /// It has not, or does not say so in time.
    pub async fn finish(self) -> Result<(), Error> {
        match self.0 {
            Kind::Framed(framed) => framed.finish().await,
            Kind::Nats(nats) => nats.finish().await,
        }
    }
}

//! NATS in a program that was built without it: there is none.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::bytes::Bytes;

use super::{Error, NatsPlace, Options};

/// Whether this program speaks NATS.
pub(super) const IS_THERE: bool = false;

/// There is none.
#[derive(Debug)]
pub(super) struct NatsListener(Infallible);

/// There is none.
#[derive(Debug)]
pub(super) struct NatsSender(Infallible);

fn refused<T>() -> Result<T, Error> {
    Err(Error::Refused("this program was built without NATS".to_owned()))
}

/// Checks the name of a channel, as far as there is one.
pub(super) fn check_channel(_: &[u8]) -> Result<(), String> {
    Ok(())
}

impl NatsListener {
    pub(super) async fn connect(_: &NatsPlace, _: &[u8], _: &Options) -> Result<Self, Error> {
        refused()
    }

    pub(super) fn next_now(&mut self) -> Result<Option<Bytes>, Error> {
        match self.0 {}
    }

    pub(super) async fn leave(self, _: Option<Duration>) -> Result<Vec<Bytes>, Error> {
        match self.0 {}
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.0 {}
    }
}

impl NatsSender {
    pub(super) async fn connect(_: &NatsPlace, _: Option<Duration>) -> Result<Self, Error> {
        refused()
    }

    pub(super) async fn send(&mut self, _: &[u8], _: &[u8]) -> Result<(), Error> {
        match self.0 {}
    }

    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        match self.0 {}
    }

    pub(super) async fn ended(&mut self) -> Error {
        match self.0 {}
    }

    pub(super) async fn finish(self) -> Result<(), Error> {
        match self.0 {}
    }
}

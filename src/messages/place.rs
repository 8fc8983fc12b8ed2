//! Where a message broker is: `25000`, `poems.example:25000`, or `nats://poems.example:4222`.

use std::fmt;
use std::str::FromStr;

use crate::address::{Address, AddressError};

/// A broker, and so the protocol that it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// poetry-broker, or another one with its protocol.
    Broker(Address),
    /// A server of NATS.
    Nats(NatsPlace),
}

/// A server of NATS, and who one is to it.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsPlace {
    /// Where it is.
    pub address: Address,
    /// `user:password`, or a token.
    pub identity: Option<String>,
}

/// The port of NATS, where none is given.
const NATS_PORT: u16 = 4222;

/// Why a text is no [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It is no address.
    #[error("{0}, or nats://[USER:PASSWORD@]HOST[:PORT]")]
    Address(#[from] AddressError),
    /// It begins with the scheme of another protocol.
    #[error("'{0}://' is no protocol of a broker here; an address is PORT, HOST:PORT or nats://HOST[:PORT]")]
    Scheme(String),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Broker(text.parse()?)) };
        if !scheme.eq_ignore_ascii_case("nats") {
            return Err(PlaceError::Scheme(scheme.to_owned()));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (identity, host) = match rest.rsplit_once('@') {
            Some((identity, host)) => (Some(identity.to_owned()), host),
            None => (None, rest),
        };
        let has_port =
            host.rsplit_once(':').is_some_and(|(before, _)| !before.starts_with('[') || before.ends_with(']'));
        let address = if has_port { host.parse()? } else { format!("{host}:{NATS_PORT}").parse()? };
        Ok(Self::Nats(NatsPlace { address, identity }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker(address) => address.fmt(f),
            Self::Nats(place) => place.fmt(f),
        }
    }
}

impl fmt::Display for NatsPlace {
    /// Without who one is to it: that is nobody else's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats://{}", self.address)
    }
}

impl fmt::Debug for NatsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_or_begins_with_nats() {
        for (text, shown, identity) in [
            ("25000", "127.0.0.1:25000", None),
            ("poems.example:25000", "poems.example:25000", None),
            ("nats://localhost", "nats://localhost:4222", None),
            ("NATS://127.0.0.1:1/", "nats://127.0.0.1:1", None),
            ("nats://[::1]", "nats://[::1]:4222", None),
            ("nats://[::1]:4223", "nats://[::1]:4223", None),
            ("nats://keats:ode@h:1", "nats://h:1", Some("keats:ode")),
            ("nats://token@h", "nats://h:4222", Some("token")),
        ] {
            let place: Place = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(place.to_string(), shown);
            let its = match &place {
                Place::Nats(NatsPlace { identity, .. }) => identity.as_deref(),
                Place::Broker(_) => None,
            };
            assert_eq!(its, identity);
            assert!(!format!("{place:?}").contains("ode"), "a password is shown to nobody");
        }
        for (text, why) in [
            (
                "http://localhost:1",
                "'http://' is no protocol of a broker here; an address is PORT, HOST:PORT or nats://HOST[:PORT]",
            ),
            (
                "localhost",
                "no port; an address is PORT, HOST:PORT or [IPv6]:PORT, or nats://[USER:PASSWORD@]HOST[:PORT]",
            ),
            ("nats://", "no host; an address is PORT, HOST:PORT or [IPv6]:PORT, or nats://[USER:PASSWORD@]HOST[:PORT]"),
        ] {
            assert_eq!(text.parse::<Place>().map_err(|error| error.to_string()), Err(why.to_owned()));
        }
    }
}

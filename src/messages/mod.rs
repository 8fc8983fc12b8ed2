//! The ends of a conversation with a message broker: somebody listens, somebody sends, and what was sent is judged.
//!
//! | file | |
//! |---|---|
//! | `place.rs` | where a broker is, and which kind it is |
//! | `listener.rs`, `sender.rs` | one end each, of whichever broker |
//! | `framed.rs` | the two ends of poetry-broker's protocol |
//! | `nats.rs` | those of NATS, or that this program was built without it |
//! | `stamp.rs`, `audit.rs` | numbers and times in messages, and what they prove |

pub mod audit;
mod framed;
mod listener;
mod place;
mod sender;
pub mod stamp;

#[cfg(feature = "nats")]
mod nats;
#[cfg(not(feature = "nats"))]
#[path = "no_nats.rs"]
mod nats;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::errors::reason;
use crate::net::dial::DialError;
use crate::proto::frame::TooLong;

pub use listener::Listener;
pub use place::{NatsPlace, Place, PlaceError};
pub use sender::Sender;

/// Why a conversation with a broker has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("{}", reason(.0))]
    Broke(#[from] io::Error),
    /// The broker took nothing, or said nothing, for so long.
    #[error("nothing for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// The stream ended in the middle of a message.
    #[error("the connection ended within a message")]
    Truncated,
    /// A message is over the limit.
    #[error("a message: {0}")]
    TooLong(#[from] TooLong),
    /// The broker ended the connection before it had heard everything.
    #[error("the broker ended the connection before it had everything")]
    Unheard,
    /// The broker says no, in its own words.
    #[error("{0}")]
    Refused(String),
}

/// How somebody listens.
#[derive(Debug, Clone)]
pub struct Options {
    /// A broker that does not accept the connection for so long is given up. `None`: never.
    pub limit: Option<Duration>,
    /// Bytes of one message.
    pub max_length: usize,
    /// Whether a connection that ends is to come back, where its client can do that by itself: that of NATS knows the
    /// other members of a cluster.
    pub reconnects: bool,
    /// The queue group in which those are who listen to a queue of NATS.
    pub group: String,
}

/// The two addresses of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Of the broker.
    pub broker: SocketAddr,
    /// Of this end.
    pub own: SocketAddr,
}

/// Checks that there is such a channel at such a broker, as far as that can be known before.
///
/// # Errors
/// The reason, in words.
pub fn check(place: &Place, channel: &[u8]) -> Result<(), String> {
    match channel.len() {
        0 => return Err("a channel has a name".to_owned()),
        1..=LONGEST_CHANNEL => {}
        length => return Err(format!("the name of the channel has {length} bytes; {LONGEST_CHANNEL} are the most")),
    }
    match place {
        Place::Broker(_) => Ok(()),
        Place::Nats(_) if !nats::IS_THERE => {
            Err("this program was built without NATS: build it with --features nats".to_owned())
        }
        Place::Nats(_) => nats::check_channel(channel),
    }
}

/// The longest name of a channel, in bytes.
const LONGEST_CHANNEL: usize = 255;

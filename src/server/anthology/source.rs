//! A source: where something comes from, what it is called, and how much of it and of time it may take.

use std::fmt;
use std::time::Duration;

use super::content::Kind;
use crate::address::Address;
use crate::proto::http::target::Url;

/// A source of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What it is called; else it is its address.
    pub name: Option<String>,
    /// Where it is.
    pub place: Place,
    /// What it has; `None`: what its server says.
    pub kind: Option<Kind>,
    /// What it may cost.
    pub limits: Limits,
}

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a server that sends it unasked, and the end of the stream is its end.
    Poem(Address),
    /// At a server that sends it for a GET of this URL.
    Http(Url),
}

/// The limits of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For all of it, from when its turn comes.
    pub timeout: Duration,
    /// For a connection, and for each next byte.
    pub idle_timeout: Duration,
    /// Bytes. A longer one is none.
    pub max_size: usize,
}

/// What is done to texts before they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// The name of the transform.
    pub name: String,
    /// The server that does it.
    pub via: Address,
}

impl Source {
    /// The server, of which each allows only so many connections.
    pub(super) fn host(&self) -> &Address {
        match &self.place {
            Place::Poem(address) => address,
            Place::Http(url) => url.address(),
        }
    }

    /// What it is called.
    pub(super) fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.place.to_string())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poem(address) => address.fmt(f),
            Self::Http(url) => url.fmt(f),
        }
    }
}

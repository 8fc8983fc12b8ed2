//! Where a poem comes from: a server that gives out one poem, or an `http` URL.

use std::fmt;
use std::str::FromStr;

use crate::address::{Address, AddressError};
use crate::proto::http::target::{BadUrl, Url};

/// The source of a poem as somebody wrote it: `PORT`, `HOST:PORT`, `[IPv6]:PORT` or `http://HOST[:PORT]/PATH`.
/// [`fmt::Display`] writes its canonical form, which can be parsed again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A server that sends its poem as soon as it is connected to; the end of the stream is the end of the poem.
    Poem(Address),
    /// What a server gives out for a GET of this URL.
    Http(Url),
}

/// What could have been meant.
pub(super) const FORMS: &str =
    "an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=";

/// Why a text is no [`Source`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It is no address.
    #[error("{}; {FORMS}", .0.why())]
    Address(AddressError),
    /// It is no URL that can be fetched.
    #[error(transparent)]
    Url(BadUrl),
}

impl Source {
    /// The server.
    pub fn address(&self) -> &Address {
        match self {
            Self::Poem(address) => address,
            Self::Http(url) => url.address(),
        }
    }

    /// The URL, if it has one.
    pub fn url(&self) -> Option<&Url> {
        match self {
            Self::Poem(_) => None,
            Self::Http(url) => Some(url),
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text.contains("://") {
            true => text.parse().map(Self::Http).map_err(SourceError::Url),
            false => text.parse().map(Self::Poem).map_err(SourceError::Address),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poem(address) => address.fmt(f),
            Self::Http(url) => url.fmt(f),
        }
    }
}

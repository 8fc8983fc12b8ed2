//! The failures of a fetch: why a poem did not arrive.

use std::io;
use std::time::Duration;

use crate::errors::reason;
use crate::proto::http::INTERIM_REPLIES;
use crate::proto::http::fields::RetryAfter;
use crate::proto::http::framing::{Fault, Truncated};
use crate::proto::http::head::BadResponse;
use crate::proto::http::target::BadUrl;
use crate::proto::netstring;
use crate::report::{Limit, Status};
use crate::units::count;

/// Why the fetch of one poem failed. Its text is the end of the line
/// `Task 2: failed: 127.0.0.1:10001: ...`.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The host name has no address.
    #[error("cannot resolve the name: {}", reason(.0))]
    Resolve(io::Error),
    /// connect(2) failed.
    #[error("{}", reason(.0))]
    Connect(io::Error),
    /// A read or a write failed: the connection broke, and what arrived is not a poem.
    #[error("{}", reason(.0))]
    Broken(io::Error),
    /// No connection within the limit.
    #[error("no connection for {}", humantime::format_duration(*.0))]
    ConnectTimeout(Duration),
    /// No byte within the limit.
    #[error("no byte for {}", humantime::format_duration(*.0))]
    IdleTimeout(Duration),
    /// The poem was not complete within the limit.
    #[error("not complete after {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The poem is longer than the limit, of so many bytes.
    #[error("longer than {}", count(*.0, "byte"))]
    TooLong(u64),
    /// The poem is longer than the limit of what is sent to a transform server, of so many bytes.
    #[error("the poem is longer than {}", count(*.0, "byte"))]
    TooLongToChange(u64),
    /// There is no memory for what a transform needs.
    #[error("not enough memory")]
    Memory,
    /// The poem arrived, but could not be put where it belongs.
    #[error("cannot write {place}: {}", reason(.error))]
    Deliver {
        /// The file, or `stdout`.
        place: String,
        /// What the system said.
        error: io::Error,
    },
    /// This machine lacks what the fetch needs: a socket, a thread.
    #[error("cannot {what}: {}", reason(.error))]
    Local {
        /// What could not be done.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The server closed the connection without a reply. That is a transform server's way to say no.
    #[error("no reply")]
    NoReply,
    /// The transform server closed the connection in the middle of its reply.
    #[error("the reply breaks off")]
    HalfReply,
    /// The reply of the transform server is no netstring, or too long.
    #[error("malformed reply: {0}")]
    Reply(netstring::Error),
    /// The HTTP server replied with a status that is no poem.
    #[error("HTTP {code}{}{reason}", if reason.is_empty() { "" } else { " " })]
    Status {
        /// The status code.
        code: u16,
        /// The reason phrase, which may be empty.
        reason: String,
        /// How long the server asks to be left alone.
        retry_after: Option<RetryAfter>,
    },
    /// The HTTP server asks to be left alone for longer than the client waits.
    #[error("{failure}, and asks to come back in {}, {than}", humantime::format_duration(*.wait))]
    TooFarOff {
        /// Its reply.
        failure: Box<Failure>,
        /// How long, in whole seconds.
        wait: Duration,
        /// Than what it is longer.
        than: &'static str,
    },
    /// The body of an HTTP reply breaks off.
    #[error("truncated: {0}")]
    Truncated(Truncated),
    /// The head of an HTTP reply breaks off.
    #[error("truncated: the head of the reply breaks off")]
    HalfHead,
    /// What comes is no HTTP reply that could be understood.
    #[error("{bad}{}", hint(*.bad))]
    Head {
        /// What is wrong with its head.
        bad: BadResponse,
    },
    /// Nobody can say where the HTTP reply ends.
    #[error("{0}")]
    Framing(Fault),
    /// Interim replies, and no other one.
    #[error("more than {INTERIM_REPLIES} interim replies")]
    ManyInterim,
    /// An HTTP server sends to another place, and that one to another, and so on.
    #[error("more than {}", count(u64::from(*.0), "redirect"))]
    TooManyRedirects(u32),
    /// An HTTP server sends to a place where nothing can be fetched from.
    #[error("redirected to {to}: {why}")]
    Redirect {
        /// The place, in the server's words.
        to: String,
        /// What is wrong with it.
        why: BadUrl,
    },
    /// The poem arrived, but not what stands beside it.
    #[error("{url}: {failure}")]
    Beside {
        /// What was asked for.
        url: String,
        /// Why it did not arrive.
        failure: Box<Failure>,
    },
    /// The file of the poem has no name: what stands beside the poem does not tell it.
    #[error("no name for its file: {0}")]
    NoName(String),
    /// A bug: the program panicked while it fetched this poem.
    #[error("internal error; the other poems are not affected")]
    Bug,
}

impl Failure {
    /// socket(2) failed.
    pub(super) fn no_socket(error: io::Error) -> Self {
        Self::Local { what: "make a socket", error }
    }

    /// pthread_create(3) failed.
    pub(super) fn no_thread(error: io::Error) -> Self {
        Self::Local { what: "start a thread", error }
    }

    /// The status in the report, which scripts branch on.
    pub fn status(&self) -> Status {
        match self {
            Self::Resolve(_) => Status::Unreachable,
            Self::Connect(error) | Self::Broken(error) => network_status(error),
            Self::ConnectTimeout(_) | Self::IdleTimeout(_) | Self::Timeout(_) => Status::Timeout,
            Self::Status { code: 404 | 410, .. } => Status::NotFound,
            Self::Truncated(_) | Self::HalfHead => Status::Truncated,
            Self::Beside { failure, .. } | Self::TooFarOff { failure, .. } => failure.status(),
            Self::TooLong(_)
            | Self::TooLongToChange(_)
            | Self::Memory
            | Self::Deliver { .. }
            | Self::Local { .. }
            | Self::NoReply
            | Self::HalfReply
            | Self::Reply(_)
            | Self::Status { .. }
            | Self::Head { .. }
            | Self::Framing(_)
            | Self::ManyInterim
            | Self::TooManyRedirects(_)
            | Self::Redirect { .. }
            | Self::NoName(_)
            | Self::Bug => Status::Error,
        }
    }

    /// How long the server asks to be left alone, if it does.
    pub(super) fn retry_after(&self) -> Option<RetryAfter> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Beside { failure, .. } => failure.retry_after(),
            _ => None,
        }
    }

    /// The client's own limit that ran out, if that was why.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::ConnectTimeout(_) => Some(Limit::Connect),
            Self::IdleTimeout(_) => Some(Limit::Idle),
            Self::Timeout(_) => Some(Limit::Total),
            _ => None,
        }
    }

    /// Whether another attempt could help: the other side failed, or the way there.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Connect(_) | Self::Broken(_) | Self::ConnectTimeout(_) | Self::IdleTimeout(_) => {
                true
            }
            // RFC 9110, section 15, and RFC 6585: too slow, too many, or trouble that may pass.
            Self::Status { code, .. } => matches!(code, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Truncated(_) | Self::HalfHead | Self::NoReply => true,
            Self::Beside { failure, .. } => failure.is_retryable(),
            Self::Timeout(_)
            | Self::TooLong(_)
            | Self::TooLongToChange(_)
            | Self::Memory
            | Self::Deliver { .. }
            | Self::Local { .. }
            | Self::HalfReply
            | Self::Reply(_)
            | Self::TooFarOff { .. }
            | Self::Head { .. }
            | Self::Framing(_)
            | Self::ManyInterim
            | Self::TooManyRedirects(_)
            | Self::Redirect { .. }
            | Self::NoName(_)
            | Self::Bug => false,
        }
    }
}

fn hint(bad: BadResponse) -> &'static str {
    if bad == BadResponse::NoHttp { " (a poem without it? write HOST:PORT)" } else { "" }
}

fn network_status(error: &io::Error) -> Status {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
        TimedOut,
    };
    match error.kind() {
        ConnectionRefused => Status::Refused,
        ConnectionReset | ConnectionAborted => Status::Reset,
        TimedOut => Status::Timeout,
        HostUnreachable | NetworkUnreachable | NetworkDown => Status::Unreachable,
        _ => Status::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_from_the_error() {
        for (code, status) in [
            (111, Status::Refused),
            (104, Status::Reset),
            (110, Status::Timeout),
            (113, Status::Unreachable),
            (101, Status::Unreachable),
            (13, Status::Error),
        ] {
            assert_eq!(Failure::Connect(io::Error::from_raw_os_error(code)).status(), status);
            assert_eq!(Failure::Broken(io::Error::from_raw_os_error(code)).status(), status);
        }
    }

    #[test]
    fn a_limit_that_ran_out_is_named_and_the_kernels_is_none_of_ours() {
        let limit = Duration::from_secs(1);
        let ours = [Failure::ConnectTimeout(limit), Failure::IdleTimeout(limit), Failure::Timeout(limit)];
        let kernels = Failure::Connect(io::ErrorKind::TimedOut.into());
        assert!(ours.iter().chain([&kernels]).all(|failure| failure.status() == Status::Timeout));
        assert_eq!(ours.map(|failure| failure.limit().map(Limit::word)), ["connect", "idle", "total"].map(Some));
        assert_eq!(kernels.limit(), None);
    }

    #[test]
    fn a_failure_reads_as_the_end_of_a_line() {
        assert_eq!(Failure::IdleTimeout(Duration::from_secs(300)).to_string(), "no byte for 5m");
        let full = io::Error::from_raw_os_error(28);
        let failure = Failure::Deliver { place: "stdout".to_owned(), error: full };
        assert_eq!(failure.to_string(), "cannot write stdout: no space left on device");
    }
}

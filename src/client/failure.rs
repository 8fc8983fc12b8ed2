//! The failures of a fetch: why a poem did not arrive.

use std::io;
use std::time::Duration;

use crate::errors::reason;
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
    /// The transform server closed the connection without a reply, which is its way to say no.
    #[error("no reply")]
    NoReply,
    /// The transform server closed the connection in the middle of its reply.
    #[error("the reply breaks off")]
    HalfReply,
    /// The reply of the transform server is no netstring, or too long.
    #[error("malformed reply: {0}")]
    Reply(netstring::Error),
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
            Self::TooLong(_)
            | Self::TooLongToChange(_)
            | Self::Memory
            | Self::Deliver { .. }
            | Self::Local { .. }
            | Self::NoReply
            | Self::HalfReply
            | Self::Reply(_)
            | Self::Bug => Status::Error,
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
            Self::Timeout(_)
            | Self::TooLong(_)
            | Self::TooLongToChange(_)
            | Self::Memory
            | Self::Deliver { .. }
            | Self::Local { .. }
            | Self::NoReply
            | Self::HalfReply
            | Self::Reply(_)
            | Self::Bug => false,
        }
    }
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

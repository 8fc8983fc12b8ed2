//! Why a source has nothing to be shown, each in a sentence of its own.

use std::fmt;
use std::io;
use std::time::Duration;

use hyper::StatusCode;

use super::content::Unreadable;
use crate::errors::reason;
use crate::net::dial::DialError;
use crate::proto::http::INTERIM_REPLIES;
use crate::proto::http::framing::{Fault, Truncated};
use crate::proto::http::head::BadResponse;
use crate::proto::netstring;
use crate::report::{Limit, Status};
use crate::units::count;

/// Why a source has nothing to be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("Its name is unknown: {}.", reason(.0))]
    Unknown(io::Error),
    #[error("Nobody listens there: connection refused.")]
    Refused,
    #[error("It cannot be reached: {}.", reason(.0))]
    Unreachable(io::Error),
    #[error("There was no connection for {}.", humantime::format_duration(*.0))]
    NoConnection(Duration),
    #[error("That is this server itself.")]
    Itself,
    #[error("This machine has nothing left to ask it with: {}.", reason(.0))]
    Local(io::Error),
    #[error("Its connection was reset, {}.", so_far(*.after))]
    Reset { after: u64 },
    #[error("Its connection broke, {}: {}.", so_far(*.after), reason(.error))]
    Broken { error: io::Error, after: u64 },
    #[error("It was silent for {}, {}.", humantime::format_duration(*.limit), so_far(*.after))]
    Silent { limit: Duration, after: u64 },
    #[error("It was not complete after {}: {} had come.", humantime::format_duration(*.limit), count(*.after, "byte"))]
    Slow { limit: Duration, after: u64 },
    #[error("It is longer than {}.", Size(*.0))]
    TooLong(usize),
    #[error("It breaks off: {0}.")]
    Truncated(Truncated),
    #[error("It ended before there was a reply.")]
    NoReply,
    #[error("What it says is not HTTP.")]
    NotHttp,
    #[error("Its reply cannot be understood: {0}.")]
    Head(BadResponse),
    #[error("Nobody can say where its reply ends: {0}.")]
    Framing(Fault),
    #[error("It says more than {INTERIM_REPLIES} times that a reply will come.")]
    Interim,
    #[error("Its reply is malformed: {0}.")]
    Netstring(netstring::Error),
    #[error("It answers {status}, and has no text.")]
    Status { code: u16, status: String },
    #[error("It redirects more than {0} times.")]
    Redirects(usize),
    #[error("It redirects to {0}, which is another host: not followed.")]
    Elsewhere(String),
    #[error("It redirects to {to}, which leads nowhere: {why}.")]
    Nowhere { to: String, why: String },
    #[error("It is compressed ({0}), which nobody asked for.")]
    Compressed(String),
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("It was not asked to its end, because this server had to stop.")]
    Stopped,
}

impl Trouble {
    /// What reports call it.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Refused => Status::Refused,
            Self::Unknown(_) | Self::Unreachable(_) => Status::Unreachable,
            Self::NoConnection(_) | Self::Silent { .. } | Self::Slow { .. } => Status::Timeout,
            Self::Reset { .. } => Status::Reset,
            Self::Truncated(_) => Status::Truncated,
            Self::Status { code: 404 | 410, .. } => Status::NotFound,
            Self::Stopped => Status::Interrupted,
            _ => Status::Error,
        }
    }

    /// The limit that ran out, if one did.
    pub(super) fn limit(&self) -> Option<Limit> {
        match self {
            Self::NoConnection(_) => Some(Limit::Connect),
            Self::Silent { .. } => Some(Limit::Idle),
            Self::Slow { .. } => Some(Limit::Total),
            _ => None,
        }
    }

    /// What a client gets who wanted nothing but this source.
    pub(super) fn http_status(&self) -> StatusCode {
        match self {
            Self::NoConnection(_) | Self::Silent { .. } | Self::Slow { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Itself => StatusCode::LOOP_DETECTED,
            Self::Local(_) | Self::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// That of a connection which broke after so many bytes.
    pub(super) fn broken(error: io::Error, after: u64) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset { after },
            _ => Self::Broken { error, after },
        }
    }
}

impl From<DialError> for Trouble {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Resolve(error) => Self::Unknown(error),
            DialError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => Self::Refused,
            // It stood, and was reset before anybody could look.
            DialError::Connect(error) if error.kind() == io::ErrorKind::ConnectionReset => Self::Reset { after: 0 },
            DialError::Connect(error) => Self::Unreachable(error),
            DialError::Timeout(limit) => Self::NoConnection(limit),
            DialError::Socket(error) | DialError::Thread(error) => Self::Local(error),
            DialError::Itself | DialError::Forbidden => Self::Itself,
        }
    }
}

impl From<BadResponse> for Trouble {
    fn from(bad: BadResponse) -> Self {
        match bad {
            BadResponse::NoHttp => Self::NotHttp,
            bad => Self::Head(bad),
        }
    }
}

/// `after 100 bytes`.
fn so_far(bytes: u64) -> String {
    match bytes {
        0 => "before its first byte".to_owned(),
        bytes => format!("after {}", count(bytes, "byte")),
    }
}

/// A number of bytes as people write it: `1 MiB`.
struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1_usize << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((word, unit)) => write!(f, "{} {word}", self.0 / unit),
            None => f.write_str(&count(self.0 as u64, "byte")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_people_write_them() {
        for (bytes, expected) in
            [(1 << 20, "1 MiB"), (3 << 30, "3 GiB"), (1536, "1536 bytes"), (64 << 10, "64 KiB"), (1, "1 byte")]
        {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }

    #[test]
    fn each_trouble_has_a_sentence_of_its_own() {
        let second = Duration::from_secs(1);
        let io = || io::Error::from_raw_os_error(113);
        let all = [
            Trouble::Unknown(io::Error::other("Name or service not known")),
            DialError::Connect(io::ErrorKind::ConnectionRefused.into()).into(),
            DialError::Connect(io()).into(),
            DialError::Timeout(second).into(),
            DialError::Itself.into(),
            DialError::Socket(io()).into(),
            Trouble::broken(io::ErrorKind::ConnectionReset.into(), 100),
            Trouble::broken(io(), 1),
            Trouble::Silent { limit: second, after: 0 },
            Trouble::Slow { limit: second, after: 9 },
            Trouble::TooLong(1 << 20),
            Trouble::Truncated(Truncated { got: 1, announced: Some(2) }),
            Trouble::NoReply,
            BadResponse::NoHttp.into(),
            BadResponse::LongHead.into(),
            Trouble::Framing(Fault::BadLength),
            Trouble::Interim,
            Trouble::Status { code: 503, status: "HTTP 503 Service Unavailable".to_owned() },
            Trouble::Redirects(3),
            Trouble::Elsewhere("http://b.example/".to_owned()),
            Trouble::Compressed("gzip".to_owned()),
            Unreadable::NoTitle.into(),
            Trouble::Stopped,
        ];
        let mut sentences: Vec<String> = all.iter().map(ToString::to_string).collect();
        for sentence in &sentences {
            assert!(sentence.starts_with(char::is_uppercase) && sentence.ends_with('.'), "{sentence}");
            assert!(!sentence.contains(".."), "{sentence}");
        }
        assert_eq!(sentences[6], "Its connection was reset, after 100 bytes.");
        assert_eq!(sentences[10], "It is longer than 1 MiB.");
        sentences.sort();
        sentences.dedup();
        assert_eq!(sentences.len(), all.len());
    }
}

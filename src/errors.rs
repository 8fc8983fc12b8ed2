//! Errors of the system ([`io::Error`]) in words, and which of them only mean "try again".

use std::io;

/// The reason of an error as the end of a sentence: `connection refused`, without an error number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    let text = match text.rfind(" (os error ") {
        Some(end) => &text[..end],
        None => text,
    };
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown error".to_owned(),
    }
}

/// Whether the call has only to be repeated: EAGAIN (later), or EINTR (at once).
pub(crate) fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_no_number_and_no_capital() {
        assert_eq!(reason(&io::Error::from_raw_os_error(111)), "connection refused");
        assert_eq!(reason(&io::Error::from_raw_os_error(28)), "no space left on device");
        assert_eq!(reason(&io::Error::other("Élan lost")), "élan lost");
        assert_eq!(reason(&io::Error::other("")), "unknown error");
    }
}

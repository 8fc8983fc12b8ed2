//! What a server says, as a part of a sentence.

/// More characters are not quoted.
const LONGEST: usize = 200;

/// In one line that changes nothing around it, wherever that is shown.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut characters = text.chars();
    let shown: String = characters.by_ref().take(LONGEST).flat_map(char::escape_debug).collect();
    // Quotes are no trouble here.
    let shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    if characters.next().is_some() { shown + "..." } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_stays_in_its_place() {
        assert_eq!(quoted(b"it's \"so\""), "it's \"so\"");
        assert_eq!(quoted(b"a\x1b[2J\xff"), "a\\u{1b}[2J\u{fffd}");
        assert_eq!(quoted("\u{202e}x\u{9b}".as_bytes()), "\\u{202e}x\\u{9b}");
        assert_eq!(quoted(&[b'x'; 1_000]), "x".repeat(LONGEST) + "...");
    }
}

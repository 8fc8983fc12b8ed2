//! What a word is: letters, digits and low lines, as `\w+` matches them. In names they are ASCII, in upper case.

/// The words of a text.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_part_of_word(c)).filter(|word| !word.is_empty())
}

/// Whether it does not end a word.
pub(super) fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

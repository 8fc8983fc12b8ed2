//! The title of an HTML document, without a tree: only as much of the syntax is known as is needed not to take something
//! else for it (HTML Standard, section 13.2.5).

/// The longest title, in characters. More is cut off.
pub(super) const LONGEST: usize = 300;

/// Elements whose content is no markup: the next thing after their start tag is their end tag.
const RAW: [&str; 6] = ["script", "style", "textarea", "noframes", "iframe", "xmp"];

/// The title of a document; `None`: it has none, or an empty one.
pub(super) fn title(html: &str) -> Option<String> {
    let mut rest = html;
    loop {
        rest = &rest[rest.find('<')?..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.split_once("-->")?.1;
            continue;
        }
        if !rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "/!?".contains(c)) {
            rest = &rest[1..];
            continue;
        }
        let name = name_of(&rest[1..]);
        let content = after_tag(&rest[1..])?;
        if name.eq_ignore_ascii_case("title") {
            let end = find_end(content, "title").unwrap_or(content.len());
            return Some(in_one_line(&unescaped(&content[..end]))).filter(|title| !title.is_empty());
        }
        if name.eq_ignore_ascii_case("body") {
            return None;
        }
        rest = match RAW.iter().find(|raw| name.eq_ignore_ascii_case(raw)) {
            Some(raw) => &content[find_end(content, raw)?..],
            None => content,
        };
    }
}

/// The name of the element whose start tag begins here; empty if it is none.
fn name_of(tag: &str) -> &str {
    &tag[..tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len())]
}

/// What follows a tag: a `>` within quotes is not its end.
fn after_tag(tag: &str) -> Option<&str> {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (byte, quote) {
            (b'>', None) => return Some(&tag[at + 1..]),
            (b'"' | b'\'', None) => quote = Some(byte),
            (byte, Some(its)) if byte == its => quote = None,
            _ => {}
        }
    }
    // A quote that is never closed: then it was none.
    tag.split_once('>').map(|(_, rest)| rest)
}

/// Where the end tag of an element begins.
fn find_end(text: &str, name: &str) -> Option<usize> {
    let is_here = |at: usize| {
        let rest = &text.as_bytes()[at + 2..];
        rest.get(..name.len()).is_some_and(|its| its.eq_ignore_ascii_case(name.as_bytes()))
            && rest.get(name.len()).is_none_or(|byte| !byte.is_ascii_alphanumeric())
    };
    text.match_indices("</").map(|(at, _)| at).find(|&at| is_here(at))
}

/// Character references that titles have (HTML Standard, section 13.5).
const NAMED: [(&str, &str); 27] = [
    ("amp", "&"),
    ("lt", "<"),
    ("gt", ">"),
    ("quot", "\""),
    ("apos", "'"),
    ("nbsp", " "),
    ("ndash", "–"),
    ("mdash", "—"),
    ("hellip", "…"),
    ("laquo", "«"),
    ("raquo", "»"),
    ("lsquo", "‘"),
    ("rsquo", "’"),
    ("ldquo", "“"),
    ("rdquo", "”"),
    ("bdquo", "„"),
    ("middot", "·"),
    ("bull", "•"),
    ("copy", "©"),
    ("reg", "®"),
    ("trade", "™"),
    ("auml", "ä"),
    ("ouml", "ö"),
    ("uuml", "ü"),
    ("szlig", "ß"),
    ("eacute", "é"),
    ("egrave", "è"),
];

/// The longest reference: `&#x10FFFF;`, without its first character.
const LONGEST_REFERENCE: usize = 9;

/// A text with its character references replaced; those that are not known stay as they are.
pub(super) fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let reference = after.bytes().take(LONGEST_REFERENCE).position(|byte| byte == b';').map(|end| &after[..end]);
        match reference.and_then(|reference| Some((reference, character(reference)?))) {
            Some((reference, text)) => {
                out.push_str(&text);
                rest = &after[reference.len() + 1..];
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out + rest
}

fn character(reference: &str) -> Option<String> {
    let Some(number) = reference.strip_prefix('#') else {
        return NAMED.iter().find(|(name, _)| *name == reference).map(|(_, text)| (*text).to_owned());
    };
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok()?,
        None if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse().ok()?,
        _ => return None,
    };
    char::from_u32(code).filter(|character| *character != '\0').map(String::from)
}

/// A text in one line, not longer than a title.
pub(super) fn in_one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_title_is_found_and_nothing_else_is_taken_for_it() {
        for (html, expected) in [
            ("<!DOCTYPE html><html><head><title>Poems</title>", Some("Poems")),
            ("<TITLE lang=en>\n  Poems &amp;\n  more </TiTlE >", Some("Poems & more")),
            ("<!-- <title>no</title> --><title>yes</title>", Some("yes")),
            ("<script>'<title>no</title>'</script><title>yes</title>", Some("yes")),
            ("<meta content='<title>no</title>'><title>yes</title>", Some("yes")),
            ("<title><b>bold</b> & plain &lt;script&gt;</title>", Some("<b>bold</b> & plain <script>")),
            ("<title>never closed", Some("never closed")),
            ("<title>a</titles>b</title>", Some("a</titles>b")),
            ("<title></title>", None),
            ("<title> &nbsp; </title>", None),
            ("<body><svg><title>of a picture</title></svg>", None),
            ("<titles>no</titles>", None),
            ("<title", None),
            ("<!-- <title>no</title>", None),
            ("<script><title>no</title>", None),
            ("a < b <title>yes</title>", Some("yes")),
            ("<a title=\"never closed><title>yes</title>", Some("yes")),
            ("", None),
        ] {
            assert_eq!(title(html).as_deref(), expected, "{html}");
        }
    }

    #[test]
    fn references_are_characters() {
        for (text, expected) in [
            ("&#65;&#x42;&#X43;", "ABC"),
            ("&mdash;&unknown;&;&", "—&unknown;&;&"),
            ("&#0;&#x110000;&#xD800;&#;&#x;&#+1;", "&#0;&#x110000;&#xD800;&#;&#x;&#+1;"),
            ("&amp;lt;", "&lt;"),
            ("&ééééé;", "&ééééé;"),
        ] {
            assert_eq!(unescaped(text), expected, "{text}");
        }
    }

    #[test]
    fn a_title_has_one_line_of_bounded_length() {
        let long = title(&format!("<title>{}</title>", "é ".repeat(5_000))).expect("a title");
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…') && !long.contains('\n'));
    }

    /// What documents are made of, and what could be taken for that.
    const PARTS: &str = "<|>|</?|title|script|!--|-->|&|#x?|;|'|\"| |é|[0-9a-f]|body";

    proptest! {
        #[test]
        fn whatever_comes_is_no_reason_to_panic(parts in proptest::collection::vec(PARTS, 0..40)) {
            let html = parts.concat();
            for (end, _) in html.char_indices() {
                let _ = title(&html[..end]);
                let _ = unescaped(&html[..end]);
            }
        }
    }
}

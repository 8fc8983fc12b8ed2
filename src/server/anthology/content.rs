//! What is shown of what a source sends: a text as it is, the title of a page, the headlines of a feed.

use std::borrow::Cow;

use super::charset::{Charset, NoText};
use super::feed::{Feed, NoFeed};
use super::media::Media;
use super::quote::quoted;
use super::title::title;

/// What a source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text, which is shown as it is.
    Text,
    /// A page, of which the title is shown.
    Title,
    /// A feed, of which the headlines are shown.
    Feed,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// All of it.
    Text(String),
    /// The title of a page.
    Title(String),
    /// The headlines of a feed.
    Headlines(Feed),
}

/// Why there is nothing to be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("It is not text: {0}.")]
    NoText(#[from] NoText),
    #[error("It is not text, but {0}.")]
    Media(String),
    #[error("It has no title.")]
    NoTitle,
    #[error("It is no feed: {0}.")]
    NoFeed(#[from] NoFeed),
}

/// Within so many bytes a page says how it is encoded (HTML Standard, section 13.2.3.2).
const BEGINNING: usize = 1_024;

impl Content {
    /// What bytes are, of which the server says this. A kind that somebody has decided on counts more.
    ///
    /// # Errors
    /// They are nothing that could be shown.
    pub(super) fn read(bytes: &[u8], media: Option<&Media>, kind: Option<Kind>) -> Result<(Self, Charset), Unreadable> {
        let kind = match kind {
            Some(kind) => kind,
            None => media.map_or(Ok(Kind::Text), kind_of)?,
        };
        let declared = media.and_then(|media| media.charset.as_deref().map(Cow::Borrowed));
        let declared = declared.or_else(|| match kind {
            Kind::Text => None,
            Kind::Title => after(bytes, b"charset=").map(Cow::Owned),
            Kind::Feed => bytes.starts_with(b"<?xml").then(|| after(bytes, b"encoding=")).flatten().map(Cow::Owned),
        });
        let charset = declared.map_or(Ok(Charset::Utf8), |label| Charset::of(&label))?;
        let text = charset.decode(bytes)?;
        let content = match kind {
            Kind::Text => Self::Text(text.into_owned()),
            Kind::Title => Self::Title(title(&text).ok_or(Unreadable::NoTitle)?),
            Kind::Feed => Self::Headlines(Feed::parse(&text)?),
        };
        Ok((content, charset))
    }
}

fn kind_of(media: &Media) -> Result<Kind, Unreadable> {
    match &*media.essence {
        "text/html" | "application/xhtml+xml" => Ok(Kind::Title),
        "application/rss+xml" | "application/atom+xml" | "application/rdf+xml" | "application/xml" | "text/xml" => {
            Ok(Kind::Feed)
        }
        "application/json" => Ok(Kind::Text),
        text if text.starts_with("text/") => Ok(Kind::Text),
        other => Err(Unreadable::Media(quoted(other.as_bytes()))),
    }
}

/// The word that follows this one at the beginning of a document, in quotes or not.
fn after(bytes: &[u8], what: &[u8]) -> Option<String> {
    let beginning = &bytes[..bytes.len().min(BEGINNING)];
    let at = beginning.windows(what.len()).position(|its| its.eq_ignore_ascii_case(what))? + what.len();
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let word = beginning[at..].iter().skip_while(|byte| b"\"' ".contains(byte)).take_while(|byte| is_part(byte));
    let word: String = word.map(|&byte| char::from(byte)).collect();
    Some(word).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], media: &str, kind: Option<Kind>) -> Result<Content, String> {
        let media = Media::of(media.as_bytes());
        Content::read(bytes, media.as_ref(), kind).map(|(content, _)| content).map_err(|why| why.to_string())
    }

    fn text(text: &str) -> Result<Content, String> {
        Ok(Content::Text(text.to_owned()))
    }

    fn named(title: &str) -> Result<Content, String> {
        Ok(Content::Title(title.to_owned()))
    }

    #[test]
    fn what_it_is_the_server_says_or_who_asks_for_it() {
        let page = b"<title>Poems</title>";
        assert_eq!(read(page, "text/html", None), named("Poems"));
        assert_eq!(read(page, "text/plain", None), text("<title>Poems</title>"));
        assert_eq!(read(page, "", None), text("<title>Poems</title>"));
        assert_eq!(read(page, "text/html", Some(Kind::Text)), text("<title>Poems</title>"));
        assert_eq!(read(page, "image/png", Some(Kind::Title)), named("Poems"));
        assert_eq!(read(page, "image/png", None), Err("It is not text, but image/png.".to_owned()));
        assert_eq!(read(b"<html>", "text/html", None), Err("It has no title.".to_owned()));
        assert_eq!(read(b"<rss/>", "text/xml", None), {
            Ok(Content::Headlines(Feed { headlines: Vec::new(), more: 0 }))
        });
        let why = "It is no feed: it is neither RSS nor Atom, but <svg>.";
        assert_eq!(read(b"<svg/>", "application/xml", None), Err(why.to_owned()));
    }

    #[test]
    fn the_encoding_is_declared_in_the_head_or_in_the_document() {
        assert_eq!(read(b"caf\xe9", "text/plain; charset=iso-8859-1", None), text("café"));
        assert_eq!(read(b"caf\xe9", "text/plain", None), Err("It is not text: it is not UTF-8.".to_owned()));
        assert_eq!(read(b"caf\xe9\0", "", None), Err("It is not text: it has a NUL.".to_owned()));
        let page = |declared: &str| [b"<meta ", declared.as_bytes(), b"><title>caf\xe9</title>"].concat();
        for declared in ["charset=latin1", "CHARSET='ISO-8859-1'", "content='text/html; charset=windows-1252'"] {
            assert_eq!(read(&page(declared), "text/html", None), named("café"), "{declared}");
        }
        assert_eq!(read(&page(""), "text/html", None), Err("It is not text: it is not UTF-8.".to_owned()));
        let koi = "It is not text: its encoding is koi8-r, and neither UTF-8 nor Latin-1.";
        assert_eq!(read(&page("charset=koi8-r"), "text/html", None), Err(koi.to_owned()));
        let feed = b"<?xml version='1.0' encoding='ISO-8859-1'?><feed><entry><title>caf\xe9</title></entry></feed>";
        let Ok(Content::Headlines(feed)) = read(feed, "application/atom+xml", None) else { panic!("no feed") };
        assert_eq!(feed.headlines[0].title, "café");
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_reason_to_panic(bytes in any::<Vec<u8>>(), cut in 0usize..64) {
            for kind in [None, Some(Kind::Text), Some(Kind::Title), Some(Kind::Feed)] {
                for media in ["", "text/html", "text/xml", "text/plain; charset=latin1"] {
                    let _ = read(&bytes[..cut.min(bytes.len())], media, kind);
                }
            }
        }
    }
}

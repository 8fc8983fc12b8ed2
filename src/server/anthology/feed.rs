//! The headlines of a feed: RSS 0.9 to 2.0, and Atom (RFC 4287).

use roxmltree::{Document, Error, Node, ParsingOptions};
use serde::Serialize;
use tokio_util::bytes::Buf as _;

use super::title::in_one_line;

/// The most headlines of a feed. More are counted.
const MOST: usize = 20;
/// The most nodes of a document. One of a megabyte that is nothing but nodes would be a tree of thirty.
const MOST_NODES: u32 = 200_000;
/// The most attributes of an element: each is compared with all before it.
const MOST_ATTRIBUTES: usize = 100;
/// The most declarations of namespaces: each element has those of all around it.
const MOST_NAMESPACES: usize = 100;
/// The longest link. A longer one is none.
const LONGEST_LINK: usize = 2_000;

/// The headlines of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Feed {
    /// The first ones.
    pub(super) headlines: Vec<Headline>,
    /// How many more there are.
    pub(super) more: usize,
}

/// A headline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Headline {
    /// In one line.
    pub(super) title: String,
    /// Where it leads, which is `http` or `https`.
    pub(super) link: Option<String>,
}

/// Why a document is no feed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoFeed {
    /// It could say anything in few words.
    #[error("it has a document type declaration, which is refused")]
    Dtd,
    /// It is more than a feed has to be.
    #[error("it has more elements, attributes or namespaces than a feed needs")]
    TooMuch,
    /// It is no XML.
    #[error("it is no XML: line {line}, column {column}")]
    Malformed {
        /// From 1.
        line: u32,
        /// From 1.
        column: u32,
    },
    /// It is XML of another kind.
    #[error("it is neither RSS nor Atom, but <{0}>")]
    Other(String),
}

impl Feed {
    /// Reads a document.
    ///
    /// # Errors
    /// It is no feed.
    pub(super) fn parse(xml: &str) -> Result<Self, NoFeed> {
        if is_too_much(xml) {
            return Err(NoFeed::TooMuch);
        }
        let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(xml, options).map_err(|error| match error {
            Error::DtdDetected => NoFeed::Dtd,
            Error::NodesLimitReached | Error::AttributesLimitReached | Error::NamespacesLimitReached => NoFeed::TooMuch,
            error => NoFeed::Malformed { line: error.pos().row, column: error.pos().col },
        })?;
        let root = document.root_element();
        let entries: Vec<Node<'_, '_>> = match root.tag_name().name() {
            "rss" => children(root, "channel").flat_map(|channel| children(channel, "item")).collect(),
            "RDF" => children(root, "item").collect(),
            "feed" => children(root, "entry").collect(),
            other => return Err(NoFeed::Other(in_one_line(other).chars().take(40).collect())),
        };
        let more = entries.len().saturating_sub(MOST);
        Ok(Self { headlines: entries.into_iter().take(MOST).map(headline).collect(), more })
    }
}

fn children<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// All text in an element.
fn text(node: Node<'_, '_>) -> String {
    let mut all = String::new();
    for part in node.descendants().filter(Node::is_text).filter_map(|part| part.text()) {
        all.push_str(part);
        if all.len() > 16 * super::title::LONGEST {
            break;
        }
    }
    all
}

fn headline(entry: Node<'_, '_>) -> Headline {
    let title = children(entry, "title").next().map(|title| in_one_line(&text(title))).unwrap_or_default();
    let links = children(entry, "link").filter(|link| matches!(link.attribute("rel"), None | Some("alternate")));
    let link =
        links.map(|link| link.attribute("href").map_or_else(|| text(link), str::to_owned)).find_map(|link| fit(&link));
    Headline { title: if title.is_empty() { "(without a title)".to_owned() } else { title }, link }
}

/// A link that leads to another page, and does nothing else.
fn fit(link: &str) -> Option<String> {
    let link = link.trim();
    let scheme = link.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let is_fit = matches!(scheme.as_deref(), Some("http" | "https"))
        && link.len() <= LONGEST_LINK
        && !link.contains(|c: char| c.is_whitespace() || c.is_control());
    is_fit.then(|| link.to_owned())
}

/// Whether to parse it would cost more than its length says: what is counted here is compared with each other there.
fn is_too_much(xml: &str) -> bool {
    if xml.matches("xmlns").nth(MOST_NAMESPACES).is_some() {
        return true;
    }
    let mut rest = xml.as_bytes();
    while let Some(start) = memchr::memchr(b'<', rest) {
        rest.advance(start);
        let until = |end: &[u8]| memchr::memmem::find(rest, end).map_or(rest.len(), |at| at + end.len());
        let length = match rest {
            [b'<', b'!', b'-', b'-', ..] => until(b"-->"),
            [b'<', b'!', b'[', ..] => until(b"]]>"),
            [b'<', b'?', ..] => until(b"?>"),
            _ => {
                let (mut quote, mut attributes, mut length) = (None, 0, rest.len());
                for (at, &byte) in rest.iter().enumerate() {
                    match (byte, quote) {
                        (b'>', None) => {
                            length = at + 1;
                            break;
                        }
                        (b'=', None) => attributes += 1,
                        (b'"' | b'\'', None) => quote = Some(byte),
                        (byte, Some(its)) if byte == its => quote = None,
                        _ => {}
                    }
                    if attributes > MOST_ATTRIBUTES {
                        return true;
                    }
                }
                length
            }
        };
        rest.advance(length);
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    const RSS: &str = "<?xml version='1.0'?><rss version='2.0'><channel><title>News</title>
        <item><title>First &amp; last</title><link> http://a.example/1 </link></item>
        <item><title><![CDATA[<script>alert(1)</script>]]></title><link>javascript:alert(1)</link></item>
        <item><description>no title</description></item></channel></rss>";
    const RDF: &str =
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns='http://purl.org/rss/1.0/'>
        <channel/><item><title>One</title><link>https://a.example/</link></item></rdf:RDF>";
    const ATOM: &str = "<feed xmlns='http://www.w3.org/2005/Atom'><title>Feed</title><entry>
        <title type='xhtml'><div xmlns='http://www.w3.org/1999/xhtml'>A <b>bold</b>\n title</div></title>
        <link rel='edit' href='http://a.example/edit'/><link href='http://a.example/a?b=c&amp;d'/></entry></feed>";

    fn headlines(xml: &str) -> Vec<(String, Option<String>)> {
        let feed = Feed::parse(xml).expect("a feed");
        feed.headlines.into_iter().map(|headline| (headline.title, headline.link)).collect()
    }

    #[test]
    fn the_three_kinds_of_feeds_are_read() {
        let line = |title: &str, link: Option<&str>| (title.to_owned(), link.map(str::to_owned));
        assert_eq!(
            headlines(RSS),
            [
                line("First & last", Some("http://a.example/1")),
                line("<script>alert(1)</script>", None),
                line("(without a title)", None)
            ]
        );
        assert_eq!(headlines(RDF), [line("One", Some("https://a.example/"))]);
        assert_eq!(headlines(ATOM), [line("A bold title", Some("http://a.example/a?b=c&d"))]);
    }

    #[test]
    fn a_link_leads_to_a_page_or_is_none() {
        for (link, is_fit) in [
            ("http://a.example/", true),
            ("HTTPS://a.example/", true),
            ("javascript:alert(1)", false),
            ("data:text/html,<script>", false),
            ("//a.example/", false),
            ("/relative", false),
            ("http://a.example/ b", false),
            ("http://a.example/\u{1}", false),
            ("javascript://a.example/%0aalert(1)", false),
        ] {
            assert_eq!(fit(link).is_some(), is_fit, "{link}");
        }
        assert_eq!(fit(&format!("http://a.example/{}", "x".repeat(LONGEST_LINK))), None);
    }

    #[test]
    fn what_is_no_feed_says_why() {
        for (xml, expected) in [
            ("<!DOCTYPE a [<!ENTITY b 'c'>]><rss/>", "it has a document type declaration, which is refused"),
            ("<html/>", "it is neither RSS nor Atom, but <html>"),
            ("plain text", "it is no XML: line 1, column 1"),
            ("<rss>\n <a>\n</rss>", "it is no XML: line 3, column 1"),
            ("", "it is no XML: line 1, column 1"),
        ] {
            assert_eq!(Feed::parse(xml).map_err(|why| why.to_string()), Err(expected.to_owned()), "{xml}");
        }
        let more = format!("<rss><channel>{}</channel></rss>", "<item/>".repeat(MOST + 7));
        assert_eq!(Feed::parse(&more).map(|feed| (feed.headlines.len(), feed.more)), Ok((MOST, 7)));
    }

    #[test]
    fn what_costs_more_than_its_length_is_refused() {
        let attributes = |count: usize| {
            let mut tag = "<rss".to_owned();
            (0..count).for_each(|number| write!(tag, " a{number}=''").expect("memory"));
            tag + "/>"
        };
        assert!(Feed::parse(&attributes(MOST_ATTRIBUTES)).is_ok());
        assert_eq!(Feed::parse(&attributes(MOST_ATTRIBUTES + 1)), Err(NoFeed::TooMuch));
        let mut nested = "<rss>".to_owned();
        (0..=MOST_NAMESPACES).for_each(|number| write!(nested, "<a xmlns:n{number}='u'>").expect("memory"));
        assert_eq!(Feed::parse(&nested), Err(NoFeed::TooMuch));
        let nodes = format!("<rss>{}</rss>", "<a/>".repeat(250_000));
        assert_eq!(Feed::parse(&nodes), Err(NoFeed::TooMuch));
        // However deep it is.
        let deep = format!("<rss>{}{}</rss>", "<a>".repeat(90_000), "</a>".repeat(90_000));
        assert!(Feed::parse(&deep).is_ok());
        // What stands in texts is not counted.
        let equal = "=".repeat(1_000);
        let text = format!("<rss><!-- {equal} --><a>{equal} it's</a><b c='{equal}'/><![CDATA[<x {equal}]]></rss>");
        assert!(Feed::parse(&text).is_ok());
    }

    proptest! {
        #[test]
        fn a_feed_that_is_cut_anywhere_is_no_reason_to_panic(end in 0usize..400, junk in "[<>&;'\"=!\\[\\]a-z -]{0,20}") {
            for xml in [RSS, RDF, ATOM] {
                let (start, _) = xml.split_at(end.min(xml.len()));
                let _ = Feed::parse(start);
                let _ = Feed::parse(&format!("{start}{junk}"));
            }
        }
    }
}

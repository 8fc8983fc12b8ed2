//! What a source has, as markup: whatever that is, it is text there.

use maud::{PreEscaped, html};
use tokio_util::bytes::Bytes;

use super::content::Content;
use super::feed::Feed;

/// What a source has, in a page.
pub(super) fn markup(content: &Content) -> Bytes {
    let shown = match content {
        // The first line end after the tag belongs to that.
        Content::Text(text) => html! { (PreEscaped("<pre dir=\"auto\">\n")) (visible(text)) (PreEscaped("</pre>")) },
        Content::Title(title) => html! { p.headline dir="auto" { (visible(title)) } },
        Content::Headlines(Feed { headlines, .. }) if headlines.is_empty() => {
            html! { p.how { "It has no headlines." } }
        }
        Content::Headlines(Feed { headlines, more }) => html! {
            ul.headlines {
                @for headline in headlines {
                    li dir="auto" {
                        @match &headline.link {
                            Some(link) => a href=(link) rel="noopener noreferrer nofollow" { (visible(&headline.title)) },
                            None => (visible(&headline.title)),
                        }
                    }
                }
            }
            @if *more > 0 { p.how { "And " (more) " more." } }
        },
    };
    Bytes::from(shown.into_string() + "\n")
}

/// A text with what cannot be seen, and is neither a space nor joins letters, as U+FFFD.
fn visible(text: &str) -> String {
    let shown = |character: char| match character {
        '\t' | '\n' | '\r' => character,
        character if character.is_control() || is_hidden(character) => char::REPLACEMENT_CHARACTER,
        character => character,
    };
    text.chars().map(shown).collect()
}

/// Whether it changes the direction of what is around it, or is nothing to be seen at all (Unicode, general category Cf).
fn is_hidden(character: char) -> bool {
    matches!(character,
        '\u{200b}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::feed::Headline;
    use super::*;

    fn shown(content: &Content) -> String {
        String::from_utf8(markup(content).to_vec()).expect("text")
    }

    #[test]
    fn a_text_is_all_there_and_nothing_else() {
        let text = Content::Text("\nfirst <b>\n\tsecond & \"third\" \u{1b}[2J\r\n".to_owned());
        let expected =
            "<pre dir=\"auto\">\n\nfirst &lt;b&gt;\n\tsecond &amp; &quot;third&quot; \u{fffd}[2J\r\n</pre>\n";
        assert_eq!(shown(&text), expected);
    }

    #[test]
    fn headlines_are_links_where_there_is_one() {
        let line =
            |title: &str, link: Option<&str>| Headline { title: title.to_owned(), link: link.map(str::to_owned) };
        let headlines = vec![line("<i>a</i>", Some("http://a.example/?b&\"c")), line("d", None)];
        let page = shown(&Content::Headlines(Feed { headlines, more: 3 }));
        assert!(page.contains("<a href=\"http://a.example/?b&amp;&quot;c\" rel=\"noopener noreferrer nofollow\">"));
        assert!(page.contains("&lt;i&gt;a&lt;/i&gt;</a></li><li dir=\"auto\">d</li>") && page.contains("And 3 more."));
        assert!(shown(&Content::Headlines(Feed { headlines: Vec::new(), more: 0 })).contains("no headlines"));
    }

    #[test]
    fn what_turns_text_around_or_hides_is_replaced_and_what_joins_letters_stays() {
        assert_eq!(
            visible("a\u{202e}b\u{2066}\u{200b}\u{e0041}\u{9b}c"),
            "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}\u{fffd}c"
        );
        assert_eq!(visible("\u{200d}\u{200c}\u{ad}"), "\u{200d}\u{200c}\u{ad}");
    }

    proptest! {
        #[test]
        fn no_text_ends_its_element(text in any::<String>(), cut in "(</pre>|<script>|-->|]]>|&lt;|<!--){0,3}") {
            for content in [Content::Text(format!("{text}{cut}")), Content::Title(format!("{cut}{text}"))] {
                let page = shown(&content);
                let inside = page.split_once('>').expect("a tag").1.rsplit_once("</").expect("its end").0;
                prop_assert!(!inside.contains(['<', '>']), "{}", page);
            }
        }
    }
}

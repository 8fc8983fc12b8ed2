//! The page about messages: what it shows is what there is to see.

use crate::harness::follow;

#[test]
fn the_page_about_messages_shows_what_there_is_to_see() {
    follow("messages.md", 5);
}

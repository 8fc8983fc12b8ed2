//! Characters by the words of their names, Unicode 17.0.0: an index as a value, for whoever asks.
//!
//! | file | |
//! |---|---|
//! | `names.rs`, `rules.rs` | the names: those that are written down, and those that follow from codes |
//! | `category.rs` | characters that one cannot just show |
//! | `query.rs`, `words.rs` | what somebody looks for, and what a word is |
//! | `scan.rs`, `index.rs` | who has all words of it: by one pass over the names, or by an inverted index |
//! | `ranges.rs` | what is found: sets of code points |
//! | `show.rs`, `hex.rs` | how it is shown |

mod category;
mod hex;
mod index;
mod names;
mod query;
mod ranges;
mod rules;
mod scan;
mod show;
#[cfg(test)]
mod tests;
mod words;

/// The version of the standard that the names are from.
pub const VERSION: &str = "17.0.0";

pub use index::Index;
pub use query::{Malformed, Query};
pub use ranges::{Codes, Ranges};
pub use scan::find;
pub use show::{Answer, Found, Quoted, Rows, Status, harmless};

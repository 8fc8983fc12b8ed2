//! The general category of characters that one cannot just show.

use std::sync::LazyLock;

use super::ranges::Range;

/// `FIRST..LAST CATEGORY`, sorted.
static TEXT: &str = include_str!("../../assets/unicode/categories.txt");

static CATEGORIES: LazyLock<Vec<(Range, Category)>> = LazyLock::new(|| TEXT.lines().filter_map(parse).collect());

/// What kind of character it is, as far as that matters here (The Unicode Standard, table 4-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    /// Cc: a terminal obeys it.
    Control,
    /// Cf, Zl, Zp: it changes the direction or the line of what is around it, or is not seen.
    Format,
    /// Mn, Mc, Me: it goes onto the character before it.
    Mark,
    /// Zs.
    Space,
    /// All others.
    Other,
}

impl Category {
    /// That of a character.
    pub(super) fn of(code: u32) -> Self {
        let at = CATEGORIES.partition_point(|(range, _)| range.last < code);
        match CATEGORIES.get(at) {
            Some((range, category)) if range.first <= code => *category,
            _ => Self::Other,
        }
    }
}

fn parse(line: &str) -> Option<(Range, Category)> {
    let (range, category) = line.split_once(' ')?;
    let (first, last) = range.split_once("..")?;
    let code = |hex| u32::from_str_radix(hex, 16).ok();
    let category = match category {
        "Cc" => Category::Control,
        "Cf" | "Zl" | "Zp" => Category::Format,
        "Mn" | "Mc" | "Me" => Category::Mark,
        "Zs" => Category::Space,
        _ => return None,
    };
    Some((Range { first: code(first)?, last: code(last)? }, category))
}

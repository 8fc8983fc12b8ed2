//! What Unicode calls its characters: the names that are written down, with their aliases, and those that follow from rules.

use super::rules::Rule;
use super::words::words;

/// `CODE NAME;ALIAS;!CORRECTION`, sorted by code. A control has no name before its aliases.
pub(super) static TEXT: &str = include_str!("../../assets/unicode/names.txt");

/// A character whose name is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) code: u32,
    /// Name and aliases, as they stand there.
    names: &'static str,
}

impl Entry {
    fn parse(line: &'static str) -> Option<Self> {
        // A code has four digits at least.
        let space = 4 + memchr::memchr(b' ', line.as_bytes().get(4..)?)?;
        Some(Self { code: u32::from_str_radix(&line[..space], 16).ok()?, names: &line[space + 1..] })
    }

    /// All of them, in order.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        TEXT.lines().filter_map(Self::parse)
    }

    /// The words of its names, each as often as it stands there.
    pub(super) fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        words(self.names)
    }

    /// What it is to be called: the correction of its name, its name, or its first alias.
    fn title(&self) -> &'static str {
        if memchr::memchr(b';', self.names.as_bytes()).is_none() {
            return self.names;
        }
        let mut names = self.names.split(';');
        match names.clone().find_map(|name| name.strip_prefix('!')) {
            Some(correction) => correction,
            None => names.find(|name| !name.is_empty()).unwrap_or_default(),
        }
    }
}

/// The line of the names in which this byte is: where it begins, and where it ends.
pub(super) fn line_around(at: usize) -> (usize, usize) {
    let begin = memchr::memrchr(b'\n', &TEXT.as_bytes()[..at]).map_or(0, |before| before + 1);
    let end = memchr::memchr(b'\n', &TEXT.as_bytes()[at..]).map_or(TEXT.len(), |length| at + length);
    (begin, end)
}

pub(super) fn entry_in(begin: usize, end: usize) -> Option<Entry> {
    Entry::parse(&TEXT[begin..end])
}

/// The name of a character, as it is shown: a correction instead of a name that is wrong, an alias of one that has none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Title(Naming);

#[derive(Debug, Clone, Copy)]
enum Naming {
    Written(&'static str),
    Ruled(&'static Rule, u32),
}

impl Title {
    /// Adds it to a text.
    pub(super) fn push_to(self, text: &mut String) {
        match self.0 {
            Naming::Written(name) => text.push_str(name),
            Naming::Ruled(rule, code) => rule.push_name(code, text),
        }
    }
}

#[cfg(test)]
impl std::fmt::Display for Title {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

/// Where the line of a character begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    code: u32,
    begin: u32,
}

impl Line {
    /// All of them, for those who look up many names.
    pub(super) fn all() -> Vec<Self> {
        let begin = |line: &str| line.as_ptr() as usize - TEXT.as_ptr() as usize;
        let of = |line| Some(Self { code: Entry::parse(line)?.code, begin: u32::try_from(begin(line)).ok()? });
        TEXT.lines().filter_map(of).collect()
    }
}

/// The names of characters, looked up in the order of their codes: most often the next one is the next line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Titles {
    /// Where the line after the last one that was found begins.
    next: usize,
    /// All lines, if somebody has made a table of them.
    lines: Option<&'static [Line]>,
    /// The last rule that had a name.
    rule: Option<&'static Rule>,
}

impl Titles {
    pub(super) fn new(lines: &'static [Line]) -> Self {
        Self { next: 0, lines: Some(lines), rule: None }
    }

    /// The name of a character; `None`: it has none.
    pub(super) fn title(&mut self, code: u32) -> Option<Title> {
        self.rule = self.rule.filter(|rule| rule.has(code)).or_else(|| Rule::of(code));
        if let Some(rule) = self.rule {
            return Some(Title(Naming::Ruled(rule, code)));
        }
        let (entry, end) = self.entry_at(self.next).filter(|(entry, _)| entry.code == code).or_else(|| {
            let Some(lines) = self.lines else { return search(code) };
            let at = lines.binary_search_by_key(&code, |line| line.code).ok()?;
            self.entry_at(lines[at].begin as usize)
        })?;
        self.next = end + 1;
        Some(Title(Naming::Written(entry.title())))
    }

    /// The entry whose line begins there, and where it ends.
    fn entry_at(&self, begin: usize) -> Option<(Entry, usize)> {
        let length = memchr::memchr(b'\n', TEXT.as_bytes().get(begin..)?)?;
        Some((entry_in(begin, begin + length)?, begin + length))
    }
}

/// The name of one character; `None`: it has none.
pub(super) fn title(code: u32) -> Option<Title> {
    Titles::default().title(code)
}

/// The name that a character has had from the beginning, right or wrong; `None`: it has none, as a control.
#[cfg(test)]
pub(super) fn official(code: u32) -> Option<Title> {
    match Rule::of(code) {
        Some(_) => title(code),
        None => search(code)
            .and_then(|(entry, _)| entry.names.split(';').next().filter(|name| !name.is_empty()))
            .map(|name| Title(Naming::Written(name))),
    }
}

/// The entry of a character, and where its line ends: a binary search, in bytes.
fn search(code: u32) -> Option<(Entry, usize)> {
    let (mut low, mut high) = (0, TEXT.len());
    while low < high {
        let (begin, end) = line_around(low + (high - low) / 2);
        let entry = entry_in(begin, end)?;
        if entry.code == code {
            return Some((entry, end));
        }
        if entry.code < code { low = end + 1 } else { high = begin }
    }
    None
}

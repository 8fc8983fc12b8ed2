//! The names against what is known of them from elsewhere.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn query(text: &str) -> Query {
    Query::parse(text).expect("a query")
}

fn titles(text: &str) -> Vec<String> {
    Rows::new(find(&query(text)).into_codes(0)).map(|found| found.name()).collect()
}

fn title(code: u32) -> Option<String> {
    names::title(code).map(|title| title.to_string())
}

#[test]
fn as_many_are_found_as_there_are() {
    let index = Index::new();
    for (text, total) in [
        ("sun", 17),
        ("braille", 256),
        ("cjk", 103_203),
        ("cjk unified", 101_984 + 52),
        ("hangul syllable", 11_172),
        ("tangut ideograph", 6_175),
        ("hangul syllable gag", 1),
        ("rook black", 5),
        ("cat*", 15),
        ("cjk unified ideograph 4e00", 2),
        ("4e00", 2),
        ("2a6d*", 16),
        ("line feed", 4),
        ("nbsp", 1),
        ("jabberwocky's vest", 0),
        ("cjk jabberwocky", 0),
        ("cat face", 10),
        ("♜ ♞", 2),
        ("♜ ♞ rook", 1),
        ("U+0378 U+D800 U+E000 U+10FFFF", 0),
        ("!!!", 0),
        ("", 0),
    ] {
        let query = query(text);
        assert_eq!((find(&query).total(), index.find(&query).total()), (total, total), "{text}");
    }
    assert_eq!(index.frequencies()[..2], [("IDEOGRAPH", 109_316), ("CJK", 103_203)]);
}

#[test]
fn names_follow_from_rules_to_the_end_of_each_range() {
    for (code, name) in [
        (0x33ff, Some("SQUARE GAL")),
        (0x3400, Some("CJK UNIFIED IDEOGRAPH-3400")),
        (0x4dbf, Some("CJK UNIFIED IDEOGRAPH-4DBF")),
        (0x4dc0, Some("HEXAGRAM FOR THE CREATIVE HEAVEN")),
        (0x4e00, Some("CJK UNIFIED IDEOGRAPH-4E00")),
        (0x9fff, Some("CJK UNIFIED IDEOGRAPH-9FFF")),
        (0xa000, Some("YI SYLLABLE IT")),
        (0xabff, None),
        (0xac00, Some("HANGUL SYLLABLE GA")),
        (0xac01, Some("HANGUL SYLLABLE GAG")),
        (0xc21c, Some("HANGUL SYLLABLE SUN")),
        (0xd4db, Some("HANGUL SYLLABLE PWILH")),
        (0xd7a3, Some("HANGUL SYLLABLE HIH")),
        (0xd7a4, None),
        (0x16fff, None),
        (0x17000, Some("TANGUT IDEOGRAPH-17000")),
        (0x187ff, Some("TANGUT IDEOGRAPH-187FF")),
        (0x18800, Some("TANGUT COMPONENT-001")),
        (0x18d1e, Some("TANGUT IDEOGRAPH-18D1E")),
        (0x18d1f, None),
        (0x2a6df, Some("CJK UNIFIED IDEOGRAPH-2A6DF")),
        (0x2a6e0, None),
        (0x33479, Some("CJK UNIFIED IDEOGRAPH-33479")),
        (0x3347a, None),
        (0xe01ef, Some("VARIATION SELECTOR-256")),
        (0xe01f0, None),
        (0x10_ffff, None),
        (u32::MAX, None),
    ] {
        assert_eq!(title(code).as_deref(), name, "{code:X}");
    }
}

#[test]
fn aliases_are_found_and_wrong_names_are_corrected() {
    for (text, expected) in [
        ("tab ht", &["CHARACTER TABULATION"][..]),
        ("lf nl", &["LINE FEED"]),
        ("nbsp", &["NO-BREAK SPACE"]),
        (
            "lamda mathematical bold italic small",
            &["MATHEMATICAL BOLD ITALIC SMALL LAMDA", "MATHEMATICAL SANS-SERIF BOLD ITALIC SMALL LAMDA"],
        ),
        ("yi syllable iteration mark", &["YI SYLLABLE ITERATION MARK"]),
        ("yi syllable wu", &["YI SYLLABLE ITERATION MARK"]),
        ("zwnbsp", &["ZERO WIDTH NO-BREAK SPACE"]),
        ("padding character", &["PADDING CHARACTER"]),
        ("brakcet", &["PRESENTATION FORM FOR VERTICAL RIGHT WHITE LENTICULAR BRACKET"]),
    ] {
        assert_eq!(titles(text), expected, "{text}");
    }
}

#[test]
fn what_is_found_is_in_the_order_of_codes() {
    let codes: Vec<u32> = find(&query("plus")).into_codes(0).collect();
    assert_eq!(codes[0], 0x2b);
    assert!(codes.is_sorted());
    let both = find(&query("ideograph"));
    assert!(both.contains(0x4e00) && both.contains(0xf900) && both.contains(0x17000) && !both.contains(0xac00));
}

#[test]
fn beginnings_of_spellings_are_those_that_begin_so() {
    let ranges = [0x3400..=0x40ff, 0x4dc0..=0x4fff, 0x9ff0..=0xd7a4, 0x2a6c0..=0x2a70f];
    let all: Vec<(u32, String)> = ranges.into_iter().flatten().filter_map(|code| Some((code, title(code)?))).collect();
    for word in
        ["g*", "ga*", "gag*", "gga*", "hih*", "e*", "yae*", "4*", "4e0*", "9fff*", "2a6d*", "2a6df*", "sun", "e"]
    {
        let expected = |its: &str| match word.strip_suffix('*') {
            Some(prefix) => its.starts_with(&prefix.to_ascii_uppercase()),
            None => its.eq_ignore_ascii_case(word),
        };
        let by_rule = rules::find(&word.trim_end_matches('*').to_ascii_uppercase(), word.ends_with('*'));
        for (code, name) in &all {
            let is_ruled = rules::Rule::of(*code).is_some();
            let is_it = is_ruled && words::words(name).any(expected);
            assert_eq!(by_rule.contains(*code), is_it, "{word} {name}");
        }
    }
}

/// The whole code space, as another program with the same database has it, as far as that goes: names are for ever.
#[test]
fn names_are_what_python_knows() {
    const PYTHON: &str = "/usr/bin/python3";
    const DUMP: &str = "import sys, unicodedata as u
for char in map(chr, range(sys.maxunicode + 1)):
    if u.category(char) not in ('Cn', 'Co', 'Cs'): print(ord(char), u.name(char, ''), u.category(char), sep=';')";
    if !Path::new(PYTHON).exists() {
        writeln!(std::io::stderr(), "skipped: there is no {PYTHON}").expect("told");
        return;
    }
    let dump = Command::new(PYTHON).args(["-c", DUMP]).output().expect("it runs");
    let dump = String::from_utf8(dump.stdout).expect("ASCII");
    let (mut named, mut in_order) = (0, names::Titles::default());
    for line in dump.lines() {
        let fields: Vec<&str> = line.split(';').collect();
        let [code, name, its_category] = fields[..] else { panic!("{line}") };
        let code = code.parse().expect("a number");
        let official = names::official(code).map(|name| name.to_string()).unwrap_or_default();
        // That rule Python learnt late.
        if !(name.is_empty() && official == format!("TANGUT IDEOGRAPH-{code:X}")) {
            assert_eq!(official, name, "{code:X}");
        }
        assert_eq!(in_order.title(code).map(|title| title.to_string()), title(code), "{code:X}");
        let category = match its_category {
            "Cc" => category::Category::Control,
            "Cf" | "Zl" | "Zp" => category::Category::Format,
            "Mn" | "Mc" | "Me" => category::Category::Mark,
            "Zs" => category::Category::Space,
            _ => category::Category::Other,
        };
        assert_eq!(category::Category::of(code), category, "{code:X}");
        named += usize::from(!name.is_empty());
    }
    assert!(named > 100_000, "{named}");
}

#[test]
fn what_could_do_harm_is_shown_as_something_else() {
    let line = |code: u32, is_raw: bool| {
        let mut line = String::new();
        Rows::new(find(&query(&format!("U+{code:X}"))).into_codes(0))
            .for_each(|found| found.push_line(&mut line, is_raw));
        line
    };
    for (code, expected) in [
        (0x265c, "U+265C \t♜\tBLACK CHESS ROOK"),
        (0x1f408, "U+1F408\t🐈\tCAT"),
        (0xe0101, "U+E0101\t\u{25cc}\u{e0101}\tVARIATION SELECTOR-18"),
        (0x1b, "U+001B \t␛\tESCAPE"),
        (0x7f, "U+007F \t␡\tDELETE"),
        (0x85, "U+0085 \t\u{fffd}\tNEXT LINE"),
        (0x202e, "U+202E \t\u{fffd}\tRIGHT-TO-LEFT OVERRIDE"),
        (0x200b, "U+200B \t\u{fffd}\tZERO WIDTH SPACE"),
        (0xfeff, "U+FEFF \t\u{fffd}\tZERO WIDTH NO-BREAK SPACE"),
        (0x2028, "U+2028 \t\u{fffd}\tLINE SEPARATOR"),
        (0x301, "U+0301 \t\u{25cc}\u{301}\tCOMBINING ACUTE ACCENT"),
        (0x20, "U+0020 \t \tSPACE"),
    ] {
        assert_eq!(line(code, false), expected);
        let character = char::from_u32(code).expect("a character");
        assert_eq!(line(code, true).split('\t').nth(1), Some(&*character.to_string()), "{code:X}");
    }
}

#[test]
fn queries_are_quoted_as_python_quotes_them() {
    for (total, text, expected) in [
        (0, "jabberwocky's vest", "No match for \"jabberwocky's vest\""),
        (1, "rook black", "1 match for 'rook black'"),
        (627, "cat", "627 matches for 'cat'"),
        (2, "it's \"it\"", r#"2 matches for 'it\'s "it"'"#),
        (0, "a\\\u{1b}\t\u{85}\u{202e}\u{e0001}♜é\u{a0}", r"No match for 'a\\\x1b\t\x85\u202e\U000e0001♜é\xa0'"),
    ] {
        assert_eq!(Status { total, query: text }.to_string(), expected);
    }
}

#[test]
fn json_has_escapes_for_what_could_do_harm() {
    let json = |text: &str, start: usize, limit: usize| {
        let (query, mut json) = (query(text), Vec::new());
        let found = find(&query);
        let (total, items) = (found.total(), Rows::new(found.into_codes(start)).take(limit));
        Answer { query: query.text(), total, start, items }.write_json(&mut json).expect("written");
        String::from_utf8(json).expect("UTF-8")
    };
    assert_eq!(
        json("♜", 0, 10),
        r#"{"query":"♜","total":1,"start":0,"items":[{"code":"U+265C","char":"♜","name":"BLACK CHESS ROOK"}]}"#
    );
    assert_eq!(
        json("\u{202e}\u{e0101}", 0, 10),
        r#"{"query":"\u202e\udb40\udd01","total":2,"start":0,"items":[{"code":"U+202E","char":"\u202e","name":"RIGHT-TO-LEFT OVERRIDE"},{"code":"U+E0101","char":"\udb40\udd01","name":"VARIATION SELECTOR-18"}]}"#
    );
    assert_eq!(json("cjk", 200_000, 10), r#"{"query":"cjk","total":103203,"start":200000,"items":[]}"#);
    assert!(
        json("cjk", 103_202, 10).ends_with(r#"[{"code":"U+33479","char":"𳑹","name":"CJK UNIFIED IDEOGRAPH-33479"}]}"#)
    );
}

proptest! {
    /// Two ways to look, one answer.
    #[test]
    fn a_pass_finds_what_the_index_finds(parts in vec(part(), 0..4)) {
        thread_local!(static INDEX: Index = Index::new());
        let query = query(&parts.join(" "));
        let indexed = INDEX.with(|index| index.find(&query));
        prop_assert_eq!(find(&query), indexed);
    }
}

/// Something that is often a word of a name.
fn part() -> impl Strategy<Value = String> {
    const WORDS: &[&str] =
        &["letter", "LATIN", "a", "cjk", "ideograph", "4e00", "f900", "syllable", "ga", "with", "sun", "x", "cat"];
    prop_oneof![
        prop::sample::select(WORDS).prop_map(str::to_owned),
        "[a-z0-9]{1,3}\\*",
        "U\\+[0-9A-F]{2,5}",
        "[ -~]{0,4}",
        any::<char>().prop_map(String::from),
    ]
}

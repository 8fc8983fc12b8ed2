//! The registry of transforms: poems in, poems out.
//!
//! A transform is a function from bytes to bytes that knows nothing of sockets and frames. To add one is to write it
//! and to name it in [`ALL`].

/// A way to change a poem.
#[derive(Debug)]
pub struct Transform {
    /// The name in a request; without a `.`, which ends it there.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    apply: fn(&[u8]) -> Result<Vec<u8>, Refusal>,
}

/// Why a transform refuses a poem, as the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub &'static str);

/// Every transform there is.
pub static ALL: &[Transform] = &[
    Transform { name: "cummingsify", about: "all in lower case, as E. E. Cummings would have it", apply: cummingsify },
    Transform { name: "shout", about: "all in upper case", apply: shout },
    Transform { name: "reverse-lines", about: "the last line first", apply: reverse_lines },
    Transform { name: "number-lines", about: "each line after its number", apply: number_lines },
    Transform { name: "rot13", about: "each Latin letter replaced by the 13th after it", apply: rot13 },
    Transform { name: "gibberish", about: "refuses every poem: to see what clients make of that", apply: gibberish },
];

/// The transform of this name.
pub fn find(name: &[u8]) -> Option<&'static Transform> {
    ALL.iter().find(|transform| transform.name.as_bytes() == name)
}

impl Transform {
    /// Changes a poem.
    ///
    /// # Errors
    /// The transform refuses the poem.
    pub fn apply(&self, poem: &[u8]) -> Result<Vec<u8>, Refusal> {
        (self.apply)(poem)
    }
}

fn cummingsify(poem: &[u8]) -> Result<Vec<u8>, Refusal> {
    Ok(in_text(poem, <[u8]>::to_ascii_lowercase, str::to_lowercase))
}

fn shout(poem: &[u8]) -> Result<Vec<u8>, Refusal> {
    Ok(in_text(poem, <[u8]>::to_ascii_uppercase, str::to_uppercase))
}

/// Changes what is valid UTF-8, by a quicker way if it is ASCII; other bytes stay as they are.
fn in_text(poem: &[u8], ascii: fn(&[u8]) -> Vec<u8>, text: fn(&str) -> String) -> Vec<u8> {
    if poem.is_ascii() {
        return ascii(poem);
    }
    let mut changed = Vec::with_capacity(poem.len());
    for chunk in poem.utf8_chunks() {
        changed.extend_from_slice(text(chunk.valid()).as_bytes());
        changed.extend_from_slice(chunk.invalid());
    }
    changed
}

fn reverse_lines(poem: &[u8]) -> Result<Vec<u8>, Refusal> {
    // The newline at the end stays there, whichever line is the last.
    let (lines, end) = match poem.strip_suffix(b"\n") {
        Some(lines) => (lines, &b"\n"[..]),
        None => (poem, &b""[..]),
    };
    let mut reversed = lines.rsplit(|&byte| byte == b'\n').collect::<Vec<_>>().join(&b'\n');
    reversed.extend_from_slice(end);
    Ok(reversed)
}

fn number_lines(poem: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut numbered = Vec::with_capacity(poem.len() * 2);
    let mut number = Odometer::default();
    for line in poem.split_inclusive(|&byte| byte == b'\n') {
        numbered.extend_from_slice(number.next());
        numbered.extend_from_slice(b"  ");
        numbered.extend_from_slice(line);
    }
    Ok(numbered)
}

/// A counter that is ASCII digits: to format a number for each of a million empty lines would take ten times as long.
struct Odometer {
    digits: [u8; 20],
    first: usize,
}

impl Default for Odometer {
    fn default() -> Self {
        Self { digits: [b' '; 20], first: 19 }
    }
}

impl Odometer {
    /// The next number, counted from 1, in at least four columns.
    fn next(&mut self) -> &[u8] {
        let mut at = self.digits.len() - 1;
        while self.digits[at] == b'9' {
            self.digits[at] = b'0';
            at -= 1;
        }
        self.digits[at] = if self.digits[at] == b' ' { b'1' } else { self.digits[at] + 1 };
        self.first = self.first.min(at);
        &self.digits[self.first.min(self.digits.len() - 4)..]
    }
}

fn rot13(poem: &[u8]) -> Result<Vec<u8>, Refusal> {
    let turn = |byte: u8, first: u8| (byte - first + 13) % 26 + first;
    Ok(poem
        .iter()
        .map(|&byte| match byte {
            b'a'..=b'z' => turn(byte, b'a'),
            b'A'..=b'Z' => turn(byte, b'A'),
            _ => byte,
        })
        .collect())
}

fn gibberish(_: &[u8]) -> Result<Vec<u8>, Refusal> {
    Err(Refusal("it is gibberish"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(name: &str, poem: impl AsRef<[u8]>) -> Vec<u8> {
        find(name.as_bytes()).expect(name).apply(poem.as_ref()).expect("not refused")
    }

    #[test]
    fn names_are_told_from_one_another_and_from_what_follows_them() {
        for (index, transform) in ALL.iter().enumerate() {
            assert!(!transform.name.contains('.') && !transform.about.contains('\n'));
            assert!(std::ptr::eq(find(transform.name.as_bytes()).expect("found"), &raw const ALL[index]));
        }
        for name in ["", "Cummingsify", "cummingsify ", "cummings"] {
            assert!(find(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn letters_of_all_alphabets_have_cases() {
        assert_eq!(apply("cummingsify", "HERE IS MY POEM"), b"here is my poem");
        assert_eq!(apply("cummingsify", "ÉTÉ, Дума"), "été, дума".as_bytes());
        assert_eq!(apply("shout", "alla séra\n"), "ALLA SÉRA\n".as_bytes());
        assert_eq!(apply("shout", "Straße"), b"STRASSE");
    }

    #[test]
    fn what_is_no_text_stays_as_it_is() {
        assert_eq!(apply("cummingsify", b"A\xffB\xc3"), b"a\xffb\xc3");
        assert_eq!(apply("shout", b"\xe9t\xc3\xa9"), b"\xe9T\xc3\x89");
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(apply("cummingsify", &every), every.to_ascii_lowercase());
    }

    #[test]
    fn lines_are_turned_round_or_numbered() {
        assert_eq!(apply("reverse-lines", "a\nb\nc\n"), b"c\nb\na\n");
        assert_eq!(apply("reverse-lines", "a\nb"), b"b\na");
        assert_eq!(apply("reverse-lines", "\n\na\n"), b"a\n\n\n");
        assert_eq!(apply("number-lines", "a\n\nb"), b"   1  a\n   2  \n   3  b");
        let expected: String = (1..=12_000).map(|number| format!("{number:4}  \n")).collect();
        assert_eq!(apply("number-lines", "\n".repeat(12_000)), expected.as_bytes());
    }

    #[test]
    fn an_empty_poem_stays_empty() {
        for transform in ALL.iter().filter(|transform| transform.name != "gibberish") {
            assert_eq!(transform.apply(b""), Ok(Vec::new()), "{}", transform.name);
        }
    }

    #[test]
    fn gibberish_is_refused() {
        let refusal = find(b"gibberish").expect("found").apply(b"a poem").expect_err("refused");
        assert_eq!(refusal.to_string(), "it is gibberish");
    }

    proptest! {
        #[test]
        fn to_turn_twice_is_to_turn_back(mut poem in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(&apply("rot13", apply("rot13", &poem)), &poem);
            poem.push(b'\n');
            prop_assert_eq!(&apply("reverse-lines", apply("reverse-lines", &poem)), &poem);
        }

        #[test]
        fn a_case_is_changed_once(poem in proptest::collection::vec(any::<u8>(), 0..200)) {
            let small = apply("cummingsify", &poem);
            prop_assert_eq!(&apply("cummingsify", &small), &small);
        }
    }
}

//! The command line of a client that is not ours: `python=python3 fetch.py {}`.
//!
//! ```text
//! CLIENT := NAME "=" COMMAND
//! NAME   := LETTER (LETTER | DIGIT)*             at most 32, and no word that an assertion knows already
//! ```
//!
//! The command is split into words as a POSIX shell does it (quotes and backslashes; `#` begins a comment), but nothing is
//! expanded, and no shell is involved.

use std::str::FromStr;

use super::racer::Name;
use crate::client::Source;

/// A client that is not ours: its name in tables and pictures, and its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    name: Name,
    /// The program, and its arguments; not empty.
    words: Vec<String>,
}

/// Why a text is no [`Foreign`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// There is no name.
    #[error("a client is like 'python=python3 fetch.py {{}}'")]
    Form,
    /// The name is none.
    #[error("a name is a letter, and then letters and digits, at most 32 in all")]
    Name,
    /// The name means something else.
    #[error("{0} has a meaning already")]
    Taken(String),
    /// A quote is not closed, or a backslash ends the text.
    #[error("a quote in the command is not closed, or nothing follows a backslash")]
    Open,
    /// There is no command.
    #[error("there is no command after the =")]
    Empty,
    /// The command begins with a place for addresses.
    #[error("the command begins with {0}, and an address is no program")]
    NoProgram(&'static str),
    /// A place for addresses is a part of a word.
    #[error("{word}: {place} has to be a word of its own, which becomes one word for each address")]
    Within {
        /// The word.
        word: String,
        /// The place.
        place: &'static str,
    },
    /// The command does not say where the addresses go.
    #[error(
        "no word of the command is {{}}, {{ports}} or {{urls}}: which poems is it to fetch? (A server fills a {{}} after its -- itself)"
    )]
    Nowhere,
}

/// The words that become addresses.
const PLACES: [&str; 3] = ["{}", "{ports}", "{urls}"];

impl Foreign {
    /// Its name.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Its program.
    pub fn program(&self) -> &str {
        &self.words[0]
    }

    /// The arguments of its program, if these are the sources of the poems: `{}` becomes a word for each, `{ports}` the
    /// ports alone, and `{urls}` `http` URLs, or `telnet://HOST:PORT` (which curl knows) where a server sends unasked.
    pub fn arguments(&self, sources: &[Source]) -> Vec<String> {
        let url = |source: &Source| match source {
            Source::Poem(address) => format!("telnet://{address}"),
            Source::Http(url) => url.to_string(),
        };
        let fill = |word: &String| -> Vec<String> {
            match word.as_str() {
                "{}" => sources.iter().map(ToString::to_string).collect(),
                "{ports}" => sources.iter().map(|source| source.address().port().to_string()).collect(),
                "{urls}" => sources.iter().map(url).collect(),
                _ => vec![word.clone()],
            }
        };
        self.words[1..].iter().flat_map(fill).collect()
    }
}

impl FromStr for Foreign {
    type Err = ForeignError;

    fn from_str(text: &str) -> Result<Self, ForeignError> {
        let (name, command) = text.split_once('=').ok_or(ForeignError::Form)?;
        if name.is_empty() {
            return Err(ForeignError::Form);
        }
        if !Name::is_word(name) {
            return Err(ForeignError::Name);
        }
        let name = Name::new(name).ok_or_else(|| ForeignError::Taken(name.to_owned()))?;
        let words = shlex::split(command).ok_or(ForeignError::Open)?;
        let Some((program, arguments)) = words.split_first() else { return Err(ForeignError::Empty) };
        let place = |word: &String| PLACES.into_iter().find(|place| word == place);
        if let Some(place) = place(program) {
            return Err(ForeignError::NoProgram(place));
        }
        if !arguments.iter().any(|word| place(word).is_some()) {
            // A language may have braces of its own, so this is an error only where nothing else can be meant.
            let within = |word: &String| PLACES.into_iter().find(|&place| word.contains(place));
            let found = arguments.iter().find_map(|word| Some((word.clone(), within(word)?)));
            return Err(found.map_or(ForeignError::Nowhere, |(word, place)| ForeignError::Within { word, place }));
        }
        Ok(Self { name, words })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sources(texts: &[&str]) -> Vec<Source> {
        texts.iter().map(|text| text.parse().expect("a source")).collect()
    }

    fn error(text: &str) -> String {
        text.parse::<Foreign>().expect_err(text).to_string()
    }

    #[test]
    fn addresses_ports_and_urls_become_words() {
        let poems = sources(&["10000", "127.0.0.1:10001"]);
        for (command, expected) in [
            ("a=b {}", &["b", "127.0.0.1:10000", "127.0.0.1:10001"][..]),
            ("a=b {ports} -x", &["b", "10000", "10001", "-x"]),
            ("a=curl -s {urls}", &["curl", "-s", "telnet://127.0.0.1:10000", "telnet://127.0.0.1:10001"]),
            ("a='b c' \"d e\" f\\ g '' {ports}", &["b c", "d e", "f g", "", "10000", "10001"]),
            ("a=x=1 y=2 {ports}", &["x=1", "y=2", "10000", "10001"]),
            ("a=python3 -c 'd = {}; print(d)' {ports}", &["python3", "-c", "d = {}; print(d)", "10000", "10001"]),
            ("a=sh -c 'echo $1' '' {ports} # as a shell", &["sh", "-c", "echo $1", "", "10000", "10001"]),
        ] {
            let client: Foreign = command.parse().expect(command);
            let words = [vec![client.program().to_owned()], client.arguments(&poems)].concat();
            assert_eq!((Some(client.name()), words), (Name::new("a"), expected.map_words()), "{command}");
        }
        let pages = sources(&["http://localhost:8000/a?b=c"]);
        let client: Foreign = "wget=wget -q {urls} {} {ports}".parse().expect("a client");
        assert_eq!(
            client.arguments(&pages),
            ["-q", "http://localhost:8000/a?b=c", "http://localhost:8000/a?b=c", "8000"]
        );
    }

    trait MapWords {
        fn map_words(&self) -> Vec<String>;
    }

    impl MapWords for &[&str] {
        fn map_words(&self) -> Vec<String> {
            self.iter().map(|word| (*word).to_owned()).collect()
        }
    }

    #[test]
    fn what_is_no_client_is_refused_with_a_reason() {
        for (text, expected) in [
            ("python3 fetch.py {}", "a client is like 'python=python3 fetch.py {}'"),
            ("=b {}", "a client is like 'python=python3 fetch.py {}'"),
            ("my-client=b {}", "a name is a letter, and then letters and digits, at most 32 in all"),
            ("3=b {}", "a name is a letter, and then letters and digits, at most 32 in all"),
            ("é=b {}", "a name is a letter, and then letters and digits, at most 32 in all"),
            ("async=b {}", "async has a meaning already"),
            ("bound=b {}", "bound has a meaning already"),
            ("a=b 'c {}", "a quote in the command is not closed, or nothing follows a backslash"),
            ("a=b {} \\", "a quote in the command is not closed, or nothing follows a backslash"),
            ("a=", "there is no command after the ="),
            ("a= # b {}", "there is no command after the ="),
            ("a={} b", "the command begins with {}, and an address is no program"),
            (
                "a=b",
                "no word of the command is {}, {ports} or {urls}: which poems is it to fetch? (A server fills a {} after its -- itself)",
            ),
            ("a=b --to={}", "--to={}: {} has to be a word of its own, which becomes one word for each address"),
            ("a=b x{urls}", "x{urls}: {urls} has to be a word of its own, which becomes one word for each address"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        assert_eq!(error(&format!("{}=b {{}}", "a".repeat(33))), ForeignError::Name.to_string());
        assert!(format!("{}=b {{}}", "a".repeat(32)).parse::<Foreign>().is_ok());
    }

    proptest! {
        /// Whatever a word is: quoted as a shell has it, it arrives as it was.
        #[test]
        fn words_that_are_quoted_arrive_as_they_are(words in proptest::collection::vec("[^\0]{0,12}", 1..6)) {
            prop_assume!(!PLACES.contains(&words[0].as_str()));
            let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
            let client: Foreign = format!("a={} {{}}", quoted.join(" ")).parse().expect("a client");
            let place = |word: &String| PLACES.contains(&word.as_str());
            let expected: Vec<String> = words[1..].iter().filter(|word| !place(word)).cloned().collect();
            prop_assert_eq!((client.program(), client.arguments(&[])), (words[0].as_str(), expected));
        }
    }
}

//! The names of files: made from what a poem's source and, perhaps, its server say, and always one name in one directory.
//!
//! Whatever a server says, it becomes part of a name only after [`clean`]: no separator, nothing that hides a file or
//! leads upwards, nothing that cannot be shown, and no more bytes than a file system takes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::Failure;
use super::source::Source;
use super::target::is_invisible;
use crate::proto::http::target::Url;

/// The longest name, in bytes. File systems take 255.
const LONGEST: usize = 200;

/// How files of poems over HTTP are called: text, and fields in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    /// The number of the poem.
    Task,
    /// The last segment of the path, without what follows its last dot.
    Stem { upper: bool },
    /// What follows the last dot of the last segment.
    Ext,
    /// The host.
    Host,
    /// A string of the JSON beside the poem.
    Json(String),
}

/// Why a text is no [`Template`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace stands alone.
    #[error("a brace without the other one; {{{{ and }}}} are braces that stand for themselves")]
    Brace,
    /// A field is not known.
    #[error("there is no {{{0}}}; there are {{task}}, {{stem}}, {{STEM}}, {{ext}}, {{host}} and {{json.KEY}}")]
    Field(String),
    /// The text leads elsewhere.
    #[error("a name has no / and no character that cannot be shown")]
    Text,
    /// Nothing would be left.
    #[error("the name is empty")]
    Empty,
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.next_if_eq(&c).is_some() => literal.push(c),
                '}' => return Err(TemplateError::Brace),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some('{') | None => return Err(TemplateError::Brace),
                            Some(c) => name.push(c),
                        }
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Field(field(name)?));
                }
                '/' => return Err(TemplateError::Text),
                c if is_invisible(c) => return Err(TemplateError::Text),
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if parts.is_empty() { Err(TemplateError::Empty) } else { Ok(Self(parts)) }
    }
}

fn field(name: String) -> Result<Field, TemplateError> {
    match &*name {
        "task" => Ok(Field::Task),
        "stem" => Ok(Field::Stem { upper: false }),
        "STEM" => Ok(Field::Stem { upper: true }),
        "ext" => Ok(Field::Ext),
        "host" => Ok(Field::Host),
        _ => match name.strip_prefix("json.").filter(|key| !key.is_empty()) {
            Some(key) => Ok(Field::Json(key.to_owned())),
            None => Err(TemplateError::Field(name)),
        },
    }
}

impl Template {
    /// Whether a name is known only when the JSON beside the poem is here.
    pub fn needs_json(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Field(Field::Json(_))))
    }

    /// The name of the file of a poem. `task` is its number as it is to be written.
    fn fill(&self, task: &str, url: &Url, json: &Map<String, Value>) -> Result<String, Failure> {
        let segment = url.name().unwrap_or_default();
        let (stem, ext) = match segment.rsplit_once('.') {
            Some((stem, ext)) if !stem.is_empty() => (stem, ext),
            _ => (&*segment, ""),
        };
        let mut name = String::new();
        for part in &self.0 {
            let value = match part {
                Part::Text(text) => {
                    name.push_str(text);
                    continue;
                }
                Part::Field(Field::Task) => task.to_owned(),
                Part::Field(Field::Stem { upper: false }) => stem.to_owned(),
                Part::Field(Field::Stem { upper: true }) => stem.to_uppercase(),
                Part::Field(Field::Ext) => ext.to_owned(),
                Part::Field(Field::Host) => url.address().host(),
                Part::Field(Field::Json(key)) => match json.get(key) {
                    Some(Value::String(value)) => value.clone(),
                    Some(_) => return Err(Failure::NoName(format!("{key:?} is no string"))),
                    None => return Err(Failure::NoName(format!("there is no {key:?}"))),
                },
            };
            name.extend(value.chars().map(|c| if c == ' ' { '_' } else { c }));
        }
        Ok(clean(&name))
    }
}

/// Makes a name that is one, and nothing but a name: whatever could be something else becomes `_`.
fn clean(name: &str) -> String {
    let mut clean = String::with_capacity(name.len());
    for c in name.chars() {
        let is_leading_dot = c == '.' && clean.bytes().all(|byte| byte == b'_');
        let c = if c == '/' || is_leading_dot || is_invisible(c) { '_' } else { c };
        if clean.len() + c.len_utf8() > LONGEST {
            break;
        }
        clean.push(c);
    }
    if clean.is_empty() { "index".to_owned() } else { clean }
}

/// The names of the files of a run. Those that can be known are decided before the first byte comes; two poems never have
/// the same one.
#[derive(Debug)]
pub(super) struct Names {
    template: Option<Template>,
    sources: Vec<Source>,
    /// The name of each poem, as soon as it is known.
    of: Vec<Option<String>>,
    /// Whose name it is.
    taken: HashMap<String, usize>,
}

impl Names {
    pub(super) fn new(sources: &[Source], template: Option<&Template>) -> Self {
        let mut names = Self {
            template: template.cloned(),
            sources: sources.to_vec(),
            of: vec![None; sources.len()],
            taken: HashMap::new(),
        };
        let waits = template.is_some_and(Template::needs_json);
        let (mut wanted, mut count) = (Vec::with_capacity(sources.len()), HashMap::<String, usize>::new());
        for (task, source) in sources.iter().enumerate() {
            let name = match source {
                Source::Http(_) if waits => None,
                // Without JSON, nothing fails.
                Source::Http(url) => match template {
                    Some(template) => template.fill(&names.number(task), url, &Map::new()).ok(),
                    None => Some(clean(&url.name().unwrap_or_default())),
                },
                Source::Poem(address) => {
                    let host = address.host().replace([':', '%', '/'], "_");
                    Some(format!("{}-{host}-{}.txt", names.number(task), address.port()))
                }
            };
            if let Some(name) = &name {
                *count.entry(name.clone()).or_default() += 1;
            }
            wanted.push(name);
        }
        // A name that nobody else wants is its owner's; the others get their numbers.
        for (task, name) in wanted.iter().enumerate() {
            if let Some(name) = name.as_ref().filter(|name| count.get(*name) == Some(&1)) {
                names.taken.insert(name.clone(), task);
                names.of[task] = Some(name.clone());
            }
        }
        for (task, name) in wanted.into_iter().enumerate() {
            let Some(mut name) = name.filter(|_| names.of[task].is_none()) else { continue };
            while names.taken.contains_key(&name) || count.contains_key(&name) {
                name.insert_str(0, &format!("{}-", names.number(task)));
            }
            names.taken.insert(name.clone(), task);
            names.of[task] = Some(name);
        }
        names
    }

    /// The number of a poem, with zeros so that names are in order.
    fn number(&self, task: usize) -> String {
        let width = self.sources.len().to_string().len();
        format!("{:0width$}", task + 1)
    }

    /// The name of a poem, if it is known.
    pub(super) fn of(&self, task: usize) -> Option<&str> {
        self.of[task].as_deref()
    }

    /// Finds the name of a poem with the JSON that stands beside it.
    ///
    /// # Errors
    /// It is no JSON that tells a name, or another poem has that name.
    pub(super) fn learn(&mut self, task: usize, json: &[u8]) -> Result<(), Failure> {
        let Some((template, url)) = self.template.as_ref().zip(self.sources[task].url()) else { return Ok(()) };
        if !template.needs_json() {
            return Ok(());
        }
        let json: Value = serde_json::from_slice(json).map_err(|error| Failure::NoName(no_json(&error)))?;
        let Value::Object(fields) = json else { return Err(Failure::NoName("the JSON is no object".to_owned())) };
        let name = template.fill(&self.number(task), url, &fields)?;
        match self.taken.get(&name) {
            Some(&other) if other != task => Err(Failure::NoName(format!("poem {} is called {name}, too", other + 1))),
            _ => {
                self.taken.insert(name.clone(), task);
                self.of[task] = Some(name);
                Ok(())
            }
        }
    }
}

fn no_json(error: &serde_json::Error) -> String {
    let mut why = "this is no JSON".to_owned();
    if error.line() > 0 {
        // Writing to a string cannot fail.
        let _ = write!(why, " (line {}, column {})", error.line(), error.column());
    }
    why
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(sources: &[&str], template: Option<&str>) -> Names {
        let sources: Vec<Source> = sources.iter().map(|text| text.parse().expect("a source")).collect();
        Names::new(&sources, template.map(|text| text.parse().expect("a template")).as_ref())
    }

    fn of(names: &Names) -> Vec<&str> {
        (0..names.of.len()).map(|task| names.of(task).expect("known")).collect()
    }

    #[test]
    fn a_file_is_called_as_the_last_segment_and_clashes_are_decided_before() {
        let names = names(
            &[
                "http://a/flags/ad/ad.gif",
                "http://a/x/",
                "http://a/y/metadata.json",
                "http://a/z/metadata.json",
                "10000",
                "[::1]:80",
                "http://a/5-127.0.0.1-10000.txt",
                "http://a/3-metadata.json",
                "http://a/a%20b%2Ec",
                "http://a/%2e%2e%2ehidden",
                "http://a/%1b%5b31m%e2%80%aered",
            ],
            None,
        );
        assert_eq!(
            of(&names),
            [
                "ad.gif",
                "index",
                "03-metadata.json",
                "04-metadata.json",
                "05-127.0.0.1-10000.txt",
                "06-__1-80.txt",
                "5-127.0.0.1-10000.txt",
                "3-metadata.json",
                "a b.c",
                "___hidden",
                "_[31m_red",
            ]
        );
    }

    #[test]
    fn a_clash_with_a_prefixed_name_gets_another_prefix() {
        let names = names(&["http://a/x", "http://b/x", "http://c/1-x", "http://d/2-x", "http://e/2-x"], None);
        assert_eq!(of(&names), ["1-1-x", "2-2-x", "1-x", "4-2-x", "5-2-x"]);
        let raw = self::names(&["http://a/2-127.0.0.1-9.txt", "9"], None);
        assert_eq!(of(&raw), ["1-2-127.0.0.1-9.txt", "2-2-127.0.0.1-9.txt"]);
    }

    #[test]
    fn a_template_has_fields_of_the_url_and_of_the_json_beside_it() {
        let mut names = names(&["http://a:8001/flags/ad/ad.gif", "10000"], Some("{json.country}-{STEM}.{ext}"));
        assert_eq!((names.of(0), names.of(1)), (None, Some("2-127.0.0.1-10000.txt")));
        let json = br#"{"country": "Antigua and Barbuda", "code": 7}"#;
        names.learn(0, json).expect("a name");
        assert_eq!(names.of(0), Some("Antigua_and_Barbuda-AD.gif"));
        names.learn(0, json).expect("the same again, after a retry");
        for (template, name) in [
            ("{task}-{host}-{stem}", "1-a-ad"),
            ("{{{stem}}}", "{ad}"),
            ("..{ext}", "__gif"),
            ("{STEM} of {host}", "AD of a"),
        ] {
            assert_eq!(of(&self::names(&["http://a/ad.gif"], Some(template))), [name], "{template}");
        }
        assert_eq!(of(&self::names(&["http://a/.x", "http://a/y/"], Some("{stem}.{ext}"))), ["_x.", "_"]);
    }

    #[test]
    fn what_is_no_template_is_refused_for_its_reason() {
        for (text, why) in [
            ("", TemplateError::Empty),
            ("{stem", TemplateError::Brace),
            ("stem}", TemplateError::Brace),
            ("{st{em}}", TemplateError::Brace),
            ("{Stem}", TemplateError::Field("Stem".to_owned())),
            ("{json.}", TemplateError::Field("json.".to_owned())),
            ("../{stem}", TemplateError::Text),
            ("a\u{1b}", TemplateError::Text),
        ] {
            assert_eq!(text.parse::<Template>(), Err(why), "{text}");
        }
    }

    #[test]
    fn what_tells_no_name_is_a_failure() {
        let mut names = names(&["http://a/ad.gif", "http://a/al.gif"], Some("{json.country}"));
        for (json, why) in [
            (&b"nonsense"[..], "this is no JSON (line 1, column 2)"),
            (b"", "this is no JSON (line 1, column 0)"),
            (b"[]", "the JSON is no object"),
            (b"{}", "there is no \"country\""),
            (br#"{"country": 7}"#, "\"country\" is no string"),
        ] {
            let failure = names.learn(0, json).expect_err(why);
            assert_eq!(failure.to_string(), format!("no name for its file: {why}"));
        }
        names.learn(1, br#"{"country": "Andorra"}"#).expect("a name");
        let failure = names.learn(0, br#"{"country": "Andorra"}"#).expect_err("taken");
        assert_eq!(failure.to_string(), "no name for its file: poem 2 is called Andorra, too");
    }

    #[test]
    fn nothing_that_a_server_says_leads_elsewhere() {
        for country in ["../../x", "/etc/x", "a\0b", "..", ".", "", "C:\\x", "\u{1b}[2J", "\u{202e}gpj.exe"] {
            let mut names = names(&["http://a/ad.gif"], Some("{json.country}"));
            names.learn(0, serde_json::json!({ "country": country }).to_string().as_bytes()).expect("a name");
            let name = names.of(0).expect("known");
            assert!(!name.contains('/') && !name.starts_with('.') && !name.chars().any(is_invisible), "{name:?}");
        }
        let mut names = names(&["http://a/ad.gif"], Some("{json.country}"));
        names.learn(0, format!(r#"{{"country": "{}"}}"#, "é".repeat(300)).as_bytes()).expect("a name");
        assert_eq!(names.of(0), Some(&*"é".repeat(LONGEST / 2)));
    }

    proptest! {
        #[test]
        fn a_clean_name_is_one_component_of_a_path(name in "\\PC{0,300}|[./\\x00-\\x20a]{0,30}") {
            let name = clean(&name);
            prop_assert!(!name.is_empty() && name.len() <= LONGEST);
            prop_assert!(!name.starts_with('.') && !name.contains(['/', '\0']));
            let path = std::path::Path::new(&name);
            prop_assert!(matches!(path.components().collect::<Vec<_>>()[..], [std::path::Component::Normal(_)]));
        }
    }
}

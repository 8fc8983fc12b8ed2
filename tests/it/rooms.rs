//! The law of imports: which room may use which, and no file itself by way of others. ARCHITECTURE.md says why.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

/// One noun each, for everybody.
const GROUND: &[&str] = &[
    "address",
    "candidates",
    "comparison",
    "descendants",
    "latencies",
    "errors",
    "metrics",
    "poem",
    "pool",
    "sync",
    "test_process",
    "transforms",
    "units",
    "whole_file",
];

/// What each room may import beside itself and the ground.
const LAW: &[(&str, &[&str])] = &[
    ("bin", &["programs"]),
    (
        "programs",
        &[
            "cli", "server", "race", "sim", "client", "messages", "daemon", "net", "report", "cache", "pace", "proto",
            "unicode",
        ],
    ),
    ("cli", &["report", "pace", "net"]),
    ("server", &["net", "proto", "pace", "cache", "unicode", "report"]),
    ("race", &["client", "report"]),
    ("sim", &["client", "net", "pace", "report"]),
    ("client", &["proto", "report"]),
    ("messages", &["net", "proto"]),
    ("net", &["pace"]),
    ("daemon", &[]),
    ("report", &[]),
    ("cache", &[]),
    ("pace", &[]),
    ("proto", &[]),
    ("unicode", &[]),
];

/// Rooms of values: they may name an address, but have no socket.
const WITHOUT_SOCKETS: &[&str] = &["report", "cache", "pace", "proto", "unicode"];

/// A path in the code of a file, as it stands there and from the root of the library or of another crate.
struct Import {
    line: usize,
    path: Vec<String>,
    is_in_tests: bool,
}

/// The files below `src` by name, without comments and texts, but with all their lines.
struct House(BTreeMap<String, String>);

impl House {
    fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let no_code =
            r##"//[^\n]*|(?s:/\*.*?\*/)|r#"(?s:.*?)"#|r"[^"]*"|"(?s:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\.[^'\n]*)'"##;
        let no_code = Regex::new(no_code).expect("valid");
        let lines_of = |found: &Captures<'_>| "\n".repeat(found[0].matches('\n').count());
        let strip = |text: &str| no_code.replace_all(text, lines_of).into_owned();
        Self(files.into_iter().map(|(name, text)| (name.to_owned(), strip(text))).collect())
    }

    /// The module that a file is: of `net/mod.rs` and `net.rs` it is `net`, and the root of `lib.rs`.
    fn module(name: &str) -> Vec<String> {
        let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').filter(|&part| part != "lib").map(str::to_owned).collect()
    }

    fn file(&self, module: &[String]) -> Option<&str> {
        let path = module.join("/");
        [format!("{path}.rs"), format!("{path}/mod.rs")]
            .iter()
            .find_map(|name| Some(self.0.get_key_value(name)?.0.as_str()))
    }

    /// Every path in a file that begins at the library, above, at a module below, or in a crate with sockets.
    fn imports(&self, name: &str) -> Vec<Import> {
        let start = Regex::new(r"(?:::\s*)?\b([a-z_]\w*)\s*::").expect("valid");
        let (code, module) = (&self.0[name], Self::module(name));
        let tests = code.find("mod tests {").unwrap_or(code.len());
        let mut imports = Vec::new();
        for first in start.captures_iter(code).filter(|found| !found[0].starts_with(':')) {
            let at = first.get(1).expect("it is in the pattern");
            let mut base = module.clone();
            base.extend((at.start() > tests).then(|| "tests".to_owned()));
            let is_below = self.file(&[&base[..], &[at.as_str().to_owned()]].concat()).is_some();
            if !is_below && !["crate", "poetry_suite", "super", "self", "std", "tokio"].contains(&at.as_str()) {
                continue;
            }
            let line = code[..at.start()].matches('\n').count() + 1;
            for path in expand(&mut &code[at.start()..]) {
                let ups = path.iter().take_while(|&part| part == "super").count();
                let mut whole = match path[0].as_str() {
                    "crate" | "poetry_suite" | "std" | "tokio" => Vec::new(),
                    _ => base[..base.len().saturating_sub(ups)].to_vec(),
                };
                let named = |part: &&String| !["crate", "poetry_suite", "super", "self"].contains(&part.as_str());
                whole.extend(path.iter().filter(named).cloned());
                imports.push(Import { line, path: whole, is_in_tests: at.start() > tests });
            }
        }
        imports
    }

    /// What is against the law, each with its file and line.
    fn offences(&self) -> Vec<String> {
        let mut offences = Vec::new();
        let rooms: BTreeSet<String> = self.0.keys().filter_map(|name| Self::module(name).first().cloned()).collect();
        for name in self.0.keys().filter(|&name| name != "lib.rs") {
            let room = &Self::module(name)[0];
            let is_ground = GROUND.contains(&room.as_str());
            let Some((_, may)) = LAW.iter().find(|(of, _)| of == room).or(is_ground.then_some(&("", &[]))) else {
                offences.push(format!("src/{name}: there is no law for the room '{room}'"));
                continue;
            };
            for Import { line, path, .. } in self.imports(name) {
                let Some(to) = path.first() else { continue };
                let is_socket = match [to.as_str(), path.get(1).map_or("", String::as_str)] {
                    ["tokio", "net"] => true,
                    ["std", "net"] => path.get(2).is_none_or(|what| {
                        !(what.starts_with("Ip") || what.starts_with("SocketAddr") || what == "AddrParseError")
                    }),
                    _ => false,
                };
                let path = path.join("::");
                if is_socket && WITHOUT_SOCKETS.contains(&room.as_str()) {
                    offences.push(format!("src/{name}:{line}: '{room}' has no sockets, but uses {path}"));
                }
                if rooms.contains(to) && to != room && !GROUND.contains(&to.as_str()) && !may.contains(&to.as_str()) {
                    let may = [may, &["the ground"][..]].concat().join(", ");
                    offences.push(format!("src/{name}:{line}: '{room}' uses {path}; it may use {may}"));
                }
            }
        }
        offences
    }

    /// Each file with those whose code its own names outside of tests. What a file takes from the modules around it is
    /// left out: there are its room's own words.
    fn uses(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        // `use super::Cursor` uses the file from which `pub use cursor::Cursor` has it.
        let origin = |file: &str, what: Option<&String>| {
            let is_it = |text: &str| expand(&mut &*text).into_iter().find(|path| path.last() == what);
            let code = self.0[file].as_str();
            let is_public = |at: usize| ["pub ", "pub(crate) "].iter().any(|word| code[..at].ends_with(word));
            let uses = code.match_indices("use ").filter(|(at, _)| is_public(*at));
            let path = uses.map(|(at, word)| &code[at + word.len()..]).find_map(is_it)?;
            self.file(&[&Self::module(file)[..], &path[..1]].concat())
        };
        let target = |path: &[String]| {
            let depth = (1..=path.len()).rev().find(|&depth| self.file(&path[..depth]).is_some())?;
            let file = self.file(&path[..depth])?;
            Some(origin(file, path.get(depth)).unwrap_or(file))
        };
        let of = |name: &String| {
            let module = Self::module(name);
            let imports = self.imports(name).into_iter().filter(|import| !import.is_in_tests);
            let files = imports.filter_map(|import| target(&import.path));
            files.filter(|file| !module.starts_with(&Self::module(file))).collect()
        };
        self.0.keys().map(|name| (name.as_str(), of(name))).collect()
    }

    /// For each file that uses itself by way of others a shortest way; a circle is told at the first of its files.
    fn circles(&self) -> Vec<String> {
        let uses = self.uses();
        let from = |&start: &&str| {
            let mut ways = VecDeque::from([vec![start]]);
            let mut seen = BTreeSet::new();
            while let Some(way) = ways.pop_front() {
                for &next in way.last().and_then(|last| uses.get(last)).into_iter().flatten() {
                    let longer = [&way[..], &[next]].concat();
                    if next == start {
                        return Some(longer.join(" -> "));
                    }
                    if next > start && seen.insert(next) {
                        ways.push_back(longer);
                    }
                }
            }
            None
        };
        uses.keys().filter_map(from).collect()
    }
}

/// The paths at the start of a text: `a::{b, c::{self, d}}` is four of them, or three.
fn expand(text: &mut &str) -> Vec<Vec<String>> {
    let skip = |text: &mut &str, token: &str| {
        let rest = text.trim_start().strip_prefix(token);
        *text = rest.unwrap_or(text);
        rest.is_some()
    };
    if skip(text, "{") {
        let mut paths = Vec::new();
        while !text.is_empty() && !skip(text, "}") {
            paths.append(&mut expand(text));
            // What follows is a comma, or `as other`.
            let end = text.find([',', '}']).unwrap_or(text.len());
            *text = text[end..].trim_start_matches(',');
        }
        return paths;
    }
    let code = text.trim_start();
    let length = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let (name, rest) = code.split_at(length);
    *text = rest;
    let tails = if skip(text, "::") { expand(text) } else { vec![Vec::new()] };
    let own = (!name.is_empty()).then(|| name.to_owned());
    tails.into_iter().map(|tail| own.iter().cloned().chain(tail).collect()).collect()
}

/// To read all of it takes seconds, so that is done once.
static OUR_HOUSE: LazyLock<House> = LazyLock::new(|| {
    fn walk(directory: &Path, root: &Path, files: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, root, files);
            } else {
                let name = path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned();
                files.push((name, fs::read_to_string(&path).expect("readable")));
            }
        }
    }
    let (root, mut files) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Vec::new());
    walk(&root, &root, &mut files);
    House::new(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
});

#[test]
fn rooms_use_what_is_below_them() {
    let offences = OUR_HOUSE.offences();
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn the_map_for_people_has_the_same_law() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).expect("the map");
    for (room, may) in LAW {
        let row = map.lines().find(|line| line.starts_with(&format!("| `{room}/` |"))).expect(room);
        let may = if may.is_empty() { "nothing".to_owned() } else { may.join(", ") };
        assert!(row.ends_with(&format!("| {may} |")), "{room} may import {may}, but ARCHITECTURE.md has: {row}");
    }
}

#[test]
fn no_file_uses_itself_by_way_of_others() {
    let circles = OUR_HOUSE.circles();
    assert!(circles.is_empty(), "\n{}\n", circles.join("\n"));
}

#[test]
fn what_is_against_the_law_is_found_however_it_is_written() {
    let offences = |name, text| House::new([(name, text), ("cli/mod.rs", ""), ("net/mod.rs", "")]).offences();
    for (name, text, place) in [
        ("server/fast.rs", "use crate::cli::Error;", "src/server/fast.rs:1: 'server' uses cli::Error; it may use net,"),
        ("server/fast.rs", "\nuse crate::{net, cli::Error};", "src/server/fast.rs:2: "),
        ("server/fast.rs", "\n\nfn f() {\n    crate::cli::run();\n}", "src/server/fast.rs:4: "),
        ("server/fast.rs", "use super::super::cli::{self, run};", "src/server/fast.rs:1: "),
        (
            "server/fast.rs",
            "/// \"\nuse super::super::{\n    net::{Stop, wait},\n    cli,\n};",
            "src/server/fast.rs:2: ",
        ),
        ("server/fast.rs", "mod tests {\n    use super::super::super::cli::run;\n}", "src/server/fast.rs:2: "),
        ("client/mod.rs", "fn f() -> super::net::Stop {}", "src/client/mod.rs:1: 'client' uses net::Stop"),
        ("units.rs", "use crate::net::Stop;", "src/units.rs:1: 'units' uses net::Stop; it may use the ground"),
        ("bin/nc.rs", "use poetry_suite::cli::Error;", "src/bin/nc.rs:1: 'bin' uses cli::Error"),
        ("pace/plan.rs", "use std::net::{IpAddr, TcpStream};", "src/pace/plan.rs:1: 'pace' has no sockets"),
        ("proto/mod.rs", "fn f(to: &mut tokio::net::TcpStream) {}", "src/proto/mod.rs:1: 'proto' has no sockets"),
        ("shed/mod.rs", "", "src/shed/mod.rs: there is no law for the room 'shed'"),
    ] {
        let found = offences(name, text);
        assert!(!found.is_empty() && found.iter().all(|offence| offence.starts_with(place)), "{text}: {found:?}");
    }
    for (name, text) in [
        ("server/fast.rs", "// use crate::cli::Error;\n/* crate::cli::x */ const A: &str = \"\\\"crate::cli::x\";"),
        (
            "server/fast.rs",
            "use crate::net::{Stop, cli::x};\nuse clap::cli::y;\nfn f(c: char) { c == '\"' || c == '\\''; }",
        ),
        ("pace/plan.rs", "use std::net::{IpAddr, Ipv4Addr, SocketAddr};"),
        ("programs/slow.rs", "use crate::cli::run;\nmod tests {\n    use super::super::service;\n}"),
    ] {
        assert_eq!(offences(name, text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn circles_are_found_within_a_room_and_across() {
    let circles = |files: &[(&'static str, &'static str)]| House::new(files.iter().copied()).circles();
    let own_words = [
        ("net/mod.rs", "mod accept;\npub use accept::serve;\npub struct Stop;"),
        ("net/accept.rs", "use super::Stop;\nmod tests {\n    use crate::net::close::Drain;\n}"),
        ("net/close.rs", "use super::accept::Permit;"),
    ];
    assert_eq!(circles(&own_words), Vec::<String>::new());
    for (accept, close) in [
        ("use super::close;", "use super::accept::Permit;"),
        ("use crate::net::{Stop, close::Drain};", "use super::{Stop, serve};"),
        ("fn f() { super::close::drain(); }", "use crate::cli;"),
    ] {
        let files =
            [own_words[0], ("net/accept.rs", accept), ("net/close.rs", close), ("cli.rs", "use crate::net::serve;")];
        let found = circles(&files);
        assert!(
            found.len() == 1 && found[0].contains("net/accept.rs -> net/close.rs -> "),
            "{accept} {close}: {found:?}"
        );
    }
}

//! Arguments that the clients and their race share: what to fetch, and how to draw it.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::iter::repeat_n;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use crate::address::Address;
use crate::cli::Error;
use crate::client::{Model, Target};
use crate::report::Report;
use crate::report::waterfall::{Chart, svg};
use crate::whole_file;

const FORMS: &str = "\
Servers: PORT (on this machine), HOST:PORT or [IPv6]:PORT; over HTTP http://HOST[:PORT]/PATH; or NAME= and one of these";
const FORMS_AND_NAMES: &str = "\
Servers: PORT (on this machine), HOST:PORT or [IPv6]:PORT; over HTTP http://HOST[:PORT]/PATH; or NAME= and one of these

The name, as in donne=10000, stands for the poem in pictures and reports. It has up to 64 characters and no =, and does \
not look like a host or a port. *N after an address, as in 10000*300, means it N times.";

/// The targets, one a poem.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    #[arg(required_unless_present = "input", value_name = "ADDR", id = "targets")]
    #[arg(help = FORMS, long_help = FORMS_AND_NAMES)]
    list: Vec<Repeated>,

    /// Read more of them from FILE, or from stdin if that is -: one a line; # begins a comment
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl TargetArgs {
    /// The targets, in order: those of the command line, and then those of the file.
    ///
    /// # Errors
    /// It cannot be read, or has something else in it; or there is no target at all.
    pub(super) fn resolve(&self) -> Result<Vec<Target>, Error> {
        let mut list = self.list.clone();
        let Some(path) = &self.input else { return Repeated::all(&list) };
        let (place, text) = match path.as_os_str() == "-" {
            true => {
                let mut text = Vec::new();
                ("stdin".to_owned(), io::stdin().read_to_end(&mut text).map(|_| text))
            }
            false => (path.display().to_string(), fs::read(path)),
        };
        let text = text.map_err(|error| Error::cannot("read", &place, &error))?;
        // What is no UTF-8 is no address either, and shown as far as it can be.
        let text = String::from_utf8_lossy(&text);
        for (number, line) in text.lines().enumerate() {
            // A fragment of a URL is no comment.
            let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let target = line.parse::<Repeated>();
            list.push(target.map_err(|why| Error::usage(format!("{place}, line {}: '{line}': {why}", number + 1)))?);
        }
        if list.is_empty() {
            return Err(Error::usage(format!("there is no address in {place}")));
        }
        Repeated::all(&list)
    }
}

/// A target, and how many times it is meant: `10000*3`.
#[derive(Debug, Clone)]
pub(super) struct Repeated {
    pub(super) target: Target,
    pub(super) times: usize,
}

/// The most poems of one run.
pub(super) const MOST_POEMS: usize = 1_000_000;

impl Repeated {
    /// The targets, each as many times as it is meant.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn all(list: &[Self]) -> Result<Vec<Target>, Error> {
        let number = list.iter().fold(0_usize, |sum, one| sum.saturating_add(one.times));
        if number > MOST_POEMS {
            return Err(Error::usage(format!("{number} poems are too many: the most are {MOST_POEMS}")));
        }
        Ok(list.iter().flat_map(|one| repeat_n(one.target.clone(), one.times)).collect())
    }

    /// So many targets of this list, in its order: those of the same place in it stand together.
    pub(super) fn spread(targets: &[Target], number: usize) -> Vec<Self> {
        let share = |index: usize| number / targets.len() + usize::from(index < number % targets.len());
        let repeated = |(index, target): (usize, &Target)| Self { target: target.clone(), times: share(index) };
        targets.iter().enumerate().map(repeated).filter(|one| one.times > 0).collect()
    }
}

impl FromStr for Repeated {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, times) = match text.rsplit_once('*') {
            Some((target, times)) if !times.is_empty() && times.bytes().all(|byte| byte.is_ascii_digit()) => {
                let times = times.parse().ok().filter(|times| (1..=MOST_POEMS).contains(times));
                (target, times.ok_or_else(|| format!("a poem is fetched 1 to {MOST_POEMS} times"))?)
            }
            _ => (text, 1),
        };
        Ok(Self { target: target.parse().map_err(|why| format!("{why}"))?, times })
    }
}

impl fmt::Display for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*{}", self.target, self.times)
    }
}

/// The proxy of `--proxy`: an address, or its URL as other programs have it.
pub(super) fn proxy(text: &str) -> Result<Address, String> {
    let address = text.strip_prefix("http://").map_or(text, |rest| rest.trim_end_matches('/'));
    address.parse().map_err(|error| format!("{error}"))
}

/// The names of all models.
pub(super) fn models() -> Vec<&'static str> {
    Model::ALL.map(Model::name).to_vec()
}

/// A model by its name.
pub(super) fn model(text: &str) -> Result<Model, String> {
    let known = Model::ALL.into_iter().find(|model| model.name() == text);
    known.ok_or_else(|| "a model is blocking, threads, select or async".to_owned())
}

/// Checks a file that is to be written at the end, before anything is fetched for it.
///
/// # Errors
/// It cannot be written.
pub(super) fn check_file(path: Option<&Path>) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    whole_file::check(path).map_err(|error| Error::cannot("write", path.display(), &error))
}

/// Checks the file of a picture, as [`check_file`] does.
///
/// # Errors
/// It cannot be written, or has the name of a picture of another kind. (What is no regular file has any name.)
pub(super) fn check_picture(path: Option<&Path>) -> Result<(), Error> {
    if let Some(path) = path
        && !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg"))
        && path.metadata().map_or(true, |found| found.is_file())
    {
        return Err(Error::usage(format!("a picture is SVG, and {} does not end in .svg", path.display())));
    }
    check_file(path)
}

/// The manner of `--timeline` and `--waterfall`.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct DrawingArgs {
    /// Draw thin lanes without labels, so that hundreds of poems make a picture of normal size
    ///
    /// In characters, a line is several poems, and shows the one that is furthest.
    #[arg(long)]
    compact: bool,

    /// Have the picture in FILE play the run once, in 5 seconds at most
    ///
    /// It stands still on paper, for readers who prefer reduced motion, and in programs that know no animation.
    #[arg(long)]
    animate: bool,
}

impl DrawingArgs {
    /// Whether there is a picture to be drawn in this manner; the error comes with the name of the argument.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn check(self, timeline: bool, waterfall: bool) -> Result<(), (&'static str, Error)> {
        if self.compact && !timeline && !waterfall {
            let why = "--compact is about --timeline and --waterfall, and neither is given";
            return Err(("compact", Error::usage(why)));
        }
        if self.animate && !timeline {
            return Err(("animate", Error::usage("--animate is about --timeline, which is not given")));
        }
        Ok(())
    }

    /// The chart of these runs.
    pub(super) fn chart(self, reports: &[Report]) -> Chart {
        let chart = Chart::of(reports);
        if self.compact { chart.compacted() } else { chart }
    }

    /// The chart as SVG.
    pub(super) fn svg(self, chart: &Chart) -> String {
        if self.animate { svg::draw_moving(chart) } else { svg::draw(chart) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, usize), String> {
        text.parse::<Repeated>().map(|one| (one.target.to_string(), one.times))
    }

    #[test]
    fn an_address_may_be_meant_many_times() {
        assert_eq!(parsed("10000*300"), Ok(("127.0.0.1:10000".to_owned(), 300)));
        assert_eq!(parsed("donne=10000*2"), Ok(("donne=127.0.0.1:10000".to_owned(), 2)));
        assert_eq!(parsed("http://a/x*3"), Ok(("http://a/x".to_owned(), 3)));
        assert_eq!(parsed("http://a/x*"), Ok(("http://a/x*".to_owned(), 1)));
        assert_eq!(parsed("http://a/x*3*1").expect("a target").0, "http://a/x*3");
        for text in ["1*0", "1*1000001", "1*99999999999999999999999"] {
            assert_eq!(parsed(text), Err("a poem is fetched 1 to 1000000 times".to_owned()));
        }
        assert!(parsed("*3").is_err() && parsed("1*x").is_err());
        let many: Vec<Repeated> = ["1*999999", "2*2"].map(|text| text.parse().expect("a target")).to_vec();
        assert!(Repeated::all(&many).is_err() && Repeated::all(&many[1..]).is_ok_and(|all| all.len() == 2));
    }

    #[test]
    fn a_number_of_poems_is_spread_over_the_list() {
        let targets = ["1", "2", "3"].map(|text| text.parse::<Target>().expect("a target"));
        let spread = |number| -> Vec<String> {
            Repeated::spread(&targets, number).iter().map(|one| one.to_string().split_off("127.0.0.1:".len())).collect()
        };
        assert_eq!(spread(2), ["1*1", "2*1"]);
        assert_eq!(spread(10), ["1*4", "2*3", "3*3"]);
    }
}

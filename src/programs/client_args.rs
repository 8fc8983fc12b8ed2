//! Arguments that the clients and their race share: what to fetch, and how to draw it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::address::Address;
use crate::cli::Error;
use crate::client::Target;
use crate::report::Report;
use crate::report::waterfall::{Chart, svg};
use crate::whole_file;

const FORMS: &str = "\
Servers: PORT (on this machine), HOST:PORT or [IPv6]:PORT; over HTTP http://HOST[:PORT]/PATH; or NAME= and one of these";
const FORMS_AND_NAMES: &str = "\
Servers: PORT (on this machine), HOST:PORT or [IPv6]:PORT; over HTTP http://HOST[:PORT]/PATH; or NAME= and one of these

The name, as in donne=10000, stands for the poem in pictures and reports. It has up to 64 characters and no =, and does \
not look like a host or a port.";

/// The targets, one a poem.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    #[arg(required_unless_present = "input", value_name = "ADDR", id = "targets")]
    #[arg(help = FORMS, long_help = FORMS_AND_NAMES)]
    list: Vec<Target>,

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
        let mut targets = self.list.clone();
        let Some(path) = &self.input else { return Ok(targets) };
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
            let target = line.parse();
            targets.push(target.map_err(|why| Error::usage(format!("{place}, line {}: '{line}': {why}", number + 1)))?);
        }
        if targets.is_empty() { Err(Error::usage(format!("there is no address in {place}"))) } else { Ok(targets) }
    }
}

/// The proxy of `--proxy`: an address, or its URL as other programs have it.
pub(super) fn proxy(text: &str) -> Result<Address, String> {
    let address = text.strip_prefix("http://").map_or(text, |rest| rest.trim_end_matches('/'));
    address.parse().map_err(|error| format!("{error}"))
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
    /// Whether there is a picture to be drawn in this manner.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn check(self, timeline: bool, waterfall: bool) -> Result<(), Error> {
        if self.compact && !timeline && !waterfall {
            return Err(Error::usage("--compact is about --timeline and --waterfall, and neither is given"));
        }
        if self.animate && !timeline {
            return Err(Error::usage("--animate is about --timeline, which is not given"));
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

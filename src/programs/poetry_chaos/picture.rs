//! What passed through a proxy, as a report and as pictures.

use std::io::{self, Write};
use std::path::{self, PathBuf};
use std::sync::Arc;

use clap::Arg;
use tracing::{error, info};

use crate::address::Address;
use crate::cli::toml_args::COMMAND_LINE;
use crate::cli::{Error, terminal};
use crate::programs::client_args::{DrawingArgs, check_file, check_picture};
use crate::report::Report;
use crate::report::seen::{Keep, Place, Seen};
use crate::report::waterfall::text;
use crate::server::watcher::Watcher;
use crate::units::count;
use crate::whole_file;

/// The most connections in a report. With a thousand reads each, they need some 16 MB.
const MOST: usize = 1_000;

/// The flags about what passes through.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Report", mut_args(in_full))]
pub(super) struct PictureArgs {
    /// Write down in FILE who was connected when, and what came, as JSON: at the end, and on SIGUSR1
    ///
    /// The form is that of get-poetry --report, with a lane for each connection: the latest thousand, and of those the
    /// open ones first.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Draw who was connected when, and what came, in FILE (SVG): at the end, and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,

    /// Draw the same on stderr, in characters
    #[arg(long, group = COMMAND_LINE)]
    waterfall: bool,

    #[command(flatten)]
    drawing: DrawingArgs,
}

/// A summary has no room for these.
fn in_full(arg: Arg) -> Arg {
    let is_ours = ["report", "timeline", "waterfall", "compact", "animate"].contains(&arg.get_id().as_str());
    if is_ours { arg.hide_short_help(true) } else { arg }
}

impl PictureArgs {
    /// Checks what can be known before anything passes; the error comes with the name of the argument.
    ///
    /// # Errors
    /// A file cannot be written, or nothing is to be drawn.
    pub(super) fn check(&self) -> Result<(), (&'static str, Error)> {
        check_file(self.report.as_deref()).map_err(|error| ("report", error))?;
        check_picture(self.timeline.as_deref()).map_err(|error| ("timeline", error))?;
        self.drawing.check(self.timeline.is_some(), self.waterfall)
    }

    /// Who draws what passes on to this server, if somebody is to.
    ///
    /// # Errors
    /// The working directory, from which files are named, is gone.
    pub(super) fn painter(&self, upstream: &Address) -> Result<Option<Painter>, Error> {
        if self.report.is_none() && self.timeline.is_none() && !self.waterfall {
            return Ok(None);
        }
        let mut args = self.clone();
        // Absolute, so that they are the same after chdir("/").
        for path in [&mut args.report, &mut args.timeline].into_iter().flatten() {
            *path = path::absolute(&*path).map_err(|error| Error::cannot("write", path.display(), &error))?;
        }
        let place = Place { address: upstream.to_string(), name: None };
        Ok(Some(Painter { args, place, watcher: Watcher::new(MOST, Keep::Latest) }))
    }
}

/// Writes and draws what passed through.
pub(super) struct Painter {
    args: PictureArgs,
    place: Place,
    watcher: Arc<Watcher>,
}

impl Painter {
    /// Who watches for it.
    pub(super) fn watcher(&self) -> Arc<Watcher> {
        Arc::clone(&self.watcher)
    }

    /// Writes and draws what has passed so far. Returns whether all of that could be done; what could not is logged.
    pub(super) fn paint(&self) -> bool {
        let seen = |seen: &Seen, started, now| {
            let report = seen.by_connection("poetry-chaos", std::slice::from_ref(&self.place), started, now);
            (report, seen.forgotten())
        };
        let (report, forgotten) = self.watcher.look(seen);
        if forgotten > 0 {
            info!(forgotten, "The report has room for {MOST}: {} left out", count(forgotten, "connection"));
        }
        let written = self.write(&report);
        for error in written.iter().filter_map(|written| written.as_ref().err()) {
            error!("{}", error.message);
        }
        written.iter().all(Result::is_ok)
    }

    /// Writes what can be written, whatever becomes of the rest.
    fn write(&self, report: &Report) -> [Result<(), Error>; 2] {
        let PictureArgs { report: file, timeline, waterfall, drawing } = &self.args;
        let write = |what, path: &PathBuf, text: &str| {
            whole_file::write(path, text.as_bytes()).map_err(|error| Error::cannot(what, path.display(), &error))
        };
        let chart = drawing.chart(std::slice::from_ref(report));
        let told = file.as_ref().map(|path| write("write the report to", path, &report.to_json()));
        let drawn = timeline.as_ref().map(|path| write("write the picture to", path, &drawing.svg(&chart)));
        if *waterfall {
            // An error there has nobody who could be told of it.
            let _ = io::stderr().write_all(text::draw(&chart, terminal::canvas()).as_bytes());
        }
        [told, drawn].map(|written| written.unwrap_or(Ok(())))
    }
}

//! poetry-draw as a program.

mod reading;
mod recorded;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;

use self::reading::Reader;
use super::client_args::check_file;
use crate::cli::{Error, FAILURE, SUCCESS, is_same_file, say, stdout, terminal};
use crate::errors::reason;
use crate::report::waterfall::{Chart, Run, page, svg, text};
use crate::whole_file;

const NAME: &str = "poetry-draw";

/// The most runs of a picture.
const MOST_RUNS: usize = 1_000;

/// Draw what poems were doing when, from reports of clients and recordings of servers
///
/// Each run is a panel, and all have one time axis. A recording (--record of slowpoetry, fastpoetry and poetry-chaos) shows
/// what the server really sent, whoever the clients were.
#[derive(Debug, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// Reports (JSON of get-poetry --json or --report) and recordings (--record), in any order; - is stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Write the picture to FILE: .svg, .html, or .txt for characters
    #[arg(short, long, help_heading = "Picture", value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print SVG instead of characters
    #[arg(long, help_heading = "Picture", conflicts_with_all = ["html", "output"])]
    svg: bool,

    /// Print a page in HTML instead: with a table and the data, for a pointer and for the keyboard
    #[arg(long, help_heading = "Picture", conflicts_with = "output")]
    html: bool,

    /// Draw thin lanes without labels, so that hundreds of poems make a picture of normal size
    ///
    /// In characters, a line is several poems, and shows the one that is furthest. Not for a page.
    #[arg(long, help_heading = "Picture")]
    compact: bool,

    /// Have the SVG play the run once, in 5 seconds at most
    #[arg(long, help_heading = "Picture")]
    animate: bool,

    /// Place runs by the time of day at which they began, instead of all at the left
    #[arg(long, help_heading = "Picture")]
    wall_clock: bool,
}

const AFTER_HELP: &str = "\
Files are told apart by what is in them; a file may have several reports, one after another. All files together are at most \
64 MiB, and 1000 runs. Of very many lanes the first ones are drawn, and the others counted.

Examples:
  get-poetry --json 10000 10001 | poetry-draw -
      What the poems were doing, on the terminal
  poetry-draw -o lesson.html blocking.json threads.json select.json async.json
      Four runs below each other, as a page that stands alone
  slowpoetry --record sent.jsonl ecstasy; poetry-draw sent.jsonl
      What the server has sent to whom: netcat, a browser, anybody
  poetry-draw --wall-clock -o both.svg report.json sent.jsonl
      What a client got beside what the server sent, at the same time of day

Exit status:
  0    drawn
  1    a file could not be read or has nothing that can be drawn; the others are drawn. Or the picture cannot be written
  2    the command line makes no sense";

/// The `main` of the program.
pub fn main() -> ExitCode {
    crate::cli::run(NAME, |args: Args| args.run())
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Svg,
    Html,
}

impl Args {
    fn run(&self) -> Result<u8, Error> {
        let form = self.form()?;
        self.check(form)?;
        let (mut reader, mut runs, mut failure) = (Reader::default(), Vec::new(), None);
        for file in &self.files {
            let found = reader.read(file, self.files.len() > 1);
            match found.and_then(|found| if_few(runs.len(), found)) {
                Ok(found) => runs.extend(found),
                Err(error) if self.files.len() == 1 => return Err(error),
                Err(error) => {
                    say(NAME, &error.message);
                    failure = Some(FAILURE);
                }
            }
        }
        if let Some(run) = runs.iter().find(|run| self.wall_clock && run.report.started == SystemTime::UNIX_EPOCH) {
            return Err(Error::failure(format!("{} has no time of day, which --wall-clock needs", run.title)));
        }
        if !runs.is_empty() {
            self.write(&self.draw(&runs, form))?;
        }
        Ok(failure.unwrap_or(SUCCESS))
    }

    /// What is to be drawn, by the flags or by the end of the name of the file.
    fn form(&self) -> Result<Form, Error> {
        let Some(path) = &self.output else {
            return Ok(match (self.svg, self.html) {
                (true, _) => Form::Svg,
                (_, true) => Form::Html,
                _ => Form::Text,
            });
        };
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match &*extension {
            "svg" => Ok(Form::Svg),
            "html" | "htm" => Ok(Form::Html),
            "txt" => Ok(Form::Text),
            _ => {
                Err(Error::usage(format!("a picture is .svg, .html or .txt, and {} is none of these", path.display())))
            }
        }
    }

    /// Checks what can be wrong before anything is read.
    fn check(&self, form: Form) -> Result<(), Error> {
        if self.animate && form != Form::Svg {
            return Err(Error::usage("--animate is about SVG, which is not asked for"));
        }
        if self.compact && form == Form::Html {
            return Err(Error::usage("--compact is not about a page, whose lanes have labels"));
        }
        let is_stdin = |path: &&PathBuf| path.as_os_str() == "-";
        if self.files.iter().filter(is_stdin).count() > 1 {
            return Err(Error::usage("stdin (-) can be read only once"));
        }
        let Some(output) = &self.output else { return Ok(()) };
        if let Some(file) = self.files.iter().find(|file| is_same_file(file, output)) {
            return Err(Error::usage(format!("{} is read, and would be written over", file.display())));
        }
        check_file(Some(output))
    }

    fn draw(&self, runs: &[Run], form: Form) -> String {
        let chart = if self.wall_clock { Chart::by_the_clock(runs) } else { Chart::of_runs(runs) };
        let chart = if self.compact { chart.compacted() } else { chart };
        match form {
            Form::Svg if self.animate => svg::draw_moving(&chart),
            Form::Svg => svg::draw(&chart),
            Form::Html => page::draw(&chart, runs),
            Form::Text if self.output.is_none() => text::draw(&chart, terminal::canvas_on_stdout()),
            Form::Text => text::draw(&chart, text::Canvas { width: 80, colour: false, ..terminal::canvas_on_stdout() }),
        }
    }

    fn write(&self, picture: &str) -> Result<(), Error> {
        let Some(path) = &self.output else { return stdout::write_all(picture.as_bytes()) };
        let place = |path: &Path| path.display().to_string();
        whole_file::write(path, picture.as_bytes())
            .map_err(|error| Error::failure(format!("cannot write {}: {}", place(path), reason(&error))))
    }
}

/// These runs, if they are not too many with those that there are.
fn if_few(so_far: usize, found: Vec<Run>) -> Result<Vec<Run>, Error> {
    match so_far + found.len() {
        0..=MOST_RUNS => Ok(found),
        all => Err(Error::failure(format!("{all} runs are more than a picture can have, which is {MOST_RUNS}"))),
    }
}

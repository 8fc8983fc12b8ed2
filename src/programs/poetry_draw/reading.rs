//! Files to be drawn: which kind each is, and what is in it.
//!
//! They may come from anybody. What is read is made safe to be drawn: no times beyond a century, no names that steer a
//! terminal or are pages long, and counts that agree with what is counted.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::recorded;
use crate::cli::{Error, printable};
use crate::pace::recording;
use crate::report::waterfall::{Run, Subject};
use crate::report::{Report, Status, TaskReport};
use crate::units::Micros;

/// The most bytes of all files together.
const MOST_BYTES: u64 = 64 << 20;
/// The longest time of a run.
const CENTURY: Micros = 100 * 366 * 86_400 * 1_000_000;
/// The most characters of a path in a title.
const LONGEST_PATH: usize = 30;
/// The most characters of a name.
const LONGEST_NAME: usize = 200;

/// Reads files, as many as there is memory for.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: u64,
}

/// As much of a JSON value as tells what it is.
#[derive(Debug, Deserialize)]
struct Probe {
    tasks: Option<IgnoredAny>,
    schema: Option<u32>,
    connection: Option<IgnoredAny>,
    report: Option<IgnoredAny>,
    models: Option<IgnoredAny>,
}

/// A report with more around it, as an anthology has it.
#[derive(Deserialize)]
struct Wrapped {
    report: Report,
}

impl Reader {
    /// The runs in a file, or in stdin. Their titles have its name, if it is one of `several`.
    ///
    /// # Errors
    /// It cannot be read, is too long, or is neither a report nor a recording.
    pub(super) fn read(&mut self, path: &Path, several: bool) -> Result<Vec<Run>, Error> {
        let place = if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
        let text = self.text(path, &place)?;
        let runs = runs(&text).map_err(|why| Error::failure(format!("{place}: {why}")))?;
        let titled = |run: Run| match several {
            true => Run { title: format!("{} ({})", run.title, ending(&shown(&place))), ..run },
            false => run,
        };
        Ok(runs.into_iter().map(titled).collect())
    }

    fn text(&mut self, path: &Path, place: &str) -> Result<String, Error> {
        let left = MOST_BYTES - self.bytes;
        let (mut bytes, limit) = (Vec::new(), left + 1);
        let read = match path.as_os_str() == "-" {
            true => io::stdin().take(limit).read_to_end(&mut bytes),
            false => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
        };
        read.map_err(|error| Error::cannot("read", place, &error))?;
        if bytes.len() as u64 > left {
            let more = if left < MOST_BYTES { " with the files before it" } else { "" };
            return Err(Error::failure(format!("{place}{more} is longer than {} MiB", MOST_BYTES >> 20)));
        }
        self.bytes += bytes.len() as u64;
        String::from_utf8(bytes).map_err(|_| Error::failure(format!("{place}: {NEITHER}")))
    }
}

const OF_A_RACE: &str =
    "the result of a race: what can be drawn are its single runs, which poetry-race --report DIR writes";
const BROKEN: &str = "it breaks off before its end";
const NEITHER: &str = "neither a report of a client nor a recording of a server";

fn runs(text: &str) -> Result<Vec<Run>, String> {
    let probe = serde_json::Deserializer::from_str(text).into_iter::<Probe>().next();
    match probe {
        Some(Ok(Probe { connection: Some(_), .. })) => {
            let histories = recording::histories(text).map_err(|error| format!("line {}: {error}", error.line))?;
            let report = safe(recorded::report(&histories))?;
            Ok(vec![Run { title: recorded::TITLE.to_owned(), subject: Subject::Connection, report }])
        }
        Some(Ok(Probe { tasks: Some(_), schema: Some(schema), .. })) => match schema {
            1..=Report::SCHEMA => reports(text, |report: Report| report),
            newer => Err(format!("a report of schema {newer}; this program knows those up to {}", Report::SCHEMA)),
        },
        Some(Ok(Probe { report: Some(_), .. })) => reports(text, |wrapped: Wrapped| wrapped.report),
        Some(Ok(Probe { models: Some(_), .. })) => Err(OF_A_RACE.to_owned()),
        Some(Err(error)) if error.is_eof() => Err(BROKEN.to_owned()),
        _ => Err(NEITHER.to_owned()),
    }
}

/// The reports in a text, one after another.
fn reports<'a, T: Deserialize<'a>>(text: &'a str, report: impl Fn(T) -> Report) -> Result<Vec<Run>, String> {
    let run = |read: Result<T, serde_json::Error>| {
        let report = safe(report(read.map_err(|error| format!("no report: {error}"))?))?;
        Ok(Run { title: report.model.to_string(), subject: Subject::Poem, report })
    };
    serde_json::Deserializer::from_str(text).into_iter().map(run).collect()
}

/// A report that can be drawn, whoever has written it.
fn safe(mut report: Report) -> Result<Report, String> {
    if report.tasks.is_empty() {
        return Err("there is nothing in it".to_owned());
    }
    report.model = Cow::Owned(shown(&report.model));
    for task in &mut report.tasks {
        make_safe(task);
        // A run is over when its last poem is.
        report.elapsed_us = report.elapsed_us.max(task.end_us.unwrap_or(0));
    }
    if report.elapsed_us > CENTURY {
        return Err(format!("a run of {} microseconds is longer than a century", report.elapsed_us));
    }
    report.ok = report.tasks.iter().filter(|task| task.status == Status::Ok).count();
    report.failed = report.tasks.len() - report.ok;
    Ok(report)
}

fn make_safe(task: &mut TaskReport) {
    task.address = shown(&task.address);
    for text in [&mut task.name, &mut task.error] {
        *text = text.take().map(|text| shown(&text));
    }
    if let Some(transform) = &mut task.transform {
        (transform.name, transform.address) = (shown(&transform.name), shown(&transform.address));
        transform.error = transform.error.take().map(|text| shown(&text));
    }
    task.earlier.each(|attempt| attempt.error = attempt.error.take().map(|text| shown(&text)));
}

/// A text that is one short line, and steers no terminal.
fn shown(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// The end of a path, which says more than the beginning.
fn ending(path: &str) -> String {
    let length = path.chars().count();
    match length.checked_sub(LONGEST_PATH) {
        None | Some(0) => path.to_owned(),
        Some(over) => format!("…{}", path.chars().skip(over + 1).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::{report, retried, task};

    fn why(text: &str) -> String {
        runs(text).expect_err("nothing to draw")
    }

    #[test]
    fn files_are_told_apart_by_what_is_in_them() {
        let new = report("async", vec![task(1, 0, 900)]);
        let old = Report { schema: 1, ..new.clone() };
        let read = runs(&(new.to_json() + &old.to_json())).expect("two reports");
        let read: Vec<String> = read.iter().map(|run| run.report.to_json()).collect();
        assert_eq!(read, [new.to_json(), old.to_json()]);
        let wrapped = format!("{{\"state\":[],\"report\":{}}}", report("async", vec![task(1, 0, 900)]).to_json());
        assert_eq!(runs(&wrapped).expect("a report").len(), 1);
        let recording = "\n{\"connection\":1,\"at_us\":0,\"event\":\"accept\"}\n";
        assert_eq!(runs(recording).expect("a recording")[0].subject, Subject::Connection);
        for other in ["", "poem", "{}", "[1]", "3", "{\"tasks\":[]}", "{\"schema\":2}", "\0\0", "<svg/>"] {
            assert_eq!(why(other), NEITHER, "{other}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_report_or_a_recording_is_said() {
        let good = report("async", vec![task(1, 0, 900)]).to_json();
        let newer = good.replace("\"schema\":2", "\"schema\":9");
        assert_eq!(why(&newer), "a report of schema 9; this program knows those up to 2");
        assert!(why(&(good.clone() + "{\"schema\":2,")).starts_with("no report: "));
        assert_eq!(why(&good[..good.len() / 2]), BROKEN);
        assert!(
            why(&good.replace("\"ok\"", "\"fine\"")).starts_with("no report: "),
            "{}",
            good.replace("\"ok\"", "\"fine\"")
        );
        assert_eq!(
            why(&good.replace("\"end_us\":900", "\"end_us\":18446744073709551615")),
            "a run of 18446744073709551615 microseconds is longer than a century"
        );
        let empty = report("async", Vec::new()).to_json();
        assert_eq!(why(&empty), "there is nothing in it");
        assert_eq!(why("{\"schema\":3,\"models\":[]}"), OF_A_RACE);
        assert_eq!(
            why("{\"connection\":1,\"at_us\":0,\"event\":\"send\",\"bytes\":1}"),
            "line 1: connection 1 is not accepted yet"
        );
    }

    #[test]
    fn names_that_steer_or_are_pages_long_do_neither_in_a_picture() {
        let mut poem = retried(1, 2, 100);
        poem.name = Some("\x1b[2Jred\nline\u{202e}".to_owned());
        poem.address = "x".repeat(1_000_000);
        let [run] = &runs(&report("async", vec![poem]).to_json()).expect("a report")[..] else { panic!("one") };
        let task = &run.report.tasks[0];
        assert_eq!(task.name.as_deref(), Some(r"\x1b[2Jred\nline\u{202e}"));
        assert_eq!(task.address.chars().count(), LONGEST_NAME + 1);
    }

    #[test]
    fn of_a_long_path_the_end_is_shown() {
        assert_eq!(ending("runs/async.json"), "runs/async.json");
        assert_eq!(
            ending(&format!("/{}/1/async.json", "x".repeat(40))),
            format!("…{}/1/async.json", "x".repeat(LONGEST_PATH - 14))
        );
        assert_eq!(ending(&"é".repeat(31)).chars().count(), LONGEST_PATH);
    }

    #[test]
    fn counts_are_those_of_what_is_there() {
        let good = report("async", vec![task(1, 0, 900), TaskReport { status: Status::Reset, ..task(2, 0, 900) }]);
        let forged = Report { ok: 7, failed: 0, elapsed_us: 1, ..good.clone() };
        assert_eq!(runs(&forged.to_json()).expect("a report")[0].report.to_json(), good.to_json());
    }
}

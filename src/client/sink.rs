//! The sink of a run, where its poems go: to a stream, whole and unmixed; into files; nowhere.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::Failure;
use super::files::Files;
use super::naming::Template;
use super::ordered::{Order, OrderedWriter, State};
use super::scribe::{Scribe, Word};
use super::source::Source;
use crate::sync::lock;
use crate::whole_file::WholeFile;

/// The sink of all poems of a run, which takes their bytes as they arrive, from any thread.
///
/// A fetch calls `open` for each attempt, `write` for each read and at last either `finish` or `abandon`; `void` takes
/// an attempt back. Poems are numbered from 0 here.
#[derive(Debug)]
pub struct Sink(Kind);

enum Kind {
    Nowhere,
    /// Written where they are fetched, or by a scribe, if a model has asked for one.
    Files(Arc<Files>, OnceLock<Scribe>),
    Stream(Mutex<OrderedWriter>, Clock),
}

/// The time since some moment. It may be a virtual one.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// The end of a poem, as far as the sink is concerned.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// How long the stream or the disk took to take what was left.
    pub(crate) took: Duration,
    /// Poems that could not be delivered, by number: this one, or others that waited for it.
    pub(crate) lost: Vec<(usize, Failure)>,
}

impl Delivery {
    fn of(clock: &Clock, deliver: impl FnOnce() -> Vec<(usize, Failure)>) -> Self {
        let begun = clock();
        let lost = deliver();
        Self { took: clock().saturating_sub(begun), lost }
    }

    /// There was nothing to do.
    fn nothing() -> Self {
        Self { took: Duration::ZERO, lost: Vec::new() }
    }
}

impl Sink {
    /// A sink that drops every byte.
    pub fn discard() -> Self {
        Self(Kind::Nowhere)
    }

    /// A sink that writes each poem into a file of its own, which is there only when it is whole. The directory is made if
    /// there is none. A poem over HTTP is called as the last segment of its URL, or as the template says, another one
    /// `NUMBER-HOST-PORT.txt`; where two would have the same name, their number stands before it.
    pub fn files(directory: &Path, sources: &[Source], template: Option<&Template>) -> Self {
        Self(Kind::Files(Arc::new(Files::new(directory, sources, template)), OnceLock::new()))
    }

    /// Checks, before anything is fetched, that files could be made in this directory, or the directory itself in the one
    /// above it. Leaves no trace.
    ///
    /// # Errors
    /// They could not.
    pub fn check_directory(directory: &Path) -> io::Result<()> {
        let is_there = |path: &&Path| path.as_os_str().is_empty() || path.exists();
        let there = directory.ancestors().find(is_there).unwrap_or(directory);
        WholeFile::create(&there.join("poem")).map(drop)
    }

    /// A sink that writes `tasks` poems to one stream. Poems that must wait are kept in
    /// memory, or in a temporary file if they are long.
    pub fn stream(writer: Box<dyn Write + Send>, order: Order, tasks: usize) -> Self {
        Self::timed_stream(writer, order, tasks, real_clock())
    }

    /// The same for a stream that takes its time on this clock.
    pub(crate) fn timed_stream(writer: Box<dyn Write + Send>, order: Order, tasks: usize, clock: Clock) -> Self {
        Self(Kind::Stream(Mutex::new(OrderedWriter::new(writer, order, tasks)), clock))
    }

    /// The most bytes that have waited for their turn on a stream at one time.
    pub(crate) fn most_held(&self) -> u64 {
        if let Kind::Stream(ordered, _) = &self.0 { lock(ordered).most_held() } else { 0 }
    }

    /// Has files written by a scribe, who calls `tell` when there is something to be looked at. Without files there is
    /// nothing to do for one; and if the system gives no thread, they are written where they are fetched.
    /// Returns whether there is one.
    pub(super) fn with_scribe(&self, poems: usize, tell: impl Fn(Word) + Send + 'static) -> bool {
        if let Kind::Files(files, scribe) = &self.0
            && let Ok(started) = Scribe::start(Arc::clone(files), poems, tell)
        {
            return scribe.set(started).is_ok();
        }
        false
    }

    /// The files, for a test that plays their disk.
    #[cfg(test)]
    pub(super) fn files_of(&self) -> Option<&Arc<Files>> {
        if let Kind::Files(files, _) = &self.0 { Some(files) } else { None }
    }

    /// The scribe, if there is one.
    fn scribe(&self) -> Option<&Scribe> {
        match &self.0 {
            Kind::Files(_, scribe) => scribe.get(),
            Kind::Nowhere | Kind::Stream(..) => None,
        }
    }

    /// Whether more bytes of a poem may come. If not, the scribe will tell when there is room.
    pub(super) fn has_room(&self, task: usize) -> bool {
        self.scribe().is_none_or(|scribe| scribe.has_room(task))
    }

    /// Lets the scribe go, when every poem is settled.
    pub(super) fn dismiss_scribe(&self) {
        if let Some(scribe) = self.scribe() {
            scribe.dismiss();
        }
    }

    /// Begins an attempt.
    ///
    /// # Errors
    /// The temporary file cannot be made.
    pub(crate) fn open(&self, task: usize) -> Result<(), Failure> {
        match &self.0 {
            Kind::Files(files, scribe) if scribe.get().is_none() => files.open(task),
            _ => Ok(()),
        }
    }

    /// Takes the next bytes of a poem.
    ///
    /// # Errors
    /// They cannot be written, now or when their turn comes.
    pub(crate) fn write(&self, task: usize, bytes: &[u8]) -> Result<(), Failure> {
        match &self.0 {
            Kind::Nowhere => Ok(()),
            Kind::Files(files, scribe) => match scribe.get() {
                Some(scribe) => scribe.write(task, bytes),
                None => files.write(task, bytes),
            },
            Kind::Stream(ordered, _) => lock(ordered).write(task, bytes),
        }
    }

    /// Takes a part of a buffer as the first bytes of a poem, and the buffer with it: it may be large.
    ///
    /// # Errors
    /// As with `write`.
    pub(super) fn write_all(&self, task: usize, buffer: Vec<u8>, range: Range<usize>) -> Result<(), Failure> {
        match self.scribe() {
            Some(scribe) => scribe.write_part(task, buffer, range),
            None => self.write(task, &buffer[range]),
        }
    }

    /// Takes what stands beside a poem, which may tell the name of its file.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn learn_name(&self, task: usize, json: &[u8]) -> Result<(), Failure> {
        match &self.0 {
            Kind::Files(files, _) => files.learn_name(task, json),
            Kind::Nowhere | Kind::Stream(..) => Ok(()),
        }
    }

    /// Ends a whole poem: bytes that have not been written yet are written now, if it is the poem's turn. `None`: the
    /// scribe does it, and [`delivery`](Self::delivery) will have the end.
    #[must_use]
    pub(crate) fn finish(&self, task: usize) -> Option<Delivery> {
        let lost = |result: Result<(), Failure>| result.err().map(|failure| (task, failure)).into_iter().collect();
        match &self.0 {
            Kind::Nowhere => Some(Delivery::nothing()),
            Kind::Files(files, scribe) => match scribe.get() {
                Some(scribe) => {
                    scribe.finish(task);
                    None
                }
                None => Some(Delivery::of(&real_clock(), || lost(files.finish(task)))),
            },
            Kind::Stream(ordered, clock) => Some(Delivery::of(clock, || lock(ordered).settle(task, State::Whole))),
        }
    }

    /// The end of a poem that the scribe has been told to finish, if it has come.
    pub(super) fn delivery(&self, task: usize) -> Option<Delivery> {
        let (took, result) = self.scribe()?.settled(task)?;
        Some(Delivery { took, lost: result.err().map(|failure| (task, failure)).into_iter().collect() })
    }

    /// Drops the bytes of this attempt.
    pub(crate) fn void(&self, task: usize) {
        match &self.0 {
            Kind::Nowhere => {}
            Kind::Files(files, scribe) => match scribe.get() {
                Some(scribe) => scribe.void(task),
                None => files.void(task),
            },
            Kind::Stream(ordered, _) => lock(ordered).void(task),
        }
    }

    /// Ends a poem that will never be whole. Others that waited for it are written now.
    #[must_use]
    pub(crate) fn abandon(&self, task: usize) -> Delivery {
        self.void(task);
        match &self.0 {
            Kind::Nowhere | Kind::Files(..) => Delivery::nothing(),
            Kind::Stream(ordered, clock) => Delivery::of(clock, || lock(ordered).settle(task, State::Lost)),
        }
    }

    /// Writes whole poems that only wait for their turn, for a run that ends before all are settled.
    #[must_use]
    pub(crate) fn end(&self) -> Vec<(usize, Failure)> {
        match &self.0 {
            Kind::Nowhere | Kind::Files(..) => Vec::new(),
            Kind::Stream(ordered, _) => lock(ordered).end(),
        }
    }

    /// Removes temporary files, for a process that ends in the middle of a run. Nobody may create a file after this: a
    /// fetch that goes on on another thread, or the scribe, would leave it behind.
    pub fn clean_up(&self) {
        if let Kind::Files(files, _) = &self.0 {
            files.clean_up();
        }
    }
}

/// The time since now.
fn real_clock() -> Clock {
    let start = Instant::now();
    Box::new(move || start.elapsed())
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nowhere => "Nowhere",
            Self::Files(..) => "Files",
            Self::Stream(..) => "Stream",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let directory = parent.path().join("new/poems");
        let addresses = ["10000", "[::1]:80"].map(|text| text.parse().expect("valid"));
        let sink = Sink::files(&directory, &addresses, None);
        let names = || {
            let mut names: Vec<String> = std::fs::read_dir(&directory)
                .expect("directory")
                .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
                .collect();
            names.sort();
            names
        };
        sink.open(0).expect("made");
        sink.open(1).expect("made");
        sink.write(0, b"first attempt").expect("written");
        sink.void(0);
        sink.open(0).expect("made");
        sink.write(0, b"whole").expect("written");
        sink.write(1, b"half").expect("written");
        assert!(names().iter().all(|name| name.starts_with('.')), "{:?}", names());
        assert!(sink.finish(0).expect("at once").lost.is_empty());
        sink.clean_up();
        assert_eq!(names(), ["1-127.0.0.1-10000.txt"]);
        let poem = std::fs::read_to_string(directory.join("1-127.0.0.1-10000.txt"));
        assert_eq!(poem.expect("readable"), "whole");
    }

    /// A stream that takes no byte within a millisecond.
    struct Slow;

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(1) {}
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_time_that_a_stream_takes_is_told() {
        let sink = Sink::stream(Box::new(Slow), Order::Request { retries: false, by_line: false }, 2);
        sink.write(1, b"waits for its turn").expect("held");
        assert!(sink.finish(1).expect("at once").lost.is_empty());
        assert!(sink.abandon(0).took >= Duration::from_millis(1));
        let sink = Sink::stream(Box::new(Slow), Order::Completion, 1);
        sink.write(0, b"at its end").expect("held");
        assert!(sink.finish(0).expect("at once").took >= Duration::from_millis(1));
        assert_eq!(Sink::discard().finish(0).expect("at once").took, Duration::ZERO);
    }
}

//! The sink of a run, where its poems go: to a stream, whole and unmixed; into files; nowhere.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Failure;
use super::ordered::{Order, OrderedWriter, State};
use crate::address::Address;
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
    Files { directory: PathBuf, names: Vec<String>, open: Vec<Mutex<Option<WholeFile>>> },
    Stream(Mutex<OrderedWriter>),
}

/// The end of a poem, as far as the sink is concerned.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// How long the stream or the disk took to take what was left.
    pub(crate) took: Duration,
    /// Poems that could not be delivered, by number: this one, or others that waited for it.
    pub(crate) lost: Vec<(usize, Failure)>,
}

impl Delivery {
    fn of(deliver: impl FnOnce() -> Vec<(usize, Failure)>) -> Self {
        let begun = Instant::now();
        let lost = deliver();
        Self { took: begun.elapsed(), lost }
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

    /// A sink that writes each poem into a file of its own, `NUMBER-HOST-PORT.txt`, which is there only when it is
    /// whole. The directory is made if there is none.
    pub fn files(directory: &Path, addresses: &[Address]) -> Self {
        let width = addresses.len().to_string().len();
        let name = |(index, address): (usize, &Address)| {
            let host = address.host().replace([':', '%', '/'], "_");
            format!("{:0width$}-{host}-{}.txt", index + 1, address.port())
        };
        Self(Kind::Files {
            directory: directory.to_owned(),
            names: addresses.iter().enumerate().map(name).collect(),
            open: addresses.iter().map(|_| Mutex::new(None)).collect(),
        })
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
        Self(Kind::Stream(Mutex::new(OrderedWriter::new(writer, order, tasks))))
    }

    /// Begins an attempt.
    ///
    /// # Errors
    /// The temporary file cannot be made.
    pub(crate) fn open(&self, task: usize) -> Result<(), Failure> {
        if let Kind::Files { directory, names, open } = &self.0 {
            let mut slot = lock(&open[task]);
            let path = directory.join(&names[task]);
            let made = match WholeFile::create(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(directory).and_then(|()| WholeFile::create(&path))
                }
                made => made,
            };
            let file = made.map_err(|error| undelivered(&directory.display(), error))?;
            *slot = Some(file);
        }
        Ok(())
    }

    /// Takes the next bytes of a poem.
    ///
    /// # Errors
    /// They cannot be written, now or when their turn comes.
    pub(crate) fn write(&self, task: usize, bytes: &[u8]) -> Result<(), Failure> {
        match &self.0 {
            Kind::Nowhere => Ok(()),
            Kind::Files { directory, names, open } => match lock(&open[task]).as_mut() {
                Some(file) => {
                    let place = || directory.join(&names[task]);
                    file.as_file().write_all(bytes).map_err(|error| undelivered(&place().display(), error))
                }
                None => Err(Failure::Bug),
            },
            Kind::Stream(ordered) => lock(ordered).write(task, bytes),
        }
    }

    /// Ends a whole poem: bytes that have not been written yet are written now, if it is the poem's turn.
    #[must_use]
    pub(crate) fn finish(&self, task: usize) -> Delivery {
        match &self.0 {
            Kind::Nowhere => Delivery::nothing(),
            Kind::Files { directory, names, open } => Delivery::of(|| {
                let path = directory.join(&names[task]);
                let place = path.display();
                match lock(&open[task]).take().map(|file| file.persist(&path)) {
                    Some(Ok(())) => Vec::new(),
                    Some(Err(error)) => vec![(task, undelivered(&place, error))],
                    None => vec![(task, Failure::Bug)],
                }
            }),
            Kind::Stream(ordered) => Delivery::of(|| lock(ordered).settle(task, State::Whole)),
        }
    }

    /// Drops the bytes of this attempt.
    pub(crate) fn void(&self, task: usize) {
        match &self.0 {
            Kind::Nowhere => {}
            Kind::Files { open, .. } => *lock(&open[task]) = None,
            Kind::Stream(ordered) => lock(ordered).void(task),
        }
    }

    /// Ends a poem that will never be whole. Others that waited for it are written now.
    #[must_use]
    pub(crate) fn abandon(&self, task: usize) -> Delivery {
        self.void(task);
        match &self.0 {
            Kind::Nowhere | Kind::Files { .. } => Delivery::nothing(),
            Kind::Stream(ordered) => Delivery::of(|| lock(ordered).settle(task, State::Lost)),
        }
    }

    /// Writes whole poems that only wait for their turn, for a run that ends before all are settled.
    #[must_use]
    pub(crate) fn end(&self) -> Vec<(usize, Failure)> {
        match &self.0 {
            Kind::Nowhere | Kind::Files { .. } => Vec::new(),
            Kind::Stream(ordered) => lock(ordered).end(),
        }
    }

    /// Removes temporary files, for a process that ends in the middle of a run.
    ///
    /// Nobody may create a file after this: a fetch that goes on on another thread would leave it behind. Each file's
    /// lock is therefore never released (its guard is leaked), and a fetch that wants it waits for the process to end.
    pub fn clean_up(&self) {
        if let Kind::Files { open, .. } = &self.0 {
            for file in open {
                let mut file = lock(file);
                *file = None;
                mem::forget(file);
            }
        }
    }
}

fn undelivered(place: &dyn Display, error: io::Error) -> Failure {
    Failure::Deliver { place: place.to_string(), error }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nowhere => "Nowhere",
            Self::Files { .. } => "Files",
            Self::Stream(_) => "Stream",
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
        let sink = Sink::files(&directory, &addresses);
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
        assert!(sink.finish(0).lost.is_empty());
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
        assert!(sink.finish(1).lost.is_empty());
        assert!(sink.abandon(0).took >= Duration::from_millis(1));
        let sink = Sink::stream(Box::new(Slow), Order::Completion, 1);
        sink.write(0, b"at its end").expect("held");
        assert!(sink.finish(0).took >= Duration::from_millis(1));
        assert_eq!(Sink::discard().finish(0).took, Duration::ZERO);
    }
}

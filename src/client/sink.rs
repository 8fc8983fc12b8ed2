//! Where poems go: to a stream, whole and unmixed; into files; nowhere.

use std::fmt::{self, Display};
use std::fs::Permissions;
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::NamedTempFile;

use super::Failure;
use super::ordered::{Order, OrderedWriter, State};
use crate::address::Address;
use crate::sync::lock;

/// Takes the bytes of all poems of a run as they arrive, from any thread.
///
/// A task calls `open` for each attempt, `write` for each read and at last either
/// `finish` or `abandon`; `void` takes an attempt back.
/// Tasks are numbered from 0 here.
#[derive(Debug)]
pub struct Sink(Kind);

enum Kind {
    Nowhere,
    Files { directory: PathBuf, names: Vec<String>, open: Vec<Mutex<Option<NamedTempFile>>> },
    Stream(Mutex<OrderedWriter>),
}

/// A poem that could not be delivered: which, and why.
pub type Undelivered = (usize, Failure);

impl Sink {
    /// Drops every byte.
    pub fn discard() -> Self {
        Self(Kind::Nowhere)
    }

    /// Writes each poem into a file of its own, `NUMBER-HOST-PORT.txt`, which appears under this name only when
    /// it is whole. Makes the directory if there is none.
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

    /// Writes `tasks` poems to one stream. Poems that must wait are kept in memory.
    pub fn stream(writer: Box<dyn Write + Send>, order: Order, tasks: usize) -> Self {
        Self(Kind::Stream(Mutex::new(OrderedWriter::new(writer, order, tasks))))
    }

    /// An attempt begins.
    ///
    /// # Errors
    /// The temporary file cannot be made.
    pub(crate) fn open(&self, task: usize) -> Result<(), Failure> {
        if let Kind::Files { directory, names, open } = &self.0 {
            let mut slot = lock(&open[task]);
            let made = match temporary(directory, &names[task]) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(directory).and_then(|()| temporary(directory, &names[task]))
                }
                made => made,
            };
            let file = made.map_err(|error| undelivered(&directory.display(), error))?;
            *slot = Some(file);
        }
        Ok(())
    }

    /// The next bytes of a poem.
    ///
    /// # Errors
    /// They cannot be written, now or when their turn comes.
    pub(crate) fn write(&self, task: usize, bytes: &[u8]) -> Result<(), Failure> {
        match &self.0 {
            Kind::Nowhere => Ok(()),
            Kind::Files { directory, names, open } => match lock(&open[task]).as_mut() {
                Some(file) => {
                    let place = || directory.join(&names[task]);
                    file.as_file_mut().write_all(bytes).map_err(|error| undelivered(&place().display(), error))
                }
                None => Err(Failure::Bug),
            },
            Kind::Stream(ordered) => lock(ordered).write(task, bytes).map_err(stdout),
        }
    }

    /// The poem is whole. Returns those that could not be delivered: this one, or others that waited for it.
    #[must_use]
    pub(crate) fn finish(&self, task: usize) -> Vec<Undelivered> {
        match &self.0 {
            Kind::Nowhere => Vec::new(),
            Kind::Files { directory, names, open } => {
                let path = directory.join(&names[task]);
                let place = path.display();
                match lock(&open[task]).take().map(|file| file.persist(&path)) {
                    Some(Ok(_)) => Vec::new(),
                    Some(Err(error)) => vec![(task, undelivered(&place, error.error))],
                    None => vec![(task, Failure::Bug)],
                }
            }
            Kind::Stream(ordered) => on_stdout(lock(ordered).settle(task, State::Whole)),
        }
    }

    /// What arrived of this attempt is void.
    pub(crate) fn void(&self, task: usize) {
        match &self.0 {
            Kind::Nowhere => {}
            Kind::Files { open, .. } => *lock(&open[task]) = None,
            Kind::Stream(ordered) => lock(ordered).void(task),
        }
    }

    /// The poem will never be whole. Returns others that waited for it and could not be delivered.
    #[must_use]
    pub(crate) fn abandon(&self, task: usize) -> Vec<Undelivered> {
        self.void(task);
        match &self.0 {
            Kind::Nowhere | Kind::Files { .. } => Vec::new(),
            Kind::Stream(ordered) => on_stdout(lock(ordered).settle(task, State::Lost)),
        }
    }

    /// Removes what is half done. For the end of a process in the middle of a run: tasks that still want to write
    /// a file wait from now on for ever.
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

fn temporary(directory: &Path, name: &str) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .permissions(Permissions::from_mode(0o666)) // less the umask, like any file a shell makes
        .tempfile_in(directory)
        .map_err(|error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => error,
        })
}

fn undelivered(place: &dyn Display, error: io::Error) -> Failure {
    Failure::Deliver { place: place.to_string(), error }
}

fn stdout(error: io::Error) -> Failure {
    undelivered(&"stdout", error)
}

fn on_stdout(lost: Vec<(usize, io::Error)>) -> Vec<Undelivered> {
    lost.into_iter().map(|(task, error)| (task, stdout(error))).collect()
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
        assert!(names().iter().all(|name| name.starts_with('.')));
        assert!(sink.finish(0).is_empty());
        sink.clean_up();
        assert_eq!(names(), ["1-127.0.0.1-10000.txt"]);
        let poem = std::fs::read_to_string(directory.join("1-127.0.0.1-10000.txt"));
        assert_eq!(poem.expect("readable"), "whole");
    }
}

//! The files of a run: one for each poem, there only when it is whole, written by whoever calls.

use std::io;
use std::io::Write;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::Failure;
use super::naming::{Names, Template};
use super::source::Source;
use crate::sync::lock;
use crate::whole_file::WholeFile;

/// The files of a run, by the number of their poem, from 0.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    names: Mutex<Names>,
    open: Vec<Mutex<Option<WholeFile>>>,
}

impl Files {
    pub(super) fn new(directory: &Path, sources: &[Source], template: Option<&Template>) -> Self {
        Self {
            directory: directory.to_owned(),
            names: Mutex::new(Names::new(sources, template)),
            open: sources.iter().map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Begins an attempt. The directory is made if there is none.
    ///
    /// # Errors
    /// The temporary file cannot be made.
    pub(super) fn open(&self, task: usize) -> Result<(), Failure> {
        let mut slot = lock(&self.open[task]);
        // Any name will do: the file has none yet.
        let path = self.directory.join("poem");
        let made = match WholeFile::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.directory).and_then(|()| WholeFile::create(&path))
            }
            made => made,
        };
        *slot = Some(made.map_err(|error| undelivered(&self.directory, error))?);
        Ok(())
    }

    /// Writes the next bytes of a poem.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn write(&self, task: usize, bytes: &[u8]) -> Result<(), Failure> {
        match lock(&self.open[task]).as_mut() {
            Some(file) => file.as_file().write_all(bytes).map_err(|error| undelivered(&self.place(task), error)),
            None => Err(Failure::Bug),
        }
    }

    /// Finds the name of a poem's file with the JSON that stands beside the poem.
    ///
    /// # Errors
    /// It tells none, or one that another poem has.
    pub(super) fn learn_name(&self, task: usize, json: &[u8]) -> Result<(), Failure> {
        lock(&self.names).learn(task, json)
    }

    /// Ends a whole poem: its file gets its name.
    ///
    /// # Errors
    /// It cannot have it.
    pub(super) fn finish(&self, task: usize) -> Result<(), Failure> {
        let file = lock(&self.open[task]).take();
        let path = lock(&self.names).of(task).map(|name| self.directory.join(name));
        let Some((file, path)) = file.zip(path) else { return Err(Failure::Bug) };
        file.persist(&path).map_err(|error| undelivered(&path, error))
    }

    /// Drops the bytes of an attempt.
    pub(super) fn void(&self, task: usize) {
        *lock(&self.open[task]) = None;
    }

    /// Removes what is not whole, and has nobody make more: each file's lock is never released (its guard is leaked), and
    /// a fetch that wants it waits for the process to end.
    pub(super) fn clean_up(&self) {
        for file in &self.open {
            let mut file = lock(file);
            *file = None;
            mem::forget(file);
        }
    }

    /// Holds up whoever wants to do something to the file of a poem, as a disk that does not answer.
    #[cfg(test)]
    pub(super) fn hold(&self, task: usize) -> std::sync::MutexGuard<'_, Option<WholeFile>> {
        lock(&self.open[task])
    }

    /// Where the file of a poem will be, or at least in which directory.
    fn place(&self, task: usize) -> PathBuf {
        match lock(&self.names).of(task) {
            Some(name) => self.directory.join(name),
            None => self.directory.clone(),
        }
    }
}

pub(super) fn undelivered(place: &Path, error: io::Error) -> Failure {
    Failure::Deliver { place: place.display().to_string(), error }
}

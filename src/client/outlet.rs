//! Where poems go: to a stream, whole and unmixed; into files; nowhere.

use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Display};
use std::fs::Permissions;
use std::hash::Hasher;
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::NamedTempFile;

use super::Failure;
use crate::address::Address;
use crate::reason::lock;

/// Takes the bytes of all poems of a run as they arrive, from any thread.
///
/// A task calls `open` for each attempt, `write` for each read and at last either
/// `finish` or `abandon`; `void` takes an attempt back.
/// Tasks are numbered from 0 here.
#[derive(Debug)]
pub struct Outlet(Kind);

enum Kind {
    Nowhere,
    Files { directory: PathBuf, names: Vec<String>, open: Vec<Mutex<Option<NamedTempFile>>> },
    Stream(Mutex<Shelf>),
}

/// A poem that could not be delivered: which, and why.
pub type Undelivered = (usize, Failure);

/// In which order complete poems are written to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are completed.
    Completion,
    /// As they were asked for. The first one that is not complete is written live, as its bytes arrive.
    /// `retries` says whether an attempt may be followed by another.
    Request {
        /// Costs a checksum of what was written live.
        retries: bool,
    },
}

impl Outlet {
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
        Self(Kind::Stream(Mutex::new(Shelf {
            writer,
            live: matches!(order, Order::Request { .. }).then_some(0),
            checked: order == Order::Request { retries: true },
            slots: (0..tasks).map(|_| Slot::default()).collect(),
        })))
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
            Kind::Stream(shelf) => lock(shelf).write(task, bytes).map_err(stdout),
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
            Kind::Stream(shelf) => on_stdout(lock(shelf).settle(task, State::Whole)),
        }
    }

    /// What arrived of this attempt is void.
    pub(crate) fn void(&self, task: usize) {
        match &self.0 {
            Kind::Nowhere => {}
            Kind::Files { open, .. } => *lock(&open[task]) = None,
            Kind::Stream(shelf) => lock(shelf).slots[task].void(),
        }
    }

    /// The poem will never be whole. Returns others that waited for it and could not be delivered.
    #[must_use]
    pub(crate) fn abandon(&self, task: usize) -> Vec<Undelivered> {
        self.void(task);
        match &self.0 {
            Kind::Nowhere | Kind::Files { .. } => Vec::new(),
            Kind::Stream(shelf) => on_stdout(lock(shelf).settle(task, State::Lost)),
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

/// Poems on their way to one stream.
struct Shelf {
    writer: Box<dyn Write + Send>,
    /// The task that writes live, if there is such an order; all before it are settled.
    live: Option<usize>,
    /// Whether a retry may have to repeat what was written live.
    checked: bool,
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    /// Arrived, but not its turn yet.
    held: Vec<u8>,
    state: State,
    /// Of the bytes on the stream: those of all attempts, and those that this attempt has repeated so far.
    shown: Checksum,
    repeated: Checksum,
    /// A poem under way whose held bytes could not be written; said when it next asks.
    broken: Option<io::Error>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    UnderWay,
    Whole,
    Lost,
}

#[derive(Default, Clone)]
struct Checksum {
    len: u64,
    hash: DefaultHasher,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8], checked: bool) {
        self.len += bytes.len() as u64;
        if checked {
            self.hash.write(bytes);
        }
    }

    fn agrees(&self, other: &Self) -> bool {
        self.len == other.len && self.hash.finish() == other.hash.finish()
    }
}

impl Slot {
    fn void(&mut self) {
        self.held = Vec::new();
        self.repeated = Checksum::default();
    }
}

impl Shelf {
    fn write(&mut self, task: usize, bytes: &[u8]) -> io::Result<()> {
        if let Some(error) = self.slots[task].broken.take() {
            return Err(error);
        }
        if self.live == Some(task) {
            return self.show(task, bytes);
        }
        self.slots[task].held.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes live. What an earlier attempt has written is not written twice, but it has to be the same.
    fn show(&mut self, task: usize, bytes: &[u8]) -> io::Result<()> {
        let slot = &mut self.slots[task];
        let missing = slot.shown.len - slot.repeated.len;
        let known = bytes.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
        let (old, new) = bytes.split_at(known);
        slot.repeated.add(old, self.checked);
        if !old.is_empty() && slot.repeated.len == slot.shown.len && !slot.repeated.agrees(&slot.shown) {
            return Err(changed());
        }
        if !new.is_empty() {
            self.writer.write_all(new)?;
            slot.shown.add(new, self.checked);
            slot.repeated.add(new, self.checked);
        }
        Ok(())
    }

    fn settle(&mut self, task: usize, state: State) -> Vec<(usize, io::Error)> {
        let slot = &mut self.slots[task];
        slot.state = state;
        let mut lost = Vec::new();
        if state == State::Whole
            && let Some(error) = slot.broken.take().or((slot.repeated.len < slot.shown.len).then(changed))
        {
            lost.push((task, error));
        }
        match self.live {
            None => {
                let poem = mem::take(&mut slot.held);
                if let Err(error) = self.writer.write_all(&poem) {
                    lost.push((task, error));
                }
            }
            Some(live) if live == task => self.pass_the_turn(&mut lost),
            Some(_) => {}
        }
        lost
    }

    /// Gives the stream to the next poem that is not complete, after all complete ones before it.
    fn pass_the_turn(&mut self, lost: &mut Vec<(usize, io::Error)>) {
        while let Some(live) = self.live.filter(|&live| live < self.slots.len()) {
            let held = mem::take(&mut self.slots[live].held);
            let state = self.slots[live].state;
            if let Err(error) = self.show(live, &held) {
                match state {
                    State::UnderWay => self.slots[live].broken = Some(error),
                    State::Whole | State::Lost => lost.push((live, error)),
                }
            }
            if state == State::UnderWay {
                break;
            }
            self.live = Some(live + 1);
        }
    }
}

fn changed() -> io::Error {
    io::Error::other("the retried poem begins otherwise than what is already written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(lock(&self.0).clone()).expect("UTF-8")
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.contains(&b'!') {
                return Err(io::ErrorKind::StorageFull.into());
            }
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stream(order: Order) -> (Outlet, Page) {
        let page = Page::default();
        (Outlet::stream(Box::new(page.clone()), order, 4), page)
    }

    const ORDERED: Order = Order::Request { retries: true };

    fn write(outlet: &Outlet, task: usize, text: &str) {
        outlet.write(task, text.as_bytes()).expect(text);
    }

    fn finish(outlet: &Outlet, task: usize) -> Vec<usize> {
        outlet.finish(task).into_iter().map(|(task, _)| task).collect()
    }

    #[test]
    fn poems_are_written_whole_in_order_of_completion() {
        let (outlet, page) = stream(Order::Completion);
        write(&outlet, 0, "a1 ");
        write(&outlet, 1, "b1 ");
        write(&outlet, 0, "a2 ");
        assert_eq!(page.text(), "");
        assert!(finish(&outlet, 1).is_empty());
        assert_eq!(page.text(), "b1 ");
        assert!(outlet.abandon(2).is_empty());
        assert!(finish(&outlet, 0).is_empty());
        assert_eq!(page.text(), "b1 a1 a2 ");
    }

    #[test]
    fn in_order_of_request_the_first_unfinished_poem_is_live() {
        let (outlet, page) = stream(ORDERED);
        write(&outlet, 0, "a1 ");
        assert_eq!(page.text(), "a1 ");
        write(&outlet, 1, "b1 ");
        write(&outlet, 2, "c1 ");
        assert!(finish(&outlet, 2).is_empty());
        assert_eq!(page.text(), "a1 ");
        assert!(finish(&outlet, 0).is_empty());
        assert_eq!(page.text(), "a1 b1 ");
        write(&outlet, 1, "b2 ");
        assert_eq!(page.text(), "a1 b1 b2 ");
        write(&outlet, 3, "d1 ");
        assert!(finish(&outlet, 1).is_empty());
        assert_eq!(page.text(), "a1 b1 b2 c1 d1 ");
    }

    #[test]
    fn a_lost_poem_passes_its_turn_and_shows_nothing_that_waited() {
        let (outlet, page) = stream(ORDERED);
        write(&outlet, 1, "b1 ");
        assert!(outlet.abandon(1).is_empty());
        write(&outlet, 2, "c1 ");
        assert!(outlet.abandon(0).is_empty());
        assert_eq!(page.text(), "c1 ");
    }

    #[test]
    fn a_retry_does_not_repeat_what_is_already_written() {
        let (outlet, page) = stream(ORDERED);
        write(&outlet, 0, "abc");
        outlet.void(0);
        write(&outlet, 0, "ab");
        write(&outlet, 0, "cdef");
        outlet.void(0);
        write(&outlet, 0, "abcdefgh");
        assert!(finish(&outlet, 0).is_empty());
        assert_eq!(page.text(), "abcdefgh");
    }

    #[test]
    fn a_retry_that_brings_another_poem_fails() {
        let (outlet, page) = stream(ORDERED);
        write(&outlet, 0, "abc");
        outlet.void(0);
        assert!(outlet.write(0, b"abX").is_err());
        outlet.void(0);
        write(&outlet, 0, "ab");
        assert_eq!(finish(&outlet, 0), [0]);
        assert_eq!(page.text(), "abc");
    }

    #[test]
    fn bytes_of_a_failed_attempt_never_wait_for_their_turn() {
        let (outlet, page) = stream(ORDERED);
        write(&outlet, 1, "old");
        outlet.void(1);
        assert!(finish(&outlet, 0).is_empty());
        write(&outlet, 1, "new");
        assert!(finish(&outlet, 1).is_empty());
        assert_eq!(page.text(), "new");
    }

    #[test]
    fn a_poem_that_cannot_be_written_is_the_only_one_that_fails() {
        let (outlet, page) = stream(Order::Completion);
        write(&outlet, 0, "a!");
        write(&outlet, 1, "b");
        assert_eq!(finish(&outlet, 0), [0]);
        assert!(finish(&outlet, 1).is_empty());
        assert_eq!(page.text(), "b");

        let (outlet, page) = stream(ORDERED);
        write(&outlet, 1, "b!");
        write(&outlet, 2, "c");
        write(&outlet, 3, "d!");
        assert!(finish(&outlet, 1).is_empty());
        assert!(finish(&outlet, 2).is_empty());
        assert_eq!(finish(&outlet, 0), [1]);
        assert!(outlet.write(3, b"d2").is_err());
        assert_eq!(page.text(), "c");
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let directory = parent.path().join("new/poems");
        let addresses = ["10000", "[::1]:80"].map(|text| text.parse().expect("valid"));
        let outlet = Outlet::files(&directory, &addresses);
        let names = || {
            let mut names: Vec<String> = std::fs::read_dir(&directory)
                .expect("directory")
                .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
                .collect();
            names.sort();
            names
        };
        outlet.open(0).expect("made");
        outlet.open(1).expect("made");
        write(&outlet, 0, "first attempt");
        outlet.void(0);
        outlet.open(0).expect("made");
        write(&outlet, 0, "whole");
        write(&outlet, 1, "half");
        assert!(names().iter().all(|name| name.starts_with('.')));
        assert!(finish(&outlet, 0).is_empty());
        outlet.clean_up();
        assert_eq!(names(), ["1-127.0.0.1-10000.txt"]);
        let poem = std::fs::read_to_string(directory.join("1-127.0.0.1-10000.txt"));
        assert_eq!(poem.expect("readable"), "whole");
    }
}

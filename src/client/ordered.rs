//! Poems on their way to one stream: each written whole and unmixed, in one order or the other.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{self, Write};
use std::mem;

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

/// Poems on their way to one stream.
pub(super) struct OrderedWriter {
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

/// Where a poem stands.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
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

impl OrderedWriter {
    pub(super) fn new(writer: Box<dyn Write + Send>, order: Order, tasks: usize) -> Self {
        Self {
            writer,
            live: matches!(order, Order::Request { .. }).then_some(0),
            checked: order == Order::Request { retries: true },
            slots: (0..tasks).map(|_| Slot::default()).collect(),
        }
    }

    /// The next bytes of a poem: written now, or when their turn comes.
    pub(super) fn write(&mut self, task: usize, bytes: &[u8]) -> io::Result<()> {
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

    /// What arrived of this attempt is void.
    pub(super) fn void(&mut self, task: usize) {
        let slot = &mut self.slots[task];
        slot.held = Vec::new();
        slot.repeated = Checksum::default();
    }

    /// The poem is whole, or will never be. Returns those that could not be written: this one, or others that
    /// waited for it.
    pub(super) fn settle(&mut self, task: usize, state: State) -> Vec<(usize, io::Error)> {
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
    use std::sync::{Arc, Mutex};

    use crate::sync::lock;

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

    fn empty(order: Order) -> (OrderedWriter, Page) {
        let page = Page::default();
        (OrderedWriter::new(Box::new(page.clone()), order, 4), page)
    }

    const ORDERED: Order = Order::Request { retries: true };

    fn write(ordered: &mut OrderedWriter, task: usize, text: &str) {
        ordered.write(task, text.as_bytes()).expect(text);
    }

    fn finish(ordered: &mut OrderedWriter, task: usize) -> Vec<usize> {
        ordered.settle(task, State::Whole).into_iter().map(|(task, _)| task).collect()
    }

    fn lose(ordered: &mut OrderedWriter, task: usize) -> Vec<usize> {
        ordered.void(task);
        ordered.settle(task, State::Lost).into_iter().map(|(task, _)| task).collect()
    }

    #[test]
    fn poems_are_written_whole_in_order_of_completion() {
        let (mut ordered, page) = empty(Order::Completion);
        write(&mut ordered, 0, "a1 ");
        write(&mut ordered, 1, "b1 ");
        write(&mut ordered, 0, "a2 ");
        assert_eq!(page.text(), "");
        assert!(finish(&mut ordered, 1).is_empty());
        assert_eq!(page.text(), "b1 ");
        assert!(lose(&mut ordered, 2).is_empty());
        assert!(finish(&mut ordered, 0).is_empty());
        assert_eq!(page.text(), "b1 a1 a2 ");
    }

    #[test]
    fn in_order_of_request_the_first_unfinished_poem_is_live() {
        let (mut ordered, page) = empty(ORDERED);
        write(&mut ordered, 0, "a1 ");
        assert_eq!(page.text(), "a1 ");
        write(&mut ordered, 1, "b1 ");
        write(&mut ordered, 2, "c1 ");
        assert!(finish(&mut ordered, 2).is_empty());
        assert_eq!(page.text(), "a1 ");
        assert!(finish(&mut ordered, 0).is_empty());
        assert_eq!(page.text(), "a1 b1 ");
        write(&mut ordered, 1, "b2 ");
        assert_eq!(page.text(), "a1 b1 b2 ");
        write(&mut ordered, 3, "d1 ");
        assert!(finish(&mut ordered, 1).is_empty());
        assert_eq!(page.text(), "a1 b1 b2 c1 d1 ");
    }

    #[test]
    fn a_lost_poem_passes_its_turn_and_shows_nothing_that_waited() {
        let (mut ordered, page) = empty(ORDERED);
        write(&mut ordered, 1, "b1 ");
        assert!(lose(&mut ordered, 1).is_empty());
        write(&mut ordered, 2, "c1 ");
        assert!(lose(&mut ordered, 0).is_empty());
        assert_eq!(page.text(), "c1 ");
    }

    #[test]
    fn a_retry_does_not_repeat_what_is_already_written() {
        let (mut ordered, page) = empty(ORDERED);
        write(&mut ordered, 0, "abc");
        ordered.void(0);
        write(&mut ordered, 0, "ab");
        write(&mut ordered, 0, "cdef");
        ordered.void(0);
        write(&mut ordered, 0, "abcdefgh");
        assert!(finish(&mut ordered, 0).is_empty());
        assert_eq!(page.text(), "abcdefgh");
    }

    #[test]
    fn a_retry_that_brings_another_poem_fails() {
        let (mut ordered, page) = empty(ORDERED);
        write(&mut ordered, 0, "abc");
        ordered.void(0);
        assert!(ordered.write(0, b"abX").is_err());
        ordered.void(0);
        write(&mut ordered, 0, "ab");
        assert_eq!(finish(&mut ordered, 0), [0]);
        assert_eq!(page.text(), "abc");
    }

    #[test]
    fn bytes_of_a_failed_attempt_never_wait_for_their_turn() {
        let (mut ordered, page) = empty(ORDERED);
        write(&mut ordered, 1, "old");
        ordered.void(1);
        assert!(finish(&mut ordered, 0).is_empty());
        write(&mut ordered, 1, "new");
        assert!(finish(&mut ordered, 1).is_empty());
        assert_eq!(page.text(), "new");
    }

    #[test]
    fn a_poem_that_cannot_be_written_is_the_only_one_that_fails() {
        let (mut ordered, page) = empty(Order::Completion);
        write(&mut ordered, 0, "a!");
        write(&mut ordered, 1, "b");
        assert_eq!(finish(&mut ordered, 0), [0]);
        assert!(finish(&mut ordered, 1).is_empty());
        assert_eq!(page.text(), "b");

        let (mut ordered, page) = empty(ORDERED);
        write(&mut ordered, 1, "b!");
        write(&mut ordered, 2, "c");
        write(&mut ordered, 3, "d!");
        assert!(finish(&mut ordered, 1).is_empty());
        assert!(finish(&mut ordered, 2).is_empty());
        assert_eq!(finish(&mut ordered, 0), [1]);
        assert!(ordered.write(3, b"d2").is_err());
        assert_eq!(page.text(), "c");
    }
}

//! A writer of many poems to one stream: each whole and unmixed, in order of completion or of request.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::io::{self, Write};
use std::mem;

use super::Failure;
use super::held::{Held, Store};

/// The order in which poems are written to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The order in which poems are completed.
    Completion,
    /// The order of the command line. The first poem that is not complete is written live, as its bytes arrive.
    Request {
        /// Whether an attempt may be followed by another one. Costs a checksum of what was written live.
        retries: bool,
        /// Whether the live poem is written line by line, so that what others write to the same terminal stands between
        /// its lines. The last line of a poem that fails is not written unless it is whole.
        by_line: bool,
    },
}

/// A line that is longer is written in parts.
const LONGEST_LINE: usize = 64 << 10;

/// The writer of all poems to one stream, by number. A poem whose turn has not come is held.
pub(super) struct OrderedWriter {
    writer: Box<dyn Write + Send>,
    /// The poem that is written live, in order of request; all before it are settled.
    live: Option<usize>,
    /// Whether checksums are kept: a retry may have to repeat what was written live.
    checked: bool,
    by_line: bool,
    /// The beginning of a line of the live poem that is not written yet. Where others count what is on the stream, it
    /// counts.
    line: Vec<u8>,
    slots: Vec<Slot>,
    store: Store,
}

/// One poem.
#[derive(Default)]
struct Slot {
    /// Bytes that have arrived before the poem's turn.
    held: Held,
    state: State,
    /// The bytes of this poem on the stream, of all attempts.
    shown: Checksum,
    /// The part of `shown` that this attempt has brought again so far.
    repeated: Checksum,
    /// The error of held bytes that were written while the poem was under way; returned by its next call.
    broken: Option<Failure>,
}

/// The state of a poem.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    UnderWay,
    Whole,
    Lost,
}

/// Length and hash of a run of bytes.
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
            checked: matches!(order, Order::Request { retries: true, .. }),
            by_line: matches!(order, Order::Request { by_line: true, .. }),
            line: Vec::new(),
            slots: (0..tasks).map(|_| Slot::default()).collect(),
            store: Store::default(),
        }
    }

    /// Takes the next bytes of a poem, which are written now or when the poem's turn comes.
    ///
    /// # Errors
    /// They cannot be written, or held. Other poems go on.
    pub(super) fn write(&mut self, task: usize, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(error) = self.slots[task].broken.take() {
            return Err(error);
        }
        if self.live == Some(task) {
            return self.show(task, bytes);
        }
        self.store.add(&mut self.slots[task].held, bytes)
    }

    /// The most bytes that were held at one time.
    pub(super) fn most_held(&self) -> u64 {
        self.store.most()
    }

    /// Writes live. Bytes that an earlier attempt has written are compared instead of written twice.
    fn show(&mut self, task: usize, bytes: &[u8]) -> Result<(), Failure> {
        let slot = &mut self.slots[task];
        let missing = slot.shown.len - slot.repeated.len;
        let known = bytes.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
        let (old, new) = bytes.split_at(known);
        slot.repeated.add(old, self.checked);
        if !old.is_empty() && slot.repeated.len == slot.shown.len && !slot.repeated.agrees(&slot.shown) {
            return Err(changed());
        }
        if !new.is_empty() {
            let ready = match self.by_line {
                false => new,
                true => {
                    self.line.extend(new);
                    let end = self.line.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
                    // No verse is so long.
                    let end = if self.line.len() - end > LONGEST_LINE { self.line.len() } else { end };
                    &self.line[..end]
                }
            };
            self.writer.write_all(ready).map_err(stdout)?;
            let written = ready.len();
            if self.by_line {
                self.line.drain(..written);
            }
            slot.shown.add(new, self.checked);
            slot.repeated.add(new, self.checked);
        }
        Ok(())
    }

    /// Writes what a poem had to hold.
    fn show_held(&mut self, task: usize) -> Result<(), Failure> {
        let mut held = mem::take(&mut self.slots[task].held);
        let result = loop {
            match self.store.next(&mut held) {
                Ok(Some(bytes)) => match self.show(task, &bytes) {
                    Ok(()) => {}
                    failed => break failed,
                },
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        self.store.release(held);
        result
    }

    /// Drops the bytes of this attempt that are not on the stream.
    pub(super) fn void(&mut self, task: usize) {
        let slot = &mut self.slots[task];
        self.store.release(mem::take(&mut slot.held));
        slot.repeated = Checksum::default();
    }

    /// Ends a poem: it is whole, or will never be. Returns the poems that could not be written: this one, or others
    /// that waited for it.
    pub(super) fn settle(&mut self, task: usize, state: State) -> Vec<(usize, Failure)> {
        let slot = &mut self.slots[task];
        slot.state = state;
        let mut lost = Vec::new();
        if state == State::Whole
            && let Some(failure) = slot.broken.take().or((slot.repeated.len < slot.shown.len).then(changed))
        {
            lost.push((task, failure));
        }
        match self.live {
            None => {
                if let Err(failure) = self.show_held(task) {
                    lost.push((task, failure));
                }
            }
            Some(live) if live == task => self.pass_the_turn(&mut lost),
            Some(_) => {}
        }
        lost
    }

    /// Ends all poems under way, so that those that are whole need not wait for them. Returns the ones that could not be
    /// written. A poem that goes on all the same is not delivered.
    pub(super) fn end(&mut self) -> Vec<(usize, Failure)> {
        let mut lost = Vec::new();
        if let Some(live) = self.live {
            for slot in self.slots.iter_mut().skip(live).filter(|slot| slot.state == State::UnderWay) {
                *slot = Slot {
                    state: State::Lost,
                    broken: Some(stdout(io::ErrorKind::Interrupted.into())),
                    ..Slot::default()
                };
            }
            self.pass_the_turn(&mut lost);
        }
        lost
    }

    /// Moves `live` on to the next poem under way, and writes the settled ones before it.
    fn pass_the_turn(&mut self, lost: &mut Vec<(usize, Failure)>) {
        while let Some(live) = self.live.filter(|&live| live < self.slots.len()) {
            let state = self.slots[live].state;
            if let Err(failure) = self.show_held(live) {
                match state {
                    State::UnderWay => self.slots[live].broken = Some(failure),
                    State::Whole | State::Lost => lost.push((live, failure)),
                }
            }
            if state == State::UnderWay {
                break;
            }
            let rest = mem::take(&mut self.line);
            if state == State::Whole
                && let Err(error) = self.writer.write_all(&rest)
            {
                lost.push((live, stdout(error)));
            }
            self.live = Some(live + 1);
        }
    }
}

fn changed() -> Failure {
    stdout(io::Error::other("the retried poem begins otherwise than what is already written"))
}

fn stdout(error: io::Error) -> Failure {
    Failure::Deliver { place: "stdout".to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use crate::sync::lock;

    #[test]
    fn at_the_end_what_is_whole_waits_for_nobody() {
        let page = Page::default();
        let mut writer =
            OrderedWriter::new(Box::new(page.clone()), Order::Request { retries: false, by_line: false }, 4);
        writer.write(0, b"live, ").expect("written");
        writer.write(1, b"whole, ").expect("held");
        assert!(writer.settle(1, State::Whole).is_empty());
        writer.write(2, b"half").expect("held");
        writer.write(3, b"whole, too").expect("held");
        assert!(writer.settle(3, State::Whole).is_empty());
        assert!(writer.end().is_empty());
        assert_eq!(page.text(), "live, whole, whole, too");
        assert!(writer.end().is_empty(), "once");
        assert!(writer.write(0, b"and on").is_err());
        assert_eq!(writer.settle(2, State::Whole).len(), 1, "not delivered");
        assert_eq!(page.text(), "live, whole, whole, too");
    }

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

    #[test]
    fn a_live_poem_by_line_shows_whole_lines_and_no_half_one_if_it_fails() {
        let page = Page::default();
        let order = Order::Request { retries: true, by_line: true };
        let mut writer = OrderedWriter::new(Box::new(page.clone()), order, 3);
        writer.write(0, b"one\ntw").expect("written");
        assert_eq!(page.text(), "one\n");
        // Another attempt goes on where the first one has stopped, within a line.
        writer.void(0);
        for (piece, shown) in [("one", "one\n"), ("\ntwo", "one\n"), (" and a half\nthr", "one\ntwo and a half\n")] {
            writer.write(0, piece.as_bytes()).expect("written");
            assert_eq!(page.text(), shown);
        }
        assert!(writer.settle(0, State::Whole).is_empty());
        assert_eq!(page.text(), "one\ntwo and a half\nthr");
        writer.write(1, b"\nfour\nfi").expect("written");
        assert!(writer.settle(1, State::Lost).is_empty());
        assert_eq!(page.text(), "one\ntwo and a half\nthr\nfour\n");
        writer.write(2, &[b'x'; LONGEST_LINE]).expect("written");
        assert!(!page.text().contains('x'));
        writer.write(2, b"y").expect("written");
        assert!(page.text().ends_with("xy"));
    }

    const ORDERED: Order = Order::Request { retries: true, by_line: false };

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

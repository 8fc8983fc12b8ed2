//! A queue as a value: messages, and those who take them in turn.

use std::collections::VecDeque;

use super::frames::Frames;

/// Somebody who takes messages of a queue.
pub(super) trait Taker: Clone {
    /// Takes one frame, if there is room for it.
    fn take(&self, frame: &Frames) -> bool;

    /// Sends what was taken, as far as that goes now.
    fn send_taken(&self);
}

/// The messages of a queue, and who takes them: each the next one who has room.
#[derive(Debug)]
pub(super) struct Line<S> {
    /// The first is the one whose turn it is.
    pub(super) takers: VecDeque<S>,
    /// Messages that nobody was there for, or that somebody has left: older than all that come.
    pub(super) held: VecDeque<Frames>,
}

impl<S> Default for Line<S> {
    fn default() -> Self {
        Self { takers: VecDeque::new(), held: VecDeque::new() }
    }
}

impl<S: Taker> Line<S> {
    /// Somebody comes, whose turn is after those of all others.
    pub(super) fn join(&mut self, taker: S) {
        self.takers.push_back(taker);
    }

    pub(super) fn leave(&mut self, is_it: impl Fn(&S) -> bool) {
        self.takers.retain(|taker| !is_it(taker));
    }

    /// Gives a frame to the next one who has room, and says who that is.
    fn give(&mut self, frame: &Frames) -> Option<S> {
        let next = self.takers.iter().position(|taker| taker.take(frame))?;
        self.takers.rotate_left(next + 1);
        self.takers.back().cloned()
    }

    /// Gives out as many of these as there is room for, one by one, and returns the others.
    pub(super) fn give_out(&mut self, frames: Frames) -> Option<Frames> {
        let mut takers = Vec::new();
        let mut left = Some(frames);
        while let Some(frames) = &left
            && let Some(mut frame) = frames.first(1)
        {
            // It may be kept for long.
            frame.compact();
            let Some(taker) = self.give(&frame) else { break };
            takers.push(taker);
            left = frames.after(1);
        }
        // One send for all that a taker got.
        for taker in takers {
            taker.send_taken();
        }
        left
    }

    /// Gives out what is held, and returns what that weighed.
    pub(super) fn give_out_held(&mut self) -> usize {
        let mut freed = 0;
        while let Some(frames) = self.held.pop_front() {
            let weight = frames.weight();
            let left = self.give_out(frames);
            freed += weight - left.as_ref().map_or(0, Frames::weight);
            if let Some(left) = left {
                self.held.push_front(left);
                break;
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Takes so many messages more.
    #[derive(Default)]
    struct Worker {
        room: Cell<usize>,
        taken: RefCell<Vec<u8>>,
        unsent: Cell<bool>,
    }

    impl Taker for Rc<Worker> {
        fn take(&self, frame: &Frames) -> bool {
            let Some(room) = self.room.get().checked_sub(1) else { return false };
            self.room.set(room);
            self.taken.borrow_mut().extend(frame.payloads().concat());
            self.unsent.set(true);
            true
        }

        fn send_taken(&self) {
            self.unsent.set(false);
        }
    }

    fn messages(names: &[u8]) -> Frames {
        let payloads: Vec<&[u8]> = names.chunks(1).collect();
        Frames::of(&payloads)
    }

    fn names(frames: impl IntoIterator<Item = Frames>) -> Vec<u8> {
        frames.into_iter().flat_map(|run| run.payloads()).flatten().collect()
    }

    fn worker(room: usize) -> Rc<Worker> {
        Rc::new(Worker { room: room.into(), ..Worker::default() })
    }

    #[test]
    fn everybody_has_a_turn_whoever_sends() {
        let mut line = Line::default();
        let workers: Vec<_> = (0..4).map(|_| worker(100)).collect();
        workers.iter().for_each(|it| line.join(Rc::clone(it)));
        for name in 0..100 {
            assert!(line.give_out(messages(&[name])).is_none());
        }
        for (first, worker) in (0..).zip(&workers) {
            assert_eq!(*worker.taken.borrow(), (0..25).map(|n| first + 4 * n).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn who_has_no_room_is_passed_over_and_who_is_last_waits() {
        let mut line = Line::default();
        let (full, busy, idle) = (worker(0), worker(1), worker(3));
        [&full, &busy, &idle].into_iter().for_each(|it| line.join(Rc::clone(it)));
        assert_eq!(names(line.give_out(messages(b"abcdef"))), b"ef");
        assert_eq!((&busy.taken.borrow()[..], &idle.taken.borrow()[..]), (&b"a"[..], &b"bcd"[..]));
    }

    /// What can happen to a queue.
    #[derive(Debug, Clone)]
    enum Step {
        Join(usize),
        Leave(prop::sample::Index),
        Send(usize),
        Work(prop::sample::Index, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..4).prop_map(Step::Join),
            any::<prop::sample::Index>().prop_map(Step::Leave),
            (1_usize..6).prop_map(Step::Send),
            (any::<prop::sample::Index>(), 1_usize..4).prop_map(|(who, room)| Step::Work(who, room)),
        ]
    }

    proptest! {
        /// The judge is a list of workers, of whom the first with room takes the oldest message and goes to the end.
        #[test]
        fn a_queue_is_its_model_in_any_order_of_joins_and_leaves(steps in vec(step(), 1..60)) {
            let mut line: Line<Rc<Worker>> = Line::default();
            // Each with its room, and what it has taken.
            let mut model: Vec<(Rc<Worker>, usize, Vec<u8>)> = Vec::new();
            let mut waiting: VecDeque<u8> = VecDeque::new();
            let mut name = 0;
            for step in steps {
                match step {
                    Step::Join(room) => {
                        let worker = worker(room);
                        line.join(Rc::clone(&worker));
                        model.push((worker, room, Vec::new()));
                    }
                    Step::Leave(who) if !model.is_empty() => {
                        let (worker, _, taken) = model.remove(who.index(model.len()));
                        prop_assert_eq!(&*worker.taken.borrow(), &taken);
                        line.leave(|other| Rc::ptr_eq(other, &worker));
                        // All that it had goes to others, and first.
                        if !taken.is_empty() {
                            line.held.push_front(messages(&taken));
                        }
                        taken.into_iter().rev().for_each(|name| waiting.push_front(name));
                    }
                    Step::Send(count) => {
                        let sent: Vec<u8> = (0..count).map(|_| { name += 1; name }).collect();
                        line.held.push_back(messages(&sent));
                        waiting.extend(sent);
                    }
                    Step::Work(who, room) if !model.is_empty() => {
                        let who = who.index(model.len());
                        model[who].0.room.update(|had| had + room);
                        model[who].1 += room;
                    }
                    Step::Leave(_) | Step::Work(..) => {}
                }
                let weight = |line: &Line<Rc<Worker>>| line.held.iter().map(Frames::weight).sum::<usize>();
                let before = weight(&line);
                prop_assert_eq!(line.give_out_held(), before - weight(&line));
                while let Some(&next) = waiting.front()
                    && let Some(who) = model.iter().position(|(_, room, _)| *room > 0)
                {
                    model[who].1 -= 1;
                    model[who].2.push(next);
                    model.rotate_left(who + 1);
                    waiting.pop_front();
                }
                prop_assert_eq!(names(line.held.iter().cloned()), Vec::from(waiting.clone()));
                for (worker, room, taken) in &model {
                    prop_assert_eq!((&*worker.taken.borrow(), worker.room.get()), (taken, *room));
                    prop_assert!(!worker.unsent.get());
                }
            }
        }
    }
}

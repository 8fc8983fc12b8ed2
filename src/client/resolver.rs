//! A DNS resolver for a loop that must not block: a few threads, and a descriptor that tells when there are answers.
//!
//! getaddrinfo(3) waits, and has no readiness to ask for. Therefore threads do the asking, and a byte on a
//! socketpair(2) tells the loop that there are answers: to poll(2) a name is then a descriptor like any other.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use super::bell::Bell;
use crate::address::Address;
use crate::sync::lock;

/// The most threads, each with one name. More names wait for one another.
const THREADS: usize = 16;

/// A resolver whose threads are started when there is something to ask.
pub(super) struct Resolver {
    questions: mpsc::Sender<Question>,
    queue: Arc<Mutex<mpsc::Receiver<Question>>>,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
    /// Readable when there are answers.
    bell: Bell,
    threads: usize,
    asked: Ticket,
}

/// The number of a question, and of its answer.
pub(super) type Ticket = u64;

struct Question {
    ticket: Ticket,
    address: Address,
}

pub(super) struct Answer {
    pub(super) ticket: Ticket,
    pub(super) addresses: io::Result<Vec<SocketAddr>>,
}

impl Resolver {
    pub(super) fn new() -> io::Result<Self> {
        let (questions, queue) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        Ok(Self { questions, queue, answers, answer, bell: Bell::new()?, threads: 0, asked: 0 })
    }

    /// Asks for the addresses of a name; the answer will carry this ticket.
    pub(super) fn ask(&mut self, address: Address) -> io::Result<Ticket> {
        if self.threads < THREADS {
            match self.start_thread() {
                Ok(()) => self.threads += 1,
                Err(error) if self.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        self.asked += 1;
        let ticket = self.asked;
        self.questions.send(Question { ticket, address }).map_err(io::Error::other)?;
        Ok(ticket)
    }

    /// The threads that there are for answers.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Takes the answers that have come since the last call, and silences the bell.
    pub(super) fn answers(&mut self) -> Vec<Answer> {
        self.bell.silence();
        self.answers.try_iter().collect()
    }

    fn start_thread(&self) -> io::Result<()> {
        let (queue, answer, rope) = (Arc::clone(&self.queue), self.answer.clone(), self.bell.rope());
        let body = move || {
            loop {
                let Ok(Question { ticket, address }) = lock(&queue).recv() else { return };
                if answer.send(Answer { ticket, addresses: address.resolve() }).is_err() {
                    return;
                }
                rope.ring();
            }
        };
        thread::Builder::new().name("resolver".to_owned()).spawn(body).map(|_| ())
    }
}

impl AsFd for Resolver {
    /// Readable when there are answers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

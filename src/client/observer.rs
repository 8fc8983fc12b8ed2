//! Events of a run, and the observers that hear of them.
//!
//! Clients measure, observers describe: log, bars and report are made by observers, and know nothing of sockets.

use std::time::Duration;

use super::source::Source;
use super::{Failure, Via};
use crate::proto::http::target::Url;

/// The poem that an event is about.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The number of the poem, from 1, in the order of the command line.
    pub number: usize,
    /// Where it comes from.
    pub source: &'a Source,
}

/// The events of a poem's life, in this order; `Attempt` to `Retry` once for each attempt.
#[derive(Debug)]
pub enum Event<'a> {
    /// The poem's turn has come.
    Started,
    /// An attempt begins, counted from 1: the name is looked up, then the connection made.
    Attempt(u32),
    /// The connection stands. With several requests over HTTP, once for each.
    Connected {
        /// Whether it has had a request before.
        reused: bool,
    },
    /// This URL is asked for, over HTTP.
    Requested(&'a Url),
    /// The head of an HTTP reply is here.
    Replied {
        /// The status code.
        status: u16,
        /// The length of the poem in bytes, if the reply has it and says so.
        length: Option<u64>,
    },
    /// The poem is elsewhere, and will be asked for there.
    Redirected(&'a Url),
    /// A read brought so many bytes.
    Received(usize),
    /// The poem is whole, and is now to be transformed.
    Asking(&'a Via),
    /// The connection to the transform server stands.
    ConnectedVia,
    /// The transform server has replied with so many bytes, which are delivered in the poem's place.
    Changed(usize),
    /// The transform failed, or was not asked for (the poem is too long): the poem is delivered as it came.
    Unchanged {
        /// The transform, and its server.
        via: &'a Via,
        /// Why it failed.
        failure: &'a Failure,
    },
    /// The attempt failed; another one follows after the pause. The bytes that arrived are void.
    Retry {
        /// Why it failed.
        failure: &'a Failure,
        /// The time until the next attempt.
        pause: Duration,
    },
    /// The poem is whole, in its last form, and is now delivered.
    Whole,
    /// The poem is whole and delivered.
    Done {
        /// Bytes received, before any transform.
        bytes: u64,
        /// The time since `Started`.
        elapsed: Duration,
    },
    /// The poem is lost. May follow `Done`, if a poem that had to wait for its turn on stdout could not be
    /// written after all.
    Failed(&'a Failure),
}

/// An observer of a run, called for each event as it happens, on whatever thread it happens.
pub trait Observer: Send + Sync {
    /// `event` happened to `task`, `at` after the start of the run.
    fn observe(&self, task: Task<'_>, at: Duration, event: &Event<'_>);
}

//! The craft of sockets: the one engine of all async servers, how a connection is closed properly, and how one is made.
//!
//! The engine speaks of connections; what is said on them is a [`Handler`]'s part, which is one function. Handlers whose
//! connections are many and short have paths that need no task ([`FastPath`]).
//!
//! ```text
//!            ┌ worker: a thread, a runtime, listeners of its own (SO_REUSEPORT) ─┐
//!            │                                                                   │
//!  connect ──▶ accept ──▶ try_serve ─ all said ──▶ shut down writing ─▶ linger ──▶ close
//!            │              │ │                                          ▲       │
//!            │              │ ╰ would block ──▶ a task: finish ──────────╯       │
//!            │              ╰── not yet ──▶ timer: on_timer, when it is time     │
//!            └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | file | |
//! |---|---|
//! | `handler.rs` | what a server has to write |
//! | `connection.rs` | what it is given: sends and receives that wait, but not for ever |
//! | `engine.rs` | workers, and the four steps of stopping |
//! | `accept.rs`, `complaint.rs` | the accept loop, and what it says when it fails |
//! | `connections.rs` | the life of a connection from accept(2) to close(2) |
//! | [`descriptors`] | how many connections RLIMIT_NOFILE has room for, beside all else |
//! | `timer.rs`, `patient.rs`, `linger.rs` | connections that wait without a task: for a moment, for the peer to speak, or to close |
//! | [`close`] | the polite close, the reset, and silence; for the blocking server, too |
//! | [`dial`] | connecting: names, addresses, limits |
//! | [`relay`] | two connections whose bytes and ends are passed on to each other; `pump.rs`: one direction of it |
//! | [`counts`], `stop.rs`, [`pulse`] | what was done, how it is stopped, whether it is alive |
//! | `http.rs` | HTTP/1.1 by way of hyper, for pages |
//! | `alarm.rs` | waking up on time, better than to a millisecond |
//! | `queue.rs` | how many wait in a listen queue |
//! | `departures.rs`, `stays.rs` | when and how peers leave, and how long they stay, if somebody wants to know |

mod accept;
mod alarm;
pub mod close;
mod complaint;
mod connection;
mod connections;
pub mod counts;
mod departures;
pub mod descriptors;
pub mod dial;
mod engine;
mod handler;
pub mod http;
mod linger;
mod patient;
pub mod pulse;
mod queue;
pub mod relay;
mod stays;
mod stop;
mod timer;

pub(crate) use accept::ACCEPT_PAUSE;
pub use accept::ListenLater;
pub(crate) use complaint::Complaint;
pub use connection::{Connection, Outlet, Peer, Unregistered};
pub(crate) use connection::{send_now, send_parts_now, send_parts_with};
pub(crate) use departures::Departures;
pub use engine::{Door, NeverAccepting, Prepared, ServerLimits, never_accept, prepare};
pub use handler::{FastPath, Handler, Progress};
pub(crate) use queue::waiting;
pub use stays::Stays;
pub use stop::{Stop, Stoppable};

#[cfg(test)]
mod tests;

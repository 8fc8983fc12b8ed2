//! The servers: each is given bound listeners and told from outside when to stop.
//!
//! None of them binds a port, reads an argument or sees a signal; that is the programs' part.
//!
//! [`slow`] blocks and serves one client at a time. All others are async: handlers of [`crate::net`].
//!
//! Both poem servers, the blocking and the async one, treat their clients as a [`fault_plan`] has it: how fast, and
//! with which faults. Only for these does a server end a connection in another way than the polite one.

pub mod anthology;
pub mod broker;
pub mod chaos;
pub mod fast;
pub mod fault_plan;
mod fetches;
pub mod finder;
pub mod forward;
pub mod http;
#[cfg(feature = "library")]
pub mod library;
pub mod monitor;
pub mod origin;
pub mod page;
pub mod proxy;
pub mod recorder;
mod sending;
pub mod slow;
pub mod transform;
pub mod watcher;
mod web;
mod wire;
pub mod witness;

/// A name for the log, whatever a stranger put into it.
fn printable(name: &[u8]) -> String {
    const MOST: usize = 40;
    let shown = name[..name.len().min(MOST)].escape_ascii();
    if name.len() > MOST { format!("{shown}...") } else { shown.to_string() }
}

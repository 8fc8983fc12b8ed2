//! The poetry suite: a laboratory for I/O concurrency, made of small network programs.
//!
//! Servers give out poems; clients fetch the same poems in four models of waiting, all measured alike.
//! A poem is bytes that end with the stream: the client says nothing, the server sends and closes.
//!
//! # The map
//!
//! Values in, values out, no I/O:
//!
//! - [`address`]: `10001`, `host:10001`, `[::1]:10001`
//! - [`pace`]: when to send how much, and how it ends: the schedule of a connection
//! - [`recording`]: what was really sent, line by line, to be replayed
//! - [`netstring`]: frames that say how long they are
//! - [`transform`]: ways to change a poem
//! - [`cache`]: what a caching proxy decides
//! - [`flight`]: many askers, one fetch
//! - [`waterfall`]: what was measured, as a picture
//! - [`timing`]: what was measured, its text and its JSON
//! - [`metrics`]: what a service has done, for monitoring systems
//!
//! The two sides of a connection:
//!
//! - [`poem`]: the bytes that are given out
//! - [`server`]: who gives them out, and how a connection is closed properly
//! - [`client`]: the contract, and the four models that fulfil it
//! - [`race`]: the four models against each other, as child processes, and what each cost
//!
//! What every program shares with the person in front of it:
//!
//! - [`cli`]: arguments, logs, progress bars, signals, exit statuses
//! - [`reason`]: errors in words
//!
//! What makes a program a service:
//!
//! - [`daemon`]: detaching, pid file, log file, privileges, systemd
//!
//! The programs in `src/bin` only introduce these to each other.

pub mod address;
pub mod cache;
pub mod cli;
pub mod client;
pub mod daemon;
pub mod flight;
pub mod metrics;
pub mod netstring;
pub mod pace;
pub mod poem;
pub mod race;
pub mod reason;
pub mod recording;
pub mod server;
pub mod timing;
pub mod transform;
pub mod waterfall;

//! The poetry suite: a laboratory for I/O concurrency, made of small network programs.
//!
//! Servers give out poems; clients fetch the same poems in four models of waiting, all measured alike.
//! A poem is bytes that end with the stream: the client says nothing, the server sends and closes.
//!
//! # The map
//!
//! Each room may use those below it, and no other; a test holds that law (`tests/it/rooms.rs`).
//!
//! - [`programs`]: arguments, help, what is opened, how it runs; a file or folder for each program
//! - [`cli`]: what programs share with the person in front of them: errors, exit statuses, logs, the terminal, signals
//! - [`server`]: what is served: a poem, slowly or fast, changed, or another server's
//! - [`race`]: the four clients against each other, as child processes, and what each cost
//! - [`client`]: one contract, and the four models of waiting that fulfil it
//! - [`daemon`]: what makes a program a service: detaching, pid file, log file, privileges, systemd
//! - [`net`]: the craft of sockets: accepting, limits, stopping, the polite close
//!
//! Values in, values out, no sockets:
//!
//! - [`pace`]: when to send how much, and how it ends: the schedule of a connection, and its recording
//! - [`proto`]: the framing of messages
//! - [`cache`]: freshness, and one fetch for many
//! - [`report`]: what was measured: data, text, JSON, tables, pictures
//! - [`unicode`]: what characters are called, and which have which words in their names
//!
//! The ground, one noun each: [`address`], [`candidates`], [`comparison`], `descendants`, [`poem`], [`metrics`], `latencies`,
//! [`transforms`], [`units`], [`errors`], `sync`, `pool`, `whole_file`.

pub mod address;
pub mod cache;
pub mod candidates;
pub mod cli;
pub mod client;
pub mod comparison;
pub mod daemon;
mod descendants;
pub mod errors;
mod latencies;
pub mod messages;
pub mod metrics;
pub mod net;
pub mod pace;
pub mod poem;
mod pool;
pub mod programs;
pub mod proto;
pub mod race;
pub mod report;
pub mod server;
pub mod sim;
mod sync;
#[cfg(test)]
mod test_process;
pub mod transforms;
pub mod unicode;
pub mod units;
mod whole_file;

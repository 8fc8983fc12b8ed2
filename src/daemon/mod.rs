//! What makes a program a service: the parts, each of use alone.
//!
//! - [`detach`]: on in the background, once everything listens
//! - [`pid_file`]: one at a time, and which process it is
//! - [`log_file`]: a log that outlives rotation and full disks
//! - [`privileges`]: root until the ports are bound, and never again
//! - [`systemd`]: readiness, watchdog, sockets that are open already
//!
//! Their order in a program, for what one of them does takes something from those that come after it:
//!
//! ```text
//!  detach::attached ─▶ inherited listeners ─▶ log file, pid file ─▶ signals blocked, ports bound ─▶ privileges dropped
//!  (descriptors,        (environment:           (relative paths,                                     (no way back)
//!   session)             no thread yet)          root's places)                                            │
//!                                                                 serving ◀─ ready ◀─ settled (chdir /) ◀──╯
//! ```

pub mod detach;
pub mod log_file;
pub mod pid_file;
pub mod privileges;
pub mod systemd;

#[cfg(test)]
mod again;

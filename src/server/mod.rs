//! The servers: each is given a bound listener and told from outside when to stop.
//!
//! None of them binds a port, reads an argument or sees a signal; that is the programs' part.

pub mod close;
pub mod slow;

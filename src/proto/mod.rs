//! Protocols without sockets: bytes in, frames out, and the other way round.

pub mod frame;
pub mod http;
pub mod netstring;
pub mod telnet;
pub mod timestamp;
pub mod zmtp;

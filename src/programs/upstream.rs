//! The server behind a proxy: another one than the proxy.

use std::net::SocketAddr;

use crate::address::Address;
use crate::net::dial::leads_to;

/// Whether upstream is another server than the proxy that listens there, as far as that is known without a resolver.
pub(super) fn not_itself(upstream: &Address, door: SocketAddr) -> Result<(), String> {
    match upstream.known().into_iter().any(|address| leads_to(address, door)) {
        true => Err(format!("{upstream} is this proxy itself, and no upstream")),
        false => Ok(()),
    }
}

//! Connections that are kept between two requests, for whoever asks the same server next.
//!
//! Nobody watches them. Whether one is still good shows when it is taken: something that can be read, be it the end of the
//! stream or a reply that nobody has asked for, makes it useless (RFC 9112, sections 9.3 and 9.5).

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::address::Address;

/// Idle connections, of whatever kind a model of waiting has. One place each for the poems that may be under way at once,
/// if whoever makes a new connection has looked here before.
#[derive(Debug)]
pub(super) struct Idle<S>(Vec<(Address, S)>);

impl<S> Default for Idle<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: AsFd> Idle<S> {
    /// Takes a connection to this server, the one that was used last. If there is none, the oldest of all is closed: a new
    /// one takes its place.
    pub(super) fn take(&mut self, address: &Address) -> Option<S> {
        while let Some(index) = self.0.iter().rposition(|(its, _)| its == address) {
            let (_, connection) = self.0.remove(index);
            if is_quiet(&connection) {
                return Some(connection);
            }
        }
        if !self.0.is_empty() {
            self.0.remove(0);
        }
        None
    }

    /// Keeps a connection to this server on which nothing is under way.
    pub(super) fn put(&mut self, address: Address, connection: S) {
        self.0.push((address, connection));
    }
}

/// Whether there is nothing to read on a connection, not even its end.
fn is_quiet(connection: &impl AsFd) -> bool {
    let read = recv(connection, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(read, Err(Errno::AGAIN | Errno::INTR))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// Both ends of a connection.
    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        (client, listener.accept().expect("a connection").0)
    }

    fn wait_for_bytes(connection: &TcpStream) {
        let mut readable = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut readable, PollTimeout::NONE), Ok(1));
    }

    #[test]
    fn a_connection_is_good_for_its_server_as_long_as_there_is_nothing_to_read() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let [here, there] = ["10000", "10001"].map(|text| text.parse::<Address>().expect("an address"));
        let (good, _held) = pair(&listener);
        let port = good.local_addr().expect("a port");
        let (closed, peer) = pair(&listener);
        drop(peer);
        let (speaks, mut peer) = pair(&listener);
        peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").expect("written");
        wait_for_bytes(&closed);
        wait_for_bytes(&speaks);
        let mut idle = Idle::default();
        for connection in [good, closed, speaks] {
            idle.put(here.clone(), connection);
        }
        let taken = idle.take(&here).expect("a good one");
        assert_eq!((taken.local_addr().expect("a port"), idle.0.len()), (port, 0));
        idle.put(here.clone(), taken);
        assert!(idle.take(&there).is_none());
        assert!(idle.take(&here).is_none(), "its place was needed");
    }
}

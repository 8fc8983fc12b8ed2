//! How long a listen queue is, as the kernel tells it: proc_pid_net(5).

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

/// The number of connections that wait in the queue of a listener, if the system says.
pub(crate) fn waiting(listener: &TcpListener) -> Option<u64> {
    let table = if listener.local_addr().ok()?.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let inode = File::from(listener.try_clone().ok().map(std::os::fd::OwnedFd::from)?).metadata().ok()?.ino();
    row_of(&fs::read_to_string(table).ok()?, inode)
}

/// The queue in the row of this socket. (For a listening one, the receive queue counts connections.)
fn row_of(table: &str, inode: u64) -> Option<u64> {
    /// Columns of a row, from 0.
    const QUEUES: usize = 4;
    const INODE: usize = 9;
    let rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|row| row.get(INODE).is_some_and(|found| found.parse() == Ok(inode)))?;
    let (_, receive) = row[QUEUES].split_once(':')?;
    u64::from_str_radix(receive, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn those_who_are_not_accepted_wait() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let mut clients = Vec::new();
            for count in 0..3 {
                assert_eq!(waiting(&listener), Some(count), "{address}");
                clients.push(TcpStream::connect(listener.local_addr().expect("bound")).expect("in the queue"));
            }
            listener.accept().expect("the first");
            assert_eq!(waiting(&listener), Some(2));
        }
    }

    #[test]
    fn a_table_that_is_none_has_no_row() {
        for table in ["", "  sl  local_address\n", "a b c d e f g h i 7\n", "a b c d 1:x f g h i 7\n"] {
            assert_eq!(row_of(table, 7), None);
        }
        assert_eq!(row_of("0: 1:1 0:0 0A 00000000:0000001F 0 0 0 0 7 1\n", 7), Some(31));
    }
}

//! Where a server listens, and the line that says so.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::num::NonZero;
use std::thread;

use socket2::{Domain, SockRef, Socket, Type};

use super::{Error, printable, stdout};
use crate::address::Address;

/// The flags about listening.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Port to listen on; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub port: u16,

    /// Interface to listen on: a name or an IP address
    ///
    /// A name with several addresses is bound at its IPv4 one, because that is where a bare PORT
    /// connects.
    #[arg(long, value_name = "HOST", default_value = "localhost")]
    pub iface: String,

    /// Length of the queue of connections that wait to be accepted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    #[arg(help = "Length of the queue of connections that wait to be accepted [default: 4096]")]
    pub backlog: Option<u32>,
}

/// The queue of a server that accepts without delay. A shorter one overflows when a thousand clients come at
/// once, and they hang: the kernel drops what does not fit without telling anybody.
const BACKLOG: u32 = 4096;

/// Bytes that wait in the kernel for a client, beside those that are on their way to it.
const UNSENT: u32 = 32 * 1024;

impl ListenArgs {
    /// A socket that listens; its backlog, if none was asked for, is the given one.
    ///
    /// # Errors
    /// The name cannot be resolved, or the address cannot be bound.
    pub fn bind(&self, default_backlog: u32) -> Result<TcpListener, Error> {
        let address = self.address()?;
        let listen = || {
            let socket = bound(address)?;
            inherit_options(&SockRef::from(&socket))?;
            socket.listen(self.backlog(default_backlog))?;
            Ok(socket.into())
        };
        listen().map_err(|error| Error::cannot("listen on", address, &error))
    }

    /// `PORT`, `HOST:PORT` or `[IPv6]:PORT`; port 0 is any free one.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let any = text.strip_suffix(":0").map(str::to_owned).or((text == "0").then(|| "127.0.0.1".to_owned()));
        let address = |text: &str| text.parse::<Address>().map_err(|error| error.to_string());
        let (port, iface) = match any {
            // Nobody can connect to this port, so that it is none of an address.
            Some(host) => (0, address(&format!("{host}:1"))?.host()),
            None => address(text).map(|address| (address.port(), address.host()))?,
        };
        Ok(Self { port, iface, backlog: None })
    }

    /// A socket that somebody else has opened, as often as there are workers for it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn adopt(listener: &TcpListener, workers: usize) -> Result<Vec<TcpListener>, Error> {
        let clones = || {
            inherit_options(&SockRef::from(listener))?;
            (0..workers).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()
        };
        clones().map_err(|error| Error::cannot("use", "an inherited socket", &error))
    }

    /// Listeners on one address, one for each processor: the kernel deals out the clients among them.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub fn bind_shared(&self) -> Result<Vec<TcpListener>, Error> {
        let address = self.address()?;
        let listen = || {
            let first = bound(address)?;
            let address = first.local_addr()?;
            let mut sockets = vec![self.listening(first)?];
            // Only now may the port be shared: by listening alone it has been taken, or somebody else was there.
            sockets[0].set_reuse_port(true)?;
            for _ in 1..workers() {
                let socket = Socket::new(address.domain(), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(true)?;
                socket.bind(&address)?;
                sockets.push(self.listening(socket)?);
            }
            Ok(sockets.into_iter().map(TcpListener::from).collect())
        };
        listen().map_err(|error| Error::cannot("listen on", address, &error))
    }

    fn listening(&self, socket: Socket) -> io::Result<Socket> {
        inherit_options(&SockRef::from(&socket))?;
        socket.listen(self.backlog(BACKLOG))?;
        Ok(socket)
    }

    fn backlog(&self, default: u32) -> i32 {
        i32::try_from(self.backlog.unwrap_or(default)).unwrap_or(i32::MAX)
    }

    /// The address to bind.
    ///
    /// # Errors
    /// The name cannot be resolved.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        let host = self.iface.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs().map_err(|error| Error::cannot("resolve", host, &error))?;
        let found: Vec<SocketAddr> = found.collect();
        let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
        address.copied().ok_or_else(|| Error::failure(format!("cannot resolve {host}: it has no address")))
    }
}

/// Sets what accepted sockets inherit. Pieces of a trickle leave when they are written; and what a client does not read
/// stays in the one copy of the poem, instead of some megabytes of the kernel's each.
fn inherit_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of an earlier run that linger in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// How many workers a server has: one for each processor.
pub fn workers() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Where these listeners listen, all of them at the same address.
///
/// # Errors
/// The system does not say, or there is none.
pub fn address(listeners: &[TcpListener]) -> Result<SocketAddr, Error> {
    let first = listeners.first().ok_or_else(|| io::ErrorKind::NotFound.into());
    first.and_then(TcpListener::local_addr).map_err(|error| Error::cannot("find", "the port", &error))
}

/// Says on stdout where a server listens: `Serving FILE on 127.0.0.1:10000.` People copy it, scripts parse it.
///
/// # Errors
/// It cannot be written; that nobody reads it is no error.
pub fn announce(what: &str, address: SocketAddr) -> Result<(), Error> {
    stdout::write_all(format!("{} on {address}.\n", printable(what)).as_bytes())
}

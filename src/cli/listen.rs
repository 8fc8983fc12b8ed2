//! Listening sockets: the flags, bind(2) and listen(2), and the address line.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use socket2::{Domain, SockRef, Socket, Type};
use tracing::info;

use super::{Error, printable, stdout, values};
use crate::address::{Address, canonical};
use crate::errors::reason;
use crate::net::ListenLater;

/// The flags about listening.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Port to listen on; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = values::whole::<u16>(0, u16::MAX.into()), allow_negative_numbers = true)]
    pub port: u16,

    /// Interface to listen on: a name or an IP address
    ///
    /// A name with several addresses is bound at its IPv4 one, because that is where a bare PORT
    /// connects.
    #[arg(long, value_name = "HOST", default_value = "localhost")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub iface: String,

    /// Length of the queue of connections not yet accepted
    #[arg(long, value_name = "N", value_parser = values::whole::<u32>(1, i32::MAX as u64), allow_negative_numbers = true)]
    #[arg(help = "Length of the queue of connections not yet accepted [default: 4096]")]
    pub backlog: Option<u32>,
}

/// Default backlog of servers that accept without delay. A shorter one overflows when a thousand clients connect at
/// once: the kernel drops their last ACK or SYN without an error, and they hang.
pub const BACKLOG: u32 = 4096;

/// What is special about the listeners of a server that is to give trouble.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The smallest buffer for what peers send.
    pub never_read: bool,
    /// Bind only: the server is to listen so long after it began, and refuses connections until then.
    pub listen_after: Option<Duration>,
}

/// TCP_NOTSENT_LOWAT: bytes in the send buffer that are not yet on their way.
const UNSENT: u32 = 32 * 1024;

impl ListenArgs {
    /// Binds one listener. `default_backlog` holds if `--backlog` was not given.
    ///
    /// # Errors
    /// The name cannot be resolved, or the address cannot be bound.
    pub fn bind(&self, default_backlog: u32, trouble: Trouble) -> Result<TcpListener, Error> {
        let address = self.address()?;
        let listen = || Ok(self.listening(bound(address)?, default_backlog, trouble)?.into());
        listen().map_err(|error| Error::cannot("listen on", address, &error))
    }

    /// When and how listeners that were only bound are to listen.
    pub fn later(&self, default_backlog: u32, trouble: Trouble) -> Option<ListenLater> {
        trouble.listen_after.map(|after| ListenLater { after, backlog: self.backlog(default_backlog) })
    }

    /// Parses `PORT`, `HOST:PORT` or `[IPv6]:PORT`; port 0 is any free one.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let any = text.strip_suffix(":0").map(str::to_owned).or((text == "0").then(|| "127.0.0.1".to_owned()));
        let address = |text: &str| text.parse::<Address>().map_err(|error| error.to_string());
        let (port, iface) = match any {
            // `Address` rejects port 0, which cannot be connected to.
            Some(host) => (0, address(&format!("{host}:1"))?.host()),
            None => address(text).map(|address| (address.port(), address.host()))?,
        };
        Ok(Self { port, iface, backlog: None })
    }

    /// Duplicates an inherited listener (dup(2)), once for each worker.
    ///
    /// # Errors
    /// The system refuses.
    pub fn adopt(listener: &TcpListener, workers: usize, trouble: Trouble) -> Result<Vec<TcpListener>, Error> {
        if trouble.listen_after.is_some() {
            return Err(Error::failure("an inherited socket listens already: it refuses nobody".to_owned()));
        }
        let clones = || {
            set_options(&SockRef::from(listener), trouble)?;
            (0..workers).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>()
        };
        clones().map_err(|error| Error::cannot("use", "an inherited socket", &error))
    }

    /// Binds one listener for each processor to one address (SO_REUSEPORT): the kernel deals out the clients.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub fn bind_shared(&self, trouble: Trouble) -> Result<Vec<TcpListener>, Error> {
        let address = self.address()?;
        let listen = || {
            let first = bound(address)?;
            let address = first.local_addr()?;
            let mut sockets = vec![self.listening(first, BACKLOG, trouble)?];
            // Set after the first listen(2), which fails if another process listens: set before, SO_REUSEPORT would
            // share the port with it.
            sockets[0].set_reuse_port(true)?;
            for _ in 1..workers() {
                let socket = Socket::new(address.domain(), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(true)?;
                socket.bind(&address)?;
                sockets.push(self.listening(socket, BACKLOG, trouble)?);
            }
            Ok(sockets.into_iter().map(TcpListener::from).collect())
        };
        listen().map_err(|error| Error::cannot("listen on", address, &error))
    }

    fn listening(&self, socket: Socket, default_backlog: u32, trouble: Trouble) -> io::Result<Socket> {
        set_options(&SockRef::from(&socket), trouble)?;
        if trouble.listen_after.is_none() {
            socket.listen(self.backlog(default_backlog))?;
        }
        Ok(socket)
    }

    fn backlog(&self, default: u32) -> i32 {
        i32::try_from(self.backlog.unwrap_or(default)).unwrap_or(i32::MAX)
    }

    /// The address that it will have, as far as that is known: port 0 is any free one, and a name that cannot be resolved
    /// here may be one where the service runs.
    pub fn fixed(&self) -> Option<SocketAddr> {
        (self.port != 0).then(|| self.address().ok()).flatten()
    }

    /// Resolves `--iface`: its first IPv4 address, or else its first.
    ///
    /// # Errors
    /// The name cannot be resolved.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        let host = self.iface.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs().map_err(|error| unresolved(host, &error))?;
        let found: Vec<SocketAddr> = found.collect();
        let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
        address.copied().ok_or_else(|| Error::failure(format!("cannot resolve {host}: it has no address")))
    }
}

/// Why nobody can listen at what is neither an IP address nor a name of one. Other programs take the names of interfaces.
fn unresolved(host: &str, error: &io::Error) -> Error {
    let addresses: Vec<String> = addresses_of(|interface| interface == host).iter().map(ToString::to_string).collect();
    match addresses.join(", ") {
        none if none.is_empty() => {
            Error::failure(format!("cannot resolve {host}, which is no IP address: {}", reason(error)))
        }
        addresses => Error::failure(format!("cannot listen on {host} by its name; its addresses are {addresses}")),
    }
}

/// Logs which addresses that of a listener stands for, if it stands for all of this machine.
pub fn tell_addresses(address: SocketAddr) {
    if !address.ip().is_unspecified() {
        return;
    }
    // A socket of IPv6 has those of IPv4, too. To those of a link one cannot connect without saying of which.
    let is_ours = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => address.is_ipv6() && !ip.is_unicast_link_local(),
    };
    let ours = addresses_of(|_| true).into_iter().filter(is_ours).map(|ip| SocketAddr::new(ip, address.port()));
    let ours: Vec<String> = ours.map(|address| address.to_string()).collect();
    if !ours.is_empty() {
        info!("{address} is {}", ours.join(", "));
    }
}

/// The IP addresses of these interfaces: getifaddrs(3).
fn addresses_of(is_meant: impl Fn(&str) -> bool) -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten().filter(|found| is_meant(&found.interface_name));
    let ip = |found: nix::ifaddrs::InterfaceAddress| {
        let address = found.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    all.filter_map(ip).collect()
}

/// Sets options, of which accepted sockets inherit most. TCP_NODELAY: pieces of a trickle leave when they are written.
/// TCP_NOTSENT_LOWAT: what a client does not read stays in the one copy of the poem, not in megabytes of kernel memory
/// for each client.
fn set_options(socket: &SockRef<'_>, trouble: Trouble) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    if trouble.never_read {
        // The kernel makes it the smallest that it allows: socket(7), SO_RCVBUF.
        socket.set_recv_buffer_size(1)?;
    }
    Ok(())
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // SO_REUSEADDR: connections of an earlier run in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Workers of a server: one for each processor.
pub fn workers() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The address of these listeners, which is the same for all.
///
/// # Errors
/// The system does not say, or there is none.
pub fn address(listeners: &[TcpListener]) -> Result<SocketAddr, Error> {
    let first = listeners.first().ok_or_else(|| io::ErrorKind::NotFound.into());
    first.and_then(TcpListener::local_addr).map(canonical).map_err(|error| Error::cannot("find", "the port", &error))
}

/// Writes the address line to stdout: `Serving FILE on 127.0.0.1:10000.` People copy it, scripts parse it.
///
/// # Errors
/// It cannot be written; that nobody reads it is no error.
pub fn announce(what: &str, address: SocketAddr) -> Result<(), Error> {
    stdout::write_all(format!("{} on {address}.\n", printable(what)).as_bytes())
}

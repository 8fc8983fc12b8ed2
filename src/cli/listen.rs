//! Where a server listens, and the line that says so.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Socket, Type};

use super::Error;

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
    #[arg(help = "Length of the queue of connections that wait to be accepted [default: 4096; slowpoetry: 128]")]
    pub backlog: Option<u32>,
}

impl ListenArgs {
    /// A socket that listens.
    ///
    /// # Errors
    /// The name cannot be resolved, or the address cannot be bound.
    pub fn bind(&self, default_backlog: u32) -> Result<TcpListener, Error> {
        let host = self.iface.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs().map_err(|error| Error::cannot("resolve", host, &error))?;
        let found: Vec<SocketAddr> = found.collect();
        let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
        let address = *address.ok_or_else(|| Error::failure(format!("cannot resolve {host}: it has no address")))?;
        let backlog = i32::try_from(self.backlog.unwrap_or(default_backlog)).unwrap_or(i32::MAX);
        bind(address, backlog).map_err(|error| Error::cannot("listen on", address, &error))
    }
}

fn bind(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of an earlier run that linger in TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Says on stdout where a server listens: `Serving FILE on 127.0.0.1:10000.` People copy it, scripts parse it.
///
/// # Errors
/// It cannot be written; that nobody reads it is no error.
pub fn announce(what: &str, listener: &TcpListener) -> Result<(), Error> {
    let address = listener.local_addr().map_err(|error| Error::cannot("find", "the port", &error))?;
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{what} on {address}.").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::cannot("write", "stdout", &error)),
        _ => Ok(()),
    }
}

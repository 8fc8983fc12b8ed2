//! Connecting to a server that may have several addresses, on a runtime that must not block: Happy Eyeballs (RFC 8305).

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::yield_now;
use tokio::time::{timeout, timeout_at};

use crate::address::Address;
use crate::candidates::{Candidate, Candidates, first_to_end, in_order, refuse_itself};
use crate::errors::reason;
use crate::pool::{NotCalled, Pool};

/// Threads for names: as many as a runtime would have for what blocks.
static LOOK_UPS: Pool = Pool::new(512);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name cannot be looked up, or has no address.
    #[error("cannot resolve the name: {}", reason(.0))]
    Resolve(io::Error),
    /// connect(2) failed for the last address.
    #[error("{}", reason(.0))]
    Connect(io::Error),
    /// The look-up, or the last address, did not answer in time.
    #[error("no connection for {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// This machine has no socket for it.
    #[error("{}", reason(.0))]
    Socket(io::Error),
    /// Every address of the name is one at which this server itself listens.
    #[error("that is this server itself")]
    Itself,
    /// No address of the name may be connected to.
    #[error("no connection is made to that address")]
    Forbidden,
    /// This machine has no thread for the look-up.
    #[error("cannot start a thread: {}", reason(.0))]
    Thread(io::Error),
}

/// What to know of the addresses of a name, beside the name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Route<'a> {
    /// The address whose connection failed the last time: the one after it is tried first.
    pub after: Option<SocketAddr>,
    /// Where this server itself listens: what leads there is left out.
    pub doors: &'a [SocketAddr],
    /// Which of the others may be connected to; `None`: any.
    pub may: Option<fn(IpAddr) -> bool>,
}

/// Connects to the address of a name that answers first.
///
/// getaddrinfo(3) blocks: it runs on a thread of its own, unless there is nothing to look up. An address
/// that does not answer is joined by the next one after a while ([`ATTEMPT_DELAY`](crate::candidates::ATTEMPT_DELAY)).
/// The `limit` is for the look-up, and again for each address. To drop the future is to give up.
///
/// # Errors
/// What became of the last address.
pub async fn dial(address: &Address, limit: Option<Duration>) -> Result<TcpStream, DialError> {
    dial_by(address, limit, Route::default()).await.map(|(stream, _)| stream)
}

/// [`dial`]s by a route, and tells which address it was.
///
/// # Errors
/// As for [`dial`]; or there is no address that does not lead back here.
pub async fn dial_by(
    address: &Address,
    limit: Option<Duration>,
    route: Route<'_>,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut addresses = within(limit, resolve(address)).await??;
    addresses.retain(|address| !route.doors.iter().any(|door| leads_to(*address, *door)));
    if addresses.is_empty() {
        return Err(DialError::Itself);
    }
    if let Some(may) = route.may {
        addresses.retain(|address| may(address.ip().to_canonical()));
        if addresses.is_empty() {
            return Err(DialError::Forbidden);
        }
    }
    match addresses[..] {
        // One has no rivals.
        [address] => match within(limit, connect(socket(address)?, address)).await? {
            Ok(stream) => Ok((stream, address)),
            Err(error) => Err(DialError::Connect(error)),
        },
        _ => first_of(in_order(&addresses, route.after), limit).await,
    }
}

/// A socket for a connection to this address.
fn socket(address: SocketAddr) -> Result<TcpSocket, DialError> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(DialError::Socket)
}

/// The connection to the first of these addresses that answers.
async fn first_of(order: Vec<SocketAddr>, limit: Option<Duration>) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut candidates = Candidates::new(order);
    let mut under_way: Vec<(Candidate, Connecting)> = Vec::new();
    loop {
        while let Some(candidate) = candidates.next(Instant::now()) {
            let Candidate { number, address } = candidate;
            match socket(address) {
                Ok(socket) => under_way.push((candidate, Box::pin(within(limit, connect(socket, address))))),
                Err(_) if !under_way.is_empty() => candidates.put_off(),
                Err(error) => candidates.failed(number, error),
            }
        }
        if under_way.is_empty() {
            return Err(candidates.failure().unwrap_or_else(|| DialError::Resolve(io::ErrorKind::NotFound.into())));
        }
        let ended = match candidates.due() {
            None => first_to_end(&mut under_way).await,
            Some(due) => match timeout_at(due.into(), first_to_end(&mut under_way)).await {
                Ok(ended) => ended,
                Err(_) => continue, // the next one is due
            },
        };
        match ended {
            (Candidate { address, .. }, Ok(Ok(stream))) => return Ok((stream, address)),
            (Candidate { number, .. }, Ok(Err(error))) => candidates.failed(number, DialError::Connect(error)),
            (Candidate { number, .. }, Err(late)) => candidates.failed(number, late),
        }
    }
}

/// What has become of a connection: first of its time, and then of itself.
type Connected = Result<io::Result<TcpStream>, DialError>;

/// A connection under way.
type Connecting = Pin<Box<dyn Future<Output = Connected> + Send>>;

async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, DialError> {
    match address.literal() {
        Some(address) => Ok(vec![address]),
        None => {
            let address = address.clone();
            match LOOK_UPS.run(move || address.resolve()).await {
                Ok(found) => found.map_err(DialError::Resolve),
                Err(NotCalled::NoThread(error)) => Err(DialError::Thread(error)),
                Err(NotCalled::Panicked) => Err(DialError::Resolve(io::Error::other("internal error"))),
            }
        }
    }
}

async fn connect(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket.connect(address).await?;
    refuse_itself(&stream, address)?;
    Ok(stream)
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, DialError> {
    match limit {
        None => Ok(work.await),
        Some(limit) => {
            let mut work = pin!(work);
            // Most work is done after one turn of the reactor, and needs no timer.
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = yield_now() => {}
            }
            timeout(limit, work).await.map_err(|_| DialError::Timeout(limit))
        }
    }
}

/// Whether a connection to `address` ends at a listener that is bound to `door`, which may be all addresses of its family
/// (`0.0.0.0`), or of both (`::`). Asks nobody but this machine, and sends nothing.
pub fn leads_to(address: SocketAddr, door: SocketAddr) -> bool {
    leads(address, door, is_ours, is_dual_stack)
}

/// [`leads_to`], on a machine of which the last two tell whether it has an address, and whether `::` is IPv4, too.
fn leads(address: SocketAddr, door: SocketAddr, is_ours: fn(IpAddr) -> bool, is_dual_stack: fn() -> bool) -> bool {
    if address.port() != door.port() {
        return false;
    }
    let ip = match address.ip().to_canonical() {
        // To connect to no address is to connect to this machine.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    match door.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ip.is_ipv4() && is_ours(ip),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (ip.is_ipv6() || is_dual_stack()) && is_ours(ip),
        door => ip == door.to_canonical(),
    }
}

/// Whether this machine has the address: then it is the one from which it would speak to it. (To bind it would not tell:
/// see ip_nonlocal_bind in ip(7).)
fn is_ours(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?; // the port does not matter: nothing is sent
        socket.local_addr()
    };
    ip.is_loopback() || source().is_ok_and(|source| source.ip() == ip)
}

/// Whether a socket that is bound to `::` takes IPv4, too: bindv6only in ipv6(7).
fn is_dual_stack() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| socket.only_v6()).is_ok_and(|only_v6| !only_v6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    use crate::address::made_up;

    use tokio::runtime::Builder;

    const LIMIT: Duration = Duration::from_secs(20);

    fn dialed(address: &str, limit: Option<Duration>) -> Result<SocketAddr, DialError> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let address = address.parse().expect("an address");
        let stream = runtime.block_on(dial(&address, limit))?;
        Ok(stream.peer_addr().expect("connected"))
    }

    #[test]
    fn an_address_is_dialed_with_a_limit_and_without() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        for limit in [None, Some(LIMIT)] {
            assert_eq!(dialed(&address.to_string(), limit).expect("connected"), address);
        }
    }

    #[test]
    fn each_address_of_a_name_is_tried() {
        // Whatever else it is, localhost is this address, too.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        assert_eq!(dialed(&format!("localhost:{}", address.port()), Some(LIMIT)).expect("connected"), address);
    }

    #[test]
    fn an_error_says_which_step_failed() {
        let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let refused = dialed(&unused.to_string(), Some(LIMIT)).expect_err("nobody listens");
        assert!(matches!(refused, DialError::Connect(_)), "{refused:?}");
        assert_eq!(refused.to_string(), "connection refused");
        let unknown = dialed("name.invalid:1", Some(LIMIT)).expect_err("no such name");
        assert!(matches!(unknown, DialError::Resolve(_)), "{unknown:?}");
        let late = dialed(&unused.to_string(), Some(Duration::ZERO)).expect_err("no time");
        assert!(matches!(late, DialError::Timeout(_) | DialError::Connect(_)), "{late:?}");
    }

    /// A listener whose queue is full, which drops further SYNs, and the connection that fills it.
    fn deaf() -> (SocketAddr, [Socket; 2]) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("listening");
        let address = listener.local_addr().expect("an address");
        let first = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        first.connect(&address).expect("the queue has one place");
        (address.as_socket().expect("IPv4"), [listener, first])
    }

    #[test]
    fn an_address_that_does_not_answer_is_given_up() {
        let (address, _held) = deaf();
        let late = dialed(&address.to_string(), Some(Duration::from_millis(20))).expect_err("no answer");
        assert_eq!(late.to_string(), "no connection for 20ms");
    }

    #[test]
    fn an_address_that_does_not_answer_is_joined_by_the_next_one() {
        let (dead, _held) = deaf();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let alive = listener.local_addr().expect("an address");
        let name = made_up::name(&[dead, alive]);
        // Without a limit: only another address can end this, or the kernel, which tries for longer.
        let start = Instant::now();
        assert_eq!(dialed(&name.to_string(), None).expect("connected"), alive);
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_failure_is_that_of_the_last_address_in_order() {
        let (dead, _held) = deaf();
        let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        for (addresses, why) in [([dead, unused], "connection refused"), ([unused, dead], "no connection for 400ms")] {
            let name = made_up::name(&addresses);
            let error = dialed(&name.to_string(), Some(Duration::from_millis(400))).expect_err("nobody listens");
            assert_eq!(error.to_string(), why);
        }
    }

    #[test]
    fn the_address_after_the_one_that_failed_is_dialed_first() {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let all = listeners.map(|listener| (listener.local_addr().expect("an address"), listener));
        let [a, b, c] = [all[0].0, all[1].0, all[2].0];
        let name = made_up::name(&[a, b, c]);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        for (after, first) in [(None, a), (Some(a), b), (Some(b), c), (Some(c), a)] {
            let route = Route { after, ..Route::default() };
            let (stream, address) = runtime.block_on(dial_by(&name, Some(LIMIT), route)).expect("connected");
            assert_eq!((stream.peer_addr().expect("connected"), address), (first, first), "after {after:?}");
        }
    }

    #[test]
    fn an_own_door_is_left_out() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [own, other] = listeners.each_ref().map(|listener| listener.local_addr().expect("an address"));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let route = Route { doors: &[own], ..Route::default() };
        let dial = |addresses: &[SocketAddr]| {
            let name = made_up::name(addresses);
            runtime.block_on(dial_by(&name, Some(LIMIT), route)).map(|(_, address)| address)
        };
        assert_eq!(dial(&[own, other]).expect("there is another one"), other);
        assert!(matches!(dial(&[own]), Err(DialError::Itself)));
    }

    #[test]
    fn what_leads_to_a_door() {
        let ours = |ip: IpAddr| ip.is_loopback() || ip == IpAddr::from([10, 0, 0, 1]);
        for (address, door, with_dual_stack, without) in [
            ("127.0.0.1:9", "127.0.0.1:9", true, true),
            ("127.0.0.1:9", "127.0.0.1:8", false, false),
            ("127.0.0.2:9", "127.0.0.1:9", false, false),
            ("[::1]:9", "127.0.0.1:9", false, false),
            ("0.0.0.0:9", "127.0.0.1:9", true, true),
            ("[::]:9", "[::1]:9", true, true),
            ("[::]:9", "127.0.0.1:9", false, false),
            ("[::ffff:127.0.0.1]:9", "127.0.0.1:9", true, true),
            ("127.0.0.2:9", "0.0.0.0:9", true, true),
            ("10.0.0.1:9", "0.0.0.0:9", true, true),
            ("10.0.0.2:9", "0.0.0.0:9", false, false),
            ("[::1]:9", "0.0.0.0:9", false, false),
            ("[::1]:9", "[::]:9", true, true),
            ("127.0.0.1:9", "[::]:9", true, false),
            ("10.0.0.2:9", "[::]:9", false, false),
        ] {
            let [to, at] = [address, door].map(|text| text.parse().expect("an address"));
            assert_eq!(leads(to, at, ours, || true), with_dual_stack, "{address} to {door}");
            assert_eq!(leads(to, at, ours, || false), without, "{address} to {door}, each family for itself");
        }
        assert!(is_ours([127, 0, 0, 2].into()) && !is_ours([192, 0, 2, 1].into()));
    }
}

//! Where a poem server is: `10001`, `poems.example:10001` or `[::1]:10001`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// The address of a server as somebody wrote it: a host and a TCP port.
///
/// Parsing never asks a resolver; [`Address::resolve`] does. [`fmt::Display`] writes the canonical
/// form `HOST:PORT`, with the brackets of RFC 3986 around an IPv6 host, and parsing that gives
/// the same address again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Ip(IpAddr),
    /// A name for the resolver, or an IPv6 address with a zone (`fe80::1%eth0`, RFC 4007),
    /// whose interface name only the system can translate.
    Name(String),
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; an address is PORT, HOST:PORT or [IPv6]:PORT")]
pub struct AddressError {
    why: &'static str,
}

impl AddressError {
    /// The reason alone.
    pub(crate) fn why(&self) -> &'static str {
        self.why
    }
}

/// A peer's address as people know it: an IPv4 client of a listener at `::` comes as `[::ffff:127.0.0.1]` (RFC 4291,
/// section 2.5.5.2), and is 127.0.0.1.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        // As it is, with its zone.
        IpAddr::V6(_) => address,
    }
}

const LONGEST_NAME: usize = 253; // RFC 1035, section 2.3.4, without the root's dot

impl Address {
    /// The TCP port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as one writes it alone: an IP address without brackets, or a name.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// The socket address, if none has to be looked up.
    pub fn literal(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// The socket addresses that are known without a resolver: that of a literal, and those of `localhost` (RFC 6761,
    /// section 6.3). None for any other name.
    pub fn known(&self) -> Vec<SocketAddr> {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        match &self.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, self.port)],
            Host::Name(name) if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") => {
                loopback.map(|ip| SocketAddr::new(ip, self.port)).to_vec()
            }
            Host::Name(_) => Vec::new(),
        }
    }

    /// Every socket address of the host, in the resolver's order of preference.
    ///
    /// This blocks: getaddrinfo(3) has no other form.
    ///
    /// # Errors
    /// Whatever the resolver says; an answer without an address is an error too.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = match &self.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, self.port)],
            #[cfg(test)]
            Host::Name(name) if made_up::is_known(name) => made_up::addresses(name),
            Host::Name(name) => (name.as_str(), self.port).to_socket_addrs()?.collect(),
        };
        if found.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(found)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |why| AddressError { why };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, after) = rest.split_once(']').ok_or(error("the bracket is never closed"))?;
                let port = after.strip_prefix(':').ok_or(error("no port after the bracket"))?;
                (ipv6(inside).ok_or(error("no IPv6 address in the brackets"))?, port)
            }
            None => match text.rsplit_once(':') {
                Some((host, port)) => (name_or_ipv4(host).map_err(error)?, port),
                // A host alone, by the look of it.
                None if text.starts_with(|c: char| c.is_alphabetic()) => return Err(error("no port")),
                None => (Host::Ip(Ipv4Addr::LOCALHOST.into()), text),
            },
        };
        let port = parse_port(port).map_err(error)?;
        Ok(Self { host, port })
    }
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    if text.is_empty() {
        return Err("no port");
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the port is not a number");
    }
    match text.parse() {
        Ok(0) | Err(_) => Err("the port is not between 1 and 65535"),
        Ok(port) => Ok(port),
    }
}

fn ipv6(text: &str) -> Option<Host> {
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Some(Host::Ip(ip.into()));
    }
    let (ip, zone) = text.split_once('%')?;
    let usable = !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_graphic() && b != b']');
    (usable && ip.parse::<Ipv6Addr>().is_ok()).then(|| Host::Name(text.to_owned()))
}

fn name_or_ipv4(text: &str) -> Result<Host, &'static str> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    if text.is_empty() {
        return Err("no host");
    }
    if text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') && text.contains(':') {
        return Err("an IPv6 address needs brackets");
    }
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.len() > LONGEST_NAME || !text.chars().all(fits) {
        return Err("the host is not a name");
    }
    Ok(Host::Name(text.to_owned()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Names that only tests know, for they have to have certain addresses.
#[cfg(test)]
pub(crate) mod made_up {
    use super::{Address, SocketAddr};
    use crate::sync::lock;
    use std::sync::Mutex;

    static NAMES: Mutex<Vec<Vec<SocketAddr>>> = Mutex::new(Vec::new());

    fn number(name: &str) -> Option<usize> {
        name.strip_suffix(".made-up")?.parse().ok()
    }

    /// A name that has these addresses, with their ports.
    pub(crate) fn name(addresses: &[SocketAddr]) -> Address {
        let mut names = lock(&NAMES);
        names.push(addresses.to_vec());
        format!("{}.made-up:1", names.len() - 1).parse().expect("an address")
    }

    pub(super) fn is_known(name: &str) -> bool {
        number(name).is_some()
    }

    pub(super) fn addresses(name: &str) -> Vec<SocketAddr> {
        number(name).and_then(|number| lock(&NAMES).get(number).cloned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, String> {
        match text.parse::<Address>() {
            Ok(address) => Ok(address.to_string()),
            Err(error) => Err(error.why.to_owned()),
        }
    }

    #[test]
    fn a_bare_port_is_on_this_machine() {
        assert_eq!(parse("10000").as_deref(), Ok("127.0.0.1:10000"));
        assert_eq!(parse("65535").as_deref(), Ok("127.0.0.1:65535"));
    }

    #[test]
    fn hosts_are_names_or_ip_addresses() {
        assert_eq!(parse("10.0.0.7:80").as_deref(), Ok("10.0.0.7:80"));
        assert_eq!(parse("poems.example:1").as_deref(), Ok("poems.example:1"));
        assert_eq!(parse("[::1]:10000").as_deref(), Ok("[::1]:10000"));
        assert_eq!(parse("[fe80::1%eth0]:9").as_deref(), Ok("[fe80::1%eth0]:9"));
    }

    #[test]
    fn the_reason_for_a_refusal_is_the_real_one() {
        for (text, why) in [
            ("", "no port"),
            ("foo", "no port"),
            ("0", "the port is not between 1 and 65535"),
            ("99999", "the port is not between 1 and 65535"),
            ("+80", "the port is not a number"),
            ("host:", "no port"),
            ("host:http", "the port is not a number"),
            (":80", "no host"),
            (":::", "an IPv6 address needs brackets"),
            ("::1:80", "an IPv6 address needs brackets"),
            ("[::1]", "no port after the bracket"),
            ("[::1]80", "no port after the bracket"),
            ("[::1:80", "the bracket is never closed"),
            ("[poems]:80", "no IPv6 address in the brackets"),
            ("[::1%]:80", "no IPv6 address in the brackets"),
            ("http://poems:80", "the host is not a name"),
            ("po ems:80", "the host is not a name"),
            ("po/ems:80", "the host is not a name"),
        ] {
            assert_eq!(parse(text).expect_err(text), why, "{text}");
        }
    }

    #[test]
    fn a_name_longer_than_dns_allows_is_refused() {
        assert!(parse(&format!("{}:1", "a".repeat(LONGEST_NAME))).is_ok());
        assert!(parse(&format!("{}:1", "a".repeat(LONGEST_NAME + 1))).is_err());
    }

    #[test]
    fn an_ipv4_address_in_an_ipv6_one_is_shown_as_what_it_is() {
        for (address, shown) in [
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[fe80::1%7]:80", "[fe80::1%7]:80"),
        ] {
            assert_eq!(canonical(address.parse().expect("an address")).to_string(), shown);
        }
    }

    #[test]
    fn literals_need_no_resolver() {
        let local: Address = "10000".parse().expect("valid");
        assert_eq!(local.literal(), Some(SocketAddr::from(([127, 0, 0, 1], 10000))));
        assert_eq!(local.resolve().expect("literal"), vec![local.literal().expect("literal")]);
        assert_eq!("localhost:1".parse::<Address>().expect("valid").literal(), None);
    }

    #[test]
    fn what_is_known_without_a_resolver() {
        for (text, known) in [
            ("9", "127.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            ("localhost:9", "127.0.0.1:9 [::1]:9"),
            ("LocalHost.:9", "127.0.0.1:9 [::1]:9"),
            ("poems.example:9", ""),
            ("[fe80::1%eth0]:9", ""),
        ] {
            let found: Vec<String> =
                text.parse::<Address>().expect("valid").known().iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), known, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<Address>();
        }

        #[test]
        fn what_is_shown_parses_to_the_same(host in "[a-z][a-z0-9.-]{0,20}", v6: u128, v4: u32, port in 1u16..) {
            for text in [
                format!("{host}:{port}"),
                format!("[{}]:{port}", Ipv6Addr::from(v6)),
                format!("{}:{port}", Ipv4Addr::from(v4)),
            ] {
                let address: Address = text.parse().expect(&text);
                prop_assert_eq!(&address, &address.to_string().parse::<Address>().expect("shown"));
                prop_assert_eq!(address.port(), port);
            }
        }
    }
}

//! Whom a forward proxy may be made to connect to. Whoever may use a proxy speaks with the address of its machine: to
//! services that are there for that machine alone, unless that is prevented.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whom it may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anybody but what hands out the secrets of a machine in a cloud.
    Any,
    /// Addresses of the public network.
    Public,
}

impl Reach {
    /// Whether a connection to this address is one of those.
    pub fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => is_no_metadata(ip),
            Self::Public => is_public(ip),
        }
    }

    pub(super) fn rule(self) -> fn(IpAddr) -> bool {
        match self {
            Self::Any => is_no_metadata,
            Self::Public => is_public,
        }
    }
}

/// The addresses at which clouds tell a machine its secrets: link-local ones (RFC 3927, RFC 4291), and one more.
fn is_no_metadata(ip: IpAddr) -> bool {
    const AMAZON: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip.to_canonical() {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(ip) => !ip.is_link_local(),
            None => !ip.is_unicast_link_local() && ip != AMAZON,
        },
    }
}

/// Whether an address is one of the public network, as far as the registries of special ones know (RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(ip) => is_public_v4(ip),
            None => {
                let is_documentation = matches!(ip.segments(), [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..]);
                // What is global unicast (RFC 4291, section 2.4).
                ip.segments()[0] & 0xe000 == 0x2000 && !is_documentation
            }
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let is_special = match ip.octets() {
        // This network; shared by providers; protocols; benchmarks; what was once multicast, and is kept for later.
        [0, ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [224..=255, ..] => true,
        _ => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_documentation(),
    };
    !is_special
}

/// The IPv4 address that a gateway makes of an IPv6 one (6to4, RFC 3056; NAT64, RFC 6052; the old "compatible" form).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        [0x2002, high, low, ..] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high > 0 => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_it_may_reach() {
        for (ip, by_any, by_public) in [
            ("93.184.216.34", true, true),
            ("2606:2800:220:1::1", true, true),
            ("127.0.0.1", true, false),
            ("127.9.9.9", true, false),
            ("::1", true, false),
            ("0.0.0.0", true, false),
            ("::", true, false),
            ("10.1.2.3", true, false),
            ("172.16.0.1", true, false),
            ("172.32.0.1", true, true),
            ("192.168.1.1", true, false),
            ("100.64.0.1", true, false),
            ("100.128.0.1", true, true),
            ("198.18.0.1", true, false),
            ("192.0.2.1", true, false),
            ("224.0.0.1", true, false),
            ("255.255.255.255", true, false),
            ("fc00::1", true, false),
            ("fd12:3456::1", true, false),
            ("ff02::1", true, false),
            ("2001:db8::1", true, false),
            ("::ffff:10.0.0.1", true, false),
            ("::ffff:93.184.216.34", true, true),
            ("2002:a00:1::", true, false),
            ("64:ff9b::a00:1", true, false),
            ("64:ff9b::5db8:d822", true, true),
            ("::10.0.0.1", true, false),
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("2002:a9fe:a9fe::", false, false),
            ("fe80::1", false, false),
            ("fd00:ec2::254", false, false),
        ] {
            let its: IpAddr = ip.parse().expect("an address");
            assert_eq!((Reach::Any.has(its), Reach::Public.has(its)), (by_any, by_public), "{ip}");
        }
    }
}

//! CONNECT: a connection to a server, for whatever the two have to say to each other (RFC 9110, section 9.3.6).

use std::io;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Instant;

use hyper::StatusCode;
use tokio_util::bytes::{Buf, BytesMut};
use tracing::{debug, info};

use super::asked::host_fault;
use super::shortened;
use super::upstream::{FetchError, Way};
use crate::address::Address;
use crate::net::Connection;
use crate::net::dial::dial_by;
use crate::net::relay::{RelayEnd, Relayed, Treatment, Upstream, relay};
use crate::pace::Ending;
use crate::proto::http::framing::{self, Framing};
use crate::proto::http::head::{self, Room, Version};
use crate::units::{count, human, micros};

/// The ports that a tunnel may lead to: `443`, `443,8000-8999`, `any`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Default for Ports {
    /// That of https.
    fn default() -> Self {
        Self(vec![443..=443])
    }
}

impl Ports {
    fn have(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self(vec![1..=u16::MAX]));
        }
        let port = |text: &str| {
            let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|port| is_digits && *port > 0)
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = port(first)?..=port(last)?;
            (!range.is_empty()).then_some(range)
        };
        let why = "ports are like 443, 443,8000-8999, or any";
        text.split(',').map(|part| range(part.trim())).collect::<Option<_>>().map(Self).ok_or_else(|| why.to_owned())
    }
}

/// Serves a CONNECT, of which the first line has arrived.
pub(super) async fn serve(
    way: &Way,
    ports: &Ports,
    connection: &mut Connection,
    mut ahead: BytesMut,
    until: Instant,
) -> io::Result<Ending> {
    let (peer, since) = (connection.peer(), Instant::now());
    let (target, refusal) = loop {
        if let Some(asked) = asked(way, ports, &mut ahead) {
            break asked;
        }
        match connection.read_some(&mut ahead, Some(until.saturating_duration_since(Instant::now()))).await {
            Ok(0) => return Ok(Ending::Fin),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return super::late(connection).await,
            Err(error) => return Err(error),
        }
    };
    let target = match (target, refusal) {
        (Some(target), _) => target,
        (None, (status, why)) => return super::refuse(connection, status, &why).await,
    };
    let dialed = tokio::select! {
        dialed = Box::pin(dial_by(&target, way.limit, way.route())) => dialed,
        error = connection.broken() => return Err(error),
    };
    let upstream = match dialed {
        Ok((stream, _)) => Upstream::new(stream),
        Err(error) => {
            let why = format!("Cannot connect to {target}: {error}");
            return super::refuse(connection, FetchError::Dial(error).status(), &why).await;
        }
    };
    connection.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let early = Treatment { early: ahead, ..Treatment::default() };
    let Relayed { up, down, end, .. } = relay(connection, &upstream, early, Treatment::default()).await;
    let elapsed_us = micros(since.elapsed());
    let (sent, received, time) = (count(up, "byte"), count(down, "byte"), human(since.elapsed()));
    info!(%peer, up, down, elapsed_us, "TUNNEL {peer}: {target}: {sent} up, {received} down in {time}");
    match end {
        RelayEnd::Both => {
            upstream.close();
            Ok(Ending::Fin)
        }
        RelayEnd::ClientBroke(error) => Err(error),
        end => {
            debug!(%peer, "{target}: {end:?}: {peer} is reset, too");
            Ok(Ending::Rst)
        }
    }
}

/// Whither, or why not; `None`: the head has not arrived as a whole. What follows the head is left.
fn asked(way: &Way, ports: &Ports, ahead: &mut BytesMut) -> Option<(Option<Address>, (StatusCode, String))> {
    let no =
        |status: u16, why: String| Some((None, (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), why)));
    let mut room = Room::default();
    let request = match head::request(ahead, &mut room) {
        Ok(request) => request?,
        Err(error) => return no(error.status(), super::sentence(&error.to_string())),
    };
    if let Some(why) = host_fault(request.fields.all("host"), request.version == Version::Http11) {
        return no(400, why.to_owned());
    }
    if framing::of_request(request.version, &request.fields) != Ok(Framing::None) {
        return no(400, "A CONNECT with a body is not forwarded".to_owned());
    }
    if request.fields.list("via").any(|via| via.split(|&byte| byte == b' ').nth(1) == Some(way.name.as_bytes())) {
        return no(508, "The request has been here before".to_owned());
    }
    let (target, length) = (request.target.to_owned(), request.len);
    // A port has to be said, and no path.
    let address = target.contains(':').then(|| target.parse::<Address>().ok()).flatten();
    let Some(address) = address else {
        return no(400, format!("CONNECT is for HOST:PORT, and not for {}", shortened(&target)));
    };
    if !ports.have(address.port()) {
        return no(403, format!("No tunnel leads to port {}: see --connect", address.port()));
    }
    ahead.advance(length);
    Some((Some(address), (StatusCode::OK, String::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_and_ranges() {
        let ports = |text: &str| text.parse::<Ports>();
        assert_eq!(ports("443"), Ok(Ports::default()));
        let some = ports("443, 8000-8999").expect("ports");
        assert!(some.have(443) && some.have(8_000) && some.have(8_999) && !some.have(9_000) && !some.have(80));
        assert!(ports("any").is_ok_and(|any| any.have(1) && any.have(u16::MAX)));
        for bad in ["", "0", "443,", "x", "2-1", "65536", "-1", "+1", "1-", "443;80"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}

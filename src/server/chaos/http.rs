//! HTTP through a chaos proxy: a draw for each request.
//!
//! What is passed on is not changed in a byte, whatever its fields say of connections and codings; the proxy only looks at
//! where messages end. One exchange comes after another, each with the connection to upstream that the client's has got:
//!
//! ```text
//!   hear the head ──▶ draw ──┬── error ──▶ read the body, say a reply of our own ─────╮
//!        ▲                   ├── hang, blackout ──▶ the end                           │
//!        │                   ╰── else ──▶ (wait) ──▶ (dial) ──▶ relay one message ────┤
//!        │                                              each way, or the request only │
//!        ╰────────────────────────────────────────────────────────────────────────────╯
//!   what is no HTTP, or is none any more: a relay of all the rest
//! ```

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use tokio_util::bytes::{Buf, BytesMut};
use tracing::{debug, warn};

use super::notes::Notes;
use super::{Behaviour, ChaosServer, Drawn, end_word, hang, say, wait};
use crate::net::Connection;
use crate::net::relay::{self, RelayEnd, Relayed, Treatment, Upstream, be_silent, is_quiet, relay, send_up, speaks};
use crate::pace::Ending;
use crate::proto::http::SERVER_HEAD;
use crate::proto::http::boundary::{After, Boundary};
use crate::proto::http::framing::{self, Decoder, Framing, Piece};
use crate::proto::http::head::{Request, Room, Version, request};
use crate::proto::http::reply::{head, reason};
use crate::units::{human, micros};

/// What a client says next.
enum Heard {
    /// A request, whose head is at the front of what was heard.
    Request(Asked),
    /// Nothing more, or the server is asked to stop.
    Nothing,
    /// Something that only upstream may understand; why, if that is strange.
    Else(Option<String>),
}

/// What has to be known of a request.
struct Asked {
    /// The length of its head, in bytes.
    head: usize,
    framing: Framing,
    reply: Boundary,
    is_head: bool,
    /// The client waits for leave to send the body.
    expects: bool,
    /// No other request follows.
    is_last: bool,
    /// `GET /`, for the log, if there is one.
    line: String,
}

/// What has become of an exchange.
enum Exchanged {
    /// The next one may follow.
    Next,
    /// The connection ends.
    End(Ending),
    /// What follows is no HTTP any more.
    Else,
}

/// What was passed on in an exchange, for the log.
#[derive(Default)]
struct Passed {
    up: u64,
    down: u64,
    status: Option<u16>,
}

/// A connection, and what of it was heard and not yet passed on.
struct Exchange<'c> {
    server: &'c ChaosServer,
    connection: &'c mut Connection,
    notes: Option<&'c Arc<Notes>>,
    heard: BytesMut,
    /// From upstream: of no reply.
    unasked: BytesMut,
    upstream: Option<Upstream>,
}

impl relay::Boundary for Boundary {
    fn take(&mut self, bytes: &[u8]) -> usize {
        self.take(bytes)
    }

    fn is_reached(&self) -> bool {
        matches!(self.after(), After::Next | After::Tunnel)
    }

    fn is_lost(&self) -> bool {
        matches!(self.after(), After::Lost(_))
    }
}

impl ChaosServer {
    /// Treats the requests of a connection, one by one.
    pub(super) async fn serve_requests(
        &self,
        connection: &mut Connection,
        rewrite_host: bool,
        notes: Option<&Arc<Notes>>,
    ) -> io::Result<Ending> {
        // Of many messages, which have been waited for already.
        connection.stream().set_nodelay(true)?;
        let (heard, unasked) = (BytesMut::new(), BytesMut::new());
        let mut exchange = Exchange { server: self, connection, notes, heard, unasked, upstream: None };
        let mut last = None;
        loop {
            exchange.rest().await;
            // Boxed: the future of a connection on which nothing is asked is a small one.
            match Box::pin(exchange.take_turn(rewrite_host, &mut last)).await? {
                Exchanged::Next => {}
                Exchanged::End(how) => return Ok(how),
                Exchanged::Else => break,
            }
        }
        Box::pin(exchange.pass_on(last)).await
    }
}

impl Exchange<'_> {
    /// Waits until anything may have happened, if nothing is under way.
    async fn rest(&mut self) {
        if !self.heard.is_empty() {
            return;
        }
        self.connection.set_idle(true);
        let upstream = self.upstream.as_deref();
        // An error is told once, and not here.
        let has_said = poll_fn(|context| upstream.map_or(Poll::Pending, |upstream| upstream.poll_read_ready(context)));
        tokio::select! {
            biased;
            _ = self.connection.readable() => {}
            () = self.connection.closing() => {}
            _ = has_said => {}
        }
    }

    /// Hears one request, and treats it as is drawn for it.
    async fn take_turn(&mut self, rewrite_host: bool, last: &mut Option<Drawn>) -> io::Result<Exchanged> {
        let mut asked = match self.hear().await? {
            Heard::Request(asked) => asked,
            Heard::Nothing => {
                // Between two requests nothing is cut short.
                if let Some(upstream) = self.upstream.take() {
                    upstream.close();
                }
                return Ok(Exchanged::End(Ending::Fin));
            }
            Heard::Else(why) => {
                if let Some(why) = why {
                    let peer = self.connection.peer();
                    warn!(%peer, "What {peer} says is passed on as bytes: {why}");
                }
                return Ok(Exchanged::Else);
            }
        };
        let drawn = self.server.draw(self.server.requests.fetch_add(1, Relaxed) + 1);
        if rewrite_host {
            self.rewrite_host(&mut asked);
        }
        let result = self.treat(asked, &drawn).await;
        *last = Some(drawn);
        result
    }

    /// Waits for the head of a request.
    async fn hear(&mut self) -> io::Result<Heard> {
        let mut is_fresh = true;
        loop {
            // A head that trickles is looked at once a line, and not once a byte.
            if is_fresh && !self.heard.is_empty() {
                let mut room = Room::default();
                match request(&self.heard, &mut room) {
                    Ok(None) => {}
                    Ok(Some(request)) => return Ok(Heard::of(&request)),
                    Err(bad) => return Ok(Heard::Else(Some(bad.to_string()))),
                }
            }
            let before = self.heard.len();
            let read = match &self.upstream {
                None if before > 0 => Some(self.connection.read_some(&mut self.heard, None).await?),
                Some(upstream) if before > 0 => tokio::select! {
                    biased;
                    read = self.connection.read_some(&mut self.heard, None) => Some(read?),
                    said = speaks(upstream) => {
                        said?;
                        return Ok(Heard::Else(None));
                    }
                },
                None => self.connection.read_request(&mut self.heard, None).await?,
                Some(upstream) => tokio::select! {
                    biased;
                    read = self.connection.read_request(&mut self.heard, None) => read?,
                    // It ends, or says what nobody has asked for.
                    said = speaks(upstream) => {
                        self.connection.set_idle(false);
                        said?;
                        return Ok(Heard::Else(None));
                    }
                },
            };
            match read {
                None => return Ok(Heard::Nothing),
                Some(0) if before == 0 && self.upstream.is_none() => return Ok(Heard::Nothing),
                Some(0) => return Ok(Heard::Else(None)),
                Some(_) => {}
            }
            // The first bytes may already be those of something else, and so may those that no line of a head has.
            let tells = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r');
            is_fresh = before == 0 || self.heard[before..].iter().any(tells) || self.heard.len() >= SERVER_HEAD;
        }
    }

    /// Has the request at the front of what was heard name upstream.
    fn rewrite_host(&mut self, asked: &mut Asked) {
        let start = self.heard.as_ptr().addr();
        let mut room = Room::default();
        let Ok(Some(request)) = request(&self.heard, &mut room) else { return };
        let name = self.server.upstream().to_string();
        let (mut rewritten, mut from) = (BytesMut::with_capacity(self.heard.len() + name.len()), 0);
        for host in request.fields.all("host") {
            // A value is a part of the buffer.
            let at = host.as_ptr().addr() - start;
            rewritten.extend_from_slice(&self.heard[from..at]);
            rewritten.extend_from_slice(name.as_bytes());
            from = at + host.len();
        }
        rewritten.extend_from_slice(&self.heard[from..]);
        asked.head = asked.head + rewritten.len() - self.heard.len();
        self.heard = rewritten;
    }

    /// Treats a request as drawn, and tells of it.
    async fn treat(&mut self, asked: Asked, drawn: &Drawn) -> io::Result<Exchanged> {
        let (began, mut passed, line) = (Instant::now(), Passed::default(), asked.line.clone());
        let result = self.exchange(asked, drawn, &mut passed).await;
        if tracing::enabled!(tracing::Level::DEBUG) {
            let (Passed { up, down, status }, Drawn { number, word, .. }) = (passed, drawn);
            let (peer, elapsed) = (self.connection.peer(), began.elapsed());
            let end = match &result {
                Ok(Exchanged::Next | Exchanged::Else) => status.map_or_else(String::new, |status| status.to_string()),
                Ok(Exchanged::End(how)) => end_word(&Ok(*how)).to_owned(),
                Err(error) => end_word(&Err(error.kind().into())).to_owned(),
            };
            debug!(
                request = number, %peer, behaviour = word, up, down, status, elapsed_us = micros(elapsed),
                "Request {number}, {peer}, {line}: {word}, {up} bytes up, {down} down in {}, {end}", human(elapsed)
            );
        }
        result
    }

    async fn exchange(&mut self, asked: Asked, drawn: &Drawn, passed: &mut Passed) -> io::Result<Exchanged> {
        let disturbance = &drawn.disturbance;
        match drawn.behaviour {
            Behaviour::Blackout => return Ok(Exchanged::End(Ending::Rst)),
            Behaviour::Hang => {
                self.upstream = None;
                let ending = hang(self.connection).await?;
                if let (Ending::Hang, Some(from_client)) = (ending, self.notes.and_then(|notes| notes.of_client())) {
                    from_client.ended();
                }
                return Ok(Exchanged::End(ending));
            }
            Behaviour::Error => return self.refuse(&asked, disturbance.status(drawn.number), passed).await,
            Behaviour::Delay if !disturbance.delay_after => wait(self.connection, disturbance.delay).await?,
            _ => {}
        }
        let upstream = match self.upstream.take() {
            // It may have ended while this request had to wait; nothing of it is said yet.
            Some(upstream) if drawn.behaviour != Behaviour::Delay || is_quiet(&upstream) => upstream,
            _ => {
                let upstream = self.server.dial(self.connection, self.notes).await?;
                upstream.set_nodelay(true)?;
                upstream
            }
        };
        let upstream = &*self.upstream.insert(upstream);
        let Asked { head, framing, mut reply, .. } = asked;
        let mut message = Boundary::of_request(head, framing);
        let (up, down) = self.server.treatments(drawn, self.notes);
        let up = Treatment { early: std::mem::take(&mut self.heard), message: Some(&mut message), ..up };
        if drawn.behaviour == Behaviour::Abort {
            let Relayed { up, .. } = send_up(self.connection, upstream, up).await;
            passed.up = up;
            return Ok(Exchanged::End(Ending::Rst));
        }
        let down = Treatment { message: Some(&mut reply), ..down };
        let Relayed { up, down, rest_up, rest_down, end } = relay(self.connection, upstream, up, down).await;
        if matches!(end, RelayEnd::Cut(Ending::Hang)) {
            be_silent(self.connection, upstream, self.notes.and_then(|notes| notes.of_client())).await;
        }
        (passed.up, passed.down, passed.status) = (up, down, reply.status());
        (self.heard, self.unasked) = (rest_up, rest_down);
        if let After::Lost(why) = message.after()
            && matches!(end, RelayEnd::Unasked)
        {
            let peer = self.connection.peer();
            warn!(%peer, "What {peer} says is passed on as bytes: {why}");
            return Ok(Exchanged::Else);
        }
        match (end, reply.after()) {
            (RelayEnd::Messages, After::Next) if self.unasked.is_empty() => Ok(Exchanged::Next),
            (RelayEnd::Messages, After::Lost(why)) => {
                let upstream = self.server.upstream();
                warn!(%upstream, "What {upstream} says is passed on as bytes: {why}");
                Ok(Exchanged::Else)
            }
            (RelayEnd::Messages | RelayEnd::Unasked, _) => Ok(Exchanged::Else),
            (end, _) => {
                let Some(upstream) = self.upstream.take() else { return Ok(Exchanged::End(Ending::Rst)) };
                self.server.ending(self.connection, self.notes, upstream, end).map(Exchanged::End)
            }
        }
    }

    /// Reads a request and answers it ourselves.
    async fn refuse(&mut self, asked: &Asked, status: u16, passed: &mut Passed) -> io::Result<Exchanged> {
        passed.status = Some(status);
        self.heard.advance(asked.head);
        let mut body = Decoder::new(asked.framing);
        if asked.expects && self.heard.is_empty() && !body.is_at_end() {
            say(self.connection, b"HTTP/1.1 100 Continue\r\n\r\n", &mut passed.down, self.notes).await?;
        }
        loop {
            let mut rest = &self.heard[..];
            let piece = body.next(&mut rest);
            let left = rest.len();
            match piece {
                Ok(Piece::Body(_)) => self.heard.advance(self.heard.len() - left),
                Ok(Piece::End) => {
                    self.heard.advance(self.heard.len() - left);
                    break;
                }
                Ok(Piece::More) => {
                    self.heard.clear();
                    if self.connection.read_some(&mut self.heard, None).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                // Nobody knows where it ends.
                Err(_) => return Ok(Exchanged::End(Ending::Rst)),
            }
        }
        let text = format!("{status} {}, by poetry-chaos\n", reason(status));
        let is_last = asked.is_last || self.connection.is_closing();
        let framing = Framing::Length(text.len() as u64);
        let mut reply = head(status, "text/plain; charset=utf-8", framing, is_last, "", SystemTime::now());
        if !asked.is_head {
            reply.extend_from_slice(text.as_bytes());
        }
        say(self.connection, &reply, &mut passed.down, self.notes).await?;
        Ok(if is_last { Exchanged::End(Ending::Fin) } else { Exchanged::Next })
    }

    /// Passes on all that follows, as bytes. It is treated as what was drawn last.
    async fn pass_on(mut self, drawn: Option<Drawn>) -> io::Result<Ending> {
        let upstream = match self.upstream.take() {
            Some(upstream) => upstream,
            None => self.server.dial(self.connection, self.notes).await?,
        };
        let drawn = drawn.unwrap_or_else(|| self.server.not_drawn());
        let (up, down) = self.server.treatments(&drawn, self.notes);
        let up = Treatment { early: self.heard, ..up };
        let down = Treatment { early: self.unasked, ..down };
        let Relayed { end, .. } = relay(self.connection, &upstream, up, down).await;
        if matches!(end, RelayEnd::Cut(Ending::Hang)) {
            be_silent(self.connection, &upstream, self.notes.and_then(|notes| notes.of_client())).await;
        }
        self.server.ending(self.connection, self.notes, upstream, end)
    }
}

impl Heard {
    /// What is to be known of a request; or that nobody knows where it ends.
    fn of(request: &Request<'_>) -> Self {
        let framing = match framing::of_request(request.version, &request.fields) {
            Ok(framing) => framing,
            Err(fault) => return Self::Else(Some(fault.to_string())),
        };
        let line = match tracing::enabled!(tracing::Level::DEBUG) {
            true => format!("{} {}", request.method, request.target),
            false => String::new(),
        };
        Self::Request(Asked {
            head: request.len,
            framing,
            reply: Boundary::of_reply(request.method),
            is_head: request.method == "HEAD",
            expects: request.version == Version::Http11 && request.fields.has_token("expect", "100-continue"),
            is_last: request.version == Version::Http10 || request.fields.has_token("connection", "close"),
            line,
        })
    }
}

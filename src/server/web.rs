//! What all servers of pages have in common: who may ask, which methods there are, what is on every answer, and bodies.
//!
//! Whoever can reach a page may read it; what a browser is made to do with it by pages of others is prevented: where that
//! matters, the name by which it is called has to be ours (DNS rebinding); nothing may be embedded or run that is not ours,
//! and nothing is for other origins.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{self, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::mpsc;
use tokio_util::bytes::{Bytes, BytesMut};
use tracing::debug;

use crate::net::{Connection, Stoppable, http};
use crate::pace::Ending;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const HTML: &str = "text/html; charset=utf-8";

/// On every answer, beside the policy.
const HEADERS: [(HeaderName, HeaderValue); 2] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// Nothing but what comes from here, and no forms.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);
/// Nothing that runs.
const POLICY_WITHOUT_SCRIPTS: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// And forms.
const POLICY_WITH_FORMS: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'",
);

/// The pages of one program, as those who ask for them have to know it.
#[derive(Debug)]
pub(super) struct Site {
    /// The program whose pages they are.
    pub(super) program: &'static str,
    /// Names by which it may be called, beside `localhost` and IP addresses; `None`: any.
    names: Option<Vec<String>>,
    policy: HeaderValue,
    /// Whether each answer is the last one of its connection.
    is_once: bool,
}

impl Site {
    /// Pages that are nobody else's business: it has to be called by one of these names.
    pub(super) fn called(program: &'static str, names: Vec<String>) -> Self {
        Self { program, names: Some(names), policy: POLICY, is_once: false }
    }

    /// Pages on which nothing runs.
    #[must_use]
    pub(super) fn without_scripts(self) -> Self {
        Self { policy: POLICY_WITHOUT_SCRIPTS, ..self }
    }

    /// Each request on a connection of its own.
    #[must_use]
    pub(super) fn once(self) -> Self {
        Self { is_once: true, ..self }
    }

    /// Pages for anybody, with forms.
    pub(super) fn public(program: &'static str) -> Self {
        Self { program, names: None, policy: POLICY_WITH_FORMS, is_once: false }
    }

    /// Answers the requests of a connection, as [`http::serve`] does; `make` makes the pages.
    ///
    /// # Errors
    /// As for [`http::serve`].
    pub(super) async fn serve<F: Future<Output = Response<Content>>>(
        &self,
        connection: &mut Connection,
        make: impl Fn(Parts) -> F,
    ) -> io::Result<Ending> {
        self.serve_from(connection, BytesMut::new(), make).await
    }

    /// [`serve`](Self::serve)s a connection of which these bytes have been read already.
    ///
    /// # Errors
    /// As for [`http::serve`].
    pub(super) async fn serve_from<F: Future<Output = Response<Content>>>(
        &self,
        connection: &mut Connection,
        ahead: BytesMut,
        make: impl Fn(Parts) -> F,
    ) -> io::Result<Ending> {
        let peer = connection.peer();
        debug!(%peer, "Somebody at {peer} wants a page!");
        let (stop, make) = (connection.stop(), &make);
        http::serve(connection, ahead, http::IDLE_TIME, |request: Request<Incoming>| {
            let is_closing = stop.is_closing();
            async move {
                let (request, _) = request.into_parts();
                let (method, path) = (request.method.clone(), request.uri.path().to_owned());
                let response = self.answer(request, is_closing, make).await;
                let (status, path) = (response.status().as_u16(), path.get(..path.len().min(200)).unwrap_or_default());
                debug!(%peer, status, "{peer}: {method} {path}: {status}");
                response
            }
        })
        .await
    }

    /// The answer to a request: the page, or why there is none.
    pub(super) async fn answer<F: Future<Output = Response<Content>>>(
        &self,
        request: Parts,
        is_closing: bool,
        make: impl FnOnce(Parts) -> F,
    ) -> Response<Content> {
        let has_body = has_body(&request.headers);
        let refusal = self.refusal(&request);
        let is_malformed = matches!(refusal, Some((StatusCode::BAD_REQUEST, _)));
        let mut response = match refusal {
            Some((status, why)) => whole(status, TEXT, why),
            None => make(request).await,
        };
        if matches!(response.status(), StatusCode::METHOD_NOT_ALLOWED | StatusCode::NO_CONTENT) {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        }
        // A body that was not asked for is not looked for, either.
        self.dress(&mut response, is_closing || has_body || is_malformed);
        response
    }

    /// Adds what is on every answer. `is_last`: no other one follows on its connection.
    pub(super) fn dress(&self, response: &mut Response<Content>, is_last: bool) {
        let headers = response.headers_mut();
        for (name, value) in self.headers() {
            headers.insert(name, value);
        }
        if self.is_once || is_last {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// What is on every answer.
    pub(super) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        HEADERS.into_iter().chain([(header::CONTENT_SECURITY_POLICY, self.policy.clone())])
    }

    /// Whether a request gets a page, if there is one.
    pub(super) fn allows(&self, request: &Parts) -> bool {
        self.refusal(request).is_none()
    }

    /// Why a request gets no page, if it gets none.
    fn refusal(&self, request: &Parts) -> Option<(StatusCode, String)> {
        // Two programs could see two requests in it; see proto::http::framing.
        if request.headers.contains_key(header::TRANSFER_ENCODING) {
            return Some((StatusCode::BAD_REQUEST, "A request for a page has no body in chunks\n".to_owned()));
        }
        match (self.refusal_of_host(request), &request.method) {
            (Some((status, why)), _) => Some((status, why + "\n")),
            (None, &Method::GET | &Method::HEAD) => None,
            (None, &Method::OPTIONS) => Some((StatusCode::NO_CONTENT, String::new())),
            (None, _) => Some((StatusCode::METHOD_NOT_ALLOWED, "GET it\n".to_owned())),
        }
    }

    /// Why a request gets no answer because of how it calls the server.
    pub(super) fn refusal_of_host(&self, request: &Parts) -> Option<(StatusCode, String)> {
        let bad = |why: &str| Some((StatusCode::BAD_REQUEST, why.to_owned()));
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return bad("There are two Host fields"),
            (None, None) if request.version == Version::HTTP_10 => None,
            (None, None) => return bad("There is no Host field"),
            (Some(host), None) => Some(host.to_str().unwrap_or_default()),
        };
        // A target that says a server itself is for that one (RFC 9112, section 3.2.2).
        let named = request.uri.authority().map(Authority::as_str);
        if [host, named].into_iter().flatten().any(|host| !self.is_ours(host)) {
            let how = "call it by localhost, an IP address, or a --host-name";
            return Some((StatusCode::FORBIDDEN, format!("This is {}; {how}", self.program)));
        }
        None
    }

    /// Whether it may be called by this name; the port does not matter.
    fn is_ours(&self, host: &str) -> bool {
        let Some(names) = &self.names else { return true };
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                let is_port = rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
                return is_port && address.parse::<IpAddr>().is_ok();
            }
            None => host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase(),
        };
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok()
            || names.iter().any(|ours| ours.eq_ignore_ascii_case(&name))
    }
}

/// Whether a request says that it has a body.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// A page that is there as a whole.
pub(super) fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::Whole(Some(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A page that is made as it is taken, in pieces.
pub(super) fn streamed(
    content_type: &'static str,
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
) -> Response<Content> {
    let mut response = Response::new(Content::Pieces { pieces: Box::new(pieces), count: 0 });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A page that is made by this work, which gives its pieces away one after another as it has them. The work goes on when
/// a piece is taken, and ends with the page, or when nobody wants that any more.
pub(super) fn live<F: Future<Output = ()> + Send + 'static>(
    content_type: &'static str,
    work: impl FnOnce(mpsc::Sender<Bytes>) -> F,
) -> Response<Content> {
    let (sender, pieces) = mpsc::channel(1);
    let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work(sender));
    let mut response = Response::new(Content::Live { work: Some(work), pieces });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The answer to whoever has the page already.
pub(super) fn not_modified() -> Response<Content> {
    let mut response = Response::new(Content::Whole(None));
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// A number that is another one for other things.
pub(super) fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// The name of a page among all that have been at its address (RFC 9110, section 8.8.3).
pub(super) fn entity_tag(hash: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{hash:016x}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether whoever asks has it already (RFC 9110, section 13.1.2).
pub(super) fn has_it(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|its| its == "*" || its.strip_prefix("W/").unwrap_or(its) == tag)
}

/// The body of an answer.
pub(super) enum Content {
    /// All of it; `None` when it is taken.
    Whole(Option<Bytes>),
    /// Pieces, each made when there is room for it.
    Pieces {
        /// They.
        pieces: Box<dyn Iterator<Item = Bytes> + Send>,
        /// How many others have waited for.
        count: usize,
    },
    /// Pieces that come when they do.
    Live {
        /// Who makes them; `None` when that is done.
        work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        /// Those that are made.
        pieces: mpsc::Receiver<Bytes>,
    },
}

/// After so many pieces others have a turn.
const TURN: usize = 4;

impl body::Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Whole(body) => body.take().filter(|body| !body.is_empty()),
            Self::Pieces { count: count @ TURN, .. } => {
                *count = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Self::Pieces { pieces, count } => {
                *count += 1;
                pieces.next()
            }
            Self::Live { work, pieces } => {
                // What it has made is taken before it goes on, and after.
                let mut next = pieces.poll_recv(context);
                if let (Poll::Pending, Some(making)) = (&next, &mut *work) {
                    if making.as_mut().poll(context).is_ready() {
                        *work = None;
                    }
                    next = pieces.poll_recv(context);
                }
                ready!(next)
            }
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Pieces { .. } | Self::Live { .. } => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(body) => f.debug_tuple("Whole").field(body).finish(),
            Self::Pieces { count, .. } => f.debug_struct("Pieces").field("count", count).finish_non_exhaustive(),
            Self::Live { .. } => f.debug_struct("Live").finish_non_exhaustive(),
        }
    }
}

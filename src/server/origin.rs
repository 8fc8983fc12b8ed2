//! What an HTTP server of poems has, and what it answers: GET and HEAD (RFC 9110), without sockets.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::wire::{Body, Framed, Source};
use crate::poem::Poem;
use crate::proto::http::framing::{self, Framing};
use crate::proto::http::head::{BadRequest, Request, Version};
use crate::proto::http::reply::head;
use crate::proto::http::target;
use crate::sync::lock;

/// The time that a client has for the head of a request.
pub const HEAD_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// Who says where a reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaidBy {
    /// Content-Length.
    Length,
    /// The last chunk.
    Chunks,
    /// The end of the stream.
    Close,
}

/// A server's resources, and how it sends them.
#[derive(Debug)]
pub struct Origin {
    content: Content,
    said_by: SaidBy,
}

#[derive(Debug)]
enum Content {
    /// One poem, at `/` and at `/NAME`.
    Poem { poem: Mutex<Poem>, name: String },
    /// The plain files below a directory.
    Directory(OwnedFd),
}

/// A reply.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status code, for the log.
    pub(super) status: u16,
    /// The head and the body.
    pub(super) body: Body,
    /// Whether the connection ends with it.
    pub(super) is_last: bool,
    /// Whether it is a resource, and the plan of the server is about it.
    pub(super) is_planned: bool,
}

/// A refusal: a status, and a sentence.
type Refusal = (u16, String);

impl Origin {
    /// A server of one poem, which is called after its file.
    pub fn of_poem(poem: Poem, path: &Path, said_by: SaidBy) -> Self {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self { content: Content::Poem { poem: Mutex::new(poem), name }, said_by }
    }

    /// A server of all plain files below a directory: those whose path has no segment that begins with a dot, and that no
    /// symbolic link leads out to.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn of_directory(path: &Path, said_by: SaidBy) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { content: Content::Directory(directory), said_by })
    }

    /// Serves another poem from now on.
    pub fn set_poem(&self, new: Poem) {
        if let Content::Poem { poem, .. } = &self.content {
            *lock(poem) = new;
        }
    }

    /// The reply to a request. If the server `is_stopping`, it is the last one on its connection.
    pub(super) fn answer(&self, request: &Request<'_>, is_stopping: bool) -> Answer {
        let is_head = request.method == "HEAD";
        match self.find(request) {
            Ok((source, media_type)) => {
                let framing = match self.said_by {
                    SaidBy::Length => Framing::Length(source.len()),
                    SaidBy::Chunks if request.version == Version::Http11 => Framing::Chunked,
                    SaidBy::Chunks | SaidBy::Close => Framing::UntilClose,
                };
                let is_last = is_stopping || framing == Framing::UntilClose || is_last(request);
                let source = if is_head { Source::Poem(Vec::new().into()) } else { source };
                let head = head(200, media_type, framing, is_last, "", SystemTime::now());
                let body = Framed::new(head, if is_head { Framing::None } else { framing }, source);
                Answer { status: 200, body: Body::Framed(Box::new(body)), is_last, is_planned: true }
            }
            Err((status, why)) => {
                // What follows a request that was not understood, or its body, is not looked for.
                let is_last = is_stopping || status == 400 || is_last(request);
                Self::refusal(status, &why, is_last, is_head)
            }
        }
    }

    /// The reply to what is no request; the last one on its connection.
    pub(super) fn refuse(bad: BadRequest) -> Answer {
        Self::refusal(bad.status(), &bad.to_string(), true, false)
    }

    /// The reply to a request that does not arrive in time.
    pub(super) fn time_out() -> Answer {
        let why = format!("the head of the request is not complete after {}", humantime::format_duration(HEAD_TIME));
        Self::refusal(408, &why, true, false)
    }

    fn refusal(status: u16, why: &str, is_last: bool, is_head: bool) -> Answer {
        let text = format!("{why}\n").into_bytes();
        let framing = Framing::Length(text.len() as u64);
        let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let head = head(status, "text/plain; charset=utf-8", framing, is_last, allow, SystemTime::now());
        let (framing, text) = if is_head { (Framing::None, Vec::new()) } else { (framing, text) };
        let body = Framed::new(head, framing, Source::Poem(text.into()));
        Answer { status, body: Body::Framed(Box::new(body)), is_last, is_planned: false }
    }

    /// What a request asks for, and of which kind it is.
    fn find(&self, request: &Request<'_>) -> Result<(Source, &'static str), Refusal> {
        check(request)?;
        let segments = target::path(request.target).map_err(|bad| match bad {
            target::BadPath::Dot => nothing_there(),
            bad => (400, bad.to_string()),
        })?;
        match &self.content {
            Content::Poem { poem, name } => match &segments[..] {
                [only] if only.is_empty() || only == name => Ok((Source::Poem(lock(poem).clone()), media_type(name))),
                _ => Err((404, format!("the poem is at / and at /{name}"))),
            },
            Content::Directory(directory) => {
                let kind = segments.last().map_or("", |name| media_type(name));
                open_beneath(directory, &segments).map(|source| (source, kind))
            }
        }
    }
}

/// Whether a request, however it is answered, is the last one on its connection.
fn is_last(request: &Request<'_>) -> bool {
    let has_body = framing::of_request(request.version, &request.fields) != Ok(Framing::None);
    has_body || request.version == Version::Http10 || request.fields.has_token("connection", "close")
}

/// Checks what every request has to keep to.
fn check(request: &Request<'_>) -> Result<(), Refusal> {
    framing::of_request(request.version, &request.fields).map_err(|fault| (400, fault.to_string()))?;
    let mut hosts = request.fields.all("host");
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version == Version::Http11 => return Err((400, "there is no Host field".to_owned())),
        (_, Some(_)) => return Err((400, "there are two Host fields".to_owned())),
        (Some(host), None) if !host.iter().all(|&byte| is_of_a_host(byte)) => {
            return Err((400, "the Host field is no host".to_owned()));
        }
        _ => {}
    }
    match request.method {
        "GET" | "HEAD" => Ok(()),
        "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            Err((405, "there are only poems to GET here".to_owned()))
        }
        _ => Err((501, "this server knows GET and HEAD".to_owned())),
    }
}

/// RFC 3986, section 3.2.2, and the port.
fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}

fn nothing_there() -> Refusal {
    (404, "there is nothing at this path".to_owned())
}

/// Opens a plain file below a directory: openat2(2), which no link leads out of.
fn open_beneath(directory: &OwnedFd, segments: &[String]) -> Result<Source, Refusal> {
    // A slash at the end is that of a directory, and none is shown.
    if segments.last().is_none_or(String::is_empty) {
        return Err(nothing_there());
    }
    let path: PathBuf = segments.iter().collect();
    // A FIFO must not hold up anybody.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file =
        openat2(directory, &path, flags, Mode::empty(), resolve).map(File::from).map_err(|error| match error {
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => (403, "this file is not for everybody".to_owned()),
            rustix::io::Errno::MFILE
            | rustix::io::Errno::NFILE
            | rustix::io::Errno::AGAIN
            | rustix::io::Errno::NOMEM => (503, "there are too many open files".to_owned()),
            _ => nothing_there(),
        })?;
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(Source::File(file, found.len())),
        _ => Err(nothing_there()),
    }
}

/// The media type of a file, by the end of its name. What has none is a poem.
fn media_type(name: &str) -> &'static str {
    let Some((_, ending)) = name.rsplit_once('.') else { return "text/plain; charset=utf-8" };
    match &*ending.to_ascii_lowercase() {
        "txt" | "md" | "log" => "text/plain; charset=utf-8",
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "gif" => "image/gif",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        _ => "application/octet-stream",
    }
}

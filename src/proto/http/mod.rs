//! HTTP/1.1 without sockets: what a request asks for, and who says where a message ends (RFC 9110, RFC 9112).
//!
//! ```text
//!   GET /science.txt HTTP/1.1        HTTP/1.1 200 OK
//!   Host: localhost:8080             Content-Length: 653      ◀── or Transfer-Encoding: chunked,
//!                                                                 or the end of the stream
//!                                    Sonnet - To Science ...
//! ```
//!
//! | file | |
//! |---|---|
//! | [`head`] | the lines before the body, by way of httparse, within limits |
//! | [`fields`] | what the lines of a head mean: lists, lengths, which of them are for one connection only |
//! | [`framing`] | one decision, who says where the body ends; and bodies as they come and go |
//! | [`boundary`] | where a message ends that is only passed on |
//! | [`reply`] | heads of replies that we make ourselves |
//! | [`fresh`] | what a cache may do with a request and its reply |
//! | [`form`] | what a form in a URL says |
//! | [`target`] | what is asked for: addresses of clients, and paths as servers see them |
//!
//! Strict where the end of a message is decided, lenient where it is not. A line of a head may end with a bare LF, as
//! people type it; a line between chunks may not. Two different lengths, a length beside a coding, a coding that is not
//! known: these are errors, because two programs could read them in two ways.

pub mod boundary;
pub mod fields;
pub mod form;
pub mod framing;
pub mod fresh;
pub mod head;
pub mod reply;
pub mod target;

/// The longest first line of a request, in bytes. RFC 9112, section 3, asks for as much at least.
pub const REQUEST_LINE: usize = 8_000;
/// The longest head that a server reads, in bytes.
pub const SERVER_HEAD: usize = 16 << 10;
/// The longest head that a client reads, in bytes.
pub const CLIENT_HEAD: usize = 64 << 10;
/// The most fields in a head.
pub const FIELDS: usize = 100;
/// The longest line that begins a chunk, in bytes, its extensions included.
pub const CHUNK_LINE: usize = 4 << 10;
/// The longest trailers of a body, in bytes. They are read and dropped.
pub const TRAILERS: usize = 16 << 10;
/// The most interim replies (1xx) before the final one.
pub const INTERIM_REPLIES: usize = 10;

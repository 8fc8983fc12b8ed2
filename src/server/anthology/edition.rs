//! What a source had when it was last fetched, made ready for everybody: the bytes, what is shown of them, and its part of
//! a page.

use std::time::{Duration, Instant};

use tokio_util::bytes::Bytes;

use super::charset::Charset;
use super::content::Content;
use super::markup::markup;
use super::record::Record;

/// What a source had.
#[derive(Debug)]
pub(super) struct Edition {
    /// As it came.
    pub(super) bytes: Bytes,
    pub(super) charset: Charset,
    pub(super) content: Content,
    /// The content in a page.
    pub(super) html: Bytes,
    pub(super) since: Instant,
    /// How it came.
    pub(super) record: Record,
}

impl Edition {
    /// This content of these bytes.
    pub(super) fn new(bytes: Vec<u8>, charset: Charset, content: Content, record: Record) -> Self {
        let html = markup(&content);
        Self { bytes: bytes.into(), charset, content, html, since: Instant::now(), record }
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

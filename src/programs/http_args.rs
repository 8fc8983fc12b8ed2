//! The flags of a poem server over HTTP.

use crate::server::origin::SaidBy;

/// The flags about HTTP.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub(super) struct HttpArgs {
    /// Serve over HTTP (GET and HEAD), with all of the pace and the faults
    #[arg(long, conflicts_with = "never_accept")]
    pub(super) http: bool,

    /// Who says where a reply ends [default: length]
    ///
    /// docs/framing.md shows what a client can know then.
    #[arg(long, value_name = "HOW", value_enum, requires = "http")]
    framing: Option<Framing>,
}

/// Who says where a reply ends, as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Framing {
    /// Content-Length: half a reply is known to be half
    Length,
    /// Chunks, each of which says how long it is: half a reply is known to be half
    Chunked,
    /// The end of the stream: half a reply looks like a whole one
    Close,
}

impl HttpArgs {
    /// Who says where a reply ends, if it is HTTP.
    pub(super) fn said_by(self) -> Option<SaidBy> {
        let said_by = match self.framing {
            None | Some(Framing::Length) => SaidBy::Length,
            Some(Framing::Chunked) => SaidBy::Chunks,
            Some(Framing::Close) => SaidBy::Close,
        };
        self.http.then_some(said_by)
    }

    /// What a server does, for the address line: `Serving FILE`, or `Serving FILE over HTTP`.
    pub(super) fn serving(self, what: impl std::fmt::Display) -> String {
        format!("Serving {what}{}", if self.http { " over HTTP" } else { "" })
    }
}

//! The finder for people with telnet or nc: a prompt, a line with a query, lines with an answer, and a prompt again.

use std::io;
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio_util::bytes::{Buf, BytesMut};
use tracing::debug;

use super::{Finder, LONGEST_QUERY};
use crate::metrics::Page;
use crate::net::{Connection, Handler, Peer};
use crate::pace::Ending;
use crate::proto::telnet::{End, Lines};
use crate::unicode::{Query, Quoted, Rows, Status};

const PROMPT: &str = "?> ";
const LINE_END: &str = "\r\n";

/// Answers queries, a line each.
#[derive(Debug)]
pub struct LineFinder {
    finder: Finder,
    /// A client that says nothing for so long is let go. `None`: never.
    idle_timeout: Option<Duration>,
}

/// What a client has said.
#[derive(Debug)]
enum Said {
    Line(Vec<u8>),
    /// The last line, without an end: nothing more comes.
    Last(Vec<u8>),
    /// Nothing more.
    Goodbye,
}

/// What is to be said to a line.
enum Reply {
    /// Nothing but the prompt.
    Prompt,
    /// That, before the prompt.
    Line(String),
    /// These, and the line after them.
    Rows(Rows, String),
    /// It wants to go.
    Farewell,
}

impl LineFinder {
    /// A server that lets go of clients that say nothing for so long.
    pub fn new(idle_timeout: Option<Duration>) -> Self {
        Self { finder: Finder::new(), idle_timeout }
    }

    /// Adds its metrics.
    pub fn add_metrics(&self, page: &mut Page, labels: &[(&str, &str)]) {
        self.finder.add_metrics(page, labels);
    }

    /// What the client says next.
    async fn hear(&self, connection: &mut Connection, arrived: &mut BytesMut, lines: &mut Lines) -> io::Result<Said> {
        loop {
            let mut rest = &arrived[..];
            let taken = lines.take_line(&mut rest);
            let taken_bytes = arrived.len() - rest.len();
            arrived.advance(taken_bytes);
            match taken {
                Ok(Some(line)) => return Ok(Said::Line(line)),
                Ok(None) => {}
                Err(end) => return self.end(connection, end).await,
            }
            // Nothing is kept for a client that may be silent for long.
            *arrived = BytesMut::new();
            let read = match lines.is_at_rest() {
                true => connection.read_request(arrived, self.idle_timeout).await.transpose(),
                false => Some(connection.read_some(arrived, self.idle_timeout).await),
            };
            match read {
                None => return Ok(Said::Goodbye),
                Some(Ok(0)) => return Ok(lines.finish().map_or(Said::Goodbye, Said::Last)),
                Some(Ok(_)) => {}
                Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    let (peer, limit) = (connection.peer(), self.idle_timeout.unwrap_or_default());
                    debug!(%peer, "{peer} has said nothing for {}", humantime::format_duration(limit));
                    return Ok(Said::Goodbye);
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }

    async fn end(&self, connection: &Connection, end: End) -> io::Result<Said> {
        let peer = connection.peer();
        debug!(%peer, "{peer} leaves: {end}");
        if end == End::TooLong {
            connection.send_all(format!("line too long{LINE_END}").as_bytes()).await?;
        }
        Ok(Said::Goodbye)
    }

    fn reply(&self, peer: Peer, line: &[u8]) -> Reply {
        let Ok(text) = str::from_utf8(line) else { return Reply::Farewell };
        let query = match Query::parse(text) {
            Ok(query) => query,
            Err(malformed) => return Reply::Line(malformed.to_string()),
        };
        match query.text().chars().next() {
            None => return Reply::Prompt,
            // A control, as Ctrl-D of a terminal that sends each key.
            Some(..' ') => return Reply::Farewell,
            Some(_) => {}
        }
        let found = self.finder.find(&query);
        let total = found.total();
        debug!(%peer, total, "{peer}: {total} for {}", Quoted(query.text()));
        Reply::Rows(self.finder.index.rows(found.into_codes(0)), Status { total, query: query.text() }.to_string())
    }

    /// Sends an answer as fast as the client takes it, and the prompt.
    async fn answer(&self, connection: &Connection, reply: Reply) -> io::Result<()> {
        let mut piece = String::new();
        match reply {
            Reply::Prompt | Reply::Farewell => {}
            Reply::Line(line) => piece = line + LINE_END,
            Reply::Rows(mut rows, status) => {
                while self.finder.add_lines(&mut rows, LINE_END, &mut piece) {
                    connection.send_all(piece.as_bytes()).await?;
                    piece.clear();
                    // There is more of it, and others are there, too.
                    yield_now().await;
                }
                piece += &status;
                piece += LINE_END;
            }
        }
        piece += PROMPT;
        connection.send_all(piece.as_bytes()).await
    }
}

impl Handler for LineFinder {
    /// An answer ends with the prompt.
    const EOF_ENDS_MESSAGE: bool = false;

    async fn serve(&self, connection: &mut Connection) -> io::Result<Ending> {
        let peer = connection.peer();
        debug!(%peer, "Somebody at {peer} looks for characters!");
        connection.send_all(PROMPT.as_bytes()).await?;
        let (mut arrived, mut lines) = (BytesMut::new(), Lines::new(LONGEST_QUERY));
        loop {
            let (line, is_last) = match self.hear(connection, &mut arrived, &mut lines).await? {
                Said::Line(line) => (line, false),
                Said::Last(line) => (line, true),
                Said::Goodbye => return Ok(Ending::Fin),
            };
            match self.reply(peer, &line) {
                Reply::Farewell => return Ok(Ending::Fin),
                reply => self.answer(connection, reply).await?,
            }
            if is_last {
                return Ok(Ending::Fin);
            }
            // A client that has asked for much at once must not keep others waiting.
            consume_budget().await;
        }
    }
}

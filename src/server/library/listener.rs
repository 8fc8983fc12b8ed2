//! The one connection on which changes are announced, and whether it still is one.
//!
//! It is no pooled connection, and nothing else is asked on it: whatever ends it ends the cache's certainty, at once.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client};
use tracing::{info, warn};

use super::Library;
use super::database::{RETRY, in_words, longer, with_jitter};
use super::schema::{CHANNEL, TEST_CHANNEL};

/// How often it is asked whether it is there, and how long it may take to say so: a connection that is silently cut is
/// noticed after both together.
const LOOK: Duration = Duration::from_secs(5);
/// How long a server waits at its start for what it tells itself.
const TEST: Duration = Duration::from_secs(2);

/// A connection on which is listened.
pub(super) struct Listening {
    client: Client,
    /// Why it is over.
    over: JoinHandle<String>,
}

impl Listening {
    /// Begins to listen. Whatever is committed after that is announced to the library.
    pub(super) async fn begin(library: &Arc<Library>) -> Result<Self, String> {
        let (client, mut connection) = library.target.connect("poetry-library listen").await?;
        let hearer = Arc::clone(library);
        let over = tokio::spawn(async move {
            let why = loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(said))) => hearer.hear(said.channel(), said.payload()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break in_words(&error),
                    None => break "the connection has ended".to_owned(),
                }
                // However many have come: others are to be read for, too.
                tokio::task::consume_budget().await;
            };
            hearer.stop_listening();
            why
        });
        let listen = format!("LISTEN {CHANNEL}; LISTEN {TEST_CHANNEL}");
        match timeout(LOOK, client.batch_execute(&listen)).await {
            Ok(Ok(())) => Ok(Self { client, over }),
            Ok(Err(error)) => Err(in_words(&error)),
            Err(_) => {
                over.abort();
                Err("it does not answer".to_owned())
            }
        }
    }

    /// Whether what is announced arrives: poolers take LISTEN, and deliver nothing.
    pub(super) async fn test(&self, library: &Library, other: &Client) -> Result<(), String> {
        let token = &library.token;
        let notify = format!("NOTIFY {TEST_CHANNEL}, '{token}'");
        other.batch_execute(&notify).await.map_err(|error| in_words(&error))?;
        timeout(TEST, library.has_heard_itself.notified()).await.map_err(|_| {
            "notifications do not arrive: LISTEN does not work through a pooler in transaction mode (pgbouncer); connect to \
             PostgreSQL itself"
                .to_owned()
        })
    }

    /// Waits until it is over, and returns why.
    async fn over(&mut self) -> String {
        loop {
            tokio::select! {
                why = &mut self.over => return why.unwrap_or_else(|error| error.to_string()),
                () = sleep(LOOK) => {}
            }
            // What is lost is told by the other task.
            if timeout(LOOK, self.client.batch_execute("SELECT 1")).await.is_err() {
                self.over.abort();
                return format!("it has not answered for {}", humantime::format_duration(LOOK));
            }
        }
    }
}

/// Listens for as long as the server lives, whatever happens to the connection.
pub(super) async fn keep_listening(library: Arc<Library>, mut listening: Listening) {
    loop {
        let why = listening.over().await;
        library.stop_listening();
        if library.listens_once {
            warn!("Changes are not announced any more, and nobody notices: {why}");
            return;
        }
        warn!("Nothing is served from memory, for changes are not announced any more: {why}");
        let mut pause = RETRY;
        listening = loop {
            sleep(with_jitter(pause)).await;
            match Listening::begin(&library).await {
                Ok(listening) => break listening,
                Err(_) => pause = longer(pause),
            }
        };
        library.resume();
        info!("Changes are announced again");
    }
}

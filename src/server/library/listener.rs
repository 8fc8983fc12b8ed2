//! The one connection on which changes are announced, and whether it still is one.
//!
//! It is no pooled connection, and nothing is asked on it but whether it is there, and the table with its triggers: whatever
//! ends it ends the cache's certainty, at once.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};
use tracing::{info, warn};

use super::Library;
use super::database::{RETRY, in_words, limit, longer, with_jitter};
use super::schema::{self, CHANNEL, TEST_CHANNEL};

/// How often is looked whether it is there, and the table with its triggers; and how long the answer may take: a connection
/// that is silently cut is noticed after both together.
const LOOK: Duration = Duration::from_secs(5);
/// How long a server waits for what it tells itself.
const TEST: Duration = Duration::from_secs(2);
/// So many announcements in one go are a flood: what is announced now was changed some time ago.
const FLOOD: u32 = 1_000;

/// A connection on which is listened.
pub(super) struct Listening {
    client: Client,
    /// Why it is over.
    over: JoinHandle<String>,
    /// As it was when it was last looked at.
    table: String,
}

impl Listening {
    /// Begins to listen: whatever is committed after that is announced to the library. Makes the table and its triggers, if
    /// they are not there.
    pub(super) async fn begin(library: &Arc<Library>) -> Result<Self, String> {
        // Before anything that a pooler does not understand.
        let other = library.target.connect_writable().await?;
        let (client, connection) = library.target.connect("poetry-library listen").await?;
        let over = tokio::spawn(hear(Arc::clone(library), connection));
        let listen = format!("LISTEN {CHANNEL}; LISTEN {TEST_CHANNEL}");
        let begun = async {
            client.batch_execute(&listen).await.map_err(|error| in_words(&error))?;
            test(library, &other).await?;
            let create = async {
                limit(&other, library.target.statement_timeout()).await?;
                let is_made = schema::create(&other).await?;
                Ok((is_made, schema::state(&client).await?.table))
            };
            create.await.map_err(|error| in_words(&error))
        };
        match timeout(2 * LOOK, begun).await.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
            Ok((is_made, table)) => {
                if is_made {
                    info!("The table patron and its triggers are made");
                }
                Ok(Self { client, over, table })
            }
            Err(why) => {
                over.abort();
                Err(why)
            }
        }
    }

    /// Waits until it is over, and returns why.
    async fn over(&mut self, library: &Library) -> String {
        loop {
            let is_flood = tokio::select! {
                why = &mut self.over => return why.unwrap_or_else(|error| error.to_string()),
                () = library.is_flooded.notified() => true,
                () = sleep(LOOK) => false,
            };
            // What is announced comes before the answer, however much it is, and as long as it comes somebody is there.
            let mut looked = pin!(schema::state(&self.client));
            let state = loop {
                let heard = library.heard();
                match timeout(LOOK, &mut looked).await {
                    Ok(state) => break state,
                    Err(_) if library.heard() > heard => {}
                    Err(_) => {
                        self.over.abort();
                        return format!("it has not answered for {}", humantime::format_duration(LOOK));
                    }
                }
            };
            match state {
                // What is lost is told by the other task.
                Err(_) => continue,
                Ok(state) if !state.is_there => {
                    self.over.abort();
                    return "the triggers of the table are gone".to_owned();
                }
                Ok(state) if state.table != self.table => {
                    info!("All rows are forgotten, for something was done to the table");
                    library.forget();
                    self.table = state.table;
                }
                Ok(_) => {}
            }
            if is_flood {
                library.resume();
            }
        }
    }
}

/// Hands on what is announced, until the connection ends; returns why it does.
async fn hear(library: Arc<Library>, mut connection: Connection<Socket, NoTlsStream>) -> String {
    let mut in_one_go = 0;
    let why = loop {
        let message = poll_fn(|context| {
            let message = connection.poll_message(context);
            in_one_go = if message.is_pending() { 0 } else { in_one_go + 1 };
            message
        });
        match message.await {
            Some(Ok(AsyncMessage::Notification(said))) => library.hear(said.channel(), said.payload()),
            Some(Ok(_)) => {}
            Some(Err(error)) => break in_words(&error),
            None => break "the connection has ended".to_owned(),
        }
        if in_one_go > 0 && in_one_go % FLOOD == 0 {
            library.flood();
        }
        // However many have come: others are to be read for, too.
        tokio::task::consume_budget().await;
    };
    library.stop_listening();
    why
}

/// Whether what is announced arrives: poolers take LISTEN, and deliver nothing.
async fn test(library: &Library, other: &Client) -> Result<(), String> {
    let notify = format!("NOTIFY {TEST_CHANNEL}, '{}'", library.token);
    other.batch_execute(&notify).await.map_err(|error| in_words(&error))?;
    timeout(TEST, library.has_heard_itself.notified()).await.map_err(|_| {
        "notifications do not arrive: LISTEN does not work through a pooler in transaction mode (pgbouncer); connect to \
         PostgreSQL itself"
            .to_owned()
    })
}

/// Listens for as long as the server lives, whatever happens to the connection.
pub(super) async fn keep_listening(library: Arc<Library>, mut listening: Listening) {
    loop {
        let why = listening.over(&library).await;
        library.stop_listening();
        if library.listens_once {
            warn!("Changes are not announced any more, and nobody notices: {why}");
            return;
        }
        warn!("Nothing is served from memory, for changes are not announced any more: {why}");
        let (mut pause, mut told) = (RETRY, why);
        listening = loop {
            sleep(with_jitter(pause)).await;
            match Listening::begin(&library).await {
                Ok(listening) => break listening,
                Err(why) => {
                    if why != told {
                        info!("Changes are not announced yet: {why}");
                        told = why;
                    }
                    pause = longer(pause);
                }
            }
        };
        library.resume();
        info!("Changes are announced again");
    }
}

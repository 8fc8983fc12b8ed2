//! Connections to PostgreSQL: kept, made anew by themselves, and asked in a pipeline.

use std::cmp::Reverse;
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::config::{Config, Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Connection, NoTls, SimpleQueryMessage, Socket, Statement};

use crate::errors::reason;
use crate::sync::lock;

/// Before the second try to connect; then twice as long each time, with jitter.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(1);
/// How long whoever writes waits for a connection.
pub(super) const TURN: Duration = Duration::from_secs(2);
/// What a statement may take beyond the time after which the database ends it: then it says nothing any more.
const SILENCE: Duration = Duration::from_secs(1);
/// After so long without an acknowledgement the kernel gives a connection up (tcp(7), `TCP_USER_TIMEOUT`).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Where the database is, and how long it may take.
#[derive(Debug)]
pub struct Target {
    config: Config,
    /// For connecting.
    connect_timeout: Duration,
    /// For a statement.
    statement_timeout: Duration,
}

impl Target {
    /// The target of a URL `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, or of `host=... user=...`; without a host it is
    /// this machine.
    ///
    /// # Errors
    /// It is none, or asks for TLS. What is said of it has no password in it.
    pub fn parse(url: &str, connect_timeout: Duration, statement_timeout: Duration) -> Result<Self, String> {
        let no_target = |error: tokio_postgres::Error| {
            let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            match why.contains("sslmode") {
                true => {
                    "with another sslmode than disable or prefer it asks for TLS, which is not spoken here".to_owned()
                }
                false => format!("it has to look like postgres://USER@HOST:PORT/NAME ({why})"),
            }
        };
        let mut config: Config = url.parse().map_err(no_target)?;
        if matches!(config.get_ssl_mode(), SslMode::Require) {
            return Err("sslmode=require asks for TLS, which is not spoken here".to_owned());
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host("localhost");
        }
        config.tcp_user_timeout(UNACKNOWLEDGED);
        Ok(Self { config, connect_timeout, statement_timeout })
    }

    /// Uses a password, if the target says none.
    #[must_use]
    pub fn with_password(mut self, password: Option<&str>) -> Self {
        if let (None, Some(password)) = (self.config.get_password(), password) {
            self.config.password(password);
        }
        self
    }

    /// For how long a statement may be under way.
    pub(super) fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// Whether it has a password.
    pub fn has_password(&self) -> bool {
        self.config.get_password().is_some()
    }

    /// Where it is, in words.
    pub(super) fn place(&self) -> String {
        let host = match (self.config.get_hosts().first(), self.config.get_hostaddrs().first()) {
            (Some(Host::Tcp(name)), _) => name.clone(),
            (Some(Host::Unix(path)), _) => path.display().to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let name = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("{host}:{port}/{name}")
    }

    /// Connects, under this name among the sessions of the database.
    pub(super) async fn connect(&self, name: &str) -> Result<(Client, Connection<Socket, NoTlsStream>), String> {
        let mut config = self.config.clone();
        config.application_name(name);
        match timeout(self.connect_timeout, config.connect(NoTls)).await {
            Ok(connected) => connected.map_err(|error| in_words(&error)),
            Err(_) => Err(format!("no connection within {}", humantime::format_duration(self.connect_timeout))),
        }
    }

    /// Connects to a database that takes changes.
    pub(super) async fn connect_writable(&self) -> Result<Client, String> {
        let (client, connection) = self.connect("poetry-library").await?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told.
            let _ = connection.await;
        });
        // In one message, which poolers understand as well.
        let answered = timeout(self.connect_timeout, client.simple_query("SELECT pg_is_in_recovery()")).await;
        let rows = answered.map_err(|_| "it takes no statements".to_owned())?.map_err(|error| in_words(&error))?;
        let is_standby = rows.iter().any(|row| matches!(row, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")));
        if is_standby {
            return Err("it is a standby, which takes no changes and announces none".to_owned());
        }
        Ok(client)
    }
}

/// An error of the database as a part of a sentence. It has no password in it, and no statement.
pub(super) fn in_words(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return error.message().to_owned();
    }
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if innermost.to_string() == "password missing" {
        return "it asks for a password, which PGPASSWORD does not say".to_owned();
    }
    innermost.downcast_ref::<io::Error>().map_or_else(|| innermost.to_string(), |error| reason(error).to_string())
}

/// Why a request cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The database is not there, or not at this moment.
    Away(Arc<str>),
    /// It has not answered: what was asked for may have been done.
    Lost(&'static str),
    /// It does not take what it is given.
    Refused(&'static str),
    /// The table is another one than when the statements were prepared; nothing was done.
    Outdated,
}

impl Trouble {
    /// What an error of a statement means for whoever asked: its condition, in words of ours.
    fn of(error: &tokio_postgres::Error) -> Self {
        let away = |why: &str| Self::Away(why.into());
        let Some(state) = error.code() else {
            return match error.is_closed() {
                true => Self::Lost("the connection to the database broke"),
                false => away("the database has something in the row that is no text"),
            };
        };
        tracing::debug!(state = state.code(), "The database says: {}", in_words(error));
        match *state {
            SqlState::QUERY_CANCELED => away("the database took too long"),
            SqlState::READ_ONLY_SQL_TRANSACTION => away("the database takes no changes at this time"),
            SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED => away("the database has no number left for a patron"),
            SqlState::INSUFFICIENT_PRIVILEGE => away("the database does not allow it"),
            SqlState::UNTRANSLATABLE_CHARACTER => Self::Refused("the database cannot store one of the characters"),
            SqlState::FEATURE_NOT_SUPPORTED | SqlState::INVALID_SQL_STATEMENT_NAME => Self::Outdated,
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
                away("the database is stopping")
            }
            _ if state.code().starts_with("22") || state.code().starts_with("23") => {
                Self::Refused("the database does not take it")
            }
            _ => {
                tell_once_a_minute(state.code(), &in_words(error));
                away("the database cannot do it at this time")
            }
        }
    }

    /// The same, where nothing was given to the database.
    fn of_reading(error: &tokio_postgres::Error) -> Self {
        match Self::of(error) {
            Self::Refused(_) => Self::Away("the database has something in the row that is no text".into()),
            trouble => trouble,
        }
    }
}

/// Logs a condition that stays, and is met by each request. What class 42 says is of tables, not of rows.
fn tell_once_a_minute(state: &str, what: &str) {
    const MINUTE: Duration = Duration::from_secs(60);
    static TOLD: Mutex<Vec<(String, Instant)>> = Mutex::new(Vec::new());
    let mut told = lock(&TOLD);
    told.retain(|(_, at)| at.elapsed() < MINUTE);
    if told.iter().all(|(known, _)| known != state) {
        told.push((state.to_owned(), Instant::now()));
        let what = if state.starts_with("42") { what } else { "see PostgreSQL's appendix A" };
        tracing::warn!(state, "The database refuses a statement ({state}): {what}");
    }
}

/// A connection, if there is one just now.
#[derive(Debug, Default)]
struct Link {
    ready: Mutex<Option<Arc<Ready>>>,
    /// Statements that wait for their answers.
    busy: AtomicUsize,
    /// It says nothing any more.
    suspect: Notify,
}

/// A connection with its statements.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) client: Arc<Client>,
    pub(super) select: Statement,
    pub(super) list: Statement,
    pub(super) insert: Statement,
    pub(super) update: Statement,
    pub(super) delete: Statement,
}

/// Connections for one purpose. Statements on one of them wait for each other: so those that may wait for a lock have
/// connections of their own, and each of those for itself.
#[derive(Debug)]
pub(super) struct Links {
    target: Arc<Target>,
    links: Vec<Link>,
    /// For those who want one for themselves.
    turns: Semaphore,
    /// Why there was none last.
    why_not: Mutex<Arc<str>>,
}

/// A connection in use.
pub(super) struct InUse<'l> {
    links: &'l Links,
    link: &'l Link,
    pub(super) ready: Arc<Ready>,
    _turn: Option<SemaphorePermit<'l>>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.link.busy.fetch_sub(1, Relaxed);
    }
}

impl InUse<'_> {
    /// The answer to a statement that changes something, if it comes in time.
    pub(super) async fn answer<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Trouble> {
        self.within(asked).await?.map_err(|error| Trouble::of(&error))
    }

    /// What a statement reads, if it comes in time.
    pub(super) async fn read<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Trouble> {
        self.within(asked).await?.map_err(|error| Trouble::of_reading(&error))
    }

    async fn within<T>(&self, asked: impl Future<Output = T>) -> Result<T, Trouble> {
        timeout(self.links.target.statement_timeout + SILENCE, asked).await.map_err(|_| {
            self.link.suspect.notify_one();
            Trouble::Lost("the database says nothing")
        })
    }

    /// Whether a statement is worth another try after this, on whichever connection there is then.
    pub(super) async fn is_worth_another(&self, trouble: &Trouble) -> bool {
        match trouble {
            Trouble::Lost(_) => self.ready.client.is_closed(),
            Trouble::Outdated => self.renew().await,
            Trouble::Away(_) | Trouble::Refused(_) => false,
        }
    }

    /// Prepares the statements again.
    async fn renew(&self) -> bool {
        let prepared = timeout(self.links.target.connect_timeout, prepare(Arc::clone(&self.ready.client)));
        let Ok(Ok(ready)) = prepared.await else { return false };
        *lock(&self.link.ready) = Some(Arc::new(ready));
        true
    }
}

impl Links {
    /// So many connections, none of which is there yet.
    pub(super) fn new(target: Arc<Target>, count: usize) -> Self {
        let why_not = Mutex::new("there is no connection to the database yet".into());
        let links = (0..count).map(|_| Link::default()).collect();
        Self { target, links, turns: Semaphore::new(count), why_not }
    }

    /// Connects all of them, and keeps them connected from then on.
    ///
    /// # Errors
    /// One of them cannot be connected now.
    pub(super) async fn start(self: &Arc<Self>) -> Result<(), String> {
        for index in 0..self.links.len() {
            let (ready, connection) = self.connect().await?;
            *lock(&self.links[index].ready) = Some(ready);
            tokio::spawn(Arc::clone(self).keep(index, Some(connection)));
        }
        Ok(())
    }

    /// The least busy connection.
    pub(super) fn any(&self) -> Result<InUse<'_>, Trouble> {
        self.pick(None)
    }

    /// A connection for oneself.
    pub(super) async fn own(&self) -> Result<InUse<'_>, Trouble> {
        let turn = timeout(TURN, self.turns.acquire()).await;
        let turn = turn.map_err(|_| Trouble::Away("all connections to the database are in use".into()))?;
        // It is never closed.
        self.pick(turn.ok())
    }

    /// How many there are.
    pub(super) fn ready(&self) -> usize {
        self.links.iter().filter(|link| lock(&link.ready).is_some()).count()
    }

    fn pick<'l>(&'l self, turn: Option<SemaphorePermit<'l>>) -> Result<InUse<'l>, Trouble> {
        let ready = self.links.iter().filter_map(|link| Some((link, lock(&link.ready).clone()?)));
        let usable = ready.filter(|(_, ready)| !ready.client.is_closed());
        match usable.max_by_key(|(link, _)| Reverse(link.busy.load(Relaxed))) {
            Some((link, ready)) => {
                link.busy.fetch_add(1, Relaxed);
                Ok(InUse { links: self, link, ready, _turn: turn })
            }
            None => Err(Trouble::Away(Arc::clone(&lock(&self.why_not)))),
        }
    }

    async fn connect(&self) -> Result<(Arc<Ready>, JoinHandle<()>), String> {
        let (client, connection) = self.target.connect("poetry-library").await?;
        let connection = tokio::spawn(async move {
            // Whoever waits for an answer is told.
            let _ = connection.await;
        });
        let set_up = async {
            limit(&client, self.target.statement_timeout).await.map_err(|error| in_words(&error))?;
            prepare(Arc::new(client)).await
        };
        let ready = timeout(self.target.connect_timeout, set_up).await;
        match ready.unwrap_or_else(|_| Err("it takes no statements".to_owned())) {
            Ok(ready) => Ok((Arc::new(ready), connection)),
            Err(why) => {
                connection.abort();
                Err(why)
            }
        }
    }

    /// Connects again and again.
    async fn keep(self: Arc<Self>, index: usize, mut connection: Option<JoinHandle<()>>) {
        let (link, mut pause) = (&self.links[index], RETRY);
        loop {
            if let Some(mut connected) = connection.take() {
                let why = tokio::select! {
                    _ = &mut connected => "the database has closed the connection",
                    () = link.suspect.notified() => {
                        connected.abort();
                        "the database says nothing"
                    }
                };
                *lock(&self.why_not) = why.into();
                *lock(&link.ready) = None;
            }
            sleep(with_jitter(pause)).await;
            match self.connect().await {
                Ok((ready, connected)) => {
                    *lock(&link.ready) = Some(ready);
                    (connection, pause) = (Some(connected), RETRY);
                }
                Err(why) => {
                    *lock(&self.why_not) = format!("the database is away: {why}").into();
                    pause = longer(pause);
                }
            }
        }
    }
}

/// Prepares the statements, and sees whether they are about what they are meant for.
async fn prepare(client: Arc<Client>) -> Result<Ready, String> {
    let statement = async |sql: &str| client.prepare(sql).await.map_err(|error| in_words(&error));
    let ready = Ready {
        select: statement("SELECT name, fav_dish FROM patron WHERE id = $1").await?,
        list: statement("SELECT id, name, fav_dish FROM patron WHERE id > $1 ORDER BY id LIMIT $2").await?,
        insert: statement("INSERT INTO patron (name, fav_dish) VALUES ($1, $2) RETURNING id").await?,
        update: statement("UPDATE patron SET name = $1, fav_dish = $2 WHERE id = $3").await?,
        delete: statement("DELETE FROM patron WHERE id = $1").await?,
        client: Arc::clone(&client),
    };
    for column in ready.list.columns() {
        let (fits, wanted) = match column.name() {
            "id" => (<i32 as FromSql<'_>>::accepts(column.type_()), "integer"),
            _ => (<&str as FromSql<'_>>::accepts(column.type_()), "text"),
        };
        if !fits {
            let (name, found) = (column.name(), column.type_().name());
            return Err(format!("{name} in the table patron is of the type {found}; it has to be {wanted}"));
        }
    }
    Ok(ready)
}

/// Limits the time of statements on a connection.
pub(super) async fn limit(client: &Client, statement_timeout: Duration) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(&format!("SET statement_timeout = {}", statement_timeout.as_millis().max(1))).await
}

/// The pause after this one.
pub(super) fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_RETRY)
}

/// Not all at the same moment.
pub(super) fn with_jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, String> {
        Target::parse(url, Duration::from_secs(1), Duration::from_secs(1))
    }

    #[test]
    fn a_target_has_a_place_and_keeps_its_password() {
        for (url, place) in [
            ("postgres://me:secret@db.example:5433/poems", "db.example:5433/poems"),
            ("postgresql://me:secret@/poems", "localhost:5432/poems"),
            ("host=/run/postgresql user=me password=secret", "/run/postgresql:5432/me"),
            ("hostaddr=127.0.0.1 port=1 user=me password=secret dbname=x", "127.0.0.1:1/x"),
        ] {
            let target = parse(url).expect("a target");
            assert_eq!(target.place(), place);
            assert!(target.has_password() && !format!("{target:?}").contains("secret"), "{target:?}");
        }
        assert!(!parse("postgres://me@localhost/poems").expect("a target").has_password());
    }

    #[test]
    fn what_is_no_target_is_refused_without_its_password() {
        for (url, part) in [
            ("postgres://me:secret@localhost/poems?sslmode=require", "TLS"),
            ("postgres://me:secret@localhost:port/poems", "port"),
            ("postgres://me:secret@localhost/poems?colour=red", "colour"),
            ("mysql://me:secret@localhost/poems", ""),
            ("password=secret port=x", "port"),
        ] {
            let error = parse(url).expect_err("no target");
            assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}");
        }
    }
}

//! The table of patrons, and the triggers that tell everybody of its changes (LISTEN and NOTIFY).
//!
//! The table, the channel and what is said of ordinary rows are those of *Using Asyncio in Python*: instances of the
//! book's program and ours can share a database. What is said is no longer than a NOTIFY may be (8,000 bytes), or a row of
//! 60 kB could not be stored at all; listeners of ours need no more than the number and the kind of change.

use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::cache::coherent::Change;

/// Where changes are announced.
pub(super) const CHANNEL: &str = "chan_patron";
/// Where a server tells itself something, to see whether that arrives.
pub(super) const TEST_CHANNEL: &str = "chan_patron_test";

/// Whoever changes the triggers changes this number.
const EDITION: &str = "poetry-library, edition 1";

const TABLE: &str = "CREATE TABLE IF NOT EXISTS patron (id serial PRIMARY KEY, name text, fav_dish text)";

const FUNCTION: &str = "\
CREATE OR REPLACE FUNCTION poetry_library_notify() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    at bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    kind text := TG_OP;
    number integer;
    what json;
    said text;
BEGIN
    -- Another number is another row.
    IF kind = 'UPDATE' AND OLD.id <> NEW.id THEN
        said := json_build_object('table', 'patron', 'id', OLD.id, 'type', 'DELETE', 'data', NULL, 'at', at);
        PERFORM pg_notify('chan_patron', said);
        kind := 'INSERT';
    END IF;
    IF kind = 'INSERT' THEN
        number := NEW.id;
        what := row_to_json(NEW);
    ELSIF kind = 'UPDATE' THEN
        number := NEW.id;
        what := json_build_object('old', row_to_json(OLD), 'new', row_to_json(NEW), 'diff', json_strip_nulls(
            json_build_object('name', nullif(NEW.name, OLD.name), 'fav_dish', nullif(NEW.fav_dish, OLD.fav_dish))));
    ELSIF kind = 'DELETE' THEN
        number := OLD.id;
        what := row_to_json(OLD);
    END IF;
    said := json_build_object('table', 'patron', 'id', number, 'type', kind, 'data', what, 'at', at);
    -- In bytes; and what is of no encoding cannot be told everybody.
    IF octet_length(said) >= 7900 OR getdatabaseencoding() = 'SQL_ASCII' THEN
        said := json_build_object('table', 'patron', 'id', number, 'type', kind, 'data', NULL, 'at', at);
    END IF;
    PERFORM pg_notify('chan_patron', said);
    RETURN NULL;
END
$function$";

const TRIGGERS: &str = "\
DROP TRIGGER IF EXISTS poetry_library_row ON patron;
CREATE TRIGGER poetry_library_row AFTER INSERT OR UPDATE OR DELETE ON patron
    FOR EACH ROW EXECUTE FUNCTION poetry_library_notify();
DROP TRIGGER IF EXISTS poetry_library_truncate ON patron;
CREATE TRIGGER poetry_library_truncate AFTER TRUNCATE ON patron
    FOR EACH STATEMENT EXECUTE FUNCTION poetry_library_notify();
ALTER TABLE patron ENABLE ALWAYS TRIGGER poetry_library_row;
ALTER TABLE patron ENABLE ALWAYS TRIGGER poetry_library_truncate";

/// Whether all of it is there, as this edition has it; and what is another one when anything has been done to the table or
/// its triggers that they do not tell: another table of that name, another type of a column, triggers that were away.
const STATE: &str = "\
SELECT count(*) = 2, concat(min(pg_class.oid), ' ', min(relfilenode), ' ', string_agg(concat(tg.oid, ' ', tg.xmin), ' '))
FROM pg_trigger AS tg JOIN pg_proc ON pg_proc.oid = tgfoid JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgrelid = to_regclass('patron') AND tgname IN ('poetry_library_row', 'poetry_library_truncate')
    AND tgenabled = 'A' AND proname = 'poetry_library_notify'
    AND obj_description(pg_proc.oid, 'pg_proc') = 'poetry-library, edition 1'";

/// What this role may do.
const RIGHTS: &str = "\
SELECT has_table_privilege('patron', 'SELECT'),
    has_table_privilege('patron', 'INSERT, UPDATE, DELETE') AND has_table_privilege('patron', 'INSERT')
        AND has_table_privilege('patron', 'UPDATE') AND has_table_privilege('patron', 'DELETE')
        AND coalesce(has_sequence_privilege(pg_get_serial_sequence('patron', 'id'), 'USAGE'), true)";

/// For one server at a time.
const LOCK: &str = "BEGIN; SELECT pg_advisory_xact_lock(7018141438618433402)";

/// What there is in a database.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The table, with its triggers.
    pub(super) is_there: bool,
    /// Another one: what is known of rows is worth nothing.
    pub(super) table: String,
}

/// Looks what there is, in one message, which poolers understand as well.
pub(super) async fn state(client: &Client) -> Result<State, tokio_postgres::Error> {
    let rows = row(client, STATE).await?;
    let of = |column| rows.as_ref().and_then(|row| row.get(column)).unwrap_or_default();
    Ok(State { is_there: of(0) == "t", table: of(1).to_owned() })
}

async fn row(client: &Client, statement: &str) -> Result<Option<SimpleQueryRow>, tokio_postgres::Error> {
    let messages = client.simple_query(statement).await?;
    Ok(messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }))
}

/// Whether a role may read the table, and change it.
pub(super) async fn rights(client: &Client) -> Result<(bool, bool), tokio_postgres::Error> {
    let row = row(client, RIGHTS).await?;
    let may = |column| row.as_ref().and_then(|row| row.get(column)) == Some("t");
    Ok((may(0), may(1)))
}

/// Makes the table and its triggers, if they are not there; whether it did.
///
/// # Errors
/// The database does not allow it.
pub(super) async fn create(client: &Client) -> Result<bool, tokio_postgres::Error> {
    if state(client).await?.is_there {
        return Ok(false);
    }
    let made = create_locked(client).await;
    if made.is_err() {
        // Whatever is wrong with that one, too: the first error counts.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    made
}

async fn create_locked(client: &Client) -> Result<bool, tokio_postgres::Error> {
    client.batch_execute(LOCK).await?;
    let is_there = state(client).await?.is_there;
    if !is_there {
        for statement in [TABLE, FUNCTION, TRIGGERS] {
            client.batch_execute(statement).await?;
        }
        client.batch_execute(&format!("COMMENT ON FUNCTION poetry_library_notify() IS '{EDITION}'")).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(!is_there)
}

/// What a trigger says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A row is another one, or no more, or new.
    Row {
        /// Its number.
        id: i32,
        /// What has become of it.
        change: Change,
        /// When, in microseconds since 1970 by the database's clock, if that is said.
        at: Option<u64>,
    },
    /// All may be another.
    All,
}

impl Notice {
    /// Reads what was said. What is not understood may be about anything.
    pub(super) fn read(payload: &str) -> Self {
        let Ok(said) = serde_json::from_str::<Value>(payload) else { return Self::All };
        let change = match said["type"].as_str() {
            Some("INSERT") => Change::Made,
            Some("UPDATE") => Change::Changed,
            Some("DELETE") => Change::Gone,
            _ => return Self::All,
        };
        match said["id"].as_i64().and_then(|id| i32::try_from(id).ok()) {
            Some(id) if said["table"] == "patron" => Self::Row { id, change, at: said["at"].as_u64() },
            _ => Self::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edition_is_the_same_wherever_it_is_said() {
        assert!(STATE.contains(&format!("'{EDITION}'")));
        assert!(FUNCTION.contains(&format!("'{CHANNEL}'")));
    }

    #[test]
    fn what_a_trigger_says_is_read_and_what_is_not_understood_is_about_everything() {
        let row = |id, change, at| Notice::Row { id, change, at };
        for (payload, notice) in [
            (
                r#"{"table":"patron","id":37,"type":"UPDATE","data":null,"at":1732000000000000}"#,
                row(37, Change::Changed, Some(1_732_000_000_000_000)),
            ),
            (r#"{"table":"patron","id":1,"type":"INSERT","data":{"id":1}}"#, row(1, Change::Made, None)),
            (r#"{"table":"patron","id":1,"type":"DELETE"}"#, row(1, Change::Gone, None)),
            (r#"{"table":"patron","id":null,"type":"TRUNCATE"}"#, Notice::All),
            (r#"{"table":"patron","id":3000000000,"type":"UPDATE"}"#, Notice::All),
            (r#"{"table":"menu","id":1,"type":"UPDATE"}"#, Notice::All),
            ("", Notice::All),
            ("[]", Notice::All),
        ] {
            assert_eq!(Notice::read(payload), notice, "{payload}");
        }
    }
}

//! The table of patrons, and the triggers that tell everybody of its changes (LISTEN and NOTIFY).
//!
//! The table, the channel and what is said of ordinary rows are those of *Using Asyncio in Python*: instances of the
//! book's program and ours can share a database. What is said is no longer than a NOTIFY may be (8,000 bytes), or a row of
//! 60 kB could not be stored at all; listeners of ours need no more than the number and the kind of change.

use serde_json::Value;
use tokio_postgres::Client;

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
    was jsonb := CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) END;
    now jsonb := CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN to_jsonb(NEW) END;
    at bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    kind text := TG_OP;
    what jsonb;
    said text;
BEGIN
    -- Another number is another row.
    IF kind = 'UPDATE' AND was -> 'id' <> now -> 'id' THEN
        said := json_build_object('table', 'patron', 'id', was -> 'id', 'type', 'DELETE', 'data', NULL, 'at', at);
        PERFORM pg_notify('chan_patron', said);
        kind := 'INSERT';
    END IF;
    what := CASE kind
        WHEN 'INSERT' THEN now
        WHEN 'DELETE' THEN was
        WHEN 'UPDATE' THEN jsonb_build_object('old', was, 'new', now, 'diff', (
            SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(now)
            WHERE value IS DISTINCT FROM was -> key))
    END;
    FOR try IN 1..2 LOOP
        said := json_build_object('table', 'patron', 'id', coalesce(now, was) -> 'id', 'type', kind, 'data', what, 'at', at);
        EXIT WHEN octet_length(said) < 7900;
        what := NULL;
    END LOOP;
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

/// Whether all of it is there, as this edition has it.
const IS_THERE: &str = "\
SELECT count(*) = 2 FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE tgrelid = to_regclass('patron') AND tgname IN ('poetry_library_row', 'poetry_library_truncate')
    AND tgenabled = 'A' AND proname = 'poetry_library_notify' AND obj_description(pg_proc.oid, 'pg_proc') = $1";

/// For one server at a time.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7018141438618433402)";

/// Makes the table and its triggers, if they are not there; whether it did.
///
/// # Errors
/// The database does not allow it.
pub(super) async fn create(client: &mut Client) -> Result<bool, tokio_postgres::Error> {
    if client.query_one(IS_THERE, &[&EDITION]).await?.get(0) {
        return Ok(false);
    }
    let transaction = client.transaction().await?;
    transaction.batch_execute(LOCK).await?;
    let is_there: bool = transaction.query_one(IS_THERE, &[&EDITION]).await?.get(0);
    if !is_there {
        for statement in [TABLE, FUNCTION, TRIGGERS] {
            transaction.batch_execute(statement).await?;
        }
        transaction.batch_execute(&format!("COMMENT ON FUNCTION poetry_library_notify() IS '{EDITION}'")).await?;
    }
    transaction.commit().await?;
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

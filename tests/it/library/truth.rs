//! Nobody sees what has changed as it was, whatever happens to the database and to the way to it.

use std::cell::RefCell;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Asked, Database, ask, command, dish, get, library, make, metric, put};
use crate::harness::{Service, eventually, finish};
use crate::postgres::{Postgres, Session};

/// Ends the sessions in which somebody listens.
const DEAFEN: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = \
    'poetry-library listen' AND datname = current_database()";

/// Statements that wait for a lock in a database.
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";

/// Waits until so many statements wait for a lock, as one who is in the database sees it.
fn is_waiting(session: &mut Session, count: usize) {
    let session = RefCell::new(session);
    eventually("it waits for a lock", || session.borrow_mut().say(WAITING) == count.to_string());
}

/// A database in which a SELECT, once it has its snapshot, waits for whoever holds a lock.
struct Held {
    database: Database,
    holder: Session,
}

impl Held {
    fn new(name: &'static str) -> Option<Self> {
        let database = Database::new(name)?;
        let url = database.url();
        assert_eq!(finish(command().args(["--init", "--database", &url])).code(), 0);
        database.sql(&format!(
            "CREATE FUNCTION wait() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock_shared(7); PERFORM \
             pg_advisory_unlock_shared(7); RETURN true; END $$; ALTER TABLE patron ENABLE ROW LEVEL SECURITY; CREATE POLICY \
             p ON patron FOR SELECT USING (wait()); CREATE ROLE {name} LOGIN; GRANT SELECT ON patron TO {name}; \
             INSERT INTO patron (name, fav_dish) VALUES ('Carol', 'eggs')"
        ));
        let holder = database.postgres.session(database.name);
        Some(Self { database, holder })
    }

    /// An instance whose SELECTs wait.
    fn library(&self, flags: &[&str]) -> Service {
        library(&self.database.postgres.url(self.database.name, self.database.name), flags)
    }

    fn hold(&mut self) {
        self.holder.say("SELECT pg_advisory_lock(7)");
    }

    fn release(&mut self) {
        self.holder.say("SELECT pg_advisory_unlock(7)");
    }

    fn is_waiting(&mut self, count: usize) {
        is_waiting(&mut self.holder, count);
    }
}

#[test]
fn a_read_that_a_change_has_overtaken_is_not_kept() {
    let Some(mut held) = Held::new("overtaken") else { return };
    for (flags, is_true) in [(&[][..], true), (&["--cache-mode", "naive"], false)] {
        held.database.sql("UPDATE patron SET fav_dish = 'eggs'");
        let library = held.library(flags);
        held.hold();
        let asked = Asked::get(&library, 1);
        held.is_waiting(1);
        let announced = metric(&library, "poetry_library_events_total");
        // Twice, one right after the other.
        held.holder.say("UPDATE patron SET fav_dish = 'ham'; UPDATE patron SET fav_dish = 'spam'");
        eventually("it is announced", || metric(&library, "poetry_library_events_total") == announced + 2);
        held.release();
        assert_eq!(asked.dish(), "eggs");
        if is_true {
            for _ in 0..10 {
                assert_eq!(dish(&library, 1), "spam");
            }
            assert!(metric(&library, "poetry_library_overtaken_total") >= 1);
        } else {
            // So it would be for ever.
            assert_eq!((dish(&library, 1), get(&library, 1).how()), ("eggs".to_owned(), "HIT"));
        }
    }
}

#[test]
fn whoever_asks_after_a_change_does_not_wait_for_an_older_read() {
    let Some(mut held) = Held::new("joined") else { return };
    let library = held.library(&[]);
    held.hold();
    let early = Asked::get(&library, 1);
    held.is_waiting(1);
    let joined = Asked::get(&library, 1);
    eventually("both wait", || metric(&library, "poetry_library_waiting") == 2);
    held.holder.say("UPDATE patron SET fav_dish = 'ham'");
    eventually("it is announced", || metric(&library, "poetry_library_events_total") == 1);
    let late = Asked::get(&library, 1);
    held.is_waiting(2);
    held.release();
    let (early, joined, late) = (early.reply(), joined.reply(), late.reply());
    assert_eq!((early.how(), &*early.dish(), joined.how(), &*joined.dish()), ("MISS", "eggs", "JOIN", "eggs"));
    assert_eq!(late.dish(), "ham");
}

#[test]
fn a_thousand_who_ask_for_one_patron_are_one_select() {
    let Some(mut held) = Held::new("crowd") else { return };
    let library = held.library(&[]);
    held.hold();
    let asked: Vec<Asked> = (0..1_000).map(|_| Asked::get(&library, 1)).collect();
    eventually("all wait", || metric(&library, "poetry_library_waiting") == 1_000);
    held.is_waiting(1);
    held.release();
    let replies: Vec<_> = asked.into_iter().map(Asked::reply).collect();
    assert!(replies.iter().all(|reply| reply.dish() == "eggs"));
    let joined = replies.iter().filter(|reply| reply.how() == "JOIN").count();
    assert_eq!((joined, metric(&library, "poetry_library_selects_total")), (999, 1));
}

#[test]
fn an_end_of_the_announcements_is_the_end_of_the_cache() {
    let Some(database) = Database::new("deaf") else { return };
    let (ours, naive) = (database.library(&[]), database.library(&["--cache-mode", "naive"]));
    let id = make(&ours, "Carol", "eggs");
    for library in [&ours, &naive] {
        eventually("it is in memory", || get(library, id).how() == "HIT");
    }
    let clears = metric(&ours, "poetry_library_clears_total");
    assert_eq!(database.sql(&format!("{DEAFEN}; UPDATE patron SET fav_dish = 'ham'")), "2");
    ours.hear("Nothing is served from memory, for changes are not announced any more: terminating connection");
    assert_eq!(dish(&ours, id), "ham");
    ours.hear("Changes are announced again");
    assert_eq!(dish(&ours, id), "ham");
    eventually("it is in memory", || get(&ours, id).how() == "HIT");
    assert_eq!(metric(&ours, "poetry_library_clears_total"), clears + 1);
    database.sql("UPDATE patron SET fav_dish = 'spam'");
    eventually("it is announced", || dish(&ours, id) == "spam");
    // The other one will never know.
    naive.hear("nobody notices");
    assert_eq!((dish(&naive, id), get(&naive, id).how()), ("eggs".to_owned(), "HIT"));
}

#[test]
fn whatever_is_changed_and_however_is_seen_by_all() {
    let Some(database) = Database::new("changes") else { return };
    let libraries =
        [database.library(&[]), database.library(&["--on-change", "forget"]), database.library(&["--cache", "0"])];
    let id = make(&libraries[0], "Carol", "eggs");
    let all_see = |id: u64, expected: Option<&str>| {
        for library in &libraries {
            eventually("all see it", || {
                let reply = get(library, id);
                reply.json()["fav_dish"].as_str() == expected && (reply.status == 200) == expected.is_some()
            });
        }
    };
    all_see(id, Some("eggs"));
    database.sql("UPDATE patron SET fav_dish = 'ham'");
    all_see(id, Some("ham"));
    // What is rolled back is nothing.
    database.sql("BEGIN; UPDATE patron SET fav_dish = 'nothing'; ROLLBACK");
    all_see(id, Some("ham"));
    // Another number is another patron.
    all_see(77, None);
    database.sql("UPDATE patron SET id = 77");
    all_see(id, None);
    all_see(77, Some("ham"));
    database.sql("TRUNCATE patron");
    all_see(77, None);
    database.sql("INSERT INTO patron VALUES (77, 'Carol', 'spam')");
    all_see(77, Some("spam"));
    // By replication, triggers of others would not be called.
    database.sql("SET session_replication_role = replica; DELETE FROM patron");
    all_see(77, None);
    assert_eq!(get(&libraries[2], 77).how(), "BYPASS");
    // What nobody understands may be about anything.
    let clears = metric(&libraries[0], "poetry_library_clears_total");
    database.sql("NOTIFY chan_patron, 'nonsense'");
    eventually("all is forgotten", || metric(&libraries[0], "poetry_library_clears_total") == clears + 1);
}

#[test]
fn what_is_done_to_the_table_itself_is_noticed_though_nobody_tells() {
    let Some(database) = Database::new("table_itself") else { return };
    let library = database.library(&[]);
    let id = make(&library, "Carol", "eggs");
    let is_held = || eventually("it is in memory", || get(&library, id).how() == "HIT");
    // Nothing of these is announced. Each is noticed when the table is looked at next.
    for (statements, expected) in [
        (
            "ALTER TABLE patron DISABLE TRIGGER ALL; UPDATE patron SET fav_dish = 'ham'; ALTER TABLE patron ENABLE ALWAYS \
             TRIGGER poetry_library_row; ALTER TABLE patron ENABLE ALWAYS TRIGGER poetry_library_truncate",
            "ham",
        ),
        ("ALTER TABLE patron ALTER fav_dish TYPE text USING upper(fav_dish)", "HAM"),
        ("DROP TRIGGER poetry_library_row ON patron; UPDATE patron SET fav_dish = 'spam'", "spam"),
        (
            "BEGIN; DROP TABLE patron; CREATE TABLE patron (id serial PRIMARY KEY, name text, fav_dish text); INSERT INTO \
             patron (fav_dish) VALUES ('brian'); COMMIT",
            "brian",
        ),
    ] {
        is_held();
        database.sql(statements);
        eventually("it is noticed", || dish(&library, id) == expected);
    }
    // And whatever was missing is there again.
    is_held();
    database.sql("UPDATE patron SET fav_dish = 'eggs'");
    eventually("it is announced", || dish(&library, id) == "eggs");
}

#[test]
fn whoever_writes_reads_what_was_written() {
    let Some(database) = Database::new("own") else { return };
    let library = database.library(&[]);
    let id = make(&library, "Carol", "0");
    for round in 1..200 {
        let round = round.to_string();
        assert_eq!(put(&library, id, &round).status, 200);
        assert_eq!(dish(&library, id), round);
    }
    assert_eq!(ask(&library, "DELETE", &format!("/patron/{id}"), "", "").status, 200);
    assert_eq!(get(&library, id).status, 404);
}

#[test]
fn many_changes_at_once_hold_up_nobody() {
    let Some(database) = Database::new("flood") else { return };
    let library = database.library(&[]);
    let id = make(&library, "Carol", "eggs");
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            database.sql("INSERT INTO patron (name, fav_dish) SELECT 'x', n FROM generate_series(1, 20000) AS n");
        });
        while !flood.is_finished() {
            assert_eq!(get(&library, id).status, 200);
        }
    });
    eventually("all is heard", || metric(&library, "poetry_library_events_total") == 20_001);
    assert!(metric(&library, "poetry_library_refetches_total") <= 20_001);
    assert_eq!(dish(&library, 20_001), "20000");
}

#[test]
fn a_database_that_is_away_is_said_so_until_it_is_back() {
    let Some(postgres) = Postgres::start_local() else { return };
    let url = postgres.url("postgres", "postgres");
    let (ours, stale) = (library(&url, &[]), library(&url, &["--stale-if-error"]));
    let id = make(&ours, "Carol", "eggs");
    for library in [&ours, &stale] {
        eventually("it is in memory", || get(library, id).how() == "HIT");
    }
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        assert_eq!(get(&stale, 99).status, 404);
        postgres.end(signal);
        eventually("it is noticed", || get(&ours, id).status == 503);
        let reply = get(&ours, id);
        assert_eq!(
            (reply.status, reply.field("Retry-After"), reply.json()["msg"].as_str()),
            (503, Some("1"), Some("bad"))
        );
        assert!(reply.json()["error"].as_str().is_some_and(|why| why.contains("database")), "{}", reply.body);
        assert_eq!(put(&ours, id, "ham").status, 503);
        eventually("it is noticed", || get(&stale, id).how() == "STALE");
        assert_eq!((get(&stale, id).status, get(&stale, 99).status), (200, 404));
        assert_eq!(get(&stale, 98).status, 503);
        postgres.begin();
        for library in [&ours, &stale] {
            eventually("it is back", || get(library, id).status == 200 && put(library, id, "eggs").status == 200);
            eventually("it is in memory", || get(library, id).how() == "HIT");
        }
    }
    let finished = ours.stop();
    assert_eq!(finished.code(), 0);
    assert!(!finished.stderr.contains("SELECT") && !finished.stderr.contains("eggs"), "{}", finished.stderr);
}

#[test]
fn what_takes_too_long_is_given_up_and_others_go_on() {
    let Some(database) = Database::new("locked") else { return };
    let library = database.library(&["--statement-timeout", "500ms", "--connections", "4"]);
    let (id, other) = (make(&library, "Carol", "eggs"), make(&library, "Dave", "eggs"));
    let mut holder = database.postgres.session(database.name);
    holder.say(&format!("BEGIN; UPDATE patron SET fav_dish = 'ham' WHERE id = {id}"));
    let reply = put(&library, id, "spam");
    assert_eq!((reply.status, reply.json()["error"].as_str()), (503, Some("the database took too long")));
    // Who reads waits for no row.
    assert_eq!((dish(&library, id), dish(&library, other)), ("eggs".to_owned(), "eggs".to_owned()));
    // And whoever changes another one waits for nobody, however many want this one.
    let wanted = json!({ "name": "Carol", "fav_dish": "spam" }).to_string();
    let request = format!(
        "PUT /patron/{id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{wanted}",
        wanted.len()
    );
    let waiting: Vec<Asked> = (0..3).map(|_| Asked::new(library.address, request.as_bytes())).collect();
    is_waiting(&mut holder, 1);
    assert_eq!(put(&library, other, "spam").status, 200);
    for one in waiting {
        assert_eq!(one.reply().status, 503);
    }
    holder.say("COMMIT");
    assert_eq!(put(&library, id, "spam").status, 200);
    holder.say("BEGIN; LOCK TABLE patron");
    let reply = get(&library, 4_711);
    assert_eq!((reply.status, reply.json()["error"].as_str()), (503, Some("the database took too long")));
    holder.say("COMMIT");
    assert_eq!(dish(&library, id), "spam");
    // What the database does not take is told so, and not as an error of ours.
    database.sql("ALTER TABLE patron ADD CHECK (fav_dish <> 'poison')");
    assert_eq!(put(&library, id, "poison").status, 422);
    database.sql("ALTER TABLE patron RENAME TO patrons");
    let reply = put(&library, id, "eggs");
    assert_eq!(reply.status, 503);
    assert!(!reply.body.contains("patron"), "{}", reply.body);
}

#[test]
fn a_proof_holds_through_a_restart_and_shows_a_cache_that_lies() {
    let Some(postgres) = Postgres::start_local() else { return };
    let url = postgres.url("postgres", "postgres");
    let prove = |libraries: [&Service; 2], asserts: &[&str]| {
        let urls = libraries.map(|library| format!("http://{}", library.address));
        let mut command = command();
        command.args(["--prove", "3s"]).args(asserts.iter().flat_map(|assert| ["--assert", assert])).args(&urls);
        thread::scope(|scope| {
            let proof = scope.spawn(|| finish(&mut command));
            // In the middle of it: some dishes have been changed.
            let written = "SELECT count(*) FROM patron WHERE length(fav_dish) > 1";
            eventually("it writes", || proof.is_finished() || postgres.sql("postgres", written) == "1");
            postgres.end(Signal::SIGINT);
            postgres.begin();
            proof.join().expect("proved")
        })
    };
    let (one, other) = (library(&url, &[]), library(&url, &[]));
    // The bound is what the help says; that it holds is no question of speed.
    let finished = prove([&one, &other], &["stale < 10s", "writes > 10", "reads > 10"]);
    assert_eq!((finished.code(), &*finished.stderr), (0, ""), "{}", String::from_utf8_lossy(&finished.stdout));
    let said = String::from_utf8(finished.stdout).expect("text");
    assert!(said.contains(" writes through http://127.0.0.1:") && said.contains(" reads, "), "{said}");
    drop(other);
    let naive = library(&url, &["--cache-mode", "naive"]);
    let finished = prove([&one, &naive], &["stale < 200ms"]);
    assert_eq!(finished.code(), 1, "{}", String::from_utf8_lossy(&finished.stdout));
    assert!(finished.stderr.contains("--assert 'stale < 200ms' does not hold: stale is "), "{}", finished.stderr);
    assert_eq!(postgres.sql("postgres", "SELECT count(*) FROM patron"), "0");
}

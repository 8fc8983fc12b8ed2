//! What has to be there for a library, what is said if it is not, and what it makes.

use std::fs;
use std::process::Command;

use super::{Database, ask, command, dish, get, library, make, put};
use crate::harness::{Finished, Service, eventually, finish};
use crate::postgres::Postgres;

fn refused(command: &mut Command) -> Finished {
    let finished = finish(command);
    assert!(finished.stdout.is_empty(), "{finished:?}");
    finished
}

#[test]
fn what_is_no_database_is_one_line() {
    let at = |url: &str| refused(command().args(["--database", url]));
    for (url, code, part) in [
        (
            "postgres://me:secret@localhost/poems?sslmode=require",
            2,
            "sslmode=require asks for TLS, which is not spoken here",
        ),
        ("postgres://me:secret@localhost/poems?sslmode=verify-full", 2, "TLS, which is not spoken here"),
        ("mysql://me:secret@localhost/poems", 2, "it has to look like postgres://USER@HOST:PORT/NAME"),
        ("postgres://me:secret@127.0.0.1:x/poems", 2, "--database makes no sense: "),
        ("postgres://me@127.0.0.1:1/poems", 1, "the database on 127.0.0.1:1/poems cannot be used: connection refused"),
    ] {
        let finished = at(url);
        assert_eq!(finished.code(), code, "{}", finished.stderr);
        assert!(finished.complaint().to_lowercase().contains(&part.to_lowercase()), "{part}: {}", finished.stderr);
        assert!(!finished.stderr.contains("secret"), "{}", finished.stderr);
    }
    let nothing = refused(&mut command());
    assert_eq!((nothing.code(), nothing.complaint().contains("DATABASE_URL")), (2, true), "{}", nothing.stderr);
    let finished = refused(command().env("DATABASE_URL", "nonsense"));
    assert_eq!((finished.code(), finished.complaint().contains("DATABASE_URL makes no sense")), (2, true));
    for words in [
        &["--prove", "1s"][..],
        &["http://localhost:1"],
        &["--assert", "stale < 1s"],
        &["--connections", "1"],
        &["--statement-timeout", "0"],
        &["--connect-timeout", "60days"],
        &["--init", "--prove", "1s", "http://localhost:1"],
    ] {
        assert_eq!(refused(command().args(words)).code(), 2, "{words:?}");
    }
    let nobody = refused(command().args(["--prove", "1s", "http://127.0.0.1:1"]));
    assert_eq!((nobody.code(), nobody.complaint().contains("http://127.0.0.1:1: ")), (1, true), "{}", nobody.stderr);
}

#[test]
fn a_password_is_needed_and_never_shown() {
    let Some(postgres) = Postgres::start_local() else { return };
    postgres.sql("postgres", "CREATE ROLE reader LOGIN PASSWORD 'o p%en'; GRANT ALL ON SCHEMA public TO reader");
    let data = postgres.sql("postgres", "SHOW data_directory");
    let own = "local all postgres trust\nlocal all all scram-sha-256\n";
    fs::write(format!("{data}/pg_hba.conf"), own).expect("written");
    postgres.sql("postgres", "SELECT pg_reload_conf()");
    let (url, with) = (postgres.url("reader", "postgres"), postgres.url("reader:wr0ng", "postgres"));
    let none = refused(command().args(["--database", &url]));
    assert_eq!((none.code(), none.complaint().contains("PGPASSWORD")), (1, true), "{}", none.stderr);
    let wrong = refused(command().args(["--database", &with]));
    assert_eq!(wrong.code(), 1);
    assert!(wrong.stderr.contains("password authentication failed for user \"reader\""), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("ps(1) shows the password") && !wrong.stderr.contains("wr0ng"), "{}", wrong.stderr);
    let right = Service::start(command().args(["-vv", "--database", &url]).env("PGPASSWORD", "o p%en"));
    let id = make(&right, "Carol", "eggs");
    assert_eq!(dish(&right, id), "eggs");
    let finished = right.stop();
    assert!(!finished.stderr.contains("o p%en"), "{}", finished.stderr);
    // In a URL it is encoded, and nobody is warned of what ps(1) does not show.
    let url = postgres.url("reader:o%20p%25en", "postgres");
    let right = Service::start(command().env("DATABASE_URL", url));
    assert_eq!(dish(&right, id), "eggs");
    assert!(!right.stop().stderr.contains("ps(1)"));
}

#[test]
fn a_database_is_prepared_once_and_by_whom_it_allows() {
    let Some(database) = Database::new("prepared") else { return };
    let init = |url: &str| finish(command().args(["--init", "--database", url]));
    for said in ["The table patron and its triggers are made.\n", "All is there already.\n"] {
        let finished = init(&database.url());
        assert_eq!((finished.code(), finished.stdout, &*finished.stderr), (0, said.as_bytes().to_vec(), ""));
    }
    // Somebody who may do nothing but what it takes.
    database.sql(
        "CREATE ROLE librarian LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON patron TO librarian; GRANT USAGE ON SEQUENCE \
         patron_id_seq TO librarian; CREATE ROLE stranger LOGIN",
    );
    let librarian = library(&database.postgres.url("librarian", database.name), &[]);
    let id = make(&librarian, "Carol", "eggs");
    assert_eq!((put(&librarian, id, "ham").status, dish(&librarian, id)), (200, "ham".to_owned()));
    database.sql("CREATE ROLE visitor LOGIN; GRANT SELECT ON patron TO visitor");
    let visitor = library(&database.postgres.url("visitor", database.name), &[]);
    visitor.hear("Changes will fail: this role needs INSERT");
    assert_eq!((put(&visitor, id, "eggs").status, dish(&visitor, id)), (503, "ham".to_owned()));
    let other = refused(command().args(["--database", &database.postgres.url("stranger", database.name)]));
    assert_eq!((other.code(), other.complaint().contains("patron")), (1, true), "{}", other.stderr);
    let stranger = refused(command().args(["--database", &database.postgres.url("stranger", "postgres")]));
    assert_eq!((stranger.code(), stranger.complaint().contains("permission denied")), (1, true), "{}", stranger.stderr);
    let nowhere = refused(command().args(["--database", &database.postgres.url("postgres", "nowhere")]));
    assert!(nowhere.complaint().contains("database \"nowhere\" does not exist"), "{}", nowhere.stderr);
}

#[test]
fn a_table_that_is_there_is_taken_as_it_is_or_not_at_all() {
    let Some(database) = Database::new("theirs") else { return };
    database.sql(
        "CREATE TABLE patron (id serial PRIMARY KEY, name text, fav_dish text); INSERT INTO patron (fav_dish) VALUES ('eggs')",
    );
    let ours = database.library(&[]);
    assert_eq!(get(&ours, 1).body, r#"{"id":1,"name":null,"fav_dish":"eggs"}"#);
    database.sql("UPDATE patron SET fav_dish = 'ham'");
    eventually("it is announced", || dish(&ours, 1) == "ham");
    // Another type that is a text, too, is another table for statements that were prepared.
    database.sql("ALTER TABLE patron ALTER fav_dish TYPE varchar(100)");
    eventually("it is read again", || get(&ours, 1).status == 200 && put(&ours, 1, "eggs").status == 200);
    assert_eq!(ask(&ours, "GET", "/patron", "", "").body, r#"[{"id":1,"name":"Carol","fav_dish":"eggs"}]"#);
    drop(ours);
    for (column, change, found) in [
        ("fav_dish", "fav_dish TYPE jsonb USING to_jsonb(fav_dish)", "jsonb; it has to be text"),
        ("id", "id TYPE bigint", "int8; it has to be integer"),
    ] {
        database.sql(&format!("ALTER TABLE patron ALTER {change}"));
        let other = refused(command().args(["--database", &database.url()]));
        let said = format!("{column} in the table patron is of the type {found}");
        assert_eq!((other.code(), other.complaint().contains(&said)), (1, true), "{said}: {}", other.stderr);
        database.sql("ALTER TABLE patron ALTER fav_dish TYPE text USING fav_dish::text");
    }
    database.sql("ALTER TABLE patron DROP COLUMN fav_dish");
    let other = refused(command().args(["--database", &database.url()]));
    assert_eq!((other.code(), other.complaint().contains("column \"fav_dish\"")), (1, true), "{}", other.stderr);
}

#[test]
fn instances_that_start_at_once_make_one_table() {
    let Some(database) = Database::new("together") else { return };
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..4).map(|_| scope.spawn(|| database.library(&["--connections", "2"]))).collect();
        let libraries: Vec<Service> = starting.into_iter().map(|one| one.join().expect("started")).collect();
        let id = make(&libraries[0], "Carol", "eggs");
        for library in &libraries {
            assert_eq!(dish(library, id), "eggs");
        }
    });
    assert_eq!(database.sql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'poetry%'"), "2");
}

#[test]
fn where_nothing_is_announced_it_does_not_start() {
    let Some(database) = Database::new("pooled") else { return };
    let url = |place: &std::path::Path| {
        format!("postgres://postgres@/{}?host={}", database.name, place.to_str().expect("UTF-8"))
    };
    let Some((place, pooler)) = database.postgres.pooler("pool_mode = transaction") else { return };
    let finished = refused(command().args(["--database", &url(place.path())]));
    assert_eq!(finished.code(), 1);
    let said = "LISTEN does not work through a pooler in transaction mode (pgbouncer)";
    assert!(finished.complaint().contains(said), "{}", finished.stderr);
    drop(pooler);
    let Some((place, _pooler)) = database.postgres.pooler("pool_mode = session") else { return };
    let library = library(&url(place.path()), &[]);
    let id = make(&library, "Carol", "eggs");
    database.sql("UPDATE patron SET fav_dish = 'ham'");
    eventually("it is announced", || dish(&library, id) == "ham");
}

#[test]
fn a_standby_announces_nothing() {
    let Some(postgres) = Postgres::start_local() else { return };
    let standby = postgres.standby();
    let finished = refused(command().args(["--database", &standby.url("postgres", "postgres")]));
    assert_eq!((finished.code(), finished.complaint().contains("it is a standby")), (1, true), "{}", finished.stderr);
}

//! What viewers get, and what is fetched for them.

use nix::sys::signal::Signal;
use poetry_suite::cli::open_files;
use serde_json::Value;

use super::*;
use crate::harness::{LIMIT, eventually, finish, follow, path_of};

#[test]
fn sources_stand_on_the_page_in_the_order_in_which_they_come() {
    let held = ["first", "second", "third"].map(Held::new);
    let server = anthology(held.iter().map(|held| held.server.port()));
    assert!(server.line.starts_with("Anthology on 127.0.0.1:"), "{}", server.line);
    let mut viewer = Viewer::new(&server, "/news");
    for field in ["Content-Type: text/html; charset=utf-8", "Cache-Control: no-store", "X-Accel-Buffering: no"] {
        assert!(viewer.head.contains(field), "{field}: {}", viewer.head);
    }
    let policy = viewer.head.lines().find(|line| line.starts_with("Content-Security-Policy: ")).expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("script"), "{policy}");
    // Nothing has come yet, and what is asked for is told.
    let begun = viewer.until("Asked for 3 sources:").to_owned();
    assert_eq!(order(&begun), [0; 0]);
    for (number, poem) in [(2, "second"), (3, "third"), (1, "first")] {
        held[number - 1].release();
        viewer.until(&format!("{poem}</pre>\n</section>"));
        assert_eq!(*order(&viewer.text).last().expect("a source"), number);
        assert!(number == 1 || !viewer.text.contains("<figure"));
    }
    let page = viewer.whole();
    assert_eq!(order(&page), [2, 3, 1]);
    let (_, after) = page.split_once("<figure class=\"waterfall\">").expect("a waterfall");
    assert!(after.contains("Got 3 poems in ") && after.contains("<svg "), "{after}");
    assert!(page.ends_with("</body>\n</html>\n") && !page.contains("<script") && !page.contains("style="), "{page}");
    // What is as good as new is not fetched again, and in the order of the sources.
    let again = self::page(&server);
    assert_eq!((order(&again), held.iter().map(Held::clients).sum::<usize>()), (vec![1, 2, 3], 3));
    assert!(again.contains("Nothing had to be fetched for this page.") && again.contains("<svg "), "{again}");
}

#[test]
fn all_at_once_is_in_the_order_of_the_sources() {
    let held = ["first", "second"].map(Held::new);
    let server = anthology(held.iter().map(|held| held.server.port()));
    held[1].release();
    let asked = ask(server.address, &request("/?wait"));
    eventually("both are asked", || held.iter().all(|held| held.clients() == 1));
    held[0].release();
    let viewer = Viewer::of(asked);
    assert_eq!(viewer.status(), 200);
    let page = viewer.whole();
    assert!(order(&page) == [1, 2] && page.ends_with("</body>\n</html>\n"), "{page}");
}

#[test]
fn a_thousand_who_look_at_once_are_one_fetch_for_each_source() {
    open_files::raise_limit();
    let held = ["first", "second"].map(Held::new);
    let server = anthology(held.iter().map(|held| held.server.port()));
    let viewers: Vec<Viewer> = (0..1_000).map(|_| Viewer::new(&server, "/")).collect();
    assert_eq!(metric(&server, "poetry_anthology_viewers"), 1_000);
    held.iter().for_each(Held::release);
    for viewer in viewers {
        let page = viewer.whole();
        assert!(page.contains("first</pre>") && page.contains("second</pre>") && page.ends_with("</html>\n"));
    }
    assert_eq!(held.iter().map(Held::clients).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(metric(&server, "poetry_anthology_fetches_total"), 2);
    assert_eq!(metric(&server, "poetry_anthology_answers_total{answer=\"join\"}"), 2 * 999);
}

#[test]
fn who_leaves_cancels_nothing_that_others_want_and_the_last_one_all() {
    let held = Held::new("poem");
    let server = anthology([held.server.port()]);
    let leave = |viewer: Viewer| crate::harness::reset(viewer.stream);
    let (one, mut other) = (Viewer::new(&server, "/"), Viewer::new(&server, "/"));
    eventually("it is asked", || held.clients() == 1);
    leave(one);
    eventually("one has left", || metric(&server, "poetry_anthology_viewers") == 1);
    held.release();
    other.until("poem</pre>");
    assert_eq!((other.whole().ends_with("</html>\n"), held.clients()), (true, 1));
    // Forgotten, asked for again, and left by all.
    server.signal(Signal::SIGHUP);
    server.hear("Forgot all that was fetched; the page has 1 source now");
    let last = Viewer::new(&server, "/");
    eventually("it is asked again", || held.clients() == 2);
    leave(last);
    let canceled = || metric(&server, "poetry_anthology_fetches_ended_total{outcome=\"canceled\"}");
    eventually("the fetch is canceled", || canceled() == 1);
}

#[test]
fn what_is_old_is_there_at_once_with_its_age_and_what_is_new_is_for_the_next_view() {
    let held = Held::new("poem");
    let server = anthology(["--ttl", "0", &held.server.port()]);
    held.release();
    assert!(page(&server).contains("poem</pre>"));
    // Its server says nothing, and the page is whole.
    let old = page(&server);
    assert!(section(&old, 1).contains("what it has now is for the next view.\n\npoem"), "{old}");
    assert!(!old.contains("Asked for"));
    eventually("it is asked again", || held.clients() == 2);
    held.release();
    eventually("it has come", || metric(&server, "poetry_anthology_fetches_ended_total{outcome=\"ok\"}") == 2);
}

#[test]
fn what_is_old_does_not_wait_for_what_is_slow() {
    let (old, slow) = (Server::poem("old poem"), Held::new("slow"));
    let server = anthology(["--ttl", "0", &old.port(), &slow.server.port()]);
    let mut viewer = Viewer::new(&server, "/");
    viewer.until("old poem</pre>");
    crate::harness::reset(viewer.stream);
    eventually("it has left", || metric(&server, "poetry_anthology_viewers") == 0);
    drop(old);
    let mut viewer = Viewer::new(&server, "/");
    viewer.until("old poem</pre>");
    assert!(order(&viewer.text) == [1] && viewer.text.contains("Asked for 1 source:"), "{}", viewer.text);
    slow.release();
    // That one was for the fetch that nobody wanted any more.
    slow.release();
    assert_eq!(order(&viewer.whole()), [1, 2]);
}

#[test]
fn the_script_shows_a_page_of_five_sources() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        writeln!(std::io::stderr(), "skipped: there is no curl").expect("told");
        return;
    }
    let path = format!("{}:{}", path_of("").display(), std::env::var("PATH").expect("a path"));
    let finished = finish(std::process::Command::new(root.join("scripts/anthology.sh")).env("PATH", path));
    let page = String::from_utf8(finished.stdout).expect("text");
    assert_eq!((finished.status.code(), finished.stderr.as_str()), (Some(0), ""), "{page}");
    for line in ["An anthology", "It was silent for 3s, before its first byte.", "    -- John Donne"] {
        assert!(page.lines().any(|its| its == line), "{line}: {page}");
    }
    assert!(page.contains("Its connection was reset, ") && page.contains("Got 3 of 5 poems in "), "{page}");
    assert!(!page.contains('<'), "{page}");
}

#[test]
fn a_source_that_fails_again_says_why_beside_what_it_had() {
    let held = Held::new("poem");
    let port = held.server.port();
    let server = anthology(["--ttl", "0", &port]);
    held.release();
    page(&server);
    drop(held);
    page(&server);
    let refused = || metric(&server, "poetry_anthology_fetches_ended_total{outcome=\"refused\"}");
    eventually("it is refused", || refused() == 1);
    let told = section(&page(&server), 1);
    assert!(told.contains("Nobody listens there: connection refused.What it had: 4 bytes from 127.0.0.1:"), "{told}");
    assert!(told.contains("poem"), "{told}");
    assert_eq!(get(&server, "/?wait").0, 200);
    assert_eq!(get(&server, "/source/1"), (200, "poem".to_owned()));
}

#[test]
fn a_page_ends_in_time_and_what_is_on_its_way_is_for_the_next_view() {
    let (quick, slow) = (Server::poem("quick"), Held::new("slow"));
    let server = anthology(["--page-timeout", LIMIT, &quick.port(), &slow.server.port()]);
    let first = page(&server);
    assert!(first.contains("quick</pre>") && first.contains("<svg "), "{first}");
    let told = section(&first, 2);
    assert!(told.contains("Still on its way after ") && told.contains(": this page waits no longer for it."), "{told}");
    // Nobody looks, and it goes on.
    slow.release();
    eventually("it has come", || metric(&server, "poetry_anthology_fetches_ended_total{outcome=\"ok\"}") == 2);
    assert_eq!((page(&server).contains("slow</pre>"), slow.clients()), (true, 1));
}

#[test]
fn at_a_stop_pages_end_with_their_last_tags() {
    let (quick, held) = (Server::poem("quick"), Held::new("poem"));
    let server = anthology([quick.port(), held.server.port()]);
    let mut viewer = Viewer::new(&server, "/");
    viewer.until("quick</pre>");
    eventually("it is asked", || held.clients() == 1);
    server.signal(Signal::SIGTERM);
    let page = viewer.whole();
    assert!(page.contains("This server stops") && page.ends_with("</body>\n</html>\n"), "{page}");
    assert_eq!(server.finish().code(), 0);
}

#[test]
fn the_sources_are_read_again_and_kept_if_they_make_no_sense() {
    let (one, other) = (Server::poem("one"), Server::poem("other"));
    let table = |server: &Server, name: &str| format!("[[source]]\naddress = '{}'\nname = '{name}'\n", server.address);
    let sources = Sources::new(&table(&one, "the first"));
    let server = anthology(["--sources", &sources.word()]);
    assert!(section(&page(&server), 1).contains("the first"));
    sources.write(&(table(&one, "the same") + &table(&other, "the second")));
    server.signal(Signal::SIGHUP);
    server.hear("the page has 2 sources now");
    let again = page(&server);
    assert!(section(&again, 1).contains("the same") && section(&again, 2).contains("the second"), "{again}");
    sources.write("[[source]]\nadress = 1\n");
    server.signal(Signal::SIGHUP);
    let line = server.hear("Keeping the sources as they were: ");
    assert!(line.contains("unknown key 'adress' (a similar one is 'address')"), "{line}");
    assert_eq!(order(&page(&server)), [1, 2]);
}

#[test]
fn programs_get_the_report_and_the_texts() {
    let poem = Server::poem("poem\n");
    let page = replying(reply("Content-Type: text/html\r\n", "<title>A page</title>"));
    let feed = "<rss><channel><item><title>News</title><link>http://a.example/</link></item></channel></rss>";
    let feed = replying(reply("Content-Type: application/rss+xml\r\n", feed));
    let gone = replying("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n");
    let server = anthology([format!("donne={}", poem.port()), url(&page), url(&feed), url(&gone)]);
    let (status, json) = get(&server, "/anthology.json");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(status, 200);
    assert_eq!(crate::schema::violations("report.schema.json", &json["report"]), [""; 0]);
    let report = &json["report"];
    assert_eq!((&report["ok"], &report["failed"], &report["model"]), (&3.into(), &1.into(), &"async".into()));
    assert_eq!(report["tasks"][3]["status"], "not_found");
    let source = |number: usize| &json["sources"][number - 1];
    assert_eq!((&source(1)["name"], &source(1)["text"]), (&"donne".into(), &"poem\n".into()));
    assert_eq!((&source(2)["title"], &source(2)["state"]), (&"A page".into(), &"come".into()));
    assert_eq!(source(3)["headlines"][0]["link"], "http://a.example/");
    assert_eq!(source(4)["trouble"], "It answers HTTP 410 Gone, and has no text.");
    // From memory.
    let json: Value = serde_json::from_str(&get(&server, "/anthology.json").1).expect("JSON");
    assert_eq!(crate::schema::violations("report.schema.json", &json["report"]), [""; 0]);
    assert_eq!((&json["sources"][0]["state"], &json["report"]["tasks"][0]["attempts"]), (&"fresh".into(), &0.into()));
}

#[test]
fn texts_are_changed_on_their_way_or_shown_as_they_came() {
    let (poem, changing) = (Server::poem("a poem\n"), Service::transform([""; 0]));
    let server = anthology(["--transform", "shout", "--via", &changing.port(), &poem.port()]);
    assert!(page(&server).contains("A POEM\n</pre>"));
    assert_eq!(get(&server, "/source/1").1, "a poem\n");
    let (_socket, refused) = crate::harness::refusing_port();
    let silent = Held::new("");
    for (via, why) in [
        (&refused, "Nobody listens there: connection refused."),
        (&silent.server.port(), "It was silent for 2s, before its first byte."),
        (&poem.port(), "Its reply is malformed: "),
    ] {
        let server = anthology(["--idle-timeout", LIMIT, "--transform", "shout", "--via", via, &poem.port()]);
        let page = page(&server);
        let told = section(&page, 1);
        assert!(told.contains(&format!("It is as it came, and was to be changed: {why}")), "{told}");
        assert!(told.contains("a poem"), "{told}");
        let json: Value = serde_json::from_str(&get(&server, "/anthology.json").1).expect("JSON");
        assert_eq!(crate::schema::violations("report.schema.json", &json["report"]), [""; 0]);
    }
}

#[test]
fn when_nothing_comes_the_page_says_so_and_programs_get_502() {
    let (_socket, port) = crate::harness::refusing_port();
    let server = anthology([port]);
    let told = page(&server);
    assert!(told.contains("Nothing came: each source says why.") && told.contains("connection refused"), "{told}");
    for path in ["/?wait", "/anthology.json", "/source/1"] {
        assert_eq!(get(&server, path).0, 502, "{path}");
    }
}

#[test]
fn a_source_is_to_be_had_alone_as_it_came() {
    let latin = replying(reply("Content-Type: text/plain; charset=iso-8859-1\r\n", b"caf\xe9"));
    let html = replying(reply("Content-Type: text/html\r\n", "<title>x</title><script>alert(1)</script>"));
    let silent = Held::new("");
    let server = anthology(["--idle-timeout", LIMIT, &url(&latin), &url(&html), &silent.server.port()]);
    let alone = Viewer::new(&server, "/source/1");
    assert!(alone.head.contains("Content-Type: text/plain; charset=windows-1252\r\n"), "{}", alone.head);
    assert!(alone.head.contains("Content-Length: 4\r\n") && alone.head.contains("Age: 0\r\n"), "{}", alone.head);
    let alone = Viewer::new(&server, "/source/2");
    assert!(alone.head.contains("Content-Type: text/plain; charset=utf-8\r\n"), "{}", alone.head);
    assert!(alone.head.contains("X-Content-Type-Options: nosniff\r\n"), "{}", alone.head);
    assert_eq!(alone.whole(), "<title>x</title><script>alert(1)</script>");
    let (status, why) = get(&server, "/source/3");
    assert_eq!((status, &*why), (504, "It was silent for 2s, before its first byte.\n"));
    for path in ["/source/0", "/source/4", "/source/01", "/source/+1", "/source/", "/source/99999999999999999999"] {
        assert_eq!(get(&server, path), (404, "There are sources from 1 to 3\n".to_owned()), "{path}");
    }
    // Only what was asked for was fetched.
    assert_eq!(metric(&server, "poetry_anthology_fetches_total"), 3);
}

#[test]
fn a_long_text_is_all_there_however_it_is_asked_for() {
    let text = "<&>\n".repeat(200_000);
    let poem = Server::poem(text.clone());
    let server = anthology([poem.port()]);
    for path in ["/", "/", "/?wait", "/anthology.json"] {
        let (status, body) = get(&server, path);
        let escaped = if path.ends_with("json") { "<&>\\n" } else { "&lt;&amp;&gt;\n" };
        assert_eq!((status, body.matches(escaped).count()), (200, 200_000), "{path}");
    }
    assert_eq!(get(&server, "/source/1"), (200, text));
}

#[test]
fn old_clients_and_those_who_want_no_body_are_served_as_well() {
    let poem = Server::poem("poem");
    let server = anthology(["--host-name", "poems.example", &poem.port()]);
    let head = Viewer::of(ask(server.address, &request("/").replace("GET", "HEAD")));
    assert_eq!((head.status(), head.whole().as_str()), (200, ""));
    assert_eq!(metric(&server, "poetry_anthology_fetches_total"), 0);
    let old = Viewer::of(ask(server.address, "GET / HTTP/1.0\r\n\r\n"));
    assert!(!old.is_chunked);
    assert!(old.whole().ends_with("</body>\n</html>\n"));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: poems.example:80\r\nConnection: close\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
    ] {
        assert_eq!(Viewer::of(ask(server.address, request)).status(), status, "{request}");
    }
    let page = page(&server);
    let style =
        page.split_once("rel=\"stylesheet\" href=\"").expect("a style sheet").1.split('"').next().expect("a path");
    let sheet = Viewer::new(&server, style);
    assert!(sheet.head.contains("text/css") && sheet.head.contains("immutable"), "{}", sheet.head);
    assert!(sheet.whole().contains("[class=receiving]"), "the picture has its colours for a dark page");
}

#[test]
fn what_its_page_shows_is_what_happens() {
    follow("anthology.md", 4);
}

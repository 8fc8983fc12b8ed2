//! What somebody who mistypes something is told: one line, in words that need no manual of a library, and a status.

use crate::harness::{finish, program};

/// What is typed, the exit status, and what is said after the program's name. (`...`: what the system adds.)
const MISTAKES: &[(&[&str], i32, &str)] = &[
    (&["slowpoetry"], 2, "<FILE> is missing; see --help"),
    (
        &["slowpoetry", "--port", "80a", "sera"],
        2,
        "invalid value '80a' for '--port <N>': it must be a whole number from 0 to 65535; see --help",
    ),
    (
        &["slowpoetry", "--port", "70000", "sera"],
        2,
        "invalid value '70000' for '--port <N>': it must be a whole number from 0 to 65535; see --help",
    ),
    (
        &["slowpoetry", "--port", "-1", "sera"],
        2,
        "invalid value '-1' for '--port <N>': it must be a whole number from 0 to 65535; see --help",
    ),
    (
        &["slowpoetry", "--port=", "sera"],
        2,
        "invalid value '' for '--port <N>': it must be a whole number from 0 to 65535; see --help",
    ),
    (&["slowpoetry", "-p", "1", "sera"], 2, "unexpected argument '-p' (a similar one is '--port'); see --help"),
    (&["slowpoetry", "sera", "science"], 2, "unexpected argument 'science'; see --help"),
    (&["slowpoetry", "--iface", "eth9", "sera"], 1, "cannot resolve eth9, which is no IP address: ..."),
    (&["slowpoetry", "--iface", "lo", "sera"], 1, "cannot listen on lo by its name; its addresses are 127.0.0.1..."),
    (
        &["slowpoetry", "--iface", "10.255.255.1", "sera"],
        1,
        "cannot listen on 10.255.255.1:0: cannot assign requested address",
    ),
    (
        &["slowpoetry", "--backlog", "0", "sera"],
        2,
        "invalid value '0' for '--backlog <N>': it must be a whole number from 1 to 2147483647; see --help",
    ),
    (
        &["slowpoetry", "--clients", "0", "sera"],
        2,
        "invalid value '0' for '--clients <N>': it must be a whole number of at least 1; see --help",
    ),
    (
        &["slowpoetry", "--dely", "1s", "sera"],
        2,
        "unexpected argument '--dely' (a similar one is '--delay'); see --help",
    ),
    (
        &["slowpoetry", "--delay", "1x", "sera"],
        2,
        "invalid value '1x' for '--delay <DURATION>': there is no unit 'x'; a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (
        &["slowpoetry", "--delay", "-1s", "sera"],
        2,
        "invalid value '-1s' for '--delay <DURATION>': a duration cannot be negative; see --help",
    ),
    (
        &["slowpoetry", "--delay", "1s", "--rate", "10", "sera"],
        2,
        "--delay <DURATION> cannot be used with --rate <SIZE>; see --help",
    ),
    (
        &["slowpoetry", "--num-bytes", "0", "sera"],
        2,
        "invalid value '0' for '--num-bytes <SIZE>': it must be at least 1; see --help",
    ),
    (
        &["slowpoetry", "--num-bytes", "1.5", "sera"],
        2,
        "invalid value '1.5' for '--num-bytes <SIZE>': that is no whole number of bytes; see --help",
    ),
    (
        &["slowpoetry", "--rate", "0", "sera"],
        2,
        "invalid value '0' for '--rate <SIZE>': it must be at least 1; see --help",
    ),
    (
        &["slowpoetry", "--jitter", "1s", "--delay", "0", "sera"],
        2,
        "there is no delay that jitter could vary; see --help",
    ),
    (
        &["slowpoetry", "--seed", "x", "sera"],
        2,
        "invalid value 'x' for '--seed <N>': it must be a whole number; see --help",
    ),
    (&["slowpoetry", "--seed", "7", "sera"], 2, "there is no --jitter whose draws a seed could fix; see --help"),
    (&["slowpoetry", "--cut", "hang", "sera"], 2, "--cut-at <BYTES|DURATION> is missing; see --help"),
    (
        &["slowpoetry", "--cut-at", "10", "--cut", "rest", "sera"],
        2,
        "invalid value 'rest' for '--cut <HOW>' (a similar one is 'rst'): it must be fin, rst or hang; see --help",
    ),
    (
        &["slowpoetry", "--cut-at", "x", "sera"],
        2,
        "invalid value 'x' for '--cut-at <BYTES|DURATION>': it is a whole number of bytes like 100, 64KiB or 1M, or a duration like 500ms, 3s or 1m; see --help",
    ),
    (
        &["slowpoetry", "--fail-first", "0", "sera"],
        2,
        "invalid value '0' for '--fail-first <N>': it must be a whole number of at least 1; see --help",
    ),
    (&["slowpoetry", "--script", "nosuch.toml", "sera"], 1, "cannot read nosuch.toml: no such file or directory"),
    (&["slowpoetry", "--replay", "nosuch.jsonl", "sera"], 1, "cannot read nosuch.jsonl: no such file or directory"),
    (
        &["slowpoetry", "--never-accept", "--delay", "1s", "sera"],
        2,
        "--never-accept cannot be used with --delay <DURATION>; see --help",
    ),
    (
        &["slowpoetry", "nosuch"],
        1,
        "cannot serve nosuch: no such file or directory; built in are ecstasy, fascination, jingyesi, lyubil, science, sera",
    ),
    (&["slowpoetry", "/"], 1, "cannot serve /: is a directory"),
    (
        &["slowpoetry", "--grace", "x", "sera"],
        2,
        "invalid value 'x' for '--grace <DURATION>': a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (
        &["slowpoetry", "--log-format", "xml", "sera"],
        2,
        "invalid value 'xml' for '--log-format <FORMAT>': it must be text or json; see --help",
    ),
    (
        &["slowpoetry", "--ready-fd", "2", "sera"],
        2,
        "invalid value '2' for '--ready-fd <N>': it must be a whole number from 3 to 2147483647; see --help",
    ),
    (&["slowpoetry", "--ready-fd", "77", "sera"], 2, "cannot use descriptor 77: it is not open"),
    (
        &["fastpoetry", "--max-clients", "0", "sera"],
        2,
        "invalid value '0' for '--max-clients <N>': it must be a whole number of at least 1; see --help",
    ),
    (
        &["fastpoetry", "--write-timeout", "5parsecs", "sera"],
        2,
        "invalid value '5parsecs' for '--write-timeout <DURATION>': there is no unit 'parsecs'; a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (&["fastpoetry", "--expect", "left<1", "sera"], 2, "--expect is about a command: write it at the end, after --"),
    (&["poetry-proxy"], 2, "<UPSTREAM> is missing; see --help"),
    (
        &["poetry-proxy", "nohost:"],
        2,
        "invalid value 'nohost:' for '[UPSTREAM]': no port; an address is PORT, HOST:PORT or [IPv6]:PORT; see --help",
    ),
    (
        &["poetry-proxy", "http://localhost:80"],
        2,
        "invalid value 'http://localhost:80' for '[UPSTREAM]': the host is not a name; an address is PORT, HOST:PORT or [IPv6]:PORT; see --help",
    ),
    (
        &["poetry-proxy", "--ttl", "x", "10000"],
        2,
        "invalid value 'x' for '--ttl <DURATION>': a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (&["poetry-proxy", "--retry-after", "1s", "10000"], 2, "--retry-after is about poems that age: --ttl is missing"),
    (&["poetry-proxy", "--stale-if-error", "10000"], 2, "--stale-if-error is about poems that age: --ttl is missing"),
    (&["poetry-proxy", "--port", "10000", "10000"], 2, "127.0.0.1:10000 is this proxy itself, and no upstream"),
    (
        &["transformedpoetry", "--max-size", "0"],
        2,
        "invalid value '0' for '--max-size <SIZE>': it must be at least 1; see --help",
    ),
    (
        &["transformedpoetry", "--idle-timeout", "x"],
        2,
        "invalid value 'x' for '--idle-timeout <DURATION>': a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (&["transformedpoetry", "file"], 2, "unexpected argument 'file'; see --help"),
    (&["poetryd"], 2, "there is no PROGRAM and no --config; see --help"),
    (
        &["poetryd", "slowpoetry", "sera"],
        2,
        "there is no PROGRAM 'slowpoetry': it is fastpoetry, transformedpoetry, poetry-proxy, poetry-chaos, poetry-broker, tcp-charfinder, http-charfinder, poetry-monitor, poetry-library or poetry-anthology; slowpoetry serves one client at a time, and runs alone; see --help",
    ),
    (
        &["poetryd", "fastpoetri", "sera"],
        2,
        "there is no PROGRAM 'fastpoetri': it is fastpoetry, transformedpoetry, poetry-proxy, poetry-chaos, poetry-broker, tcp-charfinder, http-charfinder, poetry-monitor, poetry-library or poetry-anthology; see --help",
    ),
    (&["poetryd", "--config", "nosuch.toml"], 1, "cannot read nosuch.toml: no such file or directory"),
    (
        &["poetryd", "--metrics", "x", "fastpoetry", "sera"],
        2,
        "invalid value 'x' for '--metrics <ADDR>': no port; an address is PORT, HOST:PORT or [IPv6]:PORT; see --help",
    ),
    (
        &["poetryd", "--log-keep", "x", "fastpoetry", "sera"],
        2,
        "invalid value 'x' for '--log-keep <N>': it must be a whole number; see --help",
    ),
    (&["poetryd", "--daemon"], 2, "there is no PROGRAM and no --config; see --help"),
    (&["get-poetry"], 2, "<ADDR>... is missing; see --help"),
    (
        &["get-poetry", "0"],
        2,
        "invalid value '0' for '[ADDR]...': the port is not between 1 and 65535; an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=; see --help",
    ),
    (
        &["get-poetry", "99999"],
        2,
        "invalid value '99999' for '[ADDR]...': the port is not between 1 and 65535; an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=; see --help",
    ),
    (
        &["get-poetry", "localhost"],
        2,
        "invalid value 'localhost' for '[ADDR]...': no port; an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=; see --help",
    ),
    (
        &["get-poetry", "::1:80"],
        2,
        "invalid value '::1:80' for '[ADDR]...': an IPv6 address needs brackets; an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=; see --help",
    ),
    (
        &["get-poetry", "-j", "0", "1"],
        2,
        "invalid value '0' for '--max-concurrency <N>': it must be a whole number of at least 1; see --help",
    ),
    (
        &["get-poetry", "--retries", "-1", "1"],
        2,
        "invalid value '-1' for '--retries <N>': it must be a whole number from 0 to 4294967295; see --help",
    ),
    (
        &["get-poetry", "--retries", "x", "1"],
        2,
        "invalid value 'x' for '--retries <N>': it must be a whole number from 0 to 4294967295; see --help",
    ),
    (
        &["get-poetry", "--timeout", "x", "1"],
        2,
        "invalid value 'x' for '--timeout <DURATION>': a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (&["get-poetry", "--transform", "shout", "1"], 2, "--via <ADDR> is missing; see --help"),
    (&["get-poetry", "--via", "1", "1"], 2, "--transform <NAME> is missing; see --help"),
    (
        &["get-poetry", "--transform", "", "--via", "1", "1"],
        2,
        "invalid value '' for '--transform <NAME>': a transform has a name; see --help",
    ),
    (&["get-poetry", "--ordered", "--discard", "1"], 2, "--ordered cannot be used with --discard; see --help"),
    (&["get-poetry", "--timeline", "x.png", "1"], 2, "a picture is SVG, and x.png does not end in .svg"),
    (&["poetry-race"], 2, "<ADDR>... is missing; see --help"),
    (
        &["poetry-sim", "--loss", "51"],
        2,
        "invalid value '51' for '--loss <PERCENT>': it must be a number from 0 to 50; see --help",
    ),
    (&["poetry-sim", "--servers", "3", "--poems", "2"], 2, "3 servers have more than 2 poems; see --help"),
    (&["poetry-sim", "--record", "x"], 2, "--record is for a server that is there, and these are simulated"),
    (&["poetry-sim", "--json", "--step"], 2, "--json cannot be used with --step; see --help"),
    (
        &["poetry-sim", "--costs", "/dev/null"],
        2,
        "/dev/null: these are no costs: EOF while parsing a value at line 1 column 0",
    ),
    (
        &["poetry-race", "--runs", "0", "1"],
        2,
        "invalid value '0' for '--runs <N>': it must be a whole number of at least 1, or auto; see --help",
    ),
    (
        &["poetry-race", "--warm-up", "x", "1"],
        2,
        "invalid value 'x' for '--warm-up <N>': it must be a whole number; see --help",
    ),
    (
        &["poetry-race", "--models", "fast", "1"],
        2,
        "invalid value 'fast' for '--models <MODEL>': a model is blocking, threads, select or async; see --help",
    ),
    (
        &["poetry-race", "--models", "async,nope", "1"],
        2,
        "invalid value 'nope' for '--models <MODEL>': a model is blocking, threads, select or async; see --help",
    ),
    (
        &["poetry-race", "-j", "0", "1"],
        2,
        "invalid value '0' for '--max-concurrency <N>': it must be a whole number of at least 1; see --help",
    ),
    (
        &["poetry-race", "--assert", "async", "1"],
        2,
        "invalid value 'async' for '--assert <EXPR>': <, <=, =, >= or > was expected at the end; an assertion is like 'async <= 1.1 * bound'; see --help",
    ),
    (
        &["poetry-race", "--assert", "async < 1 parsec", "1"],
        2,
        "invalid value 'async < 1 parsec' for '--assert <EXPR>': an unknown unit at '1 parsec'; an assertion is like 'async <= 1.1 * bound'; see --help",
    ),
    (&["poetry-race", "--assert", "foo < 1", "1"], 2, "the assertion speaks of foo, which does not take part"),
    (
        &["poetry-race", "--assert", "* < 1", "1"],
        2,
        "invalid value '* < 1' for '--assert <EXPR>': a number, a model or 'bound' was expected at '* < 1'; an assertion is like 'async <= 1.1 * bound'; see --help",
    ),
    (
        &["poetry-race", "--client", "mine=fetch --to={}", "1"],
        2,
        "invalid value 'mine=fetch --to={}' for '--client <NAME=COMMAND>': --to={}: {} has to be a word of its own, which becomes one word for each address; see --help",
    ),
    (
        &["poetry-race", "--models", "async", "--assert", "blocking < 1", "1"],
        2,
        "the assertion speaks of blocking, which does not take part",
    ),
    (&["poetry-race", "--json", "--csv", "1"], 2, "--json cannot be used with --csv; see --help"),
    (&["poetry-race", "--timeline", "x.png", "1"], 2, "a picture is SVG, and x.png does not end in .svg"),
    (&["slowpoetry", "sera", "--port"], 2, "--port <N> has no value; see --help"),
    (
        &["slowpoetry", "--first-byte-delay", "soon", "sera"],
        2,
        "invalid value 'soon' for '--first-byte-delay <DURATION>': a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (&["slowpoetry", "--iface", "", "sera"], 2, "--iface <HOST> has no value; see --help"),
    (
        &["fastpoetry", "--rehearse", "x", "sera"],
        2,
        "invalid value 'x' for '--rehearse <N>': it must be a whole number; see --help",
    ),
    (
        &["fastpoetry", "--replay", "a", "--script", "b", "sera"],
        2,
        "--replay <FILE> cannot be used with --script <FILE>; see --help",
    ),
    (&["transformedpoetry", "--list", "--port"], 2, "--port <N> has no value; see --help"),
    (&["get-poetry", "-X", "1"], 2, "unexpected argument '-X'; see --help"),
    (
        &["get-poetry", "--idle-timeout", "1y2", "1"],
        2,
        "invalid value '1y2' for '--idle-timeout <DURATION>': a duration is like 100ms, '1m 30s' or 0.5; see --help",
    ),
    (&["get-poetry", "--fail-early"], 2, "<ADDR>... is missing; see --help"),
    (&["get-poetry", "--log-format=", "1"], 2, "--log-format <FORMAT> has no value; see --help"),
    (
        &["get-poetry", "donne="],
        2,
        "invalid value 'donne=' for '[ADDR]...': no port; an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=; see --help",
    ),
    (
        &["get-poetry", "=1"],
        2,
        "invalid value '=1' for '[ADDR]...': no name before the =; an address is PORT, HOST:PORT, [IPv6]:PORT or http://HOST[:PORT]/PATH, or one of these after NAME=; see --help",
    ),
    (
        &["poetry-chaos", "--delay", "5s", "1"],
        2,
        "--delay is about the behaviour delay, which is not asked for: --behavior 100:delay; see --help",
    ),
    (&["poetry-chaos", "--script", "/dev/zero", "1"], 2, "/dev/zero is longer than 16 MiB: it is no file for people"),
    (&["poetry-broker", "--queue", "0"], 2, "--queue has to be 1048576 bytes at least: one message of --max-length"),
    (&["poetry-broker", "--max-length", "0"], 2, "--max-length has to be from 1 byte to 256MiB"),
    (&["poetry-broker", "--max-length", "257MiB", "--queue", "1G"], 2, "--max-length has to be from 1 byte to 256MiB"),
    (
        &["poetry-broker", "--when-full", "drop"],
        2,
        "invalid value 'drop' for '--when-full <POLICY>' (a similar one is 'drop-old'): it must be drop-new, drop-old, disconnect or wait; see --help",
    ),
    (&["poetry-listen", "25000"], 2, "<CHANNEL> is missing; see --help"),
    (&["poetry-listen", "25000", ""], 2, "127.0.0.1:25000: a channel has a name"),
    (&["poetry-listen", "--report", "x", "25000", "/topic/a"], 2, "--report is about --check, which is not given"),
    (
        &["poetry-send", "http://localhost:1", "/topic/a"],
        2,
        "invalid value 'http://localhost:1' for '<ADDR>': 'http://' is no protocol of a broker here; an address is PORT, HOST:PORT or nats://HOST[:PORT]; see --help",
    ),
    (
        &["poetry-send", "--rate", "0", "25000", "/topic/a"],
        2,
        "invalid value '0' for '--rate <N>': it must be a whole number of at least 1; see --help",
    ),
    (&["poetry-send", "--file", "absent", "25000", "/topic/a"], 1, "cannot read absent: no such file or directory"),
    (&["poetry-proxy", "--http", "1"], 2, "--http cannot be used with [UPSTREAM]; see --help"),
    (&["poetry-proxy", "--targets", "any", "1"], 2, "--targets is about --http, which is not given"),
    (
        &["poetry-proxy", "--http", "--max-memory", "1m"],
        2,
        "--http cannot be used with --max-memory <SIZE>; see --help",
    ),
    (
        &["poetry-proxy", "--http", "--connect", "0"],
        2,
        "invalid value '0' for '--connect <PORTS>': ports are like 443, 443,8000-8999, or any; see --help",
    ),
    (&["poetry-draw"], 2, "<FILE>... is missing; see --help"),
    (&["poetry-draw", "-o", "x.png", "a.json"], 2, "a picture is .svg, .html or .txt, and x.png is none of these"),
    (&["poetry-draw", "-o", "a.svg", "a.svg"], 2, "a.svg is read, and would be written over"),
    (&["poetry-draw", "--svg", "--html", "a.json"], 2, "--svg cannot be used with --html; see --help"),
    (&["poetry-draw", "--animate", "a.json"], 2, "--animate is about SVG, which is not asked for"),
    (&["poetry-draw", "--html", "--compact", "a.json"], 2, "--compact is not about a page, whose lanes have labels"),
    (&["poetry-draw", "-", "-"], 2, "stdin (-) can be read only once"),
    (&["poetry-draw", "no/such.json"], 1, "cannot read no/such.json: no such file or directory"),
    (&["charfinder"], 2, "<WORD>... is missing; see --help"),
    (&["charfinder", "!!!"], 2, "there is no word in '!!!'"),
    (&["charfinder", "U+110000"], 2, "U+110000 is no code point: the last one is U+10FFFF"),
    (
        &["charfinder", "--limit", "0", "cat"],
        2,
        "invalid value '0' for '--limit <N>': it must be a whole number of at least 1; see --help",
    ),
    (
        &["charfinder", "--start", "-1", "cat"],
        2,
        "invalid value '-1' for '--start <N>': it must be a whole number; see --help",
    ),
    (&["charfinder", "--words", "2", "cat"], 2, "--words [<N>] cannot be used with [WORD]...; see --help"),
    (&["charfinder", "--count", "--json", "cat"], 2, "--count cannot be used with --json; see --help"),
    (&["tcp-charfinder", "cat"], 2, "unexpected argument 'cat'; see --help"),
    (&["http-charfinder", "cat"], 2, "unexpected argument 'cat'; see --help"),
    (&["poetry-anthology"], 2, "<SOURCE>... is missing; see --help"),
    (
        &["poetry-anthology", "https://poems.example/"],
        2,
        "invalid value 'https://poems.example/' for '[SOURCE]...': https is not spoken here; put socat or stunnel in front; see --help",
    ),
    (
        &["poetry-anthology", "--timeout", "0", "1"],
        2,
        "invalid value '0' for '--timeout <DURATION>': it must be longer than 0; see --help",
    ),
    (&["poetry-anthology", "--per-host", "0", "1"], 2, "invalid value '0' for '--per-host <N>': it must be a whole..."),
    (&["poetry-anthology", "--sources", "nosuch.toml"], 1, "cannot read nosuch.toml: no such file or directory"),
    (&["poetry-race", "--runs"], 2, "--runs <N> has no value; see --help"),
    (&["poetryd", "--config"], 2, "--config <FILE> has no value; see --help"),
    (&["poetryd", "--conifg", "x"], 2, "unexpected argument '--conifg' (a similar one is '--config'); see --help"),
];

#[test]
fn a_mistake_gets_one_line_that_says_what_and_why() {
    assert!(MISTAKES.len() >= 75);
    let directory = tempfile::tempdir().expect("a directory");
    for (words, status, message) in MISTAKES {
        let mut command = program(words[0]);
        let finished = finish(command.args(&words[1..]).current_dir(directory.path()));
        assert_eq!(finished.code(), *status, "{words:?}: {finished:?}");
        assert_eq!(finished.stdout, b"", "{words:?}");
        let expected = format!("{}: {message}", words[0]);
        match expected.strip_suffix("...") {
            Some(start) => assert!(finished.complaint().starts_with(start), "{words:?}: {}", finished.complaint()),
            None => assert_eq!(finished.complaint(), expected, "{words:?}"),
        }
        assert_eq!(directory.path().read_dir().expect("a directory").count(), 0, "{words:?}: something is left");
    }
}

/// What is written at the end is looked at in the beginning.
#[test]
fn places_that_cannot_be_written_are_found_before_anything_is_fetched() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(path("file"), "kept").expect("written");
    let (below, missing) = (path("file/x"), path("missing/x.svg"));
    for (words, what) in [
        (vec!["get-poetry", "-o", &below, "1"], format!("write into {below}: not a directory")),
        (vec!["get-poetry", "--report", &below, "1"], format!("write {below}: not a directory")),
        (vec!["get-poetry-select", "--timeline", &missing, "1"], format!("write {missing}: no such file or directory")),
        (vec!["poetry-race", "--timeline", &missing, "1"], format!("write {missing}: no such file or directory")),
    ] {
        let finished = finish(program(words[0]).args(&words[1..]));
        assert_eq!((finished.code(), finished.complaint()), (1, &*format!("{}: cannot {what}", words[0])));
    }
    // What was there is still there, although the poem does not arrive.
    let finished = finish(program("get-poetry").args(["-q", "--report", "/dev/null", "--timeline", "/dev/null", "1"]));
    assert!(finished.complaint().contains("connection refused"), "{finished:?}");
    assert_eq!(std::fs::read_to_string(path("file")).expect("a file"), "kept");
}

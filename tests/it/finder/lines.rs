//! tcp-charfinder: sessions, telnet and its commands, those who never read, and the stop.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use nix::sys::signal::Signal;

use crate::harness::{PATIENCE, Service, eventually, program, read_out, read_some};

fn server(flags: &[&str]) -> Service {
    Service::start(program("tcp-charfinder").arg("-v").args(flags))
}

/// A client that has seen the first prompt.
struct Client(TcpStream);

impl Client {
    fn new(server: &Service) -> Self {
        let stream = server.connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let client = Self(stream);
        assert_eq!(client.heard(), "");
        client
    }

    fn say(&self, bytes: &[u8]) {
        (&self.0).write_all(bytes).expect("sent");
    }

    /// What is said before the next prompt.
    fn heard(&self) -> String {
        let mut all = Vec::new();
        while !all.ends_with(b"?> ") {
            let mut byte = [0];
            assert_eq!(read_some(&self.0, &mut byte), Ok(1), "{}", String::from_utf8_lossy(&all));
            all.push(byte[0]);
        }
        all.truncate(all.len() - 3);
        String::from_utf8(all).expect("UTF-8")
    }

    fn ask(&self, line: &str) -> String {
        self.say(line.as_bytes());
        self.heard()
    }

    /// How the stream ends, whatever comes before.
    fn end(self) -> Result<(), io::ErrorKind> {
        read_out(self.0).map(drop).map_err(|error| error.kind())
    }

    /// What is said until the end of the stream.
    fn rest(self) -> io::Result<String> {
        read_out(self.0).map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }
}

#[test]
fn a_session_is_questions_and_answers() {
    let server = server(&[]);
    assert!(server.line.starts_with("Finding characters on 127.0.0.1:"), "{}", server.line);
    let client = Client::new(&server);
    let knight = "U+1FA52\t🩒\tBLACK CHESS KNIGHT-ROOK\r\n1 match for 'knight rook black'\r\n";
    assert_eq!(client.ask("knight rook black\r\n"), knight);
    assert_eq!(client.ask(" knight rook black \n"), knight);
    assert_eq!(client.ask("knight rook black\r\0"), knight);
    for nothing in ["\r\n", "\n", "   \t\n"] {
        assert_eq!(client.ask(nothing), "");
    }
    assert_eq!(client.ask("jabberwocky's vest\n"), "No match for \"jabberwocky's vest\"\r\n");
    assert_eq!(client.ask("!!!\n"), "No match for '!!!'\r\n");
    assert_eq!(client.ask("U+110000\n"), "U+110000 is no code point: the last one is U+10FFFF\r\n");
    let many: String = (0..40).map(|n| format!("w{n} ")).collect();
    assert_eq!(client.ask(&(many + "\n")), "more than 32 words\r\n");
    let sun = client.ask("sun\n");
    assert_eq!((sun.lines().count(), sun.ends_with("\r\n17 matches for 'sun'\r\n")), (18, true), "{sun}");
    let all = client.ask("cjk\n");
    assert_eq!(all.lines().count(), 103_204);
    assert!(all.ends_with("\r\nU+33479\t𳑹\tCJK UNIFIED IDEOGRAPH-33479\r\n103203 matches for 'cjk'\r\n"));
    // Many at once are answered one after another.
    client.say("♜\n".repeat(1_000).as_bytes());
    for _ in 0..1_000 {
        assert_eq!(client.heard(), "U+265C \t♜\tBLACK CHESS ROOK\r\n1 match for '♜'\r\n");
    }
    server.hear("1 for 'knight rook black'");
}

#[test]
fn nothing_that_is_dangerous_goes_to_a_terminal() {
    let server = server(&[]);
    let client = Client::new(&server);
    let answer = client.ask("U+1B U+202E U+200B U+FEFF U+2028 \u{9b}\u{202e}\n");
    assert!(answer.chars().all(|c| !c.is_control() || "\t\r\n".contains(c)), "{answer:?}");
    assert!(!answer.contains(['\u{202e}', '\u{200b}', '\u{feff}', '\u{2028}']), "{answer:?}");
    assert!(answer.ends_with("6 matches for 'U+1B U+202E U+200B U+FEFF U+2028 \\x9b\\u202e'\r\n"), "{answer:?}");
}

#[test]
fn whoever_has_said_all_gets_all() {
    let server = server(&[]);
    let knight = "U+1FA52\t🩒\tBLACK CHESS KNIGHT-ROOK\r\n1 match for 'knight rook black'\r\n?> ";
    for (said, expected) in [
        ("", String::new()),
        ("knight rook black\n", knight.to_owned()),
        ("knight rook black", knight.to_owned()),
        ("knight rook black\r", knight.to_owned()),
        ("\nknight rook black\nknight rook black", format!("?> {knight}{knight}")),
    ] {
        let client = Client::new(&server);
        client.say(said.as_bytes());
        client.0.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(client.rest().expect("FIN"), expected, "{said:?}");
    }
    let client = Client::new(&server);
    client.say(b"cjk");
    client.0.shutdown(Shutdown::Write).expect("connected");
    assert!(client.rest().expect("FIN").ends_with("\r\n103203 matches for 'cjk'\r\n?> "));
}

#[test]
fn telnet_is_understood_as_far_as_it_has_to_be() {
    let server = server(&[]);
    // Ctrl-C, Ctrl-\ and Ctrl-D as telnet sends them, and what is no telnet; Ctrl-D as it is; no UTF-8.
    for last in [
        &b"\xff\xf4\xff\xfd\x06"[..],
        b"\xff\xf3\xff\xfd\x06",
        b"\xff\xec",
        b"\xff\x01",
        b"\x04\n",
        b"\x1b[A\r\n",
        b"caf\xe9\r\n",
        b"\xff\xff\r\n",
    ] {
        let client = Client::new(&server);
        client.say(b"\xff\xfb\x1f\xff\xfa\x1f\0\x50\0\x18\xff\xf0r\xff\xf1oo\xff\xf6k kni\xff\xfd\x03ght\r\n");
        assert!(client.heard().ends_with("2 matches for 'rook knight'\r\n"));
        client.say(last);
        assert_eq!(client.rest().expect("FIN"), "", "{}", last.escape_ascii());
    }
    assert_eq!(Client::new(&server).ask("\n"), "");
}

#[test]
fn lines_and_subnegotiations_have_an_end() {
    let server = server(&[]);
    let longest = Client::new(&server);
    assert_eq!(longest.ask(&(" ".repeat(1_024) + "\r\n")), "");
    longest.say(&[b'x'; 1_025]);
    assert_eq!(longest.rest().expect("FIN"), "line too long\r\n");
    let client = Client::new(&server);
    client.say(&[b"\xff\xfa", &[0; 1_025][..]].concat());
    assert_eq!(client.rest().expect("FIN"), "");
}

#[test]
fn whoever_says_nothing_for_long_is_let_go() {
    let server = server(&["--idle-timeout", "200ms"]);
    for said in ["", "sun", "\n"] {
        let client = Client::new(&server);
        client.say(said.as_bytes());
        let rest = client.rest().expect("FIN");
        assert_eq!(rest, if said == "\n" { "?> " } else { "" });
    }
    server.hear("has said nothing for 200ms");
}

#[test]
fn whoever_asks_for_everything_and_reads_nothing_costs_little_and_is_dropped() {
    let server = server(&["--write-timeout", "1s"]);
    let other = Client::new(&server);
    assert!(other.ask("sun\n").ends_with("17 matches for 'sun'\r\n"));
    let before = server.memory();
    let silent: Vec<Client> = (0..20).map(|_| Client::new(&server)).collect();
    for client in &silent {
        // Nobody's buffer takes the whole.
        client.say("cjk\n".repeat(10).as_bytes());
        (&client.0).read_exact(&mut [0; 9]).expect("a part of an answer");
    }
    for _ in 0..100 {
        assert!(other.ask("sun\n").ends_with("17 matches for 'sun'\r\n"));
    }
    let each = server.memory().saturating_sub(before) / 20;
    assert!(each < 200_000, "{each}");
    let dropped = silent
        .iter()
        .map(|client| format!("Dropped {}: it took nothing for 1s", client.0.local_addr().expect("connected")));
    let dropped: Vec<String> = dropped.collect();
    server.hear_all(&dropped.iter().map(String::as_str).collect::<Vec<_>>());
    for client in silent {
        assert_eq!(client.end(), Err(io::ErrorKind::ConnectionReset));
    }
    assert!(other.ask("sun\n").ends_with("17 matches for 'sun'\r\n"));
}

#[test]
fn a_stop_ends_sessions_and_finishes_answers() {
    let server = server(&["--grace", "10s"]);
    let (idle, busy) = (Client::new(&server), Client::new(&server));
    busy.say(b"cjk\n");
    let mut first = [0; 8];
    (&busy.0).read_exact(&mut first).expect("a part of an answer");
    server.signal(Signal::SIGTERM);
    assert_eq!(idle.rest().expect("FIN"), "");
    assert!(busy.rest().expect("FIN").ends_with("\r\n103203 matches for 'cjk'\r\n?> "));
    assert_eq!(server.finish().code(), 0);
}

#[test]
fn an_answer_that_is_not_taken_within_the_grace_time_ends_with_a_reset() {
    let server = server(&["--grace", "200ms"]);
    let client = Client::new(&server);
    client.say("cjk\n".repeat(10).as_bytes());
    server.hear("103203 for 'cjk'");
    server.signal(Signal::SIGTERM);
    assert_eq!(client.end(), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(server.finish().code(), 0);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_is_no_trouble() {
    let server = server(&[]);
    for _ in 0..20 {
        let client = Client::new(&server);
        client.say(b"cjk\n");
        let mut first = [0; 8];
        (&client.0).read_exact(&mut first).expect("a part of an answer");
        crate::harness::reset(client.0);
    }
    eventually("they have left", || {
        server.signal(Signal::SIGUSR1);
        server.hear("Totals: ").contains("20 lost")
    });
    assert!(Client::new(&server).ask("sun\n").ends_with("17 matches for 'sun'\r\n"));
}

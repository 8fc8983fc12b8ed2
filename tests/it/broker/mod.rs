//! poetry-broker as its users meet it: what gets to whom, what becomes of the slow, and what is said about it.

mod ends;
mod page;
mod theirs;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use regex_lite::Regex;
use socket2::SockRef;

use crate::harness::{PATIENCE, Service, eventually, program, read_some};

/// A broker with these flags, which says who listens.
fn broker(flags: &[&str]) -> Service {
    Service::start(program("poetry-broker").arg("-v").args(flags))
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[..], payload].concat()
}

fn pair(channel: &str, message: &[u8]) -> Vec<u8> {
    [frame(channel.as_bytes()), frame(message)].concat()
}

/// A client of a broker, as plain as the protocol.
struct Client(TcpStream);

impl Client {
    /// Somebody who has said where they listen; the broker may not know yet.
    fn new(broker: &Service, channel: &str) -> Self {
        let stream = broker.connect();
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        let client = Self(stream);
        client.say(&frame(channel.as_bytes()));
        client
    }

    /// Somebody who listens, as the broker says.
    fn listening(broker: &Service, channel: &str) -> Self {
        let client = Self::new(broker, channel);
        broker.hear(&format!("Somebody at {} listens to {channel}!", client.0.local_addr().expect("connected")));
        client
    }

    fn sender(broker: &Service) -> Self {
        Self::new(broker, "/null")
    }

    fn say(&self, bytes: &[u8]) {
        (&self.0).write_all(bytes).expect("the broker listens");
    }

    fn send(&self, channel: &str, message: impl AsRef<[u8]>) {
        self.say(&pair(channel, message.as_ref()));
    }

    /// The next message; `None`: the end of the stream.
    fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        let mut have = 0;
        while have < 4 {
            match read_some(&self.0, &mut length[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => have += n,
            }
        }
        let mut message = vec![0; u32::from_be_bytes(length) as usize];
        (&self.0).read_exact(&mut message)?;
        Ok(Some(message))
    }

    fn message(&self) -> Vec<u8> {
        self.next().expect("connected").expect("a message")
    }

    fn text(&self) -> String {
        String::from_utf8(self.message()).expect("UTF-8")
    }

    /// Everything up to the end of the stream.
    fn rest(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some(message) = self.next()? {
            all.push(message);
        }
        Ok(all)
    }

    /// Says that it has said everything, and waits until the broker has heard it.
    fn end(self) {
        self.0.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(self.rest().expect("FIN"), Vec::<Vec<u8>>::new());
    }
}

/// What the broker has done so far: messages received, delivered, dropped and unheard.
fn totals(broker: &Service) -> [u64; 4] {
    broker.signal(Signal::SIGUSR1);
    let line = broker.hear("Messages: ");
    let numbers =
        Regex::new(r"(\d+) messages? received, (\d+) delivered, (\d+) dropped, (\d+) unheard").expect("valid");
    let found = numbers.captures(&line).unwrap_or_else(|| panic!("{line}"));
    [1, 2, 3, 4].map(|at| found[at].parse().expect("a number"))
}

#[test]
fn a_topic_is_for_everybody_and_a_queue_for_one_each() {
    let broker = broker(&[]);
    assert!(broker.line.starts_with("Carrying messages on "), "{}", broker.line);
    let listeners = [Client::listening(&broker, "/topic/a"), Client::listening(&broker, "/topic/a")];
    let other = Client::listening(&broker, "/topic/b");
    let workers: Vec<Client> = (0..3).map(|_| Client::listening(&broker, "/queue/a")).collect();
    let sender = Client::sender(&broker);
    let long = vec![7; 1 << 20];
    for message in [&b"one"[..], b"", b"\0\xff", &long, b"last"] {
        sender.send("/topic/a", message);
        for listener in &listeners {
            assert!(listener.message() == message);
        }
    }
    for number in 0..9 {
        sender.send("/queue/a", number.to_string());
    }
    for (first, worker) in workers.iter().enumerate() {
        assert_eq!([(); 3].map(|()| worker.text()), [0, 3, 6].map(|n| (n + first).to_string()));
    }
    sender.send("/topic/b", "for the other one");
    assert_eq!(other.text(), "for the other one");
    sender.send("/topic/nobody", "unheard");
    sender.send("/null", "nothing");
    sender.end();
    assert_eq!(totals(&broker), [17, 20, 0, 2]);
}

#[test]
fn whoever_listens_may_send_and_hears_itself() {
    let broker = broker(&[]);
    let client = Client::listening(&broker, "/topic/a");
    client.send("/topic/a", "an echo");
    assert_eq!(client.text(), "an echo");
    // The name and the first message in one piece, and the last byte alone.
    let stream = [frame(b"/topic/b"), pair("/topic/b", b"early")].concat();
    let other = Client(broker.connect());
    other.0.set_read_timeout(Some(PATIENCE)).expect("set");
    other.say(&stream[..stream.len() - 1]);
    other.say(&stream[stream.len() - 1..]);
    assert_eq!(other.text(), "early");
}

#[test]
fn an_empty_name_is_null_first_and_goodbye_later() {
    let broker = broker(&[]);
    let listener = Client::listening(&broker, "/topic/a");
    let sender = Client::new(&broker, "");
    sender.send("/topic/a", "before");
    sender.say(&frame(b""));
    sender.say(&pair("/topic/a", b"after"));
    assert_eq!(sender.rest().expect("FIN"), Vec::<Vec<u8>>::new());
    assert_eq!(listener.text(), "before");
    listener.say(&frame(b""));
    assert_eq!(listener.next().expect("FIN"), None);
    assert_eq!(totals(&broker), [1, 1, 0, 0]);
}

#[test]
fn half_a_message_is_nobodys_and_told_in_one_line() {
    let broker = broker(&[]);
    let listener = Client::listening(&broker, "/topic/a");
    let sender = Client::sender(&broker);
    sender.send("/topic/a", "whole");
    let half = pair("/topic/a", b"a message");
    for end in [1, 6, 11, 14, half.len() - 1] {
        let sender = Client::sender(&broker);
        sender.say(&half[..end]);
        let line = format!("{} has ended in the middle of a message", sender.0.local_addr().expect("connected"));
        sender.end();
        broker.hear(&line);
    }
    sender.end();
    assert_eq!(listener.text(), "whole");
    assert_eq!(totals(&broker), [1, 1, 0, 0]);
}

#[test]
fn what_is_too_long_resets_its_sender_and_nobody_else() {
    let broker = broker(&["--max-length", "1000"]);
    let listener = Client::listening(&broker, "/topic/a");
    for (said, why) in [
        (pair("/topic/a", &[7; 1_001]), "a message: 1001 bytes are over the limit of 1000"),
        (frame(&[b'a'; 256]), "the name of a channel: 256 bytes are over the limit of 255"),
        (b"\xff\xff\xff\xff".to_vec(), "the name of a channel: 4294967295 bytes are over the limit of 255"),
    ] {
        let sender = Client::sender(&broker);
        sender.say(&pair("/topic/a", b"before"));
        assert_eq!(listener.text(), "before");
        sender.say(&said);
        assert_eq!(sender.next().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
        broker.hear(&format!("Reset {}: {why}", sender.0.local_addr().expect("connected")));
    }
    let mut browser = broker.connect();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    broker.hear("1195725856 bytes are over the limit of 255; that is \"GET \": HTTP?");
    assert!(read_some(&browser, &mut [0; 16]).is_err());
    let sender = Client::sender(&broker);
    sender.send("/topic/a", vec![7; 1_000]);
    assert_eq!(listener.message().len(), 1_000);
}

#[test]
fn an_announcement_reserves_nothing_and_has_a_time_limit() {
    let broker = broker(&["--max-length", "256MiB", "--queue", "256MiB", "--message-timeout", "300ms"]);
    let senders: Vec<Client> = (0..50).map(|_| Client::sender(&broker)).collect();
    let before = broker.memory();
    for sender in &senders {
        sender.say(&[&frame(b"/topic/a")[..], &(256_u32 << 20).to_be_bytes(), b"ten bytes!"].concat());
    }
    for sender in &senders {
        assert_eq!(sender.next().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
    let grown = broker.memory().saturating_sub(before);
    assert!(grown < 50 * 64 * 1024, "{grown} bytes");
    broker.hear("it has begun a message, and says nothing for 300ms");
    // A channel without its message has begun one, too, and who has begun none may be silent.
    let (sender, silent) = (Client::sender(&broker), Client::listening(&broker, "/topic/a"));
    sender.say(&frame(b"/topic/a"));
    assert_eq!(sender.next().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    Client::sender(&broker).send("/topic/a", "there");
    assert_eq!(silent.text(), "there");
}

#[test]
fn whoever_does_not_say_where_they_listen_is_reset() {
    let broker = broker(&["--hello-timeout", "200ms"]);
    let silent = broker.connect();
    let mut slow = broker.connect();
    slow.write_all(b"\0\0").expect("sent");
    for stream in [&silent, &slow] {
        assert_eq!(read_some(stream, &mut [0]), Err(io::ErrorKind::ConnectionReset));
        broker.hear("it has not named a channel within 200ms");
    }
}

#[test]
fn a_queue_of_many_senders_is_dealt_out_in_turns() {
    let broker = broker(&[]);
    let workers: Vec<Client> = (0..4).map(|_| Client::listening(&broker, "/queue/jobs")).collect();
    for number in 0..100 {
        let sender = Client::sender(&broker);
        sender.send("/queue/jobs", format!("{number}"));
        sender.end();
    }
    for (first, worker) in workers.iter().enumerate() {
        let jobs: Vec<String> = (0..25).map(|_| worker.text()).collect();
        let expected: Vec<String> = (0..25).map(|n| (first + 4 * n).to_string()).collect();
        assert_eq!(jobs, expected);
    }
}

#[test]
fn a_stalled_worker_keeps_what_fits_and_others_get_it_when_it_leaves() {
    let broker = broker(&["--max-length", "64KiB", "--queue", "64KiB"]);
    let stalled = Client::listening(&broker, "/queue/jobs");
    let workers = [Client::listening(&broker, "/queue/jobs"), Client::listening(&broker, "/queue/jobs")];
    let readers = workers.map(|worker| {
        thread::spawn(move || {
            let mut numbers = Vec::new();
            loop {
                let message = worker.message();
                if message == b"end" {
                    return numbers;
                }
                numbers.push(u32::from_be_bytes(message[..4].try_into().expect("a number")));
            }
        })
    });
    let sender = Client::sender(&broker);
    for number in 0..600_u32 {
        sender.send("/queue/jobs", [&number.to_be_bytes()[..], &[0; 20_000]].concat());
    }
    sender.end();
    // Reset, with what it had in its socket: that is gone.
    SockRef::from(&stalled.0).set_linger(Some(Duration::ZERO)).expect("set");
    drop(stalled);
    eventually("it has left", || totals(&broker)[1] >= 600);
    let sender = Client::sender(&broker);
    sender.send("/queue/jobs", "end");
    sender.send("/queue/jobs", "end");
    let mut numbers: Vec<u32> = readers.into_iter().flat_map(|reader| reader.join().expect("it reads")).collect();
    numbers.sort_unstable();
    let count = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "nothing came twice");
    // At most what was in the socket and the kernel's buffers is missing.
    assert!((500..=600).contains(&count), "{count} of 600");
}

#[test]
fn what_nobody_listens_to_is_held_and_then_its_sender_waits() {
    let broker = broker(&["--max-length", "10k", "--hold", "100k"]);
    let sender = Client::sender(&broker);
    sender.0.set_nonblocking(true).expect("set");
    let job = |number: u32| pair("/queue/jobs", &[&number.to_be_bytes()[..], &[0; 9_000]].concat());
    // Nine fit; more stay with the sender, whose socket is full at some time.
    let mut sent = 0;
    let mut rest = Vec::new();
    loop {
        if rest.is_empty() {
            (rest, sent) = (job(sent), sent + 1);
        }
        match (&sender.0).write(&rest) {
            Ok(n) => drop(rest.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if sent > 100 && totals(&broker)[0] < 50 {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 100_000, "it never waits");
    }
    // Others go on meanwhile.
    let listener = Client::listening(&broker, "/topic/a");
    let other = Client::sender(&broker);
    other.send("/topic/a", "not held up");
    assert_eq!(listener.text(), "not held up");
    let worker = Client::listening(&broker, "/queue/jobs");
    sender.0.set_nonblocking(false).expect("set");
    let reader = thread::spawn(move || {
        for number in 0..sent {
            assert_eq!(worker.message()[..4], number.to_be_bytes(), "in their order");
        }
    });
    sender.say(&rest);
    sender.end();
    reader.join().expect("all of them");
    other.send("/queue/later", "5");
    other.end();
    let finished = broker.stop();
    assert!(
        finished.stderr.contains("Lost 1 message that nobody came for, on /queue/later (1)"),
        "{}",
        finished.stderr
    );
}

/// Sends so many messages of 9 kB past a listener that does not read, each when one that does has read the one before.
/// Returns the broker, and the first one.
fn past_a_stalled_one(flags: &[&str], messages: u32) -> (Service, Client) {
    let broker = broker(&[&["--max-length", "10k", "--queue", "100k"], flags].concat());
    let (stalled, reading) = (Client::listening(&broker, "/topic/a"), Client::listening(&broker, "/topic/a"));
    let sender = Client::sender(&broker);
    for number in 0..messages {
        sender.send("/topic/a", [&number.to_be_bytes()[..], &[0; 9_000]].concat());
        assert_eq!(reading.message()[..4], number.to_be_bytes());
    }
    sender.end();
    (broker, stalled)
}

#[test]
fn a_stalled_listener_loses_messages_and_nobody_else() {
    for (policy, loses_the_last) in [("drop-new", true), ("drop-old", false)] {
        let (broker, stalled) = past_a_stalled_one(&["--when-full", policy], 1_000);
        let address = stalled.0.local_addr().expect("connected");
        let [received, delivered, dropped, unheard] = totals(&broker);
        assert_eq!((received, unheard), (1_000, 0));
        assert!(dropped > 500, "{dropped} dropped");
        let row = broker.hear(&format!("{address} /topic/a: "));
        assert!(row.contains(&format!("{dropped} dropped")) && row.contains("; full for "), "{row}");
        // Now it reads, and what was not dropped is there.
        stalled.0.shutdown(Shutdown::Write).expect("connected");
        let rest = stalled.rest().expect("FIN");
        let [_, all, still, _] = totals(&broker);
        assert_eq!((still, all), (dropped, 1_000 + rest.len() as u64), "{delivered} before");
        assert_eq!(all + dropped, 2_000, "each message for each of two");
        let last = u32::from_be_bytes(rest[rest.len() - 1][..4].try_into().expect("a number"));
        assert_eq!(last != 999, loses_the_last, "{policy}: {last}");
        let finished = broker.stop();
        let lines: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(&format!("{address} on"))).collect();
        assert!(lines[0].contains("Dropping messages for "), "{lines:?}");
        let end = format!("Dropped {dropped} messages for {address} on /topic/a in ");
        assert!(lines[lines.len() - 1].contains(&end), "{lines:?}");
        assert!(lines.len() == 2, "{lines:?}");
    }
}

#[test]
fn a_stalled_listener_is_disconnected_if_that_is_asked_for() {
    let (broker, stalled) = past_a_stalled_one(&["--when-full", "disconnect"], 1_000);
    let address = stalled.0.local_addr().expect("connected");
    assert_eq!(stalled.rest().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    let [received, delivered, dropped, _] = totals(&broker);
    // Soon after that nothing is for it.
    assert!(received == 1_000 && delivered < 1_500 && (1..=500).contains(&dropped), "{delivered} {dropped}");
    let finished = broker.stop();
    let line = finished.stderr.lines().find(|line| line.contains("Disconnected")).expect("a line");
    assert!(line.contains(&format!("Disconnected {address} from /topic/a: it has not taken ")), "{line}");
    assert!(line.ends_with("bytes that wait for it (disconnect)"), "{line}");
}

#[test]
fn a_stalled_listener_stops_everybody_if_that_is_asked_for() {
    let broker = broker(&["--max-length", "10k", "--queue", "100k", "--when-full", "wait"]);
    let (stalled, reading) = (Client::listening(&broker, "/topic/a"), Client::listening(&broker, "/topic/a"));
    let sender = Client::sender(&broker);
    let send = thread::spawn(move || {
        for number in 0..1_000_u32 {
            sender.send("/topic/a", [&number.to_be_bytes()[..], &[0; 9_000]].concat());
        }
        sender.end();
    });
    broker.hear(&format!("{} holds up who sends to /topic/a", stalled.0.local_addr().expect("connected")));
    // Other channels are not held up.
    let other = Client::listening(&broker, "/topic/b");
    Client::sender(&broker).send("/topic/b", "free");
    assert_eq!(other.text(), "free");
    // As soon as it reads, all go on, and nothing is lost.
    let both = [stalled, reading].map(|client| {
        thread::spawn(move || {
            for number in 0..1_000_u32 {
                assert_eq!(client.message()[..4], number.to_be_bytes());
            }
        })
    });
    for reader in both {
        reader.join().expect("all of them");
    }
    send.join().expect("all is heard");
    assert_eq!(totals(&broker), [1_001, 2_001, 0, 0]);
}

#[test]
fn a_listener_that_waits_for_itself_is_not_stuck() {
    let broker = broker(&["--max-length", "10k", "--queue", "10k", "--when-full", "wait"]);
    let client = Client::listening(&broker, "/topic/a");
    let mut says = client.0.try_clone().expect("a copy");
    let talk = thread::spawn(move || {
        for number in 0..2_000_u32 {
            says.write_all(&pair("/topic/a", &[&number.to_be_bytes()[..], &[0; 9_000]].concat())).expect("heard");
        }
    });
    for number in 0..2_000_u32 {
        assert_eq!(client.message()[..4], number.to_be_bytes());
    }
    talk.join().expect("all is said");
}

/// Whoever waits for room for its own messages may itself be slow, more than once.
#[test]
fn what_a_slow_listener_has_sent_itself_is_not_lost_when_it_reads_again() {
    const MESSAGES: u32 = 1_000;
    let broker = broker(&["--max-length", "10k", "--queue", "10k", "--when-full", "wait"]);
    let both = Client::listening(&broker, "/topic/a");
    let stalled = Client::listening(&broker, "/topic/b");
    let row = format!("{} /topic/a: ", both.0.local_addr().expect("connected"));
    let message = |number: u32| [&number.to_be_bytes()[..], &[0; 9_000]].concat();
    let mut talk = None;
    for round in 0..3 {
        let sender = Client::sender(&broker);
        let flood = thread::spawn(move || {
            for number in 0..MESSAGES {
                sender.send("/topic/a", message(number));
            }
            sender.end();
        });
        eventually("it is full", || {
            broker.signal(Signal::SIGUSR1);
            broker.hear(&row).contains("; full for ")
        });
        for number in 0..MESSAGES {
            assert_eq!(both.message()[..4], number.to_be_bytes());
        }
        flood.join().expect("all is heard");
        if round == 0 {
            // From now on it has messages in hand for which there is no room.
            let mut says = both.0.try_clone().expect("a copy");
            talk = Some(thread::spawn(move || {
                for number in 0..MESSAGES {
                    says.write_all(&pair("/topic/b", &message(number))).expect("heard");
                }
            }));
            broker.hear("holds up who sends to /topic/b");
        }
    }
    for number in 0..MESSAGES {
        assert_eq!(stalled.message()[..4], number.to_be_bytes());
    }
    talk.expect("it talks").join().expect("all is said");
}

#[test]
fn much_past_a_stalled_listener_costs_its_queue() {
    let broker = broker(&[]);
    let stalled = Client::listening(&broker, "/topic/a");
    let sender = Client::sender(&broker);
    let megabyte: Vec<u8> = pair("/topic/a", &[7; 1_000]).repeat(1_000);
    sender.say(&megabyte);
    let before = broker.memory();
    for _ in 0..256 {
        sender.say(&megabyte);
    }
    sender.end();
    let grown = broker.memory().saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes");
    let [received, delivered, dropped, _] = totals(&broker);
    assert_eq!(received, 257_000);
    drop(stalled);
    eventually("it has left", || {
        let [_, delivered, dropped, _] = totals(&broker);
        delivered + dropped == 257_000
    });
    assert!(dropped > 250_000 && delivered < 7_000, "{dropped} dropped, {delivered} delivered");
}

#[test]
fn a_message_for_many_is_in_memory_once() {
    let broker = broker(&[]);
    let stalled: Vec<Client> = (0..300).map(|_| Client::listening(&broker, "/topic/a")).collect();
    let sender = Client::sender(&broker);
    let before = broker.memory();
    sender.send("/topic/a", vec![7; 1 << 20]);
    sender.end();
    let grown = broker.memory().saturating_sub(before);
    assert!(grown < 5 << 20, "{grown} bytes");
    assert!(stalled.into_iter().all(|client| client.message().len() == 1 << 20));
}

#[test]
fn any_order_of_comings_and_goings_is_as_a_model_has_it() {
    let broker = broker(&[]);
    let sender = Client::sender(&broker);
    let mut random = fastrand::Rng::with_seed(7);
    let channels = ["/topic/a", "/topic/b", "/topic/a/b"];
    // Each with what it is to have got.
    let mut there: Vec<(Client, &str, Vec<String>)> = Vec::new();
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 0..400 {
        match random.u8(..10) {
            0..2 => {
                let channel = channels[random.usize(..3)];
                there.push((Client::listening(&broker, channel), channel, Vec::new()));
            }
            2 if !there.is_empty() => {
                let (client, channel, messages) = there.swap_remove(random.usize(..there.len()));
                if random.bool() {
                    client.say(&frame(b""));
                } else {
                    client.0.shutdown(Shutdown::Write).expect("connected");
                }
                let rest = client.rest().expect("FIN");
                assert_eq!(rest, messages.iter().map(|it| it.as_bytes().to_vec()).collect::<Vec<_>>(), "{channel}");
            }
            _ => {
                let channel = channels[random.usize(..3)];
                sender.send(channel, number.to_string());
                let mut heard = 0;
                for (_, _, messages) in there.iter_mut().filter(|(_, its, _)| *its == channel) {
                    messages.push(number.to_string());
                    heard += 1;
                }
                *expected.entry(if heard == 0 { "unheard" } else { "delivered" }).or_default() += heard.max(1);
                *expected.entry("received").or_default() += 1;
                // Until it is handed on, nobody comes or goes.
                eventually("it is handed on", || totals(&broker)[0] == expected["received"]);
            }
        }
    }
    let [_, delivered, dropped, unheard] = totals(&broker);
    assert_eq!((delivered, dropped, unheard), (expected["delivered"], 0, expected["unheard"]));
    for (client, channel, messages) in there {
        client.0.shutdown(Shutdown::Write).expect("connected");
        let texts: Vec<String> =
            client.rest().expect("FIN").into_iter().map(|it| String::from_utf8(it).expect("UTF-8")).collect();
        assert_eq!(texts, messages, "{channel}");
    }
}

#[test]
fn a_stop_delivers_what_was_read_and_tells_senders_that_there_was_more() {
    let broker = broker(&["--queue", "64MiB"]);
    let (listener, sender) = (Client::listening(&broker, "/topic/a"), Client::sender(&broker));
    let reader = thread::spawn(move || listener.rest());
    let mut says = sender.0.try_clone().expect("a copy");
    let talk = thread::spawn(move || {
        let messages = pair("/topic/a", &[7; 100]).repeat(100);
        loop {
            if let Err(error) = says.write_all(&messages) {
                return error.kind();
            }
        }
    });
    eventually("it is under way", || totals(&broker)[0] > 10_000);
    let idle = Client::listening(&broker, "/topic/b");
    broker.signal(Signal::SIGTERM);
    let heard = reader.join().expect("it reads").expect("FIN, and not a reset");
    // Not the end of the stream, which would say that all was heard.
    let told = talk.join().expect("it is told");
    assert!(matches!(told, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{told}");
    assert_eq!(idle.next().expect("FIN"), None);
    let finished = broker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert!(heard.len() > 10_000 && heard.iter().all(|message| message == &[7; 100]));
}

/// FIN would say to whoever is about to send that it was heard.
#[test]
fn a_stop_resets_whoever_has_not_said_all() {
    let broker = broker(&[]);
    let half = Client::listening(&broker, "/topic/a");
    half.say(&pair("/topic/a", b"a message")[..10]);
    let silent = [&b""[..], b"\0\0"].map(|said| {
        let stream = broker.connect();
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        (&stream).write_all(said).expect("sent");
        stream
    });
    eventually("all are accepted", || {
        broker.signal(Signal::SIGUSR1);
        broker.hear("Totals: ").contains("Totals: 3 clients accepted")
    });
    broker.signal(Signal::SIGTERM);
    for stream in silent {
        assert_eq!(read_some(&stream, &mut [0]), Err(io::ErrorKind::ConnectionReset));
    }
    assert_eq!(half.next().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(broker.finish().code(), 0);
}

#[test]
fn a_broker_that_dies_does_not_say_that_it_has_heard_all() {
    let broker = broker(&[]);
    let (listener, sender) = (Client::listening(&broker, "/topic/a"), Client::sender(&broker));
    sender.send("/topic/a", "the last one");
    assert_eq!(listener.text(), "the last one");
    broker.signal(Signal::SIGKILL);
    for client in [listener, sender] {
        assert_eq!(client.next().expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_sender_that_is_reset_while_it_waits_for_room_gives_up_its_place() {
    let broker = broker(&["--hold", "2k", "--max-clients", "1"]);
    let sender = Client::sender(&broker);
    // More than is held: it waits for somebody who listens.
    for _ in 0..3 {
        sender.send("/queue/full", [0; 600]);
    }
    eventually("more have come than are held", || totals(&broker)[0] > 1);
    crate::harness::reset(sender.0);
    // There is one place.
    let listener = Client::new(&broker, "/queue/full");
    assert_eq!(listener.message(), [0; 600]);
}

#[test]
fn who_ends_in_the_middle_of_its_first_message_is_told_in_the_log() {
    let broker = broker(&[]);
    let client = broker.connect();
    (&client).write_all(b"\0\0\0\x05/nu").expect("sent");
    client.shutdown(Shutdown::Write).expect("connected");
    broker.hear(&format!("{} has ended in the middle of a message", client.local_addr().expect("connected")));
}

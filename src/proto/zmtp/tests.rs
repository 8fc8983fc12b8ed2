use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const LIMIT: usize = 600;

/// What libzmq 4.3.5 says as a PUB, written down from a socket: a greeting of 3.1, READY, a message of two parts, of which
/// the second is long, and a PING (RFC 23 and 37).
fn from_libzmq() -> Vec<u8> {
    let mut stream = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL".to_vec();
    stream.resize(64, 0);
    stream.extend(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB");
    stream.extend(b"\x01\x05topic\x02\0\0\0\0\0\0\x01\x2c");
    stream.extend([b'x'; 300]);
    stream.extend(b"\x04\x07\x04PING\0\x0a");
    stream
}

/// An event, to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Answer(Vec<u8>),
    Ready,
    Message(Vec<Vec<u8>>),
    Subscribed(Vec<u8>),
    Cancelled(Vec<u8>),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Answer(bytes) => Self::Answer(bytes),
            Event::Ready => Self::Ready,
            Event::Message(message) => {
                assert_eq!(message.parts().last(), Some(message.last()));
                Self::Message(message.parts().map(<[u8]>::to_vec).collect())
            }
            Event::Subscribed(topic) => Self::Subscribed(topic.to_vec()),
            Event::Cancelled(topic) => Self::Cancelled(topic.to_vec()),
        }
    }
}

/// All events of a stream that arrives in these pieces, what is left of it, and what is wrong with it.
fn decode_pieces<'a>(
    role: Role,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Seen>, Vec<u8>, Result<(), Error>) {
    let mut decoder = Decoder::new(role, LIMIT);
    let (mut arrived, mut events) = (Vec::new(), Vec::new());
    for piece in pieces {
        arrived.extend_from_slice(piece);
        let mut rest = &arrived[..];
        loop {
            match decoder.decode(&mut rest) {
                Ok(Some(event)) => events.push(event.into()),
                Ok(None) => break,
                Err(error) => return (events, rest.to_vec(), Err(error)),
            }
        }
        assert!(rest.len() < decoder.room(), "{} bytes are left", rest.len());
        assert!(decoder.parts.capacity() <= LIMIT && decoder.ends.capacity() <= MOST_PARTS);
        arrived = rest.to_vec();
    }
    let end = decoder.finish(&arrived);
    (events, arrived, end)
}

/// The events of a stream after the handshake with a peer that goes with the role.
fn traffic(role: Role, stream: &[u8]) -> (Vec<Seen>, Result<(), Error>) {
    let peer = match role {
        Role::Sub => Role::Pub,
        Role::Pub => Role::Sub,
        Role::Pull => Role::Push,
        Role::Push => Role::Pull,
    };
    let (mut events, rest, end) = decode_pieces(role, [&GREETING[..], &ready(peer), stream]);
    assert!(end.is_err() || rest.is_empty());
    assert_eq!(events.drain(..2).collect::<Vec<_>>(), [Seen::Answer(ready(role)), Seen::Ready]);
    (events, end)
}

/// The error of a stream, and how many of its bytes prove it: one less is only not enough.
fn refused(role: Role, stream: &[u8]) -> (Error, usize) {
    for end in 0..=stream.len() {
        if let (_, _, Err(error)) = decode_pieces(role, [&stream[..end]])
            && !matches!(error, Error::Truncated(_))
        {
            return (error, end);
        }
    }
    panic!("not refused: {}", stream.escape_ascii());
}

fn message(parts: &[&[u8]]) -> Seen {
    Seen::Message(parts.iter().map(|part| part.to_vec()).collect())
}

#[test]
fn a_publisher_of_libzmq_is_understood_wherever_its_stream_is_cut() {
    let stream = from_libzmq();
    let (events, rest, end) = decode_pieces(Role::Sub, [&stream[..]]);
    let answers = [&b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB"[..], b"\x04\x05\x04PONG"].map(<[u8]>::to_vec);
    let [ready, pong] = answers.map(Seen::Answer);
    assert_eq!(events, [ready, Seen::Ready, message(&[b"topic", &[b'x'; 300]]), pong]);
    assert_eq!((rest, end), (vec![], Ok(())));
    for cut in 0..=stream.len() {
        let (before, after) = stream.split_at(cut);
        assert_eq!(decode_pieces(Role::Sub, [before, after]).0, events, "cut at {cut}");
        let expected = match cut {
            ..64 => Err(Error::Truncated(Stage::Greeting)),
            64..91 => Err(Error::Truncated(Stage::Handshake)),
            91 | 407 | 416 => Ok(()),
            _ => Err(Error::Truncated(Stage::Traffic)),
        };
        assert_eq!(decode_pieces(Role::Sub, [before]).2, expected, "cut at {cut}");
    }
    assert_eq!(decode_pieces(Role::Sub, stream.chunks(1)).0, events);
}

#[test]
fn what_we_say_is_what_the_specification_has() {
    let greeting = [&b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL"[..], &[0; 48]].concat();
    assert_eq!(GREETING[..], greeting);
    assert_eq!(ready(Role::Push), b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH");
    assert_eq!(subscribe(b""), b"\0\x01\x01");
    assert_eq!(subscribe(b"sun"), b"\0\x04\x01sun");
    let encoded = |parts: &[&[u8]]| {
        let mut bytes = Vec::new();
        add_message(&mut bytes, parts);
        bytes
    };
    assert_eq!(encoded(&[]), b"");
    assert_eq!(encoded(&[b""]), b"\0\0");
    assert_eq!(encoded(&[b"a", b"", b"bc"]), b"\x01\x01a\x01\0\0\x02bc");
    assert_eq!(encoded(&[&[b'x'; 255]])[..3], *b"\0\xffx");
    assert_eq!(encoded(&[&[b'x'; 256], b""])[..10], *b"\x03\0\0\0\0\0\0\x01\0x");
}

#[test]
fn who_is_no_peer_is_refused_as_soon_as_that_is_clear() {
    let greeting = |at: usize, bytes: &[u8]| {
        let mut greeting = GREETING;
        greeting[at..at + bytes.len()].copy_from_slice(bytes);
        greeting
    };
    for (stream, text, proof) in [
        (&b"GET / HTTP/1.1\r\n"[..], "it speaks no ZMTP: byte 0 is 'G'", 1),
        (b"\x01\0", "it speaks no ZMTP: byte 0 is '\\x01'", 1),
        (&greeting(9, b"\0"), "it speaks no ZMTP: byte 9 is '\\x00'", 10),
        (&greeting(10, b"\0"), "it speaks ZMTP 1", 11),
        (&greeting(10, b"\x01"), "it speaks ZMTP 2", 11),
        (&greeting(10, b"\x02"), "it speaks ZMTP 2", 11),
        (&greeting(12, b"PLAIN"), "it wants mechanism PLAIN", 32),
        (&greeting(12, b"NULLS"), "it wants mechanism NULLS", 32),
        (&greeting(12, b"\n\xff\0\0"), "it wants mechanism \\n\\xff", 32),
        (&greeting(12, &[0; 20]), "it wants mechanism ", 32),
        (
            &greeting(31, b"\x01"),
            "it wants mechanism NULL\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01",
            32,
        ),
    ] {
        let (error, bytes) = refused(Role::Sub, stream);
        assert_eq!((error.to_string().as_str(), bytes), (text, proof));
    }
    // Padding, later versions, as-server and filler are of no interest.
    for (at, bytes) in
        [(1, &b"\x01\x02\x03\x04\x05\x06\x07\x08"[..]), (10, b"\x03\x01"), (10, b"\x04\0"), (32, b"\x01\x01")]
    {
        assert_eq!(decode_pieces(Role::Sub, [&greeting(at, bytes)[..]]).2, Err(Error::Truncated(Stage::Handshake)));
    }
}

#[test]
fn a_peer_introduces_itself_with_a_socket_that_goes_with_ours() {
    let property = |name: &[u8], value: &[u8]| {
        let length = u32::try_from(value.len()).expect("short").to_be_bytes();
        [&[u8::try_from(name.len()).expect("short")], name, &length, value].concat()
    };
    let greeted = |metadata: &[u8]| [&GREETING[..], &command(b"\x05READY", &[metadata])].concat();
    let judge =
        |role, metadata: &[u8]| decode_pieces(role, [&greeted(metadata)[..]]).2.map_err(|error| error.to_string());
    for (role, peers) in [
        (Role::Sub, &["PUB", "XPUB"][..]),
        (Role::Pub, &["SUB", "XSUB"]),
        (Role::Pull, &["PUSH"]),
        (Role::Push, &["PULL"]),
    ] {
        for theirs in
            ["REQ", "REP", "DEALER", "ROUTER", "PUB", "XPUB", "SUB", "XSUB", "PUSH", "PULL", "PAIR", "pub", ""]
        {
            let text = format!("it is a {theirs}, with which a {} cannot speak", role.name());
            let expected = if peers.contains(&theirs) { Ok(()) } else { Err(text) };
            assert_eq!(judge(role, &property(b"Socket-Type", theirs.as_bytes())), expected);
        }
    }
    let its = property(b"sOCKET-tYPE", b"PUB");
    let most = LONGEST_METADATA - its.len() - 6;
    assert_eq!(judge(Role::Sub, &[&its[..], &property(b"Identity", b"")].concat()), Ok(()));
    assert_eq!(judge(Role::Sub, &[&property(b"X", &vec![0; most]), &its[..]].concat()), Ok(()));
    assert_eq!(judge(Role::Sub, &property(b"Socket-Typ", b"PUB")), Err("its READY has no Socket-Type".to_owned()));
    assert_eq!(judge(Role::Sub, b""), Err("its READY has no Socket-Type".to_owned()));
    let long = property(b"Socket-Type", &[b'\n'; 50]);
    let text = format!("it is a {}..., with which a SUB cannot speak", "\\n".repeat(40));
    assert_eq!(judge(Role::Sub, &long), Err(text));
    for end in 1..its.len() {
        assert_eq!(judge(Role::Sub, &its[..end]), Err("a command is malformed".to_owned()), "{end}");
    }
    for malformed in [&b"\0\0\0\0\x03PUB"[..], b"\x01X\xff\xff\xff\xffPUB", b"\x01X\x7f\xff\xff\xff"] {
        assert_eq!(judge(Role::Sub, malformed), Err("a command is malformed".to_owned()));
    }

    for (stream, text, proof) in [
        (&[&b"\x06\0\0\0\0\0\0"[..], b"\x10\x07"].concat()[..], "a command of 4103 bytes is over the limit of 4102", 9),
        (b"\0\x01\x01", "its greeting is not followed by READY", 1),
        (b"\x04\x07\x04PING\0\0", "its greeting is not followed by READY", 9),
        (b"\x04\0", "a command is malformed", 2),
        (b"\x04\x01\0", "a command is malformed", 3),
        (b"\x04\x05\x05READ", "a command is malformed", 7),
        (b"\x04\x0c\x05ERROR\x05no\n\xff!", "it refuses: no\\n\\xff!", 14),
        (b"\x04\x06\x05ERROR", "a command is malformed", 8),
        (b"\x04\x08\x05ERROR\x02a", "a command is malformed", 10),
    ] {
        let (error, bytes) = refused(Role::Sub, &[&GREETING, stream].concat());
        assert_eq!((error.to_string().as_str(), bytes), (text, GREETING.len() + proof), "{}", stream.escape_ascii());
    }
}

#[test]
fn frames_are_judged_before_they_have_come() {
    let shaken = [&GREETING[..], &ready(Role::Pub)].concat();
    let eight = b"\x01\0".repeat(MOST_PARTS);
    for (stream, text, proof) in [
        (&b"\x08"[..], "a frame has the flags 0x08", 1),
        (b"\xff", "a frame has the flags 0xff", 1),
        (b"\x05", "a frame has the flags 0x05", 1),
        (b"\x07", "a frame has the flags 0x07", 1),
        (b"\x02\0\0\0\0\0\0\x02\x59", "601 bytes of a message are over the limit of 600", 9),
        (
            b"\x02\x7f\xff\xff\xff\xff\xff\xff\xff",
            "9223372036854775807 bytes of a message are over the limit of 600",
            9,
        ),
        (
            b"\x03\xff\xff\xff\xff\xff\xff\xff\xff",
            "18446744073709551615 bytes of a message are over the limit of 600",
            9,
        ),
        (
            b"\x06\xff\xff\xff\xff\xff\xff\xff\xff",
            "a command of 18446744073709551615 bytes is over the limit of 4102",
            9,
        ),
        (b"\x01\x01a\x02\0\0\0\0\0\0\x02\x58", "601 bytes of a message are over the limit of 600", 12),
        (
            b"\x01\x01a\x02\xff\xff\xff\xff\xff\xff\xff\xff",
            "18446744073709551615 bytes of a message are over the limit of 600",
            12,
        ),
        (&[&eight[..], b"\0\0"].concat(), "a message has more than 8 parts", 17),
    ] {
        let (error, bytes) = refused(Role::Sub, &[&shaken, stream].concat());
        assert_eq!((error.to_string().as_str(), bytes), (text, shaken.len() + proof), "{}", stream.escape_ascii());
    }
    let (head, body) = (&b"\x02\0\0\0\0\0\0\x02\x58"[..], vec![b'x'; LIMIT]);
    assert_eq!(traffic(Role::Sub, &[head, &body].concat()), (vec![message(&[&body])], Ok(())));
    assert_eq!(traffic(Role::Sub, &[&eight[2..], b"\0\0"].concat()), (vec![message(&[&b""[..]; MOST_PARTS])], Ok(())));
    assert_eq!(traffic(Role::Sub, b"\x02\0\0\0\0\0\0\0\x01a\0\0"), (vec![message(&[b"a"]), message(&[b""])], Ok(())));
    let mut decoder = Decoder::new(Role::Pull, usize::MAX);
    for mut stream in [&GREETING[..], &ready(Role::Push)] {
        decoder.decode(&mut stream).expect("as it should be").expect("an event");
    }
    let mut longest = &b"\x03\xff\xff\xff\xff\xff\xff\xff\xffabc"[..];
    assert_eq!(decoder.decode(&mut longest), Ok(None), "never whole, and nothing overflows");
}

#[test]
fn who_leaves_too_early_is_told_of_as_such() {
    for (stream, text) in [
        // What libzmq says before it leaves for want of another mechanism.
        (&GREETING[..10], "it ends within its greeting; does it want another mechanism than NULL?"),
        (&GREETING, "it ends before its READY"),
        (&[&GREETING[..], &ready(Role::Pub), b"\x01\0"].concat(), "it ends within a message or command"),
    ] {
        assert_eq!(decode_pieces(Role::Sub, [stream]).2.map_err(|error| error.to_string()), Err(text.to_owned()));
    }
}

#[test]
fn commands_may_come_between_the_parts_of_a_message() {
    let stream = b"\x01\x01a\x04\x0a\x04PING\x12\x34now\x04\x02\x01?\0\x01b\x01\x01c";
    let pong = Seen::Answer(b"\x04\x08\x04PONGnow".to_vec());
    assert_eq!(
        traffic(Role::Pull, stream),
        (vec![pong, message(&[b"a", b"b"])], Err(Error::Truncated(Stage::Traffic)))
    );
}

#[test]
fn a_ping_is_answered_with_its_context_and_others_are_skipped() {
    for role in [Role::Sub, Role::Pub, Role::Pull, Role::Push] {
        for length in 0..=LONGEST_CONTEXT {
            let context = &b"0123456789abcdef"[..length];
            let stream = command(b"\x04PING", &[&[0, 10], context]);
            let pong = Seen::Answer([&[4, 5 + stream[1] - 7][..], b"\x04PONG", context].concat());
            assert_eq!(traffic(role, &stream), (vec![pong], Ok(())));
        }
        for malformed in [&b""[..], b"\0", &[0; 3 + LONGEST_CONTEXT]] {
            assert_eq!(traffic(role, &command(b"\x04PING", &[malformed])), (vec![], Err(Error::Malformed)));
        }
        let skipped = [command(b"\x04PONG", &[b"x"]), command(b"\x05READY", &[]), command(b"\x01?", &[&[0; 300]])];
        assert_eq!(traffic(role, &skipped.concat()), (vec![], Ok(())));
        let refusal = command(b"\x05ERROR", &[b"\x03400"]);
        assert_eq!(traffic(role, &refusal), (vec![], Err(Error::Refused((*b"400").into()))));
    }
}

#[test]
fn subscriptions_are_understood_in_both_forms() {
    let stream = [
        subscribe(b""),
        subscribe(&[b's'; 300]),
        b"\0\x04\0sun".to_vec(),
        command(b"\x09SUBSCRIBE", &[b"cat"]),
        command(b"\x06CANCEL", &[]),
        // Neither of these is one.
        b"\0\0\0\x02\x02x\x01\x01\x01\0\x01\x01\x01\x01\0\0\x02\0a".to_vec(),
        subscribe(b"end"),
    ];
    let subscribed = |topic: &[u8]| Seen::Subscribed(topic.to_vec());
    let events = vec![
        subscribed(b""),
        subscribed(&[b's'; 300]),
        Seen::Cancelled(b"sun".to_vec()),
        subscribed(b"cat"),
        Seen::Cancelled(vec![]),
        subscribed(b"end"),
    ];
    assert_eq!(traffic(Role::Pub, &stream.concat()), (events, Ok(())));
    assert_eq!(traffic(Role::Push, &stream.concat()), (vec![], Ok(())));
    assert_eq!(traffic(Role::Sub, &stream[3..5].concat()), (vec![], Ok(())));
}

/// A decoder after the handshake with this peer.
fn connected(ours: Role, theirs: Role) -> Decoder {
    let mut decoder = Decoder::new(ours, LIMIT);
    assert_eq!(decoder.decode(&mut &GREETING[..]), Ok(Some(Event::Answer(ready(ours)))));
    assert_eq!(decoder.decode(&mut &ready(theirs)[..]), Ok(Some(Event::Ready)));
    decoder
}

/// Bytes that are as they came, or changed, lost, doubled, or followed by something else.
fn mutate(stream: &mut Vec<u8>, (at, kind, byte): (Index, u8, u8)) {
    let at = at.index(stream.len());
    match kind {
        0 => stream[at] = byte,
        1 => stream[at] ^= 1 << (byte % 8),
        2 => drop(stream.drain(at..(at + 1 + usize::from(byte % 8)).min(stream.len() - 1).max(at))),
        3 => stream.insert(at, byte),
        4 => stream.extend_from_within(at..),
        _ => stream.truncate(at + 1),
    }
}

fn pieces<'a>(stream: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect()
}

proptest! {
    #[test]
    fn messages_are_what_they_were_wherever_the_stream_is_cut(
        messages in vec(vec(vec(any::<u8>(), 0..=LIMIT / MOST_PARTS), 1..=MOST_PARTS), 0..6),
        long in vec(any::<u8>(), 250..=LIMIT),
        cuts in vec(any::<Index>(), 0..8),
    ) {
        let messages = [messages, vec![vec![long]]].concat();
        let mut stream = [&GREETING[..], &ready(Role::Push)].concat();
        for message in &messages {
            add_message(&mut stream, &message.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let (events, rest, end) = decode_pieces(Role::Pull, pieces(&stream, &cuts));
        prop_assert_eq!((rest, end), (vec![], Ok(())));
        let first = [Seen::Answer(ready(Role::Pull)), Seen::Ready];
        let expected: Vec<Seen> = first.into_iter().chain(messages.into_iter().map(Seen::Message)).collect();
        prop_assert_eq!(events, expected);
    }

    #[test]
    fn a_publisher_and_a_subscriber_understand_each_other(
        topic in vec(any::<u8>(), 0..LIMIT),
        parts in vec(vec(any::<u8>(), 0..=LIMIT / 4), 1..=4),
    ) {
        let (mut reporter, mut collector) = (connected(Role::Pub, Role::Sub), connected(Role::Sub, Role::Pub));
        let mut said = subscribe(&topic);
        prop_assert_eq!(reporter.decode(&mut &said[..]), Ok(Some(Event::Subscribed(&topic))));
        said.clear();
        add_message(&mut said, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let heard = collector.decode(&mut &said[..]).map(|event| event.map(Seen::from));
        prop_assert_eq!(heard, Ok(Some(Seen::Message(parts))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn nothing_that_is_said_is_a_danger_and_no_cut_makes_a_difference(
        role in prop::sample::select(&[Role::Sub, Role::Pub, Role::Pull, Role::Push][..]),
        mutations in vec((any::<Index>(), 0_u8..6, any::<u8>()), 1..5),
        does_greet in any::<bool>(),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let mut stream = from_libzmq();
        let tail = stream.split_off(if does_greet { 0 } else { GREETING.len() + ready(Role::Pub).len() });
        let mut tail = [&tail[..], &subscribe(b"sun"), b"\x01\x01a\x03\0\0\0\0\0\0\0\x01b\x04\x07\x06CANCEL\0\0"].concat();
        for mutation in mutations {
            mutate(&mut tail, mutation);
        }
        if !does_greet {
            let peer = [Role::Pub, Role::Sub, Role::Push, Role::Pull].into_iter().find(|peer| role.goes_with(peer.name().as_bytes()));
            stream = [&GREETING[..], &ready(peer.expect("each goes with one"))].concat();
        }
        stream.extend(tail);
        // Limits are asserted there.
        let (events, rest, end) = decode_pieces(role, [&stream[..]]);
        let (in_pieces, rest_of_pieces, its_end) = decode_pieces(role, pieces(&stream, &cuts));
        prop_assert_eq!((&events, &end), (&in_pieces, &its_end));
        if matches!(end, Ok(()) | Err(Error::Truncated(_))) {
            prop_assert_eq!(rest, rest_of_pieces);
        }
    }
}

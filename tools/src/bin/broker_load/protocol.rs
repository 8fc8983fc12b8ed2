//! What brokers and their clients say on the wire, as far as one topic needs it.

use poetry_suite::proto::frame;

/// A protocol of brokers.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// Frames with a length of four bytes
    Poetry,
    /// NATS
    Nats,
    /// RESP, the protocol of Redis
    Redis,
    /// MQTT 3.1.1, QoS 0
    Mqtt,
}

/// The topic of all messages.
const TOPIC: &str = "load";

impl Protocol {
    /// What a subscriber says; `number` is another one for each.
    pub(crate) fn subscription(self, number: usize) -> Vec<u8> {
        match self {
            Self::Poetry => framed(format!("/topic/{TOPIC}").as_bytes()),
            Self::Nats => format!("{NATS_CONNECT}SUB {TOPIC} 1\r\nPING\r\n").into(),
            Self::Redis => resp(&[b"SUBSCRIBE", TOPIC.as_bytes()]),
            Self::Mqtt => {
                let filter = [&[0, 1][..], &text(TOPIC), &[0]].concat();
                [mqtt_connect(&format!("subscriber{number}")), mqtt(0x82, &filter)].concat()
            }
        }
    }

    /// Whether this is all that a broker says to a new subscriber. A broker of [`Poetry`](Self::Poetry) says nothing: that
    /// it is one is seen by the first message.
    pub(crate) fn is_subscribed(self, heard: &[u8]) -> bool {
        match self {
            Self::Poetry => !heard.is_empty(),
            Self::Nats => is_within(heard, b"PONG\r\n"),
            Self::Redis => {
                heard == format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{TOPIC}\r\n:1\r\n", TOPIC.len()).as_bytes()
            }
            Self::Mqtt => heard == [CONNACK, &[0x90, 3, 0, 1, 0]].concat(),
        }
    }

    /// What a publisher says before its messages.
    pub(crate) fn greeting(self) -> Vec<u8> {
        match self {
            Self::Poetry => framed(b"/null"),
            Self::Nats => format!("{NATS_CONNECT}PING\r\n").into(),
            Self::Redis => Vec::new(),
            Self::Mqtt => mqtt_connect("publisher"),
        }
    }

    /// Whether this is all that a broker says to a new publisher.
    pub(crate) fn is_greeted(self, heard: &[u8]) -> bool {
        match self {
            Self::Poetry | Self::Redis => true,
            Self::Nats => is_within(heard, b"PONG\r\n"),
            Self::Mqtt => heard == CONNACK,
        }
    }

    /// A message as a publisher sends it.
    pub(crate) fn publication(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Poetry => [framed(format!("/topic/{TOPIC}").as_bytes()), framed(data)].concat(),
            Self::Nats => [format!("PUB {TOPIC} {}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat(),
            Self::Redis => resp(&[b"PUBLISH", TOPIC.as_bytes(), data]),
            Self::Mqtt => mqtt_publish(data),
        }
    }

    /// The same message as a subscriber gets it.
    pub(crate) fn delivery(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Poetry => framed(data),
            Self::Nats => [format!("MSG {TOPIC} 1 {}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat(),
            Self::Redis => resp(&[b"message", TOPIC.as_bytes(), data]),
            Self::Mqtt => mqtt_publish(data),
        }
    }

    /// Bytes behind the data of a delivery.
    pub(crate) fn trailer(self) -> usize {
        if matches!(self, Self::Nats | Self::Redis) { b"\r\n".len() } else { 0 }
    }

    /// What a broker may say to a subscriber between two messages. Nobody answers: a run is over before the second time.
    pub(crate) fn interjection(self) -> &'static [u8] {
        if self == Self::Nats { b"PING\r\n" } else { b"" }
    }
}

/// Whether `word` is somewhere in it.
pub(crate) fn is_within(heard: &[u8], word: &[u8]) -> bool {
    heard.windows(word.len()).any(|part| part == word)
}

fn framed(data: &[u8]) -> Vec<u8> {
    [&frame::prefix(data.len())[..], data].concat()
}

const NATS_CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// An array of bulk strings.
fn resp(strings: &[&[u8]]) -> Vec<u8> {
    let mut array = format!("*{}\r\n", strings.len()).into_bytes();
    for string in strings {
        array.extend_from_slice(format!("${}\r\n", string.len()).as_bytes());
        array.extend_from_slice(string);
        array.extend_from_slice(b"\r\n");
    }
    array
}

const CONNACK: &[u8] = &[0x20, 2, 0, 0];

/// A CONNECT packet: clean session, no keep-alive.
fn mqtt_connect(client: &str) -> Vec<u8> {
    mqtt(0x10, &[&text("MQTT")[..], &[4, 2, 0, 0], &text(client)].concat())
}

fn mqtt_publish(data: &[u8]) -> Vec<u8> {
    mqtt(0x30, &[&text(TOPIC)[..], data].concat())
}

/// A packet: its first byte, its remaining length in groups of seven bits, the rest.
fn mqtt(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = rest.len();
    loop {
        let group = (length % 128) as u8;
        length /= 128;
        if length == 0 {
            packet.push(group);
            break;
        }
        packet.push(group | 0x80);
    }
    packet.extend_from_slice(rest);
    packet
}

/// A string with its length in two bytes.
fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn data_stands_before_the_trailer_of_a_delivery() {
        for protocol in Protocol::value_variants() {
            for length in [8, 127, 128, 20_000] {
                let delivery = protocol.delivery(&vec![b'x'; length]);
                let (message, trailer) = delivery.split_at(delivery.len() - protocol.trailer());
                assert!(message.ends_with(&vec![b'x'; length]) && trailer.iter().all(u8::is_ascii_whitespace));
                assert_ne!(message[message.len() - length - 1], b'x');
            }
        }
    }

    #[test]
    fn lengths_of_mqtt_are_in_groups_of_seven_bits() {
        for (length, written) in
            [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (16_383, &[0xff, 0x7f]), (16_384, &[0x80, 0x80, 1])]
        {
            let packet = mqtt(0x30, &vec![0; length]);
            assert_eq!(packet[1..packet.len() - length], *written);
        }
    }
}

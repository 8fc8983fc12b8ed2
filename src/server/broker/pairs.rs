//! What a client says to a broker: a channel to listen to, and then pairs, a channel and a message for it.
//!
//! ```text
//!   /topic/poems                           the channel that it listens to; empty: /null
//!   /topic/poems  hello   /queue/jobs  42  messages, each after the channel that it is for
//!   (an empty channel)                     goodbye
//! ```

use std::ops::Range;

use tokio_util::bytes::{Buf, Bytes, BytesMut};

use super::frames::Frames;
use crate::proto::frame::{self, PREFIX, TooLong};

/// The longest name of a channel, in bytes.
pub const LONGEST_CHANNEL: usize = 255;

/// Bytes that a read asks for.
pub(super) const READ: usize = 64 * 1024;

/// A channel delivers nothing that has this name.
pub(super) const NOWHERE: &[u8] = b"/null";

/// What was in the bytes that have arrived.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// The messages by their channels, as the frames that subscribers get. Those for one channel are in their order.
    pub(super) batches: Vec<(Bytes, Frames)>,
    /// An empty channel: nothing after it counts.
    pub(super) is_goodbye: bool,
}

/// What is wrong with what a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the name of a channel: {0}")]
    Channel(TooLong),
    #[error("a message: {0}")]
    Message(TooLong),
}

/// Takes the first message, a channel, off what has arrived; `None`: it is not all there.
pub(super) fn take_channel(arrived: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(length) = frame::announced(arrived, LONGEST_CHANNEL).map_err(Malformed::Channel)? else { return Ok(None) };
    if arrived.len() < PREFIX + length {
        return Ok(None);
    }
    let name = Bytes::copy_from_slice(&arrived[PREFIX..PREFIX + length]);
    arrived.advance(PREFIX + length);
    Ok(Some(if name.is_empty() { Bytes::from_static(NOWHERE) } else { name }))
}

/// Takes all whole pairs off what has arrived. What was whole before something malformed comes with it.
pub(super) fn take_pairs(arrived: &mut BytesMut, max_length: usize) -> (Pairs, Result<(), Malformed>) {
    let (found, verdict) = Found::look(arrived, max_length);
    // A long message stays where it has arrived.
    if let [Builder { channel, frames }] = &found.builders[..]
        && let [its] = &frames[..]
        && its.len() * 4 > arrived.capacity() * 3
    {
        let (start, length) = (its.start, its.len());
        arrived.advance(start);
        let bytes = arrived.split_to(length).freeze();
        arrived.advance(found.taken - start - length);
        let batches = vec![(channel.clone(), Frames::new(bytes, vec![length]))];
        return (Pairs { batches, is_goodbye: found.is_goodbye }, verdict);
    }
    let taken = found.taken;
    let pairs = found.copy(arrived);
    arrived.advance(taken);
    (pairs, verdict)
}

/// All whole pairs that these bytes begin with, and how many bytes they are, as [`take_pairs`] takes them.
pub(super) fn copy_pairs(bytes: &[u8], max_length: usize) -> (Pairs, usize, Result<(), Malformed>) {
    let (found, verdict) = Found::look(bytes, max_length);
    let taken = found.taken;
    (found.copy(bytes), taken, verdict)
}

/// Where the pairs are in the bytes that have arrived.
struct Found {
    builders: Vec<Builder>,
    /// Bytes of all of them.
    taken: usize,
    is_goodbye: bool,
}

impl Found {
    fn look(bytes: &[u8], max_length: usize) -> (Self, Result<(), Malformed>) {
        let mut found = Self { builders: Vec::new(), taken: 0, is_goodbye: false };
        let mut rest = bytes;
        let verdict = loop {
            match found.next(bytes, &mut rest, max_length) {
                Ok(true) => found.taken = bytes.len() - rest.len(),
                Ok(false) => break Ok(()),
                Err(malformed) => break Err(malformed),
            }
        };
        (found, verdict)
    }

    /// Finds one more pair, if it is all there.
    fn next(&mut self, bytes: &[u8], rest: &mut &[u8], max_length: usize) -> Result<bool, Malformed> {
        let Some(channel) = frame::decode(rest, LONGEST_CHANNEL).map_err(Malformed::Channel)? else { return Ok(false) };
        if channel.is_empty() {
            (self.is_goodbye, self.taken) = (true, bytes.len());
            return Ok(false);
        }
        let start = bytes.len() - rest.len();
        if frame::decode(rest, max_length).map_err(Malformed::Message)?.is_none() {
            return Ok(false);
        }
        let its = start..bytes.len() - rest.len();
        // The last few are enough: most senders have one. An older one gets a second batch, later in the order.
        match self.builders.iter_mut().rev().take(LOOK_BACK).find(|batch| batch.channel == channel) {
            Some(batch) => batch.frames.push(its),
            None => self.builders.push(Builder { channel: Bytes::copy_from_slice(channel), frames: vec![its] }),
        }
        Ok(true)
    }

    fn copy(self, bytes: &[u8]) -> Pairs {
        let batches = self.builders.into_iter().map(|builder| builder.build(bytes)).collect();
        Pairs { batches, is_goodbye: self.is_goodbye }
    }
}

/// How many batches are looked at for one of the same channel.
const LOOK_BACK: usize = 8;

/// Where the frames of a batch are.
struct Builder {
    channel: Bytes,
    frames: Vec<Range<usize>>,
}

impl Builder {
    fn build(self, arrived: &[u8]) -> (Bytes, Frames) {
        let Self { channel, frames } = self;
        let mut bytes = Vec::with_capacity(frames.iter().map(ExactSizeIterator::len).sum());
        let mut ends = Vec::with_capacity(frames.len());
        for its in frames {
            bytes.extend_from_slice(&arrived[its]);
            ends.push(bytes.len());
        }
        (channel, Frames::new(bytes, ends))
    }
}

/// Makes room for the next read: [`READ`] bytes, or what is left of a message that is under way, but never more than what
/// has arrived of it. So a length that is announced costs nothing.
pub(super) fn make_room(arrived: &mut BytesMut, max_length: usize) {
    if arrived.capacity() - arrived.len() >= PREFIX && arrived.capacity() >= READ {
        return;
    }
    let left = left_of_message(arrived, max_length);
    let more = left.clamp(READ, arrived.len().max(READ));
    // Not reserve(), which gives twice as much.
    let mut larger = BytesMut::with_capacity(arrived.len() + more);
    larger.extend_from_slice(arrived);
    *arrived = larger;
}

/// The bytes that the pair at the beginning still lacks, as far as that is known.
fn left_of_message(arrived: &[u8], max_length: usize) -> usize {
    let mut rest = arrived;
    match frame::decode(&mut rest, LONGEST_CHANNEL) {
        Ok(Some(_)) => {}
        _ => return 0,
    }
    match frame::announced(rest, max_length) {
        Ok(Some(length)) => (PREFIX + length).saturating_sub(rest.len()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MAX: usize = 300;

    fn framed(payload: &[u8]) -> Vec<u8> {
        [&frame::prefix(payload.len())[..], payload].concat()
    }

    type Messages = (Bytes, Vec<Vec<u8>>);

    /// All messages by channel, from a stream that arrives in these pieces.
    fn take_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Messages>, bool, Option<Malformed>) {
        let (mut arrived, mut all, mut is_goodbye, mut wrong) = (BytesMut::new(), Vec::<Messages>::new(), false, None);
        for piece in pieces {
            if is_goodbye || wrong.is_some() {
                break;
            }
            make_room(&mut arrived, MAX);
            arrived.extend_from_slice(piece);
            let (copied, taken, its_verdict) = copy_pairs(&arrived, MAX);
            let before = arrived.len();
            let (pairs, verdict) = take_pairs(&mut arrived, MAX);
            assert_eq!((before - arrived.len(), its_verdict), (taken, verdict));
            assert_eq!(format!("{copied:?}"), format!("{pairs:?}"));
            for (channel, frames) in pairs.batches {
                let at = all.iter().position(|(known, _)| *known == channel).unwrap_or_else(|| {
                    all.push((channel, Vec::new()));
                    all.len() - 1
                });
                all[at].1.extend(frames.payloads());
            }
            (is_goodbye, wrong) = (pairs.is_goodbye, verdict.err());
        }
        all.sort();
        (all, is_goodbye, wrong)
    }

    #[test]
    fn a_message_that_is_announced_costs_what_has_arrived_of_it() {
        let mut arrived = BytesMut::from(&[&framed(b"/topic/a")[..], &frame::prefix(1 << 28), b"x"].concat()[..]);
        make_room(&mut arrived, 1 << 30);
        assert!(arrived.capacity() < 2 * READ, "{}", arrived.capacity());
        arrived.resize(READ, 0);
        make_room(&mut arrived, 1 << 30);
        assert!(arrived.capacity() < 3 * READ);
        arrived.resize(arrived.capacity(), 0);
        make_room(&mut arrived, 1 << 30);
        assert!(arrived.capacity() < 5 * READ);
    }

    #[test]
    fn a_long_message_has_no_more_memory_than_it_needs() {
        let stream = [framed(b"/topic/a"), framed(&[7; 1 << 20])].concat();
        let mut arrived = BytesMut::new();
        for piece in stream.chunks(READ) {
            let mut piece = piece;
            while !piece.is_empty() {
                make_room(&mut arrived, 1 << 20);
                let now = piece.len().min(arrived.capacity() - arrived.len());
                arrived.extend_from_slice(&piece[..now]);
                piece = &piece[now..];
            }
        }
        assert!(arrived.capacity() <= stream.len() + 2 * READ, "{}", arrived.capacity());
        let before = arrived.as_ptr();
        let (pairs, verdict) = take_pairs(&mut arrived, 1 << 20);
        assert_eq!((verdict, pairs.batches.len()), (Ok(()), 1));
        assert_eq!(pairs.batches[0].1.bytes(), framed(&[7; 1 << 20]));
        assert_eq!(pairs.batches[0].1.bytes().as_ptr(), before.wrapping_add(12), "it was not copied");
    }

    #[test]
    fn the_name_comes_first_and_may_be_empty() {
        let mut arrived = BytesMut::from(&[framed(b"/topic/a"), framed(b"")].concat()[..]);
        assert_eq!(take_channel(&mut arrived), Ok(Some(Bytes::from_static(b"/topic/a"))));
        assert_eq!(take_channel(&mut arrived), Ok(Some(Bytes::from_static(NOWHERE))));
        assert_eq!(take_channel(&mut arrived), Ok(None));
        let stream = framed(&[b'x'; 255]);
        assert_eq!(take_channel(&mut BytesMut::from(&stream[..258])), Ok(None));
        assert!(
            take_channel(&mut BytesMut::from(&stream[..])).is_ok_and(|name| name.is_some_and(|it| it.len() == 255))
        );
        let error = take_channel(&mut BytesMut::from("GET / HTTP/1.1\r\n")).expect_err("HTTP");
        assert_eq!(
            error.to_string(),
            "the name of a channel: 1195725856 bytes are over the limit of 255; that is \"GET \": HTTP?"
        );
    }

    proptest! {
        #[test]
        fn pairs_are_what_they_were_wherever_the_stream_is_cut(
            pairs in vec((vec(b'a'..b'd', 1..3), vec(any::<u8>(), 0..=MAX)), 0..30),
            end in prop::sample::select(vec![&b""[..], b"\0\0\0\0ignored", b"\0\0\x01\0", b"\0\0\0\x01a\0\0\x01\x2d", b"\0\0\0\x01a\0\0\x01\x2c!"]),
            cuts in vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut stream: Vec<u8> = pairs.iter().flat_map(|(channel, data)| [framed(channel), framed(data)].concat()).collect();
            stream.extend_from_slice(end);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let (all, is_goodbye, wrong) = take_pieces(cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]));
            let mut expected: Vec<Messages> = Vec::new();
            for (channel, data) in &pairs {
                match expected.iter_mut().find(|(known, _)| known == channel) {
                    Some((_, all)) => all.push(data.clone()),
                    None => expected.push((channel.clone().into(), vec![data.clone()])),
                }
            }
            expected.sort();
            prop_assert_eq!(all, expected);
            prop_assert_eq!(is_goodbye, end.ends_with(b"ignored"));
            let too_long = |length, limit| TooLong { length, limit };
            prop_assert_eq!(wrong, match end {
                b"\0\0\x01\0" => Some(Malformed::Channel(too_long(256, LONGEST_CHANNEL))),
                b"\0\0\0\x01a\0\0\x01\x2d" => Some(Malformed::Message(too_long(301, MAX))),
                _ => None,
            });
        }
    }
}

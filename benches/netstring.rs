//! How fast netstrings are decoded and encoded on one core: `cargo bench`.
//!
//! The yardsticks in the same run are a copy of the same bytes, which is what memory can do, and the search for the
//! commas alone.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use poetry_suite::proto::netstring::{Decoder, Outgoing};
use tokio_util::bytes::BytesMut;

fn main() {
    divan::main();
}

const SMALL: usize = 10;
const LARGE: usize = 1 << 20;

/// Appends `payload` as a netstring.
fn append(payload: &[u8], bytes: &mut Vec<u8>) {
    Outgoing::new(payload).unsent().iter().for_each(|part| bytes.extend_from_slice(part));
}

/// A stream of so many netstrings, back to back.
fn stream(frames: usize, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..frames {
        append(&vec![b'x'; payload], &mut bytes);
    }
    bytes
}

/// Decodes a stream that is there whole, and counts the bytes of its payloads.
fn decode_all(mut rest: &[u8]) -> usize {
    let mut decoder = Decoder::new(LARGE);
    let mut bytes = 0;
    while let Some(payload) = decoder.decode(&mut rest).expect("netstrings") {
        bytes += payload.len();
    }
    bytes
}

#[divan::bench]
fn decode_small(bencher: Bencher<'_, '_>) {
    let stream = stream(100_000, SMALL);
    bencher.counter(ItemsCount::new(100_000usize)).bench(|| decode_all(black_box(&stream)));
}

#[divan::bench]
fn split_small(bencher: Bencher<'_, '_>) {
    let stream = BytesMut::from(&stream(100_000, SMALL)[..]);
    bencher.counter(ItemsCount::new(100_000usize)).with_inputs(|| stream.clone()).bench_values(|mut stream| {
        let mut decoder = Decoder::new(LARGE);
        let mut bytes = 0;
        while let Some(payload) = decoder.split(&mut stream).expect("netstrings") {
            bytes += payload.len();
        }
        bytes
    });
}

/// As a reader does it: the stream arrives in reads of 256 KiB, and each payload is copied out, as somebody who keeps
/// it has to.
#[divan::bench]
fn decode_large(bencher: Bencher<'_, '_>) {
    let stream = stream(16, LARGE);
    bencher.counter(BytesCount::new(stream.len())).bench(|| {
        let mut decoder = Decoder::new(LARGE);
        let (mut arrived, mut bytes) = (Vec::with_capacity(2 * LARGE), 0);
        for read in stream.chunks(256 * 1024) {
            arrived.extend_from_slice(read);
            let mut rest = &arrived[..];
            while let Some(payload) = decoder.decode(&mut rest).expect("netstrings") {
                bytes += black_box(payload).len();
            }
            let done = arrived.len() - rest.len();
            arrived.drain(..done);
        }
        bytes
    });
}

#[divan::bench]
fn yardstick_copy_large(bencher: Bencher<'_, '_>) {
    let stream = stream(16, LARGE);
    let mut copy = vec![0; stream.len()];
    bencher.counter(BytesCount::new(stream.len())).bench_local(|| {
        copy.copy_from_slice(black_box(&stream));
        black_box(&copy);
    });
}

#[divan::bench]
fn yardstick_count_commas_small(bencher: Bencher<'_, '_>) {
    let stream = stream(100_000, SMALL);
    bencher
        .counter(ItemsCount::new(100_000usize))
        .bench(|| black_box(&stream).split(|&byte| byte == b',').map(<[u8]>::len).sum::<usize>());
}

#[divan::bench]
fn encode_small(bencher: Bencher<'_, '_>) {
    let mut bytes = Vec::with_capacity(stream(100_000, SMALL).len());
    bencher.counter(ItemsCount::new(100_000usize)).bench_local(|| {
        bytes.clear();
        for _ in 0..100_000 {
            append(black_box(&[b'x'; SMALL]), &mut bytes);
        }
        bytes.len()
    });
}

/// To send a payload without a copy costs the same for every length.
#[divan::bench]
fn outgoing_large(bencher: Bencher<'_, '_>) {
    let payload = vec![b'x'; LARGE];
    bencher.bench(|| Outgoing::new(black_box(&payload)).unsent().map(|part| part.len()));
}

//! Mutations that know what encodings look like: lengths, varints, checksums and lists.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xffff,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// A sample, changed in up to five places.
pub(crate) fn mutate(rng: &mut StdRng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = samples.choose(rng).expect("there are samples").clone();
    for _ in 0..rng.random_range(1..=5) {
        mutate_once(rng, samples, &mut bytes);
        if rng.random() {
            break;
        }
    }
    bytes
}

/// Bytes of which many are numbers at an edge.
pub(crate) fn random(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(1..24) {
        if rng.random_ratio(1, 6) {
            bytes.extend(edge(rng).to_le_bytes());
        } else {
            bytes.push(rng.random());
        }
    }
    bytes
}

fn mutate_once(rng: &mut StdRng, samples: &[Vec<u8>], bytes: &mut Vec<u8>) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..40)).min(bytes.len());
    match rng.random_range(0..10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = *EDGES.choose(rng).expect("some") as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        5 => {
            let other = samples.choose(rng).expect("there are samples");
            let from = rng.random_range(0..=other.len());
            let to = rng.random_range(from..=other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        6 => overwrite(bytes, at, &edge(rng).to_le_bytes()),
        7 => overwrite(bytes, at, &(edge(rng) as u32).to_le_bytes()),
        8 => {
            let number = varint(edge(rng), rng.random_ratio(1, 4));
            let replaced = (at + rng.random_range(0..=number.len())).min(bytes.len());
            bytes.splice(at..replaced, number);
        }
        _ => {
            let random: Vec<u8> = (at..end).map(|_| rng.random()).collect();
            overwrite(bytes, at, &random);
        }
    }
}

fn edge(rng: &mut StdRng) -> u64 {
    let edge = *EDGES.choose(rng).expect("some");
    edge.wrapping_add(rng.random_range(0..3))
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let end = (at + piece.len()).min(bytes.len());
    bytes.splice(at..end, piece.iter().copied());
}

/// LEB128, at times with a byte more than a number can have.
fn varint(mut number: u64, overlong: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    if overlong {
        bytes.iter_mut().for_each(|byte| *byte |= 0x80);
        bytes.resize(11, 0xff);
    }
    bytes
}

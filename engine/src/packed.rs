//! Short bytes in one allocation, with their count of references beside them.
//!
//! A key that a caller names is copied once and then shared: by the read set, the node that holds it, the generation, the
//! row cache. [`Bytes`] made of a vector takes a second allocation at its first clone, for the count, and made of a
//! split buffer has it from the beginning. What one thread allocates another frees here, which allocators are slow at, so
//! each counts. Up to 255 bytes the count and the bytes are one allocation; longer ones are copied as `Bytes` does.
//!
//! # Left out
//!
//! The slack: sizes go in steps of 32 bytes, so that a handful of them serves all.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes that fit into one allocation with their count.
const LARGEST: usize = 255;

struct Packed<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> AsRef<[u8]> for Packed<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[inline]
fn pack<const N: usize>(parts: [&[u8]; 3], len: u8) -> Bytes {
    let mut bytes = [0; N];
    let mut at = 0;
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    Bytes::from_owner(Packed { len, bytes })
}

/// The three slices one after the other.
#[must_use]
pub fn concat(parts: [&[u8]; 3]) -> Bytes {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let Some(len) = u8::try_from(len).ok().filter(|len| *len > 0) else {
        return concat_long(parts, len);
    };
    // With its length and the count a size is a multiple of 16 bytes, less the 8 that allocators keep for themselves.
    match len {
        0..=31 => pack::<31>(parts, len),
        32..=63 => pack::<63>(parts, len),
        64..=95 => pack::<95>(parts, len),
        96..=127 => pack::<127>(parts, len),
        128..=159 => pack::<159>(parts, len),
        160..=191 => pack::<191>(parts, len),
        192..=223 => pack::<223>(parts, len),
        224.. => pack::<LARGEST>(parts, len),
    }
}

fn concat_long(parts: [&[u8]; 3], len: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len);
    for part in parts {
        bytes.put_slice(part);
    }
    bytes.freeze()
}

/// A copy of the bytes.
#[must_use]
pub fn copy(bytes: &[u8]) -> Bytes {
    concat([bytes, &[], &[]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_was_given_whatever_its_length() {
        let source: Vec<u8> = (0..600).map(|at| (at % 251) as u8).collect();
        for len in 0..source.len() {
            let bytes = &source[..len];
            assert_eq!(copy(bytes), bytes);
            let (front, back) = bytes.split_at(len / 3);
            let (middle, back) = back.split_at(back.len() / 2);
            assert_eq!(concat([front, middle, back]), bytes);
        }
    }

    #[test]
    fn a_short_clone_shares_the_one_allocation_and_outlives_its_origin() {
        let first = copy(&[7; LARGEST]);
        let place = first.as_ptr();
        let mut second = first.clone();
        drop(first);
        let head = second.split_to(5);
        assert_eq!((head.as_ptr(), &head[..]), (place, &[7; 5][..]));
        assert_eq!(second, [7; LARGEST - 5][..]);
    }
}

//! The frame around a group: what one write appends and one force makes durable.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `MRfr` |
//! | 4 | 4 | payload length in bytes, 0 in a seal |
//! | 8 | 8 | group number |
//! | 16 | 8 | first LSN |
//! | 24 | 8 | last LSN |
//! | 32 | 8 | the newest group known to be forced when this frame was written |
//! | 40 | 8 | xxh3-64 of the 40 bytes before, seeded with the segment's salt |
//! | 48 | | payload, then zeros up to a multiple of 8 |
//! | | 8 | xxh3-64 of payload and zeros, seeded with salt ^ group number |
//!
//! All numbers are little endian. No byte of a frame is outside of its checksums.

use crate::ids::{GroupNo, Lsn};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MAGIC: [u8; 4] = *b"MRfr";
/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;
pub(super) const HEADER_BYTES: usize = 48;
const CHECKED_BYTES: usize = 40;
const CHECKSUM_BYTES: usize = 8;
/// A frame without payload.
pub(super) const SEAL_BYTES: u64 = (HEADER_BYTES + CHECKSUM_BYTES) as u64;

/// What a frame says before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) number: GroupNo,
    pub(super) first_lsn: Lsn,
    pub(super) last_lsn: Lsn,
    pub(super) payload_bytes: u32,
    pub(super) forced_through: GroupNo,
}

impl FrameHeader {
    /// The last frame of a segment: it names the group that comes next, elsewhere, and everything before it is forced.
    pub(super) fn seal(next: GroupNo, last_lsn: Lsn) -> Self {
        Self {
            number: next,
            first_lsn: last_lsn.next(),
            last_lsn,
            payload_bytes: 0,
            forced_through: GroupNo(next.0 - 1),
        }
    }

    pub(super) fn is_seal(&self) -> bool {
        self.payload_bytes == 0
    }

    /// Bytes of the whole frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes.into())
    }

    fn encode(&self, salt: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_lsn.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.last_lsn.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.forced_through.0.to_le_bytes());
        let checksum = xxh3_64_with_seed(&bytes[..CHECKED_BYTES], salt);
        bytes[40..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the front of `bytes`, if one of a segment with this salt is there.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        if bytes[..4] != MAGIC {
            return None;
        }
        let number = |at: usize| {
            u64::from_le_bytes(
                bytes[at..at + 8]
                    .try_into()
                    .expect("eight bytes of a header"),
            )
        };
        if number(40) != xxh3_64_with_seed(&bytes[..CHECKED_BYTES], salt) {
            return None;
        }
        Some(Self {
            number: GroupNo(number(8)),
            first_lsn: Lsn(number(16)),
            last_lsn: Lsn(number(24)),
            payload_bytes: u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")),
            forced_through: GroupNo(number(32)),
        })
    }
}

/// Bytes of a frame around so large a payload.
pub(super) fn frame_bytes(payload_bytes: u64) -> u64 {
    SEAL_BYTES + payload_bytes.next_multiple_of(ALIGNMENT)
}

/// Writes a whole frame over `out`.
pub(super) fn encode(out: &mut Vec<u8>, header: &FrameHeader, payload: &[u8], salt: u64) {
    assert_eq!(
        payload.len() as u64,
        u64::from(header.payload_bytes),
        "a header tells its payload"
    );
    out.clear();
    out.extend_from_slice(&header.encode(salt));
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(8), 0);
    let checksum = payload_checksum(&out[HEADER_BYTES..], header, salt);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The payload in `rest`, the bytes of the frame after its header; `None` if they are damaged.
pub(super) fn payload<'a>(rest: &'a [u8], header: &FrameHeader, salt: u64) -> Option<&'a [u8]> {
    let (padded, checksum) = rest.split_last_chunk()?;
    if u64::from_le_bytes(*checksum) != payload_checksum(padded, header, salt) {
        return None;
    }
    padded.get(..usize::try_from(header.payload_bytes).ok()?)
}

fn payload_checksum(padded: &[u8], header: &FrameHeader, salt: u64) -> u64 {
    xxh3_64_with_seed(padded, salt ^ header.number.0)
}

/// The frame headers with this salt that begin in `bytes` at a multiple of the alignment, wherever they are.
pub(super) fn headers_in(bytes: &[u8], salt: u64) -> impl Iterator<Item = (usize, FrameHeader)> {
    (0..bytes.len()).step_by(8).filter_map(move |at| {
        let found = &bytes[at..];
        // The magic alone sorts out nearly everything.
        if !found.starts_with(&MAGIC) {
            return None;
        }
        FrameHeader::decode(found, salt).map(|header| (at, header))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 77;

    fn sample() -> (FrameHeader, Vec<u8>) {
        let header = FrameHeader {
            number: GroupNo(5),
            first_lsn: Lsn(10),
            last_lsn: Lsn(12),
            payload_bytes: 5,
            forced_through: GroupNo(4),
        };
        let mut out = b"stale".to_vec();
        encode(&mut out, &header, b"hello", SALT);
        (header, out)
    }

    fn read(bytes: &[u8], salt: u64) -> Option<(FrameHeader, Vec<u8>)> {
        let header = FrameHeader::decode(bytes, salt)?;
        let len = usize::try_from(header.frame_bytes()).ok()?;
        let found = payload(bytes.get(HEADER_BYTES..len)?, &header, salt)?;
        Some((header, found.to_vec()))
    }

    #[test]
    fn a_frame_reads_back_under_its_own_salt_only() {
        let (header, bytes) = sample();
        assert_eq!(bytes.len() as u64, header.frame_bytes());
        assert_eq!(read(&bytes, SALT), Some((header, b"hello".to_vec())));
        assert_eq!(read(&bytes, SALT + 1), None);
    }

    #[test]
    fn a_frame_with_any_bit_flipped_or_cut_anywhere_is_none() {
        let (_, bytes) = sample();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(read(&damaged, SALT), None, "bit {bit} of byte {at}");
            }
            assert_eq!(read(&bytes[..at], SALT), None, "cut at {at}");
        }
    }

    #[test]
    fn headers_are_found_at_aligned_places() {
        let (header, bytes) = sample();
        let haystack = [&[0; 16][..], &bytes, &[1; 4], &bytes, &[0; 4], &bytes[..40]].concat();
        let found: Vec<_> = headers_in(&haystack, SALT).collect();
        assert_eq!(
            found,
            [(16, header)],
            "the second is not aligned, the third is cut"
        );
    }
}

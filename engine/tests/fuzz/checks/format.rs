//! The byte formats, from their description in ARCHITECTURE.md.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The header of a segment.
pub(crate) fn segment_header(id: u64, salt: u64, forced_through: u64, forced_lsn: u64) -> Vec<u8> {
    let mut bytes = b"MAILRING".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([0; 4]);
    for number in [id, salt, forced_through, forced_lsn, 0] {
        bytes.extend(number.to_le_bytes());
    }
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// The fields of a frame.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) first_lsn: u64,
    pub(crate) last_lsn: u64,
    pub(crate) forced_through: u64,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The frame's bytes, checksums included. `claimed_bytes` is what its header says of the payload.
    pub(crate) fn encode(&self, salt: u64, claimed_bytes: u32) -> Vec<u8> {
        let mut bytes = b"MRfr".to_vec();
        bytes.extend(claimed_bytes.to_le_bytes());
        for number in [
            self.number,
            self.first_lsn,
            self.last_lsn,
            self.forced_through,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        let checksum = xxh3_64_with_seed(&bytes, salt);
        bytes.extend(checksum.to_le_bytes());
        let mut payload = self.payload.clone();
        payload.resize(payload.len().next_multiple_of(8), 0);
        bytes.extend(&payload);
        let checksum = xxh3_64_with_seed(&payload, salt ^ self.number);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }
}

/// A whole manifest around sections.
pub(crate) fn manifest(version: u32, sections: &[u8]) -> Vec<u8> {
    let mut checked = version.to_le_bytes().to_vec();
    checked.extend((sections.len() as u32).to_le_bytes());
    let checksum = xxh3_64(&[&checked, sections].concat());
    [b"MAILMANI", &checked[..], &checksum.to_le_bytes(), sections].concat()
}

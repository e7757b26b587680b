//! What must hold for whatever bytes a decoder is given. Shared with the targets in `fuzz/`.
//!
//! The formats are encoded here once more, from their description, so that bytes get past a checksum: what is behind it
//! must be as careful.

mod disk;
mod format;
mod journal;
mod manifest;
pub(crate) mod tree;

pub(crate) use format::{Frame, segment_header};
pub(crate) use journal::{journal, segment};
pub(crate) use manifest::{identity, manifest, sections};
pub(crate) use tree::{Tree, tree};

use bytes::Bytes;
use mailring_engine::{
    journal::record::{self, DecodeError, Record, RecordBody},
    value::Value,
};

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It decodes.
    Taken,
    /// It is an error.
    Refused,
}

/// The records of a group: each reads back as it was decoded, and an error is the last and says where.
pub(crate) fn records(input: &[u8]) -> Outcome {
    let decoded: Vec<_> = record::decode_all(&Bytes::copy_from_slice(input)).collect();
    let mut outcome = Outcome::Taken;
    for (index, result) in decoded.iter().enumerate() {
        match result {
            Ok(record) => reads_back(record),
            Err(
                DecodeError::Malformed { offset, .. } | DecodeError::UnknownKind { offset, .. },
            ) => {
                assert!(*offset < input.len(), "an error lies in the payload");
                assert_eq!(index + 1, decoded.len(), "nothing follows an error");
                outcome = Outcome::Refused;
            }
        }
    }
    outcome
}

fn reads_back(record: &Record) {
    let mut bytes = Vec::new();
    record::encode(record, &mut bytes);
    let again: Vec<_> = record::decode_all(&bytes.into()).collect();
    // A part of a transaction without writes says nothing, and is not written.
    let mut expected = record.clone();
    if let RecordBody::Commit {
        txn: Some(_),
        parts,
    } = &mut expected.body
    {
        parts.retain(|part| !part.writes.is_empty());
    }
    assert_eq!(again, [Ok(expected)]);
}

/// A stored value is read back to the byte.
pub(crate) fn values(input: &[u8]) -> Outcome {
    let Some(value) = Value::decode(Bytes::copy_from_slice(input)) else {
        return Outcome::Refused;
    };
    // "Never expires" has a form without expiry, which is the one that is written.
    let expected = match input[0] {
        1 if value.expires_at_ms == 0 => [&[0], &input[9..]].concat(),
        _ => input.to_vec(),
    };
    assert_eq!(value.encode(), expected);
    Outcome::Taken
}

//! What the journal says: one record for each commit or change of the system, and its bytes.
//!
//! A record is its length (u32, little endian) and a body: kind (one byte), LSN, and what the kind needs. Numbers are
//! varints (LEB128), names and keys stand behind their length.
//!
//! | kind | record | after the LSN |
//! |---|---|---|
//! | 1 | commit of one node | part |
//! | 2 | commit of several nodes | number of parts, parts |
//! | 3 | transaction | opening and number of the transaction, number of parts, parts |
//! | 4 | keyspace created | id, name |
//! | 5 | keyspace dropped | id |
//! | 6 | fence | node, incarnation |
//! | 7 | transaction with an idempotency key | opening, number, the key, number of parts, parts |
//! | 8 | ring | see [`crate::ring_state`] |
//! | 9 | spread | directories (a bit each), length of the stamp, its LSN and groups, kind and fields of another record |
//!
//! A part is node, incarnation, number of writes, writes. A write is `length of the key << 2 | tag`, the key, and
//! with tag 0 nothing (a removal), with tag 1 the value, with tag 2 its expiry and the value.
//!
//! Checksums are the frame's ([`super`]). Decoding still takes nothing on trust: arbitrary bytes give an error,
//! and never an allocation that is out of proportion to them. A reader refuses a kind that it does not
//! know as one of a newer format, so a new kind needs no new format version: a directory without it stays readable.
//!
//! Replayed keys and values share one allocation a record, copied out of the group: a small value that lives for
//! long in a node's table must not keep the megabytes of its group in memory. Only a record that is itself at least a
//! quarter of its group is sliced out of it.

use crate::{
    directories::{DirectorySet, Stamp},
    ids::{
        GroupNo, Incarnation, KeyspaceId, LARGEST_COUNTER, LARGEST_INCARNATION, Lsn, NodeId, TxnId,
    },
    ring_state::{self, RingRecord},
    store::MAX_STORED_KEY_BYTES,
    value::{KEYSPACE_PREFIX_BYTES, Value, Write},
    wire::{Reader, put_bytes, put_varint},
};
use bytes::Bytes;

/// One entry of the journal. Its LSN is the commit timestamp of whatever it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the order.
    pub lsn: Lsn,
    /// What it says.
    pub body: RecordBody,
}

/// The kinds of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordBody {
    /// A commit: all of its parts, on whichever nodes, become visible together.
    Commit {
        /// Whose outcome it is; `None` for a write that is no transaction.
        txn: Option<TxnTag>,
        /// What each node installs, at most one part a node.
        parts: Vec<CommitPart>,
    },
    /// A keyspace came to be.
    CreateKeyspace {
        /// Its number.
        id: KeyspaceId,
        /// Its name.
        name: String,
    },
    /// A keyspace went; its keys can't be named any more.
    DropKeyspace {
        /// Its number.
        id: KeyspaceId,
    },
    /// A node began a new life: what its earlier lives still send is refused.
    Fence {
        /// The node.
        node: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
    /// The nodes, the ring, or who owns an arc has changed.
    Ring(RingRecord),
    /// Where an engine has several directories ([`crate::directories`]): what of a record is in this one. Readers of a
    /// journal that is in use get the record itself.
    Spread {
        /// Where it is, and what was known when it was written.
        spread: Spread,
        /// The record, which is not spread itself; of a commit the parts that belong here.
        body: Box<RecordBody>,
    },
}

/// Where a record is, and what was known when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// The directories that have a part of it. Never empty.
    pub directories: DirectorySet,
    /// What was forced then, if that was known.
    pub stamp: Option<Stamp>,
}

/// What the journal remembers of a transaction beside its writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnTag {
    /// Its number.
    pub id: TxnId,
    /// The caller's key, under which a repeated transaction gets this one's outcome.
    pub idempotency: Option<Bytes>,
}

/// What one node installs of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPart {
    /// The node.
    pub node: NodeId,
    /// The life of the node that voted for it.
    pub incarnation: Incarnation,
    /// The new states of its keys, at most one a key.
    pub writes: Vec<Write>,
}

const COMMIT_OF_ONE_NODE: u8 = 1;
const COMMIT_OF_SEVERAL_NODES: u8 = 2;
const TRANSACTION: u8 = 3;
const CREATE_KEYSPACE: u8 = 4;
const DROP_KEYSPACE: u8 = 5;
const FENCE: u8 = 6;
const TRANSACTION_WITH_KEY: u8 = 7;
const RING: u8 = 8;
const SPREAD: u8 = 9;

const REMOVED: u8 = 0;
const VALUE: u8 = 1;
const EXPIRING_VALUE: u8 = 2;

const LENGTH_BYTES: usize = 4;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes can't be a record.
    Malformed {
        /// Where in the payload the record begins.
        offset: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A record of a kind that a later format has added.
    UnknownKind {
        /// Where in the payload the record begins.
        offset: usize,
        /// The kind.
        kind: u8,
    },
}

/// Appends the record of a commit of one node: the hot path, which needs no [`Record`].
///
/// # Panics
///
/// Panics if the record has 4 GiB or more.
pub fn encode_commit(
    out: &mut Vec<u8>,
    lsn: Lsn,
    node: NodeId,
    incarnation: Incarnation,
    writes: &[Write],
) {
    frame_record(out, COMMIT_OF_ONE_NODE, lsn, |out| {
        put_part(out, node, incarnation, writes)
    });
}

/// At least as many bytes as [`encode_commit`] appends for these writes.
#[must_use]
pub fn commit_bytes_bound(writes: &[Write]) -> usize {
    /// Length, kind, LSN, node, incarnation and count, each at its longest.
    const AROUND_BYTES: usize = 48;
    /// Two lengths, a flag and an expiry, each at its longest.
    const AROUND_WRITE_BYTES: usize = 40;
    let writes_bytes: usize = writes
        .iter()
        .map(|write| {
            let value = write.value.as_ref().map_or(0, |value| value.bytes.len());
            write.key.len() + value + AROUND_WRITE_BYTES
        })
        .sum();
    AROUND_BYTES + writes_bytes
}

/// Appends the record of a transaction: each part's node, life and writes. Parts without writes are left out.
///
/// # Panics
///
/// Panics if the record has 4 GiB or more.
pub fn encode_transaction<'a>(
    out: &mut Vec<u8>,
    lsn: Lsn,
    txn: TxnId,
    idempotency: Option<&[u8]>,
    parts: impl Iterator<Item = (NodeId, Incarnation, &'a [Write])> + Clone,
) {
    let kind = match idempotency {
        None => TRANSACTION,
        Some(_) => TRANSACTION_WITH_KEY,
    };
    frame_record(out, kind, lsn, |out| {
        put_varint(out, txn.opening());
        put_varint(out, txn.number());
        if let Some(key) = idempotency {
            put_bytes(out, key);
        }
        let parts = parts.filter(|(.., writes)| !writes.is_empty());
        put_varint(out, parts.clone().count() as u64);
        for (node, incarnation, writes) in parts {
            put_part(out, node, incarnation, writes);
        }
    });
}

/// At least as many bytes as [`encode_transaction`] appends.
#[must_use]
pub fn transaction_bytes_bound<'a>(
    idempotency: Option<&[u8]>,
    parts: impl Iterator<Item = &'a [Write]>,
) -> usize {
    const AROUND_BYTES: usize = 48;
    AROUND_BYTES + idempotency.map_or(0, <[u8]>::len) + parts.map(commit_bytes_bound).sum::<usize>()
}

/// Makes the record that was just encoded, at `start`, one that is spread.
///
/// # Panics
///
/// Panics if no record begins at `start`, or it has 4 GiB or more.
pub fn spread_last(out: &mut Vec<u8>, start: usize, spread: &Spread) {
    let mut reader = Reader::new(&out[start + LENGTH_BYTES..]);
    let (kind, lsn) = reader
        .byte()
        .zip(reader.varint())
        .expect("a record was encoded there");
    let fields = out.len() - reader.remaining();
    let mut around = vec![SPREAD];
    put_varint(&mut around, lsn);
    put_varint(&mut around, spread.directories.bits());
    let forced = spread.stamp.as_ref().map_or(&[][..], |stamp| &stamp.forced);
    put_varint(&mut around, forced.len() as u64);
    if let Some(stamp) = &spread.stamp {
        put_varint(&mut around, stamp.durable.0);
        for group in forced {
            put_varint(&mut around, group.0);
        }
    }
    around.push(kind);
    out.splice(start + LENGTH_BYTES..fields, around);
    put_length(out, start);
}

/// At least as many bytes as [`spread_last`] adds, where there are so many directories.
#[must_use]
pub fn spread_bytes_bound(directories: usize) -> usize {
    /// A kind, three numbers and the stamp's LSN, and a group for each directory, each at its longest.
    const AROUND_BYTES: usize = 1 + 4 * 10;
    AROUND_BYTES + directories * 10
}

/// Appends a record.
///
/// # Panics
///
/// Panics if the record has 4 GiB or more.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let lsn = record.lsn;
    match &record.body {
        RecordBody::Commit { txn: None, parts } => {
            if let [part] = &parts[..] {
                encode_commit(out, lsn, part.node, part.incarnation, &part.writes);
            } else {
                frame_record(out, COMMIT_OF_SEVERAL_NODES, lsn, |out| {
                    put_parts(out, parts)
                });
            }
        }
        RecordBody::Commit {
            txn: Some(txn),
            parts,
        } => {
            let parts = parts.iter();
            let parts = parts.map(|part| (part.node, part.incarnation, &part.writes[..]));
            encode_transaction(out, lsn, txn.id, txn.idempotency.as_deref(), parts);
        }
        RecordBody::CreateKeyspace { id, name } => frame_record(out, CREATE_KEYSPACE, lsn, |out| {
            put_varint(out, id.0.into());
            put_bytes(out, name.as_bytes());
        }),
        RecordBody::DropKeyspace { id } => {
            frame_record(out, DROP_KEYSPACE, lsn, |out| put_varint(out, id.0.into()));
        }
        RecordBody::Fence { node, incarnation } => frame_record(out, FENCE, lsn, |out| {
            put_varint(out, node.0.into());
            put_varint(out, incarnation.0.into());
        }),
        RecordBody::Ring(ring) => {
            frame_record(out, RING, lsn, |out| ring_state::put_record(out, ring));
        }
        RecordBody::Spread { spread, body } => {
            let start = out.len();
            let body = RecordBody::clone(body);
            encode(&Record { lsn, body }, out);
            spread_last(out, start, spread);
        }
    }
}

fn frame_record(out: &mut Vec<u8>, kind: u8, lsn: Lsn, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(kind);
    put_varint(out, lsn.0);
    fill(out);
    put_length(out, start);
}

fn put_length(out: &mut [u8], start: usize) {
    let len = out.len() - start - LENGTH_BYTES;
    let len = u32::try_from(len).expect("a record is smaller than 4 GiB");
    out[start..start + LENGTH_BYTES].copy_from_slice(&len.to_le_bytes());
}

fn put_parts(out: &mut Vec<u8>, parts: &[CommitPart]) {
    put_varint(out, parts.len() as u64);
    for part in parts {
        put_part(out, part.node, part.incarnation, &part.writes);
    }
}

fn put_part(out: &mut Vec<u8>, node: NodeId, incarnation: Incarnation, writes: &[Write]) {
    put_varint(out, node.0.into());
    put_varint(out, incarnation.0.into());
    put_varint(out, writes.len() as u64);
    for write in writes {
        let tag = match &write.value {
            None => REMOVED,
            Some(value) if value.expires_at_ms == 0 => VALUE,
            Some(_) => EXPIRING_VALUE,
        };
        put_varint(out, (write.key.len() as u64) << 2 | u64::from(tag));
        out.extend_from_slice(&write.key);
        if let Some(value) = &write.value {
            if tag == EXPIRING_VALUE {
                put_varint(out, value.expires_at_ms);
            }
            put_bytes(out, &value.bytes);
        }
    }
}

/// The records of a group's payload, in order. Ends after the first error.
pub fn decode_all(payload: &Bytes) -> impl Iterator<Item = Result<Record, DecodeError>> + use<> {
    let payload = payload.clone();
    let mut offset = 0;
    std::iter::from_fn(move || {
        if offset == payload.len() {
            return None;
        }
        let start = offset;
        let outcome = match split_body(&payload, start) {
            Some(body) => {
                offset = start + LENGTH_BYTES + body.len();
                decode_body(&body, start)
            }
            None => Err(DecodeError::Malformed {
                offset: start,
                reason: "a record is cut short",
            }),
        };
        if outcome.is_err() {
            offset = payload.len();
        }
        Some(outcome)
    })
}

/// The body of the record at `start`, copied or sliced.
fn split_body(payload: &Bytes, start: usize) -> Option<Bytes> {
    let mut reader = Reader::new(&payload[start..]);
    let len = usize::try_from(reader.u32()?).ok()?;
    let body = reader.take(len)?;
    Some(if len < payload.len() / 4 {
        Bytes::copy_from_slice(body)
    } else {
        payload.slice_ref(body)
    })
}

fn decode_body(body: &Bytes, offset: usize) -> Result<Record, DecodeError> {
    let malformed = |reason| DecodeError::Malformed { offset, reason };
    let mut reader = Reader::new(body);
    let kind = reader.byte().ok_or(malformed("a record is empty"))?;
    if !(COMMIT_OF_ONE_NODE..=SPREAD).contains(&kind) {
        return Err(DecodeError::UnknownKind { offset, kind });
    }
    let record = decode_fields(body, kind, &mut reader)
        .ok_or(malformed("a record's fields do not fit its length"))?;
    if !reader.is_empty() {
        return Err(malformed("a record is longer than its fields"));
    }
    Ok(record)
}

fn decode_fields(body: &Bytes, kind: u8, reader: &mut Reader<'_>) -> Option<Record> {
    let lsn = Lsn(reader.varint()?);
    let body = if kind == SPREAD {
        let spread = take_spread(reader)?;
        let kind = reader.byte()?;
        let body = Box::new(decode_kind(body, kind, reader)?);
        RecordBody::Spread { spread, body }
    } else {
        decode_kind(body, kind, reader)?
    };
    Some(Record { lsn, body })
}

fn take_spread(reader: &mut Reader<'_>) -> Option<Spread> {
    let directories = DirectorySet::from_bits(reader.varint()?)?;
    let stamp = match reader.small()? {
        0 => None,
        count => {
            let durable = Lsn(reader.varint().filter(|&lsn| lsn <= LARGEST_COUNTER)?);
            let mut forced = list_for(count, reader);
            for _ in 0..count {
                let group = reader.varint().filter(|&group| group <= LARGEST_COUNTER)?;
                forced.push(GroupNo(group));
            }
            Some(Stamp { durable, forced })
        }
    };
    Some(Spread { directories, stamp })
}

/// The fields of a record that is not spread.
fn decode_kind(body: &Bytes, kind: u8, reader: &mut Reader<'_>) -> Option<RecordBody> {
    Some(match kind {
        COMMIT_OF_ONE_NODE => RecordBody::Commit {
            txn: None,
            parts: vec![decode_part(body, reader)?],
        },
        COMMIT_OF_SEVERAL_NODES => RecordBody::Commit {
            txn: None,
            parts: decode_parts(body, reader)?,
        },
        TRANSACTION | TRANSACTION_WITH_KEY => {
            let id = TxnId::new(reader.varint()?, reader.varint()?)?;
            let idempotency = match kind {
                TRANSACTION => None,
                _ => Some(body.slice_ref(reader.bytes()?)),
            };
            RecordBody::Commit {
                txn: Some(TxnTag { id, idempotency }),
                parts: decode_parts(body, reader)?,
            }
        }
        CREATE_KEYSPACE => {
            let id = KeyspaceId(reader.small()?);
            let name = std::str::from_utf8(reader.bytes()?).ok()?.to_owned();
            RecordBody::CreateKeyspace { id, name }
        }
        DROP_KEYSPACE => RecordBody::DropKeyspace {
            id: KeyspaceId(reader.small()?),
        },
        FENCE => RecordBody::Fence {
            node: NodeId(reader.small()?),
            incarnation: take_incarnation(reader)?,
        },
        RING => RecordBody::Ring(ring_state::take_record(reader)?),
        _ => return None,
    })
}

/// An empty list with room for `count` items, as far as the bytes that are left could hold so many.
fn list_for<T>(count: u64, reader: &Reader<'_>) -> Vec<T> {
    // In memory an item takes up to some seventy times its least bytes: what is claimed is not reserved blindly.
    const RESERVE_AT_MOST: usize = 64;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Vec::with_capacity(count.min(reader.remaining()).min(RESERVE_AT_MOST))
}

fn decode_parts(body: &Bytes, reader: &mut Reader<'_>) -> Option<Vec<CommitPart>> {
    let count = reader.varint()?;
    let mut parts = list_for(count, reader);
    for _ in 0..count {
        parts.push(decode_part(body, reader)?);
    }
    Some(parts)
}

fn decode_part(body: &Bytes, reader: &mut Reader<'_>) -> Option<CommitPart> {
    let node = NodeId(reader.small()?);
    let incarnation = take_incarnation(reader)?;
    let count = reader.varint()?;
    let mut writes = list_for(count, reader);
    for _ in 0..count {
        writes.push(decode_write(body, reader)?);
    }
    Some(CommitPart {
        node,
        incarnation,
        writes,
    })
}

fn take_incarnation(reader: &mut Reader<'_>) -> Option<Incarnation> {
    let number = reader
        .small()
        .filter(|&number| number <= LARGEST_INCARNATION)?;
    Some(Incarnation(number))
}

fn decode_write(body: &Bytes, reader: &mut Reader<'_>) -> Option<Write> {
    let key_and_tag = reader.varint()?;
    let len = usize::try_from(key_and_tag >> 2).ok()?;
    // Whoever is given a key splits its keyspace off, and the stores assert the bound.
    if !(KEYSPACE_PREFIX_BYTES..=MAX_STORED_KEY_BYTES).contains(&len) {
        return None;
    }
    let key = body.slice_ref(reader.take(len)?);
    let tag = (key_and_tag & 3).to_le_bytes()[0];
    let value = match tag {
        REMOVED => None,
        VALUE => Some(Value::new(body.slice_ref(reader.bytes()?))),
        EXPIRING_VALUE => {
            // Zero would be "never", which has a tag of its own.
            let expires_at_ms = reader.varint().filter(|&ms| ms != 0)?;
            Some(Value {
                bytes: body.slice_ref(reader.bytes()?),
                expires_at_ms,
            })
        }
        _ => return None,
    };
    Some(Write { key, value })
}

#[cfg(test)]
#[path = "record_bytes_tests.rs"]
mod bytes_tests;

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;

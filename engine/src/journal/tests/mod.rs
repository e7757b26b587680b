//! The journal's promises, each against a disk that breaks in every way it may.
//!
//! What a record says follows from its LSN ([`record`]), so every test that reads also checks that nothing it reads
//! is wrong.

mod crash;
mod damage;
mod failure;
mod life;
mod some;

use super::{
    Group, Journal, JournalOptions, Lsns, Recovery,
    record::{self, CommitPart, Record, RecordBody},
    segment::HEADER_BYTES,
};
use crate::{
    disk::{Disk, MemoryDisk},
    error::{Error, Result},
    ids::{GroupNo, Incarnation, Lsn, NodeId},
    value::{Value, Write},
};
use bytes::Bytes;
use std::sync::Arc;

/// The shortest segments that there are.
const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 4096,
    salt: 1,
    lsns: Lsns::All,
};
/// So many records don't fit a small segment.
const LARGE: u64 = 120;

/// The record with this LSN.
fn record(lsn: Lsn) -> Record {
    let len = usize::try_from(lsn.0 * 7 % 60).expect("is small");
    let filling = lsn.0.wrapping_mul(0x9e37_79b9).to_le_bytes();
    let value = filling
        .iter()
        .copied()
        .cycle()
        .take(len)
        .collect::<Vec<u8>>();
    let write = Write {
        key: Bytes::copy_from_slice(&lsn.0.to_be_bytes()),
        value: Some(Value::new(value.into())),
    };
    let part = CommitPart {
        node: NodeId(3),
        incarnation: Incarnation(2),
        writes: vec![write],
    };
    Record {
        lsn,
        body: RecordBody::Commit {
            txn: None,
            parts: vec![part],
        },
    }
}

/// A group of so many records.
fn group(number: GroupNo, first_lsn: Lsn, count: u64) -> Group {
    let last_lsn = Lsn(first_lsn.0 + count - 1);
    let mut payload = Vec::new();
    for lsn in first_lsn.0..=last_lsn.0 {
        record::encode(&record(Lsn(lsn)), &mut payload);
    }
    Group {
        number,
        first_lsn,
        last_lsn,
        payload,
    }
}

/// The group of so many records that comes next.
fn next_group(journal: &Journal, count: u64) -> Group {
    group(
        journal.last_group().next(),
        journal.stats().last_lsn.next(),
        count,
    )
}

fn append(journal: &mut Journal, count: u64) -> Result<()> {
    journal.append(&next_group(journal, count))
}

fn append_forced(journal: &mut Journal, count: u64) {
    append(journal, count).expect("appends");
    journal.force().expect("forces");
}

fn create(disk: &Arc<impl Disk>) -> Journal {
    Journal::create(disk.clone(), SMALL, Lsn(0)).expect("creates")
}

/// Opens the journal and checks that what comes is exactly what was written behind `after`.
fn try_open(disk: &Arc<impl Disk>, after: Lsn) -> Result<(Journal, Recovery)> {
    let mut last = after;
    let (journal, recovery) = Journal::open(disk.clone(), SMALL, after, &mut |found| {
        last = last.next();
        assert_eq!(found, record(last), "the next record, as it was written");
        Ok(())
    })?;
    assert_eq!(recovery.last_lsn, last, "the last record was handed on");
    assert_eq!(recovery.records, last.0 - after.0);
    assert_eq!(journal.stats().last_lsn, last);
    Ok((journal, recovery))
}

fn open(disk: &Arc<impl Disk>) -> (Journal, Recovery) {
    try_open(disk, Lsn(0)).expect("opens")
}

fn contents(disk: &dyn Disk, name: &str) -> Vec<u8> {
    let file = disk.open(name).expect("opens");
    let mut bytes = vec![0; usize::try_from(file.len().expect("has a length")).expect("is small")];
    file.read_at(&mut bytes, 0).expect("reads");
    bytes
}

/// A copy of a disk, whatever it is, in memory.
fn copy(disk: &dyn Disk) -> Arc<MemoryDisk> {
    let copy = MemoryDisk::new();
    for name in disk.list().expect("lists") {
        copy.replace(&name, &contents(disk, &name)).expect("copies");
    }
    Arc::new(copy)
}

/// The names of the segments, oldest first.
fn segments(disk: &dyn Disk) -> Vec<String> {
    let mut names = disk.list().expect("lists");
    names.retain(|name| name.starts_with("journal-"));
    names.sort();
    names
}

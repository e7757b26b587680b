//! The journal: its recovery and its reader over segments that nobody wrote.
//!
//! [`segment`] takes the input as the file. [`journal`] takes it as a script: groups that follow each other as they
//! should, or are changed in one place under checksums that are right.

use super::{
    Outcome,
    disk::{Files, disk_of, files_of},
    format::{Frame, segment_header},
};
use bytes::Bytes;
use mailring_engine::{
    error::Error,
    ids::{Incarnation, Lsn, NodeId},
    journal::{
        self, Group, Journal, JournalOptions, Lsns,
        record::{self, CommitPart, Record, RecordBody},
    },
    value::{Value, Write},
};
use std::path::Path;

const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 4096,
    salt: 77,
    lsns: Lsns::All,
};

fn name(id: u64) -> String {
    format!("journal-{id:016x}.seg")
}

/// One segment, which is the input.
pub(crate) fn segment(input: &[u8]) -> Outcome {
    let files = Files::from([(name(1), input.to_vec())]);
    check(&files).0
}

/// A journal as the input describes it.
pub(crate) fn journal(input: &[u8]) -> Outcome {
    let mut script = Script::new(input);
    while script.step() {}
    let written = script.finish();
    let (outcome, read) = check(&written.files);
    if written.is_whole {
        assert_eq!(read, written.records, "what was written in order is read");
    } else if written.is_authentic {
        let shared = read.len().min(written.records.len());
        assert_eq!(read[..], written.records[..shared], "only the end is lost");
    }
    outcome
}

/// Opens a journal in every way there is; what it holds, if it can be read.
fn check(files: &Files) -> (Outcome, Vec<Record>) {
    let verified = journal::verify(&*disk_of(files));
    if let Err(error) = &verified {
        names_a_place(files, error);
    }
    let disk = disk_of(files);
    let mut read = Vec::new();
    let opened = Journal::open(disk.clone(), OPTIONS, Lsn(0), &mut |record| {
        read.push(record);
        Ok(())
    });
    let (mut journal, recovery) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            names_a_place(files, &error);
            assert_eq!(files_of(&*disk), *files, "an error changes nothing");
            return (Outcome::Refused, Vec::new());
        }
    };
    let report = verified.expect("what opens was found right before");
    assert_eq!(
        (report.last_lsn, report.groups),
        (recovery.last_lsn, recovery.groups)
    );
    assert!(
        read.is_sorted_by(|a, b| a.lsn < b.lsn),
        "in the order of LSNs"
    );
    if let Some(last) = read.last() {
        assert_eq!(last.lsn, recovery.last_lsn);
    }
    let all = Lsn(u64::MAX);
    let mut replayed = Vec::new();
    let mut visit = |record| {
        replayed.push(record);
        Ok(())
    };
    journal
        .reader()
        .replay(Lsn(0), all, &mut visit)
        .expect("is read again");
    assert_eq!(replayed, read);
    goes_on(&mut journal, &mut read);
    drop(journal);
    let mut again = Vec::new();
    let reopened = Journal::open(disk, OPTIONS, Lsn(0), &mut |record| {
        again.push(record);
        Ok(())
    });
    let (_, recovery) = reopened.expect("what was opened once opens again");
    assert_eq!(again, read, "as it was, and what was forced since");
    assert_eq!(recovery.torn_bytes, 0);
    read.pop();
    (Outcome::Taken, read)
}

/// Writes and forces one more group.
fn goes_on(journal: &mut Journal, read: &mut Vec<Record>) {
    let record = sample_record(journal.stats().last_lsn.next().0);
    let mut payload = Vec::new();
    record::encode(&record, &mut payload);
    let group = Group {
        number: journal.last_group().next(),
        first_lsn: record.lsn,
        last_lsn: record.lsn,
        payload,
    };
    journal.append(&group).expect("appends");
    journal.force().expect("forces");
    read.push(record);
}

fn names_a_place(files: &Files, error: &Error) {
    let contents = |file: &Path| {
        let name = file.to_str().expect("ours is ASCII");
        files.get(name).map(Vec::len)
    };
    match error {
        Error::CorruptJournal { file, offset, .. } => {
            let is_missing = files.is_empty();
            let len = contents(file).or(is_missing.then_some(0));
            let len = len.expect("the file exists") as u64;
            assert!(*offset <= len, "offset {offset} of {len} bytes");
        }
        Error::NewerFormat { file, .. } => {
            contents(file).expect("the file exists");
        }
        other => panic!("not an error of a journal: {other}"),
    }
}

fn sample_record(lsn: u64) -> Record {
    let filling = lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let value = filling.repeat(usize::try_from(lsn % 5).expect("is small"));
    let write = Write {
        key: Bytes::copy_from_slice(&lsn.to_be_bytes()),
        value: Some(Value::new(value.into())),
    };
    let part = CommitPart {
        node: NodeId(1),
        incarnation: Incarnation(2),
        writes: vec![write],
    };
    Record {
        lsn: Lsn(lsn),
        body: RecordBody::Commit {
            txn: None,
            parts: vec![part],
        },
    }
}

/// A journal in the making.
struct Script<'a> {
    input: &'a [u8],
    id: u64,
    segment: Vec<u8>,
    next_group: u64,
    next_lsn: u64,
    written: Written,
}

/// What a script has written.
struct Written {
    files: Files,
    /// The records of all groups that were written as they should be, up to the first that was not.
    records: Vec<Record>,
    /// Nothing was damaged.
    is_whole: bool,
    /// Whatever checks was written by a journal.
    is_authentic: bool,
}

impl<'a> Script<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            id: 1,
            segment: segment_header(1, 1, 0, 0),
            next_group: 1,
            next_lsn: 1,
            written: Written {
                files: Files::new(),
                records: Vec::new(),
                is_whole: true,
                is_authentic: true,
            },
        }
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.input.split_first() else {
            return 0;
        };
        self.input = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }

    /// Does what the next byte says; false at the end.
    fn step(&mut self) -> bool {
        if self.input.is_empty() || self.written.files.len() > 6 {
            return false;
        }
        let is_damage = match self.byte() % 16 {
            count @ 0..=6 => {
                let frame = self.frame(u64::from(count) + 1);
                self.take(&frame);
                false
            }
            7 => {
                self.seal();
                self.next_segment();
                false
            }
            8 => {
                let changed = self.changed_frame();
                self.segment.extend(changed);
                self.written.is_authentic = false;
                true
            }
            9 => {
                let frame = self.changed_payload();
                self.segment.extend(frame);
                self.written.is_authentic = false;
                true
            }
            10 => {
                self.flip();
                true
            }
            11 => {
                let kept = self.segment.len().saturating_sub(usize::from(self.byte()));
                self.segment.truncate(kept);
                true
            }
            12 => {
                let zeros = 8 * usize::from(self.byte());
                self.segment.resize(self.segment.len() + zeros, 0);
                true
            }
            13 => {
                self.next_segment();
                true
            }
            14 => {
                self.changed_header();
                self.written.is_authentic = false;
                true
            }
            _ => {
                // What a recycled file held before: another salt.
                let stale = self.frame(2);
                let salt = u64::from(self.byte()) + 1_000;
                self.segment
                    .extend(stale.encode(salt, stale.payload.len() as u32));
                true
            }
        };
        self.written.is_whole &= !is_damage;
        true
    }

    /// The group that comes next.
    fn frame(&mut self, records: u64) -> Frame {
        let mut payload = Vec::new();
        let last_lsn = self.next_lsn + records - 1;
        for lsn in self.next_lsn..=last_lsn {
            record::encode(&sample_record(lsn), &mut payload);
        }
        Frame {
            number: self.next_group,
            first_lsn: self.next_lsn,
            last_lsn,
            forced_through: self.next_group - 1,
            payload,
        }
    }

    fn take(&mut self, frame: &Frame) {
        self.segment
            .extend(frame.encode(self.id, frame.payload.len() as u32));
        let lsns = frame.first_lsn..=frame.last_lsn;
        self.written.records.extend(lsns.map(sample_record));
        self.next_group = frame.number + 1;
        self.next_lsn = frame.last_lsn + 1;
    }

    fn seal(&mut self) {
        let seal = Frame {
            number: self.next_group,
            first_lsn: self.next_lsn,
            last_lsn: self.next_lsn - 1,
            forced_through: self.next_group - 1,
            payload: Vec::new(),
        };
        self.segment.extend(seal.encode(self.id, 0));
    }

    fn next_segment(&mut self) {
        let id = self.id + 1;
        let (forced_through, forced_lsn) = (self.next_group - 1, self.next_lsn - 1);
        let next = segment_header(id, id, forced_through, forced_lsn);
        let done = std::mem::replace(&mut self.segment, next);
        self.written.files.insert(name(self.id), done);
        self.id = id;
    }

    /// The next group with one field of its header changed.
    fn changed_frame(&mut self) -> Vec<u8> {
        let mut frame = self.frame(1);
        let (field, by) = (self.byte(), self.number());
        let mut claimed = frame.payload.len() as u32;
        match field % 6 {
            0 => frame.number ^= by,
            1 => frame.first_lsn ^= by,
            2 => frame.last_lsn ^= by,
            3 => frame.forced_through ^= by,
            4 => claimed ^= by as u32,
            // A record more, of an LSN that may be far away.
            _ => {
                frame.last_lsn ^= by;
                record::encode(&sample_record(frame.last_lsn), &mut frame.payload);
                claimed = frame.payload.len() as u32;
            }
        }
        frame.encode(self.id, claimed)
    }

    /// The next group with a piece of the input in its payload.
    fn changed_payload(&mut self) -> Vec<u8> {
        let mut frame = self.frame(2);
        let (at, len) = (usize::from(self.byte()), usize::from(self.byte()) % 32);
        let at = at % frame.payload.len();
        let replaced = usize::from(self.byte()) % 32;
        let end = (at + replaced).min(frame.payload.len());
        let piece: Vec<u8> = (0..len).map(|_| self.byte()).collect();
        frame.payload.splice(at..end, piece);
        frame.encode(self.id, frame.payload.len() as u32)
    }

    fn flip(&mut self) {
        let back = usize::from(self.byte()) + 1;
        let bit = self.byte() % 8;
        if let Some(at) = self.segment.len().checked_sub(back) {
            self.segment[at] ^= 1 << bit;
        }
    }

    fn changed_header(&mut self) {
        let (field, by) = (self.byte(), self.number());
        let (mut id, mut salt) = (self.id, self.id);
        let (mut forced_through, mut forced_lsn) = (self.next_group - 1, self.next_lsn - 1);
        match field % 5 {
            0 => id ^= by,
            1 => salt ^= by,
            2 => forced_through ^= by,
            3 => forced_lsn ^= by,
            // A number in the file's name that no journal reaches.
            _ => {
                self.next_segment();
                self.id ^= by;
                id = self.id;
            }
        }
        let header = segment_header(id, salt, forced_through, forced_lsn);
        let len = self.segment.len().min(header.len());
        self.segment[..len].copy_from_slice(&header[..len]);
    }

    fn finish(mut self) -> Written {
        self.written.files.insert(name(self.id), self.segment);
        self.written
    }
}

//! Recovery over several journals: the longest prefix of LSNs that is whole.
//!
//! ```text
//!  1 each journal is opened by itself: read, its torn tail cut, made durable. What was not read now never will be
//!  2 no journal may end before a group of which a stamp, its own manifest's or any other journal's, says that it was forced
//!  3 the journals are merged by LSN. The first LSN that is nowhere, or not everywhere where it should be, ends the prefix
//!  4 what is beyond is void from now on, once the manifest says so
//! ```
//!
//! A crash at any point leaves the same or less for the next recovery, of what nobody was told: nothing is written
//! behind 1 before 4 is durable.

use super::{Directories, DirectorySet, MAX_DIRECTORIES, Stamp, Voids};
use crate::{
    disk::Disk,
    error::{Error, Result},
    ids::{DirectoryNo, GroupNo, Lsn},
    journal::{
        Journal, JournalOptions, JournalReader, RecordCursor, Recovery,
        record::{Record, RecordBody},
    },
};
use std::{path::PathBuf, sync::Arc};

/// Where a directory is.
#[derive(Clone)]
pub struct Place {
    /// Its files.
    pub disk: Arc<dyn Disk>,
    /// Its name in errors.
    pub path: PathBuf,
}

/// What was recovered of several journals.
pub struct Opened {
    /// The journals, by directory.
    pub journals: Vec<Journal>,
    /// The last LSN that ever was: the next one is behind it.
    pub last_lsn: Lsn,
    /// Bytes of torn frames that were cut off in all of them.
    pub torn_bytes: u64,
}

/// Opens the journals of these directories and calls `visit` with every record above `after` that happened, whole and in
/// order. What is void from now on, and what is durable, is noted in `directories`, which the caller must have saved before
/// anything is written. `durable` is up to where the manifest knows everything to be durable.
///
/// # Errors
///
/// As [`Journal::open`], [`Error::DirectoryBehind`] if a directory has less than it had, the error of `visit`.
///
/// # Panics
///
/// Panics if there are no places, or too many.
pub fn open(
    places: &[Place],
    options: impl Fn(DirectoryNo) -> JournalOptions,
    directories: &mut Directories,
    durable: Lsn,
    after: Lsn,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<Opened> {
    assert!(
        (1..=MAX_DIRECTORIES).contains(&places.len()),
        "an engine has a directory"
    );
    let mut known = Known::new(places, &directories.stamp, durable);
    let mut journals = Vec::new();
    let mut parts = Vec::new();
    for (number, place) in numbered(places) {
        let mut note = |record: Record| known.note(number, &record);
        let disk = Arc::clone(&place.disk);
        let (journal, recovery) = Journal::open(disk, options(number), after, &mut note)?;
        parts.push(Part {
            recovery,
            reader: journal.reader(),
        });
        journals.push(journal);
    }
    let last = known.merge(&parts, &directories.voids, after, visit)?;
    let seen = parts.iter().map(|part| part.recovery.last_lsn).max();
    let seen = seen.expect("there is a directory").max(last);
    let next = directories.voids.next(last);
    if next <= seen {
        directories.voids.add(Lsn(next.0 - 1), seen);
    }
    directories.voids.forget(after);
    directories.stamp = Stamp {
        durable: last,
        forced: parts.iter().map(|part| part.recovery.last_group).collect(),
    };
    let torn = parts.iter().map(|part| part.recovery.torn_bytes);
    Ok(Opened {
        journals,
        // Also what was void at the end is behind us.
        last_lsn: Lsn(directories.voids.next(seen).0 - 1),
        torn_bytes: torn.sum(),
    })
}

/// Checks the journals of directories that nobody has open, and changes nothing. Calls `visit` as [`open`] does; returns the
/// last LSN and how many records there are in all.
///
/// # Errors
///
/// As [`open`].
pub fn verify(
    places: &[Place],
    directories: &Directories,
    durable: Lsn,
    after: Lsn,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<(Lsn, u64)> {
    let mut known = Known::new(places, &directories.stamp, durable);
    let mut parts = Vec::new();
    let mut records = 0;
    for (number, place) in numbered(places) {
        let mut note = |record: Record| known.note(number, &record);
        let (report, recovery, reader) = crate::journal::inspect(&place.disk, &mut note)?;
        records += report.records;
        parts.push(Part { recovery, reader });
    }
    let last = known.merge(&parts, &directories.voids, after, visit)?;
    Ok((last, records))
}

fn numbered(places: &[Place]) -> impl Iterator<Item = (DirectoryNo, &Place)> {
    (0_u8..).map(DirectoryNo).zip(places)
}

/// A journal that was read.
struct Part {
    recovery: Recovery,
    reader: JournalReader,
}

/// What is known of all journals, from whichever.
struct Known<'a> {
    places: &'a [Place],
    stamp: Stamp,
}

impl<'a> Known<'a> {
    fn new(places: &'a [Place], saved: &Stamp, durable: Lsn) -> Self {
        let mut stamp = saved.clone();
        stamp.durable = stamp.durable.max(durable);
        Self { places, stamp }
    }

    fn path(&self, number: DirectoryNo) -> PathBuf {
        self.places[usize::from(number.0)].path.clone()
    }

    fn corrupt(&self, number: DirectoryNo, reason: String) -> Error {
        Error::CorruptJournal {
            file: self.path(number),
            offset: 0,
            reason,
        }
    }

    /// Takes in what a record says about all journals.
    fn note(&mut self, found_in: DirectoryNo, record: &Record) -> Result<()> {
        let RecordBody::Spread { spread, .. } = &record.body else {
            return Ok(());
        };
        let listed = self.places.len();
        let is_listed = |number: DirectoryNo| usize::from(number.0) < listed;
        if !spread.directories.contains(found_in) || !spread.directories.iter().all(is_listed) {
            let bits = spread.directories.bits();
            let reason = format!(
                "the record at LSN {} should be in directories {bits:#b}",
                record.lsn
            );
            return Err(self.corrupt(found_in, reason));
        }
        let Some(stamp) = &spread.stamp else {
            return Ok(());
        };
        if stamp.forced.len() > listed || stamp.durable >= record.lsn {
            let reason = format!("the record at LSN {} tells what can't be", record.lsn);
            return Err(self.corrupt(found_in, reason));
        }
        self.stamp.durable = self.stamp.durable.max(stamp.durable);
        let more = stamp.forced.len().saturating_sub(self.stamp.forced.len());
        let known = &mut self.stamp.forced;
        known.extend(std::iter::repeat_n(GroupNo(0), more));
        for (known, told) in known.iter_mut().zip(&stamp.forced) {
            *known = (*known).max(*told);
        }
        Ok(())
    }

    /// Shows what happened; the last LSN of it.
    fn merge(
        &self,
        parts: &[Part],
        voids: &Voids,
        after: Lsn,
        visit: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<Lsn> {
        for ((number, forced), part) in (0..).map(DirectoryNo).zip(&self.stamp.forced).zip(parts) {
            let found = part.recovery.last_group;
            if found < *forced {
                return Err(Error::DirectoryBehind {
                    directory: number,
                    path: self.path(number),
                    found,
                    forced: *forced,
                });
            }
        }
        let readers = parts.iter().map(|part| &part.reader);
        let mut merge = Merge {
            cursors: readers.map(|reader| reader.cursor(after)).collect(),
            voids,
            last: after,
        };
        let gap = loop {
            match merge.next()? {
                Next::Record(number, directories, record) => match record {
                    Some(record) => visit(record)?,
                    None => {
                        let bits = directories.bits();
                        let reason = format!(
                            "the parts of the record at LSN {} in directories {bits:#b} don't fit each other",
                            merge.last
                        );
                        return Err(self.corrupt(number, reason));
                    }
                },
                Next::Gap(gap) => break gap,
            }
        };
        let missing = voids.next(merge.last);
        if missing <= self.stamp.durable {
            let (number, where_) = match gap {
                Some(number) => (number, "here".to_owned()),
                None => (DirectoryNo::HOME, "in any directory".to_owned()),
            };
            let reason = format!(
                "LSN {missing} is not {where_}, but everything was forced up to {}",
                self.stamp.durable
            );
            return Err(self.corrupt(number, reason));
        }
        Ok(merge.last)
    }
}

enum Next {
    /// A record that is whole, one of the directories that it is in, and these; none if its parts can't be put together.
    Record(DirectoryNo, DirectorySet, Option<Record>),
    /// Nothing more is whole; the directory that lacks a part of what would be next, if it is known.
    Gap(Option<DirectoryNo>),
}

/// Journals side by side.
struct Merge<'a> {
    cursors: Vec<RecordCursor>,
    voids: &'a Voids,
    last: Lsn,
}

impl Merge<'_> {
    fn next(&mut self) -> Result<Next> {
        let mut heads = Vec::new();
        for cursor in &mut self.cursors {
            heads.push(self.voids.next_in(cursor)?);
        }
        let expected = self.voids.next(self.last);
        let Some(number) = heads.iter().position(|head| *head == Some(expected)) else {
            return Ok(Next::Gap(None));
        };
        let found = DirectoryNo(u8::try_from(number).expect("64 at most"));
        let first = self.cursors[number].take().expect("it was shown");
        let (directories, mut body) = parts_of(first, found);
        for other in directories.iter().filter(|other| *other != found) {
            let place = usize::from(other.0);
            if heads[place] != Some(expected) {
                return Ok(Next::Gap(Some(other)));
            }
            let part = self.cursors[place].take().expect("it was shown");
            let (listed, part) = parts_of(part, other);
            body = body
                .filter(|_| listed == directories)
                .and_then(|body| join(body, part?));
        }
        self.last = expected;
        // Nobody else has it, or his part was not taken.
        let is_alone = (0_u8..).map(DirectoryNo).zip(&heads);
        let is_alone = is_alone.filter(|(other, _)| !directories.contains(*other));
        let is_alone = is_alone.fold(true, |alone, (_, head)| alone && *head != Some(expected));
        let record = body.filter(|_| is_alone).map(|body| Record {
            lsn: expected,
            body,
        });
        Ok(Next::Record(found, directories, record))
    }
}

/// Where a record is that was found in a directory, and what it says.
fn parts_of(record: Record, found_in: DirectoryNo) -> (DirectorySet, Option<RecordBody>) {
    match record.body {
        RecordBody::Spread { spread, body } => (spread.directories, Some(*body)),
        body => (DirectorySet::of(found_in), Some(body)),
    }
}

/// The parts of one commit as one.
fn join(mut body: RecordBody, other: RecordBody) -> Option<RecordBody> {
    let (
        RecordBody::Commit { txn, parts },
        RecordBody::Commit {
            txn: same,
            parts: more,
        },
    ) = (&mut body, other)
    else {
        return None;
    };
    parts.extend(more);
    (*txn == same).then_some(body)
}

impl Voids {
    /// The LSN of the next record of a journal that happened.
    fn next_in(&self, cursor: &mut RecordCursor) -> Result<Option<Lsn>> {
        loop {
            let Some(next) = cursor.peek()?.map(|record| record.lsn) else {
                return Ok(None);
            };
            if !self.contains(next) {
                return Ok(Some(next));
            }
            cursor.take();
        }
    }
}

//! Recovery over several journals: the longest prefix of LSNs that is whole.
//!
//! ```text
//!  1 each journal is read, up to where it is torn
//!  2 no journal may end before a group of which a stamp, its own manifest's or any other journal's, says that it was forced
//!  3 the journals are merged by LSN. The first LSN that is nowhere, or not everywhere where it should be, ends the prefix
//!  4 each journal is repaired: its torn tail is cut, the rest made durable. What was not read now never will be
//!  5 what is beyond the prefix is void from now on, once the manifest says so
//! ```
//!
//! A crash at any point leaves the same or less for the next recovery, of what nobody was told: no record is written
//! before 5 is durable. An error of 1 to 3 leaves everything as it was.
//!
//! What ends the prefix must look like a crash, which takes the end of a journal and nothing else: whoever lacks the record
//! has none behind it. A hole with more behind it, in a journal that nobody's stamp told of, is damage all the same.

use super::{Directories, DirectorySet, MAX_DIRECTORIES, Stamp, Voids};
use crate::{
    disk::Disk,
    error::{Error, Result},
    ids::{DirectoryNo, GroupNo, Lsn},
    journal::{
        Journal, JournalOptions, Lsns, RecordCursor, Scanned,
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
    let parts = known.read(Some(after))?;
    let last = known.merge(&parts, &directories.voids, after, visit)?;
    let found: Vec<_> = parts.iter().map(Scanned::recovery).collect();
    let numbers = (0_u8..).map(DirectoryNo);
    let journals = numbers
        .zip(parts)
        .map(|(number, part)| Journal::repair(part, options(number)));
    let journals = journals.collect::<Result<_>>()?;
    let seen = found.iter().map(|found| found.last_lsn).max();
    let seen = seen.expect("there is a directory").max(last);
    let next = directories.voids.next(last);
    if next <= seen {
        directories.voids.add(Lsn(next.0 - 1), seen);
    }
    directories.voids.forget(after);
    directories.stamp = Stamp {
        durable: last,
        forced: found.iter().map(|found| found.last_group).collect(),
    };
    let torn = found.iter().map(|found| found.torn_bytes);
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
    let parts = known.read(None)?;
    let last = known.merge(&parts, &directories.voids, after, visit)?;
    let records = parts.iter().map(|part| part.report().records);
    Ok((last, records.sum()))
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

    /// Reads all journals, and what they say of each other.
    fn read(&mut self, after: Option<Lsn>) -> Result<Vec<Scanned>> {
        let places = (0_u8..).map(DirectoryNo).zip(self.places);
        let parts = places.map(|(number, place)| {
            let mut note = |record: Record| self.note(number, &record);
            Scanned::read(Arc::clone(&place.disk), Lsns::Some, after, &mut note)
        });
        parts.collect()
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
        parts: &[Scanned],
        voids: &Voids,
        after: Lsn,
        visit: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<Lsn> {
        for ((number, forced), part) in (0..).map(DirectoryNo).zip(&self.stamp.forced).zip(parts) {
            let found = part.recovery().last_group;
            if found < *forced {
                return Err(Error::DirectoryBehind {
                    directory: number,
                    path: self.path(number),
                    reason: format!("its journal ends at group {found}, but went to {forced}"),
                });
            }
        }
        let mut merge = Merge {
            cursors: parts
                .iter()
                .map(|part| part.reader().cursor(after))
                .collect(),
            voids,
            last: after,
        };
        let Gap { lacking, more } = loop {
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
        let durable = self.stamp.durable;
        let why = match more {
            _ if missing <= durable => format!("everything was forced up to {durable}"),
            Some(behind) => format!("LSN {behind} is, behind it"),
            None => return Ok(merge.last),
        };
        let where_ = lacking.map_or("in any directory", |_| "here");
        let reason = format!("LSN {missing} is not {where_}, but {why}");
        Err(self.corrupt(lacking.unwrap_or(DirectoryNo::HOME), reason))
    }
}

enum Next {
    /// A record that is whole, one of the directories that it is in, and these; none if its parts can't be put together.
    Record(DirectoryNo, DirectorySet, Option<Record>),
    /// Nothing more is whole.
    Gap(Gap),
}

/// Where the next LSN is missing.
struct Gap {
    /// The directory that lacks a part of its record; none if nobody has any, and all do.
    lacking: Option<DirectoryNo>,
    /// What whoever lacks it has behind it, which no crash leaves.
    more: Option<Lsn>,
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
            // Any journal could have had it, and lost it with its end.
            let more = heads.iter().copied().collect::<Option<Vec<_>>>();
            return Ok(Next::Gap(Gap {
                lacking: None,
                more: more.and_then(|heads| heads.into_iter().min()),
            }));
        };
        let found = DirectoryNo(u8::try_from(number).expect("64 at most"));
        let first = self.cursors[number].take().expect("it was shown");
        let (directories, mut body) = parts_of(first, found);
        for other in directories.iter().filter(|other| *other != found) {
            let place = usize::from(other.0);
            if heads[place] != Some(expected) {
                return Ok(Next::Gap(Gap {
                    lacking: Some(other),
                    more: heads[place],
                }));
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

//! Mutations of the recovery over several journals: each reads them together, and leaves out one rule of the real one.

use super::Mutation;
use mailring_engine::{
    Result,
    directories::{
        Directories, DirectorySet, Stamp,
        recovery::{Opened, Place},
    },
    ids::{DirectoryNo, Lsn},
    journal::{
        Journal, JournalOptions,
        record::{Record, RecordBody},
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// Opens journals as [`mailring_engine::directories::recovery::open`] does, but for what the mutation leaves out.
pub(crate) fn open(
    places: &[Place],
    options: impl Fn(DirectoryNo) -> JournalOptions,
    directories: &mut Directories,
    after: Lsn,
    mutation: Mutation,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<Opened> {
    let (mut journals, mut all) = (Vec::new(), BTreeMap::new());
    let mut ends = Vec::new();
    let mut torn_bytes = 0;
    for (number, place) in (0..).map(DirectoryNo).zip(places) {
        let disk = Arc::clone(&place.disk);
        let (journal, recovery) = Journal::open(disk, options(number), after, &mut |_| Ok(()))?;
        torn_bytes += recovery.torn_bytes;
        ends.push(recovery.last_lsn);
        let mut cursor = journal.reader().cursor(after);
        while cursor.peek()?.is_some() {
            let record = cursor.take().expect("it was shown");
            if !directories.voids.contains(record.lsn) {
                add(&mut all, number, record);
            }
        }
        journals.push(journal);
    }
    let seen = ends.iter().copied().max().unwrap_or_default().max(after);
    let mut last = after;
    for (
        lsn,
        Found {
            body,
            wanted,
            found,
        },
    ) in all
    {
        let is_there = match mutation {
            Mutation::FollowHome => lsn <= ends[0],
            Mutation::IgnoreMissingParts => lsn == directories.voids.next(last),
            Mutation::IgnoreStamps => lsn == directories.voids.next(last) && wanted == found,
            _ => true,
        };
        if !is_there {
            break;
        }
        visit(Record { lsn, body })?;
        last = lsn;
    }
    let next = directories.voids.next(last);
    if next <= seen {
        directories.voids.add(Lsn(next.0 - 1), seen);
    }
    directories.voids.forget(after);
    directories.stamp = Stamp {
        durable: last,
        forced: journals.iter().map(Journal::last_group).collect(),
    };
    Ok(Opened {
        last_lsn: Lsn(directories.voids.next(seen).0 - 1),
        journals,
        torn_bytes,
    })
}

/// What there is of a record, wherever the rest may be.
struct Found {
    body: RecordBody,
    /// The directories in which it should be, and those in which it is, a bit each.
    wanted: u64,
    found: u64,
}

fn add(all: &mut BTreeMap<Lsn, Found>, number: DirectoryNo, record: Record) {
    let here = DirectorySet::of(number).bits();
    let (wanted, body) = match record.body {
        RecordBody::Spread { spread, body } => (spread.directories.bits(), *body),
        body => (here, body),
    };
    match (all.get_mut(&record.lsn), body) {
        (
            Some(Found {
                body: RecordBody::Commit { parts, .. },
                found,
                ..
            }),
            RecordBody::Commit { parts: more, .. },
        ) => {
            parts.extend(more);
            *found |= here;
        }
        (_, body) => {
            let found = here;
            let record_found = Found {
                body,
                wanted,
                found,
            };
            all.insert(record.lsn, record_found);
        }
    }
}

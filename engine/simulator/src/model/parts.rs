//! Records as they come from several directories: whole once the part of each directory that they name was written.

use mailring_engine::{
    directories::{DirectorySet, Placement},
    ids::{DirectoryNo, Lsn},
    journal::record::{Record, RecordBody},
};
use std::collections::BTreeMap;

/// What was written and waits for other parts, or for what comes before.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<Lsn, Part>);

#[derive(Debug)]
struct Part {
    directories: DirectorySet,
    bodies: BTreeMap<DirectoryNo, RecordBody>,
}

impl Parts {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes in what is about to be written in a directory.
    ///
    /// # Panics
    ///
    /// Panics if it does not belong there, or says something else than its other parts.
    pub(super) fn take_in(
        &mut self,
        found_in: DirectoryNo,
        Record { lsn, body }: Record,
        placement: &Placement,
    ) {
        let (directories, body) = match body {
            RecordBody::Spread { spread, body } => (spread.directories, *body),
            body => (DirectorySet::of(found_in), body),
        };
        match &body {
            RecordBody::Commit { parts, .. } => {
                let mut written = parts.iter().filter(|part| !part.writes.is_empty());
                assert!(
                    written.all(|part| placement.of(part.node) == found_in),
                    "LSN {lsn} is in another directory than its nodes"
                );
            }
            _ => assert_eq!(found_in, DirectoryNo::HOME, "LSN {lsn} is not at home"),
        }
        let part = self.0.entry(lsn).or_insert_with(|| Part {
            directories,
            bodies: BTreeMap::new(),
        });
        assert_eq!(
            part.directories, directories,
            "LSN {lsn} names other directories elsewhere"
        );
        let before = part.bodies.insert(found_in, body);
        assert_eq!(before, None, "LSN {lsn} is written twice in one directory");
    }

    /// Takes the record at this LSN, if it is whole; and whether it is in several directories.
    ///
    /// # Panics
    ///
    /// Panics if something was given an LSN that was given before, or its parts don't fit each other.
    pub(super) fn take_whole(&mut self, lsn: Lsn) -> Option<(RecordBody, bool)> {
        let first = self.0.first_entry()?;
        assert!(*first.key() >= lsn, "LSN {} was given before", first.key());
        let part = first.get();
        let is_whole = part
            .directories
            .iter()
            .all(|one| part.bodies.contains_key(&one));
        if *first.key() != lsn || !is_whole {
            return None;
        }
        let Part {
            directories,
            bodies,
        } = first.remove();
        let body = bodies
            .into_values()
            .reduce(|whole, part| match (whole, part) {
                (
                    RecordBody::Commit { txn, mut parts },
                    RecordBody::Commit {
                        txn: same,
                        parts: more,
                    },
                ) => {
                    assert_eq!(txn, same, "LSN {lsn} is of two transactions");
                    parts.extend(more);
                    RecordBody::Commit { txn, parts }
                }
                (_, other) => panic!("LSN {lsn} is in several directories: {other:?}"),
            });
        Some((body.expect("a directory"), directories.is_several()))
    }
}

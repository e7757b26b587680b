//! A directory that has less than it had is found out, and named.

use super::*;
use crate::{
    directories::{DirectorySet, Stamp},
    error::Error,
    journal::record::{self, Spread, decode_all},
};

/// The groups of each directory that the stamps in these groups, and the manifest, say there must be.
fn demanded(run: &Run, groups: &[usize]) -> Vec<GroupNo> {
    let mut all = vec![GroupNo(0); run.journals.len()];
    let mut take = |stamp: &Stamp| {
        for (all, one) in all.iter_mut().zip(&stamp.forced) {
            *all = (*all).max(*one);
        }
    };
    take(&run.directories.stamp);
    for (journal, groups) in run.journals.iter().zip(groups) {
        for group in &journal.groups[..*groups] {
            for found in decode_all(&group.payload.clone().into()) {
                if let RecordBody::Spread { spread, .. } = found.expect("is right").body
                    && let Some(stamp) = spread.stamp
                {
                    take(&stamp);
                }
            }
        }
    }
    all
}

#[test]
fn every_older_copy_of_a_directory_that_another_one_knows_of_is_named() {
    let mut run = Run::new(3);
    let mut named = [0; 3];
    for round in 0..6_u16 {
        run.append(round % 3);
        run.decide(&[0, 1 + round % 2]);
        run.cut();
        for directory in 0..3 {
            run.force(directory, 2);
        }
    }
    assert_eq!(run.visible, Lsn(12));
    let whole: Vec<_> = run.journals.iter().map(|journal| journal.forced).collect();
    for directory in 0..3 {
        for count in 0..whole[directory] {
            let mut groups = whole.clone();
            groups[directory] = count;
            let demanded = demanded(&run, &groups)[directory];
            let outcome =
                recover(&run.image(&groups), &run.directories).map(|(found, ..)| found.len());
            if demanded.0 > count as u64 {
                named[directory] += 1;
                let behind = Error::DirectoryBehind {
                    directory: DirectoryNo(u8::try_from(directory).expect("few")),
                    path: format!("directory-{directory}").into(),
                    reason: format!("its journal ends at group {count}, but went to {demanded}"),
                };
                assert_eq!(outcome, Err(behind), "{groups:?}");
            } else {
                // Nobody has written anything since: it could have been so.
                assert!(outcome.is_ok_and(|found| found < 12), "{groups:?}");
            }
        }
    }
    assert!(named.iter().all(|count| *count >= 2), "{named:?}");
}

#[test]
fn what_was_read_at_an_opening_is_demanded_by_the_next() {
    let mut run = Run::new(2);
    run.append(1);
    run.cut();
    run.force(1, 1);
    let (_, directories, _) = recover(&run.image(&[0, 1]), &run.directories).expect("is right");
    assert_eq!(directories.stamp.forced, [GroupNo(0), GroupNo(1)]);
    let outcome = recover(&run.image(&[0, 0]), &directories).map(|_| ());
    let Err(Error::DirectoryBehind { directory, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(directory, DirectoryNo(1));
}

/// A record's LSN, the directories that it names, and its stamp.
type Told = (u64, &'static [u8], Option<Stamp>);

/// The journals of two directories with these records, each in a group of its own.
fn places(records: [&[Told]; 2]) -> Vec<Place> {
    let place = |(number, records): (usize, &[Told])| {
        let disk = Arc::new(MemoryDisk::new());
        let mut journal = Journal::create(disk.clone(), some(1), Lsn(0)).expect("creates");
        for (lsn, directories, stamp) in records {
            let lsn = Lsn(*lsn);
            let mut payload = Vec::new();
            record::encode_commit(&mut payload, lsn, NodeId(0), LIFE, &[write(Bytes::new())]);
            let sets = directories
                .iter()
                .map(|one| DirectorySet::of(DirectoryNo(*one)));
            if let Some(directories) = sets.reduce(DirectorySet::and) {
                let stamp = stamp.clone();
                record::spread_last(&mut payload, 0, &Spread { directories, stamp });
            }
            let (number, first_lsn, last_lsn) = (journal.last_group().next(), lsn, lsn);
            let group = Group {
                number,
                first_lsn,
                last_lsn,
                payload,
            };
            journal.append(&group).expect("appends");
            journal.force().expect("forces");
        }
        Place {
            disk,
            path: format!("directory-{number}").into(),
        }
    };
    records.into_iter().enumerate().map(place).collect()
}

fn refusal(places: &[Place]) -> String {
    let directories = Directories {
        listed: vec![ListedDirectory::default(); 2],
        ..Directories::default()
    };
    let outcome = recover(places, &directories).map(|(found, ..)| found);
    match outcome {
        Err(Error::CorruptJournal { file, reason, .. }) => format!("{}: {reason}", file.display()),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn records_that_contradict_each_other_are_corruption() {
    let told = |durable, forced: [u64; 2]| {
        Some(Stamp {
            durable: Lsn(durable),
            forced: forced.map(GroupNo).into(),
        })
    };
    let fine = places([&[(1, &[0, 1], None)], &[(1, &[0, 1], None), (2, &[], None)]]);
    let directories = Directories::default();
    assert!(recover(&fine, &directories).is_ok_and(|(found, ..)| found.len() == 2));
    for (places, expected) in [
        (
            places([&[(1, &[], None)], &[(1, &[], None)]]),
            "directory-0: the parts of the record at LSN 1 in directories 0b1 don't fit each other",
        ),
        (
            places([&[(1, &[0, 1], None)], &[(1, &[], None)]]),
            "directory-0: the parts of the record at LSN 1 in directories 0b11 don't fit each other",
        ),
        (
            places([&[(1, &[1], None)], &[]]),
            "directory-0: the record at LSN 1 should be in directories 0b10",
        ),
        (
            places([&[(1, &[0, 2], None)], &[]]),
            "directory-0: the record at LSN 1 should be in directories 0b101",
        ),
        (
            places([&[(1, &[0], told(1, [0, 0]))], &[]]),
            "directory-0: the record at LSN 1 tells what can't be",
        ),
        (
            places([&[(5, &[0], told(4, [0, 0]))], &[]]),
            "directory-0: LSN 1 is not in any directory, but everything was forced up to 4",
        ),
        (
            places([&[(1, &[0, 1], None), (5, &[0], told(4, [1, 0]))], &[]]),
            "directory-1: LSN 1 is not here, but everything was forced up to 4",
        ),
        // No crash takes anything but the end of a journal.
        (
            places([&[(2, &[], None)], &[(3, &[], None)]]),
            "directory-0: LSN 1 is not in any directory, but LSN 2 is, behind it",
        ),
        (
            places([&[(1, &[0, 1], None)], &[(2, &[], None)]]),
            "directory-1: LSN 1 is not here, but LSN 2 is, behind it",
        ),
    ] {
        assert_eq!(refusal(&places), expected);
    }
}

#[test]
fn an_older_copy_is_told_by_the_openings_also_where_nothing_is_forced() {
    let directories = Directories {
        known_opening: 4,
        ..Directories::default()
    };
    let one = DirectoryNo(1);
    let older = |found, openings| {
        let checked = directories.check_opening(one, found, openings);
        checked.map_err(|(directory, _)| directory)
    };
    assert_eq!(older(4, 4), Ok(()));
    assert_eq!(older(3, 4), Err(one));
    assert_eq!(older(5, 4), Err(DirectoryNo::HOME));
    // Crashes between what the manifest counts and what the directories are told.
    assert_eq!(older(4, 6), Ok(()));
    assert_eq!(older(6, 6), Ok(()));
}

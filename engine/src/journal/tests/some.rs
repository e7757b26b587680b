//! A journal that has some of the LSNs: that of one directory of several.

use super::*;
use crate::{
    directories::{DirectorySet, Voids},
    ids::DirectoryNo,
    journal::{Scanned, record::Spread},
};

const SOME: JournalOptions = JournalOptions {
    lsns: Lsns::Some,
    ..SMALL
};

/// A group of these LSNs.
fn group_of(number: GroupNo, lsns: &[u64]) -> Group {
    let mut payload = Vec::new();
    for lsn in lsns {
        record::encode(&record(Lsn(*lsn)), &mut payload);
    }
    Group {
        number,
        first_lsn: Lsn(lsns[0]),
        last_lsn: Lsn(lsns[lsns.len() - 1]),
        payload,
    }
}

/// A journal of groups of these LSNs, forced one by one.
fn written(disk: &Arc<MemoryDisk>, groups: &[&[u64]]) -> Journal {
    let mut journal = Journal::create(disk.clone(), SOME, Lsn(0)).expect("creates");
    for lsns in groups {
        let group = group_of(journal.last_group().next(), lsns);
        journal.append(&group).expect("appends");
        journal.force().expect("forces");
    }
    journal
}

fn read(disk: &Arc<MemoryDisk>, after: u64) -> Result<(Journal, Vec<u64>)> {
    let mut lsns = Vec::new();
    let (journal, _) = Journal::open(disk.clone(), SOME, Lsn(after), &mut |found| {
        assert_eq!(found, record(found.lsn), "as it was written");
        lsns.push(found.lsn.0);
        Ok(())
    })?;
    Ok((journal, lsns))
}

fn replayed(journal: &Journal, voids: Voids, after: u64, through: u64) -> Result<Vec<u64>> {
    let mut lsns = Vec::new();
    let reader = journal.reader().without(Arc::new(voids));
    let reached = reader.replay(Lsn(after), Lsn(through), &mut |found| {
        lsns.push(found.lsn.0);
        Ok(())
    })?;
    assert_eq!(reached, Lsn(through), "the caller knows that all are there");
    Ok(lsns)
}

#[test]
fn lsns_may_have_gaps_within_groups_and_between_them_and_openings() {
    let disk = Arc::new(MemoryDisk::new());
    drop(written(&disk, &[&[2, 5], &[9]]));
    let (mut journal, found) = read(&disk, 0).expect("opens");
    assert_eq!(found, [2, 5, 9]);
    journal
        .append(&group_of(GroupNo(3), &[20, 22]))
        .expect("appends");
    journal.close().expect("closes");
    let (journal, found) = read(&disk, 5).expect("opens");
    assert_eq!(found, [9, 20, 22]);
    assert_eq!(replayed(&journal, Voids::default(), 5, 21), Ok(vec![9, 20]));
    let scanned = Scanned::read(disk, Lsns::Some, None, &mut |_| Ok(())).expect("is right");
    let report = scanned.report();
    assert_eq!((report.records, report.last_lsn), (5, Lsn(22)));
    assert_eq!(scanned.recovery().last_group, GroupNo(3));
    let mut cursor = scanned.reader().cursor(Lsn(2));
    let mut found = Vec::new();
    while let Some(next) = cursor.peek().expect("reads").cloned() {
        assert_eq!(cursor.take(), Some(next.clone()));
        found.push(next.lsn.0);
    }
    assert_eq!(found, [5, 9, 20, 22]);
}

#[test]
fn a_journal_with_all_lsns_has_no_gaps() {
    let disk = Arc::new(MemoryDisk::new());
    drop(written(&disk, &[&[1, 2], &[4]]));
    let error = Journal::open(disk, SMALL, Lsn(0), &mut |_| Ok(())).map(|_| ());
    let Err(Error::CorruptJournal { reason, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        reason,
        "group 2 with LSN 3 is missing, group 2 with LSN 4 follows"
    );
}

#[test]
fn a_segment_that_is_missing_is_told_by_its_groups() {
    let disk = Arc::new(MemoryDisk::new());
    let filling: Vec<u64> = (1..=LARGE).collect();
    let more: Vec<u64> = (500..=500 + LARGE).collect();
    drop(written(&disk, &[&filling[..], &more]));
    let (mut journal, _) = read(&disk, 0).expect("opens");
    journal
        .append(&group_of(GroupNo(3), &[700]))
        .expect("appends");
    journal.close().expect("closes");
    let names = segments(&*disk);
    assert_eq!(names.len(), 3);
    let without = copy(&*disk);
    without.remove(&names[1]).expect("removes");
    let error = read(&without, 0).map(|_| ());
    let Err(Error::CorruptJournal { reason, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        reason,
        "group 2 with LSN 121 is missing, group 3 with LSN 700 follows"
    );
}

#[test]
#[should_panic(expected = "a group of LSN 5 follows LSN 5")]
fn lsns_rise() {
    written(&Arc::new(MemoryDisk::new()), &[&[5], &[5]]);
}

#[test]
fn a_replay_shows_nothing_that_is_void_and_nothing_that_is_spread() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = written(&disk, &[&[1], &[3]]);
    let body = Box::new(record(Lsn(6)).body);
    let directories = DirectorySet::of(DirectoryNo(0)).and(DirectorySet::of(DirectoryNo(1)));
    let spread = Spread {
        directories,
        stamp: None,
    };
    let spread = Record {
        lsn: Lsn(6),
        body: RecordBody::Spread { spread, body },
    };
    let mut payload = Vec::new();
    record::encode(&spread, &mut payload);
    let (first_lsn, last_lsn) = (Lsn(6), Lsn(6));
    journal
        .append(&Group {
            number: GroupNo(3),
            first_lsn,
            last_lsn,
            payload,
        })
        .expect("appends");
    let mut shown = Vec::new();
    let mut voids = Voids::default();
    voids.add(Lsn(2), Lsn(4));
    let reader = journal.reader().without(voids.into());
    let reached = reader.replay(Lsn(0), Lsn(7), &mut |record| {
        shown.push(record);
        Ok(())
    });
    assert_eq!(reached, Ok(Lsn(7)));
    assert_eq!(shown, [record(Lsn(1)), record(Lsn(6))]);
    let mut cursor = reader.cursor(Lsn(1));
    assert_eq!(
        cursor.peek(),
        Ok(Some(&record(Lsn(3)))),
        "a cursor shows all"
    );
    cursor.take();
    assert_eq!(cursor.peek(), Ok(Some(&spread)));
}

#[test]
fn what_was_released_is_missed_also_where_lsns_have_gaps() {
    let disk = Arc::new(MemoryDisk::new());
    let filling: Vec<u64> = (11..=10 + LARGE).collect();
    let more: Vec<u64> = (500..=500 + LARGE).collect();
    let mut journal = written(&disk, &[&filling[..], &more, &[700]]);
    let all: Vec<u64> = more.into_iter().chain([700]).collect();
    assert_eq!(segments(&*disk).len(), 2);
    let found = replayed(&journal, Voids::default(), 400, 750);
    assert_eq!(found, Ok(all.clone()));
    journal.release(Lsn(499)).expect("releases");
    assert_eq!(segments(&*disk).len(), 1);
    // The segment that is left could have had an LSN right behind those of the one before.
    let found = replayed(&journal, Voids::default(), 10 + LARGE, 750);
    assert_eq!(found, Ok(all.clone()));
    let error = replayed(&journal, Voids::default(), 9 + LARGE, 750);
    assert!(matches!(error, Err(Error::CorruptJournal { .. })));
    drop(journal);
    // Of what was released before an opening all journals together tell.
    let (journal, found) = read(&disk, 400).expect("opens");
    assert_eq!(found, all);
    let found = replayed(&journal, Voids::default(), 400, 750);
    assert_eq!(found, Ok(all));
}

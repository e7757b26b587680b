//! The journal while nothing fails: segments come, are read, recycled and go.

use super::{super::verify, *};
use crate::disk::{SimulatedDisk, Survivors};

/// Appends forced groups until there are so many segments.
fn fill(journal: &mut Journal, segments: usize) {
    while journal.stats().segments < segments {
        append_forced(journal, 7);
    }
}

fn prepare_spare(journal: &mut Journal, disk: &dyn Disk) {
    let request = journal.spare_request(0).expect("no spare is there");
    journal
        .add_spare(request.prepare(disk))
        .expect("takes the spare");
}

fn replayed(journal: &Journal, after: Lsn, through: Lsn) -> Vec<Lsn> {
    let mut found = Vec::new();
    let visit = &mut |it: Record| {
        assert_eq!(it, record(it.lsn));
        found.push(it.lsn);
        Ok(())
    };
    let reached = journal
        .reader()
        .replay(after, through, visit)
        .expect("replays");
    assert_eq!(reached, through.min(journal.stats().last_lsn));
    found
}

fn lsns(after: u64, through: u64) -> Vec<Lsn> {
    (after + 1..=through).map(Lsn).collect()
}

#[test]
fn a_new_journal_is_empty_and_begins_after_its_base() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = Journal::create(disk.clone(), SMALL, Lsn(100)).expect("creates");
    drop(try_open(&disk, Lsn(100)).expect("opens"));
    drop(try_open(&disk, Lsn(100)).expect("opens again"));
    assert_eq!(segments(&*disk).len(), 1, "unused segments don't pile up");
    assert_eq!(replayed(&journal, Lsn(100), Lsn(200)), []);
    journal = try_open(&disk, Lsn(100)).expect("opens").0;
    append_forced(&mut journal, 3);
    assert_eq!(
        try_open(&disk, Lsn(100)).expect("opens").1.last_lsn,
        Lsn(103)
    );
    let error = try_open(&disk, Lsn(99))
        .err()
        .expect("LSN 100 is not there");
    assert!(matches!(error, Error::CorruptJournal { .. }), "{error:?}");
    let error = Journal::create(disk, SMALL, Lsn(0))
        .err()
        .expect("there are commits");
    assert!(matches!(error, Error::CorruptJournal { .. }), "{error:?}");
}

#[test]
fn only_what_comes_after_is_handed_on() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    fill(&mut journal, 4);
    let last = journal.stats().last_lsn;
    drop(journal);
    for after in 0..=last.0 {
        try_open(&copy(&*disk), Lsn(after)).expect("opens");
    }
}

#[test]
fn segments_grow_to_the_standard_length() {
    let disk = Arc::new(MemoryDisk::new());
    let options = JournalOptions {
        segment_bytes: 3 << 20,
        salt: 1,
        ..JournalOptions::default()
    };
    let mut journal = Journal::create(disk.clone(), options, Lsn(0)).expect("creates");
    let mut lengths = vec![journal.stats().allocated_bytes >> 20];
    while lengths.len() < 4 {
        let before = journal.stats();
        append_forced(&mut journal, 3000);
        if journal.stats().segments > before.segments {
            lengths.push((journal.stats().allocated_bytes - before.allocated_bytes) >> 20);
        }
    }
    assert_eq!(lengths, [1, 2, 3, 3]);
}

#[test]
fn a_spare_is_used_and_asked_for_once() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    let request = journal.spare_request(0).expect("no spare is there");
    assert!(journal.spare_request(0).is_none(), "one is under way");
    journal
        .add_spare(request.prepare(&*disk))
        .expect("takes the spare");
    assert!(journal.spare_request(0).is_none(), "one is ready");
    let files = disk.list().expect("lists");
    fill(&mut journal, 2);
    assert_eq!(
        disk.list().expect("lists"),
        files,
        "nothing had to be allocated"
    );
    assert!(journal.spare_request(0).is_some(), "it is used");
}

#[test]
fn a_spare_that_comes_too_late_is_used_for_a_later_segment() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    let late = journal
        .spare_request(0)
        .expect("no spare is there")
        .prepare(&*disk);
    fill(&mut journal, 3);
    journal.add_spare(late).expect("takes it");
    let files = disk.list().expect("lists").len();
    prepare_spare(&mut journal, &*disk);
    assert_eq!(
        disk.list().expect("lists").len(),
        files,
        "the late one was recycled"
    );
    fill(&mut journal, 4);
    let last = journal.stats().last_lsn;
    drop(journal);
    assert_eq!(open(&disk).1.last_lsn, last);
}

#[test]
fn a_group_larger_than_a_segment_gets_one_of_its_own() {
    for with_spare in [false, true] {
        for used in [false, true] {
            let disk = Arc::new(MemoryDisk::new());
            let mut journal = create(&disk);
            if used {
                append_forced(&mut journal, 3);
            }
            if with_spare {
                prepare_spare(&mut journal, &*disk);
            }
            let large = next_group(&journal, LARGE);
            assert!(large.payload.len() > 4096);
            journal.append(&large).expect("appends");
            journal.force().expect("forces");
            append_forced(&mut journal, 5);
            let last = journal.stats().last_lsn;
            assert_eq!(replayed(&journal, Lsn(0), last), lsns(0, last.0));
            assert_eq!(verify(&*disk).expect("is whole").last_lsn, last);
            drop(journal);
            assert_eq!(open(&disk).1.last_lsn, last);
        }
    }
}

#[test]
fn released_segments_are_recycled_and_the_end_is_never_forgotten() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    fill(&mut journal, 6);
    let last = journal.stats().last_lsn;
    journal.release(Lsn(last.0 / 2)).expect("releases");
    let some = segments(&*disk).len();
    assert!((2..6).contains(&some), "{some}");
    assert_eq!(
        replayed(&journal, Lsn(last.0 / 2), last),
        lsns(last.0 / 2, last.0)
    );
    let error = journal
        .reader()
        .replay(Lsn(0), last, &mut |_| Ok(()))
        .expect_err("is gone");
    assert!(matches!(error, Error::CorruptJournal { .. }), "{error:?}");

    journal.release(last).expect("releases");
    assert_eq!(segments(&*disk).len(), 1, "the newest stays");
    let spares = disk.list().expect("lists").len() - 1;
    assert_eq!(spares, 2, "two are kept, the others are gone");
    drop(journal);
    // An opening begins a new segment; the end is still known if all is released again before a commit comes.
    for _ in 0..3 {
        let (mut journal, recovery) = try_open(&disk, last).expect("opens");
        assert_eq!(recovery.last_lsn, last);
        journal.release(last).expect("releases");
    }
}

#[test]
fn a_segment_is_not_released_before_a_later_group_is_forced() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut journal = create(&disk);
    fill(&mut journal, 2);
    let forced = journal.stats().forced_lsn;
    while journal.stats().segments < 3 {
        append(&mut journal, 7).expect("appends");
    }
    let sealed = journal.stats().forced_lsn;
    assert!(sealed > forced && sealed < journal.stats().last_lsn);
    journal.release(sealed).expect("releases");
    disk.crash(Survivors::Nothing);
    assert_eq!(try_open(&disk, sealed).expect("opens").1.last_lsn, sealed);
}

#[test]
fn what_a_recycled_segment_held_never_reads_as_records() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut journal = create(&disk);
    let mut complete = Lsn(0);
    for round in 0..40 {
        // The same salt at every opening: even then no salt is used twice.
        fill(&mut journal, 3);
        complete = journal.stats().last_lsn;
        journal.release(complete).expect("releases");
        prepare_spare(&mut journal, &*disk);
        let recycled = segments(&*disk).pop().expect("the spare is last");
        let stale = contents(&*disk, &recycled);
        assert!(
            stale[64..].iter().any(|&byte| byte != 0),
            "old frames are still in it"
        );
        fill(&mut journal, 2);
        append(&mut journal, 1).expect("appends");
        let forced = journal.stats().forced_lsn;
        drop(journal);
        if round % 2 == 0 {
            disk.crash(Survivors::Nothing);
        }
        let (reopened, recovery) = try_open(&disk, complete).expect("opens");
        assert!(recovery.last_lsn >= forced && recovery.last_lsn.0 <= forced.0 + 1);
        journal = reopened;
    }
    assert!(complete > Lsn(2000), "{complete}");
}

#[test]
fn a_replay_sees_what_is_written_while_the_journal_goes_on() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    fill(&mut journal, 3);
    let written = journal.stats().last_lsn;
    for (after, through) in [
        (0, 1),
        (3, 20),
        (20, 20),
        (0, written.0),
        (7, written.0 + 9),
    ] {
        let end = through.min(written.0);
        assert_eq!(
            replayed(&journal, Lsn(after), Lsn(through)),
            lsns(after, end)
        );
    }
    // In the middle of the replay everything that it reads is released, recycled and written over.
    let reader = journal.reader();
    let mut found = Vec::new();
    let reached = reader.replay(Lsn(0), Lsn(u64::MAX), &mut |it| {
        if found.is_empty() {
            fill(&mut journal, 5);
            journal.release(journal.stats().last_lsn)?;
            if let Some(request) = journal.spare_request(0) {
                journal.add_spare(request.prepare(&*disk))?;
            }
            for _ in 0..20 {
                append_forced(&mut journal, 7);
            }
        }
        assert_eq!(it, record(it.lsn));
        found.push(it.lsn);
        Ok(())
    });
    assert_eq!((reached, found), (Ok(written), lsns(0, written.0)));
    let report = reader.verify().expect("is whole");
    assert_eq!(report.last_lsn, journal.stats().last_lsn);
    assert_eq!(report.segments, journal.stats().segments);
    assert_eq!(report.records, report.last_lsn.0 - report.first_lsn.0 + 1);
}

#[test]
fn the_error_of_a_visitor_ends_a_replay_and_an_opening() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    append_forced(&mut journal, 5);
    let outcome = journal
        .reader()
        .replay(Lsn(0), Lsn(5), &mut |_| Err(Error::Closed));
    assert_eq!(outcome, Err(Error::Closed));
    drop(journal);
    let outcome = Journal::open(disk.clone(), SMALL, Lsn(0), &mut |_| Err(Error::Closed));
    assert_eq!(outcome.err(), Some(Error::Closed));
    assert_eq!(open(&disk).1.last_lsn, Lsn(5));
}

#[test]
fn a_clean_end_leaves_nothing_to_write_again() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut journal = create(&disk);
    append(&mut journal, 5).expect("appends");
    journal.close().expect("closes");
    disk.crash(Survivors::Nothing);
    let (journal, recovery) = open(&disk);
    assert_eq!((recovery.last_lsn, recovery.torn_bytes), (Lsn(5), 0));
    journal.close().expect("closes without a group");
    assert_eq!(verify(&*disk).expect("is whole").last_lsn, Lsn(5));
}

//! Writes and forces that fail, and disks that are full.

use super::*;
use crate::disk::{SimulatedDisk, Survivors};

fn is_read_only(outcome: Result<()>) -> bool {
    matches!(outcome, Err(Error::ReadOnly { .. }))
}

/// Fails in any way; then nothing may be written, and reopening brings back what was forced.
fn check_read_only(fail: impl Fn(&SimulatedDisk), act: impl Fn(&mut Journal) -> Result<()>) {
    for crash in [None, Some(Survivors::Nothing), Some(Survivors::Everything)] {
        let disk = Arc::new(SimulatedDisk::new());
        let mut journal = create(&disk);
        append_forced(&mut journal, 3);
        let spare = journal
            .spare_request(0)
            .expect("no spare is there")
            .prepare(&*disk);
        fail(&disk);
        assert!(is_read_only(act(&mut journal)), "the failure is told");
        assert!(is_read_only(append(&mut journal, 1)));
        assert!(is_read_only(journal.force()), "a force is never retried");
        assert!(is_read_only(journal.release(Lsn(3))));
        assert!(is_read_only(journal.add_spare(spare)));
        assert!(journal.spare_request(0).is_none());
        let mut last = Lsn(0);
        let reached = journal.reader().replay(Lsn(0), Lsn(3), &mut |found| {
            last = found.lsn;
            Ok(())
        });
        assert_eq!((reached, last), (Ok(Lsn(3)), Lsn(3)), "readers go on");
        assert!(is_read_only(journal.close()));

        if let Some(survivors) = crash {
            disk.crash(survivors);
        }
        let (mut journal, recovery) = open(&disk);
        assert!(
            [Lsn(3), Lsn(5)].contains(&recovery.last_lsn),
            "{recovery:?}"
        );
        append_forced(&mut journal, 2);
        disk.crash(Survivors::Nothing);
        assert_eq!(open(&disk).1.last_lsn.0, recovery.last_lsn.0 + 2);
    }
}

#[test]
fn a_failed_write_turns_the_journal_read_only_until_it_is_reopened() {
    check_read_only(SimulatedDisk::fail_next_write, |journal| append(journal, 2));
}

#[test]
fn a_failed_force_turns_the_journal_read_only_until_it_is_reopened() {
    check_read_only(SimulatedDisk::fail_next_force, |journal| {
        append(journal, 2)?;
        journal.force()
    });
}

#[test]
fn a_group_that_a_failed_force_lost_is_made_durable_by_reopening_or_gone() {
    // Without a crash the page cache still shows it, so reopening keeps it; then it must be there for good.
    let disk = Arc::new(SimulatedDisk::new());
    let mut journal = create(&disk);
    append_forced(&mut journal, 3);
    append(&mut journal, 2).expect("appends");
    disk.fail_next_force();
    assert!(is_read_only(journal.force()));
    drop(journal);
    let (journal, recovery) = open(&disk);
    assert_eq!(recovery.last_lsn, Lsn(5));
    drop(journal);
    disk.crash(Survivors::Nothing);
    assert_eq!(open(&disk).1.last_lsn, Lsn(5));
}

#[test]
fn a_full_disk_refuses_the_next_segment_and_clears_without_a_restart() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut journal = create(&disk);
    disk.set_capacity(Some(6000));
    let refused = loop {
        let group = next_group(&journal, 12);
        match journal.append(&group) {
            Ok(()) => journal.force().expect("forces"),
            Err(error) => {
                assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
                assert!(error.is_retryable());
                break group;
            }
        }
    };
    let before = journal.stats();
    assert!(before.last_lsn > Lsn(20), "{before:?}");
    let spare = journal
        .spare_request(0)
        .expect("no spare is there")
        .prepare(&*disk);
    let error = journal.add_spare(spare).expect_err("is full, too");
    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    journal.append(&refused).expect_err("is still full");
    journal.force().expect("what is written can be forced");
    assert_eq!(journal.stats(), before, "nothing was written");
    let smaller = next_group(&journal, 1);
    journal
        .append(&smaller)
        .expect("what fits the segment is still taken");

    disk.set_capacity(None);
    append_forced(&mut journal, 7);
    let spare = journal
        .spare_request(0)
        .expect("asks again")
        .prepare(&*disk);
    journal.add_spare(spare).expect("has room");
    disk.crash(Survivors::Nothing);
    assert_eq!(open(&disk).1.last_lsn.0, before.last_lsn.0 + 8);
}

#[test]
fn a_release_that_fails_is_repeated_later() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut journal = create(&disk);
    for _ in 0..40 {
        append_forced(&mut journal, 7);
    }
    let last = journal.stats().last_lsn;
    // Segments go one by one, oldest first, wherever the machine dies: no gap is left behind.
    for steps in 0..30 {
        let disk = Arc::new(SimulatedDisk::new());
        let mut journal = create(&disk);
        for _ in 0..40 {
            append_forced(&mut journal, 7);
        }
        disk.die_after(steps);
        let outcome = journal.release(Lsn(last.0 - 1));
        disk.crash(Survivors::Seeded(steps));
        let (_, recovery) = try_open(&disk, Lsn(last.0 - 1)).expect("opens");
        assert_eq!(recovery.last_lsn, last, "{outcome:?}");
    }
}

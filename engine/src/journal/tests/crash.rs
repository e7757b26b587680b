//! Crashes at any step, with any part of what was not forced surviving.

use super::{
    super::{Spare, frame::frame_bytes, verify},
    *,
};
use crate::disk::{SECTOR_BYTES, SimulatedDisk, Survivors, Unforced};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::BTreeSet;

/// A journal in use and what it has promised.
struct Life {
    random: StdRng,
    disk: Arc<SimulatedDisk>,
    /// LSNs that end a group that was handed to the journal.
    ends: BTreeSet<Lsn>,
    /// Everything up to here was forced.
    forced: Lsn,
    /// Everything up to here is in the trees.
    complete: Lsn,
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = Arc::new(SimulatedDisk::new());
        drop(create(&disk));
        Self {
            random: StdRng::seed_from_u64(seed),
            disk,
            ends: BTreeSet::from([Lsn(0)]),
            forced: Lsn(0),
            complete: Lsn(0),
        }
    }

    /// Opens the journal, which may die in it, and checks that it holds all that was forced, and whole groups.
    fn open(&mut self) -> Option<Journal> {
        let report = match verify(&*self.disk) {
            Ok(report) => report,
            Err(Error::Io { .. }) => return None,
            Err(error) => panic!("{error:?}"),
        };
        let (journal, recovery) = match try_open(&self.disk, self.complete) {
            Ok(opened) => opened,
            Err(Error::Io { .. }) => return None,
            Err(error) => panic!("{error:?}"),
        };
        let last = recovery.last_lsn;
        assert_eq!(report.last_lsn, last, "a check sees what an opening sees");
        assert!(
            last >= self.forced,
            "{last} is there, {} was forced",
            self.forced
        );
        assert!(self.ends.contains(&last), "{last} ends no group");
        self.ends = self.ends.split_off(&last);
        self.ends.retain(|&end| end == last);
        self.forced = last;
        Some(journal)
    }

    /// Works until something fails or it is enough.
    fn work(&mut self, journal: &mut Journal, steps: u32) -> Result<()> {
        let mut under_way: Option<Result<Spare>> = None;
        for _ in 0..steps {
            match self.random.random_range(0..10) {
                0..4 => {
                    let large = self.random.random_bool(0.05);
                    let count = if large {
                        LARGE
                    } else {
                        self.random.random_range(1..12)
                    };
                    let group = next_group(journal, count);
                    self.ends.insert(group.last_lsn);
                    journal.append(&group)?;
                }
                4..7 => {
                    journal.force()?;
                    self.forced = journal.stats().last_lsn;
                    assert_eq!(journal.stats().forced_lsn, self.forced);
                }
                7 => match under_way.take() {
                    Some(outcome) => journal.add_spare(outcome)?,
                    None => {
                        under_way = journal.spare_request(0).map(|it| it.prepare(&*self.disk));
                    }
                },
                8 => {
                    let through = self.random.random_range(self.complete.0..=self.forced.0);
                    self.complete = Lsn(through);
                    journal.release(self.complete)?;
                }
                _ => {
                    let mut last = self.complete;
                    let reached = journal.reader().replay(last, Lsn(u64::MAX), &mut |found| {
                        last = last.next();
                        assert_eq!(found, record(last));
                        Ok(())
                    })?;
                    assert_eq!((last, reached), (reached, journal.stats().last_lsn));
                }
            }
        }
        Ok(())
    }
}

#[test]
fn whatever_survives_a_crash_is_a_prefix_with_everything_that_was_forced() {
    let (mut opened, mut died_opening, mut groups_lost) = (0, 0, 0);
    for seed in 0..80 {
        let mut life = Life::new(seed);
        for _ in 0..8 {
            // The machine may die in the opening, again and again.
            if life.random.random_bool(0.6) {
                life.disk.die_after(life.random.random_range(0..60));
            }
            match life.open() {
                Some(mut journal) => {
                    opened += 1;
                    let steps = life.random.random_range(1..60);
                    let outcome = life.work(&mut journal, steps);
                    if let Err(error) = outcome {
                        let dead = "the simulated machine is dead";
                        assert!(error.to_string().contains(dead), "{error:?}");
                    }
                    if life.random.random_bool(0.2) && journal.close().is_ok() {
                        life.forced = *life.ends.last().expect("has an end");
                    }
                    groups_lost += life.ends.range(life.forced.next()..).count();
                }
                None => died_opening += 1,
            }
            let survivors = match life.random.random_range(0..5) {
                0 => Survivors::Nothing,
                1 => Survivors::Everything,
                _ => Survivors::Seeded(life.random.random()),
            };
            life.disk.crash(survivors);
        }
    }
    // The loop has been where it should.
    assert!(opened > 250, "{opened}");
    assert!(died_opening > 25, "{died_opening}");
    assert!(groups_lost > 250, "{groups_lost}");
}

#[test]
fn what_an_opening_has_read_is_durable_although_a_force_failed_before() {
    let mut failed = 0;
    for seed in 0..80 {
        let mut life = Life::new(seed);
        for _ in 0..6 {
            // The process ends and begins, the machine goes on: the page cache shows what the disk may lack.
            let mut journal = life.open().expect("nothing fails");
            let steps = life.random.random_range(0..30);
            life.work(&mut journal, steps).expect("nothing fails");
            if life.random.random_bool(0.7) {
                life.disk.fail_next_force();
            } else {
                life.disk.fail_next_write();
            }
            let outcome = life.work(&mut journal, 30);
            failed += u32::from(outcome.is_err());
            drop(journal);
            // A failure that was commanded and has not come yet must not hit the opening here.
            let pending = life.disk.create("probe", 1).and_then(|file| file.force());
            if pending.is_err() {
                let _ = life.disk.remove("probe");
                let _ = life.disk.create("probe", 1).and_then(|file| file.force());
            }
            life.disk.remove("probe").expect("removes");
            drop(life.open().expect("opens without a crash"));
            // Now the machine dies: all that the opening has shown must be there.
            life.disk.crash(Survivors::Nothing);
        }
    }
    assert!(failed > 150, "{failed}");
}

#[test]
fn a_failing_opening_can_be_repeated() {
    for steps in 0.. {
        let disk = Arc::new(SimulatedDisk::new());
        let mut journal = create(&disk);
        append_forced(&mut journal, 3);
        append(&mut journal, 4).expect("appends");
        drop(journal);
        disk.die_after(steps);
        let first = try_open(&disk, Lsn(0)).is_ok();
        disk.crash(Survivors::Seeded(steps));
        disk.die_after(steps / 2);
        let second = try_open(&disk, Lsn(0)).is_ok();
        disk.crash(Survivors::Seeded(steps + 1));
        let (_, recovery) = open(&disk);
        if first || second {
            assert!([Lsn(3), Lsn(7)].contains(&recovery.last_lsn));
        }
        assert!(recovery.last_lsn >= Lsn(3));
        if first && second {
            break;
        }
        assert!(steps < 100, "an opening has an end");
    }
}

#[test]
fn groups_that_were_not_forced_and_reached_the_disk_out_of_order_are_cut_from_the_first_gap() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut journal = create(&disk);
    append_forced(&mut journal, 12);
    let mut ends = vec![HEADER_BYTES + journal.stats().bytes];
    for count in [9, 30, 5, 5] {
        let group = next_group(&journal, count);
        ends.push(ends[ends.len() - 1] + frame_bytes(group.payload.len() as u64));
        journal.append(&group).expect("appends");
    }
    assert_eq!(journal.stats().forced_lsn, Lsn(12));
    drop(journal);
    // Group 3 is lost but for its end, 2, 4 and 5 are there.
    let lost = ends[1] / SECTOR_BYTES + 1;
    assert!((lost + 1) * SECTOR_BYTES <= ends[2] && lost * SECTOR_BYTES >= ends[1]);
    disk.crash_keeping(
        &mut |change| !matches!(change, Unforced::Sector { sector, .. } if sector == lost),
    );
    let (journal, recovery) = open(&disk);
    assert_eq!(recovery.last_lsn, Lsn(21), "groups 1 and 2");
    assert_eq!(recovery.torn_bytes, ends[4] - ends[1], "groups 3 to 5");
    drop(journal);
    assert_eq!(
        open(&disk).1,
        Recovery {
            torn_bytes: 0,
            ..recovery
        },
        "and so it stays"
    );
}

#[test]
fn a_creation_that_dies_at_any_step_can_be_repeated() {
    for steps in 0.. {
        let disk = Arc::new(SimulatedDisk::new());
        disk.die_after(steps);
        let first = Journal::create(disk.clone(), SMALL, Lsn(7)).map(drop);
        disk.crash(Survivors::Seeded(steps));
        let mut journal = Journal::create(disk.clone(), SMALL, Lsn(7)).expect("creates again");
        append_forced(&mut journal, 2);
        drop(journal);
        assert_eq!(segments(&*disk).len(), 1, "the first attempt is gone");
        assert_eq!(try_open(&disk, Lsn(7)).expect("opens").1.last_lsn, Lsn(9));
        if first.is_ok() {
            break;
        }
        assert!(steps < 100, "a creation has an end");
    }
}

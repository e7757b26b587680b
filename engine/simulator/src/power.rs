//! What a crash takes of a disk: each way to lose what was not forced is a fault of its own.
//!
//! Where none strikes, only the process has died, and all that it has written is there. A fault counts as one that struck
//! where it has taken something. Of several disks each loses what it likes.

use crate::{dice::Dice, faults::Fault, world::World};
use mailring_engine::{
    disk::{SimulatedDisk, Unforced},
    ids::DirectoryNo,
};

/// The faults of a crash, in the order in which they are drawn.
const KINDS: [Fault; 5] = [
    Fault::UnforcedLost,
    Fault::UnforcedPartly,
    Fault::UnforcedReordered,
    Fault::TornWrite,
    Fault::EntryLost,
];

/// How a crash takes what was not forced.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PowerLoss {
    loses_all: bool,
    keeps_the_first: bool,
    reorders: bool,
    tears: bool,
    loses_entries: bool,
    /// Whether it was drawn: one that belongs to the run counts as no fault.
    is_drawn: bool,
}

impl PowerLoss {
    /// Nothing is left but what was forced, as it must be able to happen at any time.
    pub(crate) const TOTAL: Self = Self {
        loses_all: true,
        keeps_the_first: false,
        reorders: false,
        tears: false,
        loses_entries: true,
        is_drawn: false,
    };

    /// Takes it from a disk, which starts again; the faults that have taken something.
    fn strike(self, disk: &SimulatedDisk, dice: &mut Dice) -> Vec<Fault> {
        let mut loss = Loss {
            how: self,
            quarters: dice.within(0..5),
            keeps_entries: !self.loses_entries,
            at: None,
            keeps_write: true,
            has_lost: false,
            kept_of_write: 0,
            lost_of_write: 0,
            struck: Vec::new(),
        };
        disk.crash_keeping(&mut |change| loss.keeps(change, dice));
        loss.end_of_write();
        loss.struck.sort_unstable();
        loss.struck.dedup();
        loss.struck
    }
}

/// A crash under way.
struct Loss {
    how: PowerLoss,
    /// How many of four writes survive where they do so in any order.
    quarters: u64,
    keeps_entries: bool,
    /// The file and the write that are being looked at.
    at: Option<(String, usize)>,
    keeps_write: bool,
    /// Whether a write of this file was lost.
    has_lost: bool,
    kept_of_write: u32,
    lost_of_write: u32,
    struck: Vec<Fault>,
}

impl Loss {
    fn keeps(&mut self, change: Unforced<'_>, dice: &mut Dice) -> bool {
        let (file, write) = match change {
            Unforced::Entry { .. } => return self.keeps_entry(dice),
            Unforced::Sector { file, write, .. } => (file, write),
        };
        let is_of = |at: &(String, usize)| at.0 == file && at.1 == write;
        if !self.at.as_ref().is_some_and(is_of) {
            self.begin_write(file, write, dice);
        }
        let keeps = self.keeps_write || (self.how.tears && !self.how.loses_all && dice.chance(2));
        match keeps {
            true => self.kept_of_write += 1,
            false => self.lost_of_write += 1,
        }
        keeps
    }

    /// Changes of the directory survive in their order, up to some point.
    fn keeps_entry(&mut self, dice: &mut Dice) -> bool {
        if self.how.loses_entries {
            self.keeps_entries = !self.how.loses_all && dice.chance(3);
        }
        if !self.keeps_entries {
            self.struck.push(Fault::EntryLost);
        }
        self.keeps_entries
    }

    fn begin_write(&mut self, file: &str, write: usize, dice: &mut Dice) {
        self.end_of_write();
        if self.at.as_ref().is_none_or(|at| at.0 != file) {
            self.has_lost = false;
        }
        self.at = Some((file.to_owned(), write));
        let PowerLoss {
            loses_all,
            keeps_the_first,
            reorders,
            tears,
            ..
        } = self.how;
        self.keeps_write = match () {
            () if loses_all => false,
            () if reorders => dice.within(0..4) < self.quarters,
            () if keeps_the_first || tears => !self.has_lost && !dice.chance(2),
            () => true,
        };
    }

    /// Which faults the fate of the last write shows.
    fn end_of_write(&mut self) {
        let (kept, lost) = (
            std::mem::take(&mut self.kept_of_write),
            std::mem::take(&mut self.lost_of_write),
        );
        if kept > 0 && lost > 0 {
            self.struck.push(Fault::TornWrite);
        }
        if kept > 0 && self.has_lost {
            self.struck.push(Fault::UnforcedReordered);
        }
        if lost > 0 {
            self.has_lost = true;
            if self.how.loses_all {
                self.struck.push(Fault::UnforcedLost);
            } else if self.how.keeps_the_first && !self.how.reorders {
                self.struck.push(Fault::UnforcedPartly);
            }
        }
    }
}

impl World {
    /// How a crash is to be.
    pub(crate) fn draw_power_loss(&mut self) -> PowerLoss {
        let [loses_all, keeps_the_first, reorders, tears, loses_entries] =
            KINDS.map(|fault| self.faults.strikes(fault));
        PowerLoss {
            // What the others would show is not to be hidden by it.
            loses_all: loses_all && !(keeps_the_first || reorders || tears),
            keeps_the_first,
            reorders,
            tears,
            loses_entries,
            is_drawn: true,
        }
    }

    /// The disks lose what the crash takes, and the trees what they have not synced. How it is drawn for the first disk says nothing
    /// of the others, unless it belongs to the run.
    pub(crate) fn lose_power(&mut self, loss: PowerLoss) {
        for number in self.directory.disks.numbers() {
            let mut loss = loss;
            if loss.is_drawn && number != DirectoryNo::HOME {
                loss = self.draw_power_loss();
                self.trace
                    .line(format_args!("          directory {number}: {loss:?}"));
            }
            let disk = self.directory.disks.of(number);
            let struck = loss.strike(disk, &mut self.schedule);
            if loss.is_drawn {
                struck.into_iter().for_each(|fault| self.struck(fault));
            }
        }
        self.directory.stores.iter().for_each(|store| store.crash());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Stream;
    use mailring_engine::disk::{Disk, SECTOR_BYTES};
    use std::collections::BTreeMap;

    const SECTOR: usize = SECTOR_BYTES as usize;

    /// Crashes of a disk with four unforced writes of two sectors each, and a file whose entry was not synced: how often
    /// each fault has struck, and which writes were there (as the sectors of each) and the new file, how often.
    type Seen = BTreeMap<(Vec<usize>, bool), u32>;

    fn crashes(how: PowerLoss) -> (BTreeMap<Fault, u32>, Seen) {
        let mut dice = Dice::new(1, Stream::Schedule);
        let (mut faults, mut seen) = (BTreeMap::new(), Seen::new());
        for _ in 0..300 {
            let disk = SimulatedDisk::new();
            let file = disk.create("file", 8 * SECTOR_BYTES).expect("it is new");
            for write in 0..4 {
                let bytes = [1; 2 * SECTOR];
                file.write_at(&bytes, write * 2 * SECTOR_BYTES)
                    .expect("nothing fails");
            }
            disk.forget_to_force_directories();
            disk.create("other", 0).expect("it is new");
            for fault in how.strike(&disk, &mut dice) {
                *faults.entry(fault).or_default() += 1;
            }
            let mut bytes = [0; 8 * SECTOR];
            let file = disk.open("file").expect("it was synced");
            file.read_at(&mut bytes, 0).expect("it is long enough");
            let sectors = bytes.chunks(2 * SECTOR).map(|write| {
                let of_sector = |sector: &[u8]| usize::from(sector[0]);
                write.chunks(SECTOR).map(of_sector).sum()
            });
            let has_other = disk.open("other").is_ok();
            *seen.entry((sectors.collect(), has_other)).or_default() += 1;
        }
        (faults, seen)
    }

    fn kinds(of: &BTreeMap<Fault, u32>) -> Vec<Fault> {
        of.keys().copied().collect()
    }

    #[test]
    fn a_crash_without_a_fault_takes_nothing() {
        let (faults, seen) = crashes(PowerLoss::default());
        assert!(faults.is_empty());
        assert_eq!(seen, Seen::from([((vec![2; 4], true), 300)]));
    }

    #[test]
    fn each_fault_takes_what_its_name_says_and_nothing_else() {
        let none = PowerLoss::default;
        let (faults, seen) = crashes(PowerLoss::TOTAL);
        assert_eq!(kinds(&faults), [Fault::UnforcedLost, Fault::EntryLost]);
        assert_eq!(seen, Seen::from([((vec![0; 4], false), 300)]));

        let loses_entries = true;
        let (faults, seen) = crashes(PowerLoss {
            loses_entries,
            ..none()
        });
        assert_eq!(kinds(&faults), [Fault::EntryLost]);
        assert!(seen.keys().all(|(writes, _)| *writes == [2; 4]), "{seen:?}");
        assert_eq!(seen.len(), 2);

        let keeps_the_first = true;
        let (faults, seen) = crashes(PowerLoss {
            keeps_the_first,
            ..none()
        });
        assert_eq!(kinds(&faults), [Fault::UnforcedPartly]);
        let is_cut = |writes: &[usize]| writes.is_sorted_by(|a, b| a >= b) && !writes.contains(&1);
        assert!(
            seen.keys().all(|(writes, other)| is_cut(writes) && *other),
            "{seen:?}"
        );
        assert_eq!(seen.len(), 5, "any number of writes");

        let reorders = true;
        let (faults, seen) = crashes(PowerLoss { reorders, ..none() });
        assert_eq!(kinds(&faults), [Fault::UnforcedReordered]);
        assert!(
            seen.keys().all(|(writes, _)| !writes.contains(&1)),
            "{seen:?}"
        );
        assert_eq!(seen.len(), 16, "any of the writes");

        let tears = true;
        let (faults, seen) = crashes(PowerLoss { tears, ..none() });
        assert!(kinds(&faults).contains(&Fault::TornWrite), "{faults:?}");
        assert!(seen.keys().any(|(writes, _)| writes[0] == 1), "{seen:?}");
    }
}

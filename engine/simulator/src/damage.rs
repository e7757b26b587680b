//! Damage: what a flipped bit may do, or a directory that is an older copy. It is done to a copy of everything, beside an opening.

use crate::{
    disks::Disks,
    faults::Fault,
    groups::{Loss, Proof, find_proof},
    mutation::Mutation,
    recovery::look_into,
    report::Seen,
    world::World,
};
use mailring_engine::{
    Error,
    directories::{Placement, Voids},
    disk::{Disk, SimulatedDisk, Survivors},
    ids::{DirectoryNo, Lsn},
};
use std::{collections::BTreeMap, sync::Arc};

/// What was known before a crash.
pub(crate) struct LastSeen {
    pub(crate) applied: BTreeMap<u64, Lsn>,
    pub(crate) opened_at: Lsn,
    pub(crate) proofs: Vec<Proof>,
    pub(crate) placement: Placement,
    /// So many nodes there ever were: they have lived there.
    pub(crate) nodes: usize,
    pub(crate) voids: Arc<Voids>,
}

/// What somebody has copied of a directory while the engine was running.
#[derive(Debug)]
pub(crate) struct OlderCopy {
    directory: DirectoryNo,
    disk: SimulatedDisk,
}

/// Nothing is left of a file from some byte on.
fn wipe(disk: &SimulatedDisk, name: &str, from: u64) {
    let file = disk.open(name).expect("it opens");
    let len = file.len().expect("it has a length");
    let zeros = vec![0; len.saturating_sub(from) as usize];
    file.write_at(&zeros, from)
        .expect("nothing fails in a copy");
}

impl World {
    /// Copies what is on the medium of one directory, for a later opening.
    pub(crate) fn keep_copy(&mut self) {
        let disks = &self.directory.disks;
        self.older_copy = (disks.len() > 1 && self.schedule.chance(3)).then(|| {
            let directory = DirectoryNo(self.schedule.below(disks.len()) as u8);
            let disk = disks.of(directory).copy();
            OlderCopy { directory, disk }
        });
    }

    /// As [`World::keep_copy`], in the middle of a run.
    pub(crate) fn renew_copy(&mut self) {
        if let Some(copy) = &mut self.older_copy {
            let disk = self.directory.disks.of(copy.directory).copy();
            disk.crash(Survivors::Nothing);
            copy.disk = disk;
        }
    }

    /// A copy of the directories with a flipped bit, or with an older copy of one of them, is refused, or read as far as it was
    /// before: never read wrongly.
    ///
    /// Only groups may be missing of which nothing that is left proves that they were forced: none that was there when the
    /// directory was opened, and none that a later frame or another directory tells of.
    pub(crate) fn open_damaged(&mut self, disks: Disks, was: &LastSeen, fault: Fault) {
        if fault == Fault::OlderCopies {
            return self.open_older(disks, was);
        }
        let number = match disks.len() {
            1 => DirectoryNo::HOME,
            several => DirectoryNo(self.schedule.below(several) as u8),
        };
        let disk = disks.of(number);
        let len = |file: &String| disk.open(file).and_then(|file| file.len());
        let len = |file: &String| len(file).expect("it opens");
        let mut files = disk.list().expect("it lists");
        files.retain(|file| len(file) > 0);
        if files.is_empty() {
            // It was not made yet.
            return;
        }
        files.sort();
        let newest = files.iter().rposition(|file| file.starts_with("journal"));
        let at = match newest {
            // There the last groups are, of which nothing proves that they were forced.
            Some(newest) if fault == Fault::TailFlips => newest,
            _ => self.schedule.below(files.len()),
        };
        let file = &files[at];
        let end = match self.schedule.chance(3) {
            true => len(file),
            // Most of what there is stands at the beginning.
            false => len(file).min(1_000),
        };
        let bit = self.schedule.within(0..end * 8);
        let what = format!("bit {bit} of {file} in directory {number}");
        self.trace
            .line(format_args!("{:>6} == {what} flips", self.steps));
        disk.flip_bit(file, bit);
        if self.mutated(Mutation::LoseProofs) && Some(at) == newest {
            wipe(disk, file, bit / 8 + 1);
        }
        let seen = [Seen::DamageFound, Seen::DamageCut, Seen::DamageHarmless];
        self.judge_damaged(&disks, was, (number, Loss::Damaged), &what, seen);
    }

    fn open_older(&mut self, disks: Disks, was: &LastSeen) {
        let copy = self.older_copy.take().expect("it was looked for");
        let OlderCopy { directory, disk } = copy;
        let what = format!("an older copy of directory {directory}");
        self.trace
            .line(format_args!("{:>6} == {what} is put back", self.steps));
        let disks = disks.with(directory, disk);
        let seen = [
            Seen::OldCopyFound,
            Seen::OldCopyUnproven,
            Seen::OldCopyHarmless,
        ];
        self.judge_damaged(&disks, was, (directory, Loss::Ended), &what, seen);
    }

    fn judge_damaged(
        &mut self,
        disks: &Disks,
        was: &LastSeen,
        (directory, loss): (DirectoryNo, Loss),
        what: &str,
        [refused, cut, harmless]: [Seen; 3],
    ) {
        let last = self.process.opened_at;
        match look_into(disks, &self.model, self.scale, self.mutation) {
            Ok(found) => {
                assert!(found <= last, "LSN {found} came from nowhere");
                // What lies between may be void: a checkpoint says that the trees have all of it, and an older one does not.
                let Some((lost, _)) = self.model.log.range(found.next()..).next() else {
                    return self.count(harmless, 1);
                };
                let opened_at = was.opened_at;
                assert!(
                    found >= opened_at,
                    "{what}: cut at LSN {found}, but all was proven up to {opened_at}"
                );
                let proof = find_proof(&was.proofs, directory, (*lost, loss), last);
                assert!(
                    proof.is_none(),
                    "{what}: cut at LSN {found} in spite of {proof:?}"
                );
                self.count(cut, 1);
            }
            Err(
                Error::CorruptJournal { .. }
                | Error::CorruptManifest { .. }
                | Error::DirectoryBehind { .. }
                | Error::DirectoryMissing { .. },
            ) => self.count(refused, 1),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

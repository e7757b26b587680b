//! Crashes and openings: what the disk keeps, what must be there again, and what a flipped bit may do.

use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Message, Party},
    power::PowerLoss,
    process::{Process, Proof, base_keyspaces, look_into},
    report::Seen,
    world::World,
};
use mailring_engine::{
    Error,
    disk::{Disk, SimulatedDisk},
    ids::Lsn,
    motion::{MotionMessage, Step},
};
use std::collections::BTreeMap;

/// What was known before a crash.
struct LastSeen {
    applied: BTreeMap<u64, Lsn>,
    opened_at: Lsn,
    proofs: Vec<Proof>,
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
    /// The process dies, and perhaps the machine with it.
    pub(crate) fn crash(&mut self) {
        let loss = self.draw_power_loss();
        self.reopen(loss);
    }

    /// The directory is closed in order. Whatever is under way is given up all the same.
    pub(crate) fn close_well(&mut self) {
        self.count(Seen::ClosedWell, 1);
        if let Some(journal) = self.process.journal.take() {
            // A journal that has failed can't be closed; opening recovers.
            let _ = journal.close();
        }
        self.reopen(PowerLoss::TOTAL);
    }

    pub(crate) fn reopen(&mut self, loss: PowerLoss) {
        self.count(Seen::Reopened, 1);
        self.trace
            .line(format_args!("{:>6} == crash: {loss:?}", self.steps));
        let visible = self.process.visible.load();
        let forced = self
            .process
            .journal
            .as_ref()
            .map(|journal| journal.forced_lsn());
        let was = LastSeen {
            applied: self.model.applied.clone(),
            opened_at: self.process.opened_at,
            proofs: std::mem::take(&mut self.process.proofs),
        };
        let may_lose = !self.scale.forces;
        if may_lose && !self.process.is_any_down() {
            self.read_all_lists();
        }
        self.count_crash_of_change();
        self.model.forget_waiting();
        self.begin_anew();
        self.clients_lose_the_engine();
        self.lose_power(loss);
        if self.strikes(Fault::CrashInRecovery) {
            self.die_in_recovery();
            if self.strikes(Fault::CrashInRecoveryTwice) {
                self.die_in_recovery();
            }
        }
        self.directory.disk.set_capacity(None);
        let flips = [Fault::BitFlips, Fault::TailFlips].map(|fault| {
            let strikes = self.strikes(fault);
            strikes.then(|| (fault, self.directory.disk.copy()))
        });
        let directory = &self.directory;
        if self.mutated(Mutation::RecoveryDoesNotForce) {
            directory.disk.pretend_to_force(true);
        }
        self.process = Process::open(directory, &mut self.model, self.scale)
            .unwrap_or_else(|error| panic!("the directory does not open: {error}"));
        directory.disk.pretend_to_force(false);
        let slots = self.process.nodes.len();
        if self.written.len() > slots {
            self.written.truncate(slots);
        }
        if self.process.sequencer.ring().running().is_some() {
            self.count(Seen::RingResumed, 1);
        }
        let resume = Message::Motion(MotionMessage::Resume);
        self.send(Party::Router, Party::Router, resume);
        let last = self.process.sequencer.last_lsn();
        let forced = forced.unwrap_or_default();
        assert!(
            last >= forced,
            "LSN {forced} was forced, recovery ends at {last}"
        );
        if last < visible {
            assert!(
                !self.scale.forces,
                "LSN {visible} was visible, recovery ends at {last}"
            );
            self.count(Seen::LostUnforced, 1);
        }
        if may_lose && was.applied.values().any(|lsn| *lsn > last) {
            self.check_lists();
        }
        let history = &mut self.clients.history;
        history.cut(last, |txn| was.applied.get(&txn).copied());
        for progress in &self.process.manifest.progress {
            if !self.process.is_open(progress.node) {
                continue;
            }
            let really = self.written(progress.node);
            let written = &mut self.written[usize::from(progress.node.0)];
            assert!(
                progress.complete <= really,
                "node {}'s tree is not complete up to LSN {}",
                progress.node,
                progress.complete
            );
            *written = progress.complete.max(*written);
        }
        self.locks.begin_generation();
        self.locks.forget_writes_behind(last);
        let wanted = self.model.keyspaces(&base_keyspaces(), last);
        let found = self.process.sequencer.keyspaces();
        assert!(
            found.next_id() >= wanted.next_id(),
            "keyspace number {} was given before, and would be given again",
            found.next_id()
        );
        assert_eq!(*found, wanted, "the catalogue came back changed");
        self.check_hidden();
        self.check_all_reads();
        self.check_outcomes();
        for (fault, disk) in flips.into_iter().flatten() {
            self.open_damaged(&disk, &was, fault);
        }
    }

    /// In which phase of a change of the ring the crash has come.
    fn count_crash_of_change(&mut self) {
        if !self.process.router.machine.is_moving() {
            return;
        }
        let seen = match self.process.router.step {
            Some(Step::Opening | Step::Beginning) => Seen::CrashBeginning,
            Some(Step::Sweeping) => Seen::CrashSweeping,
            Some(Step::Copying) => Seen::CrashCopying,
            Some(Step::Following) => Seen::CrashFollowing,
            Some(Step::HandingOver) => Seen::CrashHandingOver,
            Some(Step::Cutting) => Seen::CrashCutting,
            Some(Step::Cleaning) => Seen::CrashCleaning,
            Some(Step::Ending) => Seen::CrashEnding,
            Some(Step::Waiting) => Seen::CrashWaiting,
            Some(Step::Done | Step::Cancelled | Step::Halted) | None => return,
        };
        self.count(seen, 1);
    }

    /// The machine dies again while it recovers.
    fn die_in_recovery(&mut self) {
        let disk = &self.directory.disk;
        disk.die_after(self.schedule.within(0..14));
        // It may even get to its end.
        let _ = look_into(disk, &self.model, self.scale);
        let loss = self.draw_power_loss();
        self.lose_power(loss);
    }

    /// A copy of the directory with a flipped bit is refused, or read as far as it was before: never read wrongly.
    ///
    /// Only groups may be missing of which nothing that is left proves that they were forced: none that was there when the
    /// directory was opened, and none that a later frame tells of.
    fn open_damaged(&mut self, disk: &SimulatedDisk, was: &LastSeen, fault: Fault) {
        let len = |file: &String| disk.open(file).and_then(|file| file.len());
        let len = |file: &String| len(file).expect("it opens");
        let mut files = disk.list().expect("it lists");
        files.retain(|file| len(file) > 0);
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
        self.trace.line(format_args!(
            "{:>6} == bit {bit} of {file} flips",
            self.steps
        ));
        disk.flip_bit(file, bit);
        if self.mutated(Mutation::LoseProofs) && Some(at) == newest {
            wipe(disk, file, bit / 8 + 1);
        }
        let last = self.process.sequencer.last_lsn();
        match look_into(disk, &self.model, self.scale) {
            Ok(found) if found == last => self.count(Seen::DamageHarmless, 1),
            Ok(found) => {
                assert!(found < last, "LSN {found} came from nowhere");
                let opened_at = was.opened_at;
                assert!(
                    found >= opened_at,
                    "bit {bit} of {file}: cut at LSN {found}, but all was proven up to {opened_at}"
                );
                let behind = found.next();
                let mut left = was.proofs.iter();
                let proof =
                    left.find(|it| it.first > behind && it.first <= last && it.forced > found);
                assert!(
                    proof.is_none(),
                    "bit {bit} of {file}: cut at LSN {found} in spite of {proof:?}"
                );
                self.count(Seen::DamageCut, 1);
            }
            Err(Error::CorruptJournal { .. } | Error::CorruptManifest { .. }) => {
                self.count(Seen::DamageFound, 1);
            }
            Err(error) => panic!("bit {bit} of {file}: {error}"),
        }
    }
}

//! Crashes and openings: what the disks keep, and what must be there again.

use crate::{
    damage::LastSeen,
    disks::base_keyspaces,
    faults::Fault,
    mutation::Mutation,
    network::{Message, Party},
    power::PowerLoss,
    process::Process,
    recovery::look_into,
    report::Seen,
    world::World,
};
use mailring_engine::{
    directories::Placement,
    ids::{DirectoryNo, Lsn},
    motion::{MotionMessage, Step},
};
use std::sync::Arc;

impl World {
    /// The process dies, and perhaps the machine with it.
    pub(crate) fn crash(&mut self) {
        let loss = self.draw_power_loss();
        self.reopen(loss);
    }

    /// The directory is closed in order. Whatever is under way is given up all the same.
    pub(crate) fn close_well(&mut self) {
        self.count(Seen::ClosedWell, 1);
        let journals = std::mem::take(&mut self.process.journals);
        let closed = match journals.len() {
            // The process may die between two of them.
            2.. if self.schedule.chance(3) => self.schedule.below(journals.len()),
            all => all,
        };
        for journal in journals.into_iter().take(closed) {
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
        let forced = match self.process.journals.is_empty() {
            true => Lsn(0),
            false => self.process.forced(&self.model),
        };
        let was = LastSeen {
            applied: self.model.applied.clone(),
            opened_at: self.process.opened_at,
            proofs: self.process.groups.take_proofs(),
            placement: self.process.placement.clone(),
            nodes: self.process.sequencer.ring().slots().len(),
            voids: Arc::clone(&self.process.voids),
        };
        let may_lose = !self.scale.forces;
        if may_lose && !self.process.is_any_down() {
            self.read_all_lists();
        }
        self.count_crash_of_change();
        self.model.forget_waiting();
        self.begin_anew();
        self.power_fails = false;
        self.clients_lose_the_engine();
        self.lose_power(loss);
        self.add_directory();
        if self.strikes(Fault::CrashInRecovery) {
            self.die_in_recovery();
            if self.strikes(Fault::CrashInRecoveryTwice) {
                self.die_in_recovery();
            }
        }
        self.directory.disks.set_capacity(None);
        let damage = [Fault::BitFlips, Fault::TailFlips, Fault::OlderCopies].map(|fault| {
            let may = fault != Fault::OlderCopies || self.older_copy.is_some();
            let strikes = may && self.strikes(fault);
            strikes.then(|| (fault, self.directory.disks.copy()))
        });
        let directory = &self.directory;
        if self.mutated(Mutation::RecoveryDoesNotForce) {
            directory.disks.pretend_to_force(true);
        }
        self.process = Process::open(directory, &mut self.model, self.scale, self.mutation)
            .unwrap_or_else(|error| panic!("the directory does not open: {error}"));
        directory.disks.pretend_to_force(false);
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
        let kept = self.process.kept;
        self.trace.note(kept.0);
        self.check_directories(&was);
        assert!(
            kept >= forced,
            "LSN {forced} was forced, recovery has kept what is up to {kept}"
        );
        if kept < visible {
            assert!(
                !self.scale.forces,
                "LSN {visible} was visible, recovery has kept what is up to {kept}"
            );
            self.count(Seen::LostUnforced, 1);
        }
        if may_lose && was.applied.values().any(|lsn| *lsn > kept) {
            self.check_lists();
        }
        let history = &mut self.clients.history;
        history.cut(kept, |txn| was.applied.get(&txn).copied());
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
        self.locks.forget_writes_behind(kept);
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
        for (fault, disks) in damage.into_iter().flatten() {
            self.open_damaged(disks, &was, fault);
        }
        self.keep_copy();
    }

    /// An engine may get another directory when it is opened.
    fn add_directory(&mut self) {
        let disks = &mut self.directory.disks;
        if disks.len() < self.layout.most && self.schedule.chance(2) {
            disks.add(self.mutation);
            self.count(Seen::DirectoryAdded, 1);
        }
    }

    /// What lies behind the first LSN that a directory has lost is void. Nodes stay where they are.
    fn check_directories(&mut self, was: &LastSeen) {
        let found = self.process.voids.ranges().last();
        if found.is_some() && found != was.voids.ranges().last() {
            self.count(Seen::Hole, 1);
        }
        let nodes = self.process.sequencer.ring().slots().len();
        let places = |placement: &Placement| {
            let mut places = placement.list(nodes);
            places.truncate(nodes);
            places
        };
        let known = was.nodes.min(nodes);
        assert_eq!(
            places(&self.process.placement)[..known],
            places(&was.placement)[..known],
            "nodes live elsewhere than before"
        );
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
        let disks = &self.directory.disks;
        let disk = match disks.len() {
            1 => disks.home(),
            several => disks.of(DirectoryNo(self.schedule.below(several) as u8)),
        };
        disk.die_after(self.schedule.within(0..14));
        // It may even get to its end.
        let _ = look_into(disks, &self.model, self.scale, self.mutation);
        let loss = self.draw_power_loss();
        self.lose_power(loss);
    }
}

//! What goes wrong around the parts: crashes, stalls, jumps of the clock, disks.

use crate::{
    disks::Directory,
    faults::Fault,
    network::{Lane, Message, Party},
    scale::Scale,
    world::{Wake, World},
};
use mailring_engine::{disk::SimulatedDisk, ids::DirectoryNo};

impl World {
    /// Something of the surroundings breaks, if the faults say so. An engine that can't do much any more is opened
    /// again.
    pub(crate) fn break_something(&mut self) {
        let is_lame = self.process.read_only
            || self.process.is_any_down()
            || self.process.coordinator.is_dead
            || self.process.router.is_dead
            || self.process.locks.is_down;
        if is_lame && self.schedule.chance(12) {
            match self.schedule.chance(2) {
                true => self.close_well(),
                false => self.crash(),
            }
        }
        // Only one step in so many comes here.
        const OFTEN: u32 = 12;
        for _ in 0..OFTEN {
            self.break_once();
        }
    }

    fn break_once(&mut self) {
        if self.strikes(Fault::RingChanges) {
            self.change_the_ring();
        }
        if self.strikes(Fault::ChangeCancelled) {
            let message = Message::CancelChange;
            self.send(Party::Client(u8::MAX), Party::Router, message);
        }
        if self.strikes(Fault::Crash) {
            match self.schedule.chance(6) {
                true => self.close_well(),
                false => self.crash(),
            }
        }
        if self.strikes(Fault::ActorStalls) {
            let party = self.any_actor();
            let steps = self.schedule.within(30..400);
            let until = self.scale.after(self.now, steps);
            self.process.network.stall(party, until);
        }
        if self.strikes(Fault::LongStalls) {
            let party = self.any_actor();
            let steps = Scale::LONGEST_LEASE + self.schedule.within(1..500);
            let until = self.scale.after(self.now, steps);
            self.process.network.stall(party, until);
        }
        if self.strikes(Fault::DiskSlow) {
            let directory = self.any_directory();
            let (io, segments) = (Party::Io(directory), Party::Segments(directory));
            let party = self
                .schedule
                .pick(&[io, segments, Party::Worker, Party::Mover]);
            let steps = self.schedule.within(20..300);
            let until = self.scale.after(self.now, steps);
            self.process.network.stall(party, until);
        }
        if self.strikes(Fault::TimeJumps) {
            let steps = self.schedule.within(100..3_000);
            let nanos = self.scale.steps(steps).as_nanos() as u64;
            self.pass(nanos);
        }
        if self.strikes(Fault::TimersStarve) {
            let steps = self.schedule.within(50..500);
            self.no_ticks_before = self.scale.after(self.now, steps);
        }
        if self.older_copy.is_some() && self.schedule.chance(400) {
            self.renew_copy();
        }
        self.break_disk();
    }

    fn break_disk(&mut self) {
        if self.strikes(Fault::WriteFails) {
            self.any_disk().fail_next_write();
        }
        if self.strikes(Fault::ForceFails) {
            self.any_disk().fail_next_force();
        }
        if self.strikes(Fault::ForcesFail) {
            self.any_disk().fail_forces();
        }
        if self.strikes(Fault::DiskDies) {
            let steps = self.schedule.within(0..10);
            self.any_disk().die_after(steps);
            // Of several one may die, and the others go on.
            self.power_fails = self.directory.disks.len() > 1 && self.schedule.chance(2);
        }
        if self.strikes(Fault::DiskFull) {
            let bytes = self.schedule.within(1..8) * Directory::segment_bytes();
            self.any_disk().set_capacity(Some(bytes));
            let steps = self.schedule.within(20..400);
            let until = self.scale.after(self.now, steps);
            self.wake_at(until, Wake::Room);
        }
    }

    /// One of the directories.
    pub(crate) fn any_directory(&mut self) -> DirectoryNo {
        match self.directory.disks.len() {
            1 => DirectoryNo::HOME,
            several => DirectoryNo(self.schedule.below(several) as u8),
        }
    }

    fn any_disk(&mut self) -> SimulatedDisk {
        let directory = self.any_directory();
        self.directory.disks.of(directory).clone()
    }

    fn any_actor(&mut self) -> Party {
        match self.schedule.chance(8) {
            true => Party::Router,
            false => match self.any_of(1) {
                Party::Node(_) => self.any_node(),
                party => party,
            },
        }
    }

    /// One of the parties with a clock, among so many nodes.
    pub(crate) fn any_of(&mut self, nodes: usize) -> Party {
        match self.schedule.below(nodes + 4) {
            0 => Party::Journal,
            1 => Party::Coordinator,
            2 => Party::Checkpointer,
            3 => Party::Locks,
            node => Party::Node(node as u16 - 4),
        }
    }

    pub(crate) fn any_lane(&mut self) -> Lane {
        let node = self.any_node();
        let directory = self.any_directory();
        let (io, segments) = (Party::Io(directory), Party::Segments(directory));
        let (journal, coordinator) = (Party::Journal, Party::Coordinator);
        let (from, to) = self.schedule.pick(&[
            (journal, node),
            (node, journal),
            (node, node),
            (coordinator, node),
            (node, coordinator),
            (coordinator, journal),
            (journal, coordinator),
            (journal, journal),
            (journal, io),
            (io, journal),
            (journal, segments),
            (Party::Checkpointer, node),
            (Party::Checkpointer, journal),
            (journal, Party::Checkpointer),
            (Party::Checkpointer, Party::Worker),
            (Party::Worker, Party::Checkpointer),
            (Party::Supervisor, node),
            (coordinator, Party::Locks),
            (Party::Locks, coordinator),
            (Party::Locks, journal),
            (journal, Party::Locks),
            (node, Party::Checkpointer),
            (Party::Router, node),
            (node, Party::Router),
            (Party::Router, journal),
            (journal, Party::Router),
            (Party::Mover, Party::Worker),
        ]);
        Lane::new(from, to)
    }
}

//! The threads on which the journal's blocking calls run: one writes and forces, one prepares segments.

use crate::{
    mutation::Mutation,
    network::{Lane, Message, Party, Spare2},
    process::Proof,
    report::Seen,
    world::World,
};
use mailring_engine::{
    Error, Result,
    ids::{DirectoryNo, Lsn},
    journal::{Journal, JournalReader},
    sequencer::{GroupWrite, JournalMessage, io},
};

impl World {
    fn journal(&mut self) -> &mut Journal {
        let journal = self.process.journal.as_mut();
        journal.expect("it is open while anybody runs")
    }

    pub(crate) fn journal_reader(&mut self) -> JournalReader {
        self.journal().reader()
    }

    fn tell_from_io(&mut self, message: JournalMessage) {
        self.send(Party::Io, Party::Journal, Message::Journal(message));
    }

    /// Writes a group and those queued right behind it, and forces them together.
    pub(crate) fn write_queued(&mut self, group: GroupWrite) {
        let mut groups = vec![group];
        let lane = Lane::new(Party::Journal, Party::Io);
        let is_write = |message: &Message| matches!(message, Message::Write(_));
        while !self.schedule.chance(4)
            && let Some(Message::Write(group)) = self.process.network.pop_if(lane, is_write)
        {
            self.count(Seen::ForcedTogether, 1);
            groups.push(group);
        }
        let message = self.write(groups);
        self.tell_from_io(message);
    }

    /// Writes groups and forces them together.
    pub(crate) fn write(&mut self, groups: Vec<GroupWrite>) -> JournalMessage {
        let mut groups = groups;
        if self.mutated(Mutation::NoForce) {
            groups.iter_mut().for_each(|group| group.force = false);
        }
        let forced = self.journal().forced_lsn();
        let proofs = groups.iter().map(|group| Proof {
            first: group.first,
            forced,
        });
        self.process.proofs.extend(proofs);
        let told = io::write_groups(self.journal(), groups);
        let is_full = matches!(told, JournalMessage::Failed(Error::DiskFull { .. }));
        assert!(!is_full, "a group was written that had no room");
        told
    }

    /// Forces what was written without a force, as `Durability::Interval` does.
    pub(crate) fn force_now(&mut self) {
        if let Err(error) = self.journal().force() {
            self.tell_from_io(JournalMessage::Failed(error));
        }
    }

    /// A tree must never be ahead of the journal on the medium. Where every group is forced this does nothing.
    pub(crate) fn force_before_run(&mut self) -> Result<()> {
        match self.mutated(Mutation::RunBeforeForce) {
            true => Ok(()),
            false => self.journal().force(),
        }
    }

    /// Nor must the manifest, whatever became of the force before the runs.
    pub(crate) fn force_before_manifest(&mut self) -> Result<()> {
        match self.mutated(Mutation::ManifestBeforeForce) {
            true => Ok(()),
            false => self.journal().force(),
        }
    }

    pub(crate) fn add_spare(&mut self, outcome: Result<Spare2>) {
        let outcome = outcome.map(|Spare2(spare)| spare);
        let spare = io::add_spare(self.journal(), outcome);
        self.tell_from_io(JournalMessage::Spare(DirectoryNo::HOME, spare));
    }

    pub(crate) fn report_spare(&mut self) {
        let told = io::report_spare(DirectoryNo::HOME, self.journal());
        self.tell_from_io(told);
    }

    pub(crate) fn release(&mut self, through: Lsn) {
        // What could not be removed is removed later, or at the next opening.
        let _ = self.journal().release(through);
    }

    /// The segment thread is asked once, and delivers in a second step.
    pub(crate) fn segment(&mut self, at_least: u64) {
        if let Some(request) = self.process.preparing.take() {
            let outcome = request.prepare(&self.directory.disk).map(Spare2);
            self.send(Party::Segments, Party::Io, Message::AddSpare(outcome));
            return;
        }
        match self.journal().spare_request(at_least) {
            Some(request) => {
                self.process.preparing = Some(request);
                self.send(Party::Segments, Party::Segments, Message::Segment(at_least));
            }
            None => self.send(Party::Segments, Party::Io, Message::ReportSpare),
        }
    }
}

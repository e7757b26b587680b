//! The threads on which the journals' blocking calls run: in each directory one writes and forces, one prepares segments.

use crate::{
    mutation::Mutation,
    network::{Lane, Message, Party, Spare2},
    report::Seen,
    world::World,
};
use mailring_engine::{
    Error, Result,
    ids::{DirectoryNo, GroupNo, Lsn, NodeId},
    journal::{Journal, JournalReader},
    sequencer::{GroupWrite, JournalMessage, io},
};
use std::sync::Arc;

impl World {
    fn journal(&mut self, directory: DirectoryNo) -> &mut Journal {
        let journal = self.process.journals.get_mut(usize::from(directory.0));
        journal.expect("it is open while anybody runs")
    }

    /// Reads the journal in which a node's commits are, but for what never happened.
    pub(crate) fn journal_reader(&mut self, node: NodeId) -> JournalReader {
        let directory = match self.mutated(Mutation::ReadAtHome) {
            true => DirectoryNo::HOME,
            false => self.process.placement.of(node),
        };
        let reader = self.journal(directory).reader();
        match self.mutated(Mutation::ShowVoids) {
            true => reader,
            false => reader.without(Arc::clone(&self.process.voids)),
        }
    }

    fn tell_from_io(&mut self, directory: DirectoryNo, message: JournalMessage) {
        let io = Party::Io(directory);
        self.send(io, Party::Journal, Message::Journal(message));
    }

    /// Writes a group and those queued right behind it, and forces them together.
    pub(crate) fn write_queued(&mut self, group: GroupWrite) {
        let directory = group.directory;
        let mut groups = vec![group];
        let lane = Lane::new(Party::Journal, Party::Io(directory));
        let is_write = |message: &Message| matches!(message, Message::Write(_));
        while !self.schedule.chance(4)
            && let Some(Message::Write(group)) = self.process.network.pop_if(lane, is_write)
        {
            self.count(Seen::ForcedTogether, 1);
            groups.push(group);
        }
        let message = self.write(groups);
        self.tell_from_io(directory, message);
    }

    /// Writes groups of one directory and forces them together.
    pub(crate) fn write(&mut self, groups: Vec<GroupWrite>) -> JournalMessage {
        let mut groups = groups;
        let directory = groups[0].directory;
        if self.mutated(Mutation::NoForce) {
            groups.iter_mut().for_each(|group| group.force = false);
        }
        let forced = self.journal(directory).forced_group();
        for group in &groups {
            self.process.groups.note(group, forced);
        }
        let told = io::write_groups(self.journal(directory), groups);
        let is_full = matches!(told, JournalMessage::Failed(Error::DiskFull { .. }));
        assert!(!is_full, "a group was written that had no room");
        let forced = self.journal(directory).forced_group();
        self.process.groups.prune(directory, forced);
        if let JournalMessage::Persisted { last, .. } = told
            && self.mutated(Mutation::ForceOneDirectory)
        {
            self.process.visible.publish(last);
        }
        told
    }

    /// Forces what was written without a force, as `Durability::Interval` does.
    pub(crate) fn force_now(&mut self, directory: DirectoryNo) {
        if let Err(error) = self.journal(directory).force() {
            self.tell_from_io(directory, JournalMessage::Failed(error));
        }
    }

    /// Forces all journals; the last group in each then.
    fn force_all(&mut self) -> Result<Vec<GroupNo>> {
        let all = match self.mutated(Mutation::ForceHomeBeforeTrees) {
            true => 1,
            false => self.process.journals.len(),
        };
        let journals = self.process.journals.iter_mut();
        for journal in journals.take(all) {
            journal.force()?;
        }
        let journals = self.process.journals.iter();
        Ok(journals.map(Journal::forced_group).collect())
    }

    /// A tree must never be ahead of the journals on the media, whichever directory it is in. Where every group is forced this
    /// does nothing.
    pub(crate) fn force_before_run(&mut self) -> Result<()> {
        match self.mutated(Mutation::RunBeforeForce) {
            true => Ok(()),
            false => self.force_all().map(drop),
        }
    }

    /// Nor must the manifest, whatever became of the force before the runs. Answers what is forced.
    pub(crate) fn force_before_manifest(&mut self) -> Result<Vec<GroupNo>> {
        match self.mutated(Mutation::ManifestBeforeForce) {
            true => Ok(self
                .process
                .journals
                .iter()
                .map(Journal::last_group)
                .collect()),
            false => self.force_all(),
        }
    }

    pub(crate) fn add_spare(&mut self, directory: DirectoryNo, outcome: Result<Spare2>) {
        let outcome = outcome.map(|Spare2(spare)| spare);
        let spare = io::add_spare(self.journal(directory), outcome);
        self.tell_from_io(directory, JournalMessage::Spare(directory, spare));
    }

    pub(crate) fn report_spare(&mut self, directory: DirectoryNo) {
        let told = io::report_spare(directory, self.journal(directory));
        self.tell_from_io(directory, told);
    }

    pub(crate) fn release(&mut self, directory: DirectoryNo, through: Lsn) {
        // What could not be removed is removed later, or at the next opening.
        let _ = self.journal(directory).release(through);
    }

    /// The segment thread is asked once, and delivers in a second step.
    pub(crate) fn segment(&mut self, directory: DirectoryNo, at_least: u64) {
        let (segments, io) = (Party::Segments(directory), Party::Io(directory));
        if let Some(request) = self.process.preparing.remove(&directory) {
            let disk = self.directory.disks.of(directory);
            let outcome = request.prepare(disk).map(Spare2);
            self.send(segments, io, Message::AddSpare(outcome));
            return;
        }
        match self.journal(directory).spare_request(at_least) {
            Some(request) => {
                self.process.preparing.insert(directory, request);
                self.send(segments, segments, Message::Segment(at_least));
            }
            None => self.send(segments, io, Message::ReportSpare),
        }
    }
}

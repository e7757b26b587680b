//! The threads on which the journal's blocking calls run: one writes and forces, one prepares segments.

use crate::{
    mutation::Mutation,
    network::{Lane, Message, Party, Spare2},
    report::Seen,
    world::World,
};
use mailring_engine::{
    Error, Result,
    ids::Lsn,
    journal::{Group, Journal, JournalReader},
    sequencer::{GroupWrite, JournalMessage},
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
        let newest = groups.last().expect("there is a group");
        let force = newest.force && !self.mutated(Mutation::NoForce);
        let last = newest.last;
        let journal = self.journal();
        let mut result = groups.into_iter().try_for_each(|write| {
            journal.append(&Group {
                number: write.number,
                first_lsn: write.first,
                last_lsn: write.last,
                payload: write.payload,
            })
        });
        if force && result.is_ok() {
            result = journal.force();
        }
        match result {
            Ok(()) => JournalMessage::Persisted {
                last,
                room: journal.room(),
                spare: journal.spare_room(),
            },
            Err(error) => {
                let is_full = matches!(error, Error::DiskFull { .. });
                assert!(!is_full, "a group was written that had no room");
                JournalMessage::Failed(error)
            }
        }
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
        let journal = self.journal();
        let spare = journal
            .add_spare(outcome.map(|Spare2(spare)| spare))
            .map(|()| journal.spare_room().expect("it was added"));
        self.tell_from_io(JournalMessage::Spare(spare));
    }

    pub(crate) fn report_spare(&mut self) {
        let room = self.journal().spare_room().unwrap_or(0);
        self.tell_from_io(JournalMessage::Spare(Ok(room)));
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

//! Where nodes live that join: noted right before their stores are made, in the manifest first, then with the journal, which has
//! it before the record that brings the node.
//!
//! A node that is not in a record yet can be placed anew, so what an addition has chosen that came to nothing concerns none
//! that comes later with the same number.

use super::panicked;
use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Job, Message, Party},
    report::Seen,
    world::World,
};
use mailring_engine::{
    Result,
    directories::Placement,
    ids::{DirectoryNo, NodeId},
    sequencer::JournalMessage,
};

impl World {
    /// What the mover needs noted before it makes the store of a node that joins: that it lives in `directory`, or in its turn.
    pub(super) fn wanted_place(
        &self,
        nodes: &[NodeId],
        directory: Option<DirectoryNo>,
    ) -> Option<Job> {
        let mut missing = nodes.iter().filter(|node| !self.process.is_open(**node));
        let node = *missing.next()?;
        assert_eq!(missing.next(), None, "one node joins at a time");
        let now = &self.process.placement;
        let directory = directory.filter(|_| !self.mutated(Mutation::PlaceInTurn));
        let directory = directory.unwrap_or_else(|| now.in_turn(node));
        (now.of(node) != directory).then_some(Job::Place { node, directory })
    }

    /// The thread that writes the manifest notes where a node will live.
    pub(super) fn place(&mut self, node: NodeId, directory: DirectoryNo) {
        let placed = self.save_place(node, directory);
        // A thread that panics behind it has noted it all the same.
        let placed = match self.strikes(Fault::WorkerPanics) {
            true => Err(panicked()),
            false => placed,
        };
        self.send(Party::Worker, Party::Mover, Message::Placed(placed));
    }

    fn save_place(&mut self, node: NodeId, directory: DirectoryNo) -> Result<()> {
        let now = &self.process.placement;
        let mut listed = now.list(usize::from(node.0));
        listed.truncate(usize::from(node.0));
        listed.push(directory);
        let next = Placement::new(now.directories(), listed);
        let mut manifest = self.process.manifest.clone();
        if let Some(directories) = &mut manifest.directories
            && !self.mutated(Mutation::ForgetPlacement)
        {
            directories.placement = next.list(0);
        }
        manifest.save(self.directory.disks.home())?;
        self.count(Seen::Placed, 1);
        self.process.manifest = manifest;
        self.process.placement = next.clone();
        // What the router asks of the journal for this node comes behind: a mailbox keeps causes before effects.
        let message = Message::Journal(JournalMessage::Place(next));
        self.send(Party::Router, Party::Journal, message);
        Ok(())
    }
}

//! Mutations of what several directories tell and keep.

use super::Mutation;
use crate::world::World;
use mailring_engine::{
    directories::Stamp,
    ids::{DirectoryNo, Lsn},
};

impl World {
    /// Up to where a directory's journal is released.
    pub(crate) fn spoil_release(&self, directory: DirectoryNo, through: Lsn) -> Lsn {
        if !self.mutated(Mutation::ReleaseByDirectory) {
            return through;
        }
        let live = self.process.sequencer.ring().live();
        let own = live.filter(|node| self.process.placement.of(*node) == directory);
        let complete = own.map(|node| self.written(node)).min();
        complete.unwrap_or(through).max(through)
    }

    /// What a manifest says of the journals.
    pub(crate) fn spoil_stamp(&self, stamp: &mut Stamp) {
        if self.mutated(Mutation::StampAhead) {
            for (directory, forced) in self.process.directories().zip(&mut stamp.forced) {
                *forced = (*forced).max(self.process.groups.newest(directory));
            }
        }
    }
}

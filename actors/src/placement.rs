//! In which directory each node lives: what everybody shares of it.
//!
//! A node that is to be added can be given a directory of its own choice, until somebody has opened its store. From then on it
//! stays, whatever becomes of its change. What was chosen is in the manifest before anybody acts on it, and with the journal
//! before the record that brings the node.

use arc_swap::ArcSwap;
use mailring_engine::{
    Error, Result,
    directories::Placement,
    ids::{DirectoryNo, NodeId},
};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) struct Placements {
    now: ArcSwap<Placement>,
    /// The nodes below this number stay where they are.
    settled: Mutex<u16>,
}

impl Placements {
    /// The nodes that there ever were are settled.
    pub(crate) fn new(placement: Placement, nodes: usize) -> Self {
        Self {
            now: ArcSwap::from_pointee(placement),
            settled: Mutex::new(u16::try_from(nodes).unwrap_or(u16::MAX)),
        }
    }

    pub(crate) fn now(&self) -> Arc<Placement> {
        self.now.load_full()
    }

    pub(crate) fn of(&self, node: NodeId) -> DirectoryNo {
        self.now.load().of(node)
    }

    /// Where a node lives whose store is about to be made.
    pub(crate) fn settle(&self, node: NodeId) -> DirectoryNo {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        *settled = (*settled).max(node.0.saturating_add(1));
        self.of(node)
    }

    /// Has a node that is to come live in a directory, once `save` has forced that and told the journal.
    pub(crate) fn place(
        &self,
        node: NodeId,
        directory: DirectoryNo,
        save: impl FnOnce(&Placement) -> Result<()>,
    ) -> Result<()> {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if self.of(node) == directory {
            return Ok(());
        }
        if node.0 < *settled {
            let reason = "the node that comes next is about to live elsewhere already";
            return Err(Error::RingChangeRefused { reason });
        }
        let now = self.now();
        let mut listed = now.list(usize::from(node.0));
        listed.truncate(usize::from(node.0));
        listed.push(directory);
        let next = Placement::new(now.directories(), listed);
        save(&next)?;
        self.now.store(Arc::new(next));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: DirectoryNo = DirectoryNo(1);

    fn placements() -> Placements {
        Placements::new(Placement::new(2, Vec::new()), 2)
    }

    fn saved(placements: &Placements, node: u16, directory: DirectoryNo) -> (Result<()>, bool) {
        let mut is_saved = false;
        let placed = placements.place(NodeId(node), directory, |next| {
            is_saved = true;
            assert_eq!(next.of(NodeId(node)), directory);
            Ok(())
        });
        (placed, is_saved)
    }

    #[test]
    fn a_node_can_be_placed_until_its_store_is_made() {
        let placements = placements();
        assert_eq!(saved(&placements, 2, SECOND), (Ok(()), true));
        assert_eq!(saved(&placements, 2, DirectoryNo::HOME), (Ok(()), true));
        assert_eq!(saved(&placements, 2, SECOND), (Ok(()), true));
        assert_eq!(placements.settle(NodeId(2)), SECOND);
        let reason = "the node that comes next is about to live elsewhere already";
        let refused = || Err(Error::RingChangeRefused { reason });
        assert_eq!(saved(&placements, 2, DirectoryNo::HOME), (refused(), false));
        assert_eq!(saved(&placements, 2, SECOND), (Ok(()), false), "it is so");
        assert_eq!(saved(&placements, 0, SECOND), (refused(), false));
        let others: Vec<_> = [0, 1, 3].map(|node| placements.of(NodeId(node)).0).into();
        assert_eq!(others, [0, 1, 1], "as their numbers say");
    }

    #[test]
    fn what_could_not_be_saved_is_not_so() {
        let placements = placements();
        let failed = placements.place(NodeId(2), SECOND, |_| Err(Error::Closed));
        assert_eq!(failed, Err(Error::Closed));
        assert_eq!(placements.of(NodeId(2)), DirectoryNo::HOME);
    }
}

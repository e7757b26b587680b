//! In which directory each node lives, and where the directories are: what everybody shares of it.
//!
//! A node that joins is placed right before its store is made, by the mover, who adds one node at a time: where whoever adds it
//! wants it, or in its turn. So what an addition has chosen that came to nothing concerns none that comes later, with the same
//! number. The choice is in the manifest before there is a store, and with the journal before the record that brings the node.

use arc_swap::ArcSwap;
use mailring_engine::{
    Result,
    directories::Placement,
    ids::{DirectoryNo, NodeId},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub(crate) struct Placements {
    now: ArcSwap<Placement>,
    /// The folders of the directories, by number. They stay where they are while they are open.
    folders: Vec<PathBuf>,
    /// Another placement was to be saved, and that failed: it may be on the disk all the same, and would count for the next
    /// opening.
    is_unsure: AtomicBool,
}

impl Placements {
    pub(crate) fn new(placement: Placement, folders: Vec<PathBuf>) -> Self {
        Self {
            now: ArcSwap::from_pointee(placement),
            folders,
            is_unsure: AtomicBool::new(false),
        }
    }

    /// The folders of the directories, by number; that of an engine in memory has no name.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(PathBuf::as_path)
    }

    pub(crate) fn now(&self) -> Arc<Placement> {
        self.now.load_full()
    }

    pub(crate) fn of(&self, node: NodeId) -> DirectoryNo {
        self.now.load().of(node)
    }

    /// Where a node that joins is not yet, or not for sure, but has to live: in `directory`, or in its turn.
    pub(crate) fn wanted(
        &self,
        node: NodeId,
        directory: Option<DirectoryNo>,
    ) -> Option<DirectoryNo> {
        let now = self.now.load();
        let wanted = directory.unwrap_or_else(|| now.in_turn(node));
        let is_so = now.of(node) == wanted && !self.is_unsure.load(Ordering::Acquire);
        (!is_so).then_some(wanted)
    }

    /// Has a node that joins live in a directory, once `save` has forced that and told the journal.
    pub(crate) fn place(
        &self,
        node: NodeId,
        directory: DirectoryNo,
        save: impl FnOnce(&Placement) -> Result<()>,
    ) -> Result<()> {
        let now = self.now();
        let mut listed = now.list(usize::from(node.0));
        listed.truncate(usize::from(node.0));
        listed.push(directory);
        let next = Placement::new(now.directories(), listed);
        self.is_unsure.store(true, Ordering::Release);
        save(&next)?;
        self.now.store(Arc::new(next));
        self.is_unsure.store(false, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailring_engine::Error;

    const HOME: DirectoryNo = DirectoryNo::HOME;
    const SECOND: DirectoryNo = DirectoryNo(1);
    const NODE: NodeId = NodeId(2);

    fn placements() -> Placements {
        Placements::new(Placement::new(2, Vec::new()), Vec::new())
    }

    #[test]
    fn a_node_can_be_placed_again_and_the_others_stay() {
        let placements = placements();
        for directory in [SECOND, HOME, SECOND] {
            assert_eq!(placements.wanted(NODE, Some(directory)), Some(directory));
            let placed = placements.place(NODE, directory, |next| {
                assert_eq!(next.of(NODE), directory);
                Ok(())
            });
            assert_eq!(placed, Ok(()));
            assert_eq!(placements.wanted(NODE, Some(directory)), None, "it is so");
        }
        assert_eq!(placements.wanted(NODE, None), Some(HOME), "its turn");
        let others: Vec<_> = [0, 1, 3].map(|node| placements.of(NodeId(node)).0).into();
        assert_eq!(others, [0, 1, 1], "as their numbers say");
    }

    #[test]
    fn what_could_not_be_saved_is_not_so() {
        let placements = placements();
        let failed = placements.place(NODE, SECOND, |_| Err(Error::Closed));
        assert_eq!(failed, Err(Error::Closed));
        assert_eq!(placements.of(NODE), HOME);
        // It may be on the disk: whoever wants the node at home has that saved again.
        assert_eq!(placements.wanted(NODE, None), Some(HOME));
        assert_eq!(placements.place(NODE, HOME, |_| Ok(())), Ok(()));
        assert_eq!(placements.wanted(NODE, None), None);
    }
}

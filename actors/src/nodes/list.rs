//! The nodes as they are now, and the directories in which they live.

use super::Nodes;
use crate::{member::Member, stats::NodeState};
use mailring_engine::ids::{DirectoryNo, NodeId};
use std::{path::PathBuf, sync::Arc};

/// A node of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its number.
    pub node: NodeId,
    /// Its weight.
    pub weight: u32,
    /// The arcs that it owns. None while it joins or leaves.
    pub arcs: usize,
    /// Keys in its tree, roughly: overwritten and removed ones may be counted until they are compacted.
    pub approximate_keys: u64,
    /// Bytes of its tree and of what is on the way there.
    pub bytes: u64,
    /// The directory in which it lives.
    pub directory: DirectoryNo,
    /// How it is.
    pub state: NodeState,
}

impl Nodes {
    /// The nodes, by number: those that own arcs, that are about to, and that are about to leave.
    #[must_use]
    pub fn list(&self) -> Vec<NodeInfo> {
        let routes = self.engine.switchboard.routes.load_full();
        let ring = routes.ring();
        let placements = &self.engine.switchboard.placements;
        let info = |(node, weight): &(NodeId, u32)| {
            let member: &Arc<Member> = routes.member(*node)?;
            let in_memory: usize = member.table.view().generations().map(|g| g.bytes()).sum();
            let tree = member.store.stats();
            Some(NodeInfo {
                node: *node,
                weight: *weight,
                arcs: ring.arcs_of_node(*node).count(),
                approximate_keys: tree.approximate_keys,
                bytes: tree.bytes + in_memory as u64,
                directory: placements.of(*node),
                state: member.state(),
            })
        };
        ring.nodes().iter().filter_map(info).collect()
    }

    /// Where the directories are ([`Builder::directory`](crate::Builder::directory)), by number: the first is number 0. None of
    /// an engine in memory.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let folders = self.engine.switchboard.placements.folders();
        let folders = folders.filter(|folder| !folder.as_os_str().is_empty());
        folders.map(ToOwned::to_owned).collect()
    }
}

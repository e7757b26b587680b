//! Routes: which node owns a key, as of an LSN, and how it is reached. Published by the router as a whole; handles and actors
//! read them without a message.
//!
//! The owner of a key is a function of the key and the LSN: an arc changes its owner at an LSN, its *cut*. Routes say from
//! which LSN on their ring holds, and keep those that held before it:
//!
//! ```text
//!        cut at 40            cut at 70        visible
//!  ────────┼────────────────────┼────────────────┼──▶ LSN
//!   older  │      previous      │    routes
//! ```
//!
//! A reader loads the visible LSN first and the routes then, and is routed by those that hold at its LSN. They are
//! published before the cut becomes visible, so a reader that may see the cut finds them. One so slow that two cuts have
//! passed starts again.
//!
//! # Mixed nodes
//!
//! While arcs move, a node's tree holds what it does not own: a target copies that may be incomplete, a source leftovers.
//! Such nodes are listed as mixed before the first such pair comes and until the last is gone; whoever scans one asks the
//! ring of his routes about each key.

use crate::member::Member;
use mailring_engine::{
    ids::{Epoch, Lsn, NodeId},
    ring::Ring,
};
use std::sync::Arc;

/// Where a node has no place.
const NOWHERE: u16 = u16::MAX;

#[derive(Debug)]
pub(crate) struct Routes {
    ring: Arc<Ring>,
    since: Lsn,
    previous: Option<Arc<Self>>,
    /// All that are open, by ascending number, owners of arcs or not.
    nodes: Vec<Arc<Member>>,
    /// The place in `nodes` by number.
    places: Vec<u16>,
    /// By place: whether it owns an arc.
    owns: Vec<bool>,
    /// By place: whether it may hold pairs of arcs that it does not own.
    mixed: Vec<bool>,
}

impl Routes {
    /// Routes by a ring that holds from `since` on.
    ///
    /// # Panics
    ///
    /// Panics if an owner of the ring is not among the nodes: its keys could not be reached.
    pub(crate) fn new(
        ring: Arc<Ring>,
        since: Lsn,
        previous: Option<Arc<Self>>,
        mut nodes: Vec<Arc<Member>>,
        is_mixed: impl Fn(NodeId) -> bool,
    ) -> Self {
        nodes.sort_unstable_by_key(|member| member.node());
        let numbers = nodes
            .last()
            .map_or(0, |last| usize::from(last.node().0) + 1);
        let mut places = vec![NOWHERE; numbers];
        for (place, member) in (0_u16..).zip(&nodes) {
            places[usize::from(member.node().0)] = place;
        }
        let mut owns = vec![false; nodes.len()];
        for owner in ring.owners() {
            let place = places.get(usize::from(owner.0)).copied();
            let place = place.filter(|place| *place != NOWHERE);
            let place = place.expect("every owner of an arc is open");
            owns[usize::from(place)] = true;
        }
        let mixed = nodes.iter().map(|member| is_mixed(member.node())).collect();
        Self {
            ring,
            since,
            previous,
            nodes,
            places,
            owns,
            mixed,
        }
    }

    /// The routes of a reader at `at`; `None` if he must start again with a newer LSN.
    #[inline]
    pub(crate) fn at(self: &Arc<Self>, at: Lsn) -> Option<&Arc<Self>> {
        if at >= self.since {
            return Some(self);
        }
        self.previous.as_ref().filter(|routes| at >= routes.since)
    }

    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    #[inline]
    pub(crate) fn epoch(&self) -> Epoch {
        self.ring.epoch()
    }

    /// The place of a node in lists that are parallel to [`Routes::nodes`].
    #[inline]
    pub(crate) fn place(&self, node: NodeId) -> Option<usize> {
        let place = *self.places.get(usize::from(node.0))?;
        (place != NOWHERE).then_some(usize::from(place))
    }

    #[inline]
    pub(crate) fn member(&self, node: NodeId) -> Option<&Arc<Member>> {
        Some(&self.nodes[self.place(node)?])
    }

    /// A node that these routes have led to.
    ///
    /// # Panics
    ///
    /// Panics if they have not.
    pub(crate) fn known(&self, node: NodeId) -> Arc<Member> {
        let member = self.member(node).map(Arc::clone);
        member.expect("routes know whom they lead to")
    }

    /// The place of the node that owns a key (the caller's, without its keyspace).
    #[inline]
    pub(crate) fn place_of(&self, key: &[u8]) -> usize {
        usize::from(self.places[usize::from(self.ring.owner(key).0)])
    }

    /// The node that owns a key.
    #[inline]
    pub(crate) fn owner(&self, key: &[u8]) -> &Arc<Member> {
        &self.nodes[self.place_of(key)]
    }

    /// All nodes that are open, by number.
    pub(crate) fn nodes(&self) -> &[Arc<Member>] {
        &self.nodes
    }

    /// Whether the node at a place owns an arc.
    pub(crate) fn owns(&self, place: usize) -> bool {
        self.owns[place]
    }

    /// Whether the node at a place may hold pairs of arcs that it does not own.
    pub(crate) fn is_mixed(&self, place: usize) -> bool {
        self.mixed[place]
    }

    /// The nodes that own arcs.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Arc<Member>> {
        let nodes = self.nodes.iter().zip(&self.owns);
        nodes.filter_map(|(member, owns)| owns.then_some(member))
    }
}

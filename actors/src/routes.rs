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
    ring_state::RingState,
};
use std::{collections::BTreeSet, sync::Arc};

/// Where a node has no place.
const NOWHERE: u16 = u16::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Routes {
    ring: Arc<Ring>,
    /// The LSN from which on the ring says who owns an arc.
    since: Lsn,
    /// What the journal said when it came to this ring.
    state: Arc<RingState>,
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
    /// Routes by a ring, without any from before.
    ///
    /// # Panics
    ///
    /// Panics if an owner of the ring is not among the nodes: its keys could not be reached.
    pub(crate) fn new(state: Arc<RingState>, nodes: Vec<Arc<Member>>) -> Self {
        let mixed = mixed_by(&state);
        Self::with(state, None, nodes, &mixed)
    }

    fn with(
        state: Arc<RingState>,
        previous: Option<Arc<Self>>,
        mut nodes: Vec<Arc<Member>>,
        mixed: &BTreeSet<NodeId>,
    ) -> Self {
        let ring = Arc::clone(state.ring());
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
        let is_mixed = |member: &Arc<Member>| mixed.contains(&member.node());
        Self {
            since: state.since(),
            mixed: nodes.iter().map(is_mixed).collect(),
            ring,
            state,
            previous,
            nodes,
            places,
            owns,
        }
    }

    /// The same with other nodes: more are open.
    pub(crate) fn with_nodes(&self, nodes: Vec<Arc<Member>>) -> Self {
        Self::with(
            Arc::clone(&self.state),
            self.previous.clone(),
            nodes,
            &self.mixed_nodes(),
        )
    }

    /// The routes that follow when the journal has come to `state`.
    ///
    /// Those of before are kept only over a cut. Whatever else is published is visible already, and so was the last cut:
    /// who comes with an older LSN starts again.
    pub(crate) fn moved_on(&self, state: Arc<RingState>) -> Self {
        let mut mixed = mixed_by(&state);
        if !mixed.is_empty() {
            // One change may have taken another's place, and what that has left goes by and by.
            mixed.extend(self.mixed_nodes());
        }
        let previous = (state.since() > self.since).then(|| {
            Arc::new(Self {
                previous: None,
                ..self.clone()
            })
        });
        // A node that is open before its change begins is not known yet.
        let known = state.slots().len();
        let stays = |member: &&Arc<Member>| {
            usize::from(member.node().0) >= known || state.is_live(member.node())
        };
        let nodes = self.nodes.iter().filter(stays).cloned().collect();
        Self::with(state, previous, nodes, &mixed)
    }

    fn mixed_nodes(&self) -> BTreeSet<NodeId> {
        let nodes = self.nodes.iter().zip(&self.mixed);
        let mixed = nodes.filter(|(_, is_mixed)| **is_mixed);
        mixed.map(|(member, _)| member.node()).collect()
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

    /// What the journal knows of the ring and its nodes.
    pub(crate) fn state(&self) -> &RingState {
        &self.state
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

/// The nodes that give or take arcs in the change that is under way.
fn mixed_by(state: &RingState) -> BTreeSet<NodeId> {
    let running = state.running().into_iter();
    let moves = running.flat_map(|running| &running.change.moves);
    moves.flat_map(|one| [one.from, one.to]).collect()
}

//! Routes: which node owns a key, as of an LSN, and how it is reached. Published by the router as a whole; handles and actors
//! read them without a message. What stands for a node, and how it is reached, is the shell's ([`Routed`]).
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

use crate::{
    error::Result,
    ids::{Epoch, Lsn, NodeId},
    ring::Ring,
    ring_state::RingState,
    scan::{Source, Version},
    value::split_qualified,
};
use std::{collections::BTreeSet, sync::Arc};

/// Where a node has no place.
const NOWHERE: u16 = u16::MAX;

/// Stands for a node that is open.
pub trait Routed {
    /// Its number.
    fn node(&self) -> NodeId;
}

/// Who owns what, from an LSN on.
#[derive(Debug)]
pub struct Routes<M> {
    ring: Arc<Ring>,
    /// The LSN from which on the ring says who owns an arc.
    since: Lsn,
    /// What the journal said when it came to this ring.
    state: Arc<RingState>,
    previous: Option<Arc<Self>>,
    /// All that are open, by ascending number, owners of arcs or not.
    nodes: Vec<Arc<M>>,
    /// The place in `nodes` by number.
    places: Vec<u16>,
    /// By place: whether it owns an arc.
    owns: Vec<bool>,
    /// By place: whether it may hold pairs of arcs that it does not own.
    mixed: Vec<bool>,
}

impl<M: Routed> Routes<M> {
    /// Routes by a ring, without any from before.
    ///
    /// # Panics
    ///
    /// Panics if an owner of the ring is not among the nodes: its keys could not be reached.
    #[must_use]
    pub fn new(state: Arc<RingState>, nodes: Vec<Arc<M>>) -> Self {
        let mixed = mixed_by(&state);
        Self::with(state, None, nodes, &mixed)
    }

    fn with(
        state: Arc<RingState>,
        previous: Option<Arc<Self>>,
        mut nodes: Vec<Arc<M>>,
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
        let is_mixed = |member: &Arc<M>| mixed.contains(&member.node());
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
    #[must_use]
    pub fn with_nodes(&self, nodes: Vec<Arc<M>>) -> Self {
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
    #[must_use]
    pub fn moved_on(&self, state: Arc<RingState>) -> Self {
        let mut mixed = mixed_by(&state);
        if !mixed.is_empty() {
            // One change may have taken another's place, and what that has left goes by and by.
            mixed.extend(self.mixed_nodes());
        }
        let previous = (state.since() > self.since).then(|| Arc::new(self.without_previous()));
        // A node that is open before its change begins is not known yet.
        let known = state.slots().len();
        let stays = |member: &&Arc<M>| {
            usize::from(member.node().0) >= known || state.is_live(member.node())
        };
        let nodes = self.nodes.iter().filter(stays).cloned().collect();
        Self::with(state, previous, nodes, &mixed)
    }

    fn without_previous(&self) -> Self {
        Self {
            ring: Arc::clone(&self.ring),
            since: self.since,
            state: Arc::clone(&self.state),
            previous: None,
            nodes: self.nodes.clone(),
            places: self.places.clone(),
            owns: self.owns.clone(),
            mixed: self.mixed.clone(),
        }
    }

    fn mixed_nodes(&self) -> BTreeSet<NodeId> {
        let nodes = self.nodes.iter().zip(&self.mixed);
        let mixed = nodes.filter(|(_, is_mixed)| **is_mixed);
        mixed.map(|(member, _)| member.node()).collect()
    }

    /// The routes of a reader at `at`; `None` if he must start again with a newer LSN.
    #[inline]
    #[must_use]
    pub fn at(self: &Arc<Self>, at: Lsn) -> Option<&Arc<Self>> {
        if at >= self.since {
            return Some(self);
        }
        self.previous.as_ref().filter(|routes| at >= routes.since)
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// What the journal knows of the ring and its nodes.
    #[must_use]
    pub fn state(&self) -> &RingState {
        &self.state
    }

    /// The ring's version.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.ring.epoch()
    }

    /// The place of a node in lists that are parallel to [`Routes::nodes`].
    #[inline]
    #[must_use]
    pub fn place(&self, node: NodeId) -> Option<usize> {
        let place = *self.places.get(usize::from(node.0))?;
        (place != NOWHERE).then_some(usize::from(place))
    }

    /// A node that is open.
    #[inline]
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Arc<M>> {
        Some(&self.nodes[self.place(node)?])
    }

    /// A node that these routes have led to.
    ///
    /// # Panics
    ///
    /// Panics if they have not.
    #[must_use]
    pub fn known(&self, node: NodeId) -> Arc<M> {
        let member = self.member(node).map(Arc::clone);
        member.expect("routes know whom they lead to")
    }

    /// The place of the node that owns a key (the caller's, without its keyspace).
    #[inline]
    #[must_use]
    pub fn place_of(&self, key: &[u8]) -> usize {
        usize::from(self.places[usize::from(self.ring.owner(key).0)])
    }

    /// The node that owns a key.
    #[inline]
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> &Arc<M> {
        &self.nodes[self.place_of(key)]
    }

    /// All nodes that are open, by number.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<M>] {
        &self.nodes
    }

    /// Whether the node at a place owns an arc.
    #[must_use]
    pub fn owns(&self, place: usize) -> bool {
        self.owns[place]
    }

    /// Whether the node at a place may hold pairs of arcs that it does not own.
    #[must_use]
    pub fn is_mixed(&self, place: usize) -> bool {
        self.mixed[place]
    }

    /// The nodes that own arcs.
    pub fn owners(&self) -> impl Iterator<Item = &Arc<M>> {
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

/// What a node owns of a source that may hold other pairs too: of a mixed node.
pub struct Owned {
    source: Box<dyn Source>,
    ring: Arc<Ring>,
    node: NodeId,
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owned")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Owned {
    /// The pairs of `source`, which is of `node`, that this ring gives to it.
    #[must_use]
    pub fn new(source: Box<dyn Source>, ring: Arc<Ring>, node: NodeId) -> Self {
        Self { source, ring, node }
    }
}

impl Source for Owned {
    fn next(&mut self) -> Result<Option<Version>> {
        while let Some(version) = self.source.next()? {
            let (_, key) = split_qualified(&version.0);
            if self.ring.owner(key) == self.node {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }
}

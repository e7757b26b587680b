//! What a change will move, before anything moves: pure arithmetic over the ring.

use crate::{
    error::{Error, Result},
    ids::NodeId,
    ring::{ArcMove, ArcSet, Ring, arc_at, position},
    ring_state::{Change, RingState},
    value::KEYSPACE_PREFIX_BYTES,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// What somebody wants of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// One more node; it gets the next number.
    Add {
        /// Its weight.
        weight: u32,
    },
    /// One node less.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Another share for a node.
    SetWeight {
        /// The node.
        node: NodeId,
        /// Its new weight.
        weight: u32,
    },
}

/// What goes from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The node that gives.
    pub from: NodeId,
    /// The node that takes.
    pub to: NodeId,
    /// How many arcs.
    pub arcs: usize,
    /// About how many bytes, if keys are spread evenly over the arcs of the node that gives.
    pub bytes: u64,
}

/// A change as it would be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Members, weights and the arcs that move, under the number that the change will have.
    pub change: Change,
    /// The nodes that join.
    pub joining: Vec<NodeId>,
    /// The nodes that leave.
    pub leaving: Vec<NodeId>,
    /// What goes where, by giver and taker.
    pub flows: Vec<Flow>,
    /// No sharing-out by these weights, each share rounded up or down, moves fewer arcs than this.
    pub fewest: usize,
}

impl Plan {
    /// What `intent` would move. `held` says how many bytes a node holds.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidOption`] for what the ring refuses: a node that is no member, a weight of 0, too few arcs.
    pub fn new(state: &RingState, intent: Intent, held: &dyn Fn(NodeId) -> u64) -> Result<Self> {
        let ring = state.ring();
        let (next, moves) = match intent {
            Intent::Add { weight } => ring.with_node_added(next_node(state)?, weight)?,
            Intent::Remove { node } => ring.with_node_removed(node)?,
            Intent::SetWeight { node, weight } => ring.with_node_reweighted(node, weight)?,
        };
        let change = Change {
            number: state.next_change(),
            members: next.nodes().to_vec(),
            moves,
        };
        Ok(Self::of(ring, change, held))
    }

    /// What moves when the others take over from these members. Who is `barred` keeps what he has and takes nothing.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`], and if nobody is left to take anything.
    pub fn without(
        state: &RingState,
        lost: &BTreeSet<NodeId>,
        barred: &BTreeSet<NodeId>,
    ) -> Result<Self> {
        let ring = state.ring();
        let mut next = Ring::clone(ring);
        for node in lost {
            next = next.with_node_removed(*node)?.0;
        }
        let owners = (0..).zip(ring.owners().iter().zip(next.owners()));
        let moves = owners.filter(|(_, (from, to))| from != to);
        let mut moves: Vec<_> = moves
            .map(|(arc, (from, to))| ArcMove {
                arc,
                from: *from,
                to: *to,
            })
            .collect();
        turn_aside(&mut moves, &next, barred)?;
        let change = Change {
            number: state.next_change(),
            members: next.nodes().to_vec(),
            moves,
        };
        Ok(Self::of(ring, change, &|_| 0))
    }

    fn of(ring: &Ring, change: Change, held: &dyn Fn(NodeId) -> u64) -> Self {
        let numbers = |nodes: &[(NodeId, u32)]| -> BTreeSet<NodeId> {
            nodes.iter().map(|(node, _)| *node).collect()
        };
        let (before, after) = (numbers(ring.nodes()), numbers(&change.members));
        let owned = arcs_by_owner(ring);
        let mut counts: BTreeMap<(NodeId, NodeId), usize> = BTreeMap::new();
        for one in &change.moves {
            *counts.entry((one.from, one.to)).or_default() += 1;
        }
        let flow = |((from, to), arcs): ((NodeId, NodeId), usize)| {
            let share = u128::from(held(from)) * arcs as u128 / owned[&from].max(1) as u128;
            Flow {
                from,
                to,
                arcs,
                bytes: u64::try_from(share).unwrap_or(u64::MAX),
            }
        };
        Self {
            joining: (&after - &before).into_iter().collect(),
            leaving: (&before - &after).into_iter().collect(),
            flows: counts.into_iter().map(flow).collect(),
            fewest: fewest_moves(ring, &change.members),
            change,
        }
    }

    /// About how many bytes will move.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = self.flows.iter().map(|flow| flow.bytes);
        bytes.fold(0, u64::saturating_add)
    }
}

/// Has other nodes take what would go to who is barred: each time the one that has the least for its weight.
fn turn_aside(moves: &mut [ArcMove], ring: &Ring, barred: &BTreeSet<NodeId>) -> Result<()> {
    let mut owned = arcs_by_owner(ring);
    for one in moves.iter_mut().filter(|one| barred.contains(&one.to)) {
        let share = |(node, weight): &&(NodeId, u32)| {
            let arcs = owned.get(node).copied().unwrap_or(0) as u64;
            // In parts of 2^32: no two weights are nearer to each other.
            (arcs << 32) / u64::from(*weight)
        };
        let takers = ring.nodes().iter();
        let takers = takers.filter(|(node, _)| !barred.contains(node));
        let Some((taker, _)) = takers.min_by_key(share) else {
            let reason = "no node is left that could take anything";
            return Err(Error::RingChangeRefused { reason });
        };
        one.to = *taker;
        *owned.entry(*taker).or_default() += 1;
    }
    Ok(())
}

/// The number of the next node that is added.
fn next_node(state: &RingState) -> Result<NodeId> {
    let slots = state.slots().len();
    u16::try_from(slots)
        .map(NodeId)
        .map_err(|_| Error::InvalidOption {
            option: "nodes",
            value: slots.to_string(),
            reason: "no more than 65,536 nodes can ever be added to a directory; make a new one from a backup",
        })
}

fn arcs_by_owner(ring: &Ring) -> BTreeMap<NodeId, usize> {
    let mut owned = BTreeMap::new();
    for owner in ring.owners() {
        *owned.entry(*owner).or_default() += 1;
    }
    owned
}

/// Every node that holds less than its share rounded down must gain the difference, every one that holds more than its
/// share rounded up must lose it; the larger of the two sums is a bound from below.
fn fewest_moves(ring: &Ring, members: &[(NodeId, u32)]) -> usize {
    let owned = arcs_by_owner(ring);
    let arcs = ring.owners().len() as u64;
    let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let weights: BTreeMap<NodeId, u32> = members.iter().copied().collect();
    let (mut gained, mut lost) = (0, 0);
    let nodes: BTreeSet<NodeId> = owned.keys().chain(weights.keys()).copied().collect();
    for node in nodes {
        let held = owned.get(&node).copied().unwrap_or(0) as u64;
        // At most 2^20 times 2^32: no overflow.
        let share = arcs * u64::from(weights.get(&node).copied().unwrap_or(0));
        gained += (share / total).saturating_sub(held);
        lost += held.saturating_sub(share.div_ceil(total));
    }
    usize::try_from(gained.max(lost)).expect("no more than all arcs")
}

/// Which arcs of one source go to which node.
#[derive(Clone, PartialEq, Eq)]
pub struct Targets {
    /// All arcs that leave the source.
    arcs: Arc<ArcSet>,
    /// The target by arc; only those of `arcs` mean something.
    by_arc: Box<[NodeId]>,
    nodes: Vec<NodeId>,
}

impl Targets {
    /// The targets of these moves, which are of one source, over a ring with 2^`arc_bits` arcs.
    ///
    /// # Panics
    ///
    /// Panics if the ring has no such arc.
    #[must_use]
    pub fn new<'a>(arc_bits: u32, moves: impl IntoIterator<Item = &'a ArcMove>) -> Self {
        let mut arcs = ArcSet::new(arc_bits);
        let mut by_arc = vec![NodeId(0); 1 << arc_bits];
        let mut nodes = BTreeSet::new();
        for one in moves {
            arcs.insert(one.arc);
            by_arc[one.arc as usize] = one.to;
            nodes.insert(one.to);
        }
        Self {
            arcs: Arc::new(arcs),
            by_arc: by_arc.into(),
            nodes: nodes.into_iter().collect(),
        }
    }

    /// All arcs that leave.
    #[must_use]
    pub fn arcs(&self) -> &Arc<ArcSet> {
        &self.arcs
    }

    /// The nodes that take some, ascending.
    #[must_use]
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The arcs that go to one node.
    #[must_use]
    pub fn arcs_to(&self, node: NodeId) -> ArcSet {
        let to_node = |arc: &u32| self.by_arc[*arc as usize] == node;
        ArcSet::of(self.arcs.arc_bits(), self.arcs.iter().filter(to_node))
    }

    /// Where a stored key goes: its target's place in [`Targets::nodes`], or `None` if it stays. So does a key that is too
    /// short to be anybody's.
    #[must_use]
    #[inline]
    pub fn place_of(&self, qualified: &[u8]) -> Option<usize> {
        let key = qualified.get(KEYSPACE_PREFIX_BYTES..)?;
        let arc = arc_at(position(key), self.arcs.arc_bits());
        if !self.arcs.contains(arc) {
            return None;
        }
        let target = self.by_arc[arc as usize];
        self.nodes.binary_search(&target).ok()
    }
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets")
            .field("arcs", &self.arcs.len())
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

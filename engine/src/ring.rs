//! The ring: which node owns a key.
//!
//! The hash of a key (murmur3 x64-128, its first 64 bits) is its position on a ring of 2^64 points. The ring is cut into
//! 2^k equal arcs, and a table says which node owns which arc; the k highest bits of the position are the arc. The arcs
//! are the virtual nodes of Dynamo, with the tokens evenly spread rather than random: each node owns as many arcs as its
//! weight asks for (rounded down or up), so that the load is even without luck. A ring of random tokens is measurably
//! worse; it stays in the tests as the baseline.
//!
//! ```text
//! key "user{42}:name" ── the tag "42" ── murmur3 ── position ── position >> (64 - k) = arc ── owners[arc] = node
//! ```
//!
//! Related keys can be kept on one node: if a key has a non-empty `{tag}`, the bytes between its first `{` and the
//! next `}`, only the tag is hashed, as in Redis Cluster. It is always the caller's key that is hashed, without its
//! keyspace, so that a tag holds keys of several keyspaces together.
//!
//! # Invariants
//!
//! - A ring is immutable; a change of members makes the ring of the next epoch and the list of arcs that move.
//! - The number of arcs is set when a directory is created and never changes: an arc is the unit of ownership for ever.
//! - A node's share is within 1 % of what its weight asks for. Settings that can't give this are refused.
//! - A change moves the fewest arcs that the new shares allow.
//!
//! # Left out
//!
//! Replicas, and moving the data: the ring says what moves, the hand-over is another machine's work.

pub use crate::arc_set::ArcSet;

use crate::{
    error::{Error, Result},
    ids::{Epoch, NodeId},
    value::KEYSPACE_PREFIX_BYTES,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// The largest k: 2^20 arcs, a table of 2 MiB.
pub const MAX_ARC_BITS: u32 = 20;

/// With this many arcs a node's share is within 1 %, because rounding costs less than one arc.
const ARCS_FOR_ONE_PERCENT: u64 = 100;

/// The most nodes of equal weight that the largest ring shares out within 1 %, whatever their number.
pub const MAX_NODES: usize = (1 << MAX_ARC_BITS) / ARCS_FOR_ONE_PERCENT as usize;

/// How many times the nodes may become more before the recommended number of arcs is too small.
const ROOM_TO_GROW: u64 = 8;

/// An arc that changes its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArcMove {
    /// The arc.
    pub arc: u32,
    /// Who owns it up to now.
    pub from: NodeId,
    /// Who owns it from now on.
    pub to: NodeId,
}

/// Which node owns which arc, at one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    owners: Box<[NodeId]>,
    arc_bits: u32,
    /// The members and their weights by ascending number.
    nodes: Vec<(NodeId, u32)>,
    epoch: Epoch,
}

impl Ring {
    /// A ring of 2^`arc_bits` arcs, shared out among `nodes` by weight, at epoch 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] without nodes, with a node named twice, a weight of 0, or too few arcs (the error says
    /// how many it takes) or more than 2^20.
    pub fn new(arc_bits: u32, nodes: &[(NodeId, u32)]) -> Result<Self> {
        check_arc_bits(arc_bits)?;
        let nodes = members(nodes)?;
        let arcs = 1_usize << arc_bits;
        let quotas = quotas(arcs, &nodes, &BTreeMap::new());
        check_shares(arc_bits, &nodes, &quotas)?;
        let mut claims = Claims::new(quotas.into_iter());
        let owners = (0..arcs).map(|_| claims.take()).collect();
        Ok(Self {
            owners,
            arc_bits,
            nodes,
            epoch: Epoch(1),
        })
    }

    /// The ring that was written down as a table: `owners` by arc, the members with their weights, and the epoch.
    /// Shares are not checked, since a ring can be written down in the middle of a change.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the table's length is not a power of two up to 2^20, if it names a node that is no
    /// member, or for members that [`Ring::new`] refuses.
    pub fn from_table(owners: Vec<NodeId>, nodes: &[(NodeId, u32)], epoch: Epoch) -> Result<Self> {
        if !owners.len().is_power_of_two() {
            let reason = "the number of arcs is a power of two";
            return Err(invalid("arcs", owners.len().to_string(), reason));
        }
        let arc_bits = owners.len().ilog2();
        check_arc_bits(arc_bits)?;
        let nodes = members(nodes)?;
        for owner in &owners {
            if nodes
                .binary_search_by_key(owner, |member| member.0)
                .is_err()
            {
                let reason = "an arc is owned by a node that is not a member";
                return Err(invalid("ring table", format!("node {owner}"), reason));
            }
        }
        Ok(Self {
            owners: owners.into_boxed_slice(),
            arc_bits,
            nodes,
            epoch,
        })
    }

    /// The node that owns `key` (the caller's key, without its keyspace).
    #[must_use]
    #[inline]
    pub fn owner(&self, key: &[u8]) -> NodeId {
        self.owner_of_arc(self.arc_of(key))
    }

    /// Whether the node owns a stored key, which begins with the number of its keyspace; what is shorter than that number is
    /// nobody's.
    #[must_use]
    pub fn owns_qualified(&self, node: NodeId, key: &[u8]) -> bool {
        let key = key.get(KEYSPACE_PREFIX_BYTES..);
        key.is_some_and(|key| self.owner(key) == node)
    }

    /// The arc on which `key` lies.
    #[must_use]
    #[inline]
    pub fn arc_of(&self, key: &[u8]) -> u32 {
        arc_at(position(key), self.arc_bits)
    }

    /// The node that owns an arc.
    ///
    /// # Panics
    ///
    /// Panics if the ring has no such arc.
    #[must_use]
    #[inline]
    pub fn owner_of_arc(&self, arc: u32) -> NodeId {
        self.owners[arc as usize]
    }

    /// The owners of all arcs, in the order of the arcs.
    #[must_use]
    pub fn owners(&self) -> &[NodeId] {
        &self.owners
    }

    /// The members with their weights, by ascending number.
    #[must_use]
    pub fn nodes(&self) -> &[(NodeId, u32)] {
        &self.nodes
    }

    /// The arcs that a node owns, ascending.
    pub fn arcs_of_node(&self, node: NodeId) -> impl Iterator<Item = u32> + '_ {
        let arcs = (0_u32..).zip(&self.owners);
        arcs.filter_map(move |(arc, owner)| (*owner == node).then_some(arc))
    }

    /// The version of this ring.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// k: the ring has 2^k arcs.
    #[must_use]
    pub fn arc_bits(&self) -> u32 {
        self.arc_bits
    }

    /// The ring of the next epoch with one more node, and the arcs that move.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the node is a member already, and as [`Ring::new`].
    pub fn with_node_added(&self, node: NodeId, weight: u32) -> Result<(Self, Vec<ArcMove>)> {
        let mut nodes = self.nodes.clone();
        nodes.push((node, weight));
        self.rebalanced(&nodes)
    }

    /// The ring of the next epoch without a node, and the arcs that move.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the node is no member or the last one, and as [`Ring::new`].
    pub fn with_node_removed(&self, node: NodeId) -> Result<(Self, Vec<ArcMove>)> {
        let mut nodes = self.nodes.clone();
        nodes.remove(self.index_of(node)?);
        self.rebalanced(&nodes)
    }

    /// The ring of the next epoch with another weight for a node, and the arcs that move.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the node is no member, and as [`Ring::new`].
    pub fn with_node_reweighted(&self, node: NodeId, weight: u32) -> Result<(Self, Vec<ArcMove>)> {
        let mut nodes = self.nodes.clone();
        nodes[self.index_of(node)?].1 = weight;
        self.rebalanced(&nodes)
    }

    fn index_of(&self, node: NodeId) -> Result<usize> {
        self.nodes
            .binary_search_by_key(&node, |member| member.0)
            .map_err(|_| invalid("node", node.to_string(), "it is not a member of the ring"))
    }

    /// Shares the arcs out anew: a node above its quota gives arcs up, one below takes them, nothing else moves.
    fn rebalanced(&self, nodes: &[(NodeId, u32)]) -> Result<(Self, Vec<ArcMove>)> {
        let nodes = members(nodes)?;
        let mut held: BTreeMap<NodeId, u64> = BTreeMap::new();
        for owner in &self.owners {
            *held.entry(*owner).or_default() += 1;
        }
        let quotas = quotas(self.owners.len(), &nodes, &held);
        check_shares(self.arc_bits, &nodes, &quotas)?;

        let mut wanted = held.clone();
        wanted.values_mut().for_each(|quota| *quota = 0);
        wanted.extend(quotas);
        let count = |node: NodeId| held.get(&node).copied().unwrap_or(0);
        let missing = |(node, quota): (&NodeId, &u64)| (*node, quota.saturating_sub(count(*node)));
        let mut claims = Claims::new(wanted.iter().map(missing));
        let mut surplus: BTreeMap<NodeId, u64> = held
            .iter()
            .map(|(node, held)| (*node, held.saturating_sub(wanted[node])))
            .collect();

        let mut owners = self.owners.clone();
        let mut moves = Vec::new();
        for (arc, owner) in (0_u32..).zip(&mut owners) {
            let surplus = surplus.get_mut(owner).expect("every owner is counted");
            if *surplus > 0 {
                *surplus -= 1;
                let (from, to) = (*owner, claims.take());
                *owner = to;
                moves.push(ArcMove { arc, from, to });
            }
        }
        let ring = Self {
            owners,
            arc_bits: self.arc_bits,
            nodes,
            epoch: self.epoch.next(),
        };
        Ok((ring, moves))
    }
}

/// The place of a key on the ring: the hash of its tag, or of the whole key if it has none.
#[must_use]
#[inline]
pub fn position(key: &[u8]) -> u64 {
    let mut hashed = tag(key).unwrap_or(key);
    let hash = murmur3::murmur3_x64_128(&mut hashed, 0).expect("a slice can always be read");
    // The crate puts the first of the two 64-bit words of the hash into the low half.
    hash as u64
}

/// The arc at a position of a ring of 2^`arc_bits` arcs.
#[inline]
pub(crate) fn arc_at(position: u64, arc_bits: u32) -> u32 {
    // A shift by 64 is not defined, and a ring of one arc asks for it: so shift twice.
    (position >> 1 >> (63 - arc_bits)) as u32
}

/// The k that suits nodes of these weights and leaves room for eight times as many.
#[must_use]
pub fn recommended_arc_bits(weights: &[u32]) -> u32 {
    let total = weights.iter().map(|weight| u64::from(*weight)).sum();
    let lightest = weights.iter().min().map_or(1, |weight| u64::from(*weight));
    let parts = parts(total, lightest.max(1));
    bits_for(parts.saturating_mul(ROOM_TO_GROW)).min(MAX_ARC_BITS)
}

/// How many parts the ring has if the lightest node's share is one.
fn parts(total: u64, lightest: u64) -> u64 {
    total.div_ceil(lightest).max(1)
}

/// The bytes between the first `{` and the next `}`, if there are any.
fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// The k with which one of `parts` equal parts has enough arcs.
fn bits_for(parts: u64) -> u32 {
    let arcs = parts.saturating_mul(ARCS_FOR_ONE_PERCENT);
    // The logarithm, rounded up; `next_power_of_two` would overflow at the end.
    (arcs - 1).ilog2() + 1
}

fn invalid(option: &'static str, value: String, reason: &'static str) -> Error {
    Error::InvalidOption {
        option,
        value,
        reason,
    }
}

fn check_arc_bits(arc_bits: u32) -> Result<()> {
    if arc_bits > MAX_ARC_BITS {
        let reason = "at most 2^20 arcs are supported";
        return Err(invalid("arcs", format!("2^{arc_bits}"), reason));
    }
    Ok(())
}

/// The members in the order of their numbers, checked.
fn members(nodes: &[(NodeId, u32)]) -> Result<Vec<(NodeId, u32)>> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    if nodes.is_empty() {
        return Err(invalid("nodes", "none".into(), "a ring needs a node"));
    }
    if let Some(twice) = nodes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let reason = "a node is a member once";
        return Err(invalid("node", twice[0].0.to_string(), reason));
    }
    if let Some((node, _)) = nodes.iter().find(|(_, weight)| *weight == 0) {
        let reason = "a weight is at least 1; remove a node that shall own nothing";
        return Err(invalid("weight", format!("0 (of node {node})"), reason));
    }
    Ok(nodes)
}

fn total_weight(nodes: &[(NodeId, u32)]) -> u64 {
    nodes.iter().map(|(_, weight)| u64::from(*weight)).sum()
}

/// How many arcs each node shall own: its exact share, rounded down or up. Rounding up goes first to those that hold
/// more than the rounded-down share already: each of them saves one move, so no other rounding moves less. The rest
/// goes by the largest remainder.
fn quotas(
    arcs: usize,
    nodes: &[(NodeId, u32)],
    held: &BTreeMap<NodeId, u64>,
) -> BTreeMap<NodeId, u64> {
    let (arcs, total) = (arcs as u64, total_weight(nodes));
    let mut quotas = BTreeMap::new();
    let mut order = Vec::new();
    for (node, weight) in nodes {
        // At most 2^20 times 2^32: no overflow.
        let share = arcs * u64::from(*weight);
        let (floor, remainder) = (share / total, share % total);
        quotas.insert(*node, floor);
        let saves_a_move = held.get(node).is_some_and(|held| *held > floor);
        if remainder > 0 {
            order.push((Reverse(saves_a_move), Reverse(remainder), *node));
        }
    }
    order.sort_unstable();
    let unassigned = arcs - quotas.values().sum::<u64>();
    for (_, _, node) in order.iter().take(unassigned as usize) {
        *quotas.get_mut(node).expect("every node has a quota") += 1;
    }
    quotas
}

/// Refuses shares that are more than 1 % off what the weights ask for.
fn check_shares(
    arc_bits: u32,
    nodes: &[(NodeId, u32)],
    quotas: &BTreeMap<NodeId, u64>,
) -> Result<()> {
    let total = total_weight(nodes);
    let is_off = |(node, weight): &(NodeId, u32)| {
        let exact = u128::from(*weight) << arc_bits;
        let given = u128::from(quotas[node]) * u128::from(total);
        given.abs_diff(exact) * 100 > exact
    };
    if !nodes.iter().any(is_off) {
        return Ok(());
    }
    let lightest = nodes.iter().map(|(_, weight)| u64::from(*weight)).min();
    let needed = bits_for(parts(total, lightest.expect("a ring has a node")));
    if needed > MAX_ARC_BITS {
        let reason =
            "even 2^20 arcs can't keep these weights within 1 %; use fewer nodes or closer weights";
        return Err(invalid("arcs", format!("2^{arc_bits}"), reason));
    }
    Err(invalid(
        "arcs",
        format!("2^{arc_bits} (these nodes need 2^{needed})"),
        "a node's share must be within 1 % of its weight; use more arcs or fewer nodes",
    ))
}

/// Hands arcs out, each to the node that misses most: so the arcs of a node lie spread over the ring.
struct Claims {
    missing: BinaryHeap<(u64, Reverse<NodeId>)>,
}

impl Claims {
    fn new(missing: impl Iterator<Item = (NodeId, u64)>) -> Self {
        let missing = missing.filter(|(_, arcs)| *arcs > 0);
        Self {
            missing: missing.map(|(node, arcs)| (arcs, Reverse(node))).collect(),
        }
    }

    fn take(&mut self) -> NodeId {
        let mut most = self
            .missing
            .peek_mut()
            .expect("as many arcs are claimed as are given");
        let node = most.1.0;
        most.0 -= 1;
        if most.0 == 0 {
            std::collections::binary_heap::PeekMut::pop(most);
        }
        node
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;

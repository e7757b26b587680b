//! A plan as users see it.

use mailring_engine::{
    ids::NodeId,
    motion::{Flow, Plan as MotionPlan},
    ring::ArcMove,
};

/// What a change of the nodes would move.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The arcs that move, in the order of the arcs.
    pub moves: Vec<ArcMove>,
    /// The same by giver and taker, with the bytes that they are about.
    pub flows: Vec<Flow>,
    /// About how many bytes move: what is on disk and in memory of the nodes that give, spread evenly over their arcs.
    pub bytes: u64,
    /// No sharing-out by these weights moves fewer arcs than this.
    pub fewest: usize,
    /// The node that joins.
    pub joining: Option<NodeId>,
    /// The node that leaves.
    pub leaving: Option<NodeId>,
}

impl Plan {
    pub(super) fn of(plan: MotionPlan) -> Self {
        Self {
            bytes: plan.bytes(),
            moves: plan.change.moves,
            flows: plan.flows,
            fewest: plan.fewest,
            joining: plan.joining.first().copied(),
            leaving: plan.leaving.first().copied(),
        }
    }
}

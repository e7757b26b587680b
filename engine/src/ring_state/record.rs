//! What the journal says of the ring, and its bytes.
//!
//! After kind and LSN of the journal's record stands one byte and what it needs, as varints:
//!
//! | byte | record | then |
//! |---|---|---|
//! | 1 | began | change, members, moves |
//! | 2 | cut | change, from |
//! | 3 | cleaned | change, from |
//! | 4 | ended | change, members |
//!
//! Members are their count, then node and weight of each; moves their count, then of each the distance to the arc before
//! (to -1 for the first), from, to.

use crate::{
    ids::NodeId,
    ring::{ArcMove, ArcSet},
    wire::{Reader, put_varint},
};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// A change of the ring: who will be a member, and which arcs move.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// Its number; changes are numbered from 1 in the order of their records.
    pub number: u64,
    /// The members as they will be, with their weights, by ascending number.
    pub members: Vec<(NodeId, u32)>,
    /// What moves, by ascending arc.
    pub moves: Vec<ArcMove>,
}

impl Change {
    /// The nodes that lose arcs.
    #[must_use]
    pub fn sources(&self) -> BTreeSet<NodeId> {
        self.moves.iter().map(|one| one.from).collect()
    }

    /// The nodes that gain arcs from `from`.
    #[must_use]
    pub fn targets_of(&self, from: NodeId) -> BTreeSet<NodeId> {
        self.moves_from(from).map(|one| one.to).collect()
    }

    /// What leaves `from`.
    pub fn moves_from(&self, from: NodeId) -> impl Iterator<Item = &ArcMove> {
        self.moves.iter().filter(move |one| one.from == from)
    }

    /// The arcs that leave `from`, of a ring with 2^`arc_bits` arcs.
    ///
    /// # Panics
    ///
    /// Panics if the ring has not all of the arcs that move.
    #[must_use]
    pub fn arcs_from(&self, arc_bits: u32, from: NodeId) -> ArcSet {
        ArcSet::of(arc_bits, self.moves_from(from).map(|one| one.arc))
    }

    /// The arcs that go from one node to another.
    ///
    /// # Panics
    ///
    /// As [`Change::arcs_from`].
    #[must_use]
    pub fn arcs_between(&self, arc_bits: u32, from: NodeId, to: NodeId) -> ArcSet {
        let moves = self.moves_from(from).filter(|one| one.to == to);
        ArcSet::of(arc_bits, moves.map(|one| one.arc))
    }
}

/// Says how many arcs move, which may be a million.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("number", &self.number)
            .field("members", &self.members)
            .field("moves", &self.moves.len())
            .finish()
    }
}

/// A record of the journal about the ring. Each raises the ring's epoch by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingRecord {
    /// A change begins; nothing has moved yet. Nodes that are new in it get their slots now. It takes the place of a change
    /// that was under way: that is how one is turned round.
    Began(Arc<Change>),
    /// From this LSN on all arcs of the change that leave `from` belong to their targets.
    Cut {
        /// The change.
        change: u64,
        /// The node that loses its arcs.
        from: NodeId,
    },
    /// Nothing of these arcs is left at `from`.
    Cleaned {
        /// The change.
        change: u64,
        /// The node that has lost its arcs.
        from: NodeId,
    },
    /// The change is over. These are the members now; whoever is none any more is retired for ever.
    Ended {
        /// The change.
        change: u64,
        /// The members with their weights, by ascending number.
        members: Vec<(NodeId, u32)>,
    },
}

impl RingRecord {
    /// The change that it is about.
    #[must_use]
    pub fn change(&self) -> u64 {
        match self {
            Self::Began(change) => change.number,
            Self::Cut { change, .. }
            | Self::Cleaned { change, .. }
            | Self::Ended { change, .. } => *change,
        }
    }
}

const BEGAN: u8 = 1;
const CUT: u8 = 2;
const CLEANED: u8 = 3;
const ENDED: u8 = 4;

/// At least as many bytes as the whole record of the journal takes.
pub(crate) fn bytes_bound(record: &RingRecord) -> usize {
    /// Length, kind, LSN, tag, change and counts, each at its longest.
    const AROUND_BYTES: usize = 64;
    /// Node and weight.
    const MEMBER_BYTES: usize = 8;
    /// Distance, from and to.
    const MOVE_BYTES: usize = 11;
    let (members, moves) = match record {
        RingRecord::Began(change) => (change.members.len(), change.moves.len()),
        RingRecord::Ended { members, .. } => (members.len(), 0),
        RingRecord::Cut { .. } | RingRecord::Cleaned { .. } => (0, 0),
    };
    AROUND_BYTES + members * MEMBER_BYTES + moves * MOVE_BYTES
}

/// Appends the record's fields.
pub(crate) fn put_record(out: &mut Vec<u8>, record: &RingRecord) {
    let (tag, change) = match record {
        RingRecord::Began(change) => {
            out.push(BEGAN);
            return put_change(out, change);
        }
        RingRecord::Cut { change, .. } => (CUT, change),
        RingRecord::Cleaned { change, .. } => (CLEANED, change),
        RingRecord::Ended { change, .. } => (ENDED, change),
    };
    out.push(tag);
    put_varint(out, *change);
    match record {
        RingRecord::Cut { from, .. } | RingRecord::Cleaned { from, .. } => {
            put_varint(out, from.0.into());
        }
        RingRecord::Ended { members, .. } => put_members(out, members),
        RingRecord::Began(_) => unreachable!("it was written above"),
    }
}

/// Reads a record's fields; `None` if they are none.
pub(crate) fn take_record(reader: &mut Reader<'_>) -> Option<RingRecord> {
    let tag = reader.byte()?;
    if tag == BEGAN {
        return Some(RingRecord::Began(take_change(reader)?.into()));
    }
    let change = reader.varint()?;
    Some(match tag {
        CUT => RingRecord::Cut {
            change,
            from: NodeId(reader.small()?),
        },
        CLEANED => RingRecord::Cleaned {
            change,
            from: NodeId(reader.small()?),
        },
        ENDED => RingRecord::Ended {
            change,
            members: take_members(reader)?,
        },
        _ => return None,
    })
}

pub(super) fn put_change(out: &mut Vec<u8>, change: &Change) {
    put_varint(out, change.number);
    put_members(out, &change.members);
    put_varint(out, change.moves.len() as u64);
    let mut next = 0;
    for one in &change.moves {
        put_varint(out, u64::from(one.arc).wrapping_sub(next));
        put_varint(out, one.from.0.into());
        put_varint(out, one.to.0.into());
        next = u64::from(one.arc) + 1;
    }
}

pub(super) fn take_change(reader: &mut Reader<'_>) -> Option<Change> {
    let number = reader.varint()?;
    let members = take_members(reader)?;
    let count: usize = reader.small()?;
    // A move has three bytes at least: a count beyond that is refused before anything is reserved for it.
    if count > reader.remaining() / 3 {
        return None;
    }
    let mut moves = Vec::with_capacity(count);
    let mut next: u64 = 0;
    for _ in 0..count {
        let arc = next.checked_add(reader.varint()?)?;
        next = arc.checked_add(1)?;
        moves.push(ArcMove {
            arc: u32::try_from(arc).ok()?,
            from: NodeId(reader.small()?),
            to: NodeId(reader.small()?),
        });
    }
    Some(Change {
        number,
        members,
        moves,
    })
}

pub(super) fn put_members(out: &mut Vec<u8>, members: &[(NodeId, u32)]) {
    put_varint(out, members.len() as u64);
    for (node, weight) in members {
        put_varint(out, node.0.into());
        put_varint(out, (*weight).into());
    }
}

pub(super) fn take_members(reader: &mut Reader<'_>) -> Option<Vec<(NodeId, u32)>> {
    let count: usize = reader.small()?;
    if count > reader.remaining() / 2 {
        return None;
    }
    let member = |_| Some((NodeId(reader.small()?), reader.small()?));
    (0..count).map(member).collect()
}

/// Any record that could be written, whether or not it fits a ring.
#[cfg(test)]
pub(crate) fn any_record() -> impl proptest::strategy::Strategy<Value = RingRecord> {
    use proptest::prelude::*;
    let members = || {
        let member = any::<(u16, u32)>().prop_map(|(node, weight)| (NodeId(node), weight));
        prop::collection::vec(member, 0..4)
    };
    let moves = prop::collection::btree_map(any::<u32>(), any::<(u16, u16)>(), 0..6);
    let moves = moves.prop_map(|moves| {
        let moves = moves.into_iter();
        let moves = moves.map(|(arc, (from, to))| ArcMove {
            arc,
            from: NodeId(from),
            to: NodeId(to),
        });
        moves.collect()
    });
    let began = (any::<u64>(), members(), moves).prop_map(|(number, members, moves)| {
        RingRecord::Began(Arc::new(Change {
            number,
            members,
            moves,
        }))
    });
    let ended = (any::<u64>(), members())
        .prop_map(|(change, members)| RingRecord::Ended { change, members });
    let step = any::<(u64, u16, bool)>().prop_map(|(change, from, is_cut)| {
        let from = NodeId(from);
        match is_cut {
            true => RingRecord::Cut { change, from },
            false => RingRecord::Cleaned { change, from },
        }
    });
    prop_oneof![began, ended, step]
}

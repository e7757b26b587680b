//! Who owns an arc at an LSN, worked out from the records alone: every (arc, LSN) has exactly one owner.
//!
//! Written anew on purpose, and simpler than the machine that it judges: a table of owners for each Cut, and the moves of
//! the last change that began.

use crate::keys::arc_bits;
use mailring_engine::{
    ids::{Lsn, NodeId},
    ring::{ArcMove, Ring, position},
    ring_state::{Change, RingRecord},
    value::split_qualified,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The owners of all arcs from an LSN on.
type Owners = Arc<Vec<NodeId>>;

/// What the records about the ring add up to, at every LSN.
#[derive(Debug)]
pub(crate) struct Ownership {
    tables: BTreeMap<Lsn, Owners>,
    changes: BTreeMap<Lsn, Arc<Change>>,
    /// Sources that were cut, and not cleaned, in the last change; by the LSN of each record.
    unclean: BTreeMap<Lsn, BTreeSet<NodeId>>,
    /// Where each node that was not there from the beginning has joined.
    joined: BTreeMap<NodeId, Lsn>,
    first: u16,
}

impl Ownership {
    pub(super) fn new(ring: &Ring) -> Self {
        Self {
            tables: [(Lsn(0), Arc::new(ring.owners().to_vec()))].into(),
            changes: BTreeMap::new(),
            unclean: [(Lsn(0), BTreeSet::new())].into(),
            joined: BTreeMap::new(),
            first: ring.nodes().len() as u16,
        }
    }

    /// Who owns the arcs at an LSN.
    pub(crate) fn at(&self, at: Lsn) -> &Owners {
        let (_, owners) = self.tables.range(..=at).next_back().expect("from 0 on");
        owners
    }

    /// Who owns a key at an LSN.
    pub(crate) fn owner(&self, key: &[u8], at: Lsn) -> NodeId {
        let arc = position(split_qualified(key).1) >> (64 - arc_bits());
        self.at(at)[arc as usize]
    }

    /// Whether the node owns the key at every LSN from one to another.
    pub(crate) fn is_owned(&self, key: &[u8], node: NodeId, from: Lsn, through: Lsn) -> bool {
        let later = self.tables.range(from..).map(|(lsn, _)| *lsn);
        let later = later.take_while(|lsn| *lsn <= through);
        let mut lsns = later.chain([from]);
        lsns.all(|lsn| self.owner(key, lsn) == node)
    }

    /// Where a node has joined; 0 for those of the beginning.
    pub(crate) fn joined(&self, node: NodeId) -> Lsn {
        self.joined.get(&node).copied().unwrap_or_default()
    }

    /// Takes in a record.
    ///
    /// # Panics
    ///
    /// Panics if an arc would have two owners, or would come to a node where something of an earlier ownership may be left.
    pub(super) fn apply(&mut self, lsn: Lsn, record: &RingRecord) {
        let mut unclean = self
            .unclean
            .values()
            .next_back()
            .expect("from 0 on")
            .clone();
        match record {
            RingRecord::Began(change) => {
                assert!(
                    unclean.is_empty(),
                    "LSN {lsn}: {unclean:?} were not cleaned"
                );
                let mut owners = Vec::clone(self.at(lsn));
                for ArcMove { arc, from, to } in &change.moves {
                    let owner = &mut owners[*arc as usize];
                    assert_eq!(owner, from, "LSN {lsn}: arc {arc} would move twice");
                    *owner = *to;
                }
                for (node, _) in &change.members {
                    let is_new = node.0 >= self.first && !self.joined.contains_key(node);
                    if is_new {
                        self.joined.insert(*node, lsn);
                    }
                }
                self.changes.insert(lsn, Arc::clone(change));
            }
            RingRecord::Cut { change, from } => {
                let running = self.changes.values().next_back().expect("it has begun");
                assert_eq!(
                    running.number, *change,
                    "LSN {lsn}: a Cut of another change"
                );
                let mut owners = Vec::clone(self.at(lsn));
                for one in running.moves.iter().filter(|one| one.from == *from) {
                    let owner = &mut owners[one.arc as usize];
                    assert_eq!(*owner, *from, "LSN {lsn}: arc {} is cut twice", one.arc);
                    *owner = one.to;
                }
                unclean.insert(*from);
                self.tables.insert(lsn, Arc::new(owners));
            }
            RingRecord::Cleaned { from, .. } => {
                assert!(unclean.remove(from), "LSN {lsn}: {from} was cleaned before");
            }
            RingRecord::Ended { members, .. } => {
                assert!(
                    unclean.is_empty(),
                    "LSN {lsn}: {unclean:?} were not cleaned"
                );
                let is_member = |owner: &NodeId| members.iter().any(|(node, _)| node == owner);
                assert!(
                    self.at(lsn).iter().all(is_member),
                    "LSN {lsn}: an arc is owned by a node that has left"
                );
            }
        }
        self.unclean.insert(lsn, unclean);
    }

    /// The journal ends at `last` after a crash.
    pub(super) fn truncate(&mut self, last: Lsn) {
        self.tables.split_off(&last.next());
        self.changes.split_off(&last.next());
        self.unclean.split_off(&last.next());
        self.joined.retain(|_, lsn| *lsn <= last);
    }
}

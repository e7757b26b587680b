//! A set of arcs of one ring: what a change moves, what a node gains or loses.

use crate::{
    ring::{arc_at, position},
    value::KEYSPACE_PREFIX_BYTES,
};
use std::fmt;

/// A set of arcs of a ring with 2^k arcs, one bit each (128 KiB for the largest ring).
#[derive(Clone, PartialEq, Eq)]
pub struct ArcSet {
    arc_bits: u32,
    words: Box<[u64]>,
}

/// Says how many arcs there are, which may be a million.
impl fmt::Debug for ArcSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArcSet({} of 2^{})", self.len(), self.arc_bits)
    }
}

impl ArcSet {
    /// No arc of a ring with 2^`arc_bits` arcs.
    ///
    /// # Panics
    ///
    /// Panics if no ring has so many arcs ([`crate::ring::MAX_ARC_BITS`]).
    #[must_use]
    pub fn new(arc_bits: u32) -> Self {
        assert!(
            arc_bits <= crate::ring::MAX_ARC_BITS,
            "no ring has 2^{arc_bits} arcs"
        );
        let words = (1_usize << arc_bits).div_ceil(64);
        Self {
            arc_bits,
            words: vec![0; words].into(),
        }
    }

    /// These arcs.
    ///
    /// # Panics
    ///
    /// Panics if the ring has no such arc, and as [`ArcSet::new`].
    #[must_use]
    pub fn of(arc_bits: u32, arcs: impl IntoIterator<Item = u32>) -> Self {
        let mut set = Self::new(arc_bits);
        for arc in arcs {
            set.insert(arc);
        }
        set
    }

    /// k: the ring has 2^k arcs.
    #[must_use]
    pub fn arc_bits(&self) -> u32 {
        self.arc_bits
    }

    /// Adds an arc.
    ///
    /// # Panics
    ///
    /// Panics if the ring has no such arc.
    pub fn insert(&mut self, arc: u32) {
        assert!(
            u64::from(arc) < 1 << self.arc_bits,
            "arc {arc} is none of 2^{}",
            self.arc_bits
        );
        self.words[arc as usize / 64] |= 1 << (arc % 64);
    }

    /// Adds all arcs of another set.
    ///
    /// # Panics
    ///
    /// Panics if the other set is one of another number of arcs.
    pub fn insert_all(&mut self, other: &Self) {
        assert_eq!(self.arc_bits, other.arc_bits, "sets of one ring");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Takes all arcs of another set out.
    ///
    /// # Panics
    ///
    /// Panics if the other set is one of another number of arcs.
    pub fn remove_all(&mut self, other: &Self) {
        assert_eq!(self.arc_bits, other.arc_bits, "sets of one ring");
        for (word, less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    /// Whether the arc is in the set; one that the ring does not have is not.
    #[must_use]
    #[inline]
    pub fn contains(&self, arc: u32) -> bool {
        let word = self.words.get(arc as usize / 64);
        word.is_some_and(|word| word >> (arc % 64) & 1 == 1)
    }

    /// Whether `key` (the caller's key, without its keyspace) lies on an arc of the set.
    #[must_use]
    #[inline]
    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.contains(arc_at(position(key), self.arc_bits))
    }

    /// Whether a stored key, which begins with the number of its keyspace, lies on an arc of the set; what is shorter than
    /// that number does not.
    #[must_use]
    #[inline]
    pub fn contains_qualified(&self, key: &[u8]) -> bool {
        let key = key.get(KEYSPACE_PREFIX_BYTES..);
        key.is_some_and(|key| self.contains_key(key))
    }

    /// The arcs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..1_u32 << self.arc_bits).filter(|arc| self.contains(*arc))
    }

    /// How many arcs are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        let ones = self.words.iter().map(|word| word.count_ones() as usize);
        ones.sum()
    }

    /// Whether the set has no arc.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{KeyspaceId, NodeId},
        ring::Ring,
        value::qualify,
    };
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_arcs_is_a_set(
            one in prop::collection::btree_set(0_u32..1 << 9, 0..60),
            other in prop::collection::btree_set(0_u32..1 << 9, 0..60),
        ) {
            let set = |arcs: &BTreeSet<u32>| ArcSet::of(9, arcs.iter().copied());
            let (mut union, mut rest) = (set(&one), set(&one));
            prop_assert_eq!(union.iter().collect::<BTreeSet<_>>(), one.clone());
            prop_assert_eq!(union.len(), one.len());
            prop_assert_eq!(union.is_empty(), one.is_empty());
            union.insert_all(&set(&other));
            rest.remove_all(&set(&other));
            prop_assert_eq!(union, set(&(&one | &other)));
            prop_assert_eq!(rest, set(&(&one - &other)));
        }

        #[test]
        fn the_sets_of_the_owners_know_the_owner_of_every_key(
            arc_bits in 0_u32..8,
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 1..40),
        ) {
            let nodes = [(NodeId(0), 1), (NodeId(1), 1)];
            let arcs = 1 << arc_bits;
            let owners = (0..arcs).map(|arc| NodeId((arc % 3 % 2) as u16)).collect();
            let ring = Ring::from_table(owners, &nodes, crate::ids::Epoch(1)).unwrap();
            let sets = nodes.map(|(node, _)| ArcSet::of(arc_bits, ring.arcs_of_node(node)));
            for key in keys {
                let owner = usize::from(ring.owner(&key).0);
                let stored = qualify(KeyspaceId(7), &key);
                for (node, set) in sets.iter().enumerate() {
                    prop_assert_eq!(set.contains_key(&key), node == owner);
                    prop_assert_eq!(set.contains_qualified(&stored), node == owner);
                }
            }
        }
    }

    #[test]
    fn an_arc_beyond_the_ring_is_in_no_set() {
        let all = ArcSet::of(3, 0..8);
        assert_eq!(all.len(), 8);
        assert!(!all.contains(8) && !all.contains(u32::MAX));
        let one = ArcSet::of(0, [0]);
        assert!(one.contains_key(b"any") && one.len() == 1);
    }
}

//! The few keys that everybody fights for: kinds told by their first letter, spread over the arcs of a small ring.

use bytes::Bytes;
use mailring_engine::{
    error::Result,
    ids::{KeyspaceId, NodeId},
    ring::Ring,
    transaction::KeyRange,
    value::{KEYSPACE_PREFIX_BYTES, qualify, split_qualified},
};
use std::ops::Bound;

/// The keyspace of all keys of clients.
pub(crate) const MAIN: KeyspaceId = KeyspaceId(1);

const ARC_BITS: u32 = 9;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The balance of a bank's account; all of them add up to zero.
    Account,
    /// A counter that single operations raise.
    Counter,
    /// A list that only grows.
    List,
    /// A register that is overwritten, compared and removed.
    Register,
    /// A value that expires.
    Session,
    /// A counter that is changed only by who has locked it ahead.
    Turn,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Account,
        Self::Counter,
        Self::List,
        Self::Register,
        Self::Session,
        Self::Turn,
    ];

    fn letter(self) -> u8 {
        match self {
            Self::Account => b'a',
            Self::Counter => b'c',
            Self::List => b'l',
            Self::Register => b'r',
            Self::Session => b's',
            Self::Turn => b't',
        }
    }

    fn count(self) -> u8 {
        match self {
            Self::Account | Self::List => 6,
            Self::Counter | Self::Session | Self::Turn => 3,
            Self::Register => 7,
        }
    }
}

/// A key.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) bytes: Bytes,
}

/// All keys, in their order.
#[derive(Debug)]
pub(crate) struct Keys {
    all: Vec<Key>,
    kinds: [Vec<usize>; Kind::ALL.len()],
}

/// The ring of `nodes` equal nodes.
pub(crate) fn ring(nodes: u16) -> Result<Ring> {
    let members: Vec<_> = (0..nodes).map(|node| (NodeId(node), 1)).collect();
    Ring::new(ARC_BITS, &members)
}

/// The bits of the ring's arcs, as the manifest keeps them.
pub(crate) fn arc_bits() -> u8 {
    ARC_BITS as u8
}

impl Keys {
    pub(crate) fn new() -> Self {
        let mut all = Vec::new();
        let mut kinds: [Vec<usize>; Kind::ALL.len()] = Default::default();
        for kind in Kind::ALL {
            for number in 0..kind.count() {
                let name = [kind.letter(), b'0' + number];
                kinds[kind as usize].push(all.len());
                all.push(Key {
                    kind,
                    bytes: qualify(MAIN, &name),
                });
            }
        }
        Self { all, kinds }
    }

    pub(crate) fn all(&self) -> &[Key] {
        &self.all
    }

    pub(crate) fn of(&self, kind: Kind) -> impl ExactSizeIterator<Item = &Key> {
        self.kinds[kind as usize].iter().map(|at| &self.all[*at])
    }

    pub(crate) fn at(&self, kind: Kind, number: usize) -> &Key {
        &self.all[self.kinds[kind as usize][number]]
    }

    /// The keys that a keyspace beside the main one has.
    pub(crate) fn of_space(id: KeyspaceId) -> impl Iterator<Item = Bytes> {
        const NAMES: [&[u8]; 3] = [b"k0", b"k1", b"k2"];
        NAMES.into_iter().map(move |name| qualify(id, name))
    }

    /// All keys of a keyspace as a range.
    pub(crate) fn range_of_space(id: KeyspaceId) -> KeyRange {
        KeyRange {
            low: Bound::Included(qualify(id, &[])),
            high: Bound::Excluded(qualify(id.next(), &[])),
        }
    }

    /// All keys of a kind as a range.
    pub(crate) fn range_of(&self, kind: Kind) -> KeyRange {
        KeyRange {
            low: Bound::Included(qualify(MAIN, &[kind.letter()])),
            high: Bound::Excluded(qualify(MAIN, &[kind.letter() + 1])),
        }
    }
}

/// A key as people read it.
pub(crate) fn shown(key: &[u8]) -> String {
    match key.len() {
        0..=KEYSPACE_PREFIX_BYTES => format!("{key:02x?}"),
        _ => split_qualified(key).1.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_order_and_every_node_has_some() {
        for nodes in 2..=4 {
            let (keys, ring) = (Keys::new(), ring(nodes).unwrap());
            assert!(keys.all().is_sorted_by(|a, b| a.bytes < b.bytes));
            for node in 0..nodes {
                let owner = |key: &&Key| ring.owner(split_qualified(&key.bytes).1);
                let own = keys.all().iter().filter(|key| owner(key) == NodeId(node));
                assert!(own.count() > 2, "node {node} of {nodes}");
            }
            let lists = keys.range_of(Kind::List);
            let all = keys.all().iter();
            let within = all.filter(|key| lists.contains(&key.bytes));
            assert_eq!(within.count(), keys.of(Kind::List).len());
        }
    }
}

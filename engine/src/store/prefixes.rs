//! The prefixes that were dropped from a store.
//!
//! A dropped prefix hides its keys at once; compaction takes the bytes away when it comes by. Since the number of a
//! dropped keyspace is never given again, a prefix never leaves the set of an open store, and a late run that still
//! holds such keys can't bring them back.

use bytes::Bytes;
use std::{collections::BTreeSet, ops::Bound};

/// A set of prefixes, none of which begins with another.
#[derive(Debug, Clone, Default)]
pub(super) struct PrefixSet(BTreeSet<Bytes>);

impl PrefixSet {
    /// Adds a prefix; an empty one would be everything and is refused by assertion.
    pub(super) fn insert(&mut self, prefix: &[u8]) {
        assert!(
            !prefix.is_empty(),
            "dropping the empty prefix would drop the whole store"
        );
        if !self.covers(prefix) {
            self.0.retain(|longer| !longer.starts_with(prefix));
            self.0.insert(Bytes::copy_from_slice(prefix));
        }
    }

    /// Whether `key` begins with one of the prefixes.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        // Of prefixes that don't contain each other only the greatest one up to the key can begin it.
        !self.0.is_empty()
            && self
                .0
                .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
                .next_back()
                .is_some_and(|prefix| key.starts_with(prefix))
    }

    /// Whether nothing was dropped.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The keys that begin with `prefix` are those from it up to here.
pub(super) fn end_of_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Bound::Excluded(end);
        }
        end.pop();
    }
    Bound::Unbounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_covers_exactly_the_keys_that_begin_with_a_prefix() {
        let mut set = PrefixSet::default();
        assert!(!set.covers(b"a"));
        for prefix in [&b"ab"[..], b"abc", b"b", b"\xff", b"ba"] {
            set.insert(prefix);
        }
        for (key, covered) in [
            (&b"a"[..], false),
            (b"aa", false),
            (b"ab", true),
            (b"abb", true),
            (b"abcd", true),
            (b"ac", false),
            (b"b", true),
            (b"bzz", true),
            (b"c", false),
            (b"\xff\xff", true),
            (b"", false),
        ] {
            assert_eq!(set.covers(key), covered, "{key:?}");
        }
    }

    #[test]
    fn the_end_of_a_prefix_lies_right_behind_its_last_key() {
        assert_eq!(end_of_prefix(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(end_of_prefix(b"a\xff"), Bound::Excluded(b"b".to_vec()));
        assert_eq!(end_of_prefix(b"\xff\xff"), Bound::Unbounded);
    }
}

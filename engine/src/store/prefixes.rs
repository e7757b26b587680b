//! What was dropped from a store: prefixes, as the spans of keys that begin with them.
//!
//! A dropped span hides its keys at once; compaction takes the bytes away when it comes by. Since the number of a
//! dropped keyspace is never given again, a span never leaves the set of an open store, and a late run that still
//! holds such keys can't bring them back. Neighbours are one span: however many keyspaces were dropped, there are no more
//! spans than gaps between those that are left.

use bytes::Bytes;
use std::{collections::BTreeMap, ops::Bound};

/// Some keys: from one on up to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    low: Bytes,
    /// `None`: up to the last key.
    end: Option<Bytes>,
}

impl Span {
    /// From `low` on and before `end`, or up to the last key.
    ///
    /// # Panics
    ///
    /// Panics if `low` is empty, since that would be a whole store, or not before `end`.
    #[must_use]
    pub fn new(low: Bytes, end: Option<Bytes>) -> Self {
        assert!(
            !low.is_empty(),
            "dropping the empty prefix would drop the whole store"
        );
        assert!(end.as_ref().is_none_or(|end| low < *end), "a span has keys");
        Self { low, end }
    }

    /// The keys that begin with `prefix`.
    ///
    /// # Panics
    ///
    /// Panics if `prefix` is empty.
    #[must_use]
    pub fn of_prefix(prefix: &[u8]) -> Self {
        let end = match end_of_prefix(prefix) {
            Bound::Excluded(end) => Some(end.into()),
            _ => None,
        };
        Self::new(Bytes::copy_from_slice(prefix), end)
    }

    /// Whether `key` is one of them.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.low <= *key && self.end.as_ref().is_none_or(|end| *key < **end)
    }

    pub(super) fn bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let end = self.end.as_ref();
        (
            Bound::Included(self.low.to_vec()),
            end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.to_vec())),
        )
    }
}

/// Spans, no two of which touch: where each ends, by where it begins.
#[derive(Debug, Clone, Default)]
pub(super) struct SpanSet(BTreeMap<Bytes, Option<Bytes>>);

impl SpanSet {
    /// Adds a span, and merges it with what it touches.
    pub(super) fn insert(&mut self, span: &Span) {
        let Span { mut low, mut end } = span.clone();
        let before = self.0.range::<Bytes, _>(..=&low).next_back();
        if let Some((begin, reach)) = before
            && reach.as_ref().is_none_or(|reach| *reach >= low)
        {
            low = begin.clone();
        }
        while let Some((begin, reach)) = self.0.range::<Bytes, _>(&low..).next()
            && end.as_ref().is_none_or(|end| begin <= end)
        {
            end = match (end, reach) {
                (Some(end), Some(reach)) => Some(end.max(reach.clone())),
                _ => None,
            };
            let begin = begin.clone();
            self.0.remove(&begin);
        }
        self.0.insert(low, end);
    }

    /// Whether `key` is in one of the spans.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        !self.0.is_empty()
            && self
                .0
                .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
                .next_back()
                .is_some_and(|(_, end)| end.as_ref().is_none_or(|end| *key < **end))
    }

    /// Whether nothing was dropped.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The keys that begin with `prefix` are those from it up to here.
fn end_of_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
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
        let mut set = SpanSet::default();
        assert!(!set.covers(b"a"));
        for prefix in [&b"ab"[..], b"abc", b"b", b"\xff", b"ba"] {
            set.insert(&Span::of_prefix(prefix));
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

    #[test]
    fn neighbours_are_one_span() {
        let mut set = SpanSet::default();
        for id in (0..5_000_u32).step_by(2).chain((1..5_000).step_by(2)) {
            let [low, end] = [id, id + 1].map(|id| id.to_be_bytes().to_vec().into());
            set.insert(&Span::new(low, Some(end)));
        }
        assert_eq!(set.0.len(), 1);
        assert!(set.covers(&4_999_u32.to_be_bytes()) && !set.covers(&5_000_u32.to_be_bytes()));
        let rest = Span::new(7_000_u32.to_be_bytes().to_vec().into(), None);
        set.insert(&rest);
        assert_eq!(set.0.len(), 2);
        set.insert(&Span::of_prefix(&[0xff; 4]));
        assert_eq!(set.0.len(), 2);
        assert!(set.covers(&[0xff; 9]) && !set.covers(&6_999_u32.to_be_bytes()));
    }
}

//! Scans over all nodes in key order.

use crate::{KeyRange, Keyspace, clock::wall_clock_ms, member::Member, pin::Pinned};
use bytes::{Buf, Bytes};
use mailring_engine::{
    Result,
    ids::KeyspaceId,
    scan::Merge,
    store::runs::Direction,
    value::{KEYSPACE_PREFIX_BYTES, qualify},
    view::NodeView,
};
use std::{
    ops::Bound,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// A running scan. Read it with [`Scan::next`], as a `Stream`, or with [`Scan::iter`] on a plain thread.
///
/// The scan sees the state at one moment, that of its first item (or that of its snapshot), whatever is written
/// meanwhile. It holds that state in memory until it is dropped. Expired values are left out, as of its beginning.
#[must_use = "a scan reads nothing until it is polled"]
pub struct Scan {
    keyspace: Keyspace,
    low: Bound<Bytes>,
    high: Bound<Bytes>,
    direction: Direction,
    left: usize,
    pinned: Option<Arc<Pinned>>,
    merge: Option<Merge>,
    /// As long as the scan, and entered while it reads.
    span: tracing::Span,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan")
            .field("keyspace", &self.keyspace.state.name())
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}

impl Scan {
    pub(crate) fn range(
        keyspace: &Keyspace,
        range: &impl KeyRange,
        pinned: Option<Arc<Pinned>>,
    ) -> Self {
        let (low, high) = bounds(keyspace.state.id(), range);
        Self::new(keyspace, low, high, pinned)
    }

    pub(crate) fn prefix(keyspace: &Keyspace, prefix: &[u8], pinned: Option<Arc<Pinned>>) -> Self {
        let (low, high) = prefix_bounds(keyspace.state.id(), prefix);
        Self::new(keyspace, low, high, pinned)
    }

    fn new(
        keyspace: &Keyspace,
        low: Bound<Bytes>,
        high: Bound<Bytes>,
        pinned: Option<Arc<Pinned>>,
    ) -> Self {
        Self {
            keyspace: keyspace.clone(),
            low,
            high,
            direction: Direction::Forward,
            left: usize::MAX,
            pinned,
            merge: None,
            span: tracing::Span::none(),
        }
    }

    /// From the highest key to the lowest. Must come before the first item is read.
    pub fn reverse(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// At most this many pairs.
    pub fn limit(mut self, pairs: usize) -> Self {
        self.left = pairs;
        self
    }

    /// The next pair, `None` at the end. Reads ahead only in memory; dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound`, `NodeDown`, `CorruptTree`, `Io`, `Closed`. The scan ends with an error.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        self.next_pair()
    }

    /// All remaining pairs.
    ///
    /// # Errors
    ///
    /// As [`Scan::next`].
    pub async fn collect(mut self) -> Result<Vec<(Bytes, Bytes)>> {
        self.iter().collect()
    }

    /// The number of remaining pairs.
    ///
    /// # Errors
    ///
    /// As [`Scan::next`].
    pub async fn count(mut self) -> Result<u64> {
        let mut count = 0;
        while self.next_pair()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// The remaining pairs as an iterator, for plain threads.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<(Bytes, Bytes)>> + '_ {
        std::iter::from_fn(move || self.next_pair().transpose())
    }

    fn next_pair(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if self.merge.is_none() {
            self.span = tracing::debug_span!("scan", keyspace = self.keyspace.state.name());
        }
        let _entered = self.span.enter();
        let merge = match &mut self.merge {
            Some(merge) => merge,
            None => {
                let merge = open(
                    &self.keyspace,
                    &self.low,
                    &self.high,
                    self.direction,
                    self.pinned.take(),
                )?;
                self.merge.insert(merge)
            }
        };
        match merge.next().transpose() {
            Ok(Some((mut key, value))) => {
                key.advance(KEYSPACE_PREFIX_BYTES);
                Ok(Some((key, value.bytes)))
            }
            Ok(None) => {
                self.left = 0;
                Ok(None)
            }
            Err(error) => {
                self.left = 0;
                Err(error)
            }
        }
    }
}

impl futures_core::Stream for Scan {
    type Item = Result<(Bytes, Bytes)>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.get_mut().next_pair().transpose())
    }
}

fn open(
    keyspace: &Keyspace,
    low: &Bound<Bytes>,
    high: &Bound<Bytes>,
    direction: Direction,
    pinned: Option<Arc<Pinned>>,
) -> Result<Merge> {
    keyspace.check_exists()?;
    keyspace.engine.check_open()?;
    if is_empty_range(low, high) {
        return Ok(Merge::new(Vec::new(), direction, 0));
    }
    let fresh;
    let pinned = match &pinned {
        Some(pinned) => pinned.as_ref(),
        None => {
            fresh = keyspace.engine.pin()?;
            &fresh
        }
    };
    Ok(merge_all(pinned, low, high, direction))
}

/// Merges what all nodes hold between two qualified bounds.
pub(crate) fn merge_all(
    pinned: &Pinned,
    low: &Bound<Bytes>,
    high: &Bound<Bytes>,
    direction: Direction,
) -> Merge {
    let sources = pinned.sources(low, high, direction);
    Merge::new(sources, direction, wall_clock_ms())
}

/// Everything live of what one node owns, in key order.
pub(crate) fn merge_node(pinned: &Pinned, member: &Member, view: &NodeView) -> Merge {
    let (low, high) = (Bound::Unbounded, Bound::Unbounded);
    let sources = pinned.sources_of(member, view, &low, &high, Direction::Forward);
    Merge::new(sources, Direction::Forward, wall_clock_ms())
}

/// The qualified bounds of a range.
pub(crate) fn bounds(id: KeyspaceId, range: &impl KeyRange) -> (Bound<Bytes>, Bound<Bytes>) {
    let low = match range.low() {
        Bound::Included(key) => Bound::Included(qualify(id, key)),
        Bound::Excluded(key) => Bound::Excluded(qualify(id, key)),
        Bound::Unbounded => Bound::Included(qualify(id, b"")),
    };
    let high = match range.high() {
        Bound::Included(key) => Bound::Included(qualify(id, key)),
        Bound::Excluded(key) => Bound::Excluded(qualify(id, key)),
        Bound::Unbounded => end_of_keyspace(id),
    };
    (low, high)
}

/// The qualified bounds of all keys that begin with `prefix`.
pub(crate) fn prefix_bounds(id: KeyspaceId, prefix: &[u8]) -> (Bound<Bytes>, Bound<Bytes>) {
    let low = qualify(id, prefix);
    let high = match successor(&low) {
        Some(end) => Bound::Excluded(end),
        None => Bound::Unbounded,
    };
    (Bound::Included(low), high)
}

/// Ordered maps panic on ranges that end before they begin; callers may ask for them all the same.
pub(crate) fn is_empty_range(low: &Bound<Bytes>, high: &Bound<Bytes>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
        _ => false,
    }
}

fn end_of_keyspace(id: KeyspaceId) -> Bound<Bytes> {
    match id.0.checked_add(1) {
        Some(next) => Bound::Excluded(qualify(KeyspaceId(next), b"")),
        None => Bound::Unbounded,
    }
}

/// The smallest byte string above all that begin with `prefix`.
fn successor(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_of_a_prefix_ends_its_range() {
        assert_eq!(successor(b"ab"), Some(Bytes::from_static(b"ac")));
        assert_eq!(successor(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(successor(b"\xff"), None);
    }
}

//! The tree of a node that has just gained arcs: for their keys it is a newer one.
//!
//! The keys of arcs that come to a node are ingested into its tree before the arcs are its own. The view that the node
//! shows does not have them: it holds the tree as it was when the last checkpoint ended there. When the arcs become the
//! node's, the view must have them, but the tree as it is by then may also hold the run of a checkpoint whose end the node
//! has not heard of. For the keys of that run the tree is newer than the view says, and a reader below the checkpoint's mark
//! would see what came after its snapshot.
//!
//! So the two are put together by key: keys of the arcs that were gained are looked up in the newer tree, all others in the
//! one of before. The run that is on its way holds nothing of those arcs, since it was frozen before they came. The end
//! of that checkpoint replaces the whole by the tree as it is then.

use super::{
    PairIterator, RunEntry, StoreView,
    runs::{Direction, RunRange, Runs},
};
use crate::{error::Result, ring::ArcSet};
use bytes::Bytes;
use std::{ops::Bound, sync::Arc};

/// Two states of one tree, each for the keys of which it is right.
#[derive(Clone)]
pub struct GainedView {
    before: Arc<dyn StoreView>,
    gained: Arc<ArcSet>,
    now: Arc<dyn StoreView>,
}

impl GainedView {
    /// `now` for the keys of `gained`, `before` for all others.
    #[must_use]
    pub fn new(before: Arc<dyn StoreView>, gained: Arc<ArcSet>, now: Arc<dyn StoreView>) -> Self {
        Self {
            before,
            gained,
            now,
        }
    }
}

impl std::fmt::Debug for GainedView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GainedView")
            .field("gained", &self.gained.len())
            .finish_non_exhaustive()
    }
}

impl StoreView for GainedView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        if self.gained.contains_qualified(key) {
            self.now.get(key)
        } else {
            self.before.get(key)
        }
    }

    fn range(&self, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator {
        RunRange::boxed(self.clone(), low, high)
    }
}

impl Runs for GainedView {
    type Cursor = Half;

    fn open(&self, low: &Bound<Bytes>, high: &Bound<Bytes>, direction: Direction) -> Vec<Half> {
        let half = |tree: &Arc<dyn StoreView>, is_gained| Half {
            pairs: tree.range(
                low.as_ref().map(|key| &key[..]),
                high.as_ref().map(|key| &key[..]),
            ),
            direction,
            gained: Arc::clone(&self.gained),
            is_gained,
        };
        vec![half(&self.now, true), half(&self.before, false)]
    }
}

/// What one of the two says, read in one direction.
pub(super) struct Half {
    pairs: PairIterator,
    direction: Direction,
    gained: Arc<ArcSet>,
    is_gained: bool,
}

impl Iterator for Half {
    type Item = Result<RunEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let pair = match self.direction {
                Direction::Forward => self.pairs.next(),
                Direction::Backward => self.pairs.next_back(),
            };
            match pair? {
                Ok((key, _)) if self.gained.contains_qualified(&key) != self.is_gained => {}
                Ok((key, value)) => return Some(Ok((key, Some(value)))),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Error,
        ids::KeyspaceId,
        store::{Store, StoredPair, memory::MemoryStore},
        value::qualify,
    };
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::collections::BTreeMap;

    const ARC_BITS: u32 = 4;

    fn bounds(low: &Bound<Bytes>) -> Bound<&[u8]> {
        low.as_ref().map(|key| &key[..])
    }

    #[test]
    fn each_key_is_that_of_its_own_tree_from_both_ends() {
        let mut rng = StdRng::seed_from_u64(5);
        for round in 0..200 {
            let stores = [MemoryStore::default(), MemoryStore::default()];
            let gained = ArcSet::of(
                ARC_BITS,
                (0..1 << ARC_BITS).filter(|_| rng.random_ratio(1, 3)),
            );
            let mut model = BTreeMap::new();
            for (is_now, store) in stores.iter().enumerate() {
                let mut run = BTreeMap::new();
                for _ in 0..rng.random_range(0..40) {
                    let name = rng.random_range(0..60_u8);
                    let key = qualify(KeyspaceId(1), &[name]);
                    let value = Bytes::copy_from_slice(&[b"bn"[is_now], name]);
                    if gained.contains_qualified(&key) == (is_now == 1) {
                        model.insert(key.clone(), value.clone());
                    }
                    run.insert(key, Some(value));
                }
                store.ingest(&mut run.into_iter()).expect("memory takes it");
            }
            let [before, now] = stores.map(|store| store.view());
            let view = GainedView::new(before, Arc::new(gained), now);
            for name in 0..60 {
                let key = qualify(KeyspaceId(1), &[name]);
                assert_eq!(view.get(&key), Ok(model.get(&key).cloned()));
            }
            let mut bound = || {
                let key = qualify(KeyspaceId(1), &[rng.random_range(0..60)]);
                match rng.random_range(0..3) {
                    0 => Bound::Unbounded,
                    1 => Bound::Included(key),
                    _ => Bound::Excluded(key),
                }
            };
            let (low, high) = (bound(), bound());
            let is_within = |key: &Bytes| {
                crate::transaction::KeyRange {
                    low: low.clone(),
                    high: high.clone(),
                }
                .contains(key)
            };
            let mut expected: std::collections::VecDeque<StoredPair> = model
                .into_iter()
                .filter(|(key, _)| is_within(key))
                .collect();
            let mut pairs = view.range(bounds(&low), bounds(&high));
            loop {
                let (found, wanted) = match rng.random() {
                    true => (pairs.next(), expected.pop_front()),
                    false => (pairs.next_back(), expected.pop_back()),
                };
                assert_eq!(found, wanted.clone().map(Ok), "round {round}");
                if wanted.is_none() {
                    break;
                }
            }
        }
    }

    struct Broken;

    impl StoreView for Broken {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>> {
            Err(Error::Closed)
        }

        fn range(&self, _: Bound<&[u8]>, _: Bound<&[u8]>) -> PairIterator {
            Box::new(std::iter::once(Err(Error::Closed)))
        }
    }

    #[test]
    fn an_error_of_either_tree_is_an_error_of_the_range() {
        let all = Arc::new(ArcSet::of(0, [0]));
        for gained in [all, Arc::new(ArcSet::new(0))] {
            let healthy = MemoryStore::default().view();
            let one = GainedView::new(healthy.clone(), gained.clone(), Arc::new(Broken));
            let other = GainedView::new(Arc::new(Broken), gained, healthy);
            for view in [one, other] {
                let mut range = view.range(Bound::Unbounded, Bound::Unbounded);
                assert_eq!(range.next(), Some(Err(Error::Closed)));
                assert_eq!(range.next(), None);
            }
        }
    }
}

//! The other structure: crossbeam's skip list, with the same places in the same order as the engine's B-tree.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use mailring_engine::ids::Lsn;
use mailring_engine::value::{Value, Write};

use super::table::Table;

/// Steps to a neighbour that a scan takes before it searches from the top, as in the B-tree.
const STEPS_BEFORE_SEARCH: usize = 8;

/// The versions of a node in a lock-free list.
#[derive(Default)]
pub(crate) struct SkipList(SkipMap<Stored, Option<Value>>);

impl Table for SkipList {
    const NAME: &'static str = "skip-list";

    fn insert(&self, lsn: Lsn, write: &Write) {
        let place = Place::new(Key::Owned(write.key.clone()), lsn);
        self.0.get_or_insert(Stored(place), write.value.clone());
    }

    fn newest(&self, key: &[u8], at: Lsn) -> Option<(Lsn, Option<Value>)> {
        let wanted = Place::new(Key::Borrowed(key), at);
        let entry = self.0.lower_bound(Bound::Included(&wanted))?;
        let Stored(found) = entry.key();
        let is_same = found.cmp_keys(&wanted) == Ordering::Equal;
        is_same.then(|| (found.lsn, entry.value().clone()))
    }

    fn scan(&self, from: &[u8], limit: usize) -> Vec<(Bytes, Option<Value>)> {
        let mut found: Vec<(Bytes, Option<Value>)> = Vec::new();
        let first = Place::new(Key::Borrowed(from), Lsn(u64::MAX));
        let mut cursor = self.0.lower_bound(Bound::Included(&first));
        let mut passed = 0;
        while let Some(entry) = cursor {
            if found.len() == limit {
                break;
            }
            let Stored(place) = entry.key();
            let is_older = found
                .last()
                .is_some_and(|(last, _)| last == place.key.bytes());
            if is_older && passed < STEPS_BEFORE_SEARCH {
                passed += 1;
                cursor = entry.next();
            } else if is_older {
                // A hot key has thousands of versions: pass over them by a search.
                let oldest = Place::new(Key::Borrowed(place.key.bytes()), Lsn(0));
                cursor = self.0.lower_bound(Bound::Excluded(&oldest));
            } else {
                passed = 0;
                found.push((place.key.to_bytes(), entry.value().clone()));
                cursor = entry.next();
            }
        }
        found
    }
}

/// A place that can lend itself as one of any lifetime, so that a search allocates nothing.
struct Stored(Place<'static>);

impl<'a> Borrow<Place<'a>> for Stored {
    fn borrow(&self) -> &Place<'a> {
        &self.0
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Stored {}

impl PartialOrd for Stored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// Key ascending, within a key LSN descending.
struct Place<'a> {
    prefix: [u64; 3],
    lsn: Lsn,
    key: Key<'a>,
}

enum Key<'a> {
    Owned(Bytes),
    Borrowed(&'a [u8]),
}

impl Key<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Key::Owned(bytes) => bytes,
            Key::Borrowed(bytes) => bytes,
        }
    }

    fn to_bytes(&self) -> Bytes {
        match self {
            Key::Owned(bytes) => bytes.clone(),
            Key::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        }
    }
}

impl<'a> Place<'a> {
    fn new(key: Key<'a>, lsn: Lsn) -> Self {
        let mut padded = [0; 24];
        let taken = key.bytes().len().min(padded.len());
        padded[..taken].copy_from_slice(&key.bytes()[..taken]);
        let (words, _) = padded.as_chunks();
        let prefix = [0, 1, 2].map(|word| u64::from_be_bytes(words[word]));
        Self { prefix, lsn, key }
    }

    #[inline]
    fn cmp_keys(&self, other: &Place<'_>) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| {
            let (this, that) = (self.key.bytes(), other.key.bytes());
            match this.len().max(that.len()) {
                0..=24 => this.len().cmp(&that.len()),
                _ => this.cmp(that),
            }
        })
    }
}

impl PartialEq for Place<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place<'_> {}

impl PartialOrd for Place<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place<'_> {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.cmp_keys(other).then_with(|| other.lsn.cmp(&self.lsn))
    }
}

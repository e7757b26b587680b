//! Transactions that read and write anything but accounts and lists, some under an idempotency key.

use super::{Draft, idempotency_key};
use crate::{
    dice::Dice,
    keys::{Key, Keys, Kind},
    model::{counter, text},
};
use bytes::Bytes;
use mailring_engine::{
    ring::Ring,
    transaction::KeyRange,
    value::{Value, split_qualified},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// What a transaction does.
#[derive(Debug, Clone)]
pub(crate) struct MixedJob {
    pub(super) reads: BTreeSet<Bytes>,
    pub(super) ranges: Vec<KeyRange>,
    /// The keys that it writes.
    writes: BTreeSet<Bytes>,
    /// Keys that it removes instead.
    removes: BTreeSet<Bytes>,
    pub(super) idempotency: Option<Bytes>,
}

const KINDS: [Kind; 3] = [Kind::Counter, Kind::Register, Kind::Session];

impl MixedJob {
    pub(super) fn draw(dice: &mut Dice, keys: &Keys, ring: &Ring, keys_used: &mut u64) -> Self {
        let all: Vec<_> = KINDS.iter().flat_map(|kind| keys.of(*kind)).collect();
        // A third of them stay on one node.
        let owner = |key: &Key| ring.owner(split_qualified(&key.bytes).1);
        let home = owner(dice.pick(&all));
        let near: Vec<_> = match dice.chance(3) {
            true => {
                let near = all.iter().filter(|key| owner(key) == home);
                near.copied().collect()
            }
            false => all.clone(),
        };
        let mut draw = |most: u64| -> BTreeSet<Bytes> {
            let count = dice.within(0..most);
            (0..count).map(|_| dice.pick(&near).bytes.clone()).collect()
        };
        let (reads, mut writes, removes) = (draw(4), draw(4), draw(2));
        writes.extend(removes.iter().cloned());
        if writes.is_empty() && !dice.chance(6) {
            writes.insert(dice.pick(&near).bytes.clone());
        }
        let mut ranges = Vec::new();
        if dice.chance(5) {
            let (one, other) = (dice.below(all.len()), dice.below(all.len()));
            ranges.push(KeyRange {
                low: Bound::Included(all[one.min(other)].bytes.clone()),
                high: Bound::Included(all[one.max(other)].bytes.clone()),
            });
        }
        let idempotency = dice.chance(5).then(|| {
            // Most keys are new, some are somebody else's.
            if *keys_used == 0 || !dice.chance(3) {
                *keys_used += 1;
            }
            idempotency_key(*keys_used)
        });
        Self {
            reads,
            ranges,
            writes,
            removes,
            idempotency,
        }
    }

    /// The keys that it writes.
    pub(super) fn written(&self) -> impl Iterator<Item = &Bytes> {
        self.writes.iter()
    }

    /// A counter that was read is raised, or else removed; a register is named after who wrote it.
    pub(super) fn writes(&self, draft: &Draft) -> BTreeMap<Bytes, Option<Value>> {
        let number = draft.number;
        let write = |key: &Bytes| {
            let is_counter = key.get(4) == Some(&b'c');
            let value = if self.removes.contains(key) {
                None
            } else if !is_counter {
                Some(text(number, 10))
            } else if self.reads.contains(key) {
                let before = match draft.value(key) {
                    None => Some(0),
                    Some(value) => counter(&value.bytes),
                };
                before.map(|before| {
                    let sum = before + i64::try_from(number).expect("small");
                    Value::new(Bytes::copy_from_slice(&sum.to_le_bytes()))
                })
            } else {
                None
            };
            (key.clone(), value)
        };
        self.writes.iter().map(write).collect()
    }
}

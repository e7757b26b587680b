//! Lists that only grow: the history of what was appended and read is judged at the end of the run.

use super::Draft;
use crate::{
    checker::history::Op,
    dice::Dice,
    keys::{Keys, Kind},
};
use bytes::Bytes;
use mailring_engine::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a transaction does with lists.
#[derive(Debug, Clone)]
pub(crate) struct ListJob {
    pub(super) reads: BTreeSet<usize>,
    /// Lists to which it appends; it reads them too.
    pub(super) appends: BTreeSet<usize>,
    /// Reads all lists.
    pub(super) scans: bool,
}

impl ListJob {
    pub(super) fn draw(dice: &mut Dice, keys: &Keys) -> Self {
        let lists = keys.of(Kind::List).len();
        let mut draw = |most: u64| -> BTreeSet<usize> {
            (0..dice.within(0..most))
                .map(|_| dice.below(lists))
                .collect()
        };
        let (reads, appends) = (draw(3), draw(4));
        Self {
            reads,
            appends,
            scans: dice.chance(4),
        }
    }

    /// The lists that it reads by name.
    pub(super) fn keys<'a>(&'a self, keys: &'a Keys) -> impl Iterator<Item = Bytes> {
        let all = self.reads.union(&self.appends);
        all.map(|list| keys.at(Kind::List, *list).bytes.clone())
    }

    /// What it appends: values that name it, so that none comes twice.
    fn value(&self, txn: u64, list: usize) -> u64 {
        txn << 8 | list as u64
    }

    pub(super) fn writes(&self, keys: &Keys, draft: &Draft) -> BTreeMap<Bytes, Option<Value>> {
        let append = |list: &usize| {
            let key = keys.at(Kind::List, *list).bytes.clone();
            let before = draft.value(&key).map(|value| value.bytes.clone());
            let mut bytes = before.map_or_else(Vec::new, |bytes| bytes.to_vec());
            bytes.extend(self.value(draft.number, *list).to_le_bytes());
            (key, Some(Value::new(bytes.into())))
        };
        self.appends.iter().map(append).collect()
    }

    /// The same for the history.
    pub(super) fn ops(&self, keys: &Keys, draft: &Draft) -> Vec<Op> {
        let mut ops = Vec::new();
        for (number, key) in keys.of(Kind::List).enumerate() {
            if self.scans || self.reads.contains(&number) || self.appends.contains(&number) {
                ops.push(Op::Read(number as u32, list(draft.value(&key.bytes))));
            }
        }
        for list in &self.appends {
            ops.push(Op::Append(*list as u32, self.value(draft.number, *list)));
        }
        ops
    }
}

/// The values of a list.
pub(crate) fn list(value: Option<&Value>) -> Vec<u64> {
    let bytes = value.map_or(&[][..], |value| &value.bytes);
    let (values, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty(), "a list holds whole values");
    values
        .iter()
        .map(|value| u64::from_le_bytes(*value))
        .collect()
}

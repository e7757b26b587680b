//! A bank: transfers between accounts, and an auditor for whom they always add up to zero.

use super::Draft;
use crate::{
    keys::{Keys, Kind},
    model::counter,
};
use bytes::Bytes;
use mailring_engine::value::Value;
use std::collections::BTreeMap;

fn balance(draft: &Draft, key: &Bytes) -> i64 {
    match draft.value(key) {
        None => 0,
        Some(value) => counter(&value.bytes).expect("an account is a number"),
    }
}

/// What a transfer reads.
pub(super) fn accounts(keys: &Keys, from: usize, to: usize) -> [Bytes; 2] {
    [from, to].map(|number| keys.at(Kind::Account, number).bytes.clone())
}

/// What a transfer writes.
pub(super) fn transfer(
    keys: &Keys,
    draft: &Draft,
    [from, to]: [usize; 2],
    sum: i64,
) -> BTreeMap<Bytes, Option<Value>> {
    let [from, to] = accounts(keys, from, to);
    let write = |key: Bytes, sum: i64| {
        let after = balance(draft, &key) + sum;
        let value = Value::new(Bytes::copy_from_slice(&after.to_le_bytes()));
        (key, Some(value))
    };
    [write(from, -sum), write(to, sum)].into()
}

/// What an auditor checks.
///
/// # Panics
///
/// Panics if the accounts do not add up.
pub(super) fn audit(keys: &Keys, draft: &Draft) {
    let accounts = keys.of(Kind::Account).map(|key| &key.bytes);
    let total: i64 = accounts.map(|key| balance(draft, key)).sum();
    assert_eq!(
        total, 0,
        "the accounts do not add up at LSN {}",
        draft.snapshot
    );
}

//! What a read-modify-write chains on: the newest staged state of each key, and the sum of a counter.

use crate::{
    error::{Error, Result},
    value::{Value, Write},
};
use bytes::Bytes;
use std::collections::HashMap;

/// The newest staged state of each key that has one, and which commit staged it.
#[derive(Debug, Default)]
pub(super) struct StagedKeys {
    pub(super) newest: HashMap<Bytes, (u64, Option<Value>)>,
}

impl StagedKeys {
    pub(super) fn add(&mut self, commit: u64, writes: &[Write]) {
        for write in writes {
            self.newest
                .insert(write.key.clone(), (commit, write.value.clone()));
        }
    }

    pub(super) fn remove(&mut self, commit: u64, writes: &[Write]) {
        for write in writes {
            if self
                .newest
                .get(&write.key)
                .is_some_and(|(by, _)| *by == commit)
            {
                self.newest.remove(&write.key);
            }
        }
    }
}

/// The sum of a counter.
pub(super) fn add(before: Option<&Value>, delta: i64) -> Result<i64> {
    let current = match before {
        None => 0,
        Some(value) => {
            let bytes: [u8; 8] = value.bytes[..].try_into().map_err(|_| Error::NotACounter {
                len: value.bytes.len(),
            })?;
            i64::from_le_bytes(bytes)
        }
    };
    current
        .checked_add(delta)
        .ok_or(Error::CounterOverflow { current, delta })
}

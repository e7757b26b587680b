//! A bare concurrent hash map with its own default hasher: no durability, no order, no versions. The ceiling of
//! what a point read from memory can cost.

use dashmap::DashMap;

use super::{Entry, Store, look_at};
use crate::{Fault, Result};

/// The map.
#[derive(Default)]
pub(crate) struct InMemory(DashMap<Box<[u8]>, Box<[u8]>>);

impl Store for InMemory {
    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.0.get(key).map(|value| look_at(&value)))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.insert(key.into(), value.into());
        Ok(())
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        entries
            .iter()
            .try_for_each(|(key, value)| self.put(key, value))
    }

    fn scan(&self, _from: &[u8], _limit: usize) -> Result<usize> {
        Err(Fault::from("a hash map has no order to scan in"))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

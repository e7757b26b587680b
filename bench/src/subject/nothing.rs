//! The subject that does nothing. Its figures are the cost of the harness: drawing an operation, writing the key,
//! polling the future, reading the clock.

use super::{Entry, Store};
use crate::Result;

/// Finds everything, keeps nothing.
pub(crate) struct Nothing;

impl Store for Nothing {
    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(Some(std::hint::black_box(key.len())))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        std::hint::black_box((key.len(), value.len()));
        Ok(())
    }

    fn put_many(&self, _entries: &[Entry]) -> Result<()> {
        Ok(())
    }

    fn scan(&self, _from: &[u8], limit: usize) -> Result<usize> {
        Ok(limit)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

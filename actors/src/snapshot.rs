//! A consistent view over all nodes.

use crate::{
    KeyRange, Keyspace, Scan,
    engine::{Engine, QualifiedKey, is_live},
    pin::Pinned,
};
use bytes::Bytes;
use mailring_engine::{Result, ids::Lsn};
use std::sync::Arc;

/// The state of all keyspaces at one LSN. Cheap to clone. Holds the memory of what it shows that has been overwritten
/// or written to the trees since, until the last clone and its scans are dropped.
#[derive(Debug, Clone)]
pub struct Snapshot {
    engine: Arc<Engine>,
    pub(crate) pinned: Arc<Pinned>,
}

impl Snapshot {
    pub(crate) fn new(engine: Arc<Engine>, pinned: Pinned) -> Self {
        Self {
            engine,
            pinned: Arc::new(pinned),
        }
    }

    /// The LSN whose state this is.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.pinned.at
    }

    /// The value that a key had. Time to live goes on: a value that has expired by now is not there.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::get`].
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let _span = tracing::trace_span!("get").entered();
        let key = key.as_ref();
        keyspace.check(key)?;
        self.engine.check_open()?;
        let qualified = QualifiedKey::new(keyspace.state.id(), key);
        let cache = &self.engine.switchboard.cache;
        let value = self.pinned.get(cache, key, qualified.as_slice())?;
        Ok(value.filter(is_live).map(|value| value.bytes))
    }

    /// The pairs of a range, like [`Keyspace::scan`].
    pub fn scan(&self, keyspace: &Keyspace, range: impl KeyRange) -> Scan {
        Scan::range(keyspace, &range, Some(Arc::clone(&self.pinned)))
    }

    /// The pairs whose keys begin with `prefix`, like [`Keyspace::prefix`].
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::prefix(keyspace, prefix.as_ref(), Some(Arc::clone(&self.pinned)))
    }
}

//! The same calls for plain threads. Each blocks the calling thread until it is answered; do not call them inside of
//! an async task.

use crate::{
    Backup, Batch, CompareAndSet, KeyRange, Keyspace, Locks, Mailring, Result, Scan, Snapshot,
    Stats, Verification, Watch, WatchEvent,
};
use bytes::Bytes;
use mailring_engine::ids::Lsn;
use pollster::block_on;
use std::{path::Path, time::Duration};

/// The blocking view of a [`Mailring`].
#[derive(Debug, Clone)]
pub struct BlockingMailring(Mailring);

/// The blocking view of a [`Keyspace`].
#[derive(Debug, Clone)]
pub struct BlockingKeyspace(Keyspace);

impl Mailring {
    /// The same calls for plain threads.
    #[must_use]
    pub fn blocking(&self) -> BlockingMailring {
        BlockingMailring(self.clone())
    }
}

impl Keyspace {
    /// The same calls for plain threads.
    #[must_use]
    pub fn blocking(&self) -> BlockingKeyspace {
        BlockingKeyspace(self.clone())
    }
}

impl Batch {
    /// [`Batch::commit`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Batch::commit`].
    pub fn commit_blocking(self) -> Result<()> {
        block_on(self.commit())
    }
}

impl Watch {
    /// [`Watch::next`] for plain threads.
    pub fn next_blocking(&mut self) -> Option<WatchEvent> {
        block_on(self.next())
    }
}

impl BlockingMailring {
    pub(crate) fn mailring(&self) -> &Mailring {
        &self.0
    }

    /// [`Mailring::keyspace`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn keyspace(&self, name: &str) -> Result<BlockingKeyspace> {
        block_on(self.0.keyspace(name)).map(BlockingKeyspace)
    }

    /// [`Mailring::batch`]; ends with [`Batch::commit_blocking`].
    pub fn batch(&self) -> Batch {
        self.0.batch()
    }

    /// [`Mailring::snapshot`], whose calls block anyway.
    ///
    /// # Errors
    ///
    /// As [`Mailring::snapshot`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.0.snapshot()
    }

    /// [`Mailring::stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// [`Mailring::keyspaces`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn keyspaces(&self) -> Result<Vec<String>> {
        block_on(self.0.keyspaces())
    }

    /// [`Mailring::drop_keyspace`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        block_on(self.0.drop_keyspace(name))
    }

    /// [`Mailring::locks`]; its requests and guards have blocking calls beside the others.
    #[must_use]
    pub fn locks(&self) -> Locks {
        self.0.locks()
    }

    /// [`Mailring::checkpoint`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn checkpoint(&self) -> Result<Lsn> {
        block_on(self.0.checkpoint())
    }

    /// [`Mailring::backup`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn backup(&self, directory: impl AsRef<Path>) -> Result<Backup> {
        block_on(self.0.backup(directory))
    }

    /// [`Mailring::verify`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn verify(&self) -> Result<Verification> {
        block_on(self.0.verify())
    }

    /// [`Mailring::shutdown`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn shutdown(&self) -> Result<()> {
        block_on(self.0.shutdown())
    }
}

impl BlockingKeyspace {
    /// The keyspace itself, as batches and snapshots take it.
    #[must_use]
    pub fn keyspace(&self) -> &Keyspace {
        &self.0
    }

    /// [`Keyspace::get`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.0.get_now(key.as_ref())
    }

    /// [`Keyspace::contains`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// [`Keyspace::get_many`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        block_on(self.0.get_many(keys))
    }

    /// [`Keyspace::scan`], to be read with [`Scan::iter`].
    pub fn scan(&self, range: impl KeyRange) -> Scan {
        self.0.scan(range)
    }

    /// [`Keyspace::prefix`], to be read with [`Scan::iter`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Scan {
        self.0.prefix(prefix)
    }

    /// [`Keyspace::put`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Lsn> {
        block_on(self.0.put(key, value))
    }

    /// [`Keyspace::put_with_ttl`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        time_to_live: Duration,
    ) -> Result<Lsn> {
        block_on(self.0.put_with_ttl(key, value, time_to_live))
    }

    /// [`Keyspace::put_many`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        block_on(self.0.put_many(pairs))
    }

    /// [`Keyspace::delete`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Lsn> {
        block_on(self.0.delete(key))
    }

    /// [`Keyspace::compare_and_set`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<CompareAndSet> {
        block_on(self.0.compare_and_set(key, expected, new))
    }

    /// [`Keyspace::add`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        block_on(self.0.add(key, delta))
    }

    /// [`Keyspace::update`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn update(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Bytes>> {
        block_on(self.0.update(key, change))
    }

    /// [`Keyspace::watch`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn watch(&self, prefix: impl AsRef<[u8]>) -> Result<Watch> {
        block_on(self.0.watch(prefix))
    }
}

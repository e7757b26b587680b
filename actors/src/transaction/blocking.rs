//! Transactions for plain threads. Only the commit and `get_for_update` wait for anybody.

use super::{
    Committed, Once, OnceBuilder, Savepoint, Transaction, TransactionBuilder, TransactionScan,
};
use crate::{BlockingKeyspace, BlockingMailring, KeyRange, LockGuard};
use bytes::Bytes;
use mailring_engine::{
    Result,
    ids::{Lsn, TxnId},
    locks::FencingToken,
    transaction::TxnOutcome,
};
use pollster::block_on;
use std::time::Duration;

/// The blocking view of a [`Transaction`].
#[derive(Debug, Clone)]
pub struct BlockingTransaction(Transaction);

impl Transaction {
    /// The same calls for plain threads.
    #[must_use]
    pub fn blocking(&self) -> BlockingTransaction {
        BlockingTransaction(self.clone())
    }
}

impl BlockingMailring {
    /// [`Mailring::transact`](crate::Mailring::transact).
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn transact<T>(&self, body: impl Fn(BlockingTransaction) -> Result<T>) -> Result<T> {
        self.transaction().run_blocking(body)
    }

    /// [`Mailring::transaction`](crate::Mailring::transaction); ends with [`TransactionBuilder::run_blocking`], or with
    /// [`TransactionBuilder::begin`] and [`Transaction::blocking`].
    pub fn transaction(&self) -> TransactionBuilder {
        self.mailring().transaction()
    }

    /// [`Mailring::begin`](crate::Mailring::begin).
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn begin(&self) -> Result<BlockingTransaction> {
        self.mailring().begin().map(BlockingTransaction)
    }

    /// [`Mailring::outcome`](crate::Mailring::outcome).
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn outcome(&self, txn: TxnId) -> Result<TxnOutcome> {
        block_on(self.mailring().outcome(txn))
    }
}

impl TransactionBuilder {
    /// [`TransactionBuilder::run`] for plain threads.
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn run_blocking<T>(self, body: impl Fn(BlockingTransaction) -> Result<T>) -> Result<T> {
        block_on(self.run(|txn| std::future::ready(body(BlockingTransaction(txn)))))
    }
}

impl OnceBuilder {
    /// [`OnceBuilder::run`] for plain threads.
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn run_blocking<T>(
        self,
        body: impl Fn(BlockingTransaction) -> Result<T>,
    ) -> Result<Once<T>> {
        block_on(self.run(|txn| std::future::ready(body(BlockingTransaction(txn)))))
    }
}

impl BlockingTransaction {
    /// [`Transaction::id`].
    #[must_use]
    pub fn id(&self) -> TxnId {
        self.0.id()
    }

    /// [`Transaction::snapshot_lsn`].
    #[must_use]
    pub fn snapshot_lsn(&self) -> Lsn {
        self.0.snapshot_lsn()
    }

    /// [`Transaction::get`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn get(&self, keyspace: &BlockingKeyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.0.get_now(keyspace.keyspace(), key.as_ref())
    }

    /// [`Transaction::get_for_update`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn get_for_update(
        &self,
        keyspace: &BlockingKeyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Bytes>> {
        block_on(self.0.get_for_update(keyspace.keyspace(), key))
    }

    /// [`Transaction::get_many`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keyspace: &BlockingKeyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        block_on(self.0.get_many(keyspace.keyspace(), keys))
    }

    /// [`Transaction::scan`], to be read with [`TransactionScan::iter`].
    pub fn scan(&self, keyspace: &BlockingKeyspace, range: impl KeyRange) -> TransactionScan {
        self.0.scan(keyspace.keyspace(), range)
    }

    /// [`Transaction::prefix`], to be read with [`TransactionScan::iter`].
    pub fn prefix(&self, keyspace: &BlockingKeyspace, prefix: impl AsRef<[u8]>) -> TransactionScan {
        self.0.prefix(keyspace.keyspace(), prefix)
    }

    /// [`Transaction::put`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn put(
        &self,
        keyspace: &BlockingKeyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        block_on(self.0.put(keyspace.keyspace(), key, value))
    }

    /// [`Transaction::put_with_ttl`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn put_with_ttl(
        &self,
        keyspace: &BlockingKeyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        time_to_live: Duration,
    ) -> Result<()> {
        let keyspace = keyspace.keyspace();
        block_on(self.0.put_with_ttl(keyspace, key, value, time_to_live))
    }

    /// [`Transaction::delete`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn delete(&self, keyspace: &BlockingKeyspace, key: impl AsRef<[u8]>) -> Result<()> {
        block_on(self.0.delete(keyspace.keyspace(), key))
    }

    /// [`Transaction::add`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn add(
        &self,
        keyspace: &BlockingKeyspace,
        key: impl AsRef<[u8]>,
        delta: i64,
    ) -> Result<i64> {
        self.0.add_now(keyspace.keyspace(), key.as_ref(), delta)
    }

    /// [`Transaction::savepoint`].
    ///
    /// # Errors
    ///
    /// As [`Transaction::savepoint`].
    pub fn savepoint(&self) -> Result<Savepoint> {
        self.0.savepoint()
    }

    /// [`Transaction::rollback_to`].
    ///
    /// # Errors
    ///
    /// As [`Transaction::rollback_to`].
    pub fn rollback_to(&self, savepoint: Savepoint) -> Result<()> {
        self.0.rollback_to(savepoint)
    }

    /// [`Transaction::fence`].
    ///
    /// # Errors
    ///
    /// As [`Transaction::fence`].
    pub fn fence(&self, guard: &LockGuard) -> Result<()> {
        self.0.fence(guard)
    }

    /// [`Transaction::fence_token`].
    ///
    /// # Errors
    ///
    /// As [`Transaction::fence_token`].
    pub fn fence_token(&self, lock: &str, token: FencingToken) -> Result<()> {
        self.0.fence_token(lock, token)
    }

    /// [`Transaction::commit`].
    ///
    /// # Errors
    ///
    /// As the async call.
    pub fn commit(&self) -> Result<Committed> {
        block_on(self.0.commit())
    }

    /// [`Transaction::rollback`].
    pub fn rollback(&self) {
        self.0.rollback();
    }
}

//! A keyspace: the calls for single keys, and scans.

use crate::{
    Batch, KeyRange, Scan, Watch,
    clock::wall_clock_ms,
    engine::{Engine, QualifiedKey, check_key, check_value, weight},
};
use bytes::Bytes;
use mailring_engine::{
    Result,
    ids::{Lsn, NodeId},
    open_keyspaces::OpenKeyspace,
    participant::{Answer, Operation},
    transaction::Writes,
    value::{Value, Write, qualify},
};
use std::{sync::Arc, time::Duration};

/// How a [`Keyspace::compare_and_set`] went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareAndSet {
    /// The value was the expected one, and the new one is durable and visible since this LSN.
    Swapped(Lsn),
    /// The value is another: this one (`None`: the key is absent). It is durable.
    Mismatch(Option<Bytes>),
}

/// A named set of keys. Cheap to clone.
///
/// Keys have 1 byte to 60 KiB, values up to 16 MiB. Keys with the same `{tag}` live on the same node, whatever stands
/// around the tag: `{user7}:name` and `{user7}:cart` do.
///
/// Writes answer when they are durable (as the engine's durability says) and visible to every later read. Dropping the
/// future of a write does not take it back: once it was polled it may be carried out.
///
/// Reads send no message. One that is answered by the row cache takes no lock; others share a lock with the node for
/// the length of one look-up. A read that finds nothing in memory reads from the disk on the calling thread.
#[derive(Debug, Clone)]
pub struct Keyspace {
    pub(crate) engine: Arc<Engine>,
    pub(crate) state: Arc<OpenKeyspace>,
}

impl Keyspace {
    pub(crate) fn new(engine: Arc<Engine>, state: Arc<OpenKeyspace>) -> Self {
        Self { engine, state }
    }

    /// The keyspace's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.state.name()
    }

    /// The node that owns a key now. Keys with one owner share the shorter way of a commit; a key with the same `{tag}`
    /// has the same owner. A node may go down, so this says where a key is and not whether it can be had.
    #[must_use]
    pub fn node_of(&self, key: impl AsRef<[u8]>) -> NodeId {
        let routes = self.engine.switchboard.routes.load();
        routes.owner(key.as_ref()).node()
    }

    #[inline]
    pub(crate) fn check(&self, key: &[u8]) -> Result<()> {
        self.check_exists()?;
        check_key(key)
    }

    #[inline]
    pub(crate) fn check_exists(&self) -> Result<()> {
        self.state.check()
    }

    /// The value of a key, if it is there and has not expired.
    ///
    /// # Errors
    ///
    /// `EmptyKey`, `KeyTooLarge`, `KeyspaceNotFound`, `NodeDown`, `CorruptTree`, `Io`, `Closed`.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.get_now(key.as_ref())
    }

    #[inline]
    pub(crate) fn get_now(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let _span = tracing::trace_span!("get").entered();
        self.check(key)?;
        let qualified = QualifiedKey::new(self.state.id(), key);
        let value = self.engine.get(key, qualified.as_slice())?;
        Ok(value.map(|value| value.bytes))
    }

    /// Whether a key is there and has not expired.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::get`].
    pub async fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get_now(key.as_ref())?.is_some())
    }

    /// The values of several keys, in the order of the keys, all as of the same moment.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::get`], for any of the keys.
    #[tracing::instrument(level = "debug", skip_all, err(level = "debug"))]
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let pinned = self.engine.pin_whatever_is_up()?;
        let snapshot = crate::Snapshot::new(Arc::clone(&self.engine), pinned);
        let mut values = Vec::new();
        for key in keys {
            let key = key.as_ref();
            self.check(key)?;
            // That a node is down which owns none of the keys is no business of the caller.
            snapshot.pinned.owner(key).0.table.check_up()?;
            values.push(snapshot.get(self, key)?);
        }
        Ok(values)
    }

    /// Sets the value of a key. Answers the LSN of the commit.
    ///
    /// # Errors
    ///
    /// `EmptyKey`, `KeyTooLarge`, `ValueTooLarge`, `KeyspaceNotFound`; `Overloaded`, `DeadlineExceeded`, `DiskFull`
    /// and `NodeRestarted` (nothing was written, try again); `NodeDown`, `ReadOnly`, `Closed`; `Io` or `CorruptTree`
    /// (nothing was written: checkpoints fail, and the memory budget is used up); `Unknown` (it may have been written).
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Lsn> {
        self.write(key.as_ref(), Some((value.as_ref(), 0))).await
    }

    /// Sets the value of a key that disappears after `time_to_live`, by the wall clock.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::put`].
    pub async fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        time_to_live: Duration,
    ) -> Result<Lsn> {
        let expiry = expires_at_ms(time_to_live);
        self.write(key.as_ref(), Some((value.as_ref(), expiry)))
            .await
    }

    /// Removes a key, whether it is there or not.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::put`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Lsn> {
        self.write(key.as_ref(), None).await
    }

    async fn write(&self, key: &[u8], value: Option<(&[u8], u64)>) -> Result<Lsn> {
        self.check(key)?;
        check_value(value.map_or(&[], |(bytes, _)| bytes))?;
        let writes = Writes::from([Write::new(self.state.id(), key, value)]);
        let weight = weight(&writes);
        let operation = Operation::Write(writes);
        match self.engine.write(key, operation, weight).await? {
            Answer::Written(lsn) => Ok(lsn),
            other => unreachable!("a write was answered by {other:?}"),
        }
    }

    /// Sets several keys, all of them or none; see [`Batch::commit`].
    ///
    /// # Errors
    ///
    /// As [`Batch::commit`].
    pub async fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        let mut batch = Batch::new(Arc::clone(&self.engine));
        for (key, value) in pairs {
            batch.put(self, key, value);
        }
        batch.commit().await
    }

    /// Replaces the value of a key if it is `expected` (`None`: if the key is absent); a `new` of `None` removes it.
    /// Computed at the node on the newest value, so that many callers on one key do not wait for a force each.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::put`].
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<CompareAndSet> {
        let key = key.as_ref();
        self.check(key)?;
        check_value(new.unwrap_or_default())?;
        let operation = Operation::CompareAndSet {
            key: qualify(self.state.id(), key),
            expected: expected.map(Bytes::copy_from_slice),
            new: new.map(|bytes| Value::new(Bytes::copy_from_slice(bytes))),
            now_ms: wall_clock_ms(),
        };
        let weight = key.len() + expected.map_or(0, <[u8]>::len) + new.map_or(0, <[u8]>::len) + 128;
        match self.engine.write(key, operation, weight).await? {
            Answer::Written(lsn) => Ok(CompareAndSet::Swapped(lsn)),
            Answer::Mismatch(current) => Ok(CompareAndSet::Mismatch(current)),
            other @ Answer::Counter(..) => {
                unreachable!("a compare-and-set was answered by {other:?}")
            }
        }
    }

    /// Adds to a counter (an absent key counts as 0) and answers its new value. A counter is an i64 of 8 bytes, little
    /// endian. Computed at the node: concurrent additions to one key share the journal's forces.
    ///
    /// # Errors
    ///
    /// `NotACounter`, `CounterOverflow`, and as [`Keyspace::put`].
    pub async fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        let key = key.as_ref();
        self.check(key)?;
        let operation = Operation::Add {
            key: qualify(self.state.id(), key),
            delta,
            now_ms: wall_clock_ms(),
        };
        match self.engine.write(key, operation, key.len() + 128).await? {
            Answer::Counter(_, value) => Ok(value),
            other => unreachable!("an addition was answered by {other:?}"),
        }
    }

    /// Replaces the value of a key by what `change` makes of it (`None`: the key is absent, or is to be removed), and
    /// answers the new value. `change` runs here, again for each time that somebody else was quicker; it must not have
    /// effects of its own. A time to live ends with the change.
    ///
    /// Each attempt has the builder's deadline for itself, so all of them together have no bound: where many change one key
    /// all the time, put the call under a timeout of yours, or take a transaction, which has one.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::put`].
    pub async fn update(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Bytes>> {
        let key = key.as_ref();
        let mut current = self.get_now(key)?;
        loop {
            let new = change(current.as_deref());
            match self
                .compare_and_set(key, current.as_deref(), new.as_deref())
                .await?
            {
                CompareAndSet::Swapped(_) => return Ok(new.map(Bytes::from)),
                CompareAndSet::Mismatch(newer) => current = newer,
            }
        }
    }

    /// The pairs of a range of keys over all nodes, in key order, as of when the scan begins (with its first item).
    /// Streams with bounded memory.
    ///
    /// ```
    /// # async fn f(ks: mailring::Keyspace) -> mailring::Result<()> {
    /// let mut scan = ks.scan("a".."c").reverse().limit(10);
    /// while let Some((key, value)) = scan.next().await? {
    ///     println!("{key:?} = {value:?}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn scan(&self, range: impl KeyRange) -> Scan {
        Scan::range(self, &range, None)
    }

    /// The pairs whose keys begin with `prefix`, like [`Keyspace::scan`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::prefix(self, prefix.as_ref(), None)
    }

    /// Committed changes of keys that begin with `prefix`, from now on, in LSN order.
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound`, `DeadlineExceeded` (the journal hangs), `ReadOnly` or `Unknown` (it has stopped), `Closed`.
    #[tracing::instrument(level = "debug", skip_all, err(level = "debug"))]
    pub async fn watch(&self, prefix: impl AsRef<[u8]>) -> Result<Watch> {
        self.check_exists()?;
        let (since, changes) = self.engine.subscribe().await?;
        Ok(Watch::new(self.state.id(), prefix.as_ref(), since, changes))
    }
}

pub(crate) fn expires_at_ms(time_to_live: Duration) -> u64 {
    let millis = u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX);
    wall_clock_ms().saturating_add(millis).max(1)
}

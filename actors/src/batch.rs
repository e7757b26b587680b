//! Writes that are handed over together, and carried out together.

use crate::{
    Keyspace, LockGuard,
    coordinator::CommitRequest,
    engine::{Engine, check_value, weight},
    keyspace::expires_at_ms,
    locks::{add_fence, fence},
    transaction::Pauses,
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::NodeId,
    locks::FencingToken,
    participant::Operation,
    transaction::{Fence, MAX_TRANSACTION_TIME, ReadSet, TxnPart},
    value::Write,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// Keys that one batch may write.
pub const MAX_BATCH_KEYS: usize = 100_000;
/// Bytes of keys and values that one batch may write (32 MiB).
pub const MAX_BATCH_BYTES: usize = 32 << 20;

/// Writes to any keyspaces, carried out as one by [`Batch::commit`]. Of several writes to one key the last counts.
#[derive(Debug)]
#[must_use = "a batch writes nothing until `commit`"]
pub struct Batch {
    engine: Arc<Engine>,
    writes: Vec<(u16, Write)>,
    places: HashMap<Bytes, usize>,
    bytes: usize,
    fences: Vec<Fence>,
    /// The first thing that was wrong; told by `commit`.
    refused: Option<Error>,
}

impl Batch {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            writes: Vec::new(),
            places: HashMap::new(),
            bytes: 0,
            fences: Vec::new(),
            refused: None,
        }
    }

    /// Sets the value of a key.
    pub fn put(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.push(keyspace, key.as_ref(), Some((value.as_ref(), 0)))
    }

    /// Sets the value of a key that disappears after `time_to_live`.
    pub fn put_with_ttl(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        time_to_live: Duration,
    ) -> &mut Self {
        let expiry = expires_at_ms(time_to_live);
        self.push(keyspace, key.as_ref(), Some((value.as_ref(), expiry)))
    }

    /// Removes a key.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(keyspace, key.as_ref(), None)
    }

    /// Writes only while the guard holds its lock, as [`TransactionBuilder::fence`](crate::TransactionBuilder::fence) does;
    /// a batch of one write is a write with a fence. One that writes nothing checks nothing.
    pub fn fence(&mut self, guard: &LockGuard) -> &mut Self {
        let fence = guard.fence(&self.engine);
        self.add_fence(fence)
    }

    /// As [`Batch::fence`], with the token of a guard that is elsewhere.
    pub fn fence_token(&mut self, lock: &str, token: FencingToken) -> &mut Self {
        self.add_fence(fence(lock, token))
    }

    fn add_fence(&mut self, fence: Result<Fence>) -> &mut Self {
        let added = fence.and_then(|fence| add_fence(&mut self.fences, fence));
        if let Err(error) = added {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// Number of keys that the batch writes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether the batch writes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn push(&mut self, keyspace: &Keyspace, key: &[u8], value: Option<(&[u8], u64)>) -> &mut Self {
        if self.refused.is_none()
            && let Err(error) = self.try_push(keyspace, key, value)
        {
            self.refused = Some(error);
        }
        self
    }

    fn try_push(
        &mut self,
        keyspace: &Keyspace,
        key: &[u8],
        value: Option<(&[u8], u64)>,
    ) -> Result<()> {
        keyspace.check(key)?;
        let bytes = value.map_or(&[][..], |(bytes, _)| bytes);
        check_value(bytes)?;
        self.bytes += key.len() + bytes.len();
        let too_large = |len, limit, unit| Err(Error::BatchTooLarge { len, limit, unit });
        if self.bytes > MAX_BATCH_BYTES {
            return too_large(self.bytes, MAX_BATCH_BYTES, "bytes");
        }
        if self.writes.len() >= MAX_BATCH_KEYS {
            return too_large(self.writes.len() + 1, MAX_BATCH_KEYS, "keys");
        }
        let write = Write::new(keyspace.state.id, key, value);
        let place = self.places.entry(write.key.clone());
        let next = self.writes.len();
        match *place.or_insert(next) {
            place if place == next => self.writes.push((self.engine.owner(key).0, write)),
            place => self.writes[place].1 = write,
        }
        Ok(())
    }

    /// Writes the batch, all of it or nothing: it becomes visible at one moment, over all nodes, at one LSN. On one node
    /// (keys with a common `{tag}` are) it goes there straight; over several, or with a fence, it is a transaction that only writes. One that
    /// meets what another transaction has read waits for that, until the engine's deadline.
    ///
    /// Dropping the future does not take it back: once it was polled it is carried out as a whole or not at all.
    ///
    /// # Errors
    ///
    /// What was wrong with the first bad key, value or fence, or `BatchTooLarge`: nothing was written. Else as
    /// [`Keyspace::put`], and `Conflict` or `Aborted` (nothing was written) if the deadline has come; with a fence also
    /// `StaleFence`, `LockLost` and `LockManagerDown` (nothing was written).
    pub async fn commit(self) -> Result<()> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let mut parts: BTreeMap<u16, Vec<Write>> = BTreeMap::new();
        for (node, write) in self.writes {
            parts.entry(node).or_default().push(write);
        }
        let parts = parts.into_iter().map(|(node, writes)| TxnPart {
            node: NodeId(node),
            reads: ReadSet::default(),
            writes: writes.into(),
        });
        let mut parts: Vec<_> = parts.collect();
        let weight = parts.iter().map(|part| weight(&part.writes)).sum();
        match parts.len() {
            0 => Ok(()),
            1 if self.fences.is_empty() => {
                let TxnPart { node, writes, .. } = parts.remove(0);
                let operation = Operation::Write(writes);
                self.engine.write(node, operation, weight).await.map(drop)
            }
            _ => commit_over_nodes(&self.engine, &parts, &self.fences, weight).await,
        }
    }
}

/// A transaction that only writes conflicts only with who has read its keys and is about to commit: it tries again.
async fn commit_over_nodes(
    engine: &Engine,
    parts: &[TxnPart],
    fences: &[Fence],
    weight: usize,
) -> Result<()> {
    let board = &engine.switchboard;
    let time = engine.deadline.min(MAX_TRANSACTION_TIME);
    let deadline = board.clock.in_future(time);
    let mut pauses = Pauses::new();
    loop {
        let request = CommitRequest {
            txn: engine.next_txn(),
            deadline,
            parts: parts.to_vec(),
            fences: fences.to_vec(),
            idempotency: None,
            epoch: board.routes.load().ring.epoch(),
        };
        match engine.commit(request, weight).await {
            Ok(_) => return Ok(()),
            Err(error @ (Error::Conflict { .. } | Error::Aborted { .. })) => {
                board.alarms.sleep(pauses.next()).await;
                if board.clock.now() >= deadline {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

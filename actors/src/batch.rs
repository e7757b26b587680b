//! Writes that are handed over together, and carried out together.

use crate::{
    Keyspace, LockGuard,
    coordinator::CommitRequest,
    engine::{Engine, check_value, weight},
    keyspace::expires_at_ms,
    locks::{add_fence, fence},
    routes::Routes,
    transaction::Pauses,
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{NodeId, Time},
    locks::FencingToken,
    participant::Operation,
    transaction::{Fence, MAX_TRANSACTION_TIME, TxnPart},
    value::{Write, split_qualified},
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
    writes: Vec<Write>,
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
        check_value(value.map_or(&[][..], |(bytes, _)| bytes))?;
        let write = Write::new(keyspace.state.id(), key, value);
        let place = self.places.get(&write.key).copied();
        // What is written again takes the place of what was there, also in the count.
        let freed = place.map_or(0, |place| size(&self.writes[place]));
        let bytes = self.bytes - freed + size(&write);
        let keys = self.writes.len() + usize::from(place.is_none());
        let too_large = |len, limit, unit| Err(Error::BatchTooLarge { len, limit, unit });
        if bytes > MAX_BATCH_BYTES {
            return too_large(bytes, MAX_BATCH_BYTES, "bytes");
        }
        if keys > MAX_BATCH_KEYS {
            return too_large(keys, MAX_BATCH_KEYS, "keys");
        }
        self.bytes = bytes;
        match place {
            Some(place) => self.writes[place] = write,
            None => {
                self.places.insert(write.key.clone(), self.writes.len());
                self.writes.push(write);
            }
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
        let (engine, fences) = (&self.engine, &self.fences);
        let board = &engine.switchboard;
        let time = engine.deadline.min(MAX_TRANSACTION_TIME);
        let deadline = board.clock.in_future(time);
        let weight = weight(&self.writes);
        let mut routes = board.routes.load_full();
        let mut parts = group(&routes, self.writes);
        let mut pauses = Pauses::new();
        loop {
            let attempt = commit_parts(engine, &routes, &parts, fences, weight, deadline);
            match attempt.await {
                // One that only writes conflicts only with who has read its keys and is about to commit.
                Err(error @ (Error::Conflict { .. } | Error::Aborted { .. })) => {
                    board.alarms.sleep(pauses.next()).await;
                    if board.clock.now() >= deadline {
                        return Err(error);
                    }
                }
                Err(Error::Moved { .. }) => {
                    engine.rerouted(routes.epoch(), deadline).await?;
                    routes = board.routes.load_full();
                    let writes = parts.iter().flat_map(|part| part.writes.iter());
                    parts = group(&routes, writes.cloned());
                }
                answer => return answer,
            }
        }
    }
}

/// Bytes of the caller's key and value.
fn size(write: &Write) -> usize {
    let value = write.value.as_ref().map_or(0, |value| value.bytes.len());
    split_qualified(&write.key).1.len() + value
}

/// The writes by node, in the order of the nodes.
fn group(routes: &Routes, writes: impl IntoIterator<Item = Write>) -> Arc<[TxnPart]> {
    let mut parts: BTreeMap<NodeId, Vec<Write>> = BTreeMap::new();
    for write in writes {
        let (_, key) = split_qualified(&write.key);
        let node = routes.owner(key).node();
        parts.entry(node).or_default().push(write);
    }
    let parts = parts.into_iter().map(|(node, writes)| TxnPart {
        node,
        reads: Arc::default(),
        writes: writes.into(),
    });
    parts.collect()
}

async fn commit_parts(
    engine: &Engine,
    routes: &Routes,
    parts: &Arc<[TxnPart]>,
    fences: &[Fence],
    weight: usize,
    deadline: Time,
) -> Result<()> {
    match (&parts[..], fences) {
        ([], _) => Ok(()),
        ([part], []) => {
            let operation = Operation::Write(Arc::clone(&part.writes));
            let by_part = |_: &_| (routes.known(part.node), routes.epoch());
            let written = engine.write_until(operation, weight, deadline, by_part);
            written.await.map(drop)
        }
        _ => {
            let request = CommitRequest {
                txn: engine.next_txn(),
                epoch: routes.epoch(),
                deadline,
                parts: Arc::clone(parts),
                fences: fences.to_vec(),
                idempotency: None,
            };
            engine.commit(request, weight).await.map(drop)
        }
    }
}

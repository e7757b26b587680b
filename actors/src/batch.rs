//! Writes that are handed over together.

use crate::{
    Keyspace,
    engine::{Engine, check_value, weight},
    keyspace::expires_at_ms,
};
use bytes::Bytes;
use mailring_engine::{Error, Result, participant::Operation, value::Write};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    task::Poll,
    time::Duration,
};

/// Keys that one batch may write.
pub const MAX_BATCH_KEYS: usize = 100_000;
/// Bytes of keys and values that one batch may write (32 MiB).
pub const MAX_BATCH_BYTES: usize = 32 << 20;

/// Writes to any keyspaces, handed over together by [`Batch::commit`]. Of several writes to one key the last counts.
#[derive(Debug)]
#[must_use = "a batch writes nothing until `commit`"]
pub struct Batch {
    engine: Arc<Engine>,
    writes: Vec<(u16, Write)>,
    places: HashMap<Bytes, usize>,
    bytes: usize,
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

    /// Writes the batch. What goes to one node is written atomically; the batch as a whole is not atomic yet: after an
    /// error, or a crash, some nodes may have their part and others not. Keys with a common `{tag}` are on one node.
    ///
    /// # Errors
    ///
    /// What was wrong with the first bad key or value, or `BatchTooLarge`: nothing was written. What [`Keyspace::put`]
    /// answers, if every node has refused its part. `Unknown` if some nodes have, or may have, written theirs.
    pub async fn commit(self) -> Result<()> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let mut parts: BTreeMap<u16, Vec<Write>> = BTreeMap::new();
        for (node, write) in self.writes {
            parts.entry(node).or_default().push(write);
        }
        let engine = &self.engine;
        let mut running: Vec<_> = parts
            .into_iter()
            .map(|(node, writes)| {
                let weight = weight(&writes);
                let node = mailring_engine::ids::NodeId(node);
                Some(Box::pin(engine.write(
                    node,
                    Operation::Write(writes.into()),
                    weight,
                )))
            })
            .collect();
        let parts = running.len();
        let mut failures = Vec::new();
        std::future::poll_fn(|context| {
            for slot in &mut running {
                if let Some(part) = slot
                    && let Poll::Ready(result) = part.as_mut().poll(context)
                {
                    *slot = None;
                    failures.extend(result.err());
                }
            }
            if running.iter().all(Option::is_none) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        outcome_of(parts, failures)
    }
}

/// The outcome of a batch of so many parts. A failed part next to one that is written must not look as if nothing had
/// been written.
fn outcome_of(parts: usize, mut failures: Vec<Error>) -> Result<()> {
    let Some(first) = failures.first() else {
        return Ok(());
    };
    let is_whole = failures.len() == parts && failures.iter().all(Error::is_retryable);
    if parts == 1 || is_whole {
        return Err(failures.swap_remove(0));
    }
    Err(Error::Unknown {
        reason: format!(
            "{} of {parts} nodes have not written their part of the batch: {first}",
            failures.len()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_retryable_only_if_no_node_has_written_its_part() {
        let failure = || Error::DeadlineExceeded;
        assert_eq!(outcome_of(3, vec![]), Ok(()));
        assert_eq!(outcome_of(1, vec![failure()]), Err(failure()));
        assert_eq!(outcome_of(2, vec![failure(), failure()]), Err(failure()));
        let partly = outcome_of(2, vec![failure()]).unwrap_err();
        assert!(matches!(&partly, Error::Unknown { .. }), "{partly}");
        assert!(!partly.is_retryable());
    }
}

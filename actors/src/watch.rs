//! Watching committed changes.

use bytes::Bytes;
use mailring_engine::{
    ids::{KeyspaceId, Lsn},
    sequencer::Change,
    value::{KEYSPACE_PREFIX_BYTES, qualify},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::broadcast::{self, error::RecvError};

/// What a [`Watch`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key has a new value (`None`: it was removed). Expiry by time to live is not a change.
    Changed {
        /// When, in the order of all commits. Changes of one commit share it.
        lsn: Lsn,
        /// The key.
        key: Bytes,
        /// Its value.
        value: Option<Bytes>,
    },
    /// The watcher was too slow and missed changes. Later ones follow; read the keyspace again to catch up.
    Missed {
        /// Groups of changes that were missed.
        groups: u64,
    },
}

/// Committed changes of the keys with some prefix, in LSN order, each once it is durable and visible.
///
/// That the keyspace is dropped is no change of its keys: no event tells of it, and none comes any more, also not from a
/// newer keyspace of the same name.
#[derive(Debug)]
pub struct Watch {
    prefix: Bytes,
    since: Lsn,
    changes: broadcast::Receiver<Arc<Vec<Change>>>,
    ready: VecDeque<WatchEvent>,
}

impl Watch {
    pub(crate) fn new(
        keyspace: KeyspaceId,
        prefix: &[u8],
        since: Lsn,
        changes: broadcast::Receiver<Arc<Vec<Change>>>,
    ) -> Self {
        Self {
            prefix: qualify(keyspace, prefix),
            since,
            changes,
            ready: VecDeque::new(),
        }
    }

    /// The watch tells of every change after this LSN.
    #[must_use]
    pub fn since(&self) -> Lsn {
        self.since
    }

    /// The next event; `None` once the engine has shut down. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.changes.recv().await {
                Ok(changes) => self.take(&changes),
                Err(RecvError::Lagged(groups)) => return Some(WatchEvent::Missed { groups }),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn take(&mut self, changes: &[Change]) {
        for change in changes.iter().filter(|change| change.lsn > self.since) {
            for write in change.writes.iter() {
                if write.key.starts_with(&self.prefix) {
                    self.ready.push_back(WatchEvent::Changed {
                        lsn: change.lsn,
                        key: write.key.slice(KEYSPACE_PREFIX_BYTES..),
                        value: write.value.as_ref().map(|value| value.bytes.clone()),
                    });
                }
            }
        }
    }
}

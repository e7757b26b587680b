//! Watching committed changes.

use crate::watchers::Told;
use bytes::Bytes;
use mailring_engine::{
    ids::{KeyspaceId, Lsn},
    sequencer::Change,
    value::{KEYSPACE_PREFIX_BYTES, Write, qualify},
};
use std::sync::Arc;
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};

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
    /// The watcher was too slow and missed changes: it was more groups behind than [`Builder::watch_capacity`], or all
    /// watches together more bytes than their share of the memory budget. Later changes follow; read the keyspace again to
    /// catch up.
    ///
    /// [`Builder::watch_capacity`]: crate::Builder::watch_capacity
    Missed {
        /// Groups of changes that were missed, of whatever keys; of the first of them some may have been told.
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
    told: Receiver<Arc<Told>>,
    /// The group that is being read.
    reading: Option<Reading>,
}

/// A group, and where the next write in it stands that the watch is to tell: there is one.
#[derive(Debug)]
struct Reading {
    told: Arc<Told>,
    place: Place,
}

/// The number of a change in its group, and of a write in the change.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    change: usize,
    write: usize,
}

impl Watch {
    pub(crate) fn new(
        keyspace: KeyspaceId,
        prefix: &[u8],
        since: Lsn,
        told: Receiver<Arc<Told>>,
    ) -> Self {
        Self {
            prefix: qualify(keyspace, prefix),
            since,
            told,
            reading: None,
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
            if let Some(reading) = self.reading.take() {
                return Some(self.read(reading));
            }
            match self.told.recv().await {
                Ok(told) => {
                    if !self.begin(told) {
                        return Some(self.missed(1));
                    }
                }
                Err(RecvError::Lagged(groups)) => return Some(self.missed(groups)),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Begins to read a group, if anything in it is to be told. `false`: it was given up before.
    fn begin(&mut self, told: Arc<Told>) -> bool {
        if told.last() <= self.since {
            return true;
        }
        let changes = told.changes();
        let Some(group) = &*changes else {
            return false;
        };
        let found = self.find(group, Place::default());
        drop(changes);
        self.reading = found.map(|place| Reading { told, place });
        true
    }

    /// Tells what stands at a place, and looks for the next one already: who has been told all of a group does not hold it.
    fn read(&mut self, Reading { told, place }: Reading) -> WatchEvent {
        let changes = told.changes();
        let Some(group) = &*changes else {
            return self.missed(1);
        };
        let change = &group[place.change];
        let event = event(change.lsn, &change.writes[place.write]);
        let behind = Place {
            write: place.write + 1,
            ..place
        };
        let found = self.find(group, behind);
        drop(changes);
        self.reading = found.map(|place| Reading { told, place });
        event
    }

    /// The first write from a place on that this watch is to tell.
    fn find(&self, group: &[Change], from: Place) -> Option<Place> {
        let Place { change, mut write } = from;
        for (number, change) in group.iter().enumerate().skip(change) {
            if change.lsn > self.since {
                let mut rest = change.writes[write..].iter();
                let is_told = |write: &Write| write.key.starts_with(&self.prefix);
                if let Some(found) = rest.position(is_told) {
                    return Some(Place {
                        change: number,
                        write: write + found,
                    });
                }
            }
            write = 0;
        }
        None
    }

    /// So many groups were missed, and those behind them that are gone too.
    fn missed(&mut self, mut groups: u64) -> WatchEvent {
        while self.reading.is_none() {
            match self.told.try_recv() {
                Ok(told) => groups += u64::from(!self.begin(told)),
                Err(TryRecvError::Lagged(more)) => groups += more,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        WatchEvent::Missed { groups }
    }
}

fn event(lsn: Lsn, write: &Write) -> WatchEvent {
    WatchEvent::Changed {
        lsn,
        key: write.key.slice(KEYSPACE_PREFIX_BYTES..),
        value: write.value.as_ref().map(|value| value.bytes.clone()),
    }
}

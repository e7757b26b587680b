//! The work of the mover's thread: copying what a node holds on some arcs, following what is committed there, and sweeping.
//!
//! All three feed sorted runs to trees, in the stored form, through a callback, and read through another that paces
//! them: it is called after each few KiB, may sleep, and ends the work by an error. Memory is bounded by the
//! chunk: what is collected for all targets together is handed on when it has that many bytes.
//!
//! ```text
//!  tree, generations ── at P, in key order ──▶ filter by arc ──▶ a chunk of sorted runs, one a target ──▶ copy
//!  journal (P, Q] ──── parts of the source ──▶ filter by arc ──▶ newest version a key, tombstones too ──▶ follow
//!  tree ───────────────────────────────────▶ filter by arc ──▶ tombstones ─────────────────────────────▶ sweep
//! ```
//!
//! A copy hands on live pairs only, since its targets hold nothing of the arcs. A follow hands on tombstones too, and a
//! value that has expired as it is: either may hide a pair of the copy. If it takes several runs, the later ones hold
//! the later versions, so a follow that is repeated from where it began comes to the same.
//!
//! Keys of a keyspace that was dropped are left out. One that is not known yet is kept: the catalogue is the caller's,
//! and may be older than what is read.

use super::{message::Moved, plan::Targets};
use crate::{
    error::{Error, Result},
    ids::{KeyspaceId, Lsn, NodeId},
    journal::{JournalReader, record::RecordBody},
    keyspaces::Keyspaces,
    ring::ArcSet,
    scan::Merge,
    store::{RunEntry, StoreView, runs::Direction},
    value::{KEYSPACE_PREFIX_BYTES, Value, Write, split_qualified},
    view::NodeView,
};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt, ops::Bound};

/// Bytes that are collected for all targets together before they are handed on.
pub const CHUNK_BYTES: usize = 32 << 20;

/// Bytes that are read between two calls of the pacing callback. Few: where threads outnumber cores, whoever wakes may wait
/// for the end of such a stretch, and a hundred microseconds are less than a force.
const PACED_BYTES: u64 = 16 << 10;

/// Takes a sorted run for the tree of a node: ingests it, or fails.
pub type Sink<'a> = dyn FnMut(NodeId, Vec<RunEntry>) -> Result<()> + 'a;
/// Is told how many bytes were read since the last call. May sleep; an error ends the work.
pub type Pace<'a> = dyn FnMut(u64) -> Result<()> + 'a;

/// What the work needs of its surroundings.
pub struct Carry<'a> {
    /// The keyspaces, at least as new as any that was dropped and shall be left out.
    pub keyspaces: &'a Keyspaces,
    /// Bytes that are collected before they are handed on; [`CHUNK_BYTES`] unless somebody knows better.
    pub chunk_bytes: usize,
    /// Takes the runs.
    pub sink: &'a mut Sink<'a>,
    /// Paces the reading.
    pub pace: &'a mut Pace<'a>,
}

impl fmt::Debug for Carry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carry")
            .field("chunk_bytes", &self.chunk_bytes)
            .finish_non_exhaustive()
    }
}

impl Carry<'_> {
    /// Copies the pairs of a node's view at `at` whose arcs leave to their targets. Values that have expired at `now_ms`
    /// (milliseconds since the Unix epoch) are left out.
    ///
    /// # Errors
    ///
    /// What the store reports, and the errors of the callbacks. What was handed on before stays where it is.
    ///
    /// # Panics
    ///
    /// Panics if the view's tree is complete beyond `at`: it may hold newer versions, and lack those at `at`.
    pub fn copy(
        &mut self,
        view: &NodeView,
        at: Lsn,
        targets: &Targets,
        now_ms: u64,
    ) -> Result<Moved> {
        assert!(
            view.complete <= at,
            "a copy at LSN {at} of a tree that is complete up to {}",
            view.complete
        );
        let everything = Bound::Unbounded;
        let sources = view.sources(&everything, &everything, at, Direction::Forward);
        let mut runs = Runs::new(self, targets.nodes());
        for pair in Merge::new(sources, Direction::Forward, now_ms) {
            let (key, value) = pair?;
            runs.read(key.len() + value.bytes.len())?;
            if let Some(place) = targets.place_of(&key) {
                runs.push(place, key, Some(value.encode()))?;
            }
        }
        runs.finish()
    }

    /// Hands on what the journal holds of a node's commits in (`after`, `through`] on the arcs that leave.
    ///
    /// # Errors
    ///
    /// As [`JournalReader::replay`], [`Error::Unknown`] if the journal ends before `through`, and the errors of the
    /// callbacks. What was handed on before stays; following again from `after` puts that right.
    pub fn follow(
        &mut self,
        journal: &JournalReader,
        source: NodeId,
        targets: &Targets,
        after: Lsn,
        through: Lsn,
    ) -> Result<Moved> {
        let mut newest = Newest::default();
        let limit = self.chunk_bytes;
        let mut runs = Runs::new(self, targets.nodes());
        let reached = journal.replay(after, through, &mut |record| {
            let RecordBody::Commit { parts, .. } = record.body else {
                return runs.read(0);
            };
            for write in parts.iter().flat_map(|part| &part.writes) {
                runs.read(write.key.len() + write.value.as_ref().map_or(0, |v| v.bytes.len()))?;
            }
            let own = parts.iter().filter(|part| part.node == source);
            for write in own.flat_map(|part| &part.writes) {
                if let Some(place) = targets.place_of(&write.key) {
                    newest.insert(place, write);
                    if newest.bytes >= limit {
                        newest.drain_into(&mut runs)?;
                    }
                }
            }
            Ok(())
        })?;
        if reached < through {
            return Err(Error::Unknown {
                reason: format!(
                    "the journal ends at LSN {reached}, what node {source} hands over is needed up to {through}"
                ),
            });
        }
        newest.drain_into(&mut runs)?;
        runs.finish()
    }

    /// Hands on a tombstone for every pair of a node's tree that lies on one of the arcs.
    ///
    /// # Errors
    ///
    /// What the store reports, and the errors of the callbacks.
    pub fn sweep(&mut self, tree: &dyn StoreView, node: NodeId, arcs: &ArcSet) -> Result<Moved> {
        let nodes = [node];
        let mut runs = Runs::new(self, &nodes);
        for pair in tree.range(Bound::Unbounded, Bound::Unbounded) {
            let (key, stored) = pair?;
            runs.read(key.len() + stored.len())?;
            if key.len() >= KEYSPACE_PREFIX_BYTES && arcs.contains_qualified(&key) {
                runs.push(0, key, None)?;
            }
        }
        runs.finish()
    }
}

/// The runs of one chunk, by the places of their targets.
struct Runs<'r, 'a> {
    carry: &'r mut Carry<'a>,
    nodes: &'r [NodeId],
    runs: Vec<Vec<RunEntry>>,
    bytes: usize,
    moved: Moved,
    /// Read since the last call of the pacing callback.
    unpaced: u64,
    /// The keyspace of the last key, and whether it is gone: keys of a keyspace stand together.
    gone: Option<(KeyspaceId, bool)>,
}

impl<'r, 'a> Runs<'r, 'a> {
    fn new(carry: &'r mut Carry<'a>, nodes: &'r [NodeId]) -> Self {
        Self {
            carry,
            nodes,
            runs: vec![Vec::new(); nodes.len()],
            bytes: 0,
            moved: Moved::default(),
            unpaced: 0,
            gone: None,
        }
    }

    fn read(&mut self, bytes: usize) -> Result<()> {
        self.unpaced += bytes as u64;
        if self.unpaced >= PACED_BYTES {
            (self.carry.pace)(std::mem::take(&mut self.unpaced))?;
        }
        Ok(())
    }

    fn is_gone(&mut self, key: &[u8]) -> bool {
        let keyspace = split_qualified(key).0;
        match self.gone {
            Some((last, is_gone)) if last == keyspace => is_gone,
            _ => {
                let known = self.carry.keyspaces;
                let is_gone = keyspace < known.next_id() && !known.contains(keyspace);
                self.gone = Some((keyspace, is_gone));
                is_gone
            }
        }
    }

    fn push(&mut self, place: usize, key: Bytes, stored: Option<Bytes>) -> Result<()> {
        if self.is_gone(&key) {
            return Ok(());
        }
        let bytes = key.len() + stored.as_ref().map_or(0, Bytes::len);
        self.moved = self.moved.and(Moved {
            keys: 1,
            bytes: bytes as u64,
        });
        self.bytes += bytes + size_of::<RunEntry>();
        self.runs[place].push((key, stored));
        if self.bytes >= self.carry.chunk_bytes {
            self.hand_on()?;
        }
        Ok(())
    }

    fn hand_on(&mut self) -> Result<()> {
        self.bytes = 0;
        for (node, run) in self.nodes.iter().zip(&mut self.runs) {
            if !run.is_empty() {
                (self.carry.sink)(*node, std::mem::take(run))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Moved> {
        self.hand_on()?;
        (self.carry.pace)(self.unpaced)?;
        Ok(self.moved)
    }
}

/// The newest version of each key that a follow has met since it last handed on.
#[derive(Default)]
struct Newest {
    versions: BTreeMap<Bytes, (usize, Option<Bytes>)>,
    bytes: usize,
}

impl Newest {
    /// Records come in the order of their LSNs, so the last one wins.
    fn insert(&mut self, place: usize, write: &Write) {
        /// A key, its version and what the table needs for them.
        const ENTRY_BYTES: usize = 112;
        // Copies, since a key and a value of a record keep all of its bytes in memory.
        let stored = write.value.as_ref().map(Value::encode);
        let added = stored.as_ref().map_or(0, Bytes::len);
        let removed = match self.versions.get_mut(&write.key) {
            Some((_, version)) => {
                let before = std::mem::replace(version, stored);
                before.map_or(0, |before| before.len())
            }
            None => {
                self.bytes += write.key.len() + ENTRY_BYTES;
                let key = Bytes::copy_from_slice(&write.key);
                self.versions.insert(key, (place, stored));
                0
            }
        };
        self.bytes = self.bytes + added - removed;
    }

    fn drain_into(&mut self, runs: &mut Runs<'_, '_>) -> Result<()> {
        self.bytes = 0;
        for (key, (place, stored)) in std::mem::take(&mut self.versions) {
            runs.push(place, key, stored)?;
        }
        // What comes later may be of the same keys, and must not be in the same run.
        runs.hand_on()
    }
}

#[cfg(test)]
#[path = "carry_tests.rs"]
mod tests;

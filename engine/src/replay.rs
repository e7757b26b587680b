//! Recovery: what a directory's journal adds to its manifest, before anybody runs.
//!
//! ```text
//!  manifest: keyspaces, outcomes, ring, lives as of its last LSN L; trees complete up to LSN c of each node
//!  journal:  records from the lowest c on
//!              commit ──▶ each part above its node's c: into the node's generation
//!              keyspace, outcome, ring above L ──▶ into what the manifest says
//!              fence ──▶ the node's life is a later one
//! ```
//!
//! The ring moves by the same records as in the sequencer, so that both come to the same ([`crate::ring_state`]). Where arcs
//! were cut, what the journal brings of them for their old owner from before the Cut is left out: the new owner has it, in
//! its tree, and nobody reads at an LSN below the Cut any more. A node that was removed gets nothing.
//!
//! The Cut may be older than the manifest, which then says who owns the arc: a source that was down when it was cut is behind
//! with its tree for as long as it stays down, and its change may have ended meanwhile. Whatever a node has written up to the
//! manifest's last LSN on an arc that was not its own any more there is left out. (That an arc has come back to it by then,
//! and what it holds is of before, can't be: no arc comes to a node whose tree is behind, see [`crate::motion`].)
//!
//! # Invariants
//!
//! - What the journal names and the manifest does not know is an error, not a loss.
//! - The result does not depend on how far the manifest was, as long as the journal reaches back to the lowest complete LSN.

use crate::{
    disk::Disk,
    error::{Error, Result},
    generation::Generation,
    ids::{Incarnation, KeyspaceId, Lsn, NodeId, Time},
    journal::record::{CommitPart, Record, RecordBody},
    keyspaces::Keyspaces,
    manifest::{MANIFEST_FILE, Manifest},
    outcomes::{OutcomeLimits, Outcomes},
    ring::Ring,
    ring_state::{FIRST_LIFE, RingRecord, RingState},
    store::{Store, StoreView},
    sync::AtomicUsize,
    value::split_qualified,
    view::{Frozen, NodeTable, NodeView},
};
use std::{path::PathBuf, sync::Arc, time::Duration};

impl Manifest {
    /// Counts one more opening, which gives leases up to `max_lease`. Answers how long leases of an earlier opening may
    /// go on: an engine that stops tells every holder of a lock, but after a crash, one that was not told may go on until
    /// its lease is over. To be saved before anything else is done.
    #[must_use]
    pub fn begin_opening(&mut self, max_lease: Duration) -> Duration {
        // A salt is used for one opening only: the count is forced before anything is written under it.
        self.openings += 1;
        self.clean_shutdown = false;
        let old_leases = self.longest_lease;
        self.longest_lease = old_leases.max(max_lease);
        for progress in &mut self.progress {
            progress.incarnation = progress.incarnation.next();
        }
        old_leases
    }
}

/// A node as it is found: those that were removed too, with nothing in them.
#[derive(Debug)]
pub struct ReplayedNode {
    /// How far its tree is complete.
    pub complete: Lsn,
    /// A life that is later than any before.
    pub incarnation: Incarnation,
    /// What is not in its tree.
    pub generation: Generation,
    joins: bool,
}

impl ReplayedNode {
    /// A node that joins a running engine, into whose empty `generation` goes what comes behind `complete`.
    #[must_use]
    pub fn joining(complete: Lsn, generation: Generation) -> Self {
        Self {
            complete,
            incarnation: FIRST_LIFE,
            generation,
            joins: true,
        }
    }

    /// The table of this node over its tree, when the journal ends at `last`.
    #[must_use]
    pub fn table(self, node: NodeId, tree: Arc<dyn StoreView>, last: Lsn) -> NodeTable {
        let active = Arc::new(self.generation.successor());
        let frozen = match self.generation.is_empty() {
            true => Vec::new(),
            false => vec![Frozen {
                through: last,
                generation: Arc::new(self.generation),
            }],
        };
        let view = NodeView {
            active,
            frozen,
            tree,
            complete: self.complete,
            floor: Lsn(0),
            leaving: None,
        };
        let table = NodeTable::new(node, view);
        match self.joins {
            true => table.joining(),
            false => table,
        }
    }
}

/// What a directory knows: its manifest, and what the journal has added so far.
#[derive(Debug)]
pub struct Replay {
    /// The catalogue of keyspaces.
    pub keyspaces: Keyspaces,
    /// What became of transactions.
    pub outcomes: Outcomes,
    /// The ring, with its nodes and a change that is under way.
    pub ring: RingState,
    /// The nodes by number.
    pub nodes: Vec<ReplayedNode>,
    /// Up to here the manifest has the sum of the records.
    catalogue_lsn: Lsn,
    manifest_file: PathBuf,
    gauge: Arc<AtomicUsize>,
}

impl Replay {
    /// What the manifest says. [`Manifest::begin_opening`] must have raised the number of the opening and the lives of the
    /// nodes already. The generations count in `gauge`.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptManifest`] if it contradicts itself.
    pub fn new(
        manifest: &Manifest,
        disk: &dyn Disk,
        limits: OutcomeLimits,
        gauge: Arc<AtomicUsize>,
    ) -> Result<Self> {
        let ring = manifest.ring(disk)?;
        let node = |progress: &crate::manifest::NodeProgress| ReplayedNode {
            complete: progress.complete,
            incarnation: progress.incarnation,
            generation: Generation::with_gauge(Arc::clone(&gauge)),
            joins: false,
        };
        Ok(Self {
            keyspaces: manifest.keyspaces(disk)?,
            outcomes: Outcomes::restored(manifest.openings, limits, &manifest.outcomes),
            nodes: manifest.progress.iter().map(node).collect(),
            ring,
            catalogue_lsn: manifest.last_lsn,
            manifest_file: disk.path(MANIFEST_FILE),
            gauge,
        })
    }

    /// The LSN behind which the journal is to be read.
    #[must_use]
    pub fn after(&self) -> Lsn {
        let live = self.ring.live();
        let complete = live.map(|node| self.nodes[usize::from(node.0)].complete);
        complete.min().unwrap_or_default().min(self.catalogue_lsn)
    }

    /// Takes in one record of the journal; they come in order.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptManifest`] if the manifest can't be that of this journal.
    pub fn visit(&mut self, record: Record) -> Result<()> {
        let lsn = record.lsn;
        match record.body {
            RecordBody::Commit { txn, parts } => {
                if let Some(tag) = txn.filter(|_| lsn > self.catalogue_lsn) {
                    self.outcomes.commit(lsn, tag, Time(0));
                }
                for part in &parts {
                    self.install(lsn, part)?;
                }
            }
            RecordBody::Fence { node, incarnation } => {
                let current = &mut self.node(lsn, node)?.incarnation;
                *current = incarnation.next().max(*current);
            }
            // The manifest has these.
            RecordBody::CreateKeyspace { .. }
            | RecordBody::DropKeyspace { .. }
            | RecordBody::Ring(_)
                if lsn <= self.catalogue_lsn => {}
            RecordBody::CreateKeyspace { id, name } => {
                let created = self.keyspaces.install_create(id, &name);
                created.map_err(|error| self.contradicts(lsn, &error))?;
            }
            RecordBody::DropKeyspace { id } => {
                self.keyspaces.install_drop(id);
            }
            RecordBody::Ring(ring) => self.change_ring(lsn, &ring)?,
            // Those who read several journals put it together first.
            RecordBody::Spread { .. } => {
                let reason = "it is spread over directories of which the manifest knows nothing";
                let reason = Error::RingChangeRefused { reason };
                return Err(self.contradicts(lsn, &reason));
            }
        }
        Ok(())
    }

    /// The keyspaces that were dropped, whenever that was.
    pub fn dropped(&self) -> impl Iterator<Item = KeyspaceId> {
        let given = (1..self.keyspaces.next_id().0).map(KeyspaceId);
        given.filter(|id| !self.keyspaces.contains(*id))
    }

    /// Has stores hide what was dropped: it may not have been hidden in every store when the engine stopped.
    ///
    /// # Errors
    ///
    /// That of a store.
    pub fn hide_dropped<'a>(&self, stores: impl IntoIterator<Item = &'a dyn Store>) -> Result<()> {
        let spans = self.keyspaces.dropped_spans();
        for store in stores {
            store.drop_spans(&spans)?;
        }
        Ok(())
    }

    fn install(&mut self, lsn: Lsn, part: &CommitPart) -> Result<()> {
        let is_live = self.ring.is_live(part.node);
        // Up to there the ring is the manifest's: what another owns by that one was cut in between.
        let ring = (lsn <= self.catalogue_lsn).then(|| Arc::clone(self.ring.ring()));
        let node = self.node(lsn, part.node)?;
        if !is_live || lsn <= node.complete {
            return Ok(());
        }
        for write in &part.writes {
            let owner = |ring: &Arc<Ring>| ring.owner(split_qualified(&write.key).1);
            let is_lost = |ring| owner(ring) != part.node;
            if !ring.as_ref().is_some_and(is_lost) {
                node.generation.insert(lsn, write);
            }
        }
        Ok(())
    }

    fn change_ring(&mut self, lsn: Lsn, record: &RingRecord) -> Result<()> {
        let applied = self.ring.apply(lsn, record);
        applied.map_err(|error| self.contradicts(lsn, &error))?;
        match record {
            RingRecord::Began(_) => {
                // A life of it may have run before.
                let joined = || ReplayedNode {
                    complete: lsn,
                    incarnation: FIRST_LIFE.next(),
                    generation: Generation::with_gauge(Arc::clone(&self.gauge)),
                    joins: false,
                };
                let slots = self.ring.slots().len();
                self.nodes.resize_with(slots, joined);
            }
            RingRecord::Cut { from, .. } => {
                if let Some((arcs, _)) = self.ring.lost_by(*from) {
                    let node = &mut self.nodes[usize::from(from.0)];
                    node.generation = node.generation.without(|key| arcs.contains_qualified(key));
                }
            }
            RingRecord::Cleaned { .. } => {}
            RingRecord::Ended { .. } => {
                for (number, node) in (0_u16..).zip(&mut self.nodes) {
                    if !self.ring.is_live(NodeId(number)) {
                        node.generation = node.generation.successor();
                    }
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, lsn: Lsn, node: NodeId) -> Result<&mut ReplayedNode> {
        let file = &self.manifest_file;
        let known = self.nodes.get_mut(usize::from(node.0));
        known.ok_or_else(|| Error::CorruptManifest {
            file: file.clone(),
            reason: format!("the journal names node {node} at LSN {lsn}, which it does not know"),
        })
    }

    fn contradicts(&self, lsn: Lsn, error: &Error) -> Error {
        Error::CorruptManifest {
            file: self.manifest_file.clone(),
            reason: format!("the journal's record at LSN {lsn} does not fit it: {error}"),
        }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;

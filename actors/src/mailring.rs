//! The handle.

use crate::{
    Backup, Batch, Builder, Keyspace, Locks, RestoreLoss, Restored, Snapshot, Stats, Verification,
    backup, builder::Place, engine::Engine, journal::KeyspaceRequest, member::Member,
    offload::offload, stats::NodeStats,
};
use mailring_engine::{
    Error, Result,
    ids::{Lsn, NodeId},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

/// A running engine. Cheap to clone; all clones are the same engine, and it may be used from any thread, inside or
/// outside of any async runtime. The engine stops when the last clone, and everything made from it, is dropped.
#[derive(Debug, Clone)]
pub struct Mailring {
    pub(crate) engine: Arc<Engine>,
}

impl Mailring {
    /// Settings of an engine that keeps its data in `directory`.
    pub fn builder(directory: impl Into<PathBuf>) -> Builder {
        Builder::new(Place::Directory(directory.into()))
    }

    /// Settings of an engine that keeps its data in memory and forgets it when it is dropped.
    pub fn memory() -> Builder {
        Builder::new(Place::Memory)
    }

    /// Opens a keyspace, and creates it if it is not there. Names have 1 to 255 bytes of UTF-8 without control
    /// characters; an engine holds up to 4,096 keyspaces.
    ///
    /// Dropping the future: a keyspace that was not there may be created all the same.
    ///
    /// # Errors
    ///
    /// `InvalidKeyspaceName`, and to create it `ReadOnly`, `DiskFull`, `Overloaded`, `Unknown`; `Closed`.
    #[tracing::instrument(level = "debug", skip(self))]
    pub async fn keyspace(&self, name: &str) -> Result<Keyspace> {
        let state = match self.engine.switchboard.keyspaces.known(name) {
            Some(state) => state,
            None => {
                let request = KeyspaceRequest::Create(name.to_owned());
                self.engine.create_or_drop_keyspace(request).await?
            }
        };
        Ok(Keyspace::new(Arc::clone(&self.engine), state))
    }

    /// The names of all keyspaces, in order.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded` (the journal hangs), `ReadOnly` or `Unknown` (it has stopped), `Closed`.
    pub async fn keyspaces(&self) -> Result<Vec<String>> {
        let catalogue = self.engine.describe().await?;
        Ok(catalogue
            .keyspaces
            .iter()
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    /// Drops a keyspace and all of its keys. Handles of it answer `KeyspaceNotFound` from then on; a new keyspace of
    /// the same name begins empty. Disk space is given back by later checkpoints.
    ///
    /// Dropping the future does not take it back: once it was polled it may be carried out.
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound`, `DiskFull` and `Overloaded` (nothing was dropped: the journal has no room), `ReadOnly`,
    /// `Unknown`, `Closed`. That a tree could not be cleaned up is none: the next opening does it.
    #[tracing::instrument(level = "debug", skip(self))]
    pub async fn drop_keyspace(&self, name: &str) -> Result<()> {
        let request = KeyspaceRequest::Drop(name.to_owned());
        let dropped = self.engine.create_or_drop_keyspace(request).await?;
        // It is dropped for good, whatever comes of the rest: should the caller walk away now, or a tree refuse, the next
        // opening gives the space back.
        let engine = Arc::clone(&self.engine);
        // A tree that is being merged makes this wait.
        let cleaned = offload("drop", move || {
            let prefix = dropped.id().0.to_be_bytes();
            engine.switchboard.cache.remove_prefix(&prefix);
            let routes = engine.switchboard.routes.load_full();
            let mut cleaned = Ok(());
            for member in routes.nodes() {
                cleaned = cleaned.and(member.store.drop_prefix(&prefix));
            }
            cleaned
        });
        if let Err(error) = cleaned.await {
            tracing::warn!(%error, keyspace = name, "the space of a dropped keyspace comes back with the next opening");
        }
        Ok(())
    }

    /// Named locks with leases and fencing tokens.
    #[must_use]
    pub fn locks(&self) -> Locks {
        Locks::new(Arc::clone(&self.engine))
    }

    /// A batch of writes to any keyspaces.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.engine))
    }

    /// A consistent view of all keyspaces over all nodes, as of now, for as long as it is held. It costs the memory of
    /// the generations it holds, and waits for nobody; nobody waits for it.
    ///
    /// # Errors
    ///
    /// `NodeDown` if any node is down, `Closed`.
    #[tracing::instrument(level = "debug", skip_all, err(level = "debug"))]
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::new(Arc::clone(&self.engine), self.engine.pin()?))
    }

    /// Writes everything that is only in memory and in the journal into the trees, compacts them as far as is due, and
    /// lets the journal forget it. Answers the LSN up to which the trees are complete. Happens by itself as well.
    ///
    /// Dropping the future lets it finish.
    ///
    /// # Errors
    ///
    /// `ReadOnly`, `DiskFull`, `CorruptTree`, `Io`, `Closed`.
    #[tracing::instrument(level = "info", skip_all)]
    pub async fn checkpoint(&self) -> Result<Lsn> {
        self.engine.checkpoint().await
    }

    /// Writes a consistent copy of everything visible now into `directory`, which must not exist or be empty, while
    /// the engine serves. The copy is a directory like any other: open it with [`Mailring::builder`]. It is
    /// one, also of an engine that has several. An in-memory engine can be backed up as well.
    ///
    /// A backup that fails removes what it has written. Dropping the future lets it finish.
    ///
    /// # Errors
    ///
    /// `InvalidOption` (there is something in the directory), `DirectoryInUse`, `Io`, `DiskFull`, `CorruptTree`,
    /// `NodeDown`, `DeadlineExceeded` (the journal hangs), `ReadOnly`, `Unknown`, `Closed`.
    #[tracing::instrument(level = "info", skip_all)]
    pub async fn backup(&self, directory: impl AsRef<Path>) -> Result<Backup> {
        backup::backup(&self.engine, directory.as_ref()).await
    }

    /// Reads all trees and what is in memory, and checks them: every block of every tree against its checksum, every
    /// value's form, and that every key is where the ring says. The engine serves meanwhile. The journal is not read: it
    /// was when the engine was opened, and [`Mailring::verify_directory`] does.
    ///
    /// Dropping the future lets it finish.
    ///
    /// # Errors
    ///
    /// The first thing found wrong: `CorruptTree`, `NodeDown`, `Io`; `DeadlineExceeded` (the journal hangs), `ReadOnly` or
    /// `Unknown` (it has stopped), `Closed`.
    #[tracing::instrument(level = "info", skip_all)]
    pub async fn verify(&self) -> Result<Verification> {
        crate::verify::verify_online(&self.engine).await
    }

    /// Checks a directory that no engine has open, trees and journal. Nothing of what it holds is changed; leftovers of
    /// writes that were cut short may go. Blocks. Of an engine that has several directories the first one is named, and all
    /// are checked, where they were last; where some have moved, or this is a copy, [`Builder::verify`] says where they are.
    ///
    /// # Errors
    ///
    /// The first thing found wrong: `CorruptTree`, `CorruptJournal`, `CorruptManifest`, `NewerFormat`, `Io`; or `NoEngine`,
    /// `DirectoryInUse`, `DirectoryMissing`, `DirectoryBehind`.
    pub fn verify_directory(directory: impl AsRef<Path>) -> Result<Verification> {
        Self::builder(directory.as_ref()).verify()
    }

    /// Puts the tree of one node from a backup in the place of the one that can't be read, in a directory that no engine has open.
    /// What the node has committed since the backup comes from the journal when the directory is opened. The damaged tree is kept
    /// beside, under the name that is answered. Blocks. Where some of several directories have moved, or this is a copy,
    /// [`Builder::restore_node`] says where they are.
    ///
    /// # Errors
    ///
    /// `InvalidOption` with why the backup does not fit: above all, if the journal does not reach back to it, which can be
    /// accepted (`loss`). `NoEngine`, `DirectoryInUse`, `CorruptTree` and `CorruptManifest` (of either), `CorruptJournal`,
    /// `DiskFull`, `Io`. Nothing has changed then, or the same call can be made again.
    pub fn restore_node(
        directory: impl AsRef<Path>,
        node: NodeId,
        backup: impl AsRef<Path>,
        loss: RestoreLoss,
    ) -> Result<Restored> {
        Self::builder(directory.as_ref()).restore_node(node, backup, loss)
    }

    /// Figures as of now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let switchboard = &self.engine.switchboard;
        let [
            journal_groups,
            journal_records,
            journal_forces,
            journal_bytes,
            checkpoints,
        ] = switchboard.telemetry.totals();
        let [commits, aborts, conflicts, retries] = switchboard.telemetry.transaction_totals();
        let checkpoint_failure = switchboard.budget.blocked();
        let routes = switchboard.routes.load();
        let nodes = routes.nodes().iter().map(|node| node_stats(node)).collect();
        Stats {
            nodes,
            durable_lsn: switchboard.durable(),
            visible_lsn: switchboard.visible.load(),
            journal_groups,
            journal_records,
            journal_forces,
            journal_bytes,
            commits,
            aborts,
            conflicts,
            retries,
            committing: switchboard.coordinator_running.load(Ordering::Relaxed),
            prepared: switchboard.prepared(),
            parked: switchboard.parked(),
            checkpoints,
            generation_bytes: switchboard.budget.generation_bytes(),
            in_flight_bytes: switchboard.budget.in_flight_bytes(),
            transaction_bytes: switchboard.budget.open_bytes(),
            watch_bytes: switchboard.budget.watch_bytes(),
            cache_bytes: switchboard.cache.bytes(),
            index_bytes: switchboard.cache_share.held(),
            coordinator_down: switchboard.coordinator_down.get().cloned(),
            locks_down: switchboard.locks_down.get().cloned(),
            read_only: switchboard.read_only.get().cloned(),
            disk_full: switchboard.space_error().or_else(|| {
                let is_full = |error: &Error| matches!(error, Error::DiskFull { .. });
                checkpoint_failure.clone().filter(is_full)
            }),
            checkpoint_failure,
            change: switchboard.showing.progress(),
        }
    }

    /// Makes a last checkpoint, so that opening again is quick, and stops all actors and threads. Other clones answer
    /// `Closed` from then on. An engine that is read-only stops without the checkpoint. Dropping the future leaves the
    /// engine closed; its threads then stop with the last clone.
    ///
    /// # Errors
    ///
    /// What the last checkpoint reports; the engine is stopped all the same, and nothing acknowledged is lost.
    #[tracing::instrument(level = "info", skip_all)]
    pub async fn shutdown(&self) -> Result<()> {
        if self.engine.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let outcome = match self.engine.switchboard.read_only.get() {
            Some(_) => Ok(()),
            None => self.engine.checkpoint_while_closing().await.map(|_| ()),
        };
        let Some(threads) = self.engine.take_threads() else {
            return outcome;
        };
        let clean = outcome.is_ok() && self.engine.switchboard.read_only.get().is_none();
        let stopped = offload("stop", move || threads.stop_cleanly(clean)).await;
        match self.engine.switchboard.read_only.get() {
            // That the journal of a read-only engine can't be closed is no news.
            Some(_) => outcome,
            None => outcome.and(stopped),
        }
    }
}

fn node_stats(member: &Member) -> NodeStats {
    let (figures, health) = (&member.figures, member.health.load());
    let view = member.table.view();
    NodeStats {
        node: member.node(),
        state: member.state(),
        last_failure: health.last_failure.clone(),
        restarts: health.restarts,
        queue_depth: member.queue.depth(),
        reads: figures.reads_total(),
        writes: figures.writes_total(),
        generation_bytes: view.generations().map(|g| g.bytes()).sum(),
        complete_lsn: view.complete,
        tree: member.store.stats(),
    }
}

//! From a directory to what its engine knew: manifest, trees, and the journal replayed into generations.
//!
//! A tree that can't be read isolates its node, and the others serve: its files stay as they are, and so does the journal that it
//! has not written yet. Where no node can be read there is nothing to serve, and the directory does not open.

use super::{
    nodes::Stores,
    settings::{check_arcs, check_nodes, new_manifest},
};
use crate::{Builder, member::Member};
use mailring_engine::{
    Error, Result,
    disk::Disk,
    ids::{Incarnation, Lsn, NodeId},
    journal::{Journal, JournalOptions, record::Record},
    keyspaces::Keyspaces,
    manifest::Manifest,
    outcomes::{OutcomeLimits, Outcomes},
    replay::Replay,
    ring_state::RingState,
    store::{Store, unreadable::Unreadable},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

/// What was read back from a directory.
pub(super) struct Recovered {
    pub(super) manifest: Manifest,
    pub(super) ring: RingState,
    pub(super) keyspaces: Keyspaces,
    pub(super) outcomes: Outcomes,
    /// By node number, those that have left included; so are the complete LSNs.
    pub(super) lives: Vec<Incarnation>,
    pub(super) complete: Vec<Lsn>,
    pub(super) opener: Stores,
    /// Those that take part.
    pub(super) nodes: Vec<Arc<Member>>,
    pub(super) journal: Journal,
    pub(super) last_lsn: Lsn,
    /// How long leases of an earlier opening may go on.
    pub(super) old_leases: Duration,
}

pub(super) fn recover(
    builder: &Builder,
    disk: &Arc<dyn Disk>,
    directory: &Path,
    now_ms: &Arc<AtomicU64>,
    held_indexes: &Arc<AtomicU64>,
    gauge: &Arc<AtomicUsize>,
) -> Result<Recovered> {
    let found = Manifest::load(&**disk)?;
    let is_new = found.is_none();
    let mut manifest = match found {
        Some(manifest) => {
            check_arcs(builder, &manifest)?;
            manifest
        }
        None if !builder.create => {
            return Err(Error::NoEngine {
                path: directory.to_owned(),
            });
        }
        None => new_manifest(builder)?,
    };
    let was_clean = manifest.clean_shutdown;
    let old_leases = manifest.begin_opening(builder.max_lease);
    let options = JournalOptions {
        segment_bytes: builder.segment_bytes,
        salt: manifest.openings,
        ..JournalOptions::default()
    };
    // The journal of a new directory comes before its manifest: where the manifest is missing and commits are there,
    // nothing may be written that looks like a directory. A creation cut short in between begins again.
    let created = match is_new {
        true => Some(Journal::create(Arc::clone(disk), options, Lsn(0))?),
        false => None,
    };
    manifest.save(&**disk)?;
    let limits = OutcomeLimits::default();
    let mut replay = Replay::new(&manifest, &**disk, limits, Arc::clone(gauge))?;
    let (journal, last_lsn) = if let Some(journal) = created {
        (journal, Lsn(0))
    } else {
        let after = replay.after();
        let mut visit = |record: Record| replay.visit(record);
        let (journal, recovery) = Journal::open(Arc::clone(disk), options, after, &mut visit)?;
        tracing::info!(
            last_lsn = recovery.last_lsn.0,
            torn_bytes = recovery.torn_bytes,
            was_clean,
            "the journal was recovered"
        );
        (journal, recovery.last_lsn)
    };
    let Replay {
        keyspaces,
        outcomes,
        ring,
        nodes: replayed,
        ..
    } = replay;
    check_nodes(builder, &ring)?;
    let opener = Stores::new(builder, directory, now_ms, held_indexes);
    let lives = replayed.iter().map(|node| node.incarnation).collect();
    let complete = replayed.iter().map(|node| node.complete).collect();
    let mut nodes = Vec::new();
    for (node, mut replayed) in (0..).map(NodeId).zip(replayed) {
        if !ring.is_live(node) {
            // It has left, and nobody reads it any more.
            opener.remove(node)?;
            continue;
        }
        let (store, unreadable) = match opener.open_left(node, &manifest, &ring, &keyspaces) {
            Ok(store) => (store, None),
            // The others serve. What it has committed since its checkpoint stays in the journal.
            Err(error @ Error::CorruptTree { .. }) => {
                replayed.generation = replayed.generation.successor();
                let store: Arc<dyn Store> = Arc::new(Unreadable(error.clone()));
                (store, Some(error))
            }
            Err(error) => return Err(error),
        };
        let table = Arc::new(replayed.table(node, store.view(), last_lsn));
        if let Some(error) = unreadable {
            tracing::error!(%node, %error, "a tree can't be read; its node is isolated");
            table.set_unreadable(error);
        }
        let member = Member::new(table, store, builder.mailbox_capacity);
        nodes.push(Arc::new(member));
    }
    let mut isolated = nodes.iter().filter_map(|member| member.table.unreadable());
    if let Some(error) = isolated
        .next()
        .filter(|_| isolated.count() + 1 == nodes.len())
    {
        // There is nobody to serve.
        return Err(error.clone());
    }
    let dropped = keyspaces.dropped_spans();
    for node in &nodes {
        node.store.drop_spans(&dropped)?;
    }
    Ok(Recovered {
        manifest,
        ring,
        keyspaces,
        outcomes,
        lives,
        complete,
        opener,
        nodes,
        journal,
        last_lsn,
        old_leases,
    })
}

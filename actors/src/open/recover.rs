//! From a directory to what its engine knew: manifest, trees, and the journal replayed into generations.

use super::{
    nodes::Stores,
    settings::{check_settings, new_manifest, ring_of},
};
use crate::Builder;
use mailring_engine::{
    Error, Result,
    disk::Disk,
    generation::Generation,
    ids::{Incarnation, Lsn, Time},
    journal::{
        Journal, JournalOptions,
        record::{Record, RecordBody},
    },
    keyspaces::Keyspaces,
    manifest::Manifest,
    outcomes::{OutcomeLimits, Outcomes},
    ring::Ring,
    store::Store,
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
    pub(super) ring: Ring,
    pub(super) keyspaces: Keyspaces,
    pub(super) outcomes: Outcomes,
    pub(super) incarnations: Vec<Incarnation>,
    pub(super) stores: Vec<Arc<dyn Store>>,
    pub(super) generations: Vec<Generation>,
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
            check_settings(builder, &manifest)?;
            manifest
        }
        None if !builder.create => {
            return Err(Error::NoEngine {
                path: directory.to_owned(),
            });
        }
        None => new_manifest(builder)?,
    };
    let ring = ring_of(&manifest)?;
    let was_clean = manifest.clean_shutdown;
    // A salt is used for one opening only: the count is forced before anything is written under it.
    manifest.openings += 1;
    manifest.clean_shutdown = false;
    // An engine that stops tells every holder of a lock. After a crash, one that was not told may go on until its lease
    // is over.
    let old_leases = manifest.longest_lease;
    manifest.longest_lease = old_leases.max(builder.max_lease);
    for progress in &mut manifest.progress {
        progress.incarnation = progress.incarnation.next();
    }
    let options = JournalOptions {
        segment_bytes: builder.segment_bytes,
        salt: manifest.openings,
    };
    // The journal of a new directory comes before its manifest: where the manifest is missing and commits are there,
    // nothing may be written that looks like a directory. A creation cut short in between begins again.
    let created = match is_new {
        true => Some(Journal::create(Arc::clone(disk), options, Lsn(0))?),
        false => None,
    };
    manifest.save(&**disk)?;
    let mut keyspaces = manifest.keyspaces(&**disk)?;
    let opener = Stores::new(builder, directory, now_ms, held_indexes);
    let mut stores = Vec::new();
    for node in &manifest.nodes {
        stores.push(opener.open(node.node)?);
    }
    let generations: Vec<_> = stores
        .iter()
        .map(|_| Generation::with_gauge(Arc::clone(gauge)))
        .collect();
    let mut incarnations: Vec<_> = manifest.progress.iter().map(|p| p.incarnation).collect();
    let complete: Vec<_> = manifest.progress.iter().map(|p| p.complete).collect();
    let catalogue_lsn = manifest.last_lsn;
    let limits = OutcomeLimits::default();
    let mut outcomes = Outcomes::restored(manifest.openings, limits, &manifest.outcomes);
    let (journal, last_lsn) = if let Some(journal) = created {
        (journal, Lsn(0))
    } else {
        let after = complete.iter().min().copied().unwrap_or_default();
        let mut visit = |record: Record| {
            replay(
                record,
                catalogue_lsn,
                &complete,
                &generations,
                &mut keyspaces,
                &mut incarnations,
                &mut outcomes,
            )
        };
        let (journal, recovery) = Journal::open(Arc::clone(disk), options, after, &mut visit)?;
        tracing::info!(
            last_lsn = recovery.last_lsn.0,
            torn_bytes = recovery.torn_bytes,
            was_clean,
            "the journal was recovered"
        );
        (journal, recovery.last_lsn)
    };
    for id in 1..keyspaces.next_id().0 {
        let id = mailring_engine::ids::KeyspaceId(id);
        if !keyspaces.contains(id) {
            for store in &stores {
                store.drop_prefix(&id.0.to_be_bytes())?;
            }
        }
    }
    Ok(Recovered {
        manifest,
        ring,
        keyspaces,
        outcomes,
        incarnations,
        stores,
        generations,
        journal,
        last_lsn,
        old_leases,
    })
}

/// Installs one record of the journal.
fn replay(
    record: Record,
    catalogue_lsn: Lsn,
    complete: &[Lsn],
    generations: &[Generation],
    keyspaces: &mut Keyspaces,
    incarnations: &mut [Incarnation],
    outcomes: &mut Outcomes,
) -> Result<()> {
    let lsn = record.lsn;
    match record.body {
        RecordBody::Commit { txn, parts } => {
            if let Some(tag) = txn.filter(|_| lsn > catalogue_lsn) {
                outcomes.commit(lsn, tag, Time(0));
            }
            for part in &parts {
                let node = usize::from(part.node.0);
                if complete.get(node).is_some_and(|complete| lsn > *complete) {
                    for write in &part.writes {
                        generations[node].insert(lsn, write);
                    }
                }
            }
        }
        RecordBody::CreateKeyspace { id, name } if lsn > catalogue_lsn => {
            keyspaces.install_create(id, &name)?;
        }
        RecordBody::DropKeyspace { id } if lsn > catalogue_lsn => {
            keyspaces.install_drop(id);
        }
        RecordBody::Fence { node, incarnation } => {
            if let Some(current) = incarnations.get_mut(usize::from(node.0)) {
                *current = incarnation.next().max(*current);
            }
        }
        RecordBody::CreateKeyspace { .. }
        | RecordBody::DropKeyspace { .. }
        | RecordBody::Ring(_) => {}
    }
    Ok(())
}

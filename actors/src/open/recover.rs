//! From a directory to what its engine knew: manifest, trees, and the journal replayed into generations. Where there are
//! several directories, their journals are read together.
//!
//! A tree that can't be read isolates its node, and the others serve: its files stay as they are, and so does the journal that it
//! has not written yet. Where no node can be read there is nothing to serve, and the directory does not open.

use super::{
    joining::{self, check_placement},
    nodes::Stores,
    places::Places,
    settings::{check_arcs, check_nodes, new_manifest},
};
use crate::{Builder, member::Member, placement::Placements};
use mailring_engine::{
    Error, Result,
    directories::{
        Directories, Stamp,
        recovery::{self, Place},
    },
    ids::{DirectoryNo, Incarnation, Lsn, NodeId},
    journal::{Journal, JournalOptions, Lsns, record::Record},
    keyspaces::Keyspaces,
    manifest::Manifest,
    outcomes::{OutcomeLimits, Outcomes},
    replay::Replay,
    ring_state::RingState,
    store::{Store, unreadable::Unreadable},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

/// What was read back from a directory, or from several.
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
    /// By directory, as the places.
    pub(super) journals: Vec<Journal>,
    pub(super) places: Places,
    pub(super) placements: Arc<Placements>,
    pub(super) last_lsn: Lsn,
    /// How long leases of an earlier opening may go on.
    pub(super) old_leases: Duration,
}

pub(super) fn recover(
    builder: &Builder,
    home: Place,
    now_ms: &Arc<AtomicU64>,
    held_indexes: &Arc<AtomicU64>,
    gauge: &Arc<AtomicUsize>,
) -> Result<Recovered> {
    let disk = Arc::clone(&home.disk);
    let found = Manifest::load(&*disk)?;
    let is_new = found.is_none();
    let mut manifest = match found {
        Some(manifest) => {
            check_arcs(builder, &manifest)?;
            manifest
        }
        None if !builder.create => {
            return Err(Error::NoEngine { path: home.path });
        }
        None => new_manifest(builder)?,
    };
    let mut places = Places::find(builder, home, &manifest)?;
    // From here on all directories are ours, and nothing is written anywhere before.
    places.reserve(builder, &manifest, is_new)?;
    let was_clean = manifest.clean_shutdown;
    let old_leases = manifest.begin_opening(builder.max_lease);
    let options = JournalOptions {
        lsns: Lsns::All,
        ..joining::options(builder, manifest.openings, DirectoryNo::HOME)
    };
    // The journal of a new directory comes before its manifest: where the manifest is missing and commits are there,
    // nothing may be written that looks like a directory. A creation cut short in between begins again. That of several
    // goes on from their list.
    let created = match is_new {
        true => Some(Journal::create(Arc::clone(&disk), options, Lsn(0))?),
        false => None,
    };
    if is_new && places.are_some_new() {
        places.list_new(builder, &mut manifest, None, Stamp::default())?;
    }
    manifest.save(&*disk)?;
    let limits = OutcomeLimits::default();
    let mut replay = Replay::new(&manifest, &*disk, limits, Arc::clone(gauge))?;
    let (mut journals, last_lsn) = if let Some(journal) = created {
        (vec![journal], Lsn(0))
    } else {
        let (journals, last_lsn, torn_bytes) = read(builder, &places, &mut manifest, &mut replay)?;
        tracing::info!(
            last_lsn = last_lsn.0,
            torn_bytes,
            was_clean,
            "the journal was recovered"
        );
        (journals, last_lsn)
    };
    let slots = replay.nodes.len();
    check_nodes(builder, &replay.ring)?;
    // Before more directories are listed: they can't be taken back.
    check_placement(builder, &manifest, slots)?;
    if places.are_some_new() {
        if !is_new {
            let forced = journals.iter().map(Journal::last_group).collect();
            let durable = last_lsn;
            let stamp = Stamp { durable, forced };
            places.list_new(builder, &mut manifest, Some(slots), stamp)?;
            manifest.save(&*disk)?;
        }
        let made = places.make(builder, &mut manifest, last_lsn)?;
        journals.extend(made);
        journals = journals.into_iter().map(Journal::one_of_several).collect();
    } else if let Some(directories) = &mut manifest.directories {
        // What is void must be known before its LSNs could be met again.
        places.note(directories);
        manifest.save(&*disk)?;
    }
    if manifest.directories.is_some() {
        places.mark_opening(&mut manifest)?;
    }
    let Replay {
        keyspaces,
        outcomes,
        ring,
        nodes: replayed,
        ..
    } = replay;
    let placement = manifest.directories.as_ref().map(Directories::placement);
    let folders = places.found.iter().map(|place| place.path.clone());
    let placements = Placements::new(placement.unwrap_or_default(), folders.collect());
    let placements = Arc::new(placements);
    let opener = Stores::new(builder, &places, &placements, now_ms, held_indexes);
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
        journals,
        places,
        placements,
        last_lsn,
        old_leases,
    })
}

/// Opens the journals, and reads them into what the manifest knows. The last LSN, and how many bytes were torn.
fn read(
    builder: &Builder,
    places: &Places,
    manifest: &mut Manifest,
    replay: &mut Replay,
) -> Result<(Vec<Journal>, Lsn, u64)> {
    let (after, durable, opening) = (replay.after(), manifest.last_lsn, manifest.openings);
    let options = |number| joining::options(builder, opening, number);
    let mut visit = |record: Record| replay.visit(record);
    if let Some(directories) = &mut manifest.directories {
        let found = &places.found;
        let opened = recovery::open(found, options, directories, durable, after, &mut visit)?;
        return Ok((opened.journals, opened.last_lsn, opened.torn_bytes));
    }
    let options = JournalOptions {
        lsns: Lsns::All,
        ..options(DirectoryNo::HOME)
    };
    let disk = Arc::clone(&places.found[0].disk);
    let (journal, recovery) = Journal::open(disk, options, after, &mut visit)?;
    Ok((vec![journal], recovery.last_lsn, recovery.torn_bytes))
}

//! Verification: reading everything and checking it.

use crate::{
    Builder,
    directory::{has_manifest, lock, tree_folder},
    engine::Engine,
    member::Member,
    offload::offload,
    open::{Places, absolute},
    scan::merge_node,
};
use mailring_engine::{
    Error, Result,
    checkpoint::Catalogue,
    directories::{Directories, recovery},
    disk::{DirectoryDisk, Disk},
    ids::{Lsn, NodeId},
    journal::{
        self,
        record::{Record, RecordBody},
    },
    keyspaces::Keyspaces,
    manifest::{MANIFEST_FILE, Manifest},
    outcomes::OutcomeLimits,
    replay::Replay,
    ring::Ring,
    ring_state::RingState,
    store::{
        Store,
        left::open_left,
        lsm::{LsmFactory, LsmOptions},
    },
    value::{Value, split_qualified},
};
use std::{fs, io, ops::Bound, path::Path, sync::Arc};

/// What a verification has read and found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The LSN of the newest commit seen.
    pub lsn: Lsn,
    /// Keys in the trees, of whichever version.
    pub tree_keys: u64,
    /// Live keys seen at their owner (online), or stored keys (offline).
    pub keys: u64,
    /// Records in the journal (offline only: a running journal checks itself when it is opened).
    pub journal_records: u64,
}

pub(crate) async fn verify_online(engine: &Arc<Engine>) -> Result<Verification> {
    engine.check_open()?;
    let catalogue = engine.describe().await?;
    let engine = Arc::clone(engine);
    offload("verify", move || online(&engine, &catalogue)).await
}

fn online(engine: &Engine, catalogue: &Catalogue) -> Result<Verification> {
    let mut tree_keys = 0;
    let routes = engine.switchboard.routes.load_full();
    // One that is about to join has nothing yet, and may give way to another of its number.
    let is_live = |member: &&Arc<Member>| routes.state().is_live(member.node());
    for member in routes.nodes().iter().filter(is_live) {
        tree_keys += member.store.verify()?;
    }
    let pinned = engine.pin()?;
    let mut keys = 0;
    for (member, view) in pinned.owners() {
        let node = member.node();
        // What a mixed node holds of others is left out.
        for pair in merge_node(&pinned, member, view) {
            let (key, _) = pair?;
            check_owner(pinned.routes.ring(), node, &key, Path::new("tree"))?;
            // Keys of a dropped keyspace stay in generations until a checkpoint leaves them out.
            let is_live = catalogue.keyspaces.contains(split_qualified(&key).0);
            keys += u64::from(is_live);
        }
    }
    Ok(Verification {
        lsn: pinned.at,
        tree_keys,
        keys,
        journal_records: 0,
    })
}

impl Builder {
    /// [`Mailring::verify_directory`](crate::Mailring::verify_directory), for an engine of several directories of which some are
    /// not where they were last, or for a copy of one: they are named with [`Builder::directory`]. No other setting matters.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// As there; `InvalidOption` if something is named that is no directory of the engine, or if this is an engine in memory.
    pub fn verify(self) -> Result<Verification> {
        let directory = self.place.directory()?;
        verify_offline(&self, directory)
    }
}

fn verify_offline(builder: &Builder, directory: &Path) -> Result<Verification> {
    let missing = || match is_nothing(directory) {
        true => Error::NoEngine {
            path: directory.to_owned(),
        },
        false => Error::CorruptManifest {
            file: directory.join(MANIFEST_FILE),
            reason: "it is missing".into(),
        },
    };
    // Before the lock: its file would be the first thing of ours in a directory that is somebody else's.
    if !has_manifest(directory)? {
        return Err(missing());
    }
    let _lock = lock(directory)?;
    let disk = DirectoryDisk::new(directory)
        .map_err(|error| Error::io(format!("opening {}", directory.display()), &error))?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let Some(manifest) = Manifest::load(&*disk)? else {
        return Err(missing());
    };
    let home = recovery::Place {
        disk: Arc::clone(&disk),
        path: absolute(directory)?,
    };
    let places = Places::find_made(builder, home, &manifest)?;
    let mut ring = manifest.ring(&*disk)?;
    let mut visit = |record: Record| match record.body {
        RecordBody::Ring(change) if record.lsn > manifest.last_lsn => {
            ring.apply(record.lsn, &change)
        }
        _ => Ok(()),
    };
    let journals = read_journals(&places, &manifest, &mut visit)?;
    let directories = manifest.directories.as_ref();
    let placement = directories.map(Directories::placement).unwrap_or_default();
    let factory = LsmFactory::new(LsmOptions::new(8 << 20, 64));
    let keyspaces = manifest.keyspaces(&*disk)?;
    let (mut tree_keys, mut keys) = (0, 0);
    for node in ring.live() {
        // One that is still to be made has nothing.
        let Some(place) = places.found.get(usize::from(placement.of(node).0)) else {
            continue;
        };
        let folder = tree_folder(&place.path, node);
        let store = open_left(&factory, &manifest, &ring, &keyspaces, node, &folder)?;
        tree_keys += store.verify()?;
        keys += verify_places(&*store, &ring, &keyspaces, node, &folder)?;
    }
    Ok(Verification {
        lsn: journals.last_lsn.max(manifest.last_lsn),
        tree_keys,
        keys,
        journal_records: journals.records,
    })
}

/// Whether nothing is at a path, or an empty folder: it was mistyped, or the disk is not mounted.
fn is_nothing(directory: &Path) -> bool {
    match fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// What the journals of directories hold that nobody has open.
pub(crate) struct Journals {
    /// The first LSN that is there, or will be, where one journal has all of them.
    pub(crate) first_lsn: Option<Lsn>,
    pub(crate) last_lsn: Lsn,
    records: u64,
}

/// Checks all journals; `visit` gets what happened, at least what is not in the trees.
pub(crate) fn read_journals(
    places: &Places,
    manifest: &Manifest,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<Journals> {
    let home = &*places.found[0].disk;
    let Some(directories) = &manifest.directories else {
        let report = journal::verify_records(home, visit)?;
        return Ok(Journals {
            first_lsn: Some(report.first_lsn),
            last_lsn: report.last_lsn,
            records: report.records,
        });
    };
    let (durable, after) = (manifest.last_lsn, needed_after(manifest, home)?);
    let verified = recovery::verify(&places.found, directories, durable, after, visit)?;
    let (last_lsn, records) = verified;
    Ok(Journals {
        first_lsn: None,
        last_lsn,
        records,
    })
}

/// Up to where the journals need not be read.
fn needed_after(manifest: &Manifest, disk: &dyn Disk) -> Result<Lsn> {
    let replay = Replay::new(manifest, disk, OutcomeLimits::default(), Arc::default())?;
    Ok(replay.after())
}

/// Checks that every stored key is at its owner and has a value's form. A node whose arcs are being moved may hold others,
/// which are not counted.
fn verify_places(
    store: &dyn Store,
    ring: &RingState,
    keyspaces: &Keyspaces,
    node: NodeId,
    folder: &Path,
) -> Result<u64> {
    let is_mixed = ring.running().is_some_and(|running| {
        let mut moves = running.change.moves.iter();
        moves.any(|one| one.from == node || one.to == node)
    });
    let mut keys = 0;
    for pair in store.view().range(Bound::Unbounded, Bound::Unbounded) {
        let (key, stored) = pair?;
        let (keyspace, user_key) = split_qualified(&key);
        // What was left of a keyspace that was dropped did not move with the arcs.
        let may_be_foreign = is_mixed || !keyspaces.contains(keyspace);
        if may_be_foreign && ring.ring().owner(user_key) != node {
            continue;
        }
        check_owner(ring.ring(), node, &key, folder)?;
        if Value::decode(stored).is_none() {
            return Err(Error::CorruptTree {
                node,
                file: folder.to_owned(),
                reason: format!("the stored form of key {key:?} is no value"),
            });
        }
        keys += 1;
    }
    Ok(keys)
}

fn check_owner(ring: &Ring, node: NodeId, key: &[u8], file: &Path) -> Result<()> {
    let (_, user_key) = split_qualified(key);
    let owner = ring.owner(user_key);
    if owner == node {
        return Ok(());
    }
    Err(Error::CorruptTree {
        node,
        file: file.to_owned(),
        reason: format!("key {} belongs to node {owner}", user_key.escape_ascii()),
    })
}

//! Restoring one node alone from a backup: its tree, while everything else stays as it is.
//!
//! A node is its tree as of an LSN and what the journal holds of it from there on. A backup has the tree as of the backup's LSN
//! `b`; the directory's manifest says up to which LSN `c` the damaged tree was complete, and the journal keeps what is above.
//!
//! ```text
//!            b ≥ c                                   b < c
//!  journal   │ c ──────── b ──────── now             │ first ── b ── c ──── now     all of it is there: nothing is lost
//!            the backup, replayed from c on          │       b ── first ─ c ─ now   what was written in (b, first) is gone:
//!                                                    │                              refused, unless it is accepted
//! ```
//!
//! So the tree of the backup is taken as it is, and the manifest says that it is complete up to the lower of the two: what is
//! replayed twice comes to the same. That is written before the folders are exchanged, so a crash in between leaves the damaged
//! tree, or the one that was restored, with an LSN that is right for it.
//!
//! Where there are several directories, the node's tree is in its own, and their journals together are never read from an LSN
//! below that of the last opening: what is void there is forgotten. So there the backup must not be older than the tree that
//! is replaced, unless the loss is accepted; the refusal says so in words of its own.
//!
//! The ring must be the same at `b` and now, and no change may be under way: else the backup has keys that are another node's, or
//! lacks some. The damaged tree is kept beside.
//!
//! # Left out
//!
//! A backup does not say of which engine it is: its ring, arc by arc, and the names of its keyspaces are compared.

use crate::{
    Builder, builder,
    directory::{has_manifest, lock, tree_folder},
    open::{Places, absolute},
    verify::read_journals,
};
use mailring_engine::{
    Error, Result,
    directories::{Directories, recovery},
    disk::{DirectoryDisk, Disk},
    ids::{Lsn, NodeId},
    journal::record::{Record, RecordBody},
    manifest::Manifest,
    ring_state::RingState,
    store::{
        left::open_left,
        lsm::{LsmFactory, LsmOptions},
    },
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a restoring may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreLoss {
    /// Nothing: it is refused if the journal does not reach back to the backup.
    Refuse,
    /// What the node has committed after the backup and before the journal begins. Its keys are then as the backup has them, or
    /// as they were written later; a transaction over several nodes may be there in part.
    Accept,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The LSN of the backup.
    pub backup_lsn: Lsn,
    /// From here on the journal is replayed when the directory is opened.
    pub replayed_after: Lsn,
    /// Keys of the tree.
    pub keys: u64,
    /// Where the tree is that was there before.
    pub damaged: PathBuf,
}

/// A directory that nobody has open.
struct Place {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    manifest: Manifest,
    ring: RingState,
    /// All directories, and their locks.
    places: Places,
    /// From here on all can be replayed; none if nothing below what is complete can be.
    first_lsn: Option<Lsn>,
    last_lsn: Lsn,
    _lock: File,
}

impl Place {
    fn open(builder: &Builder) -> Result<Self> {
        let path = builder.place.directory()?;
        let missing = || Error::NoEngine {
            path: path.to_owned(),
        };
        if !has_manifest(path)? {
            return Err(missing());
        }
        let lock = lock(path)?;
        let disk = DirectoryDisk::new(path)
            .map_err(|error| Error::io(format!("opening {}", path.display()), &error))?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let manifest = Manifest::load(&*disk)?.ok_or_else(missing)?;
        let home = recovery::Place {
            disk: Arc::clone(&disk),
            path: absolute(path)?,
        };
        let places = Places::find_made(builder, home, &manifest)?;
        let mut ring = manifest.ring(&*disk)?;
        let mut visit = |record: Record| match record.body {
            RecordBody::Ring(change) if record.lsn > manifest.last_lsn => {
                ring.apply(record.lsn, &change)
            }
            _ => Ok(()),
        };
        let read = read_journals(&places, &manifest, &mut visit)?;
        Ok(Self {
            path: path.to_owned(),
            disk,
            first_lsn: read.first_lsn,
            last_lsn: read.last_lsn.max(manifest.last_lsn),
            manifest,
            ring,
            places,
            _lock: lock,
        })
    }

    /// The directory in which a node lives.
    fn directory_of(&self, node: NodeId) -> Result<&Path> {
        let directories = self.manifest.directories.as_ref();
        let placement = directories.map(Directories::placement).unwrap_or_default();
        let place = self.places.found.get(usize::from(placement.of(node).0));
        let place = place.ok_or_else(|| Error::NoEngine {
            path: self.path.clone(),
        })?;
        Ok(&place.path)
    }
}

impl Builder {
    /// [`Mailring::restore_node`](crate::Mailring::restore_node), for an engine of several directories of which some are not
    /// where they were last, or for a copy of one: they are named with [`Builder::directory`]. No other setting matters. Blocks.
    ///
    /// # Errors
    ///
    /// As there; `InvalidOption` if something is named that is no directory of the engine, or if this is an engine in memory.
    pub fn restore_node(
        self,
        node: NodeId,
        backup: impl AsRef<Path>,
        loss: RestoreLoss,
    ) -> Result<Restored> {
        restore_node(&self, node, backup.as_ref(), loss)
    }
}

/// Puts the tree of `node` in a backup in the place of the one that the directory has.
fn restore_node(
    builder: &Builder,
    node: NodeId,
    backup: &Path,
    loss: RestoreLoss,
) -> Result<Restored> {
    let place_of_backup = builder::Place::Directory(backup.to_owned());
    let mut place = Place::open(builder)?;
    let copy = Place::open(&Builder::new(place_of_backup))?;
    check(&place, &copy, node)?;
    let refuse = |reason| Err(unfit(backup, reason));
    let backup_lsn = copy.manifest.last_lsn;
    let slot = usize::from(node.0);
    let complete = place.manifest.progress[slot].complete;
    let reaches_back = |first: Lsn| first <= backup_lsn.next();
    let is_whole = backup_lsn >= complete || place.first_lsn.is_some_and(reaches_back);
    if !is_whole && loss == RestoreLoss::Refuse && place.manifest.directories.is_some() {
        let path = backup.display();
        return Err(Error::InvalidOption {
            option: "backup",
            value: format!("{path} (it goes to LSN {backup_lsn}, the checkpoint to {complete})"),
            reason: "it is older than the node's last checkpoint, and of several directories the journals are not read from before \
                     that, so what the node has committed in between would be lost; take a backup that was made since, restore \
                     all nodes from this one (a backup is opened like a directory), or accept the loss (RestoreLoss::Accept)",
        });
    }
    if !is_whole && loss == RestoreLoss::Refuse {
        return refuse(
            "the journal does not reach back to it any more, so what the node has committed in between would be lost; take a \
             newer backup, restore the whole directory, or accept the loss (RestoreLoss::Accept)",
        );
    }
    let directory = place.directory_of(node)?.to_owned();
    let folder = tree_folder(&directory, node);
    let fresh = sibling(&folder, "restored");
    let io = |what: &str, path: &Path, error: &io::Error| {
        Error::io(format!("{what} {}", path.display()), error)
    };
    if fresh.exists() {
        // Of an attempt that was cut short.
        fs::remove_dir_all(&fresh).map_err(|error| io("removing", &fresh, &error))?;
    }
    let from = tree_folder(copy.directory_of(node)?, node);
    copy_forced(&from, &fresh).map_err(|error| io("copying", &from, &error))?;
    let factory = LsmFactory::new(LsmOptions::new(8 << 20, 64));
    let keyspaces = copy.manifest.keyspaces(&*copy.disk)?;
    let (manifest, ring) = (&copy.manifest, &copy.ring);
    let store = open_left(&factory, manifest, ring, &keyspaces, node, &fresh)?;
    let keys = store.verify()?;
    drop(store);
    let replayed_after = match is_whole {
        true => backup_lsn.min(complete),
        // What is missing is missing; the journal begins behind it.
        false => complete,
    };
    place.manifest.progress[slot].complete = replayed_after;
    // Its version is another one's, and older.
    place.manifest.trees.remove(&node);
    place.manifest.save(&*place.disk)?;
    let damaged = free_name(&folder);
    if folder.exists() {
        fs::rename(&folder, &damaged).map_err(|error| io("renaming", &folder, &error))?;
    }
    fs::rename(&fresh, &folder).map_err(|error| io("renaming", &fresh, &error))?;
    let force = File::open(&directory).and_then(|directory| directory.sync_all());
    force.map_err(|error| io("forcing", &directory, &error))?;
    tracing::info!(%node, %backup_lsn, %replayed_after, keys, "a node was restored");
    Ok(Restored {
        backup_lsn,
        replayed_after,
        keys,
        damaged,
    })
}

fn unfit(backup: &Path, reason: &'static str) -> Error {
    Error::InvalidOption {
        option: "backup",
        value: backup.display().to_string(),
        reason,
    }
}

/// Whether the node of the backup is what the node was.
fn check(place: &Place, copy: &Place, node: NodeId) -> Result<()> {
    if !place.ring.is_live(node) {
        return Err(Error::InvalidOption {
            option: "node",
            value: node.to_string(),
            reason: "the directory has no such node",
        });
    }
    let backup_lsn = copy.manifest.last_lsn;
    let refuse = |reason| Err(unfit(&copy.path, reason));
    if place.ring.running().is_some() || copy.ring.running().is_some() {
        return refuse(
            "a change of the nodes was under way, in it or in the directory; restore the whole directory",
        );
    }
    if backup_lsn > place.last_lsn {
        return refuse("it is newer than the directory, or of another engine");
    }
    if place.ring.since() > backup_lsn || place.ring.ring().owners() != copy.ring.ring().owners() {
        return refuse(
            "the nodes have changed since, or it is of another engine; restore the whole directory",
        );
    }
    for keyspace in &copy.manifest.keyspaces {
        let is_other = |known: &&mailring_engine::manifest::KeyspaceName| {
            known.id == keyspace.id && known.name != keyspace.name
        };
        let is_unknown =
            keyspace.id >= place.manifest.next_keyspace && backup_lsn <= place.manifest.last_lsn;
        if is_unknown
            || place
                .manifest
                .keyspaces
                .iter()
                .any(|known| is_other(&known))
        {
            return refuse("it has other keyspaces: it is of another engine");
        }
    }
    Ok(())
}

fn sibling(folder: &Path, kind: &str) -> PathBuf {
    folder.with_extension(kind)
}

/// Where the damaged tree is kept: no earlier one is written over.
fn free_name(folder: &Path) -> PathBuf {
    let names = (1_u32..).map(|number| sibling(folder, &format!("damaged-{number}")));
    let mut free = names.filter(|name| !name.exists());
    free.next().expect("nobody has so many")
}

/// Copies a folder and forces all of it.
fn copy_forced(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_forced(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    File::open(to)?.sync_all()
}

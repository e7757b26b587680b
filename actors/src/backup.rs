//! Backup: a consistent copy, written through the same trees and manifest as any directory.
//!
//! The directory is locked meanwhile like that of a running engine. A backup that fails takes away what it has written;
//! one whose process is killed leaves a directory without a manifest, which is refused until somebody has emptied it.

use crate::{
    directory::{create, lock, remove_ours, tree_folder},
    engine::Engine,
    offload::offload,
    pin::Pinned,
    scan::merge_node,
};
use mailring_engine::{
    Error, Result,
    checkpoint::Catalogue,
    disk::{DirectoryDisk, Disk},
    ids::Lsn,
    journal::{Journal, JournalOptions},
    manifest::{Manifest, NodeSettings},
    store::{
        RunEntry, StoreFactory,
        lsm::{LsmFactory, LsmOptions},
    },
    value::split_qualified,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where it is.
    pub directory: PathBuf,
    /// The LSN whose state it holds.
    pub lsn: Lsn,
    /// Its keys.
    pub keys: u64,
    /// Bytes of its keys and values.
    pub bytes: u64,
}

pub(crate) async fn backup(engine: &Arc<Engine>, directory: &Path) -> Result<Backup> {
    let catalogue = engine.describe().await?;
    let engine = Arc::clone(engine);
    let directory = directory.to_owned();
    offload("backup", move || write(&engine, &catalogue, directory)).await
}

fn write(engine: &Engine, catalogue: &Catalogue, directory: PathBuf) -> Result<Backup> {
    let io = |what: &str| {
        let context = format!("{what} {}", directory.display());
        move |error: std::io::Error| Error::io(context.clone(), &error)
    };
    create(&directory)?;
    if fs::read_dir(&directory)
        .map_err(io("reading"))?
        .next()
        .is_some()
    {
        return Err(Error::InvalidOption {
            option: "backup directory",
            value: directory.display().to_string(),
            reason: "it must not exist or be empty",
        });
    }
    let lock = lock(&directory)?;
    let mut unfinished = Unfinished {
        directory: &directory,
        is_finished: false,
        _lock: lock,
    };
    let pinned = engine.pin()?;
    // A ring in motion is copied as it is at this moment, and goes on when the copy is opened.
    let mut catalogue = catalogue.clone();
    catalogue.ring = pinned.routes.state().clone();
    let catalogue = &catalogue;
    let factory = LsmFactory::new(LsmOptions::new(1 << 20, 16));
    let (mut keys, mut bytes, mut trees) = (0, 0, Vec::new());
    for (member, view) in pinned.owners() {
        let node = member.node();
        let store = factory.open(node, &tree_folder(&directory, node))?;
        let mut run = NodeRun {
            merge: merge_node(&pinned, member, view),
            catalogue,
            keys: 0,
            bytes: 0,
            failure: None,
        };
        store.ingest(&mut run)?;
        if let Some(error) = run.failure {
            return Err(error);
        }
        trees.push((node, store.version()));
        keys += run.keys;
        bytes += run.bytes;
    }
    let disk: Arc<dyn Disk> = Arc::new(DirectoryDisk::new(&directory).map_err(io("opening"))?);
    Journal::create(Arc::clone(&disk), JournalOptions::default(), pinned.at)?.close()?;
    // The manifest comes last: a directory without one is no copy.
    let mut manifest = manifest(engine, &pinned, catalogue);
    manifest.record_trees(trees);
    manifest.save(&*disk)?;
    unfinished.is_finished = true;
    drop(unfinished);
    Ok(Backup {
        lsn: pinned.at,
        keys,
        bytes,
        directory,
    })
}

/// A backup under way. One that fails, or panics, leaves nothing of its own behind: the same call can be made again.
struct Unfinished<'a> {
    /// It was empty before.
    directory: &'a Path,
    is_finished: bool,
    /// Held until all is removed.
    _lock: File,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(error) = remove_ours(self.directory)
        {
            let directory = self.directory.display();
            tracing::warn!(%error, %directory, "what a failed backup has written could not be removed");
        }
    }
}

fn manifest(engine: &Engine, pinned: &Pinned, catalogue: &Catalogue) -> Manifest {
    let ring = pinned.routes.ring();
    let nodes = ring.nodes();
    let mut manifest = Manifest {
        arc_bits: u8::try_from(ring.arc_bits()).expect("a ring has few arc bits"),
        nodes: nodes
            .iter()
            .map(|(node, weight)| NodeSettings {
                node: *node,
                weight: *weight,
            })
            .collect(),
        epoch: ring.epoch(),
        // The tokens of its locks go on behind those of the original.
        openings: engine.switchboard.locks.opening(),
        clean_shutdown: true,
        ..Manifest::default()
    };
    let complete = nodes.iter().map(|(node, _)| (*node, pinned.at));
    manifest.record_checkpoint(complete, pinned.at, catalogue);
    manifest
}

/// All live pairs of a node as a sorted run; ends early at the first error, which it keeps.
struct NodeRun<'a> {
    merge: mailring_engine::scan::Merge,
    catalogue: &'a Catalogue,
    keys: u64,
    bytes: u64,
    failure: Option<Error>,
}

impl Iterator for NodeRun<'_> {
    type Item = RunEntry;

    fn next(&mut self) -> Option<RunEntry> {
        loop {
            match self.merge.next()? {
                Ok((key, value)) => {
                    if !self.catalogue.keyspaces.contains(split_qualified(&key).0) {
                        continue;
                    }
                    self.keys += 1;
                    self.bytes += (key.len() + value.bytes.len()) as u64;
                    return Some((key, Some(value.encode())));
                }
                Err(error) => {
                    self.failure = Some(error);
                    return None;
                }
            }
        }
    }
}

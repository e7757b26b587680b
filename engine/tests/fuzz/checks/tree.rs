//! A tree whose files were damaged: the blocks, index, filters and manifests that the storage library writes and our own
//! readers decode.
//!
//! A damage is a list of changes: which file, what, where. Left out: changes that are made good in the checksum of their
//! block. The library trusts what is behind it, with unchecked accesses, so nothing can be promised there.

use super::Outcome;
use bytes::Bytes;
use mailring_engine::{
    error::{Error, Result},
    ids::NodeId,
    store::{
        Store, StoreFactory, StoreView,
        lsm::{LsmFactory, LsmOptions},
    },
};
use std::{
    fs,
    ops::Bound,
    path::{Path, PathBuf},
};

const NODE: NodeId = NodeId(3);

/// The files of a tree, and what it holds.
pub(crate) struct Tree {
    pub(crate) options: LsmOptions,
    files: Vec<(PathBuf, Vec<u8>)>,
    pairs: Vec<(Bytes, Bytes)>,
}

impl Tree {
    /// The tree in a folder, which must be closed.
    pub(crate) fn read(options: LsmOptions, folder: &Path) -> Self {
        let mut files = Vec::new();
        collect(folder, folder, &mut files);
        files.sort();
        let store = open(&options, folder).expect("it is whole");
        let pairs = pairs(&*store.view()).expect("it is whole");
        Self {
            options,
            files,
            pairs,
        }
    }
}

fn open(options: &LsmOptions, folder: &Path) -> Result<std::sync::Arc<dyn Store>> {
    LsmFactory::new(options.clone()).open(NODE, folder)
}

fn pairs(view: &dyn StoreView) -> Result<Vec<(Bytes, Bytes)>> {
    view.range(Bound::Unbounded, Bound::Unbounded).collect()
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).expect("is in it").to_owned();
            files.push((name, fs::read(&path).expect("reads")));
        }
    }
}

/// Opens and reads a damaged copy of a tree in every way there is.
pub(crate) fn tree(tree: &Tree, damage: &[u8]) -> Outcome {
    let mut files = tree.files.clone();
    for change in damage.chunks_exact(CHANGE_BYTES) {
        apply(&mut files, change);
    }
    let folder = folder();
    for (name, contents) in &files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("is in a folder")).expect("creates");
        fs::write(path, contents).expect("writes");
    }
    match read(tree, folder.path()) {
        Ok(()) => {
            assert!(files == tree.files, "a check notices every change");
            Outcome::Taken
        }
        Err(error) => {
            assert!(
                matches!(
                    error,
                    Error::CorruptTree { node: NODE, .. } | Error::NewerFormat { .. }
                ),
                "not an error of a tree: {error}"
            );
            Outcome::Refused
        }
    }
}

/// The first error that a reader meets. What is read without one is right.
fn read(tree: &Tree, folder: &Path) -> Result<()> {
    let store = open(&tree.options, folder)?;
    let view = store.view();
    let forward = pairs(&*view);
    let backward: Result<Vec<_>> = view
        .range(Bound::Unbounded, Bound::Unbounded)
        .rev()
        .collect();
    let mut points = Vec::new();
    for (key, _) in &tree.pairs {
        points.push((key, view.get(key)));
        let from = view
            .range(Bound::Excluded(&key[..]), Bound::Unbounded)
            .next();
        let to = view
            .range(Bound::Unbounded, Bound::Included(&key[..]))
            .next_back();
        drop((from, to));
    }
    if let Ok(forward) = &forward {
        assert_eq!(*forward, tree.pairs);
    }
    if let Ok(backward) = &backward {
        assert!(backward.iter().rev().eq(&tree.pairs));
    }
    for ((key, found), (_, value)) in points.iter().zip(&tree.pairs) {
        if let Ok(found) = found {
            assert_eq!(found.as_ref(), Some(value), "{key:?}");
        }
    }
    forward?;
    backward?;
    points
        .into_iter()
        .try_for_each(|(_, found)| found.map(drop))?;
    store.verify()?;
    store.maintain()
}

fn folder() -> tempfile::TempDir {
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() {
        tempfile::tempdir_in(in_memory).expect("creates")
    } else {
        tempfile::tempdir().expect("creates")
    }
}

/// Which file, what, where (two bytes), with what.
pub(crate) const CHANGE_BYTES: usize = 5;

fn apply(files: &mut [(PathBuf, Vec<u8>)], change: &[u8]) {
    let index = usize::from(change[0]) % files.len();
    let contents = &mut files[index].1;
    let place = usize::from(u16::from_le_bytes([change[2], change[3]]));
    if contents.is_empty() {
        return;
    }
    let at = place % contents.len();
    match change[1] % 5 {
        0 => contents[at] ^= change[4],
        1 => contents.truncate(at),
        2 => drop(contents.drain(at..(at + usize::from(change[4])).min(contents.len()))),
        3 => {
            let end = (at + usize::from(change[4])).min(contents.len());
            let piece = contents[at..end].to_vec();
            contents.extend(piece);
        }
        _ => {
            let end = (at + 4).min(contents.len());
            contents[at..end].fill(change[4]);
        }
    }
}

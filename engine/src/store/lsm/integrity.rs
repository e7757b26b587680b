//! Naming what is broken: the tree's errors and panics in our terms, and the checks that the tree itself leaves out.
//!
//! - The tree's manifest (`v<number>`, with its checksum in `current`) is checked before the tree is opened: the tree
//!   reads it without looking at the checksum, and deletes every table that it does not name.
//! - The contents of each table that it names are checked too (see `contents`): the tree trusts their length.
//! - Tables without a `current` are a damaged tree: the tree would start an empty one beside them.
//! - Everything that decodes bytes from disk may panic in there; [`guarded`] turns that into an error.

use super::contents;
use crate::{
    error::{Error, Result},
    ids::NodeId,
};
use lsm_tree::{Cache, Checksum, Table};
use std::{
    any::Any,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

const POINTER_FILE: &str = "current";
const POINTER_BYTES: usize = 25;
const TABLES_FOLDER: &str = "tables";
/// The format of `lsm-tree` 3.
const SUPPORTED_FORMAT: u8 = 3;

/// The node and the file or folder that an operation is about, for its error.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) node: NodeId,
    pub(super) file: &'a Path,
}

impl Place<'_> {
    pub(super) fn corrupt(self, reason: impl Into<String>) -> Error {
        Error::CorruptTree {
            node: self.node,
            file: self.file.to_owned(),
            reason: reason.into(),
        }
    }

    pub(super) fn io(self, error: &io::Error) -> Error {
        match error.kind() {
            // What the tree says when a file ends early, a length makes no sense, or a table is gone.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotFound => self.corrupt(error.to_string()),
            _ => Error::io(format!("tree file {}", self.file.display()), error),
        }
    }

    fn tree(self, error: &lsm_tree::Error) -> Error {
        match error {
            lsm_tree::Error::Io(error) => self.io(error),
            lsm_tree::Error::InvalidVersion(found) if *found > SUPPORTED_FORMAT => {
                Error::NewerFormat {
                    file: self.file.to_owned(),
                    found: (*found).into(),
                    supported: SUPPORTED_FORMAT.into(),
                }
            }
            other => self.corrupt(format!("{other:?}")),
        }
    }

    fn panic(self, panic: &(dyn Any + Send)) -> Error {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("an unknown panic");
        self.corrupt(format!("reading it failed: {message}"))
    }
}

/// Runs a piece of the tree and turns its errors and panics into ours.
pub(super) fn guarded<T>(
    place: Place<'_>,
    operation: impl FnOnce() -> lsm_tree::Result<T>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(place.tree(&error)),
        Err(panic) => Err(place.panic(panic.as_ref())),
    }
}

/// Checks the manifest in `folder` as far as the tree does not: that it is there if tables are, and is what was written.
pub(super) fn check_manifest(node: NodeId, folder: &Path) -> Result<()> {
    let pointer_path = folder.join(POINTER_FILE);
    let pointer_place = Place {
        node,
        file: &pointer_path,
    };
    let pointer = match fs::read(&pointer_path) {
        Ok(pointer) => pointer,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Whoever can't list them must not take the tree for a new one.
            let tables = tables(folder).map_err(|error| pointer_place.io(&error))?;
            return if tables.is_empty() {
                Ok(())
            } else {
                Err(pointer_place.corrupt("it is missing, but there are tables"))
            };
        }
        Err(error) => return Err(pointer_place.io(&error)),
    };
    let Ok(pointer) = <[u8; POINTER_BYTES]>::try_from(pointer.as_slice()) else {
        return Err(pointer_place.corrupt(format!("it has {} bytes, not 25", pointer.len())));
    };
    let version = u64::from_le_bytes(pointer[..8].try_into().expect("eight bytes"));
    let checksum = u128::from_le_bytes(pointer[8..24].try_into().expect("sixteen bytes"));
    if pointer[24] != 0 {
        return Err(pointer_place.corrupt(format!("unknown kind of checksum {}", pointer[24])));
    }
    let manifest_path = folder.join(format!("v{version}"));
    let place = Place {
        node,
        file: &manifest_path,
    };
    let manifest = fs::read(&manifest_path).map_err(|error| place.io(&error))?;
    if xxh3_128(&manifest) != checksum {
        return Err(place.corrupt("the checksum does not match"));
    }
    // One that is missing, or a manifest that can't be read, is found and told by the tree.
    for number in contents::tables_of(&manifest).unwrap_or_default() {
        let path = folder.join(TABLES_FOLDER).join(number.to_string());
        check_contents(node, &path)?;
    }
    Ok(())
}

/// Checks what stands at the end of a table's file, if there is one.
fn check_contents(node: NodeId, path: &Path) -> Result<()> {
    let place = Place { node, file: path };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(place.io(&error)),
    };
    match contents::are_right(&file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(place.corrupt("its table of contents is damaged")),
        Err(error) => Err(place.io(&error)),
    }
}

/// The number of the manifest that a restart would read.
pub(super) fn published_version(folder: &Path) -> Option<u64> {
    let pointer = fs::read(folder.join(POINTER_FILE)).ok()?;
    Some(u64::from_le_bytes(pointer.get(..8)?.try_into().ok()?))
}

/// The file that keeps the tree in `folder` from opening; the folder itself if no single one can be told.
pub(super) fn first_unreadable(node: NodeId, folder: &Path) -> Option<Error> {
    let cache = Arc::new(Cache::with_capacity_bytes(0));
    tables(folder).ok()?.into_iter().find_map(|file| {
        if let Err(error) = check_contents(node, &file) {
            return Some(error);
        }
        let place = Place { node, file: &file };
        let path = file.clone();
        guarded(place, || {
            let anything = Checksum::from_raw(0);
            Table::recover(path, anything, 0, 0, cache.clone(), None, true, true)
        })
        .err()
    })
}

fn tables(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder.join(TABLES_FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let files = entries.map(|entry| Ok(entry?.path()));
    let mut files: Vec<_> = files.collect::<io::Result<_>>()?;
    files.sort();
    Ok(files)
}

/// Removes the tables numbered from `first` to `end` (excluded) that a failed operation has left.
pub(super) fn remove_tables(folder: &Path, numbers: std::ops::Range<u64>) {
    for number in numbers {
        // A leftover that can't be removed now goes at the next opening.
        let _ = fs::remove_file(folder.join(TABLES_FOLDER).join(number.to_string()));
    }
}

/// Compares a table's file with the checksum that was taken when it was written.
pub(super) fn check_file(node: NodeId, table: &Table) -> Result<()> {
    let place = Place {
        node,
        file: &table.path,
    };
    let mut file = fs::File::open(&*table.path).map_err(|error| place.io(&error))?;
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match io::Read::read(&mut file, &mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(place.io(&error)),
        }
    }
    if hasher.digest128() == table.checksum().into_u128() {
        Ok(())
    } else {
        Err(place.corrupt("the checksum of the file does not match"))
    }
}

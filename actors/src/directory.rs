//! A directory as a place for an engine: its lock, its folders, and whether it may be used at all.

use mailring_engine::{
    Error, Result, directories::IDENTITY_FILE, ids::NodeId, manifest::MANIFEST_FILE,
};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// The name of the file that a running engine holds locked.
const LOCK_FILE: &str = "LOCK";
/// The root of a file system is a good place for an engine.
const HARMLESS: &str = "lost+found";

/// The folder of a node's tree.
pub(crate) fn tree_folder(directory: &Path, node: NodeId) -> PathBuf {
    directory.join(format!("node-{:03}", node.0))
}

/// Whether there is an engine. A directory that can't be looked into is neither empty nor somebody else's.
pub(crate) fn has_manifest(directory: &Path) -> Result<bool> {
    let path = directory.join(MANIFEST_FILE);
    fs::exists(&path).map_err(|error| Error::io(format!("looking for {}", path.display()), &error))
}

/// Creates the directory and the folders above it, as far as they are missing, and forces their names: what an engine
/// forces inside is worth nothing if a crash takes the directory's own name. Where there is an engine already, somebody
/// has done that.
pub(crate) fn create(directory: &Path) -> Result<()> {
    if has_manifest(directory)? {
        return Ok(());
    }
    create_forced(directory)
        .map_err(|error| Error::io(format!("creating {}", directory.display()), &error))
}

/// Creates a directory beside that of the manifest, and the folders above it, and forces their names.
pub(crate) fn create_folder(directory: &Path) -> Result<()> {
    create_forced(directory)
        .map_err(|error| Error::io(format!("creating {}", directory.display()), &error))
}

fn create_forced(directory: &Path) -> io::Result<()> {
    let parent = match directory.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let created = match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_forced(parent)?;
            fs::create_dir(directory)
        }
        created => created,
    };
    let force_name = || File::open(parent)?.sync_all();
    match created {
        Ok(()) => force_name(),
        Err(_) if directory.is_dir() => {
            // A creation of ours may have been cut short right behind it. If it was made by somebody else we may not even
            // be allowed to look above it, and its name is his affair.
            let _ = force_name();
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Locks the directory against other engines.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK_FILE);
    let context = || format!("opening {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::io(context(), &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::DirectoryInUse {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::io(context(), &error)),
    }
}

/// Refuses to begin where something else is kept, or where there is no engine and none shall be created. Leaves the
/// directory as it is.
pub(crate) fn check_place(directory: &Path, create: bool) -> Result<()> {
    if has_manifest(directory)? {
        return Ok(());
    }
    let no_engine = || match create {
        true => Ok(()),
        false => Err(Error::NoEngine {
            path: directory.to_owned(),
        }),
    };
    check_entries(directory, may_be_ours)?;
    no_engine()
}

/// Refuses to make a directory of an engine beside its first where something else is kept. Leaves it as it is.
pub(crate) fn check_room_for_directory(directory: &Path) -> Result<()> {
    check_entries(directory, |name| {
        let is_identity = name.strip_suffix(".tmp").unwrap_or(name) == IDENTITY_FILE;
        is_identity || may_be_ours(name) && !name.starts_with(MANIFEST_FILE)
    })
}

fn check_entries(directory: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    let context = |error: &io::Error| Error::io(format!("reading {}", directory.display()), error);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(context(&error)),
    };
    let mut foreign = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| context(&error))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name != HARMLESS && !is_ours(&name) {
            foreign.push(name);
        }
    }
    match foreign.into_iter().min() {
        Some(entry) => Err(Error::ForeignDirectory {
            path: directory.to_owned(),
            entry,
        }),
        None => Ok(()),
    }
}

/// Removes what a creation has written that was given up. The manifest goes first: without it the rest is no engine.
pub(crate) fn remove_ours(directory: &Path) -> io::Result<()> {
    let mut ours = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let is_manifest = name == MANIFEST_FILE;
        if is_manifest || may_be_ours(&name.to_string_lossy()) {
            ours.push((!is_manifest, name));
        }
    }
    ours.sort_unstable();
    for (_, name) in ours {
        let path = directory.join(name);
        match path.is_dir() {
            true => fs::remove_dir_all(path)?,
            false => fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// Whether a file or folder of this name may be there without a manifest: what a creation that was cut short has left,
/// which begins again, or what has lost its manifest, of which the journal tells.
fn may_be_ours(name: &str) -> bool {
    let is_segment = |prefix| name.starts_with(prefix) && name.ends_with(".seg");
    let is_temporary = name.strip_suffix(".tmp") == Some(MANIFEST_FILE);
    let is_tree = name
        .strip_prefix("node-")
        .is_some_and(|number| number.parse::<u16>().is_ok());
    name == LOCK_FILE || is_temporary || is_tree || is_segment("journal-") || is_segment("spare-")
}

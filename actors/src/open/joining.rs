//! Directories that join an engine: its second one and those after it, or the ones that it is created with.
//!
//! What is listed may have to be made before the engine opens again, so nothing is listed before its folder is there, locked,
//! and found to be nobody's. One that still can't be made (its disk is full, say) is forgotten if the builder does not name it
//! any more and no node lives there; in an engine that was created with it, nodes do, and it is made at the next opening.

use super::places::{Places, disk_at, refused};
use crate::{
    Builder,
    directory::{check_room_for_directory, create_folder, lock},
};
use mailring_engine::{
    Error, Result,
    directories::{
        Directories, IDENTITY_FILE, Identity, ListedDirectory, MAX_DIRECTORIES, Stamp,
        recovery::Place,
    },
    ids::{DirectoryNo, Lsn, NodeId},
    journal::{Journal, JournalOptions, Lsns},
    manifest::Manifest,
};
use std::{collections::hash_map::RandomState, hash::BuildHasher, path::Path, sync::Arc};

impl Places {
    /// Whether there are some to be made.
    pub(super) fn are_some_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// Creates the folders of those that are to be made, and locks them. Where something else is kept, nothing is created
    /// anywhere.
    pub(super) fn reserve(
        &mut self,
        builder: &Builder,
        manifest: &Manifest,
        is_new: bool,
    ) -> Result<()> {
        let made = self.found.len();
        let count = made + self.new.len();
        if count > MAX_DIRECTORIES {
            return Err(Error::InvalidOption {
                option: "directory",
                value: count.to_string(),
                reason: "an engine has 64 directories at most",
            });
        }
        if is_new {
            placed(builder, count)?;
        }
        for (number, path) in (made..).zip(&self.new) {
            if self.found.iter().any(|place| place.path == *path) {
                return Err(refused(path, "it is named twice"));
            }
            self.check_new(builder, manifest, numbered(number), path)?;
        }
        for (number, path) in (made..).zip(&self.new) {
            create_folder(path)?;
            self.locks.push(lock(path)?);
            // Another engine may have taken it before.
            self.check_new(builder, manifest, numbered(number), path)?;
        }
        Ok(())
    }

    /// Whether a directory may be made there: nothing is, or what was begun and given nothing.
    fn check_new(
        &self,
        builder: &Builder,
        manifest: &Manifest,
        number: DirectoryNo,
        path: &Path,
    ) -> Result<()> {
        check_room_for_directory(path)?;
        let Some(disk) = disk_at(builder, number, path)? else {
            return Ok(());
        };
        let directories = manifest.directories.as_ref();
        // One that was begun here, and given nothing.
        let is_ours = |found: Identity| {
            let is_unmade = usize::from(found.number.0) >= self.found.len();
            is_unmade && directories.is_some_and(|it| it.engine == found.engine)
        };
        let Some((found, opening)) = Identity::load_with_opening(&*disk)? else {
            return Ok(());
        };
        if !is_ours(found) {
            return Err(Error::ForeignDirectory {
                path: path.to_owned(),
                entry: IDENTITY_FILE.to_owned(),
            });
        }
        if opening > manifest.openings {
            // It was made since, and may have been given something.
            let (seen, unmade) = (manifest.openings, found.number);
            return Err(Error::DirectoryBehind {
                directory: DirectoryNo::HOME,
                path: self.found[0].path.clone(),
                reason: format!(
                    "it has seen {seen} openings of the engine, and says that directory {unmade} is still to be made; but \
                     {} is directory {unmade} of opening {opening}",
                    path.display()
                ),
            });
        }
        Ok(())
    }

    /// Lists those that are to be made. All nodes that there ever were, `nodes` of them, stay where they are; the first ones
    /// of all are where the builder wants them.
    pub(super) fn list_new(
        &self,
        builder: &Builder,
        manifest: &mut Manifest,
        nodes: Option<usize>,
        stamp: Stamp,
    ) -> Result<()> {
        let directories = manifest.directories.get_or_insert_with(|| Directories {
            engine: RandomState::new().hash_one(std::process::id()),
            listed: vec![ListedDirectory {
                path: noted(&self.found[0].path),
                is_made: true,
            }],
            stamp,
            ..Directories::default()
        });
        // Whatever their numbers would say from now on.
        let known = nodes.map(|nodes| directories.placement().list(nodes));
        self.note(directories);
        let new = self.new.iter().map(|path| ListedDirectory {
            path: noted(path),
            is_made: false,
        });
        directories.listed.extend(new);
        directories.placement = match known {
            Some(known) => known,
            None => placed(builder, directories.listed.len())?,
        };
        Ok(())
    }

    /// Makes those that are listed and not made, which the manifest on the disk must say already.
    pub(super) fn make(
        &mut self,
        builder: &Builder,
        manifest: &mut Manifest,
        last_lsn: Lsn,
    ) -> Result<Vec<Journal>> {
        let directories = manifest.directories.as_mut().expect("they are listed");
        let mut journals = Vec::new();
        for path in std::mem::take(&mut self.new) {
            let number = numbered(self.found.len());
            let disk = disk_at(builder, number, &path)?;
            let disk = disk.ok_or_else(|| Error::NoEngine { path: path.clone() })?;
            let options = options(builder, manifest.openings, number);
            journals.push(Journal::create(Arc::clone(&disk), options, last_lsn)?);
            let identity = Identity {
                engine: directories.engine,
                number,
            };
            identity.save(&*disk, manifest.openings)?;
            self.found.push(Place { disk, path });
        }
        for listed in &mut directories.listed {
            listed.is_made = true;
        }
        manifest.save(&*self.found[0].disk)?;
        Ok(journals)
    }
}

fn numbered(number: usize) -> DirectoryNo {
    DirectoryNo(u8::try_from(number).expect("64 at most"))
}

/// A path as the manifest has it: nothing if it can't be written down, as it is with home only.
pub(super) fn noted(path: &Path) -> String {
    path.to_str().unwrap_or_default().to_owned()
}

/// How the journal of a directory is laid out. Its salts must not be those of another, whose files could be mistaken for its
/// own.
pub(super) fn options(builder: &Builder, opening: u64, number: DirectoryNo) -> JournalOptions {
    JournalOptions {
        segment_bytes: builder.segment_bytes,
        salt: opening ^ u64::from(number.0) << 56,
        lsns: Lsns::Some,
    }
}

/// Where the first nodes shall live.
fn placed(builder: &Builder, directories: usize) -> Result<Vec<DirectoryNo>> {
    let Some(placed) = &builder.node_directories else {
        return Ok(Vec::new());
    };
    let nodes = builder.weights.as_ref().map_or(4, Vec::len);
    let reason = if placed.len() != nodes {
        "it must name a directory for each node"
    } else if placed.iter().any(|one| usize::from(*one) >= directories) {
        "there are not so many directories; they are numbered from 0"
    } else {
        return Ok(placed.iter().map(|one| DirectoryNo(*one)).collect());
    };
    Err(Error::InvalidOption {
        option: "node_directories",
        value: format!("{placed:?}"),
        reason,
    })
}

/// Whether the builder wants nodes elsewhere than they are.
pub(super) fn check_placement(builder: &Builder, manifest: &Manifest, nodes: usize) -> Result<()> {
    let Some(requested) = &builder.node_directories else {
        return Ok(());
    };
    let known = manifest.directories.as_ref();
    let placement = known.map(Directories::placement).unwrap_or_default();
    let first = (0..).map(NodeId).take(nodes.min(requested.len()));
    let found: Vec<u8> = first.map(|node| placement.of(node).0).collect();
    if found == *requested {
        return Ok(());
    }
    Err(Error::SettingsMismatch {
        setting: "node_directories",
        directory: format!("{found:?}"),
        requested: format!("{requested:?}"),
    })
}

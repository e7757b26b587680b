//! The directories of an engine beside the first: found and checked before anything is changed, or made.
//!
//! ```text
//!  listed and made:  where the builder says, by the file DIRECTORY that is there, else where it was last. Not there: an error
//!  new:              listed as not made, forced ─▶ folder, journal, DIRECTORY, forced ─▶ listed as made, forced
//! ```
//!
//! Nothing is given to a directory before it is listed as made, and nothing is made where one should be that was made: a disk
//! that is not mounted leaves an empty folder behind, and that must not pass for the disk.

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
    disk::{DirectoryDisk, Disk},
    ids::{DirectoryNo, Lsn, NodeId},
    journal::{Journal, JournalOptions, Lsns},
    manifest::Manifest,
};
use std::{
    collections::hash_map::RandomState,
    fs::File,
    hash::BuildHasher,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The directories, by number: the first, and those that were found.
pub(crate) struct Places {
    pub(crate) found: Vec<Place>,
    pub(super) locks: Vec<File>,
    /// Where the builder wants more of them.
    new: Vec<PathBuf>,
}

impl Places {
    /// Finds the directories that the manifest knows. Their locks are taken, and nothing is changed.
    pub(crate) fn find(builder: &Builder, home: Place, manifest: &Manifest) -> Result<Self> {
        let new = builder.directories.iter().map(|path| absolute(path));
        let mut places = Self {
            found: vec![home],
            locks: Vec::new(),
            new: new.collect::<Result<_>>()?,
        };
        let Some(directories) = &manifest.directories else {
            return Ok(places);
        };
        let made = directories.listed.iter().take_while(|one| one.is_made);
        for (number, listed) in (0..).map(DirectoryNo).zip(made).skip(1) {
            let (path, disk) = places.take(builder, directories, number, listed)?;
            places.locks.push(lock(&path)?);
            places.found.push(Place { disk, path });
        }
        places.check_opening(directories, manifest.openings)?;
        // Those that were not made yet come before others that are new, where the builder wants them now.
        let unmade = directories.listed.iter().skip(places.found.len());
        let unmade: Vec<_> = unmade.map(|listed| PathBuf::from(&listed.path)).collect();
        let (named, mut others): (Vec<_>, Vec<_>) = places
            .new
            .into_iter()
            .partition(|path| unmade.contains(path));
        let mut next = others.drain(..);
        let unmade = unmade.into_iter().map(|path| match named.contains(&path) {
            true => path,
            false => next.next().unwrap_or(path),
        });
        places.new = unmade.collect();
        places.new.extend(next);
        Ok(places)
    }

    /// Where this directory is.
    fn take(
        &mut self,
        builder: &Builder,
        directories: &Directories,
        number: DirectoryNo,
        listed: &ListedDirectory,
    ) -> Result<(PathBuf, Arc<dyn Disk>)> {
        let wanted = Identity {
            engine: directories.engine,
            number,
        };
        let known = PathBuf::from(&listed.path);
        let missing = |reason: &str| Error::DirectoryMissing {
            directory: number,
            path: known.clone(),
            reason: reason.to_owned(),
        };
        let disk = disk_at(builder, number, &known)?;
        let found = disk.as_ref().map(|disk| Identity::load(&**disk));
        if let (Some(disk), Some(Ok(Some(found)))) = (&disk, &found)
            && *found == wanted
        {
            self.new.retain(|new| *new != known);
            return Ok((known, Arc::clone(disk)));
        }
        for (at, path) in self.new.iter().enumerate() {
            // Whatever is wrong there does not concern this directory.
            if let Some(disk) = disk_at(builder, number, path)?
                && Identity::load(&*disk) == Ok(Some(wanted))
            {
                return Ok((self.new.remove(at), disk));
            }
        }
        match found.ok_or_else(|| missing("there is no such folder"))?? {
            Some(found) if found.engine == wanted.engine => Err(missing(&format!(
                "directory {} of the engine is there",
                found.number
            ))),
            Some(_) => Err(missing("a directory of another engine is there")),
            None => Err(missing("the folder there is not that of an engine")),
        }
    }

    /// Compares the openings that each directory knows of with those of the manifest.
    fn check_opening(&self, directories: &Directories, openings: u64) -> Result<()> {
        for (number, place) in (0..).map(DirectoryNo).zip(&self.found).skip(1) {
            let (_, found) = Identity::load_with_opening(&*place.disk)?.expect("it was found");
            let checked = directories.check_opening(number, found, openings);
            checked.map_err(|(directory, reason)| Error::DirectoryBehind {
                directory,
                path: self.found[usize::from(directory.0)].path.clone(),
                reason,
            })?;
        }
        Ok(())
    }

    /// Lets every directory know of this opening, and the manifest that they do: before anything is committed in it.
    pub(super) fn mark_opening(&self, manifest: &mut Manifest) -> Result<()> {
        let opening = manifest.openings;
        let directories = manifest.directories.as_mut().expect("they are listed");
        let engine = directories.engine;
        for (number, place) in (0..).map(DirectoryNo).zip(&self.found).skip(1) {
            Identity { engine, number }.save(&*place.disk, opening)?;
        }
        directories.known_opening = opening;
        manifest.save(&*self.found[0].disk)
    }

    /// Whether there are some to be made.
    pub(super) fn are_some_new(&self) -> bool {
        !self.new.is_empty()
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
        for (at, path) in self.new.iter().enumerate() {
            let is_home = self.found.iter().any(|place| place.path == *path);
            let is_twice = is_home || self.new[..at].contains(path);
            let names = path.to_str().ok_or("its name must be UTF-8");
            let reason = names.err().or(is_twice.then_some("it is named twice"));
            if let Some(reason) = reason {
                return Err(Error::InvalidOption {
                    option: "directory",
                    value: path.display().to_string(),
                    reason,
                });
            }
            check_room_for_directory(path)?;
        }
        let count = self.found.len() + self.new.len();
        if count > MAX_DIRECTORIES {
            return Err(Error::InvalidOption {
                option: "directory",
                value: count.to_string(),
                reason: "an engine has 64 directories at most",
            });
        }
        let directories = manifest.directories.get_or_insert_with(|| Directories {
            engine: RandomState::new().hash_one(std::process::id()),
            listed: vec![ListedDirectory {
                path: String::new(),
                is_made: true,
            }],
            stamp,
            ..Directories::default()
        });
        // Whatever their numbers would say from now on.
        let known = nodes.map(|nodes| directories.placement().list(nodes));
        directories.listed.truncate(self.found.len());
        let new = self.new.iter().map(|path| ListedDirectory {
            path: path.display().to_string(),
            is_made: false,
        });
        directories.listed.extend(new);
        directories.placement = match known {
            Some(known) => known,
            None => placed(builder, count)?,
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
            let number = DirectoryNo(u8::try_from(self.found.len()).expect("64 at most"));
            create_folder(&path)?;
            let path = absolute(&path)?;
            self.locks.push(lock(&path)?);
            let disk = disk_at(builder, number, &path)?;
            let disk = disk.ok_or_else(|| Error::NoEngine { path: path.clone() })?;
            let identity = Identity {
                engine: directories.engine,
                number,
            };
            if Identity::load(&*disk)?.is_some_and(|found| found != identity) {
                return Err(Error::ForeignDirectory {
                    path,
                    entry: IDENTITY_FILE.to_owned(),
                });
            }
            let options = options(builder, manifest.openings, number);
            journals.push(Journal::create(Arc::clone(&disk), options, last_lsn)?);
            identity.save(&*disk, manifest.openings)?;
            self.found.push(Place { disk, path });
        }
        for listed in &mut directories.listed {
            listed.is_made = true;
        }
        self.note(directories);
        manifest.save(&*self.found[0].disk)?;
        Ok(journals)
    }

    /// Notes where the directories are now.
    pub(super) fn note(&self, directories: &mut Directories) {
        let listed = directories.listed.iter_mut().zip(&self.found).skip(1);
        for (listed, place) in listed {
            listed.path = place.path.display().to_string();
        }
    }
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

fn absolute(path: &Path) -> Result<PathBuf> {
    let found = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    found.map_err(|error| Error::io(format!("finding {}", path.display()), &error))
}

/// The files at a path; `None` if there is no folder.
fn disk_at(builder: &Builder, number: DirectoryNo, path: &Path) -> Result<Option<Arc<dyn Disk>>> {
    if !path.is_dir() {
        return Ok(None);
    }
    if let Some((_, disk)) = builder.more_disks.iter().find(|(one, _)| *one == number.0) {
        return Ok(Some(Arc::clone(disk)));
    }
    let disk = DirectoryDisk::new(path)
        .map_err(|error| Error::io(format!("opening {}", path.display()), &error))?;
    Ok(Some(Arc::new(disk)))
}

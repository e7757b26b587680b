//! The directories of an engine beside the first: found and checked before anything is written.
//!
//! ```text
//!  listed and made:  where the builder says, by the file DIRECTORY that is there, else where it was last. Not there: an error
//!  new:              folder, locked ─▶ listed as not made, forced ─▶ journal, DIRECTORY, forced ─▶ listed as made, forced
//! ```
//!
//! Nothing is given to a directory before it is listed as made, and nothing is made where one should be that was made: a disk
//! that is not mounted leaves an empty folder behind, and that must not pass for the disk.
//!
//! None is made in another one, nor around it: the folder of a node goes with the node, and with it what lies there.
//!
//! # Copies
//!
//! A copy of an engine has the paths of the original in its manifest, and files that say that they are the same engine's. So
//! what the builder names comes first, and what was noted counts only as long as home is where it was noted itself. If it is
//! not, a directory that nobody names must lie beside home as it did before, and must not be the one that was noted: if that
//! one were the original's, the copy would write into it.
//!
//! # What is left out
//!
//! A copy that is brought to the very paths of the original, on another machine or by another mount, is taken for it.

use super::joining;
use crate::{Builder, directory::lock};
use mailring_engine::{
    Error, Result,
    directories::{Directories, Identity, ListedDirectory, recovery::Place},
    disk::{DirectoryDisk, Disk},
    ids::DirectoryNo,
    manifest::Manifest,
};
use std::{
    fs::{self, File},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// The directories, by number: the first, and those that were found.
pub(crate) struct Places {
    pub(crate) found: Vec<Place>,
    pub(super) locks: Vec<File>,
    /// Where there are to be more of them.
    pub(super) new: Vec<PathBuf>,
}

impl Places {
    /// Finds the directories that the manifest knows. Their locks are taken, and nothing is changed.
    pub(crate) fn find(builder: &Builder, home: Place, manifest: &Manifest) -> Result<Self> {
        let mut search = Search::new(builder, home.path.clone(), manifest)?;
        let mut places = Self {
            found: vec![home],
            locks: Vec::new(),
            new: Vec::new(),
        };
        if let Some(directories) = &manifest.directories {
            let made = directories.listed.iter().take_while(|one| one.is_made);
            for (number, listed) in (0..).map(DirectoryNo).zip(made).skip(1) {
                let (path, disk) = search.take(directories, number, listed)?;
                places.locks.push(lock(&path)?);
                places.found.push(Place { disk, path });
            }
            places.check_opening(directories, manifest.openings)?;
        }
        places.new = search.wanted(manifest, places.found.len())?;
        places.check_apart()?;
        Ok(places)
    }

    fn check_apart(&self) -> Result<()> {
        let found = self.found.iter().map(|place| (place.path.clone(), false));
        let new = self.new.iter().map(|path| (path.clone(), true));
        check_apart(&found.chain(new).collect::<Vec<_>>())
    }

    /// As [`Places::find`], for those who only look: whatever is named must be there.
    pub(crate) fn find_made(builder: &Builder, home: Place, manifest: &Manifest) -> Result<Self> {
        let places = Self::find(builder, home, manifest)?;
        let listed = manifest.directories.iter().flat_map(|it| &it.listed);
        let listed: Vec<_> = listed.map(|one| Path::new(&one.path)).collect();
        let unknown = |path: &&PathBuf| !listed.contains(&path.as_path());
        match places.new.iter().find(unknown) {
            Some(path) => Err(refused(path, "it is no directory of the engine")),
            None => Ok(places),
        }
    }

    /// Behind the locks: compares the openings that each directory knows of with those of the manifest.
    fn check_opening(&self, directories: &Directories, openings: u64) -> Result<()> {
        for (number, place) in (0..).map(DirectoryNo).zip(&self.found).skip(1) {
            let engine = directories.engine;
            // It was found before it was locked.
            let (found, opening) = Identity::load_with_opening(&*place.disk)?.unzip();
            let Some(found) = opening.filter(|_| found == Some(Identity { engine, number })) else {
                let reason = "it was exchanged while it was being locked, by another engine perhaps: look there, then open again";
                return Err(missing(number, &place.path, reason));
            };
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

    /// Notes where the directories are now. Those that are not made, and that nobody wants any more, are forgotten.
    pub(super) fn note(&self, directories: &mut Directories) {
        directories.listed.truncate(self.found.len());
        for (listed, place) in directories.listed.iter_mut().zip(&self.found) {
            listed.path = joining::noted(&place.path);
        }
    }
}

/// The directories that were not found yet.
struct Search<'a> {
    builder: &'a Builder,
    home: PathBuf,
    /// Where home was, if it is elsewhere now.
    moved_from: Option<PathBuf>,
    /// What the builder names, as far as it is not found to be one of those that are known.
    named: Vec<PathBuf>,
}

impl<'a> Search<'a> {
    fn new(builder: &'a Builder, home: PathBuf, manifest: &Manifest) -> Result<Self> {
        let named = builder.directories.iter().map(|path| absolute(path));
        let named: Vec<_> = named.collect::<Result<_>>()?;
        for (at, path) in named.iter().enumerate() {
            if path.to_str().is_none() {
                return Err(refused(path, "its name must be UTF-8"));
            }
            if *path == home || named[..at].contains(path) {
                return Err(refused(path, "it is named twice"));
            }
        }
        if home.to_str().is_none() && !(named.is_empty() && manifest.directories.is_none()) {
            // Where it is could not be noted, and a copy of it not be told from it.
            return Err(refused(&home, "its name must be UTF-8"));
        }
        let noted = manifest.directories.as_ref().map(|it| &it.listed[0].path);
        let noted = noted.filter(|noted| !noted.is_empty()).map(PathBuf::from);
        Ok(Self {
            builder,
            moved_from: noted.filter(|noted| *noted != home),
            home,
            named,
        })
    }

    /// Where this directory is.
    fn take(
        &mut self,
        directories: &Directories,
        number: DirectoryNo,
        listed: &ListedDirectory,
    ) -> Result<(PathBuf, Arc<dyn Disk>)> {
        let wanted = Identity {
            engine: directories.engine,
            number,
        };
        let noted = PathBuf::from(&listed.path);
        let mut found = Vec::new();
        for path in &self.named {
            // Whatever is wrong there does not concern this directory.
            if let Some(disk) = disk_at(self.builder, number, path)?
                && Identity::load(&*disk) == Ok(Some(wanted))
            {
                found.push((path.clone(), disk));
            }
        }
        if let Some((path, _)) = found.get(1) {
            return Err(refused(path, "it is a copy of another one that is named"));
        }
        if let Some((path, disk)) = found.pop() {
            self.named.retain(|one| *one != path);
            let is_at = |disk: &Arc<dyn Disk>| Identity::load(&**disk) == Ok(Some(wanted));
            let left = disk_at(self.builder, number, &noted);
            if path != noted && left.ok().flatten().is_some_and(|disk| is_at(&disk)) {
                let (used, left) = (path.display(), noted.display());
                tracing::warn!(%number, %used, %left, "a directory is in two places, and is used where it is named");
            }
            return Ok((path, disk));
        }
        let missing = |reason: &str| missing(number, &noted, reason);
        let expected = match &self.moved_from {
            None => Some(noted.clone()),
            Some(before) => beside(before, &noted, &self.home),
        };
        let disk = match &expected {
            Some(path) => disk_at(self.builder, number, path)?,
            None => None,
        };
        let found = disk.as_ref().map(|disk| Identity::load(&**disk));
        if let (Some(path), Some(disk), Some(Ok(Some(found)))) = (expected, disk, &found)
            && *found == wanted
        {
            return Ok((path, disk));
        }
        self.check_home(number, &noted)?;
        match found.ok_or_else(|| missing("there is no such folder"))?? {
            Some(found) if found.engine == wanted.engine => Err(missing(&format!(
                "directory {} of the engine is there",
                found.number
            ))),
            Some(_) => Err(missing("a directory of another engine is there")),
            None => Err(missing("the folder there is not that of an engine")),
        }
    }

    /// Where there are to be more directories: those that are listed already, where the builder wants them now, and others.
    fn wanted(self, manifest: &Manifest, made: usize) -> Result<Vec<PathBuf>> {
        let Some(directories) = &manifest.directories else {
            return Ok(self.named);
        };
        let homes = directories.placement().list(manifest.nodes.len());
        if homes.iter().all(|one| usize::from(one.0) < made) {
            // Whoever is there needs none of those that are listed, and it may be that they can't be made.
            return Ok(self.named);
        }
        let unmade = directories.listed.iter().skip(made);
        let unmade: Vec<_> = unmade.map(|listed| PathBuf::from(&listed.path)).collect();
        let is_unmade = |path: &PathBuf| unmade.contains(path);
        let (named, others): (Vec<_>, Vec<_>) = self.named.iter().cloned().partition(is_unmade);
        let mut others = others.into_iter();
        let mut new = Vec::new();
        for (number, path) in (made..).zip(&unmade) {
            if !named.contains(path)
                && let Some(other) = others.next()
            {
                new.push(other);
                continue;
            }
            if !named.contains(path) {
                self.check_home(DirectoryNo(u8::try_from(number).unwrap_or(u8::MAX)), path)?;
            }
            new.push(path.clone());
        }
        new.extend(others);
        Ok(new)
    }

    /// Refuses to go by what was noted if home is elsewhere.
    fn check_home(&self, number: DirectoryNo, noted: &Path) -> Result<()> {
        let Some(before) = &self.moved_from else {
            return Ok(());
        };
        let before = before.display();
        let reason = format!(
            "the engine was copied or moved from {before}, and what is there may be the original's: name where directory \
             {number} is"
        );
        Err(missing(number, noted, &reason))
    }
}

fn missing(number: DirectoryNo, path: &Path, reason: &str) -> Error {
    Error::DirectoryMissing {
        directory: number,
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

pub(super) fn refused(path: &Path, reason: &'static str) -> Error {
    Error::InvalidOption {
        option: "directory",
        value: path.display().to_string(),
        reason,
    }
}

/// Refuses to make a first directory in or around another one that is named, before anything of it is there.
pub(super) fn check_new_home(builder: &Builder, home: &Path) -> Result<()> {
    if home.exists() {
        return Ok(());
    }
    let mut all = vec![(absolute(home)?, false)];
    for named in &builder.directories {
        all.push((absolute(named)?, true));
    }
    check_apart(&all)
}

/// Refuses to make a directory, of which the second part is true, in another one, or around it: an engine removes folders of
/// its own, and whoever copies or removes a directory means that one. Where they are already that is only refused in the
/// folder of a node, which goes with the node.
fn check_apart(all: &[(PathBuf, bool)]) -> Result<()> {
    for (inner, is_inner_new) in all {
        for (outer, is_outer_new) in all {
            let within = inner.strip_prefix(outer).ok();
            let Some(first) = within.and_then(|within| within.iter().next()) else {
                continue;
            };
            let name = first.to_str().and_then(|name| name.strip_prefix("node-"));
            let is_of_node = name.is_some_and(|number| number.parse::<u16>().is_ok());
            if *is_inner_new || is_of_node && !is_outer_new {
                return Err(refused(
                    inner,
                    "it lies in another directory of the engine, which removes folders of its own; name a folder beside \
                     that one, or on another disk",
                ));
            }
            if *is_outer_new {
                return Err(refused(
                    outer,
                    "another directory of the engine lies in it, and an engine removes folders of its own; name a folder \
                     beside that one, or on another disk",
                ));
            }
        }
    }
    Ok(())
}

/// What lies beside `now` as `noted` did beside `before`; `None` if there is nothing, or nothing else than `noted`.
fn beside(before: &Path, noted: &Path, now: &Path) -> Option<PathBuf> {
    let pairs = before.components().zip(noted.components());
    let common = pairs.take_while(|(one, other)| one == other).count();
    let mut path = now.to_owned();
    for _ in before.components().skip(common) {
        if !path.pop() {
            return None;
        }
    }
    path.extend(noted.components().skip(common));
    let path = fs::canonicalize(path).ok()?;
    let is_noted = fs::canonicalize(noted).is_ok_and(|noted| noted == path);
    (!is_noted).then_some(path)
}

/// The path by which a folder is known, whichever way it was named; also if it is still to be created.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path);
    let whole = whole.map_err(|error| Error::io(format!("finding {}", path.display()), &error))?;
    let path = resolved(&whole);
    // Where it leads can be told only once there is what it leads through.
    match path.components().any(|part| part == Component::ParentDir) {
        true => Err(refused(
            &path,
            "it goes up (`..`) from a folder that is not there; name it without that",
        )),
        false => Ok(path),
    }
}

/// Follows the links of as much of a path as there is.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(found) = fs::canonicalize(path) {
        return found;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    }
}

/// The files at a path; `None` if there is no folder.
pub(super) fn disk_at(
    builder: &Builder,
    number: DirectoryNo,
    path: &Path,
) -> Result<Option<Arc<dyn Disk>>> {
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

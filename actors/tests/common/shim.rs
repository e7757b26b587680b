//! A disk that loses what was not forced, and one that fails, under real processes: `shim.c`, preloaded.
//!
//! A [`Medium`] is a folder and what of it a loss of power would leave. A process that runs with its
//! [`environment`](Medium::environment) writes the folder as ever, while the shim keeps the shadow that the medium is. When
//! the process is gone, [`Medium::lose_power`] throws the folder away and builds it again from the shadow: from exactly what
//! was forced or, where a real disk may have kept more, from that and any part of the rest.

use rand::{Rng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, Write as _},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Set where tests of faults must not be skipped.
const DEMAND: &str = "MAILRING_DEMAND_FAULTS";
/// A disk writes so many bytes or none.
const SECTOR_BYTES: usize = 512;

/// The compiled shim.
pub struct Shim {
    folder: tempfile::TempDir,
}

impl Shim {
    /// Builds the shim and tries it. Where that can't be done this says why on the terminal, and is `None`.
    ///
    /// # Panics
    ///
    /// Panics instead if `MAILRING_DEMAND_FAULTS` is set, as it is in CI.
    pub fn build() -> Option<Self> {
        match Self::try_build() {
            Ok(shim) => Some(shim),
            Err(reason) => {
                assert!(
                    env::var_os(DEMAND).is_none(),
                    "{DEMAND} is set, but no shim can be preloaded here: {reason}"
                );
                // Past the test harness, which would show it only if the test failed.
                let _ = writeln!(io::stderr(), "SKIPPED: no faults of system calls: {reason}");
                None
            }
        }
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("shim.so")
    }

    fn try_build() -> Result<Self, String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/shim.c");
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let shim = Self { folder };
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"])
            .args([&shim.library(), &source])
            .arg("-ldl")
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        if !built.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&built.stderr)));
        }
        let medium = Medium::new(&shim, shim.folder.path());
        let probe = medium.root().join("probe");
        let probed = Command::new("touch")
            .arg(&probe)
            .envs(medium.environment())
            .output();
        match probed {
            Ok(_) if medium.counts().contains_key("changes") => Ok(shim),
            other => Err(format!("the shim was not preloaded: {other:?}")),
        }
    }
}

/// A directory entry: the file's or folder's number, and whether it is a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    inode: u64,
    is_folder: bool,
}

type Entries = BTreeMap<String, Entry>;

/// A folder and its shadow.
pub struct Medium {
    library: PathBuf,
    place: PathBuf,
    losses: u32,
}

impl Medium {
    /// An empty folder below `place`, all of it on the medium.
    pub fn new(shim: &Shim, place: &Path) -> Self {
        let medium = Self {
            library: shim.library(),
            place: place.canonicalize().unwrap(),
            losses: 0,
        };
        fs::create_dir_all(medium.root()).unwrap();
        medium.adopt();
        medium
    }

    /// A copy of `folder` below `place`, all of it on the medium.
    pub fn copy_of(folder: &Path, shim: &Shim, place: &Path) -> Self {
        let medium = Self::new(shim, place);
        super::copy_directory(folder, &medium.root());
        medium.adopt();
        medium
    }

    fn here(&self) -> PathBuf {
        self.place.join(format!("after-{}-losses", self.losses))
    }

    /// The folder as processes see it.
    pub fn root(&self) -> PathBuf {
        self.here().join("root")
    }

    fn shadow(&self) -> PathBuf {
        self.here().join("shadow")
    }

    fn shadowed(&self, folder: &str, inode: u64) -> PathBuf {
        self.shadow().join(folder).join(inode.to_string())
    }

    /// What a process that writes to the folder must be started with.
    pub fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("MAILRING_SHIM_ROOT", self.root()),
            ("MAILRING_SHIM_SHADOW", self.shadow()),
        ]
    }

    /// How many calls of each kind, and `changes`, the last process has made that ended by itself.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(self.shadow().join("counts")).unwrap_or_default();
        text.lines()
            .map(|line| {
                let (kind, count) = line.split_once(' ').expect("a kind and a number");
                (kind.to_owned(), count.parse().expect("a number"))
            })
            .collect()
    }

    /// Takes everything that was not forced or, with `luck`, any part of it. No process may be using the folder.
    pub fn lose_power(&mut self, mut luck: Option<&mut StdRng>) {
        let (old_root, old_folder) = (self.root(), self.here());
        let old = Self {
            library: self.library.clone(),
            place: self.place.clone(),
            losses: self.losses,
        };
        self.losses += 1;
        fs::create_dir(self.here()).unwrap();
        let inode = fs::metadata(&old_root).unwrap().ino();
        let mut kept = BTreeMap::new();
        old.restore(inode, &old_root, &self.root(), &mut luck, &mut kept);
        fs::remove_dir_all(old_folder).unwrap();
        self.adopt();
    }

    /// Makes the shadow what the folder is.
    fn adopt(&self) {
        let _ = fs::remove_dir_all(self.shadow());
        for folder in ["pins", "durable", "dirs"] {
            fs::create_dir_all(self.shadow().join(folder)).unwrap();
        }
        self.adopt_folder(&self.root());
    }

    fn adopt_folder(&self, folder: &Path) {
        let mut lines = String::new();
        for (name, entry) in entries(folder) {
            let path = folder.join(&name);
            let kind = if entry.is_folder { 'd' } else { 'f' };
            lines += &format!("{} {kind} {name}\n", entry.inode);
            if entry.is_folder {
                self.adopt_folder(&path);
            } else {
                fs::hard_link(&path, self.shadowed("pins", entry.inode)).unwrap();
                fs::copy(&path, self.shadowed("durable", entry.inode)).unwrap();
            }
        }
        let inode = fs::metadata(folder).unwrap().ino();
        fs::write(self.shadowed("dirs", inode), lines).unwrap();
    }

    /// The entries of a directory that are on the medium.
    fn durable_entries(&self, inode: u64) -> Entries {
        let text = fs::read_to_string(self.shadowed("dirs", inode)).unwrap_or_default();
        text.lines()
            .map(|line| {
                let mut words = line.splitn(3, ' ');
                let mut word = || words.next().expect("three words");
                let (inode, kind, name) = (word().parse().expect("a number"), word(), word());
                let is_folder = kind == "d";
                (name.to_owned(), Entry { inode, is_folder })
            })
            .collect()
    }

    /// Builds `target` from directory `inode`, which is `live` now.
    fn restore(
        &self,
        inode: u64,
        live: &Path,
        target: &Path,
        luck: &mut Option<&mut StdRng>,
        kept: &mut BTreeMap<u64, bool>,
    ) {
        fs::create_dir(target).unwrap();
        let durable = self.durable_entries(inode);
        // A folder may be on the medium that was removed since. The engine removes none.
        let now = entries(live);
        let names: BTreeSet<_> = durable.keys().chain(now.keys()).collect();
        for name in names {
            let (forced, newest) = (durable.get(name), now.get(name));
            let entry = match luck {
                Some(luck) if forced != newest => {
                    // Both names of a file that was renamed are decided together.
                    let subject = newest.or(forced).expect("one of them").inode;
                    let is_kept = kept.entry(subject).or_insert_with(|| luck.random());
                    if *is_kept { newest } else { forced }
                }
                _ => forced,
            };
            let Some(entry) = entry else { continue };
            let path = target.join(name);
            if entry.is_folder {
                self.restore(entry.inode, &live.join(name), &path, luck, kept);
            } else {
                fs::write(path, self.contents(entry.inode, luck)).unwrap();
            }
        }
    }

    fn contents(&self, inode: u64, luck: &mut Option<&mut StdRng>) -> Vec<u8> {
        // Nothing was forced; or the file was created in the moment of the death.
        let read = |folder| fs::read(self.shadowed(folder, inode)).unwrap_or_default();
        let durable = read("durable");
        let Some(luck) = luck else { return durable };
        let newest = read("pins");
        match luck.random_range(0..3) {
            0 => durable,
            1 => newest,
            _ => mixed(&durable, &newest, luck),
        }
    }
}

/// Some sectors as they were forced, the others as they were written.
fn mixed(durable: &[u8], newest: &[u8], luck: &mut StdRng) -> Vec<u8> {
    let length = if luck.random() { durable } else { newest }.len();
    let mut mixed = vec![0; length];
    for (number, sector) in mixed.chunks_mut(SECTOR_BYTES).enumerate() {
        let source = if luck.random() { durable } else { newest };
        let from = &source[source.len().min(number * SECTOR_BYTES)..];
        let length = from.len().min(sector.len());
        sector[..length].copy_from_slice(&from[..length]);
    }
    mixed
}

fn entries(folder: &Path) -> Entries {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            // Not the number in the directory, which is another one on some file systems.
            let found = entry.metadata().unwrap();
            let (inode, is_folder) = (found.ino(), found.is_dir());
            let name = entry.file_name().into_string().unwrap();
            (name, Entry { inode, is_folder })
        })
        .collect()
}

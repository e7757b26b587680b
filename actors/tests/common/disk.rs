//! A real directory whose manifest can be held up: a checkpoint then does not end, as on a very slow disk.

use super::Gate;
use mailring_engine::{
    disk::{DirectoryDisk, Disk, DiskFile},
    manifest::MANIFEST_FILE,
};
use std::{io, path::Path, path::PathBuf, sync::Arc};

pub struct GatedDisk {
    disk: DirectoryDisk,
    gate: Arc<Gate>,
}

impl GatedDisk {
    pub fn new(directory: &Path, gate: Arc<Gate>) -> Self {
        let disk = DirectoryDisk::new(directory).expect("the directory is there");
        Self { disk, gate }
    }
}

impl Disk for GatedDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(name, len)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        if name == MANIFEST_FILE {
            self.gate.pass();
        }
        self.disk.replace(name, contents)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

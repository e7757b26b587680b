//! A real directory whose every operation can be held up, failed or made to panic.

use super::Gate;
use mailring_engine::{
    disk::{DirectoryDisk, Disk, DiskFile},
    manifest::MANIFEST_FILE,
};
use std::{io, path::Path, path::PathBuf, sync::Arc};

/// Called with the operation's name and the file's before each operation.
pub type DiskHook = Arc<dyn Fn(&'static str, &str) -> io::Result<()> + Send + Sync>;

/// The operations of a disk and its files, by the names that the hook gets.
pub const OPERATIONS: [&str; 10] = [
    "create", "open", "replace", "list", "remove", "rename", "read_at", "write_at", "force", "len",
];

pub struct HookedDisk {
    disk: DirectoryDisk,
    hook: DiskHook,
}

impl HookedDisk {
    pub fn new(directory: &Path, hook: DiskHook) -> Self {
        let disk = DirectoryDisk::new(directory).expect("the directory is there");
        Self { disk, hook }
    }

    /// Holds up whoever writes the manifest: a checkpoint then does not end, as on a very slow disk.
    pub fn gated(directory: &Path, gate: Arc<Gate>) -> Self {
        let hook = move |operation: &'static str, name: &str| {
            if (operation, name) == ("replace", MANIFEST_FILE) {
                gate.pass();
            }
            Ok(())
        };
        Self::new(directory, Arc::new(hook))
    }

    fn file(&self, name: &str, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HookedFile {
            file,
            name: name.to_owned(),
            hook: Arc::clone(&self.hook),
        })
    }
}

impl Disk for HookedDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        (self.hook)("create", name)?;
        Ok(self.file(name, self.disk.create(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        (self.hook)("open", name)?;
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        (self.hook)("replace", name)?;
        self.disk.replace(name, contents)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        (self.hook)("list", "")?;
        self.disk.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        (self.hook)("remove", name)?;
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.hook)("rename", from)?;
        self.disk.rename(from, to)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

struct HookedFile {
    file: Box<dyn DiskFile>,
    name: String,
    hook: DiskHook,
}

impl DiskFile for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (self.hook)("read_at", &self.name)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (self.hook)("write_at", &self.name)?;
        self.file.write_at(bytes, offset)
    }

    fn force(&self) -> io::Result<()> {
        (self.hook)("force", &self.name)?;
        self.file.force()
    }

    fn len(&self) -> io::Result<u64> {
        (self.hook)("len", &self.name)?;
        self.file.len()
    }
}

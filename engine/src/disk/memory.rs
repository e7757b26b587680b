//! Files in memory, for engines that keep nothing.

use super::{Disk, DiskFile};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

type Contents = Arc<Mutex<Vec<u8>>>;

/// A disk in memory. Forces do nothing; a file that is removed lives on in whoever has it open.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    files: Mutex<BTreeMap<String, Contents>>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Contents>> {
        // No code that can panic runs under these locks, so what a poisoned one guards is whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name} does not exist"))
}

pub(super) fn already_exists(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} exists"))
}

/// Copies the bytes at `offset` out of `contents`.
pub(super) fn copy_out(contents: &[u8], buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let found = usize::try_from(offset)
        .ok()
        .and_then(|from| contents.get(from..from.checked_add(buffer.len())?))
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    buffer.copy_from_slice(found);
    Ok(())
}

/// Copies `bytes` into `contents` at `offset`, which grows if it must.
pub(super) fn copy_in(contents: &mut Vec<u8>, bytes: &[u8], offset: u64) -> io::Result<()> {
    let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let to = from
        .checked_add(bytes.len())
        .ok_or(io::ErrorKind::FileTooLarge)?;
    if contents.len() < to {
        contents.resize(to, 0);
    }
    contents[from..to].copy_from_slice(bytes);
    Ok(())
}

impl Disk for MemoryDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut files = self.files();
        if files.contains_key(name) {
            return Err(already_exists(name));
        }
        let contents = Arc::new(Mutex::new(vec![0; len]));
        files.insert(name.to_owned(), Arc::clone(&contents));
        Ok(Box::new(MemoryFile(contents)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let contents = self
            .files()
            .get(name)
            .cloned()
            .ok_or_else(|| not_found(name))?;
        Ok(Box::new(MemoryFile(contents)))
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.files()
            .insert(name.to_owned(), Arc::new(Mutex::new(contents.to_vec())));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files()
            .remove(name)
            .map(drop)
            .ok_or_else(|| not_found(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        if files.contains_key(to) {
            return Err(already_exists(to));
        }
        let contents = files.remove(from).ok_or_else(|| not_found(from))?;
        files.insert(to.to_owned(), contents);
        Ok(())
    }
}

struct MemoryFile(Contents);

impl MemoryFile {
    fn contents(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        copy_out(&self.contents(), buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        copy_in(&mut self.contents(), bytes, offset)
    }

    fn force(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents().len() as u64)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_keeps_what_the_trait_promises() {
        super::super::conformance::check(&super::MemoryDisk::new());
    }
}

//! A real directory.

use super::{Disk, DiskFile};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Bytes written at once when a new file is filled with zeros.
const FILL_BYTES: usize = 1 << 20;
/// What a file is called until [`Disk::replace`] has written all of it.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// A directory of the file system. Subfolders are not seen: the trees of the nodes may live in them.
#[derive(Debug)]
pub struct DirectoryDisk {
    path: PathBuf,
    /// The open directory: what is forced after an entry has changed.
    directory: File,
}

impl DirectoryDisk {
    /// The files of `path`, which must be an existing directory.
    ///
    /// # Errors
    ///
    /// Fails when the directory can't be opened.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let directory = File::open(&path)?;
        if !directory.metadata()?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", path.display()),
            ));
        }
        Ok(Self { path, directory })
    }

    /// Fills and forces a file that has just been created.
    fn fill(&self, file: &File, len: u64) -> io::Result<()> {
        // Zeros are written, not only allocated: overwriting written blocks spares each later force the
        // conversion of unwritten extents, and a file written in full can't run out of room.
        let zeros = vec![0; FILL_BYTES.min(usize::try_from(len).unwrap_or(FILL_BYTES))];
        let mut offset = 0;
        while offset < len {
            let part = (len - offset).min(zeros.len() as u64);
            file.write_all_at(
                &zeros[..usize::try_from(part).expect("at most a MiB")],
                offset,
            )?;
            offset += part;
        }
        file.sync_all()?;
        self.directory.sync_all()
    }

    fn write_new(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let file = File::create(path)?;
        file.write_all_at(contents, 0)?;
        file.sync_all()
    }
}

impl Disk for DirectoryDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        if let Err(error) = self.fill(&file, len) {
            // A full disk must get the room back. The first error is the one that matters.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Box::new(DirectoryFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Box::new(DirectoryFile(file)))
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}{TEMPORARY_SUFFIX}"));
        if let Err(error) = self.write_new(&temporary, contents) {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        fs::rename(&temporary, self.path.join(name))?;
        self.directory.sync_all()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (
                entry.file_type()?.is_file(),
                entry.file_name().into_string(),
            ) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))?;
        self.directory.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.path.join(to);
        if to.try_exists()? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} exists", to.display()),
            ));
        }
        fs::rename(self.path.join(from), to)?;
        self.directory.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

struct DirectoryFile(File);

impl DiskFile for DirectoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn force(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_directory_keeps_what_the_trait_promises() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        super::super::conformance::check(&DirectoryDisk::new(folder.path()).expect("opens"));
    }

    #[test]
    fn folders_are_not_listed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("node-0")).expect("creates a folder");
        let disk = DirectoryDisk::new(folder.path()).expect("opens");
        drop(disk.create("file", 0).expect("creates"));
        assert_eq!(disk.list().expect("lists"), ["file"]);
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        fs::write(&path, b"").expect("writes");
        let error = DirectoryDisk::new(&path).expect_err("a file is refused");
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn no_space_left_on_the_device_is_a_full_disk() {
        const ENOSPC: i32 = 28;
        let error = Error::io("creating a segment", &io::Error::from_raw_os_error(ENOSPC));
        assert_eq!(
            error,
            Error::DiskFull {
                context: "creating a segment".into()
            }
        );
    }
}

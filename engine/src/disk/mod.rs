//! The files of a directory behind a trait small enough to be simulated byte by byte.
//!
//! The journal and the manifest do all their I/O through [`Disk`]. [`DirectoryDisk`] is a real directory,
//! [`MemoryDisk`] serves `memory()` engines, and [`SimulatedDisk`] forgets at a crash what was not forced
//! and fails on command.

mod directory;
mod memory;
mod simulated;

pub use directory::DirectoryDisk;
pub use memory::MemoryDisk;
pub use simulated::{SECTOR_BYTES, SimulatedDisk, Survivors, Unforced};

use std::{io, path::PathBuf};

/// A flat directory of files. All methods block.
pub trait Disk: Send + Sync + 'static {
    /// Creates `name` (it must not exist), filled with `len` zero bytes that are forced, and its directory entry forced.
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Replaces `name` by `contents` atomically: after a crash either the old or the new contents are there, and
    /// when the call has returned, the new ones.
    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()>;
    /// Names of all files, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a file and forces the directory.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file over a free name and forces the directory.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Where a file is, as an error should name it.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Fills `buffer` from `offset`; fails with `UnexpectedEof` where the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Forces everything written so far to the medium (`fdatasync`).
    fn force(&self) -> io::Result<()>;
    /// Length of the file in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

#[cfg(test)]
mod conformance {
    //! What every disk must do while nothing fails.

    use super::Disk;
    use std::io::ErrorKind;

    fn contents(disk: &dyn Disk, name: &str) -> Vec<u8> {
        let file = disk.open(name).expect("opens");
        let mut bytes =
            vec![0xff; usize::try_from(file.len().expect("has a length")).expect("small")];
        file.read_at(&mut bytes, 0).expect("reads");
        bytes
    }

    pub(super) fn check(disk: &dyn Disk) {
        assert_eq!(disk.list().expect("lists"), [""; 0]);
        let error = disk.open("a").err().expect("a missing file does not open");
        assert_eq!(error.kind(), ErrorKind::NotFound);

        let file = disk.create("a", 2_000_000).expect("creates");
        assert_eq!(file.len().expect("has a length"), 2_000_000);
        assert!(
            contents(disk, "a").iter().all(|&byte| byte == 0),
            "a new file is zeros"
        );
        let error = disk.create("a", 1).err().expect("a name in use is refused");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);

        file.write_at(b"hello", 1_999_995).expect("writes");
        file.force().expect("forces");
        let mut buffer = [0; 5];
        disk.open("a")
            .expect("opens")
            .read_at(&mut buffer, 1_999_995)
            .expect("reads");
        assert_eq!(&buffer, b"hello");
        let error = file
            .read_at(&mut buffer, 1_999_996)
            .expect_err("the end is the end");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

        disk.replace("b", b"one").expect("creates by replacing");
        disk.replace("b", b"twelve").expect("replaces");
        assert_eq!(contents(disk, "b"), b"twelve");

        let error = disk
            .rename("a", "b")
            .expect_err("a rename does not overwrite");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        disk.rename("a", "c").expect("renames");
        let mut names = disk.list().expect("lists");
        names.sort();
        assert_eq!(names, ["b", "c"]);
        disk.remove("c").expect("removes");
        file.read_at(&mut buffer, 1_999_995)
            .expect("an open file outlives its name");
        assert_eq!(disk.list().expect("lists"), ["b"]);
        assert_eq!(
            disk.remove("c").expect_err("is gone").kind(),
            ErrorKind::NotFound
        );
    }
}

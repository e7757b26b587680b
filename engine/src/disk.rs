//! The files of a directory behind a trait small enough to be simulated byte by byte.
//!
//! The journal and the manifest do all their I/O through [`Disk`]. `disk::DirectoryDisk` is a real directory,
//! `disk::MemoryDisk` serves `memory()` engines, and `disk::SimulatedDisk` forgets at a crash what was not forced
//! and fails on command.

use std::io;

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

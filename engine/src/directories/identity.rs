//! The file that says which directory of which engine this is. The first has the manifest instead.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MAILDIRE` |
//! | 8 | 4 | format version |
//! | 12 | 4 | number of the directory |
//! | 16 | 8 | number of the engine |
//! | 24 | 8 | xxh3-64 of bytes 8 to 24 |
//!
//! It is written once, when the directory is made, and is what tells a disk that is not mounted, or another one, from the
//! one that is meant.

use crate::{
    disk::Disk,
    error::{Error, Result},
    ids::DirectoryNo,
};
use std::io;
use xxhash_rust::xxh3::xxh3_64;

/// The name of the file.
pub const IDENTITY_FILE: &str = "DIRECTORY";
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"MAILDIRE";
const BYTES: usize = 32;

/// Which directory of which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The engine, by a number that no other has.
    pub engine: u64,
    /// The directory.
    pub number: DirectoryNo,
}

impl Identity {
    /// What a directory says that it is; `None` if it says nothing.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptManifest`], which names the file, [`Error::NewerFormat`] or [`Error::Io`].
    pub fn load(disk: &dyn Disk) -> Result<Option<Self>> {
        let file = disk.path(IDENTITY_FILE);
        let read = || -> io::Result<([u8; BYTES], u64)> {
            let file = disk.open(IDENTITY_FILE)?;
            let mut bytes = [0; BYTES];
            file.read_at(&mut bytes, 0)?;
            Ok((bytes, file.len()?))
        };
        let (bytes, len) = match read() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => ([0; BYTES], 0),
            Err(error) => return Err(Error::io(format!("reading {}", file.display()), &error)),
        };
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        if bytes[..8] != MAGIC || u64_at(24) != xxh3_64(&bytes[8..24]) || len != BYTES as u64 {
            let reason = "it does not say which directory this is".to_owned();
            return Err(Error::CorruptManifest { file, reason });
        }
        if u32_at(8) > VERSION {
            let (found, supported) = (u32_at(8), VERSION);
            return Err(Error::NewerFormat {
                file,
                found,
                supported,
            });
        }
        let Ok(number) = u8::try_from(u32_at(12)) else {
            let reason = "no engine has so many directories".to_owned();
            return Err(Error::CorruptManifest { file, reason });
        };
        Ok(Some(Self {
            engine: u64_at(16),
            number: DirectoryNo(number),
        }))
    }

    /// Writes it. When this returns it is durable.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn save(self, disk: &dyn Disk) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.number.0).to_le_bytes());
        bytes.extend_from_slice(&self.engine.to_le_bytes());
        let checksum = xxh3_64(&bytes[8..]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        let written = disk.replace(IDENTITY_FILE, &bytes);
        let file = disk.path(IDENTITY_FILE);
        written.map_err(|error| Error::io(format!("writing {}", file.display()), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    const SAMPLE: Identity = Identity {
        engine: 0x0123_4567_89ab_cdef,
        number: DirectoryNo(3),
    };

    #[test]
    fn it_reads_back_and_where_there_is_none_is_none() {
        let disk = MemoryDisk::new();
        assert_eq!(Identity::load(&disk), Ok(None));
        SAMPLE.save(&disk).expect("saves");
        assert_eq!(Identity::load(&disk), Ok(Some(SAMPLE)));
    }

    #[test]
    fn with_any_bit_flipped_or_cut_anywhere_it_is_an_error() {
        let disk = MemoryDisk::new();
        SAMPLE.save(&disk).expect("saves");
        let mut bytes = vec![0; BYTES];
        let file = disk.open(IDENTITY_FILE).expect("opens");
        file.read_at(&mut bytes, 0).expect("reads");
        for at in 0..BYTES {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            disk.replace(IDENTITY_FILE, &damaged).expect("damages");
            let found = Identity::load(&disk);
            assert!(
                matches!(found, Err(Error::CorruptManifest { .. })),
                "byte {at}: {found:?}"
            );
            disk.replace(IDENTITY_FILE, &bytes[..at]).expect("cuts");
            let found = Identity::load(&disk);
            assert!(
                matches!(found, Err(Error::CorruptManifest { .. })),
                "cut at {at}: {found:?}"
            );
        }
    }
}

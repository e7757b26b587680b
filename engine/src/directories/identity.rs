//! The file that says which directory of which engine this is. The first has the manifest instead.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MAILDIRE` |
//! | 8 | 4 | format version |
//! | 12 | 4 | number of the directory |
//! | 16 | 8 | number of the engine |
//! | 24 | 8 | the opening of the engine that has written it |
//! | 32 | 8 | xxh3-64 of bytes 8 to 32 |
//!
//! It is what tells a disk that is not mounted, or another one, from the one that is meant. It is written at each opening,
//! before anything else of that opening is; so an older copy of this directory, or of the first one, is told from the
//! manifest's count ([`Directories::check_opening`](super::Directories::check_opening)), also where nothing was ever forced.

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
const BYTES: usize = 40;

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
        Ok(Self::load_with_opening(disk)?.map(|(identity, _)| identity))
    }

    /// The same, and the opening that has written it.
    ///
    /// # Errors
    ///
    /// As [`Identity::load`].
    pub fn load_with_opening(disk: &dyn Disk) -> Result<Option<(Self, u64)>> {
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
        if bytes[..8] != MAGIC || u64_at(32) != xxh3_64(&bytes[8..32]) || len != BYTES as u64 {
            let reason = "it does not say which directory this is".to_owned();
            return Err(Error::CorruptManifest { file, reason });
        }
        if u32_at(8) == 0 {
            let reason = "it has format version 0, which there never was".to_owned();
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
        let identity = Self {
            engine: u64_at(16),
            number: DirectoryNo(number),
        };
        Ok(Some((identity, u64_at(24))))
    }

    /// Writes it in this opening. When this returns it is durable.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`] or [`Error::Io`].
    pub fn save(self, disk: &dyn Disk, opening: u64) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.number.0).to_le_bytes());
        bytes.extend_from_slice(&self.engine.to_le_bytes());
        bytes.extend_from_slice(&opening.to_le_bytes());
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
        SAMPLE.save(&disk, 7).expect("saves");
        assert_eq!(Identity::load(&disk), Ok(Some(SAMPLE)));
        assert_eq!(Identity::load_with_opening(&disk), Ok(Some((SAMPLE, 7))));
    }

    #[test]
    fn it_has_these_bytes() {
        let disk = MemoryDisk::new();
        SAMPLE.save(&disk, 0x0a0b).expect("saves");
        let mut bytes = [0; BYTES];
        let file = disk.open(IDENTITY_FILE).expect("opens");
        file.read_at(&mut bytes, 0).expect("reads");
        let expected = [
            &b"MAILDIRE"[..],
            &[1, 0, 0, 0, 3, 0, 0, 0],
            &[0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01],
            &[0x0b, 0x0a, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[..32], expected.concat());
    }

    #[test]
    fn with_any_bit_flipped_or_cut_anywhere_it_is_an_error() {
        let disk = MemoryDisk::new();
        SAMPLE.save(&disk, 7).expect("saves");
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

    /// The former was read as version 1.
    #[test]
    fn a_version_that_there_never_was_is_corruption_and_a_newer_one_is_named() {
        let disk = MemoryDisk::new();
        SAMPLE.save(&disk, 7).expect("saves");
        let mut bytes = [0; BYTES];
        let file = disk.open(IDENTITY_FILE).expect("opens");
        file.read_at(&mut bytes, 0).expect("reads");
        let mut of_version = |version: u8| {
            bytes[8] = version;
            let checksum = xxh3_64(&bytes[8..32]);
            bytes[32..].copy_from_slice(&checksum.to_le_bytes());
            disk.replace(IDENTITY_FILE, &bytes).expect("writes");
            Identity::load(&disk)
        };
        let never = Error::CorruptManifest {
            file: IDENTITY_FILE.into(),
            reason: "it has format version 0, which there never was".into(),
        };
        assert_eq!(of_version(0), Err(never));
        assert_eq!(of_version(1), Ok(Some(SAMPLE)));
        let newer = Error::NewerFormat {
            file: IDENTITY_FILE.into(),
            found: 2,
            supported: VERSION,
        };
        assert_eq!(of_version(2), Err(newer));
    }
}

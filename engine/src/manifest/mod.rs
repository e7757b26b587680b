//! The manifest: the one small file that says what a directory is.
//!
//! It holds the settings that can't change without moving data, the table of the ring, the keyspaces, and for
//! each node how far its tree is complete. It is replaced as a whole ([`Disk::replace`]) at every checkpoint, so it is
//! either the old or the new one.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MAILMANI` |
//! | 8 | 4 | format version |
//! | 12 | 4 | bytes of the sections |
//! | 16 | 8 | xxh3-64 of bytes 8 to 16, then the sections |
//! | 24 | | sections: kind (u16), length (u32), contents |
//!
//! Numbers are little endian, in the sections varints. The first 24 bytes keep their meaning in every format, so that a
//! newer format is told from a damaged file. A section of an unknown kind is skipped if its kind has the top bit set;
//! else the file is of a newer format, whatever its version says. A section comes once.

mod sections;

use crate::{
    checkpoint::Catalogue,
    disk::Disk,
    error::{Error, Result},
    ids::{Epoch, Incarnation, KeyspaceId, Lsn, NodeId},
    keyspaces::Keyspaces,
    outcomes::SavedOutcomes,
};
use sections::Problem;
use std::{io, path::PathBuf, time::Duration};
use xxhash_rust::xxh3::Xxh3;

/// The name of the manifest's file.
pub const MANIFEST_FILE: &str = "MANIFEST";
/// The version of its format.
pub const MANIFEST_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MAILMANI";
const HEADER_BYTES: usize = 24;
/// What a directory is, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// The ring has 2 to this power arcs.
    pub arc_bits: u8,
    /// The nodes and their weights.
    pub nodes: Vec<NodeSettings>,
    /// The version of the ring.
    pub epoch: Epoch,
    /// The owner of each arc, where that does not follow from the settings.
    pub arcs: Option<Vec<NodeId>>,
    /// The keyspaces that exist.
    pub keyspaces: Vec<KeyspaceName>,
    /// The number of the next keyspace to be created.
    pub next_keyspace: KeyspaceId,
    /// How far each node is.
    pub progress: Vec<NodeProgress>,
    /// The last LSN when this was written.
    pub last_lsn: Lsn,
    /// How often the directory was opened; the journal's salt.
    pub openings: u64,
    /// The longest lease that somebody may have who was not told that it is over; zero once the engine has stopped.
    pub longest_lease: Duration,
    /// What became of transactions, as far as that is kept.
    pub outcomes: SavedOutcomes,
    /// Whether the engine was shut down after this was written, and nothing was opened since.
    pub clean_shutdown: bool,
}

/// A node of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSettings {
    /// The node.
    pub node: NodeId,
    /// Its share, relative to those of the others.
    pub weight: u32,
}

/// A keyspace and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyspaceName {
    /// Its number.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeProgress {
    /// The node.
    pub node: NodeId,
    /// Its tree holds everything up to this LSN.
    pub complete: Lsn,
    /// Its life when this was written.
    pub incarnation: Incarnation,
}

impl Manifest {
    /// Takes in a checkpoint: the trees are complete up to `complete` (by node number), and the journal's records up to
    /// `through` add up to `catalogue`.
    ///
    /// # Panics
    ///
    /// Panics if the nodes are not those of the manifest.
    pub fn record_checkpoint(&mut self, complete: &[Lsn], through: Lsn, catalogue: &Catalogue) {
        assert_eq!(
            complete.len(),
            self.progress.len(),
            "a checkpoint covers every node"
        );
        for (progress, (complete, incarnation)) in self
            .progress
            .iter_mut()
            .zip(complete.iter().zip(&catalogue.incarnations))
        {
            progress.complete = *complete;
            progress.incarnation = *incarnation;
        }
        self.last_lsn = self.last_lsn.max(through);
        self.outcomes = catalogue.outcomes.clone();
        self.next_keyspace = catalogue.keyspaces.next_id();
        self.keyspaces = catalogue
            .keyspaces
            .iter()
            .map(|(name, id)| KeyspaceName {
                id,
                name: name.to_owned(),
            })
            .collect();
    }

    /// The catalogue of keyspaces that was saved.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptManifest`] if names or numbers contradict each other.
    pub fn keyspaces(&self, disk: &dyn Disk) -> Result<Keyspaces> {
        let mut by_id: Vec<_> = self.keyspaces.iter().collect();
        by_id.sort_by_key(|keyspace| keyspace.id);
        let mut keyspaces = Keyspaces::new();
        for keyspace in by_id {
            keyspaces
                .install_create(keyspace.id, &keyspace.name)
                .map_err(|error| Error::CorruptManifest {
                    file: disk.path(MANIFEST_FILE),
                    reason: error.to_string(),
                })?;
        }
        keyspaces.reserve_below(self.next_keyspace);
        Ok(keyspaces)
    }

    /// Reads the manifest; `None` if the directory has none.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptManifest`], [`Error::NewerFormat`] or [`Error::Io`].
    pub fn load(disk: &dyn Disk) -> Result<Option<Self>> {
        let path = disk.path(MANIFEST_FILE);
        let read = || -> io::Result<Vec<u8>> {
            let file = disk.open(MANIFEST_FILE)?;
            let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let mut bytes = vec![0; len];
            file.read_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Self::decode(&bytes, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("reading {}", path.display()), &error)),
        }
    }

    /// Replaces the manifest. When this returns, the new one is durable.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`] or [`Error::Io`]; the old one is there then, or the new one.
    pub fn save(&self, disk: &dyn Disk) -> Result<()> {
        disk.replace(MANIFEST_FILE, &self.encode())
            .map_err(|error| {
                Error::io(
                    format!("writing {}", disk.path(MANIFEST_FILE).display()),
                    &error,
                )
            })
    }

    fn encode(&self) -> Vec<u8> {
        envelope(MANIFEST_VERSION, &self.encode_sections())
    }

    fn decode(bytes: &[u8], file: PathBuf) -> Result<Self> {
        let corrupt = |reason: &str| Error::CorruptManifest {
            file: file.clone(),
            reason: reason.into(),
        };
        let newer = |found| Error::NewerFormat {
            file: file.clone(),
            found,
            supported: MANIFEST_VERSION,
        };
        let (header, sections) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| corrupt("it is shorter than its header"))?;
        if header[..8] != MAGIC {
            return Err(corrupt("it does not begin like a manifest"));
        }
        let number = |at: usize| {
            u32::from_le_bytes(
                header[at..at + 4]
                    .try_into()
                    .expect("four bytes of a header"),
            )
        };
        if number(12) as usize != sections.len() {
            return Err(corrupt("its length is not what its header says"));
        }
        if header[16..] != checksum(&header[8..16], sections).to_le_bytes() {
            return Err(corrupt("its checksum does not match"));
        }
        if number(8) > MANIFEST_VERSION {
            return Err(newer(number(8)));
        }
        Self::decode_sections(sections).map_err(|problem| match problem {
            Problem::Corrupt(reason) => corrupt(reason),
            Problem::UnknownSection => newer(number(8).max(MANIFEST_VERSION) + 1),
        })
    }
}

fn checksum(head: &[u8], sections: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(sections);
    hash.digest()
}

fn envelope(version: u32, sections: &[u8]) -> Vec<u8> {
    let len = u32::try_from(sections.len()).expect("a manifest is below 4 GiB");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    let checksum = checksum(&bytes[8..], sections);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(sections);
    bytes
}

#[cfg(test)]
mod tests;

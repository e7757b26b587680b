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
    directories::Directories,
    disk::Disk,
    error::{Error, Result},
    ids::{Epoch, Incarnation, KeyspaceId, Lsn, NodeId},
    keyspaces::Keyspaces,
    outcomes::SavedOutcomes,
    ring::Ring,
    ring_state::{FIRST_LIFE, RingHistory, RingState},
};
use sections::Problem;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
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
    /// The members of the ring and their weights.
    pub nodes: Vec<NodeSettings>,
    /// The version of the ring.
    pub epoch: Epoch,
    /// The owner of each arc, where that does not follow from the settings.
    pub arcs: Option<Vec<NodeId>>,
    /// The keyspaces that exist.
    pub keyspaces: Vec<KeyspaceName>,
    /// The number of the next keyspace to be created.
    pub next_keyspace: KeyspaceId,
    /// How far each node is, by number; those that were removed too.
    pub progress: Vec<NodeProgress>,
    /// The last LSN when this was written.
    pub last_lsn: Lsn,
    /// How often the directory was opened; the journal's salt.
    pub openings: u64,
    /// The longest lease that somebody may have who was not told that it is over; zero once the engine has stopped.
    pub longest_lease: Duration,
    /// What became of transactions, as far as that is kept.
    pub outcomes: SavedOutcomes,
    /// What has happened to the ring, and a change that is under way, where there ever was one. Else the nodes are those
    /// of the settings.
    pub history: Option<RingHistory>,
    /// The directories, where there is more than this one.
    pub directories: Option<Directories>,
    /// Whether the engine was shut down after this was written, and nothing was opened since.
    pub clean_shutdown: bool,
    /// The version that each node's tree had at least, where that is known: one that is older is not the tree that was left.
    pub trees: BTreeMap<NodeId, u64>,
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
    /// Takes in a checkpoint: the trees of these nodes are complete up to these LSNs, and the journal's records up to
    /// `through` add up to `catalogue`. A node that has joined after `through` is left out; one that is not mentioned stays
    /// where it was.
    pub fn record_checkpoint(
        &mut self,
        complete: impl IntoIterator<Item = (NodeId, Lsn)>,
        through: Lsn,
        catalogue: &Catalogue,
    ) {
        let slots = (0_u16..).zip(catalogue.ring.slots());
        for (number, slot) in slots.skip(self.progress.len()) {
            self.progress.push(NodeProgress {
                node: NodeId(number),
                complete: slot.since,
                incarnation: FIRST_LIFE,
            });
        }
        let lives = catalogue.incarnations.iter();
        for (progress, incarnation) in self.progress.iter_mut().zip(lives) {
            progress.incarnation = *incarnation;
        }
        for (node, complete) in complete {
            if let Some(progress) = self.progress.get_mut(usize::from(node.0)) {
                progress.complete = complete;
            }
        }
        self.record_ring(&catalogue.ring);
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

    /// Notes the versions of trees that hold what was recorded.
    pub fn record_trees(&mut self, versions: impl IntoIterator<Item = (NodeId, u64)>) {
        for (node, version) in versions.into_iter().filter(|(_, version)| *version > 0) {
            let known = self.trees.entry(node).or_default();
            *known = version.max(*known);
        }
    }

    /// Fails if a node's tree, of which this version was found in its folder, is not the one that was left there.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptTree`] with the folder.
    pub fn check_tree(&self, node: NodeId, folder: &Path, found: u64) -> Result<()> {
        let known = self.trees.get(&node).copied();
        // A directory in which no version was ever noted has a tree for each node that got as far as a checkpoint.
        let was_there = || {
            let progress = self.progress.get(usize::from(node.0));
            self.trees.is_empty() && progress.is_some_and(|progress| progress.complete > Lsn(0))
        };
        let least = known.unwrap_or_else(|| was_there().into());
        if found >= least {
            return Ok(());
        }
        let reason = match found {
            0 => "the tree that was here is missing".to_owned(),
            _ => format!("it is an older copy: version {found}, and {least} was left here"),
        };
        let file = folder.to_owned();
        Err(Error::CorruptTree { node, file, reason })
    }

    /// A ring that has never changed follows from the settings, and stays as they say.
    fn record_ring(&mut self, state: &RingState) {
        if state.is_original() {
            return;
        }
        let members = state.ring().nodes().iter();
        self.nodes = members
            .map(|(node, weight)| NodeSettings {
                node: *node,
                weight: *weight,
            })
            .collect();
        self.epoch = state.epoch();
        self.arcs = Some(state.ring().owners().to_vec());
        self.history = Some(state.history().clone());
    }

    /// The ring that was saved, with its nodes and a change that is under way.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptManifest`] if what was saved contradicts itself.
    pub fn ring(&self, disk: &dyn Disk) -> Result<RingState> {
        let corrupt = |reason: String| Error::CorruptManifest {
            file: disk.path(MANIFEST_FILE),
            reason,
        };
        let members = self.nodes.iter().map(|node| (node.node, node.weight));
        let members: Vec<_> = members.collect();
        let ring = match &self.arcs {
            Some(owners) => Ring::from_table(owners.clone(), &members, self.epoch),
            None => Ring::new(u32::from(self.arc_bits), &members),
        };
        let ring = ring.map_err(|error| corrupt(error.to_string()))?;
        if ring.arc_bits() != u32::from(self.arc_bits) {
            return Err(corrupt("its ring has another number of arcs".into()));
        }
        let state = match &self.history {
            Some(history) => RingState::restored(ring, history.clone()),
            None => Ok(RingState::new(ring)),
        };
        let state = state.map_err(|error| match error {
            Error::RingChangeRefused { reason } => corrupt(reason.into()),
            error => error,
        })?;
        let numbers = (0_u16..).map(NodeId).take(state.slots().len());
        if !numbers.eq(self.progress.iter().map(|progress| progress.node)) {
            return Err(corrupt("its nodes are not those of its ring".into()));
        }
        Ok(state)
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
        match number(8) {
            0 => return Err(corrupt("it has format version 0, which there never was")),
            found if found > MANIFEST_VERSION => return Err(newer(found)),
            _ => {}
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

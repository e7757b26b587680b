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

use crate::{
    checkpoint::Catalogue,
    disk::Disk,
    error::{Error, Result},
    ids::{Epoch, Incarnation, KeyspaceId, Lsn, NodeId, TxnId},
    journal::record::TxnTag,
    keyspaces::Keyspaces,
    outcomes::SavedOutcomes,
    wire::{Reader, put_bytes, put_varint},
};
use bytes::Bytes;
use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};
use xxhash_rust::xxh3::Xxh3;

/// The name of the manifest's file.
pub const MANIFEST_FILE: &str = "MANIFEST";
/// The version of its format.
pub const MANIFEST_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MAILMANI";
const HEADER_BYTES: usize = 24;
/// A kind with this bit may be skipped by who does not know it.
const OPTIONAL: u16 = 0x8000;

const SETTINGS: u16 = 1;
const RING: u16 = 2;
const ARCS: u16 = 3;
const KEYSPACES: u16 = 4;
const PROGRESS: u16 = 5;
const STATE: u16 = 6;
/// May be skipped: who does not know it gives no leases either.
const LOCKS: u16 = OPTIONAL | 7;
/// Absent where nothing was ever decided.
const OUTCOMES: u16 = 7;

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
        let mut sections = Vec::new();
        put_section(&mut sections, SETTINGS, |out| {
            out.push(self.arc_bits);
            put_varint(out, self.nodes.len() as u64);
            for node in &self.nodes {
                put_varint(out, node.node.0.into());
                put_varint(out, node.weight.into());
            }
        });
        put_section(&mut sections, RING, |out| put_varint(out, self.epoch.0));
        if let Some(arcs) = &self.arcs {
            put_section(&mut sections, ARCS, |out| {
                for owner in arcs {
                    out.extend_from_slice(&owner.0.to_le_bytes());
                }
            });
        }
        put_section(&mut sections, KEYSPACES, |out| {
            put_varint(out, self.next_keyspace.0.into());
            put_varint(out, self.keyspaces.len() as u64);
            for keyspace in &self.keyspaces {
                put_varint(out, keyspace.id.0.into());
                put_bytes(out, keyspace.name.as_bytes());
            }
        });
        put_section(&mut sections, PROGRESS, |out| {
            put_varint(out, self.progress.len() as u64);
            for node in &self.progress {
                put_varint(out, node.node.0.into());
                put_varint(out, node.complete.0);
                put_varint(out, node.incarnation.0.into());
            }
        });
        put_section(&mut sections, STATE, |out| {
            put_varint(out, self.last_lsn.0);
            put_varint(out, self.openings);
            out.push(self.clean_shutdown.into());
        });
        put_section(&mut sections, LOCKS, |out| {
            let nanoseconds = self.longest_lease.as_nanos();
            put_varint(out, u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        });
        if self.outcomes != SavedOutcomes::default() {
            put_section(&mut sections, OUTCOMES, |out| {
                put_outcomes(out, &self.outcomes);
            });
        }
        envelope(MANIFEST_VERSION, &sections)
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

    fn decode_sections(bytes: &[u8]) -> std::result::Result<Self, Problem> {
        let mut manifest = Self::default();
        let mut seen = BTreeSet::new();
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let (kind, contents) = take_section(&mut reader)
                .ok_or(Problem::Corrupt("a section is longer than the file"))?;
            if !seen.insert(kind) {
                return Err(Problem::Corrupt("a section comes twice"));
            }
            let mut contents = Reader::new(contents);
            let section = match kind {
                SETTINGS => manifest.take_settings(&mut contents),
                RING => manifest.take_ring(&mut contents),
                ARCS => manifest.take_arcs(&mut contents),
                KEYSPACES => manifest.take_keyspaces(&mut contents),
                PROGRESS => manifest.take_progress(&mut contents),
                STATE => manifest.take_state(&mut contents),
                LOCKS => manifest.take_locks(&mut contents),
                OUTCOMES => manifest.take_outcomes(&mut contents),
                _ if kind & OPTIONAL != 0 => continue,
                _ => return Err(Problem::UnknownSection),
            };
            if section.is_none() || !contents.is_empty() {
                return Err(Problem::Corrupt(
                    "a section's contents do not fit its length",
                ));
            }
        }
        if [SETTINGS, RING, KEYSPACES, PROGRESS, STATE]
            .iter()
            .any(|kind| !seen.contains(kind))
        {
            return Err(Problem::Corrupt("a section is missing"));
        }
        Ok(manifest)
    }

    fn take_settings(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.arc_bits = reader.byte()?;
        self.nodes = take_list(reader, |reader| {
            Some(NodeSettings {
                node: NodeId(reader.small()?),
                weight: reader.small()?,
            })
        })?;
        Some(())
    }

    fn take_ring(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.epoch = Epoch(reader.varint()?);
        Some(())
    }

    fn take_arcs(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut arcs = Vec::with_capacity(reader.remaining() / 2);
        while !reader.is_empty() {
            arcs.push(NodeId(reader.u16()?));
        }
        self.arcs = Some(arcs);
        Some(())
    }

    fn take_keyspaces(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.next_keyspace = KeyspaceId(reader.small()?);
        self.keyspaces = take_list(reader, |reader| {
            let id = KeyspaceId(reader.small()?);
            let name = std::str::from_utf8(reader.bytes()?).ok()?.to_owned();
            Some(KeyspaceName { id, name })
        })?;
        Some(())
    }

    fn take_progress(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.progress = take_list(reader, |reader| {
            Some(NodeProgress {
                node: NodeId(reader.small()?),
                complete: Lsn(reader.varint()?),
                incarnation: Incarnation(reader.small()?),
            })
        })?;
        Some(())
    }

    fn take_outcomes(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.outcomes.forgotten = TxnId::new(reader.varint()?, reader.varint()?);
        self.outcomes.committed = take_list(reader, |reader| {
            let lsn = Lsn(reader.varint()?);
            let id = TxnId::new(reader.varint()?, reader.varint()?)?;
            let idempotency = match reader.byte()? {
                0 => None,
                1 => Some(Bytes::copy_from_slice(reader.bytes()?)),
                _ => return None,
            };
            Some((lsn, TxnTag { id, idempotency }))
        })?;
        Some(())
    }

    fn take_state(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.last_lsn = Lsn(reader.varint()?);
        self.openings = reader.varint()?;
        self.clean_shutdown = match reader.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(())
    }

    fn take_locks(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.longest_lease = Duration::from_nanos(reader.varint()?);
        Some(())
    }
}

fn put_outcomes(out: &mut Vec<u8>, outcomes: &SavedOutcomes) {
    // Opening 0, which there never is, stands for nothing forgotten.
    put_varint(out, outcomes.forgotten.map_or(0, TxnId::opening));
    put_varint(out, outcomes.forgotten.map_or(0, TxnId::number));
    put_varint(out, outcomes.committed.len() as u64);
    for (lsn, tag) in &outcomes.committed {
        put_varint(out, lsn.0);
        put_varint(out, tag.id.opening());
        put_varint(out, tag.id.number());
        out.push(tag.idempotency.is_some().into());
        if let Some(key) = &tag.idempotency {
            put_bytes(out, key);
        }
    }
}

enum Problem {
    Corrupt(&'static str),
    UnknownSection,
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

fn put_section(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut contents = Vec::new();
    fill(&mut contents);
    out.extend_from_slice(&kind.to_le_bytes());
    let len = u32::try_from(contents.len()).expect("a section is below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&contents);
}

fn take_section<'a>(reader: &mut Reader<'a>) -> Option<(u16, &'a [u8])> {
    let kind = reader.u16()?;
    let len = usize::try_from(reader.u32()?).ok()?;
    Some((kind, reader.take(len)?))
}

fn take_list<T>(
    reader: &mut Reader<'_>,
    item: impl Fn(&mut Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let count: usize = reader.small()?;
    // Each item has a byte at least: a count beyond that is refused before anything is reserved for it.
    if count > reader.remaining() {
        return None;
    }
    (0..count).map(|_| item(reader)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, SimulatedDisk, Survivors};

    fn sample() -> Manifest {
        Manifest {
            arc_bits: 3,
            nodes: vec![
                NodeSettings {
                    node: NodeId(0),
                    weight: 100,
                },
                NodeSettings {
                    node: NodeId(4),
                    weight: 300,
                },
            ],
            epoch: Epoch(9),
            arcs: Some([0, 4, 4, 4, 0, 4, 4, 4].map(NodeId).to_vec()),
            keyspaces: vec![KeyspaceName {
                id: KeyspaceId(1),
                name: "users ü".into(),
            }],
            next_keyspace: KeyspaceId(3),
            progress: vec![
                NodeProgress {
                    node: NodeId(0),
                    complete: Lsn(900),
                    incarnation: Incarnation(2),
                },
                NodeProgress {
                    node: NodeId(4),
                    complete: Lsn(1 << 40),
                    incarnation: Incarnation(1),
                },
            ],
            last_lsn: Lsn(1 << 41),
            openings: 12,
            longest_lease: Duration::from_secs(30),
            outcomes: SavedOutcomes {
                forgotten: TxnId::new(11, 70),
                committed: vec![
                    (Lsn(1 << 40), tag(71, None)),
                    (Lsn(1 << 41), tag(72, Some("key"))),
                ],
            },
            clean_shutdown: true,
        }
    }

    fn tag(number: u64, key: Option<&'static str>) -> TxnTag {
        TxnTag {
            id: TxnId::new(12, number).expect("not 0"),
            idempotency: key.map(|key| Bytes::from_static(key.as_bytes())),
        }
    }

    fn load(bytes: &[u8]) -> Result<Option<Manifest>> {
        let disk = MemoryDisk::new();
        disk.replace(MANIFEST_FILE, bytes).expect("memory takes it");
        Manifest::load(&disk)
    }

    #[test]
    fn a_manifest_reads_back() {
        let disk = MemoryDisk::new();
        assert_eq!(Manifest::load(&disk), Ok(None));
        for manifest in [
            sample(),
            Manifest::default(),
            Manifest {
                arcs: None,
                ..sample()
            },
        ] {
            manifest.save(&disk).expect("memory takes it");
            assert_eq!(Manifest::load(&disk), Ok(Some(manifest)));
        }
    }

    #[test]
    fn a_manifest_with_any_bit_flipped_or_cut_anywhere_is_corrupt() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let outcome = load(&damaged);
                assert!(
                    matches!(outcome, Err(Error::CorruptManifest { .. })),
                    "{outcome:?} at {at}"
                );
            }
            let outcome = load(&bytes[..at]);
            assert!(
                matches!(outcome, Err(Error::CorruptManifest { .. })),
                "{outcome:?} at {at}"
            );
        }
    }

    #[test]
    fn damage_under_a_right_checksum_is_still_no_panic() {
        let sections = sample().encode().split_off(HEADER_BYTES);
        for at in 0..sections.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = sections.clone();
                damaged[at] = byte;
                for sections in [&damaged[..], &damaged[..at]] {
                    let outcome = load(&envelope(MANIFEST_VERSION, sections));
                    assert!(
                        matches!(
                            outcome,
                            Ok(Some(_))
                                | Err(Error::CorruptManifest { .. } | Error::NewerFormat { .. })
                        ),
                        "{outcome:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let error = load(&envelope(2, b"whatever comes")).expect_err("is newer");
        let newer = Error::NewerFormat {
            file: MANIFEST_FILE.into(),
            found: 2,
            supported: 1,
        };
        assert_eq!(error, newer);
    }

    #[test]
    fn an_unknown_section_is_skipped_only_if_it_is_optional() {
        let mut sections = sample().encode().split_off(HEADER_BYTES);
        put_section(&mut sections, OPTIONAL | 77, |out| {
            out.extend_from_slice(b"later")
        });
        assert_eq!(
            load(&envelope(MANIFEST_VERSION, &sections)),
            Ok(Some(sample()))
        );
        put_section(&mut sections, 77, |out| out.extend_from_slice(b"later"));
        let error = load(&envelope(MANIFEST_VERSION, &sections)).expect_err("is needed");
        assert!(
            matches!(error, Error::NewerFormat { found: 2, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn a_section_that_is_missing_or_comes_twice_is_corrupt() {
        let sections = sample().encode().split_off(HEADER_BYTES);
        let mut twice = sections.clone();
        put_section(&mut twice, RING, |out| put_varint(out, 1));
        for bytes in [&twice[..], &[]] {
            let error = load(&envelope(MANIFEST_VERSION, bytes)).expect_err("is wrong");
            assert!(matches!(error, Error::CorruptManifest { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_crash_in_a_save_leaves_the_old_or_the_new_manifest() {
        let (old, new) = (
            sample(),
            Manifest {
                openings: 13,
                ..sample()
            },
        );
        for seed in 0..200 {
            let disk = SimulatedDisk::new();
            old.save(&disk).expect("saves");
            disk.die_after(seed % 6);
            let outcome = new.save(&disk);
            disk.crash(Survivors::Seeded(seed));
            let found = Manifest::load(&disk).expect("is whole").expect("is there");
            assert!(
                found == new || (found == old && outcome.is_err()),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn a_full_disk_keeps_the_old_manifest() {
        let disk = SimulatedDisk::new();
        sample().save(&disk).expect("saves");
        disk.set_capacity(Some(1));
        let error = Manifest::default().save(&disk).expect_err("is full");
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
        assert_eq!(Manifest::load(&disk), Ok(Some(sample())));
    }
}

//! The manifest's sections: what is in each, in order, as varints.
//!
//! | kind | contents |
//! |---|---|
//! | 1 | settings: arc bits, nodes and their weights |
//! | 2 | the ring's epoch |
//! | 3 | the owner of each arc, where any was moved |
//! | 4 | keyspaces |
//! | 5 | each node's complete LSN and incarnation |
//! | 6 | last LSN, openings, whether it was shut down cleanly |
//! | 7 | outcomes of transactions, where there are any |
//! | 8 | the nodes that there were, and a change of the ring that is under way, where there ever was one |
//! | 9 | the directories, where there are several |
//! | 0x8007 | the longest lease of whose end nobody may have been told |
//! | 0x800a | the version that each node's tree had |
//!
//! A section's contents must fit its length to the byte, and all but 3, 7, 8, 9, 0x8007 and 0x800a must be there.

use super::{KeyspaceName, Manifest, NodeProgress, NodeSettings};
use crate::{
    directories::{Directories, ListedDirectory, MAX_DIRECTORIES, Stamp, Voids},
    ids::{
        DirectoryNo, Epoch, GroupNo, Incarnation, KeyspaceId, LARGEST_COUNTER, LARGEST_INCARNATION,
        Lsn, NodeId, TxnId,
    },
    journal::record::TxnTag,
    outcomes::SavedOutcomes,
    ring_state::{put_history, take_history},
    wire::{Reader, put_bytes, put_varint},
};
use bytes::Bytes;
use std::{collections::BTreeSet, time::Duration};

/// A kind with this bit may be skipped by who does not know it.
pub(super) const OPTIONAL: u16 = 0x8000;

const SETTINGS: u16 = 1;
pub(super) const RING: u16 = 2;
const ARCS: u16 = 3;
const KEYSPACES: u16 = 4;
const PROGRESS: u16 = 5;
const STATE: u16 = 6;
/// May be skipped: who does not know it gives no leases either.
const LOCKS: u16 = OPTIONAL | 7;
/// May be skipped: who does not know it takes any tree for the right one.
const TREES: u16 = OPTIONAL | 10;
/// Absent where nothing was ever decided.
const OUTCOMES: u16 = 7;
/// Absent where the ring has never changed.
const HISTORY: u16 = 8;
/// Absent where there is one directory.
const DIRECTORIES: u16 = 9;

/// Why sections can't be read.
pub(super) enum Problem {
    Corrupt(&'static str),
    UnknownSection,
}

impl Manifest {
    pub(super) fn encode_sections(&self) -> Vec<u8> {
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
        if let Some(history) = &self.history {
            put_section(&mut sections, HISTORY, |out| put_history(out, history));
        }
        if let Some(directories) = &self.directories {
            put_section(&mut sections, DIRECTORIES, |out| {
                put_directories(out, directories);
            });
        }
        if !self.trees.is_empty() {
            put_section(&mut sections, TREES, |out| {
                put_varint(out, self.trees.len() as u64);
                for (node, version) in &self.trees {
                    put_varint(out, node.0.into());
                    put_varint(out, *version);
                }
            });
        }
        sections
    }

    pub(super) fn decode_sections(bytes: &[u8]) -> Result<Self, Problem> {
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
                HISTORY => manifest.take_history(&mut contents),
                DIRECTORIES => manifest.take_directories(&mut contents),
                TREES => manifest.take_trees(&mut contents),
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
        if !manifest.is_in_range() {
            return Err(Problem::Corrupt(
                "a number is larger than any engine counts",
            ));
        }
        Ok(manifest)
    }

    /// Whether everything that is counted on from here can be.
    fn is_in_range(&self) -> bool {
        let counters = [self.epoch.0, self.last_lsn.0, self.openings];
        let directories = self.directories.iter();
        let stamps = directories.clone().flat_map(|several| {
            let forced = several.stamp.forced.iter().map(|group| group.0);
            forced.chain([several.stamp.durable.0])
        });
        let voids = directories.flat_map(|several| several.voids.ranges().last());
        let voids = voids.map(|(_, through)| through.0);
        let complete = self.progress.iter().map(|node| node.complete.0);
        let mut incarnations = self.progress.iter().map(|node| node.incarnation.0);
        counters
            .into_iter()
            .chain(complete)
            .chain(stamps)
            .chain(voids)
            .all(|counter| counter <= LARGEST_COUNTER)
            && incarnations.all(|number| number <= LARGEST_INCARNATION)
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
        })?
        .into();
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

    fn take_history(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.history = Some(take_history(reader)?);
        Some(())
    }

    fn take_directories(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let engine = reader.u64()?;
        let known_opening = reader.varint()?;
        let listed = take_list(reader, |reader| {
            let is_made = reader.byte().filter(|made| *made <= 1)? == 1;
            let path = std::str::from_utf8(reader.bytes()?).ok()?.to_owned();
            Some(ListedDirectory { path, is_made })
        })?;
        let count = listed.len();
        // They are made in order.
        let is_in_order = listed.is_sorted_by_key(|one| !one.is_made);
        if !(1..=MAX_DIRECTORIES).contains(&count) || !listed[0].is_made || !is_in_order {
            return None;
        }
        let placement = take_list(reader, |reader| {
            let number: u8 = reader.small()?;
            (usize::from(number) < count).then_some(DirectoryNo(number))
        })?;
        let voids = take_list(reader, |reader| {
            Some((Lsn(reader.varint()?), Lsn(reader.varint()?)))
        })?;
        let durable = Lsn(reader.varint()?);
        let forced = take_list(reader, |reader| Some(GroupNo(reader.varint()?)))?;
        self.directories = Some(Directories {
            engine,
            known_opening,
            listed,
            placement,
            voids: Voids::new(voids)?,
            stamp: Stamp { durable, forced },
        })
        .filter(|directories| {
            // What is void was found at the end of what was durable.
            let last = directories.voids.ranges().last();
            let durable = directories.stamp.durable;
            last.is_none_or(|(after, _)| *after <= durable)
                && directories.stamp.forced.len() <= count
        });
        self.directories.as_ref().map(|_| ())
    }

    fn take_trees(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let trees = take_list(reader, |reader| {
            Some((NodeId(reader.small()?), reader.varint()?))
        })?;
        let count = trees.len();
        self.trees = trees.into_iter().collect();
        (self.trees.len() == count).then_some(())
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
    for (lsn, tag) in outcomes.committed.iter() {
        put_varint(out, lsn.0);
        put_varint(out, tag.id.opening());
        put_varint(out, tag.id.number());
        out.push(tag.idempotency.is_some().into());
        if let Some(key) = &tag.idempotency {
            put_bytes(out, key);
        }
    }
}

fn put_directories(out: &mut Vec<u8>, directories: &Directories) {
    out.extend_from_slice(&directories.engine.to_le_bytes());
    put_varint(out, directories.known_opening);
    put_varint(out, directories.listed.len() as u64);
    for one in &directories.listed {
        out.push(one.is_made.into());
        put_bytes(out, one.path.as_bytes());
    }
    put_varint(out, directories.placement.len() as u64);
    for number in &directories.placement {
        put_varint(out, number.0.into());
    }
    put_varint(out, directories.voids.ranges().len() as u64);
    for (after, through) in directories.voids.ranges() {
        put_varint(out, after.0);
        put_varint(out, through.0);
    }
    put_varint(out, directories.stamp.durable.0);
    put_varint(out, directories.stamp.forced.len() as u64);
    for group in &directories.stamp.forced {
        put_varint(out, group.0);
    }
}

pub(super) fn put_section(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
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

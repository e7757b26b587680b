//! What lies in the directories of an engine: a disk each, and the trees of the nodes.
//!
//! A third of the runs have two or three directories, or become so: directories are made and added when the engine is opened.
//! Each has a page cache and a medium of its own, of which a crash leaves what it likes.

use crate::{
    dice::Dice,
    keys::{MAIN, arc_bits},
    mutation::Mutation,
    store::SimulatedStore,
};
use mailring_engine::{
    directories::{Directories, ListedDirectory},
    disk::SimulatedDisk,
    ids::{DirectoryNo, Incarnation, KeyspaceId, Lsn, NodeId},
    journal::{Journal, JournalOptions, Lsns},
    keyspaces::Keyspaces,
    manifest::{KeyspaceName, Manifest, NodeProgress, NodeSettings},
};
use std::sync::Arc;

pub(crate) const SEGMENT_BYTES: u64 = 48 << 10;

/// The engine's number, by which its directories know each other.
pub(crate) const ENGINE: u64 = 0x7e57;

/// How many directories a run has.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// So many from the beginning.
    pub(crate) first: usize,
    /// So many in the end: the others are added when the engine is opened again.
    pub(crate) most: usize,
    /// Where the first nodes live, as far as that does not follow from their numbers.
    pub(crate) placement: Vec<DirectoryNo>,
}

impl Layout {
    /// Draws it.
    pub(crate) fn draw(dice: &mut Dice, nodes: u16, demands_several: bool) -> Self {
        let is_several = dice.chance(3);
        let most = 2 + dice.below(2);
        let grows = dice.chance(3);
        let is_placed = dice.chance(2);
        let directory = |dice: &mut Dice, first: usize| DirectoryNo(dice.below(first) as u8);
        if !is_several && !demands_several {
            return Self {
                first: 1,
                most: 1,
                placement: Vec::new(),
            };
        }
        let first = match grows {
            true => 1 + dice.below(most),
            false => most,
        };
        let placed = if is_placed { nodes } else { 0 };
        Self {
            first,
            most,
            placement: (0..placed).map(|_| directory(dice, first)).collect(),
        }
    }
}

/// The disks, by directory; the first is home.
#[derive(Debug, Clone)]
pub(crate) struct Disks(Vec<SimulatedDisk>);

impl Disks {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| SimulatedDisk::new()).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The numbers of all.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = DirectoryNo> + use<> {
        (0..self.0.len() as u8).map(DirectoryNo)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SimulatedDisk> {
        self.0.iter()
    }

    pub(crate) fn of(&self, directory: DirectoryNo) -> &SimulatedDisk {
        &self.0[usize::from(directory.0)]
    }

    pub(crate) fn home(&self) -> &SimulatedDisk {
        &self.0[0]
    }

    /// Another one, on which nothing is.
    pub(crate) fn add(&mut self, mutation: Option<Mutation>) {
        self.0.push(SimulatedDisk::new());
        self.spoil(mutation);
    }

    /// What mutations do to disks.
    pub(crate) fn spoil(&self, mutation: Option<Mutation>) {
        for disk in &self.0 {
            match mutation {
                Some(Mutation::SkipDirectorySync) => disk.forget_to_force_directories(),
                Some(Mutation::BelieveSecondForce) => disk.swallow_failed_forces(),
                _ => {}
            }
        }
    }

    /// The same contents once more.
    pub(crate) fn copy(&self) -> Self {
        Self(self.0.iter().map(SimulatedDisk::copy).collect())
    }

    /// These disks, with another one in the place of a directory.
    pub(crate) fn with(mut self, directory: DirectoryNo, disk: SimulatedDisk) -> Self {
        self.0[usize::from(directory.0)] = disk;
        self
    }

    pub(crate) fn is_any_dead(&self) -> bool {
        self.0.iter().any(SimulatedDisk::is_dead)
    }

    pub(crate) fn pretend_to_force(&self, pretends: bool) {
        for disk in &self.0 {
            disk.pretend_to_force(pretends);
        }
    }

    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        for disk in &self.0 {
            disk.set_capacity(bytes);
        }
    }

    /// Commanded failures will not come.
    pub(crate) fn recover(&self) {
        self.0.iter().for_each(SimulatedDisk::recover);
    }
}

/// What lies in the directories.
pub(crate) struct Directory {
    pub(crate) disks: Disks,
    /// By node.
    pub(crate) stores: Vec<Arc<SimulatedStore>>,
    /// By node: in which directory its store was made.
    pub(crate) homes: Vec<DirectoryNo>,
}

/// The keyspaces of a new directory.
pub(crate) fn base_keyspaces() -> Keyspaces {
    let mut keyspaces = Keyspaces::new();
    keyspaces.install_create(MAIN, "main").expect("fits");
    keyspaces
}

/// Of one directory of several, or of the only one.
pub(crate) fn journal_options(opening: u64, directory: DirectoryNo, lsns: Lsns) -> JournalOptions {
    JournalOptions {
        segment_bytes: SEGMENT_BYTES,
        salt: opening ^ u64::from(directory.0) << 56,
        lsns,
    }
}

impl Directory {
    /// A new engine with these nodes. Directories beside the first are listed, and made by the first opening.
    pub(crate) fn create(layout: &Layout, stores: Vec<Arc<SimulatedStore>>) -> Self {
        let disks = Disks::new(layout.first);
        let nodes = (0..stores.len() as u16).map(NodeId);
        let listed = disks.numbers().map(|number| ListedDirectory {
            path: String::new(),
            is_made: number == DirectoryNo::HOME,
        });
        let directories = Directories {
            engine: ENGINE,
            listed: listed.collect(),
            placement: layout.placement.clone(),
            ..Directories::default()
        };
        let placement = directories.placement();
        let homes = nodes.clone().map(|node| placement.of(node)).collect();
        let manifest = Manifest {
            arc_bits: arc_bits(),
            nodes: nodes
                .clone()
                .map(|node| NodeSettings { node, weight: 1 })
                .collect(),
            progress: nodes
                .map(|node| NodeProgress {
                    node,
                    complete: Lsn(0),
                    incarnation: Incarnation(0),
                })
                .collect(),
            keyspaces: vec![KeyspaceName {
                id: MAIN,
                name: "main".into(),
            }],
            next_keyspace: KeyspaceId(2),
            directories: (layout.first > 1).then_some(directories),
            ..Manifest::default()
        };
        let options = journal_options(0, DirectoryNo::HOME, Lsns::All);
        Journal::create(Arc::new(disks.home().clone()), options, Lsn(0))
            .expect("nothing fails yet");
        manifest.save(disks.home()).expect("nothing fails yet");
        Self {
            disks,
            stores,
            homes,
        }
    }

    /// Bytes of the journal's segments.
    pub(crate) fn segment_bytes() -> u64 {
        SEGMENT_BYTES
    }
}

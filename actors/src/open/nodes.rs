//! Opening a node: its store, what it shares, and its actor.

use super::places::Places;
use crate::{
    builder::{Builder, Place, StoreHook},
    directory::tree_folder,
    member::Member,
    placement::Placements,
    storage_node::StorageNode,
    switchboard::Switchboard,
    system::Arbiters,
};
use mailring_engine::{
    Error, Result,
    ids::{Epoch, Incarnation, Lsn, NodeId, Time},
    journal::{Journal, JournalReader},
    keyspaces::Keyspaces,
    manifest::Manifest,
    participant::{NodeMessage, Participant, ParticipantOptions, TreeSource},
    ring_state::RingState,
    store::{
        Store, StoreFactory,
        left::open_left,
        lsm::{LsmFactory, LsmOptions},
        memory::MemoryFactory,
    },
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

/// Descriptors that the trees of an engine keep open together.
const OPEN_FILES: usize = 256;

/// Opens the stores of nodes.
pub(crate) struct Stores {
    /// By number; none in memory.
    directories: Vec<PathBuf>,
    placements: Arc<Placements>,
    factory: Box<dyn StoreFactory>,
    hook: Option<StoreHook>,
}

impl Stores {
    pub(super) fn new(
        builder: &Builder,
        places: &Places,
        placements: &Arc<Placements>,
        now_ms: &Arc<AtomicU64>,
        held_indexes: &Arc<AtomicU64>,
    ) -> Self {
        let factory: Box<dyn StoreFactory> = match builder.place {
            Place::Directory(_) => {
                let options = LsmOptions::new(builder.block_cache_share() as u64, OPEN_FILES)
                    .now_ms(Arc::clone(now_ms))
                    .hold_indexes(builder.index_share() as u64, Arc::clone(held_indexes));
                Box::new(LsmFactory::new(options))
            }
            Place::Memory => Box::new(MemoryFactory {
                now_ms: Arc::clone(now_ms),
            }),
        };
        Self {
            directories: match builder.place {
                Place::Directory(_) => {
                    let found = places.found.iter();
                    found.map(|place| place.path.clone()).collect()
                }
                Place::Memory => Vec::new(),
            },
            placements: Arc::clone(placements),
            factory,
            hook: builder.store_hook.clone(),
        }
    }

    /// The directory in which a node lives.
    fn directory(&self, node: NodeId) -> Option<&Path> {
        let number = usize::from(self.placements.of(node).0);
        self.directories.get(number).map(PathBuf::as_path)
    }

    fn folder(&self, node: NodeId) -> Option<PathBuf> {
        Some(tree_folder(self.directory(node)?, node))
    }

    /// Makes the store of a node that never was. A folder of its is left over from a beginning that was cut short, in whichever
    /// directory it was to live then.
    pub(crate) fn create(&self, node: NodeId) -> Result<Arc<dyn Store>> {
        for directory in &self.directories {
            remove_folder(&tree_folder(directory, node))?;
        }
        let folder = self.folder(node).unwrap_or_default();
        let store = self.hooked(self.factory.open(node, &folder)?);
        if let Some(directory) = self.directory(node) {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced
                .map_err(|error| Error::io(format!("forcing {}", directory.display()), &error))?;
        }
        Ok(store)
    }

    /// Removes what there is of a node that is none any more, and that nobody reads.
    pub(crate) fn remove(&self, node: NodeId) -> Result<()> {
        match self.folder(node) {
            Some(folder) => remove_folder(&folder),
            None => Ok(()),
        }
    }

    /// Opens the store that was left of a node.
    pub(super) fn open_left(
        &self,
        node: NodeId,
        manifest: &Manifest,
        ring: &RingState,
        keyspaces: &Keyspaces,
    ) -> Result<Arc<dyn Store>> {
        let folder = self.folder(node).unwrap_or_default();
        let store = open_left(&*self.factory, manifest, ring, keyspaces, node, &folder)?;
        Ok(self.hooked(store))
    }

    fn hooked(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        match &self.hook {
            Some(hook) => hook(store),
            None => store,
        }
    }
}

fn remove_folder(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let removed = fs::remove_dir_all(folder);
    removed.map_err(|error| Error::io(format!("removing {}", folder.display()), &error))
}

/// Readers of the journals.
#[derive(Clone)]
pub(crate) struct Readers {
    by_directory: Arc<[JournalReader]>,
    placements: Arc<Placements>,
}

impl Readers {
    /// Readers that know what never happened.
    pub(super) fn new(
        journals: &[Journal],
        manifest: &Manifest,
        placements: &Arc<Placements>,
    ) -> Self {
        let directories = manifest.directories.as_ref();
        let voids = directories.map(|directories| directories.voids.clone());
        let voids = Arc::new(voids.unwrap_or_default());
        let readers = journals.iter().map(Journal::reader);
        Self {
            by_directory: readers
                .map(|reader| reader.without(Arc::clone(&voids)))
                .collect(),
            placements: Arc::clone(placements),
        }
    }

    /// The journal in which a node's commits are.
    pub(crate) fn of(&self, node: NodeId) -> &JournalReader {
        &self.by_directory[usize::from(self.placements.of(node).0)]
    }
}

/// The first life of a node in this opening.
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    /// The node's ownership epoch.
    pub(crate) owned_since: Epoch,
    /// Everything of the node up to here is installed.
    pub(crate) last_lsn: Lsn,
}

/// Starts the actors of nodes.
pub(crate) struct NodeActors {
    pub(super) arbiters: Arbiters,
    pub(super) journals: Readers,
    pub(super) options: ParticipantOptions,
}

impl NodeActors {
    /// Starts the actor of a node, and gives it to its member.
    pub(crate) fn start(&self, switchboard: &Arc<Switchboard>, member: &Arc<Member>, life: Life) {
        let store = Arc::clone(&member.store);
        let mut participant = Participant::new(
            life.incarnation,
            life.owned_since,
            Arc::clone(&member.table),
            Arc::clone(&switchboard.cache),
            TreeSource(Box::new(move || store.view())),
            life.last_lsn,
            self.options,
        );
        if member.table.is_down() {
            // The supervisor tells the others once they are there.
            participant.handle(Time(0), NodeMessage::GoDown, &mut Vec::new());
        }
        let journal = self.journals.of(member.node()).clone();
        let actor = StorageNode::new(participant, Arc::clone(switchboard), journal);
        let arbiter = self.arbiters.of(usize::from(member.node().0));
        member.started(actix::Supervisor::start_in_arbiter(arbiter, move |_| actor));
    }
}

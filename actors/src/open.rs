//! Opening: from a directory to running actors, and back.
//!
//! ```text
//!  LOCK ─▶ MANIFEST (created or checked) ─▶ openings + 1, forced ─▶ trees ─▶ journal: replay into generations
//!       ─▶ threads (I/O, segments, runs, compaction) ─▶ actix System with its arbiters ─▶ actors ─▶ clock
//! ```

use crate::{
    Builder, Durability, Mailring,
    budget::Budget,
    builder::Place,
    checkpointer::{self, Checkpointer},
    clock::{self, Clock},
    engine::Engine,
    journal::JournalActor,
    journal_io::{self, JournalFile},
    router::{Queue, Route, Router, Routes},
    stats::NodeState,
    storage_node::StorageNode,
    supervisor::Supervisor,
    switchboard::{Addresses, Switchboard},
    system::ActorSystem,
    telemetry::Telemetry,
};
use actix::Actor;
use arc_swap::ArcSwap;
use crossbeam_channel::unbounded;
use mailring_engine::{
    Error, Result,
    cache::RowCache,
    checkpoint::Checkpoint,
    disk::{DirectoryDisk, Disk, MemoryDisk},
    generation::Generation,
    ids::{Incarnation, Lsn, NodeId},
    journal::{
        Journal, JournalOptions, frame_bytes,
        record::{Record, RecordBody},
    },
    keyspaces::Keyspaces,
    manifest::{Manifest, NodeProgress, NodeSettings},
    participant::{Participant, TreeSource},
    restart::Restarts,
    ring::Ring,
    sequencer::{Sequencer, SequencerOptions, SequencerState},
    store::{
        Store, StoreFactory,
        lsm::{LsmFactory, LsmOptions},
        memory::MemoryFactory,
    },
    view::{Frozen, NodeTable, NodeView, Visible},
};
use std::{
    collections::{BTreeMap, hash_map::RandomState},
    fs::{self, File, TryLockError},
    hash::{BuildHasher, Hasher},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    thread::{self, JoinHandle},
};

/// The name of the file that a running engine holds locked.
const LOCK_FILE: &str = "LOCK";
/// Descriptors that the trees of an engine keep open together.
const OPEN_FILES: usize = 256;
/// Bytes of records in one group; beyond, a batch waits for the next group.
const MAX_GROUP_BYTES: usize = 8 << 20;

/// Everything that runs, and how it is stopped.
#[derive(Debug)]
pub(crate) struct Threads {
    system: ActorSystem,
    clock: crossbeam_channel::Sender<()>,
    joins: Vec<JoinHandle<()>>,
    files: Files,
}

struct Files {
    journal: Arc<JournalFile>,
    disk: Arc<dyn Disk>,
    /// Held locked until the end.
    _lock: Option<File>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

impl Threads {
    /// Stops everything; what is acknowledged is in the journal.
    pub(crate) fn stop(self) {
        if let Err(error) = self.stop_cleanly(false) {
            tracing::warn!(%error, "the journal could not be closed; opening recovers it");
        }
    }

    /// Stops everything, and says in the manifest that all of it is in the trees if `clean`.
    pub(crate) fn stop_cleanly(self, clean: bool) -> Result<()> {
        self.system.stop();
        drop(self.clock);
        for join in self.joins {
            // A thread that panicked has told so, and nothing depends on it any more.
            let _ = join.join();
        }
        self.files.journal.close()?;
        if clean && let Some(mut manifest) = Manifest::load(&*self.files.disk)? {
            manifest.clean_shutdown = true;
            manifest.save(&*self.files.disk)?;
        }
        Ok(())
    }
}

/// The folder of a node's tree.
pub(crate) fn tree_folder(directory: &Path, node: NodeId) -> PathBuf {
    directory.join(format!("node-{:03}", node.0))
}

/// Locks the directory against other engines.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK_FILE);
    let context = || format!("opening {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::io(context(), &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::DirectoryInUse {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::io(context(), &error)),
    }
}

/// What was read back from a directory.
struct Recovered {
    manifest: Manifest,
    ring: Ring,
    keyspaces: Keyspaces,
    incarnations: Vec<Incarnation>,
    stores: Vec<Arc<dyn Store>>,
    generations: Vec<Generation>,
    journal: Journal,
    last_lsn: Lsn,
}

pub(crate) fn open(builder: Builder) -> Result<Mailring> {
    let now_ms = Arc::new(AtomicU64::new(clock::wall_clock_ms()));
    let gauge = Arc::<AtomicUsize>::default();
    let (disk, lock, recovered) = match &builder.place {
        Place::Directory(directory) => {
            fs::create_dir_all(directory)
                .map_err(|error| Error::io(format!("creating {}", directory.display()), &error))?;
            let lock = lock(directory)?;
            let disk: Arc<dyn Disk> = match &builder.disk {
                Some(disk) => Arc::clone(disk),
                None => Arc::new(DirectoryDisk::new(directory).map_err(|error| {
                    Error::io(format!("opening {}", directory.display()), &error)
                })?),
            };
            let recovered = recover(&builder, &disk, directory, &now_ms, &gauge)?;
            (disk, Some(lock), recovered)
        }
        Place::Memory => {
            let disk = builder.disk.clone();
            let disk = disk.unwrap_or_else(|| Arc::new(MemoryDisk::new()));
            let recovered = recover(&builder, &disk, Path::new(""), &now_ms, &gauge)?;
            (disk, None, recovered)
        }
    };
    start(builder, disk, lock, recovered, now_ms, gauge)
}

fn recover(
    builder: &Builder,
    disk: &Arc<dyn Disk>,
    directory: &Path,
    now_ms: &Arc<AtomicU64>,
    gauge: &Arc<AtomicUsize>,
) -> Result<Recovered> {
    let found = Manifest::load(&**disk)?;
    let is_new = found.is_none();
    let mut manifest = match found {
        Some(manifest) => {
            check_settings(builder, &manifest)?;
            manifest
        }
        None => new_manifest(builder)?,
    };
    let ring = ring_of(&manifest)?;
    let was_clean = manifest.clean_shutdown;
    // A salt is used for one opening only: the count is forced before anything is written under it.
    manifest.openings += 1;
    manifest.clean_shutdown = false;
    for progress in &mut manifest.progress {
        progress.incarnation = progress.incarnation.next();
    }
    let options = JournalOptions {
        segment_bytes: builder.segment_bytes,
        salt: manifest.openings,
    };
    // The journal of a new directory comes before its manifest: where the manifest is missing and commits are there,
    // nothing may be written that looks like a directory. A creation cut short in between begins again.
    let created = match is_new {
        true => Some(Journal::create(Arc::clone(disk), options, Lsn(0))?),
        false => None,
    };
    manifest.save(&**disk)?;
    let mut keyspaces = manifest.keyspaces(&**disk)?;
    let factory = factory(builder, now_ms);
    let mut stores = Vec::new();
    for node in &manifest.nodes {
        stores.push(factory.open(node.node, &tree_folder(directory, node.node))?);
    }
    let generations: Vec<_> = stores
        .iter()
        .map(|_| Generation::with_gauge(Arc::clone(gauge)))
        .collect();
    let mut incarnations: Vec<_> = manifest.progress.iter().map(|p| p.incarnation).collect();
    let complete: Vec<_> = manifest.progress.iter().map(|p| p.complete).collect();
    let catalogue_lsn = manifest.last_lsn;
    let (journal, last_lsn) = if let Some(journal) = created {
        (journal, Lsn(0))
    } else {
        let after = complete.iter().min().copied().unwrap_or_default();
        let mut visit = |record: Record| {
            replay(
                record,
                catalogue_lsn,
                &complete,
                &generations,
                &mut keyspaces,
                &mut incarnations,
            )
        };
        let (journal, recovery) = Journal::open(Arc::clone(disk), options, after, &mut visit)?;
        tracing::info!(
            last_lsn = recovery.last_lsn.0,
            torn_bytes = recovery.torn_bytes,
            was_clean,
            "the journal was recovered"
        );
        (journal, recovery.last_lsn)
    };
    for id in 1..keyspaces.next_id().0 {
        let id = mailring_engine::ids::KeyspaceId(id);
        if !keyspaces.contains(id) {
            for store in &stores {
                store.drop_prefix(&id.0.to_be_bytes())?;
            }
        }
    }
    Ok(Recovered {
        manifest,
        ring,
        keyspaces,
        incarnations,
        stores,
        generations,
        journal,
        last_lsn,
    })
}

/// Installs one record of the journal.
fn replay(
    record: Record,
    catalogue_lsn: Lsn,
    complete: &[Lsn],
    generations: &[Generation],
    keyspaces: &mut Keyspaces,
    incarnations: &mut [Incarnation],
) -> Result<()> {
    let lsn = record.lsn;
    match record.body {
        RecordBody::Commit { parts, .. } => {
            for part in &parts {
                let node = usize::from(part.node.0);
                if complete.get(node).is_some_and(|complete| lsn > *complete) {
                    for write in &part.writes {
                        generations[node].insert(lsn, write);
                    }
                }
            }
        }
        RecordBody::CreateKeyspace { id, name } if lsn > catalogue_lsn => {
            keyspaces.install_create(id, &name)?;
        }
        RecordBody::DropKeyspace { id } if lsn > catalogue_lsn => {
            keyspaces.install_drop(id);
        }
        RecordBody::Fence { node, incarnation } => {
            if let Some(current) = incarnations.get_mut(usize::from(node.0)) {
                *current = incarnation.next().max(*current);
            }
        }
        RecordBody::CreateKeyspace { .. } | RecordBody::DropKeyspace { .. } => {}
    }
    Ok(())
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn new_manifest(builder: &Builder) -> Result<Manifest> {
    let weights = builder.weights.clone().unwrap_or_else(|| vec![1; 4]);
    let nodes: Vec<_> = (0u16..)
        .zip(&weights)
        .map(|(node, weight)| NodeSettings {
            node: NodeId(node),
            weight: *weight,
        })
        .collect();
    if weights.is_empty() || nodes.len() < weights.len() {
        return Err(Error::InvalidOption {
            option: "nodes",
            value: weights.len().to_string(),
            reason: "1 to 65,535 nodes are possible",
        });
    }
    let arc_bits = builder.arc_bits_for(nodes.len());
    let manifest = Manifest {
        arc_bits: u8::try_from(arc_bits).unwrap_or(u8::MAX),
        progress: nodes
            .iter()
            .map(|node| NodeProgress {
                node: node.node,
                complete: Lsn(0),
                incarnation: Incarnation(0),
            })
            .collect(),
        nodes,
        next_keyspace: Keyspaces::new().next_id(),
        ..Manifest::default()
    };
    ring_of(&manifest)?;
    Ok(manifest)
}

/// The ring of a directory: from its table where nodes have moved, else from its settings.
pub(crate) fn ring_of(manifest: &Manifest) -> Result<Ring> {
    let nodes: Vec<_> = manifest
        .nodes
        .iter()
        .map(|node| (node.node, node.weight))
        .collect();
    match &manifest.arcs {
        Some(owners) => Ring::from_table(owners.clone(), &nodes, manifest.epoch),
        None => Ring::new(u32::from(manifest.arc_bits), &nodes),
    }
}

fn check_settings(builder: &Builder, manifest: &Manifest) -> Result<()> {
    let weights: Vec<u32> = manifest.nodes.iter().map(|node| node.weight).collect();
    if let Some(requested) = &builder.weights
        && *requested != weights
    {
        return Err(Error::SettingsMismatch {
            setting: "nodes and their weights",
            directory: format!("{weights:?}"),
            requested: format!("{requested:?}"),
        });
    }
    if let Some(requested) = builder.arc_bits
        && requested != u32::from(manifest.arc_bits)
    {
        return Err(Error::SettingsMismatch {
            setting: "arc_bits",
            directory: manifest.arc_bits.to_string(),
            requested: requested.to_string(),
        });
    }
    Ok(())
}

fn factory(builder: &Builder, now_ms: &Arc<AtomicU64>) -> Box<dyn StoreFactory> {
    match builder.place {
        Place::Directory(_) => {
            let options = LsmOptions::new(builder.block_cache_share() as u64, OPEN_FILES)
                .now_ms(Arc::clone(now_ms));
            Box::new(LsmFactory::new(options))
        }
        Place::Memory => Box::new(MemoryFactory {
            now_ms: Arc::clone(now_ms),
        }),
    }
}

fn start(
    builder: Builder,
    disk: Arc<dyn Disk>,
    lock: Option<File>,
    recovered: Recovered,
    now_ms: Arc<AtomicU64>,
    gauge: Arc<AtomicUsize>,
) -> Result<Mailring> {
    let Recovered {
        manifest,
        ring,
        keyspaces,
        incarnations,
        stores,
        generations,
        journal,
        last_lsn,
    } = recovered;
    let clock = Clock::start();
    let tables: Vec<_> = manifest
        .progress
        .iter()
        .zip(generations)
        .zip(&stores)
        .map(|((progress, generation), store)| {
            let generation = Arc::new(generation);
            let active = Arc::new(generation.successor());
            let frozen = if generation.is_empty() {
                Vec::new()
            } else {
                vec![Frozen {
                    through: last_lsn,
                    generation,
                }]
            };
            let view = NodeView {
                active,
                frozen,
                tree: store.view(),
                complete: progress.complete,
            };
            Arc::new(NodeTable::new(progress.node, view))
        })
        .collect();
    let nodes: Vec<_> = tables
        .iter()
        .map(|table| Route {
            node: table.node(),
            table: Arc::clone(table),
            queue: Arc::new(Queue::new(builder.mailbox_capacity)),
            state: NodeState::Serving,
            restarts: 0,
            last_failure: None,
        })
        .collect();
    let budget = Budget::new(
        clock,
        gauge,
        builder.generations_share(),
        builder.in_flight_share(),
    );
    let switchboard = Arc::new(Switchboard {
        clock,
        visible: Visible::new(last_lsn),
        cache: Arc::new(RowCache::new(builder.row_cache_share(), random())),
        telemetry: Telemetry::new(tables.len()),
        budget: Arc::new(budget),
        routes: ArcSwap::from_pointee(Routes {
            ring: Arc::new(ring),
            nodes,
        }),
        tables,
        stores,
        fault_hook: builder.fault_hook.clone(),
        read_only: OnceLock::new(),
        space_error: Mutex::new(None),
        addresses: OnceLock::new(),
        now_ms,
        journal_tick: clock::TickSlot::default(),
        checkpoint_tick: clock::TickSlot::default(),
    });
    let sequencer = Sequencer::new(
        SequencerOptions {
            force: builder.durability == Durability::Always,
            max_group_bytes: MAX_GROUP_BYTES,
            segment_bytes: builder.segment_bytes - frame_bytes(0) - 4096,
        },
        SequencerState {
            last_lsn,
            last_group: journal.last_group(),
            incarnations: incarnations.clone(),
            keyspaces,
            room: journal.room(),
        },
    );
    let reader = journal.reader();
    let interval = match builder.durability {
        Durability::Interval(interval) => Some(interval),
        Durability::Always | Durability::None => None,
    };
    let file = Arc::new(JournalFile::new(journal, interval));
    let (io_sender, io_requests) = unbounded();
    let (segment_sender, segment_requests) = unbounded();
    let (job_sender, jobs) = unbounded();
    let (compaction_sender, compactions) = unbounded();
    let (clock_sender, clock_stop) = crossbeam_channel::bounded(0);

    let system = ActorSystem::start(builder.arbiters)?;
    let home = system.arbiter(0);
    let complete = manifest.progress.iter().map(|p| p.complete).collect();
    let addresses = Addresses {
        nodes: incarnations
            .iter()
            .enumerate()
            .map(|(number, incarnation)| {
                let store = Arc::clone(&switchboard.stores[number]);
                let participant = Participant::new(
                    *incarnation,
                    Arc::clone(&switchboard.tables[number]),
                    Arc::clone(&switchboard.cache),
                    TreeSource(Box::new(move || store.view())),
                    last_lsn,
                    builder.mailbox_capacity,
                );
                let node = StorageNode::new(participant, Arc::clone(&switchboard), reader.clone());
                actix::Supervisor::start_in_arbiter(system.arbiter(number), move |_| node)
            })
            .collect(),
        journal: {
            let actor = JournalActor::new(
                sequencer,
                Arc::clone(&switchboard),
                Arc::clone(&file),
                io_sender.clone(),
                segment_sender,
                builder.watch_capacity,
            );
            JournalActor::start_in_arbiter(home, move |_| actor)
        },
        checkpointer: {
            let actor = Checkpointer::new(
                Checkpoint::new(builder.checkpoint_share() as u64, complete),
                Arc::clone(&switchboard),
                job_sender,
                compaction_sender,
                io_sender.clone(),
                Restarts::new(builder.restart_policy)?,
            );
            Checkpointer::start_in_arbiter(home, move |_| actor)
        },
        supervisor: {
            let restarts = switchboard
                .tables
                .iter()
                .map(|_| Restarts::new(builder.restart_policy))
                .collect::<Result<_>>()?;
            let actor = Supervisor::new(restarts, Arc::clone(&switchboard));
            Supervisor::start_in_arbiter(home, move |_| actor)
        },
        router: {
            let actor = Router::new(Arc::clone(&switchboard));
            Router::start_in_arbiter(home, move |_| actor)
        },
    };
    assert!(
        switchboard.addresses.set(addresses).is_ok(),
        "addresses are published once"
    );

    let mut joins = Vec::new();
    let mut spawn = |name: &str, run: Box<dyn FnOnce(&Switchboard) + Send>| {
        let switchboard = Arc::clone(&switchboard);
        let join = thread::Builder::new()
            .name(format!("mailring-{name}"))
            .spawn(move || run(&switchboard))
            .map_err(|error| Error::io("starting a thread", &error))?;
        joins.push(join);
        Ok::<_, Error>(())
    };
    let io_file = Arc::clone(&file);
    spawn(
        "journal",
        Box::new(move |board| journal_io::run_io(&io_file, &io_requests, board)),
    )?;
    let segment_file = Arc::clone(&file);
    let segment_disk = Arc::clone(&disk);
    spawn(
        "segments",
        Box::new(move |board| {
            let disk = &segment_disk;
            journal_io::run_segments(disk, &segment_file, &segment_requests, &io_sender, board);
        }),
    )?;
    let worker_disk = Arc::clone(&disk);
    let worker_file = Arc::clone(&file);
    spawn(
        "runs",
        Box::new(move |board| {
            checkpointer::run_worker(&jobs, manifest, &worker_disk, &worker_file, board);
        }),
    )?;
    spawn(
        "compaction",
        Box::new(move |board| checkpointer::run_compaction(&compactions, board)),
    )?;
    spawn(
        "clock",
        Box::new(move |board| clock::run(board, &clock_stop)),
    )?;

    Ok(Mailring {
        engine: Arc::new(Engine {
            switchboard,
            deadline: builder.deadline,
            keyspaces: Mutex::new(BTreeMap::new()),
            threads: Mutex::new(Some(Threads {
                system,
                clock: clock_sender,
                joins,
                files: Files {
                    journal: file,
                    disk,
                    _lock: lock,
                },
            })),
            closed: AtomicBool::new(false),
        }),
    })
}

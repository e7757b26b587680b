//! From what was recovered to running actors and threads.

use super::{
    nodes::{Life, NodeActors},
    recover::Recovered,
    threads::{Files, Threads},
};
use crate::{
    Builder, Durability, MAX_BATCH_BYTES, MAX_BATCH_KEYS, Mailring,
    alarm::Alarms,
    budget::Budget,
    builder::Place,
    cache_share::CacheShare,
    checkpointer::{self, Checkpointer},
    clock::{self, Clock},
    coordinator::CoordinatorActor,
    engine::Engine,
    journal::JournalActor,
    journal_io::{self, JournalFile},
    locks::{LockDesk, LockManager},
    member::Queue,
    mover::{self, Mover, StopSign},
    nodes::{Events, Showing},
    router::Router,
    routes::Routes,
    supervisor::{Broken, Supervisor},
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
    coordinator::{Coordinator, CoordinatorOptions},
    directories::Placement,
    disk::Disk,
    ids::NodeId,
    journal::frame_bytes,
    locks::{LockLimits, LockTable},
    manifest::Manifest,
    motion::{Motion, MotionMessage, MotionOptions},
    open_keyspaces::OpenKeyspaces,
    participant::ParticipantOptions,
    rebuild::Opened,
    restart::Restarts,
    sequencer::{JournalState, Sequencer, SequencerOptions, SequencerState},
    value::KEYSPACE_PREFIX_BYTES,
    view::Visible,
};
use std::{
    collections::hash_map::RandomState,
    fs::File,
    hash::{BuildHasher, Hasher},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};
use tokio::sync::Notify;

/// Bytes of records in one group; beyond, a batch waits for the next group.
const MAX_GROUP_BYTES: usize = 8 << 20;

pub(super) fn start(
    builder: Builder,
    disk: Arc<dyn Disk>,
    lock: Option<File>,
    recovered: Recovered,
    now_ms: Arc<AtomicU64>,
    held_indexes: Arc<AtomicU64>,
    gauge: Arc<AtomicUsize>,
) -> Result<Mailring> {
    let Recovered {
        manifest,
        ring,
        keyspaces,
        outcomes,
        lives,
        complete,
        opener,
        nodes,
        journal,
        last_lsn,
        old_leases,
    } = recovered;
    let is_changing = ring.running().is_some();
    let isolated: Vec<_> = nodes
        .iter()
        .filter_map(|member| Some((member.node(), member.table.unreadable()?.clone())))
        .collect();
    let trees: Vec<_> = (0..).map(NodeId).zip(complete.iter().copied()).collect();
    let clock = Clock::start();
    let opening = manifest.openings;
    let budget = Budget::new(
        clock,
        gauge,
        builder.generations_share(),
        builder.in_flight_share(),
        builder.open_transactions_share(),
    );
    let switchboard = Arc::new(Switchboard {
        clock,
        visible: Visible::new(last_lsn),
        cache: Arc::new(RowCache::new(builder.row_cache_share(), random())),
        cache_share: CacheShare {
            rows: builder.row_cache_share(),
            held_indexes,
        },
        telemetry: Telemetry::new(),
        budget: Arc::new(budget),
        routes: ArcSwap::from_pointee(Routes::new(Arc::new(ring.clone()), nodes)),
        rerouted: Notify::new(),
        showing: Showing::default(),
        events: Events::default(),
        opened: Opened {
            last_lsn,
            ring: Arc::clone(ring.ring()),
        },
        motion_due: clock::DueTick::default(),
        stopping: AtomicBool::new(false),
        fault_hook: builder.fault_hook.clone(),
        read_only: OnceLock::new(),
        keyspaces: OpenKeyspaces::default(),
        space_error: Mutex::new(None),
        forced: Arc::default(),
        addresses: OnceLock::new(),
        now_ms,
        journal_tick: clock::TickSlot::default(),
        checkpoint_tick: clock::TickSlot::default(),
        lock_tick: clock::TickSlot::default(),
        locks: LockDesk::new(builder.mailbox_capacity, lock_opening(&builder, &manifest)),
        locks_down: OnceLock::new(),
        coordinator_tick: clock::TickSlot::default(),
        coordinator_running: AtomicUsize::new(0),
        coordinator_down: OnceLock::new(),
        coordinator_queue: Arc::new(Queue::new(builder.mailbox_capacity)),
        alarms: Alarms::new(),
        journal_overdue: Notify::new(),
    });
    switchboard.cache_share.fit(&switchboard.cache);
    let sequencer = Sequencer::new(
        SequencerOptions {
            force: builder.durability == Durability::Always,
            max_group_bytes: MAX_GROUP_BYTES,
            segment_bytes: builder.segment_bytes - frame_bytes(0) - 4096,
        },
        SequencerState {
            last_lsn,
            journals: vec![JournalState {
                last_group: journal.last_group(),
                room: journal.room(),
            }],
            placement: Placement::default(),
            incarnations: lives.clone(),
            keyspaces,
            outcomes,
            ring: ring.clone(),
        },
    );
    let reader = journal.reader();
    let interval = match builder.durability {
        Durability::Interval(interval) => Some(interval),
        Durability::Always | Durability::None => None,
    };
    let file = Arc::new(JournalFile::new(
        journal,
        interval,
        Arc::clone(&switchboard.forced),
        Arc::clone(&switchboard.telemetry.journal),
    ));
    let mover_journal = reader.clone();
    let (io_sender, io_requests) = unbounded();
    let (segment_sender, segment_requests) = unbounded();
    let (job_sender, jobs) = unbounded();
    let (compaction_sender, compactions) = unbounded();
    let (mover_jobs, mover_compactions) = (job_sender.clone(), compaction_sender.clone());
    let (mover_sender, mover_requests) = unbounded();
    let stop = StopSign::default();
    let (clock_sender, clock_stop) = crossbeam_channel::bounded(0);

    let system = ActorSystem::start(builder.arbiters)?;
    let arbiters = system.arbiters();
    let home = arbiters.of(0);
    let node_actors = NodeActors {
        arbiters: arbiters.clone(),
        journal: reader,
        options: ParticipantOptions {
            stashed: builder.mailbox_capacity,
            ..ParticipantOptions::default()
        },
    };
    for member in switchboard.routes.load().nodes() {
        let node = member.node();
        let life = Life {
            incarnation: lives[usize::from(node.0)],
            owned_since: ring.owned_since(node),
            last_lsn,
        };
        node_actors.start(&switchboard, member, life);
    }
    let addresses = Addresses {
        coordinator: {
            // Handles bound their transactions; a batch, which only writes, may be larger.
            let options = CoordinatorOptions {
                bytes: MAX_BATCH_BYTES + MAX_BATCH_KEYS * KEYSPACE_PREFIX_BYTES,
                ..CoordinatorOptions::default()
            };
            let actor = CoordinatorActor::new(
                Coordinator::new(options),
                Arc::clone(&switchboard),
                Restarts::new(builder.restart_policy)?,
            );
            CoordinatorActor::start_in_arbiter(home, move |_| actor)
        },
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
            let actor = Supervisor::new(builder.restart_policy, Arc::clone(&switchboard));
            Supervisor::start_in_arbiter(home, move |_| actor)
        },
        router: {
            let options = MotionOptions {
                heal: builder.heal,
                ..MotionOptions::default()
            };
            let motion = Motion::new(options, ring, clock.now())
                .with_complete(trees)
                .with_unreadable(isolated.iter().map(|(node, _)| *node));
            let actor = Router::new(Arc::clone(&switchboard), motion, mover_sender, stop.clone());
            // Its steps are few, but may copy a large ring.
            Router::start_in_arbiter(arbiters.of(lives.len() + 1), move |_| actor)
        },
        lock_manager: {
            let limits = LockLimits {
                max_lease: builder.max_lease,
                ..LockLimits::default()
            };
            let grants_from = clock.in_future(old_leases);
            let actor = LockManager::new(
                LockTable::new(limits, switchboard.locks.opening(), grants_from),
                Restarts::new(builder.restart_policy)?,
                Arc::clone(&switchboard),
            );
            // Behind the nodes, so that it has a thread of its own where there is one to spare.
            LockManager::start_in_arbiter(arbiters.of(lives.len()), move |_| actor)
        },
    };
    let mover = Mover {
        stores: opener,
        actors: node_actors,
        journal: mover_journal,
        journal_file: Arc::clone(&file),
        runs: mover_jobs,
        compactions: mover_compactions,
        stop,
        rate: builder.move_rate,
        memory_budget: builder.memory_budget,
        queue_capacity: builder.mailbox_capacity,
    };
    assert!(
        switchboard.addresses.set(addresses).is_ok(),
        "addresses are published once"
    );

    for (node, error) in isolated {
        switchboard.supervisor().do_send(Broken { node, error });
    }

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
    let mover_board = Arc::clone(&switchboard);
    spawn(
        "move",
        Box::new(move |_| mover::run_mover(&mover_requests, &mover, &mover_board)),
    )?;
    spawn(
        "compaction",
        Box::new(move |board| checkpointer::run_compaction(&compactions, board)),
    )?;
    spawn(
        "clock",
        Box::new(move |board| clock::run(board, &clock_stop)),
    )?;

    let board = Arc::clone(&switchboard);
    let db = Mailring {
        engine: Arc::new(Engine {
            switchboard: Arc::clone(&board),
            deadline: builder.deadline,
            max_lease: builder.max_lease,
            opening,
            transactions: AtomicU64::new(0),
            threads: Mutex::new(Some(Threads {
                switchboard,
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
    };
    // A change that was under way goes on, and whoever has the handle finds it at once.
    if is_changing {
        board.showing.begin();
    }
    board.to_router(MotionMessage::Resume);
    Ok(db)
}

/// What the tokens of locks begin with: the number of this opening, which is forced before anything starts. An engine in
/// memory has no other openings; there it counts the engines of this process.
fn lock_opening(builder: &Builder, manifest: &Manifest) -> u64 {
    static ENGINES: AtomicU64 = AtomicU64::new(0);
    match builder.place {
        Place::Directory(_) => manifest.openings,
        Place::Memory => ENGINES.fetch_add(1, Ordering::Relaxed) + 1,
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

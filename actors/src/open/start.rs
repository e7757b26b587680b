//! From what was recovered to running actors and threads.

use super::{
    nodes::{Life, NodeActors, Readers},
    places::Places,
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
    journal::{JournalActor, JournalLine},
    journal_io::{self, Forced, IoRequest, JournalFile, SegmentRequest},
    locks::{LockDesk, LockManager},
    mover::{self, Mover, StopSign},
    nodes::{Events, Showing},
    queue::Queue,
    router::Router,
    routes::Routes,
    supervisor::{Broken, Supervisor},
    switchboard::{Addresses, Switchboard},
    system::ActorSystem,
    telemetry::Telemetry,
};
use actix::Actor;
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, unbounded};
use mailring_engine::{
    Error, Result,
    cache::RowCache,
    checkpoint::Checkpoint,
    coordinator::{Coordinator, CoordinatorOptions},
    directories::Placement,
    disk::Disk,
    ids::{DirectoryNo, NodeId},
    journal::{Journal, frame_bytes},
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
        journals,
        places,
        placements,
        last_lsn,
        old_leases,
    } = recovered;
    let Places {
        found: places,
        locks,
        ..
    } = places;
    let disk = Arc::clone(&places[0].disk);
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
        builder.watch_share(),
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
        placements: Arc::clone(&placements),
        stopping: AtomicBool::new(false),
        fault_hook: builder.fault_hook.clone(),
        read_only: OnceLock::new(),
        keyspaces: OpenKeyspaces::default(),
        space_errors: Mutex::default(),
        forced: Forced::new(journals.len()),
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
            journals: journals.iter().map(journal_state).collect(),
            placement: Placement::clone(&placements.now()),
            incarnations: lives.clone(),
            keyspaces,
            outcomes,
            ring: ring.clone(),
        },
    );
    let readers = Readers::new(&journals, &manifest, &placements);
    let interval = match builder.durability {
        Durability::Interval(interval) => Some(interval),
        Durability::Always | Durability::None => None,
    };
    let mover_journals = readers.clone();
    let mut lines = Vec::new();
    let mut line_threads = Vec::new();
    for ((number, journal), place) in (0..).map(DirectoryNo).zip(journals).zip(places) {
        let forced = switchboard.forced.clone();
        let figures = Arc::clone(&switchboard.telemetry.journal);
        let file = JournalFile::new(number, journal, interval, forced, figures);
        let file = Arc::new(file);
        let (io, io_requests) = unbounded();
        let (segments, segment_requests) = unbounded();
        line_threads.push(LineThreads {
            number,
            file: Arc::clone(&file),
            disk: place.disk,
            io: io.clone(),
            io_requests,
            segment_requests,
        });
        lines.push(JournalLine { file, io, segments });
    }
    let files: Vec<_> = lines.iter().map(|line| Arc::clone(&line.file)).collect();
    let io_senders = lines.iter().map(|line| line.io.clone()).collect();
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
        journals: readers,
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
                lines,
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
                io_senders,
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
        journals: mover_journals,
        journal_files: files.clone(),
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
    let mut spawn = |name: String, run: Box<dyn FnOnce(&Switchboard) + Send>| {
        let switchboard = Arc::clone(&switchboard);
        let join = thread::Builder::new()
            .name(format!("mailring-{name}"))
            .spawn(move || run(&switchboard))
            .map_err(|error| Error::io("starting a thread", &error))?;
        joins.push(join);
        Ok::<_, Error>(())
    };
    for line in line_threads {
        let LineThreads {
            file,
            disk,
            io,
            io_requests,
            segment_requests,
            ..
        } = line;
        let name = |name: &str| match line.number {
            DirectoryNo::HOME => name.to_owned(),
            number => format!("{name}-{number}"),
        };
        let io_file = Arc::clone(&file);
        spawn(
            name("journal"),
            Box::new(move |board| journal_io::run_io(&io_file, &io_requests, board)),
        )?;
        spawn(
            name("segments"),
            Box::new(move |board| {
                journal_io::run_segments(&disk, &file, &segment_requests, &io, board);
            }),
        )?;
    }
    let worker_disk = Arc::clone(&disk);
    let worker_files = files.clone();
    spawn(
        "runs".into(),
        Box::new(move |board| {
            checkpointer::run_worker(&jobs, manifest, &worker_disk, &worker_files, board);
        }),
    )?;
    let mover_board = Arc::clone(&switchboard);
    spawn(
        "move".into(),
        Box::new(move |_| mover::run_mover(&mover_requests, &mover, &mover_board)),
    )?;
    spawn(
        "compaction".into(),
        Box::new(move |board| checkpointer::run_compaction(&compactions, board)),
    )?;
    spawn(
        "clock".into(),
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
                    journals: files,
                    disk,
                    _locks: locks.into_iter().chain(lock).collect(),
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

/// What the two threads of a directory's journal work with.
struct LineThreads {
    number: DirectoryNo,
    file: Arc<JournalFile>,
    disk: Arc<dyn Disk>,
    io: Sender<IoRequest>,
    io_requests: Receiver<IoRequest>,
    segment_requests: Receiver<SegmentRequest>,
}

fn journal_state(journal: &Journal) -> JournalState {
    JournalState {
        last_group: journal.last_group(),
        room: journal.room(),
    }
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

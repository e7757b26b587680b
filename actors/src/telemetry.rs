//! Every figure of the engine: its name, what it says, and its unit. This file is the list.
//!
//! Figures go to whatever recorder of the `metrics` crate is installed when the engine is opened. Without one they cost
//! next to nothing.

use crate::switchboard::Switchboard;
use mailring_engine::{Error, ids::NodeId};
use metrics::{
    Counter, Gauge, Histogram, Unit, describe_counter, describe_gauge, describe_histogram,
};
use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

const NODE_READS: &str = "mailring_node_reads_total";
const NODE_WRITES: &str = "mailring_node_writes_total";
const NODE_WRITE_SECONDS: &str = "mailring_node_write_seconds";
const NODE_QUEUE: &str = "mailring_node_queue_depth";
const NODE_RESTARTS: &str = "mailring_node_restarts_total";
const NODE_GENERATION_BYTES: &str = "mailring_node_generation_bytes";
const JOURNAL_GROUP_RECORDS: &str = "mailring_journal_group_records";
const JOURNAL_BYTES: &str = "mailring_journal_bytes_total";
const JOURNAL_FORCE_SECONDS: &str = "mailring_journal_force_seconds";
const CHECKPOINT_BYTES: &str = "mailring_checkpoint_bytes_total";
const CHECKPOINT_SECONDS: &str = "mailring_checkpoint_seconds";
const CHECKPOINT_LAG_BYTES: &str = "mailring_checkpoint_lag_bytes";
const CACHE_BYTES: &str = "mailring_cache_bytes";
const WATCH_BYTES: &str = "mailring_watch_bytes";
const MEMORY_BYTES: &str = "mailring_memory_bytes";
const LOCK_GRANTS: &str = "mailring_lock_grants_total";
const LOCK_WAIT_SECONDS: &str = "mailring_lock_wait_seconds";
const LOCK_LOCKS: &str = "mailring_lock_locks";
const LOCK_SESSIONS: &str = "mailring_lock_sessions";
const LOCK_REQUESTS: &str = "mailring_lock_requests";
const LOCK_DEADLOCKS: &str = "mailring_lock_deadlocks_total";
const LOCK_LOST: &str = "mailring_lock_leases_lost_total";
const LOCK_RESTARTS: &str = "mailring_lock_manager_restarts_total";
const VISIBLE_LSN: &str = "mailring_visible_lsn";
const COMMITS: &str = "mailring_transaction_commits_total";
const ABORTS: &str = "mailring_transaction_aborts_total";
const RETRIES: &str = "mailring_transaction_retries_total";
const COMMIT_SECONDS: &str = "mailring_transaction_commit_seconds";
const PREPARED: &str = "mailring_transactions_prepared";
const NODES: &str = "mailring_nodes";
const NODES_DOWN: &str = "mailring_nodes_down";
const MOVED_KEYS: &str = "mailring_moved_keys_total";
const MOVED_BYTES: &str = "mailring_moved_bytes_total";
const ARCS_LEFT: &str = "mailring_change_arcs_left";

fn describe() {
    describe_counter!(
        NODE_READS,
        Unit::Count,
        "Point reads a node's table has answered"
    );
    describe_counter!(
        NODE_WRITES,
        Unit::Count,
        "Requests to write that a node has answered"
    );
    describe_histogram!(
        NODE_WRITE_SECONDS,
        Unit::Seconds,
        "From a write's call to its durable, visible answer"
    );
    describe_gauge!(
        NODE_QUEUE,
        Unit::Count,
        "Requests that a node has not answered yet"
    );
    describe_counter!(
        NODE_RESTARTS,
        Unit::Count,
        "Panics after which a node began a new life"
    );
    describe_gauge!(
        NODE_GENERATION_BYTES,
        Unit::Bytes,
        "Weight of the generation that takes a node's writes"
    );
    describe_histogram!(
        JOURNAL_GROUP_RECORDS,
        Unit::Count,
        "Records that were written together, under one force where each is forced"
    );
    describe_counter!(
        JOURNAL_BYTES,
        Unit::Bytes,
        "Bytes of records written to the journal"
    );
    describe_histogram!(
        JOURNAL_FORCE_SECONDS,
        Unit::Seconds,
        "Time of one force, with the write that it follows at once"
    );
    describe_counter!(
        CHECKPOINT_BYTES,
        Unit::Bytes,
        "Bytes written to the trees by checkpoints"
    );
    describe_histogram!(
        CHECKPOINT_SECONDS,
        Unit::Seconds,
        "Time to write one checkpoint's runs"
    );
    describe_gauge!(
        CHECKPOINT_LAG_BYTES,
        Unit::Bytes,
        "Weight of all generations in memory: not written by a checkpoint yet, or held by snapshots"
    );
    describe_gauge!(CACHE_BYTES, Unit::Bytes, "Bytes of the row cache");
    describe_gauge!(
        WATCH_BYTES,
        Unit::Bytes,
        "Bytes of changes kept for watches that have not read them yet"
    );
    describe_gauge!(
        MEMORY_BYTES,
        Unit::Bytes,
        "Bytes that count against the memory budget"
    );
    describe_counter!(
        LOCK_GRANTS,
        Unit::Count,
        "Locks granted, those on keys included"
    );
    describe_histogram!(
        LOCK_WAIT_SECONDS,
        Unit::Seconds,
        "From a lock's request to its grant"
    );
    describe_gauge!(LOCK_LOCKS, Unit::Count, "Locks held or waited for");
    describe_gauge!(
        LOCK_SESSIONS,
        Unit::Count,
        "Sessions that hold a lock or wait for one"
    );
    describe_gauge!(
        LOCK_REQUESTS,
        Unit::Count,
        "Guards and waiting requests together"
    );
    describe_counter!(
        LOCK_DEADLOCKS,
        Unit::Count,
        "Lock requests refused as the youngest of a deadlock"
    );
    describe_counter!(LOCK_LOST, Unit::Count, "Leases that ran out");
    describe_counter!(
        LOCK_RESTARTS,
        Unit::Count,
        "Panics after which the lock manager began anew"
    );
    describe_gauge!(VISIBLE_LSN, Unit::Count, "The visible LSN");
    describe_counter!(
        COMMITS,
        Unit::Count,
        "Transactions with writes that were committed"
    );
    describe_counter!(
        ABORTS,
        Unit::Count,
        "Commits of transactions that did not succeed, by reason"
    );
    describe_counter!(
        RETRIES,
        Unit::Count,
        "Transactions that were run again by themselves"
    );
    describe_histogram!(
        COMMIT_SECONDS,
        Unit::Seconds,
        "From a transaction's commit to its durable, visible answer"
    );
    describe_gauge!(
        PREPARED,
        Unit::Count,
        "Parts of transactions that the nodes have prepared now"
    );
    describe_gauge!(NODES, Unit::Count, "Nodes that are open");
    describe_gauge!(
        NODES_DOWN,
        Unit::Count,
        "Nodes of them that were given up, or whose trees can't be read"
    );
    describe_counter!(
        MOVED_KEYS,
        Unit::Count,
        "Pairs and tombstones copied and swept to change the nodes"
    );
    describe_counter!(
        MOVED_BYTES,
        Unit::Bytes,
        "Bytes of pairs copied and of keys swept to change the nodes"
    );
    describe_gauge!(
        ARCS_LEFT,
        Unit::Count,
        "Arcs that the change of the nodes has still to move"
    );
}

/// The figures of one node.
pub(crate) struct NodeFigures {
    reads: Counter,
    writes: Counter,
    write_seconds: Histogram,
    queue: Gauge,
    generation_bytes: Gauge,
    pub(crate) restarts: Counter,
    /// Reads are counted by thread and gathered by the clock: one shared counter would cost more than a read.
    read_stripes: [Stripe; STRIPES],
    writes_total: AtomicU64,
}

const STRIPES: usize = 16;

#[derive(Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            stripe.set(NEXT.fetch_add(1, Relaxed) % STRIPES);
        }
        stripe.get()
    })
}

impl NodeFigures {
    pub(crate) fn new(node: NodeId) -> Self {
        let label = [("node", node.to_string())];
        Self {
            reads: metrics::counter!(NODE_READS, &label),
            writes: metrics::counter!(NODE_WRITES, &label),
            write_seconds: metrics::histogram!(NODE_WRITE_SECONDS, &label),
            queue: metrics::gauge!(NODE_QUEUE, &label),
            generation_bytes: metrics::gauge!(NODE_GENERATION_BYTES, &label),
            restarts: metrics::counter!(NODE_RESTARTS, &label),
            read_stripes: std::array::from_fn(|_| Stripe::default()),
            writes_total: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn read(&self) {
        self.read_stripes[stripe()].0.fetch_add(1, Relaxed);
    }

    pub(crate) fn written(&self, took: Duration) {
        self.writes_total.fetch_add(1, Relaxed);
        self.writes.increment(1);
        self.write_seconds.record(took.as_secs_f64());
    }

    pub(crate) fn reads_total(&self) -> u64 {
        self.read_stripes
            .iter()
            .map(|stripe| stripe.0.load(Relaxed))
            .sum()
    }

    pub(crate) fn writes_total(&self) -> u64 {
        self.writes_total.load(Relaxed)
    }
}

/// The figures of the lock manager.
pub(crate) struct LockFigures {
    grants: Counter,
    wait_seconds: Histogram,
    locks: Gauge,
    sessions: Gauge,
    requests: Gauge,
    pub(crate) deadlocks: Counter,
    pub(crate) lost: Counter,
    pub(crate) restarts: Counter,
    sizes: [AtomicUsize; 3],
}

impl LockFigures {
    fn new() -> Self {
        Self {
            grants: metrics::counter!(LOCK_GRANTS),
            wait_seconds: metrics::histogram!(LOCK_WAIT_SECONDS),
            locks: metrics::gauge!(LOCK_LOCKS),
            sessions: metrics::gauge!(LOCK_SESSIONS),
            requests: metrics::gauge!(LOCK_REQUESTS),
            deadlocks: metrics::counter!(LOCK_DEADLOCKS),
            lost: metrics::counter!(LOCK_LOST),
            restarts: metrics::counter!(LOCK_RESTARTS),
            sizes: Default::default(),
        }
    }

    pub(crate) fn granted(&self, took: Duration) {
        self.grants.increment(1);
        self.wait_seconds.record(took.as_secs_f64());
    }

    /// Locks, sessions and requests as of now; the clock publishes them.
    pub(crate) fn set_sizes(&self, sizes: [usize; 3]) {
        for (figure, size) in self.sizes.iter().zip(sizes) {
            figure.store(size, Relaxed);
        }
    }

    fn publish_gauges(&self) {
        let gauges = [&self.locks, &self.sessions, &self.requests];
        for (gauge, size) in gauges.into_iter().zip(&self.sizes) {
            gauge.set(size.load(Relaxed) as f64);
        }
    }
}

/// Why a commit did not succeed, as the figures tell it.
const REASONS: [&str; 7] = [
    "conflict",
    "deadline",
    "aborted",
    "overloaded",
    "node",
    "unknown",
    "other",
];

fn reason_of(error: &Error) -> usize {
    let reason = match error {
        Error::Conflict { .. } => "conflict",
        Error::DeadlineExceeded => "deadline",
        Error::Aborted { .. } => "aborted",
        Error::Overloaded { .. } => "overloaded",
        Error::NodeRestarted { .. } | Error::NodeDown { .. } => "node",
        Error::Unknown { .. } => "unknown",
        _ => "other",
    };
    let place = REASONS.iter().position(|listed| *listed == reason);
    place.expect("every reason is listed")
}

/// The figures of the journal, kept by whoever uses its files.
pub(crate) struct JournalFigures {
    group_records: Histogram,
    bytes: Counter,
    force_seconds: Histogram,
    groups_total: AtomicU64,
    records_total: AtomicU64,
    forces_total: AtomicU64,
    bytes_total: AtomicU64,
}

impl JournalFigures {
    fn new() -> Self {
        Self {
            group_records: metrics::histogram!(JOURNAL_GROUP_RECORDS),
            bytes: metrics::counter!(JOURNAL_BYTES),
            force_seconds: metrics::histogram!(JOURNAL_FORCE_SECONDS),
            groups_total: AtomicU64::new(0),
            records_total: AtomicU64::new(0),
            forces_total: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
        }
    }

    /// Groups were written together.
    pub(crate) fn written(&self, groups: usize, records: usize, bytes: usize) {
        self.groups_total.fetch_add(groups as u64, Relaxed);
        self.records_total.fetch_add(records as u64, Relaxed);
        self.bytes_total.fetch_add(bytes as u64, Relaxed);
        self.group_records.record(records as f64);
        self.bytes.increment(bytes as u64);
    }

    /// A force came back, with the groups before it if they were written for it.
    pub(crate) fn forced(&self, took: Duration) {
        self.forces_total.fetch_add(1, Relaxed);
        self.force_seconds.record(took.as_secs_f64());
    }
}

/// All figures of an engine.
pub(crate) struct Telemetry {
    pub(crate) locks: LockFigures,
    pub(crate) journal: Arc<JournalFigures>,
    checkpoint_bytes: Counter,
    checkpoint_seconds: Histogram,
    checkpoint_lag: Gauge,
    cache_bytes: Gauge,
    watch_bytes: Gauge,
    memory_bytes: Gauge,
    visible: Gauge,
    commits: Counter,
    aborts: [Counter; REASONS.len()],
    retries: Counter,
    commit_seconds: Histogram,
    prepared: Gauge,
    nodes: Gauge,
    nodes_down: Gauge,
    moved_keys: Counter,
    moved_bytes: Counter,
    arcs_left: Gauge,
    commits_total: AtomicU64,
    aborts_total: AtomicU64,
    conflicts_total: AtomicU64,
    retries_total: AtomicU64,
    checkpoints_total: AtomicU64,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        describe();
        Self {
            locks: LockFigures::new(),
            journal: Arc::new(JournalFigures::new()),
            checkpoint_bytes: metrics::counter!(CHECKPOINT_BYTES),
            checkpoint_seconds: metrics::histogram!(CHECKPOINT_SECONDS),
            checkpoint_lag: metrics::gauge!(CHECKPOINT_LAG_BYTES),
            cache_bytes: metrics::gauge!(CACHE_BYTES),
            watch_bytes: metrics::gauge!(WATCH_BYTES),
            memory_bytes: metrics::gauge!(MEMORY_BYTES),
            visible: metrics::gauge!(VISIBLE_LSN),
            commits: metrics::counter!(COMMITS),
            aborts: REASONS.map(|reason| metrics::counter!(ABORTS, "reason" => reason)),
            retries: metrics::counter!(RETRIES),
            commit_seconds: metrics::histogram!(COMMIT_SECONDS),
            prepared: metrics::gauge!(PREPARED),
            nodes: metrics::gauge!(NODES),
            nodes_down: metrics::gauge!(NODES_DOWN),
            moved_keys: metrics::counter!(MOVED_KEYS),
            moved_bytes: metrics::counter!(MOVED_BYTES),
            arcs_left: metrics::gauge!(ARCS_LEFT),
            commits_total: AtomicU64::new(0),
            aborts_total: AtomicU64::new(0),
            conflicts_total: AtomicU64::new(0),
            retries_total: AtomicU64::new(0),
            checkpoints_total: AtomicU64::new(0),
        }
    }

    pub(crate) fn checkpoint_written(&self, bytes: u64, seconds: f64) {
        self.checkpoints_total.fetch_add(1, Relaxed);
        self.checkpoint_bytes.increment(bytes);
        self.checkpoint_seconds.record(seconds);
    }

    /// Something was copied or swept.
    pub(crate) fn moved(&self, keys: u64, bytes: u64) {
        self.moved_keys.increment(keys);
        self.moved_bytes.increment(bytes);
    }

    /// A commit of a transaction with writes was answered.
    pub(crate) fn transaction_ended(&self, error: Option<&Error>, took: Duration) {
        self.commit_seconds.record(took.as_secs_f64());
        let Some(error) = error else {
            self.commits.increment(1);
            self.commits_total.fetch_add(1, Relaxed);
            return;
        };
        let reason = reason_of(error);
        self.aborts[reason].increment(1);
        match REASONS[reason] {
            // It may have been committed.
            "unknown" => {}
            "conflict" => {
                self.aborts_total.fetch_add(1, Relaxed);
                self.conflicts_total.fetch_add(1, Relaxed);
            }
            _ => {
                self.aborts_total.fetch_add(1, Relaxed);
            }
        }
    }

    /// A transaction is run again.
    pub(crate) fn transaction_repeated(&self) {
        self.retries.increment(1);
        self.retries_total.fetch_add(1, Relaxed);
    }

    /// Commits, aborts, conflicts and retries of transactions so far.
    pub(crate) fn transaction_totals(&self) -> [u64; 4] {
        [
            self.commits_total.load(Relaxed),
            self.aborts_total.load(Relaxed),
            self.conflicts_total.load(Relaxed),
            self.retries_total.load(Relaxed),
        ]
    }

    /// Groups, records, forces, bytes of the journal, and checkpoints so far.
    pub(crate) fn totals(&self) -> [u64; 5] {
        [
            self.journal.groups_total.load(Relaxed),
            self.journal.records_total.load(Relaxed),
            self.journal.forces_total.load(Relaxed),
            self.journal.bytes_total.load(Relaxed),
            self.checkpoints_total.load(Relaxed),
        ]
    }

    /// Publishes what is read off rather than counted. Called by the clock.
    pub(crate) fn publish_gauges(&self, switchboard: &Switchboard) {
        let routes = switchboard.routes.load();
        for member in routes.nodes() {
            let figures = &member.figures;
            figures.reads.absolute(figures.reads_total());
            figures.queue.set(member.queue.depth() as f64);
            let active = member.table.view().active.bytes();
            figures.generation_bytes.set(active as f64);
        }
        self.nodes.set(routes.nodes().len() as f64);
        let down = routes.nodes().iter().filter(|it| it.table.is_down());
        self.nodes_down.set(down.count() as f64);
        let change = switchboard.showing.progress();
        let left = change.map_or(0, |change| change.arcs_total - change.arcs_done);
        self.arcs_left.set(left as f64);
        self.locks.publish_gauges();
        let budget = &switchboard.budget;
        let cached = switchboard.cache.bytes();
        self.checkpoint_lag.set(budget.generation_bytes() as f64);
        self.cache_bytes.set(cached as f64);
        let held = switchboard.cache_share.held();
        let watched = budget.watch_bytes();
        self.watch_bytes.set(watched as f64);
        let requests = budget.in_flight_bytes() + budget.open_bytes();
        let memory = budget.generation_bytes() + requests + watched + cached + held;
        self.memory_bytes.set(memory as f64);
        self.visible.set(switchboard.visible.load().0 as f64);
        self.prepared.set(switchboard.prepared() as f64);
    }
}

//! The builder: every setting, its default and its limits.

use crate::{Mailring, clock::TICK, offload::offload, open, switchboard::FaultHook};
use mailring_engine::{
    Error, Result,
    disk::Disk,
    motion::Heal,
    restart::{RestartPolicy, Restarts},
    ring::recommended_arc_bits,
    store::Store,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const MIB: usize = 1 << 20;
/// A crash would keep all locks shut for as long.
const MAX_MAX_LEASE: Duration = Duration::from_secs(3600);

/// The room for all of them is there from the beginning.
const MAX_WATCH_CAPACITY: usize = 1 << 20;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once it is forced to the medium (`fdatasync`). Nothing that was answered is ever lost. The default.
    #[default]
    Always,
    /// Once it is written to the file; a force is asked for when the last one is so long ago, at the next tick of the
    /// engine: every 10 ms, which is the shortest interval. A crash of the process loses nothing. A crash of the machine
    /// loses at most what was answered since the last force that has ended: in the interval, a tick, and the time that the
    /// force takes with the writes that are queued before it.
    Interval(Duration),
    /// Once it is written to the file; the operating system forces it when it likes, and a shutdown does. A crash of
    /// the process loses nothing, a crash of the machine may lose any number of the newest writes.
    None,
}

/// Puts something around each store that is opened. Only tests set one.
pub type StoreHook = Arc<dyn Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync>;

/// Where an engine keeps its data.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Directory(PathBuf),
    Memory,
}

impl Place {
    /// The directory; an engine in memory has none that somebody could work with who has not opened it.
    pub(crate) fn directory(&self) -> Result<&Path> {
        match self {
            Self::Directory(path) => Ok(path),
            Self::Memory => Err(Error::InvalidOption {
                option: "directory",
                value: String::new(),
                reason: "an engine in memory has none",
            }),
        }
    }
}

/// Settings of an engine; see [`Mailring::builder`] and [`Mailring::memory`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `open`"]
pub struct Builder {
    pub(crate) place: Place,
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) node_directories: Option<Vec<u8>>,
    pub(crate) weights: Option<Vec<u32>>,
    pub(crate) arc_bits: Option<u32>,
    pub(crate) durability: Durability,
    pub(crate) memory_budget: usize,
    pub(crate) cache_bytes: Option<usize>,
    pub(crate) mailbox_capacity: usize,
    pub(crate) checkpoint_bytes: Option<usize>,
    pub(crate) segment_bytes: u64,
    pub(crate) deadline: Duration,
    pub(crate) restart_policy: RestartPolicy,
    pub(crate) max_lease: Duration,
    pub(crate) arbiters: usize,
    pub(crate) watch_capacity: usize,
    pub(crate) move_rate: Option<u64>,
    pub(crate) heal: Heal,
    pub(crate) fault_hook: Option<FaultHook>,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    pub(crate) more_disks: Vec<(u8, Arc<dyn Disk>)>,
    pub(crate) store_hook: Option<StoreHook>,
    pub(crate) create: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("place", &self.place)
            .field("weights", &self.weights)
            .field("durability", &self.durability)
            .field("memory_budget", &self.memory_budget)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(place: Place) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            place,
            directories: Vec::new(),
            node_directories: None,
            weights: None,
            arc_bits: None,
            durability: Durability::default(),
            memory_budget: 512 * MIB,
            cache_bytes: None,
            mailbox_capacity: 8192,
            checkpoint_bytes: None,
            segment_bytes: 32 * MIB as u64,
            deadline: Duration::from_secs(5),
            restart_policy: RestartPolicy::default(),
            max_lease: Duration::from_secs(30),
            arbiters: (cores / 2).max(1),
            watch_capacity: 1024,
            move_rate: Some(32 * MIB as u64),
            heal: Heal::default(),
            fault_hook: None,
            disk: None,
            more_disks: Vec::new(),
            store_hook: None,
            create: true,
        }
    }

    /// Whether an engine is created where there is none; default `true`. With `false`, opening a directory without one
    /// answers `NoEngine` and leaves everything as it is.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// One more directory, on a disk of its own, say; it gets number 1, the next one 2, and so on, and the one that the
    /// builder began with is 0. Nodes live in one directory each and write into its journal, so that the disks work side by
    /// side; a transaction over several is one commit all the same, and takes no longer than the slowest of them.
    ///
    /// The engine remembers where they are: to open it again only a directory that has moved needs to be named. What is named
    /// comes first: of a directory that is in two places the one that is named here is used. Where the first one is a copy, or
    /// has moved, all have to be named, unless they were copied or moved with it and lie beside it as they did. One that is
    /// not there is `DirectoryMissing`, and nothing is opened.
    ///
    /// A directory that is named and not known yet is added, also to an engine that had one only: its nodes stay where they
    /// are, and those that are added later are placed in all directories in turn. At most 64. None may lie in another one:
    /// the folder of a node goes with the node, and everything in it.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directories.push(path.into());
        self
    }

    /// In which directory each of the first nodes lives, by number; fixed when the engine is created. Default: in all
    /// directories in turn.
    pub fn node_directories(mut self, directories: impl Into<Vec<u8>>) -> Self {
        self.node_directories = Some(directories.into());
        self
    }

    /// Number of storage nodes, of equal weight, that a directory is created with: 1 to 10,485; default 4. Later on
    /// [`Mailring::nodes`] changes it, and so does the loss of a node: a directory is opened by the number that it was created
    /// with, or by what it has now.
    pub fn nodes(self, nodes: u16) -> Self {
        self.weights(vec![1; usize::from(nodes)])
    }

    /// One storage node for each weight; a node owns its share of the keys within 1 %. As [`Builder::nodes`], for a directory
    /// when it is created.
    pub fn weights(mut self, weights: impl Into<Vec<u32>>) -> Self {
        self.weights = Some(weights.into());
        self
    }

    /// Cuts the ring into 2^`bits` equal arcs, `bits` being at most 20. Fixed when the directory is created, for ever; the
    /// default suits the weights, and eight times as many nodes.
    pub fn arc_bits(mut self, bits: u32) -> Self {
        self.arc_bits = Some(bits);
        self
    }

    /// When a write counts as done; default [`Durability::Always`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Bytes that generations, caches, requests under way, open transactions, and changes kept for watches may take together;
    /// at least 32 MiB, default 512 MiB. Writers are slowed, and in the end wait, before it is exceeded; but one request above an
    /// eighth of it goes on when no other is under way, whatever it takes.
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Bytes of the caches, out of the memory budget: at most three quarters of it, default half.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = Some(bytes);
        self
    }

    /// Requests that may wait at one node, at the coordinator of transactions, and at the lock manager; beyond, calls
    /// answer `Overloaded`. Default 8,192.
    pub fn mailbox_capacity(mut self, requests: usize) -> Self {
        self.mailbox_capacity = requests;
        self
    }

    /// Bytes of writes in memory at which a checkpoint begins; bounds what is read back after a crash. Default: a
    /// quarter of what the budget leaves for generations.
    pub fn checkpoint_bytes(mut self, bytes: usize) -> Self {
        self.checkpoint_bytes = Some(bytes);
        self
    }

    /// Size of a journal segment, 1 MiB to 4 GiB; default 32 MiB. The first segments of a directory are smaller.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// How long a write may wait before the journal has admitted it; default 5 s. A write that was admitted in time and
    /// whose fate is not known a second later, since the disk hangs, is answered `Unknown`.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How often and how soon a node that panicked is restarted; default 5 restarts a minute.
    pub fn restart_policy(mut self, policy: RestartPolicy) -> Self {
        self.restart_policy = policy;
        self
    }

    /// The longest lease that a lock may have, up to an hour; default 30 s. After a crash no lock is granted for as long as the longest
    /// lease could last that was allowed since the engine was last shut down or dropped.
    pub fn max_lease(mut self, lease: Duration) -> Self {
        self.max_lease = lease;
        self
    }

    /// Threads on which the actors run, 1 to 256; default half of the cores.
    pub fn arbiters(mut self, threads: usize) -> Self {
        self.arbiters = threads;
        self
    }

    /// Groups of changes that a watch may lie behind before it misses some, up to 1,048,576; default 1,024. Each takes
    /// some 50 bytes from the opening on, and 100 more while a watch has not passed it.
    ///
    /// What is kept for slow watches has a share of the memory budget besides, of 20 MiB by default (an eighth of what caches,
    /// requests and open transactions leave): beyond that the oldest groups are given up, and whoever had not read them yet
    /// misses them. The newest group is kept whatever its size, so who keeps up misses nothing.
    pub fn watch_capacity(mut self, groups: usize) -> Self {
        self.watch_capacity = groups;
        self
    }

    /// Bytes a second that are read at most to move them from node to node; `None` is no limit, default 32 MiB. What a
    /// write waits for, at the end of a move, is not limited.
    pub fn move_rate(mut self, bytes_per_second: impl Into<Option<u64>>) -> Self {
        self.move_rate = bytes_per_second.into();
        self
    }

    /// What happens to the keys of a node that is given up, having died more often than [`Builder::restart_policy`] allows.
    /// Default [`Heal::TakeOver`]: the others take its arcs over, and it is removed; its keys answer `NodeDown` until then. It
    /// can be watched ([`Nodes::events`](crate::Nodes::events)) and cancelled ([`Nodes::change`](crate::Nodes::change)). Where
    /// no other node serves, or another change is under way, it waits for one, or for its end.
    pub fn heal(mut self, heal: Heal) -> Self {
        self.heal = heal;
        self
    }

    /// Calls `hook` before and after every message is handled; a panic of the hook is a panic of the handler.
    #[doc(hidden)]
    pub fn fault_hook(mut self, hook: FaultHook) -> Self {
        self.fault_hook = Some(hook);
        self
    }

    /// Keeps the journal and the manifest on `disk` instead of in the directory. The trees stay where they are.
    #[doc(hidden)]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = Some(disk);
        self
    }

    /// Keeps the journal of directory `number` on `disk` instead of in the directory. The trees stay where they are.
    #[doc(hidden)]
    pub fn disk_of(mut self, number: u8, disk: Arc<dyn Disk>) -> Self {
        self.more_disks.push((number, disk));
        self
    }

    /// Puts something around each store that is opened.
    #[doc(hidden)]
    pub fn store_hook(mut self, hook: StoreHook) -> Self {
        self.store_hook = Some(hook);
        self
    }

    /// Opens the engine: creates the directory, or recovers it. Runs on a thread of its own, so that an executor is
    /// not blocked. Dropping the future lets the opening finish and closes the engine again.
    ///
    /// # Errors
    ///
    /// `InvalidOption`, `SettingsMismatch`, `DirectoryInUse`, `NewerFormat`, `CorruptManifest`, `CorruptJournal`,
    /// `CorruptTree`, `ForeignDirectory` (it is not empty and holds no engine), `DirectoryMissing` and `DirectoryBehind` (one
    /// of several), `NoEngine`, `DiskFull` and `Io`.
    pub async fn open(self) -> Result<Mailring> {
        offload("open", move || self.open_blocking()).await
    }

    /// [`Builder::open`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Builder::open`].
    pub fn open_blocking(self) -> Result<Mailring> {
        self.check()?;
        open::open(self)
    }

    fn check(&self) -> Result<()> {
        let refuse = |option, value: String, reason| {
            Err(Error::InvalidOption {
                option,
                value,
                reason,
            })
        };
        if self.memory_budget < 32 * MIB {
            return refuse(
                "memory_budget",
                self.memory_budget.to_string(),
                "at least 32 MiB are needed",
            );
        }
        if self.cache_share() > self.memory_budget / 4 * 3 {
            return refuse(
                "cache_bytes",
                self.cache_share().to_string(),
                "the cache may take three quarters of the memory budget",
            );
        }
        if let Durability::Interval(interval) = self.durability
            && interval < TICK
        {
            return refuse(
                "durability",
                format!("Interval({interval:?})"),
                "the clock looks every 10 ms whether a force is due; take at least that, or `Always`",
            );
        }
        if self.mailbox_capacity == 0 {
            return refuse(
                "mailbox_capacity",
                "0".into(),
                "a node needs room for at least one request",
            );
        }
        if self.arbiters == 0 || self.arbiters > 256 {
            return refuse(
                "arbiters",
                self.arbiters.to_string(),
                "1 to 256 threads are possible",
            );
        }
        if !(1..=MAX_WATCH_CAPACITY).contains(&self.watch_capacity) {
            return refuse(
                "watch_capacity",
                self.watch_capacity.to_string(),
                "a watch has room for 1 to 1,048,576 groups",
            );
        }
        if self.move_rate == Some(0) {
            return refuse(
                "move_rate",
                "0".into(),
                "nothing would ever move; `None` is no limit",
            );
        }
        if self.segment_bytes < MIB as u64 || self.segment_bytes > 1 << 32 {
            return refuse(
                "segment_bytes",
                self.segment_bytes.to_string(),
                "1 MiB to 4 GiB are possible",
            );
        }
        if !self.create && matches!(self.place, Place::Memory) {
            return refuse(
                "create",
                "false".into(),
                "an engine in memory is always new",
            );
        }
        if !self.directories.is_empty() && matches!(self.place, Place::Memory) {
            return refuse(
                "directory",
                self.directories[0].display().to_string(),
                "an engine in memory has none",
            );
        }
        if self.max_lease.is_zero() || self.max_lease > MAX_MAX_LEASE {
            return refuse(
                "max_lease",
                format!("{:?}", self.max_lease),
                "a lease lasts longer than nothing and up to an hour",
            );
        }
        Restarts::new(self.restart_policy)?;
        if self.checkpoint_share() > self.generations_share() {
            return refuse(
                "checkpoint_bytes",
                self.checkpoint_share().to_string(),
                "a checkpoint must begin before the generations' part of the memory budget is full",
            );
        }
        Ok(())
    }

    pub(crate) fn cache_share(&self) -> usize {
        self.cache_bytes.unwrap_or(self.memory_budget / 2)
    }

    /// The blocks of the trees get a fifth of the cache; rows, which save the tree altogether, the rest.
    pub(crate) fn block_cache_share(&self) -> usize {
        self.cache_share() / 5
    }

    pub(crate) fn row_cache_share(&self) -> usize {
        self.cache_share() - self.block_cache_share()
    }

    /// The most that the trees may hold of their indexes and filters, at the expense of rows.
    pub(crate) fn index_share(&self) -> usize {
        self.cache_share() / 2
    }

    pub(crate) fn in_flight_share(&self) -> usize {
        self.memory_budget / 8
    }

    pub(crate) fn open_transactions_share(&self) -> usize {
        self.memory_budget / 16
    }

    /// What the others leave is for generations, but for an eighth, which is for what watches have not read yet.
    fn rest(&self) -> usize {
        let others = self.cache_share() + self.in_flight_share() + self.open_transactions_share();
        self.memory_budget - others
    }

    pub(crate) fn watch_share(&self) -> usize {
        self.rest() / 8
    }

    pub(crate) fn generations_share(&self) -> usize {
        self.rest() - self.watch_share()
    }

    pub(crate) fn checkpoint_share(&self) -> usize {
        self.checkpoint_bytes
            .unwrap_or(self.generations_share() / 4)
    }

    pub(crate) fn arc_bits_for(&self, weights: &[u32]) -> u32 {
        self.arc_bits
            .unwrap_or_else(|| recommended_arc_bits(weights))
    }
}

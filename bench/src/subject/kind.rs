//! The subjects of this build by name, and how each is opened.

use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::group_commit::Grouped;
use super::{Durability, Opened, Running, Settings, Store, Threaded, force_by_interval};
use super::{actix_log, dashmap, log, mailring, nothing};
use crate::{Fault, Result};

/// The name of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// mailring.
    Mailring,
    /// mailring with transactions that lock what they read, in key order.
    MailringLocking,
    /// fjall, a force for each put.
    #[cfg(feature = "fjall")]
    Fjall,
    /// fjall behind a group-commit thread.
    #[cfg(feature = "fjall")]
    FjallGroup,
    /// redb, a transaction for each put.
    #[cfg(feature = "redb")]
    Redb,
    /// redb, a transaction for each group.
    #[cfg(feature = "redb")]
    RedbGroup,
    /// RocksDB with its own group commit.
    #[cfg(feature = "rocksdb")]
    Rocksdb,
    /// RocksDB behind a group-commit thread.
    #[cfg(feature = "rocksdb")]
    RocksdbGroup,
    /// LMDB, a transaction for each put.
    #[cfg(feature = "lmdb")]
    Lmdb,
    /// LMDB, a transaction for each group.
    #[cfg(feature = "lmdb")]
    LmdbGroup,
    /// surrealkv, which is async and groups by itself.
    #[cfg(feature = "surrealkv")]
    Surrealkv,
    /// sled, a flush for each put.
    #[cfg(feature = "sled")]
    Sled,
    /// sled behind a group-commit thread: one flush for each group.
    #[cfg(feature = "sled")]
    SledGroup,
    /// fjall with optimistic transactions.
    #[cfg(feature = "fjall")]
    FjallOptimistic,
    /// fjall with transactions of one writer at a time.
    #[cfg(feature = "fjall")]
    FjallSingleWriter,
    /// The same behind a thread that puts all that wait into one transaction.
    #[cfg(feature = "fjall")]
    FjallSingleWriterGroup,
    /// RocksDB's TransactionDB, which locks.
    #[cfg(feature = "rocksdb")]
    RocksdbTransaction,
    /// RocksDB's OptimisticTransactionDB, which validates.
    #[cfg(feature = "rocksdb")]
    RocksdbOptimistic,
    /// Transactions on one thread, in memory, before a bare log: the ceiling of durable transactions.
    Serial,
    /// Redis, for its locks: SET NX PX, and a script that compares and deletes.
    #[cfg(feature = "redis")]
    Redis,
    /// The same by clients that do not wait for the answer of an unlock: they read it with that of the next lock.
    #[cfg(feature = "redis")]
    RedisPipelined,
    /// A hash map in memory: the ceiling of point reads.
    Dashmap,
    /// A bare preallocated log behind a group-commit thread, no checksum, no store: the ceiling of durable puts.
    Log,
    /// The same log under actix, and the actor forces: all that has come in while the last force ran.
    LogActix,
    /// The same log under actix, and a thread beside the actor forces.
    LogActixThread,
    /// The same bytes overwritten and forced, by the client itself: what the disk takes for a lone put.
    Raw,
    /// A subject that does nothing: what the harness itself costs.
    Nothing,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name())
    }
}

impl Kind {
    /// The subject that is judged unless told otherwise.
    pub(crate) fn under_test() -> Self {
        Self::value_variants()[0]
    }

    /// Whom a comparison of a workload takes: everything of this build that can be read back.
    pub(crate) fn usual_peers() -> Vec<Self> {
        let readable = |kind: &Self| kind.keeps_records() && *kind != Self::Nothing;
        Self::value_variants()
            .iter()
            .copied()
            .filter(readable)
            .collect()
    }

    /// Whom a comparison of a workload with transactions takes.
    pub(crate) fn usual_banks() -> Vec<Self> {
        let kinds = Self::value_variants().iter().copied();
        kinds
            .filter(|kind| kind.has_transactions() && *kind != Self::Raw)
            .collect()
    }

    /// Whom a comparison of locks takes.
    pub(crate) fn usual_lockers() -> Vec<Self> {
        let kinds = Self::value_variants().iter().copied();
        kinds.filter(|kind| kind.has_locks()).collect()
    }

    /// Whether it takes the workloads of records, and what was put can be read back.
    pub(crate) fn keeps_records(self) -> bool {
        match self {
            #[cfg(feature = "fjall")]
            Self::FjallOptimistic | Self::FjallSingleWriter | Self::FjallSingleWriterGroup => false,
            #[cfg(feature = "rocksdb")]
            Self::RocksdbTransaction | Self::RocksdbOptimistic => false,
            #[cfg(feature = "redis")]
            Self::Redis | Self::RedisPipelined => false,
            Self::MailringLocking | Self::Serial | Self::Raw => false,
            _ if self.is_log() => false,
            _ => true,
        }
    }

    /// Whether it takes the workloads with transactions.
    pub(crate) fn has_transactions(self) -> bool {
        match self {
            #[cfg(feature = "fjall")]
            Self::FjallOptimistic | Self::FjallSingleWriter | Self::FjallSingleWriterGroup => true,
            #[cfg(feature = "rocksdb")]
            Self::RocksdbTransaction | Self::RocksdbOptimistic => true,
            #[cfg(feature = "redb")]
            Self::Redb | Self::RedbGroup => true,
            #[cfg(feature = "lmdb")]
            Self::Lmdb | Self::LmdbGroup => true,
            #[cfg(feature = "surrealkv")]
            Self::Surrealkv => true,
            Self::Mailring | Self::MailringLocking | Self::Serial | Self::Raw => true,
            _ => false,
        }
    }

    /// Whether many programs share a transaction by a thread that this bench has put in front, or there is no store
    /// behind it: no store does as much by itself.
    pub(crate) fn is_contrived(self) -> bool {
        match self {
            #[cfg(feature = "fjall")]
            Self::FjallSingleWriterGroup => true,
            #[cfg(feature = "redb")]
            Self::RedbGroup => true,
            #[cfg(feature = "lmdb")]
            Self::LmdbGroup => true,
            _ => matches!(self, Self::Serial | Self::Raw),
        }
    }

    /// Whether it is mailring, however it is used.
    pub(crate) fn is_mailring(self) -> bool {
        matches!(self, Self::Mailring | Self::MailringLocking)
    }

    /// Whether it is a log that can't be read.
    pub(crate) fn is_log(self) -> bool {
        matches!(self, Self::Log | Self::LogActix | Self::LogActixThread)
    }

    /// Whether it can be put to, read back or not.
    pub(crate) fn takes_puts(self) -> bool {
        self.keeps_records() || self.is_log() || self == Self::Raw
    }

    /// Whether it has named locks.
    pub(crate) fn has_locks(self) -> bool {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis | Self::RedisPipelined => true,
            _ => self == Self::Mailring,
        }
    }

    /// The name, as on the command line and in tables.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether it keeps anything on disk that can be read back.
    pub(crate) fn stores(self) -> bool {
        self.keeps_records() && !matches!(self, Self::Dashmap | Self::Nothing)
    }

    /// Whether it can be scanned in key order.
    pub(crate) fn scans(self) -> bool {
        self.stores() || self == Self::Nothing
    }

    /// How many clients load it. A store with one writer should gain nothing from a second; RocksDB writes from
    /// several threads, and the loaders of mailring share forces. Chosen by that argument, not by a measurement.
    pub(crate) fn loaders(self) -> u64 {
        match self {
            Self::Mailring => 4,
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb | Self::RocksdbGroup => 2,
            _ => 1,
        }
    }

    /// How it is opened for a load that is to be durable at the end. A batch of mailring is durable when it is
    /// answered, and several loaders share a force; the others write without forcing and force once at the end.
    pub(crate) fn load_durability(self) -> Durability {
        match self {
            Self::Mailring => Durability::Always,
            _ => Durability::None,
        }
    }

    /// Whether a path under its directory is a journal, which the bytes on disk leave out for all: preallocated or
    /// recycled segments say nothing about the data.
    pub(crate) fn is_journal(self, path: &Path) -> bool {
        let has = |extension: &str| path.extension().is_some_and(|own| own == extension);
        match self {
            Self::Mailring => has("seg"),
            #[cfg(feature = "fjall")]
            Self::Fjall | Self::FjallGroup => has("jnl"),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb | Self::RocksdbGroup => has("log"),
            _ => false,
        }
    }
}

fn threaded<S: Store>(store: S, settings: &Settings, runtime: &Arc<Runtime>) -> Box<dyn Opened> {
    let store = Arc::new(store);
    if settings.durability == Durability::Interval {
        force_by_interval(Arc::downgrade(&store));
    }
    Box::new(Running {
        subject: Threaded(store),
        runtime: runtime.clone(),
    })
}

fn grouped<S: Store>(store: S, settings: &Settings, runtime: &Arc<Runtime>) -> Box<dyn Opened> {
    let store = Arc::new(store);
    if settings.durability == Durability::Interval {
        force_by_interval(Arc::downgrade(&store));
    }
    Box::new(Running {
        subject: Grouped::new(store),
        runtime: runtime.clone(),
    })
}

/// Puts the name of a subject in front of what went wrong with it.
pub(crate) fn blame(kind: Kind) -> impl Fn(Fault) -> Fault {
    move |fault| Fault::from(format!("{kind}: {fault}"))
}

/// Opens a subject, and creates its directory if there is none.
///
/// # Errors
///
/// What the subject says.
pub(crate) fn open(
    kind: Kind,
    settings: &Settings,
    runtime: &Arc<Runtime>,
) -> Result<Box<dyn Opened>> {
    if kind.stores() || kind.is_log() || kind == Kind::Raw {
        std::fs::create_dir_all(&settings.dir)?;
    }
    Ok(match kind {
        Kind::Mailring => {
            let subject = runtime.block_on(mailring::Ring::open(settings))?;
            Box::new(Running {
                subject,
                runtime: runtime.clone(),
            })
        }
        #[cfg(feature = "fjall")]
        Kind::Fjall => threaded(super::fjall::Fjall::open(settings)?, settings, runtime),
        #[cfg(feature = "fjall")]
        Kind::FjallGroup => grouped(super::fjall::Fjall::open(settings)?, settings, runtime),
        #[cfg(feature = "redb")]
        Kind::Redb => threaded(super::redb::Redb::open(settings)?, settings, runtime),
        #[cfg(feature = "redb")]
        Kind::RedbGroup => grouped(super::redb::Redb::open(settings)?, settings, runtime),
        #[cfg(feature = "rocksdb")]
        Kind::Rocksdb => threaded(super::rocksdb::RocksDb::open(settings)?, settings, runtime),
        #[cfg(feature = "rocksdb")]
        Kind::RocksdbGroup => grouped(super::rocksdb::RocksDb::open(settings)?, settings, runtime),
        #[cfg(feature = "lmdb")]
        Kind::Lmdb => threaded(super::lmdb::Lmdb::open(settings)?, settings, runtime),
        #[cfg(feature = "lmdb")]
        Kind::LmdbGroup => grouped(super::lmdb::Lmdb::open(settings)?, settings, runtime),
        #[cfg(feature = "sled")]
        Kind::Sled => threaded(super::sled::Sled::open(settings)?, settings, runtime),
        #[cfg(feature = "sled")]
        Kind::SledGroup => grouped(super::sled::Sled::open(settings)?, settings, runtime),
        #[cfg(feature = "surrealkv")]
        Kind::Surrealkv => {
            let subject = runtime.block_on(super::surrealkv::Surreal::open(settings))?;
            Box::new(Running {
                subject,
                runtime: runtime.clone(),
            })
        }
        Kind::Dashmap => threaded(dashmap::InMemory::default(), settings, runtime),
        Kind::Log => grouped(
            log::BareLog::open(settings, log::LOG_BYTES)?,
            settings,
            runtime,
        ),
        Kind::LogActix | Kind::LogActixThread => {
            let log = log::BareLog::open(settings, log::LOG_BYTES)?;
            let forcing = match kind {
                Kind::LogActix => actix_log::Forcing::InPlace,
                _ => actix_log::Forcing::OnThread,
            };
            Box::new(Running {
                subject: actix_log::ActixLog::start(log, forcing)?,
                runtime: runtime.clone(),
            })
        }
        Kind::Raw => threaded(log::BareLog::open(settings, 1)?, settings, runtime),
        Kind::Nothing => threaded(nothing::Nothing, settings, runtime),
        other => {
            let complaint = "takes no workload of records";
            return Err(Fault::from(format!("{other} {complaint}")));
        }
    })
}

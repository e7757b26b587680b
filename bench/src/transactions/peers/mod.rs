//! The stores that have transactions, by name.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::group::Grouped;
use super::{Bank, Economy, Ledger, OpenedBank, Threaded, Transactor};
use crate::subject::{Kind, Settings};
use crate::{Fault, Result};

#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "lmdb")]
mod lmdb;
mod mailring;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod serial;
#[cfg(feature = "surrealkv")]
mod surrealkv;

/// Opens a store in its directory, which must be there.
///
/// # Errors
///
/// What the store says; if the subject has no transactions.
pub(crate) fn open(
    kind: Kind,
    settings: &Settings,
    economy: &Arc<Economy>,
    runtime: &Arc<Runtime>,
) -> Result<Box<dyn OpenedBank>> {
    struct Ready<'a>(&'a Arc<Economy>, &'a Arc<Runtime>);
    impl Ready<'_> {
        fn bank(&self, transactor: impl Transactor) -> Result<Box<dyn OpenedBank>> {
            Ok(Box::new(Bank::new(transactor, self.0, self.1)))
        }
        fn threaded(&self, ledger: impl Ledger) -> Result<Box<dyn OpenedBank>> {
            self.bank(Threaded::new(ledger))
        }
        fn grouped(&self, ledger: impl Ledger) -> Result<Box<dyn OpenedBank>> {
            self.bank(Grouped::new(ledger))
        }
    }
    let ready = Ready(economy, runtime);
    std::fs::create_dir_all(&settings.dir)?;
    match kind {
        Kind::Mailring => ready.bank(runtime.block_on(mailring::Ring::open(settings))?),
        Kind::MailringLocking => ready.bank(mailring::Locking(
            runtime.block_on(mailring::Ring::open(settings))?,
        )),
        #[cfg(feature = "fjall")]
        Kind::FjallOptimistic => ready.threaded(fjall::Optimistic::open(settings)?),
        #[cfg(feature = "fjall")]
        Kind::FjallSingleWriter => ready.threaded(fjall::SingleWriter::open(settings)?),
        #[cfg(feature = "fjall")]
        Kind::FjallSingleWriterGroup => ready.grouped(fjall::SingleWriter::open(settings)?),
        #[cfg(feature = "redb")]
        Kind::Redb => ready.threaded(redb::Redb::open(settings)?),
        #[cfg(feature = "redb")]
        Kind::RedbGroup => ready.grouped(redb::Redb::open(settings)?),
        #[cfg(feature = "rocksdb")]
        Kind::RocksdbTransaction => ready.threaded(rocksdb::Pessimistic::open(settings)?),
        #[cfg(feature = "rocksdb")]
        Kind::RocksdbOptimistic => ready.threaded(rocksdb::Optimistic::open(settings)?),
        #[cfg(feature = "lmdb")]
        Kind::Lmdb => ready.threaded(lmdb::Lmdb::open(settings)?),
        #[cfg(feature = "lmdb")]
        Kind::LmdbGroup => ready.grouped(lmdb::Lmdb::open(settings)?),
        #[cfg(feature = "surrealkv")]
        Kind::Surrealkv => ready.bank(runtime.block_on(surrealkv::Surreal::open(settings))?),
        Kind::Serial => ready.grouped(serial::Serial::open(settings, serial::LOG_BYTES)?),
        Kind::Raw => ready.threaded(serial::Serial::open(settings, 1)?),
        other => Err(Fault::from(format!("{other} has no transactions here"))),
    }
}

//! RocksDB with transactions, of both kinds. `TransactionDB` locks each key as it reads it, in key order, so that no
//! two wait for each other; `OptimisticTransactionDB` validates at commit. Commits of many threads share a force of the
//! write-ahead log, as RocksDB groups them; log files are recycled, and nothing is compressed.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, ErrorKind, OptimisticTransactionDB,
    OptimisticTransactionOptions, Options, Transaction, TransactionDB, TransactionDBOptions,
    TransactionOptions, WriteOptions,
};

use crate::Result;
use crate::subject::{Durability, Settings};
use crate::transactions::program::balance_of;
use crate::transactions::{Effect, Ledger, Program, Refusal, Rows};

type Outcome<T> = std::result::Result<T, Refusal>;

fn options(settings: &Settings) -> Result<Options> {
    let mut table = BlockBasedOptions::default();
    let cache_bytes = usize::try_from(settings.cache_bytes)?;
    table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(usize::try_from(settings.write_buffer_bytes)?);
    options.set_max_write_buffer_number(4);
    options.set_max_background_jobs(2);
    options.set_recycle_log_file_num(4);
    Ok(options)
}

fn write_options(settings: &Settings) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(settings.durability == Durability::Always);
    options
}

/// What of RocksDB's errors means that others were in the way.
fn refusal(error: rocksdb::Error) -> Refusal {
    match error.kind() {
        ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::TryAgain | ErrorKind::Aborted => {
            Refusal::Contention
        }
        _ => Refusal::Fault(error.into()),
    }
}

fn parse(value: Option<impl AsRef<[u8]>>) -> Outcome<Option<i64>> {
    value
        .map(|value| balance_of(value.as_ref()))
        .transpose()
        .map_err(Refusal::Fault)
}

struct Open<'a, D>(Transaction<'a, D>);

impl<D> Rows for Open<'_, D> {
    fn balance(&mut self, key: &[u8]) -> Outcome<Option<i64>> {
        parse(self.0.get_pinned_for_update(key, true).map_err(refusal)?)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        self.0.put(key, value).map_err(refusal)
    }
}

fn attempt<D>(transaction: Transaction<'_, D>, programs: &[Program]) -> Outcome<Vec<Effect>> {
    let mut rows = Open(transaction);
    let effects = programs.iter().map(|program| program.carry_out(&mut rows));
    let effects: Outcome<Vec<Effect>> = effects.collect();
    let effects = effects?;
    rows.0.commit().map_err(refusal)?;
    Ok(effects)
}

/// RocksDB that locks.
pub(crate) struct Pessimistic {
    database: TransactionDB,
    durability: WriteOptions,
}

impl Pessimistic {
    /// # Errors
    ///
    /// What RocksDB says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let mut options = options(settings)?;
        options.set_enable_pipelined_write(true);
        let locking = TransactionDBOptions::default();
        let database = TransactionDB::open(&options, &locking, &settings.dir)?;
        let durability = write_options(settings);
        Ok(Self {
            database,
            durability,
        })
    }
}

impl Ledger for Pessimistic {
    fn attempt(&self, programs: &[Program]) -> Outcome<Vec<Effect>> {
        let locking = TransactionOptions::default();
        attempt(
            self.database.transaction_opt(&self.durability, &locking),
            programs,
        )
    }

    fn read(&self, program: &Program) -> Outcome<Effect> {
        let snapshot = self.database.snapshot();
        let found = program.look(|key| parse(snapshot.get(key)?))?;
        Ok(program.decide(&found).0)
    }
}

/// RocksDB that validates.
pub(crate) struct Optimistic {
    database: OptimisticTransactionDB,
    durability: WriteOptions,
}

impl Optimistic {
    /// # Errors
    ///
    /// What RocksDB says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let database = OptimisticTransactionDB::open(&options(settings)?, &settings.dir)?;
        let durability = write_options(settings);
        Ok(Self {
            database,
            durability,
        })
    }
}

impl Ledger for Optimistic {
    fn attempt(&self, programs: &[Program]) -> Outcome<Vec<Effect>> {
        let validating = OptimisticTransactionOptions::default();
        attempt(
            self.database.transaction_opt(&self.durability, &validating),
            programs,
        )
    }

    fn read(&self, program: &Program) -> Outcome<Effect> {
        let snapshot = self.database.snapshot();
        let found = program.look(|key| parse(snapshot.get(key)?))?;
        Ok(program.decide(&found).0)
    }
}

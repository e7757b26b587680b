//! fjall 3 with transactions, of both kinds: optimistic (serializable snapshot isolation, validated at commit) and with
//! a single writer at a time. A commit persists the journal (`fdatasync`) where it is to be durable.

use fjall::{
    KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace, PersistMode, Readable,
    SingleWriterTxDatabase, SingleWriterTxKeyspace,
};

use crate::Result;
use crate::subject::{Durability, Settings};
use crate::transactions::program::balance_of;
use crate::transactions::{Effect, Ledger, Program, Refusal, Rows};

type Outcome<T> = std::result::Result<T, Refusal>;

fn persist(settings: &Settings) -> Option<PersistMode> {
    (settings.durability == Durability::Always).then_some(PersistMode::SyncData)
}

fn read(
    program: &Program,
    rows: &impl Readable,
    keyspace: &impl AsRef<fjall::Keyspace>,
) -> Outcome<Effect> {
    let found = program.look(|key| balance(rows, keyspace, key))?;
    Ok(program.decide(&found).0)
}

fn balance(
    rows: &impl Readable,
    keyspace: &impl AsRef<fjall::Keyspace>,
    key: &[u8],
) -> Outcome<Option<i64>> {
    let value = rows.get(keyspace.as_ref(), key)?;
    value
        .map(|value| balance_of(&value))
        .transpose()
        .map_err(Refusal::Fault)
}

/// fjall with optimistic transactions.
pub(crate) struct Optimistic {
    database: OptimisticTxDatabase,
    keyspace: OptimisticTxKeyspace,
    persist: Option<PersistMode>,
}

impl Optimistic {
    /// # Errors
    ///
    /// What fjall says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let database = OptimisticTxDatabase::builder(&settings.dir)
            .cache_size(settings.cache_bytes)
            .open()?;
        let write_buffer_bytes = settings.write_buffer_bytes;
        let keyspace = database.keyspace("accounts", || {
            KeyspaceCreateOptions::default().max_memtable_size(write_buffer_bytes)
        })?;
        Ok(Self {
            database,
            keyspace,
            persist: persist(settings),
        })
    }
}

impl Ledger for Optimistic {
    fn attempt(&self, programs: &[Program]) -> Outcome<Vec<Effect>> {
        struct Open<'a>(fjall::OptimisticWriteTx, &'a OptimisticTxKeyspace);
        impl Rows for Open<'_> {
            fn balance(&mut self, key: &[u8]) -> Outcome<Option<i64>> {
                balance(&self.0, self.1, key)
            }
            fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
                self.0.insert(self.1, key, value);
                Ok(())
            }
        }
        let txn = self.database.write_tx()?.durability(self.persist);
        let mut rows = Open(txn, &self.keyspace);
        let effects = programs.iter().map(|program| program.carry_out(&mut rows));
        let effects: Outcome<Vec<Effect>> = effects.collect();
        let effects = effects?;
        match rows.0.commit()? {
            Ok(()) => Ok(effects),
            Err(_conflict) => Err(Refusal::Contention),
        }
    }

    fn read(&self, program: &Program) -> Outcome<Effect> {
        read(program, &self.database.read_tx(), &self.keyspace)
    }
}

/// fjall with one writer at a time.
pub(crate) struct SingleWriter {
    database: SingleWriterTxDatabase,
    keyspace: SingleWriterTxKeyspace,
    persist: Option<PersistMode>,
}

impl SingleWriter {
    /// # Errors
    ///
    /// What fjall says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let database = SingleWriterTxDatabase::builder(&settings.dir)
            .cache_size(settings.cache_bytes)
            .open()?;
        let write_buffer_bytes = settings.write_buffer_bytes;
        let keyspace = database.keyspace("accounts", || {
            KeyspaceCreateOptions::default().max_memtable_size(write_buffer_bytes)
        })?;
        Ok(Self {
            database,
            keyspace,
            persist: persist(settings),
        })
    }
}

impl Ledger for SingleWriter {
    fn attempt(&self, programs: &[Program]) -> Outcome<Vec<Effect>> {
        struct Open<'a>(fjall::SingleWriterWriteTx<'a>, &'a SingleWriterTxKeyspace);
        impl Rows for Open<'_> {
            fn balance(&mut self, key: &[u8]) -> Outcome<Option<i64>> {
                balance(&self.0, self.1, key)
            }
            fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
                self.0.insert(self.1, key, value);
                Ok(())
            }
        }
        let txn = self.database.write_tx().durability(self.persist);
        let mut rows = Open(txn, &self.keyspace);
        let effects = programs.iter().map(|program| program.carry_out(&mut rows));
        let effects: Outcome<Vec<Effect>> = effects.collect();
        let effects = effects?;
        rows.0.commit()?;
        Ok(effects)
    }

    fn read(&self, program: &Program) -> Outcome<Effect> {
        read(program, &self.database.read_tx(), &self.keyspace)
    }
}

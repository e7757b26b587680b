//! LMDB through heed: one writer at a time, on a memory-mapped copy-on-write B-tree, synced at commit where it is to be
//! durable.

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn};

use crate::Result;
use crate::subject::{Durability, Settings};
use crate::transactions::program::balance_of;
use crate::transactions::{Effect, Ledger, Program, Refusal, Rows};

type Outcome<T> = std::result::Result<T, Refusal>;
type Table = Database<'static, Bytes, Bytes>;

/// Address space for the map; the file grows only as it is filled.
const MAP_BYTES: usize = 4 << 30;

/// Threads that may read at once.
const READERS: u32 = 4_096;

/// LMDB with its unnamed database.
pub(crate) struct Lmdb {
    env: Env,
    table: Table,
}

impl Lmdb {
    /// # Errors
    ///
    /// What LMDB says.
    #[allow(unsafe_code)]
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_readers(READERS);
        if settings.durability != Durability::Always {
            // SAFETY: without syncing a crash of the machine may damage the file, which a bench throws away.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the map must not be changed by others. The directory belongs to this subject alone, and the
        // bench opens it once at a time.
        let env = unsafe { options.open(&settings.dir)? };
        let table = env
            .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
                opener
                    .create_database(transaction, None)
                    .map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit();
        Ok(Self { env, table })
    }
}

fn balance(table: &Table, transaction: &RoTxn<'_>, key: &[u8]) -> Outcome<Option<i64>> {
    let value = table.get(transaction, key)?;
    value.map(balance_of).transpose().map_err(Refusal::Fault)
}

struct Open<'a>(RwTxn<'a>, &'a Table);

impl Rows for Open<'_> {
    fn balance(&mut self, key: &[u8]) -> Outcome<Option<i64>> {
        balance(self.1, &self.0, key)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        Ok(self.1.put(&mut self.0, key, value)?)
    }
}

impl Ledger for Lmdb {
    fn attempt(&self, programs: &[Program]) -> Outcome<Vec<Effect>> {
        let mut rows = Open(self.env.write_txn()?, &self.table);
        let effects = programs.iter().map(|program| program.carry_out(&mut rows));
        let effects: Outcome<Vec<Effect>> = effects.collect();
        let effects = effects?;
        rows.0.commit()?;
        Ok(effects)
    }

    fn read(&self, program: &Program) -> Outcome<Effect> {
        let transaction = self.env.read_txn()?;
        let found = program.look(|key| balance(&self.table, &transaction, key))?;
        Ok(program.decide(&found).0)
    }
}

//! redb 4: one writer at a time, on a copy-on-write B-tree, with immediate durability where it is asked for.

use redb::{
    Database, Durability as Force, ReadableDatabase, ReadableTable, Table, TableDefinition,
};

use crate::Result;
use crate::subject::{Durability, Settings};
use crate::transactions::program::balance_of;
use crate::transactions::{Effect, Ledger, Program, Refusal, Rows};

type Outcome<T> = std::result::Result<T, Refusal>;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("accounts");

/// redb with one table.
pub(crate) struct Redb {
    database: Database,
    force: Force,
}

impl Redb {
    /// # Errors
    ///
    /// What redb says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let cache_bytes = usize::try_from(settings.cache_bytes)?;
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create(settings.dir.join("redb"))?;
        let force = match settings.durability {
            Durability::Always => Force::Immediate,
            Durability::Interval | Durability::None => Force::None,
        };
        let transaction = database.begin_write()?;
        drop(transaction.open_table(TABLE)?);
        transaction.commit()?;
        Ok(Self { database, force })
    }
}

fn balance(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Outcome<Option<i64>> {
    let value = table.get(key)?;
    value
        .map(|value| balance_of(value.value()))
        .transpose()
        .map_err(Refusal::Fault)
}

struct Open<'a>(Table<'a, &'static [u8], &'static [u8]>);

impl Rows for Open<'_> {
    fn balance(&mut self, key: &[u8]) -> Outcome<Option<i64>> {
        balance(&self.0, key)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        self.0.insert(key, value)?;
        Ok(())
    }
}

impl Ledger for Redb {
    fn attempt(&self, programs: &[Program]) -> Outcome<Vec<Effect>> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.force)?;
        let effects: Outcome<Vec<Effect>> = {
            let mut rows = Open(transaction.open_table(TABLE)?);
            let effects = programs.iter().map(|program| program.carry_out(&mut rows));
            effects.collect()
        };
        let effects = effects?;
        transaction.commit()?;
        Ok(effects)
    }

    fn read(&self, program: &Program) -> Outcome<Effect> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let found = program.look(|key| balance(&table, key))?;
        Ok(program.decide(&found).0)
    }
}

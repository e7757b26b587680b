//! redb 4: a copy-on-write B-tree in one file, one writer at a time. A put is a transaction with immediate
//! durability; a group is one transaction.

use redb::{Database, Durability as Force, ReadableDatabase, TableDefinition};

use super::{Durability, Entry, Settings, Store, look_at};
use crate::Result;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("usertable");

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
        let redb = Self { database, force };
        redb.write(&[], Force::Immediate)?;
        Ok(redb)
    }

    fn write(&self, entries: &[(&[u8], &[u8])], force: Force) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(force)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in entries {
                table.insert(key, value)?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Store for Redb {
    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| look_at(value.value())))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(&[(key, value)], self.force)
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        let mut entries: Vec<(&[u8], &[u8])> = entries
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
            .collect();
        // A B-tree takes a sorted batch faster. The sort is stable, so the last write of a key stays the last.
        entries.sort_by_key(|(key, _)| *key);
        self.write(&entries, self.force)
    }

    fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut count = 0;
        for entry in table.range(from..)?.take(limit) {
            let (key, value) = entry?;
            count += usize::from(look_at(key.value()) + look_at(value.value()) > 0);
        }
        Ok(count)
    }

    fn sync(&self) -> Result<()> {
        self.write(&[], Force::Immediate)
    }
}

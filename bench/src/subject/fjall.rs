//! fjall 3: an LSM engine with a journal. A put with a force of its own persists the journal (`fdatasync`); a group
//! is one batch, persisted once.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Durability, Entry, Settings, Store, look_at};
use crate::Result;

/// fjall with one keyspace.
pub(crate) struct Fjall {
    database: Database,
    keyspace: Keyspace,
    persist: Option<PersistMode>,
}

impl Fjall {
    /// # Errors
    ///
    /// What fjall says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let database = Database::builder(&settings.dir)
            .cache_size(settings.cache_bytes)
            .open()?;
        let write_buffer_bytes = settings.write_buffer_bytes;
        let keyspace = database.keyspace("usertable", || {
            KeyspaceCreateOptions::default().max_memtable_size(write_buffer_bytes)
        })?;
        let persist = (settings.durability == Durability::Always).then_some(PersistMode::SyncData);
        Ok(Self {
            database,
            keyspace,
            persist,
        })
    }
}

impl Store for Fjall {
    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.keyspace.get(key)?.map(|value| look_at(&value)))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.insert(key, value)?;
        if let Some(mode) = self.persist {
            self.database.persist(mode)?;
        }
        Ok(())
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        let mut batch = self.database.batch().durability(self.persist);
        for (key, value) in entries {
            batch.insert(&self.keyspace, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        let mut count = 0;
        for guard in self.keyspace.range(from..).take(limit) {
            let (key, value) = guard.into_inner()?;
            count += usize::from(look_at(&key) + look_at(&value) > 0);
        }
        Ok(count)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn checkpoint(&self) -> Result<()> {
        Ok(self.keyspace.rotate_memtable_and_wait()?)
    }
}

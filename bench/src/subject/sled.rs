//! sled 0.34: a lock-free tree over a log. A put is flushed before it is answered.

use super::{Durability, Entry, Settings, Store, look_at};
use crate::Result;

/// sled with its default tree.
pub(crate) struct Sled {
    database: sled::Db,
    flushed: bool,
}

impl Sled {
    /// # Errors
    ///
    /// What sled says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let config = sled::Config::new()
            .path(&settings.dir)
            .cache_capacity(settings.cache_bytes)
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput);
        Ok(Self {
            database: config.open()?,
            flushed: settings.durability == Durability::Always,
        })
    }

    fn flush_if_asked(&self) -> Result<()> {
        if self.flushed { self.sync() } else { Ok(()) }
    }
}

impl Store for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.database.get(key)?.map(|value| look_at(&value)))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.database.insert(key, value)?;
        self.flush_if_asked()
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            batch.insert(key.as_slice(), value.as_slice());
        }
        self.database.apply_batch(batch)?;
        self.flush_if_asked()
    }

    fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        let mut count = 0;
        for entry in self.database.range(from..).take(limit) {
            let (key, value) = entry?;
            count += usize::from(look_at(&key) + look_at(&value) > 0);
        }
        Ok(count)
    }

    fn sync(&self) -> Result<()> {
        self.database.flush()?;
        Ok(())
    }
}

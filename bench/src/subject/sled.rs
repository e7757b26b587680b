//! sled 0.34: a lock-free tree over a log. A put is flushed before it is answered; a group is one batch, flushed once.
//!
//! Threads of sled's own may hold a database for a moment after it was dropped, and its directory with it; so who opens it
//! again waits for that.

use std::thread;
use std::time::{Duration, Instant};

use super::{Durability, Entry, Settings, Store, look_at};
use crate::Result;

/// How long a database that was dropped may keep its directory.
const RELEASED_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether it still does.
const LOOK_EVERY: Duration = Duration::from_millis(1);

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
        let give_up = Instant::now() + RELEASED_WITHIN;
        let database = loop {
            match config.open() {
                Err(sled::Error::Io(error))
                    if error.to_string().contains("could not acquire lock")
                        && Instant::now() < give_up =>
                {
                    thread::sleep(LOOK_EVERY);
                }
                opened => break opened?,
            }
        };
        Ok(Self {
            database,
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

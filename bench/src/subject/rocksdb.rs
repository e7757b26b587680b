//! RocksDB with its own group commit: synced writes of many threads share a force of the write-ahead log.
//!
//! Pipelined writes are on, log files are recycled (overwriting is forced faster than appending), a Bloom filter
//! of ten bits serves point reads, and nothing is compressed. Building it needs a C++ compiler and libclang.

use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options};
use rocksdb::{WriteBatch, WriteOptions};

use super::{Durability, Entry, Settings, Store, look_at};
use crate::Result;

/// RocksDB with its default column family.
pub(crate) struct RocksDb {
    database: DB,
    synced: bool,
}

impl RocksDb {
    /// # Errors
    ///
    /// What RocksDB says.
    pub(crate) fn open(settings: &Settings) -> Result<Self> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(usize::try_from(
            settings.cache_bytes,
        )?));
        table.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(usize::try_from(settings.write_buffer_bytes)?);
        options.set_max_write_buffer_number(4);
        options.set_max_background_jobs(2);
        options.set_enable_pipelined_write(true);
        options.set_recycle_log_file_num(4);
        let database = DB::open(&options, &settings.dir)?;
        Ok(Self {
            database,
            synced: settings.durability == Durability::Always,
        })
    }

    fn write_options(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self.synced);
        options
    }
}

impl Store for RocksDb {
    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.database.get_pinned(key)?.map(|value| look_at(&value)))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.database.put_opt(key, value, &self.write_options())?)
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in entries {
            batch.put(key, value);
        }
        Ok(self.database.write_opt(batch, &self.write_options())?)
    }

    fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        let mut count = 0;
        let mut cursor = self.database.raw_iterator();
        cursor.seek(from);
        while let Some((key, value)) = cursor.item().filter(|_| count < limit) {
            count += usize::from(look_at(key) + look_at(value) > 0);
            cursor.next();
        }
        cursor.status()?;
        Ok(count)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.flush_wal(true)?)
    }

    fn checkpoint(&self) -> Result<()> {
        Ok(self.database.flush()?)
    }
}

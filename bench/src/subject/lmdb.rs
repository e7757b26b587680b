//! LMDB through heed: a memory-mapped copy-on-write B-tree, one writer at a time. A put is a synced transaction; a
//! group is one. Reads go straight to the map, which the page cache holds, so a cache size means nothing here.

use std::ops::Bound;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};

use super::{Durability, Entry, Settings, Store, look_at};
use crate::Result;

/// Address space for the map; the file grows only as it is filled.
const MAP_BYTES: usize = 32 << 30;

/// Threads that may read at once.
const READERS: u32 = 4_096;

/// LMDB with its unnamed database.
pub(crate) struct Lmdb {
    env: Env,
    database: Database<'static, Bytes, Bytes>,
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
        let database = env
            .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
                opener
                    .create_database(transaction, None)
                    .map(CommitOrAbort::<_, ()>::Commit)
            })?
            .unwrap_commit();
        Ok(Self { env, database })
    }

    fn write<'a>(&self, entries: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in entries {
            self.database.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }
}

impl Store for Lmdb {
    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        let transaction = self.env.read_txn()?;
        Ok(self.database.get(&transaction, key)?.map(look_at))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(std::iter::once((key, value)))
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        let mut entries: Vec<&Entry> = entries.iter().collect();
        // A B-tree takes a sorted batch faster. The sort is stable, so the last write of a key stays the last.
        entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        self.write(
            entries
                .into_iter()
                .map(|(key, value)| (key.as_slice(), value.as_slice())),
        )
    }

    fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        let transaction = self.env.read_txn()?;
        let mut count = 0;
        let range = (Bound::Included(from), Bound::Unbounded);
        for entry in self.database.range(&transaction, &range)?.take(limit) {
            let (key, value) = entry?;
            count += usize::from(look_at(key) + look_at(value) > 0);
        }
        Ok(count)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }
}

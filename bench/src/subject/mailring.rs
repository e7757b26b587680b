//! mailring itself: async clients, its own group commit, reads without a message.
//!
//! Its memory budget is what a peer gets: the cache, and four write buffers (a peer has one that fills, and some on
//! their way to the disk). A read-modify-write is an atomic `update`, where the peers read and then write.

use std::time::Duration;

use mailring::{Builder, Keyspace, Mailring};

use super::{Durability, Entry, INTERVAL, Inside, Settings, Style, Subject, look_at};
use crate::Result;

/// Memory that is neither cache nor write buffer.
const OTHER_BYTES: u64 = 32 << 20;

/// Longer than any wait that a bench should see as an error: overload must show as latency.
const DEADLINE: Duration = Duration::from_secs(60);

/// mailring with one keyspace.
#[derive(Clone)]
pub(crate) struct Ring {
    database: Mailring,
    keyspace: Keyspace,
    durability: Durability,
}

/// The memory budget that goes with these settings.
pub(super) fn budget_bytes(settings: &Settings) -> u64 {
    settings.cache_bytes + 4 * settings.write_buffer_bytes + OTHER_BYTES
}

/// mailring with these settings.
///
/// # Errors
///
/// If a number is beyond what mailring takes.
pub(crate) fn mailring_with(settings: &Settings) -> Result<Builder> {
    let durability = match settings.durability {
        Durability::Always => mailring::Durability::Always,
        Durability::Interval => mailring::Durability::Interval(INTERVAL),
        Durability::None => mailring::Durability::None,
    };
    let cache_bytes = usize::try_from(settings.cache_bytes)?;
    let write_buffer_bytes = usize::try_from(settings.write_buffer_bytes)?;
    Ok(Mailring::builder(&settings.dir)
        .nodes(u16::try_from(settings.nodes)?)
        .durability(durability)
        .memory_budget(usize::try_from(budget_bytes(settings))?)
        .cache_bytes(cache_bytes)
        .checkpoint_bytes(write_buffer_bytes)
        .deadline(DEADLINE))
}

/// Opens mailring with these settings.
///
/// # Errors
///
/// What mailring says.
pub(crate) async fn open_mailring(settings: &Settings) -> Result<Mailring> {
    Ok(mailring_with(settings)?.open().await?)
}

impl Ring {
    /// # Errors
    ///
    /// What mailring says.
    pub(crate) async fn open(settings: &Settings) -> Result<Self> {
        let database = open_mailring(settings).await?;
        let keyspace = database.keyspace("usertable").await?;
        Ok(Self {
            database,
            keyspace,
            durability: settings.durability,
        })
    }
}

impl Subject for Ring {
    const STYLE: Style = Style::Tasks;

    async fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.keyspace.get(key).await?.map(|value| look_at(&value)))
    }

    async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.keyspace.put(key, value).await?;
        Ok(())
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<()> {
        Ok(self.keyspace.put_many(entries).await?)
    }

    async fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        let mut scan = self.keyspace.scan(from..).limit(limit);
        let mut count = 0;
        while let Some((key, value)) = scan.next().await? {
            count += usize::from(look_at(&key) + look_at(&value) > 0);
        }
        Ok(count)
    }

    /// Every answered write is forced already, or else a checkpoint forces it.
    async fn sync(&self) -> Result<()> {
        match self.durability {
            Durability::Always => Ok(()),
            Durability::Interval | Durability::None => self.checkpoint().await,
        }
    }

    async fn checkpoint(&self) -> Result<()> {
        self.database.checkpoint().await?;
        Ok(())
    }

    async fn read_modify_write(&self, key: &[u8], value: &[u8]) -> Result<bool> {
        let mut found = false;
        let change = |old: Option<&[u8]>| {
            found = old.is_some_and(|old| look_at(old) > 0);
            Some(value.to_vec())
        };
        self.keyspace.update(key, change).await?;
        Ok(found)
    }

    fn inside(&self) -> Option<Inside> {
        let stats = self.database.stats();
        let complete = stats.nodes.iter().map(|node| node.complete_lsn.0).min();
        let complete = complete.unwrap_or(stats.visible_lsn.0);
        Some(Inside {
            checkpoints: stats.checkpoints,
            unwritten_bytes: stats.generation_bytes as u64,
            unwritten_commits: stats.visible_lsn.0.saturating_sub(complete),
            journal_bytes: stats.journal_bytes,
            journal_records: stats.journal_records,
        })
    }

    async fn close(self) -> Result<()> {
        Ok(self.database.shutdown().await?)
    }
}

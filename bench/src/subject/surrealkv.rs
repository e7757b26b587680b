//! surrealkv 1: an LSM engine whose commits are async and grouped by its own pipeline. A put is a transaction with
//! immediate durability. Its transactions validate writes as well, so a put that meets another put of the same key
//! conflicts and is tried again.

use std::sync::Arc;

use surrealkv::{Durability as Force, Error, LSMIterator, Mode, Tree, TreeBuilder};

use super::{Durability, Entry, Settings, Style, Subject, look_at};
use crate::Result;

/// surrealkv with one tree. The tree is shared and not cloned: dropping a clone stops the tree for all.
#[derive(Clone)]
pub(crate) struct Surreal {
    tree: Arc<Tree>,
    force: Force,
}

impl Surreal {
    /// # Errors
    ///
    /// What surrealkv says.
    pub(crate) async fn open(settings: &Settings) -> Result<Self> {
        let tree = TreeBuilder::new()
            .with_path(settings.dir.clone())
            .without_compression()
            .with_block_cache_capacity(settings.cache_bytes)
            .with_max_memtable_size(usize::try_from(settings.write_buffer_bytes)?)
            .build_async()
            .await?;
        let force = match settings.durability {
            Durability::Always => Force::Immediate,
            Durability::Interval | Durability::None => Force::Eventual,
        };
        Ok(Self {
            tree: Arc::new(tree),
            force,
        })
    }
}

impl Surreal {
    async fn write(&self, entries: &[(&[u8], &[u8])]) -> Result<()> {
        loop {
            let transaction = self.tree.begin_with_mode(Mode::WriteOnly)?;
            let mut transaction = transaction.with_durability(self.force);
            for (key, value) in entries {
                transaction.set(*key, *value)?;
            }
            match transaction.commit().await {
                Err(Error::TransactionWriteConflict) => {}
                outcome => return Ok(outcome?),
            }
        }
    }
}

impl Subject for Surreal {
    const STYLE: Style = Style::Tasks;

    async fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        let transaction = self.tree.begin_with_mode(Mode::ReadOnly)?;
        Ok(transaction.get(key)?.map(|value| look_at(&value)))
    }

    async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.write(&[(key, value)]).await
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<()> {
        let entries: Vec<(&[u8], &[u8])> = entries
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
            .collect();
        self.write(&entries).await
    }

    async fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        let transaction = self.tree.begin_with_mode(Mode::ReadOnly)?;
        let mut cursor = transaction.scan(from..)?;
        let mut count = 0;
        let mut valid = cursor.seek_first()?;
        while valid && count < limit {
            let value = cursor.value()?;
            count += usize::from(look_at(cursor.key().user_key()) + look_at(&value) > 0);
            valid = cursor.next()?;
        }
        Ok(count)
    }

    async fn sync(&self) -> Result<()> {
        Ok(self.tree.flush_wal(true)?)
    }

    async fn close(self) -> Result<()> {
        Ok(self.tree.close().await?)
    }
}

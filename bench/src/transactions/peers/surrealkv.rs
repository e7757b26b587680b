//! surrealkv 1: optimistic transactions on an LSM engine whose commits are async and grouped by its own pipeline. Reads
//! are registered (`get_for_update`), so that what was read is validated at commit, as with the other subjects.

use std::sync::Arc;

use surrealkv::{Durability as Force, Error, Mode, Transaction, Tree, TreeBuilder};

use crate::Result;
use crate::subject::{Durability, Settings, Style};
use crate::transactions::program::balance_of;
use crate::transactions::{Effect, Program, Refusal, Rows, Transactor, settle};

type Outcome<T> = std::result::Result<T, Refusal>;

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

    async fn carry_out(&self, program: &Program) -> Outcome<Effect> {
        if program.is_read_only() {
            let transaction = self.tree.begin_with_mode(Mode::ReadOnly)?;
            let found = program.look(|key| parse(transaction.get(key)?))?;
            return Ok(program.decide(&found).0);
        }
        let transaction = self.tree.begin()?.with_durability(self.force);
        let mut rows = Open(transaction);
        let effect = program.carry_out(&mut rows)?;
        match rows.0.commit().await {
            Ok(()) => Ok(effect),
            Err(Error::TransactionWriteConflict | Error::TransactionRetry) => {
                Err(Refusal::Contention)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn parse(value: Option<impl AsRef<[u8]>>) -> Outcome<Option<i64>> {
    value
        .map(|value| balance_of(value.as_ref()))
        .transpose()
        .map_err(Refusal::Fault)
}

struct Open(Transaction);

impl Rows for Open {
    fn balance(&mut self, key: &[u8]) -> Outcome<Option<i64>> {
        parse(self.0.get_for_update(key)?)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        Ok(self.0.set(key, value)?)
    }
}

impl Transactor for Surreal {
    const STYLE: Style = Style::Tasks;

    async fn attempt(&self, program: &Program) -> Result<Option<Effect>> {
        settle(self.carry_out(program).await)
    }

    async fn close(self) -> Result<()> {
        Ok(self.tree.close().await?)
    }
}

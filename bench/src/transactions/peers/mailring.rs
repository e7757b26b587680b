//! mailring's transactions, by hand: begun, read, written and committed, so that attempts and pauses are the same as the
//! peers'. A counter is added to as a service would, with `add`.
//!
//! [`Locking`] is the same with `get_for_update` on all that is read, in key order: what a service does whose keys are hot.

use mailring::{Error, Keyspace, Mailring, Transaction};

use crate::subject::{Settings, Style, open_mailring};
use crate::transactions::program::{Procedure, balance_of};
use crate::transactions::{Effect, Program, Transactor};
use crate::{Fault, Result};

/// mailring with one keyspace.
#[derive(Clone)]
pub(crate) struct Ring {
    database: Mailring,
    keyspace: Keyspace,
}

impl Ring {
    /// # Errors
    ///
    /// What mailring says.
    pub(crate) async fn open(settings: &Settings) -> Result<Self> {
        let database = open_mailring(settings).await?;
        let keyspace = database.keyspace("accounts").await?;
        Ok(Self { database, keyspace })
    }

    async fn carry_out(
        &self,
        program: &Program,
        locks: bool,
    ) -> std::result::Result<Effect, Trouble> {
        if let Procedure::Add(delta) = program.procedure {
            let sum = self.keyspace.add(program.keys[0], delta).await? - delta;
            return Ok(Effect {
                sum,
                lowest: sum,
                delta,
                declined: false,
            });
        }
        let builder = self.database.transaction();
        let txn = if program.is_read_only() {
            builder.read_only().begin()?
        } else {
            builder.begin()?
        };
        let mut found = Vec::with_capacity(program.keys.len());
        if locks && program.reads() && !program.is_read_only() {
            found = self.lock(&txn, program).await?;
        } else if program.reads() {
            for value in txn.get_many(&self.keyspace, &program.keys).await? {
                let value = value.ok_or_else(|| Fault::from("a row is missing"))?;
                found.push(balance_of(&value)?);
            }
        }
        let (effect, values) = program.decide(&found);
        if values.is_empty() {
            return Ok(effect);
        }
        for (key, value) in values {
            txn.put(&self.keyspace, key, value).await?;
        }
        txn.commit().await?;
        Ok(effect)
    }
}

impl Ring {
    /// Locks and reads the keys in their order, so that no deadlock comes of it; the balances stand as the program has them.
    async fn lock(
        &self,
        txn: &Transaction,
        program: &Program,
    ) -> std::result::Result<Vec<i64>, Trouble> {
        let mut found = vec![0; program.keys.len()];
        for place in program.places_in_key_order() {
            let value = txn.get_for_update(&self.keyspace, program.keys[place]);
            let value = value.await?;
            let value = value.ok_or_else(|| Fault::from("a row is missing"))?;
            found[place] = balance_of(&value)?;
        }
        Ok(found)
    }

    async fn attempt_with(&self, program: &Program, locks: bool) -> Result<Option<Effect>> {
        match self.carry_out(program, locks).await {
            Ok(effect) => Ok(Some(effect)),
            Err(Trouble::Ring(
                Error::Conflict { .. } | Error::Aborted { .. } | Error::Overloaded { .. },
            )) => Ok(None),
            Err(Trouble::Ring(error)) => Err(error.into()),
            Err(Trouble::Other(fault)) => Err(fault),
        }
    }
}

/// mailring whose transactions lock what they read.
#[derive(Clone)]
pub(crate) struct Locking(pub(crate) Ring);

/// What can end an attempt.
enum Trouble {
    Ring(Error),
    Other(Fault),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Ring(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Other(fault)
    }
}

impl Transactor for Ring {
    const STYLE: Style = Style::Tasks;

    async fn attempt(&self, program: &Program) -> Result<Option<Effect>> {
        self.attempt_with(program, false).await
    }

    fn forces(&self) -> Option<u64> {
        Some(self.database.stats().journal_forces)
    }

    async fn close(self) -> Result<()> {
        Ok(self.database.shutdown().await?)
    }
}

impl Transactor for Locking {
    const STYLE: Style = Ring::STYLE;

    async fn attempt(&self, program: &Program) -> Result<Option<Effect>> {
        self.0.attempt_with(program, true).await
    }

    fn forces(&self) -> Option<u64> {
        self.0.forces()
    }

    async fn close(self) -> Result<()> {
        self.0.close().await
    }
}

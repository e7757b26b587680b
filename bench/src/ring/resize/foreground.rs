//! The clients that go on while the ring changes: gets and puts of records, and transfers between accounts.
//!
//! Each operation is kept as a sample, so that it can be counted to a change afterwards by when it ran, whatever the
//! changes take. Every client also has durable writes to wait for, so there are not too many.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mailring::{Builder, Keyspace, Mailring};
use serde::Serialize;

use crate::distribution::Rng;
use crate::driver::Work;
use crate::subject::look_at;
use crate::tally::Done;
use crate::workload::{Records, Shape};
use crate::{Fault, Result};

/// Accounts of the transfers.
const ACCOUNTS: u64 = 10_000;

/// What each account begins with.
const DEPOSIT: i64 = 1_000;

/// Pairs of one batch while everything is loaded.
const BATCH: u64 = 1_000;

/// Out of 100 operations so many are gets, and so many puts; the rest are transfers.
const GETS: u64 = 50;
const PUTS: u64 = 40;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Reads a record.
    Get,
    /// Writes a record.
    Put,
    /// Moves money from one account to another, in a transaction.
    Transfer,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Get, Self::Put, Self::Transfer];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Transfer => "transfer",
        }
    }
}

/// An operation that has ended. Times are microseconds; those of the run begin with its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) kind: Kind,
    pub(crate) ended_us: u32,
    pub(crate) took_us: f32,
}

/// What the clients share.
pub(crate) struct Foreground {
    db: Mailring,
    records: Keyspace,
    accounts: Keyspace,
    shape: Shape,
    seed: u64,
    clock: Instant,
    is_over: AtomicBool,
    samples: Mutex<Vec<Sample>>,
}

impl Foreground {
    /// Opens an engine and fills it.
    ///
    /// # Errors
    ///
    /// What mailring says.
    pub(crate) async fn open(builder: Builder, shape: Shape, seed: u64) -> Result<Self> {
        let db = builder.open().await?;
        let records = db.keyspace("records").await?;
        let accounts = db.keyspace("accounts").await?;
        let mut entries = Records::new(shape, seed, 0);
        for first in (0..shape.records).step_by(BATCH as usize) {
            let last = shape.records.min(first + BATCH);
            let pairs = (first..last).map(|record| {
                let (key, value) = entries.entry(record);
                (key.to_vec(), value.to_vec())
            });
            records.put_many(pairs).await?;
        }
        for first in (0..ACCOUNTS).step_by(BATCH as usize) {
            let pairs =
                (first..first + BATCH).map(|number| (account(number), DEPOSIT.to_le_bytes()));
            accounts.put_many(pairs).await?;
        }
        db.checkpoint().await?;
        Ok(Self {
            db,
            records,
            accounts,
            shape,
            seed,
            clock: Instant::now(),
            is_over: AtomicBool::new(false),
            samples: Mutex::default(),
        })
    }

    pub(crate) fn db(&self) -> &Mailring {
        &self.db
    }

    pub(crate) fn records(&self) -> &Keyspace {
        &self.records
    }

    /// Microseconds since the clock of the run began.
    pub(crate) fn now_us(&self) -> u32 {
        u32::try_from(self.clock.elapsed().as_micros()).unwrap_or(u32::MAX)
    }

    /// Begins the run.
    pub(crate) fn client(self: &Arc<Self>, number: u64) -> Client {
        Client {
            shared: Arc::clone(self),
            rng: Rng::new(self.seed, number),
            entries: Records::new(self.shape, self.seed, number + 1),
            last: Kind::Get,
            samples: Vec::new(),
        }
    }

    /// Every client ends what it does, and begins nothing more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// All operations, when all clients have ended.
    pub(crate) fn take_samples(&self) -> Vec<Sample> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut samples)
    }

    async fn transfer(&self, from: u64, to: u64) -> Result<()> {
        let (from, to) = (&account(from), &account(to));
        let done = self.db.transact(|txn| async move {
            txn.get(&self.accounts, from).await?;
            txn.add(&self.accounts, from, -1).await?;
            txn.add(&self.accounts, to, 1).await
        });
        done.await?;
        Ok(())
    }

    /// Every record is there once, and all the money.
    ///
    /// # Errors
    ///
    /// If not, and what mailring says.
    pub(crate) async fn audit(&self) -> Result<()> {
        let snapshot = self.db.snapshot()?;
        let found = snapshot.scan(&self.records, ..).count().await? as u64;
        if found != self.shape.records {
            let records = self.shape.records;
            return Err(format!("{found} records are there, {records} were put").into());
        }
        let (mut money, mut balances) = (0, snapshot.scan(&self.accounts, ..));
        while let Some((_, balance)) = balances.next().await? {
            money += i64::from_le_bytes(balance.as_ref().try_into()?);
        }
        let all = ACCOUNTS as i64 * DEPOSIT;
        match money == all {
            true => Ok(()),
            false => Err(format!("{money} is in the accounts, {all} was paid in").into()),
        }
    }
}

fn account(number: u64) -> String {
    format!("account-{number:06}")
}

/// One client.
pub(crate) struct Client {
    shared: Arc<Foreground>,
    rng: Rng,
    entries: Records,
    last: Kind,
    samples: Vec<Sample>,
}

impl Work for Client {
    async fn step(&mut self) -> Result<Done> {
        let Self {
            shared,
            rng,
            entries,
            ..
        } = self;
        let record = rng.below(shared.shape.records);
        self.last = match rng.below(100) {
            percent if percent < GETS => {
                let value = shared.records.get(entries.key(record)).await?;
                let value = value.ok_or_else(|| Fault::from("a loaded record is missing"))?;
                look_at(&value);
                Kind::Get
            }
            percent if percent < GETS + PUTS => {
                let (key, value) = entries.entry(record);
                shared.records.put(key, value).await?;
                Kind::Put
            }
            _ => {
                let from = rng.below(ACCOUNTS);
                let to = (from + 1 + rng.below(ACCOUNTS - 1)) % ACCOUNTS;
                shared.transfer(from, to).await?;
                Kind::Transfer
            }
        };
        Ok(Done {
            found: 1,
            ..Done::default()
        })
    }

    fn timed(&mut self, latency_ns: u64) {
        self.samples.push(Sample {
            kind: self.last,
            ended_us: self.shared.now_us(),
            took_us: latency_ns as f32 / 1e3,
        });
    }

    fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::Relaxed)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let shared = self.shared.samples.lock();
        shared
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut self.samples);
    }
}

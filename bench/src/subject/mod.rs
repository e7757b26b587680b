//! What can be measured: mailring and its peers, behind one small trait.
//!
//! [`Subject`] is what the driver asks. A blocking store implements the smaller [`Store`] and becomes a subject in
//! one of two ways: [`Threaded`], a thread a client, each call as the store does it; or `Grouped`, with a
//! group-commit thread in front, so that many clients share one force (the line with `+group` in the tables).
//!
//! A peer gets its best honest settings: what "durable" means is the same for all (forced before the answer), the
//! cache has the same size, the write buffer too, and no store compresses, since the values are random bytes.
//!
//! A plain build knows mailring, fjall, redb, dashmap and the bare log; RocksDB, LMDB, surrealkv and sled come with the cargo
//! feature of that name.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::driver::{Progress, drive};
use crate::operations::{Job, Operations};
use crate::tally::Outcome;
use crate::workload::{Population, Records, Shape};
use crate::{Fault, Result};

mod actix_log;
mod dashmap;
#[cfg(feature = "fjall")]
mod fjall;
mod group_commit;
mod kind;
#[cfg(feature = "lmdb")]
mod lmdb;
mod log;
mod mailring;
mod nothing;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sled")]
mod sled;
#[cfg(feature = "surrealkv")]
mod surrealkv;

pub(crate) use kind::{Kind, blame, open};
pub(crate) use mailring::{mailring_with, open_mailring};

/// Records a batch of a load.
const LOAD_BATCH: u64 = 1_000;

/// Tasks that read all records once.
const TOUCHERS: u64 = 2;

/// How often a store with [`Durability::Interval`] is forced.
const INTERVAL: Duration = Duration::from_millis(100);

/// A key and a value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// What the clients of a subject are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Tasks of one runtime.
    Tasks,
    /// Threads, since a call blocks.
    Threads,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// After it has been forced to the disk.
    Always,
    /// At once; forced ten times a second.
    Interval,
    /// At once; forced when somebody asks.
    None,
}

/// How a subject is opened.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The directory, of this subject alone.
    pub(crate) dir: PathBuf,
    /// When a write is answered.
    pub(crate) durability: Durability,
    /// Memory for cached reads.
    pub(crate) cache_bytes: u64,
    /// Memory for writes before they go to sorted files.
    pub(crate) write_buffer_bytes: u64,
    /// Storage nodes, where the subject has any.
    pub(crate) nodes: u32,
}

impl Settings {
    /// In words: what all subjects get, and what mailring makes of it.
    pub(crate) fn words(&self) -> String {
        let durability = match self.durability {
            Durability::Always => "forced before the answer",
            Durability::Interval => "forced ten times a second",
            Durability::None => "not forced",
        };
        let mib = |bytes: u64| bytes >> 20;
        format!(
            "every subject: {durability}, cache of {} MiB, write buffer of {} MiB; mailring: {} nodes, memory budget of {} MiB",
            mib(self.cache_bytes),
            mib(self.write_buffer_bytes),
            self.nodes,
            mib(mailring::budget_bytes(self)),
        )
    }
}

/// What a subject says of its inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Inside {
    /// Checkpoints since it was opened: what was written has gone to sorted files, and the journal before it is done with.
    pub(crate) checkpoints: u64,
    /// Bytes in memory that are in no sorted file yet. Right after opening it is what was read back from the journal.
    pub(crate) unwritten_bytes: u64,
    /// Commits since the last checkpoint, of the node that is furthest behind.
    pub(crate) unwritten_commits: u64,
    /// Bytes of records written to the journal since it was opened.
    pub(crate) journal_bytes: u64,
    /// Those records.
    pub(crate) journal_records: u64,
}

/// A store under load. Clones share it.
pub(crate) trait Subject: Clone + Send + Sync + 'static {
    /// What its clients are.
    const STYLE: Style;

    /// The length of the value, which has been looked at.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Option<usize>>> + Send;

    /// Writes, with the durability it was opened with.
    fn put(&self, key: &[u8], value: &[u8]) -> impl Future<Output = Result<()>> + Send;

    /// Writes a batch, with the durability it was opened with.
    fn put_many(&self, entries: Vec<Entry>) -> impl Future<Output = Result<()>> + Send;

    /// Reads so many records in key order from a key on; returns how many there were.
    fn scan(&self, from: &[u8], limit: usize) -> impl Future<Output = Result<usize>> + Send;

    /// Makes everything written so far durable.
    fn sync(&self) -> impl Future<Output = Result<()>> + Send;

    /// Moves what is in memory into sorted files, where there are any.
    fn checkpoint(&self) -> impl Future<Output = Result<()>> + Send {
        self.sync()
    }

    /// Reads a record and writes it back changed; false if it was not there.
    fn read_modify_write(
        &self,
        key: &[u8],
        value: &[u8],
    ) -> impl Future<Output = Result<bool>> + Send {
        async {
            let found = self.get(key).await?.is_some();
            self.put(key, value).await?;
            Ok(found)
        }
    }

    /// What it says of its inside, if it says anything.
    fn inside(&self) -> Option<Inside> {
        None
    }

    /// Closes in good order.
    fn close(self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// A store whose calls block.
pub(crate) trait Store: Send + Sync + 'static {
    /// The length of the value, which has been looked at.
    fn get(&self, key: &[u8]) -> Result<Option<usize>>;

    /// Writes; durable on return if it was opened so.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Writes a batch; durable on return if it was opened so.
    fn put_many(&self, entries: &[Entry]) -> Result<()>;

    /// Reads so many records in key order from a key on.
    fn scan(&self, from: &[u8], limit: usize) -> Result<usize>;

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<()>;

    /// Moves what is in memory into sorted files, where there are any.
    fn checkpoint(&self) -> Result<()> {
        self.sync()
    }
}

/// A blocking store as a subject with a thread a client.
pub(crate) struct Threaded<S>(Arc<S>);

impl<S> Clone for Threaded<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Store> Subject for Threaded<S> {
    const STYLE: Style = Style::Threads;

    async fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        self.0.get(key)
    }

    async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.put(key, value)
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<()> {
        self.0.put_many(&entries)
    }

    async fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        self.0.scan(from, limit)
    }

    async fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    async fn checkpoint(&self) -> Result<()> {
        self.0.checkpoint()
    }

    async fn close(self) -> Result<()> {
        close_store(self.0);
        Ok(())
    }
}

/// Drops a store here and now. The thread that forces by interval may hold it for the length of a force, and a
/// store that is dropped there would still be open when the caller opens it again.
fn close_store<S>(mut store: Arc<S>) {
    while let Err(shared) = Arc::try_unwrap(store) {
        store = shared;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Forces a store ten times a second for as long as somebody uses it.
fn force_by_interval<S: Store>(store: Weak<S>) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(INTERVAL);
            let Some(store) = store.upgrade() else { return };
            if let Err(fault) = store.sync() {
                eprintln!("a force failed: {fault}");
                return;
            }
        }
    });
}

/// Reads a value as a user would, one byte of each cache line, so that no store is measured handing out a pointer.
pub(crate) fn look_at(value: &[u8]) -> usize {
    let sum = value
        .iter()
        .step_by(64)
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    std::hint::black_box(sum);
    value.len()
}

/// A subject whose type no longer matters: what figures and reports work with.
pub(crate) trait Opened: Sync {
    /// Runs a job.
    fn drive(&self, job: &Job, progress: &Arc<Progress>) -> Result<Outcome>;

    /// Loads the records of a shape in batches by so many clients, and makes them durable; returns the time.
    fn load(
        &self,
        shape: Shape,
        seed: u64,
        loaders: u64,
        progress: &Arc<Progress>,
    ) -> Result<Duration>;

    /// See [`Subject::checkpoint`].
    fn checkpoint(&self) -> Result<()>;

    /// See [`Subject::inside`].
    fn inside(&self) -> Option<Inside>;

    /// Whether this key has a value.
    fn contains(&self, key: &[u8]) -> Result<bool>;

    /// See [`Subject::scan`].
    #[cfg(test)]
    fn scan(&self, from: &[u8], limit: usize) -> Result<usize>;

    /// Reads every record of a shape once.
    fn touch_all(&self, shape: Shape) -> Result<()>;

    /// Closes in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

struct Running<S> {
    subject: S,
    runtime: Arc<Runtime>,
}

impl<S: Subject> Opened for Running<S> {
    fn drive(&self, job: &Job, progress: &Arc<Progress>) -> Result<Outcome> {
        let population = Arc::new(Population::new(job.workload.shape().records));
        let (subject, work) = (self.subject.clone(), job.clone());
        let make = move |number| Operations::new(subject.clone(), &work, &population, number);
        drive(S::STYLE, &self.runtime, &job.schedule(), progress, make)
    }

    fn load(
        &self,
        shape: Shape,
        seed: u64,
        loaders: u64,
        progress: &Arc<Progress>,
    ) -> Result<Duration> {
        let began = Instant::now();
        let batches = shape.records.div_ceil(LOAD_BATCH);
        let tasks: Vec<_> = (0..loaders)
            .map(|loader| {
                let (subject, progress) = (self.subject.clone(), progress.clone());
                self.runtime.spawn(async move {
                    let mut records = Records::new(shape, seed, loader);
                    for batch in (loader..batches).step_by(loaders as usize) {
                        let last = ((batch + 1) * LOAD_BATCH).min(shape.records);
                        let entries = (batch * LOAD_BATCH..last).map(|record| {
                            let (key, value) = records.entry(record);
                            (key.to_vec(), value.to_vec())
                        });
                        subject.put_many(entries.collect()).await?;
                        progress.add(last - batch * LOAD_BATCH);
                    }
                    Result::Ok(())
                })
            })
            .collect();
        for task in tasks {
            self.runtime
                .block_on(task)
                .map_err(|_| Fault::from("a loader panicked"))??;
        }
        self.runtime.block_on(self.subject.sync())?;
        Ok(began.elapsed())
    }

    fn checkpoint(&self) -> Result<()> {
        self.runtime.block_on(self.subject.checkpoint())
    }

    fn inside(&self) -> Option<Inside> {
        self.subject.inside()
    }

    fn contains(&self, key: &[u8]) -> Result<bool> {
        Ok(self.runtime.block_on(self.subject.get(key))?.is_some())
    }

    #[cfg(test)]
    fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        self.runtime.block_on(self.subject.scan(from, limit))
    }

    fn touch_all(&self, shape: Shape) -> Result<()> {
        let reading: Vec<_> = (0..TOUCHERS)
            .map(|toucher| {
                let subject = self.subject.clone();
                self.runtime.spawn(async move {
                    let mut records = Records::new(shape, 0, toucher);
                    for record in (toucher..shape.records).step_by(TOUCHERS as usize) {
                        if subject.get(records.key(record)).await?.is_none() {
                            return Err(Fault::from("a loaded record is missing"));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for reader in reading {
            self.runtime
                .block_on(reader)
                .map_err(|_| Fault::from("a reader panicked"))??;
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.runtime.block_on(self.subject.close())
    }
}

#[cfg(test)]
#[path = "conformance.rs"]
mod conformance;

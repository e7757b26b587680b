//! Named locks under load: pairs of lock and unlock.
//!
//! Without `--names` each client has 16 names of its own, so nobody ever waits; with it all clients draw from so many
//! names, and a client that holds one lets others run before it gives it back. Who is refused pauses with jitter and
//! tries again, whatever the subject (mailring queues its waiters and refuses nobody).
//!
//! What an unlock waits for is the subject's own: mailring's guard sends a message when it is dropped and nobody answers, a
//! client of Redis waits for the answer. So there is a second line, `redis-pipelined`, whose clients send the unlock and do not
//! wait for it either.
//!
//! Mutual exclusion is verified: a client that is granted a name which another one holds fails the run, and so does a
//! count kept under each lock, read and written in two steps, that does not come out as the pairs that were
//! acknowledged.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::runtime::Runtime;

use crate::distribution::Rng;
use crate::driver::{Progress, Schedule, Work, drive};
use crate::subject::{Kind, Settings, Style, open_mailring};
use crate::tally::{Contention, Done};
use crate::transactions::{Backoff, Driven, Timer};
use crate::{Fault, Result};

mod mailring;
#[cfg(feature = "redis")]
pub(crate) mod redis;

/// Names that a client has of its own.
const OWN_NAMES: u64 = 16;

/// Who is refused more often than that has been starved, and the run fails.
const MOST_RETRIES: u64 = 100_000;

/// Locks under load. Clones share them.
pub(crate) trait LockService: Clone + Send + Sync + 'static {
    /// What its clients are.
    const STYLE: Style;
    /// One client.
    type Client: LockClient;

    /// A new client.
    fn connect(&self) -> Result<Self::Client>;

    /// Closes in good order.
    fn close(self) -> impl Future<Output = Result<()>> + Send;
}

/// One client of locks.
pub(crate) trait LockClient: Send + 'static {
    /// A lock that is held.
    type Held: Send;

    /// Takes the lock of this name; none if it was refused since somebody has it.
    fn lock(&mut self, name: &str) -> impl Future<Output = Result<Option<Self::Held>>> + Send;

    /// Gives it back.
    fn unlock(&mut self, held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockJob {
    /// Names that all clients share; none if nobody shares a name.
    pub(crate) names: Option<u64>,
    /// The clients.
    pub(crate) schedule: Schedule,
    /// The seed of all choices.
    pub(crate) seed: u64,
}

/// What is known of a name by those who hold it.
#[derive(Debug, Default)]
struct Ward {
    is_held: AtomicBool,
    count: AtomicU64,
}

/// Names, and what their holders know of each.
struct Guarded {
    names: Vec<String>,
    wards: Vec<Ward>,
}

impl Guarded {
    fn new(names: impl Iterator<Item = String>) -> Arc<Self> {
        let names: Vec<String> = names.collect();
        let wards = names.iter().map(|_| Ward::default()).collect();
        Arc::new(Self { names, wards })
    }
}

/// A client and the names it locks.
struct Locking<S: LockService> {
    service: S,
    client: Option<S::Client>,
    guarded: Arc<Guarded>,
    /// Whether somebody else may want the same names.
    is_shared: bool,
    pairs: Arc<AtomicU64>,
    rng: Rng,
    backoff: Backoff,
}

impl<S: LockService> Locking<S> {
    /// Enters and leaves what the lock protects.
    async fn visit(ward: &Ward, is_shared: bool) -> Result<()> {
        let broken = |what: &str| Fault::from(format!("INVARIANT BROKEN: {what}"));
        if ward.is_held.swap(true, Ordering::AcqRel) {
            return Err(broken("two clients hold one lock"));
        }
        let count = ward.count.load(Ordering::Relaxed);
        if is_shared {
            match S::STYLE {
                Style::Tasks => tokio::task::yield_now().await,
                Style::Threads => std::thread::yield_now(),
            }
        }
        ward.count.store(count + 1, Ordering::Relaxed);
        if ward.is_held.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        Err(broken("somebody left a lock that was held by another"))
    }
}

impl<S: LockService> Work for Locking<S> {
    async fn step(&mut self) -> Result<Done> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(self.service.connect()?),
        };
        let place = self.rng.below(self.guarded.names.len() as u64) as usize;
        self.backoff.reset();
        for retries in 0..=MOST_RETRIES {
            let Some(held) = client.lock(&self.guarded.names[place]).await? else {
                self.backoff.pause().await;
                continue;
            };
            Self::visit(&self.guarded.wards[place], self.is_shared).await?;
            client.unlock(held).await?;
            self.pairs.fetch_add(1, Ordering::Relaxed);
            let contention = Contention {
                aborts: retries,
                retries,
                most_retries: retries,
                declined: 0,
            };
            return Ok(Done {
                found: 1,
                missed: 0,
                contention,
            });
        }
        Err(Fault::from(format!("refused {MOST_RETRIES} times")))
    }
}

/// Locks whose type no longer matters.
pub(crate) trait OpenedLocks {
    /// Runs a job, and fails if exclusion was not kept.
    fn drive(&self, job: &LockJob, progress: &Arc<Progress>) -> Result<Driven>;

    /// Closes in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

struct Running<S> {
    service: S,
    runtime: Arc<Runtime>,
    timer: Timer,
}

impl<S: LockService> OpenedLocks for Running<S> {
    fn drive(&self, job: &LockJob, progress: &Arc<Progress>) -> Result<Driven> {
        let (service, timer, job) = (self.service.clone(), self.timer.clone(), *job);
        // A set of names for each client, or one for all.
        let sets: Arc<[Arc<Guarded>]> = match job.names {
            Some(names) => {
                let all = (0..names).map(|name| format!("shared-{name}"));
                [Guarded::new(all)].into()
            }
            None => (0..job.schedule.clients)
                .map(|client| {
                    let own = (0..OWN_NAMES).map(|name| format!("own-{client}-{name}"));
                    Guarded::new(own)
                })
                .collect(),
        };
        let pairs = Arc::new(AtomicU64::new(0));
        let counted = (sets.clone(), pairs.clone());
        let work = move |number: u64| Locking {
            service: service.clone(),
            client: None,
            guarded: sets[number as usize % sets.len()].clone(),
            is_shared: job.names.is_some(),
            pairs: pairs.clone(),
            rng: Rng::new(job.seed, number),
            backoff: Backoff::new(S::STYLE, timer.clone(), job.seed, number),
        };
        let outcome = drive(S::STYLE, &self.runtime, &job.schedule, progress, work)?;
        let (sets, pairs) = counted;
        let wards = sets.iter().flat_map(|set| &set.wards);
        let visits: u64 = wards.map(|ward| ward.count.load(Ordering::Relaxed)).sum();
        let pairs = pairs.load(Ordering::Relaxed);
        if visits != pairs {
            return Err(Fault::from(format!(
                "INVARIANT BROKEN: {pairs} locks were held, but only {visits} visits were counted under them"
            )));
        }
        Ok(Driven {
            outcome,
            per_force: None,
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Self {
            service, runtime, ..
        } = *self;
        runtime.block_on(service.close())
    }
}

/// Opens the locks of a subject in its directory.
///
/// # Errors
///
/// What the subject says; if it has no locks.
pub(crate) fn open(
    kind: Kind,
    settings: &Settings,
    runtime: &Arc<Runtime>,
) -> Result<Box<dyn OpenedLocks>> {
    fn running<S: LockService>(service: S, runtime: &Arc<Runtime>) -> Box<dyn OpenedLocks> {
        Box::new(Running {
            service,
            runtime: runtime.clone(),
            timer: Timer::start(),
        })
    }
    std::fs::create_dir_all(&settings.dir)?;
    match kind {
        Kind::Mailring => {
            let database = runtime.block_on(open_mailring(settings))?;
            Ok(running(mailring::Ring(database), runtime))
        }
        #[cfg(feature = "redis")]
        Kind::Redis | Kind::RedisPipelined => {
            let server = redis::Redis::start(&settings.dir)?;
            let is_pipelined = kind == Kind::RedisPipelined;
            Ok(running(server.pipelined(is_pipelined), runtime))
        }
        other => Err(Fault::from(format!("{other} has no locks here"))),
    }
}

#[cfg(test)]
mod tests;

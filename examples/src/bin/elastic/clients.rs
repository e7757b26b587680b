//! The clients: transfer after transfer until they are told to stop, and what they have counted since somebody looked.

use crate::{Failure, Plan, bank::Bank};
use hdrhistogram::Histogram;
use mailring::Error;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// The largest sum of one transfer.
const LARGEST_SUM: i64 = 100;

/// What was done in some time.
#[derive(Debug)]
pub(crate) struct Tally {
    /// How long transfers took, in microseconds.
    pub(crate) latency: Histogram<u64>,
    begun: Instant,
}

/// What was done up to now, since the tally was last taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) per_second: f64,
    pub(crate) p99_ms: f64,
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new(3).expect("three digits are within the limits");
        Self {
            latency,
            begun: Instant::now(),
        }
    }

    /// A quantile in milliseconds.
    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// The clients, at work.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<(), Error>>,
}

struct Shared {
    bank: Bank,
    plan: Plan,
    is_closing: AtomicBool,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>) -> Result<(), Error> {
        let mut dice = StdRng::from_os_rng();
        let accounts = self.plan.accounts;
        while !self.is_closing.load(Ordering::Relaxed) {
            let payer = dice.random_range(0..accounts);
            let payee = (payer + dice.random_range(1..accounts)) % accounts;
            let begun = Instant::now();
            let sum = dice.random_range(1..=LARGEST_SUM);
            match self.bank.transfer(payer, payee, sum).await {
                Ok(()) => {
                    let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.tally().latency += took;
                }
                // Whether it was carried out or not, the sum of all accounts is the same.
                Err(error) if error.is_retryable() || matches!(error, Error::Unknown { .. }) => {}
                // One of the accounts can't be had until the others have taken over.
                Err(Error::NodeDown { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Clients {
    pub(crate) fn start(bank: &Bank, plan: &Plan) -> Self {
        let shared = Arc::new(Shared {
            bank: bank.clone(),
            plan: plan.clone(),
            is_closing: AtomicBool::new(false),
            tally: Mutex::new(Tally::new()),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..plan.clients {
            tasks.spawn(Arc::clone(&shared).serve());
        }
        Self { shared, tasks }
    }

    /// What is being done, without taking it.
    pub(crate) fn look(&self) -> Seen {
        let tally = self.shared.tally();
        let seconds = tally.begun.elapsed().as_secs_f64();
        Seen {
            per_second: tally.latency.len() as f64 / seconds,
            p99_ms: tally.ms(0.99),
        }
    }

    /// What was done since the last time.
    pub(crate) fn take_tally(&self) -> Tally {
        std::mem::replace(&mut self.shared.tally(), Tally::new())
    }

    /// Waits, and fails if a client does.
    pub(crate) async fn work_for(&mut self, time: Duration) -> Result<(), Failure> {
        match tokio::time::timeout(time, self.tasks.join_next()).await {
            Err(_) => Ok(()),
            Ok(ended) => Err(match ended.transpose()? {
                Some(Err(error)) => format!("a client could not transfer: {error}").into(),
                _ => "a client has stopped".into(),
            }),
        }
    }

    /// Everybody ends his transfer, and begins no other.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

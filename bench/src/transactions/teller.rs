//! A client: draws a program, attempts it until it is carried out, and enters the effect in the books.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{Backoff, Economy, Effect, Transactor};
use crate::distribution::Rng;
use crate::driver::Work;
use crate::tally::{Contention, Done};
use crate::{Fault, Result};

/// Who is refused more often than that has been starved, and the run fails.
const MOST_RETRIES: u64 = 100_000;

/// What has been acknowledged since the rows were opened, warm-ups included.
#[derive(Debug, Default)]
pub(crate) struct Books {
    delta: AtomicI64,
    commits: AtomicU64,
}

impl Books {
    /// Enters an acknowledged effect.
    pub(crate) fn enter(&self, effect: Effect) {
        self.delta.fetch_add(effect.delta, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been added to the total.
    pub(crate) fn delta(&self) -> i64 {
        self.delta.load(Ordering::Relaxed)
    }

    /// Programs carried out.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

/// A client.
pub(crate) struct Teller<T> {
    /// Whom it asks.
    pub(crate) transactor: T,
    /// What it draws from.
    pub(crate) economy: Arc<Economy>,
    /// Its choices.
    pub(crate) rng: Rng,
    /// Where it enters what was acknowledged.
    pub(crate) books: Arc<Books>,
    /// What it does when it is refused.
    pub(crate) backoff: Backoff,
}

impl<T: Transactor> Work for Teller<T> {
    async fn step(&mut self) -> Result<Done> {
        let program = self.economy.next(&mut self.rng);
        self.backoff.reset();
        for retries in 0..=MOST_RETRIES {
            let Some(effect) = self.transactor.attempt(&program).await? else {
                self.backoff.pause().await;
                continue;
            };
            self.books.enter(effect);
            let contention = Contention {
                aborts: retries,
                retries,
                most_retries: retries,
                declined: u64::from(effect.declined),
            };
            return Ok(Done {
                found: 1,
                missed: 0,
                contention,
            });
        }
        Err(Fault::from(format!(
            "{:?} was refused {MOST_RETRIES} times",
            program.procedure
        )))
    }
}

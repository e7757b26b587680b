//! A transactor that is open: its rows are opened once, each run is driven and then audited.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::teller::{Books, Teller};
use super::{Backoff, Economy, Program, Timer, Transactor};
use crate::distribution::Rng;
use crate::driver::{Progress, Schedule, drive};
use crate::subject::Style;
use crate::tally::Outcome;
use crate::{Fault, Result};

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct BankJob {
    /// The programs.
    pub(crate) economy: Arc<Economy>,
    /// The clients.
    pub(crate) schedule: Schedule,
    /// The seed of all choices.
    pub(crate) seed: u64,
    /// Clients are threads, also where the subject is async: so that readers do not queue behind writers.
    pub(crate) on_threads: bool,
}

/// What a run gave.
pub(crate) struct Driven {
    /// The counts.
    pub(crate) outcome: Outcome,
    /// Operations for each force of the subject while it ran, if it counts them.
    pub(crate) per_force: Option<f64>,
}

/// A transactor whose type no longer matters.
pub(crate) trait OpenedBank: Sync {
    /// Sets every row to its opening balance.
    fn open_rows(&self) -> Result<()>;

    /// Runs a job, whose rows must be those that were opened.
    fn drive(&self, job: &BankJob, progress: &Arc<Progress>) -> Result<Driven>;

    /// Reads all rows, and fails if their total is not explained by what was acknowledged. Nobody else may be at work.
    fn audit(&self) -> Result<()>;

    /// Closes in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

/// A transactor with rows.
pub(crate) struct Bank<T> {
    transactor: T,
    runtime: Arc<Runtime>,
    economy: Arc<Economy>,
    books: Arc<Books>,
    timer: Timer,
}

impl<T: Transactor> Bank<T> {
    /// A bank that is to run programs of this economy.
    pub(crate) fn new(transactor: T, economy: &Arc<Economy>, runtime: &Arc<Runtime>) -> Self {
        Self {
            transactor,
            runtime: runtime.clone(),
            economy: economy.clone(),
            books: Arc::default(),
            timer: Timer::start(),
        }
    }

    fn once(&self, program: &Program) -> Result<super::Effect> {
        let effect = self.runtime.block_on(self.transactor.attempt(program))?;
        effect.ok_or_else(|| Fault::from("refused, though nobody else is at work"))
    }
}

impl<T: Transactor> OpenedBank for Bank<T> {
    fn open_rows(&self) -> Result<()> {
        let mut openings = self.economy.openings();
        openings.try_for_each(|program| self.once(&program).map(drop))
    }

    fn drive(&self, job: &BankJob, progress: &Arc<Progress>) -> Result<Driven> {
        let style = if job.on_threads {
            Style::Threads
        } else {
            T::STYLE
        };
        let (forces, commits) = (self.transactor.forces(), self.books.commits());
        let (transactor, economy) = (self.transactor.clone(), job.economy.clone());
        let (books, timer, seed) = (self.books.clone(), self.timer.clone(), job.seed);
        let work = move |number| Teller {
            transactor: transactor.clone(),
            economy: economy.clone(),
            rng: Rng::new(seed, number),
            books: books.clone(),
            backoff: Backoff::new(style, timer.clone(), seed, number),
        };
        let outcome = drive(style, &self.runtime, &job.schedule, progress, work)?;
        let commits = (self.books.commits() - commits) as f64;
        let forces = self.transactor.forces().zip(forces);
        let per_force = forces
            .filter(|(after, before)| after > before)
            .map(|(after, before)| commits / (after - before) as f64);
        Ok(Driven { outcome, per_force })
    }

    fn audit(&self) -> Result<()> {
        let (mut total, mut lowest) = (0, 0);
        for program in self.economy.audits() {
            let effect = self.once(&program)?;
            total += effect.sum;
            lowest = effect.lowest.min(lowest);
        }
        let expected = self.economy.opening_total() + self.books.delta();
        if total != expected {
            return Err(Fault::from(format!(
                "INVARIANT BROKEN: the balances sum up to {total}, but {expected} were acknowledged"
            )));
        }
        if lowest < 0 && !self.economy.may_owe() {
            return Err(Fault::from(format!(
                "INVARIANT BROKEN: a balance is {lowest}, but no program takes what is not there"
            )));
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.runtime.block_on(self.transactor.close())
    }
}

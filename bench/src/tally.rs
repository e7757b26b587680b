//! What a client counts, and what the clients of a run give together.

use std::ops::AddAssign;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Result;

/// A histogram of nanoseconds that grows with what it sees, exact to so many digits.
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new(digits).expect("the digits are within the histogram's limits")
}

/// What came of some operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Records read, scanned or written; commits; locks held.
    pub(crate) found: u64,
    /// Reads of a record that was not there.
    pub(crate) missed: u64,
    /// How much the clients were in each other's way.
    pub(crate) contention: Contention,
}

/// How much clients were in each other's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Contention {
    /// Attempts that the subject refused: conflicts, deadlocks, locks that were busy.
    pub(crate) aborts: u64,
    /// Attempts behind the first one of an operation.
    pub(crate) retries: u64,
    /// The most retries of one operation.
    pub(crate) most_retries: u64,
    /// Operations that ended without a write by their own rule, say since there was not enough money.
    pub(crate) declined: u64,
}

impl AddAssign for Contention {
    fn add_assign(&mut self, other: Self) {
        self.aborts += other.aborts;
        self.retries += other.retries;
        self.most_retries = self.most_retries.max(other.most_retries);
        self.declined += other.declined;
    }
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.found += other.found;
        self.missed += other.missed;
        self.contention += other.contention;
    }
}

/// The counts of one client.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The nanosecond of the run at which the client ended.
    pub(crate) finished_at: u64,
    digits: u8,
    operations: u64,
    done: Done,
    latency: Histogram<u64>,
    seconds: Option<Vec<Second>>,
}

/// One second of a run.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    /// Operations that ended in it.
    pub(crate) operations: u64,
    /// Their latency in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Second {
    fn new(digits: u8) -> Self {
        Self {
            operations: 0,
            latency: histogram(digits),
        }
    }
}

impl Tally {
    /// An empty one; `by_second` also keeps one for each second. A thousand clients at three digits would fill
    /// the processor's caches with counters, so the digits are the caller's choice.
    pub(crate) fn new(by_second: bool, digits: u8) -> Self {
        Self {
            finished_at: 0,
            digits,
            operations: 0,
            done: Done::default(),
            latency: histogram(digits),
            seconds: by_second.then(Vec::new),
        }
    }

    /// `operations` ended at `at`, one of them timed.
    pub(crate) fn record(&mut self, latency_ns: u64, at: u64, operations: u64, done: Done) {
        self.operations += operations;
        self.done += done;
        self.latency += latency_ns;
        if let Some(seconds) = &mut self.seconds {
            let second = (at / 1_000_000_000) as usize;
            while seconds.len() <= second {
                seconds.push(Second::new(self.digits));
            }
            seconds[second].operations += operations;
            seconds[second].latency += latency_ns;
        }
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Measured operations.
    pub(crate) operations: u64,
    /// From the end of the warm-up to the last answer.
    pub(crate) seconds: f64,
    /// What came of them.
    pub(crate) done: Done,
    /// Operations due in an open loop and not sent by its end.
    pub(crate) unserved: u64,
    /// Latency in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// The same for each second, if it was asked for.
    pub(crate) by_second: Vec<Second>,
}

impl Outcome {
    /// # Errors
    ///
    /// The first error of a client.
    pub(crate) fn collect(tallies: Vec<Result<Tally>>, measure_from: u64) -> Result<Self> {
        let mut outcome = Self {
            operations: 0,
            seconds: 0.0,
            done: Done::default(),
            unserved: 0,
            latency: histogram(3),
            by_second: Vec::new(),
        };
        let mut finished_at = 0;
        for tally in tallies {
            let tally = tally?;
            finished_at = finished_at.max(tally.finished_at);
            outcome.operations += tally.operations;
            outcome.done += tally.done;
            outcome.latency += tally.latency;
            for (index, second) in tally.seconds.into_iter().flatten().enumerate() {
                if outcome.by_second.len() == index {
                    outcome.by_second.push(Second::new(3));
                }
                outcome.by_second[index].operations += second.operations;
                outcome.by_second[index].latency += second.latency;
            }
        }
        outcome.seconds = finished_at.saturating_sub(measure_from) as f64 / 1e9;
        Ok(outcome)
    }

    /// An operation was due and had waited so long when the run ended.
    pub(crate) fn unserved(&mut self, waited_ns: u64) {
        self.unserved += 1;
        self.latency += waited_ns;
    }

    /// Operations a second.
    pub(crate) fn throughput(&self) -> f64 {
        if self.seconds > 0.0 {
            self.operations as f64 / self.seconds
        } else {
            0.0
        }
    }
}

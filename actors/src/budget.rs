//! The memory budget: what is admitted when generations, queues and cache together must stay below one number.
//!
//! The cache bounds itself. Here are the other two: bytes of generations (freed by checkpoints, and only when no
//! snapshot holds them) and bytes of requests under way. A write is admitted at once while both are low. Above the soft
//! limit of the generations writers are slowed to the rate at which checkpoints free memory, so that throughput sinks
//! gently; at the hard limit they wait, until their deadline. Where checkpoints fail, waiting would not help: then the
//! hard limit refuses at once, with the error of the checkpoint.

use crate::clock::{Clock, TICK};
use mailring_engine::{Error, Result, ids::Time};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::Notify;

/// Bytes a second that writers get above the soft limit before a checkpoint has shown what the disk can do.
const INITIAL_DRAIN_BYTES_PER_SECOND: u64 = 16 << 20;

#[derive(Debug)]
pub(crate) struct Budget {
    clock: Clock,
    /// Weight of all generations alive, also of those that only a snapshot holds.
    pub(crate) generations: Arc<AtomicUsize>,
    in_flight: AtomicUsize,
    soft_limit: usize,
    hard_limit: usize,
    in_flight_limit: usize,
    /// What writers above the soft limit may still write in this tick.
    allowance: AtomicI64,
    drain_bytes_per_second: AtomicU64,
    room: Notify,
    /// Whether a write has met the hard limit since the last checkpoint tick.
    starved: AtomicBool,
    /// Why checkpoints free no memory now.
    blocked: Mutex<Option<Error>>,
}

/// Bytes of a request under way; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.in_flight.fetch_sub(self.bytes, Relaxed);
    }
}

impl Budget {
    pub(crate) fn new(
        clock: Clock,
        generations: Arc<AtomicUsize>,
        generations_limit: usize,
        in_flight_limit: usize,
    ) -> Self {
        Self {
            clock,
            generations,
            in_flight: AtomicUsize::new(0),
            soft_limit: generations_limit / 4 * 3,
            hard_limit: generations_limit,
            in_flight_limit,
            allowance: AtomicI64::new(0),
            drain_bytes_per_second: AtomicU64::new(INITIAL_DRAIN_BYTES_PER_SECOND),
            room: Notify::new(),
            starved: AtomicBool::new(false),
            blocked: Mutex::new(None),
        }
    }

    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn generation_bytes(&self) -> usize {
        self.generations.load(Relaxed)
    }

    /// Waits until a request of so many bytes may go on. Dropping the future gives up the place.
    pub(crate) async fn admit(self: &Arc<Self>, bytes: usize, deadline: Time) -> Result<Permit> {
        loop {
            if let Some(permit) = self.try_admit(bytes) {
                return Ok(permit);
            }
            let room = self.room.notified();
            if let Some(permit) = self.try_admit(bytes) {
                return Ok(permit);
            }
            if let Some(error) = self.blocked()
                && self.is_full_for(bytes)
            {
                return Err(error);
            }
            if self.clock.now() >= deadline {
                return Err(Error::Overloaded {
                    what: "the memory budget",
                });
            }
            room.await;
        }
    }

    fn try_admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let generations = self.generations.load(Relaxed);
        let in_flight = self.in_flight.fetch_add(bytes, Relaxed);
        let permit = Permit {
            budget: Arc::clone(self),
            bytes,
        };
        // One request is admitted whatever its size, else a value larger than the limit would wait for ever.
        if in_flight > 0 && in_flight + bytes > self.in_flight_limit {
            return None;
        }
        if generations + in_flight + bytes <= self.soft_limit {
            return Some(permit);
        }
        if is_over(generations, in_flight + bytes, self.hard_limit) {
            self.starved.store(true, Relaxed);
            return None;
        }
        let cost = i64::try_from(bytes).unwrap_or(i64::MAX);
        let allowed = self.allowance.fetch_sub(cost, Relaxed) > 0;
        if !allowed {
            self.allowance.fetch_add(cost, Relaxed);
        }
        allowed.then_some(permit)
    }

    fn is_full_for(&self, bytes: usize) -> bool {
        let in_flight = self.in_flight.load(Relaxed);
        is_over(self.generation_bytes(), in_flight + bytes, self.hard_limit)
    }

    /// Why checkpoints free no memory now, if they don't.
    pub(crate) fn blocked(&self) -> Option<Error> {
        let blocked = self.blocked.lock();
        blocked.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A checkpoint has freed memory, or could not.
    pub(crate) fn set_blocked(&self, error: Option<Error>) {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        *blocked = error;
    }

    /// Whether a write has waited for generations to be freed since this was last asked.
    pub(crate) fn take_starved(&self) -> bool {
        self.starved.swap(false, Relaxed)
    }

    /// A checkpoint has written so many bytes in so many seconds.
    pub(crate) fn drained(&self, bytes: u64, seconds: f64) {
        if bytes > 1 << 20 && seconds > 0.0 {
            self.drain_bytes_per_second
                .store((bytes as f64 / seconds) as u64, Relaxed);
        }
        self.room.notify_waiters();
    }

    /// Grants the next tick's allowance and wakes whoever waits, so that it can look at its deadline.
    pub(crate) fn tick(&self) {
        let per_tick = self.drain_bytes_per_second.load(Relaxed) as f64 * TICK.as_secs_f64();
        self.allowance.store(per_tick as i64, Relaxed);
        self.room.notify_waiters();
    }
}

/// An engine without generations has nothing to free: whatever comes then is admitted.
fn is_over(generations: usize, others: usize, limit: usize) -> bool {
    generations > 0 && generations + others > limit
}

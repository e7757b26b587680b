//! The memory budget: what is admitted when generations, queues and cache together must stay below one number.
//!
//! The cache bounds itself. Here are the others: bytes of generations (freed by checkpoints, and only when no snapshot holds
//! them), bytes of requests under way, and bytes of transactions that are open. A write is admitted at once while the first
//! two are low. Above the soft
//! limit of the generations writers are slowed to the rate at which checkpoints free memory, so that throughput sinks
//! gently; at the hard limit they wait, until their deadline. Where checkpoints fail, waiting would not help: then the
//! hard limit refuses at once, with the error of the checkpoint.
//!
//! Open transactions have a share of their own, and what would exceed it is refused at once: who waited would keep what he
//! has, which is what the others wait for. One alone may take whatever a transaction may.
//!
//! Watches that have not read all yet have a share of their own too, which [`crate::watchers`] keeps; only its newest group may
//! be beyond it, and that much less is left to writers.

use crate::{
    clock::{Clock, TICK},
    sync::{
        AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Mutex, Notify,
        Ordering::{Acquire, Relaxed, Release},
    },
};
use mailring_engine::{Error, Result, ids::Time};
use std::sync::{Arc, PoisonError};

/// Bytes a second that writers get above the soft limit before a checkpoint has shown what the disk can do.
const INITIAL_DRAIN_BYTES_PER_SECOND: u64 = 16 << 20;

#[derive(Debug)]
pub(crate) struct Budget {
    clock: Clock,
    /// Weight of all generations alive, also of those that only a snapshot holds.
    pub(crate) generations: Arc<AtomicUsize>,
    in_flight: AtomicUsize,
    /// What open transactions have read and written.
    open: AtomicUsize,
    open_limit: usize,
    /// Changes that are kept for watches.
    watch: AtomicUsize,
    watch_limit: usize,
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
    /// Set when the clock has stopped, which wakes whoever waits.
    is_closed: AtomicBool,
}

/// Bytes of an open transaction; given back when dropped.
#[derive(Debug)]
pub(crate) struct OpenBytes {
    budget: Arc<Budget>,
    bytes: usize,
}

impl OpenBytes {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds so many bytes from here on, or as many as before.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<()> {
        let open = &self.budget.open;
        if bytes <= self.bytes {
            open.fetch_sub(self.bytes - bytes, Relaxed);
        } else {
            let more = bytes - self.bytes;
            let before = open.fetch_add(more, Relaxed);
            let is_alone = before <= self.bytes;
            if !is_alone && before + more > self.budget.open_limit {
                open.fetch_sub(more, Relaxed);
                return Err(Error::Overloaded {
                    what: "the memory for open transactions",
                });
            }
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for OpenBytes {
    fn drop(&mut self) {
        self.budget.open.fetch_sub(self.bytes, Relaxed);
    }
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
        open_limit: usize,
        watch_limit: usize,
    ) -> Self {
        Self {
            clock,
            generations,
            in_flight: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            open_limit,
            watch: AtomicUsize::new(0),
            watch_limit,
            soft_limit: generations_limit / 4 * 3,
            hard_limit: generations_limit,
            in_flight_limit,
            allowance: AtomicI64::new(0),
            drain_bytes_per_second: AtomicU64::new(INITIAL_DRAIN_BYTES_PER_SECOND),
            room: Notify::new(),
            starved: AtomicBool::new(false),
            blocked: Mutex::new(None),
            is_closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub(crate) fn open_bytes(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(crate) fn generation_bytes(&self) -> usize {
        self.generations.load(Relaxed)
    }

    pub(crate) fn watch_bytes(&self) -> usize {
        self.watch.load(Relaxed)
    }

    pub(crate) fn is_over_watch_share(&self) -> bool {
        self.beyond_watch_share() > 0
    }

    /// What a large group takes of what others may have.
    fn beyond_watch_share(&self) -> usize {
        self.watch_bytes().saturating_sub(self.watch_limit)
    }

    pub(crate) fn keep_for_watches(&self, bytes: usize) {
        self.watch.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn give_up_for_watches(&self, bytes: usize) {
        self.watch.fetch_sub(bytes, Relaxed);
    }

    /// Waits until a request of so many bytes may go on, its deadline has come, or the engine has stopped. Dropping the
    /// future gives up the place.
    pub(crate) async fn admit(self: &Arc<Self>, bytes: usize, deadline: Time) -> Result<Permit> {
        loop {
            if let Some(permit) = self.try_admit(bytes) {
                return Ok(permit);
            }
            let room = self.room.notified();
            if self.is_closed.load(Acquire) {
                return Err(Error::Closed);
            }
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
        let beyond = self.beyond_watch_share();
        let in_flight = self.in_flight.fetch_add(bytes, Relaxed);
        let permit = Permit {
            budget: Arc::clone(self),
            bytes,
        };
        // One request is admitted whatever its size, else a value larger than the limit would wait for ever.
        if in_flight > 0 && in_flight + bytes > self.in_flight_limit {
            return None;
        }
        if generations + beyond + in_flight + bytes <= self.soft_limit {
            return Some(permit);
        }
        if is_over(generations, beyond + in_flight + bytes, self.hard_limit) {
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
        let others = self.beyond_watch_share() + in_flight + bytes;
        is_over(self.generation_bytes(), others, self.hard_limit)
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

    /// Refuses whoever waits, and whoever would: nobody frees memory any more.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Release);
        self.room.notify_waiters();
    }
}

/// An engine without generations has nothing to free: whatever comes then is admitted.
fn is_over(generations: usize, others: usize, limit: usize) -> bool {
    generations > 0 && generations + others > limit
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    fn budget(generations: usize) -> Arc<Budget> {
        let gauge = Arc::new(AtomicUsize::new(generations));
        Arc::new(Budget::new(Clock::start(), gauge, 100, 50, 30, 20))
    }

    #[test]
    fn who_waits_for_memory_is_told_when_the_engine_stops() {
        let budget = budget(1_000);
        let mut context = Context::from_waker(Waker::noop());
        let mut waits = pin!(budget.admit(10, Time::MAX));
        assert!(waits.as_mut().poll(&mut context).is_pending());
        budget.close();
        let refused = waits.as_mut().poll(&mut context);
        assert!(matches!(refused, Poll::Ready(Err(Error::Closed))));
        let mut late = pin!(budget.admit(10, Time::MAX));
        let refused = late.as_mut().poll(&mut context);
        assert!(matches!(refused, Poll::Ready(Err(Error::Closed))));
        assert_eq!(budget.in_flight_bytes(), 0);
    }

    #[test]
    fn what_watches_have_beyond_their_share_is_not_left_to_writers() {
        let budget = budget(60);
        budget.keep_for_watches(20);
        assert!(budget.try_admit(10).is_some(), "their share is their own");
        budget.keep_for_watches(31);
        assert!(budget.try_admit(10).is_none());
        assert!(budget.take_starved(), "a checkpoint would help");
        budget.generations.store(0, Relaxed);
        assert!(budget.try_admit(10).is_some(), "nothing can be freed");
    }

    #[test]
    fn open_transactions_share_a_bound_and_one_alone_has_none() {
        let budget = budget(0);
        let overloaded = |result| matches!(result, Err(Error::Overloaded { .. }));
        let mut one = OpenBytes::new(&budget);
        one.resize(200).expect("it is alone");
        let mut other = OpenBytes::new(&budget);
        assert!(overloaded(other.resize(1)));
        one.resize(20).expect("it shrinks");
        other.resize(10).expect("it fits");
        assert!(overloaded(one.resize(21)));
        assert_eq!(budget.open_bytes(), 30, "a refusal changes nothing");
        drop(one);
        other.resize(200).expect("it is alone");
        drop(other);
        assert_eq!(budget.open_bytes(), 0);
    }
}

//! Waking whoever waits for a moment, at that moment: callers of a handle need no runtime, so they have no timer.
//!
//! The clock's thread sleeps until its next tick or the next alarm. Setting an alarm that comes before all others wakes it
//! once. An alarm whose future was dropped rings for nobody.

use crate::guard::guarded;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// Who waits until when.
#[derive(Debug)]
pub(crate) struct Alarms {
    set: Mutex<Set>,
    earlier: Sender<()>,
    /// Tells the clock's thread that an alarm is set before all others.
    pub(crate) is_earlier: Receiver<()>,
}

#[derive(Debug, Default)]
struct Set {
    wakers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    /// Set when the clock has stopped: nobody waits any more.
    is_closed: bool,
}

impl Alarms {
    pub(crate) fn new() -> Self {
        let (earlier, is_earlier) = bounded(1);
        Self {
            set: Mutex::default(),
            earlier,
            is_earlier,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long, or until the engine stops.
    pub(crate) async fn sleep(&self, duration: Duration) {
        let until = Instant::now() + duration;
        let mut key = None;
        poll_fn(|context| {
            let mut set = self.lock();
            if set.is_closed || Instant::now() >= until {
                if let Some(key) = key {
                    set.wakers.remove(&key);
                }
                return Poll::Ready(());
            }
            let key = *key.get_or_insert_with(|| {
                set.next += 1;
                (until, set.next)
            });
            set.wakers.insert(key, context.waker().clone());
            if set.wakers.first_key_value().map(|(first, _)| *first) == Some(key) {
                // A full channel says the same already.
                let _ = self.earlier.try_send(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Wakes whose time has come; when the next one is due.
    pub(crate) fn ring(&self, now: Instant) -> Option<Instant> {
        let mut due = Vec::new();
        let next = {
            let mut set = self.lock();
            while let Some(entry) = set.wakers.first_entry()
                && entry.key().0 <= now
            {
                due.push(entry.remove());
            }
            set.wakers.first_key_value().map(|((at, _), _)| *at)
        };
        due.into_iter().for_each(wake);
        next
    }

    /// Wakes everybody, for good.
    pub(crate) fn close(&self) {
        let wakers = {
            let mut set = self.lock();
            set.is_closed = true;
            std::mem::take(&mut set.wakers)
        };
        wakers.into_values().for_each(wake);
    }
}

/// A waker is the caller's: its panic must not keep the others asleep.
fn wake(waker: Waker) {
    if let Err(reason) = guarded(|| waker.wake()) {
        tracing::error!(reason, "the waker of a caller panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::Future, pin::pin, task::Context};

    #[test]
    fn an_alarm_rings_when_its_time_has_come_and_not_before() {
        let alarms = Alarms::new();
        let mut sleep = pin!(alarms.sleep(Duration::from_secs(3600)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        assert!(alarms.is_earlier.try_recv().is_ok(), "the clock is told");
        let now = Instant::now();
        assert!(alarms.ring(now).is_some_and(|next| next > now));
        assert_eq!(alarms.ring(now + Duration::from_secs(3601)), None);
    }

    #[test]
    fn nobody_waits_once_the_clock_has_stopped() {
        let alarms = Alarms::new();
        let mut sleep = pin!(alarms.sleep(Duration::from_secs(3600)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        alarms.close();
        assert!(sleep.as_mut().poll(&mut context).is_ready());
        let mut late = pin!(alarms.sleep(Duration::from_secs(3600)));
        assert!(late.as_mut().poll(&mut context).is_ready());
    }
}

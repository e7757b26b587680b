//! Time for the state machines, and a tick that does not wait behind a mailbox.
//!
//! An actor's own timers run only when its mailbox is drained, so they are late exactly when time matters. The tick
//! comes from a thread of its own instead, and never queues up: an actor that has not handled the last tick gets none.

use crate::{guard::guarded, switchboard::Switchboard};
use crossbeam_channel::Receiver;
use mailring_engine::ids::Time;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How often the clock ticks.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Ticks between two looks at what is overdue.
const OVERDUE_TICKS: u64 = 25;

/// The monotonic clock of one engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    opened: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            opened: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Time {
        Time::default().after(self.opened.elapsed())
    }

    pub(crate) fn in_future(&self, duration: Duration) -> Time {
        self.now().after(duration)
    }
}

/// Milliseconds since the Unix epoch: the time of expiry is the only wall-clock time in the engine.
pub(crate) fn wall_clock_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Whether an actor still has a tick before it.
#[derive(Debug, Default, Clone)]
pub(crate) struct TickSlot(Arc<AtomicBool>);

impl TickSlot {
    /// Claims the slot; the sender sends a tick if this returns true.
    pub(crate) fn claim(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Frees the slot, when the tick is being handled.
    pub(crate) fn free(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// When an actor wants its next tick, and its slot.
#[derive(Debug)]
pub(crate) struct DueTick {
    due: AtomicU64,
    pub(crate) slot: TickSlot,
}

impl Default for DueTick {
    fn default() -> Self {
        Self {
            due: AtomicU64::new(u64::MAX),
            slot: TickSlot::default(),
        }
    }
}

impl DueTick {
    pub(crate) fn set(&self, due: Option<Time>) {
        let due = due.unwrap_or(Time::MAX);
        self.due.store(due.0, Ordering::Release);
    }

    /// Whether a tick is to be sent now.
    pub(crate) fn claim(&self, now: Time) -> bool {
        self.due.load(Ordering::Acquire) <= now.0 && self.slot.claim()
    }
}

/// What a node has to do with time, and its slot.
#[derive(Debug, Default)]
pub(crate) struct NodeTicks {
    pub(crate) slot: TickSlot,
    /// Whether it wants ticks: it has something prepared, reserved or parked.
    pub(crate) is_wanted: AtomicBool,
    /// Transactions that it has prepared.
    pub(crate) prepared: AtomicUsize,
    /// Requests that wait behind transactions.
    pub(crate) parked: AtomicUsize,
}

/// Ticks, and rings alarms, until `stop` is disconnected.
pub(crate) fn run(switchboard: &Switchboard, stop: &Receiver<()>) {
    let alarms = &switchboard.alarms;
    let mut ticks = 0u64;
    let mut next_tick = Instant::now() + TICK;
    loop {
        // A waker is the caller's: its panic must not stop the clock.
        let next_alarm = guarded(|| alarms.ring(Instant::now())).unwrap_or(None);
        let wake_at = next_alarm.map_or(next_tick, |alarm| alarm.min(next_tick));
        crossbeam_channel::select! {
            recv(stop) -> _ => break,
            recv(alarms.is_earlier) -> _ => {}
            default(wake_at.saturating_duration_since(Instant::now())) => {}
        }
        let now = Instant::now();
        if now < next_tick {
            continue;
        }
        next_tick = now + TICK;
        ticks += 1;
        // A recorder of metrics is the application's: its panic must not stop the clock.
        let ticked = guarded(|| {
            switchboard.tick();
            if ticks.is_multiple_of(OVERDUE_TICKS) {
                switchboard.wake_overdue();
            }
            if ticks.is_multiple_of(100) {
                switchboard.publish_gauges();
            }
        });
        if let Err(reason) = ticked {
            tracing::error!(reason, "the clock panicked; it goes on");
        }
    }
    alarms.close();
    switchboard.budget.close();
}

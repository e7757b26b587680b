//! The settings of a run: above all how long things take and may take, in terms of the usual time between two steps.
//!
//! What counts is how many messages fit into a time-out. So every time is a number of steps, and how long a step takes is
//! drawn from the seed.

use mailring_engine::{
    coordinator::CoordinatorOptions,
    ids::Time,
    locks::LockLimits,
    motion::{Heal, MotionOptions},
    outcomes::OutcomeLimits,
    participant::ParticipantOptions,
    restart::RestartPolicy,
    transaction::MAX_TRANSACTION_BYTES,
};
use std::time::Duration;

/// The settings of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Nanoseconds that a step takes at most.
    pub(crate) step: u64,
    /// Every group is forced before it is visible (`Durability::Always`); else forces come now and then, and a crash may
    /// take the newest commits.
    pub(crate) forces: bool,
    /// Outcomes are kept for a short time only, and few of them.
    pub(crate) forgets: bool,
    /// Changes of the ring go on fast.
    pub(crate) hurries_motion: bool,
    /// Bytes that the mover collects before it hands a run on.
    pub(crate) chunk_bytes: usize,
    /// Whether others take over from a node that is down.
    pub(crate) heal: Heal,
}

impl Scale {
    /// The longest lease of a lock, in steps.
    pub(crate) const LONGEST_LEASE: u64 = 400;

    /// So many usual steps.
    pub(crate) fn steps(self, steps: u64) -> Duration {
        Duration::from_nanos(self.step / 2 * steps)
    }

    /// The time after so many usual steps.
    pub(crate) fn after(self, now: Time, steps: u64) -> Time {
        now.after(self.steps(steps))
    }

    pub(crate) fn participant(self) -> ParticipantOptions {
        ParticipantOptions {
            stashed: 20,
            parked: 8,
            prepared: 12,
            reservation: self.steps(30),
            reserved: 6,
            ask_again: self.steps(40),
            ..ParticipantOptions::default()
        }
    }

    pub(crate) fn coordinator(self) -> CoordinatorOptions {
        CoordinatorOptions {
            running: 12,
            bytes: MAX_TRANSACTION_BYTES,
            vote_timeout: self.steps(150),
            ask_again: self.steps(40),
        }
    }

    pub(crate) fn motion(self) -> MotionOptions {
        MotionOptions {
            first_back_off: self.steps(10),
            longest_back_off: self.steps(150),
            hand_over: self.steps(120),
            ask_again: self.steps(100),
            caught_up_bytes: 120,
            rounds: 4,
            heal: self.heal,
        }
    }

    pub(crate) fn outcomes(self) -> OutcomeLimits {
        match self.forgets {
            true => OutcomeLimits {
                retention: self.steps(300),
                outcomes: 5,
                ..OutcomeLimits::default()
            },
            false => OutcomeLimits::default(),
        }
    }

    pub(crate) fn locks(self) -> LockLimits {
        LockLimits {
            waiters_per_lock: 6,
            max_lease: self.steps(Self::LONGEST_LEASE),
            ask_again: self.steps(40),
            ..LockLimits::default()
        }
    }

    pub(crate) fn restarts(self) -> RestartPolicy {
        RestartPolicy {
            intensity: 5,
            window: self.steps(1_000),
            first_back_off: self.steps(4),
            longest_back_off: self.steps(60),
        }
    }
}

//! The restart policy of a supervisor: whether a part that panicked is started again, and when.
//!
//! As in Erlang, a part may be restarted `intensity` times within `window`; one panic more and it is given up: whatever
//! is wrong with it, restarting does not help, and the rest of the system does better without. In between it waits, twice
//! as long each time (back-off), and by a random part less (jitter), so that parts that fell together do not rise
//! together.
//!
//! ```text
//! intensity 2, window 10 s, back-off 100 ms
//! panic at 0 s     -> restart after 50 to 100 ms
//! panic at 1 s     -> restart after 100 to 200 ms
//! panic at 2 s     -> down           (the third within 10 s)
//! panic at 10.5 s  -> instead of that one: restart after 100 to 200 ms (the first is forgotten)
//! ```
//!
//! # Invariants
//!
//! - Down is for ever: only reopening the engine makes a new policy state.
//! - The back-off of a part that panics as soon as it is started can't stretch over the window: such settings are
//!   refused, since the part would never be given up.
//!
//! # Left out
//!
//! Escalation to the parts around: nodes are restarted one for one, and a node that is down answers so by itself.

use crate::{
    error::{Error, Result},
    ids::Time,
};
use std::{collections::VecDeque, time::Duration};

/// The highest intensity.
pub const MAX_INTENSITY: u32 = 1_000;

/// How often and how soon a part is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restarts allowed within the window.
    pub intensity: u32,
    /// How long a panic counts.
    pub window: Duration,
    /// The longest wait before the first restart.
    pub first_back_off: Duration,
    /// The longest wait before any restart.
    pub longest_back_off: Duration,
}

impl Default for RestartPolicy {
    /// Five restarts a minute, after up to 10, 20, 40, 80 and 160 ms.
    fn default() -> Self {
        Self {
            intensity: 5,
            window: Duration::from_secs(60),
            first_back_off: Duration::from_millis(10),
            longest_back_off: Duration::from_secs(2),
        }
    }
}

/// What is to be done with a part that panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again at this time.
    Restart {
        /// When.
        at: Time,
    },
    /// Give it up.
    Down,
}

/// The policy's state for one part.
#[derive(Debug, Clone)]
pub struct Restarts {
    policy: RestartPolicy,
    /// The panics that still count, oldest first; never more than the intensity.
    recent: VecDeque<Time>,
    restarts: u64,
    is_down: bool,
}

impl Restarts {
    /// No panic so far.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the waits before all restarts of a window together are as long as the window, or
    /// the intensity is above [`MAX_INTENSITY`].
    pub fn new(policy: RestartPolicy) -> Result<Self> {
        if policy.intensity > MAX_INTENSITY {
            return Err(Error::InvalidOption {
                option: "restart intensity",
                value: policy.intensity.to_string(),
                reason: "it is at most 1,000: a part that fails more often is broken",
            });
        }
        let waits = (0..policy.intensity).try_fold(Duration::ZERO, |waits, earlier| {
            waits
                .checked_add(longest_wait(&policy, earlier))
                .filter(|waits| *waits < policy.window)
        });
        if waits.is_none() {
            return Err(Error::InvalidOption {
                option: "restart window",
                value: format!("{:?}", policy.window),
                reason: "the back-off before all restarts of a window must together be shorter than the window, \
                         or a part that always fails would never be given up",
            });
        }
        Ok(Self {
            policy,
            recent: VecDeque::new(),
            restarts: 0,
            is_down: false,
        })
    }

    /// The part panicked. `jitter` is a random number of the caller's.
    pub fn handle_panic(&mut self, now: Time, jitter: u64) -> Verdict {
        let window = self.policy.window;
        while self
            .recent
            .front()
            .is_some_and(|panic| panic.after(window) <= now)
        {
            self.recent.pop_front();
        }
        let earlier = self.recent.len() as u32;
        if self.is_down || earlier >= self.policy.intensity {
            self.is_down = true;
            return Verdict::Down;
        }
        self.recent.push_back(now);
        self.restarts += 1;
        let longest = nanoseconds(longest_wait(&self.policy, earlier));
        // Half of the wait is certain, so that a restart is never at once.
        let jittered = jitter % (longest / 2 + 1);
        Verdict::Restart {
            at: now.after(Duration::from_nanos(longest - jittered)),
        }
    }

    /// The part can't be brought back, whatever the policy says.
    pub fn give_up(&mut self) {
        self.is_down = true;
    }

    /// Whether the part has been given up. What else it reports is of no more interest then.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.is_down
    }

    /// Restarts ordered so far.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }
}

/// The back-off after `earlier` other panics in the window, before jitter.
fn longest_wait(policy: &RestartPolicy, earlier: u32) -> Duration {
    let doubled = 2_u32
        .checked_pow(earlier)
        .and_then(|factor| policy.first_back_off.checked_mul(factor));
    let wait = doubled.unwrap_or(Duration::MAX);
    wait.min(policy.longest_back_off)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NO_JITTER: u64 = 0;

    fn policy(intensity: u32) -> RestartPolicy {
        RestartPolicy {
            intensity,
            window: Duration::from_secs(10),
            first_back_off: Duration::from_millis(100),
            longest_back_off: Duration::from_millis(500),
        }
    }

    fn at_ms(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn restart(ms: u64) -> Verdict {
        Verdict::Restart { at: at_ms(ms) }
    }

    /// The verdicts for panics at these times, in milliseconds.
    fn verdicts(policy: RestartPolicy, panics: &[u64]) -> Vec<Verdict> {
        let mut restarts = Restarts::new(policy).expect("these settings work");
        let verdict = |ms: &u64| restarts.handle_panic(at_ms(*ms), NO_JITTER);
        panics.iter().map(verdict).collect()
    }

    #[test]
    fn the_wait_doubles_up_to_the_longest_and_then_the_part_is_down_for_ever() {
        assert_eq!(
            verdicts(policy(5), &[0, 200, 600, 1_400, 3_000, 4_000, 90_000]),
            [
                restart(100),
                restart(400),
                restart(1_000),
                restart(1_900),
                restart(3_500),
                Verdict::Down,
                Verdict::Down,
            ]
        );
    }

    #[test]
    fn a_panic_is_forgotten_when_it_has_left_the_window() {
        assert_eq!(
            verdicts(policy(2), &[0, 1_000, 10_000, 11_000, 60_000]),
            [
                restart(100),
                restart(1_200),
                restart(10_200),
                restart(11_200),
                restart(60_100),
            ]
        );
        assert_eq!(
            verdicts(policy(2), &[0, 1_000, 9_999]),
            [restart(100), restart(1_200), Verdict::Down]
        );
    }

    #[test]
    fn without_intensity_the_first_panic_is_the_last() {
        assert_eq!(verdicts(policy(0), &[5]), [Verdict::Down]);
    }

    #[test]
    fn the_default_policy_allows_five_restarts_a_minute() {
        assert_eq!(
            verdicts(RestartPolicy::default(), &[0, 10, 30, 70, 150, 310]),
            [
                restart(10),
                restart(30),
                restart(70),
                restart(150),
                restart(310),
                Verdict::Down,
            ]
        );
    }

    #[test]
    fn state_and_count_can_be_read() {
        let mut restarts = Restarts::new(policy(1)).unwrap();
        assert_eq!((restarts.restarts(), restarts.is_down()), (0, false));
        restarts.handle_panic(at_ms(0), NO_JITTER);
        assert_eq!((restarts.restarts(), restarts.is_down()), (1, false));
        restarts.handle_panic(at_ms(1), NO_JITTER);
        assert_eq!((restarts.restarts(), restarts.is_down()), (1, true));
    }

    #[test]
    fn a_part_that_was_given_up_is_not_restarted() {
        let mut restarts = Restarts::new(policy(5)).unwrap();
        restarts.give_up();
        assert!(restarts.is_down());
        let verdict = restarts.handle_panic(at_ms(0), NO_JITTER);
        assert_eq!((verdict, restarts.restarts()), (Verdict::Down, 0));
    }

    #[test]
    fn settings_under_which_a_part_would_never_be_given_up_are_refused() {
        for (longest, is_fine) in [(3_333, true), (3_334, false), (u64::MAX, false)] {
            let slow = RestartPolicy {
                first_back_off: Duration::from_secs(5),
                longest_back_off: Duration::from_millis(longest),
                ..policy(3)
            };
            assert_eq!(Restarts::new(slow).is_ok(), is_fine, "{longest}");
        }
        let idle = RestartPolicy {
            first_back_off: Duration::ZERO,
            ..policy(MAX_INTENSITY + 1)
        };
        assert!(Restarts::new(idle).is_err());
    }

    proptest! {
        #[test]
        fn jitter_takes_off_up_to_half_of_the_wait(jitter: u64, now in 0..u64::MAX / 2) {
            let mut restarts = Restarts::new(policy(1)).unwrap();
            let Verdict::Restart { at } = restarts.handle_panic(Time(now), jitter) else {
                return Err(TestCaseError::fail("the first panic is within the intensity"));
            };
            prop_assert!((50_000_000..=100_000_000).contains(&(at.0 - now)));
        }
    }
}

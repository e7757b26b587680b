//! Pauses between the attempts of one operation: the same for every subject.
//!
//! A pause is the half to the whole of a length that doubles with each refusal, so that two that met do not meet again.
//! The first lengths are shorter than the millisecond to which tokio's timer rounds, so tasks wait for a thread that
//! keeps their moments; threads just sleep.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tokio::sync::oneshot;

use crate::distribution::Rng;
use crate::subject::Style;

/// The longest pause behind the first refusal.
const FIRST: Duration = Duration::from_micros(200);

/// A pause grows no longer.
const LONGEST: Duration = Duration::from_millis(5);

struct Wait {
    until: Instant,
    wake: oneshot::Sender<()>,
}

/// Wakes tasks at their moments. The thread ends with the last clone.
#[derive(Clone)]
pub(crate) struct Timer(Sender<Wait>);

impl Timer {
    /// Starts the thread.
    pub(crate) fn start() -> Self {
        let (waits, inbox) = unbounded();
        std::thread::spawn(move || keep(&inbox));
        Self(waits)
    }

    async fn sleep(&self, pause: Duration) {
        let (wake, woken) = oneshot::channel();
        let until = Instant::now() + pause;
        // The thread lives as long as this sender, so both succeed.
        if self.0.send(Wait { until, wake }).is_ok() {
            let _ = woken.await;
        }
    }
}

fn keep(inbox: &Receiver<Wait>) {
    let mut moments = BinaryHeap::new();
    let mut sleepers = std::collections::HashMap::new();
    for number in 0u64.. {
        let now = Instant::now();
        while let Some(Reverse((until, number))) = moments.peek().copied() {
            if until > now {
                break;
            }
            moments.pop();
            let sleeper: Option<oneshot::Sender<()>> = sleepers.remove(&number);
            // Whoever has ended meanwhile need not be woken.
            let _ = sleeper.map(|wake| wake.send(()));
        }
        let wait = match moments.peek() {
            Some(Reverse((until, _))) => inbox.recv_deadline(*until),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match wait {
            Ok(Wait { until, wake }) => {
                moments.push(Reverse((until, number)));
                sleepers.insert(number, wake);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The pauses of one client.
pub(crate) struct Backoff {
    style: Style,
    timer: Timer,
    rng: Rng,
    longest: Duration,
}

impl Backoff {
    /// Those of a client of this style, by its number.
    pub(crate) fn new(style: Style, timer: Timer, seed: u64, client: u64) -> Self {
        Self {
            style,
            timer,
            rng: Rng::new(seed ^ 0xBAC0FF, client),
            longest: FIRST,
        }
    }

    /// An operation begins.
    pub(crate) fn reset(&mut self) {
        self.longest = FIRST;
    }

    fn next(&mut self) -> Duration {
        let pause = self.longest.mul_f64(0.5 + 0.5 * self.rng.unit());
        self.longest = (self.longest * 2).min(LONGEST);
        pause
    }

    /// Waits.
    pub(crate) async fn pause(&mut self) {
        let pause = self.next();
        match self.style {
            Style::Tasks => self.timer.sleep(pause).await,
            Style::Threads => std::thread::sleep(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::block_on;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Style::Tasks, Timer::start(), 1, 1);
        for _ in 0..2 {
            let mut longest = FIRST;
            for _ in 0..10 {
                let pause = backoff.next();
                assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
                longest = (longest * 2).min(LONGEST);
            }
            backoff.reset();
        }
    }

    #[test]
    fn nobody_wakes_before_the_moment_and_all_wake_whoever_came_first() {
        let timer = Timer::start();
        let began = Instant::now();
        std::thread::scope(|scope| {
            for micros in [30_000, 1_000, 15_000] {
                let timer = timer.clone();
                scope.spawn(move || {
                    block_on(timer.sleep(Duration::from_micros(micros)));
                    assert!(began.elapsed() >= Duration::from_micros(micros));
                });
            }
        });
    }
}

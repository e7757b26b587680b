//! A clock that stands still.

use mailring_engine::ids::Time;
use std::time::Duration;

pub(crate) const TICK: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(pub(crate) Time);

impl Clock {
    pub(crate) fn now(&self) -> Time {
        self.0
    }
}

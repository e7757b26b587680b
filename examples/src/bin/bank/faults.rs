//! Nodes that panic when they are told to.
//!
//! The hook that this uses is not for services: the engine's own tests inject panics with it, and it may change at any
//! time. A panic of the hook is a panic of the handler around it, just as if the handler had a bug.

use mailring::{FaultHook, FaultSite};
use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const WORDS: &str = "this panic was ordered";

/// Messages that the nodes handle until one of them panics; 0 is never.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<AtomicU64>);

impl Faults {
    /// Has the node panic that handles a message after so many others, in the middle of whatever it is doing.
    pub(crate) fn order(&self, after: u64) {
        self.0.store(after + 1, Ordering::Relaxed);
    }

    pub(crate) fn hook(&self) -> FaultHook {
        let left = Arc::clone(&self.0);
        Arc::new(move |site: &FaultSite<'_>| {
            // The messages of a restart are spared: each order shall be one restart.
            let is_restart = matches!(site.message, "Fenced" | "Rebuilt" | "GoDown" | "ReadOnly");
            if site.actor != "node" || is_restart || left.load(Ordering::Relaxed) == 0 {
                return;
            }
            let count = |left: u64| left.checked_sub(1);
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) == Ok(1) {
                panic!("{WORDS}");
            }
        })
    }
}

/// Keeps the ordered panics off the terminal. Any other is told as usual.
pub(crate) fn say_nothing_of_orders() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(WORDS) {
            usual(info);
        }
    }));
}

//! A bounded queue without its messages: how many have not been answered, and a place in it for each.
//!
//! A mailbox of actix does not say how full it is, and counts a sender's message when it is handled, not when it is answered.

use crate::sync::{AtomicUsize, Notify, Ordering::Relaxed};
use std::sync::Arc;

/// Counts the requests that a node has not answered, and bounds them.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    capacity: usize,
    /// Wakes who waits for the node's answers, to look at his deadline.
    pub(crate) overdue: Notify,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            capacity,
            overdue: Notify::new(),
        }
    }

    /// A place in the queue, if there is one.
    pub(crate) fn enter(queue: &Arc<Self>) -> Option<Place> {
        let waiting = queue.waiting.fetch_add(1, Relaxed);
        let place = Place {
            queue: Arc::clone(queue),
        };
        (waiting < queue.capacity).then_some(place)
    }

    pub(crate) fn depth(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Lets all who wait look at their deadlines.
    pub(crate) fn wake_overdue(&self) {
        if self.depth() > 0 {
            self.overdue.notify_waiters();
        }
    }
}

/// A place in a node's queue, left when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Relaxed);
    }
}

//! What actors and handles share beside messages, in every order of steps: who waits is woken, bounds hold, and a grant is told
//! with its terms.
//!
//! The code is that of the actors' crate (`budget`, `queue`, `locks/ticket`); its locks and atomics are loom's, which tries
//! all orders of steps with up to three preemptions. A wait that nobody ends is a deadlock, which loom reports. Each test is
//! checked itself: a `Fault` has somebody take a step in the wrong order or leave it out, and must be found.
//!
//! Left out: the desk of the lock manager, all of which is under one mutex, and tokio's `Notify`, for which `sync` has a
//! stand-in with the same promise.

#![allow(
    dead_code,
    reason = "the actors' files are taken whole, and tried in part"
)]

mod clock;
mod guard;
mod sync;

#[path = "../../src/budget.rs"]
mod budget;
#[path = "../../src/queue.rs"]
mod queue;
#[path = "../../src/locks/ticket.rs"]
mod ticket;

#[cfg(test)]
mod tests;

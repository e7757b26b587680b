//! Locks with leases and fencing tokens: the lock manager's thinking.
//!
//! ```text
//!  handle ── Acquire ──▶ at once, or behind whoever waits ──▶ Held { token, expires } │ Refused
//!  guard  ── Convert ──▶ upgrade or downgrade ─────────────▶ Held, Converted          │ Refused
//!  clock  ── a third of the lease has passed ─────────────▶ RenewalDue ── Renew ──▶ Held
//!            all of it has ───────────────────────────────▶ Lost, and the next one's Held
//!  guard  ── Release ──▶ the next one's Held
//!
//!  coordinator ── PrepareFence ──▶ Vote ;  past its deadline ──▶ Ask ;  ResolveFence ──▶ the lock is free to go on
//! ```
//!
//! A lock is leased, never given: a holder that stops answering loses it when its lease is over. It may not know that
//! yet, so every grant has a token, which rises with each grant (Chubby's sequencer). A commit that carries a token is
//! put to the vote of the lock manager ([`LockMessage::PrepareFence`]), which refuses it unless the token is the
//! present holder's, and keeps the lock with the holder from that vote to the decision. So this cannot happen (Kleppmann,
//! *How to do distributed locking*, 2016):
//!
//! ```text
//!  A: lock, token 33 ──── pauses past its lease ─────────────── writes under 33: refused
//!  B:                        lock, token 34, writes under 34
//! ```
//!
//! | part | holds |
//! |---|---|
//! | `mode` | which modes go together |
//! | `lock` | one lock: its holders and its two lines of waiters |
//! | `table` | all locks, sessions and timers; the messages |
//! | `holding` | a lock between its grant and its end: leases, renewal, release |
//! | `fence` | votes on transactions, and the lives of the manager that voted |
//! | `deadlock` | the search for cycles |
//! | `listing` | what a person sees |
//!
//! # Invariants
//!
//! - Two sessions hold a lock together only in compatible modes, also while one of them is being decided under a fence.
//! - The tokens of a lock strictly rise in the order of its grants, over restarts too: the upper bits are the number of the
//!   opening, which the caller makes durable before the table is made, and a panic within it goes on counting.
//! - Nothing is granted before `grants_from`: the leases of the life before are over by then. Nor before the journal knows
//!   this life, so that nothing is committed any more under a vote of an earlier one. Requests wait meanwhile.
//! - A message is handled after everything that is due at its time. Only the monotonic time passed in counts, so a stall
//!   makes leases end late, and never early or twice.
//! - Nobody in the queue is overtaken by anybody of the queue. A request is answered once, by `Held` or `Converted` or
//!   `Refused`, unless it is released first. A grant ends once, by `Lost` or without a word by `Release`.
//! - No cycle of waits is left when a message has been handled, and its youngest session is the one refused.
//! - A lock, a session, a request that is neither held nor waiting is forgotten.
//!
//! # Left out
//!
//! Priorities. Waking a holder to ask it to give way. Locking ranges of keys: validation guards those, locks are to save
//! work. Durable holds: after a restart the leases of the former life are waited for, and its guards are told.

mod deadlock;
mod fence;
mod holding;
mod listing;
mod lock;
mod message;
mod mode;
mod slots;
mod table;
#[cfg(test)]
mod tests;

pub use deadlock::WaitsFor;
pub(crate) use deadlock::describe_cycle;
pub use listing::{Holder, LockListing, WaitingRequest};
pub use message::{
    Acquire, FencingToken, LockEffect, LockMessage, Resource, Session, SessionId, Wait,
};
pub use mode::Mode;
pub use table::{FIRST_LOCK_LIFE, LockLimits, LockTable, MAX_LOCK_NAME_BYTES};

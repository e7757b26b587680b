//! Locks with leases: the handle's side.
//!
//! ```text
//!  LockRequest ─▶ Ticket, Submit ─▶ desk ─ one Drain a round ─▶ LockManager ─▶ LockTable
//!       ▲                                                          │ effects of the whole round
//!       └──────── woken ◀── Ticket: held, refused or lost ◀────────┘
//! ```
//!
//! A request and its guard share a *ticket* with the lock manager: its state, token and lease. Handles put their messages
//! on a *desk*, a list under a short lock, and only the first of a round wakes the manager; the answers of a round go out
//! together at its end, so that many locks share two wake-ups. Dropping a waiting future or a guard puts a release on
//! the desk and never waits.
//!
//! A guard's lease is renewed in its name by the manager, as long as the guard is there, whenever a third of the lease
//! has passed. So a lease is lost when the whole process stalls, when the engine stops, when the manager panics, or, for
//! a guard that renews by hand, when its owner does not. The guard's own clock tells it so even when nobody else can.
//!
//! Transactions lock keys by the same tickets, without a lease: a transaction that is dropped releases them.
//!
//! A commit that carries a fence is put to the manager's vote by the coordinator, on the same desk
//! ([`mailring_engine::transaction`]).

mod blocking;
mod desk;
mod election;
mod fences;
mod guard;
mod keys;
mod listing;
mod manager;
mod request;
mod ticket;

pub use election::{Candidacy, Leader, Observer};
pub use guard::LockGuard;
pub use listing::{LockHolder, LockInfo, LockWaiter};
pub use request::{LockRequest, LockSession, Locks};

pub(crate) use desk::LockDesk;
pub(crate) use fences::{add_fence, fence, invalid as invalid_fence};
pub(crate) use keys::{KeyGrant, KeyLocks};
pub(crate) use manager::LockManager;

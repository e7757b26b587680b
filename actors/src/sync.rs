//! The primitives of what the actors and handles share beside messages: `budget`, `queue` and a lock's `ticket` take theirs from
//! here.
//!
//! The package in `actors/model` compiles these files once more, with its own `sync`: that of a model checker, which runs
//! them in every order of steps that the memory model allows.

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
};
pub(crate) use tokio::sync::Notify;

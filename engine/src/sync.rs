//! The primitives by which readers share memory with the nodes: the real ones, or those of a model checker.
//!
//! `generation`, `cache` and `view` take theirs from here. The package in `engine/model` compiles this same source with a
//! feature that this package does not have, and runs it under loom in every order of steps that the memory model allows.

#[cfg(feature = "model")]
mod model;

#[cfg(not(feature = "model"))]
pub(crate) use self::real::*;
#[cfg(feature = "model")]
pub(crate) use model::*;

#[cfg(not(feature = "model"))]
mod real {
    pub(crate) use arc_swap::ArcSwap;
    pub(crate) use dashmap::{DashMap, Entry};
    pub(crate) use std::sync::{
        Mutex, MutexGuard, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize},
    };
}

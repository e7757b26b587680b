//! The thinking of mailring: state machines without clock, threads or randomness, and the two places that do
//! blocking I/O behind small traits, the journal and the stores.
//!
//! Users depend on the `mailring` crate, which puts these machines into actors; nothing here is a stable interface.

// Beside the methods that `clippy.toml` disallows: `for … in &map` can't be named there.
#![warn(clippy::iter_over_hash_type)]

mod arc_set;
pub mod cache;
pub mod checkpoint;
pub mod coordinator;
pub mod directories;
pub mod disk;
pub mod draft;
pub mod error;
mod few;
pub mod generation;
pub mod generation_source;
pub mod ids;
pub mod journal;
pub mod keyspaces;
pub mod locks;
pub mod manifest;
pub mod motion;
pub mod open_keyspaces;
pub mod orphans;
pub mod outcomes;
pub mod packed;
pub mod participant;
pub mod rebuild;
pub mod replay;
pub mod restart;
pub mod ring;
pub mod ring_state;
pub mod routes;
pub mod run;
pub mod scan;
pub mod sequencer;
pub mod store;
mod sync;
pub mod transaction;
pub mod value;
pub mod view;
mod wire;

pub use error::{Error, Result, Rival};

//! A deterministic simulator of mailring: the real machines, the real journal byte by byte, and everything around them
//! simulated, in one thread, in simulated time, from a seed.
//!
//! # Concept
//!
//! ```text
//!              ┌───────────────────────────── one seed ─────────────────────────────┐
//!   clients ──▶│ mailboxes ──▶ node · node · node   coordinator   checkpointer       │
//!   (workload) │ (network)       │       │      │        │             │             │
//!              │                 └── sequencer ──▶ journal · journal ── disk · disk   │
//!              │                                                   trees (store)     │
//!              └─▲────────────────────────────▲───────────────────────▲──────────────┘
//!              faults                     invariants               history ──▶ checker
//! ```
//!
//! What is real: [`mailring_engine`]'s participant, sequencer, coordinator, checkpointer, restart policy, ring and its changes
//! (`motion`, `ring_state`, `routes`), manifest, outcomes, read path, journal and recovery over several of them
//! (`directories`). What is simulated: mailboxes, threads, time,
//! the disk's page cache and medium, the trees' files, clients. The shells between (`shell`) are as thin as the actors for
//! which they stand.
//!
//! A run has a safety phase, in which everything goes wrong that may go wrong, and a liveness phase, in which nothing does
//! and everything must come to its end (`liveness`). A failure is a panic of an assertion; [`run`] turns it into a
//! [`Failure`], which says how to replay it.
//!
//! # Invariants
//!
//! - The same seed and options give the same trace, byte for byte: nothing here reads a clock, a thread or the order of
//!   a hash map.
//! - Every check is on in every build.
//! - Mutations sit here and never in the engine.
//!
//! # Left out
//!
//! The actors themselves, and the `lsm-tree` under the nodes: the first have tests of their own that panic at every
//! message, the second a differential test against a naive model, which the store that stands for it here passes too.

pub mod checker;
mod crash;
mod damage;
pub mod dice;
mod disks;
mod failure;
pub mod faults;
mod groups;
mod invariants;
mod keys;
mod liveness;
mod model;
pub mod mutation;
mod network;
pub mod options;
mod pin;
mod power;
mod process;
mod recovery;
pub mod report;
mod scale;
mod shell;
mod store;
mod surroundings;
pub mod trace;
mod watch;
mod workload;
mod world;

pub use failure::Failure;
pub use mutation::Mutation;
pub use options::Options;
pub use report::{Report, Summary};

use world::World;

/// A run that kept every invariant, or the one that it broke.
///
/// # Errors
///
/// The failure, with what replays it.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Failure> {
    run_traced(seed, options).0
}

/// As [`run`], with the readable trace if the options ask for it.
pub fn run_traced(seed: u64, options: &Options) -> (Result<Summary, Failure>, String) {
    let mut world = None;
    let outcome = failure::catch(|| {
        let world: &mut World = world.insert(World::new(seed, options));
        world.run(options.steps);
        world.summary.clone()
    });
    let text = world.map_or_else(String::new, |mut world| world.trace.take_text());
    let outcome = outcome.map_err(|(reason, place)| Failure {
        seed,
        options: options.clone(),
        reason,
        place,
    });
    (outcome, text)
}

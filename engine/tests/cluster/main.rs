//! A whole engine without threads: real machines, a real journal on a disk that forgets, and a seed that decides what
//! comes next. Every step is checked against a model that reads the journal's groups as they are written.
//!
//! `MAILRING_SEED=17 cargo test -p mailring-engine --test cluster` replays one seed, `MAILRING_SEEDS=20000` runs more.
//!
//! Messages between two actors arrive in order; whose message comes next is drawn. (What the checkpointer and the
//! rebuilding thread send to a node shares one queue, since a mailbox keeps causes before effects, and that the
//! journal is released only behind what a node was told.)

mod actors;
mod coordinator;
mod coverage;
mod locks;
mod model;
mod tamper;
mod transactions;
mod world;

use coverage::{Coverage, Mutation};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

const SEEDS: u64 = 600;
const STEPS: usize = 350;

/// Runs one seed to its end; the hash of its trace, and what it has covered.
fn run(seed: u64, mutation: Option<Mutation>) -> (u64, Coverage) {
    let mut random = StdRng::seed_from_u64(seed);
    let steps = random.random_range(STEPS / 4..STEPS * 2);
    let mut world = World::new(random, mutation);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
    (world.trace(), world.coverage())
}

/// The words of the panic that ended a run, if one did.
fn failure(seed: u64, mutation: Option<Mutation>) -> Result<(u64, Coverage), String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, mutation))).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default()
    })
}

#[test]
fn every_schedule_keeps_the_invariants() {
    if let Ok(seed) = std::env::var("MAILRING_SEED") {
        run(seed.parse().expect("MAILRING_SEED is a number"), None);
        return;
    }
    let seeds = std::env::var("MAILRING_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("it is a number"));
    let mut total = Coverage::default();
    for seed in 0..seeds {
        match failure(seed, None) {
            Ok((_, coverage)) => total.add(&coverage),
            Err(reason) => panic!(
                "seed {seed}: {reason}\nreplay: MAILRING_SEED={seed} cargo test -p mailring-engine --test cluster every"
            ),
        }
    }
    println!("{seeds} seeds: {total:?}");
    assert!(total.covers_everything(), "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert_eq!(run(seed, None).0, run(seed, None).0, "seed {seed}");
    }
}

#[test]
fn every_mutation_is_found() {
    for mutation in Mutation::ALL {
        let found = (0..1_200).find_map(|seed| Some((seed, failure(seed, Some(mutation)).err()?)));
        let (seed, reason) = found.unwrap_or_else(|| panic!("{mutation:?} was not found"));
        println!("{mutation:?}: seed {seed}: {reason}");
    }
}

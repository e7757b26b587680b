//! The checker is checked: every mutation of the protocol is found within its number of seeds.

use mailring_simulator::{Mutation, Options, run};
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Within how many seeds a mutation must be found; nearly all are found within a few.
fn bound(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::WriteIntoHeldRead
        | Mutation::HandOnAtVote
        | Mutation::HandOnAtLsn
        | Mutation::GrantUnannounced
        | Mutation::PublishEarly => 1_500,
        Mutation::IgnoreLockLife => 4_000,
        Mutation::KeepOldRoutes => 6_000,
        _ => 500,
    }
}

/// What gives the mutation away, if anything does.
fn found(mutation: Mutation) -> Option<String> {
    let options = Options {
        mutation: Some(mutation),
        ..Options::default()
    };
    let failure = (0..bound(mutation)).find_map(|seed| run(seed, &options).err())?;
    Some(format!("seed {}: {}", failure.seed, failure.reason))
}

#[test]
fn every_mutation_is_found() {
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let search = || {
        while let Some(mutation) = Mutation::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            match found(*mutation) {
                Some(how) => println!("{mutation:?}: {how}"),
                None => missed.lock().unwrap().push(*mutation),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(search);
        scope.spawn(search);
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

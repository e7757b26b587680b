//! The checker is checked: every mutation of the protocol is found within its number of seeds.

use mailring_simulator::{Mutation, Options, run};

/// Within how many seeds a mutation must be found. `TESTING.md` says at which one it was.
fn bound(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::WriteIntoHeldRead | Mutation::HandOnAtVote => 300,
        Mutation::IgnoreLockLife | Mutation::GrantUnannounced => 1_500,
        _ => 150,
    }
}

#[test]
fn every_mutation_is_found() {
    let mut missed = Vec::new();
    for mutation in Mutation::ALL.iter().copied() {
        let options = Options {
            mutation: Some(mutation),
            ..Options::default()
        };
        let found = (0..bound(mutation)).find_map(|seed| run(seed, &options).err());
        match found {
            Some(failure) => println!("{mutation:?}: seed {}: {}", failure.seed, failure.reason),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

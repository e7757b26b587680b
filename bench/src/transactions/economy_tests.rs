//! Tests of what comes and how often.

use super::*;
use crate::transactions::program::Key;
use std::collections::HashMap;

const DRAWS: usize = 20_000;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

fn economy(mix: Mix, distribution: Option<Distribution>) -> Economy {
    Economy::new(mix, 1_000, distribution, 0.9, 20).unwrap()
}

fn programs(economy: &Economy) -> impl Iterator<Item = Program> {
    let mut rng = Rng::new(3, 0);
    (0..DRAWS).map(move |_| economy.next(&mut rng))
}

#[test]
fn transfers_cross_nodes_as_often_as_was_asked_for() {
    let placement = Placement::of(1_000, 4, &runtime()).unwrap();
    let node_of: HashMap<Key, u16> = (0..1_000)
        .map(|account| (key_of(account), placement.node(account)))
        .collect();
    for distribution in [Distribution::Uniform, Distribution::Zipfian] {
        for percent in [0, 50, 100] {
            let economy = economy(Mix::Transfer, Some(distribution));
            let economy = economy.crossing(percent, placement.clone());
            let crossing = programs(&economy)
                .filter(|program| node_of[&program.keys[0]] != node_of[&program.keys[1]])
                .count();
            let expected = DRAWS * percent as usize / 100;
            assert!(crossing.abs_diff(expected) <= 2 * DRAWS / 100, "{crossing}");
            assert!(percent == 50 || crossing == expected, "{crossing}");
        }
    }
}

#[test]
fn a_placement_that_leaves_no_pair_is_refused() {
    assert!(Placement::of(1_000, 1, &runtime()).is_err());
    assert!(Placement::of(10, 200, &runtime()).is_err());
}

#[test]
fn smallbank_has_the_shares_of_its_mix_and_never_the_same_row_twice() {
    let economy = economy(Mix::Smallbank, Some(Distribution::Zipfian));
    let mut shares: HashMap<&str, usize> = HashMap::new();
    for program in programs(&economy) {
        let name = match program.procedure {
            Procedure::Balance => "balance",
            Procedure::DepositChecking(_) => "deposit",
            Procedure::TransactSavings(_) => "savings",
            Procedure::Amalgamate => "amalgamate",
            Procedure::WriteCheck(_) => "check",
            Procedure::SendPayment(_) => "payment",
            other => panic!("{other:?} is not of SmallBank"),
        };
        *shares.entry(name).or_default() += 1;
        let mut keys = program.keys.clone();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), program.keys.len());
    }
    assert_eq!(shares.len(), 6);
    for (name, count) in shares {
        let percent = if name == "payment" { 25 } else { 15 };
        assert!(
            count.abs_diff(DRAWS * percent / 100) < DRAWS / 100,
            "{name}"
        );
    }
}

#[test]
fn ycsb_t_reads_nine_times_of_ten_and_its_hottest_account_is_zipfian() {
    let economy = economy(Mix::YcsbT, None);
    let reads: Vec<Program> = programs(&economy)
        .filter(|program| program.procedure == Procedure::Read)
        .collect();
    assert!(reads.len().abs_diff(DRAWS * 9 / 10) < DRAWS / 100);
    let hottest = reads.iter().filter(|program| program.keys[0] == key_of(0));
    assert!(
        hottest.count() > DRAWS / 20,
        "a uniform choice gives a thousandth"
    );
}

#[test]
fn the_cap_is_one_over_the_share_of_the_hottest_account() {
    let zipfian = Economy::new(Mix::Transfer, 10_000, Some(Distribution::Zipfian), 0.9, 8);
    let cap = zipfian.unwrap().cap_per_force(1);
    assert!((7.0..10.0).contains(&cap), "{cap}");
    let uniform = economy(Mix::Transfer, None).cap_per_force(1);
    assert!((400.0..600.0).contains(&uniform), "{uniform}");
}

#[test]
fn openings_and_audits_cover_every_row_once() {
    for mix in Mix::value_variants() {
        let economy = economy(*mix, None);
        let count = |programs: Vec<Program>| -> usize {
            let mut keys: Vec<Key> = programs
                .into_iter()
                .flat_map(|program| program.keys)
                .collect();
            let all = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), all);
            all
        };
        assert_eq!(count(economy.openings().collect()) as u64, economy.rows());
        assert_eq!(count(economy.audits().collect()) as u64, economy.rows());
    }
}

#[test]
fn one_seed_gives_one_sequence_of_programs() {
    for mix in Mix::value_variants() {
        let economy = economy(*mix, None);
        let draw = |seed| {
            let mut rng = Rng::new(seed, 0);
            (0..100)
                .map(|_| economy.next(&mut rng))
                .map(|program| (program.procedure, program.keys))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(4), draw(4), "{mix:?}");
        assert!(*mix == Mix::Counter || draw(4) != draw(5), "{mix:?}");
    }
}

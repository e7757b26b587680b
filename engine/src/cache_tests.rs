//! The cache alone, against a model, and under threads together with a generation.

use super::*;
use crate::{generation::Generation, value::Write};
use proptest::prelude::*;
use std::{
    collections::HashMap,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

const ROOMY: usize = 1 << 20;

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key{number:05}"))
}

fn value(number: u64) -> Option<Value> {
    Some(Value::new(Bytes::from(number.to_string())))
}

fn fill(cache: &RowCache, number: u64, lsn: u64) {
    cache.fill(&key(number), Lsn(lsn), value(lsn).as_ref(), || true);
}

fn hit(lsn: u64) -> Lookup {
    Lookup::Hit(Lsn(lsn), value(lsn))
}

#[test]
fn a_row_answers_at_and_after_its_lsn_only() {
    let cache = RowCache::new(ROOMY, 1);
    assert_eq!(cache.get(&key(1), Lsn(9)), Lookup::Miss);
    fill(&cache, 1, 5);
    assert_eq!(cache.get(&key(1), Lsn(4)), Lookup::TooNew);
    assert_eq!(cache.get(&key(1), Lsn(5)), hit(5));
    assert_eq!(cache.get(&key(1), Lsn(9)), hit(5));
}

#[test]
fn absence_is_a_row_too() {
    let cache = RowCache::new(ROOMY, 1);
    cache.fill(&key(1), Lsn(0), None, || true);
    assert_eq!(cache.get(&key(1), Lsn(3)), Lookup::Hit(Lsn(0), None));
    cache.update(&key(1), Lsn(4), value(4).as_ref());
    assert_eq!(cache.get(&key(1), Lsn(4)), hit(4));
    cache.update(&key(1), Lsn(5), None);
    assert_eq!(cache.get(&key(1), Lsn(5)), Lookup::Hit(Lsn(5), None));
}

#[test]
fn an_update_changes_a_row_and_adds_none_but_an_insert_does() {
    let cache = RowCache::new(ROOMY, 1);
    cache.update(&key(1), Lsn(1), value(1).as_ref());
    assert!(cache.is_empty());
    assert_eq!(cache.bytes(), 0);
    cache.insert(&key(1), Lsn(2), value(2).as_ref());
    assert_eq!(cache.get(&key(1), Lsn(2)), hit(2));
    cache.update(&key(1), Lsn(3), value(3).as_ref());
    assert_eq!(cache.get(&key(1), Lsn(3)), hit(3));
}

#[test]
fn an_older_version_never_replaces_a_newer_one() {
    let cache = RowCache::new(ROOMY, 1);
    cache.insert(&key(1), Lsn(8), value(8).as_ref());
    fill(&cache, 1, 7);
    cache.update(&key(1), Lsn(6), value(6).as_ref());
    cache.insert(&key(1), Lsn(5), value(5).as_ref());
    assert_eq!(cache.get(&key(1), Lsn(9)), hit(8));
}

#[test]
fn a_fill_that_is_not_the_newest_any_more_is_dropped() {
    let cache = RowCache::new(ROOMY, 1);
    cache.fill(&key(1), Lsn(3), value(3).as_ref(), || false);
    assert_eq!(cache.get(&key(1), Lsn(9)), Lookup::Miss);
    fill(&cache, 1, 2);
    cache.fill(&key(1), Lsn(3), value(3).as_ref(), || false);
    assert_eq!(cache.get(&key(1), Lsn(9)), hit(2));
}

#[test]
fn a_full_cache_admits_a_key_at_its_second_miss() {
    let cache = RowCache::new(10_000, 1);
    let mut number = 0;
    while cache.bytes() + weight(&key(0), value(1).as_ref()) <= cache.budget() {
        fill(&cache, number, 1);
        number += 1;
    }
    assert_eq!(
        cache.len() as u64,
        number,
        "a cache with room admits at once"
    );
    fill(&cache, 99_999, 1);
    assert_eq!(cache.get(&key(99_999), Lsn(1)), Lookup::Miss);
    fill(&cache, 99_999, 1);
    assert_eq!(cache.get(&key(99_999), Lsn(1)), hit(1));
    assert!(cache.bytes() <= cache.budget());
}

#[test]
fn rows_that_are_read_outlive_rows_that_are_not() {
    let cache = RowCache::new(400_000, 1);
    let rows = (400_000 / weight(&key(0), value(1).as_ref())) as u64;
    let hot = rows / 10;
    for number in 0..rows {
        fill(&cache, number, 1);
    }
    for number in rows..rows * 4 {
        (0..hot).for_each(|hot| drop(cache.get(&key(hot), Lsn(1))));
        cache.insert(&key(number), Lsn(1), value(1).as_ref());
    }
    let kept = (0..hot).filter(|hot| cache.get(&key(*hot), Lsn(1)) == hit(1));
    assert!(kept.count() as u64 >= hot * 95 / 100);
}

#[test]
fn a_cache_whose_every_row_is_read_still_evicts() {
    let cache = RowCache::new(100_000, 1);
    for number in 0..2_000 {
        cache.insert(&key(number), Lsn(1), value(1).as_ref());
        (0..=number).for_each(|number| drop(cache.get(&key(number), Lsn(1))));
        assert!(cache.bytes() <= cache.budget());
    }
    assert!(cache.len() > 200);
}

#[test]
fn a_row_that_would_push_out_many_is_not_admitted_and_leaves_no_stale_one() {
    let cache = RowCache::new(80_000, 1);
    let large = Value::new(Bytes::from(vec![0; 20_000]));
    cache.insert(&key(1), Lsn(1), Some(&large));
    cache.fill(&key(1), Lsn(1), Some(&large), || true);
    assert!(cache.is_empty());
    fill(&cache, 1, 1);
    cache.insert(&key(1), Lsn(2), Some(&large));
    let found = cache.get(&key(1), Lsn(2));
    assert_ne!(found, hit(1), "an older version shines through");
    assert!(cache.bytes() <= cache.budget());
}

#[test]
fn a_cache_without_budget_keeps_nothing() {
    let cache = RowCache::new(0, 1);
    fill(&cache, 1, 1);
    cache.insert(&key(1), Lsn(1), None);
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
}

#[test]
fn a_smaller_budget_evicts_down_to_it_and_clear_frees_every_byte() {
    let cache = RowCache::new(ROOMY, 1);
    (0..1_000).for_each(|number| fill(&cache, number, 1));
    let full = cache.bytes();
    cache.resize(full / 2);
    assert!(cache.bytes() <= full / 2 && cache.bytes() > full / 2 - 1_000);
    cache.clear();
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
    fill(&cache, 1, 1);
    assert_eq!(cache.get(&key(1), Lsn(1)), hit(1));
}

#[test]
fn clear_forgets_a_row_whose_entry_another_thread_has_in_hand() {
    let cache = RowCache::new(ROOMY, 1);
    fill(&cache, 1, 1);
    let in_hand = cache.queue_of(cache.hash(&key(1)));
    assert_eq!(cache.queue(in_hand).pop_front(), Some(key(1)));
    cache.clear();
    assert_eq!(cache.get(&key(1), Lsn(1)), Lookup::Miss);
}

#[test]
fn a_dropped_prefix_is_forgotten_and_its_places_do_not_pile_up() {
    let cache = RowCache::new(ROOMY, 1);
    fill(&cache, 1, 1);
    for round in 0..200 {
        (10_000..10_100).for_each(|number| fill(&cache, number, round + 1));
        cache.remove_prefix(b"key10");
        assert_eq!(cache.get(&key(10_000), Lsn(999)), Lookup::Miss);
        assert!(cache.bytes() <= cache.budget());
        let entries: usize = (0..SHARDS).map(|queue| cache.queue(queue).len()).sum();
        assert!(entries * entry_weight(&key(1)) <= cache.budget());
    }
    cache.clear();
    assert_eq!(cache.bytes(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Install(u64, bool),
    Read(u64),
    Resize(usize),
    RemovePrefix(u64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0_u64..40, any::<bool>()).prop_map(|(key, insert)| Step::Install(key, insert)),
        40 => (0_u64..40).prop_map(Step::Read),
        1 => (0_usize..12_000).prop_map(Step::Resize),
        1 => (0_u64..4).prop_map(Step::RemovePrefix),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens_a_hit_is_the_newest_version_and_bytes_are_counted_right(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let cache = RowCache::new(8_000, 7);
        let mut newest: HashMap<u64, u64> = HashMap::new();
        for (lsn, step) in (1..).zip(steps) {
            match step {
                Step::Install(number, insert) => {
                    newest.insert(number, lsn);
                    if insert {
                        cache.insert(&key(number), Lsn(lsn), value(lsn).as_ref());
                    } else {
                        cache.update(&key(number), Lsn(lsn), value(lsn).as_ref());
                    }
                }
                Step::Read(number) => {
                    let expected = newest.get(&number).copied().unwrap_or(0);
                    match cache.get(&key(number), Lsn(lsn)) {
                        Lookup::Miss => fill(&cache, number, expected),
                        found => prop_assert_eq!(found, hit(expected)),
                    }
                }
                Step::Resize(budget) => cache.resize(budget),
                Step::RemovePrefix(tens) => cache.remove_prefix(format!("key000{tens}").as_bytes()),
                Step::Clear => cache.clear(),
            }
            prop_assert!(cache.bytes() <= cache.budget());
            let rows: usize = cache.rows.iter().map(|row| row_weight(row.value.as_ref())).sum();
            let entries: usize = (0..SHARDS)
                .map(|queue| cache.queue(queue).iter().map(|key| entry_weight(key)).sum::<usize>())
                .sum();
            prop_assert_eq!(cache.bytes(), rows + entries);
        }
    }
}

#[test]
fn under_threads_a_hit_is_never_older_than_what_was_visible() {
    const KEYS: u64 = 40;
    const COMMITS: u64 = if cfg!(miri) { 200 } else { 60_000 };
    const READERS: u64 = 3;
    // Room for half of the keys, so that rows come and go all the time.
    let budget = 20 * weight(&key(0), value(COMMITS).as_ref());
    let (cache, generation) = (RowCache::new(budget, 1), Generation::new());
    let (visible, hits) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (cache, generation, visible, hits) = (&cache, &generation, &visible, &hits);
            scope.spawn(move || {
                let mut number = reader;
                loop {
                    number += 7 + reader;
                    let (at, wanted) = (visible.load(Acquire), number % KEYS);
                    // Commit n writes n to key n % KEYS, so the answer follows from the LSN alone.
                    let newest = (at + 1).saturating_sub((at + KEYS - wanted) % KEYS + 1);
                    match cache.get(&key(wanted), Lsn(at)) {
                        Lookup::Hit(lsn, found) => {
                            assert_eq!((lsn, found), (Lsn(newest), value(newest)), "at {at}");
                            hits.fetch_add(1, Relaxed);
                        }
                        Lookup::TooNew => {}
                        Lookup::Miss => {
                            let newest = || generation.newest_any(&key(wanted));
                            if let Some((lsn, found)) = newest() {
                                let is_newest = || newest().is_some_and(|newer| newer.0 == lsn);
                                cache.fill(&key(wanted), lsn, found.as_ref(), is_newest);
                            }
                        }
                    }
                    let most = budget + (READERS as usize + 1) * (budget / 20 + 16);
                    assert!(cache.bytes() <= most);
                    if at == COMMITS {
                        break;
                    }
                }
            });
        }
        for lsn in 1..=COMMITS {
            let write = Write {
                key: key(lsn % KEYS),
                value: value(lsn),
            };
            generation.insert(Lsn(lsn), &write);
            cache.update(&write.key, Lsn(lsn), write.value.as_ref());
            visible.store(lsn, Release);
        }
    });
    assert!(hits.into_inner() > 0);
    assert!(cache.bytes() <= budget);
}

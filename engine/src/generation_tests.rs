//! Tests of the generation: against a plain model, and with readers beside the writer.

use super::*;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64},
};

/// All versions of all keys, the plain way.
type Model = BTreeMap<Bytes, BTreeMap<Lsn, Option<Value>>>;

fn write(key: &[u8], value: Option<u64>) -> Write {
    Write {
        key: Bytes::copy_from_slice(key),
        value: value.map(|number| Value::new(Bytes::from(number.to_string()))),
    }
}

/// Keys that share prefixes, end in zeros, and are longer and shorter than the integers beside them.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop_oneof![Just(0), Just(1), Just(0xff)];
    prop_oneof![
        prop::collection::vec(letter.clone(), 0..4),
        prop::collection::vec(letter, 0..3).prop_map(|tail| [vec![7; 23], tail].concat()),
    ]
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

fn fill(commits: &[(Vec<u8>, Option<u64>)]) -> (Generation, Model) {
    let (generation, mut model) = (Generation::new(), Model::new());
    for (number, (key, value)) in commits.iter().enumerate() {
        let lsn = Lsn(number as u64 * 2 + 1);
        let write = write(key, *value);
        generation.insert(lsn, &write);
        let versions = model.entry(write.key).or_default();
        versions.insert(lsn, write.value);
    }
    (generation, model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_point_read_finds_the_newest_version_at_its_lsn(
        commits in prop::collection::vec((key(), prop::option::of(any::<u64>())), 0..60),
        wanted in key(),
        at in 0_u64..130,
    ) {
        let (generation, model) = fill(&commits);
        let expected = model.get(wanted.as_slice()).and_then(|versions| {
            versions.range(..=Lsn(at)).next_back().map(|(lsn, value)| (*lsn, value.clone()))
        });
        prop_assert_eq!(generation.newest(&wanted, Lsn(at)), expected);
        let newest = model.get(wanted.as_slice()).and_then(|versions| {
            versions.last_key_value().map(|(lsn, value)| (*lsn, value.clone()))
        });
        prop_assert_eq!(generation.newest_any(&wanted), newest);
    }

    #[test]
    fn a_scan_in_chunks_is_the_scan_of_the_model(
        commits in prop::collection::vec((key(), prop::option::of(any::<u64>())), 0..120),
        low in bound(),
        high in bound(),
        at in 0_u64..250,
        reverse: bool,
        limit in 1_usize..9,
    ) {
        let (generation, model) = fill(&commits);
        let mut expected: Vec<_> = model
            .iter()
            .filter(|(key, _)| {
                is_above(key, low.as_ref().map(Vec::as_slice))
                    && is_below(key, high.as_ref().map(Vec::as_slice))
            })
            .filter_map(|(key, versions)| {
                let (_, value) = versions.range(..=Lsn(at)).next_back()?;
                Some((key.clone(), value.clone()))
            })
            .collect();
        if reverse {
            expected.reverse();
        }
        let mut scanned: Vec<(Bytes, Option<Value>)> = Vec::new();
        loop {
            let (mut from, mut to) =
                (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
            let last = scanned.last().map(|(key, _)| key.clone());
            if let Some(last) = &last {
                *if reverse { &mut to } else { &mut from } = Bound::Excluded(&last[..]);
            }
            let chunk = generation.range_chunk(from, to, Lsn(at), reverse, limit);
            let is_last = chunk.len() < limit;
            scanned.extend(chunk);
            if is_last {
                break;
            }
        }
        prop_assert_eq!(scanned, expected);
    }

    #[test]
    fn the_sorted_run_holds_the_newest_version_of_every_key(
        commits in prop::collection::vec((key(), prop::option::of(any::<u64>())), 0..60),
    ) {
        let (generation, model) = fill(&commits);
        let run: Vec<_> = generation.newest_versions().collect();
        let expected: Vec<_> = model
            .iter()
            .map(|(key, versions)| {
                let (lsn, value) = versions.last_key_value().expect("a key has a version");
                (key.clone(), *lsn, value.clone())
            })
            .collect();
        prop_assert_eq!(run, expected);
        prop_assert_eq!(generation.len(), commits.len());
        prop_assert_eq!(generation.is_empty(), commits.is_empty());
    }
}

#[test]
fn a_key_with_thousands_of_versions_does_not_hide_its_neighbours() {
    let generation = Generation::new();
    generation.insert(Lsn(1), &write(b"a", Some(1)));
    generation.insert(Lsn(1), &write(b"c", Some(1)));
    for lsn in 2..5_000 {
        generation.insert(Lsn(lsn), &write(b"b", Some(lsn)));
    }
    for (at, b) in [(1, None), (2_500, Some(2_500)), (4_999, Some(4_999))] {
        let pair = |key: &[u8], value| {
            let write = write(key, Some(value));
            (write.key, write.value)
        };
        let mut expected = vec![pair(b"a", 1)];
        expected.extend(b.map(|b| pair(b"b", b)));
        expected.push(pair(b"c", 1));
        let all = (Bound::Unbounded, Bound::Unbounded);
        let forward = generation.range_chunk(all.0, all.1, Lsn(at), false, 9);
        assert_eq!(forward, expected);
        let mut backward = generation.range_chunk(all.0, all.1, Lsn(at), true, 9);
        backward.reverse();
        assert_eq!(backward, expected);
    }
}

#[test]
fn the_weight_and_the_last_lsn_follow_the_writes() {
    let generation = Generation::new();
    assert_eq!((generation.bytes(), generation.last_lsn()), (0, Lsn(0)));
    let (put, delete) = (write(b"key", Some(1)), write(b"key", None));
    generation.insert(Lsn(3), &put);
    generation.insert(Lsn(8), &delete);
    assert_eq!(generation.bytes(), put.weight() + delete.weight());
    assert_eq!(generation.last_lsn(), Lsn(8));
}

#[test]
#[should_panic(expected = "commit 4 was installed after commit 5")]
fn installing_against_the_order_is_refused() {
    let generation = Generation::new();
    generation.insert(Lsn(5), &write(b"a", None));
    generation.insert(Lsn(4), &write(b"b", None));
}

#[test]
fn readers_see_every_version_up_to_the_published_lsn_while_the_writer_goes_on() {
    const KEYS: u64 = 50;
    const COMMITS: u64 = if cfg!(miri) { 100 } else { 20_000 };
    let generation = Generation::new();
    let visible = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (generation, visible, stopped) = (&generation, &visible, &stopped);
            scope.spawn(move || {
                let mut number = seed;
                while !stopped.load(Acquire) {
                    number += 7;
                    let (at, key) = (visible.load(Acquire), number % KEYS);
                    // Commit n writes n to key n % KEYS, so the answer follows from the LSN alone.
                    let newest = (at + 1).saturating_sub((at + KEYS - key) % KEYS + 1);
                    let expected = (newest > 0 && newest % KEYS == key).then(|| {
                        let value = write(b"", Some(newest)).value;
                        (Lsn(newest), value)
                    });
                    assert_eq!(generation.newest(&key.to_be_bytes(), Lsn(at)), expected);
                    let all = (Bound::Unbounded, Bound::Unbounded);
                    let scanned = generation.range_chunk(all.0, all.1, Lsn(at), false, 99);
                    assert_eq!(scanned.len() as u64, at.min(KEYS));
                }
            });
        }
        for lsn in 1..=COMMITS {
            generation.insert(Lsn(lsn), &write(&(lsn % KEYS).to_be_bytes(), Some(lsn)));
            visible.store(lsn, Release);
        }
        stopped.store(true, Release);
    });
    assert_eq!(generation.len() as u64, COMMITS);
}

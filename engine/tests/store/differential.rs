//! Every store against a `BTreeMap`: random runs, maintenance, pinned views, reads, scans, drops and reopenings.

use crate::{NODE, READINGS, collect, folder, small_blocks};
use bytes::Bytes;
use mailring_engine::{
    store::{Store, StoreFactory, StoreView, lsm::LsmFactory, memory::MemoryFactory},
    value::Value,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

type Model = BTreeMap<Bytes, Value>;
/// Opens the store in a folder, with the last bytes of the prefixes that were dropped from it.
type Open<'a> = dyn Fn(&Path, &[u8]) -> Arc<dyn Store> + 'a;

const STEPS: usize = 6_000;
const PREFIXES: u8 = 6;

struct Pinned {
    view: Arc<dyn StoreView>,
    model: Model,
}

/// Reads a view beside its model. A value that has expired may be there or not.
struct Checker<'a> {
    rng: &'a mut StdRng,
    now_ms: u64,
}

impl Checker<'_> {
    fn get(&mut self, view: &dyn StoreView, model: &Model) {
        let key = random_key(self.rng);
        let found = view
            .get(&key)
            .unwrap()
            .map(|stored| Value::decode(stored).unwrap());
        let live = |value: &Value| !value.is_expired(self.now_ms);
        let expected = model.get(&key).cloned().filter(live);
        assert_eq!(found.filter(live), expected, "get {key:?}");
    }

    fn scan(&mut self, view: &dyn StoreView, model: &Model) {
        let low = random_bound(self.rng);
        let high = random_bound(self.rng);
        let slice = |bound: &Bound<Bytes>| bound.clone();
        let (l, h) = (slice(&low), slice(&high));
        let range = view.range(l.as_ref().map(|k| &k[..]), h.as_ref().map(|k| &k[..]));
        let now_ms = self.now_ms;
        let live = move |(key, stored): (Bytes, Bytes)| {
            let value = Value::decode(stored).unwrap();
            (!value.is_expired(now_ms)).then_some((key, value))
        };
        let expected: Vec<_> = if crossed(&low, &high) {
            Vec::new()
        } else {
            let own = model.range((low.clone(), high.clone()));
            let own = own.filter(|(_, value)| !value.is_expired(now_ms));
            own.map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let found: Vec<_> = match self.rng.random_range(0..3) {
            0 => collect(range).into_iter().filter_map(live).collect(),
            1 => {
                let mut found: Vec<_> = collect(Box::new(range.rev()))
                    .into_iter()
                    .filter_map(live)
                    .collect();
                found.reverse();
                found
            }
            _ => {
                let mut range = range;
                let (mut front, mut back) = (Vec::new(), Vec::new());
                loop {
                    let forward = self.rng.random();
                    let next = if forward {
                        range.next()
                    } else {
                        range.next_back()
                    };
                    let Some(pair) = next else { break };
                    if forward { &mut front } else { &mut back }.extend(live(pair.unwrap()));
                }
                front.extend(back.into_iter().rev());
                front
            }
        };
        assert_eq!(found, expected, "scan {low:?} {high:?}");
    }
}

fn crossed(low: &Bound<Bytes>, high: &Bound<Bytes>) -> bool {
    match (low, high) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Excluded(low), Bound::Excluded(high)) => low >= high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low > high,
    }
}

/// A prefix that is never dropped (0) or may be, and few enough keys that they are overwritten.
fn random_key(rng: &mut StdRng) -> Bytes {
    let prefix = rng.random_range(0..PREFIXES);
    let mut key = vec![0, 0, 0, prefix];
    let number = rng.random_range(0..120_u16);
    // Keys of several lengths, some of which begin others.
    key.extend(std::iter::repeat_n(b'k', usize::from(number % 5)));
    key.extend(number.to_be_bytes());
    key.into()
}

fn random_bound(rng: &mut StdRng) -> Bound<Bytes> {
    match rng.random_range(0..5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(random_key(rng)),
        _ => Bound::Excluded(random_key(rng)),
    }
}

fn random_run(rng: &mut StdRng, now_ms: u64) -> BTreeMap<Bytes, Option<Value>> {
    let keys = if rng.random_ratio(1, 20) {
        400
    } else {
        rng.random_range(0..40)
    };
    let mut run = BTreeMap::new();
    for _ in 0..keys {
        let value = (!rng.random_ratio(1, 4)).then(|| {
            let len = if rng.random_ratio(1, 50) {
                5_000
            } else {
                rng.random_range(0..60)
            };
            Value {
                bytes: (0..len).map(|_| rng.random::<u8>()).collect(),
                expires_at_ms: if rng.random_ratio(1, 5) {
                    now_ms + rng.random_range(1..200)
                } else {
                    0
                },
            }
        });
        run.insert(random_key(rng), value);
    }
    run
}

fn check(seed: u64, steps: usize, now_ms: &Arc<AtomicU64>, reopens: bool, open: &Open<'_>) {
    // What a failing run is replayed by.
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = folder();
    let mut dropped = Vec::new();
    let mut store = open(folder.path(), &dropped);
    let mut model = Model::new();
    let mut pinned: Vec<Pinned> = Vec::new();
    for _ in 0..steps {
        let now = now_ms.fetch_add(1, Ordering::Relaxed) + 1;
        match rng.random_range(0..100) {
            0..10 => {
                let run = random_run(&mut rng, now);
                let mut entries = run
                    .iter()
                    .map(|(key, value)| (key.clone(), value.as_ref().map(Value::encode)));
                store.ingest(&mut entries).unwrap();
                for (key, value) in run {
                    match value {
                        _ if dropped.contains(&key[3]) => {}
                        Some(value) => drop(model.insert(key, value)),
                        None => drop(model.remove(&key)),
                    }
                }
            }
            10..16 => store.maintain().unwrap(),
            16..21 => {
                let (view, model) = (store.view(), model.clone());
                pinned.push(Pinned { view, model });
            }
            21..26 if !pinned.is_empty() => {
                pinned.swap_remove(rng.random_range(0..pinned.len()));
            }
            26 if rng.random_ratio(1, 20) && dropped.len() < usize::from(PREFIXES) - 2 => {
                let prefix = rng.random_range(1..PREFIXES);
                store.drop_prefix(&[0, 0, 0, prefix]).unwrap();
                dropped.push(prefix);
                model.retain(|key, _| key[3] != prefix);
            }
            27 if reopens => {
                // Old views may outlive the store, but are not read beside its successor.
                let kept = std::mem::take(&mut pinned);
                drop(store);
                store = open(folder.path(), &dropped);
                drop(kept);
            }
            28 => {
                let keys = store.verify().unwrap();
                let live = model
                    .values()
                    .filter(|value| !value.is_expired(now))
                    .count() as u64;
                assert!(
                    (live..=model.len() as u64).contains(&keys),
                    "{live} {keys} {}",
                    model.len()
                );
            }
            step => {
                let mut checker = Checker {
                    now_ms: now,
                    rng: &mut rng,
                };
                let current = Pinned {
                    view: store.view(),
                    model: Model::new(),
                };
                let old = pinned.choose(checker.rng).filter(|_| step % 2 == 0);
                let (view, model) =
                    old.map_or((&current.view, &model), |old| (&old.view, &old.model));
                if step < 80 {
                    checker.get(view.as_ref(), model);
                } else {
                    checker.scan(view.as_ref(), model);
                }
            }
        }
    }
    // Not only the last moment counts: every view that is still pinned reads as it did.
    let now = now_ms.load(Ordering::Relaxed);
    for Pinned { view, model } in &pinned {
        let live = |value: &Value| !value.is_expired(now);
        let found = collect(view.range(Bound::Unbounded, Bound::Unbounded));
        let found = found
            .into_iter()
            .map(|(key, stored)| (key, Value::decode(stored).unwrap()));
        let found: Vec<_> = found.filter(|(_, value)| live(value)).collect();
        let expected = model.iter().filter(|(_, value)| live(value));
        let expected: Vec<_> = expected
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn an_lsm_store_is_a_map_that_remembers_its_views() {
    for (seed, reading) in (1..).zip(READINGS) {
        let now_ms = Arc::new(AtomicU64::new(0));
        let clock = now_ms.clone();
        check(seed, STEPS, &now_ms, true, &move |folder, dropped| {
            let prefixes = dropped
                .iter()
                .map(|&prefix| Bytes::from(vec![0, 0, 0, prefix]));
            let options = small_blocks(reading).now_ms(clock.clone());
            let options = options.dropped_prefixes(prefixes).unwrap();
            LsmFactory::new(options).open(NODE, folder).unwrap()
        });
    }
}

#[test]
fn a_memory_store_is_a_map_that_remembers_its_views() {
    let now_ms = Arc::new(AtomicU64::new(0));
    let factory = MemoryFactory {
        now_ms: now_ms.clone(),
    };
    check(4, STEPS, &now_ms, false, &|folder, _| {
        factory.open(NODE, folder).unwrap()
    });
}

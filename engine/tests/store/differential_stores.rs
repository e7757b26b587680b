//! The differential test of the stores of this crate, and what it must find where a store does wrong.

use crate::{
    NODE, Reading,
    differential::{Subject, check, check_runs},
    differential_model::Tally,
    small_blocks,
};
use bytes::Bytes;
use mailring_engine::{
    error::Result,
    store::{
        PairIterator, RunEntry, Span, Store, StoreFactory, StoreStats, StoreView, lsm::LsmFactory,
        memory::MemoryFactory,
    },
};
use std::{
    ops::Bound,
    panic::catch_unwind,
    sync::{Arc, atomic::AtomicU64},
};

fn subject(test: &'static str, reopens: bool) -> Subject {
    let run_by = "-p mailring-engine --test store differential_stores";
    Subject {
        test,
        run_by,
        reopens,
    }
}

fn check_lsm(test: &'static str, reading: Reading) {
    let clock = Arc::new(AtomicU64::new(0));
    let options = small_blocks(reading).now_ms(Arc::clone(&clock));
    check_runs(subject(test, true), &clock, &|folder, dropped| {
        let options = options.clone().dropped_prefixes(dropped).unwrap();
        LsmFactory::new(options).open(NODE, folder).unwrap()
    });
}

#[test]
fn an_lsm_store_is_a_map_that_remembers_its_views() {
    check_lsm(
        "an_lsm_store_is_a_map_that_remembers_its_views",
        Reading::Held,
    );
}

#[test]
fn an_lsm_store_with_shared_prefixes_is_a_map() {
    check_lsm(
        "an_lsm_store_with_shared_prefixes_is_a_map",
        Reading::SharedPrefixes,
    );
}

#[test]
fn an_lsm_store_without_held_indexes_is_a_map() {
    check_lsm(
        "an_lsm_store_without_held_indexes_is_a_map",
        Reading::NotHeld,
    );
}

#[test]
fn a_memory_store_is_a_map_that_remembers_its_views() {
    let clock = Arc::new(AtomicU64::new(0));
    let factory = MemoryFactory {
        now_ms: Arc::clone(&clock),
    };
    let test = "a_memory_store_is_a_map_that_remembers_its_views";
    check_runs(subject(test, false), &clock, &|folder, _| {
        factory.open(NODE, folder).unwrap()
    });
}

/// What a store could do wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    LosesATombstone,
    ShowsADroppedPrefix,
    LosesTheEndOfARange,
}

struct Faulty {
    store: Arc<dyn Store>,
    fault: Fault,
}

struct FaultyView(Arc<dyn StoreView>);

impl Store for Faulty {
    fn ingest(&self, run: &mut dyn Iterator<Item = RunEntry>) -> Result<()> {
        let loses = matches!(self.fault, Fault::LosesATombstone);
        let mut tombstones = 0;
        let mut run = run.filter(|(_, value)| {
            tombstones += u64::from(value.is_none());
            !(loses && value.is_none() && tombstones == 7)
        });
        self.store.ingest(&mut run)
    }

    fn view(&self) -> Arc<dyn StoreView> {
        match self.fault {
            Fault::LosesTheEndOfARange => Arc::new(FaultyView(self.store.view())),
            _ => self.store.view(),
        }
    }

    fn maintain(&self) -> Result<()> {
        self.store.maintain()
    }

    fn drop_spans(&self, spans: &[Span]) -> Result<()> {
        match self.fault {
            Fault::ShowsADroppedPrefix => Ok(()),
            _ => self.store.drop_spans(spans),
        }
    }

    fn verify(&self) -> Result<u64> {
        self.store.verify()
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}

impl StoreView for FaultyView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.get(key)
    }

    fn range(&self, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator {
        let pairs: Vec<_> = self.0.range(low, high).collect();
        let kept = pairs.len().min(100);
        Box::new(pairs.into_iter().take(kept))
    }
}

#[test]
fn a_store_that_does_wrong_is_found_within_one_run() {
    for fault in [
        Fault::LosesATombstone,
        Fault::ShowsADroppedPrefix,
        Fault::LosesTheEndOfARange,
    ] {
        let found = catch_unwind(|| {
            let clock = Arc::new(AtomicU64::new(0));
            let factory = MemoryFactory {
                now_ms: Arc::clone(&clock),
            };
            check(1, &clock, false, &mut Tally::default(), &|folder, _| {
                let store = factory.open(NODE, folder).unwrap();
                Arc::new(Faulty { store, fault })
            });
        });
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

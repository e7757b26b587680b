//! The conformance suite and the differential test of every store, with the simulated one: a reopening is a crash.

#[path = "../../../tests/store/common.rs"]
mod common;
#[macro_use]
#[path = "../../../tests/store/conformance.rs"]
mod conformance;
#[path = "../../../tests/store/differential.rs"]
mod differential;
#[path = "../../../tests/store/differential_model.rs"]
mod differential_model;

use super::SimulatedStore;
use differential::{Subject, check_runs};
use mailring_engine::{
    error::Result,
    store::{Span, Store},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

fn open_simulated(_: &Path) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(SimulatedStore::new(Arc::default())))
}

suite!(conforming, open_simulated);

#[test]
fn a_simulated_store_is_a_map_that_remembers_its_views() {
    let clock = Arc::new(AtomicU64::new(0));
    let subject = Subject {
        test: "a_simulated_store_is_a_map_that_remembers_its_views",
        run_by: "-p mailring-simulator store::suite",
        reopens: true,
    };
    let stores = RefCell::new(BTreeMap::<PathBuf, Arc<SimulatedStore>>::new());
    check_runs(subject, &clock, &|folder, dropped| {
        let mut stores = stores.borrow_mut();
        let store = stores
            .entry(folder.to_owned())
            .or_insert_with(|| Arc::new(SimulatedStore::new(Arc::clone(&clock))));
        store.crash();
        let dropped = dropped.iter().map(|prefix| Span::of_prefix(prefix));
        store.drop_spans(&Vec::from_iter(dropped)).unwrap();
        Arc::clone(store) as Arc<dyn Store>
    });
}

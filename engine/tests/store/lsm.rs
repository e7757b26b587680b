//! What only a store on disk can do: be reopened, free files, and meet the limits of the tree under it.

use crate::{NODE, Reading, collect, entry, folder, ingest, open_lsm, small_blocks};
use mailring_engine::{
    error::Error,
    store::{
        Span, Store,
        lsm::{LsmOptions, LsmStore},
    },
    value::Value,
};
use std::{
    collections::BTreeSet,
    fs,
    ops::Bound::Unbounded,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};
use xxhash_rust::xxh3::xxh3_128;

fn tables(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder.join("tables")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn manifests(folder: &Path) -> usize {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    entries
        .filter(|name| name.to_str().unwrap().starts_with('v'))
        .count()
}

#[test]
fn a_reopened_store_has_what_was_ingested_and_the_newest_version_stays_newest() {
    let folder = folder();
    for round in 0..12_u8 {
        let store = open_lsm(folder.path()).unwrap();
        if let Some(last) = round.checked_sub(1) {
            assert_eq!(store.view().get(b"a").unwrap().unwrap(), [last][..]);
        }
        ingest(
            store.as_ref(),
            &[(b"a", Some(&[round])), (&[b'b', round], Some(b"1"))],
        );
        if round % 3 == 2 {
            store.maintain().unwrap();
            store.maintain().unwrap();
        }
        assert_eq!(store.view().get(b"a").unwrap().unwrap(), [round][..]);
        assert_eq!(store.verify().unwrap(), u64::from(round) + 2);
    }
}

#[test]
fn files_go_with_the_maintenance_behind_the_last_view_of_them() {
    let folder = folder();
    let store = open_lsm(folder.path()).unwrap();
    ingest(store.as_ref(), &[(b"a", Some(b"1"))]);
    ingest(store.as_ref(), &[(b"a", Some(b"2"))]);
    let view = store.view();
    let mut reading = view.range(Unbounded, Unbounded);
    let old = tables(folder.path());
    assert_eq!(old.len(), 2);
    store.maintain().unwrap();
    store.maintain().unwrap();
    assert_eq!(store.stats().runs, 1);
    assert_eq!(tables(folder.path()).len(), 3, "two pinned and the new one");
    assert_eq!(manifests(folder.path()), 1);
    drop(view);
    assert_eq!(reading.next().unwrap().unwrap().1, "2");
    store.maintain().unwrap();
    assert_eq!(tables(folder.path()).len(), 3, "it is still being read");
    drop(reading);
    assert_eq!(tables(folder.path()).len(), 3, "who reads removes no file");
    store.maintain().unwrap();
    assert_eq!(tables(folder.path()).len(), 1);
    assert!(tables(folder.path()).is_disjoint(&old));
}

#[test]
fn dropping_a_prefix_frees_the_tables_that_hold_nothing_else() {
    let folder = folder();
    let store = open_lsm(folder.path()).unwrap();
    ingest(
        store.as_ref(),
        &[(b"aaaa1", Some(b"1")), (b"aaaa2", Some(b"1"))],
    );
    ingest(store.as_ref(), &[(b"aaaa2", None), (b"bbbb1", Some(b"1"))]);
    store.drop_prefix(b"aaaa").unwrap();
    assert_eq!(tables(folder.path()).len(), 1);
    assert_eq!(store.verify().unwrap(), 1);
}

#[test]
fn an_old_view_that_goes_late_takes_no_file_of_the_reopened_store() {
    let folder = folder();
    let store = open_lsm(folder.path()).unwrap();
    ingest(store.as_ref(), &[(b"aaaa", Some(b"1"))]);
    let old = store.view();
    // The tree is empty now, and would number its tables from the start when it is opened again.
    store.drop_prefix(b"aaaa").unwrap();
    drop(store);
    let store = open_lsm(folder.path()).unwrap();
    for _ in 0..3 {
        ingest(store.as_ref(), &[(b"bbbb", Some(b"2"))]);
    }
    drop(old);
    assert_eq!(store.verify().unwrap(), 1);
    drop(store);
    assert_eq!(open_lsm(folder.path()).unwrap().verify().unwrap(), 1);
}

#[test]
fn a_run_that_panics_leaves_no_file() {
    let folder = folder();
    let store = open_lsm(folder.path()).unwrap();
    ingest(store.as_ref(), &[(b"a", Some(b"1"))]);
    let before = tables(folder.path());
    let mut run = (0..5_000_u32).map(|n| {
        assert!(n < 4_000, "the run breaks off");
        entry(&n.to_be_bytes(), Some(&[7; 100]))
    });
    assert!(catch_unwind(AssertUnwindSafe(|| store.ingest(&mut run))).is_err());
    assert_eq!(tables(folder.path()), before);
}

#[test]
fn compaction_takes_expired_values_away_but_not_what_they_hide() {
    let folder = folder();
    let now_ms = Arc::new(AtomicU64::new(0));
    let options = small_blocks(Reading::Held).now_ms(now_ms.clone());
    let store = LsmStore::open(NODE, folder.path(), &options).unwrap();
    let expiring = |at_ms| Value {
        bytes: "v".into(),
        expires_at_ms: at_ms,
    };
    let put = |key: &'static str, value: &Value| {
        store
            .ingest(&mut std::iter::once((key.into(), Some(value.encode()))))
            .unwrap();
    };
    put("a", &expiring(0));
    put("b", &expiring(0));
    put("a", &expiring(1_000));
    now_ms.store(999, Ordering::Relaxed);
    store.maintain().unwrap();
    store.maintain().unwrap();
    assert_eq!(store.verify().unwrap(), 2, "not expired yet");
    now_ms.store(1_000, Ordering::Relaxed);
    let view = store.view();
    put("c", &expiring(0));
    store.maintain().unwrap();
    store.maintain().unwrap();
    assert_eq!(store.stats().runs, 1);
    let keys: Vec<_> = collect(store.view().range(Unbounded, Unbounded));
    let keys: Vec<_> = keys.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(
        keys,
        [b"b", b"c"],
        "the older version of a must not come back"
    );
    assert_eq!(
        collect(view.range(Unbounded, Unbounded)).len(),
        2,
        "a view keeps it"
    );
}

#[test]
fn a_tree_of_a_newer_format_is_refused() {
    let folder = folder();
    drop(open_lsm(folder.path()).unwrap());
    // The manifest as a newer release would write it: another format number under a right checksum.
    let manifest = folder.path().join("v0");
    let mut contents = fs::read(&manifest).unwrap();
    let at = contents.iter().position(|byte| *byte == 3).unwrap();
    contents[at] = 4;
    fs::write(&manifest, &contents).unwrap();
    let pointer = [
        &0_u64.to_le_bytes()[..],
        &xxh3_128(&contents).to_le_bytes(),
        &[0],
    ]
    .concat();
    fs::write(folder.path().join("current"), pointer).unwrap();
    match open_lsm(folder.path()).map(drop) {
        Err(Error::NewerFormat {
            file,
            found: 4,
            supported: 3,
        }) => assert_eq!(file, folder.path(), "it names the tree's folder"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_empty_prefix_is_not_an_option() {
    let options = LsmOptions::new(0, 1).dropped_prefixes([bytes::Bytes::new()]);
    assert!(matches!(
        options.map(drop),
        Err(Error::InvalidOption { .. })
    ));
}

#[test]
fn indexes_are_held_up_to_the_allowance_and_given_back_with_their_tables() {
    let run = |seed: u8| (0..200_u8).map(move |key| entry(&[b'k', key], Some(&[seed; 40])));
    let read = |allowance: u64, after: &dyn Fn(u64)| {
        let folder = folder();
        let held = Arc::new(AtomicU64::new(0));
        let options = small_blocks(Reading::Held).hold_indexes(allowance, Arc::clone(&held));
        let store = LsmStore::open(NODE, folder.path(), &options).unwrap();
        for seed in 0..6 {
            store.ingest(&mut run(seed)).unwrap();
            after(held.load(Ordering::Relaxed));
        }
        let view = store.view();
        store.maintain().unwrap();
        store.maintain().unwrap();
        for (key, value) in collect(view.range(Unbounded, Unbounded)) {
            assert_eq!(value, [5; 40][..], "{key:?}");
            assert_eq!(store.view().get(&key).unwrap().unwrap(), value);
        }
        drop(view);
        after(held.load(Ordering::Relaxed));
        drop(store);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    };
    let most = std::cell::Cell::new(0);
    read(u64::MAX, &|held| most.set(most.get().max(held)));
    assert!(most.get() > 0, "something is held");
    // Room for some of the tables only, and perhaps not for the one that they are merged into.
    let allowance = most.get() / 2;
    let held_once = std::cell::Cell::new(false);
    read(allowance, &|held| {
        assert!(held <= allowance, "{held} of {allowance}");
        held_once.set(held_once.get() || held > 0);
    });
    assert!(held_once.get());
}

#[test]
fn thousands_of_dropped_prefixes_cost_one_view_and_free_the_tables_under_them() {
    let folder = folder();
    let store = open_lsm(folder.path()).unwrap();
    let key = |id: u32| [&id.to_be_bytes()[..], b"key"].concat();
    for id in [7, 4_000, 9_998, 9_999] {
        ingest(store.as_ref(), &[(&key(id), Some(b"1"))]);
    }
    // Every second one, so that none is the neighbour of another.
    let spans: Vec<_> = (1..10_000_u32)
        .step_by(2)
        .map(|id| Span::of_prefix(&id.to_be_bytes()))
        .collect();
    let before = manifests(folder.path());
    store.drop_spans(&spans).unwrap();
    assert_eq!(tables(folder.path()).len(), 2);
    assert_eq!(store.verify().unwrap(), 2);
    assert!(manifests(folder.path()) <= before, "each table's alone");
    for (id, is_there) in [(7, false), (4_000, true), (9_998, true), (9_999, false)] {
        let found = store.view().get(&key(id)).unwrap();
        assert_eq!(found.is_some(), is_there, "{id}");
    }
}

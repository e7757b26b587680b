//! The contract of [`Store`], claim by claim, for every store that there is, that of the simulator's crate included.

use super::common::{collect, entry, folder, ingest};
use bytes::Bytes;
use mailring_engine::{
    error::Result,
    store::{MAX_STORED_KEY_BYTES, Store, StoreView},
    value::MAX_VALUE_BYTES,
};
use std::{
    ops::Bound::{self, Excluded, Included, Unbounded},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

/// Opens a store in a folder.
pub(crate) type Open = fn(&Path) -> Result<Arc<dyn Store>>;

/// The suite of a store: a test for each claim. Stands where `conformance` and what opens the store are in scope.
macro_rules! suite {
    ($store:ident, $open:ident) => {
        suite! { $store, $open =>
            a_new_store_is_empty
            what_was_ingested_is_read
            the_newest_run_wins
            a_tombstone_hides_older_versions_also_after_compaction
            a_view_never_changes
            ranges_keep_to_their_bounds_in_both_directions
            a_range_read_from_both_ends_yields_each_pair_once
            an_empty_run_changes_nothing
            extreme_keys_and_values_are_kept
            a_run_that_panics_leaves_nothing
            a_run_out_of_order_is_refused_by_assertion
            a_dropped_prefix_is_gone_and_stays_gone
            maintenance_changes_nothing_that_can_be_read
        }
    };
    ($store:ident, $open:ident => $($claim:ident)*) => {
        mod $store {
            $(#[test] fn $claim() { super::conformance::run(super::$open, super::conformance::$claim); })*
        }
    };
}

pub(crate) fn run(open: Open, claim: fn(&dyn Store)) {
    let folder = folder();
    let store = open(folder.path()).unwrap();
    claim(store.as_ref());
    store.verify().unwrap();
}

fn all(store: &dyn Store) -> Vec<(Bytes, Bytes)> {
    collect(store.view().range(Unbounded, Unbounded))
}

fn pairs(expected: &[(&[u8], &[u8])]) -> Vec<(Bytes, Bytes)> {
    let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    expected
        .iter()
        .map(|(key, value)| (own(key), own(value)))
        .collect()
}

fn get(view: &dyn StoreView, key: &[u8]) -> Option<Bytes> {
    view.get(key).unwrap()
}

pub(crate) fn a_new_store_is_empty(store: &dyn Store) {
    assert_eq!(get(store.view().as_ref(), b"a"), None);
    assert_eq!(all(store), []);
    assert_eq!(store.verify().unwrap(), 0);
    assert_eq!(store.stats().approximate_keys, 0);
    store.maintain().unwrap();
}

pub(crate) fn what_was_ingested_is_read(store: &dyn Store) {
    ingest(
        store,
        &[(b"a", Some(b"1")), (b"b", Some(b"")), (b"c", None)],
    );
    let view = store.view();
    assert_eq!(get(view.as_ref(), b"a"), Some(Bytes::from_static(b"1")));
    assert_eq!(get(view.as_ref(), b"b"), Some(Bytes::new()));
    for absent in [&b"c"[..], b"", b"0", b"aa", b"d"] {
        assert_eq!(get(view.as_ref(), absent), None);
    }
    assert_eq!(all(store), pairs(&[(b"a", b"1"), (b"b", b"")]));
    assert_eq!(store.verify().unwrap(), 2);
    assert_eq!(store.stats().runs, 1);
    assert!(store.stats().bytes > 0);
}

pub(crate) fn the_newest_run_wins(store: &dyn Store) {
    ingest(
        store,
        &[(b"a", Some(b"1")), (b"b", Some(b"1")), (b"c", Some(b"1"))],
    );
    ingest(store, &[(b"b", Some(b"2"))]);
    ingest(store, &[(b"a", Some(b"3")), (b"d", Some(b"3"))]);
    let expected = pairs(&[(b"a", b"3"), (b"b", b"2"), (b"c", b"1"), (b"d", b"3")]);
    assert_eq!(all(store), expected);
    for (key, value) in expected {
        assert_eq!(get(store.view().as_ref(), &key), Some(value));
    }
}

pub(crate) fn a_tombstone_hides_older_versions_also_after_compaction(store: &dyn Store) {
    ingest(store, &[(b"a", Some(b"1")), (b"b", Some(b"1"))]);
    store.maintain().unwrap();
    ingest(store, &[(b"a", None), (b"c", None)]);
    for _ in 0..3 {
        assert_eq!(get(store.view().as_ref(), b"a"), None);
        assert_eq!(all(store), pairs(&[(b"b", b"1")]));
        assert_eq!(store.verify().unwrap(), 1);
        store.maintain().unwrap();
    }
    ingest(store, &[(b"a", Some(b"2"))]);
    assert_eq!(all(store), pairs(&[(b"a", b"2"), (b"b", b"1")]));
}

pub(crate) fn a_view_never_changes(store: &dyn Store) {
    let empty = store.view();
    ingest(store, &[(b"a", Some(b"1")), (b"b", Some(b"1"))]);
    let first = store.view();
    let mut reading = first.range(Unbounded, Unbounded);
    assert_eq!(reading.next().unwrap().unwrap().0, "a");
    for round in 0..9_u8 {
        ingest(
            store,
            &[(b"a", Some(&[round])), (b"b", None), (b"c", Some(b"2"))],
        );
        store.maintain().unwrap();
        store.maintain().unwrap();
    }
    store.drop_prefix(b"a").unwrap();
    store.maintain().unwrap();
    assert_eq!(collect(empty.range(Unbounded, Unbounded)), []);
    assert_eq!(get(empty.as_ref(), b"a"), None);
    assert_eq!(get(first.as_ref(), b"b"), Some(Bytes::from_static(b"1")));
    assert_eq!(get(first.as_ref(), b"c"), None);
    assert_eq!(
        collect(first.range(Unbounded, Unbounded)),
        pairs(&[(b"a", b"1"), (b"b", b"1")])
    );
    assert_eq!(collect(reading), pairs(&[(b"b", b"1")]));
    assert_eq!(all(store), pairs(&[(b"c", b"2")]));
}

pub(crate) fn ranges_keep_to_their_bounds_in_both_directions(store: &dyn Store) {
    // Every second key, in two runs that interleave, with tombstones in between.
    let key = |n: u8| [b'k', n];
    for part in 0..2 {
        let run = (0..60_u8).filter(|n| n % 4 == 2 * part);
        let run = run.flat_map(|n| [entry(&key(n), Some(&[n])), entry(&key(n + 1), None)]);
        store
            .ingest(&mut run.collect::<Vec<_>>().into_iter())
            .unwrap();
    }
    let bounds = |n: u8| [Unbounded, Included(key(n)), Excluded(key(n))];
    let view = store.view();
    for (low, high) in [
        (0, 59),
        (10, 20),
        (11, 21),
        (10, 21),
        (30, 30),
        (31, 31),
        (40, 12),
        (0, 0),
        (59, 70),
    ] {
        for low in bounds(low) {
            for high in bounds(high) {
                let within = |n: &u8| {
                    let key = key(*n);
                    (match low {
                        Unbounded => true,
                        Included(low) => key >= low,
                        Excluded(low) => key > low,
                    }) && match high {
                        Unbounded => true,
                        Included(high) => key <= high,
                        Excluded(high) => key < high,
                    }
                };
                let expected: Vec<_> = (0..60).step_by(2).filter(within).collect();
                let read = |low: &Bound<[u8; 2]>, high: &Bound<[u8; 2]>| {
                    view.range(low.as_ref().map(|k| &k[..]), high.as_ref().map(|k| &k[..]))
                };
                let values = |pairs: Vec<(Bytes, Bytes)>| -> Vec<u8> {
                    pairs.iter().map(|(_, value)| value[0]).collect()
                };
                assert_eq!(
                    values(collect(read(&low, &high))),
                    expected,
                    "{low:?} {high:?}"
                );
                let mut backward = values(collect(Box::new(read(&low, &high).rev())));
                backward.reverse();
                assert_eq!(backward, expected, "{low:?} {high:?} backward");
            }
        }
    }
}

pub(crate) fn a_range_read_from_both_ends_yields_each_pair_once(store: &dyn Store) {
    for part in 0..3 {
        let run = (0..30_u8).filter(|n| n % 3 != part);
        let run = run.map(|n| entry(&[n + 1], (n % 5 != part).then_some(&[n, part][..])));
        store
            .ingest(&mut run.collect::<Vec<_>>().into_iter())
            .unwrap();
    }
    let expected = all(store);
    assert!(expected.len() > 15);
    for pattern in 0..64_u32 {
        let mut range = store.view().range(Unbounded, Unbounded);
        let (mut front, mut back) = (Vec::new(), Vec::new());
        for step in 0.. {
            let next = if pattern >> (step % 6) & 1 == 0 {
                range.next().map(|pair| front.push(pair.unwrap()))
            } else {
                range.next_back().map(|pair| back.push(pair.unwrap()))
            };
            if next.is_none() {
                break;
            }
        }
        assert!(
            range.next().is_none() && range.next_back().is_none(),
            "the end is the end"
        );
        front.extend(back.into_iter().rev());
        assert_eq!(front, expected, "pattern {pattern:b}");
    }
}

pub(crate) fn an_empty_run_changes_nothing(store: &dyn Store) {
    ingest(store, &[]);
    assert_eq!(store.stats().runs, 0);
    ingest(store, &[(b"a", Some(b"1"))]);
    ingest(store, &[]);
    assert_eq!(all(store), pairs(&[(b"a", b"1")]));
    assert_eq!(store.stats().runs, 1);
}

pub(crate) fn extreme_keys_and_values_are_kept(store: &dyn Store) {
    let long = vec![0xff; MAX_STORED_KEY_BYTES];
    let middle = [vec![0xff; MAX_STORED_KEY_BYTES - 1], vec![0xfe]].concat();
    let large: Vec<u8> = (0..MAX_VALUE_BYTES).map(|n| (n / 7) as u8).collect();
    let expected: [(&[u8], &[u8]); 5] = [
        (b"\0", b""),
        (b"\x01", &large),
        (b"\x02", b"x"),
        (&middle, b"y"),
        (&long, &[]),
    ];
    let run: Vec<_> = expected
        .iter()
        .map(|(key, value)| (*key, Some(*value)))
        .collect();
    ingest(store, &run);
    ingest(store, &[(b"\x02", Some(b"x"))]);
    for _ in 0..2 {
        assert!(all(store) == pairs(&expected));
        for (key, value) in expected {
            assert!(get(store.view().as_ref(), key).unwrap() == value);
        }
        let from_long = store.view().range(Included(&long), Unbounded);
        assert_eq!(collect(from_long).len(), 1);
        let past_long = store.view().range(Excluded(&long), Unbounded);
        assert_eq!(collect(past_long).len(), 0);
        store.maintain().unwrap();
    }
}

pub(crate) fn a_run_that_panics_leaves_nothing(store: &dyn Store) {
    ingest(store, &[(b"a", Some(b"1")), (b"m", Some(b"1"))]);
    let mut run = (0..1000_u32).map(|n| {
        assert!(n < 900, "the run breaks off");
        entry(&n.to_be_bytes(), Some(&[7; 100]))
    });
    let ingesting = AssertUnwindSafe(|| store.ingest(&mut run));
    assert!(catch_unwind(ingesting).is_err());
    assert_eq!(all(store), pairs(&[(b"a", b"1"), (b"m", b"1")]));
    ingest(store, &[(b"a", Some(b"2"))]);
    store.maintain().unwrap();
    assert_eq!(all(store), pairs(&[(b"a", b"2"), (b"m", b"1")]));
}

pub(crate) fn a_run_out_of_order_is_refused_by_assertion(store: &dyn Store) {
    let too_long = vec![b'z'; MAX_STORED_KEY_BYTES + 1];
    for keys in [
        [&b"b"[..], b"a"],
        [b"b", b"b"],
        [b"", b"a"],
        [b"a", &too_long],
    ] {
        let mut run = keys.iter().map(|key| entry(key, None));
        let ingesting = AssertUnwindSafe(|| store.ingest(&mut run));
        assert!(catch_unwind(ingesting).is_err(), "{:?}", keys[0]);
    }
    assert_eq!(all(store), []);
}

pub(crate) fn a_dropped_prefix_is_gone_and_stays_gone(store: &dyn Store) {
    let keys = |first: u8| (0..50_u8).map(move |n| entry(&[0, 0, 0, first, n], Some(&[n; 40])));
    let three = |store: &dyn Store| store.ingest(&mut (1..4).flat_map(keys)).unwrap();
    three(store);
    store.maintain().unwrap();
    store.ingest(&mut keys(2)).unwrap();
    store
        .ingest(&mut keys(2).map(|(key, _)| (key, None)))
        .unwrap();
    let before = store.view();
    store.drop_prefix(&[0, 0, 0, 2]).unwrap();
    store.drop_prefix(&[0, 0, 0, 2]).unwrap();
    store.drop_prefix(&[9]).unwrap();
    for _ in 0..3 {
        assert_eq!(all(store).len(), 100);
        assert_eq!(store.verify().unwrap(), 100);
        assert_eq!(get(store.view().as_ref(), &[0, 0, 0, 2, 7]), None);
        assert!(get(store.view().as_ref(), &[0, 0, 0, 1, 7]).is_some());
        assert!(get(store.view().as_ref(), &[0, 0, 0, 3, 7]).is_some());
        store.maintain().unwrap();
    }
    // A late run still brings some, and compaction takes them.
    three(store);
    for _ in 0..3 {
        assert_eq!(all(store).len(), 100);
        let dropped = store
            .view()
            .range(Included(&[0, 0, 0, 2]), Excluded(&[0, 0, 0, 3]));
        assert_eq!(collect(dropped).len(), 0);
        store.maintain().unwrap();
    }
    assert_eq!(store.stats().approximate_keys, 100);
    assert_eq!(
        collect(before.range(Unbounded, Unbounded)).len(),
        100,
        "removed before it was dropped"
    );
}

pub(crate) fn maintenance_changes_nothing_that_can_be_read(store: &dyn Store) {
    for round in 0..40_u8 {
        let keys = (0..100_u8).filter(|n| n % 7 != round % 7);
        let run = keys.map(|n| entry(&[n + 1], (n % 11 != round % 11).then_some(&[round, n][..])));
        store
            .ingest(&mut run.collect::<Vec<_>>().into_iter())
            .unwrap();
        let before = all(store);
        store.maintain().unwrap();
        assert_eq!(all(store), before);
        assert!(store.stats().runs <= 8, "{} runs", store.stats().runs);
    }
    store.maintain().unwrap();
    assert_eq!(store.stats().runs, 1);
}

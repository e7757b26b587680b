//! Reads beside a writer, with real threads: `NodeTable::get` through the row cache, while a node installs, freezes and
//! moves generations into its tree.
//!
//! The writer gives every LSN to one write whose value is that LSN, in turn over the keys. So a reader can say, for what
//! it finds, whether it is older than the last version that was visible before its read began, or newer than what is
//! visible after it.

use bytes::Bytes;
use mailring_engine::{
    cache::RowCache,
    ids::{Epoch, Incarnation, KeyspaceId, Lsn, NodeId, RequestId, Time},
    keyspaces::Keyspaces,
    participant::{
        NodeEffect, NodeMessage, Operation, Participant, ParticipantOptions, TreeSource,
    },
    run::frozen_run,
    sequencer::Resolve,
    store::{Store, memory::MemoryStore},
    value::{Value, Write, qualify},
    view::{NodeTable, NodeView, Visible},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

const KEYS: u64 = 13;
/// Miri takes a thousand times as long, and tries other orders from each seed.
const WRITES: u64 = if cfg!(miri) { 150 } else { 30_000 };

fn key(number: u64) -> Bytes {
    qualify(KeyspaceId(1), &number.to_be_bytes())
}

struct Shared {
    table: Arc<NodeTable>,
    cache: Arc<RowCache>,
    visible: Visible,
    store: Arc<MemoryStore>,
    done: AtomicBool,
    reads: AtomicU64,
}

fn shared(cache_bytes: usize) -> Shared {
    let store = Arc::new(MemoryStore::default());
    let view = NodeView {
        active: Arc::default(),
        frozen: Vec::new(),
        tree: store.view(),
        complete: Lsn(0),
        floor: Lsn(0),
        leaving: None,
    };
    Shared {
        table: Arc::new(NodeTable::new(NodeId(0), view)),
        cache: Arc::new(RowCache::new(cache_bytes, 3)),
        visible: Visible::new(Lsn(0)),
        store,
        done: AtomicBool::new(false),
        reads: AtomicU64::new(0),
    }
}

fn write(shared: &Shared) {
    let source = Arc::clone(&shared.store);
    let mut machine = Participant::new(
        Incarnation(1),
        Epoch(1),
        Arc::clone(&shared.table),
        Arc::clone(&shared.cache),
        TreeSource(Box::new(move || source.view())),
        Lsn(0),
        ParticipantOptions::default(),
    );
    let mut tell = |message| {
        let mut out: Vec<NodeEffect> = Vec::new();
        machine.handle(Time(0), message, &mut out);
    };
    let mut keyspaces = Keyspaces::new();
    keyspaces.install_create(KeyspaceId(1), "k").expect("fits");
    for lsn in 1..=WRITES {
        let value = Value::new(Bytes::copy_from_slice(&lsn.to_be_bytes()));
        let write = Write {
            key: key(lsn % KEYS),
            value: Some(value),
        };
        tell(NodeMessage::Request {
            id: RequestId(lsn),
            deadline: Time::MAX,
            epoch: Epoch(1),
            operation: Operation::Write([write].into()),
        });
        tell(NodeMessage::Flush);
        tell(NodeMessage::Resolve(Resolve {
            incarnation: Incarnation(1),
            chain: 0,
            commits: 1,
            outcome: Ok(Lsn(lsn)),
        }));
        // What is visible lags behind, by a different distance each time.
        let seen = Lsn(lsn - lsn % 7);
        if seen > shared.visible.load() {
            shared.visible.publish(seen);
            tell(NodeMessage::Visible(seen));
        }
        if lsn % 91 == 0 {
            assert_eq!(seen, Lsn(lsn), "a run holds what is visible only");
            tell(NodeMessage::Freeze(seen));
            let view = shared.table.view();
            let mut run = frozen_run(&view, seen, &keyspaces).expect("it was frozen here");
            shared.store.ingest(&mut run).expect("memory takes it");
            tell(NodeMessage::Flushed { through: seen });
        }
    }
    shared.done.store(true, Ordering::Release);
}

/// The newest LSN at or below `at` that wrote the key; 0 if there is none.
fn written_at(number: u64, at: Lsn) -> u64 {
    let behind = (at.0 + KEYS - number) % KEYS;
    at.0.saturating_sub(behind)
}

fn read(shared: &Shared, step: u64) {
    let mut last = [0; KEYS as usize];
    let mut number = 0;
    let mut reads = 0;
    while !shared.done.load(Ordering::Acquire) {
        number = (number + step) % KEYS;
        let before = shared.visible.load();
        let found = shared
            .table
            .get(&shared.visible, &shared.cache, &key(number))
            .expect("memory reads");
        let after = shared.visible.load();
        let found = found.map_or(0, |value| {
            u64::from_be_bytes(value.bytes[..].try_into().expect("eight bytes"))
        });
        let oldest = written_at(number, before);
        assert!(
            found >= oldest,
            "key {number}: {found} was read, {oldest} was visible before"
        );
        assert!(
            found <= after.0,
            "key {number}: {found} was read beyond {after}"
        );
        let last = &mut last[usize::try_from(number).expect("small")];
        assert!(
            found >= *last,
            "key {number}: {found} was read after {last}"
        );
        *last = found;
        reads += 1;
    }
    shared.reads.fetch_add(reads, Ordering::Relaxed);
}

fn readers_beside_a_writer(cache_bytes: usize) {
    let shared = shared(cache_bytes);
    std::thread::scope(|threads| {
        threads.spawn(|| read(&shared, 1));
        threads.spawn(|| read(&shared, 5));
        threads.spawn(|| write(&shared));
    });
    assert!(shared.reads.into_inner() > 0, "somebody read");
}

#[test]
fn a_reader_sees_neither_the_past_nor_the_future() {
    readers_beside_a_writer(1 << 20);
}

#[test]
fn nor_with_a_cache_that_always_evicts() {
    readers_beside_a_writer(2_200);
}

//! A node with random data is copied, followed and swept, and compared with a map.

use super::*;
use crate::{
    disk::MemoryDisk,
    generation::Generation,
    ids::{GroupNo, Incarnation},
    journal::{
        Group, Journal, JournalOptions,
        record::{self, CommitPart, Record},
    },
    ring::ArcMove,
    run::frozen_run,
    store::{Store, memory::MemoryStore},
    value::qualify,
    view::Frozen,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{collections::BTreeSet, sync::Arc};

const SOURCE: NodeId = NodeId(4);
const STRANGER: NodeId = NodeId(9);
const ARC_BITS: u32 = 4;
const NOW_MS: u64 = 1_000;

type Model = BTreeMap<Bytes, Option<Value>>;

/// A source, what it has committed, and a journal that says so.
struct World {
    rng: StdRng,
    journal: Journal,
    store: MemoryStore,
    /// Newest first.
    frozen: Vec<Frozen>,
    active: Arc<Generation>,
    complete: Lsn,
    last: Lsn,
    /// What the source's keys are at each LSN.
    states: Vec<Model>,
    keyspaces: Keyspaces,
    dropped: KeyspaceId,
    targets: Targets,
    stores: BTreeMap<NodeId, MemoryStore>,
    chunk_bytes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut keyspaces = Keyspaces::new();
        for (id, name) in (1..).zip(["kept", "dropped", "other"]) {
            keyspaces.install_create(KeyspaceId(id), name).unwrap();
        }
        keyspaces.install_drop(KeyspaceId(2));
        let targets: Vec<NodeId> = (0..rng.random_range(1..4)).map(NodeId).collect();
        let moves: Vec<ArcMove> = (0..1 << ARC_BITS)
            .filter(|_| rng.random_bool(0.6))
            .collect::<Vec<u32>>()
            .into_iter()
            .map(|arc| ArcMove {
                arc,
                from: SOURCE,
                to: targets[rng.random_range(0..targets.len())],
            })
            .collect();
        let options = JournalOptions {
            segment_bytes: 4096,
            salt: seed,
            ..JournalOptions::default()
        };
        Self {
            journal: Journal::create(Arc::new(MemoryDisk::new()), options, Lsn(0)).unwrap(),
            store: MemoryStore::default(),
            frozen: Vec::new(),
            active: Arc::default(),
            complete: Lsn(0),
            last: Lsn(0),
            states: vec![Model::new()],
            keyspaces,
            dropped: KeyspaceId(2),
            targets: Targets::new(ARC_BITS, &moves),
            stores: targets
                .iter()
                .map(|node| (*node, MemoryStore::default()))
                .collect(),
            chunk_bytes: *[1, 300, 2_000, CHUNK_BYTES]
                .get(rng.random_range(0..4))
                .unwrap(),
            rng,
        }
    }

    fn write(&mut self) -> Write {
        let rng = &mut self.rng;
        // Number 4 is not in the catalogue yet.
        let keyspace = KeyspaceId(rng.random_range(1..5));
        let number: u8 = rng.random_range(0..60);
        let value = rng.random_bool(0.7).then(|| Value {
            bytes: vec![rng.random(); rng.random_range(0..40)].into(),
            expires_at_ms: *[0, 0, NOW_MS, NOW_MS + 1]
                .get(rng.random_range(0..4))
                .unwrap(),
        });
        Write {
            key: qualify(keyspace, &[number]),
            value,
        }
    }

    /// A group of commits, most of them with a part of the source.
    fn commit(&mut self) {
        let first_lsn = self.last.next();
        let mut payload = Vec::new();
        for _ in 0..self.rng.random_range(1..8) {
            self.last = self.last.next();
            let mut state = self.states.last().expect("there is one").clone();
            let mut parts = Vec::new();
            for node in [STRANGER, SOURCE] {
                if self.rng.random_bool(0.3) {
                    continue;
                }
                let count = self.rng.random_range(1..4);
                let writes: Model = (0..count)
                    .map(|_| self.write())
                    .map(|w| (w.key, w.value))
                    .collect();
                let writes = writes.into_iter().map(|(key, value)| Write { key, value });
                parts.push(CommitPart {
                    node,
                    incarnation: Incarnation(1),
                    writes: writes.collect(),
                });
            }
            for write in parts
                .iter()
                .filter(|p| p.node == SOURCE)
                .flat_map(|p| &p.writes)
            {
                self.active.insert(self.last, write);
                state.insert(write.key.clone(), write.value.clone());
            }
            self.states.push(state);
            let body = RecordBody::Commit { txn: None, parts };
            let lsn = self.last;
            record::encode(&Record { lsn, body }, &mut payload);
        }
        let group = Group {
            number: GroupNo(self.journal.last_group().0 + 1),
            first_lsn,
            last_lsn: self.last,
            payload,
        };
        self.journal.append(&group).unwrap();
    }

    fn view(&self) -> NodeView {
        NodeView {
            active: Arc::clone(&self.active),
            frozen: self.frozen.clone(),
            tree: self.store.view(),
            complete: self.complete,
            floor: Lsn(0),
            leaving: None,
        }
    }

    fn freeze(&mut self) {
        let successor = Arc::new(self.active.successor());
        let frozen = Frozen {
            through: self.last,
            generation: std::mem::replace(&mut self.active, successor),
        };
        self.frozen.insert(0, frozen);
    }

    fn flush(&mut self) {
        let Some(newest) = self.frozen.first() else {
            return;
        };
        let through = newest.through;
        let mut every = Keyspaces::new();
        for id in 1..5 {
            every
                .install_create(KeyspaceId(id), &id.to_string())
                .unwrap();
        }
        let view = self.view();
        let mut run = frozen_run(&view, through, &every).expect("it has a border there");
        self.store.ingest(&mut run).unwrap();
        self.frozen.clear();
        self.complete = through;
    }

    fn some_commits(&mut self) {
        for _ in 0..self.rng.random_range(0..12) {
            self.commit();
            if self.rng.random_bool(0.1) {
                self.freeze();
            }
            if self.rng.random_bool(0.05) {
                self.flush();
            }
        }
    }

    fn carry<T>(
        &mut self,
        work: impl FnOnce(&mut Carry<'_>, &JournalReader, &Targets) -> Result<T>,
    ) -> Result<T> {
        let (stores, chunk_bytes) = (&self.stores, self.chunk_bytes);
        let mut sink = |node, run: Vec<RunEntry>| {
            assert!(!run.is_empty(), "an empty run is not worth a file");
            let bytes = |(key, stored): &RunEntry| {
                key.len() + stored.as_ref().map_or(0, Bytes::len) + size_of::<RunEntry>()
            };
            let but_last = &run[..run.len() - 1];
            let held: usize = but_last.iter().map(bytes).sum();
            assert!(held < chunk_bytes, "a chunk of {held} bytes");
            // The store asserts that the keys ascend.
            stores[&node].ingest(&mut run.into_iter())
        };
        let mut carry = Carry {
            keyspaces: &self.keyspaces,
            chunk_bytes,
            sink: &mut sink,
            pace: &mut |_| Ok(()),
        };
        work(&mut carry, &self.journal.reader(), &self.targets)
    }

    /// What a target's readers find, by key.
    fn found(&self, node: NodeId) -> BTreeMap<Bytes, Value> {
        let pairs = self.stores[&node]
            .view()
            .range(Bound::Unbounded, Bound::Unbounded);
        let pairs = pairs.map(Result::unwrap);
        let values = pairs.map(|(key, stored)| (key, Value::decode(stored).unwrap()));
        values
            .filter(|(_, value)| !value.is_expired(NOW_MS))
            .collect()
    }

    /// What they have to find when everything up to `at` was moved.
    fn expected(&self, node: NodeId, at: Lsn) -> BTreeMap<Bytes, Value> {
        let arcs = self.targets.arcs_to(node);
        let state = &self.states[usize::try_from(at.0).unwrap()];
        let live = state.iter().filter_map(|(key, value)| {
            let value = value.clone().filter(|value| !value.is_expired(NOW_MS))?;
            Some((key.clone(), value))
        });
        live.filter(|(key, _)| arcs.contains_qualified(key))
            .filter(|(key, _)| split_qualified(key).0 != self.dropped)
            .collect()
    }

    fn check(&self, at: Lsn, seed: u64) {
        for node in self.targets.nodes() {
            assert_eq!(
                self.found(*node),
                self.expected(*node, at),
                "seed {seed}, node {node}"
            );
        }
    }
}

#[test]
fn a_copy_and_what_follows_it_come_to_what_the_source_holds() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        world.some_commits();
        let view = world.view();
        // Anything from what is in the tree to the newest.
        let at = Lsn(world.rng.random_range(view.complete.0..=world.last.0));
        world.some_commits();
        let copied = world.carry(|carry, _, targets| carry.copy(&view, at, targets, NOW_MS));
        world.check(at, seed);
        let expected: usize = world
            .targets
            .nodes()
            .iter()
            .map(|n| world.expected(*n, at).len())
            .sum();
        assert_eq!(
            copied.unwrap().keys,
            expected as u64,
            "only live pairs are copied"
        );

        let mut position = at;
        while position < world.last || world.rng.random_bool(0.3) {
            world.some_commits();
            let through = Lsn(world.rng.random_range(position.0..=world.last.0));
            let from = if world.rng.random_bool(0.2) {
                at
            } else {
                position
            };
            let follow = |carry: &mut Carry<'_>, journal: &JournalReader, targets: &Targets| {
                carry.follow(journal, SOURCE, targets, from, through)
            };
            world.carry(follow).unwrap();
            position = through;
            world.check(position, seed);
            if world.last.0 > 300 {
                break;
            }
        }
    }
}

#[test]
fn a_sweep_leaves_nothing_of_its_arcs_and_all_of_the_others() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        world.some_commits();
        world.freeze();
        world.flush();
        let (view, at) = (world.view(), world.complete);
        world
            .carry(|carry, _, targets| carry.copy(&view, at, targets, NOW_MS))
            .unwrap();
        for node in world.targets.nodes().to_vec() {
            let before = world.found(node);
            let swept: BTreeSet<u32> = (0..1 << ARC_BITS)
                .filter(|_| world.rng.random_bool(0.5))
                .collect();
            let arcs = ArcSet::of(ARC_BITS, swept);
            let tree = world.stores[&node].view();
            let moved = world
                .carry(|carry, _, _| carry.sweep(&*tree, node, &arcs))
                .unwrap();
            let mut left = before.clone();
            left.retain(|key, _| !arcs.contains_qualified(key));
            assert_eq!(world.found(node), left, "seed {seed}");
            assert_eq!(moved.keys, (before.len() - left.len()) as u64);
            let tree = world.stores[&node].view();
            let again = world
                .carry(|carry, _, _| carry.sweep(&*tree, node, &arcs))
                .unwrap();
            assert_eq!(again, Moved::default(), "nothing is left to be swept");
        }
    }
}

/// A world in which everything moves to one node, with this many bytes in its tree.
fn full(pairs: u32, value_bytes: usize) -> World {
    let mut world = World::new(0);
    let moves = (0..1 << ARC_BITS).map(|arc| ArcMove {
        arc,
        from: SOURCE,
        to: NodeId(0),
    });
    world.targets = Targets::new(ARC_BITS, &moves.collect::<Vec<_>>());
    world.chunk_bytes = CHUNK_BYTES;
    let value = Value::new(vec![7; value_bytes].into()).encode();
    let pair = |number: u32| {
        (
            qualify(KeyspaceId(1), &number.to_be_bytes()),
            Some(value.clone()),
        )
    };
    world.store.ingest(&mut (0..pairs).map(pair)).unwrap();
    world
}

#[test]
fn reading_is_paced_and_an_error_of_the_pacing_ends_the_work() {
    /// How the copy went, how often it was paced, and how many bytes it read and pairs it handed on.
    fn paced(world: &World, calls_allowed: usize) -> (Result<Moved>, usize, u64, usize) {
        let (mut calls, mut read, mut handed_on) = (0, 0, 0);
        let mut sink = |_, run: Vec<RunEntry>| {
            handed_on += run.len();
            Ok(())
        };
        let mut pace = |bytes| {
            assert!(bytes < PACED_BYTES + 5_000, "{bytes} bytes without a pause");
            (calls, read) = (calls + 1, read + bytes);
            if calls == calls_allowed {
                return Err(Error::Closed);
            }
            Ok(())
        };
        let mut carry = Carry {
            keyspaces: &world.keyspaces,
            chunk_bytes: 1 << 20,
            sink: &mut sink,
            pace: &mut pace,
        };
        let copied = carry.copy(&world.view(), Lsn(0), &world.targets, NOW_MS);
        (copied, calls, read, handed_on)
    }
    let world = full(1_000, 4_000);
    let moved = Moved {
        keys: 1_000,
        bytes: 1_000 * 4_009,
    };
    assert_eq!(
        paced(&world, usize::MAX),
        (Ok(moved), 201, 1_000 * 4_008, 1_000)
    );
    let (copied, calls, _, handed_on) = paced(&world, 3);
    assert_eq!((copied, calls), (Err(Error::Closed), 3));
    assert_eq!(handed_on, 0, "the first chunk was not full");
}

#[test]
fn an_error_of_a_target_ends_the_work() {
    let world = full(10, 10);
    let mut sink = |_, _| {
        Err(Error::DiskFull {
            context: "a test".into(),
        })
    };
    let mut carry = Carry {
        keyspaces: &world.keyspaces,
        chunk_bytes: 1,
        sink: &mut sink,
        pace: &mut |_| Ok(()),
    };
    let copied = carry.copy(&world.view(), Lsn(0), &world.targets, NOW_MS);
    assert!(matches!(copied, Err(Error::DiskFull { .. })));
}

#[test]
fn a_journal_that_ends_too_early_is_an_error() {
    let mut world = World::new(1);
    world.commit();
    let beyond = world.last.next();
    let follow = |carry: &mut Carry<'_>, journal: &JournalReader, targets: &Targets| {
        carry.follow(journal, SOURCE, targets, Lsn(0), beyond)
    };
    assert!(matches!(world.carry(follow), Err(Error::Unknown { .. })));
}

#[test]
#[should_panic(expected = "a copy at LSN 0 of a tree that is complete up to")]
fn a_tree_that_is_ahead_of_the_copy_is_no_source_for_it() {
    let mut world = World::new(2);
    world.commit();
    world.freeze();
    world.flush();
    let view = world.view();
    let _ = world.carry(|carry, _, targets| carry.copy(&view, Lsn(0), targets, NOW_MS));
}

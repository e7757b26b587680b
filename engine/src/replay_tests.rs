//! What is found again, whenever the manifest was written.

use super::*;
use crate::{
    checkpoint::Catalogue,
    disk::MemoryDisk,
    ids::{KeyspaceId, TxnId},
    journal::record::TxnTag,
    manifest::{NodeProgress, NodeSettings},
    outcomes::SavedOutcomes,
    ring::Ring,
    ring_state::{RingState, SourceState, tests::next_record},
    value::{Value, Write, qualify},
};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ARC_BITS: u8 = 9;

fn manifest() -> Manifest {
    let nodes = [0, 1].map(NodeId);
    Manifest {
        arc_bits: ARC_BITS,
        nodes: nodes.map(|node| NodeSettings { node, weight: 1 }).into(),
        progress: nodes
            .map(|node| NodeProgress {
                node,
                complete: Lsn(0),
                incarnation: Incarnation(3),
            })
            .into(),
        next_keyspace: KeyspaceId(1),
        openings: 2,
        ..Manifest::default()
    }
}

fn first_ring() -> RingState {
    manifest().ring(&MemoryDisk::new()).expect("it fits")
}

fn replay(manifest: &Manifest, records: &[Record]) -> Result<Replay> {
    let disk = MemoryDisk::new();
    let limits = OutcomeLimits::default();
    let mut replay = Replay::new(manifest, &disk, limits, Arc::default())?;
    let after = replay.after();
    for record in records.iter().filter(|record| record.lsn > after) {
        replay.visit(record.clone())?;
    }
    Ok(replay)
}

fn key(number: u32) -> Bytes {
    qualify(KeyspaceId(1), format!("key {number}").as_bytes())
}

fn commit(lsn: u64, node: NodeId, number: u32) -> Record {
    let value = Some(Value::new(lsn.to_string().into()));
    let key = key(number);
    let part = CommitPart {
        node,
        incarnation: Incarnation(1),
        writes: vec![Write { key, value }],
    };
    Record {
        lsn: Lsn(lsn),
        body: RecordBody::Commit {
            txn: None,
            parts: vec![part],
        },
    }
}

fn ring_record(lsn: u64, record: RingRecord) -> Record {
    Record {
        lsn: Lsn(lsn),
        body: RecordBody::Ring(record),
    }
}

fn reason(result: Result<Replay>) -> String {
    match result {
        Err(Error::CorruptManifest { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_that_the_manifest_does_not_fit_is_an_error() {
    let stranger = commit(5, NodeId(2), 1);
    assert_eq!(
        reason(replay(&manifest(), &[stranger])),
        "the journal names node 2 at LSN 5, which it does not know"
    );
    let cut = RingRecord::Cut {
        change: 1,
        from: NodeId(0),
    };
    let said = reason(replay(&manifest(), &[ring_record(6, cut)]));
    assert!(said.starts_with("the journal's record at LSN 6 does not fit it: the ring was not"));
    let dropped = |id| Record {
        lsn: Lsn(7),
        body: RecordBody::CreateKeyspace {
            id: KeyspaceId(id),
            name: "users".into(),
        },
    };
    let said = reason(replay(&manifest(), &[dropped(5), dropped(6)]));
    assert!(said.starts_with("the journal's record at LSN 7 does not fit it: "));
}

#[test]
fn keyspaces_outcomes_and_lives_are_those_of_the_manifest_and_what_the_journal_adds() {
    let tag = |number| TxnTag {
        id: TxnId::new(1, number).expect("not 0"),
        idempotency: None,
    };
    let mut saved = manifest();
    saved.last_lsn = Lsn(4);
    saved.outcomes = SavedOutcomes {
        forgotten: None,
        committed: [(Lsn(3), tag(1))].into(),
    };
    let decision = |lsn, number| Record {
        lsn: Lsn(lsn),
        body: RecordBody::Commit {
            txn: Some(tag(number)),
            parts: Vec::new(),
        },
    };
    let created = |lsn, id, name: &str| Record {
        lsn: Lsn(lsn),
        body: RecordBody::CreateKeyspace {
            id: KeyspaceId(id),
            name: name.into(),
        },
    };
    let fence = Record {
        lsn: Lsn(7),
        body: RecordBody::Fence {
            node: NodeId(1),
            incarnation: Incarnation(8),
        },
    };
    let records = [
        created(2, 1, "gone by the time of the manifest"),
        decision(3, 1),
        decision(5, 2),
        created(6, 4, "users"),
        fence,
    ];
    let found = replay(&saved, &records).expect("it fits");
    assert_eq!(
        found.keyspaces.iter().collect::<Vec<_>>(),
        [("users", KeyspaceId(4))]
    );
    let committed = [1, 2, 3].map(|number| found.outcomes.committed(tag(number).id));
    assert_eq!(committed, [Some(Lsn(3)), Some(Lsn(5)), None]);
    let lives: Vec<_> = found.nodes.iter().map(|node| node.incarnation.0).collect();
    assert_eq!(lives, [3, 9]);
}

/// A directory that runs, in the plainest way: a log, who owns what, and what the last manifest says.
struct Model {
    state: RingState,
    log: Vec<Record>,
    manifest: Manifest,
    /// Where each node has lost arcs last.
    lost: BTreeMap<NodeId, Lsn>,
}

impl Model {
    fn lsn(&self) -> u64 {
        self.log.last().map_or(0, |record| record.lsn.0)
    }

    fn write(&mut self, number: u32) {
        let owner = self.state.ring().owner(format!("key {number}").as_bytes());
        self.log.push(commit(self.lsn() + 1, owner, number));
    }

    fn complete(&self, node: NodeId) -> Lsn {
        let progress = self.manifest.progress.get(usize::from(node.0));
        progress.map_or(Lsn(0), |progress| progress.complete)
    }

    /// What a mover does that the dice tell to. It cleans behind a checkpoint of the source that is past the cut, unless the
    /// source is down; but gives arcs only to a node that is past each cut of its own.
    fn step(&mut self, dice: u32) {
        let Some(record) = next_record(&self.state, dice) else {
            return;
        };
        if let (RingRecord::Cleaned { from, .. }, Some(running)) = (&record, self.state.running())
            && let SourceState::Cut(cut) = running.sources[from]
            && self.complete(*from) < cut
            && dice & 16 == 0
        {
            return;
        }
        if let (RingRecord::Cut { from, .. }, Some(running)) = (&record, self.state.running()) {
            let mut targets = running.change.targets_of(*from).into_iter();
            if targets.any(|target| self.lost.get(&target) > Some(&self.complete(target))) {
                return;
            }
            self.lost.insert(*from, Lsn(self.lsn() + 1));
        }
        let lsn = self.lsn() + 1;
        self.state.apply(Lsn(lsn), &record).expect("it fits");
        self.log.push(ring_record(lsn, record));
    }

    /// Every node but one, perhaps, is complete up to now.
    fn checkpoint(&mut self, sits_out: usize) {
        let through = Lsn(self.lsn());
        let nodes = self
            .state
            .live()
            .filter(|node| usize::from(node.0) != sits_out);
        let complete: Vec<_> = nodes.map(|node| (node, through)).collect();
        let catalogue = Catalogue {
            keyspaces: Keyspaces::new(),
            incarnations: vec![Incarnation(3); self.state.slots().len()],
            outcomes: SavedOutcomes::default(),
            ring: self.state.clone(),
        };
        self.manifest
            .record_checkpoint(complete, through, &catalogue);
    }

    /// What is not in a node's tree, but for what it has lost since.
    fn expected(&self, node: NodeId, complete: Lsn) -> Vec<(Bytes, Lsn)> {
        let mut expected = Vec::new();
        let mut state = first_ring();
        for record in &self.log {
            match &record.body {
                RecordBody::Commit { parts, .. } => {
                    let parts = parts.iter().filter(|part| part.node == node);
                    let keys = parts.flat_map(|part| &part.writes).map(|write| &write.key);
                    expected.extend(keys.map(|key| (key.clone(), record.lsn)));
                }
                RecordBody::Ring(ring) => {
                    state.apply(record.lsn, ring).expect("it fits");
                    let owns = |key: &Bytes| state.ring().owner(&key[4..]) == node;
                    expected.retain(|(key, _)| owns(key));
                }
                _ => unreachable!("no other records"),
            }
        }
        expected.retain(|(_, lsn)| *lsn > complete);
        expected.sort();
        expected
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whenever_the_manifest_was_written_the_same_is_found_and_nothing_of_arcs_that_were_lost(
        steps in prop::collection::vec((0_u8..8, any::<u32>()), 1..150),
    ) {
        let mut model = Model {
            state: first_ring(),
            log: Vec::new(),
            manifest: manifest(),
            lost: BTreeMap::new(),
        };
        for (kind, dice) in steps {
            match kind {
                0..=3 => model.write(dice % 60),
                4..=6 => model.step(dice),
                _ => model.checkpoint(dice as usize % 6),
            }
        }
        let found = replay(&model.manifest, &model.log).expect("it fits");
        prop_assert_eq!(&found.ring, &model.state);
        prop_assert_eq!(found.nodes.len(), model.state.slots().len());
        for (number, node) in (0_u16..).zip(&found.nodes) {
            let expected = model.expected(NodeId(number), node.complete);
            let generation = &node.generation;
            prop_assert_eq!(generation.len(), expected.len());
            for (key, lsn) in expected {
                let (found, _) = generation.newest(&key, lsn).expect("it is there");
                prop_assert_eq!(found, lsn);
            }
            let known = model.manifest.progress.get(usize::from(number));
            let since = found.ring.slots()[usize::from(number)].since;
            prop_assert_eq!(node.complete, known.map_or(since, |known| known.complete));
        }
    }
}

#[test]
fn a_source_that_sat_a_checkpoint_out_gets_nothing_back_of_arcs_that_were_cut_before_it() {
    let mut model = Model {
        state: first_ring(),
        log: Vec::new(),
        manifest: manifest(),
        lost: BTreeMap::new(),
    };
    (0..60).for_each(|number| model.write(number));
    model.step(0);
    (0..60).for_each(|number| model.write(number));
    let cut = RingRecord::Cut {
        change: 1,
        from: NodeId(0),
    };
    let lsn = model.lsn() + 1;
    model.state.apply(Lsn(lsn), &cut).expect("it fits");
    model.log.push(ring_record(lsn, cut));
    model.checkpoint(0);
    (0..60).for_each(|number| model.write(number));
    let found = replay(&model.manifest, &model.log).expect("it fits");
    assert_eq!(found.after(), Lsn(0));
    let (arcs, _) = found.ring.lost_by(NodeId(0)).expect("a source");
    let kept: Vec<_> = found.nodes[0].generation.newest_versions().collect();
    assert!(kept.iter().all(|(key, ..)| !arcs.contains_qualified(key)));
    assert!(!kept.is_empty());
    assert_eq!(
        found.nodes[2].complete,
        Lsn(lsn),
        "it was in the checkpoint"
    );
    let ring: &Ring = found.ring.ring();
    let of_c = (0..60).filter(|number| ring.owner(format!("key {number}").as_bytes()) == NodeId(2));
    assert_eq!(found.nodes[2].generation.len(), of_c.count());
}

/// The simulator's seed 3008601 of its day: the change had ended when the manifest was written, so nothing in it told of what
/// a node had lost that was not complete past the Cut, and its old versions were shown again.
#[test]
fn what_was_lost_in_a_change_that_has_ended_stays_lost() {
    let mut model = Model {
        state: first_ring(),
        log: Vec::new(),
        manifest: manifest(),
        lost: BTreeMap::new(),
    };
    (0..60).for_each(|number| model.write(number));
    model.step(0);
    let record = |model: &mut Model, record: RingRecord| {
        let lsn = model.lsn() + 1;
        model.state.apply(Lsn(lsn), &record).expect("it fits");
        model.log.push(ring_record(lsn, record));
    };
    let running = model.state.running().expect("it has begun").clone();
    for from in running.change.sources() {
        let change = 1;
        record(&mut model, RingRecord::Cut { change, from });
        record(&mut model, RingRecord::Cleaned { change, from });
    }
    let members = running.change.members.clone();
    record(&mut model, RingRecord::Ended { change: 1, members });
    // Nobody else was complete past the Cut, whatever has been said.
    model.checkpoint(0);
    let found = replay(&model.manifest, &model.log).expect("it fits");
    let ring = found.ring.ring();
    let kept: Vec<_> = found.nodes[0].generation.newest_versions().collect();
    let owns = |key: &Bytes| ring.owner(&key[4..]) == NodeId(0);
    assert!(!kept.is_empty() && kept.iter().all(|(key, ..)| owns(key)));
}

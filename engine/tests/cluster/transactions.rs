//! Clients with transactions, and what must be true of each: strictly serializable in the order of LSNs.
//!
//! A transaction's place is its LSN, so the whole check is: the state just before it shows what it has read at its
//! snapshot, and its record is all that it wrote. Real time: its snapshot is at least what was acknowledged before it
//! began, and its LSN is above its snapshot.

use crate::{
    actors::{Channel, Message},
    coverage::Mutation,
    model::{Model, Op, counter, text},
    world::{KEYS, NODES, World, key},
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    coordinator::CoordinatorMessage,
    ids::{Lsn, NodeId, RequestId, Time, TxnId},
    journal::record::{CommitPart, RecordBody, TxnTag},
    manifest::Manifest,
    outcomes::{OutcomeLimits, Outcomes},
    participant::{NodeEffect, NodeMessage, Operation},
    sequencer::{JournalEffect, JournalMessage},
    transaction::{Ask, Asker, Commit, Fence, KeyRange, ReadSet, Settle, TxnOutcome, TxnPart},
    value::{Value, Write},
};
use rand::Rng;
use std::{collections::BTreeMap, ops::Bound};

/// A transaction, what it saw, and what became of it.
pub(crate) struct Txn {
    id: TxnId,
    snapshot: Lsn,
    deadline: Time,
    keys: Vec<(Bytes, Option<Bytes>)>,
    ranges: Vec<(KeyRange, Vec<Option<Bytes>>)>,
    writes: BTreeMap<Bytes, Option<Value>>,
    pub(crate) fences: Vec<Fence>,
    idempotency: Option<Bytes>,
    /// Somebody was told that nothing was written.
    refused: bool,
}

pub(crate) fn restored_outcomes(manifest: &Manifest) -> Outcomes {
    let limits = OutcomeLimits::default();
    Outcomes::restored(manifest.openings, limits, &manifest.outcomes)
}

/// The numbers of the keys in a range.
fn numbers_in(node: NodeId, range: &KeyRange) -> impl Iterator<Item = u8> + '_ {
    (0..KEYS).filter(move |number| range.contains(&key(node, *number)))
}

impl World {
    pub(crate) fn client_transaction(&mut self) {
        self.next_op += 1;
        let number = self.next_op;
        let id = TxnId::new(self.process.manifest.openings, number).expect("it was opened");
        let visible = self.process.visible.load();
        let age = if self.chance(6) {
            self.random.random_range(0..4)
        } else {
            0
        };
        let snapshot = Lsn(visible.0.saturating_sub(age));
        let patience = self.random.random_range(20..600);
        let mut txn = Txn {
            id,
            snapshot,
            deadline: Time(self.now.0 + patience),
            keys: Vec::new(),
            ranges: Vec::new(),
            writes: BTreeMap::new(),
            fences: self.fences(),
            idempotency: None,
            refused: false,
        };
        let first = self.random.random_range(0..NODES);
        let count = [1, 2, 2, 2, 3][self.random.random_range(0..5)];
        let mut parts = Vec::new();
        for step in 0..count {
            let node = NodeId((first + step) % NODES);
            let must_write = step == 0;
            parts.push(self.part(node, must_write, &mut txn));
        }
        let alone = parts.len() == 1 && txn.fences.is_empty() && self.chance(2);
        self.model.waiting.insert(number);
        if alone {
            let part = parts.pop().expect("it has one");
            let operation = Operation::Transact {
                txn: id,
                reads: part.reads,
                writes: part.writes,
            };
            let op = Op {
                node: part.node,
                operation: operation.clone(),
                since: visible,
                refused: false,
            };
            self.model.ops.insert(number, op);
            let message = NodeMessage::Request {
                id: RequestId(number),
                deadline: txn.deadline,
                operation,
            };
            self.send(Channel::ClientToNode(part.node.0), Message::Node(message));
        } else {
            if self.chance(5) {
                let word = self.random.random_range(0..6);
                txn.idempotency = Some(Bytes::from(format!("once-{word}")));
            }
            let commit = Commit {
                txn: id,
                request: RequestId(number),
                deadline: txn.deadline,
                parts,
                fences: txn.fences.clone(),
                idempotency: txn.idempotency.clone(),
            };
            let message = Message::Coordinator(CoordinatorMessage::Commit(commit));
            self.send(Channel::ClientToCoordinator, message);
        }
        self.model.txns.insert(number, txn);
    }

    /// What the transaction does on a node.
    fn part(&mut self, node: NodeId, must_write: bool, txn: &mut Txn) -> TxnPart {
        let mut reads = ReadSet {
            snapshot: txn.snapshot,
            ..ReadSet::default()
        };
        for _ in 0..self.random.random_range(0..3) {
            let key = key(node, self.random.random_range(0..KEYS));
            if !reads.keys.contains(&key) {
                let seen = self.model.value(&key, txn.snapshot);
                txn.keys.push((key.clone(), seen));
                reads.keys.push(key);
            }
        }
        if self.chance(3) {
            let low = self.random.random_range(0..KEYS);
            let high = self.random.random_range(low..KEYS);
            let range = KeyRange {
                low: Bound::Included(key(node, low)),
                high: Bound::Included(key(node, high)),
            };
            let seen = numbers_in(node, &range)
                .map(|number| self.model.value(&key(node, number), txn.snapshot));
            txn.ranges.push((range.clone(), seen.collect()));
            reads.ranges.push(range);
        }
        let mut writes = Vec::new();
        if must_write || self.chance(2) {
            let number = self.random.random_range(0..KEYS);
            let key = key(node, number);
            let value = self.value_to_write(number, &key, txn);
            txn.writes.insert(key.clone(), value.clone());
            writes.push(Write { key, value });
        }
        TxnPart {
            node,
            reads,
            writes: writes.into(),
        }
    }

    /// A counter that was read is raised, or else removed; a register is named after who wrote it.
    fn value_to_write(&mut self, number: u8, key: &Bytes, txn: &Txn) -> Option<Value> {
        if number >= 2 {
            return (!self.chance(5)).then(|| text(txn.id.number(), 10));
        }
        let seen = txn.keys.iter().find(|(read, _)| read == key)?;
        let before = match &seen.1 {
            None => 0,
            Some(bytes) => counter(bytes)?,
        };
        let sum = before + i64::try_from(txn.id.number()).expect("small");
        Some(Value::new(Bytes::copy_from_slice(&sum.to_le_bytes())))
    }

    /// Somebody wants to know what became of a transaction.
    pub(crate) fn ask_for_outcome(&mut self) {
        let recent = self.random.random_range(0..8);
        let Some((number, txn)) = self.model.txns.iter().rev().nth(recent) else {
            return;
        };
        let (number, txn, deadline) = (*number, txn.id, txn.deadline);
        let request = RequestId(u64::from(self.random.random::<u32>()) << 8);
        self.process.outcome_requests.insert(request, number);
        let ask = Ask {
            txn,
            deadline,
            asker: Asker::Handle(request),
        };
        let message = JournalMessage::Asks(vec![ask]);
        self.send(Channel::ClientToJournal, Message::Journal(message));
    }

    pub(crate) fn outcome(&mut self, request: RequestId, outcome: &Result<TxnOutcome>) {
        let asked = self.process.outcome_requests.remove(&request);
        let number = asked.expect("an outcome is told once, to who asked");
        let visible = self.process.visible.load();
        let applied = self.model.applied.get(&number).copied();
        match outcome {
            Ok(TxnOutcome::Committed(lsn)) => {
                self.coverage.told_committed += 1;
                assert!(*lsn <= visible, "txn {number}: LSN {lsn} is not visible");
                assert_eq!(applied, Some(*lsn), "txn {number} is elsewhere");
                self.model.acknowledged.insert(number, *lsn);
            }
            Ok(TxnOutcome::Aborted) => {
                self.coverage.told_aborted += 1;
                assert_eq!(applied, None, "txn {number} is not aborted");
                let txn = self.model.txns.get_mut(&number).expect("it was asked for");
                txn.refused = true;
            }
            Ok(TxnOutcome::Forgotten) => panic!("nothing is forgotten so soon"),
            Err(error) => assert!(matches!(error, Error::Unknown { .. }), "{error:?}"),
        }
    }

    pub(crate) fn tick_transactions(&mut self) {
        let now = self.now;
        for number in 0..NODES {
            let machine = &mut self.process.nodes[usize::from(number)].machine;
            self.coverage.parked += machine.parked() as u64;
            let mut out = Vec::new();
            machine.handle_timeout(now, &mut out);
            self.untamper(&mut out);
            let asks = |effect: &&NodeEffect| matches!(effect, NodeEffect::Journal(_));
            self.coverage.asked_in_doubt += out.iter().filter(asks).count() as u64;
            self.carry_out_node(number, out);
        }
        let mut out = Vec::new();
        let machine = &mut self.process.coordinator.machine;
        machine.handle_timeout(now, &mut out);
        self.carry_out_coordinator(out);
        self.tick_locks();
    }

    pub(crate) fn check_nothing_is_prepared(&self) {
        for (number, node) in self.process.nodes.iter().enumerate() {
            let left = (node.machine.prepared(), node.machine.parked());
            assert_eq!(left, (0, 0), "node {number} still holds or parks");
        }
        let running = self.process.coordinator.machine.running();
        assert_eq!(running, 0, "the coordinator has not ended everything");
        if !self.process.read_only {
            self.check_locks_are_free();
        }
        let asked = &self.process.outcome_requests;
        assert!(asked.is_empty(), "outcomes never told: {asked:?}");
    }

    /// After a restart each transaction has the outcome that the journal has recorded.
    pub(crate) fn check_outcomes(&mut self) {
        let txns: Vec<_> = self.model.txns.values().map(|txn| txn.id).collect();
        for txn in txns.into_iter().rev().take(12) {
            let ask = Ask {
                txn,
                deadline: Time(0),
                asker: Asker::Handle(RequestId(0)),
            };
            let mut out = Vec::new();
            let message = JournalMessage::Asks(vec![ask]);
            self.process.sequencer.handle(self.now, message, &mut out);
            let applied = self.model.applied.get(&txn.number()).copied();
            let wanted = applied.map_or(TxnOutcome::Aborted, TxnOutcome::Committed);
            let wanted = JournalEffect::Outcome(RequestId(0), Ok(wanted));
            assert_eq!(out, [wanted], "transaction {txn} after a restart");
        }
    }
}

impl Model {
    pub(crate) fn settled(&mut self, settles: &[Settle]) {
        let committed = settles.iter().filter(|settle| settle.lsn.is_some());
        self.settled.extend(committed.map(|settle| settle.txn));
    }

    /// A transaction is about to be written at its LSN.
    pub(crate) fn check_transaction(&mut self, lsn: Lsn, tag: &TxnTag, parts: &[CommitPart]) {
        let number = tag.id.number();
        let txn = &self.txns[&number];
        assert_eq!(txn.id, tag.id, "the number was used before");
        assert!(
            !txn.refused,
            "txn {number} was refused, and is at LSN {lsn}"
        );
        assert!(
            lsn > txn.snapshot,
            "txn {number} was committed before it began"
        );
        assert_eq!(tag.idempotency, txn.idempotency, "txn {number}");
        if let Some(key) = &tag.idempotency {
            let earlier = self.committed_under(key);
            assert_eq!(earlier, None, "txn {number} repeats {key:?} at LSN {lsn}");
        }
        let before = Lsn(lsn.0 - 1);
        for (key, seen) in &txn.keys {
            assert_eq!(
                *seen,
                self.value(key, before),
                "txn {number} at LSN {lsn} has read {key:?} at LSN {}",
                txn.snapshot
            );
        }
        for (range, seen) in &txn.ranges {
            let Bound::Included(low) = &range.low else {
                panic!("ranges begin somewhere")
            };
            let node = NodeId(u16::from(low[4]));
            let now: Vec<_> = numbers_in(node, range)
                .map(|number| self.value(&key(node, number), before))
                .collect();
            assert_eq!(
                *seen, now,
                "txn {number} at LSN {lsn} has read {range:?} at LSN {}",
                txn.snapshot
            );
        }
        let mut written = BTreeMap::new();
        for write in parts.iter().flat_map(|part| &part.writes) {
            written.insert(write.key.clone(), write.value.clone());
        }
        assert_eq!(written, txn.writes, "txn {number} is not all there");
        self.check_fences(number, &txn.fences, lsn);
        self.fenced_commits += u64::from(!self.txns[&number].fences.is_empty());
        self.apply(number, lsn);
    }

    fn committed_under(&self, key: &Bytes) -> Option<Lsn> {
        self.log.iter().find_map(|(lsn, body)| match body {
            RecordBody::Commit { txn: Some(tag), .. } if tag.idempotency.as_ref() == Some(key) => {
                Some(*lsn)
            }
            _ => None,
        })
    }

    /// Checks an answer against the log.
    pub(crate) fn transaction_answered(&mut self, id: u64, result: &Result<Lsn>, visible: Lsn) {
        let applied = self.applied.get(&id).copied();
        match result {
            Ok(lsn) => {
                assert!(*lsn <= visible, "txn {id}: LSN {lsn} is not visible");
                if applied == Some(*lsn) {
                    self.acknowledged.insert(id, *lsn);
                    return;
                }
                // An earlier one with the same key is the outcome.
                let key = self.txns[&id].idempotency.clone();
                let key = key.unwrap_or_else(|| panic!("txn {id} is not at LSN {lsn}"));
                assert_eq!(self.committed_under(&key), Some(*lsn), "txn {id}");
                assert_eq!(applied, None, "txn {id} was committed beside the first");
                self.txns.get_mut(&id).expect("is there").refused = true;
            }
            Err(Error::Unknown { .. }) => {}
            Err(error) => {
                assert_eq!(applied, None, "txn {id} was refused ({error}) but applied");
                self.txns.get_mut(&id).expect("is there").refused = true;
            }
        }
    }

    /// Repetitions of a key that got the first outcome.
    pub(crate) fn repeated_keys(&self) -> u64 {
        let is_repeated = |(number, txn): &(&u64, &Txn)| {
            let key = txn.idempotency.as_ref();
            txn.refused
                && !self.applied.contains_key(number)
                && key.is_some_and(|key| self.committed_under(key).is_some())
        };
        self.txns.iter().filter(is_repeated).count() as u64
    }
}

impl Mutation {
    /// Whether it changes what nodes promise.
    pub(crate) fn is_of_promises(self) -> bool {
        matches!(
            self,
            Self::ReleaseReadsAtVote | Self::ReleaseReadersAtVote | Self::WriteIntoHeldRead
        )
    }
}

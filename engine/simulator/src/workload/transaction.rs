//! A transaction as a handle runs it: a snapshot, its views, reads one by one, and a commit on the shortest way.

use super::{Job, Phase, Sent, bank};
use crate::{
    checker::history::Outcome,
    faults::Fault,
    keys::{Kind, shown},
    model::{Op, Txn},
    mutation::Mutation,
    network::{Message, Party},
    report::Seen,
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error,
    coordinator::CoordinatorMessage,
    ids::{Lsn, NodeId, RequestId, Time, TxnId},
    participant::{NodeMessage, Operation},
    scan::{Merge, Source},
    store::runs::Direction,
    transaction::{Commit, Fence, KeyRange, ReadSet, TxnPart},
    value::{Value, Write},
    view::NodeView,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Commits that the coordinator's mailbox takes.
const MAILBOX: usize = 64;

/// A transaction that is not sent yet.
#[derive(Debug)]
pub(crate) struct Draft {
    job: Job,
    attempts: u32,
    deadline: Time,
    pub(super) number: u64,
    id: TxnId,
    pub(super) snapshot: Lsn,
    /// The tokens under which it is to commit.
    fences: Vec<Fence>,
    views: Option<Vec<Arc<NodeView>>>,
    keys: VecDeque<Bytes>,
    ranges: VecDeque<KeyRange>,
    /// What it has read, as it was when it was read: expired values are not there.
    seen: BTreeMap<Bytes, Option<Value>>,
    read_keys: Vec<Bytes>,
    read_ranges: Vec<KeyRange>,
    pub(super) history: Option<usize>,
}

impl Draft {
    /// What it has read of a key.
    pub(super) fn value(&self, key: &Bytes) -> Option<&Value> {
        self.seen.get(key)?.as_ref()
    }
}

impl World {
    pub(super) fn draft(&mut self, job: Job, attempts: u32, deadline: Time) -> Draft {
        let number = self.next_number();
        let opening = self.process.manifest.openings;
        let id = TxnId::new(opening, number).expect("it was opened");
        let keys = &self.keys;
        let (mut names, mut ranges) = (VecDeque::new(), VecDeque::new());
        match &job {
            Job::Transfer { from, to, .. } => names.extend(bank::accounts(keys, *from, *to)),
            Job::Audit => match self.clients.dice.chance(2) {
                true => ranges.push_back(keys.range_of(Kind::Account)),
                false => names.extend(keys.of(Kind::Account).map(|key| key.bytes.clone())),
            },
            Job::Lists(lists) => {
                names.extend(lists.keys(keys));
                if lists.scans {
                    ranges.push_back(keys.range_of(Kind::List));
                }
            }
            Job::Mixed(mixed) => {
                names.extend(mixed.reads.iter().cloned());
                ranges.extend(mixed.ranges.iter().cloned());
            }
            Job::Single => unreachable!("it is no transaction"),
        }
        let is_mixed = matches!(job, Job::Mixed(_));
        let is_lists = matches!(job, Job::Lists(_));
        let history = is_lists.then(|| self.clients.history.begin());
        let fences = match is_mixed {
            true => self.draw_fences(),
            false => Vec::new(),
        };
        Draft {
            job,
            fences,
            attempts,
            deadline,
            number,
            id,
            snapshot: self.process.visible.load(),
            views: None,
            keys: names,
            ranges,
            seen: BTreeMap::new(),
            read_keys: Vec::new(),
            read_ranges: Vec::new(),
            history,
        }
    }

    /// One more step of a transaction that is not sent yet.
    pub(super) fn go_on(&mut self, client: usize, mut draft: Box<Draft>) {
        if draft.views.is_none() {
            let process = &self.process;
            let views: Vec<_> = process.tables.iter().map(|table| table.view()).collect();
            let is_ahead = views.iter().any(|view| view.complete > draft.snapshot);
            if is_ahead && !self.mutated(Mutation::IgnoreTreeAhead) {
                // A checkpoint has passed the snapshot: another one is taken.
                draft.snapshot = process.visible.load();
            } else {
                draft.views = Some(views);
            }
        } else if let Some(key) = draft.keys.pop_front() {
            if !self.read(&mut draft, key) {
                return self.give_up(client, &draft);
            }
        } else if let Some(range) = draft.ranges.pop_front() {
            if !self.scan(&mut draft, range) {
                return self.give_up(client, &draft);
            }
        } else {
            return self.commit(client, *draft);
        }
        self.clients.all[client].phase = Phase::Drafting(draft);
    }

    fn give_up(&mut self, client: usize, draft: &Draft) {
        if let Some(number) = draft.history {
            self.clients.history.end(number, Outcome::Aborted);
        }
        self.rest(client);
    }

    /// Reads a key in the views of the snapshot; false if its node is down.
    fn read(&mut self, draft: &mut Draft, key: Bytes) -> bool {
        let node = self.keys.owner(&key);
        let table = &self.process.tables[usize::from(node.0)];
        if table.is_down() {
            return false;
        }
        let at = match self.mutated(Mutation::ReadInstalled) {
            true => Lsn(u64::MAX),
            false => draft.snapshot,
        };
        let views = draft.views.as_ref().expect("it has views");
        let view = &views[usize::from(node.0)];
        let found = table.get_in(view, &self.process.cache, &key, at);
        let now_ms = self.now_ms();
        let found = found.expect("memory reads");
        let is_expired = found.as_ref().is_some_and(|value| value.is_expired(now_ms));
        self.count(Seen::Expired, u64::from(is_expired));
        let found = found.filter(|_| !is_expired);
        let wanted = self.model.value(&key, draft.snapshot, now_ms);
        assert_eq!(
            found.as_ref(),
            wanted,
            "txn {} reads {} at LSN {}",
            draft.number,
            shown(&key),
            draft.snapshot
        );
        draft.seen.insert(key.clone(), found);
        draft.read_keys.push(key);
        true
    }

    /// Scans a range over all nodes, as a handle does; false if a node is down.
    fn scan(&mut self, draft: &mut Draft, range: KeyRange) -> bool {
        if self.process.is_any_down() {
            return false;
        }
        self.count(Seen::Scan, 1);
        let now_ms = self.now_ms();
        let direction = match self.clients.dice.chance(2) {
            true => Direction::Forward,
            false => Direction::Backward,
        };
        let views = draft.views.as_ref().expect("it has views");
        let sources = views.iter().flat_map(|view| -> Vec<Box<dyn Source>> {
            view.sources(&range.low, &range.high, draft.snapshot, direction)
        });
        let merge = Merge::new(sources.collect(), direction, now_ms);
        let mut found: Vec<_> = merge.map(|pair| pair.expect("memory reads")).collect();
        if direction == Direction::Backward {
            found.reverse();
        }
        let mut wanted = Vec::new();
        for key in self.keys.within(&range) {
            let value = self.model.value(&key.bytes, draft.snapshot, now_ms);
            wanted.extend(value.map(|value| (key.bytes.clone(), value.clone())));
            draft.seen.insert(key.bytes.clone(), value.cloned());
        }
        assert_eq!(
            found, wanted,
            "txn {} scans {range:?} at LSN {}",
            draft.number, draft.snapshot
        );
        draft.read_ranges.push(range);
        true
    }

    fn commit(&mut self, client: usize, mut draft: Draft) {
        let keys = Arc::clone(&self.keys);
        let writes = match &draft.job {
            Job::Transfer { from, to, sum } => bank::transfer(&keys, &draft, [*from, *to], *sum),
            Job::Audit => {
                bank::audit(&keys, &draft);
                self.count(Seen::Snapshot, 1);
                BTreeMap::new()
            }
            Job::Lists(lists) => lists.writes(&keys, &draft),
            Job::Mixed(mixed) => mixed.writes(&draft),
            Job::Single => unreachable!("it is no transaction"),
        };
        if let (Some(number), Job::Lists(lists)) = (draft.history, &draft.job) {
            self.clients.history.does(number, lists.ops(&keys, &draft));
        }
        if writes.is_empty() {
            // What it has read was true at its snapshot, and that is all.
            if let Some(number) = draft.history {
                self.clients.history.end(number, Outcome::Committed);
            }
            return self.rest(client);
        }
        if self.mutated(Mutation::ForgetScans) {
            draft.read_ranges.clear();
        }
        let parts = self.parts(&draft, &writes);
        let idempotency = match &draft.job {
            Job::Mixed(mixed) => mixed.idempotency.clone(),
            _ => None,
        };
        let model = &self.model;
        let version = |key: &Bytes| model.version(key, draft.snapshot).cloned();
        let read = draft.read_keys.iter();
        let txn = Txn {
            id: draft.id,
            snapshot: draft.snapshot,
            deadline: draft.deadline,
            keys: read.map(|key| (key.clone(), version(key))).collect(),
            ranges: draft
                .read_ranges
                .iter()
                .map(|range| (range.clone(), model.versions_in(range, draft.snapshot)))
                .collect(),
            writes,
            idempotency: idempotency.clone(),
            fences: draft.fences.clone(),
            refused: false,
        };
        let number = draft.number;
        self.trace.line(format_args!(
            "{:>6} client {client} commits {txn:?}",
            self.steps
        ));
        self.model.txns.insert(number, txn);
        let sent = Sent {
            op: number,
            job: draft.job,
            attempts: draft.attempts,
            deadline: draft.deadline,
            history: draft.history,
        };
        self.wait(client, sent);
        let commit = Commit {
            txn: draft.id,
            request: RequestId(number),
            deadline: draft.deadline,
            parts: parts.into(),
            idempotency,
            fences: draft.fences,
            epoch: self.process.sequencer.ring().epoch(),
        };
        self.send_commit(client, number, commit);
    }

    fn send_commit(&mut self, client: usize, number: u64, commit: Commit) {
        let is_plain = commit.idempotency.is_none() && commit.fences.is_empty();
        if let ([_], true) = (&commit.parts[..], is_plain) {
            self.count(Seen::Alone, 1);
            let TxnPart {
                node,
                reads,
                writes,
            } = commit.parts[0].clone();
            let operation = Operation::Transact {
                txn: commit.txn,
                reads,
                writes,
            };
            let op = Op {
                node,
                operation: operation.clone(),
                since: self.process.visible.load(),
                refused: false,
            };
            self.model.ops.insert(number, op);
            let message = NodeMessage::Request {
                id: commit.request,
                deadline: commit.deadline,
                epoch: commit.epoch,
                operation,
            };
            return self.request_of_client(client, node, number, message);
        }
        self.model.waiting.insert(number);
        let is_full = self.process.network.waiting_for(Party::Coordinator) >= MAILBOX;
        if is_full || self.strikes(Fault::MailboxFull) {
            let what = "the coordinator's mailbox";
            return self.transaction_answered(number, Err(Error::Overloaded { what }));
        }
        let message = Message::Coordinator(CoordinatorMessage::Commit(commit));
        self.send(Party::Client(client as u8), Party::Coordinator, message);
    }

    /// One part for each node that was read or is written. A range was read on every node.
    fn parts(&self, draft: &Draft, writes: &BTreeMap<Bytes, Option<Value>>) -> Vec<TxnPart> {
        let mut parts: BTreeMap<NodeId, (Vec<Bytes>, Vec<Write>)> = BTreeMap::new();
        if !draft.read_ranges.is_empty() {
            for node in 0..self.nodes() {
                parts.entry(NodeId(node)).or_default();
            }
        }
        for key in &draft.read_keys {
            let part = parts.entry(self.keys.owner(key)).or_default();
            part.0.push(key.clone());
        }
        for (key, value) in writes {
            let part = parts.entry(self.keys.owner(key)).or_default();
            part.1.push(Write {
                key: key.clone(),
                value: value.clone(),
            });
        }
        let parts = parts.into_iter();
        parts
            .map(|(node, (keys, writes))| TxnPart {
                node,
                reads: Arc::new(ReadSet {
                    snapshot: draft.snapshot,
                    keys,
                    ranges: draft.read_ranges.clone(),
                }),
                writes: writes.into(),
            })
            .collect()
    }
}

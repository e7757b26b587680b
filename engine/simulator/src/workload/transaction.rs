//! A transaction as a handle runs it: a snapshot, its views, reads one by one, and a commit on the shortest way.

use super::{Attempt, Job, Phase, Sent, bank};
use crate::{
    checker::history::Outcome,
    faults::Fault,
    keys::{Kind, shown},
    model::{Op, Txn},
    mutation::Mutation,
    network::{Message, Party},
    report::Seen,
    shell::KeyLocks,
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error,
    coordinator::CoordinatorMessage,
    draft,
    ids::{Lsn, NodeId, RequestId, TxnId},
    locks::{Session, SessionId},
    participant::{NodeMessage, Operation},
    scan::{Merge, Source},
    store::runs::Direction,
    transaction::{Commit, Fence, KeyRange, TxnPart},
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
    pub(super) attempt: Attempt,
    pub(super) number: u64,
    id: TxnId,
    pub(super) snapshot: Lsn,
    /// The tokens under which it is to commit.
    fences: Vec<Fence>,
    pub(super) views: Option<Vec<Arc<NodeView>>>,
    pub(super) keys: VecDeque<Bytes>,
    ranges: VecDeque<KeyRange>,
    /// What it has read, as it was when it was read: expired values are not there.
    seen: BTreeMap<Bytes, Option<Value>>,
    pub(super) read_keys: Vec<Bytes>,
    pub(super) read_ranges: Vec<KeyRange>,
    pub(super) history: Option<usize>,
    /// Who locks keys.
    pub(super) session: Session,
    /// The keys that it is going to lock.
    ahead: VecDeque<Bytes>,
    /// The request for a key that it waits for.
    pub(super) asks: Option<RequestId>,
    pub(super) grants: Vec<RequestId>,
}

impl Draft {
    /// What it has read of a key.
    pub(super) fn value(&self, key: &Bytes) -> Option<&Value> {
        self.seen.get(key)?.as_ref()
    }
}

impl Draft {
    fn take_keys(&mut self) -> Option<KeyLocks> {
        let grants = std::mem::take(&mut self.grants);
        (!grants.is_empty()).then_some(KeyLocks {
            session: self.session.id,
            grants,
        })
    }
}

impl World {
    pub(super) fn draft(&mut self, attempt: Attempt) -> Draft {
        let number = self.next_number();
        let opening = self.process.manifest.openings;
        let id = TxnId::new(opening, number).expect("it was opened");
        let keys = &self.keys;
        let (mut names, mut ranges) = (VecDeque::new(), VecDeque::new());
        let mut ahead = VecDeque::new();
        match &attempt.job {
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
                if self.clients.dice.chance(6) {
                    ahead.extend(mixed.written().cloned());
                }
                names.extend(mixed.reads.iter().cloned());
                ranges.extend(mixed.ranges.iter().cloned());
            }
            Job::Turn(turn) => ahead.extend(turn.keys.iter().cloned()),
            Job::Space(space) => {
                names.extend(space.reads.iter().cloned());
                ranges.extend(space.scans.then(|| space.range()));
            }
            Job::Single => unreachable!("it is no transaction"),
        }
        let is_mixed = matches!(attempt.job, Job::Mixed(_));
        let is_lists = matches!(attempt.job, Job::Lists(_));
        let history = is_lists.then(|| self.clients.history.begin());
        let fences = match is_mixed {
            true => self.draw_fences(),
            false => Vec::new(),
        };
        let own = Session {
            begun: attempt.begun,
            id: SessionId::Transaction(id),
        };
        let session = match !ahead.is_empty() && self.clients.dice.chance(4) {
            true => self.draw_session(),
            false => own,
        };
        Draft {
            attempt,
            fences,
            session,
            ahead,
            asks: None,
            grants: Vec::new(),
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
        } else if let Some(request) = draft.asks {
            match self.wait_for_key(client, *draft, request) {
                Some(goes_on) => draft = Box::new(goes_on),
                None => return,
            }
        } else if self.locks_next(&draft) {
            let key = draft.ahead.pop_front().expect("it was looked at");
            let until = draft.attempt.deadline;
            draft.asks = Some(self.ask_for_key(client, draft.session, key, until));
        } else if let Some(key) = draft.keys.pop_front() {
            if !self.may_read(&draft) || !self.read(&mut draft, key) {
                return self.give_up(client, *draft);
            }
        } else if let Some(range) = draft.ranges.pop_front() {
            if !self.may_read(&draft) || !self.scan(&mut draft, range) {
                return self.give_up(client, *draft);
            }
        } else if !self.may_read(&draft) {
            return self.give_up(client, *draft);
        } else {
            return self.commit(client, *draft);
        }
        self.clients.all[client].phase = Phase::Drafting(draft);
    }

    /// Rolls back.
    pub(super) fn give_up(&mut self, client: usize, mut draft: Draft) {
        if let Some(number) = draft.history {
            self.clients.history.end(number, Outcome::Aborted);
        }
        self.leaves_turn(draft.number);
        let keys = draft.take_keys();
        self.let_go(client, keys);
        self.rest(client);
    }

    /// Whether the keyspace that it uses is still there.
    fn may_read(&mut self, draft: &Draft) -> bool {
        match &draft.attempt.job {
            Job::Space(job) => {
                let space = Arc::clone(&job.space);
                self.may_enter(&space)
            }
            _ => true,
        }
    }

    /// Whether it locks a key next, before it reads.
    fn locks_next(&mut self, draft: &Draft) -> bool {
        if draft.ahead.is_empty() {
            return false;
        }
        let reads = !(draft.keys.is_empty() && draft.ranges.is_empty());
        !reads || self.clients.dice.chance(2)
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
        let mut wanted = self.model.versions_in(&range, draft.snapshot);
        wanted.retain(|(_, value)| !value.is_expired(now_ms));
        let seen = wanted.iter().cloned();
        draft
            .seen
            .extend(seen.map(|(key, value)| (key, Some(value))));
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
        let writes = match &draft.attempt.job {
            Job::Transfer { from, to, sum } => bank::transfer(&keys, &draft, [*from, *to], *sum),
            Job::Audit => {
                bank::audit(&keys, &draft);
                self.count(Seen::Snapshot, 1);
                BTreeMap::new()
            }
            Job::Lists(lists) => lists.writes(&keys, &draft),
            Job::Mixed(mixed) => mixed.writes(&draft),
            Job::Turn(turn) => turn.writes(&draft),
            Job::Space(space) => space.writes(&draft),
            Job::Single => unreachable!("it is no transaction"),
        };
        if let (Some(number), Job::Lists(lists)) = (draft.history, &draft.attempt.job) {
            let ops = lists.ops(&keys, &draft);
            let history = &mut self.clients.history;
            history.does(number, draft.number, draft.snapshot, ops);
        }
        if writes.is_empty() {
            // What it has read was true at its snapshot, and that is all.
            if let Some(number) = draft.history {
                self.clients.history.end(number, Outcome::Committed);
            }
            let keys = draft.take_keys();
            self.let_go(client, keys);
            return self.rest(client);
        }
        if self.mutated(Mutation::ForgetScans) {
            draft.read_ranges.clear();
        }
        let parts = self.parts(&draft, &writes);
        let idempotency = match &draft.attempt.job {
            Job::Mixed(mixed) => mixed.idempotency.clone(),
            _ => None,
        };
        let model = &self.model;
        let version = |key: &Bytes| model.version(key, draft.snapshot).cloned();
        let read = draft.read_keys.iter();
        let txn = Txn {
            id: draft.id,
            snapshot: draft.snapshot,
            deadline: draft.attempt.deadline,
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
        let mut keys = draft.take_keys();
        if self.mutated(Mutation::ReleaseKeysEarly) {
            let keys = keys.take();
            self.let_go(client, keys);
        }
        let deadline = draft.attempt.deadline;
        let sent = Sent {
            op: number,
            attempt: draft.attempt,
            history: draft.history,
            keys,
        };
        self.wait(client, sent);
        let commit = Commit {
            txn: draft.id,
            request: RequestId(number),
            deadline,
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

    fn parts(&self, draft: &Draft, writes: &BTreeMap<Bytes, Option<Value>>) -> Vec<TxnPart> {
        let keys = draft.read_keys.iter();
        let keys = keys.map(|key| (key.clone(), self.keys.owner(key)));
        let writes = writes.iter().map(|(key, value)| {
            let (key, value) = (key.clone(), value.clone());
            (self.keys.owner(&key), Write { key, value })
        });
        let owners = (0..self.nodes()).map(NodeId);
        draft::parts(owners, draft.snapshot, keys, &draft.read_ranges, writes)
    }
}

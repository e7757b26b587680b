//! A transaction as a handle runs it: a snapshot, its views, reads one by one, and a commit on the shortest way.

use super::{Attempt, Job, Phase, Sent, bank};
use crate::{
    checker::history::Outcome,
    faults::Fault,
    keys::{Kind, shown},
    model::{Op, Txn},
    mutation::Mutation,
    network::{Message, Party},
    pin::{Member, Pin},
    report::Seen,
    shell::KeyLocks,
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error,
    coordinator::CoordinatorMessage,
    draft,
    ids::{Lsn, RequestId, TxnId},
    locks::{Session, SessionId},
    participant::{NodeMessage, Operation},
    routes::{Routed, Routes},
    scan::Merge,
    store::runs::Direction,
    transaction::{Commit, Fence, KeyRange, TxnPart},
    value::{Value, Write, split_qualified},
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
    pub(super) pin: Pinning,
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

/// How far a transaction is with its snapshot.
#[derive(Debug)]
pub(super) enum Pinning {
    /// It has an LSN.
    Nothing,
    /// And the routes that hold there; these were the newest ones then.
    Routed {
        routes: Arc<Routes<Member>>,
        current: Arc<Routes<Member>>,
    },
    Pinned(Pin),
}

impl Draft {
    /// What it reads.
    pub(super) fn pin(&self) -> &Pin {
        match &self.pin {
            Pinning::Pinned(pin) => pin,
            Pinning::Nothing | Pinning::Routed { .. } => panic!("it has no views yet"),
        }
    }

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
            pin: Pinning::Nothing,
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
        if !matches!(draft.pin, Pinning::Pinned(_)) {
            self.pin_for(&mut draft);
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

    /// Takes another step towards the views of a snapshot.
    fn pin_for(&mut self, draft: &mut Draft) {
        if let Pinning::Nothing = draft.pin {
            match self.routes_at(draft.snapshot) {
                Some(routes) => {
                    draft.pin = Pinning::Routed {
                        routes,
                        current: Arc::clone(&self.process.routes),
                    };
                }
                None => return draft.snapshot = self.process.visible.load(),
            }
            // Most often nothing happens in between.
            let often = if self.mutated(Mutation::KeepOldRoutes) {
                1
            } else {
                3
            };
            if self.clients.dice.chance(often) {
                return;
            }
        }
        if let Pinning::Routed { routes, current } =
            std::mem::replace(&mut draft.pin, Pinning::Nothing)
        {
            match self.pin_views(draft.snapshot, routes, &current) {
                Some(pin) => draft.pin = Pinning::Pinned(pin),
                None => draft.snapshot = self.process.visible.load(),
            }
        }
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
        let pin = draft.pin();
        let (member, view) = pin.owner(&key);
        let table = &member.table;
        if table.is_down() {
            return false;
        }
        let at = match self.mutated(Mutation::ReadInstalled) {
            true => Lsn(u64::MAX),
            false => draft.snapshot,
        };
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
        let is_down = |(member, _): (&Arc<Member>, _)| member.table.is_down();
        if draft.pin().owners().any(is_down) {
            return false;
        }
        self.count(Seen::Scan, 1);
        let now_ms = self.now_ms();
        let direction = match self.clients.dice.chance(2) {
            true => Direction::Forward,
            false => Direction::Backward,
        };
        let believes_all = self.mutated(Mutation::BelieveMixed);
        let (sources, is_mixed) = draft.pin().sources(&range, direction, believes_all);
        self.count(Seen::MixedScan, is_mixed.into());
        let merge = Merge::new(sources, direction, now_ms);
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
        let parts = parts(&draft, &writes);
        let epoch = draft.pin().routes.epoch();
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
            epoch,
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
}

/// What a transaction asks of each node, by the routes by which it has read.
fn parts(draft: &Draft, writes: &BTreeMap<Bytes, Option<Value>>) -> Vec<TxnPart> {
    let routes = &draft.pin().routes;
    let owner = |key: &Bytes| routes.owner(split_qualified(key).1).node();
    let keys = draft.read_keys.iter();
    let keys = keys.map(|key| (key.clone(), owner(key)));
    let writes = writes.iter().map(|(key, value)| {
        let (key, value) = (key.clone(), value.clone());
        (owner(&key), Write { key, value })
    });
    let owners = routes.owners().map(|member| member.node());
    draft::parts(owners, draft.snapshot, keys, &draft.read_ranges, writes)
}

//! What must be true: every commit in the order of LSNs, read from the groups as they are written, and what clients were
//! told.
//!
//! The model looks at records before they reach the disk, so it knows of a commit at the moment in which it gets its
//! LSN, and judges it there: a single operation must be right in the state just before it, a transaction must have read
//! that state (see `transactions`). Answers are judged against the log when they are given.

mod ownership;
mod parts;
mod transactions;

use ownership::Ownership;
use parts::Parts;
pub(crate) use transactions::Txn;

use crate::{checker::acknowledged, keys::shown};
use bytes::Bytes;
use mailring_engine::{
    Error,
    directories::Placement,
    ids::{DirectoryNo, KeyspaceId, Lsn, NodeId, TxnId},
    journal::record::{CommitPart, RecordBody, decode_all},
    keyspaces::Keyspaces,
    participant::{Answer, Operation},
    ring::Ring,
    transaction::Fence,
    value::{Value, Write, split_qualified},
};
use std::collections::{BTreeMap, BTreeSet};

/// A client's operation, and what became of it.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) node: NodeId,
    pub(crate) operation: Operation,
    /// The visible LSN when it began.
    pub(crate) since: Lsn,
    /// It was answered by an error that says "nothing was written".
    pub(crate) refused: bool,
}

/// The truth.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) ownership: Ownership,
    pub(crate) log: BTreeMap<Lsn, RecordBody>,
    /// What was written and is not judged yet.
    parts: Parts,
    next: Lsn,
    versions: BTreeMap<Bytes, BTreeMap<Lsn, Option<Value>>>,
    pub(crate) ops: BTreeMap<u64, Op>,
    /// Which operation is in the log, and where.
    pub(crate) applied: BTreeMap<u64, Lsn>,
    /// Transactions, numbered among the operations.
    pub(crate) txns: BTreeMap<u64, Txn>,
    /// Transactions that have an LSN, written or not.
    pub(crate) settled: BTreeSet<TxnId>,
    /// The first commit under each idempotency key.
    keyed: BTreeMap<Bytes, Lsn>,
    /// Fences under which something has got its LSN since somebody looked.
    pub(crate) fenced: Vec<(Fence, Lsn)>,
    /// Operations that wait for their answer.
    pub(crate) waiting: BTreeSet<u64>,
    /// Writes and counters that were acknowledged.
    pub(crate) acknowledged: BTreeMap<u64, Lsn>,
}

/// A register's value names the operation that wrote it.
pub(crate) fn text(op: u64, padding: usize) -> Value {
    Value::new(Bytes::from(format!("op{op:012}{}", "x".repeat(padding))))
}

fn op_of_text(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes.strip_prefix(b"op")?.get(..12)?)
        .ok()?
        .parse()
        .ok()
}

pub(crate) fn counter(bytes: &[u8]) -> Option<i64> {
    bytes.try_into().ok().map(i64::from_le_bytes)
}

impl Model {
    /// Of a new directory with this ring.
    pub(crate) fn new(ring: &Ring) -> Self {
        Self {
            ownership: Ownership::new(ring),
            log: BTreeMap::new(),
            parts: Parts::default(),
            next: Lsn(1),
            versions: BTreeMap::new(),
            ops: BTreeMap::new(),
            applied: BTreeMap::new(),
            txns: BTreeMap::new(),
            settled: BTreeSet::new(),
            keyed: BTreeMap::new(),
            fenced: Vec::new(),
            waiting: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
        }
    }

    /// The version of a key at an LSN, expired or not.
    pub(crate) fn version(&self, key: &[u8], at: Lsn) -> Option<&Value> {
        let (_, value) = self.versions.get(key)?.range(..=at).next_back()?;
        value.as_ref()
    }

    /// The value of a key at an LSN, as who looks at the wall clock at `now_ms` sees it.
    pub(crate) fn value(&self, key: &[u8], at: Lsn, now_ms: u64) -> Option<&Value> {
        self.version(key, at)
            .filter(|value| !value.is_expired(now_ms))
    }

    fn bytes(&self, key: &[u8], at: Lsn, now_ms: u64) -> Option<&Bytes> {
        self.value(key, at, now_ms).map(|value| &value.bytes)
    }

    pub(crate) fn last(&self) -> Lsn {
        self.log.keys().next_back().copied().unwrap_or_default()
    }

    /// Everything up to here was handed to whoever writes it.
    pub(crate) fn reached(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }

    /// A group of a directory is about to be written. Returns how many commits are whole with it, and how many of these are in
    /// several directories.
    ///
    /// Where there is more than one directory, what has a later LSN may be written before: a record is judged once all before
    /// it was.
    pub(crate) fn append(
        &mut self,
        directory: DirectoryNo,
        payload: &[u8],
        placement: &Placement,
    ) -> (u64, u64) {
        for record in decode_all(&Bytes::copy_from_slice(payload)) {
            let record = record.expect("the sequencer writes records");
            self.parts.take_in(directory, record, placement);
        }
        let (mut commits, mut spread) = (0, 0);
        while let Some((body, is_spread)) = self.parts.take_whole(self.next) {
            let is_commit = matches!(body, RecordBody::Commit { .. });
            commits += u64::from(is_commit);
            spread += u64::from(is_spread);
            self.judge(self.next, body);
            self.next = self.next.next();
        }
        (commits, spread)
    }

    fn judge(&mut self, lsn: Lsn, body: RecordBody) {
        if let RecordBody::Commit { txn, parts } = &body {
            match (txn, &parts[..]) {
                (Some(tag), parts) => self.check_transaction(lsn, tag, parts),
                (None, [part]) => self.check_commit(lsn, part),
                (None, _) => panic!("a commit of one node has one part"),
            }
            for write in parts.iter().flat_map(|part| &part.writes) {
                let versions = self.versions.entry(write.key.clone()).or_default();
                versions.insert(lsn, write.value.clone());
            }
        }
        if let RecordBody::CreateKeyspace { id, .. } = &body {
            assert!(
                !self.knew_keyspace(*id, lsn),
                "keyspace {id} was given again at LSN {lsn}"
            );
        }
        if let RecordBody::Ring(record) = &body {
            self.ownership.apply(lsn, record);
        }
        self.log.insert(lsn, body);
    }

    fn check_commit(&mut self, lsn: Lsn, part: &CommitPart) {
        for write in &part.writes {
            let owner = self.ownership.owner(&write.key, lsn);
            assert_eq!(owner, part.node, "LSN {lsn} is on the wrong node");
        }
        if let Some(op) = self.find_op(&part.writes) {
            let known = self.ops.get(&op);
            let known = known.unwrap_or_else(|| panic!("LSN {lsn}: the sum of no operation"));
            assert!(!known.refused, "op {op} was refused, and is at LSN {lsn}");
            assert_eq!(known.node, part.node, "op {op} is on the wrong node");
            self.apply(op, lsn);
        }
    }

    pub(crate) fn apply(&mut self, op: u64, lsn: Lsn) {
        let before = self.applied.insert(op, lsn);
        assert_eq!(before, None, "op {op} was applied again at LSN {lsn}");
    }

    /// The operation that made these writes: a register says so itself, a counter by how much it rose.
    fn find_op(&self, writes: &[Write]) -> Option<u64> {
        writes.iter().find_map(|write| {
            let bytes = &write.value.as_ref()?.bytes;
            let Some(sum) = counter(bytes) else {
                return op_of_text(bytes);
            };
            let before = self.version(&write.key, Lsn(u64::MAX));
            let before = before.map_or(0, |value| {
                counter(&value.bytes).expect("an add to what is no counter")
            });
            u64::try_from(sum - before).ok()
        })
    }

    /// Nothing behind `last` has happened after a crash, and the next LSN is behind `given`. Unless every group was forced, so end
    /// the promises too. Answers the last LSN before what was lost, if anything was.
    pub(crate) fn truncate(&mut self, last: Lsn, given: Lsn, was_forced: bool) -> Option<Lsn> {
        let lost = self.log.range(last.next()..).next();
        let kept = lost.map(|(lsn, _)| Lsn(lsn.0 - 1));
        self.parts.clear();
        self.next = given.next();
        if !was_forced {
            self.acknowledged.retain(|_, lsn| *lsn <= last);
        }
        self.log.split_off(&last.next());
        self.ownership.truncate(last);
        for versions in self.versions.values_mut() {
            versions.split_off(&last.next());
        }
        self.applied.retain(|_, lsn| *lsn <= last);
        self.keyed.retain(|_, lsn| *lsn <= last);
        let present = |op: u64| self.applied.get(&op).copied();
        if let Err(lost) = acknowledged::check(&self.acknowledged, present) {
            panic!("{lost}");
        }
        kept
    }

    /// The catalogue of keyspaces at an LSN.
    pub(crate) fn keyspaces(&self, base: &Keyspaces, at: Lsn) -> Keyspaces {
        let mut keyspaces = base.clone();
        for body in self.log.range(..=at).map(|(_, body)| body) {
            match body {
                RecordBody::CreateKeyspace { id, name } => {
                    keyspaces.install_create(*id, name).expect("is in order");
                }
                RecordBody::DropKeyspace { id } => {
                    keyspaces.install_drop(*id);
                }
                RecordBody::Commit { .. }
                | RecordBody::Fence { .. }
                | RecordBody::Ring(_)
                | RecordBody::Spread { .. } => {}
            }
        }
        keyspaces
    }

    /// Whether a keyspace had this number at some moment up to `at`.
    pub(crate) fn knew_keyspace(&self, id: KeyspaceId, at: Lsn) -> bool {
        let created = |body: &RecordBody| matches!(body, RecordBody::CreateKeyspace { id: new, .. } if *new == id);
        self.log.range(..=at).any(|(_, body)| created(body))
    }

    /// Whether the keyspace of this number was dropped by `at`.
    pub(crate) fn has_dropped(&self, id: KeyspaceId, at: Lsn) -> bool {
        let dropped = |body: &RecordBody| matches!(body, RecordBody::DropKeyspace { id: gone } if *gone == id);
        self.log.range(..=at).any(|(_, body)| dropped(body))
    }

    /// Whether the keyspace of a key was dropped by `at`: nothing is there then, or about to be, whatever was written before.
    fn is_dropped(&self, key: &[u8], at: Lsn) -> bool {
        self.has_dropped(split_qualified(key).0, at)
    }

    /// Checks an answer against the log. What has expired by now may count as gone, whatever the caller's clock said when
    /// the operation was sent: a tree drops it.
    pub(crate) fn answered(
        &mut self,
        id: u64,
        result: &Result<Answer, Error>,
        visible: Lsn,
        now_ms: u64,
    ) {
        assert!(
            self.waiting.remove(&id),
            "op {id} was answered twice, or never asked: {result:?}"
        );
        let op = &self.ops[&id];
        match result {
            Ok(Answer::Written(lsn)) => self.check_written(id, *lsn, visible, now_ms),
            Ok(Answer::Counter(lsn, sum)) => {
                assert!(*lsn <= visible, "op {id}: LSN {lsn} is not visible");
                assert_eq!(self.applied.get(&id), Some(lsn), "op {id} is elsewhere");
                let Operation::Add { key, .. } = &op.operation else {
                    panic!("op {id} is no add")
                };
                let logged = self.version(key, *lsn);
                let logged = logged.and_then(|value| counter(&value.bytes));
                assert_eq!(logged, Some(*sum), "op {id} was told another sum");
                self.acknowledged.insert(id, *lsn);
            }
            Ok(Answer::Mismatch(current)) => {
                let Operation::CompareAndSet {
                    key,
                    expected,
                    now_ms: then_ms,
                    ..
                } = &op.operation
                else {
                    panic!("op {id} compares nothing")
                };
                assert_ne!(current, expected, "op {id}: no mismatch");
                let clocks = [*then_ms, now_ms];
                self.require_seen(id, key, clocks, visible, |value| value == current.as_ref());
            }
            Err(Error::NotACounter { len }) => {
                let Operation::Add {
                    key,
                    now_ms: then_ms,
                    ..
                } = &op.operation
                else {
                    panic!("op {id} is no add")
                };
                let clocks = [*then_ms, now_ms];
                self.require_seen(id, key, clocks, visible, |value| {
                    value.map(Bytes::len) == Some(*len)
                });
            }
            Err(Error::Unknown { .. }) => {}
            Err(error) => {
                let applied = self.applied.get(&id);
                assert_eq!(applied, None, "op {id} was refused ({error}) but applied");
                self.ops.get_mut(&id).expect("is there").refused = true;
            }
        }
    }

    fn check_written(&mut self, id: u64, lsn: Lsn, visible: Lsn, now_ms: u64) {
        assert!(lsn <= visible, "op {id}: LSN {lsn} is not visible");
        let Some(RecordBody::Commit { parts, .. }) = self.log.get(&lsn) else {
            panic!("op {id}: no commit at LSN {lsn}");
        };
        match &self.ops[&id].operation {
            Operation::Write(writes) => assert_eq!(parts[0].writes[..], writes[..], "op {id}"),
            Operation::CompareAndSet {
                key,
                expected,
                new,
                now_ms: then_ms,
            } => {
                let before = [*then_ms, now_ms].map(|ms| self.bytes(key, Lsn(lsn.0 - 1), ms));
                let is_gone = expected.is_none() && self.is_dropped(key, visible);
                assert!(
                    is_gone || before.contains(&expected.as_ref()),
                    "op {id} was not linearized at LSN {lsn}: {before:?}, not {expected:?}"
                );
                assert_eq!(parts[0].writes[0].value, *new, "op {id}");
            }
            Operation::Add { .. } | Operation::Transact { .. } => {
                panic!("op {id} is answered otherwise")
            }
        }
        // A removal names no operation, so it is not in `applied`.
        let applied = *self.applied.entry(id).or_insert(lsn);
        assert_eq!(applied, lsn, "op {id} is elsewhere");
        self.acknowledged.insert(id, lsn);
    }

    /// An answer without a write must be true at some visible moment while the operation ran.
    fn require_seen(
        &self,
        id: u64,
        key: &Bytes,
        clocks: [u64; 2],
        visible: Lsn,
        is_it: impl Fn(Option<&Bytes>) -> bool,
    ) {
        let since = self.ops[&id].since.0;
        let is_seen_by = |ms| (since..=visible.0).any(|at| is_it(self.bytes(key, Lsn(at), ms)));
        let seen = clocks.into_iter().any(is_seen_by);
        assert!(
            seen || (self.is_dropped(key, visible) && is_it(None)),
            "op {id} was answered from a state of {} that was never visible between LSN {since} and {visible}",
            shown(key)
        );
    }

    /// The process died: nobody will be answered any more.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }
}

//! Two nodes, a coordinator and a journal without a disk; mail is delivered in order, but for what a script holds back.

use super::{process::Opened, spoilt::Spoilt};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    cache::RowCache,
    coordinator::{Coordinator, CoordinatorEffect, CoordinatorMessage, CoordinatorOptions},
    directories::Placement,
    generation::Generation,
    ids::{Epoch, KeyspaceId, Lsn, NodeId, RequestId, Time, TxnId},
    journal::{
        Group,
        record::{Record, RecordBody, decode_all},
    },
    participant::{
        Answer, NodeEffect, NodeMessage, Operation, Participant, ParticipantOptions, TreeSource,
    },
    sequencer::{
        JournalEffect, JournalMessage, JournalState, Sequencer, SequencerOptions, SequencerState,
    },
    store::{Store, memory::MemoryStore},
    transaction::{Ask, Asker, Commit, KeyRange, ReadSet, TxnOutcome, TxnPart},
    value::{Value, Write, qualify},
    view::NodeTable,
};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

const ROOM: u64 = 1 << 30;
const DEADLINE: Time = Time(1_000);
/// The version of the ring, and everybody's ownership epoch.
pub(super) const EPOCH: Epoch = Epoch(1);

/// A key and the node that owns it.
pub(crate) type Place = (usize, Bytes);

/// A key of the first node.
pub(crate) fn a(name: &str) -> Place {
    (0, qualify(KeyspaceId(1), name.as_bytes()))
}

/// A key of the second node.
pub(crate) fn b(name: &str) -> Place {
    (1, qualify(KeyspaceId(1), name.as_bytes()))
}

pub(crate) fn txn(number: u64) -> TxnId {
    TxnId::new(1, number).expect("not 0")
}

/// What a transaction does.
pub(crate) struct Script {
    reads: [ReadSet; 2],
    writes: [Vec<Write>; 2],
}

impl Script {
    pub(crate) fn at(snapshot: u64) -> Self {
        let reads = || ReadSet {
            snapshot: Lsn(snapshot),
            ..ReadSet::default()
        };
        Self {
            reads: [reads(), reads()],
            writes: [Vec::new(), Vec::new()],
        }
    }

    pub(crate) fn read(mut self, (node, key): Place) -> Self {
        self.reads[node].keys.push(key);
        self
    }

    pub(crate) fn scan(mut self, (node, low): Place, (_, high): Place) -> Self {
        self.reads[node].ranges.push(KeyRange {
            low: Bound::Included(low),
            high: Bound::Excluded(high),
        });
        self
    }

    pub(crate) fn write(self, place: Place, text: &str) -> Self {
        self.write_bytes(place, text.as_bytes())
    }

    pub(crate) fn write_bytes(mut self, (node, key): Place, bytes: &[u8]) -> Self {
        let value = Some(Value::new(Bytes::copy_from_slice(bytes)));
        self.writes[node].push(Write { key, value });
        self
    }

    fn parts(self) -> Vec<TxnPart> {
        let parts = self.reads.into_iter().zip(self.writes).zip(0..);
        let parts = parts.map(|((reads, writes), node)| TxnPart {
            node: NodeId(node),
            reads: Arc::new(reads),
            writes: writes.into(),
        });
        parts
            .filter(|part| !part.reads.is_empty() || !part.writes.is_empty())
            .collect()
    }
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) enum Mail {
    Node(usize, NodeMessage),
    Journal(JournalMessage),
    Coordinator(CoordinatorMessage),
}

pub(crate) fn is_prepare_to(mail: &Mail, node: usize, number: u64) -> bool {
    matches!(mail, Mail::Node(to, NodeMessage::Prepares(prepares))
        if *to == node && prepares.iter().any(|prepare| prepare.txn == txn(number)))
}

/// A report of the node's that something is installed.
pub(crate) fn is_install(mail: &Mail, from: u16) -> bool {
    matches!(mail, Mail::Journal(JournalMessage::Installed { node, .. }) if *node == NodeId(from))
}

/// The journal's word to a node which LSN its commits have.
pub(crate) fn is_resolve_to(mail: &Mail, node: usize) -> bool {
    matches!(mail, Mail::Node(to, NodeMessage::Resolve(_)) if *to == node)
}

pub(crate) fn is_append(mail: &Mail) -> bool {
    matches!(mail, Mail::Journal(JournalMessage::Append(_)))
}

pub(crate) struct Bank {
    /// What is taken out of it, if anything.
    pub(super) spoilt: Option<Spoilt>,
    pub(super) nodes: Vec<Participant>,
    tables: Vec<Arc<NodeTable>>,
    cache: Arc<RowCache>,
    journal: Sequencer,
    coordinator: Coordinator,
    pub(super) opening: u64,
    records: Vec<Record>,
    /// What was written to the journal, and how many of these are forced and known to be.
    pub(super) groups: Vec<Group>,
    pub(super) forced: usize,
    visible: Lsn,
    visible_before: Lsn,
    pub(super) now: Time,
    pub(super) mail: VecDeque<Mail>,
    holds: Box<dyn Fn(&Mail) -> bool>,
    held: VecDeque<Mail>,
    outcomes: BTreeMap<u64, Result<Lsn>>,
    answers: BTreeMap<u64, Result<Answer>>,
    told: BTreeMap<u64, TxnOutcome>,
    next_put: u64,
}

impl Bank {
    pub(crate) fn new() -> Self {
        Self::made(None)
    }

    /// One without something that keeps anomalies out.
    pub(crate) fn without(what: Spoilt) -> Self {
        Self::made(Some(what))
    }

    fn made(spoilt: Option<Spoilt>) -> Self {
        let opened = Opened::of(1, &[]);
        Self::of(spoilt, opened)
    }

    /// The machines over what was found in a directory.
    pub(super) fn of(spoilt: Option<Spoilt>, opened: Opened) -> Self {
        let Opened {
            opening,
            replay,
            groups,
            records,
            last_lsn,
            last_group,
        } = opened;
        let cache = Arc::new(RowCache::new(1 << 20, 1));
        let store = Arc::new(MemoryStore::default());
        let options = SequencerOptions {
            force: true,
            max_group_bytes: 1 << 20,
            segment_bytes: ROOM,
        };
        let lives = replay.nodes.iter().map(|node| node.incarnation);
        let state = SequencerState {
            last_lsn,
            journals: vec![JournalState {
                last_group,
                room: ROOM,
            }],
            placement: Placement::default(),
            incarnations: lives.collect(),
            keyspaces: replay.keyspaces,
            outcomes: replay.outcomes,
            ring: replay.ring,
        };
        let (nodes, tables) = (0..)
            .map(NodeId)
            .zip(replay.nodes)
            .map(|(number, node)| {
                let life = node.incarnation;
                let table = Arc::new(node.table(number, store.view(), last_lsn));
                let tree = Arc::clone(&store);
                let node = Participant::new(
                    life,
                    EPOCH,
                    Arc::clone(&table),
                    Arc::clone(&cache),
                    TreeSource(Box::new(move || tree.view())),
                    last_lsn,
                    ParticipantOptions::default(),
                );
                (node, table)
            })
            .unzip();
        Self {
            spoilt,
            opening,
            nodes,
            tables,
            cache,
            journal: Sequencer::new(options, state),
            coordinator: Coordinator::new(CoordinatorOptions::default()),
            records,
            forced: groups.len(),
            groups,
            visible: last_lsn,
            visible_before: last_lsn,
            now: Time(1),
            mail: VecDeque::new(),
            holds: Box::new(|_| false),
            held: VecDeque::new(),
            outcomes: BTreeMap::new(),
            answers: BTreeMap::new(),
            told: BTreeMap::new(),
            next_put: 1_000,
        }
    }

    /// Holds back the mail that `which` names, until [`Bank::release`].
    pub(crate) fn hold(&mut self, which: impl Fn(&Mail) -> bool + 'static) {
        self.holds = Box::new(which);
    }

    pub(crate) fn release(&mut self) {
        self.holds = Box::new(|_| false);
        self.release_but_held();
    }

    /// Delivers what was held back, but for what is held back now.
    pub(crate) fn release_but_held(&mut self) {
        self.mail.append(&mut self.held);
        self.run();
    }

    pub(crate) fn commit(&mut self, number: u64, script: Script) {
        let commit = Commit {
            txn: TxnId::new(self.opening, number).expect("not 0"),
            request: RequestId(number),
            deadline: DEADLINE,
            parts: script.parts().into(),
            fences: Vec::new(),
            idempotency: None,
            epoch: EPOCH,
        };
        let commit = CoordinatorMessage::Commit(commit);
        self.mail.push_back(Mail::Coordinator(commit));
    }

    /// What the journal tells of a transaction of the first opening.
    pub(crate) fn ask(&mut self, number: u64) -> TxnOutcome {
        let ask = Ask {
            txn: txn(number),
            deadline: DEADLINE,
            asker: Asker::Handle(RequestId(number)),
        };
        self.mail
            .push_back(Mail::Journal(JournalMessage::Asks(vec![ask])));
        self.run();
        self.told[&number]
    }

    /// A transaction of the first node alone.
    pub(crate) fn transact(&mut self, number: u64, script: Script) {
        let part = script.parts().remove(0);
        let operation = Operation::Transact {
            txn: txn(number),
            reads: part.reads,
            writes: part.writes,
        };
        self.request(number, 0, operation);
    }

    fn request(&mut self, id: u64, node: usize, operation: Operation) {
        let request = NodeMessage::Request {
            id: RequestId(id),
            deadline: DEADLINE,
            epoch: EPOCH,
            operation,
        };
        self.mail.push_back(Mail::Node(node, request));
    }

    pub(crate) fn add(&mut self, id: u64, (node, key): Place, delta: i64) {
        let add = Operation::Add {
            key,
            delta,
            now_ms: 0,
        };
        self.request(id, node, add);
    }

    pub(crate) fn put_later(&mut self, id: u64, (node, key): Place, text: &str) {
        let value = Some(Value::new(Bytes::copy_from_slice(text.as_bytes())));
        self.request(id, node, Operation::Write([Write { key, value }].into()));
    }

    /// A put that is visible when this returns.
    pub(crate) fn put(&mut self, place: Place, text: &str) {
        self.next_put += 1;
        self.put_later(self.next_put, place, text);
        self.run();
        assert!(matches!(self.answer(self.next_put), Some(Ok(_))));
    }

    pub(crate) fn visible(&self) -> Lsn {
        match self.is_a_step_behind() {
            true => self.visible_before,
            false => self.visible,
        }
    }

    pub(super) fn now_visible(&mut self, lsn: Lsn) {
        if lsn > self.visible {
            self.visible_before = self.visible;
            self.visible = lsn;
        }
    }

    pub(crate) fn read(&self, (node, key): Place, at: Lsn) -> Option<Bytes> {
        let at = self.read_at(at);
        let table = &self.tables[node];
        let found = table.get_in(&table.view(), &self.cache, &key, at);
        let found = found.expect("memory reads");
        found.map(|value| value.bytes)
    }

    pub(crate) fn is_answered(&self, number: u64) -> bool {
        self.answered(number).is_some()
    }

    /// What the caller of a transaction was told, if anything.
    pub(crate) fn answered(&self, number: u64) -> Option<&Result<Lsn>> {
        self.outcomes.get(&number)
    }

    pub(crate) fn outcome(&self, number: u64) -> &Result<Lsn> {
        let outcome = self.answered(number);
        outcome.unwrap_or_else(|| panic!("transaction {number} is not answered"))
    }

    pub(crate) fn answer(&self, id: u64) -> Option<&Result<Answer>> {
        self.answers.get(&id)
    }

    /// Delivers everything that is not held back.
    pub(crate) fn run(&mut self) {
        while self.step() {}
    }

    fn step(&mut self) -> bool {
        let Some(mail) = self.mail.pop_front() else {
            return false;
        };
        if (self.holds)(&mail) {
            self.held.push_back(mail);
            return true;
        }
        match mail {
            Mail::Node(node, message) => {
                let out = self.handle_node(node, message);
                self.carry_out_node(node, out);
            }
            Mail::Journal(message) => {
                let mut out = Vec::new();
                if matches!(message, JournalMessage::Persisted { .. }) {
                    self.forced = self.groups.len();
                }
                if message.needs_cut() {
                    self.mail.push_back(Mail::Journal(JournalMessage::Cut));
                }
                self.journal.handle(self.now, message, &mut out);
                self.carry_out_journal(out);
            }
            Mail::Coordinator(message) => {
                let mut out = Vec::new();
                self.coordinator.handle(self.now, message, &mut out);
                self.carry_out_coordinator(out);
            }
        }
        true
    }

    fn carry_out_node(&mut self, node: usize, effects: Vec<NodeEffect>) {
        for effect in effects {
            match effect {
                NodeEffect::Journal(message) => self.mail.push_back(Mail::Journal(message)),
                NodeEffect::Answer(id, answer) => {
                    let before = self.answers.insert(id.0, answer);
                    assert_eq!(before, None, "request {id} was answered twice");
                }
                NodeEffect::Votes(votes) => {
                    let votes = CoordinatorMessage::Votes(votes);
                    self.mail.push_back(Mail::Coordinator(votes));
                }
                NodeEffect::ScheduleFlush => {
                    self.mail.push_back(Mail::Node(node, NodeMessage::Flush));
                }
                NodeEffect::Rebuild {
                    incarnation,
                    through,
                    ..
                } => {
                    let generation = Arc::new(self.rebuild(node, through));
                    let rebuilt = NodeMessage::Rebuilt {
                        incarnation,
                        through,
                        generation: Ok(generation),
                    };
                    self.mail.push_back(Mail::Node(node, rebuilt));
                }
                effect => panic!("no script does {effect:?}"),
            }
        }
    }

    fn rebuild(&self, node: usize, through: Lsn) -> Generation {
        let generation = Generation::new();
        for record in self.records.iter().filter(|record| record.lsn <= through) {
            if let RecordBody::Commit { parts, .. } = &record.body {
                let parts = parts.iter();
                for part in parts.filter(|part| usize::from(part.node.0) == node) {
                    for write in &part.writes {
                        generation.insert(record.lsn, write);
                    }
                }
            }
        }
        generation
    }

    fn carry_out_journal(&mut self, effects: Vec<JournalEffect>) {
        for effect in effects {
            let to = |node: NodeId, message| Mail::Node(usize::from(node.0), message);
            match effect {
                JournalEffect::Write(group) => {
                    self.groups.push(Group {
                        number: group.number,
                        first_lsn: group.first,
                        last_lsn: group.last,
                        payload: group.payload.clone(),
                    });
                    let records = decode_all(&group.payload.into());
                    self.records
                        .extend(records.map(|record| record.expect("a record")));
                    let persisted = JournalMessage::Persisted {
                        directory: group.directory,
                        last: group.last,
                        room: ROOM,
                        spare: Some(ROOM),
                    };
                    self.mail.push_back(Mail::Journal(persisted));
                    self.persisted(group.last);
                }
                JournalEffect::Resolve(node, resolve) => {
                    self.mail.push_back(to(node, NodeMessage::Resolve(resolve)));
                }
                JournalEffect::Settle(node, mut settles) => {
                    self.settled(node, &mut settles);
                    self.mail.push_back(to(node, NodeMessage::Settles(settles)));
                }
                JournalEffect::Decided(decided) => {
                    let decided = CoordinatorMessage::Decided(decided);
                    self.mail.push_back(Mail::Coordinator(decided));
                }
                JournalEffect::Fenced(node, incarnation, through) => {
                    let fenced = NodeMessage::Fenced {
                        incarnation,
                        through,
                    };
                    self.mail.push_back(to(node, fenced));
                }
                JournalEffect::Visible(lsn, nodes) => {
                    self.now_visible(lsn);
                    for node in nodes {
                        self.mail.push_back(to(node, NodeMessage::Visible(lsn)));
                    }
                }
                JournalEffect::Outcome(request, outcome) => {
                    let outcome = outcome.expect("the journal lives");
                    self.told.insert(request.0, outcome);
                }
                JournalEffect::PrepareSpare { .. } => {}
                effect => panic!("no script does {effect:?}"),
            }
        }
    }

    fn carry_out_coordinator(&mut self, effects: Vec<CoordinatorEffect>) {
        for effect in effects {
            let to = |node: NodeId, message| Mail::Node(usize::from(node.0), message);
            match effect {
                CoordinatorEffect::Prepares(node, prepares) => {
                    self.mail
                        .push_back(to(node, NodeMessage::Prepares(prepares)));
                }
                CoordinatorEffect::Aborts(node, aborts) => {
                    self.mail.push_back(to(node, NodeMessage::Aborts(aborts)));
                }
                CoordinatorEffect::Journal(message) => {
                    self.mail.push_back(Mail::Journal(message));
                }
                CoordinatorEffect::Answer(request, outcome) => {
                    let before = self.outcomes.insert(request.0, outcome);
                    assert_eq!(before, None, "transaction {request} was answered twice");
                }
                CoordinatorEffect::AnswerRepeated(request, lsn) => {
                    panic!("no transaction has a key, and {request} repeats LSN {lsn}")
                }
                CoordinatorEffect::Locks(messages) => {
                    panic!("no script carries a fence: {messages:?}")
                }
                CoordinatorEffect::ScheduleFlush => {
                    let flush = Mail::Coordinator(CoordinatorMessage::Flush);
                    self.mail.push_back(flush);
                }
            }
        }
    }

    /// Delivers so many messages; false if there are no more to come.
    pub(crate) fn run_for(&mut self, count: usize) -> bool {
        self.run_until(count, |_| true)
    }

    /// Runs until the coordinator has handled `count` messages; false if there are no more to come.
    pub(crate) fn run_until_coordinator_has_handled(&mut self, count: usize) -> bool {
        self.run_until(count + 1, |mail| matches!(mail, Mail::Coordinator(_)))
    }

    /// Runs until the node has handled `count` messages; false if there are no more to come.
    pub(crate) fn run_until_node_has_handled(&mut self, node: usize, count: usize) -> bool {
        self.run_until(
            count,
            |mail| matches!(mail, Mail::Node(to, _) if *to == node),
        )
    }

    fn run_until(&mut self, count: usize, is_counted: impl Fn(&Mail) -> bool) -> bool {
        let mut handled = 0;
        while handled < count {
            let Some(mail) = self.mail.front() else {
                return false;
            };
            handled += usize::from(is_counted(mail));
            self.step();
        }
        true
    }

    /// The coordinator dies between two messages, and what it was about to tell itself is lost.
    pub(crate) fn kill_coordinator(&mut self) {
        let is_flush = |mail: &Mail| matches!(mail, Mail::Coordinator(CoordinatorMessage::Flush));
        self.mail.retain(|mail| !is_flush(mail));
        let mut out = Vec::new();
        self.coordinator.restart(self.now, &mut out);
        self.carry_out_coordinator(out);
    }

    pub(crate) fn kill_node(&mut self, node: usize) {
        let mut out = Vec::new();
        self.nodes[node].restart(&mut out);
        self.carry_out_node(node, out);
    }

    /// All deadlines pass.
    pub(crate) fn timeouts(&mut self) {
        self.now = DEADLINE;
        for node in 0..2 {
            let mut out = Vec::new();
            self.nodes[node].handle_timeout(self.now, &mut out);
            self.carry_out_node(node, out);
        }
        let mut out = Vec::new();
        self.coordinator.handle_timeout(self.now, &mut out);
        self.carry_out_coordinator(out);
        self.run();
    }

    pub(crate) fn check_nothing_is_left(&self) {
        for node in &self.nodes {
            assert_eq!((node.prepared(), node.parked()), (0, 0));
        }
        assert_eq!(self.coordinator.running(), 0);
        let is_unknown = |outcome: &&Result<Lsn>| matches!(outcome, Err(Error::Unknown { .. }));
        assert_eq!(self.outcomes.values().find(is_unknown), None);
    }
}

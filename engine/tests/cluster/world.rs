//! The world of one seed: what exists, what happens next, and what must hold after each step.

use crate::{
    actors::{Channel, Job, Message, Node},
    coordinator::CoordinatorShell,
    coverage::{Coverage, Mutation},
    locks::LockShell,
    model::{Model, Op, text},
    transactions::restored_outcomes,
};
use bytes::Bytes;
use mailring_engine::{
    cache::RowCache,
    checkpoint::{Checkpoint, CheckpointMessage},
    disk::{Disk, SimulatedDisk, Survivors},
    generation::Generation,
    ids::{Incarnation, KeyspaceId, Lsn, NodeId, RequestId, Time},
    journal::{
        Journal, JournalOptions, SpareRequest, frame_bytes,
        record::{Record, RecordBody},
    },
    keyspaces::Keyspaces,
    manifest::{KeyspaceName, Manifest, NodeProgress, NodeSettings},
    participant::{NodeMessage, Operation, Participant, ParticipantOptions, TreeSource},
    sequencer::{JournalMessage, Sequencer, SequencerOptions, SequencerState},
    store::{Store, memory::MemoryStore},
    value::{Value, Write, qualify},
    view::{Frozen, NodeTable, NodeView, Visible},
};
use rand::{Rng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

pub(crate) const NODES: u16 = 3;
pub(crate) const KEYS: u8 = 5;
const SEGMENT_BYTES: u64 = 48 << 10;

pub(crate) struct World {
    pub(crate) random: StdRng,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) now: Time,
    pub(crate) faults: bool,
    /// Durable.
    pub(crate) disk: SimulatedDisk,
    pub(crate) stores: Vec<Arc<MemoryStore>>,
    /// Up to where each tree is really complete.
    pub(crate) written: Vec<Lsn>,
    /// Gone after a crash.
    pub(crate) process: Process,
    pub(crate) model: Model,
    pub(crate) next_op: u64,
    slow: Option<Channel>,
    trace: u64,
    pub(crate) coverage: Coverage,
}

pub(crate) struct Process {
    pub(crate) visible: Arc<Visible>,
    pub(crate) cache: Arc<RowCache>,
    pub(crate) tables: Vec<Arc<NodeTable>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) sequencer: Sequencer,
    pub(crate) coordinator: CoordinatorShell,
    pub(crate) locks: LockShell,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) journal: Journal,
    pub(crate) manifest: Manifest,
    pub(crate) channels: BTreeMap<Channel, VecDeque<Message>>,
    pub(crate) cut_scheduled: bool,
    pub(crate) preparing: Option<SpareRequest>,
    pub(crate) read_only: bool,
    pub(crate) keyspace_requests: BTreeSet<RequestId>,
    pub(crate) checkpoint_requests: BTreeSet<RequestId>,
    /// Which transaction's outcome was asked for.
    pub(crate) outcome_requests: BTreeMap<RequestId, u64>,
    /// A reader that has chosen its LSN and not loaded its views yet.
    snapshot: Option<Lsn>,
}

pub(crate) fn base_keyspaces() -> Keyspaces {
    let mut keyspaces = Keyspaces::new();
    keyspaces
        .install_create(KeyspaceId(1), "main")
        .expect("fits");
    keyspaces
}

pub(crate) fn key(node: NodeId, number: u8) -> Bytes {
    qualify(KeyspaceId(1), &[node.0 as u8, number])
}

impl World {
    pub(crate) fn new(mut random: StdRng, mutation: Option<Mutation>) -> Self {
        let disk = SimulatedDisk::new();
        let nodes = (0..NODES).map(NodeId);
        let manifest = Manifest {
            arc_bits: 4,
            nodes: nodes
                .clone()
                .map(|node| NodeSettings { node, weight: 1 })
                .collect(),
            progress: nodes
                .map(|node| NodeProgress {
                    node,
                    complete: Lsn(0),
                    incarnation: Incarnation(0),
                })
                .collect(),
            keyspaces: vec![KeyspaceName {
                id: KeyspaceId(1),
                name: "main".into(),
            }],
            next_keyspace: KeyspaceId(2),
            ..Manifest::default()
        };
        manifest.save(&disk).expect("nothing fails yet");
        let stores: Vec<Arc<MemoryStore>> = (0..NODES).map(|_| Arc::default()).collect();
        Journal::create(Arc::new(disk.clone()), options(0), Lsn(0)).expect("nothing fails yet");
        let process = Process::open(&disk, &stores, &mut Model::default()).expect("opens");
        let slow = (random.random_range(0..2) == 0)
            .then(|| Channel::ALL[random.random_range(0..Channel::ALL.len())]);
        Self {
            random,
            mutation,
            now: Time(1),
            faults: true,
            disk,
            written: vec![Lsn(0); stores.len()],
            stores,
            process,
            model: Model::default(),
            next_op: 0,
            slow,
            trace: 0xcbf2_9ce4_8422_2325,
            coverage: Coverage::default(),
        }
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn coverage(&self) -> Coverage {
        let commits = self.model.log.values();
        Coverage {
            commits: commits
                .filter(|body| matches!(body, RecordBody::Commit { .. }))
                .count() as u64,
            acknowledged: self.model.acknowledged.len() as u64,
            transactions: self.model.settled.len() as u64,
            repeated_keys: self.model.repeated_keys(),
            grants: self.model.grants.len() as u64,
            fenced_commits: self.model.fenced_commits,
            ..self.coverage
        }
    }

    /// Mixes something that happened into the trace.
    pub(crate) fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what).wrapping_mul(0x0100_0000_01b3);
    }

    pub(crate) fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    pub(crate) fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn send(&mut self, channel: Channel, message: Message) {
        self.process
            .channels
            .entry(channel)
            .or_default()
            .push_back(message);
    }

    /// One thing happens.
    pub(crate) fn step(&mut self) {
        self.now = Time(self.now.0 + self.random.random_range(0..3));
        if self.process.read_only && self.chance(60) {
            // There is not much more to see of an engine that is read-only.
            self.crash();
        }
        match self.random.random_range(0..1000) {
            0..700 => {
                self.deliver();
            }
            700..792 => self.client(),
            792..820 => self.lock_client(),
            820..892 => self.client_transaction(),
            892..900 => self.ask_for_outcome(),
            900..930 => self.tick(),
            930..936 => {
                let request = RequestId(u64::from(self.random.random::<u32>()));
                self.process.checkpoint_requests.insert(request);
                let message = CheckpointMessage::Request(request);
                self.send(Channel::ClientToCheckpoint, Message::Checkpoint(message));
            }
            936..950 => self.keyspace_request(),
            950..980 => self.snapshot(),
            980..983 => self.crash(),
            983..984 => self.disk.fail_next_force(),
            984 if self.chance(2) => self.disk.fail_next_write(),
            985 if self.chance(2) => self.disk.die_after(self.random.random_range(0..10)),
            987..992 => {
                let bytes = self.random.random_range(1..8) * SEGMENT_BYTES;
                self.disk.set_capacity(Some(bytes));
            }
            _ => self.disk.set_capacity(None),
        }
        self.check();
    }

    /// Delivers one message; false if there is none.
    fn deliver(&mut self) -> bool {
        let ready: Vec<Channel> = self.process.channels.keys().copied().collect();
        if ready.is_empty() {
            return false;
        }
        let mut channel = ready[self.random.random_range(0..ready.len())];
        if Some(channel) == self.slow && !self.chance(8) {
            channel = ready[self.random.random_range(0..ready.len())];
        }
        let queue = self.process.channels.get_mut(&channel).expect("is there");
        let message = queue.pop_front().expect("no queue is empty");
        if queue.is_empty() {
            self.process.channels.remove(&channel);
        }
        self.coverage.messages += 1;
        self.note(channel.number());
        self.receive(channel, message);
        true
    }

    fn tick(&mut self) {
        let mut out = Vec::new();
        self.process.sequencer.handle_timeout(self.now, &mut out);
        self.carry_out_journal(out);
        self.tick_transactions();
        let tables = &self.process.tables;
        let active_bytes = tables.iter().map(|t| t.view().active.bytes() as u64).sum();
        let message = CheckpointMessage::Tick { active_bytes };
        self.send(Channel::ClientToCheckpoint, Message::Checkpoint(message));
    }

    fn client(&mut self) {
        self.next_op += 1;
        let id = self.next_op;
        let node = NodeId(self.random.random_range(0..NODES));
        let counter = key(node, self.random.random_range(0..2));
        let register = key(node, self.random.random_range(2..KEYS));
        let padding = match self.random.random_range(0..60) {
            0 => 60_000,
            1..8 => 4_000,
            _ => 10,
        };
        let value = Some(text(id, padding));
        let operation = match self.random.random_range(0..12) {
            0..4 => Operation::Add {
                key: counter,
                delta: i64::try_from(id).expect("small"),
                now_ms: 0,
            },
            4..6 => self.compare_and_set(register, value),
            6 => Operation::Write(
                [
                    Write {
                        key: counter,
                        value: None,
                    },
                    Write {
                        key: register,
                        value,
                    },
                ]
                .into(),
            ),
            7 if self.chance(4) => Operation::Write(
                [Write {
                    key: counter,
                    value,
                }]
                .into(),
            ),
            _ => Operation::Write(
                [Write {
                    key: register,
                    value,
                }]
                .into(),
            ),
        };
        let patience = if self.chance(10) { 20 } else { 2_000 };
        let message = NodeMessage::Request {
            id: RequestId(id),
            deadline: Time(self.now.0 + patience),
            operation: operation.clone(),
        };
        self.model.waiting.insert(id);
        let op = Op {
            node,
            operation,
            since: self.process.visible.load(),
            refused: false,
        };
        self.model.ops.insert(id, op);
        self.send(Channel::ClientToNode(node.0), Message::Node(message));
    }

    fn compare_and_set(&mut self, key: Bytes, new: Option<Value>) -> Operation {
        let visible = self.process.visible.load();
        // The latest staged value is what has the best chance to match.
        let at = if self.chance(2) {
            Lsn(u64::MAX)
        } else {
            visible
        };
        Operation::CompareAndSet {
            expected: self.model.value(&key, at),
            key,
            new,
            now_ms: 0,
        }
    }

    fn keyspace_request(&mut self) {
        let request = RequestId(u64::from(self.random.random::<u32>()));
        let name = ["x", "y", ""][self.random.random_range(0..3)].to_owned();
        self.process.keyspace_requests.insert(request);
        let message = if self.chance(3) {
            JournalMessage::DropKeyspace { request, name }
        } else {
            JournalMessage::CreateKeyspace { request, name }
        };
        self.send(Channel::ClientToJournal, Message::Journal(message));
    }

    /// A snapshot is taken in two steps, with anything in between: first its LSN, then the views.
    fn snapshot(&mut self) {
        let Some(at) = self.process.snapshot.take() else {
            self.process.snapshot = Some(self.process.visible.load());
            return;
        };
        let views: Vec<_> = self.process.tables.iter().map(|t| t.view()).collect();
        let up = |node: &usize| !self.process.tables[*node].is_down();
        if views.iter().any(|view| view.complete > at) || !(0..views.len()).all(|n| up(&n)) {
            return;
        }
        self.coverage.snapshots += 1;
        for (node, view) in (0..NODES).zip(&views) {
            for number in 0..KEYS {
                let key = key(NodeId(node), number);
                let found = view.get(NodeId(node), &key, at).expect("memory reads");
                assert_eq!(
                    found.map(|value| value.bytes),
                    self.model.value(&key, at),
                    "node {node}, key {number}: a snapshot at LSN {at} is wrong"
                );
            }
        }
    }

    fn check(&mut self) {
        let process = &self.process;
        let visible = process.visible.load();
        let forced = process.journal.stats().forced_lsn;
        assert!(
            visible <= forced,
            "LSN {visible} is visible, forced is {forced}"
        );
        self.note(visible.0);
        let node = NodeId(self.random.random_range(0..NODES));
        let key = key(node, self.random.random_range(0..KEYS));
        self.check_read(node, &key);
    }

    fn check_read(&self, node: NodeId, key: &Bytes) {
        let process = &self.process;
        let (visible, table) = (process.visible.load(), &process.tables[usize::from(node.0)]);
        assert!(
            table.view().complete <= visible,
            "node {node}'s tree is ahead"
        );
        if table.is_down() {
            return;
        }
        let found = table.get(&process.visible, &process.cache, key);
        let found = found.expect("memory reads").map(|value| value.bytes);
        let wanted = self.model.value(key, visible);
        assert_eq!(found, wanted, "node {node}, {key:?} at LSN {visible}");
    }

    fn check_all_reads(&self) {
        for node in (0..NODES).map(NodeId) {
            for number in 0..KEYS {
                self.check_read(node, &key(node, number));
            }
        }
    }

    fn crash(&mut self) {
        self.coverage.crashes += 1;
        let survivors = match self.random.random_range(0..4) {
            0 => Survivors::Nothing,
            1 => Survivors::Everything,
            _ => Survivors::Seeded(self.random.random()),
        };
        self.reopen(survivors);
    }

    fn reopen(&mut self, survivors: Survivors) {
        let visible = self.process.visible.load();
        self.model.forget_waiting();
        self.disk.crash(survivors);
        if self.faults && self.chance(4) {
            // The machine dies again while it recovers.
            self.disk.die_after(self.random.random_range(0..12));
            let _ = Process::open(&self.disk, &self.stores, &mut Model::default());
            self.disk.crash(survivors);
        }
        self.disk.set_capacity(None);
        self.process = Process::open(&self.disk, &self.stores, &mut self.model)
            .unwrap_or_else(|error| panic!("the directory does not open: {error}"));
        let last = self.process.sequencer.last_lsn();
        assert!(
            last >= visible,
            "LSN {visible} was visible, recovery ends at {last}"
        );
        let keyspaces = self.model.keyspaces(&base_keyspaces(), last);
        assert_eq!(*self.process.sequencer.keyspaces(), keyspaces);
        self.check_all_reads();
        self.check_outcomes();
    }

    /// Faults stop: everything is answered, and survives one more crash.
    pub(crate) fn finish(&mut self) {
        self.faults = false;
        self.disk.set_capacity(None);
        for _ in 0..40 {
            while self.deliver() {
                self.check();
            }
            self.now = Time(self.now.0 + 1_000);
            self.tick();
        }
        let waiting = &self.model.waiting;
        assert!(waiting.is_empty(), "never answered: {waiting:?}");
        let process = &self.process;
        let (keyspaces, checkpoints) = (&process.keyspace_requests, &process.checkpoint_requests);
        assert!(
            keyspaces.is_empty(),
            "keyspaces never answered: {keyspaces:?}"
        );
        assert!(
            checkpoints.is_empty(),
            "checkpoints never answered: {checkpoints:?}"
        );
        if !process.read_only {
            let (visible, last) = (process.visible.load(), process.sequencer.last_lsn());
            assert_eq!(visible, last, "the visible LSN is stuck");
        }
        self.check_nothing_is_prepared();
        self.check_all_reads();
        self.reopen(Survivors::Nothing);
        self.reopen(Survivors::Nothing);
    }

    pub(crate) fn job_is_fine(&mut self, job: &Job) {
        if let Job::Save { complete, .. } = job {
            for (complete, written) in complete.iter().zip(&self.written) {
                assert!(
                    complete <= written,
                    "the manifest is ahead: {complete} > {written}"
                );
            }
        }
    }

    /// A tree that was written up to `through` holds exactly the state at `through`.
    pub(crate) fn check_tree(&self, node: NodeId, through: Lsn) {
        let view = self.stores[usize::from(node.0)].view();
        for number in 0..KEYS {
            let key = key(node, number);
            let stored = view.get(&key).expect("memory reads");
            let value = stored.map(|bytes| Value::decode(bytes).expect("is a value").bytes);
            let wanted = self.model.value(&key, through);
            assert_eq!(
                value, wanted,
                "node {node}'s tree, {key:?} at LSN {through}"
            );
        }
    }
}

fn participant_options() -> ParticipantOptions {
    ParticipantOptions {
        stashed: 20,
        parked: 8,
        prepared: 12,
        reservation: Duration::from_nanos(30),
        reserved: 6,
        ask_again: Duration::from_nanos(40),
        ..ParticipantOptions::default()
    }
}

fn options(salt: u64) -> JournalOptions {
    JournalOptions {
        segment_bytes: SEGMENT_BYTES,
        salt,
    }
}

impl Process {
    /// Opens the directory as the shell does.
    fn open(
        disk: &SimulatedDisk,
        stores: &[Arc<MemoryStore>],
        model: &mut Model,
    ) -> mailring_engine::Result<Self> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut manifest = Manifest::load(disk)?.expect("a manifest was saved");
        manifest.openings += 1;
        for progress in &mut manifest.progress {
            progress.incarnation = progress.incarnation.next();
        }
        manifest.save(disk)?;
        let mut keyspaces = manifest.keyspaces(disk)?;
        let complete: Vec<Lsn> = manifest.progress.iter().map(|p| p.complete).collect();
        let mut incarnations: Vec<_> = manifest.progress.iter().map(|p| p.incarnation).collect();
        let generations: Vec<Generation> = stores.iter().map(|_| Generation::new()).collect();
        let catalogue_lsn = manifest.last_lsn;
        let lowest = complete.iter().min().copied().unwrap_or_default();
        let mut outcomes = restored_outcomes(&manifest);
        let mut replayed = Vec::new();
        let mut visit = |record: Record| {
            replayed.push(record.clone());
            let lsn = record.lsn;
            match record.body {
                RecordBody::Commit { txn, parts } => {
                    if let Some(tag) = txn.filter(|_| lsn > catalogue_lsn) {
                        outcomes.commit(lsn, tag, Time(0));
                    }
                    for part in &parts {
                        let node = usize::from(part.node.0);
                        for write in part.writes.iter().filter(|_| lsn > complete[node]) {
                            generations[node].insert(lsn, write);
                        }
                    }
                }
                RecordBody::CreateKeyspace { id, name } if lsn > catalogue_lsn => {
                    keyspaces.install_create(id, &name)?;
                }
                RecordBody::DropKeyspace { id } if lsn > catalogue_lsn => {
                    keyspaces.install_drop(id);
                }
                RecordBody::Fence { node, incarnation } => {
                    let current = &mut incarnations[usize::from(node.0)];
                    *current = incarnation.next().max(*current);
                }
                RecordBody::CreateKeyspace { .. } | RecordBody::DropKeyspace { .. } => {}
            }
            Ok(())
        };
        let (journal, recovery) =
            Journal::open(shared, options(manifest.openings), lowest, &mut visit)?;
        let last = recovery.last_lsn;
        for record in replayed {
            if let Some(known) = model.log.get(&record.lsn) {
                assert_eq!(*known, record.body, "LSN {} came back changed", record.lsn);
            }
        }
        model.truncate(last);
        let visible = Arc::new(Visible::new(last));
        let cache = Arc::new(RowCache::new(4_000, 7));
        let tables: Vec<Arc<NodeTable>> = (0..NODES)
            .map(NodeId)
            .zip(generations)
            .zip(stores)
            .map(|((node, generation), store)| {
                let view = NodeView {
                    active: Arc::new(generation.successor()),
                    frozen: vec![Frozen {
                        through: last,
                        generation: Arc::new(generation),
                    }],
                    tree: store.view(),
                    complete: complete[usize::from(node.0)],
                };
                Arc::new(NodeTable::new(node, view))
            })
            .collect();
        let nodes = tables.iter().zip(&incarnations).zip(stores);
        let nodes = nodes
            .map(|((table, incarnation), store)| {
                let store = Arc::clone(store);
                Node::new(Participant::new(
                    *incarnation,
                    Arc::clone(table),
                    Arc::clone(&cache),
                    TreeSource(Box::new(move || store.view())),
                    last,
                    participant_options(),
                ))
            })
            .collect();
        let sequencer = Sequencer::new(
            SequencerOptions {
                force: true,
                max_group_bytes: 20_000,
                segment_bytes: SEGMENT_BYTES - frame_bytes(0) - 4096,
            },
            SequencerState {
                last_lsn: last,
                last_group: journal.last_group(),
                incarnations,
                keyspaces,
                outcomes,
                room: journal.room(),
            },
        );
        Ok(Self {
            visible,
            cache,
            tables,
            nodes,
            sequencer,
            coordinator: CoordinatorShell::new(),
            locks: LockShell::new(manifest.openings),
            checkpoint: Checkpoint::new(3_000, complete),
            journal,
            manifest,
            channels: BTreeMap::new(),
            cut_scheduled: false,
            preparing: None,
            read_only: false,
            keyspace_requests: BTreeSet::new(),
            checkpoint_requests: BTreeSet::new(),
            outcome_requests: BTreeMap::new(),
            snapshot: None,
        })
    }
}

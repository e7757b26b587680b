//! The world of one seed: what exists, and what happens next.
//!
//! Each step one thing happens: a message is delivered, a client does something, a timer fires, or something breaks.
//! After each step the invariants are checked (`invariants`). When the steps are over the faults stop, and everything
//! must come to its end (`liveness`).

use crate::{
    damage::OlderCopy,
    dice::{Dice, Stream},
    disks::{Directory, Layout},
    faults::{Fault, Faults},
    keys::{Keys, ring},
    model::Model,
    mutation::Mutation,
    network::{Delivery, Lane, Message, Party},
    options::Options,
    process::{Process, Question},
    report::{Counter, Seen, Summary},
    scale::Scale,
    shell::LockBooks,
    store::SimulatedStore,
    trace::Trace,
    workload::Clients,
};
use mailring_engine::{
    checkpoint::CheckpointMessage,
    ids::{Lsn, NodeId, RequestId, Time},
    motion::Heal,
    sequencer::JournalMessage,
    transaction::{Ask, Asker},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Milliseconds since the Unix epoch when a run begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// Whether some runs keep outcomes for a short time only.
const FORGETS: bool = true;

fn spoil_store(mutation: Option<Mutation>, store: &SimulatedStore) {
    match mutation {
        Some(Mutation::SkipTreeSync) => store.never_sync(),
        Some(Mutation::KeepDropped) => store.keep_dropped(),
        _ => {}
    }
}

/// Something that happens at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wake {
    /// A node's back-off is over.
    Resume(u16),
    /// The disks have room again.
    Room,
    /// The mover looks whether it can go on.
    Mover(RequestId),
    /// What a node has said in an earlier life arrives.
    OldLife(u16),
    /// The router looks whether nodes show what a checkpoint has written.
    Shown,
}

pub(crate) struct World {
    pub(crate) schedule: Dice,
    pub(crate) faults: Faults,
    pub(crate) scale: Scale,
    pub(crate) mutation: Option<Mutation>,
    /// Since the engine was opened.
    pub(crate) now: Time,
    /// Nanoseconds of the run before the engine was opened.
    before: u64,
    pub(crate) steps: u64,
    wakes: BTreeMap<(Time, u64), Wake>,
    wakes_set: u64,
    pub(crate) no_ticks_before: Time,
    /// The wall clock, which values expire by.
    pub(crate) now_ms: Arc<AtomicU64>,
    pub(crate) directory: Directory,
    pub(crate) layout: Layout,
    /// A copy of one of several directories, of some time ago.
    pub(crate) older_copy: Option<OlderCopy>,
    /// Where a disk dies now, all of them do.
    pub(crate) power_fails: bool,
    /// Up to where each tree is really complete.
    pub(crate) written: Vec<Lsn>,
    pub(crate) process: Process,
    pub(crate) model: Model,
    pub(crate) keys: Arc<Keys>,
    pub(crate) clients: Clients,
    pub(crate) locks: LockBooks,
    pub(crate) next_op: u64,
    pub(crate) trace: Trace,
    pub(crate) summary: Summary,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let mut schedule = Dice::new(seed, Stream::Schedule);
        let mut faults = Faults::new(seed);
        options.apply(&mut faults);
        let nodes = schedule.within(2..5) as u16;
        let wants_unforced = options.mutation.is_some_and(Mutation::wants_unforced);
        let scale = Scale {
            step: schedule.pick(&[20_000, 200_000, 2_000_000]),
            forces: !schedule.chance(8) && !wants_unforced,
            forgets: schedule.chance(4) && FORGETS,
            hurries_motion: schedule.chance(2),
            chunk_bytes: schedule.pick(&[120, 400, 4_000]),
            heal: match seed.is_multiple_of(4) {
                true => Heal::Wait,
                false => Heal::TakeOver,
            },
        };
        let demands_several = options.mutation.is_some_and(Mutation::is_of_directories);
        let mut dice = Dice::new(seed, Stream::Directories);
        let layout = Layout::draw(&mut dice, nodes, demands_several);
        let ring = ring(nodes).expect("a few nodes make a ring");
        let keys = Arc::new(Keys::new());
        let now_ms = Arc::new(AtomicU64::new(EPOCH_MS));
        let stores = (0..nodes).map(|_| Arc::new(SimulatedStore::new(Arc::clone(&now_ms))));
        let directory = Directory::create(&layout, stores.collect());
        let spoil = |store: &Arc<SimulatedStore>| spoil_store(options.mutation, store);
        directory.stores.iter().for_each(spoil);
        directory.disks.spoil(options.mutation);
        let mut model = Model::new(&ring);
        let process = Process::open(&directory, &mut model, scale, options.mutation);
        let mut world = Self {
            clients: Clients::new(seed),
            locks: LockBooks::default(),
            faults,
            scale,
            mutation: options.mutation,
            now: Time(1),
            before: 0,
            steps: 0,
            wakes: BTreeMap::new(),
            wakes_set: 0,
            no_ticks_before: Time(0),
            now_ms,
            written: vec![Lsn(0); directory.stores.len()],
            directory,
            layout,
            older_copy: None,
            power_fails: false,
            process: process.expect("a new directory opens"),
            model,
            keys,
            next_op: 0,
            trace: Trace::new(options.trace),
            summary: Summary::default(),
            schedule,
        };
        if options.mutation.is_some_and(Mutation::wants_contention) {
            world.clients.only_mix();
        }
        if options.mutation.is_some_and(Mutation::is_of_keys) {
            world.clients.only_turns();
        }
        world.count(Seen::Several, (world.layout.most > 1).into());
        world.slow_something();
        world
    }

    /// One lane may be slow throughout: of a disk, or of messages that others overtake.
    fn slow_something(&mut self) {
        if !self.schedule.chance(2) {
            return;
        }
        let is_several = self.directory.disks.len() > 1;
        if is_several && self.faults.has(Fault::DiskSlow) && self.schedule.chance(2) {
            let lane = Lane::new(Party::Journal, Party::Io(self.any_directory()));
            self.process.network.slow_down(lane);
        } else if self.faults.has(Fault::MessageReordered) {
            let lane = self.any_lane();
            self.process.network.slow_down(lane);
        }
    }

    /// Runs the seed to its end.
    pub(crate) fn run(&mut self, steps: Option<u64>) {
        let usual = self.schedule.within(1_000..4_200);
        for _ in 0..steps.unwrap_or(usual) {
            self.step();
        }
        self.finish();
        self.summary.nanos = self.since_start().0;
        self.summary.trace = self.trace.hash();
    }

    pub(crate) fn count(&mut self, seen: Seen, times: u64) {
        self.summary.count(seen, times);
    }

    /// Whether the fault strikes; if so, it is counted and traced.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        let strikes = self.faults.strikes(fault);
        if strikes {
            self.struck(fault);
        }
        strikes
    }

    /// A fault has struck that is looked for behind the draw: it need not find anything.
    pub(crate) fn struck(&mut self, fault: Fault) {
        self.summary.faults[fault.index()] += 1;
        self.trace.note(0xfa << 32 | fault.index() as u64);
        self.trace
            .line(format_args!("{:>6} !! {}", self.steps, fault.name()));
    }

    pub(crate) fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether a mutation that shows now and then shows now.
    pub(crate) fn mutated_now(&mut self, mutation: Mutation, one_in: u32) -> bool {
        self.mutated(mutation) && self.schedule.chance(one_in)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn wake_at(&mut self, at: Time, wake: Wake) {
        self.wakes_set += 1;
        self.wakes.insert((at, self.wakes_set), wake);
    }

    /// One of the nodes that are open.
    pub(crate) fn any_node(&mut self) -> Party {
        let nodes = self.process.routes.nodes();
        let place = self.schedule.below(nodes.len());
        Party::Node(nodes[place].table.node().0)
    }

    /// What mutations do to a store.
    pub(crate) fn spoil_store(&self, store: &SimulatedStore) {
        spoil_store(self.mutation, store);
    }

    /// Sends a message, unless something happens to it.
    pub(crate) fn send(&mut self, from: Party, to: Party, message: Message) {
        let lane = Lane::new(from, to);
        if let Party::Node(node) = to
            && !matches!(from, Party::Client(_))
            && from != to
            && !self.process.is_open(NodeId(node))
        {
            // It has left: nobody has its address any more, but who has pinned it, and it itself.
            return;
        }
        if let Some(tolerance) = message.tolerance() {
            if tolerance.may_get_lost && self.strikes(Fault::MessageLost) {
                return;
            }
            if tolerance.may_come_twice
                && let Some(again) = message.copy()
                && self.strikes(Fault::MessageTwice)
            {
                self.process.network.send(lane, again);
            }
        }
        if from != to && self.strikes(Fault::MessageLate) {
            let late = self.schedule.within(10..300);
            let until = self.scale.after(self.now, late);
            self.process.network.hold(lane, until);
        }
        self.process.network.send(lane, message);
    }

    /// One thing happens.
    fn step(&mut self) {
        self.steps += 1;
        let nanos = self.schedule.within(0..self.scale.step);
        self.pass(nanos);
        match self.schedule.below(1_000) {
            0..690 => {
                self.deliver();
            }
            690..840 => self.clients_act(),
            840..860 => self.lock_client(),
            860..900 => self.tick_somebody(),
            900..908 => self.ask_for_outcome(),
            908..913 => self.ask_for_checkpoint(),
            913..922 => self.ask_for_keyspace(),
            922..924 => self.watch(),
            _ => self.break_something(),
        }
        if self.power_fails && self.directory.disks.is_any_dead() {
            self.crash();
        }
        self.check();
    }

    /// Time goes on.
    pub(crate) fn pass(&mut self, nanos: u64) {
        self.now = Time(self.now.0 + nanos);
        let now_ms = EPOCH_MS + self.since_start().0 / 1_000_000;
        self.now_ms.store(now_ms, Ordering::Relaxed);
        while let Some(entry) = self.wakes.first_entry()
            && entry.key().0 <= self.now
        {
            match entry.remove() {
                Wake::Resume(node) => {
                    self.send(Party::Supervisor, Party::Node(node), Message::Resume);
                }
                Wake::Room => self.directory.disks.set_capacity(None),
                Wake::Mover(task) => {
                    self.send(Party::Mover, Party::Mover, Message::MoveOn(task));
                }
                Wake::OldLife(node) => self.process.network.bring_back(Party::Node(node)),
                Wake::Shown => self.look_what_is_shown(),
            }
        }
    }

    pub(crate) fn next_wake(&self) -> Option<Time> {
        self.wakes.keys().next().map(|(at, _)| *at)
    }

    /// Delivers one message; false if there is none that may arrive now.
    pub(crate) fn deliver(&mut self) -> bool {
        let reorders = self.faults.strikes(Fault::MessageReordered);
        let network = &mut self.process.network;
        let Some(delivery) = network.next(self.now, &mut self.schedule, reorders) else {
            return false;
        };
        let Delivery {
            lane,
            message,
            overtakes,
        } = delivery;
        if overtakes {
            self.struck(Fault::MessageReordered);
        }
        self.count(Seen::Message, 1);
        self.trace.note(lane.number());
        if self.trace.is_readable() {
            let (steps, now) = (self.steps, self.since_start().0 / 1_000);
            let Lane { from, to } = lane;
            self.trace.line(format_args!(
                "{steps:>6} {now:>9} µs  {from:?} -> {to:?}: {message:?}"
            ));
        }
        self.receive(lane.to, message);
        true
    }

    fn tick_somebody(&mut self) {
        if self.no_ticks_before > self.now {
            return;
        }
        let somebody = match self.schedule.chance(8) {
            true => Party::Router,
            // Also one that has left: whoever waits for it sees his deadline pass.
            false => self.any_of(self.process.nodes.len()),
        };
        self.tick(somebody);
    }

    /// A party's clock ticks, unless it is busy.
    pub(crate) fn tick(&mut self, party: Party) {
        if self.process.network.is_stalled(party, self.now) {
            return;
        }
        match party {
            Party::Journal => self.tick_journal(),
            Party::Coordinator => self.tick_coordinator(),
            Party::Checkpointer => self.tick_checkpointer(),
            Party::Locks => self.tick_locks(),
            Party::Router => self.tick_router(),
            Party::Node(node) => self.tick_node(node),
            other => unreachable!("{other:?} has no clock"),
        }
    }

    /// Every clock ticks.
    pub(crate) fn tick_everybody(&mut self) {
        for node in 0..self.process.nodes.len() {
            self.tick(Party::Node(node as u16));
        }
        self.tick(Party::Router);
        self.tick(Party::Journal);
        self.tick(Party::Coordinator);
        self.tick(Party::Checkpointer);
        self.tick(Party::Locks);
    }

    /// Somebody wants to know what became of a recent transaction.
    fn ask_for_outcome(&mut self) {
        let recent = self.schedule.below(8);
        let Some((number, txn)) = self.model.txns.iter().rev().nth(recent) else {
            return;
        };
        let txn_key = txn.idempotency.clone();
        let (number, txn, deadline) = (*number, txn.id, txn.deadline);
        let request = self.request();
        let key = txn_key.filter(|_| self.schedule.chance(2));
        if let Some(key) = key {
            let question = Question::Under(key.clone());
            self.process.outcome_requests.insert(request, question);
            let message = Message::Journal(JournalMessage::FindKey { request, key });
            return self.send(Party::Client(u8::MAX), Party::Journal, message);
        }
        let question = Question::Of(number);
        self.process.outcome_requests.insert(request, question);
        let ask = Ask {
            txn,
            deadline,
            asker: Asker::Handle(request),
        };
        let message = JournalMessage::Asks(vec![ask]);
        self.send(
            Party::Client(u8::MAX),
            Party::Journal,
            Message::Journal(message),
        );
    }

    fn ask_for_checkpoint(&mut self) {
        self.ask_for_checkpoint_from(Party::Client(u8::MAX));
    }

    pub(crate) fn ask_for_checkpoint_from(&mut self, from: Party) {
        let request = self.request();
        self.process.checkpoint_requests.insert(request);
        let message = Message::Checkpoint(CheckpointMessage::Request(request));
        self.send(from, Party::Checkpointer, message);
    }

    fn request(&mut self) -> RequestId {
        self.next_op += 1;
        RequestId(self.next_op)
    }

    /// Time since the run began, whatever was opened and closed meanwhile.
    pub(crate) fn since_start(&self) -> Time {
        Time(self.before + self.now.0)
    }

    /// The engine is opened again: its clock begins anew, and what was due is not due any more.
    pub(crate) fn begin_anew(&mut self) {
        self.before += self.now.0;
        self.now = Time(1);
        self.wakes.clear();
        self.no_ticks_before = Time(0);
    }
}

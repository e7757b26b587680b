//! The world of one seed: what exists, and what happens next.
//!
//! Each step one thing happens: a message is delivered, a client does something, a timer fires, or something breaks.
//! After each step the invariants are checked (`invariants`). When the steps are over the faults stop, and everything
//! must come to its end (`liveness`).

use crate::{
    dice::{Dice, Stream},
    faults::{Fault, Faults},
    keys::{Keys, ring},
    model::Model,
    mutation::Mutation,
    network::{Delivery, Lane, Message, Party},
    options::Options,
    process::{Directory, Process, Question},
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
    /// The disk has room again.
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
    no_ticks_before: Time,
    /// The wall clock, which values expire by.
    pub(crate) now_ms: Arc<AtomicU64>,
    pub(crate) directory: Directory,
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
        let scale = Scale {
            step: schedule.pick(&[20_000, 200_000, 2_000_000]),
            forces: !schedule.chance(8),
            forgets: schedule.chance(4) && FORGETS,
            hurries_motion: schedule.chance(2),
            chunk_bytes: schedule.pick(&[120, 400, 4_000]),
            heal: match seed.is_multiple_of(4) {
                true => Heal::Wait,
                false => Heal::TakeOver,
            },
        };
        let ring = ring(nodes).expect("a few nodes make a ring");
        let keys = Arc::new(Keys::new());
        let now_ms = Arc::new(AtomicU64::new(EPOCH_MS));
        let stores = (0..nodes).map(|_| Arc::new(SimulatedStore::new(Arc::clone(&now_ms))));
        let directory = Directory::create(nodes, stores.collect());
        let spoil = |store: &Arc<SimulatedStore>| spoil_store(options.mutation, store);
        directory.stores.iter().for_each(spoil);
        if options.mutation == Some(Mutation::SkipDirectorySync) {
            directory.disk.forget_to_force_directories();
        }
        if options.mutation == Some(Mutation::BelieveSecondForce) {
            directory.disk.swallow_failed_forces();
        }
        let mut model = Model::new(&ring);
        let process = Process::open(&directory, &mut model, scale);
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
        if world.schedule.chance(2) && world.faults.has(Fault::MessageReordered) {
            let lane = world.any_lane();
            world.process.network.slow_down(lane);
        }
        world
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
    fn any_node(&mut self) -> Party {
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
                Wake::Room => self.directory.disk.set_capacity(None),
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

    /// Something of the surroundings breaks, if the faults say so. An engine that can't do much any more is opened
    /// again.
    fn break_something(&mut self) {
        let is_lame = self.process.read_only
            || self.process.is_any_down()
            || self.process.coordinator.is_dead
            || self.process.router.is_dead
            || self.process.locks.is_down;
        if is_lame && self.schedule.chance(12) {
            match self.schedule.chance(2) {
                true => self.close_well(),
                false => self.crash(),
            }
        }
        // Only one step in so many comes here.
        const OFTEN: u32 = 12;
        for _ in 0..OFTEN {
            self.break_once();
        }
    }

    fn break_once(&mut self) {
        if self.strikes(Fault::RingChanges) {
            self.change_the_ring();
        }
        if self.strikes(Fault::ChangeCancelled) {
            let message = Message::CancelChange;
            self.send(Party::Client(u8::MAX), Party::Router, message);
        }
        if self.strikes(Fault::Crash) {
            match self.schedule.chance(6) {
                true => self.close_well(),
                false => self.crash(),
            }
        }
        if self.strikes(Fault::ActorStalls) {
            let party = self.any_actor();
            let steps = self.schedule.within(30..400);
            let until = self.scale.after(self.now, steps);
            self.process.network.stall(party, until);
        }
        if self.strikes(Fault::LongStalls) {
            let party = self.any_actor();
            let steps = Scale::LONGEST_LEASE + self.schedule.within(1..500);
            let until = self.scale.after(self.now, steps);
            self.process.network.stall(party, until);
        }
        if self.strikes(Fault::DiskSlow) {
            let party =
                self.schedule
                    .pick(&[Party::Io, Party::Segments, Party::Worker, Party::Mover]);
            let steps = self.schedule.within(20..300);
            let until = self.scale.after(self.now, steps);
            self.process.network.stall(party, until);
        }
        if self.strikes(Fault::TimeJumps) {
            let steps = self.schedule.within(100..3_000);
            let nanos = self.scale.steps(steps).as_nanos() as u64;
            self.pass(nanos);
        }
        if self.strikes(Fault::TimersStarve) {
            let steps = self.schedule.within(50..500);
            self.no_ticks_before = self.scale.after(self.now, steps);
        }
        let disk = self.directory.disk.clone();
        if self.strikes(Fault::WriteFails) {
            disk.fail_next_write();
        }
        if self.strikes(Fault::ForceFails) {
            disk.fail_next_force();
        }
        if self.strikes(Fault::ForcesFail) {
            disk.fail_forces();
        }
        if self.strikes(Fault::DiskDies) {
            disk.die_after(self.schedule.within(0..10));
        }
        if self.strikes(Fault::DiskFull) {
            let bytes = self.schedule.within(1..8) * Directory::segment_bytes();
            disk.set_capacity(Some(bytes));
            let steps = self.schedule.within(20..400);
            let until = self.scale.after(self.now, steps);
            self.wake_at(until, Wake::Room);
        }
    }

    fn any_actor(&mut self) -> Party {
        match self.schedule.chance(8) {
            true => Party::Router,
            false => match self.any_of(1) {
                Party::Node(_) => self.any_node(),
                party => party,
            },
        }
    }

    /// One of the parties with a clock, among so many nodes.
    fn any_of(&mut self, nodes: usize) -> Party {
        match self.schedule.below(nodes + 4) {
            0 => Party::Journal,
            1 => Party::Coordinator,
            2 => Party::Checkpointer,
            3 => Party::Locks,
            node => Party::Node(node as u16 - 4),
        }
    }

    fn any_lane(&mut self) -> Lane {
        let node = self.any_node();
        let (journal, coordinator) = (Party::Journal, Party::Coordinator);
        let (from, to) = self.schedule.pick(&[
            (journal, node),
            (node, journal),
            (node, node),
            (coordinator, node),
            (node, coordinator),
            (coordinator, journal),
            (journal, coordinator),
            (journal, journal),
            (journal, Party::Io),
            (Party::Io, journal),
            (journal, Party::Segments),
            (Party::Checkpointer, node),
            (Party::Checkpointer, journal),
            (journal, Party::Checkpointer),
            (Party::Checkpointer, Party::Worker),
            (Party::Worker, Party::Checkpointer),
            (Party::Supervisor, node),
            (coordinator, Party::Locks),
            (Party::Locks, coordinator),
            (Party::Locks, journal),
            (journal, Party::Locks),
            (node, Party::Checkpointer),
            (Party::Router, node),
            (node, Party::Router),
            (Party::Router, journal),
            (journal, Party::Router),
            (Party::Mover, Party::Worker),
        ]);
        Lane::new(from, to)
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

//! The shells of the real engine without actors: who carries which effect to whom, and what threads do in between.

use crate::{
    coverage::Mutation,
    tamper::Tampered,
    world::{NODES, World},
};
use mailring_engine::{
    Error, Result,
    checkpoint::{Catalogue, CheckpointEffect, CheckpointMessage},
    coordinator::CoordinatorMessage,
    generation::Generation,
    ids::{Incarnation, Lsn, NodeId, RequestId},
    journal::{Group, Spare},
    keyspaces::Keyspaces,
    locks::LockMessage,
    participant::{Answer, NodeEffect, NodeMessage, Participant},
    rebuild::rebuild_node,
    run::frozen_run,
    sequencer::{GroupWrite, JournalEffect, JournalMessage},
    store::Store,
};
use rand::Rng;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

/// Who sends to whom; messages of a channel arrive in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Channel {
    ClientToNode(u16),
    NodeToItself(u16),
    JournalToNode(u16),
    /// The checkpointer and the rebuilding thread.
    OthersToNode(u16),
    SupervisorToNode(u16),
    ToRebuild(u16),
    NodeToJournal(u16),
    NodeToCheckpoint(u16),
    ClientToJournal,
    JournalToItself,
    IoToJournal,
    CheckpointToJournal,
    /// The journal, the segment thread and the checkpointer share one queue.
    ToIo,
    ToSegments,
    ClientToCheckpoint,
    JournalToCheckpoint,
    WorkerToCheckpoint,
    ToWorker,
    ToCompactor,
    ClientToCoordinator,
    CoordinatorToItself,
    CoordinatorToNode(u16),
    NodeToCoordinator(u16),
    CoordinatorToJournal,
    JournalToCoordinator,
    SupervisorToCoordinator,
    ClientToLocks,
    CoordinatorToLocks,
    JournalToLocks,
    LocksToCoordinator,
    LocksToJournal,
}

impl Channel {
    /// Those that may be slow for a whole run.
    pub(crate) const ALL: [Self; 28] = [
        Self::JournalToNode(0),
        Self::JournalToNode(1),
        Self::OthersToNode(0),
        Self::SupervisorToNode(1),
        Self::ToRebuild(0),
        Self::NodeToJournal(0),
        Self::NodeToJournal(2),
        Self::NodeToCheckpoint(0),
        Self::NodeToItself(2),
        Self::JournalToItself,
        Self::IoToJournal,
        Self::CheckpointToJournal,
        Self::ToIo,
        Self::ToSegments,
        Self::JournalToCheckpoint,
        Self::WorkerToCheckpoint,
        Self::ToWorker,
        Self::ClientToCoordinator,
        Self::CoordinatorToNode(1),
        Self::CoordinatorToNode(2),
        Self::NodeToCoordinator(0),
        Self::CoordinatorToJournal,
        Self::JournalToCoordinator,
        Self::ClientToLocks,
        Self::CoordinatorToLocks,
        Self::JournalToLocks,
        Self::LocksToCoordinator,
        Self::LocksToJournal,
    ];

    pub(crate) fn number(self) -> u64 {
        let text = format!("{self:?}");
        text.bytes()
            .fold(7, |hash, byte| hash * 31 % 1_000_003 + u64::from(byte))
    }
}

pub(crate) enum Message {
    Node(NodeMessage),
    Resume,
    Rebuild(Incarnation, Lsn, Lsn),
    Journal(JournalMessage),
    Write(GroupWrite),
    AddSpare(Result<Spare>),
    ReportSpare,
    Release(Lsn),
    Segment(u64),
    Checkpoint(CheckpointMessage),
    ReadOnly(Error),
    Job(Job),
    Compact,
    Coordinator(CoordinatorMessage),
    Locks(LockMessage),
}

pub(crate) enum Job {
    Write {
        through: Lsn,
        nodes: Vec<NodeId>,
        keyspaces: Keyspaces,
    },
    Save {
        complete: Vec<Lsn>,
        through: Lsn,
        catalogue: Catalogue,
    },
}

/// The shell of a storage node.
pub(crate) struct Node {
    pub(crate) machine: Participant,
    pub(crate) tampered: Tampered,
    held: Option<Vec<NodeEffect>>,
    replies: BTreeSet<u64>,
    restarts: u32,
    is_down: bool,
}

impl Node {
    pub(crate) fn new(machine: Participant) -> Self {
        Self {
            machine,
            tampered: Tampered::default(),
            held: None,
            replies: BTreeSet::new(),
            restarts: 0,
            is_down: false,
        }
    }
}

impl World {
    pub(crate) fn receive(&mut self, channel: Channel, message: Message) {
        match (channel, message) {
            (
                Channel::ClientToNode(node)
                | Channel::NodeToItself(node)
                | Channel::JournalToNode(node)
                | Channel::OthersToNode(node)
                | Channel::SupervisorToNode(node)
                | Channel::CoordinatorToNode(node),
                Message::Node(message),
            ) => self.node_step(node, message),
            (Channel::SupervisorToNode(node), Message::Resume) => {
                let held = self.process.nodes[usize::from(node)].held.take();
                self.carry_out_node(node, held.unwrap_or_default());
            }
            (Channel::ToRebuild(node), Message::Rebuild(incarnation, after, through)) => {
                self.rebuild(node, incarnation, after, through);
            }
            (_, Message::Journal(message)) => self.journal_step(message),
            (_, Message::Coordinator(message)) => self.coordinator_step(message),
            (_, Message::Locks(message)) => self.lock_step(message),
            (_, Message::Write(group)) => {
                let mut groups = vec![group];
                while let Some(group) = self.next_queued_write() {
                    groups.push(group);
                }
                let message = self.write(groups);
                self.send(Channel::IoToJournal, Message::Journal(message));
            }
            (_, Message::AddSpare(outcome)) => {
                let journal = &mut self.process.journal;
                let spare = journal
                    .add_spare(outcome)
                    .map(|()| journal.spare_room().expect("it was added"));
                let message = JournalMessage::Spare(spare);
                self.send(Channel::IoToJournal, Message::Journal(message));
            }
            (_, Message::ReportSpare) => {
                let room = self.process.journal.spare_room().unwrap_or(0);
                let message = JournalMessage::Spare(Ok(room));
                self.send(Channel::IoToJournal, Message::Journal(message));
            }
            (_, Message::Release(through)) => {
                let _ = self.process.journal.release(through);
            }
            (_, Message::Segment(at_least)) => self.segment(at_least),
            (_, Message::Checkpoint(message)) => {
                let mut out = Vec::new();
                self.process.checkpoint.handle(message, &mut out);
                self.carry_out_checkpoint(out);
            }
            (_, Message::ReadOnly(error)) => {
                let mut out = Vec::new();
                self.process.checkpoint.fail(&error, &mut out);
                self.carry_out_checkpoint(out);
            }
            (_, Message::Job(job)) => self.work(job),
            (_, Message::Compact) => {
                let message = CheckpointMessage::Maintained(Ok(()));
                self.send(Channel::WorkerToCheckpoint, Message::Checkpoint(message));
            }
            (channel, _) => unreachable!("{channel:?} carries other messages"),
        }
    }

    fn node_step(&mut self, number: u16, message: NodeMessage) {
        let dies = self.faults && self.chance(90);
        let handles = !dies || self.chance(2);
        let (current, again) = match &message {
            NodeMessage::Request { id, .. } => (Some(id.0), None),
            told => (None, Some(told.clone())),
        };
        let node = &mut self.process.nodes[usize::from(number)];
        node.replies.extend(current);
        let mut out = Vec::new();
        if handles {
            self.handle_node(number, message, &mut out);
        }
        if dies {
            self.die(number, current, again);
        } else {
            self.carry_out_node(number, out);
        }
    }

    /// A handler has panicked: its effects are lost.
    fn die(&mut self, number: u16, current: Option<u64>, again: Option<NodeMessage>) {
        self.coverage.panics += 1;
        self.process.channels.remove(&Channel::NodeToItself(number));
        let lose = self.mutated(Mutation::LoseToldMessage);
        let node = &mut self.process.nodes[usize::from(number)];
        let mut held = Vec::new();
        node.tampered = Tampered::default();
        node.machine.restart(&mut held);
        if !held.is_empty() {
            node.held = Some(held);
        }
        let mut out = Vec::new();
        if let (Some(message), false) = (again, lose) {
            self.handle_node(number, message, &mut out);
        }
        let node = &mut self.process.nodes[usize::from(number)];
        node.restarts += 1;
        let was_down = node.is_down;
        let is_down = was_down || self.random.random_range(0..20) < node.restarts;
        node.is_down = is_down;
        self.carry_out_node(number, out);
        let node = &self.process.nodes[usize::from(number)];
        let owed = |id: &u64| node.machine.owes(RequestId(*id));
        let orphans: Vec<u64> = node
            .replies
            .iter()
            .copied()
            .filter(|id| !owed(id))
            .collect();
        for id in orphans {
            let error = if current == Some(id) {
                Error::NodeRestarted {
                    node: NodeId(number),
                }
            } else {
                unknown()
            };
            self.answer(number, id, Err(error));
        }
        if is_down && !was_down {
            self.take_down(number);
        } else if !is_down {
            self.send(Channel::SupervisorToNode(number), Message::Resume);
        }
    }

    fn take_down(&mut self, node: u16) {
        self.coverage.down += 1;
        self.process.tables[usize::from(node)].set_down();
        let message = Message::Node(NodeMessage::GoDown);
        self.send(Channel::SupervisorToNode(node), message);
        let message = Message::Coordinator(CoordinatorMessage::NodeDown(NodeId(node)));
        self.send(Channel::SupervisorToCoordinator, message);
    }

    fn answer(&mut self, node: u16, id: u64, result: Result<Answer>) {
        match &result {
            Ok(_) => {}
            Err(Error::Unknown { .. }) => self.coverage.unknown += 1,
            Err(error) => {
                self.coverage.refused += 1;
                self.coverage.disk_full += u64::from(matches!(error, Error::DiskFull { .. }));
            }
        }
        self.note(id ^ u64::from(result.is_ok()) << 32);
        self.process.nodes[usize::from(node)].replies.remove(&id);
        let visible = self.process.visible.load();
        self.model.answered(id, &result, visible);
    }

    pub(crate) fn carry_out_node(&mut self, node: u16, effects: Vec<NodeEffect>) {
        for effect in effects {
            match effect {
                NodeEffect::Journal(message) => self.tell_journal(node, message),
                NodeEffect::Answer(id, result) => self.answer(node, id.0, result),
                NodeEffect::Votes(votes) => {
                    let message = Message::Coordinator(CoordinatorMessage::Votes(votes));
                    self.send(Channel::NodeToCoordinator(node), message);
                }
                NodeEffect::ScheduleFlush => {
                    let message = Message::Node(NodeMessage::Flush);
                    self.send(Channel::NodeToItself(node), message);
                }
                NodeEffect::Frozen { through, ready } => {
                    let message = CheckpointMessage::Frozen {
                        node: NodeId(node),
                        through,
                        ready,
                    };
                    self.send(
                        Channel::NodeToCheckpoint(node),
                        Message::Checkpoint(message),
                    );
                }
                NodeEffect::Rebuild {
                    incarnation,
                    after,
                    through,
                } => {
                    let message = Message::Rebuild(incarnation, after, through);
                    self.send(Channel::ToRebuild(node), message);
                }
                NodeEffect::Broken(error) => {
                    // The disk may be dead; but all that a rebuild needs is in the journal.
                    let is_io = matches!(error, Error::Io { .. });
                    assert!(is_io, "node {node} can't be brought back: {error}");
                    self.take_down(node);
                }
            }
        }
    }

    fn tell_journal(&mut self, node: u16, message: JournalMessage) {
        match &message {
            JournalMessage::Append(_)
                if self.mutated(Mutation::RepeatAppend) && self.chance(20) =>
            {
                let again = Message::Journal(message.clone());
                self.send(Channel::NodeToJournal(node), again);
            }
            JournalMessage::Installed { .. }
                if self.mutated(Mutation::LoseInstalled) && self.chance(20) =>
            {
                return;
            }
            JournalMessage::Fence { incarnation, .. } if self.mutated(Mutation::FenceEarly) => {
                let message = NodeMessage::Fenced {
                    incarnation: *incarnation,
                    through: self.process.visible.load(),
                };
                self.send(Channel::JournalToNode(node), Message::Node(message));
            }
            _ => {}
        }
        self.send(Channel::NodeToJournal(node), Message::Journal(message));
    }

    fn rebuild(&mut self, node: u16, incarnation: Incarnation, after: Lsn, through: Lsn) {
        let generation = Arc::new(Generation::new());
        let reader = self.process.journal.reader();
        let result = rebuild_node(&reader, NodeId(node), after, through, &generation);
        let message = NodeMessage::Rebuilt {
            incarnation,
            through,
            generation: result.map(|()| generation),
        };
        self.send(Channel::OthersToNode(node), Message::Node(message));
    }

    fn journal_step(&mut self, message: JournalMessage) {
        let mut queue = VecDeque::from([message]);
        while let Some(message) = queue.pop_front() {
            let Some(message) = self.tamper_with_journal(message) else {
                continue;
            };
            match &message {
                message if message.needs_cut() && !self.process.cut_scheduled => {
                    self.process.cut_scheduled = true;
                    let cut = Message::Journal(JournalMessage::Cut);
                    self.send(Channel::JournalToItself, cut);
                }
                JournalMessage::Cut => self.process.cut_scheduled = false,
                JournalMessage::LockLife { life } => self.process.locks.known_life = *life,
                JournalMessage::Mark if self.mutated(Mutation::MarkEarly) => {
                    let sequencer = &self.process.sequencer;
                    let reached =
                        CheckpointMessage::MarkReached(sequencer.last_lsn(), sequencer.catalogue());
                    self.send(Channel::JournalToCheckpoint, Message::Checkpoint(reached));
                }
                _ => {}
            }
            let mut out = Vec::new();
            self.process.sequencer.handle(self.now, message, &mut out);
            for effect in out {
                queue.extend(self.carry_out_journal_effect(effect));
            }
        }
    }

    pub(crate) fn carry_out_journal(&mut self, effects: Vec<JournalEffect>) {
        for effect in effects {
            if let Some(message) = self.carry_out_journal_effect(effect) {
                self.journal_step(message);
            }
        }
    }

    /// A lone group is written in place, as the shell does.
    fn carry_out_journal_effect(&mut self, effect: JournalEffect) -> Option<JournalMessage> {
        match effect {
            JournalEffect::Write(group) => {
                self.model.append(&group.payload);
                if self.mutated(Mutation::VisibleEarly) {
                    self.process.visible.publish(group.last);
                }
                if group.lone {
                    return Some(self.write(vec![group]));
                }
                self.send(Channel::ToIo, Message::Write(group));
            }
            JournalEffect::PrepareSpare { at_least } => {
                self.send(Channel::ToSegments, Message::Segment(at_least));
            }
            JournalEffect::Resolve(node, resolve) => {
                let early = match resolve.outcome {
                    Ok(first) if self.mutated(Mutation::AnswerEarly) => {
                        Some(Lsn(first.0 + resolve.commits as u64 - 1))
                    }
                    _ => None,
                };
                self.tell_node(node, NodeMessage::Resolve(resolve));
                if let Some(lsn) = early {
                    self.tell_node(node, NodeMessage::Visible(lsn));
                }
            }
            JournalEffect::Settle(node, settles) => {
                self.model.settled(&settles);
                if self.mutated(Mutation::HandOnAtLsn) {
                    for txn in settles.iter().map(|settle| settle.txn) {
                        self.tell_locks(LockMessage::ResolveFence { txn });
                    }
                }
                self.tell_node(node, NodeMessage::Settles(settles));
            }
            JournalEffect::Decided(decided) => {
                let message = Message::Coordinator(CoordinatorMessage::Decided(decided));
                self.send(Channel::JournalToCoordinator, message);
            }
            JournalEffect::ResolveFence(txn) => self.tell_locks(LockMessage::ResolveFence { txn }),
            JournalEffect::LockLifeKnown(life) => self.tell_locks(LockMessage::LifeKnown { life }),
            JournalEffect::Outcome(request, outcome) => self.outcome(request, &outcome),
            JournalEffect::Freeze(node, lsn) => self.tell_node(node, NodeMessage::Freeze(lsn)),
            JournalEffect::Fenced(node, incarnation, through) => {
                let message = NodeMessage::Fenced {
                    incarnation,
                    through,
                };
                self.tell_node(node, message);
            }
            JournalEffect::Visible(lsn, nodes) => {
                self.process.visible.publish(lsn);
                for node in nodes {
                    self.tell_node(node, NodeMessage::Visible(lsn));
                }
            }
            JournalEffect::Changes(_) => return Some(JournalMessage::Watch(false)),
            JournalEffect::MarkReached(lsn, catalogue) => {
                let message = CheckpointMessage::MarkReached(lsn, catalogue);
                self.send(Channel::JournalToCheckpoint, Message::Checkpoint(message));
            }
            JournalEffect::Answer(request, result) => {
                let asked = self.process.keyspace_requests.remove(&request);
                assert!(asked, "keyspace request {request} was answered twice");
                let visible = self.process.visible.load();
                if let Ok(id) = result {
                    assert!(self.model.knew_keyspace(id, visible), "{id} is not durable");
                }
            }
            JournalEffect::ReadOnly(error) => {
                self.coverage.read_only += 1;
                self.process.read_only = true;
                for node in 0..NODES {
                    self.tell_node(NodeId(node), NodeMessage::ReadOnly(error.clone()));
                }
                let told = Message::Coordinator(CoordinatorMessage::ReadOnly(error.clone()));
                self.send(Channel::JournalToCoordinator, told);
                self.send(Channel::JournalToCheckpoint, Message::ReadOnly(error));
            }
        }
        None
    }

    pub(crate) fn tell_node(&mut self, node: NodeId, message: NodeMessage) {
        self.send(Channel::JournalToNode(node.0), Message::Node(message));
    }

    /// The group at the head of the I/O thread's queue, if it has arrived in time to be forced with those before it.
    fn next_queued_write(&mut self) -> Option<GroupWrite> {
        let is_write = |queue: &VecDeque<Message>| matches!(queue.front(), Some(Message::Write(_)));
        if !self
            .process
            .channels
            .get(&Channel::ToIo)
            .is_some_and(is_write)
            || self.chance(4)
        {
            return None;
        }
        self.coverage.forced_together += 1;
        let queue = self.process.channels.get_mut(&Channel::ToIo)?;
        let Some(Message::Write(group)) = queue.pop_front() else {
            unreachable!("checked above")
        };
        if queue.is_empty() {
            self.process.channels.remove(&Channel::ToIo);
        }
        Some(group)
    }

    /// Writes groups and forces them together.
    fn write(&mut self, groups: Vec<GroupWrite>) -> JournalMessage {
        let newest = groups.last().expect("there is a group");
        let force = newest.force && !self.mutated(Mutation::NoForce);
        let last = newest.last;
        let journal = &mut self.process.journal;
        let mut result = groups.into_iter().try_for_each(|write| {
            journal.append(&Group {
                number: write.number,
                first_lsn: write.first,
                last_lsn: write.last,
                payload: write.payload,
            })
        });
        if force && result.is_ok() {
            result = journal.force();
        }
        match result {
            Ok(()) => JournalMessage::Persisted {
                last,
                room: journal.room(),
                spare: journal.spare_room(),
            },
            Err(error) => {
                let is_full = matches!(error, Error::DiskFull { .. });
                assert!(!is_full, "a group was written that had no room");
                JournalMessage::Failed(error)
            }
        }
    }

    /// The segment thread is asked once, and delivers in a second step.
    fn segment(&mut self, at_least: u64) {
        if let Some(request) = self.process.preparing.take() {
            let outcome = request.prepare(&self.disk);
            self.send(Channel::ToIo, Message::AddSpare(outcome));
            return;
        }
        let journal = &mut self.process.journal;
        match journal.spare_request(at_least) {
            Some(request) => {
                self.process.preparing = Some(request);
                self.send(Channel::ToSegments, Message::Segment(at_least));
            }
            None => self.send(Channel::ToIo, Message::ReportSpare),
        }
    }

    fn carry_out_checkpoint(&mut self, effects: Vec<CheckpointEffect>) {
        for effect in effects {
            match effect {
                CheckpointEffect::Mark => {
                    let message = Message::Journal(JournalMessage::Mark);
                    self.send(Channel::CheckpointToJournal, message);
                }
                CheckpointEffect::Write {
                    through,
                    nodes,
                    keyspaces,
                } => {
                    let job = Job::Write {
                        through,
                        nodes,
                        keyspaces,
                    };
                    self.send(Channel::ToWorker, Message::Job(job));
                }
                CheckpointEffect::Flushed(node, through) => {
                    let message = Message::Node(NodeMessage::Flushed { through });
                    self.send(Channel::OthersToNode(node.0), message);
                }
                CheckpointEffect::Save {
                    mut complete,
                    through,
                    catalogue,
                } => {
                    if self.mutated(Mutation::SaveAhead) {
                        complete.fill(through);
                    }
                    let job = Job::Save {
                        complete,
                        through,
                        catalogue,
                    };
                    self.send(Channel::ToWorker, Message::Job(job));
                }
                CheckpointEffect::Release(mut through) => {
                    if self.mutated(Mutation::ReleaseAll) {
                        through = Lsn(u64::MAX);
                    }
                    self.send(Channel::ToIo, Message::Release(through));
                }
                CheckpointEffect::Maintain => self.send(Channel::ToCompactor, Message::Compact),
                CheckpointEffect::Answer(request, result) => {
                    let asked = self.process.checkpoint_requests.remove(&request);
                    assert!(asked, "checkpoint request {request} was answered twice");
                    if let Ok(lsn) = result {
                        let lowest = self.written.iter().min().expect("there are nodes");
                        assert!(lsn <= *lowest, "LSN {lsn} is not in every tree");
                    }
                }
                CheckpointEffect::Failed(..) => {}
            }
        }
    }

    fn work(&mut self, job: Job) {
        self.job_is_fine(&job);
        let message = match job {
            Job::Write {
                through,
                nodes,
                keyspaces,
            } => {
                let visible = self.process.visible.load();
                assert!(
                    through <= visible,
                    "a run goes to LSN {through}, visible is {visible}"
                );
                let results = nodes
                    .iter()
                    .filter_map(|node| self.write_run(*node, through, &keyspaces))
                    .collect();
                CheckpointMessage::Written(results)
            }
            Job::Save {
                complete,
                through,
                catalogue,
            } => {
                let manifest = &mut self.process.manifest;
                manifest.record_checkpoint(&complete, through, &catalogue);
                CheckpointMessage::Saved(manifest.save(&self.disk))
            }
        };
        self.send(Channel::WorkerToCheckpoint, Message::Checkpoint(message));
    }

    fn write_run(
        &mut self,
        node: NodeId,
        through: Lsn,
        keyspaces: &Keyspaces,
    ) -> Option<(NodeId, Result<()>)> {
        if self.faults && self.chance(15) {
            let context = "a run".to_owned();
            return Some((node, Err(Error::DiskFull { context })));
        }
        let number = usize::from(node.0);
        let view = self.process.tables[number].view();
        let Some(mut run) = frozen_run(&view, through, keyspaces) else {
            self.coverage.runs_left_out += 1;
            return self
                .mutated(Mutation::IgnoreBorder)
                .then_some((node, Ok(())));
        };
        self.coverage.runs += 1;
        if self.mutated(Mutation::SkipIngest) {
            return Some((node, Ok(())));
        }
        let result = self.stores[number].ingest(&mut run);
        if result.is_ok() {
            self.check_tree(node, through);
            self.written[number] = self.written[number].max(through);
        }
        Some((node, result))
    }
}

fn unknown() -> Error {
    Error::Unknown {
        reason: "the node died while it answered".into(),
    }
}

//! The shell of the journal: carries messages between its sequencer, the nodes and the thread that writes.

use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Message, Party},
    process::Question,
    report::Seen,
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error,
    checkpoint::CheckpointMessage,
    coordinator::CoordinatorMessage,
    ids::{Lsn, NodeId},
    locks::LockMessage,
    motion::MotionMessage,
    participant::NodeMessage,
    ring::ArcSet,
    sequencer::{Change, GroupWrite, JournalEffect, JournalMessage},
    transaction::TxnOutcome,
};
use std::{collections::VecDeque, sync::Arc};

impl World {
    pub(crate) fn journal_step(&mut self, message: JournalMessage) {
        let mut queue = VecDeque::from([message]);
        while let Some(message) = queue.pop_front() {
            if self.process.journal_is_dead {
                return self.refuse_for_dead_journal(&message);
            }
            let Some(message) = self.tamper_with_journal(message) else {
                continue;
            };
            match &message {
                message if message.needs_cut() && !self.process.cut_scheduled => {
                    self.process.cut_scheduled = true;
                    let cut = Message::Journal(JournalMessage::Cut);
                    self.send(Party::Journal, Party::Journal, cut);
                }
                JournalMessage::Cut => self.process.cut_scheduled = false,
                JournalMessage::LockLife { life } => self.process.locks.known_life = *life,
                JournalMessage::Mark if self.mutated(Mutation::MarkEarly) => {
                    let sequencer = &self.process.sequencer;
                    let reached =
                        CheckpointMessage::MarkReached(sequencer.last_lsn(), sequencer.catalogue());
                    self.send(
                        Party::Journal,
                        Party::Checkpointer,
                        Message::Checkpoint(reached),
                    );
                }
                _ => {}
            }
            let dies = self.strikes(Fault::JournalPanics);
            if dies && self.faults.dice().chance(2) {
                return self.journal_dies();
            }
            let mut out = Vec::new();
            self.process.sequencer.handle(self.now, message, &mut out);
            if dies {
                self.drop_some(&mut out);
            }
            for effect in out {
                queue.extend(self.carry_out_journal_effect(effect));
            }
            if dies {
                return self.journal_dies();
            }
        }
    }

    pub(crate) fn tick_journal(&mut self) {
        if self.process.journal_is_dead {
            return;
        }
        if self.strikes(Fault::JournalPanics) {
            return self.journal_dies();
        }
        if !self.scale.forces {
            for directory in self.process.directories() {
                self.send(Party::Journal, Party::Io(directory), Message::ForceNow);
            }
        }
        let mut out = Vec::new();
        self.process.sequencer.handle_timeout(self.now, &mut out);
        for effect in out {
            if let Some(message) = self.carry_out_journal_effect(effect) {
                self.journal_step(message);
            }
        }
    }

    /// A panic of the journal is a crash of the directory: everything is read-only until it is opened again.
    fn journal_dies(&mut self) {
        self.process.journal_is_dead = true;
        self.process.keyspace_requests.clear();
        self.process.outcome_requests.clear();
        let reason = "the journal panicked".to_owned();
        self.turn_read_only(&Error::ReadOnly { reason });
    }

    /// Handles that ask a dead journal are told so.
    fn refuse_for_dead_journal(&mut self, message: &JournalMessage) {
        match message {
            JournalMessage::CreateKeyspace { request, .. }
            | JournalMessage::DropKeyspace { request, .. } => {
                self.process.keyspace_requests.remove(request);
            }
            JournalMessage::Asks(_) | JournalMessage::FindKey { .. } => {
                self.process.outcome_requests.clear();
            }
            _ => {}
        }
    }

    fn turn_read_only(&mut self, error: &Error) {
        self.count(Seen::ReadOnly, 1);
        self.process.read_only = true;
        self.process.watcher = None;
        for node in Vec::from_iter(self.process.open_nodes()) {
            self.tell_node(NodeId(node), NodeMessage::ReadOnly(error.clone()));
        }
        let told = CoordinatorMessage::ReadOnly(error.clone());
        self.send(
            Party::Journal,
            Party::Coordinator,
            Message::Coordinator(told),
        );
        let told = Message::Motion(MotionMessage::ReadOnly(error.clone()));
        self.send(Party::Journal, Party::Router, told);
        let told = Message::ReadOnly(error.clone());
        self.send(Party::Journal, Party::Checkpointer, told);
    }

    /// A lone group is written in place, as the shell does.
    fn carry_out_journal_effect(&mut self, effect: JournalEffect) -> Option<JournalMessage> {
        match effect {
            JournalEffect::Write(group) => return self.write_group(group),
            JournalEffect::PrepareSpare {
                directory,
                at_least,
            } => {
                let segments = Party::Segments(directory);
                self.send(Party::Journal, segments, Message::Segment(at_least));
            }
            JournalEffect::Resolve(node, resolve) => {
                let early = match resolve.outcome {
                    Ok(first) if self.mutated(Mutation::AnswerEarly) => {
                        Some(Lsn(first.0 + resolve.commits as u64 - 1))
                    }
                    _ => None,
                };
                let installed = match resolve.outcome {
                    Ok(first) if self.mutated(Mutation::InstalledEarly) => {
                        Some(JournalMessage::Installed {
                            node,
                            incarnation: resolve.incarnation,
                            through: Lsn(first.0 + resolve.commits as u64 - 1),
                        })
                    }
                    _ => None,
                };
                self.tell_node(node, NodeMessage::Resolve(resolve));
                if installed.is_some() {
                    return installed;
                }
                if let Some(lsn) = early {
                    self.tell_node(node, NodeMessage::Visible(lsn));
                }
            }
            JournalEffect::Settle(node, settles) => {
                self.model.settled(&settles);
                if self.mutated(Mutation::HandOnAtLsn) {
                    for txn in settles.iter().map(|settle| settle.txn) {
                        let resolve = LockMessage::ResolveFence { txn };
                        self.tell_locks_from(Party::Journal, resolve);
                    }
                }
                self.tell_node(node, NodeMessage::Settles(settles));
            }
            JournalEffect::Decided(decided) => {
                self.count(Seen::Decided, decided.len() as u64);
                let message = Message::Coordinator(CoordinatorMessage::Decided(decided));
                self.send(Party::Journal, Party::Coordinator, message);
            }
            JournalEffect::ResolveFence(txn) => {
                self.tell_locks_from(Party::Journal, LockMessage::ResolveFence { txn });
            }
            JournalEffect::LockLifeKnown(life) => {
                self.tell_locks_from(Party::Journal, LockMessage::LifeKnown { life });
            }
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
            JournalEffect::Changes(changes) => {
                if !self.changes(&changes) {
                    return Some(JournalMessage::Watch(false));
                }
            }
            JournalEffect::MarkReached(lsn, catalogue) => {
                let message = CheckpointMessage::MarkReached(lsn, catalogue);
                self.send(
                    Party::Journal,
                    Party::Checkpointer,
                    Message::Checkpoint(message),
                );
            }
            JournalEffect::Dropped(id) => {
                self.count(Seen::Dropped, 1);
                if !self.mutated(Mutation::ForgetDrop) {
                    self.process.open_keyspaces.dropped(id);
                }
            }
            JournalEffect::Owners(node, mut owners) => {
                self.count(Seen::RingCut, (!owners.lost.is_empty()).into());
                if self.mutated(Mutation::HideGained) {
                    owners.gained = Arc::new(ArcSet::new(owners.gained.arc_bits()));
                }
                let (lsn, is_source) = (owners.lsn, !owners.lost.is_empty());
                if self.mutated(Mutation::PublishEarly) && is_source {
                    let state = Arc::new(self.process.sequencer.ring().clone());
                    self.send(Party::Journal, Party::Router, Message::Publish(lsn, state));
                }
                self.tell_node(node, NodeMessage::Owners(owners));
            }
            JournalEffect::PublishRing { lsn, state } => {
                self.send(Party::Journal, Party::Router, Message::Publish(lsn, state));
            }
            JournalEffect::RingAnswer(task, result) => {
                let message = MotionMessage::RingAnswer(task, result);
                self.send(Party::Journal, Party::Router, Message::Motion(message));
            }
            JournalEffect::Answer(request, result) => {
                self.keyspace_answered(request, result);
            }
            JournalEffect::ReadOnly(error) => self.turn_read_only(&error),
        }
        None
    }

    fn write_group(&mut self, group: GroupWrite) -> Option<JournalMessage> {
        self.process.groups.hand_over(&group);
        let (directory, placement) = (group.directory, &self.process.placement);
        let (commits, spread) = self.model.append(directory, &group.payload, placement);
        self.count(Seen::Commit, commits);
        self.count(Seen::Spread, spread);
        self.note_fenced_commits();
        if self.mutated(Mutation::WatchUnforced) && self.process.watcher.is_some() && commits > 0 {
            let (lsn, writes) = self.next_commit(Lsn(group.first.0 - 1));
            let writes = writes.into();
            self.changes(&[Change { lsn, writes }]);
        }
        self.trace.note(group.payload.len() as u64);
        self.trace.note(group.last.0);
        if self.mutated(Mutation::VisibleEarly) {
            self.process.visible.publish(group.last);
        }
        if group.lone {
            return Some(self.write(vec![group]));
        }
        let io = Party::Io(directory);
        self.send(Party::Journal, io, Message::Write(group));
        None
    }

    pub(crate) fn tell_node(&mut self, node: NodeId, message: NodeMessage) {
        let to = Party::Node(node.0);
        self.send(Party::Journal, to, Message::Node(message));
    }

    /// A handle is told what was committed under an idempotency key, if anything was.
    fn key_looked_up(&mut self, key: &Bytes, outcome: &mailring_engine::Result<TxnOutcome>) {
        let known = self.model.committed_under(key);
        let visible = self.process.visible.load();
        match outcome {
            Ok(TxnOutcome::Committed(lsn)) => {
                self.count(Seen::KeyFound, 1);
                assert!(*lsn <= visible, "{key:?}: LSN {lsn} is not visible");
                assert_eq!(known, Some(*lsn), "{key:?} is elsewhere");
            }
            Ok(TxnOutcome::Aborted) => assert!(
                known.is_none() || self.scale.forgets,
                "{key:?} was committed at {known:?}, and is not known"
            ),
            Ok(TxnOutcome::Forgotten) => panic!("{key:?}: who asks for a key is not in doubt"),
            Err(error) => assert!(matches!(error, Error::Unknown { .. }), "{error:?}"),
        }
    }

    /// A handle is told an outcome.
    pub(crate) fn outcome(
        &mut self,
        request: mailring_engine::ids::RequestId,
        outcome: &mailring_engine::Result<TxnOutcome>,
    ) {
        let asked = self.process.outcome_requests.remove(&request);
        let asked = asked.expect("an outcome is told once, to who asked");
        let number = match asked {
            Question::Of(number) => number,
            Question::Under(key) => return self.key_looked_up(&key, outcome),
        };
        let visible = self.process.visible.load();
        let applied = self.model.applied.get(&number).copied();
        match outcome {
            Ok(TxnOutcome::Committed(lsn)) => {
                self.count(Seen::ToldCommitted, 1);
                assert!(*lsn <= visible, "txn {number}: LSN {lsn} is not visible");
                assert_eq!(applied, Some(*lsn), "txn {number} is elsewhere");
                self.model.acknowledged.insert(number, *lsn);
            }
            Ok(TxnOutcome::Aborted) => {
                self.count(Seen::ToldAborted, 1);
                assert_eq!(applied, None, "txn {number} is not aborted");
                let txn = self.model.txns.get_mut(&number);
                txn.expect("it was asked for").refused = true;
            }
            Ok(TxnOutcome::Forgotten) => {
                self.count(Seen::Forgotten, 1);
                assert!(self.scale.forgets, "nothing is forgotten so soon");
            }
            Err(error) => assert!(matches!(error, Error::Unknown { .. }), "{error:?}"),
        }
    }
}

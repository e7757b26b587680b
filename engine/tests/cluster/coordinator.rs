//! The shell of the coordinator.

use crate::{
    actors::{Channel, Message},
    world::World,
};
use mailring_engine::{
    Error, Result,
    coordinator::{Coordinator, CoordinatorEffect, CoordinatorMessage, CoordinatorOptions},
    ids::{Lsn, RequestId},
    participant::NodeMessage,
};
use std::{collections::BTreeSet, time::Duration};

pub(crate) struct CoordinatorShell {
    pub(crate) machine: Coordinator,
    replies: BTreeSet<u64>,
}

impl CoordinatorShell {
    pub(crate) fn new() -> Self {
        let options = CoordinatorOptions {
            running: 12,
            bytes: mailring_engine::transaction::MAX_TRANSACTION_BYTES,
            vote_timeout: Duration::from_nanos(150),
            ask_again: Duration::from_nanos(40),
        };
        Self {
            machine: Coordinator::new(options),
            replies: BTreeSet::new(),
        }
    }
}

impl World {
    pub(crate) fn coordinator_step(&mut self, message: CoordinatorMessage) {
        let dies = self.faults && self.chance(150);
        let handles = !dies || self.chance(2);
        let current = match &message {
            CoordinatorMessage::Commit(commit) => Some(commit.request.0),
            _ => None,
        };
        let now = self.now;
        let shell = &mut self.process.coordinator;
        shell.replies.extend(current);
        let mut out = Vec::new();
        if handles {
            shell.machine.handle(now, message.clone(), &mut out);
        }
        if dies {
            self.coordinator_dies(current, &message);
        } else {
            self.carry_out_coordinator(out);
        }
    }

    /// A handler has panicked: its effects are lost, and so is what it was about to send to itself.
    fn coordinator_dies(&mut self, current: Option<u64>, message: &CoordinatorMessage) {
        self.coverage.coordinator_panics += 1;
        self.process.channels.remove(&Channel::CoordinatorToItself);
        let now = self.now;
        let shell = &mut self.process.coordinator;
        let mut out = Vec::new();
        shell.machine.restart(now, &mut out);
        if let CoordinatorMessage::ReadOnly(_) = message {
            shell.machine.handle(now, message.clone(), &mut out);
        }
        let owed = |id: &u64| shell.machine.owes(RequestId(*id));
        let mut orphans = shell.replies.clone();
        orphans.retain(|id| !owed(id));
        let told = |effect: &CoordinatorEffect| match effect {
            CoordinatorEffect::Answer(request, _)
            | CoordinatorEffect::AnswerRepeated(request, _) => Some(request.0),
            _ => None,
        };
        let answered: BTreeSet<u64> = out.iter().filter_map(told).collect();
        self.carry_out_coordinator(out);
        for id in orphans.difference(&answered) {
            let error = if current == Some(*id) {
                Error::Aborted {
                    reason: "the coordinator died",
                }
            } else {
                Error::Unknown {
                    reason: "the coordinator died while it answered".into(),
                }
            };
            self.answer_transaction(*id, Err(error));
        }
    }

    pub(crate) fn carry_out_coordinator(&mut self, effects: Vec<CoordinatorEffect>) {
        for effect in effects {
            match effect {
                CoordinatorEffect::Prepares(node, prepares) => {
                    let message = Message::Node(NodeMessage::Prepares(prepares));
                    self.send(Channel::CoordinatorToNode(node.0), message);
                }
                CoordinatorEffect::Aborts(node, aborts) => {
                    let message = Message::Node(NodeMessage::Aborts(aborts));
                    self.send(Channel::CoordinatorToNode(node.0), message);
                }
                CoordinatorEffect::Journal(message) => {
                    self.send(Channel::CoordinatorToJournal, Message::Journal(message));
                }
                CoordinatorEffect::Locks(messages) => {
                    for message in messages {
                        self.send(Channel::CoordinatorToLocks, Message::Locks(message));
                    }
                }
                CoordinatorEffect::Answer(request, result) => {
                    self.answer_transaction(request.0, result);
                }
                CoordinatorEffect::AnswerRepeated(request, lsn) => {
                    self.answer_transaction(request.0, Ok(lsn));
                }
                CoordinatorEffect::ScheduleFlush => {
                    let message = Message::Coordinator(CoordinatorMessage::Flush);
                    self.send(Channel::CoordinatorToItself, message);
                }
            }
        }
    }

    fn answer_transaction(&mut self, id: u64, result: Result<Lsn>) {
        match &result {
            Ok(_) => {}
            Err(Error::Unknown { .. }) => self.coverage.unknown += 1,
            Err(Error::Conflict { .. }) => self.coverage.conflicts += 1,
            Err(_) => self.coverage.rolled_back += 1,
        }
        self.note(id ^ u64::from(result.is_ok()) << 33);
        let replies = &mut self.process.coordinator.replies;
        assert!(
            replies.remove(&id),
            "transaction {id} was answered twice: {result:?}"
        );
        let visible = self.process.visible.load();
        if self.model.waiting.remove(&id) {
            self.model.transaction_answered(id, &result, visible);
        }
    }
}

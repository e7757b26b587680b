//! The shell of the coordinator.

use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Message, Party},
    report::Seen,
    world::World,
};
use mailring_engine::{
    Error, Result,
    coordinator::{Coordinator, CoordinatorEffect, CoordinatorMessage, CoordinatorOptions},
    ids::{Lsn, RequestId, TxnId},
    orphans::orphan_of_coordinator,
    participant::NodeMessage,
    restart::{Restarts, Verdict as Restart},
    transaction::{Ballot, Verdict, Vote},
};
use std::collections::BTreeMap;

/// The shell of the coordinator.
pub(crate) struct CoordinatorShell {
    pub(crate) machine: Coordinator,
    replies: BTreeMap<u64, TxnId>,
    restarts: Restarts,
    /// Set by one panic too many.
    pub(crate) is_dead: bool,
}

impl CoordinatorShell {
    pub(crate) fn new(options: CoordinatorOptions, restarts: Restarts) -> Self {
        Self {
            machine: Coordinator::new(options),
            replies: BTreeMap::new(),
            restarts,
            is_dead: false,
        }
    }
}

impl World {
    pub(crate) fn coordinator_step(&mut self, message: CoordinatorMessage) {
        if self.process.coordinator.is_dead {
            if let CoordinatorMessage::Commit(commit) = message {
                self.transaction_answered(commit.request.0, Err(Error::CoordinatorDown));
            }
            return;
        }
        let dies = self.strikes(Fault::CoordinatorPanics);
        let handles = !dies || self.faults.dice().chance(2);
        let now = self.now;
        let shell = &mut self.process.coordinator;
        if let CoordinatorMessage::Commit(commit) = &message {
            shell.replies.insert(commit.request.0, commit.txn);
        }
        let mut message = message;
        if let (Some(Mutation::TakeNoForYes), CoordinatorMessage::Votes(votes)) =
            (self.mutation, &mut message)
        {
            for vote in votes {
                let node = &self.process.nodes[usize::from(vote.node.0)];
                let incarnation = node.machine.incarnation();
                let epoch = self.process.sequencer.ring().owned_since(vote.node);
                vote.ballot = Ballot::Yes { incarnation, epoch };
            }
        }
        let shell = &mut self.process.coordinator;
        let mut out = Vec::new();
        if handles {
            shell.machine.handle(now, message.clone(), &mut out);
        }
        if dies {
            self.carry_out_coordinator_in_part(out);
            self.coordinator_dies(Some(&message));
        } else {
            self.carry_out_coordinator(out);
        }
    }

    fn carry_out_coordinator_in_part(&mut self, mut effects: Vec<CoordinatorEffect>) {
        self.drop_some(&mut effects);
        self.carry_out_coordinator(effects);
    }

    /// The clock ticks the coordinator only while anything runs.
    pub(crate) fn tick_coordinator(&mut self) {
        let shell = &self.process.coordinator;
        if shell.is_dead || shell.machine.running() == 0 {
            return;
        }
        let dies = self.strikes(Fault::CoordinatorPanics);
        let mut out = Vec::new();
        let machine = &mut self.process.coordinator.machine;
        machine.handle_timeout(self.now, &mut out);
        if dies {
            self.carry_out_coordinator_in_part(out);
            self.coordinator_dies(None);
        } else {
            self.carry_out_coordinator(out);
        }
    }

    /// A handler has panicked: its effects are lost, what is running is asked for, and whoever will not be answered is
    /// answered now.
    fn coordinator_dies(&mut self, message: Option<&CoordinatorMessage>) {
        self.count(Seen::CoordinatorRestart, 1);
        let now = self.now;
        let shell = &mut self.process.coordinator;
        if shell.restarts.handle_panic(now, 0) == Restart::Down {
            return self.coordinator_gives_up();
        }
        let mut out = Vec::new();
        shell.machine.restart(now, &mut out);
        let again = message.and_then(CoordinatorMessage::again);
        if let Some(message) = &again {
            shell.machine.handle(now, message.clone(), &mut out);
        }
        if self.strikes(Fault::RestartPanics) {
            self.carry_out_coordinator_in_part(out);
            return self.coordinator_gives_up();
        }
        self.carry_out_coordinator(out);
        let shell = &self.process.coordinator;
        let owed = |id: &u64| shell.machine.owes(RequestId(*id));
        let orphans = shell.replies.iter().filter(|(id, _)| !owed(id));
        let orphans: Vec<_> = orphans.map(|(id, txn)| (*id, *txn)).collect();
        for (id, txn) in orphans {
            let verdict = orphan_of_coordinator(txn, again.as_ref());
            self.answer_transaction(id, told(verdict));
        }
    }

    fn coordinator_gives_up(&mut self) {
        let shell = &mut self.process.coordinator;
        shell.is_dead = true;
        let unanswered: Vec<_> = shell.replies.keys().copied().collect();
        for id in unanswered {
            let reason = "the coordinator panicked".into();
            self.answer_transaction(id, Err(Error::Unknown { reason }));
        }
    }

    pub(crate) fn carry_out_coordinator(&mut self, effects: Vec<CoordinatorEffect>) {
        let from = Party::Coordinator;
        for effect in effects {
            match effect {
                CoordinatorEffect::Prepares(node, mut prepares) => {
                    if self.mutated_now(Mutation::SkipVote, 4) {
                        // One is never asked, and counts as a Yes.
                        let skipped = prepares.pop().expect("there is one");
                        let incarnation = self.process.nodes[usize::from(node.0)]
                            .machine
                            .incarnation();
                        let epoch = self.process.sequencer.ring().owned_since(node);
                        let vote = Vote {
                            txn: skipped.txn,
                            node,
                            ballot: Ballot::Yes { incarnation, epoch },
                        };
                        let votes = CoordinatorMessage::Votes(vec![vote]);
                        let lane = (Party::Node(node.0), from);
                        self.send(lane.0, lane.1, Message::Coordinator(votes));
                    }
                    if !self.process.is_open(node) {
                        // It has left since these were routed: nobody should wait for its silence.
                        let moved = prepares.iter().map(|prepare| Vote {
                            txn: prepare.txn,
                            node,
                            ballot: Ballot::No(Error::Moved { node }),
                        });
                        let votes = CoordinatorMessage::Votes(moved.collect());
                        self.send(from, from, Message::Coordinator(votes));
                        continue;
                    }
                    let message = Message::Node(NodeMessage::Prepares(prepares));
                    self.send(from, Party::Node(node.0), message);
                }
                CoordinatorEffect::Aborts(node, aborts) => {
                    let message = Message::Node(NodeMessage::Aborts(aborts));
                    self.send(from, Party::Node(node.0), message);
                }
                CoordinatorEffect::Locks(messages) => {
                    for message in messages {
                        self.tell_locks_from(from, message);
                    }
                }
                CoordinatorEffect::Journal(message) => {
                    self.send(from, Party::Journal, Message::Journal(message));
                }
                CoordinatorEffect::Answer(request, result) => {
                    self.answer_transaction(request.0, result);
                }
                CoordinatorEffect::AnswerRepeated(request, lsn) => {
                    self.answer_transaction(request.0, Ok(lsn));
                }
                CoordinatorEffect::ScheduleFlush => {
                    let message = Message::Coordinator(CoordinatorMessage::Flush);
                    self.send(from, from, message);
                }
            }
        }
    }

    fn answer_transaction(&mut self, id: u64, result: Result<Lsn>) {
        let replies = &mut self.process.coordinator.replies;
        let is_owed = replies.remove(&id).is_some();
        assert!(is_owed, "transaction {id} was answered twice: {result:?}");
        self.transaction_answered(id, result);
    }
}

impl CoordinatorShell {
    /// Transactions that somebody waits for, in the shell's own books.
    pub(crate) fn owes(&self) -> Vec<u64> {
        self.replies.keys().copied().collect()
    }
}

/// What a caller is told.
fn told(verdict: Verdict) -> Result<Lsn> {
    match verdict {
        Verdict::Committed(lsn) | Verdict::Repeated(lsn) => Ok(lsn),
        Verdict::Refused(error) | Verdict::Unknown(error) => Err(error),
    }
}

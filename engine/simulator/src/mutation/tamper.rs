//! Mutations of what participants promise, done from outside: the machine is told other things than it was sent.
//!
//! To make a node let go of a promise that it has just given, the transaction is aborted there and prepared again with
//! less. A node refuses to prepare again what it knows to have ended, so each attempt goes under another number, and
//! whatever comes in or goes out is translated.

use super::Mutation;
use crate::{network::Party, world::World};
use mailring_engine::{
    Error, Rival,
    coordinator::CoordinatorMessage,
    ids::{Epoch, NodeId, Time, TxnId},
    locks::LockMessage,
    participant::{NodeEffect, NodeMessage, Operation, Participant},
    sequencer::JournalMessage,
    transaction::{
        Abort, Asker, Ballot, Decided, Prepare, ReadSet, Settle, TxnOutcome, Verdict, Vote,
    },
};
use std::{collections::BTreeMap, sync::Arc};

const ALIASES_FROM: u64 = 1_000_000_000;

/// Under which number a transaction is prepared, and what it had promised.
#[derive(Default)]
pub(crate) struct Tampered {
    prepared: BTreeMap<TxnId, (TxnId, Prepare)>,
    attempts: u64,
}

fn real(txn: TxnId) -> TxnId {
    TxnId::new(txn.opening(), txn.number() % ALIASES_FROM).expect("it has an opening")
}

impl Tampered {
    fn attempt(
        &mut self,
        machine: &mut Participant,
        now: Time,
        prepare: &Prepare,
        out: &mut Vec<NodeEffect>,
    ) -> (TxnId, Ballot) {
        self.attempts += 1;
        let number = prepare.txn.number() + self.attempts * ALIASES_FROM;
        let txn = TxnId::new(prepare.txn.opening(), number).expect("it has an opening");
        let prepare = Prepare {
            txn,
            ..prepare.clone()
        };
        let mut effects = Vec::new();
        let message = NodeMessage::Prepares(vec![prepare]);
        machine.handle(now, message, &mut effects);
        let mut ballot = None;
        for effect in effects {
            match effect {
                NodeEffect::Votes(mut votes) => ballot = votes.pop().map(|vote| vote.ballot),
                effect => out.push(effect),
            }
        }
        (txn, ballot.expect("a node votes at once"))
    }

    /// Prepares `prepare` in place of what the transaction had promised before.
    fn replace(
        &mut self,
        machine: &mut Participant,
        now: Time,
        alias: TxnId,
        prepare: Option<Prepare>,
        out: &mut Vec<NodeEffect>,
    ) {
        let abort = Abort {
            txn: alias,
            deadline: Time::MAX,
        };
        machine.handle(now, NodeMessage::Aborts(vec![abort]), out);
        self.prepared.remove(&real(alias));
        if let Some(prepare) = prepare {
            let (alias, ballot) = self.attempt(machine, now, &prepare, out);
            if let Ballot::Yes { .. } = ballot {
                self.prepared.insert(prepare.txn, (alias, prepare));
            }
        }
    }

    fn prepare(
        &mut self,
        machine: &mut Participant,
        now: Time,
        mutation: Mutation,
        prepare: Prepare,
        out: &mut Vec<NodeEffect>,
    ) -> Ballot {
        loop {
            let (alias, ballot) = self.attempt(machine, now, &prepare, out);
            let without_reads = |prepare: &Prepare| Prepare {
                reads: Arc::new(ReadSet {
                    snapshot: prepare.reads.snapshot,
                    ..ReadSet::default()
                }),
                ..prepare.clone()
            };
            match (&ballot, mutation) {
                (Ballot::Yes { .. }, Mutation::ReleaseReadsAtVote) => {
                    let less = without_reads(&prepare);
                    self.replace(machine, now, alias, Some(less), out);
                }
                (Ballot::Yes { .. }, Mutation::ReleaseReadersAtVote)
                    if prepare.writes.is_empty() =>
                {
                    self.replace(machine, now, alias, None, out);
                }
                (Ballot::Yes { .. }, _) => {
                    self.prepared.insert(prepare.txn, (alias, prepare));
                }
                (
                    Ballot::No(Error::Conflict {
                        key,
                        with: Rival::Transaction(holder),
                    }),
                    Mutation::WriteIntoHeldRead,
                ) if prepare.writes.iter().any(|write| write.key == *key) => {
                    if let Some((alias, held)) = self.prepared.get(&real(*holder)).cloned()
                        && held.writes.iter().all(|write| write.key != *key)
                    {
                        let less = without_reads(&held);
                        self.replace(machine, now, alias, Some(less), out);
                        continue;
                    }
                }
                (Ballot::No(_), _) => {}
            }
            return ballot;
        }
    }
}

impl World {
    /// Has a node's machine handle a message, or something else if a mutation says so.
    pub(crate) fn handle_node(
        &mut self,
        number: u16,
        message: NodeMessage,
        out: &mut Vec<NodeEffect>,
    ) {
        let now = self.now;
        let node = &mut self.process.nodes[usize::from(number)];
        let (machine, tampered) = (&mut node.machine, &mut node.tampered);
        match (self.mutation, message) {
            (
                Some(Mutation::IgnoreEpoch),
                NodeMessage::Request {
                    id,
                    deadline,
                    operation,
                    ..
                },
            ) => {
                let epoch = Epoch(u64::MAX - 1);
                let message = NodeMessage::Request {
                    id,
                    deadline,
                    epoch,
                    operation,
                };
                machine.handle(now, message, out);
            }
            (Some(Mutation::SkipRangeValidation), NodeMessage::Prepares(mut prepares)) => {
                for prepare in &mut prepares {
                    Arc::make_mut(&mut prepare.reads).ranges.clear();
                }
                machine.handle(now, NodeMessage::Prepares(prepares), out);
            }
            (Some(mutation), NodeMessage::Prepares(prepares)) if mutation.is_of_promises() => {
                let mut votes = Vec::new();
                for prepare in prepares {
                    let txn = prepare.txn;
                    let ballot = tampered.prepare(machine, now, mutation, prepare, out);
                    let node = NodeId(number);
                    votes.push(Vote { txn, node, ballot });
                }
                out.push(NodeEffect::Votes(votes));
            }
            (Some(mutation), NodeMessage::Aborts(mut aborts)) if mutation.is_of_promises() => {
                for abort in &mut aborts {
                    if let Some((alias, _)) = tampered.prepared.remove(&abort.txn) {
                        abort.txn = alias;
                    }
                }
                machine.handle(now, NodeMessage::Aborts(aborts), out);
            }
            (Some(mutation), NodeMessage::Settles(mut settles)) if mutation.is_of_promises() => {
                for settle in &mut settles {
                    if let Some((alias, _)) = tampered.prepared.remove(&settle.txn) {
                        settle.txn = alias;
                    }
                }
                machine.handle(now, NodeMessage::Settles(settles), out);
            }
            (Some(Mutation::SkipReadValidation), NodeMessage::Prepares(mut prepares)) => {
                for prepare in &mut prepares {
                    Arc::make_mut(&mut prepare.reads).keys.clear();
                    Arc::make_mut(&mut prepare.reads).ranges.clear();
                }
                machine.handle(now, NodeMessage::Prepares(prepares), out);
            }
            (
                Some(Mutation::SkipValidationAlone),
                NodeMessage::Request {
                    id,
                    deadline,
                    epoch,
                    operation: Operation::Transact { txn, writes, .. },
                },
            ) => {
                let operation = Operation::Transact {
                    txn,
                    reads: Arc::default(),
                    writes,
                };
                let message = NodeMessage::Request {
                    id,
                    deadline,
                    epoch,
                    operation,
                };
                machine.handle(now, message, out);
            }
            (_, message) => machine.handle(now, message, out),
        }
    }

    /// Names transactions in what a node asks by their own numbers.
    pub(crate) fn untamper(&self, effects: &mut [NodeEffect]) {
        if !self.mutation.is_some_and(Mutation::is_of_promises) {
            return;
        }
        for effect in effects {
            if let NodeEffect::Journal(JournalMessage::Asks(asks)) = effect {
                for ask in asks {
                    ask.txn = real(ask.txn);
                }
            }
        }
    }

    /// What the journal is told instead of a message, if anything.
    pub(crate) fn tamper_with_journal(
        &mut self,
        message: JournalMessage,
    ) -> Option<JournalMessage> {
        match message {
            JournalMessage::Decides(mut decides)
                if self.mutated(Mutation::SkipIncarnationCheck) =>
            {
                let current = self.process.sequencer.catalogue().incarnations;
                for part in decides.iter_mut().flat_map(|decide| &mut decide.parts) {
                    part.incarnation = current[usize::from(part.node.0)];
                }
                Some(JournalMessage::Decides(decides))
            }
            JournalMessage::Decides(mut decides) if self.mutated(Mutation::ForgetPrepared) => {
                let ring = self.process.sequencer.ring();
                for part in decides.iter_mut().flat_map(|decide| &mut decide.parts) {
                    part.epoch = ring.owned_since(part.node);
                }
                Some(JournalMessage::Decides(decides))
            }
            JournalMessage::Decides(mut decides) if self.mutated(Mutation::IgnoreLockLife) => {
                for life in decides.iter_mut().filter_map(|it| it.lock_life.as_mut()) {
                    *life = self.process.locks.known_life;
                }
                Some(JournalMessage::Decides(decides))
            }
            JournalMessage::Asks(mut asks) if self.mutated(Mutation::ForgetTombstone) => {
                let settled = self.model.settled.clone();
                let (known, unknown): (Vec<_>, Vec<_>) = asks
                    .drain(..)
                    .partition(|ask| settled.contains(&ask.txn) || self.is_single(ask.txn));
                for ask in unknown {
                    self.tell_aborted(ask.txn, ask.asker);
                }
                Some(JournalMessage::Asks(known))
            }
            message => Some(message),
        }
    }

    fn is_single(&self, txn: TxnId) -> bool {
        self.model.ops.contains_key(&txn.number())
    }

    fn tell_aborted(&mut self, txn: TxnId, asker: Asker) {
        match asker {
            Asker::Coordinator => {
                let reason = "nobody remembers";
                let verdict = Verdict::Refused(Error::Aborted { reason });
                let decided = CoordinatorMessage::Decided(vec![Decided { txn, verdict }]);
                self.coordinator_step(decided);
            }
            Asker::Node(node, incarnation) => {
                let settle = Settle {
                    txn,
                    incarnation,
                    lsn: None,
                };
                self.tell_node(node, NodeMessage::Settles(vec![settle]));
            }
            Asker::Locks => {
                let resolve = LockMessage::ResolveFence { txn };
                self.tell_locks_from(Party::Journal, resolve);
            }
            Asker::Handle(request) => self.outcome(request, &Ok(TxnOutcome::Aborted)),
        }
    }
}

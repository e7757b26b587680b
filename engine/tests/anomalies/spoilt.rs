//! The checks that keep anomalies out, taken out one by one.
//!
//! A spoilt bank has the real machines; they are told other things than they were sent, or their effects are carried out
//! otherwise. So it can be seen that each script fails without the check that it names.

use super::bank::{Bank, Mail};
use mailring_engine::{
    coordinator::CoordinatorMessage,
    ids::{Lsn, NodeId, TxnId},
    participant::{NodeEffect, NodeMessage, Operation},
    transaction::{Abort, Ballot, Decided, Prepare, ReadSet, Settle, Verdict, Vote},
};
use std::{mem, sync::Arc};

/// What is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoilt {
    /// All parts of a transaction have one LSN: the second node gives two that meet there each other's.
    OneLsn,
    /// Reads are at a snapshot: they see the newest that is installed.
    Snapshot,
    /// What a transaction of several nodes has read is validated.
    Validation,
    /// Ranges are validated and held like keys.
    Ranges,
    /// What was read is held until the LSN is given: it is let go at the vote.
    Holds,
    /// What a transaction of one node has read is validated.
    ValidationAlone,
    /// What is visible is a prefix of the LSNs, installed everywhere: it is whatever is durable.
    Prefix,
    /// The answer waits until the commit is visible: it comes when the LSN is given.
    AnswerWhenVisible,
    /// A snapshot is the visible LSN: it is the one before.
    Newest,
}

impl Bank {
    fn is_spoilt(&self, what: Spoilt) -> bool {
        self.spoilt == Some(what)
    }

    /// At which LSN a reader reads who asks for `at`.
    pub(super) fn read_at(&self, at: Lsn) -> Lsn {
        match self.is_spoilt(Spoilt::Snapshot) {
            true => Lsn(u64::MAX),
            false => at,
        }
    }

    /// What readers take for visible, and what they took before.
    pub(super) fn is_a_step_behind(&self) -> bool {
        self.is_spoilt(Spoilt::Newest)
    }

    /// Everything up to here is durable.
    pub(super) fn persisted(&mut self, last: Lsn) {
        if self.is_spoilt(Spoilt::Prefix) {
            self.now_visible(last);
        }
    }

    /// The journal's word on its way to a node.
    pub(super) fn settled(&mut self, node: NodeId, settles: &mut [Settle]) {
        if self.is_spoilt(Spoilt::AnswerWhenVisible) {
            let decided = settles.iter().filter_map(|settle| {
                let verdict = Verdict::Committed(settle.lsn?);
                let txn = settle.txn;
                Some(Decided { txn, verdict })
            });
            let decided = CoordinatorMessage::Decided(decided.collect());
            self.mail.push_front(Mail::Coordinator(decided));
        }
        if self.is_spoilt(Spoilt::OneLsn)
            && node == NodeId(1)
            && let [one, other] = settles
        {
            mem::swap(&mut one.txn, &mut other.txn);
        }
    }

    pub(super) fn handle_node(&mut self, node: usize, message: NodeMessage) -> Vec<NodeEffect> {
        let (now, machine) = (self.now, &mut self.nodes[node]);
        let mut out = Vec::new();
        match (self.spoilt, message) {
            (Some(Spoilt::Validation), NodeMessage::Prepares(mut prepares)) => {
                for prepare in &mut prepares {
                    *prepare = without_reads(prepare);
                }
                machine.handle(now, NodeMessage::Prepares(prepares), &mut out);
            }
            (Some(Spoilt::Ranges), NodeMessage::Prepares(mut prepares)) => {
                for prepare in &mut prepares {
                    Arc::make_mut(&mut prepare.reads).ranges.clear();
                }
                machine.handle(now, NodeMessage::Prepares(prepares), &mut out);
            }
            (Some(Spoilt::Holds), NodeMessage::Prepares(prepares)) => {
                for prepare in prepares {
                    let mut step = |message| {
                        let mut effects = Vec::new();
                        machine.handle(now, message, &mut effects);
                        effects
                    };
                    out.extend(prepare_without_holding(&mut step, prepare));
                }
            }
            (
                Some(Spoilt::ValidationAlone),
                NodeMessage::Request {
                    id,
                    deadline,
                    epoch,
                    operation: Operation::Transact { txn, writes, .. },
                },
            ) => {
                let reads = Arc::default();
                let operation = Operation::Transact { txn, reads, writes };
                let message = NodeMessage::Request {
                    id,
                    deadline,
                    epoch,
                    operation,
                };
                machine.handle(now, message, &mut out);
            }
            (_, message) => machine.handle(now, message, &mut out),
        }
        out
    }
}

fn without_reads(prepare: &Prepare) -> Prepare {
    let reads = Arc::new(ReadSet {
        snapshot: prepare.reads.snapshot,
        ..ReadSet::default()
    });
    Prepare {
        reads,
        ..prepare.clone()
    }
}

/// What was read is asked about under another number, which is aborted at once; then the writes are prepared alone.
fn prepare_without_holding(
    step: &mut impl FnMut(NodeMessage) -> Vec<NodeEffect>,
    prepare: Prepare,
) -> Vec<NodeEffect> {
    let number = prepare.txn.number() + 1_000_000;
    let question = Prepare {
        txn: TxnId::new(prepare.txn.opening(), number).expect("it has an opening"),
        writes: Arc::from([]),
        ..prepare.clone()
    };
    let abort = Abort {
        txn: question.txn,
        deadline: question.deadline,
    };
    let mut effects = step(NodeMessage::Prepares(vec![question]));
    effects.extend(step(NodeMessage::Aborts(vec![abort])));
    let refused = effects.into_iter().find_map(|effect| match effect {
        NodeEffect::Votes(mut votes) => votes.pop().filter(|vote| is_no(&vote.ballot)),
        _ => None,
    });
    match refused {
        Some(vote) => {
            let txn = prepare.txn;
            vec![NodeEffect::Votes(vec![Vote { txn, ..vote }])]
        }
        None => step(NodeMessage::Prepares(vec![without_reads(&prepare)])),
    }
}

fn is_no(ballot: &Ballot) -> bool {
    matches!(ballot, Ballot::No(_))
}

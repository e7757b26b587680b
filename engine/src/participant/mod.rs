//! A storage node's thinking: it alone admits writes to the keys of its arcs.
//!
//! The life of a write of one node:
//!
//! ```text
//!  handle ── Request ──▶ stage: validate, chain on what is staged ── ScheduleFlush
//!            Flush ────▶ Append(batch) ──▶ journal
//!            Resolve ──▶ install at the LSN ── Installed ──▶ journal
//!            Visible ──▶ Answer
//! ```
//!
//! A transaction of several nodes is prepared here, and installed in line with the others when it is settled; see
//! `prepare.rs`. A transaction of this node alone is a request like a put, validated when it is staged.
//!
//! Read-modify-write of one key (`add`, compare-and-set) is computed here, on the newest staged or installed value, so
//! that a hot key is not limited to one commit a force. What was computed from a value that is not visible yet is
//! answered only when that value is visible, and is refused if the journal refuses that value.
//!
//! Invariants:
//! - Commits reach the journal in the order in which they were staged, and are installed in LSN order.
//! - `in_flight` holds every unanswered request in that order; a prefix of it has LSNs. A request is answered once.
//! - After a refusal nothing staged before it survives: `chain` counts refusals, and answers to older chains are void.
//! - What a prepared transaction has read gets no new write, and what it has staged is nothing to chain on, until it is
//!   settled. While nothing is prepared, reserved or parked, a request pays one branch for all of this.
//! - A node that recovers touches no generation: its table is rebuilt from the tree and the journal.
//!
//! Arcs leave a node and come to it while it serves; see `hand_over.rs`.

mod generations;
mod hand_over;
mod life;
mod message;
mod parked;
mod prepare;
mod prepared;
mod staged;

pub use message::{Answer, NodeEffect, NodeMessage, Operation, Owners, ParticipantOptions};
pub use staged::add_to_counter;

use crate::{
    cache::RowCache,
    error::{Error, Result},
    ids::{Epoch, Incarnation, Lsn, NodeId, RequestId, Time},
    packed,
    sequencer::{Append, JournalMessage, Resolve, StagedCommit},
    store::StoreView,
    transaction::Writes,
    value::{Value, Write},
    view::NodeTable,
};
use bytes::Bytes;
use hand_over::Ownership;
use parked::{Parked, Request};
use prepared::Prepared;
use staged::StagedKeys;
use std::{collections::VecDeque, sync::Arc};

/// A request that is not answered yet.
#[derive(Debug)]
struct InFlight {
    id: RequestId,
    /// Whether the request is a commit of its own, or only waits for the commit before it.
    commits: bool,
    lsn: Option<Lsn>,
    /// The answer but for its LSN.
    answer: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Written,
    Counter(i64),
    Mismatch(Option<Bytes>),
    /// The value that was found does not allow the operation.
    Refused(Error),
}

#[derive(Debug)]
enum Phase {
    Serving,
    /// Waiting for `Fenced` and `Rebuilt`; requests wait in line.
    Recovering {
        stash: VecDeque<Request>,
    },
    ReadOnly(Error),
    Down,
}

/// A storage node's state machine.
#[derive(Debug)]
pub struct Participant {
    incarnation: Incarnation,
    table: Arc<NodeTable>,
    cache: Arc<RowCache>,
    tree: TreeSource,
    phase: Phase,
    chain: u64,
    batch: Vec<StagedCommit>,
    /// Batches at the journal, oldest first.
    sent: VecDeque<Vec<StagedCommit>>,
    /// Kept only from the first read-modify-write until nothing is staged: plain writes need none of it.
    staged: Option<StagedKeys>,
    /// Commits staged and commits installed in this life: the difference is staged now.
    staged_commits: u64,
    installed_commits: u64,
    in_flight: VecDeque<InFlight>,
    /// How many at the front of `in_flight` have an LSN.
    resolved: usize,
    last_lsn: Lsn,
    visible: Lsn,
    /// The complete LSN from which the generation is being rebuilt.
    rebuilding_after: Lsn,
    /// Transactions of several nodes, and requests that wait for them.
    prepared: Prepared,
    parked: Parked,
    /// Whether anything is prepared, reserved or parked: all that a request has to look at while nothing is.
    guarded: bool,
    /// Which arcs come and go.
    ownership: Ownership,
    options: ParticipantOptions,
}

/// Gives the tree's present state when a checkpoint has changed it.
pub struct TreeSource(pub Box<dyn Fn() -> Arc<dyn StoreView> + Send>);

impl std::fmt::Debug for TreeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TreeSource")
    }
}

impl Participant {
    /// A node that serves `table`, everything of which is visible at `visible`, and owns its arcs since `owned_since`.
    #[must_use]
    pub fn new(
        incarnation: Incarnation,
        owned_since: Epoch,
        table: Arc<NodeTable>,
        cache: Arc<RowCache>,
        tree: TreeSource,
        visible: Lsn,
        options: ParticipantOptions,
    ) -> Self {
        let ownership = Ownership::new(owned_since, table.joins());
        Self {
            incarnation,
            table,
            cache,
            tree,
            phase: Phase::Serving,
            chain: 0,
            batch: Vec::new(),
            sent: VecDeque::new(),
            staged: None,
            staged_commits: 0,
            installed_commits: 0,
            in_flight: VecDeque::new(),
            resolved: 0,
            last_lsn: visible,
            visible,
            rebuilding_after: visible,
            prepared: Prepared::default(),
            parked: Parked::default(),
            guarded: false,
            ownership,
            options,
        }
    }

    /// The node's number.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.table.node()
    }

    /// The present life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether the request will still be answered by this machine.
    #[must_use]
    pub fn owes(&self, id: RequestId) -> bool {
        self.in_flight.iter().any(|entry| entry.id == id)
            || self.parked.requests().any(|parked| parked.id == id)
            || matches!(&self.phase, Phase::Recovering { stash } if stash.iter().any(|stashed| stashed.id == id))
    }

    /// Takes one message.
    pub fn handle(&mut self, now: Time, message: NodeMessage, out: &mut Vec<NodeEffect>) {
        match message {
            NodeMessage::Request {
                id,
                deadline,
                epoch,
                operation,
            } => {
                let request = Request {
                    id,
                    deadline,
                    epoch,
                    operation,
                };
                self.request(now, request, out);
            }
            NodeMessage::Flush => self.flush(out),
            NodeMessage::Prepares(prepares) => self.prepare(now, prepares, out),
            NodeMessage::Aborts(aborts) => {
                self.abort(now, &aborts, out);
                self.look_whether_drained(out);
            }
            NodeMessage::Settles(settles) => {
                self.settle(now, &settles, out);
                self.look_whether_drained(out);
            }
            NodeMessage::Resolve(resolve) => {
                self.resolve(resolve, out);
                self.look_whether_drained(out);
            }
            NodeMessage::Visible(lsn) => self.answer_through(lsn, out),
            NodeMessage::Freeze(lsn) => self.freeze(lsn, out),
            NodeMessage::Flushed { through } => self.flushed(through, out),
            NodeMessage::Fenced {
                incarnation,
                through,
            } => self.fenced(now, incarnation, through, out),
            NodeMessage::Rebuilt {
                incarnation,
                through,
                generation,
            } => self.rebuilt(now, incarnation, through, generation, out),
            NodeMessage::ReadOnly(error) => self.read_only(&error, out),
            NodeMessage::GoDown => self.go_down(out),
            NodeMessage::HandOver {
                change,
                attempt,
                arcs,
            } => self.hand_over(now, (change, attempt), arcs, out),
            NodeMessage::KeepArcs { change } => self.keep_arcs(change),
            NodeMessage::Owners(owners) => self.own(owners, out),
            NodeMessage::Forget { change } => self.forget(change, out),
        }
    }

    fn request(&mut self, now: Time, request: Request, out: &mut Vec<NodeEffect>) {
        let id = request.id;
        let is_moved = self.ownership.suspects(request.epoch)
            && self.is_moved(request.epoch, &request.operation);
        let refusal = match &mut self.phase {
            Phase::Serving if request.deadline <= now => Error::DeadlineExceeded,
            Phase::Serving if is_moved => Error::Moved { node: self.node() },
            Phase::Serving => {
                if self.guarded && self.has_to_wait(&request.operation) {
                    return self.park(request, out);
                }
                match self.stage(now, id, request.deadline, request.operation, out) {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Phase::Recovering { stash } if stash.len() < self.options.stashed => {
                stash.push_back(request);
                return;
            }
            Phase::Recovering { .. } => Error::Overloaded {
                what: "the queue of a restarting node",
            },
            Phase::ReadOnly(error) => error.as_read_only(),
            Phase::Down => self.table.why_down(),
        };
        out.push(NodeEffect::Answer(id, Err(refusal)));
    }

    fn stage(
        &mut self,
        now: Time,
        id: RequestId,
        deadline: Time,
        operation: Operation,
        out: &mut Vec<NodeEffect>,
    ) -> Result<()> {
        let mut reads_own = false;
        let mut transaction = None;
        let mut was_reserved = false;
        let (writes, answer): (Writes, Outcome) = match operation {
            Operation::Write(writes) => (writes, Outcome::Written),
            Operation::Transact { txn, reads, writes } => {
                if let Some((key, with)) = self.conflict(&reads, &writes, false) {
                    return Err(self.turn_away(now, &reads, &writes, key, with));
                }
                if writes.is_empty() {
                    let answer = Answer::Written(reads.snapshot);
                    out.push(NodeEffect::Answer(id, Ok(answer)));
                    return Ok(());
                }
                was_reserved = self.guarded && self.unreserve(&reads, &writes);
                self.index_staged();
                transaction = Some((txn, reads));
                (writes, Outcome::Written)
            }
            Operation::Add { key, delta, now_ms } => {
                let before = self.newest(&key, now_ms)?;
                let expires_at_ms = before.as_ref().map_or(0, |value| value.expires_at_ms);
                let sum = match add_to_counter(before.as_ref(), delta) {
                    Ok(sum) => sum,
                    Err(error) => {
                        self.push_in_flight(id, Outcome::Refused(error), out);
                        return Ok(());
                    }
                };
                let value = Value {
                    bytes: packed::copy(&sum.to_le_bytes()),
                    expires_at_ms,
                };
                let write = Write {
                    key,
                    value: Some(value),
                };
                reads_own = true;
                (Writes::from([write]), Outcome::Counter(sum))
            }
            Operation::CompareAndSet {
                key,
                expected,
                new,
                now_ms,
            } => {
                let current = self.newest(&key, now_ms)?.map(|value| value.bytes);
                if current != expected {
                    self.push_in_flight(id, Outcome::Mismatch(current), out);
                    return Ok(());
                }
                reads_own = true;
                (Writes::from([Write { key, value: new }]), Outcome::Written)
            }
        };
        self.staged_commits += 1;
        if let Some(staged) = &mut self.staged {
            staged.add(self.staged_commits, &writes);
            if reads_own {
                staged.add_read_of_own(self.staged_commits, &writes[0].key);
            }
        }
        let txn = transaction.map(|(txn, reads)| {
            if let Some(staged) = &mut self.staged {
                staged.hold(self.staged_commits, reads);
            }
            txn
        });
        if self.batch.is_empty() {
            out.push(NodeEffect::ScheduleFlush);
        }
        self.batch.push(StagedCommit {
            deadline,
            writes,
            txn,
        });
        self.in_flight.push_back(InFlight {
            id,
            commits: true,
            lsn: None,
            answer,
        });
        if was_reserved {
            // What stood behind the reservation goes on behind the transaction.
            self.try_parked_again(now, out);
        }
        Ok(())
    }

    /// Puts an answer in line that must not go out before what it was computed from is visible.
    fn push_in_flight(&mut self, id: RequestId, answer: Outcome, out: &mut Vec<NodeEffect>) {
        let behind_unresolved = self.resolved < self.in_flight.len();
        self.in_flight.push_back(InFlight {
            id,
            commits: false,
            lsn: (!behind_unresolved).then_some(self.last_lsn),
            answer,
        });
        if !behind_unresolved {
            self.resolved += 1;
            self.answer_through(self.visible, out);
        }
    }

    /// The newest staged or installed value that has not expired.
    fn newest(&mut self, key: &Bytes, now_ms: u64) -> Result<Option<Value>> {
        let newest = match self.index_staged().newest(key) {
            Some(value) => value.clone(),
            None => self.table.newest(key)?,
        };
        Ok(newest.filter(|value| !value.is_expired(now_ms)))
    }

    /// The index of what is staged, made on first use: plain writes need none.
    fn index_staged(&mut self) -> &StagedKeys {
        self.staged.get_or_insert_with(|| {
            let mut staged = StagedKeys::default();
            let commits = self.sent.iter().flatten().chain(&self.batch);
            for (number, commit) in (self.installed_commits + 1..).zip(commits) {
                staged.add(number, &commit.writes);
            }
            staged
        })
    }

    fn flush(&mut self, out: &mut Vec<NodeEffect>) {
        if self.batch.is_empty() {
            return;
        }
        let commits = std::mem::take(&mut self.batch);
        self.sent.push_back(commits.clone());
        out.push(NodeEffect::Journal(JournalMessage::Append(Append {
            node: self.node(),
            incarnation: self.incarnation,
            chain: self.chain,
            commits,
        })));
    }

    fn resolve(&mut self, resolve: Resolve, out: &mut Vec<NodeEffect>) {
        if matches!(self.phase, Phase::Down) {
            // Everything without an LSN was answered when the node went down.
            return;
        }
        let earlier_life = resolve.incarnation < self.incarnation;
        if !earlier_life && resolve.chain < self.chain {
            return;
        }
        match resolve.outcome {
            Ok(first) => {
                // The same message may come again after a panic: what has its LSN keeps it.
                let given = (self.last_lsn.0 + 1).saturating_sub(first.0);
                let given = usize::try_from(given)
                    .map_or(resolve.commits, |given| given.min(resolve.commits));
                self.give_lsns(Lsn(first.0 + given as u64), resolve.commits - given);
                if !earlier_life {
                    self.install(first, out);
                }
            }
            Err(error) => self.refuse_staged(&error, out),
        }
    }

    /// Gives LSNs to the oldest unresolved commits, and to the answers that wait for them.
    fn give_lsns(&mut self, first: Lsn, commits: usize) {
        let mut next = first;
        let mut left = commits;
        while let Some(entry) = self.in_flight.get_mut(self.resolved) {
            if entry.commits {
                if left == 0 {
                    break;
                }
                left -= 1;
                self.last_lsn = next;
                next = next.next();
            }
            entry.lsn = Some(self.last_lsn);
            self.resolved += 1;
        }
        assert_eq!(
            left,
            0,
            "the journal resolved more commits than node {} had sent",
            self.table.node()
        );
    }

    fn install(&mut self, first: Lsn, out: &mut Vec<NodeEffect>) {
        let batch = self
            .sent
            .pop_front()
            .expect("the journal resolves only what was sent");
        let mut lsn = first;
        for commit in &batch {
            self.installed_commits += 1;
            for write in commit.writes.iter() {
                self.table.install(&self.cache, lsn, write);
            }
            if let Some(staged) = &mut self.staged {
                staged.remove(self.installed_commits, &commit.writes);
            }
            lsn = lsn.next();
        }
        if self.installed_commits == self.staged_commits {
            self.staged = None;
        }
        out.push(NodeEffect::Journal(JournalMessage::Installed {
            node: self.node(),
            incarnation: self.incarnation,
            through: self.last_lsn,
        }));
    }

    /// Refuses everything that has no LSN yet: it may have been computed from what the journal refused.
    fn refuse_staged(&mut self, error: &Error, out: &mut Vec<NodeEffect>) {
        self.chain += 1;
        self.batch.clear();
        self.sent.clear();
        self.staged = None;
        self.installed_commits = self.staged_commits;
        for entry in self.in_flight.drain(self.resolved..) {
            out.push(NodeEffect::Answer(entry.id, Err(error.clone())));
        }
    }

    fn answer_through(&mut self, visible: Lsn, out: &mut Vec<NodeEffect>) {
        self.visible = self.visible.max(visible);
        while let Some(InFlight { lsn: Some(lsn), .. }) = self.in_flight.front() {
            let lsn = *lsn;
            if lsn > self.visible {
                break;
            }
            let entry = self.in_flight.pop_front().expect("it has a front");
            self.resolved -= 1;
            let answer = match entry.answer {
                Outcome::Written => Ok(Answer::Written(lsn)),
                Outcome::Counter(value) => Ok(Answer::Counter(lsn, value)),
                Outcome::Mismatch(current) => Ok(Answer::Mismatch(current)),
                Outcome::Refused(error) => Err(error),
            };
            out.push(NodeEffect::Answer(entry.id, answer));
        }
    }
}

#[cfg(test)]
mod tests;

//! A coordinator's thinking: carries a transaction of several nodes from its commit request to one decision.
//!
//! ```text
//!  Commit ──▶ Preparing: Prepares to all at once, votes come in
//!               ├─ a No, silence until the vote timeout, a lost node ──▶ Aborts to all, answer: nothing was written
//!               └─ all Yes ──▶ Deciding: Decides ──▶ journal
//!                                ├─ Committed ──▶ answer the LSN (the journal has told the nodes)
//!                                ├─ Refused ────▶ Aborts to all, answer why
//!                                └─ silence past the deadline ──▶ Asks ──▶ journal, again and again
//! ```
//!
//! A transaction that carries fences has one participant more, the lock manager: asked and told like the nodes, by
//! `PrepareFence` and `ResolveFence`, except that of a commit it is told by the coordinator, once that is visible. If the
//! outcome is unknown it is told nothing, and goes on keeping the locks. A transaction that only reads was true at its
//! snapshot, so there is nothing to prepare or to decide; under fences the lock manager alone is asked, and its Yes, said
//! after the snapshot, is the answer.
//!
//! Before it has sent a decision the coordinator may roll back by itself: nobody else can decide. After that it never
//! does; it asks. The answer is always definite, unless the journal has failed: then it is [`Error::Unknown`], and the
//! outcome can be had after the engine was opened again.
//!
//! Batching: what a mailbox round wants sent is kept until [`CoordinatorMessage::Flush`], which the shell sends to the
//! coordinator itself behind what is queued. Then all for one receiver goes as one message.
//!
//! # Invariants
//!
//! - A transaction that is running is in exactly one phase, and has exactly one timer.
//! - A request is answered once.
//! - Whoever was asked to prepare is told of an abort by the coordinator, of a commit by the journal; and whoever is not
//!   told, because somebody has died, asks.
//! - After a panic nothing that was running is decided anew: the journal is asked, which either knows the commit or lays
//!   a tombstone.
//!
//! # Left out
//!
//! Several coordinators: each transaction belongs to one of them by its number, and none knows of the others.

use crate::{
    error::{Error, Result},
    ids::{Epoch, Incarnation, Lsn, NodeId, RequestId, Time, TxnId},
    locks::LockMessage,
    sequencer::JournalMessage,
    transaction::{
        Abort, Ask, Asker, Ballot, Commit, Decide, DecidePart, Decided, FenceVote,
        MAX_TRANSACTION_BYTES, MAX_TRANSACTION_FENCES, MAX_TRANSACTION_KEYS,
        MAX_TRANSACTION_RANGES, MAX_TRANSACTION_TIME, Prepare, TxnPart, Verdict, Vote,
    },
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What arrives at a coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoordinatorMessage {
    /// From a handle. The caller may vanish; the transaction is carried to its end all the same.
    Commit(Commit),
    /// From a node. Lost votes are silence.
    Votes(Vec<Vote>),
    /// From the lock manager. Lost votes are silence.
    FenceVotes(Vec<FenceVote>),
    /// From the journal.
    Decided(Vec<Decided>),
    /// From the supervisor, or from the shell that could not deliver: the node will not vote.
    NodeDown(NodeId),
    /// From the journal: nothing becomes durable any more.
    ReadOnly(Error),
    /// From the coordinator's own shell at the end of a mailbox round.
    Flush,
}

/// What a coordinator wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum CoordinatorEffect {
    /// Send to a node.
    Prepares(NodeId, Vec<Prepare>),
    /// Send to a node, in line with [`CoordinatorEffect::Prepares`].
    Aborts(NodeId, Vec<Abort>),
    /// Send to the lock manager, in this order.
    Locks(Vec<LockMessage>),
    /// Send to the journal.
    Journal(JournalMessage),
    /// Answer a request: the LSN of the commit, which is visible.
    Answer(RequestId, Result<Lsn>),
    /// Answer a request: an earlier transaction with its idempotency key was committed at this LSN, which is visible, and
    /// nothing was written now.
    AnswerRepeated(RequestId, Lsn),
    /// Send [`CoordinatorMessage::Flush`] to this coordinator behind what is queued now.
    ScheduleFlush,
}

/// What bounds a coordinator.
#[derive(Debug, Clone, Copy)]
pub struct CoordinatorOptions {
    /// Transactions that run at one time.
    pub running: usize,
    /// Bytes of keys and values that one transaction may read by name and write.
    pub bytes: usize,
    /// How long a node may take to vote, for each 10,000 keys begun that the transaction reads and writes.
    pub vote_timeout: Duration,
    /// How long to wait for the journal's word, past the deadline, before it is asked again.
    pub ask_again: Duration,
}

impl Default for CoordinatorOptions {
    fn default() -> Self {
        Self {
            running: 16_384,
            bytes: MAX_TRANSACTION_BYTES,
            vote_timeout: Duration::from_secs(1),
            ask_again: Duration::from_millis(500),
        }
    }
}

#[derive(Debug)]
enum Phase {
    /// The votes so far, in the order of the parts, and the lock manager's.
    Preparing {
        votes: Vec<Option<(Incarnation, Epoch)>>,
        lock_life: Option<Incarnation>,
    },
    /// The journal's word is awaited.
    Deciding,
}

#[derive(Debug)]
struct Running {
    request: RequestId,
    deadline: Time,
    parts: Arc<[TxnPart]>,
    has_fences: bool,
    /// Where it has read, if it writes nothing: then it has no parts.
    reads_at: Option<Lsn>,
    idempotency: Option<Bytes>,
    phase: Phase,
    timer: Time,
    /// Where it stands among the timers: at its own or before. One that rings early is put back to where it belongs.
    rings: Time,
}

/// Who has voted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voter {
    Node(NodeId),
    Locks,
}

/// What the next flush sends.
#[derive(Debug, Default)]
struct Outgoing {
    prepares: BTreeMap<NodeId, Vec<Prepare>>,
    aborts: BTreeMap<NodeId, Vec<Abort>>,
    locks: Vec<LockMessage>,
    decides: Vec<Decide>,
    asks: Vec<Ask>,
    is_scheduled: bool,
}

/// A coordinator's state machine.
#[derive(Debug)]
pub struct Coordinator {
    options: CoordinatorOptions,
    running: BTreeMap<TxnId, Running>,
    timers: BTreeSet<(Time, TxnId)>,
    outgoing: Outgoing,
    read_only: Option<Error>,
}

impl Coordinator {
    /// A coordinator with nothing to do.
    #[must_use]
    pub fn new(options: CoordinatorOptions) -> Self {
        Self {
            options,
            running: BTreeMap::new(),
            timers: BTreeSet::new(),
            outgoing: Outgoing::default(),
            read_only: None,
        }
    }

    /// Whether the request will still be answered by this machine.
    #[must_use]
    pub fn owes(&self, request: RequestId) -> bool {
        let mut running = self.running.values();
        running.any(|running| running.request == request)
    }

    /// How many transactions are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// When [`Coordinator::handle_timeout`] has something to do. Looks at all that run; a shell had better ask by a clock
    /// as long as anything does.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let running = self.running.values();
        running.map(|running| running.timer).min()
    }

    /// Takes one message.
    pub fn handle(
        &mut self,
        now: Time,
        message: CoordinatorMessage,
        out: &mut Vec<CoordinatorEffect>,
    ) {
        match message {
            CoordinatorMessage::Commit(commit) => {
                let request = commit.request;
                match self.begin(now, commit) {
                    Ok(None) => {}
                    Ok(Some(lsn)) => out.push(CoordinatorEffect::Answer(request, Ok(lsn))),
                    Err(error) => out.push(CoordinatorEffect::Answer(request, Err(error))),
                }
            }
            CoordinatorMessage::Votes(votes) => {
                for Vote { txn, node, ballot } in votes {
                    self.vote(txn, Voter::Node(node), ballot, out);
                }
            }
            CoordinatorMessage::FenceVotes(votes) => {
                for FenceVote { txn, ballot } in votes {
                    self.vote(txn, Voter::Locks, ballot, out);
                }
            }
            CoordinatorMessage::Decided(decided) => {
                for Decided { txn, verdict } in decided {
                    self.decided(txn, verdict, out);
                }
            }
            CoordinatorMessage::NodeDown(node) => self.node_down(node, out),
            CoordinatorMessage::ReadOnly(error) => self.turn_read_only(error, out),
            CoordinatorMessage::Flush => return self.flush(out),
        }
        self.schedule(out);
    }

    /// Rolls back whose votes are missing for too long, and asks for those that the journal has not answered.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<CoordinatorEffect>) {
        while let Some((at, txn)) = self.timers.first().copied()
            && at <= now
        {
            let running = self.running.get_mut(&txn).expect("who has a timer runs");
            if running.timer > at {
                let later = running.timer;
                self.ring_at(txn, later);
                continue;
            }
            match &running.phase {
                Phase::Preparing { .. } if running.deadline <= now => {
                    self.roll_back(txn, None, Error::DeadlineExceeded, out);
                }
                Phase::Preparing { votes, .. } => {
                    let reason = if votes.iter().all(Option::is_some) {
                        "the lock manager did not vote in time"
                    } else {
                        "a node did not vote in time"
                    };
                    self.roll_back(txn, None, Error::Aborted { reason }, out);
                }
                Phase::Deciding => {
                    self.set_timer(txn, now.after(self.options.ask_again));
                    self.ask(txn);
                }
            }
        }
        self.schedule(out);
    }

    /// Goes on after a panic: asks the journal for everything that is running. What was committed is answered so, the
    /// rest is aborted, and nothing is left prepared. The message that was being handled need not be handed over again;
    /// the caller of a [`CoordinatorMessage::Commit`] that is not running ([`Coordinator::owes`]) is to be told.
    pub fn restart(&mut self, now: Time, out: &mut Vec<CoordinatorEffect>) {
        self.outgoing = Outgoing::default();
        self.timers.clear();
        let txns: Vec<_> = self.running.keys().copied().collect();
        for txn in txns {
            let running = self.running.get_mut(&txn).expect("it was listed");
            running.phase = Phase::Deciding;
            self.set_timer(txn, now.after(self.options.ask_again));
            self.ask(txn);
        }
        self.schedule(out);
    }

    /// Begins a transaction; the LSN is the answer to one that has nothing to commit.
    fn begin(&mut self, now: Time, mut commit: Commit) -> Result<Option<Lsn>> {
        if let Some(error) = &self.read_only {
            return Err(error.as_read_only());
        }
        if commit.deadline <= now {
            return Err(Error::DeadlineExceeded);
        }
        check_size(&commit, self.options.bytes)?;
        let mut reads_at = None;
        if commit.parts.iter().all(|part| part.writes.is_empty()) {
            // All that it read was true at its snapshot, which is its place in the order.
            let snapshots = commit.parts.iter().map(|part| part.reads.snapshot);
            reads_at = Some(snapshots.max().unwrap_or_default());
            if commit.fences.is_empty() {
                return Ok(reads_at);
            }
            commit.parts = Arc::default();
        }
        if self.running.len() >= self.options.running {
            let what = "the coordinator";
            return Err(Error::Overloaded { what });
        }
        let txn = commit.txn;
        let deadline = commit.deadline.min(now.after(MAX_TRANSACTION_TIME));
        for part in commit.parts.iter() {
            let to = self.outgoing.prepares.entry(part.node).or_default();
            to.push(Prepare {
                txn,
                deadline,
                reads: Arc::clone(&part.reads),
                writes: Arc::clone(&part.writes),
                epoch: commit.epoch,
            });
        }
        let has_fences = !commit.fences.is_empty();
        if has_fences {
            let fences = commit.fences;
            let prepare = LockMessage::PrepareFence {
                txn,
                fences,
                deadline,
            };
            self.outgoing.locks.push(prepare);
        }
        let timer = now.after(self.patience(&commit.parts)).min(deadline);
        let votes = vec![None; commit.parts.len()];
        let running = Running {
            request: commit.request,
            deadline,
            parts: commit.parts,
            has_fences,
            reads_at,
            idempotency: commit.idempotency,
            phase: Phase::Preparing {
                votes,
                lock_life: None,
            },
            timer,
            rings: timer,
        };
        let before = self.running.insert(txn, running);
        assert!(before.is_none(), "transaction {txn} is committed twice");
        self.timers.insert((timer, txn));
        Ok(None)
    }

    /// How long the nodes may take to vote: validating and staging takes its time for each key.
    fn patience(&self, parts: &[TxnPart]) -> Duration {
        const KEYS: usize = 10_000;
        let more = u32::try_from(keys_in(parts) / KEYS).expect("the size was checked");
        self.options.vote_timeout * (more + 1)
    }

    fn vote(&mut self, txn: TxnId, voter: Voter, ballot: Ballot, out: &mut Vec<CoordinatorEffect>) {
        let Some(running) = self.running.get_mut(&txn) else {
            // It was rolled back meanwhile, and the voter was told behind its vote.
            return;
        };
        let Phase::Preparing { votes, lock_life } = &mut running.phase else {
            return;
        };
        let (incarnation, epoch) = match ballot {
            Ballot::Yes { incarnation, epoch } => (incarnation, epoch),
            Ballot::No(error) => return self.roll_back(txn, Some(voter), error, out),
        };
        match voter {
            Voter::Locks => *lock_life = Some(incarnation),
            Voter::Node(node) => {
                let mut parts = running.parts.iter();
                if let Some(at) = parts.position(|part| part.node == node) {
                    votes[at] = Some((incarnation, epoch));
                }
            }
        }
        let is_fenced = lock_life.is_some() || !running.has_fences;
        if !is_fenced || !votes.iter().all(Option::is_some) {
            return;
        }
        match running.reads_at {
            None => self.decide(txn),
            Some(snapshot) => {
                self.resolve_fence(txn);
                self.finish(txn, Ok(snapshot), out);
            }
        }
    }

    fn decide(&mut self, txn: TxnId) {
        let running = self.running.get_mut(&txn).expect("it has just voted");
        let phase = std::mem::replace(&mut running.phase, Phase::Deciding);
        let Phase::Preparing { votes, lock_life } = phase else {
            panic!("transaction {txn} was decided already");
        };
        let parts = running.parts.iter().zip(votes);
        let decide = Decide {
            txn,
            deadline: running.deadline,
            idempotency: running.idempotency.clone(),
            parts: parts
                .map(|(part, vote)| {
                    let (incarnation, epoch) = vote.expect("all have voted");
                    DecidePart {
                        node: part.node,
                        incarnation,
                        epoch,
                        writes: Arc::clone(&part.writes),
                    }
                })
                .collect(),
            lock_life: lock_life.filter(|_| running.has_fences),
        };
        let ask_at = running.deadline.after(self.options.ask_again);
        self.outgoing.decides.push(decide);
        self.set_timer(txn, ask_at);
    }

    fn decided(&mut self, txn: TxnId, verdict: Verdict, out: &mut Vec<CoordinatorEffect>) {
        match verdict {
            Verdict::Committed(lsn) => {
                // It is visible: the next holder sees it.
                self.resolve_fence(txn);
                self.finish(txn, Ok(lsn), out);
            }
            Verdict::Unknown(error) => self.finish(txn, Err(error), out),
            Verdict::Refused(error) => self.roll_back(txn, None, error, out),
            Verdict::Repeated(lsn) => {
                self.send_aborts(txn, None);
                if let Some(running) = self.take_running(txn) {
                    out.push(CoordinatorEffect::AnswerRepeated(running.request, lsn));
                }
            }
        }
    }

    fn node_down(&mut self, node: NodeId, out: &mut Vec<CoordinatorEffect>) {
        let is_awaited = |running: &Running| match &running.phase {
            Phase::Preparing { votes, .. } => {
                let mut parts = running.parts.iter().zip(votes);
                parts.any(|(part, vote)| part.node == node && vote.is_none())
            }
            Phase::Deciding => false,
        };
        let waiting = self.running.iter();
        let waiting: Vec<_> = waiting
            .filter_map(|(txn, running)| is_awaited(running).then_some(*txn))
            .collect();
        for txn in waiting {
            let voter = Some(Voter::Node(node));
            self.roll_back(txn, voter, Error::NodeDown { node }, out);
        }
    }

    fn turn_read_only(&mut self, error: Error, out: &mut Vec<CoordinatorEffect>) {
        let (reason, refusal) = (error.to_string(), error.as_read_only());
        self.read_only = Some(error);
        let txns: Vec<_> = self.running.keys().copied().collect();
        for txn in txns {
            match self.running[&txn].phase {
                Phase::Preparing { .. } => {
                    self.roll_back(txn, None, refusal.clone(), out);
                }
                Phase::Deciding => {
                    let reason = reason.clone();
                    self.finish(txn, Err(Error::Unknown { reason }), out);
                }
            }
        }
    }

    /// Ends a transaction that has no decision. Who voted No holds nothing.
    fn roll_back(
        &mut self,
        txn: TxnId,
        no_voter: Option<Voter>,
        error: Error,
        out: &mut Vec<CoordinatorEffect>,
    ) {
        self.send_aborts(txn, no_voter);
        self.finish(txn, Err(error), out);
    }

    fn send_aborts(&mut self, txn: TxnId, no_voter: Option<Voter>) {
        if no_voter != Some(Voter::Locks) {
            self.resolve_fence(txn);
        }
        let Some(running) = self.running.get(&txn) else {
            return;
        };
        let deadline = running.deadline;
        let told = running.parts.iter().map(|part| part.node);
        for node in told.filter(|node| Some(Voter::Node(*node)) != no_voter) {
            let to = self.outgoing.aborts.entry(node).or_default();
            to.push(Abort { txn, deadline });
        }
    }

    /// Lets the lock manager hand on what it keeps for the transaction.
    fn resolve_fence(&mut self, txn: TxnId) {
        if self.running.get(&txn).is_some_and(|it| it.has_fences) {
            let resolve = LockMessage::ResolveFence { txn };
            self.outgoing.locks.push(resolve);
        }
    }

    fn finish(&mut self, txn: TxnId, answer: Result<Lsn>, out: &mut Vec<CoordinatorEffect>) {
        if let Some(running) = self.take_running(txn) {
            out.push(CoordinatorEffect::Answer(running.request, answer));
        }
    }

    fn take_running(&mut self, txn: TxnId) -> Option<Running> {
        let running = self.running.remove(&txn)?;
        self.timers.remove(&(running.rings, txn));
        Some(running)
    }

    fn ask(&mut self, txn: TxnId) {
        self.outgoing.asks.push(Ask {
            txn,
            deadline: self.running[&txn].deadline,
            asker: Asker::Coordinator,
        });
    }

    fn set_timer(&mut self, txn: TxnId, at: Time) {
        let running = self.running.get_mut(&txn).expect("only who runs has one");
        running.timer = at;
        // Nearly all timers are moved back once, and never ring: the early place will do until it does.
        if at < running.rings || !self.timers.contains(&(running.rings, txn)) {
            self.ring_at(txn, at);
        }
    }

    fn ring_at(&mut self, txn: TxnId, at: Time) {
        let running = self.running.get_mut(&txn).expect("only who runs has one");
        self.timers.remove(&(running.rings, txn));
        running.rings = at;
        self.timers.insert((at, txn));
    }

    fn schedule(&mut self, out: &mut Vec<CoordinatorEffect>) {
        let outgoing = &mut self.outgoing;
        let is_empty = outgoing.prepares.is_empty()
            && outgoing.aborts.is_empty()
            && outgoing.locks.is_empty()
            && outgoing.decides.is_empty()
            && outgoing.asks.is_empty();
        if !is_empty && !outgoing.is_scheduled {
            outgoing.is_scheduled = true;
            out.push(CoordinatorEffect::ScheduleFlush);
        }
    }

    fn flush(&mut self, out: &mut Vec<CoordinatorEffect>) {
        let outgoing = std::mem::take(&mut self.outgoing);
        // Decisions first: they release what others are turned away by.
        if !outgoing.decides.is_empty() {
            let decides = JournalMessage::Decides(outgoing.decides);
            out.push(CoordinatorEffect::Journal(decides));
        }
        if !outgoing.asks.is_empty() {
            let asks = JournalMessage::Asks(outgoing.asks);
            out.push(CoordinatorEffect::Journal(asks));
        }
        // A transaction may be begun and rolled back in one round: its abort must come behind.
        for (node, prepares) in outgoing.prepares {
            out.push(CoordinatorEffect::Prepares(node, prepares));
        }
        for (node, aborts) in outgoing.aborts {
            out.push(CoordinatorEffect::Aborts(node, aborts));
        }
        if !outgoing.locks.is_empty() {
            out.push(CoordinatorEffect::Locks(outgoing.locks));
        }
    }
}

fn keys_in(parts: &[TxnPart]) -> usize {
    let keys = |part: &TxnPart| part.reads.keys.len() + part.writes.len();
    parts.iter().map(keys).sum()
}

fn check_size(commit: &Commit, max_bytes: usize) -> Result<()> {
    let parts = &*commit.parts;
    let too_large = |len, limit, unit| Error::TransactionTooLarge { len, limit, unit };
    let fences = commit.fences.len();
    if fences > MAX_TRANSACTION_FENCES {
        return Err(too_large(fences, MAX_TRANSACTION_FENCES, "fences"));
    }
    let keys = keys_in(parts);
    if keys > MAX_TRANSACTION_KEYS {
        return Err(too_large(keys, MAX_TRANSACTION_KEYS, "keys"));
    }
    let ranges = parts.iter().map(|part| part.reads.ranges.len()).sum();
    if ranges > MAX_TRANSACTION_RANGES {
        return Err(too_large(ranges, MAX_TRANSACTION_RANGES, "ranges"));
    }
    let read = parts.iter().flat_map(|part| &part.reads.keys);
    let read_bytes: usize = read.map(Bytes::len).sum();
    let written = parts.iter().flat_map(|part| part.writes.iter());
    let written_bytes: usize = written
        .map(|write| write.key.len() + write.value.as_ref().map_or(0, |v| v.bytes.len()))
        .sum();
    let bytes = read_bytes + written_bytes;
    if bytes > max_bytes {
        return Err(too_large(bytes, max_bytes, "bytes"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;

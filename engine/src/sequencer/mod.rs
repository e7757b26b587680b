//! The journal's thinking: which commit comes when, what is forced together, and what may be seen.
//!
//! Nodes hand over staged commits in batches ([`Append`]). The sequencer gives each the next LSN, encodes it into the
//! open group, and tells the node at once ([`Resolve`]), so that installing overlaps the force. The open
//! group is cut at the end of each mailbox round and queues for the disk: whoever writes takes all groups that are
//! queued and forces them together, so the disk never waits for a message:
//!
//! ```text
//!  node A ── Append(a1,a2) ─▶ ┐                 ┌─▶ Resolve(LSN 1,2) ──▶ A installs ── Installed(2) ─┐
//!  node B ── Append(b1) ────▶ ┴ open group 1..3 ┴─▶ Resolve(LSN 3) ────▶ B installs ── Installed(3) ─┤
//!                                  └─ Write(group) ─▶ I/O thread: write, force ─▶ Persisted(3) ──────┴▶ Visible(3)
//! ```
//!
//! Invariants:
//! - LSNs are given once, in order, without gaps; a group is one frame, and frames are written in order.
//! - `visible ≤ persisted`, and everything up to `visible` is installed on every node that is not Down.
//! - An [`Append`] is accepted or refused as a whole. What a node staged on top of a refused one is refused with it:
//!   the node counts its refusals (`chain`), and a batch of a refused chain is refused until the node has heard of it.
//! - What is accepted fits in space that exists: a full disk is found before an LSN is given.
//! - After a failed write or force nothing is accepted any more, and nothing becomes visible any more.
//!
//! A transaction of several nodes is one more thing that ends in the open group: one record with a part for each node;
//! see `decide.rs`. So is a change of the ring, which moves arcs from one node to another at its LSN; see `ring.rs`.

mod catalogue;
mod decide;
pub mod io;
mod locks;
mod message;
mod progress;
mod ring;
mod space;

pub use message::{
    Append, Change, GroupWrite, JournalEffect, JournalMessage, Resolve, RingRequest, StagedCommit,
};

use crate::{
    checkpoint::Catalogue,
    error::{Error, Result},
    ids::{GroupNo, Incarnation, Lsn, NodeId, Time},
    journal::record::{self, Record, RecordBody, TxnTag},
    keyspaces::Keyspaces,
    outcomes::Outcomes,
    ring_state::RingState,
    transaction::{Decide, Verdict},
};
use catalogue::KeyspaceAnswer;
use decide::Waiter;
use locks::LockLives;
use ring::RingInMotion;
use space::{Space, SpareWanted};
use std::{collections::VecDeque, sync::Arc};

/// What the sequencer starts from: a new directory's zeros, or what recovery found.
#[derive(Debug, Clone)]
pub struct SequencerState {
    /// The last LSN of the journal.
    pub last_lsn: Lsn,
    /// The last group of the journal.
    pub last_group: GroupNo,
    /// The lives of the nodes by number, of those that were removed too.
    pub incarnations: Vec<Incarnation>,
    /// The catalogue of keyspaces.
    pub keyspaces: Keyspaces,
    /// What became of transactions, and which opening this is.
    pub outcomes: Outcomes,
    /// The nodes and the ring.
    pub ring: RingState,
    /// Payload bytes that fit into the active segment.
    pub room: u64,
}

/// What bounds and drives the sequencer.
#[derive(Debug, Clone, Copy)]
pub struct SequencerOptions {
    /// Force every group before it is visible (`Durability::Always`).
    pub force: bool,
    /// Payload bytes after which a group takes no further batch.
    pub max_group_bytes: usize,
    /// Payload bytes of an ordinary spare segment.
    pub segment_bytes: u64,
}

#[derive(Debug)]
struct NodeProgress {
    incarnation: Incarnation,
    refused_chain: Option<u64>,
    /// Last LSN given to a commit of this node.
    assigned: Lsn,
    /// Everything of this node up to here is installed.
    installed: Lsn,
    /// Set when the node was given up: nothing of it has a later LSN than this, nor will have.
    down: Option<Lsn>,
    /// It is no member of the ring any more.
    retired: bool,
}

/// Room that a group's buffer has from the beginning, if the one before was as large: it need not grow in small steps.
const LARGEST_HEAD_START: usize = 1 << 16;

#[derive(Debug, Default)]
struct OpenGroup {
    payload: Vec<u8>,
    first: Lsn,
    records: usize,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    last: Lsn,
    payload: usize,
}

/// What could not be admitted yet, for lack of room.
#[derive(Debug)]
enum Waiting {
    Append(Append),
    Decide(Decide),
    Ring(RingRequest),
}

/// The journal's state machine.
#[derive(Debug)]
pub struct Sequencer {
    options: SequencerOptions,
    last_lsn: Lsn,
    last_group: GroupNo,
    persisted: Lsn,
    visible: Lsn,
    nodes: Vec<NodeProgress>,
    open: OpenGroup,
    /// Groups on their way, oldest first.
    in_flight: VecDeque<InFlight>,
    previous_records: usize,
    waiting: VecDeque<Waiting>,
    space: Space,
    failure: Option<Error>,
    /// Marks not yet visible.
    marks: VecDeque<(Lsn, Catalogue)>,
    fences: VecDeque<(NodeId, Incarnation, Lsn)>,
    keyspaces: Keyspaces,
    keyspace_answers: VecDeque<KeyspaceAnswer>,
    outcomes: Outcomes,
    ring: RingInMotion,
    /// Who waits for an LSN to be visible, to be told that a transaction is committed there; in the order of the LSNs.
    waiters: VecDeque<(Lsn, Waiter)>,
    watched: bool,
    changes: VecDeque<Change>,
    locks: LockLives,
}

impl Sequencer {
    /// A sequencer that goes on from `state`, everything of which is durable and installed.
    /// The first spare segment is asked for with the first message.
    ///
    /// # Panics
    ///
    /// Panics if there is not one life for each node.
    #[must_use]
    pub fn new(options: SequencerOptions, state: SequencerState) -> Self {
        let (lives, nodes) = (state.incarnations.len(), state.ring.slots().len());
        assert_eq!(lives, nodes, "a life for each node");
        Self {
            options,
            last_lsn: state.last_lsn,
            last_group: state.last_group,
            persisted: state.last_lsn,
            visible: state.last_lsn,
            nodes: (0_u16..)
                .zip(state.incarnations)
                .map(|(number, incarnation)| NodeProgress {
                    incarnation,
                    refused_chain: None,
                    assigned: state.last_lsn,
                    installed: state.last_lsn,
                    down: None,
                    retired: !state.ring.is_live(NodeId(number)),
                })
                .collect(),
            open: OpenGroup::default(),
            in_flight: VecDeque::new(),
            previous_records: 0,
            waiting: VecDeque::new(),
            space: Space::new(state.room, options.segment_bytes),
            failure: None,
            marks: VecDeque::new(),
            fences: VecDeque::new(),
            keyspaces: state.keyspaces,
            keyspace_answers: VecDeque::new(),
            outcomes: state.outcomes,
            ring: RingInMotion::new(state.ring),
            waiters: VecDeque::new(),
            watched: false,
            changes: VecDeque::new(),
            locks: LockLives::default(),
        }
    }

    /// The last LSN given.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// The visible LSN.
    #[must_use]
    pub fn visible(&self) -> Lsn {
        self.visible
    }

    /// The catalogue of keyspaces, including changes that are not durable yet.
    #[must_use]
    pub fn keyspaces(&self) -> &Keyspaces {
        &self.keyspaces
    }

    /// The nodes and the ring as of the last LSN given.
    #[must_use]
    pub fn ring(&self) -> &RingState {
        &self.ring.state
    }

    /// The keyspaces, the lives of the nodes and the ring as of the last LSN given.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        Catalogue {
            keyspaces: self.keyspaces.clone(),
            incarnations: self.nodes.iter().map(|node| node.incarnation).collect(),
            outcomes: self.outcomes.saved(self.last_lsn),
            ring: self.ring.state.clone(),
        }
    }

    /// Takes one message.
    pub fn handle(&mut self, now: Time, message: JournalMessage, out: &mut Vec<JournalEffect>) {
        match message {
            JournalMessage::Append(append) => {
                self.admit_in_line(now, Waiting::Append(append), out);
            }
            JournalMessage::Decides(decides) => self.decide(now, decides, out),
            JournalMessage::Asks(asks) => self.ask(now, &asks, out),
            JournalMessage::FindKey { request, key } => self.find_key(request, &key, out),
            JournalMessage::Cut => {
                self.cut(out);
                // What did not fit into the group that has just left fits into the next.
                self.admit_waiting(now, out);
                self.cut(out);
            }
            JournalMessage::Persisted { last, room, spare } => {
                self.persisted(now, last, room, spare, out);
            }
            JournalMessage::Failed(error) => self.fail(&error, out),
            JournalMessage::Spare(spare) => self.spare_arrived(now, spare, out),
            JournalMessage::Installed {
                node,
                incarnation,
                through,
            } => self.installed(node, incarnation, through, out),
            JournalMessage::Fence { node, incarnation } => self.fence(node, incarnation, out),
            JournalMessage::Down { node } => self.give_up(now, node, out),
            JournalMessage::Mark => self.mark(out),
            JournalMessage::CreateKeyspace { request, name } => {
                self.create_keyspace(request, &name, out);
            }
            JournalMessage::DropKeyspace { request, name } => {
                self.drop_keyspace(request, &name, out);
            }
            JournalMessage::Watch(on) => self.watched = on,
            JournalMessage::LockLife { life } => self.lock_life(life, out),
            JournalMessage::Ring(request) => self.change_ring(now, request, out),
            JournalMessage::RingPublished { epoch } => self.ring_published(epoch, out),
        }
    }

    /// Asks again for a spare segment that could not be had, and refuses what has waited past its deadline.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<JournalEffect>) {
        self.outcomes.expire(now, self.visible);
        if self.failure.is_some() {
            return;
        }
        let wanted = self.space.retry(self.needed_by_waiting());
        ask_for(wanted, out);
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Append(append) if append.commits.iter().any(|c| c.deadline <= now) => {
                    if !self.is_void(&append) {
                        self.refuse(&append, Error::DeadlineExceeded, out);
                    }
                }
                Waiting::Decide(decide) if decide.deadline <= now => {
                    self.refuse_decide(now, &decide, Error::DeadlineExceeded, out);
                }
                waiting => self.waiting.push_back(waiting),
            }
        }
        // What was refused may have stood before something that fits.
        self.admit_waiting(now, out);
        self.cut(out);
    }

    /// Whether a batch gets no answer: its node has died or was given up, or will have given it up when it hears of an
    /// earlier refusal.
    /// A chain is refused once only: a second refusal could reach a node that has restarted and counts from zero.
    fn is_void(&self, append: &Append) -> bool {
        let node = &self.nodes[usize::from(append.node.0)];
        node.down.is_some()
            || append.incarnation < node.incarnation
            || node
                .refused_chain
                .is_some_and(|chain| append.chain <= chain)
    }

    fn admit_in_line(&mut self, now: Time, waiting: Waiting, out: &mut Vec<JournalEffect>) {
        if self.waiting.is_empty() {
            let left = self.try_admit(now, waiting, out);
            self.waiting.extend(left);
        } else {
            self.waiting.push_back(waiting);
        }
    }

    /// Admits or refuses; gives back what has to wait for room.
    fn try_admit(
        &mut self,
        now: Time,
        waiting: Waiting,
        out: &mut Vec<JournalEffect>,
    ) -> Option<Waiting> {
        match waiting {
            Waiting::Append(append) => self.try_append(now, append, out).map(Waiting::Append),
            Waiting::Decide(decide) => self.try_decide(now, decide, out).map(Waiting::Decide),
            Waiting::Ring(request) => self.try_ring(request, out).map(Waiting::Ring),
        }
    }

    /// Admits or refuses a batch; gives it back if it has to wait for room.
    fn try_append(
        &mut self,
        now: Time,
        append: Append,
        out: &mut Vec<JournalEffect>,
    ) -> Option<Append> {
        if self.is_void(&append) {
            return None;
        }
        if let Some(error) = self.read_only() {
            self.refuse(&append, error, out);
            return None;
        }
        if append.commits.iter().any(|commit| commit.deadline <= now) {
            self.refuse(&append, Error::DeadlineExceeded, out);
            return None;
        }
        if self.nodes[usize::from(append.node.0)].retired {
            let node = append.node;
            self.refuse(&append, Error::Moved { node }, out);
            return None;
        }
        if self.outcomes.has_tombstones() && self.is_any_entombed(&append) {
            let reason = "somebody in doubt asked for the outcome before it was decided";
            self.refuse(&append, Error::Aborted { reason }, out);
            return None;
        }
        if !self.outcomes.has_room() && append.commits.iter().any(|c| c.txn.is_some()) {
            let what = "the table of outcomes";
            self.refuse(&append, Error::Overloaded { what }, out);
            return None;
        }
        let bytes = append_bytes(&append);
        if !self.has_room_for(bytes) {
            let is_idle = self.open.records == 0 && self.in_flight.is_empty();
            match self.space.make_room(bytes as u64, is_idle) {
                Ok(wanted) => ask_for(wanted, out),
                Err(error) => {
                    self.refuse(&append, error, out);
                    return None;
                }
            }
            return Some(append);
        }
        self.admit(append, out);
        None
    }

    fn admit(&mut self, append: Append, out: &mut Vec<JournalEffect>) {
        let first = self.last_lsn.next();
        for commit in &append.commits {
            let lsn = self.give_lsn();
            let (payload, writes) = (&mut self.open.payload, &commit.writes);
            match commit.txn {
                None => {
                    record::encode_commit(payload, lsn, append.node, append.incarnation, writes);
                }
                Some(id) => {
                    let part = (append.node, append.incarnation, &writes[..]);
                    record::encode_transaction(payload, lsn, id, None, std::iter::once(part));
                    let idempotency = None;
                    let tag = TxnTag { id, idempotency };
                    self.outcomes.commit(lsn, tag, commit.deadline);
                }
            }
            if self.watched {
                self.changes.push_back(Change {
                    lsn,
                    writes: Arc::clone(&commit.writes),
                });
            }
        }
        self.nodes[usize::from(append.node.0)].assigned = self.last_lsn;
        out.push(JournalEffect::Resolve(
            append.node,
            Resolve {
                incarnation: append.incarnation,
                chain: append.chain,
                commits: append.commits.len(),
                outcome: Ok(first),
            },
        ));
    }

    fn refuse(&mut self, append: &Append, error: Error, out: &mut Vec<JournalEffect>) {
        let node = &mut self.nodes[usize::from(append.node.0)];
        node.refused_chain = Some(append.chain);
        out.push(JournalEffect::Resolve(
            append.node,
            Resolve {
                incarnation: append.incarnation,
                chain: append.chain,
                commits: append.commits.len(),
                outcome: Err(error),
            },
        ));
    }

    fn give_lsn(&mut self) -> Lsn {
        self.last_lsn = self.last_lsn.next();
        if self.open.records == 0 {
            self.open.first = self.last_lsn;
        }
        self.open.records += 1;
        self.last_lsn
    }

    fn is_any_entombed(&self, append: &Append) -> bool {
        let mut txns = append.commits.iter().filter_map(|commit| commit.txn);
        txns.any(|txn| self.outcomes.is_entombed(txn))
    }

    /// Whether a refusal is all there is to be had: nothing becomes durable any more.
    fn read_only(&self) -> Option<Error> {
        self.failure.as_ref().map(|error| Error::ReadOnly {
            reason: error.to_string(),
        })
    }

    /// Whether the open group can grow by so many payload bytes and still fit in space that exists.
    fn has_room_for(&self, bytes: usize) -> bool {
        let grown = self.open.payload.len() + bytes;
        if self.open.records > 0 && grown > self.options.max_group_bytes {
            return false;
        }
        self.space.fits(grown)
    }

    fn needed_by_waiting(&self) -> u64 {
        let first = match self.waiting.front() {
            None => 0,
            Some(Waiting::Append(append)) => append_bytes(append),
            Some(Waiting::Decide(decide)) => decide::record_bytes(decide),
            Some(Waiting::Ring(request)) => ring::record_bytes(request),
        };
        (first as u64).max(self.open.payload.len() as u64)
    }

    fn spare_arrived(&mut self, now: Time, spare: Result<u64>, out: &mut Vec<JournalEffect>) {
        self.space.arrived(spare);
        self.admit_waiting(now, out);
        self.cut(out);
    }

    fn admit_waiting(&mut self, now: Time, out: &mut Vec<JournalEffect>) {
        while let Some(waiting) = self.waiting.pop_front() {
            if let Some(waiting) = self.try_admit(now, waiting, out) {
                self.waiting.push_front(waiting);
                break;
            }
        }
    }

    fn cut(&mut self, out: &mut Vec<JournalEffect>) {
        if self.open.records == 0 || self.failure.is_some() {
            return;
        }
        if let Err(wanted) = self.space.take(self.open.payload.len()) {
            return ask_for(wanted, out);
        }
        let head_start = self.open.payload.len().min(LARGEST_HEAD_START);
        let open = std::mem::take(&mut self.open);
        self.open.payload = Vec::with_capacity(head_start);
        self.last_group = self.last_group.next();
        let lone = open.records == 1 && self.previous_records <= 1 && self.in_flight.is_empty();
        self.in_flight.push_back(InFlight {
            last: self.last_lsn,
            payload: open.payload.len(),
        });
        out.push(JournalEffect::Write(GroupWrite {
            number: self.last_group,
            first: open.first,
            last: self.last_lsn,
            payload: open.payload,
            records: open.records,
            force: self.options.force,
            lone,
        }));
        self.previous_records = open.records;
    }

    fn persisted(
        &mut self,
        now: Time,
        last: Lsn,
        room: u64,
        spare: Option<u64>,
        out: &mut Vec<JournalEffect>,
    ) {
        let written = self.in_flight.iter().position(|group| group.last == last);
        let written = written.expect("the I/O thread answers for groups that are on their way");
        self.in_flight.drain(..=written);
        self.persisted = last;
        let on_their_way = self.in_flight.iter().map(|group| group.payload);
        self.space.report(room, spare, on_their_way);
        let wanted = self.space.refill(self.needed_by_waiting());
        ask_for(wanted, out);
        self.admit_waiting(now, out);
        self.cut(out);
        self.advance(out);
    }

    fn fail(&mut self, error: &Error, out: &mut Vec<JournalEffect>) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(error.clone());
        self.changes.clear();
        for waiting in std::mem::take(&mut self.waiting) {
            let error = Error::ReadOnly {
                reason: error.to_string(),
            };
            match waiting {
                Waiting::Append(append) if !self.is_void(&append) => {
                    self.refuse(&append, error, out);
                }
                Waiting::Append(_) => {}
                Waiting::Decide(decide) => decide::answer(decide.txn, Verdict::Refused(error), out),
                Waiting::Ring(RingRequest { request, .. }) => {
                    out.push(JournalEffect::RingAnswer(request, Err(error)));
                }
            }
        }
        self.tell_waiters_unknown(error, out);
        self.tell_ring_unknown(error, out);
        for answer in std::mem::take(&mut self.keyspace_answers) {
            let KeyspaceAnswer { request, id, .. } = answer;
            // A creation that may not last must not be found by who asks again.
            self.keyspaces.install_drop(id);
            let error = Error::Unknown {
                reason: error.to_string(),
            };
            out.push(JournalEffect::Answer(request, Err(error)));
        }
        for (node, incarnation, _) in std::mem::take(&mut self.fences) {
            out.push(JournalEffect::Fenced(node, incarnation, self.visible));
        }
        out.push(JournalEffect::ReadOnly(error.clone()));
    }

    /// Appends a record of the journal's own. These are few and small, so they may exceed a group's bound.
    fn append_record(&mut self, body: RecordBody) -> Lsn {
        let lsn = self.give_lsn();
        record::encode(&Record { lsn, body }, &mut self.open.payload);
        lsn
    }
}

fn append_bytes(append: &Append) -> usize {
    let commits = append.commits.iter();
    let bytes = commits.map(|commit| match commit.txn {
        None => record::commit_bytes_bound(&commit.writes),
        Some(_) => record::transaction_bytes_bound(None, std::iter::once(&commit.writes[..])),
    });
    bytes.sum()
}

fn ask_for(wanted: Option<SpareWanted>, out: &mut Vec<JournalEffect>) {
    if let Some(SpareWanted(at_least)) = wanted {
        out.push(JournalEffect::PrepareSpare { at_least });
    }
}

#[cfg(test)]
mod tests;

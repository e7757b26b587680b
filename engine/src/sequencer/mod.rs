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
//! - LSNs are given once, in order, without gaps; a group is one frame, and frames of a directory are written in order.
//! - `visible ≤ persisted`, and everything up to `visible` is installed on every node that is not Down.
//! - An [`Append`] is accepted or refused as a whole. What a node staged on top of a refused one is refused with it:
//!   the node counts its refusals (`chain`), and a batch of a refused chain is refused until the node has heard of it.
//! - What is accepted fits in space that exists: a full disk is found before an LSN is given.
//! - After a failed write or force nothing is accepted any more, and nothing becomes visible any more.
//!
//! Where nodes live in several directories, each has an open group, a queue and a thread of its own; see `lines.rs`.
//!
//! A transaction of several nodes is one more thing that ends in the open group: one record with a part for each node;
//! see `decide.rs`. So is a change of the ring, which moves arcs from one node to another at its LSN; see `ring.rs`.

mod catalogue;
mod decide;
pub mod io;
mod lines;
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
    directories::{DirectorySet, Placement},
    error::{Error, Result},
    ids::{DirectoryNo, GroupNo, Incarnation, Lsn, NodeId, Time},
    journal::record::{self, Record, RecordBody, TxnTag},
    keyspaces::Keyspaces,
    outcomes::Outcomes,
    ring_state::RingState,
    transaction::{Decide, Verdict},
};
use catalogue::KeyspaceAnswer;
use decide::Waiter;
use lines::Lines;
use locks::LockLives;
use ring::RingInMotion;
use space::SpareWanted;
use std::{collections::VecDeque, sync::Arc};

/// What the sequencer starts from: a new directory's zeros, or what recovery found.
#[derive(Debug, Clone)]
pub struct SequencerState {
    /// The last LSN of the journal.
    pub last_lsn: Lsn,
    /// The journal of each directory.
    pub journals: Vec<JournalState>,
    /// In which directory each node lives.
    pub placement: Placement,
    /// The lives of the nodes by number, of those that were removed too.
    pub incarnations: Vec<Incarnation>,
    /// The catalogue of keyspaces.
    pub keyspaces: Keyspaces,
    /// What became of transactions, and which opening this is.
    pub outcomes: Outcomes,
    /// The nodes and the ring.
    pub ring: RingState,
}

/// Where the sequencer goes on in the journal of a directory.
#[derive(Debug, Clone, Copy)]
pub struct JournalState {
    /// Its last group.
    pub last_group: GroupNo,
    /// Payload bytes that fit into its active segment.
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
    lines: Lines,
    persisted: Lsn,
    visible: Lsn,
    nodes: Vec<NodeProgress>,
    waiting: VecDeque<Waiting>,
    /// The directories in which somebody waits, a bit each.
    waiting_in: u64,
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
    /// Panics if there is not one life for each node and one journal for each directory.
    #[must_use]
    pub fn new(options: SequencerOptions, state: SequencerState) -> Self {
        let (lives, nodes) = (state.incarnations.len(), state.ring.slots().len());
        assert_eq!(lives, nodes, "a life for each node");
        Self {
            options,
            last_lsn: state.last_lsn,
            lines: Lines::new(&state.journals, state.placement, options),
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
            waiting: VecDeque::new(),
            waiting_in: 0,
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
            JournalMessage::Persisted {
                directory,
                last,
                room,
                spare,
            } => self.persisted(now, directory, last, (room, spare), out),
            JournalMessage::Failed(error) => self.fail(&error, out),
            JournalMessage::Spare(directory, spare) => {
                self.spare_arrived(now, directory, spare, out);
            }
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
            JournalMessage::Place(placement) => self.place(placement),
            JournalMessage::RingPublished { epoch } => self.ring_published(epoch, out),
        }
    }

    /// Asks again for a spare segment that could not be had, and refuses what has waited past its deadline.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<JournalEffect>) {
        self.outcomes.expire(now, self.visible);
        if self.failure.is_some() {
            return;
        }
        for directory in self.lines.numbers() {
            let needed = self.needed_by_waiting(directory);
            let wanted = self.lines.of(directory).space.retry(needed);
            ask_for(directory, wanted, out);
        }
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
        let directories = self.directories_of(&waiting);
        let left = if directories.meets(self.waiting_in) {
            Some(waiting)
        } else {
            self.try_admit(now, waiting, out)
        };
        if let Some(waiting) = left {
            self.waiting_in |= directories.bits();
            self.waiting.push_back(waiting);
        }
    }

    /// Where something will be written.
    fn directories_of(&self, waiting: &Waiting) -> DirectorySet {
        match waiting {
            Waiting::Append(append) => self.directory_of(append.node),
            Waiting::Decide(decide) => self.directories_of_parts(decide),
            Waiting::Ring(_) => DirectorySet::of(DirectoryNo::HOME),
        }
    }

    fn directory_of(&self, node: NodeId) -> DirectorySet {
        DirectorySet::of(self.lines.placement.of(node))
    }

    /// Somebody who has waited was taken out of the line.
    fn waiting_changed(&mut self) {
        let waiting = self.waiting.iter();
        let bits = waiting.map(|waiting| self.directories_of(waiting).bits());
        self.waiting_in = bits.fold(0, |all, bits| all | bits);
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
        let directories = self.directory_of(append.node);
        match self.make_room(directories, append_bytes(&append), out) {
            Ok(true) => {
                self.admit(append, out);
                None
            }
            Ok(false) => Some(append),
            Err(error) => {
                self.refuse(&append, error, out);
                None
            }
        }
    }

    /// Whether there is room for so many bytes in all of these directories. If not, does what helps; fails if nothing will
    /// come.
    fn make_room(
        &mut self,
        directories: DirectorySet,
        bytes: usize,
        out: &mut Vec<JournalEffect>,
    ) -> Result<bool> {
        if self.lines.have_room_for(directories, bytes) {
            return Ok(true);
        }
        let (lacking, bytes) = self.lines.without_room_for(directories, bytes);
        for directory in lacking {
            let line = self.lines.of(directory);
            let is_idle = line.is_idle();
            let wanted = line.space.make_room(bytes as u64, is_idle)?;
            ask_for(directory, wanted, out);
        }
        Ok(false)
    }

    fn admit(&mut self, append: Append, out: &mut Vec<JournalEffect>) {
        let first = self.last_lsn.next();
        let directories = self.directory_of(append.node);
        for commit in &append.commits {
            let lsn = self.last_lsn.next();
            let (node, life, writes) = (append.node, append.incarnation, &commit.writes);
            self.append(directories, |payload, _, _| match commit.txn {
                None => record::encode_commit(payload, lsn, node, life, writes),
                Some(id) => {
                    let part = (node, life, &writes[..]);
                    record::encode_transaction(payload, lsn, id, None, std::iter::once(part));
                }
            });
            if let Some(id) = commit.txn {
                let idempotency = None;
                let tag = TxnTag { id, idempotency };
                self.outcomes.commit(lsn, tag, commit.deadline);
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

    /// Gives the next LSN to a record, whose parts `encode` appends, each to that of `directories` in which it is.
    fn append(
        &mut self,
        directories: DirectorySet,
        encode: impl Fn(&mut Vec<u8>, DirectoryNo, &Placement),
    ) {
        let lsn = self.last_lsn.next();
        self.lines.append(lsn, directories, self.persisted, encode);
        self.last_lsn = lsn;
    }

    fn is_any_entombed(&self, append: &Append) -> bool {
        let mut txns = append.commits.iter().filter_map(|commit| commit.txn);
        txns.any(|txn| self.outcomes.is_entombed(txn))
    }

    /// Whether a refusal is all there is to be had: nothing becomes durable any more.
    fn read_only(&self) -> Option<Error> {
        self.failure.as_ref().map(|error| error.as_read_only())
    }

    /// What the largest group needs that will have to fit into the next segment of a directory.
    fn needed_by_waiting(&mut self, directory: DirectoryNo) -> u64 {
        let mut waiting = self.waiting.iter();
        let first = waiting.find(|waiting| self.directories_of(waiting).contains(directory));
        let first = match first {
            None => 0,
            Some(Waiting::Append(append)) => append_bytes(append),
            Some(Waiting::Decide(decide)) => decide::record_bytes(decide),
            Some(Waiting::Ring(request)) => ring::record_bytes(request),
        };
        let open = self.lines.of(directory).open.payload.len();
        (first as u64).max(open as u64)
    }

    fn spare_arrived(
        &mut self,
        now: Time,
        directory: DirectoryNo,
        spare: Result<u64>,
        out: &mut Vec<JournalEffect>,
    ) {
        self.lines.of(directory).space.arrived(spare);
        self.admit_waiting(now, out);
        self.cut(out);
    }

    /// Admits what has waited, as far as there is room. Nothing overtakes what waits for room in the same directory.
    fn admit_waiting(&mut self, now: Time, out: &mut Vec<JournalEffect>) {
        let all = self.lines.all_bits();
        let mut blocked = 0;
        let mut left = Vec::new();
        while blocked != all
            && let Some(waiting) = self.waiting.pop_front()
        {
            let directories = self.directories_of(&waiting);
            let still_waits = if directories.meets(blocked) {
                Some(waiting)
            } else {
                self.try_admit(now, waiting, out)
            };
            if let Some(waiting) = still_waits {
                blocked |= directories.bits();
                left.push(waiting);
            }
        }
        for waiting in left.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
        self.waiting_in = blocked;
    }

    fn cut(&mut self, out: &mut Vec<JournalEffect>) {
        let open = self.lines.open();
        if open == 0 || self.failure.is_some() {
            return;
        }
        // Who forces in place keeps everything else waiting: of several directories that is no one's to do.
        let is_alone = self.lines.is_one() && self.lines.is_nothing_in_flight();
        for directory in self.lines.numbers() {
            let line = self.lines.of(directory);
            if line.open.records == 0 {
                continue;
            }
            if let Err(wanted) = line.space.take(line.open.payload.len()) {
                ask_for(directory, wanted, out);
                continue;
            }
            let lone = is_alone && line.open.records == 1 && line.previous_records <= 1;
            let (group, last) = line.close();
            out.push(JournalEffect::Write(GroupWrite {
                directory,
                number: line.last_group,
                first: group.first,
                last,
                payload: group.payload,
                records: group.records,
                force: self.options.force,
                lone,
            }));
        }
    }

    fn persisted(
        &mut self,
        now: Time,
        directory: DirectoryNo,
        last: Lsn,
        (room, spare): (u64, Option<u64>),
        out: &mut Vec<JournalEffect>,
    ) {
        self.lines.of(directory).persisted(last);
        self.persisted = self.lines.persisted(self.last_lsn);
        let needed = self.needed_by_waiting(directory);
        let line = self.lines.of(directory);
        let on_their_way = line.in_flight.iter().map(|group| group.payload);
        line.space.report(room, spare, on_their_way);
        let wanted = line.space.refill(needed);
        ask_for(directory, wanted, out);
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
        self.waiting_in = 0;
        for waiting in std::mem::take(&mut self.waiting) {
            let error = error.as_read_only();
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
        let lsn = self.last_lsn.next();
        let record = Record { lsn, body };
        let home = DirectorySet::of(DirectoryNo::HOME);
        self.append(home, |payload, _, _| record::encode(&record, payload));
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

fn ask_for(directory: DirectoryNo, wanted: Option<SpareWanted>, out: &mut Vec<JournalEffect>) {
    if let Some(SpareWanted(at_least)) = wanted {
        out.push(JournalEffect::PrepareSpare {
            directory,
            at_least,
        });
    }
}

#[cfg(test)]
mod tests;

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
//! Left out: commits of several nodes. Their decision is one more message that ends in the same open group, and the
//! record already has a part for each node.

use crate::{
    checkpoint::Catalogue,
    error::{Error, Result},
    ids::{GroupNo, Incarnation, KeyspaceId, Lsn, NodeId, RequestId, Time},
    journal::{
        frame_bytes,
        record::{self, Record, RecordBody},
    },
    keyspaces::Keyspaces,
    value::Write,
};
use std::{collections::VecDeque, sync::Arc};

/// The writes of one commit, shared by the node that staged them, the journal and the watchers.
pub type Writes = Arc<[Write]>;

/// What arrives at the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalMessage {
    /// From a node, when its mailbox round ends: commits in the order in which they were staged. Answered by
    /// [`Resolve`]. Never repeated; if the node dies meanwhile, its [`JournalMessage::Fence`] settles it.
    Append(Append),
    /// From the journal's own shell at the end of a mailbox round: send the open group on its way.
    Cut,
    /// From the I/O thread: all groups up to the one that ends at `last` are written, and forced if that was asked.
    Persisted {
        /// The last LSN of the last group.
        last: Lsn,
        /// Payload bytes that still fit into the active segment.
        room: u64,
        /// Payload bytes that fit into the spare segment, if there is one.
        spare: Option<u64>,
    },
    /// From the I/O thread: a write or force failed. The engine is read-only from here on.
    Failed(Error),
    /// From the segment thread: a spare segment with room for a group of this payload is ready, or could not be had.
    Spare(Result<u64>),
    /// From a node: everything up to `through` that concerns it is installed.
    Installed {
        /// The node.
        node: NodeId,
        /// Its life; an earlier life's report is ignored.
        incarnation: Incarnation,
        /// The last LSN covered.
        through: Lsn,
    },
    /// From a restarted node: refuse what its earlier lives still send, and say what was accepted of them.
    Fence {
        /// The node.
        node: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
    /// From the supervisor: the node will not come back. It no longer holds back the visible LSN; its keys answer
    /// `NodeDown` before this message is sent.
    Down {
        /// The node.
        node: NodeId,
    },
    /// From the checkpointer: draw a line behind the last assigned LSN. Every node freezes there.
    Mark,
    /// From a handle: create a keyspace, or find it.
    CreateKeyspace {
        /// Whom to answer.
        request: RequestId,
        /// The name.
        name: String,
    },
    /// From a handle: drop a keyspace.
    DropKeyspace {
        /// Whom to answer.
        request: RequestId,
        /// The name.
        name: String,
    },
    /// From the shell: whether anybody watches changes.
    Watch(bool),
}

/// Commits of one node on their way into the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// How many refusals the node had seen when it staged these.
    pub chain: u64,
    /// The commits, in order.
    pub commits: Vec<StagedCommit>,
}

/// One commit of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedCommit {
    /// When the caller stops waiting: a commit that could not be admitted by then is refused.
    pub deadline: Time,
    /// What it writes.
    pub writes: Writes,
}

/// The journal's answer to an [`Append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    /// The life of the node that is answered.
    pub incarnation: Incarnation,
    /// The chain of the answered batch.
    pub chain: u64,
    /// How many commits the batch had.
    pub commits: usize,
    /// The LSN of the first (the others follow it without a gap), or why all are refused.
    pub outcome: Result<Lsn>,
}

/// What the sequencer wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum JournalEffect {
    /// Write this group behind those before it; then answer [`JournalMessage::Persisted`], once for as many groups as
    /// one force has made durable, or [`JournalMessage::Failed`].
    Write(GroupWrite),
    /// Prepare a spare segment that holds a group of this many payload bytes; answer [`JournalMessage::Spare`].
    PrepareSpare {
        /// Payload bytes of the largest group it must hold.
        at_least: u64,
    },
    /// Send to a node.
    Resolve(NodeId, Resolve),
    /// Send to a node: freeze the generation, everything up to this LSN is in it.
    Freeze(NodeId, Lsn),
    /// Send to a node: nothing of earlier lives comes any more, and all they had accepted is at most this LSN.
    Fenced(NodeId, Incarnation, Lsn),
    /// Publish the visible LSN, then tell these nodes.
    Visible(Lsn, Vec<NodeId>),
    /// Tell the watchers, in this order; the changes are visible.
    Changes(Vec<Change>),
    /// Tell the checkpointer: everything up to the mark is visible and every node was told to freeze.
    MarkReached(Lsn, Catalogue),
    /// Answer a request about keyspaces.
    Answer(RequestId, Result<KeyspaceId>),
    /// The engine turned read-only.
    ReadOnly(Error),
}

/// A committed change as watchers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its commit timestamp.
    pub lsn: Lsn,
    /// What it wrote.
    pub writes: Writes,
}

/// A group on its way to the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct GroupWrite {
    /// Its number.
    pub number: GroupNo,
    /// Its first LSN.
    pub first: Lsn,
    /// Its last LSN.
    pub last: Lsn,
    /// Records, back to back.
    pub payload: Vec<u8>,
    /// How many records.
    pub records: usize,
    /// Whether [`JournalMessage::Persisted`] may only be sent after a force.
    pub force: bool,
    /// Nobody else is writing: forcing in place saves two wake-ups.
    pub lone: bool,
}

/// What the sequencer starts from: a new directory's zeros, or what recovery found.
#[derive(Debug, Clone)]
pub struct SequencerState {
    /// The last LSN of the journal.
    pub last_lsn: Lsn,
    /// The last group of the journal.
    pub last_group: GroupNo,
    /// The lives of the nodes, by node number.
    pub incarnations: Vec<Incarnation>,
    /// The catalogue of keyspaces.
    pub keyspaces: Keyspaces,
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
    down: bool,
}

#[derive(Debug, Default)]
struct OpenGroup {
    payload: Vec<u8>,
    first: Lsn,
    records: usize,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    last: Lsn,
    payload: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// Asked for and not there yet.
    Requested,
    /// Ready, with room for a group of this payload.
    Ready(u64),
    /// Could not be had; asked for again at the next timeout.
    Failed,
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
    waiting: VecDeque<Append>,
    room: u64,
    spare: Spare,
    space_error: Option<Error>,
    failure: Option<Error>,
    /// Marks not yet visible.
    marks: VecDeque<(Lsn, Catalogue)>,
    fences: VecDeque<(NodeId, Incarnation, Lsn)>,
    keyspaces: Keyspaces,
    keyspace_answers: VecDeque<(Lsn, RequestId, KeyspaceId)>,
    watched: bool,
    changes: VecDeque<Change>,
}

impl Sequencer {
    /// A sequencer that goes on from `state`, everything of which is durable and installed.
    /// The first spare segment is asked for with the first message.
    #[must_use]
    pub fn new(options: SequencerOptions, state: SequencerState) -> Self {
        Self {
            options,
            last_lsn: state.last_lsn,
            last_group: state.last_group,
            persisted: state.last_lsn,
            visible: state.last_lsn,
            nodes: state
                .incarnations
                .into_iter()
                .map(|incarnation| NodeProgress {
                    incarnation,
                    refused_chain: None,
                    assigned: state.last_lsn,
                    installed: state.last_lsn,
                    down: false,
                })
                .collect(),
            open: OpenGroup::default(),
            in_flight: VecDeque::new(),
            previous_records: 0,
            waiting: VecDeque::new(),
            room: state.room,
            spare: Spare::Failed,
            space_error: None,
            failure: None,
            marks: VecDeque::new(),
            fences: VecDeque::new(),
            keyspaces: state.keyspaces,
            keyspace_answers: VecDeque::new(),
            watched: false,
            changes: VecDeque::new(),
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

    /// The keyspaces and the lives of the nodes as of the last LSN given.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        Catalogue {
            keyspaces: self.keyspaces.clone(),
            incarnations: self.nodes.iter().map(|node| node.incarnation).collect(),
        }
    }

    /// Takes one message.
    pub fn handle(&mut self, now: Time, message: JournalMessage, out: &mut Vec<JournalEffect>) {
        match message {
            JournalMessage::Append(append) => self.append(now, append, out),
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
            JournalMessage::Down { node } => {
                self.nodes[usize::from(node.0)].down = true;
                self.advance(out);
            }
            JournalMessage::Mark => self.mark(out),
            JournalMessage::CreateKeyspace { request, name } => {
                self.create_keyspace(request, &name, out);
            }
            JournalMessage::DropKeyspace { request, name } => {
                self.drop_keyspace(request, &name, out);
            }
            JournalMessage::Watch(on) => self.watched = on,
        }
    }

    /// Asks again for a spare segment that could not be had, and refuses what has waited past its deadline.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<JournalEffect>) {
        if self.failure.is_some() {
            return;
        }
        if self.spare == Spare::Failed {
            self.request_spare(self.needed_by_waiting(), out);
        }
        for append in std::mem::take(&mut self.waiting) {
            if append.commits.iter().all(|commit| commit.deadline > now) {
                self.waiting.push_back(append);
            } else if !self.is_void(&append) {
                self.refuse(&append, Error::DeadlineExceeded, out);
            }
        }
        // What was refused may have stood before something that fits.
        self.admit_waiting(now, out);
        self.cut(out);
    }

    /// Whether a batch gets no answer: its node has died, or will have given it up when it hears of an earlier refusal.
    /// A chain is refused once only: a second refusal could reach a node that has restarted and counts from zero.
    fn is_void(&self, append: &Append) -> bool {
        let node = &self.nodes[usize::from(append.node.0)];
        append.incarnation < node.incarnation
            || node
                .refused_chain
                .is_some_and(|chain| append.chain <= chain)
    }

    fn append(&mut self, now: Time, append: Append, out: &mut Vec<JournalEffect>) {
        if self.waiting.is_empty() {
            if let Some(append) = self.try_admit(now, append, out) {
                self.waiting.push_back(append);
            }
        } else {
            self.waiting.push_back(append);
        }
    }

    /// Admits or refuses a batch; gives it back if it has to wait for room.
    fn try_admit(
        &mut self,
        now: Time,
        append: Append,
        out: &mut Vec<JournalEffect>,
    ) -> Option<Append> {
        if self.is_void(&append) {
            return None;
        }
        if let Some(error) = &self.failure {
            let error = Error::ReadOnly {
                reason: error.to_string(),
            };
            self.refuse(&append, error, out);
            return None;
        }
        if append.commits.iter().any(|commit| commit.deadline <= now) {
            self.refuse(&append, Error::DeadlineExceeded, out);
            return None;
        }
        let bytes: usize = append
            .commits
            .iter()
            .map(|commit| record::commit_bytes_bound(&commit.writes))
            .sum();
        if !self.has_room_for(bytes) {
            let is_idle = self.open.records == 0 && self.in_flight.is_empty();
            match self.spare {
                Spare::Failed => {
                    if let (true, Some(error)) = (is_idle, self.space_error.clone()) {
                        self.refuse(&append, error, out);
                        return None;
                    }
                    self.request_spare(bytes as u64, out);
                }
                // A spare that is too small gives way to a larger one: nothing else will wake what waits.
                Spare::Ready(_) if is_idle => self.request_spare(bytes as u64, out),
                Spare::Ready(_) | Spare::Requested => {}
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
            record::encode_commit(
                &mut self.open.payload,
                lsn,
                append.node,
                append.incarnation,
                &commit.writes,
            );
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

    /// Whether the open group can grow by so many payload bytes and still fit in space that exists.
    fn has_room_for(&self, bytes: usize) -> bool {
        /// Kept free for the journal's own records (fences, keyspaces), which are few and small.
        const RESERVE_BYTES: usize = 16 * 1024;
        let grown = self.open.payload.len() + bytes;
        if self.open.records > 0 && grown > self.options.max_group_bytes {
            return false;
        }
        let spare = match self.spare {
            Spare::Ready(spare) => spare,
            Spare::Requested | Spare::Failed => 0,
        };
        (grown + RESERVE_BYTES) as u64 <= self.room.max(spare)
    }

    fn needed_by_waiting(&self) -> u64 {
        let first = self.waiting.front().map_or(0, |append| {
            append
                .commits
                .iter()
                .map(|commit| record::commit_bytes_bound(&commit.writes) as u64)
                .sum()
        });
        first.max(self.open.payload.len() as u64)
    }

    fn request_spare(&mut self, payload: u64, out: &mut Vec<JournalEffect>) {
        self.spare = Spare::Requested;
        out.push(JournalEffect::PrepareSpare {
            at_least: (payload + 32 * 1024).max(self.options.segment_bytes),
        });
    }

    fn spare_arrived(&mut self, now: Time, spare: Result<u64>, out: &mut Vec<JournalEffect>) {
        match spare {
            Ok(payload) => {
                self.spare = Spare::Ready(payload);
                self.space_error = None;
            }
            Err(error) => {
                self.spare = Spare::Failed;
                self.space_error = Some(error);
            }
        }
        self.admit_waiting(now, out);
        self.cut(out);
    }

    fn admit_waiting(&mut self, now: Time, out: &mut Vec<JournalEffect>) {
        while let Some(append) = self.waiting.pop_front() {
            if let Some(append) = self.try_admit(now, append, out) {
                self.waiting.push_front(append);
                break;
            }
        }
    }

    fn cut(&mut self, out: &mut Vec<JournalEffect>) {
        if self.open.records == 0 || self.failure.is_some() {
            return;
        }
        let frame = frame_bytes(self.open.payload.len());
        let payload = self.open.payload.len() as u64;
        if payload <= self.room {
            self.room = self.room.saturating_sub(frame);
        } else {
            match self.spare {
                Spare::Ready(spare) if payload <= spare => {
                    self.room = spare.saturating_sub(frame);
                    self.spare = Spare::Failed;
                }
                // The spare that was reported when the group was admitted was the one that the group before it was
                // about to take, or the journal's own records have used up the reserve. The group waits for the next.
                Spare::Ready(_) => return self.request_spare(payload, out),
                Spare::Failed if self.space_error.is_none() => {
                    return self.request_spare(payload, out);
                }
                // Asked for already, or asked for again at the next timeout.
                Spare::Failed | Spare::Requested => return,
            }
        }
        let open = std::mem::take(&mut self.open);
        self.last_group = self.last_group.next();
        let lone = open.records == 1 && self.previous_records <= 1 && self.in_flight.is_empty();
        self.in_flight.push_back(InFlight {
            last: self.last_lsn,
            payload,
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
        self.count_space(room, spare);
        if self.spare == Spare::Failed && self.space_error.is_none() {
            self.request_spare(self.needed_by_waiting(), out);
        }
        self.admit_waiting(now, out);
        self.cut(out);
        self.advance(out);
    }

    /// Takes over what the I/O thread has seen, less what the groups still on their way will use of it.
    fn count_space(&mut self, room: u64, spare: Option<u64>) {
        self.room = room;
        let mut spare = spare;
        for group in &self.in_flight {
            let space = if group.payload <= self.room {
                self.room
            } else {
                spare.take().unwrap_or(0)
            };
            self.room = space.saturating_sub(frame_bytes(group.payload as usize));
        }
        self.spare = match (spare, self.spare) {
            // Whoever was asked has not answered yet. Counting the spare now would count it twice.
            (_, Spare::Requested) => Spare::Requested,
            (Some(spare), Spare::Ready(_) | Spare::Failed) => Spare::Ready(spare),
            (None, Spare::Ready(_) | Spare::Failed) => Spare::Failed,
        };
    }

    fn fail(&mut self, error: &Error, out: &mut Vec<JournalEffect>) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(error.clone());
        self.changes.clear();
        for append in std::mem::take(&mut self.waiting) {
            let error = Error::ReadOnly {
                reason: error.to_string(),
            };
            if !self.is_void(&append) {
                self.refuse(&append, error, out);
            }
        }
        for (_, request, id) in std::mem::take(&mut self.keyspace_answers) {
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

    fn installed(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        through: Lsn,
        out: &mut Vec<JournalEffect>,
    ) {
        let progress = &mut self.nodes[usize::from(node.0)];
        if incarnation == progress.incarnation {
            assert!(
                through <= self.last_lsn,
                "node {node} installed LSN {through}, which was never given"
            );
            progress.installed = progress.installed.max(through);
            self.advance(out);
        }
    }

    fn fence(&mut self, node: NodeId, incarnation: Incarnation, out: &mut Vec<JournalEffect>) {
        let progress = &mut self.nodes[usize::from(node.0)];
        if incarnation <= progress.incarnation {
            return;
        }
        progress.incarnation = incarnation;
        progress.refused_chain = None;
        self.waiting.retain(|append| append.node != node);
        if self.failure.is_some() {
            // Nothing new is made durable; the node serves what was visible.
            out.push(JournalEffect::Fenced(node, incarnation, self.visible));
            return;
        }
        let lsn = self.append_record(RecordBody::Fence { node, incarnation });
        self.nodes[usize::from(node.0)].assigned = lsn;
        self.fences.push_back((node, incarnation, lsn));
        self.cut(out);
    }

    /// Appends a record of the journal's own. These are few and small, so they may exceed a group's bound.
    fn append_record(&mut self, body: RecordBody) -> Lsn {
        let lsn = self.give_lsn();
        record::encode(&Record { lsn, body }, &mut self.open.payload);
        lsn
    }

    fn mark(&mut self, out: &mut Vec<JournalEffect>) {
        for node in 0..self.nodes.len() {
            let node = NodeId(u16::try_from(node).expect("node numbers fit"));
            out.push(JournalEffect::Freeze(node, self.last_lsn));
        }
        self.marks.push_back((self.last_lsn, self.catalogue()));
        self.advance(out);
    }

    fn create_keyspace(&mut self, request: RequestId, name: &str, out: &mut Vec<JournalEffect>) {
        if let Ok(id) = self.keyspaces.lookup(name) {
            let pending = self.keyspace_answers.iter().find(|(_, _, p)| *p == id);
            match pending.map(|(lsn, ..)| *lsn) {
                Some(lsn) => self.keyspace_answers.push_back((lsn, request, id)),
                None => out.push(JournalEffect::Answer(request, Ok(id))),
            }
            return;
        }
        let planned = self
            .writable()
            .and_then(|()| self.keyspaces.plan_create(name));
        match planned {
            Ok(id) => {
                self.keyspaces
                    .install_create(id, name)
                    .expect("what was planned can be installed");
                let lsn = self.append_record(RecordBody::CreateKeyspace {
                    id,
                    name: name.to_owned(),
                });
                self.keyspace_answers.push_back((lsn, request, id));
                self.cut(out);
            }
            Err(error) => out.push(JournalEffect::Answer(request, Err(error))),
        }
    }

    fn drop_keyspace(&mut self, request: RequestId, name: &str, out: &mut Vec<JournalEffect>) {
        match self.writable().and_then(|()| self.keyspaces.lookup(name)) {
            Ok(id) => {
                self.keyspaces.install_drop(id);
                let lsn = self.append_record(RecordBody::DropKeyspace { id });
                self.keyspace_answers.push_back((lsn, request, id));
                self.cut(out);
            }
            Err(error) => out.push(JournalEffect::Answer(request, Err(error))),
        }
    }

    fn writable(&self) -> Result<()> {
        /// Room kept for a record of the journal's own.
        const OWN_RECORD_BYTES: usize = 1024;
        match &self.failure {
            Some(error) => Err(Error::ReadOnly {
                reason: error.to_string(),
            }),
            None if self.has_room_for(OWN_RECORD_BYTES) => Ok(()),
            None => Err(self.space_error.clone().unwrap_or(Error::Overloaded {
                what: "the journal",
            })),
        }
    }

    /// Moves the visible LSN to the highest LSN up to which everything is persisted and installed.
    fn advance(&mut self, out: &mut Vec<JournalEffect>) {
        if self.failure.is_some() {
            return;
        }
        let mut reached = self.persisted;
        while let Some((node, incarnation, lsn)) = self.fences.front().copied() {
            if lsn > self.persisted {
                break;
            }
            self.fences.pop_front();
            out.push(JournalEffect::Fenced(node, incarnation, lsn));
        }
        for node in &self.nodes {
            if !node.down && node.installed < node.assigned {
                reached = reached.min(node.installed);
            }
        }
        if reached > self.visible {
            let before = self.visible;
            self.visible = reached;
            let concerned = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.assigned > before)
                .map(|(number, _)| NodeId(u16::try_from(number).expect("node numbers fit")))
                .collect();
            out.push(JournalEffect::Visible(reached, concerned));
            self.tell_of_visible(out);
        }
        while self
            .marks
            .front()
            .is_some_and(|(mark, _)| *mark <= self.visible)
        {
            let (mark, catalogue) = self.marks.pop_front().expect("it has a front");
            out.push(JournalEffect::MarkReached(mark, catalogue));
        }
    }

    fn tell_of_visible(&mut self, out: &mut Vec<JournalEffect>) {
        let visible = self.visible;
        let seen = self.changes.partition_point(|change| change.lsn <= visible);
        if seen > 0 {
            out.push(JournalEffect::Changes(self.changes.drain(..seen).collect()));
        }
        // A repeated creation waits behind the first with the same LSN, so the queue may be out of order by name only.
        let mut later = VecDeque::new();
        for (lsn, request, id) in std::mem::take(&mut self.keyspace_answers) {
            if lsn <= visible {
                out.push(JournalEffect::Answer(request, Ok(id)));
            } else {
                later.push_back((lsn, request, id));
            }
        }
        self.keyspace_answers = later;
    }
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;

//! What the journal is told, and what it wants done.

use crate::{
    checkpoint::Catalogue,
    directories::Placement,
    error::{Error, Result},
    ids::{
        DirectoryNo, Epoch, GroupNo, Incarnation, KeyspaceId, Lsn, NodeId, RequestId, Time, TxnId,
    },
    participant::Owners,
    ring_state::{RingRecord, RingState},
    transaction::{Ask, Decide, Decided, Settle, TxnOutcome, Writes},
};
use bytes::Bytes;
use std::sync::Arc;

/// What arrives at the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalMessage {
    /// From a node, when its mailbox round ends: commits in the order in which they were staged. Answered by
    /// [`Resolve`]. Never repeated; if the node dies meanwhile, its [`JournalMessage::Fence`] settles it.
    Append(Append),
    /// From a coordinator, everything of one of its mailbox rounds: these have all their votes. Each is answered once by
    /// [`JournalEffect::Decided`], or never if the engine goes down; a repeated one gets the first outcome.
    Decides(Vec<Decide>),
    /// From whoever is in doubt. What is not committed now never will be. Answered as the asker needs it, or, if the
    /// table of tombstones is full, by nothing: ask again.
    Asks(Vec<Ask>),
    /// From a handle, before it runs a transaction with an idempotency key: was one committed already? Answered by
    /// [`JournalEffect::Outcome`]. [`TxnOutcome::Aborted`] means "not yet"; should two run at once, the later decision
    /// gets the outcome of the earlier.
    FindKey {
        /// Whom to answer.
        request: RequestId,
        /// The idempotency key.
        key: Bytes,
    },
    /// From the journal's own shell at the end of a mailbox round: send the open group on its way.
    Cut,
    /// From the I/O thread: all groups up to the one that ends at `last` are written, and forced if that was asked.
    Persisted {
        /// The directory in which they are.
        directory: DirectoryNo,
        /// The last LSN of the last group.
        last: Lsn,
        /// Payload bytes that still fit into the active segment.
        room: u64,
        /// Payload bytes that fit into the spare segment, if there is one.
        spare: Option<u64>,
    },
    /// From the I/O thread: a write or force failed. The engine is read-only from here on.
    Failed(Error),
    /// From the segment thread: a spare segment of a directory, with room for a group of this payload, is ready, or could
    /// not be had.
    Spare(DirectoryNo, Result<u64>),
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
    /// From the lock manager, after a panic: refuse what its earlier lives have voted for. Answered by
    /// [`JournalEffect::LockLifeKnown`] when what was accepted under their votes is visible. It may come twice.
    LockLife {
        /// Its new life.
        life: Incarnation,
    },
    /// From the mover: write this about the ring. Answered by [`JournalEffect::RingAnswer`]; if it was refused, nothing
    /// has changed.
    Ring(RingRequest),
    /// From a handle, before nodes are added: where they will live, which the manifest says already.
    Place(Placement),
    /// From the router: handles are routed by the ring of this epoch. May come twice.
    RingPublished {
        /// The epoch of the state that [`JournalEffect::PublishRing`] has brought.
        epoch: Epoch,
    },
}

/// A record about the ring that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingRequest {
    /// Whom to answer.
    pub request: RequestId,
    /// What to write.
    pub record: RingRecord,
    /// The lives on which it relies: refused if one of them is over. A [`RingRecord::Cut`] names its source's at least, unless
    /// that was down before its change began.
    pub lives: Vec<(NodeId, Incarnation)>,
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
    /// Whose outcome this is, if it is a transaction.
    pub txn: Option<TxnId>,
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
    /// Write this group behind those before it in its directory; then answer [`JournalMessage::Persisted`], once for as many groups as
    /// one force has made durable, or [`JournalMessage::Failed`].
    Write(GroupWrite),
    /// Prepare a spare segment that holds a group of this many payload bytes; answer [`JournalMessage::Spare`].
    PrepareSpare {
        /// The directory.
        directory: DirectoryNo,
        /// Payload bytes of the largest group it must hold.
        at_least: u64,
    },
    /// Send to a node.
    Resolve(NodeId, Resolve),
    /// Send to a node, in line with [`JournalEffect::Resolve`]: transactions that it has prepared have ended.
    Settle(NodeId, Vec<Settle>),
    /// Send to the coordinator of each transaction.
    Decided(Vec<Decided>),
    /// Tell the lock manager, which has asked: the transaction is visible, or aborted for ever.
    ResolveFence(TxnId),
    /// Tell the lock manager: this life is known, and nothing of its earlier ones comes any more.
    LockLifeKnown(Incarnation),
    /// Answer a handle that asked for an outcome.
    Outcome(RequestId, Result<TxnOutcome>),
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
    /// Send to a node, in line with [`JournalEffect::Resolve`]: it has lost or gained arcs.
    Owners(NodeId, Owners),
    /// Send to the router: publish this. Everything up to `lsn`, that of the state's last record, is forced and installed;
    /// of a [`RingRecord::Cut`] it is not visible before [`JournalMessage::RingPublished`] answers, of all others it is.
    PublishRing {
        /// The LSN of the record.
        lsn: Lsn,
        /// The ring as of this record.
        state: Arc<RingState>,
    },
    /// Answer a [`RingRequest`]: the record is visible at this LSN, and its state was published before.
    RingAnswer(RequestId, Result<Lsn>),
    /// Answer a request about keyspaces. A creation is noted among the open ones first
    /// ([`crate::open_keyspaces`]).
    Answer(RequestId, Result<KeyspaceId>),
    /// A drop is visible: nothing may begin in the keyspace any more, whether anybody waits for the answer or not.
    Dropped(KeyspaceId),
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
    /// The directory whose journal it is of.
    pub directory: DirectoryNo,
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

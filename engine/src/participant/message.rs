//! What a node is told, and what it wants done.

use crate::{
    error::{Error, Result},
    generation::Generation,
    ids::{Epoch, Incarnation, Lsn, NodeId, RequestId, Time, TxnId},
    ring::ArcSet,
    sequencer::{JournalMessage, Resolve},
    transaction::{Abort, Prepare, ReadSet, Settle, Vote, Writes},
    value::Value,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// What a caller asks of a node. Holds data only, so that it can travel to a node on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Write these keys together, at most one write a key.
    Write(Writes),
    /// Add to a counter; an absent or expired key counts as 0.
    Add {
        /// The qualified key.
        key: Bytes,
        /// What to add.
        delta: i64,
        /// The caller's wall clock in milliseconds since the Unix epoch, to tell whether a value has expired.
        now_ms: u64,
    },
    /// Replace the value if it is the expected one.
    CompareAndSet {
        /// The qualified key.
        key: Bytes,
        /// The expected value; `None` expects the key to be absent.
        expected: Option<Bytes>,
        /// The new value; `None` removes the key.
        new: Option<Value>,
        /// The caller's wall clock in milliseconds since the Unix epoch.
        now_ms: u64,
    },
    /// Commit a transaction that concerns this node alone. Needs no coordinator: it is validated here and now, and its
    /// reads hold until it has its LSN. Answered by [`Answer::Written`] or [`Error::Conflict`].
    Transact {
        /// The transaction, under which its outcome is remembered.
        txn: TxnId,
        /// What it read.
        reads: Arc<ReadSet>,
        /// What it writes, at most one write a key.
        writes: Writes,
    },
}

/// How a node answers an [`Operation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The write is durable and visible at this LSN.
    Written(Lsn),
    /// The counter has this value since this LSN.
    Counter(Lsn, i64),
    /// The value was not the expected one but this.
    Mismatch(Option<Bytes>),
}

/// What arrives at a node.
#[derive(Debug, Clone)]
pub enum NodeMessage {
    /// From a handle. The caller may vanish; the request is carried out all the same.
    Request {
        /// Whom to answer.
        id: RequestId,
        /// When the caller stops waiting.
        deadline: Time,
        /// The version of the ring by which it was routed: refused as [`Error::Moved`] if the node has lost arcs since.
        epoch: Epoch,
        /// What to do.
        operation: Operation,
    },
    /// From the node's own shell at the end of a mailbox round: hand the batch to the journal.
    Flush,
    /// From the journal: the fate of the oldest unresolved batch.
    Resolve(Resolve),
    /// From the journal: everything up to here is visible.
    Visible(Lsn),
    /// From the journal, in line with the batches: freeze the generation; it holds everything up to this LSN.
    Freeze(Lsn),
    /// From the checkpointer: the tree holds everything up to `through`. The node takes the tree as it is by then, so this
    /// must come before the [`NodeMessage::Freeze`] of the next checkpoint, whose run the tree must not hold yet. (The mark
    /// is drawn when this is under way already, and a mailbox keeps causes before effects.)
    ///
    /// Also from the router, to a node that has joined, with the LSN at which it did: nothing of it is older.
    Flushed {
        /// The tree's new complete LSN.
        through: Lsn,
    },
    /// From the journal: all that earlier lives had accepted is at most `through`.
    Fenced {
        /// The life that was announced.
        incarnation: Incarnation,
        /// The last LSN that can concern an earlier life.
        through: Lsn,
    },
    /// From the shell: the generation was rebuilt from the journal, from the tree's complete LSN to `through`.
    Rebuilt {
        /// The life that asked for it.
        incarnation: Incarnation,
        /// The last LSN replayed.
        through: Lsn,
        /// The versions, or why they can't be read back.
        generation: Result<Arc<Generation>>,
    },
    /// From the journal: nothing becomes durable any more.
    ReadOnly(Error),
    /// From a coordinator, everything of one of its mailbox rounds: validate, stage, hold, and vote at once. Answered by
    /// [`NodeEffect::Votes`]; if this or the answer is lost, the coordinator rolls back. May come twice.
    Prepares(Vec<Prepare>),
    /// From a coordinator: release. May come twice, or for what was never prepared.
    Aborts(Vec<Abort>),
    /// From the journal, in line with [`NodeMessage::Resolve`] and in the order of LSNs: install and release. May come
    /// twice; if it is lost with the life that was told, the journal's record replaces it.
    Settles(Vec<Settle>),
    /// From the supervisor: the node died too often.
    GoDown,
    /// From the mover: admit nothing more on these arcs. Answered by [`NodeEffect::HandedOver`] when what was admitted is
    /// installed, and what was prepared has ended; if the life ends, before or after, once more by the next one. Not
    /// answered by a node that is down or read-only. May come twice; a later attempt, or another change, takes the place of
    /// an earlier one.
    HandOver {
        /// The change of the ring.
        change: u64,
        /// Tells the answers of repeated attempts apart: what was admitted between two of them is behind the first.
        attempt: u64,
        /// The arcs of this node that leave.
        arcs: Arc<ArcSet>,
    },
    /// From the mover: the arcs of this change stay for now, go on with them. May come twice, or for what was never asked.
    KeepArcs {
        /// The change of the ring.
        change: u64,
    },
    /// From the journal, in line with [`NodeMessage::Resolve`] and [`NodeMessage::Settles`]: the node has lost or gained
    /// arcs. Answered by [`JournalMessage::Installed`] through its LSN. May come twice.
    Owners(Owners),
    /// From the mover: nothing of the arcs of this change that are not the node's own is left in the tree, which has passed the
    /// Cut of those that it has lost. The node shows the tree as it is now, as soon as that is not ahead of its view, and
    /// answers [`NodeEffect::Forgotten`]. May come twice.
    Forget {
        /// The change of the ring.
        change: u64,
    },
}

/// From the journal: which arcs a node owns has changed at an LSN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// The ring's epoch from then on; it is the node's ownership epoch now.
    pub epoch: Epoch,
    /// The LSN of the Cut.
    pub lsn: Lsn,
    /// The arcs that belong to others from this LSN on.
    pub lost: Arc<ArcSet>,
    /// Whether the node owns nothing any more.
    pub lost_all: bool,
    /// The arcs that belong to this node from this LSN on.
    pub gained: Arc<ArcSet>,
    /// Whether the node that has lost them is down: it may have died before it installed what the journal has of them, so the
    /// rows of these arcs in the cache are not worth anything.
    pub is_taken_over: bool,
    /// The life of the node that the journal knows. A later one takes it in too, but has its fence answer for it.
    pub incarnation: Incarnation,
}

/// What a node wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum NodeEffect {
    /// Send to the journal.
    Journal(JournalMessage),
    /// Answer a request.
    Answer(RequestId, Result<Answer>),
    /// Send to the coordinator of each transaction; all of them are of one [`NodeMessage::Prepares`].
    Votes(Vec<Vote>),
    /// Send [`NodeMessage::Flush`] to this node behind what is queued now.
    ScheduleFlush,
    /// Tell the checkpointer: the node froze at this LSN, or could not (it is recovering).
    Frozen {
        /// The mark.
        through: Lsn,
        /// Whether there is a frozen state to write.
        ready: bool,
    },
    /// Rebuild a generation from the journal, LSN `after` (excluded) to `through`, then send [`NodeMessage::Rebuilt`].
    Rebuild {
        /// The life that asks.
        incarnation: Incarnation,
        /// The tree's complete LSN.
        after: Lsn,
        /// The last LSN to replay.
        through: Lsn,
    },
    /// The node can't serve: its journal can't be read back.
    Broken(Error),
    /// Tell the mover: the view shows a tree as it was after [`NodeMessage::Forget`].
    Forgotten {
        /// The node.
        node: NodeId,
        /// The change.
        change: u64,
    },
    /// Tell the mover: nothing that this life has admitted on the arcs is under way any more.
    HandedOver {
        /// The node.
        node: NodeId,
        /// The change of the ring.
        change: u64,
        /// The attempt that is answered.
        attempt: u64,
        /// The life. If it ends before the Cut, that is refused, and the next one gives its own word: the journal may
        /// hold more of the old life than it had installed.
        incarnation: Incarnation,
        /// The last LSN at which this life has installed something.
        through: Lsn,
    },
}

/// What bounds a node.
#[derive(Debug, Clone, Copy)]
pub struct ParticipantOptions {
    /// Requests that wait while the node recovers.
    pub stashed: usize,
    /// Requests that wait behind transactions.
    pub parked: usize,
    /// Transactions that are prepared at one time.
    pub prepared: usize,
    /// Bytes that prepared transactions stage and hold.
    pub prepared_bytes: usize,
    /// Ranges that prepared transactions hold: each write is compared with each.
    pub prepared_ranges: usize,
    /// How long a key is kept free for a transaction that single-node commits have turned away: about the time of a
    /// force and of the caller's back-off.
    pub reservation: Duration,
    /// Keys that are kept free at one time.
    pub reserved: usize,
    /// How long to wait for the journal's word on a transaction before it is asked again.
    pub ask_again: Duration,
}

impl Default for ParticipantOptions {
    fn default() -> Self {
        Self {
            stashed: 1_024,
            parked: 4_096,
            prepared: 4_096,
            prepared_bytes: 64 << 20,
            prepared_ranges: 4_096,
            reservation: Duration::from_millis(20),
            reserved: 4_096,
            ask_again: Duration::from_millis(500),
        }
    }
}

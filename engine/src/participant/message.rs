//! What a node is told, and what it wants done.

use crate::{
    error::{Error, Result},
    generation::Generation,
    ids::{Incarnation, Lsn, RequestId, Time},
    sequencer::{JournalMessage, Resolve, Writes},
    value::Value,
};
use bytes::Bytes;
use std::sync::Arc;

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
    /// From the checkpointer: the tree holds everything up to `through`.
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
    /// From the supervisor: the node died too often.
    GoDown,
}

/// What a node wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum NodeEffect {
    /// Send to the journal.
    Journal(JournalMessage),
    /// Answer a request.
    Answer(RequestId, Result<Answer>),
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
}

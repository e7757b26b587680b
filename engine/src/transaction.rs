//! What travels between a transaction's coordinator, its participants and the journal.
//!
//! A transaction reads at a snapshot, buffers its writes, and commits in one exchange:
//!
//! ```text
//!  handle ── Commit ──▶ coordinator ── Prepares ──▶ each node: validate, stage the writes, hold the reads
//!                       coordinator ◀── Votes ───── each node
//!                       coordinator ── Decides ───▶ journal: one record with the next LSN in the open group
//!                                                   journal ── Settles ──▶ each node: install, release
//!  handle ◀── Answer ── coordinator ◀── Decided ─── journal, once the LSN is visible
//! ```
//!
//! A No, silence or a lost node before the decision is sent: coordinator ── Aborts ──▶ each node. Whoever is in doubt
//! asks the journal (`Ask`); what it does not know then can't commit any more. What is sent in one mailbox round to
//! one receiver is one message, since waking a thread costs more than the message.
//!
//! Everything is plain data, so that a participant may be on another machine one day.
//!
//! # Fences
//!
//! A transaction may carry fences: the name of a lock, and the token under which its writer held it when he last looked.
//! The lock manager is one more participant then, which writes nothing and votes on the tokens:
//!
//! ```text
//!                       coordinator ── PrepareFence ──▶ lock manager: is each token its holder's? keep those locks
//!                       coordinator ◀── FenceVotes ──── lock manager, with the life that votes
//!                       coordinator ── Decides ───────▶ journal: refused if that life is over
//!                       coordinator ── ResolveFence ──▶ lock manager, once the LSN is visible: hand the locks on
//! ```
//!
//! So a holder that was paused past its lease can't write behind the next one (Kleppmann, *How to do distributed
//! locking*, 2016; the tokens are Chubby's sequencers, Burrows 2006): its token is refused inside the commit, and what it
//! commits in time is visible before anybody else gets the lock.
//!
//! # Left out
//!
//! - A `Prepare` does not name the life of the node it expects. The vote names the life that voted, and the journal
//!   checks that one; which life the caller has read from does not matter, since the versions that it read are judged by
//!   their LSNs.
//! - An epoch for each arc: a vote counts for nothing once its node has gained or lost any arc, which is rare.

use crate::{
    error::Error,
    ids::{Epoch, Incarnation, Lsn, NodeId, RequestId, Time, TxnId},
    locks::FencingToken,
    value::Write,
};
use bytes::Bytes;
use std::{ops::Bound, sync::Arc, time::Duration};

/// The longest time from a transaction's beginning to its deadline.
pub const MAX_TRANSACTION_TIME: Duration = Duration::from_secs(60);
/// Most bytes of keys and values that a transaction may read by name and write (10 MiB).
pub const MAX_TRANSACTION_BYTES: usize = 10 * 1024 * 1024;
/// Most keys that a transaction may read by name and write.
pub const MAX_TRANSACTION_KEYS: usize = 100_000;
/// Most ranges that a transaction may read.
pub const MAX_TRANSACTION_RANGES: usize = 1_000;
/// Most fences that a transaction may carry.
pub const MAX_TRANSACTION_FENCES: usize = 16;
/// Longest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 256;

/// The writes of one commit, shared by the node that staged them, the journal and the watchers.
pub type Writes = Arc<[Write]>;

/// A range of qualified keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Where it begins.
    pub low: Bound<Bytes>,
    /// Where it ends.
    pub high: Bound<Bytes>,
}

impl KeyRange {
    /// Whether the key lies between the bounds.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        let above = match &self.low {
            Bound::Unbounded => true,
            Bound::Included(low) => key >= &low[..],
            Bound::Excluded(low) => key > &low[..],
        };
        above && self.is_below_end(key)
    }

    /// Whether the key lies before the end, wherever the range begins.
    #[must_use]
    pub fn is_below_end(&self, key: &[u8]) -> bool {
        match &self.high {
            Bound::Unbounded => true,
            Bound::Included(high) => key <= &high[..],
            Bound::Excluded(high) => key < &high[..],
        }
    }

    /// The lower bound, borrowed.
    #[must_use]
    pub fn low(&self) -> Bound<&[u8]> {
        self.low.as_ref().map(|key| &key[..])
    }

    /// The upper bound, borrowed.
    #[must_use]
    pub fn high(&self) -> Bound<&[u8]> {
        self.high.as_ref().map(|key| &key[..])
    }
}

/// What a transaction has read of one node, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadSet {
    /// The visible LSN at which everything here was read.
    pub snapshot: Lsn,
    /// Keys read by name, found or not.
    pub keys: Vec<Bytes>,
    /// Ranges scanned, as far as they were scanned.
    pub ranges: Vec<KeyRange>,
}

impl ReadSet {
    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }
}

/// From a handle to a coordinator: commit this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The transaction.
    pub txn: TxnId,
    /// Whom to answer.
    pub request: RequestId,
    /// When it is too late to decide for it; at most [`MAX_TRANSACTION_TIME`] after it began.
    pub deadline: Time,
    /// What it did on each node, one part a node.
    pub parts: Arc<[TxnPart]>,
    /// Under which tokens it writes; at most [`MAX_TRANSACTION_FENCES`].
    pub fences: Vec<Fence>,
    /// Under which key a repetition gets this one's outcome.
    pub idempotency: Option<Bytes>,
    /// The version of the ring by which its keys were routed.
    pub epoch: Epoch,
}

/// What a transaction did on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnPart {
    /// The node.
    pub node: NodeId,
    /// What it read there. Shared by the coordinator and the node.
    pub reads: Arc<ReadSet>,
    /// What it writes there, at most one write a key.
    pub writes: Writes,
}

/// A condition of a transaction: it may only commit while this token is that of the lock's holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The name of the lock.
    pub lock: Arc<str>,
    /// The token that the writer was given.
    pub token: FencingToken,
}

/// From the coordinator to a node: vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The transaction.
    pub txn: TxnId,
    /// When it is too late to decide for it.
    pub deadline: Time,
    /// What to validate, and to hold until the transaction is settled.
    pub reads: Arc<ReadSet>,
    /// What to stage.
    pub writes: Writes,
    /// The version of the ring by which its keys were routed: refused if the node has lost arcs since.
    pub epoch: Epoch,
}

/// From a node to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// The transaction.
    pub txn: TxnId,
    /// Who votes.
    pub node: NodeId,
    /// How.
    pub ballot: Ballot,
}

/// From the lock manager to the coordinator: its vote on all fences of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceVote {
    /// The transaction.
    pub txn: TxnId,
    /// How. The incarnation is the life of the lock manager.
    pub ballot: Ballot,
}

/// A participant's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ballot {
    /// Validated and staged; holds until it is told, or until it has asked.
    Yes {
        /// The life that promises this.
        incarnation: Incarnation,
        /// The node's ownership epoch under which it does ([`crate::ring_state::Slot::owned_since`]). Of the lock
        /// manager, which owns no arcs, it is 0 and means nothing.
        epoch: Epoch,
    },
    /// Nothing is staged or held. The error is for the caller.
    No(Error),
}

/// From the coordinator to a node: there will be no decision, release. Means nothing if the node knows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort {
    /// The transaction.
    pub txn: TxnId,
    /// Until when a late [`Prepare`] of it must be refused.
    pub deadline: Time,
}

/// From the coordinator to the journal: everybody has voted Yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decide {
    /// The transaction.
    pub txn: TxnId,
    /// After this the journal refuses it.
    pub deadline: Time,
    /// The key under which it is remembered.
    pub idempotency: Option<Bytes>,
    /// Every participant, also where it only read.
    pub parts: Vec<DecidePart>,
    /// The life of the lock manager that voted on its fences, if it carries any.
    pub lock_life: Option<Incarnation>,
}

/// One participant of a [`Decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidePart {
    /// The node.
    pub node: NodeId,
    /// The life that voted.
    pub incarnation: Incarnation,
    /// The ownership epoch under which it voted.
    pub epoch: Epoch,
    /// What it writes there; nothing where it only read.
    pub writes: Writes,
}

/// From the journal to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The transaction.
    pub txn: TxnId,
    /// Its fate.
    pub verdict: Verdict,
}

/// What became of a [`Decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Committed, durable and visible; the nodes have been told.
    Committed(Lsn),
    /// An earlier transaction with the same idempotency key has committed, and that is the outcome. This one is aborted,
    /// and its participants don't know.
    Repeated(Lsn),
    /// Aborted for ever. The participants don't know.
    Refused(Error),
    /// It has an LSN, but it can't be told whether that became durable.
    Unknown(Error),
}

/// To the journal from whoever is in doubt: what became of it? If it is not committed, it never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The transaction.
    pub txn: TxnId,
    /// When it is too late to decide for it: so long the journal must remember that it said no.
    pub deadline: Time,
    /// Who asks.
    pub asker: Asker,
}

/// Who is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The coordinator: answered by [`Decided`].
    Coordinator,
    /// A participant: answered by [`Settle`].
    Node(NodeId, Incarnation),
    /// The lock manager: told when it may hand the locks on, that is when the transaction is visible or aborted. Until
    /// then it is not answered, and asks again.
    Locks,
    /// A handle: answered by a [`TxnOutcome`].
    Handle(RequestId),
}

/// From the journal to a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// The transaction.
    pub txn: TxnId,
    /// The life that is told.
    pub incarnation: Incarnation,
    /// Its LSN, at which the staged writes are installed; `None` if it is aborted.
    pub lsn: Option<Lsn>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It is durable and visible.
    Committed(Lsn),
    /// Nothing of it was or will be written.
    Aborted,
    /// It ended so long ago that its outcome is not kept any more.
    Forgotten,
}

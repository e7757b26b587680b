//! What the journal says: one record for each commit or change of the system.

use crate::{
    ids::{Incarnation, KeyspaceId, Lsn, NodeId},
    value::Write,
};

/// One entry of the journal. Its LSN is the commit timestamp of whatever it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the order.
    pub lsn: Lsn,
    /// What it says.
    pub body: RecordBody,
}

/// The kinds of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordBody {
    /// A commit: all of its parts, on whichever nodes, become visible together.
    Commit {
        /// The transaction's number where several nodes took part; `None` for a commit of one node.
        txn: Option<u64>,
        /// What each node installs, at most one part a node.
        parts: Vec<CommitPart>,
    },
    /// A keyspace came to be.
    CreateKeyspace {
        /// Its number.
        id: KeyspaceId,
        /// Its name.
        name: String,
    },
    /// A keyspace went; its keys can't be named any more.
    DropKeyspace {
        /// Its number.
        id: KeyspaceId,
    },
    /// A node began a new life: what its earlier lives still send is refused.
    Fence {
        /// The node.
        node: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
}

/// What one node installs of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPart {
    /// The node.
    pub node: NodeId,
    /// The life of the node that voted for it.
    pub incarnation: Incarnation,
    /// The new states of its keys, at most one a key.
    pub writes: Vec<Write>,
}

//! What a panic of an actor leaves behind: the message that it died of, and callers whom nobody will answer.
//!
//! An actor's machine goes on (`restart`), its effects of the broken step are lost. A message that must not be lost with
//! them is handed over once more; whoever is owed an answer that the machine does not know of is an orphan, and is
//! told what can be told: that nothing was written, or that nobody knows.

use crate::{
    coordinator::CoordinatorMessage,
    error::Error,
    ids::{NodeId, TxnId},
    participant::NodeMessage,
    transaction::Verdict,
};

impl NodeMessage {
    /// A copy of a message that must not be lost with the life that dies of it.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Resolve(_)
            | Self::Visible(_)
            | Self::Freeze(_)
            | Self::Flushed { .. }
            | Self::ReadOnly(_)
            | Self::GoDown
            | Self::Prepares(_)
            | Self::Aborts(_)
            | Self::Settles(_)
            | Self::Owners(_)
            | Self::HandOver { .. }
            | Self::KeepArcs { .. }
            | Self::Forget { .. } => Some(self.clone()),
            // The caller of a request is told. A new life has nothing to flush, and asks for its own fence and rebuild.
            Self::Request { .. } | Self::Flush | Self::Fenced { .. } | Self::Rebuilt { .. } => None,
        }
    }

    /// Whether callers may be told of commits when it is handled: an answer that is lost then may have been any.
    #[must_use]
    pub fn tells_of_commits(&self) -> bool {
        matches!(self, Self::Visible(_) | Self::ReadOnly(_) | Self::GoDown)
    }
}

/// What an orphan of a node is told. Whatever the broken step has answered was its own request, or refused, unless it
/// told of commits.
#[must_use]
pub fn orphan_of_node(node: NodeId, was_telling: bool) -> Error {
    match was_telling {
        true => Error::Unknown {
            reason: format!("node {node} restarted while it was answering"),
        },
        false => Error::NodeRestarted { node },
    }
}

impl CoordinatorMessage {
    /// A copy of a message that must not be lost with the step that panics at it. A lost vote is silence, and the caller
    /// of a commit is told.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Decided(_) | Self::NodeDown(_) | Self::ReadOnly(_) => Some(self.clone()),
            Self::Commit(_) | Self::Votes(_) | Self::FenceVotes(_) | Self::Flush => None,
        }
    }
}

/// What the caller of a transaction is told that the broken step has ended. `again` is what was handed over once more.
#[must_use]
pub fn orphan_of_coordinator(txn: TxnId, again: Option<&CoordinatorMessage>) -> Verdict {
    let undecided = Verdict::Refused(Error::Aborted {
        reason: "the coordinator panicked before it was decided",
    });
    match again {
        Some(CoordinatorMessage::Decided(decided)) => {
            let mut decided = decided.iter();
            let own = decided.find(|decided| decided.txn == txn);
            own.map_or(undecided, |decided| decided.verdict.clone())
        }
        Some(CoordinatorMessage::ReadOnly(error)) => Verdict::Unknown(Error::Unknown {
            reason: error.to_string(),
        }),
        _ => undecided,
    }
}

//! What arrives at the lock table, what it wants done, and the words of both.

use super::Mode;
use crate::{
    error::Error,
    ids::{RequestId, Time},
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// What can be locked. Locks of the application and keys of keyspaces have a name space each and one wait-for graph
/// together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// A lock of the application, by its name.
    Lock(Arc<str>),
    /// A key that a transaction has locked ahead; the key with its keyspace.
    Key(Bytes),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock(name) => write!(f, "lock {name:?}"),
            Self::Key(key) => write!(f, "key \"{}\"", key.escape_ascii()),
        }
    }
}

/// Who holds and waits: a lock is re-entrant within a session, and a deadlock is a cycle of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionId {
    /// A session of the application, numbered by the handle.
    Application(u64),
    /// A transaction, by its number.
    Transaction(u64),
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application(number) => write!(f, "session {number}"),
            Self::Transaction(number) => write!(f, "transaction {number}"),
        }
    }
}

/// A session and its age: of two, the one that began later, or else has the higher number, is the younger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// When it began.
    pub begun: Time,
    /// Which it is.
    pub id: SessionId,
}

/// A number that only rises for a lock, also across restarts: who guards something with a lock refuses tokens lower than
/// the highest that it has seen.
///
/// The upper 22 bits are the life of the lock manager, the lower 42 count its grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub u64);

impl FencingToken {
    const COUNT_BITS: u32 = 42;
    /// The last life that has tokens.
    pub const LAST_LIFE: u64 = u64::MAX >> Self::COUNT_BITS;

    /// Lower than every token of this life, and higher than those of earlier ones.
    ///
    /// # Panics
    ///
    /// Panics if there is no token for so late a life: going round would break every guarantee of fencing.
    #[must_use]
    pub fn before(life: u64) -> Self {
        assert!(
            life <= Self::LAST_LIFE,
            "life {life} of the lock manager has no tokens left"
        );
        Self(life << Self::COUNT_BITS)
    }

    /// The life of the lock manager that gave it.
    #[must_use]
    pub fn life(self) -> u64 {
        self.0 >> Self::COUNT_BITS
    }

    /// The token that follows in the same life.
    ///
    /// # Panics
    ///
    /// Panics if the life has given all of its tokens, four trillion.
    #[must_use]
    pub fn next(self) -> Self {
        let next = Self(self.0.wrapping_add(1));
        assert!(
            next.life() == self.life(),
            "fencing tokens of life {} exhausted",
            self.life()
        );
        next
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long a request may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: granted at once, or refused as busy.
    Never,
    /// Until this time; [`Time::MAX`] is for ever.
    Until(Time),
}

/// A request for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// The number of the request, and of the grant that may come of it. Never used twice in a life of the table.
    pub id: RequestId,
    /// Who asks.
    pub session: Session,
    /// For what.
    pub resource: Resource,
    /// In which mode.
    pub mode: Mode,
    /// How long it may wait.
    pub wait: Wait,
    /// How long the grant lasts without renewal; `None` until it is released.
    pub lease: Option<Duration>,
}

/// What arrives at the lock table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockMessage {
    /// From a handle. Answered by `Held` or `Refused`.
    Acquire(Acquire),
    /// From a guard: change the mode of its grant. Answered by `Converted` or `Refused`; a refused conversion leaves
    /// the grant as it is.
    Convert {
        /// The number of this request.
        id: RequestId,
        /// The grant.
        grant: RequestId,
        /// Its new mode.
        mode: Mode,
        /// How long it may wait.
        wait: Wait,
    },
    /// From a dropped guard or a dropped waiting future. Not answered; unknown numbers are no error, for it may cross
    /// `Lost` or `Refused`.
    Release {
        /// A grant or a request, whichever it is by now.
        id: RequestId,
    },
    /// From a guard, or in its name: its holder lives. Answered by `Held`, or by nothing if the lease has been lost,
    /// of which `Lost` has told.
    Renew {
        /// The grant.
        id: RequestId,
    },
    /// A session is over: all that it holds is released, and what it waits for is refused. For a transaction: its
    /// commit is visible, or it was rolled back.
    ReleaseSession {
        /// Which.
        session: SessionId,
    },
    /// From a coordinator, or from the node of a single-node commit: may this transaction write under this token?
    /// Answered by `Vote`. After Yes the lock is not handed on until `ResolveFence`, whatever becomes of its lease.
    /// It may come twice.
    PrepareFence {
        /// The transaction.
        txn: u64,
        /// The name of the lock.
        lock: Arc<str>,
        /// The token that the transaction's writer was given.
        token: FencingToken,
        /// After this time the transaction can't be decided any more, but it may have been.
        deadline: Time,
    },
    /// The transaction is decided, committed and visible, or aborted: to the locks that is the same. It may come twice.
    ResolveFence {
        /// The transaction.
        txn: u64,
    },
}

/// What the lock table wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockEffect {
    /// The grant of this number is held on these terms: it has just been given, or its terms have changed.
    Held {
        /// The grant.
        id: RequestId,
        /// Its token. Rises with an upgrade; grants of one session on one lock share it.
        token: FencingToken,
        /// When it is lost unless it is renewed; [`Time::MAX`] for never.
        expires: Time,
    },
    /// The conversion is done; `Held` has told the new terms.
    Converted {
        /// The conversion.
        id: RequestId,
    },
    /// The request was not granted.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        error: Error,
    },
    /// A third of the lease has passed: `Renew` it if its holder lives.
    RenewalDue {
        /// The grant.
        id: RequestId,
    },
    /// The lease has run out. The holder has nothing any more.
    Lost {
        /// The grant that was.
        id: RequestId,
    },
    /// The answer to `PrepareFence`.
    Vote {
        /// The transaction.
        txn: u64,
        /// The lock.
        lock: Arc<str>,
        /// The vote.
        vote: FenceVote,
    },
    /// Ask the journal what became of a transaction that is past its deadline; it answers with `ResolveFence`.
    /// Repeated until it does.
    Ask {
        /// The transaction.
        txn: u64,
    },
}

/// The lock manager's vote on a transaction that carries a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceVote {
    /// The token is the holder's, and the lock stays with it until the transaction is resolved.
    Yes {
        /// The voting life of the lock manager: a decision under an earlier life's vote must be refused.
        life: u64,
    },
    /// The transaction must not commit.
    No(FenceRefusal),
}

/// Why a fence refuses a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceRefusal {
    /// The token is not, or not any more, that of a holder.
    Stale,
    /// The deadline had passed when it arrived.
    DeadlinePassed,
    /// Too many transactions are being decided under fences.
    Overloaded,
}

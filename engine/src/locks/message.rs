//! What arrives at the lock table, what it wants done, and the words of both.

use super::Mode;
use crate::{
    error::Error,
    ids::{Incarnation, RequestId, Time, TxnId},
    transaction::{Fence, FenceVote},
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
    /// A transaction.
    Transaction(TxnId),
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application(number) => write!(f, "session {number}"),
            Self::Transaction(txn) => write!(f, "transaction {txn}"),
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
/// The upper 22 bits are the number of the opening, the lower 42 count its grants, also over a panic of the lock manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub u64);

impl FencingToken {
    const COUNT_BITS: u32 = 42;
    /// The last opening that has tokens.
    pub const LAST_OPENING: u64 = u64::MAX >> Self::COUNT_BITS;

    /// Lower than every token of this opening, and higher than those of earlier ones.
    ///
    /// # Panics
    ///
    /// Panics if there is no token for so late an opening: going round would break every guarantee of fencing.
    #[must_use]
    pub fn before(opening: u64) -> Self {
        assert!(
            opening <= Self::LAST_OPENING,
            "opening {opening} has no fencing tokens left"
        );
        Self(opening << Self::COUNT_BITS)
    }

    /// The opening in which it was given.
    #[must_use]
    pub fn opening(self) -> u64 {
        self.0 >> Self::COUNT_BITS
    }

    /// The token that follows in the same opening.
    ///
    /// # Panics
    ///
    /// Panics if the opening has given all of its tokens, four trillion.
    #[must_use]
    pub fn next(self) -> Self {
        let next = Self(self.0.wrapping_add(1));
        assert!(
            next.opening() == self.opening(),
            "fencing tokens of opening {} exhausted",
            self.opening()
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
    /// From a coordinator: may this transaction write under these tokens? Answered by one `Vote`. After Yes none of the
    /// locks is handed on until `ResolveFence`, whatever becomes of its lease; after No nothing is kept. It may come
    /// twice. One that comes behind its `ResolveFence` keeps the locks until the journal has been asked.
    PrepareFence {
        /// The transaction.
        txn: TxnId,
        /// The tokens that the transaction's writer was given.
        fences: Vec<Fence>,
        /// After this time the transaction can't be decided any more, but it may have been.
        deadline: Time,
    },
    /// From the coordinator, or from the journal that was asked: the transaction is decided, committed and visible, or
    /// aborted. To the locks that is the same. It may come twice, or for a transaction that nobody knows here.
    ResolveFence {
        /// The transaction.
        txn: TxnId,
    },
    /// From the journal, in answer to `Announce`: what it has accepted under votes of earlier lives is visible, and
    /// nothing more of it will be accepted. Before that nothing is granted. It may come twice, and for earlier lives.
    LifeKnown {
        /// The life that was announced.
        life: Incarnation,
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
    /// The answer to `PrepareFence`, for the coordinator.
    Vote(FenceVote),
    /// Ask the journal what became of a transaction that is past its deadline; it answers with `ResolveFence`.
    /// Repeated until it does.
    Ask {
        /// The transaction.
        txn: TxnId,
        /// Its deadline.
        deadline: Time,
    },
    /// Tell the journal that this is a new life, so that it refuses what earlier ones have voted for; it answers with
    /// `LifeKnown`. Repeated until it does.
    Announce {
        /// The life.
        life: Incarnation,
    },
}

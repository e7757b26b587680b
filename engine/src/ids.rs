//! The numbers that must not be mixed: each is a type of its own.

use std::{fmt, num::NonZeroU64};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number that follows.
            ///
            /// # Panics
            ///
            /// Panics when the counter is exhausted: going round would break every order built on it.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect(concat!(stringify!($name), " exhausted")))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Log sequence number: the place of a commit in the one order of all commits, and its timestamp.
    /// The first commit of a directory has LSN 1; 0 is "before everything".
    Lsn(u64)
}
number! {
    /// A storage node, numbered from 0 in the order in which nodes were added.
    NodeId(u16)
}
number! {
    /// One life of a node: rises at every restart, so that messages of an earlier life are recognised.
    Incarnation(u32)
}
number! {
    /// The version of the ring. Rises whenever an arc changes its owner.
    Epoch(u64)
}
number! {
    /// A keyspace. Numbers are never used twice, so a dropped keyspace can't shine through a new one.
    KeyspaceId(u32)
}
number! {
    /// A request as the shell of an actor numbers it: the state machine answers by this number.
    RequestId(u64)
}
number! {
    /// What one force of the journal made durable together.
    GroupNo(u64)
}
number! {
    /// A directory of an engine, numbered from 0 in the order in which they were added.
    DirectoryNo(u8)
}

impl DirectoryNo {
    /// The first one. It has the manifest, and what concerns no node alone.
    pub const HOME: Self = Self(0);
}

/// The largest counter that is believed when it is read from a disk. Nothing has counted so far, and everything can count
/// on from here: [`Lsn::next`] and its like stay panics of our own making, whatever a file says.
pub(crate) const LARGEST_COUNTER: u64 = u64::MAX / 2;
/// The same for [`Incarnation`], which is a smaller number.
pub(crate) const LARGEST_INCARNATION: u32 = u32::MAX / 2;

/// A transaction. Unique over all restarts: the number of the opening (counted in the manifest, and forced before
/// anything runs under it) and a counter within the opening, so nothing has to be remembered or reserved. Numbers are
/// given when transactions begin, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId {
    opening: NonZeroU64,
    number: u64,
}

impl TxnId {
    /// Transaction `number` of an opening; `None` for opening 0, which there never is.
    #[must_use]
    pub fn new(opening: u64, number: u64) -> Option<Self> {
        Some(Self {
            opening: NonZeroU64::new(opening)?,
            number,
        })
    }

    /// Which opening of the directory gave it.
    #[must_use]
    pub fn opening(self) -> u64 {
        self.opening.get()
    }

    /// Its place in that opening.
    #[must_use]
    pub fn number(self) -> u64 {
        self.number
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.opening, self.number)
    }
}

/// A point on the monotonic clock of this process, in nanoseconds since the engine was opened.
/// State machines never read a clock: the time of an event is an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// Later than every deadline: "no deadline".
    pub const MAX: Self = Self(u64::MAX);

    /// This time moved forward by `duration`, saturating at [`Time::MAX`].
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

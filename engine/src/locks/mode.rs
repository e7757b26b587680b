//! Lock modes, and which of them go together.
//!
//! The five modes of hierarchical locking (Gray, Lorie, Putzolu, Traiger: *Granularity of Locks and Degrees of
//! Consistency in a Shared Data Base*, 1976). An intent mode says that its holder locks parts of the thing one by one,
//! under names of their own: intent holders go together, and keep out whoever wants the whole.
//!
//! | | IS | IX | S | SIX | X |
//! |---|---|---|---|---|---|
//! | intent shared | yes | yes | yes | yes | |
//! | intent exclusive | yes | yes | | | |
//! | shared | yes | | yes | | |
//! | shared and intent exclusive | yes | | | | |
//! | exclusive | | | | | |

use Mode::{Exclusive, IntentExclusive, IntentShared, Shared, SharedIntentExclusive};

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Mode {
    /// Reads parts of the thing, each under a shared lock of its own.
    IntentShared,
    /// Writes parts of the thing, each under an exclusive lock of its own.
    IntentExclusive,
    /// Reads the thing; any number of holders.
    Shared,
    /// Reads the thing and writes parts of it.
    SharedIntentExclusive,
    /// Writes the thing; one holder.
    #[default]
    Exclusive,
}

/// How many modes there are.
pub(super) const MODES: usize = 5;

impl Mode {
    /// Every mode.
    pub const ALL: [Self; MODES] = [
        IntentShared,
        IntentExclusive,
        Shared,
        SharedIntentExclusive,
        Exclusive,
    ];

    /// Whether two sessions may hold a lock in these modes at the same time.
    #[must_use]
    pub fn is_compatible(self, other: Self) -> bool {
        match (self, other) {
            (Exclusive, _) | (_, Exclusive) => false,
            (IntentShared, _) | (_, IntentShared) => true,
            (IntentExclusive, IntentExclusive) | (Shared, Shared) => true,
            (IntentExclusive | Shared | SharedIntentExclusive, _) => false,
        }
    }

    /// The weakest mode that allows what both allow.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Shared, IntentExclusive) | (IntentExclusive, Shared) => SharedIntentExclusive,
            // The modes are declared weakest first; only shared and intent exclusive do not compare.
            (one, another) => one.max(another),
        }
    }

    /// Whether this mode allows everything that the other allows.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.join(other) == self
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IntentShared => "intent shared",
            IntentExclusive => "intent exclusive",
            Shared => "shared",
            SharedIntentExclusive => "shared and intent exclusive",
            Exclusive => "exclusive",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_that_of_the_paper() {
        let row = |mode: Mode| Mode::ALL.map(|other| mode.is_compatible(other));
        assert_eq!(row(IntentShared), [true, true, true, true, false]);
        assert_eq!(row(IntentExclusive), [true, true, false, false, false]);
        assert_eq!(row(Shared), [true, false, true, false, false]);
        assert_eq!(
            row(SharedIntentExclusive),
            [true, false, false, false, false]
        );
        assert_eq!(row(Exclusive), [false; 5]);
    }

    #[test]
    fn a_join_is_the_weakest_mode_that_excludes_whatever_either_excludes() {
        let excludes = |mode: Mode| Mode::ALL.map(|other| !mode.is_compatible(other));
        for a in Mode::ALL {
            for b in Mode::ALL {
                let join = a.join(b);
                assert_eq!(join, b.join(a));
                let both: Vec<bool> = (0..MODES)
                    .map(|other| excludes(a)[other] || excludes(b)[other])
                    .collect();
                assert_eq!(excludes(join).to_vec(), both, "{a} and {b}");
                assert!(join.covers(a) && join.covers(b));
                assert_eq!(a.covers(b) && b.covers(a), a == b);
            }
        }
    }
}

//! No acknowledged write is lost: whatever was acknowledged at an LSN is in the log at that LSN, after every recovery.

use mailring_engine::ids::Lsn;
use std::{collections::BTreeMap, fmt};

/// An acknowledged write that is not where it was said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The operation.
    pub op: u64,
    /// Where it was said to be.
    pub acknowledged: Lsn,
    /// Where it is, if anywhere.
    pub found: Option<Lsn>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op, lsn) = (self.op, self.acknowledged);
        match self.found {
            None => write!(f, "op {op}, acknowledged at LSN {lsn}, was lost"),
            Some(found) => write!(f, "op {op}, acknowledged at LSN {lsn}, is at LSN {found}"),
        }
    }
}

/// Looks for every acknowledged operation.
///
/// # Errors
///
/// The first one that is lost.
pub fn check(
    acknowledged: &BTreeMap<u64, Lsn>,
    found: impl Fn(u64) -> Option<Lsn>,
) -> Result<(), Lost> {
    for (&op, &acknowledged) in acknowledged {
        let found = found(op);
        if found != Some(acknowledged) {
            return Err(Lost {
                op,
                acknowledged,
                found,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_is_lost_or_elsewhere_is_named() {
        let acknowledged = BTreeMap::from([(1, Lsn(5)), (2, Lsn(6))]);
        assert_eq!(check(&acknowledged, |op| Some(Lsn(op + 4))), Ok(()));
        let lost = |found| Lost {
            op: 2,
            acknowledged: Lsn(6),
            found,
        };
        let found = |op| (op == 1).then_some(Lsn(5));
        assert_eq!(check(&acknowledged, found), Err(lost(None)));
        let found = |op| Some(Lsn(if op == 1 { 5 } else { 9 }));
        assert_eq!(check(&acknowledged, found), Err(lost(Some(Lsn(9)))));
    }
}

//! What whoever uses the journal's files does with what the sequencer wants, and what he answers. It blocks, so a shell
//! does it on a thread of its own, or in place for a lone group.

use super::{GroupWrite, JournalMessage};
use crate::{
    error::{Error, Result},
    journal::{Group, Journal, Spare},
};

/// Writes groups, in their order, and forces them once if the last one must be.
///
/// # Panics
///
/// Panics if there is no group.
pub fn write_groups(journal: &mut Journal, groups: Vec<GroupWrite>) -> JournalMessage {
    let newest = groups.last().expect("there is a group");
    let (last, force) = (newest.last, newest.force);
    let write = || {
        for group in groups {
            journal.append(&Group {
                number: group.number,
                first_lsn: group.first,
                last_lsn: group.last,
                payload: group.payload,
            })?;
        }
        if force {
            journal.force()?;
        }
        Ok(JournalMessage::Persisted {
            last,
            room: journal.room(),
            spare: journal.spare_room(),
        })
    };
    write().unwrap_or_else(JournalMessage::Failed)
}

/// Takes in a spare segment, or the failure to prepare one, and says what room it has.
///
/// # Errors
///
/// Why there is no spare: that failure, or that of the journal.
pub fn add_spare(journal: &mut Journal, outcome: Result<Spare>) -> Result<u64> {
    journal.add_spare(outcome)?;
    journal.spare_room().ok_or(Error::Overloaded {
        what: "the journal",
    })
}

/// What room the spare has: a group may have taken it, and a spare without room makes the sequencer ask again.
#[must_use]
pub fn spare_room(journal: &Journal) -> u64 {
    journal.spare_room().unwrap_or(0)
}

//! What whoever uses the journal's files does with what the sequencer wants, and what he answers. It blocks, so a shell
//! does it on a thread of its own, or in place for a lone group.

use super::{GroupWrite, JournalMessage};
use crate::{
    error::{Error, Result},
    ids::DirectoryNo,
    journal::{Group, Journal, Spare},
};

/// Writes groups of this journal, in their order, and forces them once if the last one must be.
///
/// # Panics
///
/// Panics if there is no group.
pub fn write_groups(journal: &mut Journal, groups: Vec<GroupWrite>) -> JournalMessage {
    let newest = groups.last().expect("there is a group");
    let (directory, last, force) = (newest.directory, newest.last, newest.force);
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
            directory,
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

/// Says what room the spare has, when none was asked for: a group may have taken it, and a spare without room makes the
/// sequencer ask again. A journal that has failed prepares none, and would be asked for ever, so that is what is said then:
/// a force before a checkpoint may have failed, of which the sequencer has not heard.
#[must_use]
pub fn report_spare(directory: DirectoryNo, journal: &Journal) -> JournalMessage {
    match journal.writable() {
        Ok(()) => JournalMessage::Spare(directory, Ok(journal.spare_room().unwrap_or(0))),
        Err(error) => JournalMessage::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::SimulatedDisk, ids::Lsn, journal::JournalOptions};
    use std::sync::Arc;

    /// The simulator's seed 6402 of its day: sequencer and segment thread asked each other for ever.
    #[test]
    fn a_journal_that_has_failed_says_so_in_place_of_a_spare() {
        let disk = SimulatedDisk::new();
        let options = JournalOptions {
            segment_bytes: 8 << 10,
            salt: 1,
            ..JournalOptions::default()
        };
        let journal = Journal::create(Arc::new(disk.clone()), options, Lsn(0));
        let mut journal = journal.expect("nothing fails yet");
        let told = report_spare(DirectoryNo::HOME, &journal);
        assert_eq!(told, JournalMessage::Spare(DirectoryNo::HOME, Ok(0)));
        let group = Group {
            number: crate::ids::GroupNo(1),
            first_lsn: Lsn(1),
            last_lsn: Lsn(1),
            payload: vec![1],
        };
        journal.append(&group).expect("nothing fails yet");
        disk.fail_next_force();
        let error = journal.force().expect_err("it was told to fail");
        let told = report_spare(DirectoryNo::HOME, &journal);
        assert!(
            matches!(told, JournalMessage::Failed(Error::ReadOnly { .. })),
            "{error}: {told:?}"
        );
    }
}

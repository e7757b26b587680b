//! Several directories (disks) in one engine: one order of commits, striped over several journals.
//!
//! # Concept
//!
//! Each directory has a journal of its own, and each node lives in one directory. The sequencer gives the LSNs, one order for
//! all; a record goes to the journals of the directories in which its parts live. A commit over directories is a record in
//! each of them, with the same LSN and the same list of directories, and all are forced at once. It is committed if all
//! of them are there, and if everything before it is:
//!
//! ```text
//!  home   [5: a=1][7: a=2, in home and 1][9: a=3]            what a crash has left: LSN 8 was not forced.
//!  1      [6: b=1][7: b=2, in home and 1]      ╳ 8           Everything up to 7 happened, 9 did not.
//! ```
//!
//! So recovery takes the longest prefix of LSNs that is whole ([`recovery`]). Nobody was told of anything beyond it, since
//! the visible LSN is the prefix that is forced in every directory; and what has come of it elsewhere was no more than
//! memory. There is no second force, no transaction in doubt on a disk, and no decision to be kept until everybody has it.
//! The price is that a directory that is missing keeps all of them closed, and that a slow disk that was written to delays
//! what is behind it in the order. One that has nothing on its way delays nobody.
//!
//! # Invariants
//!
//! - What was visible is forced wherever it has a part, so that it is in the prefix of every later recovery.
//! - A record beyond the prefix is [void](Voids) for ever: its LSN is not used again and no reader is shown it.
//! - A [`Stamp`] says no more than is true on the medium when it is written. A journal that ends before a stamp is damaged, or
//!   that of an older copy; that is an error which names the directory.
//! - An engine with one directory writes nothing of all this.
//!
//! # What is left out
//!
//! A directory can be added, and not be removed. When a disk is lost, a backup is what there is.

mod identity;
pub mod recovery;
mod set;
#[cfg(test)]
mod tests;
mod voids;

pub use identity::{IDENTITY_FILE, Identity};
pub use set::{DirectorySet, MAX_DIRECTORIES, Placement};
pub use voids::Voids;

use crate::ids::{DirectoryNo, GroupNo, Lsn};

/// What the manifest of an engine says of its directories, where it has or had to be given more than one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directories {
    /// The engine, by a number that no other has.
    pub engine: u64,
    /// The last opening of which every directory knew before anything was written in it.
    pub known_opening: u64,
    /// The directories, by number; the first is where the manifest is.
    pub listed: Vec<ListedDirectory>,
    /// In which directory each node lives, as far as that does not follow from its number.
    pub placement: Vec<DirectoryNo>,
    /// What never happened.
    pub voids: Voids,
    /// What was known to be on the medium when the manifest was written.
    pub stamp: Stamp,
}

impl Directories {
    /// Compares the opening that a directory knows of with those of the manifest, of which there were `openings`. Says which
    /// of the two is older than the other, and why: home, if the directory was in an opening that the manifest has not seen.
    ///
    /// # Errors
    ///
    /// The one that is older.
    pub fn check_opening(
        &self,
        number: DirectoryNo,
        found: u64,
        openings: u64,
    ) -> Result<(), (DirectoryNo, String)> {
        if found > openings {
            let reason = format!(
                "it has seen {openings} openings of the engine, and directory {number} opening {found}"
            );
            return Err((DirectoryNo::HOME, reason));
        }
        if found < self.known_opening {
            let known = self.known_opening;
            let reason = format!(
                "it was last there in opening {found} of the engine, and must have been in {known}"
            );
            return Err((number, reason));
        }
        Ok(())
    }

    /// In which directory each node lives.
    ///
    /// # Panics
    ///
    /// Panics if a node is placed where no directory is listed: a manifest that says so is refused.
    #[must_use]
    pub fn placement(&self) -> Placement {
        Placement::new(self.listed.len(), self.placement.clone())
    }
}

/// A directory as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListedDirectory {
    /// Where it was last; nothing if that is not known.
    pub path: String,
    /// Whether it was made. Nothing is written to it before.
    pub is_made: bool,
}

/// What was known to be on the medium at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Everything up to here is forced in every directory.
    pub durable: Lsn,
    /// Up to which group the journal of each directory is forced, by number.
    pub forced: Vec<GroupNo>,
}

//! The journal: the order of all commits, and the only place that is forced.
//!
//! # Concept
//!
//! What arrives while one force runs is a *group*, and the next force makes it durable. A group is written as one
//! *frame*: a header, the records back to back, a checksum. Frames follow each other in *segments*, preallocated files
//! that are filled with zeros before they are used, so that a force moves data and no metadata.
//!
//! ```text
//! journal-…01.seg   [header][group 1][group 2][group 3][seal]      complete, forced
//! journal-…02.seg   [header][group 4][group 5]..........zeros      active
//! journal-…03.seg   [header]............................zeros      spare, prepared ahead
//! ```
//!
//! Each frame says which group was the newest forced one when it was written (`forced_through`). So every frame proves
//! something about those before it, and this decides what a damaged frame means. Checksums are per frame and not per
//! record, because nothing smaller than a group is ever promised to anybody: a record that is whole in a torn
//! group was not answered and must not be kept, or its group would come apart. It is also fewer bytes and less time.
//!
//! # A worked example
//!
//! Groups 4 and 5 were written and forced one by one, 6 was under way when the power went:
//!
//! ```text
//! [4, forced through 3][5, forced through 4][6, fo          6 is torn: nothing proves that it was forced. Cut.
//! [4, forced through 3][## damaged ##########][6, forced through 5]      6 proves that 5 was forced: corrupt.
//! [4, forced through 3][?? torn ?????????????][6, forced through 3]      forced now and then only: 5 was lost in
//!                                                                        the crash. Cut from 5 on, 6 too.
//! ```
//!
//! # Invariants
//!
//! - Group numbers and LSNs are continuous over all segments; a missing segment is a gap, and a gap is corruption. The
//!   journal of one directory of several has the LSNs that concern it ([`Lsns::Some`]): there they only rise, and what is
//!   missing is told by the groups' numbers, and by the other journals ([`crate::directories`]).
//! - A segment gets its name when its header is durable. So a header that does not check is corruption.
//! - A segment is forced, sealed and forced again before the next one takes its first frame: a group behind an unsealed
//!   segment is corruption. A seal is a frame without payload which proves that everything before it was forced.
//! - The first bad frame, where group *g* is expected, is a torn tail if no frame or segment header behind it says
//!   `forced_through >= g`; else it is [`Error::CorruptJournal`] with file and offset. A frame counts as a proof by its
//!   header alone. Copies of frames inside of values don't deceive this: whatever says that *g* was forced, under the
//!   salt of a segment, was written by the journal after *g* was forced.
//! - No salt is used twice: it is drawn from the caller's (another at every opening), the segment's number and the salts
//!   in use. So what a recycled file held before never reads as a frame, and its old bytes need no erasing.
//! - A failed write or force is never retried. It turns the journal read-only; opening it again reads what is there,
//!   writes again and forces what no later frame proves, seals the end and goes on in a new segment. The torn tail lies
//!   behind that seal, where nothing is read any more.
//! - The newest segment that holds a forced group is never released, so the journal always knows where it ends.
//!
//! # What is left out
//!
//! The last group before a crash has no later frame: if it rots before the next opening, it reads as torn. [`Journal::close`]
//! seals, so after a clean end (and after each opening) every group is proven. The caller can compare [`Recovery`] with
//! what it knows from elsewhere; [`Journal::open`] itself refuses a journal that ends before `after`.
//!
//! A file system that reorders a rename before a force of the same file, or a disk that lies about forces, is not
//! defended against.

mod frame;
mod reader;
pub mod record;
mod recovery;
mod segment;
mod spare;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{JournalReader, RecordCursor};
pub use recovery::{JournalReport, Recovery, Scanned, verify, verify_records};
pub use segment::FORMAT_VERSION;
pub use spare::{Spare, SpareRequest};
pub use writer::{Group, Journal, JournalOptions, JournalStats, Lsns};

#[cfg(doc)]
use crate::error::Error;

/// Bytes that a group with so large a payload takes in its segment.
#[must_use]
pub fn frame_bytes(payload_bytes: usize) -> u64 {
    frame::frame_bytes(payload_bytes as u64)
}

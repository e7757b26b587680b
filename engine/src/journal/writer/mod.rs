//! The one writer of a journal: groups and forces. How it begins is told in `start`, where it writes next in `segments`.

mod segments;
mod start;

use super::{
    frame::{self, FrameHeader, SEAL_BYTES},
    reader::{JournalReader, LiveSegments},
    segment::{HEADER_BYTES, Segment},
};
use crate::{
    disk::Disk,
    error::{Error, Result},
    ids::{GroupNo, Lsn},
};
use std::{io, sync::Arc};

/// A buffer that has grown larger than this is not kept.
const SCRATCH_BYTES: usize = 4 << 20;

/// How a journal is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalOptions {
    /// The standard length of a segment, in bytes. The first ones after an opening are shorter (1 MiB, 2 MiB, ..), so
    /// that opening is cheap; a group that is larger gets a segment of its own.
    pub segment_bytes: u64,
    /// A number that is another one at every opening of the directory.
    pub salt: u64,
    /// Whether this journal has all LSNs.
    pub lsns: Lsns,
}

/// Which LSNs a journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lsns {
    /// All of them: a gap is corruption.
    #[default]
    All,
    /// Those that concern its directory, one of several ([`crate::directories`]). They rise.
    Some,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 32 << 20,
            salt: 0,
            lsns: Lsns::All,
        }
    }
}

/// What one write appends and one force makes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number, which follows that of the group before.
    pub number: GroupNo,
    /// The LSN of its first record, which follows the last one of the group before: at once where the journal has all
    /// LSNs, else somewhere.
    pub first_lsn: Lsn,
    /// The LSN of its last record.
    pub last_lsn: Lsn,
    /// Its records, as [`super::record`] encodes them; at least one.
    pub payload: Vec<u8>,
}

/// Figures of a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Segments in use, the active one included.
    pub segments: usize,
    /// Bytes of the groups in them.
    pub bytes: u64,
    /// Bytes of all files of the journal, prepared and recycled ones included.
    pub allocated_bytes: u64,
    /// The last LSN that is written.
    pub last_lsn: Lsn,
    /// The last LSN that is forced.
    pub forced_lsn: Lsn,
}

/// A group and its last LSN.
#[derive(Debug, Clone, Copy)]
struct Mark {
    group: GroupNo,
    lsn: Lsn,
}

/// The journal of a directory: appends groups, forces them, and lets go of what is not needed any more.
///
/// Every method blocks. After a failed write or force, `append`, `force`, `release`, `add_spare` and `close` fail with
/// [`Error::ReadOnly`]; readers go on.
pub struct Journal {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    lsns: Lsns,
    /// The last one is active. Its `end` is where the next frame goes.
    live: LiveSegments,
    active: Arc<Segment>,
    position: u64,
    written: Mark,
    forced: Mark,
    /// The next segment, empty and under its own name.
    spare: Option<Arc<Segment>>,
    spare_is_under_way: bool,
    /// Names of released files of the standard length.
    recycled: Vec<String>,
    next_id: u64,
    salts: u64,
    /// How many segments were asked for since the opening.
    segments_requested: u32,
    scratch: Vec<u8>,
    /// Why nothing can be written any more.
    broken: Option<String>,
}

impl Journal {
    /// Writes a group. It is durable after the next [`Journal::force`].
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`] if a new segment is needed and can't be allocated: nothing was written, and the same
    /// group can be appended later. [`Error::ReadOnly`] if writing failed now or earlier.
    ///
    /// # Panics
    ///
    /// Panics if the group does not follow the one before, is empty, or has 4 GiB or more.
    pub fn append(&mut self, group: &Group) -> Result<()> {
        self.writable()?;
        assert_eq!(
            group.number,
            self.written.group.next(),
            "groups are appended in order"
        );
        let next = self.written.lsn.next();
        let follows = match self.lsns {
            Lsns::All => group.first_lsn == next,
            Lsns::Some => group.first_lsn >= next,
        };
        let first = group.first_lsn;
        assert!(
            follows,
            "a group of LSN {first} follows LSN {}",
            self.written.lsn
        );
        assert!(group.last_lsn >= group.first_lsn, "a group has an LSN");
        assert!(!group.payload.is_empty(), "a group has a record");
        let header = FrameHeader {
            number: group.number,
            first_lsn: group.first_lsn,
            last_lsn: group.last_lsn,
            payload_bytes: u32::try_from(group.payload.len()).expect("a group is below 4 GiB"),
            forced_through: self.forced.group,
        };
        if self.position + header.frame_bytes() + SEAL_BYTES > self.active.bytes {
            self.advance(header.frame_bytes())?;
        }
        // A new segment's first frame knows that everything in the old one is forced.
        let header = FrameHeader {
            forced_through: self.forced.group,
            ..header
        };
        self.write_frame(&header, &group.payload)?;
        self.position += header.frame_bytes();
        self.written = Mark {
            group: group.number,
            lsn: group.last_lsn,
        };
        let mut segments = self.live.lock();
        let active = segments.last_mut().expect("the active segment is in use");
        active.end = self.position;
        active.last_group = group.number;
        active.last_lsn = group.last_lsn;
        Ok(())
    }

    /// Makes every group that was appended durable (`fdatasync`); does nothing where all are.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] if it fails, or anything failed earlier.
    pub fn force(&mut self) -> Result<()> {
        self.writable()?;
        if self.forced.group < self.written.group {
            self.force_active()?;
            self.forced = self.written;
        }
        Ok(())
    }

    /// Ends the journal cleanly: forces it, and seals it so that every later damage is told from a torn tail.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] if it fails, or anything failed earlier.
    pub fn close(mut self) -> Result<()> {
        self.force()?;
        if self.position > HEADER_BYTES {
            self.seal()
        } else {
            Ok(())
        }
    }

    /// A reader of what is written, also of what will be.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader {
            disk: Arc::clone(&self.disk),
            live: self.live.clone(),
            lsns: self.lsns,
            voids: Arc::default(),
        }
    }

    /// The last LSN that is forced.
    #[must_use]
    pub fn forced_lsn(&self) -> Lsn {
        self.forced.lsn
    }

    /// Figures for `stats()`.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let segments = self.live.lock();
        let spare_bytes = self.spare.as_ref().map_or(0, |spare| spare.bytes);
        let recycled_bytes = self.recycled.len() as u64 * self.segment_bytes;
        let live_bytes: u64 = segments.iter().map(|live| live.segment.bytes).sum();
        JournalStats {
            segments: segments.len(),
            bytes: segments.iter().map(|live| live.end - HEADER_BYTES).sum(),
            allocated_bytes: live_bytes + spare_bytes + recycled_bytes,
            last_lsn: self.written.lsn,
            forced_lsn: self.forced.lsn,
        }
    }

    /// This journal as that of one directory of several, which from now on is not given all LSNs.
    #[must_use]
    pub fn one_of_several(self) -> Self {
        Self {
            lsns: Lsns::Some,
            ..self
        }
    }

    /// The last group that is forced.
    #[must_use]
    pub fn forced_group(&self) -> GroupNo {
        self.forced.group
    }

    /// The last group that is written.
    #[must_use]
    pub fn last_group(&self) -> GroupNo {
        self.written.group
    }

    /// Writes the seal behind groups that are all forced, and forces it.
    fn seal(&mut self) -> Result<()> {
        assert_eq!(
            self.forced.group, self.written.group,
            "a seal says that all groups are forced"
        );
        self.write_frame(
            &FrameHeader::seal(self.written.group.next(), self.written.lsn),
            &[],
        )?;
        self.force_active()
    }

    fn write_frame(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<()> {
        let mut frame = std::mem::take(&mut self.scratch);
        frame::encode(&mut frame, header, payload, self.active.header.salt);
        let outcome = self.active.file.write_at(&frame, self.position);
        if frame.capacity() <= SCRATCH_BYTES {
            self.scratch = frame;
        }
        outcome.map_err(|error| self.fail_io("writing", &error))
    }

    fn force_active(&mut self) -> Result<()> {
        self.active
            .file
            .force()
            .map_err(|error| self.fail_io("forcing", &error))
    }

    /// Whether anything can be written any more.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] if something has failed.
    pub fn writable(&self) -> Result<()> {
        match &self.broken {
            Some(reason) => Err(Error::ReadOnly {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    fn fail_io(&mut self, doing: &str, error: &io::Error) -> Error {
        let name = self.active.name();
        // Not `Error::io`: a disk that is full now must not promise to clear, some of a frame may be written.
        let path = self.disk.path(&name);
        self.fail(&format!("{doing} {}: {error}", path.display()))
    }

    fn fail(&mut self, error: &dyn std::fmt::Display) -> Error {
        let reason = error.to_string();
        self.broken = Some(reason.clone());
        Error::ReadOnly { reason }
    }
}

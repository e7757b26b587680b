//! A segment: one preallocated file of the journal, its header, and reading its frames.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MAILRING` |
//! | 8 | 4 | format version |
//! | 12 | 4 | zero |
//! | 16 | 8 | segment number |
//! | 24 | 8 | salt |
//! | 32 | 8 | the newest group known to be forced when the segment was prepared |
//! | 40 | 8 | the last LSN of that group |
//! | 48 | 8 | zero |
//! | 56 | 8 | xxh3-64 of the 56 bytes before |
//!
//! All numbers are little endian. Magic, version and checksum keep their place in every format, so that a newer
//! format is told from a damaged file. A file gets the name of a segment only after its header was forced: a header
//! that does not check is corruption at any time.

use super::frame::{self, FrameHeader};
use crate::{
    disk::{Disk, DiskFile},
    error::{Error, Result},
    ids::{GroupNo, LARGEST_COUNTER, Lsn},
};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The version of the journal's format: of the segments, the frames and the records.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MAILRING";
/// Bytes before the first frame.
pub(super) const HEADER_BYTES: u64 = 64;
const CHECKED_BYTES: usize = 56;
const PREFIX: &str = "journal-";
const SPARE_PREFIX: &str = "spare-";
const SUFFIX: &str = ".seg";
/// Read at once where frames follow each other.
const READ_AHEAD_BYTES: u64 = 256 << 10;

/// The name of a segment in use.
pub(super) fn file_name(id: u64) -> String {
    format!("{PREFIX}{id:016x}{SUFFIX}")
}

/// The name of a file that is prepared to become this segment, or waits to be recycled.
pub(super) fn spare_name(id: u64) -> String {
    format!("{SPARE_PREFIX}{id:016x}{SUFFIX}")
}

/// The number in a segment's file name.
pub(super) fn id_of(name: &str) -> Option<u64> {
    number_in(name, PREFIX)
}

/// The number in a spare's file name.
pub(super) fn id_of_spare(name: &str) -> Option<u64> {
    number_in(name, SPARE_PREFIX)
}

fn number_in(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(SUFFIX)?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    // One spelling only: "+1" and capitals are not ours. Nor is a number that no journal reaches.
    (format!("{id:016x}") == digits && id <= LARGEST_COUNTER).then_some(id)
}

/// What the first bytes of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: u64,
    pub(super) salt: u64,
    pub(super) forced_through: GroupNo,
    pub(super) forced_lsn: Lsn,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.forced_through.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.forced_lsn.0.to_le_bytes());
        let checksum = xxh3_64(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a file that must be segment `id`.
    pub(super) fn read(disk: &dyn Disk, file: &dyn DiskFile, id: u64) -> Result<Self> {
        let name = file_name(id);
        let corrupt = |reason: &str| Error::CorruptJournal {
            file: disk.path(&name),
            offset: 0,
            reason: reason.into(),
        };
        let len = file
            .len()
            .map_err(|error| io_error("measuring", disk, &name, &error))?;
        if len < HEADER_BYTES {
            return Err(corrupt("the file is shorter than a segment's header"));
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_at(&mut bytes, 0)
            .map_err(|error| io_error("reading", disk, &name, &error))?;
        let number = |at: usize| {
            u64::from_le_bytes(
                bytes[at..at + 8]
                    .try_into()
                    .expect("eight bytes of a header"),
            )
        };
        if bytes[..8] != MAGIC || number(CHECKED_BYTES) != xxh3_64(&bytes[..CHECKED_BYTES]) {
            return Err(corrupt("the segment's header is damaged"));
        }
        let found = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes of a header"));
        if found == 0 {
            return Err(corrupt(
                "the segment has format version 0, which there never was",
            ));
        }
        if found > FORMAT_VERSION {
            let file = disk.path(&name);
            return Err(Error::NewerFormat {
                file,
                found,
                supported: FORMAT_VERSION,
            });
        }
        if number(16) != id {
            return Err(corrupt(&format!(
                "the header is that of segment {}",
                number(16)
            )));
        }
        if number(32) > LARGEST_COUNTER || number(40) > LARGEST_COUNTER {
            return Err(corrupt(
                "the header tells of a group that no journal reaches",
            ));
        }
        Ok(Self {
            id,
            salt: number(24),
            forced_through: GroupNo(number(32)),
            forced_lsn: Lsn(number(40)),
        })
    }
}

/// A segment that is open. Whoever replays holds it, so that its file is not recycled under him.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn DiskFile>,
    /// Bytes of the file.
    pub(super) bytes: u64,
}

impl Segment {
    /// Opens segment `id` and reads its header.
    pub(super) fn open(disk: &dyn Disk, id: u64) -> Result<Self> {
        let name = file_name(id);
        let file = disk
            .open(&name)
            .map_err(|error| io_error("opening", disk, &name, &error))?;
        let header = SegmentHeader::read(disk, &*file, id)?;
        let bytes = file
            .len()
            .map_err(|error| io_error("measuring", disk, &name, &error))?;
        Ok(Self {
            header,
            file: file.into(),
            bytes,
        })
    }

    pub(super) fn name(&self) -> String {
        file_name(self.header.id)
    }

    /// The error of a segment that is damaged at `offset`.
    pub(super) fn corrupt(&self, disk: &dyn Disk, offset: u64, reason: String) -> Error {
        Error::CorruptJournal {
            file: disk.path(&self.name()),
            offset,
            reason,
        }
    }
}

/// The error of a failed operation on a file.
pub(super) fn io_error(doing: &str, disk: &dyn Disk, name: &str, error: &std::io::Error) -> Error {
    Error::io(format!("{doing} {}", disk.path(name).display()), error)
}

/// What stands at a place where a frame could begin.
pub(super) enum Found<'a> {
    /// A frame whose header and payload check; the payload.
    Frame(FrameHeader, &'a [u8]),
    /// Nothing that could be told from stale bytes.
    Nothing,
    /// A header that checks before a payload that does not.
    DamagedPayload(FrameHeader),
}

/// What the frame headers behind a place tell, whether the frames are whole or not.
pub(super) struct Behind {
    /// The newest group of which one says that it is forced.
    pub(super) newest_forced: Option<GroupNo>,
    /// Where the last of the frames ends.
    pub(super) end: u64,
}

/// Reads a segment from front to back, in large parts.
pub(super) struct SegmentReader<'a> {
    disk: &'a dyn Disk,
    segment: &'a Segment,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(disk: &'a dyn Disk, segment: &'a Segment) -> Self {
        Self {
            disk,
            segment,
            window: Vec::new(),
            window_start: 0,
        }
    }

    /// What stands at `offset`. With `skip`, a payload that it accepts by its header is neither read nor checked.
    pub(super) fn frame_at(
        &mut self,
        offset: u64,
        skip: impl FnOnce(&FrameHeader) -> bool,
    ) -> Result<Found<'_>> {
        let salt = self.segment.header.salt;
        let Some(bytes) = self.bytes(offset, frame::HEADER_BYTES as u64)? else {
            return Ok(Found::Nothing);
        };
        let Some(header) = FrameHeader::decode(bytes, salt) else {
            return Ok(Found::Nothing);
        };
        if skip(&header) {
            return Ok(Found::Frame(header, &[]));
        }
        let rest = header.frame_bytes() - frame::HEADER_BYTES as u64;
        let Some(rest) = self.bytes(offset + frame::HEADER_BYTES as u64, rest)? else {
            return Ok(Found::DamagedPayload(header));
        };
        Ok(match frame::payload(rest, &header, salt) {
            Some(payload) => Found::Frame(header, payload),
            None => Found::DamagedPayload(header),
        })
    }

    /// Looks at every place behind `offset` where a frame could begin, in order or not.
    pub(super) fn behind(&mut self, mut offset: u64) -> Result<Behind> {
        let mut seen = Behind {
            newest_forced: None,
            end: offset,
        };
        let salt = self.segment.header.salt;
        loop {
            let part = READ_AHEAD_BYTES.min(self.segment.bytes.saturating_sub(offset));
            let Some(bytes) = self.bytes(offset, part)? else {
                return Ok(seen);
            };
            for (at, header) in frame::headers_in(bytes, salt) {
                seen.newest_forced = seen.newest_forced.max(Some(header.forced_through));
                seen.end = seen.end.max(offset + at as u64 + header.frame_bytes());
            }
            if offset + part >= self.segment.bytes {
                return Ok(seen);
            }
            // Parts overlap by a header less one step, so that none is missed on a boundary.
            offset += part - (frame::HEADER_BYTES as u64 - frame::ALIGNMENT);
        }
    }

    /// The bytes at `offset`, `None` if the segment ends before.
    pub(super) fn bytes(&mut self, offset: u64, len: u64) -> Result<Option<&[u8]>> {
        let end = offset.saturating_add(len);
        if end > self.segment.bytes {
            return Ok(None);
        }
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || end > window_end {
            let size = len.max(READ_AHEAD_BYTES).min(self.segment.bytes - offset);
            self.window.resize(index(size), 0);
            self.window_start = offset;
            self.segment
                .file
                .read_at(&mut self.window, offset)
                .map_err(|error| io_error("reading", self.disk, &self.segment.name(), &error))?;
        }
        let from = index(offset - self.window_start);
        Ok(Some(&self.window[from..from + index(len)]))
    }
}

/// A length that was checked against the file's, as an index in memory.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a part of a segment fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        assert_eq!(id_of(&file_name(0xabc)), Some(0xabc));
        assert_eq!(id_of_spare(&spare_name(1)), Some(1));
        for foreign in [
            "journal-0000000000000ABC.seg",
            "journal-+000000000000abc.seg",
            "journal-abc.seg",
            "journal-0000000000000abc.seg.tmp",
            "spare-0000000000000abc.seg",
            "journal-ffffffffffffffff.seg",
        ] {
            assert_eq!(id_of(foreign), None, "{foreign}");
        }
    }
}

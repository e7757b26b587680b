//! Reading a journal after a crash: what is there, what was torn, what is corrupt.
//!
//! The scan only reads. It walks the segments in order, and in each the frames, until the first place where the frame
//! of the expected group can't be read. The rule of [`super`] then decides: a proof anywhere behind that place that
//! the group had been forced makes it corruption, else the journal ends there.
//!
//! The repair makes what was read true on the medium too. Only groups that nothing in the journal proves to be
//! forced need that: after a force that failed, the page cache may show them although the disk lacks them. They are
//! written over themselves and forced, then the end gets a seal. A crash in the repair leaves either the same
//! groups or, where the disk did lack them, fewer: nobody was promised those.

use super::{
    frame::{self, FrameHeader},
    reader::{GroupRecords, JournalReader, Live, LiveSegments, require_first_lsn},
    record::Record,
    segment::{Found, HEADER_BYTES, Segment, SegmentReader, file_name, id_of, io_error},
    writer::Lsns,
};
use crate::{
    disk::Disk,
    error::{Error, Result},
    ids::{GroupNo, LARGEST_COUNTER, Lsn},
};
use std::{collections::VecDeque, sync::Arc};

/// Copied at once when groups are written over themselves.
const REWRITE_BYTES: u64 = 1 << 20;

/// What was found when the journal was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last LSN in the journal.
    pub last_lsn: Lsn,
    /// The last group.
    pub last_group: GroupNo,
    /// Groups read, those that were complete before included.
    pub groups: u64,
    /// Records that were handed on.
    pub records: u64,
    /// Bytes of torn frames that were cut off at the end.
    pub torn_bytes: u64,
}

/// What a check of the whole journal found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalReport {
    /// Segments, also those that are still empty.
    pub segments: usize,
    /// Whole groups.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// The first LSN that is there, or will be.
    pub first_lsn: Lsn,
    /// The last LSN that is there.
    pub last_lsn: Lsn,
    /// Bytes of torn frames at the end, which the next opening will cut off.
    pub torn_bytes: u64,
}

/// What a journal holds.
pub(super) struct Scan {
    /// All segments, oldest first.
    pub(super) segments: Vec<Live>,
    pub(super) recovery: Recovery,
    /// Where the first group begins, in the last segment with groups, that is not proven to be forced.
    unproven: Option<u64>,
}

impl Scan {
    /// The newest segment that holds groups.
    pub(super) fn last_holding(&self) -> Option<&Live> {
        self.segments.iter().rev().find(|live| !live.is_empty())
    }
}

/// The place where the journal ends, or is broken.
struct Gap {
    segment: Arc<Segment>,
    offset: u64,
    /// The group that should be there.
    group: GroupNo,
    reason: &'static str,
}

impl Gap {
    /// Fails if `newest_forced`, read behind the gap, proves that its group had been forced.
    fn check(&self, disk: &dyn Disk, newest_forced: Option<GroupNo>) -> Result<()> {
        match newest_forced {
            Some(forced) if forced >= self.group => Err(self.segment.corrupt(
                disk,
                self.offset,
                format!(
                    "{}, but group {} was forced (up to {forced})",
                    self.reason, self.group
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Reads the journal. `after` is the LSN up to which records are not needed any more; `None` checks all that there is.
pub(super) fn scan(
    disk: &dyn Disk,
    lsns: Lsns,
    after: Option<Lsn>,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<Scan> {
    let segments = open_segments(disk)?;
    let Some(first) = segments.first() else {
        return Err(Error::CorruptJournal {
            file: disk.path(&file_name(1)),
            offset: 0,
            reason: "there is no segment at all".into(),
        });
    };
    let mut walk = Walk {
        disk,
        lsns,
        after,
        visit,
        next: None,
        first_lsn: None,
        recovery: Recovery {
            last_lsn: first.header.forced_lsn,
            last_group: first.header.forced_through,
            ..Recovery::default()
        },
        unproven: VecDeque::new(),
    };
    let mut live = Vec::new();
    let mut gap: Option<Gap> = None;
    for segment in segments {
        let first_lsn = walk.recovery.last_lsn.next();
        let mut end = HEADER_BYTES;
        if let Some(gap) = &gap {
            let seen = SegmentReader::new(disk, &segment).behind(HEADER_BYTES)?;
            gap.check(
                disk,
                seen.newest_forced.max(Some(segment.header.forced_through)),
            )?;
        } else {
            (end, gap) = walk.segment(&segment)?;
        }
        live.push(Live {
            segment,
            end,
            first_lsn: if live.is_empty() {
                walk.first_lsn_of_all(first_lsn)
            } else {
                first_lsn
            },
            last_group: walk.recovery.last_group,
            last_lsn: walk.recovery.last_lsn,
        });
    }
    walk.require_through(&live)?;
    let unproven = walk.unproven.front().map(|&(_, offset)| offset);
    Ok(Scan {
        segments: live,
        recovery: walk.recovery,
        unproven,
    })
}

fn open_segments(disk: &dyn Disk) -> Result<Vec<Arc<Segment>>> {
    let names = disk
        .list()
        .map_err(|error| Error::io("listing the journal", &error))?;
    let mut ids: Vec<u64> = names.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    ids.into_iter()
        .map(|id| Segment::open(disk, id).map(Arc::new))
        .collect()
}

/// What comes next in the walk.
#[derive(Clone, Copy)]
struct Expected {
    group: GroupNo,
    lsn: Lsn,
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    lsns: Lsns,
    after: Option<Lsn>,
    visit: &'a mut dyn FnMut(Record) -> Result<()>,
    /// `None` until the first frame: what the oldest segment begins with depends on what was released.
    next: Option<Expected>,
    /// The first LSN that was read.
    first_lsn: Option<Lsn>,
    recovery: Recovery,
    /// Groups not proven to be forced, with their offsets.
    unproven: VecDeque<(GroupNo, u64)>,
}

impl Walk<'_> {
    /// Reads a segment's frames; returns where they end, and the gap if that is not a seal.
    fn segment(&mut self, segment: &Arc<Segment>) -> Result<(u64, Option<Gap>)> {
        let mut reader = SegmentReader::new(self.disk, segment);
        let mut offset = HEADER_BYTES;
        let reason = loop {
            match reader.frame_at(offset, |_| false)? {
                Found::Frame(header, payload) => {
                    self.expect(segment, offset, &header)?;
                    if header.is_seal() {
                        return Ok((offset, None));
                    }
                    self.unproven.push_back((header.number, offset));
                    self.take(
                        &GroupRecords {
                            disk: self.disk,
                            segment,
                            offset,
                        },
                        &header,
                        payload,
                    )?;
                    offset += header.frame_bytes();
                }
                Found::Nothing => break "no frame can be read here",
                Found::DamagedPayload(header) => {
                    self.expect(segment, offset, &header)?;
                    break "the payload of a frame is damaged";
                }
            }
        };
        let group = self.next.map_or_else(
            || segment.header.forced_through.next(),
            |expected| expected.group,
        );
        let gap = Gap {
            segment: Arc::clone(segment),
            offset,
            group,
            reason,
        };
        let seen = reader.behind(offset)?;
        self.recovery.torn_bytes = seen.end - offset;
        gap.check(self.disk, seen.newest_forced)?;
        gap.check(self.disk, Some(segment.header.forced_through))?;
        if self.next.is_none() && segment.header.forced_through > GroupNo(0) {
            let reason = "no group can be read, but there were some when the segment was prepared";
            return Err(segment.corrupt(self.disk, offset, reason.to_owned()));
        }
        Ok((offset, Some(gap)))
    }

    /// Checks a frame that is readable against the frames before it.
    fn expect(&mut self, segment: &Segment, offset: u64, header: &FrameHeader) -> Result<()> {
        let expected = match self.next {
            Some(expected) => expected,
            None => {
                match (self.after, self.lsns) {
                    (Some(after), Lsns::All) => {
                        require_first_lsn(self.disk, segment, header.first_lsn, after)?;
                    }
                    (Some(after), Lsns::Some) => require_no_forced_lsn(self.disk, segment, after)?,
                    (None, _) => {}
                }
                Expected {
                    group: header.number,
                    lsn: header.first_lsn,
                }
            }
        };
        let fits = header.number.0.max(header.last_lsn.0) <= LARGEST_COUNTER
            && header.number == expected.group
            && match self.lsns {
                Lsns::All => header.first_lsn == expected.lsn,
                Lsns::Some => header.first_lsn >= expected.lsn,
            }
            && header.forced_through < header.number
            && header.number > segment.header.forced_through
            && header.first_lsn > segment.header.forced_lsn
            && if header.is_seal() {
                header.forced_through.next() == header.number
            } else {
                header.last_lsn >= header.first_lsn
            };
        if !fits {
            let reason = format!(
                "group {} with LSN {} is missing, group {} with LSN {} follows",
                expected.group, expected.lsn, header.number, header.first_lsn
            );
            return Err(segment.corrupt(self.disk, offset, reason));
        }
        while self
            .unproven
            .front()
            .is_some_and(|&(group, _)| group <= header.forced_through)
        {
            self.unproven.pop_front();
        }
        Ok(())
    }

    fn take(
        &mut self,
        records: &GroupRecords<'_>,
        header: &FrameHeader,
        payload: &[u8],
    ) -> Result<()> {
        let after = self.after.unwrap_or(Lsn(0));
        if header.last_lsn > after {
            let (recovery, visit) = (&mut self.recovery, &mut self.visit);
            records.visit(header, payload, &mut |record| {
                if record.lsn <= after {
                    return Ok(());
                }
                recovery.records += 1;
                visit(record)
            })?;
        }
        self.first_lsn.get_or_insert(header.first_lsn);
        self.next = Some(Expected {
            group: header.number.next(),
            lsn: header.last_lsn.next(),
        });
        self.recovery.groups += 1;
        self.recovery.last_group = header.number;
        self.recovery.last_lsn = header.last_lsn;
        Ok(())
    }

    /// The first LSN that is in the oldest segment, or could be. It may begin later than its header can know: others were
    /// released before it. Where not all LSNs are here, the first that is needed could be.
    fn first_lsn_of_all(&self, by_header: Lsn) -> Lsn {
        let found = self.first_lsn.unwrap_or(by_header);
        match (self.lsns, self.after) {
            (Lsns::Some, Some(after)) => found.min(after.next()),
            _ => found,
        }
    }

    /// Fails if the journal ends before what is known to be complete elsewhere, or begins behind it. Where not all LSNs are
    /// here, only all journals together can tell.
    fn require_through(&self, live: &[Live]) -> Result<()> {
        if self.lsns == Lsns::Some {
            return Ok(());
        }
        let (Some(after), Some(first), Some(last)) = (self.after, live.first(), live.last()) else {
            return Ok(());
        };
        require_first_lsn(self.disk, &first.segment, first.first_lsn, after)?;
        if self.recovery.last_lsn < after {
            let end = live
                .iter()
                .rev()
                .find(|live| !live.is_empty())
                .unwrap_or(last);
            let reason = format!(
                "the journal ends at LSN {}, but went to {after}",
                self.recovery.last_lsn
            );
            return Err(end.segment.corrupt(self.disk, end.end, reason));
        }
        Ok(())
    }
}

/// Fails if records that come after `after` were forced before the oldest segment there is: what it knows of them is in its
/// header. That it begins later says nothing where not all LSNs are here.
fn require_no_forced_lsn(disk: &dyn Disk, oldest: &Segment, after: Lsn) -> Result<()> {
    let header = &oldest.header;
    if header.forced_through > GroupNo(0) && header.forced_lsn > after {
        let reason = format!(
            "the journal begins behind LSN {}, but all after {after} is needed",
            header.forced_lsn
        );
        return Err(oldest.corrupt(disk, 0, reason));
    }
    Ok(())
}

/// A journal that was read and is as it was found. It can be read further, and becomes a [`Journal`](super::Journal) when it is repaired.
pub struct Scanned {
    disk: Arc<dyn Disk>,
    lsns: Lsns,
    scan: Scan,
}

impl Scanned {
    /// Reads a journal and calls `visit` with every record whose LSN is greater than `after`, or with all of them.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`](super::Journal::open), but for those of writing.
    pub fn read(
        disk: Arc<dyn Disk>,
        lsns: Lsns,
        after: Option<Lsn>,
        visit: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<Self> {
        let scan = scan(&*disk, lsns, after, visit)?;
        Ok(Self { disk, lsns, scan })
    }

    /// What was found.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.scan.recovery
    }

    /// The same, as the report of a check.
    #[must_use]
    pub fn report(&self) -> JournalReport {
        report(&self.scan)
    }

    /// Reads it again. Not for longer than it stays as it is.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        let live = LiveSegments::default();
        live.lock().clone_from(&self.scan.segments);
        JournalReader {
            disk: Arc::clone(&self.disk),
            live,
            lsns: self.lsns,
            voids: Arc::default(),
        }
    }

    pub(super) fn into_parts(self) -> (Arc<dyn Disk>, Scan) {
        (self.disk, self.scan)
    }
}

/// Makes what `scan` has read durable, and seals the end.
pub(super) fn repair(disk: &dyn Disk, scan: &Scan) -> Result<()> {
    let Some(last) = scan.last_holding() else {
        return Ok(());
    };
    let name = last.segment.name();
    let file = &last.segment.file;
    let failed = |error| io_error("repairing", disk, &name, &error);
    if let Some(mut offset) = scan.unproven {
        let mut reader = SegmentReader::new(disk, &last.segment);
        while offset < last.end {
            let part = REWRITE_BYTES.min(last.end - offset);
            let bytes = reader
                .bytes(offset, part)?
                .expect("the scan has read these bytes");
            file.write_at(bytes, offset).map_err(failed)?;
            offset += part;
        }
        file.force().map_err(failed)?;
    }
    // The seal says that everything before it is forced, so it comes after the force. It is written even where it
    // was read: nothing proves yet that it is on the medium, and the next segment's frames will demand it.
    let mut seal = Vec::new();
    let header = FrameHeader::seal(scan.recovery.last_group.next(), scan.recovery.last_lsn);
    frame::encode(&mut seal, &header, &[], last.segment.header.salt);
    file.write_at(&seal, last.end).map_err(failed)?;
    file.force().map_err(failed)
}

/// Checks every frame and record of a journal that nobody has open, and changes nothing.
///
/// # Errors
///
/// [`Error::CorruptJournal`], [`Error::NewerFormat`] or [`Error::Io`].
pub fn verify(disk: &dyn Disk) -> Result<JournalReport> {
    verify_records(disk, &mut |_| Ok(()))
}

/// As [`verify`], and shows every record in order.
///
/// # Errors
///
/// As [`verify`], and those of `visit`.
pub fn verify_records(
    disk: &dyn Disk,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<JournalReport> {
    Ok(report(&scan(disk, Lsns::All, None, visit)?))
}

fn report(scan: &Scan) -> JournalReport {
    JournalReport {
        segments: scan.segments.len(),
        groups: scan.recovery.groups,
        records: scan.recovery.records,
        bytes: scan
            .segments
            .iter()
            .map(|live| live.end - HEADER_BYTES)
            .sum(),
        first_lsn: scan.segments[0].first_lsn,
        last_lsn: scan.recovery.last_lsn,
        torn_bytes: scan.recovery.torn_bytes,
    }
}

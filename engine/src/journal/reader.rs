//! Replaying while the journal goes on: how a restarted node gets back what it had.
//!
//! A replay takes the list of segments, with how far each is written, at one moment, and holds the segments' files
//! until it has ended. A segment that is released meanwhile is removed and not recycled, so what the replay reads never
//! changes under it.
//!
//! The journal of one directory of several has what concerns that directory, and is complete up to wherever all of them
//! together are known to be. Of what is spread a replay shows the part that is here, and nothing of what is void.

use super::{
    frame::FrameHeader,
    record::{self, DecodeError, Record, RecordBody},
    recovery::JournalReport,
    segment::{FORMAT_VERSION, Found, HEADER_BYTES, Segment, SegmentReader},
    writer::Lsns,
};
use crate::{
    directories::Voids,
    disk::Disk,
    error::{Error, Result},
    ids::{GroupNo, Lsn},
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A cursor reads on until so many bytes of payload are in memory.
const CURSOR_BYTES: u64 = 1 << 20;

/// A segment in use and what is in it.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) segment: Arc<Segment>,
    /// Where the next frame or the seal goes.
    pub(super) end: u64,
    /// The first LSN that is in it, or will be.
    pub(super) first_lsn: Lsn,
    /// The last group in it, or before it.
    pub(super) last_group: GroupNo,
    /// The last LSN of that group.
    pub(super) last_lsn: Lsn,
}

impl Live {
    pub(super) fn is_empty(&self) -> bool {
        self.end == HEADER_BYTES
    }
}

/// The segments in use, oldest first: written by the journal, read by its readers.
#[derive(Clone, Default)]
pub(super) struct LiveSegments(Arc<Mutex<Vec<Live>>>);

impl LiveSegments {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Live>> {
        // Nothing under this lock panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a journal that is in use. Cheap to clone; works on when the journal is read-only or gone.
#[derive(Clone)]
pub struct JournalReader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) live: LiveSegments,
    pub(super) lsns: Lsns,
    pub(super) voids: Arc<Voids>,
}

impl JournalReader {
    /// This reader, which knows what is void.
    #[must_use]
    pub fn without(self, voids: Arc<Voids>) -> Self {
        Self { voids, ..self }
    }

    /// The records that are written now above `after`, one by one as they are in this journal: what is spread is shown as
    /// such, and what is void too.
    #[must_use]
    pub fn cursor(&self, after: Lsn) -> RecordCursor {
        RecordCursor {
            disk: Arc::clone(&self.disk),
            live: self.live.lock().clone().into(),
            offset: HEADER_BYTES,
            after,
            read: VecDeque::new(),
        }
    }

    /// Calls `visit` with every record that is written now and has `after < lsn <= through`, in order, and returns the
    /// LSN up to which that is complete: `through`, or the last that is written. Of a journal that is one of several the
    /// caller knows that all are written up to `through`.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptJournal`] if a record can't be read back, or if LSNs behind `after` were released already; the
    /// error of `visit`; [`Error::Io`].
    pub fn replay(
        &self,
        after: Lsn,
        through: Lsn,
        visit: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<Lsn> {
        let live = self.live.lock().clone();
        let (oldest, newest) = live
            .first()
            .zip(live.last())
            .expect("a journal has a segment");
        require_first_lsn(&*self.disk, &oldest.segment, oldest.first_lsn, after)?;
        let through = match self.lsns {
            Lsns::All => through.min(newest.last_lsn),
            Lsns::Some => through,
        };
        for live in live
            .iter()
            .filter(|l| l.last_lsn > after && l.first_lsn <= through)
        {
            self.walk(
                live,
                |offset, header, payload| {
                    if header.first_lsn > through {
                        return Ok(());
                    }
                    let mut visit = |record: Record| {
                        let is_wanted = record.lsn > after && record.lsn <= through;
                        if !is_wanted || self.voids.contains(record.lsn) {
                            return Ok(());
                        }
                        visit(match record.body {
                            RecordBody::Spread { body, .. } => Record {
                                body: *body,
                                ..record
                            },
                            _ => record,
                        })
                    };
                    let records = GroupRecords {
                        disk: &*self.disk,
                        segment: &live.segment,
                        offset,
                    };
                    records.visit(header, payload, &mut visit).map(drop)
                },
                |header| header.last_lsn <= after || header.first_lsn > through,
            )?;
        }
        Ok(through)
    }

    /// Checks every frame and record that is written now.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptJournal`] or [`Error::Io`].
    pub fn verify(&self) -> Result<JournalReport> {
        let live = self.live.lock().clone();
        let (oldest, newest) = live
            .first()
            .zip(live.last())
            .expect("a journal has a segment");
        let mut report = JournalReport {
            segments: live.len(),
            first_lsn: oldest.first_lsn,
            last_lsn: newest.last_lsn,
            ..JournalReport::default()
        };
        for live in &live {
            self.walk(
                live,
                |offset, header, payload| {
                    let records = GroupRecords {
                        disk: &*self.disk,
                        segment: &live.segment,
                        offset,
                    };
                    report.groups += 1;
                    report.records += records.visit(header, payload, &mut |_| Ok(()))?;
                    Ok(())
                },
                |_| false,
            )?;
            report.bytes += live.end - HEADER_BYTES;
        }
        Ok(report)
    }

    /// Calls `visit` with each frame of a segment, without payload where `skip` says so.
    fn walk(
        &self,
        live: &Live,
        mut visit: impl FnMut(u64, &FrameHeader, &[u8]) -> Result<()>,
        skip: impl Fn(&FrameHeader) -> bool,
    ) -> Result<()> {
        let mut reader = SegmentReader::new(&*self.disk, &live.segment);
        let mut offset = HEADER_BYTES;
        while offset < live.end {
            match reader.frame_at(offset, &skip)? {
                Found::Frame(header, payload) => {
                    if !skip(&header) {
                        visit(offset, &header, payload)?;
                    }
                    offset += header.frame_bytes();
                }
                Found::Nothing | Found::DamagedPayload(_) => {
                    return Err(unreadable(&*self.disk, live, offset));
                }
            }
        }
        Ok(())
    }
}

/// Reads the records of a journal one by one.
pub struct RecordCursor {
    disk: Arc<dyn Disk>,
    live: VecDeque<Live>,
    /// Where the next frame of the first of these segments is.
    offset: u64,
    after: Lsn,
    read: VecDeque<Record>,
}

impl RecordCursor {
    /// The next record, which stays the next.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptJournal`] if a record can't be read back; [`Error::Io`].
    pub fn peek(&mut self) -> Result<Option<&Record>> {
        while self.read.is_empty() && !self.live.is_empty() {
            self.read_on()?;
        }
        Ok(self.read.front())
    }

    /// Takes the record that [`RecordCursor::peek`] has shown.
    pub fn take(&mut self) -> Option<Record> {
        self.read.pop_front()
    }

    fn read_on(&mut self) -> Result<()> {
        let live = &self.live[0];
        let mut reader = SegmentReader::new(&*self.disk, &live.segment);
        let mut bytes = 0;
        while self.offset < live.end && bytes < CURSOR_BYTES {
            let after = self.after;
            let skip = |header: &FrameHeader| header.last_lsn <= after;
            let Found::Frame(header, payload) = reader.frame_at(self.offset, skip)? else {
                return Err(unreadable(&*self.disk, live, self.offset));
            };
            if !skip(&header) {
                let records = GroupRecords {
                    disk: &*self.disk,
                    segment: &live.segment,
                    offset: self.offset,
                };
                records.visit(&header, payload, &mut |record| {
                    if record.lsn > after {
                        self.read.push_back(record);
                    }
                    Ok(())
                })?;
                bytes += u64::from(header.payload_bytes);
            }
            self.offset += header.frame_bytes();
        }
        if self.offset >= live.end {
            self.live.pop_front();
            self.offset = HEADER_BYTES;
        }
        Ok(())
    }
}

fn unreadable(disk: &dyn Disk, live: &Live, offset: u64) -> Error {
    let reason = "a frame that was written can't be read back".to_owned();
    live.segment.corrupt(disk, offset, reason)
}

/// Fails if a journal that begins at `first_lsn` lacks something that comes after `after`.
pub(super) fn require_first_lsn(
    disk: &dyn Disk,
    oldest: &Segment,
    first_lsn: Lsn,
    after: Lsn,
) -> Result<()> {
    if first_lsn > after.next() {
        let reason =
            format!("the journal begins at LSN {first_lsn}, but all after {after} is needed");
        return Err(oldest.corrupt(disk, 0, reason));
    }
    Ok(())
}

/// The records of one frame.
pub(super) struct GroupRecords<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) segment: &'a Segment,
    /// Where the frame begins.
    pub(super) offset: u64,
}

impl GroupRecords<'_> {
    /// Decodes the records, checks their LSNs against the frame's, and returns how many there are.
    pub(super) fn visit(
        &self,
        header: &FrameHeader,
        payload: &[u8],
        visit: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<u64> {
        let mut count = 0;
        let mut last = None;
        for record in record::decode_all(&Bytes::copy_from_slice(payload)) {
            let record = record.map_err(|error| self.error(error))?;
            let in_order = match last {
                None => record.lsn == header.first_lsn,
                Some(last) => record.lsn > last,
            };
            if !in_order {
                return Err(self.corrupt(format!("LSN {} is out of order", record.lsn)));
            }
            last = Some(record.lsn);
            count += 1;
            visit(record)?;
        }
        if last != Some(header.last_lsn) {
            return Err(self.corrupt(format!("a group does not end at LSN {}", header.last_lsn)));
        }
        Ok(count)
    }

    fn error(&self, error: DecodeError) -> Error {
        match error {
            DecodeError::Malformed { offset, reason } => {
                self.corrupt(format!("byte {offset} of the group: {reason}"))
            }
            // A kind is added only together with a version, which this one must have at least.
            DecodeError::UnknownKind { .. } => Error::NewerFormat {
                file: self.disk.path(&self.segment.name()),
                found: FORMAT_VERSION + 1,
                supported: FORMAT_VERSION,
            },
        }
    }

    fn corrupt(&self, reason: String) -> Error {
        self.segment.corrupt(self.disk, self.offset, reason)
    }
}

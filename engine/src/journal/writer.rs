//! The one writer of a journal.

use super::{
    frame::{self, FrameHeader, SEAL_BYTES},
    reader::{JournalReader, Live, LiveSegments},
    record::Record,
    recovery::{Recovery, repair, scan},
    segment::{HEADER_BYTES, Segment, SegmentHeader, id_of, id_of_spare, io_error, spare_name},
    spare::{Spare, SpareRequest},
};
use crate::{
    disk::Disk,
    error::{Error, Result},
    ids::{GroupNo, Lsn},
};
use std::{io, sync::Arc};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The first segment after an opening, if that is not more than the standard: the next have twice as much each.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
const LEAST_SEGMENT_BYTES: u64 = 4 << 10;
/// Released segments that wait to be used again.
const RECYCLED_AT_MOST: usize = 2;
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
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 32 << 20,
            salt: 0,
        }
    }
}

/// What one write appends and one force makes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number, which follows that of the group before.
    pub number: GroupNo,
    /// The LSN of its first record, which follows the last one of the group before.
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
    /// Creates the journal of a new directory. Its first record will have the LSN after `base`.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptJournal`] if there is a journal that holds groups (an empty one, of a creation that was cut
    /// short, is replaced); [`Error::DiskFull`]; [`Error::Io`].
    pub fn create(disk: Arc<dyn Disk>, options: JournalOptions, base: Lsn) -> Result<Self> {
        let names = list(&*disk)?;
        let mut leftover = Vec::new();
        if names.iter().any(|name| id_of(name).is_some()) {
            let found = scan(&*disk, None, &mut |_| Ok(()))?;
            if let Some(live) = found.last_holding() {
                let reason = "there are commits in this journal, a new one would lose them";
                return Err(live.segment.corrupt(&*disk, 0, reason.to_owned()));
            }
            leftover = found.segments;
        }
        let origin = Mark {
            group: GroupNo(0),
            lsn: base,
        };
        Self::start(disk, options, origin, &names, Vec::new(), leftover)
    }

    /// Opens a journal and calls `visit` with every record whose LSN is greater than `after`, in order. What it reads
    /// is made durable before it returns. If it fails, what `visit` was given must be forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptJournal`] if something that was forced can't be read back, or if the journal does not reach from
    /// `after` on or up to it; [`Error::NewerFormat`]; the error of `visit`; [`Error::DiskFull`]; [`Error::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        after: Lsn,
        visit: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<(Self, Recovery)> {
        let scan = scan(&*disk, Some(after), visit)?;
        repair(&*disk, &scan)?;
        let names = list(&*disk)?;
        let origin = Mark {
            group: scan.recovery.last_group,
            lsn: scan.recovery.last_lsn,
        };
        let (holding, empty) = scan.segments.into_iter().partition(|live| !live.is_empty());
        let journal = Self::start(disk, options, origin, &names, holding, empty)?;
        Ok((journal, scan.recovery))
    }

    /// A journal that goes on behind `origin` in a new segment.
    fn start(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        origin: Mark,
        names: &[String],
        holding: Vec<Live>,
        empty: Vec<Live>,
    ) -> Result<Self> {
        let mut salts = options.salt;
        for live in holding.iter().chain(&empty) {
            salts = xxh3_64_with_seed(&live.segment.header.salt.to_le_bytes(), salts);
        }
        let ids = names
            .iter()
            .filter_map(|name| id_of(name).or_else(|| id_of_spare(name)));
        let mut next_id = ids.max().unwrap_or(0) + 1;
        let segment_bytes = options.segment_bytes.max(LEAST_SEGMENT_BYTES);
        let mut recycled = leftover_spares(&*disk, names, segment_bytes)?;
        let mut requested = 0;
        let request = next_request(
            &mut next_id,
            &mut salts,
            &mut requested,
            segment_bytes,
            origin,
        );
        let request = SpareRequest {
            recycled: recycled.pop(),
            ..request
        };
        let active = Arc::new(
            with_length(request, segment_bytes)
                .prepare(&*disk)?
                .publish(&*disk)?,
        );
        let live = LiveSegments::default();
        *live.lock() = holding;
        let mut journal = Self {
            disk,
            segment_bytes,
            live,
            active: Arc::clone(&active),
            position: HEADER_BYTES,
            written: origin,
            forced: origin,
            spare: None,
            spare_is_under_way: false,
            recycled,
            next_id,
            salts,
            segments_requested: requested,
            scratch: Vec::new(),
            broken: None,
        };
        // Empty segments go before the new one takes a frame, and not before it is there: a journal always has one.
        for live in empty {
            journal.retire(&live.segment)?;
        }
        journal.activate(active);
        Ok(journal)
    }

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
        assert_eq!(
            group.first_lsn,
            self.written.lsn.next(),
            "a group follows the last LSN"
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

    /// What the next segment must be, if none is prepared or under way. Prepare it on another thread and give the
    /// outcome to [`Journal::add_spare`].
    /// A spare that has no room for a group of `payload_bytes` counts as none.
    pub fn spare_request(&mut self, payload_bytes: u64) -> Option<SpareRequest> {
        let is_ready = self.spare_room().is_some_and(|room| room >= payload_bytes);
        if is_ready || self.spare_is_under_way || self.broken.is_some() {
            return None;
        }
        self.spare_is_under_way = true;
        Some(self.request(HEADER_BYTES + frame::frame_bytes(payload_bytes) + SEAL_BYTES))
    }

    /// Payload bytes of the largest group that still fits into the active segment.
    #[must_use]
    pub fn room(&self) -> u64 {
        room(self.active.bytes.saturating_sub(self.position))
    }

    /// Payload bytes of the largest group that fits into the spare segment, if one is ready.
    #[must_use]
    pub fn spare_room(&self) -> Option<u64> {
        let spare = self.spare.as_ref()?;
        Some(room(spare.bytes - HEADER_BYTES))
    }

    /// Takes what became of a [`SpareRequest`].
    ///
    /// # Errors
    ///
    /// The error of a preparation that failed, which harms nothing: ask again later. [`Error::ReadOnly`] if the file
    /// can't be given its name, or anything failed earlier.
    pub fn add_spare(&mut self, outcome: Result<Spare>) -> Result<()> {
        self.spare_is_under_way = false;
        self.writable()?;
        let spare = outcome?;
        let is_larger = |old: &Arc<Segment>| spare.bytes() > old.bytes;
        if spare.id() > self.active.header.id && self.spare.as_ref().is_none_or(is_larger) {
            if let Some(too_small) = self.spare.take() {
                self.retire(&too_small).map_err(|error| self.fail(&error))?;
            }
            let published = spare
                .publish(&*self.disk)
                .map_err(|error| self.fail(&error))?;
            self.spare = Some(Arc::new(published));
        } else if spare.bytes() == self.segment_bytes && self.recycled.len() < RECYCLED_AT_MOST {
            // The journal could not wait for it and has gone on: segments are used in the order of their numbers.
            self.recycled.push(spare.name().to_owned());
        } else {
            let name = spare.name();
            self.disk
                .remove(name)
                .map_err(|error| io_error("removing", &*self.disk, name, &error))?;
        }
        Ok(())
    }

    /// Lets go of the segments whose LSNs are all at most `through`. They are recycled, or removed. The newest segment
    /// with a forced group stays.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a file can't be renamed or removed: call again later. [`Error::ReadOnly`] if anything failed
    /// earlier.
    pub fn release(&mut self, through: Lsn) -> Result<()> {
        self.writable()?;
        loop {
            let oldest = {
                let mut segments = self.live.lock();
                let oldest = &segments[0];
                // Only behind a later group that is forced: else a crash could leave a journal without its end.
                if oldest.last_lsn > through || oldest.last_group >= self.forced.group {
                    return Ok(());
                }
                segments.remove(0)
            };
            if let Err(error) = self.retire(&oldest.segment) {
                self.live.lock().insert(0, oldest);
                return Err(error);
            }
        }
    }

    /// A reader of what is written, also of what will be.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader {
            disk: Arc::clone(&self.disk),
            live: self.live.clone(),
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

    /// The last group that is written.
    #[must_use]
    pub fn last_group(&self) -> GroupNo {
        self.written.group
    }

    /// Goes on to a segment with room for a frame of `frame_bytes`.
    fn advance(&mut self, frame_bytes: u64) -> Result<()> {
        let needed = HEADER_BYTES + frame_bytes + SEAL_BYTES;
        let next = match self.spare.take() {
            Some(spare) if spare.bytes >= needed => spare,
            too_small => match self.request(needed).prepare(&*self.disk) {
                Ok(prepared) => {
                    // Its number is lower, and segments are used in the order of their numbers.
                    if let Some(spare) = too_small {
                        self.retire(&spare).map_err(|error| self.fail(&error))?;
                    }
                    let published = prepared.publish(&*self.disk);
                    Arc::new(published.map_err(|error| self.fail(&error))?)
                }
                Err(error) => {
                    self.spare = too_small;
                    let clears = matches!(error, Error::DiskFull { .. });
                    return Err(if clears { error } else { self.fail(&error) });
                }
            },
        };
        if self.position > HEADER_BYTES {
            self.force()?;
            self.seal()?;
        } else {
            // The group is too large for a segment that has not been used yet.
            let unused = self
                .live
                .lock()
                .pop()
                .expect("the active segment is in use");
            self.retire(&unused.segment)
                .map_err(|error| self.fail(&error))?;
        }
        self.activate(next);
        Ok(())
    }

    fn activate(&mut self, segment: Arc<Segment>) {
        self.position = HEADER_BYTES;
        self.active = Arc::clone(&segment);
        self.live.lock().push(Live {
            segment,
            end: HEADER_BYTES,
            first_lsn: self.written.lsn.next(),
            last_group: self.written.group,
            last_lsn: self.written.lsn,
        });
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

    fn request(&mut self, needed: u64) -> SpareRequest {
        let (id, salts, requested) = (
            &mut self.next_id,
            &mut self.salts,
            &mut self.segments_requested,
        );
        let mut request = next_request(id, salts, requested, self.segment_bytes, self.forced);
        if needed > self.segment_bytes {
            request.bytes = needed.next_multiple_of(LEAST_SEGMENT_BYTES);
        } else {
            request.bytes = request
                .bytes
                .max(needed.next_multiple_of(LEAST_SEGMENT_BYTES));
            request.recycled = self.recycled.pop();
        }
        with_length(request, self.segment_bytes)
    }

    /// Makes a segment that is not needed any more a recycled file, or removes it.
    fn retire(&mut self, segment: &Arc<Segment>) -> Result<()> {
        let (name, id, bytes) = (segment.name(), segment.header.id, segment.bytes);
        // A replay that reads the file must not see it change; after a removal it keeps what it has open.
        let is_free = Arc::strong_count(segment) == 1;
        let room = self.recycled.len() < RECYCLED_AT_MOST;
        let outcome = if is_free && room && bytes == self.segment_bytes {
            let spare = spare_name(id);
            self.disk
                .rename(&name, &spare)
                .map(|()| self.recycled.push(spare))
        } else {
            self.disk.remove(&name)
        };
        match outcome {
            // An earlier attempt did it, but could not say so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("releasing", &*self.disk, &name, &error)),
            Ok(()) => Ok(()),
        }
    }

    fn writable(&self) -> Result<()> {
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

fn list(disk: &dyn Disk) -> Result<Vec<String>> {
    disk.list()
        .map_err(|error| Error::io("listing the journal", &error))
}

/// The request of a segment of the usual length.
fn next_request(
    next_id: &mut u64,
    salts: &mut u64,
    requested: &mut u32,
    segment_bytes: u64,
    forced: Mark,
) -> SpareRequest {
    let id = *next_id;
    *next_id += 1;
    *salts = xxh3_64_with_seed(&id.to_le_bytes(), *salts);
    let doubled = FIRST_SEGMENT_BYTES << (*requested).min(32);
    *requested = requested.saturating_add(1);
    SpareRequest {
        header: SegmentHeader {
            id,
            salt: *salts,
            forced_through: forced.group,
            forced_lsn: forced.lsn,
        },
        bytes: doubled.min(segment_bytes),
        recycled: None,
    }
}

/// A recycled file has the standard length, whatever was asked for.
fn with_length(request: SpareRequest, segment_bytes: u64) -> SpareRequest {
    let bytes = if request.recycled.is_some() {
        segment_bytes
    } else {
        request.bytes
    };
    SpareRequest { bytes, ..request }
}

/// The spare files of earlier openings that can be used again; the others are removed.
fn leftover_spares(disk: &dyn Disk, names: &[String], segment_bytes: u64) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    for name in names.iter().filter(|name| id_of_spare(name).is_some()) {
        let is_standard = disk.open(name).and_then(|file| file.len());
        let is_standard = is_standard.map_err(|error| io_error("opening", disk, name, &error))?;
        if is_standard == segment_bytes && kept.len() < RECYCLED_AT_MOST {
            kept.push(name.clone());
        } else {
            disk.remove(name)
                .map_err(|error| io_error("removing", disk, name, &error))?;
        }
    }
    Ok(kept)
}

/// The largest payload whose frame, and a seal behind it, take at most so many bytes.
fn room(bytes: u64) -> u64 {
    let around = SEAL_BYTES + frame::frame_bytes(0);
    bytes.saturating_sub(around) / 8 * 8
}

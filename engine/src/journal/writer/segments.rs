//! Where a writer writes next: the active segment, the spare that follows it, and the files that come round again.

use super::{Journal, Mark};
use crate::{
    error::{Error, Result},
    ids::Lsn,
    journal::{
        frame::{self, SEAL_BYTES},
        reader::Live,
        segment::{HEADER_BYTES, Segment, SegmentHeader, io_error, spare_name},
        spare::{Spare, SpareRequest},
    },
};
use std::{io, sync::Arc};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The first segment after an opening, if that is not more than the standard: the next have twice as much each.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
pub(super) const LEAST_SEGMENT_BYTES: u64 = 4 << 10;
/// Released segments that wait to be used again.
pub(super) const RECYCLED_AT_MOST: usize = 2;

impl Journal {
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

    /// Goes on to a segment with room for a frame of `frame_bytes`.
    pub(super) fn advance(&mut self, frame_bytes: u64) -> Result<()> {
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

    pub(super) fn activate(&mut self, segment: Arc<Segment>) {
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

    pub(super) fn request(&mut self, needed: u64) -> SpareRequest {
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
    pub(super) fn retire(&mut self, segment: &Arc<Segment>) -> Result<()> {
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
}

/// The request of a segment of the usual length.
pub(super) fn next_request(
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
pub(super) fn with_length(request: SpareRequest, segment_bytes: u64) -> SpareRequest {
    let bytes = if request.recycled.is_some() {
        segment_bytes
    } else {
        request.bytes
    };
    SpareRequest { bytes, ..request }
}

/// The largest payload whose frame, and a seal behind it, take at most so many bytes.
fn room(bytes: u64) -> u64 {
    let around = SEAL_BYTES + frame::frame_bytes(0);
    bytes.saturating_sub(around) / 8 * 8
}

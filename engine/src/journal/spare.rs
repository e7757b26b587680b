//! Segments prepared ahead, off the journal's thread: filling megabytes with zeros and forcing them takes longer
//! than a commit should wait.
//!
//! A spare gets the name of a segment only when its new header is durable. A crash in between leaves a file that
//! is called a spare, which the next opening recycles or removes.

use super::segment::{HEADER_BYTES, Segment, SegmentHeader, file_name, io_error, spare_name};
#[cfg(doc)]
use crate::error::Error;
use crate::{disk::Disk, error::Result};
use std::{io, sync::Arc};

/// What the next segment must be. Made by [`Journal::spare_request`](super::Journal::spare_request).
#[derive(Debug)]
pub struct SpareRequest {
    pub(super) header: SegmentHeader,
    pub(super) bytes: u64,
    /// A file of this length to use again.
    pub(super) recycled: Option<String>,
}

/// A file that is ready to become a segment.
pub struct Spare {
    name: String,
    segment: Segment,
}

impl SpareRequest {
    /// Prepares the file: blocks until it is filled and forced. The outcome, good or bad, belongs to
    /// [`Journal::add_spare`](super::Journal::add_spare).
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`] where there is no room, [`Error::Io`] else. The file is removed if that is possible.
    pub fn prepare(self, disk: &dyn Disk) -> Result<Spare> {
        let name = self
            .recycled
            .clone()
            .unwrap_or_else(|| spare_name(self.header.id));
        self.prepare_file(disk, &name).map_err(|error| {
            // The room is worth more than the file. If this fails too, the next opening cleans up.
            let _ = disk.remove(&name);
            io_error("preparing", disk, &name, &error)
        })
    }

    fn prepare_file(self, disk: &dyn Disk, name: &str) -> io::Result<Spare> {
        let file = match self.recycled {
            Some(_) => disk.open(name)?,
            None => disk.create(name, self.bytes)?,
        };
        // What a recycled file holds below the header needs no erasing: another salt makes it unreadable.
        file.write_at(&self.header.encode(), 0)?;
        file.force()?;
        let segment = Segment {
            header: self.header,
            file: Arc::from(file),
            bytes: self.bytes,
        };
        debug_assert!(self.bytes > HEADER_BYTES, "a segment has room for a frame");
        Ok(Spare {
            name: name.to_owned(),
            segment,
        })
    }
}

impl Spare {
    pub(super) fn id(&self) -> u64 {
        self.segment.header.id
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segment.bytes
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Gives the file its name as a segment.
    pub(super) fn publish(self, disk: &dyn Disk) -> Result<Segment> {
        let name = file_name(self.id());
        disk.rename(&self.name, &name)
            .map_err(|error| io_error("renaming a spare to", disk, &name, &error))?;
        Ok(self.segment)
    }
}

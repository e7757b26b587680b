//! How a writer begins: a new journal, or one that is recovered, goes on in a new segment.

use super::{
    Journal, JournalOptions, Mark,
    segments::{LEAST_SEGMENT_BYTES, RECYCLED_AT_MOST, next_request, with_length},
};
use crate::{
    disk::Disk,
    error::{Error, Result},
    ids::{GroupNo, Lsn},
    journal::{
        reader::{Live, LiveSegments},
        record::Record,
        recovery::{Recovery, Scanned, repair, scan},
        segment::{HEADER_BYTES, id_of, id_of_spare, io_error},
        spare::SpareRequest,
    },
};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

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
            let found = scan(&*disk, options.lsns, None, &mut |_| Ok(()))?;
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
        let scanned = Scanned::read(disk, options.lsns, Some(after), visit)?;
        let recovery = scanned.recovery();
        Ok((Self::repair(scanned, options)?, recovery))
    }

    /// Opens a journal that was read. What was read is made durable before it returns.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`]; [`Error::Io`].
    pub fn repair(scanned: Scanned, options: JournalOptions) -> Result<Self> {
        let (disk, scan) = scanned.into_parts();
        repair(&*disk, &scan)?;
        let names = list(&*disk)?;
        let origin = Mark {
            group: scan.recovery.last_group,
            lsn: scan.recovery.last_lsn,
        };
        let (holding, empty) = scan.segments.into_iter().partition(|live| !live.is_empty());
        Self::start(disk, options, origin, &names, holding, empty)
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
            lsns: options.lsns,
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
}

fn list(disk: &dyn Disk) -> Result<Vec<String>> {
    disk.list()
        .map_err(|error| Error::io("listing the journal", &error))
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

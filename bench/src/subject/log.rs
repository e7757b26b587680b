//! A bare log: one preallocated, zero-filled file that is overwritten in order and forced once a group. No
//! checksum, no index, nothing can be read back. The ceiling of what a durable put can cost on a disk.
//!
//! A log so short that each record starts it again is the raw force: the same bytes overwritten and forced.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard};

use super::{Durability, Entry, Settings, Store};
use crate::calibration::preallocated;
use crate::{Fault, Result};

/// Where the log starts again.
pub(super) const LOG_BYTES: u64 = 64 << 20;

/// The log.
pub(crate) struct BareLog {
    file: File,
    forced: bool,
    bytes: u64,
    tail: Mutex<Tail>,
}

#[derive(Default)]
struct Tail {
    offset: u64,
    buffer: Vec<u8>,
}

impl BareLog {
    /// A log that starts again when so many bytes are full.
    ///
    /// # Errors
    ///
    /// If the file can't be made.
    pub(crate) fn open(settings: &Settings, bytes: u64) -> Result<Self> {
        let file = preallocated(&settings.dir.join("log"), bytes)?;
        let forced = settings.durability == Durability::Always;
        Ok(Self {
            file,
            forced,
            bytes,
            tail: Mutex::default(),
        })
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Writes what was encoded by others, and forces it if it is opened so.
    ///
    /// # Errors
    ///
    /// If the file can't be written or forced.
    pub(super) fn append(&self, records: &mut Vec<u8>) -> Result<()> {
        let mut tail = self.tail();
        std::mem::swap(&mut tail.buffer, records);
        tail.write(self)
    }
}

/// Puts a record behind others: two lengths, key, value.
pub(super) fn encode(buffer: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    buffer.reserve(8 + key.len() + value.len());
    buffer.extend_from_slice(&(key.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&(value.len() as u32).to_le_bytes());
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(value);
}

/// What whoever reads gets.
pub(super) fn unreadable<T>() -> Result<T> {
    Err(Fault::from("a bare log can't be read"))
}

impl Tail {
    fn write(&mut self, log: &BareLog) -> Result<()> {
        if self.offset + self.buffer.len() as u64 > log.bytes {
            self.offset = 0;
        }
        log.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        match log.forced {
            true => Ok(log.file.sync_data()?),
            false => Ok(()),
        }
    }
}

impl Store for BareLog {
    fn get(&self, _key: &[u8]) -> Result<Option<usize>> {
        unreadable()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_many(&[(key.to_vec(), value.to_vec())])
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        let mut tail = self.tail();
        tail.buffer.clear();
        for (key, value) in entries {
            encode(&mut tail.buffer, key, value);
        }
        tail.write(self)
    }

    fn scan(&self, _from: &[u8], _limit: usize) -> Result<usize> {
        unreadable()
    }

    fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }
}

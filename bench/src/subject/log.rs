//! A bare log: one preallocated, zero-filled file that is overwritten in order and forced once a group. No
//! checksum, no index, nothing can be read back. The ceiling of what a durable put can cost on a disk.
//!
//! A log so short that each record starts it again is the raw force: the same bytes overwritten and forced.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

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
}

impl Store for BareLog {
    fn get(&self, _key: &[u8]) -> Result<Option<usize>> {
        Err(Fault::from("a bare log can't be read"))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_many(&[(key.to_vec(), value.to_vec())])
    }

    fn put_many(&self, entries: &[Entry]) -> Result<()> {
        let mut guard = self
            .tail
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let Tail { offset, buffer } = &mut *guard;
        buffer.clear();
        for (key, value) in entries {
            buffer.extend_from_slice(&(key.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&(value.len() as u32).to_le_bytes());
            buffer.extend_from_slice(key);
            buffer.extend_from_slice(value);
        }
        if *offset + buffer.len() as u64 > self.bytes {
            *offset = 0;
        }
        self.file.write_all_at(buffer, *offset)?;
        *offset += buffer.len() as u64;
        if self.forced {
            Ok(self.file.sync_data()?)
        } else {
            Ok(())
        }
    }

    fn scan(&self, _from: &[u8], _limit: usize) -> Result<usize> {
        Err(Fault::from("a bare log can't be read"))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }
}

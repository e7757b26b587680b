//! One serial thread on a bare log: the balances in a hash map, each program carried out in turn, what it writes appended
//! to a preallocated file that is forced once a group. No checksum, no recovery, no other threads: the ceiling of what
//! serializable, durable transactions can cost on a disk.
//!
//! On the client's own thread and with a file so short that each group starts it again, it is the raw force: the same
//! bytes overwritten and forced.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use crate::Result;
use crate::calibration::preallocated;
use crate::subject::{Durability, Settings};
use crate::transactions::{Effect, Ledger, Program, Refusal, Rows};

use super::super::program::balance_of;

type Outcome<T> = std::result::Result<T, Refusal>;

/// Where the log starts again.
pub(super) const LOG_BYTES: u64 = 64 << 20;

/// The balances and their log.
pub(crate) struct Serial {
    file: File,
    forced: bool,
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    balances: HashMap<Box<[u8]>, i64>,
    offset: u64,
    buffer: Vec<u8>,
}

impl Serial {
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
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Rows for State {
    fn balance(&mut self, key: &[u8]) -> Outcome<Option<i64>> {
        Ok(self.balances.get(key).copied())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        let balance = balance_of(value).map_err(Refusal::Fault)?;
        match self.balances.get_mut(key) {
            Some(old) => *old = balance,
            None => drop(self.balances.insert(key.into(), balance)),
        }
        for part in [key, value] {
            self.buffer
                .extend_from_slice(&(part.len() as u32).to_le_bytes());
            self.buffer.extend_from_slice(part);
        }
        Ok(())
    }
}

impl Ledger for Serial {
    fn attempt(&self, programs: &[Program]) -> Outcome<Vec<Effect>> {
        let mut state = self.lock();
        state.buffer.clear();
        let effects = programs
            .iter()
            .map(|program| program.carry_out(&mut *state));
        let effects: Outcome<Vec<Effect>> = effects.collect();
        let effects = effects?;
        if state.offset + state.buffer.len() as u64 > self.bytes {
            state.offset = 0;
        }
        self.file.write_all_at(&state.buffer, state.offset)?;
        state.offset += state.buffer.len() as u64;
        if self.forced {
            self.file.sync_data()?;
        }
        Ok(effects)
    }

    fn read(&self, program: &Program) -> Outcome<Effect> {
        let state = self.lock();
        let found = program.look(|key| Ok(state.balances.get(key).copied()))?;
        Ok(program.decide(&found).0)
    }
}

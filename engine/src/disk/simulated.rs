//! A disk for tests, which forgets at a crash what was not forced, and fails on command.
//!
//! What is written goes to a page cache that every reader sees. [`DiskFile::force`] moves a file's pages to the
//! medium. [`SimulatedDisk::crash`] throws the page cache away, except what the caller lets survive: an operating
//! system may have written any of it. The rules are those that real disks keep, and no more:
//!
//! - A sector of 512 bytes is written whole or not at all. A sector that was written several times since the last force
//!   holds one of those states. Different sectors of one write, and different writes, survive independently.
//! - Creating, renaming and removing are changes of the directory. They are durable once the directory is forced
//!   (all methods of [`Disk`] do that before they return), and survive otherwise in their order, up to some point.
//! - A force that fails loses what it should have made durable, but the page cache goes on to show it, and the next
//!   force succeeds without writing it. That is what Linux does ("fsyncgate").
//!
//! Failures: the next write, the next force or all of them, a full disk, and the death of the machine in the middle of the n-th
//! step, after which everything fails until [`SimulatedDisk::crash`].

use super::{
    Disk, DiskFile,
    memory::{already_exists, copy_in, copy_out, not_found},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// A disk whose crashes and failures are commanded. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// Which unforced changes survive a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    /// None: only what was forced is there.
    Nothing,
    /// All, as if the process had been killed and not the machine; but what a failed force lost stays lost.
    Everything,
    /// Any, as a generator with this seed draws them.
    Seeded(u64),
}

/// A change that was not forced when the crash came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unforced<'a> {
    /// A write to a sector of a file.
    Sector {
        /// The file.
        file: &'a str,
        /// The sector's number in it, from 0.
        sector: u64,
        /// Which of the file's unforced writes it is of, from 0.
        write: usize,
    },
    /// A change of the directory.
    Entry {
        /// The name that came, went or changed.
        file: &'a str,
    },
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    directory: Directory,
    durable_directory: Directory,
    directory_changes: Vec<EntryChange>,
    /// Rises at a crash: an older open file is gone with its process.
    life: u64,
    steps: u64,
    dies_at: Option<u64>,
    dead: bool,
    fail_next_write: bool,
    fail_next_force: bool,
    fails_forces: bool,
    pretends: bool,
    keeps_entries_back: bool,
    swallows_failures: bool,
    capacity: Option<u64>,
}

type Directory = BTreeMap<String, u64>;

#[derive(Debug, Clone, Default)]
struct Inode {
    /// What readers see.
    cached: Vec<u8>,
    durable: Vec<u8>,
    unforced: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum EntryChange {
    Add(String, u64),
    Remove(String),
    Rename(String, String),
}

impl EntryChange {
    fn apply(&self, directory: &mut Directory) {
        match self {
            Self::Add(name, inode) => {
                directory.insert(name.clone(), *inode);
            }
            Self::Remove(name) => {
                directory.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = directory.remove(from) {
                    directory.insert(to.clone(), inode);
                }
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Add(name, _) | Self::Remove(name) | Self::Rename(name, _) => name,
        }
    }
}

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next write fails, after some of its bytes.
    pub fn fail_next_write(&self) {
        self.state().fail_next_write = true;
    }

    /// The next force of a file fails and loses what it should have made durable.
    pub fn fail_next_force(&self) {
        self.state().fail_next_force = true;
    }

    /// Every force of a file fails from now on, and loses what it should have made durable.
    pub fn fail_forces(&self) {
        self.state().fails_forces = true;
    }

    /// From now on all files together may hold so many bytes; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The machine dies in the step after the next `steps` ones: everything fails until [`SimulatedDisk::crash`].
    pub fn die_after(&self, steps: u64) {
        let mut state = self.state();
        state.dies_at = Some(state.steps + steps);
    }

    /// Commanded failures that have not come yet will not come.
    pub fn recover(&self) {
        let mut state = self.state();
        state.fail_next_write = false;
        state.fail_next_force = false;
        state.fails_forces = false;
        state.dies_at = None;
        state.capacity = None;
    }

    /// Whether the machine has died, so that everything fails until [`SimulatedDisk::crash`].
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// From now on a force of a file does nothing and says that all is well, or does its work again.
    pub fn pretend_to_force(&self, pretends: bool) {
        self.state().pretends = pretends;
    }

    /// From now on the directory is not forced, whatever is created, renamed or removed in it: what a [`Disk`] would be
    /// that forgets to.
    pub fn forget_to_force_directories(&self) {
        self.state().keeps_entries_back = true;
    }

    /// From now on a force that fails says that all is well, though what it should have made durable is lost: what comes of
    /// a force that is tried again.
    pub fn swallow_failed_forces(&self) {
        self.state().swallows_failures = true;
    }

    /// Another disk with the same contents, durable or not. Open files stay with this one.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state();
        let copy = State {
            inodes: state.inodes.clone(),
            next_inode: state.next_inode,
            directory: state.directory.clone(),
            durable_directory: state.durable_directory.clone(),
            directory_changes: state.directory_changes.clone(),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(copy)),
        }
    }

    /// Flips a bit of a file on the medium and in the cache: the disk rots.
    ///
    /// # Panics
    ///
    /// Panics if there is no such file, or it has no such bit.
    pub fn flip_bit(&self, file: &str, bit: u64) {
        let mut state = self.state();
        let number = state.directory[file];
        let inode = state.inode(number);
        let (byte, mask) = (index(bit / 8), 1 << (bit % 8));
        inode.cached[byte] ^= mask;
        if let Some(durable) = inode.durable.get_mut(byte) {
            *durable ^= mask;
        }
    }

    /// Writes, forces and changes of the directory so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The machine loses power and starts again. Open files are gone, commanded failures are forgotten.
    pub fn crash(&self, survivors: Survivors) {
        match survivors {
            Survivors::Nothing => self.crash_keeping(&mut |_| false),
            Survivors::Everything => self.crash_keeping(&mut |_| true),
            Survivors::Seeded(seed) => {
                let mut random = seed;
                let quarters = split_mix(&mut random) % 5;
                self.crash_keeping(&mut |_| split_mix(&mut random) % 4 < quarters);
            }
        }
    }

    /// Like [`SimulatedDisk::crash`], but `keep` says what survives. It is asked in the order of the changes; of the
    /// changes of one sector, and of those of the directory, none survives the first that does not.
    pub fn crash_keeping(&self, keep: &mut dyn FnMut(Unforced<'_>) -> bool) {
        let mut state = self.state();
        let state = &mut *state;
        let names: BTreeMap<u64, String> = state
            .directory
            .iter()
            .map(|(name, &inode)| (inode, name.clone()))
            .collect();
        for change in std::mem::take(&mut state.directory_changes) {
            if !keep(Unforced::Entry {
                file: change.name(),
            }) {
                break;
            }
            change.apply(&mut state.durable_directory);
        }
        for (number, inode) in &mut state.inodes {
            inode.lose_cache(names.get(number).map_or("", String::as_str), keep);
        }
        state.directory = state.durable_directory.clone();
        let named: BTreeSet<u64> = state.directory.values().copied().collect();
        state.inodes.retain(|number, _| named.contains(number));
        state.life += 1;
        state.dead = false;
        state.dies_at = None;
        state.fail_next_write = false;
        state.fail_next_force = false;
        state.fails_forces = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, state: &State, inode: u64) -> Box<dyn DiskFile> {
        Box::new(SimulatedFile {
            disk: self.clone(),
            inode,
            life: state.life,
        })
    }
}

/// The generator of Steele, Lea and Flood: enough to draw survivors.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        copy_in(&mut self.cached, bytes, offset)?;
        self.unforced.push((offset, bytes.to_vec()));
        Ok(())
    }

    fn force(&mut self) -> io::Result<()> {
        for (offset, bytes) in std::mem::take(&mut self.unforced) {
            copy_in(&mut self.durable, &bytes, offset)?;
        }
        Ok(())
    }

    fn lose_cache(&mut self, name: &str, keep: &mut dyn FnMut(Unforced<'_>) -> bool) {
        let mut settled = BTreeSet::new();
        let unforced = std::mem::take(&mut self.unforced);
        for (write, (offset, bytes)) in unforced.into_iter().enumerate() {
            let end = offset + bytes.len() as u64;
            let mut from = offset;
            while from < end {
                let sector = from / SECTOR_BYTES;
                let to = end.min((sector + 1) * SECTOR_BYTES);
                if !settled.contains(&sector) {
                    if keep(Unforced::Sector {
                        file: name,
                        sector,
                        write,
                    }) {
                        let part = index(from - offset)..index(to - offset);
                        copy_in(&mut self.durable, &bytes[part], from)
                            .expect("fitted in the cache");
                    } else {
                        settled.insert(sector);
                    }
                }
                from = to;
            }
        }
        self.cached.clone_from(&self.durable);
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a file in memory has an offset that fits")
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the simulated machine is dead"));
        }
        Ok(())
    }

    /// Counts a step whose effect is under way: where the machine dies, it may or may not survive.
    fn step(&mut self) -> io::Result<()> {
        self.dead |= self.dies_at == Some(self.steps);
        self.steps += 1;
        self.alive()
    }

    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes
            .get_mut(&number)
            .expect("an open file's inode lives until the crash")
    }

    fn change(&mut self, change: EntryChange) -> io::Result<()> {
        self.alive()?;
        change.apply(&mut self.directory);
        self.directory_changes.push(change);
        self.step()
    }

    fn force_directory(&mut self) -> io::Result<()> {
        self.alive()?;
        self.step()?;
        if self.keeps_entries_back {
            return Ok(());
        }
        for change in std::mem::take(&mut self.directory_changes) {
            change.apply(&mut self.durable_directory);
        }
        Ok(())
    }

    fn make_room(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let used: u64 = self
            .directory
            .values()
            .map(|inode| self.inodes[inode].cached.len() as u64)
            .sum();
        if self
            .capacity
            .is_some_and(|capacity| used + bytes > capacity)
        {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the simulated disk is full",
            ));
        }
        Ok(())
    }

    fn write(&mut self, number: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.alive()?;
        let len = self.inode(number).cached.len() as u64;
        self.make_room((offset + bytes.len() as u64).saturating_sub(len))?;
        if std::mem::take(&mut self.fail_next_write) {
            self.inode(number)
                .write(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::Error::other("a write failed on command"));
        }
        self.inode(number).write(bytes, offset)?;
        self.step()
    }

    fn force(&mut self, number: u64) -> io::Result<()> {
        self.alive()?;
        if std::mem::take(&mut self.fail_next_force) || self.fails_forces {
            self.inode(number).unforced.clear();
            if self.swallows_failures {
                return Ok(());
            }
            return Err(io::Error::other("a force failed on command"));
        }
        self.step()?;
        if self.pretends {
            return Ok(());
        }
        self.inode(number).force()
    }

    fn add_file(&mut self, name: &str, contents: &[u8]) -> io::Result<u64> {
        self.make_room(contents.len() as u64)?;
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, Inode::default());
        self.change(EntryChange::Add(name.to_owned(), number))?;
        self.write(number, contents, 0)?;
        self.force(number)?;
        Ok(number)
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.alive()?;
        if state.directory.contains_key(name) {
            return Err(already_exists(name));
        }
        let inode = state.add_file(name, &vec![0; index(len)])?;
        state.force_directory()?;
        Ok(self.file(&state, inode))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        state.alive()?;
        let inode = *state.directory.get(name).ok_or_else(|| not_found(name))?;
        Ok(self.file(&state, inode))
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        let temporary = format!("{name}.tmp");
        state.add_file(&temporary, contents)?;
        state.change(EntryChange::Rename(temporary, name.to_owned()))?;
        state.force_directory()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        Ok(state.directory.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        if !state.directory.contains_key(name) {
            return Err(not_found(name));
        }
        state.change(EntryChange::Remove(name.to_owned()))?;
        state.force_directory()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        if state.directory.contains_key(to) {
            return Err(already_exists(to));
        }
        if !state.directory.contains_key(from) {
            return Err(not_found(from));
        }
        state.change(EntryChange::Rename(from.to_owned(), to.to_owned()))?;
        state.force_directory()
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    inode: u64,
    life: u64,
}

impl SimulatedFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        state.alive()?;
        if state.life != self.life {
            return Err(io::Error::other("the file was opened before the crash"));
        }
        Ok(state)
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        copy_out(&self.state()?.inode(self.inode).cached, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state()?.write(self.inode, bytes, offset)
    }

    fn force(&self) -> io::Result<()> {
        self.state()?.force(self.inode)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inode(self.inode).cached.len() as u64)
    }
}

#[cfg(test)]
#[path = "simulated_tests.rs"]
mod tests;

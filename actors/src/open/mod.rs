//! Opening: from a directory to running actors, and back.
//!
//! ```text
//!  LOCK ─▶ MANIFEST (created or checked) ─▶ openings + 1, forced ─▶ journal: replay into generations ─▶ trees
//!       ─▶ threads (I/O, segments, runs, compaction) ─▶ actix System with its arbiters ─▶ actors ─▶ clock
//! ```

mod joining;
mod nodes;
mod places;
mod recover;
mod settings;
mod start;
mod threads;

pub(crate) use nodes::{Life, NodeActors, Readers, Stores};
use places::check_new_home;
pub(crate) use places::{Places, absolute};
pub(crate) use threads::Threads;

use crate::{
    Builder, Mailring,
    builder::Place,
    clock,
    directory::{check_place, create, lock},
};
use mailring_engine::{
    Error, Result,
    directories::recovery,
    disk::{DirectoryDisk, Disk, MemoryDisk},
};
use recover::recover;
use start::start;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
};

pub(crate) fn open(builder: Builder) -> Result<Mailring> {
    let now_ms = Arc::new(AtomicU64::new(clock::wall_clock_ms()));
    let held_indexes = Arc::default();
    let gauge = Arc::<AtomicUsize>::default();
    let (lock, recovered) = match &builder.place {
        Place::Directory(directory) => {
            if builder.disk.is_none() {
                // Of a disk of the caller's only the caller knows what is on it.
                check_place(directory, builder.create)?;
            }
            check_new_home(&builder, directory)?;
            create(directory)?;
            let lock = lock(directory)?;
            let disk: Arc<dyn Disk> = match &builder.disk {
                Some(disk) => Arc::clone(disk),
                None => Arc::new(DirectoryDisk::new(directory).map_err(|error| {
                    Error::io(format!("opening {}", directory.display()), &error)
                })?),
            };
            let path = absolute(directory)?;
            let home = recovery::Place { disk, path };
            let recovered = recover(&builder, home, &now_ms, &held_indexes, &gauge)?;
            (Some(lock), recovered)
        }
        Place::Memory => {
            let disk = builder.disk.clone();
            let disk = disk.unwrap_or_else(|| Arc::new(MemoryDisk::new()));
            let path = PathBuf::new();
            let home = recovery::Place { disk, path };
            let recovered = recover(&builder, home, &now_ms, &held_indexes, &gauge)?;
            (None, recovered)
        }
    };
    start(builder, lock, recovered, now_ms, held_indexes, gauge)
}

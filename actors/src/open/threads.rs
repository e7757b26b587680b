//! What runs behind a handle, and how it is stopped.

use crate::{
    guard::guarded, journal_io::JournalFile, switchboard::Switchboard, system::ActorSystem,
};
use mailring_engine::{Error, Result, disk::Disk, ids::GroupNo, manifest::Manifest};
use std::{
    fs::File,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

/// Everything that runs, and how it is stopped.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(super) switchboard: Arc<Switchboard>,
    pub(super) system: ActorSystem,
    pub(super) clock: crossbeam_channel::Sender<()>,
    pub(super) joins: Vec<JoinHandle<()>>,
    pub(super) files: Files,
}

pub(super) struct Files {
    /// By directory.
    pub(super) journals: Vec<Arc<JournalFile>>,
    /// That of the manifest.
    pub(super) disk: Arc<dyn Disk>,
    /// Held locked until the end.
    pub(super) _locks: Vec<File>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

impl Threads {
    /// Stops everything; what is acknowledged is in the journal.
    pub(crate) fn stop(self) {
        if let Err(error) = self.stop_cleanly(false) {
            tracing::warn!(%error, "the directory could not be closed; opening recovers it");
        }
    }

    /// Stops everything, and says in the manifest that no lock is held any more, and that all writes are in the trees if
    /// `clean`.
    pub(crate) fn stop_cleanly(self, clean: bool) -> Result<()> {
        self.switchboard.stopping.store(true, Ordering::Release);
        self.system.stop();
        drop(self.clock);
        for join in self.joins {
            // A thread that panicked has told so, and nothing depends on it any more.
            let _ = join.join();
        }
        let journals = self.files.journals.iter();
        let groups = journals.clone().map(|journal| journal.last_group());
        let groups: Vec<_> = groups.collect();
        let closed = journals.map(|journal| journal.close());
        closed.fold(Ok(()), Result::and)?;
        // This may be a caller's thread, in a destructor: a disk that panics must not unwind into it.
        let marked = guarded(|| mark_stopped(&*self.files.disk, clean, groups));
        marked.unwrap_or_else(|reason| {
            Err(Error::Io {
                context: "marking the directory as closed panicked".into(),
                kind: std::io::ErrorKind::Other,
                message: reason,
            })
        })
    }
}

fn mark_stopped(disk: &dyn Disk, clean: bool, forced: Vec<GroupNo>) -> Result<()> {
    if let Some(mut manifest) = Manifest::load(disk)? {
        // The lock manager went with its system, and has told every holder.
        manifest.longest_lease = Duration::ZERO;
        manifest.clean_shutdown = clean;
        if let Some(directories) = &mut manifest.directories {
            // They are closed, so all of them are forced. Up to which LSN nothing is missing, only the sequencer knew.
            directories.stamp.forced = forced;
        }
        manifest.save(disk)?;
    }
    Ok(())
}

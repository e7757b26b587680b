//! A watcher: hears of every commit, whole, in the order of LSNs, once it is visible.

use crate::{report::Seen, world::World};
use mailring_engine::{
    ids::Lsn,
    journal::record::RecordBody,
    sequencer::{Change, JournalMessage},
    value::Write,
};

/// What a watcher has heard of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watcher {
    /// It hears of what comes behind this.
    since: Lsn,
    /// It has heard of everything up to here.
    through: Lsn,
}

impl World {
    /// Somebody begins to watch, or goes on.
    pub(crate) fn watch(&mut self) {
        if self.process.watcher.is_none() && !self.process.read_only {
            self.journal_step(JournalMessage::Watch(true));
            let since = self.process.sequencer.last_lsn();
            self.process.watcher = Some(Watcher {
                since,
                through: since,
            });
        }
    }

    /// The watcher hears of changes. Whether it goes on watching.
    pub(crate) fn changes(&mut self, changes: &[Change]) -> bool {
        let Some(Watcher { since, mut through }) = self.process.watcher else {
            return false;
        };
        let visible = self.process.visible.load();
        // What was on its way when the watch began is not for this watcher.
        for change in changes.iter().filter(|change| change.lsn > since) {
            let lsn = change.lsn;
            assert!(
                lsn <= visible,
                "a watcher hears of LSN {lsn} before readers"
            );
            let (wanted, writes) = self.next_commit(through);
            assert_eq!(lsn, wanted, "a watcher has heard up to LSN {through}");
            // What was written in several directories comes together in another order than it was sent.
            let in_order = |writes: &[Write]| {
                let mut writes = writes.to_vec();
                writes.sort_by(|one, other| one.key.cmp(&other.key));
                writes
            };
            let (told, writes) = (in_order(&change.writes), in_order(&writes));
            assert_eq!(told, writes, "what was written at LSN {lsn}");
            through = lsn;
        }
        self.count(Seen::Watched, changes.len() as u64);
        let goes_on = !self.schedule.chance(20);
        self.process.watcher = goes_on.then_some(Watcher { since, through });
        goes_on
    }

    /// The first commit behind an LSN, and what it wrote.
    pub(crate) fn next_commit(&self, through: Lsn) -> (Lsn, Vec<Write>) {
        let behind = self.model.log.range(through.next()..);
        let mut commits = behind.filter_map(|(lsn, body)| match body {
            RecordBody::Commit { parts, .. } => Some((*lsn, parts)),
            _ => None,
        });
        let (lsn, parts) = commits.next().expect("a watcher hears of what there is");
        let writes = parts.iter().flat_map(|part| part.writes.iter().cloned());
        (lsn, writes.collect())
    }
}

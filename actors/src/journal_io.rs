//! The threads on which the journal's blocking calls run: one writes and forces, one prepares segments ahead.
//!
//! A group is written on the I/O thread, so that the actors go on while the disk works. A lone group, when nobody else
//! is writing, is forced by the journal's actor in place: that saves two wake-ups, which cost as much as the force.
//! Where there are several directories each has its own two threads.
//!
//! A panic while the journal's files are in use (of a [`Disk`], say) is like a failed write: what is in the files is
//! unknown, so nothing is written any more, and the engine is read-only until it is reopened.

use crate::{
    guard::{guarded, panicked},
    kinds,
    switchboard::Switchboard,
    telemetry::JournalFigures,
};
use crossbeam_channel::{Receiver, Sender};
use mailring_engine::{
    Error, Result,
    disk::Disk,
    ids::{DirectoryNo, GroupNo, Lsn, Time},
    journal::{Journal, Spare},
    sequencer::{GroupWrite, JournalMessage, io},
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::{Duration, Instant},
};

/// What the I/O thread is asked to do, in order.
pub(crate) enum IoRequest {
    Write(GroupWrite),
    /// `Durability::Interval`: force what was written, if the interval is over.
    ForceIfDue(Time),
    AddSpare(Result<Spare>),
    /// Say what room the spare has, behind the groups that may take it.
    ReportSpare,
    Release(Lsn),
}

/// A segment is wanted that holds a group of this payload.
pub(crate) struct SegmentRequest {
    pub(crate) at_least: u64,
}

struct Open {
    journal: Journal,
    last_force: Time,
    /// Set by a panic in the journal: nobody uses it again.
    panicked: Option<Error>,
}

impl Open {
    fn give_up(&mut self, reason: &str) -> Error {
        let error = Error::ReadOnly {
            reason: format!("writing the journal panicked: {reason}"),
        };
        self.panicked.get_or_insert(error).clone()
    }
}

/// What is forced of each journal, for everybody to see.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forced(Arc<[AtomicU64]>);

impl Forced {
    pub(crate) fn new(journals: usize) -> Self {
        Self((0..journals).map(|_| AtomicU64::default()).collect())
    }

    /// Up to where all is forced, if everything up to `written` is written. The only journal tells exactly.
    pub(crate) fn durable(&self, written: Lsn) -> Lsn {
        let told = self.0.iter().map(|forced| Lsn(forced.load(Acquire)));
        let least = told.min().unwrap_or_default();
        match self.0.len() {
            1 => least,
            _ => least.min(written),
        }
    }

    fn note(&self, directory: DirectoryNo, journal: &Journal) {
        let is_only = self.0.len() == 1;
        // Where nothing waits for a force, this journal does not limit what is durable.
        let waits = journal.forced_group() < journal.last_group();
        let forced = match is_only || waits {
            true => journal.forced_lsn().0,
            false => u64::MAX,
        };
        self.0[usize::from(directory.0)].store(forced, Release);
    }
}

/// The journal's files in a directory, used by its I/O thread and, for lone groups, by the journal's actor.
pub(crate) struct JournalFile {
    directory: DirectoryNo,
    open: Mutex<Option<Open>>,
    interval: Option<Duration>,
    forced: Forced,
    figures: Arc<JournalFigures>,
}

impl JournalFile {
    pub(crate) fn new(
        directory: DirectoryNo,
        journal: Journal,
        interval: Option<Duration>,
        forced: Forced,
        figures: Arc<JournalFigures>,
    ) -> Self {
        forced.note(directory, &journal);
        Self {
            directory,
            open: Mutex::new(Some(Open {
                journal,
                last_force: Time::default(),
                panicked: None,
            })),
            interval,
            forced,
            figures,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `work` use the journal, unless an earlier use has panicked.
    fn with<T>(&self, work: impl FnOnce(&mut Open) -> Result<T>) -> Result<T> {
        let mut open = self.lock();
        let open = open.as_mut().expect("the journal is closed last");
        if let Some(error) = &open.panicked {
            return Err(error.clone());
        }
        let result = guarded(|| work(open)).unwrap_or_else(|reason| Err(open.give_up(&reason)));
        self.forced.note(self.directory, &open.journal);
        result
    }

    /// Whoever used the journal has panicked: nobody uses it again.
    fn give_up(&self, reason: &str) -> Error {
        let mut open = self.lock();
        open.as_mut()
            .expect("the journal is closed last")
            .give_up(reason)
    }

    /// The last group; none where nobody can tell any more.
    pub(crate) fn last_group(&self) -> GroupNo {
        let open = self.lock();
        open.as_ref()
            .map_or(GroupNo(0), |open| open.journal.last_group())
    }

    /// Forces and seals the journal. Called once everybody who writes has stopped.
    pub(crate) fn close(&self) -> Result<()> {
        match self.lock().take() {
            Some(Open {
                panicked: Some(error),
                ..
            }) => Err(error),
            Some(open) => guarded(|| open.journal.close())
                .unwrap_or_else(|reason| Err(panicked("closing the journal", reason))),
            None => Ok(()),
        }
    }

    /// Writes groups, forces them once if they must be, and says how that went.
    ///
    /// # Panics
    ///
    /// Panics if there is no group.
    pub(crate) fn write(&self, groups: Vec<GroupWrite>) -> JournalMessage {
        let count = groups.len();
        let records = groups.iter().map(|group| group.records).sum();
        let bytes = groups.iter().map(|group| group.payload.len()).sum();
        let (first, newest) = (&groups[0], &groups[groups.len() - 1]);
        let (last, force) = (newest.last, newest.force);
        let first = first.first.0;
        let span = match force {
            true => tracing::debug_span!("force", first, last = last.0, records, bytes),
            false => tracing::debug_span!("append", first, last = last.0, records, bytes),
        };
        let _entered = span.enter();
        let written = self.with(|open| {
            Ok(self.counting(&mut open.journal, |journal| {
                io::write_groups(journal, groups)
            }))
        });
        if matches!(written, Ok(JournalMessage::Persisted { .. })) {
            self.figures.written(count, records, bytes);
        }
        written.unwrap_or_else(JournalMessage::Failed)
    }

    /// Lets `work` use the journal, and counts that as a force if it was one: also a write that is not to be forced is, where
    /// it turns to the next segment.
    fn counting<T>(&self, journal: &mut Journal, work: impl FnOnce(&mut Journal) -> T) -> T {
        let before = journal.forced_lsn();
        let started = Instant::now();
        let result = work(journal);
        if journal.forced_lsn() > before {
            self.figures.forced(started.elapsed());
        }
        result
    }

    fn add_spare(&self, outcome: Result<Spare>) -> Result<u64> {
        self.with(|open| io::add_spare(&mut open.journal, outcome))
    }

    /// Forces what was written and is not forced yet; the last group then.
    pub(crate) fn force(&self, now: Time) -> Result<GroupNo> {
        self.with(|open| {
            let stats = open.journal.stats();
            let span = match stats.forced_lsn < stats.last_lsn {
                true => tracing::debug_span!(
                    "force",
                    first = stats.forced_lsn.next().0,
                    last = stats.last_lsn.0
                ),
                false => tracing::Span::none(),
            };
            let _entered = span.enter();
            self.counting(&mut open.journal, Journal::force)?;
            open.last_force = now;
            Ok(open.journal.forced_group())
        })
    }

    /// Whether groups are forced by the clock.
    pub(crate) fn has_interval(&self) -> bool {
        self.interval.is_some()
    }

    fn force_if_due(&self, now: Time) -> Result<()> {
        let Some(interval) = self.interval else {
            return Ok(());
        };
        let due = self.with(|open| Ok(open.last_force.after(interval) <= now))?;
        if due {
            self.force(now)?;
        }
        Ok(())
    }
}

/// Forces what was written in all directories and is not forced yet; the last group in each then.
pub(crate) fn force_all(files: &[Arc<JournalFile>], now: Time) -> Result<Vec<GroupNo>> {
    files.iter().map(|file| file.force(now)).collect()
}

/// Runs the I/O thread until the journal's actor is gone.
pub(crate) fn run_io(
    file: &JournalFile,
    requests: &Receiver<IoRequest>,
    switchboard: &Switchboard,
) {
    let mut failed = false;
    let mut next = None;
    while let Some(request) = next.take().or_else(|| requests.recv().ok()) {
        let kind = kinds::of_io(&request);
        let message = guarded(|| {
            switchboard.between_faults("io", kind, || match request {
                IoRequest::Write(group) => {
                    let groups;
                    (groups, next) = with_queued(group, requests);
                    Some(file.write(groups))
                }
                request => handle(file, request, switchboard),
            })
        });
        let message =
            message.unwrap_or_else(|reason| Some(JournalMessage::Failed(file.give_up(&reason))));
        let Some(message) = message else {
            continue;
        };
        // One failure is enough to turn the engine read-only.
        if matches!(message, JournalMessage::Failed(_)) && std::mem::replace(&mut failed, true) {
            continue;
        }
        switchboard.to_journal(message);
    }
}

fn handle(
    file: &JournalFile,
    request: IoRequest,
    switchboard: &Switchboard,
) -> Option<JournalMessage> {
    match request {
        IoRequest::Write(group) => Some(file.write(vec![group])),
        IoRequest::ForceIfDue(now) => file.force_if_due(now).err().map(JournalMessage::Failed),
        IoRequest::AddSpare(outcome) => {
            let spare = file.add_spare(outcome);
            switchboard.set_space_error(file.directory, spare.as_ref().err().cloned());
            Some(JournalMessage::Spare(file.directory, spare))
        }
        IoRequest::ReportSpare => {
            let report = |open: &mut Open| Ok(io::report_spare(file.directory, &open.journal));
            let told = file.with(report);
            Some(told.unwrap_or_else(JournalMessage::Failed))
        }
        IoRequest::Release(through) => {
            if let Err(error) = file.with(|open| open.journal.release(through)) {
                // Space that could not be given back is given back next time.
                tracing::warn!(%error, "journal segments could not be released");
            }
            None
        }
    }
}

/// The group and those queued right behind it, to be forced together, and the request that follows them.
fn with_queued(
    first: GroupWrite,
    requests: &Receiver<IoRequest>,
) -> (Vec<GroupWrite>, Option<IoRequest>) {
    /// The first group shall not wait for more bytes than these to be written behind it.
    const FORCED_TOGETHER_BYTES: usize = 8 << 20;
    let mut bytes = first.payload.len();
    let mut groups = vec![first];
    while bytes < FORCED_TOGETHER_BYTES {
        match requests.try_recv() {
            Ok(IoRequest::Write(group)) => {
                bytes += group.payload.len();
                groups.push(group);
            }
            Ok(other) => return (groups, Some(other)),
            Err(_) => break,
        }
    }
    (groups, None)
}

/// Prepares segments until the journal's actor is gone.
pub(crate) fn run_segments(
    disk: &Arc<dyn Disk>,
    file: &JournalFile,
    requests: &Receiver<SegmentRequest>,
    io: &Sender<IoRequest>,
    switchboard: &Switchboard,
) {
    for SegmentRequest { at_least } in requests {
        let outcome = guarded(|| {
            switchboard.between_faults("segments", "Prepare", || {
                let request = file.with(|open| Ok(open.journal.spare_request(at_least)))?;
                request
                    .map(|request| request.prepare(disk.as_ref()))
                    .transpose()
            })
        });
        let request =
            match outcome.unwrap_or_else(|reason| Err(panicked("the segments' thread", reason))) {
                Ok(Some(spare)) => IoRequest::AddSpare(Ok(spare)),
                // Nothing to prepare: one is there already, or nothing can be written any more.
                Ok(None) => IoRequest::ReportSpare,
                Err(error) => {
                    tracing::warn!(%error, "no journal segment could be prepared");
                    IoRequest::AddSpare(Err(error))
                }
            };
        let _ = io.send(request);
    }
}

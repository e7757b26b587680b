//! The threads on which the journal's blocking calls run: one writes and forces, one prepares segments ahead.
//!
//! A group is written on the I/O thread, so that the actors go on while the disk works. A lone group, when nobody else
//! is writing, is forced by the journal's actor in place: that saves two wake-ups, which cost as much as the force.

use crate::{switchboard::Switchboard, telemetry::Telemetry};
use crossbeam_channel::{Receiver, Sender};
use mailring_engine::{
    Error, Result,
    disk::Disk,
    ids::{Lsn, Time},
    journal::{Group, Journal, Spare},
    sequencer::{GroupWrite, JournalMessage},
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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
    unforced: bool,
    last_force: Time,
}

/// The journal's files, used by the I/O thread and, for lone groups, by the journal's actor.
pub(crate) struct JournalFile {
    open: Mutex<Option<Open>>,
    interval: Option<Duration>,
}

impl JournalFile {
    pub(crate) fn new(journal: Journal, interval: Option<Duration>) -> Self {
        Self {
            open: Mutex::new(Some(Open {
                journal,
                unforced: false,
                last_force: Time::default(),
            })),
            interval,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // A panic under this lock has made the journal's actor or thread give up: nobody writes after it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MappedGuard<'_> {
        MappedGuard(self.lock())
    }

    /// Forces and seals the journal. Called once everybody who writes has stopped.
    pub(crate) fn close(&self) -> Result<()> {
        match self.lock().take() {
            Some(open) => open.journal.close(),
            None => Ok(()),
        }
    }

    /// Writes groups, forces them once if they must be, and says how that went.
    ///
    /// # Panics
    ///
    /// Panics if there is no group.
    pub(crate) fn write(&self, groups: Vec<GroupWrite>, telemetry: &Telemetry) -> JournalMessage {
        let records = groups.iter().map(|group| group.records).sum();
        let bytes = groups.iter().map(|group| group.payload.len()).sum();
        let (first, newest) = (&groups[0], &groups[groups.len() - 1]);
        let (last, force) = (newest.last, newest.force);
        let span = tracing::debug_span!(
            "force",
            first = first.first.0,
            last = last.0,
            records,
            bytes
        );
        let _entered = span.enter();
        let started = std::time::Instant::now();
        let mut open = self.open();
        let mut result = groups.into_iter().try_for_each(|write| {
            open.journal.append(&Group {
                number: write.number,
                first_lsn: write.first,
                last_lsn: write.last,
                payload: write.payload,
            })
        });
        if result.is_ok() {
            if force {
                result = open.journal.force();
            } else {
                open.unforced = true;
            }
        }
        telemetry.group_written(records, bytes, started.elapsed(), force);
        match result {
            Ok(()) => JournalMessage::Persisted {
                last,
                room: open.journal.room(),
                spare: open.journal.spare_room(),
            },
            Err(error) => JournalMessage::Failed(error),
        }
    }

    fn add_spare(&self, outcome: Result<Spare>) -> Result<u64> {
        let mut open = self.open();
        open.journal.add_spare(outcome)?;
        open.journal.spare_room().ok_or(Error::Overloaded {
            what: "the journal",
        })
    }

    /// Forces what was written and is not forced yet.
    pub(crate) fn force(&self, now: Time) -> Result<()> {
        let mut open = self.open();
        if open.unforced {
            open.journal.force()?;
            open.unforced = false;
        }
        open.last_force = now;
        Ok(())
    }

    /// Whether groups are forced by the clock.
    pub(crate) fn has_interval(&self) -> bool {
        self.interval.is_some()
    }

    fn force_if_due(&self, now: Time) -> Result<()> {
        let Some(interval) = self.interval else {
            return Ok(());
        };
        let due = self.open().last_force.after(interval) <= now;
        if due { self.force(now) } else { Ok(()) }
    }
}

/// The open journal behind its lock.
struct MappedGuard<'a>(MutexGuard<'a, Option<Open>>);

impl std::ops::Deref for MappedGuard<'_> {
    type Target = Open;

    fn deref(&self) -> &Open {
        self.0.as_ref().expect("the journal is closed last")
    }
}

impl std::ops::DerefMut for MappedGuard<'_> {
    fn deref_mut(&mut self) -> &mut Open {
        self.0.as_mut().expect("the journal is closed last")
    }
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
        let result = match request {
            IoRequest::Write(group) => {
                let groups;
                (groups, next) = with_queued(group, requests);
                switchboard.to_journal(file.write(groups, &switchboard.telemetry));
                continue;
            }
            IoRequest::ForceIfDue(now) => file.force_if_due(now),
            IoRequest::AddSpare(outcome) => {
                let spare = file.add_spare(outcome);
                switchboard.set_space_error(spare.as_ref().err().cloned());
                switchboard.to_journal(JournalMessage::Spare(spare));
                continue;
            }
            IoRequest::ReportSpare => {
                // A group ahead of this may have taken the spare: a spare without room makes the journal ask again.
                let room = file.open().journal.spare_room().unwrap_or(0);
                switchboard.to_journal(JournalMessage::Spare(Ok(room)));
                continue;
            }
            IoRequest::Release(through) => {
                if let Err(error) = file.open().journal.release(through) {
                    // Space that could not be given back is given back next time.
                    tracing::warn!(%error, "journal segments could not be released");
                }
                continue;
            }
        };
        if let Err(error) = result
            && !failed
        {
            failed = true;
            switchboard.to_journal(JournalMessage::Failed(error));
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
) {
    for SegmentRequest { at_least } in requests {
        let request = file.open().journal.spare_request(at_least);
        let outcome = match request {
            Some(request) => request.prepare(disk.as_ref()),
            // Nothing to prepare: one is there already, or nothing can be written any more.
            None => {
                let _ = io.send(IoRequest::ReportSpare);
                continue;
            }
        };
        if let Err(error) = &outcome {
            tracing::warn!(%error, "no journal segment could be prepared");
        }
        let _ = io.send(IoRequest::AddSpare(outcome));
    }
}

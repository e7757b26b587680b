//! What is shown of the change that is under way: the router writes it, handles watch it.

use super::{
    change::{ChangeEnd, ChangeProgress},
    events::{Events, NodeEvent},
};
use mailring_engine::{
    Error, Result,
    motion::{Ending, Progress, Step},
};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A change at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) progress: ChangeProgress,
    /// Set once, when it has ended.
    pub(super) end: Option<Result<ChangeEnd>>,
}

/// Who watches a change.
#[derive(Debug, Clone)]
pub(crate) struct Follower(pub(super) watch::Receiver<Shown>);

/// The last change of this opening.
#[derive(Debug, Default)]
pub(crate) struct Showing(Mutex<Option<Last>>);

#[derive(Debug, Default)]
struct Last {
    sender: watch::Sender<Shown>,
    /// When the first byte was on its way.
    begun: Option<Instant>,
}

impl Last {
    fn has_ended(&self) -> bool {
        self.sender.borrow().end.is_some()
    }
}

impl Showing {
    fn lock(&self) -> MutexGuard<'_, Option<Last>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change begins. What was shown of the last one stays with who follows it.
    pub(crate) fn begin(&self) {
        *self.lock() = Some(Last::default());
    }

    /// The change that was to begin was refused.
    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    pub(crate) fn follow(&self) -> Option<Follower> {
        let last = self.lock();
        Some(Follower(last.as_ref()?.sender.subscribe()))
    }

    pub(crate) fn is_followed_by(&self, follower: &Follower) -> bool {
        let last = self.lock();
        let mut last = last.iter();
        last.any(|last| last.sender.subscribe().same_channel(&follower.0))
    }

    /// What is shown now; `None` if there is no change under way.
    pub(crate) fn progress(&self) -> Option<ChangeProgress> {
        let last = self.lock();
        let shown = last.as_ref()?.sender.borrow();
        shown.end.is_none().then(|| shown.progress.clone())
    }

    /// The change can't go on in this opening.
    pub(crate) fn end(&self, end: Result<ChangeEnd>) {
        if let Some(last) = &*self.lock() {
            last.sender.send_modify(|shown| {
                shown.end.get_or_insert(end);
            });
        }
    }

    pub(crate) fn show(&self, progress: Progress, events: &Events) {
        let mut last = self.lock();
        let end = end_of(&progress);
        let is_over = last.as_ref().is_none_or(Last::has_ended);
        if is_over && end.is_some() {
            return;
        }
        if is_over {
            // Nobody has asked for it: the others take over.
            *last = Some(Last::default());
            events.tell(NodeEvent::TakeOver {
                nodes: progress.taken_over.clone(),
            });
        }
        let last = last.as_mut().expect("it was made above");
        if let Some(end) = &end {
            events.of_end(&progress.taken_over, end);
        }
        if progress.moved.bytes > 0 {
            last.begun.get_or_insert_with(Instant::now);
        }
        let took = last.begun.map(|begun| begun.elapsed());
        let progress = shown(progress, took.unwrap_or_default());
        log(&last.sender.borrow().progress, &progress);
        last.sender.send_modify(|shown| {
            shown.progress = progress;
            if let Some(end) = end {
                shown.end.get_or_insert(end);
            }
        });
    }
}

fn log(before: &ChangeProgress, now: &ChangeProgress) {
    if let Some(error) = now
        .failure
        .as_ref()
        .filter(|_| now.failure != before.failure)
    {
        tracing::warn!(%error, "the change of the nodes waits, and tries again");
    }
    if now.step != before.step || now.source != before.source {
        tracing::info!(
            step = ?now.step,
            source = now.source.map(|node| node.0),
            arcs_done = now.arcs_done,
            arcs_total = now.arcs_total,
            bytes = now.bytes,
            is_undoing = now.is_undoing,
            "the nodes are changed"
        );
    }
}

fn end_of(progress: &Progress) -> Option<Result<ChangeEnd>> {
    let failure = progress.failure.clone();
    match progress.step {
        Step::Done => Some(Ok(Ending::Completed)),
        Step::Cancelled => Some(failure.map_or(Ok(Ending::Cancelled), Err)),
        Step::Halted => Some(Err(Error::ReadOnly {
            reason: failure.map_or_else(String::new, |error| error.to_string()),
        })),
        _ => None,
    }
}

fn shown(progress: Progress, took: Duration) -> ChangeProgress {
    let seconds = took.as_secs_f64();
    let rate = match seconds > 0.0 {
        true => progress.moved.bytes as f64 / seconds,
        false => 0.0,
    };
    let left = progress.bytes_estimated.checked_sub(progress.moved.bytes);
    let remaining = left.filter(|_| rate > 0.0).and_then(|left| {
        let seconds = left as f64 / rate;
        Duration::try_from_secs_f64(seconds).ok()
    });
    ChangeProgress {
        step: progress.step,
        is_undoing: progress.is_undoing,
        source: progress.source,
        taken_over: progress.taken_over,
        arcs_done: progress.arcs_done,
        arcs_total: progress.arcs_total,
        keys: progress.moved.keys,
        bytes: progress.moved.bytes,
        bytes_estimated: progress.bytes_estimated,
        bytes_per_second: rate as u64,
        remaining,
        failure: progress.failure,
    }
}

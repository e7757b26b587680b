//! What an answer, a restart, a loss or a cancellation means for a course.

use super::{
    Ground,
    clean::Cleaning,
    course::{Course, Waiting, Way, What},
    message::{Ending, MotionEffect, MotionMessage, Moved, Step, Work},
    source::Passage,
};
use crate::{
    error::{Error, Result},
    ids::{Lsn, NodeId, RequestId, Time},
    ring_state::RingRecord,
};
use std::collections::BTreeSet;

impl Course {
    pub(super) fn handle(
        &mut self,
        ground: &mut Ground,
        now: Time,
        message: MotionMessage,
        out: &mut Vec<MotionEffect>,
    ) {
        match message {
            MotionMessage::NodesReady { task, result } => {
                if self.take(task).is_some() {
                    self.opened(ground, result, out);
                }
            }
            MotionMessage::RingAnswer(task, result) => {
                if let Some(What::Record(record)) = self.take(task) {
                    self.recorded(ground, now, &record, result, out);
                }
            }
            MotionMessage::Held { task } => {
                if self.take_quick(task) {
                    self.passing().is_held = true;
                }
            }
            MotionMessage::HandedOver {
                node,
                change,
                attempt,
                incarnation,
                through,
            } => self.promised(node, change, attempt, (incarnation, through)),
            MotionMessage::Worked { task, result } => {
                let is_stopping = self.is_stopping;
                if let Some(what) = self.take(task) {
                    self.worked(ground, now, &what, result, is_stopping, out);
                }
            }
            MotionMessage::Working { task, keys, bytes } => {
                let is_awaited = matches!(
                    &self.waiting,
                    Waiting::Task {
                        task: awaited,
                        what: What::Copy | What::Follow,
                    } if *awaited == task
                );
                if is_awaited {
                    self.working = Moved { keys, bytes };
                    self.show(ground, self.step, out);
                }
            }
            MotionMessage::Checkpointed { task, result } => {
                if self.take(task).is_some() {
                    self.checkpointed(ground, now, result, out);
                }
            }
            MotionMessage::Forgotten { node, change } => {
                let is_awaited = matches!(&self.waiting, Waiting::Forgotten { node: awaited, .. } if *awaited == node);
                if is_awaited && change == self.change.number {
                    self.waiting = Waiting::Nothing;
                    self.forgotten(node);
                }
            }
            MotionMessage::NodeRestarted { node } => self.node_lives_again(node),
            MotionMessage::Start { .. }
            | MotionMessage::Cancel { .. }
            | MotionMessage::Resume
            | MotionMessage::NodeDown { .. }
            | MotionMessage::ReadOnly(_) => unreachable!("these are not for a course"),
        }
    }

    /// The task, if it is the one that is waited for; then it is not any more.
    fn take(&mut self, task: RequestId) -> Option<What> {
        match &self.waiting {
            Waiting::Task { task: awaited, .. } if *awaited == task => {}
            _ => return None,
        }
        self.is_stopping = false;
        match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            Waiting::Task { what, .. } => Some(what),
            _ => unreachable!("checked above"),
        }
    }

    fn take_quick(&mut self, task: RequestId) -> bool {
        let is_awaited =
            matches!(&self.waiting, Waiting::Quick { task: awaited, .. } if *awaited == task);
        if is_awaited {
            self.waiting = Waiting::Nothing;
        }
        is_awaited
    }

    fn passing(&mut self) -> &mut Passage {
        let passage = self.passage.as_mut();
        passage.expect("only a source that is being moved asks for this")
    }

    fn opened(&mut self, ground: &Ground, result: Result<()>, out: &mut Vec<MotionEffect>) {
        match result {
            Ok(()) => self.are_open = true,
            // A change that can't begin is no change: whoever wants it asks again.
            Err(error) => self.refused(ground, error, out),
        }
    }

    fn recorded(
        &mut self,
        ground: &mut Ground,
        now: Time,
        record: &RingRecord,
        result: Result<Lsn>,
        out: &mut Vec<MotionEffect>,
    ) {
        let lsn = match result {
            Ok(lsn) => lsn,
            // It may be written all the same.
            Err(error @ (Error::ReadOnly { .. } | Error::Unknown { .. } | Error::Closed)) => {
                self.waiting = Waiting::Broken(error);
                return;
            }
            // Whoever wants a change asks again; nobody has asked for a take-over.
            Err(error) if !self.has_begun && self.request.is_some() => {
                return self.refused(ground, error, out);
            }
            Err(error) => {
                self.is_turning = false;
                if let (RingRecord::Cut { from, .. }, Error::NodeDown { node }) = (record, &error)
                    && from == node
                {
                    // The journal has heard of it after the change had begun.
                    self.down_before.remove(node);
                }
                return self.rest(ground, now, error, out);
            }
        };
        let before: BTreeSet<NodeId> = ground.ring.live().collect();
        let applied = ground.ring.apply(lsn, record);
        applied.expect("the journal has taken this record");
        self.succeeded();
        match record {
            RingRecord::Began(change) => {
                if self.has_begun {
                    self.take_the_place(change);
                }
                self.is_turning = false;
                self.has_begun = true;
                self.began_at = Some(lsn);
            }
            RingRecord::Cut { from, .. } => self.was_cut(ground, *from, out),
            RingRecord::Cleaned { .. } => {}
            RingRecord::Ended { .. } => {
                let left = before
                    .into_iter()
                    .filter(|node| !ground.ring.is_live(*node));
                let ending = match self.way {
                    Way::Forward => Ok(Ending::Completed),
                    Way::Undo | Way::Back => Ok(Ending::Cancelled),
                    Way::Abandon(node) => Err(Error::NodeDown { node }),
                };
                self.end(ground, left.collect(), ending, out);
            }
        }
    }

    fn worked(
        &mut self,
        ground: &mut Ground,
        now: Time,
        what: &What,
        result: Result<Work>,
        is_stopping: bool,
        out: &mut Vec<MotionEffect>,
    ) {
        let working = std::mem::take(&mut self.working);
        match (what, result) {
            (What::SweepTarget { from, to }, Ok(Work::Swept)) => {
                self.dirty.remove(&(*from, *to));
                self.stale.insert(*to);
            }
            (What::SweepSource(node), Ok(Work::Swept)) => {
                self.cleaning.insert(*node, Cleaning::Swept);
                self.succeeded();
            }
            (What::Copy, Ok(Work::Copied { at, moved })) => {
                self.moved = self.moved.and(moved);
                self.copied(ground, at, out);
                self.succeeded();
            }
            (What::Follow, Ok(Work::Followed { through, moved })) => {
                self.moved = self.moved.and(moved);
                self.followed(ground, through, moved, out);
            }
            (_, Ok(work)) => panic!("the mover's thread was asked for {what:?} and did {work:?}"),
            (_, Err(error)) => {
                self.moved = self.moved.and(working);
                if matches!(what, What::Follow) && !can_follow_again(&error) {
                    self.copy_again();
                }
                if matches!(what, What::Copy) && self.is_lost_for_good(ground, &error) {
                    self.way = Way::Undo;
                } else if !is_stopping {
                    self.rest(ground, now, error, out);
                }
            }
        }
    }

    /// Whether the copy for a take-over has found that the node which is down can't be read either. Nothing is taken over from
    /// it from then on.
    fn is_lost_for_good(&self, ground: &mut Ground, error: &Error) -> bool {
        let source = self.passage.as_ref().map(|passage| passage.source);
        let is_lost = matches!(error, Error::CorruptTree { node, .. }
            if Some(*node) == source && ground.down.contains(node));
        if is_lost {
            ground.unreadable.extend(source);
        }
        is_lost && self.is_take_over() && self.way == Way::Forward
    }

    fn node_lives_again(&mut self, node: NodeId) {
        let is_cutting = matches!(
            &self.waiting,
            Waiting::Task {
                what: What::Record(RingRecord::Cut { .. }),
                ..
            }
        );
        if let Some(passage) = self
            .passage
            .as_mut()
            .filter(|passage| passage.source == node)
            && !is_cutting
        {
            passage.lost_promise();
        }
        match &self.waiting {
            // The new life gives its own word, and shows its tree anew, but a question that died with the old one is lost.
            Waiting::Promise { node: awaited, .. } | Waiting::Forgotten { node: awaited, .. }
                if *awaited == node =>
            {
                self.waiting = Waiting::Nothing;
            }
            _ => {}
        }
    }

    pub(super) fn node_is_down(&mut self, node: NodeId, out: &mut Vec<MotionEffect>) {
        self.node_lives_again(node);
        let passage = self.passage.as_mut();
        if let Some(passage) = passage.filter(|passage| passage.source == node) {
            passage.went_down();
        }
        match &self.waiting {
            Waiting::Node | Waiting::Rest { .. } => self.waiting = Waiting::Nothing,
            // There is no more use in it, and writers may wait.
            _ if self.is_target(node) => self.interrupt(out),
            _ => {}
        }
    }

    pub(super) fn handle_timeout(
        &mut self,
        ground: &mut Ground,
        now: Time,
        out: &mut Vec<MotionEffect>,
    ) {
        if self.next_timeout().is_none_or(|until| until > now) {
            return;
        }
        if matches!(self.waiting, Waiting::Promise { .. }) {
            // Something that it has admitted does not end. Writers wait meanwhile, and may not for ever.
            return self.rest(ground, now, Error::DeadlineExceeded, out);
        }
        if let Waiting::Forgotten { node, .. } = self.waiting {
            // It can't tell whether its tree is ahead of its view before another checkpoint has passed.
            return self.checkpoint(ground, Step::Cleaning, vec![node], out);
        }
        self.waiting = Waiting::Nothing;
    }

    pub(super) fn cancel(&mut self, request: RequestId, out: &mut Vec<MotionEffect>) {
        self.cancels.push(request);
        if self.way == Way::Forward && !self.is_final {
            self.way = Way::Undo;
            self.was_cancelled = true;
            self.interrupt(out);
        }
    }

    /// Ends what is under way as soon as may be.
    pub(super) fn interrupt(&mut self, out: &mut Vec<MotionEffect>) {
        match &self.waiting {
            Waiting::Task { task, what } => match what {
                What::SweepTarget { .. } | What::SweepSource(_) | What::Copy | What::Follow => {
                    if !self.is_stopping {
                        self.is_stopping = true;
                        out.push(MotionEffect::Stop { task: *task });
                    }
                }
                What::Open | What::Record(_) | What::Checkpoint => {}
            },
            Waiting::Quick { .. }
            | Waiting::Promise { .. }
            | Waiting::Forgotten { .. }
            | Waiting::Rest { .. }
            | Waiting::Node => self.waiting = Waiting::Nothing,
            Waiting::Nothing | Waiting::End | Waiting::Broken(_) => {}
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.last_failure = None;
    }
}

/// Whether what was copied before is still good: the journal was only not readable, or the target not writable, just now.
fn can_follow_again(error: &Error) -> bool {
    matches!(
        error,
        Error::Io { .. } | Error::DiskFull { .. } | Error::Unknown { .. }
    )
}

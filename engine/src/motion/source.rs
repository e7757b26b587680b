//! How the arcs of one source pass to their targets.
//!
//! ```text
//!  hold ─▶ sweep dirty targets ─▶ copy at P ─▶ follow ⟲ ─▶ hand over ─▶ follow ─▶ Cut
//!                                     P moves on with each follow, and the hold behind it
//! ```
//!
//! A source that is down hands nothing over: it was down before the change began, so the journal has nothing of it behind
//! the beginning. It is copied from its tree, followed through there, and cut without its word. The journal refuses that if
//! it was told of the loss later; then the change begins anew, which is behind the loss.
//!
//! A target whose tree is behind an earlier Cut of its own is written first, by a checkpoint; see
//! [`Motion::with_complete`](super::Motion::with_complete).

use super::{
    Ground, Heal,
    course::{Course, Waiting, Way, What},
    message::{Job, MotionEffect, Moved, Step},
    plan::Targets,
};
use crate::{
    ids::{Incarnation, Lsn, NodeId, Time},
    ring::ArcSet,
    ring_state::RingRecord,
};
use std::sync::Arc;

/// A source on its way.
#[derive(Debug, Clone)]
pub(super) struct Passage {
    pub(super) source: NodeId,
    targets: Arc<Targets>,
    /// Whether the journal was asked to be held, and is.
    pub(super) is_hold_asked: bool,
    pub(super) is_held: bool,
    /// Everything up to here is at the targets.
    position: Option<Lsn>,
    /// Rounds of following so far.
    rounds: u32,
    /// Whether the last round had little to copy.
    is_close: bool,
    /// Whether the source was asked to hand over, and its promise: its life, and the last LSN that it has installed.
    is_asked: bool,
    promise: Option<(Incarnation, Lsn)>,
}

impl Passage {
    fn new(source: NodeId, targets: Targets) -> Self {
        Self {
            source,
            targets: Arc::new(targets),
            is_hold_asked: false,
            is_held: false,
            position: None,
            rounds: 0,
            is_close: false,
            is_asked: false,
            promise: None,
        }
    }

    /// The life that has promised, or was to, is over. The next one refuses writers still, until it is told to keep its arcs.
    pub(super) fn lost_promise(&mut self) {
        self.promise = None;
    }

    /// The source is down: it refuses nobody any more.
    pub(super) fn went_down(&mut self) {
        self.is_asked = false;
    }

    /// The source goes on with its arcs.
    pub(super) fn thaw(&mut self, change: u64, out: &mut Vec<MotionEffect>) {
        if self.is_asked {
            let node = self.source;
            out.push(MotionEffect::KeepArcs { node, change });
            self.is_asked = false;
        }
        // Also of a source that went down while its Cut was on its way: the journal has not taken the Cut.
        self.promise = None;
        self.is_close = false;
        self.rounds = 0;
    }
}

impl Course {
    /// The next step for a source that is not cut.
    pub(super) fn move_on(
        &mut self,
        ground: &mut Ground,
        now: Time,
        source: NodeId,
        out: &mut Vec<MotionEffect>,
    ) {
        let is_down = ground.down.contains(&source);
        if is_down && ground.options.heal == Heal::Wait {
            return self.wait_for(ground, source, out);
        }
        if is_down && !(self.began_at.is_some() && self.down_before.contains(&source)) {
            return self.begin_again(ground, now, out);
        }
        if self.passage.is_none() {
            let moves = self.change.moves_from(source);
            let targets = Targets::new(ground.ring.ring().arc_bits(), moves);
            self.passage = Some(Passage::new(source, targets));
        }
        let passage = self.passage.as_mut().expect("it was made above");
        assert_eq!(passage.source, source, "sources pass one after another");

        let lost = passage.targets.nodes().iter().copied();
        if let Some(lost) = lost.clone().find(|target| ground.down.contains(target)) {
            match (ground.options.heal, self.way) {
                (Heal::Wait, _) => self.wait_for(ground, lost, out),
                (Heal::TakeOver, Way::Forward) => self.way = Way::Undo,
                (Heal::TakeOver, _) => self.abandon(ground, lost),
            }
            return;
        }

        let is_behind = |target: &&NodeId| ground.behind.contains_key(target);
        let behind: Vec<NodeId> = lost.filter(|target| is_behind(&target)).collect();
        if !behind.is_empty() {
            return self.checkpoint(ground, Step::Sweeping, behind, out);
        }
        if !passage.is_held {
            passage.is_hold_asked = true;
            let task = self.ask_quickly(ground, now);
            // Nothing at all, until it is known what is needed.
            let through = Some(Lsn(0));
            return out.push(MotionEffect::Hold { task, through });
        }
        let Some(position) = passage.position else {
            return self.copy(ground, source, is_down, out);
        };
        let promised = match (is_down, passage.promise) {
            (true, _) => self.began_at,
            (false, promise) => promise.map(|(_, through)| through),
        };
        if !passage.is_close {
            let is_urgent = passage.rounds + 1 >= ground.options.rounds;
            return self.follow(ground, Step::Following, position, None, is_urgent, out);
        }
        let Some(through) = promised else {
            return self.hand_over(ground, now, source, out);
        };
        if position < through {
            let through = Some(through);
            return self.follow(ground, Step::HandingOver, position, through, true, out);
        }
        let promise = passage.promise.iter();
        let lives = promise.map(|(life, _)| (source, *life)).collect();
        let record = RingRecord::Cut {
            change: self.change.number,
            from: source,
        };
        self.record(ground, Step::Cutting, record, lives, out);
    }

    fn copy(
        &mut self,
        ground: &mut Ground,
        source: NodeId,
        is_down: bool,
        out: &mut Vec<MotionEffect>,
    ) {
        let dirty = self.dirty.iter().find(|(from, _)| *from == source);
        if let Some((from, to)) = dirty.copied() {
            return self.sweep_target(ground, from, to, out);
        }
        let passage = self.passage.as_ref().expect("a source is being moved");
        let targets = Arc::clone(&passage.targets);
        // From here on, whatever becomes of the copy.
        let reached = targets.nodes().iter();
        self.dirty.extend(reached.map(|to| (source, *to)));
        let job = Job::Copy {
            source,
            is_down,
            targets,
        };
        self.work(ground, Step::Copying, What::Copy, job, out);
    }

    pub(super) fn sweep_target(
        &mut self,
        ground: &mut Ground,
        from: NodeId,
        to: NodeId,
        out: &mut Vec<MotionEffect>,
    ) {
        let ring = ground.ring.ring();
        let arc_bits = ring.arc_bits();
        let arcs = if from == to {
            let others = (0..).zip(ring.owners()).filter(|(_, owner)| **owner != to);
            ArcSet::of(arc_bits, others.map(|(arc, _)| arc))
        } else {
            self.change.arcs_between(arc_bits, from, to)
        };
        let arcs = Arc::new(arcs);
        let what = What::SweepTarget { from, to };
        self.work(
            ground,
            Step::Sweeping,
            what,
            Job::Sweep { node: to, arcs },
            out,
        );
    }

    fn follow(
        &mut self,
        ground: &mut Ground,
        step: Step,
        after: Lsn,
        through: Option<Lsn>,
        is_urgent: bool,
        out: &mut Vec<MotionEffect>,
    ) {
        let passage = self.passage.as_ref().expect("a source is being moved");
        let job = Job::Follow {
            source: passage.source,
            targets: Arc::clone(&passage.targets),
            after,
            through,
            is_urgent,
        };
        self.work(ground, step, What::Follow, job, out);
    }

    fn hand_over(
        &mut self,
        ground: &mut Ground,
        now: Time,
        node: NodeId,
        out: &mut Vec<MotionEffect>,
    ) {
        let attempt = ground.next_task().0;
        let passage = self.passage.as_mut().expect("a source is being moved");
        passage.is_asked = true;
        let arcs = Arc::clone(passage.targets.arcs());
        self.waiting = Waiting::Promise {
            node,
            attempt,
            until: now.after(ground.options.hand_over),
        };
        self.show(ground, Step::HandingOver, out);
        let change = self.change.number;
        out.push(MotionEffect::HandOver {
            node,
            change,
            attempt,
            arcs,
        });
    }

    /// Whether arcs pass to this node at the moment.
    pub(super) fn is_target(&self, node: NodeId) -> bool {
        let passage = self.passage.as_ref();
        passage.is_some_and(|passage| passage.targets.nodes().contains(&node))
    }

    // What arrives.

    pub(super) fn copied(&mut self, ground: &mut Ground, at: Lsn, out: &mut Vec<MotionEffect>) {
        if let Some(passage) = &mut self.passage {
            passage.position = Some(at);
            self.hold(ground, at, out);
        }
    }

    pub(super) fn followed(
        &mut self,
        ground: &mut Ground,
        through: Lsn,
        moved: Moved,
        out: &mut Vec<MotionEffect>,
    ) {
        let options = ground.options;
        if let Some(passage) = &mut self.passage {
            assert!(
                passage.position <= Some(through),
                "followed back to {through}"
            );
            passage.position = Some(through);
            passage.rounds += 1;
            passage.is_close |=
                moved.bytes <= options.caught_up_bytes || passage.rounds >= options.rounds;
            self.hold(ground, through, out);
        }
    }

    /// Moves the hold up. Nobody waits for the answer.
    fn hold(&self, ground: &mut Ground, through: Lsn, out: &mut Vec<MotionEffect>) {
        let task = ground.next_task();
        let through = Some(through);
        out.push(MotionEffect::Hold { task, through });
    }

    /// What was copied can't be gone on from.
    pub(super) fn copy_again(&mut self) {
        if let Some(passage) = &mut self.passage {
            passage.position = None;
        }
    }

    pub(super) fn promised(
        &mut self,
        node: NodeId,
        change: u64,
        attempt: u64,
        promise: (Incarnation, Lsn),
    ) {
        let is_awaited = matches!(&self.waiting, Waiting::Promise { node: asked, attempt: last, .. }
            if *asked == node && *last == attempt);
        if is_awaited && change == self.change.number {
            let passage = self.passage.as_mut().expect("a source is being moved");
            passage.promise = Some(promise);
            self.waiting = Waiting::Nothing;
        }
    }

    pub(super) fn was_cut(
        &mut self,
        ground: &mut Ground,
        from: NodeId,
        out: &mut Vec<MotionEffect>,
    ) {
        let passage = self.passage.take();
        passage.expect("only a source that is being moved is cut");
        self.release(ground, out);
        self.dirty.retain(|(source, _)| *source != from);
    }

    /// Lets go of the source that was being moved.
    pub(super) fn leave_source(&mut self, ground: &mut Ground, out: &mut Vec<MotionEffect>) {
        self.thaw(out);
        if let Some(passage) = self.passage.take()
            && passage.is_hold_asked
        {
            self.release(ground, out);
        }
    }
}

//! Turning a change round, and beginning it anew.
//!
//! ```text
//!  cancelled ─▶ sweep what copies have left ─▶ swept targets forget ─▶ nothing cut: Ended, members of before
//!                                                                  └─▶ clean what was cut ─▶ Began(the way back)
//!  a source went down ─▶ clean what was cut ─▶ Began(what is left)
//!  a target of the way back went down ─▶ sweep, forget, clean ─▶ Ended, members of before and who owns something
//! ```
//!
//! What was cut before a change began anew does not move back when that is undone: nobody knows any more where it came from.
//! Whoever owns something of it stays a member.
//!
//! A change whose source goes down begins anew with what is left of it: the journal was told before that the node is
//! down and takes nothing of it any more, so all that it has ever committed is below the new beginning.

use super::{
    Ground,
    course::{Course, Way},
    message::{Ending, MotionEffect, Step},
};
use crate::{
    ids::{NodeId, Time},
    ring::ArcMove,
    ring_state::{Change, RingRecord, SourceState},
};
use std::sync::Arc;

impl Course {
    /// The next step of undoing.
    pub(super) fn undo(&mut self, ground: &mut Ground, now: Time, out: &mut Vec<MotionEffect>) {
        self.leave_source(ground, out);
        if !self.has_begun {
            let joining = self.joining.clone();
            return self.end(ground, joining, Ok(Ending::Cancelled), out);
        }
        let members = self.members_after(ground);
        let stays = |node| members.iter().any(|(member, _)| *member == node);
        // A node that leaves again may keep what it has.
        self.dirty.retain(|(_, to)| stays(*to));
        if let Some((from, to)) = self.dirty.first().copied() {
            return self.sweep_target(ground, from, to, out);
        }
        self.stale
            .retain(|node| stays(*node) && !ground.down.contains(node));
        if let Some(node) = self.stale.first().copied() {
            return self.forget(ground, now, node, out);
        }
        if self.clean_all(ground, now, out) {
            return;
        }
        let moved = |state| matches!(state, SourceState::Cleaned(_));
        let moves = self.moves_of(ground, moved);
        if moves.is_empty() || self.way != Way::Undo {
            let change = self.change.number;
            let record = RingRecord::Ended { change, members };
            self.is_final = true;
            return self.record(ground, Step::Ending, record, Vec::new(), out);
        }
        let back = |one: ArcMove| ArcMove {
            arc: one.arc,
            from: one.to,
            to: one.from,
        };
        let change = Change {
            number: ground.ring.next_change(),
            members,
            moves: moves.into_iter().map(back).collect(),
        };
        self.is_turning = true;
        self.begin(ground, Arc::new(change), out);
    }

    /// Ends the way back where it is. A node that was to leave, and stays because it owns something, may have kept what
    /// copies have left: of arcs that nobody remembers, so all that is not its own is swept.
    pub(super) fn abandon(&mut self, ground: &Ground, lost: NodeId) {
        self.way = Way::Abandon(lost);
        let leaves = |node| {
            !self
                .change
                .members
                .iter()
                .any(|(member, _)| *member == node)
        };
        let members = self.members_after(ground).into_iter();
        let staying = members.map(|(node, _)| node).filter(|node| leaves(*node));
        let staying: Vec<_> = staying.map(|node| (node, node)).collect();
        self.dirty.extend(staying);
    }

    /// The members and weights when it is undone, or abandoned: those of before, or of the way back, and who owns something
    /// that does not move back.
    fn members_after(&self, ground: &Ground) -> Vec<(NodeId, u32)> {
        let running = ground.ring.running().expect("a change that has begun");
        let ring = ground.ring.ring();
        let mut owners = ring.owners().to_vec();
        let mut members = match self.way {
            Way::Undo => {
                let moved = |state| state != SourceState::Waiting;
                for one in self.moves_of(ground, moved) {
                    owners[one.arc as usize] = one.from;
                }
                running.before.clone()
            }
            _ => self.change.members.clone(),
        };
        for (node, weight) in ring.nodes() {
            let is_member = members.iter().any(|(member, _)| member == node);
            if !is_member && owners.contains(node) {
                members.push((*node, *weight));
            }
        }
        members.sort_unstable();
        members
    }

    /// Begins anew with the sources that are not cut.
    pub(super) fn begin_again(
        &mut self,
        ground: &mut Ground,
        now: Time,
        out: &mut Vec<MotionEffect>,
    ) {
        self.thaw(out);
        if self.clean_all(ground, now, out) {
            return;
        }
        let waits = |state| state == SourceState::Waiting;
        let change = Change {
            number: ground.ring.next_change(),
            members: self.change.members.clone(),
            moves: self.moves_of(ground, waits),
        };
        self.begin(ground, Arc::new(change), out);
    }

    /// The moves of the sources in such a state.
    fn moves_of(&self, ground: &Ground, is: impl Fn(SourceState) -> bool) -> Vec<ArcMove> {
        let mut sources = self.sources(ground);
        sources.retain(|(_, state)| is(*state));
        let sources: Vec<_> = sources.into_iter().map(|(node, _)| node).collect();
        let moves = self.change.moves.iter();
        moves
            .filter(|one| sources.contains(&one.from))
            .copied()
            .collect()
    }

    /// Another change has taken the place of this one.
    pub(super) fn take_the_place(&mut self, change: &Arc<Change>) {
        self.change = Arc::clone(change);
        self.cleaning.clear();
        if self.is_turning {
            self.way = Way::Back;
        }
    }
}

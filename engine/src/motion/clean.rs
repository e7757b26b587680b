//! Cleaning: nothing of what has moved is left where it was, nor shown.
//!
//! ```text
//!  checkpoint until each source's tree is complete past its Cut ─▶ for each: sweep ─▶ forget ─▶ Cleaned
//! ```
//!
//! After the checkpoint no generation of the source holds a version of these arcs, so none comes into the tree behind the
//! sweep. A source that is down and is to stay is waited for: its tree is complete only up to before the Cut, and whoever opens
//! it again replays what is behind that, by which the change must still tell what was cut. (With [`Heal::TakeOver`] it has
//! generations that will never be written, and loses the rest of its arcs next.) A source that leaves is not cleaned but removed, and said to be clean at the very
//! end, when nothing can be undone any more.

use super::{
    Ground, Heal,
    course::{Course, What},
    message::{Job, MotionEffect, Step},
};
use crate::{
    error::{Error, Result},
    ids::{Lsn, NodeId, Time},
    ring_state::{RingRecord, SourceState},
};
use std::sync::Arc;

/// How far the cleaning of a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cleaning {
    /// Its tree is complete past the Cut.
    Persisted,
    /// Its tree holds nothing of the arcs.
    Swept,
    /// Nor does its published view.
    Forgotten,
}

impl Course {
    /// The next step when all sources are cut.
    pub(super) fn clean(&mut self, ground: &mut Ground, now: Time, out: &mut Vec<MotionEffect>) {
        let leaves = |node: NodeId| {
            let members = &self.change.members;
            members
                .binary_search_by_key(&node, |(node, _)| *node)
                .is_err()
        };
        let (leaving, staying): (Vec<_>, Vec<_>) = cut_sources(self, ground)
            .into_iter()
            .partition(|node| leaves(*node));
        if self.clean_these(ground, now, &staying, out) {
            return;
        }
        if let Some(node) = leaving.first() {
            self.is_final = true;
            return self.record_clean(ground, *node, out);
        }
        let record = RingRecord::Ended {
            change: self.change.number,
            members: self.change.members.clone(),
        };
        self.is_final = true;
        self.record(ground, Step::Ending, record, Vec::new(), out);
    }

    /// The next step of cleaning everything that was cut, leaving sources too; false if nothing is left of it.
    pub(super) fn clean_all(
        &mut self,
        ground: &mut Ground,
        now: Time,
        out: &mut Vec<MotionEffect>,
    ) -> bool {
        let cut = cut_sources(self, ground);
        self.clean_these(ground, now, &cut, out)
    }

    fn clean_these(
        &mut self,
        ground: &mut Ground,
        now: Time,
        cut: &[NodeId],
        out: &mut Vec<MotionEffect>,
    ) -> bool {
        let is_down = |node: &NodeId| ground.down.contains(node);
        let is_begun = |node: &NodeId| self.cleaning.contains_key(node);
        let unwritten = cut.iter().filter(|node| !is_down(node) && !is_begun(node));
        let nodes: Vec<NodeId> = unwritten.copied().collect();
        if !nodes.is_empty() {
            self.checkpoint(ground, Step::Cleaning, nodes, out);
            return true;
        }
        let waits = |node: &NodeId| is_down(node) && ground.options.heal == Heal::Wait;
        let Some(node) = cut.iter().find(|node| !waits(node)).copied() else {
            return match cut.first() {
                Some(lost) => {
                    self.wait_for(ground, *lost, out);
                    true
                }
                None => false,
            };
        };
        match self.cleaning.get(&node) {
            None | Some(Cleaning::Persisted) => {
                let arc_bits = ground.ring.ring().arc_bits();
                let arcs = Arc::new(self.change.arcs_from(arc_bits, node));
                let job = Job::Sweep { node, arcs };
                self.work(ground, Step::Cleaning, What::SweepSource(node), job, out);
            }
            Some(Cleaning::Swept) if !is_down(&node) => self.forget(ground, now, node, out),
            Some(Cleaning::Swept | Cleaning::Forgotten) => self.record_clean(ground, node, out),
        }
        true
    }

    pub(super) fn checkpoint(
        &mut self,
        ground: &mut Ground,
        step: Step,
        nodes: Vec<NodeId>,
        out: &mut Vec<MotionEffect>,
    ) {
        let task = self.ask(ground, What::Checkpoint);
        self.show(ground, step, out);
        out.push(MotionEffect::Checkpoint { task, nodes });
    }

    fn record_clean(&mut self, ground: &mut Ground, from: NodeId, out: &mut Vec<MotionEffect>) {
        let change = self.change.number;
        let record = RingRecord::Cleaned { change, from };
        self.record(ground, Step::Cleaning, record, Vec::new(), out);
    }

    pub(super) fn checkpointed(
        &mut self,
        ground: &mut Ground,
        now: Time,
        result: Result<Vec<(NodeId, Lsn)>>,
        out: &mut Vec<MotionEffect>,
    ) {
        let complete = match result {
            Ok(complete) => complete,
            Err(error) => return self.rest(ground, now, error, out),
        };
        let mut behind = None;
        for (node, complete) in &complete {
            match ground.behind.get(node) {
                Some(needed) if complete >= needed => {
                    ground.behind.remove(node);
                }
                Some(_) => behind = Some(*node),
                None => {}
            }
        }
        for (node, state) in self.sources(ground) {
            let SourceState::Cut(cut) = state else {
                continue;
            };
            match complete.iter().find(|(other, _)| *other == node) {
                Some((_, complete)) if *complete >= cut => {
                    self.cleaning.entry(node).or_insert(Cleaning::Persisted);
                }
                // It was recovering when the others froze.
                Some(_) if !ground.down.contains(&node) => behind = Some(node),
                _ => {}
            }
        }
        if let Some(node) = behind {
            self.rest(ground, now, Error::NodeRestarted { node }, out);
        }
    }

    pub(super) fn forgotten(&mut self, node: NodeId) {
        match self.cleaning.get_mut(&node) {
            Some(cleaning) if *cleaning == Cleaning::Swept => *cleaning = Cleaning::Forgotten,
            _ => {
                self.stale.remove(&node);
            }
        }
    }
}

fn cut_sources(course: &Course, ground: &Ground) -> Vec<NodeId> {
    let is_cut = |state| matches!(state, SourceState::Cut(_));
    let sources = course.sources(ground).into_iter();
    let cut = sources.filter(|(_, state)| is_cut(*state));
    cut.map(|(node, _)| node).collect()
}

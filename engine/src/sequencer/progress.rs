//! What is installed and forced becomes visible; fences and marks are drawn in line and reached in line.

use super::{JournalEffect, Sequencer, Waiting};
use crate::{
    ids::{Incarnation, Lsn, NodeId, Time},
    journal::record::RecordBody,
};

impl Sequencer {
    pub(super) fn installed(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        through: Lsn,
        out: &mut Vec<JournalEffect>,
    ) {
        let Some(progress) = self.nodes.get_mut(usize::from(node.0)) else {
            // It is open, and its change has not begun: it has nothing.
            return;
        };
        if incarnation == progress.incarnation {
            assert!(
                through <= self.last_lsn,
                "node {node} installed LSN {through}, which was never given"
            );
            progress.installed = progress.installed.max(through);
            self.advance(out);
        }
    }

    pub(super) fn fence(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        out: &mut Vec<JournalEffect>,
    ) {
        let Some(progress) = self.nodes.get_mut(usize::from(node.0)) else {
            self.ring.stranger(node).incarnation = incarnation;
            out.push(JournalEffect::Fenced(node, incarnation, self.visible));
            return;
        };
        if incarnation <= progress.incarnation {
            return;
        }
        progress.incarnation = incarnation;
        progress.refused_chain = None;
        self.waiting
            .retain(|waiting| !matches!(waiting, Waiting::Append(append) if append.node == node));
        self.waiting_changed();
        if self.failure.is_some() {
            // Nothing new is made durable; the node serves what was visible.
            out.push(JournalEffect::Fenced(node, incarnation, self.visible));
            return;
        }
        let lsn = self.append_record(RecordBody::Fence { node, incarnation });
        self.nodes[usize::from(node.0)].assigned = lsn;
        self.fences.push_back((node, incarnation, lsn));
        self.cut(out);
    }

    /// Nothing of the node comes any more: what waits for room is dropped, and what it sends yet is void. Its callers were
    /// told that they can't know. It may be said twice.
    pub(super) fn give_up(&mut self, now: Time, node: NodeId, out: &mut Vec<JournalEffect>) {
        let last_lsn = self.last_lsn;
        let down = match self.nodes.get_mut(usize::from(node.0)) {
            Some(progress) => &mut progress.down,
            None => &mut self.ring.stranger(node).down,
        };
        down.get_or_insert(last_lsn);
        let before = self.waiting.len();
        self.waiting
            .retain(|waiting| !matches!(waiting, Waiting::Append(append) if append.node == node));
        self.advance(out);
        if self.waiting.len() < before {
            // What was dropped may have stood before something that fits.
            self.admit_waiting(now, out);
            self.cut(out);
        }
    }

    pub(super) fn mark(&mut self, out: &mut Vec<JournalEffect>) {
        for node in self.ring.state.live() {
            out.push(JournalEffect::Freeze(node, self.last_lsn));
        }
        self.marks.push_back((self.last_lsn, self.catalogue()));
        self.advance(out);
    }

    /// Moves the visible LSN to the highest LSN up to which everything is persisted and installed.
    pub(super) fn advance(&mut self, out: &mut Vec<JournalEffect>) {
        if self.failure.is_some() {
            return;
        }
        let mut reached = self.persisted;
        while let Some((node, incarnation, lsn)) = self.fences.front().copied() {
            if lsn > self.persisted {
                break;
            }
            self.fences.pop_front();
            out.push(JournalEffect::Fenced(node, incarnation, lsn));
        }
        for node in &self.nodes {
            if node.down.is_none() && !node.retired && node.installed < node.assigned {
                reached = reached.min(node.installed);
            }
        }
        let reached = self.before_unpublished(reached, out);
        if reached > self.visible {
            let before = self.visible;
            self.visible = reached;
            let concerned = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.assigned > before && !node.retired)
                .map(|(number, _)| NodeId(u16::try_from(number).expect("node numbers fit")))
                .collect();
            out.push(JournalEffect::Visible(reached, concerned));
            self.tell_of_visible(out);
            self.tell_lock_life(out);
            self.tell_ring(out);
        }
        while self
            .marks
            .front()
            .is_some_and(|(mark, _)| *mark <= self.visible)
        {
            let (mark, catalogue) = self.marks.pop_front().expect("it has a front");
            out.push(JournalEffect::MarkReached(mark, catalogue));
        }
    }

    pub(super) fn tell_of_visible(&mut self, out: &mut Vec<JournalEffect>) {
        let visible = self.visible;
        let seen = self.changes.partition_point(|change| change.lsn <= visible);
        if seen > 0 {
            out.push(JournalEffect::Changes(self.changes.drain(..seen).collect()));
        }
        self.tell_waiters(out);
        self.tell_of_keyspaces(out);
    }
}

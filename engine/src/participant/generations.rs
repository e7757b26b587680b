//! Checkpoints as a node sees them: its generation is frozen at a mark, and goes once the tree holds it.

use super::{NodeEffect, Participant, Phase};
use crate::{
    ids::Lsn,
    view::{Frozen, NodeView},
};
use std::sync::Arc;

impl Participant {
    pub(super) fn freeze(&mut self, through: Lsn, out: &mut Vec<NodeEffect>) {
        let ready = matches!(self.phase, Phase::Serving);
        if ready {
            let view = self.table.view();
            // An empty generation is frozen too: it is the sign that the view has a border at the mark.
            let mut frozen = vec![Frozen {
                through,
                generation: Arc::clone(&view.active),
            }];
            let older = view.frozen.iter();
            frozen.extend(
                older
                    .filter(|frozen| !frozen.generation.is_empty())
                    .cloned(),
            );
            self.table.publish(NodeView {
                active: Arc::new(view.active.successor()),
                frozen,
                ..NodeView::clone(&view)
            });
        }
        out.push(NodeEffect::Frozen { through, ready });
    }

    pub(super) fn flushed(&mut self, through: Lsn, out: &mut Vec<NodeEffect>) {
        let view = self.table.view();
        let complete = view.complete.max(through);
        let frozen = view.frozen.iter();
        let frozen = frozen.filter(|frozen| frozen.through > through).cloned();
        self.table.publish(NodeView {
            frozen: self.without_lost(complete, frozen.collect()),
            tree: (self.tree.0)(),
            complete,
            ..NodeView::clone(&view)
        });
        self.forget_if_passed();
        self.tell_forgotten(out);
    }
}

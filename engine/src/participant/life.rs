//! How a node's life ends and the next one begins: restart, fence, rebuild, read-only, down.

use super::{NodeEffect, Participant, Phase, parked::Request};
use crate::{
    error::{Error, Result},
    generation::Generation,
    ids::{Incarnation, Lsn, Time},
    sequencer::JournalMessage,
    view::{Frozen, NodeView},
};
use std::sync::Arc;

impl Participant {
    /// Whether requests wait for the end of a recovery.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        matches!(self.phase, Phase::Recovering { .. })
    }

    /// Begins a new life after a panic: gives up what is staged, and asks the journal where the old life ended.
    /// Requests whose fate the journal knows are answered by it; the others are refused once it has said so.
    ///
    /// The message that was being handled is lost with the old life. Unless it was a request or meant for that life
    /// alone, hand it to the new one again: all the others may come twice.
    pub fn restart(&mut self, out: &mut Vec<NodeEffect>) {
        if matches!(self.phase, Phase::Down | Phase::ReadOnly(_)) {
            return;
        }
        self.incarnation = self.incarnation.next();
        self.chain = 0;
        self.batch.clear();
        self.sent.clear();
        self.staged = None;
        self.staged_commits = 0;
        self.installed_commits = 0;
        self.ownership.restart();
        let parked = self.give_up_transactions();
        let stash = match std::mem::replace(&mut self.phase, Phase::Serving) {
            Phase::Recovering { stash } => stash,
            Phase::Serving | Phase::ReadOnly(_) | Phase::Down => parked,
        };
        self.phase = Phase::Recovering { stash };
        out.push(NodeEffect::Journal(JournalMessage::Fence {
            node: self.node(),
            incarnation: self.incarnation,
        }));
    }

    pub(super) fn fenced(
        &mut self,
        now: Time,
        incarnation: Incarnation,
        through: Lsn,
        out: &mut Vec<NodeEffect>,
    ) {
        if incarnation != self.incarnation {
            return;
        }
        // The journal is first in, first out: what it has not resolved by now it will refuse.
        let node = self.node();
        for entry in self.in_flight.drain(self.resolved..) {
            out.push(NodeEffect::Answer(
                entry.id,
                Err(Error::NodeRestarted { node }),
            ));
        }
        if matches!(self.phase, Phase::Recovering { .. }) {
            match self.ownership.needs_no_rebuild() {
                true => self.serve_again(now, through, out),
                false => self.rebuild(through, out),
            }
        }
    }

    pub(super) fn rebuild(&mut self, through: Lsn, out: &mut Vec<NodeEffect>) {
        self.rebuilding_after = self.table.view().complete;
        out.push(NodeEffect::Rebuild {
            incarnation: self.incarnation,
            after: self.ownership.rebuilt_after(self.rebuilding_after, through),
            through,
        });
    }

    pub(super) fn rebuilt(
        &mut self,
        now: Time,
        incarnation: Incarnation,
        through: Lsn,
        generation: Result<Arc<Generation>>,
        out: &mut Vec<NodeEffect>,
    ) {
        if incarnation != self.incarnation || !matches!(self.phase, Phase::Recovering { .. }) {
            return;
        }
        let view = self.table.view();
        let generation = match generation {
            Ok(generation) => generation,
            // A checkpoint that was under way has ended meanwhile, and the journal has let go of what is in the tree.
            Err(_) if self.table.view().complete > self.rebuilding_after => {
                self.rebuild(through, out);
                return;
            }
            Err(error) => {
                out.push(NodeEffect::Broken(error));
                return;
            }
        };
        let frozen = Frozen {
            through,
            generation: Arc::clone(&generation),
        };
        self.table.publish(NodeView {
            active: Arc::new(generation.successor()),
            frozen: self.without_lost(view.complete, vec![frozen]),
            // The store may be ahead of `complete`, by a run whose `Flushed` is still on its way.
            ..NodeView::clone(&view)
        });
        // The old life may have died between the generation and the cache.
        for (key, lsn, value) in generation.newest_versions() {
            self.cache.update(&key, lsn, value.as_ref());
        }
        self.serve_again(now, through, out);
    }

    /// The new life's view shows everything up to where the old one ended.
    fn serve_again(&mut self, now: Time, through: Lsn, out: &mut Vec<NodeEffect>) {
        // Arcs that it has gained or lost since the fence are all that this life was told of.
        self.last_lsn = self.last_lsn.max(through);
        self.show_gained();
        self.ownership.is_whole();
        out.push(NodeEffect::Journal(JournalMessage::Installed {
            node: self.node(),
            incarnation: self.incarnation,
            through: self.last_lsn,
        }));
        let Phase::Recovering { stash } = std::mem::replace(&mut self.phase, Phase::Serving) else {
            unreachable!("who called has checked it");
        };
        self.forget_if_passed();
        self.drain(now, out);
        for request in stash {
            self.request(now, request, out);
        }
    }

    pub(super) fn read_only(&mut self, error: &Error, out: &mut Vec<NodeEffect>) {
        self.refuse_staged(&error.as_read_only(), out);
        self.resolved = 0;
        for entry in std::mem::take(&mut self.in_flight) {
            let error = Error::Unknown {
                reason: error.to_string(),
            };
            out.push(NodeEffect::Answer(entry.id, Err(error)));
        }
        for Request { id, .. } in self.give_up_transactions() {
            let error = error.as_read_only();
            out.push(NodeEffect::Answer(id, Err(error)));
        }
        match std::mem::replace(&mut self.phase, Phase::ReadOnly(error.clone())) {
            Phase::Recovering { stash } => {
                for Request { id, .. } in stash {
                    let error = error.as_read_only();
                    out.push(NodeEffect::Answer(id, Err(error)));
                }
            }
            Phase::Down => self.phase = Phase::Down,
            Phase::Serving | Phase::ReadOnly(_) => {}
        }
    }

    pub(super) fn go_down(&mut self, out: &mut Vec<NodeEffect>) {
        self.table.set_down();
        self.batch.clear();
        self.sent.clear();
        self.staged = None;
        let node = self.node();
        for Request { id, .. } in self.give_up_transactions() {
            out.push(NodeEffect::Answer(id, Err(Error::NodeDown { node })));
        }
        if let Phase::Recovering { stash } = std::mem::replace(&mut self.phase, Phase::Down) {
            for Request { id, .. } in stash {
                out.push(NodeEffect::Answer(id, Err(Error::NodeDown { node })));
            }
        }
        // What has an LSN is in the journal and becomes durable without this node; what has none can't be told apart
        // from what the journal is about to accept.
        for entry in self.in_flight.drain(self.resolved..) {
            let error = Error::Unknown {
                reason: format!("node {node} went down"),
            };
            out.push(NodeEffect::Answer(entry.id, Err(error)));
        }
        out.push(NodeEffect::Journal(JournalMessage::Down { node }));
    }

    /// Refuses what waits for the end of a recovery and is past its deadline.
    pub(super) fn refuse_late_stash(&mut self, now: Time, out: &mut Vec<NodeEffect>) {
        if let Phase::Recovering { stash } = &mut self.phase {
            stash.retain(|request| {
                let in_time = request.deadline > now;
                if !in_time {
                    out.push(NodeEffect::Answer(request.id, Err(Error::DeadlineExceeded)));
                }
                in_time
            });
        }
    }

    /// The first deadline of what waits for the end of a recovery.
    pub(super) fn next_stashed(&self) -> Option<Time> {
        let Phase::Recovering { stash } = &self.phase else {
            return None;
        };
        stash.iter().map(|request| request.deadline).min()
    }
}

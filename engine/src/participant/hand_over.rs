//! How arcs leave a node and come to it, while it serves.
//!
//! ```text
//!  motion  ── HandOver(arcs) ─▶ source: refuses what touches them (Moved) ── drained ── HandedOver(life, through) ──▶ motion
//!  motion  ── Cut(life) ──────▶ journal: gives it an LSN
//!  journal ── Owners(LSN) ────▶ source: refuses what was routed by an older ring    target: shows the copies, floor = LSN
//!                               both: Installed(LSN) ──▶ journal; then the ring is published, and the LSN becomes visible
//!  motion  ── Forget ─────────▶ source: nothing of the arcs is left here ── shown ── Forgotten ──▶ motion
//! ```
//!
//! A source is *drained* when no commit can come any more that writes a key of the arcs here, or was right only as long as
//! nobody writes one elsewhere. That is when all is installed that was staged when it was asked, when all is settled
//! that was prepared then and holds such a key or any range (a range lies on all arcs), and when what was parked has tried
//! again, and so was refused if it touches the arcs. It does not wait for emptiness: other keys are written on and on.
//! `through` is the last LSN installed, so a copy that has followed the journal up to there has everything.
//!
//! `HandedOver` is the word of one life. The journal refuses a Cut after that life is over, since a replayed journal shows
//! what the old life had staged. The next life knows still what is to be handed over, refuses from the start, and gives its
//! own word as soon as it is rebuilt: all that earlier lives had staged or promised is in the journal by then, or never
//! will be.
//!
//! From the Cut until its ring is published, requests still come by the old one. Those that touch the arcs are refused, the
//! others are as welcome as before. Once the arcs are forgotten they can't be told apart any more, but nobody has a ring
//! that old by then.
//!
//! # Why the view of a target is right
//!
//! The copies were ingested into the tree before the Cut, so the tree as it is when `Owners` is handled has them; the view
//! that it shows then has them too, and it is shown before `Installed`, without which the Cut is not visible. So
//! whoever reads at the Cut's LSN or above and loads the view afterwards finds the copies.
//!
//! Whoever reads below has an older ring and asks for other keys. For those the tree must not be newer than `complete`
//! says. It can be: a checkpoint's worker may have ingested a run through a mark above `complete` before this node has heard
//! of it. If the view holds anything frozen, that can't be ruled out, and then only the keys of the arcs that have come are
//! read from the tree of this moment ([`GainedView`]). Whatever else a tree may hold beyond `complete` belongs to arcs that
//! are not this node's: copies of arcs that may still come, and tombstones for arcs that have gone, which are swept out only
//! after a checkpoint past their cut. Nobody asks this node for them, but for scans, which ask the ring for the owner of
//! what they find here.
//!
//! What the tree holds of these arcs may be as new as the Cut, so that is the view's floor. It may only be shown together
//! with everything up to that LSN. A node that recovers shows less, so it keeps in mind what it has gained until it is
//! rebuilt.
//!
//! Where the source is down, the row cache may hold what was the newest of a key until the source died of installing the
//! next: the journal has that and the copies have it, the cache was never told. So the target drops the rows of these arcs
//! before it says `Installed`. A reader who comes late with what he has read of the source fills nothing: that it is down
//! is part of the question ([`crate::view`]).
//!
//! # Invariants
//!
//! - From `HandedOver` on, no commit of that life writes a key of the arcs, and none whose reads touch them is undecided.
//! - The view marks the arcs as leaving before `HandedOver`, and until the tree has passed the Cut.
//! - A floor is shown only by a view in which everything below is installed.
//! - Once the tree has passed the Cut, nothing of what has left comes into it any more: neither from generations nor from a
//!   rebuilt one.
//! - A node that has lost its last arcs, and has installed everything below that Cut, is not rebuilt any more: the journal lets
//!   go of what its tree lacks once the change is over, and whoever reads below the Cut finds it in the view as it is.
//!
//! # Left out
//!
//! Arcs that have left are not remembered over an opening of the directory: all routes are new then, and so is the cache.

use super::{NodeEffect, Operation, Owners, Participant, Phase, parked::keys_of};
use crate::{
    ids::{Epoch, Lsn, Time, TxnId},
    ring::ArcSet,
    sequencer::JournalMessage,
    store::gained::GainedView,
    transaction::{Prepare, ReadSet},
    view::{Frozen, NodeView},
};
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc};

/// What the node knows of the arcs that it owns, beyond that it does.
#[derive(Debug)]
pub(super) struct Ownership {
    /// When it last gained or lost an arc: the epoch that its votes carry.
    pub(super) since: Epoch,
    /// What was routed by an older ring has to be looked at. All that a request pays while no arc moves is to compare with
    /// this.
    suspect_below: Epoch,
    /// What was routed by an older ring is refused, whatever it touches.
    refused_below: Epoch,
    leaving: Option<Leaving>,
    /// The changes whose swept tree is to be shown, of which the mover is to be told.
    swept: BTreeSet<u64>,
    /// What was gained, oldest first, that no view shows yet: the node recovers.
    unseen: Vec<(Lsn, Arc<ArcSet>)>,
    /// From where on the journal has something of the node.
    begins: Begins,
    /// It has lost its last arcs.
    owns_nothing: bool,
}

/// From where on the journal has something of a node.
#[derive(Debug, Clone, Copy)]
enum Begins {
    /// From where its tree ends.
    InTree,
    /// Nowhere: it has joined and owns nothing yet. The journal may have let go of what is above its tree's LSN, since that is
    /// older than the change by which it joins.
    Nowhere,
    /// Behind the Cut by which it has gained its first arcs.
    Behind(Lsn),
    /// Nowhere any more: it owns nothing, and its view has all that it ever will. Once the change is over that takes it out
    /// of the ring, checkpoints leave it out, and the journal lets go of what its tree lacks.
    Left,
}

/// Arcs on their way out.
#[derive(Debug)]
struct Leaving {
    change: u64,
    attempt: u64,
    arcs: Arc<ArcSet>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// This life has not begun to drain: it recovers.
    Asked,
    /// Waiting for the commits staged and the transactions prepared when it was asked.
    Draining { staged: u64, txns: BTreeSet<TxnId> },
    /// This life has given its word.
    HandedOver,
    /// They belong to others since the ring of epoch `at` and the LSN `cut`.
    Lost {
        at: Epoch,
        cut: Lsn,
        /// Nothing of them is left in the tree, but the view may not have passed the Cut.
        is_clean: bool,
    },
}

impl Ownership {
    /// Of a node that owns its arcs since then, or joins and owns none.
    pub(super) fn new(since: Epoch, joins: bool) -> Self {
        Self {
            since,
            suspect_below: Epoch(0),
            refused_below: Epoch(0),
            leaving: None,
            swept: BTreeSet::new(),
            unseen: Vec::new(),
            begins: match joins {
                true => Begins::Nowhere,
                false => Begins::InTree,
            },
            owns_nothing: false,
        }
    }

    /// The LSN behind which a generation is to be rebuilt through `through`, of a node whose tree is complete up to `complete`.
    pub(super) fn rebuilt_after(&self, complete: Lsn, through: Lsn) -> Lsn {
        match self.begins {
            Begins::InTree => complete,
            Begins::Nowhere | Begins::Left => complete.max(through),
            Begins::Behind(cut) => complete.max(cut.min(through)),
        }
    }

    /// Whether a life finds everything in the view that an earlier one has left.
    pub(super) fn needs_no_rebuild(&self) -> bool {
        matches!(self.begins, Begins::Left)
    }

    /// The view shows everything up to the last Cut: of a node that has lost all by it nothing is ever rebuilt again.
    pub(super) fn is_whole(&mut self) {
        if self.owns_nothing {
            self.begins = Begins::Left;
        }
    }

    /// Whether something routed by the ring of `epoch` has to be looked at.
    #[inline]
    pub(super) fn suspects(&self, epoch: Epoch) -> bool {
        epoch < self.suspect_below
    }

    /// Whether it is refused, if it touches what `touches` says. For what [`Ownership::suspects`].
    fn refuses(&self, epoch: Epoch, touches: impl FnOnce(&ArcSet) -> bool) -> bool {
        if epoch < self.refused_below {
            return true;
        }
        let Some(leaving) = &self.leaving else {
            return false;
        };
        let is_of_before = match leaving.stage {
            Stage::Lost { at, .. } => epoch < at,
            Stage::Asked | Stage::Draining { .. } | Stage::HandedOver => true,
        };
        is_of_before && touches(&leaving.arcs)
    }

    fn set_leaving(&mut self, leaving: Option<Leaving>) {
        self.suspect_below = match &leaving {
            None => self.refused_below,
            Some(Leaving {
                stage: Stage::Lost { at, .. },
                ..
            }) => *at,
            Some(_) => Epoch(u64::MAX),
        };
        self.leaving = leaving;
    }

    /// The life that has given its word is over, or was about to.
    pub(super) fn restart(&mut self) {
        if let Some(leaving) = &mut self.leaving
            && !matches!(leaving.stage, Stage::Lost { .. })
        {
            leaving.stage = Stage::Asked;
        }
    }
}

/// Whether what was read or is written lies on one of the arcs. A range lies on all.
fn is_on<'a>(
    arcs: &ArcSet,
    reads: Option<&ReadSet>,
    mut written: impl Iterator<Item = &'a Bytes>,
) -> bool {
    let is_on = |key: &Bytes| arcs.contains_qualified(key);
    reads.is_some_and(|reads| !reads.ranges.is_empty() || reads.keys.iter().any(is_on))
        || written.any(is_on)
}

impl Participant {
    /// Whether a request was routed by a ring of before, or touches what is handed over.
    pub(super) fn is_moved(&self, epoch: Epoch, operation: &Operation) -> bool {
        let reads = match operation {
            Operation::Transact { reads, .. } => Some(&**reads),
            Operation::Write(_) | Operation::Add { .. } | Operation::CompareAndSet { .. } => None,
        };
        let owned = &self.ownership;
        owned.refuses(epoch, |arcs| is_on(arcs, reads, keys_of(operation)))
    }

    /// As [`Participant::is_moved`], for a transaction of several nodes.
    pub(super) fn is_prepare_moved(&self, prepare: &Prepare) -> bool {
        self.ownership.refuses(prepare.epoch, |arcs| {
            let written = prepare.writes.iter().map(|write| &write.key);
            is_on(arcs, Some(&prepare.reads), written)
        })
    }

    /// Begins to drain the arcs, or does so once the node is rebuilt.
    pub(super) fn hand_over(
        &mut self,
        now: Time,
        (change, attempt): (u64, u64),
        arcs: Arc<ArcSet>,
        out: &mut Vec<NodeEffect>,
    ) {
        if matches!(self.phase, Phase::Down | Phase::ReadOnly(_)) {
            return;
        }
        if let Some(Leaving {
            change: lost_in,
            stage: Stage::Lost { at, .. },
            ..
        }) = self.ownership.leaving
        {
            if lost_in == change {
                return;
            }
            // No change begins before all that was lost in the one before it is swept out.
            self.ownership.refused_below = at;
        }
        self.show(|view| view.leaving = Some(Arc::clone(&arcs)));
        self.ownership.set_leaving(Some(Leaving {
            change,
            attempt,
            arcs,
            stage: Stage::Asked,
        }));
        if matches!(self.phase, Phase::Serving) {
            self.drain(now, out);
        }
    }

    /// Begins to drain, if that was asked and this life has not begun.
    pub(super) fn drain(&mut self, now: Time, out: &mut Vec<NodeEffect>) {
        let arcs = match &self.ownership.leaving {
            Some(Leaving {
                stage: Stage::Asked,
                arcs,
                ..
            }) => Arc::clone(arcs),
            _ => return,
        };
        self.try_parked_again(now, out);
        let txns = self.prepared.such(|entry| {
            let written = entry.writes.iter().map(|write| &write.key);
            is_on(&arcs, Some(&entry.reads), written)
        });
        if let Some(leaving) = &mut self.ownership.leaving {
            leaving.stage = Stage::Draining {
                staged: self.staged_commits,
                txns,
            };
        }
        self.look_whether_drained(out);
    }

    /// Gives this life's word when nothing that touches the arcs is under way any more.
    pub(super) fn look_whether_drained(&mut self, out: &mut Vec<NodeEffect>) {
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        let node = self.node();
        let Some(leaving) = &mut self.ownership.leaving else {
            return;
        };
        let Stage::Draining { staged, txns } = &mut leaving.stage else {
            return;
        };
        while txns
            .first()
            .is_some_and(|txn| !self.prepared.contains(*txn))
        {
            txns.pop_first();
        }
        if txns.is_empty() && self.installed_commits >= *staged {
            leaving.stage = Stage::HandedOver;
            out.push(NodeEffect::HandedOver {
                node,
                change: leaving.change,
                attempt: leaving.attempt,
                incarnation: self.incarnation,
                through: self.last_lsn,
            });
        }
    }

    /// The arcs stay.
    pub(super) fn keep_arcs(&mut self, change: u64) {
        let leaving = self.ownership.leaving.as_ref();
        let stays = leaving.is_some_and(|leaving| {
            leaving.change == change && !matches!(leaving.stage, Stage::Lost { .. })
        });
        if stays {
            self.show(|view| view.leaving = None);
            self.ownership.set_leaving(None);
        }
    }

    /// Arcs have gone or come. Their LSN is behind all that was installed, and before all that is to come.
    pub(super) fn own(&mut self, owners: Owners, out: &mut Vec<NodeEffect>) {
        if matches!(self.phase, Phase::Down | Phase::ReadOnly(_)) {
            return;
        }
        self.ownership.since = self.ownership.since.max(owners.epoch);
        self.last_lsn = self.last_lsn.max(owners.lsn);
        if !owners.lost.is_empty() {
            self.lose(&owners);
        }
        if owners.is_taken_over {
            // Nobody fills them any more, the one who could being down, and nobody is routed here before this is answered.
            let gained = &owners.gained;
            self.cache
                .remove_where(|key| gained.contains_qualified(key));
        }
        if !owners.gained.is_empty() {
            self.ownership.begins = match self.ownership.begins {
                Begins::Nowhere => Begins::Behind(owners.lsn),
                // What it had lost has come back before it left: checkpoints have never left it out.
                Begins::Left => Begins::InTree,
                begins => begins,
            };
        }
        self.ownership.owns_nothing = owners.lost_all;
        let unseen = &mut self.ownership.unseen;
        if !owners.gained.is_empty() && unseen.last().is_none_or(|(lsn, _)| *lsn < owners.lsn) {
            unseen.push((owners.lsn, owners.gained));
        }
        if !matches!(self.phase, Phase::Serving) {
            return;
        }
        self.show_gained();
        self.ownership.is_whole();
        if owners.incarnation == self.incarnation {
            out.push(NodeEffect::Journal(JournalMessage::Installed {
                node: self.node(),
                incarnation: self.incarnation,
                through: self.last_lsn,
            }));
        }
    }

    fn lose(&mut self, owners: &Owners) {
        let leaving = self.ownership.leaving.take();
        let mut leaving = leaving
            .filter(|leaving| leaving.arcs == owners.lost)
            .unwrap_or_else(|| panic!("node {} lost arcs that it has kept", self.table.node()));
        if !matches!(leaving.stage, Stage::Lost { .. }) {
            leaving.stage = Stage::Lost {
                at: owners.epoch,
                cut: owners.lsn,
                is_clean: false,
            };
        }
        self.ownership.set_leaving(Some(leaving));
    }

    /// Shows what was gained, in a view in which everything below is installed.
    pub(super) fn show_gained(&mut self) {
        let mut unseen = std::mem::take(&mut self.ownership.unseen);
        let view = self.table.view();
        // The same may be told again.
        unseen.retain(|(lsn, _)| *lsn > view.floor);
        let Some((floor, _)) = unseen.last() else {
            return;
        };
        let (floor, now) = (*floor, (self.tree.0)());
        let tree = if view.frozen.is_empty() {
            now
        } else {
            let before = Arc::clone(&view.tree);
            unseen.into_iter().fold(before, |before, (_, gained)| {
                Arc::new(GainedView::new(before, gained, Arc::clone(&now)))
            })
        };
        self.show(|view| {
            view.floor = floor;
            view.tree = tree;
        });
    }

    /// Nothing of the arcs is left in the tree. They are forgotten when the view's tree has passed the Cut as well.
    pub(super) fn forget(&mut self, change: u64, out: &mut Vec<NodeEffect>) {
        if let Some(leaving) = &mut self.ownership.leaving
            && leaving.change == change
            && let Stage::Lost { is_clean, .. } = &mut leaving.stage
        {
            *is_clean = true;
            self.forget_if_passed();
        }
        self.ownership.swept.insert(change);
        let is_lost_in = |leaving: &Leaving| leaving.change == change;
        let waits = self.ownership.leaving.as_ref().is_some_and(is_lost_in);
        // While something is frozen a checkpoint's run may be in the tree already; its end shows the tree anew.
        let is_whole = self.table.view().frozen.is_empty();
        if matches!(self.phase, Phase::Serving) && is_whole && !waits {
            let now = (self.tree.0)();
            self.show(|view| view.tree = now);
            self.tell_forgotten(out);
        }
    }

    /// The view shows the tree of this moment. As long as that has not passed the Cut of a change, readers of before may
    /// come, and generations hold what may be written behind the sweep.
    pub(super) fn tell_forgotten(&mut self, out: &mut Vec<NodeEffect>) {
        let node = self.node();
        let leaving = self.ownership.leaving.as_ref();
        let lost_in = leaving.map(|leaving| leaving.change);
        let swept = std::mem::take(&mut self.ownership.swept);
        for change in swept {
            if lost_in == Some(change) {
                self.ownership.swept.insert(change);
            } else {
                out.push(NodeEffect::Forgotten { node, change });
            }
        }
    }

    /// Generations on their way to the tree, without what has left, once the tree has passed the Cut. Those of a life that
    /// was rebuilt go back behind what the tree holds, and would bring it into the swept tree.
    pub(super) fn without_lost(&self, complete: Lsn, mut frozen: Vec<Frozen>) -> Vec<Frozen> {
        if let Some(Leaving {
            arcs,
            stage: Stage::Lost { cut, .. },
            ..
        }) = &self.ownership.leaving
            && complete >= *cut
        {
            for one in &mut frozen {
                let is_lost = |key: &[u8]| arcs.contains_qualified(key);
                one.generation = Arc::new(one.generation.without(is_lost));
            }
        }
        frozen
    }

    /// A node that recovers has to know still what it has lost: what it is rebuilt from may go back behind the Cut.
    pub(super) fn forget_if_passed(&mut self) {
        if let Some(leaving) = &self.ownership.leaving
            && let Stage::Lost {
                at,
                cut,
                is_clean: true,
            } = leaving.stage
            && self.table.view().complete >= cut
            && matches!(self.phase, Phase::Serving)
        {
            self.show(|view| view.leaving = None);
            self.ownership.refused_below = at;
            self.ownership.set_leaving(None);
        }
    }

    /// Shows the view with a change.
    fn show(&self, change: impl FnOnce(&mut NodeView)) {
        let mut view = NodeView::clone(&self.table.view());
        change(&mut view);
        self.table.publish(view);
    }
}

//! Changes of the ring: records like any other, whose LSN says from when on they hold.
//!
//! ```text
//!  mover ── Ring(Cut) ──▶ refused: RingAnswer(error) ───────────────────────────────────────────────▶ mover
//!                         else LSN C, record in the open group ── Owners(C) ──▶ source and targets
//!                           … everything up to C forced and installed ── PublishRing ──▶ router
//!                           RingPublished: the visible LSN passes C ── RingAnswer(C) ──▶ mover
//! ```
//!
//! # Invariants
//!
//! - The state moves when a record gets its LSN. A decision on votes of another ownership epoch is refused from then on, see
//!   `decide.rs`: so each commit is on the side of a Cut on which its LSN is.
//! - No LSN from a Cut on is visible before handles are routed by its ring: whoever is routed by an older one reads below
//!   it, where the old owner's word holds. A target is told before, and says so (`Installed`): whoever is routed by the new
//!   ring finds a node that knows.
//! - What does not move an arc is published once it is visible, and holds nothing back.
//! - Publications come in the order of LSNs; a request is answered once, behind its publication.
//! - A node that is no longer a member holds nothing back, freezes nothing and writes nothing.
//!
//! The mover's part, that the source of a Cut has nothing of the arcs on its way any more, is under the life that it names:
//! that life admits nothing more on them, and if it is over the Cut is refused.
//!
//! # A source that is down
//!
//! A node that was given up has no life that could give its word, and none is needed if it was given up before the change
//! began:
//!
//! - Whatever it had staged, prepared or held is of no account. From when the journal was told on, its batches are void and a
//!   decision with a part of it is refused, be it that it has voted Yes before; so nothing of it has an LSN above that at which
//!   it was given up, which is below that of `Began`.
//! - What has an LSN below is in the journal, whether the node has installed it or not. So who copies its tree and follows the
//!   journal up to `Began` has everything, and nothing comes behind.
//! - It does not come back before the directory is opened again, and then the lives are others, and nobody is down.
//!
//! A Cut that names no life is accepted then, and only then. The source is told nothing. Its rows in the cache of all nodes may
//! be older than what the journal has, since it may have died before it installed that; so the targets are told to drop them.

use super::{JournalEffect, NodeProgress, RingRequest, Sequencer, Waiting};
use crate::{
    directories::{DirectorySet, Placement},
    error::{Error, Result},
    ids::{DirectoryNo, Epoch, Incarnation, Lsn, NodeId, RequestId, Time},
    journal::record::RecordBody,
    participant::Owners,
    ring::ArcSet,
    ring_state::{Change, FIRST_LIFE, RingRecord, RingState, bytes_bound},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Whether handles are routed by the ring of a Cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publication {
    /// It moves no arc: published once it is visible.
    Later,
    /// Not everything up to it is forced and installed.
    Due,
    /// The router was told.
    Asked,
    Done,
}

/// A record that is not visible yet.
#[derive(Debug)]
struct Pending {
    lsn: Lsn,
    request: RequestId,
    state: Arc<RingState>,
    publication: Publication,
}

/// The ring as of the last LSN given, and what of it is not visible yet.
#[derive(Debug)]
pub(super) struct RingInMotion {
    pub(super) state: RingState,
    /// Where the change began that is under way, if that was in this opening.
    began: Option<Lsn>,
    pending: VecDeque<Pending>,
    /// Nodes that are open, and whose change has not begun, if they have restarted or were given up.
    strangers: BTreeMap<NodeId, Stranger>,
}

/// What is known of a node that is to join.
#[derive(Debug)]
pub(super) struct Stranger {
    pub(super) incarnation: Incarnation,
    /// As of the nodes that a record has named.
    pub(super) down: Option<Lsn>,
}

impl RingInMotion {
    pub(super) fn new(state: RingState) -> Self {
        Self {
            state,
            began: None,
            pending: VecDeque::new(),
            strangers: BTreeMap::new(),
        }
    }

    /// A node that no record has named yet.
    pub(super) fn stranger(&mut self, node: NodeId) -> &mut Stranger {
        let first = Stranger {
            incarnation: FIRST_LIFE,
            down: None,
        };
        self.strangers.entry(node).or_insert(first)
    }
}

/// At least as many bytes as the record will take.
pub(super) fn record_bytes(request: &RingRequest) -> usize {
    bytes_bound(&request.record)
}

impl Sequencer {
    /// Takes a request, in line with everything else that needs room.
    pub(super) fn change_ring(
        &mut self,
        now: Time,
        request: RingRequest,
        out: &mut Vec<JournalEffect>,
    ) {
        self.admit_in_line(now, Waiting::Ring(request), out);
        self.cut(out);
    }

    /// Nodes that are to come will live elsewhere than their numbers say. Those that there are stay.
    pub(super) fn place(&mut self, placement: Placement) {
        let known = self.nodes.len();
        let before = &self.lines.placement;
        assert_eq!(
            (before.directories(), &before.list(known)[..known]),
            (placement.directories(), &placement.list(known)[..known]),
            "nodes stay where they are"
        );
        self.lines.placement = placement;
    }

    /// Writes a record, or gives the request back if it has to wait for room.
    pub(super) fn try_ring(
        &mut self,
        asked: RingRequest,
        out: &mut Vec<JournalEffect>,
    ) -> Option<RingRequest> {
        let next = match self.ring_after(&asked) {
            Ok(next) => next,
            Err(error) => {
                out.push(JournalEffect::RingAnswer(asked.request, Err(error)));
                return None;
            }
        };
        let home = DirectorySet::of(DirectoryNo::HOME);
        match self.make_room(home, record_bytes(&asked), out) {
            Ok(true) => {
                self.write_ring(asked, next, out);
                None
            }
            Ok(false) => Some(asked),
            Err(error) => {
                out.push(JournalEffect::RingAnswer(asked.request, Err(error)));
                None
            }
        }
    }

    /// The ring as the record will make it.
    fn ring_after(&self, asked: &RingRequest) -> Result<RingState> {
        if let Some(error) = self.read_only() {
            return Err(error);
        }
        let mut next = self.ring.state.clone();
        next.apply(self.last_lsn.next(), &asked.record)?;
        for (node, life) in &asked.lives {
            let Some(progress) = self.nodes.get(usize::from(node.0)) else {
                let reason = "it relies on a node that there never was";
                return Err(Error::RingChangeRefused { reason });
            };
            if progress.incarnation != *life {
                return Err(Error::NodeRestarted { node: *node });
            }
        }
        if let RingRecord::Cut { from, .. } = asked.record {
            let is_named = asked.lives.iter().any(|(node, _)| *node == from);
            let down = |node: NodeId| self.nodes[usize::from(node.0)].down;
            match down(from) {
                None if !is_named => {
                    let reason = "it does not say which life has handed its arcs over";
                    return Err(Error::RingChangeRefused { reason });
                }
                Some(lsn) if is_named || self.ring.began.is_none_or(|began| lsn >= began) => {
                    return Err(Error::NodeDown { node: from });
                }
                None | Some(_) => {}
            }
            let mut targets = self.running_change().targets_of(from).into_iter();
            if let Some(node) = targets.find(|node| down(*node).is_some()) {
                return Err(Error::NodeDown { node });
            }
        }
        Ok(next)
    }

    fn running_change(&self) -> Arc<Change> {
        let running = self.ring.state.running().expect("the record has fitted");
        Arc::clone(&running.change)
    }

    fn write_ring(&mut self, asked: RingRequest, next: RingState, out: &mut Vec<JournalEffect>) {
        let RingRequest {
            request, record, ..
        } = asked;
        let lsn = self.append_record(RecordBody::Ring(record.clone()));
        self.ring.state = next;
        let publication = match record {
            RingRecord::Began(_) => {
                self.ring.began = Some(lsn);
                for number in self.nodes.len()..self.ring.state.slots().len() {
                    let node = NodeId(u16::try_from(number).expect("node numbers fit"));
                    let Stranger { incarnation, down } = *self.ring.stranger(node);
                    self.nodes.push(NodeProgress {
                        incarnation,
                        refused_chain: None,
                        assigned: Lsn(0),
                        installed: Lsn(0),
                        down,
                        retired: false,
                    });
                }
                self.ring.strangers.clear();
                Publication::Later
            }
            RingRecord::Cut { from, .. } => {
                self.tell_owners(lsn, from, out);
                Publication::Due
            }
            RingRecord::Cleaned { .. } => Publication::Later,
            RingRecord::Ended { .. } => {
                for (number, node) in (0_u16..).zip(&mut self.nodes) {
                    node.retired = !self.ring.state.is_live(NodeId(number));
                }
                Publication::Later
            }
        };
        self.ring.pending.push_back(Pending {
            lsn,
            request,
            state: Arc::new(self.ring.state.clone()),
            publication,
        });
    }

    /// Tells the source, unless it is down, and the targets of a Cut; nothing from it on is visible before they have taken it in.
    fn tell_owners(&mut self, lsn: Lsn, from: NodeId, out: &mut Vec<JournalEffect>) {
        let (change, state) = (self.running_change(), &self.ring.state);
        let (epoch, arc_bits) = (state.epoch(), state.ring().arc_bits());
        let none = Arc::new(ArcSet::new(arc_bits));
        let is_taken_over = self.nodes[usize::from(from.0)].down.is_some();
        let lost_all = !state.ring().owners().contains(&from);
        let mut tell = |node: NodeId, lost: Arc<ArcSet>, gained: Arc<ArcSet>| {
            let progress = &mut self.nodes[usize::from(node.0)];
            progress.assigned = lsn;
            let owners = Owners {
                epoch,
                lsn,
                lost,
                lost_all: lost_all && node == from,
                gained,
                is_taken_over,
                incarnation: progress.incarnation,
            };
            out.push(JournalEffect::Owners(node, owners));
        };
        if !is_taken_over {
            let lost = Arc::new(change.arcs_from(arc_bits, from));
            tell(from, lost, Arc::clone(&none));
        }
        for to in change.targets_of(from) {
            let gained = Arc::new(change.arcs_between(arc_bits, from, to));
            tell(to, Arc::clone(&none), gained);
        }
    }

    /// Up to where the visible LSN may go of what is forced and installed up to `reached`: to before the first Cut whose
    /// ring is not published. Has the router publish it.
    pub(super) fn before_unpublished(&mut self, reached: Lsn, out: &mut Vec<JournalEffect>) -> Lsn {
        let mut pending = self.ring.pending.iter_mut();
        let unpublished = pending
            .find(|pending| matches!(pending.publication, Publication::Due | Publication::Asked));
        match unpublished {
            Some(cut) if cut.lsn <= reached => {
                if cut.publication == Publication::Due {
                    cut.publication = Publication::Asked;
                    out.push(JournalEffect::PublishRing {
                        lsn: cut.lsn,
                        state: Arc::clone(&cut.state),
                    });
                }
                Lsn(cut.lsn.0 - 1)
            }
            _ => reached,
        }
    }

    pub(super) fn ring_published(&mut self, epoch: Epoch, out: &mut Vec<JournalEffect>) {
        let mut pending = self.ring.pending.iter_mut();
        let asked = pending.find(|pending| pending.publication == Publication::Asked);
        if let Some(cut) = asked.filter(|cut| cut.state.epoch() == epoch) {
            cut.publication = Publication::Done;
            self.advance(out);
        }
    }

    /// Publishes what is visible now and was not published before, and answers for it.
    pub(super) fn tell_ring(&mut self, out: &mut Vec<JournalEffect>) {
        let visible = self.visible;
        let pending = &mut self.ring.pending;
        while let Some(seen) = pending.pop_front_if(|pending| pending.lsn <= visible) {
            let Pending {
                lsn,
                request,
                state,
                publication,
            } = seen;
            if publication == Publication::Later {
                out.push(JournalEffect::PublishRing { lsn, state });
            }
            out.push(JournalEffect::RingAnswer(request, Ok(lsn)));
        }
    }

    /// The engine is read-only: whether a record lasts is known when it is opened again.
    pub(super) fn tell_ring_unknown(&mut self, error: &Error, out: &mut Vec<JournalEffect>) {
        for pending in std::mem::take(&mut self.ring.pending) {
            let error = Error::Unknown {
                reason: error.to_string(),
            };
            out.push(JournalEffect::RingAnswer(pending.request, Err(error)));
        }
    }
}

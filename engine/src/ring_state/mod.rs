//! What a directory knows of its ring: a small machine that moves by records of the journal.
//!
//! A change of members or weights is a plan of arcs that move, carried out source by source:
//!
//! ```text
//!  Began(N) ── Cut(N, A) ── Cleaned(N, A) ── Cut(N, B) ── Cleaned(N, B) ── Ended(N)
//!  members     A's arcs      nothing of                                    who is no member
//!  old + new   belong to     them is left                                  is retired
//!              their targets at A
//! ```
//!
//! The sequencer applies a record when it gives it an LSN, and recovery when it reads it, so both come to the same; a
//! checkpoint writes the state down. Who owns an arc is a function of the arc and the LSN: up to the Cut's the old owner
//! answers, from it on the new one.
//!
//! A change can be turned round in the middle: the next change begins in its place, with the moves that were cut already
//! inverted and the members of before ([`Running::before`]).
//!
//! # Invariants
//!
//! - Node numbers are given in order and never used again.
//! - Whoever owns an arc is a member.
//! - Each record raises the epoch by one. A node's ownership epoch ([`Slot::owned_since`]) is that of the last Cut by which
//!   it gained or lost an arc, or of its beginning.
//! - An arc comes to a node only when nothing of an earlier ownership is left there: no change ends, and none takes another's
//!   place, before each source that was cut is cleaned.
//! - A record that does not fit is refused and changes nothing.
//!
//! # Left out
//!
//! Whether shares are even: that is the plan's business ([`Ring`]).

mod history;
mod record;

pub use history::RingHistory;
pub(crate) use history::{put_history, take_history};
#[cfg(test)]
pub(crate) use record::any_record;
pub use record::{Change, RingRecord};
pub(crate) use record::{bytes_bound, put_record, take_record};

use crate::{
    error::{Error, Result},
    ids::{Epoch, Incarnation, Lsn, NodeId},
    ring::{ArcMove, ArcSet, Ring},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// The first life of a node that joins.
pub const FIRST_LIFE: Incarnation = Incarnation(1);

/// Whether a node takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is a member of the ring, or becomes one.
    Member,
    /// It was one, and never will be again.
    Retired,
}

/// What the ring knows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Whether it takes part.
    pub role: Role,
    /// The LSN at which it came; 0 for the first nodes. Nothing of it in the journal is older.
    pub since: Lsn,
    /// Its ownership epoch: when it last gained or lost an arc.
    pub owned_since: Epoch,
}

/// How far a source of a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// It owns its arcs still.
    Waiting,
    /// Its arcs belong to their targets from this LSN on, and something of them may be left here.
    Cut(Lsn),
    /// Nothing of them is left. The LSN is that of the Cut.
    Cleaned(Lsn),
}

/// A change that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// What it is.
    pub change: Arc<Change>,
    /// The members and weights before it, to which turning it round leads back.
    pub before: Vec<(NodeId, u32)>,
    /// How far each source is.
    pub sources: BTreeMap<NodeId, SourceState>,
}

impl Running {
    /// Whether it leads back to the members of before, which a change that was turned round does.
    #[must_use]
    pub fn is_turned_round(&self) -> bool {
        self.change.members == self.before
    }

    /// The change that leads back to where this one began: what was cut moves back, to the members of before. It can begin
    /// when each source that was cut is cleaned; one that was turned round already can't be turned round again.
    #[must_use]
    pub fn turned_round(&self) -> Change {
        let is_cut = |from| self.sources[&from] != SourceState::Waiting;
        let cut = self.change.moves.iter().filter(|one| is_cut(one.from));
        Change {
            number: self.change.number + 1,
            members: self.before.clone(),
            moves: cut
                .map(|one| ArcMove {
                    arc: one.arc,
                    from: one.to,
                    to: one.from,
                })
                .collect(),
        }
    }

    /// Whether every source was cut and cleaned.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let mut states = self.sources.values();
        states.all(|state| matches!(state, SourceState::Cleaned(_)))
    }

    /// Whether something of arcs that were cut may be left at a source.
    fn is_unclean(&self) -> bool {
        let mut states = self.sources.values();
        states.any(|state| matches!(state, SourceState::Cut(_)))
    }

    /// The source, if it is in the state that `is` asks for.
    fn source(
        &mut self,
        from: NodeId,
        is: impl Fn(SourceState) -> bool,
    ) -> Option<&mut SourceState> {
        self.sources.get_mut(&from).filter(|state| is(**state))
    }
}

/// What a directory knows of its ring.
#[derive(Clone, PartialEq, Eq)]
pub struct RingState {
    ring: Arc<Ring>,
    history: RingHistory,
}

/// Says who the members are, and not who owns each arc.
impl fmt::Debug for RingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingState")
            .field("epoch", &self.epoch())
            .field("members", &self.ring.nodes())
            .field("history", &self.history)
            .finish()
    }
}

impl RingState {
    /// The state of a directory with this ring, in which no change is under way. Numbers below the highest that are no
    /// member's are those of nodes that were removed.
    #[must_use]
    pub fn new(ring: Ring) -> Self {
        let last = ring.nodes().last().expect("a ring has a node").0;
        let slot = |number| Slot {
            role: match is_member(&ring, NodeId(number)) {
                true => Role::Member,
                false => Role::Retired,
            },
            since: Lsn(0),
            owned_since: ring.epoch(),
        };
        let slots = (0..=last.0).map(slot).collect();
        Self {
            history: RingHistory {
                slots,
                ..RingHistory::default()
            },
            ring: Arc::new(ring),
        }
    }

    /// The state that was written down.
    ///
    /// # Errors
    ///
    /// [`Error::RingChangeRefused`] if the ring and its history contradict each other.
    pub fn restored(ring: Ring, history: RingHistory) -> Result<Self> {
        history.check(&ring)?;
        let ring = Arc::new(ring);
        Ok(Self { ring, history })
    }

    /// Whether nothing has ever changed: such a ring follows from the settings of its directory.
    #[must_use]
    pub fn is_original(&self) -> bool {
        let is_first = self.epoch() == Epoch(1) && self.history.last_change == 0;
        is_first && self.live().count() == self.slots().len()
    }

    /// What has happened to the ring, to be written down beside it.
    #[must_use]
    pub fn history(&self) -> &RingHistory {
        &self.history
    }

    /// The ring as of the last record.
    #[must_use]
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The ring's version: that of the last record.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.ring.epoch()
    }

    /// The LSN of the last Cut, from which on this ring says who owns an arc; 0 if there was none.
    #[must_use]
    pub fn since(&self) -> Lsn {
        self.history.since
    }

    /// The nodes by number, retired ones included.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.history.slots
    }

    /// The nodes that take part, ascending.
    pub fn live(&self) -> impl Iterator<Item = NodeId> + '_ {
        let slots = (0_u16..).zip(self.slots());
        slots
            .filter(|(_, slot)| slot.role == Role::Member)
            .map(|(number, _)| NodeId(number))
    }

    /// Whether the node takes part.
    #[must_use]
    pub fn is_live(&self, node: NodeId) -> bool {
        let slot = self.slots().get(usize::from(node.0));
        slot.is_some_and(|slot| slot.role == Role::Member)
    }

    /// A node's ownership epoch.
    ///
    /// # Panics
    ///
    /// Panics if there never was such a node.
    #[must_use]
    pub fn owned_since(&self, node: NodeId) -> Epoch {
        self.slots()[usize::from(node.0)].owned_since
    }

    /// The change that is under way.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        self.history.running.as_ref()
    }

    /// The number that the next change will have.
    #[must_use]
    pub fn next_change(&self) -> u64 {
        self.history.last_change + 1
    }

    /// The arcs of the change under way that `from` loses or has lost, and the LSN of its Cut.
    ///
    /// # Panics
    ///
    /// Never: the moves were checked against the ring.
    #[must_use]
    pub fn lost_by(&self, from: NodeId) -> Option<(ArcSet, Option<Lsn>)> {
        let running = self.running()?;
        let cut = match running.sources.get(&from)? {
            SourceState::Waiting => None,
            SourceState::Cut(lsn) | SourceState::Cleaned(lsn) => Some(*lsn),
        };
        let arcs = running.change.arcs_from(self.ring.arc_bits(), from);
        Some((arcs, cut))
    }

    /// Whether the record fits.
    ///
    /// # Errors
    ///
    /// [`Error::RingChangeRefused`] with what does not fit.
    pub fn check(&self, record: &RingRecord) -> Result<()> {
        // The ring is small beside what a change moves, and changes are rare.
        self.clone().apply(Lsn(u64::MAX), record)
    }

    /// Takes in a record at its LSN.
    ///
    /// # Errors
    ///
    /// [`Error::RingChangeRefused`] with what does not fit; nothing has changed then.
    pub fn apply(&mut self, lsn: Lsn, record: &RingRecord) -> Result<()> {
        match record {
            RingRecord::Began(change) => self.begin(lsn, change),
            RingRecord::Cut { change, from } => self.cut(lsn, *change, *from),
            RingRecord::Cleaned { change, from } => self.clean(*change, *from),
            RingRecord::Ended { change, members } => self.end(*change, members),
        }
    }

    fn begin(&mut self, lsn: Lsn, change: &Arc<Change>) -> Result<()> {
        if change.number != self.next_change() {
            return refuse("another change came first");
        }
        if self.running().is_some_and(Running::is_unclean) {
            return refuse("a change is under way that can't be turned round at this moment");
        }
        let slots = self.slots_with(&change.members)?;
        let will_be: BTreeMap<_, _> = change.members.iter().copied().collect();
        let mut owners = self.ring.owners().to_vec();
        let mut next = 0;
        for one in &change.moves {
            let Some(owner) = owners.get_mut(one.arc as usize) else {
                return refuse("an arc moves that the ring does not have");
            };
            if one.arc < next {
                return refuse("the arcs that move are not in order");
            }
            next = one.arc + 1;
            if *owner != one.from || one.from == one.to {
                return refuse("an arc moves from a node that does not own it");
            }
            *owner = one.to;
        }
        if owners.iter().any(|owner| !will_be.contains_key(owner)) {
            return refuse("an arc would be owned by a node that is no member");
        }
        let before = match self.running() {
            Some(replaced) => replaced.before.clone(),
            None => self.ring.nodes().to_vec(),
        };
        let mut members: BTreeMap<_, _> = self.ring.nodes().iter().copied().collect();
        members.extend(will_be);
        let members: Vec<_> = members.into_iter().collect();
        self.advance(self.ring.owners().to_vec(), &members)?;
        let epoch = self.epoch();
        let added = slots - self.slots().len();
        let slot = Slot {
            role: Role::Member,
            since: lsn,
            owned_since: epoch,
        };
        let history = &mut self.history;
        history.slots.extend(std::iter::repeat_n(slot, added));
        history.last_change = change.number;
        let waiting = |node| (node, SourceState::Waiting);
        history.running = Some(Running {
            change: Arc::clone(change),
            before,
            sources: change.sources().into_iter().map(waiting).collect(),
        });
        Ok(())
    }

    fn cut(&mut self, lsn: Lsn, change: u64, from: NodeId) -> Result<()> {
        let is_waiting = |state| state == SourceState::Waiting;
        let running = running(&mut self.history.running, change)?;
        let Some(state) = running.source(from, is_waiting) else {
            return refuse("the node has no arcs to hand over in this change");
        };
        *state = SourceState::Cut(lsn);
        let change = Arc::clone(&running.change);
        let mut owners = self.ring.owners().to_vec();
        for one in change.moves_from(from) {
            owners[one.arc as usize] = one.to;
        }
        let members = self.ring.nodes().to_vec();
        self.advance(owners, &members)?;
        self.history.since = lsn;
        let epoch = self.epoch();
        for node in change.targets_of(from).into_iter().chain([from]) {
            self.history.slots[usize::from(node.0)].owned_since = epoch;
        }
        Ok(())
    }

    fn clean(&mut self, change: u64, from: NodeId) -> Result<()> {
        let running = running(&mut self.history.running, change)?;
        let is_cut = |state| matches!(state, SourceState::Cut(_));
        match running.source(from, is_cut) {
            Some(state) => {
                if let SourceState::Cut(lsn) = *state {
                    *state = SourceState::Cleaned(lsn);
                }
            }
            None => return refuse("the node has handed over no arcs in this change"),
        }
        let (owners, members) = (self.ring.owners().to_vec(), self.ring.nodes().to_vec());
        self.advance(owners, &members)
    }

    fn end(&mut self, change: u64, members: &[(NodeId, u32)]) -> Result<()> {
        if running(&mut self.history.running, change)?.is_unclean() {
            return refuse("something of arcs that have moved may be left where they were");
        }
        if self.slots_with(members)? != self.slots().len() {
            return refuse("a node can't join at the end of a change");
        }
        self.advance(self.ring.owners().to_vec(), members)?;
        let members: BTreeSet<_> = members.iter().map(|(node, _)| *node).collect();
        for (number, slot) in (0_u16..).zip(&mut self.history.slots) {
            if !members.contains(&NodeId(number)) {
                slot.role = Role::Retired;
            }
        }
        self.history.running = None;
        Ok(())
    }

    /// How many slots there will be with these members, who are in order, and new or no one retired.
    fn slots_with(&self, members: &[(NodeId, u32)]) -> Result<usize> {
        if !members.is_sorted_by(|one, other| one.0 < other.0) {
            return refuse("the members are not in order");
        }
        let mut slots = self.slots().len();
        for (node, _) in members {
            let number = usize::from(node.0);
            if *node == NodeId(u16::MAX) {
                return refuse("there are no numbers left for new nodes");
            }
            if number == slots {
                slots += 1;
            } else if !self.is_live(*node) && number < slots {
                return refuse("a node that was removed can't come back; add a new one");
            } else if number > slots {
                return refuse("nodes are numbered in order");
            }
        }
        Ok(slots)
    }

    /// Goes on to the ring of the next epoch.
    fn advance(&mut self, owners: Vec<NodeId>, members: &[(NodeId, u32)]) -> Result<()> {
        let epoch = self.epoch().next();
        match Ring::from_table(owners, members, epoch) {
            Ok(ring) => self.ring = Arc::new(ring),
            Err(Error::InvalidOption { reason, .. }) => return refuse(reason),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_member(ring: &Ring, node: NodeId) -> bool {
    let nodes = ring.nodes();
    nodes.binary_search_by_key(&node, |member| member.0).is_ok()
}

/// The change under way, if it has this number.
fn running(running: &mut Option<Running>, change: u64) -> Result<&mut Running> {
    match running {
        Some(running) if running.change.number == change => Ok(running),
        _ => refuse("the change is not under way (any more)"),
    }
}

fn refuse<T>(reason: &'static str) -> Result<T> {
    Err(Error::RingChangeRefused { reason })
}

#[cfg(test)]
pub(crate) mod tests;

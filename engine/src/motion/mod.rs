//! Moving arcs from node to node while they are served: how a change of the ring is carried out, step by step.
//!
//! Everything that belongs to a key lives in its node's versions, in the journal, or in the lock manager; only the
//! versions move. Who owns an arc is a function of the arc and the LSN: a [`Cut`] in the journal gives all arcs that leave
//! a source to their targets, from its LSN on.
//!
//! ```text
//!  plan ─▶ open joining nodes ─▶ Began ─▶ source A ─▶ source B ─▶ … ─▶ clean A, B, … ─▶ Ended ─▶ retire leaving nodes
//!
//!  a source:   hold the journal ─▶ (sweep the targets) ─▶ copy at P ─▶ follow (P, visible] until little is left
//!              ─▶ hand over: no more writes on the arcs ─▶ follow the rest ─▶ Cut
//!  cleaning:   checkpoint past the Cuts ─▶ sweep a source's tree ─▶ it shows the swept tree ─▶ Cleaned
//! ```
//!
//! Writers of a moving arc wait from the hand-over to the Cut's being visible; nobody else waits for anything. The
//! sources are cleaned together at the end, after one checkpoint: a checkpoint writes a run to the tree of every
//! node, so one for each source would be quadratic in their number.
//!
//! # Undoing
//!
//! Until the end is on its way a change can be cancelled. Before the first Cut the targets are swept and the change ended
//! with the members of before. After one, what was cut is cleaned, and a change begins in the place of this one that
//! moves it back by the same steps. Which way it goes is in the journal from then on; a crash before it lets a cancelled
//! change go on, and it can be cancelled again.
//!
//! # What can go wrong
//!
//! - *A task fails* (I/O, a full disk, a refused record): the source is thawed, and it is tried again after a wait
//!   that doubles up to a limit. A change never gives up by itself.
//! - *The process or the router dies*: what counts is in the journal. [`MotionMessage::Resume`] goes on from there; what
//!   was copied for a source that is not cut is swept and copied again.
//! - *The source restarts*: its promise is void, and the journal refuses a Cut that relies on it. The new life keeps frozen
//!   what was frozen; it is asked to hand over again, or told to keep its arcs. What was copied stays good.
//! - *A target restarts*: nothing. What was ingested is in its tree.
//! - *A node is down for good*: see [`Heal`].
//! - *Its tree can't be read either*: a take-over from it is undone, and the node stays what it is: nothing of it is lost, and
//!   nothing is served. So it is with a node that was corrupt already when the directory was opened.
//! - *The engine turns read-only*: everything stops, and goes on when it is opened again.
//!
//! # Invariants
//!
//! - A source is cut once in a change, after it has handed over, and on the life that has.
//! - What is at or below the promise's `through` was copied before the Cut is sent. Everything behind it on these arcs
//!   is behind the Cut: the source admits nothing, or its life is over and the journal refuses.
//! - A copy goes only into targets that hold nothing of its arcs: one that an earlier copy may have reached is swept
//!   first. (A pair that was removed since would come back.)
//! - The journal is held at or below the position up to which is copied, from before the copy's position is taken.
//! - At most one task is under way; work on a thread is waited for even when it was stopped, so nothing is
//!   ingested behind a sweep.
//! - An arc comes only to a node whose tree is complete past every Cut by which it has ever lost one. Else a replay of the
//!   journal would bring what the node had written on it in an earlier ownership over the copy.
//! - The end is written when no node shows anything of arcs that it does not own: scans may ask every node from then on.
//!
//! # Left out
//!
//! Rates and times, which the shell knows; several changes at one time; several sources at one time.
//!
//! [`Cut`]: crate::ring_state::RingRecord::Cut

mod answers;
mod carry;
mod clean;
mod course;
mod message;
mod plan;
mod source;
#[cfg(test)]
mod tests;
mod undo;

pub use carry::{CHUNK_BYTES, Carry, Pace, Sink};
pub use message::{Ending, Job, MotionEffect, MotionMessage, Moved, Progress, Step, Work};
pub use plan::{Flow, Intent, Plan, Targets};

use crate::{
    error::{Error, Result},
    ids::{Lsn, NodeId, RequestId, Time},
    ring_state::RingState,
};
use course::{Course, State};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What happens when a node is down for good, as far as the ring is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Heal {
    /// The others take its arcs over, from its tree and the journal, as soon as no other change is under way. A change that
    /// would give it arcs is undone first; one that takes arcs from it goes on.
    #[default]
    TakeOver,
    /// Nothing moves before the engine is opened again. A change that needs the node waits, and can be cancelled.
    Wait,
}

/// What drives the mover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MotionOptions {
    /// The wait after a first failure.
    pub first_back_off: Duration,
    /// The longest wait after a failure.
    pub longest_back_off: Duration,
    /// How long a source may take to hand over, while writers of its leaving arcs wait, before it is thawed again.
    pub hand_over: Duration,
    /// How long to wait for an answer that takes no time, before the question is repeated.
    pub ask_again: Duration,
    /// A round of following that copied no more than this is the last before the hand-over.
    pub caught_up_bytes: u64,
    /// Rounds after which the source hands over anyway: it writes faster than is copied, and never would.
    pub rounds: u32,
    /// What happens when a node is down.
    pub heal: Heal,
}

impl Default for MotionOptions {
    fn default() -> Self {
        Self {
            first_back_off: Duration::from_millis(100),
            longest_back_off: Duration::from_secs(30),
            hand_over: Duration::from_secs(2),
            ask_again: Duration::from_secs(5),
            caught_up_bytes: 256 << 10,
            rounds: 8,
            heal: Heal::default(),
        }
    }
}

/// The mover's state machine.
#[derive(Debug, Clone)]
pub struct Motion {
    ground: Ground,
    course: Option<Course>,
    /// Why nothing is written any more.
    failure: Option<Error>,
    /// Whether somebody has cancelled the take-over from nodes that are down. Another loss begins it anew.
    is_loss_accepted: bool,
}

/// What a course stands on.
#[derive(Debug, Clone)]
struct Ground {
    options: MotionOptions,
    /// The ring as of the last record that was answered. Nobody else writes such records.
    ring: RingState,
    down: BTreeSet<NodeId>,
    /// Those of them whose trees can't be read: nothing can be taken over from them.
    unreadable: BTreeSet<NodeId>,
    /// Nodes whose trees must be complete up to an LSN before an arc may come to them.
    behind: BTreeMap<NodeId, Lsn>,
    last_task: u64,
}

impl Ground {
    fn next_task(&mut self) -> RequestId {
        self.last_task += 1;
        RequestId(self.last_task)
    }
}

impl Motion {
    /// A mover over the ring of a directory. If a change is under way, nothing moves before [`MotionMessage::Resume`].
    ///
    /// `ring` must include what an earlier mover has asked of the journal, and the thread that worked for it must have
    /// ended. Tasks are numbered from `now` on, so that what was meant for an earlier mover means nothing to this one.
    #[must_use]
    pub fn new(options: MotionOptions, ring: RingState, now: Time) -> Self {
        Self {
            ground: Ground {
                options,
                ring,
                down: BTreeSet::new(),
                unreadable: BTreeSet::new(),
                behind: BTreeMap::new(),
                last_task: now.0,
            },
            course: None,
            failure: None,
            is_loss_accepted: false,
        }
    }

    /// Has no arc come to a node before its tree is complete past the last Cut of before, given how far each tree was complete
    /// when the directory was opened. Only a node that was cut while it was down can be behind, and then the journal may have
    /// what it had written on arcs that it has lost since.
    #[must_use]
    pub fn with_complete(mut self, complete: impl IntoIterator<Item = (NodeId, Lsn)>) -> Self {
        let ring = &self.ground.ring;
        let behind = complete
            .into_iter()
            .filter(|(node, complete)| ring.is_live(*node) && *complete < ring.since());
        self.ground.behind = behind.map(|(node, _)| (node, ring.since())).collect();
        self
    }

    /// These nodes are down from the beginning, and nothing can be taken over from them: their trees can't be read.
    #[must_use]
    pub fn with_unreadable(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.ground.unreadable.extend(nodes);
        self.ground.down.extend(&self.ground.unreadable);
        self
    }

    /// The ring as the mover knows it.
    #[must_use]
    pub fn ring(&self) -> &RingState {
        &self.ground.ring
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.course.is_some()
    }

    /// The nodes that the change under way adds, be they open or not; none behind an opening, when all nodes are known.
    #[must_use]
    pub fn joining(&self) -> &[NodeId] {
        let course = self.course.as_ref();
        course.map_or(&[], |course| &course.joining)
    }

    /// When [`Motion::handle_timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        self.course.as_ref().and_then(Course::next_timeout)
    }

    /// Takes one message.
    pub fn handle(&mut self, now: Time, message: MotionMessage, out: &mut Vec<MotionEffect>) {
        match message {
            MotionMessage::Start {
                request,
                intent,
                held,
            } => {
                if let Err(error) = self.start(request, intent, &held) {
                    out.push(MotionEffect::Answer(request, Err(error)));
                }
            }
            MotionMessage::Cancel { request } => match &mut self.course {
                Some(course) => course.cancel(request, out),
                None => {
                    let reason = "no change is under way that could be cancelled";
                    let error = Error::RingChangeRefused { reason };
                    out.push(MotionEffect::Answer(request, Err(error)));
                }
            },
            MotionMessage::Resume => {
                if self.course.is_none() && self.failure.is_none() {
                    self.course = Course::resumed(&mut self.ground, out);
                }
            }
            // One that was opened for a change which never began: another may have its number.
            MotionMessage::NodeDown { node } if !self.is_named(node) => {}
            MotionMessage::NodeDown { node } => {
                self.is_loss_accepted &= !self.ground.down.insert(node);
                if let Some(course) = &mut self.course {
                    course.node_is_down(node, out);
                }
            }
            MotionMessage::ReadOnly(error) => self.halt(error, out),
            message => {
                if let Some(course) = &mut self.course {
                    course.handle(&mut self.ground, now, message, out);
                }
            }
        }
        self.advance(now, out);
    }

    /// For a shell that can't go on: nothing is handled any more, and the change goes on when the engine is opened again.
    /// Until then the source admits writes to what it was about to hand over, unless its Cut may be on its way, and the
    /// journal is not held.
    pub fn give_up(&mut self, out: &mut Vec<MotionEffect>) {
        if let Some(course) = &mut self.course {
            course.give_up(&mut self.ground, out);
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<MotionEffect>) {
        if let Some(course) = &mut self.course {
            course.handle_timeout(&mut self.ground, now, out);
        }
        self.advance(now, out);
    }

    /// Whether a record names the node, or the change under way makes it.
    fn is_named(&self, node: NodeId) -> bool {
        let slots = self.ground.ring.slots().len();
        usize::from(node.0) < slots || self.joining().contains(&node)
    }

    fn start(&mut self, request: RequestId, intent: Intent, held: &[(NodeId, u64)]) -> Result<()> {
        if let Some(error) = &self.failure {
            return Err(error.as_read_only());
        }
        if self.course.is_some() || self.ground.ring.running().is_some() {
            let reason = "a change is under way already; wait for its end, or cancel it";
            return Err(Error::RingChangeRefused { reason });
        }
        let held = |node| {
            let found = held.iter().find(|(other, _)| *other == node);
            found.map_or(0, |(_, bytes)| *bytes)
        };
        let plan = Plan::new(&self.ground.ring, intent, &held)?;
        for flow in &plan.flows {
            if self.ground.down.contains(&flow.to) {
                return Err(Error::NodeDown { node: flow.to });
            }
            // What it has could be taken over from its tree and the journal.
            let is_lost = self.ground.down.contains(&flow.from);
            let can_be_read = !self.ground.unreadable.contains(&flow.from);
            if is_lost && !(can_be_read && self.ground.options.heal == Heal::TakeOver) {
                return Err(Error::NodeDown { node: flow.from });
            }
        }
        self.course = Some(Course::planned(Some(request), plan));
        Ok(())
    }

    /// Goes on until something has to be waited for.
    fn advance(&mut self, now: Time, out: &mut Vec<MotionEffect>) {
        loop {
            let Some(course) = &mut self.course else {
                self.course = self.take_over();
                match self.course {
                    Some(_) => continue,
                    None => return,
                }
            };
            match course.state() {
                State::Busy => return,
                State::Free => course.advance(&mut self.ground, now, out),
                State::Over => {
                    self.is_loss_accepted |= course.is_take_over_cancelled();
                    if !course.has_begun {
                        // Whoever gets their numbers is not down.
                        let joining = &course.joining;
                        self.ground.down.retain(|node| !joining.contains(node));
                    }
                    self.course = None;
                }
                State::Broken(error) => self.halt(error, out),
            }
        }
    }

    /// A change by which the others take over from nodes that are down, if there are some and nothing else is under way.
    fn take_over(&self) -> Option<Course> {
        let Ground {
            options,
            ring,
            down,
            unreadable,
            ..
        } = &self.ground;
        let is_idle = self.failure.is_none() && ring.running().is_none();
        if options.heal == Heal::Wait || !is_idle || self.is_loss_accepted {
            return None;
        }
        let is_lost = |node: &NodeId| down.contains(node) && !unreadable.contains(node);
        let lost: BTreeSet<NodeId> = ring.live().filter(is_lost).collect();
        if lost.is_empty() || ring.live().all(|node| down.contains(&node)) {
            return None;
        }
        // A ring that can't do without them stays as it is, and their keys answer that they are down.
        let plan = Plan::without(ring, &lost, unreadable).ok()?;
        Some(Course::planned(None, plan))
    }

    /// Nothing is written any more.
    fn halt(&mut self, error: Error, out: &mut Vec<MotionEffect>) {
        if let Some(course) = self.course.take() {
            course.halt(&self.ground, &error, out);
        }
        self.failure.get_or_insert(error);
    }
}

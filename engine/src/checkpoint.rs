//! The checkpointer's thinking: when frozen generations become sorted runs, and what the journal may forget.
//!
//! ```text
//!  Mark ─▶ journal ─▶ every node: Freeze(L) ─▶ Frozen(L)    ┐
//!            └──────▶ MarkReached(L): all up to L is visible ┴─▶ Write(L, nodes) ─▶ Written ─▶ Flushed(L) to each node
//!                                                              Save(manifest) ─▶ Saved ─▶ Release(lowest complete LSN)
//! ```
//!
//! Invariants:
//! - A run is written only when everything in it is visible: the tree never holds what a crash could take back.
//! - The journal releases an LSN only after a forced manifest says that every node's tree is complete past it.
//! - One checkpoint at a time; requests that arrive meanwhile share the next one.
//! - The nodes of a checkpoint are those that take part in the ring as of its mark, whoever has joined or left since.
//!
//! Nodes come and go between checkpoints. A node that has joined has nothing older than the LSN at which it came, so up to
//! there its tree is complete; one that is retired will never be read again, and keeps no journal. Which ones those are is
//! part of the catalogue of the mark, and so of the manifest that is saved before anything is released.
//!
//! Whoever copies arcs from node to node follows them in the journal, and holds it at the LSN that he has come to: nothing
//! above is released, however often a checkpoint ends or fails meanwhile, until he lets go. His copies go into trees
//! beside the runs of checkpoints, but it is one worker that ingests both, one after the other.
//!
//! A node that is recovering sits a checkpoint out: its complete LSN stays, and with it the journal it still needs. So
//! does one that was given up, whose answer nobody waits for.
//! A run or manifest that can't be written is tried again, so that a disk that was full clears without anybody's help.

use crate::{
    error::{Error, Result},
    ids::{Incarnation, Lsn, NodeId, RequestId},
    keyspaces::Keyspaces,
    outcomes::SavedOutcomes,
    ring_state::RingState,
};
use std::collections::BTreeMap;

/// Ticks to wait after a failure before the next attempt: half a second of a clock that ticks every 10 ms.
const RETRY_TICKS: u32 = 50;

/// What the journal's records up to a mark add up to, besides the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// The keyspaces.
    pub keyspaces: Keyspaces,
    /// The lives of the nodes, by node number.
    pub incarnations: Vec<Incarnation>,
    /// What became of transactions.
    pub outcomes: SavedOutcomes,
    /// The nodes, the ring, and a change that is under way.
    pub ring: RingState,
}

/// What arrives at the checkpointer.
#[derive(Debug, Clone)]
pub enum CheckpointMessage {
    /// From the clock: bytes in all active generations now.
    Tick {
        /// Weight of the generations that take writes.
        active_bytes: u64,
    },
    /// From a handle: make a checkpoint, compaction included, and answer.
    Request(RequestId),
    /// From a node: frozen at the mark, or not able to.
    Frozen {
        /// The node.
        node: NodeId,
        /// The mark.
        through: Lsn,
        /// Whether it has frozen.
        ready: bool,
    },
    /// From the supervisor: the node will not freeze any more. Whether it was told to, and died of it, it can't say. So too
    /// of a node that is retired, whose actor may have gone before it was told.
    NodeDown(NodeId),
    /// From the journal: everything up to the mark is visible.
    MarkReached(Lsn, Catalogue),
    /// From the worker: how each node's run went. A node that has restarted since the mark is left out.
    Written(Vec<(NodeId, Result<()>)>),
    /// From the worker: the manifest is forced, or not.
    Saved(Result<()>),
    /// From the worker: compaction is done as far as it was due.
    Maintained(Result<()>),
    /// From the mover: the journal keeps what is above this LSN, until it says otherwise; `None` lets go. What was
    /// released before can't be had back: whoever begins to copy holds first, and then chooses where to begin.
    Hold(Option<Lsn>),
}

/// What the checkpointer wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckpointEffect {
    /// Send to the journal.
    Mark,
    /// Have the worker write the generations frozen at the mark into these nodes' trees.
    Write {
        /// The mark.
        through: Lsn,
        /// The nodes.
        nodes: Vec<NodeId>,
        /// The keyspaces that existed at the mark; keys of others are left out.
        keyspaces: Keyspaces,
    },
    /// Tell a node that its tree is complete.
    Flushed(NodeId, Lsn),
    /// Have the worker save the manifest: the trees' complete LSNs by node number, and the catalogue at the mark.
    Save {
        /// By node number, one for every slot of the catalogue's ring. That of a retired node means nothing.
        complete: Vec<Lsn>,
        /// The mark.
        through: Lsn,
        /// What the journal knew at the mark.
        catalogue: Catalogue,
    },
    /// Let the journal forget everything up to here.
    Release(Lsn),
    /// Have the worker compact the trees as far as is due.
    Maintain,
    /// Answer a request with the LSN that is in the trees.
    Answer(RequestId, Result<Lsn>),
    /// A tree could not be written: reported, and tried again at the next checkpoint.
    Failed(NodeId, Error),
}

#[derive(Debug, Clone)]
enum Phase {
    Idle,
    Marked {
        frozen: BTreeMap<NodeId, bool>,
        reached: Option<(Lsn, Catalogue)>,
    },
    Writing {
        through: Lsn,
        catalogue: Catalogue,
    },
    /// The manifest will say that the trees are complete up to `lowest`.
    Saving {
        lowest: Lsn,
    },
    Maintaining {
        lowest: Lsn,
        outcome: Result<()>,
    },
}

/// The checkpointer's state machine.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    threshold_bytes: u64,
    complete: Vec<Lsn>,
    phase: Phase,
    serving: Vec<RequestId>,
    queued: Vec<RequestId>,
    failure: Option<Error>,
    /// Whether enough has accumulated for another checkpoint after the present one.
    due: bool,
    /// Compactions asked for and not reported yet.
    compacting: usize,
    /// Ticks until a checkpoint that failed is tried again; 0 after one that did not.
    retry_in: u32,
    /// What the last manifest that was saved lets go, and what was released of it.
    releasable: Lsn,
    released: Lsn,
    /// Nothing above is released.
    hold: Option<Lsn>,
}

impl Checkpoint {
    /// A checkpointer whose trees are complete up to `complete`, by node number; a checkpoint is due when active
    /// generations weigh `threshold_bytes`.
    #[must_use]
    pub fn new(threshold_bytes: u64, complete: Vec<Lsn>) -> Self {
        Self {
            threshold_bytes,
            complete,
            phase: Phase::Idle,
            serving: Vec::new(),
            queued: Vec::new(),
            failure: None,
            due: false,
            compacting: 0,
            retry_in: 0,
            releasable: Lsn(0),
            released: Lsn(0),
            hold: None,
        }
    }

    /// The trees' complete LSNs, by node number; of nodes that have joined, from their first mark on.
    #[must_use]
    pub fn complete(&self) -> &[Lsn] {
        &self.complete
    }

    /// Takes one message.
    pub fn handle(&mut self, message: CheckpointMessage, out: &mut Vec<CheckpointEffect>) {
        match message {
            CheckpointMessage::Tick { active_bytes } => {
                // What could not be written is not active any more, but keeps its memory: it is due whatever has come
                // since, though not at once. A full disk would be written on all the time.
                self.due = match self.retry_in {
                    0 => active_bytes >= self.threshold_bytes,
                    left => {
                        self.retry_in = left - 1;
                        left == 1
                    }
                };
                self.begin(out);
            }
            CheckpointMessage::Request(request) => {
                self.queued.push(request);
                self.begin(out);
            }
            CheckpointMessage::Frozen { node, ready, .. } => {
                if let Phase::Marked { frozen, .. } = &mut self.phase {
                    frozen.insert(node, ready);
                }
                self.write(out);
            }
            CheckpointMessage::NodeDown(node) => {
                if let Phase::Marked { frozen, .. } = &mut self.phase {
                    frozen.entry(node).or_insert(false);
                }
                self.write(out);
            }
            CheckpointMessage::MarkReached(lsn, catalogue) => {
                if let Phase::Marked { reached, .. } = &mut self.phase {
                    *reached = Some((lsn, catalogue));
                }
                self.write(out);
            }
            CheckpointMessage::Written(results) => self.written(results, out),
            CheckpointMessage::Saved(result) => self.saved(result, out),
            CheckpointMessage::Maintained(result) => self.maintained(result, out),
            CheckpointMessage::Hold(hold) => {
                self.hold = hold;
                if self.bounded() > self.released {
                    self.release(out);
                }
            }
        }
    }

    /// The engine turned read-only: marks are not reached any more.
    pub fn fail(&mut self, error: &Error, out: &mut Vec<CheckpointEffect>) {
        self.failure = Some(error.clone());
        if matches!(self.phase, Phase::Idle | Phase::Marked { .. }) {
            self.phase = Phase::Idle;
            self.queued.append(&mut self.serving);
        }
        for request in self.queued.drain(..) {
            out.push(CheckpointEffect::Answer(request, Err(error.as_read_only())));
        }
    }

    fn begin(&mut self, out: &mut Vec<CheckpointEffect>) {
        if !matches!(self.phase, Phase::Idle) || (!self.due && self.queued.is_empty()) {
            return;
        }
        if let Some(error) = &self.failure {
            for request in self.queued.drain(..) {
                out.push(CheckpointEffect::Answer(request, Err(error.as_read_only())));
            }
            return;
        }
        self.due = false;
        self.serving = std::mem::take(&mut self.queued);
        self.phase = Phase::Marked {
            frozen: BTreeMap::new(),
            reached: None,
        };
        out.push(CheckpointEffect::Mark);
    }

    fn write(&mut self, out: &mut Vec<CheckpointEffect>) {
        let Phase::Marked {
            frozen,
            reached: Some((through, catalogue)),
        } = &self.phase
        else {
            return;
        };
        let answers: Option<Vec<_>> = catalogue
            .ring
            .live()
            .map(|node| Some((node, *frozen.get(&node)?)))
            .collect();
        let Some(answers) = answers else {
            return;
        };
        let nodes = answers
            .into_iter()
            .filter_map(|(node, ready)| ready.then_some(node))
            .collect();
        let (through, catalogue) = (*through, catalogue.clone());
        let joined = catalogue.ring.slots().iter().skip(self.complete.len());
        self.complete.extend(joined.map(|slot| slot.since));
        out.push(CheckpointEffect::Write {
            through,
            nodes,
            keyspaces: catalogue.keyspaces.clone(),
        });
        self.phase = Phase::Writing { through, catalogue };
    }

    fn written(&mut self, results: Vec<(NodeId, Result<()>)>, out: &mut Vec<CheckpointEffect>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        let Phase::Writing { through, catalogue } = phase else {
            panic!("the worker wrote runs that nobody asked for");
        };
        let mut outcome = Ok(());
        for (node, result) in results {
            match result {
                Ok(()) => {
                    let complete = &mut self.complete[usize::from(node.0)];
                    *complete = through.max(*complete);
                    out.push(CheckpointEffect::Flushed(node, through));
                }
                Err(error) => {
                    out.push(CheckpointEffect::Failed(node, error.clone()));
                    outcome = Err(error);
                }
            }
        }
        self.retry_in = 0;
        if let Err(error) = outcome {
            self.retry_in = RETRY_TICKS;
            for request in self.serving.drain(..) {
                out.push(CheckpointEffect::Answer(request, Err(error.clone())));
            }
        }
        let live = catalogue.ring.live();
        let lowest = live.map(|node| self.complete[usize::from(node.0)]).min();
        let lowest = lowest.unwrap_or(through);
        self.phase = Phase::Saving { lowest };
        out.push(CheckpointEffect::Save {
            complete: self.complete.clone(),
            through,
            catalogue,
        });
    }

    fn saved(&mut self, result: Result<()>, out: &mut Vec<CheckpointEffect>) {
        let Phase::Saving { lowest } = self.phase else {
            panic!("the worker saved a manifest that nobody asked for");
        };
        if result.is_ok() {
            self.releasable = lowest;
            self.release(out);
        } else {
            self.retry_in = RETRY_TICKS;
        }
        self.compacting += 1;
        if self.serving.is_empty() {
            // Compaction goes on beside the next checkpoint: writes must not wait for it.
            self.phase = Phase::Idle;
            out.push(CheckpointEffect::Maintain);
            self.begin(out);
        } else {
            self.phase = Phase::Maintaining {
                lowest,
                outcome: result,
            };
            out.push(CheckpointEffect::Maintain);
        }
    }

    /// What the saved manifest and the hold let go.
    fn bounded(&self) -> Lsn {
        let hold = self.hold.unwrap_or(self.releasable);
        self.releasable.min(hold)
    }

    fn release(&mut self, out: &mut Vec<CheckpointEffect>) {
        let through = self.bounded();
        if through >= self.released {
            self.released = through;
            out.push(CheckpointEffect::Release(through));
        }
    }

    fn maintained(&mut self, result: Result<()>, out: &mut Vec<CheckpointEffect>) {
        self.compacting -= 1;
        if self.compacting > 0 {
            return;
        }
        let Phase::Maintaining { lowest, outcome } = &self.phase else {
            return;
        };
        // A node that sat out is behind the mark.
        let answer = outcome.clone().and(result).map(|()| *lowest);
        for request in self.serving.drain(..) {
            out.push(CheckpointEffect::Answer(request, answer.clone()));
        }
        self.phase = Phase::Idle;
        self.begin(out);
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;

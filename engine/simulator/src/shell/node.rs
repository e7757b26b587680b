//! The shell of a storage node, and the thread that rebuilds one.

use super::panicked;
use crate::{
    faults::Fault,
    mutation::{Mutation, Tampered},
    network::{Message, Party},
    report::Seen,
    world::{Wake, World},
};
use mailring_engine::{
    Error, Result,
    checkpoint::CheckpointMessage,
    coordinator::CoordinatorMessage,
    generation::Generation,
    ids::{Incarnation, Lsn, NodeId, RequestId},
    motion::MotionMessage,
    orphans::orphan_of_node,
    participant::{Answer, NodeEffect, NodeMessage, Participant},
    sequencer::JournalMessage,
};
use std::{collections::BTreeSet, sync::Arc};

/// The shell of a storage node.
pub(crate) struct NodeShell {
    pub(crate) machine: Participant,
    pub(crate) tampered: Tampered,
    /// What the new life will say once the supervisor lets it.
    held: Option<Vec<NodeEffect>>,
    replies: BTreeSet<u64>,
}

impl NodeShell {
    pub(crate) fn new(machine: Participant) -> Self {
        Self {
            machine,
            tampered: Tampered::default(),
            held: None,
            replies: BTreeSet::new(),
        }
    }
}

impl World {
    pub(crate) fn node_step(&mut self, number: u16, message: NodeMessage) {
        let dies = self.strikes(Fault::NodePanics);
        let handles = !dies || self.faults.dice().chance(2);
        let (again, is_telling) = (message.again(), message.tells_of_commits());
        let node = &mut self.process.nodes[usize::from(number)];
        if let NodeMessage::Request { id, .. } = &message {
            node.replies.insert(id.0);
        }
        let mut out = Vec::new();
        if handles {
            self.handle_node(number, message, &mut out);
        }
        if dies {
            self.carry_out_node_in_part(number, out);
            self.node_dies(number, again, is_telling);
        } else {
            self.carry_out_node(number, out);
        }
    }

    /// A panic among the effects drops those that are left.
    fn carry_out_node_in_part(&mut self, number: u16, mut effects: Vec<NodeEffect>) {
        self.drop_some(&mut effects);
        self.carry_out_node(number, effects);
    }

    /// The clock ticks a node only where it has asked for that.
    pub(crate) fn tick_node(&mut self, number: u16) {
        let machine = &self.process.nodes[usize::from(number)].machine;
        if !machine.is_guarded() && !machine.is_recovering() {
            return;
        }
        let now = self.now;
        let dies = self.strikes(Fault::NodePanics);
        let machine = &mut self.process.nodes[usize::from(number)].machine;
        let parked = machine.parked() as u64;
        let mut out = Vec::new();
        machine.handle_timeout(now, &mut out);
        self.count(Seen::Parked, parked);
        self.untamper(&mut out);
        if dies {
            self.carry_out_node_in_part(number, out);
            return self.node_dies(number, None, false);
        }
        let asks = |effect: &&NodeEffect| matches!(effect, NodeEffect::Journal(_));
        self.count(Seen::AskedInDoubt, out.iter().filter(asks).count() as u64);
        self.carry_out_node(number, out);
    }

    /// A handler has panicked: its effects are lost, and so is what the node was about to send to itself.
    fn node_dies(&mut self, number: u16, again: Option<NodeMessage>, is_telling: bool) {
        self.count(Seen::Restart, 1);
        let itself = Party::Node(number);
        self.process
            .network
            .clear(crate::network::Lane::new(itself, itself));
        if self.faults.strikes(Fault::OldLifeLate) && self.process.network.put_aside(itself) {
            self.struck(Fault::OldLifeLate);
            let steps = self.schedule.within(30..400);
            let at = self.scale.after(self.now, steps);
            self.wake_at(at, Wake::OldLife(number));
        }
        let node = &mut self.process.nodes[usize::from(number)];
        node.tampered = Tampered::default();
        let mut held = Vec::new();
        node.machine.restart(&mut held);
        node.held = Some(held);
        let lose = self.mutated(Mutation::LoseToldMessage);
        if let (Some(message), false) = (again, lose) {
            let dies_again = self.strikes(Fault::RestartPanics);
            let mut out = Vec::new();
            self.handle_node(number, message, &mut out);
            if dies_again {
                // Who dies of it twice does not come back.
                self.carry_out_node_in_part(number, out);
                self.send(itself, Party::Supervisor, Message::Broken(NodeId(number)));
            } else {
                self.carry_out_node(number, out);
            }
        }
        let node = &self.process.nodes[usize::from(number)];
        let owed = |id: &&u64| !node.machine.owes(RequestId(**id));
        let orphans: Vec<u64> = node.replies.iter().filter(owed).copied().collect();
        for id in orphans {
            let error = orphan_of_node(NodeId(number), is_telling);
            self.answer(number, id, Err(error));
        }
        self.send(itself, Party::Supervisor, Message::Panicked(NodeId(number)));
    }

    pub(crate) fn resume(&mut self, number: u16) {
        let held = self.process.nodes[usize::from(number)].held.take();
        let held = held.unwrap_or_default();
        if self.strikes(Fault::NodePanics) || self.strikes(Fault::RestartLoops) {
            self.carry_out_node_in_part(number, held);
            return self.node_dies(number, None, false);
        }
        self.carry_out_node(number, held);
    }

    fn answer(&mut self, node: u16, id: u64, result: Result<Answer>) {
        let is_owed = self.process.nodes[usize::from(node)].replies.remove(&id);
        assert!(is_owed, "op {id} was answered twice: {result:?}");
        self.answered(id, result);
    }

    pub(crate) fn carry_out_node(&mut self, number: u16, effects: Vec<NodeEffect>) {
        let (from, node) = (Party::Node(number), NodeId(number));
        for effect in effects {
            match effect {
                NodeEffect::Journal(message) => self.tell_journal(number, message),
                NodeEffect::Answer(id, result) => self.answer(number, id.0, result),
                NodeEffect::Votes(votes) => {
                    let message = Message::Coordinator(CoordinatorMessage::Votes(votes));
                    self.send(from, Party::Coordinator, message);
                }
                NodeEffect::ScheduleFlush => {
                    self.send(from, from, Message::Node(NodeMessage::Flush));
                }
                NodeEffect::Frozen { through, ready } => {
                    let message = CheckpointMessage::Frozen {
                        node,
                        through,
                        ready,
                    };
                    self.send(from, Party::Checkpointer, Message::Checkpoint(message));
                }
                NodeEffect::Rebuild {
                    incarnation,
                    after,
                    through,
                } => {
                    let message = Message::Rebuild(incarnation, after, through);
                    self.send(from, Party::Rebuilder(number), message);
                }
                NodeEffect::Broken(error) => {
                    // The disk may be dead; but all that a rebuild needs is in the journal.
                    let is_io = matches!(error, Error::Io { .. });
                    assert!(is_io, "node {node} can't be brought back: {error}");
                    self.send(from, Party::Supervisor, Message::Broken(node));
                }
                NodeEffect::HandedOver {
                    node,
                    change,
                    attempt,
                    incarnation,
                    through,
                } => {
                    let message = MotionMessage::HandedOver {
                        node,
                        change,
                        attempt,
                        incarnation,
                        through,
                    };
                    self.send(from, Party::Router, Message::Motion(message));
                }
                NodeEffect::Forgotten { node, change } => {
                    let message = MotionMessage::Forgotten { node, change };
                    self.send(from, Party::Router, Message::Motion(message));
                }
            }
        }
    }

    fn tell_journal(&mut self, number: u16, message: JournalMessage) {
        let from = Party::Node(number);
        match &message {
            JournalMessage::Append(_) if self.mutated_now(Mutation::RepeatAppend, 20) => {
                let again = Message::Journal(message.clone());
                self.send(from, Party::Journal, again);
            }
            JournalMessage::Asks(_) if self.mutated(Mutation::NeverAsk) => return,
            JournalMessage::Installed { .. } if self.mutated_now(Mutation::LoseInstalled, 20) => {
                return;
            }
            JournalMessage::Fence { incarnation, .. } if self.mutated(Mutation::FenceEarly) => {
                let message = NodeMessage::Fenced {
                    incarnation: *incarnation,
                    through: self.process.visible.load(),
                };
                self.send(Party::Journal, from, Message::Node(message));
            }
            _ => {}
        }
        self.send(from, Party::Journal, Message::Journal(message));
    }

    pub(crate) fn rebuild(
        &mut self,
        number: u16,
        incarnation: Incarnation,
        after: Lsn,
        through: Lsn,
    ) {
        let generation = Arc::new(Generation::new());
        let reader = self.journal_reader(NodeId(number));
        let result = match self.mutated(Mutation::SkipRebuild) {
            true => Ok(()),
            false => {
                let opened = &self.process.opened;
                opened.rebuild_node(&reader, NodeId(number), after, through, &generation)
            }
        };
        let result = match self.strikes(Fault::RebuildPanics) {
            true => Err(panicked()),
            false => result,
        };
        let message = NodeMessage::Rebuilt {
            incarnation,
            through,
            generation: result.map(|()| generation),
        };
        let (from, to) = (Party::Rebuilder(number), Party::Node(number));
        self.send(from, to, Message::Node(message));
    }
}

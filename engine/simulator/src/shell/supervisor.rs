//! The shell of the supervisor: the restart policy, back-off, and the end of who dies too often.

use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Message, Party},
    report::Seen,
    world::{Wake, World},
};
use mailring_engine::{
    checkpoint::CheckpointMessage, coordinator::CoordinatorMessage, ids::NodeId,
    motion::MotionMessage, participant::NodeMessage, restart::Verdict, sequencer::JournalMessage,
};

impl World {
    pub(crate) fn node_has_panicked(&mut self, node: NodeId) {
        let jitter = self.schedule.any();
        let restarts = &mut self.process.restarts[usize::from(node.0)];
        if restarts.is_down() {
            return;
        }
        let verdict = restarts.handle_panic(self.now, jitter);
        if self.strikes(Fault::SupervisorPanics) {
            // It panics again at the same report: nobody would bring the node back, so it is given up.
            return self.take_down(node);
        }
        match verdict {
            Verdict::Restart { at } => {
                self.wake_at(at, Wake::Resume(node.0));
                self.report(MotionMessage::NodeRestarted { node });
            }
            Verdict::Down => self.take_down(node),
        }
    }

    pub(crate) fn take_down(&mut self, node: NodeId) {
        self.count(Seen::Down, 1);
        self.process.restarts[usize::from(node.0)].give_up();
        self.process.tables[usize::from(node.0)].set_down();
        // Before the router hears of it: then all that the node has committed is below the change that takes over from it.
        let message = Message::Journal(JournalMessage::Down { node });
        self.send(Party::Supervisor, Party::Journal, message);
        let message = Message::Node(NodeMessage::GoDown);
        self.send(Party::Supervisor, Party::Node(node.0), message);
        let message = Message::Coordinator(CoordinatorMessage::NodeDown(node));
        self.send(Party::Supervisor, Party::Coordinator, message);
        if !self.mutated(Mutation::HideNodeDown) {
            let message = Message::Checkpoint(CheckpointMessage::NodeDown(node));
            self.send(Party::Supervisor, Party::Checkpointer, message);
        }
        self.report(MotionMessage::NodeDown { node });
    }

    fn report(&mut self, message: MotionMessage) {
        self.send(Party::Supervisor, Party::Router, Message::Motion(message));
    }
}

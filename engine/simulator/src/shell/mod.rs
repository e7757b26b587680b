//! Stand-ins for the actors and threads of the `mailring` crate, as thin as those: a message in, a machine that thinks,
//! effects out. What a panic does to each of them is what the real shell does.

mod checkpointer;
mod coordinator;
mod io;
mod journal;
mod key_locks;
mod locks;
mod mover;
mod node;
mod place;
mod router;
mod supervisor;

pub(crate) use coordinator::CoordinatorShell;
pub(crate) use key_locks::KeyLocks;
pub(crate) use locks::{LockBooks, LockShell, NAMES, Ticket};
pub(crate) use mover::MoverShell;
pub(crate) use node::NodeShell;
pub(crate) use router::RouterShell;

use crate::{
    network::{Message, Party},
    world::World,
};
use mailring_engine::Error;

/// What a thread answers for its panic.
fn panicked() -> Error {
    Error::Io {
        context: "a thread panicked".into(),
        kind: std::io::ErrorKind::Other,
        message: "as it was told to".into(),
    }
}

impl World {
    /// A panic among effects that are carried out drops those that are left, if any.
    fn drop_some<T>(&mut self, effects: &mut Vec<T>) {
        let kept = self.faults.dice().below(effects.len() + 1);
        effects.truncate(kept);
    }

    /// Hands a message to its receiver.
    pub(crate) fn receive(&mut self, to: Party, message: Message) {
        match (to, message) {
            (Party::Node(node), Message::Node(message)) => self.node_step(node, message),
            (Party::Node(node), Message::Resume) => self.resume(node),
            (Party::Rebuilder(node), Message::Rebuild(incarnation, after, through)) => {
                self.rebuild(node, incarnation, after, through);
            }
            (Party::Journal, Message::Journal(message)) => self.journal_step(message),
            (Party::Coordinator, Message::Coordinator(message)) => self.coordinator_step(message),
            (Party::Locks, Message::Locks(message)) => self.lock_step(message),
            (Party::Io(_), Message::Write(group)) => self.write_queued(group),
            (Party::Io(directory), Message::ForceNow) => self.force_now(directory),
            (Party::Io(directory), Message::AddSpare(outcome)) => {
                self.add_spare(directory, outcome);
            }
            (Party::Io(directory), Message::ReportSpare) => self.report_spare(directory),
            (Party::Io(directory), Message::Release(through)) => self.release(directory, through),
            (Party::Segments(directory), Message::Segment(at_least)) => {
                self.segment(directory, at_least);
            }
            (Party::Checkpointer, Message::Checkpoint(message)) => self.checkpoint_step(message),
            (Party::Checkpointer, Message::ReadOnly(error)) => self.checkpoint_fails(&error),
            (Party::Worker, Message::Job(job)) => self.work(job),
            (Party::Compactor, Message::Compact) => self.compact(),
            (Party::Compactor, Message::CompactUnasked) => self.compact_unasked(),
            (Party::Compactor, Message::Hide(id)) => self.hide(id),
            (Party::Supervisor, Message::Panicked(node)) => self.node_has_panicked(node),
            (Party::Supervisor, Message::Broken(node)) => self.take_down(node),
            (Party::Checkpointer, Message::Hold(task, through)) => self.hold(task, through),
            (Party::Checkpointer, Message::CheckpointFor(task, nodes)) => {
                self.checkpoint_for(task, nodes);
            }
            (Party::Router, Message::ChangeRing(intent, directory)) => {
                self.ring_is_to_change(intent, directory);
            }
            (Party::Router, Message::CancelChange) => self.change_is_to_be_cancelled(),
            (Party::Router, Message::Motion(message)) => self.motion_step(message),
            (Party::Router, Message::Publish(lsn, state)) => self.publish(lsn, state),
            (Party::Router, Message::Opened(task, opened)) => self.nodes_opened(task, opened),
            (Party::Mover, Message::OpenNodes(task, nodes, directory)) => {
                self.open_nodes(task, nodes, directory);
            }
            (Party::Mover, Message::Move(task, job)) => self.move_arcs(task, job),
            (Party::Mover, Message::MoveOn(task)) => self.mover_goes_on(task),
            (Party::Mover, Message::Ingested(result)) => self.mover_ingested(result),
            (Party::Mover, Message::Placed(result)) => self.mover_placed(result),
            (to, message) => unreachable!("{to:?} does not take {message:?}"),
        }
    }
}

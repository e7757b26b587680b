//! Stand-ins for the actors and threads of the `mailring` crate, as thin as those: a message in, a machine that thinks,
//! effects out. What a panic does to each of them is what the real shell does.

mod checkpointer;
mod coordinator;
mod io;
mod journal;
mod key_locks;
mod locks;
mod node;
mod supervisor;

pub(crate) use coordinator::CoordinatorShell;
pub(crate) use key_locks::KeyLocks;
pub(crate) use locks::{LockBooks, LockShell, NAMES, Ticket};
pub(crate) use node::NodeShell;

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
            (Party::Io, Message::Write(group)) => self.write_queued(group),
            (Party::Io, Message::ForceNow) => self.force_now(),
            (Party::Io, Message::AddSpare(outcome)) => self.add_spare(outcome),
            (Party::Io, Message::ReportSpare) => self.report_spare(),
            (Party::Io, Message::Release(through)) => self.release(through),
            (Party::Segments, Message::Segment(at_least)) => self.segment(at_least),
            (Party::Checkpointer, Message::Checkpoint(message)) => self.checkpoint_step(message),
            (Party::Checkpointer, Message::ReadOnly(error)) => self.checkpoint_fails(&error),
            (Party::Worker, Message::Job(job)) => self.work(job),
            (Party::Compactor, Message::Compact) => self.compact(),
            (Party::Compactor, Message::Hide(id)) => self.hide(id),
            (Party::Supervisor, Message::Panicked(node)) => self.node_has_panicked(node),
            (Party::Supervisor, Message::Broken(node)) => self.take_down(node),
            (to, message) => unreachable!("{to:?} does not take {message:?}"),
        }
    }
}

//! Single operations: counters, compare-and-set, registers, large values, values that expire.

use super::{Attempt, Job, Sent};
use crate::{
    faults::Fault,
    keys::{Keys, Kind},
    model::{Op, text},
    network::{Message, Party},
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error,
    ids::{Lsn, NodeId, RequestId, Time},
    participant::{NodeMessage, Operation},
    value::{Value, Write},
};

/// Requests that a node's mailbox takes.
const MAILBOX: usize = 64;

impl World {
    pub(super) fn send_single(&mut self, client: usize) {
        let id = self.next_number();
        let operation = self.draw_operation(id);
        let dice = &mut self.clients.dice;
        let patience = if dice.chance(10) { 20 } else { 2_000 };
        let deadline = self.scale.after(self.now, patience);
        self.send_operation(client, id, operation, deadline);
    }

    /// A client sees whether a node takes writes, if it owns one of the keys.
    pub(super) fn send_probe(&mut self, client: usize, node: NodeId) -> bool {
        let keys = std::sync::Arc::clone(&self.keys);
        let own = keys.all().iter();
        let mut own = own.filter(|key| self.routed(&key.bytes) == node);
        let key =
            own.find(|key| matches!(key.kind, Kind::Register | Kind::Session | Kind::Counter));
        let Some(key) = key else {
            return false;
        };
        let id = self.next_number();
        let write = Write {
            key: key.bytes.clone(),
            value: Some(text(id, 10)),
        };
        let operation = Operation::Write([write].into());
        let deadline = self.scale.after(self.now, 2_000);
        self.send_operation(client, id, operation, deadline);
        true
    }

    /// A write that was refused because its key has moved is to be sent where the newest routes lead by then.
    pub(super) fn route_again(&mut self, client: usize, id: u64, attempt: Attempt) {
        let operation = self.model.ops[&id].operation.clone();
        self.clients.all[client].routes_again = Some((id, operation, attempt.deadline));
    }

    pub(super) fn send_again(
        &mut self,
        client: usize,
        (id, operation, deadline): (u64, Operation, Time),
    ) {
        let mut owners = keys_of(&operation).map(|key| self.routed(key));
        let first = owners.next().expect("it writes something");
        let is_one = owners.all(|owner| owner == first);
        drop(owners);
        // What is on several nodes by now is a transaction, and another job.
        if is_one {
            self.send_operation(client, id, operation, deadline);
        }
    }

    pub(super) fn send_operation(
        &mut self,
        client: usize,
        id: u64,
        operation: Operation,
        deadline: Time,
    ) {
        let node = self.routed(keys_of(&operation).next().expect("it writes something"));
        self.trace.line(format_args!(
            "{:>6} client {client} wants {id}: {operation:?}",
            self.steps
        ));
        let sent = Sent {
            op: id,
            attempt: Attempt {
                job: Job::Single,
                earlier: 0,
                deadline,
                begun: self.now,
            },
            history: None,
            keys: None,
        };
        self.wait(client, sent);
        let message = NodeMessage::Request {
            id: RequestId(id),
            deadline,
            epoch: self.process.routes.epoch(),
            operation: operation.clone(),
        };
        let op = Op {
            node,
            operation,
            since: self.process.visible.load(),
            refused: false,
        };
        self.model.ops.insert(id, op);
        self.request_of_client(client, node, id, message);
    }

    /// Hands a request to a node, if its mailbox has room.
    pub(super) fn request_of_client(
        &mut self,
        client: usize,
        node: NodeId,
        id: u64,
        message: NodeMessage,
    ) {
        self.model.waiting.insert(id);
        let to = Party::Node(node.0);
        let is_full = self.process.network.waiting_for(to) >= MAILBOX;
        if is_full || self.strikes(Fault::MailboxFull) {
            let what = "the mailbox of a node";
            return self.answered(id, Err(Error::Overloaded { what }));
        }
        let from = Party::Client(client as u8);
        self.send(from, to, Message::Node(message));
    }

    fn draw_operation(&mut self, id: u64) -> Operation {
        let now_ms = self.now_ms();
        let keys = std::sync::Arc::clone(&self.keys);
        let draw = |world: &mut Self, kind| {
            let number = world.clients.dice.below(keys.of(kind).len());
            keys.at(kind, number)
        };
        let register = draw(self, Kind::Register);
        let key = register.bytes.clone();
        let padding = match self.clients.dice.below(60) {
            0 => 60_000,
            1..8 => 4_000,
            _ => 10,
        };
        let value = Some(text(id, padding));
        let write = |key: Bytes, value| Write { key, value };
        let drawn = self.clients.dice.below(16);
        if drawn == 12
            && let Some(space) = self.draw_space()
        {
            let all: Vec<_> = Keys::of_space(space.id()).collect();
            let key = all[self.clients.dice.below(all.len())].clone();
            return match self.clients.dice.chance(3) {
                true => self.compare_and_set(key, value, now_ms),
                false => Operation::Write([write(key, value)].into()),
            };
        }
        match drawn {
            0..5 => {
                let counter = draw(self, Kind::Counter);
                Operation::Add {
                    key: counter.bytes.clone(),
                    delta: i64::try_from(id).expect("small"),
                    now_ms,
                }
            }
            5..7 => self.compare_and_set(key, value, now_ms),
            7 => {
                // A counter of the same node is removed together with the register's write.
                let node = self.routed(&key);
                let counters = keys.of(Kind::Counter);
                let counters = counters.filter(|counter| self.routed(&counter.bytes) == node);
                let counter = counters
                    .map(|counter| write(counter.bytes.clone(), None))
                    .next();
                let writes = counter.into_iter().chain([write(key, value)]);
                Operation::Write(writes.collect())
            }
            8 if self.clients.dice.chance(6) => {
                let counter = draw(self, Kind::Counter);
                let writes = [write(counter.bytes.clone(), value)];
                Operation::Write(writes.into())
            }
            9..11 => {
                let session = draw(self, Kind::Session);
                let lives = self.clients.dice.within(1..400);
                let lives_ms = self.scale.steps(lives).as_millis() as u64 + 1;
                let value = value.map(|value| Value {
                    expires_at_ms: now_ms + lives_ms,
                    ..value
                });
                let key = session.bytes.clone();
                match self.clients.dice.chance(3) {
                    true => self.compare_and_set(key, value, now_ms),
                    false => Operation::Write([write(key, value)].into()),
                }
            }
            11 if self.clients.dice.chance(3) => Operation::Write([write(key, None)].into()),
            _ => Operation::Write([write(key, value)].into()),
        }
    }

    fn compare_and_set(&mut self, key: Bytes, new: Option<Value>, now_ms: u64) -> Operation {
        // The latest staged value is what has the best chance to match.
        let at = match self.clients.dice.chance(2) {
            true => Lsn(u64::MAX),
            false => self.process.visible.load(),
        };
        let expected = self.model.value(&key, at, now_ms);
        Operation::CompareAndSet {
            expected: expected.map(|value| value.bytes.clone()),
            key,
            new,
            now_ms,
        }
    }
}

/// The keys that an operation writes.
fn keys_of(operation: &Operation) -> Box<dyn Iterator<Item = &Bytes> + '_> {
    match operation {
        Operation::Write(writes) | Operation::Transact { writes, .. } => {
            Box::new(writes.iter().map(|write| &write.key))
        }
        Operation::Add { key, .. } | Operation::CompareAndSet { key, .. } => {
            Box::new(std::iter::once(key))
        }
    }
}

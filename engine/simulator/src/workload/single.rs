//! Single operations: counters, compare-and-set, registers, large values, values that expire.

use super::{Attempt, Job, Sent};
use crate::{
    faults::Fault,
    keys::Kind,
    model::{Op, text},
    network::{Message, Party},
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error,
    ids::{Lsn, NodeId, RequestId},
    participant::{NodeMessage, Operation},
    value::{Value, Write},
};

/// Requests that a node's mailbox takes.
const MAILBOX: usize = 64;

impl World {
    pub(super) fn send_single(&mut self, client: usize) {
        let id = self.next_number();
        let (node, operation) = self.draw_operation(id);
        let dice = &mut self.clients.dice;
        let patience = if dice.chance(10) { 20 } else { 2_000 };
        self.send_operation(client, id, node, operation, patience);
    }

    /// A client sees whether a node takes writes.
    pub(super) fn send_probe(&mut self, node: usize) {
        let id = self.next_number();
        let node = NodeId(node as u16);
        let keys = self.keys.all().iter();
        let mut own = keys.filter(|key| key.node == node);
        let key =
            own.find(|key| matches!(key.kind, Kind::Register | Kind::Session | Kind::Counter));
        let write = Write {
            key: key.expect("every node has some").bytes.clone(),
            value: Some(text(id, 10)),
        };
        let operation = Operation::Write([write].into());
        self.send_operation(usize::from(node.0), id, node, operation, 2_000);
    }

    fn send_operation(
        &mut self,
        client: usize,
        id: u64,
        node: NodeId,
        operation: Operation,
        patience: u64,
    ) {
        let deadline = self.scale.after(self.now, patience);
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
            epoch: self.process.sequencer.ring().epoch(),
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

    fn draw_operation(&mut self, id: u64) -> (NodeId, Operation) {
        let now_ms = self.now_ms();
        let keys = std::sync::Arc::clone(&self.keys);
        let draw = |world: &mut Self, kind| {
            let number = world.clients.dice.below(keys.of(kind).len());
            keys.at(kind, number)
        };
        let register = draw(self, Kind::Register);
        let (node, key) = (register.node, register.bytes.clone());
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
            let all: Vec<_> = keys.of_space(space.id()).collect();
            let (node, key) = all[self.clients.dice.below(all.len())].clone();
            let operation = match self.clients.dice.chance(3) {
                true => self.compare_and_set(key, value, now_ms),
                false => Operation::Write([write(key, value)].into()),
            };
            return (node, operation);
        }
        match drawn {
            0..5 => {
                let counter = draw(self, Kind::Counter);
                let operation = Operation::Add {
                    key: counter.bytes.clone(),
                    delta: i64::try_from(id).expect("small"),
                    now_ms,
                };
                (counter.node, operation)
            }
            5..7 => (node, self.compare_and_set(key, value, now_ms)),
            7 => {
                // A counter of the same node is removed together with the register's write.
                let counters = keys
                    .of(Kind::Counter)
                    .filter(|counter| counter.node == node);
                let counter = counters
                    .map(|counter| write(counter.bytes.clone(), None))
                    .next();
                let writes = counter.into_iter().chain([write(key, value)]);
                (node, Operation::Write(writes.collect()))
            }
            8 if self.clients.dice.chance(6) => {
                let counter = draw(self, Kind::Counter);
                let writes = [write(counter.bytes.clone(), value)];
                (counter.node, Operation::Write(writes.into()))
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
                let operation = match self.clients.dice.chance(3) {
                    true => self.compare_and_set(key, value, now_ms),
                    false => Operation::Write([write(key, value)].into()),
                };
                (session.node, operation)
            }
            11 if self.clients.dice.chance(3) => {
                (node, Operation::Write([write(key, None)].into()))
            }
            _ => (node, Operation::Write([write(key, value)].into())),
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

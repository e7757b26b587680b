//! Requests that wait: behind a transaction that is about to commit, or behind a key that is reserved for one.
//!
//! A request is parked if it would write what a prepared transaction has read, would chain on what one has staged, touches
//! a reserved key, or touches a key of a request that is parked already: requests for one key keep their order. When
//! what stood in the way is gone, all that is parked tries again in order.
//!
//! A reservation is for a transaction that was turned away by a chain of single-node commits: such a chain never ends on
//! a hot key. For a moment nothing new starts there, and the next attempt finds the key quiet. A reservation is not renewed
//! while it lasts, so single-node commits have their turn too. In turn, a parked request that waits for no reservation keeps
//! out transactions that would read its keys, or a stream of readers would never let it in.

use super::Operation;
use crate::{
    ids::{Epoch, RequestId, Time},
    transaction::ReadSet,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// A request on its way to be staged.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) deadline: Time,
    /// The version of the ring by which it was routed.
    pub(super) epoch: Epoch,
    pub(super) operation: Operation,
}

/// The keys that an operation writes.
pub(super) fn keys_of(operation: &Operation) -> impl Iterator<Item = &Bytes> {
    let (writes, key) = match operation {
        Operation::Write(writes) | Operation::Transact { writes, .. } => (&writes[..], None),
        Operation::Add { key, .. } | Operation::CompareAndSet { key, .. } => (&[][..], Some(key)),
    };
    writes.iter().map(|write| &write.key).chain(key)
}

/// What waits, and what it may wait for beside transactions.
#[derive(Debug, Default)]
pub(super) struct Parked {
    queue: VecDeque<Request>,
    /// How many parked requests touch each key.
    keys: BTreeMap<Bytes, usize>,
    reserved: BTreeMap<Bytes, Time>,
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.reserved.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter()
    }

    /// Whether the key is reserved, or a parked request touches it.
    pub(super) fn is_taken(&self, key: &Bytes) -> bool {
        self.keys.contains_key(key) || self.reserved.contains_key(key)
    }

    pub(super) fn park(&mut self, request: Request) {
        for key in keys_of(&request.operation) {
            *self.keys.entry(key.clone()).or_default() += 1;
        }
        self.queue.push_back(request);
    }

    /// Hands out everything, in order, to try again.
    pub(super) fn take_all(&mut self) -> VecDeque<Request> {
        self.keys.clear();
        std::mem::take(&mut self.queue)
    }

    /// Reserves a key, unless it is or there are `limit` already.
    pub(super) fn reserve(&mut self, key: &Bytes, until: Time, limit: usize) {
        if self.reserved.len() < limit && !self.reserved.contains_key(key) {
            self.reserved.insert(key.clone(), until);
        }
    }

    /// The key is held now, which is better than reserved. Whether it was.
    pub(super) fn unreserve(&mut self, key: &Bytes) -> bool {
        self.reserved.remove(key).is_some()
    }

    /// A key among these reads that a parked request writes, and for which it does not wait in favour of a transaction.
    pub(super) fn wanted_in(&self, reads: &ReadSet) -> Option<Bytes> {
        if self.keys.is_empty() {
            return None;
        }
        let mut by_name = reads.keys.iter();
        let wanted =
            by_name.find(|key| self.keys.contains_key(*key) && !self.reserved.contains_key(*key));
        let wanted = wanted.or_else(|| {
            let mut ranges = reads.ranges.iter();
            ranges.find_map(|range| {
                let parked = self.keys.range::<[u8], _>((range.low(), Bound::Unbounded));
                parked
                    .map(|(key, _)| key)
                    .take_while(|key| range.is_below_end(key))
                    .find(|key| !self.reserved.contains_key(*key))
            })
        });
        wanted.cloned()
    }

    /// Ends what is over; whether something was.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let before = self.reserved.len();
        self.reserved.retain(|_, until| *until > now);
        let is_late = self.queue.iter().any(|request| request.deadline <= now);
        is_late || self.reserved.len() < before
    }

    pub(super) fn end_reservations(&mut self) {
        self.reserved.clear();
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        let deadlines = self.queue.iter().map(|request| request.deadline);
        deadlines.chain(self.reserved.values().copied()).min()
    }
}
